"""Totals of this life of the service, counted from events."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping

from fetchd import events
from fetchd.clock import Clock
from fetchd.events import Event

#: Throughput is shown over these.
WINDOWS_S = (10, 60, 300)


class Stats:
    """Hears every event; may be asked at any time by any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()  # guarded by _lock
        self._running: set[tuple[int, int]] = set()  # guarded by _lock; (run, task)
        self._seconds: deque[tuple[int, int]] = deque()  # guarded by _lock; (second, bytes)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._count(event)

    def snapshot(self) -> Mapping[str, int | float]:
        """Return all totals: those of ``ALWAYS``, and one for each state and code met so far."""
        now_s = self._clock.monotonic()
        with self._lock:
            counts = Counter(self._counts)
            running = len(self._running)
            rates = {f"bytes_per_s_{width_s}s": self._rate(now_s, width_s) for width_s in WINDOWS_S}
        totals: dict[str, int | float] = {key: counts.pop(key, 0) for key in ALWAYS}
        ended = sum(totals[key] for key in _TASK_ENDS)
        totals["queued"] = max(0, int(totals["tasks_added"] - ended) - running)
        totals["running"] = running
        return totals | dict(sorted(counts.items())) | rates

    def _count(self, event: Event) -> None:
        count = self._counts
        match event:
            case events.TaskProgressed():
                count["bytes_received"] += event.bytes
                self._add_bytes(event.bytes)
            case events.TaskVerified():
                count["bytes_received"] += event.untold_bytes
                self._add_bytes(event.untold_bytes)
            case events.TaskStarted():
                count["attempts"] += 1
                self._running.add((event.run, event.task))
            case events.TaskNamed():
                self._running.discard((event.run, event.task))
            case events.TaskDone():
                self._running.discard((event.run, event.task))
                count["tasks_succeeded"] += 1
                count[f"tasks_{event.outcome}"] += 1
                if event.outcome != "up_to_date":
                    count["bytes_published"] += event.size_bytes
            case events.TaskFailed():
                self._running.discard((event.run, event.task))
                count["tasks_failed"] += 1
                count[f"failed_{event.code}"] += 1
            case events.TaskRetryScheduled():
                self._running.discard((event.run, event.task))
                count["retries"] += 1
            case events.TaskDeferred():
                self._running.discard((event.run, event.task))
                count["deferred"] += 1
            case events.TaskInterrupted():
                self._running.discard((event.run, event.task))
                count["interrupted"] += 1
            case events.TasksAdded():
                count["tasks_added"] += event.count
            case events.RunRevised():
                count["tasks_added"] += event.added
                count["tasks_cancelled"] += event.removed
            case events.TasksSkipped() | events.TasksPassedOver():
                count["tasks_skipped"] += event.count
            case events.TasksCancelled():
                count["tasks_cancelled"] += event.count
                self._running = {pair for pair in self._running if pair[0] != event.run}
            case events.JobAccepted():
                count["jobs_accepted"] += 1
            case events.JobRejected():
                count["jobs_rejected"] += 1
            case events.WatchMissed():
                count["watch_missed"] += event.count
            case events.OriginShut():
                count["origins_shut"] += 1
            case events.RunEnded():
                count[f"runs_{event.state}"] += 1
            case events.ThreadDied():
                count["threads_died"] += 1
            case _:
                pass

    def _add_bytes(self, size_bytes: int) -> None:
        second = int(self._clock.monotonic())
        if self._seconds and self._seconds[-1][0] == second:
            size_bytes += self._seconds.pop()[1]
        self._seconds.append((second, size_bytes))
        while self._seconds[0][0] < second - WINDOWS_S[-1]:
            self._seconds.popleft()

    def _rate(self, now_s: float, width_s: int) -> float:
        """Bytes a second over the window, or over this life while that is shorter."""
        since_s = now_s - width_s
        total = sum(size for second, size in self._seconds if second >= since_s)
        return round(total / max(1.0, min(width_s, now_s - self._began_s)), 1)


#: Present in every snapshot, 0 where nothing happened.
ALWAYS = (
    "jobs_accepted",
    "jobs_rejected",
    "runs_succeeded",
    "runs_partial",
    "runs_failed",
    "runs_cancelled",
    "tasks_added",
    "tasks_succeeded",
    "tasks_failed",
    "tasks_skipped",
    "tasks_cancelled",
    "attempts",
    "retries",
    "deferred",
    "interrupted",
    "bytes_received",
    "bytes_published",
    "watch_missed",
    "origins_shut",
    "threads_died",
)
_TASK_ENDS = ("tasks_succeeded", "tasks_failed", "tasks_skipped", "tasks_cancelled")
