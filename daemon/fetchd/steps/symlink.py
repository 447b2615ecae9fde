"""``symlink``: a link such as ``current`` beside what is published, replaced in one instant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetchd.errors import AttemptError, ValueProblem
from fetchd.ports import Bench
from fetchd.steps import kind


def target(value: object) -> str:
    said = kind.text(value)
    bad = said.startswith("/") or not said.isprintable() or len(said.encode()) > 4000
    if bad or any(one in {"", ".", ".."} for one in said.split("/")):
        raise ValueProblem(f"{said[:60]!r} is no path below the folder that the link is in")
    return said


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    leads_to = options["to"]
    if leads_to is None:
        tops = {file.path.partition("/")[0] for file in bench.files()}
        if len(tops) != 1:
            raise AttemptError(
                "step_failed",
                f"{len(tops)} names could be meant; say which the link leads to: `to`",
            )
        (leads_to,) = tops
    bench.carry()
    try:
        bench.make_link(options["name"], leads_to)
    except FileExistsError:
        raise AttemptError(
            "step_failed", f"{options['name']!r} is the name of a file or folder already"
        ) from None


KIND = kind.Kind(
    work=work,
    options={
        "name": kind.Option(
            read=kind.file_name,
            schema=kind.TEXT,
            meaning="of the link",
            required=True,
            varies=True,
        ),
        "to": kind.Option(
            read=target,
            schema=kind.TEXT,
            meaning="where it leads, below its own folder; by default the one file or folder there",
            varies=True,
        ),
    },
    makes=kind.same,
    alone="name",
)
