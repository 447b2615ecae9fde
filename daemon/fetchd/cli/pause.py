"""``fetchd pause``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fetchd.cli.dropping import tell
from fetchd.cli.options import config_options


@click.command("pause")
@click.argument("job")
@config_options
def command(job: str, config: Path | None, assignments: Sequence[tuple[str, str]]) -> int:
    """Hold a job: its transfers stop, nothing of it starts until it is resumed.

    Exit code 1 when that changes nothing, 75 when no daemon runs.
    """
    return tell(job, "pause", "", config, assignments)
