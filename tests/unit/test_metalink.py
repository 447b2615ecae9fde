from __future__ import annotations

import hashlib
import io
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetchd.digests import ALGORITHMS, Digest
from fetchd.errors import AttemptError
from fetchd.expand import Expander, MetalinkProblem
from fetchd.expand.lists import ListReader
from fetchd.expand.metalink import (
    CHECKED_BYTES,
    DEEPEST,
    LONGEST_FILE_BYTES,
    LONGEST_HEAD_BYTES,
    LONGEST_TEXT,
    LONGEST_TOKEN_BYTES,
    MOST_NAMES,
    MOST_SOURCES,
    ListedFile,
    Start,
    check,
    check_beginning,
    read,
)
from fetchd.expand.tasks import Recipe, Scope
from fetchd.model import (
    Job,
    ListFile,
    Position,
    Rules,
    Run,
    SizeRange,
    TaskGroup,
    TaskSpec,
    Template,
    Verify,
)

RUN = Run(id=7, job="x", revision="r", scheduled_for_s=0.0)
SHA256, OTHER = "ab" * 32, "cd" * 32
V4 = "urn:ietf:params:xml:ns:metalink"
V3 = "http://www.metalinker.org/"
STRONG = f'<hash type="sha-256">{SHA256}</hash>'
URL = "<url>http://one.example/a</url>"
LIBRE = f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="{V4}">
  <generator>by hand</generator>
  <published>2026-11-20T12:00:00Z</published>
  <file name="isos/rescue 1.4.iso">
    <identity>Rescue</identity>
    <description>A <b xmlns="http://www.w3.org/1999/xhtml">bootable</b> image</description>
    <size>14471447</size>
    <hash type="md5">{"12" * 16}</hash>
    <hash type="sha-256">
      {SHA256.upper()}
    </hash>
    <hash type="sha-1">{"34" * 20}</hash>
    <pieces length="262144" type="sha-256">
      <hash>{OTHER}</hash>
    </pieces>
    <url>https://last.example/rescue.iso</url>
    <url location="de" priority="20">https://second.example/rescue.iso?a=1&amp;b=2</url>
    <url location="fr" priority="3">http://first.example/rescue.iso</url>
    <url priority="1">ftp://ftp.example/rescue.iso</url>
    <metaurl priority="1" mediatype="torrent">https://t.example/rescue.torrent</metaurl>
  </file>
</metalink>
"""
FEDORA = f"""<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" xmlns="{V3}" type="dynamic" pubdate="Mon, 23 Nov 2026 09:29:45 GMT"
  generator="mirrormanager" xmlns:mm0="http://fedorahosted.org/mirrormanager">
 <files>
  <file name="repomd.xml">
   <mm0:timestamp>1700000000</mm0:timestamp>
   <size>7301</size>
   <verification>
    <hash type="md5">{"12" * 16}</hash>
    <hash type="sha256">{SHA256}</hash>
    <hash type="sha512">{"ef" * 64}</hash>
    <signature type="pgp" file="repomd.asc">x</signature>
    <pieces length="100" type="sha1"><hash piece="0">{"34" * 20}</hash></pieces>
   </verification>
   <mm0:alternates><mm0:alternate>
     <size>7000</size>
     <verification><hash type="sha256">{OTHER}</hash></verification>
   </mm0:alternate></mm0:alternates>
   <resources maxconnections="1">
    <url protocol="https" type="https" location="DE" preference="99">https://b.example/r.xml</url>
    <url protocol="rsync" type="rsync" preference="100">rsync://c.example/r.xml</url>
    <url type="bittorrent" preference="100">http://t.example/r.torrent</url>
    <url protocol="http" type="http" preference="100">http://a.example/r.xml</url>
    <url>http://z.example/r.xml</url>
   </resources>
  </file>
 </files>
</metalink>
"""


def v4(*files: str) -> str:
    return f'<metalink xmlns="{V4}">{"".join(files)}</metalink>'


def v3(*files: str) -> str:
    return f'<metalink version="3.0" xmlns="{V3}"><files>{"".join(files)}</files></metalink>'


def one(inside: str, name: str = "a") -> str:
    return f"<file name={quoteattr(name)}>{inside}</file>"


def files_of(document: str | bytes, most_files: int = 1000) -> list[ListedFile]:
    """Return the files, read in stretches of so many."""
    data = document.encode() if isinstance(document, str) else document
    files: list[ListedFile] = []
    start: Start | None = None
    prefix = hashlib.sha256()
    while True:
        stretch = read(
            io.BytesIO(data), start, prefix.update, most_files=most_files, most_bytes=1 << 30
        )
        if stretch.problem is not None:
            raise stretch.problem
        files += stretch.files
        start = stretch.next
        if start is None:
            return files
        assert hashlib.sha256(data[: start.offset_bytes]).digest() == prefix.digest()


def refused(document: str | bytes) -> str:
    data = document.encode() if isinstance(document, str) else document
    with pytest.raises(MetalinkProblem) as caught:
        check(io.BytesIO(data))
    return f"{caught.value.line}:{caught.value.column}: {caught.value}"


def listed_in(path: Path, **group) -> TaskGroup:
    return TaskGroup(name="x", items=ListFile(path=str(path), format="metalink"), **group)


def specs_of(path: Path, reader: ListReader | None = None, **group) -> list[TaskSpec]:
    made = listed_in(path, **group)
    job = Job(name="x", revision="r", groups=(made,))
    expander = Expander(reader)
    specs: list[TaskSpec] = []
    position: Position | None = None
    while True:
        batch = expander(job, made, RUN, position)
        specs += batch.specs
        assert len(batch.lines) == len(batch.specs)
        position = batch.position
        if position is None:
            return specs


def spec_of(tmp_path: Path, document: str, **group) -> TaskSpec:
    path = tmp_path / "x.meta4"
    path.write_text(document)
    (spec,) = specs_of(path, **group)
    return spec


# ---------------------------------------------------------------- what a document says


def test_a_file_of_version_4_has_its_name_size_strongest_hash_and_urls_by_priority() -> None:
    assert files_of(LIBRE) == [
        ListedFile(
            line=5,
            name="isos/rescue 1.4.iso",
            urls=(
                "http://first.example/rescue.iso",
                "https://second.example/rescue.iso?a=1&b=2",
                "https://last.example/rescue.iso",
            ),
            digests=(Digest("sha256", SHA256),),
            size_bytes=14471447,
        )
    ]


def test_a_file_of_version_3_has_its_urls_by_preference_and_none_of_what_stands_deeper() -> None:
    assert files_of(FEDORA) == [
        ListedFile(
            line=5,
            name="repomd.xml",
            urls=("http://a.example/r.xml", "https://b.example/r.xml", "http://z.example/r.xml"),
            digests=(Digest("sha512", "ef" * 64),),
            size_bytes=7301,
        )
    ]


def test_what_a_text_has_of_other_elements_is_none_of_it() -> None:
    (file,) = files_of(v4(one("<url>http://a/<x><url>http://c/</url>no</x>b<!-- c --></url>")))

    assert file.urls == ("http://a/b",)


def test_a_prefix_of_the_namespace_means_the_same() -> None:
    prefixed = LIBRE.replace("xmlns=", "xmlns:m=", 1)
    for tag in ("metalink", "file", "size", "hash", "pieces", "url", "metaurl", "generator"):
        prefixed = prefixed.replace(f"<{tag}", f"<m:{tag}").replace(f"</{tag}", f"</m:{tag}")

    assert files_of(prefixed) == files_of(LIBRE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("most_files", [1, 2, 1000])
def test_any_encoding_that_is_read_and_any_line_end_give_the_same(
    encoding: str, newline: str, most_files: int
) -> None:
    said = encoding.removesuffix("-sig")
    document = f'<?xml version="1.0" encoding="{said}"?>\n\n' + v4(
        "\n", *(one(URL, f"grün-{n}") + "\n" for n in range(5))
    )

    files = files_of(document.replace("\n", newline).encode(encoding), most_files)

    assert [(file.name, file.line) for file in files] == [(f"grün-{n}", n + 4) for n in range(5)]


@pytest.mark.parametrize(
    ("hashes", "taken"),
    [
        ({"md5": "1" * 32}, "md5"),
        ({"md5": "1" * 32, "sha-1": "1" * 40}, "sha1"),
        ({"SHA-512": "1" * 128, "sha-256": "1" * 64}, "sha512"),
        ({"sha256": "1" * 64, "pgp": "x", "sha-1": "1" * 40}, "sha256"),
        ({"sha3-256": "1" * 64, "sha-1": "1" * 40}, "sha3-256"),
        ({"md2": "1" * 32, "ed2k": "no hex"}, None),
        ({}, None),
    ],
)
def test_the_strongest_hash_that_fetchd_knows_is_taken(hashes, taken) -> None:
    inside = "".join(f'<hash type="{kind}">{value}</hash>' for kind, value in hashes.items())

    (file,) = files_of(v4(one(inside + URL)))

    assert file.problem == ""
    assert [digest.algorithm for digest in file.digests] == ([taken] if taken else [])


def test_every_cryptographic_algorithm_of_fetchd_is_known_by_its_name() -> None:
    for name, (_, length) in ALGORITHMS.items():
        (file,) = files_of(v4(one(f'<hash type="{name}">{"1" * length}</hash>{URL}')))

        known = [] if name in {"crc32c", "xxh64"} else [name]
        assert [digest.algorithm for digest in file.digests] == known


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("", "no URL of the file is one that fetchd fetches (http, https); it has none"),
        ("<url>ftp://a/b</url>", "it has a URL of the scheme 'ftp'"),
        ("<url>file:///etc/passwd</url>", "it has a URL of the scheme 'file'"),
        ("<url>magnet:?xt=urn:btih:1</url>", "it has a URL of the scheme 'magnet'"),
        ("<url>mirror/a.bin</url>", "it has the URL 'mirror/a.bin'"),
        (
            "<url>http://a b/</url>",
            "it has a URL that cannot be fetched: the URL has the character",
        ),
        ("<url>http://u:p@a/</url>", "user name and password may not stand in a URL"),
        ("<metaurl mediatype='torrent'>http://a/b.torrent</metaurl>", "it has none"),
        (f"{URL}<size>12kB</size>", "the size '12kB' is no number of bytes"),
        (f"{URL}<size>-1</size>", "the size '-1' is no number of bytes"),
        (f"{URL}<size>{2**63}</size>", f"the size '{2**63}' is no number of bytes"),
        (f"{URL}<size>{'9' * 5000}</size>", "is no number of bytes"),
        (f"{URL}<size>1</size><size>2</size>", "has two sizes, 1 and 2"),
        (
            f'{URL}{STRONG}<hash type="sha-256">{OTHER}</hash>',
            "has two different sha256 hashes",
        ),
        (
            f'{URL}{STRONG}<hash type="md5">{"1" * 32}</hash><hash type="MD5">{"2" * 32}</hash>',
            "has two different md5 hashes",
        ),
        (f'{URL}<hash type="sha-1">{SHA256}</hash>', "a sha1 checksum has 40 hex digits"),
        (f'{URL}<hash type="sha-1">!</hash>', "'sha1:!' is not a checksum"),
        (f"<url>http://a/{'b' * LONGEST_TEXT}</url>", f"a <url> is longer than {LONGEST_TEXT} ch"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_one_failed_task_that_says_why(
    tmp_path, inside, why
) -> None:
    path = tmp_path / "x.meta4"
    path.write_text(v4("\n", one(inside, "bad"), "\n", one(URL, "good")))

    bad, good = specs_of(path)

    assert (good.path, good.problem) == ("good", None)
    assert bad.path == "./x.meta4:2"
    assert bad.problem[0] == "bad_item"
    assert bad.problem[1].startswith("x.meta4:2: 'bad': ")
    assert why in bad.problem[1]
    assert len(bad.problem[1]) < 500


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../a", "'../a' has the component '..'"),
        ("a/../../b", "'a/../../b' has the component '..'"),
        ("/etc/passwd", "'/etc/passwd' is absolute; write a path below the root"),
        ("a//b", "'a//b' has an empty component"),
        ("a/", "'a/' has an empty component"),
        (".fetchd/parts/x", "'.fetchd/parts/x' has the component '.fetchd'"),
        ("a\nb", "'a\\nb' has a control character"),
        ("a" * 256, "has 256 bytes; at most 255 fit"),
        ("a/" * 2001, "the path has 4002 bytes; at most 4000 fit"),
        ("", "the <file> has no name"),
    ],
)
@pytest.mark.parametrize("version", [v3, v4])
def test_a_name_obeys_the_rules_of_any_path(tmp_path, name, why, version) -> None:
    inside = URL if version is v4 else f"<resources>{URL}</resources>"

    spec = spec_of(tmp_path, version(one(inside, name)))

    assert spec.problem[0] == "bad_item"
    assert why in spec.problem[1]


def test_a_task_has_what_its_file_says(tmp_path) -> None:
    spec = spec_of(tmp_path, LIBRE, template=Template(dest="below"))

    assert spec == TaskSpec(
        key="below/isos/rescue 1.4.iso",
        path="below/isos/rescue 1.4.iso",
        sources=(
            "http://first.example/rescue.iso",
            "https://second.example/rescue.iso?a=1&b=2",
            "https://last.example/rescue.iso",
        ),
        digests=(Digest("sha256", SHA256),),
        size_bytes=14471447,
    )


def test_a_text_that_looks_like_a_variable_is_none(tmp_path) -> None:
    spec = spec_of(tmp_path, v4(one(URL, "${run.date}")))

    assert spec.path == "${run.date}"


def test_where_a_checksum_is_asked_for_a_file_without_one_fails(tmp_path) -> None:
    rules = Rules(verify=Verify.DIGEST)
    sized = v4(one(f'{URL}<size>5</size><hash type="md2">00</hash>'))

    assert "has no checksum" in spec_of(tmp_path, sized, rules=rules).problem[1]
    assert spec_of(tmp_path, sized).size_bytes == 5


def test_a_size_that_the_job_does_not_allow_fails_at_once(tmp_path) -> None:
    rules = Rules(size=SizeRange(most_bytes=4))

    spec = spec_of(tmp_path, v4(one(f"{URL}<size>5</size>")), rules=rules)

    assert "has 5 bytes, `size` allows 0..4" in spec.problem[1]


def test_the_best_urls_each_once_are_as_many_as_a_task_may_have_bases() -> None:
    urls = "".join(f'<url priority="{900 - n // 2}">http://a/{n // 2}</url>' for n in range(100))

    (file,) = files_of(v4(one(urls)))

    assert file.urls == tuple(f"http://a/{n}" for n in range(49, 49 - MOST_SOURCES, -1))


def test_a_priority_that_is_no_number_is_the_last() -> None:
    ranks = ("x", "-5", "", "2", "1")
    urls = "".join(f'<url priority="{rank}">http://a/{n}</url>' for n, rank in enumerate(ranks))

    (file,) = files_of(v4(one(urls)))

    assert file.urls == tuple(f"http://a/{n}" for n in (4, 3, 0, 1, 2))


# ---------------------------------------------------------------- what is no Metalink


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "1:1: the file is cut off: it ends before </metalink>"),
        ("\n\n", "3:1: the file is cut off: it ends before </metalink>"),
        ("https://a/b\n", "1:7: the file is not well-formed XML: invalid token"),
        (b"\0" * 70_000, "1:1: the file is not well-formed XML: invalid token"),
        (LIBRE[:-20], "22:3: the file is cut off: it ends before </metalink>"),
        (LIBRE[:300], "7:"),
        (v4(one("<size>")), "the file is not well-formed XML: mismatched tag"),
        (v4(one(URL)) + "<x/>", "the file is not well-formed XML: junk after document element"),
        (v4(), "the Metalink names no <file>"),
        (v3(), "the Metalink names no <file>"),
        (v4(f"<files>{one(URL)}</files>"), "the Metalink names no <file>"),
        ("<html/>", f'the file begins with <html>; a Metalink begins with <metalink xmlns="{V4}">'),
        ("<metalink/>", "the file begins with <metalink>; a Metalink begins with"),
        ('<metalink xmlns="urn:x"/>', "the file begins with <metalink> of 'urn:x'; a Metalink "),
        (v3(one(URL), "</files><files>"), "there is a second <files>; a Metalink has one"),
        ('<?xml version="1.0" encoding="big5"?><a/>', "the encoding 'big5' is not read; write it"),
        ('<?xml version="1.0" encoding="utf-7"?><a/>', "the encoding 'utf-7' is not read"),
        ('<?xml version="1.0" encoding="utf-16"?><a/>', "not well-formed XML: "),
        (v4(one(URL, "\udcff")).encode("utf-8", "surrogateescape"), "not well-formed XML: "),
        (v4(one("&nbsp;" + URL)), "not well-formed XML: undefined entity"),
    ],
)
def test_what_is_no_metalink_is_refused_with_its_place(document, why) -> None:
    assert why in refused(document)


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 20))
SECRET = "<!ENTITY a SYSTEM 'file:///etc/passwd'>"


@pytest.mark.parametrize(
    "doctype",
    [
        f"<!DOCTYPE m [<!ENTITY e0 'aaaaaaaaaa'>{BOMB}]>",
        f"<!DOCTYPE m [{SECRET}]>",
        "<!DOCTYPE m [<!ENTITY % a SYSTEM 'http://127.0.0.1:9/x.dtd'> %a;]>",
        "<!DOCTYPE m SYSTEM 'http://127.0.0.1:9/x.dtd'>",
        "<!DOCTYPE metalink>",
    ],
)
def test_a_document_type_is_refused_before_anything_is_expanded_or_opened(doctype) -> None:
    document = f"<?xml version='1.0'?>\n{doctype}" + v4(one(f"{URL}<size>&e19;&a;</size>"))

    why = refused(document)

    assert why.startswith("2:")
    assert "a document type (<!DOCTYPE) is not allowed in a Metalink; leave it out" in why


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (f"<!--{'-x' * LONGEST_TOKEN_BYTES * 4}-->", "a tag or comment is longer than 256 KiB"),
        (f"<x y='{'z' * LONGEST_TOKEN_BYTES * 4}'/>", "a tag or comment is longer than 256 KiB"),
        (f"<?x {'z' * LONGEST_TOKEN_BYTES * 4}?>", "a tag or comment is longer than 256 KiB"),
        ("<x>" * (DEEPEST + 1), f"elements are nested deeper than {DEEPEST}"),
        ("<x>" * 1_000_000, f"elements are nested deeper than {DEEPEST}"),
        ("".join(f"<x{n}/>" for n in range(200_000)), f"more than {MOST_NAMES} names"),
        ("".join(f"<x y{n}=''/>" for n in range(200_000)), f"more than {MOST_NAMES} names"),
        ("".join(f"<x xmlns:y{n}='u'/>" for n in range(50_000)), f"more than {MOST_NAMES} names"),
        ("".join(f"<x xmlns='u{n}'/>" for n in range(50_000)), f"more than {MOST_NAMES} names"),
        (f"<!--{'x' * 8192}-->" * (LONGEST_FILE_BYTES // 8192), "does not end within 16 MiB"),
    ],
    ids=["comment", "attribute", "instruction", "deep", "deeper", "elements", "attributes",
         "prefixes", "namespaces", "endless"],
)  # fmt: skip
def test_hostile_documents_are_refused_in_little_memory(inside, why) -> None:
    document = io.BytesIO(v4(one(URL, "first"), one(URL + inside)).encode())
    tracemalloc.start()
    try:
        with pytest.raises(MetalinkProblem) as caught:
            check(document)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert why in str(caught.value)
    assert most_bytes < 8 * 1024 * 1024


def test_a_text_without_end_fails_its_file_in_little_memory() -> None:
    document = io.BytesIO(v4(one(f"{URL}<size>{'1' * 15_000_000}</size>"), one(URL)).encode())
    tracemalloc.start()
    try:
        stretch = read(document, None, lambda _: None, most_files=9, most_bytes=1 << 30)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [file.problem for file in stretch.files] == [
        f"a <size> is longer than {LONGEST_TEXT} characters",
        "",
    ]
    assert most_bytes < 8 * 1024 * 1024


def test_what_stands_before_the_first_file_is_not_without_end() -> None:
    document = v4("<x/>" * (LONGEST_HEAD_BYTES // 4 + 20_000), one(URL))

    assert "no <file> begins in the first 256 KiB" in refused(document)


def test_a_beginning_may_be_cut_off_anywhere_but_not_be_another_file() -> None:
    for end in range(len(LIBRE)):
        check_beginning(LIBRE[:end].encode())
    with pytest.raises(MetalinkProblem):
        check_beginning(b"\x7fELF" + bytes(1000))
    with pytest.raises(MetalinkProblem):
        check_beginning(b"<!DOCTYPE html><html>")


def test_what_shows_only_behind_much_is_no_reason_to_refuse_all_of_it() -> None:
    files = [one(URL, f"{n}") + f"<!--{'x' * 10_000}-->" for n in range(600)]
    cut_off = v4(*files)[:-20].encode()

    check(io.BytesIO(cut_off))

    assert len(cut_off) > CHECKED_BYTES
    with pytest.raises(MetalinkProblem):
        files_of(cut_off)
    with pytest.raises(MetalinkProblem):
        check(io.BytesIO(v4(*files[:300])[:-20].encode()))


def test_files_before_the_place_where_a_document_breaks_are_kept(tmp_path) -> None:
    path = tmp_path / "x.meta4"
    path.write_text(v4(*(one(URL, f"{n}") + "\n" for n in range(5)), "<"))

    *good, bad = specs_of(path, ListReader(batch_tasks=2))

    assert [spec.path for spec in good] == [f"{n}" for n in range(5)]
    assert bad.path == "./x.meta4:6"
    code, why = bad.problem
    assert code == "bad_item"
    assert why.startswith("x.meta4:6: the file is not well-formed XML: ")
    assert why.endswith("; nothing from here on is read")


# ---------------------------------------------------------------- batches


def some_files(count: int) -> list[str]:
    return [
        one(
            f"<size>{n}</size><hash type='sha-256'>{n:064x}</hash><url>http://a.example/{n}</url>"
            f"<x:y xmlns:x='u'>{'é' * n}</x:y>",
            "../bad" if n % 5 == 4 else f"d/{n}",
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("version", [v3, v4])
@pytest.mark.parametrize("between", ["", "\n", "\r\n  <!-- <file> -->\n"])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_batches_of_any_size_give_what_one_pass_gives(
    tmp_path, version, between, restarts, size
) -> None:
    path = tmp_path / "x.metalink"
    path.write_bytes(("﻿" + version(*(between + file for file in some_files(23)))).encode())
    group = listed_in(path)
    recipe = Recipe(Scope(Job(name="x", revision="r", groups=(group,)), RUN), group)
    listed = ListFile(path=str(path), format="metalink")
    whole = ListReader().read(listed, recipe, None)
    reader, position = ListReader(batch_tasks=size), None

    specs: list[TaskSpec] = []
    lines: list[int] = []
    while True:
        if restarts:
            reader = ListReader(batch_tasks=size)
        batch = reader.read(listed, recipe, position)
        specs += batch.specs
        lines += batch.lines
        position = batch.position
        if position is None:
            break
        assert len(batch.specs) == size
        before = path.read_bytes()[: position.offset_bytes]
        assert hashlib.sha256(before).hexdigest() == position.prefix_sha256
        assert position.lines == before.count(b"\n")

    assert len(specs) == 23
    assert specs == list(whole.specs)
    assert lines == list(whole.lines)


def test_a_batch_ends_at_the_next_file_once_it_has_so_many_bytes() -> None:
    data = v4(*some_files(20)).encode()

    stretch = read(io.BytesIO(data), None, lambda _: None, most_files=1000, most_bytes=1000)

    assert 1000 <= stretch.next.offset_bytes < 1500
    assert 1 < len(stretch.files) < 10


@pytest.mark.parametrize(("newline", "place"), [("", (1, None)), ("\n", (2, 2))])
def test_a_column_is_told_only_where_it_is_known(newline, place) -> None:
    document = v4(one(URL), one(URL), newline, "<<").encode()
    first = read(io.BytesIO(document), None, lambda _: None, most_files=1, most_bytes=1000)

    second = read(io.BytesIO(document), first.next, lambda _: None, most_files=1, most_bytes=1000)

    assert (second.problem.line, second.problem.column) == place


@pytest.mark.parametrize("same_reader", [True, False])
@pytest.mark.parametrize("at", [0.02, 0.5])
def test_a_document_that_was_edited_above_is_noticed(tmp_path, same_reader, at) -> None:
    path = tmp_path / "x.meta4"
    path.write_text(v4(*some_files(20)))
    group = listed_in(path)
    job = Job(name="x", revision="r", groups=(group,))
    expander = Expander(ListReader(batch_tasks=15))
    position = expander(job, group, RUN, None).position
    data = bytearray(path.read_bytes())
    data[int(position.offset_bytes * at)] ^= 1
    path.write_bytes(data)

    with pytest.raises(AttemptError) as caught:
        (expander if same_reader else Expander())(job, group, RUN, position)

    assert caught.value.code == "list_changed"


def test_a_long_document_is_read_in_bounded_memory(tmp_path) -> None:
    path = tmp_path / "x.meta4"
    with path.open("w") as file:
        file.write(f'<metalink xmlns="{V4}">')
        file.writelines(one(URL, f"{n}") + "<!-- x -->" * 20 for n in range(20_000))
        file.write("</metalink>")
    group = listed_in(path)
    job = Job(name="x", revision="r", groups=(group,))
    expander, position, count = Expander(), None, 0
    tracemalloc.start()
    try:
        while True:
            batch = expander(job, group, RUN, position)
            count += len(batch.specs)
            position = batch.position
            if position is None:
                break
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == 20_000
    assert most_bytes < 4 * 1024 * 1024 < path.stat().st_size


# ---------------------------------------------------------------- any bytes


def survives(data: bytes, most_files: int) -> None:
    """Read all of it in stretches, and see that each gives what one pass gives."""
    whole = read(io.BytesIO(data), None, lambda _: None, most_files=1000, most_bytes=1 << 30)
    assert whole.next is None
    files: list[ListedFile] = []
    start: Start | None = None
    while True:
        stretch = read(
            io.BytesIO(data), start, lambda _: None, most_files=most_files, most_bytes=1 << 30
        )
        files += stretch.files
        if stretch.next is None:
            break
        assert stretch.problem is None
        assert (start.offset_bytes if start else -1) < stretch.next.offset_bytes < len(data)
        start = stretch.next
    assert files == whole.files
    assert (stretch.problem is None) == (whole.problem is None)
    if stretch.problem is not None:
        assert str(stretch.problem) == str(whole.problem)
        assert stretch.problem.line == whole.problem.line >= 1
        assert stretch.problem.column in {None, whole.problem.column}
        assert "\n" not in str(stretch.problem)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 3))
def test_any_bytes_are_read_or_refused(data: bytes, most_files: int) -> None:
    survives(data, most_files)


PIECES = st.sampled_from(
    [
        b"<file name='a'>", b"<file/>", b"<file name='b'><size>2</size></file>", b"</file>",
        b"<files>", b"</files>", b"<resources>", b"</resources>", b"<verification>",
        b"</verification>", b"<size>1</size>", b"<size>",
        b"</size>", b"<url>http://a/</url>", b"<url priority='7'>", b"</url>", b"</metalink>",
        b"<hash type='md5'>", b"</hash>", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"&amp;", b"&#0;",
        b"&x;", b"<?x?>", b"<?xml version='1.0'?>", b"<!DOCTYPE x>", b"\xff", b"\0", b"\r", b"\n",
        b"<a xmlns='u'>", b"</a>", b"<x:a/>", b" xmlns:x=''", b"<", b"]", "é".encode()[:1],
    ]
)  # fmt: skip
HEADS = st.sampled_from(
    [
        f"<metalink xmlns='{V4}'>".encode(),
        f"<metalink xmlns='{V3}'><files>".encode(),
        b"",
        b"<?xml version='1.0' encoding='iso-8859-1'?>",
        *(f"<?xml version='1.0' encoding='{name}'?>".encode() for name in ("cp037", "idna", "é")),
    ]
)


@settings(derandomize=True, max_examples=600, deadline=None)
@given(HEADS, st.lists(PIECES | st.binary(max_size=4), max_size=30), st.integers(1, 3))
def test_any_sequence_of_tags_is_read_or_refused(
    head: bytes, pieces: list[bytes], most_files: int
) -> None:
    survives(head + b"".join(pieces), most_files)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            LIBRE.encode(),
            FEDORA.encode(),
            LIBRE.encode("utf-16"),
            v3(*("\r" + file for file in some_files(7))).encode(),
            v4(*("\r\n<!-- -->" + file for file in some_files(7))).encode(),
        ]
    ),
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 30), st.binary(max_size=3)), max_size=3
    ),
)
def test_any_damage_to_a_document_is_read_or_refused(
    document: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    for at, length, instead in damages:
        document = document[:at] + instead + document[at + length :]

    survives(document, 1)


#: What XML can hold.
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="￾￿"), min_size=1
) | st.sampled_from(["\t", "\n", "\r\n", " a ", "]]>", "a&b<c>'\""])
FILES = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXT,
            "urls": st.lists(
                st.from_regex(
                    r"https?://[a-z]{1,5}\.example/[A-Za-z0-9&'%?=;é~-]{0,9}", fullmatch=True
                ),
                min_size=1,
                max_size=4,
                unique=True,
            ),
            "size_bytes": st.none() | st.integers(0, 2**63 - 1),
            "sha256": st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(
    derandomize=True,
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(FILES, st.sampled_from([3, 4]), st.integers(1, 3), st.sampled_from(["utf-8", "utf-16"]))
def test_what_was_written_is_what_is_read(
    written: list[dict], version: int, most_files: int, encoding: str
) -> None:
    files = []
    for file in written:
        urls = enumerate(file["urls"])
        size = "" if file["size_bytes"] is None else f"<size> {file['size_bytes']}\n</size>"
        if version == 4:
            ranked = [f"<url priority='{n + 1}'>{escape(url)}</url>" for n, url in urls]
            kind, wrapped, resources = "sha-256", "{}", "{}"
        else:
            ranked = [
                f"<url type='http' preference='{99 - n}'>{escape(url)}</url>" for n, url in urls
            ]
            kind, wrapped = "sha256", "<verification>{}</verification>"
            resources = "<resources>{}</resources>"
        digest = f'<hash type="{kind}">{file["sha256"]}</hash>' if file["sha256"] else ""
        inside = resources.format("".join(reversed(ranked))) + size + wrapped.format(digest)
        files.append(one(inside, file["name"]))
    document = f"<?xml version='1.0' encoding='{encoding}'?>" + (v3 if version == 3 else v4)(*files)

    read_again = files_of(document.encode(encoding), most_files)

    assert [
        {
            "name": file.name,
            "urls": list(file.urls),
            "size_bytes": file.size_bytes,
            "sha256": file.digests[0].hex if file.digests else None,
        }
        for file in read_again
    ] == written
    assert all(not file.problem for file in read_again)
