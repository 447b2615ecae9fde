"""Steps on a real disk: a part is verified, its steps are taken, what they make is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fetchd.clock import Clock, Failpoints
from fetchd.cores import Cores
from fetchd.disk import DownloadDisk, RootSpec, build
from fetchd.events import Event
from fetchd.expand import lookup_of
from fetchd.jobfile.complaints import Complaints
from fetchd.jobfile.steps import read_steps
from fetchd.model import (
    Attempt,
    Failure,
    Finish,
    Finished,
    History,
    IfExists,
    Intent,
    Item,
    Job,
    Outcome,
    Progress,
    Publish,
    Published,
    Rules,
    Run,
    StepSpec,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)
from fetchd.steps import STEPS, Finisher, Kind
from harness import ONE_CORE, FakeClock

RUN = Run(id=1, job="j", revision="r", scheduled_for_s=0.0)


def steps_of(*entries: object) -> tuple[StepSpec, ...]:
    """Return steps as a job file writes them."""
    complaints = Complaints("job.yaml")
    steps = read_steps(list(entries), ("steps",), complaints)
    complaints.raise_any()
    return steps


class Workshop:
    """Takes steps below ``folder`` as a finisher and the publisher would, on this thread."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        steps: Mapping[str, Kind] = STEPS,
        wanted: Callable[[], bool] = lambda: True,
        cores: Cores = ONE_CORE,
        **root: Any,
    ) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.told: list[Progress] = []
        self.clock = clock or FakeClock()
        self.disk: DownloadDisk = build({"default": RootSpec(path=str(folder), **root)})
        self._wanted = wanted
        self.finisher = Finisher(
            steps,
            self.disk,
            self._report,
            self.events.append,
            self.clock,
            Failpoints(),
            lookup_of,
            lambda attempt: (),
            cores,
        )

    def _report(self, attempt: Attempt, progress: Progress) -> bool:
        self.told.append(progress)
        return self._wanted()

    def verified(
        self,
        path: str,
        data: bytes,
        steps: Sequence[StepSpec],
        *,
        if_exists: IfExists = IfExists.UPDATE,
    ) -> Finish:
        """Write a part; return the attempt to take these steps on it."""
        with self.disk.open_part("default", path) as part:
            part.write(memoryview(data))
            device, inode = part.identity()
            name = part.name
        group = TaskGroup(
            name="g",
            items=(Item(url="http://h/a"),),
            rules=Rules(if_exists=if_exists),
            steps=tuple(steps),
        )
        spec = TaskSpec(key=path, path=path, sources=("http://h/a",))
        return Finish(
            fence=1,
            job=Job(name="j", revision="r", groups=(group,)),
            run=RUN,
            group=group,
            task=Task(id=1, group=1, spec=spec, history=History()),
            intent=Intent(
                root="default",
                path=path,
                part=name,
                device=device,
                inode=inode,
                size_bytes=len(data),
                verified=Verify.LENGTH,
                digests=(),
                clobber=if_exists is not IfExists.FAIL,
                url="http://h/a",
                final_url="http://h/a",
                validator=Validator(),
                mtime_s=1_700_000_000.0,
                resumed_from_bytes=0,
                received_bytes=len(data),
                elapsed_s=1.0,
                begun=True,
            ),
        )

    def finish(self, path: str, data: bytes, *entries: object, **rules: Any) -> Outcome:
        """Take steps on a file, publish what they make; Published, or how it failed."""
        attempt = self.verified(path, data, steps_of(*entries), **rules)
        outcome = self.finisher(attempt)
        if not isinstance(outcome, Finished):
            return outcome
        publication = Publish(
            fence=2,
            job=attempt.job,
            run=attempt.run,
            group=attempt.group,
            task=attempt.task,
            intent=replace(attempt.intent, staged=outcome.staged),
        )
        ((_, published),) = self.disk.publish([publication])
        return published

    def make(self, path: str, data: bytes, *entries: object, **rules: Any) -> dict[str, bytes]:
        """Return all that is seen after that; it must be published."""
        outcome = self.finish(path, data, *entries, **rules)
        assert isinstance(outcome, Published), outcome
        assert self.left() == []
        return self.seen()

    def refuse(self, path: str, data: bytes, *entries: object, **rules: Any) -> Failure:
        """Return why it failed; nothing may be seen, or be left but the part."""
        before = self.seen()
        outcome = self.finish(path, data, *entries, **rules)
        assert isinstance(outcome, Failure), outcome
        assert self.seen() == before
        assert [name for name in self.left() if not name.startswith("parts/")] == []
        return outcome

    def seen(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".fetchd" not in path.parts
        }

    def left(self) -> list[str]:
        """Return what lies in the hidden folder, but for the records of what was made."""
        inner = self.folder / ".fetchd"
        found = (path.relative_to(inner) for path in inner.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] != "made")

    def close(self) -> None:
        self.disk.close()
