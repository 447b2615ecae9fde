"""Measures one run of one tool: seconds, CPU and memory of a process, on memory that is warm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GNU_TIME = Path("/usr/bin/time")
TOUCH = "import mmap, sys; n = int(sys.argv[1]); mmap.mmap(-1, n)[::4096] = bytes(n // 4096)"


@dataclass(frozen=True)
class Measured:
    wall_s: float
    cpu_s: float  # user and system
    peak_mib: float  # the largest process, where a tool is several


class Failed(Exception):
    """A run that does not count, and why."""


def prefault(size_bytes: int) -> None:
    """Touch and free memory: a virtual machine may pay seconds for pages that it has given back."""
    pages = size_bytes // 4096
    subprocess.run([sys.executable, "-I", "-S", "-c", TOUCH, str(pages * 4096)], check=False)


def settle(folder: Path) -> None:
    """Write back what the run before left to the folder's file system."""
    subprocess.run(["sync", "-f", folder], check=True)


def measure(
    words: Sequence[str | Path], log: Path, timeout_s: float, environ: dict[str, str]
) -> Measured:
    """Run a whole process and what it starts; Failed for any exit but 0, or when too slow."""
    peak = log.with_name("peak")
    if GNU_TIME.exists():  # a child of this large process would have its memory as a floor
        words = [GNU_TIME, "-q", "-f", "%M", "-o", peak, *words]
    late = threading.Event()
    with log.open("wb") as out:
        began_s = time.monotonic()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environ,
            cwd=log.parent,
            start_new_session=True,
        )

        def give_up() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watchdog = threading.Timer(timeout_s, give_up)
        watchdog.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            watchdog.cancel()
        wall_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if late.is_set():
        raise Failed(f"not done in {timeout_s:.0f} s")
    if process.returncode:
        raise Failed(f"exit status {process.returncode}: {last_line(log)}")
    kib = int(peak.read_text().split()[-1]) if GNU_TIME.exists() else used.ru_maxrss
    return Measured(wall_s, used.ru_utime + used.ru_stime, kib / 1024)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def cpu_of_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_of_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
