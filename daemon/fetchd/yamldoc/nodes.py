"""The tree of a document: texts, lists and keys, each with its place; how places are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from fetchd.errors import DocumentError, Problem


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text as written: ``no``, ``0644`` and ``1.10`` stay what they are.

    ``plain``: written without quotes. Lines and columns count from 1, None where unknown (JSON).
    """

    text: str
    plain: bool = False
    line: int | None = None
    column: int | None = None

    @property
    def is_null(self) -> bool:
        """Whether this stands for an absent value: nothing, ``~`` or ``null`` without quotes."""
        return self.plain and self.text in {"", "~", "null"}


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping; its keys are texts, in the order of the file, none of them twice."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int | None = None
    column: int | None = None

    def get(self, key: str) -> Node | None:
        """Return the key's value, None when the key is not there."""
        return next((value for name, value in self.entries if name.text == key), None)

    def key(self, key: str) -> Scalar | None:
        """Return the key itself with its place, None when it is not there."""
        return next((name for name, _ in self.entries if name.text == key), None)


Node: TypeAlias = Scalar | Items | Fields


def plain(node: Node | None) -> Any:
    """Return the tree as dicts, lists and texts, None for what is absent."""
    if isinstance(node, Scalar):
        return None if node.is_null else node.text
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    if isinstance(node, Fields):
        return {key.text: plain(value) for key, value in node.entries}
    return None


def place(node: Node, path: Sequence[str | int], *, at_key: bool = False) -> Node:
    """Return what stands at a path of keys and item numbers, or the last part that exists.

    With ``at_key`` a path that ends in a key leads to the key itself, not to its value.
    """
    for index, part in enumerate(path):
        found: Node | None = None
        if isinstance(node, Fields):
            wants_key = at_key and index == len(path) - 1
            found = node.key(str(part)) if wants_key else node.get(str(part))
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            found = node.items[part]
        if found is None:
            break
        node = found
    return node


def label(path: Sequence[str | int]) -> str:
    """Return a path as people write it: ``tasks.iso.urls[2]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        # An escape can put characters into a key that a terminal would obey.
        key = part if part.isprintable() else repr(part)
        text += f".{key}" if text else key
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most like this one in whatever case, or ""."""
    lower = {name.lower(): name for name in reversed(list(known))}
    near = get_close_matches(word[:100].lower(), list(lower), 1)
    return lower[near[0]] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'X'?``, or "" when nothing known is like it."""
    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else ""


def require_fields(node: Node | None, source: str, text: str) -> Fields:
    """Return the document as keys with values; raises DocumentError for any other."""
    if isinstance(node, Fields):
        return node
    if node is None or (isinstance(node, Scalar) and node.is_null):
        raise DocumentError(source, [Problem(message="nothing is written here")], text)
    found = "a list" if isinstance(node, Items) else "a single text"
    hint = "write KEY: VALUE, each in a line of its own, with a space behind the colon"
    problem = Problem(
        message=f"found {found}, where keys with values are needed",
        line=node.line,
        column=node.column,
        hint=hint,
    )
    raise DocumentError(source, [problem], text)
