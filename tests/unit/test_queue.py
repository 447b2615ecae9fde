"""The queue alone: order, fairness, limits, not-before times, close."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fetchd.clock import SystemClock
from fetchd.engine.queue import PATIENCE_S, STARTS_FOR_ONE_OVERDUE, Entry, Ruling, TaskQueue
from fetchd.model import History, Priority, Task, TaskSpec
from fetchd.ports import Ready
from harness import FakeClock


def entry(task, run=1, origin="o", *, due_s=0.0, priority=Priority.NORMAL, alone=False) -> Entry:
    made = Task(
        id=task,
        group=1,
        spec=TaskSpec(key=str(task), path=str(task), sources=("http://x/",)),
        history=History(),
    )
    ready = Ready(task=made, origin=origin, due_at_s=0, wait="", previous=None)
    return Entry(ready=ready, run=run, priority=priority, due_s=due_s, origin=origin, alone=alone)


def queue_with(*entries, clock=None, per_origin=8, concurrency=None) -> TaskQueue:
    queue = TaskQueue(clock or FakeClock(), connections_per_origin=per_origin)
    for run, priority in {(e.run, e.priority) for e in entries}:
        queue.add_run(run, priority, concurrency)
    queue.put(entries)
    return queue


def take_all(queue: TaskQueue, count: int) -> list[int]:
    return [queue.take().ready.task.id for _ in range(count)]


def test_an_exchange_gives_back_and_takes_what_may_start_at_once():
    queue = queue_with(entry(1), entry(2), per_origin=1)
    first = queue.take()

    second = queue.exchange([first])

    assert second.ready.task.id == 2
    assert queue.exchange([second]) is None
    queue.put([entry(3)])
    assert take_all(queue, 1) == [3]


def test_an_exchange_brings_nothing_that_has_to_wait_nor_after_the_end():
    clock = FakeClock()
    queue = queue_with(entry(1), entry(2, due_s=clock.monotonic() + 5), clock=clock)

    assert queue.exchange([queue.take()]) is None
    clock.advance(6)
    second = queue.exchange([])
    assert second.ready.task.id == 2
    queue.put([entry(3)])
    queue.close()
    assert queue.exchange([second]) is None


def steps_of(act) -> int:
    """Count the calls of functions that an act makes."""
    counted: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: counted.update([event]))
    try:
        act()
    finally:
        sys.setprofile(None)
    return counted["call"] + counted["c_call"]


@pytest.mark.parametrize("spread", ["one run", "many origins", "many runs", "later"])
def test_p11_the_steps_of_a_take_do_not_grow_with_the_queue(spread):
    def steps(length: int) -> int:
        clock = FakeClock()
        entries = [
            entry(
                number,
                run=number if spread == "many runs" else 1,
                origin=f"o{number}" if spread == "many origins" else "o",
                due_s=clock.monotonic() + 1 + number / length if spread == "later" else 0.0,
            )
            for number in range(1, length + 1)
        ]
        queue = queue_with(*entries, clock=clock)
        clock.advance(1 + 10 / length)

        def turns() -> None:
            for _ in range(5):
                queue.release(queue.take())

        turns()
        return steps_of(turns)

    assert steps(20_000) <= 2 * steps(200)


def test_first_in_first_out_within_a_lane():
    assert take_all(queue_with(entry(1), entry(2), entry(3)), 3) == [1, 2, 3]


def test_a_higher_priority_goes_first():
    queue = queue_with(
        entry(1, run=1, priority=Priority.LOW),
        entry(2, run=2, priority=Priority.URGENT),
        entry(3, run=3, priority=Priority.NORMAL),
    )

    assert take_all(queue, 3) == [2, 3, 1]


def turns(queue: TaskQueue, count: int) -> list[int]:
    """Return the runs of so many entries, each released before the next is taken."""
    served = []
    for _ in range(count):
        got = queue.take()
        queue.release(got)
        served.append(got.run)
    return served


def test_a_low_run_behind_an_endless_urgent_one_has_its_turn_once_in_half_an_hour():
    clock = FakeClock()
    urgent = [entry(i, run=1, priority=Priority.URGENT) for i in range(2000)]
    low = [entry(9000 + i, run=2, priority=Priority.LOW) for i in range(9)]
    queue = queue_with(*urgent, *low, clock=clock)

    served = []
    for _ in range(100):  # an hour and 40 minutes
        served.append(turns(queue, 10).count(2))
        clock.advance(60.0)

    assert [minute for minute, count in enumerate(served) if count] == [30, 60, 90]
    assert sum(served) == 3


@pytest.mark.parametrize(
    ("priority", "minutes"), [(Priority.HIGH, 10), (Priority.NORMAL, 20), (Priority.LOW, 30)]
)
def test_a_run_is_overdue_after_ten_minutes_for_each_class_above_it(priority, minutes):
    clock = FakeClock()
    queue = queue_with(
        *[entry(i, run=1, priority=Priority.URGENT) for i in range(100)],
        entry(9000, run=2, priority=priority),
        clock=clock,
    )
    clock.advance(minutes * 60.0 - 1.0)
    assert 2 not in turns(queue, 20)
    clock.advance(1.0)

    assert turns(queue, 1) == [2]


def test_an_old_backlog_leaves_three_of_four_starts_to_an_urgent_run():
    clock = FakeClock()
    backlog = [entry(i, run=10 + i, priority=Priority.LOW) for i in range(200)]
    queue = queue_with(*backlog, clock=clock)
    clock.advance(24 * 3600.0)
    turns(queue, 5)
    queue.add_run(1, Priority.URGENT, None)
    queue.put([entry(9000 + i, run=1, priority=Priority.URGENT) for i in range(30)])

    served = turns(queue, 40)

    assert served.count(1) == 30
    assert all(served[i : i + 4].count(1) >= 3 for i in range(37))


def test_what_is_overdue_and_cannot_start_keeps_nobody_waiting_and_its_turn():
    clock = FakeClock()
    queue = queue_with(
        *[entry(i, run=1, priority=Priority.URGENT) for i in range(100)],
        entry(9000, run=2, origin="shut", priority=Priority.LOW),
        clock=clock,
    )
    clock.advance(3 * PATIENCE_S)
    queue.rule(Ruling("shut", 8, clock.monotonic() + 60.0))
    assert turns(queue, 20) == [1] * 20
    clock.advance(60.0)

    assert turns(queue, 1) == [2]


def test_an_overdue_run_that_is_dropped_leaves_nothing_behind():
    clock = FakeClock()
    low = [entry(i, run=2, origin=f"o{i}", priority=Priority.LOW) for i in range(3)]
    queue = queue_with(*low, entry(9, run=1), clock=clock)
    clock.advance(3 * PATIENCE_S)
    queue.release(queue.take())  # it has been looked at

    queue.drop_run(2)
    queue.add_run(3, Priority.LOW, None)
    queue.put([entry(30, run=3, origin="o1", priority=Priority.LOW)])

    assert len(queue) == 1 + (queue.take().run == 1)


def test_the_steps_of_a_take_do_not_grow_with_what_is_overdue():
    def steps(length: int) -> int:
        clock = FakeClock()
        low = [entry(i, run=i, priority=Priority.LOW) for i in range(1, length + 1)]
        urgent = [entry(i, run=0, priority=Priority.URGENT) for i in range(100)]
        queue = queue_with(*low, *urgent, clock=clock)
        clock.advance(3 * PATIENCE_S)
        turns(queue, 1)  # finds all of them, once
        return steps_of(lambda: turns(queue, 8))

    assert steps(20_000) <= 2 * steps(200)


@given(
    runs=st.lists(
        st.tuples(st.sampled_from(Priority), st.sampled_from("abc"), st.integers(0, 40)),
        min_size=1,
        max_size=12,
    ),
    seconds=st.lists(st.sampled_from([1.0, 20.0, 90.0]), min_size=1, max_size=7),
)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_no_run_starves_and_three_of_four_starts_are_of_the_best_class_that_waits(runs, seconds):
    """Each run always has more to do; it joins after some starts, and each start takes a time."""
    clock = FakeClock()
    queue = TaskQueue(clock, connections_per_origin=2)
    numbers, paces = itertools.count(), itertools.cycle(seconds)
    since_s: dict[int, float] = {}
    began_s = clock.monotonic()
    out: list[Entry] = []
    best: list[bool] = []
    longest_s = 3 * PATIENCE_S + max(seconds) * (2 + 2 * STARTS_FOR_ONE_OVERDUE * len(runs))
    queue.add_run(99, Priority.URGENT, None)  # an endless stream for the same servers
    queue.put([entry(10**6 + i, run=99, origin="abc"[i % 3], priority=0) for i in range(900)])

    while clock.monotonic() < began_s + 2 * longest_s and len(best) < 800:
        start = len(best)
        for run, (priority, origin, joins) in enumerate(runs):
            if joins == start:
                queue.add_run(run, priority, None)
                since_s[run] = clock.monotonic()
                queue.put([entry(next(numbers), run=run, origin=origin, priority=priority)])
        got = queue.take()
        out.append(got)
        best.append(got.priority == Priority.URGENT)
        if got.run != 99:
            assert clock.monotonic() - since_s.pop(got.run) <= longest_s
            since_s[got.run] = clock.monotonic()
            priority, origin, _ = runs[got.run]
            queue.put([entry(next(numbers), run=got.run, origin=origin, priority=priority)])
        if len(out) == 2:
            queue.release(out.pop(0))
        clock.advance(next(paces))
        assert all(clock.monotonic() - since <= longest_s for since in since_s.values())

    assert all(sum(best[i : i + 4]) >= 3 for i in range(len(best) - 3))


def test_runs_take_turns_and_so_do_the_origins_of_a_run():
    queue = queue_with(
        *[entry(i, run=1, origin="a") for i in (1, 2)],
        *[entry(i, run=1, origin="b") for i in (3, 4)],
        *[entry(i, run=2, origin="a") for i in (5, 6)],
    )

    assert take_all(queue, 6) == [1, 5, 3, 6, 2, 4]


def test_a_newcomer_for_another_host_goes_before_a_thousand_jobs_for_one():  # P24
    bulk = [entry(i, run=i, origin="bulk") for i in range(1000)]
    queue = queue_with(*bulk)
    take_all(queue, 3)
    queue.add_run(5000, Priority.NORMAL, None)
    queue.put([entry(5000, run=5000, origin="other")])

    assert take_all(queue, 1) == [5000]


def test_a_newcomer_goes_before_a_run_over_a_thousand_hosts():  # P24
    queue = queue_with(*[entry(i, run=1, origin=f"o{i}") for i in range(1000)])
    take_all(queue, 3)
    queue.add_run(2, Priority.NORMAL, None)
    queue.put([entry(i, run=2, origin="other") for i in (5000, 5001)])

    first, second, third = take_all(queue, 3)

    assert first == 5000
    assert 5001 in {second, third}


def test_those_who_are_served_often_do_not_keep_others_waiting():
    queue = queue_with(*[entry(i, run=i % 10, origin=f"o{i % 10}") for i in range(100)])
    out: list[Entry] = []
    served: Counter[int] = Counter()
    for _ in range(40):
        out.append(queue.take())
        served[out[-1].run] += 1
        if len(out) > 3:
            queue.release(out.pop(0))

    assert set(served.values()) == {4}


def test_an_origin_at_its_limit_is_passed_over_until_one_is_released():
    queue = queue_with(entry(1), entry(2), entry(3, origin="other"), per_origin=1)

    first = queue.take()
    assert take_all(queue, 1) == [3]
    queue.release(first)

    assert take_all(queue, 1) == [2]


# ---------------------------------------------------------------- what origins are ruled


def took(queue: TaskQueue) -> tuple[list[Entry | None], threading.Thread]:
    """Take on another thread; the list gets what it took."""
    got: list[Entry | None] = []
    taker = threading.Thread(target=lambda: got.append(queue.take()), daemon=True)
    taker.start()
    return got, taker


def test_lanes_of_a_shut_origin_are_passed_over_until_its_time():
    clock = FakeClock()
    queue = queue_with(entry(1), entry(2), entry(3, origin="other"), clock=clock)
    queue.rule(Ruling("o", 8, clock.monotonic() + 10))

    assert take_all(queue, 1) == [3]
    got, taker = took(queue)
    clock.advance(9.9)
    taker.join(0.05)
    assert taker.is_alive()
    clock.advance(0.1)
    taker.join(5)

    assert got[0].ready.task.id == 1
    assert take_all(queue, 1) == [2]


def test_a_run_whose_origins_are_all_shut_keeps_nobody_waiting_whatever_its_priority():
    clock = FakeClock()
    urgent = [entry(i, run=1, origin=f"o{i}", priority=Priority.URGENT) for i in range(1, 9)]
    queue = queue_with(*urgent, entry(9, run=2, origin="o9", priority=Priority.LOW), clock=clock)
    for i in range(1, 9):
        queue.rule(Ruling(f"o{i}", 8, clock.monotonic() + 10))

    assert take_all(queue, 1) == [9]
    clock.advance(10)
    assert sorted(take_all(queue, 8)) == list(range(1, 9))


def test_runs_take_turns_again_when_a_gate_opens():
    clock = FakeClock()
    queue = queue_with(*[entry(i, run=i % 3) for i in range(9)], clock=clock)
    queue.rule(Ruling("o", 3, clock.monotonic() + 10))
    clock.advance(10)

    out = [queue.take() for _ in range(3)]

    assert {e.run for e in out} == {0, 1, 2}
    for one in out:
        queue.release(one)
    assert {queue.take().run for _ in range(3)} == {0, 1, 2}


def test_a_longer_ruling_replaces_a_shorter_one_and_the_other_way_round():
    clock = FakeClock()
    queue = queue_with(entry(1), entry(2, origin="other"), clock=clock)
    queue.rule(Ruling("o", 8, clock.monotonic() + 5))
    queue.rule(Ruling("o", 8, clock.monotonic() + 50))
    clock.advance(6)
    assert take_all(queue, 1) == [2]

    queue.rule(Ruling("o", 8))
    assert take_all(queue, 1) == [1]


def test_whoever_waits_is_woken_when_a_gate_opens_though_it_had_nothing_to_wait_for_before():
    queue = TaskQueue(SystemClock(), connections_per_origin=1)
    queue.add_run(1, Priority.NORMAL, None)
    queue.put([entry(1), entry(2)])
    first = queue.take()
    got, taker = took(queue)  # for a minute: the origin is at its limit
    taker.join(0.05)

    queue.rule(Ruling("o", 2, SystemClock().monotonic() + 0.05))
    taker.join(5)

    assert first.ready.task.id == 1
    assert got[0].ready.task.id == 2


def test_whoever_waits_is_woken_when_a_shut_origin_is_opened_early_or_the_queue_closed():
    queue = TaskQueue(SystemClock(), connections_per_origin=1)
    queue.add_run(1, Priority.NORMAL, None)
    queue.rule(Ruling("o", 1, SystemClock().monotonic() + 60))
    queue.put([entry(1), entry(2)])
    got, taker = took(queue)
    taker.join(0.05)
    assert taker.is_alive()

    queue.rule(Ruling("o", 1))
    taker.join(5)
    assert got[0].ready.task.id == 1

    rest, last = took(queue)
    queue.close()
    last.join(5)
    assert rest == [None]


def test_a_lower_limit_holds_for_those_that_are_released():
    queue = queue_with(*[entry(i) for i in range(1, 6)], per_origin=3)
    out = [queue.take() for _ in range(3)]
    queue.put([entry(9, origin="other")])
    queue.rule(Ruling("o", 1))

    for one in out[:2]:
        queue.release(one)
    assert take_all(queue, 1) == [9]
    queue.release(out[2])
    assert take_all(queue, 1) == [4]

    queue.rule(Ruling("o", 3))
    assert take_all(queue, 1) == [5]


def test_half_open_lets_one_through_at_a_time():
    clock = FakeClock()
    queue = queue_with(*[entry(i) for i in range(1, 4)], entry(9, origin="other"), clock=clock)
    queue.rule(Ruling("o", 1, clock.monotonic() + 10))
    clock.advance(10)

    probe = queue.take()
    assert take_all(queue, 1) == [9]
    queue.release(probe)
    assert take_all(queue, 1) == [2]


def test_one_that_must_run_alone_holds_up_nobody_while_its_origin_is_shut():
    clock = FakeClock()
    queue = queue_with(entry(1, alone=True), entry(2, origin="other"), clock=clock)
    queue.rule(Ruling("o", 8, clock.monotonic() + 10))

    other = queue.take()
    assert other.ready.task.id == 2
    queue.release(other)
    clock.advance(10)
    assert take_all(queue, 1) == [1]


def test_entries_of_an_origin_with_a_rate_begin_that_far_apart():
    clock = FakeClock()
    queue = TaskQueue(clock, connections_per_origin=8, intervals_s={"o": 0.5})
    queue.add_run(1, Priority.NORMAL, None)
    queue.put([*[entry(i) for i in range(1, 5)], entry(9, origin="other")])

    assert sorted(take_all(queue, 2)) == [1, 9]
    began = []
    for _ in range(3):
        got, taker = took(queue)
        while taker.is_alive():
            clock.advance(0.01)
            taker.join(0.01)
        began.append(clock.monotonic())
        assert got[0].origin == "o"

    assert [b - a >= 0.49 for a, b in itertools.pairwise([1000.0, *began])] == [True] * 3


def test_what_an_entry_asks_for_besides_keeps_to_the_rate_too():
    clock = FakeClock()
    queue = TaskQueue(clock, connections_per_origin=8, intervals_s={"o": 5.0})
    queue.add_run(1, Priority.NORMAL, None)
    queue.put([entry(1), entry(2), entry(7, origin="other")])
    first = queue.take()
    assert first is not None

    assert not queue.ask(first)
    clock.advance(5)
    assert queue.ask(first)
    assert not queue.ask(first)
    assert take_all(queue, 1) == [7]  # and entry 2 waits five seconds more
    clock.advance(5)
    assert take_all(queue, 1) == [2]


def test_a_rate_is_kept_behind_a_gate_and_a_gate_behind_a_rate():
    clock = FakeClock()
    queue = TaskQueue(clock, connections_per_origin=8, intervals_s={"o": 5.0})
    queue.add_run(1, Priority.NORMAL, None)
    queue.put([entry(1), entry(2), entry(3), *[entry(i, origin="other") for i in (7, 8, 9)]])
    queue.take()
    assert take_all(queue, 1) == [7]
    queue.rule(Ruling("o", 8))  # opens no sooner than the rate allows
    assert take_all(queue, 1) == [8]

    queue.rule(Ruling("o", 8, clock.monotonic() + 7))
    clock.advance(6)
    assert take_all(queue, 1) == [9]
    clock.advance(1)
    assert take_all(queue, 1) == [2]


def test_it_can_be_told_how_many_of_a_run_wait_for_a_gate():
    clock = FakeClock()
    queue = queue_with(entry(1), entry(2), entry(3, run=2), entry(4, origin="other"), clock=clock)
    queue.rule(Ruling("o", 8, clock.monotonic() + 10))
    shut = queue.held_up()
    clock.advance(10)

    assert (shut, queue.held_up()) == ({1: 2, 2: 1}, {})


def test_the_steps_of_a_take_do_not_grow_with_what_waits_for_a_shut_origin():
    def steps(length: int) -> int:
        clock = FakeClock()
        shut = [entry(n, run=n) for n in range(1, length)]
        queue = queue_with(*shut, *[entry(length + n, origin="p") for n in range(9)], clock=clock)
        queue.rule(Ruling("o", 8, clock.monotonic() + 10))

        def turns() -> None:
            for _ in range(5):
                queue.release(queue.take())

        return steps_of(turns)

    assert steps(20_000) <= 2 * steps(200)


def test_a_not_before_time_is_kept():
    clock = FakeClock()
    queue = queue_with(entry(1, due_s=clock.monotonic() + 10), entry(2), clock=clock)

    assert take_all(queue, 1) == [2]
    assert len(queue) == 1
    clock.advance(10)
    assert take_all(queue, 1) == [1]


def test_an_entry_that_must_run_alone_waits_for_the_others_and_they_for_it():
    queue = queue_with(entry(1), entry(2, alone=True), entry(3))
    lonely = queue.take()
    got = []
    taker = threading.Thread(target=lambda: got.append(queue.take()))

    taker.start()
    taker.join(0.05)
    assert taker.is_alive()
    queue.release(lonely)
    taker.join(5)

    assert lonely.ready.task.id == 2
    assert got[0].ready.task.id == 1


def test_close_wakes_every_taker():
    queue = queue_with()
    got: list[Entry | None] = []
    takers = [threading.Thread(target=lambda: got.append(queue.take())) for _ in range(4)]
    for taker in takers:
        taker.start()

    queue.close()
    for taker in takers:
        taker.join(5)

    assert got == [None] * 4


def test_what_a_dropped_run_has_out_does_not_count_for_it_when_it_comes_again():
    queue = queue_with(entry(1), concurrency=1)
    late = queue.take()
    queue.drop_run(1)
    queue.add_run(1, Priority.NORMAL, 1)
    queue.put([entry(2), entry(3)])

    first = queue.take()
    queue.release(late)
    second = threading.Thread(target=queue.take, daemon=True)
    second.start()
    second.join(0.1)

    assert first.ready.task.id == 2
    assert second.is_alive()
    queue.close()
    second.join(5)


def test_a_dropped_run_leaves_nothing_behind():
    clock = FakeClock()
    queue = queue_with(entry(1), entry(2, due_s=clock.monotonic() + 5), clock=clock)
    out = queue.take()

    queue.drop_run(1)
    queue.release(out)
    queue.put([entry(3)])

    assert len(queue) == 0


@pytest.mark.parametrize("takers", [8])
def test_many_threads_take_each_entry_once_and_never_exceed_a_limit(takers):
    entries = [entry(i, run=i % 5, origin=f"o{i % 3}") for i in range(600)]
    queue = queue_with(*entries, per_origin=2)
    lock = threading.Lock()
    seen: list[int] = []
    out: Counter[str] = Counter()
    worst = 0

    def work():
        nonlocal worst
        while (taken := queue.take()) is not None:
            with lock:
                seen.append(taken.ready.task.id)
                out[taken.origin] += 1
                worst = max(worst, *out.values())
            with lock:
                out[taken.origin] -= 1
                last = len(seen) == len(entries)
            queue.release(taken)
            if last:
                queue.close()

    threads = [threading.Thread(target=work) for _ in range(takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(seen) == list(range(600))
    assert worst <= 2


class QueueMachine(RuleBasedStateMachine):
    """Any order of calls against a plain model: a set of waiting and a set of taken entries."""

    taken = Bundle("taken")

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.queue = TaskQueue(self.clock, connections_per_origin=2)
        self.waiting: dict[int, Entry] = {}
        self.out: dict[int, Entry] = {}
        self.lent: Counter[int] = Counter()
        self.runs = {}
        self.limits: dict[str, int] = {}
        self.shut: dict[str, float] = {}
        self.number = 0
        for run in range(3):
            self.runs[run] = Priority(run + 1)
            self.queue.add_run(run, Priority(run + 1), 3)

    @rule(run=st.integers(0, 2), origin=st.sampled_from("ab"), wait_s=st.sampled_from([0, 0, 7]))
    def put(self, run, origin, wait_s):
        self.number += 1
        made = entry(
            self.number,
            run=run,
            origin=origin,
            due_s=self.clock.monotonic() + wait_s if wait_s else 0.0,
            priority=Priority(run + 1),
        )
        self.queue.put([made])
        if run in self.runs:
            self.waiting[self.number] = made

    def busy(self) -> Counter[str]:
        loans = [self.out[task].origin for task in self.lent.elements()]
        return Counter([*(e.origin for e in self.out.values()), *loans])

    def can_start(self) -> list[Entry]:
        origins = self.busy()
        runs = Counter(e.run for e in self.out.values())
        return [
            e
            for e in self.waiting.values()
            if e.due_s <= self.clock.monotonic()
            and self.shut.get(e.origin, 0.0) <= self.clock.monotonic()
            and origins[e.origin] < self.limits.get(e.origin, 2)
            and runs[e.run] < 3
        ]

    @rule(target=taken)
    def take(self):
        can = self.can_start()
        if not can:
            return None
        got = self.queue.take()
        assert got in can
        assert got.priority == min(e.priority for e in can)
        del self.waiting[got.ready.task.id]
        self.out[got.ready.task.id] = got
        return got

    @rule(got=taken)
    def lend(self, got):
        if got is not None:
            origins, runs = self.busy(), Counter(e.run for e in self.out.values())
            now_s = self.clock.monotonic()
            shut = self.shut.get(got.origin, 0.0) > now_s
            awaited = not shut and any(
                e.origin == got.origin and e.due_s <= now_s and runs[e.run] < 3
                for e in self.waiting.values()
            )
            left = self.limits.get(got.origin, 2) - origins[got.origin]
            assert self.queue.recalled(got) == (left < 0 or (left == 0 and awaited))
            lends = left > 0 and not awaited and not shut
            assert self.queue.lend(got) == lends
            self.lent[got.ready.task.id] += lends

    @rule(got=taken)
    def ask(self, got):
        if got is not None:
            shut = self.shut.get(got.origin, 0.0) > self.clock.monotonic()
            assert self.queue.ask(got) == (not shut)

    @rule(got=taken)
    def give_back(self, got):
        if got is not None and self.lent[got.ready.task.id]:
            self.queue.give_back(got, 1)
            self.lent[got.ready.task.id] -= 1

    @rule(got=consumes(taken))
    def release(self, got):
        if got is not None:
            if lent := self.lent.pop(got.ready.task.id, 0):
                self.queue.give_back(got, lent)
            self.queue.release(got)
            del self.out[got.ready.task.id]

    @rule(
        origin=st.sampled_from("ab"),
        connections=st.integers(1, 3),
        shut_s=st.sampled_from([-1, 0, 0, 3, 8]),
    )
    def rule_origin(self, origin, connections, shut_s):
        self.limits[origin] = connections
        self.shut[origin] = self.clock.monotonic() + shut_s
        self.queue.rule(Ruling(origin, connections, self.shut[origin]))

    @rule(seconds=st.sampled_from([1, 7]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(run=st.integers(0, 2))
    def drop(self, run):
        if self.runs.pop(run, None) is not None:
            self.queue.drop_run(run)
            self.waiting = {k: e for k, e in self.waiting.items() if e.run != run}

    @invariant()
    def nothing_is_lost(self):
        assert len(self.queue) == len(self.waiting)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(derandomize=True, max_examples=60)


def test_whoever_waits_for_one_that_runs_alone_goes_on_when_its_run_is_dropped():
    queue = TaskQueue(SystemClock(), connections_per_origin=8)
    queue.add_run(1, Priority.NORMAL, None)
    queue.add_run(2, Priority.NORMAL, None)
    queue.put([entry(1)])
    assert queue.take() is not None
    queue.put([entry(2, alone=True), entry(3, run=2)])
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiter.start()

    queue.drop_run(1)
    waiter.join(5)

    (other,) = taken
    assert other.ready.task.id == 3


def test_nothing_is_lent_while_one_waits_to_run_alone():
    queue = queue_with(entry(1))
    first = queue.take()
    assert first is not None
    assert queue.lend(first)
    queue.put([entry(2, alone=True)])
    assert not queue.lend(first)
    assert queue.recalled(first)


def test_whoever_waits_for_what_was_lent_takes_it_when_it_is_given_back():
    queue = TaskQueue(SystemClock(), connections_per_origin=2)
    queue.add_run(1, Priority.NORMAL, None)
    queue.put([entry(1)])
    first = queue.take()
    assert first is not None
    assert queue.lend(first)
    queue.put([entry(2)])
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiter.start()
    assert queue.recalled(first)

    queue.give_back(first, 1)
    waiter.join(5)

    (other,) = taken
    assert other.ready.task.id == 2
