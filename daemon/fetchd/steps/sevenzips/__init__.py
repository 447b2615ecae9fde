"""7z archives: read by ourselves, their streams undone by the standard library, forwards only."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator

from fetchd.ports import Input
from fetchd.steps.members import Members
from fetchd.steps.sevenzips.streams import check_crc
from fetchd.steps.sevenzips.table import Entry, Stream, read
from fetchd.steps.unpack import bad

MAGIC = b"7z\xbc\xaf\x27\x1c"
_FOLDER = 0x10  # attributes of Windows
_ELSEWHERE = 0x400
_NOTHING = Stream(0, 0)


def extract(given: Input, members: Members) -> None:
    """Hand the members of a 7z archive over; raises AttemptError where it is not whole."""
    table = read(given, members)
    streams, data = table.streams(), _Forwards(table.data())
    for entry in table.entries():
        _hand_over(entry, next(streams) if entry.has_stream else _NOTHING, data, members)
    data.expect_end()


def _hand_over(entry: Entry, stream: Stream, data: _Forwards, members: Members) -> None:
    name = entry.name
    kind = stat.S_IFMT(entry.mode)
    says_folder = kind == stat.S_IFDIR or bool(entry.attributes & _FOLDER)
    output = None
    if kind == stat.S_IFLNK or entry.attributes & _ELSEWHERE:
        members.link(name)
    elif kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        members.other(name, "a device, pipe or socket")
    elif entry.is_folder:
        members.folder(name)
    elif says_folder:
        raise bad(f"{name[:60]!a} is a file and a folder at once")
    else:
        output = members.file(
            name,
            stream.size_bytes,
            executable=bool(entry.mode & 0o100),
            mtime_s=entry.mtime_s,
        )
    crc = 0
    if output is None:  # its bytes were counted with those of all others, before the first came
        for piece in data.take(stream.size_bytes):
            crc = zlib.crc32(piece, crc)
    else:
        with output as made:
            for piece in data.take(stream.size_bytes):
                crc = zlib.crc32(piece, crc)
                members.write(made, piece)
    if entry.has_stream:
        check_crc(crc, stream.crc)


class _Forwards:
    """The bytes of all members, one behind the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def take(self, size_bytes: int) -> Iterator[memoryview]:
        """Yield the next so many bytes."""
        while size_bytes:
            if not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
            if not self._piece:
                raise bad("it ends in the middle of a file")
            piece, self._piece = self._piece[:size_bytes], self._piece[size_bytes:]
            size_bytes -= len(piece)
            yield piece

    def expect_end(self) -> None:
        """Read what is behind the last byte, by which is known that it was right."""
        for _ in self._pieces:
            raise bad("there is more behind its members")
