"""A real daemon process on folders of its own, for tests that start, kill and look."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Self

from nursery import Process, Spawn

#: How daemons are started; in a session of pytest from a nursery, but where ``anew`` is used.
spawn: Spawn = subprocess.Popen


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "it") -> None:
    """Poll until the condition holds; fails loudly after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(0.02)


class DaemonProcess:
    """``fetchd run`` below ``base``: folders jobs, downloads, state, and a log file."""

    def __init__(self, base: Path, *settings: str) -> None:
        self.base = base
        self.jobs = base / "jobs"
        self.downloads = base / "downloads"
        self.state = base / "state"
        self.log = base / "log.jsonl"
        self.settings = ["network.allow=[loopback]", "retry.delay=100ms", *settings]
        self.program = ["-m", "fetchd"]  # what python runs
        self.process: Process | None = None
        self.jobs.mkdir(parents=True, exist_ok=True)

    def command(self, *more: str) -> list[str]:
        places = ["--jobs", self.jobs, "--downloads", self.downloads, "--state", self.state]
        sets = [word for setting in self.settings for word in ("--set", setting)]
        return [sys.executable, *self.program, "run", *map(str, places), *sets, *more]

    def start(self, *more: str, failpoint: str = "", **env: str) -> DaemonProcess:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FETCHD_")}
        environ |= {"FETCHD_CONFIG": os.devnull, **env}
        if failpoint:
            environ["FETCHD_FAILPOINT"] = failpoint
        with self.log.open("ab") as log:
            self.process = spawn(
                self.command(*more), stderr=log, stdout=log, env=environ, cwd=self.base
            )
        return self

    def run_once(self, timeout_s: float = 60.0, **env: str) -> int:
        self.start("--once", **env)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, timeout_s: float = 15.0) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def drop(self, name: str, text: str) -> Path:
        """Put a job file in the folder by rename, as a careful user would."""
        beside = self.base / f"{name}.dropping"
        beside.write_text(text)
        return beside.rename(self.jobs / name)

    def bytes_in_parts(self) -> int:
        """Return how much of files that are under way has been written."""
        return sum(path.stat().st_size for path in self.downloads.glob(".fetchd/parts/*"))

    def report(self, job: str) -> dict | None:
        path = self.jobs / "reports" / f"{job}.json"
        try:
            report = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        assert isinstance(report, dict)
        return report

    def ended(self, job: str) -> bool:
        report = self.report(job)
        return report is not None and report["state"] in {
            "succeeded",
            "partial",
            "failed",
            "cancelled",
        }

    def files(self, job: str) -> list[dict]:
        path = self.jobs / "reports" / f"{job}.files.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def events(self, name: str | None = None) -> list[dict]:
        lines = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut by a kill
                if name is None or event.get("event") == name:
                    lines.append(event)
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None:
            self.kill()


class Watcher(threading.Thread):
    """Looks at every visible file below a folder, all the time: each must be whole and right.

    ``expected``: path -> the sha256 that it may have; it may grow while the watcher looks.
    """

    def __init__(
        self, folder: Path, expected: Mapping[str, Collection[str]], every_s: float = 0.02
    ) -> None:
        super().__init__(name="watcher", daemon=True)
        self._folder = folder
        self._expected = expected
        self._every_s = every_s
        self._ending = threading.Event()
        self._seen: dict[tuple[str, int, int], None] = {}
        self.wrong: list[str] = []
        self.looked = 0

    def run(self) -> None:
        while not self._ending.wait(self._every_s):
            self.look()

    def look(self) -> None:
        for path in visible_files(self._folder):
            self.check(path)

    def check(self, path: Path) -> None:
        """Look at one file, unless it is known or gone; any thread."""
        name = str(path.relative_to(self._folder))
        try:
            stat = path.stat()
            key = (name, stat.st_ino, stat.st_mtime_ns)
            if key in self._seen:
                return
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return
        self.looked += 1
        self._seen[key] = None
        if found not in self._expected.get(name, ()):
            self.wrong.append(f"{name}: {stat.st_size} bytes, sha256 {found}")

    def versions(self) -> dict[str, int]:
        """How many different files were seen under each name."""
        counts: dict[str, int] = {}
        for name, _, _ in list(self._seen):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def finish(self) -> None:
        self._ending.set()
        self.join(30)
        self.look()


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder that a user would see."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".fetchd"]
        found += [Path(where) / name for name in names]
    return found
