"""``fetchd origins``: what holds for each server, as ``state/status.json`` says, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fetchd.cli.board import printable
from fetchd.cli.daemon import read_json, require_running
from fetchd.cli.options import config_option, json_option
from fetchd.cli.status import state_of
from fetchd.units import format_duration, format_size

_HEAD = ("origin", "connections", "gate", "breaker", "ranges", "stalls", "speed")


@click.command("origins")
@json_option
@config_option
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="The daemon's state.")
def command(as_json: bool, config: Path | None, state: Path | None) -> None:
    """Show what holds for each server, why, and what was learned of it.

    Those that are shut come first, then those that were heard of last; exit code 75 when no daemon
    runs.
    """
    state = state or state_of(config)
    require_running(state)
    status = read_json(state / "status.json") or {}
    origins = status.get("report", {}).get("origins", [])
    if as_json:
        click.echo(json.dumps(origins, indent=2))
        return
    for line in table(origins, time.time()):
        click.echo(line)


def table(origins: Sequence[Mapping[str, Any]], now_s: float) -> Iterator[str]:
    """Yield the lines of a table, and below each origin the reasons of what is not as usual."""
    if not origins:
        yield "nothing was asked of any server yet"
        return
    rows = [_row(origin, now_s) for origin in origins]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    yield _line(_HEAD, widths)
    for origin, row in zip(origins, rows, strict=True):
        yield _line(row, widths)
        for reason in _reasons(origin):
            yield f"    {printable(reason)}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _row(origin: Mapping[str, Any], now_s: float) -> tuple[str, ...]:
    shut_s = (origin["shut_until_s"] or 0.0) - now_s
    speed = origin["bytes_per_s"]
    return (
        printable(origin["origin"]),
        f"{origin['out']} of {origin['connections']}",
        f"shut for {format_duration(shut_s)}" if shut_s > 0 else "open",
        origin["breaker"].replace("_", "-"),
        {True: "yes", False: "no", None: "?"}[origin["ranges"]],
        f"{origin['stall_rate']:.0%}",
        "?" if speed is None else f"{format_size(speed)}/s",
    )


def _reasons(origin: Mapping[str, Any]) -> Iterator[str]:
    yield f"at most {origin['most_connections']} connections: {origin['bound_by']}"
    if origin["connections"] < origin["most_connections"]:
        yield f"now {origin['connections']}: {origin['window_reason']}"
    if origin["requests_per_s"] is not None:
        every = format_duration(1 / origin["requests_per_s"])
        yield f"one request every {every}: origins"
    if origin["shut_until_s"] is not None:
        yield f"shut: {origin['shut_reason']}"
    if origin["retry_after_s"] is not None:
        yield f"it last asked for {format_duration(origin['retry_after_s'])}"
    if origin["best_connections"] is not None:
        yield f"{origin['best_connections']} at a time went well"
