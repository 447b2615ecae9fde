"""Counts files that a scan found and no event had announced: how far a watch can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fetchd.clock import Clock
from fetchd.events import Tell, WatchMissed

#: An event may come later than the scan that found its file: thousands are read one by one.
GRACE_S = 10.0


class MissedEvents:
    """Compares names that were announced with names that were found. Folder thread only."""

    def __init__(self, folder: str, tell: Tell, clock: Clock) -> None:
        self._folder = folder
        self._tell = tell
        self._clock = clock
        self._announced: set[str] = set()  # since the last scan
        self._suspects: dict[str, float] = {}  # name -> when it was found, monotonic

    def announced(self, names: Iterable[str]) -> None:
        """Hear of events. To be called before each look, with all that came since the last."""
        for name in names:
            self._announced.add(name)
            self._suspects.pop(name, None)

    def found(self, names: Iterable[str] | None) -> None:
        """Hear which new names a look found; None: it did not scan."""
        now_s = self._clock.monotonic()
        if names is not None:
            self._suspects.update((name, now_s) for name in names if name not in self._announced)
            self._announced.clear()
        missed = [name for name, at_s in self._suspects.items() if now_s - at_s >= GRACE_S]
        if missed:
            for name in missed:
                del self._suspects[name]
            self._tell(WatchMissed(folder=self._folder, count=len(missed)))

    def forget(self) -> None:
        """The watch is new, or there is none: of what stands there now nothing was announced."""
        self._announced.clear()
        self._suspects.clear()

    def due_s(self) -> float:
        """Return when the next suspect is to be judged, monotonic; infinity: there is none."""
        return min(self._suspects.values(), default=math.inf) + GRACE_S
