"""``fetchd plan``: what a job file would do, with every server asked and nothing fetched."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fetchd.cli import job_files
from fetchd.cli.board import printable
from fetchd.cli.live import live
from fetchd.cli.options import config_options, json_option, load_settings
from fetchd.errors import UsageError
from fetchd.units import format_duration, format_size
from fetchd.urls import origin_of

if TYPE_CHECKING:
    from fetchd.plan.report import Plan, TaskPlan

_MANY = 100
#: Of each kind; the rest is for programs.
_MOST_LINES = 50
#: Wide enough that nothing is cut where no person looks.
_WIDE = 1000


@click.command("plan")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--probe",
    "most",
    metavar="N",
    type=click.IntRange(min=0),
    default=_MANY,
    show_default=True,
    help="Ask about at most N files, some of each server.",
)
@json_option
@config_options
def command(
    file: Path,
    most: int,
    as_json: bool,
    config: Path | None,
    assignments: Sequence[tuple[str, str]],
) -> int:
    """Say what a job file would do: what is fetched, from where, and what would fail.

    Servers are asked, but nothing is fetched, and nothing is written; a daemon may run or not.
    Exits with 0 when nothing would fail, 1 when something would, 2 when the job file is bad.
    """
    settings = load_settings(config, assignments)
    if file.name == job_files.DEFAULTS:
        raise UsageError(f"{file}: these defaults are no job; plan a job file beside them")
    job = job_files.load(file, settings, in_place=True)
    from fetchd import service  # noqa: PLC0415 -- loads every room

    with live() as draw:

        def tell(asked: int, of: int) -> None:
            if draw:
                draw([f"{asked} of {of} questions answered"])

        made = service.make_plan(settings, job, most, tell)
    if as_json:
        click.echo(json.dumps({"file": str(file), **asdict(made)}, indent=2))
    else:
        _print(made)
    return 0 if made.ok else 1


def _print(plan: Plan) -> None:
    totals = plan.totals
    said = [f"{count} {_WORDS[verdict]}" for verdict, count in totals.verdicts.items() if count]
    if totals.bad_items:
        said.append(f"{totals.bad_items} bad")
    if totals.skipped:
        said.append(f"{totals.skipped} skipped")
    if totals.left_out:
        said.append(f"{totals.left_out} not asked about (--probe)")
    click.echo(f"{plan.job}: {', '.join([_files(totals.files), *said])}")
    if plan.tasks:
        _print_table(plan.tasks)
    for lines in (_problems(plan), _notes(plan), _sums_up(plan)):
        shown = list(islice(lines, _MOST_LINES))
        for line in shown:
            click.echo(printable(line))
        if next(lines, None) is not None:
            click.echo("and more; --json tells all")


_WORDS = {
    "fetch": "to fetch",
    "up_to_date": "up to date",
    "fail": "would fail",
    "wait": "not there yet",
    "unknown": "unknown",
}


def _print_table(tasks: Sequence[TaskPlan]) -> None:
    from rich.console import Console  # noqa: PLC0415 -- only this needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in ("would", "size", "resumes", "file", "from"):
        table.add_column(title, justify="right" if title == "size" else "left", no_wrap=True)
    for task in tasks:
        table.add_row(*(Text(printable(cell)) for cell in _row(task)))
    Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False).print(table)


def _row(task: TaskPlan) -> tuple[str, ...]:
    source = next((one for one in task.sources if one.asked and not one.code), None)
    # A cut transfer goes on where it was if ranges are given and bytes are provably of one version.
    resumes = "?"
    if source is not None and source.ranges is not None:
        proof = source.validator == "strong" or bool(task.checksums)
        resumes = "yes" if source.ranges and proof else "no"
    others = len(task.sources) - 1 + task.sources_left_out
    return (
        task.verdict.replace("_", " "),
        "?" if task.size_bytes is None else format_size(task.size_bytes),
        resumes,
        f"{task.root}:{task.path}",
        ("" if source is None else origin_of(source.url)) + (f" +{others}" if others > 0 else ""),
    )


def _problems(plan: Plan) -> Iterator[str]:
    """Yield all that would fail, or is not as one may think."""
    for problem in plan.problems:
        yield f"problem: {problem}"
    more = plan.totals.bad_items - len(plan.problems)
    if more > 0:
        yield f"problem: and {more} more bad items"
    for group in plan.groups:
        if group.failed:
            yield f"problem: {group.task}: {group.failed}"
    for task in plan.tasks:
        name = f"{task.root}:{task.path}"
        if task.code or task.verdict == "unknown":
            code = f"{task.code}: " if task.code else ""
            optional = " (it may fail)" if task.may_fail else ""
            passing = any(one.transient for one in task.sources)
            again = " (a run would try again)" if passing else ""
            yield f"{name}: {task.verdict}: {code}{task.reason}{again}{optional}"
        elif task.verdict == "fetch" and task.reason:
            yield f"{name}: {task.reason}"
        for source in task.sources:
            if task.verdict == "fetch" and (source.code or not source.asked):
                code = f"{source.code}: " if source.code else "not asked: "
                yield f"{name}: not from {source.url}: {code}{source.reason}"
            withheld = [hop for hop in source.hops if hop.withheld]
            if withheld:
                yield f"{name}: {withheld[0].url} is not sent what is for {origin_of(source.url)}"
    for disk in plan.disks:
        if not disk.fits:
            yield (
                f"problem: {disk.folder}: {format_size(disk.needed_bytes)} are needed, "
                f"{format_size(disk.free_bytes)} are free, of which "
                f"{format_size(disk.reserve_bytes)} stay so (disk.reserve)"
            )


def _notes(plan: Plan) -> Iterator[str]:
    for group in plan.groups:
        if group.files is None:
            yield f"{group.task}: files unknown: {group.note}"
        elif group.note:
            yield f"{group.task}: {_files(group.files)}: {group.note}"
        if group.condition:
            yield f"{group.task}: if {group.condition}"
        if group.needs:
            yield f"{group.task}: after {', '.join(group.needs)}"
        if group.steps:
            yield f"{group.task}: then {', '.join(group.steps)}"
    for task in plan.tasks:
        if task.standing is not None and task.verdict != "up_to_date":
            yield f"{task.root}:{task.path}: stands there, and {task.standing.reason}"
        for source in task.sources:
            if source.hops and not source.code:
                yield f"{task.root}:{task.path}: redirected to {source.hops[-1].url}"
        if task.held_bytes:
            yield f"{task.root}:{task.path}: {format_size(task.held_bytes)} of it are there"


def _sums_up(plan: Plan) -> Iterator[str]:
    totals = plan.totals
    unsized = f", and {_files(totals.unsized)} of unknown size" if totals.unsized else ""
    yield f"to transfer: {format_size(totals.bytes)}{unsized}"
    for disk in plan.disks:
        yield (
            f"disk {disk.folder}: {format_size(disk.free_bytes)} free, "
            f"{format_size(disk.reserve_bytes)} reserved, {format_size(disk.needed_bytes)} needed"
            + (f", {_files(disk.unsized)} of unknown size" if disk.unsized else "")
        )
    yield f"time: {_time(plan)}" + (f" ({'; '.join(plan.time.by)})" if plan.time.by else "")
    for origin, said in plan.credentials.items():
        yield f"{origin} is given {'; '.join(said)}"
    when = plan.when
    if when.due_s is not None:
        jitter = f", up to {format_duration(when.jitter_s)} later" if when.jitter_s else ""
        yield f"due: {_moment(when.due_s)}{jitter}"
    if when.opens_s is not None:
        yield f"its window opens: {_moment(when.opens_s)}"
    if plan.state:
        yield f"nothing is known of earlier runs: {plan.state}"


def _time(plan: Plan) -> str:
    least_s, most_s = plan.time.least_s, plan.time.most_s
    if least_s is None and most_s is None:
        return "unknown"
    if most_s is None:
        return f"at least {format_duration(least_s or 0.0)}"
    if least_s is None or format_duration(least_s) == format_duration(most_s):
        return f"about {format_duration(most_s)}"
    return f"{format_duration(least_s)} to {format_duration(most_s)}"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _moment(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(wall_s))
