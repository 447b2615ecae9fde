"""A thread-safe queue of ready tasks: priority, not-before, fair over runs and origins, close."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from fetchd.clock import Clock
from fetchd.model import Priority
from fetchd.ports import Ready

#: The longest wait without a look at the clock, so that a clock that is injected is obeyed.
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task in the queue. ``due_s``: monotonic; ``alone``: only while nothing else runs."""

    ready: Ready
    run: int
    priority: Priority
    due_s: float
    alone: bool = False

    @property
    def origin(self) -> str:
        return self.ready.origin


class _Run:
    """The lanes of one run: an entry's lane is its origin. Lanes are served in turn."""

    __slots__ = ("busy", "concurrency", "lanes", "priority")

    def __init__(self, priority: Priority, concurrency: int | None) -> None:
        self.priority = priority
        self.concurrency = concurrency
        self.busy = 0
        self.lanes: OrderedDict[str, deque[Entry]] = OrderedDict()

    def full(self) -> bool:
        return self.concurrency is not None and self.busy >= self.concurrency


class TaskQueue:
    """Which task starts next.

    Order: priority class, then runs in turn, then the run's origins in turn, then first in,
    first out. At most ``connections_per_origin`` taken entries of an origin and ``concurrency``
    of a run are out at a time; each ``take`` is paired with one ``release``. Runs are looked at
    in turn until one can start, so a take costs O(runs + origins) at worst and O(1) as a rule;
    not-before times cost O(log n).
    """

    def __init__(self, clock: Clock, *, connections_per_origin: int) -> None:
        self._clock = clock
        self._per_origin = connections_per_origin
        self._changed = threading.Condition(threading.Lock())
        # All of the following is guarded by _changed.
        self._runs: dict[int, _Run] = {}
        self._turns: dict[Priority, OrderedDict[int, None]] = {p: OrderedDict() for p in Priority}
        self._later: list[tuple[float, int, Entry]] = []
        self._alone: deque[Entry] = deque()
        self._numbers = itertools.count()
        self._busy: dict[str, int] = {}
        self._out = 0
        self._lonely = False  # an entry that must run alone is out
        self._closed = False

    def add_run(self, run: int, priority: Priority, concurrency: int | None) -> None:
        with self._changed:
            self._runs[run] = _Run(priority, concurrency)

    def drop_run(self, run: int) -> None:
        """Forget the run and its waiting entries; those that are out are released as ever."""
        with self._changed:
            gone = self._runs.pop(run, None)
            if gone is None:
                return
            self._turns[gone.priority].pop(run, None)
            self._later = [item for item in self._later if item[2].run != run]
            heapq.heapify(self._later)
            self._alone = deque(entry for entry in self._alone if entry.run != run)

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries of known runs; those of others are dropped."""
        with self._changed:
            now_s = self._clock.monotonic()
            for entry in entries:
                if entry.run not in self._runs:
                    continue
                if entry.due_s > now_s:
                    heapq.heappush(self._later, (entry.due_s, next(self._numbers), entry))
                else:
                    self._line_up(entry)
            self._changed.notify_all()

    def take(self) -> Entry | None:
        """Block until an entry may start; None: the queue is closed."""
        with self._changed:
            while not self._closed:
                now_s = self._clock.monotonic()
                while self._later and self._later[0][0] <= now_s:
                    self._line_up(heapq.heappop(self._later)[2])
                if (entry := self._next()) is not None:
                    return entry
                wait_s = self._later[0][0] - now_s if self._later else _LONGEST_WAIT_S
                self._clock.wait(self._changed, min(wait_s, _LONGEST_WAIT_S))
            return None

    def release(self, entry: Entry) -> None:
        """Give back what ``take`` occupied."""
        with self._changed:
            self._out -= 1
            if entry.alone:
                self._lonely = False
            left = self._busy[entry.origin] - 1
            if left:
                self._busy[entry.origin] = left
            else:
                del self._busy[entry.origin]
            if (run := self._runs.get(entry.run)) is not None:
                run.busy -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let every ``take``, now and later, return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            lined_up = sum(len(lane) for run in self._runs.values() for lane in run.lanes.values())
            return lined_up + len(self._later) + len(self._alone)

    def _line_up(self, entry: Entry) -> None:
        if entry.alone:
            self._alone.append(entry)
            return
        run = self._runs[entry.run]
        run.lanes.setdefault(entry.origin, deque()).append(entry)
        self._turns[run.priority].setdefault(entry.run)

    def _next(self) -> Entry | None:
        if self._lonely:
            return None
        if self._alone:
            if self._out:  # let the others finish first; none is started meanwhile
                return None
            entry = self._alone.popleft()
            self._lonely = True
            return self._occupy(entry)
        for turns in self._turns.values():
            for run_id in list(turns):
                run = self._runs[run_id]
                if run.full():
                    continue
                for origin, lane in run.lanes.items():
                    if self._busy.get(origin, 0) < self._per_origin:
                        entry = lane.popleft()
                        if lane:
                            run.lanes.move_to_end(origin)
                        else:
                            del run.lanes[origin]
                        if run.lanes:
                            turns.move_to_end(run_id)
                        else:
                            del turns[run_id]
                        return self._occupy(entry)
        return None

    def _occupy(self, entry: Entry) -> Entry:
        self._out += 1
        self._busy[entry.origin] = self._busy.get(entry.origin, 0) + 1
        self._runs[entry.run].busy += 1
        return entry
