"""fetchd as the comparison drives it: a daemon that is running already, and a run from nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.peer_measure import (
    Failed,
    Measured,
    cpu_of_s,
    forget_peak,
    last_line,
    measure,
    peak_of_mib,
)
from bench.peer_tools import Case

POLL_S = 0.002
AFTERWORK_S = 0.2  # what the daemon does behind the end of a run is its cost too
ENVIRON = {k: v for k, v in os.environ.items() if not k.startswith("FETCHD_")} | {
    "FETCHD_CONFIG": os.devnull
}


class Place:
    """The folders of one fetchd, and the command that runs it there."""

    def __init__(self, program: Path, base: Path, case: Case) -> None:
        self.base = base
        self.jobs = base / "jobs"
        self.downloads = base / "downloads"
        self.jobs.mkdir(parents=True)
        connections = case.at_once * case.connections
        settings = [
            "network.allow=[loopback]",
            f"network.ca={case.ca}",
            f"workers={connections + 1}",  # one is kept for other origins
            f"limits.connections_per_origin={connections}",
        ]
        self.command: list[str | Path] = [
            *(program, "run", "--jobs", self.jobs, "--downloads", self.downloads),
            *("--state", base / "state"),
            *(word for setting in settings for word in ("--set", setting)),
        ]

    def write_job(self, name: str, case: Case) -> tuple[Path, Path]:
        """A job beside the jobs folder; its path, and the one that it is taken from."""
        if case.single:
            file = case.data.files[0]
            lines = [f"url: {case.first_url}", f"dest: {name}"]
            lines += [f"checksum: sha256:{file.sha256}"] * case.workload.verified
            lines += [f"segments: {case.connections}"] * (case.connections > 1)
            path = self.base / f"{name}.yaml"
        else:
            lines = [
                f"{case.folder_url}{file.name} {name}/{file.name}"
                + f" sha256:{file.sha256}" * case.workload.verified
                for file in case.data.files
            ]
            path = self.base / f"{name}.urls"
        path.write_text("\n".join(lines) + "\n")
        return path, self.jobs / path.name

    def ended(self, job: Path) -> bool:
        """Whether the run has ended and its report says so; Failed unless all is well."""
        reports = self.jobs / "reports"
        if not (self.jobs / "done" / job.name).exists():
            if (self.jobs / "failed" / job.name).exists():
                raise Failed(f"run failed: {self._failure(reports / f'{job.stem}.json')}")
            if (error := reports / f"{job.name}.error.txt").exists():
                raise Failed(f"job rejected: {error.read_text()[:200]}")
            return False
        try:
            state = json.loads((reports / f"{job.stem}.json").read_text())["state"]
        except FileNotFoundError:
            return False
        return bool(state == "succeeded")

    @staticmethod
    def _failure(report: Path) -> str:
        try:
            found = json.loads(report.read_text())
        except FileNotFoundError:
            return "no report"
        return json.dumps([found.get("tasks"), found.get("failures", [])[:1]])[:400]


class Once:
    """``fetchd run --once`` on empty folders, the whole process."""

    def __init__(self, program: Path, base: Path, case: Case) -> None:
        self._program, self._base, self._case = program, base, case
        self.target = base / "downloads" / "run"
        self._place: Place | None = None
        self._job = Path()

    def prepare(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)
        self._place = Place(self._program, self._base, self._case)
        beside, self._job = self._place.write_job("run", self._case)
        beside.rename(self._job)

    def run(self, timeout_s: float) -> Measured:
        assert self._place is not None
        log = self._base / "log.jsonl"
        measured = measure([*self._place.command, "--once"], log, timeout_s, ENVIRON)
        if not self._place.ended(self._job):
            raise Failed(f"ended without the job done: {last_line(log)}")
        return measured

    def close(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)


class Warm:
    """A daemon that waits; a run is from the rename of its job file to its last report."""

    def __init__(self, program: Path, base: Path, case: Case) -> None:
        self._case, self._base = case, base
        self._place = Place(program, base, case)
        self._number = 0
        self._beside = self._job = Path()
        self.target = self._place.downloads / "none"
        self._log = base / "log.jsonl"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._place.command, stdout=log, stderr=log, env=ENVIRON, cwd=base
            )
        deadline = time.monotonic() + 60
        while b'"service.started"' not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = last_line(self._log)
                self.close()
                raise Failed(f"did not start: {said}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self) -> None:
        self._number += 1
        name = f"run{self._number}"
        self.target = self._place.downloads / name
        self._beside, self._job = self._place.write_job(name, self._case)

    def run(self, timeout_s: float) -> Measured:
        pid = self.pid
        forget_peak(pid)
        cpu_before_s = cpu_of_s(pid)
        began_s = time.monotonic()
        self._beside.rename(self._job)
        while not self._place.ended(self._job):
            if self._process.poll() is not None:
                raise Failed(f"daemon ended: {last_line(self._log)}")
            if time.monotonic() - began_s > timeout_s:
                raise Failed(f"not done in {timeout_s:.0f} s")
            time.sleep(POLL_S)
        wall_s = time.monotonic() - began_s
        time.sleep(AFTERWORK_S)
        return Measured(wall_s, cpu_of_s(pid) - cpu_before_s, peak_of_mib(pid))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._base, ignore_errors=True)
