"""Is a dropped file complete? Proved by a lease where the kernel can, else by patience.

A YAML file that is cut off is usually still valid YAML, so parsing proves nothing.
"""

from __future__ import annotations

import errno
import fcntl
import signal

#: A file of which nobody knows who writes it is complete when unchanged for so long.
STILL_S = 2.0
#: A file that is being written is looked at again after half its age, within these bounds; its
#: close is announced by an event, so this is for the lost ones.
SOONEST_S, LATEST_S = 0.1, 5.0


def has_writer(fd: int) -> bool | None:
    """Return whether anybody has the file open for writing, None where that cannot be known.

    ``fd`` is open for reading only. The kernel grants a read lease exactly when no descriptor
    and no mapping can write the file (fcntl(2), F_SETLEASE); it is given back at once. Whoever
    opens the file for writing in between waits for that, and the kernel signals this process.
    The signal is chosen for this descriptor: SIGURG, which is ignored by default. SIGIO, and
    every real-time signal, would end the process unless the main thread had said otherwise.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        # EACCES: a foreign owner, and no CAP_LEASE; EINVAL: a file system without leases.
        return True if exc.errno == errno.EAGAIN else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def wait_s(fd: int, unchanged_s: float, *, provable: bool) -> float:
    """Return 0.0 for a complete file, else the seconds after which to ask again.

    ``unchanged_s``: for how long the file has been seen unchanged. ``provable`` False: leases
    say nothing here, as on network file systems, whose other clients write unseen.
    """
    writer = has_writer(fd) if provable else None
    if writer is None:
        return max(0.0, STILL_S - unchanged_s)
    return min(LATEST_S, max(SOONEST_S, unchanged_s / 2)) if writer else 0.0
