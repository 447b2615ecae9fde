"""Rates as they are spent: never more than they say, each its turn, and waits that end."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd import threads
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import Share, Validator
from fetchd.ports import Request
from fetchd.rates import Rate, parse_rate
from fetchd.transports.throttle import (
    CREDIT_S,
    LEAST_SLICE_BYTES,
    LOOK_S,
    SLICE_S,
    Bucket,
    Rates,
    Throttle,
)
from harness import FakeClock

KIB, MIB = 1024, 1024 * 1024
#: Noon in the zone in which the timetables here are meant.
NOON_S, ZONE = 1_700_049_600.0, "UTC"


def rate(bytes_per_s: int) -> Rate:
    return Rate(always=bytes_per_s)


class PassingClock(FakeClock):
    """Waits take as long as they are told to."""

    def __init__(self) -> None:
        super().__init__(NOON_S)
        self.longest_wait_s = 0.0

    def wait(self, condition, timeout_s):
        self.longest_wait_s = max(self.longest_wait_s, timeout_s)
        self.advance(timeout_s)


# ---------------------------------------------------------------- many streams of one bucket


@dataclass
class Reader:
    """One stream of a simulation: each read takes its time and brings its part of what it may."""

    takes_s: Callable[[], float] = lambda: 0.0
    part: Callable[[], float] = lambda: 1.0
    joins_s: float = 0.0
    leaves_s: float = float("inf")
    ticket: int | None = None
    got_bytes: int = 0


@dataclass
class Simulation:
    """Readers of one bucket, as a machine without any delay of its own would run them."""

    bytes_per_s: int
    readers: list[Reader]
    seconds: float
    clock: FakeClock = field(default_factory=FakeClock)
    reads: list[tuple[float, int]] = field(default_factory=list)
    most_at_once: int = 0

    def run(self) -> None:
        bucket = Bucket(rate(self.bytes_per_s), "it", self.clock)
        began_s, here = self.clock.monotonic(), 0
        due = [(r.joins_s, n, 0) for n, r in enumerate(self.readers)]  # 0: ask, more: has read
        heapq.heapify(due)
        for reader in self.readers:
            if not reader.joins_s:  # all of these are there before any has read
                reader.ticket = bucket.join()
                here += 1
        while due:
            at_s, number, may_bytes = heapq.heappop(due)
            if at_s > self.seconds:
                continue
            self.clock.advance(max(0.0, began_s + at_s - self.clock.monotonic()))
            reader = self.readers[number]
            if reader.ticket is None:
                reader.ticket = bucket.join()
                here += 1
            self.most_at_once = max(self.most_at_once, here)
            if may_bytes:
                count = max(1, int(may_bytes * reader.part()))
                reader.ticket = bucket.take(count)
                reader.got_bytes += count
                self.reads.append((at_s, count))
            if at_s >= reader.leaves_s:
                bucket.leave()
                here -= 1
                continue
            wait_s = bucket.wait_s(reader.ticket)
            if wait_s:
                heapq.heappush(due, (at_s + max(wait_s, 1e-9), number, 0))
            else:
                most = bucket.most_bytes()
                assert most
                heapq.heappush(due, (at_s + reader.takes_s(), number, most))

    def burst_bytes(self) -> float:
        """Return the most by which any window exceeds what the rate has for its time."""
        most = over = 0.0
        before_s = 0.0
        for at_s, count in self.reads:
            over = max(0.0, over - (at_s - before_s) * self.bytes_per_s) + count
            most, before_s = max(most, over), at_s
        return most


def allowed_bytes(bytes_per_s: int, streams: int) -> float:
    slice_bytes = max(LEAST_SLICE_BYTES, bytes_per_s * SLICE_S / streams)
    return bytes_per_s * CREDIT_S + streams * slice_bytes + streams  # a byte owed does not wait


@given(
    data=st.data(),
    bytes_per_s=st.integers(1024, 200 * MIB),
    streams=st.integers(1, 6),
)
@settings(max_examples=60)
def test_no_window_of_time_brings_more_than_the_rate_and_a_small_burst(data, bytes_per_s, streams):
    waits = st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.4, 3.0])
    parts = st.sampled_from([1.0, 1.0, 0.5, 0.01])
    readers = [
        Reader(takes_s=lambda: data.draw(waits), part=lambda: data.draw(parts))
        for _ in range(streams)
    ]
    simulation = Simulation(bytes_per_s, readers, seconds=2.0)

    simulation.run()

    assert simulation.burst_bytes() <= allowed_bytes(bytes_per_s, streams)


@given(
    bytes_per_s=st.integers(1024, 20 * MIB),
    lives=st.lists(st.tuples(st.floats(0, 3), st.floats(0.0, 1.0)), min_size=1, max_size=40),
)
@settings(max_examples=60)
def test_streams_that_come_and_leave_unpaid_add_up_to_no_more_than_the_rate(bytes_per_s, lives):
    readers = [Reader(joins_s=begin, leaves_s=begin + life) for begin, life in lives]
    simulation = Simulation(bytes_per_s, readers, seconds=6.0)

    simulation.run()

    slice_bytes = max(LEAST_SLICE_BYTES, bytes_per_s * SLICE_S)
    allowed = bytes_per_s * CREDIT_S + simulation.most_at_once * (slice_bytes + 1)
    assert simulation.burst_bytes() <= allowed


def test_a_stream_alone_gets_the_whole_rate_though_the_system_wakes_it_late():
    late = Reader(takes_s=lambda: 0.004)
    simulation = Simulation(MIB, [late], seconds=10.0)

    simulation.run()

    assert 0.98 * 10 * MIB <= late.got_bytes <= 1.02 * 10 * MIB


@pytest.mark.parametrize("count", [2, 8, 100])
def test_streams_that_share_a_rate_get_equal_parts(count):
    readers = [Reader() for _ in range(count)]
    simulation = Simulation(20 * MIB, readers, seconds=20.0)

    simulation.run()

    got = [reader.got_bytes for reader in readers]
    assert sum(got) == pytest.approx(20 * 20 * MIB, rel=0.02)
    assert min(got) >= 0.95 * max(got)


def test_what_a_slow_stream_leaves_goes_to_the_others():
    slow = Reader(takes_s=lambda: 0.5, part=lambda: 0.1)
    quick = [Reader(), Reader()]
    simulation = Simulation(MIB, [slow, *quick], seconds=10.0)

    simulation.run()

    assert slow.got_bytes < 0.1 * 10 * MIB
    for reader in quick:
        assert reader.got_bytes == pytest.approx((10 * MIB - slow.got_bytes) / 2, rel=0.03)


def test_a_newcomer_gets_its_part_at_once():
    old, new = [Reader() for _ in range(7)], Reader(joins_s=5.0)
    simulation = Simulation(MIB, [*old, new], seconds=10.0)

    simulation.run()

    assert new.got_bytes == pytest.approx(5 * MIB / 8, rel=0.1)


# ---------------------------------------------------------------- streams


class Body:
    """An origin that sends as fast as it is read."""

    start, framed, not_modified = 0, True, False
    total: int | None = None
    wish: tuple[str, float] | None = None
    file_name: str | None = None
    validator, content_type, held_s = Validator(), "text/plain", 0.0

    def __init__(self, size_bytes: int, final_url: str = "http://one.example/f") -> None:
        self.left_bytes = size_bytes
        self.final_url = final_url
        self.asked: list[int] = []
        self.closed = False
        self.takes: Callable[[], object] = lambda: None

    def readinto(self, buffer):
        self.asked.append(len(buffer))
        self.takes()
        count = min(len(buffer), self.left_bytes)
        self.left_bytes -= count
        return count

    def close(self):
        self.closed = True


class Bench:
    def __init__(self, total: object = None, **origins: object) -> None:
        self.clock = PassingClock()
        self.wanted = True
        self.asked = 0
        self.throttle = Throttle(
            Rates(
                total=self.rate(total),
                origins={f"http://{name}.example:80": self.rate(r) for name, r in origins.items()},
            ),
            self.clock,
        )

    def rate(self, written: object) -> Rate | None:
        if written is None:
            return None
        read = parse_rate(written)
        return Rate(always=read.always, spans=read.spans, zone=ZONE)

    def is_wanted(self) -> bool:
        self.asked += 1
        return self.wanted

    def stream(self, body: Body, *, run: int = 1, job: object = None, deadline_s=None):
        share = None if job is None else Share(name=f"run {run}", rate=self.rate(job))
        request = Request(
            url="http://asked.example/f",
            connect_s=1.0,
            stall_s=1.0,
            deadline_s=None if deadline_s is None else self.clock.monotonic() + deadline_s,
            share=share,
        )
        return self.throttle.stream(body, request, self.is_wanted)

    def seconds(self, *streams, most_bytes: int | None = None) -> float:
        """Read them in turn, to their ends or so many bytes of each; return how long it took."""
        began_s = self.clock.monotonic()
        buffer = memoryview(bytearray(MIB))
        for stream in streams:
            got = 0
            while count := stream.readinto(buffer):
                got += count
                if most_bytes is not None and got >= most_bytes:
                    break
        return self.clock.monotonic() - began_s


def test_without_a_rate_a_stream_is_left_alone():
    bench, body = Bench(one="5MiB/s"), Body(10, "http://two.example/f")

    assert Bench().stream(body) is body
    assert bench.stream(body) is body


def test_a_small_rate_comes_in_small_pieces_into_a_large_buffer():
    bench, body = Bench("100KiB/s"), Body(500 * KIB)

    took_s = bench.seconds(bench.stream(body))

    assert max(body.asked) <= 100 * KIB * SLICE_S
    assert took_s == pytest.approx(5.0, rel=0.01)
    assert bench.clock.longest_wait_s <= LOOK_S


def test_a_file_is_paid_for_before_its_end_is_told():
    bench = Bench("100KiB/s")

    took_s = sum(bench.seconds(bench.stream(Body(4 * KIB))) for _ in range(100))

    assert took_s == pytest.approx(4.0, rel=0.02)


def test_files_that_are_refused_at_their_first_bytes_count_too():
    bench = Bench("100KiB/s")

    def refused() -> float:
        with closing(bench.stream(Body(1 * MIB))) as stream:
            return bench.seconds(stream, most_bytes=1)

    took_s = sum(refused() for _ in range(100))

    assert took_s == pytest.approx(99 * SLICE_S, rel=0.02)


@pytest.mark.parametrize(
    ("total", "origin", "job"),
    [
        ("100KiB/s", None, None),
        (None, "100KiB/s", None),
        (None, None, "100KiB/s"),
        ("100KiB/s", "1MiB/s", "1MiB/s"),
        ("1MiB/s", "100KiB/s", "1MiB/s"),
        ("1MiB/s", "1MiB/s", "100KiB/s"),
        ("1GiB/s", "1GiB/s", {"00:00-24:00": "100KiB/s"}),
    ],
)
def test_the_lowest_of_all_rates_decides(total, origin, job):
    bench = Bench(total, **({} if origin is None else {"one": origin}))

    took_s = bench.seconds(bench.stream(Body(500 * KIB), job=job))

    assert took_s == pytest.approx(5.0, rel=0.02)


def test_a_run_has_its_rate_for_itself_and_all_have_the_operators_together():
    bench = Bench("1MiB/s")
    one = [bench.stream(Body(100 * KIB), run=1, job="100KiB/s") for _ in range(2)]
    other = bench.stream(Body(100 * KIB), run=2, job="100KiB/s")

    assert bench.seconds(*one) == pytest.approx(2.0, rel=0.05)
    assert bench.seconds(other) == pytest.approx(1.0, rel=0.05)


def test_the_runs_that_have_ended_are_forgotten():
    bench = Bench()
    for run in range(100):
        with closing(bench.stream(Body(10 * KIB), run=run, job="100KiB/s")) as stream:
            bench.seconds(stream)

    assert len(bench.throttle._shares) <= 2


def test_the_origin_that_sends_the_bytes_is_the_one_that_counts():
    bench = Bench(one="100KiB/s", asked="1KiB/s")

    took_s = bench.seconds(bench.stream(Body(100 * KIB, "http://one.example/elsewhere")))

    assert took_s == pytest.approx(1.0, rel=0.05)


def test_a_wait_is_told_so_that_nobody_blames_the_origin():
    bench = Bench("100KiB/s")
    stream, buffer = bench.stream(Body(MIB)), memoryview(bytearray(MIB))

    held = []
    for _ in range(3):
        began_s = bench.clock.monotonic()
        stream.readinto(buffer)
        held.append(stream.held_s == bench.clock.monotonic() - began_s)

    assert held == [True] * 3
    assert stream.held_s == pytest.approx(SLICE_S)


def test_who_waits_hears_at_once_that_it_is_not_wanted():
    bench = Bench("1KiB/s")
    stream = bench.stream(Body(MIB))
    bench.seconds(stream, most_bytes=1)
    bench.wanted = False
    began_s = bench.clock.monotonic()

    with pytest.raises(NotWanted):
        stream.readinto(memoryview(bytearray(MIB)))

    assert bench.clock.monotonic() - began_s <= LOOK_S


def test_short_waits_ask_nobody():
    bench = Bench("1MiB/s")

    bench.seconds(bench.stream(Body(MIB)))

    assert bench.asked == 0


def test_a_deadline_ends_the_wait_and_says_for_what_it_waited():
    bench = Bench("1MiB/s", one="1KiB/s")
    stream = bench.stream(Body(MIB), deadline_s=1.9)
    began_s = bench.clock.monotonic()

    with pytest.raises(AttemptError) as caught:
        bench.seconds(stream)

    assert caught.value.code == "deadline"
    assert "the rate of http://one.example:80 in the configuration" in caught.value.reason
    assert bench.clock.monotonic() - began_s == pytest.approx(1.9)


def test_c08_a_wait_for_a_rate_is_no_silence_of_the_thread():
    bench, late = Bench("1KiB/s"), []

    def work(worker: threads.Worker) -> None:
        worker.beat()
        bench.seconds(bench.stream(Body(400 * KIB)))

    def look() -> bool:
        late.append(worker.late)
        return True

    bench.is_wanted = look  # type: ignore[method-assign]
    worker = threads.Worker("fetcher-0", work, bench.clock, lambda *_: late.append(True))
    worker.start()

    assert worker.join(20)
    assert len(late) > 1000
    assert not any(late)


@pytest.mark.parametrize(
    ("before", "after", "least_s", "most_s"),
    [
        ("1MiB/s", "100KiB/s", 9.0, 11.0),
        ("100KiB/s", "1MiB/s", 0.5, 2.0),
        ("10KiB/s", None, 0.0, 1.0),
        (None, "100KiB/s", 9.0, 11.0),
    ],
)
def test_a_change_of_the_timetable_holds_within_a_second_for_a_transfer_under_way(
    before, after, least_s, most_s
):
    spans = {"06:00-12:01": before, "12:01-18:00": after}
    bench = Bench({span: rate for span, rate in spans.items() if rate})
    body = Body(1 << 40)
    stream, buffer = bench.stream(body), memoryview(bytearray(MIB))
    while bench.clock.wall() < NOON_S + 59.9:
        stream.readinto(buffer)
        bench.clock.advance(0.02)

    bench.clock.advance(NOON_S + 61 - bench.clock.wall())
    body.left_bytes = MIB

    assert least_s <= bench.seconds(stream) <= most_s


def test_a_read_that_began_without_a_limit_is_not_charged_later():
    bench, body = Bench({"12:01-18:00": "1KiB/s"}), Body(2 * MIB)
    stream, buffer = bench.stream(body), memoryview(bytearray(MIB))
    body.takes = lambda: bench.clock.advance(90.0)

    stream.readinto(buffer)
    count = stream.readinto(buffer)

    assert count == LEAST_SLICE_BYTES
    assert stream.held_s == 0.0


def test_a_timetable_follows_the_clock_on_the_wall_when_that_is_set():
    bench = Bench({"12:00-13:00": "100KiB/s"})
    stream = bench.stream(Body(1 << 30))
    bench.seconds(stream, most_bytes=200 * KIB)

    bench.clock.set_wall(3600.0)

    assert bench.seconds(stream) < 1.0


def test_closing_closes_the_stream_within():
    bench, body = Bench("1MiB/s"), Body(10)

    stream = bench.stream(body)
    stream.close()
    stream.close()

    assert body.closed
    assert bench.throttle._total._streams == 0
