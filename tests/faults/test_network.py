"""Networks that refuse, swallow, lie or break down; proxies (N25, N26, N28 to N30, N45, P18)."""

from __future__ import annotations

import socket
import threading

import pytest

from faults.own_network import Alias, Names, inside, run_command
from faults.rig import BODY, HALF, recovered, refused
from faults.server import (
    Server,
    content,
    file,
    full_backlog,
    once,
    raw,
    stalled,
    status,
    unused_port,
)
from fetchd.transports import resolver

own_network = pytest.mark.own_network
pytestmark = pytest.mark.timeout(180)  # the first of own_network waits for all of them

# ---------------------------------------------------------------- ports that do not serve


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        pytest.param(raw(b"", "reset"), "connect_failed|bad_response", id="N25-reset-at-accept"),
        pytest.param(stalled(), "stalled", id="N25-silent-at-accept"),
        pytest.param(raw(b""), "bad_response", id="N25-closed-at-accept"),
    ],
)
def test_a_server_that_drops_who_connects_is_tried_again(trial, greeting, code):
    if trial.resumed:
        trial.keep(trial.source, file(BODY, cut_after=HALF))
    trial.server.routes["/f.bin"] = file(BODY)
    trial.server.greeting = once(greeting, lambda _: None)

    ended = trial.rig.get(trial.source)

    assert recovered(ended, code)
    assert ended.took_s < 0.4 + 2


def test_n25_refused_is_told_after_as_many_attempts_as_allowed(rig):
    ended = rig.get(f"url: http://127.0.0.1:{unused_port()}/f.bin", {"retry.attempts": "2"})

    assert refused(ended, "connect_failed", "connect_failed")
    assert "refused" in ended.reason


def test_n25_backlog_full_ends_with_the_time_for_connecting(rig):
    with full_backlog() as port:
        ended = rig.get(
            f"url: http://127.0.0.1:{port}/f.bin",
            {"retry.attempts": "1", "timeout.connect": "300ms"},
        )

    assert refused(ended, "connect_failed")
    assert ended.took_s < 0.3 + 2


@pytest.mark.parametrize("kind", ["refused", "backlog-full"], ids="N25-{}-mirror".format)
def test_behind_a_port_that_does_not_serve_the_mirror_is_asked(rig, server, kind):
    server.routes["/f.bin"] = file(BODY)
    with full_backlog() as full:
        port = full if kind == "backlog-full" else unused_port()

        ended = rig.get(
            f"base: [http://127.0.0.1:{port}, {server.origin}]\nurl: f.bin\n",
            {"timeout.connect": "300ms"},
        )

    assert recovered(ended, "connect_failed")


# ---------------------------------------------------------------- kept connections, proxies


@pytest.mark.parametrize("end", ["close", "reset"], ids="N28-pooled-{}".format)
def test_a_kept_connection_that_ends_under_the_request_costs_no_attempt(rig, server, end):
    def treacherous(exchange):
        if exchange.request.connection == 1:
            getattr(exchange, end)()
        else:
            file(BODY)(exchange)

    server.routes |= {"/f.bin": file(BODY), "/g.bin": treacherous}

    ended = rig.get(f"urls: [{server.url('/f.bin')}, {server.url('/g.bin')}]", {"workers": "1"})

    assert recovered(ended)
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_n28_pooled_a_connection_that_ended_meanwhile_costs_no_attempt(rig, server):
    def last(exchange):
        file(BODY)(exchange)
        exchange.close()

    server.routes |= {"/f.bin": last, "/g.bin": file(BODY)}

    ended = rig.get(f"urls: [{server.url('/f.bin')}, {server.url('/g.bin')}]", {"workers": "1"})

    assert recovered(ended)
    assert server.connections == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_n28_proxy_407_is_final(rig, scheme):
    with Server(fallback=status(407)) as proxy:
        ended = rig.get(f"url: {scheme}://files.test/f.bin", {"network.proxy": proxy.origin})

        assert refused(ended, "proxy_failed")
        assert len(proxy.requests) == 1


def test_n28_proxy_that_dies_at_connect_is_asked_again(rig):
    with Server(fallback=raw(b"")) as proxy:
        ended = rig.get("url: https://files.test/f.bin", {"network.proxy": proxy.origin})

        assert refused(ended, *["proxy_failed"] * 3)
        assert [request.method for request in proxy.requests] == ["CONNECT"] * 3


# ---------------------------------------------------------------- a network of their own
#
# Beside 127.0.0.1 there are: PUBLIC, where servers stand, and its whole /24 with nobody on it;
# LOST, from which nothing ever comes back; and, for some tests, addresses that are denied.

PUBLIC = "93.184.216.34"
LOST = "93.184.217"
PUBLIC6 = "2606:2800:220:1::1"
LOST6 = "2606:2800:220:2"
ABROAD = {"network.allow": "[public]"}


@pytest.fixture(scope="session")
def resolv_conf(tmp_path_factory):
    if inside():
        path = tmp_path_factory.mktemp("etc") / "resolv.conf"
        path.write_text("nameserver 127.0.0.1\noptions timeout:3 attempts:1\n")
        run_command(f"mount --bind {path} /etc/resolv.conf")


@pytest.fixture
def network(resolv_conf):
    lay(
        "link set lo up",
        f"addr replace {PUBLIC}/24 dev lo",
        f"route replace {LOST}.0/24 dev lo",
        f"addr replace {PUBLIC6}/128 dev lo nodad",
        f"route replace {LOST6}::/64 dev lo",
    )


def lay(*lines):
    """Give the lines to ``ip``; nothing is laid outside of the namespace."""
    if inside():
        run_command("ip -batch -", "\n".join(lines))


@own_network
def test_n25_blackhole_ends_with_the_time_for_connecting(network, rig):
    ended = rig.get(
        f"url: http://{LOST}.1/f.bin", {**ABROAD, "retry.attempts": "1", "timeout.connect": "300ms"}
    )

    assert refused(ended, "connect_failed")
    assert ended.took_s < 0.3 + 2


@own_network
def test_n25_blackhole_leads_to_the_mirror(network, rig):
    with Server({"/f.bin": file(BODY)}, address=PUBLIC) as server:
        ended = rig.get(
            f"base: [http://{LOST}.1, {server.origin}]\nurl: f.bin\n",
            {**ABROAD, "timeout.connect": "300ms"},
        )

    assert recovered(ended, "connect_failed")


@own_network
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(3, "dns_failed", id="N26-nxdomain"),
        pytest.param(2, "dns_failed", id="N26-servfail"),
        pytest.param(None, "dns_failed", id="N26-silence"),
        pytest.param([f"{LOST}.{n}" for n in range(1, 51)], "connect_failed", id="N26-50-lost"),
        pytest.param(Alias("inside.test", ["10.0.0.1"]), "address_denied", id="N26-cname-private"),
    ],
)
def test_a_name_that_leads_nowhere_fails_in_time(network, rig, answer, code):
    with Names({"files.test": answer}) as names:
        ended = rig.get(
            "url: http://files.test/f.bin",
            {**ABROAD, "retry.attempts": "1", "timeout.connect": "500ms"},
        )

    assert refused(ended, code)
    assert ended.took_s < 0.5 + 2
    assert "files.test" in names.asked


@own_network
@pytest.mark.parametrize(
    "others",
    [
        pytest.param([f"93.184.216.{n}" for n in range(100, 149)], id="N26-50-addresses"),
        pytest.param([f"{LOST6}::1"], id="N26-dead-aaaa"),
        pytest.param([PUBLIC6], id="N26-refusing-aaaa"),
        pytest.param(["10.0.0.1", "169.254.169.254"], id="N26-private-beside-public"),
    ],
)
def test_the_address_that_answers_is_found_among_others(network, rig, monkeypatch, others):
    monkeypatch.setattr(resolver, "_PER_ADDRESS_S", 0.3)
    with (
        Names({"files.test": [*others, PUBLIC]}),
        Server({"/f.bin": file(BODY)}, address=PUBLIC) as server,
    ):
        ended = rig.get(f"url: http://files.test:{server.port}/f.bin", ABROAD)

    assert recovered(ended)


@own_network
def test_n26_a_part_is_resumed_when_the_name_is_known_again(network, rig):
    with Server({"/f.bin": file(BODY, cut_after=HALF)}, address=PUBLIC) as server:
        job = f"url: http://files.test:{server.port}/f.bin"
        with Names({"files.test": [PUBLIC]}) as names:
            rig.get(job, {**ABROAD, "retry.attempts": "1"})
            names.known["files.test"] = 2
            lost = rig.get(job, {**ABROAD, "retry.attempts": "1"})
            names.known["files.test"] = [PUBLIC]
            server.routes["/f.bin"] = file(BODY)

            ended = rig.get(job, ABROAD)

    assert refused(lost, "dns_failed")
    assert recovered(ended)
    assert ended.view.resumed_from_bytes == HALF


@own_network
def test_n29_tasks_that_lose_the_network_wait_for_it_without_a_storm(network, rig):
    bodies = {f"/{n}.bin": content(n, 100_000) for n in range(50)}
    rig.whole = set(bodies.values())
    routes = {path: file(body, rate=500_000) for path, body in bodies.items()}
    # Without the address there is no route either: connecting fails at once, the worst for a storm.
    lost = ("link set lo down", f"addr del {PUBLIC}/24 dev lo")
    found = (f"addr add {PUBLIC}/24 dev lo", "link set lo up")
    outage = [threading.Timer(0.3, lay, lost), threading.Timer(2.3, lay, found)]
    retry = {"retry.attempts": "100", "retry.delay": "100ms", "retry.max_delay": "500ms"}
    with Server(routes, address=PUBLIC) as server:
        urls = "".join(f"  - {server.url(path)}\n" for path in routes)
        for change in outage:
            change.start()
        try:
            ended = rig.get(f"urls:\n{urls}", {**ABROAD, **retry, "workers": "8"}, within_s=10)
        finally:
            for change in outage:
                change.join(5)

    assert ended.state == "succeeded"
    assert len(ended.files) == 50
    assert ended.took_s > 2.0
    assert 0 < len(ended.retries) < 50  # most of them wait behind the few that find out
    assert set(ended.codes) <= {"connect_failed", "stalled"}


@own_network
def test_n30_a_slow_link_with_a_long_queue_is_no_stall(network, rig):
    run_command("ip link set lo mtu 1500")
    run_command("tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 400ms")
    try:
        with Server({"/f.bin": file(BODY)}) as server:
            ended = rig.get(
                f"url: {server.url('/f.bin')}", {"timeout.stall": "1s@10KiB/s"}, within_s=10
            )
    finally:
        run_command("tc qdisc del dev lo root")
        run_command("ip link set lo mtu 65536")

    assert recovered(ended)
    assert ended.took_s > 1.5


# ---------------------------------------------------------------- denied addresses

DENIED_4 = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "10.255.255.254",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.255.254",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "169.254.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
]
DENIED_6 = [
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "2001:db8::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "3fff::1",
    "100::1",
    "5f00::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "::7f00:1",
    "::ffff:0:7f00:1",
]
DENIED = DENIED_4 + DENIED_6
SPELLINGS = ["0x7f000001", "2130706433", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "localhost"]


class Trap:
    """Listens on every address of the machine and counts who connects; answers nobody."""

    def __init__(self):
        self.sockets = [socket.create_server(("", 0))]
        self.port = self.sockets[0].getsockname()[1]
        v6 = socket.create_server(("::", self.port), family=socket.AF_INET6)
        self.sockets.append(v6)
        for sock in self.sockets:
            sock.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for sock in self.sockets:
            sock.close()

    def count(self):
        """Return how many have connected since the last call."""
        count = 0
        for sock in self.sockets:
            while True:
                try:
                    sock.accept()[0].close()
                except BlockingIOError:
                    break
                count += 1
        return count


@pytest.fixture
def denied_addresses(network):
    lay(
        *(f"addr replace {address}/32 dev lo" for address in DENIED_4[2:]),
        *(f"addr replace {address}/128 dev lo nodad" for address in DENIED_6[1:]),
    )


@pytest.fixture
def trap():
    with Trap() as trap:
        yield trap


def bracketed(address):
    return f"[{address}]" if ":" in address and "[" not in address else address


@own_network
@pytest.mark.parametrize("kept", [False, True], ids=["single", "resumed"])
@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="N45-loopback"),
        pytest.param("169.254.169.254", id="N45-metadata"),
        pytest.param("10.0.0.1", id="N45-private"),
        pytest.param("[::ffff:127.0.0.1]", id="N45-mapped"),
        pytest.param("[64:ff9b::7f00:1]", id="N45-nat64"),
        pytest.param("[2002:7f00:1::1]", id="N45-6to4"),
    ],
)
def test_a_redirect_to_a_denied_address_connects_to_nobody(
    network, denied_addresses, rig, trap, host, kept
):
    with Server(address=PUBLIC) as server:
        job = f"url: {server.url('/f.bin')}"
        if kept:
            server.routes["/f.bin"] = file(BODY, cut_after=HALF)
            rig.get(job, {**ABROAD, "retry.attempts": "1"})
        server.routes["/f.bin"] = status(
            302, headers={"Location": f"http://{host}:{trap.port}/g.bin"}
        )

        ended = rig.get(job, ABROAD)

    assert refused(ended, "address_denied")
    assert trap.count() == 0


@own_network
def test_p18_n45_nobody_connects_to_any_of_40_denied_addresses(
    network, denied_addresses, rig, trap
):
    assert len(DENIED) == 40
    for address in [*DENIED, PUBLIC]:
        socket.create_connection((address, trap.port), 1).close()
    assert trap.count() == 41  # so that a 0 means something
    hosts = [bracketed(host) for host in DENIED + SPELLINGS]
    places = [f"http://{host}:{trap.port}/x" for host in hosts]
    with Server(address=PUBLIC) as server:
        server.routes = {
            f"/{n}": status(302, headers={"Location": place}) for n, place in enumerate(places)
        }
        lines = [f"  - {place} direct-{n}\n" for n, place in enumerate(places)]
        lines += [f"  - {server.url(f'/{n}')} redirected-{n}\n" for n in range(len(places))]

        ended = rig.get("urls:\n" + "".join(lines), {**ABROAD, "retry.attempts": "1"})

    assert ended.state == "failed"
    assert ended.files == {}
    assert ended.codes == ["address_denied"] * 2 * len(places)
    assert trap.count() == 0
