"""Which tests show which faults, read from the syntax of the tests.

A test shows a fault by the row's id in its own name, its docstring or the id of a parameter; what
a comment says, or another string, proves nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
_ROW = re.compile(r"(?<![a-z0-9])[acdfs]\d\d(?![a-z0-9])")


@dataclass(frozen=True)
class NotShown:
    """Why there is no test for a case."""

    why: str


@dataclass(frozen=True)
class Row:
    """A fault in a few words, and its cases: each with the test that shows it.

    A test is named by its function, or by it and a parameter's id: ``test_x[id]``.
    """

    fault: str
    cases: Mapping[str, str | NotShown]


@dataclass
class Shown:
    """What the functions of one name say of themselves, in whatever files they are."""

    rows: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)


def problems(row: str, cases: Mapping[str, str | NotShown]) -> list[str]:
    """Return what is wrong with the tests that are named for a row's cases."""
    wrong = []
    for case, test in cases.items():
        if isinstance(test, NotShown):
            continue
        function, _, parameter = test.removesuffix("]").partition("[")
        shown = collected().get(function)
        if shown is None:
            wrong.append(f"{case}: no test is called {function}")
        elif row.lower() not in shown.rows:
            wrong.append(f"{case}: {function} does not bear the id {row}")
        elif parameter and parameter not in shown.parameters:
            wrong.append(f"{case}: {function} has no parameter {parameter}")
    return wrong


def rows_of_tests() -> set[str]:
    """Return the ids of all rows that a test bears."""
    return set().union(*(shown.rows for shown in collected().values()))


@cache
def collected() -> dict[str, Shown]:
    """Return all functions that pytest collects and does not skip outright."""
    found: dict[str, Shown] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.stem.startswith("test_catalogue"):
            continue
        module = ast.parse(path.read_text())
        tables = {
            target.id: node.value
            for node in module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
                if any(isinstance(m.func, ast.Attribute) and m.func.attr == "skip" for m in marks):
                    continue
                shown = found.setdefault(node.name, Shown())
                parameters = {text for mark in marks for text in _texts(mark, tables)}
                said = [node.name, ast.get_docstring(node) or "", *parameters]
                shown.parameters |= parameters
                for text in said:
                    shown.rows.update(_ROW.findall(text.lower().replace("_", "-")))
    return found


def _texts(mark: ast.Call, tables: Mapping[str, ast.expr]) -> Iterator[str]:
    """Yield the texts that may be ids of a mark's parameters, those of a table it names too."""
    for node in ast.walk(mark):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name) and node.id in tables:
            for inner in ast.walk(tables[node.id]):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value
        elif isinstance(node, ast.Name):
            yield node.id  # a class is known by its name
