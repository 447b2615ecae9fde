"""What a file's way over the wire costs the thread that fetches it, head and body, without disk.

    make bench-transport       (python tests/bench/transport_cost.py)

The real HTTP transport against a server process on loopback, on one kept connection. Prints CPU
microseconds of the fetching thread (not wall time, not the server's), the least of several rounds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from fetchd import transports
from fetchd.clock import SystemClock
from fetchd.ports import Request

SERVER = Path(__file__).parents[1] / "faults" / "server.py"
MIB = 1024 * 1024


def main() -> None:
    command = [sys.executable, str(SERVER)]
    net = transports.build(
        ["loopback"], proxy=None, ca=None, redirects=0, workers=1, clock=SystemClock()
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdin is not None
        assert p.stdout is not None
        origin = p.stdout.readline().strip()
        small_us = least_us(net, f"{origin}/small/4096/file", files=400)
        large_us = least_us(net, f"{origin}/large/{64 * MIB}/file", files=4)
        p.stdin.close()
    net.close()
    print(f"4 KiB file: {small_us:.0f} us CPU")
    print(f"64 MiB file: {large_us:.0f} us CPU, {large_us * 16 / 1e6:.3f} s a GiB")


def least_us(net, url, files, rounds=5):
    buffer = memoryview(bytearray(MIB))
    fetch(net, url, buffer)
    return min(timed_us(net, url, files, buffer) for _ in range(rounds))


def timed_us(net, url, files, buffer):
    began_s = time.thread_time()
    for _ in range(files):
        fetch(net, url, buffer)
    return (time.thread_time() - began_s) / files * 1e6


def fetch(net, url, buffer):
    with closing(net.open(Request(url=url, connect_s=5.0, stall_s=5.0), lambda: True)) as stream:
        while stream.readinto(buffer):
            pass


if __name__ == "__main__":
    main()
