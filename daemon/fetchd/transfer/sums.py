"""Sums files: each fetched once a run, whoever of its tasks comes first, and read by all."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from fetchd.clock import Clock
from fetchd.digests import Digest
from fetchd.digests.sums import Sums
from fetchd.errors import AttemptError, NotWanted, ValueProblem
from fetchd.model import Fetch, Rules, Run
from fetchd.ports import Request, Stream, Transport
from fetchd.transfer.pace import Pace
from fetchd.transfer.verify import SNIFF_BYTES, check_start, check_type
from fetchd.urls import file_name_of, origin_of, path_beside, redact_url

MOST_BYTES = 4 * 1024 * 1024
#: Above this size only so many are read at a time, in whatever number of threads.
SMALL_BYTES = 64 * 1024
MOST_LARGE = 2
#: So many files, of so much memory together, are remembered; those least recently asked for go.
MOST_REMEMBERED = 256
MOST_REMEMBERED_BYTES = 4 * MOST_BYTES
#: So long a final failure is the answer for all who ask; the next one tries again.
REMEMBER_FAILURE_S = 30.0
#: However slowly it comes: others wait for it.
LONGEST_S = 300.0
#: So long a thread waits for what another one does, before it turns to other work.
PATIENCE_S = 1.0

#: So much later it is worth another look whether others are done.
BUSY_DELAY_S = 2.0

_LOOK_S = 0.25
_BUFFER_BYTES = 64 * 1024
_AS_ANY_FILE = Rules()

#: A run, and where to ask with which headers.
_Key = tuple[int, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]]


class SumsBusy(Exception):
    """The sums file cannot be had yet, for reasons of others; ``str()`` says why."""

    def __init__(self, reason: str, delay_s: float = BUSY_DELAY_S) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True)
class _Told:
    """What one URL answered."""

    url: str
    sums: Sums


#: A failure as it is; None: whoever asked had to leave, and one of those who wait has to ask.
_Answer = _Told | AttemptError | None


@dataclass(slots=True)
class _Entry:
    """One sums file of one run. ``run`` itself tells a run from the same one, opened again."""

    run: Run
    answer: Future[_Answer] = field(default_factory=Future)
    weight_bytes: int = 0
    forget_at_s: float = math.inf  # monotonic


class SumsFiles:
    """What publishers say of their files. Any thread; memory is bounded."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        left_alone_s: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        """``left_alone_s``: as in ``ports.Loans``."""
        self._transport = transport
        self._left_alone_s = left_alone_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()  # guarded by _lock
        self._large = threading.BoundedSemaphore(MOST_LARGE)

    def digests_of(
        self, attempt: Fetch, wanted: Callable[[], bool], deadline_s: float | None
    ) -> tuple[Digest, ...]:
        """Return every digest that the attempt's file must have, by its job and its sums file.

        Waits a little while another attempt fetches that, asking ``wanted`` all the time. Raises
        AttemptError (as a file's own transfer does, and expectation_failed), NotWanted, SumsBusy.
        """
        spec = attempt.task.spec
        if not spec.sums:
            return spec.digests
        told = self._told(attempt, wanted, deadline_s)
        source = next((s for s in spec.sources if path_beside(s, told.url)), spec.sources[0])
        # What a server calls its file is what the publisher's line calls it, too.
        name = spec.path.rpartition("/")[2] if spec.named else file_name_of(source)
        try:
            found = told.sums.of(path_beside(source, told.url), name)
            return _together(spec.digests, found)
        except ValueProblem as exc:
            raise _named(AttemptError("expectation_failed", str(exc)), told.url) from None

    def _told(self, attempt: Fetch, wanted: Callable[[], bool], deadline_s: float | None) -> _Told:
        key = _key(attempt)
        while True:
            entry, mine = self._entry(key, attempt.run)
            if mine:
                answer: _Answer = None
                try:
                    answer = self._ask(key, attempt, wanted, deadline_s)
                finally:
                    self._remember(key, entry, answer)
                    entry.answer.set_result(answer)
            else:
                answer = self._wait(entry, attempt.task.spec.sums[0], wanted)
            if isinstance(answer, AttemptError):
                raise _copy(answer)
            if answer is not None:
                return answer
            if not wanted():  # who asked was sent away, and so, most often, are all
                raise NotWanted

    def _entry(self, key: _Key, run: Run) -> tuple[_Entry, bool]:
        """Return the entry of a sums file; True: it is new, and the caller has to fill it."""
        now_s = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.run is not run or now_s >= entry.forget_at_s:
                entry = self._entries[key] = _Entry(run)
                return entry, True
            self._entries.move_to_end(key)
            return entry, False

    def _remember(self, key: _Key, entry: _Entry, answer: _Answer) -> None:
        with self._lock:
            if isinstance(answer, _Told):
                entry.weight_bytes = answer.sums.weight_bytes
            elif answer is not None and not answer.transient:
                entry.forget_at_s = self._clock.monotonic() + REMEMBER_FAILURE_S
            elif self._entries.get(key) is entry:
                del self._entries[key]
            weight_bytes = sum(one.weight_bytes for one in self._entries.values())
            for old, one in list(self._entries.items()):
                if len(self._entries) <= MOST_REMEMBERED and weight_bytes <= MOST_REMEMBERED_BYTES:
                    break
                if one.answer.done():
                    weight_bytes -= one.weight_bytes
                    del self._entries[old]

    def _wait(self, entry: _Entry, url: str, wanted: Callable[[], bool]) -> _Answer:
        until_s = self._clock.monotonic() + PATIENCE_S
        while True:
            try:
                return entry.answer.result(_LOOK_S)
            except TimeoutError:
                if not wanted():
                    raise NotWanted from None
                if self._clock.monotonic() >= until_s:
                    raise SumsBusy(
                        f"the sums file {redact_url(url)} is being fetched for another file"
                    ) from None

    # ------------------------------------------------------------ asking

    def _ask(
        self,
        key: _Key,
        attempt: Fetch,
        wanted: Callable[[], bool],
        deadline_s: float | None,
    ) -> _Told | AttemptError:
        """Ask one place after the other; a failure that may pass goes before one that is final.

        Places that are left alone are not asked. If no other one has the sums, they may: SumsBusy.
        """
        timeouts = attempt.group.rules.timeouts
        failures = []
        shut: dict[str, float] = {}
        for url, headers in key[1]:
            if wait_s := self._left_alone_s(origin_of(url)):
                shut[url] = wait_s
                continue
            request = Request(
                url=url,
                headers=headers,
                connect_s=timeouts.connect_s,
                stall_s=timeouts.stall_s,
                deadline_s=deadline_s,
                share=attempt.share,
            )
            try:
                return self._fetch(request, Pace(timeouts), wanted)
            except AttemptError as exc:
                failure = _named(exc, url)
                if deadline_s is not None and self._clock.monotonic() >= deadline_s:
                    raise failure from None  # the limit of this attempt, and of no other
                failures.append(failure)
        if shut:
            url, wait_s = min(shut.items(), key=lambda one: one[1])
            raise SumsBusy(f"the server of the sums file {redact_url(url)} is left alone", wait_s)
        return next((one for one in failures if one.transient), failures[0])

    def _fetch(self, request: Request, pace: Pace, wanted: Callable[[], bool]) -> _Told:
        name = file_name_of(request.url)
        longest_s = self._clock.monotonic() + LONGEST_S
        with ExitStack() as room:
            with closing(self._transport.open(request, wanted)) as stream:
                _refuse_html(name, stream.content_type, b"")
                if stream.total is None and not stream.framed:
                    raise AttemptError(
                        "length_unknown",
                        "the server tells neither length nor chunks, so a cut would go unseen",
                    )
                _check_size(stream.total or 0)
                body = self._body(stream, request, longest_s, pace, wanted, room)
            _refuse_html(name, None, body)
            try:
                return _Told(request.url, Sums(body, name))
            except ValueProblem as exc:
                raise AttemptError("expectation_failed", str(exc)) from None

    def _body(
        self,
        stream: Stream,
        request: Request,
        longest_s: float,
        pace: Pace,
        wanted: Callable[[], bool],
        room: ExitStack,
    ) -> bytearray:
        """Receive it until ``longest_s``, or as much later as it was held back by a rate.

        ``room`` holds, when it is large, one of the few places for such.
        """
        body = bytearray()
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        told_s = before_s = self._clock.monotonic()
        while got := stream.readinto(buffer):
            now_s = self._clock.monotonic()
            longest_s += stream.held_s
            pace.note(got, now_s - before_s - stream.held_s)
            body += buffer[:got]
            _check_size(len(body))
            if len(body) - got <= SMALL_BYTES < len(body):
                if not self._large.acquire(timeout=PATIENCE_S):
                    raise SumsBusy(
                        f"the sums file {redact_url(request.url)} is large, "
                        f"and {MOST_LARGE} such files are being read"
                    )
                room.callback(self._large.release)
            if now_s >= longest_s or (
                request.deadline_s is not None and now_s >= request.deadline_s
            ):
                raise AttemptError("deadline", "it took too long")
            if now_s - told_s >= _LOOK_S:
                told_s = now_s
                if not wanted():
                    raise NotWanted
            before_s = self._clock.monotonic()
        return body


def _key(attempt: Fetch) -> _Key:
    """Return the key of the attempt's sums file. A job's headers go to its files' origins only."""
    spec, headers = attempt.task.spec, attempt.group.rules.headers
    own = {origin_of(source) for source in spec.sources} if headers else set()
    return attempt.run.id, tuple(
        (url, headers if origin_of(url) in own else ()) for url in spec.sums
    )


def _together(said: tuple[Digest, ...], found: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Return the digests of job and sums file; raises ValueProblem where no file can have both."""
    by_algorithm = {digest.algorithm: digest for digest in said}
    for digest in found:
        other = by_algorithm.setdefault(digest.algorithm, digest)
        if other != digest:
            raise ValueProblem(f"it says {digest}, and `checksum` of the job says {other}")
    return tuple(by_algorithm.values())


def _refuse_html(name: str, content_type: str | None, start: bytes | bytearray) -> None:
    try:
        check_type(name, _AS_ANY_FILE, content_type)
        check_start(name, _AS_ANY_FILE, memoryview(start)[:SNIFF_BYTES])
    except AttemptError as exc:
        raise AttemptError(exc.code, "an HTML page came, often a login or error page") from None


def _check_size(size_bytes: int) -> None:
    if size_bytes > MOST_BYTES:
        raise AttemptError("too_large", f"it has more than {MOST_BYTES} bytes")


def _named(exc: AttemptError, url: str) -> AttemptError:
    """Return the failure as one of the sums file."""
    named = _copy(exc, f"the sums file {redact_url(url)}: {exc.reason}")
    named.origin = exc.origin or origin_of(url)
    return named


def _copy(exc: AttemptError, reason: str | None = None) -> AttemptError:
    """Return the failure anew: one exception is never raised by two threads."""
    copy = AttemptError(
        exc.code,
        reason or exc.reason,
        transient=exc.transient,
        retry_after_s=exc.retry_after_s,
        status=exc.status,
    )
    copy.origin = exc.origin
    return copy
