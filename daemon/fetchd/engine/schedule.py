"""When a job is due: pure arithmetic on moments of the wall clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from fetchd.clock import zone_of
from fetchd.errors import ValueProblem
from fetchd.model import CatchUp, Schedule

#: A moment that is later than this was missed.
LATE_S = 60.0
#: So many of the moments that were missed are caught up with, the newest.
MOST_CAUGHT_UP = 1000
#: A wall clock that was set back by no more repeats nothing: people mean the same hour once more.
SAME_HOURS_S = 3 * 3600.0

_DAY_S = 86400.0
#: How far back the newest moments are looked for, one after the other: with any schedule the first
#: of these that is long enough has not many too many.
_SPANS_S = (3600.0, _DAY_S, 32 * _DAY_S, 367 * _DAY_S, 3660 * _DAY_S)


class Verdict(NamedTuple):
    """``run_s``: the moment for which a run is due now, None: none is.

    ``last_s``: the last moment that is dealt with, but for that run. ``look_s``: when to ask again.
    """

    run_s: float | None
    last_s: float
    look_s: float


def check_cron(text: str) -> None:
    """Raise ValueProblem unless the text is five fields that name a moment to come."""
    fields = len(text.split())
    if fields != 5:
        raise ValueProblem(
            f"{text[:60]!r} has {fields} fields, not five: minute, hour, day of the month, month, "
            'day of the week, as in "15 3 * * *"'
        )
    try:
        next(CronSim(text, datetime(2000, 1, 1)))  # noqa: DTZ001 -- the same in every zone
    except CronSimError as exc:
        raise ValueProblem(f"{text[:60]!r} is no schedule: {exc}") from None
    except StopIteration:
        raise ValueProblem(f"{text[:60]!r} is no schedule: that day never comes") from None


def first_last_s(schedule: Schedule, now_s: float) -> float:
    """Return what counts as the last moment of a schedule that begins now.

    Intervals begin with a run at once.
    """
    return now_s - schedule.every_s if schedule.every_s is not None else now_s


def moments(schedule: Schedule, zone: str | None, after_s: float) -> Iterator[float]:
    """Yield the moments after one, in their order; of an interval it is the last one.

    A time of day that summer time leaves out comes at the end of the gap, one that comes twice
    the first time only; with a ``*`` for the hour or minute, time goes on evenly.
    """
    if schedule.every_s is not None:
        count = 0
        while True:
            count += 1
            yield after_s + count * schedule.every_s
    last_s = after_s
    for local in CronSim(schedule.cron, datetime.fromtimestamp(after_s, zone_of(zone))):
        moment_s = local.timestamp()
        if moment_s > last_s:  # all times of a gap are the same one, those of a fold are over
            last_s = moment_s
            yield moment_s


def newest(
    schedule: Schedule, zone: str | None, after_s: float, until_s: float, most: int
) -> list[float]:
    """Return the newest moments behind ``after_s``, up to and with ``until_s``."""
    if schedule.every_s is not None:
        count = max(0, int((until_s - after_s) // schedule.every_s))
        first = max(1, count - most + 1)
        return [after_s + number * schedule.every_s for number in range(first, count + 1)]
    found: deque[float] = deque(maxlen=most)
    for span_s in (*_SPANS_S, until_s - after_s):
        begin_s = max(after_s, until_s - span_s)
        found.clear()
        found.extend(takewhile(lambda at_s: at_s <= until_s, moments(schedule, zone, begin_s)))
        if len(found) == most or begin_s == after_s:
            break
    return list(found)


def of_days(
    schedule: Schedule, zone: str | None, first: str, last: str, until_s: float
) -> list[float]:
    """Return the moments of days as 2026-11-27, in their order, up to ``until_s``.

    Raises ValueProblem.
    """
    if not schedule.cron:
        raise ValueProblem("the job runs every so often, not at times; only those belong to a date")
    begin, end = _day(first), _day(last)
    if end < begin:
        raise ValueProblem(f"{last} is before {first}; write the earlier date first")
    where = zone_of(zone)
    after_s = datetime.combine(begin, time(), where).timestamp() - 1.0
    before_s = datetime.combine(end + timedelta(days=1), time(), where).timestamp() - 1.0
    found = newest(schedule, zone, after_s, min(before_s, until_s), MOST_CAUGHT_UP + 1)
    if len(found) > MOST_CAUGHT_UP:
        raise ValueProblem(f"these are more than {MOST_CAUGHT_UP} runs; name fewer days")
    if not found:
        raise ValueProblem(f"the job was due at no time from {first} to {last} that is over")
    return found


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 -- a date has no zone
    except ValueError:
        raise ValueProblem(f"{text[:40]!r} is no date; write one as 2026-11-27") from None


def decide(
    schedule: Schedule,
    zone: str | None,
    *,
    last_s: float,
    now_s: float,
    delay_s: float,
    counted: bool = False,
) -> Verdict:
    """Decide what is due. ``last_s``: the last moment that is dealt with; ``delay_s``: jitter.

    ``counted``: those behind it that are over are known not to be too many to catch up with.
    """
    following_s = next(moments(schedule, zone, last_s))
    if last_s - now_s > min(SAME_HOURS_S, following_s - last_s):  # the clock was set back
        last_s, following_s = now_s, next(moments(schedule, zone, now_s))
    until_s = now_s - delay_s
    if following_s > until_s:
        return Verdict(None, last_s, following_s + delay_s)
    if schedule.catch_up is CatchUp.ALL and counted:
        return Verdict(following_s, last_s, now_s)
    most = MOST_CAUGHT_UP if schedule.catch_up is CatchUp.ALL else 1
    run_s = newest(schedule, zone, last_s, until_s, most)[0]
    if schedule.catch_up is CatchUp.NONE and until_s - run_s > LATE_S:
        return Verdict(None, run_s, next(moments(schedule, zone, run_s)) + delay_s)
    return Verdict(run_s, last_s, now_s)
