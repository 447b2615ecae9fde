"""The one thread that owns the database connection, and its group commits."""

from __future__ import annotations

import itertools
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
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


@dataclass(slots=True)
class _Item:
    """``done`` gets the result: of a write once it is durable, of a read at once.

    ``piece``: what the work gets beside the connection, in a list with the pieces of the items
    next to it that have the same work; the result is one for them all. None: it stands alone.
    """

    work: Callable[..., Any]
    writes: bool
    done: Callable[[Any], None] | None
    failed: Callable[[StoreError], None] | None = None
    piece: object = None


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
        self._on_failure = on_failure
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._urgent = threading.Event()  # somebody waits for one of them
        self._putting = threading.Lock()
        # Guarded by _putting, so that what is in the queue is always done or refused.
        self._failure: StoreError | None = None
        # The rest is the ledger thread's own.
        self._taken: deque[_Item] = deque()  # not done yet
        self._last = False  # no more items come but the ledger's own
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

    def post_piece(
        self,
        work: Callable[[sqlite3.Connection, Sequence[T]], Any],
        piece: T,
        then: Callable[[Any], None] | None = None,
    ) -> None:
        """Have a write done, with one call for all such that were posted next to each other."""
        self._put(_Item(work, writes=True, done=then, piece=piece))

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
                self._urgent.set()
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
        if item.done is not None and not self._urgent.is_set():
            self._urgent.set()

    def _run(self, connect: Callable[[], sqlite3.Connection], opened: Future[None]) -> None:
        try:
            connection = connect()
        except BaseException as exc:  # noqa: BLE001 -- handed to the caller of the constructor
            opened.set_exception(exc)
            return
        opened.set_result(None)
        group: deque[tuple[_Item, Any]] = deque()  # what is not committed yet, with its results
        try:
            while self._group(connection, group):
                pass
        except BaseException as exc:  # noqa: BLE001 -- any end of the one writer is fatal
            self._fail(exc, group)
        finally:
            connection.close()

    def _group(self, connection: sqlite3.Connection, group: deque[tuple[_Item, Any]]) -> bool:
        """Do the work of one transaction; False after the last one."""
        if not self._taken and not self._last:
            self._linger()
        self._take()
        while self._taken and len(group) < MOST_IN_GROUP:
            self.worker.beat()
            if self._taken[0].writes:
                self._write(connection, group)
            else:
                self._read(connection, self._taken.popleft())
            if not self._taken:
                self._take()
        self._commit(connection, group)
        return not (self._last and not self._taken and self._items.empty())

    def _linger(self) -> None:
        """Wait for an item, and for those that may share its commit."""
        self.worker.rest()
        item = self._items.get()
        self._note(item)
        if item is not None:
            self._urgent.wait(LINGER_S)
        self.worker.beat()

    def _take(self) -> None:
        """Take over what was put; one that is put meanwhile may be called urgent in vain."""
        self._urgent.clear()
        while not self._items.empty():
            self._note(self._items.get())

    def _note(self, item: _Item | None) -> None:
        if item is None:
            self._last = True
        else:
            self._taken.append(item)

    def _write(self, connection: sqlite3.Connection, group: deque[tuple[_Item, Any]]) -> None:
        """Do the first of the writes, and those next to it that go with it."""
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        first = self._taken[0]
        if first.piece is None:
            alike = [first]
            result = first.work(connection)
        else:
            same = itertools.takewhile(lambda item: item.work == first.work, self._taken)
            alike = list(itertools.islice(same, MOST_IN_GROUP))
            result = first.work(connection, [item.piece for item in alike])
        for item in alike:  # not before: a failure of the work finds them all
            self._taken.popleft()
            group.append((item, result))

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
        waiting = [*(item for item, _ in group), *self._taken]
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
