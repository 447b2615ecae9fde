"""Generations: the files of each run below one folder, of which readers see one set at a time.

::

    DEST/current                   a link to the generation that is seen
    DEST/generations/NAME/...      the files of one run
    .fetchd/generations/KEY/NAME   what fetchd has made there: a head, then a line for each file

A line is written before its file gets its name. The record's own name ends in ``.open`` until all
of the generation is there. What no line tells of, or not as it is now, is somebody else's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from fetchd.clock import Failpoints
from fetchd.disk.bench import NO_LINKS
from fetchd.disk.made import Record, find_made, read_made
from fetchd.disk.part import make_folder, part_name
from fetchd.disk.roots import HIDDEN, Folder, Place, Root, explained, held, shown
from fetchd.disk.system import write_all
from fetchd.errors import AttemptError
from fetchd.model import Fetch, Finish, Generations, Job, Publish, Run
from fetchd.ports import Os
from fetchd.threads import beat

FOLDER = "generations"
#: The end of the record's name as long as its generation is not complete.
OPEN = ".open"
#: The end of a copy's name as long as it is not whole.
COPY = ".copy"
#: So many lines are written at once.
BATCH = 256
NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_APPEND = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
_NEW = os.O_CREAT | os.O_EXCL
_BUFFER_BYTES = 1024 * 1024
_LONGEST_HEAD_BYTES = 16 * 1024


def name_of(run: Run) -> str:
    """Return the name of a run's generation, which no other run of this state has."""
    return f"{datetime.fromtimestamp(run.scheduled_for_s, UTC):%Y%m%dT%H%M%SZ}-{run.id}"


def path_in(job: Job, run: Run, root: str, path: str) -> str:
    """Return where a path of a run lies: below ``current`` it is one of its generation."""
    own = job.generations
    if own is None or root != own.root or not path.startswith(f"{own.current}/"):
        return path
    return f"{own.dest}/{FOLDER}/{name_of(run)}/{path[len(own.current) + 1 :]}"


class Entry(NamedTuple):
    """A file, or link, that a task has in a generation; both paths are below its folder."""

    group: str
    task: str
    path: str
    size_bytes: int
    mtime_ns: int
    inode: int

    def is_at(self, place: Place) -> bool:
        """Tell whether it stands there, as it was."""
        found = status_at(place)
        return found is not None and self == self.of(found)

    def of(self, found: os.stat_result) -> Entry:
        """Return the same with the numbers of another file."""
        return self._replace(
            size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino
        )


class Shelves:
    """Where the runs of jobs find their generations. Any thread."""

    def __init__(
        self,
        roots: Mapping[str, Root],
        system: Os,
        failpoints: Failpoints,
        sync: Callable[[int], None],
    ) -> None:
        self._roots = roots
        self._system = system
        self._failpoints = failpoints
        self._sync = sync
        self._lock = threading.Lock()

    def of(self, job: Job, run: Run) -> Shelf | None:
        """Return what a run has of them, None: its files appear each by itself."""
        root = None if job.generations is None else self._roots.get(job.generations.root)
        if root is None:
            return None
        return Shelf(self._system, root, job, run, self._lock, self._failpoints, self._sync)


class Shelf:
    """The generations of one job below one folder, as one of its runs sees them. Any thread."""

    def __init__(
        self,
        system: Os,
        root: Root,
        job: Job,
        run: Run,
        lock: threading.Lock,
        failpoints: Failpoints,
        sync: Callable[[int], None],
    ) -> None:
        """``lock`` is held while a record is begun, by whichever shelf."""
        assert job.generations is not None
        self.own: Generations = job.generations
        self.name = name_of(run)
        self.system = system
        self.root = root
        self.failpoints = failpoints
        self.sync = sync
        self.job = job
        self.run = run
        self._head = {"job": job.name, "run": run.id, "scheduled_for_s": run.scheduled_for_s}
        self._lock = lock
        self._key = part_name(root.name, self.own.dest)
        self._records: Folder | None = None  # once it was found

    def below(self, path: str) -> str | None:
        """Return a path of the run as one below its generation, None: it is none of these."""
        current, path = f"{self.own.current}/", path.removeprefix("./")
        return path[len(current) :] if path.startswith(current) else None

    def task_at(self, path: str) -> str | None:
        """Return what tells the task with this path from others of its generation."""
        below = self.below(path)
        return f"./{below}" if below is not None and path.startswith("./") else below

    def path_of(self, task: str) -> str:
        """Return the path of a task: the way back from ``task_at``."""
        dots = "./" if task.startswith("./") else ""
        return f"{dots}{self.own.current}/{task.removeprefix('./')}"

    @property
    def place_key(self) -> str:
        """Return what no other generation has."""
        return f"{self._key} {self.name}"

    def entries_of(
        self, attempt: Fetch | Finish | Publish, found: os.stat_result | Iterable[Record]
    ) -> Iterator[Entry]:
        """Return the lines of a task's file, or of what its steps have made."""
        below, task = self.below(attempt.task.spec.path), self.task_at(attempt.task.spec.path)
        if below is None or task is None:
            return
        if isinstance(found, os.stat_result):
            yield Entry(attempt.group.name, task, below, 0, 0, 0).of(found)
            return
        above, slash, _ = below.rpartition("/")
        for record in found:
            yield Entry(attempt.group.name, task, f"{above}{slash}{record.path}", *record[1:])

    def place(self, name: str, below: str, *, make: bool = False) -> Place:
        """Return where a file of a generation lies; raises AttemptError."""
        return self.root.place(f"{self.own.dest}/{FOLDER}/{name}/{below}", make=make)

    def seen(self) -> str | None:
        """Return the name of the generation that readers see, None: there is none yet.

        Raises AttemptError (dest_conflict) for anything there that is not this job's link.
        """
        place = self.root.place(self.own.current)
        if place.missing:
            return None
        with self.explained("reading the link to the current generation"):
            try:
                target = os.readlink(place.name, dir_fd=place.folder.fd)
            except FileNotFoundError:
                return None
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                raise self._conflict("is no link") from None
        folder, _, name = target.rpartition("/")
        if folder != FOLDER or not NAME.fullmatch(name):
            raise self._conflict("is a link to elsewhere")
        head = self.head(name)
        if head is None:
            raise self._conflict(f"leads to {name}, of which no record is left")
        if head.get("job") != self.job.name:
            raise AttemptError(
                "dest_conflict",
                f"{self._shown}: the generations below {shown(self.own.dest)!r} are those of job "
                f"{head.get('job')!r}; give one of the two another dest, or remove the link if "
                "that job is no more",
            )
        return name

    def last(self) -> str | None:
        """Return the generation that this one follows, None: there is none."""
        name = self.seen()
        return None if name == self.name else name

    def before(self, root: str, path: str) -> Place | None:
        """Return where a path lies in the generation before, None: it lies in none."""
        below = self.below(path) if root == self.own.root else None
        last = None if below is None else self.last()
        return None if below is None or last is None else self.place(last, below)

    def _conflict(self, what: str) -> AttemptError:
        return AttemptError(
            "dest_conflict",
            f"{self._shown} {what}, and so not fetchd's to replace; move it away",
        )

    @property
    def _shown(self) -> str:
        return f"{self.own.root}:{shown(self.own.current)}"

    def explained(self, what: str) -> explained:
        return explained(self.root.name, self.own.dest, what)

    # ------------------------------------------------------------ records

    def records(self, *, make: bool = False) -> Folder | None:
        """Return the folder of the records, None: there is none."""
        if self._records is None:
            self._records = self._find_records(make=make)
        return self._records

    def _find_records(self, *, make: bool) -> Folder | None:
        home = self.place(self.name, "x").home
        path = f"{HIDDEN}/{FOLDER}/{self._key}"
        with self.explained("the folder of the records"):
            try:
                return home.inner(self.system, path)
            except FileNotFoundError:
                if not make:
                    return None
            make_folder(self.system, self.root, home)
            above = home.inner(self.system, HIDDEN)
            for name in (FOLDER, self._key):
                with suppress(FileExistsError):
                    self.system.mkdir(name, 0o700, dir_fd=above.fd)
                self.sync(above.fd)
                above = above.inner(self.system, name)
            return home.inner(self.system, path)

    def head(self, name: str) -> dict[str, Any] | None:
        """Return what the record of a generation begins with, None: there is no such record."""
        for record in (name, name + OPEN):
            with self._reading(record) as fd:
                if fd is not None:
                    return self._head_of(fd)
        return None

    @contextmanager
    def _reading(self, record: str) -> Iterator[int | None]:
        folder = self.records()
        with self.explained("reading a record"):
            fd = None
            with suppress(FileNotFoundError):
                if folder is not None:
                    fd = self.system.open(record, _READ, dir_fd=folder.fd)
            try:
                yield fd
            finally:
                if fd is not None:
                    os.close(fd)

    def _head_of(self, fd: int) -> dict[str, Any] | None:
        buffer = memoryview(bytearray(_LONGEST_HEAD_BYTES))
        line = bytes(buffer[: self.system.read(fd, buffer, 0)]).partition(b"\n")[0]
        with suppress(ValueError):
            head = json.loads(line)
            return head if isinstance(head, dict) else None
        return None

    def entries(self, name: str) -> Iterator[Entry]:
        """Yield what is on record of a generation, read from the disk as it is asked for."""
        for record in (name, name + OPEN):
            with self._reading(record) as fd:
                if fd is not None:
                    yield from self._entries(fd)
                    return

    def _entries(self, fd: int) -> Iterator[Entry]:
        with os.fdopen(fd, encoding="ascii", errors="replace", closefd=False) as file:
            for line in file:
                beat()
                with suppress(ValueError):  # one that is torn tells of nothing
                    said = json.loads(line)
                    if isinstance(said, list) and len(said) == len(Entry._fields):
                        yield Entry(*said)

    def is_closed(self) -> bool:
        """Tell whether all of the generation is there, so that it is never changed again."""
        with self._reading(self.name) as fd:
            if fd is not None:
                self._check_head(fd)
            return fd is not None

    def _check_head(self, fd: int) -> None:
        if (head := self._head_of(fd)) != self._head:
            raise AttemptError(
                "dest_conflict",
                f"{self._shown}: the generation {self.name} is that of another run ({head}); "
                "begin the job again",
            )

    def check_open(self) -> None:
        """Refuse to add to what is seen already; raises AttemptError."""
        if self.is_closed():
            raise AttemptError(
                "dest_conflict",
                f"{self._shown}: the outputs of this run are complete, and nothing is added to "
                "them; begin the job again",
            )

    def note(self, entries: Sequence[Entry], *, sync: bool = False) -> None:
        """Put down what is going to be there; ``sync``: durably. Raises AttemptError."""
        text = "".join(f"\n{json.dumps(entry)}" for entry in entries)
        with self.explained("writing the record of the generation"):
            fd = self._open_record()
            try:
                # With O_APPEND all go behind the end, and each behind a line's end: another
                # may be torn.
                write_all(self.system, fd, memoryview(text.encode("ascii")), 0)
                if sync:
                    self.sync(fd)
            finally:
                os.close(fd)

    def _open_record(self) -> int:
        folder = self.records(make=True)
        assert folder is not None
        with held(self._lock):
            self.check_open()
            with suppress(FileNotFoundError):
                fd = self.system.open(self.name + OPEN, _APPEND, dir_fd=folder.fd)
                try:
                    self._check_head(fd)
                except BaseException:
                    os.close(fd)
                    raise
                return fd
            fd = self.system.open(self.name + OPEN, _APPEND | _NEW, 0o600, dir_fd=folder.fd)
            try:
                data = json.dumps(self._head).encode("ascii")
                write_all(self.system, fd, memoryview(data), 0)
                self.sync(fd)
                self.sync(folder.fd)
            except BaseException:
                os.close(fd)
                with suppress(OSError):
                    self.system.unlink(self.name + OPEN, dir_fd=folder.fd)
                raise
            return fd

    # ------------------------------------------------------------ what stays as it is

    def keep(self, attempt: Fetch | Finish) -> None:
        """Let what a task has in the generation before be in this one; raises AttemptError."""
        path, last = attempt.task.spec.path, self.last()
        below = self.below(path)
        if last is None or below is None:
            return
        before = self.place(last, below)
        with self.explained("looking at what stays as it is"):
            found: os.stat_result | Iterable[Record] | None
            if attempt.group.steps:
                made = find_made(self.system, before.home)
                name = part_name(self.own.root, path)
                found = None if made is None else read_made(self.system, made, name)
            else:
                found = status_at(before)
            entries = [] if found is None else list(self.entries_of(attempt, found))
        if (lost := self.carry(last, entries)) is not None:
            raise AttemptError(
                "disk_error",
                f"{self.own.root}:{shown(lost.path)}: somebody changes it while it is kept",
            )

    def carry(self, last: str, entries: Iterable[Entry]) -> Entry | None:
        """Let files of another generation be ones of this too; returns one that is not there.

        What this one has already stays. Raises AttemptError.
        """
        lost: Entry | None = None
        entries = iter(entries)
        while batch := list(islice(entries, BATCH)):
            wanted: list[tuple[Entry, Place, Place]] = []
            for entry in batch:
                beat()
                with self.explained("looking for an unchanged file"):
                    source, target = (self.place(name, entry.path) for name in (last, self.name))
                    if status_at(target) is not None:
                        continue
                    if entry.is_at(source):
                        wanted.append((entry, source, target))
                    else:
                        lost = entry
            if wanted:
                self.note([entry for entry, _, _ in wanted])
                self.failpoints.pass_by("generation.noted")
            for entry, source, target in wanted:
                beat()
                with explained(self.root.name, entry.path, "linking an unchanged file"):
                    if not self._carry(last, entry, source, target):
                        lost = entry
                self.failpoints.pass_by("generation.linked")
        return lost

    def _carry(self, last: str, entry: Entry, source: Place, target: Place) -> bool:
        if target.missing:
            target = self.place(self.name, entry.path, make=True)
            self._like(last, entry.path)
        names = {"src_dir_fd": source.folder.fd, "dst_dir_fd": target.folder.fd}
        try:
            self.system.link(source.name, target.name, **names)
        except FileExistsError:
            return True  # published since it was looked for
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno not in NO_LINKS:
                raise
            return self._copy(source, target, entry)
        made, now = status_at(target), status_at(source)
        if made is None or now is None or entry.is_at(target) or made.st_ino != now.st_ino:
            return True  # as it should be, or another task has published its own since
        self.system.unlink(target.name, dir_fd=target.folder.fd)  # it was replaced in between
        return False

    def _like(self, last: str, path: str) -> None:
        """Give new folders the modes that they have in another generation."""
        while path := path.rpartition("/")[0]:
            there = self.place(last, f"{path}/x").folder.fd
            here = self.place(self.name, f"{path}/x").folder.fd
            mode = stat.S_IMODE(os.fstat(there).st_mode)
            if mode != stat.S_IMODE(os.fstat(here).st_mode):
                os.fchmod(here, mode)

    def _copy(self, source: Place, target: Place, entry: Entry) -> bool:
        """Do what a hard link would, where the file system has none, or no more of this file."""
        folder = self.records(make=True)
        assert folder is not None
        draft = part_name(self.name, entry.path) + COPY
        with suppress(FileNotFoundError):
            self.system.unlink(draft, dir_fd=folder.fd)
        if entry.is_at(source) and _is_link(source):
            os.symlink(os.readlink(source.name, dir_fd=source.folder.fd), draft, dir_fd=folder.fd)
        elif not self._copy_bytes(source, draft, folder, entry):
            return False
        made = os.stat(draft, dir_fd=folder.fd, follow_symlinks=False)
        self.note([entry.of(made)])
        self.system.rename(draft, target.name, src_dir_fd=folder.fd, dst_dir_fd=target.folder.fd)
        return True

    def _copy_bytes(self, source: Place, draft: str, folder: Folder, entry: Entry) -> bool:
        given = self.system.open(source.name, _READ, dir_fd=source.folder.fd)
        try:
            found = os.fstat(given)
            made = self.system.open(draft, os.O_WRONLY | _NEW, 0o600, dir_fd=folder.fd)
            try:
                buffer, offset = memoryview(bytearray(_BUFFER_BYTES)), 0
                while got := self.system.read(given, buffer, offset):
                    write_all(self.system, made, buffer[:got], offset)
                    offset += got
                    beat()
                self.root.dress(made)
                os.fchmod(made, stat.S_IMODE(found.st_mode))
                os.utime(made, ns=(found.st_atime_ns, found.st_mtime_ns))
                self.sync(made)
            finally:
                os.close(made)
            return entry == entry.of(os.fstat(given))
        finally:
            os.close(given)


def status_at(place: Place) -> os.stat_result | None:
    """Return what stands at a place, of whatever kind, None: nothing."""
    if place.missing:
        return None
    try:
        return os.stat(place.name, dir_fd=place.folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_link(place: Place) -> bool:
    found = status_at(place)
    return found is not None and stat.S_ISLNK(found.st_mode)
