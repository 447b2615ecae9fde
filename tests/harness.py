"""What several tests share: a clock set by hand, jobs in a line, a socket, an engine by hand."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fetchd.cores import Cores
from fetchd.engine import Engine
from fetchd.errors import StoreError
from fetchd.events import Event, Tell
from fetchd.model import (
    Batch,
    Expand,
    Expanded,
    Fetch,
    Fetched,
    FileRecord,
    History,
    IfExists,
    Intent,
    Item,
    Job,
    OriginBounds,
    Outcome,
    Priority,
    Publish,
    Published,
    RetryPolicy,
    Rules,
    Run,
    Submit,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)
from fetchd.stores import SqliteStore


class FakeClock:
    """A clock that stands until it is set; waits end after a moment of real time."""

    def __init__(self, wall_s: float = 1_700_000_000.0) -> None:
        self._now_s = 1000.0
        self._wall_offset_s = wall_s - self._now_s

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return self._now_s + self._wall_offset_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back, by so much."""
        self._wall_offset_s += seconds

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        condition.wait(0.002)


#: A machine whose threads have nowhere to go.
ONE_CORE = Cores({0}, 0)


class NothingToDo(StoreError):
    """Who takes work now would wait for it. Of a kind that the engine itself survives."""


class StepClock(FakeClock):
    """Time stands still, so whoever would wait is told so."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        raise NothingToDo


class NoJitter(random.Random):
    """A random source whose draws are the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b

    def random(self) -> float:
        return 0.999999


def spec(path: str, *sources: str, problem: tuple[str, str] | None = None) -> TaskSpec:
    return TaskSpec(
        key=path,
        path=path,
        sources=sources or (f"http://one.example/{path}",),
        problem=problem,
    )


def group(name: str, *specs: TaskSpec, needs: tuple[str, ...] = (), **rules) -> TaskGroup:
    """A group whose items are found again by ``expand_specs``."""
    items = tuple(Item(url=s.sources[0], filename=s.path) for s in specs)
    made = TaskGroup(name=name, needs=needs, items=items, rules=Rules(**rules))
    SPECS[items] = specs
    return made


SPECS: dict[tuple[Item, ...], tuple[TaskSpec, ...]] = {}


def expand_specs(job, group, run, position) -> Batch:
    return Batch(specs=SPECS[group.items], position=None)


def job(
    name: str,
    *groups: TaskGroup,
    revision: str = "r1",
    priority: Priority = Priority.NORMAL,
    concurrency: int | None = None,
    max_total_bytes: int | None = None,
) -> Job:
    return Job(
        name=name,
        revision=revision,
        groups=groups,
        priority=priority,
        concurrency=concurrency,
        max_total_bytes=max_total_bytes,
    )


RUN = Run(id=1, job="j", revision="r", scheduled_for_s=0.0)


def first_fetch(
    group: TaskGroup,
    spec: TaskSpec,
    source: str,
    *,
    run: Run = RUN,
    previous: FileRecord | None = None,
    budget_bytes: int | None = None,
) -> Fetch:
    """The first attempt at the only task of a job."""
    return Fetch(
        fence=1,
        job=Job(name=run.job, revision=run.revision, groups=(group,)),
        run=run,
        group=group,
        task=Task(id=1, group=1, spec=spec, history=History()),
        number=1,
        source=source,
        previous=previous,
        budget_bytes=budget_bytes,
    )


def intent_for(fetch: Fetch, size_bytes: int = 10) -> Intent:
    return Intent(
        root=fetch.group.rules.root,
        path=fetch.task.spec.path,
        part=f"part-{fetch.task.id}",
        device=1,
        inode=fetch.task.id,
        size_bytes=size_bytes,
        verified=Verify.LENGTH,
        digests=fetch.task.spec.digests,
        clobber=fetch.group.rules.if_exists is not IfExists.FAIL,
        url=fetch.source,
        final_url=fetch.source,
        validator=Validator(etag='"1"'),
        mtime_s=None,
        resumed_from_bytes=0,
        received_bytes=size_bytes,
        elapsed_s=1.0,
    )


class Receives:
    """A socket whose receives bring these pieces."""

    def __init__(self, *pieces):
        self.pieces = [piece for piece in pieces if piece]

    def recv(self, most):
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > most:
            self.pieces.insert(0, piece[most:])
        return piece[:most]

    def recv_into(self, buffer):
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class EngineByHand:
    """A real engine on a real store, whose threads are played by the test."""

    def __init__(
        self,
        *,
        store: SqliteStore | None = None,
        clock: FakeClock | None = None,
        expand: Callable[..., Batch] = expand_specs,
        poison: int = 3,
        connections_per_origin: int = 8,
        origins: Mapping[str, OriginBounds] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.failures: list[StoreError] = []
        self.store = store or SqliteStore(None, self.clock, self.failures.append)
        self._puts: list[None] = []  # one for all that the store was given to do; any thread
        self._count_puts(self.store._ledger)
        self.events: list[Event] = []
        self.engine = Engine(
            self.store,
            expand,
            tell or self.events.append,
            self.clock,
            NoJitter(),
            bounds=OriginBounds(connections=connections_per_origin),
            origins=origins or {},
            poison=poison,
        )

    def calm(self) -> None:
        """Return when the store has nothing left to do or to tell."""
        while True:
            before = len(self._puts)
            self.store.flush()
            if len(self._puts) == before + 1:  # nobody but this flush put anything
                return

    def _count_puts(self, ledger: Any) -> None:
        put = ledger._put

        def counted(item: object) -> None:
            self._puts.append(None)
            put(item)

        ledger._put = counted

    def submit(self, job: Job, file: str = "", raw: bytes = b"raw"):
        answer = self.engine.obey(Submit(job=job, raw=raw, file=file))
        self.calm()
        return answer

    def ready(self) -> int:
        self.calm()
        return len(self.engine._queue)

    def fetch(self) -> Fetch | None:
        """Take one fetch attempt if one may start now."""
        self.calm()
        queue = self.engine._queue
        with queue._changed:
            now_s = self.clock.monotonic()
            later = queue._later
            startable = bool(later and later[0][0] <= now_s) or self._startable()
        if not startable:
            return None
        try:
            (attempt,) = self.engine.take(Fetch, 1)
        except NothingToDo:
            return None
        return attempt

    def _startable(self) -> bool:
        queue = self.engine._queue
        if queue._hushed or queue._lonely or (queue._alone and queue._out):
            return False
        now_s = self.clock.monotonic()
        if queue._alone:
            return True
        return any(
            not run.full()
            and queue._busy.get(origin, 0) < queue._limit(origin)
            and queue._shut.get(origin, 0.0) <= now_s
            for run in queue._runs.values()
            for origin in run.lanes
        )

    def settle(self, attempt, outcome: Outcome) -> None:
        self.engine.settle([(attempt, outcome)])
        self.calm()

    def publish(self) -> list[Publish]:
        self.calm()
        if not len(self.engine._to_publish):
            return []
        return list(self.engine.take(Publish, 100))

    def publish_all(self) -> None:
        while attempts := self.publish():
            self.engine.settle(
                [
                    (a, Published(intent=a.intent, mtime_ns=1, inode=a.intent.inode))
                    for a in attempts
                ]
            )
            self.calm()

    def succeed(self, attempt: Fetch, size_bytes: int = 10) -> None:
        self.settle(attempt, Fetched(intent=intent_for(attempt, size_bytes)))
        self.publish_all()

    def run_all(self) -> list[str]:
        """Let every fetch succeed until nothing can start; returns the paths in order."""
        paths = []
        while (attempt := self.fetch()) is not None:
            paths.append(attempt.task.spec.path)
            self.succeed(attempt)
        return paths

    def can_expand(self) -> bool:
        """Whether whoever takes an expansion now gets one."""
        self.calm()
        return bool(len(self.engine._to_expand))

    def expand_once(self) -> bool:
        if not self.can_expand():
            return False
        (attempt,) = self.engine.take(Expand, 1)
        batch = self.engine._expand(attempt.job, attempt.group, attempt.run, attempt.position)
        self.settle(attempt, Expanded(batch=batch))
        return True

    def expand_once_or_put_off(self) -> bool:
        """As ``expand_once``, where what lies on the desk may have to wait."""
        desk = self.engine._to_expand
        take = desk.take
        vars(desk)["take"] = lambda most: take(most) if len(desk) else []
        try:
            return bool(self.engine.take(Expand, 1))
        finally:
            del desk.take

    def close(self) -> None:
        self.store.close()


QUICK = RetryPolicy(attempts=3, delay_s=2.0, max_delay_s=60.0)
