"""What it costs to be polite: each decision on an origin, and a read that keeps to rates.

    make bench-governor        (python tests/bench/governor_cost.py)

Prints microseconds, the least of several rounds: what ``engine/origins.py`` decides when an attempt
begins and when it ends; what the queue spends on choosing the next task where so many runs wait for
one origin, on its release, on a ruling, and on a connection that is lent and given back; and what a
read costs more when one rate holds for it, or three: everybody's, the origin's and the job's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from fetchd.clock import SystemClock
from fetchd.engine.origins import Origins
from fetchd.engine.queue import Entry, Ruling, TaskQueue
from fetchd.model import (
    History,
    OriginBounds,
    Priority,
    RetryPolicy,
    Share,
    Task,
    TaskSpec,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import Ready, Request
from fetchd.rates import Rate
from fetchd.transports.throttle import Rates, Throttle

ORIGIN = "https://h.example:443"
URL = "https://h.example/f"
WELL = UpToDate(size_bytes=1, verified=Verify.LENGTH, digests=(), how="not_modified")
ROUNDS = 50
CALLS = 1000


class Body:
    """A stream whose reads cost nothing."""

    start, total, framed, not_modified = 0, None, True, False
    content_type, wish, held_s = None, None, 0.0
    validator, final_url = Validator(), URL

    def readinto(self, buffer: memoryview) -> int:
        return 1

    def close(self) -> None:
        pass


def least_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began_s = time.thread_time()
        for _ in range(CALLS):
            call()
        times.append(time.thread_time() - began_s)
    return min(times) / CALLS * 1e6


def origins_us() -> tuple[float, float]:
    """Return the cost of a beginning, and of an end."""
    origins = Origins(OriginBounds(connections=8), {})
    policy = RetryPolicy()

    def end() -> None:
        origins.note(ORIGIN, 1, WELL, policy, began_s=5.0, now_s=6.0, happened=[])

    return least_us(lambda: origins.begin(ORIGIN, 5.0)), least_us(end)


def entry(number: int, run: int) -> Entry:
    spec = TaskSpec(key=str(number), sources=(URL,), path=str(number))
    task = Task(id=number, group=1, spec=spec, history=History())
    ready = Ready(task=task, origin=ORIGIN, due_at_s=0.0, wait="", previous=None)
    return Entry(ready=ready, run=run, priority=Priority.NORMAL, due_s=0.0, origin=ORIGIN)


def queue_us(runs: int) -> tuple[float, float, float]:
    """Return the cost of a take, of a release, and of a ruling."""
    queue = TaskQueue(SystemClock(), connections_per_origin=8)
    for run in range(runs):
        queue.add_run(run, Priority.NORMAL, None)
    queue.put(entry(number, number) for number in range(runs))
    for _ in range(4):
        queue.take()
    takes, releases = [], []
    for _ in range(ROUNDS):
        take_s = release_s = 0.0
        for _ in range(CALLS):
            began_s = time.perf_counter()
            taken = queue.take()
            taken_s = time.perf_counter()
            assert taken is not None
            queue.release(taken)
            release_s += time.perf_counter() - taken_s
            take_s += taken_s - began_s
            queue.put((taken,))
        takes.append(take_s)
        releases.append(release_s)
    ruling = Ruling(ORIGIN, 7)
    per_call = 1e6 / CALLS
    return min(takes) * per_call, min(releases) * per_call, least_us(lambda: queue.rule(ruling))


def loan_us() -> float:
    """Return the cost of lending a connection, and of taking it back."""
    queue = TaskQueue(SystemClock(), connections_per_origin=8)
    queue.add_run(1, Priority.NORMAL, None)
    queue.put((entry(1, 1),))
    only = queue.take()
    assert only is not None

    def loan() -> None:
        queue.lend(only)
        queue.give_back(only, 1)

    return least_us(loan)


def read_us(rates: Rates, share: Share | None = None) -> float:
    """Return what a read costs more than one without a rate."""
    throttle = Throttle(rates, SystemClock())
    request = Request(url=URL, connect_s=1.0, stall_s=1.0, share=share)
    buffer, body = memoryview(bytearray(1024)), Body()
    throttled = throttle.stream(body, request, lambda: True)  # type: ignore[arg-type]
    return least_us(lambda: throttled.readinto(buffer)) - least_us(lambda: body.readinto(buffer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="runs that wait for the origin")
    options = parser.parse_args()
    begin_us, end_us = origins_us()
    take_us, release_us, rule_us = queue_us(options.runs)
    rate = Rate(always=10**12)
    one_us = read_us(Rates(total=rate))
    three_us = read_us(Rates(total=rate, origins={ORIGIN: rate}), Share(name="1", rate=rate))
    print(f"origin, an attempt begins: {begin_us:.2f} us; ends: {end_us:.2f} us")
    print(f"queue, take: {take_us:.2f} us; release: {release_us:.2f} us; ruling: {rule_us:.2f} us")
    print(f"queue, a connection is lent and given back: {loan_us():.2f} us")
    print(f"a read, under one rate: {one_us:.2f} us more; under three: {three_us:.2f} us more")


if __name__ == "__main__":
    main()
