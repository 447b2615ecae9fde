"""``fetchd resume``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fetchd.cli.dropping import tell
from fetchd.cli.options import config_options


@click.command("resume")
@click.argument("job")
@config_options
def command(job: str, config: Path | None, assignments: Sequence[tuple[str, str]]) -> int:
    """Let a job that was paused go on.

    Exit code 1 when that changes nothing, 75 when no daemon runs.
    """
    return tell(job, "resume", "", config, assignments)
