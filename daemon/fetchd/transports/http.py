"""http and https: asks for the bytes of a URL, follows redirects, believes nothing unchecked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urldefrag, urlsplit

from fetchd.clock import Clock
from fetchd.errors import AttemptError, ConfigError, NotWanted, ValueProblem
from fetchd.ports import Heard, RangeRefused, Request
from fetchd.secrets import hide
from fetchd.transports.access import Access, Tls
from fetchd.transports.body import Body
from fetchd.transports.connections import Adapter, Call, Carrier, tls_context
from fetchd.transports.cookies import Cookies
from fetchd.transports.deadlines import Deadlines, Watch
from fetchd.transports.digest import Digest
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

#: Of one request; a server that finds every answer stale would ask for ever.
_MOST_CHALLENGES = 3
#: What comes back for something posted; whoever closes the stream drops it.
_NOT_READ = Extent(start=0, total=None, length=None, chunked=False)
_NEVER_FOREIGN = (AttemptError, NotWanted, MemoryError)


class _Answer:
    """An answer whose head has arrived, and its connection. One thread."""

    def __init__(self, carrier: Carrier, call: Call, url: str, host: str, *, proxied: bool) -> None:
        assert call.answer is not None
        head, self._received = call.answer
        self.head = Head(url, head)
        self.host = host
        self.proxied = proxied
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
        wish: tuple[str, float] | None,
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
        self.final_url = hide(final_url)  # it is shown and kept, and never asked for again
        self.wish = wish
        self.file_name = head.file_name()
        self._answer: _Answer | None = answer  # None: the connection is gone or given back
        self._watch = watch
        self._stall_s = stall_s
        self._body = answer.body(extent) if extent else None
        if self._body is None or self._body.ended:
            self._finish()

    def readinto(self, buffer: memoryview) -> int:
        if self._answer is None or self._body is None:
            return 0
        try:
            if self._body.waits():
                self._watch.begin(self._stall_s, "stalled", self._stalled())
                count = self._body.readinto(buffer)
                # The end of a connection that was cut from outside looks like any other.
                self._watch.end()
            else:
                count = self._body.readinto(buffer)
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

    def _stalled(self) -> str:
        assert self._answer is not None
        return f"no data for {self._stall_s:g} s from {self._answer.host}"

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.done()
            self._watch.close()


@dataclass(slots=True, kw_only=True)
class _Place:
    """What holds for the requests to an origin. ``headers``: ready to be sent."""

    name: str
    adapter: Adapter
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest: Digest | None = None
    gives: bool = False  # something that is for this origin alone
    logs_in: bool = False  # by something in the head of a request

    @classmethod
    def of(cls, name: str, access: Access, adapter: Adapter) -> _Place:
        headers = {_titled(header): value.reveal() for header, value in access.headers}
        digest = Digest(access.digest) if access.digest else None
        return cls(
            name=name,
            adapter=adapter,
            headers=headers,
            digest=digest,
            gives=bool(headers or digest or access.tls.cert),
            logs_in=bool(headers or digest),
        )


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
        origins: Mapping[str, Access],
        on_withheld: Callable[[str, str], None],
        **_: object,
    ) -> None:
        """``proxy``: ``http://[user:password@]host:port`` or None. Raises ConfigError."""
        # What these loggers tell holds whole URLs; all that matters is told by exceptions.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)
        self._line = line
        self._deadlines = deadlines
        self._clock = clock
        self._redirects = redirects
        self._user_agent = user_agent
        self._on_withheld = on_withheld
        self._withheld = set[str]()  # guarded by _told
        self._told = threading.Lock()
        self._adapters = _Adapters(workers)
        elsewhere = self._adapters.get(Tls(ca=ca), proxy, "network", "network")
        self._anywhere = _Place(name="", adapter=elsewhere)
        self._places = self._found(origins)

    def open(self, request: Request, wanted: Callable[[], bool]) -> HttpStream:
        watch = self._deadlines.watch(wanted, request.deadline_s)
        try:
            return self._follow(request, watch)
        except BaseException:
            watch.close()
            raise

    def close(self) -> None:
        self._adapters.close()

    def _found(self, origins: Mapping[str, Access]) -> dict[tuple[str, str, int], _Place]:
        """Return what is given, by scheme, host and port as they are dialled.

        A URL may spell these in several ways, and two parsers may disagree about one.
        """
        places: dict[tuple[str, str, int], _Place] = {}
        for origin, access in origins.items():
            key = f"origins.{origin}"
            try:
                dialled = Question.of(f"{origin}/", {}).place
            except Exception:  # noqa: BLE001 -- as many as there are ways to be no host
                raise ConfigError(f"{key}: this is not a host that can be asked") from None
            if dialled in places:
                raise ConfigError(f"{key}: stands there already, in another spelling")
            adapter = self._adapters.get(access.tls, access.proxy, f"{key}.tls", key)
            places[dialled] = _Place.of(origin, access, adapter)
        return places

    def _follow(self, request: Request, watch: Watch) -> HttpStream:
        url = _first_url(request.url)
        cookies = Cookies()
        seen = set[tuple[str, str | None]]()
        givers: list[_Place] = []
        before: _Place | None = None
        while True:
            question, at = self._question(url, request, cookies)
            if before is not None and before.gives and before is not at:
                self._tell_withheld(before, question)
                givers.append(before)
            before = at
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
            try:
                answer = self._answered(question, at, url, request, watch)
                if request.heard is not None:
                    withheld = any(giver is not at for giver in givers)
                    request.heard(_heard(answer.head, request, withheld=withheld))
                if answer.head.status not in REDIRECTS or request.body is not None:
                    if answer.head.status == 401 and at.logs_in:
                        answer.discard()
                        raise _not_let_in(url)
                    return self._accept(answer, request, watch)
            except AttemptError as exc:
                exc.origin = origin_of(url)
                raise
            answer.discard()
            cookies.keep(question, answer.head)
            url = next_url(answer.head)

    def _accept(self, answer: _Answer, request: Request, watch: Watch) -> HttpStream:
        """Return the stream of an answer that is one to this request; raises for any other."""
        head = answer.head
        try:
            extent = self._extent(answer, request)
            wish_s = head.wish_s(self._clock.wall())
            return HttpStream(
                answer,
                extent,
                watch=watch,
                stall_s=request.stall_s,
                final_url=head.url,
                wish=None if wish_s is None else (origin_of(head.url), wish_s),
            )
        except BaseException:
            answer.discard()
            raise

    def _extent(self, answer: _Answer, request: Request) -> Extent | None:
        head = answer.head
        if request.body is not None:
            if not 200 <= head.status <= 299:
                raise head.refused(self._clock.wall())
            return _NOT_READ
        if head.status == 304 and request.unless is not None:
            return None
        ranged = _is_ranged(request)
        if head.status == 416 and ranged:
            raise RangeRefused(unsatisfied_total(head))
        if head.status == 206 and not ranged:
            raise AttemptError("bad_response", "a part of the file came, the whole was asked for")
        # What comes through a tunnel is the origin's own.
        if head.status == 407 and answer.proxied and urlsplit(head.url).scheme == "http":
            raise AttemptError("proxy_failed", "the proxy wants a password", transient=False)
        if head.status not in {200, 206}:
            raise head.refused(self._clock.wall())
        refuse_encoding(head)
        return extent_of(head, request.start, request.stop)

    def _question(self, url: str, request: Request, cookies: Cookies) -> tuple[Question, _Place]:
        try:
            question = Question.of(url, self._headers(url, request))
            question.body = request.body
            at = self._places.get(question.place, self._anywhere)
            if at.headers:
                question.headers.update(at.headers)
            cookies.add_to(question)
            question.head()  # what cannot be sent is the request's fault, not the connection's
        except Exception as exc:
            raise attempt_error(exc, Phase.PREPARE, urlsplit(url).hostname or "") from exc
        return question, at

    def _tell_withheld(self, at: _Place, question: Question) -> None:
        """Say, once for each origin, that what is for it alone was not sent elsewhere."""
        with self._told:
            if at.name in self._withheld:
                return
            self._withheld.add(at.name)
        self._on_withheld(at.name, origin_of(question.url))

    def _answered(
        self, question: Question, at: _Place, url: str, request: Request, watch: Watch
    ) -> _Answer:
        """Return the answer of one hop, behind the handshake that its origin may ask for.

        A challenge that has come in answer to this request is answered once; only a server that
        calls it stale gets another answer.
        """
        digest = at.digest
        if digest is None:
            return self._ask(question, at.adapter, url, request, watch)
        challenge, rounds = digest.latest, 0
        while True:
            if challenge is not None:
                value = digest.answer(challenge, question.target, question.method)
                question = question.with_header("Authorization", value)
            answer = self._ask(question, at.adapter, url, request, watch)
            if answer.head.status != 401:
                return answer
            challenge = digest.challenged(answer.head.all("www-authenticate"))
            rounds += 1
            if (
                challenge is None
                or rounds > _MOST_CHALLENGES
                or (rounds > 1 and not challenge.stale)
            ):
                return answer
            answer.discard()

    def _ask(
        self, question: Question, adapter: Adapter, url: str, request: Request, watch: Watch
    ) -> _Answer:
        """Return the answer to one request. Its connection belongs to the caller."""
        if adapter.proxied:
            # The proxy resolves names, so all that can be judged here is a written address.
            self._line.refuse_literal(question.host, question.port)
        try:
            return self._send(question, adapter, url, request, watch, fresh=False)
        except _PeerLeft:
            # A kept connection may have been closed by the peer just now: that is nobody's fault.
            return self._send(question, adapter, url, request, watch, fresh=True)

    def _send(
        self,
        question: Question,
        adapter: Adapter,
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
            carrier = adapter.ask(question, call)
        except Exception as exc:
            watch.release()
            watch.check()
            if isinstance(exc, _NEVER_FOREIGN):
                raise
            if not call.connected and not fresh and peer_left(exc):
                raise _PeerLeft from exc
            raise attempt_error(exc, call.phase, question.host) from exc
        answer = _Answer(carrier, call, url, question.host, proxied=adapter.proxied)
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
        if request.body is not None:
            headers |= {
                "Content-Type": "application/json",
                "Content-Length": f"{len(request.body)}",
            }
        if _is_ranged(request):
            last = "" if request.stop is None else request.stop - 1
            headers["Range"] = f"bytes={request.start}-{last}"
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


class _Adapters:
    """One adapter, and so one pool of connections, for each set of TLS rules and proxy."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._made: dict[tuple[Tls, str | None], Adapter] = {}

    def get(self, tls: Tls, proxy: str | None, tls_key: str, proxy_key: str) -> Adapter:
        """Return the one for these; raises ConfigError, naming a key below those given."""
        known = self._made.get((tls, proxy))
        if known is not None:
            return known
        if proxy is not None:
            _check_proxy(proxy, proxy_key)
        made = Adapter(tls=tls_context(tls, tls_key), workers=self._workers, proxy=proxy)
        self._made[tls, proxy] = made
        return made

    def close(self) -> None:
        for adapter in self._made.values():
            adapter.close()


def _not_let_in(url: str) -> AttemptError:
    # Without a status: it is no link that was good for a while.
    return AttemptError(
        "bad_status",
        f"401 Unauthorized from {redact_url(url)}, which refuses what the configuration of its "
        "origin gives",
        transient=False,
    )


def _heard(head: Head, request: Request, *, withheld: bool) -> Heard:
    """``withheld``: by the configuration; the job's own headers are kept back in any case."""
    foreign = bool(request.headers) and origin_of(head.url) != origin_of(request.url)
    shown = hide(redact_url(head.url))
    return Heard(url=shown, status=head.status, withheld=withheld or foreign)


def _is_ranged(request: Request) -> bool:
    return request.start > 0 or request.stop is not None


def _titled(name: str) -> str:
    return "-".join(word.capitalize() for word in name.split("-"))


def _first_url(url: str) -> str:
    try:
        checked = check_url(url)
        return urldefrag(checked).url if "#" in checked else checked
    except ValueProblem as exc:
        code = "scheme_denied" if "scheme" in str(exc) else "bad_item"
        raise AttemptError(code, str(exc), transient=False) from None


def _check_proxy(proxy: str, key: str) -> None:
    try:
        parts = urlsplit(proxy)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{key}.proxy: must be http://HOST:PORT")
