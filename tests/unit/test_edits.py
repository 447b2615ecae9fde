"""An edit of a kept job while its run is on is a difference of tasks: an engine by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.engine.decisions import DISK_DELAY_S
from fetchd.engine.editing import EDIT_LOOK_S, FREE_S, FREEZE_S, FROZEN_LOOK_S
from fetchd.events import EditWaits, RunRevised, TaskInterrupted
from fetchd.listeners import Stats
from fetchd.model import (
    Batch,
    Cancel,
    Condition,
    Failure,
    Fetched,
    Finish,
    Finished,
    Interrupted,
    ListFile,
    Manifest,
    Named,
    Position,
    Progress,
    Published,
    Rules,
    RunState,
    Staged,
    StepSpec,
    Submit,
    TaskGroup,
    TaskState,
)
from fetchd.stores import SqliteStore
from fetchd.urls import HERE
from harness import EngineByHand, FakeClock, StepClock, expand_specs, group, intent_for, job, spec


def kept(revision, *groups, name="a", **more):
    return replace(job(name, *groups, revision=revision, **more), keep=True)


class Hand(EngineByHand):
    def edit(self, revision, *groups, **more):
        return self.submit(kept(revision, *groups, **more), file="a.yaml")

    def wanted(self, attempt) -> bool:
        return self.engine.report(attempt, Progress())

    def leave(self, attempt) -> None:
        self.settle(attempt, Interrupted())

    def files(self) -> dict[str, str]:
        return {file.path: file.state.value for file in self.store.files(1)}

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def hand():
    made = Hand()
    yield made
    made.close()


def test_what_is_the_same_goes_on_what_is_gone_stops_and_what_is_new_starts(hand):
    hand.edit("r1", group("a", spec("same"), spec("gone")))
    same, gone = hand.fetch(), hand.fetch()

    answer = hand.edit("r2", group("a", spec("same"), spec("new")))
    wanted = hand.wanted(same), hand.wanted(gone)
    new = hand.fetch()
    nothing = hand.fetch()
    hand.leave(gone)
    hand.succeed(same)
    hand.succeed(new)

    assert (answer.done, answer.run, answer.stays) == (True, 1, True)
    assert wanted == (True, False)
    assert (new.task.spec.path, nothing) == ("new", None)
    assert hand.files() == {"same": "succeeded", "new": "succeeded"}
    assert hand.store.run_view(1).state is RunState.SUCCEEDED
    assert hand.store.run_view(1).revision == "r2"
    assert hand.engine.idle()
    (told,) = hand.told(RunRevised)
    assert (told.added, told.changed, told.removed) == (1, 0, 1)
    assert [event.path for event in hand.told(TaskInterrupted)] == ["gone"]


def test_a_file_that_is_wanted_otherwise_begins_anew_and_its_attempt_is_of_no_use(hand):
    hand.edit("r1", group("a", spec("f", "http://one.example/old")))
    old = hand.fetch()
    hand.edit("r2", group("a", spec("f", "http://one.example/new")))
    not_yet = hand.fetch()  # its part is still in use

    hand.settle(old, Fetched(intent=intent_for(old)))  # it had not heard of that
    new = hand.fetch()
    hand.succeed(new)

    assert not_yet is None
    assert new.source == "http://one.example/new"
    assert hand.files() == {"f": "succeeded"}
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_what_is_done_stays_done_unless_it_is_wanted_otherwise(hand):
    hand.edit("r1", group("a", spec("done"), spec("again"), spec("open")))
    hand.succeed(hand.fetch())
    hand.succeed(hand.fetch())
    hand.edit("r2", group("a", spec("done"), spec("again", "http://two.example/x"), spec("open")))

    assert sorted(hand.run_all()) == ["again", "open"]
    assert set(hand.files().values()) == {"succeeded"}


def test_rules_of_how_to_fetch_change_nothing_and_rules_of_what_is_right_begin_anew(hand):
    hand.edit("r1", group("a", spec("f"), spec("g")))
    hand.succeed(hand.fetch())
    under_way = hand.fetch()
    hand.edit("r2", group("a", spec("f"), spec("g"), segments=4))
    how = hand.wanted(under_way)
    hand.edit("r3", group("a", spec("f"), spec("g"), headers=(("X-A", "b"),)))
    what = hand.wanted(under_way)
    hand.leave(under_way)

    assert (how, what) == (True, False)
    assert sorted(hand.run_all()) == ["f", "g"]


def test_groups_come_and_go_and_needs_are_asked_anew(hand):
    hand.edit("r1", group("one", spec("1")), group("two", spec("2"), needs=("one",)))
    hand.edit("r2", group("two", spec("2")), group("three", spec("3"), needs=("two",)))

    assert hand.run_all() == ["2", "3"]
    assert hand.files() == {"2": "succeeded", "3": "succeeded"}
    assert hand.engine.idle()


def test_a_file_that_moves_to_another_group_is_no_conflict_with_itself(hand):
    hand.edit("r1", group("one", spec("f")), group("two", spec("2")))
    hand.succeed(hand.fetch())
    hand.edit("r2", group("other", spec("f")), group("two", spec("2")))
    hand.run_all()

    assert hand.files() == {"f": "succeeded", "2": "succeeded"}
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_a_run_ends_only_when_the_last_attempt_that_was_stopped_is_back(hand):
    hand.edit("r1", group("a", spec("f"), spec("gone")))
    hand.succeed(hand.fetch())
    gone = hand.fetch()
    hand.edit("r2", group("a", spec("f")))
    on = hand.engine.idle()
    hand.leave(gone)

    assert on is False
    assert hand.engine.idle()
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_two_edits_in_a_row_before_anything_is_back(hand):
    hand.edit("r1", group("a", spec("f", "http://one.example/1")))
    first = hand.fetch()
    hand.edit("r2", group("a", spec("f", "http://one.example/2")))
    hand.edit("r3", group("a", spec("f", "http://one.example/1")))
    hand.leave(first)
    hand.succeed(hand.fetch())

    assert hand.files() == {"f": "succeeded"}
    assert hand.engine.idle()


def test_an_edit_waits_until_what_is_verified_is_published(hand):
    hand.edit("r1", group("a", spec("f"), spec("g")))
    f, g = hand.fetch(), hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))
    early = hand.edit("r2", group("a", spec("new")))
    wanted = hand.wanted(g)
    hand.publish_all()
    late = hand.edit("r2", group("a", spec("new")))
    hand.leave(g)

    assert (early.done, early.later, early.stays) == (False, True, True)
    assert wanted  # nothing has changed by then
    assert late.done
    assert hand.run_all() == ["new"]
    assert hand.files() == {"f": "succeeded", "new": "succeeded"}


def test_what_would_have_started_or_ended_while_an_edit_waited_in_vain_is_not_lost(hand):
    hand.edit("r1", group("a", spec("f"), spec("g"), spec("h")))
    f, g = hand.fetch(), hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))

    answer = hand.edit("r2", group("a", spec("new")))
    with hand.engine._deciding() as effects:
        took = hand.engine._start(hand.engine._queue.take(), effects)
    hand.settle(g, Fetched(intent=intent_for(g)))
    hand.clock.advance(FREEZE_S)
    hand.engine.tick()
    hand.publish_all()

    assert (answer.later, took) == (True, None)
    assert hand.run_all() == ["h"]
    assert set(hand.files().values()) == {"succeeded"}


def test_an_edit_keeps_nobody_waiting_whatever_its_run_is_about():
    hand = Hand(clock=StepClock())  # whoever waits fails
    hand.edit("r1", group("a", spec("f"), spec("g")))
    f = hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))

    first = hand.edit("r2", group("a", spec("new")))
    frozen = hand.fetch()
    hand.clock.advance(FREEZE_S)
    hand.engine.tick()
    second = hand.edit("r2", group("a", spec("new")))
    g = hand.fetch()
    hand.clock.advance(FREE_S)
    hand.edit("r2", group("a", spec("new")))
    hand.publish_all()
    third = hand.edit("r2", group("a", spec("new")))
    hand.leave(g)

    assert (first.done, first.again_s, frozen) == (False, FROZEN_LOOK_S, None)
    assert (second.done, second.again_s, g.task.spec.path) == (False, EDIT_LOOK_S, "g")
    assert third.done
    assert hand.run_all() == ["new"]
    hand.close()


def test_a_stop_while_an_edit_keeps_its_run_still_is_no_crash(tmp_path):
    path, clock = str(tmp_path / "s.db"), FakeClock()
    hand = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    hand.edit("r1", group("a", spec("f"), spec("g"), spec("h")))
    f, g, h = hand.fetch(), hand.fetch(), hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))
    hand.edit("r2", group("a", spec("new")))
    hand.leave(g)
    hand.engine.stop()
    hand.leave(h)
    hand.close()

    again = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    again.engine.recover({})
    ready = {again.fetch().task.spec.path for _ in "gh"}
    found = again.store.unfinished()
    again.close()

    assert ready == {"g", "h"}
    assert [one.task.history.crashes for one in found] == [0, 0, 0]


@pytest.mark.parametrize("code", ["disk_full", "disk_error"])
def test_an_edit_does_not_keep_a_run_still_whose_publication_is_held_up(hand, code):
    hand.edit("r1", group("a", spec("f"), spec("g")))
    f = hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))
    (publish,) = hand.publish()
    full = Failure(code=code, reason="full", transient=True, kept=True)
    hand.settle(publish, full)

    early = hand.edit("r2", group("a", spec("f"), spec("g"), spec("new")))
    paths = [hand.fetch().task.spec.path]
    hand.clock.advance(DISK_DELAY_S)
    hand.engine.tick()
    hand.publish_all()
    late = hand.edit("r2", group("a", spec("f"), spec("g"), spec("new")))

    assert (early.done, early.again_s, paths) == (False, EDIT_LOOK_S, ["g"])
    assert late.done


def test_an_edit_that_is_asked_for_often_is_expanded_once():
    expanded = []

    def expand(job, group, run, position):
        expanded.append(job.revision)
        return expand_specs(job, group, run, position)

    hand = Hand(expand=expand)
    hand.edit("r1", replace(group("a", spec("f")), when=Condition(text="${x}")))
    again = Submit(job=kept("r2", group("a", spec("f"))), raw=b"", file="a.yaml")
    answers = [hand.engine.obey(again) for _ in range(5)]

    assert {(one.later, one.again_s) for one in answers} == {(True, EDIT_LOOK_S)}
    assert expanded == ["r1", "r2"]
    hand.close()


def test_a_run_that_is_cancelled_while_an_edit_keeps_it_still_ends(hand):
    hand.edit("r1", group("a", spec("f"), spec("g")))
    f, g = hand.fetch(), hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))
    hand.edit("r2", group("a", spec("new")))
    hand.settle(g, Fetched(intent=intent_for(g)))

    hand.engine.obey(Cancel(job="a"))
    hand.clock.advance(FREEZE_S)
    hand.engine.tick()
    hand.publish_all()

    assert hand.store.run_view(1).state is RunState.CANCELLED
    assert hand.engine.idle()


def with_steps(*paths, mode=0o640):
    made = group("a", *map(spec, paths))
    return replace(made, steps=(StepSpec(name="mode", options={"mode": mode}),))


def finish(hand, attempt):
    """Let a file be verified, its steps be taken, and it be published; return the steps."""
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    (steps,) = hand.engine.take(Finish, 1)
    hand.settle(steps, Finished(staged=Staged(files=1, bytes=10)))
    hand.publish_all()
    return steps.group.steps


def test_an_edit_of_steps_holds_for_what_is_done_under_way_and_to_come(hand):
    hand.edit("r1", with_steps("done", "out", "open"))
    finish(hand, hand.fetch())
    out = hand.fetch()
    answer = hand.edit("r2", with_steps("done", "out", "open", "new", mode=0o600))
    wanted = hand.wanted(out)
    of_out = finish(hand, out)
    others = {}
    while (attempt := hand.fetch()) is not None:
        others[attempt.task.spec.path] = finish(hand, attempt)

    assert (answer.done, wanted) == (True, True)
    assert set(others) == {"done", "open", "new"}
    assert {steps[0].options["mode"] for steps in (of_out, *others.values())} == {0o600}
    assert set(hand.files().values()) == {"succeeded"}
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_an_edit_that_leaves_the_steps_alone_makes_nothing_again(hand):
    hand.edit("r1", with_steps("done"), group("b", spec("f")))
    finish(hand, hand.fetch())
    hand.edit("r2", with_steps("done"), group("b", spec("f"), spec("g")))

    assert sorted(hand.run_all()) == ["f", "g"]


def test_an_edit_waits_until_steps_that_have_begun_are_taken(hand):
    hand.edit("r1", with_steps("f", "g"))
    f = hand.fetch()
    hand.settle(f, Fetched(intent=intent_for(f)))
    (steps,) = hand.engine.take(Finish, 1)
    early = hand.edit("r2", with_steps("f", "g", "new"))
    hand.settle(steps, Finished(staged=Staged(files=1, bytes=10)))
    hand.publish_all()
    late = hand.edit("r2", with_steps("f", "g", "new"))

    assert (early.done, late.done) == (False, True)
    assert hand.files() == {"f": "succeeded", "g": "ready", "new": "ready"}


def test_an_edit_of_a_run_with_conditions_waits_for_its_end(hand):
    unmet = replace(spec("unmet"), skip=True)
    asked = replace(group("asked", spec("f")), when=Condition(text="${x}"))
    each = replace(group("each", unmet, spec("met")), when=Condition(text="${x}", each=True))

    for number, made in enumerate((asked, each)):
        hand.submit(kept("r1", made, name=f"job-{number}"), file=f"{number}.yaml")
        plain = replace(made, when=None, items=group("x", spec("f"), spec("unmet")).items)
        answer = hand.submit(kept("r2", plain, name=f"job-{number}"), file=f"{number}.yaml")

        assert (answer.done, answer.later, answer.stays) == (False, True, True)
        assert answer.reason.endswith("the edit holds from the next run")


def test_concurrency_counts_what_is_under_way_since_before_the_edit(hand):
    hand.edit("r1", group("a", spec("f"), spec("g")), concurrency=1)
    f = hand.fetch()
    hand.edit("r2", group("a", spec("f"), spec("g"), spec("h")), concurrency=1)
    more = hand.fetch()
    hand.succeed(f)

    assert more is None
    assert hand.run_all() == ["g", "h"]


def test_a_cancel_after_an_edit_ends_all_of_it(hand):
    hand.edit("r1", group("a", spec("f"), spec("g", "http://one.example/1")))
    f, g = hand.fetch(), hand.fetch()
    hand.edit("r2", group("a", spec("f"), spec("g", "http://one.example/2"), spec("h")))
    hand.engine.obey(Cancel(job="a"))
    hand.leave(f)
    hand.leave(g)

    assert hand.store.run_view(1).state is RunState.CANCELLED
    assert hand.engine.idle()


def test_an_edit_outlives_a_crash_at_once(tmp_path):
    clock = FakeClock()
    path = str(tmp_path / "s.db")
    first = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    first.edit("r1", group("a", spec("f", "http://one.example/1"), spec("gone")))
    first.fetch()
    first.fetch()
    first.edit("r2", group("a", spec("f", "http://one.example/2"), spec("new")))
    first.close()
    second = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    second.engine.recover({})

    assert sorted(second.run_all()) == ["f", "new"]
    assert second.files() == {"f": "succeeded", "new": "succeeded"}
    assert second.store.run_view(1).revision == "r2"
    second.close()


def listed(name, path, **rules):
    return TaskGroup(name=name, items=ListFile(path=path), rules=Rules(**rules))


def test_a_list_that_is_the_same_is_read_on_and_another_one_waits_for_the_end_of_the_run():
    def expand(job, group, run, position):
        if not isinstance(group.items, ListFile):
            return expand_specs(job, group, run, position)
        first = 0 if position is None else position.offset_bytes
        after = Position(offset_bytes=first + 1, prefix_sha256="", lines=first + 1)
        made = spec(f"{group.items.path}/{first}")
        return Batch(specs=(made,), position=after if first < 2 else None)

    hand = Hand(expand=expand)
    hand.edit("r1", listed("a", "one"), group("b", spec("f")))
    hand.expand_once()
    f, under_way = sorted((hand.fetch(), hand.fetch()), key=lambda one: one.task.spec.path)
    hand.edit("r2", listed("a", "one"), group("b", spec("g")))
    hand.leave(f)
    same = hand.wanted(under_way), sorted(hand.files())
    hand.succeed(under_way)
    hand.expand_once()
    other = hand.edit("r3", listed("a", "two"), group("b", spec("g")))
    while hand.expand_once():
        pass
    hand.run_all()

    assert same == (True, ["g", "one/0"])
    assert (other.done, other.later) == (False, True)
    assert sorted(hand.files()) == ["g", "one/0", "one/1", "one/2"]
    assert set(hand.files().values()) == {"succeeded"}
    assert hand.engine.idle()
    hand.close()


def test_the_totals_add_up_after_an_edit(hand):
    stats = Stats(hand.clock)
    hand.engine._tell = stats
    hand.edit("r1", group("a", spec("f"), spec("gone"), spec("also")))
    f, gone = hand.fetch(), hand.fetch()
    hand.edit("r2", group("a", spec("f"), spec("new")))
    during = stats.snapshot()
    hand.leave(gone)
    hand.succeed(f)
    hand.run_all()
    after = stats.snapshot()

    assert (during["queued"], during["running"]) == (1, 1)
    assert (after["queued"], after["running"], after["tasks_succeeded"]) == (0, 0, 2)


# ---------------------------------------------------------------- in whatever order

PATHS = ["f", "g", "h", "i"]
FILES = st.dictionaries(st.sampled_from(PATHS), st.integers(1, 2), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), FILES, st.booleans()),
        st.tuples(st.just("take"), st.none(), st.none()),
        st.tuples(st.just("settle"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("publish"), st.none(), st.none()),
    ),
    max_size=25,
)


def groups_of(files, two_groups):
    specs = [spec(path, f"http://one.example/{path}/{n}") for path, n in sorted(files.items())]
    if not two_groups:
        return [group("all", *specs)]
    return [group("all", *specs[::2]), *([group("odd", *specs[1::2])] if specs[1:] else [])]


@settings(max_examples=150)
@given(first=FILES, steps=STEPS)
def test_after_any_edits_the_run_ends_with_just_what_the_last_one_says(first, steps):
    hand = Hand()
    out, published, now, number, current = [], {}, first, 1, False

    def publish():
        for attempt in hand.publish():
            published[attempt.task.spec.path] = attempt.intent.url
            hand.engine.settle([(attempt, Published(intent=attempt.intent, mtime_ns=1, inode=1))])
            hand.calm()

    def settle(attempt, succeeds):
        if succeeds or hand.wanted(attempt):
            hand.settle(attempt, Fetched(intent=intent_for(attempt)))
        else:
            hand.leave(attempt)

    hand.edit("r1", *groups_of(first, two_groups=False))
    vars(hand.clock)["wait"] = lambda *_: None
    for step, value, flag in steps:
        if step == "take" and (attempt := hand.fetch()) is not None:
            out.append(attempt)
        elif step == "settle" and out:
            settle(out.pop(value % len(out)), flag)
        elif step == "publish":
            publish()
        elif step == "edit":
            publish()
            number += 1
            answer = hand.edit(f"r{number}", *groups_of(value, flag))
            assert answer.done or (answer.later and not answer.stays)
            now = value if answer.done else now
            current = answer.done
    for _ in range(40):
        while out:
            settle(out.pop(), succeeds=False)
            publish()
        if (attempt := hand.fetch()) is None:
            publish()
            if hand.engine.idle():
                break
        else:
            out.append(attempt)

    assert hand.engine.idle()
    assert not hand.engine._queue._out
    last = max(run.id for run in hand.engine._recent)
    assert {run.state for run in hand.engine._recent} == {RunState.SUCCEEDED}
    states = Counter(file.state for file in hand.store.files(last))
    assert set(states) == {TaskState.SUCCEEDED}
    for path, n in now.items():
        assert published[path] == f"http://one.example/{path}/{n}", current
    hand.close()


# ---------------------------------------------------------------- files that servers name


def name(hand, attempt, path: str) -> None:
    hand.settle(attempt, Named(path=path))


def test_a_file_that_its_server_has_named_is_the_same_after_an_edit(hand):
    one, two, three = spec("./x~1"), spec("./x~2"), spec("./x~3")
    hand.edit("r1", group("a", one, two, three))
    name(hand, hand.fetch(), "one")
    name(hand, hand.fetch(), "two")
    name(hand, hand.fetch(), "three")
    hand.succeed(hand.fetch())
    running = hand.fetch()

    hand.edit("r2", group("a", one, two, spec("new")))

    assert hand.wanted(running)
    hand.succeed(running)
    assert hand.run_all() == ["new"]
    assert hand.files() == {"one": "succeeded", "two": "succeeded", "new": "succeeded"}


def test_a_file_that_is_wanted_otherwise_keeps_the_name_that_its_server_gave(hand):
    hand.edit("r1", group("a", spec("./x~1"), spec("f")))
    name(hand, hand.fetch(), "one")
    other = hand.fetch()
    hand.succeed(hand.fetch())
    hand.edit("r2", group("a", spec("./x~1"), spec("f"), max_bytes=9))
    hand.leave(other)

    assert sorted(hand.run_all()) == ["f", "one"]
    assert hand.files() == {"f": "succeeded", "one": "succeeded"}


def test_a_file_of_another_url_may_get_the_name_of_one_that_an_edit_has_taken_away(hand):
    slow = spec("slow", "http://two.example/slow")
    hand.edit("r1", group("a", spec("./d/x~1"), spec("./d/x~2"), slow))
    asked = {attempt.task.spec.path: attempt for attempt in [hand.fetch() for _ in range(3)]}
    name(hand, asked["./d/x~1"], "d/one")
    name(hand, asked["./d/x~2"], "d/two")
    hand.run_all()
    hand.edit("r2", group("a", spec("./d/x~2"), spec("./d/x~3"), slow))
    name(hand, hand.fetch(), "d/one")
    hand.run_all()
    hand.succeed(asked["slow"])

    assert hand.files() == {"d/one": "succeeded", "d/two": "succeeded", "slow": "succeeded"}
    assert [file.url for file in hand.store.files(1)][-1] == "http://one.example/./d/x~3"


def test_a_name_that_comes_during_an_edit_is_taken_in_behind_it(hand):
    hand.edit("r1", group("a", spec("./x~1")))
    attempt = hand.fetch()
    revise = hand.store.revise

    def meanwhile(*of):
        hand.engine.settle([(attempt, Named(path="one"))])
        return revise(*of)

    hand.store.revise = meanwhile
    hand.edit("r2", group("a", spec("./x~1"), spec("f")))

    assert sorted(hand.run_all()) == ["f", "one"]


def with_a_list(url: str = "http://one.example/old", *more: str) -> list[TaskGroup]:
    """``list`` works on ``a``, and ``lists`` on that; ``slow`` keeps the run open."""
    lists = [("list", ("a", *more)), ("lists", ("list",))]
    steps = (StepSpec(name="checksum_file"),)
    return [
        group("a", spec("a", url)),
        group("slow", spec("slow", "http://two.example/slow")),
        *(
            replace(group(name, spec(f"./{name}", HERE), needs=needs), steps=steps, gathers=True)
            for name, needs in lists
        ),
    ]


@pytest.fixture
def steps():
    made = Hand(clock=StepClock())
    yield made
    made.close()


def finish_all(hand: Hand) -> list[str]:
    """Begin all fetches and take all steps that may begin; returns whose steps."""
    names: list[str] = []
    while True:
        while hand.fetch() is not None:
            pass
        hand.calm()
        if not len(hand.engine._to_finish):
            return names
        (attempt,) = hand.engine.take(Finish, 1)
        names.append(attempt.group.name)
        hand.settle(attempt, Finished(staged=Staged(files=1, bytes=1)))
        hand.publish_all()


def test_what_is_made_of_others_files_is_made_anew_when_an_edit_changes_these(steps):
    steps.edit("r1", *with_a_list())
    old, slow = steps.fetch(), steps.fetch()
    steps.succeed(old)
    first = finish_all(steps)
    steps.edit("r2", *with_a_list("http://one.example/new"))
    early = steps.files()
    steps.succeed(steps.fetch())
    again = finish_all(steps)
    steps.succeed(slow)

    assert first == again == ["list", "lists"]
    assert (early["./list"], early["./lists"]) == ("ready", "ready")
    assert steps.store.run_view(1).state is RunState.SUCCEEDED


def test_what_is_made_of_others_files_is_made_anew_when_an_edit_gives_it_others(steps):
    other = group("other", spec("other", "http://two.example/other"))
    steps.edit("r1", other, *with_a_list())
    attempts = [steps.fetch() for _ in range(3)]
    for attempt in attempts[:2]:
        steps.succeed(attempt)
    finish_all(steps)
    steps.edit("r2", other, *with_a_list("http://one.example/old", "other"))

    assert [a.group.name for a in attempts] == ["other", "a", "slow"]
    assert finish_all(steps) == ["list", "lists"]


def test_what_is_made_of_others_files_stays_when_an_edit_leaves_these_alone(steps):
    steps.edit("r1", *with_a_list())
    steps.succeed(steps.fetch())
    first = finish_all(steps)
    steps.edit("r2", *with_a_list(), group("new", spec("new", "http://two.example/new")))

    assert (first, finish_all(steps)) == (["list", "lists"], [])


def test_an_edit_that_waits_for_the_next_run_is_told_once(hand):
    when = Condition(text="${run.id} == 1")
    hand.edit("r1", replace(group("a", spec("a")), when=when))
    edit = Submit(job=kept("r2", group("a", spec("b"))), raw=b"", file="a.yaml")
    answers = [hand.engine.obey(edit) for _ in range(3)]
    hand.edit("r3", group("a", spec("c")))

    assert {answer.later for answer in answers} == {True}
    told = [(one.job, one.run, one.file, one.revision) for one in hand.told(EditWaits)]
    assert told == [("a", 1, "a.yaml", "r2"), ("a", 1, "a.yaml", "r3")]


# ---------------------------------------------------------------- what was skipped for a failure


def test_what_was_skipped_for_a_failure_is_done_when_an_edit_mends_that(hand):
    def groups(url: str) -> list[TaskGroup]:
        slow = group("slow", spec("slow", "http://two.example/slow"))
        needs = group("b", spec("b"), needs=("a",)), group("c", spec("c"), needs=("b",))
        return [group("a", spec("a", url)), slow, *needs]

    hand.edit("r1", *groups("http://one.example/old"))
    broken, slow = hand.fetch(), hand.fetch()
    hand.settle(broken, Failure(code="bad_status", reason="404", transient=False))
    before = hand.files()
    hand.edit("r2", *groups("http://one.example/new"))
    done = hand.run_all()
    hand.succeed(slow)

    assert before == {"a": "failed", "slow": "running", "b": "skipped", "c": "skipped"}
    assert done == ["a", "b", "c"]
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_what_was_skipped_for_a_failure_is_skipped_again_when_an_edit_does_not_mend_that(hand):
    slow = group("slow", spec("slow", "http://two.example/slow"))
    groups = group("a", spec("a")), slow, group("b", spec("b"), needs=("a",))
    hand.edit("r1", *groups)
    broken, under_way = hand.fetch(), hand.fetch()
    hand.settle(broken, Failure(code="bad_status", reason="404", transient=False))
    hand.edit("r2", *groups, group("new", spec("new")))
    done = hand.run_all()
    hand.succeed(under_way)

    assert done == ["new"]
    assert hand.files()["b"] == "skipped"
    assert hand.store.run_view(1).state is RunState.FAILED


def test_an_edit_waits_for_the_next_run_where_a_list_was_never_read_for_a_failure(hand):
    slow = group("slow", spec("slow", "http://two.example/slow"))
    listed = replace(
        group("b", needs=("a",)), manifest=Manifest(file="${needs.a.path}", format="lines")
    )
    hand.edit("r1", group("a", spec("a")), slow, listed)
    broken, _ = hand.fetch(), hand.fetch()
    early = hand.edit("r2", group("a", spec("a")), slow, listed, group("d", spec("d")))
    hand.settle(broken, Failure(code="bad_status", reason="404", transient=False))
    late = hand.edit("r3", group("a", spec("a", "http://one.example/new")), slow, listed)

    assert (early.done, late.done, late.later) == (True, False, True)


@pytest.mark.parametrize(("read", "waits"), [(True, True), (False, False)])
def test_an_edit_of_what_a_manifest_comes_from_waits_where_that_was_read(read, waits):
    def expanded(job, group, run, position) -> Batch:
        listed = group.manifest is not None
        specs = (spec("p"),) if listed else expand_specs(job, group, run, position).specs
        return Batch(specs=specs, position=None)

    def groups(url: str) -> list[TaskGroup]:
        manifest = Manifest(file="${needs.a.path}", format="lines")
        slow = group("slow", spec("slow", "http://two.example/slow"))
        first = group("root", spec("root", url)), group("a", spec("a"), needs=("root",))
        return [*first, slow, replace(group("p", needs=("a",)), manifest=manifest)]

    hand = Hand(expand=expanded)
    hand.edit("r1", *groups("http://one.example/old"))
    attempts = [hand.fetch(), hand.fetch()]
    if read:
        hand.succeed(attempts[0])
        hand.succeed(hand.fetch())
        assert hand.expand_once()
    answer = hand.edit("r2", *groups("http://one.example/new"))

    assert (answer.done, answer.later) == (not waits, waits)
    hand.close()
