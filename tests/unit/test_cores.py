"""Where threads run."""

from __future__ import annotations

import os
import threading

import pytest

from fetchd.cores import Cores


class Kept:
    """Hears on which cores a thread is to run."""

    def __init__(self, refuses: bool = False) -> None:
        self.calls: list[set[int]] = []
        self.refuses = refuses

    def __call__(self, thread, cores) -> None:
        assert thread == 0, "only for the calling thread"
        self.calls.append(set(cores))
        if self.refuses:
            raise PermissionError


def test_a_thread_runs_at_home_or_on_all_cores():
    kept = Kept()
    cores = Cores({1, 2, 3}, 2, kept)

    cores.gather()
    cores.spread()
    cores.gather()

    assert kept.calls == [{2}, {1, 2, 3}, {2}]


def test_a_home_that_may_not_be_used_is_none():
    kept = Kept()

    Cores({1, 3}, 2, kept).gather()

    assert kept.calls == [{1, 3}]


def test_with_one_core_nothing_is_asked():
    kept = Kept()
    cores = Cores({5}, 5, kept)

    cores.gather()
    cores.spread()

    assert kept.calls == []


def test_what_the_system_refuses_is_left_as_it_is():
    kept = Kept(refuses=True)

    Cores({1, 2}, 2, kept).gather()

    assert kept.calls == [{2}]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one core")
def test_a_real_thread_goes_home_alone_and_comes_back():
    seen = []

    def work() -> None:
        with Cores.of_process().at_home():
            seen.append(os.sched_getaffinity(0))
        seen.append(os.sched_getaffinity(0))

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    home, everywhere = seen
    assert len(home) == 1
    assert home <= before == everywhere == os.sched_getaffinity(0)
