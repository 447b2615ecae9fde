"""Jobs, runs and tasks come into the rows, are revised there, and get the names of their files."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from fetchd.model import History, Kept, Position, TaskSpec
from fetchd.ports import TAKEN, Naming, NewGroup, NewJob, NewKept, OpenRun, Revised
from fetchd.stores import codec, views
from fetchd.stores.queries import Q
from fetchd.stores.revising import Revising
from fetchd.urls import origin_of


def add_job(db: sqlite3.Connection, new: NewJob) -> OpenRun:
    job, run = new.job, new.run
    (job_id,) = db.execute(
        Q["add_job"], (job.name, job.revision, codec.job_text(job), new.raw)
    ).fetchone()
    db.execute(
        Q["add_run"],
        (run.id, job_id, codec.path_bytes(new.file), "queued", new.at_s, run.scheduled_for_s),
    )
    for group in new.groups:
        add_tasks(db, run.id, _add_group(db, run.id, group), group.group.rules.root, group.specs)
    return views.open_run(db, run.id)


def _add_group(db: sqlite3.Connection, run: int, new: NewGroup) -> int:
    position = position_columns(new.position)
    cursor = db.execute(
        Q["add_group"], (run, codec.group_text(new.group), new.expanding, *position)
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def position_columns(position: Position | None) -> tuple[int | str | None, ...]:
    if position is None:
        return None, None, None
    return position.offset_bytes, position.prefix_sha256, position.lines


def revise(db: sqlite3.Connection, new: NewJob, kept: NewKept) -> Revised:
    job, run = new.job, new.run.id
    (job_id,) = db.execute(
        Q["add_job"], (job.name, job.revision, codec.job_text(job), new.raw)
    ).fetchone()
    db.execute(Q["move_run"], (job_id, run))
    revising = Revising(db, Q, run)
    found = revising.compare(new.groups)
    opened = found.opened
    for group in new.groups:
        group_id = revising.group_id(group.group.name)
        if group_id is None:
            group_id = _add_group(db, run, group)
        specs = found.missing.get(group.group.name, ())
        failed = add_tasks(db, run, group_id, group.group.rules.root, specs)
        opened += len(specs) - len(failed)
    keep_job(db, kept)
    return Revised(
        run=views.open_run(db, run),
        stale=frozenset(found.stale),
        gone=frozenset(found.gone),
        changed=found.changed,
        opened=opened,
        removed=found.removed,
    )


def keep_job(db: sqlite3.Connection, new: NewKept) -> None:
    job = new.kept.job
    before = db.execute(Q["kept_job"], (job.name,)).fetchone()
    found = db.execute(Q["find_job"], (job.name, job.revision)).fetchone()
    if found is None:
        found = db.execute(
            Q["add_job"], (job.name, job.revision, codec.job_text(job), new.raw)
        ).fetchone()
    file = codec.path_bytes(new.kept.file)
    db.execute(Q["keep_job"], (job.name, found[0], file, *kept_columns(new.kept)))
    if before is not None:
        db.execute(Q["prune_job"], before)


def kept_columns(kept: Kept) -> tuple[str, float, int, str, bytes]:
    backlog = " ".join(map(repr, kept.backlog))
    return kept.stamp, kept.last_s, int(kept.paused), backlog, kept.defaults


def add_tasks(
    db: sqlite3.Connection, run: int, group: int, root: str, specs: Sequence[TaskSpec]
) -> tuple[tuple[TaskSpec, str, str], ...]:
    """Insert tasks; returns those that are failed from the start, with code and reason."""
    failed = []
    taken: set[bytes] = set()
    has_dest, add_task = Q["has_dest"], Q["add_task"]
    rows: list[tuple[object, ...]] = []
    for spec in specs:
        path = codec.path_bytes(spec.path)
        problem = spec.problem
        if problem is None and not spec.skip:
            if path in taken or db.execute(has_dest, (path, root, run)).fetchone():
                problem = ("dest_conflict", TAKEN)
            taken.add(path)
        state, detail, reason = 0, "", ""
        if spec.skip:
            state, detail = 5, "condition"
        if problem is not None:
            state, (detail, reason) = 4, problem
            failed.append((spec, detail, reason))
        rows.append(
            (
                run,
                group,
                root,
                path,
                "\n".join(spec.sources),
                codec.digests_text(spec.digests),
                "\n".join(spec.sums),
                spec.size_bytes,
                "" if state else origin_of(spec.sources[0]),
                state,
                detail,
                codec.plain_text(reason),
            )
        )
    if any(spec.values for spec in specs):
        values = [codec.values_text(spec.values) for spec in specs]
        rows = [(*row, value) for row, value in zip(rows, values, strict=True)]
        add_task = Q["add_task_with_values"]
    db.executemany(add_task, rows)
    return tuple(failed)


def read_anew(db: sqlite3.Connection, unread: Sequence[tuple[int, int, str]]) -> None:
    """Let lists that could not be read be read from their beginning."""
    db.executemany(Q["remove_task"], [(task,) for task, _, _ in unread])
    for _, group, document in unread:
        if codec.group_of(document).is_read:
            db.execute(Q["read_anew"], (group,))


def not_read_before(
    db: sqlite3.Connection, run: int, group: int, root: str, specs: Sequence[TaskSpec]
) -> Sequence[TaskSpec]:
    """Leave out what an earlier reading of a list has brought, whatever became of it."""
    (last,) = db.execute(Q["read_before"], (group,)).fetchone()
    if last is None:
        return specs

    def is_new(spec: TaskSpec) -> bool:
        place = (codec.path_bytes(spec.path), root, run, group, last)
        return db.execute(Q["was_read"], place).fetchone() is None

    return [spec for spec in specs if is_new(spec)]


def name_task(
    db: sqlite3.Connection, task: int, path: str, history: History, later_at_s: float
) -> Naming:
    place = codec.path_bytes(path)
    found = db.execute(Q["place_of_task"], (task,)).fetchone()
    if found is None:  # an edit has removed it meanwhile
        return Naming.GIVEN
    if db.execute(Q["has_dest"], (place, *found)).fetchone():
        reason = codec.plain_text(f"{path}: {TAKEN}")
        db.execute(Q["fail_task"], ("dest_conflict", reason, codec.history_text(history), task))
        return Naming.TAKEN
    if db.execute(Q["is_wanted"], (place, found[0])).fetchone():
        db.execute(Q["name_later"], (later_at_s, task))
        return Naming.BUSY
    db.execute(Q["name_task"], (place, task))
    return Naming.GIVEN
