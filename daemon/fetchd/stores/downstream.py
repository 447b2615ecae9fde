"""Whose files are made of those of others: with these they have to be made anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fetchd.model import TaskGroup


def made_of(groups: Iterable[TaskGroup], changed: Collection[str]) -> set[str]:
    """Return the groups that work on what any of these makes, directly or by way of others."""
    gathering = [group for group in groups if group.gathers]
    found, before = set[str](), -1
    while len(found) != before:
        before = len(found)
        known = {*changed, *found}
        found.update(group.name for group in gathering if not known.isdisjoint(group.needs))
    return found
