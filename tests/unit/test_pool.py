from __future__ import annotations

import io
import json
import threading
import time
from collections import deque
from typing import Any

import pytest

from fetchd import events, logs
from fetchd.errors import StoreError
from fetchd.model import (
    Attempt,
    Failure,
    Fetch,
    History,
    Interrupted,
    Outcome,
    Progress,
    Run,
    Task,
)
from fetchd.pool import Pool
from harness import FakeClock, group, job, spec

PATIENCE_S = 5.0


def fetch(number: int) -> Fetch:
    one = group("g", spec(f"file-{number}"))
    return Fetch(
        fence=number,
        job=job("j", one),
        run=Run(id=1, job="j", revision="r", scheduled_for_s=0.0),
        group=one,
        task=Task(id=number, group=1, spec=spec(f"file-{number}"), history=History()),
        number=3,
        source="http://h.example/",
        previous=None,
    )


class Source:
    """A work source that gives out what it was filled with, and waits for more until closed."""

    def __init__(self, *attempts):
        self.changed = threading.Condition()
        self.waiting = deque(attempts)
        self.settled: list[tuple[Attempt, Outcome]] = []
        self.reported: list[tuple[Attempt, Progress]] = []
        self.closed = False
        self.broken = False

    def take(self, kind, most):
        with self.changed:
            while not self.waiting and not self.closed:
                self.changed.wait(PATIENCE_S)
            if self.broken:
                raise StoreError("the store failed")
            return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]

    def report(self, attempt, progress):
        self.reported.append((attempt, progress))
        return not self.closed

    def settle(self, settled):
        with self.changed:
            self.settled.extend(settled)
            self.changed.notify_all()

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def wait_until(self, holds):
        with self.changed:
            assert self.changed.wait_for(holds, PATIENCE_S)


def pool_of(source, work, *, size=2, most=1, tell=lambda event: None, clock=None, exchange=None):
    return Pool(
        "fetcher",
        size,
        source,
        Fetch,
        work=work,
        most=most,
        clock=clock or FakeClock(),
        tell=tell,
        exchange=exchange,
    )


def interrupted(attempts):
    return [(attempt, Interrupted()) for attempt in attempts]


def eventually(holds):
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_every_attempt_is_worked_on_and_settled_once():
    source = Source(*(fetch(number) for number in range(50)))
    pool = pool_of(source, interrupted, size=4)
    pool.start()

    source.wait_until(lambda: len(source.settled) == 50)
    source.close()

    assert pool.join(PATIENCE_S) == 0
    assert sorted(attempt.fence for attempt, _ in source.settled) == list(range(50))


def test_the_threads_are_named_and_as_many_as_asked_for():
    source = Source()
    pool = pool_of(source, interrupted, size=3)
    pool.start()

    names = {thread.name for thread in threading.enumerate()}
    source.close()

    assert {"fetcher-0", "fetcher-1", "fetcher-2"} <= names
    assert [worker.name for worker in pool.workers()] == ["fetcher-0", "fetcher-1", "fetcher-2"]
    assert pool.join(PATIENCE_S) == 0


def test_a_group_is_taken_and_settled_together():
    source = Source(*(fetch(number) for number in range(5)))
    groups = []

    def work(attempts):
        groups.append(len(attempts))
        return interrupted(attempts)

    pool = pool_of(source, work, size=1, most=3)
    pool.start()
    source.wait_until(lambda: len(source.settled) == 5)
    source.close()
    pool.join(PATIENCE_S)

    assert groups == [3, 2]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, RecursionError, SystemExit])
def test_c07_a_worker_that_dies_is_replaced_told_and_its_task_fails_for_a_retry(error):
    source = Source(fetch(1), fetch(2))
    told: list[Any] = []

    def work(attempts):
        if attempts[0].fence == 1:
            raise error("at https://h.example/?sig=s3cret")
        return interrupted(attempts)

    pool = pool_of(source, work, size=1, tell=told.append)
    (first,) = pool.workers()
    pool.start()
    source.wait_until(lambda: len(source.settled) == 2)
    (second,) = pool.workers()
    alive = second.alive()
    eventually(lambda: told)
    source.close()
    pool.join(PATIENCE_S)

    (_, failure), (_, outcome) = source.settled
    assert failure == Failure(
        code="worker_died",
        reason=f"{error.__name__}: at https://h.example/?...",
        transient=True,
    )
    assert outcome == Interrupted()
    assert second is not first
    assert alive
    (died,) = told
    assert (died.died, died.replaced) == ("fetcher-0", True)
    assert died.error.startswith(error.__name__)
    assert "Traceback" in died.traceback


def test_the_pool_keeps_its_size_while_workers_die():
    source = Source(*(fetch(number) for number in range(40)))
    told: list[events.Event] = []

    def work(attempts):
        raise ValueError("always")

    pool = pool_of(source, work, size=2, tell=told.append)
    pool.start()
    source.wait_until(lambda: len(source.settled) == 40)
    eventually(lambda: len(told) == 40 and all(worker.alive() for worker in pool.workers()))
    size = len(pool.workers())
    source.close()

    assert size == 2
    assert pool.join(PATIENCE_S) == 0


def test_a_worker_that_dies_while_stopping_is_not_replaced():
    source = Source(fetch(1))
    told: list[Any] = []
    stopped = threading.Event()

    def work(attempts):
        stopped.wait(PATIENCE_S)
        raise ValueError("late")

    pool = pool_of(source, work, size=1, tell=told.append)
    pool.start()
    eventually(lambda: not source.waiting)
    pool.stop()
    stopped.set()

    assert pool.join(PATIENCE_S) == 0
    assert [died.replaced for died in told] == [False]
    assert len(source.settled) == 1


def test_an_error_of_settle_is_a_death_whose_attempt_is_settled_again():
    class FailsOnce(Source):
        failed = False

        def settle(self, settled):
            if not self.failed:
                self.failed = True
                raise AssertionError("not an outcome of a fetch")
            super().settle(settled)

    source = FailsOnce(fetch(1))
    pool = pool_of(source, interrupted, size=1)
    pool.start()
    source.wait_until(lambda: source.settled)
    source.close()
    pool.join(PATIENCE_S)

    ((_, outcome),) = source.settled
    assert isinstance(outcome, Failure)
    assert outcome.code == "worker_died"


def test_what_comes_in_exchange_is_worked_on_next_and_else_something_is_taken():
    class Counting(Source):
        takes = 0

        def take(self, kind, most):
            self.takes += 1
            return super().take(kind, most)

    source = Counting(*(fetch(number) for number in range(1, 5)))

    def exchange(settled):
        source.settle(settled)
        ((attempt, _),) = settled
        return source.take(Fetch, 1) if attempt.fence == 1 else ()

    pool = pool_of(source, interrupted, size=1, exchange=exchange)
    pool.start()
    source.wait_until(lambda: len(source.settled) == 4)
    source.close()

    assert pool.join(PATIENCE_S) == 0
    assert [attempt.fence for attempt, _ in source.settled] == [1, 2, 3, 4]
    assert source.takes == 5  # 2 was taken within the exchange of 1, and the last brought nothing


def test_what_came_in_exchange_before_a_stop_is_worked_on_and_settled():
    source = Source(fetch(1))

    def exchange(settled):
        source.settle(settled)
        pool.stop()
        return [fetch(2)] if len(source.settled) == 1 else ()

    pool = pool_of(source, interrupted, size=1, exchange=exchange)
    pool.start()

    assert pool.join(PATIENCE_S) == 0
    assert [attempt.fence for attempt, _ in source.settled] == [1, 2]


def test_after_a_failure_of_the_store_workers_go_home_untold():
    source = Source()
    source.broken = True
    told: list[events.Event] = []
    pool = pool_of(source, interrupted, tell=told.append)
    pool.start()
    source.close()

    assert pool.join(PATIENCE_S) == 0
    assert told == []


def test_a_stop_before_the_start_is_not_lost():
    source = Source(fetch(1))
    pool = pool_of(source, interrupted)

    pool.stop()
    pool.start()

    assert pool.join(PATIENCE_S) == 0
    assert source.settled == []


def test_threads_that_do_not_come_home_in_time_are_counted():
    source, go_on = Source(fetch(1)), threading.Event()

    def work(attempts):
        go_on.wait(PATIENCE_S)
        return interrupted(attempts)

    pool = pool_of(source, work, size=2)
    pool.start()
    eventually(lambda: not source.waiting)
    source.close()
    eventually(lambda: sum(worker.alive() for worker in pool.workers()) == 1)
    left = pool.join(0.0)
    go_on.set()

    assert left == 1
    assert pool.join(PATIENCE_S) == 0


def test_waiting_for_work_is_rest_working_ages_and_a_report_is_a_beat():
    source, clock = Source(), FakeClock()
    at_work, go_on = threading.Semaphore(0), threading.Semaphore(0)
    wanted = []

    def work(attempts):
        for _ in range(2):
            at_work.release()
            go_on.acquire(timeout=PATIENCE_S)
            wanted.append(pool.report(attempts[0], Progress(received_bytes=1)))
        at_work.release()
        go_on.acquire(timeout=PATIENCE_S)
        return interrupted(attempts)

    pool = pool_of(source, work, size=1, clock=clock)
    pool.start()
    (worker,) = pool.workers()
    clock.advance(1000.0)
    resting_s = worker.age_s()

    with source.changed:
        source.waiting.append(fetch(1))
        source.changed.notify_all()
    at_work.acquire(timeout=PATIENCE_S)
    clock.advance(7.0)
    working_s = worker.age_s()
    go_on.release()
    at_work.acquire(timeout=PATIENCE_S)
    reported_s = worker.age_s()
    go_on.release(2)
    source.wait_until(lambda: source.settled)
    clock.advance(1000.0)
    eventually(lambda: worker.age_s() == 0.0)
    source.close()
    pool.join(PATIENCE_S)

    assert (resting_s, working_s, reported_s) == (0.0, 7.0, 0.0)
    assert wanted == [True, True]


def test_a_report_says_when_the_work_is_not_wanted_any_more():
    source, wanted = Source(fetch(1)), []

    def work(attempts):
        wanted.append(pool.report(attempts[0], Progress()))
        source.close()
        wanted.append(pool.report(attempts[0], Progress()))
        return interrupted(attempts)

    pool = pool_of(source, work, size=1)
    pool.start()
    pool.join(PATIENCE_S)

    assert wanted == [True, False]


def test_lines_of_the_work_bear_job_run_task_and_attempt():
    source, stream = Source(fetch(9)), io.StringIO()
    setup = logs.configure("info", "json", stream=stream)

    def work(attempts):
        logs.get_logger().info("a.told")
        return interrupted(attempts)

    pool = pool_of(source, work, size=1)
    pool.start()
    source.wait_until(lambda: source.settled)
    source.close()
    pool.join(PATIENCE_S)
    setup.close(PATIENCE_S)

    line = json.loads(stream.getvalue())
    del line["timestamp"]
    assert line == {
        "level": "info",
        "event": "a.told",
        "job": "j",
        "run": 1,
        "task": 9,
        "attempt": 3,
        "thread": "fetcher-0",
    }
