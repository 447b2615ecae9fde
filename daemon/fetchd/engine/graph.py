"""Which groups may start, and which never will: by their needs, or by how a run ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from fetchd.model import RunEnd, RunState, TaskGroup

#: How a run has to be going to end, so that this is done.
_DUE: Mapping[RunEnd, frozenset[RunState]] = {
    RunEnd.PUBLISH: frozenset({RunState.SUCCEEDED, RunState.PARTIAL}),
    RunEnd.ON_SUCCESS: frozenset({RunState.SUCCEEDED, RunState.PARTIAL}),
    RunEnd.ON_FAILURE: frozenset({RunState.FAILED}),
}


class Met(Enum):
    """What the groups that a group needs say about it."""

    YES = "yes"
    NOT_YET = "not yet"
    NEVER = "never"


def met(needs: Iterable[str], ended: Mapping[str, bool]) -> Met:
    """Say whether a group may start. ``ended``: name of each ended group -> it succeeded."""
    verdict = Met.YES
    for name in needs:
        succeeded = ended.get(name)
        if succeeded is None:
            verdict = Met.NOT_YET
        elif not succeeded:
            return Met.NEVER
    return verdict


def needed_by(groups: Iterable[TaskGroup], others: Mapping[str, TaskGroup]) -> set[str]:
    """Return what these groups need, directly or by way of ``others``, by name."""
    found = set[str]()
    left = [name for group in groups for name in group.needs]
    while left:
        if (name := left.pop()) in found:
            continue
        found.add(name)
        left += others[name].needs if name in others else ()
    return found


def is_due(end: RunEnd, state: RunState) -> bool:
    """Say whether this is done at the end of a run that is going to end so."""
    return state in _DUE[end]
