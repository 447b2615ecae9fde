"""Conditions with a real daemon: what an index has to do with the next run."""

from __future__ import annotations

import signal

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files, wait_until

JOB = """
tasks:
  index:
    url: {index}
  data:
    if: ${{needs.index.changed}}
    url: {data}
    if_exists: overwrite
  after:
    url: {after}
    needs: [data]
    if_exists: overwrite
"""


@pytest.fixture
def server():
    routes = {
        "/index.json": file(b"one", etag=None, last_modified=None),
        "/data": file(content("d", 1000)),
        "/after": file(b"after"),
    }
    with Server(routes) as made:
        yield made


def job(server: Server) -> str:
    urls = {name: server.url(f"/{name}") for name in ("data", "after")}
    return JOB.format(index=server.url("/index.json"), **urls)


def asked(server: Server, since: int) -> list[str]:
    return [request.path for request in server.requests[since:]]


def test_a_task_is_worked_on_when_its_index_has_other_content(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        runs = []
        for index in (b"one", b"one", b"two", b"two"):
            server.routes["/index.json"] = file(index, etag=None, last_modified=None)
            daemon.drop("job.yaml", job(server))
            since = len(server.requests)
            assert daemon.run_once() == 0
            runs.append("/data" in asked(server, since))
            assert "/after" in asked(server, since)

    assert runs == [True, False, True, False]
    skipped = [line for line in daemon.files("job") if line["state"] == "skipped"]
    assert [(line["path"], line["detail"]) for line in skipped] == [("data", "condition")]


@pytest.mark.parametrize("failpoint", ["expand.decided", "publish.visible:2", "fetch.started:2"])
def test_a_crash_around_a_decision_neither_loses_nor_repeats_work(tmp_path, server, failpoint):
    with DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        daemon.drop("job.yaml", job(server))
        assert daemon.start("--once", failpoint=failpoint).wait() == -signal.SIGKILL
        assert daemon.run_once() == 0
        daemon.drop("job.yaml", job(server))
        since = len(server.requests)
        assert daemon.run_once() == 0

    assert asked(server, since) == ["/index.json", "/after"]
    assert {path.name for path in visible_files(daemon.downloads)} == {
        "index.json",
        "data",
        "after",
    }


def test_a_failure_that_may_be_leaves_a_partial_run(tmp_path, server):
    del server.routes["/data"]
    with DaemonProcess(tmp_path) as daemon:
        daemon.start()
        daemon.drop("job.yaml", job(server).replace("if:", "may_fail: true\n    if:"))
        wait_until(lambda: (daemon.report("job") or {}).get("state") == "partial", what="the end")

        wait_until(lambda: (daemon.jobs / "failed" / "job.yaml").exists(), what="the filed job")

    assert {path.name for path in visible_files(daemon.downloads)} == {"index.json", "after"}
