"""``html``: the links of a page whose last segment fits a pattern, each once."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from urllib.parse import unquote, urljoin, urlsplit

from fetchd.expand.formats.item import Fields, Format, Found, Options
from fetchd.model import Item

#: A tag that has not ended within so many bytes is none.
_LONGEST_TAG_BYTES = 64 * 1024
_TAG = re.compile(rb"<(?:!--|(a|base)[\s/])", re.IGNORECASE)
_HREF = re.compile(
    rb"""(?:^|[\s"'/])href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE
)


def read(chunks: Iterator[bytes], options: Options) -> Iterator[Found]:
    base, seen = "", set[int]()
    for tag, written in _tags(chunks):
        text = html.unescape(written.decode("utf-8", "replace")).strip()
        try:
            url = urljoin(base, text)
            parts = urlsplit(url)
        except ValueError:
            continue
        if tag == b"base":
            base = base or url
            continue
        name = unquote(parts.path.rpartition("/")[2], errors="surrogateescape")
        if parts.scheme not in {"", "http", "https"} or not name:
            continue
        url = url.partition("#")[0]
        if hash(url) in seen or not fnmatchcase(name, options.pattern or "*"):
            continue
        seen.add(hash(url))
        yield Fields({"url": url, "name": name})


def _tags(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and ``href`` of every ``a`` and ``base`` that has one and is in no comment."""
    left, comment = b"", False
    for chunk in chunks:
        left += chunk
        place = endless = 0  # before ``endless`` no tag ends that begins behind ``place``
        while True:
            if comment:
                end = left.find(b"-->", place)
                if end < 0:
                    place = max(place, len(left) - 2)
                    break
                place, comment = end + 3, False
            found = _TAG.search(left, place)
            if found is None:
                place = max(place, len(left) - 6)  # the beginning of one may stand there
                break
            if found[1] is None:
                place, comment = found.end(), True
                continue
            most = found.end() + _LONGEST_TAG_BYTES
            end = left.find(b">", max(found.end(), endless), most)
            if end < 0:
                endless = min(most, len(left))
            if end < 0 and len(left) - found.start() <= _LONGEST_TAG_BYTES:
                place = found.start()
                break
            if end < 0:
                place = found.end()
                continue
            if href := _HREF.search(left, found.end() - 1, end):
                yield found[1].lower(), next(one for one in href.groups() if one is not None)
            place = end
        left = left[place:]


FORMAT = Format(
    read,
    options=("pattern",),
    item=Item(url="${item.url}"),
    fields=frozenset({"url", "name"}),
)
