"""One attempt at a time over real sockets to a real disk, and its publication; no engine."""

from __future__ import annotations

from pathlib import Path

from fetchd.clock import Failpoints, SystemClock
from fetchd.disk import RootSpec, build
from fetchd.model import (
    Attempt,
    Failure,
    Fetch,
    Fetched,
    FileRecord,
    History,
    Item,
    Job,
    Outcome,
    Publish,
    Published,
    Rules,
    Run,
    Task,
    TaskGroup,
    TaskSpec,
    Timeouts,
)
from fetchd.ports import Loans
from fetchd.transfer import Transfer
from fetchd.transports import build as build_transports
from harness import ONE_CORE


class Bank:
    """Lends every attempt as many connections as it likes (``ports.Loans``)."""

    def lend(self, attempt: Attempt) -> bool:
        return True

    def recalled(self, attempt: Attempt) -> bool:
        return False

    def ask(self, attempt: Attempt) -> bool:
        return True

    def left_alone_s(self, origin: str) -> float:
        return 0.0

    def connection_failed(self, attempt: Attempt, failure: Failure, asked_s: float) -> None:
        pass

    def give_back(self, attempt: Attempt) -> None:
        pass


class Downloader:
    """Publishes below ``folder``; connects to this machine only. One thread."""

    def __init__(self, folder: Path, loans: Loans | None = None) -> None:
        self.folder = folder
        self.disk = build({"default": RootSpec(path=str(folder))})
        clock = SystemClock()
        self.transports = build_transports(
            ["loopback"], proxy=None, ca=None, redirects=2, workers=2, clock=clock
        )
        self._transfer = Transfer(
            self.disk, self.transports, lambda *_: True, clock, Failpoints(), ONE_CORE, loans
        )

    def fetch(self, attempt: Fetch) -> Outcome:
        return self._transfer(attempt)

    def publish(self, attempt: Fetch, fetched: Fetched) -> tuple[Path, FileRecord]:
        """Return the visible file and what the store would know of it."""
        publish = Publish(
            fence=attempt.fence,
            job=attempt.job,
            run=attempt.run,
            group=attempt.group,
            task=attempt.task,
            intent=fetched.intent,
        )
        ((_, published),) = self.disk.publish([publish])
        assert isinstance(published, Published), published
        intent = fetched.intent
        record = FileRecord(
            url=intent.url,
            size_bytes=intent.size_bytes,
            mtime_ns=published.mtime_ns,
            inode=published.inode,
            verified=intent.verified,
            digests=intent.digests,
            validator=intent.validator,
        )
        return self.folder / intent.path, record

    def close(self) -> None:
        self.transports.close()
        self.disk.close()


def attempt_at(
    *sources: str, path: str, digests=(), history: History | None = None, previous=None, **rules
) -> Fetch:
    """Return an attempt at the source that ``history`` names; ``rules`` as in the job."""
    history = history or History()
    usual = {"timeouts": Timeouts(connect_s=20.0, stall_s=20.0)}
    group = TaskGroup(name="g", items=(Item(url="x"),), rules=Rules(**(usual | rules)))
    spec = TaskSpec(key=path, sources=sources, path=path, digests=digests)
    return Fetch(
        fence=history.attempts + 1,
        job=Job(name="j", revision="r", groups=(group,)),
        run=Run(id=1, job="j", revision="r", scheduled_for_s=0.0),
        group=group,
        task=Task(id=1, group=1, spec=spec, history=history),
        number=history.attempts + 1,
        source=sources[history.source],
        previous=previous,
        budget_bytes=None,
    )
