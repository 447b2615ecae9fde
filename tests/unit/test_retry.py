from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.engine.retry import Again, GiveUp, after_crash, decide
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


def test_retry_after_is_obeyed_and_capped():
    policy = RetryPolicy(delay_s=2, max_retry_after_s=60)

    near = choose(fail(retry_after_s=30), policy=policy)
    far = choose(fail(retry_after_s=1e9), policy=policy)

    assert 30 <= near.delay_s <= 31
    assert 60 <= far.delay_s <= 61


def test_progress_resets_the_rounds_but_not_the_day():
    history = History(round=2, first_failed_at_s=0.0)

    again = choose(fail(progressed=True), history, now_s=10)
    late = choose(fail(progressed=True), history, now_s=99)

    assert isinstance(again, Again)
    assert again.history.round == 1
    assert isinstance(late, GiveUp)


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
