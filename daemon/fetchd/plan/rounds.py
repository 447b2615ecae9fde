"""Many questions at a time, and never more of an origin than the daemon would ask."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fetchd.clock import Clock
from fetchd.model import OriginBounds
from fetchd.threads import Worker

#: So many failures to reach an origin in a row, and it is asked no more.
MOST_UNREACHED = 3
#: The longest wait without a look at whether the caller was interrupted.
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """Asks in the turn of ``origin``, "" where nobody is; ``skip`` hears why it could not."""

    origin: str
    ask: Callable[[], object]
    skip: Callable[[str], None]


class Origins:
    """Who is not to be asked any more, and who not yet; over all rounds. Any thread."""

    def __init__(self, bounds_of: Callable[[str], OriginBounds], clock: Clock) -> None:
        self._bounds_of = bounds_of
        self._clock = clock
        self._lock = threading.Lock()
        self._shut: dict[str, tuple[float, str]] = {}  # until, monotonic; and why
        self._unreached: Counter[str] = Counter()
        self._next_s: dict[str, float] = {}

    def leave_alone(self, origin: str, wish_s: float, why: str) -> None:
        with self._lock:
            self._shut[origin] = (self._clock.monotonic() + wish_s, why)

    def left_alone_s(self, origin: str) -> float:
        """Return for how long nothing is to be asked of an origin."""
        with self._lock:
            until_s, _ = self._shut.get(origin, (0.0, ""))
            return max(0.0, until_s - self._clock.monotonic())

    def why_not(self, origin: str) -> str:
        """Return why an origin is not asked, "": it may be."""
        if self.left_alone_s(origin):
            return self._shut[origin][1]
        if self._unreached[origin] >= MOST_UNREACHED:
            return f"it could not be reached {MOST_UNREACHED} times in a row"
        return ""

    def note(self, origin: str, *, reached: bool) -> None:
        with self._lock:
            self._unreached[origin] = 0 if reached else self._unreached[origin] + 1

    def most(self, origin: str) -> int:
        return self._bounds_of(origin).connections

    def wait_s(self, origin: str) -> float:
        """Return how long the next request has to wait for the origin's rate of requests."""
        return max(0.0, self._next_s.get(origin, 0.0) - self._clock.monotonic())

    def pace(self, origin: str) -> None:
        """A request begins now."""
        requests_per_s = self._bounds_of(origin).requests_per_s
        if requests_per_s is not None:
            self._next_s[origin] = self._clock.monotonic() + 1 / requests_per_s


class Rounds:
    """Asks questions by a few threads. One thread calls ``ask``, and may be interrupted in it."""

    def __init__(
        self, origins: Origins, workers: int, clock: Clock, tell: Callable[[int, int], None]
    ) -> None:
        """``tell`` hears now and then how many of how many questions of a round are behind us."""
        self._origins = origins
        self._workers = workers
        self._tell = tell
        self._clock = clock
        self._changed = threading.Condition()
        # All of the following is guarded by _changed.
        self._waiting: OrderedDict[str, deque[Question]] = OrderedDict()
        self._busy: Counter[str] = Counter()
        self._failure: BaseException | None = None
        self._asked = 0
        self._ended = 0  # threads
        self._stopped = False

    def wanted(self) -> bool:
        """Tell whether the answers are waited for still."""
        return not self._stopped

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def ask(self, questions: Iterable[Question]) -> None:
        """Return when each was asked or skipped; raises what any of them raised."""
        count = 0
        for question in questions:
            self._waiting.setdefault(question.origin, deque()).append(question)
            count += 1
        self._asked = self._ended = 0
        workers = [
            Worker(f"asker-{number}", self._work, self._clock, self._died)
            for number in range(min(self._workers, count))
        ]
        for worker in workers:
            worker.start()
        while self._under_way(len(workers)):
            self._tell(self._asked, count)
        if self._failure is not None:
            self.stop()
            raise self._failure

    def _under_way(self, threads: int) -> bool:
        """Wait a little; False: all threads have ended, or one has failed."""
        with self._changed:
            if self._ended < threads and self._failure is None:
                self._clock.wait(self._changed, _LOOK_S)
            return self._ended < threads and self._failure is None

    def _work(self, _: Worker) -> None:
        while (question := self._take()) is not None:
            try:
                why = self._origins.why_not(question.origin)
                if why:
                    question.skip(why)
                else:
                    question.ask()
            finally:
                with self._changed:
                    self._busy[question.origin] -= 1
                    self._asked += 1
                    self._changed.notify_all()
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def _died(self, _worker: Worker, exc: BaseException) -> None:
        with self._changed:
            self._failure = exc
            self._changed.notify_all()

    def _take(self) -> Question | None:
        """Block until a question may be asked; None: there is none left."""
        with self._changed:
            while self._waiting and not self._stopped:
                wait_s = _LOOK_S
                for origin, lane in self._waiting.items():
                    shut = bool(origin and self._origins.why_not(origin))
                    if origin and not shut:
                        if self._busy[origin] >= self._origins.most(origin):
                            continue
                        if (left_s := self._origins.wait_s(origin)) > 0:
                            wait_s = min(wait_s, left_s)
                            continue
                        self._origins.pace(origin)
                    question = lane.popleft()
                    self._busy[origin] += 1
                    if lane:
                        self._waiting.move_to_end(origin)
                    else:
                        del self._waiting[origin]
                    return question
                self._clock.wait(self._changed, wait_s)
            return None
