"""What would come of one task: the questions of an attempt, and none of its bytes.

A source is asked by GET for the first byte alone. HEAD is another way through many servers, and
what it answers another answer; whether ranges are given is shown by giving one; and a connection on
which one byte came may be used again. A server that sends the whole file instead is cut off behind
its first kilobyte, and one that cannot be asked so is asked for the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

from fetchd.clock import Clock
from fetchd.digests import Digest
from fetchd.errors import AttemptError, NotWanted, StoreError
from fetchd.model import Fetch, FileRecord, UpToDate, Validator
from fetchd.plan.report import Hop, Source, Standing, SumsFile, TaskPlan, Verdict
from fetchd.plan.rounds import Origins
from fetchd.ports import Disk, Heard, OtherRange, RangeRefused, Request, Stream, Transport
from fetchd.secrets import hide
from fetchd.transfer.naming import named_path
from fetchd.transfer.resume import contradicts, is_strong
from fetchd.transfer.standing import Standing as StandingFile
from fetchd.transfer.standing import StandingTree
from fetchd.transfer.sums import SumsBusy, SumsFiles
from fetchd.transfer.verify import (
    SNIFF_BYTES,
    check_magic,
    check_size,
    check_start,
    check_type,
    grade,
    rules_of,
)
from fetchd.transfer.watch import Watch
from fetchd.urls import origin_of, redact_url

#: What stands at a destination is read for its digest up to this size.
MOST_HASHED_BYTES = 256 * 1024 * 1024
#: Of a file more sources are not asked.
MOST_SOURCES = 8
#: However slowly an answer comes, with all of its redirects.
LONGEST_S = 60.0

#: How servers say that they do not like to be asked for a part of a file.
_NO_RANGES = frozenset({400, 405, 406, 412, 416, 501})
#: "Not there yet", where the job waits for it.
_ABSENT = frozenset({403, 404, 410})
_UNREACHED = frozenset(
    {"connect_failed", "dns_failed", "tls_broken", "proxy_failed", "stalled", "deadline"}
)


class _TooLarge(Exception):
    """What stands is not read to its end for a plan."""


class Wire:
    """What all tasks ask by. Any thread. ``wanted``: whether anybody waits for the answers."""

    def __init__(
        self,
        disk: Disk,
        transport: Transport,
        origins: Origins,
        clock: Clock,
        wanted: Callable[[], bool],
        record_of: Callable[[str, str], FileRecord | None],
    ) -> None:
        """``record_of``: what is known of a file, by root and path; raises StoreError."""
        self.disk = disk
        self.transport = transport
        self.origins = origins
        self.clock = clock
        self.wanted = wanted
        self.record_of = record_of
        self.sums = SumsFiles(transport, clock, origins.left_alone_s)

    def note(self, url: str, exc: AttemptError | None) -> None:
        """Take in how an origin has answered, and leave it alone if it asks for that."""
        origin = origin_of(url)
        self.origins.note(origin, reached=exc is None or exc.code not in _UNREACHED)
        if exc is not None and exc.status is not None and exc.retry_after_s:
            why = f"it asks to be left alone for {exc.retry_after_s:.0f} s (status {exc.status})"
            for name in {origin, exc.origin or origin}:
                self.origins.leave_alone(name, exc.retry_after_s, why)


class TaskLook:
    """One task, looked into round by round; in each by one thread at a time for each source."""

    def __init__(self, wire: Wire, attempt: Fetch) -> None:
        self.attempt = attempt
        self._wire = wire
        self._spec = attempt.task.spec
        self._path = self._spec.path  # of a file that its server names: from its answer on
        self._rules = rules_of(attempt)
        self._watch = Watch(attempt, wire.clock, lambda *_: wire.wanted())
        self._wanted: tuple[Digest, ...] = self._spec.digests
        self._failed: AttemptError | None = None
        self._unknown = ""
        self._sums: SumsFile | None = None
        self._standing: Standing | None = None
        self._good: UpToDate | None = None
        self._unless: tuple[str, Validator] | None = None  # of this source
        self._sources: dict[int, Source] = {}

    # ------------------------------------------------------------ the rounds

    def ask_sums(self) -> None:
        """Ask for the sums file, or read it if another task has asked."""
        url = redact_url(self._spec.sums[0])
        deadline_s = self._wire.clock.monotonic() + LONGEST_S
        try:
            self._wanted = self._wire.sums.digests_of(self.attempt, self._wire.wanted, deadline_s)
            self._sums = SumsFile(url=url, found=True)
            self._wire.note(self._spec.sums[0], None)
        except SumsBusy as exc:
            self.skip_sums(str(exc))
        except NotWanted:
            self.skip_sums("interrupted")
        except AttemptError as exc:
            self._wire.note(self._spec.sums[0], exc)
            self._failed = exc
            self._sums = SumsFile(url=url, found=False, reason=hide(exc.reason))

    def skip_sums(self, why: str) -> None:
        url = redact_url(self._spec.sums[0])
        self._sums = SumsFile(url=url, found=False, reason=f"not asked: {why}")
        self._unknown = f"the sums file {url} was not asked: {why}"

    def look(self) -> None:
        """See what stands at the destination, and what is known of it."""
        if self._failed is not None or self._spec.unnamed:
            return
        try:
            self._look()
        except AttemptError as exc:
            self._failed = exc

    def sources_to_ask(self) -> range:
        """Return the numbers of the sources whose answers matter."""
        decided = self._failed is not None or self._good is not None
        return range(0 if decided else min(MOST_SOURCES, len(self._spec.sources)))

    def skip(self, number: int, why: str) -> None:
        """Note that a source was not asked."""
        url = self._spec.sources[number]
        self._sources[number] = Source(url=redact_url(url), asked=False, reason=why)

    def ask(self, number: int, *, whole: bool = False) -> bool:
        """Ask a source; False: it has to be asked again, for the ``whole`` file."""
        url, heard = self._spec.sources[number], list[Heard]()
        conditional = self._unless is not None and self._unless[0] == url
        timeouts = self._rules.timeouts
        request = Request(
            url=url,
            stop=None if whole else 1,
            unless=self._unless[1] if self._unless is not None and conditional else None,
            headers=self._rules.headers,
            connect_s=timeouts.connect_s,
            stall_s=timeouts.stall_s,
            deadline_s=self._wire.clock.monotonic() + LONGEST_S,
            heard=heard.append,
        )
        try:
            with closing(self._wire.transport.open(request, self._wire.wanted)) as stream:
                self._wire.note(url, None)
                if stream.wish is not None:
                    self._wire.origins.leave_alone(*stream.wish, "its quota is used up")
                if _is_partial(heard) and stream.total is None:
                    return False  # the whole may tell its length
                self._sources[number] = self._judged(url, stream, heard, request.unless)
        except RangeRefused:
            return False
        except NotWanted:
            self.skip(number, "interrupted")
        except AttemptError as exc:
            if not whole and (isinstance(exc, OtherRange) or exc.status in _NO_RANGES):
                return False
            self._wire.note(url, exc)
            self._sources[number] = _failed(_answered(url, heard), exc)
        return True

    # ------------------------------------------------------------ the answer

    def plan(self) -> TaskPlan:
        sources = tuple(self._sources[number] for number in sorted(self._sources))
        verdict, code, reason = self._verdict(sources)
        size = self._spec.size_bytes
        if size is None:
            told = (source.size_bytes for source in sources if not source.code)
            size = next((one for one in told if one is not None), None)
        if self._good is not None:
            size = self._good.size_bytes
        return TaskPlan(
            task=self.attempt.group.name,
            root=self._rules.root,
            path=self._path,
            verdict=verdict,
            code=code,
            reason=hide(reason),
            may_fail=self.attempt.group.may_fail,
            size_bytes=size,
            checksums=tuple(map(str, self._wanted)),
            sums=self._sums,
            standing=self._standing,
            sources=sources,
            sources_left_out=max(0, len(self._spec.sources) - MOST_SOURCES),
        )

    def _verdict(self, sources: tuple[Source, ...]) -> tuple[Verdict, str, str]:
        if self._good is not None:
            return Verdict.UP_TO_DATE, "", _HOW[self._good.how]
        if self._failed is not None:
            return Verdict.FAIL, self._failed.code, self._failed.reason
        usable = [source for source in sources if source.asked and not source.code]
        if any(source.unchanged for source in usable):
            return Verdict.UP_TO_DATE, "", _HOW["not_modified"]
        if self._unknown:
            return Verdict.UNKNOWN, "", self._unknown
        if usable:
            sizes = {source.size_bytes for source in usable} - {None}
            if len(sizes) > 1:
                return Verdict.FETCH, "", "its sources have files of different sizes"
            named = "its server has named it, so what stands there was not looked at"
            return Verdict.FETCH, "", named if self._spec.unnamed else ""
        failed = [source for source in sources if source.code]
        if len(failed) < len(sources) or not failed:
            why = next((source.reason for source in sources if not source.code), "not asked")
            return Verdict.UNKNOWN, "", why
        wait_s = self._rules.retry.wait_for_s
        if wait_s is not None and all(map(_is_absent, failed)):
            return Verdict.WAIT, failed[0].code, failed[0].reason
        return Verdict.FAIL, failed[0].code, failed[0].reason

    # ------------------------------------------------------------ what stands

    def _look(self) -> None:
        disk, rules, path = self._wire.disk, self._rules, self._spec.path
        try:
            previous, unknown = self._wire.record_of(rules.root, path), ""
        except StoreError as exc:
            previous, unknown = None, str(exc)
        # A file is asked about by its version only where it came from.
        known = previous is not None and previous.url in self._spec.sources
        source = previous.url if previous is not None and known else self._spec.sources[0]
        self.attempt = replace(self.attempt, previous=previous, source=source)
        standing: StandingFile | StandingTree | None
        if self.attempt.group.steps:
            standing = StandingTree.of(disk, self.attempt)
            size_bytes = previous.size_bytes if previous else 0
        else:
            found = disk.existing(rules.root, path)
            if found is None:
                return
            size_bytes = found.size_bytes
            standing = StandingFile(disk, self.attempt, rules, found, _read_a_little)
        if standing is None:
            return
        reason = "would be replaced"
        try:
            self._good = standing.unconditional()
            if self._good is None and not self._unknown:
                good = standing.consider_update(self._wanted, _no_matter)
                if isinstance(good, UpToDate):
                    self._good = good
                elif good is not None:
                    self._unless, reason = (source, good), "is asked about by its version"
                elif unknown and not self._wanted:
                    reason = f"what is known of it is not at hand ({unknown}), so it may be asked"
        except _TooLarge:
            reason = "would be read for its digest first, which is not done here"
        if self._good is not None:
            reason = _HOW[self._good.how]
        self._standing = Standing(size_bytes=size_bytes, reason=reason)

    # ------------------------------------------------------------ what is answered

    def _judged(
        self, url: str, stream: Stream, heard: list[Heard], unless: Validator | None
    ) -> Source:
        said = stream.validator
        weak = said.etag is not None or said.last_modified is not None
        source = replace(
            _answered(url, heard),
            size_bytes=stream.total,
            ranges=_is_partial(heard) if heard else None,
            validator="strong" if is_strong(said) else "weak" if weak else "none",
            content_type=None if stream.content_type is None else hide(stream.content_type),
        )
        if stream.not_modified:
            same = unless is not None and not contradicts(unless, said)
            return replace(source, ranges=None, unchanged=same)
        try:
            self._check(stream, partial=not heard or _is_partial(heard))
        except AttemptError as exc:
            return _failed(source, exc)
        return source

    def _check(self, stream: Stream, *, partial: bool) -> None:
        """Refuse as an attempt would by the head, and by the first bytes where they came."""
        rules = self._rules
        path = named_path(self.attempt, stream.file_name) if self._spec.unnamed else self._path
        self._path = path
        check_type(path, rules, stream.content_type)
        grade(rules, self._wanted, delimited=stream.total is not None or stream.framed)
        if stream.total is not None:
            check_size(rules, stream.total)
            self._watch.check_limits(stream.total)
        start, got = memoryview(bytearray(SNIFF_BYTES)), 0
        while got < SNIFF_BYTES and (more := self._watch.read(stream, start[got:])):
            got += more
        if not partial:
            check_start(path, rules, start[:got])
            check_magic(rules, start[:got], 0)


_HOW = {
    "present": "is there, which is enough by `if_exists: skip`",
    "digest": "has the digest that is asked for",
    "not_modified": "is the current version, as its server says",
}


def _read_a_little(_read_bytes: int, size_bytes: int) -> None:
    if size_bytes > MOST_HASHED_BYTES:
        raise _TooLarge


def _no_matter() -> None:
    pass


def _is_partial(heard: list[Heard]) -> bool:
    return bool(heard) and heard[-1].status == 206


def _answered(url: str, heard: list[Heard]) -> Source:
    """Return a source with all that was heard on the way: the last of it is its own answer."""
    return Source(
        url=redact_url(url),
        asked=True,
        status=heard[-1].status if heard else None,
        hops=tuple(
            Hop(url=to.url, status=at.status, withheld=to.withheld) for at, to in pairwise(heard)
        ),
    )


def _is_absent(source: Source) -> bool:
    return source.status in _ABSENT or source.code == "not_found"


def _failed(source: Source, exc: AttemptError) -> Source:
    return replace(
        source,
        code=exc.code,
        reason=hide(exc.reason),
        transient=exc.transient,
        retry_after_s=exc.retry_after_s,
    )
