"""From a host name to a connected socket: look-up in own threads, judgement, then the dial."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import cast

from fetchd.clock import Clock
from fetchd.errors import AttemptError
from fetchd.ports import Dialer
from fetchd.threads import Worker
from fetchd.transports.address import Policy
from fetchd.transports.deadlines import TICK_S, Watch

_PER_ADDRESS_S = 3.0
_THREADS = 2
_LONGEST_LOOKUP_S = 60.0
#: The system's resolver asks several servers several times, for each of several domains.
_STUCK_AFTER_S = 600.0


class SystemDialer:
    """The system's resolver and sockets (``ports.Dialer``)."""

    def resolve(self, host: str, port: int, timeout_s: float) -> list[tuple[int, str]]:
        # The system's look-up has its own time limits and cannot be cancelled.
        del timeout_s
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as exc:
            raise AttemptError(
                "dns_failed", f"the name {host} could not be resolved: {exc.strerror}"
            ) from None
        except UnicodeError:
            reason = f"{host} is not a host name"
            raise AttemptError("dns_failed", reason, transient=False) from None
        return [(family, str(address[0])) for family, _, _, _, address in found]

    def connect(self, family: int, address: str, port: int, timeout_s: float) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock


class _Lookup:
    """One name being resolved, for everyone who waits for it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.waiting = 0  # guarded by Resolver._condition
        self.condition = threading.Condition()
        self.answer: list[tuple[int, str]] | AttemptError | None = None  # guarded by condition


class Resolver:
    """Two threads, because a look-up cannot be cancelled: who waits for one can leave it."""

    def __init__(
        self, dialer: Dialer, clock: Clock, on_death: Callable[[Worker, BaseException], None]
    ) -> None:
        self._dialer = dialer
        self._clock = clock
        self._condition = threading.Condition()
        self._queue: deque[_Lookup] = deque()  # guarded by _condition
        self._open: dict[tuple[str, int], _Lookup] = {}  # guarded by _condition
        self.workers = [
            Worker(f"resolver-{n}", self._work, clock, on_death, within_s=_STUCK_AFTER_S)
            for n in range(_THREADS)
        ]
        for worker in self.workers:
            worker.start()

    def resolve(self, host: str, port: int, watch: Watch) -> list[tuple[int, str]]:
        """Return (family, address) pairs; raises AttemptError, and whatever cuts the watch."""
        lookup = self._join(host, port)
        try:
            with lookup.condition:
                while lookup.answer is None:
                    watch.check()
                    self._clock.wait(lookup.condition, TICK_S)
                answer = lookup.answer
        finally:
            with self._condition:
                lookup.waiting -= 1
        if isinstance(answer, AttemptError):
            raise AttemptError(answer.code, answer.reason, transient=answer.transient)
        return answer

    def close(self) -> None:
        """Stop the threads; one that is inside a look-up ends after it."""
        for worker in self.workers:
            worker.stop()
        with self._condition:
            self._condition.notify_all()
        for worker in self.workers:
            worker.join(0.5)

    def _join(self, host: str, port: int) -> _Lookup:
        with self._condition:
            lookup = self._open.get((host, port))
            if lookup is None:
                lookup = self._open[host, port] = _Lookup(host, port)
                self._queue.append(lookup)
                self._condition.notify()
            lookup.waiting += 1
            return lookup

    def _work(self, worker: Worker) -> None:
        while True:
            with self._condition:
                worker.rest()
                while not self._queue and not worker.stopping:
                    self._clock.wait(self._condition, None)
                if worker.stopping:
                    return
                lookup = self._queue.popleft()
                if lookup.waiting == 0:  # everyone who asked has left
                    del self._open[lookup.host, lookup.port]
                    continue
            worker.beat()
            answer = self._look_up(lookup)
            with self._condition:
                del self._open[lookup.host, lookup.port]
            with lookup.condition:
                lookup.answer = answer
                lookup.condition.notify_all()

    def _look_up(self, lookup: _Lookup) -> list[tuple[int, str]] | AttemptError:
        try:
            found = self._dialer.resolve(lookup.host, lookup.port, _LONGEST_LOOKUP_S)
        except AttemptError as exc:
            return exc
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            return AttemptError("dns_failed", f"{lookup.host} could not be resolved: {reason}")
        return found or AttemptError("dns_failed", f"the name {lookup.host} has no address")


class Line:
    """Makes connections: nothing is dialled but an address that the policy has passed."""

    def __init__(self, resolver: Resolver, dialer: Dialer, policy: Policy, clock: Clock) -> None:
        self._resolver = resolver
        self._dialer = dialer
        self._policy = policy
        self._clock = clock

    def connect(
        self, host: str, port: int, watch: Watch, until_s: float, *, judged: bool
    ) -> socket.socket:
        """Return a socket connected to one of the host's addresses, tried in order.

        ``until_s`` (monotonic) ends it all. ``judged`` False: the operator named this host.
        """
        addresses = self._addresses(host, port, watch, until_s)
        denied: AttemptError | None = None
        failure = ""
        for family, address in addresses:
            if judged:
                try:
                    self._policy.judge(host, port, address)
                except AttemptError as exc:
                    denied = denied or exc
                    continue
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                failure = failure or "the time for connecting was over"
                break
            watch.begin(left_s, "connect_failed", f"{host} took too long to accept a connection")
            try:
                timeout_s = min(_PER_ADDRESS_S, left_s, watch.left_s())
                return self._dial(family, address, port, timeout_s)
            except TimeoutError:
                failure = f"{address} port {port} does not answer"
            except OSError as exc:
                why = os.strerror(exc.errno) if exc.errno else type(exc).__name__
                failure = f"{address} port {port}: {why}"
        if denied is not None and not failure:
            raise denied
        raise AttemptError("connect_failed", f"no connection to {host}: {failure}")

    def refuse_literal(self, host: str, port: int) -> None:
        """Raise AttemptError if the host is written as an address that the policy denies."""
        self._policy.judge_literal(host, port)

    def _addresses(
        self, host: str, port: int, watch: Watch, until_s: float
    ) -> list[tuple[int, str]]:
        plain = host.strip("[]")
        try:
            version = ip_address(plain).version
        except ValueError:
            left_s = until_s - self._clock.monotonic()
            watch.begin(left_s, "dns_failed", f"the name {host} could not be resolved in time")
            return self._resolver.resolve(plain, port, watch)
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, plain)]

    def _dial(self, family: int, address: str, port: int, timeout_s: float) -> socket.socket:
        sock = cast("socket.socket", self._dialer.connect(family, address, port, timeout_s))
        try:
            reached = str(sock.getpeername()[0])
            if ip_address(reached.partition("%")[0]) != ip_address(address.partition("%")[0]):
                raise AttemptError(
                    "address_denied", f"{address} was dialled, but {reached} answered"
                )
        except BaseException:
            sock.close()
            raise
        return sock
