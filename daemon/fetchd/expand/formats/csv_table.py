"""``csv``: a table, whose first row names the columns unless the job does."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from fetchd.errors import ValueProblem
from fetchd.expand.formats.item import Fields, Format, Found, ManifestProblem, Options, lines_of

_LONGEST_LINE_BYTES = 128 * 1024
_MOST_COLUMNS = 1000


def read(chunks: Iterator[bytes], options: Options) -> Iterator[Found]:
    columns = list(options.columns)
    rows = csv.reader(_texts(chunks), delimiter=_delimiter(options), strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as exc:
            raise ManifestProblem(f"is no row of a table: {exc}") from None
        if row is None:
            return
        if not row:
            continue
        if not columns:
            columns = [name.strip() for name in row]
            _check(columns)
        elif len(row) != len(columns):
            yield ValueProblem(f"the row has {len(row)} values, the table {len(columns)} columns")
        else:
            yield Fields(dict(zip(columns, row, strict=True)))


def check(options: Options) -> None:
    if len(_delimiter(options)) != 1 or _delimiter(options) in '"\r\n':
        raise ValueProblem(
            f"{options.delimiter[:20]!r} is no delimiter; write one character, or tab"
        )
    _check(list(options.columns))


def _check(columns: list[str]) -> None:
    if len(columns) > _MOST_COLUMNS:
        raise ManifestProblem(f"has {len(columns)} columns; at most {_MOST_COLUMNS} are possible")
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ManifestProblem(f"has two columns {twice[:60]!r}")


def _delimiter(options: Options) -> str:
    return "\t" if options.delimiter == "tab" else options.delimiter or ","


def _texts(chunks: Iterator[bytes]) -> Iterator[str]:
    for line in lines_of(chunks, _LONGEST_LINE_BYTES):
        if line is None:
            raise ManifestProblem(f"has a line longer than {_LONGEST_LINE_BYTES // 1024} KiB")
        try:
            yield line.decode() + "\n"
        except UnicodeDecodeError:
            raise ManifestProblem("is not valid UTF-8") from None


FORMAT = Format(read, options=("delimiter", "columns"), check=check)
