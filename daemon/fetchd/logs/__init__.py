"""Where log lines come from and go to: structlog set up once, for our lines and the libraries'.

A call stamps the line, adds the thread's context and hands it over; cleaning and rendering
happen in the writer's thread (``writer.py``). Nothing is logged before ``configure``.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from fetchd.logs.redactor import TRACEBACK, redact, redact_text
from fetchd.logs.render import Console, as_json, stamp
from fetchd.logs.writer import File, Line, LogWriter, Stream

__all__ = ["LogWriter", "Logs", "bound", "configure", "emitter", "get_logger", "redact_text"]

Fields = MutableMapping[str, Any]

#: What every line of the thread bears, asked for when there is one.
_context: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar(
    "context", default=None
)

#: Libraries that talk about every connection; only their warnings are worth a line.
_TALKATIVE = ("urllib3", "watchdog", "charset_normalizer")


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002 -- the configuration's word
    file: str | os.PathLike[str] | None = None,
    *,
    stream: TextIO | None = None,
    wall: Callable[[], float] = time.time,
) -> Logs:
    """Send all log lines of the process to ``file``, without one to ``stream`` (stderr).

    ``format``: ``json``, ``console`` or ``auto``, which is console where a terminal shows it.
    Raises ConfigError when the file cannot be opened.
    """
    stream = stream or sys.stderr
    terminal = file is None and stream is not None and stream.isatty()
    show: Callable[[Line], str] = as_json
    if format == "console" or (format == "auto" and terminal):
        show = Console(colours=terminal and "NO_COLOR" not in os.environ)
    writer = LogWriter(Stream(stream) if file is None else File(os.fspath(file)), _rendering(show))
    return Logs(writer, logging.getLevelNamesMapping()[level.upper()], wall)


class Logs:
    """The set-up in force, until ``close`` takes it back."""

    def __init__(self, writer: LogWriter, level: int, wall: Callable[[], float]) -> None:
        self._writer = writer
        structlog.configure(
            processors=[
                _in_context,
                structlog.processors.add_log_level,
                _plain_traceback,
                _stamped(wall),
                _handed_over,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda *_: writer,
            cache_logger_on_first_use=False,
        )
        self._handler = _FromLibraries()
        self._root_level = logging.root.level
        logging.root.addHandler(self._handler)
        logging.root.setLevel(level)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(max(level, logging.WARNING))
        logging.captureWarnings(capture=True)
        threading.excepthook = _thread_died

    def close(self, timeout_s: float) -> bool:
        """Write what was logged; return False when that took longer than ``timeout_s``."""
        threading.excepthook = threading.__excepthook__
        logging.captureWarnings(capture=False)
        logging.root.removeHandler(self._handler)
        logging.root.setLevel(self._root_level)
        return self._writer.close(timeout_s)


def get_logger() -> FilteringBoundLogger:
    """Return a logger with the set-up in force at this call."""
    logger: FilteringBoundLogger = structlog.get_logger().bind()
    return logger


def emitter() -> Callable[[str, Fields], None]:
    """Return a function that logs a line, its event included, at a level that is let through.

    It does what a logger does, with the set-up in force at this call, but binds and filters
    nothing. Before there is any, it is a logger.
    """
    if not structlog.is_configured():
        logger = get_logger()
        return lambda level, line: getattr(logger, level)(**line)
    settings = structlog.get_config()
    *steps, _ = settings["processors"]
    put = settings["logger_factory"]().put

    def emit(level: str, line: Fields) -> None:
        for step in steps:
            line = step(None, level, line)
        put(line)

    return emit


class bound:  # noqa: N801 -- reads like the function that it stands for
    """Put fields into every line that this thread logs within the context.

    ``later`` returns them, and is called for each line: most work logs none.
    """

    def __init__(
        self, later: Callable[[], Mapping[str, object]] | None = None, /, **fields: object
    ) -> None:
        self._fields = later or (lambda: fields)

    def __enter__(self) -> None:
        outer, inner = _context.get(), self._fields
        both = inner if outer is None else lambda: {**outer(), **inner()}
        self._before = _context.set(both)

    def __exit__(self, *exc: object) -> None:
        _context.reset(self._before)


def _in_context(_logger: object, _method: str, line: Fields) -> Fields:
    context = _context.get()
    return line if context is None else {**context(), **line}


def _stamped(wall: Callable[[], float]) -> Callable[[object, str, Fields], Fields]:
    def add(_logger: object, _method: str, line: Fields) -> Fields:
        line["timestamp"] = wall()
        line.setdefault("thread", threading.current_thread().name)
        return line

    return add


def _plain_traceback(_logger: object, _method: str, line: Fields) -> Fields:
    """Format an exception here, without locals: the redactor has to see the text."""
    exc_info = line.pop("exc_info", None)
    if exc_info:
        exc = exc_info if isinstance(exc_info, BaseException) else sys.exception()
        if exc is not None:
            line[TRACEBACK] = "".join(traceback.format_exception(exc))
    return line


def _handed_over(_logger: object, _method: str, line: Fields) -> tuple[tuple[Fields], Fields]:
    """Give the line to the writer as it is; it is rendered there."""
    return (line,), {}


def _rendering(show: Callable[[Line], str]) -> Callable[[Line], str]:
    def render(line: Line) -> str:
        line["timestamp"] = stamp(line["timestamp"])
        redact(None, "", line)
        return show(line)

    return render


class _FromLibraries(logging.Handler):
    """Lines of the standard library's logging, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as exc:  # noqa: BLE001 -- a library's broken format string is not our end
            message = f"{record.msg} ({exc})"
        level = min(logging.CRITICAL, max(logging.DEBUG, record.levelno // 10 * 10))
        get_logger().log(
            level,
            "library.logged",
            logger=record.name,
            message=message,
            exc_info=record.exc_info[1] if record.exc_info else None,
        )


def _thread_died(args: threading.ExceptHookArgs) -> None:
    """Log the end of a library's thread; our own hand their exception to their owner."""
    name = args.thread.name if args.thread else "unknown"
    get_logger().error(
        "thread.died",
        died=name,
        error=_named(args.exc_type, args.exc_value),
        replaced=False,
        traceback=_formatted(args.exc_type, args.exc_value, args.exc_traceback),
    )


def _named(kind: type[BaseException], exc: BaseException | None) -> str:
    return f"{kind.__name__}: {exc}" if exc is not None else kind.__name__


def _formatted(
    kind: type[BaseException], exc: BaseException | None, trace: TracebackType | None
) -> str:
    return "".join(traceback.format_exception(kind, exc, trace))
