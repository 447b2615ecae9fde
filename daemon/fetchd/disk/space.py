"""How much of each file system the parts under way still need, so that together they fit."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Claim:
    """What one part is going to write yet; ``device``: the number of its file system.

    Written by the part's thread, read by others.
    """

    device: int
    missing_bytes: int = 0


class Space:
    """The claims of all parts, in the order in which they were made. Any thread.

    The order decides who goes on where space is lost to others: the earlier ones, which were
    promised it, and not all of them until none can end.
    """

    def __init__(self, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
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

    def most_bytes(self, capacity_bytes: int) -> int:
        """Return how large a file may be at most on a file system of that size."""
        return max(0, capacity_bytes - self._reserve_bytes)

    def drop(self, claim: Claim) -> None:
        with self._lock:
            self._claims.pop(claim, None)
