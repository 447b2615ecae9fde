"""Dates as HTTP writes them, and as job files reckon with them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Self

from fetchd.clock import local_date
from fetchd.errors import ValueProblem

_LONGEST = 64
_DATE = "%Y-%m-%d"
#: A format's directives, those that mean the same on every machine.
_DIRECTIVES = "YymdHMSjGVuBbAa%"
_PLAIN_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIRECTIVE = re.compile("%(.?)", re.DOTALL)


@lru_cache(maxsize=1024)  # all answers of one second have one date
def http_date_s(text: str | None) -> float | None:
    """Return the moment that an HTTP date names (RFC 9110 §5.6.7), wall clock.

    None for no date, and for what is none in any of the forms that servers send.
    """
    if text is None or len(text) > _LONGEST or not text.isascii():
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


class Moment(str):
    """A moment that as text is its date; ``zone``: that of the date, None: the machine's."""

    __slots__ = ("at", "zone")

    at: datetime
    zone: str | None

    def __new__(cls, wall_s: float, zone: str | None) -> Self:
        at = local_date(wall_s, zone)
        moment = super().__new__(cls, at.strftime(_DATE))
        moment.at, moment.zone = at, zone
        return moment


def check_format(form: str) -> None:
    """Raise ValueProblem unless every directive of the format of a date is a known one."""
    for found in _DIRECTIVE.findall(form):
        if not found or found not in _DIRECTIVES:
            known = " ".join(f"%{one}" for one in _DIRECTIVES)
            raise ValueProblem(f"{'%' + found!r} is nothing of a date; known: {known}")


def reckon(text: str, *, days: int, seconds: float, form: str | None) -> str:
    """Return a date so much later, in a format that was checked; None: as 2026-11-23.

    Days are those of the calendar, seconds those of the clock. Raises ValueProblem for a text
    that is no date, and for a date that no calendar has.
    """
    at, zone = (text.at, text.zone) if isinstance(text, Moment) else (_date(text), None)
    try:
        at += timedelta(days=days)
        if at.tzinfo is not None and zone is None:
            at = at.replace(tzinfo=None).astimezone()  # that day may have another offset
        if seconds:
            at = _later(at, zone, seconds)
    except (ValueError, OverflowError, OSError):
        raise ValueProblem("lies outside the calendar then") from None
    return _DIRECTIVE.sub(lambda found: _written(at, found[0]), form or _DATE)


def _date(text: str) -> datetime:
    try:
        if _PLAIN_DATE.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:  # the 30th of February
        pass
    raise ValueProblem(f"is {text[:60]!r}, which is no date such as 2026-11-23")


def _later(at: datetime, zone: str | None, seconds: float) -> datetime:
    if at.tzinfo is None:
        return at + timedelta(seconds=seconds)
    return local_date(at.timestamp() + seconds, zone)


def _written(at: datetime, directive: str) -> str:
    return f"{at.year:04}" if directive == "%Y" else at.strftime(directive)
