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


class TlsPair:
    """A client's encrypted socket, and what the server's side writes to it, record by record."""

    def __init__(self) -> None:
        authority = trustme.CA()
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("h.example").configure_cert(serving)
        asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(asking)
        ours, self.theirs = socket.socketpair()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._server = serving.wrap_bio(self._in, self._out, server_side=True)
        shaking = threading.Thread(target=self._shake_hands)
        shaking.start()
        self.sock = asking.wrap_socket(ours, server_hostname="h.example")
        shaking.join(20.0)
        self.sock.settimeout(20.0)

    def _shake_hands(self) -> None:
        while True:
            try:
                self._server.do_handshake()
            except ssl.SSLWantReadError:
                self.theirs.sendall(self._out.read())
                self._in.write(self.theirs.recv(65536))
            else:
                self.theirs.sendall(self._out.read())
                return

    def record(self, data: bytes) -> bytes:
        self._server.write(data)
        return self._out.read()

    def close(self) -> None:
        self.sock.close()
        self.theirs.close()


@pytest.fixture
def tls():
    made = TlsPair()
    yield made
    made.close()


RECORD = bytes(range(256)) * 64


def test_a_read_of_tls_brings_all_records_that_have_arrived_and_waits_for_no_more(tls):
    tls.theirs.sendall(tls.record(RECORD) + tls.record(RECORD) + tls.record(b"rest"))
    buffer = memoryview(bytearray(1024 * 1024))

    got = Received(tls.sock).readinto(buffer)

    assert buffer[:got] == RECORD + RECORD + b"rest"
    assert tls.sock.gettimeout() == 20.0


def test_a_read_of_tls_brings_no_more_than_there_is_room_for(tls):
    tls.theirs.sendall(tls.record(RECORD) + tls.record(RECORD))
    received, buffer = Received(tls.sock), memoryview(bytearray(20_000))

    got = received.readinto(buffer)
    rest = received.readinto(buffer[got:]) if got < len(buffer) else 0
    rest += received.readinto(memoryview(bytearray(20_000)))

    assert got + rest == 2 * len(RECORD)


def test_n27_a_damaged_record_behind_good_ones_is_raised_by_the_next_read_and_no_end(tls):
    good, bad = tls.record(RECORD), bytearray(tls.record(RECORD))
    bad[2000] ^= 1
    tls.theirs.sendall(good + bytes(bad))
    tls.theirs.shutdown(socket.SHUT_WR)
    received, buffer = Received(tls.sock), memoryview(bytearray(1024 * 1024))

    got = received.readinto(buffer)

    assert buffer[:got] == RECORD
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            received.readinto(buffer)
