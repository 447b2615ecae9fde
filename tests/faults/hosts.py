"""Servers on this machine under the names of others, so that a job file runs as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from faults.proxy import forward_to
from faults.server import Authority, Handler, Server


class Hosts:
    """A server for each name, by TLS; whoever has ``settings`` finds them, and no others."""

    def __init__(self, base: Path, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        authority = Authority(base)
        self.servers = {
            name: Server(handlers, tls=authority.context(name)) for name, handlers in routes.items()
        }
        ports = {name: server.port for name, server in self.servers.items()}
        self._proxy = Server(fallback=forward_to(ports))
        self.settings = [f"network.proxy={self._proxy.origin}", f"network.ca={authority.ca}"]
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for server in (*self.servers.values(), self._proxy):
            self._open.enter_context(server)
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
