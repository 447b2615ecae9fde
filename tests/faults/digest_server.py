"""A server that wants digest authentication, with a check of its own (RFC 7616 §3.4)."""

from __future__ import annotations

import hashlib
import re

from faults.server import Server

_PART = re.compile(r'([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))')


class DigestServer(Server):
    """Gives its routes, now called ``behind``, to those who prove the password.

    ``algorithm``, ``qop`` (None: as RFC 2069). Each nonce is good for ``lasts`` requests and then
    stale; ``also``: challenges of other schemes beside ours.
    """

    def __init__(
        self,
        routes,
        user,
        password,
        *,
        behind=None,
        algorithm="SHA-256",
        qop="auth",
        lasts=10**9,
        also=(),
    ):
        super().__init__(fallback=self._guarded)
        self.behind = dict(routes)
        self.user, self.password = user, password
        self.algorithm, self.qop, self.lasts, self.also = algorithm, qop, lasts, also
        self._otherwise = behind
        self._nonces: dict[str, set[str]] = {}  # nonce -> counts that were used
        self._made = 0

    def _guarded(self, exchange):
        stale = self._refused(exchange.request)
        if stale is None:
            handler = self.behind.get(exchange.request.path, self._otherwise)
            handler(exchange)
            return
        with self._lock:
            self._made += 1
            nonce = f"nonce/{self._made}="
            self._nonces[nonce] = set()
        parts = ['realm="the \\"realm\\", quoted"', f'nonce="{nonce}"', 'opaque="o/p=="']
        parts += [f'qop="{self.qop}"'] if self.qop else []
        parts += [f"algorithm={self.algorithm}"] if self.algorithm else []
        parts += ["stale=true"] if stale else []
        fields = [("WWW-Authenticate", text) for text in (*self.also, f"Digest {', '.join(parts)}")]
        exchange.head(401, "Unauthorized", [*fields, ("Content-Length", "0")])

    def _refused(self, request):
        """Return None for a right proof, else whether only its nonce is stale."""
        text = request.header("Authorization") or ""
        said = {k: quoted or plain for k, quoted, plain in _PART.findall(text)}
        if not text.startswith("Digest ") or said.get("nonce") not in self._nonces:
            return False
        name = self.algorithm.lower().removesuffix("-sess").replace("-", "") or "md5"

        def digest(words):
            return hashlib.new(name, words.encode()).hexdigest()

        proof = digest(f'{self.user}:the "realm", quoted:{self.password}')
        if self.algorithm.lower().endswith("-sess"):
            proof = digest(f"{proof}:{said['nonce']}:{said['cnonce']}")
        asked = digest(f"{request.method}:{request.target}")
        middle = f"{said['nonce']}:"
        if self.qop:
            middle += f"{said['nc']}:{said['cnonce']}:{said['qop']}:"
        right = (
            said["response"] == digest(f"{proof}:{middle}{asked}")
            and said["username"] == self.user
            and said["uri"] == request.target
            and said["opaque"] == "o/p=="
        )
        if not right:
            return False
        used = self._nonces[said["nonce"]]
        if len(used) >= self.lasts or said.get("nc") in used:
            return True
        used.add(said.get("nc"))
        return None
