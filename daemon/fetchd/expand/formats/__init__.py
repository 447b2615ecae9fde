"""What a manifest may be: bytes in, the fields of one item after the other out.

A further format is a file here and a line in ``FORMATS``.
"""

from __future__ import annotations

from fetchd.expand.formats import (
    csv_table,
    html_links,
    json_items,
    json_lines,
    metalink_files,
    plain_lines,
    sums_lines,
)
from fetchd.expand.formats.item import Fields, Format, ManifestProblem, Options, Whole

__all__ = ["FORMATS", "Fields", "Format", "ManifestProblem", "Options", "Whole"]

FORMATS: dict[str, Format] = {
    "lines": plain_lines.FORMAT,
    "csv": csv_table.FORMAT,
    "json": json_items.FORMAT,
    "jsonl": json_lines.FORMAT,
    "sums": sums_lines.FORMAT,
    "html": html_links.FORMAT,
    "metalink": metalink_files.FORMAT,
}
