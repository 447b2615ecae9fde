"""``sums``: a published file of checksums, each line with a name an item."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from fetchd.digests.sums import read_sums
from fetchd.expand.formats.item import Fields, Format, Found, ManifestProblem, Options, lines_of
from fetchd.model import Item

_LONGEST_LINE_BYTES = 16 * 1024


def read(chunks: Iterator[bytes], options: Options) -> Iterator[Found]:
    lines = (line for line in lines_of(chunks, _LONGEST_LINE_BYTES) if line is not None)
    some = False
    for name, digest in read_sums(lines, options.name):
        some = True
        yield Fields({"name": name, "url": url_of(name), "digest": str(digest)})
    if not some:
        raise ManifestProblem("no line of it is a checksum and a name")


def url_of(name: str) -> str:
    """Return the relative URL of a file that a sums file names."""
    return quote(name.encode("utf-8", "surrogateescape"), safe="/!$&'()*+,;=@~")


FORMAT = Format(
    read,
    item=Item(url="${item.url}", filename="${item.name}", checksum="${item.digest}"),
    fields=frozenset({"name", "url", "digest"}),
)
