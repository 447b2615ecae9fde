"""A connection by itself: what the kernel ends, and whether a kept one may be used again."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from fetchd.transports.connections import _Pool, _Watched
from fetchd.transports.faults import Phase, attempt_error


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    conn = _Watched("h.example")
    conn.sock = ours
    yield conn, theirs
    ours.close()
    theirs.close()


def test_n25_p14_a_wait_that_nobody_ends_is_ended_by_the_kernel_and_called_a_stall(pair):
    conn, _ = pair
    conn.limit_waits(0.05)

    with pytest.raises(BlockingIOError) as caught:
        conn.sock.recv(1)

    assert conn.sock.gettimeout() is None  # the interpreter does not poll
    assert attempt_error(caught.value, Phase.BODY, "h.example").code == "stalled"


def test_a_limit_that_changes_is_told_again(pair):
    conn, _ = pair
    conn.limit_waits(60.0)
    conn.limit_waits(0.05)

    with pytest.raises(BlockingIOError):
        conn.sock.recv(1)


def test_a_wait_ends_when_the_socket_is_shut_down_from_outside(pair):
    conn, _ = pair
    conn.limit_waits(60.0)

    def shut_down():
        time.sleep(0.05)
        conn.sock.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=shut_down).start()

    assert conn.sock.recv(1) == b""


def test_n09_a_kept_connection_is_not_used_again_when_bytes_came_or_the_peer_left(pair):
    conn, theirs = pair
    conn.limit_waits(60.0)
    quiet = conn.is_connected
    theirs.sendall(b"HTTP/1.1 200 OK\r\n")
    noisy = conn.is_connected
    conn.sock.recv(100)
    again = conn.is_connected
    theirs.close()

    assert (quiet, noisy, again, conn.is_connected) == (True, False, True, False)


def test_a_connection_that_is_one_too_many_to_keep_is_closed():
    pool = _Pool("h.example", maxsize=1)
    first, second = _Watched("h.example"), _Watched("h.example")
    ours, theirs = socket.socketpair()
    second.sock = ours
    pool.give_back(first)

    pool.give_back(second)

    assert theirs.recv(1) == b""
    theirs.close()
