"""Digest handshakes with a server that checks them, and what an origin's settings are made of."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faults.digest_server import DigestServer
from faults.server import Authority, Server, certificates, content, file, redirect, status
from fetchd import transports
from fetchd.clock import SystemClock
from fetchd.errors import AttemptError, ConfigError
from fetchd.ports import Heard, Request
from fetchd.secrets import Secret, hide
from fetchd.transports.access import Access, Login, Tls, access_of, proxy_url
from fetchd.transports.connections import tls_context
from fetchd.transports.http import _Adapters
from fetchd.transports.resolver import SystemDialer

BODY = content("access", 20_000)
USER, PASSWORD = "fetch-robot", 'pass word \\ "with" ällem'


@pytest.fixture
def make():
    built = []

    def build(origins, **options):
        usual: dict[str, Any] = {
            "proxy": None,
            "ca": None,
            "redirects": 3,
            "workers": 4,
            "clock": SystemClock(),
        }
        built.append(transports.build(["loopback"], origins=origins, **(usual | options)))
        return built[-1]

    yield build
    for each in built:
        each.close()


def digest_for(server, password=PASSWORD):
    return {server.origin: Access(digest=Login(USER, Secret("PASSWORD", password)))}


def got(net, url, **options):
    stream = net.open(Request(url=url, connect_s=5.0, stall_s=5.0, **options), lambda: True)
    buffer, data = memoryview(bytearray(65536)), b""
    while count := stream.readinto(buffer):
        data += bytes(buffer[:count])
    stream.close()
    return data


def statuses(server):
    return [request.status for request in server.requests]


# ---------------------------------------------------------------- digest


@pytest.mark.parametrize("algorithm", ["", "MD5", "MD5-sess", "SHA-256", "SHA-256-sess"])
@pytest.mark.parametrize("qop", ["auth", None])
def test_a_digest_is_proven_within_the_attempt_and_its_nonce_used_again(make, algorithm, qop):
    if qop is None and algorithm:
        algorithm = algorithm.removesuffix("-sess")  # RFC 2069 knows no sessions
    routes = {"/a": file(BODY), "/b c": file(BODY)}
    with DigestServer(routes, USER, PASSWORD, algorithm=algorithm, qop=qop) as server:
        server.lasts = 1 if qop is None else 100
        net = make(digest_for(server))

        assert [got(net, server.url("/a?x=%20y")) for _ in range(3)] == [BODY] * 3

    assert statuses(server) == ([401, 200] * 3 if qop is None else [401, 200, 200, 200])


def test_a_stale_nonce_is_answered_by_a_fresh_one(make):
    with DigestServer({"/a": file(BODY)}, USER, PASSWORD, lasts=2) as server:
        net = make(digest_for(server))

        assert [got(net, server.url("/a")) for _ in range(5)] == [BODY] * 5

    assert statuses(server) == [401, 200, 200, 401, 200, 200, 401, 200]


def test_a_server_that_has_forgotten_its_nonces_is_answered_again(make):
    with DigestServer({"/a": file(BODY)}, USER, PASSWORD) as server:
        net = make(digest_for(server))
        got(net, server.url("/a"))
        server._nonces.clear()  # and so it does not say stale

        assert got(net, server.url("/a")) == BODY

    assert statuses(server) == [401, 200, 401, 200]


def test_a_wrong_password_is_told_to_nobody_twice(make):
    with DigestServer({"/a": file(BODY)}, USER, "another") as server:
        net = make(digest_for(server))
        for _ in range(2):
            with pytest.raises(AttemptError, match="401 Unauthorized") as caught:
                got(net, server.url("/a"))
            assert (caught.value.code, caught.value.transient) == ("bad_status", False)

    assert statuses(server) == [401, 401, 401, 401]


def test_a_server_that_finds_every_answer_stale_is_left(make):
    with DigestServer({"/a": file(BODY)}, USER, PASSWORD, lasts=0) as server:
        net = make(digest_for(server))

        with pytest.raises(AttemptError, match="401"):
            got(net, server.url("/a"))

    assert statuses(server) == [401, 401, 401, 401]


def test_among_other_schemes_the_digest_is_found(make):
    also = ["Negotiate", 'Basic realm="Digest, not", Bearer realm="y"']
    with DigestServer({"/a": file(BODY)}, USER, PASSWORD, also=also) as server:
        assert got(make(digest_for(server)), server.url("/a")) == BODY


def test_a_server_that_wants_another_scheme_never_gets_the_password(make):
    with Server({"/a": status(401, headers=[("WWW-Authenticate", "Basic realm=x")])}) as server:
        with pytest.raises(AttemptError, match="401"):
            got(make(digest_for(server)), server.url("/a"))

        assert [request.header("Authorization") for request in server.requests] == [None]


def test_many_threads_use_one_nonce_each_count_once(make):
    with DigestServer({"/a": file(BODY)}, USER, PASSWORD) as server:
        net = make(digest_for(server), workers=8)
        got(net, server.url("/a"))
        with ThreadPoolExecutor(8) as pool:
            bodies = list(pool.map(lambda _: got(net, server.url("/a")), range(80)))

    assert bodies == [BODY] * 80
    assert statuses(server).count(401) == 1


# ---------------------------------------------------------------- origins


class Home(SystemDialer):
    """Knows this machine by every name."""

    def resolve(self, host, port, timeout_s):
        return [(socket.AF_INET, "127.0.0.1")]


def keyed(origin):
    value = Secret("KEY", "key-of-the-origin")
    return {origin: Access(headers=(("X-API-Key", value),))}


@pytest.mark.parametrize("configured", ["bücher.test", "xn--bcher-kva.test"])
@pytest.mark.parametrize("asked", ["bücher.test", "xn--bcher-kva.test", "XN--Bcher-kva.TEST"])
def test_an_origin_is_known_in_every_spelling_of_its_host(make, configured, asked):
    with Server({"/a": file(BODY)}) as server:
        net = make(keyed(f"http://{configured}:{server.port}"), dialer=Home())

        assert got(net, f"http://{asked}:{server.port}/a") == BODY

    assert server.requests[0].header("X-Api-Key") == "key-of-the-origin"


@pytest.mark.parametrize(
    "asked", ["h.test.", "a.h.test", "h.tes", "xh.test", "h.test.evil.test", "127.0.0.1"]
)
def test_n44_a_host_that_only_resembles_an_origins_is_another(make, asked):
    with Server({"/a": file(BODY)}) as server:
        net = make(keyed(f"http://h.test:{server.port}"), dialer=Home())

        assert got(net, f"http://{asked}:{server.port}/a") == BODY

    assert server.requests[0].header("X-Api-Key") is None


def test_a_cookie_of_the_operator_stands_beside_those_that_a_server_sets(make):
    with Server({"/b": file(BODY)}) as server:
        server.routes["/a"] = status(302, headers=[("Location", "/b"), ("Set-Cookie", "of=server")])
        value = Secret("COOKIE", "of=operator")

        got(make({server.origin: Access(headers=(("cookie", value),))}), server.url("/a"))

    assert [request.header("Cookie") for request in server.requests] == [
        "of=operator",
        "of=operator; of=server",
    ]


def test_an_origin_that_is_no_host_is_an_error_of_the_configuration(make):
    with pytest.raises(ConfigError, match=r"origins\.https://☃\.x:443: this is not a host"):
        make(keyed("https://☃.x:443"))


def test_two_spellings_of_one_host_are_an_error_of_the_configuration(make):
    with pytest.raises(ConfigError, match=r"origins\.http://xn--bcher-kva\.test:80: stands there"):
        make(keyed("http://bücher.test:80") | keyed("http://xn--bcher-kva.test:80"))


# ---------------------------------------------------------------- settings


def access(**options):
    usual: dict[str, Any] = {"basic": None, "digest": None, "bearer": None, "headers": {}}
    return access_of(**(usual | {"tls": Tls(), "proxy": None, "place": "origins.h"} | options))


def test_basic_and_bearer_are_of_the_form_of_their_rfc():
    basic = access(basic=Login("Aladdin", Secret("S", "open sesame")))
    bearer = access(bearer=Secret("S", "mF_9.B5f-4.1JqM"))

    assert [v.reveal() for _, v in basic.headers] == ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]
    assert [v.reveal() for _, v in bearer.headers] == ["Bearer mF_9.B5f-4.1JqM"]
    assert hide("QWxhZGRpbjpvcGVuIHNlc2FtZQ==") == "(hidden)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bearer": Secret("S", "not a token")}, "origins.h.auth.bearer: the secret S is not"),
        (
            {"headers": {"X-K": Secret("S", " padded")}},
            "origins.h.headers.X-K: the secret S cannot",
        ),
        ({"headers": {"X-K": Secret("S", "für Elise")}}, "printable ASCII"),
    ],
)
def test_a_secret_that_cannot_be_sent_is_an_error_of_the_configuration(options, message):
    with pytest.raises(ConfigError) as caught:
        access(**options)

    assert message in str(caught.value)
    assert not any(word in str(caught.value) for word in ("not a token", "padded", "Elise"))


def test_a_proxys_password_is_quoted_and_hidden():
    url = proxy_url("http://p.lan:3128", Login("me", Secret("S", "s/l@sh:ed")))

    assert url == "http://me:s%2Fl%40sh%3Aed@p.lan:3128"
    assert hide(url) == "http://me:(hidden)@p.lan:3128"


def test_t6_connections_are_shared_only_under_the_same_rules(tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.client(tmp_path)
    adapters = _Adapters(2)

    def get(proxy=None, **tls):
        return adapters.get(Tls(**tls), proxy, "t", "p")

    plain, trusted = get(), get(ca=authority.ca)
    known = get(ca=authority.ca, cert=cert, key=key)
    by_proxy = get(ca=authority.ca, proxy="http://p:1")

    assert len({plain, trusted, known, by_proxy}) == 4
    assert get(ca=authority.ca) is trusted
    adapters.close()


@pytest.fixture
def files(tmp_path):
    """Return a function from a word to the path of such a file."""
    authority = Authority(tmp_path)
    cert, key = authority.client(tmp_path)
    (tmp_path / "other").mkdir()
    _, other_key = authority.client(tmp_path / "other")
    (tmp_path / "rubbish").write_text("rubbish")
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    (tmp_path / "locked").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    known = {"cert": cert, "key": key, "other key": other_key, "ca": authority.ca}
    known |= {"folder": str(tmp_path), "none": str(tmp_path / "none"), None: None}
    return lambda word: known.get(word, str(tmp_path / str(word)))


@pytest.mark.parametrize(
    ("ca", "cert", "key", "message"),
    [
        ("none", None, None, "origins.h.tls.ca: PATH cannot be read: no such file or directory"),
        ("rubbish", None, None, "origins.h.tls.ca: PATH holds no certificate in PEM form"),
        ("ca", "none", "key", "origins.h.tls.cert: PATH cannot be read"),
        ("ca", "rubbish", "key", "origins.h.tls.cert: PATH holds no certificate"),
        ("ca", "folder", "key", "origins.h.tls.cert: PATH is a folder"),
        ("ca", "key", "key", "origins.h.tls.cert: PATH holds no certificate"),
        ("ca", "cert", "none", "origins.h.tls.key: PATH cannot be read"),
        ("ca", "cert", "folder", "origins.h.tls.key: PATH is a folder"),
        ("ca", "cert", "rubbish", "origins.h.tls.key: PATH holds no private key"),
        (
            "ca",
            "cert",
            "locked",
            "origins.h.tls.key: PATH holds no private key in PEM form without",
        ),
        ("ca", "cert", "other key", "origins.h.tls.key: PATH is not the key of"),
        ("ca", "cert", None, "origins.h.tls.cert: PATH holds no private key"),
    ],
)
def test_a_wrong_file_of_tls_is_told_with_its_key(files, ca, cert, key, message):
    with pytest.raises(ConfigError) as caught:
        tls_context(Tls(ca=files(ca), cert=files(cert), key=files(key)), "origins.h.tls")

    wrong = ca if ca != "ca" else key if ".key:" in message else cert
    assert str(caught.value).startswith(message.replace("PATH", files(wrong)))


def test_right_files_of_tls_are_taken(files):
    assert isinstance(
        tls_context(Tls(ca=files("ca"), cert=files("cert"), key=files("key"))), ssl.SSLContext
    )


def test_the_proxys_password_stays_out_of_the_tunnel_and_the_origins_in_it(make, tmp_path):
    tls, ca = certificates(tmp_path)
    with Server({"/f": file(BODY)}, tls=tls) as target:

        def tunnel(exchange):
            with socket.create_connection(("127.0.0.1", target.port)) as onward:
                exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pumped, args=(onward, exchange.sock), daemon=True)
                back.start()
                pumped(exchange.sock, onward)
                back.join(5)
            exchange.close()

        with Server(fallback=tunnel) as proxy:
            login = Login("me", Secret("P", "proxy-word"))
            net = make(
                {
                    target.origin: access_of(
                        basic=None,
                        digest=None,
                        bearer=Secret("T", "token-word"),
                        headers={},
                        tls=Tls(ca=ca),
                        proxy=proxy_url(proxy.origin, login),
                        place="",
                    )
                }
            )

            assert got(net, target.url("/f")) == BODY

            net.close()
            (asked,), (carried,) = proxy.requests, target.requests
            assert asked.method == "CONNECT"
            assert asked.header("Proxy-Authorization") == "Basic bWU6cHJveHktd29yZA=="
            assert asked.header("Authorization") is None
            assert carried.header("Authorization") == "Bearer token-word"
            assert carried.header("Proxy-Authorization") is None


def pumped(source, sink):
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_each_answer_on_the_way_is_heard_of_and_what_it_was_not_sent(make):
    with Server() as first, Server() as other:
        other.routes["/c"] = redirect(first.url("/d"), 302)
        first.routes |= {
            "/a": redirect(first.url("/b?key=k3y"), 301),
            "/b": redirect(other.url("/c"), 307),
            "/d": file(BODY),
            "/none": status(404),
        }
        given = Access(headers=(("X-Token", Secret("token", "t0ken-of-first")),))
        net = make({first.origin: given})
        heard: list[Heard] = []

        got(net, first.url("/a"), heard=heard.append)
        with pytest.raises(AttemptError, match="404"):
            got(net, first.url("/none"), heard=heard.append)

        assert [(one.url, one.status, one.withheld) for one in heard] == [
            (first.url("/a"), 301, False),
            (first.url("/b?..."), 307, False),
            (other.url("/c"), 302, True),
            (first.url("/d"), 200, False),
            (first.url("/none"), 404, False),
        ]


def test_headers_of_a_job_are_heard_of_as_withheld_from_another_origin(make):
    with Server() as first, Server({"/b": file(BODY)}) as other:
        first.routes["/a"] = redirect(other.url("/b"), 302)
        heard: list[Heard] = []

        got(make({}), first.url("/a"), heard=heard.append, headers=(("X-Job", "lab"),))

        assert [one.withheld for one in heard] == [False, True]
        assert other.requests[0].header("X-Job") is None
