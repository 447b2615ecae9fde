"""The least speed of a body: ``timeout.stall`` asks for so many bytes within each window."""

from __future__ import annotations

from fetchd.errors import AttemptError
from fetchd.model import Timeouts


class Pace:
    """How fast one body comes. One thread.

    Only waiting for the origin counts: a slow disk is not a slow origin.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._window_s = 0.0
        self._window_bytes = 0

    def note(self, got_bytes: int, waited_s: float) -> None:
        """Take in what a read brought; raises AttemptError (too_slow)."""
        window_s, least_per_s = self._timeouts.stall_s, self._timeouts.stall_bytes_per_s
        self._window_s += waited_s
        self._window_bytes += got_bytes
        if self._window_s < window_s:
            return
        if self._window_bytes < window_s * least_per_s:
            raise AttemptError(
                "too_slow",
                f"{self._window_bytes} bytes in {self._window_s:.1f} s are fewer than "
                f"timeout.stall asks for ({least_per_s} B/s)",
            )
        self._window_s, self._window_bytes = 0.0, 0
