"""``fetchd check``: job files, read as the daemon would, and nothing fetched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchd.cli import job_files
from fetchd.cli.board import printable
from fetchd.cli.options import config_options, json_option, load_settings
from fetchd.errors import AttemptError, DocumentError, Problem
from fetchd.units import format_duration, format_size
from fetchd.urls import origin_of

if TYPE_CHECKING:
    from fetchd.config import Settings
    from fetchd.model import Batch, Job, Run, TaskGroup, TaskSpec
    from fetchd.rates import Rate


@dataclass
class Checked:
    """What one file is, or what is wrong with it."""

    file: str
    job: str = ""
    files: int = 0
    problems: list[Problem] = field(default_factory=list)
    text: str = ""
    limits: list[str] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    credentials: dict[str, list[str]] = field(default_factory=dict)  # by origin
    later: list[str] = field(default_factory=list)  # what its manifests become in a run
    ends: list[str] = field(default_factory=list)


@click.command("check")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--show", is_flag=True, help="List every file that would be fetched.")
@json_option
@config_options
def command(
    files: Sequence[Path],
    show: bool,
    as_json: bool,
    config: Path | None,
    assignments: Sequence[tuple[str, str]],
) -> int:
    """Say whether job files are right: exit code 0, or 2 when one is not."""
    settings = load_settings(config, assignments)
    checked = [_check(path, settings, show=show) for path in files]
    if as_json:
        click.echo(json.dumps([_as_json(one, show=show) for one in checked], indent=2))
    else:
        for one in checked:
            _print(one, show=show)
    return 2 if any(one.problems for one in checked) else 0


def _check(path: Path, settings: Settings, *, show: bool) -> Checked:
    try:
        job = job_files.load(path, settings, in_place=True)
    except DocumentError as exc:
        return Checked(str(path), problems=exc.problems, text=str(exc))
    checked = Checked(str(path), job=job.name, later=list(_later(job)))
    places: set[tuple[str, str]] = set()
    try:
        for piece in _pieces(job):
            for index, spec in enumerate(piece.batch.specs):
                if spec.skip:
                    continue
                checked.files += spec.fetches or spec.problem is not None
                place = (piece.group.rules.root, spec.path)
                if spec.problem is not None:
                    _, reason = spec.problem
                    checked.problems.append(piece.problem(index, reason))
                elif place in places:
                    again = f"{spec.path} is the destination of an earlier line"
                    checked.problems.append(piece.problem(index, again))
                elif show:
                    checked.tasks.append(_shown(piece, spec, settings))
                    checked.credentials |= _credentials(spec, settings)
                places.add(place)
    except AttemptError as exc:
        checked.problems.append(Problem(message=exc.reason))
    checked.text = str(DocumentError(checked.file, checked.problems))
    if show:
        checked.limits = list(_limits(job, checked.tasks, settings))
        checked.ends = list(_ends(job))
    return checked


def _later(job: Job) -> Iterator[str]:
    """Yield what only a run knows the files of."""
    for group in job.groups:
        if group.manifest is not None:
            steps = f", then {', '.join(step.name for step in group.steps)}" if group.steps else ""
            yield (
                f"{group.name}: files for the items of {group.manifest.file} "
                f"({group.manifest.format}), known in the run{steps}"
            )


def _ends(job: Job) -> Iterator[str]:
    """Yield what is done at the end of a run."""
    from fetchd.model import RunEnd  # noqa: PLC0415

    if (own := job.generations) is not None:
        yield f"publish: all of them appear together; the latest {own.keep} such sets stay"
    for group in job.groups:
        if group.end is not None and group.end is not RunEnd.PUBLISH:
            steps = (
                f"{step.name} {step.options.get('command') or step.options.get('webhook')}"
                for step in group.steps
            )
            yield f"{group.end}: {', '.join(steps)}"


def _limits(job: Job, tasks: Sequence[dict[str, Any]], settings: Settings) -> Iterator[str]:
    """Yield what limits the job, where it or the configuration says so: the lower one holds."""
    if job.concurrency is not None:
        yield f"at most {job.concurrency} files at a time: limits.concurrency of the job"
    segments = max(group.rules.segments or 0 for group in job.groups)
    for origin in sorted({origin_of(source) for task in tasks for source in task["sources"]}):
        most, by = settings.most_of_origin(origin)
        keys = settings.origins.get(origin)
        wishes = {"limits.concurrency": job.concurrency or 0, "segments": segments}
        higher = [f"{key} of the job, {wish}" for key, wish in wishes.items() if wish > most]
        if keys is None and job.concurrency is None and not higher:
            continue
        line = f"at most {most} at a time from {origin}: {by} of the configuration"
        if higher:
            line += f", which is lower than {' and '.join(higher)}"
        elif job.concurrency is not None and job.concurrency < most:
            line += "; limits.concurrency of the job is lower"
        yield line
        if keys is not None and keys.requests_per_s is not None:
            every = format_duration(1 / keys.requests_per_s)
            yield f"one request every {every} from {origin}: origins of the configuration"
    most_bytes = job.groups[0].rules.max_bytes  # limits.file is the same in all of them
    if most_bytes is not None:
        by = _whose(most_bytes, settings.limits.file_bytes)
        yield f"no file above {format_size(most_bytes)}: limits.file of the {by}"
    if job.max_total_bytes is not None:
        by = _whose(job.max_total_bytes, settings.limits.total_bytes)
        yield f"at most {format_size(job.max_total_bytes)} in all: limits.total of the {by}"


def _whose(holds: int, configured: int | None) -> str:
    return "configuration" if holds == configured else "job"


@dataclass
class _Piece:
    """Tasks of a group; of a list, some of them."""

    job: Job
    run: Run
    group: TaskGroup
    batch: Batch

    def problem(self, index: int, message: str) -> Problem:
        """Return what is wrong with a task, with its line in a list."""
        spec, lines = self.batch.specs[index], self.batch.lines
        if not lines:
            source = f"{spec.sources[0]}: " if spec.sources else ""
            return Problem(message=source + message)
        line = lines[index]
        return Problem(message=message.partition(f":{line}: ")[2] or message, line=line)


def _pieces(job: Job) -> Iterator[_Piece]:
    """Yield what a run of the job that began now would consist of."""
    from fetchd.expand import expand  # noqa: PLC0415
    from fetchd.model import Run  # noqa: PLC0415

    run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=time.time())
    for group in job.groups:
        if group.manifest is not None:
            continue  # only its run knows
        batch = expand(job, group, run, None)
        yield _Piece(job, run, group, batch)
        while batch.position is not None:
            batch = expand(job, group, run, batch.position)
            yield _Piece(job, run, group, batch)


def _shown(piece: _Piece, spec: TaskSpec, settings: Settings) -> dict[str, Any]:
    group = piece.group
    return {
        "task": group.name,
        "needs": list(group.needs),
        "root": group.rules.root,
        "path": spec.path,
        "sources": list(spec.sources) if spec.fetches else [],
        "size_bytes": spec.size_bytes,
        "checksums": [str(digest) for digest in spec.digests],
        "sums": list(spec.sums),
        "steps": [step.name for step in group.steps],
        "rates": _rates(piece.job, spec.sources[0], settings, piece.run.scheduled_for_s)
        if spec.fetches
        else [],
    }


def _rates(job: Job, source: str, settings: Settings, now_s: float) -> list[dict[str, Any]]:
    """Return the rates that hold now for a file, each by whom; the lowest, in force, first."""
    from fetchd.urls import origin_of  # noqa: PLC0415

    origin = settings.origins.get(origin_of(source))
    said: dict[str, Rate | None] = {
        "limits.rate of the configuration": settings.limits.rate,
        "its origin's rate in the configuration": origin.rate if origin else None,
        "limits.rate of the job file": job.rate,
    }
    rates = [
        {"bytes_per_s": bytes_per_s, "by": who}
        for who, rate in said.items()
        if rate is not None and (bytes_per_s := rate.at(now_s)) is not None
    ]
    return sorted(rates, key=lambda rate: rate["bytes_per_s"])


def _rates_text(rates: Sequence[dict[str, Any]]) -> str:
    from fetchd.rates import format_rate  # noqa: PLC0415

    lowest, *others = (f"{format_rate(rate['bytes_per_s'])} by {rate['by']}" for rate in rates)
    return f"{lowest} ({'; '.join(others)})" if others else lowest


def _credentials(spec: TaskSpec, settings: Settings) -> dict[str, list[str]]:
    """Return what the origins of a task are sent, without values, by origin."""
    from fetchd.urls import origin_of  # noqa: PLC0415

    origins = map(origin_of, (*spec.sources, *spec.sums))
    given = {
        name: settings.origins[name].credentials() for name in origins if name in settings.origins
    }
    return {name: said for name, said in given.items() if said}


def _place(task: dict[str, Any]) -> str:
    from fetchd.model import UNNAMED  # noqa: PLC0415

    path: str = task["path"]
    if not (task["sources"] and path.startswith(UNNAMED)):
        return path
    above, slash, _ = path.removeprefix(UNNAMED).rpartition("/")
    return f"{above}{slash}(as its server calls it)"


def _as_json(checked: Checked, *, show: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "file": checked.file,
        "ok": not checked.problems,
        "job": checked.job,
        "files": checked.files,
        "problems": [asdict(problem) for problem in checked.problems],
    }
    if not show:
        return made
    shown = {"limits": checked.limits, "tasks": checked.tasks, "credentials": checked.credentials}
    return made | shown | {"later": checked.later, "ends": checked.ends}


def _print(checked: Checked, *, show: bool) -> None:
    if checked.problems:
        click.echo("\n".join(map(printable, checked.text.split("\n"))), err=True)
        return
    files = f"{checked.files} file{'' if checked.files == 1 else 's'}"
    if count := len(checked.later):
        files += f", and those of {count} manifest{'' if count == 1 else 's'}"
    click.echo(f"{printable(checked.file)}: ok: job {checked.job}, {files}")
    for limit in checked.limits:
        click.echo(f"  {limit}")
    for task in checked.tasks:
        click.echo(f"  {task['root']}:{printable(_place(task))}")
        for number, source in enumerate(task["sources"]):
            click.echo(f"    {'or  ' if number else 'from'} {source}")
        if task["size_bytes"] is not None:
            click.echo(f"    of   {task['size_bytes']} bytes")
        for checksum in task["checksums"]:
            click.echo(f"    with {checksum}")
        for number, url in enumerate(task["sums"]):
            click.echo(f"    {'or  ' if number else 'sums'} {url}")
        if task["steps"]:
            click.echo(f"    then {', '.join(task['steps'])}")
        if task["rates"]:
            click.echo(f"    now at most {_rates_text(task['rates'])}")
        if task["needs"]:
            click.echo(f"    after {', '.join(task['needs'])}")
    for line in (*checked.later, *checked.ends) if show else ():
        click.echo(f"  {printable(line)}")
    for origin, said in checked.credentials.items():
        click.echo(f"  {origin} is given {printable('; '.join(said))}")
