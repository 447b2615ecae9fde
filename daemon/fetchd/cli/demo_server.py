"""The demo's file server: honest ranges, and three ways to go wrong on purpose."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_SLICE_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A body; ``breaks_at``: the first request is cut there; ``bytes_per_s`` None: at once."""

    body: bytes
    breaks_at: int | None = None
    bytes_per_s: int | None = None

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'


class DemoServer(ThreadingHTTPServer):
    """Serves pages on a free port of 127.0.0.1 until the context ends."""

    daemon_threads = True

    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages
        self._lock = threading.Lock()
        self._broken: set[str] = set()  # guarded by _lock
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def breaks_now(self, path: str) -> bool:
        """Return True at the first request only."""
        with self._lock:
            first = path not in self._broken
            self._broken.add(path)
            return first

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients that go away are part of the demo."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DemoServer

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        start = self._start(page)
        self.send_response(206 if start else 200)
        if start:
            total = len(page.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(page.body) - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", page.etag)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        stop = len(page.body)
        if page.breaks_at is not None and self.server.breaks_now(self.path):
            stop, self.close_connection = page.breaks_at, True
        self._send(page, start, stop)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Keep quiet: the daemon tells what happens."""

    def _start(self, page: Page) -> int:
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or self.headers.get("If-Range", page.etag) != page.etag:
            return 0
        start = int(asked[1])
        return start if start < len(page.body) else 0

    def _send(self, page: Page, start: int, stop: int) -> None:
        for offset in range(start, stop, _SLICE_BYTES):
            piece = page.body[offset : min(stop, offset + _SLICE_BYTES)]
            self.wfile.write(piece)
            if page.bytes_per_s is not None:
                time.sleep(len(piece) / page.bytes_per_s)
