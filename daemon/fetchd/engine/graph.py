"""Needs between groups: which may start, and which never will. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return a cycle as a path whose last name is its first, or None."""
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        on_path: set[str] = set()
        while stack:
            name, index = stack.pop()
            if index == 0:
                if name in done:
                    continue
                path.append(name)
                on_path.add(name)
            following = needs.get(name, ())
            if index < len(following):
                stack.append((name, index + 1))
                if following[index] in on_path:
                    return [*path[path.index(following[index]) :], following[index]]
                stack.append((following[index], 0))
            else:
                done.add(name)
                on_path.discard(name)
                path.pop()
    return None
