"""A drop folder by hand: a small engine, a clock that stands, crashes and disk faults on call."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from watchdog.observers.api import BaseObserver, EventEmitter, ObservedWatch

from fetchd import events
from fetchd.clock import Failpoints
from fetchd.disk import SystemOs
from fetchd.errors import DocumentError, Problem
from fetchd.folder import Folder
from fetchd.model import (
    Answer,
    Backfill,
    Cancel,
    Command,
    Due,
    FileView,
    Job,
    Pause,
    Remove,
    Report,
    Resume,
    Retry,
    RunState,
    RunView,
    Submit,
    TaskCounts,
    TaskState,
)
from fetchd.ports import Change, RunFiled
from harness import FakeClock

E = TypeVar("E", bound=events.Event)


class Crash(BaseException):
    """The process is gone at this instant: nobody may catch it."""


class CrashAt(Failpoints):
    """Failpoints that raise where a real one would kill."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name

    def pass_by(self, name: str) -> None:
        if name == self.name:
            self.name = ""
            raise Crash(name)


class FaultyOs(SystemOs):
    """Fails calls by name, as often as told: ``faults["rename_new"] = [(errno, "name part")]``."""

    def __init__(self) -> None:
        self.faults: dict[str, tuple[int, str]] = {}
        self.durable: list[str] = []  # syncs and renames, in their order
        self.before: dict[str, Callable[[], object]] = {}

    def _pass(self, call: str, name: str) -> None:
        number, part = self.faults.get(call, (0, ""))
        if number and part in name:
            raise OSError(number, os.strerror(number), name)

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        self._pass("open", path)
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def read(self, fd: int, buffer: memoryview, offset: int, /) -> int:
        got = super().read(fd, buffer, offset)
        if action := self.before.pop("read returns", None):
            action()
        return got

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:
        self._pass("write", "")
        return super().write(fd, data[:7], offset)  # short writes are legal

    def fsync(self, fd: int) -> None:
        self._pass("fsync", "")
        super().fsync(fd)
        self.durable.append(f"sync {_path(fd).name}")

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._pass("rename", dst)
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.durable.append(f"{src} -> {_path(dst_dir_fd).name}/{dst}")

    def rename_new(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if action := self.before.pop("rename_new", None):
            action()
        self._pass("rename_new", str(_path(dst_dir_fd) / dst))
        super().rename_new(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.durable.append(f"{src} -> {_path(dst_dir_fd).name}/{dst}")

    def unlink(self, path: str, *, dir_fd: int) -> None:
        self._pass("unlink", path)
        super().unlink(path, dir_fd=dir_fd)


def _path(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


class DumbObserver(BaseObserver):
    """A watch that never hints; ``error``: what setting it up fails with."""

    error: OSError | None = None

    def __init__(self) -> None:
        super().__init__(EventEmitter)
        self.lives = False

    def schedule(self, *_: Any, **__: Any) -> ObservedWatch:
        if self.error is not None:
            raise self.error
        return ObservedWatch("", recursive=False)

    def start(self) -> None:
        self.lives = True

    def is_alive(self) -> bool:
        return self.lives

    def stop(self) -> None:
        self.lives = False

    def join(self, timeout: float | None = None) -> None:
        pass


class SmallEngine:
    """The engine and the store as the folder sees them; what it holds survives a "crash"."""

    def __init__(self) -> None:
        self.runs: dict[int, RunView] = {}
        self.submitted: list[Submit] = []
        self.commands: list[Command] = []
        self.tasks: dict[int, list[FileView]] = {}
        self.asked = 0
        self.refuse = ""

    # -- commands

    def obey(self, command: Command) -> Answer:
        self.asked += 1
        match command:
            case Submit():
                return self._submit(command)
            case Cancel(job=job):
                self.commands.append(command)
                run = self.last_run(job)
                if run is None or run.state.ended:
                    return Answer(done=False, reason=f"no run of job {job!r} is on")
                self.end(job, RunState.CANCELLED)
                return Answer(done=True, run=run.id)
            case Remove() | Pause() | Resume() | Backfill():
                self.commands.append(command)
                return Answer(done=True)
            case Retry(job=job):
                self.commands.append(command)
                run = self.last_run(job)
                if run is None:
                    return Answer(done=False, reason=f"there is no job {job!r}")
                self.runs[run.id] = replace(
                    run, state=RunState.RUNNING, finished_at_s=None, filed=False
                )
                return Answer(done=True, run=run.id)

    def submit(self, submissions: Sequence[Submit]) -> list[Answer]:
        self.asked += len(submissions)
        return [self._submit(command) for command in submissions]

    def _submit(self, command: Submit) -> Answer:
        if self.refuse:
            return Answer(done=False, reason=self.refuse)
        last = self.last_run(command.job.name)
        if last is not None and not (last.state.ended and last.filed):
            if last.revision == command.job.revision:
                return Answer(done=True, run=last.id, repeated=True)
            return Answer(done=False, later=True, reason="another revision is on")
        self.submitted.append(command)
        run = RunView(
            id=len(self.runs) + 1,
            job=command.job.name,
            revision=command.job.revision,
            file=command.file,
            state=RunState.RUNNING,
            accepted_at_s=1_700_000_000.0,
            started_at_s=1_700_000_001.5,
            finished_at_s=None,
            tasks=TaskCounts(ready=1),
            bytes=0,
        )
        self.runs[run.id] = run
        return Answer(done=True, run=run.id)

    def view(self, most_open: int | None = None) -> Report:
        return Report(runs=tuple(self.runs.values()), transfers=())

    def kept_files(self) -> dict[str, str]:
        return {}

    def due(self) -> list[Due]:
        return []

    def pass_over(self, due: Due) -> None:
        raise AssertionError

    # -- what happens

    def change(self, job: str, **fields: Any) -> None:
        run = self.last_run(job)
        assert run is not None
        self.runs[run.id] = replace(run, **fields)

    def end(
        self,
        job: str,
        state: RunState = RunState.SUCCEEDED,
        files: Iterable[FileView] = (),
    ) -> None:
        run = self.last_run(job)
        assert run is not None
        self.tasks[run.id] = list(files)
        counts = TaskCounts(
            succeeded=sum(file.state is TaskState.SUCCEEDED for file in self.tasks[run.id]),
            failed=sum(file.state is TaskState.FAILED for file in self.tasks[run.id]),
        )
        self.change(job, state=state, finished_at_s=1_700_000_060.25, tasks=counts)

    # -- the store

    def last_run(self, job: str) -> RunView | None:
        return next((r for r in reversed(list(self.runs.values())) if r.job == job), None)

    def run_view(self, run: int) -> RunView | None:
        return self.runs.get(run)

    def unfiled_runs(self) -> list[RunView]:
        return [run for run in self.runs.values() if run.state.ended and not run.filed]

    def files(self, run: int) -> Iterator[FileView]:
        yield from self.tasks.get(run, [])

    def failures(self, run: int, most: int) -> list[FileView]:
        failed = [f for f in self.tasks.get(run, []) if f.state is TaskState.FAILED]
        return failed[:most]

    def record(self, changes: Sequence[Change], then: Callable[[], None] | None = None) -> None:
        for change in changes:
            assert isinstance(change, RunFiled)
            self.runs[change.run] = replace(self.runs[change.run], filed=True)


def read_job(data: bytes, file: str) -> Job:
    """A job is named by a line ``name: ...`` or by its file; a file that says ``bad`` is bad."""
    if b"crash" in data:
        raise RuntimeError("the reader is broken")
    if b"bad" in data:
        text = data.decode()
        line = text[: text.index("bad")].count("\n") + 1
        problems = [
            Problem(message="bad is not good", line=line, column=1),
            Problem(message="nor is this", line=line, column=2),
        ]
        raise DocumentError(file, problems, text)
    name = Path(file).stem
    for words in data.splitlines():
        if words.startswith(b"name:"):
            name = words.removeprefix(b"name:").strip().decode()
    return Job(name=name, revision=hashlib.sha256(data).hexdigest(), groups=())


def read_list(file: str, path: str, digest: str) -> Job:
    assert Path(path).name == file
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
    return Job(name=Path(file).stem, revision=digest, groups=())


class DropFolder:
    """A folder whose turns are taken by hand, on the test's thread."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.jobs = base / "jobs"
        self.elsewhere = base / "elsewhere"
        self.elsewhere.mkdir(exist_ok=True)
        self.clock = FakeClock()
        self.engine = SmallEngine()
        self.system = FaultyOs()
        self.events: list[events.Event] = []
        self.settings = settings
        self.folder = self._made(CrashAt())

    def _made(self, failpoints: CrashAt) -> Folder:
        arguments: dict[str, Any] = {
            "max_job_bytes": 1000,
            "require_end_marker": False,
            "rescan_s": 30.0,
            "read_job": read_job,
            "read_list": read_list,
            "commands": self.engine,
            "store": self.engine,
            "tell": self.events.append,
            "clock": self.clock,
            "failpoints": failpoints,
            "system": self.system,
            "observe": DumbObserver,
        }
        return Folder(self.jobs, **(arguments | self.settings))

    def restart(self, crash_at: str = "") -> None:
        """Begin a new life on the same directory and the same store."""
        self.folder._places.end_turn()
        self.folder = self._made(CrashAt(crash_at))

    def turn(self, after_s: float = 0.0) -> float:
        """Take one turn, as on a hint; returns the seconds until the next is wanted."""
        self.clock.advance(after_s)
        self.folder.hint()
        return self.folder.turn(lambda: None)

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            self.turn(1.0)

    def drop(self, name: str, text: str | bytes = "url: x\n") -> Path:
        """Put a file in the folder by rename."""
        data = text.encode() if isinstance(text, str) else text
        beside = self.elsewhere / "dropping"
        beside.write_bytes(data)
        return beside.rename(self.jobs / name)

    def names(self, place: str = "") -> list[str]:
        found = (self.jobs / place).iterdir()
        return sorted(p.name for p in found if p.name not in SUBFOLDER_NAMES)

    def report(self, name: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.jobs / "reports" / f"{name}.json").read_text())
        return report

    def error(self, file: str) -> str:
        return (self.jobs / "reports" / f"{file}.error.txt").read_text()

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def accepted(self) -> list[str]:
        return [command.file for command in self.engine.submitted]


SUBFOLDER_NAMES = {"active", "done", "failed", "reports"}
