"""Statuses, encodings, wrong contents, mirrors and waits (N13, N18 to N24)."""

from __future__ import annotations

import email.utils
import gzip
import time
import zlib

import pytest

from faults.rig import BODY, HALF, NEXT, recovered, refused, sha256
from faults.server import Server, content, endless, file, flapping, html, once, stalled, status
from fetchd.model import Verify

# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(status(204), "bad_status", id="N18-204"),
        pytest.param(status(205), "bad_status", id="N18-205"),
        pytest.param(status(304), "bad_status", id="N18-304"),
        pytest.param(status(999), "bad_status", id="N18-999"),
        pytest.param(file(b""), "bad_size", id="N18-no-bytes"),
    ],
)
def test_a_status_without_the_file_makes_no_file(trial, hostile, code):
    ended = trial.meet(hostile, hostile, keys=f"size: {len(BODY)}")

    assert refused(ended, code)
    assert len(trial.requests) == 1


def test_n18_302_a_redirect_to_nowhere_makes_no_file(trial):
    ended = trial.meet(status(302), status(302), settings={"retry.attempts": "2"})

    assert refused(ended, "bad_response", "bad_response")


@pytest.mark.parametrize("code", [408, 425, 500, 502, 504], ids="N23-{}".format)
def test_a_status_that_passes_is_waited_out(trial, code):
    ended = trial.meet(status(code), once(status(code), file(BODY)))

    assert recovered(ended, "bad_status", "bad_status")
    assert len(trial.requests) == 3


@pytest.mark.parametrize("code", [408, 425, 500, 502, 504], ids="N23-{}-for-ever".format)
def test_a_status_that_does_not_pass_ends_with_the_budget(trial, code):
    ended = trial.meet(status(code), status(code))

    assert refused(ended, *["bad_status"] * 3)
    assert str(code) in ended.reason
    assert len(trial.requests) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410], ids="N24-{}".format)
def test_a_status_that_stays_is_not_asked_for_again(rig, server, code):
    server.routes["/f.bin"] = status(code)

    ended = rig.get(f"url: {server.url('/f.bin')}")

    assert refused(ended, "bad_status")
    assert str(code) in ended.reason
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410], ids="N24-{}-mirror".format)
def test_a_status_that_stays_leads_to_the_mirror_at_once(trial, code):
    with Server({"/f.bin": file(BODY)}) as mirror:
        if trial.resumed:
            trial.keep(trial.source, file(BODY, cut_after=HALF))
        trial.server.routes["/f.bin"] = status(code)

        ended = trial.rig.get(f"base: [{trial.server.origin}, {mirror.origin}]\nurl: f.bin\n")

        assert recovered(ended, "bad_status")
        assert [len(trial.requests), len(mirror.requests)] == [1, 1]


# ---------------------------------------------------------------- bodies


def test_n13_the_body_of_a_redirect_is_left_unread(trial):
    flood = endless(
        bytes(65536),
        b"HTTP/1.1 302 Found\r\nLocation: /g.bin\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    trial.server.routes["/g.bin"] = file(BODY)

    ended = trial.meet(flood)

    assert recovered(ended)
    assert trial.requests[0].sent < 30_000_000  # what fits the buffers of sockets


PACKED = gzip.compress(BODY)
BOMB = zlib.compressobj(9, wbits=31)
BOMB_BYTES = BOMB.compress(bytes(50_000_000)) + BOMB.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("gzip", BOMB_BYTES, id="N19-bomb"),
        pytest.param("gzip", PACKED[:1000], id="N19-truncated"),
        pytest.param("gzip", BODY, id="N19-not-gzip"),
        pytest.param("gzip", PACKED + b"junk", id="N19-trailing-junk"),
        pytest.param(", ".join(["gzip"] * 1000), PACKED, id="N19-chain"),
        pytest.param("br", PACKED, id="N19-br"),
        pytest.param("zstd", PACKED, id="N19-zstd"),
    ],
)
def test_an_encoded_answer_is_refused_undecoded(trial, encoding, body):
    hostile = file(body, headers={"Content-Encoding": encoding}, ranges=False)

    ended = trial.meet(hostile, hostile)

    assert refused(ended, "bad_response")
    (request,) = trial.requests
    assert b"\r\nAccept-Encoding: identity\r\n" in request.raw


def test_n19_a_packed_file_stays_packed(trial):
    trial.rig.whole.add(BOMB_BYTES)
    packed = file(BOMB_BYTES, type="application/gzip")

    assert recovered(trial.meet(packed, packed), body=BOMB_BYTES)


def test_n20_wrong_bytes_of_the_right_length_are_never_seen(trial):
    keys = f"checksum: {sha256(BODY)}"

    ended = trial.meet(file(NEXT), file(NEXT), keys=keys)

    assert refused(ended, "checksum_mismatch", "checksum_mismatch")
    assert all(request.header("Range") is None for request in trial.requests[1:])


def test_n20_wrong_bytes_once_are_replaced_by_right_ones(trial):
    ended = trial.meet(file(NEXT), keys=f"checksum: {sha256(BODY)}")

    assert recovered(ended, "checksum_mismatch")
    assert ended.view.verified is Verify.DIGEST


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(html(), id="N20-html-by-type"),
        pytest.param(file(b"<!doctype html><p>log in" + BODY), id="N20-html-by-content"),
    ],
)
def test_a_login_page_is_no_file(trial, page):
    assert refused(trial.meet(page, page), "unexpected_html")


# ---------------------------------------------------------------- mirrors


@pytest.fixture
def mirrors(rig):
    with Server() as one, Server() as two, Server() as three:
        yield [one, two, three]


def mirrored(rig, mirrors, *handlers, settings=None):
    for mirror, handler in zip(mirrors, handlers, strict=True):
        mirror.routes["/f.bin"] = handler
    bases = ", ".join(mirror.origin for mirror in mirrors)
    job = f"base: [{bases}]\nurl: f.bin\nchecksum: {sha256(BODY)}\n"
    return rig.get(job, settings or {})


def test_n21_one_corrupt_mirror_is_replaced_by_the_next(rig, mirrors):
    ended = mirrored(rig, mirrors, file(NEXT), file(BODY), file(BODY))

    assert recovered(ended, "checksum_mismatch")
    assert [len(mirror.requests) for mirror in mirrors] == [1, 1, 0]


def test_n21_all_corrupt_mirrors_fail_with_the_cause_of_each(rig, mirrors):
    ended = mirrored(rig, mirrors, *(file(content(n, len(BODY))) for n in range(3)))

    assert refused(ended, *["checksum_mismatch"] * 6)
    assert [len(mirror.requests) for mirror in mirrors] == [2, 2, 2]
    assert len(ended.view.causes) == 3
    assert ended.reason.count("checksum_mismatch") == 3


def test_n21_flapping_mirrors_give_the_file_once_one_is_right(rig, mirrors):
    flap = flapping(file(NEXT), file(BODY))

    ended = mirrored(rig, mirrors, flap, flap, flap)

    assert recovered(ended, *["checksum_mismatch"] * 3)


def test_n21_a_slow_first_mirror_is_left_for_the_next(rig, mirrors):
    ended = mirrored(rig, mirrors, stalled(), file(BODY), file(BODY))

    assert recovered(ended, "stalled")
    assert ended.took_s < 0.4 + 2


def test_n21_a_part_of_one_mirror_is_finished_by_another(rig, mirrors):
    ended = mirrored(
        rig, mirrors, file(BODY, cut_after=200_000), file(BODY, etag='"mine"'), file(BODY)
    )

    assert recovered(ended, "short_body")
    assert mirrors[1].requests[0].header("Range") is not None


# ---------------------------------------------------------------- waits that the server asks for

CAP_S = 0.2
OWN_S = 0.05  # retry.max_delay of the rig


def http_date(in_s):
    return email.utils.formatdate(time.time() + in_s, usegmt=True)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("wish", "honoured"),
    [
        pytest.param(lambda: "1", True, id="N22-seconds"),
        pytest.param(lambda: http_date(3600), True, id="N22-date"),
        pytest.param(lambda: http_date(-3600), False, id="N22-past-date"),
        pytest.param(lambda: "-5", False, id="N22-negative"),
        pytest.param(lambda: "soon", False, id="N22-garbage"),
        pytest.param(lambda: str(10**9), True, id="N22-huge"),
        pytest.param(lambda: "1.5", False, id="N22-fraction"),
        pytest.param(lambda: None, False, id="N22-absent"),
    ],
)
def test_a_wish_to_wait_is_honoured_up_to_the_limit(trial, code, wish, honoured):
    wished = wish()
    headers = {} if wished is None else {"Retry-After": wished}

    ended = trial.meet(status(code, headers=headers), settings={"retry.max_retry_after": "200ms"})

    assert recovered(ended, "bad_status")
    (retry,) = ended.retries
    assert (CAP_S <= retry.delay_s < CAP_S + OWN_S) if honoured else (retry.delay_s <= OWN_S)
    waited_s = trial.requests[1].at_s - trial.requests[0].at_s
    assert waited_s >= (CAP_S if honoured else 0)


def test_n22_a_wish_below_the_limit_is_honoured_as_it_is(rig, server):
    server.routes["/f.bin"] = flapping(status(503, headers={"Retry-After": "1"}), file(BODY))

    ended = rig.get(f"url: {server.url('/f.bin')}")

    assert recovered(ended, "bad_status")
    first, second = server.requests
    assert 1.0 <= second.at_s - first.at_s < 2.0


def test_n22_a_wait_holds_no_worker(rig, server):
    server.routes["/f.bin"] = flapping(status(503, headers={"Retry-After": "1"}), file(BODY))
    with Server({"/g.bin": file(BODY)}) as other:
        urls = f"urls: [{server.url('/f.bin')}, {other.url('/g.bin')}]"

        ended = rig.get(urls, {"workers": "1", "retry.max_retry_after": "500ms"})

        assert recovered(ended, "bad_status")
        assert other.requests[0].at_s < server.requests[1].at_s
