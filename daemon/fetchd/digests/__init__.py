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


class _Crc32c:
    def __init__(self) -> None:
        import google_crc32c  # noqa: PLC0415 -- an extra, and only for those who ask for it

        self._extend = google_crc32c.extend
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = self._extend(self._value, bytes(data))  # it takes no other buffer

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _xxh64() -> Hasher:
    import xxhash  # noqa: PLC0415 -- as above

    return xxhash.xxh64()


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
    "crc32c": (_Crc32c, 8),
    "xxh64": (_xxh64, 16),
}
_EXTRA = {"crc32c", "xxh64"}

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
        require(algorithm)
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def require(algorithm: str) -> None:
    """Raise ValueProblem if the algorithm needs an extra of fetchd that is not installed."""
    if algorithm in _EXTRA:
        try:
            ALGORITHMS[algorithm][0]()
        except ImportError:
            raise ValueProblem(
                f"{algorithm} checksums need an extra that is not installed; "
                "install fetchd[hashes] where fetchd runs"
            ) from None


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
