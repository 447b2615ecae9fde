"""``fetchd plan`` as a process, beside a daemon, after one and after one that was killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from faults.server import Server, content, file, redirect, stalled, status
from process import DaemonProcess, wait_until

BODY = content("plan", 400_000)


def tree(*folders: Path) -> dict[str, tuple[int, int, str]]:
    """Return all that is below folders, by path: inode, time of change and content."""
    return {
        str(path): (
            path.lstat().st_ino,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for folder in folders
        for path in folder.rglob("*")
    }


class Shell:
    """Calls ``fetchd plan`` on the folders of a daemon that may run or not."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon

    def command(self, *words: str) -> list[str]:
        daemon = self.daemon
        settings = [
            f"jobs={daemon.jobs}",
            f"roots.default={daemon.downloads}",
            f"state={daemon.state}",
            *daemon.settings,
        ]
        sets = [word for setting in settings for word in ("--set", setting)]
        return [sys.executable, "-m", "fetchd", "plan", *words, *sets]

    def plan(self, text: str) -> tuple[int, dict[str, Any]]:
        """Return exit code and JSON; asserts that no folder of the daemon was changed."""
        job = self.daemon.base / "j.yaml"
        job.write_text(text)
        folders = (self.daemon.downloads, self.daemon.state, self.daemon.jobs)
        before = tree(*folders)
        done = subprocess.run(
            self.command(str(job), "--json"),
            capture_output=True,
            cwd=self.daemon.base,
            env={**os.environ, "FETCHD_CONFIG": os.devnull},
            timeout=30,
            check=False,
        )
        assert done.stderr == b""
        assert tree(*folders) == before
        return done.returncode, json.loads(done.stdout)


def quiet(daemon: DaemonProcess) -> None:
    """Wait until a daemon without work has written its last status."""
    seen = [0.0, 0.0]

    def rests() -> bool:
        changed_s = (daemon.state / "status.json").stat().st_mtime
        if changed_s != seen[0]:
            seen[:] = changed_s, time.monotonic()
        return time.monotonic() - seen[1] > 2.5

    wait_until(rests, what="a status that stays")


def test_a_plan_changes_nothing_and_knows_what_the_daemon_has_on_record(tmp_path):
    with Server({"/a": file(BODY), "/b": redirect("/a")}) as server, DaemonProcess(tmp_path) as d:
        job = f"urls: [ {server.url('/a')}, {server.url('/b')}, {server.url('/c')} ]\n"
        shell = Shell(d)
        d.downloads.mkdir()
        code, said = shell.plan(job)
        assert code == 1
        assert [task["verdict"] for task in said["tasks"]] == ["fetch", "fetch", "fail"]
        assert "is not there" in said["state"]
        assert list(d.downloads.iterdir()) == []
        assert not d.state.exists()

        d.start()
        d.drop("first.yaml", f"url: {server.url('/a')}\n")
        wait_until(lambda: d.ended("first"))
        quiet(d)
        assert d.process is not None
        d.process.send_signal(signal.SIGSTOP)  # or it may write its status meanwhile
        for end in (None, d.kill):  # beside the daemon, then behind its crash
            if end is not None:
                end()
            before = len(server.requests)
            code, said = shell.plan(job)
            by_path = {task["path"]: task for task in said["tasks"]}
            assert said["state"] == ""
            assert by_path["a"]["verdict"] == "up_to_date"
            assert by_path["a"]["sources"][0]["status"] == 304
            assert by_path["b"]["verdict"] == "fetch"
            assert sum(request.sent for request in server.requests[before:]) < 1000

        d.start()
        wait_until(lambda: len(d.events("service.started")) == 2)
        assert d.terminate() == 0
        _, said = shell.plan(job)
        assert said["totals"]["verdicts"]["up_to_date"] == 1


def test_an_interrupted_plan_ends_at_once_with_130(tmp_path):
    with Server(fallback=stalled()) as server:
        daemon = DaemonProcess(tmp_path)
        (tmp_path / "j.yaml").write_text(f"url: {server.url('/a')}\n")
        process = subprocess.Popen(
            Shell(daemon).command("j.yaml"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "FETCHD_CONFIG": os.devnull},
        )
        wait_until(lambda: server.requests)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)

    assert process.returncode == 130
    assert said.strip() == b"fetchd: interrupted"


@pytest.mark.parametrize("probe", [20])
def test_a_plan_of_a_long_list_is_short(tmp_path, probe):
    with Server(fallback=status(404)) as server:
        daemon = DaemonProcess(tmp_path)
        lines = (server.url(f"/{number}") for number in range(20_000))
        (tmp_path / "long.urls").write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            Shell(daemon).command("long.urls", "--probe", str(probe)),
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "FETCHD_CONFIG": os.devnull},
            timeout=60,
            check=False,
        )

        assert done.returncode == 1
        shown = done.stdout.decode().splitlines()
        assert shown[0] == "long: 20000 files, 20 would fail, 19980 not asked about (--probe)"
        assert len(shown) < 60
        assert len(server.requests) == probe
