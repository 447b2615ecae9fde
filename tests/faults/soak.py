"""Soak: a daemon under mixed faults and an occasional kill; fails on what grows, not on a peak.

    make soak MINUTES=60          (python tests/faults/soak.py --minutes 60 [--csv FILE])

Jobs are dropped as fast as a bounded number of unfinished ones allows, every kind of trouble among
them; whatever ended is checked against what was served and taken away, as a consumer would. Every
two seconds the process is measured. Through all samples behind the warm-up of each life a straight
line is fitted by least squares, with a common slope and an offset for each life; the growth along
that line over the longest life, less three standard errors, is held against ``TOLERATED``. So a
longer run sees smaller leaks.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.server import Handler, Server, content, file, flapping, status
from process import DaemonProcess, wait_until

SAMPLE_EVERY_S = 2.0
#: So much of each life is not judged, a third of a short one: interpreter, pools and caches fill.
WARM_UP_S = 60.0
#: A life lasts a quarter of the run, but at least this long.
LIFE_S = 200.0
#: Jobs that may be under way at once; more than the workers can do.
MOST_OPEN = 30
#: Servers that files are spread over. Each of them asks to be left alone for a second now and then,
#: which keeps all its files waiting: one alone would leave the daemon idle for most of the time.
SERVERS = 8
#: A job takes a few seconds, stalls and retries included.
SLOWEST_JOB_S = 60.0
SETTINGS = (
    "retry.poison=0",
    "retry.attempts=4",
    "retry.max_delay=1s",
    "timeout.stall=1s",
    "disk.reserve=0",
    "log.level=error",
)
#: How much may grow along the fitted line over a life: (at all, and more with each hour of it).
#: What memory does within a few minutes is mostly the allocator's; 1 MiB an hour is P23's measure.
TOLERATED: dict[str, tuple[float, float]] = {
    "own_mib": (4.0, 1.0),
    "fds": (4.0, 0.0),
    "threads": (1.0, 0.0),
    "queue_age_s": (10.0, 0.0),
}
#: SQLite keeps pages that it wrote, with a tenth of overhead, until its cache is full.
PAGE_CACHE_MIB = 1.1 * 16
#: The record of a task that ended, indexes and all, until the history is pruned.
DB_BYTES_A_TASK = 3000.0


@dataclass(frozen=True)
class Sample:
    at_s: float
    life: int
    rss_mib: float
    fds: int
    threads: int
    db_bytes: int
    db_new_bytes: int  # by how much it has grown in this life
    queue_age_s: float
    files: int  # ended until now

    @property
    def own_mib(self) -> float:
        """Resident memory but for SQLite's page cache."""
        return self.rss_mib - min(1.1 * self.db_new_bytes / 2**20, PAGE_CACHE_MIB)


class Lives:
    """The samples that are judged, by lives."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._lives: list[list[Sample]] = []
        for _, group in groupby(samples, lambda sample: sample.life):
            life = list(group)
            warm_up_s = min(WARM_UP_S, _span_s(life) / 3)
            self._lives.append([s for s in life if s.at_s - life[0].at_s >= warm_up_s])

    @property
    def span_s(self) -> float:
        """The longest time that was judged at a stretch."""
        return max(map(_span_s, self._lives))

    def values(self, name: str) -> list[float]:
        return [getattr(sample, name) for life in self._lives for sample in life]

    def growth(self, name: str) -> tuple[float, float]:
        """Return by how much a figure grew along the common line over the longest life.

        And the standard error of that: how far chance alone may have moved it.
        """
        ways: list[tuple[float, float]] = []  # from the means of the life: (time, figure)
        for life in self._lives:
            mean_s = sum(sample.at_s for sample in life) / len(life)
            mean = sum(getattr(sample, name) for sample in life) / len(life)
            ways += [(sample.at_s - mean_s, getattr(sample, name) - mean) for sample in life]
        square = sum(x * x for x, _ in ways)
        free = len(ways) - len(self._lives) - 1
        if not square or free < 1:
            return 0.0, math.inf
        slope = sum(x * y for x, y in ways) / square
        left = sum((y - slope * x) ** 2 for x, y in ways)
        return slope * self.span_s, math.sqrt(left / free / square) * self.span_s

    def verdict(self) -> Iterator[str]:
        """Yield what grew more than is tolerated and more than chance explains."""
        minutes = self.span_s / 60
        for name, (at_all, an_hour) in TOLERATED.items():
            most = at_all + an_hour * minutes / 60
            grown, error = self.growth(name)
            if grown - 3 * error > most:
                yield (
                    f"{name} grew by {grown:.1f} (+-{error:.1f}) in {minutes:.0f} min; "
                    f"{most:.1f} is tolerated"
                )
        files, _ = self.growth("files")
        grown, error = self.growth("db_bytes")
        if grown - 3 * error > files * DB_BYTES_A_TASK:
            yield (
                f"the database grew by {grown:.0f} bytes with {files:.0f} files; "
                f"{DB_BYTES_A_TASK:.0f} are tolerated for each"
            )


def _span_s(life: Sequence[Sample]) -> float:
    return life[-1].at_s - life[0].at_s


# ---------------------------------------------------------------- the load


def _garbled(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def _troubles(body: bytes) -> dict[str, tuple[int, Handler, bool]]:
    """Each kind of file: its weight, how it is served, and whether it can be had at all."""
    good, half = file(body), len(body) // 2
    return {
        "whole": (30, good, True),
        "slow": (4, file(body, rate=200_000), True),
        "chunked": (4, file(body, chunked=9000), True),
        "no-validator": (3, file(body, etag=None, last_modified=None), True),
        "cut": (6, flapping(file(body, cut_after=half), good), True),
        "reset": (6, flapping(file(body, cut_after=half, reset=True), good), True),
        "stall": (2, flapping(file(body, stall_after=half), good), True),
        "busy": (4, flapping(status(503), status(429, headers={"Retry-After": "1"}), good), True),
        "ignores-range": (3, flapping(file(body, cut_after=half), file(body, ranges=False)), True),
        "garbled-once": (3, flapping(file(_garbled(body)), good), True),
        "garbled": (1, file(_garbled(body)), False),
        "missing": (2, status(404), False),
        "forbidden": (1, status(403), False),
    }


class Load:
    """Drops jobs, and checks and takes away what has ended. One thread."""

    def __init__(
        self, servers: Sequence[Server], daemon: DaemonProcess, dice: random.Random
    ) -> None:
        self._servers = servers
        self._daemon = daemon
        self._dice = dice
        self._number = 0
        self._open: dict[str, tuple[float, dict[str, str | None]]] = {}  # since, path -> digest
        self._routes: dict[str, Server] = {}  # of the files of open jobs
        self.jobs = 0
        self.files = 0
        self.wrong: list[str] = []

    def drop(self) -> None:
        """Drop one job if not too many are under way."""
        if len(self._open) >= MOST_OPEN:
            return
        self._number += 1
        job = f"j{self._number}"
        kind = self._dice.choice(("yaml", "yaml", "yaml", "urls"))
        lines, expected = [], {}
        for index in range(self._dice.randint(1, 20 if kind == "urls" else 4)):
            line, digest = self._file(f"{job}-{index}")
            lines.append(line)
            expected[f"{job}-{index}"] = digest
        text = "\n".join(lines) if kind == "urls" else "urls:\n  - " + "\n  - ".join(lines)
        self._open[job] = time.monotonic(), expected
        self._daemon.drop(f"{job}.{kind}", text + "\n")

    def oldest_s(self) -> float:
        """Return since when the oldest job that has not ended has been waiting."""
        now_s = time.monotonic()
        return max((now_s - since_s for since_s, _ in self._open.values()), default=0.0)

    def collect(self) -> None:
        """Check the files of jobs that ended, then remove them, the job and its reports."""
        for place in ("done", "failed"):
            for path in (self._daemon.jobs / place).iterdir():
                job = path.stem
                if job in self._open:
                    self._check(job, place)
                path.unlink()
                for report in (self._daemon.jobs / "reports").glob(f"{job}.*"):
                    report.unlink()

    def all_collected(self) -> bool:
        self.collect()
        return not self._open

    def _check(self, job: str, place: str) -> None:
        since_s, expected = self._open.pop(job)
        took_s = time.monotonic() - since_s
        if took_s > SLOWEST_JOB_S:
            self.wrong.append(f"{job} took {took_s:.0f} s")
        if (place == "failed") != (None in expected.values()):
            self.wrong.append(f"{job} ended in {place}/")
        for name, digest in expected.items():
            path = self._daemon.downloads / name
            found = None
            with suppress(FileNotFoundError):
                found = hashlib.sha256(path.read_bytes()).hexdigest()
                path.unlink()
            if found != digest:
                self.wrong.append(f"{name}: {found} instead of {digest}")
            del self._routes.pop(name).routes[f"/{name}"]
        self.jobs += 1
        self.files += len(expected)

    def _file(self, name: str) -> tuple[str, str | None]:
        """Serve one more file; returns its line in a job and its digest, None: not to be had."""
        body = content(name, int(2 ** self._dice.uniform(4, 20)))
        kinds = _troubles(body)
        kind = self._dice.choices(list(kinds), [weight for weight, _, _ in kinds.values()])[0]
        _, handler, fine = kinds[kind]
        server = self._routes[name] = self._dice.choice(self._servers)
        server.routes[f"/{name}"] = handler
        digest = hashlib.sha256(body).hexdigest()
        return f"{server.url('/' + name)} sha256:{digest}", digest if fine else None


def _db_bytes(daemon: DaemonProcess) -> int:
    path = daemon.state / "fetchd.db"
    return path.stat().st_size if path.exists() else 0


def _sample(daemon: DaemonProcess, load: Load, at_s: float, life: int, db_bytes: int) -> Sample:
    """Measure; ``db_bytes`` is what the database had at the begin of this life."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    said = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(
        at_s=round(at_s, 1),
        life=life,
        rss_mib=round(int(said["VmRSS"].split()[0]) / 1024, 2),
        fds=len(list((process / "fd").iterdir())),
        threads=int(said["Threads"]),
        db_bytes=(now_bytes := _db_bytes(daemon)),
        db_new_bytes=now_bytes - db_bytes,
        queue_age_s=round(load.oldest_s(), 1),
        files=load.files,
    )


@dataclass
class Result:
    samples: list[Sample]
    jobs: int
    files: int
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        judged = Lives(self.samples)
        lives = self.samples[-1].life
        minutes = self.samples[-1].at_s / 60
        lines = [f"{minutes:.1f} min, {lives} lives, {self.jobs} jobs, {self.files} files"]
        for name in ("rss_mib", *TOLERATED, "db_bytes"):
            values = judged.values(name)
            grown, error = judged.growth(name)
            lines.append(
                f"  {name:12} first {values[0]:>12g}  last {values[-1]:>12g}  "
                f"most {max(values):>12g}  growth in a life {grown:>+12.2f} +-{error:.2f}"
            )
        return "\n".join(lines)


def soak(folder: Path, minutes: float, seed: int, life_s: float | None = None) -> Result:
    """Run a daemon under load for so long; kill it after each life and start it again."""
    life_s = life_s or max(LIFE_S, minutes * 60 / 4)
    dice = random.Random(seed)
    daemon = DaemonProcess(folder, *SETTINGS)
    samples: list[Sample] = []
    began_s = time.monotonic()
    ends_s = began_s + minutes * 60
    with ExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(SERVERS)]
        stack.enter_context(daemon)
        load = Load(servers, daemon, dice)
        life = 0
        while (now_s := time.monotonic()) < ends_s:
            life += 1
            until_s = min(ends_s, now_s + life_s)
            daemon.start()
            wait_until((daemon.jobs / "failed").is_dir, what="the start")
            _live(daemon, load, until_s, samples, began_s, life)
            daemon.kill()
            for server in servers:
                server.requests.clear()
        daemon.start()
        wait_until(load.all_collected, SLOWEST_JOB_S, "the last jobs")
        code = daemon.terminate()
    result = Result(samples, load.jobs, load.files, load.wrong)
    if code != 0:
        result.wrong.append(f"the daemon ended with {code}")
    result.wrong += Lives(samples).verdict()
    return result


def _live(
    daemon: DaemonProcess,
    load: Load,
    until_s: float,
    samples: list[Sample],
    began_s: float,
    life: int,
) -> None:
    next_sample_s = time.monotonic()
    db_bytes = _db_bytes(daemon)
    while (now_s := time.monotonic()) < until_s:
        load.drop()
        load.collect()
        if now_s >= next_sample_s:
            next_sample_s += SAMPLE_EVERY_S
            samples.append(_sample(daemon, load, now_s - began_s, life, db_bytes))
        time.sleep(0.05)


def _write_csv(path: Path, samples: Sequence[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, [column.name for column in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)


def _main() -> None:
    parser = argparse.ArgumentParser(description="run a daemon under faults and watch what grows")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("build/soak.csv"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(Path(folder), arguments.minutes, arguments.seed)
    _write_csv(arguments.csv, result.samples)
    print(result)
    print(f"  all samples: {arguments.csv}")
    for line in result.wrong:
        print(f"WRONG: {line}")
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    _main()
