from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import DocumentError
from fetchd.yamldoc import (
    Fields,
    Items,
    Scalar,
    did_you_mean,
    has_end_marker,
    label,
    parse_json,
    parse_yaml,
    place,
    plain,
    require_fields,
    text_of,
)
from fetchd.yamldoc.read import LOADERS

LIMIT = 4 * 1024 * 1024


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request):
    return request.param


def read(text, loader=LOADERS[0]):
    data = text if isinstance(text, bytes) else text.encode()
    return plain(parse_yaml(data, "job.yaml", max_bytes=LIMIT, loader=loader))


def rejected(text, loader=LOADERS[0]):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DocumentError) as caught:
        parse_yaml(data, "job.yaml", max_bytes=LIMIT, loader=loader)
    return caught.value


def rejected_json(text, **bounds):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DocumentError) as caught:
        parse_json(data, "job.json", max_bytes=LIMIT, **bounds)
    return caught.value


# ---------------------------------------------------------------- trees and places


def test_each_node_knows_line_and_column(loader):
    tree = parse_yaml(b"url: x\ntasks:\n  a: [1, two]\n", "f", max_bytes=LIMIT, loader=loader)

    expected = Fields(
        (
            (Scalar("url", True, 1, 1), Scalar("x", True, 1, 6)),
            (
                Scalar("tasks", True, 2, 1),
                Fields(
                    (
                        (
                            Scalar("a", True, 3, 3),
                            Items((Scalar("1", True, 3, 7), Scalar("two", True, 3, 10)), 3, 6),
                        ),
                    ),
                    3,
                    3,
                ),
            ),
        ),
        1,
        1,
    )
    assert expected == tree


def test_a_key_leads_to_its_value_and_to_itself():
    tree = parse_yaml(b"a: b\nc: {}\n", "f", max_bytes=LIMIT)
    assert isinstance(tree, Fields)

    assert tree.get("a") == Scalar("b", True, 1, 4)
    assert tree.key("c") == Scalar("c", True, 2, 1)
    assert tree.get("x") is None
    assert tree.key("x") is None


@pytest.mark.parametrize(
    ("path", "at_key", "found"),
    [
        (("tasks", "iso", "urls", 1), False, (3, 16)),
        (("tasks", "iso", "urls"), True, (3, 5)),
        (("tasks", "iso", "urls", 7), False, (3, 11)),
        (("tasks", "iso", "nope", "deeper"), False, (3, 5)),
        (("tasks", "nope"), True, (2, 3)),
        ((), False, (1, 1)),
    ],
)
def test_a_path_leads_to_the_last_part_that_exists(path, at_key, found):
    tree = parse_yaml(b"tasks:\n  iso:\n    urls: [a1, b1]\n", "f", max_bytes=LIMIT)
    assert tree is not None

    node = place(tree, path, at_key=at_key)

    assert found == (node.line, node.column)


def test_a_path_is_shown_as_people_write_it():
    assert label(("tasks", "iso", "urls", 2)) == "tasks.iso.urls[2]"


def test_a_near_word_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("wrokers", ["workers", "state"]) == "did you mean 'workers'?"
    assert did_you_mean("zzz", ["workers", "state"]) == ""


@pytest.mark.parametrize("text", ["", "# nothing\n", "~\n", "null\n", "---\n"])
def test_a_document_without_content_is_none(text, loader):
    assert parse_yaml(text.encode(), "f", max_bytes=LIMIT, loader=loader) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F07-empty", "nothing is written here"),
        ("F07-scalar", "found a single text, where keys with values are needed"),
        ("F07-list", "found a list, where keys with values are needed"),
    ],
    ids=["F07-empty", "F07-scalar", "F07-list"],
)
def test_a_document_that_has_no_keys_is_refused_where_keys_are_needed(text, message):
    documents = {"F07-empty": "", "F07-scalar": "url:https://x\n", "F07-list": "- a\n"}
    tree = parse_yaml(documents[text].encode(), "f.yaml", max_bytes=LIMIT)

    with pytest.raises(DocumentError, match=message):
        require_fields(tree, "f.yaml", documents[text])


def test_a_document_with_keys_passes():
    tree = parse_yaml(b"a: b\n", "f", max_bytes=LIMIT)

    assert require_fields(tree, "f", "a: b\n") is tree


# ---------------------------------------------------------------- scalars stay as written


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no", id="F08-no"),
        pytest.param("010", id="F08-octal"),
        pytest.param("1:30", id="F08-sexagesimal"),
        pytest.param("2026-01-01", id="F08-date"),
        pytest.param("1e3", id="F08-float"),
        "1.10",
        "0x1F",
        "1_000",
        "on",
        "=",
        "1234567890123456789012345678901234567890123456789012345678901234",
    ],
)
def test_a_scalar_is_the_text_that_stands_in_the_file(text, loader):
    assert read(f"a: {text}\n", loader) == {"a": text}


def test_only_a_plain_null_is_absent(loader):
    text = "a: null\nb: ~\nc:\nd: 'null'\ne: \"~\"\nf: ''\ng: Null\n"

    expected = {"a": None, "b": None, "c": None, "d": "null", "e": "~", "f": "", "g": "Null"}
    assert expected == read(text, loader)


def test_keys_of_one_letter_are_texts(loader):
    assert read("on: a\noff: b\ny: c\nno: d\n", loader) == {
        "on": "a",
        "off": "b",
        "y": "c",
        "no": "d",
    }


# ---------------------------------------------------------------- bombs and bounds


ALIAS_BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [*{before}, *{before}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(ALIAS_BOMB, "means an anchor", id="F04-alias-bomb"),
        pytest.param(MERGE_BOMB, r"merge keys \(<<\) are not read", id="F04-merge-bomb"),
        pytest.param("a: &a [*a]\n", "means an alias", id="F04-recursive-alias"),
        pytest.param("[" * 30_000, "nested deeper than 20 levels", id="F04-depth-flow"),
        pytest.param("- " * 30_000, "nested deeper than 20 levels", id="F04-depth-block"),
        pytest.param("{a: " * 30_000, "nested deeper than 20 levels", id="F04-depth-mapping"),
        pytest.param(
            "".join(f"%TAG !a{i}! x:\n" for i in range(200_000)) + "---\na: b\n",
            "directive",
            id="F04-directive-bomb",
        ),
    ],
)
def test_a_bomb_is_refused_at_once(text, message):
    began = time.process_time()

    error = rejected(text)

    assert time.process_time() - began < 0.5
    assert any(message.replace("\\", "") in line for line in error.headlines())


def test_twenty_levels_are_read_and_the_next_one_is_not(loader):
    assert read("[" * 20 + "]" * 20, loader) is not None

    assert "f.yaml" not in str(rejected("[" * 21 + "]" * 21, loader))


def test_the_number_of_values_is_bounded(loader):
    text = b"- x\n" * 50

    parse_yaml(text, "f", max_bytes=LIMIT, max_events=60, loader=loader)

    with pytest.raises(DocumentError, match="f:18:3: more than 20 keys and values"):
        parse_yaml(text, "f", max_bytes=LIMIT, max_events=20, loader=loader)


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_a_file_above_the_size_cap_is_not_parsed(parse):
    with pytest.raises(DocumentError, match=r"f: larger than the 4096 bytes that are"):
        parse(b"[" * 4097, "f", max_bytes=4096)


def test_errors_are_told_up_to_a_bound():
    error = rejected("- !x a\n" * 1000)

    assert len(error.problems) == 51
    assert "50 errors are enough" in error.problems[-1].message


# ---------------------------------------------------------------- bytes that are no text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("a: b\n".encode("utf-16"), "is UTF-16, not UTF-8", id="F06-utf-16"),
        pytest.param("a: b\n".encode("utf-16-le"), "is UTF-16", id="F06-utf-16-without-bom"),
        pytest.param("a: b\n".encode("utf-16-be"), "is UTF-16", id="F06-utf-16-big-endian"),
        pytest.param(
            "ä: b\nc: grün\n".encode("latin-1"), "1:1: the byte 0xe4 is not UTF-8", id="F06-latin-1"
        ),
        pytest.param(b"a: b\nc: gr\xfcn\n", "2:6: the byte 0xfc is not UTF-8", id="F06-umlaut"),
        pytest.param(b"a: b\nc: d\0e\n", "2:5: a NUL byte", id="F06-nul"),
        pytest.param(b"\x7fELF\x02\x01\x01\0\0\0", "control character U\\+007F", id="F06-binary"),
        pytest.param(b"a: \x1b[31mred\n", "1:4: the control character U\\+001B", id="F06-escape"),
        pytest.param("a: b\n\ufeffc: d\n".encode(), "2:1: the control", id="F06-bom-within"),
    ],
)
@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_what_is_not_utf_8_text_is_named(parse, data, message):
    with pytest.raises(DocumentError, match=message):
        parse(data, "f", max_bytes=LIMIT)


def test_control_characters_of_a_file_do_not_reach_the_terminal():
    assert "\x1b" not in str(rejected(b"a: \x1b[31mred\n"))
    assert "\x1b" not in str(rejected(b"a: \x1b[31mred\xff\n"))
    assert "\x1b" not in str(rejected('"\\e": a\n"\\e": b\n'))
    assert "\x1b" not in label(("a", "\x1b[31m"))


def test_f06_a_byte_order_mark_is_accepted(loader):
    data = b"\xef\xbb\xbfa: b\n"

    tree = parse_yaml(data, "f", max_bytes=LIMIT, loader=loader)

    assert tree == Fields(((Scalar("a", True, 1, 1), Scalar("b", True, 1, 4)),), 1, 1)
    assert text_of(data) == "a: b\n"


def test_lines_may_end_as_on_other_systems(loader):
    assert read("a: b\r\nc: d\r\n", loader) == {"a": "b", "c": "d"}


@pytest.mark.parametrize("text", ['a: "\\0"\n', 'a: "\\ud800"\n', 'a: "\\UFFFFFFFF"\n'])
def test_an_escape_that_gives_no_text_is_refused(text, loader):
    assert rejected(text, loader).problems


# ---------------------------------------------------------------- keys


def test_f05_a_double_key_is_an_error_at_the_second_with_the_line_of_the_first(loader):
    error = rejected("url: a\ndest: b\nurl: c\n", loader)

    [problem] = error.problems
    assert (problem.line, problem.column) == (3, 1)
    assert problem.message == "the key 'url' stands here a second time"
    assert problem.hint == "it is in line 1 already; remove one of the two"


def test_the_same_key_in_two_mappings_is_fine(loader):
    assert read("a: {x: 1}\nb: {x: 1}\n", loader) == {"a": {"x": "1"}, "b": {"x": "1"}}


def test_a_quoted_merge_key_is_a_key(loader):
    assert read('"<<": x\n', loader) == {"<<": "x"}


def test_all_errors_that_do_not_hide_each_other_are_told_at_once(loader):
    error = rejected("a: !x b\na: *c\n<<: d\n? [e]\n: f\ng: 'h\n", loader)

    places = [(problem.line, problem.column) for problem in error.problems]
    assert places == [(1, 4), (2, 4), (6, 4)]

    error = rejected("a: !x b\na: *c\n<<: d\n? [e]\n: f\n", loader)

    places = [(problem.line, problem.column) for problem in error.problems]
    assert places == [(1, 4), (2, 1), (2, 4), (3, 1), (4, 3)]


def test_f07_a_second_document_is_refused(loader):
    error = rejected("a: b\n---\nc: d\n", loader)

    assert error.headlines() == [
        "job.yaml:2:1: a second document begins here; a file has only one (remove the line '---')"
    ]


# ---------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("text", "place_", "message", "hint"),
    [
        ("a: */15 * * * *\n", (1, 4), "means an alias", 'write: a: "*/15 * * * *"'),
        ("a: *.host  # all\n", (1, 4), "means an alias", 'write: a: "*.host"  # all'),
        ("u:\n  - *.host/x y\n", (2, 5), "means an alias", 'write: - "*.host/x y"'),
        ("a: *all\n", (1, 4), "means an alias", "repeat the value"),
        ("a: &all x\n", (1, 4), "means an anchor", "repeat the value"),
        ("a: !x\nb: c\n", (1, 4), "means a tag", 'write: a: "!x"'),
        ("a: !x y z\n", (1, 4), "means a tag", 'write: a: "!x y z"'),
        ("a: [!x, y]\n", (1, 5), "means a tag", 'write: a: ["!x", y]'),
        pytest.param(
            "a: !!python/object/apply:os.system [x]\n",
            (1, 4),
            "tags are not read",
            "every value is read as the text",
            id="F07-python-tag",
        ),
        ("a: %02d.iso\n", (1, 4), "cannot begin with %", 'write: a: "%02d.iso"'),
        ("a: @b\n", (1, 4), "cannot begin with @", 'write: a: "@b"'),
        ("a: `b`\n", (1, 4), "cannot begin with `", 'write: a: "`b`"'),
        ("a: >5MiB\n", (1, 4), "means a block of lines", 'write: a: ">5MiB"'),
        ("%YAML 1.2\n---\na: b\n", (1, 1), "a YAML directive", "remove the line"),
        ("u: [${a}/b, c]\n", (1, 5), "needs quotes", 'write: u: ["${a}/b", c]'),
        ("u: [c, '${b}', ${a}]\n", (1, 16), "needs quotes", """write: u: [c, '${b}', "${a}"]"""),
        ("m: { u: ${a} x.iso }\n", (1, 9), "needs quotes", 'write: m: { u: "${a} x.iso" }'),
        ("m: { ${a}: b }\n", (1, 6), "needs quotes", 'write: m: { "${a}": b }'),
        ("m: {k: http://${a}/b c}\n", (1, 15), "needs quotes", 'write: m: {k: "http://${a}/b c"}'),
        ("a: [\n", (1, 4), "the [ that begins here is not closed", "put ]"),
        ("a: {b: [c,\n", (1, 8), "the [ that begins here is not closed", "put ]"),
        ("a: [\n  {\nb: c\nd: e\n", (2, 3), "the { that begins here is not closed", "put }"),
        ("a: [b, , c]\n", (1, 8), "nothing stands before this comma", "remove the comma"),
        ("a: b: c\n", (1, 5), "a colon and a blank", 'write: a: "b: c"'),
        ("a: b: c  # d\n", (1, 5), "a colon and a blank", 'write: a: "b: c"  # d'),
        ('a: ${x}: "y"\n', (1, 8), "a colon and a blank", "write: a: '${x}: \"y\"'"),
        ("a:\n\tb: c\n", (2, 1), "a tab indents this line", "two blanks"),
        pytest.param("a: b\n\tc: d\n", (2, 1), "a tab indents", "two blanks", id="F06-tab-indent"),
        ("url:https://x/y\nd: a\n", (1, 4), "a blank is missing", "write: url: https://x/y"),
        ("a: b\nurl:https://x\n", (2, 4), "a blank is missing", "write: url: https://x"),
        ("- a\n-b\n", (2, 1), "a blank is missing behind the dash", "write: - b"),
        ("a: b\nc\nd: e\n", (2, 1), "this line has no key", ""),
        ("a:\n  b\n  c: d\n", (2, 3), "this line has no key", ""),
        ("a: b\n\n  c: d\n", (3, 3), "indented as if it belonged", "begin it in column 1"),
        ("a:\n  b: c\n d: e\n", (3, 2), "in no column of the lines above", "indent it exactly"),
        ("# c\n  a: b\nc: d\n", (3, 1), "does not belong", "column of the first key"),
        ("a: b\n- c\n", (2, 1), "a list item stands where a key", "below the list's key"),
        ("a: - b\n", (1, 4), "a list item may not stand behind a key", "a line of its own"),
        ("a: 'b\nc: d\n", (1, 4), "the quote ' that begins here is never closed", "put '"),
        ("a: 'it's'\n", (1, 8), "goes on behind the closing quote", 'write: a: "it\'s"'),
        ('a: "${b}"/c\n', (1, 10), "goes on behind the closing quote", 'write: a: "${b}/c"'),
        ('a: "C:\\x"\n', (1, 9), "begins an escape", "write: a: 'C:\\x'"),
        ("a: [b, c\nd: e\n", (1, 4), "the [ that begins here is not closed", "put ]"),
        ("a: {b: c\nd: e\n", (1, 4), "the { that begins here is not closed", "put }"),
        ("a: {b: c d: e}\n", (1, 11), "a comma or } is missing", "quote texts"),
        ("a: {b: c} d\n", (1, 11), "the value has ended", ""),
        ("a: {{ b }}\n", (1, 5), "a key must be a text", "variables are written ${name}"),
        ("? [a]\n: b\n", (1, 3), "a key must be a text", "quote it"),
        ("a: ]\n", (1, 4), "not YAML", ""),
    ],
)
def test_a_baffling_mistake_is_explained_with_the_line_mended(text, place_, message, hint, loader):
    error = rejected(text, loader)

    [problem] = error.problems
    assert place_ == (problem.line, problem.column)
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    "text",
    [
        "a: */15 * * * *\n",
        "a: !x y z\n",
        "a: %02d.iso\n",
        "u: [${a}/b, c]\n",
        "m: { u: ${a} x.iso }\n",
        "m: { ${a}: b }\n",
        "a: b: c  # d\n",
        'a: ${x}: "y"\n',
        "url:https://x/y\nd: a\n",
        "a: 'it's'\n",
        'a: "${b}"/c\n',
        'a: "C:\\x"\n',
    ],
)
def test_the_mended_line_is_right(text):
    [problem] = rejected(text).problems
    lines = text.splitlines()
    assert problem.line is not None

    lines[problem.line - 1] = problem.hint.removeprefix("write: ")

    assert read("\n".join(lines))


def test_a_line_too_long_to_show_has_no_mended_form():
    [problem] = rejected("a: [" + "${" * 100_000).problems

    assert "write:" not in problem.hint


def test_an_error_shows_the_line_and_a_caret():
    assert str(rejected("a: b\nc: %d\n")) == (
        'job.yaml:2:4: a value cannot begin with % without quotes (write: c: "%d")\n'
        "    c: %d\n"
        "       ^"
    )


# ---------------------------------------------------------------- JSON


def test_json_gives_the_same_tree_with_numbers_as_written():
    text = (
        '{"a": [1.10, -0, 1e3, true, false, null, "null", "x"], "b": {"c": 10000000000000000000}}'
    )

    tree = parse_json(text.encode(), "f", max_bytes=LIMIT)

    assert plain(tree) == {
        "a": ["1.10", "-0", "1e3", "true", "false", None, "null", "x"],
        "b": {"c": "10000000000000000000"},
    }
    assert isinstance(tree, Fields)
    assert tree.get("b") == Fields(((Scalar("c"), Scalar("10000000000000000000", plain=True)),))


@pytest.mark.parametrize("text", ["", " \n", "null"])
def test_json_without_content_is_none(text):
    assert parse_json(text.encode(), "f", max_bytes=LIMIT) is None


@pytest.mark.parametrize(
    ("text", "headline"),
    [
        ('{"a": 1,}', "job.json:1:9: not JSON: expecting property name enclosed in double quotes"),
        ('{"a": 1,\n "b" 2}', "job.json:2:6: not JSON: expecting ':' delimiter"),
        ("{'a': 1}", "job.json:1:2: not JSON: "),
        ('{"a": "b', "job.json:1:7: not JSON: unterminated string"),
        ('{"a": 1} {}', "job.json:1:10: not JSON: extra data"),
        ('{"a": {"b": 1, "b": 2}}', "job.json: a.b: the key stands here twice"),
        ('{"a": [0, NaN]}', "job.json: a[1]: NaN is not a number"),
        ('{"a": -Infinity}', "job.json: a: -Infinity is not a number"),
        ('{"a": "\\ud800"}', "job.json: a: the escape of U+D800 gives no text"),
        ('{"a": {"\\u0000": 1}}', "job.json: a: the escape of U+0000 gives no text"),
    ],
)
def test_wrong_json_is_named_by_place_or_path(text, headline):
    [found] = rejected_json(text).headlines()

    assert found.startswith(headline)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"a": 1,}', "remove the comma"),
        ('["a",]', "remove the comma"),
        ("{'a': 1}", "double quotes only"),
        ('{"a": 1} # b', "no comments"),
        ('{\n// b\n"a": 1}', "no comments"),
    ],
)
def test_common_mistakes_in_json_have_a_hint(text, hint):
    [problem] = rejected_json(text).problems

    assert hint in problem.hint


def test_all_errors_of_content_in_json_are_told_at_once():
    error = rejected_json('{"a": NaN, "b": 1, "b": 2, "c": ["\\u0000"]}')

    assert len(error.problems) == 3


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_deeply_nested_json_does_not_end_the_process(opening):
    assert "nested deeper than 20 levels" in str(rejected_json(opening * 30_000 + "1"))


def test_json_of_twenty_levels_is_read_and_of_twenty_one_is_not():
    parse_json(b"[" * 20 + b"]" * 20, "f", max_bytes=LIMIT)

    assert "nested deeper" in str(rejected_json("[" * 21 + "]" * 21))


def test_the_number_of_values_in_json_is_bounded_and_commas_in_texts_do_not_count():
    parse_json(json.dumps([",[{" * 100]).encode(), "f", max_bytes=LIMIT, max_values=10)

    assert "more than 10 values" in str(rejected_json("[" + "0," * 20 + "0]", max_values=10))


# ---------------------------------------------------------------- the end marker


@pytest.mark.parametrize("data", [b"a: b\n...\n", b"a: b\n...", b"a: b\r\n...\r\n", b"...\n\n"])
def test_an_end_marker_in_the_last_line_is_seen(data):
    assert has_end_marker(data)


@pytest.mark.parametrize("data", [b"", b"a: b\n", b"...\na: b\n", b"a: |\n  ...\n", b"a: ...\n"])
def test_anything_else_at_the_end_is_no_end_marker(data):
    assert not has_end_marker(data)


def test_a_document_with_an_end_marker_is_read(loader):
    assert read("a: b\n...\n", loader) == {"a": "b"}


# ---------------------------------------------------------------- any bytes


def gives_a_tree_or_an_error(parse, data):
    began = time.process_time()
    try:
        parse(data, "f", max_bytes=LIMIT)
    except DocumentError as exc:
        told = exc.headlines()
    else:
        told = ["nothing to tell"]
    assert told
    assert time.process_time() - began < 1


MARKS = "-:?&*!|>%@`'\"[]{},#~\n\t\\ \u2028"
WORDS = ["a", "b", "ä", "<<: ", "${a}", "...\n", "---\n", "\r\n", "\n  ", "&a ", "*a", "!!str "]
ESCAPES = ["\\ud800", "\\UFFFFFFFF", "\\0", "\n%TAG ! x\n"]
YAML_SNIPPETS = st.lists(st.sampled_from([*MARKS, *WORDS, *ESCAPES, ": ", "- "]), max_size=30).map(
    "".join
)


@settings(derandomize=True, max_examples=150)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_tree_or_an_error(data):
    gives_a_tree_or_an_error(parse_yaml, data)
    gives_a_tree_or_an_error(parse_json, data)


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
@settings(derandomize=True, max_examples=200)
@given(text=YAML_SNIPPETS)
def test_any_characters_that_mean_something_give_a_tree_or_an_error(loader, text):
    def parse(data, source, *, max_bytes):
        return parse_yaml(data, source, max_bytes=max_bytes, loader=loader)

    gives_a_tree_or_an_error(parse, text.encode())


@settings(derandomize=True, max_examples=100)
@given(
    value=st.recursive(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner),
        max_leaves=10,
    )
)
def test_what_json_writes_is_read_again(value):
    def texts(part):
        if isinstance(part, bool):
            return str(part).lower()
        if isinstance(part, list):
            return [texts(item) for item in part]
        if isinstance(part, dict):
            return {key: texts(item) for key, item in part.items()}
        return part

    tree = parse_json(json.dumps(value).encode(), "f", max_bytes=LIMIT)

    assert texts(value) == plain(tree)


def test_a_hundred_thousand_entries_are_read():
    tree = parse_yaml(b"urls:\n" + b"  - x\n" * 100_000, "f", max_bytes=LIMIT)

    assert isinstance(tree, Fields)
    assert len(plain(tree)["urls"]) == 100_000
