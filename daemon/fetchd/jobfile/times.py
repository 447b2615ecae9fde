"""When a job runs, as people write it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fetchd.engine.schedule import check_cron
from fetchd.errors import ValueProblem
from fetchd.model import CatchUp, Window
from fetchd.rates import SPAN

#: Nobody means less, and each run is a record in the database.
LEAST_INTERVAL_S = 1.0

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY_MIN = 24 * 60
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_HALF = frozenset({"daily", "every"})
_WORDS = re.compile(r"(daily|every)\s+(.*)", re.DOTALL)


def spelled_out(value: object) -> object:
    """Return the mapping that the short form of ``schedule`` stands for."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    match = _WORDS.fullmatch(text)
    if match is None and len(text.split()) < 2 and text not in _HALF:
        raise ValueProblem(
            f"{text[:60]!r} is no schedule; write daily 03:15, every 6h, or five fields of cron: "
            '"15 3 * * *"'
        )
    return {match[1]: match[2]} if match else {"cron": value}


def cron(text: str) -> str:
    """Return five fields of cron; raises ValueProblem."""
    if text.strip() in _HALF:
        raise ValueProblem(f"{text!r} is half a schedule; write daily 03:15, or every 6h")
    check_cron(text)
    return " ".join(text.split())


def daily(text: str) -> str:
    """Return a time of the day as fields of cron; raises ValueProblem."""
    match = _TIME_OF_DAY.fullmatch(text.strip())
    if match is None:
        raise ValueProblem(f"{text[:60]!r} is no time of the day; write hours and minutes: 03:15")
    return f"{int(match[2])} {int(match[1])} * * *"


def window_part(text: str) -> Window:
    """Return one line of ``window``: a span of every day, or a day; raises ValueProblem."""
    if (day := text.strip().lower()) in DAYS:
        return Window(days=(DAYS.index(day),))
    match = SPAN.fullmatch(text)
    times = [int(part) for part in match.groups()] if match else []
    begin_min, end_min = (times[0] * 60 + times[1], times[2] * 60 + times[3]) if times else (0, 0)
    if begin_min == end_min or begin_min >= _DAY_MIN or end_min > _DAY_MIN:
        raise ValueProblem(
            f"{text[:60]!r} is no part of a window; write a span of every day: 22:00-06:00, "
            "or a day: Mon, Tue, Wed, Thu, Fri, Sat, Sun"
        )
    return Window(spans=((begin_min, end_min),))


def window_of(parts: Sequence[Window]) -> Window | None:
    """Return the window that is open where any part is; None: there are none, so always."""
    if not parts:
        return None
    return Window(
        spans=tuple(span for part in parts for span in part.spans),
        days=tuple(sorted({day for part in parts for day in part.days})),
    )


def window_schema() -> dict[str, Any]:
    """Return what an editor is told of ``window``."""
    days = "|".join(f"{day.capitalize()}|{day}" for day in DAYS)
    part = {"type": "string", "pattern": f"^({SPAN.pattern}|\\s*({days})\\s*)$"}
    return {"anyOf": [part, {"type": "array", "items": part}]}


def schedule_schema(duration: str) -> dict[str, Any]:
    """Return what an editor is told of ``schedule``; ``duration``: the pattern of one."""
    keys: Mapping[str, Any] = {
        "cron": {"type": "string"},
        "daily": {"type": "string", "pattern": f"^\\s*{_TIME_OF_DAY.pattern}\\s*$"},
        "every": {"type": "string", "pattern": duration},
        "jitter": {"type": "string", "pattern": duration},
        "catch_up": {"type": "string", "enum": [member.value for member in CatchUp]},
    }
    mapping = {"type": "object", "properties": keys, "additionalProperties": False}
    return {"anyOf": [{"type": "string"}, mapping]}
