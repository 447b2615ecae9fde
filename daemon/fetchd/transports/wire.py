"""An answer as it comes off the wire: bytes that have arrived, and heads read by RFC 9112."""

from __future__ import annotations

import http.client
import re
import ssl
from typing import Protocol

from fetchd.errors import AttemptError
from fetchd.values import dataclass

MOST_HEAD_BYTES = 64 * 1024
MOST_FIELDS = 100
MOST_INTERIM = 20

_RECEIVE_BYTES = 64 * 1024
_TLS_RECORD_BYTES = 16 * 1024  # at most, RFC 8446 §5.1
_VERSION = b"HTTP/1."
# RFC 9112 §4; the reason phrase may be missing, and with it the space before it.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
# RFC 9112 §5, RFC 9110 §5.5: no space before the colon, no control character in the value.
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_FIELDS = re.compile(rb"(?:" + _FIELD.pattern + rb"\r\n)*")
_FOLD = re.compile(rb"\r\n[\t ]+")
_BARE_LF = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class RawHead:
    """Status line and fields of a final answer.

    ``minor``: of the version HTTP/1.x. ``fields``: name in lower case -> its values in order,
    without the space around them; bytes beyond ASCII as Latin-1.
    """

    minor: int
    status: int
    fields: dict[str, list[str]]


class _Socket(Protocol):
    def recv(self, most: int, /) -> bytes: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...


class Received:
    """The receiving side of a connection for the length of one answer. One thread."""

    def __init__(self, sock: _Socket) -> None:
        self._sock = sock
        self._data = bytearray()  # received, and not read yet from ``_at`` on
        self._at = 0
        self._broken: OSError | None = None  # met behind what was read, and raised by the next read

    def head(self) -> RawHead:
        """Return the head of the final answer, the interim ones before it skipped.

        Raises AttemptError (bad_response), RemoteDisconnected when not a byte came, and whatever
        the socket raises.
        """
        for _ in range(MOST_INTERIM + 1):
            head = parse_head(self._head_block())
            if head.status >= 200:
                return head
            if head.status == 101:
                raise AttemptError("bad_response", "the server changes the protocol, unasked")
        raise AttemptError("bad_response", f"more than {MOST_INTERIM} interim answers came")

    def line(self, most_bytes: int) -> bytes | None:
        """Return the next line without its CR LF; None: the connection ended before that.

        Raises AttemptError (bad_framing) for a longer line, and for one that ends in LF alone.
        """
        while (end := self._data.find(b"\n", self._at, self._at + most_bytes)) < 0:
            if len(self._data) - self._at >= most_bytes:
                raise AttemptError("bad_framing", "the line of a chunk is too long")
            if not self._receive():
                return None
        line, self._at = bytes(self._data[self._at : end]), end + 1
        if not line.endswith(b"\r"):
            raise AttemptError("bad_framing", "the line of a chunk does not end in CR LF")
        return line[:-1]

    def readinto(self, buffer: memoryview) -> int:
        """Read what is there, else what arrives first; 0 = the connection ended."""
        there = len(self._data) - self._at
        if not there:
            if self._broken is not None:
                raise self._broken
            got = self._sock.recv_into(buffer)
            if got >= _TLS_RECORD_BYTES and isinstance(self._sock, ssl.SSLSocket):
                got = self._read_on(self._sock, buffer, got)
            return got
        count = min(there, len(buffer))
        buffer[:count] = memoryview(self._data)[self._at : self._at + count]
        self._at += count
        return count

    def _read_on(self, sock: ssl.SSLSocket, buffer: memoryview, got: int) -> int:
        """Fill the buffer with the records that have arrived: a read of TLS brings but one."""
        limit_s = sock.gettimeout()
        sock.settimeout(0.0)
        try:
            while got < len(buffer) and (more := sock.recv_into(buffer[got:])):
                got += more
        except ssl.SSLWantReadError:
            pass
        except OSError as exc:  # OpenSSL tells it once; behind it all looks like a good end
            self._broken = exc
        finally:
            sock.settimeout(limit_s)
        return got

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Read what matches a pattern, if that is there; receives nothing."""
        match = pattern.match(self._data, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def waits(self) -> bool:
        """Tell whether the next read has to wait for the connection."""
        return self._at == len(self._data)

    def left_over(self) -> bool:
        """Tell whether bytes have arrived that nobody read: they would pass for the next answer.

        What is still on its way is seen when the connection is taken from the pool again.
        """
        sock = self._sock
        return self._at < len(self._data) or (
            isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        )

    def _head_block(self) -> bytes:
        """Return the bytes up to and without the empty line."""
        seen = 0  # so many bytes hold no end, nor the beginning of one
        if self._at == len(self._data) and not self._receive():
            raise http.client.RemoteDisconnected("")
        while (end := self._data.find(b"\r\n\r\n", self._at + seen)) < 0:
            self._refuse_early(seen)
            seen = max(0, len(self._data) - self._at - 3)
            if not self._receive():
                if self._at == len(self._data):
                    raise http.client.RemoteDisconnected("")
                raise AttemptError(
                    "bad_response", "the connection ended inside the head of the answer"
                )
        block, self._at = bytes(self._data[self._at : end]), end + 4
        if len(block) > MOST_HEAD_BYTES:
            raise _too_long()
        return block

    def _refuse_early(self, seen: int) -> None:
        """Refuse what can never become a head, without waiting for its end.

        The first ``seen`` bytes have been looked at before.
        """
        there = len(self._data) - self._at
        if not self._data.startswith(_VERSION[:there], self._at):
            raise _not_http()
        if _BARE_LF.search(self._data, self._at + seen):
            raise _malformed()
        if there > MOST_HEAD_BYTES:
            raise _too_long()

    def _receive(self) -> bool:
        data = self._sock.recv(_RECEIVE_BYTES)
        del self._data[: self._at]
        self._data += data
        self._at = 0
        return bool(data)


def parse_head(block: bytes) -> RawHead:
    """Read a head without the empty line behind it; raises AttemptError (bad_response)."""
    start, _, rest = block.partition(b"\r\n")
    match = _STATUS_LINE.fullmatch(start)
    if match is None:
        raise _not_http()
    fields: dict[str, list[str]] = {}
    if rest:
        if b"\r\n " in rest or b"\r\n\t" in rest:
            rest = _FOLD.sub(b" ", rest)  # RFC 9112 §5.2: what a user agent must do
        lines = rest.decode("latin-1").split("\r\n")
        if len(lines) > MOST_FIELDS:
            raise AttemptError("bad_response", f"the answer has more than {MOST_FIELDS} headers")
        if not _FIELDS.fullmatch(rest + b"\r\n"):
            raise _malformed()
        for line in lines:
            name, _, value = line.partition(":")
            fields.setdefault(name.lower(), []).append(value.strip("\t "))
    return RawHead(int(match[1]), int(match[2]), fields)


def is_field(line: bytes) -> bool:
    """Tell whether a line has the form of a header, as the trailers behind chunks must have."""
    return _FIELD.fullmatch(line) is not None


def _not_http() -> AttemptError:
    return AttemptError("bad_response", "what the server answers is not HTTP/1.0 or HTTP/1.1")


def _malformed() -> AttemptError:
    return AttemptError("bad_response", "the head of the answer has a malformed line")


def _too_long() -> AttemptError:
    return AttemptError(
        "bad_response", f"the head of the answer is longer than {MOST_HEAD_BYTES // 1024} KiB"
    )
