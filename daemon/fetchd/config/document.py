"""The file with what the command line puts over it, and where each error in it is shown."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fetchd import yamldoc
from fetchd.config.complaints import Complaint
from fetchd.config.readers import read_origin
from fetchd.config.settings import DEFAULT_ROOT, KeyPath
from fetchd.errors import ConfigError, DocumentError, Problem, ValueProblem
from fetchd.yamldoc import Fields, Node, Scalar

_MAX_BYTES = 1024 * 1024
_USERINFO = re.compile(r"(?<=^origins\.).*@")


class Document:
    """The tree of the file with the overrides in it, and where each of its errors is shown."""

    def __init__(self, source: str, root: Fields | None = None, text: str = "") -> None:
        self.root = root or Fields(())
        self._source = source
        self._text = text
        self._overridden: dict[KeyPath, str] = {}

    @classmethod
    def of_file(cls, path: Path) -> Document:
        source = str(path)
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise ConfigError(f"{source}: the configuration cannot be read: {reason}") from None
        root = yamldoc.parse_yaml(data, source, max_bytes=_MAX_BYTES)
        text = yamldoc.text_of(data)
        if root is None:
            return cls(source, None, text)
        return cls(source, yamldoc.require_fields(root, source, text), text)

    def override(self, key: str, value: str) -> None:
        """Put a value into the tree, over what the file says."""
        source = f"--set {key}"
        node = yamldoc.parse_yaml(
            value.encode("utf-8", "surrogateescape"), source, max_bytes=_MAX_BYTES
        )
        path = tuple(key.split("."))
        if path[0] == "roots" and path[1:]:
            self.root = _with(self.root, ("roots",), _long_form(self.root.get("roots")))
        self.root = _with(self.root, path, node or Scalar("", plain=True))
        self._overridden[path] = source

    def reject(self, complaints: list[Complaint]) -> None:
        """Raise DocumentError if there are complaints; the file's come before the overrides'."""
        by_source: dict[str, list[Problem]] = {}
        for complaint in complaints:
            source, problem = self._placed(complaint)
            by_source.setdefault(source, []).append(problem)
        if self._source in by_source:
            problems = by_source[self._source]
            raise DocumentError(self._source, problems, _without_secrets(self._text, problems))
        for source, problems in by_source.items():
            raise DocumentError(source, problems)

    def _placed(self, complaint: Complaint) -> tuple[str, Problem]:
        paths = [self._as_written(path) for path in complaint.paths]
        path = next(filter(self._written, paths), paths[0])
        node = yamldoc.place(self.root, path, at_key=complaint.at_key)
        problem = Problem(
            message=complaint.message,
            line=node.line,
            column=node.column,
            key=_USERINFO.sub("...@", yamldoc.label(path)),
            hint=complaint.hint,
        )
        for overridden, source in self._overridden.items():
            beneath = path[: len(overridden)] == overridden
            only_there = node.line is None and overridden[: len(path)] == path
            if beneath or only_there:
                key = yamldoc.label(path[len(overridden) :])
                return source, replace(problem, line=None, column=None, key=key)
        return self._source, problem

    def _as_written(self, path: KeyPath) -> KeyPath:
        """Return the path with an origin as the file spells it."""
        origins = self.root.get("origins")
        if path[0] != "origins" or not path[1:] or not isinstance(origins, Fields):
            return path
        for key, _ in origins.entries:
            with suppress(ValueProblem):
                if read_origin(key.text) == path[1]:
                    return ("origins", key.text, *path[2:])
        return path

    def _written(self, path: KeyPath) -> bool:
        whole = yamldoc.place(self.root, path[:-1])
        return isinstance(whole, Fields) and whole.key(str(path[-1])) is not None


def _without_secrets(text: str, problems: list[Problem]) -> str:
    """Blank the lines that would be shown where somebody may have written a secret itself."""
    lines = text.splitlines()
    for problem in problems:
        if problem.key.startswith(("secrets", "origins", "network.proxy_auth")) and problem.line:
            lines[problem.line - 1] = ""
    return "\n".join(lines)


def _with(fields: Fields, path: KeyPath, value: Node) -> Fields:
    """Return the tree with a value at a path, whatever stood in its way."""
    key = str(path[0])
    if path[1:]:
        inner = fields.get(key)
        value = _with(inner if isinstance(inner, Fields) else Fields(()), path[1:], value)
    kept = (entry for entry in fields.entries if entry[0].text != key)
    entry = (fields.key(key) or Scalar(key), value)
    return Fields((*kept, entry), fields.line, fields.column)


def _long_form(roots: Node | None) -> Node:
    """Return the roots with their paths as keys, so that an override can stand beside these."""
    if roots is None or (isinstance(roots, Scalar) and roots.is_null):
        return _long_form(Fields(((Scalar("default"), Scalar(DEFAULT_ROOT)),)))
    if not isinstance(roots, Fields):
        return roots
    entries = (
        (name, Fields(((Scalar("path"), root),)) if isinstance(root, Scalar) else root)
        for name, root in roots.entries
    )
    return Fields(tuple(entries), roots.line, roots.column)
