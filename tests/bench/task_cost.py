"""What one task costs beside its transfer: queue, engine, events, statistics, log and store.

    make bench-task            (python tests/bench/task_cost.py --tasks 10000)

A real engine, store (on disk, durable), pools, listeners and log run 10,000 tasks whose transfer
and publication take no time. Prints CPU microseconds a task, as the median of several rounds; what
log and statistics have of it, by rounds without them; what it adds that the tasks are in 100 groups
which each need the one before; and what one report of progress costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fetchd import listeners, logs
from fetchd.clock import Random, SystemClock
from fetchd.cores import Cores
from fetchd.engine import Engine
from fetchd.model import (
    Batch,
    Fetch,
    Fetched,
    Intent,
    Item,
    Job,
    OriginBounds,
    Progress,
    Publish,
    Published,
    Submit,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)
from fetchd.pool import Pool
from fetchd.ports import Listener
from fetchd.service import NEW_OBJECTS_A_LOOK
from fetchd.stores import SqliteStore


def instant_fetch(attempts):
    return [
        (
            attempt,
            Fetched(
                intent=Intent(
                    root="default",
                    path=attempt.task.spec.path,
                    part="p",
                    device=1,
                    inode=attempt.task.id,
                    size_bytes=4096,
                    verified=Verify.LENGTH,
                    digests=(),
                    clobber=True,
                    url=attempt.source,
                    final_url=attempt.source,
                    validator=Validator(etag='"abc"', last_modified="Mon", date="Tue"),
                    mtime_s=1.0,
                    resumed_from_bytes=0,
                    received_bytes=4096,
                    elapsed_s=0.001,
                )
            ),
        )
        for attempt in attempts
    ]


def instant_publish(attempts):
    return [(a, Published(intent=a.intent, mtime_ns=1, inode=a.intent.inode)) for a in attempts]


def measure(
    tasks: int, workers: int, folder: Path, *, told: bool, groups: int = 1
) -> dict[str, float]:
    """Run the tasks once; returns CPU and wall microseconds a task. ``told``: to log and stats.

    ``groups``: each of these needs the one before it.
    """
    specs = tuple(
        TaskSpec(key=f"d/{i}.bin", path=f"d/{i}.bin", sources=(f"http://h.example/d/{i}.bin",))
        for i in range(tasks)
    )
    clock = SystemClock()
    writer = logs.configure("info", "json", folder / "log.jsonl")
    stats = listeners.Stats(clock)
    hearing: list[Listener] = [listeners.LogListener(), stats] if told else []
    tell = listeners.fan_out(hearing, listeners.log_failure)
    store = SqliteStore(str(folder / "fetchd.db"), clock, lambda e: sys.exit(str(e)))
    engine = Engine(
        store,
        lambda _, group, *__: Batch(specs=specs[int(group.name) :: groups], position=None),
        tell,
        clock,
        Random(),
        bounds=OriginBounds(connections=workers),
    )
    pools: list[Pool[Any]] = [
        Pool("fetcher", workers, engine, Fetch, work=instant_fetch, most=1, clock=clock, tell=tell),
        Pool(
            "publisher", 1, engine, Publish, work=instant_publish, most=256, clock=clock, tell=tell
        ),
    ]
    chain = tuple(
        TaskGroup(
            name=str(number),
            items=(Item(url="x"),),
            needs=(str(number - 1),) if number else (),
        )
        for number in range(groups)
    )
    job = Job(name="bench", revision="r", groups=chain)
    submitted_s = time.process_time()
    answer = engine.obey(Submit(job=job, raw=b"", file=""))
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for pool in pools:
        pool.start()
    while not engine.idle():
        time.sleep(0.005)
    store.flush()
    spent_s, took_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    engine.stop()
    pools[0].join(5)
    engine.finish_publishing()
    pools[1].join(5)
    view = store.run_view(answer.run or 0)
    assert view is not None
    assert view.tasks.succeeded == tasks, view
    store.close()
    writer.close(5)
    return {
        "accept_cpu_us": (cpu_s - submitted_s) / tasks * 1e6,
        "task_cpu_us": spent_s / tasks * 1e6,
        "task_wall_us": took_s / tasks * 1e6,
    }


def progress_us(reports: int = 20_000) -> float:
    """Return the CPU microseconds of one report of progress, with log and statistics."""
    clock = SystemClock()
    tell = listeners.fan_out(
        [listeners.LogListener(), listeners.Stats(clock)], listeners.log_failure
    )
    store = SqliteStore(None, clock, lambda e: sys.exit(str(e)))
    spec = TaskSpec(key="a", path="a", sources=("http://h.example/a",))
    engine = Engine(store, lambda *_: Batch(specs=(spec,), position=None), tell, clock, Random())
    group = TaskGroup(name="g", items=(Item(url="x"),))
    engine.obey(Submit(job=Job(name="j", revision="r", groups=(group,)), raw=b"", file=""))
    (attempt,) = engine.take(Fetch, 1)
    began_s = time.process_time()
    for number in range(reports):
        engine.report(attempt, Progress(received_bytes=number))
    spent_s = time.process_time() - began_s
    store.close()
    return spent_s / reports * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    Cores.of_process().gather()  # this and the next as the service does
    gc.set_threshold(NEW_OBJECTS_A_LOOK)
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(options.tasks, options.workers, Path(folder), told=True)
        with tempfile.TemporaryDirectory() as folder:
            untold = measure(options.tasks, options.workers, Path(folder), told=False)
        with tempfile.TemporaryDirectory() as folder:
            grouped = measure(options.tasks, options.workers, Path(folder), told=False, groups=100)
        found["groups_us"] = grouped["task_cpu_us"] - untold["task_cpu_us"]
        found["log_and_stats_us"] = found["task_cpu_us"] - untold["task_cpu_us"]
        found["progress_us"] = progress_us()
        rounds.append(found)
    print(f"{options.tasks} tasks, {options.workers} workers, {options.rounds} rounds")
    figures = {}
    for name in rounds[0]:
        values = sorted(r[name] for r in rounds)
        figures[name] = statistics.median(values)
        print(f"{name:16} median {figures[name]:7.1f}  min {values[0]:7.1f}  max {values[-1]:7.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
