"""The watch on the drop folder: hints that something may have changed, never the truth."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from fetchd.events import Tell, WatchChanged

#: Without a working watch the folder is looked at this often.
BLIND_RESCAN_S = 5.0
#: Opening and reading are left out: our own reading would raise events without end.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
]
#: File systems that other machines write to without the kernel here hearing of it.
_DEAF = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuseblk", "afs", "ceph", "virtiofs"}


class Watch:
    """Calls ``hint`` (observer's thread) when an event arrives. Otherwise folder thread only."""

    def __init__(self, folder: Path, hint: Callable[[], None], tell: Tell) -> None:
        self._folder = folder
        self._hint = hint
        self._tell = tell
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None  # of the folder that is being watched
        self._told = ""

    def rescan_s(self, usual_s: float) -> float:
        """Return how often to look without a hint."""
        return usual_s if self._observer is not None else min(usual_s, BLIND_RESCAN_S)

    def check(self) -> None:
        """Set the watch up if there is none, or if the folder is another one than it watches."""
        try:
            stat = self._folder.stat()
            identity = stat.st_dev, stat.st_ino
        except OSError as exc:
            self.stop()
            self._say("lost", f"the folder cannot be reached: {exc.strerror}")
            return
        alive = self._observer is not None and self._observer.is_alive()
        if alive and identity == self._identity:
            return
        if self._observer is not None:
            self._say("lost", "the folder was replaced" if alive else "the observer ended")
            self.stop()
        if (kind := file_system_of(self._folder)) in _DEAF or kind.startswith("fuse."):
            self._say("scanning", f"{kind} announces no changes made by other machines")
            return
        self._start(identity)

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
                self._observer.join(2.0)
        self._observer = self._identity = None

    def _start(self, identity: tuple[int, int]) -> None:
        observer = Observer()
        observer.daemon = True
        try:
            observer.schedule(
                _Handler(self._hint), str(self._folder), recursive=False, event_filter=_EVENTS
            )
            observer.start()
        except OSError as exc:
            observer.unschedule_all()
            limits = {errno.ENOSPC: "max_user_watches", errno.EMFILE: "max_user_instances"}
            advice = limits.get(exc.errno or 0)
            more = f"; raise fs.inotify.{advice}" if advice else ""
            self._say("scanning", f"no watch can be had: {exc.strerror}{more}")
            return
        self._observer, self._identity = observer, identity
        if self._told:
            self._say("watching", "")

    def _say(self, state: str, reason: str) -> None:
        if self._told != state + reason:
            self._told = state + reason
            self._tell(WatchChanged(folder=str(self._folder), state=state, reason=reason))


class _Handler(FileSystemEventHandler):
    """Runs under the observer's lock, so it does nothing but set an event."""

    def __init__(self, hint: Callable[[], None]) -> None:
        self._set = hint

    def on_any_event(self, event: FileSystemEvent) -> None:  # noqa: ARG002 -- the scan finds out
        self._set()


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that holds a folder, as /proc names it, or ""."""
    try:
        device = folder.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in reversed(lines):
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == wanted:
            return kind.split()[0]
    return ""
