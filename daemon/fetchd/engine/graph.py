"""Needs between groups: which may start, and which never will. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum


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
