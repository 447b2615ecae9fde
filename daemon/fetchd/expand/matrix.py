"""``matrix`` of a task: every combination of some values, none of them made before it is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from math import prod
from typing import overload

from fetchd.errors import ValueProblem
from fetchd.model import Matrix
from fetchd.variables import render

#: More tasks than this belong in a list, where somebody sees how many they are.
MOST_COMBINATIONS = 10_000_000

_NUMBER = re.compile(r"[0-9]{1,15}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OF_THE_RUN = re.compile(r"run\.date(?:\s*[+-]\s*[0-9]{1,6}d)?")
_FORMS = (
    "write A..B with numbers or dates: 1..19, 01..12, 2026-01-01..2026-01-31, run.date-6d..run.date"
)

Lookup = Callable[[str], str]


class AxisProblem(ValueProblem):
    """A name of a matrix, or its ``include`` or ``exclude``, has no good values."""

    def __init__(self, axis: str, message: str) -> None:
        super().__init__(message)
        self.axis = axis


class _Range(Sequence[str]):
    """Whole numbers, both ends included, as texts that are made when they are asked for."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last

    def __len__(self) -> int:
        return max(0, self._last - self._first + 1)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._text(self._first + index % len(self))

    def _text(self, number: int) -> str:
        raise NotImplementedError


class _Numbers(_Range):
    def __init__(self, first: int, last: int, width: int) -> None:
        super().__init__(first, last)
        self._width = width

    def _text(self, number: int) -> str:
        return f"{number:0{self._width}}"


class _Days(_Range):
    """Days, counted from the first one of the calendar."""

    def _text(self, number: int) -> str:
        return date.fromordinal(number).isoformat()


class Combinations:
    """The combinations of a matrix by their numbers, the last name's values changing fastest.

    ``include`` comes behind them. Raises AxisProblem. ``look``: what names mean in the texts.
    """

    def __init__(self, matrix: Matrix, look: Lookup) -> None:
        self._names = [name for name, _ in matrix.axes]
        self._axes = [_axis(name, written, look) for name, written in matrix.axes]
        self._product = prod(map(len, self._axes)) if self._axes else 0
        # By how much a combination's number grows with the next value of each name.
        self._strides = [
            prod(map(len, self._axes[place + 1 :])) for place in range(len(self._axes))
        ]
        self._include = _said("include", matrix.include, look)
        self._exclude = _said("exclude", matrix.exclude, look)
        if len(self) > MOST_COMBINATIONS:
            raise AxisProblem(
                "", f"has {len(self)} combinations; at most {MOST_COMBINATIONS} are possible"
            )

    def __len__(self) -> int:
        """Return how many numbers there are, those of excluded combinations too."""
        return self._product + len(self._include)

    def odd_exclude(self) -> str:
        """Say which value of ``exclude`` no combination has, "": none, as far as can be told."""
        axes = dict(zip(self._names, self._axes, strict=True))
        for name, value in (pair for out in self._exclude for pair in out.items()):
            axis = axes[name]
            if not isinstance(axis, _Range) and value not in axis:
                return f"{name} is never {value[:60]!r}; its values: {', '.join(axis)[:200]}"
        return ""

    def at(self, number: int) -> Mapping[str, str] | None:
        """Return the values by name, None where the combination is excluded."""
        if number >= self._product:
            return self._include[number - self._product]
        values = {
            name: axis[number // stride % len(axis)]
            for name, axis, stride in zip(self._names, self._axes, self._strides, strict=True)
        }
        if any(out.items() <= values.items() for out in self._exclude):
            return None
        return values

    def telling(self, most: int) -> Iterator[int]:
        """Yield numbers that show best what is wrong with a matrix, about ``most``.

        The first ones, and those in which one name alone has its second or its last value: two
        combinations that a task does not tell apart mostly differ in one name.
        """
        yield from range(min(most, len(self)))
        for axis, stride in zip(self._axes, self._strides, strict=True):
            alone = {stride, (len(axis) - 1) * stride} if len(axis) > 1 else ()
            yield from (number for number in sorted(alone) if number >= most)
        yield from range(max(most, self._product), min(len(self), self._product + most))


def _axis(name: str, written: str | tuple[str, ...], look: Lookup) -> Sequence[str]:
    try:
        if isinstance(written, str):
            return _range(render(written, look), look)
        values = [render(text, look) for text in written]
    except ValueProblem as exc:
        raise AxisProblem(name, str(exc)) from None
    if not values:
        raise AxisProblem(name, "has no values")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise AxisProblem(name, f"has {twice[:60]!r} twice")
    return values


def _range(text: str, look: Lookup) -> _Range:
    first, dots, last = (part.strip() for part in text.partition(".."))
    if not dots:
        raise ValueProblem(f"{text[:60]!r} is no range; {_FORMS}, or a list of values")
    made: _Range
    if _NUMBER.fullmatch(first) and _NUMBER.fullmatch(last):
        made = _Numbers(int(first), int(last), len(first) if first.startswith("0") else 1)
    else:
        try:
            made = _Days(*(_day(end, look) for end in (first, last)))
        except ValueError:
            raise ValueProblem(f"{text[:60]!r} is no range; {_FORMS}") from None
    # From a day up to that of the run there may be nothing yet.
    if not made and bool(_OF_THE_RUN.fullmatch(first)) is bool(_OF_THE_RUN.fullmatch(last)):
        raise ValueProblem(f"{text[:60]!r} is empty: the first is behind the last")
    return made


def _day(text: str, look: Lookup) -> int:
    """Return the day at one end of a range; raises ValueError."""
    if _OF_THE_RUN.fullmatch(text):
        text = render(f"${{{text}}}", look)
    elif not _DATE.fullmatch(text):
        raise ValueError
    return date.fromisoformat(text).toordinal()


def _said(
    key: str, written: tuple[tuple[tuple[str, str], ...], ...], look: Lookup
) -> list[dict[str, str]]:
    try:
        return [{name: render(text, look) for name, text in one} for one in written]
    except ValueProblem as exc:
        raise AxisProblem(key, str(exc)) from None
