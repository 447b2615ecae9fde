"""A part is there: what may be put behind it, and what must be fetched anew (N31 to N40, N48)."""

from __future__ import annotations

import email.utils
import time

import pytest

from faults.rig import BODY, HALF, NEXT, recovered, refused, sha256
from faults.server import Server, content, file, flapping, once, raw, redirect, status

SIZE = len(BODY)
ETAG = file(BODY).etag
SHORTER = content("a shorter version", 100_000)
SMALLER = content("a smaller version", 200_000)


def partial(*lines, body=BODY[HALF:], etag=ETAG, then="close"):
    """Answer 206 with these lines in the head, whatever was asked."""
    head = ["HTTP/1.1 206 Partial Content", f"ETag: {etag}", *lines, "", ""]
    return raw("\r\n".join(head).encode("latin-1") + body, then)


def ranges(trial):
    return [request.header("Range") for request in trial.requests]


# ---------------------------------------------------------------- answers to another question


OTHERS = [
    pytest.param(partial(f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}"), id="N31-start"),
    pytest.param(partial(f"Content-Range: bytes {HALF}-{SIZE - 2}/{SIZE}"), id="N31-end"),
    pytest.param(partial(f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE + 1}"), id="N31-total"),
    pytest.param(partial(), id="N31-no-content-range"),
    pytest.param(
        partial(
            "Content-Type: multipart/byteranges; boundary=x",
            f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}",
        ),
        id="N31-multipart",
    ),
    pytest.param(
        partial(f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", "Content-Length: 7"),
        id="N31-length",
    ),
]


@pytest.mark.parametrize("hostile", OTHERS)
@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_a_part_that_was_not_asked_for_is_never_written(resumed, hostile, checksum):
    keys = f"checksum: {sha256(BODY)}\n" if checksum else ""

    ended = resumed.meet(hostile, keys=keys)

    assert recovered(ended)
    assert ranges(resumed) == [f"bytes={HALF}-"] * 2  # the part is as good as before


@pytest.mark.parametrize("hostile", OTHERS)
def test_who_never_gives_the_rest_that_is_asked_for_is_asked_for_the_whole(resumed, hostile):
    def liar(exchange):
        (hostile if exchange.request.header("Range") else file(BODY))(exchange)

    ended = resumed.meet(liar, liar)

    assert recovered(ended)
    assert ranges(resumed) == [f"bytes={HALF}-"] * 2 + [None]


def test_n31_a_part_that_was_asked_for_by_nobody_is_never_the_file(rig, server):
    server.routes["/f.bin"] = once(
        partial(f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}"), file(BODY)
    )

    assert recovered(rig.get(f"url: {server.url('/f.bin')}"), "bad_response")


def test_n31_total_a_part_of_a_file_of_another_size_is_another_file(resumed):
    longer = content("longer", SIZE + 10_000)
    resumed.rig.whole.add(longer)

    ended = resumed.meet(
        partial(f"Content-Range: bytes {HALF}-{len(longer) - 1}/{len(longer)}", body=longer[HALF:]),
        file(longer),
    )

    assert recovered(ended, body=longer)
    assert ranges(resumed) == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(file(BODY, ranges=False), BODY, id="N32-range-ignored"),
        pytest.param(file(NEXT), NEXT, id="N32-other-etag"),
        pytest.param(file(BODY, etag='"renamed"'), BODY, id="N38-condition-fails-unchanged"),
    ],
)
def test_the_whole_file_instead_of_its_rest_is_taken_from_0_at_once(resumed, answer, body):
    resumed.rig.whole.add(body)

    ended = resumed.meet(answer, status(500))

    assert recovered(ended, body=body)
    assert ranges(resumed) == [f"bytes={HALF}-"]
    assert resumed.requests[0].header("If-Range") == ETAG
    assert ended.view.resumed_from_bytes == 0


# ---------------------------------------------------------------- nothing left to send


def test_n33_416_and_a_part_of_the_whole_size_is_verified_and_published(resumed):
    keys = f"checksum: {sha256(BODY)}\n"
    promising = file(BODY, length=str(SIZE + 10), ranges=False, cut_after=SIZE)

    ended = resumed.meet(file(BODY), status(500), keys=keys, kept=promising)

    assert recovered(ended)
    assert ranges(resumed) == [f"bytes={SIZE}-"]
    assert resumed.requests[0].status == 416


def test_n33_416_without_checksum_restarts(resumed):
    promising = file(BODY, length=str(SIZE + 10), ranges=False, cut_after=SIZE)

    ended = resumed.meet(file(BODY), kept=promising)

    assert recovered(ended)
    assert ranges(resumed) == [f"bytes={SIZE}-", None]


def test_n33_416_and_a_part_that_is_longer_than_the_file_restarts(resumed):
    resumed.rig.whole = {SHORTER}
    refusing = status(416, "Too far", {"Content-Range": f"bytes */{len(SHORTER)}"})

    ended = resumed.meet(refusing, file(SHORTER))

    assert recovered(ended, body=SHORTER)
    assert ranges(resumed) == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    "answer",
    [
        file(SMALLER),
        partial(
            f"Content-Range: bytes {HALF}-{len(SMALLER) - 1}/{len(SMALLER)}", body=SMALLER[HALF:]
        ),
    ],
    ids=["N33-resource-smaller", "N33-resource-smaller-condition-ignored"],
)
def test_a_file_that_became_smaller_is_fetched_from_0(resumed, answer):
    resumed.rig.whole = {SMALLER}

    assert recovered(resumed.meet(answer, file(SMALLER)), body=SMALLER)


# ---------------------------------------------------------------- versions


def test_n34_between_attempts_a_new_version_is_fetched_from_0(trial):
    trial.rig.whole = {NEXT}

    ended = trial.meet(file(BODY, cut_after=50_000), file(NEXT))

    assert recovered(ended, "short_body", body=NEXT)


def test_n34_between_ranges_a_new_version_is_fetched_from_0(resumed):
    resumed.rig.whole = {NEXT}

    ended = resumed.meet(file(BODY, cut_after=50_000), file(NEXT))

    assert recovered(ended, "short_body", body=NEXT)
    assert ranges(resumed) == [f"bytes={HALF}-", f"bytes={HALF + 50_000}-"]


def test_n34_in_a_retry_versions_that_alternate_are_never_mixed(resumed):
    resumed.rig.whole = {BODY, NEXT}
    broken = [file(body, cut_after=200_000) for body in (NEXT, BODY)]

    ended = resumed.meet(broken[0], once(broken[1], file(NEXT)))

    assert recovered(ended, "short_body", "short_body", body=NEXT)


def just_now():
    return email.utils.formatdate(time.time(), usegmt=True)


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param({"etag": 'W/"v1"', "last_modified": None}, id="N35-weak-etag"),
        pytest.param({"etag": None, "last_modified": just_now()}, id="N35-date-within-a-second"),
        pytest.param({"etag": None, "last_modified": None}, id="N36-without-checksum"),
    ],
)
def test_a_part_that_nothing_identifies_is_not_resumed_without_checksum(rig, server, identity):
    if identity["last_modified"] is not None:
        identity |= {"last_modified": just_now()}
    server.routes["/f.bin"] = flapping(
        file(BODY, cut_after=HALF, **identity), file(BODY, **identity)
    )

    ended = rig.get(f"url: {server.url('/f.bin')}")

    assert recovered(ended, "short_body")
    assert [r.header("Range") for r in server.requests] == [None, None]
    assert [r.header("If-Range") for r in server.requests] == [None, None]


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param({"etag": 'W/"v1"', "last_modified": None}, id="N35-weak-etag-checksum"),
        pytest.param({"etag": None, "last_modified": None}, id="N36-with-checksum"),
    ],
)
def test_a_part_that_a_checksum_will_judge_is_resumed_with_an_overlap(resumed, identity):
    ended = resumed.meet(
        file(BODY, **identity),
        status(500),
        keys=f"checksum: {sha256(BODY)}\n",
        kept=file(BODY, cut_after=HALF, **identity),
    )

    assert recovered(ended)
    assert ranges(resumed) == [f"bytes={HALF - 64 * 1024}-"]
    assert resumed.requests[0].header("If-Range") is None
    assert ended.view.resumed_from_bytes == HALF


def test_n36_a_new_version_with_checksum_and_no_validator_is_found_by_the_overlap(resumed):
    resumed.rig.whole = {NEXT}
    nameless = {"etag": None, "last_modified": None}

    ended = resumed.meet(
        file(NEXT, **nameless),
        file(NEXT, **nameless),
        keys=f"checksum: {sha256(NEXT)}\n",
        kept=file(BODY, cut_after=HALF, **nameless),
    )

    assert recovered(ended, body=NEXT)
    assert ranges(resumed) == [f"bytes={HALF - 64 * 1024}-", None]


def test_n37_a_part_of_a_new_version_despite_the_condition_is_not_used(resumed):
    resumed.rig.whole = {NEXT}
    lying = partial(
        f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", body=NEXT[HALF:], etag='"next"'
    )

    ended = resumed.meet(lying, file(NEXT))

    assert recovered(ended, body=NEXT)
    assert ranges(resumed) == [f"bytes={HALF}-", None]


def test_n37_other_bytes_under_the_same_etag_are_found_by_the_checksum(resumed):
    resumed.rig.whole = {NEXT}

    ended = resumed.meet(
        file(NEXT, etag=ETAG), file(NEXT, etag=ETAG), keys=f"checksum: {sha256(NEXT)}\n"
    )

    assert recovered(ended, "checksum_mismatch", body=NEXT)
    assert ranges(resumed) == [f"bytes={HALF}-", None]


# ---------------------------------------------------------------- parts of the wrong length


def test_n39_a_part_longer_than_it_says_is_cut_and_its_connection_ends(resumed):
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    generous = partial(
        f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", body=BODY[HALF:] + evil, then="keep"
    )
    server = resumed.server
    server.routes["/g.bin"] = file(BODY)
    resumed.keep(resumed.source, file(BODY, cut_after=HALF))
    server.routes["/f.bin"] = once(generous, status(500))

    ended = resumed.rig.get(
        f"urls: [{server.url('/f.bin')}, {server.url('/g.bin')}]", {"workers": "1"}
    )

    assert recovered(ended)
    assert set(ended.files) == {"f.bin", "g.bin"}
    first, second = resumed.requests
    assert first.connection != second.connection


@pytest.mark.parametrize("chunked", [None, 10_000], ids=["N39-shorter", "N39-shorter-in-chunks"])
def test_a_part_shorter_than_it_says_is_kept_and_the_gap_asked_for(resumed, chunked):
    code = "short_body" if chunked is None else "bad_framing"

    ended = resumed.meet(file(BODY, cut_after=50_000, chunked=chunked))

    assert recovered(ended, code)
    assert ranges(resumed) == [f"bytes={HALF}-", f"bytes={HALF + 50_000}-"]


# ---------------------------------------------------------------- whose part it is


def test_n40_a_part_of_another_url_is_not_resumed(resumed):
    other = resumed.server.url("/other.bin")
    resumed.server.routes["/other.bin"] = file(NEXT, etag=ETAG, cut_after=HALF)
    kept = resumed.rig.get(f"url: {other}\nfilename: f.bin\n", {"retry.attempts": "1"})
    assert any(kept.parts.values())
    resumed.server.routes["/f.bin"] = file(BODY)

    ended = resumed.rig.get(resumed.source)

    assert recovered(ended)
    assert resumed.server.asked("/f.bin")[0].header("Range") is None


@pytest.fixture
def mirrors(rig):
    with Server() as one, Server() as two:
        yield one, two


@pytest.mark.parametrize(
    ("moved", "body", "from_bytes"),
    [
        pytest.param(file(NEXT), NEXT, 0, id="N48-other-version"),
        pytest.param(file(BODY), BODY, HALF, id="N48-same-version"),
        pytest.param(file(BODY, etag=None, last_modified=None), BODY, 0, id="N48-no-validator"),
    ],
)
def test_a_resumed_file_that_moved_must_be_the_same_version(
    resumed, mirrors, moved, body, from_bytes
):
    resumed.rig.whole = {body}
    one, two = mirrors
    one.routes["/f.bin"] = file(BODY, cut_after=HALF)
    two.routes["/f.bin"] = moved

    ended = resumed.meet(redirect(two.url("/f.bin")), kept=redirect(one.url("/f.bin")))

    assert recovered(ended, body=body)
    assert ended.view.resumed_from_bytes == from_bytes
    assert two.requests[0].header("If-Range") == ETAG


def test_n48_a_resumed_file_that_moved_to_a_page_is_refused(resumed, mirrors):
    page = status(200, "OK", {"Content-Type": "text/html"}, b"<html>moved")
    one, two = mirrors
    one.routes["/f.bin"] = file(BODY, cut_after=HALF)
    two.routes["/f.bin"] = page

    ended = resumed.meet(redirect(two.url("/f.bin")), kept=redirect(one.url("/f.bin")))

    assert refused(ended, "unexpected_html")
