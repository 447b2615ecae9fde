"""fetchd with one of its promises broken on purpose, to see whether a test notices.

    python tests/faults/sabotaged.py {file-sync|folder-sync|store-sync} run ...

The command line of fetchd after the name of what is broken; nothing in the product knows of it.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable

from fetchd.cli import main
from fetchd.disk.system import SystemOs
from fetchd.stores import sqlite


def _sync_only(is_synced: Callable[[int], bool]) -> None:
    """Let ``fsync`` do its work on these kinds of files alone."""
    fsync = SystemOs.fsync

    def pretend(self: SystemOs, fd: int) -> None:
        if is_synced(os.fstat(fd).st_mode):
            fsync(self, fd)

    SystemOs.fsync = pretend  # type: ignore[method-assign]


def _commit_without_sync() -> None:
    """Open the database as many programs do: a commit returns before it is on the disk."""
    connect = sqlite._connect

    def careless(path):
        connection = connect(path)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    sqlite._connect = careless


SABOTAGE: dict[str, Callable[[], None]] = {
    "file-sync": lambda: _sync_only(stat.S_ISDIR),
    "folder-sync": lambda: _sync_only(stat.S_ISREG),
    "store-sync": _commit_without_sync,
}


if __name__ == "__main__":
    SABOTAGE[sys.argv.pop(1)]()
    sys.exit(main())
