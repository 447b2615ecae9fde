"""Threads say by when they beat again; who does not keep its word is late."""

from __future__ import annotations

import threading

import pytest

from fetchd import threads
from fetchd.threads import ANOTHER, DISK, PROMPT_S, Lookout, Wait, Worker
from harness import FakeClock

PATIENCE_S = 10.0


class Steps:
    """A worker that takes one step of its work each time that it is told to."""

    def __init__(self, clock, *steps, **options):
        self._steps = steps
        self._go, self._gone = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = Worker("stepper", self._work, clock, lambda *_: None, **options)
        self.worker.start()

    def step(self):
        self._go.release()
        assert self._gone.acquire(timeout=PATIENCE_S)

    def _work(self, worker):
        for step in self._steps:
            self._go.acquire(timeout=PATIENCE_S)
            step()
            self._gone.release()


@pytest.fixture
def clock():
    return FakeClock()


def lateness(clock, worker, *moments_s):
    """Whether the worker is late after so many more seconds each."""
    found = []
    for moment_s in moments_s:
        clock.advance(moment_s)
        found.append(worker.late)
    return found


def test_a_thread_at_work_is_late_behind_its_measure_and_in_time_with_the_next_beat(clock):
    stepper = Steps(clock, threads.beat, threads.beat)
    stepper.step()

    assert lateness(clock, stepper.worker, PROMPT_S - 1, 2) == [False, True]

    stepper.step()

    assert lateness(clock, stepper.worker, 0, PROMPT_S - 1) == [False, False]


def test_a_thread_may_have_another_measure(clock):
    stepper = Steps(clock, threads.beat, within_s=300.0)
    stepper.step()

    assert lateness(clock, stepper.worker, 299, 2) == [False, True]


def test_trap_15_a_legal_wait_is_as_long_as_its_kind_allows_and_not_longer(clock):
    waits = DISK, Wait(5.0)
    stepper = Steps(clock, *(wait.__enter__ for wait in waits))

    stepper.step()
    disk = lateness(clock, stepper.worker, 599, 2)
    stepper.step()
    short = lateness(clock, stepper.worker, 4, 2)

    assert (disk, short) == ([False, True], [False, True])


def test_behind_a_legal_wait_the_measure_of_the_thread_holds_again(clock):
    def wait():
        with DISK:
            clock.advance(500.0)

    stepper = Steps(clock, wait)
    stepper.step()

    assert lateness(clock, stepper.worker, 0, PROMPT_S + 1) == [False, True]


def test_who_waits_for_another_thread_or_rests_is_never_late(clock):
    stepper = Steps(clock, ANOTHER.__enter__, threads.beat)
    stepper.step()
    waiting = lateness(clock, stepper.worker, 1e6)
    stepper.step()
    stepper.worker.rest()

    assert waiting == [False]
    assert lateness(clock, stepper.worker, 1e6) == [False]


def test_a_beat_on_a_thread_without_heartbeat_does_nothing():
    threads.beat()
    with DISK:
        pass


def test_c08_a_thread_that_is_late_twice_is_stuck_until_it_beats(clock):
    stepper, lookout = Steps(clock, threads.beat, threads.beat, threads.beat), Lookout()
    stepper.step()
    clock.advance(PROMPT_S + 1)
    first, second = lookout.look([stepper.worker]), lookout.look([stepper.worker])
    stepper.step()

    assert (first, second) == ([], [stepper.worker])
    assert lookout.look([stepper.worker]) == []


def test_c12_a_process_that_was_away_as_a_whole_finds_nobody_stuck(clock):
    stepper, lookout = Steps(clock, threads.beat, threads.beat, threads.beat), Lookout()
    stepper.step()

    lookout.look([stepper.worker])
    clock.advance(3600.0)
    first = lookout.look([stepper.worker])
    stepper.step()  # it goes on a moment later

    assert first == []
    assert lookout.look([stepper.worker]) == []


def test_a_dead_thread_is_stuck(clock):
    stepper, lookout = Steps(clock, threads.beat), Lookout()
    stepper.step()
    stepper.worker.join(PATIENCE_S)

    lookout.look([stepper.worker])

    assert lookout.look([stepper.worker]) == [stepper.worker]
