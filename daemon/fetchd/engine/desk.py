"""A thread-safe first-in-first-out desk, from which work is taken alone or in groups."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Desk(Generic[T]):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[T] = deque()  # guarded by _lock
        self._idle = False  # guarded by _lock: somebody waits, and nobody woke them yet
        self._closed = False  # guarded by _lock

    def put(self, items: Iterable[T]) -> None:
        with self._lock:
            self._waiting.extend(items)
            if self._idle:
                self._idle = False
                self._changed.notify_all()

    def take(self, most: int) -> list[T]:
        """Block until something lies here; at most ``most``. Empty: closed, and all was taken."""
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return []
                self._idle = True
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def waiting(self) -> list[T]:
        """Return what lies here."""
        with self._changed:
            return list(self._waiting)

    def close(self) -> None:
        """Let takers go home once all that lies here is taken."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)
