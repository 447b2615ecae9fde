"""Which tasks a run would have: all of them read, some of them chosen to be asked about."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from fetchd.errors import AttemptError
from fetchd.expand import Expander
from fetchd.model import Batch, Job, Run, RunEnd, TaskGroup, TaskSpec
from fetchd.plan.report import GroupPlan
from fetchd.urls import origin_of

#: So many problems of items are told, the others counted.
MOST_PROBLEMS = 100
#: Among so many tasks two with one destination are found.
MOST_PLACES = 1_000_000


class Chosen(NamedTuple):
    """A task that is to be asked about. ``number``: the how-manieth of the run it is."""

    number: int
    group: TaskGroup
    spec: TaskSpec


@dataclass(slots=True)
class Found:
    """What a run would consist of. ``rest_bytes``: by root, of tasks that were not chosen.

    ``broken``: groups of which nothing could be done.
    """

    chosen: list[Chosen] = field(default_factory=list)
    groups: list[GroupPlan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    origins: dict[str, None] = field(default_factory=dict)
    files: int = 0
    skipped: int = 0
    bad_items: int = 0
    broken: int = 0
    rest_bytes: dict[str, int] = field(default_factory=dict)
    rest_unsized: int = 0


def find(job: Job, run: Run, expander: Expander, *, most: int, watched: Collection[str]) -> Found:
    """Read all tasks of a run, and choose at most so many of them.

    ``watched``: origins of which it is to be told whether any task asks them. Of a task that is not
    chosen nothing but a number is kept.
    """
    reader = _Reader(job, run, expander, most, watched)
    for group in job.groups:
        if group.end is not RunEnd.PUBLISH:  # which is how files appear, and no work of its own
            reader.read(group)
    return reader.found()


class _Reader:
    def __init__(
        self, job: Job, run: Run, expander: Expander, most: int, watched: Collection[str]
    ) -> None:
        self._job = job
        self._run = run
        self._expander = expander
        self._watched = watched
        self._choice = _Choice(most)
        self._places: set[int] = set()
        self._found = Found()

    def found(self) -> Found:
        self._found.chosen = self._choice.chosen()
        return self._found

    def read(self, group: TaskGroup) -> None:
        found = self._found
        condition, holds = self._condition(group)
        before, note, failed = found.files, "", ""
        files: int | None = 0
        needs = ", ".join(group.needs)
        if holds:
            try:
                for batch in self._batches(group):
                    for index, spec in enumerate(batch.specs):
                        self._take_in(group, spec, batch.lines[index] if batch.lines else None)
                files = found.files - before
                if group.gathers:
                    note = "it fetches nothing, its steps work on the files of what it needs"
                if group.end is not None:
                    note = "at the end of the run"
                if group.manifest is not None and needs:
                    note = f"by the file that stands there now; {needs} may bring another"
            except AttemptError as exc:
                files = found.files - before
                if group.manifest is not None and exc.code == "not_found" and needs:
                    files, note = None, f"known when {needs} is done: {exc.reason}"
                else:
                    failed = f"{exc.code}: {exc.reason}"
                    found.broken += 1
        found.groups.append(
            GroupPlan(
                task=group.name,
                needs=group.needs,
                files=files,
                steps=tuple(step.name for step in group.steps),
                condition=condition,
                note=note,
                failed=failed,
            )
        )

    def _batches(self, group: TaskGroup) -> Iterator[Batch]:
        batch = self._expander(self._job, group, self._run, None)
        yield batch
        while batch.position is not None:
            batch = self._expander(self._job, group, self._run, batch.position)
            yield batch

    def _condition(self, group: TaskGroup) -> tuple[str, bool]:
        """Return what is known of the group's condition, and whether it may hold."""
        when = group.when
        if when is None:
            return "", True
        if when.each:
            return f"{when.text}: decided for each file", True
        if when.compares:
            return f"{when.text}: known when {', '.join(when.compares)} is done", True
        try:
            holds = self._expander.decide(self._job, group, self._run, {}).holds
        except AttemptError as exc:
            return f"{when.text}: {exc.reason}", True
        return f"{when.text}: {'holds' if holds else 'does not hold'}", holds

    def _take_in(self, group: TaskGroup, spec: TaskSpec, line: int | None) -> None:
        found = self._found
        if spec.skip:
            found.skipped += 1
            return
        if spec.problem is None and not spec.fetches:
            return  # its steps work on the files of others
        found.files += 1
        problem = self._problem(group, spec, line)
        if problem:
            found.bad_items += 1
            if len(found.problems) < MOST_PROBLEMS:
                found.problems.append(f"{group.name}: {problem}")
            return
        for url in (*spec.sources, *spec.sums):
            origin = origin_of(url)
            if origin in self._watched:
                found.origins[origin] = None
        out = self._choice.offer(Chosen(found.files, group, spec))
        if out is None:
            return
        if out.spec.size_bytes is None:
            found.rest_unsized += 1
        else:
            root = out.group.rules.root
            found.rest_bytes[root] = found.rest_bytes.get(root, 0) + out.spec.size_bytes

    def _problem(self, group: TaskGroup, spec: TaskSpec, line: int | None) -> str:
        """Return why an item can only fail, "" for a good one."""
        if spec.problem is not None:
            return spec.problem[1]
        place = hash((group.rules.root, spec.path))
        if place in self._places:
            at = "" if line is None else f"line {line}: "
            return f"{at}{spec.path} is the destination of an earlier task"
        if len(self._places) < MOST_PLACES:
            self._places.add(place)
        return ""


class _Choice:
    """At most so many tasks, evenly of each origin of each group, of each the first ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lanes: dict[tuple[str, str], list[Chosen]] = {}
        self._count = 0
        self._longest = 0  # of the lanes

    def offer(self, one: Chosen) -> Chosen | None:
        """Choose a task or not; returns the one that is left out for it, this one or another."""
        key = (one.group.name, origin_of(one.spec.sources[0]))
        lane = self._lanes.get(key, [])
        if self._count < self._most:
            self._count += 1
            self._longest = max(self._longest, len(lane) + 1)
            self._lanes.setdefault(key, lane).append(one)
            return None
        if len(lane) + 1 >= self._longest:
            return one
        out = max(self._lanes.values(), key=len).pop()
        self._lanes.setdefault(key, lane).append(one)
        self._longest = max(map(len, self._lanes.values()))
        return out

    def chosen(self) -> list[Chosen]:
        return sorted(
            (one for lane in self._lanes.values() for one in lane), key=lambda one: one.number
        )
