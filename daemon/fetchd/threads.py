"""A named thread with a heartbeat and a way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fetchd.clock import Clock


class Worker:
    """One thread that runs ``work(worker)`` until it returns.

    ``beat()`` says that the thread makes progress; ``rest()`` that it waits legally, for as long
    as it takes; ``age_s()`` is the time since the last beat, 0.0 while resting. A thread that
    ends by an exception hands it to ``on_death`` (called on the dying thread).
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Worker], None],
        clock: Clock,
        on_death: Callable[[Worker, BaseException], None],
    ) -> None:
        self.name = name
        self._work = work
        self._clock = clock
        self._on_death = on_death
        self._stop = threading.Event()
        self._beat_s: float | None = None  # None while resting; written by the thread itself
        # A daemon thread: a read that is stuck past the grace period cannot hold the exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; a stop before ``start`` is not lost."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def pause(self, timeout_s: float) -> bool:
        """Wait until stopped or for ``timeout_s``; return True when stopped."""
        self.rest()
        return self._stop.wait(timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Return True when the thread has ended within ``timeout_s``."""
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def beat(self) -> None:
        self._beat_s = self._clock.monotonic()

    def rest(self) -> None:
        self._beat_s = None

    def age_s(self) -> float:
        beat_s = self._beat_s
        return 0.0 if beat_s is None else self._clock.monotonic() - beat_s

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as exc:  # noqa: BLE001 -- the border of the thread: nothing passes unseen
            self._on_death(self, exc)
