from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from fetchd.clock import SystemClock
from fetchd.digests import Digest
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import (
    Fetch,
    Item,
    Rules,
    Run,
    Share,
    TaskGroup,
    TaskSpec,
    Timeouts,
    Validator,
)
from fetchd.ports import Request
from fetchd.rates import Rate
from fetchd.transfer import sums as transfer_sums
from fetchd.transfer.sums import (
    LONGEST_S,
    MOST_BYTES,
    MOST_LARGE,
    MOST_REMEMBERED_BYTES,
    PATIENCE_S,
    REMEMBER_FAILURE_S,
    SMALL_BYTES,
    SumsBusy,
    SumsFiles,
)
from fetchd.urls import origin_of, path_beside
from harness import RUN, FakeClock, first_fetch

A, B = Digest("sha256", "ab" * 32), Digest("sha256", "cd" * 32)
ONE, TWO = "http://one.example/r/SHA256SUMS", "http://two.example/m/SHA256SUMS"


@dataclass
class Answer:
    body: bytes = b""
    total: int | None = -1
    framed: bool = True
    content_type: str | None = "text/plain"


class FakeStream:
    start, not_modified, validator, final_url = 0, False, Validator(), "http://final.example/"
    wish: tuple[str, float] | None = None
    file_name: str | None = None

    def __init__(self, answer: Answer, wire: Wire) -> None:
        self.total = len(answer.body) if answer.total == -1 else answer.total
        self.framed = answer.framed
        self.content_type = answer.content_type
        self._left = memoryview(answer.body)
        self._wire = wire
        self.held_s = wire.held_s

    def readinto(self, buffer: memoryview) -> int:
        self._wire.before_read()
        got = min(len(buffer), len(self._left), self._wire.most)
        buffer[:got] = self._left[:got]
        self._left = self._left[got:]
        return got

    def close(self) -> None:
        self._wire.open_streams -= 1


@dataclass
class Wire:
    """A transport whose answers stand by URL: bytes, an Answer, an error, or a function."""

    answers: dict[str, object]
    before_read: Callable[[], None] = lambda: None
    most: int = 1_000_000  # bytes a read
    held_s: float = 0.0  # of each read
    requests: list[Request] = field(default_factory=list)
    open_streams: int = 0

    def open(self, request: Request, wanted: Callable[[], bool]) -> FakeStream:
        self.requests.append(request)
        answer = self.answers[request.url]
        if callable(answer):
            answer = answer(wanted)
        if isinstance(answer, BaseException):
            raise answer
        self.open_streams += 1
        if isinstance(answer, bytes):
            answer = Answer(answer)
        assert isinstance(answer, Answer)
        return FakeStream(answer, self)

    def close(self) -> None:
        pass

    @property
    def asked(self) -> list[str]:
        return [request.url for request in self.requests]


def attempt(
    path: str = "a.iso",
    *,
    sums: tuple[str, ...] = (ONE,),
    digests: tuple[Digest, ...] = (),
    run: Run = RUN,
    sources: tuple[str, ...] | None = None,
    **rules,
) -> Fetch:
    group = TaskGroup(name="g", items=(Item(url="x"),), rules=Rules(**rules))
    if sources is None:
        sources = (f"http://one.example/r/{path}", f"http://two.example/m/{path}")
    spec = TaskSpec(key=path, path=path, sources=sources, digests=digests, sums=sums)
    return first_fetch(group, spec, sources[0], run=run)


class Bench:
    def __init__(self, **answers: object) -> None:
        places = {"one": ONE, "two": TWO}
        self.wire = Wire({places[name]: answer for name, answer in answers.items()})
        self.clock = FakeClock()
        self.shut: dict[str, float] = {}
        self.files = SumsFiles(self.wire, self.clock, lambda origin: self.shut.get(origin, 0.0))
        self.wanted = True

    def of(self, asking: Fetch, deadline_s: float | None = None) -> tuple[Digest, ...]:
        found = self.files.digests_of(asking, lambda: self.wanted, deadline_s)
        assert self.wire.open_streams == 0
        return found

    def failure(self, asking: Fetch, deadline_s: float | None = None) -> AttemptError:
        with pytest.raises(AttemptError) as caught:
            self.of(asking, deadline_s)
        assert self.wire.open_streams == 0
        return caught.value


def lines(**names: Digest) -> bytes:
    return b"".join(f"{d.hex}  {n}\n".encode() for n, d in names.items())


AB = f"{A.hex}  a.iso\n{B.hex}  b.iso\n".encode()
GONE = AttemptError("bad_status", "status 404", status=404)
CUT = AttemptError("short_body", "cut")


def test_a_server_that_is_left_alone_is_not_asked_for_sums():
    bench = Bench(one=AB, two=AB)
    bench.shut = {"http://one.example:80": 40.0, "http://two.example:80": 30.0}

    with pytest.raises(SumsBusy) as caught:
        bench.of(attempt(sums=(ONE, TWO)))

    assert bench.wire.asked == []
    assert caught.value.delay_s == 30.0
    del bench.shut["http://two.example:80"]
    assert bench.of(attempt(sums=(ONE, TWO))) == (A,)
    assert bench.wire.asked == [TWO]


def test_what_one_place_has_not_another_one_that_is_left_alone_may_have():
    bench = Bench(one=GONE, two=AB)
    bench.shut = {"http://two.example:80": 30.0}

    with pytest.raises(SumsBusy):
        bench.of(attempt(sums=(ONE, TWO)))

    bench.shut.clear()
    assert bench.of(attempt(sums=(ONE, TWO))) == (A,)


# ---------------------------------------------------------------- what is said of a file


def test_a_task_without_sums_has_the_digests_of_its_job_and_nothing_is_asked():
    bench = Bench()

    assert bench.of(attempt(sums=(), digests=(A,))) == (A,)
    assert bench.wire.asked == []


def test_the_line_is_that_of_the_path_below_the_sums_file():
    text = f"{A.hex}  amd64/a.iso\n{B.hex}  arm64/a.iso\n".encode()
    bench = Bench(one=text)

    assert bench.of(attempt("amd64/a.iso")) == (A,)
    assert bench.of(attempt("arm64/a.iso")) == (B,)


def test_a_mirror_that_answers_first_speaks_for_all_sources_by_their_paths_there():
    bench = Bench(one=GONE, two=f"{A.hex}  d/a.iso\n{B.hex}  a.iso\n".encode())

    assert bench.of(attempt("d/a.iso", sums=(ONE, TWO))) == (A,)


def test_the_line_of_a_file_that_its_server_has_named_is_that_of_its_name():
    bench = Bench(one=f"{A.hex}  export\n{B.hex}  pub/report.csv\n".encode())
    asking = attempt(sources=("http://one.example/data/export?id=7",))
    spec = replace(asking.task.spec, key="./d/export~1", path="d/report.csv")

    assert bench.of(asking) == (A,)
    assert bench.of(replace(asking, task=replace(asking.task, spec=spec))) == (B,)


def test_names_in_urls_are_decoded():
    bench = Bench(one=f"{A.hex}  a b/c d.iso\n".encode())

    assert bench.of(attempt("a%20b/c%20d.iso?x=y")) == (A,)


@pytest.mark.parametrize(
    ("url", "other", "expected"),
    [
        ("http://h/d/e/x", "http://h/d/S", "e/x"),
        ("http://h/x", "http://h:80/S", "x"),
        ("http://h/%7Eme/x%2Fy", "http://h/~me/S?q=/", "x%2Fy"),
        ("http://h/d/x", "http://h/d/e/S", None),
        ("http://h/dd/x", "http://h/d/S", None),
        ("https://h/x", "http://h/S", None),
        ("http://i/x", "http://h/S", None),
    ],
)
def test_the_path_beside_a_url_is_below_its_folder(url, other, expected):
    assert path_beside(url, other) == expected


def test_checksum_and_sums_must_both_hold():
    bench = Bench(one=AB)
    md5 = Digest("md5", "0" * 32)

    assert bench.of(attempt(digests=(md5,))) == (md5, A)
    assert bench.of(attempt(digests=(A,))) == (A,)
    failure = bench.failure(attempt(digests=(B,)))
    assert (failure.code, failure.transient) == ("expectation_failed", False)
    assert failure.reason == (
        f"the sums file {ONE}: it says {A}, and `checksum` of the job says {B}"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lines(b=A), "no line names 'a.iso'"),
        (AB + f"{B.hex} a.iso".encode(), "its lines give two different sha256 "),
        (b"nothing here\n", "no line of it is a checksum and a name"),
        (b"", "no line of it is a checksum and a name"),
    ],
)
def test_a_file_without_exactly_one_line_fails_for_good_and_says_where(text, reason):
    secret = f"{ONE}?token=secret"
    bench = Bench()
    bench.wire.answers[secret] = text

    failure = bench.failure(attempt(sums=(secret,)))

    assert (failure.code, failure.transient) == ("expectation_failed", False)
    assert failure.reason.startswith(f"the sums file {ONE}?...: {reason}")


# ---------------------------------------------------------------- what may pass for a sums file


@pytest.mark.parametrize(
    ("answer", "code", "transient"),
    [
        (GONE, "bad_status", False),
        (AttemptError("bad_status", "status 503", transient=True), "bad_status", True),
        (Answer(AB, total=None, framed=False), "length_unknown", False),
        (Answer(AB, content_type="text/html; charset=utf-8"), "unexpected_html", False),
        (b"<!doctype html><title>Log in</title>" + AB, "unexpected_html", False),
        (Answer(AB, total=MOST_BYTES + 1), "too_large", False),
        (Answer(b"\n" * (MOST_BYTES + 1), total=None), "too_large", False),
    ],
)
def test_a_sums_file_is_held_to_the_rules_of_files(answer, code, transient):
    failure = Bench(one=answer).failure(attempt())

    assert (failure.code, failure.transient) == (code, transient)
    assert failure.reason.startswith(f"the sums file {ONE}: ")
    assert "expect:" not in failure.reason


def test_chunks_tell_the_end_of_a_sums_file_too():
    assert Bench(one=Answer(AB, total=None, framed=True)).of(attempt()) == (A,)


def test_n05_one_that_drips_is_given_up_after_the_time_that_a_stall_may_last():
    bench = Bench(one=b"\n" * 1_000_000 + AB)
    bench.wire.most = 1000
    bench.wire.before_read = lambda: bench.clock.advance(1.0)
    began_s = bench.clock.monotonic()

    failure = bench.failure(attempt(timeouts=Timeouts(stall_s=10.0, stall_bytes_per_s=1024)))

    assert (failure.code, failure.transient) == ("too_slow", True)
    assert failure.reason.startswith(f"the sums file {ONE}: 10000 bytes in 10.0 s are fewer")
    assert bench.clock.monotonic() - began_s == 10.0


def test_one_that_comes_too_slowly_is_given_up():
    bench = Bench(one=b"\n" * 1_000_000 + AB)
    bench.wire.before_read = lambda: bench.clock.advance(LONGEST_S / 5)

    assert (bench.failure(attempt()).code, len(bench.wire.asked)) == ("deadline", 1)


def test_one_that_a_rate_holds_back_may_take_as_much_longer():
    bench = Bench(one=b"\n" * 1_000_000 + AB)
    bench.wire.before_read = lambda: bench.clock.advance(LONGEST_S + 5)
    bench.wire.held_s = LONGEST_S

    assert bench.of(attempt()) == (A,)


def test_the_origins_wish_to_wait_reaches_the_attempt():
    busy = AttemptError("bad_status", "status 429", transient=True, retry_after_s=7.0)

    failure = Bench(one=busy).failure(attempt())
    assert (failure.retry_after_s, failure.origin) == (7.0, origin_of(ONE))


def test_the_request_keeps_to_the_rules_of_the_task():
    headers = (("X-Client", "lab"),)
    bench = Bench(one=GONE, two=AB)
    share = Share(name="run 1", rate=Rate(always=5000))
    asking = replace(
        attempt(sums=(ONE, TWO), sources=("http://one.example/r/a.iso",), headers=headers),
        share=share,
    )

    bench.of(asking, bench.clock.monotonic() + 5)

    first, second = bench.wire.requests
    assert (first.headers, second.headers) == (headers, ())  # two.example is none of its origins
    assert (first.connect_s, first.stall_s, first.start) == (10.0, 30.0, 0)
    assert first.deadline_s == second.deadline_s == bench.clock.monotonic() + 5
    assert first.share == second.share == share


# ---------------------------------------------------------------- places in their order


def test_the_first_place_that_answers_is_the_only_one_asked_in_a_run():
    bench = Bench(one=AB, two=lines(wrong=B))

    assert bench.of(attempt("a.iso", sums=(ONE, TWO))) == (A,)
    assert bench.of(attempt("b.iso", sums=(ONE, TWO))) == (B,)
    assert bench.wire.asked == [ONE]


@pytest.mark.parametrize("first", [GONE, CUT, b"nothing", Answer(AB, content_type="text/html")])
def test_the_next_place_is_asked_when_one_has_no_sums_file(first):
    bench = Bench(one=first, two=AB)

    assert bench.of(attempt(sums=(ONE, TWO))) == (A,)
    assert bench.of(attempt("b.iso", sums=(ONE, TWO))) == (B,)
    assert bench.wire.asked == [ONE, TWO]


@pytest.mark.parametrize(
    ("one", "two", "code"), [(GONE, CUT, "short_body"), (CUT, GONE, "short_body")]
)
def test_a_failure_that_may_pass_goes_before_one_that_is_final(one, two, code):
    failure = Bench(one=one, two=two).failure(attempt(sums=(ONE, TWO)))

    assert (failure.code, failure.transient) == (code, True)


def test_a_sums_file_that_is_not_there_says_so_by_its_status_which_may_be_waited_for():
    assert Bench(one=GONE).failure(attempt()).status == 404


# ---------------------------------------------------------------- once a run


def test_a_final_failure_is_the_answer_for_a_while_and_a_passing_one_is_not():
    bench = Bench(one=GONE)
    for _ in range(100):
        bench.failure(attempt())
    assert len(bench.wire.asked) == 1

    bench.clock.advance(REMEMBER_FAILURE_S)
    bench.wire.answers[ONE] = CUT
    bench.failure(attempt())
    bench.failure(attempt())
    bench.wire.answers[ONE] = AB

    assert bench.of(attempt()) == (A,)
    assert len(bench.wire.asked) == 4


def test_every_run_asks_for_itself_and_so_does_one_that_is_opened_again():
    bench = Bench(one=AB)
    bench.of(attempt())
    bench.wire.answers[ONE] = lines(**{"a.iso": B})

    assert bench.of(attempt()) == (A,)
    assert bench.of(attempt(run=replace(RUN, id=2))) == (B,)
    assert bench.of(attempt(run=replace(RUN))) == (B,)  # `NAME.retry`: the same number, anew
    assert len(bench.wire.asked) == 3


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first(monkeypatch):
    monkeypatch.setattr(transfer_sums, "MOST_REMEMBERED", 3)
    bench = Bench()
    urls = [f"{ONE}.{n}" for n in range(5)]
    bench.wire.answers.update(dict.fromkeys(urls, AB))

    for url in (*urls[:3], urls[0], urls[3], urls[0], urls[1]):
        bench.of(attempt(sums=(url,)))

    assert bench.wire.asked == [*urls[:4], urls[1]]
    assert len(bench.files._entries) == 3


def test_large_ones_push_out_more(monkeypatch):
    monkeypatch.setattr(transfer_sums, "MOST_REMEMBERED_BYTES", 3 * len(AB))
    bench = Bench(one=AB * 3)
    small = [f"{ONE}.{n}" for n in range(3)]
    bench.wire.answers.update(dict.fromkeys(small, AB))

    for url in (*small, ONE):
        bench.of(attempt(sums=(url,)))

    assert [key[1][0][0] for key in bench.files._entries] == [ONE]


# ---------------------------------------------------------------- threads


class Gate:
    """An answer that is held back; ``came`` is set once somebody asked."""

    def __init__(self, *answers: object) -> None:
        self.came = threading.Event()
        self.open = threading.Event()
        self._answers = list(answers)

    def __call__(self, wanted: Callable[[], bool]) -> object:
        self.came.set()
        while not self.open.wait(0.005):
            if not wanted():
                raise NotWanted
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Crowd:
    """Attempts on threads of their own; each may be called off by its number."""

    def __init__(self, answer: object) -> None:
        self.wire = Wire({ONE: answer})
        self.files = SumsFiles(self.wire, SystemClock())
        self.off: set[int] = set()
        self.pool = ThreadPoolExecutor(32)

    def ask(self, number: int, deadline_s: float | None = None):
        if deadline_s is not None:
            deadline_s += time.monotonic()
        return self.pool.submit(
            self.files.digests_of, attempt(), lambda: number not in self.off, deadline_s
        )

    def close(self) -> None:
        self.off.update(range(32))
        self.pool.shutdown()


@pytest.fixture
def crowd():
    made: list[Crowd] = []

    def make(answer: object) -> Crowd:
        made.append(Crowd(answer))
        return made[0]

    yield make
    made[0].close()


def test_one_asks_and_all_who_wait_hear_it(crowd):
    gate = Gate(AB)
    those = crowd(gate)
    waiting = [those.ask(n) for n in range(20)]
    assert gate.came.wait(5)
    gate.open.set()

    assert [one.result(5) for one in waiting] == [(A,)] * 20
    assert those.wire.asked == [ONE]


@pytest.mark.parametrize("failed", [GONE, CUT])
def test_those_who_wait_share_a_failure_too(crowd, failed):
    gate = Gate(failed)
    those = crowd(gate)
    waiting = [those.ask(0)]
    assert gate.came.wait(5)
    waiting += [those.ask(n) for n in range(1, 10)]
    time.sleep(0.05)
    gate.open.set()
    errors = [one.exception(5) for one in waiting]

    assert {error.code for error in errors} == {failed.code}
    assert len({id(error) for error in errors}) == 10
    assert those.wire.asked == [ONE]


def test_who_waits_can_be_called_off_and_the_others_wait_on(crowd):
    gate = Gate(AB)
    those = crowd(gate)
    first = those.ask(0)
    assert gate.came.wait(5)
    second, third = those.ask(1), those.ask(2)
    those.off.add(1)

    assert isinstance(second.exception(5), NotWanted)
    gate.open.set()
    assert first.result(5) == third.result(5) == (A,)
    assert those.wire.asked == [ONE]


def test_when_the_one_that_asks_is_called_off_another_asks(crowd):
    gate = Gate(AB)
    those = crowd(gate)
    first = those.ask(0)
    assert gate.came.wait(5)
    others = [those.ask(n) for n in range(1, 5)]
    time.sleep(0.05)
    those.off.add(0)

    assert isinstance(first.exception(5), NotWanted)
    gate.open.set()
    assert [one.result(5) for one in others] == [(A,)] * 4
    assert those.wire.asked == [ONE, ONE]


def test_when_all_are_called_off_nobody_asks_again(crowd):
    those = crowd(Gate(AB))
    waiting = [those.ask(n) for n in range(8)]
    time.sleep(0.05)
    those.off.update(range(8))

    assert all(isinstance(one.exception(5), NotWanted) for one in waiting)
    assert those.wire.asked == [ONE]


def test_who_waits_turns_to_other_work_after_a_little_while(crowd):
    gate = Gate(AB)
    those = crowd(gate)
    first = those.ask(0)
    assert gate.came.wait(5)
    began_s = time.monotonic()

    error = those.ask(1).exception(5)

    assert time.monotonic() - began_s < PATIENCE_S + 1
    assert isinstance(error, SumsBusy)
    assert str(error) == f"the sums file {ONE} is being fetched for another file"
    gate.open.set()
    assert first.result(5) == (A,)


def test_many_large_sums_files_at_a_time_take_bounded_memory(crowd):
    large = b"".join(b"CRC32C(%x/%x)=%08x\n" % (n & 15, n, n) for n in range(10_000))
    large += b"#" * (MOST_BYTES - len(large))
    those = crowd(large)
    those.wire.before_read = lambda: time.sleep(0.001)  # so that all come at a time
    urls = [f"{ONE}.{n}" for n in range(16)]
    those.wire.answers.update(dict.fromkeys(urls, large))

    def ask(url):
        while True:
            with suppress(SumsBusy):
                asking = attempt("f/f", sums=(url,))
                return those.files.digests_of(asking, lambda: True, None)

    tracemalloc.start()
    try:
        found = list(those.pool.map(ask, urls))
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found == [(Digest("crc32c", "0000000f"),)] * 16
    assert kept_bytes < MOST_REMEMBERED_BYTES + 4 * 1024 * 1024
    assert peak_bytes < 40 * 1024 * 1024


@pytest.mark.parametrize("end", [None, CUT])
def test_few_large_ones_are_read_at_a_time_and_small_ones_beside_them(crowd, end):
    large = AB + b"#" * (2 * SMALL_BYTES)
    those = crowd(AB)
    urls = [f"{ONE}.{n}" for n in range(MOST_LARGE + 1)]
    those.wire.answers.update(dict.fromkeys(urls, large))
    inside, go_on, thread = threading.Semaphore(0), threading.Event(), threading.local()

    def hold_large() -> None:
        thread.reads += 1
        if thread.reads == 3 and not go_on.is_set():
            inside.release()
            assert go_on.wait(5)
            if end:
                raise end

    def ask(url: str):
        def digests():
            thread.reads = 0
            return those.files.digests_of(attempt(sums=(url,)), lambda: True, None)

        return those.pool.submit(digests)

    those.wire.before_read = hold_large
    held = [ask(url) for url in urls[:-1]]
    assert all(inside.acquire(timeout=5) for _ in held)

    assert ask(ONE).result(5) == (A,)
    assert "is large" in str(ask(urls[-1]).exception(5))
    go_on.set()
    assert [one.exception(5) is None for one in held] == [end is None] * MOST_LARGE
    assert ask(urls[-1]).result(5) == (A,)


def test_the_deadline_of_the_one_that_asks_is_not_that_of_the_others(crowd):
    class Late(Gate):
        def __call__(self, wanted):
            if not self.came.is_set():
                super().__call__(wanted)
                time.sleep(0.05)
                return AttemptError("deadline", "over")
            return AB

    gate = Late(AB)
    those = crowd(gate)
    first = those.ask(0, deadline_s=0.05)
    assert gate.came.wait(5)
    second = those.ask(1)
    time.sleep(0.05)
    gate.open.set()

    assert first.exception(5).code == "deadline"
    assert second.result(5) == (A,)


def test_an_error_that_nobody_foresaw_leaves_no_one_waiting(crowd):
    gate = Gate(RuntimeError("broken"), AB)
    those = crowd(gate)
    first = those.ask(0)
    assert gate.came.wait(5)
    second = those.ask(1)
    time.sleep(0.05)
    gate.open.set()

    assert isinstance(first.exception(5), RuntimeError)
    assert second.result(5) == (A,)
