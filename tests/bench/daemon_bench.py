"""What the daemon costs: start, drop to request, idle CPU, a long list, many job files, the CLI.

    make bench-daemon          (python tests/bench/daemon_bench.py [--drops 100] [--lines ...])

A real daemon process on temporary folders against a loopback server. Figures, no verdicts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.server import Server, content, file
from process import DaemonProcess, wait_until

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid: int, name: str = "VmRSS") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def started(daemon: DaemonProcess) -> int:
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), what="the start")
    assert daemon.process is not None
    return daemon.process.pid


def drop_to_request(base: Path, drops: int) -> None:
    """Seconds from an atomic rename into the folder to the first request on the wire."""
    with Server(fallback=file(b"x" * 100)) as server, DaemonProcess(base) as daemon:
        started(daemon)
        waits_ms = []
        for number in range(drops):
            path = f"/{number}.bin"
            at_s = time.monotonic()
            daemon.drop(f"j{number}.yaml", f"url: {server.url(path)}\n")
            wait_until(partial(server.asked, path), what=path)
            waits_ms.append((server.asked(path)[0].at_s - at_s) * 1000)
            time.sleep(0.15)
        daemon.terminate()
    waits_ms.sort()
    show(
        "drop to first request",
        median_ms=statistics.median(waits_ms),
        p99_ms=waits_ms[int(len(waits_ms) * 0.99)],
        most_ms=waits_ms[-1],
    )


def start_and_stop(base: Path, times: int = 7) -> None:
    """Milliseconds from the command to `service.started`, and from SIGTERM to the end."""
    up_ms, down_ms = [], []
    for number in range(times):
        with DaemonProcess(base / str(number)) as daemon:
            at_s = time.monotonic()
            started(daemon)
            up_s = time.monotonic()
            daemon.terminate()
            up_ms.append((up_s - at_s) * 1000)
            down_ms.append((time.monotonic() - up_s) * 1000)
    show("start and stop", up_ms=statistics.median(up_ms), down_ms=statistics.median(down_ms))


def idle(base: Path, seconds: float) -> None:
    """CPU of a daemon with nothing to do and 10,000 files in done/."""
    done = base / "jobs" / "done"
    done.mkdir(parents=True)
    for number in range(10_000):
        (done / f"{number}.yaml").touch()
    with DaemonProcess(base) as daemon:
        pid = started(daemon)
        time.sleep(2)
        before_s = cpu_s(pid)
        time.sleep(seconds)
        percent = (cpu_s(pid) - before_s) / seconds * 100
        show("idle", cpu_percent=percent, rss_mib=rss_mib(pid))
        daemon.terminate()


def long_list(base: Path, lines: int) -> None:
    """A *.urls file of many lines: acceptance, a restart in the midst of it, cancel, reports."""
    with Server(fallback=file(content("x", 100), rate=2000)) as server:
        daemon = DaemonProcess(base)
        with daemon:
            pid = started(daemon)
            text = "".join(f"{server.url(f'/d/{i}.bin')}\n" for i in range(lines))
            at_s = time.monotonic()
            daemon.drop("many.urls", text)
            wait_until(lambda: server.requests, 60, "the first request")
            first_s = server.requests[0].at_s - at_s
            wait_until(lambda: daemon.events("run.expanded"), 600, "the end of the list")
            show(
                f"list of {lines} lines",
                all_accepted_s=time.monotonic() - at_s,
                first_request_s=first_s,
                rss_mib=rss_mib(pid),
                peak_rss_mib=rss_mib(pid, "VmHWM"),
            )
            daemon.kill()
            daemon.log.unlink()
            database_mib = (daemon.state / "fetchd.db").stat().st_size / 2**20
            asked = len(server.requests)
            at_s = time.monotonic()
            pid = started(daemon)
            ready_s = time.monotonic() - at_s
            wait_until(lambda: len(server.requests) > asked, 60, "the first request")
            first_s = server.requests[asked].at_s - at_s
            status_s = took_s(daemon, "status")
            show(
                "restart after kill -9",
                ready_s=ready_s,
                first_request_s=first_s,
                status_s=status_s,
                another_job_s=another_job_s(daemon, server, "during"),
                rss_mib=rss_mib(pid),
                database_mib=database_mib,
            )
            at_s = time.monotonic()
            (daemon.jobs / "many.cancel").touch()
            wait_until(lambda: daemon.events("run.ended")[1:], 60, "the cancel")
            cancel_s = time.monotonic() - at_s
            other_s = another_job_s(daemon, server, "reporting")
            wait_until(lambda: daemon.ended("many"), 600, "the report")
            show(
                "cancel of the rest",
                cancel_s=cancel_s,
                another_job_s=other_s,
                all_reported_s=time.monotonic() - at_s,
                peak_rss_mib=rss_mib(pid, "VmHWM"),
            )
            daemon.terminate()
            daemon.log.unlink()
            daemon.settings.append("history.count=1")
            started(daemon)
            at_s = time.monotonic()
            other_s = another_job_s(daemon, server, "forgetting")
            wait_until(lambda: daemon.events("history.pruned"), 600, "the pruning")
            show("run forgotten", all_s=time.monotonic() - at_s, another_job_s=other_s)
            daemon.terminate()


def job_files(base: Path, count: int) -> None:
    """Many job files moved in at once, for a host that never answers; then one for another."""
    slow, quick = Server(fallback=lambda exchange: exchange.stall()), Server(fallback=file(b"x"))
    with slow, quick, DaemonProcess(base, "limits.connections_per_origin=4") as daemon:
        pid = started(daemon)
        beside = base / "bulk"
        beside.mkdir()
        for number in range(count):
            (beside / f"b{number}.yaml").write_text(f"url: {slow.url(f'/{number}.bin')}\n")
        at_s, cpu_before_s = time.monotonic(), cpu_s(pid)
        for path in beside.iterdir():
            path.rename(daemon.jobs / path.name)
        moved_s = time.monotonic() - at_s
        time.sleep(1)
        single_at_s = time.monotonic()
        daemon.drop("single.yaml", f"url: {quick.url('/single.bin')}\n")
        wait_until(lambda: quick.requests, 60, "the request of the single job")
        single_s = quick.requests[0].at_s - single_at_s
        wait_until(lambda: accepted(daemon) == count + 1, 600, "the acceptance of all")
        all_s = time.monotonic() - at_s
        show(
            f"{count} job files",
            moved_in_s=moved_s,
            all_accepted_s=all_s,
            files_per_s=count / all_s,
            cpu_ms_a_file=(cpu_s(pid) - cpu_before_s) / count * 1000,
            single_amid_them_s=single_s,
            peak_rss_mib=rss_mib(pid, "VmHWM"),
        )
        daemon.terminate()


def accepted(daemon: DaemonProcess) -> int:
    return daemon.log.read_bytes().count(b'"event": "job.accepted"')


def took_s(daemon: DaemonProcess, command: str) -> float:
    at_s = time.monotonic()
    words = [sys.executable, "-m", "fetchd", command, "--state", str(daemon.state)]
    subprocess.run(words, capture_output=True, check=True, cwd=daemon.base)
    return time.monotonic() - at_s


def another_job_s(daemon: DaemonProcess, server: Server, name: str) -> float:
    """Seconds from the drop of a small job to its last report."""
    at_s = time.monotonic()
    daemon.drop(f"{name}.yaml", f"url: {server.url(f'/{name}.bin')}\n")
    wait_until(lambda: daemon.ended(name), 600, "the other job")
    return time.monotonic() - at_s


def command_line() -> None:
    """How long the commands take beyond a bare interpreter, in turn, median of ten."""
    with tempfile.TemporaryDirectory() as empty:
        commands = {
            "bare": [sys.executable, "-c", "pass"],
            "help": [sys.executable, "-m", "fetchd", "--help"],
            "status": [sys.executable, "-m", "fetchd", "status"],
        }
        took_ms: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(10):
            for name, command in commands.items():
                at_s = time.monotonic()
                subprocess.run(command, capture_output=True, check=False, cwd=empty)
                took_ms[name].append((time.monotonic() - at_s) * 1000)
    median = {name: statistics.median(values) for name, values in took_ms.items()}
    show(
        "command line",
        help_over_bare_ms=median["help"] - median["bare"],
        status_ms=median["status"],
    )


def show(what: str, **figures: float) -> None:
    print(f"{what:24}", "  ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    RESULTS[what] = figures


RESULTS: dict[str, dict[str, float]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drops", type=int, default=100)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        start_and_stop(base / "start")
        drop_to_request(base / "drop", options.drops)
        idle(base / "idle", options.idle)
        long_list(base / "list", options.lines)
        job_files(base / "jobs", options.jobs)
    command_line()
    if options.json:
        options.json.write_text(json.dumps(RESULTS, indent=2))


if __name__ == "__main__":
    main()
