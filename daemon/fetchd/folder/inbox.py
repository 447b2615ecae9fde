"""Files that arrive: look, wait until complete, read once, submit, and only then move."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from fetchd.clock import Clock, Failpoints
from fetchd.errors import DocumentError
from fetchd.events import CommandObeyed, FileIgnored, FolderFailed, JobRejected, Tell
from fetchd.folder.places import Places
from fetchd.folder.readiness import Readiness, Version
from fetchd.model import Answer, Cancel, Command, Job, Retry, Submit
from fetchd.ports import Commands, Store
from fetchd.yamldoc import has_end_marker

JOB_SUFFIXES = (".yaml", ".yml", ".json")
LIST_SUFFIX = ".urls"
#: A file with such a suffix acts on the job that it is named after, and disappears.
COMMANDS: dict[str, Callable[[str], Command]] = {
    ".cancel": lambda job: Cancel(job=job),
    ".retry": lambda job: Retry(job=job),
}
NOT_BUILT = (".pause", ".resume")
_HIDDEN = (".", "_", "#")
_UNFINISHED = ("~", ".tmp", ".part", ".swp", ".bak")
#: An empty file is what a writer makes first; after so long it is more likely a mistake.
EMPTY_S = 60.0
#: One look takes in so many files, so that reports and new arrivals get their turn.
MOST_A_LOOK = 200
_READ_BYTES = 1024 * 1024


class NotReady(Exception):
    """The file is to be looked at again; ``wait_s`` None: when something changes."""

    def __init__(self, wait_s: float | None) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Inbox:
    """``read_job(data, file)`` and ``read_list(file, path, digest)`` raise DocumentError.

    Folder thread only.
    """

    def __init__(
        self,
        places: Places,
        readiness: Readiness,
        *,
        max_job_bytes: int,
        require_end_marker: bool,
        read_job: Callable[[bytes, str], Job],
        read_list: Callable[[str, str, str], Job],
        commands: Commands,
        store: Store,
        tell: Tell,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._places = places
        self._readiness = readiness
        self._max_job_bytes = max_job_bytes
        self._require_end_marker = require_end_marker
        self._read_job = read_job
        self._read_list = read_list
        self._commands = commands
        self._store = store
        self._tell = tell
        self._clock = clock
        self._failpoints = failpoints
        self._told: dict[str, Version] = {}  # files that were told of as ignored
        self.waiting = 0  # job files that are not accepted or rejected yet, as of the last look

    def look(self, beat: Callable[[], None]) -> float | None:
        """Take in what is ready; returns in how many seconds to look again, None: no haste."""
        self._places.make()
        again_s: list[float] = []
        waiting = taken = 0
        names = set()
        for entry in sorted(os.scandir(self._places.jobs), key=lambda entry: entry.name):
            if entry.name.startswith(_HIDDEN) or entry.name.endswith(_UNFINISHED):
                continue
            names.add(entry.name)
            if taken >= MOST_A_LOOK:
                waiting += 1
                again_s.append(0.0)
                break
            beat()
            try:
                taken += self._consider(entry)
            except NotReady as exc:
                waiting += 1
                if exc.wait_s is not None:
                    again_s.append(exc.wait_s)
            except FileNotFoundError:
                continue  # taken back by its owner
            except OSError as exc:
                self._tell(FolderFailed(file=entry.name, action="take it in", error=str(exc)))
        else:
            self._readiness.forget(names)
            for name in self._told.keys() - names:
                del self._told[name]
        self.waiting = waiting
        return min(again_s, default=None)

    def take_back_orphans(self) -> None:
        """At start: files in ``active/`` that no run knows, as after a crash or a lost state.

        A list that was claimed but not accepted is accepted now; any other file goes back to
        where it was dropped.
        """
        known = {run.file for run in self._store.unfiled_runs()}
        known |= {run.file for run in self._commands.view().runs if not run.state.ended}
        for path in sorted(self._places.active.iterdir()):
            if path.name in known or not stat.S_ISREG(path.lstat().st_mode):
                continue
            if path.suffix == LIST_SUFFIX:
                self._submit_list(path)
            else:
                self._places.move(path, self._places.jobs)

    # ------------------------------------------------------------ one entry

    def _consider(self, entry: os.DirEntry[str]) -> bool:
        """Look at one entry of the folder; True when it was taken in."""
        name = entry.name
        suffix = Path(name).suffix
        if suffix in COMMANDS or suffix in NOT_BUILT:
            return self._command(name, suffix)
        is_job = suffix in JOB_SUFFIXES or suffix == LIST_SUFFIX
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            if is_job:
                self._ignore(name, found, f"it is {_kind(found.st_mode)}, not a regular file")
            return False
        if not is_job:
            allowed = ", ".join(f"*{known}" for known in (*JOB_SUFFIXES, LIST_SUFFIX))
            self._ignore(name, found, f"job files are named {allowed}")
            return False
        if os.path.lexists(self._places.active / name):
            raise NotReady(None)  # until the run that it belongs to has ended
        if suffix == LIST_SUFFIX:
            self._take_list(name)
        else:
            self._take_job(name)
        return True

    def _take_job(self, name: str) -> None:
        data = self._read_when_ready(name)
        if data is None:
            most = self._max_job_bytes
            self._reject(
                self._places.jobs / name,
                f"{name}: larger than intake.max_job_bytes allows ({most}); "
                "put the URLs into a *.urls file, which may have any length",
            )
            return
        try:
            job = self._read_job(data, name)
        except DocumentError as exc:
            self._reject(self._places.jobs / name, str(exc), exc.headlines())
            return
        answer = self._commands.obey(Submit(job=job, raw=data, file=name))
        self._failpoints.pass_by("folder.accepted")
        self._follow(answer, self._places.jobs / name)
        if answer.done:
            self._places.move(self._places.jobs / name, self._places.active)
            self._failpoints.pass_by("folder.moved")

    def _take_list(self, name: str) -> None:
        """Claim a list first: it is read while its tasks run, for as long as that takes."""
        fd = self._open(name)
        try:
            self._wait_until_ready(name, fd)
        finally:
            os.close(fd)
        claimed = self._places.move(self._places.jobs / name, self._places.active)
        self._failpoints.pass_by("folder.claimed")
        self._submit_list(claimed)

    def _submit_list(self, path: Path) -> None:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
        try:
            job = self._read_list(path.name, str(path), digest.hexdigest())
        except DocumentError as exc:
            self._reject(path, str(exc), exc.headlines())
            return
        answer = self._commands.obey(Submit(job=job, raw=b"", file=path.name))
        self._failpoints.pass_by("folder.accepted")
        if answer.later:  # another file has made a job of this name: this one waits outside
            self._places.move(path, self._places.jobs)
            raise NotReady(None)
        self._follow(answer, path)

    def _follow(self, answer: Answer, path: Path) -> None:
        """Act on what the engine says to a submission; returns when it has accepted."""
        if answer.later:
            raise NotReady(None)
        if not answer.done:
            self._reject(path, f"{path.name}: {answer.reason}")
            return
        self._places.error_report(path.name).unlink(missing_ok=True)

    def _command(self, name: str, suffix: str) -> bool:
        job = name.removesuffix(suffix)
        if suffix in NOT_BUILT:
            answer = Answer(done=False, reason=f"*{suffix} files are not built yet")
        else:
            answer = self._commands.obey(COMMANDS[suffix](job))
        report = self._places.error_report(name)
        if answer.done:
            report.unlink(missing_ok=True)
        else:
            self._places.write(report.name, f"{name}: {answer.reason}\n", durable=False)
        (self._places.jobs / name).unlink()
        self._tell(
            CommandObeyed(command=suffix[1:], job=job, done=answer.done, reason=answer.reason)
        )
        return True

    # ------------------------------------------------------------ reading

    def _open(self, name: str) -> int:
        # Neither a link nor a pipe may make us read, or wait for, something else.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._places.jobs / name, flags)

    def _wait_until_ready(self, name: str, fd: int) -> os.stat_result:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise NotReady(None)
        version = Version.of(found)
        if found.st_size == 0:
            if self._readiness.seen(name, version) >= EMPTY_S:
                self._ignore(name, found, f"it has been empty for {EMPTY_S:.0f} s")
            raise NotReady(EMPTY_S)
        if (wait_s := self._readiness.wait_s(name, fd, version)) > 0:
            raise NotReady(wait_s)
        return found

    def _read_when_ready(self, name: str) -> bytes | None:
        """Return the file's bytes, None when there are too many; raises NotReady."""
        fd = self._open(name)
        try:
            found = self._wait_until_ready(name, fd)
            if found.st_size > self._max_job_bytes:
                return None
            data = b""
            while piece := os.read(fd, _READ_BYTES):
                data += piece
                if len(data) > self._max_job_bytes:
                    return None
            if Version.of(os.fstat(fd)) != Version.of(found):
                raise NotReady(0.1)
        finally:
            os.close(fd)
        if self._require_end_marker and not name.endswith(".json") and not has_end_marker(data):
            self._ignore(name, found, "it does not end with `...` (intake.require_end_marker)")
            raise NotReady(None)
        return data

    # ------------------------------------------------------------ refusing

    def _reject(self, path: Path, text: str, headlines: list[str] | None = None) -> None:
        """Say why first, then move: a crash between repeats the saying."""
        report = self._places.error_report(path.name)
        self._places.write(report.name, text.rstrip("\n") + "\n", durable=True)
        self._places.move(path, self._places.failed)
        lines = headlines or [text]
        self._tell(JobRejected(file=path.name, reason=lines[0], problems=len(lines)))

    def _ignore(self, name: str, found: os.stat_result, reason: str) -> None:
        version = Version.of(found)
        if self._told.get(name) != version:
            self._told[name] = version
            self._tell(FileIgnored(file=name, reason=reason))


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((text for test, text in kinds if test(mode)), "a device")
