"""From what a job file, or a server, says to a path below a root that cannot leave it."""

from __future__ import annotations

import re
import unicodedata

from fetchd.errors import ValueProblem

#: The folder below a root where parts wait; no task may write there.
HIDDEN = ".fetchd"
LONGEST_COMPONENT_BYTES = 255
LONGEST_PATH_BYTES = 4000

# A byte as ``os.fsdecode`` hides it in a text (PEP 383).
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@~%-]{0,254}")


def clean_folder(text: str) -> str:
    """Return a folder below the root, "" for the root itself; one slash at the end is allowed."""
    return clean_path(text.removesuffix("/")) if text else ""


def clean_path(text: str) -> str:
    """Return a relative path in the surrogate-escaped form of ``os.fsdecode``.

    Raises ValueProblem for whatever could leave the root, cannot be created, or is not shown as
    what it is. Nothing is repaired: two texts never mean one path by accident.
    """
    if text.startswith("/"):
        raise ValueProblem(f"{_shown(text)} is absolute; write a path below the root")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueProblem(f"{_shown(text)} is not valid Unicode") from None
    if len(data) > LONGEST_PATH_BYTES:
        raise ValueProblem(f"the path has {len(data)} bytes; at most {LONGEST_PATH_BYTES} fit")
    for component in data.split(b"/"):
        _check(component, text)
    return data.decode("utf-8", "surrogateescape")


def clean_name(text: str) -> str:
    """Return the name of a file without folders; as ``clean_path``.

    The message begins with what the name is: "is empty".
    """
    if not text:
        raise ValueProblem("is empty")
    if "/" in text:
        raise ValueProblem(f"{text!r} has a slash in it")
    try:
        return clean_path(text)
    except ValueProblem as exc:
        raise ValueProblem(f"is no file name: {exc}") from None


def join_path(folder: str, name: str) -> str:
    """Return ``name`` (which may have folders of its own) below a cleaned folder, cleaned."""
    if _PLAIN.fullmatch(name) and len(folder) < LONGEST_PATH_BYTES // 8:
        return f"{folder}/{name}" if folder else name
    cleaned = clean_path(name)
    return clean_path(f"{folder}/{cleaned}") if folder else cleaned


def shown(text: str) -> str:
    """Return a text that can be encoded: bytes that are not UTF-8 stand as escapes."""
    text = _ESCAPED_BYTE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def _check(component: bytes, whole: str) -> None:
    if not component:
        raise ValueProblem(f"{_shown(whole)} has an empty component" if whole else "it is empty")
    if component in {b".", b".."}:
        raise ValueProblem(f"{_shown(whole)} has the component {component.decode()!r}")
    if len(component) > LONGEST_COMPONENT_BYTES:
        raise ValueProblem(
            f"a component of {_shown(whole)} has {len(component)} bytes; "
            f"at most {LONGEST_COMPONENT_BYTES} fit"
        )
    text = component.decode("utf-8", "surrogateescape")
    if not text.isprintable() and any(unicodedata.category(char) == "Cc" for char in text):
        raise ValueProblem(f"{_shown(whole)} has a control character")
    # Compared without case: a root may lie on a file system that knows none.
    if text.casefold() == HIDDEN:
        raise ValueProblem(f"{_shown(whole)} has the component {HIDDEN!r}, which is fetchd's own")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
