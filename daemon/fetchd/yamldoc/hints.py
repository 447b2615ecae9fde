"""What YAML's parser complains about, in words that name the mistake and show the line mended."""

from __future__ import annotations

import re
from typing import Any

from fetchd.errors import Problem
from fetchd.yamldoc.nodes import Node, Scalar

_LONGEST_SHOWN = 160
_NO_ANCHORS = (
    "repeat the value; in a job file keys at the top hold for all tasks, vars: names texts"
)

_KEY = r"\s*(?:-\s+)*[^\s:'\"#\[{-][^:'\"]*:"
_KEY_AND_VALUE = re.compile(rf"({_KEY}\s+)(\S.*)")
_KEY_WITHOUT_SPACE = re.compile(r"(\s*(?:-\s+)*[A-Za-z_][\w-]*:)([^\s:].*)")
_DASH_WITHOUT_SPACE = re.compile(r"(\s*-)([^\s-].*)")
_ANCHOR = re.compile(r"[*&][\w-]+(?=[\s,\]}]|$)")
# A word inside [ ] or { }, blanks within it included; quoted ones are passed over whole.
_FLOW_WORD = re.compile(
    r"""\"[^"]*\"|'[^']*'|"""
    r"""(?:\$\{[^}]*\}|[^\s\[\]{},"':]|:(?=[^\s\[\]{},"'])|(?<![:,\[{\s])\ (?=[^\s\[\]{},"'#]))+"""
)


def explain_syntax(error: Any, lines: list[str], unclosed: list[Any]) -> Problem:
    """Return the problem behind a parser's error (yaml.MarkedYAMLError).

    ``unclosed``: the marks of the lists and mappings around the place, outermost first.
    """
    at, context = error.problem_mark, error.context or ""
    begun = error.context_mark or at
    said = error.problem or "not YAML"
    row, column = at.line, at.column
    line = _line(lines, row)

    if "\t" in line[: len(line) - len(line.lstrip())]:
        message = "a tab indents this line; YAML takes blanks only"
        return _problem(row, line.index("\t"), message, "put two blanks in its place")
    for beginning in (begun, at):
        first = _line(lines, beginning.line)[beginning.column : beginning.column + 1]
        if (first and first in "*&!%@`") or (first in {"|", ">"} and "block scalar" in context):
            return _special_character(lines, beginning.line, beginning.column, flow=False)
    if "quoted scalar" in context:
        return _quotes(error, lines)
    if "flow" in context:
        return _brackets(error, lines, unclosed)
    if "mapping values" in said:
        return _second_colon(lines, row, column)
    if "simple key" in context:
        return _no_colon(lines, begun.line, begun.column)
    if "sequence entries" in said:
        message = "a list item may not stand behind a key on the same line"
        return _problem(row, column, message, "write each item on a line of its own below the key")
    if "block mapping" in context or "block collection" in context:
        return _out_of_line(lines, row, column)
    if "document start" in said:
        message = "this line does not belong to what stands above it"
        return _problem(row, column, message, "begin it in the column of the first key")
    where = f" {context}" if context else ""
    return _problem(row, column, f"not YAML: {said}{where}")


def explain_property(event: Any, lines: list[str]) -> Problem:
    """Return the problem of a node with a tag or anchor, or of an alias."""
    row, column = event.start_mark.line, event.start_mark.column
    return _special_character(lines, row, column, flow=_within_brackets(_line(lines, row), column))


def explain_merge_key(key: Scalar) -> Problem:
    message = "merge keys (<<) are not read"
    return Problem(message=message, line=key.line, column=key.column, hint=_NO_ANCHORS)


def explain_complex_key(key: Node, lines: list[str]) -> Problem:
    """Return the problem of a list or mapping that stands as a key."""
    line = lines[key.line - 1] if key.line else ""
    hint = "variables are written ${name}" if "{{" in line else ""
    hint = (
        hint or "quote it if it is a text; [ and { at the beginning of a text mean a list or keys"
    )
    message = "a key must be a text, not a list or mapping"
    return Problem(message=message, line=key.line, column=key.column, hint=hint)


def explain_json(text: str, offset: int) -> str:
    """Return a hint for a JSON syntax error at an offset, "" where there is none."""
    rest, before = text[offset : offset + 2], text[:offset].rstrip()
    if rest[:1] in {"#", "/"}:
        return "JSON has no comments"
    if rest[:1] == "'":
        return "JSON takes double quotes only"
    if rest[:1] in {"}", "]"} and before.endswith(","):
        return "remove the comma before it"
    if before.endswith(","):
        return "remove the last comma"
    return ""


def _quote(text: str) -> str:
    """Return the text in the quotes that need no escapes where possible."""
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    return "'" + text.replace("'", "''") + "'"


def _problem(row: int, column: int, message: str, hint: str = "") -> Problem:
    return Problem(message=message, line=row + 1, column=column + 1, hint=hint)


def _line(lines: list[str], row: int) -> str:
    return lines[row] if row < len(lines) else ""


def _char(lines: list[str], mark: Any) -> str:
    return _line(lines, mark.line)[mark.column : mark.column + 1]


def _mended(line: str) -> str:
    """Return the hint that shows the line as it should be, "" when that would be too long."""
    shown = line.strip()
    return f"write: {shown}" if 0 < len(shown) <= _LONGEST_SHOWN else ""


def _special_character(lines: list[str], row: int, column: int, *, flow: bool) -> Problem:
    """The first character of a value has a meaning that was hardly meant."""
    line = _line(lines, row)
    rest = line[column:]
    if flow:
        rest = re.split(r"[,\]}]", rest, maxsplit=1)[0]
    rest = re.split(r"\s#", rest, maxsplit=1)[0].rstrip()
    mended = _mended(line[:column] + _quote(rest) + line[column + len(rest) :])
    first = line[column : column + 1]
    meaning = {"*": "an alias", "&": "an anchor", "!": "a tag", "|": "a block", ">": "a block"}
    if first in {"*", "&"}:
        hint = f"{_NO_ANCHORS}; or quote it" if _ANCHOR.match(line, column) else mended
        message = f"{first} at the beginning of a value means {meaning[first]}; these are not read"
    elif first == "!":
        hint, message = mended, "! at the beginning of a value means a tag; tags are not read"
        if rest.startswith("!!"):
            hint = "remove it; every value is read as the text that it is"
    elif first in meaning:
        hint, message = mended, f"{first} at the beginning of a value means a block of lines"
    else:
        hint, message = mended, f"a value cannot begin with {first} without quotes"
    return _problem(row, column, message, hint)


def _quotes(error: Any, lines: list[str]) -> Problem:
    begun, at = error.context_mark, error.problem_mark
    if "end of stream" in error.problem or "document indicator" in error.problem:
        mark = _line(lines, begun.line)[begun.column : begun.column + 1]
        message = f"the quote {mark} that begins here is never closed"
        return _problem(begun.line, begun.column, message, f"put {mark} at the end of the text")
    line = _line(lines, begun.line)
    mended = ""
    if begun.line == at.line and (match := re.fullmatch(r'"(.*)"\s*', line[begun.column :])):
        mended = _mended(line[: begun.column] + "'" + match[1].replace("'", "''") + "'")
    message = r"\ in double quotes begins an escape, and this one is unknown"
    return _problem(at.line, at.column, message, mended or "use single quotes")


def _brackets(error: Any, lines: list[str], unclosed: list[Any]) -> Problem:
    at = error.problem_mark
    line = _line(lines, at.line)
    if line[max(at.column - 1, 0) : at.column + 1] == "${" and len(line) <= _LONGEST_SHOWN:
        mended = _FLOW_WORD.sub(
            lambda word: (
                _quote(word[0]) if "${" in word[0] and word[0][0] not in "\"'" else word[0]
            ),
            line,
        )
        message = "inside [ ] and { } a text with ${...} needs quotes"
        return _problem(at.line, at.column - 1, message, _mended(mended))
    # The parser's own context is often no more than the place where it gave up.
    begun = next((mark for mark in reversed(unclosed) if _char(lines, mark) in {"[", "{"}), at)
    opening = _char(lines, begun)
    closing = "]" if opening == "[" else "}"
    ended = not line[at.column :].strip() and at.line >= len(lines) - 1
    if ended or at.line != begun.line:
        before = "" if ended else f" before line {at.line + 1}"
        message = f"the {opening} that begins here is not closed{before}"
        hint = f"put {closing} at its end"
        return _problem(begun.line, begun.column, message, hint)
    if _char(lines, at) == ",":
        message = f"inside {opening} {closing} nothing stands before this comma"
        return _problem(at.line, at.column, message, "remove the comma")
    message = f"inside {opening} {closing} a comma or {closing} is missing here"
    hint = "quote texts that contain any of : , [ ] { }"
    return _problem(at.line, at.column, message, hint)


def _second_colon(lines: list[str], row: int, column: int) -> Problem:
    """A colon where YAML expects none: in a value, or a key that is indented too far."""
    line = _line(lines, row)
    match = _KEY_AND_VALUE.fullmatch(line)
    if match and match.end(1) <= column:
        value = re.split(r"\s#", match[2], maxsplit=1)[0].rstrip()
        mended = _mended(match[1] + _quote(value) + match[2][len(value) :])
        return _problem(row, column, "a text with a colon and a blank needs quotes", mended)
    before = row - 1
    while before > 0 and not _line(lines, before).split("#")[0].strip():
        before -= 1
    above = _line(lines, max(before, 0))
    indent = len(above) - len(above.lstrip())
    if _KEY_WITHOUT_SPACE.fullmatch(above) or ":" not in above:
        return _no_colon(lines, max(before, 0), indent)
    if _KEY_AND_VALUE.fullmatch(above):
        message = "this key is indented as if it belonged to the line above, which has a value"
        mended = _mended(line)
        hint = f"begin it in column {indent + 1}, {mended}" if mended else ""
        return _problem(row, len(line) - len(line.lstrip()), message, hint)
    return _problem(row, column, "no key is possible here", "check how far the lines are indented")


def _no_colon(lines: list[str], row: int, column: int) -> Problem:
    line = _line(lines, row)
    if match := _KEY_WITHOUT_SPACE.fullmatch(line):
        message = "a blank is missing behind the colon"
        return _problem(row, match.end(1) - 1, message, _mended(f"{match[1]} {match[2]}"))
    if match := _DASH_WITHOUT_SPACE.fullmatch(line):
        message = "a blank is missing behind the dash"
        return _problem(row, match.end(1) - 1, message, _mended(f"{match[1]} {match[2]}"))
    return _problem(row, column, "this line has no key: a colon and a blank are missing")


def _out_of_line(lines: list[str], row: int, column: int) -> Problem:
    """Something in a block of keys or items that is neither: after quotes, or badly indented."""
    line = _line(lines, row)
    match = _KEY_AND_VALUE.fullmatch(line)
    if match and match[2][0] in "\"'" and column > match.start(2):
        mark, value = match[2][0], match[2].rstrip()
        inner = value[1:-1] if value[-1] == mark else value.replace(mark, "")
        message = "the text goes on behind the closing quote"
        return _problem(row, column, message, _mended(match[1] + _quote(inner)))
    if column > len(line) - len(line.lstrip()):
        return _problem(row, column, "the value has ended, and something follows it")
    if line.lstrip().startswith("- "):
        message = "a list item stands where a key is needed"
        return _problem(row, column, message, "indent it as the items, below the list's key")
    message = "this line stands in no column of the lines above"
    return _problem(
        row, column, message, "indent it exactly as the keys or items that it is beside"
    )


def _within_brackets(line: str, column: int) -> bool:
    before = re.sub(r"\"[^\"]*\"|'[^']*'", "", line[:column])
    return sum(before.count(mark) for mark in "[{") > sum(before.count(mark) for mark in "]}")
