"""Time, randomness and failpoints, as objects that are handed in."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo


class Clock(Protocol):
    def monotonic(self) -> float:
        """Return seconds that never jump: for every wait, timeout and speed."""
        ...

    def wall(self) -> float:
        """Return Unix seconds, which may jump: for stamps in records and for ``run.date`` only."""
        ...

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on a held condition for at most ``timeout_s`` (None: until notified)."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        condition.wait(timeout_s)


class SteadyWall:
    """Unix seconds that go on evenly from when this was made, however the wall clock is set.

    For moments that are waited for and have to outlive a restart: within one life the monotonic
    clock decides alone.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.wall() - clock.monotonic()

    def now_s(self) -> float:
        return self._clock.monotonic() + self._began_s

    def behind_s(self) -> float:
        """Return by how much the wall clock was set forward since."""
        return self._clock.wall() - self.now_s()


#: A function of no arguments that returns a float in [0, 1), as random.random does.
Random = random.Random


def local_date(wall_s: float, zone: str | None) -> datetime:
    """Return the wall clock's moment in the named zone (None: the machine's own)."""
    return datetime.fromtimestamp(wall_s, ZoneInfo(zone) if zone else None).astimezone(
        ZoneInfo(zone) if zone else None
    )


def zone_of(name: str | None) -> tzinfo:
    """Return a zone that knows its changes of the clock, also those to come.

    None: the machine's own.
    """
    return ZoneInfo(name) if name else _Machine()


class _Machine(tzinfo):
    """The zone of the machine, which need not have a name that can be found out."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:  # noqa: ARG002 -- tzinfo's signature
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        local = dt.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=self, fold=0)
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


class Failpoints:
    """Named places where a test may stop the process, as a crash at that instant would.

    ``FETCHD_FAILPOINT=NAME`` kills the process with SIGKILL the first time that the place is
    passed, ``NAME:3`` the third time. Without the variable a passing costs one comparison.
    """

    def __init__(self, armed: str = "") -> None:
        name, _, count = armed.partition(":")
        self._name = name
        self._left = int(count or 1)
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Failpoints:
        return cls(os.environ.get("FETCHD_FAILPOINT", ""))

    def pass_by(self, name: str) -> None:
        """Mark that the named place is passed."""
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
