"""``fetchd get``: the engine in place, for the shell and for CI."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchd.cli import job_files
from fetchd.cli.board import board, file_lines, run_line
from fetchd.cli.live import Draw, live
from fetchd.cli.options import Typed, config_options, json_option, load_settings, named_as_typed

if TYPE_CHECKING:
    from fetchd.config import Settings
    from fetchd.model import FileView, Job, Report, RunView


#: Where the folders of the daemon would be, which may not overlap with DIR: get has none.
_UNUSED = "/dev/null"


@click.command("get")
@click.argument("what", nargs=-1, required=True, metavar="FILE|URL...")
@click.option("--dest", default=".", metavar="DIR", help="Publish files below DIR (default: .).")
@json_option
@config_options
def command(
    what: Sequence[str],
    dest: str,
    as_json: bool,
    config: Path | None,
    assignments: Sequence[tuple[str, str]],
) -> int:
    """Fetch what job files or URLs ask for, here and now.

    A URL may be followed by its checksum: get URL sha256:HEX. Needs no daemon, and moves no job
    file. A call that was interrupted, or ended by SIGTERM, is taken up where it stopped by the
    next one. Exits with 0 when every file is there, otherwise with 1.
    """
    files, urls = job_files.part_arguments(what)
    options = (
        Typed("--dest", "roots.default", dest),
        Typed("get", "jobs", f"{_UNUSED}/jobs"),
        Typed("get", "state", f"{_UNUSED}/state"),
    )
    settings = load_settings(config, assignments, options)
    jobs = [job_files.load(path, settings) for path in files]
    if urls:
        jobs.append(_job_of_urls(urls, settings))
    # A file's level is the daemon's; one that was typed is meant for this call.
    level = settings.log.level if any(key == "log.level" for key, _ in assignments) else None
    with named_as_typed(options):
        runs = _fetch(settings, jobs, level=level)
    if as_json:
        click.echo(json.dumps([_as_json(run, views) for run, views in runs], indent=2))
    else:
        for run, views in runs:
            for line in file_lines([asdict(view) for view in views]):
                click.echo(line)
            click.echo(run_line(asdict(run)))
    return 0 if all(run.state == "succeeded" for run, _ in runs) else 1


def _as_json(run: RunView, files: Sequence[FileView]) -> dict[str, Any]:
    """Return what the daemon's two report files say, in one."""
    from fetchd.folder import reports  # noqa: PLC0415 -- loads watchdog

    failures = [file for file in files if file.state == "failed"]
    lines = b"".join(reports.file_lines(files)).splitlines()
    return {
        **json.loads(reports.run_report(run, failures)),
        "files": [json.loads(line) for line in lines],
    }


def _job_of_urls(urls: Sequence[str], settings: Settings) -> Job:
    from fetchd import jobfile  # noqa: PLC0415 -- loads pydantic

    return jobfile.url_job(urls, settings, name="get", dest="")


def _fetch(
    settings: Settings, jobs: Sequence[Job], *, level: str | None
) -> list[tuple[RunView, list[FileView]]]:
    """Run the jobs with progress on a terminal, with warnings as lines elsewhere.

    ``level``: of the log lines that were asked for, which would tear what is drawn.
    """
    from fetchd import logs, service  # noqa: PLC0415 -- load every room
    from fetchd.cli.waits import Waits  # noqa: PLC0415 -- as these

    log = settings.log
    drawing: AbstractContextManager[Draw | None] = (
        nullcontext() if level and log.file is None else live()
    )
    with drawing as draw:
        if log.file is not None:
            lines = logs.configure(log.level, log.format, log.file)
            seen = "critical"
        else:
            form = "console" if log.format == "auto" else log.format
            # What is drawn shows the rest, and the end says what failed.
            seen = level or ("critical" if draw else "warning")
            lines = logs.configure(seen, form)
        waits = Waits(logging.getLevelNamesMapping()[seen.upper()])

        def show(report: Report) -> None:
            for line in waits.lines():
                # Not by click, which would write past what is drawn and tear it.
                print(f"fetchd: {line}", file=sys.stderr, flush=True)
            if draw:
                draw(board(asdict(report)))

        try:
            return service.get(settings, jobs, show, [waits])
        finally:
            lines.close(2.0)
