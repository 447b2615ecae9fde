"""``${name}`` in texts: found, checked and replaced; ``$${`` stands for a literal ``${``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from itertools import islice

from fetchd.errors import ValueProblem

#: No text grows longer than this by its variables, however they are nested.
LONGEST_TEXT = 64 * 1024

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^${}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ARITHMETIC = re.compile(r"[A-Za-z0-9_.-]+(\s*[+-]\s*\d+\s*(ms|s|m|h|d)\s*)?(:.*)?", re.DOTALL)
_MOST_SHOWN = 12
_LONGEST_SHOWN = 100
_MOST_COMPARED = 300  # comparing texts is slow, and a job file may define thousands


def render(text: str, lookup: Callable[[str], str]) -> str:
    """Return the text with each ``${name}`` replaced by ``lookup(name)``.

    Raises ValueProblem for a malformed reference and for a text that grows too long; what
    ``lookup`` raises for a name that it does not know (see ``unknown``) passes through.
    """
    if "${" not in text:
        return text
    pieces, end, length = [], 0, 0
    for match in _REFERENCE.finditer(text):
        name = _name_in(match)
        value = "${" if name is None else lookup(name)
        pieces += [text[end : match.start()], value]
        length += match.start() - end + len(value)
        if length > LONGEST_TEXT:
            raise ValueProblem(
                f"longer than {LONGEST_TEXT} characters once its ${{...}} are put in"
            )
        end = match.end()
    return "".join([*pieces, text[end:]])


def references(text: str) -> list[tuple[str, int]]:
    """Return the names that the text refers to, each with its offset; raises ValueProblem."""
    if "${" not in text:
        return []
    found = [(_name_in(match), match.start()) for match in _REFERENCE.finditer(text)]
    return [(name, offset) for name, offset in found if name is not None]


def unknown(name: str, known: Iterable[str]) -> ValueProblem:
    """Return the error for a name that ``known`` does not have."""
    names = list(islice(known, _MOST_COMPARED))
    name = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
    if "-" in name and name.rpartition("-")[0] in names and _ARITHMETIC.fullmatch(name):
        return _not_built(name)
    near = get_close_matches(name, names, 1)
    if near:
        return ValueProblem(f"unknown variable ${{{name}}} (did you mean ${{{near[0]}}}?)")
    shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
    return ValueProblem(f"unknown variable ${{{name}}}; known here: {shown or 'none'}")


def _name_in(match: re.Match[str]) -> str | None:
    """Return the name of one reference, None for a literal ``${``."""
    if match[0] == "$${":
        return None
    name = match["name"]
    if name is None:
        raise ValueProblem("'${' is not closed; write ${name}, or $${ for a literal ${")
    if not _NAME.fullmatch(name):
        if name and _ARITHMETIC.fullmatch(name):
            raise _not_built(name)
        raise ValueProblem(
            f"'${{{name}}}' names no variable; write ${{name}} with letters, digits, '_', '-' "
            "and '.', or $${ for a literal ${"
        )
    return name


def _not_built(name: str) -> ValueProblem:
    return ValueProblem(f"'${{{name}}}': arithmetic and formats of dates are not built yet")
