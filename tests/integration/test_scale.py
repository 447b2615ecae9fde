"""Long lists on one real daemon: a stream in, a window in memory, and ready again at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, wait_until

pytestmark = pytest.mark.usefixtures("anew")  # how long a start takes is measured

MIB = 1024 * 1024


def peak_bytes(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def started_in_s(daemon: DaemonProcess) -> float:
    at_s = time.monotonic()
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), 60, "the start")
    return time.monotonic() - at_s


def status_in_s(daemon: DaemonProcess) -> float:
    command = [sys.executable, "-m", "fetchd", "status", "--state", str(daemon.state)]
    at_s = time.monotonic()
    subprocess.run(command, capture_output=True, check=True, cwd=daemon.base)
    return time.monotonic() - at_s


def urls_of(server: Server, count: int) -> str:
    return "".join(f"{server.url(f'/d/{number}.bin')}\n" for number in range(count))


def metalink_of(server: Server, count: int) -> str:
    files = (
        f'<file name="{number}.bin"><size>100</size><hash type="sha-256">{number:064x}</hash>'
        f'<url priority="1">{server.url(f"/d/{number}.bin")}</url>'
        f'<url priority="2">{server.url(f"/e/{number}.bin")}</url></file>\n'
        for number in range(count)
    )
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{"".join(files)}</metalink>\n'


def serves_a_list(
    base: Path,
    lines: int,
    *,
    accepted_within_s: float,
    name: str = "many.urls",
    text_of: Callable[[Server, int], str] = urls_of,
) -> None:
    with Server(fallback=file(content("x", 100), rate=2000)) as server, DaemonProcess(base) as d:
        started_in_s(d)
        text = text_of(server, lines)
        at_s = time.monotonic()
        d.drop(name, text)
        wait_until(lambda: server.requests, 60, "the first request")
        first_s = server.requests[0].at_s - at_s
        wait_until(lambda: d.events("run.expanded"), accepted_within_s, "the end of the list")
        accepting_bytes = peak_bytes(d)
        d.kill()
        d.log.unlink()
        asked = len(server.requests)
        ready_s = started_in_s(d)
        wait_until(lambda: len(server.requests) > asked, 60, "the first request after it")
        status_s = status_in_s(d)
        going_on_bytes = peak_bytes(d)
        database_bytes = (d.state / "fetchd.db").stat().st_size
        d.terminate()

    assert first_s < 2
    assert ready_s < 5
    assert status_s < 1
    assert max(accepting_bytes, going_on_bytes) < 250 * MIB
    assert database_bytes < 20 * MIB + 300 * lines


@pytest.mark.slow
@pytest.mark.alone
def test_a_list_of_thirty_thousand_urls_is_a_stream_and_a_restart_is_ready_at_once(tmp_path):
    serves_a_list(tmp_path, 30_000, accepted_within_s=60)


@pytest.mark.slow
@pytest.mark.alone
def test_a_metalink_of_thirty_thousand_files_is_a_stream_and_a_restart_is_ready_at_once(tmp_path):
    serves_a_list(tmp_path, 30_000, accepted_within_s=60, name="many.meta4", text_of=metalink_of)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_f13_a_list_of_a_million_urls_is_a_stream_and_a_restart_is_ready_at_once(tmp_path):
    serves_a_list(tmp_path, 1_000_000, accepted_within_s=400)
