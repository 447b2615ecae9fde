"""Tasks that fetch nothing, and what is done at the end of a run: an engine by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd import events
from fetchd.engine.graph import is_due
from fetchd.model import (
    Cancel,
    Failure,
    Fetched,
    Finish,
    Finished,
    Pause,
    Published,
    Resume,
    Retry,
    RunEnd,
    RunState,
    Staged,
    StepSpec,
    TaskGroup,
    TaskState,
)
from fetchd.stores import SqliteStore
from fetchd.urls import HERE
from harness import QUICK, EngineByHand, StepClock, group, intent_for, job, spec

STEPS = (StepSpec(name="checksum_file"),)
RUN_STEPS = (StepSpec(name="run", options={"command": "it", "args": None}),)
NOTHING = Staged(files=0, bytes=0)
BROKEN = Failure(code="bad_status", reason="404", transient=False)
NO_COMMAND = Failure(code="command_failed", reason="no", transient=False, kept=True)
NOT_HEARD = Failure(code="webhook_failed", reason="no", transient=True, kept=True)


def gathering(name: str, *needs: str) -> TaskGroup:
    made = group(name, spec(f"./{name}", HERE), needs=needs, retry=QUICK)
    return replace(made, steps=STEPS, gathers=True)


def at_the_end(*ends: RunEnd) -> list[TaskGroup]:
    return [TaskGroup(name=end, items=(), steps=RUN_STEPS, end=end) for end in ends]


BOTH = at_the_end(RunEnd.ON_SUCCESS, RunEnd.ON_FAILURE)


class Hand(EngineByHand):
    """``last``: what is done at the end of a run, as it was begun last."""

    last: Finish | None = None


@pytest.fixture
def hand():
    made = Hand(clock=StepClock())
    yield made
    made.close()


def serve(hand: Hand) -> None:
    """Let a fetcher look for work, where all that there is fetches nothing."""
    assert hand.fetch() is None
    hand.calm()


def finish(hand: Hand) -> Finish | None:
    hand.calm()
    if not len(hand.engine._to_finish):
        return None
    (attempt,) = hand.engine.take(Finish, 1)
    return attempt


def end_under_way(hand: Hand) -> str:
    """Begin what is done at the end of the run; returns which it is."""
    serve(hand)
    attempt = finish(hand)
    hand.last = attempt
    return "" if attempt is None else attempt.group.name


def files(hand: Hand, run: int = 1) -> dict[str, tuple[str, str]]:
    return {file.path: (file.state.value, file.detail) for file in hand.store.files(run)}


def state(hand: Hand) -> RunState:
    hand.calm()
    return hand.store.run_view(1).state


# ---------------------------------------------------------------- tasks that fetch nothing


def test_a_task_without_url_passes_from_the_queue_to_its_steps_when_its_needs_are_met(hand):
    hand.submit(job("j", group("a", spec("a")), gathering("list", "a")))
    hand.run_all()
    attempt = finish(hand)

    assert (attempt.group.name, attempt.intent.part, attempt.recovered) == ("list", "", False)
    assert hand.engine.view().transfers[0].path == "./list"
    hand.settle(attempt, Finished(staged=Staged(files=1, bytes=9)))
    hand.publish_all()

    assert files(hand) == {"a": ("succeeded", "downloaded"), "./list": ("succeeded", "made")}
    assert (state(hand), hand.store.run_view(1).bytes) == (RunState.SUCCEEDED, 10)
    made = list(hand.store.files(1))[1]
    assert (made.size_bytes, made.verified, made.staged) == (None, None, Staged(files=1, bytes=9))
    assert hand.engine.idle()


def test_a_task_without_url_takes_no_connection_of_anybody(hand):
    hand.submit(job("j", gathering("one"), gathering("two"), concurrency=1))
    serve(hand)

    assert {finish(hand).group.name, finish(hand).group.name} == {"one", "two"}


def test_a_task_without_url_and_steps_goes_straight_to_the_publisher(hand):
    hand.submit(job("j", replace(gathering("swap"), steps=())))
    serve(hand)
    (publication,) = hand.publish()

    assert (publication.group.name, publication.intent.part) == ("swap", "")
    assert finish(hand) is None
    hand.settle(publication, Published(intent=publication.intent, mtime_ns=0, inode=0))
    assert state(hand) is RunState.SUCCEEDED


def test_a_paused_run_begins_none_of_it_until_it_goes_on(hand):
    hand.submit(job("j", group("a", spec("a")), gathering("list", "a")))
    attempt = hand.fetch()
    hand.engine.obey(Pause(job="j"))
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    hand.publish_all()
    serve(hand)
    early = finish(hand)
    hand.engine.obey(Resume(job="j"))
    serve(hand)

    assert early is None
    assert finish(hand).group.name == "list"


def test_a_cancelled_run_takes_no_steps_of_it(hand):
    hand.submit(job("j", group("a", spec("a")), gathering("list", "a")))
    hand.run_all()
    attempt = finish(hand)
    hand.engine.obey(Cancel(job="j"))
    hand.settle(attempt, Finished(staged=NOTHING))

    assert hand.publish() == []
    assert files(hand)["./list"] == ("cancelled", "")
    assert state(hand) is RunState.CANCELLED


def test_steps_that_fail_for_good_are_taken_again_by_a_retry(hand):
    hand.submit(job("j", gathering("list")))
    serve(hand)
    hand.settle(finish(hand), Failure(code="step_failed", reason="no", transient=False, kept=True))
    failed = state(hand)
    hand.engine.obey(Retry(job="j"))
    serve(hand)
    hand.settle(finish(hand), Finished(staged=NOTHING))
    hand.publish_all()

    assert (failed, state(hand)) == (RunState.FAILED, RunState.SUCCEEDED)


def test_steps_that_fail_for_a_while_are_taken_again(hand):
    hand.submit(job("j", gathering("list")))
    serve(hand)
    torn = Failure(code="disk_error", reason="no", transient=True)
    hand.settle(finish(hand), torn)
    hand.clock.advance(100)
    serve(hand)

    assert finish(hand).task.history.attempts == 1


def test_a_later_run_that_makes_the_same_waits_for_the_earlier_one(hand):
    hand.submit(job("a", gathering("list")))
    hand.submit(job("b", gathering("list")))
    serve(hand)
    first, early = finish(hand), finish(hand)
    hand.settle(first, Finished(staged=NOTHING))
    hand.publish_all()
    serve(hand)

    assert (first.job.name, early) == ("a", None)
    assert finish(hand).job.name == "b"


def test_j05_steps_that_kill_the_daemon_again_and_again_are_poison(tmp_path):
    clock = StepClock()
    for life in range(7):
        store = SqliteStore(str(tmp_path / "db"), clock, lambda error: None)
        hand = Hand(store=store, clock=clock)
        if life == 0:
            hand.submit(job("j", gathering("list")))
        else:
            hand.engine.recover({})
        serve(hand)
        attempt = finish(hand)
        hand.calm()
        if attempt is None:
            break
        assert attempt.recovered is (life > 0)
        hand.close()

    assert (life, files(hand)) == (6, {"./list": ("failed", "poison")})
    hand.close()


# ---------------------------------------------------------------- the end of a run


def test_what_a_success_asks_for_is_done_when_all_else_has_ended(hand):
    hand.submit(job("j", group("a", spec("a"), spec("b")), *BOTH))
    first, second = hand.fetch(), hand.fetch()
    hand.succeed(first)
    early = end_under_way(hand)
    total = hand.store.run_view(1).tasks.total
    hand.succeed(second)

    assert (early, total) == ("", 2)
    assert end_under_way(hand) == "on_success"
    assert state(hand) is RunState.RUNNING
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert files(hand)["./j/on_success"] == ("succeeded", "done")
    assert len(files(hand)) == 3
    assert state(hand) is RunState.SUCCEEDED
    assert hand.publish() == []
    assert hand.engine.idle()
    assert hand.engine.sweep_due()


def test_what_a_failure_asks_for_is_done_when_all_else_has_ended(hand):
    hand.submit(job("j", group("a", spec("a"), spec("b"), retry=QUICK), *BOTH))
    broken, other = hand.fetch(), hand.fetch()
    hand.settle(broken, BROKEN)
    early = end_under_way(hand)
    hand.succeed(other)

    assert (early, end_under_way(hand)) == ("", "on_failure")
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.FAILED
    assert list(files(hand)) == ["a", "b", "./j/on_failure"]


def test_a_partial_run_has_succeeded(hand):
    hand.submit(job("j", replace(group("a", spec("a")), may_fail=True), *BOTH))
    hand.settle(hand.fetch(), BROKEN)

    assert end_under_way(hand) == "on_success"
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.PARTIAL


def test_a_success_whose_command_fails_is_a_failure(hand):
    hand.submit(job("j", group("a", spec("a")), *BOTH))
    hand.run_all()
    assert end_under_way(hand) == "on_success"
    hand.settle(hand.last, NO_COMMAND)

    assert end_under_way(hand) == "on_failure"
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.FAILED
    assert [failed.group for failed in hand.store.failures(1, 9)] == ["on_success"]


def test_of_an_end_that_is_not_due_nothing_is_counted(hand):
    hand.submit(job("j", group("a", spec("a")), *at_the_end(RunEnd.ON_FAILURE)))
    hand.run_all()

    assert state(hand) is RunState.SUCCEEDED
    assert hand.store.run_view(1).tasks.total == 1
    (ended,) = [event for event in hand.events if isinstance(event, events.RunEnded)]
    assert (ended.succeeded, ended.skipped) == (1, 0)


@pytest.mark.parametrize("under_way", [False, True])
def test_a_cancel_ends_a_run_without_its_ends(hand, under_way):
    hand.submit(job("j", group("a", spec("a")), *BOTH))
    if under_way:
        hand.run_all()
        assert end_under_way(hand) == "on_success"
    hand.engine.obey(Cancel(job="j"))
    if under_way:
        hand.settle(hand.last, Finished(staged=NOTHING))

    assert end_under_way(hand) == ""
    assert state(hand) is RunState.CANCELLED
    assert hand.engine.idle()


def test_a_webhook_that_nobody_hears_is_told_again_and_fails_in_the_end(hand):
    hand.submit(job("j", group("a", spec("a")), *BOTH))
    hand.run_all()
    assert end_under_way(hand) == "on_success"
    first, times = hand.last.intent, 0
    attempt = hand.last
    while attempt is not None and attempt.group.end is RunEnd.ON_SUCCESS:
        times += 1
        assert attempt.intent == replace(first, begun=True)
        hand.settle(attempt, NOT_HEARD)
        hand.clock.advance(100)
        hand.engine.tick()
        attempt = finish(hand)

    assert times == 6
    assert files(hand)["./j/on_success"] == ("failed", "webhook_failed")


def test_a_retry_takes_a_failed_end_again_and_not_what_had_succeeded(hand):
    hand.submit(job("j", group("a", spec("a")), *BOTH))
    hand.run_all()
    end_under_way(hand)
    hand.settle(hand.last, NO_COMMAND)
    end_under_way(hand)
    hand.settle(hand.last, Finished(staged=NOTHING))
    answer = hand.engine.obey(Retry(job="j"))

    assert answer.done
    assert end_under_way(hand) == "on_success"
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.SUCCEEDED
    assert list(files(hand)) == ["a", "./j/on_success"]


def test_a_run_that_is_retried_ends_anew(hand):
    hand.submit(job("j", group("a", spec("a"), retry=QUICK), *BOTH))
    hand.settle(hand.fetch(), BROKEN)
    assert end_under_way(hand) == "on_failure"
    hand.settle(hand.last, Finished(staged=NOTHING))
    first = hand.last.intent.mtime_s
    hand.clock.advance(60)
    hand.engine.obey(Retry(job="j"))
    hand.settle(hand.fetch(), BROKEN)

    assert end_under_way(hand) == "on_failure"
    assert hand.last.intent.mtime_s > first
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.FAILED
    assert list(files(hand)) == ["a", "./j/on_failure"]


@pytest.mark.parametrize("moment", ["before", "made", "under way", "failed"])
def test_a_crash_loses_no_end_of_a_run(tmp_path, moment):
    clock = StepClock()
    store = SqliteStore(str(tmp_path / "db"), clock, lambda error: None)
    first = Hand(store=store, clock=clock)
    first.submit(job("j", group("a", spec("a")), *BOTH))
    attempt = first.fetch()
    if moment == "before":
        first.settle(attempt, Fetched(intent=intent_for(attempt)))
    else:
        first.succeed(attempt)
    if moment in {"under way", "failed"}:
        assert end_under_way(first) == "on_success"
    if moment == "failed":
        first.settle(first.last, NO_COMMAND)
    first.close()

    second = Hand(store=SqliteStore(str(tmp_path / "db"), clock, lambda error: None), clock=clock)
    second.engine.recover({})
    second.publish_all()
    if moment == "failed":
        assert end_under_way(second) == "on_failure"
    else:
        assert end_under_way(second) == "on_success"
        assert second.last.recovered is (moment == "under way")
    second.settle(second.last, Finished(staged=NOTHING))
    expected = RunState.FAILED if moment == "failed" else RunState.SUCCEEDED
    assert state(second) is expected
    second.close()


def test_an_edit_decides_anew_what_is_done_at_the_end(hand):
    kept = replace(job("j", group("a", spec("a")), *BOTH), keep=True)
    hand.submit(kept, file="j.yaml")
    under_way = hand.fetch()
    edited = job("j", group("a", spec("a"), spec("b")), *at_the_end(RunEnd.ON_SUCCESS))
    answer = hand.submit(replace(edited, revision="r2", keep=True), file="j.yaml")
    hand.succeed(under_way)
    paths = hand.run_all()

    assert (answer.done, paths) == (True, ["b"])
    assert end_under_way(hand) == "on_success"
    hand.settle(hand.last, Finished(staged=NOTHING))
    assert state(hand) is RunState.SUCCEEDED


def test_tasks_that_an_edit_adds_are_done_before_an_end_that_was_there_before(hand):
    kept = replace(job("j", group("a", spec("a")), *BOTH), keep=True)
    hand.submit(kept, file="j.yaml")
    hand.engine.obey(Pause(job="j"))
    edited = job("j", group("a", spec("a")), group("b", spec("b")), *BOTH)
    hand.submit(replace(edited, revision="r2", keep=True), file="j.yaml")
    hand.engine.obey(Resume(job="j"))

    assert hand.run_all() == ["a", "b"]
    assert end_under_way(hand) == "on_success"


def test_an_end_that_was_due_and_had_not_begun_waits_for_what_an_edit_adds(hand):
    kept = replace(job("j", group("a", spec("a")), *BOTH), keep=True)
    hand.submit(kept, file="j.yaml")
    attempt = hand.fetch()
    hand.engine.obey(Pause(job="j"))
    hand.succeed(attempt)
    due = "./j/on_success" in files(hand)
    edited = job("j", group("a", spec("a")), group("b", spec("b")), *BOTH)
    hand.submit(replace(edited, revision="r2", keep=True), file="j.yaml")
    hand.engine.obey(Resume(job="j"))
    early = list(files(hand))

    assert (due, early) == (True, ["a", "b"])
    assert hand.run_all() == ["b"]
    assert finish(hand).group.name == "on_success"


def test_an_open_run_says_nothing_of_lists_because_of_its_end(hand):
    hand.submit(job("j", group("a", spec("a")), *BOTH))

    (run,) = hand.engine.view().runs
    assert (run.list_open, run.tasks.total) == (False, 1)


@pytest.mark.parametrize("end", RunEnd)
def test_each_end_knows_of_each_state_whether_it_is_due(end):
    due = {state for state in RunState if is_due(end, state)}

    assert due
    assert RunState.CANCELLED not in due


def test_what_the_tasks_of_ends_are_has_counts_of_its_own(hand):
    hand.submit(job("j", group("a", spec("a")), *BOTH))
    hand.run_all()
    end_under_way(hand)

    counts = hand.store.run_view(1).tasks
    assert (counts.succeeded, counts.publishing, counts.total) == (1, 1, 2)
    assert TaskState.PUBLISHING.value in {file.state for file in hand.store.files(1)}
