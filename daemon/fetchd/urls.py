"""What can be read off a URL: origin, file name, path; joining and hiding its secrets."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from fetchd.errors import ValueProblem

DEFAULT_PORTS = {"http": 80, "https": 443}
#: Stands for the URL, and the origin, of a task that fetches nothing; shown to nobody.
HERE = "fetchd://"
_SCHEMES = (*DEFAULT_PORTS, "file")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\<>\"`{}|^]")
_HOST = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")
#: Most URLs: nothing in them needs a closer look. Their scheme, host and port, and the rest.
_PLAIN = re.compile(
    r"(https?)://([a-z0-9.-]{1,253})(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
    r"(/[A-Za-z0-9._~!$&'()*+,;=:/%-]*)(\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?"
)
_LONGEST_HOST = 253  # RFC 1035 §2.3.4, in its usual reading
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_url(text: str) -> str:
    """Return the URL if fetchd can fetch it; raises ValueProblem with what to change.

    Characters that URL parsers are known to disagree about (backslash, control characters,
    space) are refused rather than repaired.
    """
    if _PLAIN.fullmatch(text):
        return text
    if match := _FORBIDDEN.search(text):
        raise ValueProblem(
            f"the URL has the character {match[0]!r} at position {match.start() + 1}; "
            f"write it percent-encoded: %{ord(match[0]):02X}"
        )
    if _SURROGATE.search(text):
        raise ValueProblem("the URL is not valid UTF-8")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueProblem(f"{_shown(text)} is not a URL: host or port cannot be read") from None
    if not parts.scheme:
        raise ValueProblem(
            f"{_shown(text)} is not an absolute URL; write http://... or https://..."
        )
    if parts.scheme not in _SCHEMES:
        allowed = ", ".join(_SCHEMES)
        raise ValueProblem(f"the scheme {parts.scheme!r} is not fetched; allowed: {allowed}")
    if parts.scheme == "file":
        _check_file(text, parts)
        return text
    if "@" in parts.netloc:
        raise ValueProblem("user name and password may not stand in a URL")
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.rstrip(":")
    try:
        plain = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError:
        raise ValueProblem(f"{_shown(host)} is not a host name") from None
    if port == 0 or not _HOST.fullmatch(plain) or len(plain) > _LONGEST_HOST:
        raise ValueProblem(f"{_shown(parts.netloc)} is not a host, or not a host and port")
    return text


def join_url(base: str, relative: str) -> str:
    """Return ``relative`` resolved against ``base``, which counts as a folder."""
    return urljoin(base if base.endswith("/") else base + "/", relative)


def resolve_url(url: str, relative: str) -> str:
    """Return ``relative`` resolved against ``url``, whose last segment is a file (RFC 3986 §5)."""
    return urljoin(url, relative)


def origin_of(url: str) -> str:
    """Return ``scheme://host:port`` in lower case, the port always given (RFC 6454 §4).

    All files of this machine are of one origin, ``file://``; what is not fetched is of ``HERE``.
    """
    if plain := _PLAIN.fullmatch(url):
        scheme, host, port = plain.group(1, 2, 3)
        return f"{scheme}://{host}:{port or DEFAULT_PORTS[scheme]}"
    if url == HERE:
        return HERE
    parts = urlsplit(url)
    if parts.scheme == "file":
        return "file://"
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return f"{parts.scheme}://{_host(parts)}:{port}"


def file_name_of(url: str) -> str:
    """Return the last segment of the path, percent-decoded once, or "" when there is none.

    Bytes that are not UTF-8 become surrogates, as in ``os.fsdecode``. The result is not safe
    as a name: whoever makes a path of it must check it.
    """
    segment = urlsplit(url).path.rpartition("/")[2]
    return unquote_to_bytes(segment).decode("utf-8", "surrogateescape")


def path_of(url: str) -> str:
    """Return the whole path without its first slash, percent-decoded once, each segment kept.

    A decoded slash inside a segment stays visible as ``%2F``, so that it cannot make a folder.
    """
    segments = urlsplit(url).path.lstrip("/").split("/")
    return "/".join(
        unquote_to_bytes(segment).replace(b"/", b"%2F").decode("utf-8", "surrogateescape")
        for segment in segments
    )


def local_path(url: str) -> str | None:
    """Return the absolute path that a checked file: URL names, None for any other URL.

    Percent-decoded once; bytes that are not UTF-8 become surrogates, as in ``os.fsdecode``.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    return unquote_to_bytes(parts.path).decode("utf-8", "surrogateescape")


def path_beside(url: str, other: str) -> str | None:
    """Return the path of ``url``, decoded, below the folder in which ``other`` stands.

    None: it is of another origin, or not below that folder.
    """
    folder = path_of(other).rpartition("/")[0]
    path = path_of(url)
    prefix = f"{folder}/" if folder else ""
    if origin_of(url) != origin_of(other) or not path.startswith(prefix):
        return None
    return path.removeprefix(prefix)


def redact_url(url: str) -> str:
    """Return the URL without user name, password, query values and fragment."""
    plain = _PLAIN.fullmatch(url)
    if plain and not plain[5]:
        return url
    if url == HERE:
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable URL)"
    netloc = parts.netloc.rpartition("@")[2]
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{netloc}{parts.path}{query}" if parts.scheme else parts.path + query


def _check_file(text: str, parts: SplitResult) -> None:
    """Refuse a file: URL (RFC 8089) that is not one absolute path, written in one way."""
    if parts.netloc not in {"", "localhost"} or "//" not in text[:7]:
        raise ValueProblem(f"{text!r} is not a file of this machine; write file:///folder/name")
    if "?" in text or "#" in text:
        raise ValueProblem("a file: URL has no query and no fragment; write ? as %3F, # as %23")
    first, *segments = parts.path.split("/")
    if segments and not segments[-1]:
        segments.pop()  # of a folder, as in a base
    for segment in map(unquote_to_bytes, segments):
        if segment in {b"", b".", b".."} or b"/" in segment or b"\0" in segment:
            raise ValueProblem(
                f"{text!r} has the component {segment.decode('utf-8', 'replace')!r}; a file: URL "
                "names its file without '.', '..' and empty components"
            )
    if first or not segments:
        raise ValueProblem(f"{text!r} names no file; write file:///folder/name")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    return f"[{host}]" if ":" in host else host
