"""Ends waits from outside: one thread shuts down the socket of whoever waits too long."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from fetchd import threads
from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted
from fetchd.threads import Worker

#: How often every wait is looked at. A wait ends at most this much later than it should.
TICK_S = 0.25
#: Whoever was cut off goes on within this time; a thread that does not is stuck.
_GOES_ON_S = 15.0


class _Limit(NamedTuple):
    """A wait under way: when it must be over, and what it is called if it is not."""

    until_s: float
    code: str
    reason: str


class Watch:
    """The waits of one attempt. Used by the attempt's thread; ``judge`` by the supervisor.

    A read whose socket was shut down returns as if the peer had ended the connection. So
    whoever waited asks ``check`` or ``end`` afterwards, before it believes what it got.
    """

    def __init__(
        self,
        clock: Clock,
        wanted: Callable[[], bool],
        deadline_s: float | None,
        forget: Callable[[Watch], None],
    ) -> None:
        self._clock = clock
        self._wanted = wanted
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._forget = forget
        # Swapped whole by the attempt's thread, read by the supervisor: no lock needed.
        self._limit: _Limit | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # guarded by _lock
        # Set once, under _lock, before the socket is shut down: whoever was cut finds it.
        self._cut: AttemptError | NotWanted | None = None

    def begin(self, most_s: float, code: str, reason: str) -> None:
        """Say that a wait of at most ``most_s`` seconds begins; it ends any earlier one.

        Raises at once if the attempt was cut, its deadline is over, or it is not wanted.
        """
        now_s = self._clock.monotonic()
        self._limit = _Limit(now_s + most_s, code, reason)
        threads.beat(max(0.0, most_s) + _GOES_ON_S)
        if now_s >= self._deadline_s:
            self.judge()
        self.check()

    def left_s(self) -> float:
        """Return how long the attempt may still last, for waits that cannot be cut from outside."""
        return max(0.001, self._deadline_s - self._clock.monotonic())

    def end(self) -> None:
        """Say that the wait is over; raises what it was cut for."""
        self._limit = None
        threads.beat()
        self.check()

    def check(self) -> None:
        """Raise what the attempt was cut for, if it was: AttemptError or NotWanted."""
        if self._cut is not None:
            raise self._cut

    def bind(self, sock: socket.socket) -> None:
        """Name the socket that a wait hangs on. It must be released before it is closed."""
        with self._lock:
            self._socket = sock
            if self._cut is not None:
                self._shut_down()

    def release(self) -> None:
        """Take the socket out of reach; it may serve another attempt from now on."""
        with self._lock:
            self._socket = None

    def close(self) -> None:
        """End the supervision of this attempt."""
        if self._limit is not None:
            self._limit = None
            threads.beat()
        self.release()
        self._forget(self)

    def judge(self) -> None:
        """Cut the wait under way if it is too long, or for nobody any more."""
        limit = self._limit
        if limit is None:
            return
        now_s = self._clock.monotonic()
        cut: AttemptError | NotWanted
        if now_s >= self._deadline_s:
            cut = AttemptError("deadline", "the time limit of the attempt ran out")
        elif now_s >= limit.until_s:
            cut = AttemptError(limit.code, limit.reason)
        elif not self._wanted():
            cut = NotWanted()
        else:
            return
        with self._lock:
            if self._cut is None:
                self._cut = cut
                self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed or disconnected by itself: as good
                # Not SSLSocket.shutdown: that drops the TLS layer first, and the reader would
                # get ciphertext as if it were the body.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Deadlines:
    """The supervisor and its thread, ``deadlines``."""

    def __init__(self, clock: Clock, on_death: Callable[[Worker, BaseException], None]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._watches: set[Watch] = set()  # guarded by _lock
        self._idle = False  # guarded by _lock
        self.worker = Worker("deadlines", self._work, clock, on_death)
        self.worker.start()

    def watch(self, wanted: Callable[[], bool], deadline_s: float | None) -> Watch:
        """Begin to supervise an attempt. ``deadline_s`` monotonic, None: none.

        ``wanted`` is also called by the supervisor's thread; it must be quick.
        """
        watch = Watch(self._clock, wanted, deadline_s, self._forget)
        with self._lock:
            self._watches.add(watch)
            if self._idle:
                self._condition.notify()
        return watch

    def close(self) -> None:
        self.worker.stop()
        with self._condition:
            self._condition.notify()
        self.worker.join(5)

    def _forget(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def _work(self, worker: Worker) -> None:
        while True:
            with self._condition:
                worker.rest()
                # Asleep without a watch, else a steady tick: begins and ends of waits, thousands
                # a second with small files, wake nobody.
                self._idle = not self._watches
                if not worker.stopping:
                    self._clock.wait(self._condition, None if self._idle else TICK_S)
                self._idle = False
                if worker.stopping:
                    return
                watches = list(self._watches)
            worker.beat()
            for watch in watches:
                watch.judge()
