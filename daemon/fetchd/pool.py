"""A fixed pool of named threads: take, work, settle.

The number of threads never changes. One that an error tore out of its work is replaced, and what
it worked on is settled as a failure that may be tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic

from fetchd import logs, threads
from fetchd.clock import Clock
from fetchd.errors import StoreError
from fetchd.events import Tell, ThreadDied
from fetchd.model import Attempt, Failure, Fetch, Finish, Outcome, Progress, Publish
from fetchd.ports import A, WorkSource
from fetchd.threads import Worker

Exchange = Callable[[Sequence[tuple[Attempt, Outcome]]], Sequence[A]]


class Pool(Generic[A]):
    """``size`` threads that take up to ``most`` attempts of one kind and settle each of them.

    ``work`` returns an outcome for every attempt it was given, and raises only what nobody
    foresaw.
    """

    def __init__(
        self,
        name: str,
        size: int,
        source: WorkSource,
        kind: type[A],
        *,
        work: Callable[[Sequence[A]], Sequence[tuple[Attempt, Outcome]]],
        most: int,
        clock: Clock,
        tell: Tell,
        exchange: Exchange[A] | None = None,
    ) -> None:
        """``exchange``: settles and takes what is there at once, where that is cheaper."""
        self._source = source
        self._exchange = exchange or self._settle
        self._kind = kind
        self._work = work
        self._most = most
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        names = [f"{name}-{index}" for index in range(size)]
        self._workers = {name: self._worker(name) for name in names}  # guarded by _lock
        self._stopping = False  # guarded by _lock

    def start(self) -> None:
        for worker in self.workers():
            worker.start()

    def stop(self) -> None:
        """Take nothing more and replace nobody; who waits in ``take`` is sent home by the source.

        Whoever is at work ends it first; a stop before ``start`` is not lost.
        """
        with self._lock:
            self._stopping = True
        for worker in self.workers():
            worker.stop()

    def join(self, timeout_s: float) -> int:
        """Return how many threads have not ended within ``timeout_s`` for all together."""
        until_s = self._clock.monotonic() + timeout_s
        return sum(not worker.join(until_s - self._clock.monotonic()) for worker in self.workers())

    def workers(self) -> list[Worker]:
        with self._lock:
            return list(self._workers.values())

    def report(self, attempt: Attempt, progress: Progress) -> bool:
        """Beat for the calling thread and pass the report on.

        Other threads call it too: who watches over a blocked read asks whether it is wanted.
        """
        threads.beat()
        return self._source.report(attempt, progress)

    def _worker(self, name: str) -> Worker:
        return Worker(name, self._run, self._clock, self._died)

    def _run(self, worker: Worker) -> None:
        attempts: Sequence[A] = ()
        while attempts or not worker.stopping:
            try:
                if not attempts:
                    worker.rest()
                    attempts = self._source.take(self._kind, self._most)
                worker.beat()
                if not attempts:
                    return
                attempts = self._carry_out(attempts)
            except StoreError:
                return  # fatal to the service, which hears of it by itself

    def _carry_out(self, attempts: Sequence[A]) -> Sequence[A]:
        """Work on attempts and settle them; returns the next ones, if they are there at once."""
        try:
            with logs.bound(partial(_context, attempts)):
                settled = self._work(attempts)
            return self._exchange(settled)
        except StoreError:
            raise
        except BaseException as exc:
            self._source.settle(_worker_died(attempts, exc))
            raise

    def _settle(self, settled: Sequence[tuple[Attempt, Outcome]]) -> Sequence[A]:
        self._source.settle(settled)
        return ()

    def _died(self, worker: Worker, exc: BaseException) -> None:
        """Put a new thread in the place of a dead one (called on the dying thread)."""
        with self._lock:
            replaced = not self._stopping
            successor = self._worker(worker.name)
            if replaced:
                self._workers[worker.name] = successor
        if replaced:
            try:
                successor.start()
            except RuntimeError:  # the system gives no more threads
                replaced = False
        self._tell(ThreadDied.by(exc, worker.name, replaced=replaced))


def _worker_died(attempts: Sequence[Attempt], exc: BaseException) -> list[tuple[Attempt, Outcome]]:
    reason = logs.redact_text(f"{type(exc).__name__}: {exc}")
    return [
        (
            attempt,
            Failure(
                code="worker_died",
                reason=reason,
                transient=True,
                kept=isinstance(attempt, Finish | Publish),  # it may have been named already
            ),
        )
        for attempt in attempts
    ]


def _context(attempts: Sequence[Attempt]) -> dict[str, object]:
    """Return what log lines of the work shall bear; a group of attempts has nothing in common."""
    if len(attempts) != 1:
        return {}
    (attempt,) = attempts
    fields: dict[str, object] = {"job": attempt.job.name, "run": attempt.run.id}
    if isinstance(attempt, Fetch):
        fields |= {"task": attempt.task.id, "attempt": attempt.number}
    elif isinstance(attempt, Finish | Publish):
        fields |= {"task": attempt.task.id}
    return fields
