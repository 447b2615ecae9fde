from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.clock import Failpoints
from fetchd.cores import Cores
from fetchd.digests import Digest
from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build
from fetchd.disk.part import part_name
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import (
    Deferred,
    Dossier,
    Failure,
    Fetch,
    Fetched,
    FileRecord,
    IfExists,
    Interrupted,
    Item,
    Magic,
    Named,
    Outcome,
    Progress,
    Publish,
    Published,
    Rules,
    SizeRange,
    TaskGroup,
    TaskSpec,
    Timeouts,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import PartJournal, RangeRefused, Request
from fetchd.transfer import Transfer
from fetchd.transfer import resume as resuming
from fetchd.transfer.resume import WHOLE, Plan, plan
from fetchd.transfer.verify import text_of
from harness import ONE_CORE, first_fetch
from harness import FakeClock as StandingClock

KIB, MIB = 1024, 1024 * 1024
URL, MIRROR = "http://h/a.bin", "http://m/a.bin"
SUMS = "http://h/SHA256SUMS"
LAST_MODIFIED = "Mon, 02 Nov 2026 10:00:00 GMT"
EARLIER = "Mon, 02 Nov 2026 09:00:00 GMT"
LATER = "Mon, 02 Nov 2026 10:01:00 GMT"
TOO_SOON = "Mon, 02 Nov 2026 10:00:59 GMT"


# ---------------------------------------------------------------- the origin and the clock


VERIFIED_AT_S = 1_700_000_000.25


class FakeClock:
    """Every look takes ``step_s``."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def wall(self) -> float:
        return VERIFIED_AT_S

    def wait(self, condition, timeout_s) -> None:
        raise AssertionError("no transfer waits")


@dataclass
class Origin:
    """An origin that can be told to misbehave; the transport for it too."""

    data: bytes = b""
    sums: bytes = b""  # what stands at SUMS
    validator: Validator = field(default_factory=lambda: Validator(etag='"1"'))
    content_type: str | None = "application/octet-stream"
    total_known: bool = True
    framed: bool = True
    ranges: bool = True
    heeds_if_range: bool = True
    heeds_etag: bool = True
    says_validator_in_206: bool = True
    says_total_in_206: bool = True
    total_offset: int = 0
    wish: tuple[str, float] | None = None
    file_name: str | None = None
    cut_after: int | None = None  # bytes of one body, then the connection breaks
    cut_with: BaseException = field(default_factory=lambda: AttemptError("short_body", "cut"))
    read_bytes: int = 64 * KIB
    before_read: Callable[[], None] = lambda: None
    held_s: float = 0.0  # of each read, the origin is not to blame
    requests: list[Request] = field(default_factory=list)
    served_bytes: int = 0
    open_streams: int = 0

    def open(self, request: Request, wanted: Callable[[], bool]) -> FakeStream:
        self.requests.append(request)
        if not wanted():
            raise NotWanted
        self.open_streams += 1
        if request.url == SUMS:
            beside = Origin(data=self.sums, requests=self.requests)
            return FakeStream(beside, start=0, body=self.sums, of=self)
        unless = request.unless
        if unless is not None and unless.etag == self.validator.etag:
            return FakeStream(self, start=0, body=b"", not_modified=True)
        ranged = request.start > 0 and self.ranges and self._holds(request.if_range)
        if ranged and request.start >= len(self.data):
            self.open_streams -= 1
            raise RangeRefused(len(self.data))
        start = request.start if ranged else 0
        return FakeStream(self, start=start, body=self.data[start:])

    def _holds(self, condition: str | None) -> bool:
        if condition is None or not self.heeds_if_range:
            return True
        if '"' in condition:
            return self.heeds_etag and condition == self.validator.etag
        return condition == self.validator.last_modified

    def close(self) -> None:
        pass

    @property
    def starts(self) -> list[int]:
        return [request.start for request in self.requests]


class FakeStream:
    def __init__(
        self,
        origin: Origin,
        *,
        start: int,
        body: bytes,
        not_modified: bool = False,
        of: Origin | None = None,
    ) -> None:
        self.start = start
        self.total = len(origin.data) + origin.total_offset if origin.total_known else None
        self.validator = origin.validator
        if start and not origin.says_total_in_206:
            self.total = None
        if start and not origin.says_validator_in_206:
            self.validator = Validator()
        self.framed = origin.framed
        self.not_modified = not_modified
        self.content_type = origin.content_type
        self.final_url = origin.requests[-1].url + "?final"
        self.held_s = origin.held_s
        self.wish: tuple[str, float] | None = origin.wish
        self.file_name = origin.file_name
        self._origin = origin
        self._counted = of or origin
        self._body = memoryview(body)
        self._at = 0
        self._cut = origin.cut_after

    def readinto(self, buffer: memoryview) -> int:
        self._origin.before_read()
        if self._cut is not None and self._at >= self._cut:
            raise self._origin.cut_with
        end = min(self._at + len(buffer), self._at + self._origin.read_bytes, len(self._body))
        if self._cut is not None:
            end = min(end, self._cut)
        got = end - self._at
        buffer[:got] = self._body[self._at : end]
        self._at = end
        self._origin.served_bytes += got
        return got

    def close(self) -> None:
        self._counted.open_streams -= 1


class FaultyOs(SystemOs):
    def __init__(self) -> None:
        self.faults: dict[str, list[int | None]] = {}
        self.free: int | None = None
        self.capacity: int | None = None
        self.most_bytes: int | None = None

    def write(self, fd, data, offset, /):
        self._fail("write")
        return super().write(fd, data[: self.most_bytes], offset)

    def read(self, fd, buffer, offset, /):
        self._fail("read")
        return super().read(fd, buffer, offset)

    def fsync(self, fd):
        self._fail("fsync")
        super().fsync(fd)

    def free_bytes(self, fd):
        free_bytes = super().free_bytes(fd) if self.free is None else self.free
        return free_bytes if self.capacity is None else min(free_bytes, self.capacity)

    def capacity_bytes(self, fd):
        return super().capacity_bytes(fd) if self.capacity is None else self.capacity

    def _fail(self, call: str) -> None:
        queue = self.faults.get(call)
        if queue and (number := queue.pop(0)) is not None:
            raise OSError(number, os.strerror(number))


# ---------------------------------------------------------------- the bench


class Bench:
    """A disk in a temporary folder, an origin, and attempts between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = FaultyOs()
        self.disk_clock = StandingClock()
        roots = {"default": RootSpec(path=str(folder))}
        self.disk: DownloadDisk = build(roots, self.system, clock=self.disk_clock)
        self.clock = FakeClock()
        self.cores = ONE_CORE
        self.origin = Origin()
        self.reports: list[Progress] = []
        self.wanted = True

    @property
    def reserve_bytes(self) -> int:
        return self.disk._space._reserve_bytes

    @reserve_bytes.setter
    def reserve_bytes(self, count: int) -> None:
        self.disk._space._reserve_bytes = count

    @property
    def free_bytes(self) -> int | None:
        """What is free on the disk, None: as much as there really is."""
        return self.system.free

    @free_bytes.setter
    def free_bytes(self, count: int | None) -> None:
        self.system.free = count
        self.disk_clock.advance(1.0)  # no disk fills in an instant

    def attempt(
        self,
        *,
        url: str = URL,
        path: str = "a.bin",
        digests: tuple[Digest, ...] = (),
        previous: FileRecord | None = None,
        budget_bytes: int | None = None,
        sums: tuple[str, ...] = (),
        size_bytes: int | None = None,
        **rules,
    ) -> Fetch:
        group = TaskGroup(name="g", items=(Item(url=url),), rules=Rules(**rules))
        spec = TaskSpec(
            key=path,
            sources=(URL, MIRROR),
            path=path,
            digests=digests,
            sums=sums,
            size_bytes=size_bytes,
        )
        return first_fetch(group, spec, url, previous=previous, budget_bytes=budget_bytes)

    def fetch(self, **asked) -> Outcome:
        transfer = Transfer(
            self.disk, self.origin, self.report, self.clock, Failpoints(), self.cores
        )
        outcome = transfer(self.attempt(**asked))
        assert self.origin.open_streams == 0
        return outcome

    def report(self, attempt, progress: Progress) -> bool:
        self.reports.append(progress)
        return self.wanted

    def publish(self, outcome: Outcome, **asked) -> bytes:
        """Publish a fetched part and return what is visible then."""
        assert isinstance(outcome, Fetched), outcome
        attempt = self.attempt(**asked)
        ((_, published),) = self.disk.publish(
            [
                Publish(
                    fence=1,
                    job=attempt.job,
                    run=attempt.run,
                    group=attempt.group,
                    task=attempt.task,
                    intent=outcome.intent,
                )
            ]
        )
        assert isinstance(published, Published), published
        self.published = published
        return (self.folder / outcome.intent.path).read_bytes()

    def record(self) -> FileRecord:
        intent = self.published.intent
        return FileRecord(
            url=intent.url,
            size_bytes=intent.size_bytes,
            mtime_ns=self.published.mtime_ns,
            inode=self.published.inode,
            verified=intent.verified,
            digests=intent.digests,
            validator=intent.validator,
        )

    def break_off(self, kept_bytes: int, **asked) -> None:
        """Fetch until the connection breaks; what came is kept."""
        self.origin.cut_after = kept_bytes
        outcome = self.fetch(**asked)
        assert failure(outcome) == ("short_body", True), outcome
        self.origin.cut_after = None
        self.origin.requests.clear()
        self.origin.served_bytes = 0

    @property
    def kept(self) -> PartJournal | None:
        with self.disk.open_part("default", "a.bin") as part:
            return part.journal

    @property
    def refused(self) -> list[bytes]:
        folder = self.folder / ".fetchd/quarantine"
        return [file.read_bytes() for file in folder.iterdir()] if folder.exists() else []

    @property
    def parts(self) -> list[str]:
        folder = self.folder / ".fetchd/parts"
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path)
    yield made
    made.disk.close()


def some_bytes(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def sha256(data: bytes) -> tuple[Digest, ...]:
    return (Digest("sha256", hashlib.sha256(data).hexdigest()),)


def failure(outcome: Outcome) -> tuple[str, bool]:
    assert isinstance(outcome, Failure), outcome
    return outcome.code, outcome.transient


# ---------------------------------------------------------------- a whole file


def test_a_file_is_fetched_whole_and_its_intent_says_all_about_it(bench):
    bench.origin.data = some_bytes(200 * KIB)
    bench.origin.validator = Validator(etag='"1"', last_modified=LAST_MODIFIED, date=LATER)

    outcome = bench.fetch(digests=sha256(bench.origin.data))

    assert isinstance(outcome, Fetched)
    intent = outcome.intent
    assert (intent.root, intent.path, intent.size_bytes) == ("default", "a.bin", 200 * KIB)
    assert (Verify.DIGEST, sha256(bench.origin.data)) == (intent.verified, intent.digests)
    assert (intent.url, intent.final_url) == (URL, URL + "?final")
    assert bench.origin.validator == intent.validator
    assert intent.mtime_s == 1793613600.0
    assert (intent.resumed_from_bytes, intent.received_bytes) == (0, 200 * KIB)
    assert intent.clobber
    assert bench.origin.data == bench.publish(outcome)


@pytest.mark.parametrize("size_bytes", [0, 1, 1023, 1024, 1025, 3 * MIB + 7])
@pytest.mark.parametrize("read_bytes", [1000, 2 * MIB])
def test_files_of_any_size_arrive(bench, size_bytes, read_bytes):
    bench.origin.data = some_bytes(size_bytes)
    bench.origin.read_bytes = read_bytes

    assert bench.origin.data == bench.publish(bench.fetch())


def test_the_request_carries_what_the_job_says(bench):
    timeouts = Timeouts(connect_s=3.0, stall_s=7.0, attempt_s=60.0)

    bench.fetch(headers=(("X-Client", "lab"),), timeouts=timeouts)

    assert [
        Request(
            url=URL, headers=(("X-Client", "lab"),), connect_s=3.0, stall_s=7.0, deadline_s=1060.0
        )
    ] == bench.origin.requests


def test_rule_20_nothing_is_visible_before_it_is_published(bench):
    bench.origin.data = some_bytes(10)

    bench.fetch()

    assert [bench.folder / ".fetchd"] == list(bench.folder.iterdir())


# ---------------------------------------------------------------- what a file must prove


@pytest.mark.parametrize(
    ("total_known", "framed", "rules", "digest", "expected"),
    [
        (True, True, {}, True, Verify.DIGEST),
        (False, False, {}, True, Verify.DIGEST),
        (True, True, {}, False, Verify.LENGTH),
        (False, True, {}, False, Verify.LENGTH),
        (False, False, {"size": SizeRange(least_bytes=9, most_bytes=9)}, False, Verify.LENGTH),
        (False, False, {"size_bytes": 9}, False, Verify.LENGTH),
        (False, False, {"verify": Verify.NONE}, False, Verify.NONE),
        (True, True, {"verify": Verify.NONE}, False, Verify.LENGTH),
    ],
)
def test_n03_a_file_says_what_it_was_verified_by(
    bench, total_known, framed, rules, digest, expected
):
    bench.origin = Origin(data=b"012345678", total_known=total_known, framed=framed)

    outcome = bench.fetch(digests=sha256(b"012345678") if digest else (), **rules)

    assert isinstance(outcome, Fetched)
    assert expected == outcome.intent.verified


@pytest.mark.parametrize("rules", [{}, {"size": SizeRange(least_bytes=1, most_bytes=9)}])
def test_n03_a_body_whose_end_nobody_can_tell_is_refused_unread(bench, rules):
    bench.origin = Origin(data=b"012345678", total_known=False, framed=False)

    assert failure(bench.fetch(**rules)) == ("length_unknown", False)
    assert bench.origin.served_bytes == 0


def test_a_job_that_asks_for_a_digest_and_gives_none_fails_without_a_request(bench):
    assert failure(bench.fetch(verify=Verify.DIGEST)) == ("expectation_failed", False)
    assert bench.origin.requests == []


def test_n20_the_right_length_with_wrong_bytes_is_a_mismatch_and_nothing_is_kept(bench):
    bench.origin.data = some_bytes(100)

    outcome = bench.fetch(digests=sha256(b"other"))

    assert failure(outcome) == ("checksum_mismatch", False)
    assert "expected sha256:" in outcome.reason
    assert bench.parts == []


def test_all_digests_of_a_list_must_hold(bench):
    bench.origin.data = b"data"
    digests = (*sha256(b"data"), Digest("md5", hashlib.md5(b"other").hexdigest()))

    assert failure(bench.fetch(digests=digests))[0] == "checksum_mismatch"


HTML = b"\n<!-- hi --> <!DOCTYPE html><title>Log in</title>"


@pytest.mark.parametrize(
    ("data", "content_type", "path", "expect", "code"),
    [
        (HTML, "application/octet-stream", "a.bin", None, "unexpected_html"),
        (HTML, None, "a.bin", None, "unexpected_html"),
        (b"\xef\xbb\xbf<HTML>", None, "a", None, "unexpected_html"),
        (b'<?xml version="1.0"?><html xmlns="x">', None, "a", None, "unexpected_html"),
        (b"data", "text/html; charset=utf-8", "a.bin", None, "unexpected_html"),
        (b"data", "Application/XHTML+XML", "a.bin", None, "unexpected_html"),
        (b"", "text/html", "a.bin", None, "unexpected_html"),
        (HTML, "text/html", "a.html", None, None),
        (HTML, "text/html", "html/A.HTM", None, None),
        (HTML, "text/html", "index.html/a.bin", None, "unexpected_html"),
        (HTML, "text/html", "a.bin", "text/html", None),
        (HTML, "application/xhtml+xml", "a.bin", "application/xhtml+xml", None),
        (HTML, "text/html", "a.bin", "*/*", None),
        (b"data", None, "a.bin", "*/*", None),
        (HTML, "application/zip", "a.bin", "application/zip", "unexpected_html"),
        (b"data", "Application/Zip; x=y", "a.bin", "application/zip", None),
        (b"data", "text/plain", "a.bin", "application/zip", "expectation_failed"),
        (b"data", None, "a.bin", "application/zip", "expectation_failed"),
        (b"<htmlish>", None, "a.bin", None, None),
        (b"<svg><!-- <html> -->", None, "a.bin", None, None),
        (b"<!-- " * 200, None, "a.bin", None, None),
        (b" " * 2000, None, "a.bin", None, None),
    ],
)
def test_n20_a_page_is_never_taken_for_a_file(bench, data, content_type, path, expect, code):
    bench.origin = Origin(data=data, content_type=content_type, read_bytes=3)

    outcome = bench.fetch(path=path, expect_type=expect)

    if code is None:
        assert data == bench.publish(outcome)
    else:
        assert (code, False) == failure(outcome)
        assert bench.parts == []


def test_rule_17_n20_a_login_page_in_answer_to_a_resume_costs_none_of_the_kept_bytes(bench):
    data = some_bytes(200 * KIB)
    bench.origin.data = data
    bench.break_off(150 * KIB)
    good, bench.origin = bench.origin, Origin(data=HTML, validator=Validator())

    outcome = bench.fetch()

    assert failure(outcome) == ("unexpected_html", False)
    bench.origin = good
    assert data == bench.publish(bench.fetch())
    assert good.starts == [150 * KIB]


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"max_bytes": 99}, "too_large"),
        ({"budget_bytes": 99}, "too_large"),
        ({"size": SizeRange(most_bytes=99)}, "bad_size"),
        ({"size": SizeRange(least_bytes=101)}, "bad_size"),
        ({"size_bytes": 99}, "bad_size"),
        ({"size_bytes": 101}, "bad_size"),
        ({"size_bytes": 100}, None),
        ({"max_bytes": 100, "budget_bytes": 100, "size": SizeRange(most_bytes=100)}, None),
        ({"size": SizeRange(least_bytes=100)}, None),
    ],
)
@pytest.mark.parametrize("total_known", [True, False])
def test_n11_n12_a_size_that_is_not_allowed_is_refused(bench, rules, code, total_known):
    bench.origin = Origin(data=some_bytes(100), total_known=total_known, read_bytes=50)

    outcome = bench.fetch(**rules)

    if code is None:
        assert isinstance(outcome, Fetched)
        return
    assert (code, False) == failure(outcome)
    assert bench.parts == []
    if total_known:
        assert bench.origin.served_bytes == 0


@pytest.mark.parametrize("rules", [{"max_bytes": 9000}, {"size": SizeRange(most_bytes=9000)}])
def test_n11_an_endless_body_ends_at_the_limit(bench, rules):
    bench.origin = Origin(data=bytes(MIB), total_known=False, read_bytes=1000)

    bench.fetch(**rules)

    assert bench.origin.served_bytes <= 10_000
    assert bench.parts == []


def test_a_standing_file_of_another_size_than_its_item_names_is_fetched_anew(bench):
    bench.origin = Origin(data=b"data")
    bench.publish(bench.fetch())

    outcome = bench.fetch(previous=bench.record(), size_bytes=5)

    assert failure(outcome) == ("bad_size", False)
    assert bench.origin.requests[-1].unless is None


def test_rule_25_a_body_shorter_than_its_length_is_never_a_file(bench):
    bench.origin = Origin(data=bytes(1000), total_offset=1)

    assert failure(bench.fetch()) == ("short_body", True)


def test_n07_a_body_longer_than_its_length_is_never_a_file(bench):
    bench.origin = Origin(data=bytes(1000), total_offset=-1)

    assert failure(bench.fetch()) == ("bad_length", True)


# ---------------------------------------------------------------- magic bytes


def magic(data: bytes, at: int, size_bytes: int = 5) -> Magic:
    return Magic(hex=data[at : at + size_bytes].hex(), offset_bytes=at)


def test_n20_a_file_with_its_magic_bytes_passes_wherever_they_stand_and_however_they_come(bench):
    bench.origin = Origin(data=DATA, read_bytes=700)
    wanted = tuple(magic(DATA, at) for at in (0, 698, 1022, 5_000, len(DATA) - 5))

    assert bench.publish(bench.fetch(magic=wanted)) == DATA


@pytest.mark.parametrize("at", [0, 900])
def test_n20_a_wrong_beginning_is_refused_before_a_byte_is_written(bench, at):
    bench.origin = Origin(data=DATA, read_bytes=1024)

    outcome = bench.fetch(magic=(magic(DATA, 30), Magic(hex="cafe", offset_bytes=at)))

    assert failure(outcome) == ("expectation_failed", False)
    found = DATA[at : at + 2].hex()
    assert outcome.reason == f"expected hex:cafe@{at}, found hex:{found}@{at}"
    assert bench.origin.served_bytes == 1024
    assert bench.parts == []


def test_n20_wrong_bytes_further_on_are_refused_as_soon_as_they_are_there(bench):
    bench.origin = Origin(data=DATA, read_bytes=1024)

    outcome = bench.fetch(magic=(Magic(hex="cafe", offset_bytes=50_000),), digests=sha256(DATA))

    assert failure(outcome) == ("expectation_failed", False)
    assert bench.origin.served_bytes <= 51 * 1024
    assert bench.parts == []


@pytest.mark.parametrize("total_known", [True, False])
def test_n20_a_file_too_short_for_its_magic_fails(bench, total_known):
    bench.origin = Origin(data=DATA[:100], total_known=total_known)

    outcome = bench.fetch(magic=(Magic(hex="cafe", offset_bytes=99),))

    assert failure(outcome) == ("expectation_failed", False)
    assert bench.parts == []
    if total_known:
        assert outcome.reason == "the file has 100 bytes, too few for hex:cafe@99"
        assert bench.origin.served_bytes == 0


@pytest.mark.parametrize("digest", [True, False])
def test_n20_kept_bytes_that_a_new_rule_refuses_are_not_resumed(bench, digest):
    bench.origin.data = DATA
    asked = {"digests": sha256(DATA)} if digest else {}
    bench.break_off(CUT, **asked)

    outcome = bench.fetch(magic=(Magic(hex="cafe", offset_bytes=CUT - 2),), **asked)

    assert failure(outcome) == ("expectation_failed", False)
    assert bench.origin.starts == [0]


def test_kept_bytes_that_pass_a_new_rule_are_resumed(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)

    outcome = bench.fetch(magic=(magic(DATA, 7), magic(DATA, CUT - 2)))

    assert bench.publish(outcome) == DATA
    assert bench.origin.starts == [CUT]


def test_n20_the_rest_of_a_file_is_held_against_its_magic_too(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    across = magic(DATA, CUT - 2, 2).hex + "cafe"

    outcome = bench.fetch(magic=(Magic(hex=across, offset_bytes=CUT - 2),))

    assert failure(outcome) == ("expectation_failed", False)
    assert bench.origin.starts == [CUT]


def test_a_complete_part_with_the_right_digest_still_needs_its_magic(bench):
    bench.origin.data = DATA
    bench.fetch(digests=sha256(DATA))
    bench.origin.requests.clear()

    outcome = bench.fetch(digests=sha256(DATA), magic=(Magic(hex="cafe", offset_bytes=len(DATA)),))

    assert failure(outcome)[0] == "expectation_failed"


def test_of_a_file_that_stands_there_the_digest_alone_decides(bench):
    (bench.folder / "a.bin").write_bytes(DATA)

    outcome = bench.fetch(digests=sha256(DATA), magic=(Magic(hex="cafe"),))

    assert isinstance(outcome, UpToDate)
    assert bench.origin.requests == []


@pytest.mark.parametrize(
    ("rules", "asks_whether_changed"),
    [
        ({"magic": (magic(b"pqrst", 0),)}, True),
        ({"magic": (Magic(hex="cafe"),)}, False),
        ({"magic": (Magic(hex="cafe", offset_bytes=4),)}, False),
        ({"size": SizeRange(least_bytes=5, most_bytes=5)}, True),
        ({"size": SizeRange(most_bytes=4)}, False),
    ],
)
def test_a_304_does_not_clear_a_file_that_the_rules_of_today_refuse(
    bench, rules, asks_whether_changed
):
    bench.origin.data = b"pqrst"
    bench.publish(bench.fetch())
    bench.origin.requests.clear()

    outcome = bench.fetch(previous=bench.record(), **rules)

    assert bench.origin.requests[0].unless == (
        bench.origin.validator if asks_whether_changed else None
    )
    assert isinstance(outcome, UpToDate if asks_whether_changed else Failure)
    assert (bench.folder / "a.bin").read_bytes() == b"pqrst"


# ---------------------------------------------------------------- refused content


def test_p9_a_flipped_bit_anywhere_is_never_published_nor_used_again(bench):
    data, chance = some_bytes(4096), random.Random(9)
    (bench.folder / "a.bin").write_bytes(b"the last good file")
    for _ in range(200):
        at = chance.randrange(len(data))
        wrong = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        bench.origin = Origin(data=wrong)

        outcome = bench.fetch(digests=sha256(data))

        assert failure(outcome) == ("checksum_mismatch", False)
        assert (bench.parts, bench.refused) == ([], [wrong])
    assert (bench.folder / "a.bin").read_bytes() == b"the last good file"


def test_n20_rule_36_the_dossier_of_a_wrong_digest_says_all_that_is_known(bench):
    bench.origin = Origin(data=b"MZ\x90\0\\" + bytes(200), content_type="application/zip")

    outcome = bench.fetch(digests=sha256(b"other"), size=SizeRange(most_bytes=999))

    assert outcome.dossier == Dossier(
        url=URL,
        final_url=URL + "?final",
        expected=(str(sha256(b"other")[0]), "size 0..999"),
        content_type="application/zip",
        size_bytes=205,
        digests=sha256(bench.origin.data),
        start="MZ\\x90\\x00\\x5c" + 59 * "\\x00",
        quarantine=outcome.dossier.quarantine,
    )
    assert (bench.folder / outcome.dossier.quarantine).read_bytes() == bench.origin.data


@pytest.mark.parametrize(
    ("origin", "rules", "size_bytes", "start"),
    [
        # Refused by the head, or by the first bytes: nothing was written.
        ({"content_type": "text/html"}, {}, 7, ""),
        ({"data": HTML}, {}, len(HTML), "\\x0a<!-- hi --> <!DOCTYPE html><title>Log in</title>"),
        ({}, {"expect_type": "application/zip"}, 7, ""),
        ({}, {"magic": (Magic(hex="cafe"),)}, 7, "content"),
        ({}, {"magic": (Magic(hex="cafe", offset_bytes=6),)}, 7, ""),
        ({}, {"size": SizeRange(least_bytes=8)}, 7, ""),
        # An empty body has no bytes that could be kept.
        ({"data": b""}, {"digests": sha256(b"x")}, 0, ""),
    ],
)
def test_n20_what_was_refused_unwritten_has_a_dossier_and_keeps_no_bytes(
    bench, origin, rules, size_bytes, start
):
    bench.origin = Origin(**{"data": b"content"} | origin)

    outcome = bench.fetch(**rules)

    assert isinstance(outcome, Failure)
    assert (outcome.dossier.size_bytes, outcome.dossier.start) == (size_bytes, start)
    assert outcome.dossier.quarantine == ""
    assert (bench.parts, bench.refused) == ([], [])


def test_rule_36_a_whole_body_of_the_wrong_size_is_kept_aside(bench):
    bench.origin = Origin(data=b"too short", total_known=False)

    outcome = bench.fetch(size=SizeRange(least_bytes=100, most_bytes=100))

    assert (outcome.code, outcome.dossier.size_bytes) == ("bad_size", 9)
    assert bench.refused == [b"too short"]


def test_rule_36_wrong_magic_further_on_keeps_the_bytes_that_show_it(bench):
    bench.origin = Origin(data=DATA, read_bytes=1024)

    outcome = bench.fetch(magic=(Magic(hex="cafe", offset_bytes=5000),))

    (kept,) = bench.refused
    assert kept == DATA[: len(kept)]
    assert 5002 <= len(kept) < 7000
    assert (outcome.dossier.size_bytes, outcome.dossier.digests) == (len(DATA), ())


@pytest.mark.parametrize(
    "rules",
    [{"max_bytes": 9000}, {"budget_bytes": 9000}, {"size": SizeRange(most_bytes=9000)}],
)
def test_n11_what_has_no_end_is_not_worth_a_place_in_quarantine(bench, rules):
    bench.origin = Origin(data=bytes(MIB), total_known=False, read_bytes=1000)

    assert isinstance(bench.fetch(**rules), Failure)
    assert (bench.parts, bench.refused) == ([], [])


def test_n20_a_resumed_file_with_a_wrong_digest_is_kept_aside_whole(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(b"other"))

    outcome = bench.fetch(digests=sha256(b"other"))

    assert failure(outcome)[0] == "checksum_mismatch"
    assert bench.refused == [DATA]
    assert outcome.dossier.start == text_of(DATA[:64])
    assert outcome.progressed is False


def test_a_login_page_in_answer_to_a_resume_says_so_and_keeps_the_part(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    bench.origin = Origin(data=HTML, validator=Validator(), content_type="text/html")

    outcome = bench.fetch()

    assert (outcome.dossier.content_type, outcome.dossier.start) == ("text/html", "")
    assert bench.kept.durable_bytes == CUT
    assert bench.refused == []


def test_what_was_refused_is_not_in_the_way_of_the_right_file(bench):
    bench.origin.data = b"wrong"
    bench.fetch(digests=sha256(DATA))
    bench.origin.data = DATA

    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA
    assert bench.refused == []


def test_d04_what_cannot_be_kept_aside_is_discarded(bench):
    (bench.folder / ".fetchd").mkdir()
    (bench.folder / ".fetchd/quarantine").touch()
    bench.origin.data = b"wrong"

    outcome = bench.fetch(digests=sha256(DATA))

    assert failure(outcome) == ("checksum_mismatch", False)
    assert outcome.dossier.quarantine == ""
    assert bench.parts == []


def test_d01_what_was_refused_gives_way_when_its_destination_needs_the_room(bench):
    bench.origin.data = DATA[::-1]
    bench.fetch(digests=sha256(DATA))
    bench.origin.data = DATA
    bench.system.free_bytes = lambda fd: len(DATA) - len(bench.refused)

    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_d01_a_disk_that_is_full_all_the_same_takes_what_was_refused_first(bench, number):
    bench.origin.data = DATA[::-1]
    bench.fetch(digests=sha256(DATA))
    bench.origin.data = DATA
    bench.system.faults = {"write": [None, number]}

    assert isinstance(bench.fetch(digests=sha256(DATA)), Deferred)
    assert bench.refused == []
    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA


@pytest.mark.parametrize(
    ("data", "rules"),
    [
        (b"wrong", {"digests": sha256(b"right")}),
        (b"wrong", {"magic": (Magic(hex="cafe"),)}),
        (b"wrong" * 999, {"magic": (Magic(hex="cafe", offset_bytes=4000),)}),
        (b"wrong", {"size": SizeRange(most_bytes=4)}),
        (HTML, {}),
        (bytes(5000), {"max_bytes": 4000}),
    ],
)
@pytest.mark.parametrize("total_known", [True, False])
def test_rule_38_whatever_is_refused_the_last_good_file_stays(bench, data, rules, total_known):
    (bench.folder / "a.bin").write_bytes(b"good")
    before = (bench.folder / "a.bin").stat()
    bench.origin = Origin(data=data, total_known=total_known, read_bytes=1024)

    assert isinstance(bench.fetch(**rules), Failure)

    after = (bench.folder / "a.bin").stat()
    assert (bench.folder / "a.bin").read_bytes() == b"good"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert bench.parts == []


# ---------------------------------------------------------------- what stands there already


def test_skip_trusts_presence(bench):
    (bench.folder / "a.bin").write_bytes(b"whatever")

    outcome = bench.fetch(if_exists=IfExists.SKIP)

    assert UpToDate(size_bytes=8, verified=Verify.NONE, digests=(), how="present") == outcome
    assert bench.origin.requests == []


def test_fail_never_asks_when_the_file_exists_and_never_clobbers_when_not(bench):
    outcome = bench.fetch(if_exists=IfExists.FAIL)
    assert isinstance(outcome, Fetched)
    assert not outcome.intent.clobber
    bench.origin.requests.clear()
    (bench.folder / "a.bin").touch()

    assert failure(bench.fetch(if_exists=IfExists.FAIL)) == ("exists", False)
    assert bench.origin.requests == []


def test_overwrite_always_fetches(bench):
    (bench.folder / "a.bin").write_bytes(b"data")
    bench.origin.data = b"data"

    outcome = bench.fetch(if_exists=IfExists.OVERWRITE, digests=sha256(b"data"))

    assert isinstance(outcome, Fetched)


def test_update_finds_an_equal_file_by_its_digest_without_a_request(bench):
    (bench.folder / "a.bin").write_bytes(b"data")
    bench.clock.step_s = 1.0

    outcome = bench.fetch(digests=sha256(b"data"))

    assert (
        UpToDate(size_bytes=4, verified=Verify.DIGEST, digests=sha256(b"data"), how="digest")
        == outcome
    )
    assert bench.origin.requests == []
    assert bench.parts == []
    assert [Progress(have_bytes=4, total_bytes=4, verifying=True)] == bench.reports


def test_a_file_that_is_right_but_not_on_record_is_synced_before_it_counts(bench):
    bench.origin.data = DATA
    bench.publish(bench.fetch())
    bench.system.faults["fsync"] = [errno.EIO]

    refused = bench.fetch(digests=sha256(DATA))

    assert failure(refused)[0] == "disk_error"
    assert isinstance(bench.fetch(digests=sha256(DATA)), UpToDate)


def test_update_replaces_a_file_with_another_digest(bench):
    (bench.folder / "a.bin").write_bytes(b"old")
    bench.origin.data = b"new"

    assert bench.publish(bench.fetch(digests=sha256(b"new"))) == b"new"


def test_update_trusts_the_record_of_an_untouched_file_and_reads_no_byte(bench):
    bench.origin.data = b"data"
    bench.publish(bench.fetch(digests=sha256(b"data")))
    bench.system.faults = {"read": [errno.EIO]}

    known = bench.fetch(digests=sha256(b"data"), previous=bench.record())

    assert isinstance(known, UpToDate)
    assert bench.system.faults["read"] == [errno.EIO]


@pytest.mark.parametrize("change", ["digests", "size_bytes", "mtime_ns", "inode"])
def test_update_hashes_a_file_that_its_record_does_not_fit(bench, change):
    bench.origin.data = b"data"
    bench.publish(bench.fetch(digests=sha256(b"data")))
    record = replace(bench.record(), **{change: () if change == "digests" else 1})
    bench.system.faults = {"read": [None, None, None, None]}

    outcome = bench.fetch(digests=sha256(b"data"), previous=record)

    assert isinstance(outcome, UpToDate)
    assert len(bench.system.faults["read"]) < 4


def test_update_without_digest_asks_whether_the_file_has_changed(bench):
    bench.origin.data = b"data"
    bench.publish(bench.fetch())
    bench.origin.requests.clear()

    outcome = bench.fetch(previous=bench.record())

    assert UpToDate(size_bytes=4, verified=Verify.LENGTH, digests=(), how="not_modified") == outcome
    assert [Validator(etag='"1"')] == [request.unless for request in bench.origin.requests]
    assert bench.parts == []


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        pytest.param(
            Validator(etag='W/"1"', last_modified=LAST_MODIFIED, date=TOO_SOON),
            Validator(etag='W/"1"'),
            id="young-date",
        ),
        pytest.param(
            Validator(last_modified=LAST_MODIFIED, date=LATER),
            Validator(last_modified=LAST_MODIFIED),
            id="settled-date",
        ),
        pytest.param(Validator(last_modified=LAST_MODIFIED, date=TOO_SOON), None, id="young-alone"),
    ],
)
def test_rule_3_update_asks_by_a_date_only_if_it_is_settled(bench, said, asked):
    bench.origin.data, bench.origin.validator = b"data", said
    bench.publish(bench.fetch())
    bench.origin.requests.clear()

    bench.fetch(previous=bench.record())

    assert bench.origin.requests[0].unless == asked


def test_a_304_that_names_another_version_means_that_this_one_has_to_be_fetched(bench):
    bench.origin.data = b"data"
    bench.publish(bench.fetch())
    whole = bench.origin.open

    def confused(request, wanted):
        stream = whole(request, wanted)
        stream.validator = Validator(etag='"2"')
        return stream

    bench.origin.open = confused
    previous = bench.record()
    bench.origin.data = b"newer"

    assert bench.publish(bench.fetch(previous=previous)) == b"newer"


@pytest.mark.parametrize(
    ("date", "mtime_s"),
    [
        ("Fri, 02 Jan 1970 00:00:00 GMT", 86400.0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", VERIFIED_AT_S),
        ("Mon, 01 Jan 1601 00:00:00 GMT", VERIFIED_AT_S),
        ("Fri, 01 Jan 2300 00:00:00 GMT", VERIFIED_AT_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", VERIFIED_AT_S),
    ],
)
def test_a_date_that_no_file_can_bear_is_not_the_files_and_that_of_its_verification_is(
    bench, date, mtime_s
):
    bench.origin.data, bench.origin.validator = b"data", Validator(last_modified=date)

    outcome = bench.fetch()

    assert outcome.intent.mtime_s == mtime_s
    assert bench.publish(outcome) == b"data"


def test_update_without_digest_takes_what_has_changed(bench):
    bench.origin.data = b"data"
    bench.publish(bench.fetch())
    bench.origin.data, bench.origin.validator = b"newer", Validator(etag='"2"')

    assert bench.publish(bench.fetch(previous=bench.record())) == b"newer"


@pytest.mark.parametrize(
    ("proved", "asked", "asks_whether_changed"),
    [
        (Verify.NONE, Verify.LENGTH, False),
        (Verify.NONE, Verify.NONE, True),
        (Verify.LENGTH, Verify.LENGTH, True),
        (Verify.LENGTH, Verify.NONE, True),
    ],
)
def test_a_304_proves_no_more_than_was_proved_of_the_file_when_it_came(
    bench, proved, asked, asks_whether_changed
):
    delimited = proved is Verify.LENGTH
    bench.origin = Origin(data=b"da", total_known=delimited, framed=delimited)
    bench.publish(bench.fetch(verify=Verify.NONE))
    bench.origin = Origin(data=b"data")

    outcome = bench.fetch(previous=bench.record(), verify=asked)

    if asks_whether_changed:
        assert isinstance(outcome, UpToDate)
        assert outcome.verified is proved
    else:
        assert bench.publish(outcome) == b"data"


@pytest.mark.parametrize(
    "change",
    [{"url": MIRROR}, {"mtime_ns": 1}, {"validator": Validator(date=LATER)}, None],
)
def test_update_asks_unconditionally_when_the_record_says_nothing_about_this_file(bench, change):
    bench.origin.data = b"data"
    bench.publish(bench.fetch())
    bench.origin.requests.clear()
    record = replace(bench.record(), **change) if change is not None else None

    assert isinstance(bench.fetch(previous=record), Fetched)
    assert [request.unless for request in bench.origin.requests] == [None]


def test_a_304_that_nobody_asked_for_is_a_bad_response(bench):
    bench.origin.open = lambda request, wanted: opened(bench.origin, request, not_modified=True)

    assert failure(bench.fetch()) == ("bad_response", True)


def opened(origin: Origin, request: Request, **fields) -> FakeStream:
    origin.requests.append(request)
    origin.open_streams += 1
    stream = FakeStream(origin, start=0, body=origin.data)
    for name, value in fields.items():
        setattr(stream, name, value)
    return stream


def test_a_symbolic_link_is_not_the_file_and_its_name_is_taken_over(bench):
    (bench.folder / "other").write_bytes(b"data")
    (bench.folder / "a.bin").symlink_to("other")
    bench.origin.data = b"data"

    assert bench.publish(bench.fetch(digests=sha256(b"data"))) == b"data"
    assert not (bench.folder / "a.bin").is_symlink()


def test_a_folder_at_the_destination_is_a_conflict_before_any_request(bench):
    (bench.folder / "a.bin").mkdir()

    assert failure(bench.fetch()) == ("dest_conflict", False)
    assert bench.origin.requests == []


# ---------------------------------------------------------------- resume: the table

STRONG = Validator(etag='"1"')
WEAK = Validator(etag='W/"1"')
DATED = Validator(last_modified=LAST_MODIFIED, date=LATER)
UNSETTLED = Validator(last_modified=LAST_MODIFIED, date=TOO_SOON)
BOTH = Validator(etag='"1"', last_modified=LAST_MODIFIED, date=LATER)
NOTHING = Validator()
NONSENSE = Validator(etag="1", last_modified="yesterday", date=LATER)
OVERLAP = resuming.OVERLAP_BYTES
KEPT = 9 * MIB
BY_DIGEST = Plan(start=KEPT - OVERLAP, overlap_bytes=OVERLAP)
BY_ETAG = Plan(start=KEPT, if_range='"1"')
BY_DATE = Plan(start=KEPT, if_range=LAST_MODIFIED)


@pytest.mark.parametrize(
    ("validator", "url", "digest", "expected"),
    [
        (STRONG, URL, False, BY_ETAG),
        (STRONG, URL, True, BY_ETAG),
        (STRONG, MIRROR, False, WHOLE),
        (STRONG, MIRROR, True, BY_DIGEST),
        (DATED, URL, False, BY_DATE),
        (DATED, MIRROR, False, WHOLE),
        (BOTH, URL, False, replace(BY_ETAG, instead=BY_DATE)),
        (BOTH, MIRROR, True, BY_DIGEST),
        (WEAK, URL, False, WHOLE),
        (WEAK, URL, True, BY_DIGEST),
        (UNSETTLED, URL, False, WHOLE),
        (UNSETTLED, URL, True, BY_DIGEST),
        (NOTHING, URL, False, WHOLE),
        (NOTHING, URL, True, BY_DIGEST),
        (NOTHING, MIRROR, True, BY_DIGEST),
        (NONSENSE, URL, False, WHOLE),
        (NONSENSE, URL, True, BY_DIGEST),
    ],
)
def test_rule_1_rule_2_rule_3_n35_n36_what_kept_bytes_are_good_for(
    validator, url, digest, expected
):
    journal = PartJournal(
        url=URL, final_url=URL, total=10 * MIB, validator=validator, durable_bytes=KEPT
    )

    assert expected == plan(journal, url, digest_decides=digest)


@pytest.mark.parametrize(
    ("kept_bytes", "total", "validator", "digest", "expected"),
    [
        (0, 10, STRONG, True, WHOLE),
        (1, 10, STRONG, False, Plan(start=1, if_range='"1"')),
        (OVERLAP, MIB, NOTHING, True, WHOLE),
        (OVERLAP + 1, MIB, NOTHING, True, Plan(start=1, overlap_bytes=OVERLAP)),
        # a second question is worth 8 MiB
        (8 * MIB - 1, 9 * MIB, BOTH, False, Plan(start=8 * MIB - 1, if_range='"1"')),
        # nothing is missing: a few bytes are asked for again as proof
        (MIB, MIB, STRONG, False,
         Plan(start=MIB - OVERLAP, overlap_bytes=OVERLAP, if_range='"1"')),
        (OVERLAP, OVERLAP, STRONG, False, WHOLE),
        (MIB, MIB, NOTHING, False, WHOLE),
        (MIB, None, STRONG, False, Plan(start=MIB, if_range='"1"')),
    ],
)  # fmt: skip
def test_where_to_go_on_depends_on_how_much_is_kept(kept_bytes, total, validator, digest, expected):
    journal = PartJournal(
        url=URL, final_url=URL, total=total, validator=validator, durable_bytes=kept_bytes
    )

    assert expected == plan(journal, URL, digest_decides=digest)


def test_nothing_kept_is_asked_for_whole():
    assert plan(None, URL, digest_decides=True) == WHOLE


# ---------------------------------------------------------------- resume: against origins

DATA = some_bytes(400 * KIB)
CUT = 250 * KIB
CHANGED = some_bytes(400 * KIB, seed=1)


def test_n01_a_broken_connection_is_resumed_with_if_range(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)

    outcome = bench.fetch()

    assert bench.publish(outcome) == DATA
    assert [(r.start, r.if_range) for r in bench.origin.requests] == [(CUT, '"1"')]
    assert (CUT, len(DATA) - CUT) == (
        outcome.intent.resumed_from_bytes,
        outcome.intent.received_bytes,
    )


def test_a_break_says_whether_it_brought_durable_progress(bench):
    bench.origin.data = DATA
    bench.origin.cut_after = CUT

    first = bench.fetch()
    bench.origin.cut_after = 0
    second = bench.fetch()

    assert (first.progressed, second.progressed) == (True, False)
    assert bench.kept is not None
    assert bench.kept.durable_bytes == CUT


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("validator", [STRONG, DATED, BOTH])
def test_n34_a_file_that_changed_between_attempts_is_fetched_anew(bench, validator, digest):
    bench.origin = Origin(data=DATA, validator=validator)
    bench.break_off(CUT, digests=sha256(CHANGED) if digest else ())
    bench.origin.data = CHANGED
    bench.origin.validator = Validator(etag='"2"', last_modified=LATER, date=LATER)

    outcome = bench.fetch(digests=sha256(CHANGED) if digest else ())

    assert bench.publish(outcome) == CHANGED
    assert bench.origin.starts == [CUT]
    assert outcome.intent.resumed_from_bytes == 0


def test_n32_a_200_to_a_ranged_request_is_the_file_from_its_beginning(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    bench.origin.ranges = False

    assert bench.publish(bench.fetch()) == DATA
    assert len(DATA) == bench.origin.served_bytes


def test_n38_an_etag_that_a_cdn_does_not_honour_costs_a_restart_and_no_error(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    bench.origin.heeds_etag = False

    assert bench.publish(bench.fetch()) == DATA


def test_rule_4_many_kept_bytes_are_asked_for_by_date_when_the_etag_is_not_honoured(bench):
    data = some_bytes(9 * MIB)
    bench.origin = Origin(data=data, validator=BOTH, read_bytes=MIB)
    bench.break_off(8 * MIB)
    bench.origin.heeds_etag = False

    outcome = bench.fetch()

    assert data == bench.publish(outcome)
    assert [request.if_range for request in bench.origin.requests] == ['"1"', LAST_MODIFIED]
    assert outcome.intent.received_bytes == MIB


@pytest.mark.parametrize(
    ("ranges", "heeds_if_range", "changed", "seen"),
    [
        pytest.param(True, True, False, True, id="the-rest-came"),
        pytest.param(False, True, False, False, id="all-of-the-same-version-came"),
        pytest.param(True, True, True, None, id="another-version-came"),
    ],
)
def test_it_is_told_whether_the_origin_gives_rests(bench, ranges, heeds_if_range, changed, seen):
    bench.origin = Origin(data=DATA)
    first = bench.fetch(path="b.bin")
    bench.break_off(CUT)
    bench.origin.ranges, bench.origin.heeds_if_range = ranges, heeds_if_range
    if changed:
        bench.origin.data, bench.origin.validator = CHANGED, Validator(etag='"2"')

    assert (first.ranges, bench.fetch().ranges) == (None, seen)


def test_a_wish_of_the_origin_is_told_once_when_its_answer_has_arrived(bench):
    bench.origin = Origin(data=DATA, wish=("http://h:80", 7.0))
    bench.fetch()

    assert [progress.wish for progress in bench.reports if progress.wish] == [("http://h:80", 7.0)]
    assert bench.reports[1].wish is not None  # the first one came from the transport
    assert bench.reports[1].received_bytes == 0


def test_a_second_200_to_the_question_by_date_is_taken(bench):
    data = some_bytes(9 * MIB)
    bench.origin = Origin(data=data, validator=BOTH, read_bytes=MIB)
    bench.break_off(8 * MIB)
    bench.origin.ranges = False

    assert data == bench.publish(bench.fetch())
    assert bench.origin.starts == [8 * MIB] * 2


@pytest.mark.parametrize(
    "validator",
    [
        pytest.param(replace(BOTH, etag='"2"'), id="same-date"),
        pytest.param(replace(BOTH, last_modified=EARLIER), id="other-date"),
    ],
)
def test_p8_a_200_of_another_version_is_taken_at_once_whatever_its_date(bench, validator):
    data, changed = some_bytes(9 * MIB), some_bytes(9 * MIB, seed=1)
    bench.origin = Origin(data=data, validator=BOTH, read_bytes=MIB)
    bench.break_off(8 * MIB)
    bench.origin.data, bench.origin.validator = changed, validator
    bench.origin.heeds_etag = False

    assert changed == bench.publish(bench.fetch())
    assert bench.origin.starts == [8 * MIB]


def test_p8_a_206_without_etag_is_not_joined_by_a_date_that_is_not_settled(bench):
    young = Validator(etag='"1"', last_modified=LAST_MODIFIED, date=TOO_SOON)
    bench.origin = Origin(data=DATA, validator=young)
    bench.break_off(CUT)
    bench.origin.data, bench.origin.heeds_if_range = CHANGED, False
    bench.origin.validator = replace(young, etag=None)

    assert bench.publish(bench.fetch()) == CHANGED


@pytest.mark.parametrize(
    "change",
    [
        {"validator": Validator(etag='"2"')},
        {"data": CHANGED + b"1"},
        {"data": CHANGED[:-1]},
        {"data": CHANGED, "says_total_in_206": False},
    ],
)
def test_n37_a_206_of_another_version_is_seen_though_if_range_is_ignored(bench, change):
    bench.origin.data = DATA
    bench.break_off(CUT)
    for name, value in {"data": CHANGED, "heeds_if_range": False, **change}.items():
        setattr(bench.origin, name, value)

    outcome = bench.fetch()

    assert bench.origin.data == bench.publish(outcome)
    assert bench.origin.starts == [CUT, 0]


def test_n37_a_206_whose_date_differs_is_seen_though_if_range_is_ignored(bench):
    bench.origin = Origin(data=DATA, validator=DATED)
    bench.break_off(CUT)
    bench.origin.data, bench.origin.heeds_if_range = CHANGED, False
    bench.origin.validator = Validator(last_modified=LATER, date=LATER)

    assert bench.publish(bench.fetch()) == CHANGED


def test_n37_the_same_etag_for_other_bytes_is_caught_by_the_checksum(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(CHANGED))
    bench.origin.data = CHANGED

    outcome = bench.fetch(digests=sha256(CHANGED))

    assert failure(outcome) == ("checksum_mismatch", False)
    assert bench.parts == []
    assert bench.publish(bench.fetch(digests=sha256(CHANGED))) == CHANGED


def test_n37_a_206_that_does_not_say_which_version_it_is_of_is_not_joined(bench):
    bench.origin = Origin(data=DATA, validator=BOTH)
    bench.break_off(CUT)
    bench.origin.data, bench.origin.heeds_if_range = CHANGED, False
    bench.origin.says_validator_in_206 = False

    assert bench.publish(bench.fetch()) == CHANGED


def test_a_206_whose_date_is_that_of_the_kept_bytes_may_leave_the_etag_out(bench):
    bench.origin = Origin(data=DATA, validator=BOTH)
    bench.break_off(CUT)
    whole = bench.origin.open

    def without_etag(request, wanted):
        stream = whole(request, wanted)
        stream.validator = replace(stream.validator, etag=None)
        return stream

    bench.origin.open = without_etag

    outcome = bench.fetch()

    assert bench.publish(outcome) == DATA
    assert outcome.intent.resumed_from_bytes == CUT


@pytest.mark.parametrize("now", [DATA, DATA[: CUT - 1]])
def test_rule_9_a_206_that_does_not_fit_what_is_kept_is_not_joined_to_it(bench, now):
    bench.origin = Origin(data=DATA, total_known=False)
    bench.break_off(CUT)
    bench.origin.total_known = now is not DATA
    bench.origin.data = now
    whole = bench.origin.open

    def lie(request, wanted):
        stream = whole(replace(request, start=min(request.start, len(now) - 1)), wanted)
        stream.start = request.start
        return stream

    bench.origin.open = lie

    assert now == bench.publish(bench.fetch())
    assert len(bench.origin.requests) == 2


def test_n31_bytes_from_another_offset_than_asked_for_are_never_written(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    whole = bench.origin.open
    bench.origin.open = lambda request, wanted: shifted(whole(request, wanted))

    outcome = bench.fetch()

    assert failure(outcome) == ("bad_response", True)
    assert bench.kept is not None
    assert bench.kept.durable_bytes == CUT


def shifted(stream: FakeStream) -> FakeStream:
    stream.start -= 1
    return stream


@pytest.mark.parametrize("validator", [WEAK, UNSETTLED, NOTHING])
def test_n35_n36_without_strong_validator_and_digest_nothing_is_kept(bench, validator):
    bench.origin = Origin(data=DATA, validator=validator)
    bench.break_off(CUT)

    assert bench.parts == []
    assert bench.publish(bench.fetch()) == DATA
    assert bench.origin.starts == [0]


@pytest.mark.parametrize("validator", [WEAK, UNSETTLED, NOTHING])
def test_rule_5_n35_n36_where_a_digest_decides_an_overlap_is_compared_first(bench, validator):
    bench.origin = Origin(data=DATA, validator=validator, read_bytes=10_000)
    bench.break_off(CUT, digests=sha256(DATA))

    outcome = bench.fetch(digests=sha256(DATA))

    assert bench.publish(outcome) == DATA
    assert [(r.start, r.if_range) for r in bench.origin.requests] == [(CUT - OVERLAP, None)]
    assert outcome.intent.resumed_from_bytes == CUT


def test_n36_an_overlap_that_differs_means_another_version(bench):
    bench.origin = Origin(data=DATA, validator=NOTHING)
    bench.break_off(CUT, digests=sha256(CHANGED))
    bench.origin.data = CHANGED

    outcome = bench.fetch(digests=sha256(CHANGED))

    assert bench.publish(outcome) == CHANGED
    assert bench.origin.starts == [CUT - OVERLAP, 0]


def test_what_an_overlap_joined_is_never_resumed_without_its_digest(bench):
    bench.origin = Origin(data=DATA, validator=NOTHING)
    bench.break_off(CUT, digests=sha256(DATA))
    bench.origin.validator = STRONG  # says nothing about the bytes that came before
    bench.break_off(OVERLAP + 10 * KIB, digests=sha256(DATA))

    assert bench.kept is not None
    assert (bench.kept.durable_bytes, bench.kept.validator) == (CUT + 10 * KIB, NOTHING)
    assert bench.publish(bench.fetch()) == DATA
    assert bench.origin.starts == [0]


def refusing(status: int) -> Callable[..., FakeStream]:
    def refuse(request, wanted):
        raise AttemptError("bad_status", f"status {status}", status=status)

    return refuse


@pytest.mark.parametrize("status", [401, 403, 410])
def test_rule_21_a_link_that_expired_costs_no_kept_byte_and_is_tried_again(bench, status):
    bench.origin.data = DATA
    bench.break_off(CUT)
    good, bench.origin.open = bench.origin.open, refusing(status)

    expired = bench.fetch()
    bench.origin.open = good
    whole = bench.fetch()

    assert failure(expired) == ("bad_status", True)
    assert bench.origin.starts == [CUT]
    assert bench.publish(whole) == DATA


@pytest.mark.parametrize("status", [401, 403, 410])
def test_rule_21_with_nothing_kept_such_a_status_is_final(bench, status):
    bench.origin.open = refusing(status)

    assert failure(bench.fetch()) == ("bad_status", False)


def test_rule_21_a_404_is_final_whatever_is_kept(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    bench.origin.open = refusing(404)

    assert failure(bench.fetch()) == ("bad_status", False)


def test_rule_21_a_source_that_brought_none_of_the_kept_bytes_has_no_link_that_expired(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(DATA))
    bench.origin.open = refusing(403)

    assert failure(bench.fetch(url=MIRROR, digests=sha256(DATA))) == ("bad_status", False)


@pytest.mark.parametrize("digest", [True, False])
def test_n21_n40_a_mirror_goes_on_with_the_part_only_where_a_digest_decides(bench, digest):
    digests = sha256(DATA) if digest else ()
    bench.origin.data = DATA
    bench.break_off(CUT, digests=digests)

    outcome = bench.fetch(url=MIRROR, digests=digests)

    assert bench.publish(outcome) == DATA
    assert [CUT - OVERLAP if digest else 0] == bench.origin.starts
    assert (MIRROR, CUT if digest else 0) == (outcome.intent.url, outcome.intent.resumed_from_bytes)


def test_rule_35_a_mirror_with_another_total_gets_no_share_of_the_part(bench):
    longer = DATA + b"1"
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(longer))
    bench.origin.data = longer

    assert longer == bench.publish(bench.fetch(url=MIRROR, digests=sha256(longer)))
    assert bench.origin.starts == [CUT - OVERLAP, 0]


def keep(bench: Bench, data: bytes, total: int | None, validator: Validator = STRONG) -> None:
    """Leave a part that holds ``data``, durable."""
    with bench.disk.open_part("default", "a.bin") as part:
        part.write(memoryview(data))
        part.checkpoint(
            PartJournal(
                url=URL,
                final_url=URL,
                total=total,
                validator=validator,
                durable_bytes=len(data),
            )
        )


def test_rule_16_a_complete_part_is_verified_and_used_without_a_request(bench):
    keep(bench, DATA, len(DATA))

    outcome = bench.fetch(url=MIRROR, digests=sha256(DATA))

    assert bench.publish(outcome) == DATA
    assert bench.origin.requests == []
    assert (URL, len(DATA), 0) == (
        outcome.intent.url,
        outcome.intent.resumed_from_bytes,
        outcome.intent.received_bytes,
    )


def test_rule_16_a_complete_part_with_wrong_bytes_is_fetched_anew(bench):
    keep(bench, CHANGED, len(CHANGED))
    bench.origin.data = DATA

    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA
    assert bench.origin.starts == [0]


@pytest.mark.parametrize(("now", "starts"), [(DATA, 1), (CHANGED, 1), (DATA[:-1], 1)])
def test_rule_15_a_complete_part_without_digest_is_asked_for_again(bench, now, starts):
    keep(bench, DATA, len(DATA))
    bench.origin.data = now
    bench.origin.validator = STRONG if now is DATA else Validator(etag='"2"')

    outcome = bench.fetch()

    assert now == bench.publish(outcome)
    assert [len(DATA) - OVERLAP] == bench.origin.starts
    assert (now is DATA) == (outcome.intent.received_bytes == OVERLAP)


def test_a_complete_part_whose_end_differs_under_the_same_etag_is_fetched_anew(bench):
    keep(bench, DATA, len(DATA))
    bench.origin.data = CHANGED

    assert bench.publish(bench.fetch()) == CHANGED
    assert [len(DATA) - OVERLAP, 0] == bench.origin.starts


@pytest.mark.parametrize(
    ("kept", "digest", "starts"),
    [
        (DATA, True, [len(DATA)]),  # all was there already, and the digest says so
        (DATA, False, [len(DATA), 0]),  # 416 alone proves nothing
        (CHANGED, True, [len(DATA), 0]),
        (DATA + b"more", True, [len(DATA) + 4, 0]),
        (DATA + b"more", False, [len(DATA) + 4, 0]),
    ],
)
def test_rule_14_n33_a_416_completes_a_part_only_with_its_digest(bench, kept, digest, starts):
    keep(bench, kept, None)
    bench.origin.data = DATA

    outcome = bench.fetch(digests=sha256(DATA) if digest else ())

    assert bench.publish(outcome) == DATA
    assert starts == bench.origin.starts


def test_a_416_to_a_request_for_the_whole_is_a_bad_status(bench):
    def refuse(request, wanted):
        raise RangeRefused(0)

    bench.origin.open = refuse

    assert failure(bench.fetch()) == ("bad_status", False)


def test_the_kept_bytes_are_hashed_before_connecting_and_that_is_told(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(DATA))
    bench.clock.step_s = 1.0
    bench.reports.clear()

    bench.fetch(digests=sha256(DATA))

    assert Progress(have_bytes=CUT, total_bytes=CUT, verifying=True) == bench.reports[0]


def test_n40_a_part_that_was_damaged_on_the_disk_never_becomes_a_file(bench):
    keep(bench, CHANGED[:CUT], len(DATA))
    bench.origin.data = DATA

    outcome = bench.fetch(digests=sha256(DATA))

    assert failure(outcome) == ("checksum_mismatch", False)
    assert bench.parts == []


# ---------------------------------------------------------------- time


def slow(bench: Bench, read_s: float) -> None:
    def wait() -> None:
        bench.clock.now_s += read_s

    bench.origin.before_read = wait


def test_n05_bytes_that_drip_are_too_slow_and_what_came_is_kept(bench):
    bench.origin = Origin(data=DATA, read_bytes=800)
    slow(bench, 0.9)

    outcome = bench.fetch(timeouts=Timeouts(stall_s=30.0, stall_bytes_per_s=1024))

    assert failure(outcome) == ("too_slow", True)
    assert outcome.progressed
    assert bench.clock.now_s - 1000.0 < 32.0


def test_bytes_just_fast_enough_are_fine(bench):
    bench.origin = Origin(data=DATA, read_bytes=1024)
    slow(bench, 0.99)

    assert isinstance(bench.fetch(), Fetched)


def test_what_is_held_back_by_a_rate_is_not_a_slow_origin(bench):
    bench.origin = Origin(data=DATA, read_bytes=1024, held_s=100.0)
    slow(bench, 100.5)

    assert isinstance(bench.fetch(), Fetched)


def test_an_origin_that_is_slow_behind_a_rate_is_too_slow_all_the_same(bench):
    bench.origin = Origin(data=DATA, read_bytes=1024, held_s=100.0)
    slow(bench, 102.0)

    assert failure(bench.fetch()) == ("too_slow", True)


def test_d17_a_slow_disk_is_not_a_slow_origin(bench):
    bench.origin.data = DATA
    write = bench.system.write

    def slow_write(fd, data, offset):
        bench.clock.now_s += 60.0
        return write(fd, data, offset)

    bench.system.write = slow_write

    assert isinstance(bench.fetch(), Fetched)


def test_n05_the_time_limit_of_an_attempt_ends_a_body_that_flows(bench):
    bench.origin = Origin(data=DATA, read_bytes=10_000)
    slow(bench, 1.0)

    outcome = bench.fetch(timeouts=Timeouts(attempt_s=5.0))

    assert failure(outcome) == ("deadline", True)
    assert outcome.progressed
    assert bench.clock.now_s - 1000.0 <= 7.0


def test_the_time_limit_of_an_attempt_holds_while_kept_bytes_are_hashed(bench):
    bench.origin.data = some_bytes(3 * MIB)
    bench.break_off(2 * MIB + 5, digests=sha256(bench.origin.data))
    read = bench.system.read

    def slow_read(fd, buffer, offset):
        bench.clock.now_s += 4.0
        return read(fd, buffer, offset)

    bench.system.read = slow_read

    outcome = bench.fetch(digests=sha256(bench.origin.data), timeouts=Timeouts(attempt_s=5.0))

    assert failure(outcome) == ("deadline", True)
    assert bench.origin.requests == []
    assert bench.kept.durable_bytes == 2 * MIB + 5


def test_progress_is_told_four_times_a_second_and_at_the_end(bench):
    bench.origin = Origin(data=DATA, read_bytes=4096)
    slow(bench, 0.1)

    bench.fetch()

    told = bench.reports[1:]  # the first one came from the transport
    assert len(told) == 34
    assert len(DATA) == told[-1].received_bytes == told[-1].have_bytes == told[-1].total_bytes


def test_checkpoints_come_every_five_seconds(bench):
    bench.origin = Origin(data=DATA, read_bytes=40 * KIB)
    slow(bench, 2.0)
    durable = []

    def look(attempt, progress) -> bool:
        file = next((bench.folder / ".fetchd/parts").glob("*.json"), None)
        durable.append(file is not None)
        return True

    bench.report = look
    bench.fetch()

    assert durable[:5] == [False, False, False, False, True]


def test_checkpoints_come_every_64_mib(bench):
    bench.origin = Origin(data=bytes(65 * MIB), read_bytes=MIB)
    bench.break_off(64 * MIB + 1)
    keep_journal = bench.kept

    assert keep_journal is not None
    assert keep_journal.durable_bytes == 64 * MIB + 1


# ---------------------------------------------------------------- stop, cancel, crash


def test_a_transfer_that_is_not_wanted_any_more_leaves_with_its_bytes_durable(bench):
    bench.origin = Origin(data=DATA, read_bytes=10_000)
    slow(bench, 0.3)
    reported = bench.report

    def report(attempt, progress):
        bench.wanted = progress.received_bytes < CUT
        return reported(attempt, progress)

    bench.report = report

    assert Interrupted() == bench.fetch()
    assert bench.kept is not None
    assert CUT - 20_000 <= bench.kept.durable_bytes <= CUT


def test_a_transfer_that_is_not_wanted_is_not_begun(bench):
    bench.wanted = False

    assert Interrupted() == bench.fetch()
    assert bench.origin.served_bytes == 0
    assert bench.parts == []


def test_d13_a_destination_that_another_transfer_has_open_is_waited_for(bench):
    with bench.disk.open_part("default", "a.bin"):
        outcome = bench.fetch()

    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.delay_s) == ("same_dest", 5.0)


def test_an_unexpected_error_passes_up_and_the_lock_is_free(bench):
    bench.origin = Origin(data=DATA, cut_after=CUT, cut_with=ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        bench.fetch()

    bench.origin = Origin(data=DATA)
    assert bench.publish(bench.fetch()) == DATA


def test_status_and_wish_of_the_origin_go_into_the_failure(bench):
    def refuse(request, wanted):
        raise AttemptError(
            "bad_status", "status 503", transient=True, retry_after_s=7.0, status=503
        )

    bench.origin.open = refuse

    outcome = bench.fetch()

    assert outcome == Failure(
        code="bad_status", reason="status 503", transient=True, retry_after_s=7.0, status=503
    )
    assert bench.parts == []


# ---------------------------------------------------------------- the disk


def test_n12_a_file_that_does_not_fit_waits_for_space_unread(bench):
    bench.origin.data = DATA
    bench.free_bytes, bench.reserve_bytes = 500 * KIB, 101 * KIB

    outcome = bench.fetch()

    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.delay_s) == ("disk", 30.0)
    assert bench.origin.served_bytes == 0
    bench.reserve_bytes = 100 * KIB
    assert bench.publish(bench.fetch()) == DATA


@pytest.mark.parametrize("short_bytes", [1, 0])
def test_n12_a_file_that_would_not_fit_on_an_empty_disk_is_refused_unread(bench, short_bytes):
    bench.origin.data = DATA
    bench.reserve_bytes = MIB
    bench.system.capacity = MIB + len(DATA) - short_bytes

    outcome = bench.fetch()

    if short_bytes:
        assert failure(outcome) == ("too_large", False)
        assert (bench.origin.served_bytes, bench.parts) == (0, [])
    else:
        assert bench.publish(outcome) == DATA


def test_n12_a_mirror_that_tells_too_large_a_size_costs_none_of_the_bytes_that_are_kept(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(DATA))
    bench.origin.total_offset = 10**17

    outcome = bench.fetch(url=MIRROR, digests=sha256(DATA))

    assert failure(outcome) == ("too_large", False)
    bench.origin.total_offset = 0
    outcome = bench.fetch(digests=sha256(DATA))
    assert bench.publish(outcome) == DATA
    assert outcome.intent.resumed_from_bytes > 0


def test_n12_another_source_is_worth_asking_only_where_it_is_this_ones_size_that_finds_no_room(
    bench,
):
    bench.origin.data = DATA
    bench.free_bytes = len(DATA) - 1
    too_large = bench.fetch()
    bench.free_bytes, bench.reserve_bytes = 0, 1
    full = bench.fetch()
    bench.free_bytes, bench.reserve_bytes = None, 0
    bench.break_off(CUT, digests=sha256(DATA))
    bench.free_bytes = len(DATA) - CUT - 1
    kept = bench.fetch(digests=sha256(DATA))
    bench.free_bytes, bench.origin.total_offset = MIB, 2 * MIB
    other = bench.fetch(url=MIRROR, digests=sha256(DATA))

    outcomes = [too_large, full, kept, other]
    assert [(o.reason, o.elsewhere) for o in outcomes] == [
        ("disk", True),
        ("disk", False),
        ("disk", False),
        ("disk", True),
    ]
    assert bench.kept is not None


def no_room_behind(bench, room_bytes):
    """Let the parts take so many bytes together and not one more."""
    write = bench.system.write

    def write_within(fd, data, offset):
        used = sum(file.stat().st_size for file in (bench.folder / ".fetchd/parts").iterdir())
        if used + len(data) > room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    bench.system.write = write_within


def test_n11_d01_a_body_of_unknown_length_that_fills_the_disk_gives_the_room_back_and_fails(bench):
    bench.origin = Origin(data=DATA, total_known=False, read_bytes=10_000)
    no_room_behind(bench, 250_000)

    outcome = bench.fetch()

    assert failure(outcome) == ("disk_full", True)
    assert not outcome.progressed
    assert bench.parts == []


def test_n11_d01_nor_does_what_is_kept_of_it_hold_the_room_that_all_wait_for(bench):
    bench.origin = Origin(data=DATA, total_known=False)
    bench.break_off(CUT)
    bench.reserve_bytes, bench.free_bytes = 2, 1

    first, second = bench.fetch(), bench.fetch()

    assert failure(first) == ("disk_full", True)
    assert isinstance(second, Deferred)
    assert bench.parts == []


def test_d01_a_body_of_unknown_length_waits_where_there_is_no_room_at_all(bench):
    bench.origin = Origin(data=DATA, total_known=False)
    with bench.disk.open_part("default", "warm"):
        pass
    bench.system.faults = {"write": [errno.ENOSPC]}

    assert isinstance(bench.fetch(), Deferred)
    assert bench.publish(bench.fetch()) == DATA


def test_d01_no_origin_is_asked_while_the_disk_is_full(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    asked = len(bench.origin.requests)
    bench.free_bytes = len(DATA) - CUT - 1

    outcomes = [bench.fetch(), bench.fetch()]

    assert [outcome.reason for outcome in outcomes] == ["disk", "disk"]
    assert len(bench.origin.requests) == asked
    assert bench.kept is not None


def test_only_the_missing_bytes_of_a_part_need_space(bench):
    bench.origin.data = DATA
    bench.break_off(CUT)
    bench.free_bytes = len(DATA) - CUT

    assert bench.publish(bench.fetch()) == DATA


def test_space_that_others_take_meanwhile_is_seen(bench):
    bench.origin = Origin(data=DATA, read_bytes=10_000)
    slow(bench, 1.0)
    bench.reserve_bytes = MIB
    bench.free_bytes = 2 * MIB
    wait = bench.origin.before_read

    def fill() -> None:
        wait()
        bench.free_bytes = MIB - 1

    bench.origin.before_read = fill

    outcome = bench.fetch()

    assert isinstance(outcome, Deferred)
    assert bench.kept is not None


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_d01_d03_a_full_disk_defers_the_task_and_it_finishes_when_space_is_back(
    bench, call, number
):
    bench.origin = Origin(data=DATA, cut_after=CUT if call == "fsync" else None)
    with bench.disk.open_part("default", "warm"):
        pass
    bench.system.faults = {call: [None, number] if call == "write" else [number]}

    outcome = bench.fetch()

    expected = Deferred if call == "write" else Failure  # the first error stands
    assert isinstance(outcome, expected)
    bench.origin.cut_after = None
    assert bench.publish(bench.fetch()) == DATA


def test_d01_what_a_full_disk_holds_is_kept_though_even_its_journal_needed_room(bench):
    bench.origin = Origin(data=DATA, read_bytes=1000)
    write = bench.system.write
    no_room_behind(bench, 250_000)

    assert isinstance(bench.fetch(), Deferred)
    bench.system.write = write
    outcome = bench.fetch()
    assert bench.publish(outcome) == DATA
    assert outcome.intent.resumed_from_bytes > 180_000


def test_d04_an_error_of_the_disk_discards_the_part(bench):
    bench.origin.data = DATA
    bench.system.faults = {"write": [None, None, errno.EIO]}

    outcome = bench.fetch()

    assert failure(outcome) == ("disk_error", True)
    assert bench.parts == []
    assert bench.publish(bench.fetch()) == DATA


def test_d04_a_part_that_cannot_be_read_back_is_discarded(bench):
    bench.origin.data = DATA
    bench.break_off(CUT, digests=sha256(DATA))
    bench.system.faults = {"read": [None, None, errno.EIO]}

    assert failure(bench.fetch(digests=sha256(DATA))) == ("disk_error", True)
    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA
    assert bench.origin.starts == [0]


def test_d04_a_part_that_cannot_be_closed_is_an_error_of_the_disk(bench, monkeypatch):
    """Network file systems write what they still hold when a file is closed."""
    bench.origin.data = DATA
    close, errors = os.close, [errno.EIO]

    def closing(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        close(fd)
        if name == part_name("default", "a.bin") and errors:
            raise OSError(errors.pop(), "Input/output error")

    monkeypatch.setattr(os, "close", closing)

    assert failure(bench.fetch()) == ("disk_error", True)
    assert bench.publish(bench.fetch()) == DATA


def test_d05_short_and_interrupted_writes_change_no_byte(bench):
    bench.origin.data = DATA
    bench.system.most_bytes = 7777
    bench.system.faults = {"write": [errno.EINTR, None, errno.EINTR]}

    assert bench.publish(bench.fetch(digests=sha256(DATA))) == DATA


# ---------------------------------------------------------------- P8

# Two of one length that differ only where no overlap looks, and a longer one.
VERSIONS = [
    b"0" + DATA[:100_000] + b"0",
    b"1" + DATA[:100_000] + b"1",
    b"2" + DATA[:140_000] + b"2",
]


@given(data=st.data(), digest=st.booleans(), strong=st.booleans(), etags=st.booleans())
@settings(derandomize=True, max_examples=200)
def test_p8_no_file_ever_mixes_two_versions(tmp_path_factory, data, digest, strong, etags):
    """The origin cuts, changes, ignores ranges or conditions, and has a mirror that differs.

    The mirror uses the same validators for other versions; weak validators are the same for all.
    """
    bench = Bench(tmp_path_factory.mktemp("root"))
    digests = sha256(VERSIONS[data.draw(st.integers(0, 2))]) if digest else ()
    for _ in range(6):
        now = data.draw(st.sampled_from([0, 0, 1, 1, 2]))
        url = data.draw(st.sampled_from([URL, URL, MIRROR]))
        label = now if url == URL else (now + 1) % 3
        modified = f"Mon, 02 Nov 2026 10:0{label if strong else 0}:00 GMT"
        bench.origin = Origin(
            data=VERSIONS[now],
            validator=Validator(
                etag=(f'"{label}"' if strong else 'W/"0"') if etags else None,
                last_modified=modified,
                date="Mon, 02 Nov 2026 11:00:00 GMT" if strong else modified,
            ),
            ranges=data.draw(st.sampled_from([True, True, True, False])),
            heeds_if_range=data.draw(st.booleans()),
            total_known=data.draw(st.sampled_from([True, True, True, False])),
            read_bytes=data.draw(st.sampled_from([5_000, 100_000])),
            cut_after=data.draw(st.sampled_from([None, 3_000, 70_000, 99_999])),
        )

        outcome = bench.fetch(url=url, digests=digests)

        if isinstance(outcome, Fetched):
            found = bench.publish(outcome)
            assert found in VERSIONS
            if digest:
                assert digests == sha256(found)
            break
        assert failure(outcome)[0] in {"short_body", "checksum_mismatch"}
    bench.disk.close()


# ---------------------------------------------------------------- held against a sums file


def line_of(data: bytes) -> bytes:
    return f"{sha256(data)[0].hex}  a.bin\n".encode()


def test_what_the_sums_file_says_is_proof_of_the_file(bench):
    bench.origin.data = some_bytes(20 * KIB)
    bench.origin.sums = line_of(bench.origin.data)

    outcome = bench.fetch(sums=(SUMS,), verify=Verify.DIGEST)

    assert isinstance(outcome, Fetched)
    assert outcome.intent.verified is Verify.DIGEST
    assert outcome.intent.digests == sha256(bench.origin.data)
    assert [request.url for request in bench.origin.requests] == [SUMS, URL]


def test_other_bytes_than_the_sums_file_says_are_a_mismatch_and_not_kept(bench):
    bench.origin.data = some_bytes(20 * KIB)
    bench.origin.sums = line_of(b"other")

    assert failure(bench.fetch(sums=(SUMS,))) == ("checksum_mismatch", False)
    assert bench.parts == []


def test_without_a_line_nothing_of_the_file_is_asked_for(bench):
    bench.origin.data = b"x"
    bench.origin.sums = line_of(b"x").replace(b"a.bin", b"b.bin")

    assert failure(bench.fetch(sums=(SUMS,))) == ("expectation_failed", False)
    assert [request.url for request in bench.origin.requests] == [SUMS]
    assert bench.parts == []


def test_an_equal_file_costs_no_request_but_the_sums_file(bench):
    (bench.folder / "a.bin").write_bytes(b"as it should be")
    bench.origin.sums = line_of(b"as it should be")

    outcome = bench.fetch(sums=(SUMS,))

    assert isinstance(outcome, UpToDate)
    assert (outcome.how, outcome.digests) == ("digest", sha256(b"as it should be"))
    assert [request.url for request in bench.origin.requests] == [SUMS]


@pytest.mark.parametrize("if_exists", [IfExists.UPDATE, IfExists.OVERWRITE])
def test_a_file_that_is_not_as_the_sums_file_says_is_fetched(bench, if_exists):
    (bench.folder / "a.bin").write_bytes(b"stale")
    bench.origin.data = some_bytes(KIB)
    bench.origin.sums = line_of(bench.origin.data)

    assert isinstance(bench.fetch(sums=(SUMS,), if_exists=if_exists), Fetched)


@pytest.mark.parametrize(
    ("if_exists", "expected"), [(IfExists.SKIP, UpToDate), (IfExists.FAIL, Failure)]
)
def test_whatever_stands_there_is_left_alone_before_the_sums_file_is_asked(
    bench, if_exists, expected
):
    (bench.folder / "a.bin").write_bytes(b"stale")

    assert isinstance(bench.fetch(sums=(SUMS,), if_exists=if_exists), expected)
    assert bench.origin.requests == []


def test_a_part_without_strong_validator_is_resumed_because_the_sums_file_decides(bench):
    bench.origin.data = some_bytes(300 * KIB)
    bench.origin.sums = line_of(bench.origin.data)
    bench.origin.validator = Validator()
    bench.break_off(200 * KIB, sums=(SUMS,))

    outcome = bench.fetch(sums=(SUMS,))

    assert isinstance(outcome, Fetched)
    assert outcome.intent.resumed_from_bytes == 200 * KIB
    assert bench.publish(outcome) == bench.origin.data


def test_who_is_not_wanted_any_more_does_not_wait_for_a_sums_file(bench):
    bench.wanted = False

    assert isinstance(bench.fetch(sums=(SUMS,)), Interrupted)


# ---------------------------------------------------------------- cores


@pytest.mark.parametrize(
    ("size_bytes", "cut_after", "moves"),
    [
        (500 * KIB, None, []),
        (600 * KIB, None, [{1, 2}, {1}]),
        (600 * KIB, 560 * KIB, [{1, 2}, {1}]),
    ],
    ids=["little", "much", "much-and-cut"],
)
def test_who_receives_much_runs_on_any_core_and_at_home_again_after_it(
    bench, size_bytes, cut_after, moves
):
    kept: list[set[int]] = []
    bench.cores = Cores({1, 2}, 1, lambda _, cores: kept.append(set(cores)))
    bench.origin.data = some_bytes(size_bytes)
    bench.origin.cut_after = cut_after

    bench.fetch()

    assert kept == moves


def test_who_hashes_what_is_kept_runs_on_any_core(bench):
    data = some_bytes(100 * KIB)
    bench.origin.data = data
    bench.origin.cut_after = 64 * KIB
    bench.fetch(digests=sha256(data))
    kept: list[set[int]] = []
    bench.cores = Cores({1, 2}, 1, lambda _, cores: kept.append(set(cores)))
    bench.origin.cut_after = None

    outcome = bench.fetch(digests=sha256(data))

    assert isinstance(outcome, Fetched)
    assert kept == [{1, 2}, {1}]


# ---------------------------------------------------------------- a name from the head

UNNAMED_PATH = "./d/get~0123456789abcdef"


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ("b c.iso", "d/b c.iso"),
        (None, "d/a.bin"),
        ("..", "d/a.bin"),
        (".FETCHD", "d/a.bin"),
        ("a\nb", "d/a.bin"),
        ("x" * 256, "d/a.bin"),
    ],
)
def test_d12_the_head_names_the_file_or_else_the_url_and_no_body_is_read(bench, told, path):
    bench.origin = Origin(data=DATA, file_name=told)

    assert bench.fetch(path=UNNAMED_PATH) == Named(path=path)
    assert bench.origin.served_bytes == 0
    assert list(bench.folder.glob("[!.]*")) == []
    (asked,) = bench.origin.requests
    assert (asked.start, asked.unless) == (0, None)


def test_a_file_that_nobody_names_fails_and_says_what_to_do(bench):
    bench.origin = Origin(data=DATA, file_name="..")
    attempt = bench.attempt(path=UNNAMED_PATH)
    spec = replace(attempt.task.spec, sources=("http://h/?id=1",))
    attempt = replace(attempt, task=replace(attempt.task, spec=spec), source=spec.sources[0])
    transfer = Transfer(
        bench.disk, bench.origin, bench.report, bench.clock, Failpoints(), bench.cores
    )

    failure = transfer(attempt)

    assert isinstance(failure, Failure)
    assert (failure.code, failure.transient) == ("bad_item", False)
    assert failure.reason == (
        "the server gives the file no name that can be used, and the URL's last segment is empty; "
        "give a filename"
    )


def test_a_page_that_comes_for_a_file_does_not_name_it(bench):
    bench.origin = Origin(data=DATA, content_type="text/html")

    failure = bench.fetch(path=UNNAMED_PATH)
    bench.origin.file_name = "report.html"
    named = bench.fetch(path=UNNAMED_PATH)

    assert isinstance(failure, Failure)
    assert (failure.code, named) == ("unexpected_html", Named(path="d/report.html"))


def test_an_answer_that_names_a_file_and_wants_to_be_left_alone_is_heard(bench):
    bench.origin = Origin(data=DATA, wish=("http://h:80", 7.0))
    bench.fetch(path=UNNAMED_PATH)

    assert [progress.wish for progress in bench.reports if progress.wish] == [("http://h:80", 7.0)]
