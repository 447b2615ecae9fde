"""How long an answer asks to be left alone because a quota is used up.

Read are ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers) in its two forms, and the older
``RateLimit-Remaining`` and ``-Reset``, with or without ``X-``. All else says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fetchd.dates import http_date_s

_PARAMETER = re.compile(r"(?:^|[;,])\s*(r|t|remaining|reset)\s*=\s*([0-9]{1,12})\s*(?=[;,]|$)")
_NUMBER = re.compile(r"[0-9]{1,12}")
#: From here on a number of seconds is a moment (Unix), not a while.
_A_MOMENT_S = 1_000_000_000.0
#: The headers that say what is left of a quota.
QUOTAS = ("ratelimit", "ratelimit-remaining", "x-ratelimit-remaining")
_SPLIT = ("ratelimit-remaining", "ratelimit-reset"), ("x-ratelimit-remaining", "x-ratelimit-reset")


def used_up_s(fields: Mapping[str, Sequence[str]], date: str | None, now_s: float) -> float | None:
    """Return the seconds until a quota with nothing left is filled again, None: there is none.

    A moment counts from the answer's own ``date``, else from ``now_s`` (wall clock).
    """
    waits_s = [_wait_s(policy) for value in fields.get("ratelimit", ()) for policy in _of(value)]
    for remaining, reset in _SPLIT:
        left, until = fields.get(remaining, ()), fields.get(reset, ())
        if len(left) == len(until) == 1 and left[0] == "0" and _NUMBER.fullmatch(until[0]):
            waits_s.append(_while_s(float(until[0]), date, now_s))
    return max((wait_s for wait_s in waits_s if wait_s), default=None)


def _of(value: str) -> list[str]:
    """Return the policies of a RateLimit: each begins with its name, the older form has one."""
    return [policy for policy in re.split(r',\s*(?=")', value) if policy]


def _wait_s(policy: str) -> float | None:
    found = dict(_PARAMETER.findall(policy))
    remaining = found.get("r", found.get("remaining"))
    reset = found.get("t", found.get("reset"))
    return float(reset) if remaining == "0" and reset is not None else None


def _while_s(reset_s: float, date: str | None, now_s: float) -> float:
    if reset_s < _A_MOMENT_S:
        return reset_s
    sent_s = http_date_s(date)
    return max(0.0, reset_s - (now_s if sent_s is None else sent_s))
