"""What a fan-out of very many items takes: memory, and the time until the first child begins.

    make bench-fan-out         (python tests/bench/fan_out.py --items 1000000)

A real daemon reads a JSON index of so many items from a download root, while a loopback server
serves their files slowly; prints how long it takes until the first child is asked for and until
the last item is on record, the resident memory at its highest, and the same after a kill half way.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.server import Server, content, file
from process import DaemonProcess, wait_until

JOB = """base: {base}
dest: out
from: {{ file: index.json, format: json, items: "packages[*]" }}
url: ${{item.name}}.bin
checksum: sha256:${{item.sha256}}
"""


def write_index(path: Path, items: int) -> None:
    with path.open("w") as index:
        index.write('{"version": 1, "packages": [')
        for number in range(items):
            comma = "," if number else ""
            index.write(f'{comma}{{"name": "p/{number}", "sha256": "{number:064x}", "size": 9}}')
        index.write("]}")


def peak_bytes(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def items_read(daemon: DaemonProcess) -> int:
    with closing(sqlite3.connect(f"file:{daemon.state}/fetchd.db?mode=ro", uri=True)) as db:
        (lines,) = db.execute("SELECT max(lines) FROM task_group").fetchone()
    return lines or 0


def measure(base: Path, items: int) -> dict[str, float]:
    slow = file(content("x", 100), rate=2000)
    with Server(fallback=slow) as server, DaemonProcess(base, "finishers=1") as daemon:
        daemon.downloads.mkdir()
        write_index(daemon.downloads / "index.json", items)
        daemon.start()
        wait_until(lambda: daemon.events("service.started"), 60, "the start")
        at_s = time.monotonic()
        daemon.drop("job.yaml", JOB.format(base=server.url("/")))
        wait_until(lambda: server.requests, 60, "the first child")
        first_s = time.monotonic() - at_s
        wait_until(lambda: items_read(daemon) > items // 2, 900, "the first half")
        half_s = time.monotonic() - at_s
        peak = peak_bytes(daemon)
        daemon.kill()
        daemon.log.unlink()
        at_s = time.monotonic()
        daemon.start()
        wait_until(lambda: daemon.events("run.expanded"), 900, "the last item")
        rest_s = time.monotonic() - at_s
        peak = max(peak, peak_bytes(daemon))
        daemon.kill()
    return {
        "first_child_s": round(first_s, 2),
        "first_half_s": round(half_s, 1),
        "rest_after_a_kill_s": round(rest_s, 1),
        "peak_mib": round(peak / 1024**2, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    items = parser.parse_args().items
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps({"items": items} | measure(Path(base), items)))


if __name__ == "__main__":
    main()
