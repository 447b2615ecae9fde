"""Tar archives: read by the standard library, forwards only, each header held to what it may be."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, cast

from fetchd.steps.members import Members
from fetchd.steps.unpack import PIECE_BYTES, bad

_BLOCK_BYTES = 512
#: A header, with all that belongs to it, is no longer.
_LONGEST_HEADER_BYTES = 1024 * 1024
#: So much of an archive may be headers and padding, and for each member so much more.
_HEADERS_BYTES = 16 * 1024 * 1024
_HEADER_BYTES = 8 * 1024
_END = "EOFHeaderError"  # a block of zeros: the one way in which an archive ends
_KINDS = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def extract(pieces: Iterator[memoryview], members: Members) -> None:
    """Hand the members of a tar archive over; raises AttemptError where it is not whole."""
    stream = _Forwards(pieces)
    try:
        with tarfile.TarFile(
            fileobj=cast("Any", stream), tarinfo=_Header, errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                cast("Any", tar).members = []  # it would remember each
                stream.note_member()
                _hand_over(stream, tar, member, members)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as exc:
        raise bad(f"it is no tar archive, or a broken one: {exc}") from None
    stream.expect_end()


def _hand_over(
    stream: _Forwards, tar: tarfile.TarFile, member: tarfile.TarInfo, members: Members
) -> None:
    name = member.name
    if member.isdir():
        members.folder(name)
    elif member.islnk() or member.issym():
        members.link(name)
    elif not member.isreg():
        members.other(name, _KINDS.get(member.type, "of an unknown kind"))
    else:
        output = members.file(
            name,
            member.size,
            executable=bool(member.mode & 0o100),
            mtime_s=float(member.mtime),
        )
        if output is None:
            return
        with output as made:
            if member.issparse():
                for data in _sparse(tar, member):
                    members.write(made, data)
            else:
                for piece in stream.data(member.size):
                    members.write(made, piece)


def _sparse(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield a file with holes as it is read, zeros and all."""
    file = tar.extractfile(member)
    assert file is not None
    left = member.size
    while left:
        data = file.read(min(left, PIECE_BYTES))
        if not data:
            raise bad("it ends in the middle of a file")
        left -= len(data)
        yield data


class _Header(tarfile.TarInfo):
    """A header that is broken, or cut, does not count as the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        try:
            header = super().fromtarfile(tarfile_)
        except tarfile.HeaderError as exc:
            if type(exc).__name__ == _END:
                raise
            raise bad(f"it is no tar archive, or a broken one: {exc}") from None
        if header.size < 0 or header.offset_data < header.offset:
            raise bad("a header gives a length below zero")
        return header


class _Forwards:
    """A stream as ``tarfile`` reads it: forwards, a bounded amount of headers, never back."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._position = 0
        self._headers_bytes = _HEADERS_BYTES  # so many more may be read

    def note_member(self) -> None:
        self._headers_bytes += _HEADER_BYTES

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self._position:
            raise bad("its headers lead backwards")
        for _ in self.data(offset - self._position):
            pass
        return self._position

    def read(self, size_bytes: int) -> bytes:
        """Return so many bytes, fewer only at the end of the stream."""
        if not 0 <= size_bytes <= max(_LONGEST_HEADER_BYTES, PIECE_BYTES):
            raise bad(f"a header of {size_bytes} bytes is longer than any may be")
        self._headers_bytes -= size_bytes
        if self._headers_bytes < 0:
            raise bad("it has more headers than any archive needs")
        read = bytearray()
        while len(read) < size_bytes and (piece := self._next(size_bytes - len(read))):
            read += piece
        return bytes(read)

    def data(self, size_bytes: int) -> Iterator[memoryview]:
        """Yield the next so many bytes."""
        while size_bytes:
            piece = self._next(size_bytes)
            if not piece:
                raise bad("it ends in the middle of a file")
            size_bytes -= len(piece)
            yield piece

    def expect_end(self) -> None:
        """Read the padding behind the last member; anything else there is refused."""
        while piece := self._next(PIECE_BYTES):
            self._headers_bytes -= len(piece)
            if self._headers_bytes < 0 or bytes(piece).strip(b"\0"):
                raise bad("there is more behind its end")

    def _next(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = next(self._pieces, memoryview(b""))
        piece, self._piece = self._piece[:most], self._piece[most:]
        self._position += len(piece)
        return piece
