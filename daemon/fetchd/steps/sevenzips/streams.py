"""The streams of a 7z archive: where they are, what packed them, whose bytes come out of them."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, repeat

from fetchd.ports import Input
from fetchd.steps.members import Members
from fetchd.steps.sevenzips.coders import Coder, check, unpacked
from fetchd.steps.sevenzips.numbers import BROKEN, UNKNOWN, Cursor
from fetchd.steps.unpack import bad

#: The archive begins with as many bytes, behind which offsets count.
START_BYTES = 32
_READ_BYTES = 256 * 1024
_MOST_CODERS = 4
_END, _PACKED, _FOLDERS, _SUBSTREAMS = 0, 6, 7, 8
_SIZE, _CRC, _FOLDER, _CODER_SIZES, _STREAMS_IN_FOLDERS = range(9, 14)
_HAS_ALTERNATIVES = 0xC0
_HAS_STREAMS = 0x10
_HAS_PROPERTIES = 0x20


def _lengths() -> array[int]:
    return array("Q")


def _crcs() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Streams:
    """What is packed: folders, each of which becomes the bytes of some members."""

    start: int = START_BYTES
    packed_bytes: array[int] = field(default_factory=_lengths)
    packed_crcs: array[int] = field(default_factory=_crcs)
    table: bytearray = field(default_factory=bytearray)
    places: array[int] = field(default_factory=_lengths)  # of the folders, in the table
    coder_bytes: array[int] = field(default_factory=_lengths)
    folder_bytes: array[int] = field(default_factory=_lengths)
    folder_crcs: array[int] = field(default_factory=_crcs)
    counts: array[int] = field(default_factory=_lengths)  # of the members of each folder
    sizes: array[int] = field(default_factory=_lengths)  # of each member
    crcs: array[int] = field(default_factory=_crcs)

    def folders(self, tick: Callable[[], None]) -> Iterator[list[Coder]]:
        """Yield the coders of each folder, the first to be undone first."""
        at = 0
        for place in self.places:
            order, methods = _folder(Cursor(self.table, tick, place))
            yield [Coder(*methods[number], self.coder_bytes[at + number]) for number in order]
            at += len(order)


def read_streams(
    cursor: Cursor, members: Members, stop: int, check_room: Callable[[int], None]
) -> Streams:
    """Read where streams are and what they are; ``stop``: none goes on behind it.

    ``check_room`` raises AttemptError if so many bytes are too many to come out.
    """
    streams = Streams(table=cursor.data)
    kind = cursor.byte()
    if kind == _PACKED:
        _read_packed(cursor, streams, members, stop)
        kind = cursor.byte()
    if kind == _FOLDERS:
        _read_folders(cursor, streams, members, check_room)
        kind = cursor.byte()
    if len(streams.packed_bytes) != len(streams.places):
        raise bad(f"{BROKEN}: folders and streams do not fit together")
    _read_members_of_folders(cursor, streams, members, kind)
    return streams


def _read_packed(cursor: Cursor, streams: Streams, members: Members, stop: int) -> None:
    streams.start += cursor.number()
    # A folder of several streams is refused for what packed it, which takes no more than these.
    count = cursor.count(4 * members.most_files, members)
    kind = cursor.byte()
    if kind == _SIZE:
        streams.packed_bytes.extend(cursor.number() for _ in range(count))
        kind = cursor.byte()
    if len(streams.packed_bytes) != count or streams.start + sum(streams.packed_bytes) > stop:
        raise bad(f"{BROKEN}: streams lie outside of the archive")
    if kind == _CRC:
        streams.packed_crcs.extend(cursor.crcs(count))
        kind = cursor.byte()
    else:
        streams.packed_crcs.extend(repeat(UNKNOWN, count))
    if kind != _END:
        raise bad(BROKEN)


def _read_folders(
    cursor: Cursor, streams: Streams, members: Members, check_room: Callable[[int], None]
) -> None:
    cursor.expect(_FOLDER)
    count = cursor.count(members.most_files, members)
    cursor.expect_here()
    coders, last = 0, _lengths()
    for _ in range(count):
        streams.places.append(cursor.at)
        order, methods = _folder(cursor)
        for method, _properties in methods:
            check(method)
        last.append(coders + order[-1])
        coders += len(order)
    cursor.expect(_CODER_SIZES)
    for _ in range(coders):
        size_bytes = cursor.number()
        check_room(size_bytes)
        streams.coder_bytes.append(size_bytes)
    streams.folder_bytes.extend(streams.coder_bytes[number] for number in last)
    check_room(sum(streams.folder_bytes))
    kind = cursor.byte()
    if kind == _CRC:
        streams.folder_crcs.extend(cursor.crcs(count))
        kind = cursor.byte()
    else:
        streams.folder_crcs.extend(repeat(UNKNOWN, count))
    if kind != _END:
        raise bad(BROKEN)


def _folder(cursor: Cursor) -> tuple[list[int], list[tuple[bytes, bytes]]]:
    """Read a chain of coders: their order when they are undone, and what each is."""
    count = cursor.number()
    if not 0 < count <= _MOST_CODERS:
        raise bad(f"something is packed {count} times over; at most {_MOST_CODERS} times may be")
    methods = []
    for _ in range(count):
        flags = cursor.byte()
        if flags & _HAS_ALTERNATIVES:
            raise bad(f"{BROKEN}: a coder has marks that are not known")
        method = bytes(cursor.take(flags & 0x0F))
        if flags & _HAS_STREAMS and (cursor.number(), cursor.number()) != (1, 1):
            check(method)
            raise bad("it is packed into several streams at once, which is not known here")
        size_bytes = cursor.number() if flags & _HAS_PROPERTIES else 0
        methods.append((method, bytes(cursor.take(size_bytes))))
    follows = {}
    for _ in range(count - 1):
        into, out_of = cursor.number(), cursor.number()
        follows[out_of] = into
    first = set(range(count)) - set(follows.values())
    order = [first.pop()] if len(first) == 1 else []
    while order and order[-1] in follows:
        order.append(follows[order[-1]])
    if sorted(order) != list(range(count)):
        raise bad(f"{BROKEN}: what was packed first does not become clear")
    return order, methods


def _read_members_of_folders(cursor: Cursor, streams: Streams, members: Members, kind: int) -> None:
    """Read how the bytes of each folder are shared by members; without a word it is one's."""
    folders = len(streams.places)
    told = kind == _SUBSTREAMS
    if told:
        kind = cursor.byte()
    if told and kind == _STREAMS_IN_FOLDERS:
        total = 0
        for _ in range(folders):
            count = cursor.count(members.most_files - total, members)
            total += count
            streams.counts.append(count)
        kind = cursor.byte()
    else:
        streams.counts.extend(repeat(1, folders))
    has_sizes = told and kind == _SIZE
    for size_bytes, count in zip(streams.folder_bytes, streams.counts, strict=True):
        streams.sizes.extend(_shares(cursor, size_bytes, count, has_sizes=has_sizes))
    if has_sizes:
        kind = cursor.byte()
    has_crcs = told and kind == _CRC
    _read_crcs(cursor, streams, has_crcs=has_crcs)
    if has_crcs:
        kind = cursor.byte()
    if told:
        if kind != _END:
            raise bad(BROKEN)
        kind = cursor.byte()
    if kind != _END:
        raise bad(BROKEN)


def _shares(cursor: Cursor, size_bytes: int, count: int, *, has_sizes: bool) -> Iterator[int]:
    """Yield the lengths of the members of one folder; that of the last one is what is left."""
    if count > 1 and not has_sizes:
        raise bad(f"{BROKEN}: members have no lengths")
    if size_bytes and not count:
        raise bad(f"{BROKEN}: a folder has bytes that are nobody's")
    for _ in range(count - 1):
        share = cursor.number()
        size_bytes -= share
        if size_bytes < 0:
            raise bad(f"{BROKEN}: members are longer than their folder")
        yield share
    if count:
        yield size_bytes


def _read_crcs(cursor: Cursor, streams: Streams, *, has_crcs: bool) -> None:
    """Read the checksums of members, but for those that have a folder to themselves, and its."""
    missing = sum(0 if known else count for count, known in _known(streams))
    crcs = cursor.crcs(missing) if has_crcs else repeat(UNKNOWN)
    for folder, (count, known) in enumerate(_known(streams)):
        if known:
            streams.crcs.append(streams.folder_crcs[folder])
        else:
            streams.crcs.extend(islice(crcs, count))
    if has_crcs and not missing:
        next(crcs, None)  # what says that there are none


def _known(streams: Streams) -> Iterator[tuple[int, bool]]:
    """Yield how many members each folder has, and whether its checksum is that of its only one."""
    for count, crc in zip(streams.counts, streams.folder_crcs, strict=True):
        yield count, count == 1 and crc != UNKNOWN


def stretch(given: Input, start: int, size_bytes: int, crc: int) -> Iterator[bytes]:
    buffer = memoryview(bytearray(min(size_bytes, _READ_BYTES)))
    offset, stop, found = start, start + size_bytes, 0
    while offset < stop:
        got = given.readinto(buffer[: stop - offset], offset)
        if not got:
            raise bad("it ends too early")
        offset += got
        found = zlib.crc32(buffer[:got], found) if crc != UNKNOWN else UNKNOWN
        yield bytes(buffer[:got])
    check_crc(found, crc)


def contents(given: Input, streams: Streams, tick: Callable[[], None]) -> Iterator[bytes]:
    """Yield what all folders hold, one behind the other."""
    start = streams.start
    for number, coders in enumerate(streams.folders(tick)):
        size_bytes = streams.packed_bytes[number]
        pieces = stretch(given, start, size_bytes, streams.packed_crcs[number])
        for coder in coders:
            pieces = _ticking(unpacked(coder, pieces), tick)
        crc = streams.folder_crcs[number]
        if crc == UNKNOWN or streams.counts[number] == 1:  # else it is that of the one stream
            yield from pieces
        else:
            found = 0
            for piece in pieces:
                found = zlib.crc32(piece, found)
                yield piece
            check_crc(found, crc)
        start += size_bytes


def _ticking(pieces: Iterator[bytes], tick: Callable[[], None]) -> Iterator[bytes]:
    for piece in pieces:
        tick()
        yield piece


def check_crc(found: int, said: int) -> None:
    if said not in {UNKNOWN, found}:
        raise bad("a checksum is wrong")
