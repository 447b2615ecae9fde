"""http and https: asks for the bytes of a URL, follows redirects, believes nothing unchecked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urldefrag, urlsplit

from fetchd.clock import Clock
from fetchd.errors import AttemptError, ConfigError, NotWanted, ValueProblem
from fetchd.ports import RangeRefused, Request
from fetchd.transports.body import Body
from fetchd.transports.connections import Adapter, Call, Carrier, tls_context
from fetchd.transports.cookies import Cookies
from fetchd.transports.deadlines import Deadlines, Watch
from fetchd.transports.faults import Phase, attempt_error, peer_left
from fetchd.transports.head import (
    REDIRECTS,
    Extent,
    Head,
    extent_of,
    next_url,
    refuse_encoding,
    unsatisfied_total,
)
from fetchd.transports.question import Question
from fetchd.transports.resolver import Line
from fetchd.urls import check_url, origin_of, redact_url

_NEVER_FOREIGN = (AttemptError, NotWanted, MemoryError)


class _Answer:
    """An answer whose head has arrived, and its connection. One thread."""

    def __init__(self, carrier: Carrier, call: Call, url: str, host: str) -> None:
        assert call.answer is not None
        head, self._received = call.answer
        self.head = Head(url, head)
        self.host = host
        self._carrier = carrier
        self._call = call

    def body(self, extent: Extent) -> Body:
        return Body(self._received, length=extent.length, chunked=extent.chunked)

    def done(self) -> None:
        """Give the connection back: the body was read to its end."""
        if not self.head.keeps_connection() or self._received.left_over():
            self.drop()
            return
        self._call.watch.release()  # from here on the socket may serve another attempt
        self._carrier.release_conn()

    def drop(self) -> None:
        """Close the connection, whatever else it would have brought."""
        self._call.watch.release()
        with suppress(OSError):
            self._carrier.close()
        self._carrier.release_conn()

    def discard(self) -> None:
        """End an answer whose body nobody wants; one without a body may leave its connection."""
        if self.head.status in {204, 304} or self.head.all("content-length") == ["0"]:
            self.done()
        else:
            self.drop()


class HttpStream:
    """The body of an answer (``ports.Stream``)."""

    held_s = 0.0  # whoever holds it back wraps it

    def __init__(
        self,
        answer: _Answer,
        extent: Extent | None,
        *,
        watch: Watch,
        stall_s: float,
        final_url: str,
    ) -> None:
        """``extent`` None: the origin says that the file is unchanged."""
        head = answer.head
        self.start = extent.start if extent else 0
        self.total = extent.total if extent else None
        # A part of a file of unknown length may end before the file does.
        self.framed = extent is None or extent.chunked or extent.length is not None
        if head.status == 206 and self.total is None:
            self.framed = False
        self.not_modified = extent is None
        self.validator = head.validator()
        self.content_type = head.content_type()
        self.final_url = final_url
        self._answer: _Answer | None = answer  # None: the connection is gone or given back
        self._watch = watch
        self._stall_s = stall_s
        self._stalled = f"no data for {stall_s:g} s from {answer.host}"
        self._body = answer.body(extent) if extent else None
        if self._body is None or self._body.ended:
            self._finish()

    def readinto(self, buffer: memoryview) -> int:
        if self._answer is None or self._body is None:
            return 0
        try:
            if self._body.waits():
                self._watch.begin(self._stall_s, "stalled", self._stalled)
            count = self._body.readinto(buffer)
            # The end of a connection that was cut from outside looks like any other.
            self._watch.end()
        except Exception as exc:
            host = self._answer.host
            self.close()
            self._watch.check()
            if isinstance(exc, _NEVER_FOREIGN):
                raise
            raise attempt_error(exc, Phase.BODY, host) from exc
        if self._body.ended:
            self._finish()
        return count

    def close(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.drop()
            self._watch.close()

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.done()
            self._watch.close()


class HttpTransport:
    """``ports.Transport`` for http and https. Any thread."""

    def __init__(
        self,
        *,
        line: Line,
        deadlines: Deadlines,
        clock: Clock,
        proxy: str | None,
        ca: str | None,
        redirects: int,
        workers: int,
        user_agent: str,
        **_: object,
    ) -> None:
        """``proxy``: ``http://[user:password@]host:port`` or None. Raises ConfigError."""
        if proxy is not None:
            _check_proxy(proxy)
        # What these loggers tell holds whole URLs; all that matters is told by exceptions.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)
        self._line = line
        self._deadlines = deadlines
        self._clock = clock
        self._proxied = proxy is not None
        self._redirects = redirects
        self._user_agent = user_agent
        self._adapter = Adapter(tls=tls_context(ca), workers=workers, proxy=proxy)

    def open(self, request: Request, wanted: Callable[[], bool]) -> HttpStream:
        watch = self._deadlines.watch(wanted, request.deadline_s)
        try:
            return self._follow(request, watch)
        except BaseException:
            watch.close()
            raise

    def close(self) -> None:
        self._adapter.close()

    def _follow(self, request: Request, watch: Watch) -> HttpStream:
        url = _first_url(request.url)
        cookies = Cookies()
        seen = set[tuple[str, str | None]]()
        while True:
            question = self._question(url, request, cookies)
            # The same place with another cookie is another question.
            place = (url, question.headers.get("Cookie"))
            if place in seen:
                raise AttemptError(
                    "too_many_redirects", f"the redirects lead in a circle: {redact_url(url)}"
                )
            if len(seen) > self._redirects:
                raise AttemptError(
                    "too_many_redirects",
                    f"more than {self._redirects} redirects (network.redirects), "
                    f"the last to {redact_url(url)}",
                )
            seen.add(place)
            answer = self._ask(question, url, request, watch)
            if answer.head.status not in REDIRECTS:
                return self._accept(answer, request, watch)
            answer.discard()
            cookies.keep(question, answer.head)
            url = next_url(answer.head)

    def _accept(self, answer: _Answer, request: Request, watch: Watch) -> HttpStream:
        """Return the stream of an answer that is one to this request; raises for any other."""
        head = answer.head
        try:
            extent = self._extent(head, request)
            return HttpStream(
                answer, extent, watch=watch, stall_s=request.stall_s, final_url=head.url
            )
        except BaseException:
            answer.discard()
            raise

    def _extent(self, head: Head, request: Request) -> Extent | None:
        if head.status == 304 and request.unless is not None:
            return None
        if head.status == 416 and request.start > 0:
            raise RangeRefused(unsatisfied_total(head))
        if head.status == 206 and request.start == 0:
            raise AttemptError("bad_response", "a part of the file came, the whole was asked for")
        if head.status == 407 and self._proxied:
            raise AttemptError("proxy_failed", "the proxy wants a password", transient=False)
        if head.status not in {200, 206}:
            raise head.refused(self._clock.wall())
        refuse_encoding(head)
        return extent_of(head, request.start)

    def _question(self, url: str, request: Request, cookies: Cookies) -> Question:
        try:
            question = Question.of(url, self._headers(url, request))
            cookies.add_to(question)
            question.head()  # what cannot be sent is the request's fault, not the connection's
        except Exception as exc:
            raise attempt_error(exc, Phase.PREPARE, urlsplit(url).hostname or "") from exc
        return question

    def _ask(self, question: Question, url: str, request: Request, watch: Watch) -> _Answer:
        """Return the answer of one hop. Its connection belongs to the caller."""
        if self._proxied:
            # The proxy resolves names, so all that can be judged here is a written address.
            self._line.refuse_literal(question.host, question.port)
        try:
            return self._send(question, url, request, watch, fresh=False)
        except _PeerLeft:
            # A kept connection may have been closed by the peer just now: that is nobody's fault.
            return self._send(question, url, request, watch, fresh=True)

    def _send(
        self,
        question: Question,
        url: str,
        request: Request,
        watch: Watch,
        *,
        fresh: bool,
    ) -> _Answer:
        call = Call(
            watch=watch,
            line=self._line,
            clock=self._clock,
            connect_s=request.connect_s,
            stall_s=request.stall_s,
            fresh=fresh,
        )
        try:
            carrier = self._adapter.ask(question, call)
        except Exception as exc:
            watch.release()
            watch.check()
            if isinstance(exc, _NEVER_FOREIGN):
                raise
            if not call.connected and not fresh and peer_left(exc):
                raise _PeerLeft from exc
            raise attempt_error(exc, call.phase, question.host) from exc
        answer = _Answer(carrier, call, url, question.host)
        try:
            watch.end()
        except BaseException:
            answer.drop()
            raise
        return answer

    def _headers(self, url: str, request: Request) -> dict[str, str]:
        headers = {"User-Agent": self._user_agent, "Accept": "*/*"}
        if request.headers and origin_of(url) == origin_of(request.url):
            headers |= {_titled(name): value for name, value in request.headers}
        headers["Accept-Encoding"] = "identity"
        if request.start > 0:
            headers["Range"] = f"bytes={request.start}-"
            if request.if_range is not None:
                headers["If-Range"] = request.if_range
        if request.unless is not None:
            if request.unless.etag is not None:
                headers["If-None-Match"] = request.unless.etag
            if request.unless.last_modified is not None:
                headers["If-Modified-Since"] = request.unless.last_modified
        return headers


class _PeerLeft(Exception):
    """The peer closed a connection from the pool before it answered."""


def _titled(name: str) -> str:
    return "-".join(word.capitalize() for word in name.split("-"))


def _first_url(url: str) -> str:
    try:
        checked = check_url(url)
        return urldefrag(checked).url if "#" in checked else checked
    except ValueProblem as exc:
        code = "scheme_denied" if "scheme" in str(exc) else "bad_item"
        raise AttemptError(code, str(exc), transient=False) from None


def _check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            "network.proxy: must be http://HOST:PORT; https and socks proxies are not built yet"
        )
