"""One attempt: from what stands on the disk and what the origin sends to a verified part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace

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
    Repaired,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import (
    Disk,
    FreshPart,
    Loans,
    Part,
    PartBusy,
    PartJournal,
    RangeRefused,
    Stream,
    Transport,
)
from fetchd.secrets import hide
from fetchd.threads import Worker
from fetchd.transfer.asking import Asking, request_of
from fetchd.transfer.crew import LeftAlone, Mismatch
from fetchd.transfer.dossier import REFUSALS, START_BYTES, describe
from fetchd.transfer.kept import Kept
from fetchd.transfer.naming import learn_name
from fetchd.transfer.repair import Repair, Unfit, is_mendable, is_worth_keeping
from fetchd.transfer.resume import WHOLE, Plan, plan
from fetchd.transfer.segments import LEAST_BYTES
from fetchd.transfer.sharing import Sharing
from fetchd.transfer.standing import Standing, StandingTree
from fetchd.transfer.sums import SumsBusy, SumsFiles
from fetchd.transfer.verify import (
    SNIFF_BYTES,
    check_digests,
    check_magic,
    check_size,
    check_start,
    check_type,
    grade,
    rules_of,
)
from fetchd.transfer.watch import Watch
from fetchd.urls import local_path

CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_S = 5.0

_BUFFER_BYTES = 1024 * 1024
_SMALL_BYTES = 64 * 1024  # up to here a file may come, be verified and kept at once
_LITTLE_BYTES = 512 * 1024  # up to here a file is fetched at home
_DISK_DELAY_S = 30.0
_BUSY_DELAY_S = 5.0
#: The latest date that a file gets from its origin: all file systems know it, and the store too.
_LATEST_S = 2.0**32


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
        if loans is None:
            self.sums = SumsFiles(transport, clock)
        else:
            self.sums = SumsFiles(transport, clock, loans.left_alone_s)
        self.segments: set[Worker] = set()  # each call is one step of the interpreter
        self._local = threading.local()

    def __call__(self, attempt: Fetch) -> Outcome:
        """Carry one attempt out. Exceptions that are not the attempt's own pass up."""
        work = _Fetch(self, attempt)
        try:
            return work.run()
        except LeftAlone as exc:
            let_go(exc)
            return Deferred(reason="origin", detail="its server is left alone", delay_s=0.0)
        except NotWanted as exc:
            let_go(exc)
            return Interrupted()
        except PartBusy as exc:
            let_go(exc)
            return Deferred(reason="same_dest", detail=str(exc), delay_s=_BUSY_DELAY_S)
        except SumsBusy as exc:
            return Deferred(reason="sums", detail=str(exc), delay_s=exc.delay_s)
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
            disk = self.disk.of(attempt.job, attempt.run)
            return disk.home(attempt.group.rules.root, attempt.task.spec.path)
        return ""

    @property
    def buffer(self) -> memoryview:
        """The calling thread's buffer, used again by each of its attempts."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(_BUFFER_BYTES))
        return buffer


class _Fetch:
    """The attempt under way: what is done in which order. One thread."""

    # How each attempt begins; most of it stays so for a small file.
    progressed = False
    overflowed = False  # as of Kept
    elsewhere = False  # the disk is too full for this source, perhaps not for another
    home = ""  # of the part's file system
    spread = False  # the thread may use all cores
    dossier: Dossier | None = None
    _kept: Kept  # both from open_part on
    _asking: Asking
    _answered = False  # a head came, with a body to receive
    _start = b""  # the first bytes that came, written or not
    _repaired = False  # in vain: all is as this source has it, and wrong
    _one_stream = False  # several connections have met a mismatch
    # The answer to the question of the short way; so many bytes of it are in the buffer, and that
    # has ended it.
    _first: Stream | None = None
    _got = 0
    _late: AttemptError | NotWanted | None = None

    def __init__(self, transfer: Transfer, attempt: Fetch) -> None:
        self._transfer = transfer
        self._disk = transfer.disk.of(attempt.job, attempt.run)
        self._attempt = attempt
        self._buffer = transfer.buffer
        self._rules = rules_of(attempt)
        self._path = attempt.task.spec.path
        self._wanted = attempt.task.spec.digests
        self._watch = Watch(attempt, transfer.clock, transfer.report)
        self._unused: list[Stream] = []  # that answer, until somebody uses it

    def run(self) -> Outcome:
        outcome = self._run()
        if isinstance(outcome, UpToDate):
            self._disk.keep(self._attempt)
        return outcome

    def _run(self) -> Outcome:
        spec = self._attempt.task.spec
        if self._rules.verify is Verify.DIGEST and not (spec.digests or spec.sums):
            raise AttemptError(
                "expectation_failed",
                "`verify: digest` asks for a checksum and the job gives none for this file",
            )
        if spec.unnamed:
            named = learn_name(self._transfer.transport, self._attempt, self._watch)
            self._transfer.failpoints.pass_by("transfer.named")
            return named
        try:
            if not (spec.sums or self._attempt.group.steps):
                fresh = self._disk.fresh(self._rules.root, self._path)
                if fresh is not None and (fetched := self._fetch_small(fresh)):
                    return fetched
            return self._fetch_any()
        finally:
            self._drop_unused()

    def _fetch_any(self) -> Outcome:
        spec, disk = self._attempt.task.spec, self._disk
        standing = self._standing()
        if standing is not None and (outcome := standing.unconditional()):
            return outcome
        if spec.sums:
            self._wanted = self._transfer.sums.digests_of(
                self._attempt, self._watch.wanted, self._watch.deadline_s
            )
        unless: Validator | None = None
        if standing is not None:
            good = standing.consider_update(self._wanted, self._spread)
            if isinstance(good, UpToDate):
                return good
            unless = good
        file = None if standing is None else local_path(self._attempt.source)
        if file is not None and disk.is_destination(self._rules.root, self._path, file):
            raise AttemptError(
                "source_denied",
                "the file would be copied onto itself; choose another dest or filename",
            )
        with disk.open_part(self._rules.root, self._path) as part:
            self.home = part.home
            if part.journal is not None:
                self._drop_unused()  # somebody else has begun the file since that was asked for
            kept = self._kept = self._watch.kept = self._take_over(part)
            began_bytes = kept.durable_bytes
            try:
                return self._fetch(unless)
            except (AttemptError, NotWanted) as exc:
                code = exc.code if isinstance(exc, AttemptError) else ""
                suspect = code == "checksum_mismatch" and self._is_worth_keeping()
                self.dossier = kept.leave(code, self.dossier, suspect=suspect)
                self.overflowed = kept.overflowed
                self.elsewhere = self._answered and not (kept.wrote and part.size_bytes)
                self.progressed = not suspect and kept.durable_bytes > began_bytes
                raise

    def _standing(self) -> Standing | StandingTree | None:
        """Return what stands there already of what the task is to publish."""
        if self._attempt.group.steps:
            return StandingTree.of(self._disk, self._attempt)
        found = self._disk.existing(self._rules.root, self._path)
        if found is None:
            return None
        return Standing(self._disk, self._attempt, self._rules, found, self._watch.tell_hashed)

    def _take_over(self, part: Part) -> Kept:
        return Kept(
            part,
            self._wanted,
            self._buffer,
            self._transfer.clock,
            self._transfer.failpoints,
            checkpoint_bytes=CHECKPOINT_BYTES,
            checkpoint_s=CHECKPOINT_S,
            opened_s=self._watch.began_s,
        )

    def _fetch(self, unless: Validator | None) -> Outcome:
        kept = self._kept
        asking = self._asking = Asking(
            self._transfer.transport,
            self._attempt,
            kept,
            self._watch,
            self._buffer,
            unless,
            self._unused,
            digest_decides=bool(self._wanted),
        )
        if not kept.passes(self._rules):
            kept.empty()
        asked = self._plan()
        complete = kept.complete
        if self._wanted and kept.part.size_bytes and (asked.start or complete):
            # Before connecting: no origin waits patiently while gigabytes are read.
            self._spread()
            kept.hash_all(self._watch.tell_hashed)
            if complete:
                if kept.digests_hold():
                    return self._use_kept()
                if is_mendable(self._attempt, kept) and (outcome := self._repair()):
                    return outcome
                asked = WHOLE
        if unless is None and not complete:
            # No origin is asked for what there is no room for.
            kept.claim()
        while True:
            answer = asking.answer(asked)
            if answer is None:
                return self._use_kept()
            asked, stream = answer
            with closing(stream):
                if stream.not_modified:
                    return self._not_modified()
                try:
                    return self._receive(asked, stream)
                except Mismatch as exc:
                    let_go(exc)
                    # One stream goes on behind the front.
                    self._one_stream = True
                    kept.drop_ranges()
                    asked = self._plan()
                except AttemptError as exc:
                    if exc.code in REFUSALS:
                        self.dossier = describe(
                            self._attempt, stream, kept, self._start, self._wanted
                        )
                    raise

    def _plan(self) -> Plan:
        journal = self._kept.part.journal
        return plan(journal, self._attempt.source, digest_decides=bool(self._wanted))

    def _spread(self) -> None:
        """Leave the others' core: receiving and hashing much need no interpreter."""
        if not self.spread:
            self.spread = True
            self._transfer.cores.spread()

    # ------------------------------------------------------------ the short way

    def _fetch_small(self, fresh: FreshPart) -> Fetched | None:
        """Fetch a small file into memory and, if it proves to be right, write it once.

        None: any other goes the long way with the answer and what has come of it. What is wrong
        with it is found there, where each fault has its name.
        """
        watch, buffer = self._watch, self._buffer
        request = request_of(self._attempt, WHOLE, watch.deadline_s)
        try:
            stream = self._first = self._transfer.transport.open(request, watch.wanted)
        except RangeRefused:  # nobody has asked for one
            return None
        self._unused.append(stream)
        total = stream.total
        if total is None or total > _SMALL_BYTES or stream.start or stream.wish:
            return None
        if stream.not_modified or (verified := self._promised(stream, total)) is None:
            return None
        try:
            while self._got < total and (more := watch.read(stream, buffer[self._got : total])):
                self._got += more
            self._got += stream.readinto(buffer[self._got :])  # nothing: it ends there
        except (AttemptError, NotWanted) as exc:
            let_go(exc)
            self._late = exc.with_traceback(None)
            return None
        if self._got != total:
            return None
        whole = buffer[:total]
        if not self._proves(whole):
            return None
        if not fresh.keep(whole):
            return None
        self._transfer.failpoints.pass_by("transfer.received")
        return self._fetched(
            self._attempt.source, stream.final_url, stream.validator, verified, fresh
        )

    def _promised(self, stream: Stream, size_bytes: int) -> Verify | None:
        """Return what the body will prove by its length, None: its head is refused already."""
        try:
            check_type(self._path, self._rules, stream.content_type)
            check_size(self._rules, size_bytes)
            self._watch.check_limits(size_bytes)
            return grade(self._rules, self._wanted, delimited=True)
        except AttemptError as exc:
            let_go(exc)
            return None

    def _proves(self, whole: memoryview) -> bool:
        """Tell whether these bytes are all that is asked of the file's content."""
        try:
            check_start(self._path, self._rules, whole)
            check_magic(self._rules, whole, 0)
            if self._wanted:
                hashes = Hashes(digest.algorithm for digest in self._wanted)
                hashes.update(whole)
                check_digests(self._wanted, hashes.digests())
        except AttemptError as exc:
            let_go(exc)
            return False
        return True

    def _drop_unused(self) -> None:
        self._first = None  # or an error that it keeps and what has met that would hold each other
        while self._unused:
            self._unused.pop().close()

    # ------------------------------------------------------------ receiving

    def _receive(self, asked: Plan, stream: Stream) -> Outcome:
        """Write the body behind what is kept of the part and verify the whole."""
        kept, part, watch = self._kept, self._kept.part, self._watch
        self._answered = True
        kept.total_bytes = stream.total
        verified = self._check_head(stream)
        vouched = stream.validator
        got = 0
        if stream.start == 0:
            got = self._read_start(stream)
            self._start = bytes(self._buffer[: min(got, START_BYTES)])
            check_start(self._path, self._rules, self._buffer[:got])
            check_magic(self._rules, self._buffer[:got], 0)
            kept.empty()
        else:
            if not self._one_stream:
                kept.resumed_from_bytes = kept.held_bytes
            # A condition that held vouches for all bytes by the validator of the first ones. An
            # overlap vouches for none: only the digest can, and no later attempt may forget it.
            assert part.journal is not None
            vouched = part.journal.validator if asked.if_range else Validator()
        kept.begin(
            PartJournal(
                url=self._attempt.source,
                final_url=stream.final_url,
                total=stream.total,
                validator=vouched,
                durable_bytes=0,
            )
        )
        many = kept.ranges or (stream.total or 0) - part.size_bytes >= 2 * LEAST_BYTES
        sharing = self._sharing() if many else None
        lending = sharing.lending_for(stream) if sharing else None
        while True:
            if got:
                self._keep(self._buffer[:got])
            if watch.received_bytes > _LITTLE_BYTES:
                self._spread()
                if sharing is not None and lending is not None and sharing.grows(lending):
                    sharing.receive_in_pieces(stream, lending, lent=True)
                    break
            if sharing is not None and kept.ranges:
                self._spread()
                sharing.receive_in_pieces(stream, lending, lent=False)
                break
            got = self._read(stream, self._buffer)
            if got == 0:
                break
        if stream.total is not None and part.size_bytes < stream.total:
            raise AttemptError(
                "short_body", f"the body ended at byte {part.size_bytes} of {stream.total}"
            )
        kept.ended = True
        check_size(self._rules, part.size_bytes)
        check_digests(self._wanted, kept.hashes.digests())
        watch.tell()
        said = stream.validator if _says_something(stream.validator) else vouched
        return self._kept_of(self._attempt.source, stream.final_url, said, verified)

    def _check_head(self, stream: Stream) -> Verify:
        """Refuse what can be refused before a byte is kept; return what the body will prove."""
        check_type(self._path, self._rules, stream.content_type)
        delimited = stream.total is not None or stream.framed
        verified = grade(self._rules, self._wanted, delimited=delimited)
        if stream.total is not None:
            check_size(self._rules, stream.total)
            self._watch.check_limits(stream.total)
        kept = self._kept
        held_bytes = kept.held_bytes if stream.start else kept.part.size_bytes
        missing_bytes = (stream.total or 0) - held_bytes
        if missing_bytes > 0 or stream.total is None:
            kept.part.claim(max(0, missing_bytes))
        return verified

    def _read_start(self, stream: Stream) -> int:
        """Fill the buffer with the first bytes, as many as their type can be told from."""
        got = self._got if stream is self._first else 0
        while got < SNIFF_BYTES:
            more = self._read(stream, self._buffer[got:])
            if more == 0:
                break
            got += more
        return got

    def _read(self, stream: Stream, buffer: memoryview) -> int:
        if self._late is not None:
            raise self._take_late()  # in no frame of its own: it would hold that, and that it
        return self._watch.read(stream, buffer)

    def _take_late(self) -> AttemptError | NotWanted:
        late, self._late = self._late, None
        assert late is not None
        return late

    def _keep(self, data: memoryview) -> None:
        kept = self._kept
        size_bytes = kept.part.size_bytes + len(data)
        if kept.total_bytes is not None and size_bytes > kept.total_bytes:
            raise AttemptError("bad_length", f"more bytes came than the {kept.total_bytes} told")
        self._watch.check_limits(size_bytes)
        size = self._rules.size
        if size is not None and size.most_bytes is not None and size_bytes > size.most_bytes:
            raise AttemptError("bad_size", f"more bytes came than `size` allows ({size})")
        kept.write(data)
        check_magic(self._rules, data, size_bytes - len(data))
        self._transfer.failpoints.pass_by("transfer.received")
        kept.mark_if_due()

    def _sharing(self) -> Sharing:
        transfer = self._transfer
        return Sharing(
            self._attempt,
            self._kept,
            self._watch,
            self._asking,
            None if self._one_stream else transfer.loans,
            transfer.clock,
            transfer.failpoints,
            transfer.segments,
            reads_back=bool(self._wanted or self._rules.magic),
        )

    # ------------------------------------------------------------ mending

    def _is_worth_keeping(self) -> bool:
        """Tell whether bytes with a wrong digest, which no repair was tried on, are for one."""
        return (
            not self._repaired and self._kept.ended and is_worth_keeping(self._attempt, self._kept)
        )

    def _repair(self) -> Outcome | None:
        """Mend the part by this source; None: it is to begin anew."""
        kept, transfer = self._kept, self._transfer
        repair = Repair(
            self._attempt,
            self._wanted,
            kept,
            self._watch,
            self._asking,
            transfer.loans,
            transfer.clock,
            transfer.failpoints,
        )
        try:
            repair.run()
        except Unfit as exc:
            let_go(exc)
            return None
        except AttemptError as exc:
            if exc.code == "checksum_mismatch":
                self._repaired = kept.wrote = kept.ended = True
                self.dossier = describe(self._attempt, repair.stream, kept, b"", self._wanted)
            raise
        kept.resumed_from_bytes = kept.part.size_bytes - repair.replaced_bytes
        self._watch.tell()
        # What was not compared may be other bytes there, so its validator vouches for nothing.
        said = Validator(last_modified=repair.stream.validator.last_modified)
        fetched = self._kept_of(self._attempt.source, repair.stream.final_url, said, Verify.DIGEST)
        return replace(
            fetched,
            repaired=Repaired(
                compared_bytes=repair.compared_bytes, replaced_bytes=repair.replaced_bytes
            ),
        )

    # ------------------------------------------------------------ how it ends well

    def _not_modified(self) -> Outcome:
        previous = self._attempt.previous
        assert previous is not None
        self._kept.part.discard()
        return UpToDate(
            size_bytes=previous.size_bytes,
            verified=previous.verified,
            digests=previous.digests,
            how="not_modified",
        )

    def _use_kept(self) -> Outcome:
        """The part is the whole file already, by its digest."""
        part = self._kept.part
        assert part.journal is not None
        self._watch.check_limits(part.size_bytes)
        check_size(self._rules, part.size_bytes)
        self._kept.resumed_from_bytes = part.size_bytes
        journal = part.journal
        return self._kept_of(journal.url, journal.final_url, journal.validator, Verify.DIGEST)

    def _kept_of(self, url: str, final_url: str, validator: Validator, verified: Verify) -> Fetched:
        """Say that the open part is the file."""
        return self._fetched(
            url,
            final_url,
            validator,
            verified,
            self._kept.part,
            resumed_from_bytes=self._kept.resumed_from_bytes,
            ranges=self._asking.gives_ranges,
        )

    def _fetched(
        self,
        url: str,
        final_url: str,
        validator: Validator,
        verified: Verify,
        part: Part | FreshPart,
        *,
        resumed_from_bytes: int = 0,
        ranges: bool | None = None,
    ) -> Fetched:
        clock = self._transfer.clock
        device, inode = part.identity()
        modified_s = http_date_s(validator.last_modified)
        self._transfer.failpoints.pass_by("transfer.verified")
        return Fetched(
            home=part.home,
            ranges=ranges,
            intent=Intent(
                root=self._rules.root,
                path=self._path,
                part=part.name,
                device=device,
                inode=inode,
                size_bytes=part.size_bytes,
                verified=verified,
                digests=self._wanted,
                clobber=self._rules.if_exists is not IfExists.FAIL,
                url=url,
                final_url=final_url,
                validator=validator,
                # What no file can bear, or only by accident, is no date of one.
                mtime_s=modified_s
                if modified_s is not None and 0 <= modified_s <= _LATEST_S
                else clock.wall(),
                resumed_from_bytes=resumed_from_bytes,
                received_bytes=self._watch.received_bytes,
                elapsed_s=clock.monotonic() - self._watch.began_s,
            ),
        )


def _says_something(validator: Validator) -> bool:
    return validator.etag is not None or validator.last_modified is not None
