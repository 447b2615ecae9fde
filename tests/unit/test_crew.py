"""Attempts with several connections, against an origin in memory."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import RootSpec, build
from fetchd.disk.part import part_name
from fetchd.errors import AttemptError, NotWanted, StoreError
from fetchd.model import (
    Deferred,
    Failure,
    Fetched,
    Interrupted,
    Item,
    Outcome,
    Progress,
    Rules,
    TaskGroup,
    TaskSpec,
    Timeouts,
    Validator,
)
from fetchd.ports import OtherRange, RangeRefused, Request
from fetchd.transfer import Transfer
from fetchd.transfer.crew import STALLED_S
from fetchd.transfer.segments import LEAST_BYTES
from harness import ONE_CORE, FakeClock, first_fetch

URL, MIRROR = "http://h/a.bin", "http://m/a.bin"
READ_BYTES = 64 * 1024
SIZE = 8 * LEAST_BYTES + 12_345


def content(seed: int, size_bytes: int = SIZE) -> bytes:
    block = hashlib.sha256(bytes([seed])).digest() * 1024
    return b"".join(
        hashlib.sha256(i.to_bytes(8, "big")).digest() + block
        for i in range(size_bytes // len(block) + 1)
    )[:size_bytes]


DATA, OTHER = content(1), content(2)


# ---------------------------------------------------------------- the origin


@dataclass
class Answer:
    """How one request is answered; a test changes what it wants to be wrong."""

    request: Request
    wanted: Callable[[], bool]
    start: int
    body: bytes
    total: int
    validator: Validator
    cut_after: int | None = None
    stall_after: int | None = None
    error: BaseException | None = None
    wish: tuple[str, float] | None = None
    file_name: str | None = None
    held_s: float = 0.0  # at each read, by a rate
    hold_after: int = 0
    hold: Callable[[], bool] = lambda: False  # nothing more comes behind that while it says so


@dataclass
class Origin:
    """Speaks ranges with If-Range.

    ``before`` hears of each request, counted from 0; ``change`` sees its answer before it goes.
    """

    data: bytes = DATA
    etag: str = '"1"'
    ranges: bool = True
    before: Callable[[int], None] = lambda number: None
    change: Callable[[int, Answer], None] = lambda number, answer: None
    on_read: Callable[[], None] = lambda: None
    requests: list[Request] = field(default_factory=list)
    served: dict[int, int] = field(default_factory=dict)  # request -> bytes
    open_now: int = 0
    most_open: int = 0
    threads: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request, wanted: Callable[[], bool]) -> FakeStream:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
        if not wanted():
            raise NotWanted
        self.before(number)
        ranged = request.start > 0 or request.stop is not None
        partly = ranged and self.ranges and request.if_range in {None, self.etag}
        start = request.start if partly else 0
        answer = Answer(
            request=request,
            wanted=wanted,
            start=start,
            body=self.data[start : request.stop if partly else None],
            total=len(self.data),
            validator=Validator(etag=self.etag),
        )
        self.change(number, answer)
        if answer.error is not None:
            raise answer.error
        with self.lock:
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
        return FakeStream(self, number, answer)

    def close(self) -> None:
        pass

    @property
    def ranges_asked(self) -> list[tuple[int, int | None]]:
        return [(request.start, request.stop) for request in self.requests]


class FakeStream:
    framed = True
    not_modified = False
    content_type = "application/octet-stream"
    final_url = URL

    def __init__(self, origin: Origin, number: int, answer: Answer) -> None:
        self.start, self.total, self.validator = answer.start, answer.total, answer.validator
        self.wish, self.held_s = answer.wish, answer.held_s
        self.file_name = answer.file_name
        self._origin = origin
        self._number = number
        self._answer = answer
        self._at = 0
        self._open = True

    def readinto(self, buffer: memoryview) -> int:
        answer = self._answer
        self._origin.threads.add(threading.current_thread().name)
        self._origin.on_read()
        stalled = answer.stall_after is not None and self._at >= answer.stall_after
        nobody = threading.Event()
        while stalled or (self._at >= answer.hold_after and answer.hold()):
            if not answer.wanted():
                raise NotWanted  # as the supervisor cuts a wait that is for nobody
            nobody.wait(0.001)
        if answer.cut_after is not None and self._at >= answer.cut_after:
            raise AttemptError("short_body", "cut")
        piece = answer.body[self._at : self._at + min(len(buffer), READ_BYTES)]
        if answer.cut_after is not None:
            piece = piece[: answer.cut_after - self._at]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        with self._origin.lock:
            served = self._origin.served
            served[self._number] = served.get(self._number, 0) + len(piece)
        return len(piece)

    def close(self) -> None:
        with self._origin.lock:
            self._origin.open_now -= self._open
        self._open = False


class Lender:
    """Lends so many connections at a time."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.lent = 0
        self.most_lent = 0
        self.asked = 0
        self.failures: list[tuple[Failure, int]] = []  # each with what was lent then
        self.failed_asked_s: list[float] = []
        self.recall: Callable[[], bool] = lambda: False
        self.shut: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()

    def lend(self, attempt) -> bool:
        with self._lock:
            self.asked += 1
            if self.lent >= self.most:
                return False
            self.lent += 1
            self.most_lent = max(self.most_lent, self.lent)
            return True

    def recalled(self, attempt) -> bool:
        return self.recall()

    def ask(self, attempt) -> bool:
        return not self.shut()

    def left_alone_s(self, origin: str) -> float:
        return 0.0

    def connection_failed(self, attempt, failure: Failure, asked_s: float) -> None:
        self.failures.append((failure, self.lent))
        self.failed_asked_s.append(asked_s)

    def give_back(self, attempt) -> None:
        with self._lock:
            self.lent -= 1
            assert self.lent >= 0


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = build({"default": RootSpec(path=str(folder))}, reserve_bytes=0)
        self.clock = FakeClock()
        self.origin = Origin()
        self.lender = Lender()
        self.reports: list[Progress] = []
        self.wanted: Callable[[], bool] = lambda: True

    def fetch(self, *, url: str = URL, digests: tuple[Digest, ...] = (), **rules) -> Outcome:
        transfer = Transfer(
            self.disk,
            self.origin,
            self._report,
            self.clock,
            Failpoints(),
            ONE_CORE,
            loans=self.lender,
        )
        group = TaskGroup(name="g", items=(Item(url=URL),), rules=Rules(**rules))
        spec = TaskSpec(key="a.bin", sources=(URL,), path="a.bin", digests=digests)
        outcome = transfer(first_fetch(group, spec, url))
        assert self.origin.open_now == 0
        assert self.lender.lent == 0
        assert transfer.threads() == []
        ours = f"{threading.current_thread().name}-segment"
        assert not [t for t in threading.enumerate() if t.name.startswith(ours)]
        return outcome

    def _report(self, attempt, progress: Progress) -> bool:
        self.reports.append(progress)
        return self.wanted()

    @property
    def part(self) -> Path:
        return self.folder / ".fetchd/parts" / part_name("default", "a.bin")

    @property
    def journal(self) -> dict[str, Any]:
        return dict(json.loads(self.part.with_suffix(".json").read_text()))

    def bytes_served(self) -> int:
        return sum(self.origin.served.copy().values())


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path)
    yield made
    made.disk.close()


SHA256 = (Digest("sha256", hashlib.sha256(DATA).hexdigest()),)


def hold_first(until: Callable[[], bool]) -> Callable[[int, Answer], None]:
    """Let the first stream bring nothing but its beginning until then."""

    def change(number: int, answer: Answer) -> None:
        if number == 0:
            answer.hold_after = LEAST_BYTES
            answer.hold = lambda: not until()

    return change


def fetched(bench: Bench, outcome: Outcome, data: bytes = DATA) -> Fetched:
    assert isinstance(outcome, Fetched), outcome
    assert bench.part.read_bytes() == data
    assert outcome.intent.size_bytes == len(data)
    return outcome


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize("digests", [(), SHA256], ids=["length", "digest"])
def test_a_file_comes_by_as_many_connections_as_the_job_says(bench, digests) -> None:

    def change(number: int, answer: Answer) -> None:
        answer.hold = lambda: len(bench.origin.requests) < 4
        answer.hold_after = 0 if number else LEAST_BYTES

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=4, digests=digests))
    assert bench.lender.most_lent == 3
    assert bench.origin.ranges_asked[0] == (0, None)
    assert all(stop is not None for _, stop in bench.origin.ranges_asked[1:])
    assert {r.if_range for r in bench.origin.requests[1:]} == {'"1"'}
    name = threading.current_thread().name
    assert {f"{name}-segment-{k}" for k in range(4)} <= bench.origin.threads


def test_no_byte_comes_twice_but_what_was_on_its_way(bench) -> None:
    fetched(bench, bench.fetch(segments=4))
    assert bench.bytes_served() == SIZE


@pytest.mark.parametrize("lendable", [0, 1, 2])
def test_no_more_connections_are_made_than_were_lent(bench, lendable) -> None:
    bench.lender.most = lendable
    fetched(bench, bench.fetch(segments=8))
    assert bench.origin.most_open <= 1 + lendable


@pytest.mark.parametrize(
    ("case", "rules"),
    [("weak", {}), ("unknown", {}), ("small", {}), ("one", {"segments": 1})],
)
def test_one_connection_it_is_where_more_may_not_be(bench, case, rules) -> None:
    if case == "weak":
        bench.origin.etag = 'W/"1"'
    elif case == "unknown":
        bench.origin.change = lambda _, answer: setattr(answer, "total", None)
    elif case == "small":
        bench.origin.data = DATA[: 2 * LEAST_BYTES]
    outcome = bench.fetch(**({"segments": 4} | rules))
    if case == "unknown":
        assert isinstance(outcome, Fetched)  # it was framed
    else:
        fetched(bench, outcome, bench.origin.data)
    assert bench.origin.ranges_asked == [(0, None)]
    assert bench.lender.asked == 0


def test_auto_asks_for_a_second_connection_once_the_first_was_measured(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        if number == 0:
            answer.hold_after = SIZE // 2
            answer.hold = lambda: len(bench.origin.requests) < 2

    bench.origin.on_read = lambda: bench.clock.advance(0.5)  # 128 KiB a second
    bench.origin.change = change
    fetched(bench, bench.fetch())
    assert bench.lender.most_lent >= 1
    first = bench.origin.requests[1]
    assert first.stop == SIZE
    assert bench.reports[-1].received_bytes >= SIZE


def test_auto_leaves_a_file_alone_that_comes_soon_anyway(bench) -> None:
    bench.origin.on_read = lambda: bench.clock.advance(0.05)  # all in 13 s
    fetched(bench, bench.fetch())
    assert bench.origin.ranges_asked == [(0, None)]


def test_a_connection_that_is_recalled_ends_and_others_bring_its_piece(bench) -> None:
    bench.lender.recall = lambda: bench.lender.most_lent > 0
    bench.origin.change = lambda number, answer: setattr(
        answer, "stall_after", 0 if number == 1 else None
    )
    fetched(bench, bench.fetch(segments=2))


# ---------------------------------------------------------------- mismatches


def _mismatches() -> dict[str, Callable[[Answer], None]]:
    def whole(answer: Answer) -> None:
        answer.start, answer.body = 0, DATA

    def other_version(answer: Answer) -> None:
        answer.start, answer.body, answer.validator = 0, OTHER, Validator(etag='"2"')

    def other_validator(answer: Answer) -> None:
        answer.body = OTHER[answer.start : answer.request.stop]
        answer.validator = Validator(etag='"2"')

    def no_validator(answer: Answer) -> None:
        answer.validator = Validator()

    def other_total(answer: Answer) -> None:
        answer.total += 1

    def other_range(answer: Answer) -> None:
        answer.error = OtherRange("bad_response", "another range")

    def refused(answer: Answer) -> None:
        answer.error = RangeRefused(len(DATA))

    return {
        "N31-whole-file": whole,
        "N34-other-version": other_version,
        "N37-if-range-ignored": other_validator,
        "N37-no-validator": no_validator,
        "N31-other-total": other_total,
        "N31-other-range": other_range,
        "N31-range-refused": refused,
    }


MISMATCHES = _mismatches()


@pytest.mark.parametrize("name", MISMATCHES)
def test_rule_23_after_a_mismatch_the_first_stream_brings_the_rest_alone(bench, name) -> None:
    """N31, N34, N37 on a segment: nothing of the answer is written, no byte is asked for twice."""

    alone = threading.Event()

    def wait(condition, timeout_s) -> None:
        if bench.lender.most_lent and not bench.lender.lent:
            alone.set()
        condition.wait(0.001)

    def change(number: int, answer: Answer) -> None:
        hold_first(alone.is_set)(number, answer)
        if number > 0:
            MISMATCHES[name](answer)

    bench.clock.wait = wait

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=4, digests=SHA256))
    assert bench.origin.served.keys() == {0}
    assert bench.origin.served[0] == SIZE
    assert bench.lender.asked <= 3


@pytest.mark.parametrize("gives", [True, False])
def test_the_answer_to_a_piece_shows_whether_its_server_gives_ranges(bench, gives) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)
        if number and not gives:
            MISMATCHES["N31-whole-file"](answer)

    bench.origin.change = change
    assert fetched(bench, bench.fetch(segments=2)).ranges is gives


def test_after_a_mismatch_what_other_connections_brought_is_forgotten(bench) -> None:
    """N34: the first stream brings it again, for nobody knows where the change was."""
    alone = threading.Event()

    def wait(condition, timeout_s) -> None:
        if bench.lender.most_lent and not bench.lender.lent:
            alone.set()
        condition.wait(0.001)

    def change(number: int, answer: Answer) -> None:
        hold_first(alone.is_set)(number, answer)
        if number == 1:
            answer.hold_after = LEAST_BYTES
            answer.hold = lambda: True
        elif number > 1:
            brought = threading.Event()
            while bench.origin.served.get(1, 0) < LEAST_BYTES:
                brought.wait(0.001)
            MISMATCHES["N34-other-version"](answer)

    bench.clock.wait, bench.origin.change = wait, change
    fetched(bench, bench.fetch(segments=3, digests=SHA256))
    assert bench.origin.served == {0: SIZE, 1: LEAST_BYTES}


@pytest.mark.parametrize("name", MISMATCHES)
def test_without_the_first_stream_one_begins_at_the_end_of_the_front(bench, name) -> None:
    """N31, N34, N37: what was right is kept, and what came behind the front is not."""
    seen = []

    def change(number: int, answer: Answer) -> None:
        if number == 0:
            answer.cut_after = 2 * LEAST_BYTES
        elif answer.request.stop is None:
            seen.append(answer.request.start)
        elif answer.start == 0 or answer.start == 2 * LEAST_BYTES:
            MISMATCHES[name](answer)

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert seen == [2 * LEAST_BYTES]


@pytest.mark.parametrize("first_lives", [True, False])
def test_n34_a_file_that_changes_between_two_segments_is_of_one_version(bench, first_lives) -> None:
    def before(number: int) -> None:
        if number == 1:
            bench.origin.data, bench.origin.etag = OTHER, '"2"'

    def change(number: int, answer: Answer) -> None:
        if number == 0 and not first_lives:
            answer.cut_after = 2 * LEAST_BYTES
        elif number == 0:
            hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)

    bench.origin.before, bench.origin.change = before, change
    outcome = bench.fetch(segments=2)
    if isinstance(outcome, Failure):  # cut when it was alone already
        outcome = bench.fetch(segments=2)
    version = {'"1"': DATA, '"2"': OTHER}[outcome.intent.validator.etag]
    fetched(bench, outcome, version)
    assert first_lives or version == OTHER


def test_n37_other_bytes_under_the_same_etag_are_caught_by_the_digest(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: bench.origin.served.get(1, 0) > 0)(number, answer)
        if number == 1:
            answer.body = OTHER[answer.start : answer.request.stop]

    bench.origin.change = change
    outcome = bench.fetch(segments=2, digests=SHA256)
    assert isinstance(outcome, Failure)
    assert outcome.code == "checksum_mismatch"
    assert not bench.part.exists()


# ---------------------------------------------------------------- failures of one connection


@pytest.mark.parametrize("status", [429, 503, 403])
def test_a_refusal_ends_one_connection_and_costs_the_attempt_nothing(bench, status) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)
        if number == 1:
            answer.error = AttemptError("bad_status", f"{status}", status=status, retry_after_s=7.0)

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert bench.lender.asked == 1  # and none is asked for again
    ((failure, lent),) = bench.lender.failures
    assert (failure.code, failure.status, failure.retry_after_s) == ("bad_status", status, 7.0)
    assert lent == 1  # the origin is judged before anybody else gets the connection


def test_a_refusal_is_told_with_the_moment_of_its_own_question(bench) -> None:
    """What its server was found to bear since then is not judged by it again."""
    began_s = bench.clock.monotonic()

    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)
        if number == 1:
            bench.clock.advance(3.0)
            answer.error = AttemptError("bad_status", "503", status=503)

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2))
    assert bench.lender.failed_asked_s == [began_s]


def test_the_failure_of_the_only_connection_is_that_of_the_attempt_alone(bench) -> None:
    leave_ranges(bench)
    bench.lender.failures.clear()
    bench.origin.change = lambda _, answer: setattr(answer, "cut_after", LEAST_BYTES // 2)
    outcome = bench.fetch(segments=1)
    assert isinstance(outcome, Failure)
    assert bench.lender.failures == []


def test_when_the_engine_has_broken_off_a_failed_connection_ends_the_attempt(bench) -> None:
    def broken(attempt, failure, asked_s) -> None:
        raise StoreError("broken off")

    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)
        if number == 1:
            answer.error = AttemptError("bad_status", "503", status=503)

    bench.lender.connection_failed, bench.origin.change = broken, change
    with pytest.raises(StoreError):
        bench.fetch(segments=2)


def test_nothing_is_asked_of_an_origin_that_is_left_alone_and_what_is_under_way_ends(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 2)(number, answer)
        if number == 1:
            answer.cut_after = answer.hold_after = LEAST_BYTES // 2  # the rest is nobody's
            answer.hold = lambda: len(bench.origin.requests) < 3

    bench.origin.change = change
    bench.lender.shut = lambda: len(bench.origin.requests) > 2
    outcome = bench.fetch(segments=3, digests=SHA256)
    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.delay_s) == ("origin", 0.0)
    assert len(bench.origin.requests) == 3
    held = bench.journal["durable_bytes"] + sum(b - a for a, b in bench.journal.get("ranges", []))
    assert held == bench.bytes_served() > SIZE // 2

    bench.lender.shut = lambda: False
    fetched(bench, bench.fetch(segments=3, digests=SHA256))
    assert bench.bytes_served() == SIZE


def test_a_quota_that_the_answer_to_a_piece_tells_is_reported(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 1)(number, answer)
        if number == 1:
            answer.wish = ("http://h:80", 9.0)

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2))
    assert [report.wish for report in bench.reports if report.wish] == [("http://h:80", 9.0)]


def test_as_long_as_others_are_at_work_a_connection_waits_for_its_origin(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        if number == 0:
            answer.hold_after = LEAST_BYTES
            answer.hold = lambda: len(bench.origin.requests) < 3

    refusals = iter([False, *[True] * 20])
    bench.origin.change = change
    bench.lender.shut = lambda: next(refusals, False)
    fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert next(refusals, None) is None
    assert len(bench.origin.requests) >= 3


def test_n39_a_segment_that_ends_early_is_gone_on_with_where_it_ended(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        if number == 1:
            answer.cut_after = 100_000

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert bench.bytes_served() == SIZE


def test_n39_a_segment_that_is_longer_than_asked_is_cut_at_its_end(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: len(bench.origin.requests) > 2)(number, answer)
        if answer.request.stop is not None:
            answer.body += OTHER[:100_000]

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=3, digests=SHA256))


def test_the_others_end_what_the_first_connection_cannot(bench) -> None:
    def change(number: int, answer: Answer) -> None:
        if number == 0:
            answer.cut_after = LEAST_BYTES

    bench.origin.change = change
    fetched(bench, bench.fetch(segments=2, digests=SHA256))


@pytest.mark.parametrize("which", [0, 1])
def test_the_rest_of_a_segment_that_stalls_is_brought_by_another(bench, which) -> None:
    def change(number: int, answer: Answer) -> None:
        if number == which:
            answer.stall_after = LEAST_BYTES

    bench.origin.change = change

    def wait(condition, timeout_s) -> None:
        condition.wait(0.001)
        if "segment" in threading.current_thread().name:  # it waits for something to bring
            bench.clock.advance(STALLED_S / 50)

    bench.clock.wait = wait
    fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert bench.bytes_served() <= SIZE + 4 * READ_BYTES


def test_a_connection_that_waits_for_its_turn_at_a_rate_has_not_stalled(bench) -> None:
    began_s: list[float] = []

    def is_held() -> bool:
        began_s.append(bench.clock.monotonic())
        return began_s[-1] - began_s[0] < 2 * STALLED_S

    def change(number: int, answer: Answer) -> None:
        hold_first(lambda: bool(began_s))(number, answer)
        if number == 1:
            answer.held_s = STALLED_S
            answer.hold_after, answer.hold = len(answer.body) - READ_BYTES, is_held

    bench.origin.change = change

    def wait(condition, timeout_s) -> None:
        condition.wait(0.001)
        if began_s and "segment" in threading.current_thread().name:
            bench.clock.advance(STALLED_S / 50)

    bench.clock.wait = wait
    fetched(bench, bench.fetch(segments=2))
    assert len(bench.origin.requests) == 2


def cut_all(bench: Bench) -> Callable[[int, Answer], None]:
    """Cut two connections after two MiB each, the first one when the other has brought its own."""

    def change(number: int, answer: Answer) -> None:
        answer.cut_after = answer.hold_after = LEAST_BYTES
        if number == 0:
            answer.hold = lambda: bench.origin.served.get(1, 0) < LEAST_BYTES

    return change


def test_a_failure_of_all_connections_keeps_what_has_come(bench) -> None:
    bench.origin.change = cut_all(bench)
    outcome = bench.fetch(segments=2, digests=SHA256)
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.transient, outcome.progressed) == ("short_body", True, True)
    assert bench.journal["durable_bytes"] == LEAST_BYTES
    ((start, end),) = bench.journal["ranges"]
    assert end - start == LEAST_BYTES
    assert bench.part.stat().st_size == end

    bench.origin = Origin()
    again = fetched(bench, bench.fetch(segments=2, digests=SHA256))
    assert bench.bytes_served() == SIZE - 2 * LEAST_BYTES
    assert again.intent.resumed_from_bytes == 2 * LEAST_BYTES


# ---------------------------------------------------------------- cancel, crash, resume


def test_a_cancel_ends_all_connections_and_keeps_what_they_brought(bench) -> None:
    bench.origin.change = lambda _, answer: setattr(answer, "stall_after", LEAST_BYTES)

    def wanted() -> bool:
        bench.clock.advance(0.2)
        return bool(bench.bytes_served() < 3 * LEAST_BYTES)

    def wait(condition, timeout_s) -> None:
        condition.wait(0.001)
        bench.clock.advance(0.01)

    bench.clock.wait, bench.wanted = wait, wanted
    assert isinstance(bench.fetch(segments=3), Interrupted)
    assert bench.journal["durable_bytes"] == LEAST_BYTES
    assert [end - start for start, end in bench.journal["ranges"]] == [LEAST_BYTES, LEAST_BYTES]


def leave_ranges(bench: Bench) -> None:
    """Leave a part with a front, a gap, a range, and a gap, as an attempt that failed."""
    bench.origin.change = cut_all(bench)
    assert isinstance(bench.fetch(segments=2), Failure)
    assert bench.journal["ranges"]
    bench.origin = Origin()


@pytest.mark.parametrize("number", [1, 2, None])
def test_ranges_are_gone_on_with_whatever_the_job_says_of_segments(bench, number) -> None:
    leave_ranges(bench)
    fetched(bench, bench.fetch(segments=number, digests=SHA256))
    assert bench.bytes_served() == SIZE - 2 * LEAST_BYTES


def test_ranges_of_a_version_that_is_gone_are_not_used(bench) -> None:
    leave_ranges(bench)
    bench.origin.data, bench.origin.etag = OTHER, '"2"'
    fetched(bench, bench.fetch(segments=1), OTHER)
    assert bench.origin.ranges_asked == [(LEAST_BYTES, None)]


def test_ranges_are_not_used_where_only_a_digest_decides(bench) -> None:
    """The front is compared at its end; of ranges nobody would know whether they still fit."""
    leave_ranges(bench)
    bench.origin.data = DATA[:LEAST_BYTES] + OTHER[LEAST_BYTES:]
    digest = Digest("sha256", hashlib.sha256(bench.origin.data).hexdigest())
    outcome = bench.fetch(url=MIRROR, segments=4, digests=(digest,))
    assert fetched(bench, outcome, bench.origin.data).intent.resumed_from_bytes == LEAST_BYTES


def test_a_journal_speaks_of_bytes_that_were_synced_before(bench, monkeypatch) -> None:
    """What a checkpoint says was there when its sync began, with others at work meanwhile."""
    synced: list[bytes] = []
    fsync = bench.disk._system.fsync

    def note(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == bench.part:
            synced.append(bench.part.read_bytes())
        fsync(fd)

    rename = bench.disk._system.rename

    def compare(src, dst, **folders) -> None:
        said = json.loads((bench.part.parent / src).read_text())
        for start, end in [(0, said["durable_bytes"]), *said.get("ranges", [])]:
            assert synced[-1][start:end] == DATA[start:end]
        rename(src, dst, **folders)

    monkeypatch.setattr(bench.disk._system, "fsync", note)
    monkeypatch.setattr(bench.disk._system, "rename", compare)

    def wait(condition, timeout_s) -> None:
        condition.wait(0.001)
        if "segment" not in threading.current_thread().name:
            bench.clock.advance(2.0)

    def change(number: int, answer: Answer) -> None:
        answer.hold_after = LEAST_BYTES
        answer.hold = lambda: not synced

    bench.clock.wait, bench.origin.change = wait, change
    fetched(bench, bench.fetch(segments=4, digests=SHA256, timeouts=Timeouts(stall_s=1e6)))
    assert synced


# ---------------------------------------------------------------- the whole attempt's limits


def test_too_slow_is_what_all_connections_are_together(bench) -> None:
    bench.origin.on_read = lambda: bench.clock.advance(60.0)
    outcome = bench.fetch(
        segments=2, timeouts=Timeouts(stall_s=30.0, stall_bytes_per_s=1024 * 1024)
    )
    assert isinstance(outcome, Failure)
    assert outcome.code == "too_slow"


def test_the_deadline_ends_all_connections(bench) -> None:
    bench.origin.on_read = lambda: bench.clock.advance(1.0)
    outcome = bench.fetch(segments=4, timeouts=Timeouts(attempt_s=60.0, stall_bytes_per_s=1))
    assert isinstance(outcome, Failure)
    assert outcome.code == "deadline"
    assert outcome.progressed


def test_a_full_disk_ends_all_connections_and_the_task_waits(bench, monkeypatch) -> None:
    written = []
    write = bench.disk._system.write

    def fail(fd, data, offset, /):
        if offset > 4 * LEAST_BYTES:
            written.append(offset)
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data, offset)

    monkeypatch.setattr(bench.disk._system, "write", fail)
    outcome = bench.fetch(segments=2)
    assert written
    assert isinstance(outcome, Deferred)
    assert outcome.reason == "disk"
