"""Where the CPU of the daemon goes: by thread, for one of the workloads of the comparison.

    make bench-threads         (python tests/bench/thread_cost.py S --ours a=/one/fetchd)

A warm daemon, or several builds in turn, fetches the workload from an nginx of its own. Prints
CPU microseconds a file, in each round; threads of a kind are added up. What has no name of its own
is the main thread, or one of a library.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peer_ours import Warm
from bench.peer_server import Nginx
from bench.peer_tools import Case
from bench.peer_workloads import generate, sizes, workload


def cpu_by_thread_s(pid: int) -> dict[tuple[str, str], float]:
    """Return the CPU seconds of each thread, by number and name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = re.sub(r"-\d+$", "", (task / "comm").read_text().strip())
        found[task.name, name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", nargs="?", default="S", type=workload)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="how many files at once")
    parser.add_argument("--ours", action="append", help="NAME=PROGRAM; several are compared")
    parser.add_argument("--dir", default="/dev/shm", help="where all of it lies")
    options = parser.parse_args()
    shape = options.workload.shape
    usual = f"fetchd={Path(sys.executable).with_name('fetchd')}"
    programs = dict(each.split("=", 1) for each in options.ours or [usual])
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        base = Path(folder)
        base.chmod(0o755)
        for name in ("www", "etc", "lists"):
            (base / name).mkdir()
        data = generate(base / "www", shape.data, *sizes(1024, 1)[shape.data])
        with Nginx(base / "etc", base / "www", os.cpu_count() or 1) as nginx:
            case = Case(
                workload=replace(
                    options.workload, shape=shape._replace(at_once=options.workers or shape.at_once)
                ),
                data=data,
                folder_url=nginx.folder_url(options.workload),
                target=base / "target",
                lists=base / "lists",
                ca=nginx.ca,
            )
            daemons = {
                name: Warm(Path(program), base / name, case) for name, program in programs.items()
            }
            try:
                for number in range(options.rounds + 1):
                    for name, daemon in daemons.items():
                        daemon.prepare()
                        before_s = cpu_by_thread_s(daemon.pid)
                        measured = daemon.run(600)
                        spent_us: defaultdict[str, float] = defaultdict(float)
                        for thread, cpu_s in cpu_by_thread_s(daemon.pid).items():
                            spent_us[thread[1]] += (cpu_s - before_s.get(thread, 0)) * 1e6
                        shutil.rmtree(daemon.target)
                        if number:  # the first round warms up
                            shares = "  ".join(
                                f"{kind} {us / len(data.files):.1f}"
                                for kind, us in sorted(spent_us.items(), key=lambda each: -each[1])
                                if us >= len(data.files) / 10
                            )
                            print(f"{name}: {measured.wall_s:.2f} s, CPU us a file: {shares}")
            finally:
                for daemon in daemons.values():
                    daemon.close()


if __name__ == "__main__":
    main()
