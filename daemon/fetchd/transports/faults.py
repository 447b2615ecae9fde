"""What went wrong on the wire, as a stable code: the one place where foreign errors are read.

No message quotes a foreign error's text, for it may hold the URL with its secrets.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
from collections.abc import Iterator
from enum import Enum

from requests.exceptions import InvalidURL
from urllib3.exceptions import LocationParseError

from fetchd.errors import AttemptError


class Phase(Enum):
    """What a request was doing when it failed."""

    PREPARE = "prepare"
    CONNECT = "connect"
    TUNNEL = "tunnel"
    TLS = "tls"
    HEAD = "head"
    BODY = "body"


#: OpenSSL's names for "we have no version or cipher in common": trying again does not help.
_NO_COMMON_GROUND = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "NO_PROTOCOLS_AVAILABLE",
        "WRONG_VERSION_NUMBER",
        "WRONG_SSL_VERSION",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "NO_SHARED_CIPHER",
        "UNKNOWN_PROTOCOL",
        "DH_KEY_TOO_SMALL",
        "EE_KEY_TOO_SMALL",
    }
)

#: OpenSSL's names for "your certificate will not do", or "you have shown none".
_OURS_REFUSED = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)


def attempt_error(exc: Exception, phase: Phase, host: str) -> AttemptError:
    """Return the error that a foreign exception means; an AttemptError is returned as it is."""
    if isinstance(exc, AttemptError):
        return exc
    chain = list(_chain(exc))
    for link in chain:
        if isinstance(link, AttemptError):
            return link
    if phase is Phase.PREPARE:
        return _unsendable(chain, host)
    if phase is Phase.TUNNEL:
        return _tunnel(chain)
    if phase is Phase.TLS:
        return _handshake(chain, host)
    if phase is Phase.CONNECT:
        return AttemptError("connect_failed", f"no connection to {host}: {_why(chain)}")
    return _exchange(chain, phase, host)


def peer_left(exc: Exception) -> bool:
    """Return whether the peer ended the connection instead of answering."""
    left = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)  # RemoteDisconnected is one
    return any(isinstance(link, left) for link in _chain(exc))


def _exchange(chain: list[BaseException], phase: Phase, host: str) -> AttemptError:
    for link in chain:
        match link:
            case TimeoutError() | BlockingIOError():
                return AttemptError("stalled", f"{host} sends nothing")
            case ssl.SSLError() if link.reason in _OURS_REFUSED:
                return _ours_refused(link, host)
            case ssl.SSLError():
                return AttemptError("tls_broken", f"the encryption broke down: {_tls_reason(link)}")
            case http.client.RemoteDisconnected():
                return AttemptError("bad_response", f"{host} hung up instead of answering")
            case _:
                continue
    code = "short_body" if phase is Phase.BODY else "bad_response"
    return AttemptError(code, f"the connection to {host} broke: {_why(chain)}")


def _unsendable(chain: list[BaseException], host: str) -> AttemptError:
    for link in chain:
        if isinstance(link, (InvalidURL, LocationParseError)):
            return AttemptError("bad_item", f"{host} is not a host that can be asked")
    return AttemptError("bad_item", "a header of the request has characters that cannot be sent")


def _tunnel(chain: list[BaseException]) -> AttemptError:
    for link in chain:
        # http.client tells the proxy's answer in text only.
        match = re.match(r"Tunnel connection failed: (\d{3})", str(link))
        if match:
            return AttemptError(
                "proxy_failed",
                f"the proxy answered {match[1]} to CONNECT",
                transient=match[1][0] == "5",
            )
    return AttemptError("proxy_failed", f"the proxy broke the connection: {_why(chain)}")


def _handshake(chain: list[BaseException], host: str) -> AttemptError:
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            why = link.verify_message
            return AttemptError("tls_failed", f"the certificate of {host} was refused: {why}")
        if isinstance(link, ssl.SSLError) and link.reason in _NO_COMMON_GROUND:
            return AttemptError("tls_failed", f"no TLS in common with {host}: {_tls_reason(link)}")
        if isinstance(link, ssl.SSLError) and link.reason in _OURS_REFUSED:
            return _ours_refused(link, host)
    for link in chain:
        if isinstance(link, ssl.SSLError):
            return AttemptError("tls_broken", f"the TLS handshake broke: {_tls_reason(link)}")
    return AttemptError("tls_broken", f"the TLS handshake with {host} broke: {_why(chain)}")


def _ours_refused(exc: ssl.SSLError, host: str) -> AttemptError:
    return AttemptError(
        "tls_failed",
        f"{host} wants another client certificate, see tls.cert of its origin: {_tls_reason(exc)}",
    )


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield the error and all that it wraps; wrappers keep the wrapped one in different places."""
    pending, seen = [exc], set[int]()
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inside = [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]
        pending.extend(item for item in inside if isinstance(item, BaseException))


def _why(chain: list[BaseException]) -> str:
    for link in chain:
        if isinstance(link, TimeoutError):
            return "no answer in time"
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno).lower()
        if isinstance(link, http.client.HTTPException):
            return "it was ended"
    return type(chain[-1]).__name__


def _tls_reason(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLEOFError):
        return "the connection ended"
    return (exc.reason or "no reason given").replace("_", " ").lower()
