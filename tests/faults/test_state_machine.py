"""Any story of drops, steps, crashes and changes: nothing is lost, doubled, mixed or half.

The engine, the store on its file, the disk, the transfer and the publisher are the real ones, each
stepped by the one thread of the test. Beside them a model is kept of the files that are visible
and of the tasks that were accepted; all must agree after every step, the files at every file call.
"""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from faults.crashing import (
    KIB,
    TEARS,
    Crash,
    CrashingOs,
    CrashingStore,
    Origins,
)
from faults.torture import Life, failing, raising
from fetchd.digests import Digest
from fetchd.disk import RootSpec, build, publish
from fetchd.errors import StoreError
from fetchd.model import (
    Cancel,
    Fetch,
    IfExists,
    Retry,
    RetryPolicy,
    RunView,
    TaskSpec,
    TaskState,
)
from fetchd.ports import Keep, RunFiled
from fetchd.transfer import attempt
from harness import EngineByHand, NothingToDo, StepClock, group, job

PATHS = ("a.bin", "b.bin", "d/c.bin")
BY_NAME = {Path(path).name: path for path in PATHS}
HOSTS = ("one.example", "other.example")
JOBS = ("red", "green", "blue")
#: On a file system in memory no inode number is given twice, or the story would depend on others.
MEMORY = Path("/dev/shm")
RETRY = RetryPolicy(attempts=3, delay_s=2.0, max_delay_s=60.0)
#: Longer than any wait that a well origin and a free disk leave.
LONG_ENOUGH_S = 61.0
MOST_ROUNDS = 200
DAY_S = 86400.0


@dataclass(frozen=True)
class Incident:
    """What comes to pass at a file call of a step; a crash at its end if there are fewer calls.

    ``path``: whom it concerns, unless something is being published; ``tear``, ``lasts``: of a
    crash, what becomes of bytes that were not synced, and how many of the step's records last.
    """

    what: str
    call: str
    number: int
    path: str
    tear: str
    lasts: int


@dataclass(frozen=True)
class Turn:
    """A step of the fetcher or the publisher.

    ``changes``: before it all files change; ``cut``: where the body ends too early.
    """

    fetches: bool
    changes: bool = False
    cut: int | None = None
    incident: Incident | None = None


@dataclass
class Accepted:
    """A run as the model knows it; ``at``: the step of its acceptance."""

    job: str
    specs: dict[str, TaskSpec]
    if_exists: IfExists
    at: int
    published: Counter[str] = field(default_factory=Counter)


paths = st.sampled_from(PATHS)
urls = st.builds("http://{}/{}".format, st.sampled_from(HOSTS), paths)
tears = st.sampled_from(["", *TEARS])


def incidents(what: list[str], calls: list[str]):
    errors = ["EIO", "EIO", "ENOSPC", "MemoryError"]
    return st.builds(
        Incident,
        st.sampled_from(["crash", "crash", "crash", *errors, *what]),
        st.sampled_from(calls),
        st.integers(1, 3),
        paths,
        tears,
        st.integers(0, 3),
    )


fetches = st.builds(
    Turn,
    st.just(True),
    st.sampled_from([False, False, True]),
    st.sampled_from([None, None, 0, 20 * KIB, 70 * KIB, 80 * KIB]),
    st.none()
    | incidents(
        ["cancel", "change", "stranger"],
        ["open", "read", "write", "truncate", "fsync", "rename", "unlink"],
    ),
)
publications = st.builds(
    Turn,
    st.just(False),
    incident=st.none()
    | incidents(
        ["cancel", "stranger", "stranger", "EIO", "EIO"],
        ["fsync", "fsync", "fsync", "open", "rename", "link", "unlink"],
    ),
)
turns = st.lists(fetches | publications, max_size=4)
kinds = st.tuples(st.sampled_from(["strong", "strong", "weak", "none"]), st.booleans())
drops: dict[str, Any] = {
    "name": st.sampled_from(JOBS),
    "wanted": st.sets(paths, min_size=1),
    "sources": st.sampled_from([HOSTS, HOSTS[:1], HOSTS[1:], HOSTS[::-1]]),
    "digests": st.booleans(),
    "if_exists": st.sampled_from([IfExists.UPDATE, IfExists.UPDATE, IfExists.FAIL]),
    "wait_for_s": st.sampled_from([None, 600.0]),
    "clears": st.booleans(),
    "files": st.booleans(),
    "lost": st.booleans(),
}


def chapter(**strategies):
    """Make a rule: what it says comes to pass, and then the daemon takes some turns.

    Which rules are drawn at all is another choice for each story, but a daemon works in all.
    """

    def decorate(happen):
        def tell(self, then, **values):
            happen(self, **values)
            self._work(then)

        tell.__name__ = happen.__name__
        return rule(then=turns, **strategies)(tell)

    return decorate


class Story(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self._database = Path(self._folder.name) / "state.db"
        self._root = Path(self._folder.name) / "root"
        self._clock = StepClock()
        self._origins = Origins()
        self._os = CrashingOs(self._named, self._unnamed)
        self._os.look = self._look
        self._wrong: list[str] = []
        # The model.
        self._visible: dict[str, bytes] = {}
        self._owners: dict[str, int] = {}  # whose run's the visible file is, if any's
        self._runs: dict[int, Accepted] = {}
        self._publishing: dict[str, int] = {}  # path -> run, in a step of the publisher
        self._shown: list[tuple[int, str]] = []  # in this step of the publisher
        self._strangers = 0
        self._drops = 0
        gc.collect()  # what tests before this one have left open
        self._descriptors = _descriptors()
        self._begin()

    # ------------------------------------------------------------ lives

    def _begin(self) -> None:
        self._os.dead = False
        self._store = CrashingStore(str(self._database), self._clock, self._store_failed)
        self._by_hand = EngineByHand(store=self._store, clock=self._clock)
        roots = {"default": RootSpec(path=str(self._root))}
        self._disk = build(roots, self._os, clock=self._clock)
        self._life = Life(self._disk, self._by_hand, self._origins, self._clock)
        self._life.recover()
        self._by_hand.calm()

    def _end(self) -> None:
        """What is not on record by now never will be."""
        self._store.lasts = 0
        self._store.close()
        self._disk.close()

    def _die(self, tear: str = "") -> None:
        """Begin a new life; with ``tear`` it was the power that was cut, not the process alone."""
        self._end()
        self._os.room_bytes = None
        if tear:
            self._os.cut_power(self._root, TEARS[tear])
        self._begin()

    def _store_failed(self, exc: StoreError) -> None:
        self._wrong.append(f"the store failed: {exc}")

    # ------------------------------------------------------------ the files, at every file call

    def _read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def _look(self) -> None:
        """P1, P4: what is visible changes only in the ways that the model was told of."""
        for path in PATHS:
            if self._read(path) != self._visible.get(path):
                self._wrong.append(f"{path} is not as it was left")

    def _named(self, name: str) -> Callable[[], None]:
        path = BY_NAME.get(name)
        if path is None:
            return lambda: None

        def told() -> None:
            run = self._publishing.get(path)
            if run is None:
                self._wrong.append(f"{path} was named by nobody")
                return
            accepted, body = self._runs[run], self._read(path)
            if self._visible.get(path) is not None and accepted.if_exists is IfExists.FAIL:
                self._wrong.append(f"{path} was replaced in spite of `if_exists: fail`")
            spec = accepted.specs[path]
            if spec.digests:
                good = {d.hex for d in spec.digests} == {sha256(body).hexdigest()}
            else:
                resources = map(self._origins.at, spec.sources)
                good = any(body in resource.bodies_after(accepted.at) for resource in resources)
            if not good:
                self._wrong.append(f"{path} is no version that run {run} may have got")
            self._visible[path], self._owners[path] = body, run
            self._shown.append((run, path))
            accepted.published[path] += 1
            if accepted.published[path] > 1:
                self._wrong.append(f"{path} was published again by run {run}")

        return told

    def _unnamed(self, name: str) -> None:
        """Only a name that may not last is taken back, of a file that replaced nothing."""
        path = BY_NAME.get(name)
        if path is None:
            return
        run = self._publishing.get(path, 0)
        if self._owners.get(path) == run and self._runs[run].if_exists is IfExists.FAIL:
            self._runs[run].published[path] = 0
        else:
            self._wrong.append(f"{path} was removed")
        self._visible.pop(path, None)

    # ------------------------------------------------------------ steps

    def _fetch_next(self) -> None:
        self._clock.advance(LONG_ENOUGH_S)
        self._by_hand.engine.tick()
        with suppress(NothingToDo):
            self._by_hand.calm()
            self._life._step(self._life._fetcher, self._by_hand.engine.take(Fetch, 1))

    def _publish(self) -> bool:
        publications = self._by_hand.publish()
        if not publications:
            return False
        self._publishing = {p.task.spec.path: p.run.id for p in publications}
        self._shown = []
        self._life._step(self._life._publisher, publications)
        self._publishing = {}
        if self._store.lasts is not None:
            return True  # it is about to die, and may have told nobody
        for publication in publications:
            run, path = publication.run.id, publication.task.spec.path
            if self._states(run).get(path) is TaskState.SUCCEEDED:
                continue
            shown = (run, path) in self._shown
            if shown and not self._os.tripped:
                self._wrong.append(f"{path} is visible, and run {run} does not know why")
            if shown:  # a name that may not last was told to nobody: it is given again
                self._runs[run].published[path] = 0
        return True

    def _work(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            if turn.changes:
                for path in PATHS:
                    self._change(path)
            self._origins.cut = turn.cut
            self._take_turn(turn)
        self._origins.cut = None

    def _take_turn(self, turn: Turn) -> None:
        if not turn.fetches and not self._by_hand.engine._to_publish:
            self._fetch_next()
        step = self._fetch_next if turn.fetches else self._publish
        incident = turn.incident
        if incident is None:
            step()
            return
        crash = incident.what == "crash"
        faults: dict[str, Callable[[], None]] = {
            "crash": self._lose_everything,
            "EIO": failing(errno.EIO),
            "ENOSPC": failing(errno.ENOSPC),
            "MemoryError": raising(MemoryError),
            "cancel": self._cancel_whoever_wants(incident.path),
            "change": lambda: self._change(incident.path),
            "stranger": lambda: self._come_by(next(iter(self._publishing), incident.path)),
        }
        self._os.calls.clear()
        self._os.trip_at = incident.call, incident.number
        self._os.fault = faults[incident.what]
        self._store.lasts = incident.lasts if crash else None
        try:
            step()
            if crash:  # nothing that is not on record may be shown
                self._publish()
        except Crash:
            pass
        finally:
            self._os.trip, self._os.trip_at, self._os.tripped = 0, None, ""
        if crash:
            self._publishing = {}
            self._die(incident.tear)

    def _lose_everything(self) -> None:
        self._store.lasts = 0
        self._os.crash()

    def _cancel_whoever_wants(self, path: str) -> Callable[[], None]:
        def cancel() -> None:
            for accepted in list(self._runs.values()):
                if path in accepted.specs:
                    self._by_hand.engine.obey(Cancel(job=accepted.job))

        return cancel

    def _change(self, path: str) -> None:
        for host in HOSTS:
            self._origins.at(f"http://{host}/{path}").since.append(self._origins.now)

    def _come_by(self, path: str) -> None:
        """Somebody else puts a file there."""
        self._strangers += 1
        body = f"not of a job, {self._strangers}".encode()
        draft, final = self._root / "draft", self._root / path
        final.parent.mkdir(exist_ok=True)
        draft.write_bytes(body)
        self._os.forget(draft)
        self._take_away(path)
        draft.rename(final)
        self._visible[path] = body

    def _take_away(self, path: str) -> None:
        final = self._root / path
        if final.exists():
            self._os.forget(final)
            final.unlink()
        self._visible.pop(path, None)
        self._owners.pop(path, None)
        for accepted in self._runs.values():  # what they had published is gone
            accepted.published[path] = 0

    def _states(self, run: int) -> dict[str, TaskState]:
        return {file.path: file.state for file in self._store.files(run)}

    def _file(self) -> None:
        """Do as the drop folder does with runs that have ended."""
        self._store.record([RunFiled(run=run.id) for run in self._store.unfiled_runs()])
        self._by_hand.calm()

    def _has_failed(self, name: str) -> bool:
        last = self._last_run(name)
        return last is not None and last.state.ended and last.tasks.failed > 0

    def _last_run(self, name: str) -> RunView | None:
        return self._store.last_runs([name]).get(name)

    # ------------------------------------------------------------ rules: the daemon

    @initialize(kinds=st.lists(kinds, min_size=6, max_size=6))
    def servers_begin(self, kinds):
        for number, kind in enumerate(kinds):
            resource = self._origins.at(f"http://{HOSTS[number % 2]}/{PATHS[number // 2]}")
            resource.validator, resource.lies = kind

    @initialize(**drops)
    def first_drop(self, **values):
        self._drop(**values)

    @chapter(**drops)
    def drop(self, **values):
        self._drop(**values)

    def _drop(self, name, wanted, sources, digests, if_exists, wait_for_s, clears, files, lost):
        """P2: it is accepted unless the last of that name is not filed yet."""
        self._drops += 1
        if files:
            self._file()
        specs = {}
        for path in sorted(wanted):
            if clears:
                self._take_away(path)
            found = [f"http://{host}/{path}" for host in sources]
            digest = Digest("sha256", sha256(self._origins.at(found[0]).body).hexdigest())
            specs[path] = TaskSpec(
                key=path, path=path, sources=tuple(found), digests=(digest,) if digests else ()
            )
        retry = RetryPolicy(
            attempts=RETRY.attempts,
            delay_s=RETRY.delay_s,
            max_delay_s=RETRY.max_delay_s,
            wait_for_s=wait_for_s,
        )
        made = job(
            name,
            group("g", *specs.values(), if_exists=if_exists, retry=retry),
            revision=f"r{self._drops}",
        )
        last = self._last_run(name)
        answer = self._by_hand.submit(made, file=f"{name}.yaml")
        free = last is None or (last.state.ended and last.filed)
        assert (answer.done, answer.later) == (free, not free)
        if not free:
            return
        self._runs[answer.run] = Accepted(name, specs, if_exists, self._origins.now)
        if lost:  # before the job file was moved: the next life finds it where it was
            self._die()
            again = self._by_hand.submit(made, file=f"{name}.yaml")
            assert (again.run, again.repeated) == (answer.run, True)

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(tear=tears)
    def crash(self, tear):
        self._die(tear)

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(name=st.sampled_from(JOBS))
    def cancel(self, name):
        last = self._last_run(name)
        answer = self._by_hand.engine.obey(Cancel(job=name))
        assert answer.done == (last is not None and not last.state.ended)

    @precondition(lambda self: any(self._has_failed(name) for name in JOBS))
    @chapter(name=st.sampled_from(JOBS))
    def retry(self, name):
        has_failed = self._has_failed(name)
        assert self._by_hand.engine.obey(Retry(job=name)).done == has_failed

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(seconds=st.sampled_from([1.0, 700.0, 4000.0, 2 * DAY_S]))
    def let_time_pass(self, seconds):
        self._clock.advance(seconds)
        self._by_hand.engine.tick()

    @precondition(lambda self: self._disk.leftovers())
    @chapter(age_s=st.sampled_from([0.0, 8 * DAY_S]))
    def sweep(self, age_s):
        self._sweep(age_s)

    def _sweep(self, age_s: float) -> None:
        for part in self._disk.leftovers():
            if not self._by_hand.engine.needs_part(part.root, part.path, age_s):
                self._disk.sweep(part)

    @precondition(lambda self: len(self._runs) > 3)
    @chapter(files=st.booleans())
    def prune(self, files):
        """Forget all that has ended and is filed, but for the newest, and nothing else."""
        if files:
            self._file()
        old = {run for run in self._runs if self._store.run_view(run).filed} - {max(self._runs)}
        now_s = self._clock.wall()
        self._store.prune(
            Keep(ended_after_s=now_s + 1.0, runs=100, published_after_s=now_s + 1.0), lambda _: None
        )
        self._by_hand.calm()
        for run in old:
            assert self._store.run_view(run) is None
            del self._runs[run]

    # ------------------------------------------------------------ rules: the world

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(
        url=urls,
        kind=kinds,
        status=st.sampled_from([None, None, None, 403, 404, 500, 503]),
    )
    def server_is_set(self, url, kind, status):
        resource = self._origins.at(url)
        resource.status = status
        resource.validator, resource.lies = kind

    def _heal(self) -> None:
        for resource in self._origins.resources.values():
            resource.heal()

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(path=paths, leaves=st.booleans())
    def stranger_comes_by(self, path, leaves):
        if leaves:
            self._come_by(path)
        else:
            self._take_away(path)

    @precondition(lambda self: not self._by_hand.engine.idle())
    @chapter(room_bytes=st.sampled_from([None, 0, 30_000, 100_000]), admits_it=st.booleans())
    def disk_fills(self, room_bytes, admits_it):
        self._os.room_bytes, self._os.admits_it = room_bytes, admits_it

    # ------------------------------------------------------------ what always holds

    @invariant()
    def nothing_is_wrong(self):
        self._origins.now += 1
        self._by_hand.calm()
        self._look()
        assert not self._wrong, self._wrong

    @invariant()
    def p2_every_accepted_task_is_on_record(self):
        for run, accepted in self._runs.items():
            files = list(self._store.files(run))
            assert {file.path for file in files} == accepted.specs.keys()
            for file in files:
                own = self._owners.get(file.path) == run
                assert not (own and file.detail == "exists"), f"run {run} met its own {file.path}"

    @invariant()
    def the_engine_and_its_record_agree(self):
        views = {view.id: view for view in self._by_hand.engine.view().runs}
        for opened in self._store.open_runs():
            assert views[opened.run.id].tasks == self._store.run_view(opened.run.id).tasks
            assert not views[opened.run.id].state.ended

    @invariant()
    def p5_parts_are_bounded(self):
        kept = list((self._root / ".fetchd/parts").glob("*"))
        assert len({path.name.partition(".")[0] for path in kept}) <= len(PATHS)
        assert len(kept) <= 3 * len(PATHS)

    # ------------------------------------------------------------ how it ends

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._ends_well()
        finally:
            self._end()
            self._folder.cleanup()
        if sys.exc_info()[0] is None:
            assert _descriptors() == self._descriptors

    def _ends_well(self) -> None:
        self._heal()
        self._os.room_bytes = None
        self._work_until_quiet()
        for name in JOBS:
            self._by_hand.engine.obey(Retry(job=name))
        self._work_until_quiet()
        for name in JOBS:
            if (last := self._last_run(name)) is not None:
                for file in self._store.files(last.id):
                    if file.state is TaskState.FAILED:
                        assert self._fails_rightly(last.id, file.path, file.detail), file
        self._sweep(0.0)
        self._no_part_of_what_succeeded()
        # Whatever has been: a new job gets what there is.
        self._file()
        self._drop("last", set(PATHS), HOSTS[:1], False, IfExists.UPDATE, None, False, True, True)
        self._work_until_quiet()
        assert set(self._states(max(self._runs)).values()) == {TaskState.SUCCEEDED}
        for path in PATHS:
            assert self._visible[path] == self._origins.at(f"http://{HOSTS[0]}/{path}").body
        self._no_part_of_what_succeeded()
        with closing(sqlite3.connect(self._database)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def _work_until_quiet(self) -> None:
        for _ in range(MOST_ROUNDS):
            self._fetch_next()
            self._publish()
            self.nothing_is_wrong()
            self.the_engine_and_its_record_agree()
            if self._by_hand.engine.idle():
                break
        self.p2_every_accepted_task_is_on_record()
        for run in self._runs:
            assert self._store.run_view(run).state.ended, f"run {run} has not ended"
            assert all(state.ended for state in self._states(run).values())

    def _fails_rightly(self, run: int, path: str, code: str) -> bool:
        accepted = self._runs[run]
        spec = accepted.specs[path]
        if code == "exists":
            return accepted.if_exists is IfExists.FAIL and path in self._visible
        served = {sha256(self._origins.at(url).body).hexdigest() for url in spec.sources}
        return code == "checksum_mismatch" and spec.digests[0].hex not in served

    def _no_part_of_what_succeeded(self) -> None:
        for part in self._disk.leftovers():
            state = self._store.destination_state(part.root, part.path)
            assert state is not TaskState.SUCCEEDED, part


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- one that lists it is in it either way


def tell_stories(examples: int, steps: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The publisher's helpers are threads of their own, which no crash could unwind.
        patch.setattr(publish, "_SYNCS", 1)
        patch.setattr(attempt, "CHECKPOINT_BYTES", 32 * KIB)
        run_state_machine_as_test(
            Story,
            settings=settings(
                derandomize=True,
                database=None,
                max_examples=examples,
                stateful_step_count=steps,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.slow
@pytest.mark.timeout(900)  # a failure takes minutes to be told in few steps
def test_whatever_happens_nothing_is_lost_doubled_mixed_or_half():
    tell_stories(examples=110, steps=40)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_whatever_happens_in_thousands_of_stories_nothing_is_lost():
    tell_stories(examples=4000, steps=60)
