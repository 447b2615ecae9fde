from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fetchd.digests import ALGORITHMS, Digest, Hashes
from fetchd.digests.sums import MOST_LINES, Sums, is_of_a_folder, is_sums_file, summed_file
from fetchd.errors import ValueProblem

A, B = "ab" * 32, "cd" * 32
SHA_A, SHA_B = Digest("sha256", A), Digest("sha256", B)


def of(text: str | bytes, name: str, path: str | None = None, file: str = "SUMS"):
    data = text if isinstance(text, bytes) else text.encode()
    return Sums(data, file).of(name if path is None else path, name)


def refused(text: str | bytes, name: str = "a.iso", path: str | None = None, file: str = "SUMS"):
    with pytest.raises(ValueProblem) as caught:
        of(text, name, path, file)
    return str(caught.value)


# ---------------------------------------------------------------- algorithms

#: Check values of the algorithms' own specifications, for b"123456789".
KNOWN = {
    "crc32c": "e3069283",
    "xxh64": "8cb841db40e6ae83",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


@pytest.mark.parametrize("algorithm", KNOWN)
def test_a_digest_is_that_of_its_algorithm_whatever_holds_the_bytes(algorithm):
    hashes = Hashes([algorithm])
    hashes.update(memoryview(bytearray(b"1234"))[:3])
    hashes.update(b"456")
    hashes.update(bytearray(b"789"))

    assert hashes.digests() == (Digest(algorithm, KNOWN[algorithm]),)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_writes_as_many_digits_as_the_table_says(algorithm):
    hashes = Hashes([algorithm])
    hashes.update(b"x")
    (digest,) = hashes.digests()

    assert Digest.parse(str(digest)) == digest


MISSING = """
import sys
sys.modules["google_crc32c"] = sys.modules["xxhash"] = None
from fetchd.digests import Digest
from fetchd.digests.sums import Sums
from fetchd.errors import ValueProblem
Digest.parse("md5:" + "0" * 32)
for make in (
    lambda: Digest.parse("crc32c:01234567"),
    lambda: Digest.parse("XXH64:0123456789abcdef"),
    lambda: Sums(b"XXH64 (a) = 0123456789abcdef", "SUMS"),
):
    try:
        make()
    except ValueProblem as exc:
        print(exc)
"""


def test_without_the_extra_its_algorithms_say_what_to_install():
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, check=True)

    assert done.stdout.decode().splitlines() == [
        f"{name} checksums need an extra that is not installed; "
        "install fetchd[hashes] where fetchd runs"
        for name in ("crc32c", "xxh64", "xxh64")
    ]


def test_the_extra_is_not_loaded_for_those_who_do_not_ask_for_it():
    code = (
        "import sys; from fetchd.digests import Digest, Hashes; "
        "Digest.parse('md5:' + '0' * 32); Hashes(['sha256']); "
        "sys.exit('xxhash' in sys.modules or 'google_crc32c' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- lines of sums files


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{A}  a.iso", "a.iso"),
        (f"{A} *a.iso", "a.iso"),
        (f"{A} a.iso", "a.iso"),
        (f"{A}\ta.iso", "a.iso"),
        (f"{A}     a.iso", "a.iso"),
        (f"{A.upper()}  a.iso\r", "a.iso"),
        (f"{A}  ./a.iso", "a.iso"),
        (f"{A}  .//./a.iso", "a.iso"),
        (f"{A}  a b (c) = d.iso", "a b (c) = d.iso"),
        (f"\\{A}  a\\\\b\\nc.iso", "a\\b\nc.iso"),
        (f"{A}  a\\nb.iso", "a\\nb.iso"),
        (f"SHA256 (a.iso) = {A}", "a.iso"),
        (f"sha256 (a.iso) = {A}", "a.iso"),
        (f"SHA256(a.iso)= {A}", "a.iso"),
        (f"SHA2-256(a.iso)= {A}", "a.iso"),
        (f"SHA256 (./a.iso) = {A}", "a.iso"),
        (f"SHA256 (a (1).iso) = {A}", "a (1).iso"),
        (f"SHA256 (a) = b.iso) = {A}", "a) = b.iso"),
        (f"\\SHA256 (a\\\\b.iso) = {A}", "a\\b.iso"),
        ("\ufeff" + f"{A}  a.iso", "a.iso"),
        (f"{A}  caf\u00e9.iso", "caf\u00e9.iso"),
    ],
)
def test_a_line_of_any_of_the_known_forms_is_read(line, name):
    assert of(f"{line}\n\n# sums\n{B}  other.iso\n", name) == (SHA_A,)


def test_names_need_not_be_utf8():
    assert of(A.encode() + b"  caf\xe9.iso", "caf\udce9.iso") == (SHA_A,)


@pytest.mark.parametrize(
    ("file", "value", "algorithm"),
    [
        ("SUMS", "0" * 32, "md5"),
        ("checksums.txt", "0" * 40, "sha1"),
        ("CHECKSUM", "0" * 56, "sha224"),
        ("CHECKSUM", "0" * 64, "sha256"),
        ("CHECKSUM", "0" * 96, "sha384"),
        ("CHECKSUM", "0" * 128, "sha512"),
        ("SHA512SUMS", "0" * 128, "sha512"),
        ("B2SUMS", "0" * 128, "blake2b"),
        ("b2sum.txt", "0" * 128, "blake2b"),
        ("a.iso.blake2b", "0" * 128, "blake2b"),
        ("a.iso.blake2s", "0" * 64, "blake2s"),
        ("a.iso.sha3-256", "0" * 64, "sha3-256"),
        ("SHA3-512SUMS", "0" * 128, "sha3-512"),
        ("sha3_512.txt", "0" * 128, "sha3-512"),
        ("a.iso.crc32c", "0" * 8, "crc32c"),
        ("a.iso.xxh64", "0" * 16, "xxh64"),
        ("sha3-256-tools.sha256", "0" * 64, "sha256"),  # the last one
        ("md5sums", "0" * 64, "sha256"),  # what the name says does not fit
        ("blake2big.txt", "0" * 128, "sha512"),
    ],
)
def test_the_algorithm_is_told_by_the_files_name_or_else_by_the_length(file, value, algorithm):
    assert of(f"{value}  a.iso", "a.iso", file=file) == (Digest(algorithm, value),)
    assert of(f"{value}\n", "a.iso", file=file) == (Digest(algorithm, value),)


@pytest.mark.parametrize(
    ("tag", "length", "algorithm"),
    [
        ("MD5", 32, "md5"),
        ("SHA1", 40, "sha1"),
        ("SHA2-512", 128, "sha512"),
        ("BLAKE2b", 128, "blake2b"),
        ("BLAKE2B-512", 128, "blake2b"),
        ("BLAKE2S-256", 64, "blake2s"),
        ("SHA3-256", 64, "sha3-256"),
        ("CRC32C", 8, "crc32c"),
        ("XXH64", 16, "xxh64"),
    ],
)
def test_a_tag_goes_before_what_the_files_name_says(tag, length, algorithm):
    text = f"{tag} (a.iso) = {'0' * length}"

    assert of(text, "a.iso", file="SHA256SUMS") == (Digest(algorithm, "0" * length),)


def test_lines_of_several_algorithms_must_all_hold_and_unknown_ones_are_passed_over():
    text = (
        f"MD5 (a.iso) = {'1' * 32}\nRMD160 (a.iso) = {'2' * 40}\nSHA256 (a.iso) = {A}\n"
        f"SHA512/256 (a.iso) = {B}\nSize (a.iso) = 12345678 bytes\n"
    )

    assert of(text, "a.iso") == (Digest("md5", "1" * 32), SHA_A)


def test_a_signature_around_the_lines_is_taken_off():
    text = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"# release\n{A}  a.iso\n- {B}  -b.iso\n- -- \n"
        "-----BEGIN PGP SIGNATURE-----\nVersion: 1\n\n"
        f"{B}\n=abcd\n-----END PGP SIGNATURE-----\n"
    )

    assert of(text, "a.iso") == (SHA_A,)
    assert of(text, "-b.iso") == (SHA_B,)
    assert of(text.replace(f"{A}  a.iso", A).replace(f"- {B}  -b.iso", ""), "x") == (SHA_A,)


# ---------------------------------------------------------------- which line is the file's


def test_the_path_below_the_sums_file_goes_before_the_name():
    text = f"{A}  amd64/a.iso\n{B}  arm64/a.iso\n"

    assert of(text, "a.iso", "amd64/a.iso") == (SHA_A,)
    assert of(text, "a.iso", "arm64/a.iso") == (SHA_B,)
    assert of(f"{A}  a.iso\n{B}  old/a.iso\n", "a.iso", "a.iso") == (SHA_A,)


def test_without_its_path_a_file_is_found_by_its_name_in_whatever_folder():
    assert of(f"{A}  /build/out/a.iso\n{B}  b.iso", "a.iso") == (SHA_A,)
    assert Sums(f"{A}  d/a.iso".encode(), "SUMS").of(None, "a.iso") == (SHA_A,)


def test_a_doubled_line_is_one_and_two_different_ones_are_an_error():
    assert of(f"{A}  a.iso\nSHA256 (a.iso) = {A}\n", "a.iso") == (SHA_A,)
    said = "its lines give two different sha256 checksums for 'a.iso'"
    assert refused(f"{A}  a.iso\n{B}  a.iso\n{A}  a.iso\n") == said
    assert refused(f"{A}  amd64/a.iso\n{B}  arm64/a.iso\n") == said
    assert refused(f"{A}\n{B}\n") == said


def test_a_file_without_a_line_is_an_error_that_says_what_was_looked_for():
    assert refused(f"{A}  b.iso") == "no line names 'a.iso'"
    assert refused(f"{A}  b.iso", "a.iso", "d/a.iso") == "no line names 'd/a.iso'"
    assert refused(f"{A}  A.ISO") == "no line names 'a.iso'"
    assert len(refused(f"{A}  b.iso", "x" * 4000)) < 130


@pytest.mark.parametrize("text", [A, f"{A}\n", f"\n# it\n{A}  -\n", f"{A} *-", f"  \n{A}\r\n"])
def test_a_lone_checksum_is_that_of_any_file(text):
    assert of(text, "a.iso", file="a.iso.sha256") == (SHA_A,)


def test_a_lone_checksum_beside_lines_with_names_is_nobodys():
    assert refused(f"{A}\n{B}  b.iso") == "no line names 'a.iso'"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# nothing\n",
        "<!doctype html><title>404</title>",
        f"{A[:-1]}  a.iso",
        f"{A}0  a.iso",
        f"SHA256 (a.iso) = {A[:-1]}",
        f"MD5 (a.iso) = {A}",
        f"RMD160 (a.iso) = {'0' * 40}",
        "0123456789abcdef  a.iso",
        f"x{A}  a.iso",
        f"{A}  {'a' * 20_000}",
        f"{A}  a.iso".encode("utf-16"),
    ],
)
def test_a_file_without_any_usable_line_is_no_sums_file(text):
    assert refused(text) == "no line of it is a checksum and a name, and it is no lone checksum"


# ---------------------------------------------------------------- whatever comes

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\\"), min_size=1, max_size=30
).filter(
    lambda name: name == name.strip(" \t") and name not in {"-", "*-"} and name[0] not in "./*"
)


@settings(derandomize=True, max_examples=300)
@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32), min_size=1), st.booleans())
def test_what_is_written_is_read(sums: dict[str, bytes], tagged: bool):
    form = "SHA256 ({1}) = {0}\n" if tagged else "{0}  {1}\n"
    text = "".join(form.format(value.hex(), name) for name, value in sums.items())

    read = Sums(text.encode(), "SUMS")

    for name, value in sums.items():
        assert read.of(name, "") == (Digest("sha256", value.hex()),)


PIECES = st.sampled_from(
    [b"\n", b" ", b"  ", b" *", b"\\", A.encode(), b"0" * 32, b"SHA256 (", b") = ", b"a.iso", b"-",
     b"-----BEGIN PGP SIGNATURE-----", b"\xff", b"\r", b"./", b"#"]
)  # fmt: skip


@settings(derandomize=True, max_examples=500)
@given(st.one_of(st.binary(), st.lists(PIECES).map(b"".join)), st.text(max_size=20))
@example(b"", "")
def test_any_bytes_are_sums_or_an_error(data: bytes, file: str):
    try:
        found = Sums(data, file).of("d/a.iso", "a.iso")
    except ValueProblem:
        return
    assert found
    assert len({digest.algorithm for digest in found}) == len(found)


@pytest.mark.parametrize(
    "data",
    [
        b"a" * 2_000_000,
        b") = a" * 400_000,
        b"SHA256 (" * 250_000,
        (b"SHA256 (" + b") = " * 4000 + b"\n") * 100,
        (b"SHA256 (" + b")  " * 5000 + b"\n") * 100,
        (b"\\" + b"0" * 64 + b"  " + b"\\" * 16_000 + b"\n") * 100,
        b"\n" * 2_000_000,
        b"".join(b"%064x  a.iso\n" % number for number in range(25_000)),
    ],
    ids=range(8),
)
def test_hostile_bytes_take_no_more_time_than_others(data: bytes):
    began_s = time.process_time()

    with pytest.raises(ValueProblem):
        Sums(data, "SUMS").of("d/a.iso", "a.iso")

    assert time.process_time() - began_s < 3


ONE_EACH = b"".join(b"CRC32C(%x/%x)=%08x\n" % (n & 15, n, n) for n in range(MOST_LINES))


@pytest.mark.parametrize(
    "data",
    [
        ONE_EACH,
        b"".join(b"%064x  some/folder/file-%07x.bin\n" % (n, n) for n in range(40_000)),
        b"\n" * 4_000_000,
        b"a" * 4_000_000,
        f"{A}  a\n".encode() * 30_000,
    ],
    ids=["short", "usual", "blank", "line", "same"],
)
def test_sums_take_little_more_memory_than_their_text(data: bytes):
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueProblem):
            sums = Sums(data, "SUMS")  # noqa: F841
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < 2_000_000  # the text itself is older
    assert peak_bytes < 14_000_000


def test_the_weight_of_sums_is_what_they_take():
    data = b"".join(b"%064x  d/file-%05x.bin\n" % (n, n) for n in range(10_000))

    assert len(data) + 160_000 <= Sums(data, "SUMS").weight_bytes < len(data) + 170_000


def test_a_sums_file_has_at_most_so_many_lines():
    assert Sums(ONE_EACH, "SUMS").of("f/f", "f") == (Digest("crc32c", "0000000f"),)
    with pytest.raises(ValueProblem, match="more than 100000 lines"):
        Sums(ONE_EACH + b"CRC32C(x)=00000000", "SUMS")


def test_every_one_of_many_lines_is_found_in_little_time():
    data = b"".join(b"%064x  d%d/index.html\n" % (n, n) for n in range(50_000))
    sums = Sums(data + f"{A}  index.html\n".encode(), "SUMS")
    began_s = time.process_time()

    for n in range(0, 50_000, 25):
        assert sums.of(f"d{n}/index.html", "index.html") == (Digest("sha256", f"{n:064x}"),)
    assert sums.of("index.html", "index.html") == (SHA_A,)
    with pytest.raises(ValueProblem, match=r"more than 1000 of its lines name 'index\.html'"):
        sums.of("x/index.html", "index.html")

    assert time.process_time() - began_s < 2


# ---------------------------------------------------------------- names of sums files


@pytest.mark.parametrize(
    ("name", "of", "folder"),
    [
        ("x.iso.sha256", "x.iso", False),
        ("x.SHA512", "x", False),
        ("x.md5.txt", "x", False),
        ("x.b2", "x", False),
        ("x.tar.gz.sha3-256", "x.tar.gz", False),
        ("tools.sha256sum", "tools", False),
        ("tools.sha256sums", "tools", False),
        ("SHA256SUMS", "", True),
        ("sha256sums.txt", "", True),
        ("MD5SUM", "", True),
        ("B2SUMS", "", True),
        ("tool_1.7_SHA256SUMS", "", False),
        ("tool-sha1sums.TXT", "", False),
    ],
)
def test_a_sums_file_is_known_by_its_name(name, of, folder):
    assert (is_sums_file(name), summed_file(name), is_of_a_folder(name)) == (True, of, folder)


@pytest.mark.parametrize(
    "name",
    ["x.iso", "SHA256SUMS.asc", "SHA256SUMS.gpg", "sha256", ".sha256", "xsha256sums",
     "x.sha256.yaml", "CHECKSUMS", "checksums.txt", "notes.txt", "sums", "x.sha256sumsum"],
)  # fmt: skip
def test_other_names_are_none_of_sums_files(name):
    assert not is_sums_file(name)


@given(
    st.text(max_size=40)
    | st.from_regex(r"[a-zA-Z0-9._-]{0,20}(sha256|md5)(sums?)?", fullmatch=True)
)
def test_only_what_is_a_sums_file_tells_what_it_is_of(name):
    assert is_sums_file(name) or not (summed_file(name) or is_of_a_folder(name))
