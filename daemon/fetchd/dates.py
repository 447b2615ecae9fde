"""Dates as HTTP writes them."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

_LONGEST = 64


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
