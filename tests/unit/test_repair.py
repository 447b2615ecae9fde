"""What becomes of a whole file with a wrong digest, attempt by attempt."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import RootSpec, SystemOs, build
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import (
    Deferred,
    Failure,
    Fetch,
    Fetched,
    History,
    Interrupted,
    Item,
    Job,
    Magic,
    Outcome,
    Repaired,
    RetryPolicy,
    Rules,
    Run,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
)
from fetchd.ports import PartJournal, RangeRefused, Request
from fetchd.transfer import Transfer, repair
from fetchd.transfer import resume as resuming
from harness import ONE_CORE, FakeClock

URL, MIRROR, THIRD = (f"http://{host}/a.bin" for host in ("h", "m", "t"))
BLOCK, OVERLAP = 100, 30
SIZE = 20 * BLOCK + 7
DATA = random.Random(1).randbytes(SIZE)


def damaged(*places: int, data: bytes = DATA) -> bytes:
    wrong = bytearray(data)
    for at in places:
        wrong[at] ^= 0xFF
    return bytes(wrong)


def digest_of(data: bytes) -> tuple[Digest, ...]:
    return (Digest("sha256", hashlib.sha256(data).hexdigest()),)


# ---------------------------------------------------------------- the origin and the bench


@dataclass
class Origin:
    data: bytes = DATA
    validator: Validator = field(default_factory=lambda: Validator(etag='"1"'))
    content_type: str | None = "application/octet-stream"
    ranges: bool = True
    heeds_if_range: bool = True
    cut_after: int | None = None  # bytes of all its bodies, once
    before: Callable[[Request], None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    served_bytes: int = 0

    @property
    def asked(self) -> list[tuple[int, int | None]]:
        return [(request.start, request.stop) for request in self.requests]


class FakeStream:
    framed, not_modified, held_s, wish, file_name = True, False, 0.0, None, None

    def __init__(self, origin: Origin, url: str, start: int, stop: int | None) -> None:
        self.start, self.total = start, len(origin.data)
        self.validator, self.content_type = origin.validator, origin.content_type
        self.final_url = url + "?final"
        self._origin = origin
        self._body = origin.data[start:stop]

    def readinto(self, buffer: memoryview) -> int:
        origin = self._origin
        got = min(len(buffer), len(self._body), 64)
        if origin.cut_after is not None:
            got = min(got, origin.cut_after)
            origin.cut_after -= got
            if not got:
                origin.cut_after = None
                raise AttemptError("short_body", "cut")
        buffer[:got], self._body = self._body[:got], self._body[got:]
        origin.served_bytes += got
        return got

    def close(self) -> None:
        pass


class Turns:
    """Lends nothing, and lets a source be asked as ``answers`` say, then always."""

    def __init__(self) -> None:
        self.answers: Iterator[bool] = iter(())
        self.given = 0
        self.left_s = 0.0

    def lend(self, attempt) -> bool:
        return False

    def recalled(self, attempt) -> bool:
        return False

    def ask(self, attempt) -> bool:
        given = next(self.answers, True)
        self.given += given
        return given

    def left_alone_s(self, origin: str) -> float:
        return self.left_s

    def connection_failed(self, attempt, failure: Failure, asked_s: float) -> None:
        raise AssertionError(failure)

    def give_back(self, attempt) -> None:
        raise AssertionError


class Bench(SystemOs):
    """Three mirrors of a file, a disk, and attempts between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = build({"default": RootSpec(path=str(folder))}, self)
        self.origins = {url: Origin() for url in (URL, MIRROR, THIRD)}
        self.wanted = True
        self.turns = Turns()
        self.faults: list[int] = []  # of the next writes

    def write(self, fd, data, offset, /):
        if self.faults:
            number = self.faults.pop(0)
            raise OSError(number, os.strerror(number))
        return super().write(fd, data, offset)

    def open(self, *args, **options):
        if args and isinstance(args[0], Request):
            return self._answer(*args)
        return super().open(*args, **options)

    def _answer(self, request: Request, wanted: Callable[[], bool]) -> FakeStream:
        origin = self.origins[request.url]
        origin.requests.append(request)
        origin.before(request)
        if not wanted():
            raise NotWanted
        ranged = (request.start or request.stop) and origin.ranges
        if origin.heeds_if_range and request.if_range not in {None, origin.validator.etag}:
            ranged = False
        if ranged and request.start >= len(origin.data):
            raise RangeRefused(len(origin.data))
        start, stop = (request.start, request.stop) if ranged else (0, None)
        return FakeStream(origin, request.url, start, stop)

    def close(self) -> None:
        pass

    def attempt(
        self,
        url: str,
        *,
        digests: tuple[Digest, ...] = digest_of(DATA),
        history: History | None = None,
        **rules,
    ) -> Fetch:
        sources = tuple(self.origins)
        group = TaskGroup(name="g", items=(Item(url=url),), rules=Rules(**rules))
        spec = TaskSpec(key="a.bin", sources=sources, path="a.bin", digests=digests)
        history = history or History(source=sources.index(url))
        return Fetch(
            fence=1,
            job=Job(name="j", revision="r", groups=(group,)),
            run=Run(id=1, job="j", revision="r", scheduled_for_s=0.0),
            group=group,
            task=Task(id=1, group=1, spec=spec, history=history),
            number=1,
            source=url,
            previous=None,
        )

    def fetch(self, url: str, **asked) -> Any:
        transfer = Transfer(
            self.disk,
            self,
            lambda *_: self.wanted,
            FakeClock(),
            Failpoints(),
            ONE_CORE,
            loans=self.turns,
        )
        return transfer(self.attempt(url, **asked))

    @property
    def kept(self) -> PartJournal | None:
        with self.disk.open_part("default", "a.bin") as part:
            return part.journal

    @property
    def part(self) -> bytes:
        (file,) = (f for f in (self.folder / ".fetchd/parts").iterdir() if not f.suffix)
        return file.read_bytes()

    @property
    def refused(self) -> list[bytes]:
        folder = self.folder / ".fetchd/quarantine"
        return [file.read_bytes() for file in folder.iterdir()] if folder.exists() else []


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(repair, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(repair, "WORTH_BYTES", 4 * BLOCK)
    monkeypatch.setattr(resuming, "OVERLAP_BYTES", OVERLAP)


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path)
    yield made
    made.disk.close()


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Failure), outcome
    return outcome.code


def spoil(bench: Bench, *places: int) -> None:
    """Fetch the whole file, wrong at some places, from the first mirror."""
    bench.origins[URL].data = damaged(*places)
    outcome = bench.fetch(URL)
    assert code(outcome) == "checksum_mismatch"
    assert not outcome.progressed


# ---------------------------------------------------------------- what is kept


def test_a_wrong_file_is_kept_for_the_next_source_and_nothing_vouches_for_it(bench):
    spoil(bench, 555)

    assert bench.part == damaged(555)
    assert bench.refused == []
    kept = bench.kept
    assert (kept.durable_bytes, kept.total, kept.validator) == (SIZE, SIZE, Validator())


def test_a_wrong_file_that_is_kept_is_never_good_for_a_job_without_a_digest(bench):
    spoil(bench, 555)
    bench.origins[URL].data = DATA
    for url in (URL, MIRROR):
        bench.origins[url].requests.clear()

        outcome = bench.fetch(url, digests=())

        assert isinstance(outcome, Fetched)
        assert bench.origins[url].asked == [(0, None)]
        assert bench.part == DATA


@pytest.mark.parametrize(
    ("history", "attempts", "keeps"),
    [
        (History(), 1, True),
        (History(tried=frozenset({1})), 1, True),
        (History(tried=frozenset({1, 2})), 1, False),
        (History(tried=frozenset({1, 2})), 2, True),
        (History(tried=frozenset({1, 2}), round=1), 2, False),
        (History(barred=frozenset({1, 2})), 8, False),
        (History(barred=frozenset({1}), tried=frozenset({2})), 1, False),
    ],
)
def test_a_wrong_file_is_put_aside_where_no_source_is_left_that_could_mend_it(
    bench, history, attempts, keeps
):
    bench.origins[URL].data = damaged(555)

    outcome = bench.fetch(URL, history=history, retry=RetryPolicy(attempts=attempts))

    assert code(outcome) == "checksum_mismatch"
    assert bool(bench.kept) is keeps
    assert bench.refused == ([] if keeps else [damaged(555)])
    assert bool(outcome.dossier.quarantine) is not keeps


def test_a_small_wrong_file_is_put_aside(bench):
    bench.origins[URL].data = DATA[: 4 * BLOCK - 1]

    assert code(bench.fetch(URL)) == "checksum_mismatch"

    assert bench.refused == [DATA[: 4 * BLOCK - 1]]


def test_a_wrong_file_that_the_disk_does_not_keep_is_a_mismatch_all_the_same(bench, monkeypatch):
    bench.origins[URL].data = damaged(555)

    def lose(fd):
        if "/parts/" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(bench, "fsync", lose)

    assert code(bench.fetch(URL)) == "checksum_mismatch"

    monkeypatch.undo()
    assert bench.kept is None


def test_the_source_that_sent_all_of_a_wrong_file_begins_anew(bench):
    spoil(bench, 555)
    bench.origins[URL].data = DATA
    bench.origins[URL].requests.clear()

    outcome = bench.fetch(URL)

    assert isinstance(outcome, Fetched)
    assert outcome.repaired is None
    assert bench.origins[URL].asked == [(0, None)]


# ---------------------------------------------------------------- how it is mended


def test_another_source_mends_what_differs_and_no_more(bench):
    spoil(bench, 555, 1234)
    mirror = bench.origins[MIRROR]
    mirror.validator = Validator(etag='"m"', last_modified="Mon, 02 Nov 2026 10:00:00 GMT")

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert bench.part == DATA
    assert outcome.repaired.replaced_bytes == 2 * BLOCK
    assert outcome.repaired.compared_bytes == mirror.served_bytes < SIZE
    assert outcome.ranges
    intent = outcome.intent
    assert (intent.url, intent.final_url) == (MIRROR, MIRROR + "?final")
    assert intent.resumed_from_bytes == SIZE - 2 * BLOCK
    assert intent.mtime_s == 1793613600.0
    assert intent.validator.etag is None  # of what was not compared it says nothing
    assert [request.if_range for request in mirror.requests[1:]] == ['"m"'] * (
        len(mirror.requests) - 1
    )


def test_a_mended_part_is_durable_and_used_without_a_question(bench):
    spoil(bench, 555)
    bench.fetch(MIRROR)
    bench.origins[THIRD].requests.clear()

    outcome = bench.fetch(THIRD)

    assert isinstance(outcome, Fetched)
    assert bench.origins[THIRD].requests == []
    assert bench.kept.mending is None


def test_what_met_at_a_resumption_is_compared_first(bench):
    cut = 12 * BLOCK + 50
    first = bench.origins[URL]
    first.data, first.cut_after = damaged(cut - OVERLAP - 5), cut
    assert code(bench.fetch(URL)) == "short_body"
    assert code(bench.fetch(MIRROR)) == "checksum_mismatch"
    assert bench.kept.seams == (cut,)
    assert bench.kept.mixed
    bench.origins[MIRROR].requests.clear()

    outcome = bench.fetch(MIRROR)  # most of it is another's

    assert outcome.repaired == Repaired(compared_bytes=3 * BLOCK, replaced_bytes=BLOCK)
    assert bench.origins[MIRROR].asked == [(1200, 1300), (1100, 1200), (1300, 1400)]


def test_seams_are_bounded(bench):
    origin = bench.origins[URL]
    for size in [1100] + [20] * 40:
        origin.cut_after = size
        assert code(bench.fetch(URL)) == "short_body"

    assert len(bench.kept.seams) == 32


def test_a_file_that_begins_anew_has_no_seams(bench):
    for size in (1100, 500):
        bench.origins[URL].cut_after = size
        bench.fetch(URL)
    assert bench.kept.seams == (1100,)
    bench.origins[URL].validator = Validator(etag='"2"')
    bench.origins[URL].cut_after = 1200

    bench.fetch(URL, digests=())

    assert (bench.kept.seams, bench.kept.mixed) == ((), False)


# ---------------------------------------------------------------- who cannot mend


@pytest.mark.parametrize(
    "flaw",
    [
        {"ranges": False},
        {"validator": Validator()},
        {"validator": Validator(etag='W/"1"')},
        {"validator": Validator(last_modified="Mon, 02 Nov 2026 10:00:00 GMT")},
    ],
    ids=str,
)
def test_a_source_that_proves_nothing_gives_the_whole(bench, flaw):
    spoil(bench, 555)
    for name, value in flaw.items():
        setattr(bench.origins[MIRROR], name, value)

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert outcome.repaired is None
    assert bench.origins[MIRROR].asked == [(BLOCK, 2 * BLOCK), (0, None)]
    assert bench.origins[MIRROR].served_bytes == SIZE
    assert bench.part == DATA


@pytest.mark.parametrize("heeds", [True, False])
def test_a_source_that_changes_meanwhile_gives_the_whole(bench, heeds):
    spoil(bench, 1955)
    mirror = bench.origins[MIRROR]
    mirror.heeds_if_range = heeds

    def change(_: Request) -> None:
        if len(mirror.requests) == 3:
            mirror.validator = Validator(etag='"2"')

    mirror.before = change

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert outcome.repaired is None
    assert len(mirror.requests) == 4
    assert mirror.asked[-1] == (0, None)
    assert mirror.served_bytes == SIZE + 3 * BLOCK


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 5])
def test_a_source_with_another_size_is_asked_for_the_whole_and_judged_by_that(bench, size):
    spoil(bench, 555)
    bench.origins[MIRROR].data = (DATA + b"x")[:size]

    assert code(bench.fetch(MIRROR)) == "checksum_mismatch"

    assert bench.origins[MIRROR].asked == [(BLOCK, 2 * BLOCK), (0, None)]
    assert bench.origins[MIRROR].served_bytes == size


@pytest.mark.parametrize(
    ("rules", "refused"),
    [({"expect_type": "application/zip"}, "expectation_failed"), ({}, "unexpected_html")],
)
def test_a_page_mends_nothing(bench, rules, refused):
    bench.origins[URL].content_type = "application/zip"
    bench.origins[URL].data = damaged(555)
    bench.fetch(URL, **rules)
    bench.origins[MIRROR].content_type = "text/html"

    assert code(bench.fetch(MIRROR, **rules)) == refused


def test_a_block_without_the_magic_mends_nothing(bench):
    magic = (Magic(hex=DATA[110:114].hex(), offset_bytes=110),)
    bench.origins[URL].data = damaged(555)
    bench.fetch(URL, magic=magic)
    bench.origins[MIRROR].data = damaged(111)

    assert code(bench.fetch(MIRROR, magic=magic)) == "expectation_failed"


def test_a_source_that_lies_too_has_a_wrong_digest_of_its_own(bench):
    spoil(bench, 555)
    lies = bench.origins[MIRROR].data = damaged(150, 556)

    outcome = bench.fetch(MIRROR)

    assert code(outcome) == "checksum_mismatch"
    assert bench.origins[MIRROR].served_bytes == SIZE
    assert bench.refused == [lies]
    assert outcome.dossier.quarantine
    assert outcome.dossier.digests == digest_of(lies)
    assert outcome.reason.endswith("with every block as this source has it")
    assert bench.kept is None


# ---------------------------------------------------------------- what breaks off


def test_a_repair_that_breaks_off_goes_on_at_the_same_source(bench):
    spoil(bench, 1955)
    mirror = bench.origins[MIRROR]
    mirror.cut_after = 8 * BLOCK + 50
    outcome = bench.fetch(MIRROR)
    assert (code(outcome), outcome.progressed) == ("short_body", False)
    assert bench.kept.mending.compared == ((BLOCK, 9 * BLOCK),)
    mirror.served_bytes = 0

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert bench.part == DATA
    assert mirror.served_bytes <= SIZE - 8 * BLOCK
    assert {request.if_range for request in mirror.requests[1:]} == {'"1"'}


def test_a_repair_begins_anew_at_a_third_source(bench):
    spoil(bench, 1955)
    bench.origins[MIRROR].cut_after = 8 * BLOCK
    bench.fetch(MIRROR)

    outcome = bench.fetch(THIRD)

    assert isinstance(outcome, Fetched)
    assert outcome.repaired.replaced_bytes == BLOCK
    assert bench.origins[THIRD].asked[0] == (BLOCK, 2 * BLOCK)


def test_a_source_that_changed_since_a_repair_broke_off_gives_the_whole(bench):
    spoil(bench, 1955)
    mirror = bench.origins[MIRROR]
    mirror.cut_after = 8 * BLOCK
    bench.fetch(MIRROR)
    mirror.validator = Validator(etag='"2"')

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert outcome.repaired is None
    assert mirror.asked[-1] == (0, None)


def test_a_stop_in_a_repair_keeps_how_far_it_has_come(bench):
    spoil(bench, 1955)
    mirror = bench.origins[MIRROR]

    def stop(_: Request) -> None:
        bench.wanted = len(mirror.requests) < 3

    mirror.before = stop

    assert isinstance(bench.fetch(MIRROR), Interrupted)

    assert bench.kept.mending.compared == ((BLOCK, 4 * BLOCK),)


def test_each_question_of_a_repair_counts_as_one_and_waits_for_its_turn(bench):
    spoil(bench, 1955)
    bench.turns.answers = iter([False, False, True] * 3)

    assert isinstance(bench.fetch(MIRROR), Fetched)

    assert next(bench.turns.answers, None) is None
    assert bench.turns.given == len(bench.origins[MIRROR].requests) - 1 > 3


def test_a_repair_leaves_a_source_alone_that_asks_for_it_and_goes_on_later(bench):
    spoil(bench, 1955)
    mirror = bench.origins[MIRROR]
    bench.turns.answers, bench.turns.left_s = iter([True, False]), 60.0

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.delay_s) == ("origin", 0.0)
    assert bench.kept.mending.compared == ((BLOCK, 4 * BLOCK),)
    assert isinstance(bench.fetch(MIRROR), Fetched)
    assert mirror.asked.count((BLOCK, 2 * BLOCK)) == mirror.asked.count((2 * BLOCK, 4 * BLOCK)) == 1


def test_a_block_that_the_disk_does_not_take_is_compared_again(bench):
    spoil(bench, 150)

    def full(_: Request) -> None:
        bench.faults = [errno.ENOSPC]

    bench.origins[MIRROR].before = full
    assert isinstance(bench.fetch(MIRROR), Deferred)
    bench.origins[MIRROR].before = lambda _: None
    bench.faults = []

    outcome = bench.fetch(MIRROR)

    assert isinstance(outcome, Fetched)
    assert bench.part == DATA


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_the_mirrors_do_only_the_right_bytes_are_ever_good(tmp_path_factory, data):
    """Mirrors that are wrong anywhere, cut, change and give no ranges, in any order of attempts."""
    bench = Bench(tmp_path_factory.mktemp("root"))
    places = st.sets(st.integers(0, SIZE - 1), max_size=4)
    for number in range(data.draw(st.integers(1, 12))):
        url = data.draw(st.sampled_from(list(bench.origins)))
        origin = bench.origins[url]
        origin.data = damaged(*data.draw(places)) if data.draw(st.booleans()) else DATA
        origin.ranges = data.draw(st.sampled_from([True, True, True, False]))
        if data.draw(st.booleans()):
            origin.validator = Validator(etag=f'"{number}"')
        origin.cut_after = data.draw(st.none() | st.integers(1, SIZE))

        outcome = bench.fetch(url)

        if isinstance(outcome, Fetched):
            assert bench.part == DATA
        else:
            assert code(outcome) in {"checksum_mismatch", "short_body"}
    for origin in bench.origins.values():
        origin.data, origin.ranges, origin.cut_after = DATA, True, None
    # The first one may go on with bytes that are wrong.
    assert any(isinstance(bench.fetch(url), Fetched) for url in (MIRROR, THIRD))
    assert bench.part == DATA
    bench.disk.close()
