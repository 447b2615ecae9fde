"""What the store says -> the folder: reports, and where the job file lies. Compared, not told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fetchd import events
from fetchd.clock import Clock, Failpoints
from fetchd.folder.inbox import AGAIN_S, Busy
from fetchd.folder.places import Place, Places, error_text
from fetchd.folder.reports import (
    MOST_FAILURES,
    file_lines,
    files_name,
    report_name,
    run_report,
)
from fetchd.model import RunState, RunView
from fetchd.ports import Commands, RunFiled, Store

#: A running job's report is replaced at most this often.
SHOW_EVERY_S = 1.0
#: What the store is about to record is asked for again after so long.
SOON_S = 0.1
#: The inbox gets its turn after so much work.
SLICE_S = 0.25
#: So many ended runs share the syncs of the folders.
FILED_TOGETHER = 64
#: A list of at most so many files is written in one step. A longer one does not keep it waiting.
SHORT_LIST = 2000


@dataclass(frozen=True, slots=True)
class Shown:
    """What the report of an open run says, and when it was written (monotonic)."""

    view: RunView
    at_s: float


class Outbox:
    """Makes the folder agree with the store; every step may be repeated. Folder thread only.

    ``undecided``: whether a file of this name before the door may turn out to belong to a run.
    """

    def __init__(
        self,
        places: Places,
        *,
        undecided: Callable[[str], bool],
        commands: Commands,
        store: Store,
        tell: events.Tell,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._places = places
        self._undecided = undecided
        self._commands = commands
        self._store = store
        self._tell = tell
        self._clock = clock
        self._failpoints = failpoints
        self._shown: dict[int, Shown] = {}
        self._troubles: dict[int, str] = {}
        self._filing: Iterator[None] | None = None
        self._again_s = -math.inf  # after trouble: when to try again
        self._known_filed: set[int] = set()
        #: When the next turn is wanted, monotonic; infinity where nothing is to be shown.
        self.due_s = math.inf
        #: How many runs were filed so far.
        self.filed = 0

    def busy(self) -> Busy:
        """Return what the folder does not show ended yet."""
        runs = self._commands.view().runs
        unfiled = self._store.unfiled_runs()
        on = [run for run in runs if not run.state.ended] + unfiled
        self._known_filed &= {run.id for run in runs}
        self._known_filed -= {run.id for run in on}
        # The engine ends a run in memory before it has it recorded; in that instant the store
        # has it neither open nor unfiled.
        for run in runs:
            if run.state.ended and run.id not in self._known_filed:
                recorded = self._store.run_view(run.id)
                if recorded is None or recorded.filed:
                    self._known_filed.add(run.id)
                else:
                    on.append(recorded)
                    self._want(self._clock.monotonic() + SOON_S)
        return Busy(jobs=frozenset(run.job for run in on), files=frozenset(run.file for run in on))

    def turn(self, beat: Callable[[], None]) -> None:
        """Show what changed, as much as a slice allows."""
        until_s = self._clock.monotonic() + SLICE_S
        self.due_s = math.inf
        self._show(
            [run for run in self._commands.view().runs if not run.state.ended], until_s, beat
        )
        self._file(until_s, beat)

    # ------------------------------------------------------------ open runs

    def _show(self, runs: list[RunView], until_s: float, beat: Callable[[], None]) -> None:
        self._shown = {run.id: self._shown[run.id] for run in runs if run.id in self._shown}
        # Those that were shown longest ago come first: a slice may end before the others.
        for run in sorted(runs, key=self._shown_at_s):
            now_s = self._clock.monotonic()
            due_s = max(self._shown_at_s(run) + SHOW_EVERY_S, now_s)
            if run.id in self._shown and self._shown[run.id].view == run:
                self._want(now_s + SHOW_EVERY_S)
            elif due_s > now_s or now_s > until_s:
                self._want(due_s)
            else:
                beat()
                if self._did(run, self._report_progress):
                    self._troubles.pop(run.id, None)
                self._shown[run.id] = Shown(run, now_s)
                self._want(now_s + SHOW_EVERY_S)

    def _shown_at_s(self, run: RunView) -> float:
        shown = self._shown.get(run.id)
        return -math.inf if shown is None else shown.at_s

    def _report_progress(self, run: RunView) -> bool:
        self._write_report(run, durable=False)
        return True

    def _write_report(self, run: RunView, *, durable: bool) -> None:
        failures = self._store.failures(run.id, MOST_FAILURES) if run.tasks.failed else []
        self._places.write(report_name(run.job), [run_report(run, failures)], durable=durable)

    # ------------------------------------------------------------ ended runs

    def _file(self, until_s: float, beat: Callable[[], None]) -> None:
        """Work on the ended runs that the folder does not show yet."""
        now_s = self._clock.monotonic()
        if self._filing is None:
            unfiled = self._store.unfiled_runs()
            if not unfiled:
                return
            if now_s < self._again_s:
                self._want(self._again_s)
                return
            self._filing = self._file_all(unfiled)
        for _ in self._filing:
            beat()
            if self._clock.monotonic() > until_s:
                self._want(now_s)
                return
        self._filing = None
        self._want(max(self._again_s, now_s + SHOW_EVERY_S))

    def _file_all(self, runs: list[RunView]) -> Iterator[None]:
        """File runs, those with a short list first; yields where other work may come between."""
        yield from self._file_short(runs)
        for run in runs:
            if run.tasks.total > SHORT_LIST:
                yield from self._file_long(run)

    def _file_short(self, runs: list[RunView]) -> Iterator[None]:
        """File those of the runs that have a short list, in groups."""
        short = [run for run in runs if run.tasks.total <= SHORT_LIST]
        for start in range(0, len(short), FILED_TOGETHER):
            listed = []
            for run in short[start : start + FILED_TOGETHER]:
                yield
                if self._did(run, self._list):
                    listed.append(run)
            self._finish(listed)

    def _file_long(self, run: RunView) -> Iterator[None]:
        """File a run with a long list, and between its pieces what else ends meanwhile."""
        try:
            for _ in self._places.write_in_steps(
                files_name(run.job), file_lines(self._store.files(run.id))
            ):
                yield
                if self._clock.monotonic() >= self._again_s:
                    yield from self._file_short(self._store.unfiled_runs())
        except OSError as exc:
            self._failed(run, exc)
        else:
            self._finish([run])

    def _list(self, run: RunView) -> bool:
        lines = file_lines(self._store.files(run.id))
        self._places.write(files_name(run.job), lines, durable=True)
        return True

    def _finish(self, runs: list[RunView]) -> None:
        """Write the last reports, move the job files, tell the store; each durable before next."""
        # In the pauses before this a retry may have opened a run again.
        runs = [run for run in runs if self._store.run_view(run.id) == run]
        reported = [run for run in runs if self._did(run, self._report_end)]
        if not self._synced(reported, Place.REPORTS):
            return
        self._failpoints.pass_by("outbox.reported")
        moved = [run for run in reported if self._did(run, self._move)]
        if not self._synced(moved, Place.ACTIVE, Place.DONE, Place.FAILED):
            return
        self._failpoints.pass_by("outbox.moved")
        if moved:
            self._store.record([RunFiled(run=run.id) for run in moved])
        self.filed += len(moved)
        for run in moved:
            self._troubles.pop(run.id, None)

    def _report_end(self, run: RunView) -> bool:
        self._write_report(run, durable=True)
        return True

    def _move(self, run: RunView) -> bool:
        """Put the job file where ended ones lie; False: it has yet to come to ``active/``."""
        if not run.file:
            return True
        if self._places.stat(Place.ACTIVE, run.file) is None:
            return not self._undecided(run.file)
        target = Place.DONE if run.state is RunState.SUCCEEDED else Place.FAILED
        self._places.put_away(Place.ACTIVE, target, run.file, self._clock.wall())
        return True

    # ------------------------------------------------------------ trouble

    def _did(self, run: RunView, step: Callable[[RunView], bool]) -> bool:
        try:
            return step(run)
        except OSError as exc:
            self._failed(run, exc)
            return False

    def _synced(self, runs: list[RunView], *places: Place) -> bool:
        try:
            self._places.sync(*places)
        except OSError as exc:
            for run in runs:
                self._failed(run, exc)
            return False
        return True

    def _failed(self, run: RunView, exc: OSError) -> None:
        trouble = error_text(exc)
        if self._troubles.get(run.id) != trouble:
            name = run.file or run.job
            self._tell(events.FolderFailed(file=name, action="show the run", error=trouble))
        self._troubles[run.id] = trouble
        self._again_s = self._clock.monotonic() + AGAIN_S

    def _want(self, at_s: float) -> None:
        self.due_s = min(self.due_s, at_s)
