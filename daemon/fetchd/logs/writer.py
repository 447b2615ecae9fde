"""The thread that writes log lines, and the bounded queue before it.

A terminal that is paused, a pipe that nobody reads and a full disk stop this thread and nobody
else: lines beyond the queue are counted, and the count is logged when writing works again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from fetchd.errors import ConfigError

Line = dict[str, Any]

_MOST_WAITING = 10_000
_MOST_AT_ONCE = 256


class Stream:
    """A stream as a sink.

    Its file descriptor is written to directly: a thread that is stuck in a buffered write holds
    the buffer's lock, and the interpreter aborts at exit when it cannot get it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._fd: int | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._fd = stream.fileno() if stream is not None else None

    def write(self, data: bytes) -> None:
        """Write everything; raises OSError, or ValueError when the stream was closed."""
        if self._fd is not None:
            _write_all(self._fd, data)
        elif self._stream is not None:
            self._stream.write(data.decode())

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""


class File:
    """A file as a sink, opened again when it was moved away, as logrotate does."""

    _CHECK_EVERY_S = 1.0

    def __init__(self, path: str) -> None:
        """Open for appending; raises ConfigError."""
        self._path = path
        self._checked_s = time.monotonic()
        try:
            self._fd = self._open()
        except OSError as exc:
            raise ConfigError(f"log.file: cannot write {path}: {exc.strerror}") from None

    def write(self, data: bytes) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s >= self._CHECK_EVERY_S:
            self._checked_s = now_s
            self._follow()
        _write_all(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(Path(self._path).stat(), os.fstat(self._fd)):
                return
        fd = self._open()
        os.close(self._fd)
        self._fd = fd


class LogWriter:
    """Takes lines from any thread and writes them in one thread of its own.

    ``render`` makes a line's text (writer's thread), so that callers pay for no formatting.
    """

    def __init__(
        self, sink: Stream | File, render: Callable[[Line], str], most: int = _MOST_WAITING
    ) -> None:
        self._sink = sink
        self._render = render
        self._most = most
        self._lines: SimpleQueue[Line | None] = SimpleQueue()
        self._dropped_lock = threading.Lock()
        self._dropped = 0  # guarded by _dropped_lock
        self._torn = False  # writer's thread only: the last write broke off, maybe within a line
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: Line) -> None:
        """Hand over a line; never waits. The bound may be passed by a line for each thread."""
        if self._closed or self._lines.qsize() >= self._most:
            self._drop(1)
        else:
            self._lines.put(line)

    # The names that structlog calls, by level.
    debug = info = warning = error = critical = msg = put

    def close(self, timeout_s: float) -> bool:
        """Write what was handed over; return False when that took longer than ``timeout_s``."""
        if not self._closed:
            self._closed = True
            self._lines.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            batch = [self._lines.get()]
            while len(batch) < _MOST_AT_ONCE and not self._lines.empty():
                batch.append(self._lines.get())
            last = batch[-1] is None
            self._write([line for line in batch if line is not None])
        self._sink.close()

    def _write(self, lines: list[Line]) -> None:
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.insert(0, _dropped_line(dropped))
        try:
            text = "".join(self._safely_rendered(line) for line in lines)
            data = text.encode("utf-8", "backslashreplace")
            self._sink.write(b"\n" + data if self._torn else data)
            self._torn = False
        except Exception:  # noqa: BLE001 -- short of memory too: the one writer must go on
            self._torn = True
            self._drop(dropped + len(lines) - bool(dropped))

    def _safely_rendered(self, line: Line) -> str:
        try:
            return self._render(line) + "\n"
        except Exception:  # noqa: BLE001 -- a line that cannot be shown must not end the writer
            self._drop(1)
            return ""

    def _drop(self, count: int) -> None:
        with self._dropped_lock:
            self._dropped += count


def _dropped_line(count: int) -> Line:
    return {"event": "log.dropped", "level": "warning", "timestamp": time.time(), "count": count}


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
