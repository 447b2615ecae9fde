"""Zip archives: read by the standard library, once their table of contents was found bearable."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from datetime import datetime

from fetchd.ports import Input
from fetchd.steps.amount import too_large
from fetchd.steps.members import Members, denied
from fetchd.steps.unpack import PIECE_BYTES, bad

_END = b"PK\x05\x06"
_ENTRY = b"PK\x01\x02"
_END_BYTES = 22
_END64_LOCATOR = b"PK\x06\x07"
_END64_LOCATOR_BYTES = 20
_END64_BYTES = 56
_LONGEST_COMMENT_BYTES = 65535
_ENTRY_BYTES = 46
_LOCAL_BYTES = 30
_ENCRYPTED = 0x1
_SAYS_UTF8 = 0x800
_PLAIN_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
#: More than this for each member is no table of contents, but a way to fill the memory.
_LONGEST_ENTRY_BYTES = 4096


def extract(given: Input, members: Members) -> None:
    """Hand the members of a zip archive over; raises AttemptError where it is not whole."""
    _count_entries(given, members)
    try:
        with zipfile.ZipFile(_Seekable(given)) as archive:
            entries = archive.infolist()
            _refuse_overlaps(entries)
            for entry in entries:
                _hand_over(archive, entry, members)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as exc:
        raise bad(f"it is no zip archive, or a broken one: {exc}") from None


def _hand_over(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, members: Members) -> None:
    name = _name_of(entry)
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if "\0" in name:
        raise denied(f"{name[:60]!a} has a control character")
    if kind == stat.S_IFLNK:
        members.link(name)
    elif kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        members.other(name, "a device, pipe or socket")
    elif name.endswith("/"):
        members.folder(name)
    else:
        if entry.flag_bits & _ENCRYPTED:
            raise bad(f"{name[:60]!a} is encrypted")
        if entry.compress_type not in _PLAIN_METHODS:
            raise bad(f"{name[:60]!a} is compressed by a method that is not known")
        output = members.file(
            name,
            entry.file_size,
            executable=bool(mode & 0o100),
            mtime_s=_moment_s(entry.date_time),
        )
        if output is None:
            return
        left = entry.file_size
        with output as made, archive.open(entry) as file:
            while data := file.read(PIECE_BYTES):
                left -= len(data)
                members.write(made, data)
        if left:
            raise bad(f"{name[:60]!a} has another length than is said of it")


def _name_of(entry: zipfile.ZipInfo) -> str:
    """Return the name as it was meant: few of those who write UTF-8 say so."""
    name = entry.orig_filename
    if entry.flag_bits & _SAYS_UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _moment_s(date_time: tuple[int, int, int, int, int, int]) -> float | None:
    """Return the wall clock's moment; archives tell it in a local time that they do not name."""
    try:
        return datetime(*date_time).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _refuse_overlaps(entries: Sequence[zipfile.ZipInfo]) -> None:
    """See that no two members are made of the same bytes, as small archives of large bombs are."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise denied(f"the bytes of {entry.filename[:60]!a} belong to another member too")
        code = "utf-8" if entry.flag_bits & _SAYS_UTF8 else "cp437"
        name_bytes = len(entry.orig_filename.encode(code, "surrogateescape"))
        end = entry.header_offset + _LOCAL_BYTES + name_bytes + entry.compress_size


def _count_entries(given: Input, members: Members) -> None:
    """Refuse a table of contents that would fill the memory, before it is read as a whole."""
    start, size_bytes = _table_of(given)
    if size_bytes > members.most_files * _LONGEST_ENTRY_BYTES:
        raise too_large(f"its table of contents has {size_bytes} bytes")
    count, offset = 0, start
    window = _Window(given)
    while offset + _ENTRY_BYTES <= start + size_bytes:
        entry = window.read(offset, _ENTRY_BYTES)
        if entry[:4] != _ENTRY:
            break
        count += 1
        if count > members.most_files:
            raise too_large(f"it has more than {members.most_files} members (`max_files`)")
        name, extra, comment = struct.unpack_from("<3H", entry, 28)
        offset += _ENTRY_BYTES + name + extra + comment


def _table_of(given: Input) -> tuple[int, int]:
    """Return where the table of contents begins, and its length; raises AttemptError."""
    window = _Window(given)
    tail_bytes = min(given.size_bytes, _END_BYTES + _LONGEST_COMMENT_BYTES)
    tail = window.read(given.size_bytes - tail_bytes, tail_bytes)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise bad("it is no zip archive, or it ends too early")
    size_bytes = struct.unpack_from("<I", tail, at + 12)[0]
    (comment_bytes,) = struct.unpack_from("<H", tail, at + 20)
    if at + _END_BYTES + comment_bytes != len(tail):
        raise bad("there is more behind its end")
    end = given.size_bytes - tail_bytes + at
    locator = window.read(max(0, end - _END64_LOCATOR_BYTES), _END64_LOCATOR_BYTES)
    if locator[:4] == _END64_LOCATOR:
        # As the standard library does: what ends the large form stands right before its locator.
        end -= _END64_LOCATOR_BYTES + _END64_BYTES
        size_bytes = struct.unpack_from("<Q", window.read(max(0, end), _END64_BYTES), 40)[0]
    if size_bytes > end:
        raise bad("its table of contents is longer than the archive")
    return end - size_bytes, size_bytes


class _Window:
    """Reads here and there from one buffer."""

    def __init__(self, given: Input) -> None:
        self._given = given
        self._start = 0
        self._held = b""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return so many bytes; raises AttemptError where there are fewer."""
        if not self._start <= offset <= offset + size_bytes <= self._start + len(self._held):
            buffer = memoryview(bytearray(max(size_bytes, 64 * 1024)))
            got = 0
            while got < size_bytes and (more := self._given.readinto(buffer[got:], offset + got)):
                got += more
            self._start, self._held = offset, bytes(buffer[:got])
        found = self._held[offset - self._start :][:size_bytes]
        if len(found) < size_bytes:
            raise bad("it is no zip archive, or it ends too early")
        return found


class _Seekable(io.RawIOBase):
    """A file as ``zipfile`` reads it."""

    def __init__(self, given: Input) -> None:
        self._given = given
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._offset, self._given.size_bytes)[whence]
        if base + offset < 0:
            raise ValueError("its headers lead before its beginning")
        self._offset = base + offset
        return self._offset

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._given.size_bytes - self._offset)
        wanted = left if size < 0 else min(size, left)
        buffer = memoryview(bytearray(wanted))
        got = 0
        while got < wanted and (more := self._given.readinto(buffer[got:], self._offset)):
            got += more
            self._offset += more
        return bytes(buffer[:got])
