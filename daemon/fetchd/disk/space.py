"""How much of each file system the parts under way still need, so that together they fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fetchd.clock import Clock
from fetchd.threads import ANOTHER


@dataclass(slots=True, eq=False)
class Claim:
    """What one part is going to write yet; ``device``: the number of its file system.

    Written by the part's thread, read by others.
    """

    device: int
    missing_bytes: int = 0


#: What was free a moment ago is believed so long, if it leaves so much: no disk fills faster.
_BELIEVED_S = 0.1
_AMPLE_BYTES = 1024**3
#: So little is not counted where there is so much.
_LITTLE_BYTES = 64 * 1024
_NOTHING = (0, 0, 0.0)


class Space:
    """The claims of all parts, in the order in which they were made. Any thread.

    The order decides who goes on where space is lost to others: the earlier ones, which were
    promised it, and not all of them until none can end.
    """

    def __init__(
        self, reserve_bytes: int, clock: Clock, relieve: Callable[[int], bool] = lambda _: False
    ) -> None:
        """``relieve``: frees what it can of a file system, named by its device, if anything."""
        self.relieve = relieve
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._measuring: dict[int, threading.Lock] = {}  # setdefault is one step
        #: Device -> what was free, what of it nobody needed, and until when (monotonic).
        self._free: dict[int, tuple[int, int, float]] = {}  # entry by entry, so any thread may
        self._lock = threading.Lock()
        self._claims: dict[Claim, None] = {}  # guarded by _lock

    def claim(self, claim: Claim, missing_bytes: int) -> int:
        """Let the claim stand at ``missing_bytes``; returns how much has to be free for that.

        That is the reserve, what earlier claims need, and its own; one that grows is the latest.
        """
        with self._lock:
            if missing_bytes > claim.missing_bytes:
                self._claims.pop(claim, None)
            self._claims.setdefault(claim)
            claim.missing_bytes = missing_bytes
            needed_bytes = self._reserve_bytes
            for other in self._claims:
                if other.device == claim.device:
                    needed_bytes += other.missing_bytes
                if other is claim:
                    break
            return needed_bytes

    @contextmanager
    def measuring(self, claim: Claim) -> Iterator[None]:
        """Let nobody else measure, or reserve, on the claim's file system meanwhile.

        While room is reserved it is missing twice: from what is free, and from what is not claimed.
        """
        with ANOTHER:
            lock = self._measuring.setdefault(claim.device, threading.Lock())
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def note_reserved(self, claim: Claim) -> None:
        """The file system keeps the room itself: nothing is claimed, and what was free is not."""
        self._free.pop(claim.device, None)
        self.claim(claim, 0)

    def note_free(self, claim: Claim, free_bytes: int) -> None:
        """Take in what is free on the claim's file system now."""
        with self._lock:
            claimed = sum(c.missing_bytes for c in self._claims if c.device == claim.device)
        left_bytes = free_bytes - self._reserve_bytes - claimed
        self._free[claim.device] = free_bytes, left_bytes, self._clock.monotonic() + _BELIEVED_S

    def is_ample(self, claim: Claim, needed_bytes: int) -> bool:
        """Tell whether so much was free, and a lot more, a moment ago."""
        free_bytes, _, until_s = self._free.get(claim.device, _NOTHING)
        return free_bytes - needed_bytes >= _AMPLE_BYTES and self._clock.monotonic() < until_s

    def is_negligible(self, claim: Claim, missing_bytes: int) -> bool:
        """Tell whether so little is missing, where there is plenty, that it need not be claimed."""
        return not claim.missing_bytes and self.has_plenty(claim.device, missing_bytes)

    def has_plenty(self, device: int, missing_bytes: int) -> bool:
        """Tell whether so little is missing of so much that a moment ago nobody needed."""
        _, left_bytes, until_s = self._free.get(device, _NOTHING)
        return (
            missing_bytes <= _LITTLE_BYTES
            and left_bytes - missing_bytes >= _AMPLE_BYTES
            and self._clock.monotonic() < until_s
        )

    def most_bytes(self, capacity_bytes: int) -> int:
        """Return how large a file may be at most on a file system of that size."""
        return max(0, capacity_bytes - self._reserve_bytes)

    def drop(self, claim: Claim) -> None:
        if claim in self._claims:  # which only its own part's thread changes
            with self._lock:
                self._claims.pop(claim, None)
