"""The end of a run whose outputs appear together: they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fetchd import events
from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted, let_go
from fetchd.model import (
    Attempt,
    Failure,
    FileView,
    Finish,
    Finished,
    Interrupted,
    Outcome,
    Progress,
    Staged,
)
from fetchd.ports import Disk

_REPORT_S = 0.25
_NOTHING = Staged(files=0, bytes=0)


class RunPublisher:
    """Works on the one task of that; any number of threads.

    ``files`` gives the tasks of a run; ``report`` is ``WorkSource.report``.
    """

    def __init__(
        self,
        disk: Disk,
        files: Callable[[int], Iterator[FileView]],
        report: Callable[[Attempt, Progress], bool],
        tell: events.Tell,
        clock: Clock,
    ) -> None:
        self._disk = disk
        self._files = files
        self._report = report
        self._tell = tell
        self._clock = clock

    def __call__(self, attempt: Finish) -> Outcome:
        """Carry it out; whatever fails may be tried again."""
        job, run = attempt.job, attempt.run
        assert job.generations is not None
        try:
            completed = self._disk.change_over(
                job, run, self._files(run.id), attempt.passed_over, self._ticker(attempt)
            )
        except NotWanted as exc:
            let_go(exc)
            return Interrupted()
        except AttemptError as exc:
            let_go(exc)
            return Failure(code=exc.code, reason=exc.reason, transient=exc.transient, kept=True)
        self._tell(
            events.RunPublished(
                job=job.name,
                run=run.id,
                root=job.generations.root,
                path=job.generations.current,
                removed=completed.removed,
                left=completed.left,
            )
        )
        return Finished(staged=_NOTHING)

    def _ticker(self, attempt: Finish) -> Callable[[], None]:
        next_s = self._clock.monotonic()

        def tick() -> None:
            nonlocal next_s
            if (now_s := self._clock.monotonic()) >= next_s:
                next_s = now_s + _REPORT_S
                if not self._report(attempt, Progress(step="publish")):
                    raise NotWanted

        return tick
