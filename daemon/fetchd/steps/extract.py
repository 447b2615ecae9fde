"""``extract``: the files of an archive in the place of the archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetchd.errors import AttemptError
from fetchd.ports import Bench, BenchFile
from fetchd.steps import amount, kind, sevenzips, tarballs, zips
from fetchd.steps.members import Members
from fetchd.steps.unpack import bad, beginning, compression_of, plain, unpacked

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_START_BYTES = 512


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    for file in bench.files():
        try:
            _extract(bench, file, options)
        except AttemptError as exc:
            reason = f"{file.path}: {exc.reason}"
            raise AttemptError(exc.code, reason, transient=exc.transient) from exc


def _extract(bench: Bench, file: BenchFile, options: Mapping[str, Any]) -> None:
    if file.link:
        raise bad("a link is no archive")
    with bench.open(file.path) as given:
        members = Members(bench, given, options)
        start = beginning(given, _START_BYTES)
        compression = compression_of(start)
        if start.startswith(sevenzips.MAGIC):
            sevenzips.extract(given, members)
        elif start.startswith(_ZIP):
            zips.extract(given, members)
        elif compression:
            tarballs.extract(unpacked(given, compression), members)
        else:
            tarballs.extract(plain(given), members)


KIND = kind.Kind(
    work=work,
    options={
        "strip_components": kind.Option(
            read=kind.count,
            schema=kind.NUMBER,
            meaning="so many folders are taken off the front of each name",
            default=0,
        ),
        "include": kind.Option(
            read=kind.texts,
            schema=kind.LIST,
            meaning="only what is like one of these patterns (*, ?, [a-z]) comes out",
            varies=True,
        ),
        "exclude": kind.Option(
            read=kind.texts,
            schema=kind.LIST,
            meaning="what is like one of these patterns does not",
            varies=True,
        ),
        **amount.OPTIONS,
        "max_files": kind.Option(
            read=kind.count,
            schema=kind.NUMBER,
            meaning="no more members may be in it",
            default=250_000,
        ),
        "links": kind.Option(
            read=kind.one_of("refuse", "skip"),
            schema={"enum": ["refuse", "skip"]},
            meaning="what to do about links, which are never made",
            default="refuse",
        ),
        "case_clashes": kind.Option(
            read=kind.one_of("refuse", "allow"),
            schema={"enum": ["refuse", "allow"]},
            meaning="what to do about names that differ in case only",
            default="refuse",
        ),
    },
)
