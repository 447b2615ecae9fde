"""How each single value is read: from its text to one of ours, or a ValueProblem that says why."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from fetchd import yamldoc
from fetchd.errors import ValueProblem
from fetchd.rates import Rate, parse_rate, rate_schema
from fetchd.units import (
    format_duration,
    format_size,
    parse_duration_s,
    parse_rate_bytes_per_s,
    parse_requests_per_s,
    parse_size_bytes,
)
from fetchd.urls import check_url, local_path, origin_of

_ROOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SERVICE = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_ADDRESS_CLASSES = ("public", "private", "loopback")
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
        raise ValueProblem(f"found {kind_of(value)}; a single value is needed")
    return value


def kind_of(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return "nothing" if value is None else "a list" if isinstance(value, list) else "keys"


def whole(least: int, most: int) -> _Reader:
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


def choice(*allowed: str) -> _Reader:
    def read(value: Any) -> str:
        text = _text(value)
        if text not in allowed:
            meant = yamldoc.did_you_mean(text, allowed)
            hint = f"; {meant}" if meant else ""
            raise ValueProblem(f"{text!r} is not one of {', '.join(allowed)}{hint}")
        return text

    return _Reader(read, {"enum": list(allowed)})


def native(value: Any) -> Any:
    """Return a value, as it would be written, in the type that an editor takes it for."""
    if isinstance(value, dict):
        return {key: native(part) for key, part in value.items()}
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
    text = _text(value)
    if not text.lower().startswith("http://"):
        shown = "this" if "@" in text else repr(text)  # a password may stand before the @
        raise ValueProblem(f"{shown} is no proxy that fetchd knows; write http://HOST:PORT")
    return check_url(text)


def read_origin(value: Any) -> str:
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


def read_origins(origins: Any) -> Any:
    """Refuse an origin that is written twice, in two ways."""
    seen: dict[str, str] = {}
    for key in origins if isinstance(origins, dict) else ():
        try:
            first = seen.setdefault(read_origin(key), key)
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


def read_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
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


def _read_http_url(value: Any) -> str:
    url = check_url(_text(value))
    if local_path(url) is not None:
        raise ValueProblem(f"{url!r} is a file; write http://... or https://...")
    return url


def _read_argv(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueProblem(
            f"found {kind_of(value)}; a list is needed: the program and its arguments, each an item"
        )
    if not value[0].startswith("/") or "${" in value[0]:
        raise ValueProblem(f"{value[0][:60]!r} is not the whole path of a program")
    if any("\0" in one for one in value):
        raise ValueProblem("no argument can have a NUL in it")
    return tuple(value)


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


_NATIVE_TEXT = {"type": ["string", "integer"]}
_STALL_PATTERN = r"^[0-9.]+\s*(ms|s|m|h|d)(@.*/s)?$"
_ADDRESSES = {"type": ["array", "string"], "items": {"type": "string"}}

Folder = Annotated[Path, _Reader(_read_path, {"type": "string"})]
File = Folder | None
Flag = Annotated[bool, _Reader(_read_flag, {"type": "boolean"})]
Wait = Annotated[float, _duration(0)]
Limit = Annotated[float, _duration(0.1)]
Period = Annotated[float, _duration(1)]
Space = Annotated[int, _size(0)]
Size = Annotated[int, _size(1)]
Mode = Annotated[int, _Reader(_read_mode, _NATIVE_TEXT)]
Group = Annotated[str, _Reader(_read_group, _NATIVE_TEXT)]
Proxy = Annotated[str, _Reader(_read_proxy, {"type": "string"})]
_Allowed = Annotated[str, _Reader(_read_allowed, {"type": "string"})]
Allow = Annotated[tuple[_Allowed, ...], BeforeValidator(_one_or_more), WithJsonSchema(_ADDRESSES)]
Pace = Annotated[Stall, _Reader(_read_stall, {"type": "string", "pattern": _STALL_PATTERN})]
ByteRate = Annotated[Rate, _Reader(parse_rate, rate_schema())]
Requests = Annotated[
    float,
    _Reader(
        lambda value: parse_requests_per_s(_text(value)),
        {"type": "string", "pattern": r"^[0-9]+\s*/\s*(s|m|h)$"},
    ),
]
HttpUrl = Annotated[str, _Reader(_read_http_url, {"type": "string"})]
Argv = Annotated[
    tuple[str, ...],
    _Reader(_read_argv, {"type": "array", "items": {"type": "string"}, "minItems": 1}),
]
RootName = Annotated[str, _Reader(_read_name, {"type": "string"})]
OriginName = Annotated[str, _Reader(read_origin, {"type": "string"})]
HeaderName = Annotated[str, _Reader(_read_header, {"type": "string"})]
User = Annotated[str, _Reader(_read_user, {"type": "string"})]
SecretName = Annotated[str, _Reader(_read_secret_name, {"type": "string"})]
Credential = Annotated[str, _Reader(_read_credential, {"type": "string"})]
Variable = Annotated[str, _Reader(_read_variable, {"type": "string"})]
