"""Which bytes of a file are there, who brings which of the rest, and when one more would help.

Arithmetic alone: no clock, no thread, no byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: No piece is cut so that less than this is left of it on either side. It is more than any
#: connection reads at a time: what is on its way into a piece never belongs to another.
LEAST_BYTES = 2 * 1024 * 1024

Range = tuple[int, int]
"""First byte, and the first one behind the last."""


@dataclass(slots=True, eq=False)
class Piece:
    """The bytes from ``at`` to ``end`` that one connection brings; only a Tiling moves them."""

    at: int
    end: int

    @property
    def left_bytes(self) -> int:
        return self.end - self.at


class Tiling:
    """A file of known size, of which each byte is there, or one piece's, or nobody's yet.

    ``front_bytes``: all bytes before are there; ``ranges``: what is there besides, in order, with
    a gap before each.
    """

    def __init__(self, total_bytes: int, front_bytes: int, ranges: Iterable[Range] = ()) -> None:
        self.total_bytes = total_bytes
        self.front_bytes = front_bytes
        self.ranges: tuple[Range, ...] = ()
        self._pieces: list[Piece] = []
        for each in ranges:
            self._add(*each)

    @property
    def complete(self) -> bool:
        return self.front_bytes == self.total_bytes

    @property
    def missing_bytes(self) -> int:
        return self.total_bytes - self.front_bytes - sum(end - at for at, end in self.ranges)

    def take(self) -> Piece | None:
        """Return a new piece: the first that nobody brings, else the half of the largest.

        None: nothing is left that is worth a connection.
        """
        at, end = next(self._gaps(), (0, 0))
        if at == end:
            largest = max(self._pieces, key=lambda piece: piece.left_bytes, default=None)
            if largest is None or largest.left_bytes < 2 * LEAST_BYTES:
                return None
            end = largest.end
            at = largest.end = largest.at + -(-largest.left_bytes // 2)
        piece = Piece(at, end)
        self._pieces.append(piece)
        return piece

    def arrived(self, piece: Piece, count_bytes: int) -> int:
        """Take in that the next bytes of a piece are there; returns how many of them were its own.

        The rest, of a piece that was taken over meanwhile, its new owner brings itself.
        """
        count_bytes = min(count_bytes, piece.left_bytes)
        if count_bytes:
            self._add(piece.at, piece.at + count_bytes)
            piece.at += count_bytes
        return count_bytes

    def extend(self, piece: Piece) -> bool:
        """Let a piece go on behind its end, up to what is there or another's; False: no byte."""
        for at, end in self._gaps():
            if at == piece.end:
                piece.end = end
                return True
        return False

    def leave(self, piece: Piece) -> None:
        """Let what is left of a piece be nobody's."""
        piece.end = piece.at
        self._pieces.remove(piece)

    def empty(self, piece: Piece) -> None:
        """As ``leave``, to the piece of a connection that is still to notice."""
        piece.end = piece.at

    def keep_front(self, piece: Piece | None = None) -> None:
        """Forget what is there behind the front; ``piece``, at the front, brings all of it."""
        assert piece is None or piece.at == self.front_bytes
        self.ranges = ()
        self._pieces = [] if piece is None else [piece]
        if piece is not None:
            piece.end = self.total_bytes

    def _gaps(self) -> Iterator[Range]:
        """Yield what neither is there nor is any piece's, in order."""
        taken = [(piece.at, piece.end) for piece in self._pieces if piece.left_bytes]
        at = self.front_bytes
        for start, end in sorted([*self.ranges, *taken]):
            if start > at:
                yield at, start
            at = max(at, end)
        if at < self.total_bytes:
            yield at, self.total_bytes

    def _add(self, start: int, end: int) -> None:
        kept: list[Range] = []
        for other in self.ranges:
            if other[1] < start or end < other[0]:
                kept.append(other)
            else:
                start, end = min(start, other[0]), max(end, other[1])
        if start <= self.front_bytes:
            self.front_bytes = max(self.front_bytes, end)
        else:
            kept.append((start, end))
        self.ranges = tuple(sorted(kept))


#: So long the speed is measured before it is compared, and so long a new connection may take to
#: come to speed.
MEASURED_S = 5.0
WARM_UP_S = 1.0
#: What was refused is asked for again after so long.
ASK_AGAIN_S = 1.0
#: Less time than this is not worth another connection.
WORTH_S = 10.0
#: A connection stays if all together have become so much faster by it.
PAYS = 1.2


class Growth:
    """When one more connection is worth asking for, and whether the latest has paid.

    ``most``: so many are wanted, at once; None: as many as pay, one after the other.
    """

    def __init__(self, most: int | None, now_s: float, received_bytes: int) -> None:
        self._most = most
        self._began = now_s, received_bytes  # of the measurement
        self._warm_s = now_s  # the measurement begins then
        self._before_bytes_per_s: float | None = None  # without the latest connection
        self._again_s = now_s  # nothing is asked for before
        self._over = most == 1

    def decide(
        self, now_s: float, received_bytes: int, missing_bytes: int, connections: int
    ) -> int:
        """Return +1: one more connection, -1: one less, 0: it is well as it is."""
        if self._over or now_s < self._again_s:
            return 0
        if self._most is not None:
            return int(connections < min(self._most, missing_bytes // LEAST_BYTES))
        began_s, began_bytes = self._began
        if began_s < self._warm_s:
            if now_s >= self._warm_s:
                self._began = now_s, received_bytes
            return 0
        if now_s - began_s < MEASURED_S:
            return 0
        bytes_per_s = (received_bytes - began_bytes) / (now_s - began_s)
        self._began = now_s, received_bytes
        before, self._before_bytes_per_s = self._before_bytes_per_s, None
        if before is not None and bytes_per_s < PAYS * before:
            self._over = True
            return -1
        if missing_bytes <= max(WORTH_S * bytes_per_s, 2 * LEAST_BYTES):
            return 0
        self._before_bytes_per_s = bytes_per_s
        self._warm_s = now_s + WARM_UP_S
        return 1

    def undo(self, now_s: float, received_bytes: int) -> None:
        """Take in that the connections are others than was decided: wait, and measure anew."""
        self._again_s = now_s + ASK_AGAIN_S
        self._began, self._warm_s = (now_s, received_bytes), now_s
        self._before_bytes_per_s = None

    def stop(self) -> None:
        """Ask for no more: a connection has failed."""
        self._over = True
