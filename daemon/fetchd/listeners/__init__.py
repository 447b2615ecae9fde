"""Listeners: told what happened, and free to fail; nothing that must happen depends on them."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence

from fetchd.events import Event, Tell
from fetchd.listeners.log import LINES, LogListener
from fetchd.listeners.stats import Stats
from fetchd.logs import get_logger
from fetchd.ports import Listener

__all__ = ["LINES", "FailureLog", "LogListener", "Only", "Stats", "fan_out", "log_failure"]

OnError = Callable[[Listener, Event, Exception], None]


class Only:
    """Hears some kinds of events alone."""

    def __init__(self, kinds: Collection[type[Event]], listener: Listener) -> None:
        self._kinds = frozenset(kinds)
        self._listener = listener

    def hears(self, kind: type[Event]) -> bool:
        return kind in self._kinds

    def __call__(self, event: Event) -> None:
        self._listener(event)


def fan_out(listeners: Sequence[Listener], on_error: OnError) -> Tell:
    """Return a function that tells every listener; one that fails is handed to ``on_error``."""
    hearing: dict[type[Event], list[Listener]] = {}

    def tell(event: Event) -> None:
        kind = type(event)
        if kind not in hearing:
            hearing[kind] = [listener for listener in listeners if _hears(listener, kind)]
        for listener in hearing[kind]:
            try:
                listener(event)
            except Exception as exc:  # noqa: BLE001 -- a listener must never touch the work
                on_error(listener, event, exc)

    return tell


def _hears(listener: Listener, kind: type[Event]) -> bool:
    hears: Callable[[type[Event]], bool] | None = getattr(listener, "hears", None)
    return hears is None or hears(kind)


class FailureLog:
    """Logs the failures of listeners, at most one a minute each: events are many."""

    EVERY_S = 60.0

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[float, int]] = {}  # guarded by _lock; (logged at, unlogged)

    def __call__(self, listener: Listener, event: Event, exc: Exception) -> None:
        name = getattr(listener, "__qualname__", type(listener).__qualname__)
        now_s = self._monotonic()
        with self._lock:
            logged_s, unlogged = self._heard.get(name, (float("-inf"), 0))
            due = now_s - logged_s >= self.EVERY_S
            self._heard[name] = (now_s, 0) if due else (logged_s, unlogged + 1)
        if due:
            get_logger().error(
                "listener.failed",
                listener=name,
                heard=type(event).__name__,
                error=f"{type(exc).__name__}: {exc}",
                unlogged=unlogged,
                traceback="".join(traceback.format_exception(exc)),
            )


log_failure = FailureLog()
