from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropfolder import Crash, DropFolder, DumbObserver, read_job
from fetchd import jobfile
from fetchd.config import Settings
from fetchd.errors import ConfigError, DocumentError
from fetchd.events import CommandObeyed, FileIgnored, FolderFailed, JobRejected, WatchChanged
from fetchd.folder.inbox import LATE_S
from fetchd.folder.kinds import Kind, kind_of
from fetchd.folder.masking import masked
from fetchd.folder.places import error_name
from fetchd.model import Cancel, Pause, Resume, Retry, RunState
from fetchd.threads import Worker

JOB = "url: https://example.org/a\ndest: here\nchecksum: sha256:00\n"


@pytest.fixture
def drop(tmp_path):
    return DropFolder(tmp_path)


# ---------------------------------------------------------------- the way in


def test_f02_a_renamed_file_is_accepted_in_the_same_turn_and_stands_in_active(drop):
    drop.drop("x.yaml", JOB)

    drop.turn()

    (submitted,) = drop.engine.submitted
    assert (submitted.job.name, submitted.file, submitted.raw) == ("x", "x.yaml", JOB.encode())
    assert drop.names() == []
    assert drop.names("active") == ["x.yaml"]


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".urls"])
def test_every_kind_of_job_file_is_accepted(drop, suffix):
    drop.drop(f"x{suffix}", JOB)

    drop.turn()

    assert drop.accepted() == [f"x{suffix}"]


def test_f01_no_byte_prefix_of_a_file_that_is_being_written_ever_runs(drop):
    path = drop.jobs / "slow.yaml"

    with path.open("wb", buffering=0) as file:
        for byte in JOB.encode():
            file.write(bytes([byte]))
            drop.turn(after_s=0.1)
        before_the_close = drop.engine.asked
    drop.turn()

    assert before_the_close == 0
    (submitted,) = drop.engine.submitted
    assert submitted.raw == JOB.encode()


REALISTIC = """\
version: 1
description: nightly images
priority: high
vars: { series: 24.04 }
base: https://releases.example.org/${series}/
dest: images
retry: { attempts: 8, delay: 2s, max_delay: 5m }
tasks:
  iso:
    url: u-amd64.iso
    filename: amd64/u.iso
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    size: 1MiB..7GiB
  index: { url: packages.json, verify: length }
  notes:
    urls:
      - a.txt first.txt
      - b.txt second.txt
"""


def test_f01_no_byte_prefix_of_a_realistic_job_ever_runs_though_many_are_right(tmp_path):
    read = lambda data, file: jobfile.load(data, file, SETTINGS)  # noqa: E731
    drop = DropFolder(tmp_path, read_job=read)
    data = REALISTIC.encode()
    would_run = 0
    with (drop.jobs / "slow.yaml").open("wb", buffering=0) as file:
        for end in range(len(data)):
            file.write(data[end : end + 1])
            drop.turn(after_s=0.1)
            with contextlib.suppress(DocumentError):
                read(data[: end + 1], "slow.yaml")
                would_run += end + 1 < len(data)
    while_open = drop.engine.asked, drop.told(JobRejected)
    drop.turn()

    assert would_run > 20  # parsing proves nothing
    assert while_open == (0, [])
    assert [command.raw for command in drop.engine.submitted] == [data]


def test_a_file_that_is_not_ready_arranges_its_own_next_look(drop):
    with (drop.jobs / "slow.yaml").open("w") as file:
        file.write("url: ")
        file.flush()

        wait_s = drop.turn()

    assert 0 < wait_s < 0.11


def test_f16_where_leases_prove_nothing_a_file_is_taken_after_two_seconds_unchanged(drop):
    drop.turn()
    drop.folder._watch.deaf = True
    path = drop.drop("x.yaml", JOB)

    first_wait_s = drop.turn()
    drop.turn(after_s=1.5)
    path.write_text(JOB + "more: y\n")
    drop.turn(after_s=1.0)
    too_early = drop.accepted()
    drop.turn(after_s=2.0)

    assert first_wait_s == pytest.approx(2.0)
    assert too_early == []
    assert drop.accepted() == ["x.yaml"]


def test_files_are_accepted_in_the_order_in_which_they_were_written(drop):
    for number, name in enumerate(["c.yaml", "a.yaml", "b.yaml"]):
        os.utime(drop.drop(name, f"url: {name}\n"), (1000 + number, 1000 + number))

    drop.turn()

    assert drop.accepted() == ["c.yaml", "a.yaml", "b.yaml"]


def test_f13_a_burst_is_worked_off_in_slices_and_nothing_is_left(drop):
    drop.clock.monotonic = iter(float(n) / 20 for n in range(100_000)).__next__
    for number in range(40):
        drop.drop(f"{number}.yaml", f"url: {number}\n")

    drop.turn()
    first = len(drop.accepted())
    waits = [drop.folder.turn(lambda: None) for _ in range(20)]

    assert 0 < first < 40
    assert waits[0] == 0
    assert len(drop.accepted()) == 40


def test_the_turn_of_a_slow_burst_beats_for_every_file(drop):
    for number in range(5):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    beats = []

    drop.folder.turn(lambda: beats.append(1))

    assert len(beats) >= 5


def flooded(tmp_path, count):
    """A folder whose every look at the clock takes a twentieth of a second, and a flood in it."""
    drop = DropFolder(tmp_path)
    drop.clock.monotonic = iter(float(n) / 20 for n in range(1_000_000)).__next__  # type: ignore[method-assign]
    drop.turn()
    for number in range(count):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    drop.turn()
    return drop


def test_f13_a_single_file_does_not_wait_for_the_flood_before_it(tmp_path):
    drop = flooded(tmp_path, 200)
    before = len(drop.accepted())

    drop.drop("single.yaml")
    for _ in range(4):
        drop.turn()

    assert before < 20
    assert "single.yaml" in drop.accepted()
    assert len(drop.accepted()) < 60


def test_f13_newcomers_without_end_do_not_keep_the_older_ones_waiting(tmp_path):
    drop = flooded(tmp_path, 40)
    for turn in range(80):
        for number in range(4):
            drop.drop(f"new-{turn}-{number}.yaml", f"url: {turn}\nid: {number}\n")
        drop.turn()

    assert {f"{number}.yaml" for number in range(40)} <= set(drop.accepted())


def test_a_file_that_is_written_while_it_waits_for_its_turn_is_not_forgotten(tmp_path):
    drop = DropFolder(tmp_path, read_job=lambda data, file: slowly(data, file))

    def slowly(data, file):
        drop.clock.advance(0.3)
        return read_job(data, file)

    for name in "abc":
        os.utime(drop.drop(f"{name}.yaml", f"url: {name}\n"), (1000, 1000))
    late = drop.jobs / "late.yaml"
    late.touch()
    drop.turn()
    late.write_text(JOB)

    drop.turn()  # the hint of the writing is used up while the file still waits as it was
    before = drop.accepted()
    drop.folder.turn(lambda: None)

    assert before == ["a.yaml", "b.yaml", "c.yaml"]
    assert drop.accepted() == [*before, "late.yaml"]


def test_f13_files_are_accepted_together_with_shared_commits(drop):
    submit, sizes = drop.engine.submit, []

    def counted(submissions):
        sizes.append(len(submissions))
        return submit(submissions)

    drop.engine.submit = counted
    for number in range(100):
        drop.drop(f"{number}.yaml", f"url: {number}\n")

    drop.turn()

    assert sizes == [64, 36]
    assert len(drop.accepted()) == 100
    assert len(drop.names("active")) == 100


def test_one_that_the_engine_stumbles_over_does_not_take_the_others_with_it(drop):  # P10-together
    submit, obey = drop.engine.submit, drop.engine.obey
    poisoned = lambda command: "b.yaml" in command.file  # noqa: E731

    def stumbling(submissions):
        if any(map(poisoned, submissions)):
            raise ValueError("nobody foresaw this")
        return submit(submissions)

    def stumbling_alone(command):
        if poisoned(command):
            raise ValueError("nobody foresaw this")
        return obey(command)

    drop.engine.submit = stumbling
    drop.engine.obey = stumbling_alone
    for name in "abc":
        drop.drop(f"{name}.yaml", f"url: {name}\n")

    drop.turns(12)

    assert drop.accepted() == ["a.yaml", "c.yaml"]
    assert drop.names() == ["b.yaml"]
    (failed,) = drop.told(FolderFailed)
    assert (failed.file, "nobody foresaw" in failed.error) == ("b.yaml", True)


def test_two_files_of_one_job_that_come_together_run_one_after_the_other(drop):
    drop.drop("a.yaml", "name: x\none: 1\n")
    drop.drop("b.yaml", "name: x\ntwo: 2\n")

    drop.turns()
    while_on = drop.accepted()
    drop.engine.end("x")
    drop.turns()

    assert while_on == ["a.yaml"]
    assert drop.accepted() == ["a.yaml", "b.yaml"]


def test_a_cancel_behind_its_job_in_a_flood_finds_it(tmp_path):
    drop = flooded(tmp_path, 60)
    drop.drop("late.yaml", "name: late\n")
    os.utime(drop.jobs / "late.yaml", (2_000_000_000, 2_000_000_000))  # the last of all
    (drop.jobs / "late.cancel").touch()
    (drop.jobs / "nobody.cancel").touch()

    for _ in range(60):
        drop.turn()

    answers = {event.job: event.done for event in drop.told(CommandObeyed)}
    assert answers == {"late": True, "nobody": False}


@pytest.mark.parametrize("behind", [0, 20], ids=["at the end of a pass", "amid a pass"])
def test_a_cancel_behind_its_job_that_arrives_during_a_pass_finds_it(tmp_path, behind):
    drop = DropFolder(tmp_path, read_job=lambda data, file: slowly(data, file))

    def slowly(data, file):
        drop.clock.advance(0.3)
        return read_job(data, file)

    for number in range(3 + behind):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    drop.turn()
    drop.drop("x.yaml")
    (drop.jobs / "x.cancel").touch()
    (drop.jobs / "nobody.cancel").touch()

    for _ in range(3 + behind):
        drop.turn()

    answers = {event.job: event.done for event in drop.told(CommandObeyed)}
    assert answers == {"x": True, "nobody": False}
    assert drop.names() == []


@pytest.mark.parametrize("crash_at", ["folder.accepted", "folder.moved"])
def test_a_crash_amid_files_that_were_accepted_together_loses_and_repeats_none(drop, crash_at):
    drop.restart(crash_at=crash_at)
    for number in range(10):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    with pytest.raises(Crash):
        drop.turn()
    left = drop.names()

    drop.restart()
    drop.turns()

    assert len(left) >= 9
    assert sorted(drop.accepted()) == [f"{number}.yaml" for number in range(10)]
    assert drop.names() == []
    assert len(drop.names("active")) == 10


# ---------------------------------------------------------------- what is ignored


@pytest.mark.parametrize(
    "name",
    [
        ".x.yaml",
        "_x.yaml",
        "#x.yaml",
        "x.yaml~",
        "x.tmp",
        "x.part",
        ".x.swp",
        "x.bak",
        "x.yaml.tmp",
    ],
    ids=lambda name: f"F02-{name}",
)
def test_names_of_unfinished_files_are_never_looked_at(drop, name):
    drop.drop(name, JOB)

    drop.turns()
    drop.turn(after_s=LATE_S)

    assert drop.engine.asked == 0
    assert drop.told(FileIgnored) == []
    assert drop.folder.idle()


def test_the_daemons_own_folders_are_not_job_files():
    assert {kind_of(name) for name in ("active", "done", "failed", "reports")} == {Kind.IGNORED}


def _symlink(path, elsewhere):
    (elsewhere / "good").write_text(JOB)
    path.symlink_to(elsewhere / "good")


def _symlink_to_passwd(path, _):
    path.symlink_to("/etc/passwd")


def _socket(path, _):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _device(path, _):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_symlink, "symbolic link"),
        (_symlink_to_passwd, "symbolic link"),
        (lambda path, _: os.mkfifo(path), "pipe"),
        (_socket, "socket"),
        (_device, "device"),
        (lambda path, _: path.mkdir(), "folder"),
    ],
    ids=[
        "F09-link-to-job",
        "F09-link-to-passwd",
        "F09-fifo",
        "F09-socket",
        "F09-device",
        "F09-directory",
    ],
)
def test_what_is_no_regular_file_is_told_once_and_left_alone(drop, make, word):
    make(drop.jobs / "x.yaml", drop.elsewhere)

    drop.turns()

    (ignored,) = drop.told(FileIgnored)
    assert ignored.file == "x.yaml"
    assert word in ignored.reason
    assert drop.engine.asked == 0
    assert drop.names() == ["x.yaml"]
    assert drop.folder.idle()


def test_f09_a_link_that_takes_a_files_place_before_it_is_opened_is_not_followed(drop):
    drop.drop("x.yaml", JOB)
    drop.system.faults["open"] = (errno.ELOOP, "x.yaml")

    drop.turn()

    assert drop.engine.asked == 0
    assert drop.told(FolderFailed)[0].file == "x.yaml"


@pytest.mark.parametrize("name", ["notes.txt", "x.HOLD", "x.yaml.filepart", "README"])
def test_an_unknown_name_is_told_once_it_has_stood_for_a_minute(drop, name):
    drop.drop(name, JOB)

    wait_s = drop.turn()
    early = drop.told(FileIgnored)
    drop.turns()
    drop.turn(after_s=LATE_S)
    drop.turn(after_s=LATE_S)

    assert wait_s <= LATE_S
    assert early == []
    (ignored,) = drop.told(FileIgnored)
    assert ".yaml" in ignored.reason
    assert drop.folder.idle()


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("FOO.YAML", "FOO.yaml"),
        ("a.CANCEL", "a.cancel"),
        ("x.PAUSE", "x.pause"),
        ("b.Urls", "b.urls"),
    ],
)
def test_an_ending_in_the_wrong_case_is_told_soon_with_the_name_to_use(drop, name, right):
    drop.drop(name, JOB)

    wait_s = drop.turn()
    drop.turn(after_s=2)
    drop.turn(after_s=LATE_S)

    assert wait_s <= 2
    (ignored,) = drop.told(FileIgnored)
    assert ignored.file == name
    assert ignored.reason.endswith(f"rename it to {right}")
    assert drop.names() == [name]


def test_a_subfolder_is_told_of_because_what_lies_in_it_is_not_read(drop):
    (drop.jobs / "weekly").mkdir()

    drop.turns()

    (ignored,) = drop.told(FileIgnored)
    assert "without a _defaults.yaml" in ignored.reason


def test_f03_an_empty_file_is_not_ready_and_told_after_a_minute(drop):
    path = drop.jobs / "x.yaml"
    path.touch()

    drop.turns()
    early = drop.told(FileIgnored)
    idle = drop.folder.idle()
    drop.turn(after_s=LATE_S)
    path.write_text(JOB)
    drop.turn()

    assert early == []
    assert idle
    assert [event.reason for event in drop.told(FileIgnored)] == ["is empty"]
    assert drop.accepted() == ["x.yaml"]


def test_a_file_that_stays_open_for_writing_is_told_after_a_minute(drop):
    with (drop.jobs / "x.yaml").open("w") as file:
        file.write(JOB)
        file.flush()
        drop.turn()
        drop.turn(after_s=LATE_S)

    (ignored,) = drop.told(FileIgnored)
    assert "open for writing" in ignored.reason


def test_with_require_end_marker_a_file_without_it_waits(tmp_path):
    drop = DropFolder(tmp_path, require_end_marker=True)
    drop.drop("x.yaml", JOB)
    drop.drop("list.urls", "https://example.org/a\n")
    drop.drop("j.json", "{}")

    drop.turns()
    early = drop.accepted()
    idle = drop.folder.idle()
    drop.turn(after_s=LATE_S)
    drop.drop("x.yaml", JOB + "...\n")
    drop.turn()

    assert sorted(early) == ["j.json", "list.urls"]
    assert not idle  # of the two that are running, not of the one that waits
    assert "end_marker" in drop.told(FileIgnored)[0].reason
    assert "x.yaml" in drop.accepted()


# ---------------------------------------------------------------- what is rejected


def test_a_bad_file_is_put_aside_with_every_error_and_the_others_go_on(drop):
    drop.drop("typo.yaml", "url: x\nbad: y\n")
    drop.drop("good.yaml", JOB)

    drop.turn()

    assert drop.names("failed") == ["typo.yaml"]
    assert drop.accepted() == ["good.yaml"]
    text = drop.error("typo.yaml")
    assert text.splitlines()[:3] == ["typo.yaml:2:1: bad is not good", "    bad: y", "    ^"]
    assert "nor is this" in text
    (rejected,) = drop.told(JobRejected)
    assert (rejected.file, rejected.reason, rejected.problems) == (
        "typo.yaml",
        "typo.yaml:2:1: bad is not good",
        2,
    )


SECRETS = "kate:hun/ter h@nter"


@pytest.mark.parametrize(
    "line",
    [
        f"url: http://{SECRETS}@example.org/x",
        "url: ftp://kate:hun@nter@example.org/x?key=hunter,hunter",
        "url: kate:hunter@example.org/x",
        "url: x.iso?key=hunter",
        'headers: { Authorization: "Bearer hunter" }',
        "headers: { X-Api-Key: hunter }",
        '{"url": "http:\\/\\/kate:hunter@example.org"}',
    ],
)
def test_no_report_repeats_a_password_of_a_job_file(tmp_path, line):
    drop = DropFolder(tmp_path, read_job=lambda data, file: jobfile.load(data, file, Settings()))
    drop.drop("x.yaml", f"{line}\n{line}\n")

    drop.turns()

    assert drop.names("failed") == ["x.yaml"]
    text = drop.error("x.yaml")
    (rejected,) = drop.told(JobRejected)
    for shown in (text, rejected.reason):
        assert not any(word in shown for word in ("kate", "hun", "nter"))
    assert "***" in text


def test_the_caret_below_a_line_with_stars_points_at_its_place(tmp_path):
    drop = DropFolder(tmp_path, read_job=lambda data, file: jobfile.load(data, file, Settings()))
    drop.drop("x.yaml", "tasks: { a: { url: http://me:pass@h/x?a=b, colour: red } }\n")

    drop.turn()

    lines = drop.error("x.yaml").splitlines()
    shown = next(n for n, line in enumerate(lines) if "colour: unknown" in line) + 1
    assert lines[shown] == "    tasks: { a: { url: http://*******@h/x?***, colour: red } }"
    assert lines[shown + 1].index("^") == lines[shown].index("colour")


def test_a_file_that_is_one_long_line_is_masked_at_once():
    began_s = time.monotonic()

    assert len(masked("//a:?x=token-" * 400_000)) < 10_000

    assert time.monotonic() - began_s < 1


def test_the_error_text_goes_when_the_file_is_accepted_at_last(drop):
    drop.drop("x.yaml", "bad")
    drop.turn()
    rejected = drop.names("reports")

    drop.drop("x.yaml", JOB)
    drop.turn()

    assert rejected == ["x.yaml.error.txt"]
    assert drop.names("reports") == ["x.json"]


def test_a_reader_that_breaks_rejects_the_file_and_hurts_nothing_else(drop):
    drop.drop("a.yaml", "crash")
    drop.drop("b.yaml", JOB)

    drop.turns()

    assert drop.accepted() == ["b.yaml"]
    assert "the reader is broken" in drop.error("a.yaml")


def test_a_refusal_of_the_engine_rejects_the_file_with_its_reason(drop):
    drop.engine.refuse = "root 'nas' is not configured"
    drop.drop("x.yaml", JOB)

    drop.turn()

    assert drop.error("x.yaml") == "x.yaml: root 'nas' is not configured\n"
    assert drop.names("failed") == ["x.yaml"]


@pytest.mark.parametrize("size_bytes", [1001, 10 * 2**30], ids=["F03-one-more", "F03-sparse"])
def test_a_file_above_the_cap_is_rejected_unread(drop, size_bytes):
    path = drop.drop("x.yaml", "")
    with path.open("ab") as file:
        file.truncate(size_bytes)
    drop.system.faults["read"] = (errno.EIO, "")

    drop.turn()

    assert "intake.max_job_bytes" in drop.error("x.yaml")
    assert drop.names("failed") == ["x.yaml"]


def test_a_file_of_exactly_the_cap_and_a_long_list_are_accepted(drop):
    drop.drop("x.yaml", "# " + "x" * 998)
    drop.drop("long.urls", "https://example.org/a\n" * 1000)

    drop.turn()

    assert sorted(drop.accepted()) == ["long.urls", "x.yaml"]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        pytest.param(b"", "has NUL bytes", id="F06-disk-image"),
        pytest.param("https://example.org/a\n".encode("utf-16"), "has NUL bytes", id="F06-utf16"),
        pytest.param(b"x" * 70_000, "has no line end in its first 64 KiB", id="F06-one-line"),
    ],
)
def test_what_is_no_list_is_rejected_before_all_of_it_is_read(drop, head, found):
    path = drop.drop("x.urls", head)
    os.truncate(path, 300 * 2**20)
    read, sizes = drop.system.read, []

    def counted(fd, buffer, offset, /):
        sizes.append(read(fd, buffer, offset))
        return sizes[-1]

    drop.system.read = counted

    drop.turn()

    assert drop.error("x.urls").startswith(f"x.urls: the file {found}; a list is UTF-8 text")
    assert drop.names("failed") == ["x.urls"]
    assert drop.accepted() == []
    assert sum(sizes) < 2**20


@pytest.mark.parametrize("name", ["x.meta4", "x.metalink"])
@pytest.mark.parametrize(
    ("head", "why"),
    [
        pytest.param(b"", "is not well-formed XML", id="F06-disk-image"),
        pytest.param(b"<?xml version='1.0'?>\n<!DOCTYPE a []>", "a document type", id="F06-bomb"),
        pytest.param(b"<html><body>", "begins with <html>", id="F06-page"),
    ],
)
def test_what_is_no_metalink_is_rejected_before_all_of_it_is_read(drop, name, head, why):
    path = drop.drop(name, head)
    os.truncate(path, 300 * 2**20)
    read, sizes = drop.system.read, []

    def counted(fd, buffer, offset, /):
        sizes.append(read(fd, buffer, offset))
        return sizes[-1]

    drop.system.read = counted

    drop.turn()

    assert drop.error(name).startswith(f"{name}: ")
    assert why in drop.error(name)
    assert drop.names("failed") == [name]
    assert drop.accepted() == []
    assert sum(sizes) < 2**20


@pytest.mark.parametrize("name", ["x.meta4", "x.metalink"])
def test_a_metalink_is_claimed_as_a_list_is(drop, name):
    drop.drop(name, '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a"/></metalink>')

    drop.turn()

    assert drop.accepted() == [name]
    assert drop.names("active") == [name]


@pytest.mark.parametrize("size_bytes", [2, 64 * 1024])
def test_a_list_of_one_line_without_line_end_is_accepted(drop, size_bytes):
    drop.drop("x.urls", b"x" * size_bytes)

    drop.turn()

    assert drop.accepted() == ["x.urls"]


def test_a_long_list_beats_while_it_is_hashed(drop):
    drop.drop("x.urls", b"https://example.org/a\n" * 200_000)
    beats = []

    class Counted(Worker):
        def beat(self, within_s=None):
            beats.append(within_s)

    worker = Counted("folder", lambda _: drop.turn() and None, drop.clock, lambda *_: None)
    worker.start()

    assert worker.join(30)
    assert drop.accepted() == ["x.urls"]
    assert len(beats) >= 10


SETTINGS = Settings()
BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*a, *a]\n" for n in range(20))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BOMB, id="F04-alias-bomb"),
        pytest.param("a: &a {x: 1}\nb: {<<: *a}\n", id="F04-merge"),
        pytest.param("a: &a [*a]\n", id="F04-recursive"),
        pytest.param("[" * 900, id="F04-deep"),
        pytest.param("url: x\nurl: y\n", id="F05-duplicate"),
        pytest.param("ulr: http://e.example/x\n", id="F05-unknown"),
        pytest.param("url: {a: b}\n", id="F05-type"),
        pytest.param("tasks:\n\ta: b\n", id="F06-tab"),
        pytest.param("url: http://e.example/ä\n".encode("latin-1"), id="F06-latin1"),
        pytest.param("url: http://e.example/a\n".encode("utf-16"), id="F06-utf16"),
        pytest.param(b"url: \x00\n", id="F06-nul"),
        pytest.param(bytes(range(1, 256)), id="F06-binary"),
        pytest.param("!!python/object:os.system {}\n", id="F07-tag"),
        pytest.param("url: http://e.example/a\n---\nurl: http://e.example/b\n", id="F07-two"),
        pytest.param("just words\n", id="F07-scalar"),
        pytest.param("- a\n- b\n", id="F07-list"),
        pytest.param("# nothing\n", id="F07-empty"),
        pytest.param("version: 010\nurl: http://e.example/a\n", id="F08-octal"),
        pytest.param("url: http://e.example/a\nsize: 1e3\n", id="F08-float"),
        pytest.param("url: http://e.example/a\nname: yes no\n", id="F08-words"),
    ],
)
def test_what_the_reader_refuses_ends_in_failed_with_its_reason(tmp_path, data):
    drop = DropFolder(tmp_path, read_job=lambda raw, file: jobfile.load(raw, file, SETTINGS))
    drop.drop("x.yaml", data)
    drop.drop("good.yaml", "\ufeffurl: http://e.example/good\n")  # F06-bom

    drop.turn()

    assert drop.accepted() == ["good.yaml"]
    assert drop.names("failed") == ["x.yaml"]
    assert drop.error("x.yaml").startswith("x.yaml")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BOMB.encode(), id="F04-alias-bomb"),
        pytest.param(b"a: &a {x: 1}\n" + b"b: {<<: [*a, *a]}\n" * 12, id="F04-merge-bomb"),
        pytest.param(b"a: &a [*a]\n", id="F04-recursive"),
        pytest.param(b"[" * 30_000, id="F04-deep"),
        pytest.param(b"{a: " * 30_000, id="F04-deep-mappings"),
        pytest.param(b"- " * 30_000, id="F04-deep-lists"),
    ],
)
def test_a_bomb_is_refused_before_it_burns_anything(data):
    took_s = []
    for _ in range(3):
        began_s = time.thread_time()
        with pytest.raises(DocumentError):
            jobfile.load(data, "x.yaml", SETTINGS)
        took_s.append(time.thread_time() - began_s)

    assert min(took_s) < 0.05


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["n" * 250 + ".yaml", "two\nlines.yaml", os.fsdecode(b"caf\xe9.yaml")],
    ids=["F17-255-bytes", "F17-newline", "F17-not-utf8"],
)
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_strange_names_go_the_same_way_as_others(drop, name, good):
    drop.drop(name, "name: plain\n" if good else "bad")
    (drop.jobs / "failed" / name).touch()
    (drop.jobs / "done" / name).touch()

    drop.turn()
    if good:
        drop.engine.end("plain")
        drop.turns()

    target = "done" if good else "failed"
    assert drop.names() == drop.names("active") == []
    assert len(drop.names(target)) == 2
    assert all(len(os.fsencode(n)) <= 255 for n in drop.names(target))
    errors = [n for n in drop.names("reports") if n.endswith(".error.txt")]
    assert len(errors) == (0 if good else 1)


def test_long_names_with_the_same_beginning_keep_reports_of_their_own(drop):
    drop.drop("n" * 249 + "1.yaml", "bad")
    drop.drop("n" * 249 + "2.yaml", "bad")

    drop.turn()

    assert len(drop.names("reports")) == 2


NAMES = st.binary(min_size=1, max_size=255).filter(lambda raw: not {0, 47} & set(raw))


@settings(derandomize=True, max_examples=100)
@given(NAMES, NAMES)
def test_the_name_of_an_error_text_always_fits_and_is_the_files_own(one, other):
    names = [error_name(os.fsdecode(raw)) for raw in (one, other)]

    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert all(name.endswith(".error.txt") for name in names)
    assert (names[0] == names[1]) == (one == other)


def test_nothing_in_failed_is_ever_overwritten(drop):
    for number in range(4):
        drop.drop("x.yaml", f"bad {number}")
        drop.turn()

    names = drop.names("failed")
    texts = {(drop.jobs / "failed" / name).read_text() for name in names}
    assert len(names) == 4
    assert texts == {f"bad {number}" for number in range(4)}
    assert names[0].startswith("x.20")
    assert "x.yaml" in names


# ---------------------------------------------------------------- same names


def test_f12_another_file_of_the_same_name_waits_until_the_first_has_ended(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    drop.drop("x.yaml", JOB + "more: y\n")
    drop.turns()
    while_on = drop.accepted()
    drop.engine.end("x")

    drop.turns()

    assert while_on == ["x.yaml"]
    assert drop.accepted() == ["x.yaml", "x.yaml"]
    assert drop.names("done") == ["x.yaml"]
    assert drop.names("active") == ["x.yaml"]


def test_f12_the_same_content_twice_makes_two_runs_one_after_the_other(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    drop.drop("x.yaml", JOB)
    drop.turns()
    drop.engine.end("x")
    drop.turns()
    drop.engine.end("x")
    drop.turns()

    assert len(drop.engine.submitted) == 2
    assert len(drop.names("done")) == 2
    assert drop.folder.idle()


def test_who_waited_for_the_end_of_a_run_is_asked_at_once(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    drop.drop("x.yaml", JOB + "more: y\n")
    drop.turn()
    drop.engine.end("x")

    drop.clock.advance(1.0)
    wait_s = drop.folder.turn(lambda: None)  # no hint: the outbox has its own time
    drop.folder.turn(lambda: None)

    assert wait_s == 0
    assert drop.accepted() == ["x.yaml", "x.yaml"]


def test_a_second_file_with_the_name_of_a_running_job_waits_without_being_read_again(drop):
    drop.drop("a.yaml", "name: x\none: 1\n")
    drop.turn()
    drop.drop("b.yaml", "name: x\ntwo: 2\n")
    drop.turn()
    asked = drop.engine.asked

    drop.turns(10)
    waited = drop.engine.asked, drop.names()
    drop.engine.end("x")
    drop.turns()

    assert waited == (asked, ["b.yaml"])
    assert drop.accepted() == ["a.yaml", "b.yaml"]


def test_a_copy_of_a_running_job_under_another_name_waits_too(drop):
    drop.drop("a.yaml", "name: x\n")
    drop.turn()
    drop.drop("b.yaml", "name: x\n")
    drop.turns()
    while_on = drop.names(), drop.names("active")
    drop.engine.end("x")
    drop.turns()

    assert while_on == (["b.yaml"], ["a.yaml"])
    assert drop.accepted() == ["a.yaml", "b.yaml"]


def test_the_folder_is_not_idle_while_a_file_waits_or_a_run_is_on(drop):
    drop.drop("x.yaml", JOB)
    before = drop.folder.idle()
    drop.turn()
    while_on = drop.folder.idle()
    drop.engine.end("x")
    ended = drop.folder.idle()
    drop.turns()

    assert (before, while_on, ended, drop.folder.idle()) == (False, False, False, True)


def test_a_hint_ends_the_idleness_until_the_next_turn(drop):
    drop.turn()
    before = drop.folder.idle()

    drop.folder.hint()

    assert before
    assert not drop.folder.idle()


# ---------------------------------------------------------------- changed under our hands


def test_f11_a_file_that_changes_while_it_is_read_is_read_again(drop):
    path = drop.drop("x.yaml", JOB)
    drop.system.before["read returns"] = lambda: path.write_text("name: x\nlonger\n" + JOB)

    drop.turn()
    first = drop.accepted()
    drop.turn(after_s=0.1)

    assert first == []
    assert drop.engine.submitted[0].raw == ("name: x\nlonger\n" + JOB).encode()


def test_f11_a_file_that_is_replaced_after_it_was_accepted_is_a_new_drop(drop):
    drop.drop("x.yaml", JOB)
    drop.system.before["rename_new"] = lambda: drop.drop("x.yaml", "name: x\nnewer: 1\n")

    drop.turn()
    put_back = drop.names(), drop.names("active")
    drop.turns()
    waits = drop.accepted()
    drop.engine.end("x")
    drop.turns()

    assert put_back == (["x.yaml"], [])
    assert waits == ["x.yaml"]
    assert [c.raw for c in drop.engine.submitted] == [JOB.encode(), b"name: x\nnewer: 1\n"]
    assert drop.names("active") == ["x.yaml"]


def test_f11_a_file_that_is_deleted_after_it_was_accepted_runs_all_the_same(drop):
    path = drop.drop("x.yaml", JOB)
    drop.system.before["rename_new"] = path.unlink

    drop.turn()
    drop.engine.end("x")
    drop.turns()

    assert drop.accepted() == ["x.yaml"]
    assert drop.report("x")["state"] == "succeeded"
    assert drop.folder.idle()


def test_f11_a_file_that_is_renamed_before_it_is_ready_is_taken_under_its_new_name(drop):
    with (drop.jobs / "x.yaml").open("w") as file:
        file.write(JOB)
        file.flush()
        drop.turn()
        (drop.jobs / "x.yaml").rename(drop.jobs / "y.yaml")
    drop.turn()

    assert drop.accepted() == ["y.yaml"]


def _edit(path):
    path.write_text("name: x\nnewer: 1\n")


def _rename(path):
    path.rename(path.with_name("y.yaml"))


@pytest.mark.parametrize("change", [_edit, _rename, os.unlink], ids=["edit", "rename", "delete"])
@pytest.mark.parametrize("place", ["active", "done"], ids=["F11-active", "F11-done"])
def test_what_is_done_to_a_file_after_it_was_accepted_changes_nothing(drop, place, change):
    drop.drop("x.yaml", JOB)
    drop.turn()
    if place == "active":
        change(drop.jobs / "active" / "x.yaml")
    drop.turns()
    drop.engine.end("x")
    drop.turns()
    if place == "done":
        change(drop.jobs / "done" / "x.yaml")
    drop.turns()
    if change is not _rename:  # under a new name in active/, a new start takes it for a lost one
        drop.restart()
    drop.turns()

    assert [command.raw for command in drop.engine.submitted] == [JOB.encode()]
    assert drop.report("x")["state"] == "succeeded"
    assert drop.told(FolderFailed) == []


@pytest.mark.parametrize(
    ("change", "left"),
    [(_edit, b"name: x\nnewer: 1\n"), (_rename, JOB.encode()), (os.unlink, None)],
    ids=["F11-dropped-edit", "F11-dropped-rename", "F11-dropped-delete"],
)
def test_what_is_done_to_a_file_that_waits_for_its_turn_is_what_counts(drop, change, left):
    drop.drop("first.yaml", "name: x\n")
    drop.turn()
    drop.drop("x.yaml", JOB)
    drop.turns()
    change(drop.jobs / "x.yaml")
    drop.turns()
    drop.engine.end("x")
    drop.turns()

    assert [command.raw for command in drop.engine.submitted[1:]] == ([left] if left else [])
    assert drop.told(FolderFailed) == []


def test_f11_a_file_that_vanishes_before_it_is_read_is_no_trouble(drop):
    path = drop.drop("x.yaml", JOB)
    stat_of = drop.folder._places.stat

    def vanishing(place, name):
        path.unlink(missing_ok=True)
        return stat_of(place, name)

    drop.folder._places.stat = vanishing
    drop.turns()

    assert drop.told(FolderFailed) == []
    assert drop.folder.idle()


def test_f10_a_hard_link_is_a_file_like_any_other(drop):
    (drop.elsewhere / "mine.yaml").write_text(JOB)
    os.link(drop.elsewhere / "mine.yaml", drop.jobs / "x.yaml")

    drop.turn()

    assert drop.accepted() == ["x.yaml"]
    assert (drop.elsewhere / "mine.yaml").exists()


# ---------------------------------------------------------------- trouble


def test_f10_an_unreadable_file_is_told_once_and_tried_again(drop):
    drop.drop("x.yaml", JOB)
    drop.drop("y.yaml", JOB)
    drop.system.faults["open"] = (errno.EACCES, "x.yaml")

    drop.turns(10)
    told, accepted, idle = drop.told(FolderFailed), drop.accepted(), drop.folder.idle()
    drop.system.faults.clear()
    drop.turn(after_s=10)

    assert [(event.file, event.error) for event in told] == [("x.yaml", "Permission denied")]
    assert (accepted, idle) == (["y.yaml"], False)
    assert drop.accepted() == ["y.yaml", "x.yaml"]


def test_c10_a_file_for_which_memory_is_short_is_told_once_and_tried_again(tmp_path):
    short = [MemoryError()]

    def read(data, file):
        if short:
            raise short.pop()
        return jobfile.load(data, file, SETTINGS)

    drop = DropFolder(tmp_path, read_job=read)
    drop.drop("x.yaml", "url: https://example.org/a\n")

    drop.turn()
    drop.turn(after_s=10)

    (told,) = drop.told(FolderFailed)
    assert (told.file, told.error) == ("x.yaml", "MemoryError: ")
    assert drop.told(JobRejected) == []
    assert drop.accepted() == ["x.yaml"]


def test_f18_an_accepted_file_that_cannot_be_moved_is_not_run_twice(drop):
    drop.drop("x.yaml", JOB)
    drop.system.faults["rename_new"] = (errno.ENOSPC, "active/")

    drop.turns(12)
    drop.engine.end("x")
    drop.turns(12)
    stuck = drop.names(), len(drop.told(FolderFailed)), drop.folder.idle()
    drop.system.faults.clear()
    drop.turns(12)

    assert stuck == (["x.yaml"], 1, False)
    assert drop.accepted() == ["x.yaml"]
    assert drop.names("done") == ["x.yaml"]
    assert drop.folder.idle()


def test_f18_a_rejected_file_that_cannot_be_moved_stays_and_is_told_once(drop):
    drop.drop("x.yaml", "bad")
    drop.system.faults["rename_new"] = (errno.ENOSPC, "failed/")

    drop.turns(12)
    stuck = drop.names(), len(drop.told(FolderFailed)), drop.told(JobRejected)
    drop.system.faults.clear()
    drop.turns(6)

    assert stuck == (["x.yaml"], 1, [])
    assert drop.names("failed") == ["x.yaml"]
    assert len(drop.told(JobRejected)) == 1


def test_f18_a_subfolder_that_vanishes_is_made_again(drop):
    for name in ("active", "done", "failed", "reports"):
        (drop.jobs / name).rmdir()

    drop.drop("x.yaml", JOB)
    drop.drop("y.yaml", "bad")
    drop.turn()
    drop.engine.end("x")
    drop.turns()

    assert drop.names("done") == ["x.yaml"]
    assert drop.names("failed") == ["y.yaml"]


def test_f18_a_file_in_the_place_of_a_subfolder_holds_up_only_what_needs_it(drop):
    (drop.jobs / "failed").rmdir()
    (drop.jobs / "failed").write_text("mine")
    drop.drop("x.yaml", JOB)
    drop.drop("y.yaml", "bad")

    drop.turns(6)

    assert drop.accepted() == ["x.yaml"]
    assert drop.names() == ["y.yaml"]
    assert drop.told(FolderFailed) != []


def test_where_a_rename_cannot_refuse_to_overwrite_it_is_looked_for_first(drop):
    drop.system.faults["rename_new"] = (errno.EINVAL, "")
    (drop.jobs / "failed" / "y.yaml").write_text("older")
    drop.drop("x.yaml", JOB)
    drop.drop("y.yaml", "bad")

    drop.turn()

    assert drop.names("active") == ["x.yaml"]
    assert (drop.jobs / "failed" / "y.yaml").read_text() == "older"
    assert len(drop.names("failed")) == 2


@pytest.mark.parametrize("how", ["renamed", "deleted"], ids=["F15-renamed", "F15-deleted"])
def test_a_folder_that_goes_and_comes_back_is_used_again(drop, how):
    drop.turn()
    if how == "renamed":
        drop.jobs.rename(drop.elsewhere / "old")
    else:
        for name in ("active", "done", "failed", "reports"):
            (drop.jobs / name).rmdir()
        drop.jobs.rmdir()

    waits = [drop.turn(after_s=1) for _ in range(3)]
    lost = [event.state for event in drop.told(WatchChanged)]
    idle, again = drop.folder.idle(), drop.jobs.exists()
    drop.jobs.mkdir()
    drop.drop("x.yaml", JOB)
    drop.turn()

    assert waits == [1.0, 1.0, 1.0]
    assert (lost, idle, again) == (["lost"], False, False)
    assert drop.accepted() == ["x.yaml"]
    assert [event.state for event in drop.told(WatchChanged)] == ["lost", "watching"]


def test_f15_a_folder_that_is_replaced_is_noticed_at_the_next_turn(drop):
    drop.turn()
    drop.jobs.rename(drop.elsewhere / "old")
    drop.jobs.mkdir()
    drop.drop("x.yaml", JOB)

    drop.turn()

    assert drop.names("active") == ["x.yaml"]
    assert drop.accepted() == ["x.yaml"]


def test_f15_a_folder_without_permission_is_told_once_and_read_again_later(drop):
    broken = [True]
    entries = drop.folder._places.entries

    def denied(place):
        if broken:
            raise PermissionError(errno.EACCES, "Permission denied", str(drop.jobs))
        return entries(place)

    drop.folder._places.entries = denied
    drop.drop("x.yaml", JOB)

    drop.turns()
    told, idle = drop.told(FolderFailed), drop.folder.idle()
    broken.clear()
    drop.turn(after_s=5)

    assert [event.error for event in told] == ["Permission denied"]
    assert not idle
    assert drop.accepted() == ["x.yaml"]


def test_f16_a_slow_listing_leaves_the_time_to_work_on_what_it_found(drop):
    entries, scans = drop.folder._places.entries, []

    def slow(place):
        drop.clock.advance(10)
        scans.append(place)
        return entries(place)

    drop.folder._places.entries = slow
    for number in range(10):
        drop.drop(f"{number}.yaml", f"url: {number}\n")
    drop.turn()
    drop.turn()

    assert len(drop.accepted()) == 10
    assert len([place for place in scans if not place.value]) == 1


def test_f15_a_folder_that_is_replaced_amid_a_turn_does_not_mix_with_the_new_one(drop):
    drop.drop("x.yaml", JOB)
    (drop.jobs / "active").rmdir()
    begin = drop.folder._places.begin_turn

    def replaced():
        identity = begin()
        if not (drop.elsewhere / "old").exists():
            drop.jobs.rename(drop.elsewhere / "old")
            drop.jobs.mkdir()
        return identity

    drop.folder._places.begin_turn = replaced
    drop.turns()

    assert drop.accepted() == ["x.yaml"]
    assert (drop.elsewhere / "old" / "active" / "x.yaml").exists()
    assert drop.told(FolderFailed) == []


def test_f15_what_is_the_matter_with_the_folder_is_shown_until_it_is_over(drop):
    drop.turn()
    drop.jobs.rename(drop.elsewhere / "old")
    drop.turn()
    lost = drop.folder.troubles()
    (drop.elsewhere / "old").rename(drop.jobs)
    drop.turn()

    assert lost == ["No such file or directory"]
    assert drop.folder.troubles() == []


def test_f14_without_a_watch_the_folder_is_looked_at_every_five_seconds(tmp_path):
    class NoneLeft(DumbObserver):
        error = OSError(errno.ENOSPC, "inotify watch limit reached")

    drop = DropFolder(tmp_path, observe=NoneLeft)

    waits = [drop.turn(after_s=5) for _ in range(3)]
    drop.drop("x.yaml", JOB)
    drop.clock.advance(5)
    drop.folder._hinted.clear()
    drop.folder.turn(lambda: None)

    assert waits == [5.0, 5.0, 5.0]
    assert drop.accepted() == ["x.yaml"]
    (changed,) = drop.told(WatchChanged)
    assert (changed.state, "max_user_watches" in changed.reason) == ("scanning", True)


def test_f14_when_every_hint_is_lost_the_next_rescan_finds_the_file(drop):
    drop.turn()
    drop.drop("x.yaml", JOB)
    drop.clock.advance(29)
    wait_s = drop.folder.turn(lambda: None)
    early = drop.accepted()

    drop.clock.advance(1)
    drop.folder.turn(lambda: None)

    assert wait_s == pytest.approx(1.0)
    assert early == []
    assert drop.accepted() == ["x.yaml"]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path):
    (tmp_path / "jobs").write_text("a file")

    with pytest.raises(ConfigError, match=str(tmp_path / "jobs")):
        DropFolder(tmp_path)


def test_a_subfolder_that_is_a_file_is_an_error_of_the_configuration(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "done").write_text("a file")

    with pytest.raises(ConfigError, match="done"):
        DropFolder(tmp_path)


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("place", ["folder.accepted", "folder.moved"])
@pytest.mark.parametrize("ends", ["before", "after"])
def test_a_crash_around_acceptance_neither_loses_nor_repeats_the_job(drop, place, ends):
    drop.restart(crash_at=place)
    drop.drop("x.yaml", JOB)
    with pytest.raises(Crash):
        drop.turn()
    if ends == "before":
        drop.engine.end("x")

    drop.restart()
    drop.turns()
    if ends == "after":
        drop.engine.end("x")
        drop.turns()

    assert drop.accepted() == ["x.yaml"]
    assert drop.names() == drop.names("active") == []
    assert drop.names("done") == ["x.yaml"]
    assert drop.report("x")["state"] == "succeeded"
    assert drop.folder.idle()


def test_an_edit_after_a_crash_before_the_move_is_a_new_drop(drop):
    drop.restart(crash_at="folder.accepted")
    drop.drop("x.yaml", JOB)
    with pytest.raises(Crash):
        drop.turn()
    drop.drop("x.yaml", "name: x\nnewer: 1\n")

    drop.restart()
    drop.turns()
    while_on = drop.accepted()
    drop.engine.end("x")
    drop.turns()

    assert while_on == ["x.yaml"]
    assert drop.accepted() == ["x.yaml", "x.yaml"]
    assert drop.names("active") == ["x.yaml"]


@pytest.mark.parametrize("place", ["folder.claimed", "folder.accepted"])
def test_a_crash_after_a_list_was_claimed_neither_loses_nor_repeats_it(drop, place):
    drop.restart(crash_at=place)
    drop.drop("x.urls", "https://example.org/a\n")
    with pytest.raises(Crash):
        drop.turn()
    claimed = drop.names(), drop.names("active")

    drop.restart()
    drop.turns()
    drop.engine.end("x")
    drop.turns()

    assert claimed == ([], ["x.urls"])
    assert drop.accepted() == ["x.urls"]
    assert drop.names("done") == ["x.urls"]


def test_a_list_is_durably_in_its_place_before_the_engine_hears_of_it(drop):
    drop.drop("x.urls", "https://example.org/a\n")
    drop.system.faults["fsync"] = (errno.EIO, "")

    drop.turn()

    assert drop.engine.asked == 0
    assert drop.told(FolderFailed)[0].file == "x.urls"


def test_a_list_whose_name_is_taken_waits_in_active_until_the_run_has_ended(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    drop.drop("x.urls", "https://example.org/a\n")
    drop.turns()
    asked = drop.engine.asked
    drop.turns(5)
    waits = drop.engine.asked == asked, drop.folder.idle(), drop.accepted()
    drop.engine.end("x")
    drop.turns()

    assert waits == (True, False, ["x.yaml"])
    assert drop.accepted() == ["x.yaml", "x.urls"]


def test_a_second_list_of_the_same_name_is_not_claimed_while_the_first_is_read(drop):
    drop.drop("x.urls", "https://example.org/a\n")
    drop.turn()
    (drop.jobs / "active" / "x.urls").unlink()
    drop.drop("x.urls", "https://example.org/b\n")

    drop.turns()

    assert drop.names() == ["x.urls"]
    assert drop.names("active") == []


def test_a_file_in_active_that_no_run_has_is_taken_in_at_the_start(drop):
    (drop.jobs / "active" / "lost.yaml").write_text(JOB)
    (drop.jobs / "active" / "bad.yaml").write_text("bad")
    (drop.jobs / "active" / "large.yaml").write_text("x" * 1001)
    (drop.jobs / "active" / "notes.txt").write_text("mine")

    drop.turns()

    assert drop.accepted() == ["lost.yaml"]
    assert drop.names("active") == ["lost.yaml", "notes.txt"]
    assert drop.names("failed") == ["bad.yaml", "large.yaml"]


def test_a_crash_between_the_error_text_and_the_move_is_repeated(drop):
    drop.drop("x.yaml", "bad")
    drop.system.before["rename_new"] = lambda: (_ for _ in ()).throw(Crash())
    with pytest.raises(Crash):
        drop.turn()
    between = drop.names("reports"), drop.names()

    drop.restart()
    drop.turn()

    assert between == (["x.yaml.error.txt"], ["x.yaml"])
    assert drop.names("failed") == ["x.yaml"]


# ---------------------------------------------------------------- control files


def test_a_cancel_file_cancels_the_job_and_disappears(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()

    (drop.jobs / "x.cancel").touch()
    drop.turns()

    assert drop.engine.commands == [Cancel(job="x")]
    assert drop.names() == []
    assert drop.names("failed") == ["x.yaml"]
    assert drop.report("x")["state"] == "cancelled"
    (obeyed,) = drop.told(CommandObeyed)
    assert (obeyed.command, obeyed.job, obeyed.done) == ("cancel", "x", True)


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_control_file_for_no_job_is_answered_in_the_reports(drop, verb):
    (drop.jobs / f"nobody.{verb}").touch()

    drop.turns()

    assert drop.names() == []
    assert drop.error(f"nobody.{verb}").startswith(f"nobody.{verb}: ")
    assert "nobody'" in drop.error(f"nobody.{verb}")
    assert len(drop.engine.commands) == 1


def test_a_retry_brings_the_job_file_back_and_its_end_puts_it_in_done(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    drop.engine.end("x", RunState.FAILED)
    drop.turns()
    failed = drop.names("failed")

    (drop.jobs / "x.retry").touch()
    drop.turn()
    again = drop.names("failed"), drop.names("active"), drop.report("x")["state"]
    drop.engine.end("x", RunState.SUCCEEDED)
    drop.turns()

    assert drop.engine.commands == [Retry(job="x")]
    assert failed == ["x.yaml"]
    assert again == ([], ["x.yaml"], "running")
    assert (drop.names("failed"), drop.names("done")) == ([], ["x.yaml"])
    assert drop.report("x")["state"] == "succeeded"


def test_a_retry_brings_back_the_file_that_was_put_away_last(drop):
    for text in ("name: x\none: 1\n", "name: x\ntwo: 2\n"):
        drop.drop("x.yaml", text)
        drop.turn()
        drop.engine.end("x", RunState.FAILED)
        drop.turns()

    (drop.jobs / "x.retry").touch()
    drop.turn()

    assert (drop.jobs / "active" / "x.yaml").read_text() == "name: x\ntwo: 2\n"
    assert (drop.jobs / "failed" / "x.yaml").read_text() == "name: x\none: 1\n"


def test_a_command_whose_file_cannot_be_removed_is_not_obeyed_twice(drop):
    drop.drop("x.yaml", JOB)
    drop.turn()
    (drop.jobs / "x.cancel").touch()
    drop.system.faults["unlink"] = (errno.EACCES, ".cancel")

    drop.turns(12)
    drop.system.faults.clear()
    drop.turns(6)

    assert drop.engine.commands == [Cancel(job="x")]
    assert drop.names() == []


@pytest.mark.parametrize(("verb", "command"), [("pause", Pause), ("resume", Resume)])
def test_a_control_file_pauses_or_resumes_its_job_and_disappears(drop, verb, command):
    (drop.jobs / f"x.{verb}").touch()

    drop.turns()

    assert drop.engine.commands == [command(job="x")]
    assert drop.names() == drop.names("failed") == []
