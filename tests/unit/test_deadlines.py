"""How waits are ended from outside."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import closing

import pytest

from faults.server import certificates
from fetchd.clock import SystemClock
from fetchd.errors import AttemptError, NotWanted
from fetchd.threads import Worker
from fetchd.transports.deadlines import Deadlines, Watch


class Clock:
    """Time moves when the test says so; a wait ends after a moment of real time."""

    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        return self.now_s

    def wall(self):
        return self.now_s

    def wait(self, condition, timeout_s):
        condition.wait(0.005 if timeout_s is not None else 5)


class Wish:
    """``wanted`` as the engine answers it."""

    def __init__(self):
        self.wanted = True
        self.asked = threading.Event()

    def __call__(self):
        self.asked.set()
        return self.wanted


def make_watch(clock, wanted=lambda: True, deadline_s=None):
    return Watch(clock, wanted, deadline_s, lambda watch: None)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def deadlines(clock):
    with closing(Deadlines(clock, on_death=lambda worker, exc: None)) as deadlines:
        yield deadlines


def test_a_wait_within_its_limit_is_left_alone(clock, pair):
    watch = make_watch(clock)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")

    clock.now_s += 29.9
    watch.judge()

    watch.end()
    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"


def test_a_wait_over_its_limit_is_cut_with_the_code_of_the_wait(clock, pair):
    watch = make_watch(clock)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data for 30 s")

    clock.now_s += 30
    watch.judge()

    assert pair[0].recv(1) == b""  # looks like a regular end: the trap
    with pytest.raises(AttemptError, match="no data for 30 s") as caught:
        watch.end()
    assert caught.value.code == "stalled"


def test_the_deadline_of_the_attempt_goes_before_the_limit_of_the_wait(clock, pair):
    watch = make_watch(clock, deadline_s=clock.now_s + 10)
    watch.bind(pair[0])
    watch.begin(5, "stalled", "no data")

    clock.now_s += 10
    watch.judge()

    with pytest.raises(AttemptError) as caught:
        watch.end()
    assert caught.value.code == "deadline"


def test_a_wait_that_begins_after_the_deadline_raises_at_once(clock):
    watch = make_watch(clock, deadline_s=clock.now_s + 10)
    clock.now_s += 11

    with pytest.raises(AttemptError) as caught:
        watch.begin(5, "stalled", "no data")

    assert caught.value.code == "deadline"


def test_a_wait_for_nobody_is_cut_and_says_so(clock, pair):
    wish = Wish()
    watch = make_watch(clock, wish)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")

    wish.wanted = False
    watch.judge()

    assert pair[0].recv(1) == b""
    with pytest.raises(NotWanted):
        watch.end()


def test_nobody_is_asked_while_there_is_no_wait(clock):
    wish = Wish()
    watch = make_watch(clock, wish)

    watch.judge()
    watch.begin(30, "stalled", "no data")
    watch.end()
    watch.judge()

    assert not wish.asked.is_set()


def test_a_released_socket_is_out_of_reach(clock, pair):
    watch = make_watch(clock)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")
    watch.release()

    clock.now_s += 31
    watch.judge()

    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"
    with pytest.raises(AttemptError):
        watch.check()


def test_a_socket_that_comes_after_the_cut_is_shut_down_too(clock, pair):
    watch = make_watch(clock)
    watch.begin(30, "connect_failed", "too slow")
    clock.now_s += 31
    watch.judge()

    watch.bind(pair[0])

    assert pair[0].recv(1) == b""


def test_trap_2_a_cut_under_tls_leaves_the_encryption_in_place(clock, pair, tmp_path):
    plain = b"plain text " * 5000  # several TLS records
    context, ca = certificates(tmp_path)
    trust = ssl.create_default_context(cafile=ca)

    sent = threading.Event()

    def serve():
        with context.wrap_socket(pair[1], server_side=True) as served:
            served.sendall(plain)
            sent.set()
            served.recv(1)

    peer = threading.Thread(target=serve)
    peer.start()
    with trust.wrap_socket(pair[0], server_hostname="127.0.0.1") as sock:
        watch = make_watch(clock)
        watch.bind(sock)
        watch.begin(30, "stalled", "no data")
        assert sent.wait(5)
        first = sock.recv(16384)
        clock.now_s += 31
        watch.judge()

        rest = sock.recv(65536)

    peer.join(5)
    assert plain.startswith(first + rest)


def test_the_first_cause_stays(clock):
    wish = Wish()
    watch = make_watch(clock, wish)
    watch.begin(30, "stalled", "no data")
    clock.now_s += 31
    watch.judge()
    wish.wanted = False
    watch.judge()

    with pytest.raises(AttemptError):
        watch.check()


def test_a_closed_socket_does_not_disturb_the_supervisor(clock):
    ours, theirs = socket.socketpair()
    watch = make_watch(clock)
    watch.bind(ours)
    watch.begin(30, "stalled", "no data")
    ours.close()
    theirs.close()

    clock.now_s += 31
    watch.judge()

    with pytest.raises(AttemptError):
        watch.check()


def test_the_supervisor_wakes_a_blocked_read_at_its_limit(clock, deadlines, pair):
    watch = deadlines.watch(lambda: True, None)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")
    threading.Timer(0.05, lambda: setattr(clock, "now_s", clock.now_s + 31)).start()

    assert pair[0].recv(1) == b""

    with pytest.raises(AttemptError):
        watch.end()


def test_the_supervisor_wakes_a_blocked_read_when_it_is_not_wanted(deadlines, pair):
    wish = Wish()
    watch = deadlines.watch(wish, None)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")
    assert wish.asked.wait(5)
    wish.wanted = False

    assert pair[0].recv(1) == b""

    with pytest.raises(NotWanted):
        watch.end()


def test_a_closed_watch_is_forgotten(clock, deadlines, pair):
    watch = deadlines.watch(lambda: True, None)
    watch.bind(pair[0])
    watch.begin(30, "stalled", "no data")
    watch.close()
    clock.now_s += 31
    other = deadlines.watch(wish := Wish(), None)
    other.begin(30, "stalled", "no data")

    assert wish.asked.wait(5)  # the supervisor has made a round

    watch.check()
    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"


def test_the_supervisor_ends_promptly_when_idle():
    deadlines = Deadlines(SystemClock(), on_death=lambda worker, exc: None)
    began_s = time.monotonic()

    deadlines.close()

    assert not deadlines.worker.alive()
    assert time.monotonic() - began_s < 2


def test_trap_15_a_supervised_wait_is_legal_until_a_moment_behind_its_limit(clock):
    went_on, go_on = threading.Semaphore(0), threading.Semaphore(0)
    watch = make_watch(clock)

    def wait(worker):
        for step in (lambda: watch.begin(300, "stalled", "no data"), watch.end):
            step()
            went_on.release()
            go_on.acquire(timeout=10)

    worker = Worker("fetcher-0", wait, clock, lambda *_: None)
    worker.start()
    went_on.acquire(timeout=10)
    late = []
    for moment_s in (299, 30):
        clock.now_s += moment_s
        late.append(worker.late)
    go_on.release()
    went_on.acquire(timeout=10)
    late.append(worker.late)
    go_on.release()

    assert late == [False, True, False]
