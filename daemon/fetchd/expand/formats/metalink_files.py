"""``metalink``: each ``<file>`` of a Metalink an item, with all that it says of a file."""

from __future__ import annotations

from collections.abc import Iterator

from fetchd.errors import ValueProblem
from fetchd.expand import metalink
from fetchd.expand.formats.item import Format, Found, ManifestProblem, Options, Whole


def read(chunks: Iterator[bytes], _: Options) -> Iterator[Found]:
    try:
        for listed in metalink.files_of(chunks):
            yield _item(listed)
    except metalink.MetalinkProblem as exc:
        raise ManifestProblem(f"{exc} (line {exc.line})") from None


def _item(listed: metalink.ListedFile) -> Found:
    if listed.problem:
        return ValueProblem(f"{listed.name!r}: {listed.problem}")
    return Whole(listed.name, listed.urls, listed.digests, listed.size_bytes)


FORMAT = Format(read, fields=frozenset({"name", "url", "size", "digest"}), alone=True)
