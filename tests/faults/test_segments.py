"""Several connections for one file meet the faults of ranges, versions and mirrors, end to end."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

import pytest

from faults.rig import Ended, recovered, refused, sha256
from faults.server import Exchange, Handler, content, file, html, hung_up, status

SIZE = 12 * 1024 * 1024 + 77
BIG, NEXT = content("a big file", SIZE), content("its next version", SIZE)
ETAG = file(BIG).etag
PACE = 24e6  # bytes a second of one connection: half a second for all
PACED = file(BIG, rate=PACE)
#: What may be on its way on a connection that is not wanted any more.
ON_ITS_WAY = 512 * 1024
SETTINGS = {"workers": "5", "limits.connections_per_origin": "4"}


@pytest.fixture(autouse=True)
def whole(rig):
    rig.whole = {BIG}


def piece_of(exchange: Exchange) -> tuple[int, int] | None:
    """Return first and last byte of a piece that is asked for; None: the file, or its rest."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", exchange.request.header("Range") or "")
    return None if asked is None else (int(asked[1]), int(asked[2]))


class Pieces:
    """Serves a file at one pace, and the first ``most`` pieces of it in another way.

    ``at_once``: the most connections at an instant whose peers had not hung up.
    """

    def __init__(self, hostile: Handler, good: Handler = PACED, most: int = 1_000_000) -> None:
        self.hostile, self.good, self.left = hostile, good, most
        self.at_once = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self._open = {sock for sock in self._open if not hung_up(sock)} | {exchange.sock}
            self.at_once = max(self.at_once, len(self._open))
            hostile = piece_of(exchange) is not None and self.left > 0
            self.left -= hostile
        try:
            (self.hostile if hostile else self.good)(exchange)
        finally:
            with self._lock:
                self._open.discard(exchange.sock)


def get(rig, server, handler: Handler, keys: str = "", **options) -> Ended:
    server.routes["/f.bin"] = handler
    job = f"url: {server.url('/f.bin')}\nsegments: 4\n{keys}"
    ended: Ended = rig.get(job, SETTINGS, **options)
    return ended


CHECKSUM = f"checksum: {sha256(BIG)}\n"


def ranges(server) -> list[str | None]:
    return [request.header("Range") for request in server.requests]


def sent(server) -> int:
    return sum(request.sent for request in server.requests)


@pytest.mark.parametrize("keys", ["", CHECKSUM], ids=["length", "digest"])
def test_rule_22_a_file_comes_by_several_connections_and_no_byte_of_it_twice(rig, server, keys):
    served = Pieces(PACED)
    ended = get(rig, server, served, keys)

    assert recovered(ended, body=BIG)
    assert served.at_once == 4
    assert ended.took_s < SIZE / PACE
    assert sent(server) <= SIZE + len(server.requests) * ON_ITS_WAY
    first, *others = server.requests
    assert first.header("Range") is None
    assert {request.header("If-Range") for request in others} == {ETAG}


def test_the_connections_of_an_origin_are_never_more_than_it_may_have(rig, server):
    served = Pieces(PACED)
    names = [f"/{number}.bin" for number in range(5)]
    server.routes.update(dict.fromkeys(names, served))
    urls = "".join(f"  - {server.url(name)}\n" for name in names)

    ended = rig.get(
        f"segments: 8\nurls:\n{urls}",
        {"workers": "6", "limits.connections_per_origin": "3"},
        within_s=20.0,
    )

    assert recovered(ended, body=BIG)
    assert served.at_once == 3
    assert any(ranges(server))  # towards the end some are left over


def test_n22_a_429_to_one_piece_keeps_all_from_its_server_until_then(rig, server):
    """By the server's own log: what is under way goes on, and nothing new is asked for."""
    cut = file(BIG, rate=PACE, cut_after=4_000_000)
    served = Pieces(status(429, "No", {"Retry-After": "2"}), good=PACED, most=1)

    def whole_is_cut(exchange: Exchange) -> None:
        (served if exchange.request.header("Range") else cut)(exchange)

    names = [f"/{number}.bin" for number in range(2)]
    server.routes.update(dict.fromkeys(names, whole_is_cut))
    urls = "".join(f"  - {server.url(name)}\n" for name in names)

    ended = rig.get(
        f"segments: 4\nurls:\n{urls}",
        {"workers": "6", "limits.connections_per_origin": "5"},
        within_s=30.0,
    )

    assert ended.state == "succeeded"
    assert set(ended.files.values()) == {BIG}
    assert set(ended.codes) <= {"short_body"}
    (refused_s,) = (request.at_s for request in server.requests if request.status == 429)
    later = sorted(request.at_s - refused_s for request in server.requests)
    # What was on its way when the answer was; then nothing; then the rest.
    assert not [after_s for after_s in later if 0.15 < after_s < 2.0]
    assert later[-1] >= 2.0


# ---------------------------------------------------------------- pieces


def part(head: Callable[[int, int], list[str]], body: Callable[[int, int], bytes]) -> Handler:
    """Answer 206 to a piece: lines of the head and the body by its first and last byte."""

    def answer(exchange: Exchange) -> None:
        piece = piece_of(exchange)
        assert piece is not None
        pairs = [line.split(": ", 1) for line in [f"ETag: {ETAG}", *head(*piece)]]
        exchange.head(206, "Partial Content", [(name, value) for name, value in pairs])
        exchange.send(body(*piece))
        exchange.close()

    return answer


def bytes_of(first: int, last: int) -> bytes:
    return bytes(BIG[first : last + 1])


def other(first: int, last: int) -> bytes:
    return bytes(NEXT[first : last + 1])


HOSTILE = [
    pytest.param(
        part(lambda a, b: [f"Content-Range: bytes {a - 1}-{b}/{SIZE}"], other), id="N31-start"
    ),
    pytest.param(
        part(lambda a, b: [f"Content-Range: bytes {a}-{b + 1}/{SIZE + 2}"], other), id="N31-end"
    ),
    pytest.param(
        part(lambda a, b: [f"Content-Range: bytes {a}-{b}/{SIZE + 1}"], other), id="N31-total"
    ),
    pytest.param(part(lambda a, b: [], other), id="N31-no-content-range"),
    pytest.param(
        part(
            lambda a, b: [
                "Content-Type: multipart/byteranges; boundary=x",
                f"Content-Range: bytes {a}-{b}/{SIZE}",
            ],
            other,
        ),
        id="N31-multipart",
    ),
    pytest.param(file(BIG, ranges=False, rate=PACE), id="N32-whole"),
    pytest.param(html(), id="N20-page"),
    pytest.param(status(416, "No"), id="N33-416"),
    pytest.param(file(NEXT), id="N34-between-segments"),
    pytest.param(
        part(lambda a, b: [f"Content-Range: bytes {a}-{b}/{SIZE}", 'ETag: "other"'], other),
        id="N37-a-part-of-a-new-version",
    ),
    pytest.param(status(429, "No", {"Retry-After": "1"}), id="N22-429"),
    pytest.param(status(503, "No"), id="N22-503"),
    pytest.param(status(403, "No"), id="N24-403"),
    pytest.param(
        part(
            lambda a, b: [f"Content-Range: bytes {a}-{b}/{SIZE}", f"Content-Length: {b - a + 1}"],
            lambda a, b: bytes_of(a, b) + other(0, 100_000),
        ),
        id="N39-longer",
    ),
    pytest.param(
        part(
            lambda a, b: [f"Content-Range: bytes {a}-{b}/{SIZE}", f"Content-Length: {b - a + 9}"],
            lambda a, b: bytes_of(a, b) + other(0, 7),
        ),
        id="N39-longer-than-its-range",
    ),
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("most", [1, 1_000_000], ids=["once", "always"])
def test_a_bad_piece_costs_the_file_nothing(rig, server, hostile, most):
    ended = get(rig, server, Pieces(hostile, most=most))

    assert recovered(ended, body=BIG)


@pytest.mark.parametrize("code", [None, "short_body"], ids=["once", "always"])
def test_a_piece_that_is_shorter_than_it_says_is_kept(rig, server, code):
    """N39: the gap is asked for again; only where each piece is too short does that cost more."""
    shorter = part(
        lambda a, b: [f"Content-Range: bytes {a}-{b}/{SIZE}", f"Content-Length: {b - a + 1}"],
        lambda a, b: bytes_of(a, b)[:100_000],
    )

    ended = get(rig, server, Pieces(shorter, most=1 if code is None else 1_000_000))

    assert ended.state == "succeeded"
    assert set(ended.files.values()) == {BIG}
    assert set(ended.codes) <= {code}
    assert sent(server) <= SIZE + len(server.requests) * ON_ITS_WAY


def test_n34_in_the_middle_of_its_pieces_the_file_becomes_another(rig, server):
    rig.whole = {BIG, NEXT}

    def swap(exchange: Exchange) -> None:
        server.routes["/f.bin"] = file(NEXT, rate=PACE)
        PACED(exchange)

    ended = get(rig, server, Pieces(swap))

    assert ended.state == "succeeded"
    assert set(ended.files.values()) <= {BIG, NEXT}


def test_n37_other_bytes_under_the_same_etag_are_refused_by_the_digest(rig, server):
    ended = get(rig, server, Pieces(file(NEXT, etag=ETAG)), CHECKSUM)

    assert refused(ended, "checksum_mismatch", "checksum_mismatch")


def test_a_piece_that_stalls_is_brought_by_another(rig, server):
    ended = get(rig, server, Pieces(file(BIG, stall_after=1_000_000), most=1))

    assert recovered(ended, body=BIG)


# ---------------------------------------------------------------- mirrors


def corrupt(exchange: Exchange) -> None:
    file(NEXT, etag=ETAG)(exchange)


@pytest.mark.parametrize(
    ("first", "codes"),
    [
        pytest.param(corrupt, ["checksum_mismatch"], id="N21-one-corrupt"),
        pytest.param(Pieces(corrupt), ["checksum_mismatch"], id="N21-corrupt-pieces"),
        pytest.param(Pieces(corrupt, most=1), ["checksum_mismatch"], id="N21-flapping"),
        pytest.param(file(BIG, rate=100), ["too_slow|stalled"], id="N21-a-slow"),
    ],
)
def test_behind_a_bad_mirror_the_next_one_is_asked(rig, server, first, codes):
    rig.whole = {BIG}
    server.routes.update({"/bad/f.bin": first, "/good/f.bin": PACED})
    bases = ", ".join(server.url(path) for path in ("/bad/", "/good/"))

    ended = rig.get(f"base: [{bases}]\nurl: f.bin\nsegments: 4\n{CHECKSUM}", SETTINGS)

    assert recovered(ended, *codes, body=BIG)


def test_n21_all_corrupt_mirrors_are_refused_with_all_causes(rig, server):
    server.routes.update({"/a/f.bin": Pieces(corrupt), "/b/f.bin": corrupt})
    bases = ", ".join(server.url(path) for path in ("/a/", "/b/"))

    ended = rig.get(f"base: [{bases}]\nurl: f.bin\nsegments: 4\n{CHECKSUM}", SETTINGS)

    assert ended.state == "failed"
    assert ended.files == {}
    assert set(ended.codes) == {"checksum_mismatch"}
    assert len(ended.view.causes) == 2
