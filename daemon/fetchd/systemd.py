"""What fetchd tells systemd, and gets of it: sd_notify(3), the folder of credentials."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: systemd shows one line, and a datagram has an end.
_LONGEST_STATUS = 200
#: READY=1 must not be lost to a manager that is busy for a moment; nor may one hold us up.
_PATIENCE_S = 1.0


class Notifier:
    """Sends state to the service manager that started the process; without one it is silent.

    A notification that cannot be delivered is given up: the service matters more. One thread.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the first byte of an abstract socket's name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._monotonic = monotonic
        self._status = ""
        #: How often ``watchdog`` wants to be called; None: nobody waits for it.
        self.interval_s = watchdog_interval_s(environment)
        self._next_watchdog_s = 0.0

    def extend_timeout(self, by_s: float) -> None:
        """Ask for so much time from now on for the start, if more than the unit allows."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(by_s * 1_000_000)}")

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show one line in ``systemctl status``; no secrets, no queries of URLs."""
        text = " ".join(text.split())[:_LONGEST_STATUS]
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """Say that all is well; may be called at any rate, sends as often as asked for."""
        if self.interval_s is None:
            return
        now_s = self._monotonic()
        if now_s >= self._next_watchdog_s:
            self._next_watchdog_s = now_s + self.interval_s
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address[:1] not in {"\0", "/"}:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(_PATIENCE_S)
            sender.sendto(message.encode("utf-8", "replace"), self._address)


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how often WATCHDOG=1 is to be sent: a third of the limit; None: nobody waits.

    WATCHDOG_PID says whom the limit is meant for (sd_watchdog_enabled(3)).
    """
    limit_us = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not (limit_us.isascii() and limit_us.isdigit()) or meant != str(os.getpid()):
        return None
    return int(limit_us) / 3_000_000 or None


def credentials_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the unit's credentials are (systemd.exec(5)), None if it has none."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
