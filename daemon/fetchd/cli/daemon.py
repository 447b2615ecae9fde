"""What can be seen of the daemon from outside: whether it runs, and what it says it does."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from fetchd.errors import BusyError, ConfigError


def is_running(state: Path) -> bool:
    """Return whether a daemon holds the lock of the state folder; raises ConfigError."""
    try:
        fd = os.open(state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ConfigError(f"{state}: cannot be read: {exc.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def require_running(state: Path) -> None:
    """Raise BusyError when no daemon runs."""
    if not is_running(state):
        raise BusyError(f"no daemon runs on {state}; start one: fetchd run --state {state}")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file that the daemon replaces atomically; None while there is none."""
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    return read
