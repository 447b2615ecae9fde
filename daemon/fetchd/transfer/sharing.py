"""A body that several connections share: when they may, and what the attempt does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fetchd.clock import Clock, Failpoints
from fetchd.model import Fetch
from fetchd.ports import Loans, OtherRange, RangeRefused, Stream
from fetchd.threads import Worker
from fetchd.transfer.asking import Asking
from fetchd.transfer.crew import Crew, Lending, Mismatch
from fetchd.transfer.kept import Kept
from fetchd.transfer.resume import rest_of
from fetchd.transfer.segments import Growth, Tiling
from fetchd.transfer.verify import check_magic
from fetchd.transfer.watch import Watch
from fetchd.urls import local_path


class Sharing:
    """What one attempt needs to let a crew work for it. One thread, but for ``_ask_piece``.

    ``reads_back``: what has come is to be read again, up to the first gap.
    """

    def __init__(
        self,
        attempt: Fetch,
        kept: Kept,
        watch: Watch,
        asking: Asking,
        loans: Loans | None,
        clock: Clock,
        failpoints: Failpoints,
        watched: set[Worker],
        *,
        reads_back: bool,
    ) -> None:
        """``loans`` None: there is one connection, and no more; ``watched``: as of the crew."""
        self._attempt = attempt
        self._rules = attempt.group.rules
        self._kept = kept
        self._watch = watch
        self._asking = asking
        self._loans = loans
        self._clock = clock
        self._failpoints = failpoints
        self._watched = watched
        self._reads_back = reads_back

    def lending_for(self, stream: Stream) -> Lending | None:
        """Return how the body may get more connections, None: it may not.

        What the part has behind its front is kept only where the rest is certain to fit it.
        """
        kept = self._kept
        certain = stream.total is not None and rest_of(kept.journal, 0) is not None
        if kept.ranges and not certain:
            kept.drop_ranges()
        loans, local = self._loans, local_path(self._attempt.source) is not None
        if loans is None or not certain or local:
            return None
        growth = Growth(self._rules.segments, self._clock.monotonic(), self._watch.received_bytes)
        return Lending(loans, self._attempt, growth)

    def grows(self, lending: Lending) -> bool:
        assert self._kept.total_bytes is not None
        missing_bytes = self._kept.total_bytes - self._kept.held_bytes
        now_s = self._clock.monotonic()
        return lending.change(now_s, self._watch.received_bytes, missing_bytes, 1) > 0

    def receive_in_pieces(self, stream: Stream, lending: Lending | None, *, lent: bool) -> None:
        """Let a crew bring the rest; this thread hashes behind the front, and tells.

        ``lent``: a second connection was lent already. Raises Mismatch, after which the front is
        all that is kept.
        """
        kept = self._kept
        assert kept.total_bytes is not None
        crew = Crew(
            Tiling(kept.total_bytes, kept.part.size_bytes, kept.ranges),
            kept.part,
            stream,
            ask=self._ask_piece,
            lending=lending,
            received=partial(self._failpoints.pass_by, "transfer.received"),
            clock=self._clock,
            watched=self._watched,
            received_bytes=self._watch.received_bytes,
        )
        self._watch.also = crew.first_wanted
        try:
            if lent:
                crew.add()
            crew.work(partial(self._follow, crew))
        finally:
            crew.end()
            self._take_in(crew)  # nothing new, unless the attempt fails and keeps what is there
            self._watch.also = None

    def _ask_piece(self, start: int, end: int, wanted: Callable[[], bool]) -> Stream:
        asked = rest_of(self._kept.journal, start)
        assert asked is not None
        try:
            stream = self._asking.open(asked, end, wanted)
        except (OtherRange, RangeRefused) as exc:
            raise Mismatch(str(exc)) from None
        if stream.wish is not None:
            self._watch.pass_on(stream.wish)
        self._asking.note_ranges(asked, stream)
        if stream.start != start or not asked.agrees(self._kept.journal, stream):
            stream.close()
            raise Mismatch(f"other bytes than the range {start}-{end - 1} of this version")
        return stream

    def _follow(self, crew: Crew) -> None:
        """Take in what a crew has brought: hash it up to the first gap, tell, and checkpoint."""
        hashed_bytes = self._kept.part.size_bytes
        before_bytes = self._watch.received_bytes
        waited_s = self._take_in(crew)
        self._watch.pace.note(self._watch.received_bytes - before_bytes, waited_s)
        self._watch.tell_if_due()
        if self._reads_back:
            for data, end in self._kept.read_back(hashed_bytes):
                check_magic(self._rules, data, end - len(data))
                self._watch.tell_if_due()
        self._kept.mark_if_due()

    def _take_in(self, crew: Crew) -> float:
        """Let the part be as the crew has made it; returns for how long it waited for that."""
        front_bytes, ranges, self._watch.received_bytes, waited_s = crew.brought()
        self._kept.advance(front_bytes, ranges)
        return waited_s
