from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from fetchd.transfer.blocks import Search

BLOCK = 10


@dataclass
class Mending:
    """A search over blocks of which some are damaged, as a repair makes it."""

    total_bytes: int
    damaged: set[int]
    doubtful: list[int] = field(default_factory=list)
    compared: tuple[tuple[int, int], ...] = ()
    order: list[int] = field(default_factory=list)
    questions: int = 0
    tries: int = 0

    def run(self, most_blocks: int | None = None) -> Search:
        """Mend until nothing is damaged, or so many blocks are compared."""
        search = Search(self.total_bytes, self.doubtful, self.compared, BLOCK)
        while (stretch := search.next()) is not None:
            self.questions += 1
            assert stretch[0] < stretch[1] <= self.total_bytes
            for start, end in search.blocks_of(stretch):
                assert end - start == BLOCK or end == self.total_bytes
                if len(self.order) == most_blocks:
                    return search
                index = start // BLOCK
                self.order.append(index)
                search.note((start, end), differs=index in self.damaged)
                self.damaged.discard(index)
                if search.due:
                    break
            if search.due:
                self.tries += 1
                if not self.damaged:
                    return search
                search.tried()
                assert not search.due
        return search


@st.composite
def mendings(draw) -> Mending:
    total_bytes = draw(st.integers(1, 400))
    blocks = -(-total_bytes // BLOCK)
    damaged = draw(st.sets(st.integers(0, blocks - 1)))
    doubtful = draw(st.lists(st.integers(0, total_bytes), max_size=5))
    return Mending(total_bytes, damaged, doubtful)


@given(mendings())
@example(Mending(1, {0}))
@example(Mending(1, set()))
def test_all_damaged_blocks_are_found_and_no_block_is_compared_twice(mending):
    mending.run()

    assert mending.damaged == set()
    assert len(mending.order) == len(set(mending.order))
    assert mending.tries <= 8


@given(mendings(), st.integers(0, 40))
def test_a_search_that_was_broken_off_goes_on_with_what_is_left(mending, most_blocks):
    search = mending.run(most_blocks)
    mending.compared = search.compared

    mending.run()

    assert mending.damaged == set()
    assert len(mending.order) == len(set(mending.order))


@given(mendings())
def test_what_was_compared_is_told_as_ranges_in_order(mending):
    search = mending.run(7)

    held = {at for start, end in search.compared for at in range(start, end)}
    assert {at // BLOCK for at in held} == set(mending.order)
    assert all(a[1] < b[0] for a, b in zip(search.compared, search.compared[1:], strict=False))


def test_the_search_begins_where_something_met():
    mending = Mending(400, {21}, doubtful=[215])
    mending.run()

    assert mending.order == [21, 20, 22]
    assert mending.tries == 1


def test_both_sides_of_a_place_between_two_blocks_are_compared_at_once():
    mending = Mending(400, {20}, doubtful=[200])
    mending.run()

    assert mending.order == [19, 20, 21]
    assert mending.questions == 2


def test_from_a_damaged_block_the_search_goes_outward_until_they_agree():
    mending = Mending(400, {17, 18, 19, 20, 21, 22, 23}, doubtful=[205])
    mending.run()

    assert set(range(16, 25)) <= set(mending.order) <= set(range(14, 26))
    assert mending.tries == 1
    assert mending.questions <= 7


def test_without_a_place_to_suspect_the_blocks_come_in_order_and_the_first_one_last():
    mending = Mending(100, {0})
    mending.run()

    assert mending.order == [*range(1, 10), 0]
    assert mending.questions == 5


def test_the_digest_is_tried_as_soon_as_what_was_found_is_mended():
    mending = Mending(400, {5, 30}, doubtful=[55, 305])
    mending.run()

    assert mending.order == [5, 4, 6, 30, 29, 31]
    assert mending.tries == 2


def test_the_digest_is_tried_a_few_times_only():
    mending = Mending(400, set(range(0, 40, 2)))
    mending.run()

    assert mending.tries == 8


def test_a_search_goes_on_at_the_place_where_it_was_broken_off():
    mending = Mending(400, {20, 21, 22}, doubtful=[205])
    mending.compared = mending.run(2).compared
    assert mending.compared == ((190, 210),)

    mending.run()

    assert mending.order == [20, 19, 18, 21, 22, 23]


@given(st.integers(1, 400), st.integers(0, 400), st.integers(0, 400))
def test_a_block_that_was_compared_in_part_is_compared(total_bytes, start, length):
    """As by a later version, with larger blocks."""
    end = min(total_bytes, start + length)
    compared = ((start, end),) if start < end else ()
    mending = Mending(total_bytes, set(range(-(-total_bytes // BLOCK))), compared=compared)

    mending.run()

    first_byte_of = [at * BLOCK for at in mending.damaged]
    assert all(start <= at and min(at + BLOCK, total_bytes) <= end for at in first_byte_of)
