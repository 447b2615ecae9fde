"""The engine by hand: what starts, what follows an outcome, when a run ends."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from fetchd import events
from fetchd.engine.admission import MOST_IN_VAIN
from fetchd.engine.decisions import MOST_PUBLISH_FAILURES
from fetchd.engine.engine import KEEP_PARTS_S
from fetchd.engine.reading import MOST_LIST_FAILURES
from fetchd.engine.runs import TASKS_AN_ORIGIN
from fetchd.errors import StoreError
from fetchd.model import (
    Batch,
    Cancel,
    Condition,
    Decided,
    Deferred,
    Dossier,
    Expand,
    Expanded,
    Failure,
    Fetched,
    Interrupted,
    Item,
    ListFile,
    Named,
    OriginBounds,
    Pause,
    Position,
    Progress,
    Publish,
    Published,
    Retry,
    RunState,
    Share,
    Submit,
    TaskGroup,
    TaskState,
    UpToDate,
    Verify,
)
from fetchd.rates import Rate
from fetchd.stores import SqliteStore
from harness import QUICK, EngineByHand, FakeClock, StepClock, group, intent_for, job, spec


@pytest.fixture
def hand():
    made = EngineByHand()
    yield made
    made.close()


@pytest.fixture
def hasty():
    """An engine that a test may ask for work it does not have."""
    made = EngineByHand(clock=StepClock())
    yield made
    made.close()


def of(hand: EngineByHand, kind):
    return [event for event in hand.events if isinstance(event, kind)]


def failure(code: str = "short_body", *, transient: bool = True, **more) -> Failure:
    return Failure(code=code, reason=f"{code} happened", transient=transient, **more)


def test_a_job_of_one_file_goes_through_fetch_and_publish_and_its_run_succeeds(hand):
    answer = hand.submit(job("a", group("a", spec("f"))))

    attempt = hand.fetch()
    assert attempt is not None
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    (publish,) = hand.publish()
    hand.settle(publish, Published(intent=publish.intent, mtime_ns=5, inode=6))

    assert answer.done
    view = hand.store.run_view(answer.run)
    assert view is not None
    assert (view.state, view.tasks.succeeded, view.bytes) == (RunState.SUCCEEDED, 1, 10)
    assert hand.engine.idle()
    (done,) = of(hand, events.TaskDone)
    assert (done.path, done.outcome, done.attempts) == ("f", "downloaded", 1)
    assert [type(e).__name__ for e in hand.events if isinstance(e, events.RunEnded)]


def test_jobs_that_come_together_are_accepted_with_one_commit_and_an_answer_each(hand):
    commits: list[int] = []
    commit = hand.store._ledger._commit

    def counted(connection, group):
        commits.append(len(group))
        commit(connection, group)

    hand.store._ledger._commit = counted
    hand.submit(job("on", group("on", spec("x"))), file="on.yaml")
    commits.clear()
    files = [("on", "on.yaml"), ("a", "a.yaml"), ("on", "other.yaml"), ("a", "b.yaml"), ("c", "c")]
    jobs = [
        Submit(job=job(name, group(name, spec(name))), raw=b"", file=file) for name, file in files
    ]

    answers = hand.engine.submit(jobs)

    assert [(a.done, a.later, a.repeated) for a in answers] == [
        (True, False, True),
        (True, False, False),
        (False, True, False),
        (False, True, False),
        (True, False, False),
    ]
    assert [count for count in commits if count] == [1]
    assert [event.file for event in of(hand, events.JobAccepted)] == ["on.yaml", "a.yaml", "c"]


def test_a_view_may_be_asked_for_some_of_the_runs(hand):
    for name in "abc":
        hand.submit(job(name, group(name, spec(name))))

    view = hand.engine.view(2)

    assert ([run.job for run in view.runs], view.left_out) == (["a", "b"], 1)


def test_nothing_is_published_before_its_intent_is_durable(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    seen = []

    hand.store._ledger.post(lambda db: seen.append(len(hand.engine._to_publish)))
    hand.engine.settle([(attempt, Fetched(intent=intent_for(attempt)))])
    hand.store._ledger.post(lambda db: seen.append(len(hand.engine._to_publish)))
    hand.calm()

    assert seen == [0, 0]
    assert len(hand.publish()) == 1


def test_a_transient_failure_waits_its_backoff_and_tries_again(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))

    attempt = hand.fetch()
    hand.settle(attempt, failure())

    assert hand.fetch() is None
    view = hand.engine.view().runs[0]
    assert (view.waiting, view.next_due_at_s) == ({"retry": 1}, hand.clock.wall() + 2)
    hand.clock.advance(2.1)
    again = hand.fetch()
    assert again is not None
    assert (again.number, again.task.id) == (2, attempt.task.id)
    assert hand.engine.view().runs[0].waiting == {}


def test_a_run_that_was_cancelled_while_its_task_waited_waits_for_nothing(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(hand.fetch(), failure())
    assert hand.engine.view().runs[0].waiting == {"retry": 1}

    hand.engine.obey(Cancel(job="a"))

    view = hand.engine.view().runs[0]
    assert view.state is RunState.CANCELLED
    assert (view.waiting, view.next_due_at_s) == ({}, None)


def test_a_retry_of_what_was_cancelled_says_what_to_do_instead(hand):
    hand.submit(job("a", group("a", spec("f"))))
    hand.engine.obey(Cancel(job="a"))

    answer = hand.engine.obey(Retry(job="a"))

    assert not answer.done
    assert answer.reason.endswith("begins anew when its job file is dropped again")


def test_attempts_end_after_the_rounds_that_the_policy_allows(hand):
    answer = hand.submit(job("a", group("a", spec("f"), retry=QUICK)))

    for _ in range(3):
        attempt = hand.fetch()
        hand.settle(attempt, failure())
        hand.clock.advance(60)

    assert hand.fetch() is None
    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.failed) == (RunState.FAILED, 1)
    (failed,) = of(hand, events.TaskFailed)
    assert (failed.code, failed.attempts) == ("short_body", 3)
    (file,) = hand.store.failures(answer.run, 10)
    assert (file.detail, file.attempts) == ("short_body", 3)


def test_the_next_source_is_tried_at_once_in_its_own_origin(hand):
    two = spec("f", "http://one.example/f", "http://two.example/f")
    hand.submit(job("a", group("a", two, retry=QUICK)))

    first = hand.fetch()
    hand.settle(first, failure("bad_status", transient=False))
    second = hand.fetch()

    assert [first.source, second.source] == ["http://one.example/f", "http://two.example/f"]


def not_there(status: int = 404) -> Failure:
    return failure("bad_status", transient=False, status=status)


def test_a_file_that_is_not_there_yet_is_waited_for_without_being_charged(hand):
    hand.submit(job("a", group("a", spec("f"), retry=replace(QUICK, wait_for_s=3600))))

    hand.settle(hand.fetch(), not_there())

    assert hand.fetch() is None
    view = hand.engine.view().runs[0]
    assert (view.waiting, view.next_due_at_s) == ({"not_yet": 1}, hand.clock.wall() + 10)
    (told,) = of(hand, events.TaskDeferred)
    assert (told.wait, told.reason, told.delay_s) == ("not_yet", "bad_status happened", 10)
    assert of(hand, events.TaskRetryScheduled) == []
    hand.clock.advance(10)
    again = hand.fetch()
    assert again.number == 1
    hand.succeed(again)
    (done,) = of(hand, events.TaskDone)
    assert (done.outcome, done.attempts) == ("downloaded", 1)


def test_when_the_wait_is_over_a_file_that_is_not_there_is_a_failure(hand):
    answer = hand.submit(job("a", group("a", spec("f"), retry=replace(QUICK, wait_for_s=15))))

    hand.settle(hand.fetch(), not_there(403))
    hand.clock.advance(10)
    hand.settle(hand.fetch(), not_there(410))
    hand.clock.advance(4.9)
    early = hand.fetch()
    hand.clock.advance(0.1)
    hand.settle(hand.fetch(), not_there(404))

    assert early is None
    assert hand.store.run_view(answer.run).state is RunState.FAILED
    (failed,) = of(hand, events.TaskFailed)
    assert (failed.code, failed.attempts) == ("bad_status", 1)
    assert "after waiting 15.0 s for it" in failed.reason


def test_a_stop_costs_no_attempt(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()

    hand.engine.stop()
    wanted = hand.engine.report(attempt, Progress())
    hand.settle(attempt, Interrupted())

    assert not wanted
    (unfinished,) = hand.store._ledger.read(
        lambda db: db.execute("SELECT state, due, history FROM task").fetchall()
    )
    assert unfinished == (0, 0.0, None)


def test_an_exchange_settles_a_fetch_and_takes_the_next_one_in_one_pass(hand):
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    first = hand.fetch()

    (second,) = hand.engine.exchange([(first, Fetched(intent=intent_for(first)))])
    nothing = hand.engine.exchange([(second, Fetched(intent=intent_for(second)))])
    hand.publish_all()

    assert (first.task.spec.path, second.task.spec.path, nothing) == ("f", "g", ())
    assert hand.engine.idle()
    assert [event.untold_bytes for event in of(hand, events.TaskVerified)] == [10, 10]


@pytest.mark.parametrize("end", [Cancel(job="a"), Pause(job="a"), None])
def test_an_exchange_begins_nothing_of_a_run_that_is_cancelled_or_held_nor_at_a_stop(hand, end):
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    first = hand.fetch()
    if end is None:
        hand.engine.stop()
    else:
        hand.engine.obey(end)

    assert hand.engine.exchange([(first, Interrupted())]) == ()
    hand.calm()
    assert hand.engine._out == {}
    assert hand.engine._queue._busy == {}


def test_an_exchange_gives_a_place_at_its_origin_back_before_it_takes():
    hand = EngineByHand(connections_per_origin=1)
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    first = hand.fetch()

    (second,) = hand.engine.exchange([(first, failure(transient=False))])

    assert second.task.spec.path == "g"
    hand.close()


def test_a_deferred_task_waits_without_being_charged(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()

    hand.settle(attempt, Deferred(reason="disk", detail="full", delay_s=30))

    assert hand.fetch() is None
    assert hand.engine.view().runs[0].waiting == {"disk": 1}
    hand.clock.advance(31)
    assert hand.fetch().number == 1


def test_a_group_waits_for_the_group_it_needs(hand):
    first, second = group("one", spec("f")), group("two", spec("g"), needs=("one",))
    hand.submit(job("a", second, first))

    attempt = hand.fetch()

    assert attempt.task.spec.path == "f"
    assert hand.fetch() is None
    hand.succeed(attempt)
    assert hand.run_all() == ["g"]


def test_who_needs_a_failed_group_is_skipped_all_the_way_down(hand):
    answer = hand.submit(
        job(
            "a",
            group("one", spec("f")),
            group("two", spec("g"), needs=("one",)),
            group("three", spec("h"), needs=("two",)),
        )
    )

    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    view = hand.store.run_view(answer.run)
    assert view.state is RunState.FAILED
    assert (view.tasks.failed, view.tasks.skipped) == (1, 2)
    states = {f.path: (f.state, f.detail) for f in hand.store.files(answer.run)}
    assert states["h"] == (TaskState.SKIPPED, "upstream_failed")


def on_condition(made: TaskGroup, *compares: str) -> TaskGroup:
    return replace(made, when=Condition(text="${x}", compares=compares))


def decision(hand: EngineByHand) -> Expand:
    """Take the attempt to decide a group's condition."""
    hand.calm()
    (attempt,) = hand.engine.take(Expand, 1)
    assert attempt.decide
    return attempt


def test_a_condition_is_decided_when_the_needs_are_met_and_the_group_waits_for_it(hand):
    answer = hand.submit(
        job("a", group("one", spec("f")), on_condition(group("two", spec("g"), needs=("one",))))
    )
    assert not len(hand.engine._to_expand)

    hand.succeed(hand.fetch())
    attempt = decision(hand)
    before = hand.fetch()
    hand.settle(attempt, Decided(holds=True))

    assert before is None
    assert hand.run_all() == ["g"]
    assert hand.store.run_view(answer.run).state is RunState.SUCCEEDED


def test_a_condition_is_decided_once_whatever_ends_meanwhile(hand):
    hand.submit(
        job("a", on_condition(group("one", spec("f"))), group("two", spec("g")), group("three"))
    )

    hand.succeed(hand.fetch())

    assert len(hand.engine._to_expand) == 1


def test_what_is_skipped_for_its_condition_hurts_nobody(hand):
    answer = hand.submit(
        job("a", on_condition(group("one", spec("f"))), group("two", spec("g"), needs=("one",)))
    )

    hand.settle(decision(hand), Decided(holds=False))
    paths = hand.run_all()

    view = hand.store.run_view(answer.run)
    assert paths == ["g"]
    assert (view.state, view.tasks.skipped) == (RunState.SUCCEEDED, 1)
    (passed_over,) = of(hand, events.TasksPassedOver)
    assert (passed_over.group, passed_over.count) == ("one", 1)
    assert not of(hand, events.TasksSkipped)
    states = {f.path: (f.state, f.detail) for f in hand.store.files(answer.run)}
    assert states["f"] == (TaskState.SKIPPED, "condition")


def test_a_condition_is_decided_anew_by_what_its_group_last_succeeded_with(hand):
    def run(revision: str, seen: dict[str, str], holds: bool) -> dict[str, str]:
        made = on_condition(group("two", spec("g"), needs=("one",)), "one")
        answer = hand.submit(job("a", group("one", spec("f")), made, revision=revision))
        hand.succeed(hand.fetch())
        attempt = decision(hand)
        hand.settle(attempt, Decided(holds=holds, seen=seen))
        hand.run_all()
        assert hand.store.run_view(answer.run).state is RunState.SUCCEEDED
        return dict(attempt.seen)

    assert run("r1", {"one": "v1"}, holds=True) == {}
    assert run("r2", {"one": "v1"}, holds=False) == {"one": "v1"}
    assert run("r3", {"one": "v2"}, holds=True) == {"one": "v1"}
    assert run("r4", {"one": "v2"}, holds=False) == {"one": "v2"}


def test_a_group_that_failed_has_not_succeeded_with_anything(hand):
    made = on_condition(group("two", spec("g")), "one")
    hand.submit(job("a", group("one"), made))
    hand.settle(decision(hand), Decided(holds=True, seen={"one": "v1"}))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    hand.submit(job("a", group("one"), made, revision="r2"))

    assert dict(decision(hand).seen) == {}


def test_what_may_fail_and_did_is_tried_again_although_nothing_has_changed(hand):
    made = replace(on_condition(group("two", spec("g"), spec("h")), "one"), may_fail=True)
    answer = hand.submit(job("a", group("one"), made))
    hand.settle(decision(hand), Decided(holds=True, seen={"one": "v1"}))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    hand.succeed(hand.fetch())
    first = hand.store.run_view(answer.run).state

    hand.engine.obey(Retry(job="a"))
    again = decision(hand)

    assert first is RunState.PARTIAL
    assert dict(again.seen) == {}


@pytest.mark.parametrize("holds", [True, False])
def test_a_part_that_a_crash_has_torn_is_not_fetched_before_its_condition_is_decided_anew(holds):
    first = EngineByHand()
    answer = first.submit(job("a", on_condition(group("one", spec("f")))))
    first.settle(decision(first), Decided(holds=True))
    attempt = first.fetch()
    first.settle(attempt, Fetched(intent=intent_for(attempt)))

    hand = EngineByHand(store=first.store, clock=first.clock)
    hand.engine.recover({})
    (publish,) = hand.publish()
    hand.settle(publish, failure("disk_error"))
    before = hand.fetch()
    hand.settle(decision(hand), Decided(holds=holds))

    assert before is None
    assert hand.run_all() == (["f"] if holds else [])
    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.skipped) == (RunState.SUCCEEDED, int(not holds))
    hand.close()


def test_a_run_that_is_cancelled_while_a_condition_is_decided_ends(hand):
    answer = hand.submit(job("a", on_condition(group("one", spec("f")))))
    attempt = decision(hand)

    hand.engine.obey(Cancel(job="a"))
    hand.settle(attempt, Decided(holds=True))

    assert hand.store.run_view(answer.run).state is RunState.CANCELLED


def test_a_run_that_is_cancelled_before_its_condition_is_decided_ends(hand):
    answer = hand.submit(job("a", on_condition(group("one", spec("f")))))

    hand.engine.obey(Cancel(job="a"))
    hand.engine.stop()

    assert hand.store.run_view(answer.run).state is RunState.CANCELLED
    assert not hand.engine.take(Expand, 1)


def test_a_condition_that_cannot_be_decided_is_tried_again_and_then_fails_the_group(hand):
    answer = hand.submit(job("a", on_condition(group("one", spec("f")))))

    for _ in range(MOST_LIST_FAILURES + 1):
        seconds_until_read(hand)
        hand.settle(decision(hand), failure("source_error"))

    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.failed, view.tasks.skipped) == (RunState.FAILED, 1, 1)


@pytest.mark.parametrize("holds", [True, False])
def test_a_condition_is_decided_once_more_in_the_next_life(tmp_path, holds):
    path = str(tmp_path / "db")
    first = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    answer = first.submit(job("a", on_condition(group("one", spec("f"), spec("g")))))
    first.settle(decision(first), Decided(holds=True, seen={"n": "v"}))
    first.succeed(first.fetch())
    first.close()

    second = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    second.engine.recover({})
    second.settle(decision(second), Decided(holds=holds, seen={"n": "v"}))

    assert second.run_all() == (["g"] if holds else [])
    assert second.store.run_view(answer.run).state is RunState.SUCCEEDED
    second.close()


def test_a_file_that_is_published_before_the_next_life_decides_is_not_forgotten(tmp_path):
    path = str(tmp_path / "db")
    made = on_condition(group("one", spec("f")), "index")
    first = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    first.submit(job("a", group("index"), made))
    first.settle(decision(first), Decided(holds=True, seen={"index": "v"}))
    fetch = first.fetch()
    first.settle(fetch, Fetched(intent=intent_for(fetch, 10)))
    first.close()

    second = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    second.engine.recover({})
    second.publish_all()
    second.settle(decision(second), Decided(holds=True, seen={"index": "v"}))
    second.submit(job("a", group("index"), made, revision="r2"))

    assert dict(decision(second).seen) == {"index": "v"}
    second.close()


def test_tasks_that_do_not_meet_their_own_condition_are_skipped_from_the_start(hand):
    unmet = replace(spec("f"), skip=True)
    answer = hand.submit(job("a", group("one", unmet, spec("g"), spec("f"))))

    paths = hand.run_all()

    view = hand.store.run_view(answer.run)
    assert sorted(paths) == ["f", "g"]  # nobody else has its destination
    assert (view.state, view.tasks.succeeded, view.tasks.skipped) == (RunState.SUCCEEDED, 2, 1)
    assert [event.count for event in of(hand, events.TasksPassedOver)] == [1]
    assert not hand.engine.obey(Retry(job="a")).done


def may_fail(made: TaskGroup) -> TaskGroup:
    return replace(made, may_fail=True)


def test_who_needs_a_group_that_may_fail_goes_on_and_the_run_is_partial(hand):
    answer = hand.submit(
        job(
            "a",
            may_fail(group("one", spec("f"), spec("g"))),
            group("two", spec("h"), needs=("one",)),
        )
    )

    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    paths = hand.run_all()

    assert paths == ["g", "h"]
    assert hand.store.run_view(answer.run).state is RunState.PARTIAL


def test_a_failure_that_may_not_be_outweighs_those_that_may(hand):
    answer = hand.submit(job("a", may_fail(group("one", spec("f"))), group("two", spec("g"))))

    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    assert hand.store.run_view(answer.run).state is RunState.FAILED


def test_a_group_that_may_fail_and_was_skipped_lets_nobody_go_on(hand):
    answer = hand.submit(
        job(
            "a",
            group("one", spec("f")),
            may_fail(group("two", spec("g"), needs=("one",))),
            group("three", spec("h"), needs=("two",)),
        )
    )

    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.skipped) == (RunState.FAILED, 2)


def test_a_partial_run_is_retried_and_may_then_succeed(hand):
    answer = hand.submit(job("a", may_fail(group("one", spec("f")))))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    hand.engine.obey(Retry(job="a"))

    assert hand.run_all() == ["f"]
    assert hand.store.run_view(answer.run).state is RunState.SUCCEEDED


def test_what_may_fail_is_known_in_the_next_life(tmp_path):
    path = str(tmp_path / "db")
    first = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    made = job("a", may_fail(group("one", spec("f"))), group("two", spec("g"), needs=("one",)))
    answer = first.submit(made)
    first.settle(first.fetch(), failure("bad_status", transient=False))
    first.close()

    second = EngineByHand(store=SqliteStore(path, StepClock(), print), clock=StepClock())
    second.engine.recover({})

    assert second.run_all() == ["g"]
    assert second.store.run_view(answer.run).state is RunState.PARTIAL
    second.close()


def test_cancel_ends_waiting_tasks_at_once_and_running_ones_when_they_settle(hand):
    answer = hand.submit(job("a", group("a", spec("f"), spec("g"))))
    attempt = hand.fetch()

    cancelled = hand.engine.obey(Cancel(job="a"))
    still = hand.engine.report(attempt, Progress())
    hand.settle(attempt, Interrupted())

    assert cancelled.done
    assert not still
    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.cancelled) == (RunState.CANCELLED, 2)
    assert hand.engine.sweep_due()
    assert not hand.engine.obey(Cancel(job="a")).done


def test_a_file_under_publication_is_published_although_its_run_was_cancelled(hand):
    answer = hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))

    hand.engine.obey(Cancel(job="a"))
    hand.publish_all()

    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.succeeded) == (RunState.CANCELLED, 1)


def test_a_cancelled_task_whose_publication_fails_is_cancelled_in_the_store_too(hand):
    answer = hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))

    hand.engine.obey(Cancel(job="a"))
    (publish,) = hand.publish()
    hand.settle(publish, failure("disk_error"))

    assert hand.engine.idle()
    assert hand.store.run_view(answer.run).tasks.cancelled == 1
    assert hand.store.unfinished() == []


def test_a_cancel_that_meets_a_settled_fetch_leaves_a_record_of_either_kind_whole(hand):
    answer = hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()

    def cancel_first(changes, then=None):
        hand.store.record = record
        other.start()
        other.join(0.05)
        record(changes, then)

    record, hand.store.record = hand.store.record, cancel_first
    other = threading.Thread(target=lambda: hand.engine.obey(Cancel(job="a")))
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    other.join()
    hand.publish_all()

    (file,) = hand.store.files(answer.run)
    assert (file.state, file.size_bytes) == (TaskState.SUCCEEDED, 10)
    assert hand.engine.idle()


def test_retry_of_a_cancelled_run_does_not_make_it_a_success(hand):
    answer = hand.submit(job("a", group("a", spec("f"), spec("g"))))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    hand.engine.obey(Cancel(job="a"))

    hand.engine.obey(Retry(job="a"))

    assert hand.run_all() == ["f"]
    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.succeeded) == (RunState.CANCELLED, 1)


def test_a_retry_that_comes_before_the_end_of_its_run_was_told_runs(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()

    def retry_first(effects):
        hand.engine._act = act
        hand.calm()
        assert hand.engine.obey(Retry(job="a")).done
        act(effects)

    act, hand.engine._act = hand.engine._act, retry_first
    hand.settle(attempt, failure("bad_status", transient=False))

    assert hand.run_all() == ["f"]
    assert hand.engine.idle()


def test_a_task_that_was_taken_before_a_cancel_is_not_begun_after_a_retry(hand):
    wanted = job("a", group("a", spec("f"), spec("g"), spec("h")), concurrency=2)
    answer = hand.submit(wanted)
    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    hand.calm()
    late = hand.engine._queue.take()
    hand.engine.obey(Cancel(job="a"))
    hand.engine.obey(Retry(job="a"))
    hand.calm()
    take = hand.engine._queue.take

    def take_late():
        hand.engine._queue.take = take
        return late

    hand.engine._queue.take = take_late

    assert hand.run_all() == ["f"]
    assert late.ready.task.spec.path == "g"
    assert hand.engine._queue._out == 0
    view = hand.store.run_view(answer.run)
    assert (view.tasks.succeeded, view.tasks.cancelled) == (1, 2)


def test_the_engine_is_idle_only_when_the_end_is_on_record_and_told(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    (publish,) = hand.publish()
    go_on = threading.Event()

    hand.store._ledger.post(lambda db: go_on.wait(5))
    hand.engine.settle([(publish, Published(intent=publish.intent, mtime_ns=5, inode=6))])
    before = hand.engine.idle()
    go_on.set()
    hand.calm()

    assert (before, hand.engine.idle()) == (False, True)


def test_retry_reopens_failed_and_skipped_tasks(hand):
    answer = hand.submit(job("a", group("one", spec("f")), group("two", spec("g"), needs=("one",))))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))

    reply = hand.engine.obey(Retry(job="a"))
    paths = hand.run_all()

    assert reply.done
    assert reply.run == answer.run
    assert paths == ["f", "g"]
    assert hand.store.run_view(answer.run).state is RunState.SUCCEEDED
    assert not hand.engine.obey(Retry(job="a")).done


def test_the_same_revision_dropped_again_after_the_end_is_a_new_run(hand):
    one = job("a", group("a", spec("f")))
    first = hand.submit(one, file="a.yaml")
    repeated = hand.submit(one, file="a.yaml")
    hand.run_all()
    unfiled = hand.submit(one, file="a.yaml")
    from fetchd.ports import RunFiled

    hand.store.record([RunFiled(run=first.run)])
    second = hand.submit(one, file="a.yaml")

    assert (repeated.run, repeated.repeated) == (first.run, True)
    assert (unfiled.run, unfiled.repeated) == (first.run, True)
    assert second.done
    assert second.run != first.run


def test_another_revision_or_file_of_a_running_job_has_to_wait(hand):
    hand.submit(job("a", group("a", spec("f"))), file="a.yaml")

    other = hand.submit(job("a", group("a", spec("g")), revision="r2"), file="a.yaml")
    elsewhere = hand.submit(job("a", group("a", spec("f"))), file="a.yml")

    assert (other.done, other.later) == (False, True)
    assert (elsewhere.done, elsewhere.later) == (False, True)


def test_two_runs_with_one_destination_take_turns(hand):
    hand.submit(job("a", group("a", spec("same"))))
    hand.submit(job("b", group("b", spec("same"))))

    first = hand.fetch()

    assert hand.fetch() is None
    assert hand.engine.view().runs[1].waiting == {"same_dest": 1}
    hand.succeed(first)
    second = hand.fetch()
    assert second.run.job == "b"
    assert second.previous is not None
    assert second.previous.validator.etag == '"1"'
    assert second.previous.verified is Verify.LENGTH


def test_a_destination_that_is_freed_while_the_store_is_read_is_not_waited_for(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    arrived: list[Callable[[], None]] = []

    def read_slowly(*args, then, **options):
        read(*args, then=lambda window: arrived.append(lambda: then(window)), **options)

    read, hand.store.next_ready = hand.store.next_ready, read_slowly
    hand.submit(job("b", group("b", spec("f"))))
    hand.succeed(attempt)
    hand.store.next_ready = read
    for answer in arrived:
        answer()

    assert hand.run_all() == ["f"]
    assert hand.engine.idle()


def test_two_tasks_of_a_run_with_one_destination_are_a_conflict(hand):
    answer = hand.submit(job("a", group("a", spec("same"), spec("same", "http://x.example/2"))))

    hand.run_all()

    states = [(f.state, f.detail) for f in hand.store.files(answer.run)]
    assert states == [(TaskState.SUCCEEDED, "downloaded"), (TaskState.FAILED, "dest_conflict")]
    (told,) = of(hand, events.TaskFailed)
    assert (told.path, told.code) == ("same", "dest_conflict")


def test_up_to_date_ends_a_task_without_publication(hand):
    answer = hand.submit(job("a", group("a", spec("f"))))

    unchanged = UpToDate(size_bytes=7, verified=Verify.DIGEST, digests=(), how="digest")
    hand.settle(hand.fetch(), unchanged)

    (file,) = hand.store.files(answer.run)
    assert (file.state, file.detail, file.size_bytes) == (TaskState.SUCCEEDED, "up_to_date", 7)
    assert hand.store.run_view(answer.run).bytes == 0


def test_a_second_settle_of_an_attempt_changes_nothing(hand):
    answer = hand.submit(job("a", group("a", spec("f"), spec("g"))))
    attempt = hand.fetch()
    hand.succeed(attempt)

    hand.settle(attempt, failure("bad_status", transient=False))

    assert hand.store.run_view(answer.run).tasks.succeeded == 1
    assert hand.store.run_view(answer.run).tasks.failed == 0


def test_the_attempts_of_a_run_share_its_rate_and_no_other_runs(hand):
    rate = Rate(always=5000)
    one = hand.submit(replace(job("a", group("a", spec("f"), spec("g"))), rate=rate)).run
    other = hand.submit(replace(job("b", group("b", spec("h"))), rate=rate)).run
    hand.submit(job("c", group("c", spec("i"))))

    shares = {attempt.task.spec.path: attempt.share for attempt in [hand.fetch() for _ in range(4)]}

    assert shares["f"] == shares["g"] == Share(name=f"run {one}", rate=rate)
    assert shares["h"] == Share(name=f"run {other}", rate=rate)
    assert shares["i"] is None


def test_limits_total_fails_what_goes_beyond_it(hand):
    answer = hand.submit(job("a", group("a", spec("f"), spec("g")), max_total_bytes=15))
    first = hand.fetch()
    assert first.budget_bytes == 15
    hand.succeed(first, size_bytes=10)

    second = hand.fetch()
    hand.succeed(second, size_bytes=10)

    assert second.budget_bytes == 5
    failed = [f.detail for f in hand.store.failures(answer.run, 10)]
    assert failed == ["too_large"]


def test_a_run_takes_no_more_connections_than_its_concurrency(hand):
    specs = [spec(f"f{i}", f"http://h{i}.example/x") for i in range(5)]
    hand.submit(job("a", group("a", *specs), concurrency=2))

    attempts = [hand.fetch(), hand.fetch(), hand.fetch()]

    assert [a is not None for a in attempts] == [True, True, False]


def test_loans_count_against_the_origin_and_end_with_the_attempt(hasty):
    hasty.submit(job("a", group("a", *(spec(f"f{i}") for i in range(8)))))
    attempts = [hasty.fetch() for _ in range(7)]
    engine = hasty.engine
    assert not engine.lend(attempts[0])  # another task waits
    attempts.append(hasty.fetch())
    assert not engine.lend(attempts[0])  # all eight are in use
    for attempt in attempts[1:]:
        engine.settle([(attempt, failure(transient=False))])

    assert [engine.lend(attempts[0]) for _ in range(9)] == [True] * 7 + [False] * 2
    engine.give_back(attempts[0])
    assert engine.lend(attempts[0])
    assert not engine.recalled(attempts[0])
    hasty.submit(job("b", group("b", spec("g"))))
    assert engine.recalled(attempts[0])
    engine.settle([(attempts[0], failure(transient=False))])
    engine.give_back(attempts[0])  # too late, and nobody's

    last = hasty.fetch()
    assert [engine.lend(last) for _ in range(8)] == [True] * 7 + [False]


def test_a_halved_number_of_connections_comes_back_by_lent_ones_too(hasty):
    specs = [spec(f"f{i}") for i in range(4)]
    hasty.submit(job("a", group("a", *specs), concurrency=1))
    engine = hasty.engine

    def origin():
        (view,) = engine.view().origins
        return view.connections, view.out

    for number in range(4):
        attempt = hasty.fetch()
        while engine.lend(attempt):
            pass
        if number == 0:
            assert origin() == (8, 8)
            now_s = hasty.clock.monotonic()
            engine.connection_failed(attempt, failure("connect_failed"), now_s)
            for _ in range(4):
                engine.give_back(attempt)
        assert origin() == (4, 4)
        hasty.clock.advance(10.0)
        hasty.settle(attempt, Fetched(intent=intent_for(attempt)))
        hasty.publish_all()

    assert origin() == (5, 0)


def test_what_a_lent_connection_meets_holds_for_its_origin_at_once(hasty):
    hasty.submit(job("a", group("a", spec("f"))))
    attempt, engine = hasty.fetch(), hasty.engine
    assert all(engine.lend(attempt) for _ in range(7))
    asked_s = hasty.clock.monotonic()

    engine.connection_failed(attempt, failure("connect_failed"), asked_s)

    assert engine.recalled(attempt)  # four may be open now, and eight are
    for _ in range(4):
        engine.give_back(attempt)
    assert not engine.recalled(attempt)
    hasty.clock.advance(1.0)
    engine.connection_failed(attempt, failure("connect_failed"), asked_s)  # one of those seven
    assert not engine.recalled(attempt)
    asked_s = hasty.clock.monotonic()  # another of them, for its next piece
    engine.connection_failed(attempt, failure("connect_failed"), asked_s)
    assert engine.recalled(attempt)
    hasty.submit(job("b", group("b", spec("g"))))
    assert hasty.fetch() is None


def test_a_wish_that_a_lent_connection_meets_keeps_all_from_its_origin_until_then(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt, engine = hand.fetch(), hand.engine
    assert engine.lend(attempt)

    refusal = failure("bad_status", status=429, retry_after_s=60.0)
    engine.connection_failed(attempt, refusal, hand.clock.monotonic())
    engine.give_back(attempt)

    assert not engine.lend(attempt)
    hand.submit(job("b", group("b", spec("g"))))
    assert hand.fetch() is None
    hand.clock.advance(59.0)
    assert hand.fetch() is None
    assert not engine.ask(attempt)
    assert engine.left_alone_s("http://one.example:80") == pytest.approx(1.0)
    hand.clock.advance(1.0)
    assert engine.left_alone_s("http://one.example:80") == 0.0
    assert engine.ask(attempt)
    assert hand.fetch() is not None


def test_nothing_is_lent_to_an_attempt_that_is_not_wanted_or_known(hand):
    hand.submit(job("a", group("a", spec("f"))))
    attempt = hand.fetch()
    hand.engine.obey(Cancel(job="a"))
    assert not hand.engine.lend(attempt)
    hand.engine.settle([(attempt, Interrupted())])
    assert not hand.engine.lend(attempt)
    assert not hand.engine.recalled(attempt)


def test_more_tasks_than_the_window_all_run_once(hand):
    specs = [spec(f"f{i}", f"http://h{i % 3}.example/{i}") for i in range(900)]
    answer = hand.submit(job("a", group("a", *specs)))

    largest = 0
    seen = []
    while (attempt := hand.fetch()) is not None:
        largest = max(largest, len(hand.engine._queue))
        seen.append(attempt.task.spec.path)
        hand.engine.settle([(attempt, Fetched(intent=intent_for(attempt)))])
        if len(seen) % 50 == 0:
            hand.publish_all()
    hand.publish_all()

    assert sorted(seen) == sorted(s.path for s in specs)
    assert hand.store.run_view(answer.run).tasks.succeeded == 900
    assert largest < 900


@pytest.mark.parametrize("ails", ["slow", "dead"])
def test_an_origin_that_ails_does_not_keep_another_ones_tasks_from_the_queue(hand, ails):
    specs = [spec(f"{o}{i}", f"http://{o}.example/{i}") for i in range(400) for o in ("bad", "ok")]
    hand.submit(job("a", group("a", *specs)))

    done = []
    while (attempt := hand.fetch()) is not None:
        if attempt.task.spec.path.startswith("ok"):
            done.append(attempt.task.spec.path)
            hand.succeed(attempt)
        elif ails == "dead":
            hand.settle(attempt, failure("connect_failed", retry_after_s=900))

    assert len(set(done)) == len(done) == 400


def test_more_waiting_tasks_than_the_queue_keeps_all_get_their_turn(monkeypatch):
    monkeypatch.setattr("fetchd.engine.runs.MOST_WAITING", 50)
    hand = EngineByHand()
    specs = [spec(f"f{i}", f"http://h{i % 100}.example/{i}") for i in range(400)]
    hand.submit(job("a", group("a", *specs)))

    failed = 0
    while (attempt := hand.fetch()) is not None:
        failed += 1
        hand.settle(attempt, failure("connect_failed", retry_after_s=900))
    hand.clock.advance(902)
    hand.engine.tick()

    assert failed == 400
    assert len(set(hand.run_all())) == 400
    assert hand.engine.idle()
    hand.close()


def listed(name: str = "l") -> TaskGroup:
    return TaskGroup(name=name, items=ListFile(path="/lists/l.urls"))


def test_a_list_becomes_tasks_batch_by_batch_and_they_run_meanwhile():
    batches = {
        0: Batch(
            specs=(spec("a"), spec("x", problem=("bad_item", "l.urls:2: no"))),
            position=Position(offset_bytes=9, prefix_sha256="p", lines=2),
        ),
        9: Batch(specs=(spec("b"),), position=None),
    }
    hand = EngineByHand(expand=lambda job, group, run, at: batches[at.offset_bytes if at else 0])
    answer = hand.submit(job("l", listed()))

    assert hand.expand_once()
    first = hand.fetch()
    assert first.task.spec.path == "a"
    assert hand.engine.view().runs[0].list_open
    hand.succeed(first)
    assert not hand.engine.idle()
    assert hand.expand_once()
    assert hand.run_all() == ["b"]

    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.succeeded, view.tasks.failed) == (RunState.FAILED, 2, 1)
    (expanded,) = of(hand, events.RunExpanded)
    assert expanded.tasks == 3
    hand.close()


def seconds_until_read(hand: EngineByHand) -> float:
    """Let time pass until somebody may take an expansion."""
    waited_s = 0.0
    while not hand.can_expand():
        hand.clock.advance(0.5)
        hand.engine.tick()
        waited_s += 0.5
        assert waited_s < 100
    return waited_s


@pytest.mark.parametrize("restarted", [False, True])
def test_a_list_is_tried_again_a_few_times_at_growing_intervals(restarted):
    hand = EngineByHand()
    answer = hand.submit(job("l", listed()))

    waits_s = []
    while not hand.engine.idle():
        waits_s.append(seconds_until_read(hand))
        (attempt,) = hand.engine.take(Expand, 1)
        hand.settle(attempt, failure("disk_error"))
        if restarted:
            hand = EngineByHand(store=hand.store, clock=hand.clock)
            hand.engine.recover({})

    assert waits_s == [0, 1, 2, 4, 8, 16]
    assert [f.detail for f in hand.store.failures(answer.run, 5)] == ["disk_error"]
    hand.close()


def test_what_could_be_read_of_a_list_begins_its_intervals_anew():
    position = Position(offset_bytes=9, prefix_sha256="p", lines=1)
    hand = EngineByHand(expand=lambda *_: Batch(specs=(spec("a"),), position=position))
    hand.submit(job("l", listed()))

    waits_s = []
    for _ in range(2):
        for _ in range(2):
            waits_s.append(seconds_until_read(hand))
            (attempt,) = hand.engine.take(Expand, 1)
            hand.settle(attempt, failure("disk_error"))
        waits_s.append(seconds_until_read(hand))
        assert hand.expand_once()
        hand = EngineByHand(expand=hand.engine._expand, store=hand.store, clock=hand.clock)
        hand.engine.recover({})

    assert waits_s == [0, 1, 2, 0, 1, 2]
    hand.close()


def test_a_clock_that_was_set_back_between_two_lives_holds_up_no_list():
    hand = EngineByHand()
    hand.submit(job("l", listed()))
    (attempt,) = hand.engine.take(Expand, 1)
    hand.settle(attempt, failure("disk_error"))

    hand.clock.set_wall(-86_400)
    hand = EngineByHand(store=hand.store, clock=hand.clock)
    hand.engine.recover({})

    assert seconds_until_read(hand) <= 16
    hand.close()


def test_a_list_that_was_changed_fails_what_is_left_of_it():
    hand = EngineByHand()
    answer = hand.submit(job("l", listed()))

    (attempt,) = hand.engine.take(Expand, 1)
    hand.settle(attempt, failure("list_changed", transient=False))

    assert hand.store.run_view(answer.run).state is RunState.FAILED
    assert [f.detail for f in hand.store.failures(answer.run, 5)] == ["list_changed"]
    hand.close()


def test_retry_reads_a_list_anew_that_could_not_be_read():
    batches = [
        Batch(specs=(spec("a"),), position=Position(offset_bytes=9, prefix_sha256="p", lines=1)),
        Batch(specs=(spec("a"), spec("b")), position=None),
    ]
    hand = EngineByHand(expand=lambda *_: batches.pop(0))
    answer = hand.submit(job("l", listed()))
    hand.expand_once()
    assert hand.run_all() == ["a"]
    (attempt,) = hand.engine.take(Expand, 1)
    hand.settle(attempt, failure("list_changed", transient=False))
    assert hand.store.run_view(answer.run).state is RunState.FAILED

    reply = hand.engine.obey(Retry(job="l"))
    hand.expand_once()

    assert reply.done
    assert hand.run_all() == ["b"]
    view = hand.store.run_view(answer.run)
    assert (view.state, view.tasks.total) == (RunState.SUCCEEDED, 2)
    assert not hand.engine.obey(Retry(job="l")).done
    hand.close()


@pytest.mark.parametrize("outcome", ["batch", "interrupted"])
def test_a_list_that_is_being_read_when_its_run_is_cancelled_ends_it_once(outcome):
    hand = EngineByHand()
    answer = hand.submit(job("l", listed()))
    (attempt,) = hand.engine.take(Expand, 1)

    hand.engine.obey(Cancel(job="l"))
    batch = Batch(specs=(spec("a"),), position=None)
    hand.settle(attempt, Expanded(batch=batch) if outcome == "batch" else Interrupted())

    assert hand.engine.idle()
    assert len(of(hand, events.RunEnded)) == 1
    assert hand.store.run_view(answer.run).state is RunState.CANCELLED
    hand.close()


def test_a_batch_that_is_recorded_while_its_run_is_cancelled_leaves_no_open_task():
    hand = EngineByHand()
    answer = hand.submit(job("l", listed()))
    (attempt,) = hand.engine.take(Expand, 1)
    go_on = threading.Event()

    hand.store._ledger.post(lambda db: go_on.wait(5))
    hand.engine.settle([(attempt, Expanded(batch=Batch(specs=(spec("a"),), position=None)))])
    other = threading.Thread(target=lambda: hand.engine.obey(Cancel(job="l")))
    other.start()
    go_on.set()
    other.join()
    hand.calm()

    assert hand.engine.idle()
    counts = hand.store.run_view(answer.run).tasks
    assert (counts.open, counts.cancelled) == (0, 1)
    (ended,) = of(hand, events.RunEnded)
    assert (ended.state, ended.cancelled) == ("cancelled", 1)
    hand.close()


def test_a_list_without_an_item_ends_its_run_as_succeeded():
    hand = EngineByHand(expand=lambda *_: Batch(specs=(), position=None))
    answer = hand.submit(job("l", listed()))

    assert hand.expand_once()

    assert hand.store.run_view(answer.run).state is RunState.SUCCEEDED
    assert hand.engine.idle()
    hand.close()


# ---------------------------------------------------------------- what an origin bears and asks for


def asked(retry_after_s: float, number: int = 429) -> Failure:
    return failure("bad_status", status=number, retry_after_s=retry_after_s)


def test_a_retry_whose_time_came_while_its_origin_is_shut_waits_for_the_origin_alone(hasty):
    hasty.submit(job("a", group("a", spec("a"), retry=QUICK)))
    hasty.submit(job("b", group("b", spec("b"))))
    first, second = hasty.fetch(), hasty.fetch()
    hasty.settle(first, failure())
    hasty.settle(second, asked(30))
    waits = {run.job: run.waiting for run in hasty.engine.view().runs}
    assert waits == {"a": {"retry": 1}, "b": {"retry": 1}}

    hasty.clock.advance(2.1)
    assert hasty.fetch() is None

    waits = {run.job: run.waiting for run in hasty.engine.view().runs}
    assert waits == {"a": {"origin": 1}, "b": {"retry": 1}}


def test_what_one_run_is_asked_for_all_runs_heed_and_only_the_one_that_met_it_is_charged(hand):
    for name in "abc":
        hand.submit(job(name, group(name, spec(name))))
    met = hand.fetch()
    hand.settle(met, asked(30))

    assert hand.fetch() is None
    waits = {run.job: run.waiting for run in hand.engine.view().runs}
    assert waits == {"a": {"retry": 1}, "b": {"origin": 1}, "c": {"origin": 1}}
    hand.clock.advance(29.9)
    assert hand.fetch() is None
    hand.clock.advance(2.1)
    hand.engine.tick()
    numbers = {}
    while (attempt := hand.fetch()) is not None:
        numbers[attempt.job.name] = attempt.number
        hand.succeed(attempt)

    assert numbers == {"a": 2, "b": 1, "c": 1}
    (shut,) = of(hand, events.OriginShut)
    assert (shut.origin, shut.cause, shut.delay_s) == ("http://one.example:80", "asked", 30)
    assert len(of(hand, events.OriginOpened)) == 1


def test_nobody_slips_through_between_an_outcome_and_what_it_shuts(hand):
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    attempt = hand.fetch()
    queue, shut_when_released = hand.engine._queue, []
    release = queue.release

    def watched(entry):
        shut_when_released.append(dict(queue._shut))
        release(entry)

    queue.release = watched
    hand.settle(attempt, asked(30))

    assert shut_when_released == [{"http://one.example:80": hand.clock.monotonic() + 30}]


def test_an_entry_that_was_taken_while_its_origin_was_shut_goes_back(hasty):
    hasty.submit(job("a", group("a", spec("f"), spec("g"))))
    first = hasty.fetch()
    queue = hasty.engine._queue
    take = queue.take

    def take_late():
        queue.take = take
        entry = take()
        hasty.engine.settle([(first, asked(30))])
        return entry

    queue.take = take_late
    late = hasty.fetch()
    hasty.clock.advance(32)

    assert late is None
    assert {hasty.fetch().task.spec.path for _ in range(2)} == {"f", "g"}


def test_other_origins_go_on_while_one_is_shut(hand):
    hand.submit(job("a", group("a", spec("f"), spec("g"), spec("h", "http://two.example/h"))))
    hand.settle(hand.fetch(), asked(30))

    assert hand.run_all() == ["h"]


def test_many_origins_that_are_shut_do_not_keep_those_behind_them_from_the_queue(hand):
    specs = [spec(f"{n}-{i}", f"http://h{n:03}.example/{i}") for n in range(200) for i in range(2)]
    hand.submit(job("a", group("a", *specs)))

    met = []
    while (attempt := hand.fetch()) is not None:
        met.append(attempt.source)
        hand.settle(attempt, asked(900))

    assert len(met) == len({source.split("/")[2] for source in met}) == 200


def test_a_mirror_is_asked_at_once_when_an_origin_is_shut(hand):
    two = spec("f", "http://one.example/f", "http://two.example/f")
    hand.submit(job("a", group("a", two)))
    hand.settle(hand.fetch(), asked(30))

    assert hand.fetch().source == "http://two.example/f"


def test_a_wish_in_a_good_answer_is_heeded_at_once(hand):
    hand.submit(job("a", group("a", spec("f"), spec("g"))))
    attempt = hand.fetch()
    wish = ("http://cdn.example:80", 12.0)
    hand.engine.report(attempt, Progress(wish=wish))

    assert hand.fetch() is None
    assert {one.origin for one in of(hand, events.OriginShut)} == {
        "http://cdn.example:80",
        "http://one.example:80",
    }
    hand.succeed(attempt)
    hand.clock.advance(12)
    assert hand.run_all() == ["g"]


def test_tasks_behind_a_breaker_wait_for_one_that_finds_out_and_are_not_charged(hasty):
    hasty.submit(job("a", group("a", *[spec(f"f{i}") for i in range(20)])))
    for _ in range(5):
        hasty.settle(hasty.fetch(), failure("connect_failed"))
    assert hasty.fetch() is None

    hasty.clock.advance(2)
    probe = hasty.fetch()
    assert hasty.fetch() is None
    hasty.settle(probe, failure("connect_failed"))
    assert hasty.fetch() is None
    hasty.clock.advance(4)
    hasty.succeed(hasty.fetch())
    hasty.clock.advance(10)

    while (attempt := hasty.fetch()) is not None:
        hasty.succeed(attempt)
    (ended,) = of(hasty, events.RunEnded)
    assert ended.state is RunState.SUCCEEDED
    assert sum(done.attempts for done in of(hasty, events.TaskDone)) == 20 + 6


def test_a_run_of_a_dead_origin_ends(hasty):
    answer = hasty.submit(job("a", group("a", *[spec(f"f{i}") for i in range(40)], retry=QUICK)))

    began_s = hasty.clock.monotonic()
    while not hasty.engine.idle():
        attempt = hasty.fetch()
        if attempt is None:
            hasty.clock.advance(0.5)
            hasty.engine.tick()
        else:
            hasty.settle(attempt, failure("connect_failed"))

    assert hasty.store.run_view(answer.run).tasks.failed == 40
    assert hasty.clock.monotonic() - began_s < 20


def test_the_view_shows_what_holds_for_an_origin():
    own = OriginBounds(connections=2, requests_per_s=10.0, by="origins")
    hand = EngineByHand(clock=StepClock(), origins={"http://one.example:80": own})
    hand.submit(job("a", group("a", spec("f"), spec("g"), spec("h"))))
    first = hand.fetch()
    early = hand.fetch()
    hand.clock.advance(0.1)
    second = hand.fetch()
    hand.clock.advance(0.1)
    third = hand.fetch()
    (origin,) = hand.engine.view().origins
    hand.settle(second, asked(30))
    (later,) = hand.engine.view().origins
    hand.close()

    assert first is not None
    assert second is not None
    assert (early, third) == (None, None)
    assert (origin.connections, origin.out, origin.requests_per_s, origin.bound_by) == (
        *(2, 2, 10.0),
        "origins",
    )
    assert origin.shut_until_s is None
    assert (later.connections, later.out, later.shut_until_s) == (1, 1, hand.clock.wall() + 30)


# ---------------------------------------------------------------- a new life on the same store


@pytest.fixture
def lives(tmp_path):
    """A function that starts a new life on one database; the earlier one just stops existing."""
    made: list[EngineByHand] = []
    clock = FakeClock()

    def begin(store_type=SqliteStore, **options) -> EngineByHand:
        if made:
            made[-1].close()
        store = store_type(str(tmp_path / "state.db"), clock, lambda _: None)
        made.append(EngineByHand(store=store, clock=clock, **options))
        return made[-1]

    yield begin
    made[-1].close()


def test_accepted_tasks_go_on_in_the_next_life(lives):
    lives().submit(job("a", group("a", spec("f"), spec("g"))))

    second = lives()
    second.engine.recover({})

    assert second.run_all() == ["f", "g"]
    assert second.engine.idle()


def test_a_shut_origin_is_shut_in_the_next_life_until_its_time(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"), spec("g"))))
    first.settle(first.fetch(), asked(30))

    second = lives()
    second.clock.advance(10)
    second.engine.recover({})
    assert second.fetch() is None
    second.clock.advance(21)

    assert sorted(second.run_all()) == ["f", "g"]


def test_what_was_learned_is_recorded_from_time_to_time_and_at_the_end(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"), spec("g", "http://two.example/g"))))
    first.succeed(first.fetch())
    before = first.store.origins(0.0)
    first.clock.advance(30)
    first.engine.tick()
    first.calm()
    between = first.store.origins(0.0)
    first.succeed(first.fetch())
    first.engine.finish_publishing()

    assert before == []
    assert [one.origin for one in between] == ["http://one.example:80"]
    assert len(first.store.origins(0.0)) == 2


@pytest.mark.parametrize(
    "kind", [events.TaskStarted, events.TaskVerified, events.TaskRetryScheduled]
)
def test_c10_an_engine_that_cannot_act_on_what_it_decided_stops_and_loses_nothing(lives, kind):
    told = []

    def tell(event):
        if type(event) is kind and event.path == "g":
            raise MemoryError("no room")
        told.append(event)

    first = lives(tell=tell)
    first.submit(job("a", group("a", spec("f"), spec("g"), retry=QUICK)))
    first.settle(first.fetch(), failure())

    def fail():
        attempt = first.fetch()
        verified = Fetched(intent=intent_for(attempt))
        first.settle(attempt, verified if kind is events.TaskVerified else failure())

    for call in (fail, first.engine.tick, lambda: first.engine.settle([])):
        with pytest.raises(StoreError, match="MemoryError: no room"):
            call()
    second = lives()
    second.engine.recover({})
    second.publish_all()
    second.clock.advance(10.0)
    second.run_all()

    (died,) = [event for event in told if isinstance(event, events.ThreadDied)]
    assert (died.replaced, "MemoryError" in died.traceback) == (False, True)
    assert of(second, events.RunEnded)[0].succeeded == 2
    assert second.engine.idle()


def test_c10_what_is_settled_while_the_engine_breaks_off_is_refused(lives):
    refused: list[events.Event] = []

    def tell(event):
        if isinstance(event, events.ThreadDied):  # on the thread that failed, its lock given back
            with pytest.raises(StoreError, match="no room"):
                first.engine.settle([published(second)])
            refused.append(event)

    def published(attempt):
        return attempt, Published(intent=attempt.intent, mtime_ns=1, inode=1)

    class Reluctant(SqliteStore):
        full = False

        def record(self, changes, then=None):
            if self.full:
                self.full = False
                raise MemoryError("no room")
            super().record(changes, then)

    first = lives(tell=tell, store_type=Reluctant)
    first.submit(job("a", group("a", spec("f"), spec("g"))))
    for attempt in (first.fetch(), first.fetch()):
        first.settle(attempt, Fetched(intent=intent_for(attempt)))
    one, second = first.publish()
    first.store.full = True
    with pytest.raises(StoreError, match="no room"):
        first.engine.settle([published(one)])
    life = lives()
    life.engine.recover({})
    life.publish_all()

    assert len(refused) == 1
    assert of(life, events.RunEnded)[0].succeeded == 2
    assert life.engine.idle()


def test_a_crash_is_charged_only_without_durable_progress(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"))))
    first.fetch()
    first.calm()

    for durable, crashes in ((0, 1), (100, 1), (100, 2)):
        life = lives()
        life.engine.recover({("default", "f"): durable})
        attempt = life.fetch()
        assert attempt.task.history.crashes == crashes
        life.calm()


def test_n20_rule_36_the_last_word_about_refused_content_says_where_it_lies(hand):
    hand.submit(job("a", group("a", spec("f", "http://one.example/f", "http://two.example/f"))))
    for quarantine in ("q", ""):
        attempt = hand.fetch()
        dossier = Dossier(
            url=attempt.source, final_url=attempt.source, expected=(), quarantine=quarantine
        )
        hand.settle(attempt, failure("expectation_failed", transient=False, dossier=dossier))

    (told,) = of(hand, events.TaskFailed)
    (shown,) = hand.store.failures(told.run, 9)
    assert (told.quarantine, len(told.causes)) == ("q", 2)
    assert shown.dossier == Dossier(
        url="http://one.example/f",
        final_url="http://one.example/f",
        expected=(),
        quarantine="q",
    )


def test_the_record_of_what_was_made_is_of_use_while_its_destination_is_known(hand):
    hand.submit(job("a", group("a", spec("f"))))

    assert hand.engine.needs_record("default", "f", KEEP_PARTS_S + 1)
    assert hand.engine.needs_record("default", "g", KEEP_PARTS_S - 1)
    assert not hand.engine.needs_record("default", "g", KEEP_PARTS_S + 1)


def test_what_lies_in_quarantine_is_kept_for_a_week(hand):
    assert hand.engine.needs_part("default", "", KEEP_PARTS_S - 1)
    assert not hand.engine.needs_part("default", "", KEEP_PARTS_S + 1)


def test_a_task_that_keeps_killing_the_daemon_runs_alone_and_then_is_poison(lives):
    life = lives(poison=1)
    answer = life.submit(job("a", group("a", spec("f"), spec("g"))))
    life.fetch()
    life.calm()

    life = lives(poison=1)
    life.engine.recover({})
    suspect = life.fetch()
    assert suspect.task.spec.path == "f"
    assert life.fetch() is None
    life.calm()

    life = lives(poison=1)
    life.engine.recover({})
    assert life.run_all() == ["g"]
    (failed,) = life.store.failures(answer.run, 5)
    assert (failed.path, failed.detail) == ("f", "poison")


def crash_while_reading(life: EngineByHand) -> Expand:
    assert life.can_expand()
    (attempt,) = life.engine.take(Expand, 1)
    return attempt


@pytest.mark.parametrize("of", ["list", "condition"])
def test_what_kills_the_daemon_when_it_is_read_is_read_alone_and_then_is_poison(lives, of):
    suspect = listed() if of == "list" else on_condition(group("l", spec("f")))
    life = lives(poison=1)
    answer = life.submit(job("l", suspect))
    life.submit(job("other", group("other", spec("g"), spec("h"))))
    crash_while_reading(life)

    life = lives(poison=1)
    life.engine.recover({})
    g = life.fetch()
    not_alone = life.expand_once_or_put_off()
    nothing_starts = life.fetch()
    life.succeed(g)
    life.engine.tick()
    crash_while_reading(life)
    meanwhile = life.fetch()

    life = lives(poison=1)
    life.engine.recover({})
    paths = life.run_all()

    assert (not_alone, nothing_starts, meanwhile) == (False, None, None)
    assert paths == ["h"]
    (failed,) = life.store.failures(answer.run, 5)
    assert failed.detail == "poison"
    assert life.store.run_view(answer.run).state is RunState.FAILED
    assert life.engine.idle()


def test_that_somebody_begins_to_read_is_on_record_before_that(tmp_path):
    path = str(tmp_path / "db")
    life = EngineByHand(store=SqliteStore(path, FakeClock(), print))
    life.submit(job("l", listed()))
    life.calm()
    life.engine.take(Expand, 1)

    with sqlite3.connect(path) as db:
        begun = db.execute("SELECT begun FROM task_group").fetchall()
    life.close()

    assert begun == [(1,)]


def test_when_what_is_suspected_was_read_all_others_go_on(lives):
    batch = Batch(specs=(spec("f"),), position=None)
    life = lives(poison=1, expand=lambda *_: batch)
    life.submit(job("l", listed()))
    crash_while_reading(life)

    life = lives(poison=1, expand=lambda *_: batch)
    life.engine.recover({})
    assert life.expand_once()

    assert life.run_all() == ["f"]
    assert life.engine.idle()


def test_a_suspect_whose_run_is_cancelled_holds_up_nobody(lives):
    life = lives(poison=1)
    life.submit(job("l", listed()))
    life.submit(job("other", group("other", spec("g"), spec("h"))))
    crash_while_reading(life)

    life = lives(poison=1)
    life.engine.recover({})
    g = life.fetch()
    life.expand_once_or_put_off()
    life.engine.obey(Cancel(job="l"))
    life.engine.tick()

    assert life.fetch().task.spec.path == "h"
    assert g.task.spec.path == "g"


@pytest.mark.parametrize("how", ["a batch", "a stop", "poison: 0"])
def test_a_list_is_charged_for_no_crash_that_is_not_its_own(lives, how):
    batches = itertools.count(1)

    def expand(*_):
        at = Position(offset_bytes=next(batches), prefix_sha256="p", lines=1)
        return Batch(specs=(spec(f"f{at.offset_bytes}"),), position=at)

    poison = 0 if how == "poison: 0" else 1
    for _ in range(4):
        life = lives(poison=poison, expand=expand)
        life.engine.recover({})
        if not life.engine.view().runs:
            life.submit(job("l", listed()))
        if how == "a batch":
            assert life.expand_once()
        attempt = crash_while_reading(life)
        if how == "a stop":
            life.settle(attempt, Interrupted())

    assert not of(life, events.TaskFailed)
    assert life.engine.view().runs[0].list_open


def test_a_condition_that_can_be_decided_hides_no_list_that_cannot_be_read(lives):
    life = lives(poison=1)
    answer = life.submit(job("l", on_condition(listed())))
    for _ in range(2):
        life.settle(decision(life), Decided(holds=True))
        crash_while_reading(life)
        life = lives(poison=1)
        life.engine.recover({})
    life.calm()

    (failed,) = life.store.failures(answer.run, 5)
    assert failed.detail == "poison"
    assert life.engine.idle()


def test_a_committed_intent_is_published_in_the_next_life_and_verified_again(lives):
    first = lives()
    answer = first.submit(job("a", group("a", spec("f"))))
    attempt = first.fetch()
    first.settle(attempt, Fetched(intent=intent_for(attempt)))

    second = lives()
    found = second.engine.recover({})
    (publish,) = second.publish()
    assert isinstance(publish, Publish)
    second.settle(publish, Published(intent=publish.intent, mtime_ns=1, inode=2))

    assert found == (1, 0, 1)
    assert publish.recovered
    assert publish.intent == intent_for(attempt)
    assert second.store.run_view(answer.run).state is RunState.SUCCEEDED


def test_a_cancel_outlives_its_life(lives):
    first = lives()
    answer = first.submit(job("a", group("a", spec("f"), spec("g"))))
    assert first.fetch() is not None
    first.engine.obey(Cancel(job="a"))

    second = lives()
    second.engine.recover({})
    second.calm()

    assert second.fetch() is None
    assert second.engine.idle()
    assert second.store.run_view(answer.run).state is RunState.CANCELLED


def test_a_cancelled_list_is_not_read_in_the_next_life(lives):
    def expand(job, group, run, at):
        return Batch(
            specs=(spec(f"f{at.lines if at else 0}"),),
            position=Position(offset_bytes=1, prefix_sha256="p", lines=1),
        )

    first = lives(expand=expand)
    answer = first.submit(job("l", listed()))
    first.expand_once()
    attempt = first.fetch()
    first.settle(attempt, Fetched(intent=intent_for(attempt)))
    first.engine.obey(Cancel(job="l"))

    second = lives(expand=expand)
    second.engine.recover({})
    second.publish_all()

    assert not second.expand_once()
    assert second.engine.idle()
    view = second.store.run_view(answer.run)
    assert (view.state, view.tasks.succeeded) == (RunState.CANCELLED, 1)


def test_a_wait_outlives_its_life(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"), retry=QUICK)))
    first.settle(first.fetch(), failure())

    second = lives()
    second.engine.recover({})

    assert second.fetch() is None
    second.clock.advance(3)
    assert second.fetch().number == 2


def test_the_time_of_waiting_for_a_file_goes_on_over_lives(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"), retry=replace(QUICK, wait_for_s=100))))
    first.settle(first.fetch(), not_there())

    second = lives()
    second.engine.recover({})
    second.calm()
    (view,) = second.engine.view().runs
    second.clock.advance(90)
    second.settle(second.fetch(), not_there())
    second.clock.advance(10)
    second.settle(second.fetch(), not_there())

    assert view.waiting == {"not_yet": 1}
    assert len(of(second, events.TaskFailed)) == 1


def test_a_wait_that_ran_out_between_two_lives_is_not_shown_as_one(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"), retry=QUICK)))
    first.settle(first.fetch(), failure())
    first.clock.advance(5)

    second = lives()
    second.engine.recover({})
    second.calm()

    (view,) = second.engine.view().runs
    assert view.waiting == {}
    assert second.fetch() is not None
    (view,) = second.engine.view().runs
    assert view.waiting == {}


def test_a_distant_wait_is_found_again_by_the_tick(lives):
    first = lives()
    first.submit(job("a", group("a", spec("f"))))
    first.settle(first.fetch(), Deferred(reason="disk", detail="", delay_s=500))

    second = lives()
    second.engine.recover({})
    assert second.ready() == 0
    second.clock.advance(480)
    second.engine.tick()
    assert second.ready() == 1
    assert second.fetch() is None
    second.clock.advance(21)

    assert second.fetch() is not None


def test_a_list_goes_on_at_its_position(lives):
    position = Position(offset_bytes=9, prefix_sha256="p", lines=2)
    asked = []

    def expand(job, group, run, at):
        asked.append(at)
        return Batch(specs=(spec(f"f{len(asked)}"),), position=position if at is None else None)

    first = lives(expand=expand)
    first.submit(job("l", listed()))
    first.expand_once()

    second = lives(expand=expand)
    second.engine.recover({})
    second.expand_once()

    assert asked == [None, position]
    assert sorted(second.run_all()) == ["f1", "f2"]


def test_items_of_a_group_of_one_survive_for_those_who_refer_to_it(lives):
    lives().submit(job("a", group("a", spec("f"))))

    second = lives()
    (opened,) = second.store.open_runs()

    assert opened.groups[0].group.items == (Item(url="http://one.example/f", filename="f"),)


# ---------------------------------------------------------------- full roots

FULL = Deferred(reason="disk", detail="it is full", delay_s=30.0)


def fill(hand: EngineByHand, root: str = "default") -> None:
    """Let attempts in a root end in vain until the engine believes it."""
    for _ in range(MOST_IN_VAIN):
        attempt = hand.fetch()
        assert attempt.group.rules.root == root
        hand.settle(attempt, FULL)


def waiting(hand: EngineByHand, job_name: str) -> dict[str, int]:
    (run,) = [run for run in hand.engine.view().runs if run.job == job_name]
    return dict(run.waiting)


def test_d01_a_full_root_is_asked_no_more_while_another_goes_on(hand):
    many = [spec(f"f{number:02}") for number in range(MOST_IN_VAIN + 20)]
    hand.submit(job("full", group("full", *many, root="default")))
    fill(hand)
    hand.submit(job("other", group("other", spec("o"), root="second")))

    attempt = hand.fetch()
    hand.succeed(attempt)

    assert attempt.task.spec.path == "o"
    (told,) = of(hand, events.RootFull)
    assert (told.root, told.reason, told.delay_s) == ("default", "it is full", 30.0)
    assert len(of(hand, events.TaskDeferred)) == MOST_IN_VAIN
    assert waiting(hand, "full")["disk"] > MOST_IN_VAIN


def test_d01_when_its_time_is_up_a_full_root_is_tried_by_a_few_and_all_are_fetched(hand):
    paths = [f"f{number:02}" for number in range(MOST_IN_VAIN + 20)]
    hand.submit(job("full", group("full", *map(spec, paths))))
    fill(hand)
    hand.submit(job("other", group("other", spec("o"), root="second")))
    hand.succeed(hand.fetch())
    hand.clock.advance(29.0)
    hand.engine.tick()
    early = hand.engine._admission.let_go(hand.clock.monotonic())
    hand.clock.advance(1.5)
    hand.engine.tick()

    assert early == []
    assert sorted(hand.run_all()) == paths
    assert hand.engine.idle()


def test_a_file_that_alone_does_not_fit_does_not_park_its_root(hand):
    hand.submit(job("a", group("a", *(spec(f"f{number}") for number in range(40)))))

    for _ in range(20):
        hand.settle(hand.fetch(), FULL)
        hand.succeed(hand.fetch())

    assert of(hand, events.RootFull) == []


def test_n12_while_one_mirror_may_have_room_the_next_is_asked_at_once_and_nothing_is_charged(hand):
    hand.submit(job("a", group("a", spec("f", "http://one.example/f", "http://two.example/f"))))
    misfit = replace(FULL, elsewhere=True)

    hand.settle(hand.fetch(), misfit)
    second = hand.fetch()
    hand.settle(second, misfit)
    nothing = hand.fetch()
    wait = waiting(hand, "a")
    hand.clock.advance(31.0)
    first = hand.fetch()
    hand.succeed(first)

    assert (second.source, second.number) == ("http://two.example/f", 1)
    assert (nothing, wait) == (None, {"disk": 1})
    assert (first.source, first.number) == ("http://one.example/f", 1)
    assert hand.engine.idle()


def test_d01_a_file_with_many_mirrors_that_does_not_fit_does_not_park_its_root(hand):
    mirrors = [f"http://m{number}.example/f" for number in range(MOST_IN_VAIN + 1)]
    hand.submit(job("a", group("a", spec("f", *mirrors))))

    for _ in mirrors:
        hand.settle(hand.fetch(), replace(FULL, elsewhere=True))

    assert waiting(hand, "a") == {"disk": 1}
    assert of(hand, events.RootFull) == []


def test_a_job_that_waits_for_a_full_root_can_be_cancelled_and_tried_again(hand):
    many = [spec(f"f{number:02}") for number in range(MOST_IN_VAIN + 20)]
    hand.submit(job("full", group("full", *many)))
    fill(hand)
    hand.submit(job("other", group("other", spec("o"), root="second")))
    hand.succeed(hand.fetch())

    answer = hand.engine.obey(Cancel(job="full"))
    hand.calm()
    hand.clock.advance(31.0)
    hand.engine.tick()

    assert answer.done
    assert hand.ready() == 0
    assert hand.store.run_view(answer.run).tasks.cancelled == len(many)


def test_d01_a_disk_that_is_full_when_a_file_is_published_costs_no_attempt(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(attempt := hand.fetch(), Fetched(intent=intent_for(attempt)))
    (publish,) = hand.publish()

    hand.settle(publish, failure("disk_full"))
    wait = waiting(hand, "a")
    hand.clock.advance(31.0)
    again = hand.fetch()
    hand.succeed(again)

    assert wait == {"disk": 1}
    assert again.number == 1
    assert hand.engine.idle()
    (ended,) = of(hand, events.RunEnded)
    assert (ended.state, ended.bytes) == ("succeeded", 10)


def test_d01_what_took_long_to_fetch_is_not_soon_fetched_for_a_disk_that_takes_it_only_to_lose_it(
    hand,
):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=replace(intent_for(attempt), elapsed_s=60.0)))
    (publish,) = hand.publish()

    hand.settle(publish, failure("disk_full"))
    hand.clock.advance(599.0)
    early = hand.fetch()
    hand.clock.advance(2.0)

    assert early is None
    assert hand.fetch().number == 1


def test_d01_a_full_file_system_below_a_root_holds_up_only_what_goes_there(hand):
    many = [spec(f"big/f{number:02}") for number in range(MOST_IN_VAIN + 2)]
    hand.submit(job("full", group("full", *many)))
    for _ in range(MOST_IN_VAIN):
        hand.settle(hand.fetch(), replace(FULL, home="big"))
    hand.submit(job("other", group("other", spec("o"), spec("bigger"))))

    goes_on = [hand.fetch(), hand.fetch()]

    assert sorted(attempt.task.spec.path for attempt in goes_on) == ["bigger", "o"]
    (told,) = of(hand, events.RootFull)
    assert (told.root, told.home) == ("default", "big")


def test_d01_a_full_root_does_not_hold_up_what_is_known_to_be_mounted_below_it(hand):
    hand.submit(job("small", group("small", spec("big/a"))))
    attempt = hand.fetch()
    hand.settle(attempt, Fetched(intent=intent_for(attempt), home="big"))
    many = [spec(f"f{number:02}") for number in range(MOST_IN_VAIN + 2)]
    hand.submit(job("full", group("full", *many)))
    fill(hand)
    hand.submit(job("other", group("other", spec("big/b"))))

    assert hand.fetch().task.spec.path == "big/b"


def test_d01_p24_one_that_fits_has_its_turn_amid_many_that_do_not(hasty):
    misfits = [spec(f"f{number:03}") for number in range(100)]
    hasty.submit(job("a", group("a", *misfits, spec("small"))))

    for _ in range(20):
        while (attempt := hasty.fetch()) and attempt.task.spec.path != "small":
            hasty.settle(attempt, FULL)
        if attempt:
            break
        hasty.clock.advance(31.0)
        hasty.engine.tick()

    assert attempt is not None
    assert len(of(hasty, events.RootFull)) == len(misfits) // MOST_IN_VAIN


def test_d01_what_ends_after_its_file_system_was_parked_says_nothing_of_the_next_time(hasty):
    many = [spec(f"f{number:02}") for number in range(4 * MOST_IN_VAIN)]
    hasty.submit(job("a", group("a", *many)))
    stragglers = [hasty.fetch() for _ in range(MOST_IN_VAIN // 2)]
    for _ in range(MOST_IN_VAIN):
        hasty.settle(hasty.fetch(), FULL)
    for straggler in stragglers:
        hasty.settle(straggler, FULL)
    nothing = hasty.fetch()
    hasty.clock.advance(31.0)
    hasty.engine.tick()

    for _ in range(MOST_IN_VAIN - 1):
        hasty.settle(hasty.fetch(), FULL)

    assert nothing is None
    assert len(of(hasty, events.RootFull)) == 1


# ---------------------------------------------------------------- parts that cannot be published

KEPT = failure("disk_error", kept=True)


@pytest.mark.parametrize("crashed", [False, True])
def test_d04_a_part_that_is_as_it_was_verified_is_published_again_and_not_fetched(lives, crashed):
    hand = lives()
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(attempt := hand.fetch(), Fetched(intent=intent_for(attempt)))
    if crashed:
        hand.calm()
        hand = lives()
        hand.engine.recover({})

    fences = []
    for failures in range(MOST_PUBLISH_FAILURES):
        (publish,) = hand.publish()
        fences.append(publish.fence)
        assert (publish.failures, publish.recovered) == (failures, crashed)
        hand.settle(publish, KEPT)
        wait = waiting(hand, "a")
        hand.engine.tick()
        early = hand.publish()
        hand.clock.advance(31.0)
        hand.engine.tick()
        assert (wait, early, hand.fetch()) == ({"retry": 1}, [], None)
    (publish,) = hand.publish()
    hand.settle(publish, Published(intent=publish.intent, mtime_ns=1, inode=2))

    assert len(set(fences)) == MOST_PUBLISH_FAILURES
    assert hand.engine.idle()
    (ended,) = of(hand, events.RunEnded)
    assert (ended.state, ended.bytes) == ("succeeded", 10)
    (done,) = of(hand, events.TaskDone)
    assert done.attempts == 1


def test_d04_a_part_that_cannot_be_published_again_and_again_is_fetched_anew(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(attempt := hand.fetch(), Fetched(intent=intent_for(attempt)))

    for _ in range(MOST_PUBLISH_FAILURES + 1):
        (publish,) = hand.publish()
        hand.settle(publish, KEPT)
        hand.clock.advance(31.0)
        hand.engine.tick()

    assert hand.publish() == []
    assert hand.fetch().number == 2


@pytest.mark.parametrize("code", ["disk_full", "disk_read_only"])
def test_d01_d06_a_part_that_cannot_be_named_for_its_disk_waits_as_long_as_it_takes(hand, code):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(attempt := hand.fetch(), Fetched(intent=intent_for(attempt)))

    for _ in range(2 * MOST_PUBLISH_FAILURES):
        (publish,) = hand.publish()
        hand.settle(publish, failure(code, kept=True))
        wait = waiting(hand, "a")
        hand.clock.advance(31.0)
        hand.engine.tick()
        assert (wait, hand.fetch()) == ({"disk": 1}, None)

    assert len(hand.publish()) == 1


def test_what_waits_to_be_published_ends_with_its_cancelled_run(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(attempt := hand.fetch(), Fetched(intent=intent_for(attempt)))
    (publish,) = hand.publish()
    hand.settle(publish, KEPT)

    hand.engine.obey(Cancel(job="a"))
    hand.engine.tick()
    (publish,) = hand.publish()
    hand.settle(publish, KEPT)

    assert hand.engine.idle()
    (ended,) = of(hand, events.RunEnded)
    assert (ended.state, ended.cancelled, ended.bytes) == ("cancelled", 1, 0)


# ---------------------------------------------------------------- an acceptance cut short


class ForgetfulStore(SqliteStore):
    """Has no memory left once new jobs are on record."""

    out_of_memory = True

    def add_jobs(self, jobs, kept=()):
        opened = super().add_jobs(jobs, kept)
        if self.out_of_memory:
            self.out_of_memory = False
            raise MemoryError
        return opened


def test_a_run_that_is_on_record_goes_on_even_if_its_acceptance_was_cut_short():
    clock = FakeClock()
    hand = EngineByHand(store=ForgetfulStore(None, clock, print), clock=clock)
    with pytest.raises(MemoryError):
        hand.submit(job("a", group("a", spec("f"))), file="a.yaml")

    answer = hand.submit(job("a", group("a", spec("f"))), file="a.yaml")
    (path,) = hand.run_all()

    assert (answer.done, answer.repeated, path) == (True, True, "f")
    assert hand.engine.idle()
    hand.close()


class ForgetfulToReopen(SqliteStore):
    """Has no memory left once a run is open again on record."""

    out_of_memory = True

    def reopen(self, run):
        opened = super().reopen(run)
        if self.out_of_memory:
            self.out_of_memory = False
            raise MemoryError
        return opened


@pytest.mark.parametrize("command", [Retry, Cancel])
def test_a_run_that_is_open_on_record_can_be_commanded_even_if_its_retry_was_cut_short(command):
    clock = FakeClock()
    hand = EngineByHand(store=ForgetfulToReopen(None, clock, print), clock=clock)
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.settle(hand.fetch(), failure("bad_status", transient=False))
    with pytest.raises(MemoryError):
        hand.engine.obey(Retry(job="a"))

    answer = hand.engine.obey(command(job="a"))
    fetched = hand.run_all()

    assert answer.done is (command is Cancel)
    assert fetched == ([] if command is Cancel else ["f"])
    assert hand.engine.idle()
    hand.close()


def test_what_is_fetched_again_after_its_publication_failed_knows_the_file_that_it_replaces(hand):
    hand.submit(job("a", group("a", spec("f"), retry=QUICK)))
    hand.succeed(hand.fetch())
    hand.submit(job("b", group("b", spec("f"), retry=QUICK)))
    hand.settle(first := hand.fetch(), Fetched(intent=intent_for(first)))
    (publish,) = hand.publish()

    hand.settle(publish, failure("disk_error"))
    hand.clock.advance(31.0)
    again = hand.fetch()

    assert first.previous is not None
    assert again.previous == first.previous


def test_d01_many_that_wait_for_a_full_file_system_do_not_hide_what_stands_behind_them(hasty):
    many = [spec(f"big/f{number:04}") for number in range(TASKS_AN_ORIGIN + 100)]
    hasty.submit(job("a", group("a", *many, spec("o"))))
    for _ in range(MOST_IN_VAIN):
        hasty.settle(hasty.fetch(), replace(FULL, home="big"))

    attempt = hasty.fetch() or hasty.fetch()  # once to park what was read, and more is read

    assert attempt.task.spec.path == "o"


# ---------------------------------------------------------------- mirrors

ONE, TWO = "http://one.example", "http://two.example"


def mirrored(*names: str):
    return job("a", group("a", *[spec(n, f"{ONE}/{n}", f"{TWO}/{n}") for n in names], retry=QUICK))


def arrived(attempt, bytes_per_s: float) -> Fetched:
    intent = replace(intent_for(attempt, 1_000_000), elapsed_s=1_000_000 / bytes_per_s)
    return Fetched(intent=replace(intent, received_bytes=1_000_000))


def test_n35_files_go_to_the_mirror_that_was_faster_and_back_when_that_one_fails(hand):
    hand.submit(job("slow", group("g", spec("s", f"{ONE}/s"))))
    hand.settle(attempt := hand.fetch(), arrived(attempt, 1e5))
    hand.submit(job("fast", group("g", spec("q", f"{TWO}/q"))))
    hand.settle(attempt := hand.fetch(), arrived(attempt, 1e6))
    hand.publish_all()

    hand.submit(mirrored("f"))
    first = hand.fetch()
    hand.settle(first, failure())
    second = hand.fetch()
    hand.settle(second, failure())
    hand.clock.advance(10.0)
    third = hand.fetch()

    assert [a.source for a in (first, second, third)] == [f"{TWO}/f", f"{ONE}/f", f"{TWO}/f"]
    assert third.task.history.round == 1


def test_n31_a_mirror_that_served_two_wrong_digests_is_asked_last_in_this_run(hand):
    hand.submit(mirrored("f", "g", "h"))
    for _ in range(2):
        attempt = hand.fetch()
        assert attempt.source.startswith(ONE)
        hand.settle(attempt, failure("checksum_mismatch", transient=False))
    asked = []
    while (attempt := hand.fetch()) is not None:
        asked.append(attempt.source)
        hand.succeed(attempt)

    (banned,) = of(hand, events.MirrorBanned)
    assert banned.origin == f"{ONE}:80"
    assert sorted(asked) == [f"{TWO}/f", f"{TWO}/g", f"{TWO}/h"]
    hand.submit(job("next", group("next", spec("n", f"{ONE}/n", f"{TWO}/n"))))
    assert hand.fetch().source.startswith(ONE)


# ---------------------------------------------------------------- files that servers name


def test_a_task_whose_file_was_named_goes_on_at_once_and_uncharged(hand):
    hand.submit(job("a", group("a", spec("./x~1"))))
    asked = hand.fetch()
    hand.settle(asked, Named(path="d/one"))
    view = hand.engine.view().runs[0]
    again = hand.fetch()
    hand.succeed(again)

    assert (again.task.spec.path, again.task.spec.key) == ("d/one", "./x~1")
    assert (asked.number, again.number, again.task.history.attempts) == (1, 1, 0)
    assert (view.tasks.ready, view.tasks.running) == (1, 0)
    (file,) = hand.store.files(1)
    assert (file.path, file.state, file.attempts) == ("d/one", "succeeded", 1)
    assert [event.named for event in hand.events if isinstance(event, events.TaskNamed)] == [
        "d/one"
    ]
    assert hand.engine.idle()


def test_of_two_files_with_one_name_the_second_fails_and_the_run_ends(hand):
    hand.submit(job("a", group("a", spec("./x~1"), spec("./x~2"))))
    first, second = hand.fetch(), hand.fetch()
    hand.settle(first, Named(path="one"))
    hand.settle(second, Named(path="one"))

    assert hand.run_all() == ["one"]
    assert hand.store.run_view(1).state is RunState.FAILED
    (failed,) = hand.store.failures(1, 9)
    assert (failed.path, failed.detail) == ("./x~2", "dest_conflict")
    assert [(event.path, event.code) for event in of(hand, events.TaskFailed)] == [
        ("one", "dest_conflict")
    ]
    assert hand.engine.idle()


@pytest.mark.parametrize("first", ["named", "other"])
def test_a_file_gets_no_name_that_an_open_task_of_another_run_has(hand, first):
    """Also a later one, which may have begun by then."""
    jobs = [job("named", group("a", spec("./x~1"))), job("other", group("b", spec("one")))]
    for one in sorted(jobs, key=lambda one: one.name != first):
        hand.submit(one)
    attempts = {attempt.job.name: attempt for attempt in (hand.fetch(), hand.fetch())}
    hand.settle(attempts["named"], Named(path="one"))
    waits = [run.waiting for run in hand.engine.view().runs if run.job == "named"]
    nothing = hand.fetch()
    hand.succeed(attempts["other"])
    hand.clock.advance(30)
    hand.engine.tick()
    asked = hand.fetch()
    hand.settle(asked, Named(path="one"))
    again = hand.fetch()

    assert (waits, nothing) == ([{"same_dest": 1}], None)
    assert (asked.task.spec.path, again.task.spec.path) == ("./x~1", "one")
    assert again.previous is not None
    assert of(hand, events.TaskDeferred)[0].wait == "same_dest"


def test_a_later_run_waits_for_the_file_that_has_got_its_name(hand):
    hand.submit(job("a", group("a", spec("./x~1"))))
    hand.settle(hand.fetch(), Named(path="one"))
    named = hand.fetch()
    hand.submit(job("b", group("b", spec("one"))))

    assert hand.fetch() is None
    hand.succeed(named)
    assert hand.run_all() == ["one"]


def test_a_cancel_that_comes_before_the_name_is_on_record_counts_each_task_once(hand):
    hand.submit(job("a", group("a", spec("./x~1"), spec("one"))))
    asked, other = hand.fetch(), hand.fetch()
    hand.engine.settle([(asked, Named(path="one"))])  # which is taken
    hand.engine.obey(Cancel(job="a"))
    hand.settle(other, Interrupted())

    view = hand.store.run_view(1)
    assert view.state is RunState.CANCELLED
    assert (view.tasks.open, view.tasks.total) == (0, 2)
    assert hand.engine.idle()


def test_a_failure_that_ends_the_rest_before_the_name_is_on_record_counts_each_task_once(hand):
    tasks = group("a", spec("./x~1"), spec("one"), spec("two"))
    hand.submit(replace(job("a", tasks), fail_fast=True))
    asked, other, broken = hand.fetch(), hand.fetch(), hand.fetch()
    hand.engine.settle([(asked, Named(path="one"))])  # which is taken
    hand.settle(broken, Failure(code="bad_status", reason="404", transient=False))
    hand.settle(other, Interrupted())
    (view,) = hand.engine.view().runs

    assert view.tasks == hand.store.run_view(1).tasks
    assert (view.tasks.open, view.tasks.failed, view.tasks.total) == (0, 2, 3)


def test_a_failure_before_the_name_is_known_is_charged_and_remembered(hand):
    hand.submit(job("a", group("a", spec("./x~1"), retry=QUICK)))
    hand.settle(hand.fetch(), Failure(code="stalled", reason="", transient=True))
    hand.clock.advance(60)
    hand.settle(hand.fetch(), Named(path="one"))
    again = hand.fetch()

    assert (again.number, again.task.history.attempts) == (2, 1)
