"""What goes on now, as lines of text: for status, get and the demo.

Works on the JSON form of ``model.Report``, so that ``status`` needs nothing but the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fetchd.units import format_duration, format_size

_BAR = 20
_MOST_TRANSFERS = 16
_MOST_SHUT = 5
_MOST_KEPT = 20
_LOST = ("failed", "skipped", "cancelled")

Json = Mapping[str, Any]


def printable(text: str) -> str:
    """Return the text without what could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def board(report: Json) -> list[str]:
    """Return a line for each run, and one for each transfer under way."""
    transfers = report["transfers"]
    lines = [run_line(run) for run in report["runs"]]
    if report.get("left_out"):
        lines.append(f"and {report['left_out']} more runs")
    lines += [_transfer_line(transfer) for transfer in transfers[:_MOST_TRANSFERS]]
    if len(transfers) > _MOST_TRANSFERS:
        lines.append(f"  and {len(transfers) - _MOST_TRANSFERS} more")
    return lines


def run_line(run: Json) -> str:
    """Return ``NAME #ID state  12/200 files  3 failed  1.5 GiB``."""
    tasks = run["tasks"]
    lost = [f"{tasks[state]} {state}" for state in _LOST if tasks[state]]
    ended = sum(tasks[state] for state in ("succeeded", *_LOST))
    total = ended + sum(tasks[state] for state in ("ready", "running", "publishing"))
    more = "+" if run.get("list_open") else ""
    parts = [
        f"{printable(run['job'])} #{run['id']} {run['state']}",
        f"{ended}/{total}{more} files",
        *lost,
        format_size(run["bytes"]),
        *(f"{count} wait: {reason}" for reason, count in run.get("waiting", {}).items()),
    ]
    return "  ".join(parts)


def _transfer_line(transfer: Json) -> str:
    progress = transfer["progress"]
    have, total = progress["have_bytes"], progress["total_bytes"]
    done = min(1.0, have / total) if total else 0.0
    bar = ("#" * int(done * _BAR)).ljust(_BAR, "-")
    speed = progress["received_bytes"] / max(0.001, transfer["elapsed_s"])
    size = format_size(have) + (f" of {format_size(total)}" if total else "")
    doing = "verifying" if progress["verifying"] else f"{format_size(speed)}/s"
    doing = progress.get("step") or doing
    again = f"  attempt {transfer['attempt']}" if transfer["attempt"] > 1 else ""
    return f"  [{bar}] {size}  {doing}  {printable(transfer['path'])}{again}"


def shut_lines(origins: Sequence[Json], now_s: float) -> Iterator[str]:
    """Yield a line for each of the first origins of which nothing is asked for now."""
    shut = [one for one in origins if (one["shut_until_s"] or 0.0) > now_s]
    for one in shut[:_MOST_SHUT]:
        left = format_duration(one["shut_until_s"] - now_s)
        yield f"{printable(one['origin'])} is left alone for {left}: {one['shut_reason']}"
    if len(shut) > _MOST_SHUT:
        yield f"and {len(shut) - _MOST_SHUT} more: fetchd origins"


def kept_lines(kept: Sequence[Json], now_s: float) -> Iterator[str]:
    """Yield a line for each of the jobs that are due next."""
    for one in kept[:_MOST_KEPT]:
        when = "when its file changes"
        if one["next_s"] is not None:
            moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["next_s"]))
            left_s = one["next_s"] - now_s
            when = f"{moment}, in {format_duration(left_s)}" if left_s > 0 else f"due {moment}"
        paused = "  paused" if one["paused"] else ""
        backlog = f"  earlier runs to make: {one['backlog']}" if one["backlog"] else ""
        yield f"{printable(one['job'])}  next: {when}{paused}{backlog}"
    if len(kept) > _MOST_KEPT:
        yield f"and {len(kept) - _MOST_KEPT} more jobs that stay"


def file_lines(files: Sequence[Json]) -> Iterator[str]:
    """Yield a line for each file of a run's end: outcome, size, path, and why it is not there."""
    for file in files:
        size = "" if file["size_bytes"] is None else format_size(file["size_bytes"])
        name = printable(file["path"] or file["url"])
        if file["state"] == "succeeded":
            yield f"{file['detail']:<12} {size:>10}  {name}"
        else:
            # The code of a failure, or why it was skipped, is its detail.
            why = ": ".join(part for part in (file["detail"], file["reason"]) if part)
            yield f"{file['state']:<12} {size:>10}  {name}: {printable(why)}"


def stats_lines(stats: Mapping[str, int | float]) -> Iterator[str]:
    """Yield what the daemon has done since it started."""
    yield (
        f"tasks: {stats.get('queued', 0)} queued, {stats.get('running', 0)} running, "
        f"{stats.get('tasks_succeeded', 0)} succeeded, {stats.get('tasks_failed', 0)} failed, "
        f"{stats.get('retries', 0)} retries"
    )
    yield (
        f"received: {format_size(stats.get('bytes_received', 0))}, "
        f"{format_size(stats.get('bytes_per_s_10s', 0))}/s now"
    )
