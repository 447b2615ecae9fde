"""Cookies for the length of one attempt: redirects may need them, no later request gets them."""

from __future__ import annotations

from http.client import HTTPMessage

from requests import PreparedRequest
from requests.cookies import MockRequest, MockResponse, RequestsCookieJar, get_cookie_header

from fetchd.transports.head import Head


class Cookies:
    """What the servers of one chain of redirects have set, each for itself (RFC 6265)."""

    def __init__(self) -> None:
        self._jar: RequestsCookieJar | None = None  # most chains have none

    def keep(self, asked: PreparedRequest, head: Head) -> None:
        """Take the cookies of an answer in."""
        values = head.all("Set-Cookie")
        if not values:
            return
        message = HTTPMessage()
        for value in values:
            message["Set-Cookie"] = value
        self._jar = RequestsCookieJar() if self._jar is None else self._jar
        self._jar.extract_cookies(MockResponse(message), MockRequest(asked))  # type: ignore[arg-type]

    def add_to(self, request: PreparedRequest) -> str:
        """Give a request its ``Cookie`` header; returns it, empty for none."""
        if self._jar is None:
            return ""
        header: str | None = get_cookie_header(self._jar, request)  # type: ignore[no-untyped-call]
        if header:
            request.headers["Cookie"] = header
        return header or ""
