"""The hostile matrix: what servers do to a download, and which files are right in the end.

A scenario is one file at one URL. With ``before``, a first life of the downloader meets that, is
ended by SIGTERM in mid-body, and a second life of the same command meets ``then``.
"""

from __future__ import annotations

import email.utils
import gzip
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .server import (
    Exchange,
    Handler,
    content,
    file,
    flapping,
    html,
    raw,
    redirect,
    stalled,
    status,
)

SIZE, HALF = 600_000, 300_000
OLD, NEW = content("old", SIZE), content("new", SIZE)
#: Large enough for tools that fetch a file in segments to do it.
LONG, LONG_NEW = content("old", 6 << 20), content("new", 6 << 20)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``right``: every whole version that may stand under the name in the end.

    ``best``: what a downloader can do at best, "right" or fail "clean". ``checksum``: the content
    whose SHA-256 is given to tools that take one. ``keeps``: what the first life received may be
    used by the second, so it is asked for the rest. ``disposition``: the tool is told to take the
    name from Content-Disposition.
    """

    name: str
    title: str
    then: Handler
    before: Handler | None = None
    right: tuple[bytes, ...] = (OLD,)
    best: Literal["right", "clean"] = "right"
    path: str = "/a.bin"
    more: Mapping[str, Handler] = field(default_factory=dict)
    checksum: bytes | None = None
    keeps: bool = False
    disposition: bool = False

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


# ---------------------------------------------------------------- what servers do


def start_of(exchange: Exchange) -> int:
    """Return the first byte that is asked for."""
    match = re.match(r"bytes=(\d+)-", exchange.request.header("Range") or "")
    return int(match[1]) if match else 0


def upto(body, offset, how="stall_after", **options) -> Handler:
    """Serve a file whose bytes behind ``offset`` never come, wherever a request begins."""
    return lambda exchange: file(body, **{how: max(0, offset - start_of(exchange))}, **options)(
        exchange
    )


def rest(answer: Handler, otherwise: Handler) -> Handler:
    """Give ``answer`` to requests for the rest of a file, ``otherwise`` to those for all of it."""
    return lambda exchange: (answer if start_of(exchange) else otherwise)(exchange)


def deaf(answer: Handler) -> Handler:
    """Hear Range but no If-Range."""

    def handler(exchange):
        headers = exchange.request.headers
        headers[:] = [pair for pair in headers if pair[0].lower() != "if-range"]
        answer(exchange)

    return handler


def partial(body, shift=0, end=None, size=None, headers=(), whole=False) -> Handler:
    """Answer 206 from ``shift`` bytes beside the asked place, up to ``end``, of ``size``.

    ``whole``: all of the file, and no word about the range.
    """

    def handler(exchange):
        start = 0 if whole else start_of(exchange) + shift
        stop = len(body) if end is None else min(len(body), start_of(exchange) + end)
        said = {"ETag": file(body).etag, "Content-Length": str(stop - start)}
        if not whole:
            said["Content-Range"] = f"bytes {start}-{stop - 1}/{size or len(body)}"
        exchange.head(206, "Partial Content", said | dict(headers))
        exchange.send(body[start:stop])

    return handler


def multipart(body) -> Handler:
    def handler(exchange):
        start = start_of(exchange)
        place = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
        parts = f"--cut\r\n{place}\r\n\r\n".encode() + body[start:] + b"\r\n--cut--\r\n"
        said = {"ETag": file(body).etag, "Content-Length": str(len(parts))}
        said["Content-Type"] = "multipart/byteranges; boundary=cut"
        exchange.head(206, "Partial Content", said)
        exchange.send(parts)

    return handler


def wire(body, *head: str, then="close", before=b"") -> Handler:
    """Send a head of just these lines, then the body, then do as told with the connection."""
    lines = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *head))
    return raw(before + lines.encode() + b"\r\n" + body, then)


def chunks(body: bytes, size=64 * 1024, line=b"\r\n", form="{:x}", last=True) -> bytes:
    """Return the body in chunks; ``form`` writes the size of each."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(form.format(len(p)).encode() + line + p + line for p in pieces)
    return framed + (b"0" + line + line if last else b"")


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def swapped_under_way() -> Handler:
    """Serve the first request from one version, all later ones from another."""
    return flapping(file(LONG, rate=12e6), deaf(file(LONG_NEW, rate=12e6)))


def page_for_one_range() -> Handler:
    """Answer the first request for another place than the beginning with a web page."""
    seen: list[Exchange] = []

    def handler(exchange):
        if start_of(exchange) and not seen:
            seen.append(exchange)
            html()(exchange)
        else:
            file(LONG, rate=12e6)(exchange)

    return handler


# ---------------------------------------------------------------- the matrix


def scenarios() -> list[Scenario]:
    """Return the matrix, in the order of its table. Handlers have state: use each list once."""
    return [*_resumed(), *_cut(), *_lengths(), *_segments(), *_refused(), *_answers()]


def _resumed() -> list[Scenario]:
    first = upto(OLD, HALF)
    # Not so long ago, however long the other scenarios take before this one.
    now = email.utils.formatdate(time.time() + 600, usegmt=True)
    other = content("new", HALF)
    zipped = {"Content-Encoding": "gzip"}

    def resumed(name, title, then, right=(OLD,), before=first, **more) -> Scenario:
        title, name = f"resume: {title}", f"resume-{name}"
        return Scenario(name=name, title=title, before=before, then=then, right=right, **more)

    return [
        resumed("same", "nothing has changed", file(OLD), keeps=True),
        resumed("changed", "same size, new ETag", file(NEW), (NEW,), keeps=True),
        resumed(
            "if-range-ignored",
            "same size, new ETag, If-Range ignored",
            deaf(file(NEW)),
            (NEW,),
            keeps=True,
        ),
        resumed("range-ignored", "Range ignored (200)", file(OLD, ranges=False), keeps=True),
        resumed(
            "range-ignored-changed",
            "Range ignored (200), another file",
            file(NEW, ranges=False),
            (NEW,),
            keeps=True,
        ),
        resumed(
            "wrong-offset",
            "206 from a wrong offset",
            rest(partial(OLD, shift=-1000), file(OLD)),
            keeps=True,
        ),
        resumed(
            "no-content-range",
            "206 without Content-Range, the whole file in it",
            rest(partial(OLD, whole=True), file(OLD)),
            keeps=True,
        ),
        resumed(
            "short-range",
            "206 of fewer bytes than asked for",
            rest(partial(OLD, end=1000), file(OLD)),
            keeps=True,
        ),
        resumed(
            "other-total",
            "206 of a file of another size",
            rest(partial(NEW, size=SIZE + 5), file(OLD)),
            keeps=True,
        ),
        resumed("multipart", "206 multipart", rest(multipart(OLD), file(OLD)), keeps=True),
        resumed(
            "encoded-range",
            "206 with Content-Encoding: gzip",
            rest(partial(OLD, headers=zipped), file(OLD)),
            keeps=True,
        ),
        resumed(
            "shrunk",
            "the remote is shorter than what is kept (416)",
            deaf(file(NEW[: HALF - 50_000])),
            (NEW[: HALF - 50_000],),
            keeps=True,
        ),
        resumed(
            "shrunk-to-kept",
            "the remote is another file, exactly as long as what is kept (416)",
            deaf(file(other)),
            (other,),
            keeps=True,
        ),
        resumed(
            "page",
            "a login page instead of the rest (200)",
            html(),
            best="clean",
            keeps=True,
        ),
        resumed(
            "redirected",
            "redirected to another file",
            redirect("/other/a.bin"),
            (NEW,),
            more={"/other/a.bin": file(NEW)},
            keeps=True,
        ),
        resumed(
            "weak-etag",
            "weak ETag, other bytes",
            file(NEW, etag='W/"1"', last_modified=None),
            (NEW,),
            upto(OLD, HALF, etag='W/"1"', last_modified=None),
        ),
        resumed(
            "no-validator",
            "no validator, other bytes",
            file(NEW, etag=None, last_modified=None),
            (NEW,),
            upto(OLD, HALF, etag=None, last_modified=None),
        ),
        resumed(
            "young-date",
            "changed within the second of its Last-Modified",
            file(NEW, etag=None, last_modified=now),
            (NEW,),
            upto(OLD, HALF, etag=None, last_modified=now),
        ),
        resumed(
            "same-etag",
            "other bytes under the same ETag, checksum given",
            file(NEW, etag='"1"'),
            (NEW,),
            upto(OLD, HALF, etag='"1"'),
            checksum=NEW,
            keeps=True,
        ),
    ]


def _cut() -> list[Scenario]:
    return [
        Scenario(
            name="cut-same",
            title="cut at 50 %, the same file on retry",
            then=flapping(file(OLD, cut_after=HALF), file(OLD)),
        ),
        Scenario(
            name="cut-reset",
            title="reset at 50 %, the same file on retry",
            then=flapping(file(OLD, cut_after=HALF, reset=True), file(OLD)),
        ),
        Scenario(
            name="cut-changed",
            title="cut at 50 %, the file changed before the retry",
            then=flapping(file(OLD, cut_after=HALF), file(NEW)),
            right=(NEW,),
        ),
        Scenario(
            name="stalled-once",
            title="silent at 50 %, the same file on retry",
            then=flapping(file(OLD, stall_after=HALF), file(OLD)),
        ),
        Scenario(
            name="cut-always",
            title="always truncated, Content-Length present",
            then=upto(OLD, HALF, "cut_after"),
            best="clean",
        ),
        Scenario(
            name="chunks-no-end",
            title="chunked, no final chunk",
            then=wire(chunks(OLD[:HALF], last=False), "Transfer-Encoding: chunked"),
            best="clean",
        ),
        Scenario(
            name="chunks-cut",
            title="chunked, cut within a chunk",
            then=wire(chunks(OLD)[:HALF], "Transfer-Encoding: chunked"),
            best="clean",
        ),
        Scenario(
            name="no-length",
            title="no length, closed early",
            then=wire(OLD[:HALF], "Content-Type: application/octet-stream"),
            best="clean",
        ),
        Scenario(
            name="no-length-checksum",
            title="no length, closed early once, checksum given",
            then=flapping(wire(OLD[:HALF]), wire(OLD)),
            checksum=OLD,
        ),
    ]


def _lengths() -> list[Scenario]:
    def lying(name, title, body, *head, best="clean", **more) -> Scenario:
        return Scenario(name=name, title=title, then=wire(body, *head, **more), best=best)

    return [
        lying(
            "length-spelled",
            "`Content-Length: +600_000`, closed early",
            OLD[:HALF],
            "Content-Length: +600_000",
        ),
        lying(
            "length-negative",
            "`Content-Length: -1`, closed early",
            OLD[:HALF],
            "Content-Length: -1",
        ),
        lying(
            "lengths-differ",
            "two lengths that differ",
            OLD,
            f"Content-Length: {HALF}",
            f"Content-Length: {SIZE}",
        ),
        lying(
            "length-and-chunks",
            "a length beside chunks",
            chunks(OLD),
            f"Content-Length: {HALF}",
            "Transfer-Encoding: chunked",
        ),
        lying(
            "length-too-long",
            "a length that is too long, held open",
            OLD,
            f"Content-Length: {SIZE + 1000}",
            then="stall",
        ),
        lying(
            "more-than-length",
            "bytes behind the body that look like an answer",
            OLD + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            f"Content-Length: {SIZE}",
            best="right",
        ),
        lying(
            "chunks-bare-lf",
            "chunks with bare LF",
            chunks(OLD, line=b"\n"),
            "Transfer-Encoding: chunked",
        ),
        lying(
            "chunk-size-spelled",
            "chunk sizes as `1_0000`",
            chunks(OLD, form="{:_x}"),
            "Transfer-Encoding: chunked",
        ),
        lying(
            "interim",
            "103 Early Hints before the 200",
            OLD,
            f"Content-Length: {SIZE}",
            before=b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
            best="right",
        ),
        lying("no-http", "bytes that are not HTTP", OLD, before=b"\x00\x01binary\r\n" * 20),
    ]


def _segments() -> list[Scenario]:
    paced = file(LONG, rate=12e6)
    return [
        Scenario(
            name="segments-whole",
            title="segments: later ranges answered by 200 and the whole file",
            then=rest(file(LONG, ranges=False, rate=12e6), paced),
            right=(LONG,),
        ),
        Scenario(
            name="segments-swapped",
            title="segments: the file is swapped under way",
            then=swapped_under_way(),
            right=(LONG, LONG_NEW),
        ),
        Scenario(
            name="segments-page",
            title="segments: one range answered by a login page (200)",
            then=page_for_one_range(),
            right=(LONG,),
        ),
    ]


def _refused() -> list[Scenario]:
    return [
        Scenario(
            name="429-retry-after",
            title="429 twice with `Retry-After: 1`, then 200",
            then=flapping(*[status(429, headers={"Retry-After": "1"})] * 2, file(OLD)),
        ),
        Scenario(
            name="503-twice",
            title="503 twice, then 200",
            then=flapping(status(503), status(503), file(OLD)),
        ),
        Scenario(
            name="500-twice",
            title="500 twice, then 200",
            then=flapping(status(500), status(500), file(OLD)),
        ),
        Scenario(
            name="404-page",
            title="404 with a page",
            then=status(404, headers={"Content-Type": "text/html"}, body=b"<html>not here"),
            right=(),
            best="clean",
        ),
        Scenario(name="204", title="204, no content", then=status(204), right=(), best="clean"),
        Scenario(
            name="partial-unasked",
            title="206 of the first half, the whole was asked for",
            then=rest(file(OLD), partial(OLD, end=HALF)),
            best="clean",
        ),
        Scenario(
            name="silent",
            title="accepts the connection and never answers",
            then=stalled(),
            right=(),
            best="clean",
        ),
        Scenario(
            name="redirect-loop",
            title="a redirect that leads in a circle",
            then=redirect("/b.bin"),
            more={"/b.bin": redirect("/a.bin")},
            right=(),
            best="clean",
        ),
        Scenario(
            name="redirect-file",
            title="a redirect to a `file:` URL",
            then=redirect("file:///etc/hostname"),
            right=(),
            best="clean",
        ),
    ]


def _answers() -> list[Scenario]:
    packed = gzip.compress(OLD[:200_000], mtime=0)
    return [
        Scenario(
            name="gzip-file",
            title="a `.gz` file sent with `Content-Encoding: gzip`",
            path="/a.tar.gz",
            then=file(packed, ranges=False, headers={"Content-Encoding": "gzip"}),
            right=(packed,),
        ),
        Scenario(name="login-page", title="200 with a login page", then=html(), best="clean"),
        Scenario(
            name="login-redirect",
            title="redirected to a login page (200)",
            then=redirect("/login"),
            more={"/login": html()},
            best="clean",
        ),
        Scenario(
            name="disposition",
            title="`Content-Disposition` with `../../x`",
            then=file(
                OLD, headers={"Content-Disposition": 'attachment; filename="../../x"'}, ranges=False
            ),
            disposition=True,
        ),
        Scenario(
            name="flipped",
            title="one flipped bit, checksum given",
            then=file(flipped(OLD)),
            checksum=OLD,
            best="clean",
        ),
        Scenario(
            name="flipped-once",
            title="one flipped bit once, checksum given",
            then=flapping(file(flipped(OLD)), file(OLD)),
            checksum=OLD,
        ),
        Scenario(
            name="short-but-consistent",
            title="half the file with a length that fits, checksum given",
            then=file(OLD[:HALF]),
            checksum=OLD,
            best="clean",
        ),
        Scenario(
            name="empty",
            title="an empty body with `Content-Length: 0`, checksum given",
            then=file(b""),
            checksum=OLD,
            best="clean",
        ),
    ]
