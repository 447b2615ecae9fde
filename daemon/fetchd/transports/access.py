"""What the operator gives to one origin and to no other: who asks, whom to trust, which proxy."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from fetchd.errors import ConfigError
from fetchd.secrets import Secret, conceal

_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_FIELD = re.compile(r"[!-~](?:[ -~]*[!-~])?")  # RFC 9110 §5.5


@dataclass(frozen=True, slots=True)
class Login:
    user: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files. ``ca`` None: the bundle of requests; ``key`` None: in ``cert``'s file."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Of one origin. ``headers`` are sent with every request; ``proxy``: as ``proxy_url`` says."""

    digest: Login | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    tls: Tls = Tls()
    proxy: str | None = field(default=None, repr=False)


def access_of(
    *,
    basic: Login | None,
    digest: Login | None,
    bearer: Secret | None,
    headers: Mapping[str, Secret],
    tls: Tls,
    proxy: str | None,
    place: str,
) -> Access:
    """Return what an origin is given; raises ConfigError, with the key below ``place``.

    ``basic`` and ``bearer`` are sent before anybody asks for them.
    """
    sent = dict(headers)
    if basic is not None:
        sent["Authorization"] = _basic(basic)
    if bearer is not None:
        if not _BEARER.fullmatch(bearer.reveal()):
            raise ConfigError(
                f"{place}.auth.bearer: the secret {bearer.name} is not of a token's form"
            )
        sent["Authorization"] = Secret(bearer.name, f"Bearer {bearer.reveal()}")
    for name, value in headers.items():
        if not _FIELD.fullmatch(value.reveal()):
            raise ConfigError(
                f"{place}.headers.{name}: the secret {value.name} cannot stand in a header: only "
                "printable ASCII, and no space at either end"
            )
    return Access(digest=digest, headers=tuple(sent.items()), tls=tls, proxy=proxy)


def _basic(login: Login) -> Secret:
    """Return the value of ``Authorization`` (RFC 7617)."""
    pair = f"{login.user}:{login.password.reveal()}".encode()
    encoded = base64.b64encode(pair).decode()
    conceal(encoded)
    return Secret(login.password.name, f"Basic {encoded}")


def proxy_url(url: str, login: Login | None) -> str:
    """Return ``http://user:password@host:port``, as requests takes it; raises ConfigError."""
    if login is None:
        return url
    try:
        pair = f"{login.user}:{login.password.reveal()}".encode("latin-1")
    except UnicodeEncodeError:
        raise ConfigError("user and password of a proxy are Latin-1 only") from None
    conceal(base64.b64encode(pair).decode())
    scheme, _, rest = url.partition("://")
    return (
        f"{scheme}://{quote(login.user, safe='')}:{quote(login.password.reveal(), safe='')}@{rest}"
    )
