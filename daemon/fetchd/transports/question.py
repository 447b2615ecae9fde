"""What an origin is asked: a place, and the head of a request for it (RFC 9112 §3, §5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import urlsplit

import requests

from fetchd.urls import DEFAULT_PORTS

#: URLs that go out as they are written: nothing in them is to be lowered, encoded or resolved.
_PLAIN = re.compile(
    r"(https?)://([a-z0-9.-]+)(?::([1-9][0-9]{0,4}))?"
    r"(/(?:(?<!/)\.|[A-Za-z0-9_~!$&'()*+,;=:@/-])*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]+)?)"
)
_REQUEST_LINE = re.compile(r"(?:GET|POST) [\x21-\x7e]+ HTTP/1\.1")
# RFC 9110 §5.1, §5.5; nothing that would begin another field, nor another request.
_FIELD = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: (?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?"
)


@dataclass(slots=True)
class Question:
    """A request for one URL. ``headers``: all but ``Host``, in order; more until ``head``.

    ``body`` None: it is a GET, else a POST.
    """

    url: str
    scheme: str
    host: str
    port: int
    target: str
    headers: dict[str, str] = field(repr=False)  # with secrets, as the head
    body: bytes | None = field(default=None, repr=False)
    _head: bytes = field(default=b"", repr=False)  # once it was asked for

    @classmethod
    def of(cls, url: str, headers: dict[str, str]) -> Question:
        """Read a checked URL without fragment. Raises what requests raises for an odd one."""
        plain = _PLAIN.fullmatch(url)
        if plain is not None:
            scheme, host, port, target = plain.groups()
            return cls(url, scheme, host, int(port or DEFAULT_PORTS[scheme]), target, headers)
        prepared = requests.Request("GET", url).prepare()
        assert prepared.url is not None
        parts = urlsplit(prepared.url)
        port_number = parts.port or DEFAULT_PORTS[parts.scheme]
        host = parts.hostname or ""
        return cls(prepared.url, parts.scheme, host, port_number, prepared.path_url, headers)

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it goes: what an origin's settings are found by."""
        return self.scheme, self.host, self.port

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def with_header(self, name: str, value: str) -> Question:
        """Return the same request with one header more, or another value of it."""
        return replace(self, headers={**self.headers, name: value}, _head=b"")

    def head(self) -> bytes:
        """Return the bytes to send, with the body; raises ValueError for what is no head."""
        if self._head:
            return self._head
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        start = f"{self.method} {self.target} HTTP/1.1"
        fields = _fields(tuple(self.headers.items()))
        if not _REQUEST_LINE.fullmatch(start):
            raise ValueError("not the head of a request")
        self._head = f"{start}\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1")
        self._head += self.body or b""
        return self._head


@lru_cache(maxsize=256)  # most requests to an origin have the same
def _fields(headers: tuple[tuple[str, str], ...]) -> str:
    return "".join(_field(name, value) for name, value in headers)


def _field(name: str, value: str) -> str:
    field = f"{name}: {value}"
    if not _FIELD.fullmatch(field):
        raise ValueError("not the head of a request")
    return f"{field}\r\n"
