"""What is read of the rows: runs, files and tasks as the rest of the house knows them."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from typing import Any

from fetchd.model import (
    FileView,
    Kept,
    Position,
    Run,
    RunState,
    RunView,
    Task,
    TaskCounts,
    TaskSpec,
    TaskState,
)
from fetchd.ports import OpenGroup, OpenRun, Ready, Unfinished, Window
from fetchd.stores import codec
from fetchd.stores.queries import STATES, Q
from fetchd.urls import HERE

PAGE = 1000


def kept(row: tuple[Any, ...]) -> Kept:
    document, name, revision, file, stamp, last_s, paused, backlog, defaults = row
    return Kept(
        job=codec.job_of(document, name, revision, ()),
        file=codec.path_text(file),
        stamp=stamp,
        last_s=last_s,
        paused=bool(paused),
        backlog=tuple(map(float, backlog.split())),
        defaults=bytes(defaults),
    )


def window(
    db: sqlite3.Connection,
    group: int,
    after: str,
    origins: int,
    per_origin: int,
    until_s: float,
    skip: frozenset[str],
    known: frozenset[int],
) -> Window:
    ready: list[Ready] = []
    next_due_s: float | None = None
    held = 0
    cut = set()
    for _ in range(origins):
        (origin,) = db.execute(Q["next_origin"], (group, after)).fetchone()
        if origin is None:
            after = ""
            break
        after = origin
        if origin in skip:
            continue
        most = per_origin + len(known)
        rows = db.execute(Q["ready_of_origin"], (group, origin, until_s, most))
        news = (row for row in rows if row[0] not in known)
        for count, row in enumerate(itertools.islice(news, per_origin), 1):
            if row[11]:
                held += 1
            else:
                ready.append(_ready(row, group, origin))
            if count == per_origin:
                cut.add(origin)
        rows.close()
        (due_s,) = db.execute(Q["next_due"], (group, origin, until_s)).fetchone()
        if due_s is not None and (next_due_s is None or due_s < next_due_s):
            next_due_s = due_s
    return Window(
        tasks=tuple(ready), after=after, next_due_at_s=next_due_s, held=held, cut=frozenset(cut)
    )


def _spec(
    path: bytes,
    sources: str,
    digests: str,
    sums: str,
    size_bytes: int | None,
    step_values: str | None,
    key: bytes | None,
) -> TaskSpec:
    text = codec.path_text(path)
    return TaskSpec(
        key=text if key is None else codec.path_text(key),
        path=text,
        sources=tuple(sources.split("\n")),
        digests=codec.digests_of(digests),
        sums=tuple(sums.split("\n")) if sums else (),
        size_bytes=size_bytes,
        values=codec.values_of(step_values),
    )


def _ready(row: tuple[Any, ...], group: int, origin: str) -> Ready:
    due_s, wait, history = row[8:11]
    return Ready(
        task=Task(
            id=row[0],
            group=group,
            spec=_spec(*row[1:8]),
            history=codec.history_of(history),
        ),
        origin=origin,
        due_at_s=due_s,
        wait=wait,
        previous=codec.record_of(row[12:]),
    )


def unfinished(row: tuple[Any, ...]) -> Unfinished:
    group, task_id, run, path, *said, history, state, result = row[:13]
    spec = _spec(path, *said)
    return Unfinished(
        run=run,
        task=Task(id=task_id, group=group, spec=spec, history=codec.history_of(history)),
        intent=codec.intent_of(result, spec.path) if STATES[state] == "publishing" else None,
        previous=codec.record_of(row[13:]),
    )


def _counts(db: sqlite3.Connection, run: int) -> dict[int, tuple[dict[str, int], int]]:
    groups: dict[int, tuple[dict[str, int], int]] = {}
    for group, state, count, size_bytes in db.execute(Q["counts"], (run,)):
        counts, total_bytes = groups.get(group, ({}, 0))
        counts[STATES[state].value] = count
        groups[group] = (counts, total_bytes + (size_bytes or 0))
    return groups


def open_run(db: sqlite3.Connection, run: int) -> OpenRun:
    row = db.execute(Q["run"], (run,)).fetchone()
    document, name, revision, _, file, state, accepted_s, scheduled_s, started_s, *_ = row
    cancelled, paused = state == RunState.CANCELLED, state == RunState.PAUSED
    if cancelled or paused:
        state = RunState.QUEUED if paused and started_s is None else RunState.RUNNING
    counts = _counts(db, run)
    seen: dict[str, dict[str, str]] = {}
    for group_name, needed, fingerprint in db.execute(Q["seen"], (name,)):
        seen.setdefault(group_name, {})[needed] = fingerprint
    groups = []
    for group_id, text, expanding, offset, prefix, lines, *reading in db.execute(
        Q["groups"], (run,)
    ):
        states, total_bytes = counts.get(group_id, ({}, 0))
        group = codec.group_of(text)
        groups.append(
            OpenGroup(
                id=group_id,
                group=group,
                expanding=bool(expanding),
                position=None
                if offset is None
                else Position(offset_bytes=offset, prefix_sha256=prefix, lines=lines),
                counts=TaskCounts(**states),
                bytes=total_bytes,
                seen=seen.get(group.name, {}),
                reading=codec.reading_of(*reading),
            )
        )
    return OpenRun(
        job=codec.job_of(document, name, revision, tuple(open_.group for open_ in groups)),
        run=Run(id=run, job=name, revision=revision, scheduled_for_s=scheduled_s),
        file=codec.path_text(file),
        state=RunState(state),
        accepted_at_s=accepted_s,
        started_at_s=started_s,
        groups=tuple(groups),
        cancelled=cancelled,
        paused=paused,
    )


def run_view(db: sqlite3.Connection, run: int) -> RunView | None:
    row = db.execute(Q["run"], (run,)).fetchone()
    if row is None:
        return None
    _, name, revision, _, file, state, accepted_s, scheduled_s, started_s, finished_s, filed = row
    if state == RunState.CANCELLED and finished_s is None:
        state = RunState.RUNNING  # until what was under way has ended
    totals: dict[str, int] = {}
    total_bytes = 0
    for states, size_bytes in _counts(db, run).values():
        total_bytes += size_bytes
        for state_name, count in states.items():
            totals[state_name] = totals.get(state_name, 0) + count
    return RunView(
        id=run,
        job=name,
        revision=revision,
        file=codec.path_text(file),
        state=RunState(state),
        accepted_at_s=accepted_s,
        started_at_s=started_s,
        finished_at_s=finished_s,
        tasks=TaskCounts(**totals),
        bytes=total_bytes,
        filed=bool(filed),
        scheduled_for_s=scheduled_s,
    )


def page(db: sqlite3.Connection, *, run: int, after: int) -> list[tuple[Any, ...]]:
    return db.execute(Q["files"], (run, after, PAGE)).fetchall()


def file_view(row: tuple[Any, ...], groups: dict[int, str]) -> FileView:
    task_id, group, path, state, detail, reason, sources, history_text, result = row
    history = codec.history_of(history_text)
    text = codec.path_text(path)
    first = sources.partition("\n")[0]
    view: dict[str, Any] = {
        "url": first,
        "final_url": "",
        "size_bytes": None,
        "verified": None,
        "digests": (),
        "validator": None,
        "resumed_from_bytes": 0,
        "elapsed_s": None,
    }
    attempts, dossier = history.attempts, history.dossier
    if STATES[state] is TaskState.SUCCEEDED and first == HERE:
        if detail != "up_to_date":
            attempts += 1
            view["staged"] = codec.intent_of(result, text).staged
    elif STATES[state] is TaskState.SUCCEEDED and detail == "up_to_date":
        (size_bytes, verified, digests, url) = codec.unchanged_of(result)
        view |= {"size_bytes": size_bytes, "verified": verified, "digests": digests, "url": url}
    elif STATES[state] is TaskState.SUCCEEDED:
        intent = codec.intent_of(result, text)
        attempts += 1
        if dossier is not None:  # to publish a file clears what was in quarantine for it
            dossier = replace(dossier, quarantine="")
        view |= {
            "url": intent.url,
            "final_url": intent.final_url,
            "size_bytes": intent.size_bytes,
            "verified": intent.verified,
            "digests": intent.digests,
            "validator": intent.validator,
            "resumed_from_bytes": intent.resumed_from_bytes,
            "elapsed_s": intent.elapsed_s,
            "staged": intent.staged,
        }
    return FileView(
        task=task_id,
        group=groups[group],
        path=text,
        state=STATES[state],
        detail=detail,
        reason=reason,
        attempts=attempts,
        causes=history.causes,
        dossier=dossier,
        **view,
    )
