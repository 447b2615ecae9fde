"""A matrix: which combinations it has, and that none is made before it is needed."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import ValueProblem
from fetchd.expand import Expander
from fetchd.expand.matrix import AxisProblem, Combinations
from fetchd.model import Item, Job, Matrix, Run, StepSpec, TaskGroup, Template
from fetchd.stores import codec
from fetchd.variables import unknown

NOON_S = 1_795_435_200.0  # 2026-11-23 12:00 UTC
RUN = Run(id=7, job="iso", revision="r", scheduled_for_s=NOON_S)
VALUES = {"run.date": "2026-11-23", "most": "3"}


def look(name: str) -> str:
    if name not in VALUES:
        raise unknown(name, VALUES)
    return VALUES[name]


def combinations(include=(), exclude=(), **axes) -> Combinations:
    pairs = [tuple(tuple(one.items()) for one in said) for said in (include, exclude)]
    return Combinations(Matrix(axes=tuple(axes.items()), include=pairs[0], exclude=pairs[1]), look)


def values(**axes) -> list[tuple[str, ...]]:
    made = combinations(**axes)
    found = [made.at(number) for number in range(len(made))]
    return [tuple(one.values()) for one in found if one is not None]


def expand_all(group: TaskGroup, **more) -> list:
    """Every batch of a group's tasks."""
    job = Job(name="iso", revision="r", groups=(group,), timezone="UTC", **more)
    expand, batches, position = Expander(), [], None
    while True:
        batch = expand(job, group, RUN, position)
        batches.append(batch.specs)
        if (position := batch.position) is None:
            return batches


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (("a", "b"), ["a", "b"]),
        (("${most}", "x-${run.date}"), ["3", "x-2026-11-23"]),
        ("1..4", ["1", "2", "3", "4"]),
        ("7..7", ["7"]),
        ("08..11", ["08", "09", "10", "11"]),
        ("098..101", ["098", "099", "100", "101"]),
        ("0..2", ["0", "1", "2"]),
        (" 1 .. ${most} ", ["1", "2", "3"]),
        ("2026-02-27..2026-03-01", ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("run.date-2d..run.date", ["2026-11-21", "2026-11-22", "2026-11-23"]),
        ("run.date - 1d .. run.date", ["2026-11-22", "2026-11-23"]),
        ("${run.date-1d}..${run.date}", ["2026-11-22", "2026-11-23"]),
        ("2026-11-22..run.date", ["2026-11-22", "2026-11-23"]),
        ("2026-12-01..run.date", []),
    ],
)
def test_a_name_has_the_values_of_its_list_or_range(written, expected) -> None:
    assert [(one,) for one in expected] == values(x=written)


@pytest.mark.parametrize(
    "written",
    ["", "a", "..", "1..", "..2", "1..a", "1...3", "1-3", "2026-01-01..5", "2026-13-01..run.date",
     "run.date..run.dat", "5..4", "run.date..run.date-1d", "-1..3", "1.5..2", "9" * 16 + "..1",
     "run.date-1h..run.date", "${run.id}..3"],
)  # fmt: skip
def test_what_is_no_range_is_refused_with_its_name(written) -> None:
    with pytest.raises(AxisProblem) as caught:
        values(x=written)

    assert caught.value.axis == "x"


def test_the_last_name_changes_fastest_and_what_is_included_comes_last() -> None:
    assert values(
        x=("a", "b"), y="1..2", include=[{"x": "c", "y": "9"}], exclude=[{"x": "a", "y": "2"}]
    ) == [("a", "1"), ("b", "1"), ("b", "2"), ("c", "9")]
    assert values(x=("a", "b"), y="1..2", exclude=[{"y": "1"}]) == [("a", "2"), ("b", "2")]
    assert values(include=[{"x": "c"}]) == [("c",)]


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=4, unique=True),
            st.integers(0, 20).flatmap(
                lambda first: st.integers(first, first + 4).map(lambda last: f"{first}..{last}")
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_each_combination_is_there_once_in_the_order_of_a_product(axes) -> None:
    def plain(said):
        if isinstance(said, str):
            first, last = map(int, said.split(".."))
            return [str(number) for number in range(first, last + 1)]
        return said

    written = {f"n{i}": s if isinstance(s, str) else tuple(s) for i, s in enumerate(axes)}

    assert list(itertools.product(*map(plain, axes))) == values(**written)
    telling = list(combinations(**written).telling(5))
    assert len(telling) == len(set(telling))
    assert set(telling) <= set(range(len(combinations(**written))))


@settings(derandomize=True, max_examples=300)
@given(st.text("0123456789.-run dateDd+${}", max_size=24))
def test_any_text_is_a_range_or_refused(written) -> None:
    try:
        made = combinations(x=written)
    except ValueProblem:
        return
    assert len(made) == 0 or made.at(len(made) - 1)


def test_a_billion_days_and_numbers_take_no_room() -> None:
    tracemalloc.start()
    with pytest.raises(AxisProblem, match="has 100000000000000 combinations; at most 10000000"):
        combinations(x="1..100000000000000")
    made = combinations(x="1..1000", y="0001-01-01..0027-01-01")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert made.at(len(made) - 1) == {"x": "1000", "y": "0027-01-01"}
    assert peak < 100_000


def test_a_group_is_made_in_batches_that_go_on_where_the_last_one_ended() -> None:
    group = TaskGroup(
        name="g",
        items=(Item(url="${x}/a"), Item(url="${matrix.x}/b")),
        matrix=Matrix(axes=(("x", "0001..1200"),), exclude=((("x", "0002"),),)),
        template=Template(base=("https://example.org/",), dest="d", filename="${url.path}"),
    )

    batches = expand_all(group)

    assert [len(batch) for batch in batches] == [998, 1000, 400]
    paths = [spec.path for batch in batches for spec in batch]
    wanted = [f"d/{x:04}/{name}" for x in range(1, 1201) if x != 2 for name in "ab"]
    assert wanted == [path.replace("d//", "d/") for path in paths]


def test_values_stand_in_every_text_of_a_task() -> None:
    group = TaskGroup(
        name="g",
        items=(Item(url="${x}.iso", filename="${x}-${day:%d}", checksum="md5:${sum}"),),
        matrix=Matrix(
            axes=(),
            include=((("x", "a"), ("day", "2026-11-22"), ("sum", "ab" * 16)),),
        ),
        template=Template(
            base=("https://${x}.example.org/",), dest="${matrix.x}", sums="${x}.sums"
        ),
    )

    ((spec,),) = expand_all(group)

    assert spec.sources == ("https://a.example.org/a.iso",)
    assert spec.path == "a/a-22"
    assert [str(one) for one in spec.digests] == ["md5:" + "ab" * 16]
    assert spec.sums == ("https://a.example.org/a.sums",)


def test_a_task_keeps_the_values_that_its_steps_use_and_no_other() -> None:
    group = TaskGroup(
        name="g",
        items=(Item(url="https://example.org/${x}/${y}"),),
        matrix=Matrix(axes=(("x", ("a",)), ("y", ("b",)), ("z", ("c",)))),
        steps=(
            StepSpec(name="concat", options={"name": "${matrix.z}"}),
            StepSpec(name="run", options={"command": "c", "args": ["-", "${x}"], "n": 3}),
        ),
    )

    ((spec,),) = expand_all(group)
    ((bare,),) = expand_all(replace(group, steps=()))

    assert spec.values == (("x", "a"), ("z", "c"))
    assert bare.values == ()


def test_a_bad_combination_is_one_failed_task_with_its_number() -> None:
    group = TaskGroup(
        name="g",
        items=(Item(url="https://example.org/${x}"),),
        matrix=Matrix(axes=(("x", ("a", "..", "b")),)),
    )

    ((good, bad, other),) = expand_all(group)

    assert (good.path, other.path) == ("a", "b")
    assert bad.problem[0] == "bad_item"
    assert bad.problem[1].startswith("g:2: ")


def test_a_group_with_a_matrix_outlives_a_restart() -> None:
    group = TaskGroup(
        name="g",
        items=(Item(url="https://example.org/${x}"), Item(url="https://example.org/${y}")),
        matrix=Matrix(
            axes=(("x", ("a", "b")), ("y", "1..3")),
            include=((("x", "c"), ("y", "4")),),
            exclude=((("y", "2"),),),
        ),
    )

    assert codec.group_of(codec.group_text(group)) == group
