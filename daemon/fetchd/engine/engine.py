"""The one place where a task changes state: take, report, settle, obey."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from types import MappingProxyType

from fetchd import events
from fetchd.clock import Clock, Random, SteadyWall
from fetchd.engine import retry, schedule, windows
from fetchd.engine.admission import Admission
from fetchd.engine.deciding import Deciding
from fetchd.engine.decisions import NAME_DELAY_S, Decisions, after_deferral
from fetchd.engine.desk import Desk
from fetchd.engine.editing import EDIT_LOOK_S, FROZEN_LOOK_S, Editing, freeze, is_comparable
from fetchd.engine.effects import Effects, Out, PutOff, about_run, about_task, source_of
from fetchd.engine.kept import KeptJobs, dealt_with, revised
from fetchd.engine.origin_records import OriginRecords
from fetchd.engine.origins import FORGET_S, Origins
from fetchd.engine.queue import Entry, Ruling, TaskQueue
from fetchd.engine.reading import Readings, limited
from fetchd.engine.runs import ORIGINS_A_READ, TASKS_AN_ORIGIN, Group, OpenedRun, Phase
from fetchd.errors import StoreError, ValueProblem
from fetchd.model import (
    Answer,
    Attempt,
    Backfill,
    Batch,
    Cancel,
    Command,
    Deferred,
    Due,
    Expand,
    Failure,
    Fetch,
    Finish,
    Job,
    Kept,
    ListFile,
    OnRemove,
    OriginBounds,
    Outcome,
    Pause,
    Progress,
    Publish,
    Reading,
    Remove,
    Report,
    Resume,
    Retry,
    Run,
    RunState,
    RunView,
    Submit,
    TaskGroup,
    TaskState,
    TransferView,
)
from fetchd.ports import (
    A,
    Appended,
    Expander,
    Intends,
    KeptChanged,
    KeptForgotten,
    Naming,
    NewGroup,
    NewJob,
    NewKept,
    OpenRun,
    Revised,
    RunCancelled,
    RunChanged,
    RunPaused,
    Started,
    Store,
    Window,
)

#: A view shows so many origins.
MOST_ORIGINS_SHOWN = 100
#: Runs that have ended and are still shown.
RECENT_RUNS = 20
#: Parts of failed tasks, of tasks that are not ours (``get`` leaves some), and what was refused
#: are kept this long.
KEEP_PARTS_S = 7 * 86400.0
_WEEK_S = 7 * 86400.0
_FAILED = StoreError("the engine failed, the next start goes on from the record")


_BOUNDS = OriginBounds(connections=8)
_NO_BOUNDS: Mapping[str, OriginBounds] = MappingProxyType({})


class Engine:
    """``ports.WorkSource`` and ``ports.Commands``; all public methods may be called by any thread.

    ``origins``: bounds of single ones; for all others ``bounds`` hold.
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
        bounds: OriginBounds = _BOUNDS,
        origins: Mapping[str, OriginBounds] = _NO_BOUNDS,
        poison: int = 3,
    ) -> None:
        self._store = store
        self._expand = expand
        self._tell = tell
        self._clock = clock
        self._steady = SteadyWall(clock)
        self._origins = Origins(bounds, origins)  # guarded by _lock
        self._origin_records = OriginRecords(self._origins, clock, self._steady)  # as well
        self._readings = Readings(self._steady, poison)
        self._decide = Decisions(clock, self._steady, random, poison, self._origins, self._readings)
        self._queue = TaskQueue(
            clock,
            connections_per_origin=bounds.connections,
            intervals_s={
                origin: 1.0 / own.requests_per_s
                for origin, own in origins.items()
                if own.requests_per_s
            },
        )
        for origin, own in origins.items():
            self._queue.rule(Ruling(origin, own.connections))
        self._to_publish: Desk[Publish] = Desk()
        self._to_finish: Desk[Finish] = Desk()
        self._to_expand: Desk[Group] = Desk()
        self._submitting = threading.Lock()  # one submission at a time; held over store calls
        self._lock = threading.Lock()
        # All of the following, and all that hangs on it, is guarded by _lock.
        self._runs: dict[int, OpenedRun] = {}
        self._by_job: dict[str, OpenedRun] = {}
        self._out: dict[int, Out] = {}
        self._held: set[Group] = set()  # groups with tasks that wait for a destination
        self._asking: set[Group] = set()  # groups for which the store is being read
        self._ending = 0  # runs whose end is decided and not yet on record
        self._admission = Admission()
        self._kept = KeptJobs(random)
        self._editing = Editing(self._decide)
        self._put_off: list[PutOff] = []  # verified parts that are finished or published later
        self._read_later: set[Group] = set()  # whose items could not be read
        self._suspect: Group | None = None  # it waits until nothing else is under way, or is read
        self._recent: deque[RunView] = deque(maxlen=RECENT_RUNS)
        self._stopping = False
        self._sweep_due = False
        self._failure: StoreError | None = None

    # ------------------------------------------------------------ life

    def recover(self, durable_bytes: Mapping[tuple[str, str], int]) -> tuple[int, int, int]:
        """Go on where the last life ended; returns how many runs, running and publishing tasks.

        ``durable_bytes``: what the parts on the disk hold for certain, by (root, path).
        """
        unfinished = self._store.unfinished()
        origins = self._store.origins(self._steady.now_s() - FORGET_S)
        open_runs = self._store.open_runs()
        kept = self._store.kept()
        intended: list[Finish | Publish] = []
        publishing = 0
        with self._deciding() as effects:
            for one in kept:
                self._kept.put(one)
            self._origin_records.load(origins, effects)
            for open_run in open_runs:
                run = self._adopt(open_run)
                for group in run.groups.values():
                    # The wall clock may have been set back since the last life.
                    latest_s = self._steady.now_s() + retry.longest_delay_s(group.rules.retry)
                    self._store.limit_waits(group.id, latest_s)
                    group.reading = limited(group.reading, self._steady.now_s())
                    if group.reading.begun and not run.cancelled:
                        self._readings.charge(group, effects)
                self._reopened(run, effects)
                if run.cancelled:
                    for group in run.groups.values():
                        self._decide.end_rest(group, TaskState.CANCELLED, "", effects)
            for left in unfinished:
                task, intent = left.task, left.intent
                if left.run not in self._runs:
                    raise StoreError(f"task {task.id} is under way, but its run {left.run} ended")
                group = self._runs[left.run].groups_by_id[task.group]
                if intent is None:
                    place = (group.rules.root, task.spec.path)
                    self._decide.charge_crash(group, task, durable_bytes.get(place, 0), effects)
                    continue
                publishing += 1
                if not group.opened.group.steps:
                    intended.append(self._decide.publication(group, left, intent, recovered=True))
                elif (finish := self._decide.go_on_finishing(group, left, intent, effects)) is None:
                    continue
                else:
                    intended.append(finish)
                group.busy.add(task.id)
                group.run.bytes += intent.size_bytes
            for run in list(self._runs.values()):
                self._decide.advance(run, effects)
        self._lay_out(intended)
        return len(open_runs), len(unfinished) - publishing, publishing

    def stop(self) -> None:
        """Give out no more work but to publish; ``report`` answers "not wanted"."""
        with suppress(StoreError), self._deciding() as effects:
            # What it has kept is recorded yet, but for an edit that is being recorded right now.
            for run in self._runs.values():
                if run.frozen and run.thaws_at_s < math.inf:
                    self._thaw(run, effects)
        with self._lock:
            self._stopping = True
        self._queue.close()
        self._to_expand.close()
        self._to_finish.close()

    def finish_publishing(self) -> None:
        """Let the publisher go home once it has published all that was verified.

        To be called after the fetchers have ended.
        """
        try:
            with self._lock:
                self._store.record(self._origin_records.learned())
            self._store.flush()
        finally:
            self._to_publish.close()

    def tick(self) -> None:
        """Look after waits that the queue does not know; to be called about once a second."""
        soon_s = self._steady.now_s() + 30.0
        with self._deciding() as effects:
            now_s = self._clock.monotonic()
            effects.entries += self._admission.let_go(now_s)
            self._origin_records.tick(now_s, effects)
            self._try_again(now_s)
            if self._suspect is not None and not self._is_to_be_read(self._suspect):
                self._let_others_start()
            self._read_again(effects)
            for run in self._runs.values():
                if run.frozen and run.thaws_at_s <= now_s:
                    self._thaw(run, effects)
                self._look_at_window(run, effects)
                for group in run.groups.values():
                    if group.next_due_at_s is not None and group.next_due_at_s <= soon_s:
                        group.next_due_at_s = None
                        group.look_again()
                        self._decide.read_more(group, effects)

    def _look_at_window(self, run: OpenedRun, effects: Effects) -> None:
        """Hold a run that may not work now, or let it go on; the wall clock decides."""
        if run.job.window is not None:
            run.closed_until_s = self._closed_until_s(run)
        held = run.held()
        if not (held or run.frozen):
            effects.entries += run.parked
            run.parked = []
        if held != run.told_held:
            run.told_held = held
            about = about_run(run)
            effects.happened.append(
                events.RunHeld(**about, wait=held, until_s=run.closed_until_s)
                if held
                else events.RunReleased(**about)
            )

    def _closed_until_s(self, run: OpenedRun) -> float | None:
        """Return when the run's window opens, None: it has none, or that is open."""
        window, zone, now_s = run.job.window, run.job.timezone, self._clock.wall()
        if window is None or windows.is_open(window, zone, now_s):
            return None
        if run.closed_until_s is not None and now_s < run.closed_until_s < now_s + _WEEK_S:
            return run.closed_until_s
        return windows.opens_s(window, zone, now_s)

    def idle(self) -> bool:
        """Whether every run has ended, which is on record and was told."""
        with self._lock:
            return not self._runs and not self._ending

    def sweep_due(self) -> bool:
        """Whether parts may lie about that nobody needs; asking resets it."""
        with self._lock:
            due, self._sweep_due = self._sweep_due, False
            return due

    def needs_part(self, root: str, path: str, age_s: float) -> bool:
        """Whether the part of a destination, untouched for ``age_s``, may still be of use."""
        state = self._store.destination_state(root, path)
        if state is None and self._editing.forget_dropped(root, path):
            return False
        if state in {None, TaskState.FAILED, TaskState.SKIPPED}:
            return age_s < KEEP_PARTS_S
        return not state.ended

    def needs_record(self, root: str, path: str, age_s: float) -> bool:
        """Whether it may still be of use what was made of a destination's file, ``age_s`` ago."""
        return age_s < KEEP_PARTS_S or self._store.knows(root, path)

    # ------------------------------------------------------------ ports.WorkSource

    def take(self, kind: type[A], most: int) -> Sequence[A]:
        taken: Sequence[Attempt]
        try:
            if kind is Fetch:
                taken = self._take_fetch()
            elif kind is Publish:
                taken = self._take_publish(most)
            elif kind is Finish:
                taken = self._take_finish()
            else:
                taken = self._take_expand()
        except BaseException as exc:
            error = self._break_off(exc)
            if error is exc:
                raise
            self._tell_failure(exc)
            raise error from exc
        return taken  # type: ignore[return-value]  # each branch gives what its kind says

    def report(self, attempt: Attempt, progress: Progress) -> bool:
        with self._lock:
            out = self._out.get(attempt.fence)
            if out is None:
                return False
            new_bytes = progress.received_bytes - out.progress.received_bytes
            out.progress = progress
            run = out.group.run
            # Steps that have begun are not stopped: some may not be taken twice.
            held = isinstance(attempt, Fetch) and bool(run.held() or run.failing)
            wanted = not (self._stopping or run.cancelled or out.stale or held)
        if progress.wish is not None:
            self._heed(attempt, out.group, *progress.wish)
        if new_bytes > 0 and isinstance(attempt, Fetch):
            self._tell(
                events.TaskProgressed(**about_task(attempt, attempt.source), bytes=new_bytes)
            )
        return wanted

    def settle(self, settled: Sequence[tuple[Attempt, Outcome]]) -> None:
        with self._deciding() as effects:
            self._settle_all(settled, effects)

    def exchange(self, settled: Sequence[tuple[Attempt, Outcome]]) -> Sequence[Fetch]:
        """Settle fetches and, in the same pass, take one that may start at once.

        Empty: there is none; ``take`` waits for the next one.
        """
        with self._deciding() as effects:
            self._settle_all(settled, effects)
            for ruling in effects.rulings:  # before anything is released that they concern
                self._queue.rule(ruling)
            entry = self._queue.exchange(effects.released)
            effects.rulings, effects.released = [], []
            attempt = None if entry is None else self._start(entry, effects)
        return () if attempt is None else (attempt,)

    def _settle_all(self, settled: Sequence[tuple[Attempt, Outcome]], effects: Effects) -> None:
        for attempt, outcome in settled:
            out = self._out.pop(attempt.fence, None)
            if out is None:
                continue
            if out.lent:
                self._end_loans(out, out.lent)
            if out.group is self._suspect and isinstance(attempt, Expand):
                self._let_others_start()
            self._note_room(attempt, outcome, effects)
            self._origin_records.note(out, outcome, effects)
            self._editing.settle(out, outcome, effects)  # by the rules, if no edit is in the way

    # ------------------------------------------------------------ ports.Loans

    def lend(self, attempt: Attempt) -> bool:
        with self._lock:
            out = self._out.get(attempt.fence)
            if out is None or out.entry is None or out.stale:
                return False
            if self._stopping or out.group.run.unwanted() or out.group.run.held():
                return False
            if out.entry.alone or not self._queue.lend(out.entry):
                return False
            out.lent += 1
            self._origins.lend(out.entry.origin, self._clock.monotonic())
            return True

    def recalled(self, attempt: Attempt) -> bool:
        with self._lock:
            out = self._out.get(attempt.fence)
            return (
                out is not None
                and out.entry is not None
                and out.lent > 0
                and self._queue.recalled(out.entry)
            )

    def ask(self, attempt: Attempt) -> bool:
        with self._lock:
            out = self._out.get(attempt.fence)
            return out is None or out.entry is None or self._queue.ask(out.entry)

    def left_alone_s(self, origin: str) -> float:
        return self._queue.left_alone_s(origin)

    def connection_failed(self, attempt: Attempt, failure: Failure, asked_s: float) -> None:
        with self._deciding() as effects:
            out = self._out.get(attempt.fence)
            if out is not None:
                self._origin_records.note_connection(out, failure, asked_s, effects)

    def give_back(self, attempt: Attempt) -> None:
        with self._lock:
            out = self._out.get(attempt.fence)
            if out is not None:
                self._end_loans(out, min(1, out.lent))

    # ------------------------------------------------------------ ports.Commands

    def obey(self, command: Command) -> Answer:
        match command:
            case Submit():
                return self.submit([command])[0]
            case Cancel(job=job):
                with self._submitting:
                    return self._cancel(job)
            case Retry(job=job):
                with self._submitting:
                    return self._retry(job)
            case Remove(job=job):
                with self._submitting:
                    return self._remove(job)
            case Backfill():
                with self._submitting:
                    return self._backfill(command)
            case Pause(job=job) | Resume(job=job):
                with self._submitting:
                    return self._pause(job, paused=isinstance(command, Pause))

    def submit(self, submissions: Sequence[Submit]) -> list[Answer]:
        with self._submitting:
            with self._lock:  # of a run that is on, all tasks would be counted
                names = {c.job.name for c in submissions if c.file} - self._by_job.keys()
            last_runs = self._store.last_runs(names)
            answers: list[Answer] = []
            new: dict[str, NewJob] = {}
            kept: dict[str, NewKept] = {}
            for command in submissions:
                name = command.job.name
                answer: Answer | None
                if name in new or name in kept:
                    reason = "another file of this job was accepted just now"
                    answer = Answer(done=False, later=True, reason=reason)
                else:
                    answer = self._answer_for_kept(command) or self._answer_for_edit(command)
                    answer = answer or self._answer_for_now(command, names, last_runs)
                if answer is None or (answer.repeated and not answer.stays):
                    if _stays(command):
                        kept[name] = self._new_kept(command)
                    if answer is not None:  # the file of a kept job was away for a while
                        answer = replace(answer, stays=name in kept)
                    elif name in kept and not _runs_now(command):
                        answer = Answer(done=True, stays=True)
                    else:
                        new[name] = self._new_job(command)
                        answer = Answer(done=True, run=new[name].run.id, stays=name in kept)
                answers.append(answer)
            if new or kept:
                self._accept(list(new.values()), list(kept.values()))
            return answers

    def view(self, most_open: int | None = None) -> Report:
        with self._lock:
            now_s = self._clock.monotonic()
            steady_s, behind_s = self._steady.now_s(), self._steady.behind_s()
            shown = islice(self._runs.values(), most_open)
            held_up, verified = self._queue.held_up(), self._verified()
            runs = (
                *self._recent,
                *(
                    run.view(steady_s, behind_s, held_up.get(run.run.id, 0), verified[run.run.id])
                    for run in shown
                ),
            )
            origins = self._origins.views(MOST_ORIGINS_SHOWN, now_s, steady_s - now_s + behind_s)
            left_out = len(self._recent) + len(self._runs) - len(runs)
            transfers = tuple(
                TransferView(
                    job=out.attempt.job.name,
                    run=out.attempt.run.id,
                    path=out.attempt.task.spec.path,
                    url=out.attempt.source,
                    attempt=out.attempt.number,
                    elapsed_s=now_s - out.began_s,
                    progress=out.progress,
                )
                if isinstance(out.attempt, Fetch)
                else TransferView(
                    job=out.attempt.job.name,
                    run=out.attempt.run.id,
                    path=out.attempt.task.spec.path,
                    url=out.attempt.intent.url,
                    attempt=out.attempt.failures + 1,
                    elapsed_s=now_s - out.began_s,
                    progress=out.progress,
                )
                for out in self._out.values()
                if isinstance(out.attempt, Fetch | Finish)
            )
            kept = self._kept.views(self._clock.wall())
        return Report(runs=runs, transfers=transfers, left_out=left_out, origins=origins, kept=kept)

    def _verified(self) -> Counter[int]:
        """Return how many tasks of each run wait for nothing but somebody to take their steps."""
        resting = [one.attempt for one in self._put_off if self._rests(one.attempt)]
        return Counter(attempt.run.id for attempt in (*self._to_finish.waiting(), *resting))

    def kept_files(self) -> Mapping[str, str]:
        with self._lock:
            return self._kept.files()

    def due(self) -> list[Due]:
        with self._lock:
            return self._kept.due(self._clock.wall(), self._by_job)

    def pass_over(self, due: Due) -> None:
        with self._deciding() as effects:
            kept = self._kept.get(due.job)
            if kept is not None and kept.job.revision == due.revision:
                kept = dealt_with(kept, due.scheduled_for_s)
                self._kept.put(kept)
                effects.changes.append(KeptChanged(kept=kept))

    # ------------------------------------------------------------ commands

    def _answer_for_kept(self, command: Submit) -> Answer | None:
        """Return the answer to a file of a kept job, or that has the name of one; None: go on."""
        job = command.job
        with self._lock:
            kept = self._kept.get(job.name)
        if kept is None:
            gone = command.scheduled_for_s is not None
            return Answer(done=False, reason="the job is kept no more") if gone else None
        if kept.file != command.file:
            reason = (
                f"the job {job.name!r} is that of {kept.file}, which stays in the folder; "
                "write another name: into this file, or remove that one first"
            )
            return Answer(done=False, reason=reason)
        if kept.job.revision != job.revision:
            stale = command.scheduled_for_s is not None
            return Answer(done=False, reason="the job was edited meanwhile") if stale else None
        if command.scheduled_for_s is None and not _dropped_again(command, kept):
            return Answer(done=True, repeated=True, stays=True)
        return None

    def _answer_for_now(
        self, command: Submit, names: Collection[str], last_runs: Mapping[str, RunView]
    ) -> Answer | None:
        """Return the answer to a job whose last run is still on or not filed, None if neither.

        ``last_runs``: of the jobs with these ``names``.
        """
        job = command.job
        with self._lock:
            on = self._by_job.get(job.name)
            kept = self._kept.get(job.name)
        another = command.scheduled_for_s is not None or (
            kept is not None and _dropped_again(command, kept)
        )
        if on is not None:
            if not another and (on.run.revision, on.opened.file) == (job.revision, command.file):
                return Answer(done=True, run=on.run.id, repeated=True)
            return Answer(done=False, later=True, reason=f"run {on.run.id} of this job is still on")
        if command.file and job.name not in names:  # it has ended since
            last_runs = self._store.last_runs([job.name])
        last = last_runs.get(job.name)
        if last is not None and not last.filed:
            self._adopt_left(last)
            if not another and (last.revision, last.file) == (job.revision, command.file):
                return Answer(done=True, run=last.id, repeated=True)
            return Answer(done=False, later=True, reason=f"run {last.id} is not filed yet")
        return None

    # ------------------------------------------------------------ edits of kept jobs

    def _answer_for_edit(self, command: Submit) -> Answer | None:
        """Apply the edit of a kept file to the run that is on; None: there is nothing of that."""
        with self._lock:
            kept, on = self._kept.get(command.job.name), self._by_job.get(command.job.name)
        if kept is None or on is None or on.cancelled or not _stays(command):
            return None
        if command.scheduled_for_s is not None or kept.job.revision == command.job.revision:
            return None
        if on.edit is None or on.edit[0] is not command:  # it may be asked for often
            run = replace(on.run, revision=command.job.revision)
            on.edit = command, self._new_job(command, run)
        _, new = on.edit
        if not is_comparable(on, new):
            reason = "its tasks cannot be compared while it works; the edit holds from the next run"
            self._tell_edit(on, command, reason)
            return _not_yet(reason, EDIT_LOOK_S)
        if not self._freeze(on):
            look_s = FROZEN_LOOK_S if on.frozen else EDIT_LOOK_S
            return _not_yet("a file is being published", look_s)
        new_kept = self._new_kept(command)
        revised = self._store.revise(new, new_kept)
        with self._deciding() as effects:
            self._keep(new_kept.kept, effects)
            self._replace(on, revised, effects)
        return Answer(done=True, run=on.run.id, stays=True)

    def _tell_edit(self, run: OpenedRun, command: Submit, reason: str) -> None:
        """Tell once that an edit waits for the end of a run; it is asked about again and again."""
        if run.told_edit is not command:
            run.told_edit = command
            job, file = command.job, command.file
            about = {**about_run(run), "file": file, "revision": job.revision, "reason": reason}
            self._tell(events.EditWaits(**about))

    def _freeze(self, run: OpenedRun) -> bool:
        """As ``freeze``, of a run that is still on."""
        with self._lock:
            if self._runs.get(run.run.id) is not run:
                return False  # it has ended
            held_up = any(one.attempt.run.id == run.run.id for one in self._put_off)
            return freeze(run, self._clock.monotonic(), held_up=held_up)

    def _thaw(self, run: OpenedRun, effects: Effects) -> None:
        """Let a run go on that an edit has kept still in vain."""
        run.frozen = False
        self._look_at_window(run, effects)
        self._editing.go_on(run, effects)

    def _replace(self, before: OpenedRun, revised: Revised, effects: Effects) -> None:
        """Adopt a run anew as it is on record now, and go on with it."""
        run_id = before.run.id
        outs = [out for out in self._out.values() if out.group.run is before]
        outs += [out for out, _ in before.late]
        self._queue.drop_run(run_id)
        self._admission.forget(run_id)
        self._held = {group for group in self._held if group.run is not before}
        self._asking = {group for group in self._asking if group.run is not before}
        run = self._adopt(revised.run, [out.entry for out in outs if out.entry is not None])
        self._editing.carry_over(before, run, outs, revised, effects)

    def _new_kept(self, command: Submit) -> NewKept:
        with self._lock:
            kept = self._kept.get(command.job.name)
        due_s = command.scheduled_for_s
        if kept is not None and due_s is not None:
            return NewKept(kept=dealt_with(kept, due_s))
        return NewKept(kept=revised(kept, command, self._clock.wall()), raw=command.raw)

    def _new_job(self, command: Submit, run: Run | None = None) -> NewJob:
        """``run``: which goes on as what is submitted; None: a new one."""
        job, now_s = command.job, self._clock.wall()
        run = run or Run(
            id=self._store.new_run_id(),
            job=job.name,
            revision=job.revision,
            scheduled_for_s=now_s if command.scheduled_for_s is None else command.scheduled_for_s,
        )
        groups = tuple(self._new_group(job, group, run) for group in job.groups)
        return NewJob(
            job=job, run=run, raw=command.raw, file=command.file, groups=groups, at_s=now_s
        )

    def _new_group(self, job: Job, group: TaskGroup, run: Run) -> NewGroup:
        """Return a group with its tasks, or the first of very many."""
        if isinstance(group.items, ListFile) or group.manifest is not None or group.end:
            return NewGroup(group=group, specs=(), expanding=True)
        batch = self._expand(job, group, run, None)
        return NewGroup(
            group=group,
            specs=batch.specs,
            expanding=batch.position is not None,
            position=batch.position,
        )

    def _accept(self, jobs: Sequence[NewJob], kept: Sequence[NewKept]) -> None:
        """Record new jobs with one commit, and let their runs begin."""
        opened = self._store.add_jobs(jobs, kept)
        for new, run in zip(jobs, opened, strict=True):
            self._tell_accepted(new, run)
        with self._deciding() as effects:
            for one in kept:
                self._keep(one.kept, effects)
            for new in jobs:
                if not _stays(new) and self._kept.get(new.job.name) is not None:
                    self._forget(new.job.name, effects)  # its file was edited to stay no more
            for run in opened:
                self._decide.advance(self._adopt(run), effects)

    def _keep(self, kept: Kept, effects: Effects) -> None:
        before = self._kept.get(kept.job.name)
        self._kept.put(kept)
        if before is None or before.job.revision != kept.job.revision:
            job = kept.job
            effects.happened.append(
                events.JobKept(job=job.name, file=kept.file, revision=job.revision)
            )

    def _forget(self, job: str, effects: Effects) -> None:
        kept = self._kept.get(job)
        assert kept is not None
        self._kept.forget(job)
        effects.changes.append(KeptForgotten(job=job))
        effects.happened.append(events.JobRemoved(job=job, file=kept.file))

    def _remove(self, job: str) -> Answer:
        with self._deciding() as effects:
            kept = self._kept.get(job)
            if kept is None:
                return Answer(done=False, reason=f"there is no kept job {job!r}")
            self._forget(job, effects)
            run = self._by_job.get(job)
            if kept.job.on_remove is OnRemove.CANCEL and run is not None:
                self._cancel_run(run, effects)
        self._store.flush()
        return Answer(done=True)

    def _adopt_left(self, last: RunView | None) -> None:
        """Go on with the last run of a job if it is on record as open, and known to nobody.

        What accepted or reopened it was cut short behind that. The ends of all others were recorded
        before they became unknown.
        """
        if last is None or last.state.ended:
            return
        with self._lock:
            if last.id in self._runs:
                return
        opened = self._store.open_run(last.id)
        with self._deciding() as effects:
            run = self._adopt(opened)
            self._reopened(run, effects)
            self._decide.advance(run, effects)

    def _tell_accepted(self, new: NewJob, opened: OpenRun) -> None:
        """Tell of a job that is on record, and of its tasks that were failed from the start."""
        job, run = new.job, new.run
        tasks = sum(len(group.specs) for group in new.groups)
        self._tell(
            events.JobAccepted(
                job=job.name,
                run=run.id,
                file=new.file,
                revision=job.revision,
                groups=len(new.groups),
                tasks=tasks,
            )
        )
        self._tell(events.TasksAdded(job=job.name, run=run.id, count=tasks))
        for group in new.groups:
            if skipped := sum(spec.skip for spec in group.specs):
                self._tell(
                    events.TasksPassedOver(
                        job=job.name, run=run.id, group=group.group.name, count=skipped
                    )
                )
        failed = sum(group.counts.failed for group in opened.groups)
        for file in self._store.failures(run.id, failed) if failed else ():
            self._tell(
                events.TaskFailed(
                    job=job.name,
                    run=run.id,
                    task=file.task,
                    path=file.path,
                    url=file.url,
                    code=file.detail,
                    reason=file.reason,
                    attempts=0,
                )
            )

    def _cancel(self, job: str) -> Answer:
        self._adopt_left(self._store.last_runs([job]).get(job))
        with self._deciding() as effects:
            run, kept = self._by_job.get(job), self._kept.get(job)
            backlog = kept is not None and bool(kept.backlog)
            if run is None and not backlog:
                return Answer(done=False, reason=f"no run of job {job!r} is on")
            if kept is not None and backlog:
                kept = replace(kept, backlog=())
                self._kept.put(kept)
                effects.changes.append(KeptChanged(kept=kept))
            if run is not None:
                self._cancel_run(run, effects)
        self._store.flush()
        return Answer(done=True, run=run.run.id if run is not None else None)

    def _backfill(self, command: Backfill) -> Answer:
        with self._deciding() as effects:
            kept = self._kept.get(command.job)
            if kept is None or kept.job.schedule is None:
                return Answer(done=False, reason=f"no job {command.job!r} has a schedule")
            job = kept.job
            try:
                found = schedule.of_days(
                    kept.job.schedule, job.timezone, command.first, command.last, kept.last_s
                )
            except ValueProblem as exc:
                return Answer(done=False, reason=str(exc))
            if len(backlog := sorted({*kept.backlog, *found})) > schedule.MOST_CAUGHT_UP:
                reason = f"with what is to be made already these are {len(backlog)} runs"
                most = f"at most {schedule.MOST_CAUGHT_UP} are possible"
                return Answer(done=False, reason=f"{reason}; {most}")
            kept = replace(kept, backlog=tuple(backlog))
            self._kept.put(kept)
            effects.changes.append(KeptChanged(kept=kept))
        self._store.flush()
        return Answer(done=True)

    def _pause(self, job: str, *, paused: bool) -> Answer:
        """Hold what a job does, or let it go on: the run that is on, and those of a kept job."""
        self._adopt_left(self._store.last_runs([job]).get(job))
        with self._deciding() as effects:
            run, kept = self._by_job.get(job), self._kept.get(job)
            if run is None and kept is None:
                return Answer(done=False, reason=f"no run of job {job!r} is on")
            if paused in {run and run.paused, kept and kept.paused}:
                how = "paused already" if paused else "not paused"
                return Answer(done=False, reason=f"job {job!r} is {how}")
            if kept is not None:
                kept = replace(kept, paused=paused)
                self._kept.put(kept)
                effects.changes.append(KeptChanged(kept=kept))
            if run is not None:
                run.paused = paused
                effects.changes.append(RunPaused(run=run.run.id, paused=paused))
                self._look_at_window(run, effects)
        self._store.flush()
        return Answer(done=True, run=run.run.id if run is not None else None)

    def _cancel_run(self, run: OpenedRun, effects: Effects) -> None:
        run.cancelled = True
        effects.sweep = True
        effects.changes.append(RunCancelled(run=run.run.id))
        effects.cancelled_runs.append(run.run.id)
        for group in run.groups.values():
            self._decide.end_rest(group, TaskState.CANCELLED, "", effects)
        self._decide.advance(run, effects)

    def _retry(self, job: str) -> Answer:
        last = self._store.last_runs([job]).get(job)
        if last is None:
            return Answer(done=False, reason=f"there is no job {job!r}")
        if not last.state.ended:
            self._adopt_left(last)
            return Answer(done=False, reason=f"run {last.id} of job {job!r} is still on")
        opened = self._store.reopen(last.id)
        if opened is None:
            reason = f"run {last.id} of job {job!r} has no failed task"
            if last.state is RunState.CANCELLED:
                reason += "; what was cancelled begins anew when its job file is dropped again"
            return Answer(done=False, reason=reason)
        with self._deciding() as effects:
            run = self._adopt(opened)
            self._reopened(run, effects)
            self._decide.advance(run, effects)
        return Answer(done=True, run=last.id)

    # ------------------------------------------------------------ take

    def _take_fetch(self) -> Sequence[Fetch]:
        while (entry := self._queue.take()) is not None:
            with self._deciding() as effects:
                attempt = self._start(entry, effects)
            if attempt is not None:
                return (attempt,)
        return ()

    def _start(self, entry: Entry, effects: Effects) -> Fetch | None:
        """Make an attempt of a queue entry; None when it is not wanted, or has no room."""
        run = self._runs.get(entry.run)
        if run is None or run.cancelled or self._stopping:
            effects.released.append(entry)
            return None
        if run.frozen or run.held():
            effects.released.append(entry)
            run.parked.append(entry)
            return None
        if self._suspect is not None:  # since it was taken
            effects.released.append(entry)
            effects.entries.append(entry)
            return None
        task = entry.ready.task
        group = run.groups_by_id[task.group]
        if not group.queued(task.id):  # its run was cancelled and retried since it was taken
            effects.released.append(entry)
            return None
        if not task.spec.fetches:
            effects.released.append(entry)
            run.waits.pop(task.id, None)
            self._begin_run(run, effects)
            self._decide.begin_here(group, entry.ready, effects)
            return None
        now_s = self._clock.monotonic()
        wait_s = self._admission.park(group.rules.root, entry, now_s)
        if wait_s is not None:
            run.waits[task.id] = ("disk", self._steady.now_s() + wait_s)
            group.park(task.id)
            self._decide.read_more(group, effects)
            effects.released.append(entry)
            return None
        if (better := self._decide.elsewhere(run, entry)) is not None:
            effects.released.append(entry)
            effects.entries.append(better)
            return None
        if not self._origins.begin(entry.origin, now_s):  # since it was taken
            effects.released.append(entry)
            effects.entries.append(entry)
            return None
        group.start(task.id, entry.ready.origin)
        group.move(TaskState.READY, TaskState.RUNNING)
        run.waits.pop(task.id, None)
        attempt = Fetch(
            fence=self._decide.next_fence(),
            job=run.job,
            run=run.run,
            group=group.opened.group,
            task=task,
            number=task.history.attempts + 1,
            source=source_of(task, task.history),
            previous=entry.ready.previous,
            budget_bytes=self._budget_bytes(run),
            share=run.share,
        )
        self._out[attempt.fence] = Out(
            attempt=attempt,
            group=group,
            began_s=now_s,
            entry=entry,
            previous=entry.ready.previous,
        )
        effects.changes.append(Started(task=task.id))
        self._begin_run(run, effects)
        effects.happened.append(
            events.TaskStarted(**about_task(attempt, attempt.source), attempt=attempt.number)
        )
        self._decide.read_more(group, effects)
        return attempt

    def _begin_run(self, run: OpenedRun, effects: Effects) -> None:
        """Note the first start of anything of a run."""
        if run.state is not RunState.QUEUED:
            return
        run.state = RunState.RUNNING
        run.started_at_s = self._clock.wall()
        effects.changes.append(RunChanged(run=run.run.id, state=run.state, at_s=run.started_at_s))
        effects.happened.append(events.RunStarted(**about_run(run)))

    def _end_loans(self, out: Out, count: int) -> None:
        if out.entry is not None and count:
            out.lent -= count
            self._origins.give_back(out.entry.origin, count, self._clock.monotonic())
            self._queue.give_back(out.entry, count)

    def _note_room(self, attempt: Attempt, outcome: Outcome, effects: Effects) -> None:
        if not isinstance(attempt, Fetch):
            return
        if isinstance(outcome, Deferred) and not after_deferral(attempt.task, outcome)[1]:
            return  # another source may still find room
        root = attempt.group.rules.root
        if self._admission.note(root, outcome, self._clock.monotonic()):
            assert isinstance(outcome, Deferred)
            effects.happened.append(
                events.RootFull(
                    root=root,
                    home=outcome.home,
                    reason=outcome.detail,
                    delay_s=outcome.delay_s,
                )
            )

    def _heed(self, attempt: Attempt, group: Group, origin: str, wish_s: float) -> None:
        """Leave an origin alone that has said so in the head of an answer."""
        assert isinstance(attempt, Fetch)
        with self._deciding() as effects:
            self._origin_records.leave_alone(attempt, group, origin, wish_s, effects)

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
        taken = self._to_publish.take(most)
        with self._lock:
            for attempt in taken:
                self._give_out(attempt)
        return taken

    def _take_finish(self) -> Sequence[Finish]:
        while taken := self._to_finish.take(1):
            (attempt,) = taken
            with self._deciding() as effects:
                if self._stopping:  # the next life does it
                    return ()
                if self._rests(attempt) or self._suspect is not None:
                    effects.put_off.append(PutOff(attempt, self._clock.monotonic()))
                    continue
                if not attempt.intent.begun:
                    attempt = replace(attempt, intent=replace(attempt.intent, begun=True))
                    effects.changes.append(
                        Intends(
                            task=attempt.task.id,
                            intent=attempt.intent,
                            history=attempt.task.history,
                        )
                    )
                self._give_out(attempt)
            return (attempt,)
        return ()

    def _give_out(self, attempt: Finish | Publish) -> None:
        run = self._runs[attempt.run.id]
        run.waits.pop(attempt.task.id, None)
        self._out[attempt.fence] = Out(
            attempt,
            run.groups[attempt.group.name],
            self._clock.monotonic(),
            previous=attempt.previous,
        )

    def _rests(self, attempt: Finish | Publish) -> bool:
        """Whether it waits until its run goes on; what needs no steps any more is published."""
        run = self._runs[attempt.run.id]
        steps = isinstance(attempt, Finish) and attempt.intent.staged is None
        return steps and bool(run.held()) and not run.cancelled

    def _try_again(self, now_s: float) -> None:
        """Lay out what was put off until now; what a cancelled run has verified is not in vain."""
        due: list[Finish | Publish] = []
        later: list[PutOff] = []
        for put_off in self._put_off:
            cancelled = self._runs[put_off.attempt.run.id].cancelled
            if cancelled or (put_off.due_s <= now_s and not self._rests(put_off.attempt)):
                due.append(put_off.attempt)
            else:
                later.append(put_off)
        self._put_off = later
        self._lay_out(due)

    def _read_again(self, effects: Effects) -> None:
        """Lay out the groups whose items may be looked at by now."""
        now_s = self._steady.now_s()
        for group in [one for one in self._read_later if one.reading.due_at_s <= now_s]:
            self._read_later.discard(group)
            group.reading = replace(group.reading, due_at_s=0.0)
            effects.to_expand.append(group)

    def _lay_out(self, intended: Sequence[Finish | Publish]) -> None:
        """Let finishers and the publisher take these; the desks have locks of their own."""
        if to_publish := [one for one in intended if isinstance(one, Publish)]:
            self._to_publish.put(to_publish)
        if to_finish := [one for one in intended if isinstance(one, Finish)]:
            self._to_finish.put(to_finish)

    def _take_expand(self) -> Sequence[Expand]:
        while taken := self._to_expand.take(1):
            (group,) = taken
            with self._deciding() as effects:
                if self._stopping:
                    return ()
                if not self._is_to_be_read(group):
                    continue
                if group.run.frozen or group.list_out:  # it is laid out again behind that
                    continue
                if not self._may_be_read(group):
                    self._read_later.add(group)
                    continue
                decide = group.phase is Phase.BLOCKED
                first, group.was_begun = not group.was_begun, True
                self._readings.begin(group, effects)
                attempt = Expand(
                    fence=self._decide.next_fence(),
                    job=group.run.job,
                    run=group.run.run,
                    group=group.opened.group,
                    group_id=group.id,
                    position=group.position,
                    decide=decide,
                    seen=group.opened.seen,
                )
                group.list_out = True
                self._out[attempt.fence] = Out(attempt, group, self._clock.monotonic())
            if first and group.reading.begun:
                self._store.flush()  # a crash comes when it likes, and the next life has to know
            return (attempt,)
        return ()

    def _is_to_be_read(self, group: Group) -> bool:
        """Whether items of a group are left to be read, or its condition to be decided."""
        open_ = self._is_open(group) and not group.run.unwanted()
        return open_ and (group.expanding or group.phase is Phase.BLOCKED)

    def _may_be_read(self, group: Group) -> bool:
        """Whether no other group has to be read alone, nor this one while others are at work."""
        if self._suspect not in {None, group}:
            return False
        if not self._readings.suspects(group):
            return True
        self._suspect = group
        self._queue.hush()
        return all(isinstance(out.attempt, Publish) for out in self._out.values())

    def _let_others_start(self) -> None:
        self._suspect = None
        self._queue.speak()

    # ------------------------------------------------------------ the store answers (its thread)

    def _appended(self, group: Group, batch: Batch, appended: Appended) -> None:
        """A batch of a list's tasks is durable: count them, and go on reading."""
        run = group.run
        about = about_run(run)
        with self._deciding() as effects:
            effects.happened.append(events.TasksAdded(**about, count=appended.added))
            for spec, code, reason in appended.failed:
                url = spec.sources[0] if spec.sources else ""
                effects.happened.append(
                    events.TaskFailed(
                        **about,
                        task=0,
                        path=spec.path,
                        url=url,
                        code=code,
                        reason=reason,
                        attempts=0,
                    )
                )
            failed, skipped = len(appended.failed), appended.skipped
            group.list_out = False
            group.reading = Reading()
            group.counts[TaskState.READY] += appended.added - failed - skipped
            group.counts[TaskState.FAILED] += failed
            group.counts[TaskState.SKIPPED] += skipped
            if skipped:
                effects.happened.append(
                    events.TasksPassedOver(**about, group=group.name, count=skipped)
                )
            group.position = batch.position
            group.look_again()
            if run.cancelled:
                self._decide.end_rest(group, TaskState.CANCELLED, "", effects)
            elif run.failing and group.end is None:
                self._decide.end_rest(group, TaskState.SKIPPED, "fail_fast", effects)
            elif batch.position is None:
                group.expanding = False
                tasks = sum(group.counts.values())
                if group.end is None:
                    effects.happened.append(
                        events.RunExpanded(**about, group=group.name, tasks=tasks)
                    )
            else:
                effects.to_expand.append(group)
            self._decide.advance(run, effects)

    def _named(self, group: Group, attempt: Fetch, path: str, naming: Naming) -> None:
        """What becomes of a task whose server has named its file is durable."""
        with self._deciding() as effects:
            if self._is_open(group):
                self._decide.go_on_named(group, attempt, path, naming, effects)

    def _durable(self, effects: Effects) -> None:
        """Outcomes are on record: what was verified may be published, what ended may be told."""
        if effects.intended:
            self._lay_out(effects.intended)
        for event in effects.final:
            self._tell(event)
        if effects.ended:
            with self._lock:
                self._ending -= len(effects.ended)

    def _read(self, group: Group, window: Window) -> None:
        """Some ready tasks of a group, as asked for."""
        with self._deciding() as effects:
            self._asking.discard(group)
            if not self._is_open(group):
                return
            for ready in group.end_read(window):
                self._decide.line_up(group, ready, effects)
            if group.held:
                self._held.add(group)
            self._decide.read_more(group, effects)

    # ------------------------------------------------------------ decide, then act

    @property
    def failure(self) -> StoreError | None:
        """What made the engine decide nothing more, None: it goes on."""
        return self._failure

    def _deciding(self) -> Deciding:
        """Decide under the lock, and act after it."""
        return Deciding(
            self._lock, self._begin, self._take_note, self._act, self._break_off, self._tell_failure
        )

    def _begin(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _break_off(self, exc: BaseException) -> StoreError:
        """Decide nothing more: what is known here and what is on record may have come apart.

        Returns what every later call raises. Where the lock is held, to be called before it is
        given back. The next life goes on from the record.
        """
        if isinstance(exc, StoreError):
            return exc
        if self._failure is None:
            self._failure = _FAILED  # first: there may be no memory to say more
            with suppress(Exception):
                self._failure = StoreError(f"{_FAILED}: {type(exc).__name__}: {exc}")
        return self._failure

    def _tell_failure(self, exc: BaseException) -> None:
        name = threading.current_thread().name
        self._tell(events.ThreadDied.by(exc, name, replaced=False))

    # ------------------------------------------------------------ runs in and out (lock held)

    def _adopt(self, opened: OpenRun, out: Sequence[Entry] = ()) -> OpenedRun:
        run = OpenedRun(opened)
        run.closed_until_s = self._closed_until_s(run)
        kept = self._kept.get(run.job.name)
        run.paused = run.paused or (kept is not None and kept.paused)
        self._runs[run.run.id] = run
        self._by_job[run.job.name] = run
        self._queue.add_run(run.run.id, run.job.priority, run.job.concurrency, out)
        return run

    def _line_up_run(self, run: OpenedRun) -> None:
        """Let a run that was dropped from the queue have entries in it again."""
        outs = [out for out in self._out.values() if out.group.run is run]
        entries = [out.entry for out in outs if out.entry is not None]
        self._queue.add_run(run.run.id, run.job.priority, run.job.concurrency, entries)

    def _is_open(self, group: Group) -> bool:
        """Whether the group is of a run as it is now, not as it was before an edit."""
        return self._runs.get(group.run.run.id) is group.run

    def _reopened(self, run: OpenedRun, effects: Effects) -> None:
        """Tell of the tasks that come from an earlier life or end, so that totals add up."""
        effects.happened.append(events.TasksAdded(**about_run(run), count=run.counts().open))

    def _take_note(self, effects: Effects) -> None:
        """Take in what was decided, and hand the store and the queue their shares.

        The store's calls only queue up, so that the order of the records is that of the decisions.
        So is that of the queue's, whose lock is a leaf: a run that has ended may be adopted again
        at once, under the same id.
        """
        for ruling in effects.rulings:  # before anything is released that they concern
            self._queue.rule(ruling)
        for entry in effects.released:
            self._queue.release(entry)
        for run in effects.ended:
            self._recent.append(run.view(self._steady.now_s(), 0.0))
            self._queue.drop_run(run.run.id)
            del self._runs[run.run.id]
            del self._by_job[run.job.name]
        self._ending += len(effects.ended)
        for run_id in effects.cancelled_runs:
            self._queue.drop_run(run_id)
            self._admission.forget(run_id)
        for run in effects.failing_runs:  # what is done at its end has yet to come
            self._queue.drop_run(run.run.id)
            self._admission.forget(run.run.id)
            run.parked.clear()
            run.waits.clear()
            if self._runs.get(run.run.id) is run:
                self._line_up_run(run)
        if effects.entries:
            self._queue.put(effects.entries)
        self._put_off += effects.put_off
        if later := {group for group in effects.to_expand if group.reads_later}:
            self._read_later |= later
            effects.to_expand = [group for group in effects.to_expand if group not in later]
        self._sweep_due = self._sweep_due or effects.sweep
        if effects.freed:
            for group in self._asking:
                group.note_freed()
            while self._held:
                group = self._held.pop()
                group.look_again()
                self._decide.read_more(group, effects)
        if effects.changes:
            waits = effects.intended or effects.final
            self._store.record(effects.changes, partial(self._durable, effects) if waits else None)
        for group, attempt, path in effects.named:
            self._store.name_task(
                attempt.task.id,
                path,
                attempt.task.history,
                self._steady.now_s() + NAME_DELAY_S,
                partial(self._named, group, attempt, path),
            )
        for group, batch in effects.batches:
            self._store.append_tasks(
                group.opened,
                group.run.run.id,
                batch.specs,
                batch.position,
                partial(self._appended, group, batch),
            )
        for group, after in effects.reads:
            self._asking.add(group)
            self._store.next_ready(
                group.id,
                after=after,
                origins=ORIGINS_A_READ,
                per_origin=TASKS_AN_ORIGIN,
                now_s=self._steady.now_s(),
                then=partial(self._read, group),
                skip=group.well_filled(),
                known=group.known(),
            )

    # ------------------------------------------------------------ effects (no lock held)

    def _act(self, effects: Effects) -> None:
        """Carry out the rest of what was decided."""
        if effects.to_expand:
            self._to_expand.put(effects.to_expand)
        for event in effects.happened:
            self._tell(event)


def _not_yet(reason: str, again_s: float) -> Answer:
    return Answer(done=False, later=True, stays=True, reason=reason, again_s=again_s)


def _stays(command: Submit | NewJob) -> bool:
    """Whether the job outlives its runs; only one with a file in the drop folder does."""
    return command.job.stays and bool(command.file)


def _runs_now(command: Submit) -> bool:
    """Whether an accepted job gets a run at once; of one with a schedule, that decides."""
    return command.job.schedule is None or command.scheduled_for_s is not None


def _dropped_again(command: Submit, kept: Kept) -> bool:
    """Whether the file of a kept job, which runs when it is dropped, was dropped anew."""
    same = (command.job.revision, command.stamp) == (kept.job.revision, kept.stamp)
    return _runs_now(command) and command.scheduled_for_s is None and not same
