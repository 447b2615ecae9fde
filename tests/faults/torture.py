"""One job after another, each with another file call that fails: curl's way of torture.

A job is carried out once by the real engine, store, transfer, disk and publisher, and the calls
at the seam ``ports.Os`` are counted; then again with the first of them failing, the second, and
so on. Threads are stepped by hand; time is set by hand; a kill is one, of a child process.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build
from fetchd.errors import CODES, AttemptError
from fetchd.model import (
    Attempt,
    Fetch,
    IfExists,
    Outcome,
    Publish,
    RetryPolicy,
    TaskSpec,
    Validator,
)
from fetchd.pool import Pool
from fetchd.ports import RangeRefused, Request, Transport
from fetchd.stores import SqliteStore
from fetchd.transfer import Transfer
from harness import ONE_CORE, EngineByHand, FakeClock, group, job

KIB = 1024
#: Enough for a read of the head, some of the body, and a checkpoint between.
SIZE_BYTES = 200 * KIB
ROUNDS = 60


class Tripwire(SystemOs):
    """Counts the calls, and lets the ``trip``-th one meet ``fault``; ``look`` follows each.

    ``for_ever``: all later calls of the same name meet it too. Threads that sync for the publisher
    call as well; a count that is off by a race trips its neighbour, which is as good.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trip = 0
        self.fault: Callable[[], None] = lambda: None
        self.for_ever = False
        self.tripped = ""
        self.tripped_at_folder = False
        self.shown: Counter[str] = Counter()
        self.look: Callable[[], None] = lambda: None

    def _pass(self, name: str, *, at_folder: bool = False) -> None:
        self.look()
        self.calls.append(name)
        if len(self.calls) == self.trip:
            self.tripped, self.tripped_at_folder = name, at_folder
            self.fault()
        elif self.for_ever and self.tripped == name:
            self.fault()

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        self._pass("open")
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def read(self, fd: int, buffer: memoryview, offset: int, /) -> int:
        self._pass("read")
        return super().read(fd, buffer, offset)

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:
        self._pass("write")
        return super().write(fd, data, offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._pass("truncate")
        super().truncate(fd, size_bytes)

    def fsync(self, fd: int) -> None:
        self._pass("fsync", at_folder=stat.S_ISDIR(os.fstat(fd).st_mode))
        super().fsync(fd)

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:
        self._pass("mkdir")
        super().mkdir(path, mode, dir_fd=dir_fd)

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._pass("rename")
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.shown[dst] += 1

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._pass("link")
        super().link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.shown[dst] += 1

    def unlink(self, path: str, *, dir_fd: int) -> None:
        self._pass("unlink")
        super().unlink(path, dir_fd=dir_fd)

    def device(self, fd: int) -> int:
        self._pass("device")
        return super().device(fd)

    def free_bytes(self, fd: int) -> int:
        self._pass("free_bytes")
        return super().free_bytes(fd)

    def capacity_bytes(self, fd: int) -> int:
        self._pass("capacity_bytes")
        return super().capacity_bytes(fd)


# ---------------------------------------------------------------- the origin


class Origin:
    """Serves a body for each name, by ranges too; the first ``cuts`` bodies break half way."""

    def __init__(self, bodies: dict[str, bytes], cuts: int) -> None:
        self.bodies = bodies
        self.cuts = cuts

    def open(self, request: Request, wanted: Callable[[], bool]) -> Body:
        body = self.bodies[request.url.rpartition("/")[2]]
        if request.start >= len(body) > 0:
            raise RangeRefused(len(body))
        self.cuts -= 1
        return Body(body, request, cut=self.cuts >= 0)

    def close(self) -> None:
        pass


class Body:
    framed, not_modified, content_type = True, False, "application/octet-stream"
    held_s = 0.0
    wish: tuple[str, float] | None = None
    file_name: str | None = None

    def __init__(self, body: bytes, request: Request, *, cut: bool) -> None:
        self.start = request.start
        self.total = len(body)
        self.validator = Validator(etag=f'"{sha256(body).hexdigest()}"')
        self.final_url = request.url
        self._rest = memoryview(body)[request.start :]
        self._cut_at = len(self._rest) // 2 if cut else 0

    def readinto(self, buffer: memoryview) -> int:
        if self._cut_at and len(self._rest) <= self._cut_at:
            raise AttemptError("short_body", "cut")
        piece = self._rest[: min(len(buffer), 64 * KIB)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)

    def close(self) -> None:
        pass


# ---------------------------------------------------------------- the variants


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is on the disk before, and what the job asks for.

    ``cuts``: bodies that break, so that a part with a journal is gone on with. ``abandoned``: the
    life before ended when the file was verified and not yet shown.
    """

    names: tuple[str, ...] = ("a.bin",)
    cuts: int = 0
    standing: bool = False
    if_exists: IfExists = IfExists.UPDATE
    digests: bool = True
    abandoned: bool = False


VARIANTS = {
    "fresh": Variant(),
    "fresh-without-digest": Variant(digests=False),
    "resumed": Variant(cuts=1),
    "replaced": Variant(standing=True),
    "replaced-resumed": Variant(standing=True, cuts=1, if_exists=IfExists.OVERWRITE),
    "never-clobbered": Variant(if_exists=IfExists.FAIL),
    "recovered": Variant(abandoned=True),
    "recovered-without-digest": Variant(abandoned=True, digests=False),
    "group": Variant(names=("a.bin", "b.bin", "c.bin")),
}


@cache
def body_of(name: str) -> bytes:
    return sha256(name.encode()).digest() * (SIZE_BYTES // 32)


OLD = b"the good file of yesterday" * 1000


class Bench:
    """One variant in one folder; a life is one engine on the store that is there."""

    def __init__(self, folder: Path, variant: Variant, database: Path | None = None) -> None:
        """``database``: where lives in other processes shall find it; None: in memory."""
        self.variant = variant
        self.root = folder / "root"
        self.clock = FakeClock()
        self._database = database
        self._store: SqliteStore | None = None
        self.system = Tripwire()
        self.wrong: list[str] = []
        self.root.mkdir(parents=True)
        if variant.standing:
            (self.root / "d").mkdir()
            for name in variant.names:
                (self.root / "d" / name).write_bytes(OLD)

    @property
    def store(self) -> SqliteStore:
        if self._store is None:
            path = str(self._database) if self._database else None
            self._store = SqliteStore(path, self.clock, self._store_failed)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def look(self) -> None:
        """P1, P4: what is visible is whole, old or new, at every moment."""
        for name in self.variant.names:
            try:
                found = (self.root / "d" / name).read_bytes()
            except FileNotFoundError:
                if self.variant.standing:
                    self.wrong.append(f"{name} is gone")
                continue
            if found != body_of(name) and not (self.variant.standing and found == OLD):
                self.wrong.append(f"{name} is neither old nor new: {len(found)} bytes")

    def live(self, *, submit: bool = True, cuts: int | None = None) -> Report:
        """One life of the service, until the job has ended or nothing but time would help.

        What it opened is closed at its end, so a descriptor that is left was lost. Its start is
        spared: who cannot even start has nothing to lose yet.
        """
        by_hand = EngineByHand(store=self.store, clock=self.clock, poison=0)
        before = _descriptors()
        trip, self.system.trip = self.system.trip, 0
        disk = build({"default": RootSpec(path=str(self.root))}, self.system, clock=self.clock)
        try:
            life = Life(disk, by_hand, self._origin(cuts), self.clock)
            life.recover()
            if submit:
                by_hand.submit(self._job())
            if self.variant.abandoned:
                life.work(publish=False)
                by_hand = EngineByHand(store=self.store, clock=self.clock, poison=0)
                life = Life(disk, by_hand, self._origin(cuts), self.clock)
                life.recover()
            self.system.calls.clear()
            self.system.trip, self.system.look = trip, self.look
            life.work()
            self.system.trip, self.system.look = 0, lambda: None
            report = self._report(by_hand)
        finally:
            disk.close()
        left = _descriptors() - before
        if left:
            self.wrong.append(f"descriptors left open: {sorted(left)}")
        self.look()
        return report

    def _origin(self, cuts: int | None) -> Origin:
        bodies = {name: body_of(name) for name in self.variant.names}
        return Origin(bodies, self.variant.cuts if cuts is None else cuts)

    def _job(self):
        specs = [
            TaskSpec(
                key=name,
                path=f"d/{name}",
                sources=(f"http://one.example/{name}",),
                digests=(Digest("sha256", sha256(body_of(name)).hexdigest()),)
                if self.variant.digests
                else (),
            )
            for name in self.variant.names
        ]
        retry = RetryPolicy(attempts=3, delay_s=1.0, max_delay_s=2.0)
        return job("j", group("g", *specs, if_exists=self.variant.if_exists, retry=retry))

    def _report(self, by_hand: EngineByHand) -> Report:
        view = by_hand.store.last_runs(["j"]).get("j")
        assert view is not None
        files = list(by_hand.store.files(view.id))
        return Report(
            ended=view.state.ended,
            states=Counter(file.state.value for file in files),
            codes={file.detail for file in files if file.state == "failed"},
        )

    def _store_failed(self, exc: Exception) -> None:
        self.wrong.append(f"the store: {exc}")


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@dataclass(frozen=True, kw_only=True)
class Report:
    ended: bool
    states: Counter[str] = field(default_factory=Counter)
    codes: set[str] = field(default_factory=set)


class Life:
    """Plays the threads of the pools, one step after another."""

    def __init__(
        self, disk: DownloadDisk, by_hand: EngineByHand, origin: Transport, clock: FakeClock
    ) -> None:
        self._by_hand = by_hand
        self._clock = clock
        self._disk = disk
        engine = by_hand.engine
        self._transfer = Transfer(disk, origin, engine.report, clock, Failpoints(), ONE_CORE)
        self._fetcher = Pool(
            "fetcher", 1, engine, Fetch, work=self._fetch, most=1, clock=clock, tell=lambda _: None
        )
        self._publisher = Pool(
            "publisher",
            1,
            engine,
            Publish,
            work=self._disk.publish,
            most=64,
            clock=clock,
            tell=lambda _: None,
        )

    def recover(self) -> None:
        leftovers = list(self._disk.leftovers())
        engine = self._by_hand.engine
        engine.recover({(p.root, p.path): p.durable_bytes for p in leftovers})
        for part in leftovers:
            if part.path and not engine.needs_part(part.root, part.path, 0.0):
                self._disk.sweep(part)

    def work(self, *, publish: bool = True) -> None:
        for _ in range(ROUNDS):
            if (fetch := self._by_hand.fetch()) is not None:
                self._step(self._fetcher, [fetch])
            elif not publish and len(self._by_hand.engine._to_publish):
                return
            elif publications := self._by_hand.publish():
                self._step(self._publisher, publications)
            elif self._by_hand.engine.idle():
                return
            else:
                self._clock.advance(31.0)
                self._by_hand.engine.tick()

    def _step(self, pool: Pool, attempts: Sequence[Attempt]) -> None:
        with suppress(MemoryError):  # the pool has settled it, and would replace the dead thread
            pool._carry_out(attempts)
        self._by_hand.calm()

    def _fetch(self, attempts: Sequence[Fetch]) -> list[tuple[Attempt, Outcome]]:
        return [(attempt, self._transfer(attempt)) for attempt in attempts]


# ---------------------------------------------------------------- the torture


def raising(exc: Callable[[], BaseException]) -> Callable[[], None]:
    def fault() -> None:
        raise exc()

    return fault


def failing(number: int) -> Callable[[], None]:
    return raising(lambda: OSError(number, os.strerror(number)))


FAULTS = {
    "EIO": failing(errno.EIO),
    "ENOSPC": failing(errno.ENOSPC),
    "EINTR": failing(errno.EINTR),
    "MemoryError": raising(MemoryError),
}


def count_calls(folder: Path, variant: Variant) -> int:
    """Return how many calls an undisturbed life makes; they must lead to success."""
    with closing(Bench(folder, variant)) as bench:
        report = bench.live()
    assert bench.wrong == []
    assert report.states == {"succeeded": len(variant.names)}, report
    return len(bench.system.calls)


def torture(folder: Path, variant: Variant, fault: str, trip: int, *, for_ever: bool) -> list[str]:
    """Let the ``trip``-th call fail; return what is wrong then, and after a life without fault."""
    with closing(Bench(folder, variant)) as bench:
        system = bench.system
        system.trip, system.fault, system.for_ever = trip, FAULTS[fault], for_ever
        report = bench.live()
        wrong = list(bench.wrong)
        if not for_ever and report.states != {"succeeded": len(variant.names)}:
            wrong.append(f"one fault was too much: {report}")
        if not report.codes <= set(CODES) - {"worker_died"}:
            wrong.append(f"codes that explain nothing: {report.codes}")
        often = {name: n for name, n in system.shown.items() if name in variant.names and n > 1}
        if often and not system.tripped_at_folder:  # a name that may not last is given once more
            wrong.append(f"published more than once: {often}")
        where = f"{system.tripped} (call {trip})"
        return [f"{where}: {what}" for what in [*wrong, *_afterwards(bench, ended=report.ended)]]


def torture_by_kill(folder: Path, variant: Variant, trip: int) -> list[str]:
    """Let a child process die at the ``trip``-th call, and the next life go on."""
    database = folder / "state.db"
    with closing(Bench(folder, variant, database)) as bench:
        bench.system.trip = trip
        bench.system.fault = lambda: os.kill(os.getpid(), signal.SIGKILL)
        child = os.fork()
        if child == 0:
            try:
                bench.live()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        wrong = [] if os.WIFSIGNALED(status) else ["the child lived on"]
        bench.look()
        return [f"call {trip}: {what}" for what in [*wrong, *_afterwards(bench, ended=False)]]


def _afterwards(bench: Bench, *, ended: bool) -> list[str]:
    """Without the fault: what was not ended ends well, and a new run finds all right."""
    bench.wrong.clear()
    bench.system.trip, bench.system.for_ever, bench.system.tripped = 0, False, ""
    wrong = []
    if not ended:
        report = bench.live(submit=False, cuts=0)
        if report.states != {"succeeded": len(bench.variant.names)}:
            wrong.append(f"the next life: {report}")
    for name in bench.variant.names:
        found = bench.root / "d" / name
        if bench.variant.if_exists is IfExists.FAIL and found.exists():
            found.unlink()  # or it would be right to fail
    bench.variant = Variant(
        names=bench.variant.names,
        digests=bench.variant.digests,
        if_exists=bench.variant.if_exists,
        standing=bench.variant.standing,
    )
    again = bench.live(cuts=0)
    if again.states != {"succeeded": len(bench.variant.names)}:
        wrong.append(f"a later run: {again}")
    left = [path.name for path in (bench.root / ".fetchd/parts").glob("*")]
    if left:
        wrong.append(f"parts left: {left}")
    return [*bench.wrong, *wrong]
