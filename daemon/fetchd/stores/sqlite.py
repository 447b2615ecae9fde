"""The store on SQLite: a file that survives everything, or memory for `get` and tests."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from fetchd.clock import Clock
from fetchd.errors import StoreError
from fetchd.model import (
    FileView,
    History,
    Kept,
    OriginRecord,
    Position,
    RunView,
    TaskSpec,
    TaskState,
)
from fetchd.ports import (
    Appended,
    Change,
    Keep,
    Naming,
    NewJob,
    NewKept,
    OpenGroup,
    OpenRun,
    Pruned,
    Revised,
    RunFiled,
    Unfinished,
    Window,
)
from fetchd.stores import adding, codec, downstream, opening, views
from fetchd.stores.changes import apply, without_covered
from fetchd.stores.ledger import Ledger
from fetchd.stores.pruning import Pruning
from fetchd.stores.queries import STATES, Q
from fetchd.threads import Worker

#: Tasks that become due this soon are read ahead, so that their wait ends on time.
_AHEAD_S = 60.0


class SqliteStore:
    """``ports.Store``. ``path`` None keeps everything in memory.

    ``is_new``: nothing was there. Raises ConfigError when the database is damaged, from a newer
    fetchd, or cannot be opened; BusyError while another process has it locked.
    """

    def __init__(
        self,
        path: str | None,
        clock: Clock,
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._path = path
        self._clock = clock
        self._pruning: Pruning | None = None  # written by the ledger thread
        self._closing = False
        self.is_new = path is None or not Path(path).exists()
        self._ledger = Ledger(partial(opening.connect, path, clock), clock, on_failure)
        last: int = self._ledger.read(
            lambda db: db.execute("SELECT coalesce(max(id), 0) FROM run").fetchone()[0]
        )
        self._run_ids = itertools.count(last + 1)
        self._files = opening.files_of(path)
        # Ended runs that are not filed: their tasks rest, and are counted once. Ledger thread only.
        self._ended: dict[int, RunView] = {}

    def new_run_id(self) -> int:
        return next(self._run_ids)

    # ------------------------------------------------------------ writing

    def add_jobs(self, jobs: Sequence[NewJob], kept: Sequence[NewKept] = ()) -> list[OpenRun]:
        def write(db: sqlite3.Connection) -> list[OpenRun]:
            opened = [adding.add_job(db, new) for new in jobs]
            for new_kept in kept:
                adding.keep_job(db, new_kept)
            self._compare_files()
            return opened

        return self._ledger.write(write)

    def revise(self, new: NewJob, kept: NewKept) -> Revised:
        return self._ledger.write(lambda db: adding.revise(db, new, kept))

    def append_tasks(
        self,
        group: OpenGroup,
        run: int,
        specs: tuple[TaskSpec, ...],
        position: Position | None,
        then: Callable[[Appended], None],
    ) -> None:
        def write(db: sqlite3.Connection) -> Appended:
            root = group.group.rules.root
            new = adding.not_read_before(db, run, group.id, root, specs)
            failed = adding.add_tasks(db, run, group.id, root, new)
            db.execute(
                Q["move_position"],
                (position is not None, *adding.position_columns(position), group.id),
            )
            skipped = sum(spec.skip for spec in new)
            return Appended(added=len(new), failed=failed, skipped=skipped)

        self._ledger.post(write, then)

    def name_task(
        self,
        task: int,
        path: str,
        history: History,
        later_at_s: float,
        then: Callable[[Naming], None],
    ) -> None:
        self._ledger.post(lambda db: adding.name_task(db, task, path, history, later_at_s), then)

    def record(self, changes: Sequence[Change], then: Callable[[], None] | None = None) -> None:
        self._ledger.post_piece(self._apply, changes, None if then is None else lambda _: then())

    def _apply(self, db: sqlite3.Connection, pieces: Sequence[Sequence[Change]]) -> None:
        now_s = self._clock.wall()
        changes = without_covered(list(itertools.chain.from_iterable(pieces)))
        for _, alike in itertools.groupby(changes, type):
            apply(db, list(alike), now_s)
        for change in changes:
            if isinstance(change, RunFiled):
                self._ended.pop(change.run, None)

    def flush(self) -> None:
        self._ledger.write(lambda _: None)

    def limit_waits(self, group: int, due_at_s: float) -> None:
        self._ledger.post(lambda db: db.execute(Q["limit_waits"], (due_at_s, group, due_at_s)))

    def origins(self, seen_after_s: float) -> list[OriginRecord]:
        def write(db: sqlite3.Connection) -> list[OriginRecord]:
            db.execute(Q["forget_origins"], (seen_after_s,))
            rows = db.execute(Q["origins"], (seen_after_s,))
            return [codec.origin_of_row(*row) for row in rows]

        return self._ledger.write(write)

    def reopen(self, run: int) -> OpenRun | None:
        def write(db: sqlite3.Connection) -> bool:
            unread = db.execute(Q["unread"], (run,)).fetchall()
            made_of_them = _made_of_reopened(db, run)
            reopened = db.execute(Q["reopen_tasks"], (run,)).rowcount
            if not (unread or reopened):
                return False
            if unread:
                adding.read_anew(db, unread)
            db.executemany(Q["make_anew"], [(run, group) for group in made_of_them])
            job = db.execute(Q["run"], (run,)).fetchone()[1]
            for (document,) in db.execute(Q["reopen_ends"], (run,)).fetchall():
                end = codec.group_of(document)
                assert end.end is not None
                path = codec.path_bytes(end.end.path_in(job))
                db.execute(Q["forget_end"], (path, end.rules.root, run))
            db.execute(Q["reopen_run"], (run,))
            self._ended.pop(run, None)
            return True

        if not self._ledger.write(write):
            return None
        return self.open_run(run)

    def prune(self, keep: Keep, then: Callable[[Pruned], None]) -> None:
        def begin(_: None) -> None:
            if self._pruning is None and not self._closing:
                self._pruning = Pruning(self._ledger, Q, keep, end)
                self._pruning.go_on()

        def end(pruned: Pruned) -> None:
            self._pruning = None
            then(pruned)

        self._ledger.ask(lambda _: None, begin)

    def check(self) -> None:
        if self._path is not None:
            self._ledger.ask(lambda _: self._compare_files(), lambda _: None)

    def _compare_files(self) -> None:
        if opening.files_of(self._path) != self._files:
            raise StoreError(
                f"{self._path}: the state database was removed or replaced under a running fetchd; "
                "what it records now would be lost. Put the file back, or start again with the one "
                "that is there"
            )

    def close(self) -> None:
        self._closing = True
        if (pruning := self._pruning) is not None:
            pruning.stop()
        self._ledger.close()

    def threads(self) -> list[Worker]:
        return [self._ledger.worker]

    # ------------------------------------------------------------ reading

    def next_ready(
        self,
        group: int,
        *,
        after: str,
        origins: int,
        per_origin: int,
        now_s: float,
        then: Callable[[Window], None],
        skip: frozenset[str] = frozenset(),
        known: frozenset[int] = frozenset(),
    ) -> None:
        until_s = now_s + _AHEAD_S
        self._ledger.ask(
            lambda db: views.window(db, group, after, origins, per_origin, until_s, skip, known),
            then,
        )

    def last_runs(self, jobs: Collection[str]) -> dict[str, RunView]:
        def read(db: sqlite3.Connection) -> dict[str, RunView]:
            rows = {job: db.execute(Q["last_run"], (job,)).fetchone() for job in jobs}
            views = {job: self._view(db, row[0]) for job, row in rows.items() if row is not None}
            return {job: view for job, view in views.items() if view is not None}

        return self._ledger.read(read)

    def run_view(self, run: int) -> RunView | None:
        return self._ledger.read(lambda db: self._view(db, run))

    def last_success(self, job: str, group: str) -> RunView | None:
        def read(db: sqlite3.Connection) -> RunView | None:
            row = db.execute(Q["last_success"], (job, group)).fetchone()
            return None if row is None else self._view(db, row[0])

        return self._ledger.read(read)

    def open_runs(self) -> list[OpenRun]:
        ids = self._ledger.read(lambda db: [row[0] for row in db.execute(Q["open_runs"])])
        return [self.open_run(run) for run in ids]

    def open_run(self, run: int) -> OpenRun:
        return self._ledger.read(lambda db: views.open_run(db, run))

    def kept(self) -> list[Kept]:
        return self._ledger.read(lambda db: [views.kept(row) for row in db.execute(Q["all_kept"])])

    def raw(self, job: str, revision: str) -> bytes:
        def read(db: sqlite3.Connection) -> bytes:
            _, raw = db.execute(Q["find_job"], (job, revision)).fetchone()
            return bytes(raw)

        return self._ledger.read(read)

    def unfinished(self) -> list[Unfinished]:
        return self._ledger.read(
            lambda db: [views.unfinished(row) for row in db.execute(Q["unfinished"])]
        )

    def unfiled_runs(self) -> list[RunView]:
        def read(db: sqlite3.Connection) -> list[RunView]:
            ids = [row[0] for row in db.execute(Q["unfiled_runs"])]
            return [view for view in (self._view(db, run) for run in ids) if view is not None]

        return self._ledger.read(read)

    def files(self, run: int) -> Iterator[FileView]:
        names = self._group_names(run)
        last = 0
        while True:
            rows = self._ledger.read(partial(views.page, run=run, after=last))
            for row in rows:
                yield views.file_view(row, names)
            if len(rows) < views.PAGE:
                return
            last = rows[-1][0]

    def failures(self, run: int, most: int) -> list[FileView]:
        names = self._group_names(run)
        rows = self._ledger.read(lambda db: db.execute(Q["failures"], (run, most)).fetchall())
        return [views.file_view(row, names) for row in rows]

    def destination_state(self, root: str, path: str) -> TaskState | None:
        (state,) = self._ledger.read(
            lambda db: db.execute(Q["dest_state"], (codec.path_bytes(path), root)).fetchone()
        )
        return None if state is None else STATES[state]

    def knows(self, root: str, path: str) -> bool:
        (found,) = self._ledger.read(
            lambda db: db.execute(Q["knows"], (codec.path_bytes(path), root)).fetchone()
        )
        return bool(found)

    def _view(self, db: sqlite3.Connection, run: int) -> RunView | None:
        view = self._ended.get(run)
        if view is None:
            view = views.run_view(db, run)
            if view is not None and view.finished_at_s is not None and not view.filed:
                self._ended[run] = view
        return view

    def _group_names(self, run: int) -> dict[int, str]:
        rows = self._ledger.read(lambda db: db.execute(Q["groups"], (run,)).fetchall())
        return {row[0]: codec.group_of(row[1]).name for row in rows}


def _made_of_reopened(db: sqlite3.Connection, run: int) -> list[int]:
    """Return the groups that work on files of those with tasks that a retry takes again."""
    groups = {row[0]: codec.group_of(row[1]) for row in db.execute(Q["groups"], (run,))}
    if not any(group.gathers for group in groups.values()):
        return []
    again = {TaskState.FAILED, TaskState.SKIPPED}
    counts = db.execute(Q["counts"], (run,))
    changed = {groups[group].name for group, state, *_ in counts if STATES[state] in again}
    made_of = downstream.made_of(groups.values(), changed)
    return [id_ for id_, group in groups.items() if group.name in made_of]
