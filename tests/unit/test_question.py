"""What goes out as the head of a request."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from fetchd.errors import ValueProblem
from fetchd.transports.question import Question
from fetchd.urls import check_url


def head(url: str, **headers: str) -> bytes:
    return Question.of(url, headers).head()


def test_a_request_has_line_host_and_fields_in_order():
    sent = head("http://one.example/a/b?c=d", Accept="*/*", Range="bytes=5-")

    assert sent == (
        b"GET /a/b?c=d HTTP/1.1\r\nHost: one.example\r\nAccept: */*\r\nRange: bytes=5-\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://one.example:80/f", b"one.example"),
        ("https://one.example:443/f", b"one.example"),
        ("http://one.example:443/f", b"one.example:443"),
        ("http://ONE.example/f", b"one.example"),
        ("http://[::1]:8080/f", b"[::1]:8080"),
        ("http://b\xfccher.example/f", b"xn--bcher-kva.example"),
    ],
)
def test_the_host_is_named_without_a_default_port(url, host):
    assert b"\r\nHost: " + host + b"\r\n" in head(url, Accept="*/*")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: z"),
        ("X", "a\nb"),
        ("X", "a\0"),
        ("X", " a"),
        ("X", "\u2603"),
        ("X:", "a"),
        ("X Y", "a"),
        ("X\r\nY", "a"),
        ("", "a"),
    ],
)
def test_what_would_be_another_field_cannot_be_sent(name, value):
    with pytest.raises(ValueError):
        Question.of("http://one.example/f", {"Accept": "*/*", name: value}).head()


def test_n18_a_field_with_every_byte_of_latin_1_is_sent_as_it_is():
    value = "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))

    assert value.encode("latin-1") in head("http://one.example/f", X=value)


class Sent(Exception):
    """What requests would have sent."""


class Paper:
    """A socket that keeps what is written to it."""

    written = b""

    def sendall(self, data):
        self.written += data

    def settimeout(self, _):
        pass

    def close(self):
        pass


class Pen(HTTPConnection):
    def connect(self):
        self.sock = self.paper = Paper()
        self.is_verified = True

    def getresponse(self):
        raise Sent(self.paper.written)


class TlsPen(Pen, HTTPSConnection):
    pass


class Pool(HTTPConnectionPool):
    ConnectionCls = Pen


class TlsPool(HTTPSConnectionPool):
    ConnectionCls = TlsPen


ADAPTER = HTTPAdapter()
ADAPTER.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}


def sent_by_requests(prepared):
    with pytest.raises(Sent) as caught:
        ADAPTER.send(prepared)
    return caught.value.args[0]


USUAL = {"User-Agent": "fetchd/1", "Accept": "*/*", "Accept-Encoding": "identity"}
PLAIN = "abzAZ09-._~!$&'()*+,;=:@/?"
RESTS = st.text(PLAIN, max_size=20) | st.text(PLAIN + "%[]\xfc%2e%41./", max_size=20)
HOSTS = ["one.example", "ONE.example", "127.0.0.1", "[::1]", "[2001:DB8::1]", "b\xfccher.example"]
PORTS = ["", ":", ":80", ":443", ":8080", ":0080"]
ORIGINS = st.builds(
    "{}://{}{}".format, *map(st.sampled_from, (["http", "https", "HTTP"], HOSTS, PORTS))
)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"))


@given(ORIGINS, RESTS, VALUES)
def test_every_head_goes_out_as_requests_would_send_it(origin, rest, value):
    url, headers = f"{origin}/{rest}", {**USUAL, "X-Key": value}
    try:
        check_url(url)
        prepared = requests.Request("GET", url, headers=headers).prepare()
    except (ValueProblem, requests.RequestException):
        return

    assert Question.of(url, headers).head() == sent_by_requests(prepared)


@given(ORIGINS, RESTS)
def test_a_url_that_was_read_is_read_again_without_a_change(origin, rest):
    """As requests does on the way through a proxy."""
    url = f"{origin}/{rest}"
    try:
        check_url(url)
        question = Question.of(url, {})
    except (ValueProblem, requests.RequestException):
        return

    again = requests.Request("GET", question.url).prepare()

    assert (again.url, again.path_url) == (question.url, question.target)
