"""Bytes a second, always or by the time of the day: what ``rate`` means wherever it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fetchd.clock import local_date
from fetchd.errors import ValueProblem
from fetchd.units import format_size, parse_rate_bytes_per_s
from fetchd.values import dataclass

#: With less, no transfer would end in anybody's lifetime.
LEAST_BYTES_PER_S = 1024

_DAY_MIN = 24 * 60
_TIME = r"([01]?[0-9]|2[0-4]):([0-5][0-9])"
SPAN = re.compile(rf"\s*{_TIME}\s*-\s*{_TIME}\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Every day from ``begin_min`` up to ``end_min``, minutes of the local day; past midnight too.

    The end is that of the day (1440), or another minute than the beginning.
    """

    begin_min: int
    end_min: int
    bytes_per_s: int

    def __contains__(self, minute: int) -> bool:
        if self.begin_min < self.end_min:
            return self.begin_min <= minute < self.end_min
        return minute >= self.begin_min or minute < self.end_min

    def __str__(self) -> str:
        return f"{_clock(self.begin_min)}-{_clock(self.end_min)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """``always``, or what the span says that the time of the day is in; in none: no limit.

    ``zone``: in which the spans are meant, None: the machine's own.
    """

    always: int | None = None
    spans: tuple[Span, ...] = ()
    zone: str | None = None

    def at(self, wall_s: float) -> int | None:
        """Return the bytes a second at a moment of the wall clock, None: as many as come.

        The clock on the wall decides: an hour that summer time leaves out is in no span that day,
        one that comes twice is in its span twice.
        """
        if not self.spans:
            return self.always
        local = local_date(wall_s, self.zone)
        minute = local.hour * 60 + local.minute
        return next((span.bytes_per_s for span in self.spans if minute in span), None)


def parse_rate(value: object) -> Rate:
    """Return the rate that is written as ``5MiB/s``, or as a mapping of spans to such.

    Raises ValueProblem.
    """
    if isinstance(value, str):
        return Rate(always=_bytes_per_s(value))
    if not isinstance(value, Mapping) or not value:
        raise ValueProblem(
            "a rate is a size a second: 5MiB/s, or such by the time of the day: "
            '{ "08:00-18:00": 5MiB/s }'
        )
    spans: list[Span] = []
    for text, rate in value.items():
        span = _span(str(text), rate)
        for other in spans:
            if any(minute in other for minute in range(_DAY_MIN) if minute in span):
                raise ValueProblem(f"{span} and {other} overlap; each time has one rate")
        spans.append(span)
    return Rate(spans=tuple(spans))


def rate_schema() -> dict[str, Any]:
    """Return what an editor is told of a rate."""
    once = {"type": "string", "pattern": r"^\s*[0-9.]+\s*(B|[kKMGT]B|[KMGT]iB)?\s*/\s*s\s*$"}
    spans = {
        "type": "object",
        "propertyNames": {"pattern": f"^{SPAN.pattern}$"},
        "additionalProperties": once,
        "minProperties": 1,
    }
    return {"anyOf": [once, spans]}


def format_rate(bytes_per_s: int) -> str:
    """Return a rate for people: ``5.0 MiB/s``."""
    return f"{format_size(bytes_per_s)}/s"


def _bytes_per_s(text: str) -> int:
    bytes_per_s = parse_rate_bytes_per_s(text)
    if bytes_per_s < LEAST_BYTES_PER_S:
        raise ValueProblem(
            f"{text!r} is too little to get on with; at least "
            f"{LEAST_BYTES_PER_S // 1024}KiB/s, or leave it out for no limit"
        )
    return bytes_per_s


def _span(text: str, rate: object) -> Span:
    match = SPAN.fullmatch(text)
    times = [int(part) for part in match.groups()] if match else []
    begin_min, end_min = (times[0] * 60 + times[1], times[2] * 60 + times[3]) if times else (0, 0)
    if begin_min == end_min or begin_min >= _DAY_MIN or end_min > _DAY_MIN:
        raise ValueProblem(
            f"{text[:60]!r} is not a span of the day; write 08:00-18:00, past midnight "
            "22:00-06:00, for all day 00:00-24:00"
        )
    if not isinstance(rate, str):
        raise ValueProblem(f"{text.strip()} needs a size a second: 5MiB/s")
    try:
        return Span(begin_min=begin_min, end_min=end_min, bytes_per_s=_bytes_per_s(rate))
    except ValueProblem as exc:
        raise ValueProblem(f"{text.strip()}: {exc}") from None


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
