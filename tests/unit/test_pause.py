"""Jobs that are paused and resumed: an engine by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd.events import RunHeld, RunReleased
from fetchd.model import Cancel, Failure, Interrupted, Pause, Progress, Resume, Retry, RunState
from fetchd.ports import RunFiled
from fetchd.stores import SqliteStore
from harness import EngineByHand, StepClock, group, job, spec


class Hand(EngineByHand):
    def __init__(self, path=None, clock=None):
        clock = clock or StepClock()
        super().__init__(store=SqliteStore(path, clock, lambda _: None), clock=clock)
        self.engine.recover({})

    def say(self, command):
        answer = self.engine.obey(command)
        self.calm()
        return answer

    def state(self) -> RunState:
        return self.engine.view().runs[-1].state


@pytest.fixture
def hand():
    made = Hand()
    yield made
    made.close()


def test_a_paused_run_starts_nothing_stops_what_is_under_way_and_goes_on_when_it_is_resumed(hand):
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    attempt = hand.fetch()
    answer = hand.say(Pause(job="a"))
    wanted = hand.engine.report(attempt, Progress())
    hand.settle(attempt, Interrupted())
    nothing, view = hand.fetch(), hand.engine.view().runs[-1]
    hand.say(Resume(job="a"))
    resumed = hand.state()

    assert (answer.done, answer.run, wanted, nothing) == (True, 1, False, None)
    assert (view.state, view.waiting, view.next_due_at_s) == (
        RunState.PAUSED,
        {"paused": 2},
        None,
    )
    assert resumed is RunState.RUNNING
    assert sorted(hand.run_all()) == ["f", "g"]
    assert hand.store.run_view(1).state is RunState.SUCCEEDED
    kinds = [type(event) for event in hand.events if isinstance(event, RunHeld | RunReleased)]
    assert kinds == [RunHeld, RunReleased]


def test_other_jobs_go_on(hand):
    hand.submit(job("a", group("a", spec("f"))))
    hand.submit(job("b", group("b", spec("g"))))
    hand.say(Pause(job="a"))

    assert hand.run_all() == ["g"]


@pytest.mark.parametrize("started", [False, True])
def test_a_pause_outlives_a_crash_and_so_does_its_end(tmp_path, started):
    clock, path = StepClock(), str(tmp_path / "s.db")
    first = Hand(path, clock)
    first.submit(job("a", group("a", spec("f"))))
    if started:
        first.fetch()
    first.say(Pause(job="a"))
    on_record = first.store.run_view(1).state
    first.close()
    second = Hand(path, clock)
    nothing, state = second.fetch(), second.state()
    second.say(Resume(job="a"))
    second.close()
    third = Hand(path, clock)
    resumed = third.state()

    assert (on_record, nothing, state) == (RunState.PAUSED, None, RunState.PAUSED)
    assert resumed is (RunState.RUNNING if started else RunState.QUEUED)
    assert third.run_all() == ["f"]
    third.close()


def test_a_paused_run_can_be_cancelled(hand):
    hand.submit(job("a", group("a", spec("f"))))
    hand.say(Pause(job="a"))
    answer = hand.say(Cancel(job="a"))

    assert answer.done
    assert hand.store.run_view(1).state is RunState.CANCELLED
    assert hand.engine.idle()


def test_who_pauses_what_is_paused_or_not_there_is_told(hand):
    hand.submit(job("a", group("a", spec("f"))))

    assert hand.say(Pause(job="b")).reason == "no run of job 'b' is on"
    assert hand.say(Resume(job="a")).reason == "job 'a' is not paused"
    assert hand.say(Pause(job="a")).done
    assert hand.say(Pause(job="a")).reason == "job 'a' is paused already"


def test_what_an_edit_or_a_retry_makes_of_a_paused_job_is_paused(hand):
    made = replace(job("a", group("a", spec("f")), revision="r1"), keep=True)
    hand.submit(made, file="a.yaml")
    hand.say(Pause(job="a"))
    more = replace(job("a", group("a", spec("f"), spec("g")), revision="r2"), keep=True)
    hand.submit(more, file="a.yaml")
    edited = hand.fetch(), hand.state()
    hand.say(Resume(job="a"))
    for _ in "fg":
        hand.settle(hand.fetch(), Failure(code="not_found", reason="", transient=False))
    hand.store.record([RunFiled(run=1)])
    hand.say(Pause(job="a"))
    hand.say(Retry(job="a"))
    retried = hand.fetch(), hand.state()
    hand.say(Resume(job="a"))

    assert edited == retried == (None, RunState.PAUSED)
    assert sorted(hand.run_all()) == ["f", "g"]
