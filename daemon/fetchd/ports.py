"""The seams between the rooms. A contract stands in each method's docstring."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from typing import Any, Protocol, TypeVar

from fetchd.errors import AttemptError
from fetchd.events import Event
from fetchd.model import (
    Answer,
    Attempt,
    Batch,
    Command,
    Due,
    Failure,
    Fetch,
    FileRecord,
    FileView,
    Finish,
    History,
    Intent,
    Job,
    Kept,
    OriginRecord,
    Outcome,
    Position,
    Progress,
    Reading,
    Report,
    Run,
    RunState,
    RunView,
    Share,
    Staged,
    StepSpec,
    Submit,
    Task,
    TaskCounts,
    TaskGroup,
    TaskSpec,
    TaskState,
    UpToDate,
    Validator,
)
from fetchd.values import dataclass

A = TypeVar("A", bound=Attempt)

# ---------------------------------------------------------------- engine <-> threads


class Loans(Protocol):
    """More connections to an attempt's origin than its own, while nobody waits for them."""

    def lend(self, attempt: Attempt) -> bool:
        """Count one more connection of the attempt against its origin; False: not now."""
        ...

    def recalled(self, attempt: Attempt) -> bool:
        """Tell whether somebody waits for a connection that is lent to the attempt."""
        ...

    def ask(self, attempt: Attempt) -> bool:
        """Count one more request of the attempt to its origin; False: not now.

        The request that an attempt begins with is counted when it is taken.
        """
        ...

    def left_alone_s(self, origin: str) -> float:
        """Return for how long nothing is to be asked of an origin, 0.0: now it may be."""
        ...

    def connection_failed(self, attempt: Attempt, failure: Failure, asked_s: float) -> None:
        """Say how one connection has failed, while the attempt goes on; raises StoreError.

        ``asked_s``: when it asked, or brought something last (monotonic).
        """
        ...

    def give_back(self, attempt: Attempt) -> None:
        """Say that one lent connection has ended; ``settle`` takes back what is left."""
        ...


class WorkSource(Loans, Protocol):
    """Where pools get work: the local engine."""

    def take(self, kind: type[A], most: int) -> Sequence[A]:
        """Block until attempts of this kind are due; at most ``most``. Empty: closed, go home."""
        ...

    def report(self, attempt: Attempt, progress: Progress) -> bool:
        """Tell progress (a heartbeat); False: not wanted any more, leave the part and settle."""
        ...

    def settle(self, settled: Sequence[tuple[Attempt, Outcome]]) -> None:
        """Say how attempts ended; exactly once each. A second or late one is ignored."""
        ...


class Commands(Protocol):
    """What the folder and the command line may ask of the engine. Any thread."""

    def obey(self, command: Command) -> Answer:
        """Carry the command out; returns after it is durable."""
        ...

    def submit(self, submissions: Sequence[Submit]) -> list[Answer]:
        """Obey them in their order, with one commit for all; returns after that."""
        ...

    def view(self, most_open: int | None = None) -> Report:
        """Return what goes on now; at most so many of the open runs, the earliest."""
        ...

    def kept_files(self) -> Mapping[str, str]:
        """Return the files that stay in the folder, and the job of each."""
        ...

    def due(self) -> list[Due]:
        """Return the runs that are due now, one a job; each goes on to be until it is submitted."""
        ...

    def pass_over(self, due: Due) -> None:
        """Make no run for a moment of a schedule."""
        ...


# ---------------------------------------------------------------- the wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The head of an answer has arrived, of the URL that was asked or of one it was led to.

    ``url``: as it may be shown. ``withheld``: this place was not sent what is for an earlier one
    alone.
    """

    url: str
    status: int
    withheld: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A URL from an offset.

    ``start`` > 0 asks for the rest of a file, on the condition that ``if_range`` (a strong
    validator's text) still holds; with ``stop`` for the bytes before that alone. ``unless`` asks
    for the file only if it is another version.
    ``headers`` are sent to the URL's own origin only, never to another one by redirect.
    ``connect_s``, ``stall_s``, ``deadline_s`` (monotonic, None: none) bound every phase.
    ``share``: what its body has to keep to, beside what the operator allows.
    ``body`` (JSON) is posted: no redirect is followed, and any answer of 2xx is one that nobody is
    going to read.
    ``heard``: is told of each answer on the way, whatever becomes of it.
    """

    url: str
    start: int = 0
    stop: int | None = None
    if_range: str | None = None
    unless: Validator | None = None
    headers: tuple[tuple[str, str], ...] = ()
    connect_s: float
    stall_s: float
    deadline_s: float | None = None
    share: Share | None = None
    body: bytes | None = None
    heard: Callable[[Heard], None] | None = None


class Stream(Protocol):
    """An answered request. Used by one thread at a time.

    ``start``: offset of the first byte to come (0 when the origin sends the whole file although
    a rest was asked for). ``total``: length of the whole file, None when unknown. ``framed``:
    the end of the body can be told from a cut (by length or chunks). ``not_modified``: the
    origin says that ``unless`` still holds; there is no body. ``held_s``: how long the last read
    waited for a rate, which is not the origin's fault. ``wish``: as in ``model.Progress``.
    ``file_name``: how the origin calls the file, without folders, otherwise unchecked.
    """

    start: int
    total: int | None
    framed: bool
    not_modified: bool
    validator: Validator
    content_type: str | None
    final_url: str
    held_s: float
    wish: tuple[str, float] | None
    file_name: str | None

    def readinto(self, buffer: memoryview) -> int:
        """Read the raw bytes that arrive first; 0 = the correct end of the body.

        Raises AttemptError (short_body, bad_framing, stalled, ...) for any other end, and
        NotWanted where it waits for a rate.
        """
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it; once."""
        ...


class RangeRefused(Exception):
    """No byte at ``start`` exists; ``total`` is the length that the origin named, or None."""

    def __init__(self, total: int | None) -> None:
        super().__init__(total)
        self.total = total


class OtherRange(AttemptError):
    """The origin answered with other bytes than the rest that was asked for."""


class Transport(Protocol):
    """Asks an origin and hands the body over as it comes, whatever it is for."""

    def open(self, request: Request, wanted: Callable[[], bool]) -> Stream:
        """Ask, follow redirects, check the answer; returns once the head has arrived.

        ``wanted`` is asked in every long wait; when it says False, NotWanted is raised.
        Raises AttemptError with a stable code, OtherRange among them, and RangeRefused.
        """
        ...

    def close(self) -> None:
        """Close all idle connections."""
        ...


class LocalFile(Protocol):
    """A regular file below a download root, open for reading. One thread.

    ``version``: a text without spaces and quotes that no other file and no other state of this
    one has; it and ``size_bytes`` are those of the moment of opening. ``modified_at_s``: wall
    clock.
    """

    size_bytes: int
    version: str
    modified_at_s: float

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Read at an offset; may read less than asked, 0 at the end; raises AttemptError."""
        ...

    def changed(self) -> bool:
        """Tell whether anything has changed since the opening, so that bytes may be mixed."""
        ...

    def close(self) -> None: ...


class LocalFiles(Protocol):
    """The files that a file: URL may name: those below the download roots. Any thread."""

    def open_file(self, path: str) -> LocalFile:
        """Open an absolute path; raises AttemptError (source_denied, not_found, source_error).

        Links are not followed, and fetchd's own folders not shown.
        """
        ...


class Dialer(Protocol):
    """Names and sockets; the seam of the network tests."""

    def resolve(self, host: str, port: int, timeout_s: float) -> list[tuple[int, str]]:
        """Return (address family, address) pairs in order of preference; raises AttemptError."""
        ...

    def connect(self, family: int, address: str, port: int, timeout_s: float) -> object:
        """Return a connected socket; raises OSError."""
        ...


# ---------------------------------------------------------------- the disk


class Os(Protocol):
    """The operating system's file calls that may fail; the seam of the disk-fault tests."""

    def open(
        self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None
    ) -> int: ...

    def read(self, fd: int, buffer: memoryview, offset: int, /) -> int:
        """Read at an offset; may read less than asked, 0 at the end."""
        ...

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:
        """Write at an offset; may write less than asked."""
        ...

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """Reserve room for bytes behind the file's end, which stays; EOPNOTSUPP where none can be.

        What is not used lasts until the file is truncated.
        """
        ...

    def truncate(self, fd: int, size_bytes: int) -> None: ...

    def fsync(self, fd: int) -> None: ...

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None: ...

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None: ...

    def rename_new(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Rename unless ``dst`` exists (EEXIST); EINVAL or ENOSYS where that cannot be had."""
        ...

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None: ...

    def unlink(self, path: str, *, dir_fd: int) -> None: ...

    def device(self, fd: int) -> int:
        """Return the number of the file system that holds ``fd``."""
        ...

    def may_write(self, fd: int) -> bool:
        """Return whether names may be made in the folder ``fd``."""
        ...

    def free_bytes(self, fd: int) -> int:
        """Return what an unprivileged writer may still use on the file system of ``fd``."""
        ...

    def capacity_bytes(self, fd: int) -> int:
        """Return what the file system of ``fd`` holds when it is empty."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """How far a complete part with a wrong digest was held against ``url``'s version of the file.

    ``compared``: ranges in which they are the same by now, as those of a journal.
    """

    url: str
    validator: Validator
    compared: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartJournal:
    """What is known of a part's first ``durable_bytes`` bytes, which are on the disk.

    ``ranges``: more of the same version that is there behind them, each from its first byte to the
    one behind its last, in order, with a gap before each. ``seams``: where bytes of one answer
    meet those of another, or of another attempt; ``mixed``: some came from other URLs than ``url``.
    """

    url: str
    final_url: str
    total: int | None
    validator: Validator
    durable_bytes: int
    ranges: tuple[tuple[int, int], ...] = ()
    seams: tuple[int, ...] = ()
    mixed: bool = False
    mending: Mending | None = None

    @property
    def held_bytes(self) -> int:
        return self.durable_bytes + sum(end - start for start, end in self.ranges)

    @property
    def end_bytes(self) -> int:
        return self.ranges[-1][1] if self.ranges else self.durable_bytes


class PartBusy(Exception):
    """Another thread or process has the destination's part open; ``str()`` says which."""


class Part(Protocol):
    """The hidden, locked file that a transfer writes. One thread, but for ``write_at``.

    ``size_bytes``: so many bytes are there from the first one on. When opened that is what its
    journal promises, and behind it lie the journal's ranges; without a journal it is empty. A part
    whose bytes could not be synced is discarded before the error is raised. ``home``: path below
    the root of the top folder of the file system that it is on, "" for the root's own.
    """

    journal: PartJournal | None
    size_bytes: int
    name: str
    home: str

    def write(self, data: memoryview) -> None:
        """Append at ``size_bytes``; raises AttemptError (disk_full, disk_error)."""
        ...

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write anywhere behind ``size_bytes``; any thread. Raises as ``write``."""
        ...

    def overwrite(self, data: memoryview, offset: int) -> None:
        """Replace bytes before ``size_bytes`` that are wrong; raises as ``write``."""
        ...

    def advance(self, size_bytes: int) -> None:
        """Say that all bytes before ``size_bytes`` have been written by ``write_at``."""
        ...

    def truncate(self, size_bytes: int = 0) -> None:
        """Cut to ``size_bytes``; a journal that promises more is durably forgotten first.

        What lies behind ``size_bytes`` in ranges is cut off too.
        """
        ...

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Read what is there before ``size_bytes``; may read less than asked, 0 at the end."""
        ...

    def checkpoint(self, journal: PartJournal) -> None:
        """Sync the data, then make the journal say so; durable on return."""
        ...

    def identity(self) -> tuple[int, int]:
        """Return (device, inode)."""
        ...

    def discard(self) -> None:
        """Remove part and journal: their content is worthless."""
        ...

    def quarantine(self) -> str:
        """Move the part, as ``discard`` would remove it, to where people may look at it.

        Returns that place, below the root; "" when it is gone already. It holds one refused part
        for each destination, the latest; none is ever opened as a part again. Publishing the
        destination removes it.
        """
        ...

    def drop_quarantined(self) -> bool:
        """Remove what the destination has in quarantine; False: nothing, or the disk refused."""
        ...

    def claim(self, missing_bytes: int) -> None:
        """Claim room for so many bytes more, or less than before, on the part's file system.

        ``write`` uses the claim up; closing the part ends it. Raises AttemptError: disk_full when
        what is free does not cover the reserve, what was claimed earlier for other parts, and
        this (what the destination has in quarantine makes room first); too_large when not even
        the empty file system would.
        """
        ...


class FreshPart(Protocol):
    """The place of a small file's part, where none lies yet. One thread.

    ``size_bytes``, ``name``, ``home``: as of ``Part``.
    """

    size_bytes: int
    name: str
    home: str

    def keep(self, whole: memoryview) -> bool:
        """Make the part, with all that it will ever hold; False: there is little room by now.

        Raises AttemptError (disk_full, disk_error, ...), PartBusy: somebody else has made one.
        """
        ...

    def identity(self) -> tuple[int, int]:
        """Return (device, inode) of what was kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What stands at a destination: a regular file, or a symbolic link (``link``).

    A link is never read or written through; the numbers are its own.
    """

    size_bytes: int
    mtime_ns: int
    inode: int
    link: bool = False


# ---------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFile:
    """What a step is given: a regular file, or (``link``) a symbolic link. ``path`` is relative."""

    path: str
    size_bytes: int
    mtime_s: float = 0.0
    link: bool = False


class Input(Protocol):
    """A file that a step reads."""

    size_bytes: int

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Read at an offset; may read less than asked, 0 at the end; raises AttemptError."""
        ...


class Output(Protocol):
    """A file that a step makes; it is whole when its ``with`` has ended."""

    def write(self, data: memoryview | bytes) -> None:
        """Append; raises AttemptError (disk_full, disk_error, ...)."""
        ...


class Bench(Protocol):
    """Where a step works: what it is given on one side, what it has made on the other.

    Paths are relative, below the folder of the task's destination; a step may neither change what
    it is given nor see anything else. What it does not ``carry`` over is gone behind it. Every call
    counts the time, and raises NotWanted as soon as nobody wants the work any more, AttemptError
    (step_timeout) when the time is over. One thread.
    """

    name: str  # of the task's file
    read_bytes: int
    written_bytes: int
    begun: bool  # something that may not be done twice

    def files(self) -> Iterator[BenchFile]:
        """Yield all that the step is given, files and links, in the order of their paths."""
        ...

    def open(self, path: str) -> AbstractContextManager[Input]: ...

    def make(
        self,
        path: str,
        *,
        executable: bool = False,
        mtime_s: float | None = None,
    ) -> AbstractContextManager[Output]:
        """Make a file, and the folders above it; FileExistsError for a name that there is."""
        ...

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it; one that is there already is fine."""
        ...

    def make_link(self, path: str, target: str) -> None: ...

    def carry(self) -> None:
        """Hand all that the step is given on, as it is."""
        ...

    def lend(self) -> AbstractContextManager[str]:
        """Let another process work in the folder of what was handed on, by the path that is given.

        That is a path for ``chdir`` right after a fork. What it leaves there is what this step has
        made; AttemptError for anything but files, folders and links.
        """
        ...

    def begin_unrepeatable(self) -> None:
        """Put down, durably, that what comes next may not be done again.

        After a crash behind it the attempt fails with ``needs_attention``.
        """
        ...

    def set_mode(self, mode: int) -> None:
        """Give all that was handed on this mode, folders with x where there is r."""
        ...

    def tick(self) -> None:
        """Raise as every other call does: for work that makes none for long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFile:
    """What a task that fetches nothing begins with: a file that another task has published.

    ``path``: its destination below ``root``; ``made``: what steps have made stands in its place.
    ``above``: the folder below ``root`` below which it appears by its path, where it does not lie
    in the folder of the task that it is given to.
    """

    root: str
    path: str
    above: str
    made: bool


class Step(Protocol):
    def __call__(self, bench: Bench, options: Mapping[str, Any]) -> None:
        """Make what shall be seen of what is given; raises AttemptError.

        May be called again after a crash, on the same input and a fresh bench.
        """
        ...


class Staging(Protocol):
    """The hidden folder in which the steps of one task work, one after the other.

    ``taken``: so many have done their work, of an earlier attempt in this life as well.
    ``stands``: all that they would make is there already, so none needs to be taken.
    """

    stands: bool

    @property
    def taken(self) -> int: ...

    def bench(self, tick: Callable[[], None]) -> AbstractContextManager[Bench]:
        """Give the next step what the one before has made; ``tick`` as ``Bench.tick``."""
        ...

    def seal(self, tick: Callable[[], None]) -> Staged:
        """Make all durable, ready for the publisher; behind it nothing is changed any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A run's generation is seen. So many earlier ones were ``removed``.

    ``left``: those of them in which somebody else's files stay.
    """

    removed: int = 0
    left: tuple[str, ...] = ()


class Disk(Protocol):
    """The download roots. The only door to them; every path is resolved below its root."""

    def of(self, job: Job, run: Run) -> Disk:
        """Return the roots as a run of a job knows them.

        Where its outputs appear together, what it calls ``current`` is its own generation; a file
        that it has not published is the one of the generation before.
        """
        ...

    def keep(self, attempt: Fetch | Finish) -> None:
        """Let what stands at the attempt's destination be what its run publishes there.

        Raises AttemptError.
        """
        ...

    def change_over(
        self,
        job: Job,
        run: Run,
        files: Iterable[FileView],
        passed_over: Collection[str],
        tick: Callable[[], None],
    ) -> Completed:
        """Let the outputs of a run that appear together be seen, in one step; and so only once.

        ``files``: its tasks, all ended; ``passed_over``: groups whose condition did not hold, and
        which keep all files that they had, whatever these were called. ``tick`` is called often,
        and may raise. May be called again whatever happened. Raises AttemptError:
        generation_broken where not all is there, dest_conflict where somebody else has the place.
        """
        ...

    def open_part(self, root: str, path: str) -> AbstractContextManager[Part]:
        """Open (or make) the destination's part, locked; raises AttemptError, PartBusy."""
        ...

    def fresh(self, root: str, path: str) -> FreshPart | None:
        """Return where the part of a small file goes, without a claim or lock; raises AttemptError.

        None: something stands at the destination, a part lies there already, or it is not known
        that room is plenty. Then ``existing`` and ``open_part`` tell more.
        """
        ...

    def home(self, root: str, path: str) -> str:
        """Return the top folder of the file system that the destination is on; raises AttemptError.

        By its path below the root, "": the root's own.
        """
        ...

    def existing(self, root: str, path: str) -> Existing | None:
        """Return what stands at the destination, None: nothing; raises AttemptError.

        A folder is ``dest_conflict``; what is no file at all is ``dest_denied``.
        """
        ...

    def is_destination(self, root: str, path: str, file: str) -> bool:
        """Tell whether the absolute path ``file`` is the destination's own."""
        ...

    def read_existing(self, root: str, path: str) -> AbstractContextManager[Iterator[memoryview]]:
        """Open the destination's file and yield its bytes in slices."""
        ...

    def stage(self, attempt: Finish) -> AbstractContextManager[Staging | None]:
        """Open a fresh staging folder for an attempt's part; it is removed unless it was sealed.

        None: nothing is left to be made, because all was sealed, or published, before a crash.
        Raises AttemptError where the part is not what was verified, and ``needs_attention``;
        PartBusy.
        """
        ...

    def gather(
        self,
        attempt: Finish,
        given: Callable[[], Iterable[GivenFile]],
        said: str,
        tick: Callable[[], None],
    ) -> AbstractContextManager[Staging | None]:
        """Open a fresh staging folder for a task that fetches nothing, with what it is ``given``.

        Files are given as hard links or, where these cannot be, copies; nothing that steps do
        changes those that are seen. What is left at the end as it was given is not published.
        ``said``: what the steps say, all variables put in; ``tick``: as ``Bench.tick``.
        None, and errors: as ``stage``; AttemptError (step_failed) where two files would appear at
        one path, or one is gone.
        """
        ...

    def stage_end(self, attempt: Finish) -> AbstractContextManager[Staging]:
        """Let steps work at the end of a run: there are no files, and programs see the root.

        Raises AttemptError, ``needs_attention`` among them; PartBusy.
        """
        ...

    def stands(
        self,
        root: str,
        path: str,
        steps: Sequence[StepSpec],
        values: Sequence[tuple[str, str]] = (),
        *,
        same: bool,
    ) -> bool:
        """Tell whether all that these steps have made of the destination's last file is there.

        ``values``: those that the steps are taken with, as of a ``TaskSpec``. ``same``: and nobody
        has changed it since.
        """
        ...

    def sync_existing(self, root: str, path: str) -> None:
        """Make the destination's file as durable as a published one; raises AttemptError.

        What is left of a part of it, as after a publication that was cut short, is removed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A part in a hidden folder. ``path`` and ``durable_bytes`` by its journal, "" and 0 without.

    ``home``: as in ``Part``. ``modified_at_s``: wall clock, when it was last touched.
    ``quarantined``: it was refused, and is a part no more. ``staged``: it is not a part, but what
    steps have made of one; ``made``: the record of what they made, which was published.
    """

    root: str
    path: str
    name: str
    durable_bytes: int
    home: str = ""
    modified_at_s: float = 0.0
    quarantined: bool = False
    staged: bool = False
    made: bool = False


# ---------------------------------------------------------------- the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An attempt began (row ``running``). Not waited for."""

    task: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The task is ready again, not before ``due_at_s`` (steady wall), in the lane of ``origin``."""

    task: int
    origin: str
    history: History
    due_at_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intends:
    """The publish intent of a verified part."""

    task: int
    intent: Intent
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Done: published as its intent says, or ``unchanged``, with nothing transferred.

    ``record`` replaces what is known of the destination's file, None keeps it.
    """

    task: int
    root: str
    path: str
    url: str
    detail: str  # downloaded, resumed, up_to_date
    unchanged: UpToDate | None
    record: FileRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    task: int
    code: str
    reason: str
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class RestEnded:
    """Every ready or running task of a group gets ``state`` (skipped or cancelled).

    The list of a cancelled group is read no more, not even after a retry.
    """

    run: int
    group: int
    state: TaskState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSucceeded:
    """The group has ended well with these files of groups that it needs; ``seen``: as in Expand.

    ``run``: in which it has; what it has made may be asked for.
    """

    job: str
    group: str
    seen: Mapping[str, str]
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanged:
    """``at_s``: wall clock; becomes started_at or finished_at by the state."""

    run: int
    state: RunState
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiled:
    """The drop folder shows how the run ended: report written, job file moved."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """The run goes on only until what is under way has ended."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused:
    """The run is held, or (``paused`` False) goes on."""

    run: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginKept:
    """What is known of an origin now."""

    record: OriginRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginForgotten:
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptChanged:
    """What is on record of a kept job, but for its revision."""

    kept: Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingChanged:
    """What becomes of a group's items stands so; a batch that is appended begins it anew."""

    group: int
    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptForgotten:
    """The job is kept no more; its runs stay."""

    job: str


Change = (
    Started
    | Waits
    | Intends
    | Succeeded
    | Failed
    | RestEnded
    | GroupSucceeded
    | RunChanged
    | RunCancelled
    | RunFiled
    | RunPaused
    | OriginKept
    | OriginForgotten
    | KeptChanged
    | KeptForgotten
    | ReadingChanged
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """``specs`` are the tasks known so far; ``expanding``: more come, from ``position`` on."""

    group: TaskGroup
    specs: tuple[TaskSpec, ...]
    expanding: bool
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKept:
    """A job that is kept from now on, or a new revision of one that was; ``raw`` as in ``Submit``.

    A revision that is on record already needs no ``raw``.
    """

    kept: Kept
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """An accepted job and its run, not on record yet; ``raw`` and ``file`` as in ``Submit``."""

    job: Job
    run: Run
    raw: bytes
    file: str
    groups: tuple[NewGroup, ...]
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGroup:
    """A group as the store has it; ``bytes``: published so far."""

    id: int
    group: TaskGroup
    expanding: bool
    position: Position | None
    counts: TaskCounts
    bytes: int
    seen: Mapping[str, str] = field(default_factory=dict)  # as in Expand
    reading: Reading = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run with all that the engine needs to go on with it."""

    job: Job
    run: Run
    file: str
    state: RunState
    accepted_at_s: float
    started_at_s: float | None
    groups: tuple[OpenGroup, ...]
    cancelled: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """A run that goes on as another revision.

    ``stale``: tasks that were running and are to be done anew, or are no more; ``gone``: all that
    are no more, whose numbers may be given again. ``changed``: how many are to be done anew,
    ``opened``: new ones, and those of the changed that had ended; ``removed``: open ones that are
    no more.
    """

    run: OpenRun
    stale: frozenset[int]
    gone: frozenset[int]
    changed: int
    opened: int
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A task that may start at ``due_at_s`` (steady wall; 0: at once); ``wait``: why not before.

    ``previous``: the file last published at its destination.
    """

    task: Task
    origin: str
    due_at_s: float
    wait: str
    previous: FileRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some tasks of one group that are ready now or within a minute.

    ``after``: where the next window begins (the last origin looked at; "" when all were).
    ``next_due_at_s``: when the earliest task beyond these becomes due, None if there is none.
    ``held``: tasks passed over because an earlier open task of another run has their destination.
    ``cut``: origins that may have more such tasks than are given here.
    """

    tasks: tuple[Ready, ...]
    after: str
    next_due_at_s: float | None
    held: int
    cut: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch of ``added`` tasks; ``failed``: those that never could succeed.

    Each with code and reason, such as a line that is no URL, or a destination given twice.
    ``skipped``: those that do not meet their condition.
    """

    added: int
    failed: tuple[tuple[TaskSpec, str, str], ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a crash left of one task: running (``intent`` None) or publishing."""

    run: int
    task: Task
    intent: Intent | None
    previous: FileRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a store keeps of the past: runs that have ended later, and the latest ``runs``.

    ``published_after_s``: and what it knows of files that were published later. Wall clock.
    """

    ended_after_s: float
    runs: int
    published_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How much of the past was forgotten."""

    runs: int
    tasks: int
    files: int


class Naming(enum.Enum):
    """What became of a name that a server gave its file.

    ``BUSY``: an open task of another run has it; ``TAKEN``: a task of the same run has, and so
    this one has failed (``dest_conflict``).
    """

    GIVEN = enum.auto()
    BUSY = enum.auto()
    TAKEN = enum.auto()


#: Why a second task of a run for one destination fails.
TAKEN = "another task of this run has the same destination"


class Store(Protocol):
    """What must survive a restart. All methods may be called by any thread.

    Changes are applied in the order of the calls, by one thread, in groups; reads see every
    change that was recorded before them. A failure is fatal: it is told once to the function
    given at construction, and every later call raises StoreError.
    """

    def new_run_id(self) -> int:
        """Return an id that no run has had."""
        ...

    def add_jobs(self, jobs: Sequence[NewJob], kept: Sequence[NewKept] = ()) -> list[OpenRun]:
        """Record jobs, runs and tasks in one transaction; returns after it is durable.

        ``kept``: recorded with them. A second spec of a run for one destination is recorded as
        failed (dest_conflict).
        """
        ...

    def revise(self, new: NewJob, kept: NewKept) -> Revised:
        """Let an open run of a kept job go on as another revision of it, in one transaction.

        Tasks are told apart by group and path. Those that are the same stay as they are. None may
        be publishing, and nothing of the run may be recorded meanwhile. A group whose tasks come
        in batches, before or now, has to be the same. Those of what is done at the run's end are
        forgotten, as by ``reopen``.
        """
        ...

    def append_tasks(
        self,
        group: OpenGroup,
        run: int,
        specs: tuple[TaskSpec, ...],
        position: Position | None,
        then: Callable[[Appended], None],
    ) -> None:
        """Record a batch of a list's tasks and the position behind it in one transaction.

        ``position`` None: the list is read to its end. ``then`` is called (store's thread)
        once durable.
        """
        ...

    def record(self, changes: Sequence[Change], then: Callable[[], None] | None = None) -> None:
        """Record changes, all or none; ``then`` is called (store's thread) once durable."""
        ...

    def name_task(
        self,
        task: int,
        path: str,
        history: History,
        later_at_s: float,
        then: Callable[[Naming], None],
    ) -> None:
        """Let a running task be ready again, under the path that its file turned out to have.

        Where an open task of another run has that destination, it stays without a name and is to
        ask again at ``later_at_s`` (steady wall). ``then`` is called once durable (store's thread).
        """
        ...

    def flush(self) -> None:
        """Return after everything recorded before is durable."""
        ...

    def next_ready(
        self,
        group: int,
        *,
        after: str,
        origins: int,
        per_origin: int,
        now_s: float,
        then: Callable[[Window], None],
        skip: frozenset[str] = frozenset(),
        known: frozenset[int] = frozenset(),
    ) -> None:
        """Read ready tasks, at most ``per_origin`` of each of ``origins`` origins behind ``after``.

        ``skip``: origins that are passed over; ``known``: tasks that are, too.
        ``then`` is called on the store's thread.
        """
        ...

    def last_runs(self, jobs: Collection[str]) -> dict[str, RunView]:
        """Return the latest run of each of these jobs that has one."""
        ...

    def run_view(self, run: int) -> RunView | None: ...

    def last_success(self, job: str, group: str) -> RunView | None:
        """Return the run in which a group ended well last, None: nobody had it put down."""
        ...

    def open_runs(self) -> list[OpenRun]:
        """Return every run that has not ended, in the order of acceptance."""
        ...

    def open_run(self, run: int) -> OpenRun:
        """Return one of them."""
        ...

    def kept(self) -> list[Kept]:
        """Return the jobs whose files stay in the folder."""
        ...

    def raw(self, job: str, revision: str) -> bytes:
        """Return the bytes of the job file with that revision of a kept job."""
        ...

    def unfinished(self) -> list[Unfinished]:
        """Return the tasks that were running or publishing when the last life ended."""
        ...

    def limit_waits(self, group: int, due_at_s: float) -> None:
        """Let every ready task of the group that is due later be due then."""
        ...

    def origins(self, seen_after_s: float) -> list[OriginRecord]:
        """Forget the origins that were last heard of before (wall clock); return the others."""
        ...

    def reopen(self, run: int) -> OpenRun | None:
        """Make the run's failed and skipped tasks ready again; None: it has none. Durable.

        A list of which not all could be read is going to be read from its beginning, and the
        failed task that says so is gone; what it has brought already is not added again.
        The tasks of what is done at its end are forgotten: they are made anew when they are due.
        """
        ...

    def unfiled_runs(self) -> list[RunView]:
        """Return ended runs whose end the drop folder does not show yet."""
        ...

    def files(self, run: int) -> Iterator[FileView]:
        """Yield all tasks of a run in the order of acceptance, read in pages."""
        ...

    def failures(self, run: int, most: int) -> list[FileView]:
        """Return the first ``most`` failed tasks of a run."""
        ...

    def destination_state(self, root: str, path: str) -> TaskState | None:
        """Return the state of a destination's open task, else of its newest; None: none."""
        ...

    def knows(self, root: str, path: str) -> bool:
        """Tell whether a task, or what is known of a published file, names a destination."""
        ...

    def check(self) -> None:
        """Have it looked whether what is recorded would be found again: a failure if not."""
        ...

    def prune(self, keep: Keep, then: Callable[[Pruned], None]) -> None:
        """Begin to forget what is older, in small transactions with other work in between.

        A run goes with its tasks, when it has ended and is filed; the newest of all stays, and
        with ``keep.runs`` only so many of the newest may. What is known of a published file goes
        once no run that is kept names its destination. ``then`` is called at the end (store's
        thread); closing the store is an end too. One pass at a time: a call during one does
        nothing.
        """
        ...

    def close(self) -> None:
        """Make everything durable and end; later calls raise StoreError."""
        ...


# ---------------------------------------------------------------- expand, listeners


class Expander(Protocol):
    def __call__(self, job: Job, group: TaskGroup, run: Run, position: Position | None) -> Batch:
        """Turn the next items of a group into tasks; raises AttemptError (list_changed, ...)."""
        ...


class Listener(Protocol):
    """One that has ``hears(kind)`` is told only of the kinds of events that this is true of."""

    def __call__(self, event: Event, /) -> None:
        """Hear an event, on the thread where it happened. Must be quick; may fail."""
        ...
