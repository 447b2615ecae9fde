"""What goes out as the head of a request."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

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


CHARACTERS = st.sampled_from("abzAZ09-._~!$&'()*+,;=:@/?%[]\xfc%2e%41./")


@given(st.text(CHARACTERS, max_size=20), st.sampled_from(["one.example", "ONE.example", "[::1]"]))
def test_every_url_goes_out_as_requests_would_send_it(rest, host):
    url = f"http://{host}/{rest}"
    try:
        check_url(url)
        prepared = requests.Request("GET", url.partition("#")[0]).prepare()
    except (ValueProblem, requests.RequestException):
        return

    assert head(url).split(b" ")[1].decode() == prepared.path_url
