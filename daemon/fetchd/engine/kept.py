"""The jobs that outlive their runs: which there are, and which of them is due.

Nothing here is thread-safe; the engine's lock guards it all.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from fetchd.clock import Random
from fetchd.engine import schedule
from fetchd.model import Due, Kept, KeptView, Submit


@dataclass(slots=True)
class _Standing:
    """``look_s``: nothing is due before, if the wall clock has not gone back behind ``looked_s``.

    ``delay_s``: drawn for the next run. ``next_s``: when that is due, or was. ``counted``: as for
    ``schedule.decide``; to count takes up to a second.
    """

    kept: Kept
    delay_s: float
    looked_s: float = math.inf
    look_s: float = math.inf
    next_s: float = math.inf
    counted: bool = False


class KeptJobs:
    """All moments are of the wall clock: schedules follow it, however it is set."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._jobs: dict[str, _Standing] = {}

    def get(self, job: str) -> Kept | None:
        standing = self._jobs.get(job)
        return None if standing is None else standing.kept

    def put(self, kept: Kept) -> None:
        """Take in a job, another revision of it, or what was dealt with."""
        which = kept.job.schedule
        delay_s = self._random.uniform(0.0, which.jitter_s) if which and which.jitter_s else 0.0
        before = self._jobs.get(kept.job.name)
        counted = before is not None and before.counted and before.kept.job == kept.job
        self._jobs[kept.job.name] = _Standing(kept, delay_s, counted=counted)

    def forget(self, job: str) -> None:
        self._jobs.pop(job, None)

    def files(self) -> Mapping[str, str]:
        return {standing.kept.file: name for name, standing in self._jobs.items()}

    def due(self, now_s: float, on: Container[str]) -> list[Due]:
        """Return what is due, but for jobs with a run that is ``on``."""
        found = []
        for name, standing in self._jobs.items():
            if standing.kept.paused or name in on:
                continue
            run_s = self._due(standing, now_s)
            if run_s is None and standing.kept.backlog:
                run_s = standing.kept.backlog[0]
            if run_s is not None:
                kept = standing.kept
                found.append(
                    Due(
                        job=name,
                        revision=kept.job.revision,
                        file=kept.file,
                        scheduled_for_s=run_s,
                        defaults=kept.defaults,
                    )
                )
        return found

    def _due(self, standing: _Standing, now_s: float) -> float | None:
        job = standing.kept.job
        if job.schedule is None or standing.looked_s <= now_s < standing.look_s:
            return None
        verdict = schedule.decide(
            job.schedule,
            job.timezone,
            last_s=standing.kept.last_s,
            now_s=now_s,
            delay_s=standing.delay_s,
            counted=standing.counted,
        )
        standing.counted = verdict.run_s is not None
        standing.kept = replace(standing.kept, last_s=verdict.last_s)
        standing.looked_s, standing.look_s = now_s, verdict.look_s
        standing.next_s = verdict.look_s if verdict.run_s is None else verdict.run_s
        return verdict.run_s

    def views(self, now_s: float) -> tuple[KeptView, ...]:
        found = []
        for name, standing in self._jobs.items():
            if not standing.looked_s <= now_s or standing.next_s > now_s:
                self._due(standing, now_s)  # of one that waits for its turn all is known
            kept = standing.kept
            found.append(
                KeptView(
                    job=name,
                    file=kept.file,
                    revision=kept.job.revision,
                    next_s=None if kept.job.schedule is None else standing.next_s,
                    paused=kept.paused,
                    backlog=len(kept.backlog),
                )
            )
        return tuple(sorted(found, key=lambda view: (view.next_s or math.inf, view.job)))


def revised(kept: Kept | None, command: Submit, now_s: float) -> Kept:
    """Return what is kept of a submitted job; a schedule that is new begins now."""
    job, last_s = replace(command.job, groups=()), now_s
    if job.schedule is not None:
        last_s = schedule.first_last_s(job.schedule, now_s)
        if kept is not None:
            before = kept.job
            same = (before.schedule, before.timezone) == (job.schedule, job.timezone)
            if same or (job.schedule.every_s is not None and before.schedule is not None):
                last_s = kept.last_s
    return Kept(
        job=job,
        file=command.file,
        stamp=command.stamp,
        last_s=last_s,
        paused=kept is not None and kept.paused,
        backlog=kept.backlog if kept is not None and job.schedule is not None else (),
        defaults=command.defaults,
    )


def dealt_with(kept: Kept, moment_s: float) -> Kept:
    """Return what is kept of a job once a run for the moment is made, or left out."""
    if moment_s in kept.backlog:
        return replace(kept, backlog=tuple(at_s for at_s in kept.backlog if at_s != moment_s))
    return replace(kept, last_s=moment_s)
