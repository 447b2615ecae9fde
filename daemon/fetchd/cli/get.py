"""``fetchd get``: the engine in place, for the shell and for CI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchd.cli import job_files
from fetchd.cli.board import board, file_lines, run_line
from fetchd.cli.live import live
from fetchd.cli.options import config_options, json_option, load_settings

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
    file. A call that was interrupted is taken up where it stopped. Exits with 0 when every file
    is there, otherwise with 1.
    """
    files, urls = job_files.part_arguments(what)
    settings = load_settings(
        config, assignments, roots__default=dest, jobs=f"{_UNUSED}/jobs", state=f"{_UNUSED}/state"
    )
    jobs = [job_files.load(path, settings) for path in files]
    if urls:
        jobs.append(_job_of_urls(urls, settings))
    runs = _fetch(settings, jobs)
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


def _fetch(settings: Settings, jobs: Sequence[Job]) -> list[tuple[RunView, list[FileView]]]:
    """Run the jobs with progress on a terminal, with warnings as lines elsewhere."""
    from fetchd import logs, service  # noqa: PLC0415 -- load every room

    with live() as draw:
        log = settings.log
        if log.file is not None:
            lines = logs.configure(log.level, log.format, log.file)
        else:
            form = "console" if log.format == "auto" else log.format
            # Lines would tear what is drawn; the end says what failed.
            lines = logs.configure("critical" if draw else "warning", form)

        def show(report: Report) -> None:
            if draw:
                draw(board(asdict(report)))

        try:
            return service.get(settings, jobs, show)
        finally:
            lines.close(2.0)
