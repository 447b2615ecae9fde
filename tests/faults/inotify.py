"""What the kernel saw happen to the names below a folder: no publication can hide between looks."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_ALL = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_IS_DIR, _OVERFLOW = 0x40000000, 0x4000
_EVENT = struct.Struct("iIII")


class NameWatch(threading.Thread):
    """Calls ``appeared(path)`` for each file that gets its name in one of the watched folders.

    ``counts``: how often each did; ``wrong``: what must never be seen, such as a write to a file
    that has a visible name, or a name that goes away.
    """

    def __init__(self, appeared: Callable[[Path], None]) -> None:
        super().__init__(name="name-watch", daemon=True)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0, os.strerror(ctypes.get_errno())
        self._appeared = appeared
        self._folders: dict[int, Path] = {}
        self._ending = threading.Event()
        self.counts: dict[Path, int] = {}
        self.wrong: list[str] = []
        self.seen = threading.Event()  # set with each file that appears, at once

    def watch(self, folder: Path) -> None:
        """Watch the names in one more folder, not below it."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _ALL)
        assert number >= 0, os.strerror(ctypes.get_errno())
        self._folders[number] = folder

    def run(self) -> None:
        while not self._ending.is_set():
            if select.select([self._fd], [], [], 0.05)[0]:
                self._read()

    def finish(self) -> None:
        """Hear everything that has happened until now, then end; once is enough."""
        if self._ending.is_set():
            return
        self._ending.set()
        self.join(30)
        while select.select([self._fd], [], [], 0)[0]:
            self._read()
        os.close(self._fd)

    def _read(self) -> None:
        raw = os.read(self._fd, 1 << 16)
        at = 0
        while at < len(raw):
            number, mask, _, length = _EVENT.unpack_from(raw, at)
            name = raw[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            if mask & _OVERFLOW:
                self.wrong.append("the watch itself lost events")
            elif not mask & _IS_DIR and number in self._folders:
                self._heard(self._folders[number] / os.fsdecode(name), mask)

    def _heard(self, path: Path, mask: int) -> None:
        if mask & (_MOVED_TO | _CREATE):
            self.seen.set()
            self.counts[path] = self.counts.get(path, 0) + 1
            self._appeared(path)
        else:
            self.wrong.append(f"{path.name}: event {mask:#x} on a visible name")
