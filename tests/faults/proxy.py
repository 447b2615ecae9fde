"""A forward proxy that adds nothing: what an origin does wrong arrives as the origin did it.

It is a handler of ``Server``::

    with Server(fallback=forward) as proxy:
        transports.build(..., proxy=proxy.origin)

Every host is taken for this machine, so that a name needs no look-up: the port tells the origin.
``forward_to`` knows hosts by their names, as if they stood where they say.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from urllib.parse import urlsplit

from faults.server import Exchange, Handler

_MOST_BYTES = 256 * 1024


def forward_to(ports: Mapping[str, int]) -> Handler:
    """Return a proxy that finds these hosts, and no others, at ports of this machine."""
    return partial(forward, ports=ports)


def forward(exchange: Exchange, ports: Mapping[str, int] | None = None) -> None:
    """Serve a client's connection to its end, by one connection to each origin in turn.

    A tunnel is passed on as it is (RFC 9110 §9.3.6), a request with its whole URL in the form in
    which the origin itself would be asked (RFC 9112 §3.2).
    """
    exchange.close()
    said = exchange.request.raw + exchange.request.body
    if exchange.request.method == "CONNECT":
        host, _, port = exchange.request.target.rpartition(":")
        with _dial(int(port) if ports is None else ports[host]) as origin:
            exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while said := _relay(exchange, origin):
                _pass_on(said, origin)
        return
    at, origin = None, None
    with ExitStack() as opened:
        while head := _whole_head(said, exchange.sock):
            place, head = _origin_form(head)
            if place != at:
                opened.close()
                at, origin = place, opened.enter_context(_dial(place[1]))
            _pass_on(head, origin)
            said = _relay(exchange, origin)


def _whole_head(said, client):
    while said and b"\r\n\r\n" not in said:
        more = client.recv(_MOST_BYTES)
        said = said + more if more else b""
    return said


def _origin_form(head):
    """Return the host and port that a head with a whole URL asks, and the head for them."""
    method, _, rest = head.partition(b" ")
    url, _, rest = rest.partition(b" ")
    parts = urlsplit(url.decode("latin-1"))
    target = url.split(b"/", 3)[3] if url.count(b"/") > 2 else b""
    return (parts.hostname, parts.port or 80), b"%b /%b %b" % (method, target, rest)


def _dial(port):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _pass_on(said, origin):
    with suppress(OSError):  # it has hung up: its last words and its end are still to be relayed
        origin.sendall(said)


def _relay(exchange, origin):
    """Pass on what the origin says until the client says something, and return that.

    Nothing: one of them has ended. An end by RST reaches the client as one.
    """
    client = exchange.sock
    while True:
        ready, _, _ = select.select([origin, client], [], [])
        if origin in ready:
            try:
                data = origin.recv(_MOST_BYTES)
            except ConnectionResetError:
                exchange.reset()
                return b""
            if not data:
                return b""
            exchange.send(data)
        elif client in ready:
            return client.recv(_MOST_BYTES)
