"""How a line looks: JSON for machines, columns for people."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

from fetchd.logs.redactor import TRACEBACK

_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31"}


def stamp(wall_s: float) -> str:
    """Return the moment as ISO 8601 in UTC, with milliseconds."""
    # Cut, not rounded: 59.9996 must not become a second 60.
    seconds, ms = divmod(int(wall_s * 1000), 1000)
    return f"{_second(seconds)}.{ms:03}Z"


@functools.lru_cache(4)  # lines are many in a second
def _second(wall_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))


def as_json(line: dict[str, Any]) -> str:
    return json.dumps(
        {
            "timestamp": line.pop("timestamp"),
            "level": line.pop("level"),
            "event": line.pop("event"),
            **line,
        }
    )


class Console:
    """``TIME LEVEL EVENT key=value ...``; a traceback follows, indented."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, line: dict[str, Any]) -> str:
        level = line.pop("level")
        traceback = line.pop(TRACEBACK, None)
        head = f"{line.pop('timestamp')} {level:<7} {line.pop('event'):<20}"
        fields = " ".join(f"{key}={_shown(value)}" for key, value in line.items())
        text = f"{head} {fields}".rstrip()
        if self._colours and level in _COLOURS:
            text = f"\x1b[{_COLOURS[level]}m{text}\x1b[0m"
        if traceback:
            text += "".join(f"\n    {row}" for row in str(traceback).rstrip("\n").split("\n"))
        return text


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, str):
        plain = value and not any(char in value for char in " =\"'")
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
