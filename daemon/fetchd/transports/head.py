"""What the head of an answer says, read strictly: status, lengths, ranges, times, places."""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urldefrag, urljoin, urlsplit

from fetchd.dates import http_date_s
from fetchd.errors import AttemptError, ValueProblem
from fetchd.model import Validator
from fetchd.ports import OtherRange
from fetchd.secrets import hide
from fetchd.transports.disposition import file_name
from fetchd.transports.ratelimit import QUOTAS, used_up_s
from fetchd.transports.wire import RawHead
from fetchd.urls import check_url, redact_url
from fetchd.values import dataclass

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429})
_FINAL = frozenset({501, 505})

#: Content codings (RFC 9110 §8.4.1) -> how the names of files end that are stored in them.
_STORED_AS = {
    "gzip": (".gz", ".tgz"),
    "x-gzip": (".gz", ".tgz"),
    "x-bzip2": (".bz2", ".tbz2"),
    "x-xz": (".xz", ".txz"),
    "compress": (".z",),
    "x-compress": (".z",),
    "br": (".br",),
    "zstd": (".zst",),
}

_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_NO_RANGE = re.compile(r"bytes \*/([0-9]{1,18})", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]{0,1024}"')  # RFC 9110 §8.8.3
_SECONDS = re.compile(r"[0-9]{1,10}")
_WISHES = frozenset({"retry-after", *QUOTAS})
_UNSEEN = re.compile(r"[^ -~]")


class Head:
    """What an answer says. ``url``: where it came from."""

    def __init__(self, url: str, raw: RawHead) -> None:
        self.url = url
        self.status = raw.status
        self._raw = raw

    def all(self, name: str) -> list[str]:
        """Return every value of a header, in order, without the space around them.

        ``name``: in lower case.
        """
        return self._raw.fields.get(name, [])

    def one(self, name: str) -> str | None:
        """Return the header's value; None if it is missing, or there are several different."""
        values = self.all(name)
        if len(values) > 1 and len(set(values)) > 1:
            return None
        return values[0] if values else None

    def content_type(self) -> str | None:
        """Return the media type; raises AttemptError where the server names several."""
        types = self.all("content-type")
        if len(types) > 1 and len({each.lower() for each in types}) > 1:
            raise AttemptError("bad_response", "the answer has several different Content-Type")
        return types[0] if types else None

    def file_name(self) -> str | None:
        """Return how the answer calls its file, None: it does not, or in more than one way."""
        said = self.one("content-disposition")
        return None if said is None else file_name(said)

    def validator(self) -> Validator:
        """Return what identifies the version, without what has not the form of it."""
        etag, modified = self.one("etag"), self.one("last-modified")
        return Validator(
            etag=etag if etag is not None and _ETAG.fullmatch(etag) else None,
            last_modified=modified if http_date_s(modified) is not None else None,
            date=self.one("date"),
        )

    @property
    def old(self) -> bool:
        """Whether the server speaks HTTP/1.0."""
        return self._raw.minor == 0

    def keeps_connection(self) -> bool:
        """Tell whether the connection may serve another request (RFC 9112 §9.3)."""
        options = _options(tuple(self.all("connection")))
        return "close" not in options and (not self.old or "keep-alive" in options)

    def wish_s(self, now_s: float) -> float | None:
        """Return for how long the answer asks to be left alone, None: it does not.

        ``now_s``: wall clock.
        """
        if _WISHES.isdisjoint(self._raw.fields):  # as most answers
            return None
        date = self.one("date")
        wished_s = retry_after_s(self.one("retry-after"), date, now_s)
        quota_s = used_up_s(self._raw.fields, date, now_s)
        if wished_s is None or quota_s is None:
            return quota_s if wished_s is None else wished_s
        return max(wished_s, quota_s)

    def refused(self, now_s: float) -> AttemptError:
        """Return the error of a status that carries no file. ``now_s``: wall clock."""
        # The server's own words carry no meaning (RFC 9112 §4), but may carry secrets.
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else ""
        server_side = 500 <= self.status <= 599 and self.status not in _FINAL
        wish_s = self.wish_s(now_s)
        # Some answer so when a quota is used up, and it says no more of the file than 429 does.
        no_quota = self.status == 403 and wish_s is not None
        return AttemptError(
            "bad_status",
            f"{self.status} {phrase}".rstrip() + f" from {redact_url(self.url)}",
            transient=server_side or no_quota or self.status in _TRANSIENT,
            retry_after_s=wish_s,
            status=self.status,
        )


@lru_cache(maxsize=64)  # most answers say the same, or nothing
def _options(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(option.strip().lower() for value in values for option in value.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Which bytes of the file the body holds. ``total``: of the whole file, None unknown.

    ``length``: of the body, None where only its framing tells.
    """

    start: int
    total: int | None
    length: int | None
    chunked: bool


def extent_of(head: Head, start: int, stop: int | None = None) -> Extent:
    """Return what the body of a 200 or 206 holds; raises AttemptError.

    ``start`` and ``stop`` were asked for, None: to the end.
    """
    chunked = _is_chunked(head)
    length = _content_length(head)
    if chunked and length is not None:
        raise AttemptError("bad_framing", "the answer has both a length and chunks")
    if head.status == 200:
        return Extent(start=0, total=length, length=length, chunked=chunked)
    begin, end, total = _content_range(head, start, stop)
    part = end - begin + 1
    if length is not None and length != part:
        raise OtherRange(
            "bad_length", f"the answer has {length} bytes, its range {begin}-{end} has {part}"
        )
    return Extent(start=begin, total=total, length=part, chunked=chunked)


def unsatisfied_total(head: Head) -> int | None:
    """Return the file's length that a 416 names (RFC 9110 §14.4), None if it names none."""
    match = _NO_RANGE.fullmatch(head.one("content-range") or "")
    return int(match[1]) if match else None


def refuse_encoding(head: Head) -> None:
    """Raise AttemptError for a body that is not the file itself but compressed or the like.

    Some servers name the format of a file that is stored compressed as its encoding. Under such a
    name, and with a length, the bytes that come are the file.
    """
    codings = [value.lower() for value in head.all("content-encoding")]
    if all(coding in {"", "identity"} for coding in codings):
        return
    endings = _STORED_AS.get(codings[0], ()) if len(codings) == 1 else ()
    if endings and urlsplit(head.url).path.lower().endswith(endings) and head.all("content-length"):
        return
    kind = OtherRange if head.status == 206 else AttemptError
    raise kind(
        "bad_response",
        f"the server encodes the file ({_shown(', '.join(codings))}) although plain bytes were "
        "asked for; its length and digest cannot be checked",
        transient=False,
    )


def next_url(head: Head) -> str:
    """Return where a redirect leads, without fragment; raises AttemptError."""
    location = head.one("location")
    if location is None:
        raise AttemptError(
            "bad_response", f"a redirect from {redact_url(head.url)} does not say where to"
        )
    try:
        location = location.encode("latin-1").decode("utf-8")
        if re.search(r"[\x00-\x20\x7f]", location):  # urljoin would drop some of these unseen
            raise ValueProblem("it has spaces or control characters")
        target = urldefrag(urljoin(head.url, location)).url
        scheme = urlsplit(target).scheme
        if scheme not in {"http", "https"}:
            raise AttemptError(
                "scheme_denied",
                f"a redirect from {redact_url(head.url)} leads to {_shown(scheme)}:, "
                "which is not fetched",
            )
        if scheme == "http" and urlsplit(head.url).scheme == "https":
            raise AttemptError(
                "scheme_denied",
                f"a redirect from {redact_url(head.url)} leads from https to http",
            )
        return check_url(target)
    except ValueError as exc:  # ValueProblem and UnicodeError are ones, urljoin raises plain ones
        why = exc if isinstance(exc, ValueProblem) else "it cannot be read"
        raise AttemptError(
            "bad_response",
            f"a redirect from {redact_url(head.url)} leads nowhere: {why}",
            transient=False,
        ) from None


def retry_after_s(value: str | None, date: str | None, now_s: float) -> float | None:
    """Return the seconds to wait of a Retry-After (RFC 9110 §10.2.3), None if it says nothing.

    A date counts from the answer's own ``Date``, so that a wrong clock on either side does not
    matter; without one from ``now_s`` (wall clock).
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    until_s = http_date_s(value)
    if until_s is None:
        return None
    sent_s = http_date_s(date)
    delay_s = until_s - (now_s if sent_s is None else sent_s)
    return delay_s if delay_s > 0 else None


def _is_chunked(head: Head) -> bool:
    codings = head.all("transfer-encoding")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise AttemptError(
            "bad_framing", f"unknown Transfer-Encoding: {_shown(', '.join(codings))}"
        )
    if codings and head.old:  # RFC 9112 §6.1: an HTTP/1.0 proxy may have passed it on unread
        raise AttemptError("bad_framing", "an HTTP/1.0 answer has a Transfer-Encoding")
    return bool(codings)


def _content_length(head: Head) -> int | None:
    values = head.all("content-length")
    if not values:
        return None
    if len(set(values)) > 1 or not _LENGTH.fullmatch(values[0]):
        raise AttemptError(
            "bad_length", f"Content-Length is not one plain number: {_shown(', '.join(values))!r}"
        )
    return int(values[0])


def _content_range(head: Head, start: int, stop: int | None) -> tuple[int, int, int | None]:
    """Return first byte, last byte and total of a 206 that answers ``bytes=start-(stop-1)``."""
    if (head.one("content-type") or "").lower().startswith("multipart/byteranges"):
        raise OtherRange("bad_response", "one range was asked for, several are answered")
    values = head.all("content-range")
    match = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise OtherRange(
            "bad_response",
            f"206 without a valid Content-Range: {_shown(', '.join(values))!r}",
        )
    begin, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    last = stop - 1 if stop is not None else total - 1 if total is not None else None
    if begin != start or end < begin or (last is not None and end != last):
        to = "the end" if stop is None else stop - 1
        raise OtherRange(
            "bad_response",
            f"the bytes from {start} to {to} were asked for, {_shown(values[0])} is answered",
        )
    return begin, end, total


def _shown(text: str) -> str:
    """Return remote text as a message may show it."""
    return _UNSEEN.sub("?", hide(text))[:80]
