"""http and https against a server that misbehaves; ids as N01 name rows of the fault catalogue.

There are two ways to an origin, and two pieces of code: fetchd's own connection, and one through a
proxy. ``net`` and ``make_both`` run a test over both. ``direct`` and ``make`` are for what holds
for connections of fetchd's own alone: a proxy looks names up, judges and dials in our place.
"""

from __future__ import annotations

import datetime as dt
import functools
import gc
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from faults.proxy import forward
from faults.server import (
    Server,
    certificates,
    content,
    dripping,
    endless,
    file,
    flapping,
    raw,
    redirect,
    stalled,
    status,
)
from fetchd import transports
from fetchd.clock import SystemClock
from fetchd.errors import AttemptError, ConfigError, NotWanted
from fetchd.model import Validator
from fetchd.ports import RangeRefused, Request
from fetchd.transports.cookies import MOST_COOKIES
from fetchd.transports.resolver import SystemDialer

BODY = content("http", 300_000)


class Names:
    """A dialer that knows names; what is dialled for a name's address is the test's machine."""

    def __init__(self, **names):
        self.names = {name.replace("_", "."): address for name, address in names.items()}
        self.resolved = []
        self.dialled = []
        self.system = SystemDialer()

    def resolve(self, host, port, timeout_s):
        self.resolved.append(host)
        addresses = self.names.get(host, [])
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses]

    def connect(self, family, address, port, timeout_s):
        self.dialled.append(address)
        return self.system.connect(family, address, port, timeout_s)


@pytest.fixture
def make():
    """Return a function that builds transports; they are closed at the end.

    Without ``proxy`` their connections are fetchd's own.
    """
    built = []

    def build(allow=("loopback",), **options):
        usual: dict[str, Any] = {"proxy": None, "ca": None, "redirects": 3, "workers": 4}
        usual["clock"] = SystemClock()
        built.append(transports.build(allow, **(usual | options)))
        return built[-1]

    yield build
    for each in built:
        each.close()


@pytest.fixture(params=["direct", "proxy"])
def proxy(request):
    """The proxy by which a test asks its servers, or None."""
    if request.param == "direct":
        yield None
    else:
        with Server(fallback=forward) as proxy:
            yield proxy


@pytest.fixture
def make_both(make, proxy):
    """As ``make``, once for each way to an origin."""
    return functools.partial(make, proxy=None if proxy is None else proxy.origin)


@pytest.fixture
def net(make_both):
    return make_both()


@pytest.fixture
def direct(make):
    return make()


@pytest.fixture
def server():
    with Server() as server:
        yield server


def ask(url, **options):
    deadline_in_s = options.pop("deadline_in_s", None)
    if deadline_in_s is not None:
        options["deadline_s"] = time.monotonic() + deadline_in_s
    return Request(**({"url": url, "connect_s": 5.0, "stall_s": 5.0} | options))


def read(stream, into=None):
    """Return all bytes of a stream; ``into`` shows what had arrived before a failure."""
    buffer = memoryview(bytearray(65536))
    data = bytearray() if into is None else into
    with closing(stream):
        while count := stream.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def fetch(net, url, **options):
    """Return (body, stream) of a request that is answered."""
    stream = net.open(ask(url, **options), lambda: True)
    return read(stream), stream


def failure(net, url, **options):
    """Return the AttemptError of a request that is not."""
    with pytest.raises(AttemptError) as caught:
        fetch(net, url, **options)
    return caught.value


def answer(head, body=b"", then="close"):
    """Make a handler of header lines (first the status line) and a body."""
    return raw("\r\n".join([*head, "", ""]).encode("latin-1") + body, then)


OK = "HTTP/1.1 200 OK"


# ---------------------------------------------------------------- what a good answer is


def test_a_whole_file_arrives_with_what_identifies_it(net, server):
    server.routes["/f"] = file(BODY, etag='"v1"', type="application/zip")

    body, stream = fetch(net, server.url("/f"))

    assert body == BODY
    assert (stream.start, stream.total, stream.framed) == (0, len(BODY), True)
    assert stream.validator.etag == '"v1"'
    assert stream.validator.last_modified == "Tue, 03 Mar 2026 10:00:00 GMT"
    assert stream.validator.date
    assert stream.content_type == "application/zip"
    assert stream.final_url == server.url("/f")
    assert not stream.not_modified


def test_the_request_names_itself_and_asks_for_plain_bytes(net, server):
    server.routes["/f"] = file(b"x")

    fetch(net, server.url("/f?q=1#part"), headers=(("x-client", "lab"), ("user-agent", "mine")))

    request = server.requests[0]
    assert request.target == "/f?q=1"
    assert request.header("Accept-Encoding") == "identity"
    assert request.header("X-Client") == "lab"
    assert request.header("User-Agent") == "mine"
    assert request.header("Range") is None
    assert request.header("Cookie") is None


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (3, 7), (len(BODY) - 2, len(BODY))])
def test_a_piece_of_a_file_is_asked_for_by_its_first_and_last_byte(net, server, start, stop):
    server.routes["/f"] = file(BODY, etag='"v1"')

    body, stream = fetch(net, server.url("/f"), start=start, stop=stop, if_range='"v1"')

    assert body == BODY[start:stop]
    assert (stream.start, stream.total) == (start, len(BODY))
    assert server.requests[0].header("Range") == f"bytes={start}-{stop - 1}"
    fetch(net, server.url("/f"))
    assert server.requests[1].connection == 1  # which served the piece to its end


def test_rule_52_the_usual_user_agent_is_fetchd_and_its_version(net, server):
    server.routes["/f"] = file(b"x")

    fetch(net, server.url("/f"))

    assert server.requests[0].header("User-Agent") == "fetchd/0.1.0"


def test_every_request_is_worded_alike_on_both_ways(make, server):
    server.routes["/f"] = file(BODY, etag='"v1"')
    validator = Validator(etag='"v0"', last_modified="Mon, 02 Mar 2026 10:00:00 GMT")
    asked = {"start": 9, "if_range": '"v1"', "unless": validator, "headers": (("x-key", "k\xe4"),)}

    with Server(fallback=forward) as proxy:
        for net in (make(), make(proxy=proxy.origin)):
            fetch(net, server.url("/f?b=c&a=%2F"), **asked)

    direct, proxied = server.requests
    assert direct.raw == proxied.raw
    assert proxy.requests[0].target == server.url("/f?b=c&a=%2F")


def test_n18_a_header_may_begin_with_what_is_a_space_in_unicode_alone(net, server):
    server.routes["/f"] = file(b"x")

    fetch(net, server.url("/f"), headers=(("X-Client", "\xa0\x85a"),))

    assert b"\r\nX-Client: \xa0\x85a\r\n" in server.requests[0].raw


def test_an_empty_file_is_an_answer(net, server):
    server.routes["/f"] = file(b"")

    body, stream = fetch(net, server.url("/f"))

    assert (body, stream.total, stream.framed) == (b"", 0, True)


def test_chunks_frame_a_body_of_unknown_length(net, server):
    server.routes["/f"] = file(BODY, chunked=7_001)

    body, stream = fetch(net, server.url("/f"))

    assert body == BODY
    assert (stream.total, stream.framed) == (None, True)


def test_a_body_without_length_and_chunks_is_not_framed(net, server):
    server.routes["/f"] = answer([OK], BODY)

    body, stream = fetch(net, server.url("/f"))

    assert body == BODY
    assert (stream.total, stream.framed) == (None, False)


def test_the_rest_of_a_file_arrives_from_where_it_was_asked(net, server):
    server.routes["/f"] = file(BODY, etag='"v1"')

    body, stream = fetch(net, server.url("/f"), start=1000, if_range='"v1"')

    assert body == BODY[1000:]
    assert (stream.start, stream.total, stream.framed) == (1000, len(BODY), True)
    assert server.requests[0].header("Range") == "bytes=1000-"
    assert server.requests[0].header("If-Range") == '"v1"'


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(file(BODY, etag='"v2"'), id="N32-other-etag"),
        pytest.param(file(BODY, etag='"v1"', ranges=False), id="N32-range-ignored"),
    ],
)
def test_a_whole_file_instead_of_its_rest_is_told_by_the_start(net, server, route):
    server.routes["/f"] = route

    body, stream = fetch(net, server.url("/f"), start=1000, if_range='"v1"')

    assert body == BODY
    assert (stream.start, stream.total) == (0, len(BODY))


def test_an_unchanged_file_is_not_sent(net, server):
    server.routes["/f"] = file(BODY, etag='"v1"')
    server.routes["/g"] = file(BODY, last_modified="Mon, 02 Mar 2026 10:00:00 GMT")
    known = Validator(etag='"v1"')
    dated = Validator(last_modified="Mon, 02 Mar 2026 10:00:00 GMT")

    for path, unless in (("/f", known), ("/g", dated)):
        body, stream = fetch(net, server.url(path), unless=unless)

        assert (body, stream.not_modified) == (b"", True)
    assert server.connections == 1


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"ETag": '\u00a0"x"'}, id="space-before"),
        pytest.param({"ETag": "x"}, id="no-quotes"),
        pytest.param({"ETag": f'"{"x" * 2000}"'}, id="too-long"),
        pytest.param({"ETag": '"a b"'}, id="space-within"),
        pytest.param({"Last-Modified": "yesterday"}, id="no-date"),
        pytest.param(
            {"Last-Modified": "Tue, 03 Mar 2026 10:00:00 GMT" + " " * 99 + "x"}, id="long"
        ),
    ],
)
def test_what_has_not_the_form_of_a_validator_is_none(net, server, headers):
    usual = {"ETag": '"1"', "Last-Modified": "Tue, 03 Mar 2026 10:00:00 GMT"}
    lines = [OK, "Content-Length: 1", *(f"{k}: {v}" for k, v in (usual | headers).items())]
    server.routes["/f"] = answer(lines, b"x")

    validator = fetch(net, server.url("/f"))[1].validator

    assert (validator.etag is None) == ("ETag" in headers)
    assert (validator.last_modified is None) == ("Last-Modified" in headers)


def test_n20_several_content_types_are_refused_and_one_said_twice_is_one(net, server):
    html, plain = "Content-Type: text/html", "Content-Type: text/plain"
    server.routes["/twice"] = answer([OK, "Content-Length: 1", html, html], b"x")
    server.routes["/two"] = answer([OK, "Content-Length: 1", html, plain], b"x")

    assert fetch(net, server.url("/twice"))[1].content_type == "text/html"
    assert failure(net, server.url("/two")).code == "bad_response"


@pytest.mark.parametrize(
    "location",
    [
        pytest.param(f"http://{'a' * 60_000}/x", id="host"),
        pytest.param(f"http://127.0.0.1:{'0' * 5000}80/x", id="port"),
        pytest.param(f"{'a' * 60_000}:x", id="scheme"),
    ],
)
def test_n46_no_text_of_a_server_makes_a_reason_long(net, server, location):
    server.routes["/f"] = redirect(location)

    error = failure(net, server.url("/f"))

    assert error.code in {"bad_response", "scheme_denied"}
    assert len(error.reason) < 500
    assert "set_int_max" not in error.reason


def test_a_changed_file_is_sent(net, server):
    server.routes["/f"] = file(BODY, etag='"v2"')

    body, stream = fetch(net, server.url("/f"), unless=Validator(etag='"v1"'))

    assert (body, stream.not_modified) == (BODY, False)


@pytest.mark.parametrize("total", [1000, None])
def test_n33_a_start_behind_the_end_tells_the_length_that_the_origin_names(net, server, total):
    headers = {} if total is None else {"Content-Range": f"bytes */{total}"}
    server.routes["/f"] = status(416, "Range Not Satisfiable", headers)

    with pytest.raises(RangeRefused) as caught:
        fetch(net, server.url("/f"), start=2000)

    assert caught.value.total == total


# ---------------------------------------------------------------- connections


def test_a_connection_serves_one_file_after_another(net, server):
    server.routes["/f"] = file(BODY)
    server.routes["/c"] = file(BODY, chunked=1000)

    for path in ("/f", "/c", "/f"):
        fetch(net, server.url(path))

    assert server.connections == 1


def test_a_stream_closed_before_its_end_takes_its_connection_along(net, server):
    server.routes["/f"] = file(BODY)

    net.open(ask(server.url("/f")), lambda: True).close()
    body, _ = fetch(net, server.url("/f"))

    assert body == BODY
    assert server.connections == 2


def test_n28_a_kept_connection_that_the_peer_has_closed_costs_nothing(net, server):
    server.routes["/f"] = file(BODY)
    server.routes["/last"] = lambda exchange: (file(b"x")(exchange), exchange.close())
    fetch(net, server.url("/last"))

    body, _ = fetch(net, server.url("/f"))

    assert body == BODY


@pytest.mark.parametrize("end", ["close", "reset"])
def test_n28_a_kept_connection_that_ends_under_the_request_is_replaced_once(net, server, end):
    def treacherous(exchange):
        if exchange.request.connection == 1 and exchange.number > 1:
            getattr(exchange, end)()
        else:
            file(BODY)(exchange)

    server.routes["/f"] = treacherous
    fetch(net, server.url("/f"))

    body, _ = fetch(net, server.url("/f"))

    assert body == BODY
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_n28_the_replacement_is_a_new_connection_and_not_another_kept_one(make_both, server):
    net = make_both(workers=1)  # of which no more connections are kept

    def treacherous(exchange):
        if exchange.number > 2 and exchange.request.connection < 3:
            if exchange.number == 3:
                read(second)  # so that its connection takes the place of this one
            exchange.close()
        else:
            file(BODY)(exchange)

    server.routes["/f"] = treacherous
    first, second = opened(net, server), opened(net, server)
    read(first)

    assert fetch(net, server.url("/f"))[0] == BODY
    assert server.connections == 3


def test_a_new_connection_that_ends_under_the_request_is_a_failed_attempt(net, server):
    server.routes["/f"] = raw(b"")

    error = failure(net, server.url("/f"))

    assert error.code == "bad_response"
    assert len(server.requests) == 1


def test_n07_bytes_behind_the_body_are_never_taken_for_the_next_answer(net, server):
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server.routes["/f"] = answer([OK, "Content-Length: 4"], b"good" + smuggled, "keep")
    server.routes["/g"] = file(b"fine")

    first, _ = fetch(net, server.url("/f"))
    second, _ = fetch(net, server.url("/g"))

    assert (first, second) == (b"good", b"fine")
    assert server.connections == 2


def test_n07_bytes_that_come_later_are_never_taken_for_the_next_answer(net, server, proxy):
    came = threading.Event()

    def late(exchange):
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
        came.wait(5)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    server.routes["/f"] = late
    server.routes["/g"] = file(b"fine")

    first, _ = fetch(net, server.url("/f"))
    came.set()
    until_s = time.monotonic() + 5
    for each in filter(None, [server, proxy]):
        while each.requests[0].sent < 80 and time.monotonic() < until_s:
            time.sleep(0.005)
    second, _ = fetch(net, server.url("/g"))

    assert (first, second) == (b"good", b"fine")


def test_the_environment_decides_nothing(make_both, server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    server.routes["/f"] = file(BODY)

    body, _ = fetch(make_both(), server.url("/f"))

    assert body == BODY
    assert server.requests[0].header("Authorization") is None


def test_no_descriptor_stays_behind(net, server):
    server.routes |= {
        "/ok": file(BODY),
        "/cut": file(BODY, cut_after=10),
        "/to": redirect("/ok"),
        "/no": status(404),
        "/bad": raw(b"garbage\r\n\r\n"),
        "/len": answer([OK, "Content-Length: 1", "Content-Length: 2"], b"x"),
        "/ends": answer([OK], BODY),
    }
    fetch(net, server.url("/ok"))
    before = _sockets()

    for path in [*server.routes, "/ok"]:
        with suppress(AttemptError):
            fetch(net, server.url(path))

    until_s = time.monotonic() + 5  # the server's own ends need a moment
    while _sockets() > before and time.monotonic() < until_s:
        time.sleep(0.005)
    assert _sockets() <= before


def _sockets():
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_the_threads_end_with_the_transports(make):
    net = make()
    threads = net.threads()

    net.close()

    assert [t.name for t in threads] == ["deadlines", "resolver-0", "resolver-1"]
    assert not any(t.alive() for t in threads)


def test_idle_connections_end_with_the_transports_and_not_with_the_garbage(net, server):
    before = _sockets()
    server.routes |= {"/bad": raw(b"HTTP/1.1 \r\n\r\n"), "/f": file(BODY)}
    gc.disable()
    try:
        failure(net, server.url("/bad"))
        fetch(net, server.url("/f"))

        net.close()
        server.hang_up()

        until_s = time.monotonic() + 5
        while _sockets() > before and time.monotonic() < until_s:
            time.sleep(0.005)
        assert _sockets() <= before
    finally:
        gc.enable()


# ---------------------------------------------------------------- bodies that break


@pytest.mark.parametrize(
    ("route", "code", "got"),
    [
        pytest.param(file(BODY, cut_after=150_000), "short_body", 150_000, id="N02-fin"),
        pytest.param(file(BODY, cut_after=299_999), "short_body", 299_999, id="N02-last-byte"),
        pytest.param(file(BODY, cut_after=0), "short_body", 0, id="N02-no-byte"),
        pytest.param(file(BODY, cut_after=150_000, reset=True), "short_body", None, id="N01-half"),
        pytest.param(file(BODY, cut_after=299_999, reset=True), "short_body", None, id="N01-last"),
        pytest.param(
            file(BODY, cut_after=0, reset=True), "short_body bad_response", 0, id="N01-none"
        ),
        pytest.param(raw(b"", "reset"), "bad_response", 0, id="N01-before-head"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nETag: x"), "bad_response", 0, id="N01-in-head"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n"), "bad_response", 0, id="N01-between-lines"),
        pytest.param(file(BODY, length="400000"), "short_body", 300_000, id="N06-too-long-closed"),
        pytest.param(
            file(BODY, chunked=1000, cut_after=1500), "bad_framing", 1500, id="N10-in-chunk"
        ),
        pytest.param(
            file(BODY[:5000], chunked=1000, cut_after=5000), "bad_framing", 5000, id="N10-no-last"
        ),
    ],
)
def test_a_body_that_breaks_off_is_a_transient_failure(net, server, route, code, got):
    server.routes["/f"] = route
    data = bytearray()

    with pytest.raises(AttemptError) as caught:
        read(opened(net, server), data)

    assert caught.value.transient
    assert caught.value.code in code.split()
    assert BODY.startswith(data)
    assert got is None or len(data) == got


def opened(net, server, **options):
    return net.open(ask(server.url("/f"), **options), lambda: True)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: -5"], id="N08-negative"),
        pytest.param(["Content-Length: many"], id="N08-text"),
        pytest.param(["Content-Length: +1_000"], id="N08-python"),
        pytest.param(["Content-Length: 5, 5"], id="N08-list"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="N08-two"),
        pytest.param([f"Content-Length: {10**30}"], id="N08-huge"),
        pytest.param(["Content-Length:"], id="N08-empty"),
    ],
)
def test_a_length_that_is_not_one_plain_number_is_refused(net, server, lines):
    server.routes["/f"] = answer([OK, *lines], b"12345")

    assert failure(net, server.url("/f")).code == "bad_length"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="N09-both"),
        pytest.param(["Transfer-Encoding: gzip"], id="N09-unknown"),
        pytest.param(["Transfer-Encoding: gzip, chunked"], id="N09-two-codings"),
        pytest.param(["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], id="N09-twice"),
    ],
)
def test_a_framing_that_contradicts_itself_is_refused(net, server, lines):
    server.routes["/f"] = answer([OK, *lines], b"5\r\n12345\r\n0\r\n\r\n")

    assert failure(net, server.url("/f")).code == "bad_framing"


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(b"zz\r\n", id="N10-text"),
        pytest.param(b"-5\r\nabcde\r\n", id="N10-negative"),
        pytest.param(b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n", id="N10-python"),
        pytest.param(b"10000000000000000\r\nx", id="N10-2-64"),
        pytest.param(b"5\r\nabcdefg\r\n0\r\n\r\n", id="chunk-longer-than-it-says"),
        pytest.param(b"\r\n", id="empty-size"),
        pytest.param(b"5" + b";" * 5000 + b"\r\n", id="endless-extension"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 1000, id="endless-trailers"),
    ],
)
def test_malformed_chunks_are_refused(net, server, chunks):
    server.routes["/f"] = answer([OK, "Transfer-Encoding: chunked"], chunks)

    error = failure(net, server.url("/f"))

    assert error.code == "bad_framing"
    assert error.transient


@pytest.mark.parametrize(
    "encoding",
    ["gzip", "deflate", "br", "zstd", ", ".join(["gzip"] * 1000), "GZIP"],
    ids=["N19-gzip", "N19-deflate", "N19-br", "N19-zstd", "N19-chain", "N19-upper"],
)
def test_an_encoded_file_is_refused_for_good(net, server, encoding):
    server.routes["/f"] = file(BODY, headers={"Content-Encoding": encoding})

    error = failure(net, server.url("/f"))

    assert error.code == "bad_response"
    assert not error.transient
    assert len(error.reason) < 300


@pytest.mark.parametrize(
    ("path", "coding"),
    [("/f.tar.gz", "x-gzip"), ("/f.TGZ", "gzip"), ("/f.zst", "zstd"), ("/f.bz2", "x-bzip2")],
)
def test_rule_31_a_file_that_is_stored_compressed_may_be_told_as_encoded(net, server, path, coding):
    server.routes[path] = file(BODY, headers={"Content-Encoding": coding})

    assert fetch(net, server.url(path))[0] == BODY
    assert fetch(net, server.url(path), start=9)[0] == BODY[9:]


@pytest.mark.parametrize(
    ("path", "coding", "options"),
    [
        pytest.param("/f.gz", "gzip", {"chunked": 99}, id="N19-on-the-fly"),
        pytest.param("/f.gz", "br", {}, id="N19-other-coding"),
        pytest.param("/f.gz", "gzip, gzip", {}, id="N19-twice"),
        pytest.param("/f.gz/data", "gzip", {}, id="N19-not-at-the-end"),
        pytest.param("/f?a=.gz", "gzip", {}, id="N19-in-the-query"),
    ],
)
def test_rule_31_an_encoding_that_is_not_the_format_of_the_file_is_refused(
    net, server, path, coding, options
):
    server.fallback = file(BODY, headers={"Content-Encoding": coding}, **options)

    assert failure(net, server.url(path)).code == "bad_response"


def test_encoding_identity_is_no_encoding(net, server):
    server.routes["/f"] = file(BODY, headers={"Content-Encoding": "identity"})

    assert fetch(net, server.url("/f"))[0] == BODY


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"hello, this is HTTP/0.9", id="N17-http09"),
        pytest.param(content("noise", 5000), id="N17-garbage"),
        pytest.param(b"", id="N17-empty"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="N17-tls"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="other-version"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", id="N16-long-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 150 + b"\r\n", id="N16-many"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\nX: y\r\n\r\n", id="N16-no-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", id="N16-nul"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 0\r\n\r\n", id="N16-bare-cr"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /f\rX: y\r\n\r\n", id="N46-cr-in-location"),
        pytest.param(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n", id="N15-101"),
        pytest.param(b"HTTP/1.1 103 Hints\r\n\r\n", id="N15-interim-alone"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="N14-flood"),
    ],
)
def test_what_is_not_http_is_a_bad_response(net, server, data):
    server.routes["/f"] = raw(data)

    error = failure(net, server.url("/f"))

    assert error.code == "bad_response"
    assert error.transient


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="N16-bare-lf"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="N17-tls"),
        pytest.param(b"<html>", id="N17-http09"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, id="N16-long-line"),
    ],
)
def test_what_can_never_become_a_head_is_not_waited_for(net, server, data):
    server.routes["/f"] = raw(data, "stall")

    assert failure(net, server.url("/f")).code == "bad_response"


def test_a_header_folded_over_two_lines_is_understood(net, server):
    server.routes["/f"] = answer([OK, "X: a", " b", "Content-Length: 2"], b"ok")

    assert fetch(net, server.url("/f"))[0] == b"ok"


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        *(pytest.param(c, True, id=f"N23-{c}") for c in (408, 425, 429, 500, 502, 503, 504)),
        *(pytest.param(c, False, id=f"N24-{c}") for c in (400, 401, 403, 404, 410, 501, 505)),
        *(pytest.param(c, False, id=f"N18-{c}") for c in (201, 204, 205, 300, 304, 999)),
        pytest.param(416, False, id="416-unasked"),
    ],
)
def test_a_status_without_a_file_fails_by_its_class(net, server, code, transient):
    server.routes["/f"] = status(code, "Because token=hidden")

    error = failure(net, server.url("/f?token=secret"))

    assert (error.code, error.transient) == ("bad_status", transient)
    assert error.reason.startswith(f"{code} ")
    assert error.reason.endswith(f" from {server.url('/f')}?...")
    assert "token" not in error.reason


@pytest.mark.parametrize(
    "interim",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", id="100"),
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n", id="N15-102"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", id="N15-103"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" * 20, id="N14-some"),
    ],
)
def test_a_final_answer_behind_interim_ones_is_used(net, server, interim):
    server.routes["/f"] = raw(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "keep")

    assert [fetch(net, server.url("/f"))[0] for _ in range(2)] == [b"ok", b"ok"]
    assert server.connections == 1


def test_n22_a_status_brings_the_wait_that_the_origin_wishes(net, server):
    server.routes["/f"] = status(503, headers={"Retry-After": "120"})

    assert failure(net, server.url("/f")).retry_after_s == 120


def test_a_failure_says_which_origin_it_is_of(net, server):
    with Server({"/g": status(429, headers={"Retry-After": "9"})}) as other:
        server.routes["/f"] = redirect(other.url("/g"))
        server.routes["/h"] = redirect("http://127.0.0.1:1/")

        assert failure(net, server.url("/f")).origin == other.origin
        assert failure(net, server.url("/h")).origin == "http://127.0.0.1:1"
        assert failure(net, server.url("/none")).origin == server.origin


@pytest.mark.parametrize(
    ("headers", "wish_s"),
    [
        ({"RateLimit": '"default";r=0;t=12'}, 12.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9"}, 9.0),
        ({"Retry-After": "30", "RateLimit": '"default";r=0;t=12'}, 30.0),
        ({"RateLimit": '"default";r=1;t=12'}, None),
        ({}, None),
    ],
)
def test_a_good_answer_may_bring_the_wish_to_be_left_alone(net, server, headers, wish_s):
    with Server({"/g": file(BODY, headers=headers)}) as other:
        server.routes["/f"] = redirect(other.url("/g"))
        with closing(net.open(ask(server.url("/f")), lambda: True)) as stream:
            wish = stream.wish

    assert wish == (None if wish_s is None else (other.origin, wish_s))


def test_a_403_without_a_quota_left_may_be_tried_again(net, server):
    server.routes["/f"] = status(403, headers={"RateLimit": '"default";r=0;t=12'})
    server.routes["/g"] = status(403)

    used_up = failure(net, server.url("/f"))
    assert (used_up.transient, used_up.retry_after_s) == (True, 12.0)
    assert not failure(net, server.url("/g")).transient


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        pytest.param(["Content-Range: bytes 0-9/10"], "bad_response", id="N31-start"),
        pytest.param(["Content-Range: bytes 4-8/10"], "bad_response", id="N31-end"),
        pytest.param(["Content-Range: bytes 4-9/11"], "bad_response", id="N31-total"),
        pytest.param([], "bad_response", id="N31-missing"),
        pytest.param(
            ["Content-Type: multipart/byteranges; boundary=x", "Content-Range: bytes 4-9/10"],
            "bad_response",
            id="N31-multipart",
        ),
        pytest.param(["Content-Range: bytes 4-9/+10"], "bad_response", id="python-number"),
        pytest.param(["Content-Range: bytes 9-4/10"], "bad_response", id="backwards"),
        pytest.param(["Content-Range: bytes 4-9/10"] * 2, "bad_response", id="twice"),
        pytest.param(
            ["Content-Range: bytes 4-9/10", "Content-Length: 7"], "bad_length", id="other-length"
        ),
    ],
)
def test_a_part_that_is_not_the_one_asked_for_is_refused_unread(net, server, lines, code):
    server.routes["/f"] = answer(["HTTP/1.1 206 Partial Content", *lines], b"456789")

    assert failure(net, server.url("/f"), start=4).code == code


def test_a_part_that_nobody_asked_for_is_refused(net, server):
    head = ["HTTP/1.1 206 Partial Content", "Content-Range: bytes 0-5/6", "Content-Length: 6"]
    server.routes["/f"] = answer(head, b"abcdef")

    assert failure(net, server.url("/f")).code == "bad_response"


def test_a_part_of_a_file_of_unknown_length_does_not_count_as_its_whole_rest(net, server):
    head = ["HTTP/1.1 206 Partial Content", "Content-Range: bytes 4-9/*", "Content-Length: 6"]
    server.routes["/f"] = answer(head, b"456789")

    body, stream = fetch(net, server.url("/f"), start=4)

    assert (body, stream.total, stream.framed) == (b"456789", None, False)


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        (b"5\r\n45678\r\n0\r\n\r\n", "short_body"),
        (b"7\r\n4567890\r\n0\r\n\r\n", "bad_framing"),
    ],
)
def test_a_part_in_chunks_is_held_to_its_range(net, server, chunks, code):
    head = ["HTTP/1.1 206 Partial Content", "Content-Range: bytes 4-9/10"]
    server.routes["/f"] = answer([*head, "Transfer-Encoding: chunked"], chunks)

    assert failure(net, server.url("/f"), start=4).code == code


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(stalled(), id="N04-before-head"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX", "stall"), id="N04-in-head"),
        pytest.param(file(BODY, stall_after=150_000), id="N04-in-body"),
        pytest.param(file(BODY, length="400000", stall_after=300_000), id="N06-held-open"),
        pytest.param(dripping(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 999), id="N05-dripping-head"),
        pytest.param(dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 99, 25), id="N14-dripping-100"),
    ],
)
def test_silence_ends_within_the_stall_window_in_every_phase(net, server, route):
    server.routes["/f"] = route
    began_s = time.monotonic()

    error = failure(net, server.url("/f"), stall_s=0.2)

    assert (error.code, error.transient) == ("stalled", True)
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(stalled(), id="head"),
        pytest.param(file(BODY, rate=100_000), id="N05-dripping-body"),
        pytest.param(endless(b"x" * 999, b"HTTP/1.1 200 OK\r\n\r\n"), id="N11-endless-body"),
    ],
)
def test_rule_49_the_deadline_ends_an_attempt_in_every_phase(net, server, route):
    server.routes["/f"] = route
    began_s = time.monotonic()

    error = failure(net, server.url("/f"), deadline_in_s=0.2)

    assert error.code == "deadline"
    assert time.monotonic() - began_s < 2


def test_n25_a_server_that_takes_a_connection_and_keeps_silent_stalls(net):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        assert failure(net, url, stall_s=0.2).code == "stalled"


def test_n25_a_refused_connection_says_so(direct):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    error = failure(direct, f"http://127.0.0.1:{port}/")

    assert (error.code, error.transient) == ("connect_failed", True)
    assert "refused" in error.reason


def test_n25_no_address_is_dialled_for_longer_than_the_attempt_may_last(make):
    class Silent(Names):
        def connect(self, family, address, port, timeout_s):
            self.dialled.append(timeout_s)
            raise TimeoutError

    dialer = Silent(h_test=["127.0.0.1"])

    failure(make(dialer=dialer), "http://h.test/", deadline_in_s=0.5)

    assert 0 < dialer.dialled[0] <= 0.5


def test_rule_49_a_kept_connection_is_watched_as_a_new_one(net, server):
    server.routes |= {"/f": file(BODY), "/silent": stalled()}

    for options in ({"deadline_in_s": 0.2}, {"stall_s": 0.2}):
        fetch(net, server.url("/f"))
        began_s = time.monotonic()

        error = failure(net, server.url("/silent"), **options)

        assert error.code == ("stalled" if "stall_s" in options else "deadline")
        assert time.monotonic() - began_s < 2
    assert server.connections == 2


class Wish:
    """``wanted`` as the engine answers it, until ``end`` is called."""

    def __init__(self):
        self._ended = threading.Event()
        self.end = self._ended.set

    def __call__(self):
        return not self._ended.is_set()


def test_trap_2_a_wait_for_the_head_ends_when_nobody_wants_it_any_more(net, server):
    wish = Wish()
    server.routes["/f"] = lambda exchange: (wish.end(), exchange.stall())
    began_s = time.monotonic()

    with pytest.raises(NotWanted):
        net.open(ask(server.url("/f")), wish)

    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(file(BODY, stall_after=1000), id="length"),
        pytest.param(file(BODY, chunked=1000, stall_after=1500), id="chunks"),
        pytest.param(answer([OK], BODY[:1000], "stall"), id="neither"),
    ],
)
def test_trap_2_a_body_that_nobody_wants_any_more_never_looks_ended(net, server, route):
    server.routes["/f"] = route
    wish = Wish()
    stream = net.open(ask(server.url("/f")), wish)
    wish.end()
    began_s = time.monotonic()

    with pytest.raises(NotWanted):
        read(stream)

    assert time.monotonic() - began_s < 2


def test_trap_2_a_cut_under_tls_gives_no_ciphertext_as_body(make_both, tmp_path):
    tls, ca = certificates(tmp_path)
    routes = {"/f": answer([OK], BODY[:1000], "stall")}
    with Server(routes, tls=tls) as server:
        wish = Wish()
        stream = make_both(ca=ca).open(ask(server.url("/f")), wish)
        wish.end()
        data = bytearray()

        with pytest.raises(NotWanted):
            read(stream, data)

    assert data == BODY[:1000]


def test_rule_48_trap_3_a_read_returns_what_has_arrived(net, server):
    server.routes["/f"] = file(BODY, stall_after=1000)
    buffer = memoryview(bytearray(200_000))

    with closing(opened(net, server)) as stream:
        count = stream.readinto(buffer)

    assert 0 < count <= 1000
    assert buffer[:count] == BODY[:count]


def test_a_stream_says_its_end_more_than_once(net, server):
    server.routes["/f"] = file(b"x")
    stream = opened(net, server)

    assert read(stream) == b"x"
    assert stream.readinto(memoryview(bytearray(5))) == 0
    stream.close()


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_with_everything_that_was_asked(net, server, code):
    server.routes["/a"] = redirect("b/../f?x=1#part", code)
    server.routes["/f"] = file(BODY, etag='"v1"')

    body, stream = fetch(net, server.url("/a"), start=9, if_range='"v1"')

    assert body == BODY[9:]
    assert stream.final_url == server.url("/f?x=1")


def test_trap_1_n13_the_body_of_a_redirect_is_never_read(net, server):
    server.routes["/a"] = endless(
        bytes(65536), b"HTTP/1.1 302 Found\r\nLocation: /f\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    server.routes["/f"] = file(BODY)

    assert fetch(net, server.url("/a"))[0] == BODY

    assert server.requests[0].sent < 30_000_000  # what fits the socket buffers
    assert server.connections == 2


def test_a_redirect_without_a_body_keeps_its_connection(net, server):
    server.routes["/a"] = redirect("/f")
    server.routes["/f"] = file(BODY)

    fetch(net, server.url("/a"))

    assert server.connections == 1


@pytest.mark.parametrize(
    ("routes", "path"),
    [
        pytest.param({"/a": redirect("/b"), "/b": redirect("/a")}, "/a", id="N41-loop"),
        pytest.param({"/a": redirect("/a")}, "/a", id="N41-itself"),
        pytest.param({f"/{n}": redirect(f"/{n + 1}") for n in range(9)}, "/0", id="N41-chain"),
    ],
)
def test_redirects_without_end_are_left(net, server, routes, path):
    server.routes |= routes

    error = failure(net, server.url(path))

    assert error.code == "too_many_redirects"
    assert len(server.requests) <= 4  # the first and three redirects


def test_as_many_redirects_as_allowed_are_followed(net, server):
    server.routes |= {f"/{n}": redirect(f"/{n + 1}") for n in range(3)} | {"/3": file(b"x")}

    assert fetch(net, server.url("/0"))[0] == b"x"


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://h/f", "data:,x", "javascript:1", "gopher://h/"],
    ids=["N42-file", "N42-ftp", "N42-data", "N42-javascript", "N42-unknown"],
)
def test_a_redirect_to_another_scheme_is_denied_and_no_file_opened(make_both, server, location):
    class Files:
        def open_file(self, path):
            raise AssertionError(f"{path} was opened")

    server.routes["/a"] = redirect(location)

    error = failure(make_both(files=Files()), server.url("/a"))

    assert (error.code, error.transient) == ("scheme_denied", False)


def test_n43_a_redirect_from_https_to_http_is_denied(make_both, server, tmp_path):
    tls, ca = certificates(tmp_path)
    server.routes["/f"] = file(BODY)
    with Server({"/a": redirect(server.url("/f"))}, tls=tls) as secure:
        error = failure(make_both(ca=ca), secure.url("/a"))

    assert error.code == "scheme_denied"
    assert not server.requests


def test_a_redirect_from_http_to_https_is_followed(make_both, server, tmp_path):
    tls, ca = certificates(tmp_path)
    with Server({"/f": file(BODY)}, tls=tls) as secure:
        server.routes["/a"] = redirect(secure.url("/f"))

        assert fetch(make_both(ca=ca), server.url("/a"))[0] == BODY


def test_a_cookie_lives_from_one_redirect_to_the_next_and_no_longer(net, server):
    def gate(exchange):
        if exchange.request.header("Cookie") != "pass=1; way=long":
            headers = [("Set-Cookie", "pass=1"), ("Set-Cookie", "way=long; Path=/")]
            status(302, headers=[*headers, ("Location", "/f")])(exchange)
        else:
            file(BODY)(exchange)

    server.routes["/f"] = gate

    assert [fetch(net, server.url("/f"))[0] for _ in range(2)] == [BODY, BODY]
    cookies = [request.header("Cookie") for request in server.requests]
    assert cookies == [None, "pass=1; way=long"] * 2


def test_n44_a_cookie_does_not_follow_to_another_host(make_both, server):
    with Server({"/f": file(BODY)}) as other:
        target = f"http://localhost:{other.port}/f"
        headers = [("Set-Cookie", "pass=1"), ("Location", target)]
        server.routes["/f"] = status(302, headers=headers)
        net = make_both(dialer=Names(localhost=["127.0.0.1"]))

        assert fetch(net, server.url("/f"))[0] == BODY

    assert other.requests[0].header("Cookie") is None


@pytest.mark.parametrize(
    ("cookie", "target", "sent"),
    [
        ("a=1; Domain=files.test", "http://sub.files.test/d/f", "a=1"),
        ("a=1; domain=.FILES.test", "http://sub.files.test/d/f", "a=1"),
        ("a=1", "http://sub.files.test/d/f", None),
        ("a=1; Domain=test", "http://other.test/d/f", None),
        ("a=1; Domain=other.test", "http://other.test/d/f", None),
        ("a=1; Domain=other.test", "http://files.test/d/f", None),
        ("a=1", "http://files.test/f", None),
        ("a=1; Path=/", "http://files.test/f", "a=1"),
        ("a=1; Path=/d", "http://files.test/d/f", "a=1"),
        ("a=1; Path=/d", "http://files.test/de", None),
        ("a=1; Path=nonsense", "http://files.test/d/e", "a=1"),
        ("a=1; Secure", "http://files.test/d/f", None),
        ("a=1", "http://files.test/d/f", "a=1"),
        (' a = "b=c" ;Expires=1 jan 999', "http://files.test/d/f", 'a="b=c"'),
        ("a", "http://files.test/d/f", None),
        ("=1", "http://files.test/d/f", None),
    ],
)
def test_a_cookie_is_sent_where_its_server_may_send_it(make_both, server, cookie, target, sent):
    """RFC 6265 §5."""
    names = {"files_test": ["127.0.0.1"], "other_test": ["127.0.0.1"]}
    net = make_both(dialer=Names(**names, sub_files_test=["127.0.0.1"]))
    host, path = target.removeprefix("http://").split("/", 1)
    location = f"http://{host}:{server.port}/{path}"
    server.routes["/d/a"] = status(302, headers=[("Set-Cookie", cookie), ("Location", location)])
    server.routes[f"/{path}"] = file(BODY)

    assert fetch(net, f"http://files.test:{server.port}/d/a")[0] == BODY

    assert server.requests[-1].header("Cookie") == sent


@pytest.mark.parametrize(
    "more",
    [
        "; expires=1 jan " + "9" * 3000,
        "; expires=1 jan " + "9" * 5000,
        "; max-age=" + "9" * 3000,
        "; version=" + "9" * 3000,
        '; port="' + "9" * 3000,
        "; domain=\xff\xfe",
        "c" * 60_000,
    ],
    ids=["date", "long-date", "age", "version", "port", "domain", "value"],
)
def test_n44_a_hostile_cookie_is_passed_over_in_silence(net, server, capfd, recwarn, more):
    headers = [("Set-Cookie", "a=b" + more), ("Set-Cookie", "good=1"), ("Location", "/f")]
    server.routes["/a"] = status(302, headers=headers)
    server.routes["/f"] = file(BODY)

    assert fetch(net, server.url("/a"))[0] == BODY

    assert "good=1" in server.requests[-1].header("Cookie")
    assert len(server.requests[-1].header("Cookie")) < 100
    assert (capfd.readouterr(), list(recwarn)) == (("", ""), [])


def test_n44_a_chain_keeps_so_many_cookies(net, server):
    cookies = [("Set-Cookie", f"c{n}=1") for n in range(MOST_COOKIES + 10)]
    server.routes["/a"] = status(302, headers=[*cookies, ("Location", "/f")])
    server.routes["/f"] = file(BODY)

    fetch(net, server.url("/a"))

    assert server.requests[-1].header("Cookie").count("=") == MOST_COOKIES


def test_redirects_in_a_circle_end_though_each_sets_a_new_cookie(net, server):
    def turn(exchange):
        headers = [("Set-Cookie", f"n={exchange.number}"), ("Location", "/f")]
        status(302, headers=headers)(exchange)

    server.routes["/f"] = turn

    assert failure(net, server.url("/f")).code == "too_many_redirects"
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("http://other.test:{port}/f", id="N44-host"),
        pytest.param("http://sub.files.test:{port}/f", id="N44-subdomain"),
        pytest.param("http://files.test:{other}/f", id="N44-port"),
    ],
)
def test_rule_50_headers_of_the_job_stay_with_the_origin_of_its_url(make_both, server, place):
    names = {"files_test": ["127.0.0.1"], "other_test": ["127.0.0.1"]}
    dialer = Names(**names, sub_files_test=["127.0.0.1"])
    net = make_both(dialer=dialer)
    secrets = (("Authorization", "Bearer s"), ("X-Api-Key", "s"), ("Cookie", "s=1"))
    with Server({"/f": file(BODY)}) as other:
        server.routes["/f"] = file(BODY)
        server.routes["/a"] = redirect(place.format(port=server.port, other=other.port))

        fetch(net, f"http://files.test:{server.port}/a", headers=secrets)

        first, last = server.requests + other.requests
    assert [first.header(name) for name, _ in secrets] == [value for _, value in secrets]
    assert [last.header(name) for name, _ in secrets] == [None, None, None]


def test_n44_headers_of_the_job_do_not_follow_to_another_scheme(make_both, server, tmp_path):
    tls, ca = certificates(tmp_path)
    with Server({"/f": file(BODY)}, tls=tls) as secure:
        server.routes["/a"] = redirect(secure.url("/f"))

        fetch(make_both(ca=ca), server.url("/a"), headers=(("X-Api-Key", "s"),))

        assert secure.requests[0].header("X-Api-Key") is None


def test_headers_of_the_job_follow_within_the_origin(net, server):
    server.routes |= {"/a": redirect("/f"), "/f": file(BODY)}

    fetch(net, server.url("/a"), headers=(("X-Api-Key", "s"),))

    assert [r.header("X-Api-Key") for r in server.requests] == ["s", "s"]


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("/f\tg", id="N46-tab"),
        pytest.param("http://127.0.0.1:1/" + "x" * 100_000, id="N46-long"),
        pytest.param("http://me:secret@127.0.0.1/f", id="N47-userinfo"),
        pytest.param("\\\\other.test/f", id="N47-backslashes"),
        pytest.param("http://127.0.0.1\\@other.test/", id="N47-backslash-at"),
        pytest.param("http://[::1/f", id="broken-host"),
        pytest.param("http://h:99999/", id="broken-port"),
        pytest.param("/a b", id="space"),
        pytest.param("/\xff", id="not-utf8"),
    ],
)
def test_a_redirect_that_parsers_disagree_about_is_refused(net, server, location):
    head = ["HTTP/1.1 302 Found", f"Location: {location}", "Content-Length: 0"]
    server.routes["/a"] = answer(head)

    error = failure(net, server.url("/a"))

    assert error.code == "bad_response"
    assert "secret" not in error.reason
    assert len(server.requests) == 1


def test_n46_an_encoded_line_end_in_a_redirect_stays_encoded(net, server):
    server.routes["/a"] = redirect("/f%0d%0aX:%20y")

    failure(net, server.url("/a"))

    assert server.requests[1].target.lower() == "/f%0d%0ax:%20y"
    assert server.requests[1].header("X") is None


def test_a_redirect_with_an_utf8_path_is_followed(net, server):
    server.routes["/a"] = answer(["HTTP/1.1 302 Found", "Location: /\xc3\xa4", "Content-Length: 0"])
    server.routes["/%C3%A4"] = file(BODY)

    assert fetch(net, server.url("/a"))[0] == BODY


@pytest.mark.parametrize("lines", [[], ["Location: /f", "Location: /g"]], ids=["N18-no", "two"])
def test_a_redirect_that_does_not_say_where_to_is_a_bad_response(net, server, lines):
    server.routes["/a"] = answer(["HTTP/1.1 302 Found", *lines])

    assert failure(net, server.url("/a")).code == "bad_response"


# ---------------------------------------------------------------- addresses and names


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="N45-loopback"),
        pytest.param("169.254.169.254", id="N45-metadata"),
        pytest.param("10.0.0.1", id="N45-private"),
        pytest.param("[::ffff:127.0.0.1]", id="N45-mapped"),
        pytest.param("[64:ff9b::7f00:1]", id="N45-nat64"),
        pytest.param("[2002:7f00:1::]", id="N45-6to4"),
        pytest.param("inside.test", id="name"),
    ],
)
def test_a_redirect_to_a_denied_address_makes_no_connection(make, server, host):
    dialer = Names(files_test=["127.0.0.1"], inside_test=["192.168.1.1"])
    net = make([f"files.test:{server.port}"], dialer=dialer)
    server.routes["/a"] = redirect(f"http://{host}:{server.port}/f")

    error = failure(net, f"http://files.test:{server.port}/a")

    assert error.code == "address_denied"
    assert len(dialer.dialled) == 1


def test_trap_12_the_judged_address_is_the_dialled_one(make, server):
    server.routes["/f"] = file(BODY)
    dialer = Names(files_test=["10.0.0.1", "127.0.0.1", "169.254.169.254"])
    net = make(["loopback"], dialer=dialer)

    body, _ = fetch(net, f"http://files.test:{server.port}/f")

    assert body == BODY
    assert dialer.resolved == ["files.test"]
    assert dialer.dialled == ["127.0.0.1"]
    assert server.requests[0].header("Host") == f"files.test:{server.port}"


def test_the_next_address_is_tried_when_one_refuses(make, server):
    server.routes["/f"] = file(BODY)
    net = make(dialer=Names(files_test=["127.0.0.2", "127.0.0.1"]))

    assert fetch(net, f"http://files.test:{server.port}/f")[0] == BODY


def test_a_peer_that_is_not_the_one_dialled_is_refused(make, server):
    class Liar(Names):
        def connect(self, family, address, port, timeout_s):
            return super().connect(socket.AF_INET, "127.0.0.1", port, timeout_s)

    net = make(["public"], dialer=Liar(files_test=["93.184.216.34"]))

    assert failure(net, f"http://files.test:{server.port}/f").code == "address_denied"
    assert not server.requests


def test_a_name_that_nobody_knows_is_a_transient_failure(make):
    error = failure(make(dialer=Names()), "http://nowhere.test/f")

    assert (error.code, error.transient) == ("dns_failed", True)
    assert "nowhere.test" in error.reason


def test_trap_12_a_look_up_that_hangs_ends_with_the_time_for_connecting(make):
    release = threading.Event()

    class Hanging(Names):
        def resolve(self, host, port, timeout_s):
            release.wait(10)
            return []

    net = make(dialer=Hanging())
    began_s = time.monotonic()

    error = failure(net, "http://slow.test/f", connect_s=0.2)

    release.set()
    assert error.code == "dns_failed"
    assert time.monotonic() - began_s < 2


def test_a_look_up_that_hangs_is_left_when_the_attempt_is_not_wanted(make):
    release = threading.Event()

    class Hanging(Names):
        def resolve(self, host, port, timeout_s):
            release.wait(10)
            return []

    net = make(dialer=Hanging())

    with pytest.raises(NotWanted):
        net.open(ask("http://slow.test/f"), lambda: False)

    release.set()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://h/f", "scheme_denied"),
        ("file:///etc/passwd", "scheme_denied"),
        ("http://a\\@b/", "bad_item"),
        ("http://me:secret@h/", "bad_item"),
        ("http://h/a b", "bad_item"),
    ],
)
def test_a_url_that_cannot_be_fetched_fails_for_good(net, url, code):
    error = failure(net, url)

    assert (error.code, error.transient) == (code, False)
    assert "secret" not in error.reason


@pytest.mark.parametrize("value", ["a\r\nX: y", "\u2603"])
def test_a_header_that_cannot_be_sent_fails_for_good(net, server, value):
    error = failure(net, server.url("/f"), headers=(("X-Client", value),))

    assert (error.code, error.transient) == ("bad_item", False)
    assert not server.requests


def test_an_origin_whose_connections_were_given_up_for_others_is_asked_again(make):
    with Server({"/f": file(BODY)}, address="0.0.0.0") as server:
        net = make()
        for _ in range(2):
            for number in range(1, 41):
                got, _ = fetch(net, f"http://127.0.0.{number}:{server.port}/f")
                assert got == BODY


# ---------------------------------------------------------------- TLS


def test_a_file_arrives_over_tls_on_a_kept_connection(make_both, tmp_path):
    tls, ca = certificates(tmp_path)
    with Server({"/f": file(BODY), "/c": file(BODY, chunked=999)}, tls=tls) as server:
        net = make_both(ca=ca)

        bodies = [fetch(net, server.url(path))[0] for path in ("/f", "/c", "/f")]

        assert bodies == [BODY] * 3
        assert server.connections == 1


def test_n27_a_certificate_of_an_unknown_authority_is_refused(make_both, tmp_path):
    tls, _ = certificates(tmp_path)
    with Server({"/f": file(BODY)}, tls=tls) as server:
        error = failure(make_both(), server.url("/f"))

    assert (error.code, error.transient) == ("tls_failed", False)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        pytest.param(["other.test"], {}, id="N27-wrong-host"),
        pytest.param(
            [],
            {"not_after": dt.datetime(2021, 1, 1, tzinfo=dt.UTC)},
            id="N27-expired",
        ),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(make_both, tmp_path, names, options):
    tls, ca = certificates(tmp_path, *names, **options)
    with Server({"/f": file(BODY)}, tls=tls) as server:
        error = failure(make_both(ca=ca), server.url("/f"))

        assert (error.code, error.transient) == ("tls_failed", False)
        assert not server.requests


def test_n27_a_handshake_that_stalls_ends_with_the_time_for_connecting(net):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        began_s = time.monotonic()

        error = failure(net, url, connect_s=0.2)

    assert (error.code, error.transient) == ("tls_broken", True)
    assert time.monotonic() - began_s < 2


def test_a_handshake_that_nobody_wants_any_more_is_left(net):
    wish = Wish()
    gone = threading.Event()

    def serve():
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            wish.end()
            gone.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        began_s = time.monotonic()

        with pytest.raises(NotWanted):
            net.open(ask(f"https://127.0.0.1:{listener.getsockname()[1]}/"), wish)

        gone.set()
        thread.join(5)
    assert time.monotonic() - began_s < 2


def test_n27_a_handshake_that_is_cut_is_a_transient_failure(net):
    with answering_once(b"") as port:
        error = failure(net, f"https://127.0.0.1:{port}/")

    assert (error.code, error.transient) == ("tls_broken", True)


@contextmanager
def answering_once(data):
    """Yield the port of a server that sends these bytes to its first client and hangs up."""

    def serve():
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_a_server_without_tls_on_an_https_url_is_refused(net):
    with answering_once(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = failure(net, f"https://127.0.0.1:{port}/")

    assert (error.code, error.transient) == ("tls_failed", False)


def test_n27_an_end_without_farewell_is_judged_by_the_length(make_both, tmp_path):
    tls, ca = certificates(tmp_path)
    routes = {"/f": file(BODY, cut_after=1000), "/g": answer([OK], BODY)}
    with Server(routes, tls=tls) as server:
        net = make_both(ca=ca)

        assert failure(net, server.url("/f")).code == "short_body"
        body, stream = fetch(net, server.url("/g"))
        assert (body, stream.framed) == (BODY, False)


def test_an_unreadable_ca_file_is_told_by_its_path(make, tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")

    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        with pytest.raises(ConfigError, match=r"network\.ca") as caught:
            make(ca=str(path))
        assert str(path) in str(caught.value)


# ---------------------------------------------------------------- proxies


def test_a_proxy_is_asked_for_the_whole_url_and_may_be_anywhere(make):
    with Server(fallback=file(BODY)) as proxy:
        net = make(["public"], proxy=f"http://me:pw@127.0.0.1:{proxy.port}")

        body, _ = fetch(net, "http://files.test/f")

        assert body == BODY
        assert proxy.requests[0].target == "http://files.test/f"
        assert proxy.requests[0].header("Proxy-Authorization") is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "[::ffff:10.0.0.1]"])
def test_a_proxy_is_never_asked_for_a_denied_address(make, host):
    with Server(fallback=file(BODY)) as proxy:
        net = make(["public"], proxy=proxy.origin)

        assert failure(net, f"http://{host}/f").code == "address_denied"
        assert failure(net, f"https://{host}/f").code == "address_denied"
        assert not proxy.requests


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "[::ffff:10.0.0.1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_n45_a_proxy_is_not_asked_for_where_a_redirect_may_not_lead(make, scheme, host):
    with Server(fallback=redirect(f"{scheme}://{host}/f")) as proxy:
        net = make(["public"], proxy=proxy.origin)

        assert failure(net, "http://files.test/f").code == "address_denied"
        assert len(proxy.requests) == 1


def test_a_tunnel_that_a_proxy_does_not_open_ends_with_the_time_for_connecting(make):
    with Server(fallback=stalled()) as proxy:
        net = make(["public"], proxy=proxy.origin)
        began_s = time.monotonic()

        error = failure(net, "https://files.test/f", connect_s=0.2)

    assert (error.code, error.transient) == ("proxy_failed", True)
    assert time.monotonic() - began_s < 2


def test_the_wish_for_a_password_is_a_proxys_own_unless_it_came_through_a_tunnel(
    make_both, tmp_path
):
    tls, ca = certificates(tmp_path)
    with Server(fallback=status(407), tls=tls) as server:
        error = failure(make_both(ca=ca), server.url("/f"))

    assert (error.code, error.transient) == ("bad_status", False)


@pytest.mark.parametrize("url", ["http://files.test/f", "https://files.test/f"])
@pytest.mark.parametrize(
    ("route", "transient"),
    [
        pytest.param(status(407), False, id="N28-407"),
        pytest.param(raw(b""), True, id="N28-dies"),
    ],
)
def test_a_proxy_that_fails_is_told_without_its_password(make, url, route, transient):
    with Server(fallback=route) as proxy:
        net = make(["public"], proxy=f"http://me:hunter2@127.0.0.1:{proxy.port}")

        error = failure(net, url)

    if url.startswith("https") or not transient:
        assert (error.code, error.transient) == ("proxy_failed", transient)
    assert "hunter2" not in error.reason


def test_a_proxy_that_is_down_is_told(make):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    net = make(["public"], proxy=f"http://127.0.0.1:{port}")

    assert failure(net, "http://files.test/f").code == "proxy_failed"


def test_a_tunnel_through_a_proxy_carries_tls_to_the_target(make, tmp_path):
    tls, ca = certificates(tmp_path, "files.test")
    with Server({"/f": file(BODY)}, tls=tls) as target, Server(fallback=forward) as proxy:
        net = make(["public"], proxy=proxy.origin, ca=ca)

        assert fetch(net, f"https://files.test:{target.port}/f")[0] == BODY

        assert proxy.requests[0].method == "CONNECT"
        assert proxy.requests[0].target == f"files.test:{target.port}"


@pytest.mark.parametrize("proxy", ["https://h:1", "socks5://h:1", "h:1", "http://", "http://h:x"])
def test_a_proxy_of_another_kind_is_an_error_of_the_configuration(make, proxy):
    with pytest.raises(ConfigError, match=r"network\.proxy"):
        make(proxy=proxy)


# ---------------------------------------------------------------- many at once


def test_streams_of_many_threads_do_not_disturb_each_other(make_both):
    bodies = {f"/{n}": content(n, 50_000 + n) for n in range(12)}
    routes = {path: flapping(status(503), file(body)) for path, body in bodies.items()}
    with Server(routes) as server:
        net = make_both(workers=4)
        got = {}

        def work(paths):
            for path in paths:
                with suppress(AttemptError):
                    fetch(net, server.url(path))
                got[path] = fetch(net, server.url(path))[0]

        threads = [threading.Thread(target=work, args=(list(bodies)[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert got == bodies
