"""A ``*.urls`` file of any length, read in batches that each continue where the last one ended."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Protocol

from fetchd import threads
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand.paths import shown
from fetchd.expand.tasks import Recipe
from fetchd.model import Batch, Position, TaskSpec

LONGEST_LINE_BYTES = 64 * 1024
#: No line that went wrong is so long, but a disk image with the wrong ending may be all one line.
ENDLESS_LINE_BYTES = 16 * 1024 * 1024

_BATCH_BYTES = 4 * 1024 * 1024  # a batch of comments and blank lines ends too
_REMEMBERED = 16
_LONGEST_REASON = 400
_BOM = b"\xef\xbb\xbf"


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """The hash of a prefix as it was left behind; ``stamp`` tells an untouched file."""

    position: Position
    stamp: tuple[int, ...]
    hasher: _Hasher


class ListReader:
    """Reads batches. Any thread; a list that was edited below what was read is noticed."""

    def __init__(self, batch_lines: int = 1000) -> None:
        self._batch_lines = batch_lines
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # guarded by _lock

    def read(self, path: str, recipe: Recipe, position: Position | None) -> Batch:
        """Return the tasks of the next lines; raises AttemptError (list_changed, disk_error)."""
        name = _name(path)
        try:
            with _open(path) as file:
                stamp = _stamp(file)
                hasher = self._hasher_at(file, path, position, stamp, name)
                return self._batch(file, path, recipe, position, hasher, stamp)
        except FileNotFoundError:
            raise AttemptError(
                "list_changed", f"{name} was removed before its last line was read"
            ) from None
        except OSError as exc:
            raise AttemptError("disk_error", f"{name} cannot be read: {exc.strerror}") from None

    def _batch(
        self,
        file: BinaryIO,
        path: str,
        recipe: Recipe,
        position: Position | None,
        hasher: _Hasher,
        stamp: tuple[int, ...],
    ) -> Batch:
        name = PurePath(path).name
        start = position.offset_bytes if position else 0
        offset, lines = start, position.lines if position else 0
        specs: list[TaskSpec] = []
        while len(specs) < self._batch_lines and offset - start < _BATCH_BYTES:
            line = file.readline(LONGEST_LINE_BYTES)
            if not line:
                return Batch(specs=tuple(specs), position=None)
            hasher.update(line)
            began, too_long = offset, False
            offset += len(line)
            while not line.endswith(b"\n") and (more := file.readline(LONGEST_LINE_BYTES)):
                hasher.update(more)
                offset += len(more)
                too_long, line = True, more
                threads.beat()
                if offset - began >= ENDLESS_LINE_BYTES:
                    specs.append(_endless(f"{name}:{lines + 1}"))
                    return Batch(specs=tuple(specs), position=None)
            if lines == 0:
                line = line.removeprefix(_BOM)
            lines += 1
            if spec := _spec(line, recipe, f"{name}:{lines}", too_long=too_long):
                specs.append(spec)
        reached = Position(offset_bytes=offset, prefix_sha256=hasher.hexdigest(), lines=lines)
        self._remember(path, _Known(reached, stamp, hasher))
        return Batch(specs=tuple(specs), position=reached)

    def _hasher_at(
        self,
        file: BinaryIO,
        path: str,
        position: Position | None,
        stamp: tuple[int, ...],
        name: str,
    ) -> _Hasher:
        """Go to the position and return the hash of all before it, compared with what it was."""
        hasher: _Hasher = hashlib.sha256()
        if position is None:
            return hasher
        with self._lock:
            known = self._known.pop(path, None)
        if known is not None and (known.position, known.stamp) == (position, stamp):
            file.seek(position.offset_bytes)
            return known.hasher
        left = position.offset_bytes
        while left and (block := file.read(min(left, 1024 * 1024))):
            hasher.update(block)
            left -= len(block)
            threads.beat()
        if left or hasher.hexdigest() != position.prefix_sha256:
            raise AttemptError(
                "list_changed",
                f"{name} was edited above line {position.lines + 1} after it had been accepted",
            )
        return hasher

    def _remember(self, path: str, known: _Known) -> None:
        with self._lock:
            self._known[path] = known
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _open(path: str) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AttemptError("list_changed", f"{_name(path)} is not a file any more")
    return os.fdopen(fd, "rb", buffering=256 * 1024)


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _spec(line: bytes, recipe: Recipe, place: str, *, too_long: bool) -> TaskSpec | None:
    """Return the task of a line, failed if it is a bad one; None for a blank or a comment."""
    try:
        if too_long:
            raise ValueProblem(f"the line is longer than {LONGEST_LINE_BYTES // 1024} KiB")
        try:
            text = line.decode().strip(" \t\r\n")
        except UnicodeDecodeError:
            raise ValueProblem("the line is not valid UTF-8") from None
        if not text or text.startswith("#"):
            return None
        return recipe.of_line(text)
    except ValueProblem as exc:
        return bad_item(place, str(exc))


def _endless(place: str) -> TaskSpec:
    most_mib = ENDLESS_LINE_BYTES // 1024**2
    return bad_item(
        place,
        f"the line has no end within {most_mib} MiB, so this is no list of URLs (one a line); "
        "nothing from here on is read",
    )


def bad_item(place: str, why: str) -> TaskSpec:
    """Return the task of an item that can only fail.

    Its path is its place, made unlike any path that a good item can have by the first ``./``.
    """
    path = f"./{place}"
    why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON]}..."
    reason = shown(f"{place}: {why}")
    return TaskSpec(key=path, sources=(), path=path, problem=("bad_item", reason))


def _name(path: str) -> str:
    return shown(PurePath(path).name)
