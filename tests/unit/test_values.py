"""Values are compared, hashed and copied by what they hold."""

from __future__ import annotations

from dataclasses import replace

from fetchd.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ticket:
    number: int


def test_values_that_hold_the_same_are_one_in_a_set():
    assert {Point(x=1), Point(x=1, y=0), replace(Point(x=3), x=1)} == {Point(x=1)}


def test_a_value_without_comparison_equals_itself_alone():
    first, second = Ticket(number=1), Ticket(number=1)

    assert len({first, second, first}) == 2
