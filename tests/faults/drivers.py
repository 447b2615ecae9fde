"""Downloaders as commands, and what became of one that met a scenario."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .scenarios import Scenario
from .server import Server

#: In the matrix every tool ends well before this by the limits that it is given.
LIMIT_S = 40.0
_QUIET_S = 0.4

RIGHT, CLEAN, WRONG, WRONG_LEFT, HANG = "right", "clean", "WRONG", "WRONG-LEFT", "hang"
#: What each verdict means, the good ones first.
VERDICTS = {
    RIGHT: "success said, and the right file under its name",
    CLEAN: "failure said, and no wrong file under the name",
    WRONG: "success said, and a wrong file under the name, or none, or one elsewhere",
    WRONG_LEFT: "failure said, but a wrong or partial file left under the name",
    HANG: f"still running after {LIMIT_S:g} seconds",
}


@dataclass(frozen=True, kw_only=True)
class Driver:
    """How a tool is called unattended: with resume, a few quick retries, and limits of time.

    ``command`` gets the scenario, its URL, the folder for the file and one for whatever else.
    """

    name: str
    program: str
    command: Callable[[Scenario, str, Path, Path], list[str]]
    version: tuple[str, ...] = ("--version",)

    @property
    def installed(self) -> bool:
        return shutil.which(self.program) is not None

    def version_line(self) -> str:
        said = subprocess.run(
            [self.program, *self.version], capture_output=True, text=True, check=False
        )
        named = re.match(r".*?\d+(\.\d+)+", said.stdout)
        assert named is not None, said
        return named[0]


@dataclass(frozen=True, kw_only=True)
class Result:
    """``asked``: Range header of each request of the life that was judged, in order."""

    driver: str
    scenario: str
    verdict: str
    note: str
    exit: int | None
    seconds: float
    asked: tuple[str | None, ...]


# ---------------------------------------------------------------- the tools


def _fetchd(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    job: dict[str, object] = {
        "url": url,
        "retry": {"attempts": 4, "delay": "20ms", "max_delay": "200ms"},
        "timeout": {"connect": "2s", "stall": "1s@1KiB/s"},
    }
    if scenario.name.startswith("segments"):
        job["segments"] = 4
    if scenario.checksum is not None:
        job["checksum"] = f"sha256:{_sha256(scenario.checksum)}"
    path = scratch / "job.json"
    path.write_text(json.dumps(job))
    settings = ["--set", "network.allow=[loopback]", "--set", "disk.reserve=0"]
    return [sys.executable, "-m", "fetchd", "get", str(path), "--dest", str(folder), *settings]


def _curl(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    # curl takes no name from the server together with -C.
    name = ["-O", "-J"] if scenario.disposition else ["-C", "-", "-o", scenario.filename]
    again = ["--retry", "3", "--retry-delay", "1", "--retry-all-errors"]
    limits = ["--connect-timeout", "3", "--speed-limit", "1024", "--speed-time", "2"]
    return ["curl", "-fsSL", *again, *limits, *name, url]


_STATUSES = "429,500,502,503,504"


def _wget(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    again = ["--tries=4", "--waitretry=1", f"--retry-on-http-error={_STATUSES}"]
    name = ["--content-disposition"] if scenario.disposition else ["-c"]
    return ["wget", "-nv", *again, "--timeout=3", *name, url]


def _wget2(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    name = ["--content-disposition"] if scenario.disposition else ["-c"]
    pieces = ["--chunk-size=1M"] if scenario.name.startswith("segments") else []
    return ["wget2", "--tries=4", "--waitretry=1", "--timeout=3", *pieces, *name, url]


def _aria2(pieces: int) -> Callable[[Scenario, str, Path, Path], list[str]]:
    def command(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
        again = ["--max-tries=4", "--retry-wait=1", "--timeout=3", "--connect-timeout=3"]
        split = [f"-x{pieces}", f"-s{pieces}", "-k1M"]
        name = [] if scenario.disposition else ["-o", scenario.filename]
        if scenario.checksum is not None:
            name.append(f"--checksum=sha-256={_sha256(scenario.checksum)}")
        quiet = ["--no-conf", "--console-log-level=warn", "--summary-interval=0"]
        return ["aria2c", "-c", "--auto-file-renaming=false", *quiet, *again, *split, *name, url]

    return command


def _axel(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    name = [] if scenario.disposition else ["-o", scenario.filename]
    return ["axel", "-q", "-c", "-n", "4", "-T", "3", *name, url]


#: As many scripts do it.
_NAIVE = """
import sys, requests
with requests.get(sys.argv[1], stream=True, timeout=3) as answer:
    answer.raise_for_status()
    with open(sys.argv[2], "wb") as file:
        for piece in answer.iter_content(65536):
            file.write(piece)
"""


def _requests(scenario: Scenario, url: str, folder: Path, scratch: Path) -> list[str]:
    return [sys.executable, "-c", _NAIVE, url, scenario.filename]


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver(
            name="fetchd",
            program=sys.executable,
            command=_fetchd,
            version=("-m", "fetchd", "version"),
        ),
        Driver(name="curl", program="curl", command=_curl),
        Driver(name="wget", program="wget", command=_wget),
        Driver(name="wget2", program="wget2", command=_wget2),
        Driver(name="aria2", program="aria2c", command=_aria2(1)),
        Driver(name="aria2-x4", program="aria2c", command=_aria2(4)),
        Driver(name="axel", program="axel", command=_axel),
        Driver(
            name="requests",
            program=sys.executable,
            command=_requests,
            version=("-c", "import requests; print('requests', requests.__version__)"),
        ),
    )
}

# ---------------------------------------------------------------- a run and its verdict


def run(
    driver: Driver,
    scenario: Scenario,
    limit_s: float = LIMIT_S,
    spawn: Callable[..., Any] = subprocess.Popen,
) -> Result:
    """Let the tool meet the scenario in fresh folders; each of its lives is bounded."""
    with tempfile.TemporaryDirectory(prefix="faults-") as base:
        world, scratch = Path(base, "world"), Path(base, "scratch")
        folder = world / "some" / "where"
        folder.mkdir(parents=True)
        scratch.mkdir()
        first = scenario.before or scenario.then
        with Server({scenario.path: first, **scenario.more}) as server:
            url = server.url(scenario.path)
            command = driver.command(scenario, url, folder, scratch)
            if scenario.before is not None:
                _interrupted(_start(spawn, command, folder, scratch), server, limit_s)
                server.routes[scenario.path] = scenario.then
            before = len(server.requests)
            began_s = time.monotonic()
            code = _ended(_start(spawn, command, folder, scratch), limit_s)
            seconds = time.monotonic() - began_s
            asked = tuple(request.header("Range") for request in server.requests[before:])
        verdict, note = judge(scenario, code, folder, world)
    return Result(
        driver=driver.name,
        scenario=scenario.name,
        verdict=verdict,
        note=note,
        exit=code,
        seconds=round(seconds, 2),
        asked=asked,
    )


def judge(scenario: Scenario, code: int | None, folder: Path, world: Path) -> tuple[str, str]:
    """Return the verdict on what is left, and a word of explanation."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(folder / ".fetchd")
    }
    strays = [p for p in world.rglob("*") if p.is_file() and not p.is_relative_to(folder)]
    name = scenario.filename
    if scenario.disposition and len(found) == 1:
        name = next(iter(found))
    body = found.get(name)
    if body is None:
        note = f"no file {name}" + (f", but {', '.join(sorted(found))}" if found else "")
    elif body in scenario.right:
        note = f"the right {len(body)} bytes"
    else:
        note = f"{len(body)} wrong bytes"
    if code is None:
        return HANG, note
    if strays:
        return WRONG, f"wrote {strays[0].relative_to(world)}, outside of its folder"
    if code == 0:
        return (RIGHT if body is not None and body in scenario.right else WRONG), note
    return (CLEAN if body is None or body in scenario.right else WRONG_LEFT), note


def _start(spawn: Callable[..., Any], command: list[str], folder: Path, scratch: Path) -> Any:
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environ |= {"HOME": str(scratch), "FETCHD_CONFIG": os.devnull, "LC_ALL": "C.UTF-8"}
    with (scratch / "output").open("ab") as output:
        return spawn(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _interrupted(process: Any, server: Server, limit_s: float) -> None:
    """End the tool by SIGTERM once it has received what there is to receive."""
    sent, since_s = 0, time.monotonic()
    until_s = since_s + limit_s
    while process.poll() is None and time.monotonic() < until_s:
        now = sum(request.sent for request in list(server.requests))
        if now != sent:
            sent, since_s = now, time.monotonic()
        elif sent and time.monotonic() - since_s > _QUIET_S:
            break
        time.sleep(0.02)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _ended(process, 5.0)


def _ended(process: Any, timeout_s: float) -> int | None:
    """Return the exit code; None: it had to be killed."""
    try:
        code: int = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    return code


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
