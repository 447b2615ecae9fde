"""On which cores threads run: at home on one, or on all while they work without the lock.

Only one thread at a time holds the interpreter. Where many small pieces of work pass it from core
to core, waking the next core costs more than the work does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STAT_PROCESSOR = 36  # of the fields behind the name, see proc_pid_stat(5)


class Cores:
    """The cores that the process may use, one of which is home. Each call is for its thread.

    A thread begins where the thread that started it was. What the system refuses is left as it is.
    """

    def __init__(
        self,
        allowed: Collection[int],
        home: int,
        keep_to: Callable[[int, Collection[int]], None] = os.sched_setaffinity,
    ) -> None:
        self._allowed = set(allowed)
        self._home = {home} & self._allowed or self._allowed
        self._keep_to = keep_to

    @classmethod
    def of_process(cls) -> Cores:
        """Take what the process may use now, and the core that it runs on for its home."""
        allowed = os.sched_getaffinity(0)
        try:
            fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            home = int(fields[_STAT_PROCESSOR])
        except (OSError, ValueError, IndexError):
            home = min(allowed)
        return cls(allowed, home)

    @contextmanager
    def at_home(self) -> Iterator[Cores]:
        """Let the calling thread, and those that it starts meanwhile, run at home."""
        self.gather()
        try:
            yield self
        finally:
            self.spread()

    def gather(self) -> None:
        """Let the calling thread run at home."""
        self._keep(self._home)

    def spread(self) -> None:
        """Let the calling thread run on any core."""
        self._keep(self._allowed)

    def _keep(self, cores: Collection[int]) -> None:
        if len(self._allowed) > 1:
            with suppress(OSError):
                self._keep_to(0, cores)
