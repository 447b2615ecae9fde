"""Which download roots are full, so that thousands of tasks do not ask each for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from fetchd.engine.queue import Entry
from fetchd.model import Deferred, Fetched, Outcome

#: So many attempts in a row found no room in a root: nothing more is started there for a while.
MOST_IN_VAIN = 8


@dataclass(slots=True)
class _Root:
    """``until_s``, ``since_s``: monotonic."""

    in_vain: int = 0
    since_s: float = 0.0
    until_s: float = 0.0
    parked: list[Entry] = field(default_factory=list)


class Admission:
    """Parks the queue's entries of a root that is full. The engine's lock guards it.

    After its time everything is let go again: the first few attempts find out, before they ask
    any origin, whether there is room.
    """

    def __init__(self) -> None:
        self._roots: dict[str, _Root] = {}

    def note(self, name: str, outcome: Outcome, now_s: float) -> bool:
        """Take in how an attempt in a root ended; True when the root is parked from now on."""
        root = self._roots.setdefault(name, _Root())
        if isinstance(outcome, Fetched):
            root.in_vain = 0
        if not isinstance(outcome, Deferred) or outcome.reason != "disk":
            return False
        if now_s - root.since_s > outcome.delay_s:
            root.in_vain, root.since_s = 0, now_s
        root.in_vain += 1
        if root.in_vain < MOST_IN_VAIN or now_s < root.until_s:
            return False
        root.in_vain = 0
        root.until_s = now_s + outcome.delay_s
        return True

    def park(self, name: str, entry: Entry, now_s: float) -> float | None:
        """Keep the entry if its root is full; returns for how many seconds, None: it may start."""
        root = self._roots.get(name)
        if root is None or now_s >= root.until_s:
            return None
        root.parked.append(entry)
        return root.until_s - now_s

    def let_go(self, now_s: float) -> list[Entry]:
        """Return the entries whose time is up."""
        free: list[Entry] = []
        for root in self._roots.values():
            if root.parked and now_s >= root.until_s:
                free += root.parked
                root.parked = []
        return free

    def forget(self, run: int) -> None:
        """The run's entries are worth nothing any more."""
        for root in self._roots.values():
            root.parked = [entry for entry in root.parked if entry.run != run]
