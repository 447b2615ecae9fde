"""Bytes of a URL from an offset: one transport a scheme, one set of rules for what is dialled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fetchd import __version__
from fetchd.clock import Clock
from fetchd.errors import AttemptError
from fetchd.ports import Dialer, LocalFiles, Request, Stream, Transport
from fetchd.threads import Worker
from fetchd.transports.access import Access
from fetchd.transports.address import Policy
from fetchd.transports.deadlines import Deadlines
from fetchd.transports.file import FileTransport
from fetchd.transports.http import HttpTransport
from fetchd.transports.resolver import Line, Resolver, SystemDialer
from fetchd.transports.throttle import Rates, Throttle

__all__ = ["SCHEMES", "Rates", "Transports", "build"]

#: URL scheme -> what fetches it. A new scheme is one line here and one file beside http.py.
SCHEMES: dict[str, Callable[..., Transport]] = {
    "http": HttpTransport,
    "https": HttpTransport,
    "file": FileTransport,
}


class Transports:
    """All schemes behind one door (``ports.Transport``), with the threads that they share."""

    def __init__(
        self,
        by_scheme: dict[str, Transport],
        deadlines: Deadlines,
        resolver: Resolver,
        throttle: Throttle,
    ) -> None:
        self._by_scheme = by_scheme
        self._deadlines = deadlines
        self._resolver = resolver
        self._throttle = throttle

    def open(self, request: Request, wanted: Callable[[], bool]) -> Stream:
        scheme = request.url.partition(":")[0].lower()
        transport = self._by_scheme.get(scheme)
        if transport is None:
            known = ", ".join(SCHEMES)
            raise AttemptError(
                "scheme_denied", f"the scheme {scheme!r} is not fetched; allowed: {known}"
            )
        return self._throttle.stream(transport.open(request, wanted), request, wanted)

    def threads(self) -> list[Worker]:
        """Return the running threads, for the check of their liveness."""
        return [self._deadlines.worker, *self._resolver.workers]

    def close(self) -> None:
        """Close idle connections and end the threads. Streams under way lose their watch."""
        for transport in set(self._by_scheme.values()):
            transport.close()
        self._resolver.close()
        self._deadlines.close()


def build(
    policy_allow: Sequence[str],
    *,
    proxy: str | None,
    ca: str | None,
    redirects: int,
    workers: int,
    clock: Clock,
    rates: Rates | None = None,
    origins: Mapping[str, Access] = MappingProxyType({}),
    files: LocalFiles | None = None,
    user_agent: str | None = None,
    dialer: Dialer | None = None,
    on_death: Callable[[Worker, BaseException], None] | None = None,
    on_withheld: Callable[[str, str], None] | None = None,
) -> Transports:
    """Return the transports with their threads running; raises ConfigError, naming the key.

    ``policy_allow``: the list of ``network.allow``. ``workers``: how many streams may be open at
    once with their connections kept. ``rates``: the operator's, None: none. ``files``: what file:
    URLs may name, None: nothing. ``on_death`` hears of a thread that ended by an error.
    ``origins``: what is given to an origin (``scheme://host:port``) alone; with them ``proxy`` and
    ``ca`` are those of every other one. ``on_withheld`` hears, once for each of them, that a
    redirect led from it to another origin.
    """
    policy = Policy(policy_allow)
    dial = dialer or SystemDialer()
    deadlines = Deadlines(clock, on_death or _raise)
    resolver = Resolver(dial, clock, on_death or _raise)
    try:
        line = Line(resolver, dial, policy, clock)
        made = {
            make: make(
                line=line,
                deadlines=deadlines,
                clock=clock,
                proxy=proxy,
                ca=ca,
                redirects=redirects,
                workers=workers,
                origins=origins,
                on_withheld=on_withheld or _ignore,
                files=files,
                user_agent=user_agent or f"fetchd/{__version__}",
            )
            for make in set(SCHEMES.values())
        }
    except BaseException:
        resolver.close()
        deadlines.close()
        raise
    return Transports(
        {scheme: made[make] for scheme, make in SCHEMES.items()},
        deadlines,
        resolver,
        Throttle(rates or Rates(), clock),
    )


def _ignore(_origin: str, _other: str) -> None:
    pass


def _raise(_: Worker, exc: BaseException) -> None:
    raise exc
