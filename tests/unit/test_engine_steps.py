"""The engine by hand: tasks with steps pass fetch, finish, publish."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from fetchd import events
from fetchd.engine.decisions import DISK_DELAY_S, MOST_PUBLISH_FAILURES
from fetchd.model import (
    Cancel,
    Failure,
    Fetched,
    Finish,
    Finished,
    Interrupted,
    Pause,
    Progress,
    Resume,
    RunState,
    Staged,
    StepSpec,
)
from fetchd.stores import SqliteStore
from harness import QUICK, EngineByHand, FakeClock, group, intent_for, job, spec

STEPS = (StepSpec(name="mode", options={"mode": 0o640}),)
STAGED = Staged(files=3, bytes=99)
STEP_FAILED = Failure(code="step_failed", reason="no", transient=False, kept=True)


def with_steps(*paths: str, **rules):
    made = group("g", *map(spec, paths), retry=QUICK, **rules)
    return job("j", replace(made, steps=STEPS))


@pytest.fixture
def hand():
    made = EngineByHand()
    yield made
    made.close()


def fetch_all(hand: EngineByHand) -> None:
    while (attempt := hand.fetch()) is not None:
        hand.settle(attempt, Fetched(intent=intent_for(attempt)))


def finish(hand: EngineByHand) -> Finish | None:
    hand.calm()
    if not len(hand.engine._to_finish):
        return None
    (attempt,) = hand.engine.take(Finish, 1)
    return attempt


def finish_unless_it_rests(hand: EngineByHand) -> Finish | None:
    """As ``finish``, where what lies on the desk may not be begun."""
    hand.calm()
    desk = hand.engine._to_finish
    take = desk.take
    with patch.object(desk, "take", lambda most: take(most) if len(desk) else []):
        return next(iter(hand.engine.take(Finish, 1)), None)


def run_state(hand: EngineByHand) -> RunState:
    return hand.store.run_view(1).state


def test_a_verified_file_is_published_only_after_its_steps(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)

    assert hand.publish() == []
    attempt = finish(hand)
    assert attempt.group.steps == STEPS
    assert not attempt.recovered
    hand.settle(attempt, Finished(staged=STAGED))
    (publication,) = hand.publish()
    assert publication.intent.staged == STAGED
    hand.engine.settle([])


def test_what_steps_have_made_is_in_the_report_of_the_file(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)
    hand.settle(finish(hand), Finished(staged=STAGED))
    hand.publish_all()

    (file,) = hand.store.files(1)
    assert (file.detail, file.size_bytes, file.staged) == ("downloaded", 10, STAGED)
    assert run_state(hand) is RunState.SUCCEEDED


def test_a_file_without_steps_goes_straight_to_the_publisher(hand):
    hand.submit(job("j", group("g", spec("a"))))
    fetch_all(hand)

    assert finish(hand) is None
    assert len(hand.publish()) == 1


def test_steps_under_way_are_shown_and_counted_as_no_transfer(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)
    attempt = finish(hand)

    assert hand.engine.report(attempt, Progress(received_bytes=5, step="mode"))

    (shown,) = hand.engine.view().transfers
    assert (shown.path, shown.progress.step) == ("a", "mode")
    assert not [e for e in hand.events if isinstance(e, events.TaskProgressed)]


def test_a_step_that_fails_for_good_fails_the_task(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)
    hand.settle(finish(hand), STEP_FAILED)

    assert hand.fetch() is None
    (file,) = hand.store.files(1)
    assert (file.detail, file.reason) == ("step_failed", "no")
    assert run_state(hand) is RunState.FAILED


def test_a_step_that_fails_at_one_mirror_is_taken_on_the_file_of_the_next(hand):
    made = group("g", spec("a", "http://one.example/a", "http://two.example/a"), retry=QUICK)
    hand.submit(job("j", replace(made, steps=STEPS)))
    first = hand.fetch()
    hand.settle(first, Fetched(intent=intent_for(first)))
    hand.settle(finish(hand), STEP_FAILED)

    assert hand.fetch().source != first.source


def test_steps_that_find_the_disk_full_are_taken_again_on_the_same_part(hand):
    full = Failure(code="disk_full", reason="full", transient=True, kept=True)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    for _ in range(MOST_PUBLISH_FAILURES + 2):
        hand.settle(finish(hand), full)
        hand.engine.tick()
        assert finish(hand) is None
        hand.clock.advance(DISK_DELAY_S + 1)
        hand.engine.tick()

    hand.settle(finish(hand), Finished(staged=STAGED))
    hand.publish_all()
    assert run_state(hand) is RunState.SUCCEEDED
    assert hand.fetch() is None


def test_what_the_steps_of_a_task_have_made_is_swept_when_it_is_given_up(hand):
    unheard = Failure(code="webhook_failed", reason="no answer", transient=True, kept=True)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    due = []
    for _ in range(MOST_PUBLISH_FAILURES + 1):
        due.append(hand.engine.sweep_due())
        hand.settle(finish(hand), unheard)
        hand.clock.advance(100)
        hand.engine.tick()

    assert run_state(hand) is RunState.FAILED
    assert (due, hand.engine.sweep_due()) == ([False] * (MOST_PUBLISH_FAILURES + 1), True)


def test_steps_whose_part_is_gone_have_it_fetched_again(hand):
    gone = Failure(code="disk_error", reason="gone", transient=True)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    hand.settle(finish(hand), gone)
    hand.clock.advance(100)

    assert hand.fetch() is not None


def test_a_cancelled_run_wants_its_steps_no_more_and_publishes_nothing(hand):
    hand.submit(with_steps("a", "b"))
    fetch_all(hand)
    under_way = finish(hand)
    hand.engine.obey(Cancel(job="j"))

    assert not hand.engine.report(under_way, Progress())
    hand.settle(under_way, Interrupted())
    waiting = finish(hand)
    assert not hand.engine.report(waiting, Progress())
    hand.settle(waiting, Finished(staged=STAGED))  # it was too late to hear of it

    assert hand.publish() == []
    assert run_state(hand) is RunState.CANCELLED
    assert hand.engine.idle()
    assert hand.engine.sweep_due()


def test_steps_that_have_begun_end_while_their_run_is_paused_and_the_others_wait(hand):
    hand.submit(with_steps("a", "b"))
    fetch_all(hand)
    begun = finish(hand)
    hand.engine.obey(Pause(job="j"))
    wanted = hand.engine.report(begun, Progress(step="mode"))
    hand.settle(begun, Finished(staged=STAGED))
    hand.publish_all()
    early = [finish_unless_it_rests(hand) for _ in range(2)]
    hand.engine.tick()
    still = finish_unless_it_rests(hand)
    hand.engine.obey(Resume(job="j"))
    hand.engine.tick()

    assert wanted
    assert (early, still) == ([None, None], None)
    assert {f.path: f.state for f in hand.store.files(1)} == {"a": "succeeded", "b": "publishing"}
    hand.settle(finish(hand), Finished(staged=STAGED))
    hand.publish_all()
    assert run_state(hand) is RunState.SUCCEEDED
    assert hand.engine.idle()


def test_the_status_says_that_steps_wait_for_a_thread_or_for_their_run(hand):
    hand.submit(with_steps("a", "b", "c"))
    fetch_all(hand)

    def waiting():
        hand.calm()
        return dict(hand.engine.view().runs[-1].waiting)

    for_a_thread = waiting()
    first = finish(hand)
    under_way = waiting()
    hand.engine.obey(Pause(job="j"))
    finish_unless_it_rests(hand)
    paused = waiting()
    hand.settle(first, Finished(staged=STAGED))
    hand.publish_all()
    hand.engine.obey(Resume(job="j"))
    hand.engine.tick()
    resumed = waiting()
    second, third = finish(hand), finish(hand)
    hand.engine.obey(Pause(job="j"))
    nothing_waits = waiting()

    assert (for_a_thread, under_way) == ({"steps": 3}, {"steps": 2})
    assert (paused, resumed, nothing_waits) == ({"paused": 2}, {"steps": 2}, {})
    assert {second.task.spec.path, third.task.spec.path} == {"b", "c"}


def test_a_paused_run_whose_steps_wait_can_be_cancelled(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)
    hand.engine.obey(Pause(job="j"))
    waits = finish_unless_it_rests(hand)
    hand.engine.obey(Cancel(job="j"))
    hand.engine.tick()
    attempt = finish(hand)

    assert waits is None
    assert not hand.engine.report(attempt, Progress())
    hand.settle(attempt, Interrupted())
    assert run_state(hand) is RunState.CANCELLED
    assert hand.engine.idle()


def test_what_steps_have_made_is_published_in_a_paused_run_after_a_crash(tmp_path):
    path = str(tmp_path / "db")
    first = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None))
    first.submit(with_steps("a"))
    fetch_all(first)
    attempt = finish(first)
    first.engine.obey(Pause(job="j"))
    first.settle(attempt, Finished(staged=STAGED))
    first.close()

    second = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None))
    second.engine.recover({})
    second.settle(finish(second), Finished(staged=STAGED))
    second.publish_all()
    assert run_state(second) is RunState.SUCCEEDED
    second.close()


def test_a_crash_is_charged_once_to_steps_that_wait_in_a_paused_run_from_then_on(tmp_path):
    path = str(tmp_path / "db")
    hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=1)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    assert finish(hand) is not None
    hand.engine.obey(Pause(job="j"))
    for _ in range(3):
        hand.close()  # nothing was settled
        hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=1)
        hand.engine.recover({})
        assert finish_unless_it_rests(hand) is None

    hand.engine.obey(Resume(job="j"))
    hand.engine.tick()
    attempt = finish(hand)
    assert attempt.task.history.crashes == 1
    hand.close()


def test_steps_that_were_interrupted_without_a_stop_are_taken_again(hand):
    hand.submit(with_steps("a"))
    fetch_all(hand)
    first = finish(hand)
    hand.settle(first, Interrupted())
    hand.engine.tick()
    again = finish(hand)
    hand.settle(again, Finished(staged=STAGED))
    hand.publish_all()

    assert again.fence != first.fence
    assert again.failures == 0
    assert run_state(hand) is RunState.SUCCEEDED


def test_a_stop_leaves_steps_to_the_next_life(tmp_path):
    path = str(tmp_path / "db")
    first = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None))
    first.submit(with_steps("a", "b"))
    fetch_all(first)
    under_way = finish(first)
    first.engine.stop()
    assert not first.engine.report(under_way, Progress())
    first.settle(under_way, Interrupted())
    assert first.engine.take(Finish, 1) == ()
    first.close()

    second = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None))
    assert second.engine.recover({}) == (1, 0, 2)
    assert second.fetch() is None
    again = [finish(second), finish(second)]
    assert [attempt.recovered for attempt in again] == [True, True]
    assert [attempt.task.history.crashes for attempt in again] == [0, 0]
    for attempt in again:
        second.settle(attempt, Finished(staged=STAGED))
    publications = second.publish()
    assert [one.recovered for one in publications] == [True, True]
    second.close()


@pytest.mark.parametrize(("begun", "state"), [(True, "failed"), (False, "publishing")])
def test_only_steps_that_were_under_way_at_each_crash_are_poison(tmp_path, begun, state):
    path = str(tmp_path / "db")
    hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=2)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    for _ in range(4):
        if begun:
            assert finish(hand) is not None
        hand.close()  # nothing was settled
        hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=2)
        hand.engine.recover({})
        hand.calm()

    (file,) = hand.store.files(1)
    assert file.state == state
    assert file.detail == ("poison" if begun else "")
    hand.close()


def test_a_crash_while_what_steps_have_made_is_published_is_charged_to_nobody(tmp_path):
    path = str(tmp_path / "db")
    hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=1)
    hand.submit(with_steps("a"))
    fetch_all(hand)
    hand.settle(finish(hand), Finished(staged=STAGED))
    for _ in range(3):
        hand.close()
        hand = EngineByHand(store=SqliteStore(path, FakeClock(), lambda _: None), poison=1)
        hand.engine.recover({})

    attempt = finish(hand)
    assert attempt.intent.staged == STAGED
    hand.settle(attempt, Finished(staged=STAGED))
    hand.publish_all()
    assert run_state(hand) is RunState.SUCCEEDED
    hand.close()
