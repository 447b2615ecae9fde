"""What is told at the end of a run: its totals, and what has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fetchd.errors import AttemptError
from fetchd.logs import redact_text
from fetchd.model import FileView, Finish, RunEnd, RunView, TaskCounts
from fetchd.secrets import hide
from fetchd.units import format_size
from fetchd.urls import redact_url

#: What is on record of a run: the run itself, and the first of its tasks that have failed.
Records = Callable[[int], tuple[RunView, list[FileView]]]


def summary_of(attempt: Finish, records: Records) -> str:
    """Return one line about the run of a task at its end."""
    run, _ = records(attempt.run.id)
    totals = asdict(_others(run.tasks))
    told = ", ".join(
        f"{totals[state]} {state}"
        for state in ("succeeded", "failed", "skipped", "cancelled")
        if totals[state] or state == "succeeded"
    )
    return f"{told}; {format_size(run.bytes)}"


def facts_of(attempt: Finish, records: Records) -> dict[str, Any]:
    """Return what a service is told of the run of a task at its end.

    It is the same whenever it is told, so that a repetition is one.
    """
    run, failures = records(attempt.run.id)
    return {
        "event": _event(attempt.group.end, run.tasks),
        "job": run.job,
        "run": run.id,
        "scheduled_for": _moment(run.scheduled_for_s),
        "started_at": _moment(run.started_at_s),
        "finished_at": _moment(attempt.intent.mtime_s),
        "tasks": asdict(_others(run.tasks)),
        "bytes": run.bytes,
        "summary": summary_of(attempt, records),
        "failures": [
            {
                "task": failed.group,
                "path": _shown(failed.path),
                "code": failed.detail,
                "reason": redact_text(failed.reason),
                "url": hide(redact_url(failed.url)),
            }
            for failed in failures
        ],
    }


def _event(end: RunEnd | None, counts: TaskCounts) -> str:
    if end is RunEnd.ON_FAILURE:
        return "run.failed"
    if end is RunEnd.ON_SUCCESS:
        return "run.partial" if counts.failed else "run.succeeded"
    raise AttemptError("step_failed", f"nothing is told of {end}")


def _others(counts: TaskCounts) -> TaskCounts:
    """Return the totals of all tasks that have ended: not of the one that tells them."""
    return TaskCounts(
        succeeded=counts.succeeded,
        failed=counts.failed,
        skipped=counts.skipped,
        cancelled=counts.cancelled,
    )


def _moment(wall_s: float | None) -> str | None:
    """Return the moment as ISO 8601 in UTC, to the millisecond."""
    if wall_s is None:
        return None
    moment = datetime.fromtimestamp(wall_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(name: str) -> str:
    """Return a text with those bytes escaped that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
