"""What a run does at its end, in a real daemon: commands in the download root, and webhooks."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from faults.server import Server, content, file, flapping, raw, stalled, status
from process import DaemonProcess, visible_files, wait_until

BODY = content("ends", 20_000)
NO_CONTENT = raw(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture
def server():
    with Server({"/a": file(BODY), "/b": file(b"b" * 1000), "/hook": NO_CONTENT}) as made:
        yield made


def daemon_with(tmp_path: Path, server: Server, *settings: str, script: str = "") -> DaemonProcess:
    log = tmp_path / "ran"
    script = script or f'echo "$1: $(cat "$1"/* | wc -c) $2" >> {log}'
    return DaemonProcess(
        tmp_path,
        f'commands.it.argv=[/bin/sh, -c, {json.dumps(script)}, "--"]',
        f"webhooks.tell.url={server.url('/hook')}",
        "retry.poison=0",
        *settings,
    )


def job(server: Server, *paths: str, more: str = "") -> str:
    urls = "".join(f"  - {server.url(path)}\n" for path in paths)
    return f"""
dest: got
retry: {{ attempts: 1 }}
urls:
{urls}
on_success:
  - run: {{ command: it, args: ["${{job.dest}}", "${{job.summary}}"] }}
  - tell
on_failure: [ tell ]
{more}"""


def told(server: Server) -> list[dict]:
    return [json.loads(one.body) for one in server.requests if one.path == "/hook"]


def ran(tmp_path: Path) -> list[str]:
    log = tmp_path / "ran"
    return log.read_text().splitlines() if log.exists() else []


def test_a_command_works_in_the_root_when_all_is_visible_and_a_webhook_hears_of_it(
    tmp_path, server
):
    with daemon_with(tmp_path, server) as daemon:
        daemon.drop("j.yaml", job(server, "/a", "/b"))
        assert daemon.run_once() == 0
        report = daemon.report("j")
        lines = daemon.files("j")

    assert ran(tmp_path) == ["got: 21000 2 succeeded; 20.5 KiB"]
    (facts,) = told(server)
    assert facts | {"key": "", "started_at": "", "finished_at": "", "scheduled_for": ""} == {
        "event": "run.succeeded",
        "key": "",
        "job": "j",
        "run": 1,
        "scheduled_for": "",
        "started_at": "",
        "finished_at": "",
        "tasks": {
            "ready": 0, "running": 0, "publishing": 0,
            "succeeded": 2, "failed": 0, "skipped": 0, "cancelled": 0,
        },
        "bytes": 21000,
        "summary": "2 succeeded; 20.5 KiB",
        "failures": [],
    }  # fmt: skip
    assert facts["started_at"] <= facts["finished_at"]
    assert (report["state"], report["tasks"]["succeeded"], report["bytes"]) == (
        "succeeded",
        3,
        21000,
    )
    assert (lines[-1]["path"], lines[-1]["group"], lines[-1]["detail"]) == (
        "./j/on_success",
        "on_success",
        "done",
    )
    inner = daemon.downloads / ".fetchd"
    assert [path for path in inner.rglob("*") if path.is_file()] == []


def test_a_failure_is_told_with_what_has_failed(tmp_path, server):
    with daemon_with(tmp_path, server) as daemon:
        daemon.drop("j.yaml", job(server, "/a", "/none"))
        assert daemon.run_once() == 1
        report = daemon.report("j")

    (facts,) = told(server)
    assert (facts["event"], facts["summary"]) == (
        "run.failed",
        "1 succeeded, 1 failed; 19.5 KiB",
    )
    (failure,) = facts["failures"]
    assert (failure["path"], failure["code"], failure["task"]) == ("got/none", "bad_status", "j")
    assert ran(tmp_path) == []
    assert (report["state"], report["tasks"]["total"], report["tasks"]["skipped"]) == (
        "failed",
        3,
        0,
    )


def test_a_partial_run_is_told_as_such(tmp_path, server):
    with daemon_with(tmp_path, server) as daemon:
        daemon.drop("j.yaml", job(server, "/a", "/none", more="may_fail: true\n"))
        assert daemon.run_once() == 1
        assert daemon.report("j")["state"] == "partial"

    assert [facts["event"] for facts in told(server)] == ["run.partial"]


def test_a_command_that_fails_makes_the_run_a_failure_and_a_retry_takes_it_again(tmp_path, server):
    script = "test -e allowed"
    with daemon_with(tmp_path, server, script=script) as daemon:
        daemon.drop("j.yaml", job(server, "/a"))
        daemon.start()
        wait_until(lambda: (daemon.jobs / "failed/j.yaml").exists(), what="the filed job")
        report = daemon.report("j")
        (daemon.downloads / "allowed").touch()
        (daemon.jobs / "j.retry").touch()
        wait_until(lambda: (daemon.jobs / "done/j.yaml").exists(), what="the second end")
        again = daemon.report("j")
        assert daemon.terminate() == 0

    (failure,) = report["failures"]
    assert (failure["path"], failure["code"]) == ("./j/on_success", "command_failed")
    assert (report["state"], again["state"]) == ("failed", "succeeded")
    assert again["tasks"]["total"] == 2
    assert [facts["event"] for facts in told(server)] == ["run.failed", "run.succeeded"]
    keys = {facts["key"] for facts in told(server)}
    assert len(keys) == 2
    assert [one.path for one in server.requests].count("/a") == 1


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("failpoint", ["finish.step_begun", "finish.step_taken", "finish.sealed"])
def test_a08_a_crash_lets_only_what_may_run_twice_do_so(tmp_path, server, idempotent, failpoint):
    settings = f"commands.it.idempotent={str(idempotent).lower()}"
    with daemon_with(tmp_path, server, settings) as daemon:
        daemon.drop("j.yaml", job(server, "/a"))
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        code = daemon.run_once()
        report = daemon.report("j")

    began = failpoint != "finish.step_begun"
    assert crashed == -signal.SIGKILL
    if idempotent or not began:
        assert (code, report["state"], len(ran(tmp_path))) == (0, "succeeded", 1 + began)
        keys = [facts["key"] for facts in told(server)]
        assert len(set(keys)) == 1
        assert len(keys) == 1 + (failpoint == "finish.sealed")
        return
    (failure,) = report["failures"]
    assert (code, len(ran(tmp_path)), failure["code"]) == (1, 1, "needs_attention")
    assert told(server)[-1]["event"] == "run.failed"


def test_a_service_that_is_down_for_a_moment_is_told_again_with_the_same_key(tmp_path, server):
    server.routes["/hook"] = status(503)
    with daemon_with(tmp_path, server) as daemon:
        daemon.drop("j.yaml", job(server, "/a").replace("  - run", "  #- run"))
        daemon.start("--once")
        wait_until(lambda: told(server), what="the first telling")
        server.routes["/hook"] = NO_CONTENT
        assert daemon.wait() == 0

    facts = told(server)
    assert len(facts) >= 2
    assert len({one["key"] for one in facts}) == 1


def test_a_cancel_tells_nobody(tmp_path, server):
    server.routes["/b"] = stalled()
    with daemon_with(tmp_path, server) as daemon:
        daemon.drop("j.yaml", job(server, "/a", "/b"))
        daemon.start()
        wait_until(lambda: visible_files(daemon.downloads), what="the first file")
        (daemon.jobs / "j.cancel").touch()
        wait_until(lambda: daemon.ended("j"), what="the end")
        assert daemon.terminate() == 0
        assert daemon.report("j")["state"] == "cancelled"

    assert told(server) == []
    assert ran(tmp_path) == []


def test_a_failure_that_ends_the_rest_keeps_what_has_come_for_a_retry(tmp_path, server):
    whole, gate = content("large", 3_000_000), threading.Event()

    def gone(exchange):
        assert gate.wait(20)
        status(404)(exchange)

    server.routes["/b"] = flapping(file(whole, stall_after=2_000_000), file(whole))
    server.routes["/none"] = gone
    with daemon_with(tmp_path, server, "workers=4") as daemon:
        daemon.drop("j.yaml", job(server, "/b", "/none", more="fail_fast: true\n"))
        daemon.start()
        wait_until(lambda: daemon.bytes_in_parts() >= 1_900_000, what="the first bytes")
        gate.set()
        wait_until(lambda: (daemon.jobs / "failed/j.yaml").exists(), what="the first end")
        first, files = daemon.report("j"), daemon.files("j")
        server.routes["/none"] = file(b"there")
        (daemon.jobs / "j.retry").touch()
        wait_until(lambda: (daemon.jobs / "done/j.yaml").exists(), what="the second end")
        assert daemon.terminate() == 0
        again = daemon.files("j")

    totals = first["tasks"]
    assert (first["state"], totals["failed"], totals["skipped"]) == ("failed", 1, 1)
    assert {line["path"]: line["detail"] for line in files} == {
        "got/b": "fail_fast",
        "got/none": "bad_status",
        "./j/on_failure": "done",
    }
    assert [facts["event"] for facts in told(server)] == ["run.failed", "run.succeeded"]
    assert {line["path"]: line["detail"] for line in again} == {
        "got/b": "resumed",
        "got/none": "downloaded",
        "./j/on_success": "done",
    }


@pytest.mark.parametrize(
    "failpoint", ["fetch.ended", "finish.step_begun", "finish.sealed", "outbox.reported"]
)
def test_a08_a_crash_does_not_revive_what_a_failure_has_ended(tmp_path, server, failpoint):
    server.routes["/b"] = stalled()
    with daemon_with(tmp_path, server, "workers=4") as daemon:
        text = job(server, "/none", "/b", "/b?2 c", "/b?3 d", more="fail_fast: true\n")
        daemon.drop("j.yaml", text + "limits: { concurrency: 2 }\n")
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        code = daemon.run_once()
        report, files = daemon.report("j"), daemon.files("j")

    ended_before = failpoint == "outbox.reported"
    assert (crashed, code) == (-signal.SIGKILL, 0 if ended_before else 1)
    assert {line["path"]: line["detail"] for line in files} == {
        "got/none": "bad_status",
        "got/b": "fail_fast",
        "got/c": "fail_fast",
        "got/d": "fail_fast",
        "./j/on_failure": "done",
    }
    assert (report["state"], report["tasks"]["skipped"]) == ("failed", 3)
    assert {facts["event"] for facts in told(server)} == {"run.failed"}
    assert len({facts["key"] for facts in told(server)}) == 1
    assert ran(tmp_path) == []
