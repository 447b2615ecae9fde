"""``fetchd schema``: what editors complete and check with."""

from __future__ import annotations

import json

import click


@click.command("schema")
@click.argument("which", type=click.Choice(["job", "config"]), default="job")
def command(which: str) -> None:
    """Print the JSON Schema (draft-07) of job files, or of the configuration."""
    if which == "job":
        from fetchd.jobfile import schema  # noqa: PLC0415 -- loads pydantic
    else:
        from fetchd.config import schema  # noqa: PLC0415 -- loads pydantic
    click.echo(json.dumps(schema(), indent=2))
