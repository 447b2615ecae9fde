"""What is told of content that was refused."""

from __future__ import annotations

from contextlib import suppress

from fetchd.digests import Digest
from fetchd.errors import AttemptError
from fetchd.model import Dossier, Fetch
from fetchd.ports import Stream
from fetchd.secrets import hide, hide_in_start
from fetchd.transfer.kept import Kept
from fetchd.transfer.verify import expected_of, rules_of, text_of

#: With these it is the content that is refused, and a dossier says what it was.
REFUSALS = {"checksum_mismatch", "bad_size", "expectation_failed", "unexpected_html"}
#: How much a dossier tells of the content, and of what the origin said in a head.
START_BYTES = 64
_LONGEST_TEXT = 1000


def describe(
    attempt: Fetch, stream: Stream, kept: Kept, start: bytes, wanted: tuple[Digest, ...]
) -> Dossier:
    """Describe a refused body; ``start``: its first bytes, should none of them be written."""
    content_type = stream.content_type
    if kept.wrote:  # behind what an earlier attempt has brought, perhaps
        with suppress(AttemptError):
            first = memoryview(bytearray(START_BYTES))
            start = bytes(first[: kept.part.readinto(first, 0)])
    return Dossier(
        url=attempt.source,
        final_url=hide(stream.final_url)[:_LONGEST_TEXT],
        expected=expected_of(rules_of(attempt), wanted),
        content_type=None if content_type is None else hide(content_type)[:_LONGEST_TEXT],
        size_bytes=kept.part.size_bytes if kept.ended else stream.total,
        digests=kept.hashes.digests() if kept.ended else (),
        start=text_of(hide_in_start(start)),
    )
