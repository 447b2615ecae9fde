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

    @property
    def offers(self) -> bool:
        """Whether ``take`` would return a piece."""
        most = max((piece.left_bytes for piece in self._pieces), default=0)
        return most >= 2 * LEAST_BYTES or next(self._gaps(), None) is not None

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


#: So long the speed is measured before the number of connections is judged; where more of them
#: are plainly faster, only the shorter time. New ones may take so long to come to speed.
MEASURED_S = 5.0
PLAIN_S = 1.0
WARM_UP_S = 1.0
#: What was refused is asked for again after so long.
ASK_AGAIN_S = 1.0
#: Less time than this is not worth more connections.
WORTH_S = 10.0
#: A connection stays if it adds so much of what each one brought before it came. It is a fifth of
#: all for the second connection.
PAYS = 0.2
#: It is plain that all new ones pay when they add so much of what they could besides.
PLAINLY = 0.5
#: With ``auto`` no file gets more.
MOST_CONNECTIONS = 16


class Growth:
    """How many connections a file is worth: twice as many, as long as the new ones pay.

    ``most``: so many, at once; None: as many as pay.
    """

    def __init__(self, most: int | None, now_s: float, received_bytes: int) -> None:
        self._most = most
        self._wanted = 1
        self._tried: tuple[int, float] | None = None  # connections and bytes/s before a step
        self._again_s = now_s  # nothing is asked for before
        self._over = most == 1
        self._measure(now_s, received_bytes)

    def decide(
        self, now_s: float, received_bytes: int, missing_bytes: int, connections: int
    ) -> int:
        """Return +1: one more connection, -1: one less, 0: it is well as it is."""
        if self._most is not None:
            if self._over or now_s < self._again_s:
                return 0
            return int(connections < min(self._most, missing_bytes // LEAST_BYTES))
        if self._over:
            self._wanted = min(self._wanted, connections)  # what has failed is not replaced
        if now_s >= self._warm_s > self._began_s:
            self._measure(now_s, received_bytes)
        elif now_s > self._began_s >= self._warm_s:
            bytes_per_s = (received_bytes - self._began_bytes) / (now_s - self._began_s)
            if self._judge(bytes_per_s, now_s - self._began_s):
                self._grow(bytes_per_s, missing_bytes)
                self._measure(now_s, received_bytes, WARM_UP_S if self._tried else 0.0)
        return (self._wanted > connections) - (self._wanted < connections)

    def _measure(self, now_s: float, received_bytes: int, warm_up_s: float = 0.0) -> None:
        self._began_s, self._began_bytes = now_s, received_bytes
        self._warm_s = now_s + warm_up_s

    def _judge(self, bytes_per_s: float, measured_s: float) -> bool:
        """Tell whether it was measured for long enough; let go then what has not paid."""
        if self._tried is None:
            return measured_s >= MEASURED_S
        before, before_bytes_per_s = self._tried
        new = self._wanted - before
        each_bytes_per_s = max(before_bytes_per_s / before, 1.0)
        gain = (bytes_per_s - before_bytes_per_s) / each_bytes_per_s  # as so many connections
        paying = min(new, max(0, int(gain + 1.0 - PAYS)))
        plain = paying == new and gain >= PLAINLY * new
        if measured_s < (PLAIN_S if plain else MEASURED_S):
            return False
        self._wanted = before + paying
        self._tried = None
        self._over = self._over or paying < new
        return True

    def _grow(self, bytes_per_s: float, missing_bytes: int) -> None:
        most = min(2 * self._wanted, MOST_CONNECTIONS, missing_bytes // LEAST_BYTES)
        if not self._over and most > self._wanted and missing_bytes > WORTH_S * bytes_per_s:
            self._tried = self._wanted, bytes_per_s
            self._wanted = most

    def settle_for(self, now_s: float, received_bytes: int, connections: int) -> None:
        """Take in that there can only be so many connections for now: wait, and measure anew.

        Those of a step that are left are still to be judged.
        """
        self._again_s = now_s + ASK_AGAIN_S
        self._wanted = connections
        if self._tried is not None and connections <= self._tried[0]:
            self._tried = None
        self._measure(now_s, received_bytes, WARM_UP_S if self._tried else 0.0)

    def stop(self) -> None:
        """Ask for no more: a connection has failed."""
        self._over = True
