"""The journal of a part: whose it is, and which of its bytes are durable."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from fetchd.disk.system import write_all
from fetchd.model import Validator
from fetchd.ports import Mending, Os, PartJournal

_JOURNAL = ".json"
_DRAFT = ".json.tmp"
_LONGEST_JOURNAL_BYTES = 256 * 1024


def read_journal(system: Os, folder_fd: int, name: str) -> tuple[str, str, PartJournal] | None:
    """Return (root, path, journal), None when there is none that can be trusted."""
    try:
        fd = system.open(
            name + _JOURNAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd
        )
    except OSError:
        return None
    try:
        return _decode(read_all(system, fd))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)


def write_journal(
    system: Os, folder_fd: int, name: str, root: str, path: str, journal: PartJournal
) -> None:
    """Put a part's journal in the place of the one before, durably; raises OSError."""
    draft = name + _DRAFT
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = system.open(draft, flags, 0o600, dir_fd=folder_fd)
    try:
        write_all(system, fd, _encode(root, path, journal), 0)
        system.fsync(fd)
    finally:
        os.close(fd)
    system.rename(draft, name + _JOURNAL, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    system.fsync(folder_fd)


def say_whose(system: Os, folder_fd: int, name: str, root: str, path: str) -> None:
    """Put down whose part it is, unless its journal does: a sweep has to know.

    That vouches for no byte, so nothing is synced.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = system.open(name + _JOURNAL, flags, 0o600, dir_fd=folder_fd)
    except FileExistsError:
        return
    said = {"root": root, "path": path, "url": "", "final_url": "", "durable_bytes": 0}
    try:
        write_all(system, fd, memoryview(json.dumps(said).encode("ascii")), 0)
    finally:
        os.close(fd)


def forget_journal(system: Os, folder_fd: int, name: str, *, draft: bool = True) -> bool:
    """Remove a part's journal and its ``draft``; True when there was a journal."""
    if draft:
        with suppress(FileNotFoundError):
            system.unlink(name + _DRAFT, dir_fd=folder_fd)
    try:
        system.unlink(name + _JOURNAL, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    return True


def read_all(system: Os, fd: int) -> bytes:
    buffer = memoryview(bytearray(_LONGEST_JOURNAL_BYTES))
    size_bytes = 0
    while got := system.read(fd, buffer[size_bytes:], size_bytes):
        size_bytes += got
    return bytes(buffer[:size_bytes])


def _encode(root: str, path: str, journal: PartJournal) -> memoryview:
    # ASCII only: a lone surrogate (a byte that is not UTF-8) survives as an escape.
    document: dict[str, object] = {
        "root": root,
        "path": path,
        "url": journal.url,
        "final_url": journal.final_url,
        "total": journal.total,
        **asdict(journal.validator),
        "durable_bytes": journal.durable_bytes,
    }
    for name in ("ranges", "seams", "mixed"):
        if said := getattr(journal, name):
            document[name] = said
    if (mending := journal.mending) is not None:
        document["mending"] = {
            "url": mending.url,
            **asdict(mending.validator),
            "compared": mending.compared,
        }
    return memoryview(json.dumps(document, ensure_ascii=True).encode("ascii"))


def _decode(raw: bytes) -> tuple[str, str, PartJournal]:
    """Read a journal; raises ValueError for one that is torn or was written by something else."""
    document = json.loads(raw)
    if not isinstance(document, dict):
        raise ValueError("no mapping")  # noqa: TRY004 -- as below
    total = document.get("total")
    durable_bytes = document.get("durable_bytes")
    if type(durable_bytes) is not int or durable_bytes < 0:
        raise ValueError("no length")
    if total is not None and (type(total) is not int or total < durable_bytes):
        raise ValueError("no total")
    journal = PartJournal(
        url=_text(document, "url"),
        final_url=_text(document, "final_url"),
        total=total,
        validator=_validator(document),
        durable_bytes=durable_bytes,
        ranges=_ranges(document.get("ranges", ()), durable_bytes, total),
        seams=_seams(document.get("seams", ())),
        mixed=document.get("mixed") is True,
        mending=_mending(document.get("mending"), durable_bytes),
    )
    return _text(document, "root"), _text(document, "path"), journal


def _validator(document: dict[str, Any]) -> Validator:
    return Validator(
        etag=_text_or_none(document, "etag"),
        last_modified=_text_or_none(document, "last_modified"),
        date=_text_or_none(document, "date"),
    )


def _seams(said: object) -> tuple[int, ...]:
    seams = said if isinstance(said, list) else []
    if not all(type(seam) is int and seam > 0 for seam in seams):
        raise ValueError("no seams")
    return tuple(seams)


def _mending(said: object, size_bytes: int) -> Mending | None:
    if not isinstance(said, dict):
        return None
    return Mending(
        url=_text(said, "url"),
        validator=_validator(said),
        compared=_ranges(said.get("compared", ()), -1, size_bytes),
    )


def _ranges(said: object, durable_bytes: int, total: int | None) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    before = durable_bytes
    for each in said if isinstance(said, list) else ():
        match each:
            case [int(start), int(end)] if before < start < end <= (total or 0):
                ranges.append((start, end))
                before = end
            case _:
                raise ValueError("no ranges")
    return tuple(ranges)


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f"no {key}")  # noqa: TRY004 -- every flaw of a journal is one to its reader
    return value


def _text_or_none(document: dict[str, Any], key: str) -> str | None:
    return None if document.get(key) is None else _text(document, key)
