"""``jsonl``: each line a JSON value, but for blank ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NoReturn

from fetchd.errors import ValueProblem
from fetchd.expand.formats.item import Fields, Format, Found, Options, lines_of

_LONGEST_LINE_BYTES = 1024 * 1024


def read(chunks: Iterator[bytes], _: Options) -> Iterator[Found]:
    for line in lines_of(chunks, _LONGEST_LINE_BYTES):
        if line is None:
            yield ValueProblem(f"the line is longer than {_LONGEST_LINE_BYTES // 1024} KiB")
        elif line.strip():
            yield _item(line)


def _item(line: bytes) -> Found:
    try:
        # Numbers stay as they are written: 1.10 is a version, and no float.
        value = json.loads(
            line.decode(), parse_int=str, parse_float=str, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        return ValueProblem("the line is not valid UTF-8")
    except RecursionError:
        return ValueProblem("the line is nested too deeply")
    except ValueError as exc:
        return ValueProblem(f"the line is not JSON: {exc}")
    if isinstance(value, list):
        return ValueProblem("the line is a list; an item is a mapping or a text")
    return Fields(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


FORMAT = Format(read)
