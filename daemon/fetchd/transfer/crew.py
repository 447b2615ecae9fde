"""The connections that bring the pieces of one file at once, each on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from fetchd import threads
from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted, let_go
from fetchd.model import Attempt, Failure
from fetchd.ports import Loans, Part, Stream
from fetchd.secrets import hide
from fetchd.threads import Worker
from fetchd.transfer.segments import LEAST_BYTES, Growth, Piece, Range, Tiling

#: Whoever has nothing to bring takes over from one that has brought nothing for so long, beside
#: twice the time that a rate has held back the latest read of any.
STALLED_S = 5.0

_READ_BYTES = 256 * 1024
assert _READ_BYTES < LEAST_BYTES
#: How often one that waits looks after the others.
_LOOK_S = 0.25
_JOIN_S = 60.0


class Mismatch(Exception):
    """An answer is of another version, or of other bytes, than the piece that was asked for."""


class LeftAlone(NotWanted):
    """What is missing cannot be asked for now, and nothing is under way any more."""


#: Asks for the bytes of a piece (start, end, wanted). Raises Mismatch, AttemptError, NotWanted.
Ask = Callable[[int, int, Callable[[], bool]], Stream]


class Lending:
    """How many connections an attempt has, by what pays and by what its origin can spare.

    For the attempt's thread, but for ``ask``, ``failed`` and ``give_back``.
    """

    def __init__(self, loans: Loans, attempt: Attempt, growth: Growth) -> None:
        self._loans = loans
        self._attempt = attempt
        self._growth = growth

    def change(self, now_s: float, received_bytes: int, missing_bytes: int, now: int) -> int:
        """Return +1: one more than ``now`` was lent; -1: one is to be given back; 0: neither."""
        if now > 1 and self._loans.recalled(self._attempt):
            self._growth.settle_for(now_s, received_bytes, now - 1)
            return -1
        change = self._growth.decide(now_s, received_bytes, missing_bytes, now)
        if change > 0 and not self._loans.lend(self._attempt):
            self._growth.settle_for(now_s, received_bytes, now)
            return 0
        return change

    def stop(self) -> None:
        """Ask for no more."""
        self._growth.stop()

    def ask(self) -> bool:
        """Count one more request; False: not now."""
        return self._loans.ask(self._attempt)

    def failed(self, error: AttemptError, asked_s: float) -> None:
        """Tell of a connection that has failed, before its loan is given back."""
        failure = Failure(
            code=error.code,
            reason=hide(error.reason),
            transient=error.transient,
            retry_after_s=error.retry_after_s,
            status=error.status,
            origin=error.origin,
        )
        self._loans.connection_failed(self._attempt, failure, asked_s)

    def give_back(self) -> None:
        self._loans.give_back(self._attempt)


class _Connection:
    """One connection, which brings one piece after the other. ``extra``: it is a lent one."""

    def __init__(self, number: int, first: Stream | None, piece: Piece | None) -> None:
        self.number = number
        self.first = first  # to the end of the file, whatever the piece; None: not any more
        # All of the following is guarded by the crew's lock.
        self.piece = piece
        self.leaving = False
        self.seen_s = 0.0  # when it asked for its piece, or brought something last
        self.held_s = 0.0  # its latest read, by a rate

    @property
    def extra(self) -> bool:
        return self.number > 0

    def wanted(self) -> bool:
        """Tell the transport's supervisor whether the wait under way is still for somebody."""
        piece = self.piece
        return not self.leaving and (piece is None or piece.left_bytes > 0)


class Crew:
    """Brings what a tiling misses into a part. The methods are for the attempt's thread.

    The first connection goes on with the stream that the attempt began with; others are lent. One
    that fails ends alone, and the others bring the rest.
    """

    def __init__(
        self,
        tiling: Tiling,
        part: Part,
        stream: Stream,
        *,
        ask: Ask,
        lending: Lending | None,
        received: Callable[[], None],
        clock: Clock,
        watched: set[Worker],
        received_bytes: int,
    ) -> None:
        """``received`` is called for each read, ``watched`` holds the running threads.

        ``received_bytes``: of this attempt, before.
        """
        self._part = part
        self._ask = ask
        self._lending = lending
        self._received = received
        self._clock = clock
        self._watched = watched
        self._name = threading.current_thread().name
        self._numbers = 0
        self._changed = threading.Condition(threading.Lock())
        # All of the following is guarded by _changed.
        self._tiling = tiling
        self._connections: dict[_Connection, Worker] = {}
        self._ended: list[Worker] = []
        self._trouble: BaseException | None = None
        self._failed: AttemptError | None = None  # the first connection's, else the latest
        self._received_bytes = received_bytes
        self._waited_s = 0.0
        piece = tiling.take()
        assert piece is not None
        assert piece.at == tiling.front_bytes
        self._first = _Connection(0, stream, piece)
        self._start(self._first)

    # ------------------------------------------------------------ what the attempt asks

    def add(self) -> None:
        """Begin another connection, which was lent; none where the system gives no thread."""
        try:
            self._start(_Connection(self._numbers, None, None))
        except RuntimeError:
            if self._lending is not None:
                self._lending.stop()
            self._give_back()

    def work(self, follow: Callable[[], None]) -> None:
        """Return when everything is there; ``follow`` is called often, and once at the end.

        Raises Mismatch where the front is all that can be kept, and what concerns all connections.
        """
        while True:
            if self._lending is not None:
                self._adjust(self._lending)
            more = self._wait()
            follow()
            with self._changed:
                trouble, failed, complete = self._trouble, self._failed, self._tiling.complete
            if isinstance(trouble, Mismatch):
                if self._lending is not None:
                    self._lending.stop()
                alone = self._alone()
                follow()
                if not alone:
                    raise trouble
            elif trouble is not None:
                raise trouble
            elif complete:
                follow()  # the last bytes may have come since
                return
            elif not more:
                assert failed is not None
                raise failed

    def end(self) -> None:
        """End all connections; nothing is written any more on return."""
        with self._changed:
            everyone = dict(self._connections)
        self._end(everyone)
        with self._changed:
            self._trouble = self._failed = None  # they hold frames that hold the crew

    def first_wanted(self) -> bool:
        """As ``wanted`` of the streams that were asked for here, for the one that was there."""
        return self._first.wanted()

    def brought(self) -> tuple[int, tuple[Range, ...], int, float]:
        """Return (front, ranges, bytes received, seconds that a connection waited for new ones)."""
        with self._changed:
            waited_s = self._waited_s / max(1, len(self._connections))
            self._waited_s = 0.0
            tiling = self._tiling
            return tiling.front_bytes, tiling.ranges, self._received_bytes, waited_s

    # ------------------------------------------------------------ how many connections

    def _wait(self) -> bool:
        """Wait for bytes for a while; False: there is nothing more to wait for."""
        with self._changed:
            if self._busy():
                with threads.ANOTHER:
                    self._clock.wait(self._changed, _LOOK_S)
            return self._busy()

    def _busy(self) -> bool:
        return bool(self._connections) and self._trouble is None and not self._tiling.complete

    def _adjust(self, lending: Lending) -> None:
        while True:
            now_s = self._clock.monotonic()
            with self._changed:
                if self._trouble or self._failed or self._tiling.complete:
                    lending.stop()
                connections = sum(not each.leaving for each in self._connections)
                received_bytes, missing_bytes = self._received_bytes, self._tiling.missing_bytes
            change = lending.change(now_s, received_bytes, missing_bytes, connections)
            if change <= 0:
                break
            self.add()
        if change < 0:
            self._drop()

    def _drop(self) -> None:
        """Let the latest of the lent connections leave, as soon as it can."""
        with self._changed:
            extras = [each for each in self._connections if each.extra]
            if extras and not any(each.leaving for each in extras):
                extras[-1].leaving = True
                self._changed.notify_all()

    def _alone(self) -> bool:
        """End all lent connections, and let the first stream bring everything behind the front.

        False: it is not there any more, and all have ended.
        """
        with self._changed:
            extras = {c: worker for c, worker in self._connections.items() if c.extra}
        self._end(extras)
        with self._changed:
            piece = self._first.piece
            if self._first.first is not None and piece is not None and piece.left_bytes:
                self._tiling.keep_front(piece)
                self._trouble = None
                return True
        self.end()
        with self._changed:
            self._tiling.keep_front()
        return False

    def _give_back(self) -> None:
        if self._lending is not None:
            self._lending.give_back()

    # ------------------------------------------------------------ threads

    def _start(self, connection: _Connection) -> None:
        connection.seen_s = self._clock.monotonic()
        worker = Worker(
            f"{self._name}-segment-{connection.number}",
            lambda worker: self._work(connection, worker),
            self._clock,
            lambda worker, exc: self._left(connection, worker, exc),
        )
        self._numbers += 1
        with self._changed:
            self._connections[connection] = worker
        self._watched.add(worker)
        try:
            worker.start()
        except BaseException:
            self._watched.discard(worker)
            with self._changed:
                del self._connections[connection]
            raise

    def _end(self, connections: dict[_Connection, Worker]) -> None:
        with self._changed:
            for connection in connections:
                connection.leaving = True
            self._changed.notify_all()
        for worker in connections.values():
            with threads.ANOTHER:
                while not worker.join(_JOIN_S):
                    pass
        with self._changed:
            ended, self._ended = self._ended, []
        for worker in ended:
            worker.join(_JOIN_S)

    def _left(self, connection: _Connection, worker: Worker, error: BaseException | None) -> None:
        """Take in that a connection has ended (called on its thread)."""
        self._watched.discard(worker)
        if isinstance(error, AttemptError):
            self._tell(connection, error)
        with self._changed:
            self._connections.pop(connection, None)
            self._ended.append(worker)
            if connection.piece is not None:
                self._tiling.leave(connection.piece)
                connection.piece = None
            connection.first = None
            if isinstance(error, AttemptError):
                if self._failed is None or not connection.extra:
                    self._failed = error
            elif error is not None and not (isinstance(error, NotWanted) and connection.leaving):
                self._trouble = self._trouble or error
            self._changed.notify_all()
        if connection.extra:
            self._give_back()

    def _tell(self, connection: _Connection, error: AttemptError) -> None:
        """Let the origin be judged by a failure, unless it will be the attempt's own."""
        with self._changed:
            last = len(self._connections) == 1 and self._failed is None
            asked_s = connection.seen_s
        if self._lending is not None and not last:
            self._lending.failed(error, asked_s)

    # ------------------------------------------------------------ a connection's thread

    def _work(self, connection: _Connection, worker: Worker) -> None:
        worker.beat()
        buffer = memoryview(bytearray(_READ_BYTES))
        try:
            piece = connection.piece or self._next(connection)
            while piece is not None:
                try:
                    self._bring(connection, piece, buffer)
                except NotWanted as exc:
                    if piece.left_bytes:
                        raise
                    let_go(exc)  # another has taken the piece over
                piece = self._next(connection)
        except BaseException as exc:  # noqa: BLE001 -- handed to the attempt's thread
            let_go(exc)
            self._left(connection, worker, exc)
        else:
            self._left(connection, worker, None)

    def _next(self, connection: _Connection) -> Piece | None:
        """Return the next piece, waiting for one as long as others are at work; None: go home.

        Raises LeftAlone.
        """
        with self._changed:
            connection.first = None
            if connection.piece is not None:
                self._tiling.leave(connection.piece)
                connection.piece = None
            while not connection.leaving and self._trouble is None and not self._tiling.complete:
                stalled = None if self._tiling.offers else self._stalled()
                if self._tiling.offers or stalled is not None:
                    if self._lending is None or self._lending.ask():
                        if stalled is not None:
                            self._tiling.empty(stalled)
                        connection.piece = self._tiling.take()
                        connection.seen_s = self._clock.monotonic()
                        return connection.piece
                    if not any(c.piece and c.piece.left_bytes for c in self._connections):
                        raise LeftAlone
                with threads.ANOTHER:
                    self._clock.wait(self._changed, _LOOK_S)
            return None

    def _stalled(self) -> Piece | None:
        """Return the piece of a connection that has stalled; the lock is held."""
        held_s = max(other.held_s for other in self._connections)
        before_s = self._clock.monotonic() - STALLED_S - 2.0 * held_s
        for other in self._connections:
            piece = other.piece
            if piece is not None and piece.left_bytes and other.seen_s <= before_s:
                return piece
        return None

    def _left_bytes(self, connection: _Connection, piece: Piece) -> int:
        """Return how much of its piece a connection has to bring yet."""
        if not piece.left_bytes and connection.first is not None:
            with self._changed:
                self._tiling.extend(piece)  # its stream goes on; the other one has failed
        return piece.left_bytes

    def _bring(self, connection: _Connection, piece: Piece, buffer: memoryview) -> None:
        stream = connection.first or self._ask(piece.at, piece.end, connection.wanted)
        with closing(stream):
            self._copy(connection, piece, stream, buffer)

    def _copy(
        self, connection: _Connection, piece: Piece, stream: Stream, buffer: memoryview
    ) -> None:
        while room_bytes := min(len(buffer), self._left_bytes(connection, piece)):
            before_s = self._clock.monotonic()
            got = stream.readinto(buffer[:room_bytes])
            now_s = self._clock.monotonic()
            if got == 0:
                raise AttemptError(
                    "short_body", f"the body ended at byte {piece.at}, not {piece.end}"
                )
            try:
                self._part.write_at(buffer[:got], piece.at)
            except BaseException as exc:
                with self._changed:
                    self._trouble = self._trouble or exc
                raise
            self._received()
            with self._changed:
                own = self._tiling.arrived(piece, got)
                self._received_bytes += got
                self._waited_s += now_s - before_s - stream.held_s
                connection.held_s = stream.held_s
                connection.seen_s = now_s
                if self._tiling.complete:
                    self._changed.notify_all()
                if connection.leaving or own < got:
                    return  # what another has taken over is behind this stream already
