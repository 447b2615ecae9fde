"""A complete part with a wrong digest is mended by the blocks of another source that differ.

HTTP tells no digests of blocks, so what is saved comes from the order in which they are compared,
which ``blocks`` decides. Nothing proves a block but the digest of the whole.
"""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from dataclasses import replace

from fetchd import threads
from fetchd.clock import Clock, Failpoints
from fetchd.digests import Digest
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import Fetch
from fetchd.ports import Loans, Mending, OtherRange, PartJournal, RangeRefused, Stream
from fetchd.transfer.asking import Asking
from fetchd.transfer.blocks import Search
from fetchd.transfer.crew import LeftAlone
from fetchd.transfer.kept import Kept
from fetchd.transfer.resume import Plan, is_strong, rest_of
from fetchd.transfer.verify import (
    check_digests,
    check_magic,
    check_size,
    check_type,
    rules_of,
)
from fetchd.transfer.watch import Watch
from fetchd.urls import origin_of

BLOCK_BYTES = 1024 * 1024
#: A smaller file is fetched again: what could be saved is not worth the questions.
WORTH_BYTES = 4 * BLOCK_BYTES

_CHECKPOINT_S = 5.0
#: How soon it is seen that the source may be asked once more.
_LOOK_S = 0.05


def is_worth_keeping(attempt: Fetch, kept: Kept) -> bool:
    """Tell whether a wrong file should wait for another source that may mend it.

    It would lie about in vain if no attempt followed that is likely to be at one: where the round
    has another source, or another round follows.
    """
    history, source = attempt.task.history, attempt.task.history.source
    if not attempt.task.mirrored or kept.part.size_bytes < WORTH_BYTES:
        return False
    left = set(range(len(attempt.task.spec.sources))) - history.barred
    if source in history.mismatched or not kept.mixed:
        left.discard(source)
    rounds_left = attempt.group.rules.retry.attempts - 1 - history.round
    return bool(left - history.tried - {source}) or (bool(left) and rounds_left > 0)


def is_mendable(attempt: Fetch, kept: Kept) -> bool:
    """Tell whether the source of an attempt may mend a complete part that has a wrong digest."""
    journal = kept.part.journal
    if journal is None or kept.part.size_bytes < WORTH_BYTES:
        return False
    return kept.mixed or journal.url != attempt.source


class Unfit(Exception):
    """The source cannot mend the part: it gives no ranges, or not of one version of this size."""


class Repair:
    """One attempt to mend a part. One thread.

    ``stream``: the latest answer; ``compared_bytes``, ``replaced_bytes``: of this attempt.
    """

    stream: Stream

    def __init__(
        self,
        attempt: Fetch,
        wanted: tuple[Digest, ...],
        kept: Kept,
        watch: Watch,
        asking: Asking,
        loans: Loans | None,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        """``loans`` None: nobody counts how often the source is asked."""
        assert kept.part.journal is not None
        self.compared_bytes = 0
        self.replaced_bytes = 0
        self._attempt = attempt
        self._wanted = wanted
        self._rules = rules_of(attempt)
        self._kept = kept
        self._watch = watch
        self._asking = asking
        self._loans = loans
        self._clock = clock
        self._failpoints = failpoints
        self._journal = kept.part.journal
        self._size_bytes = kept.part.size_bytes
        self._theirs = memoryview(bytearray(BLOCK_BYTES))
        self._ours = memoryview(bytearray(BLOCK_BYTES))
        self._dirty = False  # blocks were replaced since all was hashed
        self._marked_s = clock.monotonic()
        self._counted = True  # the first request was, when the attempt was taken
        self._turn = threading.Condition(threading.Lock())  # nobody notifies it
        mending = self._journal.mending
        if mending is not None and mending.url != attempt.source:
            mending = None
        #: The version that all answers have to be of, as a journal of it.
        self._version = None if mending is None else self._version_of(mending)
        compared = () if mending is None else mending.compared
        self._search = Search(self._size_bytes, self._journal.seams, compared, BLOCK_BYTES)

    def run(self) -> None:
        """Return when the digest holds, durably; raises Unfit, AttemptError, NotWanted (LeftAlone).

        The error is ``checksum_mismatch`` when all is as the source has it. After any other one
        the next attempt at this source goes on here.
        """
        self._watch.check_limits(self._size_bytes)
        check_size(self._rules, self._size_bytes)
        try:
            self._mend()
        except (AttemptError, NotWanted):
            with suppress(AttemptError):
                self._checkpoint()
            raise
        journal = replace(
            self._journal,
            url=self._attempt.source,
            final_url=self.stream.final_url,
            mixed=True,
            mending=None,
        )
        self._kept.part.checkpoint(journal)

    def _mend(self) -> None:
        search = self._search
        while (stretch := search.next()) is not None:
            with closing(self._ask(*stretch)) as stream:
                for block in search.blocks_of(stretch):
                    search.note(block, differs=self._compare(stream, *block))
                    if search.due:
                        break
                    self._checkpoint_if_due()
            if search.due:
                # Also when it holds: after a crash what was replaced is there.
                self._checkpoint()
                self._hash_if_dirty()
                if self._kept.digests_hold():
                    return
                search.tried()
        self._hash_if_dirty()
        try:
            check_digests(self._wanted, self._kept.hashes.digests())
        except AttemptError as exc:
            exc.reason += ", with every block as this source has it"
            raise

    def _ask(self, start: int, end: int) -> Stream:
        asked = Plan(start=start)
        if self._version is not None:
            rest = rest_of(self._version, start)
            if rest is None:
                raise Unfit
            asked = rest
        self._await_turn()
        try:
            stream = self._asking.open(asked, end)
        except (OtherRange, RangeRefused):
            raise Unfit from None
        try:
            if stream.wish is not None:
                self._watch.tell(stream.wish)
            self._judge(asked, stream)
        except BaseException:
            stream.close()
            raise
        self.stream = stream
        return stream

    def _await_turn(self) -> None:
        """Wait until the source may be asked once more; raises LeftAlone if it is left alone."""
        loans, self._counted, counted = self._loans, False, self._counted
        while loans is not None and not counted and not loans.ask(self._attempt):
            if loans.left_alone_s(origin_of(self._attempt.source)):
                raise LeftAlone
            threads.beat()
            with self._turn:
                self._clock.wait(self._turn, _LOOK_S)
            self._watch.tell_if_due()

    def _judge(self, asked: Plan, stream: Stream) -> None:
        if stream.not_modified or stream.start != asked.start or stream.total != self._size_bytes:
            raise Unfit
        try:
            check_type(self._attempt.task.spec.path, self._rules, stream.content_type)
        except AttemptError:
            raise Unfit from None
        if self._version is None:
            if not is_strong(stream.validator):
                raise Unfit
            self._version = self._version_of(
                Mending(url=self._attempt.source, validator=stream.validator)
            )
        elif not asked.agrees(self._version, stream):
            raise Unfit
        self._asking.gives_ranges = True

    def _version_of(self, mending: Mending) -> PartJournal:
        return PartJournal(
            url=mending.url,
            final_url=mending.url,
            total=self._size_bytes,
            validator=mending.validator,
            durable_bytes=self._size_bytes,
        )

    def _compare(self, stream: Stream, start: int, end: int) -> bool:
        """Read one block, and let the part have it; True: it had another one."""
        theirs, ours = self._theirs[: end - start], self._ours[: end - start]
        got = 0
        while got < len(theirs):
            more = self._watch.read(stream, theirs[got:])
            if more == 0:
                raise AttemptError("short_body", f"the body ended at byte {start + got}, not {end}")
            got += more
        read = 0
        while read < len(ours):
            more = self._kept.part.readinto(ours[read:], start + read)
            if more == 0:
                raise AttemptError("disk_error", f"the part cannot be read at byte {start + read}")
            read += more
        self.compared_bytes += len(theirs)
        if theirs == ours:
            return False
        try:
            check_magic(self._rules, theirs, start)
        except AttemptError:
            raise Unfit from None
        self._dirty = True
        self._kept.part.overwrite(theirs, start)
        self.replaced_bytes += len(theirs)
        self._failpoints.pass_by("repair.replaced")
        return True

    def _hash_if_dirty(self) -> None:
        if self._dirty:
            self._kept.hash_all(self._watch.tell_hashed)
            self._dirty = False

    def _checkpoint_if_due(self) -> None:
        if self._clock.monotonic() - self._marked_s >= _CHECKPOINT_S:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Write down what is compared, once what was replaced is safe."""
        if self._version is None or self._kept.part.journal is None:
            return  # nothing is known, or the disk has lost the part
        mending = Mending(
            url=self._attempt.source,
            validator=self._version.validator,
            compared=self._search.compared,
        )
        self._kept.part.checkpoint(replace(self._journal, mending=mending))
        self._marked_s = self._clock.monotonic()
        self._failpoints.pass_by("repair.checkpointed")
