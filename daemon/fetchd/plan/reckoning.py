"""What single answers add up to: room on each file system, time, and when it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fetchd.disk.looking import Room
from fetchd.engine.schedule import first_last_s, moments
from fetchd.engine.windows import is_open, opens_s
from fetchd.model import Job, OriginBounds
from fetchd.plan.report import DiskPlan, TaskPlan, TimePlan, Verdict, When
from fetchd.rates import Rate, format_rate
from fetchd.units import format_duration
from fetchd.urls import origin_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator allows. ``origin_rates``: by origin; ``of``: those of one origin."""

    of: Callable[[str], OriginBounds]
    rate: Rate | None = None
    origin_rates: Mapping[str, Rate] = field(default_factory=dict)
    reserve_bytes: int = 0


@dataclass(slots=True)
class _Disk:
    folder: str
    free_bytes: int
    roots: set[str] = field(default_factory=set)
    needed_bytes: int = 0
    unsized: int = 0


class Disks:
    """The room that files need, by file system. ``room_of``: what there is, by root and path."""

    def __init__(self, room_of: Callable[[str, str], Room]) -> None:
        self._room_of = room_of
        self._disks: dict[int, _Disk] = {}

    def add(self, root: str, path: str, size_bytes: int | None) -> None:
        """Count a file, or what is missing of it; raises AttemptError."""
        room = self._room_of(root, path)
        disk = self._disks.setdefault(room.device, _Disk(room.folder, room.free_bytes))
        disk.roots.add(root)
        disk.needed_bytes += size_bytes or 0
        disk.unsized += size_bytes is None

    def plans(self, reserve_bytes: int) -> tuple[DiskPlan, ...]:
        return tuple(
            DiskPlan(
                folder=disk.folder,
                roots=tuple(sorted(disk.roots)),
                free_bytes=disk.free_bytes,
                reserve_bytes=reserve_bytes,
                needed_bytes=disk.needed_bytes,
                unsized=disk.unsized,
                fits=disk.needed_bytes <= max(0, disk.free_bytes - reserve_bytes),
            )
            for disk in self._disks.values()
        )


@dataclass(slots=True)
class _Load:
    files: int = 0
    bytes: int = 0


def time_of(
    tasks: Iterable[TaskPlan],
    bounds: Bounds,
    job: Job,
    speed_of: Callable[[str], float | None],
    now_s: float,
    *,
    unsized: int,
) -> TimePlan:
    """Reckon how long known bytes take. ``speed_of``: what an origin gave one file, on average.

    ``unsized``: files of whose size nothing is known; where no size is, nothing is reckoned.

    At least: as many files at a time as an origin may be asked for, each as fast as one was. At
    most: one after the other. Origins work side by side; each file comes from its first good
    source; the rates of this moment hold. A speed that was never seen is not made up.
    """
    loads: dict[str, _Load] = {}
    for task in tasks:
        if task.verdict is not Verdict.FETCH:
            continue
        source = next((one for one in task.sources if one.asked and not one.code), None)
        if source is not None:
            load = loads.setdefault(origin_of(source.url), _Load())
            load.files += 1
            load.bytes += max(0, (task.size_bytes or 0) - task.held_bytes)
    least: list[float] = []
    most: list[float | None] = []
    by: list[str] = []
    for origin, load in sorted(loads.items()):
        rate = bounds.origin_rates.get(origin)
        slowest = [*_at_rate(rate, load.bytes, now_s, f"the rate of {origin}", by)]
        per_s = bounds.of(origin).requests_per_s
        if per_s is not None:
            slowest.append(max(0, load.files - 1) / per_s)
            by.append(f"one request every {format_duration(1 / per_s)} to {origin}")
        speed = speed_of(origin) if load.bytes else None
        if speed:
            at_once = min(load.files, bounds.of(origin).connections, job.concurrency or load.files)
            least.append(max(load.bytes / (speed * at_once), *slowest, 0.0))
            most.append(max(load.bytes / speed, *slowest, 0.0))
            by.append(f"{format_rate(round(speed))} a file from {origin}, as learned")
        else:
            least += slowest
            most.append(None if load.bytes else max(slowest, default=0.0))
            if load.bytes:
                by.append(f"the speed of {origin} is unknown")
    total_bytes = sum(load.bytes for load in loads.values())
    if unsized and not total_bytes:
        return TimePlan(least_s=None, most_s=None, by=("no size is known",))
    rates = {"limits.rate of the configuration": bounds.rate, "limits.rate of the job": job.rate}
    over_all = [
        s for name, rate in rates.items() for s in _at_rate(rate, total_bytes, now_s, name, by)
    ]
    known = [one for one in most if one is not None]
    certain = len(known) == len(most)
    return TimePlan(
        least_s=max([*least, *over_all], default=None) if loads else 0.0,
        most_s=max([*known, *over_all], default=0.0) if certain else None,
        by=tuple(by),
    )


def when(job: Job, last_s: float | None, now_s: float) -> When:
    """Return when the job is due and may work. ``last_s``: the moment that was dealt with last."""
    due_s, jitter_s = None, 0.0
    if job.schedule is not None:
        jitter_s = job.schedule.jitter_s
        if last_s is None:
            last_s = first_last_s(job.schedule, now_s)
        due_s = next(moments(job.schedule, job.timezone, last_s))
    begin_s = max(now_s, due_s or now_s)
    window_s = None
    if job.window is not None and not is_open(job.window, job.timezone, begin_s):
        window_s = opens_s(job.window, job.timezone, begin_s)
    return When(due_s=due_s, jitter_s=jitter_s, opens_s=window_s)


def _at_rate(
    rate: Rate | None, size_bytes: int, now_s: float, name: str, by: list[str]
) -> Sequence[float]:
    bytes_per_s = None if rate is None else rate.at(now_s)
    if bytes_per_s is None:
        return ()
    by.append(f"{format_rate(bytes_per_s)} by {name}")
    return (size_bytes / bytes_per_s,)
