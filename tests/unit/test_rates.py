"""What a rate may look like, and what holds at which time of the day."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from fetchd.errors import ValueProblem
from fetchd.rates import Rate, Span, format_rate, parse_rate

MIB = 1024 * 1024


def at(rate: Rate, when: str, zone: str = "Europe/Berlin", fold: int = 0) -> int | None:
    """Return what holds at a local time of a zone that the machine need not be in."""
    local = datetime.fromisoformat(when).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return rate.at(local.timestamp())


def daily(**spans: str) -> Rate:
    """Return a timetable of Berlin; ``a_08h00_18h30`` is the span 08:00-18:30."""
    read = parse_rate(
        {name[2:].replace("h", ":").replace("_", "-"): rate for name, rate in spans.items()}
    )
    return Rate(spans=read.spans, zone="Europe/Berlin")


def test_a_plain_rate_holds_always():
    rate = parse_rate(" 50MiB/s ")

    assert {at(rate, "2026-01-01T03:00"), at(rate, "2026-07-01T15:00")} == {50 * MIB}


def test_a_timetable_holds_from_the_first_minute_of_a_span_to_the_last():
    rate = daily(a_08h00_18h30="5MiB/s")

    assert at(rate, "2026-01-01T07:59:59") is None
    assert at(rate, "2026-01-01T08:00:00") == 5 * MIB
    assert at(rate, "2026-01-01T18:29:59") == 5 * MIB
    assert at(rate, "2026-01-01T18:30:00") is None


def test_a_span_goes_past_midnight_and_spans_may_touch():
    rate = daily(a_22h00_06h00="1MiB/s", b_06h00_22h00="2MiB/s")

    hours = [at(rate, f"2026-01-01T{hour:02d}:00") for hour in (0, 5, 6, 21, 22, 23)]

    assert hours == [MIB, MIB, 2 * MIB, 2 * MIB, MIB, MIB]


def test_a_span_may_be_a_whole_day_or_a_minute():
    day, minute = daily(a_00h00_24h00="1MiB/s"), daily(a_9h00_9h01="1MiB/s")

    assert {at(day, f"2026-01-01T{hour:02d}:59:59") for hour in range(24)} == {MIB}
    assert [at(minute, f"2026-01-01T09:0{n}") for n in (0, 1)] == [MIB, None]


def test_the_zone_decides_not_the_machines():
    spans = parse_rate({"08:00-18:00": "5MiB/s"}).spans
    moment = "2026-01-01T08:30"  # in Berlin it is 9 hours later than in New York

    assert at(Rate(spans=spans, zone="Europe/Berlin"), moment) == 5 * MIB
    assert at(Rate(spans=spans, zone="America/New_York"), moment) is None


def test_a_span_keeps_to_the_clock_on_the_wall_over_summer_time():
    rate = daily(a_08h00_18h00="5MiB/s")

    for day in ("2026-03-28", "2026-03-29", "2026-10-24", "2026-10-25"):
        assert at(rate, f"{day}T07:59") is None
        assert at(rate, f"{day}T08:00") == 5 * MIB
        assert at(rate, f"{day}T17:59") == 5 * MIB
        assert at(rate, f"{day}T18:00") is None


def test_an_hour_that_comes_twice_is_in_its_span_twice():
    rate = daily(a_02h00_03h00="5MiB/s")

    assert at(rate, "2026-10-25T02:30", fold=0) == 5 * MIB
    assert at(rate, "2026-10-25T02:30", fold=1) == 5 * MIB
    assert at(rate, "2026-10-25T03:00") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "'fast' is not a rate; write a size a second: 5MiB/s"),
        ("5MiB", "'5MiB' is not a rate"),
        ("0/s", "'0/s' is too little to get on with; at least 1KiB/s, or leave it out"),
        ("1000/s", "at least 1KiB/s"),
        ({}, "a rate is a size a second: 5MiB/s, or such by the time of the day"),
        (["5MiB/s"], "a rate is a size a second"),
        (None, "a rate is a size a second"),
        ({"8-18": "5MiB/s"}, "'8-18' is not a span of the day; write 08:00-18:00"),
        ({"08:00-08:00": "5MiB/s"}, "'08:00-08:00' is not a span of the day"),
        ({"24:00-06:00": "5MiB/s"}, "'24:00-06:00' is not a span of the day"),
        ({"08:00-24:30": "5MiB/s"}, "'08:00-24:30' is not a span of the day"),
        ({"08:60-09:00": "5MiB/s"}, "'08:60-09:00' is not a span of the day"),
        ({"Sat": "5MiB/s"}, "'Sat' is not a span of the day"),
        ({"08:00-18:00": ["x"]}, "08:00-18:00 needs a size a second: 5MiB/s"),
        ({"08:00-18:00": "0"}, "08:00-18:00: '0' is not a rate"),
        (
            {"08:00-18:00": "5MiB/s", "17:00-20:00": "1MiB/s"},
            "17:00-20:00 and 08:00-18:00 overlap; each time has one rate",
        ),
        ({"22:00-06:00": "5MiB/s", "05:00-07:00": "1MiB/s"}, "overlap"),
        ({"05:00-07:00": "5MiB/s", "22:00-06:00": "1MiB/s"}, "overlap"),
    ],
)
def test_what_is_no_rate_says_what_is_one(value, message):
    with pytest.raises(ValueProblem) as caught:
        parse_rate(value)

    assert message in str(caught.value)


def test_a_rate_is_shown_with_its_unit():
    assert format_rate(5 * MIB) == "5.0 MiB/s"
    assert str(Span(begin_min=485, end_min=1440, bytes_per_s=1)) == "08:05-24:00"
