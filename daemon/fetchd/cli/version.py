"""``fetchd version``."""

from __future__ import annotations

import click

from fetchd import __version__


@click.command("version")
def command() -> None:
    """Print the version."""
    click.echo(f"fetchd {__version__}")
