"""What must survive a restart: the store's implementations (``ports.Store``).

``sqlite`` is the store; it has what comes in put down by ``adding``, ``revising`` and ``changes``,
read by ``views``, and removed by ``pruning``, all on the one thread of ``ledger``. ``opening`` and
the statements of ``queries`` stand below, ``codec`` knows how values look in columns. ``looking``
is for whoever may change nothing.
"""

from __future__ import annotations

from fetchd.stores.sqlite import SqliteStore

__all__ = ["SqliteStore"]
