"""The open runs in memory: groups, counts, and the window of tasks that the queue holds.

Nothing here is thread-safe; the engine's lock guards it all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from fetchd.model import (
    Outcome,
    Rules,
    RunEnd,
    RunState,
    RunView,
    Share,
    Submit,
    TaskCounts,
    TaskState,
)
from fetchd.ports import NewJob, OpenGroup, OpenRun, Ready, Window

if TYPE_CHECKING:
    from fetchd.engine.effects import Out
    from fetchd.engine.queue import Entry

#: How much one read brings: at most this many origins, and of each at most so many tasks.
ORIGINS_A_READ = 64
TASKS_AN_ORIGIN = 512
#: More is read when fewer tasks than this of an origin are in the queue, and the store has more.
LOW_WATER = 64
#: The origins after those of the last read are looked at when fewer than this many lanes are left.
LOW_LANES = 32
#: Lanes of origins that are shut do not count among these, as long as there are not so many.
MOST_LANES = 512
#: Waiting tasks of a group beyond this many stay in the store until their time is near.
MOST_WAITING = 2000

_STATES = tuple((state, state.value) for state in TaskState)
_WAITING = ""  # the lane of all tasks whose time has not come


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
        self.reading = opened.reading
        self.was_begun = False  # by this life
        self.list_out = False  # a piece of its list is being read or recorded
        self.busy: set[int] = set()  # ids taken and not settled
        self.held = 0
        self.upstream_failed = False  # what it needs will never be there
        self.wanted: bool | None = None  # as its condition says, None: not known yet
        self.asked = False  # somebody is to decide it
        self.seen: Mapping[str, str] = {}  # what the condition was decided by
        self.next_due_at_s: float | None = None  # steady wall clock
        # The window. A pass over the store takes one read for every ORIGINS_A_READ origins.
        self._known: dict[int, str] = {}  # ids in the queue -> lane: origin, or _WAITING
        self._lanes: Counter[str] = Counter()  # how many of them stand in each lane
        self._cut: set[str] = set()  # origins of which the store has more
        self._again = True  # a pass is due: the store may have what the last one did not bring
        self._after = ""  # the pass goes on behind this origin; "": it is over
        self._asking = False
        self._left: set[int] = set()  # ids settled while a read is under way
        self._freed = False  # a destination was freed meanwhile

    @property
    def id(self) -> int:
        return self.opened.id

    @property
    def rules(self) -> Rules:
        return self.opened.group.rules

    @property
    def name(self) -> str:
        return self.opened.group.name

    @property
    def end(self) -> RunEnd | None:
        return self.opened.group.end

    def open_tasks(self) -> int:
        counts = self.counts
        return counts[TaskState.READY] + counts[TaskState.RUNNING] + counts[TaskState.PUBLISHING]

    def done(self) -> bool:
        """Whether no task of the group is open, and none will come."""
        return not (self.expanding or self.list_out or self.open_tasks())

    @property
    def reads_later(self) -> bool:
        """Whether the next piece of its items, or its condition, is looked at later."""
        return self.reading.due_at_s > 0.0

    def undecided(self) -> bool:
        """Whether its condition has to be decided before anything of it is done."""
        when = self.opened.group.when
        if when is None or when.each or self.wanted is not None:
            return False
        # Of an earlier life all may be published before the answer comes that was asked for.
        return bool(self.asked or self.expanding or self.open_tasks())

    def move(self, before: TaskState, after: TaskState, count: int = 1) -> None:
        self.counts[before] -= count
        self.counts[after] += count

    def succeeded(self) -> bool:
        """Whether the ended group is as those who need it expect."""
        cancelled = self.counts[TaskState.CANCELLED]
        return not (cancelled or self.upstream_failed or self.hurt())

    def was_passed_over(self) -> bool:
        """Whether its condition did not hold, of a group that has ended.

        An earlier life may have decided that: then items are still to be read, or all are skipped,
        and it may not be said to have ended yet.
        """
        when, counts = self.opened.group.when, self.counts
        if when is None or when.each:
            return False
        skipped = counts[TaskState.SKIPPED]
        return self.wanted is False or self.expanding or 0 < skipped == sum(counts.values())

    def was_wanted(self) -> bool:
        """Whether its condition held, of a group that has ended; without one nobody asks."""
        when = self.opened.group.when
        if self.wanted is not None or when is None or when.each:
            return bool(self.wanted)
        return not self.was_passed_over()

    def hurt(self) -> bool:
        """Whether a task has failed that may not."""
        return bool(self.counts[TaskState.FAILED]) and not self.opened.group.may_fail

    # ------------------------------------------------------------ the window

    def add(self, task: int, origin: str, *, waits: bool) -> None:
        """The task stands in the queue."""
        lane = _WAITING if waits else origin
        self._known[task] = lane
        self._lanes[lane] += 1

    def queued(self, task: int) -> bool:
        return task in self._known

    def start(self, task: int, origin: str) -> None:
        """The task was taken from the queue. ``origin``: where it stood in the store."""
        lane = self._known.pop(task)
        self._lanes[lane] -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
        if origin in self._cut and self._lanes[origin] < LOW_WATER:
            self._again = True
        self.busy.add(task)

    def park(self, task: int) -> None:
        """The task, taken from the queue, waits with others; its lane has room for one more."""
        lane = self._known[task]
        if lane != _WAITING and self._lanes[_WAITING] < MOST_WAITING:
            self._known[task] = _WAITING
            self._lanes[_WAITING] += 1
            self._lanes[lane] -= 1
            if not self._lanes[lane]:
                del self._lanes[lane]
            if lane in self._cut and self._lanes[lane] < LOW_WATER:
                self._again = True

    def has_room(self, origin: str, *, waits: bool) -> bool:
        """Whether one more task may stand in the queue; if not, the store keeps it."""
        if waits:
            return self._lanes[_WAITING] < MOST_WAITING
        return self._lanes[origin] < TASKS_AN_ORIGIN

    def leave(self, origin: str, due_at_s: float) -> None:
        """A ready task stays in the store until its lane runs low or its time is near."""
        if due_at_s:
            self.expect(due_at_s)
        else:
            self._cut.add(origin)

    def forget_queue(self) -> None:
        """Nothing of the group stands in the queue any more, or ever will."""
        self._known.clear()
        self._lanes.clear()
        self._cut.clear()

    def should_read(self, shut: Collection[str]) -> bool:
        """``shut``: origins whose lanes nobody is served from now."""
        if self.phase is not Phase.OPEN or self._asking:
            return False
        if not self._after:
            return self._again
        lanes = len(self._lanes)
        if LOW_LANES <= lanes < MOST_LANES:
            lanes -= sum(origin in self._lanes for origin in shut)
        return lanes < LOW_LANES

    def begin_read(self) -> str:
        """Mark that a read is under way; returns the origin behind which it begins."""
        self._asking, self._freed = True, False
        if not self._after:
            self._again = False
            self._cut = set(self.well_filled())
            self.held = 0
            self.next_due_at_s = None
        return self._after

    def well_filled(self) -> frozenset[str]:
        """Origins of which the queue has enough for now, and the store has more."""
        return frozenset(o for o in self._cut if self._lanes[o] >= LOW_WATER)

    def known(self) -> frozenset[int]:
        """Tasks that stand in the queue, and need not be read again."""
        return frozenset(self._known)

    def end_read(self, window: Window) -> list[Ready]:
        """Take a read's result in; returns the tasks that the queue does not have yet."""
        self._asking = False
        new = [
            ready
            for ready in window.tasks
            if ready.task.id not in self._known
            and ready.task.id not in self.busy
            and ready.task.id not in self._left
        ]
        self._left.clear()
        self._cut |= window.cut
        self.held += window.held
        if window.held and self._freed:  # it may have been the one that they wait for
            self._again = True
        if window.next_due_at_s is not None:
            self.expect(window.next_due_at_s)
        self._after = window.after
        return new

    def look_again(self) -> None:
        """Ready tasks may stand in the store that the last pass over it did not find."""
        self._again = True

    def note_freed(self) -> None:
        """A destination was freed; a read that is under way may not know of it."""
        self._freed = True

    def expect(self, due_at_s: float) -> None:
        if self.next_due_at_s is None or due_at_s < self.next_due_at_s:
            self.next_due_at_s = due_at_s

    def forget(self, task: int) -> None:
        """The task was settled: it is neither taken nor (unless put again) in the queue."""
        self.busy.discard(task)
        if self._asking:
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
        self.cancelled = opened.cancelled
        self.groups = {group.group.name: Group(group, self) for group in opened.groups}
        # Those that have not ended, in their order, and whether those that have succeeded.
        self.left = dict(self.groups)
        self.ended: dict[str, bool] = {}
        self.groups_by_id = {group.id: group for group in self.groups.values()}
        self.bytes = sum(group.bytes for group in opened.groups)
        rate = self.job.rate
        self.share = None if rate is None else Share(name=f"run {self.run.id}", rate=rate)
        self.mismatches: Counter[str] = Counter()  # wrong digests, by origin
        self.paused = opened.paused
        self.failing = False  # a task has failed that ends the rest
        self.closed_until_s: float | None = None  # outside its window; wall clock
        self.told_held = ""
        # While the run becomes one of another revision nothing of it starts or is recorded.
        self.frozen = False
        self.thaws_at_s = -math.inf  # until then at most, or it did last; monotonic
        self.edit: tuple[Submit, NewJob] | None = None  # what it may become one of
        self.told_edit: Submit | None = None  # which is known to hold only from the next run
        self.parked: list[Entry] = []  # what would have started meanwhile, or while it is held
        self.late: list[tuple[Out, Outcome]] = []  # and what would have been settled
        self.leaving = 0  # attempts that are out, and of no use to any task
        self.waits: dict[int, tuple[str, float]] = {}  # tasks in the queue: why, and until when

    def held(self) -> str:
        """Return for what all of the run waits, "": it goes on."""
        if self.paused:
            return "paused"
        return "" if self.closed_until_s is None else "window"

    def end(self, group: Group) -> None:
        """Nothing more will be done of a group."""
        group.phase = Phase.ENDED
        self.ended[group.name] = group.succeeded()
        del self.left[group.name]

    def unwanted(self) -> bool:
        """Whether nothing more of its tasks is to begin, or to be fetched."""
        return self.cancelled or self.failing

    def is_turn_of(self, end: RunEnd) -> bool:
        """Whether all has ended that comes before what is done at the end."""
        left = [group.end for group in self.left.values()]
        return not any(other is None or other.comes_before(end) for other in left)

    def passed_over(self) -> tuple[str, ...]:
        """Return the groups whose condition did not hold; of no use for those still at work."""
        return tuple(group.name for group in self.groups.values() if group.was_passed_over())

    def counts(self) -> TaskCounts:
        counts = [group.counts for group in self.groups.values()]
        return TaskCounts(**{name: sum(c[state] for c in counts) for state, name in _STATES})

    def final_state(self) -> RunState:
        counts = self.counts()
        if self.cancelled:
            return RunState.CANCELLED
        groups = self.groups.values()
        if any(group.upstream_failed or group.hurt() for group in groups):
            return RunState.FAILED
        if counts.cancelled:  # a retry leaves cancelled tasks alone: the run is not whole
            return RunState.CANCELLED
        return RunState.PARTIAL if counts.failed else RunState.SUCCEEDED

    def view(self, now_s: float, behind_s: float, held_up: int = 0, verified: int = 0) -> RunView:
        """``now_s``: by the steady clock; ``behind_s``: by how much the wall clock is ahead of it.

        ``held_up``: tasks whose origin is shut; ``verified``: those whose steps nobody takes yet.
        """
        groups = self.groups.values()
        waiting: dict[str, int] = {}
        dues = [group.next_due_at_s for group in groups if group.next_due_at_s is not None]
        for reason, until_s in self.waits.values():
            if until_s > now_s:  # else it waits for a thread, or for its origin
                waiting[reason] = waiting.get(reason, 0) + 1
                dues.append(until_s)
        if held_up:
            waiting["origin"] = held_up
        if verified:
            waiting["steps"] = verified
        if self.held():
            count = self.counts().ready + verified
            waiting = {self.held(): count} if count else {}
        dues += [g.reading.due_at_s for g in groups if g.phase is not Phase.ENDED and g.reads_later]
        if held := sum(group.held for group in groups):
            waiting["same_dest"] = waiting.get("same_dest", 0) + held
        due_at_s = min(dues) + behind_s if dues else None
        if self.held():
            due_at_s = None if self.paused else self.closed_until_s
        if self.state.ended:
            waiting, due_at_s = {}, None
        return RunView(
            id=self.run.id,
            job=self.job.name,
            revision=self.run.revision,
            file=self.opened.file,
            state=RunState.PAUSED if self.paused and not self.state.ended else self.state,
            accepted_at_s=self.opened.accepted_at_s,
            started_at_s=self.started_at_s,
            finished_at_s=self.finished_at_s,
            tasks=self.counts(),
            bytes=self.bytes,
            list_open=any(group.expanding and group.end is None for group in groups),
            waiting=waiting,
            next_due_at_s=due_at_s,
            scheduled_for_s=self.run.scheduled_for_s,
        )
