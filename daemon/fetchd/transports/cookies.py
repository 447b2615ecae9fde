"""Cookies for the length of one attempt: redirects may need them, no later request gets them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from fetchd.transports.head import Head
from fetchd.transports.question import Question

MOST_COOKIES = 50
MOST_COOKIE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request goes."""

    scheme: str
    host: str
    path: str

    @classmethod
    def of(cls, question: Question) -> _Place:
        parts = urlsplit(question.url)
        return cls(parts.scheme, parts.hostname or "", parts.path or "/")

    def is_below(self, domain: str) -> bool:
        """RFC 6265 §5.1.3; a domain of one label, such as ``com``, is nobody's."""
        is_name = not self.host[-1:].isdigit() and ":" not in self.host
        return is_name and "." in domain and self.host.endswith("." + domain)

    @property
    def folder(self) -> str:
        """RFC 6265 §5.1.4."""
        return self.path.rpartition("/")[0] or "/"


@dataclass(frozen=True, slots=True)
class _Cookie:
    """``below``: hosts below the domain get it too."""

    name: str
    value: str
    domain: str
    below: bool
    path: str
    secure: bool

    def is_for(self, place: _Place) -> bool:
        return (
            (place.host == self.domain or (self.below and place.is_below(self.domain)))
            and (place.path == self.path or place.path.startswith(self.path.rstrip("/") + "/"))
            and (place.scheme == "https" or not self.secure)
        )


class Cookies:
    """What the servers of one chain of redirects have set, each for itself (RFC 6265 §5).

    How long they last is not read: no chain lasts that long. What is too large, or too much, is
    passed over.
    """

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], _Cookie] = {}

    def keep(self, asked: Question, head: Head) -> None:
        """Take the cookies of an answer in."""
        for text in head.all("set-cookie"):
            cookie = _read(text, _Place.of(asked)) if len(text) <= MOST_COOKIE_BYTES else None
            if cookie is not None:
                key = (cookie.name, cookie.domain, cookie.path)
                if key in self._cookies or len(self._cookies) < MOST_COOKIES:
                    self._cookies[key] = cookie

    def add_to(self, question: Question) -> None:
        """Give a request its ``Cookie`` header, if there is one for its place."""
        if not self._cookies:  # as in most chains
            return
        place = _Place.of(question)
        fitting = [cookie for cookie in self._cookies.values() if cookie.is_for(place)]
        fitting.sort(key=lambda cookie: -len(cookie.path))
        given = question.headers.get("Cookie")  # the operator's own, for this origin
        pairs = [*filter(None, [given]), *(f"{cookie.name}={cookie.value}" for cookie in fitting)]
        header = "; ".join(pairs)
        if header:
            question.headers["Cookie"] = header


def _read(text: str, place: _Place) -> _Cookie | None:
    """Read a ``Set-Cookie``; None: it is malformed, or for hosts that are not its own."""
    pair, *attributes = text.split(";")
    name, equals, value = (part.strip() for part in pair.partition("="))
    said = {}
    for attribute in attributes:
        key, _, meant = attribute.partition("=")
        said[key.strip().lower()] = meant.strip()
    domain = said.get("domain", "").lower().removeprefix(".")
    if not name or not equals or (domain and domain != place.host and not place.is_below(domain)):
        return None
    path = said.get("path", "")
    return _Cookie(
        name=name,
        value=value,
        domain=domain or place.host,
        below=bool(domain),
        path=path if path.startswith("/") else place.folder,
        secure="secure" in said,
    )
