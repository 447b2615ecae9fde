"""What is under way, what is to happen because of decisions, and how events speak of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fetchd import events
from fetchd.engine.queue import Entry, Ruling
from fetchd.engine.runs import Group, OpenedRun
from fetchd.model import Attempt, Batch, Fetch, FileRecord, Finish, History, Progress, Publish, Task
from fetchd.ports import Change

_NO_PROGRESS = Progress()


@dataclass(slots=True)
class Out:
    """An attempt that was taken and not settled. ``began_s``: monotonic; ``lent``: connections.

    ``stale``: an edit of the job made it be of no use; ``gone``: and its task is no more. The
    number of that one may be another task's by now.
    """

    attempt: Attempt
    group: Group
    began_s: float
    entry: Entry | None = None
    previous: FileRecord | None = None
    progress: Progress = _NO_PROGRESS
    lent: int = 0
    stale: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class PutOff:
    """Steps, or a publication, to be tried again; ``due_s``: monotonic."""

    attempt: Finish | Publish
    due_s: float


class Effects:
    """What is to happen because of decisions, after the lock is given back.

    ``final``: told once the record is durable; ``intended``: to publish, or to finish before, once
    it is; ``named``: with their paths. ``sweep``: a part may lie about that nobody needs;
    ``freed``: a destination is free for whoever waited for it.
    """

    __slots__ = (
        *("batches", "cancelled_runs", "changes", "ended", "entries", "final", "freed"),
        *("failing_runs", "happened", "intended", "named", "put_off", "reads", "released"),
        *("rulings", "sweep", "to_expand"),
    )

    def __init__(self) -> None:  # written out: two of these are made for each task
        self.changes: list[Change] = []
        self.happened: list[events.Event] = []
        self.final: list[events.Event] = []
        self.entries: list[Entry] = []
        self.released: list[Entry] = []
        self.rulings: list[Ruling] = []
        self.intended: list[Finish | Publish] = []
        self.put_off: list[PutOff] = []
        self.batches: list[tuple[Group, Batch]] = []
        self.named: list[tuple[Group, Fetch, str]] = []
        self.to_expand: list[Group] = []
        self.reads: list[tuple[Group, str]] = []
        self.ended: list[OpenedRun] = []
        self.cancelled_runs: list[int] = []
        self.failing_runs: list[OpenedRun] = []
        self.sweep = False
        self.freed = False


def source_of(task: Task, history: History) -> str:
    return task.spec.sources[history.source]


def told_source(task: Task, history: History) -> str:
    """Return the URL as events have it, "" where nothing is fetched."""
    return source_of(task, history) if task.spec.fetches else ""


def about_run(run: OpenedRun) -> dict[str, Any]:
    """Return the fields that events about a run have in common."""
    return {"job": run.job.name, "run": run.run.id}


def about_task(attempt: Fetch | Finish | Publish, url: str) -> dict[str, Any]:
    """Return the fields that events about a task have in common."""
    return {
        "job": attempt.job.name,
        "run": attempt.run.id,
        "task": attempt.task.id,
        "path": attempt.task.spec.path,
        "url": url,
    }
