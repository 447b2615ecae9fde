"""``fetchd run``: the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fetchd.cli.options import Typed, config_options, load_settings, named_as_typed


@click.command("run")
@click.option("--once", is_flag=True, help="End when the folder is worked off.")
@config_options
@click.option("--jobs", metavar="DIR", help="Watch DIR for job files.")
@click.option("--downloads", metavar="DIR", help="Publish files below DIR.")
@click.option("--state", metavar="DIR", help="Keep database and status in DIR.")
@click.option("--workers", type=int, metavar="N", help="Fetch N files at a time.")
def command(
    once: bool,
    config: Path | None,
    assignments: Sequence[tuple[str, str]],
    jobs: str | None,
    downloads: str | None,
    state: str | None,
    workers: int | None,
) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT.

    It watches the jobs folder and fetches what the job files there ask for. With --once it ends
    when no file is left to be taken and every run has ended: 0 when all succeeded, otherwise 1.
    """
    options = (
        Typed("--jobs", "jobs", jobs),
        Typed("--downloads", "roots.default", downloads),
        Typed("--state", "state", state),
        Typed("--workers", "workers", workers),
    )
    settings = load_settings(config, assignments, options)
    from fetchd import service  # noqa: PLC0415 -- loads every room

    with named_as_typed(options):
        return service.run_daemon(settings, once=once)
