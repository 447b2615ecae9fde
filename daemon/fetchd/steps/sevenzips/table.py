"""The table of contents of a 7z archive: no number of it is believed before it was held to a bound.

It is kept as the bytes that it is, and its names are read one by one while members are handed over;
beside it there are a few numbers for each stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from fetchd.ports import Input
from fetchd.steps.amount import too_large
from fetchd.steps.members import Members, denied
from fetchd.steps.sevenzips.numbers import BROKEN, Bits, Cursor
from fetchd.steps.sevenzips.streams import (
    START_BYTES,
    Streams,
    check_crc,
    contents,
    read_streams,
    stretch,
)
from fetchd.steps.unpack import bad, beginning

#: A table is no longer than this, and no longer than so much for each member that there may be.
_LONGEST_BYTES = 64 * 1024 * 1024
_FREE_BYTES = 64 * 1024
_MEMBER_BYTES = 512
#: A name of more bytes is longer than any path may be.
_LONGEST_NAME_BYTES = 16 * 1024
_END, _HEADER, _ABOUT, _STREAMS, _FILES = 0, 1, 2, 4, 5
_EMPTY_STREAM, _EMPTY_FILE, _ANTI, _NAMES = range(14, 18)
_CREATED, _READ, _CHANGED, _ATTRIBUTES, _COMMENT, _PACKED_HEADER, _START, _PADDING = range(18, 26)
_OF_NO_MATTER = {_CREATED, _READ, _COMMENT, _START, _PADDING}
_HAS_MODE = 0x8000
_TICKS_TO_1970 = 116_444_736_000_000_000  # of 100 ns, since 1601
_NOBODY = Bits(None, 0)


class Entry(NamedTuple):
    """A member. ``mode``: of Unix, 0 if it has none; ``attributes``: of Windows."""

    name: str
    has_stream: bool
    is_folder: bool
    mode: int
    attributes: int
    mtime_s: float | None


class Stream(NamedTuple):
    """The bytes of a member. ``crc``: below zero, it has none."""

    size_bytes: int
    crc: int


class Table:
    """What an archive holds: its members, the lengths of their bytes, and these, all in order."""

    def __init__(self, given: Input, members: Members, streams: Streams, files: _Files) -> None:
        self._given = given
        self._members = members
        self._streams = streams
        self._files = files

    def entries(self) -> Iterator[Entry]:
        return self._files.entries()

    def streams(self) -> Iterator[Stream]:
        return map(Stream, self._streams.sizes, self._streams.crcs)

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of all members, one behind the other; wrong unless read to the end."""
        return contents(self._given, self._streams, self._members.tick)


def read(given: Input, members: Members) -> Table:
    """Read the table of contents; raises AttemptError."""
    start = beginning(given, START_BYTES)
    if len(start) < START_BYTES:
        raise bad("it ends too early")
    if zlib.crc32(start[12:]) != int.from_bytes(start[8:12], "little"):
        raise bad("its first bytes are broken")
    if start[6]:
        raise bad(f"it has version {start[6]} of its format; only version 0 is known")
    offset, size_bytes = (int.from_bytes(start[at : at + 8], "little") for at in (12, 20))
    stop = START_BYTES + offset
    if stop + size_bytes > given.size_bytes:
        raise bad(
            "it ends too early: it is cut, or the first of several volumes, which have to be "
            "joined (`concat`) before they are extracted"
        )
    if stop + size_bytes < given.size_bytes:
        raise bad("there is more behind its end")
    if not size_bytes:
        return Table(given, members, Streams(), _Files())
    check_length = partial(_check_length, members.most_files)
    check_length(size_bytes)
    data = _whole(stretch(given, stop, size_bytes, int.from_bytes(start[28:], "little")))
    cursor = Cursor(data, members.tick)
    kind = cursor.byte()
    if kind == _PACKED_HEADER:
        streams = read_streams(cursor, members, stop, check_length)
        cursor.expect_stop()
        if len(streams.sizes) != 1:
            raise bad("its table of contents is in several pieces")
        data = _whole(contents(given, streams, members.tick))
        check_crc(zlib.crc32(data), streams.crcs[0])
        stop = streams.start
        cursor = Cursor(data, members.tick)
        kind = cursor.byte()
    if kind != _HEADER:
        raise bad("its table of contents is none")
    return Table(given, members, *_table(cursor, members, stop))


def _check_length(most_files: int, size_bytes: int) -> None:
    most = min(_LONGEST_BYTES, _FREE_BYTES + most_files * _MEMBER_BYTES)
    if size_bytes > most:
        raise too_large(f"its table of contents has {size_bytes} bytes; at most {most} are read")


def _whole(pieces: Iterator[bytes]) -> bytearray:
    whole = bytearray()
    for piece in pieces:
        whole += piece
    return whole


class _Column:
    """A number for each member, or for those that ``known`` says."""

    def __init__(self, known: Bits, values: Cursor, size_bytes: int) -> None:
        self._known = known
        self._values = values
        self._size_bytes = size_bytes

    def next(self, member: int) -> int | None:
        """Return that of a member; to be asked for one after the other."""
        return self._values.fixed(self._size_bytes) if self._known[member] else None


class _Files:
    """The members, read one by one."""

    def __init__(self) -> None:
        self.count = 0
        self.empty_streams = self.empty_files = self.anti = _NOBODY
        self.names: Cursor | None = None
        self.changed: _Column | None = None
        self.attributes: _Column | None = None

    def entries(self) -> Iterator[Entry]:
        names, empty = self.names, 0
        for number in range(self.count):
            assert names is not None
            has_stream = not self.empty_streams[number]
            is_folder = False
            name = _name(names)
            if not has_stream:
                if self.anti[empty]:
                    raise denied(f"{name[:60]!a} is an order to remove a file, which is not obeyed")
                is_folder = not self.empty_files[empty]
                empty += 1
            ticks = self.changed.next(number) if self.changed else None
            attributes = self.attributes.next(number) if self.attributes else None
            yield Entry(
                name=name,
                has_stream=has_stream,
                is_folder=is_folder,
                mode=(attributes or 0) >> 16 if (attributes or 0) & _HAS_MODE else 0,
                attributes=attributes or 0,
                mtime_s=None if ticks is None else (ticks - _TICKS_TO_1970) / 1e7,
            )
        if names is not None:
            names.expect_stop()


def _name(names: Cursor) -> str:
    """Read a name in UTF-16, which ends with a zero."""
    at = names.at
    stop = min(names.stop, at + _LONGEST_NAME_BYTES)
    end = names.data.find(b"\0\0", at, stop)
    while end >= 0 and (end - at) % 2:
        end = names.data.find(b"\0\0", end + 1, stop)
    if end < 0:
        raise denied("a name is longer than any may be, or has no end")
    raw = names.take(end - at)
    names.take(2)
    try:
        return str(raw, "utf-16-le")
    except UnicodeDecodeError:
        raise denied("a name is not valid Unicode") from None


def _table(cursor: Cursor, members: Members, stop: int) -> tuple[Streams, _Files]:
    streams, files = Streams(), _Files()
    kind = cursor.byte()
    if kind == _ABOUT:  # properties of the archive, of which none was ever given a meaning
        while cursor.byte() != _END:
            cursor.take(cursor.number())
        kind = cursor.byte()
    if kind == _STREAMS:
        streams = read_streams(cursor, members, stop, members.check_room)
        kind = cursor.byte()
    if kind == _FILES:
        files = _files(cursor, members)
        kind = cursor.byte()
    if kind != _END:
        raise bad(BROKEN)
    cursor.expect_stop()
    if files.count - files.empty_streams.total != len(streams.sizes):
        raise bad(f"{BROKEN}: members and streams do not fit together")
    return streams, files


def _files(cursor: Cursor, members: Members) -> _Files:
    files = _Files()
    files.count = cursor.count(members.most_files, members)
    met: set[int] = set()
    while (kind := cursor.byte()) != _END:
        if kind in met and kind != _PADDING:
            raise bad(BROKEN)
        met.add(kind)
        one = cursor.part(cursor.number())
        if kind == _EMPTY_STREAM:
            files.empty_streams = one.bits(files.count)
        elif kind == _EMPTY_FILE:
            files.empty_files = one.bits(files.empty_streams.total)
        elif kind == _ANTI:
            files.anti = one.bits(files.empty_streams.total)
        elif kind == _NAMES:
            one.expect_here()
            files.names = one
            continue
        elif kind == _CHANGED:
            files.changed = _column(one, files.count, 8)
        elif kind == _ATTRIBUTES:
            files.attributes = _column(one, files.count, 4)
        elif kind not in _OF_NO_MATTER:
            raise bad(f"its table of contents has a property {kind}, which is not known")
        else:
            continue
        one.expect_stop()
    if files.count and files.names is None:
        raise bad("its members have no names")
    return files


def _column(cursor: Cursor, count: int, size_bytes: int) -> _Column:
    known = cursor.bits_or_all(count)
    cursor.expect_here()
    return _Column(known, cursor.part(known.total * size_bytes), size_bytes)
