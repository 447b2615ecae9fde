"""The drop folder: files come in, places and reports show what became of them."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from fetchd.clock import Clock, Failpoints
from fetchd.errors import StoreError
from fetchd.events import FolderFailed, Tell, ThreadDied
from fetchd.folder.inbox import Inbox
from fetchd.folder.outbox import REFRESH_S, Outbox
from fetchd.folder.places import Places
from fetchd.folder.readiness import Readiness, ignore_lease_breaks
from fetchd.folder.watch import Watch
from fetchd.model import Job
from fetchd.ports import Commands, Store
from fetchd.threads import Worker

__all__ = ["Folder"]

#: Looks are at least this far apart, so that a burst of events makes one look of many.
BREATH_S = 0.05


class Folder:
    """One thread that takes files in and shows results. To be constructed on the main thread.

    The watch is set before the first look, so that nothing falls between; after that every look
    finds whatever is there, hinted at or not.
    """

    def __init__(
        self,
        jobs: Path,
        *,
        max_job_bytes: int,
        require_end_marker: bool,
        rescan_s: float,
        read_job: Callable[[bytes, str], Job],
        read_list: Callable[[str, str, str], Job],
        commands: Commands,
        store: Store,
        tell: Tell,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._rescan_s = rescan_s
        self._commands = commands
        self._store = store
        self._tell = tell
        self._clock = clock
        self._hinted = threading.Event()
        self._calm = threading.Event()  # the last look left no file to be taken in
        self._places = Places(jobs, clock.wall)
        self._places.check()
        self._watch = Watch(jobs, self._hinted.set, tell)
        self._inbox = Inbox(
            self._places,
            Readiness(clock, leases=ignore_lease_breaks()),
            max_job_bytes=max_job_bytes,
            require_end_marker=require_end_marker,
            read_job=read_job,
            read_list=read_list,
            commands=commands,
            store=store,
            tell=tell,
            clock=clock,
            failpoints=failpoints,
        )
        self._outbox = Outbox(self._places, store, tell, clock, failpoints)
        self._worker = Worker("folder", self._work, clock, self._died)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()
        self._hinted.set()

    def join(self, timeout_s: float) -> bool:
        return self._worker.join(timeout_s)

    def hint(self) -> None:
        """Have the folder looked at soon. Any thread."""
        self._hinted.set()

    def threads(self) -> list[Worker]:
        return [self._worker]

    def idle(self) -> bool:
        """Whether every job file was taken in and every ended run is filed. Any thread."""
        return self._calm.is_set() and not self._hinted.is_set() and not self._store.unfiled_runs()

    # ------------------------------------------------------------ the folder's thread

    def _work(self, worker: Worker) -> None:
        try:
            self._watch.check()
            self._guarded(self._inbox.take_back_orphans)
            while not worker.stopping:
                worker.beat()
                self._hinted.clear()
                again_s = self._look(worker)
                worker.rest()
                if worker.pause(BREATH_S):
                    break
                self._hinted.wait(max(0.0, again_s - BREATH_S))
        except StoreError:
            pass  # fatal to the service, which hears of it from the store itself
        finally:
            self._watch.stop()

    def _look(self, worker: Worker) -> float:
        """Look once at everything; returns in how many seconds to look again."""
        self._watch.check()
        again_s = self._watch.rescan_s(self._rescan_s)
        self._calm.clear()
        found = self._guarded(lambda: self._inbox.look(worker.beat))
        if found is not None:
            again_s = min(again_s, found)
        report = self._commands.view()
        if self._outbox.compare(report) and self._inbox.waiting:
            again_s = 0.0
        if any(not run.state.ended for run in report.runs):
            again_s = min(again_s, REFRESH_S)
        if not self._inbox.waiting:
            self._calm.set()
        return again_s

    def _guarded(self, work: Callable[[], float | None]) -> float | None:
        """Do it; a folder that fails as a whole is told of and looked at again later."""
        try:
            return work()
        except OSError as exc:
            self._tell(
                FolderFailed(file=str(self._places.jobs), action="look into it", error=str(exc))
            )
            return None

    def _died(self, worker: Worker, exc: BaseException) -> None:
        self._tell(
            ThreadDied(
                died=worker.name,
                error=f"{type(exc).__name__}: {exc}",
                traceback="".join(traceback.format_exception(exc)),
                replaced=False,
            )
        )
