from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchd.transfer import segments
from fetchd.transfer.segments import (
    LEAST_BYTES,
    MEASURED_S,
    MOST_CONNECTIONS,
    PAYS,
    PLAIN_S,
    WARM_UP_S,
    Growth,
    Piece,
    Range,
    Tiling,
)

MIB = 1024 * 1024


# ---------------------------------------------------------------- tiling


class Model:
    """A file byte by byte, beside a tiling: how often each byte was taken in as arrived."""

    def __init__(self, total: int) -> None:
        self.there = [0] * total
        self.tiling = Tiling(total, 0)
        self.pieces: list[Piece] = []  # of living connections
        self.saved: tuple[int, tuple[Range, ...]] = (0, ())  # what a journal says

    def take(self) -> None:
        offered = self.tiling.offers
        piece = self.tiling.take()
        assert offered == (piece is not None)
        if piece is not None:
            assert piece.left_bytes > 0
            self.pieces.append(piece)

    def arrive(self, which: int, count: int) -> None:
        piece = self.pieces[which % len(self.pieces)]
        at = piece.at
        for byte in range(at, at + self.tiling.arrived(piece, count)):
            self.there[byte] += 1

    def extend(self, which: int) -> None:
        piece = self.pieces[which % len(self.pieces)]
        left = piece.left_bytes
        assert self.tiling.extend(piece) == (piece.left_bytes > left)

    def fail(self, which: int) -> None:
        self.tiling.leave(self.pieces.pop(which % len(self.pieces)))

    def stall(self, which: int) -> None:
        """Its piece is taken over, and the connection has not noticed yet."""
        self.tiling.empty(self.pieces[which % len(self.pieces)])

    def save(self) -> None:
        self.saved = self.tiling.front_bytes, self.tiling.ranges

    def restart(self) -> None:
        front, ranges = self.saved
        self.tiling = Tiling(len(self.there), front, ranges)
        self.pieces = []
        kept = {*range(front)}.union(*(range(start, end) for start, end in ranges))
        self.there = [int(byte in kept) for byte in range(len(self.there))]

    def check(self) -> None:
        front, ranges = self.tiling.front_bytes, self.tiling.ranges
        said = [byte < front for byte in range(len(self.there))]
        before = front
        for start, end in ranges:
            assert before < start < end
            said[start:end] = [True] * (end - start)
            before = end
        assert [count == 1 for count in self.there] == said
        assert max(self.there, default=0) <= 1
        assert self.tiling.missing_bytes == said.count(False)
        owned = [byte for piece in self.pieces for byte in range(piece.at, piece.end)]
        assert len(owned) == len(set(owned))
        assert not any(said[byte] for byte in owned)


@given(total=st.integers(1, 200), data=st.data())
def test_whatever_happens_each_byte_of_a_file_arrives_exactly_once(total: int, data) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "LEAST_BYTES", 5)
        model = Model(total)
        steps = st.sampled_from(
            (
                "take",
                "arrive",
                "arrive",
                "extend",
                "fail",
                "stall",
                "save",
                "restart",
            )
        )
        for step in data.draw(st.lists(steps, max_size=60)):
            if step in {"take", "save", "restart"}:
                getattr(model, step)()
            elif model.pieces:
                which = data.draw(st.integers(0, 9))
                if step == "arrive":
                    model.arrive(which, data.draw(st.integers(1, 30)))
                else:
                    getattr(model, step)(which)
            model.check()
        for which in range(len(model.pieces)):
            model.stall(which)  # those that live on bring nothing any more
        while not model.tiling.complete:
            model.take()
            for which in range(len(model.pieces)):
                model.arrive(which, 7)
        model.check()
        assert model.there == [1] * total
        assert model.tiling.take() is None


def test_the_largest_piece_is_halved_for_one_more_connection() -> None:
    tiling = Tiling(16 * LEAST_BYTES, 0)
    whole = tiling.take()
    half = tiling.take()
    assert whole is not None
    assert half is not None
    assert (whole.at, whole.end) == (0, 8 * LEAST_BYTES)
    assert (half.at, half.end) == (8 * LEAST_BYTES, 16 * LEAST_BYTES)
    tiling.arrived(half, 6 * LEAST_BYTES)
    quarter = tiling.take()
    assert quarter is not None
    assert (quarter.at, quarter.end) == (4 * LEAST_BYTES, 8 * LEAST_BYTES)


def test_no_piece_is_cut_smaller_than_what_is_worth_a_connection() -> None:
    tiling = Tiling(2 * LEAST_BYTES - 1, 0)
    assert tiling.take() is not None
    assert tiling.take() is None
    tiling = Tiling(2 * LEAST_BYTES, 0)
    first, second = tiling.take(), tiling.take()
    assert first is not None
    assert second is not None
    assert first.left_bytes == second.left_bytes == LEAST_BYTES


def test_what_was_left_comes_before_a_split() -> None:
    tiling = Tiling(10 * LEAST_BYTES, 0)
    first, second = tiling.take(), tiling.take()
    assert first is not None
    assert second is not None
    tiling.arrived(second, 7)
    left = (second.at, second.end)
    tiling.leave(second)
    again = tiling.take()
    assert again is not None
    assert (again.at, again.end) == left


def test_a_piece_goes_on_behind_its_end_up_to_what_another_brings() -> None:
    tiling = Tiling(16 * LEAST_BYTES, 0)
    first, second = tiling.take(), tiling.take()
    assert first is not None
    assert second is not None
    assert not tiling.extend(first)
    third = tiling.take()
    assert third is not None
    tiling.leave(third)
    assert tiling.extend(first)
    assert (first.at, first.end, second.at) == (0, 8 * LEAST_BYTES, 8 * LEAST_BYTES)


def test_the_front_alone_is_kept_and_one_piece_brings_the_rest() -> None:
    tiling = Tiling(10 * LEAST_BYTES, 0)
    first, second = tiling.take(), tiling.take()
    assert first is not None
    assert second is not None
    tiling.arrived(first, 5)
    tiling.arrived(second, 5)
    tiling.keep_front(first)
    assert (tiling.front_bytes, tiling.ranges) == (5, ())
    assert (first.at, first.end) == (5, 10 * LEAST_BYTES)


# ---------------------------------------------------------------- growth


class Measured:
    """Connections of one speed each, up to what the path carries, and what a Growth says.

    ``lends``: so many connections there can be. A new one brings nothing for ``latency_s``.
    """

    def __init__(
        self,
        each: float,
        path: float,
        missing: int = 100_000 * MIB,
        lends: int = 16,
        latency_s: float = 0.1,
    ) -> None:
        self.growth = Growth(None, 0.0, 0)
        self.each, self.path, self.missing, self.lends = each, path, missing, lends
        self.latency_s = latency_s
        self.now_s, self.received = 0.0, 0.0
        self.since_s = [-latency_s]  # when each connection was asked for
        self.numbers = [1]

    @property
    def connections(self) -> int:
        return len(self.since_s)

    def run(self, seconds: float, every_s: float = 0.25) -> list[int]:
        """Return every change that was decided, looking four times a second."""
        changes = []
        for _ in range(int(seconds / every_s)):
            self.now_s += every_s
            flowing = sum(self.now_s - since_s > self.latency_s for since_s in self.since_s)
            self.received += min(flowing * self.each, self.path) * every_s
            while change := self._decide():
                changes.append(change)
                if change < 0:
                    self.since_s.pop()
                    break
                if self.connections == self.lends:
                    changes.pop()
                    self.growth.settle_for(self.now_s, int(self.received), self.connections)
                    break
                self.since_s.append(self.now_s)
            self.numbers.append(self.connections)
        return changes

    def _decide(self) -> int:
        received = int(self.received)
        return self.growth.decide(self.now_s, received, self.missing - received, self.connections)


def test_the_first_connection_is_measured_before_a_second_is_asked_for() -> None:
    path = Measured(10 * MIB, 1000 * MIB)
    assert path.run(MEASURED_S - 0.25) == []
    assert path.run(0.25) == [1]
    assert path.run(WARM_UP_S + PLAIN_S - 0.25) == []


def test_connections_are_doubled_as_long_as_all_the_new_ones_pay() -> None:
    path = Measured(10 * MIB, 1000 * MIB)
    assert path.run(MEASURED_S) == [1]
    assert path.run(WARM_UP_S + PLAIN_S) == [1, 1]
    assert path.run(WARM_UP_S + PLAIN_S) == [1] * 4
    assert path.run(WARM_UP_S + PLAIN_S) == [1] * 8
    assert path.run(120) == []
    assert path.connections == MOST_CONNECTIONS


def test_of_a_step_those_stay_that_pay_and_none_is_asked_for_again() -> None:
    path = Measured(10 * MIB, 55 * MIB)
    assert path.run(120) == [1] * 7 + [-1] * 2
    assert path.connections == 6


def test_what_is_not_plain_is_measured_as_long_as_the_first_connection() -> None:
    path = Measured(10 * MIB, 14 * MIB)
    assert path.run(MEASURED_S) == [1]
    assert path.run(WARM_UP_S + MEASURED_S - 0.25) == []
    assert path.run(0.25) == [1, 1]  # two fifths of what it could is more than one


def test_no_connection_is_given_back_before_its_step_was_measured_for_long() -> None:
    path = Measured(10 * MIB, 65 * MIB)
    assert path.run(MEASURED_S + 2 * (WARM_UP_S + PLAIN_S)) == [1] * 7
    assert path.run(WARM_UP_S + MEASURED_S - 0.25) == []
    assert path.run(0.25) == [-1]


def test_what_is_plainly_faster_is_not_measured_for_long() -> None:
    path = Measured(10 * MIB, 33 * MIB)
    assert path.run(MEASURED_S + WARM_UP_S + PLAIN_S) == [1, 1, 1]
    assert path.run(WARM_UP_S + PLAIN_S) == [1] * 4  # the last of the two adds three tenths
    assert path.run(WARM_UP_S + MEASURED_S) == [-1]


@given(
    each=st.integers(64 * 1024, 100 * MIB),
    path=st.floats(0.5, 20.0),
    lends=st.integers(1, 20),
    latency_s=st.floats(0.0, 0.9),
)
def test_on_any_path_that_many_connections_are_kept_as_pay(each, path, lends, latency_s) -> None:
    """The last one adds a fifth of what a single one brings, and one more would not."""
    best = min(float(lends), MOST_CONNECTIONS, path)
    measured = Measured(each, path * each, lends=lends, latency_s=latency_s, missing=10**15)
    measured.run(MEASURED_S - 0.25)
    assert measured.connections == 1
    measured.run(60.0)
    assert max(measured.numbers) <= min(lends, MOST_CONNECTIONS)
    alone = min(1.0, path)
    kept = measured.connections
    before = [n for n in measured.numbers if n < kept]
    assert min(kept, path) >= best - 1.01 * PAYS * alone
    if kept > 1:
        assert min(kept, path) - min(kept - 1, path) >= 0.99 * PAYS * alone
    settled = measured.numbers[-1]
    measured.run(60.0)
    assert set(measured.numbers[-200:]) == {settled}
    assert before == sorted(before)


@given(lends=st.integers(1, 20), noise=st.lists(st.floats(0.9, 1.1), min_size=400, max_size=400))
def test_a_speed_that_wavers_takes_no_more_than_a_fifth_of_the_path(lends, noise) -> None:
    path = Measured(10 * MIB, 1000 * MIB, lends=lends)
    for factor in noise:
        path.each = 10 * MIB * factor
        path.run(0.25)
    assert path.connections >= 0.8 * min(lends, MOST_CONNECTIONS)


def test_one_that_does_not_pay_is_given_back_and_none_is_asked_for_again() -> None:
    path = Measured(10 * MIB, 11 * MIB)
    assert path.run(120) == [1, -1]
    assert path.connections == 1


def test_nothing_is_asked_for_when_the_rest_comes_soon_anyway() -> None:
    path = Measured(10 * MIB, 1000 * MIB, missing=140 * MIB)
    assert path.run(14) == []


def test_what_was_refused_is_asked_for_after_another_measurement() -> None:
    path = Measured(10 * MIB, 1000 * MIB)
    assert path.run(MEASURED_S) == [1]
    path.since_s.pop()
    path.growth.settle_for(path.now_s, int(path.received), 1)
    assert path.run(MEASURED_S - 0.25) == []
    assert path.run(0.25) == [1]


def test_what_is_left_of_a_step_is_judged_all_the_same() -> None:
    path = Measured(10 * MIB, 20 * MIB)
    assert path.run(MEASURED_S + WARM_UP_S + PLAIN_S) == [1, 1, 1]
    path.since_s.pop()
    path.growth.settle_for(path.now_s, int(path.received), 3)
    assert path.run(WARM_UP_S + MEASURED_S) == [-1]
    assert path.connections == 2


def test_what_was_added_is_judged_even_when_another_connection_fails() -> None:
    path = Measured(10 * MIB, 20 * MIB)
    assert path.run(MEASURED_S + WARM_UP_S + PLAIN_S) == [1, 1, 1]
    path.since_s.pop()
    path.growth.stop()
    assert path.run(60) == [-1]
    assert path.connections == 2


def test_a_number_is_reached_at_once_where_the_pieces_are_worth_it() -> None:
    growth = Growth(4, 0.0, 0)
    assert [growth.decide(0.0, 0, 100 * LEAST_BYTES, n) for n in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert [growth.decide(0.0, 0, 2 * LEAST_BYTES, n) for n in (1, 2)] == [1, 0]
    growth.stop()
    assert growth.decide(0.0, 0, 100 * LEAST_BYTES, 1) == 0
    assert Growth(1, 0.0, 0).decide(60.0, 0, 100 * LEAST_BYTES, 1) == 0
