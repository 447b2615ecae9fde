"""The drop folder and its four subfolders: files that move without overwriting, written whole.

A file of a category has the name CATEGORY/NAME everywhere: each of the four has a folder for it.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from fetchd.errors import ConfigError
from fetchd.ports import Os

LONGEST_NAME_BYTES = 255

#: Half-written reports, at once and in steps. One name each is enough for one thread.
_AT_ONCE, _IN_STEPS = ".writing", ".writing-steps"
_READ_BYTES = 256 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Place(enum.StrEnum):
    """``JOBS`` is the drop folder itself."""

    JOBS = ""
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    REPORTS = "reports"


SUBFOLDERS = frozenset(place.value for place in Place if place is not Place.JOBS)


class Stamp(NamedTuple):
    """What tells one version of a file from every other."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def text(self) -> str:
        """Return what tells this version from others, also after a rename, and in the next life."""
        return " ".join(map(str, self[:4]))

    def is_moved(self, before: Stamp) -> bool:
        """Whether this is the version ``before`` after a rename, which sets the ctime."""
        return self[:4] == before[:4]


class Places:
    """The only door to the drop folder. Names are as ``os.fsdecode`` gives them.

    Every folder is opened again in each turn, so that one that was deleted, replaced or mounted
    over is noticed; a subfolder that is missing is made. None is open between turns: the kernel
    announces the end of a folder only when nobody has it open. Folder thread only, after the
    constructor. Any method may raise OSError.
    """

    def __init__(self, jobs: Path, system: Os) -> None:
        """Make the folders; raises ConfigError when they cannot be made or written."""
        self.path = Path(os.path.abspath(jobs))  # noqa: PTH100 -- resolve() would pin a link
        self._system = system
        self._fds: dict[tuple[Place, str], int] = {}  # of this turn
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for place in Place:
                self._check(place)
        except OSError as exc:
            raise ConfigError(
                f"jobs: {self.path / (exc.filename or '')}: {exc.strerror}; "
                "fetchd must be able to write there"
            ) from None
        finally:
            self.end_turn()

    def _check(self, place: Place) -> None:
        fd = self._fd(place)
        if not self._system.may_write(fd):
            raise PermissionError(errno.EACCES, "no permission to write", self.of(place))
        if self._system.device(fd) != self._system.device(self._fd(Place.JOBS)):
            raise OSError(errno.EXDEV, "not on the file system of the jobs folder", self.of(place))

    def begin_turn(self) -> tuple[int, int]:
        """Open the drop folder that stands there now; returns its device and inode."""
        self.end_turn()
        found = os.fstat(self._fd(Place.JOBS))
        return found.st_dev, found.st_ino

    def end_turn(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    # ------------------------------------------------------------ looking

    def of(self, place: Place, name: str = "") -> str:
        """Return the absolute path of a place, or of a file there."""
        return str(self.path / place.value / name)

    def open_to_others(self) -> str:
        """Return what everybody on this machine may do in the drop folder, "" if nothing."""
        mode = os.fstat(self._fd(Place.JOBS)).st_mode
        if not mode & stat.S_IWOTH:
            return ""
        if mode & stat.S_ISVTX:
            return "everybody on this machine may drop job files (mode o+w)"
        return (
            "everybody on this machine may drop job files, and replace or remove those of others "
            "(mode o+w without the sticky bit)"
        )

    def entries(self, place: Place, category: str = "") -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._fd(place, category)) as found:
            yield from found

    def stat(self, place: Place, name: str) -> os.stat_result | None:
        """Return the status of the file (of a link itself), None where nothing stands."""
        try:
            fd, base = self._at(place, name, make=False)
            return os.stat(base, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, place: Place, name: str) -> int:
        """Open for reading; never waits for a pipe, never follows a link."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd, base = self._at(place, name, make=False)
        return self._system.open(base, flags, dir_fd=fd)

    def pieces(self, fd: int, most_bytes: int | None = None) -> Iterator[bytes]:
        """Yield the file from its beginning, at most ``most_bytes`` (None: all of it)."""
        buffer = memoryview(bytearray(_READ_BYTES))
        offset = 0
        while most_bytes is None or offset < most_bytes:
            wanted = len(buffer) if most_bytes is None else min(len(buffer), most_bytes - offset)
            got = self._system.read(fd, buffer[:wanted], offset)
            if not got:
                return
            offset += got
            yield bytes(buffer[:got])

    # ------------------------------------------------------------ changing

    def move(self, source: Place, target: Place, name: str) -> None:
        """Move a file under its own name; FileExistsError where something has it already."""
        self._rename_new(source, name, target, name)

    def put_away(self, source: Place, target: Place, name: str, at_s: float) -> None:
        """Move a file to where ended ones lie.

        Nothing is overwritten: a file whose name is taken gets the moment in its name.
        """
        category, slash, base = name.rpartition("/")
        for free in _names(base, at_s):
            try:
                self._rename_new(source, name, target, category + slash + free)
            except FileExistsError:
                continue
            return

    def bring_back(self, source: Place, target: Place, name: str) -> None:
        """Undo the last ``put_away`` of this name, if its file is still there."""
        category, slash, base = name.rpartition("/")
        pure = PurePath(base)
        stem, suffix = re.escape(pure.stem), re.escape(pure.suffix)
        variant = re.compile(rf"{stem}(\.\d{{8}}T\d{{6}}Z(-\d+)?)?{suffix}")
        found = [
            (entry.stat(follow_symlinks=False).st_ctime_ns, entry.name)  # a rename sets the ctime
            for entry in self.entries(source, category)
            if variant.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]
        if found:
            self._rename_new(source, category + slash + max(found)[1], target, name)

    def remove(self, place: Place, name: str) -> None:
        """Remove a file; it may be gone already."""
        with suppress(FileNotFoundError):
            fd, base = self._at(place, name, make=False)
            self._system.unlink(base, dir_fd=fd)

    def write(self, name: str, pieces: Iterable[bytes], *, durable: bool) -> None:
        """Replace a report as a whole: who reads it sees the old or the new one."""
        for _ in self._replace(name, _AT_ONCE, pieces, durable=durable):
            pass

    def write_in_steps(self, name: str, pieces: Iterable[bytes]) -> Iterator[None]:
        """As ``write``, durably, a piece a step. One at a time; other work may come between."""
        return self._replace(name, _IN_STEPS, pieces, durable=True)

    def sync(self, *places: Place) -> None:
        """Make the names in these folders durable, also those that this turn made in categories."""
        for place in places:
            self._system.fsync(self._fd(place))
            for (other, category), fd in self._fds.items():
                if category and other is place:
                    self._system.fsync(fd)

    def sync_content(self, fd: int) -> None:
        """Make what is written in an open file durable."""
        self._system.fsync(fd)

    # ------------------------------------------------------------ inside

    def _at(self, place: Place, name: str, *, make: bool) -> tuple[int, str]:
        """Return the folder that holds a file, and the file's name in it."""
        category, _, base = name.rpartition("/")
        return self._fd(place, category, make=make), base

    def _fd(self, place: Place, category: str = "", *, make: bool = False) -> int:
        key = place, category
        if key in self._fds:
            return self._fds[key]
        if category:
            self._fds[key] = self._open_below(self._fd(place), category, make=make)
        elif place is Place.JOBS:  # never made: an empty folder would take a missing mount's place
            self._fds[key] = os.open(self.path, _FOLDER)
        else:
            # Not by its path: within a turn, all of them belong to the one folder that was opened.
            self._fds[key] = self._open_below(self._fd(Place.JOBS), place.value, make=True)
        return self._fds[key]

    def _open_below(self, parent: int, name: str, *, make: bool) -> int:
        # A category is never reached through a link, which could lead anywhere.
        flags = _FOLDER if name in SUBFOLDERS else _FOLDER | os.O_NOFOLLOW
        try:
            return os.open(name, flags, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            self._system.mkdir(name, 0o777, dir_fd=parent)
            return os.open(name, flags, dir_fd=parent)

    def _rename_new(self, source: Place, name: str, target: Place, new: str) -> None:
        from_fd, name = self._at(source, name, make=False)
        to_fd, base = self._at(target, new, make=target is not Place.JOBS)
        try:
            self._system.rename_new(name, base, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        except OSError as exc:
            if exc.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
            # The file system cannot refuse to overwrite. Looking first is enough here: only this
            # thread makes names in the subfolders, and a lock keeps a second daemon out.
            if self.stat(target, new) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
            self._system.rename(name, base, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def _replace(
        self, name: str, half_written: str, pieces: Iterable[bytes], *, durable: bool
    ) -> Iterator[None]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = self._system.open(half_written, flags, 0o666, dir_fd=self._fd(Place.REPORTS))
        try:
            offset = 0
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    written = self._system.write(fd, rest, offset)
                    offset += written
                    rest = rest[written:]
                yield
            if durable:
                self._system.fsync(fd)
        finally:
            os.close(fd)
        folder = self._fd(Place.REPORTS)  # again: it may have been replaced since
        target, base = self._at(Place.REPORTS, name, make=True)
        self._system.rename(half_written, base, src_dir_fd=folder, dst_dir_fd=target)
        if durable and target != folder:
            self._system.fsync(target)


def error_text(exc: Exception) -> str:
    """Return what an error says about itself, on one line."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return f"{type(exc).__name__}: {exc}"


def error_name(file: str) -> str:
    """Return the name of the report that says why a file was refused."""
    category, slash, base = file.rpartition("/")
    return category + slash + _fitting(base, ".error.txt")


def _fitting(stem: str, ending: str) -> str:
    """Return ``stem + ending``; a stem that is too long for that is cut and told apart by hash."""
    whole = stem + ending
    if len(os.fsencode(whole)) <= LONGEST_NAME_BYTES:
        return whole
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8] + ending
    room = LONGEST_NAME_BYTES - len(os.fsencode(mark))
    return os.fsdecode(os.fsencode(stem)[:room]) + mark


def _names(name: str, at_s: float) -> Iterator[str]:
    """Yield the name, then endlessly the name with the moment (and a number) in it."""
    yield name
    pure = PurePath(name)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))
    number = 0
    while True:
        count = f"-{number}" if number else ""
        yield _fitting(pure.stem, f".{moment}{count}{pure.suffix}")
        number += 1
