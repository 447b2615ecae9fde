"""A wall clock that is set, by years or each second, changes no wait, back-off, limit or order."""

from __future__ import annotations

import pytest

from fetchd.clock import SteadyWall
from fetchd.engine import retry
from fetchd.events import RunEnded, TaskFailed
from fetchd.model import Failure, History, RetryPolicy
from fetchd.stores import SqliteStore
from harness import EngineByHand, FakeClock, NoJitter, group, job, spec

YEARS_S = 5 * 365 * 86400.0
#: What the wall clock does: now and then a jump, or another step each second.
JUMPS = [
    pytest.param([YEARS_S], id="C11-forward-5-years"),
    pytest.param([-YEARS_S], id="C11-back-5-years"),
    pytest.param([1.0, -2.0, 3.0, -7.0, 86400.0, -90000.0], id="C11-stepping"),
]
PATIENT = RetryPolicy(
    attempts=100, delay_s=2.0, max_delay_s=8.0, give_up_after_s=60.0, max_retry_after_s=30.0
)


class Hand(EngineByHand):
    """An engine by hand whose wall clock is set behind each second that passes."""

    def live(self, seconds: int, jumps: list[float]) -> None:
        for second in range(seconds):
            self.clock.advance(1.0)
            self.clock.set_wall(jumps[second % len(jumps)] if second < 10 else 0.0)
            self.engine.tick()

    def fail(self, code: str = "stalled", *, transient: bool = True, **more) -> None:
        attempt = self.fetch()
        assert attempt is not None
        self.settle(attempt, Failure(code=code, reason="", transient=transient, **more))


@pytest.fixture
def hand():
    made = Hand()
    yield made
    made.close()


def test_c11_the_steady_wall_goes_on_evenly_and_knows_how_far_it_is_behind():
    clock = FakeClock(wall_s=1000.0)
    steady = SteadyWall(clock)

    clock.advance(5.0)
    clock.set_wall(-300.0)
    clock.advance(5.0)

    assert (steady.now_s(), steady.behind_s()) == (1010.0, -300.0)


@pytest.mark.parametrize("jumps", JUMPS)
def test_p15_a_backoff_lasts_as_long_as_it_should(hand, jumps):
    hand.submit(job("a", group("a", spec("f"), retry=PATIENT)))
    hand.fail()
    hand.live(1, jumps)
    early = hand.fetch()
    due_at_s = hand.engine.view().runs[0].next_due_at_s
    wall_s = hand.clock.wall()
    hand.live(2, jumps)

    assert early is None
    assert due_at_s == pytest.approx(wall_s + 1.0)  # as the reader's clock has it
    assert hand.fetch() is not None


@pytest.mark.parametrize("jumps", JUMPS)
def test_p15_a_task_is_given_up_after_its_time_and_not_before(hand, jumps):
    hand.submit(job("a", group("a", spec("f"), retry=PATIENT)))
    ages = []
    for age_s in range(0, 100, 9):  # longer than the longest delay
        if hand.engine.idle():
            break
        hand.fail()
        ages.append(age_s)
        hand.live(9, jumps)

    (failed,) = [event for event in hand.events if isinstance(event, TaskFailed)]
    assert failed.code == "stalled"
    assert ages[-1] == 54  # + 8 s > 60 s


@pytest.mark.parametrize("jumps", JUMPS)
def test_p15_a_file_that_is_not_there_yet_is_waited_for_as_long_as_was_asked(hand, jumps):
    policy = RetryPolicy(attempts=1, delay_s=2.0, max_delay_s=10.0, wait_for_s=60.0)
    hand.submit(job("a", group("a", spec("f"), retry=policy)))
    for age_s in range(0, 200, 10):
        if hand.engine.idle():
            break
        hand.fail("bad_status", status=404, transient=False)
        last_s = age_s
        hand.live(10, jumps)

    assert last_s == 60


@pytest.mark.parametrize("jumps", JUMPS)
def test_p15_the_order_stays_and_a_run_does_not_end_before_it_began(hand, jumps):
    for name in "abc":
        hand.submit(job(name, group("g", spec(f"{name}1"), spec(f"{name}2"))))
        hand.live(1, jumps)

    assert hand.run_all() == ["a1", "b1", "c1", "a2", "b2", "c2"]
    assert all(e.elapsed_s >= 0 for e in hand.events if isinstance(e, RunEnded))


def test_p15_a_life_whose_clock_was_set_back_waits_anew_and_not_for_years():
    policy = RetryPolicy(
        attempts=100, delay_s=2.0, max_delay_s=8.0, give_up_after_s=60.0, wait_for_s=60.0
    )
    old = History(source=0, first_failed_at_s=YEARS_S, not_yet_at_s=YEARS_S)
    stalled = Failure(code="stalled", reason="", transient=True)
    missing = Failure(code="bad_status", reason="", transient=False, status=404)

    charged, waits = (
        retry.decide(failure, old, policy, sources=1, now_s=7.0, random=NoJitter())
        for failure in (stalled, missing)
    )

    assert charged.history.first_failed_at_s == 7.0
    assert waits.history.not_yet_at_s == 7.0


@pytest.mark.parametrize("room", ["in the queue", "in the store alone"])
def test_p15_a_clock_that_was_set_back_between_two_lives_makes_no_wait_of_years(
    tmp_path, monkeypatch, room
):
    if room == "in the store alone":
        monkeypatch.setattr("fetchd.engine.runs.MOST_WAITING", 0)
    clock = FakeClock()
    path = str(tmp_path / "state.db")
    first = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    first.submit(job("a", group("a", spec("f"), retry=PATIENT)))
    first.fail(retry_after_s=20.0)
    first.close()

    clock.set_wall(-YEARS_S)
    second = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    second.engine.recover({})
    second.live(35, [0.0])
    attempt = second.fetch()

    assert attempt is not None
    second.close()
