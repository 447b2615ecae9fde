"""What follows a look at a group's items, or at its condition: another look, or its tasks.

Called under the engine's lock, as ``Decisions`` are.
"""

from __future__ import annotations

from dataclasses import replace

from fetchd.clock import SteadyWall
from fetchd.engine.effects import Effects
from fetchd.engine.runs import Group, Phase
from fetchd.model import Batch, Decided, Expanded, Failure, Interrupted, Outcome, Reading, TaskSpec
from fetchd.ports import ReadingChanged

#: A list whose next piece could not be read, for a reason that may pass, is tried again so often,
#: after this delay, which doubles; so is a condition that could not be decided.
MOST_LIST_FAILURES = 5
LIST_DELAY_S = 1.0


class Readings:
    """The rules of reading what a group is made of; ``poison`` as in ``Engine``."""

    def __init__(self, steady: SteadyWall, poison: int) -> None:
        self._steady = steady
        self._poison = poison

    def settle(self, group: Group, outcome: Outcome, effects: Effects) -> None:
        """Decide what follows the end of such an attempt."""
        match outcome:
            case Expanded(batch=batch):
                pass
            case Decided(holds=holds, seen=seen):
                group.list_out = False
                # Crashes are not forgotten: they may be those of what is read now.
                crashes = group.reading.crashes
                self._change(group, Reading(crashes=crashes), effects)
                group.wanted, group.seen = holds, seen
                return
            case Interrupted():
                group.list_out = False
                self._change(group, replace(group.reading, begun=False), effects)
                return  # the next life goes on at the recorded position
            case Failure(transient=True) if group.reading.failures < MOST_LIST_FAILURES:
                failures = group.reading.failures
                due_at_s = self._steady.now_s() + LIST_DELAY_S * 2.0**failures
                again = Reading(
                    failures=failures + 1, due_at_s=due_at_s, crashes=group.reading.crashes
                )
                self._change(group, again, effects)
                group.list_out = False
                if not group.run.unwanted():
                    effects.to_expand.append(group)
                return
            case Failure():
                batch = _unread(outcome)
                if group.phase is Phase.BLOCKED:  # whether it is wanted will never be known
                    group.wanted = False
            case _:
                raise AssertionError(f"{outcome} does not answer an expansion")
        if group.run.unwanted():
            group.list_out = False
        else:
            effects.batches.append((group, batch))

    def begin(self, group: Group, effects: Effects) -> None:
        """Somebody is about to look at the next items: a crash from now on is theirs."""
        if self._poison:
            self._change(group, replace(group.reading, begun=True), effects)

    def suspects(self, group: Group) -> bool:
        """Whether nothing else may be under way while the group's next items are looked at."""
        return bool(self._poison) and group.reading.crashes >= self._poison

    def charge(self, group: Group, effects: Effects) -> None:
        """The last life ended in a crash while somebody looked at the group's next items."""
        crashes = group.reading.crashes + 1
        self._change(group, replace(group.reading, begun=False, crashes=crashes), effects)
        if not self._poison or crashes < 2 * self._poison:
            return
        reason = f"the daemon crashed {crashes} times while it looked for the tasks of this group"
        group.expanding, group.list_out = False, True
        if group.undecided():
            group.wanted = False
        effects.batches.append(
            (group, _unread(Failure(code="poison", reason=reason, transient=False)))
        )

    def _change(self, group: Group, reading: Reading, effects: Effects) -> None:
        if group.reading != reading:
            group.reading = reading
            effects.changes.append(ReadingChanged(group=group.id, reading=reading))


def limited(reading: Reading, now_s: float) -> Reading:
    """Return it with no wait longer than any: the wall clock may have been set back."""
    longest_s = LIST_DELAY_S * 2.0 ** (MOST_LIST_FAILURES - 1)
    return replace(reading, due_at_s=min(reading.due_at_s, now_s + longest_s))


def _unread(failure: Failure) -> Batch:
    """Return what says that what is left of a group's items could not be made tasks."""
    problem = (failure.code, failure.reason)
    bad = TaskSpec(key="", path="", sources=("",), problem=problem)
    return Batch(specs=(bad,), position=None)
