"""Sums files: what the lines of ``SHA256SUMS``, ``x.iso.sha256`` and their kin say of a file."""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

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
_ALGORITHM = "|".join(map(re.escape, sorted([*ALGORITHMS, *_ALIASES], key=len, reverse=True)))
_IN_FILE_NAME = re.compile(f"(?<![a-z0-9])({_ALGORITHM})(?=sums?(?![a-z0-9])|[^a-z0-9-]|$)")
#: How files of checksums are called: x.iso.sha256 or x.sha256sums, SHA256SUMS or tool_SHA256SUMS.
_OF_FILE = re.compile(
    rf"(?P<stem>.+)\.(?:{_ALGORITHM})(?:sums?)?(?:\.txt)?", re.IGNORECASE | re.DOTALL
)
_OF_FOLDER = re.compile(
    rf"(?P<prefix>(?:.*[._-])?)(?:{_ALGORITHM})sums?(?P<text>(?:\.txt)?)", re.IGNORECASE | re.DOTALL
)
#: What a digest of this length is where nothing says so; a wrong guess can only refuse a file.
_BY_LENGTH = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}

_LINE = re.compile(rb"[^\n]+")
_BLANK = b"\r\n \t"

#: What an index costs is bounded by this, and what one question costs.
MOST_LINES = 100_000
_MOST_LINES_OF_A_NAME = 1000

_OFFSETS = 1 << 32


class _Sum(NamedTuple):
    """What a line says; ``name`` None: of whatever file asks."""

    algorithm: str
    hex: str
    name: str | None


class Sums:
    """What a sums file says, by the names in it. Never changes once read; any thread.

    Kept are its bytes, and a sorted index of eight bytes a name: hash of the name, offset of the
    line. A line is read again whenever it is asked for.
    """

    def __init__(self, data: bytes | bytearray, file_name: str) -> None:
        """Read a sums file; ``file_name`` may tell the algorithm, as in ``SHA256SUMS``.

        Lines that are no sums are passed over, as are those of algorithms that fetchd does not
        know. Raises ValueProblem if no line is left, there are too many, or one needs an extra
        that is missing. ``data`` must not change any more.
        """
        self._data = data
        self._said = _algorithm_in(file_name)
        self._lone: dict[str, set[str]] = {}
        algorithms = set[str]()
        keys = array("Q")
        lines = 0
        for offset, line in _lines(data):
            found = _read(line, self._said)
            if found is None:
                continue
            algorithms.add(found.algorithm)
            if found.name is None:
                _add(self._lone, found)
                continue
            lines += 1
            if lines > MOST_LINES:
                raise ValueProblem(f"it has more than {MOST_LINES} lines")
            keys.append(_key(found.name) + offset)
            if "/" in found.name:
                keys.append(_key(_anywhere(found.name)) + offset)
        if not algorithms:
            raise ValueProblem("no line of it is a checksum and a name, and it is no lone checksum")
        for algorithm in algorithms:
            require(algorithm)
        self._keys = array("Q", sorted(keys))

    @property
    def weight_bytes(self) -> int:
        """What it takes of memory, nearly."""
        return sys.getsizeof(self._data) + sys.getsizeof(self._keys)

    def of(self, path: str | None, name: str) -> tuple[Digest, ...]:
        """Return the digests of a file, at most one an algorithm, at least one.

        Looked for is its ``path`` below the folder of the sums file (None: not below it), then
        its ``name`` in whatever folder. A checksum without a name, where no other line has one,
        is that of any file. Raises ValueProblem if no line names the file, or two differ.
        """
        found: dict[str, set[str]] = {}
        if path:
            found = self._found([path], lambda said: said == path)
        if name and not found:
            found = self._found([name, _anywhere(name)], lambda said: _last(said) == name)
        if not found and not self._keys:
            found = self._lone
        if not found:
            raise ValueProblem(f"no line names {_shown(name if path is None else path)}")
        for algorithm, values in found.items():
            if len(values) > 1:
                raise ValueProblem(
                    f"its lines give two different {algorithm} checksums for {_shown(name)}"
                )
        return tuple(Digest(algorithm, value) for algorithm, (value,) in found.items())

    def _found(self, keys: list[str], fits: Callable[[str], bool]) -> dict[str, set[str]]:
        """Return what the lines say that stand in the index under one of the keys, and fit."""
        offsets = []
        for key in map(_key, keys):
            first, last = bisect_left(self._keys, key), bisect_left(self._keys, key + _OFFSETS)
            offsets += [one % _OFFSETS for one in self._keys[first:last]]
        if len(offsets) > _MOST_LINES_OF_A_NAME:
            raise ValueProblem(
                f"more than {_MOST_LINES_OF_A_NAME} of its lines name {_shown(keys[0])}"
            )
        found: dict[str, set[str]] = {}
        for offset in sorted(offsets):
            line = _LINE.match(self._data, offset)
            one = line and _read(line[0].rstrip(_BLANK), self._said)
            if one and one.name is not None and fits(one.name):
                _add(found, one)
        return found


def _lines(data: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """Yield offset and text of the lines that may be sums.

    A signature around them (RFC 9580 §7) is taken off.
    """
    signing = _Signing()
    for match in _LINE.finditer(data, 3 if data.startswith(b"\xef\xbb\xbf") else 0):
        offset = match.start()
        if match.end() - offset > _LONGEST_LINE_BYTES:
            continue
        line = match[0].rstrip(_BLANK)
        if text := signing.take_off(line):
            yield offset + len(line) - len(text), text


def read_sums(lines: Iterable[bytes], file_name: str) -> Iterator[tuple[str, Digest]]:
    """Yield name and digest of each line that names a file; the others are passed over.

    ``lines``: without their ends, none above 16 KiB; ``file_name``: as in ``Sums``. Raises
    ValueProblem where an algorithm needs an extra that is missing.
    """
    signing, said = _Signing(), _algorithm_in(file_name)
    for line in lines:
        text = signing.take_off(line.rstrip(_BLANK))
        found = _read(text, said) if text else None
        if found is not None and found.name is not None:
            require(found.algorithm)
            yield found.name, Digest(found.algorithm, found.hex)


def read_sum(line: bytes, file_name: str) -> tuple[str | None, Digest] | None:
    """Return name (None: it has none) and digest of a line without its end, None: it is no sum.

    ``file_name``: as in ``Sums``. Raises ValueProblem where an algorithm needs an extra that is
    missing.
    """
    found = _read(line, _algorithm_in(file_name))
    if found is None:
        return None
    require(found.algorithm)
    return found.name, Digest(found.algorithm, found.hex)


def is_sum(line: bytes) -> bool:
    """Tell whether a line without its end is a checksum, with a name or alone."""
    return _read(line, None) is not None


def is_sums_file(name: str) -> bool:
    """Tell whether a file of this name says of checksums that it has them: SHA256SUMS, x.md5."""
    return (_OF_FILE.fullmatch(name) or _OF_FOLDER.fullmatch(name)) is not None


def summed_file(name: str) -> str:
    """Return of which file ``x.iso.sha256`` is the checksum, "" where its name does not say."""
    match = _OF_FILE.fullmatch(name)
    return match["stem"] if match else ""


def is_of_a_folder(name: str) -> bool:
    """Tell whether a sums file is called like those of all folders, as SHA256SUMS is."""
    match = _OF_FOLDER.fullmatch(name)
    return match is not None and not match["prefix"]


class _Signing:
    """Takes a signature (RFC 9580 §7) off the lines between which it stands."""

    def __init__(self) -> None:
        self._signed = self._signature = False

    def take_off(self, line: bytes) -> bytes:
        """Return the line as it was before it was signed, b"" if it is none of the sums."""
        if line.startswith(b"-----"):
            self._signed |= line == b"-----BEGIN PGP SIGNED MESSAGE-----"
            self._signature = line == b"-----BEGIN PGP SIGNATURE-----"
            return b""
        if line.startswith(b"#") or self._signature:
            return b""
        return line[2:] if self._signed and line.startswith(b"- ") else line


def _read(line: bytes, said: str | None) -> _Sum | None:
    """Read a line; ``said``: the algorithm that the name of the sums file tells."""
    text = line.decode("utf-8", "surrogateescape")
    escaped = text.startswith("\\")
    text = text.removeprefix("\\")
    name: str | None
    if match := _TAGGED.fullmatch(text):
        algorithm, name = _by_tag(match["tag"].lower(), match["hex"]), match["name"]
    elif match := _LONE.fullmatch(text):
        algorithm, name = _guess(match["hex"], said), None
    elif match := _GNU.fullmatch(text):
        algorithm, name = _guess(match["hex"], said), match["name"].lstrip(" \t")
    else:
        return None
    if algorithm is None:
        return None
    if name is not None:
        if escaped:
            name = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], name)
        while name.startswith("./"):
            name = name[2:].lstrip("/")
    return _Sum(algorithm, match["hex"].lower(), name)


def _by_tag(tag: str, value: str) -> str | None:
    algorithm = _ALIASES.get(tag, tag)
    fits = algorithm in ALGORITHMS and len(value) == ALGORITHMS[algorithm][1]
    return algorithm if fits else None


def _key(name: str) -> int:
    """Return the place of a name in an index, for offset 0; those of other names may be equal."""
    return hash(name) % _OFFSETS * _OFFSETS


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _anywhere(name: str) -> str:
    """Return under what a name with folders stands in an index, besides itself."""
    return "/" + _last(name)


def _guess(value: str, said: str | None) -> str | None:
    """Return the algorithm of a digest: what the file's name says if it fits, else by length."""
    if said is not None and len(value) == ALGORITHMS[said][1]:
        return said
    return _BY_LENGTH.get(len(value))


def _algorithm_in(file_name: str) -> str | None:
    names: list[str] = _IN_FILE_NAME.findall(file_name.lower())
    return _ALIASES.get(names[-1], names[-1]) if names else None


def _add(found: dict[str, set[str]], one: _Sum) -> None:
    """Keep two different values at most: they contradict each other, as would any more."""
    values = found.setdefault(one.algorithm, set())
    if len(values) < 2:
        values.add(one.hex)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")
