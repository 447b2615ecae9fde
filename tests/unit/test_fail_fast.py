"""The first failure ends the rest of a run, if the job says so: an engine by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd.events import TasksSkipped
from fetchd.listeners import Stats
from fetchd.model import (
    Batch,
    Expand,
    Expanded,
    Failure,
    Fetched,
    Finish,
    Finished,
    Interrupted,
    ListFile,
    Progress,
    Retry,
    RunEnd,
    RunState,
    Staged,
    StepSpec,
    Submit,
    TaskGroup,
)
from fetchd.stores import SqliteStore
from harness import QUICK, EngineByHand, StepClock, group, intent_for, job, spec

BROKEN = Failure(code="bad_status", reason="404", transient=False)
NOT_NOW = Failure(code="stalled", reason="slow", transient=True)


def failing_fast(name: str, *groups: TaskGroup, **more):
    return replace(job(name, *groups, **more), fail_fast=True)


@pytest.fixture
def hand():
    made = EngineByHand(clock=StepClock())
    yield made
    made.close()


def files(hand: EngineByHand, run: int = 1) -> dict[str, str]:
    return {f.path: f.detail or f.state.value for f in hand.store.files(run)}


def state(hand: EngineByHand) -> RunState:
    hand.calm()
    return hand.store.run_view(1).state


def test_the_first_failure_ends_all_that_has_not_begun_and_stops_what_has(hand):
    later = group("later", spec("d"), needs=("a",))
    hand.submit(
        failing_fast("j", group("a", spec("a"), spec("b"), spec("c")), later, concurrency=2)
    )
    broken, under_way = hand.fetch(), hand.fetch()
    wanted = hand.engine.report(under_way, Progress())
    hand.settle(broken, BROKEN)
    still = hand.engine.report(under_way, Progress()), hand.engine.lend(under_way)
    open_ = state(hand)
    hand.settle(under_way, Interrupted())

    assert (wanted, still, open_) == (True, (False, False), RunState.RUNNING)
    assert files(hand) == {"a": "bad_status", "b": "fail_fast", "c": "fail_fast", "d": "fail_fast"}
    assert (state(hand), hand.fetch(), hand.engine.idle()) == (RunState.FAILED, None, True)
    told = sum(e.count for e in hand.events if isinstance(e, TasksSkipped))
    assert told == 3


def test_totals_add_up_behind_a_failure_that_ends_the_rest(hand):
    stats = Stats(hand.clock)
    hand.submit(failing_fast("j", group("a", *(spec(str(n)) for n in range(9))), concurrency=3))
    attempts = [hand.fetch() for _ in range(3)]
    hand.settle(attempts[0], BROKEN)
    for attempt in attempts[1:]:
        hand.settle(attempt, Interrupted())
    for event in hand.events:
        stats(event)
    totals = stats.snapshot()

    counts = hand.store.run_view(1).tasks
    assert (counts.failed, counts.skipped, counts.open) == (1, 8, 0)
    assert (totals["tasks_failed"], totals["tasks_skipped"]) == (1, 8)
    assert (totals["queued"], totals["running"]) == (0, 0)


def test_what_is_verified_is_published(hand):
    hand.submit(failing_fast("j", group("a", spec("a"), spec("b"))))
    broken, verified = hand.fetch(), hand.fetch()
    hand.settle(verified, Fetched(intent=intent_for(verified)))
    hand.settle(broken, BROKEN)
    hand.publish_all()

    assert files(hand) == {"a": "bad_status", "b": "downloaded"}
    assert state(hand) is RunState.FAILED


def test_what_is_verified_and_cannot_be_published_is_not_fetched_again(hand):
    hand.submit(failing_fast("j", group("a", spec("a"), spec("b"), retry=QUICK)))
    broken, verified = hand.fetch(), hand.fetch()
    hand.settle(verified, Fetched(intent=intent_for(verified)))
    hand.settle(broken, BROKEN)
    (publication,) = hand.publish()
    hand.settle(publication, Failure(code="disk_error", reason="gone", transient=True))

    assert files(hand) == {"a": "bad_status", "b": "fail_fast"}
    assert (state(hand), hand.engine.idle()) == (RunState.FAILED, True)


def test_a_failure_that_may_be_or_is_tried_again_ends_nothing(hand):
    may = replace(group("may", spec("a")), may_fail=True)
    hand.submit(failing_fast("j", may, group("b", spec("b"), retry=QUICK)))
    hand.settle(hand.fetch(), BROKEN)
    hand.settle(hand.fetch(), NOT_NOW)
    hand.clock.advance(100)

    assert hand.run_all() == ["b"]
    assert state(hand) is RunState.PARTIAL


def test_without_the_key_a_failure_ends_nothing(hand):
    hand.submit(job("j", group("a", spec("a"), spec("b"))))
    hand.settle(hand.fetch(), BROKEN)

    assert hand.run_all() == ["b"]


def test_a_list_is_read_no_more_until_a_retry(hand):
    listed = TaskGroup(name="list", items=ListFile(path="/l.urls"))
    hand.submit(failing_fast("j", group("a", spec("a"), retry=QUICK), listed))
    reading, attempt = hand.engine.take(Expand, 1)[0], hand.fetch()
    hand.settle(attempt, BROKEN)
    more = Expanded(batch=Batch(specs=(spec("l"),), position=None))
    hand.settle(reading, more)
    first = state(hand), files(hand)
    hand.engine.obey(Retry(job="j"))
    hand.calm()
    (again,) = hand.engine.take(Expand, 1)
    hand.settle(again, more)

    assert first == (RunState.FAILED, {"a": "bad_status"})
    assert sorted(hand.run_all()) == ["a", "l"]
    assert state(hand) is RunState.SUCCEEDED


def test_a_retry_takes_failed_and_skipped_ones_again(hand):
    hand.submit(
        failing_fast("j", group("a", spec("a"), spec("b")), group("c", spec("c"), needs=("a",)))
    )
    hand.settle(hand.fetch(), BROKEN)
    hand.engine.obey(Retry(job="j"))

    assert sorted(hand.run_all()) == ["a", "b", "c"]
    assert state(hand) is RunState.SUCCEEDED


def test_parts_of_what_was_left_are_kept_as_those_of_failures_are(hand):
    hand.submit(failing_fast("j", group("a", spec("a"), spec("b"))))
    broken, under_way = hand.fetch(), hand.fetch()
    hand.settle(broken, BROKEN)
    hand.settle(under_way, Interrupted())

    assert hand.engine.needs_part("default", "b", 3600.0)


def test_what_a_failure_asks_for_is_done_behind_that(hand):
    end = TaskGroup(
        name="on_failure",
        items=(),
        steps=(StepSpec(name="webhook", options={"webhook": "x"}),),
        end=RunEnd.ON_FAILURE,
    )
    hand.submit(failing_fast("j", group("a", spec("a"), spec("b")), end))
    hand.settle(hand.fetch(), BROKEN)
    assert hand.fetch() is None
    hand.calm()
    (attempt,) = hand.engine.take(Finish, 1)
    hand.settle(attempt, Finished(staged=Staged(files=0, bytes=0)))

    assert attempt.group.name == "on_failure"
    assert state(hand) is RunState.FAILED


def test_what_was_bad_from_the_start_ends_the_rest(hand):
    bad = spec("bad", problem=("bad_item", "why"))
    hand.submit(failing_fast("j", group("a", bad, spec("b"))))

    assert (hand.fetch(), state(hand)) == (None, RunState.FAILED)
    assert files(hand) == {"bad": "bad_item", "b": "fail_fast"}


@pytest.mark.parametrize("poison", [False, True])
def test_the_next_life_knows_that_the_run_is_failing(tmp_path, poison):
    clock = StepClock()

    def life() -> EngineByHand:
        store = SqliteStore(str(tmp_path / "db"), clock, lambda error: None)
        return EngineByHand(store=store, clock=clock, poison=1 if poison else 3)

    hand = life()
    hand.submit(failing_fast("j", group("a", spec("a"), spec("b"), spec("c"))))
    first, second = hand.fetch(), hand.fetch()
    if not poison:
        hand.settle(first, BROKEN)
        hand.calm()
    assert second is not None
    hand.close()
    for _ in range(3 if poison else 1):
        hand = life()
        hand.engine.recover({})
        attempt = hand.fetch()
        hand.calm()
        ended = hand.engine.idle()
        hand.close()
        if ended:
            break

    hand = life()
    assert ended
    assert attempt is None
    expected = "poison" if poison else "bad_status"
    assert sorted(files(hand).values()) == sorted([expected, "fail_fast", "fail_fast"])
    assert hand.store.run_view(1).state is RunState.FAILED
    hand.close()


def test_an_edit_holds_only_from_the_run_behind_one_that_is_failing(hand):
    def kept(revision, *groups):
        return replace(failing_fast("j", *groups, revision=revision), keep=True)

    hand.submit(kept("r1", group("a", spec("a"), spec("b"))), file="j.yaml")
    broken, under_way = hand.fetch(), hand.fetch()
    hand.settle(broken, BROKEN)
    submit = Submit(job=kept("r2", group("a", spec("c"))), raw=b"", file="j.yaml")
    answer = hand.engine.obey(submit)
    hand.settle(under_way, Interrupted())

    assert (answer.done, answer.later) == (False, True)
    assert state(hand) is RunState.FAILED


def test_what_is_being_added_when_the_run_fails_is_skipped_too(hand, monkeypatch):
    listed = TaskGroup(name="list", items=ListFile(path="/l.urls"))
    hand.submit(failing_fast("j", group("a", spec("a"), retry=QUICK), listed))
    reading, attempt = hand.engine.take(Expand, 1)[0], hand.fetch()
    append, calls = hand.store.append_tasks, []
    monkeypatch.setattr(hand.store, "append_tasks", lambda *args: calls.append(args))
    hand.settle(reading, Expanded(batch=Batch(specs=(spec("l"), spec("m")), position=None)))
    hand.settle(attempt, BROKEN)
    open_ = state(hand)
    append(*calls[0])

    assert (open_, state(hand)) == (RunState.RUNNING, RunState.FAILED)
    assert files(hand) == {"a": "bad_status", "l": "fail_fast", "m": "fail_fast"}


def test_a_failing_run_waits_for_nothing_but_what_is_under_way(hand):
    tasks = (spec("a"), spec("b"), spec("c"))
    hand.submit(failing_fast("j", group("a", *tasks, retry=QUICK)))
    under_way, waits, broken = hand.fetch(), hand.fetch(), hand.fetch()
    hand.settle(waits, NOT_NOW)
    before = hand.engine.view().runs[0].waiting
    hand.settle(broken, BROKEN)
    (run,) = hand.engine.view().runs

    assert (before, run.waiting) == ({"retry": 1}, {})
    assert len(hand.engine._queue) == 0
    hand.settle(under_way, Interrupted())
    assert hand.engine.idle()


def test_what_was_running_when_steps_proved_poison_is_skipped(tmp_path):
    clock = StepClock()
    with_steps = replace(group("a", spec("a")), steps=(StepSpec(name="mode"),))

    def life() -> EngineByHand:
        store = SqliteStore(str(tmp_path / "db"), clock, lambda error: None)
        return EngineByHand(store=store, clock=clock, poison=1)

    hand = life()
    hand.submit(failing_fast("j", with_steps, group("b", spec("b"))))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    hand.engine.take(Finish, 1)
    hand.calm()
    hand.close()
    hand = life()
    hand.engine.recover({})
    hand.engine.take(Finish, 1)
    assert hand.fetch().task.spec.path == "b"
    hand.calm()
    hand.close()

    hand = life()
    hand.engine.recover({})
    assert files(hand) == {"a": "poison", "b": "fail_fast"}
    assert (state(hand), hand.engine.idle()) == (RunState.FAILED, True)
    hand.close()
