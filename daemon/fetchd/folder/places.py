"""The folders below the drop folder, and moves between them that never overwrite."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fetchd.errors import ConfigError

ACTIVE, DONE, FAILED, REPORTS = "active", "done", "failed", "reports"
_NAME_MAX_BYTES = 255


class Places:
    """Only the folder thread moves and writes here, so a name that is free stays free."""

    def __init__(self, jobs: Path, wall: Callable[[], float]) -> None:
        self.jobs = jobs
        self.active = jobs / ACTIVE
        self.done = jobs / DONE
        self.failed = jobs / FAILED
        self.reports = jobs / REPORTS
        self._wall = wall

    def make(self) -> None:
        """Create what is missing; raises OSError."""
        for folder in (self.active, self.done, self.failed, self.reports):
            folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Create the folders at start; raises ConfigError when they cannot be used."""
        try:
            self.make()
            for folder in (self.jobs, self.active, self.done, self.failed, self.reports):
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(None, "not writable", str(folder))
        except OSError as exc:
            raise ConfigError(
                f"jobs: {exc.filename}: {exc.strerror}; fetchd must be able to write there"
            ) from None

    def move(self, source: Path, folder: Path) -> Path:
        """Move a file into a folder, under its name or one with a stamp; durable on return.

        Raises OSError; the file then is where it was.
        """
        target = self._free(folder, source.name)
        source.rename(target)
        sync(folder)
        sync(source.parent)
        return target

    def write(self, name: str, text: str | bytes, *, durable: bool) -> None:
        """Replace ``reports/NAME`` atomically; raises OSError."""
        beside = self.reports / f".{fit(name, len('..tmp'))}.tmp"
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        with beside.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.rename(self.reports / fit(name))
        if durable:
            sync(self.reports)

    def error_report(self, file: str) -> Path:
        """Return where the text about a refused file stands."""
        return self.reports / f"{fit(file, len('.error.txt'))}.error.txt"

    def _free(self, folder: Path, name: str) -> Path:
        target = folder / name
        if not os.path.lexists(target):
            return target
        stamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
        stem, dot, suffix = name.rpartition(".")
        if not dot:
            stem, suffix = name, ""
        number = 0
        while True:
            mark = f".{stamp}" if number == 0 else f".{stamp}-{number}"
            ending = f"{mark}{dot}{suffix}"
            target = folder / f"{fit(stem, len(os.fsencode(ending)))}{ending}"
            if not os.path.lexists(target):
                return target
            number += 1


def fit(name: str, room_bytes: int = 0) -> str:
    """Return the name, cut so that it fits in a folder with ``room_bytes`` more behind it."""
    raw = os.fsencode(name)
    most_bytes = _NAME_MAX_BYTES - room_bytes
    return name if len(raw) <= most_bytes else os.fsdecode(raw[:most_bytes])


def sync(folder: Path) -> None:
    """Make renames in a folder durable; raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
