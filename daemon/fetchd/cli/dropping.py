"""How a command hands something to the running daemon: as a file in its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from fetchd.cli.board import printable
from fetchd.cli.daemon import is_running, require_running
from fetchd.cli.options import load_settings
from fetchd.errors import BusyError, ConfigError

_LOOK_EVERY_S = 0.1


def drop(jobs: Path, file: str, data: bytes) -> None:
    """Write the file whole before its name can be seen; raises ConfigError."""
    hidden = jobs / f".{file}.tmp"
    try:
        with hidden.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        hidden.rename(jobs / file)
    except OSError as exc:
        hidden.unlink(missing_ok=True)
        raise ConfigError(f"{jobs}: cannot write into the folder: {exc.strerror}") from None


def tell(
    job: str,
    verb: str,
    text: str,
    config: Path | None,
    assignments: Sequence[tuple[str, str]],
) -> int:
    """Drop a control file and wait until it is obeyed; returns 0, or 1 where it was refused."""
    settings = load_settings(config, assignments)
    require_running(settings.state)
    file = f"{job}.{verb}"
    drop(settings.jobs, file, text.encode())
    while (settings.jobs / file).exists():
        if not is_running(settings.state):
            raise BusyError(f"the daemon has stopped; {file} is obeyed when it starts")
        time.sleep(_LOOK_EVERY_S)
    try:
        why = (settings.jobs / "reports" / f"{file}.error.txt").read_text()
    except FileNotFoundError:
        return 0
    click.echo("\n".join(map(printable, why.splitlines())), err=True)
    return 1
