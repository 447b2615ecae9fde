"""The one place where a task changes state: take, report, settle, obey."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fetchd import events
from fetchd.clock import Clock, Random
from fetchd.engine import graph, retry
from fetchd.engine.queue import Entry, TaskQueue
from fetchd.engine.runs import (
    MOST_KNOWN,
    ORIGINS_A_READ,
    TASKS_AN_ORIGIN,
    Group,
    OpenedRun,
    Phase,
)
from fetchd.model import (
    Answer,
    Attempt,
    Batch,
    Cancel,
    Command,
    Deferred,
    Expand,
    Expanded,
    Failure,
    Fetch,
    Fetched,
    FileRecord,
    History,
    Intent,
    Interrupted,
    ListFile,
    Outcome,
    Progress,
    Publish,
    Published,
    Report,
    Retry,
    Run,
    RunState,
    RunView,
    Submit,
    Task,
    TaskSpec,
    TaskState,
    TransferView,
    UpToDate,
)
from fetchd.ports import (
    A,
    Appended,
    Change,
    Expander,
    Failed,
    Intends,
    NewGroup,
    OpenRun,
    Ready,
    RestEnded,
    RunChanged,
    Started,
    Store,
    Succeeded,
    Waits,
    Window,
)
from fetchd.urls import origin_of

#: Fetching pauses while this many verified files wait for the publisher.
MOST_UNPUBLISHED = 1000
#: Runs that have ended and are still shown.
RECENT_RUNS = 20
#: The parts of failed tasks are kept this long, for a retry.
KEEP_FAILED_PARTS_S = 7 * 86400.0


_NO_PROGRESS = Progress()


@dataclass(slots=True)
class _Out:
    """An attempt that was taken and not settled."""

    attempt: Attempt
    group: Group
    began_s: float
    entry: Entry | None = None
    previous: FileRecord | None = None
    progress: Progress = _NO_PROGRESS


@dataclass(slots=True)
class _Effects:
    """What follows a decision; decided under the lock, carried out after it."""

    changes: list[Change] = field(default_factory=list)
    happened: list[events.Event] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    released: list[Entry] = field(default_factory=list)
    dropped_runs: list[int] = field(default_factory=list)
    reads: list[tuple[Group, str]] = field(default_factory=list)
    intended: list[Publish] = field(default_factory=list)
    batches: list[tuple[Group, Batch]] = field(default_factory=list)


class Engine:
    """``ports.WorkSource`` and ``ports.Commands``; all public methods may be called by any thread.

    ``poison``: crashes without progress after which a task runs alone, and after as many again
    fails; 0: never.
    """

    def __init__(
        self,
        store: Store,
        expand: Expander,
        tell: events.Tell,
        clock: Clock,
        random: Random,
        *,
        connections_per_origin: int = 8,
        poison: int = 3,
    ) -> None:
        self._store = store
        self._expand = expand
        self._tell = tell
        self._clock = clock
        self._random = random
        self._poison = poison
        self._queue = TaskQueue(clock, connections_per_origin=connections_per_origin)
        self._submitting = threading.Lock()  # one submission at a time; held over store calls
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        # All of the following is guarded by _lock.
        self._fences = itertools.count(1)
        self._runs: dict[int, OpenedRun] = {}
        self._by_job: dict[str, OpenedRun] = {}
        self._out: dict[int, _Out] = {}
        self._to_publish: deque[Publish] = deque()
        self._to_expand: deque[Group] = deque()
        self._unpublished = 0
        self._recent: deque[RunView] = deque(maxlen=RECENT_RUNS)
        self._stopping = False
        self._drained = False
        self._sweep_due = False
        self._held: set[Group] = set()  # groups with tasks that wait for a destination

    # ------------------------------------------------------------ life

    def recover(self, durable_bytes: dict[tuple[str, str], int]) -> tuple[int, int, int]:
        """Go on where the last life ended; returns how many runs, running and publishing tasks.

        ``durable_bytes``: what the parts on the disk hold for certain, by (root, path).
        """
        effects = _Effects()
        unfinished = self._store.unfinished()
        with self._lock:
            for open_run in self._store.open_runs():
                self._adopt(open_run)
            running = 0
            for left in unfinished:
                run = self._runs[left.run]
                group = run.groups_by_id[left.task.group]
                if left.intent is not None:
                    run.bytes += left.intent.size_bytes
                    group.busy.add(left.task.id)
                    self._unpublished += 1
                    self._to_publish.append(
                        self._publish_attempt(group, left.task, left.intent, recovered=True)
                    )
                    continue
                running += 1
                place = (group.opened.group.rules.root, left.task.spec.path)
                self._charge_crash(group, left.task, durable_bytes.get(place, 0), effects)
            for run in list(self._runs.values()):
                self._advance(run, effects)
            found = (len(self._runs), running, len(unfinished) - running)
        self._act(effects)
        return found

    def stop(self) -> None:
        """Give out no more work to fetch or expand; ``report`` answers "not wanted"."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        self._queue.close()

    def finish_publishing(self) -> None:
        """Let the publisher go home once it has published all that was verified.

        To be called after the fetchers have ended.
        """
        self._store.flush()
        with self._work:
            self._drained = True
            self._work.notify_all()

    def tick(self) -> None:
        """Look after waits that only the store knows; to be called about once a second."""
        effects = _Effects()
        soon_s = self._clock.wall() + 30.0
        with self._lock:
            for run in self._runs.values():
                for group in run.groups.values():
                    if group.next_due_at_s is not None and group.next_due_at_s <= soon_s:
                        group.next_due_at_s = None
                        group.look_again()
                        self._read_more(group, effects)
        self._act(effects)

    def idle(self) -> bool:
        """Whether every run has ended."""
        with self._lock:
            return not self._runs

    def sweep_due(self) -> bool:
        """Whether parts may lie about that nobody needs; asking resets it."""
        with self._lock:
            due, self._sweep_due = self._sweep_due, False
            return due

    def needs_part(self, root: str, path: str, age_s: float) -> bool:
        """Whether the part of a destination, untouched for ``age_s``, may still be of use."""
        state = self._store.destination_state(root, path)
        if state is TaskState.FAILED:
            return age_s < KEEP_FAILED_PARTS_S
        return state is not None and not state.ended

    # ------------------------------------------------------------ ports.WorkSource

    def take(self, kind: type[A], most: int) -> Sequence[A]:
        taken: Sequence[Attempt]
        if kind is Fetch:
            taken = self._take_fetch()
        elif kind is Publish:
            taken = self._take_publish(most)
        else:
            taken = self._take_expand()
        return taken  # type: ignore[return-value]  # each branch gives what its kind says

    def report(self, attempt: Attempt, progress: Progress) -> bool:
        with self._lock:
            out = self._out.get(attempt.fence)
            if out is None:
                return False
            new_bytes = progress.received_bytes - out.progress.received_bytes
            out.progress = progress
            wanted = not self._stopping and not out.group.run.cancelled
        if new_bytes > 0 and isinstance(attempt, Fetch):
            self._tell(events.TaskProgressed(**_about(attempt, attempt.source), bytes=new_bytes))
        return wanted

    def settle(self, settled: Sequence[tuple[Attempt, Outcome]]) -> None:
        effects = _Effects()
        with self._lock:
            for attempt, outcome in settled:
                out = self._out.pop(attempt.fence, None)
                if out is None:
                    continue
                if out.entry is not None:
                    effects.released.append(out.entry)
                if isinstance(attempt, Fetch):
                    self._settle_fetch(attempt, out, outcome, effects)
                elif isinstance(attempt, Publish):
                    self._settle_publish(attempt, out, outcome, effects)
                elif isinstance(attempt, Expand):
                    self._settle_expand(out.group, outcome, effects)
                if out.group.done():
                    self._advance(out.group.run, effects)
                else:
                    self._read_more(out.group, effects)
        self._act(effects)

    # ------------------------------------------------------------ ports.Commands

    def obey(self, command: Command) -> Answer:
        match command:
            case Submit():
                with self._submitting:
                    return self._submit(command)
            case Cancel(job=job):
                return self._cancel(job)
            case Retry(job=job):
                with self._submitting:
                    return self._retry(job)

    def view(self) -> Report:
        with self._lock:
            now_s = self._clock.monotonic()
            runs = (*self._recent, *(run.view() for run in self._runs.values()))
            transfers = tuple(
                TransferView(
                    job=out.group.run.job.name,
                    run=out.attempt.run.id,
                    path=out.attempt.task.spec.path,
                    url=out.attempt.source,
                    attempt=out.attempt.number,
                    elapsed_s=now_s - out.began_s,
                    progress=out.progress,
                )
                for out in self._out.values()
                if isinstance(out.attempt, Fetch)
            )
        return Report(runs=runs, transfers=transfers)

    # ------------------------------------------------------------ commands

    def _submit(self, command: Submit) -> Answer:
        job = command.job
        with self._lock:
            on = self._by_job.get(job.name)
        if on is not None:
            if on.run.revision == job.revision:
                return Answer(done=True, run=on.run.id, repeated=True)
            return Answer(
                done=False, later=True, reason=f"run {on.run.id} of another revision is still on"
            )
        last = self._store.last_run(job.name) if command.file else None
        if last is not None and not last.filed:
            if (last.revision, last.file) == (job.revision, command.file):
                return Answer(done=True, run=last.id, repeated=True)
            return Answer(done=False, later=True, reason=f"run {last.id} is not filed yet")

        now_s = self._clock.wall()
        run = Run(
            id=self._store.new_run_id(),
            job=job.name,
            revision=job.revision,
            scheduled_for_s=now_s,
        )
        groups = [
            NewGroup(group=group, specs=(), expanding=True)
            if isinstance(group.items, ListFile)
            else NewGroup(
                group=group,
                specs=self._expand(job, group, run, None).specs,
                expanding=False,
            )
            for group in job.groups
        ]
        opened = self._store.add_job(
            job, run, raw=command.raw, file=command.file, groups=groups, at_s=now_s
        )
        tasks = sum(len(group.specs) for group in groups)
        effects = _Effects()
        effects.happened += [
            events.JobAccepted(
                job=job.name,
                run=run.id,
                file=command.file,
                revision=job.revision,
                groups=len(groups),
                tasks=tasks,
            ),
            events.TasksAdded(job=job.name, run=run.id, count=tasks),
        ]
        with self._lock:
            self._advance(self._adopt(opened), effects)
        self._act(effects)
        return Answer(done=True, run=run.id)

    def _cancel(self, job: str) -> Answer:
        effects = _Effects()
        with self._lock:
            run = self._by_job.get(job)
            if run is None:
                return Answer(done=False, reason=f"no run of job {job!r} is on")
            run.cancelled = True
            effects.dropped_runs.append(run.run.id)
            for group in run.groups.values():
                self._end_rest(group, TaskState.CANCELLED, "", effects)
            self._sweep_due = True
            self._advance(run, effects)
        self._act(effects)
        self._store.flush()
        return Answer(done=True, run=run.run.id)

    def _retry(self, job: str) -> Answer:
        last = self._store.last_run(job)
        if last is None:
            return Answer(done=False, reason=f"there is no job {job!r}")
        if not last.state.ended:
            return Answer(done=False, reason=f"run {last.id} of job {job!r} is still on")
        opened = self._store.reopen(last.id)
        if opened is None:
            return Answer(done=False, reason=f"run {last.id} of job {job!r} has no failed task")
        effects = _Effects()
        with self._lock:
            self._advance(self._adopt(opened), effects)
        self._act(effects)
        return Answer(done=True, run=last.id)

    # ------------------------------------------------------------ take

    def _take_fetch(self) -> Sequence[Fetch]:
        while True:
            with self._work:
                while self._unpublished > MOST_UNPUBLISHED and not self._stopping:
                    self._clock.wait(self._work, None)
            entry = self._queue.take()
            if entry is None:
                return ()
            effects = _Effects()
            with self._lock:
                attempt = self._start(entry, effects)
            if attempt is None:
                self._queue.release(entry)
            self._act(effects)
            if attempt is not None:
                return (attempt,)

    def _start(self, entry: Entry, effects: _Effects) -> Fetch | None:
        """Make an attempt of a queue entry; None when its run is not on any more."""
        run = self._runs.get(entry.run)
        if run is None or run.cancelled or self._stopping:
            return None
        task = entry.ready.task
        group = run.groups_by_id[task.group]
        if entry.ready.wait:
            run.waits[entry.ready.wait] -= 1
        group.known.discard(task.id)
        group.busy.add(task.id)
        group.move(TaskState.READY, TaskState.RUNNING)
        attempt = Fetch(
            fence=next(self._fences),
            job=run.job,
            run=run.run,
            group=group.opened.group,
            task=task,
            number=task.history.attempts + 1,
            source=task.spec.sources[task.history.source],
            previous=entry.ready.previous,
            budget_bytes=self._budget_bytes(run),
        )
        self._out[attempt.fence] = _Out(
            attempt=attempt,
            group=group,
            began_s=self._clock.monotonic(),
            entry=entry,
            previous=entry.ready.previous,
        )
        effects.changes.append(Started(task=task.id))
        if run.state is RunState.QUEUED:
            run.state = RunState.RUNNING
            run.started_at_s = self._clock.wall()
            effects.changes.append(
                RunChanged(run=run.run.id, state=run.state, at_s=run.started_at_s)
            )
            effects.happened.append(events.RunStarted(job=run.job.name, run=run.run.id))
        effects.happened.append(
            events.TaskStarted(**_about(attempt, attempt.source), attempt=attempt.number)
        )
        self._read_more(group, effects)
        return attempt

    def _budget_bytes(self, run: OpenedRun) -> int | None:
        """Return what limits.total leaves for one more file, beside those under way."""
        most = run.job.max_total_bytes
        if most is None:
            return None
        under_way = sum(
            max(out.progress.have_bytes, out.progress.total_bytes or 0)
            for out in self._out.values()
            if out.group.run is run and isinstance(out.attempt, Fetch)
        )
        return max(0, most - run.bytes - under_way)

    def _take_publish(self, most: int) -> Sequence[Publish]:
        with self._work:
            while not self._to_publish:
                if self._drained:
                    return ()
                self._clock.wait(self._work, None)
            group = [self._to_publish.popleft() for _ in range(min(most, len(self._to_publish)))]
            now_s = self._clock.monotonic()
            for attempt in group:
                run = self._runs[attempt.run.id]
                self._out[attempt.fence] = _Out(
                    attempt=attempt, group=run.groups[attempt.group.name], began_s=now_s
                )
            return group

    def _take_expand(self) -> Sequence[Expand]:
        with self._work:
            while True:
                if self._stopping:
                    return ()
                if self._to_expand:
                    group = self._to_expand.popleft()
                    if group.expanding and not group.run.cancelled:
                        break
                    continue
                self._clock.wait(self._work, None)
            attempt = Expand(
                fence=next(self._fences),
                job=group.run.job,
                run=group.run.run,
                group=group.opened.group,
                group_id=group.id,
                position=group.position,
            )
            self._out[attempt.fence] = _Out(
                attempt=attempt, group=group, began_s=self._clock.monotonic()
            )
            return (attempt,)

    # ------------------------------------------------------------ settle (under the lock)

    def _settle_fetch(self, attempt: Fetch, out: _Out, outcome: Outcome, effects: _Effects) -> None:
        group, run, task = out.group, out.group.run, attempt.task
        if run.cancelled:
            group.forget(task.id)
            group.move(TaskState.RUNNING, TaskState.CANCELLED)
            effects.happened.append(
                events.TasksCancelled(job=run.job.name, run=run.run.id, count=1)
            )
            self._sweep_due = True
            return
        about = _about(attempt, attempt.source)
        match outcome:
            case Fetched(intent=intent):
                self._settle_fetched(attempt, out, intent, effects)
            case UpToDate():
                group.forget(task.id)
                group.move(TaskState.RUNNING, TaskState.SUCCEEDED)
                effects.changes.append(
                    Succeeded(
                        task=task.id,
                        root=group.opened.group.rules.root,
                        path=task.spec.path,
                        url=attempt.source,
                        detail="up_to_date",
                        unchanged=outcome,
                        record=None,
                    )
                )
                effects.happened.append(
                    events.TaskDone(
                        **about,
                        outcome="up_to_date",
                        final_url=attempt.source,
                        size_bytes=outcome.size_bytes,
                        verified=outcome.verified,
                        digests=tuple(map(str, outcome.digests)),
                        attempts=attempt.number,
                        resumed_from_bytes=0,
                        received_bytes=0,
                        elapsed_s=self._clock.monotonic() - out.began_s,
                        bytes_per_s=0.0,
                    )
                )
                self._release_held(effects)
            case Failure():
                self._settle_failure(attempt, out, outcome, TaskState.RUNNING, effects)
            case Deferred(reason=reason, detail=detail, delay_s=delay_s):
                effects.happened.append(
                    events.TaskDeferred(**about, wait=reason, reason=detail, delay_s=delay_s)
                )
                self._put_back(group, task, task.history, delay_s, reason, out.previous, effects)
                group.move(TaskState.RUNNING, TaskState.READY)
            case Interrupted():
                effects.happened.append(events.TaskInterrupted(**about, attempt=attempt.number))
                self._put_back(group, task, task.history, 0.0, "", out.previous, effects)
                group.move(TaskState.RUNNING, TaskState.READY)
            case Published() | Expanded():
                raise AssertionError(f"{outcome} does not answer a fetch")

    def _settle_fetched(self, attempt: Fetch, out: _Out, intent: Intent, effects: _Effects) -> None:
        group, run, task = out.group, out.group.run, attempt.task
        most = run.job.max_total_bytes
        if most is not None and run.bytes + intent.size_bytes > most:
            failure = Failure(
                code="too_large",
                reason=f"{intent.size_bytes} bytes more than limits.total ({most}) leaves",
                transient=False,
            )
            self._settle_failure(attempt, out, failure, TaskState.RUNNING, effects)
            return
        run.bytes += intent.size_bytes
        group.move(TaskState.RUNNING, TaskState.PUBLISHING)
        effects.changes.append(Intends(task=task.id, intent=intent, history=task.history))
        effects.intended.append(self._publish_attempt(group, task, intent, recovered=False))
        self._unpublished += 1
        effects.happened.append(
            events.TaskVerified(
                **_about(attempt, attempt.source),
                attempt=attempt.number,
                size_bytes=intent.size_bytes,
            )
        )

    def _settle_publish(
        self, attempt: Publish, out: _Out, outcome: Outcome, effects: _Effects
    ) -> None:
        group, run, task, intent = out.group, out.group.run, attempt.task, attempt.intent
        self._unpublished -= 1
        self._work.notify_all()
        match outcome:
            case Published(mtime_ns=mtime_ns, inode=inode):
                group.forget(task.id)
                group.move(TaskState.PUBLISHING, TaskState.SUCCEEDED)
                detail = "resumed" if intent.resumed_from_bytes else "downloaded"
                effects.changes.append(
                    Succeeded(
                        task=task.id,
                        root=intent.root,
                        path=intent.path,
                        url=intent.url,
                        detail=detail,
                        unchanged=None,
                        record=FileRecord(
                            url=intent.url,
                            size_bytes=intent.size_bytes,
                            mtime_ns=mtime_ns,
                            inode=inode,
                            digests=intent.digests,
                            validator=intent.validator,
                        ),
                    )
                )
                effects.happened.append(
                    events.TaskDone(
                        **_about(attempt, intent.url),
                        outcome=detail,
                        final_url=intent.final_url,
                        size_bytes=intent.size_bytes,
                        verified=intent.verified,
                        digests=tuple(map(str, intent.digests)),
                        attempts=task.history.attempts + 1,
                        resumed_from_bytes=intent.resumed_from_bytes,
                        received_bytes=intent.received_bytes,
                        elapsed_s=intent.elapsed_s,
                        bytes_per_s=intent.received_bytes / max(intent.elapsed_s, 1e-6),
                    )
                )
                self._release_held(effects)
            case Failure():
                run.bytes -= intent.size_bytes
                if run.cancelled:
                    group.forget(task.id)
                    group.move(TaskState.PUBLISHING, TaskState.CANCELLED)
                    return
                self._settle_failure(attempt, out, outcome, TaskState.PUBLISHING, effects)
            case _:
                raise AssertionError(f"{outcome} does not answer a publication")

    def _settle_failure(
        self,
        attempt: Fetch | Publish,
        out: _Out,
        failure: Failure,
        before: TaskState,
        effects: _Effects,
    ) -> None:
        group, task = out.group, attempt.task
        decision = retry.decide(
            failure,
            task.history,
            group.opened.group.rules.retry,
            sources=len(task.spec.sources),
            now_s=self._clock.wall(),
            random=self._random,
        )
        source = task.spec.sources[task.history.source]
        if isinstance(decision, retry.GiveUp):
            group.move(before, TaskState.FAILED)
            self._fail(group, task, decision, source, effects)
            return
        effects.happened.append(
            events.TaskRetryScheduled(
                **_about(attempt, source),
                attempt=decision.history.attempts,
                code=failure.code,
                reason=failure.reason,
                delay_s=decision.delay_s,
                next_url=task.spec.sources[decision.history.source],
            )
        )
        group.move(before, TaskState.READY)
        self._put_back(
            group, task, decision.history, decision.delay_s, "retry", out.previous, effects
        )

    def _fail(
        self, group: Group, task: Task, decision: retry.GiveUp, source: str, effects: _Effects
    ) -> None:
        run = group.run
        group.forget(task.id)
        effects.changes.append(
            Failed(
                task=task.id,
                code=decision.code,
                reason=decision.reason,
                history=decision.history,
            )
        )
        effects.happened.append(
            events.TaskFailed(
                job=run.job.name,
                run=run.run.id,
                task=task.id,
                path=task.spec.path,
                url=source,
                code=decision.code,
                reason=decision.reason,
                attempts=decision.history.attempts,
                causes=tuple(
                    f"{task.spec.sources[index]}: {code}: {reason}"
                    for index, code, reason in decision.history.causes
                ),
            )
        )
        self._release_held(effects)

    def _put_back(
        self,
        group: Group,
        task: Task,
        history: History,
        delay_s: float,
        reason: str,
        previous: FileRecord | None,
        effects: _Effects,
    ) -> None:
        """Make a task wait for its next attempt, in the queue if there is room."""
        group.forget(task.id)
        due_at_s = self._clock.wall() + delay_s if delay_s else 0.0
        origin = origin_of(task.spec.sources[history.source])
        effects.changes.append(
            Waits(task=task.id, origin=origin, history=history, due_at_s=due_at_s, reason=reason)
        )
        if len(group.known) >= MOST_KNOWN:
            group.expect(due_at_s)
            group.look_again()
            return
        group.known.add(task.id)
        wait = reason if delay_s else ""
        if wait:
            group.run.waits[wait] += 1
        ready = Ready(
            task=replace(task, history=history),
            origin=origin,
            due_at_s=due_at_s,
            wait=wait,
            previous=previous,
        )
        effects.entries.append(self._entry(group, ready))

    def _settle_expand(self, group: Group, outcome: Outcome, effects: _Effects) -> None:
        match outcome:
            case Expanded(batch=batch):
                pass
            case Interrupted():
                return
            case Failure(code=code, reason=reason):
                bad = TaskSpec(key="", path="", sources=("",), problem=(code, reason))
                batch = Batch(specs=(bad,), position=None)
            case _:
                raise AssertionError(f"{outcome} does not answer an expansion")
        if not group.run.cancelled:
            effects.batches.append((group, batch))

    # ------------------------------------------------------------ the store answers (its thread)

    def _appended(self, group: Group, batch: Batch, appended: Appended) -> None:
        run = group.run
        about: dict[str, Any] = {"job": run.job.name, "run": run.run.id}
        effects = _Effects()
        effects.happened.append(events.TasksAdded(**about, count=appended.added))
        for spec, code, reason in appended.failed:
            effects.happened.append(
                events.TaskFailed(
                    **about,
                    task=0,
                    path=spec.path,
                    url=spec.sources[0] if spec.sources else "",
                    code=code,
                    reason=reason,
                    attempts=0,
                )
            )
        with self._lock:
            if run.run.id not in self._runs:
                return
            failed = len(appended.failed)
            group.counts[TaskState.READY] += appended.added - failed
            group.counts[TaskState.FAILED] += failed
            group.position = batch.position
            group.look_again()
            if run.cancelled:
                self._end_rest(group, TaskState.CANCELLED, "", effects)
            elif batch.position is None:
                group.expanding = False
                effects.happened.append(
                    events.RunExpanded(**about, group=group.name, tasks=sum(group.counts.values()))
                )
            else:
                self._to_expand.append(group)
                self._work.notify_all()
            self._advance(run, effects)
        self._act(effects)

    def _read(self, group: Group, window: Window) -> None:
        effects = _Effects()
        with self._lock:
            for ready in group.end_read(window):
                if ready.wait:
                    group.run.waits[ready.wait] += 1
                effects.entries.append(self._entry(group, ready))
            if group.held:
                self._held.add(group)
            self._read_more(group, effects)
        self._act(effects)

    def _intended(self, attempts: Iterable[Publish]) -> None:
        with self._work:
            self._to_publish.extend(attempts)
            self._work.notify_all()

    # ------------------------------------------------------------ decisions (under the lock)

    def _adopt(self, opened: OpenRun) -> OpenedRun:
        run = OpenedRun(opened)
        self._runs[run.run.id] = run
        self._by_job[run.job.name] = run
        self._queue.add_run(run.run.id, run.job.priority, run.job.concurrency)
        return run

    def _advance(self, run: OpenedRun, effects: _Effects) -> None:
        """Open groups whose needs are met, skip those that never will, end what is done."""
        changed = True
        while changed:
            changed = False
            for group in run.groups.values():
                if group.phase is Phase.BLOCKED:
                    verdict = graph.met(group.opened.group.needs, run.ended_groups())
                    if run.cancelled:
                        group.phase, changed = Phase.OPEN, True
                    elif verdict is graph.Met.YES:
                        group.phase, changed = Phase.OPEN, True
                        if group.expanding:
                            self._to_expand.append(group)
                            self._work.notify_all()
                    elif verdict is graph.Met.NEVER:
                        group.phase, changed = Phase.OPEN, True
                        self._end_rest(group, TaskState.SKIPPED, "upstream_failed", effects)
                if group.phase is Phase.OPEN and group.done():
                    group.phase, changed = Phase.ENDED, True
                self._read_more(group, effects)
        if all(group.phase is Phase.ENDED for group in run.groups.values()):
            self._end(run, effects)

    def _end_rest(self, group: Group, state: TaskState, reason: str, effects: _Effects) -> None:
        """Let every task that is not under way be skipped or cancelled; a list is read no more."""
        group.expanding = False
        group.known.clear()
        count = group.counts[TaskState.READY]
        group.move(TaskState.READY, state, count)
        run = group.run
        effects.changes.append(
            RestEnded(run=run.run.id, group=group.id, state=state, reason=reason)
        )
        about: dict[str, Any] = {"job": run.job.name, "run": run.run.id, "count": count}
        if count and state is TaskState.SKIPPED:
            effects.happened.append(events.TasksSkipped(**about, group=group.name, reason=reason))
        elif count:
            effects.happened.append(events.TasksCancelled(**about))

    def _end(self, run: OpenedRun, effects: _Effects) -> None:
        now_s = self._clock.wall()
        run.state = run.final_state()
        view = run.view(finished_at_s=now_s)
        self._recent.append(view)
        del self._runs[run.run.id]
        del self._by_job[run.job.name]
        effects.dropped_runs.append(run.run.id)
        effects.changes.append(RunChanged(run=run.run.id, state=run.state, at_s=now_s))
        effects.happened.append(
            events.RunEnded(
                job=run.job.name,
                run=run.run.id,
                state=run.state,
                succeeded=view.tasks.succeeded,
                failed=view.tasks.failed,
                skipped=view.tasks.skipped,
                cancelled=view.tasks.cancelled,
                bytes=view.bytes,
                elapsed_s=now_s - (run.started_at_s or now_s),
            )
        )

    def _read_more(self, group: Group, effects: _Effects) -> None:
        if group.should_read():
            effects.reads.append((group, group.begin_read()))

    def _release_held(self, effects: _Effects) -> None:
        """A destination has become free: whoever waited for one looks again."""
        while self._held:
            group = self._held.pop()
            group.held = 0
            group.look_again()
            self._read_more(group, effects)

    def _charge_crash(
        self, group: Group, task: Task, durable_bytes: int, effects: _Effects
    ) -> None:
        history = retry.after_crash(task.history, durable_bytes)
        if self._poison and history.crashes >= 2 * self._poison:
            group.move(TaskState.RUNNING, TaskState.FAILED)
            decision = retry.GiveUp(
                history=history,
                code="poison",
                reason=f"the daemon crashed {history.crashes} times while it worked on this task",
            )
            self._fail(group, task, decision, task.spec.sources[history.source], effects)
            return
        group.move(TaskState.RUNNING, TaskState.READY)
        effects.changes.append(
            Waits(
                task=task.id,
                origin=origin_of(task.spec.sources[history.source]),
                history=history,
                due_at_s=0.0,
                reason="",
            )
        )

    def _entry(self, group: Group, ready: Ready) -> Entry:
        wait_s = max(0.0, ready.due_at_s - self._clock.wall()) if ready.due_at_s else 0.0
        return Entry(
            ready=ready,
            run=group.run.run.id,
            priority=group.run.job.priority,
            due_s=self._clock.monotonic() + wait_s if wait_s else 0.0,
            alone=bool(self._poison) and ready.task.history.crashes >= self._poison,
        )

    def _publish_attempt(
        self, group: Group, task: Task, intent: Intent, *, recovered: bool
    ) -> Publish:
        return Publish(
            fence=next(self._fences),
            job=group.run.job,
            run=group.run.run,
            group=group.opened.group,
            task=task,
            intent=intent,
            recovered=recovered,
        )

    # ------------------------------------------------------------ effects (no lock held)

    def _act(self, effects: _Effects) -> None:
        """Carry out what was decided: first the record, then whoever may go on because of it."""
        if effects.changes:
            then = partial(self._intended, effects.intended) if effects.intended else None
            self._store.record(effects.changes, then)
        for group, batch in effects.batches:
            self._store.append_tasks(
                group.opened,
                group.run.run.id,
                batch.specs,
                batch.position,
                partial(self._appended, group, batch),
            )
        for run in effects.dropped_runs:
            self._queue.drop_run(run)
        if effects.entries:
            self._queue.put(effects.entries)
        for entry in effects.released:
            self._queue.release(entry)
        for group, after in effects.reads:
            self._store.next_ready(
                group.id,
                after=after,
                origins=ORIGINS_A_READ,
                per_origin=TASKS_AN_ORIGIN,
                now_s=self._clock.wall(),
                then=partial(self._read, group),
            )
        for event in effects.happened:
            self._tell(event)


def _about(attempt: Fetch | Publish, url: str) -> dict[str, Any]:
    return {
        "job": attempt.job.name,
        "run": attempt.run.id,
        "task": attempt.task.id,
        "path": attempt.task.spec.path,
        "url": url,
    }
