"""``fetchd status``: reads ``state/status.json``, never the database, and loads no heavy room."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from fetchd.cli.board import board, kept_lines, printable, shut_lines, stats_lines
from fetchd.cli.daemon import read_json, require_running
from fetchd.cli.live import live
from fetchd.cli.options import config_option, json_option
from fetchd.errors import ConfigError, DocumentError, UsageError
from fetchd.units import format_duration

#: As in ``fetchd.config``, which takes a quarter of a second to load; a test holds them equal.
PLACES = (Path("config/fetchd.yaml"), Path("/etc/fetchd/fetchd.yaml"))
ENVIRONMENT = "FETCHD_CONFIG"
DEFAULT_STATE = Path("state")
_MAX_BYTES = 1024 * 1024
_REDRAW_EVERY_S = 1.0


@click.command("status")
@click.option("--watch", is_flag=True, help="Go on showing until interrupted.")
@json_option
@config_option
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="The daemon's state.")
def command(watch: bool, as_json: bool, config: Path | None, state: Path | None) -> None:
    """Show what the daemon is doing; exit code 75 when none runs."""
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other; ask for --json repeatedly")
    state = state or state_of(config)
    if watch:
        _watch(state)
        return
    status = _read(state)
    if as_json:
        click.echo(json.dumps(status, indent=2))
    else:
        for line in _lines(status):
            click.echo(line)


def state_of(config: Path | None) -> Path:
    """Return the state folder that the configuration names, looking at this one key only."""
    from fetchd import yamldoc  # noqa: PLC0415 -- loads yaml

    named = os.environ.get(ENVIRONMENT)
    path = config or (
        Path(named) if named else next((place for place in PLACES if place.is_file()), None)
    )
    if path is None:
        return DEFAULT_STATE
    try:
        keys = yamldoc.plain(yamldoc.parse_yaml(path.read_bytes(), str(path), max_bytes=_MAX_BYTES))
    except OSError as exc:
        raise ConfigError(f"{path}: the configuration cannot be read: {exc.strerror}") from None
    except DocumentError as exc:
        raise ConfigError(str(exc)) from None
    found = keys.get("state") if isinstance(keys, dict) else None
    return Path(found) if isinstance(found, str) else DEFAULT_STATE


def _read(state: Path) -> dict[str, Any]:
    require_running(state)
    status = read_json(state / "status.json")
    return status or {"report": {"runs": [], "transfers": []}, "stats": {}}


def _lines(status: dict[str, Any]) -> list[str]:
    head = "starting"
    if "pid" in status:
        up = format_duration(max(0.0, time.time() - status["started_at"]))
        head = f"fetchd {status['version']}, process {status['pid']}, up for {up}"
    shown = board(status["report"]) or ["nothing to do"]
    troubles = [f"jobs folder: {printable(trouble)}" for trouble in status.get("folder", ())]
    shut = shut_lines(status["report"].get("origins", ()), time.time())
    kept = kept_lines(status["report"].get("kept", ()), time.time())
    return [head, *stats_lines(status["stats"]), *troubles, *shut, *kept, "", *shown]


def _watch(state: Path) -> None:
    with live(keep=True) as draw:
        while True:
            lines = _lines(_read(state))
            if draw:
                draw(lines)
            else:
                click.echo("\n".join(lines) + "\n")
            time.sleep(_REDRAW_EVERY_S)
