"""``extract``: what comes out of archives, and what never does (rows A01 to A08)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sevenzip
from fetchd.model import Failure, IfExists, Interrupted, Published
from fetchd.steps import unpack
from harness import FakeClock
from workshop import Workshop

MIB = 1024 * 1024


@pytest.fixture
def shop(tmp_path):
    made = Workshop(tmp_path / "root")
    yield made
    made.close()


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes] | str, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive; a text is a file of that name which holds it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for one in members:
            info, data = member(one, one.encode()) if isinstance(one, str) else one
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(*names: str | tuple[zipfile.ZipInfo, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for one in names:
            if isinstance(one, str):
                archive.writestr(one, one.encode())
            else:
                archive.writestr(*one, compress_type=method)
    return file.getvalue()


def seven(*names: str) -> bytes:
    return sevenzip.archive([sevenzip.Member(name, name.encode()) for name in names])


def zip_member(name: str, data: bytes = b"", mode: int = 0o100644, **fields):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def zstd(data: bytes) -> bytes:
    from backports import zstd as module

    return module.compress(data)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}
#: The kinds of archives, each made of the names of its files.
KINDS = pytest.mark.parametrize("archive", [tar, zipped, seven], ids=["tar", "zip", "7z"])


# ---------------------------------------------------------------- what comes out


@KINDS
def test_the_files_of_an_archive_come_out_in_the_place_of_it(shop, archive):
    assert shop.make("d/a.bin", archive("x", "y/z"), "extract") == {
        "d/x": b"x",
        "d/y/z": b"y/z",
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_tar_archives_of_each_form_and_compression(shop, form, compression):
    rest = random.Random(1).randbytes(3 * MIB + 7)
    long = "/".join(["folder" * 10] * 2) + "/f"
    data = tar(member("big", rest), member(long, b"deep"), form=form)
    packed = COMPRESSIONS[compression](data) if compression else data

    assert shop.make("a", packed, "extract") == {"big": rest, long: b"deep"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_archives_of_each_method(shop, method):
    rest = random.Random(1).randbytes(3 * MIB + 7)
    data = zipped(zip_member("big", rest), "small", method=method)

    assert shop.make("a", data, "extract") == {"big": rest, "small": b"small"}


def test_what_gnu_tar_and_info_zip_make_comes_out(shop, tmp_path):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 100_000)
    (folder / "b/ü").write_bytes(b"u")
    (folder / "b/run").write_text("#!/bin/sh\n")
    (folder / "b/run").chmod(0o755)
    for name, command in {
        "t.tar": ["tar", "-cf", "../t.tar", "."],
        "t.tgz": ["tar", "-czf", "../t.tgz", "a", "b"],
        "t.zip": ["zip", "-qr", "../t.zip", "."],
    }.items():
        subprocess.run(command, cwd=folder, check=True)
        found = shop.make(f"{name}.d/{name}", (tmp_path / name).read_bytes(), "extract")
        there = {path.removeprefix(f"{name}.d/"): data for path, data in found.items()}
        assert (
            there.items()
            >= {
                "a": b"a" * 100_000,
                "b/ü": b"u",
                "b/run": b"#!/bin/sh\n",
            }.items()
        )
        assert os.access(shop.folder / f"{name}.d/b/run", os.X_OK)
        assert not os.access(shop.folder / f"{name}.d/a", os.X_OK)


def test_dates_come_out_and_impossible_ones_do_not(shop):
    names = {"a": 1_600_000_000, "b": 2**33, "c": -5}
    shop.make("t", tar(*(member(name, b"x", mtime=at) for name, at in names.items())), "extract")

    assert (shop.folder / "a").stat().st_mtime == 1_600_000_000
    assert (shop.folder / "b").stat().st_mtime < 2**32
    assert (shop.folder / "c").stat().st_mtime > 0


def test_empty_folders_come_out(shop):
    shop.make("t", tar(member("d/e", type=tarfile.DIRTYPE, mode=0o755)), "extract")

    assert (shop.folder / "d/e").is_dir()


def test_a_sparse_file_comes_out_with_its_holes_as_zeros(shop, tmp_path):
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-cf", "t.tar", "hole"], cwd=tmp_path, check=True)
    packed = (tmp_path / "t.tar").read_bytes()
    assert len(packed) < MIB

    assert shop.make("t", packed, "extract") == {"hole": bytes(3 * MIB) + b"end"}


@KINDS
def test_folders_are_taken_off_the_front(shop, archive):
    data = archive("top/a", "top/b/c", "other")

    assert shop.make("t", data, {"extract": {"strip_components": "1"}}) == {
        "a": b"top/a",
        "b/c": b"top/b/c",
    }


@KINDS
def test_only_what_is_asked_for_comes_out(shop, archive):
    data = archive("a/x.py", "a/y.txt", "b/z.py", "b/test_z.py")
    options = {"include": ["*.py", "*.txt"], "exclude": "b/test*"}

    found = shop.make("t", data, {"extract": options})

    assert sorted(found) == ["a/x.py", "a/y.txt", "b/z.py"]


def test_names_that_are_not_utf8_come_out_as_they_are(shop):
    shop.make("t", tar(member("caf\udce9", b"x"), form=tarfile.GNU_FORMAT), "extract")

    assert (shop.folder / "caf\udce9").read_bytes() == b"x"


@KINDS
def test_an_archive_that_is_extracted_again_replaces_its_own_files(shop, archive):
    shop.make("t", archive("a", "b/c"), "extract")
    (shop.folder / "b/mine").write_bytes(b"mine")

    assert shop.make("t", archive("a", "b/c", "b/d"), "extract") == {
        "a": b"a",
        "b/c": b"b/c",
        "b/d": b"b/d",
        "b/mine": b"mine",
    }


def test_if_exists_fail_holds_for_each_member(shop):
    (shop.folder / "b").write_bytes(b"old")

    failure = shop.refuse("t", tar("a", "b"), "extract", if_exists=IfExists.FAIL)

    assert failure.code == "exists"


def test_zst_without_its_extra_says_what_to_install(shop, monkeypatch):
    packed = zstd(tar("a"))
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "backports", None)

    failure = shop.refuse("t", packed, "extract")

    assert failure.code == "step_failed"
    assert "fetchd[zstd]" in failure.reason


# ---------------------------------------------------------------- A01: names

EVIL_NAMES = [
    "../x",
    "/abs",
    "a/../../x",
    "..\\x",
    "C:x",
    "c:\\x",
    "../root-evil/x",
    "a/..",
    ".fetchd/parts/x",
    "a/.FetchD/x",
    "bell\a",
    "line\nfeed",
    "c1\x85",
    "n" * 256,
    "é" * 128,
    "/".join(["d"] * 101),
    "/".join(["d" * 200] * 21),
]


@pytest.mark.parametrize("name", EVIL_NAMES)
@KINDS
def test_a01_a_name_that_could_lead_elsewhere_refuses_the_archive(shop, archive, name, tmp_path):
    (tmp_path / "root-evil").mkdir()
    failure = shop.refuse("d/t", archive("good", name), "extract")

    assert (failure.code, failure.transient) == ("archive_denied", False)
    assert list((tmp_path / "root-evil").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/abs", "a\\b"])
@KINDS
def test_a01_what_is_left_out_has_a_name_that_leads_nowhere_either(shop, archive, name):
    options = {"exclude": "*", "strip_components": "3"}
    failure = shop.refuse("d/t", archive(name), {"extract": options})

    assert failure.code == "archive_denied"


def test_a01_a_zip_name_that_is_cut_at_a_zero_is_refused(shop):
    data = zipped("good.txtX/../evil").replace(b"good.txtX", b"good.txt\0")

    assert shop.refuse("t", data, "extract").code == "archive_denied"


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(st.sampled_from("./\\ab:~\0é\udcff\x1b "), min_size=1, max_size=12))
def test_a01_any_name_is_refused_or_lies_below_its_folder(name):
    from fetchd.errors import AttemptError
    from fetchd.steps.members import _components

    try:
        components = _components(name)
    except AttemptError:
        return
    path = os.path.normpath("/".join(components) or ".")
    assert not path.startswith("/")
    assert path.split("/")[0] != ".."
    assert not {"", ".", ".."} & set(components)


# ---------------------------------------------------------------- A02: links

LINKS = {
    "symlink, then a file through it": tar(
        member("d", type=tarfile.SYMTYPE, linkname="/tmp"), "d/x"
    ),
    "hard link to a symlink": tar(
        member("s", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("h", type=tarfile.LNKTYPE, linkname="s"),
    ),
    "absolute link": tar(member("s", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard link to outside": tar(member("h", type=tarfile.LNKTYPE, linkname="../../etc/passwd")),
    "long path of CVE-2025-4517": tar(
        *(
            info
            for depth in range(16)
            for info in (
                member("/".join(["d" * 200] * (depth + 1)), type=tarfile.DIRTYPE),
                member(
                    "/".join(["d" * 200] * depth + ["l"]).lstrip("/"),
                    type=tarfile.SYMTYPE,
                    linkname="d" * 200,
                ),
            )
        ),
        member("/".join(["l"] * 16) + "/up", type=tarfile.SYMTYPE, linkname="../" * 16),
    ),
    "chain of links": tar(
        *(
            member(f"l{n}", type=tarfile.SYMTYPE, linkname=f"l{n + 1}" if n < 9 else "..")
            for n in range(10)
        ),
        "l0/x",
    ),
    "symlink in a zip": zipped(zip_member("s", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)),
}


@pytest.mark.parametrize("name", LINKS)
def test_a02_links_are_never_made(shop, name):
    failure = shop.refuse("t", LINKS[name], "extract")

    assert failure.code == "archive_denied"
    assert "link" in failure.reason


def test_a02_links_can_be_left_out_and_what_is_behind_them_is_a_plain_file(shop):
    data = LINKS["symlink, then a file through it"]

    assert shop.make("t", data, {"extract": {"links": "skip"}}) == {"d/x": b"d/x"}
    assert not (shop.folder / "d").is_symlink()


# ---------------------------------------------------------------- A03: kinds, modes, sizes


@pytest.mark.parametrize(
    "data",
    [
        tar(member("f", type=tarfile.FIFOTYPE)),
        tar(member("c", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
        tar(member("b", type=tarfile.BLKTYPE)),
        tar(member("u", b"x", type=b"Z")),
        zipped(zip_member("f", mode=stat.S_IFIFO | 0o644)),
        zipped(zip_member("f", mode=stat.S_IFCHR | 0o644)),
    ],
    ids=["pipe", "char device", "block device", "unknown", "pipe in zip", "device in zip"],
)
def test_a03_what_is_no_file_folder_or_link_is_refused(shop, data):
    assert shop.refuse("t", data, "extract").code == "archive_denied"


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o7777, 0o0000, 0o600])
def test_a03_of_a_mode_only_whether_it_can_be_run_is_kept(shop, mode):
    data = tar(
        member("d", type=tarfile.DIRTYPE, mode=0),
        member("d/f", b"x", mode=mode),
    )
    assert shop.make("t", data, "extract") == {"d/f": b"x"}

    found = stat.S_IMODE((shop.folder / "d/f").stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert found == (0o777 if mode & 0o100 else 0o666) & ~umask
    assert stat.S_IMODE((shop.folder / "d").stat().st_mode) == 0o777 & ~umask


def test_a03_a_header_of_ten_terabytes_is_refused_before_a_byte_is_written(shop):
    header = tarfile.TarInfo("big")
    header.size = 10 * 10**12
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)

    assert shop.refuse("t", data, "extract").code == "archive_too_large"


def test_a03_a_sparse_file_of_ten_terabytes_is_refused(shop):
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "big"}
    info = tarfile.TarInfo("GNUSparseFile.0/big")
    info.pax_headers = {**pax, "GNU.sparse.realsize": str(10 * 10**12)}
    body = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
    info.size = len(body)

    assert shop.refuse("t", tar((info, body)), "extract").code == "archive_too_large"


# ---------------------------------------------------------------- A04: bombs


def test_a04_a_bomb_by_ratio_is_stopped_by_what_comes_out(shop):
    zeros = zipped(zip_member("z", bytes(80 * MIB)))
    assert len(zeros) < MIB

    failure = shop.refuse("t", zeros, "extract")

    assert (failure.code, "max_ratio" in failure.reason) == ("archive_too_large", True)


def test_a04_a_bomb_of_xz_is_stopped_while_it_flows(shop):
    bomb = lzma.compress(tar(member("z", bytes(80 * MIB))))

    assert shop.refuse("t", bomb, "extract").code == "archive_too_large"


@KINDS
def test_a04_bytes_are_limited(shop, archive):
    data = archive("0123456789", "abcdef")

    failure = shop.refuse("t", data, {"extract": {"max_bytes": "15"}})
    assert (failure.code, "max_bytes" in failure.reason) == ("archive_too_large", True)
    shop.make("t", data, {"extract": {"max_bytes": "16"}})


@KINDS
def test_a04_members_are_limited_those_left_out_too(shop, archive):
    data = archive(*map(str, range(11)))

    options = {"max_files": "10", "exclude": "*"}
    assert shop.refuse("t", data, {"extract": options}).code == "archive_too_large"
    shop.make("t", data, {"extract": {"max_files": "11"}})


def test_a04_a_zip_is_counted_before_its_table_fills_the_memory(shop, monkeypatch):
    """By its entries, not by what its end says of them."""
    data = zipped(*map(str, range(2000)))
    end = data.rindex(b"PK\x05\x06")
    lying = data[: end + 8] + struct.pack("<2H", 1, 1) + data[end + 12 :]

    monkeypatch.setattr("zipfile.ZipFile", None)
    failure = shop.refuse("t", lying, {"extract": {"max_files": "1999"}})
    assert failure.code == "archive_too_large"


def test_a04_members_that_share_their_bytes_are_refused(shop):
    """As in D. Fifield's bombs: many entries of one kernel of zeros."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = kernel.compress(bytes(MIB)) + kernel.flush()
    crc, entries = zlib.crc32(bytes(MIB)), b""
    fields = (20, 0, 8, 0, 33, crc, len(deflated), MIB, 1, 0)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + b"a" + deflated
    for name in b"abcdefgh":
        entries += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, *fields[:-1], 0, 0, 0, 0, 0, 0
        ) + bytes([name])
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 8, 8, len(entries), len(local), 0)

    failure = shop.refuse("t", local + entries + end, "extract")
    assert (failure.code, "another member" in failure.reason) == ("archive_denied", True)


def test_a04_an_archive_within_an_archive_stays_one(shop):
    inner = tar("x")

    assert shop.make("t", tar(member("in.tar", inner)), "extract") == {"in.tar": inner}


@pytest.mark.parametrize("said", [10, 10_000])
def test_a04_a_zip_header_that_lies_about_the_length_is_found_out(shop, said):
    data = bytearray(zipped(zip_member("a", b"x" * 1000)))
    entry = data.index(b"PK\x01\x02")
    for at in (22, entry + 24):
        data[at : at + 4] = struct.pack("<I", said)

    assert shop.refuse("t", bytes(data), "extract").code == "archive_bad"


def test_a04_a_million_members_take_bounded_memory_and_are_refused(shop):
    data = tar(*(member(str(n)) for n in range(3000)), form=tarfile.USTAR_FORMAT)
    many = data[: 3000 * 512] * 100 + bytes(1024)

    failure = shop.refuse("t", gzip.compress(many, 1), {"extract": {"max_files": "2999"}})
    assert failure.code == "archive_too_large"


# ---------------------------------------------------------------- A05: broken

WHOLE = tar("x", member("y", b"y" * 3000))
BROKEN = {
    "empty": b"",
    "no archive": b"<html>" + b"x" * 2000,
    "cut in a header": WHOLE[:200],
    "cut in a file": WHOLE[: 512 * 4 + 100],
    "cut behind a file": WHOLE[:1024],
    "cut before its end": WHOLE[: 512 * 9],
    "bad checksum of a header": WHOLE[:1024] + b"\1" + WHOLE[1025:],
    "more behind its end": WHOLE + b"more",
    "gz: cut": gzip.compress(WHOLE)[:-20],
    "gz: cut in its check": gzip.compress(WHOLE)[:-4],
    "gz: bad check": gzip.compress(WHOLE)[:-8] + bytes(8),
    "gz: more behind": gzip.compress(WHOLE) + b"more",
    "gz: no tar": gzip.compress(b"text" * 1000),
    "bz2: cut": bz2.compress(WHOLE)[:-6],
    "bz2: broken": bz2.compress(WHOLE)[:30] + b"xxxx" + bz2.compress(WHOLE)[34:],
    "xz: cut": lzma.compress(WHOLE)[:-10],
    "xz: broken": lzma.compress(WHOLE)[:40] + b"xxxx" + lzma.compress(WHOLE)[44:],
    "zst: cut": zstd(WHOLE)[:-5],
    "zst: broken": zstd(WHOLE)[:20] + b"xxxx" + zstd(WHOLE)[24:],
    "zip: cut": zipped("a", "b")[:-30],
    "zip: cut in front": zipped("a", "b")[10:],
    "zip: more behind": zipped("a", "b") + b"more",
    "zip: bad CRC": zipped("hello", method=zipfile.ZIP_STORED).replace(b"hello", b"hellO", 2),
    "zip: encrypted": zipped(zip_member("a", b"a")).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    ),
    "zip: an unknown method": zipped(zip_member("a", b"a"), method=zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a05_an_archive_that_is_not_whole_is_refused_and_nothing_is_seen(shop, name):
    failure = shop.refuse("d/t", BROKEN[name], "extract")

    assert (failure.code, failure.transient) == ("archive_bad", False)
    assert failure.reason.startswith("extract: t: ")


def test_a05_zeros_behind_an_archive_are_padding(shop):
    for data in (WHOLE + bytes(100_000), gzip.compress(WHOLE) + bytes(511)):
        assert set(shop.make("t", data, "extract")) == {"x", "y"}


def test_a05_streams_one_behind_the_other_are_one(shop):
    for compress in COMPRESSIONS.values():
        packed = compress(WHOLE[:700]) + compress(WHOLE[700:])
        assert set(shop.make("t", packed, "extract")) == {"x", "y"}


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.data())
def test_a05_any_bytes_are_an_archive_or_a_failure(tmp_path_factory, data):
    whole = data.draw(st.sampled_from([WHOLE, zipped("a", "b/c"), gzip.compress(WHOLE)]))
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    shop = Workshop(tmp_path_factory.mktemp("any"))
    outcome = shop.finish("t", bytes(changed), "extract")

    assert isinstance(outcome, Published | Failure)
    if isinstance(outcome, Failure):
        assert outcome.code.startswith("archive_")
        assert shop.seen() == {}
    shop.close()


# ---------------------------------------------------------------- A06: names that meet


@pytest.mark.parametrize(
    "names",
    [("a", "b", "a"), ("a", "./a"), ("A", "a"), ("d/x", "D/y"), ("é", "e\u0301"), ("ß", "SS")],
)
@KINDS
def test_a06_names_that_are_one_or_differ_in_case_only_are_refused(shop, archive, names, recwarn):
    assert shop.refuse("t", archive(*names), "extract").code == "archive_denied"


@KINDS
def test_a06_names_that_differ_in_case_can_be_allowed(shop, archive):
    data = archive("xt_mark.c", "xt_MARK.c", "D/x", "d/y")

    found = shop.make("t", data, {"extract": {"case_clashes": "allow"}})

    assert set(found) == {"xt_mark.c", "xt_MARK.c", "D/x", "d/y"}


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("allow", [False, True])
@KINDS
def test_a06_a_file_where_a_folder_is_is_refused(shop, archive, names, allow):
    options = {"case_clashes": "allow"} if allow else {}

    assert shop.refuse("t", archive(*names), {"extract": options}).code == "archive_denied"


def test_a06_a_folder_may_be_named_more_than_once(shop):
    folder = member("d", type=tarfile.DIRTYPE, mode=0o755)

    assert shop.make("t", tar(folder, "d/x", folder, "d/y"), "extract").keys() == {"d/x", "d/y"}


# ---------------------------------------------------------------- A07: readers that are led astray


def test_a07_a_negative_length_does_not_lead_backwards(shop):
    """CVE-2025-8194: an offset below zero makes a reader go round for ever."""
    header = bytearray(tarfile.TarInfo("loop").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)

    assert shop.refuse("t", bytes(header) + bytes(1024), "extract").code == "archive_bad"


def pax_of(records: bytes, kind: bytes = b"x") -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, len(records)
    return header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_a07_headers_without_end_are_refused(shop, kind):
    records = b"%d comment=%s\n" % (1010, b"c" * 996) if kind != b"L" else b"n" * 1000
    endless = gzip.compress(pax_of(records, kind) * 40_000, 1)

    assert shop.refuse("t", endless, "extract").code == "archive_bad"


def test_a07_members_that_are_all_header_are_refused(shop):
    records = b"%d comment=%s\n" % (900_017, b"c" * 900_000)
    data = b"".join(
        pax_of(records) + tarfile.TarInfo(f"x{n}").tobuf(tarfile.USTAR_FORMAT) for n in range(20)
    )
    failure = shop.refuse("t", gzip.compress(data, 1), "extract")

    assert failure.code == "archive_bad"
    assert failure.reason.endswith("it has more headers than any archive needs")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_a07_one_header_of_any_length_does_not_fill_the_memory(shop, kind):
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, 2**33
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(64 * MIB), 1)

    assert shop.refuse("t", bomb, "extract").code == "archive_bad"


def test_a07_a_stream_that_wants_much_memory_is_refused(shop):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1536 * MIB}]
    small = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    packed = bytearray(small.compress(WHOLE) + small.flush())
    del filters
    packed[16] = 40  # the size of the dictionary: 4 GiB
    block = packed[12:20]
    packed[20:24] = struct.pack("<I", zlib.crc32(bytes(block)))

    assert shop.refuse("t", bytes(packed), "extract").code == "archive_bad"


def test_a07_time_is_limited_whatever_is_read(tmp_path):
    class Hasty(FakeClock):
        def monotonic(self):
            self.advance(0.3)
            return super().monotonic()

    shop = Workshop(tmp_path, clock=Hasty())
    options = {"timeout": "10s"}
    failure = shop.refuse("t", tar(*map(str, range(500))), {"extract": options})

    assert failure.code == "step_timeout"
    shop.close()


# ---------------------------------------------------------------- A08: see test_staging.py, too


def test_a08_a_cancel_in_the_middle_leaves_nothing(tmp_path):
    wanted = iter([True] * 3)
    clock = FakeClock()

    def still_wanted() -> bool:
        clock.advance(1)
        return next(wanted, False)

    shop = Workshop(tmp_path, clock=clock, wanted=still_wanted)
    outcome = shop.finish("t", tar(*(member(str(n), bytes(MIB)) for n in range(20))), "extract")

    assert isinstance(outcome, Interrupted)
    assert shop.seen() == {}
    assert len(shop.left()) == 2  # the part, and whose it is
    shop.close()


def test_pieces_of_compressed_streams_are_bounded():
    class Given:
        size_bytes = 0

        def __init__(self, data):
            self.data = data

        def readinto(self, buffer, offset):
            piece = self.data[offset : offset + len(buffer)]
            buffer[: len(piece)] = piece
            return len(piece)

    zeros = bytes(20 * MIB)
    for name, compress in COMPRESSIONS.items():
        pieces = list(unpack.unpacked(Given(compress(zeros)), name))
        assert max(map(len, pieces)) <= unpack.PIECE_BYTES
        assert sum(map(len, pieces)) == len(zeros)


def test_the_archive_is_given_by_its_content_not_by_its_name(shop: Workshop, tmp_path: Path):
    assert shop.make("a.zip", gzip.compress(tar("x")), "extract") == {"x": b"x"}
