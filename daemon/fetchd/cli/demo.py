"""``fetchd demo``: the whole work on one machine, with a real daemon process and no internet."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fetchd.cli.board import board
from fetchd.cli.daemon import read_json
from fetchd.cli.demo_server import DemoServer, Page
from fetchd.cli.live import live
from fetchd.errors import FetchdError
from fetchd.units import format_duration, format_size

_MIB = 1024 * 1024
_DEADLINE_S = 30.0
_STOP_S = 10.0
_LOOK_EVERY_S = 0.1
_SMALL_FILES = 24


@dataclass(frozen=True)
class Expected:
    """How one file of the demo must end. ``body`` None: it must not be there."""

    path: str
    shows: str
    body: bytes | None
    detail: str
    attempts: int

    @property
    def state(self) -> str:
        return "failed" if self.body is None else "succeeded"


def _bytes(seed: str, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 -- the same files every time


_BROKEN = _bytes("broken", 8 * _MIB)
_MIRRORED = _bytes("mirrored", _MIB)
_INDEX = b'{"packages": ["tool"]}\n'
_TOOL = _bytes("tool", 3 * _MIB)
_SMALL = {f"photos/{number:02}.jpg": _bytes(f"{number}", 40_000) for number in range(_SMALL_FILES)}

PAGES: Mapping[str, Page] = {
    "/broken.iso": Page(body=_BROKEN, breaks_at=4 * _MIB, bytes_per_s=3 * _MIB),
    "/bad/mirrored.bin": Page(body=_bytes("wrong", len(_MIRRORED))),
    "/good/mirrored.bin": Page(body=_MIRRORED),
    "/index.json": Page(body=_INDEX),
    "/tool.tar": Page(body=_TOOL, bytes_per_s=1 * _MIB),
    **{f"/{path}": Page(body=body) for path, body in _SMALL.items()},
}

EXPECTED = (
    Expected("broken.iso", "connection broke half way, resumed", _BROKEN, "resumed", 2),
    Expected("mirrored.bin", "first mirror wrong, second right", _MIRRORED, "downloaded", 2),
    Expected("index.json", "needed by the next", _INDEX, "downloaded", 1),
    Expected("tool.tar", "waited for the one it needs", _TOOL, "downloaded", 1),
    Expected("missing.bin", "does not exist: has to fail", None, "bad_status", 1),
    *(Expected(path, "one of many", body, "downloaded", 1) for path, body in _SMALL.items()),
)

_JOB = """\
name: demo
base: {url}/
tasks:
  broken:
    url: broken.iso
    checksum: sha256:{broken}
  mirrored:
    base: [{url}/bad/, {url}/good/]
    url: mirrored.bin
    checksum: sha256:{mirrored}
  index:
    url: index.json
  tool:
    needs: [index]
    url: tool.tar
  missing:
    url: missing.bin
  photos:
    dest: photos
    urls:
{photos}
"""

_CONFIG = """\
network: { allow: [loopback] }   # the default, public, excludes this machine
retry: { delay: 200ms }
disk: { reserve: 1MiB }
log: { level: debug, format: json }
"""


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep the folder, to look around in it.")
def command(keep: bool) -> int:
    """Show the whole work in a temporary folder, without internet.

    Starts a file server and a daemon, drops a job file, and holds every file against what it
    must be. Exits with 0 only when all is exactly as expected.
    """
    folder = Path(tempfile.mkdtemp(prefix="fetchd-demo-"))
    began_s = time.monotonic()
    try:
        with DemoServer(PAGES) as server, _daemon(folder) as process:
            _drop_job(folder, server.url)
            click.echo(f"dropped {folder}/jobs/demo.yaml, which asks for {len(EXPECTED)} files")
            _follow(folder, process)
        wrong = conclude(folder, time.monotonic() - began_s)
    finally:
        if keep:
            click.echo(
                f"kept in {folder}: downloads/, jobs/reports/demo.json, "
                "jobs/failed/demo.yaml, fetchd.log"
            )
        else:
            shutil.rmtree(folder, ignore_errors=True)
            click.echo("cleaned up; fetchd demo --keep leaves files, reports and log to look at")
    return 1 if wrong else 0


def _drop_job(folder: Path, url: str) -> None:
    text = _JOB.format(
        url=url,
        broken=hashlib.sha256(_BROKEN).hexdigest(),
        mirrored=hashlib.sha256(_MIRRORED).hexdigest(),
        photos="\n".join(f"      - {path}" for path in _SMALL),
    )
    hidden = folder / "jobs" / ".demo.yaml.tmp"
    hidden.write_text(text)
    hidden.rename(folder / "jobs" / "demo.yaml")


@contextmanager
def _daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon as a process of its own, and end it as systemd would."""
    config = folder / "fetchd.yaml"
    config.write_text(_CONFIG)
    (folder / "jobs").mkdir()
    environment = {key: text for key, text in os.environ.items() if key != "NOTIFY_SOCKET"}
    options = {
        "--config": config,
        "--jobs": folder / "jobs",
        "--downloads": folder / "downloads",
        "--state": folder / "state",
    }
    with (folder / "fetchd.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 -- ourselves
            [sys.executable, "-m", "fetchd", "run"]
            + [str(part) for option in options.items() for part in option],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _follow(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the job has ended, drawing what the daemon does meanwhile."""
    until_s = time.monotonic() + _DEADLINE_S
    with live() as draw:
        while not (folder / "jobs" / "failed" / "demo.yaml").exists():
            status = read_json(folder / "state" / "status.json")
            if draw and status:
                draw(board(status["report"]))
            if process.poll() is not None:
                raise FetchdError(
                    f"the daemon ended with {process.returncode}: {_last_line(folder)}"
                )
            if time.monotonic() > until_s:
                raise FetchdError(
                    f"the job has not ended within {_DEADLINE_S:.0f} s: {_last_line(folder)}"
                )
            time.sleep(_LOOK_EVERY_S)


def _last_line(folder: Path) -> str:
    lines = (folder / "fetchd.log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def conclude(folder: Path, elapsed_s: float) -> list[str]:
    """Show how every file ended; returns the paths of those that are not as they must be."""
    reports = folder / "jobs" / "reports"
    rows = map(json.loads, (reports / "demo.files.jsonl").read_text().splitlines())
    by_path = {row["path"]: row for row in rows}
    visible = {
        str(path.relative_to(folder / "downloads"))
        for path in (folder / "downloads").rglob("[!.]*")
        if path.is_file() and ".fetchd" not in path.parts
    }
    wrong = [one.path for one in EXPECTED if not _as_expected(folder, one, by_path.get(one.path))]
    wrong += sorted((visible | by_path.keys()) - {one.path for one in EXPECTED})
    _print_table(folder, by_path, wrong)
    click.echo(_totals(json.loads((reports / "demo.json").read_text()), elapsed_s))
    if wrong:
        click.echo(f"NOT as expected: {', '.join(wrong)}")
    else:
        click.echo("every file is exactly as expected, and the one that had to fail failed")
    return wrong


def _as_expected(folder: Path, expected: Expected, row: Mapping[str, Any] | None) -> bool:
    """Return whether the report and the disk agree with what had to come of a file."""
    if row is None or _found(folder, expected) != expected.body:
        return False
    how = (row["state"], row["detail"], row["attempts"])
    return how == (expected.state, expected.detail, expected.attempts)


def _found(folder: Path, expected: Expected) -> bytes | None:
    """Return what is on the disk where a file has to be; None where nothing is."""
    path = folder / "downloads" / expected.path
    return path.read_bytes() if path.is_file() else None


def _print_table(
    folder: Path, by_path: Mapping[str, Mapping[str, Any]], wrong: Sequence[str]
) -> None:
    from rich.console import Console  # noqa: PLC0415 -- only this command needs it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in ("file", "outcome", "size", "sha256", "attempts", "what it shows"):
        table.add_column(title, justify="right" if title in {"size", "attempts"} else "left")
    for one in EXPECTED:
        row, found = by_path.get(one.path, {}), _found(folder, one)
        table.add_row(
            one.path + (" (!)" if one.path in wrong else ""),
            str(row.get("detail", "missing")),
            "" if found is None else format_size(len(found)),
            "" if found is None else hashlib.sha256(found).hexdigest()[:12],
            str(row.get("attempts", "")),
            one.shows,
        )
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def _totals(report: Mapping[str, Any], elapsed_s: float) -> str:
    tasks = report["tasks"]
    return (
        f"{tasks['succeeded']} files arrived, {tasks['failed']} failed, "
        f"{format_size(report['bytes'])} in {format_duration(elapsed_s)}"
    )
