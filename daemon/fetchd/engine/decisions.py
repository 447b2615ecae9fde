"""What follows an outcome, a command or a group's end.

Called under the engine's lock. Decisions change the runs in memory and write down in ``Effects``
all that must happen outside: records, events, entries for the queue. They touch nothing else.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from fetchd import events
from fetchd.clock import Clock, Random, SteadyWall
from fetchd.engine import graph, retry
from fetchd.engine.effects import (
    Effects,
    Out,
    PutOff,
    about_run,
    about_task,
    source_of,
    told_source,
)
from fetchd.engine.origins import Origins
from fetchd.engine.queue import Entry
from fetchd.engine.reading import Readings
from fetchd.engine.runs import Group, OpenedRun, Phase
from fetchd.errors import DISK_WAITS
from fetchd.model import (
    Batch,
    Decided,
    Deferred,
    Expanded,
    Failure,
    Fetch,
    Fetched,
    FileRecord,
    Finish,
    Finished,
    History,
    IfExists,
    Intent,
    Interrupted,
    Named,
    Outcome,
    Publish,
    Published,
    RunEnd,
    Task,
    TaskSpec,
    TaskState,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import (
    TAKEN,
    Failed,
    GroupSucceeded,
    Intends,
    Naming,
    Ready,
    RestEnded,
    RunChanged,
    Succeeded,
    Unfinished,
    Waits,
)
from fetchd.urls import HERE, origin_of

#: An origin that has served so many wrong digests in a run is asked last in it, if at all.
MOST_MISMATCHES = 2
#: What could not be published on a full disk, or one that nobody may write, is tried again so much
#: later; and what must be fetched anew for it, so many times later than that takes, up to an hour.
DISK_DELAY_S = 30.0
_AS_LONG_AGAIN = 10
_MOST_DISK_DELAY_S = 3600.0
#: A verified part that could not be published for another reason is tried again so often, after
#: this delay, which doubles; then it is fetched again.
MOST_PUBLISH_FAILURES = 5
_PUBLISH_DELAY_S = 1.0
#: A file whose name a task of another run is using is asked for again after so long.
NAME_DELAY_S = 30.0


class Decisions:
    """The rules; ``poison`` as in ``Engine``, ``origins``: what is known of them."""

    def __init__(
        self,
        clock: Clock,
        steady: SteadyWall,
        random: Random,
        poison: int,
        origins: Origins,
        readings: Readings,
    ) -> None:
        self._clock = clock
        self._steady = steady
        self._random = random
        self._poison = poison
        self._origins = origins
        self._readings = readings
        self._fences = itertools.count(1)

    def next_fence(self) -> int:
        return next(self._fences)

    # ------------------------------------------------------------ outcomes

    def settle(self, out: Out, outcome: Outcome, effects: Effects) -> None:
        """Decide what follows the end of an attempt."""
        if out.entry is not None:
            effects.released.append(out.entry)
        attempt = out.attempt
        if isinstance(attempt, Fetch):
            self._settle_fetch(attempt, out, outcome, effects)
        elif isinstance(attempt, Publish):
            self._settle_publish(attempt, out, outcome, effects)
        elif isinstance(attempt, Finish):
            self._settle_finish(attempt, out, outcome, effects)
        else:
            self._readings.settle(out.group, outcome, effects)
        if out.group.done() or out.group.phase is Phase.BLOCKED:  # its condition was decided
            self.advance(out.group.run, effects)
        else:
            self.read_more(out.group, effects)

    def leave(self, out: Out, effects: Effects) -> None:
        """Let an attempt go that an edit made stale; its task, if it is still one, is ready."""
        assert isinstance(out.attempt, Fetch)
        assert out.entry is not None
        group, run = out.group, out.group.run
        effects.released.append(out.entry)
        run.leaving -= 1
        if not out.gone:
            group.forget(out.attempt.task.id)
            group.look_again()
        effects.sweep = effects.freed = True
        self.advance(run, effects)

    def _settle_fetch(self, attempt: Fetch, out: Out, outcome: Outcome, effects: Effects) -> None:
        group, task = out.group, attempt.task
        if group.run.cancelled:
            self._cancelled(group, task, TaskState.RUNNING, effects)
            return
        if group.run.failing:
            about = about_task(attempt, attempt.source)
            effects.happened.append(events.TaskInterrupted(**about, attempt=attempt.number))
            self._left_undone(group, task, TaskState.RUNNING, effects)
            return
        match outcome:
            case Fetched(intent=intent, repaired=repaired):
                if repaired is not None:
                    effects.happened.append(
                        events.TaskRepaired(
                            **about_task(attempt, attempt.source),
                            attempt=attempt.number,
                            size_bytes=intent.size_bytes,
                            compared_bytes=repaired.compared_bytes,
                            replaced_bytes=repaired.replaced_bytes,
                        )
                    )
                self._fetched(attempt, out, intent, effects)
            case UpToDate():
                self._up_to_date(attempt, attempt.source, out, outcome, effects)
            case Named(path=path):
                group.forget(task.id)
                group.move(TaskState.RUNNING, TaskState.READY)
                effects.named.append((group, attempt, path))
            case Failure():
                self._failed(attempt, out, outcome, TaskState.RUNNING, effects)
            case Deferred(reason=reason, detail=detail):
                about = about_task(attempt, attempt.source)
                history, delay_s = after_deferral(task, outcome)
                effects.happened.append(
                    events.TaskDeferred(**about, wait=reason, reason=detail, delay_s=delay_s)
                )
                group.move(TaskState.RUNNING, TaskState.READY)
                self._put_back(group, task, history, delay_s, reason, out.previous, effects)
            case Interrupted():
                about = about_task(attempt, attempt.source)
                effects.happened.append(events.TaskInterrupted(**about, attempt=attempt.number))
                group.move(TaskState.RUNNING, TaskState.READY)
                self._put_back(group, task, task.history, 0.0, "", out.previous, effects)
            case Published() | Finished() | Expanded() | Decided():
                raise AssertionError(f"{outcome} does not answer a fetch")

    def _fetched(self, attempt: Fetch, out: Out, intent: Intent, effects: Effects) -> None:
        group, run, task = out.group, out.group.run, attempt.task
        most = run.job.max_total_bytes
        if most is not None and run.bytes + intent.size_bytes > most:
            failure = Failure(
                code="too_large",
                reason=f"{intent.size_bytes} bytes are more than limits.total ({most}) leaves",
                transient=False,
            )
            effects.sweep = True
            self._failed(attempt, out, failure, TaskState.RUNNING, effects)
            return
        run.bytes += intent.size_bytes
        group.move(TaskState.RUNNING, TaskState.PUBLISHING)
        effects.changes.append(Intends(task=task.id, intent=intent, history=task.history))
        after = self.finish if group.opened.group.steps else self.publication
        effects.intended.append(after(group, attempt, intent, recovered=False))
        effects.happened.append(
            events.TaskVerified(
                **about_task(attempt, attempt.source),
                attempt=attempt.number,
                size_bytes=intent.size_bytes,
                untold_bytes=max(0, intent.received_bytes - out.progress.received_bytes),
            )
        )

    def go_on_named(
        self, group: Group, attempt: Fetch, path: str, naming: Naming, effects: Effects
    ) -> None:
        """Let a task go on whose server has named its file, as far as that is possible."""
        run, task = group.run, attempt.task
        about = about_task(attempt, attempt.source)
        if naming is Naming.GIVEN:
            effects.happened.append(events.TaskNamed(**about, named=path))
        elif naming is Naming.BUSY:
            reason = f"{path} is the destination of a task of another run"
            effects.happened.append(
                events.TaskDeferred(**about, wait="same_dest", reason=reason, delay_s=NAME_DELAY_S)
            )
        else:
            before = TaskState.SKIPPED if run.failing else TaskState.READY
            if run.cancelled:
                before = TaskState.CANCELLED  # which has counted it among these
            group.move(before, TaskState.FAILED)
            effects.happened.append(
                events.TaskFailed(
                    **(about | {"path": path}),
                    code="dest_conflict",
                    reason=f"{path}: {TAKEN}",
                    attempts=task.history.attempts,
                )
            )
        group.look_again()  # the store knows what stood there, and who else wants to
        self.advance(run, effects)

    def _up_to_date(
        self, attempt: Fetch | Finish, url: str, out: Out, outcome: UpToDate, effects: Effects
    ) -> None:
        group, task = out.group, attempt.task
        group.forget(task.id)
        before = TaskState.RUNNING if isinstance(attempt, Fetch) else TaskState.PUBLISHING
        group.move(before, TaskState.SUCCEEDED)
        effects.freed = True
        effects.changes.append(
            Succeeded(
                task=task.id,
                root=group.rules.root,
                path=task.spec.path,
                url=url,
                detail="up_to_date",
                unchanged=outcome,
                record=None,
            )
        )
        effects.final.append(
            events.TaskDone(
                **about_task(attempt, url),
                outcome="up_to_date",
                final_url=url,
                size_bytes=outcome.size_bytes,
                verified=outcome.verified if task.spec.fetches else "",
                digests=tuple(map(str, outcome.digests)),
                attempts=task.history.attempts + 1,
                resumed_from_bytes=0,
                received_bytes=0,
                elapsed_s=self._clock.monotonic() - out.began_s,
                bytes_per_s=0.0,
            )
        )

    def _settle_finish(self, attempt: Finish, out: Out, outcome: Outcome, effects: Effects) -> None:
        group, task = out.group, attempt.task
        if group.run.cancelled:
            group.run.bytes -= attempt.intent.size_bytes
            self._cancelled(group, task, TaskState.PUBLISHING, effects)
            return
        match outcome:
            case UpToDate():
                self._up_to_date(attempt, attempt.intent.url, out, outcome, effects)
            case Finished() if group.end is not None:  # nothing is to be seen of it
                effects.sweep = True
                self._done_with(attempt, out, "done", None, effects)
            case Finished(staged=staged):
                intent = replace(attempt.intent, staged=staged)
                effects.changes.append(Intends(task=task.id, intent=intent, history=task.history))
                effects.intended.append(
                    self.publication(group, attempt, intent, recovered=attempt.recovered)
                )
            case Interrupted():  # taken anew, at a stop by the next life; no crash is charged
                again = replace(self._rest(attempt, effects), fence=self.next_fence())
                effects.put_off.append(PutOff(again, self._clock.monotonic()))
                about = about_task(attempt, attempt.intent.url)
                number = task.history.attempts + 1
                effects.happened.append(events.TaskInterrupted(**about, attempt=number))
            case Failure():
                self._not_visible(attempt, out, outcome, effects)
            case _:
                raise AssertionError(f"{outcome} does not answer the taking of steps")

    def _settle_publish(
        self, attempt: Publish, out: Out, outcome: Outcome, effects: Effects
    ) -> None:
        match outcome:
            case Published(mtime_ns=mtime_ns, inode=inode):
                self._published(attempt, out, mtime_ns, inode, effects)
            case Failure():
                self._not_visible(attempt, out, outcome, effects)
            case _:
                raise AssertionError(f"{outcome} does not answer a publication")

    def _not_visible(
        self, attempt: Finish | Publish, out: Out, failure: Failure, effects: Effects
    ) -> None:
        """Decide what follows when a verified part could not be finished or published."""
        group, task, intent = out.group, attempt.task, attempt.intent
        if _may_try_again(attempt, failure, group.run):
            self._put_off(attempt, out, failure, effects)
            return
        group.run.bytes -= intent.size_bytes
        if group.run.cancelled:
            self._cancelled(group, task, TaskState.PUBLISHING, effects)
        elif failure.code in DISK_WAITS:
            delay_s = min(_AS_LONG_AGAIN * intent.elapsed_s, _MOST_DISK_DELAY_S)
            delay_s = max(delay_s, DISK_DELAY_S)
            _tell_deferred(attempt, failure, "disk", delay_s, effects)
            self._fetch_again(attempt, out, delay_s, "disk", effects)
        elif attempt.recovered and failure.transient and not failure.kept:
            # The crash was charged nowhere, and it is what tore the part.
            self._fetch_again(attempt, out, 0.0, "", effects)
        else:
            # What its steps have made may lie about still, to be used at once more.
            effects.sweep |= isinstance(attempt, Finish) and failure.transient
            self._failed(attempt, out, failure, TaskState.PUBLISHING, effects)

    def _put_off(
        self, attempt: Finish | Publish, out: Out, failure: Failure, effects: Effects
    ) -> None:
        """Try again what was tried with the same part."""
        wait, delay_s = "retry", _PUBLISH_DELAY_S * 2.0**attempt.failures
        failures = attempt.failures + 1
        if failure.code in DISK_WAITS:
            wait, delay_s, failures = "disk", DISK_DELAY_S, attempt.failures
        _tell_deferred(attempt, failure, wait, delay_s, effects)
        out.group.run.waits[attempt.task.id] = (wait, self._steady.now_s() + delay_s)
        if isinstance(attempt, Finish):
            attempt = self._rest(attempt, effects)
        again = replace(attempt, fence=self.next_fence(), failures=failures)
        effects.put_off.append(PutOff(again, self._clock.monotonic() + delay_s))

    def _rest(self, attempt: Finish, effects: Effects) -> Finish:
        """Record that nobody takes the steps of a task now; returns what is to be done later."""
        task, intent = attempt.task, replace(attempt.intent, begun=False)
        effects.changes.append(Intends(task=task.id, intent=intent, history=task.history))
        return replace(attempt, intent=intent)

    def _fetch_again(
        self, attempt: Finish | Publish, out: Out, delay_s: float, wait: str, effects: Effects
    ) -> None:
        """Fetch what could not be published, for a reason that is charged to nobody."""
        group, task = out.group, attempt.task
        group.move(TaskState.PUBLISHING, TaskState.READY)
        self._put_back(group, task, task.history, delay_s, wait, out.previous, effects)

    def _published(
        self, attempt: Publish, out: Out, mtime_ns: int, inode: int, effects: Effects
    ) -> None:
        intent = attempt.intent
        if not attempt.task.spec.fetches:
            detail = "made" if out.group.end is None else "done"
            self._done_with(attempt, out, detail, None, effects)
            return
        record = FileRecord(
            url=intent.url,
            size_bytes=intent.size_bytes,
            mtime_ns=mtime_ns,
            inode=inode,
            verified=intent.verified,
            digests=intent.digests,
            validator=intent.validator,
        )
        detail = "resumed" if intent.resumed_from_bytes else "downloaded"
        self._done_with(attempt, out, detail, record, effects)

    def _done_with(
        self,
        attempt: Finish | Publish,
        out: Out,
        detail: str,
        record: FileRecord | None,
        effects: Effects,
    ) -> None:
        """Let a task succeed; ``record``: of the file that it has fetched."""
        group, task, intent = out.group, attempt.task, attempt.intent
        group.forget(task.id)
        group.move(TaskState.PUBLISHING, TaskState.SUCCEEDED)
        effects.freed = True
        effects.changes.append(
            Succeeded(
                task=task.id,
                root=intent.root,
                path=intent.path,
                url=intent.url,
                detail=detail,
                unchanged=None,
                record=record,
            )
        )
        effects.final.append(
            events.TaskDone(
                **about_task(attempt, intent.url),
                outcome=detail,
                final_url=intent.final_url,
                size_bytes=intent.size_bytes,
                verified=intent.verified.value if task.spec.fetches else "",
                digests=tuple(map(str, intent.digests)),
                attempts=task.history.attempts + 1,
                resumed_from_bytes=intent.resumed_from_bytes,
                received_bytes=intent.received_bytes,
                elapsed_s=intent.elapsed_s,
                bytes_per_s=intent.received_bytes / max(intent.elapsed_s, 1e-6),
            )
        )

    def _failed(
        self,
        attempt: Fetch | Finish | Publish,
        out: Out,
        failure: Failure,
        before: TaskState,
        effects: Effects,
    ) -> None:
        group, task = out.group, attempt.task
        if failure.code == "checksum_mismatch":
            self._mismatched(group.run, task, failure, effects)
        decision = retry.decide(
            failure,
            task.history,
            group.rules.retry,
            sources=len(task.spec.sources),
            now_s=self._steady.now_s(),
            random=self._random,
        )
        if isinstance(decision, retry.GiveUp):
            group.move(before, TaskState.FAILED)
            self._give_up(group, task, decision, effects)
            return
        about = about_task(attempt, told_source(task, task.history))
        if decision.wait == "not_yet":
            effects.happened.append(
                events.TaskDeferred(
                    **about,
                    wait=decision.wait,
                    reason=failure.reason,
                    delay_s=decision.delay_s,
                )
            )
        else:
            effects.happened.append(
                events.TaskRetryScheduled(
                    **about,
                    attempt=decision.history.attempts,
                    code=failure.code,
                    reason=failure.reason,
                    delay_s=decision.delay_s,
                    next_url=told_source(task, decision.history),
                )
            )
        group.move(before, TaskState.READY)
        self._put_back(
            group, task, decision.history, decision.delay_s, decision.wait, out.previous, effects
        )

    def _mismatched(self, run: OpenedRun, task: Task, failure: Failure, effects: Effects) -> None:
        """Count an origin's wrong digests: with the second it is the last choice of this run."""
        origin = origin_of(source_of(task, task.history))
        run.mismatches[origin] += 1
        if task.mirrored and run.mismatches[origin] == MOST_MISMATCHES:
            effects.happened.append(
                events.MirrorBanned(**about_run(run), origin=origin, reason=failure.reason)
            )

    def _fail_fast(self, run: OpenedRun, effects: Effects) -> None:
        """End the rest of a run once a task has failed that may not, if the job says so.

        What is verified is published, and steps that have begun go on to their end.
        """
        if run.unwanted() or not run.job.fail_fast:
            return
        tasks = [group for group in run.groups.values() if group.end is None]
        if not any(group.hurt() for group in tasks):
            return
        run.failing = True
        effects.failing_runs.append(run)
        for group in tasks:
            if group.phase is not Phase.ENDED:
                self.end_rest(group, TaskState.SKIPPED, "fail_fast", effects)

    def _left_undone(self, group: Group, task: Task, before: TaskState, effects: Effects) -> None:
        """Skip a task of a run that is failing; where it was running its row is skipped already."""
        group.forget(task.id)
        group.move(before, TaskState.SKIPPED)
        about = about_run(group.run)
        if before is not TaskState.RUNNING:
            origin, run = origin_of(source_of(task, task.history)), group.run.run.id
            effects.changes += (
                Waits(task=task.id, origin=origin, history=task.history, due_at_s=0.0, reason=""),
                RestEnded(run=run, group=group.id, state=TaskState.SKIPPED, reason="fail_fast"),
            )
        effects.freed = True
        effects.happened.append(
            events.TasksSkipped(**about, group=group.name, count=1, reason="fail_fast")
        )

    def _give_up(self, group: Group, task: Task, decision: retry.GiveUp, effects: Effects) -> None:
        history = decision.history
        group.forget(task.id)
        effects.freed = True
        effects.changes.append(
            Failed(task=task.id, code=decision.code, reason=decision.reason, history=history)
        )
        effects.final.append(
            events.TaskFailed(
                **about_run(group.run),
                task=task.id,
                path=task.spec.path,
                url=told_source(task, task.history),
                code=decision.code,
                reason=decision.reason,
                attempts=history.attempts,
                causes=tuple(
                    f"{task.spec.sources[index]}: {code}: {reason}"
                    if task.spec.fetches
                    else f"{code}: {reason}"
                    for index, code, reason in history.causes
                ),
                quarantine=history.dossier.quarantine if history.dossier else "",
            )
        )
        self._fail_fast(group.run, effects)

    def _cancelled(self, group: Group, task: Task, before: TaskState, effects: Effects) -> None:
        """The row of a running task was cancelled with its run; one being published was not."""
        group.forget(task.id)
        group.move(before, TaskState.CANCELLED)
        if before is TaskState.PUBLISHING:
            origin = origin_of(source_of(task, task.history))
            effects.changes += (
                Waits(task=task.id, origin=origin, history=task.history, due_at_s=0.0, reason=""),
                RestEnded(
                    run=group.run.run.id, group=group.id, state=TaskState.CANCELLED, reason=""
                ),
            )
        effects.sweep = True
        effects.freed = True
        effects.happened.append(events.TasksCancelled(**about_run(group.run), count=1))

    def _put_back(
        self,
        group: Group,
        task: Task,
        history: History,
        delay_s: float,
        reason: str,
        previous: FileRecord | None,
        effects: Effects,
    ) -> None:
        """Make a task wait for its next attempt, in the queue if there is room."""
        if group.run.failing and group.end is None:
            self._left_undone(group, task, TaskState.READY, effects)
            return
        group.forget(task.id)
        due_at_s = self._steady.now_s() + delay_s if delay_s else 0.0
        origin = origin_of(source_of(task, history))
        effects.changes.append(
            Waits(task=task.id, origin=origin, history=history, due_at_s=due_at_s, reason=reason)
        )
        if group.phase is Phase.BLOCKED:  # of an earlier life, and not known yet to be wanted
            return
        if not group.has_room(origin, waits=delay_s > 0):
            group.leave(origin, due_at_s)
            return
        ready = Ready(
            task=replace(task, history=history),
            origin=origin,
            due_at_s=due_at_s,
            wait=reason if delay_s else "",
            previous=previous,
        )
        self.line_up(group, ready, effects)

    # ------------------------------------------------------------ runs and groups

    def advance(self, run: OpenedRun, effects: Effects) -> None:
        """Open groups whose needs are met, skip those that never will, end what is done."""
        self._fail_fast(run, effects)
        changed = True
        while changed:
            changed = False
            for group in list(run.left.values()):
                if group.phase is Phase.BLOCKED:
                    changed = self._try_open(group, effects) or changed
                if group.phase is Phase.OPEN and group.done():
                    changed = True
                    run.end(group)
                    self._remember(group, effects)
                self.read_more(group, effects)
        if not (run.leaving or run.left):
            self._end(run, effects)

    def _try_open(self, group: Group, effects: Effects) -> bool:
        if group.end is not None:
            return self._try_end(group, group.end, effects)
        if group.run.failing:  # all of it has ended
            group.phase = Phase.OPEN
            return True
        verdict = graph.met(group.opened.group.needs, group.run.ended)
        if verdict is graph.Met.NOT_YET and not group.run.cancelled:
            return False
        if verdict is graph.Met.YES and not group.run.cancelled and group.undecided():
            if not group.asked:
                group.asked = True
                effects.to_expand.append(group)
            return False
        group.phase = Phase.OPEN
        if verdict is graph.Met.NEVER and not group.run.cancelled:
            group.upstream_failed = True
            self.end_rest(group, TaskState.SKIPPED, "upstream_failed", effects)
        elif group.wanted is False and not group.run.cancelled:
            self.end_rest(group, TaskState.SKIPPED, "condition", effects)
        elif group.expanding:
            effects.to_expand.append(group)
        return True

    def _try_end(self, group: Group, end: RunEnd, effects: Effects) -> bool:
        """Make the task of what is done at a run's end, if it is due, when its turn has come."""
        run = group.run
        if not (run.cancelled or run.is_turn_of(end)):
            return False
        group.phase = Phase.OPEN
        if not graph.is_due(end, run.final_state()):
            group.expanding = False
        elif group.expanding:
            path = end.path_in(run.job.name)
            spec = TaskSpec(key=path, path=path, sources=(HERE,))
            group.list_out = True
            effects.batches.append((group, Batch(specs=(spec,), position=None)))
        return True

    def _remember(self, group: Group, effects: Effects) -> None:
        """Put on record with which files of others a group has succeeded, for its next run.

        Where the outputs appear together, a group has succeeded only when they have: what the next
        run passes over, it takes from what is seen.
        """
        run = group.run
        if run.job.generations is None:
            done = [group]
        else:
            seen = group.end is RunEnd.PUBLISH and group.counts[TaskState.SUCCEEDED]
            done = list(run.groups.values()) if seen else []
        for one in done:
            whole = one.succeeded() and not one.counts[TaskState.FAILED]  # some may fail
            when = one.opened.group.when
            # Also where nobody asks for its files yet: an edit may bring somebody who does.
            may_be_passed_over = when is not None and not when.each
            if may_be_passed_over and one.was_wanted() and whole and not run.cancelled:
                effects.changes.append(
                    GroupSucceeded(
                        job=run.job.name,
                        group=one.name,
                        seen=one.seen,
                        run=run.run.id,
                    )
                )

    def end_rest(self, group: Group, state: TaskState, reason: str, effects: Effects) -> None:
        """Let every task that is not under way be skipped or cancelled; a list is read no more."""
        group.expanding = False
        group.forget_queue()
        count = group.counts[TaskState.READY]
        group.move(TaskState.READY, state, count)
        effects.freed = True
        effects.changes.append(
            RestEnded(run=group.run.run.id, group=group.id, state=state, reason=reason)
        )
        about = about_run(group.run)
        if reason == "condition":
            effects.happened.append(events.TasksPassedOver(**about, group=group.name, count=count))
        elif count and state is TaskState.SKIPPED:
            effects.happened.append(
                events.TasksSkipped(**about, group=group.name, count=count, reason=reason)
            )
        elif count:
            effects.happened.append(events.TasksCancelled(**about, count=count))

    def _end(self, run: OpenedRun, effects: Effects) -> None:
        now_s = self._clock.wall()
        run.state = run.final_state()
        run.finished_at_s = now_s
        effects.ended.append(run)
        effects.changes.append(RunChanged(run=run.run.id, state=run.state, at_s=now_s))
        counts = run.counts()
        effects.final.append(
            events.RunEnded(
                **about_run(run),
                state=run.state,
                succeeded=counts.succeeded,
                failed=counts.failed,
                skipped=counts.skipped,
                cancelled=counts.cancelled,
                bytes=run.bytes,
                elapsed_s=max(0.0, now_s - (run.started_at_s or now_s)),
            )
        )

    def charge_crash(self, group: Group, task: Task, durable_bytes: int, effects: Effects) -> None:
        """The daemon died while it worked on the task; ``durable_bytes``: what its part holds."""
        history = retry.after_crash(task.history, durable_bytes)
        if self._is_poison(group, task, history, TaskState.RUNNING, effects):
            return
        group.move(TaskState.RUNNING, TaskState.READY)
        origin = origin_of(source_of(task, history))
        effects.changes.append(
            Waits(task=task.id, origin=origin, history=history, due_at_s=0.0, reason="")
        )
        if group.run.failing:
            self._left_undone(group, task, TaskState.READY, effects)

    def go_on_finishing(
        self, group: Group, left: Unfinished, intent: Intent, effects: Effects
    ) -> Finish | None:
        """Take a task's steps anew after the end of a life; None: they have ended too many."""
        task = left.task
        if intent.begun and intent.staged is None:
            history = retry.after_crash(task.history, 0)
            if self._is_poison(group, task, history, TaskState.PUBLISHING, effects):
                return None
            left = replace(left, task=replace(task, history=history))
            intent = replace(intent, begun=False)  # nobody takes them as long as the run is held
            effects.changes.append(Intends(task=task.id, intent=intent, history=history))
        return self.finish(group, left, intent, recovered=True)

    def _is_poison(
        self, group: Group, task: Task, history: History, before: TaskState, effects: Effects
    ) -> bool:
        """Fail a task that was worked on at each of too many crashes."""
        if not self._poison or history.crashes < 2 * self._poison:
            return False
        group.move(before, TaskState.FAILED)
        reason = f"the daemon crashed {history.crashes} times while it worked on this task"
        decision = retry.GiveUp(history=history, code="poison", reason=reason)
        self._give_up(group, task, decision, effects)
        return True

    def begin_here(self, group: Group, ready: Ready, effects: Effects) -> None:
        """Let a task that fetches nothing go on to its steps, or to the publisher.

        It is said to be taken from the queue.
        """
        task, rules = ready.task, group.rules
        group.start(task.id, ready.origin)
        group.move(TaskState.READY, TaskState.PUBLISHING)
        intent = Intent(
            root=rules.root,
            path=task.spec.path,
            part="",
            device=0,
            inode=0,
            size_bytes=0,
            verified=Verify.NONE,
            digests=(),
            clobber=rules.if_exists is not IfExists.FAIL,
            url="",
            final_url="",
            validator=Validator(),
            mtime_s=self._clock.wall(),
            resumed_from_bytes=0,
            received_bytes=0,
            elapsed_s=0.0,
        )
        effects.changes.append(Intends(task=task.id, intent=intent, history=task.history))
        after = self.finish if group.opened.group.steps else self.publication
        attempt = after(group, ready, intent, recovered=False)
        effects.intended.append(attempt)
        number = task.history.attempts + 1
        about = about_task(attempt, intent.url)
        effects.happened.append(events.TaskStarted(**about, attempt=number))

    # ------------------------------------------------------------ the way into the queue

    def line_up(self, group: Group, ready: Ready, effects: Effects) -> None:
        """Put a task into the queue."""
        wait_s = max(0.0, ready.due_at_s - self._steady.now_s()) if ready.due_at_s else 0.0
        if ready.wait and not wait_s:  # it ran out while the task stood in the store
            ready = replace(ready, wait="")
        group.add(ready.task.id, ready.origin, waits=wait_s > 0)
        task = self._best_source(group.run, ready.task)
        if task is not ready.task:
            ready = replace(ready, task=task)
        if ready.wait:
            group.run.waits[ready.task.id] = (ready.wait, ready.due_at_s)
        effects.entries.append(
            Entry(
                ready=ready,
                run=group.run.run.id,
                priority=group.run.job.priority,
                due_s=self._clock.monotonic() + wait_s if wait_s else 0.0,
                origin=origin_of(source_of(task, task.history)) if task.mirrored else ready.origin,
                alone=bool(self._poison) and ready.task.history.crashes >= self._poison,
            )
        )

    def elsewhere(self, run: OpenedRun, entry: Entry) -> Entry | None:
        """Return the entry for another source, if its own was banned since it lined up."""
        task = entry.ready.task
        if not task.mirrored or run.mismatches[entry.origin] < MOST_MISMATCHES:
            return None
        other = self._best_source(run, task)
        if other is task:
            return None
        ready = replace(entry.ready, task=other)
        return replace(entry, ready=ready, origin=origin_of(source_of(other, other.history)))

    def _best_source(self, run: OpenedRun, task: Task) -> Task:
        """Let a task that has several sources begin, or go on, at the one that promises most."""
        if not task.mirrored:
            return task
        choices = retry.choices(task.history, len(task.spec.sources))
        origins = [origin_of(task.spec.sources[index]) for index in choices]
        banned = {origin for origin in origins if run.mismatches[origin] >= MOST_MISMATCHES}
        best = choices[self._origins.best(origins, banned)]
        if best == task.history.source:
            return task
        return replace(task, history=replace(task.history, source=best))

    def read_more(self, group: Group, effects: Effects) -> None:
        """Have the store asked for more tasks of the group if its window runs low."""
        if group.should_read(self._origins.shut):
            effects.reads.append((group, group.begin_read()))

    def finish(
        self, group: Group, of: Fetch | Unfinished | Ready, intent: Intent, *, recovered: bool
    ) -> Finish:
        return Finish(
            fence=self.next_fence(),
            job=group.run.job,
            run=group.run.run,
            group=group.opened.group,
            task=of.task,
            previous=of.previous,
            intent=intent,
            recovered=recovered,
            passed_over=_passed_over(group),
        )

    def publication(
        self,
        group: Group,
        of: Fetch | Finish | Unfinished | Ready,
        intent: Intent,
        *,
        recovered: bool,
    ) -> Publish:
        return Publish(
            fence=self.next_fence(),
            job=group.run.job,
            run=group.run.run,
            group=group.opened.group,
            task=of.task,
            previous=of.previous,
            intent=intent,
            recovered=recovered,
        )


def _may_try_again(attempt: Finish | Publish, failure: Failure, run: OpenedRun) -> bool:
    """Whether the part is as good as before; one fetched anew might only meet its own file."""
    if not failure.kept or run.cancelled:
        return False
    if failure.code in DISK_WAITS:
        return True
    return failure.transient and attempt.failures < MOST_PUBLISH_FAILURES


def _tell_deferred(
    attempt: Finish | Publish, failure: Failure, wait: str, delay_s: float, effects: Effects
) -> None:
    about = about_task(attempt, attempt.intent.url)
    effects.happened.append(
        events.TaskDeferred(**about, wait=wait, reason=failure.reason, delay_s=delay_s)
    )


def after_deferral(task: Task, outcome: Deferred) -> tuple[History, float]:
    """Return where the task goes on after an attempt that was not possible, and in how long."""
    if outcome.elsewhere:
        return retry.without_room(task.history, outcome.delay_s, sources=len(task.spec.sources))
    return task.history, outcome.delay_s


def _passed_over(group: Group) -> tuple[str, ...]:
    """Return the groups whose earlier files are of this one's concern."""
    if group.end is RunEnd.PUBLISH:
        return group.run.passed_over()
    if not group.opened.group.gathers:
        return ()
    return tuple(name for name in group.run.passed_over() if name in group.opened.group.needs)
