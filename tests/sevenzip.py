"""7z archives for tests: as they should be, and as nobody should make them."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAGIC = b"7z\xbc\xaf\x27\x1c"
TICKS_TO_1970 = 116_444_736_000_000_000


@dataclass(frozen=True)
class Member:
    """A member; ``data``: None for a folder. ``mode``: None for one without attributes."""

    name: str
    data: bytes | None = b""
    mode: int | None = 0o100644
    mtime_s: int | None = None
    attributes: int = 0
    anti: bool = False

    @property
    def all_attributes(self) -> int | None:
        if self.mode is None:
            return self.attributes or None
        return self.attributes | 0x8000 | self.mode << 16


@dataclass(frozen=True)
class Method:
    """A coder: what the archive calls it, and what packs for it."""

    id: bytes
    properties: bytes
    pack: Callable[[bytes], bytes]


def raw(data: bytes, *filters: dict[str, int]) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def _filtered(**spec: int) -> Callable[[bytes], bytes]:
    """Return what a filter makes of data, by packing behind it, and unpacking that."""
    last = {"id": lzma.FILTER_LZMA2, "preset": 0}

    def pack(data: bytes) -> bytes:
        return lzma.decompress(raw(data, spec, last), lzma.FORMAT_RAW, filters=[last])

    return pack


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _lzma_with_mark(data: bytes) -> bytes:
    """Return what ends with a mark, without which the library writes none; 7-Zip does."""
    return lzma.compress(data, lzma.FORMAT_ALONE)[13:]


LZMA_PROPERTIES = b"\x5d" + (8 << 20).to_bytes(4, "little")
METHODS = {
    "copy": Method(b"\x00", b"", bytes),
    "lzma": Method(b"\x03\x01\x01", LZMA_PROPERTIES, _lzma_with_mark),
    "lzma2": Method(
        b"\x21", b"\x16", lambda data: raw(data, {"id": lzma.FILTER_LZMA2, "dict_size": 8 << 20})
    ),
    "bzip2": Method(b"\x04\x02\x02", b"", bz2.compress),
    "deflate": Method(b"\x04\x01\x08", b"", _deflated),
    "delta": Method(b"\x03", b"\x03", _filtered(id=lzma.FILTER_DELTA, dist=4)),
    "x86": Method(b"\x03\x03\x01\x03", b"", _filtered(id=lzma.FILTER_X86)),
    "powerpc": Method(b"\x03\x03\x02\x05", b"", _filtered(id=lzma.FILTER_POWERPC)),
    "ia64": Method(b"\x03\x03\x04\x01", b"", _filtered(id=lzma.FILTER_IA64)),
    "arm": Method(b"\x03\x03\x05\x01", b"", _filtered(id=lzma.FILTER_ARM)),
    "armthumb": Method(b"\x03\x03\x07\x01", b"", _filtered(id=lzma.FILTER_ARMTHUMB)),
    "sparc": Method(b"\x03\x03\x08\x05", b"", _filtered(id=lzma.FILTER_SPARC)),
}


def number(value: int) -> bytes:
    """Return a number as the format writes it, in as few bytes as can be."""
    for more in range(8):
        if value < 1 << 7 * (more + 1):
            first = (0xFF00 >> more) & 0xFF | value >> 8 * more
            return bytes([first]) + (value & (1 << 8 * more) - 1).to_bytes(more, "little")
    return b"\xff" + value.to_bytes(8, "little")


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def u64(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def bits(values: Sequence[object]) -> bytes:
    text = "".join("1" if value else "0" for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def some(values: Sequence[object]) -> bytes:
    """Return which of them there are: a 1 for all of them."""
    return b"\1" if all(values) else b"\0" + bits(values)


def coder(method: Method) -> bytes:
    flags = len(method.id) | (0x20 if method.properties else 0)
    settings = number(len(method.properties)) + method.properties if method.properties else b""
    return bytes([flags]) + method.id + settings


def folder(methods: Sequence[Method]) -> bytes:
    """Return a chain of coders: what packs first stands first."""
    joints = b"".join(number(at) + number(at + 1) for at in range(len(methods) - 1))
    return number(len(methods)) + b"".join(map(coder, methods)) + joints


def pack(data: bytes, methods: Sequence[Method]) -> tuple[bytes, list[int]]:
    """Return packed data, and what each coder gets to pack."""
    sizes = []
    for method in methods:
        sizes.append(len(data))
        data = method.pack(data)
    return data, sizes


def streams(
    at: int,
    packed: Sequence[int],
    folders: Sequence[bytes],
    sizes: Sequence[int],
    crcs: Sequence[int | None] = (),
    parts: bytes = b"",
) -> bytes:
    """Return where packed streams are and what becomes of them; ``sizes``: of all coders."""
    if not packed:
        return b""
    known = [crc for crc in crcs if crc is not None]
    return (
        b"\x06" + number(at) + number(len(packed)) + b"\x09" + b"".join(map(number, packed))
        + b"\0\x07\x0b" + number(len(folders)) + b"\0" + b"".join(folders)
        + b"\x0c" + b"".join(map(number, sizes))
        + (b"\x0a" + some([crc is not None for crc in crcs]) + u32(*known) if known else b"")
        + b"\0" + parts + b"\0"
    )  # fmt: skip


def parts_of(folders: Sequence[Sequence[bytes]]) -> bytes:
    """Return how the bytes of folders are shared by members."""
    sizes = [len(data) for members in folders for data in members[:-1]]
    crcs = [zlib.crc32(data) for members in folders for data in members]
    return (
        b"\x08\x0d" + b"".join(number(len(members)) for members in folders)
        + (b"\x09" + b"".join(map(number, sizes)) if sizes else b"")
        + b"\x0a\1" + u32(*crcs) + b"\0"
    )  # fmt: skip


def entry(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + number(len(data)) + data


def files(members: Sequence[Member]) -> bytes:
    """Return all that is said of members but their bytes."""
    empty = [not one.data for one in members]
    empties = [one for one in members if not one.data]
    names = b"".join(one.name.encode("utf-16-le", "surrogatepass") + b"\0\0" for one in members)
    found = b"\x05" + number(len(members))
    if empties:
        found += entry(0x0E, bits(empty))
        found += entry(0x0F, bits([one.data is not None for one in empties]))
    if any(one.anti for one in empties):
        found += entry(0x10, bits([one.anti for one in empties]))
    found += entry(0x19, bytes(3)) + entry(0x11, b"\0" + names)
    times = [one.mtime_s for one in members]
    if any(time is not None for time in times):
        ticks = [time * 10**7 + TICKS_TO_1970 for time in times if time is not None]
        found += entry(0x14, some([time is not None for time in times]) + b"\0" + u64(*ticks))
    attributes = [one.all_attributes for one in members]
    if any(one is not None for one in attributes):
        values = [one for one in attributes if one is not None]
        found += entry(0x15, some([one is not None for one in attributes]) + b"\0" + u32(*values))
    return found + b"\0"


def archive(
    members: Sequence[Member],
    methods: Sequence[str] = ("lzma2",),
    *,
    a_folder: int = 1_000_000,
    packs_header: bool = True,
) -> bytes:
    """Return an archive; ``a_folder``: so many members are packed together."""
    chain = [METHODS[name] for name in methods]
    full = [one.data for one in members if one.data]
    folders = [full[at : at + a_folder] for at in range(0, len(full), a_folder)]
    packed = [pack(b"".join(inner), chain) for inner in folders]
    header = table(
        streams(
            0,
            [len(data) for data, _ in packed],
            [folder(chain)] * len(folders),
            [size for _, sizes in packed for size in sizes],
            parts=parts_of(folders),
        ),
        files(members),
    )
    return whole(b"".join(data for data, _ in packed), header, packs_header=packs_header)


def table(streams: bytes, files: bytes) -> bytes:
    return b"\1" + (b"\4" + streams if streams else b"") + files + b"\0"


def whole(
    packed: bytes, header: bytes, *, packs_header: bool = False, method: str = "lzma"
) -> bytes:
    """Return an archive of packed streams and a table of contents, whatever these are."""
    if packs_header:
        chain = [METHODS[method]]
        data, sizes = pack(header, chain)
        crcs = [zlib.crc32(header)]
        header = b"\x17" + streams(len(packed), [len(data)], [folder(chain)], sizes, crcs)
        packed += data
    return beginning(len(packed), header) + packed + header


def beginning(offset: int, header: bytes) -> bytes:
    where = u64(offset, len(header)) + u32(zlib.crc32(header))
    return MAGIC + b"\0\4" + u32(zlib.crc32(where)) + where
