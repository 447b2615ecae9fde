"""The edit of a kept file changes a run that is on: it is kept still, and goes on as another.

Nothing here is thread-safe; the engine's lock guards it all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fetchd import events
from fetchd.engine import graph
from fetchd.engine.decisions import Decisions
from fetchd.engine.effects import Effects, Out, about_run, about_task
from fetchd.engine.runs import OpenedRun, Phase
from fetchd.model import Fetch, Outcome, TaskState
from fetchd.ports import NewJob, Revised

#: An edit keeps its run still for so long at most, until what is being published is; then the run
#: goes on, for so long at least.
FREEZE_S = 2.0
FREE_S = 10.0
#: Whether it can be applied by now is to be asked after so long; where that needs more, after that.
FROZEN_LOOK_S = 0.1
EDIT_LOOK_S = 1.0


def is_comparable(on: OpenedRun, new: NewJob) -> bool:
    """Whether an edit can be told from the tasks of a run that is on, each to be fetched alone.

    Of a group that is still being read, all are unless it is the same as before. What is done at
    the end of the run is decided upon anew. What appears together is of one revision.
    """
    if on.job.generations is not None or new.job.generations is not None:
        return False
    before = {g.name: g.opened.group for g in on.groups.values() if g.end is None}
    after = {g.group.name: g.group for g in new.groups if g.group.end is None}
    reading = {name for name in before if on.groups[name].expanding}
    reading |= {g.group.name for g in new.groups if g.expanding and g.group.end is None}
    if any(before.get(name) != after.get(name) for name in reading):
        return False
    if on.failing:
        return False
    # Of these nothing was read, and nothing is going to be.
    fell_out = {group.name for group in on.groups.values() if group.upstream_failed}
    if any(g.expanding and g.group.name in fell_out for g in new.groups):
        return False
    # What was read, if only in part, is of the manifest as it was.
    read = {name for name in before if on.groups[name].phase is not Phase.BLOCKED}
    manifests = graph.needed_by([g for g in after.values() if g.manifest and g.name in read], after)
    if any(before.get(name) != after.get(name) for name in manifests):
        return False
    groups = [*before.values(), *after.values()]
    if any(group.when is not None for group in groups):
        return False
    return not any(spec.problem is not None for group in new.groups for spec in group.specs)


def freeze(run: OpenedRun, now_s: float, *, held_up: bool) -> bool:
    """Let nothing of the run start, or be recorded, from now on; False: not yet, or not now.

    What is verified is published before that. Until it is, which is to be asked for again, all
    else of the run waits, unless that is ``held_up``, nobody knows how long.
    """
    busy = any(
        group.counts[TaskState.PUBLISHING] or group.list_out for group in run.groups.values()
    )
    if not busy:
        run.frozen, run.thaws_at_s = True, math.inf
    elif not (run.frozen or held_up or now_s < run.thaws_at_s + FREE_S):
        run.frozen, run.thaws_at_s = True, now_s + FREEZE_S
    return not busy


class Editing:
    """What becomes of attempts that are under way when their job is edited."""

    def __init__(self, decide: Decisions) -> None:
        self._decide = decide
        self._dropped: set[tuple[str, str]] = set()  # destinations of tasks that an edit stopped

    def settle(self, out: Out, outcome: Outcome, effects: Effects) -> None:
        """Decide what follows an attempt, unless it has to wait, or is of no use any more."""
        # While it is frozen, all but transfers are waited for.
        if not (out.group.run.frozen and isinstance(out.attempt, Fetch)):
            self._settle(out, outcome, effects)
        else:
            out.group.run.late.append((out, outcome))

    def _settle(self, out: Out, outcome: Outcome, effects: Effects) -> None:
        if out.stale and isinstance(out.attempt, Fetch):
            if out.gone:
                self._dropped.add((out.group.rules.root, out.attempt.task.spec.path))
            self._decide.leave(out, effects)
        else:
            self._decide.settle(out, outcome, effects)

    def forget_dropped(self, root: str, path: str) -> bool:
        """Tell whether an edit has stopped the task of a destination, for the last time."""
        if (root, path) not in self._dropped:
            return False
        self._dropped.discard((root, path))
        return True

    def go_on(self, run: OpenedRun, effects: Effects) -> None:
        """Take up what a run has left alone while it was frozen in vain."""
        effects.to_expand += [
            group
            for group in run.groups.values()
            if group.phase is Phase.OPEN and group.expanding and not group.list_out
        ]
        self._settle_late(run, effects)

    def _settle_late(self, run: OpenedRun, effects: Effects) -> None:
        late, run.late = run.late, []
        for out, outcome in late:
            self._settle(out, outcome, effects)

    def carry_over(
        self,
        before: OpenedRun,
        run: OpenedRun,
        outs: Sequence[Out],
        revised: Revised,
        effects: Effects,
    ) -> None:
        """Let the attempts under way be those of a run as it is now; what is gone is stopped."""
        run.mismatches, run.told_held = before.mismatches, before.told_held
        if run.share is not None:  # the rate may be another one
            run.share = replace(run.share, name=f"{run.share.name} {run.run.revision[:8]}")
        for out in outs:
            assert isinstance(out.attempt, Fetch)
            task = out.attempt.task.id
            if (group := run.groups.get(out.group.name)) is not None:
                out.group = group
            out.group.run = run
            stale = out.stale or task in revised.stale
            out.gone = out.gone or task in revised.gone
            if not out.gone:
                out.group.busy.add(task)
            if stale and not out.stale:
                effects.happened.append(
                    events.TaskInterrupted(
                        **about_task(out.attempt, out.attempt.source), attempt=out.attempt.number
                    )
                )
            out.stale = stale
            run.leaving += stale
        effects.happened.append(
            events.RunRevised(
                **about_run(run),
                revision=run.run.revision,
                added=revised.opened,
                changed=revised.changed,
                removed=revised.removed,
            )
        )
        effects.sweep = effects.freed = True
        self._decide.advance(run, effects)
        run.late = before.late
        self._settle_late(run, effects)
