"""What must survive a restart: the store's implementations (``ports.Store``)."""

from __future__ import annotations

from fetchd.stores.sqlite import SqliteStore

__all__ = ["SqliteStore"]
