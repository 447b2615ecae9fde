"""What the operator gives to one origin never reaches another one (N44 to N48, P16, P17)."""

from __future__ import annotations

import base64
import itertools
import json
import random
import ssl
from contextlib import ExitStack

import pytest

from faults.digest_server import DigestServer
from faults.rig import BODY, HALF, NEXT, Trial, recovered, refused
from faults.server import Authority, Handler, Server, file, raw, redirect, status
from fetchd import events, transports
from fetchd.clock import SystemClock
from fetchd.errors import AttemptError
from fetchd.ports import Request
from fetchd.secrets import Secret
from fetchd.transports.access import Access, Login, Tls, access_of
from fetchd.transports.resolver import SystemDialer

CANARY = "c4nary-of-Rel"
OTHER = "c4nary-of-Else"
BASIC = base64.b64encode(f"robot:{CANARY}".encode()).decode()


@pytest.fixture
def secret(tmp_path):
    """Return the settings of the two secrets ONE and TWO."""
    places = {}
    for name, value in (("ONE", CANARY), ("TWO", OTHER)):
        path = tmp_path / name
        path.write_text(value + "\n")
        path.chmod(0o600)
        places[name] = {"file": str(path)}
    return {"secrets": json.dumps(places)}


def origins(**settings):
    """Return the setting of origins; ``https___h_1`` cannot be a keyword, so pairs are given."""
    return {"origins": json.dumps(settings)}


def told(ended):
    return [(event.origin, event.other) for event in ended.of(events.CredentialsWithheld)]


def shows(server, *words):
    """Tell whether a word stands in anything that the server was sent."""
    sent = b"".join(request.raw for request in server.requests)
    return any(word.encode() in sent for word in words)


WAYS = {
    "basic": {"auth": {"basic": {"user": "robot", "password": "ONE"}}},
    "bearer": {"auth": {"bearer": "ONE"}},
    "key": {"headers": {"X-API-Key": "ONE"}},
    "cookie": {"headers": {"Cookie": "ONE"}},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_an_origin_is_given_never_reaches_another(rig, secret, detour, way):
    ended = rig.get(
        f"url: {detour.origin}/f.bin\n",
        {"network.ca": detour.ca, **secret, **origins(**{detour.origin: WAYS[way]})},
    )

    assert recovered(ended)
    first, last = detour.requests
    assert (BASIC if way == "basic" else CANARY).encode() in first.raw
    assert CANARY.encode() not in last.raw
    assert BASIC.encode() not in last.raw
    assert last.header("Authorization") is last.header("Cookie") is None
    assert told(ended) == [(detour.origin, detour.other)]


def test_n44_a_digest_is_proven_to_its_own_origin_alone(rig, secret):
    with DigestServer({"/f.bin": file(BODY)}, "robot", CANARY) as first, Server() as other:
        first.behind["/f.bin"] = redirect(other.url("/g.bin"))
        other.routes["/g.bin"] = file(BODY)
        auth = {"digest": {"user": "robot", "password": "ONE"}}

        ended = rig.get(
            f"url: {first.url('/f.bin')}\n", {**secret, **origins(**{first.origin: {"auth": auth}})}
        )

    assert recovered(ended)
    assert [request.status for request in first.requests] == [401, 302]
    assert other.requests[0].header("Authorization") is None
    assert not shows(first, CANARY)


def test_n44_another_configured_origin_gets_what_is_its_own(rig, secret):
    with Server() as first, Server({"/g.bin": file(BODY)}) as second:
        first.routes["/f.bin"] = redirect(second.url("/g.bin"))
        both = {
            first.origin: {"auth": {"bearer": "ONE"}, "headers": {"X-API-Key": "ONE"}},
            second.origin: {"auth": {"bearer": "TWO"}},
        }

        ended = rig.get(f"url: {first.url('/f.bin')}\n", {**secret, **origins(**both)})

    assert recovered(ended)
    assert first.requests[0].header("Authorization") == f"Bearer {CANARY}"
    assert second.requests[0].header("Authorization") == f"Bearer {OTHER}"
    assert not shows(second, CANARY)


def test_n44_netrc_is_read_for_a_configured_origin_alone(rig, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login robot password {CANARY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Server() as home, Server({"/g.bin": file(BODY)}) as abroad:
        home.routes["/f.bin"] = redirect(abroad.url("/g.bin"))

        ended = rig.get(f"url: {home.url('/f.bin')}\n", origins(**{home.origin: {"netrc": "true"}}))

    assert recovered(ended)
    assert home.requests[0].header("Authorization") == f"Basic {BASIC}"
    assert abroad.requests[0].header("Authorization") is None


def test_n44_there_and_back_again_it_is_given_at_home_only(rig, secret):
    with Server() as home, Server() as abroad:
        home.routes |= {"/f.bin": redirect(abroad.url("/x")), "/g.bin": file(BODY)}
        abroad.routes["/x"] = redirect(home.url("/g.bin"))

        ended = rig.get(
            f"url: {home.url('/f.bin')}\n",
            {**secret, **origins(**{home.origin: {"auth": {"bearer": "ONE"}}})},
        )

    assert recovered(ended)
    assert [CANARY.encode() in request.raw for request in home.requests] == [True, True]
    assert not shows(abroad, CANARY)


def test_n44_that_something_was_withheld_is_told_once_for_all_files(rig, secret):
    with Server() as home, Server(fallback=file(BODY)) as abroad:
        home.fallback = lambda exchange: redirect(abroad.url(exchange.request.path))(exchange)

        ended = rig.get(
            f"base: {home.origin}/\nurls: [a, b, c, d, e, f]\n",
            {**secret, **origins(**{home.origin: {"auth": {"bearer": "ONE"}}})},
        )

    assert ended.state == "succeeded"
    assert told(ended) == [(home.origin, abroad.origin)]


def test_n44_what_is_for_https_is_not_sent_by_http(rig, names, secret):
    names["files.test"] = "127.0.0.1"
    with Server({"/f.bin": file(BODY)}) as plain:
        mine = f"https://files.test:{plain.port}"

        ended = rig.get(
            f"url: http://files.test:{plain.port}/f.bin\n",
            {**secret, **origins(**{mine: {"auth": {"bearer": "ONE"}}})},
        )

    assert recovered(ended)
    assert not shows(plain, CANARY)


def test_n44_a_header_of_the_job_cannot_stand_in_for_the_operators(rig, secret, server):
    server.routes["/f.bin"] = file(BODY)

    ended = rig.get(
        f"url: {server.url('/f.bin')}\nheaders: {{ x-api-KEY: mine }}\n",
        {**secret, **origins(**{server.origin: {"headers": {"X-API-Key": "ONE"}}})},
    )

    assert recovered(ended)
    assert [v for k, v in server.requests[0].headers if k.lower() == "x-api-key"] == [CANARY]


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.2", id="N45-loopback"),
        pytest.param("169.254.169.254", id="N45-metadata"),
        pytest.param("10.0.0.1", id="N45-private"),
        pytest.param("[::ffff:127.0.0.2]", id="N45-mapped"),
        pytest.param("[64:ff9b::7f00:1]", id="N45-nat64"),
        pytest.param("[2002:7f00:1::1]", id="N45-6to4"),
    ],
)
def test_a_configured_origin_is_no_address_that_may_be_reached(rig, secret, monkeypatch, host):
    dialled = []

    class Dials(SystemDialer):
        def connect(self, family, address, port, timeout_s):
            dialled.append(address)
            return super().connect(family, address, port, timeout_s)

    monkeypatch.setattr(transports, "SystemDialer", Dials)
    with Server() as server:
        server.routes["/f.bin"] = redirect(f"http://{host}/g.bin")
        both = {server.origin: WAYS["bearer"], f"http://{host}": {"auth": {"bearer": "TWO"}}}

        ended = rig.get(
            f"url: {server.url('/f.bin')}\n",
            {"network.allow": f'["127.0.0.1:{server.port}"]', **secret, **origins(**both)},
        )

    assert refused(ended, "address_denied")
    assert dialled == ["127.0.0.1"]


@pytest.fixture
def trusted(trial, secret):
    """Return a trial whose origin gets a bearer token, and the settings that say so."""
    return trial, {**secret, **origins(**{trial.server.origin: WAYS["bearer"]})}


def test_n46_encoded_line_ends_bring_no_header_beside_the_credential(trusted):
    trial, settings = trusted
    trial.server.fallback = file(BODY)

    ended = trial.meet(redirect("/g%0d%0aAuthorization:%20y"), settings=settings)

    assert recovered(ended)
    assert [v for k, v in trial.requests[1].headers if k == "Authorization"] == [f"Bearer {CANARY}"]


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("/g.bin\rX-Evil: y", id="N46-cr-lf"),
        pytest.param("/" + "x" * 100_000, id="N46-100-kB"),
    ],
)
def test_a_place_that_breaks_the_head_gets_no_credential(trusted, place):
    trial, settings = trusted
    head = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
    hostile = raw(head.encode(), "keep")

    ended = trial.meet(hostile, hostile, settings=settings)

    assert refused(ended, *["bad_response"] * 3)
    assert CANARY not in ended.reason
    assert {request.target for request in trial.requests} == {"/f.bin"}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("http://me:{canary}@127.0.0.1:{port}/g.bin", id="N47-userinfo"),
        pytest.param("\\\\127.0.0.1:{port}/g.bin", id="N47-backslashes"),
        pytest.param("http://127.0.0.1:{port}\\@127.0.0.2/g.bin", id="N47-backslash-at"),
    ],
)
def test_a_place_that_parsers_read_differently_gets_no_credential(trusted, place):
    trial, settings = trusted
    with Server(fallback=file(BODY)) as other:
        hostile = redirect(place.format(port=other.port, canary=CANARY))

        ended = trial.meet(hostile, hostile, settings=settings)

    assert refused(ended, "bad_response")
    assert CANARY not in ended.reason
    assert not other.requests


def test_n47_two_slashes_lead_to_another_origin_without_the_credential(trusted):
    trial, settings = trusted
    with Server({"/g.bin": file(BODY)}) as other:
        ended = trial.meet(redirect(f"//127.0.0.1:{other.port}/g.bin"), settings=settings)

    assert recovered(ended)
    assert not shows(other, CANARY)


@pytest.mark.parametrize(
    ("moved", "body", "start"),
    [
        pytest.param(file(NEXT), NEXT, 0, id="N48-other-version"),
        pytest.param(file(BODY), BODY, HALF, id="N48-same-version"),
    ],
)
def test_a_resumed_file_that_has_moved_is_asked_for_without_the_credential(
    rig, secret, moved, body, start
):
    rig.whole = {BODY, NEXT}
    with Server() as home, Server() as one, Server({"/g.bin": moved}) as two:
        settings = {**secret, **origins(**{home.origin: WAYS["key"]})}
        trial = Trial(rig, home, resumed=False)
        one.routes["/g.bin"] = file(BODY, cut_after=HALF)
        trial.keep(trial.source, redirect(one.url("/g.bin")), settings)
        home.routes["/f.bin"] = redirect(two.url("/g.bin"))

        ended = rig.get(trial.source, settings)

    assert recovered(ended, body=body)
    assert ended.view.resumed_from_bytes == start
    assert two.requests[0].header("If-Range") is not None
    assert all(CANARY.encode() in request.raw for request in home.requests)
    assert not shows(one, CANARY)
    assert not shows(two, CANARY)


# ---------------------------------------------------------------- wrong ones


@pytest.mark.parametrize("way", ["basic", "bearer", "key"])
def test_n24_401_to_a_credential_is_final(trusted, way):
    trial, settings = trusted
    settings = {**settings, **origins(**{trial.server.origin: WAYS[way]})}
    hostile = status(401, headers=[("WWW-Authenticate", 'Basic realm="x"')])

    ended = trial.meet(hostile, hostile, settings=settings)

    assert refused(ended, "bad_status")
    assert len(trial.requests) == 1


def test_n24_a_digest_of_a_wrong_password_is_tried_once(rig, secret):
    with DigestServer({"/f.bin": file(BODY)}, "robot", "another") as server:
        auth = {"digest": {"user": "robot", "password": "ONE"}}

        ended = rig.get(
            f"url: {server.url('/f.bin')}\n",
            {**secret, **origins(**{server.origin: {"auth": auth}})},
        )

    assert refused(ended, "bad_status")
    assert "401" in ended.reason
    assert [request.status for request in server.requests] == [401, 401]


def test_p16_a_server_that_repeats_the_secret_makes_nobody_tell_it(rig, secret, server):
    words = f"{CANARY}: {BASIC}"
    server.routes["/f.bin"] = redirect(f"/{CANARY}?key={CANARY}")
    server.routes[f"/{CANARY}"] = file(f"<!doctype html><title>{words}</title>".encode())

    ended = rig.get(
        f"url: {server.url('/f.bin')}\n",
        {**secret, **origins(**{server.origin: WAYS["basic"]})},
    )

    assert refused(ended, "unexpected_html")
    seen = repr(ended.told) + repr(ended.views)
    assert CANARY not in seen
    assert BASIC not in seen
    assert BASIC[:8] not in seen  # the dossier ends within it
    assert "(hidden)" in repr(ended.view.dossier)


# ---------------------------------------------------------------- TLS


def wanting(authority, clients):
    """Return the context of a server that wants a certificate of the authority of ``clients``."""
    context = authority.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(clients.ca)
    return context


def certified(authority, folder):
    """Return the tls block of a client with a certificate of the authority."""
    cert, key = authority.client(folder)
    return {"cert": cert, "key": key}


@pytest.fixture
def authorities(tmp_path):
    made = []
    for name in ("servers", "clients"):
        (tmp_path / name).mkdir()
        made.append(Authority(tmp_path / name))
    return made


def test_an_origin_that_wants_a_certificate_gets_the_one_for_it(rig, authorities, tmp_path):
    servers, clients = authorities
    context = wanting(servers, clients)
    with Server({"/f.bin": file(BODY)}, tls=context) as server:
        tls = {"ca": servers.ca, **certified(clients, tmp_path)}

        assert recovered(
            rig.get(f"url: {server.url('/f.bin')}", origins(**{server.origin: {"tls": tls}}))
        )


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["none", "of another authority"])
def test_an_origin_that_wants_another_certificate_is_told_at_once(
    rig, authorities, tmp_path, newest, shown
):
    servers, clients = authorities
    context = wanting(servers, clients)
    context.maximum_version = newest
    with Server({"/f.bin": file(BODY)}, tls=context) as server:
        tls = {"ca": servers.ca} | ({} if shown == "none" else certified(servers, tmp_path))

        ended = rig.get(f"url: {server.url('/f.bin')}", origins(**{server.origin: {"tls": tls}}))

    assert refused(ended, "tls_failed")
    assert not server.requests


def test_n44_a_certificate_is_shown_to_its_own_origin_alone(rig, authorities, tmp_path):
    servers, clients = authorities
    optional = wanting(servers, clients)
    optional.verify_mode = ssl.CERT_OPTIONAL
    seen: dict[str, bool] = {}
    routes: dict[str, Handler] = {}

    def noted(exchange):
        seen[exchange.server.origin] = bool(exchange.sock.getpeercert())
        routes[exchange.server.origin](exchange)

    with Server(tls=optional, fallback=noted) as one, Server(tls=optional, fallback=noted) as two:
        routes |= {one.origin: redirect(two.url("/f.bin")), two.origin: file(BODY)}
        tls = certified(clients, tmp_path)

        ended = rig.get(
            f"url: {one.url('/f.bin')}",
            {"network.ca": servers.ca, **origins(**{one.origin: {"tls": tls}})},
        )

    assert recovered(ended)
    assert seen == {one.origin: True, two.origin: False}


def test_n27_the_authority_of_one_origin_vouches_for_no_other(rig, authorities):
    mine, others = authorities
    with (
        Server({"/f.bin": file(BODY)}, tls=mine.context()) as server,
        Server({"/f.bin": file(BODY)}, tls=mine.context()) as other,
    ):
        settings = {"network.ca": others.ca, **origins(**{server.origin: {"tls": {"ca": mine.ca}}})}

        known = rig.get(f"url: {server.url('/f.bin')}\nfilename: a", settings)
        unknown = rig.get(f"url: {other.url('/f.bin')}\nfilename: b", settings)

    assert known.state == "succeeded"
    assert unknown.codes == ["tls_failed"]


# ---------------------------------------------------------------- proxies


def test_a_proxy_of_an_origin_is_for_that_origin_and_null_is_none(rig, secret):
    with (
        Server(fallback=file(BODY)) as proxy,
        Server(fallback=file(BODY)) as general,
        Server({"/f.bin": file(BODY)}) as direct,
    ):
        settings = {
            **secret,
            "network.proxy": general.origin,
            **origins(
                **{
                    "http://far.test": {
                        "proxy": proxy.origin,
                        "proxy_auth": {"user": "robot", "password": "ONE"},
                        "headers": {"X-API-Key": "TWO"},
                    },
                    direct.origin: {"proxy": None},
                }
            ),
        }
        ended = rig.get(
            f"tasks: {{a: {{url: 'http://far.test/f.bin', filename: a}}, "
            f"b: {{url: '{direct.url('/f.bin')}', filename: b}}, "
            f"c: {{url: 'http://else.test/f.bin', filename: c}}}}",
            settings,
        )

    assert ended.state == "succeeded"
    (asked,) = proxy.requests
    assert asked.target == "http://far.test/f.bin"
    assert asked.header("Proxy-Authorization") == f"Basic {BASIC}"
    assert asked.header("X-Api-Key") == OTHER
    assert [request.target for request in general.requests] == ["http://else.test/f.bin"]
    assert [request.target for request in direct.requests] == ["/f.bin"]
    assert not shows(general, CANARY, BASIC, OTHER)
    assert not shows(direct, CANARY, BASIC, OTHER)


# ---------------------------------------------------------------- chains


CHAINS = 1_000
LONGEST = 5


def test_n44_p17_in_a_thousand_random_chains_no_credential_reaches_another_origin(tmp_path):
    chance = random.Random(6)
    authority = Authority(tmp_path)
    marks: dict[str, str] = {}  # origin -> what its requests alone may bear
    plans: dict[str, list[str]] = {}  # chain -> where its hops lead

    def hop(exchange):
        _, chain, number = exchange.request.path.split("/")
        places = plans[chain]
        at = int(number) + 1
        if at < len(places):
            redirect(f"{places[at]}/{chain}/{at}", chance.choice([301, 302, 303, 307, 308]))(
                exchange
            )
        else:
            file(b"whole")(exchange)

    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server(fallback=hop, tls=authority.context() if number % 2 else None)
                if number != 6
                else DigestServer({}, "user6", "password-of-6", behind=hop)
            )
            for number in range(8)
        ]
        access = {}
        for number, server in enumerate(servers[:-1]):  # to the last one nothing is given
            value = Secret(f"S{number}", f"password-of-{number}")
            login = Login(f"user{number}", value)
            marks[server.origin] = value.reveal()
            if number % 4 == 1:
                encoded = base64.b64encode(f"user{number}:{value.reveal()}".encode()).decode()
                marks[server.origin] = encoded
            if number == 6:
                marks[server.origin] = 'username="user6"'
            access[server.origin] = access_of(
                basic=login if number % 4 == 1 else None,
                digest=login if number == 6 else None,
                bearer=value if number % 4 == 2 and number != 6 else None,
                headers={"X-API-Key": value} if number % 4 in {0, 3} else {},
                tls=Tls(ca=authority.ca),
                proxy=None,
                place="",
            )
        net = transports.build(
            ["loopback"],
            proxy=None,
            ca=authority.ca,
            redirects=10,
            workers=4,
            clock=SystemClock(),
            origins=access,
        )
        stack.callback(net.close)
        marks["a job's"] = "header-of-the-job"
        whole = 0
        for number in range(CHAINS):
            chain = f"c{number}"
            plans[chain] = [s.origin for s in chance.choices(servers, k=chance.randint(1, LONGEST))]
            request = Request(
                url=f"{plans[chain][0]}/{chain}/0",
                headers=(("X-Job", f"header-of-the-job {chain}"),),
                connect_s=5.0,
                stall_s=5.0,
            )
            hops = itertools.pairwise(plans[chain])
            if any(a.startswith("https:") > b.startswith("https:") for a, b in hops):
                with pytest.raises(AttemptError, match="leads from https to http"):
                    net.open(request, lambda: True)
                continue
            stream = net.open(request, lambda: True)
            assert stream.readinto(memoryview(bytearray(100))) == 5
            stream.close()
            whole += 1

        asked = 0
        for server in servers:
            for seen in server.requests:
                asked += 1
                text = seen.raw.decode()
                foreign = {
                    m for origin, m in marks.items() if origin not in {server.origin, "a job's"}
                }
                assert not [mark for mark in foreign if mark in text]
                _, chain, _ = seen.path.split("/")
                assert (marks["a job's"] in text) == (plans[chain][0] == server.origin)
                if server.origin in access and seen.status != 401:
                    assert marks[server.origin] in text
        assert whole > CHAINS // 4
        assert asked > 2 * CHAINS


def test_an_access_shows_no_value():
    value = Secret("NAME", CANARY)
    access = Access(
        digest=Login("u", value), headers=(("X", value),), proxy=f"http://u:{CANARY}@h:1"
    )

    assert CANARY not in repr(access)
    assert "NAME" in repr(access)
