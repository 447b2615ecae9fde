"""``fetchd submit``: hands work to the running daemon through its folder."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchd.cli import job_files
from fetchd.cli.board import printable
from fetchd.cli.daemon import is_running, read_json, require_running
from fetchd.cli.dropping import drop
from fetchd.cli.options import config_options, load_settings
from fetchd.errors import BusyError, UsageError
from fetchd.expand import list_form

if TYPE_CHECKING:
    from fetchd.config import Settings

_LOOK_EVERY_S = 0.1
_MOST_FAILURES = 10
_ENDED = ("succeeded", "partial", "failed", "cancelled")


@dataclass(frozen=True)
class Submission:
    """``file``: the name in the drop folder; ``job``: what reports will be named after."""

    file: str
    job: str
    data: bytes


@click.command("submit")
@click.argument("what", nargs=-1, required=True, metavar="FILE|URL...")
@click.option("--wait", is_flag=True, help="Wait for the end: 0 when all succeeded, otherwise 1.")
@config_options
def command(
    what: Sequence[str], wait: bool, config: Path | None, assignments: Sequence[tuple[str, str]]
) -> int:
    """Put job files, or URLs as a list, into the daemon's folder.

    A file is checked first: exit code 2 when it is wrong. Exit code 75 when no daemon runs.
    """
    files, urls = job_files.part_arguments(what)
    settings = load_settings(config, assignments)
    submissions = [_of_file(path, settings, wait=wait) for path in files]
    if urls:
        submissions.append(_of_urls(urls))
    require_running(settings.state)
    followed = []
    for submission in submissions:
        followed.append((submission, _last_run(settings, submission)))
        drop(settings.jobs, submission.file, submission.data)
        click.echo(f"submitted {submission.file} as job {submission.job}")
    if not wait:
        return 0
    # All are looked at, so that each says how it ended.
    return max([_follow(settings, submission, before) for submission, before in followed])


def _of_file(path: Path, settings: Settings, *, wait: bool) -> Submission:
    from fetchd import jobfile  # noqa: PLC0415 -- loads pydantic

    job_files.load(path, settings)  # tells what is wrong by the name that the person knows
    data, file = path.read_bytes(), _unique(path.stem, path.suffix)
    if list_form(file):
        return Submission(file, jobfile.job_name(file), data)
    job = jobfile.load(data, file, settings)
    if wait and job.schedule is not None:
        raise UsageError(f"{path}: a job with a schedule has no end to wait for; leave out --wait")
    return Submission(file, job.name, data)


def _of_urls(urls: Sequence[str]) -> Submission:
    from fetchd import jobfile  # noqa: PLC0415 -- loads pydantic

    lines: list[str] = []
    for url in urls:
        if "://" in url:
            lines.append(url)
        else:
            lines[-1] += f"\t{url}"
    file = _unique("urls", ".urls")
    data = "".join(f"{line}\n" for line in lines).encode()
    return Submission(file, jobfile.job_name(file), data)


def _unique(stem: str, suffix: str) -> str:
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{stem[:80]}-{moment}-{secrets.token_hex(4)}{suffix}"


def _last_run(settings: Settings, submission: Submission) -> int | None:
    """Return the run that the job's report is about: an earlier one of a job of this name."""
    report = read_json(settings.jobs / "reports" / f"{submission.job}.json")
    return None if report is None else report["run"]


def _follow(settings: Settings, submission: Submission, before: int | None) -> int:
    """Return 0 or 1 as the run after ``before`` ended, 2 when the daemon rejected the file."""
    reports = settings.jobs / "reports"
    rejected = reports / f"{submission.file}.error.txt"
    while True:
        if rejected.exists():
            click.echo("\n".join(map(printable, rejected.read_text().splitlines())), err=True)
            return 2
        report = read_json(reports / f"{submission.job}.json")
        if report is not None and report["run"] != before and report["state"] in _ENDED:
            tasks = report["tasks"]
            click.echo(
                f"{submission.job}: {report['state']}: "
                f"{tasks['succeeded']} succeeded, {tasks['failed']} failed"
            )
            _tell_failures(report.get("failures", []))
            return 0 if report["state"] == "succeeded" else 1
        if not is_running(settings.state):
            raise BusyError(f"the daemon has stopped; {submission.job} goes on when it starts")
        time.sleep(_LOOK_EVERY_S)


def _tell_failures(failures: Sequence[Mapping[str, Any]]) -> None:
    for one in failures[:_MOST_FAILURES]:
        click.echo(printable(f"  {one['path']}: {one['code']}: {one['reason']}"))
    if len(failures) > _MOST_FAILURES:
        click.echo("  and more, in its report")
