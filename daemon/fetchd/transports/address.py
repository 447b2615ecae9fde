"""Which addresses may be dialled: ``network.allow``, judged on the address itself."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from fetchd.errors import AttemptError, ConfigError

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

_CLASSES: dict[str, tuple[_Network, ...]] = {
    "loopback": (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
    "private": (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("172.16.0.0/12"),
        IPv4Network("192.168.0.0/16"),
        IPv4Network("100.64.0.0/10"),
        IPv6Network("fc00::/7"),
    ),
}

#: Ranges with a purpose of their own (IANA special-purpose registries, RFC 6890), beside those
#: of _CLASSES. ``ipaddress.is_global`` is not used: what it answers changed between versions.
_SPECIAL: tuple[_Network, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("240.0.0.0/4"),
    IPv6Network("2001::/23"),
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
    IPv6Network("fe80::/10"),
    IPv6Network("fec0::/10"),
    IPv6Network("ff00::/8"),
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # no other IPv6 address is public so far

_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_LOWEST = (IPv6Address("::"), IPv6Address("::1"))


class Policy:
    """The rule of ``network.allow``: classes, CIDRs, and ``host:port`` for single services."""

    def __init__(self, allow: Sequence[str]) -> None:
        """Raise ConfigError for an entry that is none of these."""
        self._allow = tuple(allow)
        self._classes: set[str] = set()
        self._networks: list[_Network] = []
        self._services: set[tuple[str, int]] = set()
        for entry in self._allow:
            self._add(entry)

    def judge(self, host: str, port: int, address: str) -> None:
        """Raise AttemptError (address_denied) unless the address may be dialled for the host."""
        if (_plain_host(host), port) in self._services:
            return
        found = ip_address(address.partition("%")[0])
        for inner in _embedded(found):
            needed = self._missing(inner)
            if needed is not None:
                what = address if inner == found else f"{address} (which stands for {inner})"
                line = ", ".join([*self._allow, needed])
                said = what if address == host else f"{host} has the address {what}, which"
                raise AttemptError(
                    "address_denied",
                    f"{said} is excluded by the configuration; to allow it: "
                    f"network.allow: [{line}]",
                )

    def judge_literal(self, host: str, port: int) -> None:
        """Judge a host that is written as an address, in any form that the system dials."""
        plain = _plain_host(host)
        try:
            self.judge(host, port, str(ip_address(plain)))
        except ValueError:
            try:
                packed = socket.inet_aton(plain)  # reads 127.1, 0x7f000001, 2130706433
            except OSError:
                return
            self.judge(host, port, str(IPv4Address(packed)))

    def _add(self, entry: str) -> None:
        if entry == "public" or entry in _CLASSES:
            self._classes.add(entry)
            return
        try:
            self._networks.append(ip_network(entry))
        except ValueError as exc:
            self._add_service(entry, str(exc))

    def _add_service(self, entry: str, problem: str) -> None:
        host, _, port = entry.rpartition(":")
        if "/" in entry or not host or not port.isascii() or not port.isdigit():
            raise ConfigError(
                f"network.allow: {entry!r} is not public, private, loopback, a range such as "
                f"10.0.0.0/8, or host:port ({problem})"
            )
        self._services.add((_plain_host(host), int(port)))

    def _missing(self, address: _Address) -> str | None:
        """Return the entry that would allow the address, None when it is allowed."""
        if any(address in network for network in self._networks):
            return None
        for name, networks in _CLASSES.items():
            if any(address in network for network in networks):
                return None if name in self._classes else name
        for network in _SPECIAL:
            if address in network:
                return str(network)
        if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
            return f"{address}/128"
        return None if "public" in self._classes else "public"


def _plain_host(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _embedded(address: _Address) -> tuple[_Address, ...]:
    """Return the addresses that packets to this one may end at: itself, or those inside it."""
    if isinstance(address, IPv4Address):
        return (address,)
    number = int(address)
    low = IPv4Address(number & 0xFFFF_FFFF)
    if address in _TEREDO:  # RFC 4380 §4: the client's address is stored inverted
        server = IPv4Address(number >> 64 & 0xFFFF_FFFF)
        return (server, IPv4Address(int(low) ^ 0xFFFF_FFFF))
    if address in _SIX_TO_FOUR:  # RFC 3056 §2
        return (IPv4Address(number >> 80 & 0xFFFF_FFFF),)
    if address in _MAPPED or address in _TRANSLATED or address in _NAT64:
        return (low,)
    if address in _COMPATIBLE and address not in _LOWEST:
        return (low,)
    return (address,)
