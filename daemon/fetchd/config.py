"""What the operator decides: the keys of fetchd.yaml, read strictly, each error with its place."""

from __future__ import annotations

import grp
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from fetchd import yamldoc
from fetchd.errors import ConfigError, DocumentError, Problem, ValueProblem
from fetchd.rates import Rate, parse_rate, rate_schema
from fetchd.secrets import Place
from fetchd.units import (
    format_duration,
    format_size,
    parse_duration_s,
    parse_rate_bytes_per_s,
    parse_requests_per_s,
    parse_size_bytes,
)
from fetchd.urls import check_url, local_path, origin_of
from fetchd.yamldoc import Fields, Node, Scalar

#: Where the configuration is looked for when neither --config nor the environment names it.
PLACES = (Path("config/fetchd.yaml"), Path("/etc/fetchd/fetchd.yaml"))
ENVIRONMENT = "FETCHD_CONFIG"
DRAFT = "http://json-schema.org/draft-07/schema#"

_DEFAULT_ROOT = "./downloads"
_MAX_BYTES = 1024 * 1024
_ROOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SERVICE = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_ADDRESS_CLASSES = ("public", "private", "loopback")
_USERINFO = re.compile(r"(?<=^origins\.).*@")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
#: What a request says by itself; another value would make it another request.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authorization",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_KeyPath = tuple[str | int, ...]

# ---------------------------------------------------------------- values


@dataclass(frozen=True, eq=False)
class _Reader:
    """How a written value becomes one of ours, and what an editor is told about it.

    Every scalar arrives as a text; ``read`` raises ValueProblem. Nothing is coerced elsewhere.
    """

    read: Callable[[Any], Any]
    editor: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: Any) -> dict[str, Any]:
        return dict(self.editor)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueProblem(f"found {_kind(value)}; a single value is needed")
    return value


class _Unquoted(str):
    """A text that no message may quote."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "a text"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return "nothing" if value is None else "a list" if isinstance(value, list) else "keys"


def _whole(least: int, most: int) -> _Reader:
    def read(value: Any) -> int:
        text = _text(value)
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueProblem(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return _Reader(read, {"type": "integer", "minimum": least, "maximum": most})


def _duration(least_s: float) -> _Reader:
    def read(value: Any) -> float:
        seconds = parse_duration_s(_text(value))
        if seconds < least_s:
            raise ValueProblem(f"{value!r} is too short; at least {format_duration(least_s)}")
        return seconds

    return _Reader(read, {"type": "string", "pattern": r"^([0-9.]+\s*(ms|s|m|h|d)\s*)+$"})


def _size(least_bytes: int) -> _Reader:
    def read(value: Any) -> int:
        size_bytes = parse_size_bytes(_text(value))
        if size_bytes < least_bytes:
            raise ValueProblem(f"{value!r} is too small; at least {format_size(least_bytes)}")
        return size_bytes

    pattern = r"^[0-9.]+\s*(B|[kKMGT]B|[KMGT]iB)?$"
    return _Reader(
        read, {"type": ["integer", "string"], "minimum": least_bytes, "pattern": pattern}
    )


def _choice(*allowed: str) -> _Reader:
    def read(value: Any) -> str:
        text = _text(value)
        if text not in allowed:
            meant = yamldoc.did_you_mean(text, allowed)
            hint = f"; {meant}" if meant else ""
            raise ValueProblem(f"{text!r} is not one of {', '.join(allowed)}{hint}")
        return text

    return _Reader(read, {"enum": list(allowed)})


def _not_built(default: Any) -> _Reader:
    """A key of the design whose feature does not exist yet: nothing but its default may stand."""

    def read(value: Any) -> None:
        part = isinstance(value, dict) and isinstance(default, dict)
        if not (value is None or value == default or (part and value.items() <= default.items())):
            raise ValueProblem("not built yet; remove it")

    return _Reader(read, {"enum": [None] if default is None else [None, _native(default)]})


def _native(value: Any) -> Any:
    """Return a value, as it would be written, in the type that an editor takes it for."""
    if isinstance(value, dict):
        return {key: _native(part) for key, part in value.items()}
    if not isinstance(value, str):
        return value
    return int(value) if value.isdigit() else {"true": True, "false": False}.get(value, value)


def _read_flag(value: Any) -> bool:
    text = _text(value)
    if text not in {"true", "false"}:
        raise ValueProblem(f"{text!r} is neither true nor false; one of these two is needed")
    return text == "true"


def _read_path(value: Any) -> Path:
    text = _text(value)
    if not text:
        raise ValueProblem("an empty text is no path")
    if text.startswith("~"):
        raise ValueProblem(f"{text!r} begins with ~, which is not expanded; write the whole path")
    return Path(os.path.abspath(text))  # noqa: PTH100 -- resolve() would follow links; this is text


def _read_mode(value: Any) -> int:
    text = _text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueProblem(f"{text!r} is not a file mode; write three octal digits, as 0640")
    return int(text, 8)


def _read_name(value: Any) -> str:
    text = _text(value)
    if not _ROOT_NAME.fullmatch(text):
        raise ValueProblem(f"{text!r} is no name; use up to 64 letters, digits, '-' and '_'")
    return text


def _read_group(value: Any) -> str:
    text = _text(value)
    if not text:
        raise ValueProblem("an empty text is no group")
    return text


def _read_proxy(value: Any) -> str:
    proxy = check_url(_text(value))
    if local_path(proxy) is not None:
        raise ValueProblem(f"{proxy!r} is no proxy; write http://HOST:PORT")
    return proxy


def _read_origin(value: Any) -> str:
    """Return ``scheme://host:port``; a bare host means https."""
    text = _text(value)
    url = text if "://" in text else f"https://{text}"
    try:
        origin = origin_of(check_url(url))
    except ValueProblem:
        origin = ""
    scheme, _, host = url.partition("://")
    if (
        scheme.lower() not in {"http", "https"}
        or not origin
        or re.search("[/?#]", host.removesuffix("/"))
    ):
        shown = "this" if "@" in text else repr(text)  # a password may stand before the @
        raise ValueProblem(f"{shown} is no origin; write https://HOST, or with a port after it")
    return origin


def _read_origins(origins: Any) -> Any:
    """Refuse an origin that is written twice, in two ways."""
    seen: dict[str, str] = {}
    for key in origins if isinstance(origins, dict) else ():
        try:
            first = seen.setdefault(_read_origin(key), key)
        except ValueProblem:
            continue  # told at its place
        if first != key:
            raise ValueProblem(f"{first!r} and {key!r} are the same origin; write it once")
    return origins


def _read_header(value: Any) -> str:
    text = _text(value)
    if not _HEADER.fullmatch(text):
        raise ValueProblem(f"{text[:60]!r} is not the name of a header")
    if text.lower() in _OWN_HEADERS:
        raise ValueProblem(f"{text} is set by fetchd itself")
    return text


def _read_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    names = [name.lower() for name in headers]
    for name in headers:
        if names.count(name.lower()) > 1:
            raise ValueProblem(f"{name} stands here twice; names of headers have no case")
    return MappingProxyType(dict(headers))


def _read_user(value: Any) -> str:
    text = _text(value)
    if not text or re.search("[\x00-\x1f\x7f:\ud800-\udfff]", text):
        raise ValueProblem(
            "a user name has at least one character, no ':' and no control characters"
        )
    return text


def _read_secret_name(value: Any) -> str:
    # Nothing is quoted here: it may be the secret itself, where its name should stand.
    if not isinstance(value, str) or not _ROOT_NAME.fullmatch(value):
        raise ValueProblem("this is no name of a secret; up to 64 letters, digits, '-' and '_'")
    return value


def _read_credential(value: Any) -> str:
    text = _text(value)
    if not text or "/" in text or text in {".", ".."}:
        raise ValueProblem(
            f"{text!r} is not the name of a credential, as in LoadCredential=NAME:PATH"
        )
    return text


def _read_variable(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueProblem(f"{text!r} is not the name of a variable of the environment")
    return text


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _read_allowed(value: Any) -> str:
    """Return an entry of ``network.allow`` if its form is right."""
    entry = _text(value)
    if entry in _ADDRESS_CLASSES:
        return entry
    service = _SERVICE.fullmatch(entry)
    if service and 0 < int(service[1]) < 65536:
        return entry
    try:
        ipaddress.ip_network(entry)
    except ValueError as exc:
        meant = yamldoc.did_you_mean(entry, _ADDRESS_CLASSES)
        hint = "the bits behind the prefix must be 0" if "host bits" in str(exc) else meant
        raise ValueProblem(
            f"{entry!r} is not public, private, loopback, a network as 10.0.0.0/8, or host:port"
            + (f"; {hint}" if hint else "")
        ) from None
    return entry


@dataclass(frozen=True, slots=True)
class Stall:
    """No more than ``seconds`` with less than this many bytes in each of them on average."""

    seconds: float
    bytes_per_s: int


def _read_stall(value: Any) -> Stall:
    duration, at, rate = _text(value).partition("@")
    seconds = parse_duration_s(duration)
    if seconds < 0.1:
        raise ValueProblem(f"{value!r} is too short; at least 100 ms")
    return Stall(seconds, parse_rate_bytes_per_s(rate if at else "1KiB/s"))


def _read_roots(roots: Mapping[str, Root]) -> Mapping[str, Root]:
    if "default" not in roots:
        raise ValueProblem("the root named default is missing; write default: FOLDER")
    return MappingProxyType(dict(roots))


_NATIVE_TEXT = {"type": ["string", "integer"]}
_STALL_PATTERN = r"^[0-9.]+\s*(ms|s|m|h|d)(@.*/s)?$"
_ADDRESSES = {"type": ["array", "string"], "items": {"type": "string"}}

_Folder = Annotated[Path, _Reader(_read_path, {"type": "string"})]
_File = _Folder | None
_Flag = Annotated[bool, _Reader(_read_flag, {"type": "boolean"})]
_Wait = Annotated[float, _duration(0)]
_Limit = Annotated[float, _duration(0.1)]
_Period = Annotated[float, _duration(1)]
_Space = Annotated[int, _size(0)]
_Size = Annotated[int, _size(1)]
_Mode = Annotated[int, _Reader(_read_mode, _NATIVE_TEXT)]
_Group = Annotated[str, _Reader(_read_group, _NATIVE_TEXT)]
_Proxy = Annotated[str, _Reader(_read_proxy, {"type": "string"})]
_Allowed = Annotated[str, _Reader(_read_allowed, {"type": "string"})]
_Allow = Annotated[tuple[_Allowed, ...], BeforeValidator(_one_or_more), WithJsonSchema(_ADDRESSES)]
_Pace = Annotated[Stall, _Reader(_read_stall, {"type": "string", "pattern": _STALL_PATTERN})]
_Rate = Annotated[Rate, _Reader(parse_rate, rate_schema())]
_Requests = Annotated[
    float,
    _Reader(
        lambda value: parse_requests_per_s(_text(value)),
        {"type": "string", "pattern": r"^[0-9]+\s*/\s*(s|m|h)$"},
    ),
]
_RootName = Annotated[str, _Reader(_read_name, {"type": "string"})]
_OriginName = Annotated[str, _Reader(_read_origin, {"type": "string"})]
_HeaderName = Annotated[str, _Reader(_read_header, {"type": "string"})]
_User = Annotated[str, _Reader(_read_user, {"type": "string"})]
_SecretName = Annotated[str, _Reader(_read_secret_name, {"type": "string"})]
_Credential = Annotated[str, _Reader(_read_credential, {"type": "string"})]
_Variable = Annotated[str, _Reader(_read_variable, {"type": "string"})]
_Level = Literal["debug", "info", "warning", "error"]
_Format = Literal["auto", "console", "json"]
_Verify = Literal["digest", "length", "none"]
_Durability = Literal["group", "each", "none"]

# ---------------------------------------------------------------- keys


def _key(default: Any, description: str, *, key: str | None = None) -> Any:
    """One key: its default as it would be written; ``key`` where it differs from the attribute."""
    return Field(default, alias=key, description=description)


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _forget_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = _aliases(cls)
        return {key: value for key, value in data.items() if value is not None or key not in known}


class Root(_Keys):
    """A folder below which files are published; ``mode`` and ``group`` None: as the umask says."""

    path: _Folder = Field(description="the folder; made when missing")
    mode: _Mode | None = _key(
        None, "permissions of published files, octal; by default what the umask leaves"
    )
    group: _Group | None = _key(
        None, "group of published files, a name or number; by default the daemon's"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data


class Secret(_Keys):
    """Where a secret is read when fetchd starts: one of the three."""

    credential: _Credential | None = _key(None, "a credential of the unit (LoadCredential=)")
    file: _File = _key(None, "a file of one line that others can neither read nor change")
    env: _Variable | None = _key(None, "a variable of the environment")

    @model_validator(mode="before")
    @classmethod
    def _no_value(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueProblem(
                "no secret stands in the configuration; write where it is read: "
                "{credential: NAME}, {file: PATH} or {env: VARIABLE}"
            )
        return data

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if sum(place is not None for place in (self.credential, self.file, self.env)) != 1:
            raise ValueProblem("one of the keys credential, file and env is needed, and no other")
        return self

    @property
    def place(self) -> Place:
        if self.credential is not None:
            return Place("credential", self.credential)
        if self.file is not None:
            return Place("file", str(self.file))
        return Place("env", self.env or "")


class Login(_Keys):
    user: _User = Field(description="the user's name")
    password: _SecretName = Field(description="name of the secret that is the password")


def _password(path: _KeyPath, login: Login | None) -> Iterator[tuple[_KeyPath, str]]:
    if login is not None:
        yield (*path, "password"), login.password


class Auth(_Keys):
    """How an origin is told who asks: one of the three."""

    basic: Login | None = _key(None, "user and password, sent with every request")
    digest: Login | None = _key(None, "user and password, proven by digest (RFC 7616)")
    bearer: _SecretName | None = _key(None, "name of the secret that is sent as bearer token")

    @model_validator(mode="after")
    def _one_way(self) -> Auth:
        if sum(way is not None for way in (self.basic, self.digest, self.bearer)) != 1:
            raise ValueProblem("one of the keys basic, digest and bearer is needed, and no other")
        return self


class Tls(_Keys):
    ca: _File = _key(
        None, "file of trusted certificates (PEM), or folder of them; by default network.ca"
    )
    cert: _File = _key(None, "file of our certificate and its chain (PEM)")
    key: _File = _key(None, "file of its private key (PEM); by default in the file of cert")

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if self.key is not None and self.cert is None:
            raise ValueProblem("a key needs its certificate; add cert: FILE")
        return self


class Origin(_Keys):
    """What holds for one scheme, host and port alone."""

    auth: Auth | None = _key(None, "who asks; sent to this origin and to no other")
    headers: Annotated[Mapping[_HeaderName, _SecretName], AfterValidator(_read_headers)] = _key(
        {}, "further headers, each with the name of the secret that is its value"
    )
    tls: Tls = _key({}, "whom to trust, and how to prove who asks")
    proxy: _Proxy | None = _key(
        None, "URL of an HTTP proxy; a written null: none, even where network.proxy is set"
    )
    proxy_auth: Login | None = _key(None, "user and password for that proxy")
    netrc: _Flag = _key("false", "user and password from the entry of this host in the netrc file")
    connections: Annotated[int, _whole(1, 512)] | None = _key(
        None, "connections at a time, instead of limits.connections_per_origin"
    )
    requests_per_s: _Requests | None = _key(
        None,
        "the most attempts begun in a time: 10/s, 100/m, 1000/h; no limit by default",
        key="requests",
    )
    rate: _Rate | None = _key(None, "bytes a second of all that it sends, as in limits.rate")

    @model_validator(mode="before")
    @classmethod
    def _forget_absent(cls, data: Any) -> Any:
        """As everywhere else, but that an absent proxy and one that is null are not the same."""
        if not isinstance(data, dict):
            return data
        known = _aliases(cls)
        return {k: v for k, v in data.items() if v is not None or k == "proxy" or k not in known}

    @property
    def has_own_proxy(self) -> bool:
        """Whether ``proxy`` was written; None then means that there is to be none."""
        return "proxy" in self.model_fields_set

    def named_secrets(self) -> Iterator[tuple[_KeyPath, str]]:
        """Yield the path below the origin and the name of every secret that it is given."""
        if self.auth is not None:
            yield from _password(("auth", "basic"), self.auth.basic)
            yield from _password(("auth", "digest"), self.auth.digest)
            if self.auth.bearer is not None:
                yield ("auth", "bearer"), self.auth.bearer
        for header, secret in self.headers.items():
            yield ("headers", header), secret
        yield from _password(("proxy_auth",), self.proxy_auth)

    def credentials(self) -> list[str]:
        """Return what the origin is sent, each in a few words, with names and without values."""
        auth, said = self.auth, []
        if auth is not None and auth.basic is not None:
            said.append(f"basic as {auth.basic.user}, password {auth.basic.password}")
        elif auth is not None and auth.digest is not None:
            said.append(f"digest as {auth.digest.user}, password {auth.digest.password}")
        elif auth is not None:
            said.append(f"bearer {auth.bearer}")
        if self.netrc:
            said.append("basic from netrc")
        said += [f"header {name}: {secret}" for name, secret in self.headers.items()]
        if self.tls.cert is not None:
            said.append("client certificate")
        return said


class Log(_Keys):
    level: Annotated[_Level, _choice(*get_args(_Level))] = _key(
        "info", "the least level that is logged"
    )
    format: Annotated[_Format, _choice(*get_args(_Format))] = _key(
        "auto", "auto is console on a terminal, JSON lines otherwise"
    )
    file: _File = _key(None, "where to log; by default standard error")


class Limits(_Keys):
    connections_per_origin: Annotated[int, _whole(1, 512)] = _key(
        "8",
        "connections to one scheme, host and port at a time; with more than two `workers`, "
        "one is left to others",
    )
    rate: _Rate | None = _key(
        None,
        "bytes a second of all transfers together: 5MiB/s, or by the time of the machine's day: "
        '{ "08:00-18:00": 5MiB/s }; none by default',
    )
    file_bytes: _Size | None = _key(None, "the largest file; none by default", key="file")
    total_bytes: _Size | None = _key(
        None, "the most bytes of one run; none by default", key="total"
    )


class Network(_Keys):
    allow: _Allow = _key(
        ["public"],
        "addresses that may be reached: public, private, loopback, networks, host:port",
    )
    proxy: _Proxy | None = _key(None, "URL of an HTTP proxy for all requests; none by default")
    proxy_auth: Login | None = _key(None, "user and password for that proxy")
    ca: _File = _key(
        None, "file of trusted certificates (PEM); by default those shipped with requests"
    )
    redirects: Annotated[int, _whole(0, 100)] = _key("10", "redirects that are followed")


class Retry(_Keys):
    attempts: Annotated[int, _whole(1, 10**6)] = _key(
        "8", "rounds over all sources of a file before it fails"
    )
    delay_s: _Wait = _key("2s", "wait before the second attempt, doubled each time", key="delay")
    max_delay_s: _Wait = _key("5m", "the longest wait between attempts", key="max_delay")
    give_up_after_s: _Wait = _key(
        "24h", "time from the first failure after which a file fails", key="give_up_after"
    )
    max_retry_after_s: _Wait = _key(
        "1h", "the longest wait that a server may ask for", key="max_retry_after"
    )
    poison: Annotated[int, _whole(0, 1000)] = _key(
        "3", "crashes of the daemon at one file before it is tried alone, then given up; 0 = never"
    )


class Timeout(_Keys):
    connect_s: _Limit = _key("10s", "for name, TCP and TLS together", key="connect")
    stall: _Pace = _key("30s@1KiB/s", "the attempt fails when it is slower than this for so long")
    attempt_s: _Limit | None = _key(
        None, "for one attempt as a whole; none by default", key="attempt"
    )

    @property
    def stall_s(self) -> float:
        return self.stall.seconds

    @property
    def stall_bytes_per_s(self) -> int:
        return self.stall.bytes_per_s


class Disk(_Keys):
    reserve_bytes: _Space = _key("1GiB", "free space that downloads leave alone", key="reserve")


class Intake(_Keys):
    max_job_bytes: _Size = _key("4MiB", "the largest job file; *.urls lists have no limit")
    require_end_marker: _Flag = _key(
        "false", "take YAML job files only when their last line is '...'"
    )
    rescan_s: _Period = _key("30s", "how often the folder is read without a hint", key="rescan")


class History(_Keys):
    keep_s: _Period = _key("30d", "runs that ended longer ago are forgotten", key="keep")
    count: Annotated[int, _whole(1, 10**9)] = _key("100000", "the most runs that are remembered")


class Settings(_Keys):
    """The whole configuration, checked. Paths are absolute."""

    jobs: _Folder = _key("./jobs", "the folder into which job files are dropped")
    roots: Annotated[Mapping[_RootName, Root], AfterValidator(_read_roots)] = _key(
        {"default": _DEFAULT_ROOT},
        "folders below which files are published, by name: a path, or path, mode and group",
    )
    state: _Folder = _key("./state", "the daemon's own folder: database, lock, status")
    workers: Annotated[int, _whole(1, 512)] = _key("8", "files that are fetched at a time")
    finishers: Annotated[int, _whole(1, 64)] = _key("2", "threads for work beside fetching")
    log: Log = _key({}, "what is logged, and where to")
    limits: Limits = _key({}, "bounds that no job file can raise")
    network: Network = _key({}, "what may be reached, and how")
    origins: Annotated[
        Mapping[_OriginName, Origin],
        BeforeValidator(_read_origins),
        AfterValidator(MappingProxyType),
    ] = _key({}, "what holds for one origin alone: https://HOST[:PORT], or HOST for https")
    retry: Retry = _key({}, "when a failed attempt is repeated; job files may differ")
    timeout: Timeout = _key({}, "when waiting ends; job files may differ")
    disk: Disk = _key({}, "free space")
    intake: Intake = _key({}, "how job files are taken from the folder")
    secrets: Annotated[Mapping[_SecretName, Secret], AfterValidator(MappingProxyType)] = _key(
        {}, "where the values are read that other keys name; none stands in this file"
    )
    commands: Annotated[None, _not_built({})] = _key(None, "not built yet")
    webhooks: Annotated[None, _not_built({})] = _key(None, "not built yet")
    verify: Annotated[_Verify, _choice(*get_args(_Verify))] = _key(
        "length", "the least that proves a file whole; job files can only ask for more"
    )
    durability: Annotated[_Durability, _choice(*get_args(_Durability))] = _key(
        "group",
        "how published files survive a power cut: synced together, each by itself, or not at all",
    )
    stats_every_s: _Period = _key("60s", "how often totals are logged", key="stats_every")
    stop_grace_s: _Wait = _key(
        "8s", "how long a stop waits for what is under way", key="stop_grace"
    )
    history: History = _key({}, "how long ended runs are remembered")

    def most_of_origin(self, origin: str = "") -> tuple[int, str]:
        """Return how many workers an origin may hold, and the key that says so; "": of any other.

        Never all of them, lest a silent origin stop the others.
        """
        keys = self.origins.get(origin)
        most, by = self.limits.connections_per_origin, "limits.connections_per_origin"
        if keys is not None and keys.connections is not None:
            most, by = keys.connections, "origins"
        others = 1 if self.workers > 2 else 0
        return min((most, by), (self.workers - others, "workers"), key=itemgetter(0))


# ---------------------------------------------------------------- reading


def load(
    path: Path | None,
    overrides: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the configuration of a file, or of the first place where there is one.

    ``overrides``: dotted keys with values as they would be written in the file. Raises
    DocumentError for what is wrong in the file or an override, ConfigError when the file cannot
    be read. Without any file the defaults hold.
    """
    path = path or _found(environ)
    document = _Document.of_file(path) if path else _Document("the built-in configuration")
    for key, value in overrides.items():
        document.override(key, value)
    try:
        settings = Settings.model_validate(yamldoc.plain(document.root))
    except ValidationError as exc:
        document.reject([_explained(error) for error in exc.errors(include_url=False)])
    document.reject([*_contradictions(settings), *_missing(settings)])
    return settings


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of the configuration, for editors: native types too."""
    made = Settings.model_json_schema(ref_template="#/definitions/{model}")
    made["definitions"] = made.pop("$defs")
    made["properties"]["roots"]["required"] = ["default"]
    made["definitions"]["Root"] = {"anyOf": [{"type": "string"}, made["definitions"]["Root"]]}
    return {"$schema": DRAFT, "title": "fetchd.yaml", **_for_editors(made)}


def _found(environ: Mapping[str, str]) -> Path | None:
    named = environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    return next((path for path in PLACES if path.is_file()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Complaint:
    """An error at the first of several places that is written somewhere."""

    paths: tuple[_KeyPath, ...]
    message: str
    hint: str = ""
    at_key: bool = False


class _Document:
    """The tree of the file with the overrides in it, and where each of its errors is shown."""

    def __init__(self, source: str, root: Fields | None = None, text: str = "") -> None:
        self.root = root or Fields(())
        self._source = source
        self._text = text
        self._overridden: dict[_KeyPath, str] = {}

    @classmethod
    def of_file(cls, path: Path) -> _Document:
        source = str(path)
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise ConfigError(f"{source}: the configuration cannot be read: {reason}") from None
        root = yamldoc.parse_yaml(data, source, max_bytes=_MAX_BYTES)
        text = yamldoc.text_of(data)
        if root is None:
            return cls(source, None, text)
        return cls(source, yamldoc.require_fields(root, source, text), text)

    def override(self, key: str, value: str) -> None:
        """Put a value into the tree, over what the file says."""
        source = f"--set {key}"
        node = yamldoc.parse_yaml(
            value.encode("utf-8", "surrogateescape"), source, max_bytes=_MAX_BYTES
        )
        path = tuple(key.split("."))
        if path[0] == "roots" and path[1:]:
            self.root = _with(self.root, ("roots",), _long_form(self.root.get("roots")))
        self.root = _with(self.root, path, node or Scalar("", plain=True))
        self._overridden[path] = source

    def reject(self, complaints: list[_Complaint]) -> None:
        """Raise DocumentError if there are complaints; the file's come before the overrides'."""
        by_source: dict[str, list[Problem]] = {}
        for complaint in complaints:
            source, problem = self._placed(complaint)
            by_source.setdefault(source, []).append(problem)
        if self._source in by_source:
            problems = by_source[self._source]
            raise DocumentError(self._source, problems, _without_secrets(self._text, problems))
        for source, problems in by_source.items():
            raise DocumentError(source, problems)

    def _placed(self, complaint: _Complaint) -> tuple[str, Problem]:
        paths = [self._as_written(path) for path in complaint.paths]
        path = next(filter(self._written, paths), paths[0])
        node = yamldoc.place(self.root, path, at_key=complaint.at_key)
        problem = Problem(
            message=complaint.message,
            line=node.line,
            column=node.column,
            key=_USERINFO.sub("...@", yamldoc.label(path)),
            hint=complaint.hint,
        )
        for overridden, source in self._overridden.items():
            beneath = path[: len(overridden)] == overridden
            only_there = node.line is None and overridden[: len(path)] == path
            if beneath or only_there:
                key = yamldoc.label(path[len(overridden) :])
                return source, replace(problem, line=None, column=None, key=key)
        return self._source, problem

    def _as_written(self, path: _KeyPath) -> _KeyPath:
        """Return the path with an origin as the file spells it."""
        origins = self.root.get("origins")
        if path[0] != "origins" or not path[1:] or not isinstance(origins, Fields):
            return path
        for key, _ in origins.entries:
            with suppress(ValueProblem):
                if _read_origin(key.text) == path[1]:
                    return ("origins", key.text, *path[2:])
        return path

    def _written(self, path: _KeyPath) -> bool:
        whole = yamldoc.place(self.root, path[:-1])
        return isinstance(whole, Fields) and whole.key(str(path[-1])) is not None


def _without_secrets(text: str, problems: list[Problem]) -> str:
    """Blank the lines that would be shown where somebody may have written a secret itself."""
    lines = text.splitlines()
    for problem in problems:
        if problem.key.startswith(("secrets", "origins", "network.proxy_auth")) and problem.line:
            lines[problem.line - 1] = ""
    return "\n".join(lines)


def _with(fields: Fields, path: _KeyPath, value: Node) -> Fields:
    """Return the tree with a value at a path, whatever stood in its way."""
    key = str(path[0])
    if path[1:]:
        inner = fields.get(key)
        value = _with(inner if isinstance(inner, Fields) else Fields(()), path[1:], value)
    kept = (entry for entry in fields.entries if entry[0].text != key)
    entry = (fields.key(key) or Scalar(key), value)
    return Fields((*kept, entry), fields.line, fields.column)


def _long_form(roots: Node | None) -> Node:
    """Return the roots with their paths as keys, so that an override can stand beside these."""
    if roots is None or (isinstance(roots, Scalar) and roots.is_null):
        return _long_form(Fields(((Scalar("default"), Scalar(_DEFAULT_ROOT)),)))
    if not isinstance(roots, Fields):
        return roots
    entries = (
        (name, Fields(((Scalar("path"), root),)) if isinstance(root, Scalar) else root)
        for name, root in roots.entries
    )
    return Fields(tuple(entries), roots.line, roots.column)


def _explained(error: Any) -> _Complaint:
    """Return pydantic's error in our words."""
    path: _KeyPath = error["loc"]
    kind, value = error["type"], error["input"]
    if path[:1] in {("origins",), ("secrets",)} and isinstance(value, str):
        value = _Unquoted(value)  # it may be a secret, where its name or place should stand
    if path and path[-1] == "[key]":
        return _Complaint(paths=(path[:-1],), message=_reason(error), at_key=True)
    if kind == "extra_forbidden":
        known = sorted(_keys_at(path[:-1]))
        meant = yamldoc.did_you_mean(str(path[-1]), known)
        hint = meant or f"known here: {', '.join(known)}"
        return _Complaint(paths=(path,), message="unknown key", hint=hint, at_key=True)
    if kind == "missing":
        return _Complaint(paths=(path[:-1],), message=f"the key {path[-1]} is missing")
    if kind == "tuple_type":
        return _Complaint(paths=(path,), message=f"found {_kind(value)}; a list is needed")
    if kind in {"model_type", "dict_type"}:
        hint = f"known here: {', '.join(sorted(_keys_at(path)))}" if _keys_at(path) else ""
        message = f"found {_kind(value)}, where keys with values are needed"
        return _Complaint(paths=(path,), message=message, hint=hint)
    return _Complaint(paths=(path,), message=_reason(error))


def _reason(error: Any) -> str:
    return str(error.get("ctx", {}).get("error") or error["msg"])


def _contradictions(settings: Settings) -> Iterator[_Complaint]:
    """Yield what is wrong although each value for itself is right."""
    own = {"jobs": settings.jobs, "state": settings.state}
    if _within(settings.state, settings.jobs):
        message = f"{settings.state} lies in the jobs folder; it needs a place of its own"
        yield _Complaint(paths=(("state",), ("jobs",)), message=message)
    seen: dict[str, str] = {}
    for name, root in settings.roots.items():
        places: tuple[_KeyPath, ...] = (("roots", name), ("roots",))
        for key, folder in own.items():
            if _within(root.path, folder) or _within(folder, root.path):
                message = f"{root.path} and the folder of {key}, {folder}, must be apart"
                yield _Complaint(paths=(*places, (key,)), message=message)
        twin = seen.setdefault(os.path.realpath(root.path), name)
        if twin != name:
            message = f"is the same folder as that of the root {twin}"
            yield _Complaint(paths=places, message=message)
    retry = settings.retry
    if retry.max_delay_s < retry.delay_s:
        message = (
            f"{format_duration(retry.max_delay_s)} is shorter than "
            f"delay, {format_duration(retry.delay_s)}"
        )
        yield _Complaint(paths=(("retry", "max_delay"), ("retry", "delay")), message=message)
    yield from _contradictions_of_origins(settings)
    timeout = settings.timeout
    if timeout.attempt_s is not None and timeout.attempt_s < timeout.connect_s:
        message = (
            f"{format_duration(timeout.attempt_s)} is shorter than "
            f"connect, {format_duration(timeout.connect_s)}"
        )
        yield _Complaint(paths=(("timeout", "attempt"),), message=message)


def _contradictions_of_origins(settings: Settings) -> Iterator[_Complaint]:
    network = settings.network
    named = dict(_password(("network", "proxy_auth"), network.proxy_auth))
    if network.proxy_auth is not None and network.proxy is None:
        yield _Complaint(paths=(("network", "proxy_auth"),), message="there is no network.proxy")
    for name, origin in settings.origins.items():
        place: _KeyPath = ("origins", name)
        named |= {(*place, *path): secret for path, secret in origin.named_secrets()}
        logs_in = origin.auth is not None or origin.netrc
        for header in origin.headers:
            if header.lower() == "authorization" and logs_in:
                message = "auth and netrc set this header; only one of them can"
                yield _Complaint(paths=((*place, "headers", header),), message=message)
        if origin.auth is not None and origin.netrc:
            message = "auth says already who asks; only one of them can"
            yield _Complaint(paths=((*place, "netrc"),), message=message)
        if name.startswith("http:") and origin.tls != Tls():
            message = "an http: origin has no TLS; write https:"
            yield _Complaint(paths=((*place, "tls"),), message=message)
        if origin.proxy_auth is not None and origin.proxy is None:
            message = "it belongs to a proxy of this origin; write proxy: URL beside it"
            yield _Complaint(paths=((*place, "proxy_auth"),), message=message)
    known = ", ".join(sorted(settings.secrets)) or "none; add it to secrets"
    for path, secret in named.items():
        if secret not in settings.secrets:
            message = "this is not the name of a secret"  # but perhaps the secret itself
            yield _Complaint(paths=(path,), message=message, hint=f"known: {known}")


def _missing(settings: Settings) -> Iterator[_Complaint]:
    """Yield what the configuration names and this machine does not have."""
    files: dict[_KeyPath, Path | None] = {("network", "ca"): settings.network.ca}
    for name, origin in settings.origins.items():
        for key in ("ca", "cert", "key"):
            files["origins", name, "tls", key] = getattr(origin.tls, key)
    for name, secret in settings.secrets.items():
        files["secrets", name, "file"] = secret.file
    for place, file in files.items():
        try:
            if file is not None:
                os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except PermissionError:
            pass  # the daemon's user may be allowed what the one of this command is not
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            reason = getattr(exc, "strerror", None) or str(exc)
            message = f"{file} cannot be read: {reason.lower()}"
            yield _Complaint(paths=(place,), message=message)
    for name, root in settings.roots.items():
        if root.group is not None and not _is_group(root.group):
            message = f"there is no group {root.group!r}"
            yield _Complaint(paths=(("roots", name, "group"),), message=message)


def _is_group(group: str) -> bool:
    if group.isascii() and group.isdigit():
        return True
    try:
        grp.getgrnam(group)
    except (KeyError, ValueError):
        return False
    return True


def _within(inner: Path, outer: Path) -> bool:
    """Return whether a folder is another or lies below it, links followed."""
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer))


# ---------------------------------------------------------------- the model, looked at


def _aliases(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a model as they are written, each with its annotation."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _keys_at(path: _KeyPath) -> set[str]:
    """Return the keys that are known at a place, none where every key or no key is."""
    found: Any = Settings
    for part in path:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = _always(_aliases(found).get(str(part)))
        else:
            found = get_args(found)[-1]
    return (
        set(_aliases(found)) if isinstance(found, type) and issubclass(found, BaseModel) else set()
    )


def _always(annotation: Any) -> Any:
    """Return the model in an annotation that also allows None, any other as it is."""
    inner = [each for each in get_args(annotation) if isinstance(each, type)]
    models = [each for each in inner if issubclass(each, BaseModel)]
    return models[0] if models and type(None) in inner else annotation


def _for_editors(part: Any) -> Any:
    """Return a schema with defaults in native types, and nothing beside a reference."""
    if isinstance(part, list):
        return [_for_editors(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: _for_editors(value) for key, value in part.items() if key != "title"}
    default = made.get("default")
    if default is None or default == {}:
        made.pop("default", None)
    else:
        made["default"] = _native(default)
    if "$ref" in made and len(made) > 1:
        made["allOf"] = [{"$ref": made.pop("$ref")}]  # draft-07 ignores what stands beside $ref
    return made
