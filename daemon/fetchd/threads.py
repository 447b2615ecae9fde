"""A named thread with a heartbeat and a way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fetchd.clock import Clock

#: How soon a thread at work beats again, if it has not said that it may take longer.
PROMPT_S = 60.0

_here = threading.local()  # .worker: the Worker whose thread this is


class Worker:
    """One thread that runs ``work(worker)`` until it returns.

    ``beat()`` says that the thread makes progress and beats again within ``within_s``; ``rest()``
    that it waits legally, for as long as it takes. A thread that is ``late`` is stuck. One that
    ends by an exception hands it to ``on_death`` (called on the dying thread).
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Worker], None],
        clock: Clock,
        on_death: Callable[[Worker, BaseException], None],
        *,
        within_s: float = PROMPT_S,
    ) -> None:
        self.name = name
        self._work = work
        self._clock = clock
        self._on_death = on_death
        self._within_s = within_s
        self._stop = threading.Event()
        # (the last beat, when the next one is due), None while resting; written by the thread.
        self._beat: tuple[float, float] | None = None
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

    def here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def beat(self, within_s: float | None = None) -> None:
        """Say that the next beat comes within ``within_s`` (None: the worker's own measure)."""
        now_s = self._clock.monotonic()
        self._beat = now_s, now_s + (self._within_s if within_s is None else within_s)

    def rest(self) -> None:
        self._beat = None

    def age_s(self) -> float:
        """Return the time since the last beat, 0.0 while resting."""
        beat = self._beat
        return 0.0 if beat is None else self._clock.monotonic() - beat[0]

    @property
    def late(self) -> bool:
        """Whether the beat that was promised last has not come."""
        beat = self._beat
        return beat is not None and self._clock.monotonic() > beat[1]

    def _run(self) -> None:
        _here.worker = self
        with suppress(OSError):  # its name for top, perf and the like; the kernel takes 15 bytes
            task = f"/proc/self/task/{threading.get_native_id()}/comm"
            Path(task).write_text(self.name[:15])
        try:
            self._work(self)
        except BaseException as exc:  # noqa: BLE001 -- the border of the thread: nothing passes unseen
            self._on_death(self, exc)


class Lookout:
    """Finds the threads that are stuck: late, or dead, at two looks in a row.

    A process that was stopped or starved as a whole finds all of its threads late once.
    """

    def __init__(self) -> None:
        self._suspects: set[Worker] = set()

    def look(self, workers: Iterable[Worker]) -> list[Worker]:
        suspects = {worker for worker in workers if worker.late or not worker.alive()}
        stuck = suspects & self._suspects
        self._suspects = suspects
        return sorted(stuck, key=lambda worker: worker.name)


def beat(within_s: float | None = None) -> None:
    """Beat for the calling thread; without effect on one that is no Worker's."""
    worker: Worker | None = getattr(_here, "worker", None)
    if worker is not None:
        worker.beat(within_s)


class Wait:
    """A legal wait of the calling thread, ``with DISK:``, of at most ``most_s``.

    ``most_s`` None: for as long as it takes, because who is waited for is watched itself.
    """

    def __init__(self, most_s: float | None) -> None:
        self._most_s = most_s

    def __enter__(self) -> None:
        worker: Worker | None = getattr(_here, "worker", None)
        if worker is not None:
            if self._most_s is None:
                worker.rest()
            else:
                worker.beat(self._most_s)

    def __exit__(self, _: object, __: object, ___: object) -> None:
        worker: Worker | None = getattr(_here, "worker", None)
        if worker is not None:
            worker.beat()


#: A call to a file system: syncing gigabytes to a slow disk is the longest silence of all.
DISK = Wait(600.0)
#: An answer of another thread that has a heartbeat.
ANOTHER = Wait(None)
