"""What a file must prove: its type, its size, its digests, and that it is all of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fetchd.digests import Digest
from fetchd.errors import AttemptError
from fetchd.model import Fetch, Magic, Rules, SizeRange, Verify

#: How many first bytes are looked at before any is written.
SNIFF_BYTES = 1024

_HTML_NAMES = (".html", ".htm", ".xhtml", ".shtml")
_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_ANY_TYPE = "*/*"
# The beginnings that only a page has, after what may stand before them (WHATWG MIME Sniffing §7.1);
# atomic, so that hostile bytes cost no backtracking.
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?(?>\s+|<!--.*?-->|<\?xml[^>]*\?>)*+"
    rb"<(?:!doctype\s+html|html|head|title|body|script)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)


def rules_of(attempt: Fetch) -> Rules:
    """Return the rules of the group, with the size that the item itself names."""
    rules, size_bytes = attempt.group.rules, attempt.task.spec.size_bytes
    if size_bytes is None:
        return rules
    return replace(rules, size=SizeRange(least_bytes=size_bytes, most_bytes=size_bytes))


def check_type(path: str, rules: Rules, content_type: str | None) -> None:
    """Refuse by the announced media type; raises AttemptError."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    expected = (rules.expect_type or "").lower()
    if expected not in {"", _ANY_TYPE, "text/html"} and media_type != expected:
        found = repr(media_type) if media_type else "no content type"
        raise AttemptError("expectation_failed", f"expected type {expected!r}, found {found}")
    if media_type in _HTML_TYPES and not _may_be_html(path, rules):
        raise AttemptError("unexpected_html", _HTML_REASON.format(f"type {media_type}"))


def check_start(path: str, rules: Rules, start: memoryview) -> None:
    """Refuse by the first bytes, at most ``SNIFF_BYTES``; raises AttemptError."""
    if not _may_be_html(path, rules) and _HTML_START.match(start[:SNIFF_BYTES]):
        raise AttemptError("unexpected_html", _HTML_REASON.format("by its first bytes"))


def check_magic(rules: Rules, data: memoryview, offset_bytes: int) -> None:
    """Hold a piece of the file against what ``expect.magic`` says of it; raises AttemptError."""
    for magic in rules.magic:
        if (found := _instead_of(magic, data, offset_bytes)) is not None:
            raise AttemptError("expectation_failed", f"expected {magic}, found {found}")


def fits_magic(rules: Rules, data: memoryview, offset_bytes: int) -> bool:
    """Tell whether a piece of the file is as ``expect.magic`` wants it."""
    return all(_instead_of(magic, data, offset_bytes) is None for magic in rules.magic)


def check_size(rules: Rules, size_bytes: int) -> None:
    """Hold a complete size against ``size`` and ``expect.magic``; raises AttemptError."""
    if rules.size is not None and size_bytes not in rules.size:
        raise AttemptError(
            "bad_size", f"the file has {size_bytes} bytes, `size` allows {rules.size}"
        )
    for magic in rules.magic:
        if magic.end_bytes > size_bytes:
            raise AttemptError(
                "expectation_failed", f"the file has {size_bytes} bytes, too few for {magic}"
            )


def check_digests(wanted: Sequence[Digest], found: Sequence[Digest]) -> None:
    """All must hold; raises AttemptError."""
    for digest in wanted:
        if digest not in found:
            other = next((str(f) for f in found if f.algorithm == digest.algorithm), "nothing")
            raise AttemptError("checksum_mismatch", f"expected {digest}, found {other}")


def expected_of(rules: Rules, wanted: Sequence[Digest]) -> tuple[str, ...]:
    """Return what a job asks of the content of a file, each in a few words."""
    asked = [str(digest) for digest in wanted]
    if rules.size is not None:
        asked.append(f"size {rules.size}")
    if rules.expect_type is not None:
        asked.append(f"type {rules.expect_type}")
    return (*asked, *map(str, rules.magic))


def text_of(start: bytes) -> str:
    r"""Return bytes as a line of text: printable ASCII as it is, all others as \xff."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in start
    )


def grade(rules: Rules, wanted: Sequence[Digest], *, delimited: bool) -> Verify:
    """Return what a complete body of this kind proves; raises AttemptError if that is too little.

    ``delimited``: its length or its chunks tell the end from a cut.
    """
    if wanted:
        return Verify.DIGEST
    exact = rules.size is not None and rules.size.least_bytes == rules.size.most_bytes
    if delimited or exact:
        return Verify.LENGTH
    if rules.verify is not Verify.NONE:
        raise AttemptError(
            "length_unknown",
            "the server tells neither length nor chunks, so a cut would go unseen; "
            "give a checksum or an exact size, or `verify: none` (configuration and job)",
        )
    return Verify.NONE


_HTML_REASON = (
    "an HTML page ({}) came where a file was asked for, often a login or error page; "
    "`expect: {{type: text/html}}` allows it"
)


def _instead_of(magic: Magic, data: memoryview, offset_bytes: int) -> Magic | None:
    """Return what ``data``, which begins at ``offset_bytes``, has where the magic should stand.

    None: nothing else, as far as the two overlap.
    """
    start = max(magic.offset_bytes, offset_bytes)
    end = min(magic.end_bytes, offset_bytes + len(data))
    if start >= end:
        return None
    found = bytes(data[start - offset_bytes : end - offset_bytes])
    wanted = bytes.fromhex(magic.hex)[start - magic.offset_bytes : end - magic.offset_bytes]
    return None if found == wanted else Magic(hex=found.hex(), offset_bytes=start)


def _may_be_html(path: str, rules: Rules) -> bool:
    expected = (rules.expect_type or "").lower()
    return expected == _ANY_TYPE or expected in _HTML_TYPES or path.lower().endswith(_HTML_NAMES)
