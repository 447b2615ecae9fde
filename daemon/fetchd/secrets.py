"""The operator's secrets: names in the configuration, values in credentials, files, variables.

A value is tainted: it shows its name, and who sends it has to ask for it. What could still carry
one to a person, such as a server's own words, passes ``hide`` first.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import re
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, quote_plus

from fetchd.errors import ConfigError
from fetchd.systemd import credentials_folder

HIDDEN = "(hidden)"

_MOST_BYTES = 64 * 1024
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # surrogates: what was no UTF-8
#: A shorter value stands in many words; it is hidden by its place alone.
_SHORTEST_HIDDEN = 4

_lock = threading.Lock()
_spellings: tuple[str, ...] = ()  # long ones first; replaced as a whole, under _lock


class Secret:
    """A value that shows its name only. Making one hides the value in every text from then on."""

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self._value = value
        conceal(value)

    def __repr__(self) -> str:
        return f"<secret {self.name}>"

    def reveal(self) -> str:
        """Return the value, for whoever sends it where it belongs."""
        return self._value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is read: a credential's name, a file's path, or a variable's name."""

    kind: Literal["credential", "file", "env"]
    where: str


def read(places: Mapping[str, Place], environ: Mapping[str, str] = os.environ) -> dict[str, Secret]:
    """Return the secrets by name; raises ConfigError with a line for each that cannot be read."""
    found: dict[str, Secret] = {}
    wrong: list[str] = []
    for name, place in places.items():
        try:
            found[name] = Secret(name, _checked(_read(place, environ)))
        except _Unreadable as exc:
            wrong.append(f"secrets.{name}.{place.kind}: {exc}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return found


def netrc_login(host: str, environ: Mapping[str, str] = os.environ) -> tuple[str, Secret]:
    """Return user and password of the host's own entry in the user's netrc file.

    The file is the one that ``NETRC`` names, else ``~/.netrc``. Raises ConfigError.
    """
    path = Path(environ.get("NETRC") or Path(environ.get("HOME") or Path.home()) / ".netrc")
    try:
        _refuse_exposed(path, path.stat())
        entry = netrc.netrc(str(path)).hosts.get(host)
    except netrc.NetrcParseError as exc:  # its text may quote a password
        raise ConfigError(f"{path} cannot be understood near line {exc.lineno}") from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {_why(exc)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    except _Unreadable as exc:
        raise ConfigError(str(exc)) from None
    if entry is None or not entry[2]:
        raise ConfigError(f"{path} has no entry with a password for the machine {host}")
    try:
        return entry[0], Secret(f"netrc:{host}", _checked(entry[2]))
    except _Unreadable as exc:
        raise ConfigError(f"{path}: the password of {host}: {exc}") from None


# ---------------------------------------------------------------- what is shown of them


def conceal(value: str) -> None:
    """Let ``hide`` know of a value that no text may show, for as long as the process lasts."""
    if len(value) < _SHORTEST_HIDDEN:
        return
    percent = quote(value, safe=""), quote(value), quote_plus(value)
    spelled = {
        value,
        repr(value)[1:-1],
        ascii(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        *(text for encoded in percent for text in (encoded, _lowered(encoded))),
        base64.b64encode(value.encode()).decode(),
    }
    global _spellings  # noqa: PLW0603 -- one process has one list, for whatever writes a text
    with _lock:
        _spellings = tuple(sorted({*_spellings, *spelled}, key=len, reverse=True))


def _lowered(encoded: str) -> str:
    return re.sub("%..", lambda match: match[0].lower(), encoded)


def tells(text: str) -> bool:
    """Return whether a secret stands in the text."""
    return any(value in text for value in _spellings)


def hide(text: str) -> str:
    """Return the text with ``(hidden)`` for every secret in it, in its usual spellings."""
    for value in _spellings:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def hide_in_start(data: bytes) -> bytes:
    """Return the first bytes of a content without secrets, nor the half of one where they end."""
    text = hide(data.decode("utf-8", "surrogateescape"))
    for value in _spellings:
        for length in range(min(len(value), len(text)), _SHORTEST_HIDDEN - 1, -1):
            if text.endswith(value[:length]):
                return (text[:-length] + HIDDEN).encode("utf-8", "surrogateescape")
    return text.encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- reading


class _Unreadable(Exception):
    """Why a value cannot be had; without the value."""


def _read(place: Place, environ: Mapping[str, str]) -> str:
    if place.kind == "env":
        value = environ.get(place.where)
        if value is None:
            raise _Unreadable(f"the environment has no variable {place.where}")
        return value
    if place.kind == "file":
        return _text_of(Path(place.where), exposed=False)
    folder = credentials_folder(environ)
    if folder is None:
        raise _Unreadable(
            f"systemd gave no credentials; the unit needs LoadCredential={place.where}:PATH"
        )
    return _text_of(folder / place.where, exposed=True)  # systemd has seen to who may read it


def _text_of(path: Path, *, exposed: bool) -> str:
    """Return a small text file's content; ``exposed``: whoever else may read it."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _Unreadable(f"{path} is not a file")
            if not exposed:
                _refuse_exposed(path, found)
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise _Unreadable(f"{path} cannot be read: {_why(exc)}") from None
    if len(data) > _MOST_BYTES:
        raise _Unreadable(f"{path} has more than 64 KiB; a secret is one line")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _Unreadable(f"{path} is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; who waits for the other end of a pipe would wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_exposed(path: Path, found: os.stat_result) -> None:
    """Raise for a file that others could read or change (the group may read it)."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o027:
        raise _Unreadable(
            f"{path} has mode {mode:04o}, so that others could read or change it; "
            "make it 0600, or 0640 with the group of fetchd"
        )
    if found.st_uid not in {0, os.geteuid()}:
        raise _Unreadable(
            f"{path} belongs to the user {found.st_uid}; it must belong to that of fetchd or root"
        )


def _checked(value: str) -> str:
    if not value:
        raise _Unreadable("it is empty")
    if _UNFIT.search(value):
        raise _Unreadable("it has control characters or several lines; a secret is one line")
    return value


def _why(exc: Exception) -> str:
    return (getattr(exc, "strerror", None) or str(exc)).lower()
