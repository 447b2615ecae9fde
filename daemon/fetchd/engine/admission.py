"""Which file systems are full, so that thousands of tasks do not ask each for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from fetchd.engine.queue import Entry
from fetchd.model import Deferred, Fetched, Outcome

#: So many attempts in a row found no room: nothing more is started there for a while.
MOST_IN_VAIN = 8
#: Of those that waited, one in so many may ask in vain the next time, so that each has its turn.
TURNS = 50


@dataclass(slots=True)
class _FileSystem:
    """``until_s``: monotonic, None while it is not held to be full."""

    in_vain: int = 0
    since_s: float = 0.0
    until_s: float | None = None
    parked: list[Entry] = field(default_factory=list)
    waited: int = 0  # how many were let go the last time


class Admission:
    """Parks the queue's entries whose file system is full. The engine's lock guards it.

    After its time everything is let go again, those that have waited longest first: the first few
    attempts find out whether there is room. A file system is named by its root and its home, as
    the outcomes say; one that no outcome named yet is taken for the one it is mounted in.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, _FileSystem]] = {}  # root -> home
        self._full = 0  # how many of them are held to be full

    def note(self, root: str, outcome: Outcome, now_s: float) -> bool:
        """Take in how an attempt in a root ended; True when its file system is parked from now on.

        Attempts that were under way when it was parked, and end later, tell nothing new.
        """
        if isinstance(outcome, Fetched):
            self._at(root, outcome.home).in_vain = 0
        if not isinstance(outcome, Deferred) or outcome.reason != "disk":
            return False
        found = self._at(root, outcome.home)
        if found.until_s is not None:
            return False
        if now_s - found.since_s > outcome.delay_s:
            found.in_vain, found.since_s = 0, now_s
        found.in_vain += 1
        if found.in_vain < max(MOST_IN_VAIN, found.waited // TURNS):
            return False
        found.in_vain = 0
        found.until_s = now_s + outcome.delay_s
        self._full += 1
        return True

    def park(self, root: str, entry: Entry, now_s: float) -> float | None:
        """Keep the entry if there is no room for it; returns for how many seconds, None: go on."""
        if not self._full:
            return None
        path = entry.ready.task.spec.path
        known = self._known.get(root, {})
        homes = [home for home in known if not home or path.startswith(f"{home}/")]
        found = known[max(homes, key=len)] if homes else None
        if found is None or found.until_s is None:
            return None
        found.parked.append(entry)
        return max(0.0, found.until_s - now_s)

    def let_go(self, now_s: float) -> list[Entry]:
        """Return the entries whose time is up."""
        free: list[Entry] = []
        for found in self._file_systems():
            if found.until_s is not None and now_s >= found.until_s:
                free += found.parked
                found.waited = len(found.parked)
                found.parked, found.until_s = [], None
                self._full -= 1
        return free

    def forget(self, run: int) -> None:
        """The run's entries are worth nothing any more."""
        for found in self._file_systems():
            found.parked = [entry for entry in found.parked if entry.run != run]

    def _at(self, root: str, home: str) -> _FileSystem:
        known = self._known.setdefault(root, {})
        if home not in known:
            known[home] = _FileSystem()
        return known[home]

    def _file_systems(self) -> list[_FileSystem]:
        return [found for known in self._known.values() for found in known.values()]
