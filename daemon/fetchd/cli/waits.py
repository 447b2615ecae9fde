"""Why ``get`` waits, told in lines: nobody should have to guess why nothing happens."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator

from fetchd.events import Event, TaskDeferred, TaskRetryScheduled
from fetchd.listeners import LINES
from fetchd.logs import redact_text
from fetchd.units import format_duration
from fetchd.urls import origin_of

_LONG_S = 5.0
_AGAIN_EVERY_S = 60.0


class Waits:
    """Hears of waits on any thread; ``lines`` is asked on one.

    ``logged``: the least level of the log lines that are seen anyway.
    """

    def __init__(self, logged: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._logged = logged
        self._monotonic = monotonic
        self._heard: queue.SimpleQueue[TaskDeferred | TaskRetryScheduled] = queue.SimpleQueue()
        self._told_s: dict[tuple[str, str], float] = {}  # cause and origin -> when it was told

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TaskDeferred | TaskRetryScheduled):
            return
        if event.delay_s >= _LONG_S and LINES[type(event)].level < self._logged:
            self._heard.put(event)

    def lines(self) -> Iterator[str]:
        """Yield a line for each cause that was not told within the last minute."""
        while not self._heard.empty():
            event = self._heard.get()
            if isinstance(event, TaskDeferred):
                cause, about = event.wait, ""
            else:
                cause, about = event.code, origin_of(event.url)
            now_s = self._monotonic()
            if now_s - self._told_s.get((cause, about), float("-inf")) >= _AGAIN_EVERY_S:
                self._told_s[cause, about] = now_s
                yield redact_text(
                    f"waiting ({cause}): {event.path}: {event.reason}; "
                    f"next attempt in {format_duration(event.delay_s)}"
                )
