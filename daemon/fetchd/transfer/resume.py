"""What the bytes of a part are good for: where to go on, on which condition, with which proof."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fetchd.dates import http_date_s
from fetchd.model import Validator
from fetchd.ports import PartJournal, Stream

#: How much of the kept end is fetched again and compared where nothing stronger can be had.
OVERLAP_BYTES = 64 * 1024
#: From here on a second question by date is cheaper than the bytes it may save.
WORTH_ASKING_BYTES = 8 * 1024 * 1024
#: A date is a strong validator only when the origin's clock is this far past it: within the
#: second of a change there may be two versions (RFC 9110 §8.8.2.2).
_SETTLED_S = 60.0
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to ask for a file.

    ``start``: first byte to ask for; ``if_range``: the condition; ``overlap_bytes``: how many of
    the first bytes to come are in the part already and must be the same; ``instead``: what to ask
    when the origin answers with the whole file.
    """

    start: int = 0
    if_range: str | None = None
    overlap_bytes: int = 0
    instead: Plan | None = None

    @property
    def kept_bytes(self) -> int:
        return self.start + self.overlap_bytes

    def agrees(self, journal: PartJournal, stream: Stream) -> bool:
        """Tell whether a partial answer belongs to the version that the journal describes.

        The condition alone proves nothing: there are servers that ignore it. So an answer must
        repeat the validator that it was asked by (RFC 9110 §15.3.7), or at least a settled date.
        """
        if stream.total is None or stream.total < self.kept_bytes:
            return False
        if journal.total is not None and stream.total != journal.total:
            return False
        if self.if_range is None:
            return True  # a digest decides at the end
        was, now = journal.validator, stream.validator
        if _is_other(was, now):
            return False
        if self.if_range == was.etag and now.etag is not None:
            return now.etag == was.etag
        return _is_settled(was) and now.last_modified == was.last_modified

    def instead_of(self, journal: PartJournal, stream: Stream) -> Plan | None:
        """Return what to ask before the whole file, which came, is taken; None: nothing.

        There are servers that know no ETag in a condition; one that sends another ETag, date or
        length has another version.
        """
        was, now = journal.validator, stream.validator
        if _is_other(was, now) or now.last_modified not in {None, was.last_modified}:
            return None
        return self.instead if stream.total in {None, journal.total} else None


WHOLE = Plan()


def plan(journal: PartJournal | None, url: str, *, digest_decides: bool) -> Plan:
    """Decide how to ask ``url`` for the rest of a part with this journal."""
    if journal is None or journal.durable_bytes == 0:
        return WHOLE
    kept_bytes = journal.durable_bytes
    conditions = _conditions(journal.validator) if journal.url == url else []
    # Nothing is missing: only an answer that holds bytes shows that it is still that version.
    overlap_bytes = min(OVERLAP_BYTES, kept_bytes) if kept_bytes == journal.total else 0
    if conditions:
        plans: Plan | None = None
        for condition in reversed(conditions):
            worth = kept_bytes >= WORTH_ASKING_BYTES
            plans = Plan(
                start=kept_bytes - overlap_bytes,
                if_range=condition,
                overlap_bytes=overlap_bytes,
                instead=plans if worth else None,
            )
        assert plans is not None
        return plans if plans.start else WHOLE
    if digest_decides and kept_bytes > OVERLAP_BYTES:
        return Plan(start=kept_bytes - OVERLAP_BYTES, overlap_bytes=OVERLAP_BYTES)
    return WHOLE


def is_strong(validator: Validator) -> bool:
    """Tell whether the validator can prove that two answers are of one version."""
    return bool(_conditions(validator))


def rest_of(journal: PartJournal, start: int) -> Plan | None:
    """Return how to ask for bytes of the version that a journal describes; None: never provable."""
    conditions = _conditions(journal.validator)
    return Plan(start=start, if_range=conditions[0]) if conditions else None


def unless_of(validator: Validator) -> Validator | None:
    """Return what may be asked whether a file is another by now; None: nothing that would tell.

    A weak ETag is good enough (RFC 9110 §13.1.2). A date that is not settled is not: within its
    second there may be two versions.
    """
    modified = validator.last_modified if _is_settled(validator) else None
    if validator.etag is None and modified is None:
        return None
    return Validator(etag=validator.etag, last_modified=modified)


def contradicts(unless: Validator, now: Validator) -> bool:
    """Tell whether a 304 names another version than the one that was asked about."""
    return _is_other(unless, now)


def _conditions(validator: Validator) -> list[str]:
    """Return what may stand in If-Range, the best first (RFC 9110 §13.1.5: strong ones only)."""
    conditions = []
    if _has_strong_etag(validator):
        conditions.append(validator.etag)
    if _is_settled(validator):
        conditions.append(validator.last_modified)
    return [condition for condition in conditions if condition is not None]


def _has_strong_etag(validator: Validator) -> bool:
    return validator.etag is not None and bool(_STRONG_ETAG.fullmatch(validator.etag))


def _is_settled(validator: Validator) -> bool:
    modified_s = http_date_s(validator.last_modified)
    sent_s = http_date_s(validator.date)
    return modified_s is not None and sent_s is not None and sent_s - modified_s >= _SETTLED_S


def _is_other(was: Validator, now: Validator) -> bool:
    """Tell whether two strong ETags differ: dates may be the same for different versions."""
    return _has_strong_etag(was) and _has_strong_etag(now) and was.etag != now.etag
