"""``lines``: each line an item, but for blank ones and comments."""

from __future__ import annotations

from collections.abc import Iterator

from fetchd.errors import ValueProblem
from fetchd.expand.formats.item import Fields, Format, Found, Options, lines_of

_LONGEST_LINE_BYTES = 64 * 1024


def read(chunks: Iterator[bytes], _: Options) -> Iterator[Found]:
    for line in lines_of(chunks, _LONGEST_LINE_BYTES):
        if line is None:
            yield ValueProblem(f"the line is longer than {_LONGEST_LINE_BYTES // 1024} KiB")
            continue
        try:
            text = line.decode().strip(" \t\r")
        except UnicodeDecodeError:
            yield ValueProblem("the line is not valid UTF-8")
            continue
        if text and not text.startswith("#"):
            yield Fields(text)


FORMAT = Format(read, fields=frozenset(), alone=True)
