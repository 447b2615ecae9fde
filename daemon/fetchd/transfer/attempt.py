"""One attempt: from what stands on the disk and what the origin sends to a verified part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

from fetchd.clock import Clock, Failpoints
from fetchd.cores import Cores
from fetchd.dates import http_date_s
from fetchd.digests import Hashes
from fetchd.errors import DISK_WAITS, AttemptError, NotWanted, let_go
from fetchd.model import (
    Attempt,
    Deferred,
    Dossier,
    Failure,
    Fetch,
    Fetched,
    IfExists,
    Intent,
    Interrupted,
    Outcome,
    Progress,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import (
    Disk,
    Loans,
    OtherRange,
    Part,
    PartBusy,
    PartJournal,
    RangeRefused,
    Request,
    Stream,
    Transport,
)
from fetchd.secrets import hide, hide_in_start
from fetchd.threads import Worker
from fetchd.transfer.crew import Crew, Lending, Mismatch
from fetchd.transfer.pace import Pace
from fetchd.transfer.resume import WHOLE, Plan, contradicts, is_strong, plan, rest_of
from fetchd.transfer.segments import LEAST_BYTES, Growth, Range, Tiling
from fetchd.transfer.standing import Standing
from fetchd.transfer.sums import SumsBusy, SumsFiles
from fetchd.transfer.verify import (
    SNIFF_BYTES,
    check_digests,
    check_magic,
    check_size,
    check_start,
    check_type,
    expected_of,
    fits_magic,
    grade,
    text_of,
)
from fetchd.urls import local_path

CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_S = 5.0

_BUFFER_BYTES = 1024 * 1024
_REPORT_S = 0.25
_LITTLE_BYTES = 512 * 1024  # up to here a file is fetched at home
_DISK_DELAY_S = 30.0
_BUSY_DELAY_S = 5.0
_SUMS_DELAY_S = 2.0
#: The latest date that a file gets from its origin: all file systems know it, and the store too.
_LATEST_S = 2.0**32
#: How much a dossier tells of the content, and of what the origin said in a head.
_START_BYTES = 64
_LONGEST_TEXT = 1000
#: Given up of a part on a full disk, so that its journal finds room.
_JOURNAL_ROOM_BYTES = 64 * 1024
#: With these it is the content that is refused, and a dossier says what it was.
_REFUSALS = {"checksum_mismatch", "bad_size", "expectation_failed", "unexpected_html"}
#: What an origin that has served the file before may answer to a link that has expired.
_EXPIRED = {401, 403, 410}
#: With these the bytes that an attempt has written are of no use to the next one.
_WORTHLESS = {"checksum_mismatch", "bad_size", "expectation_failed", "too_large"}


class Transfer:
    """Works on attempts of stage fetch. Any number of threads, each with a buffer of its own.

    ``transport`` opens URLs of every scheme; ``report`` is ``WorkSource.report``.
    """

    def __init__(
        self,
        disk: Disk,
        transport: Transport,
        report: Callable[[Attempt, Progress], bool],
        clock: Clock,
        failpoints: Failpoints,
        cores: Cores,
        loans: Loans | None = None,
    ) -> None:
        """``loans`` None: no file gets more than one connection."""
        self.disk = disk
        self.transport = transport
        self.report = report
        self.loans = loans
        self.clock = clock
        self.failpoints = failpoints
        self.cores = cores
        self.sums = SumsFiles(transport, clock)
        self.segments: set[Worker] = set()  # each call is one step of the interpreter
        self._local = threading.local()

    def __call__(self, attempt: Fetch) -> Outcome:
        """Carry one attempt out. Exceptions that are not the attempt's own pass up."""
        work = _Fetch(self, attempt)
        try:
            return work.run()
        except NotWanted as exc:
            let_go(exc)
            return Interrupted()
        except PartBusy as exc:
            let_go(exc)
            return Deferred(reason="same_dest", detail=str(exc), delay_s=_BUSY_DELAY_S)
        except SumsBusy as exc:
            return Deferred(reason="sums", detail=str(exc), delay_s=_SUMS_DELAY_S)
        except AttemptError as exc:
            let_go(exc)
            if exc.code in DISK_WAITS and not work.overflowed:
                return Deferred(
                    reason="disk",
                    detail=exc.reason,
                    delay_s=_DISK_DELAY_S,
                    elsewhere=work.elsewhere and exc.code == "disk_full",
                    home=work.home or self._home(attempt),
                )
            return Failure(
                code=exc.code,
                reason=hide(exc.reason),
                transient=exc.transient,
                retry_after_s=exc.retry_after_s,
                progressed=work.progressed,
                dossier=work.dossier,
                status=exc.status,
                origin=exc.origin,
            )
        finally:
            if work.spread:
                self.cores.gather()

    def threads(self) -> list[Worker]:
        """Return the running threads, for the check of their liveness."""
        return [worker for worker in self.segments.copy() if worker.alive()]

    def _home(self, attempt: Fetch) -> str:
        """Return where a part is that could not be opened: whose room, or right, is missing."""
        with suppress(AttemptError):
            return self.disk.home(attempt.group.rules.root, attempt.task.spec.path)
        return ""

    @property
    def buffer(self) -> memoryview:
        """The calling thread's buffer, used again by each of its attempts."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(_BUFFER_BYTES))
        return buffer


class _Fetch:
    """The attempt under way. One thread.

    A method that meets the end of the attempt returns its Outcome; None means: go on.
    """

    _part: Part  # from open_part on
    _journal: PartJournal  # what a checkpoint says, but for the length; from _receive on
    _resumable: bool

    def __init__(self, transfer: Transfer, attempt: Fetch) -> None:
        self.progressed = False
        self.overflowed = False  # bytes without an announced end met a full disk
        self.elsewhere = False  # the disk is too full for this source, perhaps not for another
        self.home = ""  # of the part's file system
        self.spread = False  # the thread may use all cores
        self.dossier: Dossier | None = None
        self._transfer = transfer
        self._attempt = attempt
        self._clock = transfer.clock
        self._buffer = transfer.buffer
        self._rules = attempt.group.rules
        self._path = attempt.task.spec.path
        self._wanted = attempt.task.spec.digests
        self._hashes = self._new_hashes()
        self._began_s = self._reported_s = self._clock.monotonic()
        attempt_s = self._rules.timeouts.attempt_s
        self._deadline_s = None if attempt_s is None else self._began_s + attempt_s
        self._unless: Validator | None = None
        self._total_bytes: int | None = None
        self._resumed_from_bytes = 0
        self._received_bytes = 0
        self._gives_ranges: bool | None = None  # as in Fetched
        self._answered = False  # a head came, with a body to receive
        self._wrote = False  # the part holds bytes of this attempt
        self._start = b""  # the first bytes that came, written or not
        self._ended = False  # the body came to its end
        self._marked_bytes = 0  # the part's length at the last checkpoint, or when one was due
        self._marked_s = self._began_s
        self._pace = Pace(self._rules.timeouts)
        self._ranges: tuple[Range, ...] = ()  # what the part has behind its front
        self._crew: Crew | None = None
        self._one_stream = False  # several connections have met a mismatch

    def run(self) -> Outcome:
        spec = self._attempt.task.spec
        if self._rules.verify is Verify.DIGEST and not (spec.digests or spec.sums):
            raise AttemptError(
                "expectation_failed",
                "`verify: digest` asks for a checksum and the job gives none for this file",
            )
        disk = self._transfer.disk
        found = disk.existing(self._rules.root, self._path)
        standing = None
        if found is not None:
            standing = Standing(disk, self._attempt, found, self._tell_hashed)
        if standing is not None and (outcome := standing.unconditional()):
            return outcome
        if spec.sums:
            self._wanted = self._transfer.sums.digests_of(
                self._attempt, self._is_wanted_before_part, self._deadline_s
            )
            self._hashes = self._new_hashes()
        if standing is not None:
            good = standing.consider_update(self._wanted, self._spread)
            if isinstance(good, UpToDate):
                return good
            self._unless = good
        file = None if standing is None else local_path(self._attempt.source)
        if file is not None and disk.is_destination(self._rules.root, self._path, file):
            raise AttemptError(
                "source_denied",
                "the file would be copied onto itself; choose another dest or filename",
            )
        with disk.open_part(self._rules.root, self._path) as part:
            self._part = part
            self.home = part.home
            self._ranges = part.journal.ranges if part.journal else ()
            began_bytes = self._durable_bytes
            try:
                return self._fetch()
            except (AttemptError, NotWanted) as exc:
                self._leave(exc)
                self.progressed = self._durable_bytes > began_bytes
                raise

    # ------------------------------------------------------------ asking

    def _fetch(self) -> Outcome:
        part = self._part
        if not self._kept_passes():
            self._truncate()
        asked = plan(part.journal, self._attempt.source, digest_decides=bool(self._wanted))
        complete = part.journal is not None and part.journal.total == part.size_bytes
        if self._wanted and part.size_bytes and (asked.start or complete):
            # Before connecting: no origin waits patiently while gigabytes are read.
            self._hash_part()
            if complete and self._digests_hold():
                return self._use_kept()
            if complete:
                asked = WHOLE
        self._total_bytes = part.journal.total if part.journal else None
        if self._unless is None and not complete:
            # No origin is asked for what there is no room for.
            part.claim(max(0, (self._total_bytes or 0) - self._held_bytes))
        misled = False
        while True:
            try:
                stream = self._open(asked)
            except OtherRange:
                if not asked.start:
                    raise
                # Nodes of one origin may differ, so it is asked once more. Who never gives the rest
                # may still give the whole.
                asked, misled = (WHOLE if misled else asked), True
                continue
            except RangeRefused as refused:
                if not asked.start:
                    raise AttemptError(
                        "bad_status", "status 416 to a request for the whole file"
                    ) from None
                if self._wanted and refused.total == part.size_bytes and self._digests_hold():
                    return self._use_kept()
                asked = WHOLE  # the file has become shorter, or is another one
                continue
            with closing(stream):
                if stream.wish is not None:
                    self._tell(replace(self._progress(), wish=stream.wish))
                if stream.not_modified:
                    if self._unless is None:
                        raise AttemptError("bad_response", "status 304 without a condition")
                    if not contradicts(self._unless, stream.validator):
                        return self._not_modified()
                    self._unless = None  # it means another version; so that one is asked for
                    continue
                instead = self._judge(asked, stream)
                if instead is None:
                    try:
                        return self._receive(asked, stream)
                    except Mismatch as exc:
                        let_go(exc)
                        instead = self._begin_again_alone()
                    except AttemptError as exc:
                        if exc.code in _REFUSALS:
                            self.dossier = self._describe(stream)
                        raise
                asked = instead

    def _kept_passes(self) -> bool:
        """Tell whether the kept bytes pass ``expect.magic``, which may be newer than they are."""
        for magic in self._rules.magic:
            room = self._buffer[: magic.end_bytes - magic.offset_bytes]
            got = self._part.readinto(room, magic.offset_bytes)
            if not fits_magic(self._rules, room[:got], magic.offset_bytes):
                return False
        return True

    def _open(
        self, asked: Plan, stop: int | None = None, wanted: Callable[[], bool] | None = None
    ) -> Stream:
        timeouts = self._rules.timeouts
        request = Request(
            url=self._attempt.source,
            start=asked.start,
            stop=stop,
            if_range=asked.if_range,
            unless=None if asked.start else self._unless,
            headers=self._rules.headers,
            connect_s=timeouts.connect_s,
            stall_s=timeouts.stall_s,
            deadline_s=self._deadline_s,
            share=self._attempt.share,
        )
        try:
            return self._transfer.transport.open(request, wanted or self._is_wanted)
        except AttemptError as exc:
            journal = self._part.journal
            if exc.status in _EXPIRED and journal and journal.url == self._attempt.source:
                # A redirect led to a link that was good for a while: the next attempt begins at
                # the job's own URL again, and may be led to a fresh one.
                exc.transient = True
            raise

    def _not_modified(self) -> Outcome:
        previous = self._attempt.previous
        assert previous is not None
        self._part.discard()
        return UpToDate(
            size_bytes=previous.size_bytes,
            verified=previous.verified,
            digests=previous.digests,
            how="not_modified",
        )

    def _judge(self, asked: Plan, stream: Stream) -> Plan | None:
        """Return None when the answer's body is to be used, else what to ask instead."""
        if stream.start not in {0, asked.start}:
            raise AttemptError(
                "bad_response", f"asked for bytes from {asked.start}, got them from {stream.start}"
            )
        if asked.start:
            self._note_ranges(asked, stream)
        if stream.start == 0:
            # The whole file, asked for or not, is good, unless more can be saved.
            journal = self._part.journal
            return asked.instead_of(journal, stream) if journal else None
        assert self._part.journal is not None
        if asked.agrees(self._part.journal, stream) and self._overlaps(asked, stream):
            return None
        return WHOLE

    def _note_ranges(self, asked: Plan, stream: Stream) -> None:
        """Note whether the origin gives rests; that of another version shows nothing."""
        if stream.start:
            self._gives_ranges = True
        elif asked.if_range is not None and asked.if_range == stream.validator.etag:
            self._gives_ranges = False

    def _overlaps(self, asked: Plan, stream: Stream) -> bool:
        """Compare the first bytes to come with the end of the part."""
        kept = memoryview(bytearray(asked.overlap_bytes))
        at = asked.start
        while at < asked.kept_bytes:
            got = self._read(stream, self._buffer[: asked.kept_bytes - at])
            if got == 0:
                raise AttemptError("short_body", f"the body ended at byte {at}, within the overlap")
            compared = 0
            while compared < got:
                read = self._part.readinto(kept[: got - compared], at + compared)
                if read == 0 or kept[:read] != self._buffer[compared : compared + read]:
                    return False
                compared += read
            at += got
        return True

    # ------------------------------------------------------------ receiving

    def _receive(self, asked: Plan, stream: Stream) -> Outcome:
        """Write the body behind what is kept of the part and verify the whole."""
        part = self._part
        self._answered = True
        self._total_bytes = stream.total
        verified = self._check_head(stream)
        vouched = stream.validator
        got = 0
        if stream.start == 0:
            got = self._read_start(stream)
            self._start = bytes(self._buffer[: min(got, _START_BYTES)])
            check_start(self._path, self._rules, self._buffer[:got])
            check_magic(self._rules, self._buffer[:got], 0)
            self._truncate()
            self._hashes = self._new_hashes()
            self._resumed_from_bytes = 0
        else:
            if not self._one_stream:
                self._resumed_from_bytes = self._held_bytes
            # A condition that held vouches for all bytes by the validator of the first ones. An
            # overlap vouches for none: only the digest can, and no later attempt may forget it.
            assert part.journal is not None
            vouched = part.journal.validator if asked.if_range else Validator()
        self._journal = PartJournal(
            url=self._attempt.source,
            final_url=stream.final_url,
            total=stream.total,
            validator=vouched,
            durable_bytes=0,
        )
        self._resumable = bool(self._wanted) or is_strong(vouched)
        self._marked_bytes = part.size_bytes
        many = self._ranges or (stream.total or 0) - part.size_bytes >= 2 * LEAST_BYTES
        lending = self._lending_for(stream) if many else None
        while True:
            if got:
                self._keep(self._buffer[:got])
            if self._received_bytes > _LITTLE_BYTES:
                self._spread()
                if lending is not None and self._grows(lending):
                    self._receive_in_pieces(stream, lending, lent=True)
                    break
            if self._ranges:
                self._receive_in_pieces(stream, lending, lent=False)
                break
            got = self._read(stream, self._buffer)
            if got == 0:
                break
        if stream.total is not None and part.size_bytes < stream.total:
            raise AttemptError(
                "short_body", f"the body ended at byte {part.size_bytes} of {stream.total}"
            )
        self._ended = True
        check_size(self._rules, part.size_bytes)
        check_digests(self._wanted, self._hashes.digests())
        self._tell(self._progress())
        said = stream.validator if _says_something(stream.validator) else vouched
        return self._fetched(self._attempt.source, stream.final_url, said, verified)

    def _describe(self, stream: Stream) -> Dossier:
        start, content_type = self._start, stream.content_type
        if self._wrote:  # behind what an earlier attempt has brought, perhaps
            with suppress(AttemptError):
                got = self._part.readinto(self._buffer[:_START_BYTES], 0)
                start = bytes(self._buffer[:got])
        return Dossier(
            url=self._attempt.source,
            final_url=hide(stream.final_url)[:_LONGEST_TEXT],
            expected=expected_of(self._rules, self._wanted),
            content_type=None if content_type is None else hide(content_type)[:_LONGEST_TEXT],
            size_bytes=self._part.size_bytes if self._ended else stream.total,
            digests=self._hashes.digests() if self._ended else (),
            start=text_of(hide_in_start(start)),
        )

    def _check_head(self, stream: Stream) -> Verify:
        """Refuse what can be refused before a byte is kept; return what the body will prove."""
        check_type(self._path, self._rules, stream.content_type)
        delimited = stream.total is not None or stream.framed
        verified = grade(self._rules, self._wanted, delimited=delimited)
        if stream.total is not None:
            check_size(self._rules, stream.total)
            self._check_limits(stream.total)
        held_bytes = self._held_bytes if stream.start else self._part.size_bytes
        missing_bytes = (stream.total or 0) - held_bytes
        if missing_bytes > 0 or stream.total is None:
            self._part.claim(max(0, missing_bytes))
        return verified

    def _read_start(self, stream: Stream) -> int:
        """Fill the buffer with the first bytes, as many as their type can be told from."""
        got = 0
        while got < SNIFF_BYTES:
            more = self._read(stream, self._buffer[got:])
            if more == 0:
                break
            got += more
        return got

    def _spread(self) -> None:
        """Leave the others' core: receiving and hashing much need no interpreter."""
        if not self.spread:
            self.spread = True
            self._transfer.cores.spread()

    def _read(self, stream: Stream, buffer: memoryview) -> int:
        """Read once and watch the clock: speed, deadline, report; 0 at the end of the body."""
        before_s = self._clock.monotonic()
        got = stream.readinto(buffer)
        now_s = self._clock.monotonic()
        self._received_bytes += got
        if got:
            self._pace.note(got, now_s - before_s - stream.held_s)
            self._check_deadline(now_s)
        if now_s - self._reported_s >= _REPORT_S:
            self._tell(self._progress())
        return got

    def _keep(self, data: memoryview) -> None:
        part = self._part
        size_bytes = part.size_bytes + len(data)
        if self._total_bytes is not None and size_bytes > self._total_bytes:
            raise AttemptError("bad_length", f"more bytes came than the {self._total_bytes} told")
        self._check_limits(size_bytes)
        size = self._rules.size
        if size is not None and size.most_bytes is not None and size_bytes > size.most_bytes:
            raise AttemptError("bad_size", f"more bytes came than `size` allows ({size})")
        self._wrote = True
        part.write(data)
        self._hashes.update(data)
        check_magic(self._rules, data, size_bytes - len(data))
        self._transfer.failpoints.pass_by("transfer.received")
        due = size_bytes - self._marked_bytes >= CHECKPOINT_BYTES
        if due or self._clock.monotonic() - self._marked_s >= CHECKPOINT_S:
            if self._resumable:
                self._checkpoint()
            self._part.claim(max(0, (self._total_bytes or 0) - size_bytes))
            self._marked_bytes = size_bytes
            self._marked_s = self._clock.monotonic()

    def _check_limits(self, size_bytes: int) -> None:
        limits = (
            ("limits.file", self._rules.max_bytes),
            ("limits.total", self._attempt.budget_bytes),
        )
        for name, most_bytes in limits:
            if most_bytes is not None and size_bytes > most_bytes:
                raise AttemptError(
                    "too_large", f"{size_bytes} bytes are more than {name} leaves ({most_bytes})"
                )

    def _check_deadline(self, now_s: float) -> None:
        if self._deadline_s is not None and now_s > self._deadline_s:
            limit_s = self._rules.timeouts.attempt_s
            raise AttemptError("deadline", f"the attempt took longer than {limit_s:g} s")

    # ------------------------------------------------------------ receiving by several connections

    def _lending_for(self, stream: Stream) -> Lending | None:
        """Return how the body may get more connections, None: it may not.

        What the part has behind its front is kept only where the rest is certain to fit it.
        """
        certain = stream.total is not None and rest_of(self._journal, 0) is not None
        if self._ranges and not certain:
            self._drop_ranges()
        loans, local = self._transfer.loans, local_path(self._attempt.source) is not None
        if loans is None or not certain or local or self._one_stream:
            return None
        growth = Growth(self._rules.segments, self._clock.monotonic(), self._received_bytes)
        return Lending(loans, self._attempt, growth)

    def _grows(self, lending: Lending) -> bool:
        assert self._total_bytes is not None
        missing_bytes = self._total_bytes - self._held_bytes
        now_s = self._clock.monotonic()
        return lending.change(now_s, self._received_bytes, missing_bytes, 1) > 0

    def _receive_in_pieces(self, stream: Stream, lending: Lending | None, *, lent: bool) -> None:
        """Let a crew bring the rest; this thread hashes behind the front, and tells.

        ``lent``: a second connection was lent already. Raises Mismatch, after which the front is
        all that is kept.
        """
        assert self._total_bytes is not None
        self._spread()
        crew = self._crew = Crew(
            Tiling(self._total_bytes, self._part.size_bytes, self._ranges),
            self._part,
            stream,
            ask=self._ask_piece,
            lending=lending,
            received=partial(self._transfer.failpoints.pass_by, "transfer.received"),
            clock=self._clock,
            watched=self._transfer.segments,
            received_bytes=self._received_bytes,
        )
        try:
            if lent:
                crew.add()
            crew.work(partial(self._follow, crew))
        finally:
            crew.end()
            self._take_in(crew)  # nothing new, unless the attempt fails and keeps what is there
            self._crew = None

    def _ask_piece(self, start: int, end: int, wanted: Callable[[], bool]) -> Stream:
        asked = rest_of(self._journal, start)
        assert asked is not None
        try:
            stream = self._open(asked, end, wanted)
        except (OtherRange, RangeRefused) as exc:
            raise Mismatch(str(exc)) from None
        if stream.start != start or not asked.agrees(self._journal, stream):
            stream.close()
            raise Mismatch(f"other bytes than the range {start}-{end - 1} of this version")
        return stream

    def _follow(self, crew: Crew) -> None:
        """Take in what a crew has brought: hash it up to the first gap, tell, and checkpoint."""
        part, hashed_bytes = self._part, self._part.size_bytes
        before_bytes = self._received_bytes
        waited_s = self._take_in(crew)
        self._pace.note(self._received_bytes - before_bytes, waited_s)
        self._tell_if_due()
        if self._wanted or self._rules.magic:
            for data, end in self._read_back(hashed_bytes):
                check_magic(self._rules, data, end - len(data))
                self._tell_if_due()
        now_s = self._clock.monotonic()
        held_bytes = self._held_bytes
        due = held_bytes - self._marked_bytes >= CHECKPOINT_BYTES
        if due or now_s - self._marked_s >= CHECKPOINT_S:
            self._checkpoint()
            part.claim(max(0, (self._total_bytes or 0) - held_bytes))
            self._marked_bytes, self._marked_s = held_bytes, self._clock.monotonic()

    def _take_in(self, crew: Crew) -> float:
        """Let the part be as the crew has made it; returns for how long it waited for that."""
        front_bytes, self._ranges, self._received_bytes, waited_s = crew.brought()
        self._wrote = True
        self._part.advance(front_bytes)
        return waited_s

    def _begin_again_alone(self) -> Plan:
        """Return how one stream goes on behind the front, after a mismatch."""
        self._one_stream = True
        self._drop_ranges()
        return plan(self._part.journal, self._attempt.source, digest_decides=bool(self._wanted))

    # ------------------------------------------------------------ the part

    @property
    def _durable_bytes(self) -> int:
        return self._part.journal.held_bytes if self._part.journal else 0

    @property
    def _held_bytes(self) -> int:
        return self._part.size_bytes + sum(end - start for start, end in self._ranges)

    def _truncate(self) -> None:
        self._part.truncate()
        self._ranges = ()

    def _drop_ranges(self) -> None:
        """Keep the front alone, durably: what is written behind it next may be of other bytes."""
        self._ranges = ()
        self._resumed_from_bytes = min(self._resumed_from_bytes, self._part.size_bytes)
        self._part.checkpoint(replace(self._journal, durable_bytes=self._part.size_bytes))
        self._part.truncate(self._part.size_bytes)

    @property
    def _algorithms(self) -> set[str]:
        return {digest.algorithm for digest in self._wanted}

    def _new_hashes(self) -> Hashes:
        return Hashes(self._algorithms)

    def _hash_part(self) -> None:
        self._spread()
        for _, end in self._read_back(0):
            self._tell_hashed(end, self._part.size_bytes)

    def _read_back(self, offset: int) -> Iterator[tuple[memoryview, int]]:
        """Read the part from an offset to its front, hash it, and yield each read and its end."""
        while offset < self._part.size_bytes:
            read = self._part.readinto(self._buffer[: self._part.size_bytes - offset], offset)
            if read == 0:
                raise AttemptError("disk_error", f"the part cannot be read behind byte {offset}")
            self._hashes.update(self._buffer[:read])
            offset += read
            yield self._buffer[:read], offset

    def _digests_hold(self) -> bool:
        return set(self._wanted) <= set(self._hashes.digests())

    def _use_kept(self) -> Outcome:
        """The part is the whole file already, by its digest."""
        part = self._part
        assert part.journal is not None
        self._check_limits(part.size_bytes)
        check_size(self._rules, part.size_bytes)
        self._resumed_from_bytes = part.size_bytes
        journal = part.journal
        return self._fetched(journal.url, journal.final_url, journal.validator, Verify.DIGEST)

    def _checkpoint(self) -> None:
        front_bytes = self._part.size_bytes
        journal = replace(self._journal, durable_bytes=front_bytes, ranges=self._ranges)
        self._part.checkpoint(journal)
        self._transfer.failpoints.pass_by("transfer.checkpointed")

    def _leave(self, exc: AttemptError | NotWanted) -> None:
        """Keep what a later attempt can use, remove what it cannot; the first error stands."""
        part = self._part
        code = exc.code if isinstance(exc, AttemptError) else ""
        useless = self._wrote and (code in _WORTHLESS or not self._resumable)
        # What overflows `size` may have no end, so it is worth no room: only a whole body is.
        refused = self._wrote and (code == "expectation_failed" or (self._ended and self.dossier))
        if code == "disk_full":
            part.drop_quarantined()
            # It may have no end at all, and would keep the room that everybody waits for.
            self.overflowed = self._total_bytes is None and part.size_bytes > 0
        with suppress(AttemptError):
            if refused:
                self._quarantine()
            elif useless or self.overflowed or code == "disk_error" or part.size_bytes == 0:
                part.discard()
            elif self._wrote and self._held_bytes > self._durable_bytes:
                if code == "disk_full":
                    durable_bytes = part.journal.durable_bytes if part.journal else 0
                    part.truncate(max(durable_bytes, part.size_bytes - _JOURNAL_ROOM_BYTES))
                    self._ranges = ()
                self._checkpoint()
        self.elsewhere = self._answered and not (self._wrote and part.size_bytes)

    def _quarantine(self) -> None:
        """Keep refused bytes aside for people, or none where even that fails."""
        assert self.dossier is not None
        try:
            self.dossier = replace(self.dossier, quarantine=self._part.quarantine())
        except AttemptError:
            self._part.discard()

    def _fetched(self, url: str, final_url: str, validator: Validator, verified: Verify) -> Fetched:
        device, inode = self._part.identity()
        modified_s = http_date_s(validator.last_modified)
        self._transfer.failpoints.pass_by("transfer.verified")
        return Fetched(
            home=self.home,
            ranges=self._gives_ranges,
            intent=Intent(
                root=self._rules.root,
                path=self._path,
                part=self._part.name,
                device=device,
                inode=inode,
                size_bytes=self._part.size_bytes,
                verified=verified,
                digests=self._wanted,
                clobber=self._rules.if_exists is not IfExists.FAIL,
                url=url,
                final_url=final_url,
                validator=validator,
                # What no file can bear, or only by accident, is no date of one.
                mtime_s=modified_s
                if modified_s is not None and 0 <= modified_s <= _LATEST_S
                else self._clock.wall(),
                resumed_from_bytes=self._resumed_from_bytes,
                received_bytes=self._received_bytes,
                elapsed_s=self._clock.monotonic() - self._began_s,
            ),
        )

    # ------------------------------------------------------------ telling

    def _progress(self) -> Progress:
        return Progress(
            received_bytes=self._received_bytes,
            have_bytes=self._held_bytes,
            total_bytes=self._total_bytes,
        )

    def _tell(self, progress: Progress) -> None:
        """Report; raises NotWanted."""
        self._reported_s = self._clock.monotonic()
        if not self._transfer.report(self._attempt, progress):
            raise NotWanted

    def _tell_if_due(self) -> None:
        now_s = self._clock.monotonic()
        self._check_deadline(now_s)
        if now_s - self._reported_s >= _REPORT_S:
            self._tell(self._progress())

    def _tell_hashed(self, hashed_bytes: int, size_bytes: int) -> None:
        now_s = self._clock.monotonic()
        self._check_deadline(now_s)
        if now_s - self._reported_s >= _REPORT_S:
            self._tell(Progress(have_bytes=hashed_bytes, total_bytes=size_bytes, verifying=True))

    def _is_wanted_before_part(self) -> bool:
        return self._transfer.report(self._attempt, Progress())

    def _is_wanted(self) -> bool:
        crew = self._crew
        if crew is not None and not crew.first_wanted():
            return False
        return self._transfer.report(self._attempt, self._progress())


def _says_something(validator: Validator) -> bool:
    return validator.etag is not None or validator.last_modified is not None
