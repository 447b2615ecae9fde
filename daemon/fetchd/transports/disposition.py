"""Content-Disposition (RFC 6266): which name an answer gives its file, read strictly.

What is not of the form that the standards ask for says nothing: no guess becomes a name.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token, RFC 9110 §5.6.2
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_TYPE = re.compile(rf"{_WORD}[ \t]*")
_PARAMETER = re.compile(
    rf";[ \t]*(?:(?P<name>{_WORD})[ \t]*=[ \t]*(?P<value>{_WORD}|{_QUOTED})[ \t]*)?"
)
#: A value with its charset, perhaps its language (RFC 8187 §3.2.1).
_EXTENDED = re.compile(
    r"(?P<charset>[A-Za-z0-9-]+)'[A-Za-z0-9-]*'(?P<text>(?:%[0-9A-Fa-f]{2}|[!#$&+.^_`|~0-9A-Za-z-])*)"
)
_CHARSETS = {"utf-8", "iso-8859-1"}
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_SEPARATOR = re.compile(r"[/\\]")


def file_name(value: str) -> str | None:
    """Return the base name that a header's value (bytes as Latin-1) gives, None: it gives none.

    ``filename*`` goes before ``filename``. The result is not safe as a name of a file: whoever
    makes a path of it must check it.
    """
    parameters = _parameters(value)
    if parameters is None:
        return None
    name = _extended(parameters.get("filename*", ""))
    if name is None and "filename" in parameters:
        name = _plain(parameters["filename"])
    # Folders of the server's, or of whoever has uploaded it, mean nothing here (RFC 6266 §4.3).
    return _SEPARATOR.split(name)[-1] or None if name else None


def _parameters(value: str) -> dict[str, str] | None:
    """Return the parameters by name in lower case, as written; None where they are malformed."""
    kind = _TYPE.match(value)
    if kind is None:
        return None
    found: dict[str, str] = {}
    at = kind.end()
    while at < len(value):
        match = _PARAMETER.match(value, at)
        if match is None:
            return None
        at = match.end()
        if match["name"] is not None:
            name = match["name"].lower()
            if name in found:  # nobody can tell which one is meant
                return None
            found[name] = match["value"]
    return found


def _extended(value: str) -> str | None:
    match = _EXTENDED.fullmatch(value)
    if match is None or match["charset"].lower() not in _CHARSETS:
        return None
    try:
        return unquote_to_bytes(match["text"]).decode(match["charset"])
    except UnicodeDecodeError:
        return None


def _plain(value: str) -> str:
    if value.startswith('"'):
        value = _PAIR.sub(r"\1", value[1:-1])
    try:  # what nearly all servers mean by bytes beyond ASCII
        return value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return value
