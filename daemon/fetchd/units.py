"""Durations, sizes and rates: one parser and one error text each."""

from __future__ import annotations

import math
import re

from fetchd.errors import ValueProblem

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[kKMGT]B|[KMGT]iB)?")
_BYTES = {
    None: 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_FREQUENCY = re.compile(r"([0-9]{1,6})\s*/\s*(s|m|h)")
_LONGEST_S = 100 * 365 * 86400.0
_LARGEST_BYTES = 2**62


def parse_duration_s(text: str) -> float:
    """Return seconds; raises ValueProblem. A bare number is refused: 30 could be anything."""
    rest, total_s = text.strip(), 0.0
    while match := _DURATION.match(rest):
        total_s += float(match[1]) * _SECONDS[match[2]]
        rest = rest[match.end() :].lstrip()
        if not rest:
            break
    else:
        match = None
    if match is None or rest or not math.isfinite(total_s) or total_s > _LONGEST_S:
        raise ValueProblem(
            f"{text!r} is not a duration; write a number with ms, s, m, h or d: 90s, 5m, 1h 30m"
        )
    return total_s


def parse_size_bytes(text: str) -> int:
    """Return bytes (a bare number is bytes); raises ValueProblem."""
    match = _SIZE.fullmatch(text.strip())
    size_bytes = float(match[1]) * _BYTES[match[2]] if match else math.inf
    if match is None or size_bytes > _LARGEST_BYTES or size_bytes != int(size_bytes):
        raise ValueProblem(
            f"{text!r} is not a size; write a number, alone for bytes, or with "
            "KiB, MiB, GiB, TiB or kB, MB, GB, TB: 500MB, 7GiB"
        )
    return int(match[1]) * _BYTES[match[2]] if match[1].isdigit() else int(size_bytes)


def parse_rate_bytes_per_s(text: str) -> int:
    """Return bytes a second of ``SIZE/s``; raises ValueProblem."""
    size, slash, second = text.strip().partition("/")
    try:
        if not slash or second.strip() != "s":
            raise ValueProblem("")
        return parse_size_bytes(size)
    except ValueProblem:
        raise ValueProblem(f"{text!r} is not a rate; write a size a second: 5MiB/s") from None


def parse_requests_per_s(text: str) -> float:
    """Return requests a second of ``10/s``, ``100/m`` or ``1000/h``; raises ValueProblem."""
    match = _FREQUENCY.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ValueProblem(
            f"{text!r} is not a number of requests; write a whole number a second, minute or "
            "hour: 10/s, 100/m, 1000/h"
        )
    return int(match[1]) / _SECONDS[match[2]]


def format_size(size_bytes: float) -> str:
    """Return a size for people: ``1.5 GiB``, ``12 B``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``850 ms``, ``12.3 s``, ``5 m 10 s``, ``3 h 2 m``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m"
