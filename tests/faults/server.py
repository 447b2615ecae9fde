"""A raw-socket HTTP(S) server on 127.0.0.1 that can misbehave in every way that a test asks for.

In a test::

    body = content("any seed", 300_000)
    with Server({"/a": file(body), "/b": flapping(status(503), file(body))}) as server:
        fetch(server.url("/a"))
        assert server.requests[0].header("Range") is None

A route is a path without its query -> a handler; a handler is called with an ``Exchange`` and
writes bytes to it. The functions below (``file``, ``status``, ``redirect``, ``raw``, ...) make the
usual handlers; a lambda or function makes any other. Behind a handler that neither closed nor
reset its connection, the next request on it is read. A path without a route is answered by 404.

``greeting`` is a handler too: it meets every connection when it is accepted, before TLS and
before a byte is read. What it closes, resets or stalls is served no further, so
``Server(greeting=raw(b"", "reset"))`` resets whoever connects. ``routes``, ``greeting`` and ``tls``
may be changed at any time. ``Request.raw`` is a request head as it came over the wire.

As a process, for tests that kill the other side::

    python tests/faults/server.py [--port 0]

prints its base URL in one line and serves until its standard input ends:

- ``/SEED/SIZE/any/name``: ``content(SEED, SIZE)`` with ETag, Last-Modified and ranges; the query
  takes the options of ``file``, such as ``?rate=5000000&cut_after=100000``;
- ``/log``: JSON, a list of ``{"method", "target", "status", "sent", "range"}`` in order.
"""

from __future__ import annotations

import argparse
import email.utils
import fcntl
import functools
import hashlib
import json
import random
import re
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

_BLOCK = 64 * 1024
_SLICE = 256 * 1024


def content(seed, size_bytes):
    """Return the same bytes for the same seed; no two blocks of 64 KiB are alike."""
    block = random.Random(str(seed)).randbytes(_BLOCK - 8)
    count = -(-size_bytes // _BLOCK)
    return b"".join(i.to_bytes(8, "big") + block for i in range(count))[:size_bytes]


@dataclass
class Request:
    """One request as it arrived; ``sent`` grows while it is answered (bytes after the head)."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    raw: bytes
    connection: int  # counts from 1
    at_s: float  # monotonic
    status: int | None = None
    sent: int = 0
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name) -> str | None:
        """Return the first value of a header, None if it was not sent."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)


@dataclass(kw_only=True)
class Connection:
    """What a greeting has in hand. ``number`` counts connections from 1."""

    server: Server
    sock: socket.socket
    number: int
    keep: bool = True

    def send(self, data) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _SLICE):
            piece = view[start : start + _SLICE]
            self.sock.sendall(piece)
            self._sent(len(piece))

    def drip(self, data, size=1, every_s=0.05) -> None:
        """Send ``size`` bytes at a time with a pause before each."""
        for start in range(0, len(data), size):
            if self.server.closing.wait(every_s):
                return
            self.send(data[start : start + size])

    def stall(self) -> None:
        """Send nothing more until the peer hangs up or the server ends."""
        self.keep = False
        while not self.server.closing.is_set():
            # What still comes is read, past any TLS, for the peer's end stands behind it.
            if select.select([self.sock], [], [], 0.02)[0]:
                try:
                    left = not socket.socket.recv(self.sock, 65536)
                except OSError:
                    left = True
                if left:
                    return

    def close(self) -> None:
        """End the connection in the orderly way (FIN) after the handler."""
        self.keep = False

    def reset(self) -> None:
        """End the connection by RST after the handler, when all that was sent has arrived."""
        self.keep = False
        until_s = time.monotonic() + 2.0
        while _unsent(self.sock) and time.monotonic() < until_s:
            time.sleep(0.001)
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _sent(self, count) -> None:
        pass


@dataclass(kw_only=True)
class Exchange(Connection):
    """A request and the connection to answer on. ``number``: the how-manieth for its path."""

    request: Request

    def head(self, status, reason="", headers=()) -> None:
        """Send a status line and headers, given as pairs or a mapping."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [f"HTTP/1.1 {status} {reason}".rstrip(), *(f"{k}: {v}" for k, v in pairs)]
        self.request.status = status
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))

    def _sent(self, count) -> None:
        self.request.sent += count


def hung_up(sock: socket.socket) -> bool:
    """Tell whether the peer has closed a connection without TLS."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _unsent(sock):
    """Return how many bytes the peer's kernel has not acknowledged yet."""
    return struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]


Handler = Callable[[Any], None]  # of an Exchange; a greeting: of a Connection


class Server:
    """Serves from ``__enter__`` to ``__exit__``; ``requests`` is what arrived, in order."""

    def __init__(
        self,
        routes: Mapping[str, Handler] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        greeting: Handler | None = None,
        fallback: Handler | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.routes: dict[str, Handler] = dict(routes or {})
        self.greeting = greeting
        self.tls = tls
        self.fallback = fallback or status(404)
        self.requests: list[Request] = []
        self.connections = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}  # guarded by _lock
        self._open: set[socket.socket] = set()  # guarded by _lock
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        host = f"[{address}]" if ":" in address else address
        self.origin = f"{'https' if tls else 'http'}://{host}:{self.port}"

    def url(self, path: str) -> str:
        return self.origin + path

    def asked(self, path) -> list[Request]:
        """Return the requests for a path (without query)."""
        return [request for request in list(self.requests) if request.path == path]

    def __enter__(self) -> Self:
        acceptor = threading.Thread(target=self._accept, name="server", daemon=True)
        self._threads.append(acceptor)
        acceptor.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Shut every open connection down, as a server that restarts does."""
        with self._lock:
            opened = list(self._open)
        for sock in opened:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            number = self.connections
            with self._lock:
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain, number) -> None:
        sock = plain
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.greeting is not None:
                connection = Connection(server=self, sock=plain, number=number)
                self.greeting(connection)
                if not connection.keep:
                    return
            if self.tls is not None:
                sock = self.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(sock)
                _shake_hands(sock)
            rest = b""
            while not self.closing.is_set():
                request, rest = _read_request(sock, rest, number)
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                    count = self._counts[request.path] = self._counts.get(request.path, 0) + 1
                exchange = Exchange(server=self, sock=sock, number=count, request=request)
                self.routes.get(request.path, self.fallback)(exchange)
                if not exchange.keep or (request.header("Connection") or "").lower() == "close":
                    return
        except OSError:  # the peer went away, which some tests are about
            pass
        finally:
            with self._lock:
                self._open.discard(plain)
                self._open.discard(sock)
            sock.close()


def _shake_hands(sock):
    """Do the TLS handshake; if it fails, let the peer read why before the connection is gone."""
    try:
        sock.do_handshake()
    except ssl.SSLError:
        socket.socket.shutdown(sock, socket.SHUT_WR)
        sock.settimeout(1.0)
        while socket.socket.recv(sock, 65536):
            pass
        raise


def _read_request(sock, rest, number):
    while b"\r\n\r\n" not in rest:
        data = sock.recv(65536)
        if not data:
            return None, b""
        rest += data
    head, _, rest = rest.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = [*first.split(" ", 2), "", ""][:3]
    headers = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)]
    raw = head + b"\r\n\r\n"
    request = Request(method, target, headers, raw, number, time.monotonic())
    missing = int(request.header("Content-Length") or 0)
    while len(rest) < missing:
        data = sock.recv(65536)
        if not data:
            return None, b""
        rest += data
    request.body, rest = rest[:missing], rest[missing:]
    return request, rest


# ---------------------------------------------------------------- handlers


@dataclass
class file:  # noqa: N801 -- reads as a function: file(body, cut_after=10)
    """A whole file as a good server has it, then what shall be wrong with it.

    ``etag`` None: none is sent; ``ranges`` False: the Range header is ignored. ``cut_after``: end
    after so many body bytes of an answer (``reset``: by RST). ``stall_after``: send no more after
    so many. ``rate``: bytes a second. ``chunked``: framed by chunks of that many bytes.
    ``length``: the Content-Length to claim (None: the true one; "": no header).
    ``headers``: more of them; one with a known name replaces the usual one.
    """

    body: bytes
    etag: str | None = "auto"
    last_modified: str | None = "Tue, 03 Mar 2026 10:00:00 GMT"
    type: str = "application/octet-stream"
    ranges: bool = True
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    rate: float | None = None
    chunked: int | None = None
    length: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.etag == "auto":
            self.etag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        headers = {"Date": email.utils.formatdate(usegmt=True), "Content-Type": self.type}
        if self.etag is not None:
            headers["ETag"] = self.etag
        if self.last_modified is not None:
            headers["Last-Modified"] = self.last_modified
        if self._unchanged(request):
            exchange.head(304, "Not Modified", headers | dict(self.headers))
            return
        start, stop, size = 0, len(self.body), len(self.body)
        code, reason = 200, "OK"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.header("Range") or "")
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
            if asked and request.header("If-Range") in {None, self.etag, self.last_modified}:
                start = int(asked[1])
                if start >= size:
                    headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
                    exchange.head(416, "Range Not Satisfiable", headers | dict(self.headers))
                    return
                stop = min(size, int(asked[2]) + 1) if asked[2] else size
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
                code, reason = 206, "Partial Content"
        if self.chunked is not None:
            headers["Transfer-Encoding"] = "chunked"
        elif self.length != "":
            headers["Content-Length"] = str(stop - start) if self.length is None else self.length
        exchange.head(code, reason, headers | dict(self.headers))
        if request.method != "HEAD":
            self._send_body(exchange, memoryview(self.body)[start:stop])

    def _unchanged(self, request) -> bool:
        if request.header("If-None-Match") is not None:
            return self.etag is not None and request.header("If-None-Match") == self.etag
        since = request.header("If-Modified-Since")
        return since is not None and since == self.last_modified

    def _send_body(self, exchange, body) -> None:
        limits = [n for n in (self.cut_after, self.stall_after) if n is not None]
        end = min([len(body), *limits])
        if self.chunked is not None:
            for at in range(0, end, self.chunked):
                piece = body[at : min(at + self.chunked, end)]
                exchange.send(f"{min(self.chunked, len(body) - at):x}\r\n".encode())
                self._send_paced(exchange, piece)
                if at + len(piece) < end or end == len(body):
                    exchange.send(b"\r\n")
            if end == len(body) and not limits:
                exchange.send(b"0\r\n\r\n")
        else:
            self._send_paced(exchange, body[:end])
        if self.stall_after is not None and end == self.stall_after:
            exchange.stall()
        elif self.reset and self.cut_after is not None:
            exchange.reset()
        elif self.cut_after is not None or self.length is not None:
            exchange.close()

    def _send_paced(self, exchange, body) -> None:
        if self.rate is None:
            exchange.send(body)
            return
        step = max(1, min(_BLOCK, int(self.rate / 50)))
        for at in range(0, len(body), step):
            exchange.send(body[at : at + step])
            if exchange.server.closing.wait(step / self.rate):
                return


def status(code, reason="", headers=(), body=b"no file here\n") -> Handler:
    """Answer with a status, headers (pairs or mapping) and a body of the right length."""

    def answer(exchange):
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if code not in {204, 304} and code >= 200:
            pairs.append(("Content-Length", str(len(body))))
        exchange.head(code, reason or "Whatever", pairs)
        if code not in {204, 304} and code >= 200:
            exchange.send(body)

    return answer


def redirect(location, code=302, body=b"") -> Handler:
    return status(code, "Elsewhere", [("Location", location)], body)


def html(text="<!doctype html><title>Log in</title>please log in") -> Handler:
    """Answer 200 with a web page where a file was asked for."""
    return status(200, "OK", [("Content-Type", "text/html; charset=utf-8")], text.encode())


def raw(data, then="close") -> Handler:
    """Send bytes as they are, then "close", "reset", "stall" or "keep" the connection."""

    def answer(exchange):
        exchange.send(data)
        if then != "keep":
            getattr(exchange, then)()

    return answer


def dripping(data, size=1, every_s=0.05) -> Handler:
    """Send bytes as they are, ``size`` at a time with a pause before each, then stall."""

    def answer(exchange):
        exchange.drip(data, size, every_s)
        exchange.stall()

    return answer


def endless(data, head=b"") -> Handler:
    """Send ``head`` once and ``data`` for ever."""

    def answer(exchange):
        exchange.send(head)
        while not exchange.server.closing.is_set():
            exchange.send(data)

    return answer


def stalled() -> Handler:
    """Read the request and never answer."""
    return Connection.stall


def interim(data, then: Handler) -> Handler:
    """Send the heads of interim answers (``data``, as they are), then answer."""

    def answer(exchange):
        exchange.send(data)
        then(exchange)

    return answer


def once(first: Handler, then: Handler) -> Handler:
    """Let the next request meet ``first`` and every later one ``then``."""
    handlers = [first]
    return lambda exchange: (handlers.pop() if handlers else then)(exchange)


def flapping(*handlers: Handler) -> Handler:
    """Let the first request for the path meet the first handler, and so on; the last stays."""
    return lambda exchange: handlers[min(exchange.number, len(handlers)) - 1](exchange)


# ---------------------------------------------------------------- TLS


class Authority:
    """Issues certificates. ``ca``: the path of its own one, which clients must trust."""

    def __init__(self, folder: Path) -> None:
        import trustme

        self._authority = trustme.CA()
        path = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(path))
        self.ca = str(path)

    def context(self, *names: str, **options) -> ssl.SSLContext:
        """Return a server's TLS context for ``names`` (default 127.0.0.1).

        ``options`` go to ``trustme.CA.issue_cert``, such as ``not_after``.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        return context

    def client(self, folder: Path) -> tuple[str, str]:
        """Return the paths of a client's certificate and key, issued by this authority."""
        issued = self._authority.issue_cert("client.test")
        cert, key = folder / "client.pem", folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)

    def old_tls_context(self) -> ssl.SSLContext:
        """Return the context of a server that speaks no later TLS than 1.0."""
        context = self.context()
        with warnings.catch_warnings(action="ignore"):  # of the version, which is the point
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context


def certificates(folder: Path, *names: str, **options):
    """Return a server's TLS context from an authority of its own, and its CA file's path."""
    authority = Authority(folder)
    return authority.context(*names, **options), authority.ca


def self_signed_context(folder: Path, name: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the TLS context of a server that vouches for itself."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    address = x509.IPAddress(ipaddress.ip_address(name))
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(called, called, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "self-signed.pem"
    path.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


# ---------------------------------------------------------------- ports without a server


def unused_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens: whoever connects is refused."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


@contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port of 127.0.0.1 whose queue of connections is full: nobody gets an answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting: list[socket.socket] = []
        try:
            while not waiting or select.select([], [waiting[-1]], [], 0.2)[1]:
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            yield int(listener.getsockname()[1])
        finally:
            for sock in waiting:
                sock.close()


# ---------------------------------------------------------------- as a process


@functools.lru_cache(maxsize=8)
def _generated(seed, size) -> file:
    return file(content(seed, size))


def _generate(exchange: Exchange) -> None:
    parts = urlsplit(exchange.request.target)
    if parts.path == "/log":
        log = [
            {
                "method": r.method,
                "target": r.target,
                "status": r.status,
                "sent": r.sent,
                "range": r.header("Range"),
            }
            for r in exchange.server.requests[:-1]
        ]
        status(200, "OK", body=json.dumps(log).encode())(exchange)
        return
    match = re.match(r"/([^/]+)/(\d+)/", parts.path)
    if match is None:
        status(404)(exchange)
        return
    plain = _generated(match[1], int(match[2]))
    known = {"cut_after": int, "stall_after": int, "rate": float, "chunked": int, "etag": str}
    known |= {"reset": bool, "length": str}
    options = {name: known[name](value) for name, value in parse_qsl(parts.query) if name in known}
    answer = plain
    if options:
        answer = file(plain.body, **({"etag": plain.etag} | options))
    answer(exchange)


def _main() -> None:
    parser = argparse.ArgumentParser(description="serve generated files, see the docstring")
    parser.add_argument("--port", type=int, default=0)
    with Server(fallback=_generate, port=parser.parse_args().port) as server:
        print(server.origin, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main()
