"""When a job is due, over changes of summer time and of the wall clock."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.clock import zone_of
from fetchd.engine import schedule
from fetchd.engine.schedule import decide, first_last_s, moments, newest, of_days
from fetchd.errors import ValueProblem
from fetchd.model import CatchUp, Schedule

BERLIN = "Europe/Berlin"
HOUR_S, DAY_S = 3600.0, 86400.0


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def shown(moment_s: float, zone: str = BERLIN) -> str:
    return datetime.fromtimestamp(moment_s, ZoneInfo(zone)).isoformat(" ", "minutes")


def first(cron: str, after: str, count: int, zone: str = BERLIN) -> list[str]:
    found = moments(Schedule(cron=cron), zone, at(after, zone))
    return [shown(moment_s, zone) for moment_s in islice(found, count)]


# ---------------------------------------------------------------- moments


def test_a_daily_time_is_the_same_on_the_wall_before_and_after_summer_time_begins():
    assert first("15 3 * * *", "2026-03-27 12:00", 3) == [
        "2026-03-28 03:15+01:00",
        "2026-03-29 03:15+02:00",
        "2026-03-30 03:15+02:00",
    ]


def test_a_time_in_the_gap_comes_at_its_end_and_once():
    assert first("0,30 2 * * *", "2026-03-28 12:00", 3) == [
        "2026-03-29 03:00+02:00",
        "2026-03-30 02:00+02:00",
        "2026-03-30 02:30+02:00",
    ]


def test_a_time_in_the_doubled_hour_comes_the_first_time_only():
    assert first("30 2 * * *", "2026-10-24 12:00", 2) == [
        "2026-10-25 02:30+02:00",
        "2026-10-26 02:30+01:00",
    ]


def test_within_the_second_of_the_doubled_hours_no_time_of_the_first_comes_again():
    after_s = at("2026-10-25 02:10", fold=1)

    (moment_s,) = islice(moments(Schedule(cron="30 2 * * *"), BERLIN, after_s), 1)

    assert shown(moment_s) == "2026-10-26 02:30+01:00"


def test_every_quarter_of_an_hour_time_goes_on_evenly_through_both_changes():
    for after in ("2026-03-29 00:00", "2026-10-25 00:00"):
        found = list(islice(moments(Schedule(cron="*/15 * * * *"), BERLIN, at(after)), 40))

        assert {b - a for a, b in pairwise(found)} == {900.0}


def test_an_interval_is_of_elapsed_time_whatever_the_clocks_do():
    found = moments(Schedule(every_s=6 * HOUR_S), BERLIN, at("2026-03-28 20:00"))

    assert [shown(moment_s) for moment_s in islice(found, 2)] == [
        "2026-03-29 03:00+02:00",
        "2026-03-29 09:00+02:00",
    ]


def test_the_machines_own_zone_is_obeyed_where_none_is_named(monkeypatch):
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    try:
        for cron, after in (
            ("0,30 2 * * *", "2026-03-28 12:00"),
            ("30 2 * * *", "2026-10-24 12:00"),
        ):
            named = list(islice(moments(Schedule(cron=cron), BERLIN, at(after)), 4))
            own = list(islice(moments(Schedule(cron=cron), None, at(after)), 4))

            assert own == named
        second = datetime.fromtimestamp(at("2026-10-25 02:10", fold=1), zone_of(None))
        assert (second.hour, second.minute, second.fold) == (2, 10, 1)
    finally:
        monkeypatch.undo()
        os.environ.pop("TZ", None)
        time.tzset()


FIELDS = st.tuples(
    st.sampled_from(["*", "*/15", "0", "30", "0,30", "59", "5-50/9"]),
    st.sampled_from(["*", "*/2", "*/6", "0", "2", "3", "1-3", "23"]),
    st.sampled_from(["*", "1", "29", "1,15"]),
    st.sampled_from(["*", "3", "10", "3,10"]),
    st.sampled_from(["*", "SUN", "1-5"]),
)
CRONS = FIELDS.map(" ".join)
ZONES = st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"])
CHANGES = [
    *(at(text, BERLIN) for text in ("2026-03-29 01:59", "2026-10-25 02:30", "2027-03-28 01:59")),
    *(at(text, "America/New_York") for text in ("2026-03-08 01:59", "2026-11-01 01:30")),
    *(at(text, "Australia/Lord_Howe") for text in ("2026-04-05 01:45", "2026-10-04 01:59")),
]
NEAR_CHANGES = st.builds(
    lambda change_s, off_s: change_s + off_s,
    st.sampled_from(CHANGES),
    st.integers(-2 * 86400, 2 * 86400),
)


@settings(max_examples=300)
@given(cron=CRONS, zone=ZONES, after_s=NEAR_CHANGES)
def test_moments_only_go_forward_and_each_has_a_minute_of_its_schedule(cron, zone, after_s):
    found = list(islice(moments(Schedule(cron=cron), zone, after_s), 12))

    assert all(a < b for a, b in pairwise([after_s, *found]))
    assert all(moment_s % 60 == 0 for moment_s in found)


@settings(max_examples=200)
@given(cron=CRONS, zone=ZONES, after_s=NEAR_CHANGES, number=st.integers(0, 10))
def test_whoever_begins_at_any_moment_meets_the_same_ones_from_there_on(
    cron, zone, after_s, number
):
    whole = list(islice(moments(Schedule(cron=cron), zone, after_s), 13))

    assert (
        list(islice(moments(Schedule(cron=cron), zone, whole[number]), 2))
        == whole[number + 1 : number + 3]
    )


@settings(max_examples=100)
@given(hour=st.integers(0, 23), minute=st.integers(0, 59), zone=ZONES, after_s=NEAR_CHANGES)
def test_a_daily_time_comes_once_a_day_on_every_day(hour, minute, zone, after_s):
    found = list(islice(moments(Schedule(cron=f"{minute} {hour} * * *"), zone, after_s), 6))
    days = [datetime.fromtimestamp(moment_s, ZoneInfo(zone)).date() for moment_s in found]

    assert all(b - a == timedelta(days=1) for a, b in pairwise(days))


@settings(max_examples=100)
@given(cron=CRONS, zone=ZONES, after_s=NEAR_CHANGES, span_s=st.integers(0, 40 * 86400))
def test_the_newest_moments_are_the_last_of_all(cron, zone, after_s, span_s):
    some = Schedule(cron=cron)
    everything = []
    for moment_s in moments(some, zone, after_s):
        if moment_s > after_s + span_s:
            break
        everything.append(moment_s)

    for most in (1, 7):
        assert newest(some, zone, after_s, after_s + span_s, most) == everything[-most:]


def test_the_newest_moments_of_a_long_time_are_found_at_once():
    began_s = time.process_time()

    found = newest(Schedule(cron="* * * * *"), BERLIN, 0.0, at("2026-06-01 00:00"), 1000)
    few = newest(Schedule(every_s=60.0), BERLIN, 0.0, at("2026-06-01 00:00"), 1000)

    assert len(found) == len(few) == 1000
    assert shown(found[-1]) == "2026-06-01 00:00+02:00"
    assert time.process_time() - began_s < 5


# ---------------------------------------------------------------- decisions


DAILY = Schedule(cron="15 3 * * *")


def ask(which, last, now, delay_s=0.0, zone=BERLIN):
    return decide(which, zone, last_s=at(last), now_s=at(now), delay_s=delay_s)


def test_before_its_time_a_job_is_not_due_and_says_when_to_ask_again():
    verdict = ask(DAILY, "2026-05-01 03:15", "2026-05-02 03:14")

    assert verdict.run_s is None
    assert shown(verdict.look_s) == "2026-05-02 03:15+02:00"


def test_at_its_time_it_is_due_for_that_time():
    assert shown(ask(DAILY, "2026-05-01 03:15", "2026-05-02 03:15").run_s) == (
        "2026-05-02 03:15+02:00"
    )


@pytest.mark.parametrize(
    ("catch_up", "run"),
    [
        (CatchUp.NONE, None),
        (CatchUp.ONCE, "2026-05-05 03:15+02:00"),
        (CatchUp.ALL, "2026-05-02 03:15+02:00"),
    ],
)
def test_what_was_missed_is_caught_up_with_as_the_job_says(catch_up, run):
    missed = Schedule(cron="15 3 * * *", catch_up=catch_up)

    verdict = ask(missed, "2026-05-01 03:15", "2026-05-05 12:00")

    assert (verdict.run_s and shown(verdict.run_s)) == run
    if run is None:
        assert shown(verdict.last_s) == "2026-05-05 03:15+02:00"
        assert shown(verdict.look_s) == "2026-05-06 03:15+02:00"


def test_all_that_was_missed_runs_one_after_the_other_and_each_once():
    missed = Schedule(cron="15 3 * * *", catch_up=CatchUp.ALL)
    last_s, now_s, runs = at("2026-05-01 03:15"), at("2026-05-05 12:00"), []
    while (verdict := decide(missed, BERLIN, last_s=last_s, now_s=now_s, delay_s=0)).run_s:
        last_s = verdict.run_s
        runs.append(shown(last_s)[:10])

    assert runs == ["2026-05-02", "2026-05-03", "2026-05-04", "2026-05-05"]


def test_catching_up_with_all_is_bounded_to_the_newest():
    missed = Schedule(every_s=60.0, catch_up=CatchUp.ALL)

    verdict = ask(missed, "2021-05-01 00:00", "2026-05-01 00:00")

    assert verdict.run_s == at("2026-05-01 00:00") - (schedule.MOST_CAUGHT_UP - 1) * 60.0


def test_jitter_delays_a_run_and_changes_nothing_about_what_it_is_for():
    early = ask(DAILY, "2026-05-01 03:15", "2026-05-02 03:20", delay_s=600.0)
    then = ask(DAILY, "2026-05-01 03:15", "2026-05-02 03:25", delay_s=600.0)

    assert early.run_s is None
    assert shown(early.look_s) == "2026-05-02 03:25+02:00"
    assert shown(then.run_s) == "2026-05-02 03:15+02:00"


def test_jitter_longer_than_the_time_between_two_runs_starves_nobody():
    often = Schedule(cron="* * * * *", jitter_s=600.0)

    verdict = ask(often, "2026-05-01 03:15", "2026-05-01 04:00", delay_s=599.0)

    assert shown(verdict.run_s) == "2026-05-01 03:50+02:00"


def test_c11_a_clock_set_back_a_little_repeats_nothing():
    verdict = ask(DAILY, "2026-05-02 03:15", "2026-05-02 02:30")

    assert verdict.run_s is None
    assert shown(verdict.look_s) == "2026-05-03 03:15+02:00"


@pytest.mark.parametrize("which", [DAILY, Schedule(every_s=60.0), Schedule(cron="*/5 * * * *")])
def test_c11_a_clock_set_back_by_years_holds_no_job_up_for_years(which):
    verdict = ask(which, "2031-05-02 03:15", "2026-05-02 02:30")

    assert verdict.run_s is None
    assert verdict.look_s - at("2026-05-02 02:30") <= HOUR_S


def test_c11_an_interval_waits_no_longer_than_twice_after_the_clock_was_set_back():
    often = Schedule(every_s=300.0)
    last, now = "2026-05-02 03:15", "2026-05-02 02:30"

    assert ask(often, last, now).look_s == at(now) + 300.0


def test_c11_a_clock_set_forward_by_years_is_a_time_that_was_missed():
    verdict = ask(DAILY, "2026-05-01 03:15", "2031-05-05 12:00")

    assert shown(verdict.run_s) == "2031-05-05 03:15+02:00"


@settings(max_examples=100, deadline=None)
@given(
    cron=st.sampled_from(["15 3 * * *", "0,30 2 * * *", "*/20 * * * *", "0 */6 * * *"]),
    zone=ZONES,
    begin_s=NEAR_CHANGES,
    steps=st.lists(st.integers(1, 7200), min_size=20, max_size=60),
    catch_up=st.sampled_from(list(CatchUp)),
    jitter_s=st.sampled_from([0.0, 300.0]),
)
def test_asked_at_whatever_moments_no_run_is_doubled_and_none_is_early(
    cron, zone, begin_s, steps, catch_up, jitter_s
):
    some = Schedule(cron=cron, catch_up=catch_up)
    last_s, now_s, runs = first_last_s(some, begin_s), begin_s, []
    for step_s in steps:
        now_s += step_s
        counted = False
        while True:
            verdict = decide(
                some, zone, last_s=last_s, now_s=now_s, delay_s=jitter_s, counted=counted
            )
            counted = verdict.run_s is not None
            last_s = verdict.last_s
            if verdict.run_s is None:
                break
            assert verdict.run_s + jitter_s <= now_s
            runs.append(verdict.run_s)
            last_s = verdict.run_s
        assert verdict.look_s > now_s

    assert all(a < b for a, b in pairwise(runs))
    if catch_up is CatchUp.ALL:
        until_s = now_s - jitter_s
        assert runs == newest(some, zone, begin_s, until_s, 10**6)


def test_the_moments_of_days_are_of_the_days_on_the_wall_also_where_one_has_23_hours():
    found = of_days(
        Schedule(cron="0 0,23 * * *"), BERLIN, "2026-03-28", "2026-03-29", at("2026-06-01 00:00")
    )

    assert [shown(moment_s) for moment_s in found] == [
        "2026-03-28 00:00+01:00",
        "2026-03-28 23:00+01:00",
        "2026-03-29 00:00+01:00",
        "2026-03-29 23:00+02:00",
    ]


# ---------------------------------------------------------------- what is a schedule


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("15 3 * *", "has 4 fields, not five"),
        ("0 15 3 * * *", "has 6 fields, not five"),
        ("75 3 * * *", "is no schedule: Bad minute"),
        ("15 3 30 2 *", "is no schedule: Bad day-of-month"),
        ("15 3 30 FEB MON#7", "is no schedule: Bad day-of-week"),
    ],
)
def test_what_is_no_schedule_says_why(text, why):
    with pytest.raises(ValueProblem, match=why):
        schedule.check_cron(text)


def test_the_moment_is_of_utc_where_that_is_the_zone():
    assert next(moments(DAILY, "UTC", 0.0)) == datetime(1970, 1, 1, 3, 15, tzinfo=UTC).timestamp()
