"""When a job may work: the arithmetic, and an engine by hand that holds runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd import jobfile
from fetchd.config import Settings
from fetchd.engine.windows import is_open, opens_s
from fetchd.events import RunHeld, RunReleased, TaskInterrupted
from fetchd.model import Fetched, Interrupted, Progress, RunState, Window
from fetchd.stores import SqliteStore
from harness import EngineByHand, StepClock, group, intent_for, job, spec

BERLIN = "Europe/Berlin"
NIGHTS = Window(spans=((22 * 60, 6 * 60),))
ZONES = st.sampled_from([BERLIN, "Australia/Lord_Howe", "UTC", "America/Sao_Paulo"])


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def shown(moment_s: float, zone: str = BERLIN) -> str:
    return datetime.fromtimestamp(moment_s, ZoneInfo(zone)).isoformat(" ", "minutes")


def written(text: str) -> Window | None:
    data = f"url: http://one.example/f\nwindow: {text}\n".encode()
    return jobfile.load(data, "a.yaml", Settings()).window


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("moment", "is_in"),
    [
        ("2026-11-26 21:59", False),  # a Thursday
        ("2026-11-26 22:00", True),
        ("2026-11-27 05:59", True),
        ("2026-11-27 06:00", False),
        ("2026-11-28 12:00", True),
        ("2026-11-29 23:59", True),
        ("2026-11-30 12:00", False),
    ],
)
def test_a_window_is_open_in_any_of_its_parts(moment, is_in):
    window = written('[ "22:00-06:00", Sat, Sun ]')

    assert window == Window(spans=((1320, 360),), days=(5, 6))
    assert is_open(window, BERLIN, at(moment)) is is_in


def test_a_window_may_be_a_single_text_and_an_empty_list_is_none():
    assert written("22:00-06:00") == NIGHTS
    assert written("sun") == Window(days=(6,))
    assert written("[]") is None


@pytest.mark.parametrize(
    ("window", "after", "opens"),
    [
        (NIGHTS, "2026-11-27 12:00", "2026-11-27 22:00+01:00"),
        (Window(days=(0,)), "2026-11-24 00:00", "2026-11-30 00:00+01:00"),
        (Window(spans=((150, 240),)), "2026-03-29 01:00", "2026-03-29 03:00+02:00"),  # 02:30
        (Window(spans=((120, 180),)), "2026-03-29 01:00", "2026-03-30 02:00+02:00"),
        (Window(spans=((60, 150),)), "2026-10-25 02:40", "2026-10-25 02:00+01:00"),
    ],
)
def test_it_opens_when_the_clock_on_the_wall_says_so(window, after, opens):
    assert shown(opens_s(window, BERLIN, at(after))) == opens


WINDOWS = st.builds(
    lambda spans, days: Window(spans=tuple(spans), days=tuple(sorted(days))),
    st.lists(
        st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(lambda s: s[0] != s[1]),
        max_size=2,
    ),
    st.sets(st.integers(0, 6), max_size=2),
).filter(lambda window: window.spans or window.days)
CHANGES = ["2026-03-29 00:30", "2026-10-25 00:30", "2026-04-05 00:30", "2017-10-15 00:00"]


@settings(max_examples=150)
@given(
    window=WINDOWS,
    zone=ZONES,
    change=st.sampled_from(CHANGES),
    off_min=st.integers(-3 * 1440, 1440),
)
def test_it_opens_at_the_first_minute_that_is_in_it(window, zone, change, off_min):
    moment_s = at(change, "UTC") + off_min * 60.0
    if is_open(window, zone, moment_s):
        return
    expected_s = moment_s
    while not is_open(window, zone, expected_s):
        expected_s += 60.0

    assert opens_s(window, zone, moment_s) == expected_s


# ---------------------------------------------------------------- runs


class Hand(EngineByHand):
    """The clock stands at 2026-11-27 21:00 UTC at first, a Friday."""

    def __init__(self, **more):
        clock = more.pop("clock", None)
        if clock is None:
            clock = StepClock(datetime(2026, 11, 27, 21, tzinfo=UTC).timestamp())
        super().__init__(clock=clock, **more)

    def start(self, *specs, window=NIGHTS):
        made = replace(job("a", group("a", *specs)), window=window, timezone="UTC")
        return self.submit(made, file="a.yaml")

    def hours(self, hours: float) -> None:
        self.clock.advance(hours * 3600.0)
        self.engine.tick()

    def run(self):
        (view,) = self.engine.view().runs
        return view

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def hand():
    made = Hand()
    yield made
    made.close()


def test_outside_its_window_nothing_of_a_job_starts_and_the_report_says_when_it_opens(hand):
    hand.start(spec("f"), spec("g"))
    early = hand.fetch()
    view = hand.run()
    hand.hours(0.99)
    still = hand.fetch()
    hand.hours(0.01)

    assert (early, still) == (None, None)
    assert view.waiting == {"window": 2}
    assert datetime.fromtimestamp(view.next_due_at_s, UTC).hour == 22
    assert hand.run_all() == ["f", "g"]
    assert [event.wait for event in hand.told(RunHeld)] == ["window"]
    assert len(hand.told(RunReleased)) == 1


def test_what_is_under_way_when_it_closes_stops_uncharged_and_goes_on_when_it_opens(hand):
    hand.start(spec("f"))
    hand.hours(1)
    attempt = hand.fetch()
    inside = hand.engine.report(attempt, Progress())
    hand.hours(8)
    outside = hand.engine.report(attempt, Progress())
    hand.settle(attempt, Interrupted())
    closed = hand.fetch()
    hand.hours(16)
    again = hand.fetch()

    assert (inside, outside, closed) == (True, False, None)
    assert len(hand.told(TaskInterrupted)) == 1
    assert (again.number, again.task.history.attempts) == (1, 0)
    hand.succeed(again)
    assert hand.store.run_view(1).state is RunState.SUCCEEDED


def test_what_is_verified_when_it_closes_is_published(hand):
    hand.start(spec("f"))
    hand.hours(1)
    attempt = hand.fetch()
    hand.hours(8)
    hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    hand.publish_all()

    assert hand.store.run_view(1).state is RunState.SUCCEEDED
    assert hand.engine.idle()


def test_other_jobs_go_on_meanwhile(hand):
    hand.start(spec("f"))
    hand.submit(job("b", group("b", spec("g"))))

    assert hand.run_all() == ["g"]


def test_a_run_that_waits_for_its_window_can_be_cancelled(hand):
    from fetchd.model import Cancel

    hand.start(spec("f"))
    hand.fetch()
    hand.engine.obey(Cancel(job="a"))
    hand.hours(2)

    assert hand.fetch() is None
    assert hand.engine.idle()


def test_a_new_life_looks_at_the_window_before_anything_starts(tmp_path):
    path = str(tmp_path / "s.db")
    clock = StepClock(datetime(2026, 11, 27, 21, tzinfo=UTC).timestamp())
    first = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    first.start(spec("f"))
    first.close()
    second = Hand(store=SqliteStore(path, clock, lambda _: None), clock=clock)
    second.engine.recover({})
    early = second.fetch()
    second.hours(1)

    assert early is None
    assert second.run_all() == ["f"]
    second.close()


def test_c11_a_clock_that_is_set_opens_and_closes_at_once(hand):
    hand.start(spec("f"), spec("g"))
    hand.clock.set_wall(2 * 3600.0)
    hand.engine.tick()
    attempt = hand.fetch()
    hand.clock.set_wall(-400 * 86400.0 - 2 * 3600.0)
    hand.engine.tick()
    wanted = hand.engine.report(attempt, Progress())
    until_s = hand.run().next_due_at_s

    assert attempt is not None
    assert wanted is False
    assert 0 < until_s - hand.clock.wall() <= 3600.0


def test_an_edit_of_the_window_holds_at_once(hand):
    hand.submit(
        replace(
            job("a", group("a", spec("f")), revision="r1"),
            window=NIGHTS,
            timezone="UTC",
            keep=True,
        ),
        file="a.yaml",
    )
    early = hand.fetch()
    hand.submit(replace(job("a", group("a", spec("f")), revision="r2"), keep=True), file="a.yaml")

    assert early is None
    assert hand.run_all() == ["f"]
