"""What the bytes of 7z archives were packed by, undone in bounded pieces of bounded memory."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fetchd.steps.unpack import PIECE_BYTES, Inflater, Unpacker, bad

_MIB = 1024 * 1024
#: What the largest setting of 7-Zip asks for; a stream that needs more memory is refused.
_LARGEST_DICTIONARY_BYTES = 256 * _MIB
_SMALLEST_DICTIONARY_BYTES = 4096
#: Uncompressed pieces of LZMA2 are no longer.
_STORED_BYTES = 64 * 1024
_COPY = b"\x00"
_FILTERS = {
    b"\x03": lzma.FILTER_DELTA,
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
}
_AES = b"\x06\xf1\x07\x01"
#: What they are called, for whoever reads why.
_REFUSED = {
    b"\x03\x03\x01\x1b": "BCJ2",
    b"\x03\x04\x01": "PPMd",
    b"\x04\x01\x09": "Deflate64",
    b"\x0a": "ARM64",
    b"\x0b": "RISCV",
    b"\x02\x03\x02": "Swap2",
    b"\x02\x03\x04": "Swap4",
    b"\x04\xf7\x11\x01": "zstd",
    b"\x04\xf7\x11\x02": "brotli",
    b"\x04\xf7\x11\x04": "LZ4",
}


@dataclass(frozen=True, slots=True)
class Coder:
    """One coder of a chain; ``size_bytes``: so much comes out of it, as the archive says."""

    method: bytes
    properties: bytes
    size_bytes: int


def check(method: bytes) -> None:
    """Raise AttemptError for a method that cannot be undone here."""
    if method != _COPY and method not in _FILTERS and method not in _MAKERS:
        if method == _AES:
            raise bad("it is encrypted; a command (`run`) that knows the password may unpack it")
        name = _REFUSED.get(method, f"the method {method.hex()}")
        raise bad(
            f"it is packed by {name}, which is not known here: a command (`run`) may unpack it, "
            "or whoever makes it takes LZMA2"
        )


def unpacked(coder: Coder, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what comes out of one coder: just so many bytes, of just these pieces."""
    if coder.method == _COPY:
        out = pieces
    elif coder.method in _FILTERS:
        out = _from(lambda: _filter_of(coder), _stored(pieces))
    else:
        out = _from(lambda: _MAKERS[coder.method](coder), chain(_preface_of(coder), pieces))
    left = coder.size_bytes
    for piece in out:
        left -= len(piece)
        if left < 0:
            raise bad("more comes out of a stream than is said of it")
        yield piece
    if left:
        raise bad("less comes out of a stream than is said of it")


def _from(make: Callable[[], Unpacker], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack one stream, which ends where the pieces do."""
    try:
        unpacker = make()
        while not unpacker.eof:
            data = b""
            if unpacker.needs_input and not (data := next(pieces, b"")):
                raise bad("a stream ends too early")
            if out := unpacker.decompress(data, PIECE_BYTES):
                yield out
    except (zlib.error, lzma.LZMAError, EOFError, ValueError, OSError) as exc:
        raise bad(f"a stream is broken: {exc}") from None
    except MemoryError:
        raise bad("a stream asks for too much memory") from None
    if unpacker.unused_data or next(pieces, b""):
        raise bad("there is more behind the end of a stream")


def _preface_of(coder: Coder) -> Iterator[bytes]:
    """Yield the header that LZMA has outside of an archive, by which its end is known.

    Without it nothing would tell that there is nothing behind the stream.
    """
    if coder.method == _LZMA:
        settings = _properties_of(coder, 5)
        dictionary = _dictionary_bytes(coder, int.from_bytes(settings[1:], "little"))
        yield (
            settings[:1] + dictionary.to_bytes(4, "little") + coder.size_bytes.to_bytes(8, "little")
        )


def _lzma2(coder: Coder) -> Unpacker:
    (size,) = _properties_of(coder, 1)
    if size > 40:
        raise bad("a stream has settings that are not known")
    said = (2 | size & 1) << (size // 2 + 11)
    return _raw({"id": lzma.FILTER_LZMA2, "dict_size": _dictionary_bytes(coder, said)})


def _bzip2(coder: Coder) -> Unpacker:
    _properties_of(coder, 0)
    return bz2.BZ2Decompressor()


def _deflate(coder: Coder) -> Unpacker:
    _properties_of(coder, 0)
    return Inflater(-zlib.MAX_WBITS)


def _filter_of(coder: Coder) -> Unpacker:
    """Return what undoes a filter, for data that is put into pieces of LZMA2.

    The library knows a filter in front of LZMA or LZMA2 only. Behind LZMA that has no mark at its
    end it would keep the last bytes for itself, and in front of others there would be none.
    """
    spec: dict[str, Any] = {"id": _FILTERS[coder.method]}
    if spec["id"] == lzma.FILTER_DELTA:
        spec["dist"] = _properties_of(coder, 1)[0] + 1
    else:
        _properties_of(coder, 0)
    return _raw(spec, {"id": lzma.FILTER_LZMA2, "dict_size": PIECE_BYTES})


def _raw(*filters: dict[str, Any]) -> Unpacker:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def _stored(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a stream of LZMA2 that holds the pieces as they are."""
    for piece in pieces:
        stored = bytearray()
        for at in range(0, len(piece), _STORED_BYTES):
            part = piece[at : at + _STORED_BYTES]
            stored += b"\x01" + (len(part) - 1).to_bytes(2, "big") + part
        yield bytes(stored)
    yield b"\x00"


def _properties_of(coder: Coder, size_bytes: int) -> bytes:
    if len(coder.properties) != size_bytes:
        raise bad("a stream has settings that are not known")
    return coder.properties


def _dictionary_bytes(coder: Coder, said_bytes: int) -> int:
    """Return how large a dictionary has to be: it never holds more than comes out."""
    needed = max(_SMALLEST_DICTIONARY_BYTES, min(said_bytes, coder.size_bytes))
    if needed > _LARGEST_DICTIONARY_BYTES:
        raise bad(
            f"its dictionary takes {-(-needed // _MIB)} MiB of memory; at most "
            f"{_LARGEST_DICTIONARY_BYTES // _MIB} MiB are given, a command (`run`) may have more"
        )
    return needed


_LZMA = b"\x03\x01\x01"
_MAKERS: dict[bytes, Callable[[Coder], Unpacker]] = {
    _LZMA: lambda _: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
    b"\x21": _lzma2,
    b"\x04\x02\x02": _bzip2,
    b"\x04\x01\x08": _deflate,
}
