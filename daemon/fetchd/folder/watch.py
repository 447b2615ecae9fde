"""The watch on the drop folder: hints that something may have changed, never the truth."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants, InotifyFD, Mask
from watchdog.observers.inotify_move_event_grouper import GroupedInotifyEvent, PathedInotifyEvent

from fetchd.events import Tell, WatchChanged

#: Without a working watch the folder is looked at this often.
BLIND_RESCAN_S = 5.0
#: So many names are kept of those that events announced.
MOST_ANNOUNCED = 200_000
#: File systems that other machines, or programs of their own, change unheard by inotify.
_DEAF = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "afs", "lustre", "virtiofs", "vboxsf")
_LIMITS = {errno.ENOSPC: "max_user_watches", errno.EMFILE: "max_user_instances"}
_MOUNTS = Path("/proc/self/mountinfo")


class Watch:
    """Calls ``hint`` (observer's thread) when an event arrives. Otherwise folder thread only.

    ``check`` says whether files that come are announced by events, and were since the last time.
    """

    def __init__(
        self,
        folder: str,
        hint: Callable[[], None],
        tell: Tell,
        observe: Callable[[], BaseObserver],
        mounts: Path = _MOUNTS,
    ) -> None:
        self._folder = folder
        self._hint = hint
        self._tell = tell
        self._observe = observe
        self._mounts = mounts
        self._observer: BaseObserver | None = None
        # Names of which events came, put by the observer's thread; if none is taken, the oldest go.
        self._announced: deque[str] = deque(maxlen=MOST_ANNOUNCED)
        self._ended = threading.Event()  # set by the observer's thread: its folder was taken away
        self._identity: tuple[int, int] | None = None  # of the folder that is being watched
        self._armed_before = False
        self._told = ("", "")  # state and reason, empty while the watch is as it should be
        #: Whether others may change the folder unheard; leases prove nothing then either.
        self.deaf = False

    @property
    def trouble(self) -> str:
        """Why changes are not announced as they should be, "" while they are. Any thread."""
        return self._told[1]

    def rescan_s(self, usual_s: float) -> float:
        """Return how often to look without a hint."""
        return usual_s if self._observer is not None else min(usual_s, BLIND_RESCAN_S)

    def announced(self) -> Iterator[str]:
        """Take the names of which events came since the last call."""
        while self._announced:
            yield self._announced.popleft()

    def check(self, identity: tuple[int, int]) -> bool:
        """Have the folder watched that stands there now: ``identity`` is its device and inode."""
        if identity != self._identity:
            self.stop()
            self._identity = identity
            kind = file_system_of(identity[0], self._mounts)
            self.deaf = kind.startswith(_DEAF)
            if self.deaf:
                self._say("scanning", f"{kind} does not announce what other machines change")
        # A new folder may have the inode number of the old one.
        if self._observer is not None and (self._ended.is_set() or not self._observer.is_alive()):
            self.stop()
        if self._observer is None and not self.deaf:
            self._arm()
            return False
        return self._observer is not None

    def lost(self, reason: str) -> None:
        """The folder cannot be reached: there is nothing to watch until it is back."""
        self.stop()
        self._identity = None
        self._say("lost", reason)

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(2.0)

    def _arm(self) -> None:
        self._ended = threading.Event()
        try:
            observer = self._observe()
            try:
                observer.name = "watch"
                observer.schedule(
                    _Handler(self._hint, self._announced, self._ended),
                    os.path.realpath(self._folder),  # nothing ever happens in a link itself
                    event_filter=[
                        FileCreatedEvent,
                        DirCreatedEvent,
                        FileClosedEvent,
                        DirDeletedEvent,
                    ],
                )
                observer.start()
            except BaseException:
                observer.stop()
                raise
        except OSError as exc:
            limit = _LIMITS.get(exc.errno or 0)
            advice = f"; raise fs.inotify.{limit}" if limit else ""
            self._say("scanning", f"no watch can be had: {exc.strerror or exc}{advice}")
            return
        self._observer = observer
        if not self._is_same():
            self._hint()  # replaced a moment ago, and nobody announces what lies in the new one
        again = self._armed_before or bool(self._told[0])
        self._armed_before = True
        self._told = ("", "")
        if again:
            reason = "the watch was set up again"
            self._tell(WatchChanged(folder=self._folder, state="watching", reason=reason))

    def _is_same(self) -> bool:
        try:
            found = os.stat(self._folder)  # noqa: PTH116 -- as all paths here
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _say(self, state: str, reason: str) -> None:
        if (state, reason) != self._told:
            self._told = (state, reason)
            self._tell(WatchChanged(folder=self._folder, state=state, reason=reason))


class IncomingObserver(BaseObserver):
    """An observer with an inotify instance of its own, alive only while all its threads are."""

    def __init__(self) -> None:
        self._inotify = InotifyFD()
        self._inotify.start()
        super().__init__(_IncomingEmitter, inotify_fd=self._inotify)

    def is_alive(self) -> bool:
        return (
            super().is_alive()
            and self._inotify.is_alive()
            and all(emitter.is_alive() for emitter in self.emitters)
        )

    def on_thread_stop(self) -> None:
        super().on_thread_stop()
        self._inotify.stop()
        self._inotify.join(1.0)


class _IncomingEmitter(InotifyEmitter):
    """Asks for what may make a file ready: created, moved in, closed after writing.

    The folder's own end is asked for too; watchdog passes on that it was deleted, not that it
    was moved away.

    Opening and reading are left out, or our own would hint without end. Moves *out* are left out
    because watchdog holds each back for half a second, in the hope of its other half, and with
    it all events behind it; and every accepted job file is moved out.
    """

    def get_event_mask_from_filter(self) -> Mask:
        wanted = InotifyConstants
        return Mask(
            wanted.IN_CREATE
            | wanted.IN_MOVED_TO
            | wanted.IN_CLOSE_WRITE
            | wanted.IN_DELETE_SELF
            | wanted.IN_MOVE_SELF
        )

    def build_and_queue_event(
        self, event: GroupedInotifyEvent, *, full_events: bool = False
    ) -> None:
        if isinstance(event, PathedInotifyEvent) and event.ev.is_move_self:
            self.queue_event(DirDeletedEvent(self.watch.path))
        else:
            super().build_and_queue_event(event, full_events=full_events)


class _Handler(FileSystemEventHandler):
    """Runs under the observer's lock, so it does nothing but pass the hint on."""

    def __init__(
        self, hint: Callable[[], None], announced: deque[str], ended: threading.Event
    ) -> None:
        self._pass_on = hint
        self._announced = announced
        self._ended = ended

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, DirDeletedEvent):  # of the folder itself: no others are asked for
            self._ended.set()
        else:
            self._announced.append(os.path.basename(os.fsdecode(event.src_path)))  # noqa: PTH119
        self._pass_on()


def file_system_of(device: int, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system with this number, as /proc names it, or ""."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == wanted:
            return kind.split()[0]
    return ""
