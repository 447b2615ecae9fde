"""An open run becomes one of another revision: the difference of their tasks, by group and key."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fetchd.model import RetryPolicy, Rules, TaskGroup, TaskSpec, Timeouts
from fetchd.ports import NewGroup
from fetchd.stores import codec, downstream
from fetchd.urls import origin_of

#: Numbers of column task.state, see STATES in queries.py.
_OPEN, _RUNNING, _SUCCEEDED, _SKIPPED = (0, 1), 1, 3, 5


@dataclass(slots=True)
class Difference:
    """As in ``ports.Revised``.

    ``missing``: by group's name, the specs that no row has.
    """

    stale: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    opened: int = 0
    changed: int = 0
    removed: int = 0
    missing: dict[str, list[TaskSpec]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    path: bytes
    sources: str
    digests: str
    sums: str
    size_bytes: int | None
    step_values: str | None
    state: int
    detail: str

    @property
    def fell_out(self) -> bool:
        """Whether it was skipped since something that it needs had failed, as may be no more."""
        return (self.state, self.detail) == (_SKIPPED, "upstream_failed")


class Revising:
    """Compares what a run has with what it is to have, and changes rows. Ledger's thread."""

    def __init__(self, db: sqlite3.Connection, queries: Mapping[str, str], run: int) -> None:
        self._db = db
        self._q = queries
        self._run = run
        self._groups: dict[str, tuple[int, TaskGroup]] = {}
        for group_id, document, *_ in db.execute(queries["groups"], (run,)):
            group = codec.group_of(document)
            self._groups[group.name] = (group_id, group)
        self._rows: dict[int, dict[bytes, _Row]] = {id_: {} for id_, _ in self._groups.values()}
        for task, group_id, path, key, *rest in db.execute(queries["tasks_of_run"], (run,)):
            self._rows[group_id][path if key is None else key] = _Row(task, path, *rest)
        self._found = Difference()
        self._anew: set[str] = set()  # groups that have got tasks to be done, or have lost some

    def _remove_ends(self) -> None:
        """Remove what is done at the run's end, which comes anew behind all else."""
        for name, (group_id, group) in list(self._groups.items()):
            if group.end is not None:
                for row in self._rows.pop(group_id).values():
                    self._db.execute(self._q["remove_task"], (row.id,))
                    self._found.gone.add(row.id)
                    self._found.removed += row.state in _OPEN
                self._db.execute(self._q["remove_group"], (group_id,))
                del self._groups[name]

    def group_id(self, name: str) -> int | None:
        found = self._groups.get(name)
        return None if found is None else found[0]

    def compare(self, groups: tuple[NewGroup, ...]) -> Difference:
        """Remove and change rows; what is to be added is left to the caller.

        A group whose tasks do not come all at once is the same as before.
        """
        self._remove_ends()
        wanted = {new.group.name: new for new in groups}
        specs = [(new.group.rules.root, spec) for new in groups for spec in new.specs]
        taken = {(root, spec.path) for root, spec in specs}
        # Their servers may give them the names of files that are there.
        taken_below = {(root, spec.folder) for root, spec in specs if spec.unnamed}
        for name, (group_id, before) in self._groups.items():
            self._remove_rest(group_id, before, wanted.get(name), taken, taken_below)
        for new in groups:
            self._compare_group(new)
        self._make_anew(groups)
        return self._found

    def _remove_rest(
        self,
        group_id: int,
        before: TaskGroup,
        new: NewGroup | None,
        taken: set[tuple[str, str]],
        taken_below: set[tuple[str, str]],
    ) -> None:
        """Remove what the group has no more; what was published stays, for the report."""
        rows = self._rows[group_id]
        if new is not None and new.expanding:  # its tasks come from it as before
            return
        keys = {codec.path_bytes(spec.key) for spec in new.specs} if new else set()
        for key in [key for key in rows if key not in keys]:
            root, path = before.rules.root, codec.path_text(rows[key].path)
            elsewhere = (root, path) in taken or (root, path.rpartition("/")[0]) in taken_below
            if rows[key].state != _SUCCEEDED or elsewhere:
                if rows[key].state == _SUCCEEDED:
                    self._anew.add(before.name)
                self._remove(rows.pop(key))
        if new is None and not rows:
            self._db.execute(self._q["remove_group"], (group_id,))

    def _remove(self, row: _Row) -> None:
        self._db.execute(self._q["remove_task"], (row.id,))
        self._found.gone.add(row.id)
        self._found.removed += row.state in _OPEN
        if row.state == _RUNNING:
            self._found.stale.add(row.id)

    def _compare_group(self, new: NewGroup) -> None:
        name, rules = new.group.name, new.group.rules
        if name not in self._groups:
            self._found.missing[name] = list(new.specs)
            self._anew.add(name)
            return
        group_id, before = self._groups[name]
        self._db.execute(self._q["revise_group"], (codec.group_text(new.group), group_id))
        same_rules = _of_the_file(before.rules) == _of_the_file(rules)
        same_steps = before.steps == new.group.steps  # they are taken when the file is there
        missing = self._found.missing.setdefault(name, [])
        for spec in new.specs:
            row = self._rows[group_id].get(codec.path_bytes(spec.key))
            if row is None:
                missing.append(spec)
                self._anew.add(name)
                continue
            same = same_rules and _is_of(row, spec) and (same_steps or row.state in _OPEN)
            if row.fell_out or not same:
                self._change(row, rules.root, spec)
                self._anew.add(name)

    def _make_anew(self, groups: tuple[NewGroup, ...]) -> None:
        """Let all be made again that is made of others' files, where these are others by now."""
        needed = {name: set(group.needs) for name, (_, group) in self._groups.items()}
        gathering = [new for new in groups if new.group.gathers and new.group.name in needed]
        given = {n.group.name for n in gathering if set(n.group.needs) != needed[n.group.name]}
        given |= downstream.made_of((new.group for new in groups), self._anew | given)
        for new in gathering:
            if new.group.name in given - self._anew:
                rows, (spec,) = self._rows[self._groups[new.group.name][0]], new.specs
                row = rows[codec.path_bytes(spec.key)]
                if row.state not in _OPEN:
                    self._change(row, new.group.rules.root, spec)

    def _change(self, row: _Row, root: str, spec: TaskSpec) -> None:
        columns = (root, *_columns(spec), origin_of(spec.sources[0]), row.id)
        self._db.execute(self._q["revise_task"], columns)
        self._found.changed += 1
        self._found.opened += row.state not in _OPEN
        if row.state == _RUNNING:
            self._found.stale.add(row.id)


def _columns(spec: TaskSpec) -> tuple[str, str, str, int | None, str | None]:
    return (
        "\n".join(spec.sources),
        codec.digests_text(spec.digests),
        "\n".join(spec.sums),
        spec.size_bytes,
        codec.values_text(spec.values),
    )


def _is_of(row: _Row, spec: TaskSpec) -> bool:
    said = (row.sources, row.digests, row.sums, row.size_bytes, row.step_values)
    return said == _columns(spec)


def _of_the_file(rules: Rules) -> Rules:
    """Return the rules that say which file is right, without those of how it is fetched."""
    return replace(rules, retry=RetryPolicy(), timeouts=Timeouts(), segments=None)
