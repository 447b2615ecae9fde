"""No server fools the short way of small files: what comes at once is judged like any other body.

Each case meets both ways, the short one and the one of all other files, and ends the same.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from faults.downloader import Downloader, attempt_at
from faults.scenarios import chunks, flipped, partial, wire
from faults.server import (
    Exchange,
    Handler,
    Server,
    content,
    file,
    flapping,
    html,
    redirect,
    status,
)
from fetchd.digests import Digest
from fetchd.disk import part_name, space
from fetchd.disk.part import WholePart
from fetchd.model import Failure, Fetched, Magic, SizeRange, Verify
from fetchd.transfer import attempt as attempts

SMALL = content("small", 4096)
HEAD = ("Content-Type: application/octet-stream", f"Content-Length: {len(SMALL)}")
PAGE = b"<!doctype html><title>Log in</title>" + b"please " * 300


def sha256(data: bytes) -> tuple[Digest, ...]:
    return (Digest("sha256", hashlib.sha256(data).hexdigest()),)


def for_a_cookie(exchange: Exchange) -> None:
    """Give the file to whoever shows the cookie that the way here has set."""
    known = exchange.request.header("Cookie") == "pass=1"
    (file(SMALL) if known else status(403, "Forbidden"))(exchange)


@dataclass(frozen=True, kw_only=True)
class Case:
    """``right``: what is visible in the end; ``code``: of the failure, "": there is none.

    ``at_once``: the short way is enough for it.
    """

    handler: Callable[[], Handler]
    right: bytes = SMALL
    code: str = ""
    at_once: bool = True
    verified: Verify = Verify.LENGTH
    refused: bytes | None = None  # what lies in quarantine
    asked: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Handler] = field(default_factory=dict)


def good(handler: Handler, right: bytes = SMALL, **case: Any) -> Case:
    return Case(handler=lambda: handler, right=right, **case)


def bad(code: str, handler: Handler, **case: Any) -> Case:
    return Case(handler=lambda: handler, code=code, at_once=False, **case)


MAGIC = Magic(hex=SMALL[:4].hex())
CASES = {
    "plain": good(file(SMALL)),
    "of-no-bytes": good(file(b""), b""),
    "of-one-byte": good(file(b"x"), b"x"),
    "as-long-as-may-be": good(file(content("edge", 65536)), content("edge", 65536)),
    "in-pieces": good(file(SMALL, rate=100_000)),
    "longer-than-small": good(file(content("edge", 65537)), content("edge", 65537), at_once=False),
    "its-digest": good(file(SMALL), verified=Verify.DIGEST, asked={"digests": sha256(SMALL)}),
    "two-digests": good(
        file(SMALL),
        verified=Verify.DIGEST,
        asked={"digests": (*sha256(SMALL), Digest("md5", hashlib.md5(SMALL).hexdigest()))},
    ),
    "its-size-and-magic": good(
        file(SMALL),
        asked={"size": SizeRange(least_bytes=4096, most_bytes=4096), "magic": (MAGIC,)},
    ),
    "a-magic-at-its-end": good(
        file(SMALL), asked={"magic": (Magic(hex=SMALL[-4:].hex(), offset_bytes=4092),)}
    ),
    "in-chunks": good(wire(chunks(SMALL), "Transfer-Encoding: chunked"), at_once=False),
    "behind-a-redirect": good(redirect("/g"), more={"/g": file(SMALL)}),
    "behind-a-cookie": good(
        lambda exchange: exchange.head(
            302, "Found", {"Location": "/g", "Set-Cookie": "pass=1", "Content-Length": "0"}
        ),
        more={"/g": for_a_cookie},
    ),
    "more-than-its-length": good(wire(SMALL + b"more", *HEAD, then="keep")),
    "another-answer-behind-it": good(
        wire(SMALL + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", *HEAD, then="keep")
    ),
    "n04-cut": bad("short_body", wire(SMALL[:2000], *HEAD)),
    "n04-cut-before-the-first-byte": bad("short_body", wire(b"", *HEAD)),
    "n05-chunks-without-an-end": bad(
        "bad_framing", wire(chunks(SMALL, last=False), "Transfer-Encoding: chunked")
    ),
    "no-length": bad("length_unknown", wire(SMALL)),
    "two-lengths": bad("bad_length", wire(SMALL, *HEAD, "Content-Length: 4000")),
    "a-length-that-is-none": bad("bad_length", wire(SMALL, "Content-Length: 4_096")),
    "a-length-beside-chunks": bad(
        "bad_framing", wire(chunks(SMALL), *HEAD, "Transfer-Encoding: chunked")
    ),
    "a-wrong-digest": bad(
        "checksum_mismatch",
        file(flipped(SMALL)),
        asked={"digests": sha256(SMALL)},
        refused=flipped(SMALL),
    ),
    "one-of-two-digests-is-wrong": bad(
        "checksum_mismatch",
        file(SMALL),
        asked={"digests": (*sha256(SMALL), Digest("md5", "0" * 32))},
        refused=SMALL,
    ),
    "a-page-by-its-type": bad("unexpected_html", html(PAGE.decode())),
    "a-page-by-its-first-bytes": bad(
        "unexpected_html", wire(PAGE, f"Content-Length: {len(PAGE)}", "Content-Type: image/png")
    ),
    "another-type": bad("expectation_failed", file(SMALL), asked={"expect_type": "image/png"}),
    "another-magic": bad(
        "expectation_failed", file(SMALL), asked={"magic": (Magic(hex="00112233"),)}
    ),
    "another-magic-at-its-end": bad(
        "expectation_failed",
        file(SMALL),
        asked={"magic": (Magic(hex="00112233", offset_bytes=4092),)},
    ),
    "too-short-for-its-magic": bad(
        "expectation_failed",
        file(SMALL),
        asked={"magic": (Magic(hex=SMALL[-2:].hex() + "00", offset_bytes=4094),)},
    ),
    "another-size": bad(
        "bad_size", file(SMALL), asked={"size": SizeRange(least_bytes=4097, most_bytes=None)}
    ),
    "larger-than-is-allowed": bad("too_large", file(SMALL), asked={"max_bytes": 4095}),
    "encoded": bad(
        "bad_response",
        wire(
            gzip.compress(SMALL),
            f"Content-Length: {len(gzip.compress(SMALL))}",
            "Content-Encoding: gzip",
        ),
    ),
    "a-part-that-nobody-asked-for": bad("bad_response", partial(SMALL)),
    "unchanged-though-nobody-asked": bad("bad_status", status(304, "Not Modified")),
    "not-there": bad("bad_status", status(404, "Not Found")),
    "overloaded": bad("bad_status", status(503, "Busy", {"Retry-After": "7"})),
    "in-a-circle": bad("too_many_redirects", redirect("/f")),
}


class Ended:
    """What an attempt at a case has come to, by one of the ways."""

    def __init__(self, case: Case, folder) -> None:
        with Server() as server:
            server.routes.update({"/f": case.handler(), **case.more})
            downloader = Downloader(folder)
            see_room(downloader)
            self.part = part_name("default", "f")
            attempt = attempt_at(server.url("/f"), path="f", **case.asked)
            self.outcome = downloader.fetch(attempt)
            self.code = self.outcome.code if isinstance(self.outcome, Failure) else ""
            self.parts = files(folder / ".fetchd/parts")
            self.refused = files(folder / ".fetchd/quarantine")
            self.visible = None
            if isinstance(self.outcome, Fetched):
                self.visible = downloader.publish(attempt, self.outcome)[0].read_bytes()
            # Whatever came behind the body, the next answer is none of it.
            server.routes["/next"] = file(b"next")
            after = attempt_at(server.url("/next"), path="next")
            fetched = downloader.fetch(after)
            assert isinstance(fetched, Fetched), fetched
            self.next = downloader.publish(after, fetched)[0].read_bytes()
            self.left = files(folder / ".fetchd/parts")
            downloader.close()


def see_room(downloader: Downloader) -> None:
    """Let it be known how much is free."""
    with downloader.disk.open_part("default", "other") as other:
        other.claim(0)
        other.discard()


def files(folder) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*"))]


@pytest.fixture(params=["short", "long"])
def kept(request, monkeypatch):
    """Take one of the ways; returns what the short one has kept."""
    kept: list[str] = []
    keep = WholePart.keep

    def noted(part: WholePart, whole: memoryview) -> bool:
        kept.append(part.name)
        return keep(part, whole)

    monkeypatch.setattr(WholePart, "keep", noted)
    if request.param == "long":
        monkeypatch.setattr(attempts, "_SMALL_BYTES", -1)
    monkeypatch.setattr(space, "_AMPLE_BYTES", 0)  # whatever the disk of the tests has
    monkeypatch.setattr(space, "_BELIEVED_S", 3600.0)
    return request.param, kept


@pytest.mark.parametrize("name", CASES)
def test_a_small_file_is_judged_like_any_other(name, kept, tmp_path):
    case, (way, small) = CASES[name], kept

    ended = Ended(case, tmp_path)

    assert (ended.part in small) == (way == "short" and case.at_once)

    assert ended.code == case.code, ended.outcome
    assert ended.next == b"next"
    assert ended.left == []
    if isinstance(ended.outcome, Fetched):
        assert ended.parts == [case.right]  # and no journal beside it
        assert ended.visible == case.right
        intent = ended.outcome.intent
        assert (intent.size_bytes, intent.received_bytes) == (len(case.right), len(case.right))
        assert (intent.verified, intent.resumed_from_bytes) == (case.verified, 0)
    else:
        assert ended.visible is None
        assert ended.refused == ([] if case.refused is None else [case.refused])


def test_what_came_of_a_small_file_before_a_cut_is_kept_and_the_rest_is_asked_for(kept, tmp_path):
    body = content("edge", 60_000)
    with Server() as server:
        server.routes["/f"] = flapping(file(body, cut_after=30_000), file(body))
        downloader = Downloader(tmp_path)
        see_room(downloader)
        attempt = attempt_at(server.url("/f"), path="f")

        cut, whole = downloader.fetch(attempt), downloader.fetch(attempt)

        assert isinstance(cut, Failure)
        assert (cut.code, cut.progressed) == ("short_body", True)
        assert isinstance(whole, Fetched)
        assert whole.intent.resumed_from_bytes == 30_000
        assert downloader.publish(attempt, whole)[0].read_bytes() == body
        assert server.requests[1].header("Range") == "bytes=30000-"
        downloader.close()
