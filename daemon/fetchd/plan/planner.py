"""A plan from its first to its last step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from fetchd.clock import Clock
from fetchd.disk.looking import StandingDisk
from fetchd.errors import AttemptError, StoreError
from fetchd.expand import Expander
from fetchd.model import Fetch, FileRecord, History, Job, OriginRecord, Run, Task
from fetchd.plan.asking import TaskLook, Wire
from fetchd.plan.reckoning import Bounds, Disks, time_of, when
from fetchd.plan.report import Plan, TaskPlan, Totals, Verdict
from fetchd.plan.rounds import Origins, Question, Rounds
from fetchd.plan.tasks import Found, find
from fetchd.ports import Transport
from fetchd.stores.looking import Records
from fetchd.urls import origin_of

__all__ = ["Bounds", "Known", "Planner"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """``records`` None: nothing is known of earlier runs, and ``why_not``."""

    records: Records | None
    why_not: str = ""


class Planner:
    """Makes plans by what it is given: a disk that is not written to, the daemon's transports.

    ``credentials``: what origins are sent, in names; ``workers``: questions at a time; ``tell``:
    as in ``Rounds``.
    """

    def __init__(
        self,
        disk: StandingDisk,
        transport: Transport,
        known: Known,
        bounds: Bounds,
        clock: Clock,
        *,
        credentials: Mapping[str, Sequence[str]],
        workers: int,
        tell: Callable[[int, int], None],
    ) -> None:
        self._disk = disk
        self._transport = transport
        self._known = known
        self._bounds = bounds
        self._clock = clock
        self._credentials = credentials
        self._workers = workers
        self._tell = tell
        self._state = known.why_not

    def plan(self, job: Job, most: int) -> Plan:
        """Find out what the job would do now, asking about at most so many files."""
        now_s = self._clock.wall()
        run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=now_s)
        last_s = self._recorded(lambda records: records.last_due_s(job.name))
        begins = when(job, last_s, now_s)
        if begins.due_s is not None:
            run = replace(run, scheduled_for_s=begins.due_s)
        disk = self._disk.of(job, run)
        expander = Expander(open_below=lambda _, __, root, path: disk.open_below(root, path))
        found = find(job, run, expander, most=most, watched=self._credentials.keys())
        tasks, disks = self._fitted(disk, self._asked(disk, job, run, found))
        for root, size_bytes in found.rest_bytes.items():
            try:
                disks.add(root, "_", size_bytes)
            except AttemptError as exc:
                found.problems.append(exc.reason)
        on_disk = disks.plans(self._bounds.reserve_bytes)
        verdicts = Counter(task.verdict.value for task in tasks)
        fetched = [task for task in tasks if task.verdict is Verdict.FETCH]
        known_bytes = sum(max(0, (one.size_bytes or 0) - one.held_bytes) for one in fetched)
        total_bytes = known_bytes + sum(found.rest_bytes.values())
        unsized = sum(one.size_bytes is None for one in fetched) + found.rest_unsized
        problems = list(found.problems)
        if job.max_total_bytes is not None and total_bytes > job.max_total_bytes:
            problems.append(
                f"{total_bytes} bytes are more than limits.total allows ({job.max_total_bytes})"
            )
        good = not (problems or found.bad_items or found.broken or verdicts[Verdict.FAIL.value])
        return Plan(
            job=job.name,
            ok=good and all(disk.fits for disk in on_disk),
            tasks=tuple(tasks),
            groups=tuple(found.groups),
            problems=tuple(problems),
            totals=Totals(
                files=found.files,
                asked=len(tasks),
                left_out=found.files - found.bad_items - len(tasks),
                skipped=found.skipped,
                bad_items=found.bad_items,
                verdicts={verdict.value: verdicts[verdict.value] for verdict in Verdict},
                bytes=total_bytes,
                unsized=unsized,
            ),
            disks=on_disk,
            time=time_of(tasks, self._bounds, job, self._speed_of, now_s, unsized=unsized),
            when=begins,
            credentials={name: list(self._credentials[name]) for name in found.origins},
            state=self._state,
        )

    def _asked(self, disk: StandingDisk, job: Job, run: Run, found: Found) -> list[TaskPlan]:
        origins = Origins(self._bounds.of, self._clock)
        self._leave_alone(origins, found)
        rounds = Rounds(origins, self._workers, self._clock, self._tell)
        wire = Wire(disk, self._transport, origins, self._clock, rounds.wanted, self._record_of)
        looks = [
            TaskLook(
                wire,
                Fetch(
                    fence=0,
                    job=job,
                    run=run,
                    group=one.group,
                    task=Task(id=number, group=0, spec=one.spec, history=History()),
                    number=1,
                    source=one.spec.sources[0],
                    previous=None,
                    budget_bytes=job.max_total_bytes,
                ),
            )
            for number, one in enumerate(found.chosen)
        ]
        try:
            rounds.ask(_of_sums(looks))
            rounds.ask(Question("", look.look, _nothing) for look in looks)
            again: list[tuple[TaskLook, int]] = []
            rounds.ask(_of_sources(looks, again))
            rounds.ask(
                _of_source(look, number, partial(look.ask, number, whole=True))
                for look, number in again
            )
        finally:
            rounds.stop()
        return [look.plan() for look in looks]

    def _leave_alone(self, origins: Origins, found: Found) -> None:
        """Leave those alone that have asked the daemon for it."""
        now_s = self._clock.wall()
        urls = (url for one in found.chosen for url in (*one.spec.sources, *one.spec.sums))
        for origin in dict.fromkeys(map(origin_of, urls)):
            record = self._recorded(partial(_record_of, origin))
            left_s = 0.0 if record is None else record.gate_until_at_s - now_s
            if record is not None and left_s > 0:
                why = f"it has asked the daemon to be left alone ({record.gate_why})"
                origins.leave_alone(origin, min(left_s, record.gate_s), why)

    def _fitted(
        self, disk: StandingDisk, tasks: Iterable[TaskPlan]
    ) -> tuple[list[TaskPlan], Disks]:
        """Return the tasks as far as the disks can hold them, and what the disks are to hold."""
        disks, fitted = Disks(disk.room), []
        for task in tasks:
            if task.verdict is Verdict.FETCH:
                task = self._fit(task, disk, disks)  # noqa: PLW2901 -- the same task, better known
            fitted.append(task)
        return fitted, disks

    def _fit(self, task: TaskPlan, disk: StandingDisk, disks: Disks) -> TaskPlan:
        try:
            capacity_bytes = disk.room(task.root, task.path).capacity_bytes
            most_bytes = max(0, capacity_bytes - self._bounds.reserve_bytes)
            size_bytes = task.size_bytes
            if size_bytes is not None and size_bytes > most_bytes:
                raise AttemptError(
                    "too_large", f"it has {size_bytes} bytes, its file system room for {most_bytes}"
                )
            held_bytes = disk.held_bytes(task.root, task.path)
            missing_bytes = None if size_bytes is None else max(0, size_bytes - held_bytes)
            disks.add(task.root, task.path, missing_bytes)
        except AttemptError as exc:
            return replace(task, verdict=Verdict.FAIL, code=exc.code, reason=exc.reason)
        return replace(task, held_bytes=held_bytes)

    def _record_of(self, root: str, path: str) -> FileRecord | None:
        if self._known.records is None:
            raise StoreError(self._known.why_not)
        return self._known.records.file(root, path)

    def _speed_of(self, origin: str) -> float | None:
        record = self._recorded(partial(_record_of, origin))
        return None if record is None else record.bytes_per_s

    def _recorded(self, read: Callable[[Records], T | None]) -> T | None:
        """Return what is on record, None where nothing is known."""
        if self._known.records is None:
            return None
        try:
            return read(self._known.records)
        except StoreError as exc:
            self._state = str(exc)
            return None


def _of_sums(looks: Iterable[TaskLook]) -> Iterable[Question]:
    """Yield one question for each sums file, whose answer all of its tasks then read."""
    by_file: dict[object, list[TaskLook]] = {}
    for look in looks:
        attempt = look.attempt
        if attempt.task.spec.sums:
            by_file.setdefault((attempt.task.spec.sums, attempt.group.rules.headers), []).append(
                look
            )

    def each(alike: list[TaskLook]) -> None:
        for look in alike:
            look.ask_sums()

    def skip(alike: list[TaskLook], why: str) -> None:
        for look in alike:
            look.skip_sums(why)

    for alike in by_file.values():
        origin = origin_of(alike[0].attempt.task.spec.sums[0])
        yield Question(origin, partial(each, alike), partial(skip, alike))


def _of_sources(looks: Iterable[TaskLook], again: list[tuple[TaskLook, int]]) -> Iterable[Question]:
    """Yield a question for each source; ``again`` gets those that need another one."""

    def ask(look: TaskLook, number: int) -> None:
        if not look.ask(number):
            again.append((look, number))

    for look in looks:
        for number in look.sources_to_ask():
            yield _of_source(look, number, partial(ask, look, number))


def _of_source(look: TaskLook, number: int, ask: Callable[[], object]) -> Question:
    origin = origin_of(look.attempt.task.spec.sources[number])
    return Question(origin, ask, partial(look.skip, number))


def _record_of(origin: str, records: Records) -> OriginRecord | None:
    return records.origin(origin)


def _nothing(_why: str) -> None:
    pass
