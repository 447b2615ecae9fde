"""``fetchd backfill``: runs for dates that are past."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fetchd.cli.dropping import tell
from fetchd.cli.options import config_options


@click.command("backfill")
@click.argument("job")
@click.argument("days", metavar="A..B")
@config_options
def command(
    job: str, days: str, config: Path | None, assignments: Sequence[tuple[str, str]]
) -> int:
    """Make a run for each time that JOB was due on the days from A to B.

    Days are written as 2026-11-01..2026-11-27, or as one of them. The runs are made one after the
    other, in order, each with its own ${run.date}. Exit code 1 when none is made, 75 when no
    daemon runs.
    """
    return tell(job, "backfill", f"{days}\n", config, assignments)
