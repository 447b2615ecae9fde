"""When a job may work: spans of every day, and whole days. Pure arithmetic, as schedule.py."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from fetchd.clock import zone_of
from fetchd.model import Window

#: Every window opens within a week, and a day more where summer time takes an hour of it.
_LONGEST_DAYS = 9
_MINUTE_S = 60


def is_open(window: Window, zone: str | None, wall_s: float) -> bool:
    """Return whether a moment is in the window, as the clock on the wall has it.

    An hour that summer time leaves out is in no span that day, one that comes twice is in its span
    twice.
    """
    return _has(window, datetime.fromtimestamp(wall_s, zone_of(zone)))


def opens_s(window: Window, zone: str | None, wall_s: float) -> float:
    """Return the first moment after this one that is in the window, this one being outside."""
    where = zone_of(zone)
    local = datetime.fromtimestamp(wall_s, where)
    for number in range(_LONGEST_DAYS):
        for moment in _candidates(window, local.date() + timedelta(days=number), where):
            if moment.timestamp() > wall_s and _has(window, moment):
                return moment.timestamp()
    return wall_s + _LONGEST_DAYS * 86400.0  # an earlier look finds more


def _has(window: Window, local: datetime) -> bool:
    if local.weekday() in window.days:
        return True
    minute = local.hour * 60 + local.minute
    return any(
        begin <= minute < end if begin < end else (minute >= begin or minute < end)
        for begin, end in window.spans
    )


def _candidates(window: Window, day: date, where: tzinfo) -> Iterator[datetime]:
    """Yield, in order, moments of a day of which the first in the window is where it opens."""
    midnight = datetime.combine(day, time(), where)
    following = midnight + timedelta(days=1)  # of the wall clock
    if midnight.utcoffset() == following.utcoffset():
        minutes = sorted({0, *(begin for begin, _ in window.spans)})
        yield from (midnight + timedelta(minutes=minute) for minute in minutes)
        return
    # A day with a gap or a fold is looked at minute by minute.
    moment_s = midnight.timestamp()
    while moment_s < following.timestamp():
        yield datetime.fromtimestamp(moment_s, UTC).astimezone(where)
        moment_s += _MINUTE_S
