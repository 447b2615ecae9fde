"""Digest authentication (RFC 7616): answers to challenges; no password goes over the wire."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from fetchd.transports.access import Login

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 -- a word of RFC 9110 §5.6.2
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_PARAMETER = re.compile(
    rf"(?:({_TOKEN})[ \t]+)?({_TOKEN})[ \t]*=[ \t]*(?:{_QUOTED}|({_TOKEN}))[ \t]*(?:,[ \t]*|$)"
)
_TO_THE_NEXT = re.compile(r"[^,]*,[ \t]*")
_ESCAPED = re.compile(r"\\(.)")
_UNFIT = re.compile(r"[^\x20-\x7e\x80-\xff]")

_Hash = Callable[[bytes], str]
#: The better one first.
_HASHES: dict[str, _Hash] = {
    "sha-256": lambda data: hashlib.sha256(data).hexdigest(),
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
}


@dataclass(slots=True, kw_only=True)
class Challenge:
    """What a server wants hashed. ``uses``: how many requests were answered by it."""

    algorithm: str  # as the server writes it, "" where it names none
    realm: str
    nonce: str
    opaque: str | None
    qop: bool  # auth; without it as in RFC 2069
    stale: bool
    userhash: bool
    cnonce: str
    uses: int = field(default=0)  # guarded by Digest._lock

    @property
    def hash_name(self) -> str:
        return self.algorithm.lower().removesuffix("-sess") or "md5"


class Digest:
    """A user's answers to one origin; its last challenge serves further requests. Any thread."""

    def __init__(self, login: Login, make_cnonce: Callable[[], str] | None = None) -> None:
        self._login = login
        self._make_cnonce = make_cnonce or (lambda: os.urandom(16).hex())
        self._lock = threading.Lock()
        self._latest: Challenge | None = None  # guarded by _lock

    @property
    def latest(self) -> Challenge | None:
        """The last challenge, which the origin may still take."""
        with self._lock:
            return self._latest

    def challenged(self, fields: Sequence[str]) -> Challenge | None:
        """Return the best challenge of the ``WWW-Authenticate`` fields, None if none is known."""
        found = [c for text in fields for c in map(self._read, _challenges(text)) if c is not None]
        if not found:
            return None
        best = min(found, key=lambda challenge: list(_HASHES).index(challenge.hash_name))
        with self._lock:
            self._latest = best
        return best

    def answer(self, challenge: Challenge, target: str, method: str = "GET") -> str:
        """Return the value of ``Authorization`` for one request (RFC 7616 §3.4)."""
        with self._lock:
            challenge.uses += 1
            count = f"{challenge.uses:08x}"
        digest = _HASHES[challenge.hash_name]
        user, realm = self._login.user.encode(), challenge.realm.encode("latin-1")
        nonce, cnonce = challenge.nonce.encode("latin-1"), challenge.cnonce.encode()
        secret = digest(b":".join((user, realm, self._login.password.reveal().encode())))
        if challenge.algorithm.lower().endswith("-sess"):
            secret = digest(b":".join((secret.encode(), nonce, cnonce)))
        asked = digest(f"{method}:{target}".encode("latin-1"))
        proof = [secret.encode(), nonce, asked.encode()]
        if challenge.qop:
            proof[2:2] = [count.encode(), cnonce, b"auth"]
        parts = [
            *self._named(challenge, digest),
            f"realm={_quoted(challenge.realm)}",
            f"nonce={_quoted(challenge.nonce)}",
            f"uri={_quoted(target)}",
            f'response="{digest(b":".join(proof))}"',
        ]
        if challenge.algorithm:
            parts.append(f"algorithm={challenge.algorithm}")
        if challenge.qop:
            parts += ["qop=auth", f"nc={count}", f'cnonce="{challenge.cnonce}"']
        if challenge.opaque is not None:
            parts.append(f"opaque={_quoted(challenge.opaque)}")
        return f"Digest {', '.join(parts)}"

    def _named(self, challenge: Challenge, digest: _Hash) -> list[str]:
        user = self._login.user
        if challenge.userhash:
            hashed = digest(user.encode() + b":" + challenge.realm.encode("latin-1"))
            return [f'username="{hashed}"', "userhash=true"]
        if user.isascii():
            return [f"username={_quoted(user)}"]
        return [f"username*=UTF-8''{quote(user, safe='')}"]

    def _read(self, said: dict[str, str]) -> Challenge | None:
        options = {option.strip().lower() for option in said.get("qop", "").split(",")} - {""}
        challenge = Challenge(
            algorithm=said.get("algorithm", ""),
            realm=said.get("realm", ""),
            nonce=said.get("nonce", ""),
            opaque=said.get("opaque"),
            qop="auth" in options,
            stale=said.get("stale", "").lower() == "true",
            userhash=said.get("userhash", "").lower() == "true",
            cnonce=self._make_cnonce(),
        )
        known = challenge.hash_name in _HASHES and bool(challenge.nonce)
        fit = not any(map(_UNFIT.search, said.values()))
        return challenge if known and fit and (challenge.qop or not options) else None


def _challenges(text: str) -> Iterator[dict[str, str]]:
    """Yield the parameters of each Digest challenge in a field's value (RFC 9110 §11.6.1)."""
    said: dict[str, str] | None = None  # None: of another scheme
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:  # a scheme without parameters, or rubbish
            at = skipped.end() if (skipped := _TO_THE_NEXT.match(text, at)) else len(text)
            continue
        scheme, name, quoted, token = match.groups()
        if scheme is not None:
            if said is not None:
                yield said
            said = {} if scheme.lower() == "digest" else None
        if said is not None:
            value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
            said.setdefault(name.lower(), value)
        at = match.end()
    if said is not None:
        yield said


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
