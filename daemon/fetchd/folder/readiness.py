"""Is a dropped file complete? Proved by a lease where the kernel can, else by patience.

A YAML file that is cut off is usually still valid YAML, so parsing proves nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from dataclasses import dataclass

from fetchd.clock import Clock

#: Where no lease can be had, a file is complete when it has not changed for so long.
QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Version:
    """What identifies one state of a file; any write or replacement makes another."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Version:
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def ignore_lease_breaks() -> bool:
    """Let a writer that opens a leased file do so unharmed; False: not possible here.

    A broken lease raises SIGIO, whose default ends the process. Handlers can only be set on the
    main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    return True


def has_writer(fd: int) -> bool | None:
    """Say whether anyone has the file open for writing; None: the kernel does not tell.

    A read lease is refused with EAGAIN exactly while there is a writer. It needs ownership of
    the file or CAP_LEASE, and a file system that knows leases.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class Readiness:
    """Remembers since when files are as they are. Folder thread only."""

    def __init__(self, clock: Clock, *, leases: bool) -> None:
        self._clock = clock
        self._leases = leases
        self._since: dict[str, tuple[Version, float]] = {}

    def seen(self, name: str, version: Version) -> float:
        """Note a file as it is; returns for how many seconds it has been so."""
        now_s = self._clock.monotonic()
        known = self._since.get(name)
        if known is None or known[0] != version:
            self._since[name] = (version, now_s)
            return 0.0
        return now_s - known[1]

    def wait_s(self, name: str, fd: int, version: Version) -> float:
        """Return how long to wait before the file may be complete; 0: it is."""
        age_s = self.seen(name, version)
        writer = has_writer(fd) if self._leases else None
        if writer is None:
            return max(0.0, QUIET_S - age_s)
        # Its close is announced by an event; this is for when the event is lost.
        return 0.5 if writer else 0.0

    def forget(self, names_left: set[str]) -> None:
        """Drop what is remembered of files that are gone."""
        for name in self._since.keys() - names_left:
            del self._since[name]
