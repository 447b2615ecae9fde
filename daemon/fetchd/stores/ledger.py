"""The one thread that owns the database connection, and its group commits."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fetchd.clock import Clock
from fetchd.errors import StoreError
from fetchd.threads import ANOTHER, Worker

T = TypeVar("T")

#: Writes that nobody waits for may lie uncommitted this long, to share a commit with others.
LINGER_S = 0.05
#: After this many writes a group is committed, whoever else is waiting.
MOST_IN_GROUP = 2000
#: One statement or commit takes no longer, on however slow and busy a disk.
STUCK_AFTER_S = 600.0
#: An end of the process does not wait longer for a database that hangs.
CLOSE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Item:
    """``done`` gets the result: of a write once it is durable, of a read at once."""

    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    done: Callable[[Any], None] | None
    failed: Callable[[StoreError], None] | None = None


class Ledger:
    """Carries out work on the connection, in the order of the calls, in shared transactions.

    ``on_failure`` is told once, on the ledger's thread, when the database fails; from then on
    every call raises StoreError and nothing more is written.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        clock: Clock,
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._clock = clock
        self._on_failure = on_failure
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._putting = threading.Lock()
        # Guarded by _putting, so that what is in the queue is always done or refused.
        self._failure: StoreError | None = None
        self._last = False  # no more items but the ledger's own; ledger thread only
        opened: Future[None] = Future()
        self.worker = Worker(
            "ledger",
            lambda _: self._run(connect, opened),
            clock,
            lambda _, exc: self._fail(exc, deque()),
            within_s=STUCK_AFTER_S,
        )
        self.worker.start()
        opened.result()

    def post(
        self,
        work: Callable[[sqlite3.Connection], Any],
        then: Callable[[Any], None] | None = None,
    ) -> None:
        """Have a write done; ``then`` gets its result on the ledger's thread once durable."""
        self._put(_Item(work, writes=True, done=then))

    def ask(self, work: Callable[[sqlite3.Connection], T], then: Callable[[T], None]) -> None:
        """Have a read done; ``then`` gets its result on the ledger's thread."""
        self._put(_Item(work, writes=False, done=then))

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do a write and return its result after it is durable; raises StoreError."""
        return self._wait(work, writes=True)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a read; raises StoreError."""
        return self._wait(work, writes=False)

    def close(self) -> None:
        """Commit everything, what the last callbacks ask for too; end the thread. Idempotent.

        A thread that hangs is left behind after ten seconds.
        """
        with self._putting:
            if self._failure is None:
                self._failure = StoreError("the store is closed")
                self._items.put(None)
        if not self.worker.here():
            with ANOTHER:
                self.worker.join(CLOSE_WITHIN_S)

    def _wait(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        if self.worker.here():
            raise StoreError("the ledger's own thread cannot wait for itself")
        answer: Future[T] = Future()
        self._put(_Item(work, writes, answer.set_result, answer.set_exception))
        with ANOTHER:
            return answer.result()

    def _put(self, item: _Item) -> None:
        with self._putting:
            if self._failure is not None and not self.worker.here():
                raise self._failure
            self._items.put(item)

    def _run(self, connect: Callable[[], sqlite3.Connection], opened: Future[None]) -> None:
        try:
            connection = connect()
        except BaseException as exc:  # noqa: BLE001 -- handed to the caller of the constructor
            opened.set_exception(exc)
            return
        opened.set_result(None)
        group: deque[tuple[_Item, Any]] = deque()
        try:
            while self._group(connection, group):
                pass
        except BaseException as exc:  # noqa: BLE001 -- any end of the one writer is fatal
            self._fail(exc, group)
        finally:
            connection.close()

    def _group(self, connection: sqlite3.Connection, group: deque[tuple[_Item, Any]]) -> bool:
        """Do the work of one transaction; False after the last one."""
        until_s = 0.0
        urgent = False
        while True:
            try:
                if not group and not self._last:
                    self.worker.rest()
                    item = self._items.get()
                elif urgent or self._last:
                    item = self._items.get_nowait()
                else:
                    left_s = until_s - self._clock.monotonic()
                    item = (
                        self._items.get(timeout=left_s) if left_s > 0 else self._items.get_nowait()
                    )
            except queue.Empty:
                break
            self.worker.beat()
            if item is None:
                self._last = True
                continue
            if not item.writes:
                self._read(connection, item)
                continue
            group.append((item, None))  # before the work, so that its failure finds it
            if len(group) == 1:
                connection.execute("BEGIN IMMEDIATE")
                until_s = self._clock.monotonic() + LINGER_S
            group[-1] = (item, item.work(connection))
            urgent = urgent or item.done is not None
            if len(group) >= MOST_IN_GROUP:
                break
        self._commit(connection, group)
        return not (self._last and self._items.empty())

    def _commit(self, connection: sqlite3.Connection, group: deque[tuple[_Item, Any]]) -> None:
        if not group:
            return
        self.worker.beat()
        connection.execute("COMMIT")
        while group:  # whoever is behind a callback that raises hears of the failure
            item, result = group.popleft()
            if item.done is not None:
                item.done(result)

    def _read(self, connection: sqlite3.Connection, item: _Item) -> None:
        assert item.done is not None
        try:
            result = item.work(connection)
        except BaseException as exc:
            if item.failed is not None:
                item.failed(_store_error(exc))
            raise
        item.done(result)

    def _fail(self, exc: BaseException, group: deque[tuple[_Item, Any]]) -> None:
        error = _store_error(exc)
        with self._putting:
            self._failure = error
        waiting = [item for item, _ in group]
        while True:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                waiting.append(item)
        for item in waiting:
            if item.failed is not None:
                item.failed(error)
        self._on_failure(error)


def _store_error(exc: BaseException) -> StoreError:
    if isinstance(exc, StoreError):
        return exc
    return StoreError(f"the state database failed: {type(exc).__name__}: {exc}")
