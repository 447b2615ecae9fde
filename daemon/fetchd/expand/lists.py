"""Lists of any length, read in batches that each continue where the last one ended."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Protocol

from fetchd import threads
from fetchd.digests.sums import is_sum, read_sum, summed_file
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand import metalink
from fetchd.expand.formats.sums_lines import url_of
from fetchd.expand.tasks import Recipe, bad_item
from fetchd.model import Batch, ListFile, Position, TaskSpec
from fetchd.paths import shown

LONGEST_LINE_BYTES = 64 * 1024
#: No line that went wrong is so long, but a disk image with the wrong ending may be all one line.
ENDLESS_LINE_BYTES = 16 * 1024 * 1024

_BATCH_BYTES = 4 * 1024 * 1024  # a batch of comments and blank lines ends too
_REMEMBERED = 16
_BOM = b"\xef\xbb\xbf"
_NO_MORE = "nothing from here on is read"


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Reading:
    """One batch to be read: of which file, named how, where it goes on, and what is told of it."""

    file: BinaryIO
    name: str
    recipe: Recipe
    position: Position | None
    hasher: _Hasher  # of all that stands before the file's place, and of what is read
    most_tasks: int

    def batch(
        self, specs: list[TaskSpec], lines: list[int], goes_on: tuple[int, int] | None
    ) -> Batch:
        """``goes_on``: offset of the next batch, and the lines before it."""
        position = None
        if goes_on is not None:
            offset_bytes, above = goes_on
            position = Position(
                offset_bytes=offset_bytes, prefix_sha256=self.hasher.hexdigest(), lines=above
            )
        return Batch(specs=tuple(specs), position=position, lines=tuple(lines))


@dataclass(frozen=True, slots=True)
class _Known:
    """The hash of a prefix as it was left behind; ``stamp`` tells an untouched file."""

    position: Position
    stamp: tuple[int, ...]
    hasher: _Hasher


class ListReader:
    """Reads batches. Any thread; a list that was edited below what was read is noticed."""

    def __init__(self, batch_tasks: int = 1000) -> None:
        self._batch_tasks = batch_tasks
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # guarded by _lock

    def read(self, listed: ListFile, recipe: Recipe, position: Position | None) -> Batch:
        """Return the tasks of the next items; raises AttemptError (list_changed, disk_error)."""
        path = listed.path
        name = _name(path)
        try:
            with _open(path) as file:
                stamp = _stamp(file)
                hasher = self._hasher_at(file, path, position, stamp, name)
                batch = FORMATS[listed.format].read(
                    _Reading(file, PurePath(path).name, recipe, position, hasher, self._batch_tasks)
                )
        except FileNotFoundError:  # an editor may put it back, or a retry that was just obeyed
            raise AttemptError(
                "list_changed", f"{name} was removed before its last line was read", transient=True
            ) from None
        except OSError as exc:
            raise AttemptError("disk_error", f"{name} cannot be read: {exc.strerror}") from None
        if batch.position is not None:
            self._remember(path, _Known(batch.position, stamp, hasher))
        return batch

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


def check_list(listed: ListFile) -> None:
    """Raise MetalinkProblem, or OSError, if nothing of the list is to be read at all.

    What is wrong with single items is no reason.
    """
    FORMATS[listed.format].check(listed.path)


def no_list(form: str, head: bytes) -> str:
    """Return why no list of this form begins with so much, "" if one may."""
    return FORMATS[form].refuse(head)


def _open(path: str) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AttemptError("list_changed", f"{_name(path)} is not a file any more")
    return os.fdopen(fd, "rb", buffering=256 * 1024)


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _name(path: str) -> str:
    return shown(PurePath(path).name)


# ---------------------------------------------------------------- a URL a line


class _Lines(Protocol):
    """What lines mean, one after the other. ``inside``: of something that is passed over."""

    inside: bool

    def of(self, line: bytes, recipe: Recipe) -> TaskSpec | None:
        """Return the task of a line, None for one that is no item; raises ValueProblem."""
        ...


class _Urls:
    inside = False

    def of(self, line: bytes, recipe: Recipe) -> TaskSpec | None:
        try:
            text = line.decode().strip(" \t\r\n")
        except UnicodeDecodeError:
            raise ValueProblem("the line is not valid UTF-8") from None
        return recipe.of_line(text) if text and not text.startswith("#") else None


def _read_lines(reading: _Reading, meaning: _Lines) -> Batch:
    file, hasher, name = reading.file, reading.hasher, reading.name
    position = reading.position
    start = position.offset_bytes if position else 0
    offset, above = start, position.lines if position else 0
    specs: list[TaskSpec] = []
    lines: list[int] = []
    while meaning.inside or (len(specs) < reading.most_tasks and offset - start < _BATCH_BYTES):
        line = file.readline(LONGEST_LINE_BYTES)
        if not line:
            return reading.batch(specs, lines, None)
        hasher.update(line)
        began, too_long = offset, False
        offset += len(line)
        while not line.endswith(b"\n") and (more := file.readline(LONGEST_LINE_BYTES)):
            hasher.update(more)
            offset += len(more)
            too_long, line = True, more
            threads.beat()
            if offset - began >= ENDLESS_LINE_BYTES:
                specs.append(_endless(f"{name}:{above + 1}"))
                lines.append(above + 1)
                return reading.batch(specs, lines, None)
        if above == 0:
            line = line.removeprefix(_BOM)
        above += 1
        try:
            if too_long:
                raise ValueProblem(f"the line is longer than {LONGEST_LINE_BYTES // 1024} KiB")
            spec = meaning.of(line, reading.recipe)
        except ValueProblem as exc:
            spec = bad_item(f"{name}:{above}", str(exc))
        if spec is not None:
            specs.append(spec)
            lines.append(above)
    return reading.batch(specs, lines, (offset, above))


def _endless(place: str) -> TaskSpec:
    most_mib = ENDLESS_LINE_BYTES // 1024**2
    return bad_item(
        place,
        f"the line has no end within {most_mib} MiB, so this is no list of lines; {_NO_MORE}",
    )


def _no_urls(head: bytes) -> str:
    found = _no_text(head)
    return f"the file {found}; a list is UTF-8 text with one URL a line" if found else ""


def _no_text(head: bytes) -> str:
    if b"\0" in head:
        return "has NUL bytes"
    if len(head) > LONGEST_LINE_BYTES and b"\n" not in head:
        return f"has no line end in its first {LONGEST_LINE_BYTES // 1024} KiB"
    return ""


# ---------------------------------------------------------------- a checksum and a name a line


class _Sums:
    """Lines of a sums file. No batch ends within a signature: the next would not know of it."""

    def __init__(self, file_name: str) -> None:
        self.inside = False
        self._file_name = file_name
        self._signature_bytes = 0

    def of(self, line: bytes, recipe: Recipe) -> TaskSpec | None:
        line = line.rstrip(b"\r\n \t")
        if self.inside:
            self._signature_bytes += len(line) + 1
            self.inside = line != _SIGNED and self._signature_bytes < _LONGEST_SIGNATURE_BYTES
            return None
        if line == _SIGNATURE:
            self.inside, self._signature_bytes = True, 0
        if not line or line.startswith(_NO_SUM):
            return None
        found = read_sum(line.removeprefix(b"- "), self._file_name)
        if found is None:
            raise ValueProblem(
                f"{line[:_SHOWN].decode('utf-8', 'backslashreplace')!r} is no checksum and a name"
            )
        name, digest = found
        if name is None and not (name := summed_file(self._file_name)):
            raise ValueProblem("the checksum has no name behind it")
        return recipe.of_sum(name, url_of(name), digest)


#: Comments, and the frame of a signature (RFC 9580 §7); lines of it that begin with "-" have "- ".
_NO_SUM = (b"#", b"-----", b"Hash: ")
_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
_SIGNED = b"-----END PGP SIGNATURE-----"
_LONGEST_SIGNATURE_BYTES = 64 * 1024
_SHOWN = 60


def _no_sums(head: bytes) -> str:
    found = _no_text(head)
    if not found:
        whole = head if len(head) <= LONGEST_LINE_BYTES else head.rpartition(b"\n")[0]
        lines = [line.rstrip(b"\r \t") for line in whole.removeprefix(_BOM).split(b"\n")]
        some = [line for line in lines if line and not line.startswith(_NO_SUM)]
        if not some or any(map(is_sum, some)):
            return ""
        found = "has no line that is a checksum and a name"
    return f"the file {found}; a sums file is text as sha256sum writes it"


# ---------------------------------------------------------------- Metalink


def _read_metalink(reading: _Reading) -> Batch:
    position = reading.position
    stretch = metalink.read(
        reading.file,
        metalink.Start(position.offset_bytes, position.lines) if position else None,
        reading.hasher.update,
        most_files=reading.most_tasks,
        most_bytes=_BATCH_BYTES,
    )
    specs = [_of_file(listed, reading.recipe, reading.name) for listed in stretch.files]
    lines = [listed.line for listed in stretch.files]
    if (problem := stretch.problem) is not None:
        specs.append(bad_item(f"{reading.name}:{problem.line}", f"{problem}; {_NO_MORE}"))
        lines.append(problem.line)
    if stretch.next is None:
        return reading.batch(specs, lines, None)
    return reading.batch(specs, lines, (stretch.next.offset_bytes, stretch.next.lines))


def _of_file(listed: metalink.ListedFile, recipe: Recipe, name: str) -> TaskSpec:
    """Return the task of a ``<file>``, failed if it is a bad one."""
    try:
        if listed.problem:
            raise ValueProblem(f"{listed.name!r}: {listed.problem}")
        return recipe.of_named(listed.name, listed.urls, listed.digests, listed.size_bytes)
    except ValueProblem as exc:
        return bad_item(f"{name}:{listed.line}", str(exc))


def _no_metalink(head: bytes) -> str:
    try:
        metalink.check_beginning(head)
    except metalink.MetalinkProblem as exc:
        return str(exc)
    return ""


def _check_metalink(path: str) -> None:
    with _open(path) as file:
        metalink.check(file)


# ---------------------------------------------------------------- forms


@dataclass(frozen=True, slots=True)
class _Format:
    """``refuse``: as ``no_list``; ``check``: as ``check_list``."""

    read: Callable[[_Reading], Batch]
    refuse: Callable[[bytes], str]
    check: Callable[[str], None]


FORMATS = {
    "urls": _Format(lambda reading: _read_lines(reading, _Urls()), _no_urls, lambda _: None),
    "sums": _Format(
        lambda reading: _read_lines(reading, _Sums(reading.name)), _no_sums, lambda _: None
    ),
    "metalink": _Format(_read_metalink, _no_metalink, _check_metalink),
}
