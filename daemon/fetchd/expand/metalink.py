"""Metalink documents, version 4 (RFC 5854) and version 3, read as a stream in bounded memory.

Reading stops before a ``<file>`` and goes on there later: what stands before the first one is given
to a new parser once more, and then the rest, as if nothing had been between the two.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO, NoReturn
from xml.parsers import expat
from xml.parsers.expat import errors
from xml.parsers.expat.errors import codes

from fetchd import threads
from fetchd.digests import Digest
from fetchd.errors import ValueProblem
from fetchd.urls import check_url

#: So much of a document is read before anything of it is accepted.
CHECKED_BYTES = 4 * 1024 * 1024
#: Behind so many bytes the first ``<file>`` has to begin; they are read again for each batch.
LONGEST_HEAD_BYTES = 256 * 1024
#: Of a tag with its attributes, or a comment: it is held in memory as a whole.
LONGEST_TOKEN_BYTES = 256 * 1024
#: From the beginning of a ``<file>`` to that of the next one.
LONGEST_FILE_BYTES = 16 * 1024 * 1024
LONGEST_TEXT = 64 * 1024  # of a URL, a hash or a size, in characters
MOST_NAMES = 1000  # of elements and attributes; each stays in memory
DEEPEST = 32
#: As many as a task may have bases.
MOST_SOURCES = 32

_PIECE_BYTES = 64 * 1024
_LARGEST_SIZE_BYTES = 2**63 - 1
_LAST = 999_999  # the priority of a URL that has none (RFC 5854 §4.1.3.4)
_MOST_SHOWN = 60
_V3 = "http://www.metalinker.org/"
_V4 = "urn:ietf:params:xml:ns:metalink"
_ENCODINGS = {"utf-8", "utf-16", "us-ascii", "iso-8859-1"}
#: Before that, an entity of some hundred bytes could become gigabytes.
_SAFE_EXPAT = (2, 4, 1)
#: What expat says at the end of a document that lacks its last part.
_CUT_OFF = {
    codes[name]
    for name in (
        errors.XML_ERROR_NO_ELEMENTS,
        errors.XML_ERROR_UNCLOSED_TOKEN,
        errors.XML_ERROR_PARTIAL_CHAR,
        errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NUMBER = re.compile(r"[0-9]{1,19}")
#: The best first; the others are not asked for, so that nobody hashes twice. What fetchd knows
#: besides finds accidents only.
_STRENGTH = (
    "sha512",
    "sha3-512",
    "blake2b",
    "sha384",
    "sha256",
    "sha3-256",
    "blake2s",
    "sha224",
    "sha1",
    "md5",
)
#: As the registry of hash names writes them (RFC 5854 §4.2.4), as fetchd does.
_ALGORITHMS = {
    **{name: name for name in _STRENGTH},
    **{f"sha-{bits}": f"sha{bits}" for bits in (1, 224, 256, 384, 512)},
}


class MetalinkProblem(ValueProblem):
    """The document cannot be read from here on. Line and column count from 1."""

    def __init__(self, message: str, line: int, column: int | None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)
class ListedFile:
    """What a ``<file>`` says. ``urls``: best first; ``problem``: why it is none to fetch, or ""."""

    line: int
    name: str = ""
    urls: tuple[str, ...] = ()
    digests: tuple[Digest, ...] = ()
    size_bytes: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a ``<file>`` begins: its offset, and the lines before it."""

    offset_bytes: int
    lines: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some files, and where the next one begins (None: that was all, as far as it can be read)."""

    files: list[ListedFile]
    next: Start | None
    problem: MetalinkProblem | None


def read(
    file: BinaryIO,
    start: Start | None,
    hashed: Callable[[bytes], object],
    *,
    most_files: int,
    most_bytes: int,
) -> Stretch:
    """Read on at a ``<file>`` (None: from the beginning), so many files or about so many bytes.

    ``hashed`` is given each byte from ``start`` up to where the next stretch begins.
    """
    parser = _Parser(most_files, most_bytes)
    try:
        if start is None:
            file.seek(0)
        else:
            head, ended = _head_of(file)
            parser.feed(head, lambda _: None)
            parser.go_on(ended, start)
            file.seek(start.offset_bytes)
        while parser.next is None and (piece := file.read(_PIECE_BYTES)):
            parser.feed(piece, hashed)
            threads.beat()
        if parser.next is None:
            parser.end()
    except MetalinkProblem as exc:
        return Stretch(parser.files, None, exc)
    return Stretch(parser.files, parser.next, None)


def files_of(pieces: Iterable[bytes]) -> Iterator[ListedFile]:
    """Yield the files of a document that comes in pieces; raises MetalinkProblem behind them."""
    parser = _Parser(sys.maxsize, sys.maxsize)
    problem: MetalinkProblem | None = None
    for piece in chain(pieces, (b"",)):
        try:
            parser.feed(piece, lambda _: None) if piece else parser.end()
        except MetalinkProblem as exc:
            problem = exc
        yield from parser.files  # those before the mistake too
        parser.files.clear()
        if problem is not None:
            raise problem


def check(file: BinaryIO) -> None:
    """Raise MetalinkProblem if a document is no Metalink, or is cut off.

    Behind ``CHECKED_BYTES`` it may be: to read more would hold up those who wait behind it.
    """
    start: Start | None = None
    while start is None or start.offset_bytes < CHECKED_BYTES:
        stretch = read(file, start, lambda _: None, most_files=1000, most_bytes=CHECKED_BYTES)
        if stretch.problem is not None:
            raise stretch.problem
        if stretch.next is None:
            return
        start = stretch.next


def check_beginning(data: bytes) -> None:
    """Raise MetalinkProblem if no Metalink begins like this."""
    _Parser(0, LONGEST_FILE_BYTES).feed(data, lambda _: None)


def _head_of(file: BinaryIO) -> tuple[bytes, Start]:
    """Return what stands before the first ``<file>``, and where that is; raises MetalinkProblem."""
    parser, head = _Parser(0, LONGEST_FILE_BYTES), b""
    file.seek(0)
    while parser.next is None and (piece := file.read(_PIECE_BYTES)):
        head += piece
        parser.feed(piece, lambda _: None)
    if parser.next is None:
        parser.end()
    assert parser.next is not None  # or the end would have been refused
    return head[: parser.next.offset_bytes], parser.next


class _Stop(Exception):
    """What is still in the parser is left to the next one."""


class _In(enum.Enum):
    """Where the parser stands: in which element, among those that mean something."""

    DOCUMENT = enum.auto()
    V3 = enum.auto()
    V4 = enum.auto()
    FILES = enum.auto()
    FILE_3 = enum.auto()
    FILE_4 = enum.auto()
    VERIFICATION = enum.auto()
    RESOURCES = enum.auto()
    SIZE = enum.auto()
    HASH = enum.auto()
    URL_3 = enum.auto()
    URL_4 = enum.auto()

    @property
    def shown(self) -> str:
        return f"<{self.name.lower().partition('_')[0]}>"


_CHILDREN = {
    (_In.DOCUMENT, f"{_V4} metalink"): _In.V4,
    (_In.V4, f"{_V4} file"): _In.FILE_4,
    (_In.FILE_4, f"{_V4} size"): _In.SIZE,
    (_In.FILE_4, f"{_V4} hash"): _In.HASH,
    (_In.FILE_4, f"{_V4} url"): _In.URL_4,
    (_In.DOCUMENT, f"{_V3} metalink"): _In.V3,
    (_In.V3, f"{_V3} files"): _In.FILES,
    (_In.FILES, f"{_V3} file"): _In.FILE_3,
    (_In.FILE_3, f"{_V3} size"): _In.SIZE,
    (_In.FILE_3, f"{_V3} verification"): _In.VERIFICATION,
    (_In.VERIFICATION, f"{_V3} hash"): _In.HASH,
    (_In.FILE_3, f"{_V3} resources"): _In.RESOURCES,
    (_In.RESOURCES, f"{_V3} url"): _In.URL_3,
}
_FILE = {_In.FILE_3, _In.FILE_4}
_TEXT = {_In.SIZE, _In.HASH, _In.URL_3, _In.URL_4}


@dataclass(slots=True)
class _Draft:
    """A ``<file>`` that is being read."""

    listed: ListedFile
    urls: list[tuple[int, str]] = field(default_factory=list)  # the lowest rank first
    left_out: str = ""  # why the first URL that is no source is none
    digests: dict[str, Digest] = field(default_factory=dict)

    def fail(self, why: str) -> None:
        self.listed.problem = self.listed.problem or why

    def add_size(self, text: str) -> None:
        size_bytes = int(text) if _NUMBER.fullmatch(text) else -1
        if not 0 <= size_bytes <= _LARGEST_SIZE_BYTES:
            self.fail(f"the size {_shown(text)} is no number of bytes")
        elif self.listed.size_bytes not in {None, size_bytes}:
            self.fail(f"has two sizes, {self.listed.size_bytes} and {size_bytes}")
        else:
            self.listed.size_bytes = size_bytes

    def add_hash(self, kind: str, text: str) -> None:
        algorithm = _ALGORITHMS.get(kind.lower())
        if algorithm is None:
            return
        try:
            digest = Digest.parse(f"{algorithm}:{text}")
        except ValueProblem as exc:
            self.fail(str(exc))
            return
        if self.digests.setdefault(algorithm, digest) != digest:
            self.fail(f"has two different {algorithm} hashes")

    def add_url(self, text: str, kind: str, rank: int) -> None:
        match = _SCHEME.match(text)
        scheme = match[1].lower() if match else ""
        if kind not in {"", "http", "https"}:
            self.left_out = self.left_out or f"a URL of type {_shown(kind)}"
        elif scheme not in {"http", "https"}:
            self.left_out = self.left_out or (
                f"a URL of the scheme {_shown(scheme)}" if scheme else f"the URL {_shown(text)}"
            )
        else:
            try:
                self.urls.append((rank, check_url(text)))
            except ValueProblem as exc:
                self.left_out = self.left_out or f"a URL that cannot be fetched: {exc}"

    def done(self) -> ListedFile:
        listed = self.listed
        if not listed.name:
            self.fail("the <file> has no name")
        if not self.urls:
            found = f"it has {self.left_out}" if self.left_out else "it has none"
            self.fail(f"no URL of the file is one that fetchd fetches (http, https); {found}")
        best_first = [url for _, url in sorted(self.urls, key=lambda ranked: ranked[0])]
        listed.urls = tuple(dict.fromkeys(best_first))[:MOST_SOURCES]
        strongest = min(self.digests, key=_STRENGTH.index, default=None)
        listed.digests = () if strongest is None else (self.digests[strongest],)
        return listed


class _Parser:
    """Takes pieces of a document; ``files`` are those that ended, ``next`` where it stopped."""

    def __init__(self, most_files: int, most_bytes: int) -> None:
        self.files: list[ListedFile] = []
        self.next: Start | None = None
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._within = [_In.DOCUMENT]
        self._skipped = 0  # how deep in what means nothing here
        self._in_head = True  # no <file> has come yet
        self._has_files = False  # the one <files> of version 3 has begun
        self._draft: _Draft | None = None
        self._texts: list[str] | None = None
        self._text_length = 0
        self._attributes: dict[str, str] = {}
        self._pending = bytearray()  # what the parser has not dealt with yet
        self._dealt_bytes = 0  # the offset of that
        self._began_bytes = 0  # of what is read for this stretch
        self._mark_bytes = 0  # where the latest <file> begins
        # From places of the parser to those of the document, once it has gone on elsewhere.
        self._ahead_bytes = self._ahead_lines = 0
        self._seam_line = 0  # whose columns are unknown
        if expat.version_info < _SAFE_EXPAT:
            raise MetalinkProblem(
                f"{expat.EXPAT_VERSION} is too old to read what may be hostile; update it", 1, 1
            )
        self._expat = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declared
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartNamespaceDeclHandler = lambda *_: None  # or its names would not be counted
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def go_on(self, head: Start, start: Start) -> None:
        """Take what is fed next for what stands at ``start``; what was fed ended at ``head``."""
        self._ahead_bytes = start.offset_bytes - head.offset_bytes
        self._ahead_lines = start.lines - head.lines
        self._seam_line = start.lines + 1
        self._dealt_bytes = self._began_bytes = self._mark_bytes = start.offset_bytes
        self._pending.clear()
        self._in_head = False

    def feed(self, piece: bytes, hashed: Callable[[bytes], object]) -> None:
        """Take the next piece; raises MetalinkProblem."""
        self._pending += piece
        self._parse(piece, final=False)
        self._hand_over(self._here_bytes if self.next is None else self.next.offset_bytes, hashed)
        if self.next is not None:
            return
        if len(self._pending) > LONGEST_TOKEN_BYTES:
            self._refuse(f"a tag or comment is longer than {LONGEST_TOKEN_BYTES // 1024} KiB")
        if self._in_head and self._dealt_bytes > LONGEST_HEAD_BYTES:
            self._refuse(f"no <file> begins in the first {LONGEST_HEAD_BYTES // 1024} KiB")
        if self._dealt_bytes - self._mark_bytes > LONGEST_FILE_BYTES:
            self._refuse(
                f"a <file> does not end within {LONGEST_FILE_BYTES // 1024**2} MiB, or none follows"
            )
        if len(self._expat.intern) > MOST_NAMES:
            self._refuse(f"elements and attributes have more than {MOST_NAMES} names")

    def end(self) -> None:
        """Say that nothing follows; raises MetalinkProblem."""
        self._parse(b"", final=True)
        if self._in_head:
            self._refuse("the Metalink names no <file>")

    def _parse(self, piece: bytes, *, final: bool) -> None:
        try:
            self._expat.Parse(piece, final)
        except _Stop:
            pass
        except expat.ExpatError as exc:
            if exc.code in _CUT_OFF:
                self._refuse("the file is cut off: it ends before </metalink>")
            why = expat.ErrorString(exc.code)
            why = why.removeprefix("not well-formed (").removesuffix(")")
            self._refuse(f"the file is not well-formed XML: {why}")

    def _hand_over(self, until_bytes: int, hashed: Callable[[bytes], object]) -> None:
        count = max(0, until_bytes - self._dealt_bytes)
        if count:
            hashed(bytes(self._pending[:count]))
            del self._pending[:count]
            self._dealt_bytes += count

    @property
    def _here_bytes(self) -> int:
        return max(0, self._expat.CurrentByteIndex) + self._ahead_bytes

    @property
    def _here_line(self) -> int:
        return self._expat.CurrentLineNumber + self._ahead_lines

    def _refuse(self, message: str) -> NoReturn:
        line = self._here_line
        column = None if line == self._seam_line else self._expat.CurrentColumnNumber + 1
        raise MetalinkProblem(message, line, column)

    # ------------------------------------------------------------ told by expat

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            self._refuse(f"the encoding {_shown(encoding)} is not read; write it in UTF-8")

    def _doctype(self, *_: object) -> None:
        self._refuse("a document type (<!DOCTYPE) is not allowed in a Metalink; leave it out")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._within) + self._skipped > DEEPEST:
            self._refuse(f"elements are nested deeper than {DEEPEST}")
        entered = None if self._skipped else _CHILDREN.get((self._within[-1], tag))
        if entered is None:
            if self._within == [_In.DOCUMENT]:
                self._refuse(_no_metalink(tag))
            self._skipped += 1
            return
        self._within.append(entered)
        if entered in _FILE:
            self._start_file(attributes)
        elif entered in _TEXT:
            self._texts, self._text_length, self._attributes = [], 0, attributes
        elif entered is _In.FILES:
            if self._has_files:
                self._refuse("there is a second <files>; a Metalink has one")
            self._has_files = True

    def _start_file(self, attributes: dict[str, str]) -> None:
        here_bytes, line = self._here_bytes, self._here_line
        read_bytes = here_bytes - self._began_bytes
        if len(self.files) >= self._most_files or read_bytes >= self._most_bytes:
            self.next = Start(here_bytes, line - 1)
            raise _Stop
        self._in_head = False
        self._mark_bytes = here_bytes
        self._draft = _Draft(ListedFile(line=line, name=attributes.get("name", "")))

    def _characters(self, text: str) -> None:
        if self._texts is not None and not self._skipped:
            self._text_length += len(text)
            if self._text_length <= LONGEST_TEXT:
                self._texts.append(text)

    def _end(self, _tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        left = self._within.pop()
        draft = self._draft
        if draft is None:
            return
        if left in _FILE:
            self.files.append(draft.done())
            self._draft = None
        elif self._texts is not None:
            if self._text_length > LONGEST_TEXT:
                draft.fail(f"a {left.shown} is longer than {LONGEST_TEXT} characters")
            else:
                self._take(draft, left, "".join(self._texts).strip(" \t\r\n"))
            self._texts = None

    def _take(self, draft: _Draft, told_by: _In, text: str) -> None:
        attributes = self._attributes
        if told_by is _In.SIZE:
            draft.add_size(text)
        elif told_by is _In.HASH:
            draft.add_hash(attributes.get("type", ""), text)
        elif told_by is _In.URL_4:
            draft.add_url(text, "", _number(attributes.get("priority"), _LAST))
        else:
            rank = -_number(attributes.get("preference"), 0)
            draft.add_url(text, attributes.get("type", "").lower(), rank)


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else otherwise


def _no_metalink(tag: str) -> str:
    space, _, name = tag.rpartition(" ")
    found = f"<{_shown_bare(name)}> of {_shown(space)}" if space else f"<{_shown_bare(name)}>"
    return (
        f'the file begins with {found}; a Metalink begins with <metalink xmlns="{_V4}"> or "{_V3}"'
    )


def _shown(text: str) -> str:
    return repr(_shown_bare(text))


def _shown_bare(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
