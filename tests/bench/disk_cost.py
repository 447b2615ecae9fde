"""What a file of 4 KiB costs in the disk room: its part, and its publication in groups.

    make bench-disk            (python tests/bench/disk_cost.py --folder /dev/shm)

The real disk room on real files, with the calls of an attempt and of the publisher, each on a
thread with a heartbeat. Prints CPU microseconds a file (of all threads, the least of several
rounds), the least wall time, and system calls a file where strace is installed. A virtual machine
may charge its disk's time to nobody: compare wall times on the same folder only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from fetchd.clock import SystemClock
from fetchd.disk import RootSpec, build
from fetchd.model import (
    History,
    Intent,
    Item,
    Job,
    Publish,
    Run,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)
from fetchd.threads import Worker

BODY = memoryview(os.urandom(4096))
#: As many as the publisher of the daemon takes at once.
TOGETHER = 64
GROUP = TaskGroup(name="g", items=(Item(url="http://h.example/a"),))
JOB = Job(name="j", revision="r", groups=(GROUP,))
RUN = Run(id=1, job="j", revision="r", scheduled_for_s=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the root is made, and removed (a temporary folder)")
    parser.add_argument("--files", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=1, help="folders between root and file")
    parser.add_argument("--only", choices=("part", "both"), help="do it once and print nothing")
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(folder, options.files, options.depth, publishes=options.only == "both")
        return
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rounds.append(measure(folder, options.files, options.depth))
    calls = calls_a_file(options.folder, options.depth) if shutil.which("strace") else {}
    for side in ("part", "publish"):
        cpu_us = min(figures[side][0] for figures in rounds)
        wall_us = min(figures[side][1] for figures in rounds)
        print(f"{side:8} {cpu_us:6.1f} us CPU {wall_us:6.1f} us wall", end="")
        if calls:
            by_name = sorted(calls[side].items(), key=lambda item: -item[1])
            print(f" {sum(calls[side].values()):5.1f} calls:", end="")
            print("".join(f" {name} {count:.1f}," for name, count in by_name), end="")
        print()


def measure(folder, files, depth, *, publishes=True):
    """Return CPU and wall microseconds a file of each side."""
    disk = build({"default": RootSpec(path=folder)})
    below = "".join(f"folder-{level}/" for level in range(depth))
    paths = [f"{below}file-{number}.bin" for number in range(files)]
    if below:
        os.makedirs(os.path.join(folder, below))  # noqa: PTH103, PTH118
    verified = []
    figures = {"part": timed(files, lambda: verified.extend(parts(disk, paths)))}
    if publishes:
        attempts = [attempt_of(*part) for part in verified]
        figures["publish"] = timed(files, lambda: publish(disk, attempts))
        for path in paths:
            assert os.path.getsize(os.path.join(folder, path)) == len(BODY)  # noqa: PTH118, PTH202
    disk.close()
    return figures


def timed(files, work):
    died = []
    worker = Worker("bench", lambda _: work(), SystemClock(), lambda _, exc: died.append(exc))
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    worker.start()
    worker.join(600.0)
    spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if died:
        raise died[0]
    return tuple(seconds / files * 1e6 for seconds in spent)


def parts(disk, paths):
    """Write every part as an attempt does, and yield what its publication has to know."""
    for path in paths:
        assert disk.existing("default", path) is None
        with disk.open_part("default", path) as part:
            part.claim(0)
            part.claim(len(BODY))
            part.truncate()
            part.write(BODY)
            yield path, part.name, part.size_bytes, *part.identity()


def publish(disk, attempts):
    for first in range(0, len(attempts), TOGETHER):
        disk.publish(attempts[first : first + TOGETHER])


def attempt_of(path, name, size_bytes, device, inode):
    intent = Intent(
        root="default",
        path=path,
        part=name,
        device=device,
        inode=inode,
        size_bytes=size_bytes,
        verified=Verify.LENGTH,
        digests=(),
        clobber=True,
        url="http://h.example/a",
        final_url="http://h.example/a",
        validator=Validator(),
        mtime_s=1_000_000_000.0,
        resumed_from_bytes=0,
        received_bytes=size_bytes,
        elapsed_s=0.001,
    )
    spec = TaskSpec(key=path, sources=("http://h.example/a",), path=path)
    task = Task(id=1, group=1, spec=spec, history=History())
    return Publish(fence=1, job=JOB, run=RUN, group=GROUP, task=task, intent=intent)


def calls_a_file(folder, depth):
    """Count by strace; the difference of two lengths of run leaves out start and end."""
    few, many = TOGETHER, 3 * TOGETHER
    sides = {}
    for only in ("part", "both"):
        less, more = (count_calls(folder, depth, only, files) for files in (few, many))
        sides[only] = {
            name: count
            for name in more
            if (count := (more[name] - less.get(name, 0)) / (many - few)) >= 0.05
        }
    part, both = sides["part"], sides["both"]
    # What removes the folder afterwards differs too: one unlink a file in both.
    part = {name: count - (name.startswith("unlink")) for name, count in part.items()}
    both = {name: count - (name.startswith("unlink")) for name, count in both.items()}
    publish = {name: count - part.get(name, 0) for name, count in both.items()}
    return {
        side: {name: count for name, count in counts.items() if count >= 0.05}
        for side, counts in (("part", part), ("publish", publish))
    }


def count_calls(folder, depth, only, files):
    with tempfile.NamedTemporaryFile("r") as table:
        command = [sys.executable, __file__, "--only", only, "--files", str(files)]
        command += ["--depth", str(depth)] + (["--folder", folder] if folder else [])
        subprocess.run(["strace", "-f", "-c", "-o", table.name, *command], check=True)
        rows = re.findall(
            r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table.read(), re.MULTILINE
        )
    return {name: int(count) for count, name in rows if name != "total"}


if __name__ == "__main__":
    main()
