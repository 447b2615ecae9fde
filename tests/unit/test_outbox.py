from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import Any

import pytest

from dropfolder import Crash, DropFolder
from fetchd.digests import Digest
from fetchd.events import FolderFailed
from fetchd.folder.outbox import FILED_TOGETHER, SHORT_LIST
from fetchd.folder.reports import MOST_FAILURES
from fetchd.model import (
    Dossier,
    FileView,
    RunState,
    TaskCounts,
    TaskState,
    Validator,
    Verify,
)


def file(path: str, state: TaskState = TaskState.SUCCEEDED, **fields) -> FileView:
    values: dict[str, Any] = {
        "task": 1,
        "group": "g",
        "path": path,
        "state": state,
        "detail": "downloaded",
        "reason": "",
        "url": f"https://one.example/{path}",
        "final_url": f"https://cdn.example/{path}",
        "size_bytes": 12,
        "verified": Verify.DIGEST,
        "digests": (Digest("sha256", "0" * 64),),
        "validator": Validator(etag='"v1"', last_modified="Mon, 23 Nov 2026 20:00:00 GMT"),
        "attempts": 1,
        "resumed_from_bytes": 0,
        "elapsed_s": 1.23456,
    }
    return FileView(**(values | fields))


def failed(path: str, **fields) -> FileView:
    values: dict[str, Any] = {
        "detail": "bad_status",
        "reason": f"https://me:pw@one.example/{path}?sig=abc answered 404",
        "url": f"https://one.example/{path}?sig=abc",
        "final_url": "",
        "size_bytes": None,
        "verified": None,
        "digests": (),
        "validator": None,
        "attempts": 2,
        "elapsed_s": None,
        "causes": ((0, "bad_status", "404"), (1, "connect_failed", "refused")),
    }
    return file(path, TaskState.FAILED, **(values | fields))


@pytest.fixture
def drop(tmp_path):
    made = DropFolder(tmp_path)
    made.drop("x.yaml")
    made.turn()
    return made


def lines(drop, name: str = "x") -> list[dict]:
    text = (drop.jobs / "reports" / f"{name}.files.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------- what the reports say


def test_the_report_of_a_running_job_says_how_far_it_is_and_what_it_waits_for(drop):
    drop.engine.change(
        "x",
        tasks=TaskCounts(ready=3, running=2, succeeded=5),
        bytes=1234,
        list_open=True,
        waiting={"retry": 3},
        next_due_at_s=1_700_000_030.0,
    )

    drop.turns()

    report = drop.report("x")
    assert report.pop("revision")
    assert report == {
        "job": "x",
        "run": 1,
        "file": "x.yaml",
        "state": "running",
        "scheduled_for": None,
        "accepted_at": "2023-11-14T22:13:20.000Z",
        "started_at": "2023-11-14T22:13:21.500Z",
        "finished_at": None,
        "tasks": {
            "total": 10,
            "ready": 3,
            "running": 2,
            "publishing": 0,
            "succeeded": 5,
            "failed": 0,
            "skipped": 0,
            "cancelled": 0,
        },
        "bytes": 1234,
        "list_open": True,
        "waiting": {"retry": 3},
        "next_due": "2023-11-14T22:13:50.000Z",
        "failures": [],
    }


def test_the_report_of_an_ended_job_has_its_failures_without_secrets(drop):
    drop.engine.end("x", RunState.FAILED, [file("a"), failed("b")])

    drop.turns()

    report = drop.report("x")
    assert (report["state"], report["finished_at"]) == ("failed", "2023-11-14T22:14:20.250Z")
    assert (report["tasks"]["succeeded"], report["tasks"]["failed"]) == (1, 1)
    assert "waiting" not in report
    (failure,) = report["failures"]
    assert failure == {
        "path": "b",
        "code": "bad_status",
        "reason": "https://one.example/b?... answered 404",
        "url": "https://one.example/b?...",
        "attempts": 2,
        "causes": [
            {"source": 1, "code": "bad_status", "reason": "404"},
            {"source": 2, "code": "connect_failed", "reason": "refused"},
        ],
        "dossier": None,
    }


def test_every_file_has_a_line_of_its_own(drop):
    drop.engine.end("x", RunState.FAILED, [file("a/b.iso", resumed_from_bytes=7), failed("c")])

    drop.turns()

    first, second = lines(drop)
    assert first == {
        "path": "a/b.iso",
        "group": "g",
        "state": "succeeded",
        "detail": "downloaded",
        "reason": "",
        "size_bytes": 12,
        "digests": ["sha256:" + "0" * 64],
        "verified": "digest",
        "url": "https://one.example/a/b.iso",
        "final_url": "https://cdn.example/a/b.iso",
        "etag": '"v1"',
        "last_modified": "Mon, 23 Nov 2026 20:00:00 GMT",
        "attempts": 1,
        "resumed_from_bytes": 7,
        "elapsed_s": 1.235,
        "causes": [],
        "dossier": None,
        "staged": None,
    }
    assert (second["state"], second["detail"], second["etag"]) == ("failed", "bad_status", None)
    whole = (drop.jobs / "reports" / "x.files.jsonl").read_text()
    assert "sig=" not in whole
    assert "pw@" not in whole


def test_n20_what_was_refused_is_shown_in_both_reports_without_secrets(drop):
    dossier = Dossier(
        url="https://me:pw@one.example/b?sig=abc",
        final_url="https://login.example/?next=secret#x",
        expected=("sha256:" + "1" * 64, "size 5..9", "hex:cafe@3"),
        content_type="application/octet-stream; token=abc\x1b[2J",
        size_bytes=7,
        digests=(Digest("sha256", "0" * 64),),
        start="PK\\x03 https://a.example/?key=abc",
        quarantine=os.fsdecode(b"caf\xe9/.fetchd/quarantine/abc"),
    )
    drop.engine.end("x", RunState.FAILED, [failed("b", dossier=dossier)])

    drop.turns()

    (line,) = lines(drop)
    (failure,) = drop.report("x")["failures"]
    assert line["dossier"] == failure["dossier"]
    shown = dict(failure["dossier"])
    assert "\x1b" not in shown.pop("content_type")
    assert shown == {
        "url": "https://one.example/b?...",
        "final_url": "https://login.example/?...",
        "expected": ["sha256:" + "1" * 64, "size 5..9", "hex:cafe@3"],
        "size_bytes": 7,
        "digests": ["sha256:" + "0" * 64],
        "start": "PK\\x03 https://a.example/?...",
        "quarantine": "caf\\xe9/.fetchd/quarantine/abc",
    }


def test_names_that_are_not_utf8_are_escaped_and_a_line_stays_a_line(drop):
    drop.engine.end("x", files=[file(os.fsdecode(b"caf\xe9")), file("two\nlines")])

    drop.turns()

    assert [line["path"] for line in lines(drop)] == ["caf\\xe9", "two\nlines"]


def test_only_the_first_hundred_failures_stand_in_the_report_but_all_in_the_lines(drop):
    files = [failed(str(number)) for number in range(MOST_FAILURES + 50)]

    drop.engine.end("x", RunState.FAILED, files)
    drop.turns()

    assert len(drop.report("x")["failures"]) == MOST_FAILURES
    assert len(lines(drop)) == MOST_FAILURES + 50


def test_a_run_without_files_has_an_empty_list_of_them(drop):
    drop.engine.end("x")

    drop.turns()

    assert lines(drop) == []


# ---------------------------------------------------------------- how often


def test_a_running_report_is_written_at_most_once_a_second(drop):
    path = drop.jobs / "reports" / "x.json"
    inodes = set()

    for number in range(30):
        drop.engine.change("x", bytes=number)
        wait_s = drop.turn(after_s=0.1)
        inodes.add((path.stat().st_ino, path.stat().st_mtime_ns))

    assert len(inodes) == 1 + 3
    assert 0 < wait_s <= 1.0


def test_a_report_that_would_say_the_same_is_not_written(drop):
    path = drop.jobs / "reports" / "x.json"
    drop.turns()
    before = path.stat()

    drop.turns(5)

    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_idle_folder_wants_no_turn_before_its_rescan(drop):
    drop.engine.end("x")
    drop.turns()

    assert drop.turn() == pytest.approx(30.0)


def test_with_thousands_of_ended_files_nobody_looks_into_their_folders(drop):
    drop.engine.end("x")
    drop.turns()
    looked = []
    entries = drop.folder._places.entries

    def looking(place):
        looked.append(place.value)
        return entries(place)

    drop.folder._places.entries = looking

    drop.drop("y.yaml")
    drop.turns()
    drop.engine.end("y")
    drop.turns()

    assert set(looked) == {""}


# ---------------------------------------------------------------- where the job file goes


@pytest.mark.parametrize(
    ("state", "place"),
    [
        (RunState.SUCCEEDED, "done"),
        (RunState.PARTIAL, "failed"),
        (RunState.FAILED, "failed"),
        (RunState.CANCELLED, "failed"),
    ],
)
def test_the_job_file_goes_where_its_run_ended(drop, state, place):
    drop.engine.end("x", state)

    drop.turns()

    assert drop.names(place) == ["x.yaml"]
    assert drop.names("active") == []
    assert drop.engine.runs[1].filed
    assert drop.folder.idle()


def test_nothing_in_done_is_overwritten(drop):
    for number in range(4):
        drop.engine.end("x")
        drop.turns()
        drop.drop("x.yaml", f"url: {number}\n")
        drop.turn()

    names = drop.names("done")
    assert len(names) == 4
    assert len({(drop.jobs / "done" / name).read_text() for name in names}) == 4
    assert "x.yaml" in names


def test_the_end_of_a_run_without_a_job_file_is_shown_too(drop):
    drop.engine.change("x", file="")

    drop.engine.end("x")
    drop.turns()

    assert drop.report("x")["state"] == "succeeded"
    assert drop.engine.runs[1].filed


def test_a_job_file_that_somebody_removed_does_not_hold_up_the_end(drop):
    (drop.jobs / "active" / "x.yaml").unlink()

    drop.engine.end("x")
    drop.turns()

    assert drop.engine.runs[1].filed
    assert drop.folder.idle()


def test_many_runs_that_end_together_are_all_filed(drop):
    count = FILED_TOGETHER + 10
    for number in range(count):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    drop.turn()
    for number in range(count):
        drop.engine.end(str(number))

    drop.turns(6)

    assert len(drop.names("done")) == count
    assert drop.engine.unfiled_runs() == []


# ---------------------------------------------------------------- order and crashes


@pytest.mark.parametrize("place", ["outbox.reported", "outbox.moved"])
def test_a_crash_while_the_end_is_shown_is_repeated_to_the_same_result(drop, place):
    drop.restart(crash_at=place)
    drop.engine.end("x", RunState.FAILED, [failed("a")])
    with pytest.raises(Crash):
        drop.turns()
    reported = sorted(drop.names("reports"))
    moved = drop.names("failed")

    drop.restart()
    drop.turns()

    assert reported == ["x.files.jsonl", "x.json"]
    assert moved == ([] if place == "outbox.reported" else ["x.yaml"])
    assert drop.names("failed") == ["x.yaml"]
    assert drop.names("active") == []
    assert drop.engine.runs[1].filed
    assert drop.report("x")["state"] == "failed"


def test_each_step_of_the_end_is_durable_before_the_next(drop):
    drop.system.durable.clear()
    drop.engine.record = lambda changes: drop.system.durable.append("filed")

    drop.engine.end("x")
    drop.turn()

    assert drop.system.durable == [
        "sync .writing",
        ".writing -> reports/x.files.jsonl",
        "sync .writing",
        ".writing -> reports/x.json",
        "sync reports",
        "x.yaml -> done/x.yaml",
        "sync active",
        "sync done",
        "sync failed",
        "filed",
    ]


def test_no_job_file_moves_before_its_reports_are_durable(drop):
    drop.system.faults["fsync"] = (errno.EIO, "")
    drop.engine.end("x")

    drop.turns(12)
    stuck = drop.names("active"), drop.engine.runs[1].filed, drop.folder.idle()
    told = drop.told(FolderFailed)
    drop.system.faults.clear()
    drop.turns(6)

    assert stuck == (["x.yaml"], False, False)
    assert [(event.file, event.error) for event in told] == [("x.yaml", "Input/output error")]
    assert drop.names("done") == ["x.yaml"]


@pytest.mark.parametrize(
    ("call", "where", "count"),
    [
        ("rename_new", "done/", 1),
        ("write", "", 1),
        ("rename", "x.json", 1),
        ("open", ".writing", 1),
        ("open", ".writing-steps", SHORT_LIST + 1),
    ],
    ids=["F18-done-full", "F18-reports-full", "F18-rename", "F18-open", "F18-open-long"],
)
def test_an_end_that_cannot_be_shown_is_told_once_and_shown_later(drop, call, where, count):
    drop.system.faults[call] = (errno.ENOSPC, where)
    drop.engine.end("x", files=[file(str(number)) for number in range(count)])

    drop.turns(12)
    stuck = drop.engine.runs[1].filed, drop.folder.idle()
    told = [event.error for event in drop.told(FolderFailed)]
    drop.system.faults.clear()
    drop.turns(6)

    assert stuck == (False, False)
    assert told == ["No space left on device"]
    assert drop.names("done") == ["x.yaml"]
    assert drop.report("x")["state"] == "succeeded"
    assert drop.folder.idle()


def test_the_trouble_of_one_run_does_not_hold_up_another(drop):
    drop.drop("y.yaml", "url: y\n")
    drop.turn()
    drop.system.faults["rename"] = (errno.EIO, "x.json")
    drop.engine.end("x")
    drop.engine.end("y")

    drop.turns(12)

    assert drop.names("done") == ["y.yaml"]
    assert drop.names("active") == ["x.yaml"]


def test_a_report_that_cannot_be_written_while_running_is_told_once(drop):
    drop.system.faults["write"] = (errno.ENOSPC, "")

    for number in range(5):
        drop.engine.change("x", bytes=number)
        drop.turn(after_s=1)

    assert len(drop.told(FolderFailed)) == 1


def test_a_long_list_of_files_is_written_in_slices_and_the_inbox_gets_its_turn(drop):
    drop.engine.end("x", files=[file(str(number)) for number in range(3000)])
    ticks = iter(float(n) / 20 for n in range(100_000))
    drop.clock.monotonic = ticks.__next__

    drop.turn()
    half = drop.names("done"), (drop.jobs / "reports" / ".writing-steps").exists()
    drop.drop("y.yaml", "url: y\n")
    drop.turn()
    between = drop.accepted()
    for _ in range(20):
        drop.turn()

    assert half == ([], True)
    assert between == ["x.yaml", "y.yaml"]
    assert len(lines(drop)) == 3000
    assert drop.names("done") == ["x.yaml"]


def test_a_short_end_is_shown_while_a_long_list_is_being_written(drop):
    drop.engine.end("x", files=[file(str(number)) for number in range(9000)])
    ticks = iter(float(n) / 20 for n in range(100_000))
    drop.clock.monotonic = ticks.__next__
    drop.turn()
    drop.drop("y.yaml", "url: y\n")
    drop.turn()

    drop.engine.end("y", files=[file("y")])
    for _ in range(4):
        drop.turn()
    between = drop.names("done"), (drop.jobs / "reports" / ".writing-steps").exists()
    for _ in range(60):
        drop.turn()

    assert between == (["y.yaml"], True)
    assert len(lines(drop)) == 9000
    assert drop.names("done") == ["x.yaml", "y.yaml"]


def test_a_retry_while_the_end_is_being_shown_leaves_the_job_file_in_active(drop):
    drop.engine.end("x", RunState.FAILED, [failed(str(number)) for number in range(3000)])
    ticks = iter(float(n) / 20 for n in range(100_000))
    drop.clock.monotonic = ticks.__next__
    drop.turn()

    (drop.jobs / "x.retry").touch()
    for _ in range(20):
        drop.turn()
    while_on = drop.names("active"), drop.engine.runs[1].filed, drop.report("x")["state"]
    drop.engine.end("x")
    for _ in range(40):
        drop.turn()

    assert while_on == (["x.yaml"], False, "running")
    assert drop.names("done") == ["x.yaml"]


def test_a_run_that_the_store_has_not_recorded_as_ended_yet_keeps_the_folder_from_idleness(drop):
    ended = replace(drop.engine.runs[1], state=RunState.SUCCEEDED)
    recorded = drop.engine.runs[1]
    drop.engine.runs[1] = ended
    drop.engine.unfiled_runs = list
    drop.engine.run_view = lambda run: recorded

    drop.turns()
    in_between = drop.folder.idle()
    del drop.engine.unfiled_runs, drop.engine.run_view
    drop.turns()

    assert not in_between
    assert drop.engine.runs[1].filed
    assert drop.folder.idle()
