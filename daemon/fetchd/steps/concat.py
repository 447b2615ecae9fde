"""``concat``: files one behind the other as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fetchd.errors import AttemptError
from fetchd.model import Makes
from fetchd.ports import Bench
from fetchd.steps import kind
from fetchd.steps.unpack import PIECE_BYTES

_NUMBER = re.compile(r"(\d+)")


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    files = sorted((file for file in bench.files()), key=lambda file: _order(file.path))
    if not files or any(file.link for file in files):
        raise AttemptError("step_failed", "there is no file, or a link among the files")
    buffer = memoryview(bytearray(PIECE_BYTES))
    with bench.make(options["name"]) as output:
        for file in files:
            offset = 0
            with bench.open(file.path) as given:
                while got := given.readinto(buffer, offset):
                    output.write(buffer[:got])
                    offset += got


def _order(path: str) -> list[tuple[int, str]]:
    """Let numbers within names count as numbers: part 10 comes behind part 9."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece)
        for piece in _NUMBER.split(path)
        if piece
    ]


KIND = kind.Kind(
    work=work,
    options={
        "name": kind.Option(
            read=kind.file_name,
            schema=kind.TEXT,
            meaning="of the one file",
            required=True,
            varies=True,
        ),
    },
    makes=lambda _: Makes.ONE,
    alone="name",
)
