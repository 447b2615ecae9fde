"""Heads of answers, read strictly, however they are cut up on their way."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from itertools import pairwise

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import AttemptError
from fetchd.transports.wire import MOST_FIELDS, MOST_HEAD_BYTES, Received, parse_head
from harness import Receives

HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: "a"\r\nVia: x\r\nvia:\ty \r\n\r\n'


def head_of(*pieces):
    return Received(Receives(*pieces)).head()


def refusal(*pieces):
    with pytest.raises(AttemptError) as caught:
        head_of(*pieces)
    return caught.value.code


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.integers(0, 120), max_size=8))
def test_a_head_is_read_however_it_arrives_and_the_body_is_left(places):
    wire = HEAD + b"ok"
    ends = sorted({min(place, len(wire)) for place in places} | {0, len(wire)})
    received = Received(Receives(*(wire[a:b] for a, b in pairwise(ends))))

    head = received.head()

    assert (head.minor, head.status) == (1, 200)
    assert head.fields == {"content-length": ["2"], "etag": ['"a"'], "via": ["x", "y"]}
    buffer, body = memoryview(bytearray(10)), b""
    while count := received.readinto(buffer):
        body += bytes(buffer[:count])
    assert body == b"ok"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", 200),
        (b"HTTP/1.0 404 Not there \xe9", 404),
        (b"HTTP/1.1 200 ", 200),
        (b"HTTP/1.1 200", 200),
    ],
)
def test_a_reason_may_be_anything_that_can_be_seen_or_nothing(line, status):
    assert head_of(line + b"\r\n\r\n").status == status


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.2 200 OK", b"HTTP/2 200", b"HTTP/0.9 200 OK", b"http/1.1 200 OK",
        b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 099 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 O\0K", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK", b"ICY 200 OK", b"",
    ],
)  # fmt: skip
def test_a_status_line_of_another_form_is_refused(line):
    assert refusal(line + b"\r\n\r\n") == "bad_response"


@pytest.mark.parametrize(
    "field",
    [
        b"A : b", b": b", b"A", b"A\0: b", b"A: \0", b"A: \x1b[2J", b"A: b\rC: d", b"A: b\nC: d",
        b"A\x80: b", b"A: \x7f", b"(A): b",
    ],
)  # fmt: skip
def test_n16_a_header_of_another_form_is_refused(field):
    assert refusal(b"HTTP/1.1 200 OK\r\n" + field + b"\r\nB: c\r\n\r\n") == "bad_response"


def test_a_folded_header_becomes_one_line():
    head = head_of(b"HTTP/1.1 200 OK\r\nA: b\r\n \t c\r\nD: e\r\n\r\n")

    assert head.fields == {"a": ["b c"], "d": ["e"]}


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t"])
def test_a_fold_before_the_first_header_is_refused(fold):
    assert refusal(b"HTTP/1.1 200 OK" + fold + b"A: b\r\n\r\n") == "bad_response"


def test_n16_a_head_has_at_most_so_many_headers_and_bytes():
    many = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MOST_FIELDS
    long = b"HTTP/1.1 200 OK\r\nA: " + b"b" * (MOST_HEAD_BYTES - 20)

    assert len(head_of(many + b"\r\n").fields["a"]) == MOST_FIELDS
    assert refusal(many + b"A: b\r\n\r\n") == "bad_response"
    assert head_of(long + b"\r\n\r\n").status == 200
    assert refusal(long + b"b" * 40 + b"\r\n\r\n") == "bad_response"


def test_a_connection_that_ends_instead_of_a_head_is_told_from_one_that_ends_inside():
    with pytest.raises(http.client.RemoteDisconnected):
        head_of()

    assert refusal(HEAD[:-2]) == "bad_response"


PIECES = [b"HTTP/1.1 200 OK", b"\r\n", b"\n", b"\r", b" ", b":", b"A", b"\0", b"\xff"]


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_head_is_refused_or_holds_no_control_character(pieces):
    try:
        head = parse_head(b"HTTP/1.1 200 OK\r\n" + b"".join(pieces))
    except AttemptError:
        return

    for name, values in head.fields.items():
        assert name
        assert not any(char < " " and char != "\t" for char in name + "".join(values))


class Drips(Receives):
    """A socket whose receives bring a byte each."""

    def __init__(self, wire):
        self.left = iter(wire)

    def recv(self, most):
        return bytes([next(self.left)])


def test_n05_a_head_that_drips_in_costs_little_however_long_it_is():
    wire = b"HTTP/1.1 200 OK\r\nA: " + b"x" * (MOST_HEAD_BYTES - 100) + b"\r\n\r\n"
    began_s = time.thread_time()

    assert Received(Drips(wire)).head().status == 200

    assert time.thread_time() - began_s < 2


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\nA: b", b"HTTP/1.1 200 OK\r\nA: b\n", b"ICY"])
def test_what_can_be_no_head_is_refused_before_more_is_asked_for(head):
    with pytest.raises(AttemptError) as caught:
        Received(Drips(head)).head()  # one more receive would be a StopIteration

    assert caught.value.code == "bad_response"


def test_a_read_of_tls_brings_all_records_that_have_arrived_and_waits_for_no_more():
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("h.example").configure_cert(serving)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(asking)
    ours, theirs = socket.socketpair()
    body = bytes(range(256)) * 400
    sent = threading.Event()

    def serve():
        with serving.wrap_socket(theirs, server_side=True) as sock:
            sock.sendall(body)
            sent.set()
            sock.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    with asking.wrap_socket(ours, server_hostname="h.example") as sock:
        sock.settimeout(20.0)
        sent.wait(20.0)
        buffer = memoryview(bytearray(1024 * 1024))

        got = Received(sock).readinto(buffer)

        assert buffer[:got] == body
        assert sock.gettimeout() == 20.0
        sock.sendall(b"x")
    server.join(20.0)
