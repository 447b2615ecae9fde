"""Bodies that break off, stall or drip, and lengths that lie (N01 to N07)."""

from __future__ import annotations

import pytest

from faults.rig import BODY, HALF, recovered, refused, sha256
from faults.server import dripping, file, raw, stalled
from fetchd.model import Verify

OK = b"HTTP/1.1 200 OK\r\n"
UNFRAMED = raw(OK + b'ETag: "v1"\r\n\r\n' + BODY[:HALF])


def range_from(start):
    return f"bytes={start}-" if start else None


@pytest.mark.parametrize(
    ("share", "short"),
    [
        pytest.param(0, 0, id="N01-no-byte"),
        pytest.param(0.5, 0, id="N01-half"),
        pytest.param(1, 1, id="N01-last-byte"),
    ],
)
def test_a_reset_is_followed_by_a_request_for_the_rest(trial, share, short):
    arrives = int(len(trial.missing) * share) - short

    ended = trial.meet(file(BODY, cut_after=arrives, reset=True))

    assert recovered(ended, "short_body")
    first, second = trial.requests
    assert first.header("Range") == range_from(trial.have_bytes)
    assert second.header("Range") == range_from(trial.have_bytes + arrives)


def test_n02_an_end_before_the_length_is_followed_by_a_request_for_the_rest(trial):
    ended = trial.meet(file(BODY, cut_after=50_000))

    assert recovered(ended, "short_body")
    assert trial.requests[1].header("Range") == range_from(trial.have_bytes + 50_000)


def test_n03_with_checksum_a_cut_that_nothing_tells_is_found_by_it(trial):
    ended = trial.meet(UNFRAMED, keys=f"checksum: {sha256(BODY)}")

    assert recovered(ended, "checksum_mismatch")
    assert trial.requests[1].header("Range") is None


def test_n03_without_checksum_a_body_that_may_be_cut_is_refused(trial):
    assert refused(trial.meet(UNFRAMED), "length_unknown")


def test_n03_a_body_that_may_be_cut_is_taken_where_both_sides_say_so_and_flagged(trial):
    trial.rig.whole.add(BODY[:HALF])

    ended = trial.meet(UNFRAMED, keys="verify: none", settings={"verify": "none"})

    assert recovered(ended, body=BODY[:HALF])
    assert ended.view.verified is Verify.NONE


@pytest.mark.parametrize(
    ("hostile", "arrives"),
    [
        pytest.param(stalled(), 0, id="N04-before-head"),
        pytest.param(raw(OK + b"Content-Ty", "stall"), 0, id="N04-in-head"),
        pytest.param(file(BODY, stall_after=50_000), 50_000, id="N04-in-body"),
    ],
)
def test_a_silent_server_is_left_and_asked_again(trial, hostile, arrives):
    ended = trial.meet(hostile)

    assert recovered(ended, "stalled")
    assert ended.took_s < 0.4 + 2
    assert trial.requests[1].header("Range") == range_from(trial.have_bytes + arrives)


def test_n05_in_head_a_dripping_server_is_left(trial):
    ended = trial.meet(dripping(OK + b"X: " + b"y" * 999))

    assert recovered(ended, "stalled")


def dripping_body(exchange):
    exchange.head(200, "OK", {"Content-Length": str(len(BODY))})
    exchange.drip(BODY)


def test_n05_in_body_a_dripping_server_is_too_slow(trial):
    assert recovered(trial.meet(dripping_body), "too_slow")


def test_n05_in_body_a_dripping_server_is_left_at_the_deadline(trial):
    limits = {
        "timeout.connect": "200ms",
        "timeout.stall": "5s@1B/s",
        "timeout.attempt": "300ms",
    }

    ended = trial.meet(dripping_body, settings=limits)

    assert recovered(ended, "deadline")
    assert ended.took_s < 0.3 + 2


def test_n06_a_length_that_promises_too_much_on_an_open_connection_stalls(trial):
    ended = trial.meet(
        file(BODY, length=str(len(BODY) + 1000), ranges=False, stall_after=len(BODY))
    )

    assert recovered(ended, "stalled")


EXTRAS = [
    pytest.param(b"more than was told", id="N07-more"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", id="N07-second-answer"),
]


def generous(extra):
    """Tell the true length and send more, all at once."""
    head = OK + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    return raw(head + BODY + extra, "keep")


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_stands_behind_the_body_is_ignored(trial, extra):
    assert recovered(trial.meet(generous(extra)))


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_stands_behind_the_body_never_reaches_another_file(rig, server, extra):
    server.routes |= {"/f.bin": generous(extra), "/g.bin": file(BODY)}

    ended = rig.get(f"urls: [{server.url('/f.bin')}, {server.url('/g.bin')}]", {"workers": "1"})

    assert recovered(ended)
    assert set(ended.files) == {"f.bin", "g.bin"}
    assert server.connections == 2
