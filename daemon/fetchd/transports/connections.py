"""requests and urllib3 with our own sockets: what is dialled, who watches it, what is reused."""

from __future__ import annotations

import queue
import socket
import ssl
import struct
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPResponse, PoolManager, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from fetchd.clock import Clock
from fetchd.errors import AttemptError, ConfigError
from fetchd.transports.access import Tls
from fetchd.transports.deadlines import Watch
from fetchd.transports.faults import Phase
from fetchd.transports.question import Question
from fetchd.transports.resolver import Line
from fetchd.transports.wire import RawHead, Received

_MOST_ORIGINS = 32  # whose idle connections are kept
_MOST_KEYS = 256
#: So much after the watch should have ended a wait, the kernel does.
_BEHIND_S = 5.0
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, as the connection that carries it must know it. One thread.

    ``fresh``: no connection from the pool may be used. Filled on the way: ``connected`` (a new
    connection was made), ``phase``, ``sock``.
    """

    watch: Watch
    line: Line
    clock: Clock
    connect_s: float
    stall_s: float
    fresh: bool
    connected: bool = False
    phase: Phase = Phase.CONNECT
    connect_until_s: float = 0.0
    sock: socket.socket | None = None
    answer: tuple[RawHead, Received] | None = None

    def bind(self, sock: socket.socket) -> None:
        self.sock = sock
        self.watch.bind(sock)

    def begin_connect(self) -> None:
        self.connected = True
        self.phase = Phase.CONNECT
        self.connect_until_s = self.clock.monotonic() + self.connect_s

    def go_on_connecting(self, phase: Phase, code: str, reason: str) -> None:
        """Enter the next part of connecting, under the same time limit."""
        self.phase = phase
        self.watch.begin(self.connect_until_s - self.clock.monotonic(), code, reason)

    def begin_head(self, sock: socket.socket, host: str) -> None:
        self.phase = Phase.HEAD
        self.bind(sock)
        self.watch.begin(self.stall_s, "stalled", _no_answer(host, self.stall_s))


@lru_cache(maxsize=64)  # said before each request, and told of few
def _no_answer(host: str, stall_s: float) -> str:
    return f"no complete answer from {host} within {stall_s:g} s"


#: urllib3 makes connections deep inside a request and offers no way to hand something down.
_CALL: ContextVar[Call] = ContextVar("call")


class _Watched(HTTPConnection):
    """A connection that dials through the ``Line`` and puts its socket under the watch."""

    _limit_s: float | None = None  # what the kernel ends waits at, None: not told

    @property
    def is_connected(self) -> bool:
        """Whether the peer is still there, and has sent nothing since the last answer."""
        sock = self.sock
        if sock is None or sock.gettimeout() is not None:
            return super().is_connected
        try:
            sock.recv(1, _LOOK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def limit_waits(self, most_s: float) -> None:
        """Let no call on the socket wait longer: behind the watch, should that ever fail.

        By the kernel alone where it can: with a timeout of its own the interpreter polls before
        each call.
        """
        sock = self.sock
        assert sock is not None
        if most_s == self._limit_s:
            return
        sock.settimeout(most_s)
        self._limit_s = most_s
        if isinstance(sock, ssl.SSLSocket):
            return  # it would take the kernel's limit for "try again"
        whole_s, rest_s = divmod(most_s, 1)
        limit = struct.pack("@ll", int(whole_s), int(rest_s * 1e6))
        with suppress(OSError):  # a kernel that wants it in another form
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.settimeout(None)

    def connect(self) -> None:
        self._limit_s = None
        call = _CALL.get()
        call.begin_connect()
        super().connect()
        assert self.sock is not None
        call.begin_head(self.sock, self.host)

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            _CALL.get().begin_head(self.sock, self.host)
        super().request(*args, **options)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        """Read the head by our own rules; the body is left to whoever asked (``Call.answer``)."""
        assert self.sock is not None
        self.sock.settimeout(self.timeout)
        received = Received(self.sock)
        head = received.head()
        _CALL.get().answer = head, received
        self._response_options = None
        self._HTTPConnection__state = "Idle"  # as http.client does after each answer
        # Without headers and body: urllib3 only carries the connection, it reads nothing more.
        return HTTPResponse(status=head.status, preload_content=False, decode_content=False)

    def close(self) -> None:
        call = _CALL.get(None)
        if call is not None and call.sock is self.sock:
            call.watch.release()
        super().close()

    def _new_conn(self) -> socket.socket:
        call = _CALL.get()
        try:
            sock = call.line.connect(
                self._dns_host,
                self.port,
                call.watch,
                call.connect_until_s,
                judged=self.proxy is None,
            )
        except AttemptError as exc:
            if self.proxy is None or exc.code == "deadline":
                raise
            raise AttemptError("proxy_failed", f"the proxy: {exc.reason}") from None
        call.bind(sock)
        return sock

    def _tunnel(self) -> None:
        _CALL.get().go_on_connecting(
            Phase.TUNNEL, "proxy_failed", "the proxy took too long to answer CONNECT"
        )
        super()._tunnel()


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Idle:
    """Idle connections, the one used last first; the queue of urllib3 without its locks.

    A change of the list is one step of the interpreter, so any thread may call these. Two that put
    at once may exceed ``most`` by one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: list[_Watched | None] = []

    def get(self, **_: object) -> _Watched | None:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: _Watched | None, **_: object) -> None:
        if len(self._connections) >= self._most:
            raise queue.Full
        self._connections.append(connection)

    def qsize(self) -> int:
        return len(self._connections)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched
    QueueCls = _Idle  # type: ignore[assignment]  # it has what the pool calls

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)
        if _CALL.get().fresh:
            conn.close()  # it connects again when it is used
        return conn

    def borrow(self) -> _Watched:
        """Return a connection that is kept and still alive, or one to be connected."""
        conn: _Watched = self._get_conn()
        return conn

    def give_back(self, conn: _Watched) -> None:
        self._put_conn(conn)


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


_POOLS = {"http": _Pool, "https": _TlsPool}


class _WatchedContext(ssl.SSLContext):
    """Puts the encrypted socket under the watch before the handshake, which may take for ever."""

    def wrap_socket(  # type: ignore[override]
        self, sock: socket.socket, *, server_hostname: str, **_: Any
    ) -> ssl.SSLSocket:
        call = _CALL.get()
        call.watch.release()  # the plain socket hands its descriptor over
        sock.getpeername()  # if the peer is gone by now, the base class would forget to close it
        wrapped = super().wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        try:
            call.bind(wrapped)
            call.go_on_connecting(
                Phase.TLS, "tls_broken", f"the TLS handshake with {server_hostname} took too long"
            )
            wrapped.settimeout(max(0.001, call.connect_until_s - call.clock.monotonic()))
            wrapped.do_handshake()
        except BaseException:
            call.watch.release()
            wrapped.close()
            raise
        return wrapped


def tls_context(tls: Tls, place: str = "network") -> ssl.SSLContext:
    """Return the TLS rules: certificate and name checked, at least TLS 1.2 (RFC 8996).

    ``tls.ca``: a file of certificates in PEM, or a folder of them with hashed names; None: the
    bundle that comes with requests. Raises ConfigError, with the key below ``place``.
    """
    context = _WatchedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _trust(context, tls.ca or DEFAULT_CA_BUNDLE_PATH, f"{place}.ca")
    if tls.cert is not None:
        _prove(context, tls.cert, tls.key, place)
    return context


def _trust(context: ssl.SSLContext, path: str, key: str) -> None:
    try:
        _try_to_read(path, key)
        context.load_verify_locations(cafile=path)
    except IsADirectoryError:
        context.load_verify_locations(capath=path)
    except ssl.SSLError:
        raise ConfigError(f"{key}: {path} holds no certificate in PEM form") from None


def _prove(context: ssl.SSLContext, cert: str, key: str | None, place: str) -> None:
    """Load our own certificate and its private key."""
    named = f"{place}.cert" if key is None else f"{place}.key"
    try:
        _try_to_read(cert, f"{place}.cert")
        if key is not None:
            _try_to_read(key, named)
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except IsADirectoryError as exc:
        at = f"{place}.cert" if exc.filename == cert else named
        raise ConfigError(
            f"{at}: {exc.filename} is a folder; a file in PEM form is needed"
        ) from None
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named}: {key or cert} is not the key of {cert}") from None
        _refuse_no_certificate(cert, f"{place}.cert")
        raise ConfigError(
            f"{named}: {key or cert} holds no private key in PEM form without a password"
        ) from None


def _refuse_no_certificate(cert: str, key: str) -> None:
    """Raise ConfigError if it is the certificate that cannot be loaded; OpenSSL does not say."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=cert)
    except ssl.SSLError:
        raise ConfigError(f"{key}: {cert} holds no certificate in PEM form") from None


def _try_to_read(path: str, key: str) -> None:
    """Raise ConfigError for what cannot be read, IsADirectoryError for a folder."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- OpenSSL does not say which file it misses
            file.read(1)
    except IsADirectoryError:
        raise
    except OSError as exc:
        reason = (exc.strerror or type(exc).__name__).lower()
        raise ConfigError(f"{key}: {path} cannot be read: {reason}") from None


class Carrier(Protocol):
    """The connection that an answer comes by. One thread."""

    def close(self) -> None:
        """Close the connection."""
        ...

    def release_conn(self) -> None:
        """Give the connection back to the pool, closed or not."""
        ...


class _Direct:
    """A connection to the origin itself (``Carrier``)."""

    def __init__(self, pool: _Pool, conn: _Watched) -> None:
        self._pool = pool
        self._conn = conn

    def close(self) -> None:
        self._conn.close()

    def release_conn(self) -> None:
        self._pool.give_back(self._conn)


class Adapter(HTTPAdapter):
    """The door to requests: one request, no redirect, no retry, no cookie, no environment.

    The pools and connections are those of urllib3. Without a proxy a request is written straight
    to its connection, and the layers in between, which would only pass it on, are left out.
    All its connections have the same TLS rules and the same proxy: others are another adapter's.
    """

    def __init__(self, *, tls: ssl.SSLContext, workers: int, proxy: str | None) -> None:
        self._tls = tls
        self.proxied = proxy is not None
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._keys: dict[tuple[str, str, int], tuple[Any, dict[str, Any]]] = {}  # as a cache
        self._latest: tuple[tuple[str, str, int], _Pool] | None = None  # replaced as a whole
        super().__init__(
            pool_connections=_MOST_ORIGINS, pool_maxsize=workers, max_retries=Retry(total=False)
        )

    def ask(self, question: Question, call: Call) -> Carrier:
        """Return by what the answer comes, its head read (``call.answer``) and its body not.

        Raises whatever the libraries raise.
        """
        token = _CALL.set(call)
        try:
            return self._by_proxy(question, call) if self._proxies else self._direct(question, call)
        finally:
            _CALL.reset(token)

    def _direct(self, question: Question, call: Call) -> Carrier:
        head = question.head()
        pool = self._pool(question)
        conn = pool.borrow()
        try:
            if conn.sock is None:
                conn.connect()
            else:
                call.begin_head(conn.sock, question.host)
            sock = conn.sock
            assert sock is not None
            conn.limit_waits(call.stall_s + _BEHIND_S)
            with suppress(BrokenPipeError, ssl.SSLEOFError):  # it may have answered before it left
                sock.sendall(head)
            received = Received(sock)
            call.answer = received.head(), received
        except BaseException:
            conn.close()
            pool.give_back(conn)
            raise
        return _Direct(pool, conn)

    def _pool(self, question: Question) -> _Pool:
        """Return the pool of a place, known or new; the one that was asked for last is at hand."""
        manager, place, latest = self.poolmanager, question.place, self._latest
        if latest is not None and latest[0] == place and latest[1].pool is not None:
            return latest[1]
        known = self._keys.get(place)
        if known is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            context = {
                **manager.connection_pool_kw,
                "scheme": question.scheme,
                "host": question.host,
                "port": question.port,
            }
            key = manager.key_fn_by_scheme[question.scheme](context)
            known = self._keys[place] = key, context
        key, context = known
        # It may make the pool again, and takes the context to pieces then.
        pool: _Pool = manager.connection_from_pool_key(key, {**context})
        self._latest = place, pool
        return pool

    def _by_proxy(self, question: Question, call: Call) -> Carrier:
        question.head()  # raises for what may not be sent; requests would judge by other rules
        prepared = requests.Request(question.method, question.url, data=question.body).prepare()
        prepared.headers.update(question.headers)
        answer = self.send(
            prepared,
            stream=True,
            timeout=(call.connect_s, call.stall_s),
            proxies=self._proxies,
        )
        raw: HTTPResponse = answer.raw
        return raw

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls, **options)
        self._use_own_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(proxy, ssl_context=self._tls, **options)
        self._use_own_pools(manager)
        return manager

    def close(self) -> None:
        """Close every idle connection now; urllib3 leaves that to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 -- a container that cannot be iterated
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}  # TLS is decided by the context alone

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the pool's TLS settings alone; the base class would load its own bundle."""

    @staticmethod
    def _use_own_pools(manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = _POOLS
