from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.dates import Moment
from fetchd.errors import ValueProblem
from fetchd.variables import LONGEST_TEXT, is_met, is_plain_name, references, render, unknown

VALUES = {
    "series": "24.04",
    "run.date": "2026-11-23",
    "needs.my-iso.path": "isos/a.iso",
    "e": "",
    "feb": "2026-02-30",
}
KNOWN_DIRECTIVES = "%Y %y %m %d %H %M %S %j %G %V %u %B %b %A %a %%"


def lookup(name: str) -> str:
    if name not in VALUES:
        raise unknown(name, VALUES)
    return VALUES[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain $ text {x} $x", "plain $ text {x} $x"),
        ("${series}", "24.04"),
        ("u-${series}-${run.date}.iso", "u-24.04-2026-11-23.iso"),
        ("${needs.my-iso.path}", "isos/a.iso"),
        ("${series}${series}${e}", "24.0424.04"),
        ("$${series}", "${series}"),
        ("$$${series}", "$${series}"),
        ("$${${series}}", "${24.04}"),
        ("$$ and $", "$$ and $"),
    ],
)
def test_names_are_replaced_and_a_doubled_dollar_is_a_literal(text: str, expected: str) -> None:
    assert expected == render(text, lookup)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${sries}", "unknown variable ${sries} (did you mean ${series}?)"),
        (
            "${qqqq}",
            "unknown variable ${qqqq}; known here: series, run.date, needs.my-iso.path, e, feb",
        ),
        ("a${series", "'${' is not closed; write ${name}, or $${ for a literal ${"),
        ("${${series}}", "'${' is not closed; write ${name}, or $${ for a literal ${"),
        (
            "${}",
            (
                "'${}' names no variable; write ${name} with letters, digits, '_', '-' and '.', "
                "${name-1d:%Y%m%d} for another date, or $${ for a literal ${"
            ),
        ),
        ("${run.dat-1d}", "unknown variable ${run.dat} (did you mean ${run.date}?)"),
        ("${series-1d}", "${series} is '24.04', which is no date such as 2026-11-23"),
        ("${feb-1d}", "${feb} is '2026-02-30', which is no date such as 2026-11-23"),
        ("${run.date-999999d}", "${run.date} lies outside the calendar then"),
        (
            "${run.date:%Q}",
            "'%Q' is nothing of a date; known: " + KNOWN_DIRECTIVES,
        ),
        ("${run.date:%}", "'%' is nothing of a date; known: " + KNOWN_DIRECTIVES),
    ],
)
def test_what_cannot_be_replaced_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        render(text, lookup)

    assert expected == str(caught.value)


#: 2026-03-29 00:30 in Berlin, two and a half hours before the clocks there are set to summer time.
SPRING_S = 1_774_740_600.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${run.date}", "2026-03-29"),
        ("${run.date-1d}", "2026-03-28"),
        ("${run.date - 1d}", "2026-03-28"),
        ("${run.date-1d:%Y%m%d}", "20260328"),
        ("${run.date+1d:%d.%m.%y %H:%M}", "30.03.26 00:30"),
        ("${run.date:%Y/%j}", "2026/088"),
        ("${run.date+2h:%H:%M}", "03:30"),
        ("${run.date-1d 30m:%m-%d %H:%M}", "03-28 00:00"),
        ("${run.date-31m:%d %H:%M:%S}", "28 23:59:00"),
        ("${run.date:100%% %b %%Y}", "100% Mar %Y"),
        ("${plain+1d}", "2024-02-29"),
        ("${plain-365d:%G-W%V-%u}", "2023-W09-2"),
        ("${plain+36h:%Y-%m-%dT%H}", "2024-02-29T12"),
        ("${old-1d:%Y}", "0998"),
    ],
)
def test_dates_are_reckoned_by_the_calendar_and_hours_by_the_clock(text, expected) -> None:
    values = {
        "run.date": Moment(SPRING_S, "Europe/Berlin"),
        "plain": "2024-02-28",
        "old": "0999-01-01",
    }

    assert expected == render(text, values.__getitem__)


def test_a_moment_without_a_zone_is_told_in_that_of_the_machine(monkeypatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        moment = Moment(SPRING_S, None)
        shown = render("${d:%d %H:%M} ${d+2h:%H:%M} ${d+1d 2h:%d %H:%M}", lambda _: moment)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert shown == "29 00:30 03:30 30 02:30"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("${yes}", True),
        ("not ${yes}", False),
        ("${no}", False),
        ("not  ${no} ", True),
        ("${e}", False),
        ("${zero}", False),
        ("${series}", True),
        ("${series} == 24.04", True),
        ("${series}!=24.04", False),
        ("24.10 != ${series}", True),
        ("'24.04' == ${series}", True),
        ('${e} == ""', True),
        ("v${series} == v24.04", True),
        ("${series} == ${series}", True),
        ("${run.date:%d} == 01", False),
    ],
)
def test_a_condition_is_a_name_or_a_comparison(condition, expected) -> None:
    values = {**VALUES, "yes": "true", "no": "false", "zero": "0"}

    assert is_met(condition, values.__getitem__) is expected


@pytest.mark.parametrize(
    "condition",
    ["", "true", "a == b", "${e} ==", "== ${e}", "${e} == a == b", "${e} x", "not ${e} == x",
     "${e", "${e} = x", "not", "${e}${e}"],
)  # fmt: skip
def test_what_is_no_condition_is_refused(condition) -> None:
    with pytest.raises(ValueProblem, match="is no condition; write"):
        is_met(condition, VALUES.__getitem__)


@settings(derandomize=True, max_examples=300)
@given(st.text(alphabet="${}e=! not'x", max_size=30))
def test_every_text_is_a_condition_or_refused(condition) -> None:
    with suppress(ValueProblem):
        assert is_met(condition, lambda _: "v") in {True, False}


def test_a_name_may_not_look_like_a_reckoning() -> None:
    assert all(map(is_plain_name, ["x-1", "x-1d-y", "x-d"]))
    assert not is_plain_name("x-1d")
    assert references("${x-1d}") == [("x", 0)]


def test_a_text_cannot_be_blown_up_by_its_variables() -> None:
    with pytest.raises(ValueProblem, match="longer than 65536 characters"):
        render("${big}" * 100, lambda _: "x" * 1000)

    assert len(render("${big}" * 50, lambda _: "x" * 1000)) <= LONGEST_TEXT


def test_references_are_named_with_their_offsets() -> None:
    assert references("x${a}$${d}${b.c}") == [("a", 1), ("b.c", 10)]


@settings(derandomize=True, max_examples=200)
@given(st.text(alphabet="${}ab.-:+%Y1d ", max_size=30))
def test_every_text_is_rendered_or_refused(text: str) -> None:
    try:
        names = [name for name, _ in references(text)]
    except ValueProblem:
        with pytest.raises(ValueProblem):
            render(text, lambda _: "v")
        return

    asked: list[str] = []

    def look(name: str) -> str:
        asked.append(name)
        return "v"

    try:
        render(text, look)
    except ValueProblem:  # "v" is no date
        names = names[: len(asked)]

    assert names == asked


@settings(derandomize=True, max_examples=100)
@given(st.text(max_size=30))
def test_a_text_with_every_dollar_brace_doubled_is_itself(text: str) -> None:
    assert text == render(text.replace("${", "$${"), lookup)
