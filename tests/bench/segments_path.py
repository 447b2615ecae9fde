"""How fast a large file comes where one connection is slow: by `auto`, and by fixed numbers.

    make bench-segments       (python tests/bench/segments_path.py --mib 8192 --rate 10 --delay 100)

A server on loopback sends to each connection at a fixed rate, and waits before each answer as a
long way would. The numbers take turns; prints the median time of each, and the part of the best
fixed one's speed that `auto` reaches. `auto` measures one connection for five seconds before it
asks for more, so that part grows with the file. The files lie in /dev/shm, one at a time.
"""

from __future__ import annotations

import argparse
import mmap
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.server import Exchange, Server, file
from process import DaemonProcess, wait_until

MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=8192, help="size of the file")
    parser.add_argument("--rate", type=float, default=10, help="MiB/s of one connection")
    parser.add_argument("--delay", type=float, default=100, help="ms before each answer")
    parser.add_argument("--segments", default="4,8,auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.disk_usage("/dev/shm").free < (options.mib + 512) * MIB:
        raise SystemExit(f"/dev/shm has no room for {options.mib} MiB; give a smaller --mib")
    # Pages that nobody has written take no memory, however many there are.
    body = mmap.mmap(-1, options.mib * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    sends = file(body, etag='"path"', rate=options.rate * MIB)  # type: ignore[arg-type]

    def far(exchange: Exchange) -> None:
        time.sleep(options.delay / 1000)
        sends(exchange)

    ways = options.segments.split(",")
    took_s: dict[str, list[float]] = {way: [] for way in ways}
    with (
        Server({"/first": file(b"x")}, fallback=far) as server,
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        DaemonProcess(Path(folder), "workers=9", "log.level=warning") as daemon,
    ):
        daemon.start()
        daemon.drop("first.yaml", f"url: {server.url('/first')}\n")
        wait_until(partial(daemon.ended, "first"), 60.0, "the daemon")
        for number in range(options.rounds):
            for way in ways:
                job, url = f"{way}-{number}", server.url(f"/{way}/{number}")
                at_s = time.monotonic()
                daemon.drop(f"{job}.yaml", f"url: {url}\nsegments: {way}\nfilename: f\n")
                wait_until(partial(daemon.ended, job), 600.0, job)
                took_s[way].append(time.monotonic() - at_s)
                print(f"round {number + 1}, segments: {way:5} {took_s[way][-1]:6.2f} s", flush=True)
                assert daemon.report(job)["state"] == "succeeded", daemon.report(job)
                (daemon.downloads / "f").unlink()
        daemon.terminate()
    medians = {way: statistics.median(times) for way, times in took_s.items()}
    for way, median_s in medians.items():
        print(f"segments: {way:5} {median_s:6.2f} s  {options.mib / median_s:6.1f} MiB/s")
    fixed = [median_s for way, median_s in medians.items() if way != "auto"]
    if "auto" in medians and fixed:
        print(f"auto reaches {min(fixed) / medians['auto']:.2f} of the best fixed number")


if __name__ == "__main__":
    main()
