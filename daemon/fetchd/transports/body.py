"""Where a body ends: by its length, by chunks (RFC 9112 §6, §7.1), or with the connection."""

from __future__ import annotations

import re
from typing import Protocol

from fetchd.errors import AttemptError
from fetchd.transports.wire import is_field

_LONGEST_LINE_BYTES = 4096
_MOST_TRAILERS = 100
# At most 15 digits: what is longer than 2**60 is nonsense, and int() would also take "1_0", "-5".
_SIZE = rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?"
_CHUNK_SIZE = re.compile(_SIZE)
# The end of a chunk, the size of another that is not the last one, and a byte of it.
_NEXT_CHUNK = re.compile(rb"\r\n(?!0+[ \t;\r])" + _SIZE + rb"\r\n(?=[\x00-\xff])")


class Source(Protocol):
    """Where the bytes come from: ``wire.Received``."""

    def waits(self) -> bool:
        """Tell whether the next read has to wait for the connection."""
        ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Read what is there, else what one receive brings; 0 at the end."""
        ...

    def take(self, pattern: re.Pattern[bytes], /) -> re.Match[bytes] | None:
        """Read what matches a pattern, if that is there; receives nothing."""
        ...

    def line(self, most_bytes: int, /) -> bytes | None:
        """Return the next line without its end, None when the connection ended before that."""
        ...


class Body:
    """The bytes of one body, and nothing behind it.

    ``length``: how many they must be, None where the head does not say. A body that is neither
    chunked nor has a length ends with the connection, wherever that is.
    """

    def __init__(self, source: Source, *, length: int | None, chunked: bool) -> None:
        self._source = source
        self._length = length
        self._chunked = chunked
        self._received = 0
        self._chunk_left = 0
        self._in_chunks = False
        self.ended = length == 0 and not chunked

    def waits(self) -> bool:
        """Whether the next read may have to wait for the connection."""
        return self._chunked or self._source.waits()

    def readinto(self, buffer: memoryview) -> int:
        """Read what one receive brings (with chunk sizes: at least one); 0 = the correct end."""
        if self.ended:
            return 0
        if self._chunked:
            return self._read_chunks(buffer)
        most = len(buffer)
        if self._length is not None:
            most = min(most, self._length - self._received)
        count = self._read(buffer[:most])
        self.ended |= self._received == self._length
        return count

    def _read_chunks(self, buffer: memoryview) -> int:
        """Read of this chunk, and of those behind it what has arrived already."""
        if self._chunk_left == 0 and not self._begin_chunk():
            return 0
        count = 0
        while True:
            got = self._read(buffer[count : count + self._chunk_left])
            self._chunk_left -= got
            count += got
            if self._chunk_left or count == len(buffer):
                return count
            following = self._source.take(_NEXT_CHUNK)
            if following is None:
                return count
            self._chunk_left = int(following[1], 16)
            self._hold_to_length()

    def _read(self, buffer: memoryview) -> int:
        count = self._source.readinto(buffer)
        if count == 0:
            self._at_end_of_connection()
        self._received += count
        return count

    def _at_end_of_connection(self) -> None:
        if self._length is not None:
            raise AttemptError(
                "short_body",
                f"the connection ended after {self._received} of {self._length} bytes",
            )
        if self._chunked:
            raise AttemptError(
                "bad_framing", f"the connection ended inside a chunk, at byte {self._received}"
            )
        self.ended = True

    def _begin_chunk(self) -> bool:
        """Read the size of the next chunk; False: there is none, the body ended."""
        if self._in_chunks and self._line():
            raise AttemptError("bad_framing", f"a chunk is longer than it says{self._place()}")
        self._in_chunks = True
        line = self._line()
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise AttemptError(
                "bad_framing", f"{line[:20]!r} is not the size of a chunk{self._place()}"
            )
        self._chunk_left = int(match[1], 16)
        if self._chunk_left == 0:
            self._skip_trailers()
        self._hold_to_length()
        return not self.ended

    def _skip_trailers(self) -> None:
        for _ in range(_MOST_TRAILERS):
            line = self._line()
            if not line:
                self.ended = True
                return
            if not is_field(line):
                raise AttemptError("bad_framing", "a line behind the last chunk is no header")
        raise AttemptError("bad_framing", "too many lines behind the last chunk")

    def _hold_to_length(self) -> None:
        """A part of a file may come in chunks, while its head said how long it is."""
        length = self._length
        if length is None:
            return
        if self.ended and self._received < length:
            raise AttemptError(
                "short_body", f"the chunks ended after {self._received} of {length} bytes"
            )
        if self._received + self._chunk_left > length:
            raise AttemptError("bad_framing", f"the chunks hold more than {length} bytes")

    def _line(self) -> bytes:
        line = self._source.line(_LONGEST_LINE_BYTES)
        if line is None:
            raise AttemptError(
                "bad_framing", f"the connection ended among the chunks{self._place()}"
            )
        return line

    def _place(self) -> str:
        return f", at byte {self._received}"
