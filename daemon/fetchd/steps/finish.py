"""Stage finish: the steps of one task, one after the other, each bounded in time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from fetchd import events
from fetchd.clock import Clock, Failpoints
from fetchd.cores import Cores
from fetchd.errors import AttemptError, NotWanted, ValueProblem, let_go
from fetchd.model import (
    Attempt,
    Failure,
    Finish,
    Finished,
    Interrupted,
    Outcome,
    Progress,
    Staged,
    StepSpec,
    UpToDate,
    Verify,
)
from fetchd.ports import Bench, Disk, GivenFile, PartBusy, Staging
from fetchd.secrets import hide
from fetchd.steps.kind import Kind, Option
from fetchd.variables import render

_REPORT_S = 0.25


class Finisher:
    """Works on attempts of stage finish; any number of threads.

    ``report`` is ``WorkSource.report``.
    """

    def __init__(
        self,
        steps: Mapping[str, Kind],
        disk: Disk,
        report: Callable[[Attempt, Progress], bool],
        tell: events.Tell,
        clock: Clock,
        failpoints: Failpoints,
        lookup: Callable[[Finish], Callable[[str], str]],
        given: Callable[[Finish], Iterable[GivenFile]],
        cores: Cores,
    ) -> None:
        """``lookup``: what the names in ``${...}`` mean for a task; raises ValueProblem.

        ``given``: what a task begins with that fetches nothing.
        """
        self._lookup = lookup
        self._given = given
        self._cores = cores
        self._steps = steps
        self._disk = disk
        self._report = report
        self._tell = tell
        self._clock = clock
        self._failpoints = failpoints

    def __call__(self, attempt: Finish) -> Outcome:
        """Carry one attempt out. Exceptions that are not the attempt's own pass up."""
        kept = not attempt.task.spec.fetches  # to fetch it again would be of no help
        # Unpacking needs no interpreter, and a program is to have what the machine has.
        self._cores.spread()
        try:
            with self._stage(attempt) as staging:
                kept = True  # the part is as it was verified, whatever the steps meet
                if staging is not None and staging.stands:
                    self._disk.keep(attempt)
                    return UpToDate(size_bytes=0, verified=Verify.NONE, digests=(), how="present")
                return Finished(staged=self._finish(attempt, staging))
        except NotWanted as exc:
            let_go(exc)
            return Interrupted()
        except PartBusy as exc:
            let_go(exc)
            return Failure(code="disk_error", reason=str(exc), transient=True, kept=True)
        except AttemptError as exc:
            let_go(exc)
            return Failure(
                code=exc.code, reason=hide(exc.reason), transient=exc.transient, kept=kept
            )
        finally:
            self._cores.gather()

    def _stage(self, attempt: Finish) -> AbstractContextManager[Staging | None]:
        if attempt.group.end is not None:
            return self._disk.stage_end(attempt)
        if attempt.task.spec.fetches:
            return self._disk.stage(attempt)
        watch = _Watch(attempt, "", None, self._clock, self._report)
        given = partial(self._given, attempt)
        return self._disk.gather(attempt, given, self._said(attempt), watch.tick)

    def _said(self, attempt: Finish) -> str:
        """Return what tells the steps of a task, as they would be taken now, from others."""
        said = []
        for step in attempt.group.steps:
            options = dict(step.options)
            if (kind := self._steps.get(step.name)) is not None:
                self._put_in(attempt, kind, step, options)
            said.append([step.name, options])
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _finish(self, attempt: Finish, staging: Staging | None) -> Staged:
        if staging is None:
            assert attempt.intent.staged is not None
            return attempt.intent.staged
        begun: list[str] = []
        try:
            for number, step in enumerate(attempt.group.steps, 1):
                if number <= staging.taken:
                    continue
                self._take(attempt, staging, number, step, begun)
                self._failpoints.pass_by("finish.step_taken")
            watch = _Watch(attempt, "", None, self._clock, self._report)
            staged = staging.seal(watch.tick)
        except Exception as exc:
            certain = isinstance(exc, AttemptError) and exc.code == "command_failed"
            if not begun or certain:
                raise
            why = "it was stopped" if isinstance(exc, NotWanted) else f"not all went well ({exc})"
            raise AttemptError(
                "needs_attention",
                f"{begun[0]} may not be taken twice, and {why}; see what it has done, and let the "
                "task be tried again if that is right",
            ) from exc
        self._failpoints.pass_by("finish.sealed")
        return staged

    def _take(
        self,
        attempt: Finish,
        staging: Staging,
        number: int,
        step: StepSpec,
        begun: list[str],
    ) -> None:
        """Take one step; it is added to ``begun`` once it has done what may not be done twice."""
        about: dict[str, Any] = {
            "job": attempt.job.name,
            "run": attempt.run.id,
            "task": attempt.task.id,
            "path": attempt.task.spec.path,
            "url": attempt.intent.url,
            "step": step.name,
            "number": number,
        }
        kind = self._steps.get(step.name)
        if kind is None:
            raise AttemptError(
                "step_failed", f"this fetchd has no step {step.name!r}; install the newer one again"
            )
        options = self._options(attempt, kind, step)
        self._tell(events.StepStarted(**about))
        began_s = self._clock.monotonic()
        watch = _Watch(attempt, step.name, step.timeout_s, self._clock, self._report)
        with staging.bench(watch.tick) as bench:
            watch.bench = bench
            watch.tick()
            self._failpoints.pass_by("finish.step_begun")
            try:
                kind.work(bench, options)
            except FileExistsError as exc:
                raise AttemptError("step_failed", f"{step.name}: a name is taken twice") from exc
            except AttemptError as exc:
                reason = f"{step.name}: {exc.reason}"
                raise AttemptError(exc.code, reason, transient=exc.transient) from exc
            finally:
                begun += [step.name] if bench.begun else []
            done = events.StepDone(
                **about,
                read_bytes=bench.read_bytes,
                written_bytes=bench.written_bytes,
                elapsed_s=self._clock.monotonic() - began_s,
            )
        self._tell(done)

    def _options(self, attempt: Finish, kind: Kind, step: StepSpec) -> dict[str, Any]:
        """Return the options with all variables put in."""
        options = kind.prepare(step.options, attempt)
        self._put_in(attempt, kind, step, options)
        return options

    def _put_in(self, attempt: Finish, kind: Kind, step: StepSpec, options: dict[str, Any]) -> None:
        varying = [key for key, option in kind.options.items() if option.varies]
        varying += [key for key in options if key not in kind.options]
        look = self._lookup(attempt)
        try:
            for key in varying:
                options[key] = _put_in(options[key], look, kind.options.get(key))
        except ValueProblem as exc:
            raise AttemptError("step_failed", f"{step.name}: {key}: {exc}") from None


def _put_in(value: Any, look: Callable[[str], str], option: Option | None) -> Any:
    """Return the value of an option with all variables put in; raises ValueProblem."""
    if isinstance(value, str):
        made: object = render(value, look)
    elif isinstance(value, list):
        made = [render(text, look) for text in value]
    else:
        return value
    # What it was before has been judged, but not what its variables have made of it.
    return made if made == value or option is None else option.read(made)


class _Watch:
    """The time that a step has used, and what is told of its way."""

    def __init__(
        self,
        attempt: Finish,
        step: str,
        timeout_s: float | None,
        clock: Clock,
        report: Callable[[Attempt, Progress], bool],
    ) -> None:
        self.bench: Bench | None = None
        self._attempt = attempt
        self._step = step
        self._timeout_s = timeout_s
        self._clock = clock
        self._report = report
        self._began_s = clock.monotonic()
        self._next_s = self._began_s  # no look before this: ticks are many

    def tick(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _REPORT_S
        if self._timeout_s is not None and now_s - self._began_s > self._timeout_s:
            raise AttemptError(
                "step_timeout", f"it took longer than {self._timeout_s:g} s (its `timeout`)"
            )
        bench = self.bench
        progress = Progress(
            received_bytes=bench.read_bytes if bench else 0,
            have_bytes=bench.written_bytes if bench else 0,
            step=self._step,
        )
        if not self._report(self._attempt, progress):
            raise NotWanted
