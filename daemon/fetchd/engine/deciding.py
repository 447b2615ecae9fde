"""Decide under a lock, act after it; what cannot be done to its end is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fetchd.engine.effects import Effects
from fetchd.errors import StoreError


class Deciding:
    """Take a lock and ``begin``, then ``note`` and, the lock given back, ``act``.

    What cannot be done to its end is lost: ``lose`` hears of it, before the lock is given back,
    and its error is raised. A generator would take three times as long, twice a task.
    """

    __slots__ = ("_act", "_begin", "_effects", "_lock", "_lose", "_note", "_tell")

    def __init__(
        self,
        lock: threading.Lock,
        begin: Callable[[], None],
        note: Callable[[Effects], None],
        act: Callable[[Effects], None],
        lose: Callable[[BaseException], StoreError],
        tell: Callable[[BaseException], None],
    ) -> None:
        self._lock = lock
        self._begin = begin
        self._note = note
        self._act = act
        self._lose = lose
        self._tell = tell
        self._effects = Effects()

    def __enter__(self) -> Effects:
        self._lock.acquire()
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self._effects

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        lost = exc
        try:
            if lost is None:
                self._note(self._effects)
        except BaseException as late:  # noqa: BLE001 -- raised as what it means, below
            lost = late
        try:
            error = None if lost is None else self._lose(lost)
        finally:
            self._lock.release()
        if lost is None:
            try:
                self._act(self._effects)
            except BaseException as late:  # noqa: BLE001 -- as above
                lost, error = late, self._lose(late)
        if lost is None or error is None or error is exc:  # that goes on by itself
            return
        if error is lost:
            raise error
        self._tell(lost)
        raise error from lost
