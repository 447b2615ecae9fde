"""Event -> log line: the one place that gives lines their names and levels.

A line's fields are the event's own; docs/events.md lists them all.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import NamedTuple

from fetchd import events
from fetchd.events import Event
from fetchd.logs import emitter, get_logger

_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


class Line(NamedTuple):
    """``name`` is public interface: ``subject.past_participle``, never changed."""

    name: str
    level: int


#: Every event but TaskProgressed, which is only counted.
LINES: dict[type[Event], Line] = {
    events.ServiceStarted: Line("service.started", _INFO),
    events.ServiceStopping: Line("service.stopping", _INFO),
    events.ServiceStopped: Line("service.stopped", _INFO),
    events.ServiceFailed: Line("service.failed", _ERROR),
    events.StatsTaken: Line("stats.snapshot", _INFO),
    events.ThreadDied: Line("thread.died", _ERROR),
    events.ThreadStuck: Line("thread.stuck", _ERROR),
    events.StateRecovered: Line("state.recovered", _INFO),
    events.StateCreated: Line("state.created", _INFO),
    events.HistoryPruned: Line("history.pruned", _INFO),
    events.JobAccepted: Line("job.accepted", _INFO),
    events.JobKept: Line("job.kept", _INFO),
    events.JobRemoved: Line("job.removed", _INFO),
    events.JobRejected: Line("job.rejected", _WARNING),
    events.FileIgnored: Line("file.ignored", _WARNING),
    events.CommandObeyed: Line("command.obeyed", _INFO),
    events.WatchChanged: Line("watch.changed", _WARNING),
    events.WatchMissed: Line("watch.missed", _WARNING),
    events.FolderExposed: Line("folder.exposed", _WARNING),
    events.FolderFailed: Line("folder.failed", _ERROR),
    events.RunStarted: Line("run.started", _INFO),
    events.RunHeld: Line("run.held", _INFO),
    events.RunReleased: Line("run.released", _INFO),
    events.RunRevised: Line("run.revised", _INFO),
    events.EditWaits: Line("run.edit_waits", _INFO),
    events.RunExpanded: Line("run.expanded", _INFO),
    events.RunPublished: Line("run.published", _INFO),
    events.RunEnded: Line("run.ended", _INFO),
    events.CredentialsWithheld: Line("credentials.withheld", _INFO),
    events.TasksAdded: Line("tasks.added", _DEBUG),
    events.TaskStarted: Line("task.started", _DEBUG),
    events.TaskNamed: Line("task.named", _DEBUG),
    events.TaskVerified: Line("task.verified", _DEBUG),
    events.TaskRepaired: Line("task.repaired", _INFO),
    events.StepStarted: Line("step.started", _DEBUG),
    events.StepDone: Line("step.done", _DEBUG),
    events.TaskRetryScheduled: Line("task.retry_scheduled", _WARNING),
    events.TaskDeferred: Line("task.deferred", _INFO),
    events.RootFull: Line("root.full", _WARNING),
    events.MirrorBanned: Line("mirror.banned", _WARNING),
    events.OriginShut: Line("origin.shut", _WARNING),
    events.OriginOpened: Line("origin.opened", _INFO),
    events.OriginWindow: Line("origin.window", _INFO),
    events.TaskInterrupted: Line("task.interrupted", _INFO),
    events.TaskDone: Line("task.done", _INFO),
    events.TaskFailed: Line("task.failed", _ERROR),
    events.TasksSkipped: Line("tasks.skipped", _WARNING),
    events.TasksPassedOver: Line("tasks.passed_over", _INFO),
    events.TasksCancelled: Line("tasks.cancelled", _INFO),
}


class LogListener:
    """Logs what the configured level lets through."""

    def __init__(self) -> None:
        logger = get_logger()
        self._emit = emitter()
        self._lines = {
            kind: (
                {"event": line.name},
                logging.getLevelName(line.level).lower(),
                tuple(field.name for field in fields(kind)),
            )
            for kind, line in LINES.items()
            if logger.is_enabled_for(line.level)
        }

    def hears(self, kind: type[Event]) -> bool:
        return kind in self._lines

    def __call__(self, event: Event) -> None:
        line = self._lines.get(type(event))
        if line is None:
            return
        name, level, names = line
        if isinstance(event, events.StatsTaken):
            self._emit(level, name | dict(event.totals))
        else:
            self._emit(level, name | {field: getattr(event, field) for field in names})
