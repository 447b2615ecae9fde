"""fetchd with a part broken on purpose, to see whether it notices, or whether a test does.

    python tests/faults/sabotaged.py WHAT run ...

WHAT is a key of ``SABOTAGE``; the command line of fetchd follows. Nothing in the product knows of
it.
"""

from __future__ import annotations

import itertools
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from functools import partial

from fetchd.cli import main
from fetchd.disk.system import SystemOs
from fetchd.engine.decisions import Decisions
from fetchd.engine.engine import Engine
from fetchd.model import Fetch, Outcome
from fetchd.service import Daemon
from fetchd.stores import opening
from fetchd.threads import DISK, Worker, beat
from fetchd.transfer import Transfer


def _sync_only(is_synced: Callable[[int], bool]) -> None:
    """Let ``fsync`` do its work on these kinds of files alone."""
    fsync = SystemOs.fsync

    def pretend(self: SystemOs, fd: int) -> None:
        if is_synced(os.fstat(fd).st_mode):
            fsync(self, fd)

    SystemOs.fsync = pretend  # type: ignore[method-assign]


def _commit_without_sync() -> None:
    """Open the database as many programs do: a commit returns before it is on the disk."""
    connect = opening.connect

    def careless(path, clock):
        connection = connect(path, clock)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    opening.connect = careless


def _impatient() -> None:
    """Call a thread stuck after a fraction of a second, so that a test need not wait."""
    Worker.__init__.__kwdefaults__["within_s"] = 0.4


def _each_transfer(trouble: Callable[[], None]) -> None:
    """Have a trouble before the work of each transfer."""
    _impatient()
    transfer = Transfer.__call__

    def troubled(self: Transfer, attempt: Fetch) -> Outcome:
        trouble()
        return transfer(self, attempt)

    Transfer.__call__ = troubled  # type: ignore[method-assign]


def _hang() -> None:
    select.select([], [], [])


def _spin() -> None:
    while True:
        pass


def _beat_for_a_while() -> None:
    for _ in range(50):
        beat()
        time.sleep(0.1)


def _dies_three_times() -> Callable[[], None]:
    numbers = itertools.count()
    errors = (SystemExit, MemoryError, RecursionError)

    def die() -> None:
        if (number := next(numbers)) < len(errors):
            raise errors[number]

    return die


def _die_for_good() -> None:
    """End the thread, when the system gives no other."""

    def refuse(self: Worker) -> None:
        raise RuntimeError("can't start new thread")

    Worker.start = refuse  # type: ignore[method-assign]
    raise SystemExit


def _lose_the_last_outcomes() -> None:
    """Let the engine find no memory for what comes in once it stops."""
    stop = Engine.stop

    def stop_and_fail(self: Engine) -> None:
        def fail(*_: object) -> None:
            raise MemoryError("no room")

        Decisions.settle = fail  # type: ignore[method-assign, assignment]
        stop(self)

    Engine.stop = stop_and_fail  # type: ignore[method-assign]


def _lose_the_main_thread() -> None:
    show = Daemon._show_status

    def fail(self: Daemon) -> None:
        if self._works.engine.idle():
            show(self)
        else:
            Daemon._show_status = show  # type: ignore[method-assign]
            raise MemoryError("no room")

    Daemon._show_status = fail  # type: ignore[method-assign]


def _slow_sync() -> None:
    """Make each sync take longer than a thread may be silent at other work."""
    _impatient()
    fsync = SystemOs.fsync

    def slow(self: SystemOs, fd: int) -> None:
        with DISK:
            time.sleep(0.5)
        fsync(self, fd)

    SystemOs.fsync = slow  # type: ignore[method-assign]


SABOTAGE: dict[str, Callable[[], None]] = {
    "file-sync": lambda: _sync_only(stat.S_ISDIR),
    "folder-sync": lambda: _sync_only(stat.S_ISREG),
    "store-sync": _commit_without_sync,
    "fetch-hangs": partial(_each_transfer, _hang),
    "fetch-spins": partial(_each_transfer, _spin),
    "fetch-beats": partial(_each_transfer, _beat_for_a_while),
    "fetch-dies": lambda: _each_transfer(_dies_three_times()),
    "fetch-dies-for-good": partial(_each_transfer, _die_for_good),
    "stop-forgets": _lose_the_last_outcomes,
    "main-dies": _lose_the_main_thread,
    "slow-sync": _slow_sync,
}


if __name__ == "__main__":
    SABOTAGE[sys.argv.pop(1)]()
    sys.exit(main())
