"""Old runs leave the database in small transactions, with other work in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from fetchd.ports import Keep, Pruned
from fetchd.stores.ledger import Ledger

#: A transaction removes at most about so many rows: some ten milliseconds.
_BATCH = 1000
_RUNS_A_READ = 100


class Pruning:
    """One pass over the database; ``then`` hears what it removed. Ledger's thread, but ``stop``."""

    def __init__(
        self,
        ledger: Ledger,
        queries: Mapping[str, str],
        keep: Keep,
        then: Callable[[Pruned], None],
    ) -> None:
        self._ledger = ledger
        self._q = queries
        self._keep = keep
        self._then = then
        self._stopped = False
        self._runs = self._tasks = self._files = 0
        self._step = self._remove_runs
        self._behind: tuple[str, bytes] = ("", b"")

    def go_on(self) -> None:
        """Have the next batch done, behind whatever waits already."""
        self._ledger.post(self._step, self._done)

    def stop(self) -> None:
        """Leave the rest to another pass. Any thread."""
        self._stopped = True

    def _done(self, more: bool) -> None:
        if more and not self._stopped:
            self.go_on()
        else:
            self._then(Pruned(runs=self._runs, tasks=self._tasks, files=self._files))

    def _remove_runs(self, db: sqlite3.Connection) -> bool:
        room = _BATCH
        old = db.execute(
            self._q["old_runs"], (self._keep.ended_after_s, self._keep.runs, _RUNS_A_READ)
        ).fetchall()
        for run, job in old:
            removed = db.execute(self._q["prune_tasks"], (run, room)).rowcount
            self._tasks += removed
            room -= removed + 1
            if room < 0:
                db.execute(self._q["begin_pruning"], (run,))
                return True
            db.execute(self._q["prune_groups"], (run,))
            db.execute(self._q["prune_run"], (run,))
            db.execute(self._q["prune_success"], (run,))
            db.execute(self._q["prune_seen"], (job,))
            db.execute(self._q["prune_job"], (job,))
            self._runs += 1
        if len(old) < _RUNS_A_READ:
            self._step = self._remove_files
        return True

    def _remove_files(self, db: sqlite3.Connection) -> bool:
        rows = db.execute(self._q["next_files"], (*self._behind, _BATCH)).fetchall()
        for root, path, published_s in rows:
            if published_s < self._keep.published_after_s:
                self._files += db.execute(self._q["prune_file"], (root, path)).rowcount
        if len(rows) < _BATCH:
            return False
        self._behind = rows[-1][:2]
        return True
