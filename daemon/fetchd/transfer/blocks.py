"""Which blocks of a wrong file are held against another source next, and when to stop for a look.

Arithmetic alone: no clock, no thread, no byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from fetchd.transfer.segments import Range

#: No more is asked for at once, for what comes behind the last block of use comes in vain.
_MOST_BLOCKS = 64
#: So often all of the file is read for its digest before all of it is compared.
_MOST_TRIES = 8

_UNKNOWN, _SAME, _OTHER = range(3)
_KNOWN = bytes.maketrans(bytes([_OTHER]), bytes([_SAME]))


class Search:
    """The search for the damaged blocks of a file. Each is compared once at most.

    First come the blocks at places where something could have gone wrong; from each one that
    differs its neighbours, outward until they agree; then the others, in order.
    """

    def __init__(
        self,
        total_bytes: int,
        doubtful: Iterable[int],
        compared: Iterable[Range],
        block_bytes: int,
    ) -> None:
        """``doubtful``: offsets; ``compared``: what was compared before, as of ``compared``."""
        self._total_bytes = total_bytes
        self._block_bytes = block_bytes
        self._blocks = bytearray(-(-total_bytes // block_bytes))
        compared = tuple(compared)
        count = len(self._blocks)
        for start, end in compared:
            first = -(-start // block_bytes)
            behind = count if end >= total_bytes else end // block_bytes
            self._blocks[first:behind] = bytes([_SAME]) * (behind - first)
        # Where a search was broken off, it may have been at a block that differed.
        places = [*doubtful, *(edge for each in compared for edge in each)]
        both = {at // block_bytes for place in places for at in (place - 1, place)}
        self._doubtful = sorted(at for at in both if 0 <= at < count)
        self._neighbours: list[int] = []
        self._ordered = 1  # how many of the others are asked for next
        self._tries_left = _MOST_TRIES
        self._found = False  # a block that differs, since the last try

    def next(self) -> Range | None:
        """Return what to compare next, whole blocks; None: all is compared."""
        at = self._first_unknown(self._neighbours)
        if at is not None:
            return self._outward(at)
        at = self._first_unknown(self._doubtful)
        if at is not None:
            return self._unknown(at, at + 2 if at + 1 in self._doubtful[1:2] else at + 1)
        # The first block comes last: an answer with the whole file looks like one with its range.
        at = self._blocks.find(_UNKNOWN, 1)
        if at >= 0:
            most, self._ordered = self._ordered, min(_MOST_BLOCKS, 2 * self._ordered)
            return self._unknown(at, at + most)
        return self._bytes_of(0, 1) if _UNKNOWN in self._blocks else None

    def blocks_of(self, stretch: Range) -> Iterator[Range]:
        """Yield the blocks of what ``next`` has returned, one after the other."""
        start, end = stretch
        yield from pairwise([*range(start, end, self._block_bytes), end])

    def note(self, block: Range, *, differs: bool) -> None:
        """Take in how a block compares; one that differs has been replaced."""
        index = block[0] // self._block_bytes
        assert self._blocks[index] == _UNKNOWN
        self._blocks[index] = _OTHER if differs else _SAME
        if differs:
            self._found = True
            self._neighbours += (index - 1, index + 1)

    @property
    def due(self) -> bool:
        """Whether the digest should be tried: what was found damaged is mended to its ends."""
        if not self._found or not self._tries_left:
            return False
        return self._first_unknown(self._neighbours) is None and _UNKNOWN in self._blocks

    def tried(self) -> None:
        """Take in that the digest was tried and is still another one."""
        self._found = False
        self._tries_left -= 1

    @property
    def compared(self) -> tuple[Range, ...]:
        """What is the same in both by now, in order, with a gap before each."""
        known = self._blocks.translate(_KNOWN)
        ranges: list[Range] = []
        at = known.find(_SAME)
        while at >= 0:
            end = known.find(_UNKNOWN, at)
            end = len(known) if end < 0 else end
            ranges.append(self._bytes_of(at, end))
            at = known.find(_SAME, end)
        return tuple(ranges)

    def _first_unknown(self, queue: list[int]) -> int | None:
        """Return the first block of a queue that is to be compared, and drop those before it."""
        while queue:
            if 0 <= queue[0] < len(self._blocks) and self._blocks[queue[0]] == _UNKNOWN:
                return queue[0]
            del queue[0]
        return None

    def _outward(self, at: int) -> Range:
        """Return as much again as differs beside ``at``, lest there be many questions."""
        if at and self._blocks[at - 1] == _OTHER:
            return self._unknown(at, at + self._run(at - 1, -1))
        start, most = at, self._run(at + 1, 1)
        while start and self._blocks[start - 1] == _UNKNOWN and at + 1 - start < most:
            start -= 1
        return self._unknown(start, at + 1)

    def _run(self, at: int, step: int) -> int:
        """Count the blocks that differ from ``at`` on, as far as they matter."""
        count = 0
        while count < _MOST_BLOCKS and 0 <= at < len(self._blocks) and self._blocks[at] == _OTHER:
            count, at = count + 1, at + step
        return count

    def _unknown(self, first: int, behind: int) -> Range:
        """Return the bytes of the blocks from ``first`` on that nobody has compared."""
        end = first
        while end < min(behind, len(self._blocks)) and self._blocks[end] == _UNKNOWN:
            end += 1
        return self._bytes_of(first, end)

    def _bytes_of(self, first: int, behind: int) -> Range:
        return first * self._block_bytes, min(behind * self._block_bytes, self._total_bytes)
