"""``decompress``: what a single packed file holds, in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetchd.errors import AttemptError
from fetchd.model import Makes
from fetchd.ports import Bench, BenchFile
from fetchd.steps import amount, kind
from fetchd.steps.unpack import FORMATS, bad, beginning, compression_of, unpacked

_START_BYTES = 16
_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd")


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    for file in bench.files():
        try:
            _decompress(bench, file, options)
        except AttemptError as exc:
            reason = f"{file.path}: {exc.reason}"
            raise AttemptError(exc.code, reason, transient=exc.transient) from exc


def _decompress(bench: Bench, file: BenchFile, options: Mapping[str, Any]) -> None:
    path = _path_of(file.path, options["name"])
    if file.link:
        raise bad("a link is no packed file")
    with bench.open(file.path) as given:
        compression = compression_of(beginning(given, _START_BYTES))
        if not compression:
            raise bad(f"it is packed by none of {', '.join(FORMATS)}")
        most = amount.Amount(given, options)
        with bench.make(path, mtime_s=file.mtime_s) as output:
            for piece in unpacked(given, compression):
                most.write(output, piece)


def _path_of(path: str, name: str | None) -> str:
    if name is not None:
        return "/".join([*path.split("/")[:-1], name])
    for ending in _ENDINGS:
        if path.lower().endswith(ending) and not path.lower().endswith("/" + ending):
            return path[: -len(ending)]
    raise AttemptError(
        "step_failed", f"its name ends in none of {', '.join(_ENDINGS)}; give the new one: `name`"
    )


def _makes(options: Mapping[str, Any]) -> Makes:
    return Makes.UNPACKED if options["name"] is None else Makes.OTHERS


KIND = kind.Kind(
    work=work,
    options={
        "name": kind.Option(
            read=kind.file_name,
            schema=kind.TEXT,
            meaning="the new name; by default the file's own without .gz, .bz2, .xz or .zst",
            varies=True,
        ),
        **amount.OPTIONS,
    },
    makes=_makes,
)
