"""The one redactor: no line reaches any sink without having passed through it.

Secrets are hidden by the name of their key and by their place in a text (URLs, headers), those of
the configuration by their values; what could move a terminal's cursor or fake a second line is
escaped; long values are cut.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from fetchd.secrets import HIDDEN, hide, tells
from fetchd.urls import redact_url

#: The one key whose value may have several lines.
TRACEBACK = "traceback"

_SECRET_KEY = re.compile(
    r"authori[sz]ation|token|passw|secret|cookie|api[-_]?key|credential|private[-_]?key",
    re.IGNORECASE,
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>]+")
_QUERY_VALUE = re.compile(r"(?<=[?&])([^\s=&?#\"<>]+=)[^\s&#\"<>]+")
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token)([\"']?\s*[:=]).*",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE)
# C0 and C1 controls, line separators, marks that turn the direction of writing, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_UNSAFE_BUT_NEWLINE = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))

_LONGEST_VALUE = 2_000
# All texts of most lines together: nothing in them could be hidden, escaped or cut.
_PLAIN = re.compile(rf"[!\"$-<>A-~]{{0,{_LONGEST_VALUE}}}")
#: Values of these types have nothing to hide; and texts, where all of a line are plain.
_CLEAN = frozenset({int, bool, type(None)})
_CLEAN_IF_PLAIN = _CLEAN | {str}
_LONGEST_TRACEBACK = 20_000
_MOST_ITEMS = 50
_DEEPEST = 4


def redact(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Clean every value of a line; a structlog processor."""
    # By the type itself: most values are of few, and a look at each is most of the cost.
    texts = "".join([value for value in event_dict.values() if type(value) is str])
    plain = (
        _PLAIN.fullmatch(texts) is not None
        and not _any_secret(tuple(event_dict))
        and not tells(texts)
    )
    clean = _CLEAN_IF_PLAIN if plain else _CLEAN
    for key in [key for key, value in event_dict.items() if type(value) not in clean]:
        event_dict[key] = _clean(key, event_dict[key], _DEEPEST)
    return event_dict


def redact_text(text: str, longest: int = _LONGEST_VALUE) -> str:
    """Return the text without secrets, on one line, at most about ``longest`` characters."""
    text = hide(text)  # before a cut could leave a part of one
    if len(text) <= longest and text.isascii() and text.isprintable():
        return _hide(text)
    return _cut(_escape(_hide(text[: 2 * longest]), _UNSAFE), longest, len(text))


def _clean(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    if _is_secret(key):
        return HIDDEN
    if key == TRACEBACK:
        # The end of a traceback says what happened.
        text = hide(str(value))[-2 * _LONGEST_TRACEBACK :]
        return _escape(_hide(text), _UNSAFE_BUT_NEWLINE)[-_LONGEST_TRACEBACK:]
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return redact_text(os.fsdecode(value))
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item, depth - 1) for item in _first(value)]
    if depth and isinstance(value, Mapping):
        return {
            redact_text(str(inner)): _clean(str(inner), item, depth - 1)
            for inner, item in _first(value.items())
        }
    return redact_text(str(value))


@functools.lru_cache(1024)
def _any_secret(keys: tuple[str, ...]) -> bool:
    return any(map(_is_secret, keys))


@functools.lru_cache(1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _hide(text: str) -> str:
    # A search costs more than a look.
    if "@" in text or "?" in text or "#" in text:
        text = _URL.sub(lambda match: redact_url(match[0]), text)
        text = _QUERY_VALUE.sub(r"\1...", text)
    if " " in text or "=" in text:
        text = _BEARER.sub(rf"\1 {HIDDEN}", _HEADER.sub(rf"\1\2 {HIDDEN}", text))
    return text


def _escape(text: str, unsafe: re.Pattern[str]) -> str:
    return unsafe.sub(lambda match: ascii(match[0])[1:-1], text)


def _cut(text: str, longest: int, length: int) -> str:
    if len(text) <= longest and length <= 2 * longest:
        return text
    return f"{text[:longest]}... ({length} characters)"


def _first(items: Iterable[Any]) -> Iterable[Any]:
    for number, item in enumerate(items):
        if number == _MOST_ITEMS:
            return
        yield item
