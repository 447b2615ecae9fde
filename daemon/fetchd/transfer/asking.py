"""How an attempt comes by a body that it can use: ask, judge the answer, ask otherwise."""

from __future__ import annotations

from collections.abc import Callable

from fetchd.errors import AttemptError
from fetchd.model import Fetch, Validator
from fetchd.ports import OtherRange, RangeRefused, Request, Stream, Transport
from fetchd.transfer.kept import Kept
from fetchd.transfer.resume import WHOLE, Plan, contradicts
from fetchd.transfer.watch import Watch

#: What an origin that has served the file before may answer to a link that has expired.
_EXPIRED = {401, 403, 410}


def request_of(
    attempt: Fetch,
    asked: Plan,
    deadline_s: float | None,
    stop: int | None = None,
    unless: Validator | None = None,
) -> Request:
    """Return the question for what is planned, up to ``stop``."""
    rules = attempt.group.rules
    return Request(
        url=attempt.source,
        start=asked.start,
        stop=stop,
        if_range=asked.if_range,
        unless=unless,
        headers=rules.headers,
        connect_s=rules.timeouts.connect_s,
        stall_s=rules.timeouts.stall_s,
        deadline_s=deadline_s,
        share=attempt.share,
    )


class Asking:
    """The questions of one attempt to its source. One thread, but for ``open`` and ``note_ranges``.

    ``gives_ranges``: as in ``Fetched``.
    """

    def __init__(
        self,
        transport: Transport,
        attempt: Fetch,
        kept: Kept,
        watch: Watch,
        buffer: memoryview,
        unless: Validator | None,
        unused: list[Stream],
        *,
        digest_decides: bool,
    ) -> None:
        """``unused``: an answer to the question for the whole, if that was asked already."""
        self.gives_ranges: bool | None = None
        self._transport = transport
        self._attempt = attempt
        self._kept = kept
        self._watch = watch
        self._buffer = buffer
        self._unless = unless
        self._unused = unused
        self._digest_decides = digest_decides
        self._misled = False  # another rest than the one that was asked for came once

    def answer(self, asked: Plan) -> tuple[Plan, Stream] | None:
        """Return the answer that is to be used, and what it answers; None: nothing is missing.

        It says that the file has not been modified, or brings a body; the caller closes it.
        """
        instead: Plan | None = asked
        while instead is not None:
            asked = instead
            try:
                stream = self._unused.pop() if self._unused else self.open(asked)
            except OtherRange:
                if not asked.start:
                    raise
                # Nodes of one origin may differ, so it is asked once more. Who never gives the rest
                # may still give the whole.
                instead, self._misled = (WHOLE if self._misled else asked), True
                continue
            except RangeRefused as refused:
                if not asked.start:
                    raise AttemptError(
                        "bad_status", "status 416 to a request for the whole file"
                    ) from None
                complete = refused.total == self._kept.part.size_bytes
                if self._digest_decides and complete and self._kept.digests_hold():
                    return None
                instead = WHOLE  # the file has become shorter, or is another one
                continue
            try:
                instead = self._judge(asked, stream)
            except BaseException:
                stream.close()
                raise
            if instead is not None:
                stream.close()
        return asked, stream

    def open(
        self, asked: Plan, stop: int | None = None, wanted: Callable[[], bool] | None = None
    ) -> Stream:
        """Ask once, and judge nothing; raises as ``Transport.open``."""
        unless = None if asked.start else self._unless
        request = request_of(self._attempt, asked, self._watch.deadline_s, stop, unless)
        try:
            return self._transport.open(request, wanted or self._watch.wanted)
        except AttemptError as exc:
            journal = self._kept.part.journal
            if exc.status in _EXPIRED and journal and journal.url == self._attempt.source:
                # A redirect led to a link that was good for a while: the next attempt begins at
                # the job's own URL again, and may be led to a fresh one.
                exc.transient = True
            raise

    def note_ranges(self, asked: Plan, stream: Stream) -> None:
        """Note whether the origin gives rests; that of another version shows nothing."""
        if stream.start:
            self.gives_ranges = True
        elif asked.if_range is not None and asked.if_range == stream.validator.etag:
            self.gives_ranges = False

    def _judge(self, asked: Plan, stream: Stream) -> Plan | None:
        """Return None when the answer is to be used, else what to ask instead."""
        if stream.wish is not None:
            self._watch.tell(stream.wish)
        if stream.not_modified:
            if self._unless is None:
                raise AttemptError("bad_response", "status 304 without a condition")
            if not contradicts(self._unless, stream.validator):
                return None
            self._unless = None  # it means another version; so that one is asked for
            return asked
        if stream.start not in {0, asked.start}:
            raise AttemptError(
                "bad_response", f"asked for bytes from {asked.start}, got them from {stream.start}"
            )
        if asked.start:
            self.note_ranges(asked, stream)
        journal = self._kept.part.journal
        if stream.start == 0:
            # The whole file, asked for or not, is good, unless more can be saved.
            return asked.instead_of(journal, stream) if journal else None
        assert journal is not None
        if asked.agrees(journal, stream) and self._overlaps(asked, stream):
            return None
        return WHOLE

    def _overlaps(self, asked: Plan, stream: Stream) -> bool:
        """Compare the first bytes to come with the end of the part."""
        kept = memoryview(bytearray(asked.overlap_bytes))
        at = asked.start
        while at < asked.kept_bytes:
            got = self._watch.read(stream, self._buffer[: asked.kept_bytes - at])
            if got == 0:
                raise AttemptError("short_body", f"the body ended at byte {at}, within the overlap")
            compared = 0
            while compared < got:
                read = self._kept.part.readinto(kept[: got - compared], at + compared)
                if read == 0 or kept[:read] != self._buffer[compared : compared + read]:
                    return False
                compared += read
            at += got
        return True
