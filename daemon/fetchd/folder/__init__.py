"""The drop folder: files come in, places and reports show what became of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.observers.api import BaseObserver

from fetchd import events
from fetchd.clock import Clock, Failpoints
from fetchd.disk import SystemOs
from fetchd.errors import StoreError
from fetchd.folder.due import DueRuns
from fetchd.folder.inbox import Busy, Inbox, ReadDefaults, ReadJob, ReadList
from fetchd.folder.missed import MissedEvents
from fetchd.folder.outbox import Outbox
from fetchd.folder.places import Places, error_text
from fetchd.folder.watch import BLIND_RESCAN_S, IncomingObserver, Watch
from fetchd.ports import Commands, Os, Store
from fetchd.threads import Worker

__all__ = ["Folder"]

#: Turns are at least this far apart, so that a burst of events makes one turn of many.
BREATH_S = 0.05
#: A thread that replaces one that died begins after so long.
REVIVE_S = 1.0
#: While there is much to take in, what changed is shown after so many times what that takes.
SHOW_PAUSE = 3
#: The largest job file that is allowed is read and checked in this time on a slow machine.
LARGEST_JOB_WITHIN_S = 300.0
#: A drop folder that is gone is looked for this often.
MISSING_S = 1.0


class Folder:
    """One thread that takes files in and shows results.

    The watch is set before the first look, so that nothing falls between; after that every look
    finds whatever is there, hinted at or not. ``read_job(data, file)`` and ``read_list(file,
    path, digest)`` raise DocumentError; the constructor raises ConfigError. Without ``schedules``
    no run begins because its time has come.
    """

    def __init__(
        self,
        jobs: Path,
        *,
        max_job_bytes: int,
        require_end_marker: bool,
        rescan_s: float,
        read_job: ReadJob,
        read_list: ReadList,
        commands: Commands,
        store: Store,
        tell: events.Tell,
        clock: Clock,
        failpoints: Failpoints,
        system: Os | None = None,
        observe: Callable[[], BaseObserver] = IncomingObserver,
        schedules: bool = True,
        read_defaults: ReadDefaults = lambda _data, _beside: None,
    ) -> None:
        self._rescan_s = rescan_s
        self._tell = tell
        self._clock = clock
        self._hinted = threading.Event()
        self._calm = False  # written by the folder thread only
        self._places = Places(jobs, system or SystemOs())
        self._watch = Watch(str(self._places.path), self.hint, tell, observe)
        self._inbox = Inbox(
            self._places,
            max_job_bytes=max_job_bytes,
            require_end_marker=require_end_marker,
            read_job=read_job,
            read_list=read_list,
            read_defaults=read_defaults,
            commands=commands,
            store=store,
            tell=tell,
            clock=clock,
            failpoints=failpoints,
        )
        self._outbox = Outbox(
            self._places,
            undecided=self._inbox.undecided,
            commands=commands,
            store=store,
            tell=tell,
            clock=clock,
            failpoints=failpoints,
        )
        self._due = DueRuns(
            self._places,
            read_job=read_job,
            commands=commands,
            store=store,
            tell=tell,
            failpoints=failpoints,
        )
        self._schedules = schedules
        self._missed = MissedEvents(str(self._places.path), tell, clock)
        self._worker = Worker(
            "folder", self._work, clock, self._died, within_s=LARGEST_JOB_WITHIN_S
        )
        # Folder thread only:
        self._begun = False
        self._busy = Busy()
        self._look_due_s = 0.0
        self._show_not_before_s = 0.0
        self._identity: tuple[int, int] | None = None
        self._troubles: dict[str, str] = {}  # replaced, never changed: others read it

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()
        self.hint()

    def join(self, timeout_s: float) -> bool:
        return self._worker.join(timeout_s)

    def hint(self) -> None:
        """Have the folder looked at soon. Any thread."""
        self._hinted.set()

    def threads(self) -> list[Worker]:
        return [self._worker]

    def idle(self) -> bool:
        """Whether every job file was taken in and the end of every run is shown. Any thread."""
        return self._calm and not self._hinted.is_set()

    def troubles(self) -> list[str]:
        """Return what is the matter with the folder as a whole. Any thread."""
        return [trouble for trouble in (self._watch.trouble, *self._troubles.values()) if trouble]

    def turn(self, beat: Callable[[], None]) -> float:
        """Take in what is ready and show what changed; returns the seconds until the next turn.

        Folder thread only. Raises StoreError.
        """
        now_s = self._clock.monotonic()
        hinted = self._hinted.is_set()
        self._hinted.clear()
        self._calm = False
        try:
            identity = self._places.begin_turn()
        except OSError as exc:
            self._watch.lost(error_text(exc))
            self._look_due_s = 0.0
            return MISSING_S
        if identity != self._identity:
            self._identity = identity
            if others := self._places.open_to_others():
                self._tell(events.FolderExposed(folder=str(self._places.path), reason=others))
        try:
            return self._turn(identity, beat, hinted=hinted, now_s=now_s)
        finally:
            self._places.end_turn()

    # ------------------------------------------------------------ the folder's thread

    def _turn(
        self,
        identity: tuple[int, int],
        beat: Callable[[], None],
        *,
        hinted: bool,
        now_s: float,
    ) -> float:
        well = True
        if hinted or now_s >= self._look_due_s:
            announces = self._watch.check(identity)
            well = self._guard("look into it", lambda: self._look(beat, announces=announces))
            rescan_s = self._watch.rescan_s(self._rescan_s) if well else BLIND_RESCAN_S
            if self._inbox.has_categories:  # these are not watched
                rescan_s = min(rescan_s, BLIND_RESCAN_S)
            self._look_due_s = min(self._inbox.due_s, now_s + rescan_s, self._missed.due_s())
        if self._schedules:
            well &= self._guard("begin what is due", lambda: self._due.begin(beat))
        began_s = self._clock.monotonic()
        if self._inbox.under_way and began_s < self._show_not_before_s:
            return 0.0
        filed = self._outbox.filed
        well &= self._guard("show what changed", lambda: self._outbox.turn(beat))
        self._busy = self._outbox.busy()
        ended_s = self._clock.monotonic()
        self._show_not_before_s = ended_s + SHOW_PAUSE * (ended_s - began_s)
        if self._outbox.filed > filed and self._inbox.pending:
            self._look_due_s = now_s  # one of them may have waited for this
        self._calm = well and not self._inbox.pending and not self._busy.jobs
        due_s = min(self._look_due_s, self._outbox.due_s)
        return max(0.0, due_s - self._clock.monotonic())

    def _look(self, beat: Callable[[], None], *, announces: bool) -> None:
        if not self._begun:
            self._busy = self._outbox.busy()
            self._inbox.find_claimed(self._busy.files)
            self._begun = True
        self._missed.announced(self._watch.announced())
        self._inbox.look(self._busy, provable=not self._watch.deaf, beat=beat)
        if announces:
            self._missed.found(self._inbox.arrived)
        elif self._inbox.arrived is not None:
            self._missed.forget()

    def _guard(self, action: str, work: Callable[[], None]) -> bool:
        """Do it; a folder that fails as a whole is told of once and looked at again later."""
        try:
            work()
        except OSError as exc:
            trouble = error_text(exc)
            told, self._troubles = self._troubles, self._troubles | {action: trouble}
            if trouble != told.get(action):
                self._tell(
                    events.FolderFailed(file=str(self._places.path), action=action, error=trouble)
                )
            return False
        if action in self._troubles:
            self._troubles = {k: v for k, v in self._troubles.items() if k != action}
        return True

    def _work(self, worker: Worker) -> None:
        try:
            while not worker.stopping:
                worker.beat()
                wait_s = self.turn(worker.beat)
                if worker.pause(BREATH_S):
                    break
                self._hinted.wait(max(0.0, wait_s - BREATH_S))
        except StoreError:
            pass  # fatal to the service, which hears of it by itself
        finally:
            self._watch.stop()

    def _died(self, worker: Worker, exc: BaseException) -> None:
        self._tell(events.ThreadDied.by(exc, worker.name, replaced=not worker.stopping))
        if not worker.stopping:
            self._worker = Worker(
                worker.name,
                self._revive,
                self._clock,
                self._died,
                within_s=LARGEST_JOB_WITHIN_S,
            )
            self._worker.start()

    def _revive(self, worker: Worker) -> None:
        if not worker.pause(REVIVE_S):
            self.hint()
            self._work(worker)
