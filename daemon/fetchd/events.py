"""What can happen, as frozen values. Listeners hear them; nobody may depend on being heard."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import field

from fetchd.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. URLs are logged through the redactor, so they stand here in full."""


# ---------------------------------------------------------------- service


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStarted(Event):
    version: str
    workers: int
    jobs: str
    roots: Mapping[str, str]
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopping(Event):
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopped(Event):
    elapsed_s: float
    left_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFailed(Event):
    """A failure that ends the service; systemd restarts it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsTaken(Event):
    """A snapshot of the totals, every ``stats_every_s`` and at the end."""

    totals: Mapping[str, int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadDied(Event):
    """A thread ended by an unexpected exception; ``replaced`` says whether a new one runs."""

    died: str
    error: str
    traceback: str
    replaced: bool

    @classmethod
    def by(cls, exc: BaseException, died: str, *, replaced: bool) -> ThreadDied:
        return cls(
            died=died,
            error=f"{type(exc).__name__}: {exc}",
            traceback="".join(traceback.format_exception(exc)),
            replaced=replaced,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStuck(Event):
    stuck: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecovered(Event):
    """What a start found of the previous life."""

    runs: int
    running: int
    publishing: int
    parts_swept: int


# ---------------------------------------------------------------- folder


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCreated(Event):
    """There was no state: whatever was accepted before, if anything was, is not known."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPruned(Event):
    """Ended runs were forgotten, as ``history`` says; reports and downloads stay."""

    runs: int
    tasks: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccepted(Event):
    job: str
    run: int
    file: str
    revision: str
    groups: int
    tasks: int  # those known when accepted; a list's are counted by RunExpanded


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKept(Event):
    """A job file that stays in the folder, or another revision of one, is in force."""

    job: str
    file: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRemoved(Event):
    """A job is kept no more: its file is gone, or does not stay any longer."""

    job: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRejected(Event):
    file: str
    reason: str
    problems: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIgnored(Event):
    """Something in the drop folder looks like a mistake; told once for each version of it."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandObeyed(Event):
    command: str
    job: str
    done: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchChanged(Event):
    """The watch on the drop folder was lost, set up again, or cannot be had."""

    folder: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMissed(Event):
    """So many files were found in the drop folder, and no event had announced them."""

    folder: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderExposed(Event):
    """The drop folder is open to everybody; told at the start, and of a folder that replaces it."""

    folder: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFailed(Event):
    """A file operation in the drop folder failed; it is tried again at the next scan."""

    file: str
    action: str
    error: str


# ---------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    job: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeld(Event):
    """Nothing of the run starts, and what was under way stops. ``until_s``: wall clock, or open."""

    job: str
    run: int
    wait: str
    until_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReleased(Event):
    """A run that was held goes on."""

    job: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EditWaits(Event):
    """The file of a kept job was edited while its run is on, and holds only when that has ended.

    Told once for each edit, of the run that is on.
    """

    job: str
    run: int
    file: str
    revision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRevised(Event):
    """The file of a kept job was edited while its run is on.

    Of its tasks ``added`` are new, ``changed`` begin anew, ``removed`` are no more.
    """

    job: str
    run: int
    revision: str
    added: int
    changed: int
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunExpanded(Event):
    """All lines of a list have become tasks."""

    job: str
    run: int
    group: str
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPublished(Event):
    """The outputs of a run are seen, together: ``path`` is the link to them.

    ``removed``: earlier generations that were; ``left``: those of them with files of others in
    them, which stay.
    """

    job: str
    run: int
    root: str
    path: str
    removed: int
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    job: str
    run: int
    state: str
    succeeded: int
    failed: int
    skipped: int
    cancelled: int
    bytes: int
    elapsed_s: float


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsWithheld(Event):
    """A redirect led from an origin to another one, which got nothing of what is for the first."""

    origin: str
    other: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFull(Event):
    """Several attempts in a row found no room: none is started there for ``delay_s``.

    ``home``: the folder below the root where the full file system is mounted, "" for the root's.
    """

    root: str
    home: str
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorBanned(Event):
    """An origin has served wrong digests in a run, and is asked last in it from now on."""

    job: str
    run: int
    origin: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginShut(Event):
    """Nothing is asked of an origin for ``delay_s``. ``cause``: ``asked`` (by it), ``failing``."""

    origin: str
    cause: str
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginOpened(Event):
    """``worn``: it still fails, and was given up to the retries of its tasks."""

    origin: str
    worn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginWindow(Event):
    """An origin's connections were halved, or are at their bound again; ``before``: so many."""

    origin: str
    connections: int
    before: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent(Event):
    job: str
    run: int
    task: int
    path: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksAdded(Event):
    job: str
    run: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(TaskEvent):
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgressed(TaskEvent):
    """``bytes`` more have arrived since the last such event of the attempt. Never logged.

    The last ones are told by TaskVerified.
    """

    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVerified(TaskEvent):
    """``untold_bytes`` of it have arrived since the last TaskProgressed, if there was any."""

    attempt: int
    size_bytes: int
    untold_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNamed(TaskEvent):
    """The server has said how the file is called; ``named``: the path that it has from now on."""

    named: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRepaired(TaskEvent):
    """A file with a wrong digest was mended from another source; ``url``: that one."""

    attempt: int
    size_bytes: int
    compared_bytes: int
    replaced_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(TaskEvent):
    """``number`` counts from 1 within the task's ``steps``."""

    step: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone(TaskEvent):
    """A step has made what it had to; nobody sees that yet."""

    step: str
    number: int
    read_bytes: int
    written_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetryScheduled(TaskEvent):
    attempt: int
    code: str
    reason: str
    delay_s: float
    next_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeferred(TaskEvent):
    wait: str
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInterrupted(TaskEvent):
    """A stop reached the task; it goes on after the next start."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDone(TaskEvent):
    """The canonical line of a task that succeeded."""

    outcome: str  # downloaded, resumed, up_to_date
    final_url: str
    size_bytes: int
    verified: str
    digests: tuple[str, ...]
    attempts: int
    resumed_from_bytes: int
    received_bytes: int
    elapsed_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    """The canonical line of a task that failed for good."""

    code: str
    reason: str
    attempts: int
    causes: tuple[str, ...] = field(default_factory=tuple)
    quarantine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksSkipped(Event):
    job: str
    run: int
    group: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksPassedOver(Event):
    """The condition of these tasks is not met, as may well be: they are skipped too."""

    job: str
    run: int
    group: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksCancelled(Event):
    job: str
    run: int
    count: int


Tell = Callable[[Event], None]
