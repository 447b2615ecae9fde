"""Manifests: what items each format finds, in whatever pieces it comes, and what it refuses."""

from __future__ import annotations

import csv
import io
import itertools
import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import ValueProblem
from fetchd.expand.formats import FORMATS, Fields, ManifestProblem, Options, Whole

SHA = "ab" * 32


def read(form: str, data: bytes, *, chunk: int = 65536, **options) -> list:
    """All items; fields as dicts, bad items as their reasons."""
    chunks = (data[at : at + chunk] for at in range(0, len(data), chunk))
    found = FORMATS[form].read(chunks, Options(name=options.pop("name", "m"), **options))
    return [one._value if isinstance(one, Fields) else str(one) for one in found]


def problem(form: str, data: bytes, **options) -> str:
    with pytest.raises(ManifestProblem) as caught:
        read(form, data, **options)
    return str(caught.value)


# ---------------------------------------------------------------- lines, csv, jsonl


def test_lines_are_items_but_for_blank_ones_and_comments():
    data = (
        b"\xef\xbb\xbf# list\nhttps://a/1\r\n\n  https://a/2\tx \n\xff\n" + b"x" * 70000 + b"\nlast"
    )

    assert read("lines", data) == [
        "https://a/1",
        "https://a/2\tx",
        "the line is not valid UTF-8",
        "the line is longer than 64 KiB",
        "last",
    ]


def test_the_first_row_of_a_table_names_its_columns_unless_the_job_does():
    data = b'url, size\r\na,1\n\n"b,""c""\nd",2\ne\n'

    assert read("csv", data) == [
        {"url": "a", "size": "1"},
        {"url": 'b,"c"\nd', "size": "2"},
        "the row has 1 values, the table 2 columns",
    ]
    assert read("csv", b"a;1\n", delimiter=";", columns=("x", "y")) == [{"x": "a", "y": "1"}]
    assert read("csv", b"x\ty\na\t1\n", delimiter="tab") == [{"x": "a", "y": "1"}]
    assert read("csv", b"") == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'a,b\n"x', "is no row of a table: unexpected end of data"),
        (b'a,b\n"x"y,1\n', "is no row of a table: ',' expected after '\"'"),
        (b"a,a\n1,2\n", "has two columns 'a'"),
        (b"a,b\n\xff,2\n", "is not valid UTF-8"),
        (b"a\n" + b"x" * 200_000, "has a line longer than 128 KiB"),
        (
            b'a\n"' + b"x\n" * 100_000,
            "is no row of a table: field larger than field limit (131072)",
        ),
        (b"," * 1000, "has 1001 columns; at most 1000 are possible"),
    ],
)
def test_what_is_no_table_is_refused(data, expected):
    assert problem("csv", data) == expected


def test_each_line_is_a_json_value_and_numbers_stay_as_they_are_written():
    data = b'{"v": 1.10, "n": 010e0}\n{"v": 1.10, "ok": true}\n\n"text"\n[1]\nNaN\n\xff\n' + (
        b"[" * 100_000
    )

    found = read("jsonl", data)

    assert found[1:3] == [{"v": "1.10", "ok": True}, "text"]
    assert found[0].startswith("the line is not JSON: ")
    assert found[3] == "the line is a list; an item is a mapping or a text"
    assert found[4] == "the line is not JSON: NaN is no number of JSON"
    assert found[5] == "the line is not valid UTF-8"
    assert len(found) == 7


# ---------------------------------------------------------------- json


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("", b'["a", 1, 1.50, true, {"b": 1}]', ["a", 1, "1.50", True, {"b": 1}]),
        ("[*]", b"\xef\xbb\xbf[]", []),
        ("packages[*]", b'{"x": [9], "packages": [1, 2], "packages2": [3]}', [1, 2]),
        ("packages[*]", b'{"packages": []}', []),
        ("a.b[*]", b'{"a": {"c": [8], "b": [{"d": {"e": [1]}}]}, "b": [7]}', [{"d": {"e": [1]}}]),
        (
            "a[*].files[*]",
            b'{"a": [{"files": [1]}, {"files": []}, {"x": 5}, {"files": [2]}]}',
            [1, 2],
        ),
        ("a[*].files[*]", b'{"a": []}', []),
        ("a[*].url", b'{"a": [{"url": "x"}, {"url": {"y": 1}}, 5]}', ["x", {"y": 1}]),
        ("[*][*]", b"[[1], [], [2, 3]]", [1, 2, 3]),
        ("info", b'{"a": {"info": 1}, "info": {"url": "u"}}', [{"url": "u"}]),
        ("[*]", b"[[1], null]", ["is a list; an item is a mapping or a text", None]),
        ("item[*]", b'{"item": [1], "x": [[2]]}', [1]),
    ],
)
def test_items_stand_at_a_path(path, data, expected):
    for chunk in (1, 7, 65536):
        found = read("json", data, items=path, chunk=chunk)
        assert [
            str(one) if one.__class__.__name__ == "Decimal" else one for one in found
        ] == expected


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("packages[*]", b"{}", "has no packages[*]"),
        ("packages[*]", b'{"pakages": [1]}', "has no packages[*]; found there: pakages"),
        (
            "data.packages[*]",
            b'{"v": 1, "data": {"files": [], "notes": {"x": 1}}, "w": 2}',
            "has no data.packages[*]; found there: files, notes",
        ),
        (
            "packages[*]",
            b'{"packages": {"a": 1}}',
            "has no packages[*]: there is a mapping where the path has a list",
        ),
        ("packages[*]", b"[1]", "has no packages[*]: there is a list where the path has a mapping"),
        (
            "a.b[*]",
            b'{"a": 5}',
            "has no a.b[*]: there is a text or number where the path has a mapping",
        ),
        ("a[*].files[*]", b'{"a": [{}]}', "has no a[*].files[*]"),
        ("info", b'{"a": 1}', "has no info; found there: a"),
        ("[*]", b"", "is not JSON: parse error: premature EOF"),
        ("[*]", b"[1", "is not JSON: parse error: premature EOF"),
        ("[*]", b"[1] x", "is not JSON: parse error: trailing garbage"),
        ("[*]", b"[1][2]", "is not JSON: parse error: trailing garbage"),
        ("[*]", b"<html>", "is not JSON: lexical error: invalid char in json text."),
        ("[*]", b"[NaN]", "is not JSON: lexical error: invalid char in json text."),
        ("[*]", b"[" + b"9" * 5000 + b"]", "has a number that is too long"),
        ("[*]", b"[1e99999999999999999999]", "has a number that is too long"),
        ("[*]", b"[" * 100_000, "is nested deeper than 100"),
        ("[*]", b'{"x":' * 100_000, "is nested deeper than 100"),
        ("x[*]", b'{"x": [' + b"[" * 200, "is nested deeper than 100"),
        ("[*]", b'["' + b"x" * 5_000_000, "has a text, number or blank without end"),
        ("[*]", b"[[" + b"1," * 10_001, "has more than 10000 values in one item"),
    ],
)
def test_what_is_no_such_document_is_refused(path, data, expected):
    assert problem("json", data, items=path).startswith(expected)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_items_before_a_mistake_are_found(chunk):
    data = b"[1, 2, 3, x"
    chunks = (data[at : at + chunk] for at in range(0, len(data), chunk))
    items = FORMATS["json"].read(chunks, Options(name="m"))

    found = [one for one in itertools.islice(items, 3) if isinstance(one, Fields)]
    assert [one["item"] for one in found] == ["1", "2", "3"]
    with pytest.raises(ManifestProblem):
        next(items)


@pytest.mark.parametrize("path", ["a b", ".a", "a.", "a..b", "[0]", "a[*]b", "[*].", "a["])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueProblem, match="is no path; write names with dots"):
        FORMATS["json"].check(Options(name="m", items=path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=12,
)


def plain_at(value, steps):
    """What stands at a path, by the simplest means."""
    if not steps:
        return [value]
    step, *rest = steps
    if step == "[*]":
        inner = value if isinstance(value, list) else []
    else:
        inner = [value[step]] if isinstance(value, dict) and step in value else []
    return [found for one in inner for found in plain_at(one, rest)]


@settings(derandomize=True, max_examples=400)
@given(
    VALUES, st.lists(st.sampled_from(["a", "b", "[*]"]), min_size=1, max_size=3), st.integers(1, 9)
)
def test_the_items_are_those_at_the_path(value, steps, chunk):
    path = steps[0] + "".join(s if s == "[*]" else f".{s}" for s in steps[1:])
    expected = [
        "is a list; an item is a mapping or a text" if isinstance(one, list) else one
        for one in plain_at(value, steps)
    ]

    try:
        found = read("json", json.dumps(value).encode(), items=path, chunk=chunk)
    except ManifestProblem:
        assert not expected
        return

    assert found == expected


# ---------------------------------------------------------------- Metalink

METALINK = f"""<?xml version="1.0"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <file name="d/a.iso">
    <size>7</size>
    <hash type="md5">{"0" * 32}</hash><hash type="sha-256">{SHA}</hash>
    <url priority="2">http://two.example/a</url><url priority="1">http://one.example/a</url>
  </file>
  <file name="b"><url>ftp://one.example/b</url></file>
  <file name="c"><url>http://one.example/c?x=1</url></file>
</metalink>
""".encode()


def test_files_of_a_metalink_are_items_with_what_it_says_of_them():
    first, bad, last = FORMATS["metalink"].read(iter([METALINK]), Options(name="m"))

    assert isinstance(first, Whole)
    assert dict(first) == {
        "item.name": "d/a.iso",
        "item.url": "http://one.example/a",
        "item.size": "7",
        "item.digest": f"sha256:{SHA}",
    }
    assert first.sources == ("http://one.example/a", "http://two.example/a")
    assert (list(map(str, first.digests)), first.size_bytes) == ([f"sha256:{SHA}"], 7)
    assert str(bad).startswith("'b': no URL of the file is one that fetchd fetches")
    assert isinstance(last, Whole)
    assert dict(last) == {"item.name": "c", "item.url": "http://one.example/c?x=1"}
    with pytest.raises(ValueProblem, match=r"it has no .\{item.size\}"):
        last["item.size"]


def test_what_is_no_metalink_is_refused_behind_the_files_before():
    cut = METALINK[: METALINK.index(b"</metalink>") - 20]

    chunks = iter([cut])
    items = FORMATS["metalink"].read(chunks, Options(name="m"))
    assert [isinstance(next(items), Whole), str(next(items))[:3]] == [True, "'b'"]
    with pytest.raises(ManifestProblem, match=r"the file is cut off: .* \(line 9\)"):
        next(items)
    assert "begins with <html>" in problem("metalink", b"<html></html>")
    assert "names no <file>" in problem(
        "metalink", b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"/>'
    )
    bomb = b'<!DOCTYPE m [<!ENTITY a "b">]><metalink>&a;</metalink>'
    assert "<!DOCTYPE" in problem("metalink", bomb)


# ---------------------------------------------------------------- sums, html


def test_lines_of_a_sums_file_are_items_with_name_url_and_digest():
    data = (
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{SHA}  ./a b.iso\n{SHA} *x/é.iso\n"
        f"SHA512 (y) = {'cd' * 64}\nnothing\n{SHA}\n"
        f"-----BEGIN PGP SIGNATURE-----\n{SHA}  sig\n-----END PGP SIGNATURE-----\n"
    ).encode()

    assert read("sums", data, name="SHA256SUMS") == [
        {"name": "a b.iso", "url": "a%20b.iso", "digest": f"sha256:{SHA}"},
        {"name": "x/é.iso", "url": "x/%C3%A9.iso", "digest": f"sha256:{SHA}"},
        {"name": "y", "url": "y", "digest": f"sha512:{'cd' * 64}"},
    ]
    assert problem("sums", b"<html>\n") == "no line of it is a checksum and a name"


PAGE = b"""<!DOCTYPE html><title>Index</title><A HREF='../'>up</A> <a href="?C=N">name</a>
<!-- <a href="old.iso">old</a> --> <a class=x href=a.iso>a</a><abbr href="no.iso">
<a href="b%20c.iso#frag">b</a><a title=">" x><a href="a.iso">again</a> <a name="n">
<a data-href="no2.iso" href = "sub/d.iso?x=1&amp;y=2">d</a><a href="mailto:x@y.iso">m</a>
<a href="https://other.example/e.iso">e</a><a href="f.zip">f</a><a href="http://[bad/g.iso">"""


def test_links_of_a_page_that_fit_the_pattern_are_items_once():
    for chunk in (1, 5, 65536):
        assert read("html", PAGE, pattern="*.iso", chunk=chunk) == [
            {"url": "a.iso", "name": "a.iso"},
            {"url": "b%20c.iso", "name": "b c.iso"},
            {"url": "sub/d.iso?x=1&y=2", "name": "d.iso"},
            {"url": "https://other.example/e.iso", "name": "e.iso"},
        ]
    assert [one["name"] for one in read("html", PAGE)][-1] == "f.zip"


def test_links_begin_where_the_page_says():
    page = b'<base href="/pool/"><a href="a.iso">'

    assert read("html", page) == [{"url": "/pool/a.iso", "name": "a.iso"}]


def test_a_page_of_open_tags_takes_no_long_time():
    assert read("html", b"<a " * 500_000) == []
    assert read("html", b"<a href=x" * 100_000, pattern="y") == []
    assert read("html", b"<!--" * 500_000) == []


# ---------------------------------------------------------------- all


OPTIONS = {"json": {"items": "a[*]"}, "html": {"pattern": "*"}, "csv": {"delimiter": ";"}}
SEEDS = [
    b'{"a": [{"url": "x", "n": 1.5}, "y", null, [1]]}',
    b'a;b\n"1";2\n3;"4\n5"\n',
    f"{SHA}  name\n".encode(),
    PAGE,
    METALINK,
    b'{"a": 1}\n"x"\n',
]


@settings(derandomize=True, max_examples=400)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(SEEDS) | st.binary(max_size=60),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4),
    st.integers(1, 50),
)
def test_any_bytes_give_items_or_a_clean_error_in_whatever_pieces(form, data, edits, chunk):
    for at, piece in edits:
        data = data[:at] + piece + data[at + len(piece) :]

    def outcome(chunk_bytes: int):
        try:
            return read(form, data, chunk=chunk_bytes, **OPTIONS.get(form, {}))
        except ManifestProblem as exc:
            return str(exc) if form != "json" else "refused"

    assert outcome(chunk) == outcome(65536)


@settings(derandomize=True, max_examples=100)
@given(
    st.lists(st.lists(st.text(string.printable, max_size=5), min_size=2, max_size=2), max_size=5)
)
def test_a_table_as_python_writes_it_is_read_as_it_was(rows):
    written = io.StringIO()
    csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    texts = [[text.replace("\r\n", "\n") for text in row] for row in rows]

    found = read("csv", written.getvalue().encode())

    assert [[one["x"], one["y"]] for one in found] == texts or "\r" in written.getvalue()


def test_what_an_item_lacks_is_told_with_what_it_has():
    fields = Fields({"url": "u", "files": [1], "meta": {"size": 5}, "none": None, "yes": True})

    assert (fields["item.url"], fields["item.meta.size"], fields["item.yes"]) == ("u", "5", "true")
    for name, expected in {
        "item.x": "it has no ${item.x}; it has ${item.url}, ${item.files}, ${item.meta}, ",
        "item.none": "it has no ${item.none}; ",
        "item.url.x": "it has no ${item.url.x}; ",
        "item.files": "${item.files} is a list, no text",
        "item": "${item} is a mapping, no text",
    }.items():
        with pytest.raises(ValueProblem) as caught:
            fields[name]
        assert str(caught.value).startswith(expected)
    assert fields.get("url") is None
