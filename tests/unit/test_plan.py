"""``fetchd plan``, called in this process against servers of its own; ids as in the catalogue."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.server import Server, content, file, html, raw, redirect, stalled, status
from fetchd import cli, plan
from fetchd.cli.status import ENVIRONMENT
from fetchd.clock import SystemClock
from fetchd.model import Job, OriginBounds, OriginRecord, Schedule, TaskGroup, TaskSpec
from fetchd.plan import report
from fetchd.plan.reckoning import time_of, when
from fetchd.plan.rounds import Origins, Question, Rounds
from fetchd.plan.tasks import Chosen, _Choice
from fetchd.ports import OriginKept
from fetchd.rates import Rate
from fetchd.stores import SqliteStore

BODY = content("plan", 200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, os.devnull)


@pytest.fixture
def server():
    with Server({"/a": file(BODY)}) as server:
        yield server


@pytest.fixture
def other():
    with Server({"/a": file(BODY)}) as server:
        yield server


class Planned:
    """What one call has said. ``tasks``: by path."""

    def __init__(self, code: int, said: dict[str, Any]) -> None:
        self.code = code
        self.said = said
        self.tasks = {task["path"]: task for task in said["tasks"]}

    def __getitem__(self, key: str) -> Any:
        return self.said[key]

    @property
    def task(self) -> dict[str, Any]:
        task: dict[str, Any]
        (task,) = self.tasks.values()
        return task

    @property
    def source(self) -> dict[str, Any]:
        source: dict[str, Any]
        (source,) = self.task["sources"]
        return source


@pytest.fixture
def planned(capsys):
    def call(text: str, *settings: str, name: str = "job.yaml", probe: int = 100) -> Planned:
        Path(name).write_text(text)
        words = ["plan", name, "--json", "--probe", str(probe)]
        for setting in ("network.allow=[loopback]", "timeout.stall=2s@1KiB/s", *settings):
            words += ["--set", setting]
        code = cli.main(words)
        said = capsys.readouterr()
        assert said.err == ""
        assert not Path("downloads").exists()
        assert not Path("state").exists()
        return Planned(code, json.loads(said.out))

    return call


def urls(*places: str, keys: str = "") -> str:
    return f"urls: {json.dumps(places)}\n{keys}"


# ---------------------------------------------------------------- what a source says


def test_a_good_file_is_asked_for_by_its_first_byte_alone(planned, server):
    found = planned(f"url: {server.url('/a')}\n")

    assert found.code == 0
    assert found["ok"]
    assert found.task["verdict"] == "fetch"
    assert found.task["size_bytes"] == len(BODY)
    source = found.source
    assert source["status"] == 206
    assert source["ranges"]
    assert source["validator"] == "strong"
    assert source["content_type"] == "application/octet-stream"
    assert source["hops"] == []
    (asked,) = server.requests
    assert (asked.method, asked.header("Range"), asked.sent) == ("GET", "bytes=0-0", 1)
    assert found["totals"]["bytes"] == len(BODY)
    assert found["totals"]["unsized"] == 0


@pytest.mark.parametrize(
    ("etag", "modified", "validator"),
    [('"v"', None, "strong"), ('W/"v"', None, "weak"), (None, None, "none")],
)
def test_a_file_without_ranges_is_cut_off_behind_its_first_bytes(
    planned, server, etag, modified, validator
):
    large = content("large", 64 * 1024 * 1024)
    server.routes["/a"] = file(large, ranges=False, etag=etag, last_modified=modified)

    source = planned(f"url: {server.url('/a')}\n").source

    assert (source["status"], source["ranges"]) == (200, False)
    assert source["size_bytes"] == len(large)
    assert source["validator"] == validator
    assert server.requests[0].sent < len(large)


def test_a_file_of_unknown_length_and_an_empty_one(planned, server):
    server.routes |= {"/c": file(BODY, ranges=False, chunked=1000), "/e": file(b"")}

    found = planned(urls(server.url("/c"), server.url("/e")))

    assert found.code == 0
    assert found.tasks["c"]["size_bytes"] is None
    assert found.tasks["e"]["size_bytes"] == 0
    assert found["totals"]["unsized"] == 1


@pytest.mark.parametrize("code", [400, 405, 416, 501])
def test_a_server_that_refuses_ranges_is_asked_for_the_whole(planned, server, code):
    good = file(BODY, ranges=False)
    server.routes["/a"] = lambda exchange: (
        status(code) if exchange.request.header("Range") else good
    )(exchange)

    found = planned(f"url: {server.url('/a')}\n")

    assert found.code == 0
    assert found.source["size_bytes"] == len(BODY)
    assert [request.header("Range") for request in server.requests] == ["bytes=0-0", None]


def test_a_part_that_does_not_tell_the_length_is_followed_by_the_whole(planned, server):
    part = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/*\r\nContent-Length: 1\r\n\r\nx"
    server.routes["/a"] = lambda exchange: (
        raw(part) if exchange.request.header("Range") else file(BODY)
    )(exchange)

    assert planned(f"url: {server.url('/a')}\n").source["size_bytes"] == len(BODY)


def test_a_file_that_is_not_there_fails_and_ends_with_1(planned, server):
    found = planned(urls(server.url("/a"), server.url("/none")))

    assert found.code == 1
    assert not found["ok"]
    task = found.tasks["none"]
    assert (task["verdict"], task["code"]) == ("fail", "bad_status")
    assert task["sources"][0]["status"] == 404
    assert not task["sources"][0]["transient"]
    assert found.tasks["a"]["verdict"] == "fetch"
    assert found["totals"]["verdicts"]["fail"] == 1


def test_a_file_that_the_job_waits_for_does_not_fail(planned, server):
    found = planned(f"url: {server.url('/none')}\nwait_for: 4h\n")

    assert (found.code, found.task["verdict"]) == (0, "wait")


def test_redirects_are_shown_with_what_they_are_not_sent(planned, server, other, monkeypatch):
    monkeypatch.setenv("FETCHD_TOKEN", "very-s3cret-t0ken")
    server.routes |= {
        "/b": redirect(server.url("/c")),
        "/c": redirect(other.url("/a?sign=very-s3cret-t0ken"), 307),
    }
    origins = f'origins={{"{server.origin}": {{auth: {{bearer: rel}}}}}}'

    found = planned(
        f"url: {server.url('/b')}\nfilename: b\n",
        origins,
        "secrets={rel: {env: FETCHD_TOKEN}}",
    )

    assert found.code == 0
    assert found.source["hops"] == [
        {"url": server.url("/c"), "status": 302, "withheld": False},
        {"url": other.url("/a?..."), "status": 307, "withheld": True},
    ]
    assert found["credentials"] == {server.origin: ["bearer rel"]}
    assert server.requests[0].header("Authorization") == "Bearer very-s3cret-t0ken"
    assert other.requests[0].header("Authorization") is None
    assert "s3cret" not in json.dumps(found.said)


def test_an_address_that_may_not_be_reached_is_not_asked(planned, server):
    found = planned(f"url: {server.url('/a')}\n", "network.allow=[public]")

    assert (found.code, found.task["code"]) == (1, "address_denied")
    assert server.requests == []


def test_a_silent_server_ends_by_its_time_limit_and_is_then_left_alone(planned, server):
    server.fallback = stalled()
    places = [server.url(f"/s{number}") for number in range(12)]

    began_s = time.monotonic()
    found = planned(urls(*places), "timeout.stall=300ms@1KiB/s", "workers=2")

    assert time.monotonic() - began_s < 10
    assert found.code == 1
    assert {task["verdict"] for task in found.tasks.values()} == {"fail", "unknown"}
    assert len(server.requests) < 12
    assert any("could not be reached" in task["reason"] for task in found.tasks.values())


# ---------------------------------------------------------------- what would fail by its head


def test_n20_html_for_a_name_that_is_not_html_fails_by_type_or_first_bytes(planned, server):
    page = b"<!doctype html><title>Log in</title>"
    server.routes |= {
        "/t.iso": html(),
        "/b.iso": file(page, ranges=False, type="application/octet-stream"),
        "/p.html": html(),
    }

    found = planned(urls(*(server.url(f"/{name}") for name in ("t.iso", "b.iso", "p.html"))))

    assert found.tasks["t.iso"]["code"] == "unexpected_html"
    assert found.tasks["b.iso"]["code"] == "unexpected_html"
    assert found.tasks["p.html"]["verdict"] == "fetch"


@pytest.mark.parametrize(
    ("keys", "code", "reason"),
    [
        ("size: 5\n", "bad_size", "`size` allows 5"),
        ("limits: {file: 1KiB}\n", "too_large", "more than limits.file allows (1024)"),
        ("limits: {total: 1KiB}\n", "too_large", "more than limits.total leaves (1024)"),
        ("expect: {type: application/zip}\n", "expectation_failed", "application/zip"),
    ],
)
def test_what_the_job_expects_is_held_against_the_head(planned, server, keys, code, reason):
    found = planned(f"url: {server.url('/a')}\n{keys}")

    assert (found.code, found.task["verdict"], found.task["code"]) == (1, "fail", code)
    assert reason in found.task["reason"]


def test_a_body_whose_end_cannot_be_told_fails_unless_a_checksum_decides(planned, server):
    server.routes["/a"] = file(BODY, ranges=False, length="", cut_after=len(BODY))

    assert planned(f"url: {server.url('/a')}\n").task["code"] == "length_unknown"
    good = planned(f"url: {server.url('/a')}\nchecksum: sha256:{SHA256}\n")
    assert good.task["verdict"] == "fetch"


def test_all_files_together_may_be_more_than_the_job_allows(planned, server):
    found = planned(
        urls(server.url("/a"), f"{server.url('/a')} b", keys="limits: {total: 300000}\n")
    )

    assert found.code == 1
    assert "limits.total" in found["problems"][0]
    assert found["totals"]["verdicts"]["fetch"] == 2


def test_sums_are_asked_for_once_and_say_which_file_they_know(planned, server):
    server.routes |= {
        "/SHA256SUMS": file(f"{SHA256}  a\n{SHA256}  b\n".encode(), type="text/plain"),
        "/b": file(BODY),
        "/c": file(BODY),
    }

    found = planned(urls(*(server.url(f"/{n}") for n in "abc"), keys="sums: SHA256SUMS\n"))

    assert found.code == 1
    assert len(server.asked("/SHA256SUMS")) == 1
    for name in "ab":
        task = found.tasks[name]
        assert task["verdict"] == "fetch"
        assert task["checksums"] == [f"sha256:{SHA256}"]
        assert task["sums"] == {"url": server.url("/SHA256SUMS"), "found": True, "reason": ""}
    assert found.tasks["c"]["code"] == "expectation_failed"
    assert not found.tasks["c"]["sums"]["found"]


def test_a_missing_sums_file_fails_its_tasks_and_nobody_is_asked_for_them(planned, server):
    found = planned(f"url: {server.url('/a')}\nsums: none\n")

    assert (found.task["verdict"], found.task["code"]) == ("fail", "bad_status")
    assert server.asked("/a") == []


# ---------------------------------------------------------------- mirrors


def test_one_good_mirror_is_enough_and_the_others_are_told(planned, server, other):
    server.routes["/f"] = status(404)
    other.routes["/f"] = file(BODY)

    found = planned(f"base: [{server.url('/')}, {other.url('/')}]\nurl: f\n")

    assert found.code == 0
    assert found.task["verdict"] == "fetch"
    assert [source["status"] for source in found.task["sources"]] == [404, 206]


def test_mirrors_with_files_of_different_sizes_are_told(planned, server, other):
    other.routes["/a"] = file(BODY + b"x")

    found = planned(f"base: [{server.url('/')}, {other.url('/')}]\nurl: a\n")

    assert "different sizes" in found.task["reason"]


def test_of_many_mirrors_the_first_are_asked(planned, server):
    bases = [server.url(f"/m{number}/") for number in range(12)]

    found = planned(f"base: {json.dumps(bases)}\nurl: a\n")

    assert len(found.task["sources"]) == 8
    assert found.task["sources_left_out"] == 4


# ---------------------------------------------------------------- politeness


def test_no_more_is_asked_of_a_server_that_asks_to_be_left_alone(planned, server, other):
    server.fallback = status(429, "Too Many", [("Retry-After", "3600")])
    del server.routes["/a"]
    places = [server.url(f"/{number}") for number in range(20)]

    found = planned(urls(*places, other.url("/a")), "workers=2")

    assert len(server.requests) <= 2
    assert found.tasks["a"]["verdict"] == "fetch"
    unknown = [task for task in found.tasks.values() if task["verdict"] == "unknown"]
    assert len(unknown) >= 18
    assert "left alone for 3600 s" in unknown[0]["reason"]


def test_no_more_questions_at_a_time_than_the_configuration_allows(planned, server):
    busy, most, lock = 0, 0, threading.Lock()
    one_too_many = threading.Event()

    def slow(exchange):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == 3:
                one_too_many.set()
        one_too_many.wait(0.2)
        with lock:
            busy -= 1
        file(BODY)(exchange)

    server.fallback = slow
    places = [server.url(f"/f{number}") for number in range(6)]

    found = planned(urls(*places), "limits.connections_per_origin=2")

    assert found.code == 0
    assert most == 2


def test_requests_keep_the_distance_that_an_origin_has_in_the_configuration(planned, server):
    server.fallback = file(BODY)
    places = [server.url(f"/f{number}") for number in range(4)]

    planned(urls(*places), f'origins={{"{server.origin}": {{requests: 10/s}}}}')

    at_s = [request.at_s for request in server.requests]
    assert len(at_s) == 4
    assert at_s[-1] - at_s[0] > 0.2


def recorded(record: OriginRecord) -> None:
    """Leave a state in ./known in which an origin is on record."""
    Path("known").mkdir()
    with closing(SqliteStore("known/fetchd.db", SystemClock(), lambda _: None)) as store:
        store.record([OriginKept(record=record)])
        store.flush()


def test_who_has_asked_the_daemon_to_be_left_alone_is_not_asked(planned, server):
    now_s = time.time()
    recorded(
        OriginRecord(
            origin=server.origin,
            seen_at_s=now_s,
            gate_until_at_s=now_s + 60,
            gate_s=90,
            gate_why="status 429",
        )
    )

    found = planned(f"url: {server.url('/a')}\n", "state=known")

    assert found.task["verdict"] == "unknown"
    assert "status 429" in found.task["reason"]
    assert server.requests == []


def test_the_speed_that_was_learned_tells_how_long_it_takes(planned, server):
    recorded(OriginRecord(origin=server.origin, seen_at_s=1.0, rates=1.0, bytes_per_s=1000.0))

    found = planned(urls(server.url("/a"), f"{server.url('/a')} b"), "state=known")

    assert found["state"] == ""
    assert (found["time"]["least_s"], found["time"]["most_s"]) == (200.0, 400.0)


def test_so_many_files_are_asked_about_some_of_each_server(planned, server, other):
    server.fallback = other.fallback = file(BODY)
    lines = [server.url(f"/s{number}") for number in range(300)]
    lines += [other.url(f"/o{number}") for number in range(30)]

    found = planned("\n".join(lines) + "\n", name="many.urls", probe=10)

    assert found.code == 0
    assert (len(server.requests), len(other.requests)) == (5, 5)
    totals = found["totals"]
    assert (totals["files"], totals["asked"], totals["left_out"]) == (330, 10, 320)
    assert totals["unsized"] == 320
    assert len(found.tasks) == 10


def test_files_are_told_in_the_order_of_the_job(planned, server, other):
    server.fallback = other.fallback = file(BODY)

    found = planned(urls(server.url("/1"), other.url("/2"), server.url("/3"), other.url("/4")))

    assert list(found.tasks) == ["1", "2", "3", "4"]


def test_nobody_is_asked_when_no_file_may_be(planned, server):
    found = planned(f"url: {server.url('/a')}\n", probe=0)

    assert (found.code, found["totals"]["left_out"]) == (0, 1)
    assert server.requests == []


# ---------------------------------------------------------------- what stands


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("keys", "verdict", "asked"),
    [
        (f"checksum: sha256:{SHA256}\n", "up_to_date", 0),
        ("checksum: sha256:" + "0" * 64 + "\n", "fetch", 1),
        ("if_exists: skip\n", "up_to_date", 0),
        ("if_exists: fail\n", "fail", 0),
        ("if_exists: overwrite\n", "fetch", 1),
        ("", "fetch", 1),
    ],
)
def test_what_stands_at_the_destination_decides_as_in_a_run(
    planned, server, root, keys, verdict, asked
):
    (root / "a").write_bytes(BODY)

    found = planned(f"url: {server.url('/a')}\n{keys}", f"roots.default={root}")

    assert found.task["verdict"] == verdict
    assert len(server.requests) == asked
    assert sorted(path.name for path in root.rglob("*")) == ["a"]
    if not keys:
        assert "may be asked" in found.task["standing"]["reason"]


def test_a_folder_at_the_destination_fails(planned, server, root):
    (root / "a").mkdir()

    found = planned(f"url: {server.url('/a')}\n", f"roots.default={root}")

    assert found.task["code"] == "dest_conflict"


def test_what_does_not_fit_beside_the_reserve_is_told(planned, server, root):
    free_bytes = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    reserve = f"disk.reserve={free_bytes + 50 * 1024 * 1024}"

    found = planned(f"url: {server.url('/a')}\n", f"roots.default={root}", reserve)

    assert found.code == 1
    (disk,) = found["disks"]
    assert not disk["fits"]
    assert disk["needed_bytes"] == len(BODY)
    assert disk["folder"] == str(root)


def test_what_not_even_an_empty_disk_would_hold_is_too_large(planned, server, root):
    capacity = os.statvfs(root).f_blocks * os.statvfs(root).f_frsize

    found = planned(
        f"url: {server.url('/a')}\n", f"roots.default={root}", f"disk.reserve={capacity}"
    )

    assert (found.code, found.task["code"]) == (1, "too_large")


# ---------------------------------------------------------------- what a run consists of


FAN_OUT = """
tasks:
  index: {{ url: "{url}", filename: index.txt }}
  files:
    from: {{ file: "${{needs.index.path}}", format: lines }}
    if: ${{needs.index.changed}}
    base: {base}
    may_fail: true
    steps: [ {{ mode: "0644" }} ]
"""


def test_a_fan_out_of_a_file_that_is_not_there_yet_is_unknown(planned, server):
    found = planned(FAN_OUT.format(url=server.url("/a"), base=server.url("/")))

    assert found.code == 0
    index, files = found["groups"]
    assert (index["files"], files["files"]) == (1, None)
    assert "known when index is done" in files["note"]
    assert "known when index is done" in files["condition"]
    assert files["steps"] == ["mode"]
    assert files["needs"] == ["index"]


def test_a_fan_out_is_read_from_the_file_that_stands_there(planned, server, root):
    (root / "index.txt").write_text("a\nnone\n")

    found = planned(
        FAN_OUT.format(url=server.url("/a"), base=server.url("/")), f"roots.default={root}"
    )

    assert found.code == 1
    assert found["groups"][1]["files"] == 2
    assert "stands there now" in found["groups"][1]["note"]
    assert found.tasks["a"]["verdict"] == "fetch"
    assert found.tasks["none"]["may_fail"]


def test_a_manifest_that_nobody_fetches_has_to_be_there(planned, server):
    found = planned(f"from: {{file: list.txt, format: lines}}\nbase: {server.url('/')}\n")

    assert found.code == 1
    assert "not_found" in found["groups"][0]["failed"]


def test_a_group_whose_condition_does_not_hold_is_not_asked_about(planned, server):
    found = planned(
        f"vars: {{x: 1}}\ntasks:\n  a: {{url: '{server.url('/a')}', if: '${{x}} == 2'}}\n"
        f"  m:\n    matrix: {{n: [1, 2]}}\n    url: {server.url('/')}${{n}}\n"
        "    if: ${n} == 2\n"
    )

    assert found["groups"][0]["files"] == 0
    assert "does not hold" in found["groups"][0]["condition"]
    assert list(found.tasks) == ["2"]
    assert found["totals"]["skipped"] == 1


def test_a_task_without_url_and_the_end_of_the_run_ask_nobody(planned, server):
    found = planned(
        f"dest: x\ntasks:\n  a: {{ url: '{server.url('/a')}' }}\n"
        "  list: { needs: [a], steps: [ checksum_file ] }\n"
        "on_success: [ { run: { command: reindex } } ]\n",
        "commands={reindex: {argv: [/bin/true]}}",
    )

    assert found.code == 0
    assert list(found.tasks) == ["x/a"]
    groups = {group["task"]: group for group in found["groups"]}
    assert (groups["list"]["files"], groups["list"]["steps"]) == (0, ["checksum_file"])
    assert "fetches nothing" in groups["list"]["note"]
    assert groups["on_success"]["steps"] == ["run"]
    assert groups["on_success"]["note"] == "at the end of the run"
    assert found["totals"]["files"] == 1


def test_a_file_that_its_server_names_has_its_name_from_the_answer(planned, server):
    said = {"Content-Disposition": 'attachment; filename="real.bin"'}
    server.routes["/get"] = file(BODY, headers=said)
    server.routes["/page"] = html()

    found = planned(
        urls(server.url("/get"), server.url("/page"), keys="dest: x\nfilename: {from: header}\n")
    )

    assert found.code == 1
    assert found.tasks["x/real.bin"]["verdict"] == "fetch"
    assert found.tasks["x/real.bin"]["size_bytes"] == len(BODY)
    assert found.tasks["x/page"]["code"] == "unexpected_html"


def test_what_appears_together_is_looked_at_in_the_generation_that_is_seen(
    planned, server, root, capsys
):
    job = (
        f"dest: x\npublish: {{ atomic: true }}\nurl: {server.url('/a')}\n"
        f"checksum: sha256:{SHA256}\n"
    )
    Path("job.yaml").write_text(job)
    options = ["--dest", str(root), "--set", "network.allow=[loopback]"]
    assert cli.main(["get", "job.yaml", *options]) == 0
    capsys.readouterr()
    assert (root / "x" / "current").is_symlink()
    before = sorted(root.rglob("*"))

    found = planned(job, f"roots.default={root}")
    assert (found.code, found.task["verdict"]) == (0, "up_to_date")
    other = planned(job.replace(SHA256, "0" * 64), f"roots.default={root}")
    assert (other.code, other.task["verdict"]) == (0, "fetch")
    assert other["disks"][0]["folder"] == str(root)
    assert sorted(root.rglob("*")) == before


def test_bad_items_and_double_destinations_fail(planned, server):
    lines = f"{server.url('/a')}\nno url at all\n{server.url('/a')}\n"

    found = planned(lines, name="x.urls")

    assert found.code == 1
    assert found["totals"]["bad_items"] == 2
    assert len(found["problems"]) == 2
    assert "line 3" in found["problems"][1]


def test_defaults_are_no_job(capsys):
    Path("_defaults.yaml").write_text("dest: x\n")

    assert cli.main(["plan", "_defaults.yaml"]) == 2
    assert "no job" in capsys.readouterr().err


def test_a_bad_job_file_is_2(capsys):
    Path("x.yaml").write_text("urk: 1\n")

    assert cli.main(["plan", "x.yaml"]) == 2
    assert "urk" in capsys.readouterr().err


def test_when_it_is_due_and_may_work_is_told(planned, server):
    closed = time.strftime("%a", time.localtime(time.time() + 3 * 86400))
    found = planned(
        f"url: {server.url('/a')}\nschedule: {{ every: 6h, jitter: 10m }}\nwindow: [ {closed} ]\n"
    )

    when = found["when"]
    assert abs(when["due_s"] - time.time()) < 60
    assert when["jitter_s"] == 600
    assert when["opens_s"] > time.time() + 86400


def test_the_next_run_of_a_job_that_stays_follows_the_last_one():
    job = dataclasses.replace(JOB, schedule=Schedule(every_s=3600.0))

    assert when(job, 10_000.0, 11_000.0).due_s == 13_600.0
    assert when(job, None, 11_000.0).due_s == 11_000.0


def test_a_local_file_is_looked_at_too(planned, root):
    (root / "src").write_bytes(BODY)

    found = planned(f"url: file://{root}/src\nfilename: dst\n", f"roots.default={root}")

    assert (found.code, found.task["size_bytes"]) == (0, len(BODY))


# ---------------------------------------------------------------- rounds and choice


def asking(workers: int = 3) -> Rounds:
    clock = SystemClock()
    origins = Origins(lambda _: OriginBounds(connections=2), clock)
    return Rounds(origins, workers, clock, lambda *_: None)


def no_reason(_why: str) -> None:
    raise AssertionError


def test_a_round_asks_each_question_once_and_may_be_followed_by_another():
    rounds = asking()
    asked: list[int] = []
    for _ in range(2):
        rounds.ask(
            Question(f"http://{n % 3}:80", functools.partial(asked.append, n), no_reason)
            for n in range(50)
        )
    rounds.ask([])

    assert sorted(asked) == sorted([*range(50), *range(50)])


def test_what_a_question_raises_ends_the_round():
    def fail() -> None:
        raise ValueError("a mistake of ours")

    rounds = asking()
    with pytest.raises(ValueError, match="a mistake of ours"):
        rounds.ask([Question("http://x:80", fail, no_reason)])
    assert not rounds.wanted()


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 12))
@settings(derandomize=True, deadline=None)
def test_the_choice_is_even_as_far_as_there_are_tasks(origins, most):
    choice, left = _Choice(most), 0
    for number, origin in enumerate(origins):
        spec = TaskSpec(key=str(number), path=str(number), sources=(f"http://{origin}/",))
        left += choice.offer(Chosen(number, JOB.groups[0], spec)) is not None

    chosen = choice.chosen()
    assert len(chosen) == min(most, len(origins)) == len(origins) - left
    assert [one.number for one in chosen] == sorted({one.number for one in chosen})
    there = Counter(origins)
    got = Counter(origins[one.number] for one in chosen)
    short = [got[origin] for origin in there if got[origin] < there[origin]]
    assert not short or max(got.values(), default=0) <= min(short) + 1


# ---------------------------------------------------------------- time


def tasks_of(*sizes: int | None) -> list[report.TaskPlan]:
    source = report.Source(url="http://x/", asked=True)
    return [
        report.TaskPlan(
            task="t",
            root="default",
            path=str(number),
            verdict=report.Verdict.FETCH,
            size_bytes=size,
            sources=(source,),
        )
        for number, size in enumerate(sizes)
    ]


def bounds(connections=4, requests_per_s=None, **options) -> plan.Bounds:
    of = OriginBounds(connections=connections, requests_per_s=requests_per_s)
    return plan.Bounds(of=lambda _: of, **options)


JOB = Job(name="j", revision="", groups=(TaskGroup(name="t", items=()),))


@pytest.mark.parametrize(
    ("sizes", "speed", "limits", "least_s", "most_s"),
    [
        ((1000, 1000), 100.0, bounds(), 10.0, 20.0),
        ((1000, 1000), 100.0, bounds(connections=1), 20.0, 20.0),
        ((1000, 1000), None, bounds(), None, None),
        ((1000, 1000), None, bounds(rate=Rate(always=10)), 200.0, None),
        ((1000, 1000), 100.0, bounds(rate=Rate(always=10)), 200.0, 200.0),
        ((1000,), 100.0, bounds(origin_rates={"http://x:80": Rate(always=1)}), 1000.0, 1000.0),
        ((0, 0, 0), 100.0, bounds(requests_per_s=0.1), 20.0, 20.0),
        ((None, None), 100.0, bounds(), None, None),
        ((), None, bounds(), 0.0, 0.0),
    ],
)
def test_time_is_reckoned_from_what_was_seen_and_what_is_allowed(
    sizes, speed, limits, least_s, most_s
):
    unsized = sum(size is None for size in sizes)

    found = time_of(tasks_of(*sizes), limits, JOB, lambda _: speed, 0.0, unsized=unsized)

    assert (found.least_s, found.most_s) == (least_s, most_s)


# ---------------------------------------------------------------- what is printed


def test_people_get_a_line_a_task_and_the_problems_below(capsys, server, other):
    server.routes["/r"] = redirect(other.url("/a"))
    other.routes["/f"] = html()
    Path("job.yaml").write_text(
        urls(server.url("/r"), f"{other.url('/f')} [b]f.iso", keys="headers: {X-Client: lab}\n")
    )

    code = cli.main(["plan", "job.yaml", "--set", "network.allow=[loopback]"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[0] == "job: 2 files, 1 to fetch, 1 would fail"
    assert re.fullmatch(rf"fetch +195.3 KiB +yes +default:r +{server.origin} *", lines[2])
    assert re.fullmatch(r"fail +\? +\? +default:\[b\]f.iso *", lines[3])
    assert any(line.startswith("default:[b]f.iso: fail: unexpected_html") for line in lines)
    assert f"default:r: redirected to {other.url('/a')}" in lines
    assert f"default:r: {other.url('/a')} is not sent what is for {server.origin}" in lines
    assert "to transfer: 195.3 KiB" in lines
    assert any(line.startswith("time: unknown") for line in lines)


def test_what_fails_now_but_would_be_tried_again_says_so(capsys, server):
    server.routes["/a"] = status(429, "Too Many", [("Retry-After", "3600")])
    server.routes["/b"] = status(404, "Not Found")
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(urls(server.url(f"/{name}")))

    said = {}
    for name in ("a", "b"):
        cli.main(["plan", f"{name}.yaml", "--set", "network.allow=[loopback]"])
        lines = capsys.readouterr().out.splitlines()
        (said[name],) = [line for line in lines if line.startswith(f"default:{name}: fail:")]

    assert said["a"].endswith("(a run would try again)")
    assert "again" not in said["b"]


def test_the_page_has_every_key_that_is_printed():
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    nouns = [noun for noun in vars(report).values() if dataclasses.is_dataclass(noun)]
    keys = {field.name for noun in nouns for field in dataclasses.fields(noun)}

    assert keys == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) - {"file"}
    for verdict in report.Verdict:
        assert f"`{verdict}`" in page
