"""Compressed streams, read piece by piece: bounded in memory, and wrong unless they are whole."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from fetchd.errors import AttemptError
from fetchd.ports import Input

#: What is read, or unpacked, at once.
PIECE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
#: A stream that needs more memory to be unpacked is refused.
_MOST_MEMORY_BYTES = 512 * 1024 * 1024
_LONGEST_WINDOW_LOG = 29
#: How streams begin, and what they are called.
_MAGIC = (
    (b"\x1f\x8b", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)


class Unpacker(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Inflater:
    """zlib's, in the form of the others; ``wbits`` as there."""

    def __init__(self, wbits: int) -> None:
        self._object = zlib.decompressobj(wbits)
        self._full = False  # more may come out of what was given

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length
        return out


def _unzstd() -> Unpacker:
    zstd = _zstd()
    window = zstd.DecompressionParameter.window_log_max
    unpacker: Unpacker = zstd.ZstdDecompressor(options={window: _LONGEST_WINDOW_LOG})
    return unpacker


def _zstd() -> Any:
    """Return the module that the standard library has from Python 3.14 on; else the extra's."""
    try:
        from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415
        except ImportError:
            raise AttemptError(
                "step_failed",
                "zst needs the extra `zstd`: install fetchd[zstd], or Python 3.14 or newer",
            ) from None
    return zstd


_UNPACKERS: dict[str, Callable[[], Unpacker]] = {
    "gz": lambda: Inflater(16 + zlib.MAX_WBITS),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY_BYTES),
    "zst": _unzstd,
}
FORMATS = tuple(_UNPACKERS)


def bad(reason: str) -> AttemptError:
    return AttemptError("archive_bad", reason)


def beginning(given: Input, size_bytes: int) -> bytes:
    """Return the first bytes of a file, fewer if it has no more."""
    buffer = memoryview(bytearray(size_bytes))
    got = 0
    while got < size_bytes and (more := given.readinto(buffer[got:], got)):
        got += more
    return bytes(buffer[:got])


def compression_of(start: bytes) -> str:
    """Return one of FORMATS, "" for a file that begins like none of them."""
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


def plain(given: Input) -> Iterator[memoryview]:
    """Yield a file as it is; each piece until the next is asked for."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    while got := given.readinto(buffer, offset):
        yield buffer[:got]
        offset += got


def unpacked(given: Input, compression: str) -> Iterator[memoryview]:
    """Yield what a compressed file holds, in pieces; raises AttemptError where it is not whole."""
    make = _UNPACKERS[compression]
    try:
        yield from _unpacked(_pieces(given), make)
    except (zlib.error, lzma.LZMAError, EOFError, ValueError) as exc:
        raise bad(f"the {compression} stream is broken: {exc}") from None
    except OSError as exc:  # of bz2; those of the disk are AttemptErrors already
        raise bad(f"the {compression} stream is broken: {exc}") from None
    except MemoryError:
        raise bad(f"the {compression} stream asks for too much memory") from None
    except AttemptError:
        raise
    except Exception as exc:
        if type(exc).__name__ != "ZstdError":
            raise
        raise bad(f"the {compression} stream is broken: {exc}") from None


def _pieces(given: Input) -> Iterator[bytes]:
    buffer = memoryview(bytearray(_READ_BYTES))
    offset = 0
    while got := given.readinto(buffer, offset):
        yield bytes(buffer[:got])
        offset += got


def _unpacked(pieces: Iterator[bytes], make: Callable[[], Unpacker]) -> Iterator[memoryview]:
    """Unpack streams that stand one behind the other; zeros behind the last one are padding."""
    data = next(pieces, b"")
    while True:
        unpacker = make()
        while not unpacker.eof:
            if unpacker.needs_input and not data:
                data = next(pieces, b"")
                if not data:
                    raise EOFError("it ends too early")
            out = unpacker.decompress(data, PIECE_BYTES)
            data = b""
            if out:
                yield memoryview(out)
        data = unpacker.unused_data
        while not data.strip(b"\0"):
            data = next(pieces, b"")
            if not data:
                return
        data = data.lstrip(b"\0")
