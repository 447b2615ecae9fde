"""7z archives: what they are packed by, and what is refused of their tables (rows A01 to A08)."""

from __future__ import annotations

import base64
import lzma
import os
import random
import shutil
import stat
import subprocess
import time
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sevenzip
from fetchd.errors import AttemptError
from fetchd.model import Failure, Interrupted, Published
from fetchd.steps import sevenzips
from fetchd.steps.extract import KIND
from fetchd.steps.members import Members
from harness import FakeClock
from sevenzip import METHODS, Member, archive, entry, number
from workshop import Workshop

MIB = 1024 * 1024
NOISE = random.Random(1).randbytes(MIB + 7)
TREE = (
    Member("big", NOISE),
    Member("d", None, mode=stat.S_IFDIR | 0o755),
    Member("d/run", b"#!/bin/sh\n", mode=stat.S_IFREG | 0o755, mtime_s=1_600_000_000),
    Member("d/empty"),
    Member("plain", b"text" * 30_000, mode=None),
    Member("leer", None, mode=None, attributes=0x10),
)
FILES = {one.name: one.data for one in TREE if one.data is not None}
CHAINS = [
    *((name,) for name in METHODS),
    ("x86", "lzma"),
    ("delta", "x86", "lzma2"),
    ("deflate", "bzip2"),
    ("arm", "copy"),
    ("lzma", "lzma2"),
]


@pytest.fixture
def shop(tmp_path):
    made = Workshop(tmp_path / "root")
    yield made
    made.close()


class Stage:
    """A bench in memory, and the archive on it."""

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self.made: dict[str, bytes] = {}
        self.written_bytes = 0
        self.ticks = 0
        self._data = data

    def readinto(self, buffer: memoryview, offset: int) -> int:
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def tick(self) -> None:
        self.ticks += 1

    @contextmanager
    def make(self, path, **_):
        self._path = path
        self.made[path] = b""
        yield self

    def write(self, data) -> None:
        self.written_bytes += len(data)
        assert len(data) <= MIB
        self.made[self._path] = bytes(data[:10])

    def make_folder(self, path) -> None:
        pass


def extract_on(stage: Any, **options: Any) -> None:
    defaults = {name: option.default for name, option in KIND.options.items()}
    sevenzips.extract(stage, Members(stage, stage, {**defaults, **options}))


def extract(data: bytes, **options: Any) -> Stage:
    stage = Stage(data)
    extract_on(stage, **options)
    return stage


def reason(data: bytes, **options) -> str:
    with pytest.raises(AttemptError) as caught:
        extract(data, **options)
    return f"{caught.value.code}: {caught.value.reason}"


def peak_bytes(work) -> int:
    """Return how much memory is held at most while something works, dictionaries as well."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("methods", CHAINS, ids="+".join)
@pytest.mark.parametrize("a_folder", [1, 1000])
def test_what_each_chain_of_methods_packed_comes_out(shop, methods, a_folder):
    assert shop.make("a", archive(TREE, methods, a_folder=a_folder), "extract") == FILES
    assert (shop.folder / "leer").is_dir()


def test_what_is_deflated_is_whole_wherever_a_piece_ends():
    """All input may be taken when more is to come out of it, even of the last byte."""
    for more in range(300):
        data = bytes(MIB + more)
        assert extract(archive([Member("f", data)], ["deflate"])).written_bytes == len(data)


@pytest.mark.parametrize("packs_header", [True, False])
def test_dates_and_x_come_out(shop, packs_header):
    shop.make("a", archive(TREE, packs_header=packs_header), "extract")

    assert (shop.folder / "d/run").stat().st_mtime == 1_600_000_000
    assert os.access(shop.folder / "d/run", os.X_OK)
    assert not os.access(shop.folder / "big", os.X_OK)
    assert not os.access(shop.folder / "plain", os.X_OK)


def test_an_archive_of_nothing_has_no_files(shop):
    assert shop.make("a", sevenzip.beginning(0, b""), "extract") == {}


def test_what_was_filtered_before_lzma_without_a_mark_comes_out_to_its_last_byte(shop):
    """As 7-Zip packs it: two programs of x86, BCJ and LZMA, the second one cut in a jump."""
    packed = base64.b64decode(
        "N3q8ryccAASoQhXqWQAAAAAAAABmAAAAAAAAALGQQsgAdAE8GT30/bM6YjsYS5HW1ea1pFlhNc7Sdfvi0s6732Jj"
        "cXkymKAKHohxX1J+2sqrBhbjQj/NH5ftpK+uwWpkzu9YrPRdydbZJyR9rWnFH1r+DVQBZVxFYQEEBgABCVkABwsB"
        "AAIjAwEBBV0AEAAABAMDAQMBAAyA34DfAAgNAgmAyAoBD/0FKftik9YAAAUCGQMAAAARFwBjAGEAbABsAHMAAABy"
        "AGUAcwB0AAAAGQAVCgEAIICkgSCApIEAAA=="
    )
    assert shop.make("a", packed, "extract") == {
        "calls": b"".join(b"\xe8" + (n * 7).to_bytes(4, "little") for n in range(40)),
        "rest": b"\x90" * 20 + b"\xe8\x01\x02",
    }


def test_what_is_left_out_is_unpacked_and_counted(shop):
    data = archive([Member("a", b"a" * 1000), Member("b", b"b" * 1000), Member("c", b"c")])

    options = {"include": "b", "max_bytes": "2001"}
    assert shop.make("a", data, {"extract": options}) == {"b": b"b" * 1000}
    failure = shop.refuse("a", data, {"extract": {**options, "max_bytes": "2000"}})
    assert failure.code == "archive_too_large"


def test_a_member_that_is_left_out_is_held_against_its_checksum(shop):
    broken = archive([Member("a", b"aaaa"), Member("b", b"b")], ["copy"]).replace(b"aaaa", b"aaab")

    assert shop.refuse("a", broken, {"extract": {"include": "b"}}).code == "archive_bad"


# ---------------------------------------------------------------- 7-Zip's own

SEVENZIP = next((name for name in ("7zz", "7z", "7za") if shutil.which(name)), "")
with_7zip = pytest.mark.skipif(not SEVENZIP, reason="7-Zip is not installed (Debian: 7zip)")


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "in"
    (folder / "d/leer").mkdir(parents=True)
    (folder / "big").write_bytes(NOISE)
    (folder / "text").write_bytes(b" ".join(b"%d" % n for n in range(30_000)))
    (folder / "d/ü").write_bytes(b"u")
    (folder / "empty").touch()
    shutil.copy("/bin/ls", folder / "d/ls")
    (folder / "d/ls").chmod(0o755)
    return folder


def seven(tree: Path, *options: str) -> bytes:
    command = [SEVENZIP, "a", "-bso0", "-bsp0", *options, "../a.7z", "."]
    subprocess.run(command, cwd=tree, check=True)
    (made,) = sorted(tree.parent.glob("a.7z*"))[:1]
    return made.read_bytes()


@with_7zip
@pytest.mark.parametrize(
    "options",
    [
        "-mf=bcj",
        "-m0=lzma",
        "-m0=lzma:eos",
        "-m0=copy",
        "-m0=bzip2",
        "-m0=deflate",
        "-m0=bcj -m1=lzma",
        "-m0=bcj -m1=bzip2",
        "-m0=delta:4 -m1=lzma",
        "-m0=delta:1 -m1=bcj -m2=lzma2",
        "-m0=arm -m1=lzma2",
        "-m0=armt -m1=lzma",
        "-m0=ppc -m1=lzma",
        "-m0=sparc -m1=lzma",
        "-m0=ia64 -m1=lzma",
        "-mf=bcj -ms=off",
        "-mf=bcj -mhc=off -mtc=on -mta=on",
        "-mf=bcj -mx=9",
        "-mx=0",
        "-mx=1",
    ],
)
def test_what_7zip_packs_comes_out(shop, tree, options):
    found = shop.make("a", seven(tree, *options.split()), "extract")

    assert found == {
        str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()
    }
    assert (shop.folder / "d/leer").is_dir()
    assert os.access(shop.folder / "d/ls", os.X_OK)
    assert not os.access(shop.folder / "text", os.X_OK)
    dated = (shop.folder / "text").stat().st_mtime - (tree / "text").stat().st_mtime
    assert abs(dated) < 1e-5


@with_7zip
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-m0=ppmd", "packed by PPMd, which is not known here: a command (`run`) may unpack it"),
        ("-m0=deflate64", "packed by Deflate64, which"),
        ("-mf=bcj2", "packed by BCJ2, which"),
        ("-m0=arm64 -m1=lzma2", "packed by ARM64, which"),
        ("-psecret", "it is encrypted; a command (`run`) that knows the password"),
        ("-psecret -mhe=on", "it is encrypted; a command (`run`) that knows the password"),
        ("-v1m", "it is cut, or the first of several volumes, which have to be joined (`concat`)"),
    ],
)
def test_a05_what_cannot_be_unpacked_is_refused_and_says_by_what_it_was_packed(
    shop, tree, options, said
):
    failure = shop.refuse("a", seven(tree, *options.split()), "extract")

    assert failure.code == "archive_bad"
    assert said in failure.reason


@with_7zip
def test_a02_links_that_7zip_packs_are_never_made(shop, tree):
    (tree / "link").symlink_to("/etc/passwd")
    packed = seven(tree, "-mf=bcj", "-snl")

    assert "link" in shop.refuse("a", packed, "extract").reason
    found = shop.make("a", packed, {"extract": {"links": "skip"}})
    assert set(found) == {"big", "text", "d/ü", "empty", "d/ls"}


@with_7zip
def test_7zip_takes_what_these_tests_write(tmp_path):
    for methods in CHAINS:
        (tmp_path / "a.7z").write_bytes(archive(TREE[1:], methods, a_folder=2))
        subprocess.run([SEVENZIP, "t", "-bso0", tmp_path / "a.7z"], check=True)


# ---------------------------------------------------------------- A02, A03: kinds


@pytest.mark.parametrize(
    "member",
    [
        Member("s", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
        Member("s", mode=stat.S_IFLNK | 0o777),
        Member("s", None, mode=stat.S_IFLNK | 0o777),
        Member("s", b"x", mode=None, attributes=0x400),
        Member("s", None, mode=None, attributes=0x410),
    ],
    ids=["symlink", "empty", "as a folder", "of Windows", "junction"],
)
def test_a02_links_in_a_7z_are_never_made_and_can_be_left_out(shop, member):
    data = archive([member, Member("x", b"x")])
    failure = shop.refuse("t", data, "extract")

    assert (failure.code, "link" in failure.reason) == ("archive_denied", True)
    assert shop.make("t", data, {"extract": {"links": "skip"}}) == {"x": b"x"}


def test_a02_a_file_behind_a_link_in_a_7z_is_a_plain_one(shop):
    data = archive([Member("d", b"/tmp", mode=stat.S_IFLNK | 0o777), Member("d/x", b"x")])

    assert shop.make("t", data, {"extract": {"links": "skip"}}) == {"d/x": b"x"}
    assert not (shop.folder / "d").is_symlink()


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_a03_devices_and_pipes_in_a_7z_are_refused(shop, kind):
    failure = shop.refuse("t", archive([Member("f", b"", mode=kind | 0o644)]), "extract")

    assert failure.code == "archive_denied"


@pytest.mark.parametrize(
    "member", [Member("f", b"x", mode=stat.S_IFDIR | 0o755), Member("f", b"x", attributes=0x10)]
)
def test_a03_a_folder_in_a_7z_that_has_bytes_is_refused(shop, member):
    assert shop.refuse("t", archive([member]), "extract").code == "archive_bad"


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o7777, 0o600])
def test_a03_of_a_mode_in_a_7z_only_whether_it_can_be_run_is_kept(shop, mode):
    shop.make("t", archive([Member("f", b"x", mode=stat.S_IFREG | mode)]), "extract")

    found = stat.S_IMODE((shop.folder / "f").stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert found == (0o777 if mode & 0o100 else 0o666) & ~umask


def test_a03_orders_to_remove_files_are_refused(shop):
    failure = shop.refuse("t", archive([Member("f", anti=True)]), "extract")

    assert (failure.code, "order to remove" in failure.reason) == ("archive_denied", True)


def with_sizes(packed: bytes, sizes: list[int], methods=("copy",), **fields) -> bytes:
    """Return an archive of one file whose table tells what it likes."""
    chain = [METHODS[name] for name in methods]
    streams = sevenzip.streams(
        fields.get("at", 0), [fields.get("packed", len(packed))], [sevenzip.folder(chain)], sizes
    )
    return sevenzip.whole(packed, sevenzip.table(streams, sevenzip.files([Member("f", b"x")])))


@pytest.mark.parametrize("size", [10 * 10**12, 2**63, 2**64 - 1])
def test_a03_a_7z_of_ten_terabytes_is_refused_before_a_byte_is_written(size):
    packed = lzma.compress(bytes(MIB), lzma.FORMAT_ALONE)[13:]

    assert reason(with_sizes(packed, [size], ["lzma"])).startswith("archive_too_large")


# ---------------------------------------------------------------- A04: bombs


@pytest.mark.parametrize("method", ["lzma", "lzma2", "bzip2", "deflate"])
def test_a04_a_7z_bomb_by_ratio_is_refused_before_it_is_unpacked(method):
    packed, _ = sevenzip.pack(bytes(MIB), [METHODS[method]])

    found = reason(with_sizes(packed, [80 * MIB], [method]))
    assert found.startswith("archive_too_large")
    assert "max_ratio" in found


@pytest.mark.parametrize("method", ["lzma2", "bzip2", "deflate"])
@pytest.mark.parametrize("said", [100, 3 * MIB])
def test_a04_a_7z_that_holds_more_than_it_says_is_stopped_there(method, said):
    packed, _ = sevenzip.pack(bytes(20 * MIB), [METHODS[method]])
    data = with_sizes(packed, [said], [method])

    assert reason(data) == "archive_bad: more comes out of a stream than is said of it"
    assert peak_bytes(lambda: reason(data)) < 16 * MIB


@pytest.mark.parametrize("method", METHODS)
def test_a04_a_7z_that_holds_less_than_it_says_is_refused(method):
    packed, _ = sevenzip.pack(bytes(1000), [METHODS[method]])

    found = reason(with_sizes(packed, [1001], [method]))
    assert found.startswith("archive_bad: ")
    assert "in the middle of a file" not in found  # where the next stream's bytes would be its


def test_a04_what_comes_out_between_two_coders_is_bounded_too():
    packed = METHODS["deflate"].pack(bytes(1000))

    data = with_sizes(packed, [1000, 70 * MIB], ["lzma", "deflate"])
    assert reason(data).startswith("archive_too_large")


def test_a04_streams_of_a_7z_that_share_bytes_are_refused():
    """Streams stand one behind the other: those that are one would go on behind the last byte."""
    text = METHODS["lzma2"].pack(b"x" * 1000)
    streams = sevenzip.streams(
        0, [len(text)] * 2, [sevenzip.folder([METHODS["lzma2"]])] * 2, [1000] * 2
    )
    files = sevenzip.files([Member("a", b"x"), Member("b", b"x")])

    data = sevenzip.whole(text, sevenzip.table(streams, files))
    assert "lie outside of the archive" in reason(data)


def test_a04_a_table_of_contents_is_not_the_bytes_of_a_member():
    header = b"\x17"  # a packed one, whose place is where the data ends
    streams = sevenzip.streams(0, [4], [sevenzip.folder([METHODS["copy"]])], [4])
    table = sevenzip.table(streams, sevenzip.files([Member("f", b"x")]))
    header += sevenzip.streams(0, [len(table)], [sevenzip.folder([METHODS["copy"]])], [len(table)])

    data = sevenzip.beginning(len(table), header) + table + header
    assert "lie outside of the archive" in reason(data)


def test_a04_an_archive_of_half_a_million_empty_members_takes_little_memory():
    """py7zr took 330 MiB to open it."""
    many = sevenzip.whole(b"", many_empty(500_000), packs_header=True, method="lzma2")
    assert len(many) < MIB

    found = []
    peak = peak_bytes(lambda: found.append(reason(many)))
    assert found == ["archive_too_large: it has more than 250000 members (`max_files`)"]
    assert peak < 32 * MIB


def many_empty(count: int) -> bytes:
    names = "".join(f"{n}\0" for n in range(count)).encode("utf-16-le")
    files = b"\x05" + number(count) + entry(0x0E, sevenzip.bits([1] * count))
    return sevenzip.table(b"", files + entry(0x11, b"\0" + names) + b"\0")


def test_a04_members_that_are_left_out_take_no_memory():
    many = sevenzip.whole(b"", many_empty(10_000), packs_header=True, method="lzma2")

    assert peak_bytes(lambda: extract(many, exclude=["*"])) < 2 * MIB


@pytest.mark.parametrize("packs_header", [True, False])
def test_a04_a_table_is_not_read_that_is_longer_than_members_need(packs_header):
    many = sevenzip.whole(b"", bytes(600_000), packs_header=packs_header)

    found = reason(many, max_files=1000)
    assert found.startswith("archive_too_large: its table of contents has 600000 bytes")


@pytest.mark.parametrize("count", [2**20, 2**40, 2**64 - 1])
@pytest.mark.parametrize("what", ["files", "folders", "streams", "in a folder", "coders"])
def test_a04_nothing_is_made_of_what_is_counted_only(what, count):
    one = sevenzip.folder([METHODS["copy"]])
    folders = b"\x07\x0b" + number(count if what == "folders" else 1) + b"\0"
    folders += (number(count) if what == "coders" else b"") + one + b"\x0c\x01\0"
    parts = b"\x08\x0d" + number(count) + b"\0" if what == "in a folder" else b""
    packs = b"\x06\0" + number(count if what == "streams" else 1) + b"\x09\x01\0"
    files = b"\x05" + number(count if what == "files" else 1) + bytes(100)
    data = sevenzip.whole(b"x", sevenzip.table(packs + folders + parts + b"\0", files))

    found = reason(data, max_files=2**65)
    assert ("times over" if what == "coders" else "counts more than it holds") in found
    assert peak_bytes(lambda: reason(data, max_files=2**65)) < MIB
    assert reason(data).startswith("archive_")


# ---------------------------------------------------------------- A05: broken

PLAIN = archive(TREE[1:], ["copy"], packs_header=False)
PACKED = archive(TREE[1:])


def with_header(change) -> bytes:
    """Return PLAIN with another table of contents, of which the checksum is right."""
    offset = int.from_bytes(PLAIN[12:20], "little")
    packed, header = PLAIN[32 : 32 + offset], PLAIN[32 + offset :]
    return sevenzip.whole(packed, change(header))


def behind_stream(method: str) -> bytes:
    packed, sizes = sevenzip.pack(b"text" * 1000, [METHODS[method]])
    return with_sizes(packed + b"\0", sizes, [method])


NAME = "plain\0".encode("utf-16-le")
BROKEN = {
    "cut in its first bytes": PLAIN[:20],
    "cut in a member": PLAIN[:1000],
    "cut in its table": PLAIN[:-1],
    "more behind its end": PLAIN + b"\0",
    "first bytes broken": PLAIN[:12] + b"\1" + PLAIN[13:],
    "first checksum broken": PLAIN[:8] + bytes([PLAIN[8] ^ 1]) + PLAIN[9:],
    "table broken": PLAIN[:-2] + b"\1\0",
    "packed table broken": PACKED[:-60] + b"x" + PACKED[-59:],
    "bad CRC of a member": PLAIN.replace(b"#!/bin/sh", b"#!/bin/sx"),
    "bad byte of a packed member": PACKED[:100] + b"x" + PACKED[101:],
    "of a later version": sevenzip.MAGIC + b"\1" + PLAIN[7:],
    "no table": sevenzip.whole(b"", b"\0"),
    "a table behind the end of the table": with_header(lambda header: header + b"\0"),
    "a table that ends too early": with_header(lambda header: header[:-1]),
    "an unknown property": with_header(lambda header: header[:-2] + entry(0x1A, b"x") + b"\0\0"),
    "a property twice": with_header(
        lambda header: header[:-2] + entry(0x15, b"\1\0" + bytes(20)) + b"\0\0"
    ),
    "a property that is too long": with_header(
        lambda header: header[:-2] + entry(0x10, b"\0\0") + b"\0\0"
    ),
    "no names": sevenzip.whole(b"", sevenzip.table(b"", b"\x05\1" + bytes(20))),
    "names elsewhere": with_header(lambda header: header.replace(b"\0d\0\0\0", b"\1d\0\0\0")),
    "more names": with_header(lambda header: header.replace(NAME, NAME[2:-2] + b"\0" * 4)),
    "members without bytes": sevenzip.whole(
        b"", sevenzip.table(b"", sevenzip.files([Member("f", b"x")]))
    ),
    "bytes without members": with_header(lambda header: header[: header.index(b"\x05\5")] + b"\0"),
    **{f"more behind a stream of {name}": behind_stream(name) for name in METHODS},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a05_a_7z_that_is_not_whole_is_refused_and_nothing_is_seen(shop, name):
    failure = shop.refuse("d/t", BROKEN[name], "extract")

    assert (failure.code, failure.transient) == ("archive_bad", False), failure
    assert failure.reason.startswith("extract: t: ")


def test_a05_what_stands_behind_a_stream_that_ends_where_a_read_does_is_found():
    text = bytes(4 * 65536 - 13)
    parts = [text[at : at + 65536] for at in range(0, len(text), 65536)]
    packed = b"".join(b"\1" + (len(part) - 1).to_bytes(2, "big") + part for part in parts) + b"\0"
    assert len(packed) == 256 * 1024

    extract(with_sizes(packed, [len(text)], ["lzma2"]))
    found = reason(with_sizes(packed + b"x", [len(text)], ["lzma2"]))
    assert found == "archive_bad: there is more behind the end of a stream"


def test_a05_every_cut_of_a_7z_is_refused():
    for end in range(6, len(PACKED)):
        assert reason(PACKED[:end]).startswith("archive_bad")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (b"\x06\xf1\x07\x01", "it is encrypted; a command (`run`) that knows the password"),
        (b"\x03\x04\x01", "packed by PPMd, which is not known here"),
        (b"\x03\x03\x01\x1b", "packed by BCJ2, which"),
        (b"\x7f\x01", "packed by the method 7f01, which"),
    ],
)
def test_a05_what_is_encrypted_or_packed_otherwise_is_refused_by_name(method, said):
    """And what was packed by a method that is not known."""
    other = sevenzip.Method(method, b"", bytes)
    streams = sevenzip.streams(0, [4], [sevenzip.folder([other])], [4])
    files = sevenzip.files([Member("f", b"x")])

    assert said in reason(sevenzip.whole(b"text", sevenzip.table(streams, files)))


@pytest.mark.parametrize("name", ["\ud800", "x" * 9000, "a\0b"])
def test_a01_a_name_in_a_7z_that_is_none_is_refused(name):
    assert reason(archive([Member(name, b"x")])).startswith(("archive_denied", "archive_bad"))


COPY = sevenzip.folder([METHODS["copy"]])
TWO = sevenzip.files([Member("a", b"x"), Member("b", b"x")])
TEXT_CRC = zlib.crc32(b"text")


def of_text(streams: bytes, files: bytes = TWO) -> bytes:
    return sevenzip.whole(b"text", sevenzip.table(streams, files))


def in_parts(*numbers: int, sizes: tuple[int, ...] = ()) -> bytes:
    told = b"\x09" + b"".join(map(number, sizes)) if sizes else b""
    return b"\x08\x0d" + b"".join(map(number, numbers)) + told + b"\0"


def packed_crc(crc: int) -> bytes:
    streams = sevenzip.streams(0, [4], [COPY], [4], parts=in_parts(2, sizes=(1,)))
    return streams.replace(b"\x09\x04\0", b"\x09\x04\x0a\1" + sevenzip.u32(crc) + b"\0", 1)


def test_a05_a_7z_may_have_checksums_of_streams_and_of_folders():
    extract(of_text(packed_crc(TEXT_CRC)))
    assert "checksum" in reason(of_text(packed_crc(TEXT_CRC + 1)))
    for crc in (TEXT_CRC, None):
        parts = in_parts(2, sizes=(1,))
        extract(of_text(sevenzip.streams(0, [4], [COPY], [4], [crc], parts)))
    parts = in_parts(2, sizes=(1,))
    assert "checksum" in reason(of_text(sevenzip.streams(0, [4], [COPY], [4], [7], parts)))


NO_SENSE = [
    ("members are longer", sevenzip.streams(0, [4], [COPY], [4], parts=in_parts(2, sizes=(5,)))),
    ("members have no lengths", sevenzip.streams(0, [4], [COPY], [4], parts=in_parts(2))),
    (
        "that are nobody's",
        sevenzip.streams(0, [2, 2], [COPY] * 2, [2, 2], parts=in_parts(2, 0, sizes=(1,))),
    ),
    ("folders and streams do not fit", sevenzip.streams(0, [2, 2], [COPY], [4])),
    ("outside of the archive", sevenzip.streams(0, [3, 2], [COPY] * 2, [3, 2])),
    ("outside of the archive", sevenzip.streams(1, [4], [COPY], [4])),
    ("outside of the archive", sevenzip.streams(2**63, [4], [COPY], [4])),
    ("outside of the archive", sevenzip.streams(0, [2**64 - 1], [COPY], [4])),
    ("marks that are not known", sevenzip.streams(0, [4], [b"\1\x81\0"], [4])),
    ("packed 5 times over", sevenzip.streams(0, [4], [b"\5" + b"\1\0" * 5 + bytes(8)], [4] * 5)),
    ("packed 0 times over", sevenzip.streams(0, [4], [b"\0"], [])),
]


@pytest.mark.parametrize(("said", "streams"), NO_SENSE, ids=[said for said, _ in NO_SENSE])
def test_a05_streams_of_a_7z_that_make_no_sense_are_refused(said, streams):
    found = reason(of_text(streams))

    assert found.startswith("archive_bad: ")
    assert said in found


def test_a01_a_name_without_end_is_not_read_as_a_whole():
    assert "longer than any may be, or has no end" in reason(archive([Member("x" * 9000)]))


def test_a04_lengths_are_held_against_the_limits_all_together():
    streams = sevenzip.streams(0, [2, 2], [COPY] * 2, [40 * MIB] * 2)

    assert reason(of_text(streams)).startswith("archive_too_large")


def test_a05_a_packed_table_in_two_folders_or_with_a_wrong_checksum_is_refused():
    table = sevenzip.table(b"", sevenzip.files([Member("a")]))
    half = len(table) // 2
    sizes = [half, len(table) - half]
    whole = [len(table)]

    def packed(*streams: Any) -> bytes:
        header = b"\x17" + sevenzip.streams(*streams)
        return sevenzip.beginning(len(table), header) + table + header

    assert set(extract(packed(0, whole, [COPY], whole, [zlib.crc32(table)])).made) == {"a"}
    assert set(extract(packed(0, whole, [COPY], whole)).made) == {"a"}
    assert "checksum" in reason(packed(0, whole, [COPY], whole, [5]))
    assert "several pieces" in reason(packed(0, sizes, [COPY] * 2, sizes))


def test_a04_a_table_of_contents_has_64_mebibytes_at_most():
    packed = METHODS["deflate"].pack(bytes(65 * MIB))
    header = b"\x17" + sevenzip.streams(
        0, [len(packed)], [sevenzip.folder([METHODS["deflate"]])], [65 * MIB]
    )
    data = sevenzip.beginning(len(packed), header) + packed + header

    assert "at most 67108864 are read" in reason(data, max_files=10**7)
    assert peak_bytes(lambda: reason(data, max_files=10**7)) < 4 * MIB


def test_a07_time_is_looked_at_while_a_table_is_read():
    """Whose numbers go on for long, without a member or a byte of one."""
    padding = b"\x19\0" * 50_000
    files = b"\x05\0" + padding + b"\0"
    stage = Stage(sevenzip.whole(b"", sevenzip.table(b"", files)))
    extract_on(stage)

    assert stage.ticks >= 20


# ---------------------------------------------------------------- A07: astray


@pytest.mark.parametrize(
    "joints", [(0, 0, 1, 1), (0, 1, 1, 0), (1, 0, 0, 1), (0, 1, 0, 2), (0, 5, 1, 9)]
)
def test_a07_coders_that_lead_round_in_a_circle_are_refused(joints):
    coders = sevenzip.coder(METHODS["copy"]) * 3
    folder = number(3) + coders + b"".join(map(number, joints))
    streams = sevenzip.streams(0, [1], [folder], [1, 1, 1])

    data = sevenzip.whole(b"x", sevenzip.table(streams, sevenzip.files([Member("f", b"x")])))
    assert "packed first" in reason(data)


def test_a07_a_packed_table_in_a_packed_table_is_refused():
    inner = b"\x17" + bytes(100)

    assert "is none" in reason(sevenzip.whole(b"", inner, packs_header=True))


@pytest.mark.parametrize(
    ("method", "properties"),
    [("lzma", b"\x5d" + b"\xff" * 4), ("lzma2", b"\x28"), ("lzma2", b"\x21")],
)
def test_a07_a_7z_whose_dictionary_takes_much_memory_is_refused(method, properties):
    greedy = sevenzip.Method(METHODS[method].id, properties, bytes)
    streams = sevenzip.streams(0, [100], [sevenzip.folder([greedy])], [2**30])
    files = sevenzip.files([Member("f", b"x")])
    data = sevenzip.whole(bytes(100), sevenzip.table(streams, files))

    found = reason(data, max_ratio=10**9)
    assert "MiB of memory; at most 256 MiB are given" in found
    assert peak_bytes(lambda: reason(data, max_ratio=10**9)) < 2 * MIB


@pytest.mark.parametrize("method", ["lzma", "lzma2"])
def test_a07_a_dictionary_is_no_larger_than_what_comes_out(method):
    packed, sizes = sevenzip.pack(NOISE, [METHODS[method]])
    properties = {"lzma": b"\x5d" + b"\xff" * 4, "lzma2": b"\x28"}[method]
    greedy = sevenzip.Method(METHODS[method].id, properties, bytes)
    streams = sevenzip.streams(0, [len(packed)], [sevenzip.folder([greedy])], sizes)
    files = sevenzip.files([Member("f", b"x")])
    data = sevenzip.whole(packed, sevenzip.table(streams, files))

    assert extract(data).written_bytes == len(NOISE)
    assert peak_bytes(lambda: extract(data)) < 12 * MIB


@pytest.mark.parametrize(
    ("method", "properties"),
    [("lzma", b""), ("lzma", b"\xe1" + bytes(4)), ("lzma2", b"\x29"), ("lzma2", b""),
     ("delta", b""), ("x86", b"\1"), ("deflate", b"\1"), ("bzip2", b"\1")],
)  # fmt: skip
def test_a07_settings_that_make_no_sense_are_refused(method, properties):
    odd = sevenzip.Method(METHODS[method].id, properties, bytes)
    streams = sevenzip.streams(0, [4], [sevenzip.folder([odd])], [4])
    files = sevenzip.files([Member("f", b"x")])

    found = reason(sevenzip.whole(b"text", sevenzip.table(streams, files)))
    assert found.startswith("archive_bad")
    assert "settings that are not known" in found or properties[:1] == b"\xe1"


def test_a07_time_is_looked_at_at_every_piece_also_of_what_is_left_out():
    data = archive([Member("z", bytes(20 * MIB))], ["deflate"])

    assert extract(data, exclude=["*"]).ticks >= 20


def test_a07_time_is_looked_at_between_two_coders_where_nothing_comes_out_of_the_last():
    empty_blocks = b"\0\0\0\xff\xff" * 4 * MIB
    packed = METHODS["deflate"].pack(empty_blocks)
    data = with_sizes(packed, [1, len(empty_blocks)], ["deflate", "deflate"])
    stage = Stage(data)

    with pytest.raises(AttemptError, match="ends too early"):
        extract_on(stage)
    assert stage.ticks >= 20


def test_a07_time_is_limited_while_a_7z_is_read(tmp_path):
    class Hasty(FakeClock):
        def monotonic(self):
            self.advance(0.3)
            return super().monotonic()

    shop = Workshop(tmp_path, clock=Hasty())
    data = archive([Member("z", bytes(50 * MIB))], ["deflate"])
    failure = shop.refuse("t", data, {"extract": {"timeout": "10s", "exclude": "*"}})

    assert failure.code == "step_timeout"
    shop.close()


# ---------------------------------------------------------------- A08


def test_a08_a_cancel_in_the_middle_of_a_7z_leaves_nothing(tmp_path):
    wanted = iter([True] * 3)
    clock = FakeClock()

    def still_wanted() -> bool:
        clock.advance(1)
        return next(wanted, False)

    shop = Workshop(tmp_path, clock=clock, wanted=still_wanted)
    data = archive([Member(str(n), bytes(MIB)) for n in range(20)])
    outcome = shop.finish("t", data, "extract")

    assert isinstance(outcome, Interrupted)
    assert shop.seen() == {}
    assert len(shop.left()) == 2  # the part, and whose it is
    shop.close()


# ---------------------------------------------------------------- anything else

SMALL = (
    Member("a", b"abc" * 100, mtime_s=1_600_000_000),
    Member("d", None, mode=stat.S_IFDIR | 0o755),
    Member("d/e", b"e" * 50),
    Member("f"),
    Member("g", b"\xe8" * 999, mode=None),
)
SEEDS = [
    archive(SMALL, methods, a_folder=a_folder, packs_header=False)
    for methods in (["copy"], ["lzma"], ["x86", "lzma2"], ["delta", "bzip2"], ["deflate"])
    for a_folder in (1, 2, 9)
]


def mutated(data, whole: bytes) -> bytes:
    """Return an archive with some bytes of it, or of its table, changed; its checksums hold."""
    offset = int.from_bytes(whole[12:20], "little")
    packed, header = bytearray(whole[32 : 32 + offset]), bytearray(whole[32 + offset :])
    for _ in range(data.draw(st.integers(1, 4))):
        changed = data.draw(st.sampled_from([header, header, header, packed]))
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(["set", "add", "remove", "number"]))
        if how == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif how == "add":
            changed[at:at] = data.draw(st.binary(max_size=4))
        elif how == "remove" and len(changed) > 1:
            del changed[at]
        else:
            changed[at : at + 1] = number(data.draw(st.integers(0, 2**64 - 1)))
    return sevenzip.whole(bytes(packed), bytes(header), packs_header=data.draw(st.booleans()))


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.data())
def test_a05_any_table_of_a_7z_is_one_or_a_failure_in_bounded_memory(data):
    whole = mutated(data, data.draw(st.sampled_from(SEEDS)))
    found, codes = [], []

    def work() -> None:
        try:
            found.append(extract(whole))
        except AttemptError as exc:
            codes.append(exc.code)

    began_s = time.thread_time()
    peak = peak_bytes(work)
    assert time.thread_time() - began_s < 2
    assert peak < 80 * MIB
    assert all(code.startswith("archive_") for code in codes)
    for stage in found:
        for path in stage.made:
            assert not path.startswith("/")
            assert ".." not in path.split("/")


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.data())
def test_a05_any_bytes_of_a_7z_are_an_archive_or_a_failure(tmp_path_factory, data):
    whole = bytearray(data.draw(st.sampled_from([*SEEDS, PACKED])))
    if data.draw(st.booleans()):
        whole = bytearray(mutated(data, SEEDS[0]))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(6, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("any")
    shop = Workshop(folder / "root")
    outcome = shop.finish("t", bytes(whole), "extract")

    assert isinstance(outcome, Published | Failure)
    if isinstance(outcome, Failure):
        assert outcome.code.startswith("archive_")
        assert shop.seen() == {}
    assert [path.name for path in folder.iterdir()] == ["root"]
    shop.close()


def test_a_number_is_read_as_it_is_written():
    from fetchd.steps.sevenzips.numbers import Cursor

    for value in [0, 1, 127, 128, 16383, 16384, *(2**n - 1 for n in range(8, 65)), 2**56, 2**63]:
        cursor = Cursor(bytearray(number(value)), lambda: None)
        assert (cursor.number(), cursor.left) == (value, 0)


def test_the_checksum_of_the_table_is_looked_at():
    assert zlib.crc32(PLAIN[32 + int.from_bytes(PLAIN[12:20], "little") :]) == int.from_bytes(
        PLAIN[28:32], "little"
    )
    assert "checksum" in reason(PLAIN[:-4] + b"x" + PLAIN[-3:])
