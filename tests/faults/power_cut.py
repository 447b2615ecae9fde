"""Power cuts: a real daemon on disks that hold what was synced and nothing else.

    make power-cut CUTS=100          (python tests/faults/power_cut.py --cuts 100 [--seed 1])

Downloads, state and jobs lie on an ext4 file system each, in an image file of its own: in a common
one the sync of a neighbour would carry along what was forgotten. ``noauto_da_alloc`` and
``commit=300`` keep the kernel from syncing out of kindness. A cut stops the process until no
thread is in a system call, then copies the images: what the kernel still has in its memory is not
in the copy, as it would not be on a disk without power. A daemon is then started on the copy, and
whatever was acknowledged before the cut has to be there.

Needs root, loop devices and ext4; nothing outside the given folder is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.server import Handler, Server, content, file, flapping
from fetchd.disk.part import part_name
from process import DaemonProcess, visible_files, wait_until

DISKS = ("downloads", "state", "jobs")
SIZE = "96M"
OPTIONS = "loop,noauto_da_alloc,commit=300"
QUIET_WITHIN_S = 20.0
#: A world of files and jobs is used for so many cuts: looking at all of it takes longer each time.
CUTS_A_WORLD = 25
SETTINGS = (
    "retry.poison=0",
    "disk.reserve=0",
    "stats_every=1h",
    "workers=4",
    "retry.delay=50ms",
)
ENDED = {"succeeded", "partial", "failed", "cancelled"}


def why_not() -> str:
    """Return why the rig cannot work here; empty: it can."""
    if os.geteuid() != 0:
        return "power cuts need root, to mount a loop file"
    for tool in ("mkfs.ext4", "mount", "umount", "cp"):
        if shutil.which(tool) is None:
            return f"power cuts need {tool}"
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "image", Path(folder) / "disk")
        try:
            disk.make()
            disk.mount()
        except subprocess.CalledProcessError as exc:
            return f"power cuts need loop devices and ext4: {exc.stderr.decode().strip()}"
        disk.unmount()
    return ""


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


class Disk:
    """An ext4 file system in an image file; the image has what was synced, and no more."""

    def __init__(self, image: Path, mounted_at: Path) -> None:
        self.image = image
        self.mounted_at = mounted_at

    def make(self) -> None:
        _run("truncate", "-s", SIZE, self.image)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", self.image)

    def mount(self) -> None:
        self.mounted_at.mkdir(parents=True, exist_ok=True)
        _run("mount", "-o", OPTIONS, self.image, self.mounted_at)

    def unmount(self) -> None:
        if self.mounted_at.is_mount():
            _run("umount", self.mounted_at)


@dataclass
class Told:
    """What the daemon has acknowledged: nothing of it may ever be taken back."""

    accepted: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    ended: dict[str, str] = field(default_factory=dict)

    def listen(self, daemon: DaemonProcess) -> None:
        """Add what the log of a life says, and the reports that lie in the folder."""
        for event in daemon.events():
            name = event["event"]
            if name == "job.accepted":
                self.accepted.add(event["job"])
            elif name == "task.done":
                self.done[event["path"]] += 1
            elif name == "run.ended":
                self.ended[event["job"]] = event["state"]
        for path in (daemon.jobs / "reports").glob("*.json"):
            try:
                report = json.loads(path.read_text())
            except ValueError:
                continue  # of a run under way, which is not synced: written again in a moment
            self.accepted.add(report["job"])
            if report["state"] in ENDED:
                self.ended[report["job"]] = report["state"]


class Machine:
    """Three disks and a daemon on them, below ``base``."""

    def __init__(self, base: Path, program: Sequence[str], durability: str = "group") -> None:
        self.base = base
        self.disks = [Disk(base / f"{name}.image", base / name) for name in DISKS]
        base.mkdir(parents=True)
        self._program = program
        self._durability = durability

    def make(self) -> None:
        for disk in self.disks:
            disk.make()

    def power_on(self) -> None:
        for disk in self.disks:
            disk.mount()
            with contextlib.suppress(FileNotFoundError):
                (disk.mounted_at / "lost+found").rmdir()
        self.daemon = DaemonProcess(self.base, *SETTINGS, f"durability={self._durability}")
        self.daemon.program = list(self._program)

    def copy(self, base: Path, program: Sequence[str]) -> Machine:
        """Return a machine whose disks are what these hold now."""
        other = Machine(base, program, self._durability)
        for disk, target in zip(self.disks, other.disks, strict=True):
            _run("cp", "--sparse=always", disk.image, target.image)
        return other

    def commit_names(self) -> None:
        """Have the kernel commit what was named, as it does every now and then, but no bytes."""
        folder = os.open(self.daemon.downloads, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def freeze(self) -> None:
        """Stop the daemon and wait until no thread of it is in a system call any more."""
        assert self.daemon.process is not None
        pid = self.daemon.process.pid
        self.daemon.process.send_signal(signal.SIGSTOP)

        def stopped() -> bool:
            stats = [
                path.read_text().rpartition(")")[2]
                for path in Path(f"/proc/{pid}/task").glob("*/stat")
            ]
            return all(stat.split()[0] in {"T", "Z", "X"} for stat in stats)

        wait_until(stopped, what="the threads to stop")

    def thaw(self) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(signal.SIGCONT)

    def scrap(self) -> None:
        """End the daemon and give everything back."""
        if self.daemon.process is not None:
            self.daemon.kill()
        for disk in self.disks:
            disk.unmount()
        shutil.rmtree(self.base)


class Workload:
    """Jobs of many kinds for files of many kinds, and how each must end."""

    def __init__(self, server: Server, dice: random.Random) -> None:
        self._server = server
        self._dice = dice
        self.states: dict[str, str] = {}  # by job
        self.digests: dict[str, str] = {}  # by path below the root
        self.paths: dict[str, list[str]] = {}  # by job

    def drop(self, jobs: Path, kind: str = "") -> None:
        """Drop one more job, as careless users do: renamed into place, but not synced."""
        number = len(self.states)
        kind = kind or ("urls" if number % 3 == 2 else "yaml")
        job = f"{kind[0]}{number}"
        self.paths[job] = []
        dest = f"new{number}" if kind == "yaml" and number % 2 else ""
        count = 5 if kind == "urls" else self._dice.randint(1, 4)
        lines = [self._file(job, index, dest) for index in range(count)]
        fails = number % 8 == 7
        if fails:
            lines.append(self._server.url(f"/{job}/missing"))
        if kind == "urls":
            text = "".join(f"{line}\n" for line in lines)
        else:
            text = "urls:\n" + "".join(f"  - {line}\n" for line in lines)
            text += f"dest: {dest}\n" if dest else ""
        self.states[job] = "failed" if fails else "succeeded"
        beside = jobs / f".{job}"
        beside.write_text(text)
        beside.rename(jobs / f"{job}.{kind}")

    def _file(self, job: str, index: int, dest: str) -> str:
        name = f"{job}-{index}.bin"
        number = len(self.digests)
        body = content(name, int(2 ** self._dice.uniform(0, 17)))
        digest = hashlib.sha256(body).hexdigest()
        served: Handler = file(body)
        if number % 7 == 3:  # more than one attempt, with a journal between them
            served = flapping(file(body, cut_after=len(body) // 2), file(body))
        elif number % 7 == 5:
            served = file(body, rate=300_000)
        self._server.routes[f"/{name}"] = served
        path = f"{dest}/{name}" if dest else name
        self.digests[path] = digest
        self.paths[job].append(path)
        checksum = f" sha256:{digest}" if number % 2 else ""
        return f"{self._server.url('/' + name)}{checksum}"


def wrong_files(downloads: Path, digests: dict[str, str]) -> Iterator[str]:
    """Every file under a final name that is not what it must be."""
    for path in visible_files(downloads):
        name = str(path.relative_to(downloads))
        if hashlib.sha256(path.read_bytes()).hexdigest() != digests.get(name):
            yield f"P1: {name} is visible with {path.stat().st_size} wrong bytes"


def lost_at_once(machine: Machine, told: Told, digests: dict[str, str]) -> list[str]:
    """What the disks lack right behind the cut, before any daemon could mend it."""
    there = {
        str(p.relative_to(machine.daemon.downloads))
        for p in visible_files(machine.daemon.downloads)
    }
    return [
        *wrong_files(machine.daemon.downloads, digests),
        *(
            f"D14: {path} was told to be done and is gone"
            for path in sorted(told.done.keys() - there)
        ),
    ]


def recover(machine: Machine, told: Told, work: Workload) -> list[str]:
    """Run a daemon on what a cut left until it is quiet; returns what is wrong then."""
    daemon = machine.daemon
    for path in daemon.jobs.glob("*.*"):
        # Its writer did not sync it and nobody has accepted it: the cut took it legally.
        if path.is_file() and not path.stat().st_size and path.stem not in told.accepted:
            path.unlink()
    try:
        code = daemon.run_once(QUIET_WITHIN_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        last = (daemon.events() or [{"event": "nothing"}])[-1]["event"]
        names = sorted(path.name for path in daemon.jobs.iterdir() if path.is_file())
        return [f"P2: not quiet after {QUIET_WITHIN_S:.0f} s: {names} in jobs, at last {last}"]
    wrong = [] if code in {0, 1} else [f"P2: fetchd ended with {code}"]
    now = Told()
    now.listen(daemon)
    for job in sorted(told.accepted | now.accepted | now.ended.keys()):
        state = now.ended.get(job)
        if state != work.states[job]:
            wrong.append(f"S09: accepted job {job} must be {work.states[job]}, is {state}")
        elif told.ended.get(job, state) != state:
            wrong.append(f"S09: job {job} was {told.ended[job]}, is {state}")
    wrong += [
        f"P3: {path} was published again" for path in sorted(told.done.keys() & now.done.keys())
    ]
    wrong += [f"P3: {path} was published {n} times" for path, n in now.done.items() if n > 1]
    wrong += wrong_files(daemon.downloads, work.digests)
    for job in sorted(now.ended):
        missing = [name for name in work.paths[job] if not (daemon.downloads / name).exists()]
        wrong += [f"P2: {name} of ended job {job} is missing" for name in missing]
    # The part of a task that failed may come back, its removal is not synced: kept for a week.
    of = {part_name("default", path): path for path in work.digests}
    for part in (daemon.downloads / ".fetchd").rglob("*"):
        if owner := of.get(part.name.partition(".")[0]):
            wrong.append(f"P5: of {owner} there is still {part.parent.name}/{part.name}")
    with contextlib.closing(sqlite3.connect(daemon.state / "fetchd.db")) as db:
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        wrong.append(f"S09: the database is damaged: {verdict}")
    told.accepted |= now.accepted
    told.done += now.done
    told.ended |= now.ended
    return wrong


@dataclass
class Result:
    cuts: int = 0
    accepted: int = 0
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)  # with durability none: behind the cut, legally

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts; acknowledged before them: {self.accepted} jobs, "
            f"{self.done} files; {len(self.wrong)} broken promises"
        )


def cut_power(
    folder: Path,
    cuts: int,
    seed: int,
    program: Sequence[str] = ("-m", "fetchd"),
    *,
    until_wrong: bool = False,
) -> Result:
    """Cut the power ``cuts`` times at random moments; ``until_wrong`` ends at the first loss."""
    result = Result()
    dice = random.Random(seed)
    world = 0
    while result.cuts < cuts and not (until_wrong and result.wrong):
        world += 1
        most = min(CUTS_A_WORLD, cuts - result.cuts)
        wrong = _cut_one_world(folder / f"world{world}", most, dice, program, result, until_wrong)
        result.wrong += [f"seed {seed}, world {world}, {line}" for line in wrong]
    return result


def _cut_one_world(
    folder: Path,
    cuts: int,
    dice: random.Random,
    program: Sequence[str],
    result: Result,
    until_wrong: bool,
) -> list[str]:
    found: list[str] = []
    told = Told()  # in all lives before the one under way
    machine = Machine(folder / "0", program)
    machine.make()
    machine.power_on()
    try:
        with Server() as server:
            work = Workload(server, dice)
            machine.daemon.start()
            for number in range(1, cuts + 1):
                for _ in range(dice.randint(1, 3)):
                    work.drop(machine.daemon.jobs)
                time.sleep(dice.uniform(0.0, 0.7) + (0.5 if number == 1 else 0))
                machine.freeze()
                before = Told(set(told.accepted), Counter(told.done), dict(told.ended))
                before.listen(machine.daemon)
                other = machine.copy(folder / str(number), program)
                other.power_on()
                try:
                    wrong = lost_at_once(other, before, work.digests)
                    wrong += recover(other, before, work)
                    found += [f"cut {number}: {line}" for line in wrong]
                    if dice.random() < 0.3:
                        # This life ends here, and the next one is the one after the cut.
                        machine, other = other, machine
                        told = before
                        machine.daemon.start()
                    else:
                        machine.thaw()
                finally:
                    other.scrap()
                result.cuts += 1
                if until_wrong and wrong:
                    break
            told.listen(machine.daemon)
            result.accepted += len(told.accepted)
            result.done += len(told.done)
    finally:
        machine.scrap()
    return found


def cut_at(
    folder: Path,
    failpoint: str,
    kinds: Sequence[str] = ("yaml",) * 6,
    durability: str = "group",
) -> Result:
    """Cut the power at a named step of the daemon's work, the first time that it is taken.

    With durability ``none`` only what the next life makes of it is judged.
    """
    machine = Machine(folder / "0", ("-m", "fetchd"), durability)
    machine.make()
    machine.power_on()
    result, told = Result(cuts=1), Told()
    try:
        with Server() as server:
            work = Workload(server, random.Random(1))
            for kind in kinds:
                work.drop(machine.daemon.jobs, kind)
            code = machine.daemon.start("--once", failpoint=failpoint).wait()
            if code != -signal.SIGKILL:
                result.wrong.append(f"the daemon did not pass {failpoint}: it ended with {code}")
            told.listen(machine.daemon)
            if durability == "none":
                machine.commit_names()
            other = machine.copy(folder / "1", ("-m", "fetchd"))
            other.power_on()
            try:
                lost = lost_at_once(other, told, work.digests)
                (result.torn if durability == "none" else result.wrong).extend(lost)
                result.accepted, result.done = len(told.accepted), len(told.done)
                result.wrong += recover(other, told, work)
            finally:
                other.scrap()
    finally:
        machine.scrap()
    return result


def _main() -> None:
    parser = argparse.ArgumentParser(description="cut the power of a daemon at random moments")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="power-cut-") as folder:
        began_s = time.monotonic()
        result = cut_power(Path(folder), arguments.cuts, arguments.seed)
        print(f"{result} (seed {arguments.seed}, {time.monotonic() - began_s:.0f} s)")
    for line in result.wrong:
        print(line)
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    _main()
