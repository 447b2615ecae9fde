"""``mode``: what files may be read, written and run by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetchd.ports import Bench
from fetchd.steps import kind


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    bench.carry()
    bench.set_mode(options["mode"])


KIND = kind.Kind(
    work=work,
    options={
        "mode": kind.Option(
            read=kind.mode,
            schema=kind.NUMBER,
            meaning="the mode of the files; folders get x where there is r",
            required=True,
        ),
    },
    makes=kind.same,
    alone="mode",
)
