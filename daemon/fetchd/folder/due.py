"""Runs of kept jobs whose time has come, from what is on record of their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fetchd import events
from fetchd.clock import Failpoints
from fetchd.errors import DocumentError
from fetchd.folder.inbox import ReadJob, read_with
from fetchd.folder.masking import masked
from fetchd.folder.places import Places, error_name
from fetchd.model import Due, Submit
from fetchd.ports import Commands, Store


class DueRuns:
    """The revision that is in force is what runs, whatever stands in the folder by now."""

    def __init__(
        self,
        places: Places,
        *,
        read_job: ReadJob,
        commands: Commands,
        store: Store,
        tell: events.Tell,
        failpoints: Failpoints,
    ) -> None:
        self._places = places
        self._read_job = read_job
        self._commands = commands
        self._store = store
        self._tell = tell
        self._failpoints = failpoints

    def begin(self, beat: Callable[[], None]) -> None:
        """Begin every run that is due; one that cannot begin yet is asked for again."""
        for due in self._commands.due():
            beat()
            self._failpoints.pass_by("schedule.due")
            data = self._store.raw(due.job, due.revision)
            try:
                job = read_with(self._read_job, data, due.file, due.defaults)
            except DocumentError as exc:  # it was right when it was accepted
                self._refuse(due, exc)
                continue
            job = replace(job, revision=due.revision)
            command = Submit(job=job, raw=data, file=due.file, scheduled_for_s=due.scheduled_for_s)
            self._commands.submit([command])
            self._failpoints.pass_by("schedule.begun")

    def _refuse(self, due: Due, exc: DocumentError) -> None:
        """Say what the configuration of today has against the job."""
        shown = exc.rewritten(masked)
        lines = shown.headlines()
        text = shown.render().encode("utf-8", "backslashreplace") + b"\n"
        self._places.write(error_name(due.file), [text], durable=True)
        self._commands.pass_over(due)
        self._tell(events.JobRejected(file=due.file, reason=lines[0], problems=len(lines)))
