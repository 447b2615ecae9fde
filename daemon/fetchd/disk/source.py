"""A file below a root as a source: which version of it was opened, and whether it still is that."""

from __future__ import annotations

import os

from fetchd.disk.roots import explain_source
from fetchd.ports import Os


class SourceFile:
    """``ports.LocalFile``; owns ``fd``, a regular file."""

    def __init__(self, system: Os, fd: int, root: str, path: str) -> None:
        found = os.fstat(fd)
        self.size_bytes = found.st_size
        self.version = _version(found)
        self.modified_at_s = found.st_mtime
        self._system = system
        self._fd = fd
        self._root = root
        self._path = path

    def readinto(self, buffer: memoryview, offset: int) -> int:
        try:
            return self._system.read(self._fd, buffer, offset)
        except OSError as exc:
            raise explain_source(exc, self._root, self._path, "reading the source") from exc

    def changed(self) -> bool:
        return _version(os.fstat(self._fd)) != self.version

    def close(self) -> None:
        os.close(self._fd)


def _version(found: os.stat_result) -> str:
    """Return what any write changes: mtime can be set at will, ctime cannot."""
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return "-".join(f"{number:x}" for number in numbers)
