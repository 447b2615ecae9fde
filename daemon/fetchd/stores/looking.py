"""The state database as it is, for whoever may change nothing, with or without a daemon at work."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from fetchd.errors import StoreError
from fetchd.model import FileRecord, OriginRecord
from fetchd.stores import codec
from fetchd.stores.opening import SCHEMA_VERSION
from fetchd.stores.queries import Q

T = TypeVar("T")


class Records:
    """What the daemon has on record. Any thread. Raises StoreError for what cannot be read."""

    def __init__(self, path: Path) -> None:
        """Raise StoreError, which says why nothing is known."""
        self._lock = threading.Lock()
        if not path.exists():
            raise StoreError(f"{path} is not there; no daemon has worked on it")
        # What is in the log of a database has to be read with it; without one nobody else has it
        # open, and only so can it be opened without making files beside it.
        has_log = Path(f"{path}-wal").exists()
        how = "mode=ro&readonly_shm=1" if has_log else "mode=ro&immutable=1"
        try:
            self._db = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?{how}",
                uri=True,
                check_same_thread=False,
                isolation_level=None,
            )
        except sqlite3.Error as exc:
            raise StoreError(f"{path} cannot be read: {exc}") from None
        self._path = path
        try:
            (version,) = self._read(lambda db: db.execute("PRAGMA user_version").fetchone())
            if version != SCHEMA_VERSION:
                raise StoreError(f"{path} is of schema version {version}, not {SCHEMA_VERSION}")
        except StoreError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def origin(self, origin: str) -> OriginRecord | None:
        """Return what was learned of an origin, None: nothing."""
        row = self._read(lambda db: db.execute(Q["origin"], (origin,)).fetchone())
        return None if row is None else codec.origin_of_row(*row)

    def file(self, root: str, path: str) -> FileRecord | None:
        """Return what is known of the file that was published at a destination last."""
        name = codec.path_bytes(path)
        row = self._read(lambda db: db.execute(Q["file"], (root, name)).fetchone())
        return None if row is None else codec.record_of(tuple(row))

    def last_due_s(self, job: str) -> float | None:
        """Return the moment of a kept job's schedule that was dealt with last; wall clock."""
        row = self._read(lambda db: db.execute(Q["last_due"], (job,)).fetchone())
        return None if row is None else float(row[0])

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return read(self._db)
            except sqlite3.Error as exc:
                raise StoreError(f"{self._path} cannot be read: {exc}") from None
