"""Digests: which algorithms exist, how ``algorithm:hex`` is read, how bytes are hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from fetchd.errors import ValueProblem


class Hasher(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


#: Name in a job file -> (constructor, length of the hex text).
ALGORITHMS: dict[str, tuple[Callable[[], Hasher], int]] = {
    "sha256": (hashlib.sha256, 64),
    "sha512": (hashlib.sha512, 128),
    "sha1": (lambda: hashlib.sha1(usedforsecurity=False), 40),
    "md5": (lambda: hashlib.md5(usedforsecurity=False), 32),
    "sha384": (hashlib.sha384, 96),
    "sha224": (hashlib.sha224, 56),
    "blake2b": (hashlib.blake2b, 128),
    "blake2s": (hashlib.blake2s, 64),
    "sha3-256": (hashlib.sha3_256, 64),
    "sha3-512": (hashlib.sha3_512, 128),
}

_FORM = re.compile(r"([A-Za-z0-9-]+):([0-9A-Fa-f]+)")


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest of ``algorithm:hex``; raises ValueProblem, unknown fails closed."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueProblem(
                f"{text!r} is not a checksum; write algorithm:hex, such as sha256:9f86d0..."
            )
        algorithm, value = match[1].lower(), match[2].lower()
        if algorithm not in ALGORITHMS:
            near = get_close_matches(algorithm, ALGORITHMS, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            known = ", ".join(ALGORITHMS)
            raise ValueProblem(f"unknown checksum algorithm {match[1]!r}{meant}; known: {known}")
        length = ALGORITHMS[algorithm][1]
        if len(value) != length:
            raise ValueProblem(
                f"a {algorithm} checksum has {length} hex digits, this one has {len(value)}"
            )
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hashes:
    """Several hashers over the same bytes; one thread only."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashers = {name: ALGORITHMS[name][0]() for name in dict.fromkeys(algorithms)}

    def update(self, data: bytes | bytearray | memoryview) -> None:
        for hasher in self._hashers.values():
            hasher.update(data)

    def digests(self) -> tuple[Digest, ...]:
        return tuple(Digest(name, hasher.hexdigest()) for name, hasher in self._hashers.items())

    def __bool__(self) -> bool:
        return bool(self._hashers)
