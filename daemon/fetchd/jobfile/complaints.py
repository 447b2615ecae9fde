"""All errors of one job file, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fetchd.errors import DocumentError, Problem
from fetchd.yamldoc import Fields, Items, Node, Scalar, label

#: From the top of the file: keys, and numbers of items from 0.
Path = tuple[str | int, ...]

_NOTHING: Mapping[str, str] = MappingProxyType({})
_MOST = 100
_LONGEST_MESSAGE = 500
_LONGEST_KEY = 150


class Complaints:
    """Collects errors; ``tree`` None: the job was not written in a file.

    ``inherited``: keys that stand in another file, and in which.
    """

    def __init__(
        self,
        file: str,
        tree: Node | None = None,
        text: str = "",
        inherited: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.count = 0
        self._file = file
        self._tree = tree
        self._text = text
        self._problems: dict[tuple[object, str], Problem] = {}
        self._inherited = inherited
        self._indexed: dict[int, dict[str | int, tuple[Scalar, Node]]] = {}

    @property
    def full(self) -> bool:
        """Whether enough errors are known to show; further ones are only counted."""
        return len(self._problems) >= _MOST

    def add(self, path: Path, message: str, hint: str = "", *, at_key: bool = False) -> None:
        """Add an error at the value of a path, or at its last key; told once for one place."""
        self.count += 1
        if self.full:
            return
        if path and (source := self._inherited.get(str(path[0]))):
            message = f"{message} (it stands in {source})"
        line, column = self.place(path, at_key=at_key)
        message, key = _short(message, _LONGEST_MESSAGE), _short(label(path), _LONGEST_KEY)
        problem = Problem(message=message, line=line, column=column, key=key, hint=hint)
        self._problems.setdefault(((line, column) if line else path, message), problem)

    def place(self, path: Path, *, at_key: bool = False) -> tuple[int | None, int | None]:
        """Return line and column of what stands at a path, or of the last part that exists."""
        node = self._tree
        for depth, part in enumerate(path, 1):
            if isinstance(node, Fields) and (entry := self._entries(node).get(part)):
                node = entry[0] if at_key and depth == len(path) else entry[1]
            elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
            else:
                break
        return (None, None) if node is None else (node.line, node.column)

    def _entries(self, fields: Fields) -> dict[str | int, tuple[Scalar, Node]]:
        """Return the entries by key: a job may have thousands of tasks."""
        found = self._indexed.get(id(fields))
        if found is None:
            found = self._indexed[id(fields)] = {entry[0].text: entry for entry in fields.entries}
        return found

    def shown(self, path: Path) -> str:
        """Return a place for use within another error's message."""
        line, _ = self.place(path)
        return label(path) if line is None else f"{label(path)} in line {line}"

    def raise_any(self) -> None:
        """Raise DocumentError if there were errors."""
        if not self._problems:
            return
        problems = list(self._problems.values())
        if self.full:
            problems.append(Problem(message=f"more than {_MOST} errors; here are the first"))
        raise DocumentError(self._file, problems, self._text)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
