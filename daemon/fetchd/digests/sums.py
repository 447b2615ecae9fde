"""Sums files: what the lines of ``SHA256SUMS``, ``x.iso.sha256`` and their kin say of a file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from fetchd.digests import ALGORITHMS, Digest, require
from fetchd.errors import ValueProblem

_LONGEST_LINE_BYTES = 16 * 1024

_HEX = r"(?P<hex>[0-9A-Fa-f]{8,128})"
#: As sha256sum writes it, as others do with one space, and as sha256sum reads it.
_GNU = re.compile(rf"{_HEX}(?:[ \t][ *]|[ \t])(?P<name>.+)")
#: As BSD's tools, ``sha256sum --tag`` and openssl write it.
_TAGGED = re.compile(rf"(?P<tag>[A-Za-z0-9/-]{{2,20}}) ?\((?P<name>.+)\) ?= ?{_HEX}")
_LONE = re.compile(rf"{_HEX}(?:[ \t]+\*?-)?")  # "-": the sum of what came by a pipe
_ESCAPE = re.compile(r"\\([\\nr])")
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}

#: How tags and names of files call an algorithm, where it is not called as we do.
_ALIASES = {
    "sha2-256": "sha256", "sha-256": "sha256", "sha2-512": "sha512", "sha-512": "sha512",
    "sha2-384": "sha384", "sha-384": "sha384", "sha2-224": "sha224", "sha-224": "sha224",
    "sha-1": "sha1", "b2": "blake2b", "blake2b-512": "blake2b", "blake2b512": "blake2b",
    "blake2s-256": "blake2s", "blake2s256": "blake2s", "sha3_256": "sha3-256",
    "sha3_512": "sha3-512",
}  # fmt: skip
_IN_FILE_NAME = re.compile(
    "(?<![a-z0-9])("
    + "|".join(map(re.escape, sorted([*ALGORITHMS, *_ALIASES], key=len, reverse=True)))
    + ")(?=sums?(?![a-z0-9])|[^a-z0-9-]|$)"
)
#: What a digest of this length is where nothing says so; a wrong guess can only refuse a file.
_BY_LENGTH = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}

_TWO = ""  # stands for a digest where lines contradict each other

_Table = dict[str, dict[str, str]]  # algorithm -> name -> hex, or _TWO


class Sums:
    """What a sums file says, by the names in it. Never changes once read; any thread."""

    def __init__(self, data: bytes | bytearray, file_name: str) -> None:
        """Read a sums file; ``file_name`` may tell the algorithm, as in ``SHA256SUMS``.

        Lines that are no sums are passed over, as are those of algorithms that fetchd does not
        know. Raises ValueProblem if no line is left, or one needs an extra that is missing.
        """
        self._by_path: _Table = {}
        self._by_name: _Table = {}
        self._lone: dict[str, str] = {}
        said = _algorithm_in(file_name)
        for line in _lines(data):
            self._read(line, said)
        if not self._by_path and not self._lone:
            raise ValueProblem("no line of it is a checksum and a name, and it is no lone checksum")
        for algorithm in {**self._by_path, **self._lone}:
            require(algorithm)

    def of(self, path: str | None, name: str) -> tuple[Digest, ...]:
        """Return the digests of a file, at most one an algorithm, at least one.

        Looked for is its ``path`` below the folder of the sums file (None: not below it), then
        its ``name`` in whatever folder. A checksum without a name, where no other line has one,
        is that of any file. Raises ValueProblem if no line names the file, or two differ.
        """
        found = _found(self._by_path, path) or _found(self._by_name, name)
        if not found and not self._by_path:
            found = self._lone
        if not found:
            raise ValueProblem(f"no line names {_shown(name if path is None else path)}")
        for algorithm, value in found.items():
            if value == _TWO:
                raise ValueProblem(
                    f"its lines give two different {algorithm} checksums for {_shown(name)}"
                )
        return tuple(Digest(algorithm, value) for algorithm, value in found.items())

    def _read(self, line: str, said: str | None) -> None:
        escaped = line.startswith("\\")
        body = line[1:] if escaped else line
        if match := _TAGGED.fullmatch(body):
            tag = match["tag"].lower()
            algorithm = _ALIASES.get(tag, tag)
            if algorithm not in ALGORITHMS or len(match["hex"]) != ALGORITHMS[algorithm][1]:
                return
            name = match["name"]
        elif match := _LONE.fullmatch(body):
            if algorithm := _guess(match["hex"], said):
                _add(self._lone, algorithm, match["hex"].lower())
            return
        elif (match := _GNU.fullmatch(body)) and (algorithm := _guess(match["hex"], said)):
            name = match["name"].lstrip(" \t")
        else:
            return
        if escaped:
            name = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], name)
        while name.startswith("./"):
            name = name[2:].lstrip("/")
        value = match["hex"].lower()
        _add(self._by_path.setdefault(algorithm, {}), name, value)
        _add(self._by_name.setdefault(algorithm, {}), name.rpartition("/")[2], value)


def _lines(data: bytes | bytearray) -> Iterator[str]:
    """Yield the lines that may be sums; a signature around them (RFC 9580 §7) is taken off."""
    signed = signature = False
    for raw in io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")):
        line = raw.rstrip(b"\r\n \t")
        if line.startswith(b"-----"):
            signed |= line == b"-----BEGIN PGP SIGNED MESSAGE-----"
            signature = line == b"-----BEGIN PGP SIGNATURE-----"
        elif line and not line.startswith(b"#") and len(line) < _LONGEST_LINE_BYTES:
            if signed:
                line = line.removeprefix(b"- ")
            if not signature:
                yield line.decode("utf-8", "surrogateescape")


def _guess(value: str, said: str | None) -> str | None:
    """Return the algorithm of a digest: what the file's name says if it fits, else by length."""
    if said is not None and len(value) == ALGORITHMS[said][1]:
        return said
    return _BY_LENGTH.get(len(value))


def _algorithm_in(file_name: str) -> str | None:
    names: list[str] = _IN_FILE_NAME.findall(file_name.lower())
    return _ALIASES.get(names[-1], names[-1]) if names else None


def _add(table: dict[str, str], key: str, value: str) -> None:
    if table.setdefault(key, value) != value:
        table[key] = _TWO


def _found(table: _Table, name: str | None) -> dict[str, str]:
    if not name:
        return {}
    return {algorithm: names[name] for algorithm, names in table.items() if name in names}


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")
