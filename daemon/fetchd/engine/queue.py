"""A thread-safe queue of ready tasks: priority, not-before, fair over runs and origins, close.

Priority alone would let a run starve behind an endless stream of more urgent ones. So a run that
could start something, and has started nothing for a time, is *overdue*: the longer, the lower its
class. Of so many starts one is given to those. Not all, for a long backlog grows old too, and what
is urgent shall not wait for the whole of it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from fetchd.clock import Clock
from fetchd.model import Priority
from fetchd.ports import Ready
from fetchd.values import dataclass

#: The longest wait without a look at the clock, so that a clock that is injected is obeyed.
_LONGEST_WAIT_S = 60.0
#: A run is overdue after this time for each class that it is below the best.
PATIENCE_S = 600.0
#: Of so many starts one is for those that are overdue.
STARTS_FOR_ONE_OVERDUE = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A task in the queue. ``due_s``: monotonic; ``alone``: only while nothing else runs.

    ``origin``: which is asked; that of ``ready`` is where it stands in the store.

    Each equals itself alone: a run that was dropped and added again may see a task twice.
    """

    ready: Ready
    run: int
    priority: Priority
    due_s: float
    origin: str
    alone: bool = False


class Ruling(NamedTuple):
    """What holds for an origin from now on: so many entries out, none before a moment (monotonic).

    More may be out already; they are left alone.
    """

    origin: str
    connections: int
    shut_until_s: float = 0.0


_NO_PACES: Mapping[str, float] = MappingProxyType({})


class _Run:
    """The lanes of one run: an entry's lane is its origin. Lanes are served in turn."""

    __slots__ = (
        "concurrency",
        "lanes",
        "out",
        "overdue",
        "patience_s",
        "priority",
        "since_s",
        "turn",
        "watched",
    )

    def __init__(self, priority: Priority, concurrency: int | None) -> None:
        self.priority = priority
        self.concurrency = concurrency
        self.out: set[Entry] = set()
        self.turn = 0  # when it was served last, or lined up: the lowest is next
        self.lanes: OrderedDict[str, deque[Entry]] = OrderedDict()
        self.patience_s = (priority - min(Priority)) * PATIENCE_S  # 0: it is never overdue
        self.since_s = 0.0  # when it was served last, or lined up
        self.watched = False  # it stands in the queue's list of those that may become overdue
        self.overdue = False

    def full(self) -> bool:
        return self.concurrency is not None and len(self.out) >= self.concurrency


#: Runs that have a lane for an origin, by origin; both are served in turn.
_Waiting = OrderedDict[str, "OrderedDict[int, None]"]


class TaskQueue:
    """Which task starts next.

    Order: priority class; then a run that has nothing out, for an origin that has nothing out,
    so that neither many runs for one origin nor a run over many origins keep a newcomer waiting;
    then runs in turn, then the run's origins in turn, then first in, first out. Each fourth start
    is for an overdue run, if one can start, whatever its class. At most
    ``connections_per_origin`` taken entries of an origin, or as many as it was ruled, and
    ``concurrency`` of a run are out at a time; what is taken is released once. What
    no entry needs may be lent to one that is out, and counts like an entry. The lanes of an origin
    that is shut are passed over. A take costs O(entries out + origins),
    whatever the number of runs; not-before times cost O(log n).

    ``intervals_s``: by origin, the least time from one request to the next, which is the start of
    an entry or what one that is out asks for.

    Whoever releases an entry is expected to take the next one itself, so nobody is woken for it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        connections_per_origin: int,
        intervals_s: Mapping[str, float] = _NO_PACES,
    ) -> None:
        self._clock = clock
        self._per_origin = connections_per_origin
        self._intervals_s = intervals_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # All of the following is guarded by _lock. Who does not wait takes it itself: the condition
        # would call it from two methods.
        self._runs: dict[int, _Run] = {}
        self._waiting: dict[Priority, _Waiting] = {p: OrderedDict() for p in Priority}
        self._overdue: _Waiting = OrderedDict()  # those of all classes, which wait above as well
        self._starts = 0  # since an overdue run was served
        self._patience: list[tuple[float, int, _Run]] = []  # when to look whether one is overdue
        self._turn = itertools.count(1)
        self._later: list[tuple[float, int, Entry]] = []
        self._alone: deque[Entry] = deque()
        self._numbers = itertools.count()
        self._busy: dict[str, int] = {}  # entries out, and loans, by origin
        self._busy_runs: dict[int, None] = {}  # known runs with entries out
        self._out = 0
        #: (run, origin) of what was released and not taken again: more may start than one.
        self._freed: list[tuple[int, str]] = []
        self._limits: dict[str, int] = {}  # where it was ruled otherwise
        self._gates: dict[str, float] = {}  # shut until, by ruling
        self._paces: dict[str, float] = {}  # shut until, by interval
        self._shut: dict[str, float] = {}  # the later of both, until somebody finds it past
        self._openings: list[tuple[float, str]] = []  # stale ones among them
        self._lonely = False  # an entry that must run alone is out
        self._hushed = False
        self._closed = False

    def add_run(
        self,
        run: int,
        priority: Priority,
        concurrency: int | None,
        out: Iterable[Entry] = (),
    ) -> None:
        """``out``: entries of the run that are out since before it was dropped."""
        with self._lock:
            self._runs[run] = made = _Run(priority, concurrency)
            made.out.update(out)
            if made.out:
                self._busy_runs[run] = None

    def drop_run(self, run: int) -> None:
        """Forget the run and its waiting entries; those that are out are released as ever."""
        with self._lock:
            gone = self._runs.pop(run, None)
            if gone is None:
                return
            for origin in gone.lanes:
                self._leave(gone, origin, run)
            gone.lanes.clear()
            self._busy_runs.pop(run, None)
            self._later = [item for item in self._later if item[2].run != run]
            heapq.heapify(self._later)
            self._alone = deque(entry for entry in self._alone if entry.run != run)
            self._changed.notify_all()  # one that would run alone held up all others

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries of known runs; those of others are dropped."""
        with self._lock:
            now_s = self._clock.monotonic()
            count = 0
            for entry in entries:
                count += 1
                if entry.run not in self._runs:
                    continue
                if entry.due_s > now_s:
                    heapq.heappush(self._later, (entry.due_s, next(self._numbers), entry))
                else:
                    self._line_up(entry, now_s)
            self._changed.notify(count)

    def take(self) -> Entry | None:
        """Block until an entry may start; None: the queue is closed."""
        with self._lock:
            while not self._closed:
                now_s = self._clock.monotonic()
                if (entry := self._look(now_s)) is not None:
                    return entry
                self._freed.clear()
                until_s = now_s + _LONGEST_WAIT_S
                if self._later:
                    until_s = min(until_s, self._later[0][0])
                if self._openings:
                    until_s = min(until_s, self._openings[0][0])
                self._clock.wait(self._changed, until_s - now_s)
            return None

    def exchange(self, released: Iterable[Entry]) -> Entry | None:
        """Give entries back and take one that may start at once; None: there is none."""
        with self._lock:
            for entry in released:
                self._release(entry)
            return None if self._closed else self._look(self._clock.monotonic())

    def rule(self, ruling: Ruling) -> None:
        """Let it hold from now on; whoever waits looks again."""
        with self._lock:
            origin, connections, shut_until_s = ruling
            self._limits[origin] = connections
            if connections == self._per_origin:
                del self._limits[origin]
            self._gates.pop(origin, None)
            if shut_until_s > self._clock.monotonic():
                self._gates[origin] = shut_until_s
            self._shut.pop(origin, None)
            self._shut_until(origin, max(shut_until_s, self._paces.get(origin, 0.0)))
            self._changed.notify_all()

    def held_up(self) -> dict[int, int]:
        """Return how many entries of each run wait for an origin that is shut by ruling."""
        held: dict[int, int] = {}
        with self._lock:
            now_s = self._clock.monotonic()
            for origin, until_s in self._gates.items():
                if until_s <= now_s:
                    continue
                for origins in self._waiting.values():
                    for run in origins.get(origin, ()):
                        held[run] = held.get(run, 0) + len(self._runs[run].lanes[origin])
        return held

    def release(self, entry: Entry) -> None:
        """Give back what ``take`` occupied."""
        with self._lock:
            self._release(entry)

    def lend(self, entry: Entry) -> bool:
        """Occupy the entry's origin once more, unless it is full or shut, or somebody waits."""
        with self._lock:
            origin = entry.origin
            free = self._busy.get(origin, 0) < self._limit(origin) and not self._is_shut(origin)
            if self._closed or self._hushed or not free or self._is_awaited(origin):
                return False
            self._busy[entry.origin] += 1
            return True

    def recalled(self, entry: Entry) -> bool:
        """Tell whether what is lent of the entry's origin is too much, or somebody waits for it."""
        with self._lock:
            origin = entry.origin
            left = self._limit(origin) - self._busy.get(origin, 0)
            return bool(self._alone) or left < 0 or (left == 0 and self._is_awaited(origin))

    def ask(self, entry: Entry) -> bool:
        """Count one more request to the entry's origin as a start; False: the origin is shut."""
        with self._lock:
            if self._is_shut(entry.origin):
                return False
            if entry.origin in self._intervals_s:
                self._pace(entry.origin, self._clock.monotonic())
            return True

    def left_alone_s(self, origin: str) -> float:
        """Return for how long an origin is shut by ruling yet."""
        with self._lock:
            return max(0.0, self._gates.get(origin, 0.0) - self._clock.monotonic())

    def give_back(self, entry: Entry, count: int) -> None:
        """End ``count`` loans of an entry that is out; whoever waited for them is woken."""
        with self._lock:
            self._busy[entry.origin] -= count
            self._changed.notify(count)

    def hush(self) -> None:
        """Let nothing start until ``speak``."""
        with self._changed:
            self._hushed = True

    def speak(self) -> None:
        with self._changed:
            self._hushed = False
            self._changed.notify_all()

    def close(self) -> None:
        """Let every ``take``, now and later, return None."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._lock:
            lined_up = sum(len(lane) for run in self._runs.values() for lane in run.lanes.values())
            return lined_up + len(self._later) + len(self._alone)

    def _release(self, entry: Entry) -> None:
        self._out -= 1
        if entry.alone:
            self._lonely = False
        left = self._busy[entry.origin] - 1
        if left:
            self._busy[entry.origin] = left
        else:
            del self._busy[entry.origin]
        run = self._runs.get(entry.run)
        if run is not None and entry in run.out:
            run.out.remove(entry)
            if not run.out:
                del self._busy_runs[entry.run]
        self._freed.append((entry.run, entry.origin))
        if entry.alone:
            self._changed.notify_all()

    def _look(self, now_s: float) -> Entry | None:
        """Take an entry that may start now."""
        while self._later and self._later[0][0] <= now_s:
            self._line_up(heapq.heappop(self._later)[2], now_s)
        while self._openings and self._openings[0][0] <= now_s:
            self._open(*heapq.heappop(self._openings))
        while self._patience and self._patience[0][0] <= now_s:
            self._lose_patience(heapq.heappop(self._patience)[2], now_s)
        entry = self._next(now_s)
        if entry is not None:
            if entry.origin in self._intervals_s:
                self._pace(entry.origin, now_s)
            self._wake_another(entry)
        return entry

    def _limit(self, origin: str) -> int:
        return self._limits.get(origin, self._per_origin)

    def _pace(self, origin: str, now_s: float) -> None:
        self._paces[origin] = until_s = now_s + self._intervals_s[origin]
        self._shut_until(origin, until_s)

    def _shut_until(self, origin: str, until_s: float) -> None:
        if until_s > self._clock.monotonic():
            self._shut[origin] = until_s
            heapq.heappush(self._openings, (until_s, origin))

    def _open(self, until_s: float, origin: str) -> None:
        if self._shut.get(origin) == until_s:
            del self._shut[origin]
            self._gates.pop(origin, None)
            self._paces.pop(origin, None)

    def _is_shut(self, origin: str) -> bool:
        return self._shut.get(origin, 0.0) > self._clock.monotonic()

    def _is_awaited(self, origin: str) -> bool:
        """Tell whether an entry of the origin could start, if there were room at the origin."""
        if self._is_shut(origin):
            return bool(self._alone)
        now_s = self._clock.monotonic()
        while self._later and self._later[0][0] <= now_s:
            self._line_up(heapq.heappop(self._later)[2], now_s)
        return bool(self._alone) or any(
            not self._runs[run].full()
            for origins in self._waiting.values()
            for run in origins.get(origin, ())
        )

    def _wake_another(self, taken: Entry) -> None:
        """Let another thread look, if an entry of another kind was taken than was released."""
        kind = taken.run, taken.origin
        if kind in self._freed:
            self._freed.remove(kind)
        elif self._freed:
            self._changed.notify()

    def _line_up(self, entry: Entry, now_s: float) -> None:
        if entry.alone:
            self._alone.append(entry)
            return
        run = self._runs[entry.run]
        if entry.origin not in run.lanes:
            if not run.lanes:
                run.turn = next(self._turn)
                run.since_s = now_s
                self._watch(run)
            run.lanes[entry.origin] = deque()
            for origins in self._places(run):
                origins.setdefault(entry.origin, OrderedDict())[entry.run] = None
        run.lanes[entry.origin].append(entry)

    def _leave(self, run: _Run, origin: str, run_id: int) -> None:
        for origins in self._places(run):
            _remove(origins, origin, run_id)

    def _places(self, run: _Run) -> tuple[_Waiting, ...]:
        """Return where the run's lanes wait."""
        waiting = self._waiting[run.priority]
        return (waiting, self._overdue) if run.overdue else (waiting,)

    def _watch(self, run: _Run) -> None:
        """See to it that the run is found when it has become overdue: one look for many starts."""
        if run.patience_s and not run.watched:
            run.watched = True
            look_s = run.since_s + run.patience_s
            heapq.heappush(self._patience, (look_s, next(self._numbers), run))

    def _lose_patience(self, run: _Run, now_s: float) -> None:
        run.watched = False
        if not run.lanes:
            return  # it waits for nobody; a dropped one, too
        if run.since_s + run.patience_s > now_s:
            self._watch(run)
            return
        run.overdue = True
        for origin, lane in run.lanes.items():
            self._overdue.setdefault(origin, OrderedDict())[lane[0].run] = None

    def _calm(self, run: _Run, run_id: int) -> None:
        """The run is served, so it is overdue no more."""
        run.overdue = False
        for origin in run.lanes:
            _remove(self._overdue, origin, run_id)
        self._watch(run)

    def _next(self, now_s: float) -> Entry | None:
        if self._lonely or self._hushed:
            return None
        for entry in self._alone:
            if entry.origin in self._shut:  # it holds up nobody
                continue
            if self._out:  # let the others finish first; none is started meanwhile
                return None
            self._alone.remove(entry)
            self._lonely = True
            return self._occupy(entry)
        if self._overdue and self._starts >= STARTS_FOR_ONE_OVERDUE - 1:
            lane = self._longest_overdue()
            if lane is not None:
                self._starts = 0
                return self._serve(*lane, now_s)
        for priority, origins in self._waiting.items():
            if not origins:
                continue
            lane = self._newcomer(origins) or self._next_in_turn(priority, origins)
            if lane is not None:
                self._starts += 1
                return self._serve(*lane, now_s)
        return None

    def _longest_overdue(self) -> tuple[int, str] | None:
        """Return a lane of an overdue run; newcomers are not preferred, or others would starve."""
        lanes = (self._newcomer(self._overdue), self._next_in_turn(None, self._overdue))
        found = (lane for lane in lanes if lane is not None)
        return min(found, key=lambda lane: self._runs[lane[0]].turn, default=None)

    def _newcomer(self, origins: _Waiting) -> tuple[int, str] | None:
        """Return a lane of a run and an origin that have nothing out, both."""
        if len(self._busy_runs) == len(self._runs):
            return None
        for origin, runs in origins.items():
            if origin not in self._busy and origin not in self._shut:
                for run_id in runs:
                    if run_id not in self._busy_runs:
                        return run_id, origin
        return None

    def _next_in_turn(self, priority: Priority | None, origins: _Waiting) -> tuple[int, str] | None:
        """Return a lane, not a newcomer's, of the run that was served longest ago.

        ``priority`` None: of those that are overdue.
        Each such run has something out, or waits for an origin that has: these are few.
        """
        can_start: dict[int, str] = {}
        for origin, busy in self._busy.items():
            if busy < self._limit(origin) and origin not in self._shut:
                for run_id in origins.get(origin, ()):
                    if not self._runs[run_id].full():
                        can_start[run_id] = origin
                        break
        for run_id in self._busy_runs:
            run = self._runs[run_id]
            if (run.overdue if priority is None else run.priority is priority) and not run.full():
                for origin in run.lanes:
                    busy = self._busy.get(origin, 0)
                    if busy < self._limit(origin) and origin not in self._shut:
                        can_start[run_id] = origin
                        break
        return min(can_start.items(), key=lambda lane: self._runs[lane[0]].turn, default=None)

    def _serve(self, run_id: int, origin: str, now_s: float) -> Entry:
        run = self._runs[run_id]
        run.turn = next(self._turn)
        run.since_s = now_s
        if run.overdue:
            self._calm(run, run_id)
        lane = run.lanes[origin]
        entry = lane.popleft()
        if lane:
            run.lanes.move_to_end(origin)
            origins = self._waiting[run.priority]
            origins[origin].move_to_end(run_id)
            origins.move_to_end(origin)
        else:
            del run.lanes[origin]
            self._leave(run, origin, run_id)
        return self._occupy(entry)

    def _occupy(self, entry: Entry) -> Entry:
        self._out += 1
        self._busy[entry.origin] = self._busy.get(entry.origin, 0) + 1
        self._busy_runs[entry.run] = None
        self._runs[entry.run].out.add(entry)
        return entry


def _remove(origins: _Waiting, origin: str, run: int) -> None:
    """Let a run wait for an origin no more; those that still do have their turn behind others."""
    del origins[origin][run]
    if origins[origin]:
        origins.move_to_end(origin)
    else:
        del origins[origin]
