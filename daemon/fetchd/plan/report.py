"""The nouns of a plan. The names of the fields are public interface (docs/plan.md)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Verdict(enum.StrEnum):
    """What would become of a task."""

    FETCH = "fetch"
    UP_TO_DATE = "up_to_date"
    FAIL = "fail"
    WAIT = "wait"  # the file is not there yet, and the job waits for it
    UNKNOWN = "unknown"  # nobody could be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """An answer on the way to a file. ``withheld``: something for an earlier origin alone was."""

    url: str
    status: int
    withheld: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one source of a file has answered.

    ``asked`` False: it was not, ``reason`` says why; a ``code`` besides says why it would fail.
    ``size_bytes``, ``ranges`` None: it does not tell. ``validator``: "strong" proves that bytes are
    of one version, so that a cut transfer is resumed; "weak" does not; "none" is there.
    """

    url: str
    asked: bool
    status: int | None = None
    size_bytes: int | None = None
    ranges: bool | None = None
    validator: str | None = None
    content_type: str | None = None
    unchanged: bool = False  # it says that the file that stands is the current one
    hops: tuple[Hop, ...] = ()  # redirects, in order; the last answer is the status
    code: str = ""
    reason: str = ""
    transient: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsFile:
    """The sums file of a task. ``found``: it has a line for the file; ``reason``: why not."""

    url: str
    found: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What has the destination already. ``reason``: what is known of it, or why nothing is."""

    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """One task. ``size_bytes``: of the file, None where nobody tells.

    ``held_bytes`` of it lie in a part already. ``code`` and ``reason``: of the verdict.
    """

    task: str  # the name of its group
    root: str
    path: str
    verdict: Verdict
    code: str = ""
    reason: str = ""
    may_fail: bool = False
    size_bytes: int | None = None
    held_bytes: int = 0
    checksums: tuple[str, ...] = ()
    sums: SumsFile | None = None
    standing: Standing | None = None
    sources: tuple[Source, ...] = ()
    sources_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """One entry of ``tasks`` in the job file. ``files`` None: not known before the run.

    ``condition``: "", or what is known of it; ``note``: where its items come from.
    """

    task: str
    needs: tuple[str, ...]
    files: int | None
    steps: tuple[str, ...]
    condition: str = ""
    note: str = ""
    failed: str = ""  # why nothing of it could be done


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """``files``: all that are known; ``asked`` of them stand in ``tasks``, ``left_out`` do not.

    ``bytes``: to be transferred, as far as sizes are known; ``unsized``: files whose are not.
    """

    files: int
    asked: int
    left_out: int
    skipped: int
    bad_items: int
    verdicts: Mapping[str, int]
    bytes: int
    unsized: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """A file system. ``fits``: it keeps the reserve free, as far as sizes are known."""

    folder: str
    roots: tuple[str, ...]
    free_bytes: int
    reserve_bytes: int
    needed_bytes: int
    unsized: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePlan:
    """How long the known bytes take. None: there is nothing to reckon it from.

    ``by``: what it was reckoned from, each in a line.
    """

    least_s: float | None
    most_s: float | None
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Wall clock. ``due_s`` None: when it is dropped; ``opens_s`` None: its window is open then."""

    due_s: float | None
    jitter_s: float
    opens_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``problems``: what is wrong beside single tasks; those of bad items are the first of them."""

    job: str
    ok: bool
    tasks: tuple[TaskPlan, ...]
    groups: tuple[GroupPlan, ...]
    problems: tuple[str, ...]
    totals: Totals
    disks: tuple[DiskPlan, ...]
    time: TimePlan
    when: When
    credentials: Mapping[str, list[str]] = field(default_factory=dict)  # names, by origin
    state: str = ""  # why nothing is known of earlier runs, "" where it is
