from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import ValueProblem
from fetchd.variables import LONGEST_TEXT, references, render, unknown

VALUES = {"series": "24.04", "run.date": "2026-11-23", "needs.my-iso.path": "isos/a.iso", "e": ""}


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
            "unknown variable ${qqqq}; known here: series, run.date, needs.my-iso.path, e",
        ),
        ("a${series", "'${' is not closed; write ${name}, or $${ for a literal ${"),
        ("${${series}}", "'${' is not closed; write ${name}, or $${ for a literal ${"),
        (
            "${}",
            (
                "'${}' names no variable; write ${name} with letters, digits, '_', '-' and '.', "
                "or $${ for a literal ${"
            ),
        ),
        (
            "${run.date-1d:%Y}",
            "'${run.date-1d:%Y}': arithmetic and formats of dates are not built yet",
        ),
        ("${run.date:%Y}", "'${run.date:%Y}': arithmetic and formats of dates are not built yet"),
        ("${run.date+2h}", "'${run.date+2h}': arithmetic and formats of dates are not built yet"),
        ("${run.date-1d}", "'${run.date-1d}': arithmetic and formats of dates are not built yet"),
    ],
)
def test_what_cannot_be_replaced_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        render(text, lookup)

    assert expected == str(caught.value)


def test_a_text_cannot_be_blown_up_by_its_variables() -> None:
    with pytest.raises(ValueProblem, match="longer than 65536 characters"):
        render("${big}" * 100, lambda _: "x" * 1000)

    assert len(render("${big}" * 50, lambda _: "x" * 1000)) <= LONGEST_TEXT


def test_references_are_named_with_their_offsets() -> None:
    assert references("x${a}$${d}${b.c}") == [("a", 1), ("b.c", 10)]


@settings(derandomize=True, max_examples=200)
@given(st.text(alphabet="${}ab.-: ", max_size=30))
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

    render(text, look)

    assert names == asked


@settings(derandomize=True, max_examples=100)
@given(st.text(max_size=30))
def test_a_text_with_every_dollar_brace_doubled_is_itself(text: str) -> None:
    assert text == render(text.replace("${", "$${"), lookup)
