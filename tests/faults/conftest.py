"""What every test of a fault has: a rig, a server, and the bounds around both."""

from __future__ import annotations

import socket

import pytest

from faults import own_network
from faults.rig import BODY, Detour, Rig, Trial, bounds
from faults.server import Authority, Server, file, redirect
from fetchd import service, transports
from fetchd.transports.resolver import SystemDialer


@pytest.fixture(scope="session")
def ca(tmp_path_factory):
    """Return the file of an authority that certified nobody.

    One job has run when it is there: what is loaded once is no growth of the first test.
    """
    if own_network.inside():
        own_network.run_command("ip link set lo up")
    authority = Authority(tmp_path_factory.mktemp("ca"))
    with Server({"/f.bin": file(BODY)}) as server:
        Rig(tmp_path_factory.mktemp("warm"), authority.ca).get(f"url: {server.url('/f.bin')}")
    return authority.ca


@pytest.fixture
def rig(tmp_path, ca, monkeypatch):
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.01)  # how soon the end is noticed
    with bounds():
        yield Rig(tmp_path, ca)


@pytest.fixture
def server(rig):
    with Server() as server:
        yield server


@pytest.fixture(params=["single", "resumed"])
def trial(request, rig, server):
    """Yield a trial from nothing, then one with a part that is left of an earlier attempt."""
    return Trial(rig, server, resumed=request.param == "resumed")


@pytest.fixture
def resumed(rig, server):
    return Trial(rig, server, resumed=True)


@pytest.fixture
def names(monkeypatch):
    """Return a dictionary of names that the service can resolve; numbers are still dialled."""
    known: dict[str, str] = {}

    class Names(SystemDialer):
        def resolve(self, host, port, timeout_s):
            return [(socket.AF_INET, known[host])] if host in known else []

    monkeypatch.setattr(transports, "SystemDialer", Names)
    return known


@pytest.fixture(
    params=[
        pytest.param("http://other.test:{same}/g.bin", id="N44-host"),
        pytest.param("http://files.test:{other}/g.bin", id="N44-port"),
        pytest.param("https://files.test:{secure}/g.bin", id="N44-scheme"),
        pytest.param("http://sub.files.test:{same}/g.bin", id="N44-subdomain"),
    ]
)
def detour(request, rig, tmp_path, names):
    """Yield an origin that redirects to another one, in each way in which it can be another."""
    names |= dict.fromkeys(("files.test", "other.test", "sub.files.test"), "127.0.0.1")
    authority = Authority(tmp_path)
    tls = authority.context("files.test")
    routes = {"/g.bin": file(BODY)}
    with Server(routes) as server, Server(routes) as other, Server(routes, tls=tls) as secure:
        target = request.param.format(same=server.port, other=other.port, secure=secure.port)
        server.routes["/f.bin"] = redirect(target)
        yield Detour(
            origin=f"http://files.test:{server.port}",
            other=target.removesuffix("/g.bin"),
            ca=authority.ca,
            servers=(server, other, secure),
        )


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        f"{own_network.MARK}: is run in a network namespace; skipped where none can be made",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if own_network.inside() or pyfuncitem.get_closest_marker(own_network.MARK) is None:
        return None
    own_network.run(pyfuncitem)
    return True
