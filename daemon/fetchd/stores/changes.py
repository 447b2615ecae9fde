"""Changes become statements: what the engine has decided is put down, many with one statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from fetchd.model import FileRecord, TaskState
from fetchd.ports import (
    Change,
    Failed,
    GroupSucceeded,
    Intends,
    KeptChanged,
    KeptForgotten,
    OriginForgotten,
    OriginKept,
    ReadingChanged,
    RestEnded,
    RunCancelled,
    RunChanged,
    RunFiled,
    RunPaused,
    Started,
    Succeeded,
    Waits,
)
from fetchd.stores import codec
from fetchd.stores.adding import kept_columns
from fetchd.stores.queries import NUMBERS, Q

#: Changes of a task that tell more than that it was started.
_COVERING = (Intends, Waits, Failed)


def without_covered(changes: Sequence[Change]) -> list[Change]:
    """Leave out the starts that a later change of their task covers: no commit is in between."""
    covered: set[int] = set()
    kept: list[Change] = []
    for change in reversed(changes):
        if isinstance(change, Started):
            if change.task in covered:
                continue
        elif isinstance(change, _COVERING):
            covered.add(change.task)
        kept.append(change)
    kept.reverse()
    return kept


def apply(db: sqlite3.Connection, alike: Sequence[Change], now_s: float) -> None:
    """Apply changes of one kind; those that every task has share their statements."""
    if isinstance(alike[0], Started):
        db.executemany(Q["start_task"], [(c.task,) for c in alike if isinstance(c, Started)])
    elif isinstance(alike[0], Intends):
        db.executemany(
            Q["intend_task"],
            [
                (codec.intent_text(c.intent), codec.history_text(c.history), c.task)
                for c in alike
                if isinstance(c, Intends)
            ],
        )
    elif isinstance(alike[0], Succeeded):
        _succeed(db, [c for c in alike if isinstance(c, Succeeded)], now_s)
    else:
        for change in alike:
            _apply_one(db, change)


def _apply_one(db: sqlite3.Connection, change: Change) -> None:
    match change:
        case Waits(task=task, origin=origin, history=history, due_at_s=due_s, reason=reason):
            db.execute(Q["wait_task"], (origin, codec.history_text(history), due_s, reason, task))
        case Failed(task=task, code=code, reason=reason, history=history):
            text = codec.plain_text(reason)
            db.execute(Q["fail_task"], (code, text, codec.history_text(history), task))
        case RestEnded(run=run, group=group, state=state, reason=reason):
            db.execute(Q["end_rest"], (NUMBERS[state], reason, run, group))
            if state is TaskState.CANCELLED:
                db.execute(Q["end_list"], (group,))
        case GroupSucceeded(job=job, group=name, seen=seen, run=run):
            db.executemany(Q["keep_seen"], [(job, name, *one) for one in seen.items()])
            db.execute(Q["keep_success"], (job, name, run))
        case RunChanged(run=run, state=state, at_s=at_s):
            db.execute(Q["end_run" if state.ended else "start_run"], (state, at_s, run))
        case RunCancelled(run=run):
            db.execute(Q["cancel_run"], (run,))
        case RunPaused(run=run, paused=paused):
            db.execute(Q["pause_run" if paused else "resume_run"], (run,))
        case RunFiled(run=run):
            db.execute(Q["file_run"], (run,))
        case OriginKept(record=record):
            db.execute(Q["keep_origin"], codec.origin_row(record))
        case OriginForgotten(origin=origin):
            db.execute(Q["forget_origin"], (origin,))
        case KeptChanged(kept=kept):
            db.execute(Q["change_kept"], (*kept_columns(kept), kept.job.name))
        case KeptForgotten(job=job):
            _forget_kept(db, job)
        case ReadingChanged(group=group, reading=reading):
            db.execute(Q["change_reading"], (*codec.reading_columns(reading), group))
        case Started() | Intends() | Succeeded():
            raise AssertionError(f"{change} is applied with others")


def _forget_kept(db: sqlite3.Connection, job: str) -> None:
    before = db.execute(Q["kept_job"], (job,)).fetchone()
    if before is not None:
        db.execute(Q["forget_kept"], (job,))
        db.execute(Q["prune_seen"], before)
        db.execute(Q["prune_job"], before)


def _succeed(db: sqlite3.Connection, changes: Sequence[Succeeded], now_s: float) -> None:
    db.executemany(
        Q["succeed_published"], [(c.detail, c.task) for c in changes if c.unchanged is None]
    )
    db.executemany(
        Q["succeed_unchanged"],
        [
            (c.detail, codec.unchanged_text(c.unchanged, c.url), c.task)
            for c in changes
            if c.unchanged is not None
        ],
    )
    db.executemany(
        Q["keep_file"],
        [_file_row(c.root, c.path, c.record, now_s) for c in changes if c.record is not None],
    )


def _file_row(root: str, path: str, record: FileRecord, now_s: float) -> tuple[Any, ...]:
    validator = record.validator
    return (
        root,
        codec.path_bytes(path),
        record.url,
        record.size_bytes,
        codec.column_number(record.mtime_ns),
        codec.column_number(record.inode),
        codec.digests_text(record.digests),
        validator.etag,
        validator.last_modified,
        validator.date,
        now_s,
        record.verified,
    )
