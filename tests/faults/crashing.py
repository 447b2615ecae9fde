"""A machine that may lose its power at any file call, and origins whose files change.

It remembers which bytes no sync has made durable: those a power cut tears. What is recorded after
the end reaches nobody. All is stepped by one thread, so the same steps give the same story.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from faults.torture import Tripwire
from fetchd.clock import Clock
from fetchd.errors import AttemptError, StoreError
from fetchd.model import Validator
from fetchd.ports import Change, OpenRun, RangeRefused, Request
from fetchd.stores import SqliteStore

KIB = 1024
#: So long are the versions of a file, in turn; two neighbours are often of one length.
SIZES = (90 * KIB, 90 * KIB, 0, 40 * KIB, 40 * KIB, 130 * KIB + 7)
_RECEIVED_BYTES = 16 * KIB


class Crash(BaseException):
    """The daemon is no more; what is done after it has no effect."""


class CrashingOs(Tripwire):
    """``room_bytes``: so much can be written yet, None: plenty; ``admits_it``: and it says so.

    ``trip_at``: the name of a file call and how many of them; the last of these is the one that
    meets ``fault``. ``named`` hears each name that a file is about to get, and what it returns is
    called once the file has it; ``unnamed`` hears each name that a file has no more.
    """

    def __init__(self, named: Callable[[str], Callable[[], None]], unnamed: Callable[[str], None]):
        super().__init__()
        self.dead = False
        self.room_bytes: int | None = None
        self.admits_it = True
        self.trip_at: tuple[str, int] | None = None
        self._named = named
        self._unnamed = unnamed
        self._unsynced: dict[int | None, int] = {}  # inode -> first byte that may be torn
        self._given_up: dict[
            int | None, int
        ] = {}  # as above: no later sync can save what one could not

    def crash(self) -> None:
        self.dead = True
        raise Crash

    def cut_power(self, folder: Path, tear: Callable[[Path, int], None]) -> None:
        """Tear what was never synced of the files below a folder."""
        for path in sorted(folder.rglob("*")):
            inode = path.lstat().st_ino
            offset = self._given_up.get(inode, self._unsynced.get(inode))
            if offset is not None and path.is_file() and path.stat().st_size > offset:
                tear(path, offset)
        self._unsynced.clear()
        self._given_up.clear()

    def forget(self, path: Path) -> None:
        """Somebody else has written this file and synced it, or is about to remove it."""
        self._forget(path.stat().st_ino)

    def _forget(self, inode: int | None) -> None:
        self._unsynced.pop(inode, None)
        self._given_up.pop(inode, None)

    def _pass(self, name: str, *, at_folder: bool = False) -> None:
        if self.dead:
            raise Crash
        if self.trip_at is not None and self.trip_at[0] == name:
            self.trip_at = name, self.trip_at[1] - 1
            if self.trip_at[1] == 0:
                self.trip = len(self.calls) + 1
        super()._pass(name, at_folder=at_folder)

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:
        if self.room_bytes is not None:
            if self.room_bytes == 0:
                self._pass("write")
                raise OSError(28, os.strerror(28))
            data = data[: self.room_bytes]
            self.room_bytes -= len(data)
        inode = os.fstat(fd).st_ino
        self._unsynced[inode] = min(offset, self._unsynced.get(inode, offset))
        return super().write(fd, data, offset)

    def fsync(self, fd: int) -> None:
        """Only note it: this machine's power is cut in play, and real syncs take most of a test."""
        inode = os.fstat(fd).st_ino
        try:
            self._pass("fsync")
        except OSError:
            if inode in self._unsynced:
                self._given_up[inode] = self._unsynced.pop(inode)
            raise
        self._unsynced.pop(inode, None)

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        told, last = self._named(dst), _last_name(dst, dst_dir_fd)
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._forget(last)
        self._unnamed(src)
        told()

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        told = self._named(dst)
        super().link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        told()

    def unlink(self, path: str, *, dir_fd: int) -> None:
        last = _last_name(path, dir_fd)
        super().unlink(path, dir_fd=dir_fd)
        self._forget(last)
        self._unnamed(path)

    def free_bytes(self, fd: int) -> int:
        free_bytes = super().free_bytes(fd)
        if self.room_bytes is None or not self.admits_it:
            return free_bytes
        return self.room_bytes


def _last_name(name: str, dir_fd: int) -> int | None:
    """Return the inode that goes with this name, so that its number may be another's then."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino if found.st_nlink == 1 else None


def zeros(path: Path, offset: int) -> None:
    """Tear as a file system does that writes lengths before bytes."""
    size_bytes = path.stat().st_size
    os.truncate(path, offset)
    os.truncate(path, size_bytes)


TEARS: dict[str, Callable[[Path, int], None]] = {
    "cut": os.truncate,
    "zeros": zeros,
    "half": lambda path, offset: zeros(path, (offset + path.stat().st_size) // 2),
}


class CrashingStore(SqliteStore):
    """``lasts``: so many of the next records are committed before the end; None: all."""

    lasts: int | None = None

    def __init__(self, path: str, clock: Clock, on_failure: Callable[[StoreError], None]) -> None:
        super().__init__(path, clock, on_failure)
        # As with the files: what is committed counts as durable here.
        self._ledger.read(lambda db: db.execute("PRAGMA synchronous = OFF").fetchall())

    def record(self, changes: Sequence[Change], then: Callable[[], None] | None = None) -> None:
        if self.lasts == 0:
            return
        if self.lasts is not None:
            self.lasts -= 1
        super().record(changes, then)

    def reopen(self, run: int) -> OpenRun | None:
        assert self.lasts is None, "who waits for a commit cannot be played when it never comes"
        return super().reopen(run)


# ---------------------------------------------------------------- the origins


@cache
def body_of(url: str, version: int) -> bytes:
    path = urlsplit(url).path  # the same for all mirrors
    body = random.Random(f"{path} {version}").randbytes(SIZES[version % len(SIZES)])
    return body or str(version).encode()


@dataclass
class Resource:
    """What one origin has under one URL. ``since``: when each version came, by ``Origins.now``.

    ``validator``: of which kind it sends; ``lies``: a condition is not heeded, and the rest of
    whatever version there is comes.
    """

    url: str
    since: list[int] = field(default_factory=lambda: [0])
    validator: str = "strong"
    lies: bool = False
    status: int | None = None

    @property
    def version(self) -> int:
        return len(self.since) - 1

    @property
    def body(self) -> bytes:
        return body_of(self.url, self.version)

    def bodies_after(self, moment: int) -> set[bytes]:
        """Return every version that was the current one at that moment or later."""
        first = max(n for n, since in enumerate(self.since) if n == 0 or since < moment)
        return {body_of(self.url, version) for version in range(first, len(self.since))}

    def identity(self) -> Validator:
        """Return what is sent to identify the version; a weak ETag is the same for all.

        What is a version's ETag at one origin is that of its neighbour at another.
        """
        number = self.version + len(urlsplit(self.url).netloc) % 2
        etags = {"strong": f'"{number}"', "weak": 'W/"any"', "none": None}
        return Validator(etag=etags[self.validator])

    def heal(self) -> None:
        self.status, self.lies, self.validator = None, False, "strong"


class Origins:
    """Every origin that there is, as one ``Transport``. ``now`` counts the steps of the story.

    ``cut``: after so many bytes each body ends; None: after all of them.
    """

    def __init__(self) -> None:
        self.now = 0
        self.cut: int | None = None
        self.resources: dict[str, Resource] = {}

    def at(self, url: str) -> Resource:
        return self.resources.setdefault(url, Resource(url))

    def open(self, request: Request, wanted: Callable[[], bool]) -> Answer:
        resource = self.at(request.url)
        if resource.status is not None:
            raise _refusal(resource.status)
        now = resource.identity()
        unless, start, body = request.unless, request.start, resource.body
        if unless is not None and unless.etag is not None and unless.etag == now.etag:
            return Answer(request.url, now, b"", start=0, not_modified=True)
        if request.if_range not in {None, now.etag} and not resource.lies:
            start = 0
        if start >= len(body):
            raise RangeRefused(len(body))
        return Answer(request.url, now, body, start=start, cut=self.cut)

    def close(self) -> None:
        pass


def _refusal(status: int) -> AttemptError:
    return AttemptError(
        "bad_status",
        f"status {status}",
        transient=status >= 500,
        status=status,
        retry_after_s=40.0 if status == 503 else None,
    )


class Answer:
    """A body on its way, of the version of the moment of asking, by its length."""

    framed, content_type = True, "application/octet-stream"
    held_s = 0.0
    wish: tuple[str, float] | None = None
    file_name: str | None = None

    def __init__(
        self,
        url: str,
        validator: Validator,
        body: bytes,
        *,
        start: int,
        cut: int | None = None,
        not_modified: bool = False,
    ) -> None:
        self.start, self.total, self.final_url = start, len(body), url
        self.validator, self.not_modified = validator, not_modified
        self._rest = memoryview(body)[start:]
        self._left = len(body) if cut is None else cut

    def readinto(self, buffer: memoryview) -> int:
        if self._rest and not self._left:
            raise AttemptError("short_body", "cut")
        piece = self._rest[: min(len(buffer), _RECEIVED_BYTES, self._left)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        self._left -= len(piece)
        return len(piece)

    def close(self) -> None:
        pass
