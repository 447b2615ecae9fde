"""Bytes to a tree, event by event: a hostile document is stopped before anything is built."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from fetchd.errors import DocumentError, Problem
from fetchd.yamldoc import hints
from fetchd.yamldoc.nodes import Fields, Items, Node, Scalar, label

#: libyaml is ten times as fast; PyYAML's own parser stands in where it was built without.
LOADERS: tuple[type[Any], ...] = (
    *((yaml.CSafeLoader,) if yaml.__with_libyaml__ else ()),
    yaml.SafeLoader,
)

_MOST_PROBLEMS = 50
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What YAML 1.2 §5.1 does not count as printable; a byte order mark belongs to the beginning.
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
# libyaml compares each %TAG with all earlier ones, before its first event: 4 MiB take minutes.
_DIRECTIVE = re.compile("(?:\\A|[\r\n\x85\u2028\u2029])%")
# Escapes can make what no text of a file contains, and no file name or header may.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_yaml(
    data: bytes,
    source: str,
    *,
    max_bytes: int,
    max_events: int = 200_000,
    max_depth: int = 20,
    loader: type[Any] = LOADERS[0],
) -> Node | None:
    """Return the document's tree, None when it holds nothing; raises DocumentError.

    One document of UTF-8 text, without tags, anchors, aliases, merge keys and double keys.
    ``source`` is how messages name the file.
    """
    text = _decode(data, source, max_bytes)
    lines = text.splitlines()
    if match := _DIRECTIVE.search(text):
        line, column = _position(text, match.end() - 1)
        problem = Problem(
            message="a line that begins with % is a YAML directive; these are not read",
            line=line,
            column=column,
            hint="remove the line",
        )
        raise DocumentError(source, [problem], text)
    builder = _Builder(lines=lines, max_events=max_events, max_depth=max_depth)
    try:
        builder.build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as exc:
        builder.problems.append(hints.explain_syntax(exc, lines, builder.open_marks()))
    except _TooMuchError as exc:
        builder.problems.append(exc.problem)
    except (yaml.YAMLError, ValueError, OverflowError) as exc:  # PyYAML's own parser, on escapes
        builder.problems.append(Problem(message=f"not YAML: {exc}".splitlines()[0]))
    if builder.problems:
        raise DocumentError(source, builder.problems, text)
    return builder.root


def parse_json(
    data: bytes, source: str, *, max_bytes: int, max_values: int = 200_000, max_depth: int = 20
) -> Node | None:
    """Return the document's tree, without places; numbers as written; raises DocumentError.

    Only errors of syntax have a line and a column, others the path of keys.
    """
    text = _decode(data, source, max_bytes)
    if not text.strip():
        return None
    if _most_json_values(text, max_values) > max_values:
        problem = Problem(message=f"more than {max_values} values in one file")
        raise DocumentError(source, [problem], text)
    try:
        document = json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_int=_Literal,
            parse_float=_Literal,
            parse_constant=_NotJson,
        )
    except json.JSONDecodeError as exc:
        line, column = _position(text, exc.pos)
        message = f"not JSON: {exc.msg[0].lower()}{exc.msg[1:]}"
        hint = hints.explain_json(text, exc.pos)
        problem = Problem(message=message, line=line, column=column, hint=hint)
        raise DocumentError(source, [problem], text) from None
    except RecursionError:
        raise DocumentError(source, [_too_deep(max_depth)], text) from None
    problems: list[Problem] = []
    root = _JsonTree(problems, max_depth).node(document, ())
    if problems:
        raise DocumentError(source, problems, text)
    return _present(root)


def has_end_marker(data: bytes) -> bool:
    """Return whether the last line is ``...``, YAML's document end: nothing was cut off."""
    return data.rstrip().rpartition(b"\n")[2] == b"..."


def text_of(data: bytes) -> str:
    """Return a file's text for showing it: without byte order mark, errors replaced."""
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


def _decode(data: bytes, source: str, max_bytes: int) -> str:
    if len(data) > max_bytes:
        message = f"larger than the {max_bytes} bytes that are allowed"
        raise DocumentError(source, [Problem(message=message)])
    if data.startswith(_UTF16) or _alternates_with_nul(data[:8]):
        problem = Problem(message="the file is UTF-16, not UTF-8", hint="save it as UTF-8")
        raise DocumentError(source, [problem])
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as exc:
        shown = _UNPRINTABLE.sub("\ufffd", text_of(data))
        before = data.removeprefix(codecs.BOM_UTF8)[: exc.start].decode("utf-8")
        line, column = _position(before, len(before))
        problem = Problem(
            message=f"the byte 0x{exc.object[exc.start]:02x} is not UTF-8",
            line=line,
            column=column,
            hint="save the file as UTF-8; it may be Latin-1 or no text at all",
        )
        raise DocumentError(source, [problem], shown) from None
    if match := _UNPRINTABLE.search(text):
        line, column = _position(text, match.start())
        what = "a NUL byte" if match[0] == "\0" else f"the control character U+{ord(match[0]):04X}"
        problem = Problem(
            message=f"{what} stands in the file; it is not text, or damaged",
            line=line,
            column=column,
        )
        # The lines are shown on terminals, which may obey such characters.
        raise DocumentError(source, [problem], _UNPRINTABLE.sub("\ufffd", text))
    return text


def _alternates_with_nul(data: bytes) -> bool:
    """Return whether this looks like ASCII in two bytes a character."""
    return len(data) >= 4 and any(data[::2]) != any(data[1::2])


def _position(text: str, offset: int) -> tuple[int, int]:
    """Return line and column, from 1, as ``str.splitlines`` counts lines."""
    lines = (text[:offset] + "x").splitlines()
    return len(lines), len(lines[-1])


def _too_deep(max_depth: int) -> Problem:
    return Problem(message=f"nested deeper than {max_depth} levels")


# ---------------------------------------------------------------- YAML


class _TooMuchError(Exception):
    """The document is beyond a bound; reading on would only cost."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet; a mapping's keys and values alternate."""

    mark: Any
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Builder:
    lines: list[str]
    max_events: int
    max_depth: int
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    opened: list[_Open] = field(default_factory=list)

    def open_marks(self) -> list[Any]:
        """Return where the lists and mappings begin that are not closed yet, outermost first."""
        return [unclosed.mark for unclosed in self.opened]

    def build(self, events: Iterator[Any]) -> None:
        """Read all events into ``root``; what is not allowed goes to ``problems``."""
        top: list[Node] = []
        nodes, opened, documents = top, self.opened, 0
        for count, event in enumerate(events):
            kind, mark = type(event), event.start_mark
            if count >= self.max_events:
                message = f"more than {self.max_events} keys and values in one file"
                raise _TooMuchError(_problem_at(mark, message, "a *.urls list may be any length"))
            if kind is ScalarEvent:
                if event.tag is not None or event.anchor is not None:
                    self._complain(hints.explain_property(event, self.lines))
                text = event.value
                if not text.isascii() or "\0" in text:
                    self._check_text(text, mark)
                nodes.append(Scalar(text, event.implicit[0], mark.line + 1, mark.column + 1))
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if event.tag is not None or event.anchor is not None:
                    self._complain(hints.explain_property(event, self.lines))
                if len(opened) == self.max_depth:
                    raise _TooMuchError(_problem_at(mark, _too_deep(self.max_depth).message))
                opened.append(_Open(mark))
                nodes = opened[-1].nodes
            elif kind is SequenceEndEvent or kind is MappingEndEvent:
                done = opened.pop()
                nodes = opened[-1].nodes if opened else top
                close = self._fields if kind is MappingEndEvent else _items
                nodes.append(close(done))
            elif kind is AliasEvent:
                self._complain(hints.explain_property(event, self.lines))
                nodes.append(Scalar("", False, mark.line + 1, mark.column + 1))
            elif kind is DocumentStartEvent:
                documents += 1
                if documents > 1:
                    message = "a second document begins here; a file has only one"
                    raise _TooMuchError(_problem_at(mark, message, "remove the line '---'"))
        self.root = _present(top[0]) if top else None

    def _fields(self, done: _Open) -> Fields:
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(done.nodes[::2], done.nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._complain(hints.explain_complex_key(key, self.lines))
            elif key.text == "<<" and key.plain:
                self._complain(hints.explain_merge_key(key))
            elif key.text in entries:
                first = entries[key.text][0]
                message = f"the key {key.text!r} stands here a second time"
                hint = f"it is in line {first.line} already; remove one of the two"
                problem = Problem(message=message, line=key.line, column=key.column, hint=hint)
                self._complain(problem)
            else:
                entries[key.text] = (key, value)
        return Fields(tuple(entries.values()), done.mark.line + 1, done.mark.column + 1)

    def _check_text(self, text: str, mark: Any) -> None:
        if match := _NOT_TEXT.search(text):
            self._complain(_problem_at(mark, _not_text(match)))

    def _complain(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) >= _MOST_PROBLEMS:
            message = f"{_MOST_PROBLEMS} errors are enough; any further ones are not shown"
            raise _TooMuchError(Problem(message=message, line=problem.line, column=problem.column))


def _present(node: Node) -> Node | None:
    return None if isinstance(node, Scalar) and node.is_null else node


def _items(done: _Open) -> Items:
    return Items(tuple(done.nodes), done.mark.line + 1, done.mark.column + 1)


def _problem_at(mark: Any, message: str, hint: str = "") -> Problem:
    return Problem(message=message, line=mark.line + 1, column=mark.column + 1, hint=hint)


def _not_text(match: re.Match[str]) -> str:
    return f"the escape of U+{ord(match[0]):04X} gives no text"


# ---------------------------------------------------------------- JSON


class _Pairs(list[tuple[str, Any]]):
    """An object as written, double keys included."""


class _Literal(str):
    """A number as written."""

    __slots__ = ()


class _NotJson(str):
    """``NaN``, ``Infinity`` or ``-Infinity``: Python reads them, RFC 8259 §6 does not."""

    __slots__ = ()


def _most_json_values(text: str, enough: int) -> int:
    """Return an upper bound for the number of values, exact when above ``enough``."""
    separators = ",[{"
    bound = 1 + sum(map(text.count, separators))
    if bound > enough:
        outside = _JSON_STRING.sub("", text)
        bound = 1 + sum(map(outside.count, separators))
    return bound


@dataclass(slots=True)
class _JsonTree:
    problems: list[Problem]
    max_depth: int

    def node(self, value: Any, path: tuple[str | int, ...]) -> Node:
        if isinstance(value, list) and len(path) >= self.max_depth:
            self._complain(path, _too_deep(self.max_depth).message)
            return Scalar("")
        if isinstance(value, _Pairs):
            return self._fields(value, path)
        if isinstance(value, list):
            return Items(tuple(self.node(item, (*path, i)) for i, item in enumerate(value)))
        if isinstance(value, _NotJson):
            self._complain(path, f"{value} is not a number that JSON knows")
        if not isinstance(value, str):
            return Scalar("null" if value is None else str(value).lower(), plain=True)
        if match := _NOT_TEXT.search(value):
            self._complain(path, _not_text(match))
        return Scalar(str(value), isinstance(value, _Literal))

    def _fields(self, pairs: _Pairs, path: tuple[str | int, ...]) -> Fields:
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in pairs:
            if match := _NOT_TEXT.search(key):
                self._complain(path, _not_text(match))
            elif key in entries:
                self._complain((*path, key), "the key stands here twice; remove one of the two")
            else:
                entries[key] = (Scalar(key), self.node(value, (*path, key)))
        return Fields(tuple(entries.values()))

    def _complain(self, path: tuple[str | int, ...], message: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(message=message, key=label(path)))
