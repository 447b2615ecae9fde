"""What a part holds of its file: the bytes, their digests so far, and what its journal says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from fetchd.clock import Clock, Failpoints
from fetchd.digests import Digest, Hashes
from fetchd.errors import AttemptError
from fetchd.model import Dossier, Rules, Validator
from fetchd.ports import Part, PartJournal
from fetchd.transfer.resume import is_strong
from fetchd.transfer.segments import Range
from fetchd.transfer.verify import fits_magic

#: Given up of a part on a full disk, so that its journal finds room.
_JOURNAL_ROOM_BYTES = 64 * 1024
#: No journal names more places where bytes of several answers meet.
_MOST_SEAMS = 32
#: With these the bytes that an attempt has written are of no use to the next one.
_WORTHLESS = {"checksum_mismatch", "bad_size", "expectation_failed", "too_large"}


class Kept:
    """An open part and all that is known of it. One thread.

    ``ranges``: what it has behind its front; ``seams``, ``mixed``: as in its journal;
    ``total_bytes``: of the whole file, as its journal or the latest answer says;
    ``resumed_from_bytes``: how many of an earlier attempt are used; ``wrote``: it holds bytes of
    this attempt; ``ended``: the body came to its end; ``overflowed``: bytes without an announced
    end met a full disk.
    """

    journal: PartJournal  # what a checkpoint says, but for lengths; from ``begin`` on
    _resumable: bool

    def __init__(
        self,
        part: Part,
        wanted: tuple[Digest, ...],
        buffer: memoryview,
        clock: Clock,
        failpoints: Failpoints,
        *,
        checkpoint_bytes: int,
        checkpoint_s: float,
        opened_s: float,
    ) -> None:
        """``checkpoint_bytes``, ``checkpoint_s``: a checkpoint is due after either."""
        self.part = part
        said = part.journal
        self.ranges: tuple[Range, ...] = said.ranges if said else ()
        self.seams = said.seams if said else ()
        self.mixed = said.mixed if said else False
        self.total_bytes = said.total if said else None
        self.resumed_from_bytes = 0
        self.wrote = False
        self.ended = False
        self.overflowed = False
        self._wanted = wanted
        self._algorithms = {digest.algorithm for digest in wanted}
        self.hashes = Hashes(self._algorithms)
        self._buffer = buffer
        self._clock = clock
        self._failpoints = failpoints
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint_s = checkpoint_s
        self._marked_bytes = 0  # held at the last checkpoint, or when one was due
        self._marked_s = opened_s

    # ------------------------------------------------------------ what there is

    @property
    def durable_bytes(self) -> int:
        return self.part.journal.held_bytes if self.part.journal else 0

    @property
    def held_bytes(self) -> int:
        return self.part.size_bytes + sum(end - start for start, end in self.ranges)

    @property
    def complete(self) -> bool:
        """Whether its journal says that the part is the whole of a file."""
        journal = self.part.journal
        return journal is not None and journal.total == self.part.size_bytes

    def passes(self, rules: Rules) -> bool:
        """Tell whether the bytes pass ``expect.magic``, which may be newer than they are."""
        for magic in rules.magic:
            room = self._buffer[: magic.end_bytes - magic.offset_bytes]
            got = self.part.readinto(room, magic.offset_bytes)
            if not fits_magic(rules, room[:got], magic.offset_bytes):
                return False
        return True

    def hash_all(self, tell: Callable[[int, int], None]) -> None:
        """Hash all that is there; ``tell`` hears how much of how much has been read."""
        self.hashes = Hashes(self._algorithms)
        for _, end in self.read_back(0):
            tell(end, self.part.size_bytes)

    def read_back(self, offset: int) -> Iterator[tuple[memoryview, int]]:
        """Read the part from an offset to its front, hash it, and yield each read and its end."""
        while offset < self.part.size_bytes:
            read = self.part.readinto(self._buffer[: self.part.size_bytes - offset], offset)
            if read == 0:
                raise AttemptError("disk_error", f"the part cannot be read behind byte {offset}")
            self.hashes.update(self._buffer[:read])
            offset += read
            yield self._buffer[:read], offset

    def digests_hold(self) -> bool:
        return set(self._wanted) <= set(self.hashes.digests())

    # ------------------------------------------------------------ what comes to it

    def begin(self, journal: PartJournal) -> None:
        """Take in whose bytes come next; the journal's lengths do not matter."""
        self.journal = journal
        self.total_bytes = journal.total
        self._resumable = bool(self._wanted) or is_strong(journal.validator)
        self._marked_bytes = self.part.size_bytes
        if self.part.size_bytes:
            self._note_seam(self.part.size_bytes)
            was = self.part.journal
            self.mixed = self.mixed or (was is not None and was.url != journal.url)

    def write(self, data: memoryview) -> None:
        self.wrote = True
        self.part.write(data)
        self.hashes.update(data)

    def advance(self, front_bytes: int, ranges: tuple[Range, ...]) -> None:
        """Let the part be as several connections have made it; nothing is hashed by that."""
        self.wrote = True
        self.ranges = ranges
        self.part.advance(front_bytes)
        for start, _ in ranges:
            self._note_seam(start)

    def mark_if_due(self) -> None:
        """Make a checkpoint if enough has come for one, or enough time has passed."""
        held_bytes = self.held_bytes
        due = held_bytes - self._marked_bytes >= self._checkpoint_bytes
        if due or self._clock.monotonic() - self._marked_s >= self._checkpoint_s:
            if self._resumable:
                self._checkpoint()
            self.claim()
            self._marked_bytes, self._marked_s = held_bytes, self._clock.monotonic()

    def claim(self) -> None:
        """Claim room for what is missing, as far as that is known."""
        self.part.claim(max(0, (self.total_bytes or 0) - self.held_bytes))

    def _note_seam(self, offset: int) -> None:
        if offset not in self.seams and len(self.seams) < _MOST_SEAMS:
            self.seams += (offset,)

    def _now(self) -> PartJournal:
        return replace(
            self.journal,
            durable_bytes=self.part.size_bytes,
            ranges=self.ranges,
            seams=self.seams,
            mixed=self.mixed,
        )

    def _checkpoint(self) -> None:
        self.part.checkpoint(self._now())
        self._failpoints.pass_by("transfer.checkpointed")

    # ------------------------------------------------------------ what goes from it

    def empty(self) -> None:
        """Begin at the first byte again."""
        self.part.truncate()
        self.ranges = self.seams = ()
        self.mixed = False
        self.total_bytes = None
        self.hashes = Hashes(self._algorithms)
        self.resumed_from_bytes = 0

    def drop_ranges(self) -> None:
        """Keep the front alone, durably: what is written behind it next may be of other bytes."""
        self.ranges = ()
        self.resumed_from_bytes = min(self.resumed_from_bytes, self.part.size_bytes)
        self.part.checkpoint(self._now())
        self.part.truncate(self.part.size_bytes)

    def leave(self, code: str, dossier: Dossier | None, *, suspect: bool) -> Dossier | None:
        """Keep what a later attempt can use, remove what it cannot; the first error stands.

        ``code`` of that error, "": nobody wants the file any more; ``suspect``: all of it is to be
        kept for a repair. Returns the dossier with the place where refused bytes are kept aside
        for people.
        """
        if suspect and self._keep_suspect():
            return dossier
        part = self.part
        useless = self.wrote and (code in _WORTHLESS or not self._resumable)
        # What overflows `size` may have no end, so it is worth no room: only a whole body is.
        refused = self.wrote and (code == "expectation_failed" or (self.ended and dossier))
        if code == "disk_full":
            part.drop_quarantined()
            # It may have no end at all, and would keep the room that everybody waits for.
            self.overflowed = self.total_bytes is None and part.size_bytes > 0
        with suppress(AttemptError):
            if refused:
                return self._quarantine(dossier)
            if useless or self.overflowed or code == "disk_error" or part.size_bytes == 0:
                part.discard()
            elif self.wrote and self.held_bytes > self.durable_bytes:
                if code == "disk_full":
                    durable_bytes = part.journal.durable_bytes if part.journal else 0
                    part.truncate(max(durable_bytes, part.size_bytes - _JOURNAL_ROOM_BYTES))
                    self.ranges = ()
                self._checkpoint()
        return dossier

    def _keep_suspect(self) -> bool:
        """Keep the whole of a file that has a wrong digest; no validator vouches for it any more.

        So only a digest can ever make it good. False: the disk would not have it.
        """
        size_bytes = self.part.size_bytes
        with suppress(AttemptError):
            self.part.checkpoint(replace(self._now(), total=size_bytes, validator=Validator()))
            self._failpoints.pass_by("transfer.suspected")
            return True
        return False

    def _quarantine(self, dossier: Dossier | None) -> Dossier | None:
        """Keep refused bytes aside, or none where even that fails."""
        assert dossier is not None
        try:
            return replace(dossier, quarantine=self.part.quarantine())
        except AttemptError:
            self.part.discard()
        return dossier
