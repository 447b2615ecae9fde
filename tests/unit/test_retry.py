from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.engine.retry import Again, GiveUp, after_crash, decide, without_room
from fetchd.model import Dossier, Failure, History, RetryPolicy
from harness import NoJitter

POLICY = RetryPolicy(attempts=3, delay_s=2, max_delay_s=10, give_up_after_s=100)


def fail(code="short_body", *, transient=True, **more) -> Failure:
    return Failure(code=code, reason="why", transient=transient, **more)


def choose(failure, history=None, *, sources=1, now_s=0.0, policy=POLICY):
    return decide(
        failure,
        history or History(),
        policy,
        sources=sources,
        now_s=now_s,
        random=NoJitter(),
    )


def test_the_delay_doubles_up_to_its_limit():
    policy = RetryPolicy(attempts=10, delay_s=2, max_delay_s=10, give_up_after_s=1e9)
    history, delays = History(), []

    for _ in range(5):
        again = choose(fail(), history, policy=policy)
        history = again.history
        delays.append(again.delay_s)

    assert delays == [2, 4, 8, 10, 10]


def test_a_round_goes_over_all_sources_without_delay_between_them():
    first = choose(fail(), sources=3)
    second = choose(fail(), first.history, sources=3)
    third = choose(fail(), second.history, sources=3)

    assert [first.delay_s, second.delay_s, third.delay_s] == [0, 0, 2]
    assert [first.history.source, second.history.source, third.history.source] == [1, 2, 0]
    assert third.history.round == 1


def test_rule_36_the_dossier_that_stays_is_the_latest_but_one_with_kept_bytes_goes_before():
    page = Dossier(url="http://a/", final_url="http://a/", expected=())
    kept, later = replace(page, quarantine="q"), replace(page, url="http://b/", quarantine="q")
    found = []
    history = History()
    for dossier in (None, page, kept, page, None, later):
        history = choose(fail(dossier=dossier), history, sources=9).history
        found.append(history.dossier)

    assert found == [None, page, kept, kept, kept, later]


def test_a_source_that_failed_for_good_is_not_asked_again():
    again = choose(fail("bad_status", transient=False), sources=2)
    back = choose(fail(), again.history, sources=2)

    assert again.history.source == 1
    assert back.history.source == 1
    assert back.delay_s == 2


def test_when_every_source_failed_for_good_all_causes_are_named():
    again = choose(fail("bad_status", transient=False), sources=2)
    end = choose(fail("too_large", transient=False), again.history, sources=2)

    assert isinstance(end, GiveUp)
    assert end.code == "too_large"
    assert "source 1: bad_status: why; source 2: too_large: why" in end.reason


def test_a_wrong_digest_gets_one_more_chance_at_each_source():
    history, sources = History(), []

    for _ in range(3):
        again = choose(fail("checksum_mismatch", transient=False), history, sources=2)
        history = again.history
        sources.append(history.source)
    end = choose(fail("checksum_mismatch", transient=False), history, sources=2)

    assert sources == [1, 0, 1]
    assert isinstance(end, GiveUp)
    assert end.code == "checksum_mismatch"


@pytest.mark.parametrize("code", ["dest_denied", "dest_conflict", "exists"])
def test_what_no_other_source_can_mend_ends_the_task(code):
    assert isinstance(choose(fail(code, transient=False), sources=5), GiveUp)


def test_rule_47_retry_after_is_obeyed_and_capped():
    policy = RetryPolicy(delay_s=2, max_retry_after_s=60)

    near = choose(fail(retry_after_s=30), policy=policy)
    far = choose(fail(retry_after_s=1e9), policy=policy)

    assert 30 <= near.delay_s <= 31
    assert 60 <= far.delay_s <= 61


def test_rule_45_progress_resets_the_rounds_but_not_the_day():
    history = History(round=2, first_failed_at_s=0.0)

    again = choose(fail(progressed=True), history, now_s=10)
    late = choose(fail(progressed=True), history, now_s=99)

    assert isinstance(again, Again)
    assert again.history.round == 1
    assert isinstance(late, GiveUp)


def test_d01_without_room_the_sources_left_in_the_round_are_asked_at_once_and_then_all_again():
    history = History(attempts=2, round=1, barred=frozenset({1}))
    seen = []
    for _ in range(3):
        history, delay_s = without_room(history, 30.0, sources=4)
        seen.append((history.source, delay_s))

    assert seen == [(2, 0.0), (3, 0.0), (0, 30.0)]
    assert (history.attempts, history.round) == (2, 1)


# ---------------------------------------------------------------- wait_for

WAITING = RetryPolicy(attempts=3, delay_s=2, max_delay_s=60, give_up_after_s=100, wait_for_s=3600)


def absent(status=404, **more) -> Failure:
    return fail("bad_status", transient=False, status=status, **more)


def probes(policy, sources=1, answer=absent):
    """Ask until the end; returns the delay of each wait, and the end."""
    history, now_s = History(), 0.0
    delays: list[float] = []
    while True:
        decision = choose(answer(), history, policy=policy, sources=sources, now_s=now_s)
        if isinstance(decision, GiveUp):
            return delays, decision
        history = decision.history
        now_s += decision.delay_s
        delays.append(decision.delay_s)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_not_there_yet_is_waited_for_and_nothing_is_charged(status):
    again = choose(absent(status), History(attempts=1, round=1), policy=WAITING, now_s=50)

    assert isinstance(again, Again)
    assert (again.wait, again.delay_s) == ("not_yet", 10)
    assert again.history == History(attempts=1, not_yet=frozenset({0}), not_yet_at_s=50)


def test_a_local_file_that_does_not_exist_yet_is_waited_for_too():
    again = choose(fail("not_found", transient=False), policy=WAITING)

    assert isinstance(again, Again)
    assert again.wait == "not_yet"


@pytest.mark.parametrize("status", [403, 410])
def test_a_status_that_may_come_of_an_expired_link_is_waited_out_too_and_repeated_after_it(status):
    answer = fail("bad_status", status=status)
    again = choose(answer, policy=WAITING)
    late = choose(answer, History(not_yet_at_s=0.0), policy=WAITING, now_s=3600)

    assert isinstance(again, Again)
    assert (again.wait, again.history.attempts) == ("not_yet", 0)
    assert isinstance(late, Again)
    assert (late.wait, late.history.attempts) == ("retry", 1)


@pytest.mark.parametrize("status", [400, 401, 405, 451, 501])
def test_other_statuses_are_failures_during_the_wait_too(status):
    assert isinstance(choose(absent(status), policy=WAITING), GiveUp)


def test_without_wait_for_a_missing_file_fails_at_once():
    assert isinstance(choose(absent(), policy=POLICY), GiveUp)


def test_the_probes_double_up_to_max_delay_and_the_last_one_is_at_the_end_of_the_wait():
    delays, end = probes(WAITING)

    assert delays[:5] == [10, 20, 40, 60, 60]
    assert sum(delays) == 3600
    assert (end.code, end.history.attempts) == ("bad_status", 1)
    assert end.reason == "why, after waiting 1 h 0 m for it"


def test_a_probe_comes_earlier_by_chance_but_never_at_once():
    drawn = []
    for seed in range(50):
        chance = random.Random(seed)
        again = decide(absent(), History(), WAITING, sources=1, now_s=0.0, random=chance)
        assert isinstance(again, Again)
        drawn.append(again.delay_s)

    assert all(5 <= delay_s <= 10 for delay_s in drawn)
    assert len(set(drawn)) > 40


def test_every_source_is_asked_without_delay_before_the_wait_and_at_its_end():
    delays, end = probes(WAITING, sources=3)

    assert delays[:6] == [0, 0, 10, 0, 0, 20]
    assert delays[-2:] == [0, 0]
    assert sum(delays) == 3600
    assert end.history.attempts == 3
    assert [index for index, _, _ in end.history.causes] == [0, 1, 2]


def test_while_one_source_does_not_have_the_file_yet_no_other_one_uses_up_the_attempts():
    history = History()
    for round_ in range(20):
        first = choose(absent(), history, policy=WAITING, sources=2, now_s=100.0 * round_)
        second = choose(fail(), first.history, policy=WAITING, sources=2, now_s=100.0 * round_)
        history = second.history

        assert (first.history.source, second.history.source) == (1, 0)
        assert (first.wait, second.wait) == ("not_yet", "not_yet")
        assert second.delay_s >= 10
    assert history.attempts == 20


def test_a_source_that_failed_for_good_is_not_probed():
    first = choose(fail("bad_length", transient=False), policy=WAITING, sources=2)
    second = choose(absent(), first.history, policy=WAITING, sources=2)

    assert (second.history.source, second.wait) == (1, "not_yet")


def test_once_the_file_is_there_its_failures_are_ordinary_ones_and_the_wait_was_no_failure():
    waited = choose(absent(), History(first_failed_at_s=0.0, round=2), policy=WAITING, now_s=90)

    cut = choose(fail(), waited.history, policy=WAITING, now_s=1000)

    assert (cut.wait, cut.delay_s) == ("retry", 2)
    assert (cut.history.round, cut.history.first_failed_at_s) == (1, 1000)
    assert cut.history.not_yet == frozenset()


def test_the_wait_counts_from_the_first_time_even_if_the_file_came_and_went():
    waited = choose(absent(), policy=WAITING, now_s=0)
    cut = choose(fail(), waited.history, policy=WAITING, now_s=3000)
    gone = choose(absent(), cut.history, policy=WAITING, now_s=3590)
    end = choose(absent(), gone.history, policy=WAITING, now_s=3600)

    assert (gone.wait, gone.delay_s) == ("not_yet", 10)
    assert isinstance(end, GiveUp)


def test_retry_after_is_obeyed_during_the_wait_but_never_beyond_its_end():
    near = choose(absent(retry_after_s=30), policy=WAITING)
    far = choose(absent(retry_after_s=1800), History(not_yet_at_s=0.0), policy=WAITING, now_s=3500)

    assert 30 <= near.delay_s <= 31
    assert far.delay_s == 100


def test_a_clock_that_was_set_back_makes_the_wait_no_longer_than_it_is():
    again = choose(absent(), History(not_yet_at_s=1e9), policy=WAITING, now_s=0)

    assert again.delay_s == 10


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["short_body", "bad_status", "checksum_mismatch"]),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_every_series_of_failures_without_progress_ends(series, sources):
    policy = RetryPolicy(attempts=4, delay_s=1, max_delay_s=2)
    history, steps = History(), 0
    barred: set[int] = set()

    while True:
        code, transient = series[steps % len(series)] if series else ("short_body", True)
        assert history.source not in barred
        decision = decide(
            fail(code, transient=transient and code != "checksum_mismatch"),
            history,
            policy,
            sources=sources,
            now_s=0.0,
            random=random.Random(steps),
        )
        steps += 1
        if isinstance(decision, GiveUp):
            break
        history = decision.history
        barred = set(history.barred)

    assert steps <= sources * policy.attempts + sources
    assert decision.history.attempts == steps


def test_a_crash_counts_only_when_nothing_was_gained_since_the_last():
    once = after_crash(History(), 0)
    twice = after_crash(once, 0)
    gained = after_crash(twice, 100)
    stuck = after_crash(gained, 100)

    assert [h.crashes for h in (once, twice, gained, stuck)] == [1, 2, 1, 2]
