"""The nouns: frozen values that rooms hand to each other. Units stand in the names."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from fetchd.digests import Digest
from fetchd.rates import Rate
from fetchd.urls import HERE
from fetchd.values import dataclass

# ---------------------------------------------------------------- what a job says


class Priority(enum.IntEnum):
    """Lower is sooner."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class IfExists(enum.StrEnum):
    """What to do about a file that stands at the destination already."""

    UPDATE = "update"
    SKIP = "skip"
    OVERWRITE = "overwrite"
    FAIL = "fail"


class Verify(enum.StrEnum):
    """How a file is known to be complete: what a job demands, and what a file has shown."""

    DIGEST = "digest"
    LENGTH = "length"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRange:
    """Both ends included; ``most_bytes`` None: no upper end."""

    least_bytes: int = 0
    most_bytes: int | None = None

    def __contains__(self, size_bytes: int) -> bool:
        return self.least_bytes <= size_bytes and (
            self.most_bytes is None or size_bytes <= self.most_bytes
        )

    def __str__(self) -> str:
        if self.least_bytes == self.most_bytes:
            return f"{self.least_bytes}"
        return f"{self.least_bytes}..{'' if self.most_bytes is None else self.most_bytes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Magic:
    """Bytes that a file of some kind has at an offset; ``hex``: in lower case."""

    hex: str
    offset_bytes: int = 0

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + len(self.hex) // 2

    def __str__(self) -> str:
        shown = self.hex if len(self.hex) <= 64 else self.hex[:64] + "..."
        return f"hex:{shown}@{self.offset_bytes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """``attempts`` counts rounds over all sources; ``give_up_after_s`` from the first failure.

    ``wait_for_s``: how long a file that the origin does not have is "not there yet", counted from
    the first such answer; None: it is a failure.
    """

    attempts: int = 8
    delay_s: float = 2.0
    max_delay_s: float = 300.0
    give_up_after_s: float = 86400.0
    max_retry_after_s: float = 3600.0
    wait_for_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """``connect_s``: name, TCP and TLS together; ``attempt_s`` None: no limit.

    A transfer is stalled when fewer than ``stall_s * stall_bytes_per_s`` bytes (at least one)
    arrive within ``stall_s``.
    """

    connect_s: float = 10.0
    stall_s: float = 30.0
    stall_bytes_per_s: int = 1024
    attempt_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How every task of a group is fetched, verified and published."""

    root: str = "default"
    if_exists: IfExists = IfExists.UPDATE
    verify: Verify = Verify.LENGTH
    size: SizeRange | None = None
    max_bytes: int | None = None  # limits.file: job's and operator's, the lower
    expect_type: str | None = None  # a media type or "*/*"
    magic: tuple[Magic, ...] = ()  # all must hold
    headers: tuple[tuple[str, str], ...] = ()
    segments: int | None = None  # connections for one file; None: as many as pay
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line of work as written: may hold ``${...}``. Its place in the file counts from 1."""

    url: str
    filename: str | None = None
    checksum: str | None = None
    line: int | None = None
    column: int | None = None
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFile:
    """Items stand in a file, read in batches; ``path`` is absolute, in ``active/``.

    ``format``: "urls", or another key of the formats of ``expand``.
    """

    path: str
    format: str = "urls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Names, each with a list of values or a range (``A..B``) as written; may hold ``${...}``.

    The items of its group are made once for each combination. ``include``: further combinations,
    each with all names; ``exclude``: some values whose combinations are left out.
    """

    axes: tuple[tuple[str, str | tuple[str, ...]], ...]
    include: tuple[tuple[tuple[str, str], ...], ...] = ()
    exclude: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the texts of the group may refer to."""
        return tuple(name for name, _ in self.axes or self.include[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What the items of a group have in common; every text may hold ``${...}``.

    ``from_header``: files are called as their servers say; ``filename`` is None then.
    """

    base: tuple[str, ...] = ()
    dest: str = ""
    filename: str | None = None
    checksums: tuple[str, ...] = ()
    sums: str | None = None
    from_header: bool = False


class Makes(enum.StrEnum):
    """What a step makes of a single file: it again, the same without its last ending, or others.

    ``ONE``: one file of whatever there is, with the name that its option ``name`` says.
    """

    SAME = "same"
    UNPACKED = "unpacked"
    ONE = "one"
    OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A file below a root whose items become tasks while the run goes on.

    ``file``: its path, may hold ``${...}``; ``root``: None for that of the needed group that the
    path names, else the group's own. The rest are options that some formats know.
    """

    file: str
    format: str
    root: str | None = None
    items: str = ""
    pattern: str = ""
    delimiter: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What has to hold for a group to be worked on, with ``${...}``; else it is skipped.

    ``each``: it is decided for each task, by its own values; else once, when the needs are met.
    ``compares``: needed groups of which it asks whether their file is another than that with which
    this group last succeeded.
    """

    text: str
    each: bool = False
    compares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """One entry of ``steps:``. ``options``: all that the step knows, in the types of JSON."""

    name: str
    makes: Makes = Makes.OTHERS
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 3600.0


class RunEnd(enum.StrEnum):
    """What a run does when all of its tasks have ended, one after the other, in this order.

    Each is the name of an implicit group, whose one task is made when it is due.
    """

    PUBLISH = "publish"
    ON_SUCCESS = "on_success"
    ON_FAILURE = "on_failure"

    def comes_before(self, other: RunEnd) -> bool:
        order = list(RunEnd)
        return order.index(self) < order.index(other)

    def path_in(self, job: str) -> str:
        """Return the path of the task, which no file of any job has."""
        return f"./{job}/{self}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """One entry of ``tasks:`` (a file without ``tasks:`` has one group, named like the job).

    ``gathers``: it fetches nothing, and its one task works on what those have made that it needs.
    ``end``: it is none of the job file's tasks, but what is done at the end of the run.
    """

    name: str
    needs: tuple[str, ...] = ()
    items: tuple[Item, ...] | ListFile
    template: Template = Template()
    rules: Rules = Rules()
    matrix: Matrix | None = None
    may_fail: bool = False  # its failures hurt neither the run nor those who need it
    when: Condition | None = None
    manifest: Manifest | None = None  # the items are made once for each of its own; () : lines
    steps: tuple[StepSpec, ...] = ()  # what is done with each file before anybody sees it
    gathers: bool = False
    end: RunEnd | None = None

    @property
    def is_read(self) -> bool:
        """Whether its tasks may come in batches, and can be made anew from what is on record."""
        return bool(self.manifest or self.matrix or isinstance(self.items, ListFile))


class CatchUp(enum.StrEnum):
    """What to do about moments of a schedule that were missed."""

    NONE = "none"
    ONCE = "once"
    ALL = "all"


class OnRemove(enum.StrEnum):
    """What becomes of the run that is on when the file of a kept job is taken away."""

    DRAIN = "drain"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a job is due: by ``cron``, five fields, or every ``every_s``; the other is not given.

    A run begins up to ``jitter_s`` later.
    """

    cron: str = ""
    every_s: float | None = None
    jitter_s: float = 0.0
    catch_up: CatchUp = CatchUp.ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a job may work: in any ``spans`` of every day, and on ``days`` (0: Monday).

    Spans are minutes of the local day, (begin, end); past midnight where the end is not behind the
    beginning.
    """

    spans: tuple[tuple[int, int], ...] = ()
    days: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """The outputs of a run, all below ``dest`` of one root, appear together as a generation.

    ``keep``: so many generations stay, with the current one. Tasks, reports and variables name a
    file by its path below ``current``, through which people read it.
    """

    root: str
    dest: str
    keep: int = 2

    @property
    def current(self) -> str:
        return f"{self.dest}/current"

    def path_of(self, path: str) -> str:
        """Return how a path, of ``dest`` or below it, is named."""
        return f"{self.current}{path[len(self.dest) :]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a job file says. ``revision``: digest (hex) of its canonical parsed content."""

    name: str
    revision: str
    groups: tuple[TaskGroup, ...]
    description: str = ""
    priority: Priority = Priority.NORMAL
    timezone: str | None = None
    dest: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    concurrency: int | None = None
    max_total_bytes: int | None = None
    rate: Rate | None = None  # of each of its runs; the operator's hold beside it
    schedule: Schedule | None = None
    window: Window | None = None
    keep: bool = False
    on_remove: OnRemove = OnRemove.DRAIN
    generations: Generations | None = None  # None: each file appears when it is verified
    fail_fast: bool = False  # the first failure of a task that may not fail ends the rest

    @property
    def stays(self) -> bool:
        """Whether the job outlives its runs, and its file stays in the folder."""
        return self.keep or self.schedule is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A job whose file stays, with the revision in force; ``job`` is without its groups.

    ``stamp``: which version of the file that is. ``last_s``: the moment of its schedule that was
    dealt with last; wall clock. ``paused``: no run begins, and one that is on is held.
    ``backlog``: earlier moments that are to have a run, in their order.
    """

    job: Job
    file: str
    stamp: str
    last_s: float
    paused: bool = False
    backlog: tuple[float, ...] = ()
    defaults: bytes = b""  # what stood beside the file for all of its category


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a job. ``scheduled_for_s``: wall clock; what ``${run.date}`` means."""

    id: int
    job: str
    revision: str
    scheduled_for_s: float


# ---------------------------------------------------------------- origins


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginBounds:
    """What an origin is never asked more of; ``by``: the key of the configuration that says so."""

    connections: int
    requests_per_s: float | None = None
    by: str = "limits.connections_per_origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRecord:
    """What is known of an origin, for the next life. Moments are steady wall clock.

    ``gate_s``: for how long it asked to be left alone; ``tries``: pauses of its breaker so far.
    ``samples``, ``rates``: so many the means are of.
    """

    origin: str
    seen_at_s: float
    window: int = 1
    why: str = ""
    gate_until_at_s: float = 0.0
    gate_s: float = 0.0
    gate_why: str = ""
    held_until_at_s: float = 0.0
    tries: int = 0
    ranges: bool | None = None
    retry_after_s: float | None = None
    best: int | None = None
    samples: float = 0.0
    stall_rate: float = 0.0
    rates: float = 0.0
    bytes_per_s: float | None = None


# ---------------------------------------------------------------- tasks


#: With this begins what stands for the path of a file that has no name yet, and no path does.
UNNAMED = "./"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task before it has an id: only what differs from its group.

    ``key`` is stable over edits: the path below the root, or what stood for it until the file was
    named. ``path`` is relative, cleaned, in the surrogate-escaped form of ``os.fsdecode``.
    ``sums``: URLs of one sums file, to be asked in this order; what it says of the file has to hold
    beside ``digests``. ``size_bytes``: what the file has to weigh, None where its item does not
    say. ``problem``: why this item can only fail ("code", "reason"), None for good ones.
    ``skip``: its group's condition is not met by it. ``values``: what its steps use of its
    combination of a matrix or of its item, by bare names.

    The path of a task that fetches nothing begins with ``./`` unless one file of that name is what
    it makes: no destination of a file does.
    """

    key: str
    sources: tuple[str, ...]
    path: str
    digests: tuple[Digest, ...] = ()
    sums: tuple[str, ...] = ()
    size_bytes: int | None = None
    problem: tuple[str, str] | None = None
    skip: bool = False
    values: tuple[tuple[str, str], ...] = ()

    @property
    def fetches(self) -> bool:
        """Whether there is something to fetch; else it begins with its steps, or publication."""
        return self.sources != (HERE,)

    @property
    def unnamed(self) -> bool:
        """Whether only its server can say how its file is called, and has not yet."""
        return self.fetches and self.path.startswith(UNNAMED)

    @property
    def named(self) -> bool:
        """Whether its server has said how its file is called."""
        return self.key != self.path

    @property
    def folder(self) -> str:
        """The folder of its file below the root, "" for the root itself."""
        return self.path.removeprefix(UNNAMED).rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """``group`` is the group's id in the store."""

    id: int
    group: int
    spec: TaskSpec
    history: History

    @property
    def mirrored(self) -> bool:
        """Whether there are several sources to choose from."""
        return len(self.spec.sources) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    r"""Content that was refused, for a person to see why.

    ``url``: the source; ``expected``: what the job asks of the content; ``size_bytes``: as it came,
    or as announced where it did not come to its end; ``digests``: those found in all of it.
    ``start``: its first bytes, those that are not printable ASCII as \xff; "" when none was read.
    ``quarantine``: where the bytes lie, below the root; "" when none was kept.
    """

    url: str
    final_url: str
    expected: tuple[str, ...]
    content_type: str | None = None
    size_bytes: int | None = None
    digests: tuple[Digest, ...] = ()
    start: str = ""
    quarantine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What earlier attempts of a task left for the decision about the next one.

    ``source``: index of the next source; ``tried``: those that were asked before in this round;
    ``round``: rounds over the sources since the last durable progress; ``barred``: sources that
    failed for good; ``mismatched``: sources that served a wrong digest once; ``causes``: last
    failure by source ("code: reason"); ``crashes``: without durable progress since;
    ``crash_bytes``: durable length at the last one; ``dossier``: of the latest content that was
    refused, rather of some whose bytes were kept; ``not_yet``: sources whose last answer was "not
    there yet"; ``not_yet_at_s``: the first of all.
    """

    attempts: int = 0
    source: int = 0
    round: int = 0
    barred: frozenset[int] = frozenset()
    mismatched: frozenset[int] = frozenset()
    causes: tuple[tuple[int, str, str], ...] = ()
    first_failed_at_s: float | None = None  # steady wall clock: it survives a restart
    crashes: int = 0
    crash_bytes: int = 0
    dossier: Dossier | None = None
    not_yet: frozenset[int] = frozenset()
    not_yet_at_s: float | None = None  # steady wall clock
    tried: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """What identifies one version of a resource, as the origin sent it (RFC 9110 §8.8)."""

    etag: str | None = None  # quotes included, may be weak
    last_modified: str | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """The last file that fetchd published at a destination, from the store."""

    url: str
    size_bytes: int
    mtime_ns: int
    inode: int
    verified: Verify
    digests: tuple[Digest, ...]
    validator: Validator


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What the steps of a task have made of its part."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """The publish intent: a verified part and where it goes. Committed before anything is seen.

    ``part`` is the part's name in the hidden folder of its file system; ``device`` and ``inode``
    identify its bytes after a crash. ``mtime_s``: the file's date, from Last-Modified, else of its
    verification; None by an older fetchd. Of a task with steps: ``begun``, they have been;
    ``staged``, they are done, and what they made is published in the part's place.

    Of a task that fetches nothing: ``part`` is "", and ``mtime_s`` says when its turn had come.
    """

    root: str
    path: str
    part: str
    device: int
    inode: int
    size_bytes: int
    verified: Verify
    digests: tuple[Digest, ...]
    clobber: bool
    url: str
    final_url: str
    validator: Validator
    mtime_s: float | None
    resumed_from_bytes: int
    received_bytes: int
    elapsed_s: float
    begun: bool = False
    staged: Staged | None = None

    @property
    def destination(self) -> str:
        """Return a path in the folder that what is made goes to."""
        return self.path.removeprefix("./")


# ---------------------------------------------------------------- attempts and outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A rate that all requests whose share has this name keep to together."""

    name: str
    rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Permission for one try at one stage. ``fence`` is unique: a late settle is recognised."""

    fence: int
    job: Job
    run: Run
    group: TaskGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand(Attempt):
    """Turn the next items of a group into tasks. ``position`` None: from the beginning.

    ``decide``: only find out whether the group's condition holds. ``seen``: fingerprints of the
    files with which the group last succeeded, by the group they come from.
    """

    group_id: int
    position: Position | None
    decide: bool = False
    seen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(Attempt):
    """Fetch and verify one file from one source. ``number`` counts from 1 over the task."""

    task: Task
    number: int
    source: str
    previous: FileRecord | None
    budget_bytes: int | None = None  # what limits.total leaves for this file
    share: Share | None = None  # what limits.rate of the job leaves to its run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Attempt):
    """Take the steps of a task on its verified part, in a fresh staging folder.

    The other fields as in ``Publish``. ``passed_over``: of the end of a run whose outputs appear
    together, the groups whose condition did not hold; of a task that fetches nothing, those of
    them that it needs.
    """

    task: Task
    previous: FileRecord | None = None
    intent: Intent
    recovered: bool = False
    failures: int = 0
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Attempt):
    """Make one verified part visible, or what steps have made of it.

    ``recovered``: the part's bytes may be torn, verify them again.
    ``failures``: so often was it tried before. ``previous``: as in ``Fetch``.
    """

    task: Task
    previous: FileRecord | None = None
    intent: Intent
    recovered: bool = False
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How it stands with the next piece of a group's items, or with what its condition says.

    ``failures``: in a row, that may pass; ``due_at_s``: not before (steady wall clock).
    ``begun``: somebody looks at it; ``crashes``: lives that ended meanwhile, without a batch more.
    """

    failures: int = 0
    due_at_s: float = 0.0
    begun: bool = False
    crashes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a list was read: offset, SHA-256 (hex) of all bytes before it, lines before it.

    Of a matrix, which no bytes stand for, ``lines`` are the tasks that were made of it or left out.
    """

    offset_bytes: int
    prefix_sha256: str
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some tasks of a group, and where the next ones begin (None: that was all).

    ``lines``: of a list, the line where each of the tasks stands.
    """

    specs: tuple[TaskSpec, ...]
    position: Position | None
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """How a file with a wrong digest was mended: by blocks of another source that differed."""

    compared_bytes: int
    replaced_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Whether a group's condition holds; ``seen``: the fingerprints that it was decided by."""

    holds: bool
    seen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A verified part waits to be published. ``home``: as in ``ports.Part``.

    ``ranges``: whether the origin gave the rest of a file when it was asked for, None: it was not.
    """

    intent: Intent
    home: str = ""
    ranges: bool | None = None
    repaired: Repaired | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An answer has told how the task's file is called; nothing of it was kept."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All steps are done; what they made is whole, durable as configured, and not seen yet."""

    staged: Staged


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The file is visible, and durable unless the configuration leaves that to the kernel.

    ``mtime_ns`` and ``inode`` as it stands there; 0 for what steps have made.
    """

    intent: Intent
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpToDate:
    """The file at the destination is what the job asks for; nothing was transferred."""

    size_bytes: int
    verified: Verify
    digests: tuple[Digest, ...]
    how: str  # "digest", "not_modified" or "present"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Not possible now; costs no attempt. ``reason``: a wait reason such as ``disk``.

    ``elsewhere``: another source may be possible, and nothing of this one's is kept. ``home``:
    of the file system, as in ``ports.Part``, where it is one that is full.
    """

    reason: str
    detail: str
    delay_s: float
    elsewhere: bool = False
    home: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The attempt failed; ``code`` is a key of ``errors.CODES``. Goes unchanged everywhere.

    ``progressed``: more bytes are durable in the part than when the attempt began. ``dossier``:
    where it was the content that failed; ``status``: where it was that of the origin's answer.
    ``kept``: of a publication, whose part (or name) is as it was verified and may be tried again.
    ``origin``: whose failure it is, "": that of the attempt's source.
    """

    code: str
    reason: str
    transient: bool
    retry_after_s: float | None = None
    progressed: bool = False
    dossier: Dossier | None = None
    status: int | None = None
    kept: bool = False
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The attempt was not wanted any more (cancel or stop); the part is as its journal says."""


Outcome = (
    Expanded
    | Decided
    | Fetched
    | Named
    | Finished
    | Published
    | UpToDate
    | Deferred
    | Failure
    | Interrupted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``received_bytes`` of this attempt so far, of ``total_bytes`` (None: unknown).

    ``have_bytes``: the length of the part. ``verifying``: a prefix or file is being hashed.
    ``wish``: an origin whose answer asks to be left alone, and for how many seconds; told once.
    ``step``: which is being taken; the bytes are then those that it has read and written.
    """

    received_bytes: int = 0
    have_bytes: int = 0
    total_bytes: int | None = None
    verifying: bool = False
    wish: tuple[str, float] | None = None
    step: str = ""


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Accept a job. ``raw``: the file's bytes as dropped, kept with the job (empty for lists).

    ``stamp``: which version of the file it is, of one that may stay in the folder.
    ``defaults``: what stood beside the file for all of its category.
    ``scheduled_for_s``: of a kept job: begin the run that is due for this moment (wall clock).
    """

    job: Job
    raw: bytes
    file: str  # the job file's name in the drop folder, "" where there is none
    stamp: str = ""
    scheduled_for_s: float | None = None
    defaults: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try the failed and skipped tasks of the job's last run again."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """End a kept job: its file is gone. What becomes of a run that is on, the job says."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Hold the run of a job that is on, and let none of a kept job begin."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Make a run for each moment of a job's schedule on these days and those between.

    Days as 2026-11-27, in the zone of the schedule.
    """

    job: str
    first: str
    last: str


Command = Submit | Cancel | Retry | Remove | Pause | Resume | Backfill


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``done`` False: nothing was changed, ``reason`` says why; ``later``: asking again may help.

    ``repeated``: the run exists already and its job file has not been filed yet, as after a
    crash between acceptance and the file's move. ``stays``: the file belongs to a kept job; an
    edit of it that was put off is to be asked for again, with the same command, after ``again_s``.
    """

    done: bool
    reason: str = ""
    run: int | None = None
    later: bool = False
    repeated: bool = False
    stays: bool = False
    again_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A run that is due, of a kept job with this revision in force."""

    job: str
    revision: str
    file: str
    scheduled_for_s: float
    defaults: bytes = b""


# ---------------------------------------------------------------- the read model


class RunState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in {RunState.QUEUED, RunState.RUNNING, RunState.PAUSED}


class TaskState(enum.StrEnum):
    """``blocked`` and ``waiting`` are shown, not stored: they follow from needs and not-before."""

    READY = "ready"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in {
            TaskState.SUCCEEDED,
            TaskState.FAILED,
            TaskState.SKIPPED,
            TaskState.CANCELLED,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """Tasks of a run by state; ``ready`` includes blocked and waiting ones."""

    ready: int = 0
    running: int = 0
    publishing: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0

    @property
    def open(self) -> int:
        return self.ready + self.running + self.publishing

    @property
    def total(self) -> int:
        return self.open + self.succeeded + self.failed + self.skipped + self.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run as reports and tables show it. Stamps are wall clock seconds."""

    id: int
    job: str
    revision: str
    file: str
    state: RunState
    accepted_at_s: float
    started_at_s: float | None
    finished_at_s: float | None
    tasks: TaskCounts
    bytes: int
    list_open: bool = False  # tasks are still being read from a list
    filed: bool = False  # the drop folder shows how it ended
    waiting: Mapping[str, int] = field(default_factory=dict)
    next_due_at_s: float | None = None
    scheduled_for_s: float | None = None  # the moment that it is due for


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptView:
    """A kept job; ``next_s``: when it is due next, wall clock, None: it has no schedule.

    ``backlog``: runs that are to be made for earlier moments.
    """

    job: str
    file: str
    revision: str
    next_s: float | None
    paused: bool = False
    backlog: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferView:
    """One attempt under way, at a file or at the steps behind it."""

    job: str
    run: int
    path: str
    url: str
    attempt: int
    elapsed_s: float
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One task as the files report shows it; ``attempts`` made so far, ``outcome`` by state."""

    task: int
    group: str
    path: str
    state: TaskState
    detail: str  # downloaded, resumed, up_to_date; or the reason code
    reason: str
    url: str
    final_url: str
    size_bytes: int | None
    verified: Verify | None
    digests: tuple[Digest, ...]
    validator: Validator | None
    attempts: int
    resumed_from_bytes: int
    elapsed_s: float | None
    causes: tuple[tuple[int, str, str], ...] = ()
    dossier: Dossier | None = None
    staged: Staged | None = None  # what steps made of it, in its place


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginView:
    """What holds for an origin now, why, and what was learned of it. Stamps are wall clock.

    ``connections`` at a time, of which ``out`` are in use, at most ``most_connections`` as
    ``bound_by`` says; ``window_reason``: why they are fewer. ``shut_until_s``: nothing is asked of
    it before, None: it is open. ``breaker``: closed, open, half_open. ``failures``: tasks that
    failed in a row for its fault, or pauses of the open breaker. ``bytes_per_s``: a file's, by all
    of its connections.
    """

    origin: str
    connections: int
    most_connections: int
    bound_by: str
    window_reason: str
    requests_per_s: float | None
    out: int
    breaker: str
    failures: int
    shut_until_s: float | None
    shut_reason: str
    ranges: bool | None
    retry_after_s: float | None
    best_connections: int | None
    stall_rate: float
    bytes_per_s: float | None
    seen_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The one read model of what goes on now: status file, tables, folder.

    ``left_out``: open runs that there are besides. ``origins``: the shut ones first. ``kept``: in
    the order in which they are due.
    """

    runs: tuple[RunView, ...]
    transfers: tuple[TransferView, ...]
    left_out: int = 0
    origins: tuple[OriginView, ...] = ()
    kept: tuple[KeptView, ...] = ()
