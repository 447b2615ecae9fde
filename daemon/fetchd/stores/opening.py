"""The database is opened: made, looked at for damage, backed up and migrated."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from importlib import resources
from pathlib import Path

from fetchd.clock import Clock
from fetchd.errors import BusyError, ConfigError
from fetchd.stores.queries import named

SCHEMA_VERSION = 7
_APPLICATION_ID = 0x66746364  # "ftcd"
#: A start looks at the pages of the database for no longer than this.
_CHECK_S = 3.0
_STEPS_A_LOOK = 100_000  # of SQLite's machine, between two looks at the clock
#: What the write-ahead log keeps of the disk after a transaction that needed more.
_LOG_BYTES = 16 * 1024 * 1024
#: So long another process, such as a backup, may keep the database locked.
_PATIENCE_S = 10.0


def connect(path: str | None, clock: Clock) -> sqlite3.Connection:
    """Open and check the database; runs on the ledger's thread."""
    try:
        if path is not None:
            if not Path(path).exists() and Path(f"{path}-wal").exists():
                raise ConfigError(  # SQLite would remove the log
                    f"{path}: the state database is missing while its log {path}-wal is there; "
                    "put it back, or move the log away to start empty (files already downloaded "
                    "stay)"
                )
            # URLs in it may bear tokens: made here, it is for its owner only.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=_PATIENCE_S, cached_statements=200
        )
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError(f"{path}: the state database cannot be opened: {exc}") from None
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -16000")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{path}: the state is of schema version {version}, this fetchd knows up to "
                f"{SCHEMA_VERSION}; install the newer fetchd again, or name another `state` folder"
            )
        if version == 0:
            _create(db, path)
        else:
            _look_for_damage(db, clock)
        if 0 < version < SCHEMA_VERSION:
            assert path is not None  # memory begins empty
            _back_up(db, path, version)
            _migrate(db, version)
    except sqlite3.OperationalError as exc:
        db.close()
        if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise BusyError(f"{path}: another process keeps the state database locked") from None
        raise ConfigError(f"{path}: the state database cannot be used: {exc}") from None
    except sqlite3.Error as exc:
        db.close()
        raise ConfigError(
            f"{path}: the state database is damaged or not one ({exc}); restore it from a backup, "
            "or move it away to start empty (files already downloaded stay)"
        ) from None
    except ConfigError:
        db.close()
        raise
    return db


def _look_for_damage(db: sqlite3.Connection, clock: Clock) -> None:
    """Look at as many pages as the time allows; raises sqlite3.DatabaseError."""
    until_s = clock.monotonic() + _CHECK_S
    db.set_progress_handler(lambda: clock.monotonic() > until_s, _STEPS_A_LOOK)
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    else:
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
    finally:
        db.set_progress_handler(None, 0)


def files_of(path: str | None) -> list[tuple[int, int] | None]:
    """Return what identifies the database and its log, None for one that is not there.

    They are never opened for this: closing a file gives up all locks that SQLite has on it.
    """
    found: list[tuple[int, int] | None] = []
    for name in () if path is None else (path, f"{path}-wal"):
        try:
            stat = Path(name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_dev, stat.st_ino))
    return found


def _create(db: sqlite3.Connection, path: str | None) -> None:
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ConfigError(f"{path}: this is a database of another program; name another `state`")
    schema = resources.files(__package__).joinpath("schema.sql").read_text()
    db.executescript(
        f"BEGIN IMMEDIATE; {schema}"
        f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        "COMMIT;"
    )


def _back_up(db: sqlite3.Connection, path: str, version: int) -> None:
    """Copy the whole state beside it, durably, before a migration; raises ConfigError."""
    copy, unfinished = Path(f"{path}.version-{version}"), Path(f"{path}.copying")
    try:
        # For its owner only, and empty: what another attempt left would be refused.
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            db.execute("VACUUM INTO ?", (str(unfinished),))
            os.fsync(fd)
        finally:
            os.close(fd)
        unfinished.replace(copy)
        fd = os.open(copy.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except (OSError, sqlite3.Error) as exc:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigError(
            f"{path}: the state is of schema version {version}, this fetchd has {SCHEMA_VERSION}; "
            f"it stays as it is, because no copy of it could be kept as {copy}: {exc}"
        ) from None


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, wholly or not at all."""
    steps = named("migrations.sql")
    script = "".join(steps[str(number)] for number in range(version + 1, SCHEMA_VERSION + 1))
    try:
        db.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    except sqlite3.Error:
        if db.in_transaction:
            db.rollback()
        raise
