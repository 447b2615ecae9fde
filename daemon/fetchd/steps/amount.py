"""How much may come out of a packed file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetchd.errors import AttemptError
from fetchd.ports import Input, Output
from fetchd.steps import kind

#: Any file may become as large as this, whatever its ratio.
_SMALL_BYTES = 64 * 1024 * 1024

OPTIONS = {
    "max_bytes": kind.Option(
        read=kind.size_bytes,
        schema=kind.SIZE,
        meaning="no more may come out",
        default=64 * 1024**3,
    ),
    "max_ratio": kind.Option(
        read=kind.count,
        schema=kind.NUMBER,
        meaning="so many times the file's own size, or 64 MiB, may come out",
        default=200,
    ),
}


def too_large(reason: str) -> AttemptError:
    return AttemptError("archive_too_large", reason)


class Amount:
    """How much may come out of a file, counted as it is written, never as a header tells it."""

    def __init__(self, given: Input, options: Mapping[str, Any]) -> None:
        by_ratio = max(_SMALL_BYTES, options["max_ratio"] * given.size_bytes)
        self._most_bytes: int = min(options["max_bytes"], by_ratio)
        self._by = "max_bytes" if self._most_bytes == options["max_bytes"] else "max_ratio"
        self._bytes = 0

    def check_room(self, more_bytes: int) -> None:
        """Raise AttemptError if so many more bytes are too many."""
        if self._bytes + more_bytes > self._most_bytes:
            raise too_large(f"more than {self._most_bytes} bytes come out of it (`{self._by}`)")

    def write(self, output: Output, data: memoryview | bytes) -> None:
        self.check_room(len(data))
        self._bytes += len(data)
        output.write(data)
