"""The open runs in memory: groups, counts, and the window of tasks that the queue holds.

Nothing here is thread-safe; the engine's lock guards it all.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from fetchd.model import Rules, RunState, RunView, TaskCounts, TaskState
from fetchd.ports import OpenGroup, OpenRun, Ready, Window

#: More tasks are read from the store when fewer than this many of a group are in the queue.
LOW_WATER = 128
#: How much one read brings: at most this many origins, and of each at most so many tasks.
ORIGINS_A_READ = 64
TASKS_AN_ORIGIN = 256
#: Waiting tasks beyond this many stay in the store until their time is near.
MOST_KNOWN = 2000


class Phase(Enum):
    BLOCKED = "blocked"  # its needs are not met yet
    OPEN = "open"
    ENDED = "ended"


class Group:
    """One task group of an open run."""

    def __init__(self, opened: OpenGroup, run: OpenedRun) -> None:
        self.opened = opened
        self.run = run
        self.phase = Phase.BLOCKED
        self.expanding = opened.expanding
        self.position = opened.position
        self.counts: Counter[TaskState] = Counter()
        for state in TaskState:
            self.counts[state] = getattr(opened.counts, state.value)
        self.known: set[int] = set()  # ids in the queue
        self.busy: set[int] = set()  # ids taken and not settled
        self.held = 0
        self.next_due_at_s: float | None = None  # wall clock
        self.asking = False
        self._more = True
        self._left: set[int] = set()  # ids settled while a read is under way
        self._after = ""
        self._found = 0
        self._complete = True

    @property
    def id(self) -> int:
        return self.opened.id

    @property
    def rules(self) -> Rules:
        return self.opened.group.rules

    @property
    def name(self) -> str:
        return self.opened.group.name

    def open_tasks(self) -> int:
        counts = self.counts
        return counts[TaskState.READY] + counts[TaskState.RUNNING] + counts[TaskState.PUBLISHING]

    def done(self) -> bool:
        """Whether no task of the group is open, and none will come."""
        return not self.expanding and not self.open_tasks()

    def move(self, before: TaskState, after: TaskState, count: int = 1) -> None:
        self.counts[before] -= count
        self.counts[after] += count

    def succeeded(self) -> bool:
        """Whether every task of the ended group is as those who need it expect."""
        counts = self.counts
        return not (
            counts[TaskState.FAILED] + counts[TaskState.SKIPPED] + counts[TaskState.CANCELLED]
        )

    # ------------------------------------------------------------ the window

    def should_read(self) -> bool:
        return (
            self.phase is Phase.OPEN
            and self._more
            and not self.asking
            and len(self.known) < LOW_WATER
        )

    def begin_read(self) -> str:
        """Mark that a read is under way; returns the origin behind which it begins."""
        self.asking = True
        return self._after

    def end_read(self, window: Window) -> list[Ready]:
        """Take a read's result in; returns the tasks that the queue does not have yet."""
        self.asking = False
        new = [
            ready
            for ready in window.tasks
            if ready.task.id not in self.known
            and ready.task.id not in self.busy
            and ready.task.id not in self._left
        ]
        self._left.clear()
        self._found += len(new)
        self._complete = self._complete and window.complete
        if self._after == "":
            self.held = 0
            self.next_due_at_s = None
        self.held += window.held
        if window.next_due_at_s is not None:
            self.expect(window.next_due_at_s)
        self._after = window.after
        if self._after == "":  # every origin was looked at: what was not found is not there
            self._more = not self._complete and self._found > 0
            self._found, self._complete = 0, True
        return new

    def look_again(self) -> None:
        """Ready tasks may stand in the store that the last pass over it did not find."""
        self._more = True
        self._complete = False

    def expect(self, due_at_s: float) -> None:
        if self.next_due_at_s is None or due_at_s < self.next_due_at_s:
            self.next_due_at_s = due_at_s

    def forget(self, task: int) -> None:
        """The task was settled: it is neither taken nor (unless put again) in the queue."""
        self.busy.discard(task)
        if self.asking:
            self._left.add(task)


class OpenedRun:
    """One run that has not ended."""

    def __init__(self, opened: OpenRun) -> None:
        self.opened = opened
        self.job = opened.job
        self.run = opened.run
        self.state = opened.state
        self.started_at_s = opened.started_at_s
        self.finished_at_s: float | None = None
        self.cancelled = False
        self.groups = {group.group.name: Group(group, self) for group in opened.groups}
        self.groups_by_id = {group.id: group for group in self.groups.values()}
        self.bytes = sum(group.bytes for group in opened.groups)
        self.waits: Counter[str] = Counter()  # tasks in the queue that wait, by reason

    def ended_groups(self) -> dict[str, bool]:
        return {
            name: group.succeeded()
            for name, group in self.groups.items()
            if group.phase is Phase.ENDED
        }

    def counts(self) -> TaskCounts:
        total: Counter[TaskState] = Counter()
        for group in self.groups.values():
            total.update(group.counts)
        return TaskCounts(**{state.value: total[state] for state in TaskState})

    def final_state(self) -> RunState:
        counts = self.counts()
        if self.cancelled:
            return RunState.CANCELLED
        return RunState.FAILED if counts.failed or counts.skipped else RunState.SUCCEEDED

    def view(self) -> RunView:
        held = sum(group.held for group in self.groups.values())
        waiting = {reason: count for reason, count in self.waits.items() if count}
        if held:
            waiting["same_dest"] = waiting.get("same_dest", 0) + held
        dues = [g.next_due_at_s for g in self.groups.values() if g.next_due_at_s is not None]
        return RunView(
            id=self.run.id,
            job=self.job.name,
            revision=self.run.revision,
            file=self.opened.file,
            state=self.state,
            accepted_at_s=self.opened.accepted_at_s,
            started_at_s=self.started_at_s,
            finished_at_s=self.finished_at_s,
            tasks=self.counts(),
            bytes=self.bytes,
            list_open=any(group.expanding for group in self.groups.values()),
            waiting=waiting,
            next_due_at_s=min(dues, default=None),
        )
