"""``${name}`` in texts: found, checked and replaced; ``$${`` stands for a literal ``${``.

``${name±duration:format}`` reckons with a date: ``${run.date-1d:%Y%m%d}``. A condition is
``${name}``, ``not ${name}``, ``A == B`` or ``A != B``, where A and B are such texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from fetchd.dates import check_format, reckon
from fetchd.errors import ValueProblem
from fetchd.units import parse_duration_s

#: No text grows longer than this by its variables, however they are nested.
LONGEST_TEXT = 64 * 1024

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^${}]*)\}|\$\{")
_ADDED = "[0-9]{1,6}[smhd]"
#: A name, perhaps with what is to be added to its date, and how that is to be written.
_MEANT = re.compile(
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*?)"
    rf"(?:\s*(?P<sign>[+-])\s*(?P<duration>{_ADDED}(?:\s*{_ADDED})*))?"
    r"(?::(?P<format>.+))?",
    re.DOTALL,
)
_SIDE = r"(?:\$\{[^${}]*\}|(?!==|!=)[^${])+?"  # no comparison within a reference is one
_CONDITION = re.compile(
    r"\s*(?:(?P<not>not\s+)?(?P<name>\$\{[^${}]*\})"
    rf"|(?!not\s)(?P<left>{_SIDE})(?P<operator>==|!=)(?P<right>{_SIDE}))\s*"
)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_FALSE = {"", "false", "no", "0"}
_DAYS = re.compile("([0-9]+)d")
_MOST_SHOWN = 12
_LONGEST_SHOWN = 100
_MOST_COMPARED = 300  # comparing texts is slow, and a job file may define thousands


class Reference(NamedTuple):
    """What one ``${...}`` says. ``format`` None: as the value is written."""

    name: str
    days: int = 0
    seconds: float = 0.0
    format: str | None = None


def render(text: str, lookup: Callable[[str], str]) -> str:
    """Return the text with each ``${name}`` replaced by ``lookup(name)``.

    Raises ValueProblem for a malformed reference and for a text that grows too long; what
    ``lookup`` raises for a name that it does not know (see ``unknown``) passes through.
    """
    if "${" not in text:
        return text
    pieces, end, length = [], 0, 0
    for match in _REFERENCE.finditer(text):
        said = _read(match[0])
        value = "${" if said is None else _value(said, lookup)
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
    found = [(_read(match[0]), match.start()) for match in _REFERENCE.finditer(text)]
    return [(said.name, offset) for said, offset in found if said is not None]


def is_met(condition: str, lookup: Callable[[str], str]) -> bool:
    """Tell whether a condition holds; raises ValueProblem for what is none, as ``render`` does."""
    match = _CONDITION.fullmatch(condition)
    if match is None or "${" not in condition:
        raise ValueProblem(
            f"{condition[:100]!r} is no condition; write ${{name}}, not ${{name}}, "
            "${name} == text or ${name} != text"
        )
    if match["name"] is not None:
        said = render(match["name"], lookup).strip() not in _FALSE
        return said is not bool(match["not"])
    same = _side(match["left"], lookup) == _side(match["right"], lookup)
    return same is (match["operator"] == "==")


def is_plain_name(text: str) -> bool:
    """Tell whether ``${text}`` means the name and not a reckoning, as ``x-1d`` would."""
    match = _MEANT.fullmatch(text)
    return match is not None and match["name"] == text


def unknown(name: str, known: Iterable[str]) -> ValueProblem:
    """Return the error for a name that ``known`` does not have."""
    names = list(islice(known, _MOST_COMPARED))
    name = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
    near = get_close_matches(name, names, 1)
    if near:
        return ValueProblem(f"unknown variable ${{{name}}} (did you mean ${{{near[0]}}}?)")
    shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
    return ValueProblem(f"unknown variable ${{{name}}}; known here: {shown or 'none'}")


def _side(text: str, lookup: Callable[[str], str]) -> str:
    """Return what one side of a comparison means: blanks at its ends are said by quotes."""
    text = text.strip()
    quoted = _QUOTED.fullmatch(text)
    return render(text if quoted is None else text[1:-1], lookup)


def _value(said: Reference, lookup: Callable[[str], str]) -> str:
    value = lookup(said.name)
    if said.format is None and not said.days and not said.seconds:
        return value
    try:
        return reckon(value, days=said.days, seconds=said.seconds, form=said.format)
    except ValueProblem as exc:
        raise ValueProblem(f"${{{said.name}}} {exc}") from None


@lru_cache(maxsize=1024)  # a list's texts are those of its template
def _read(text: str) -> Reference | None:
    """Return what a ``${...}`` says, None for a literal ``${``."""
    if text == "$${":
        return None
    if text == "${":
        raise ValueProblem("'${' is not closed; write ${name}, or $${ for a literal ${")
    match = _MEANT.fullmatch(text[2:-1])
    if match is None:
        raise ValueProblem(
            f"{text!r} names no variable; write ${{name}} with letters, digits, '_', '-' "
            "and '.', ${name-1d:%Y%m%d} for another date, or $${ for a literal ${"
        )
    if match["format"] is not None:
        check_format(match["format"])
    if match["duration"] is None:
        return Reference(match["name"], format=match["format"])
    sign = -1 if match["sign"] == "-" else 1
    # A day is one of the calendar, whose length summer time may change.
    days = sum(int(count) for count in _DAYS.findall(match["duration"]))
    rest = _DAYS.sub("", match["duration"]).strip()
    seconds = parse_duration_s(rest) if rest else 0.0
    return Reference(match["name"], sign * days, sign * seconds, match["format"])
