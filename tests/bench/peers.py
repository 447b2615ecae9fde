"""fetchd beside the downloaders that are installed, on loopback, every byte compared.

    make bench          (python tests/bench/peers.py [--workloads S,SD] [--runs 7] ...)

Starts its own nginx, lets every tool do every workload in turn, the order drawn anew in each
round, and prints medians (least..most) and how much longer than the best peer each one took: the
median of the ratios within a round. Figures, no verdicts; run it on a machine that is idle.

Workloads: L1 L4 M S S64 LAT LAT64; with T over TLS, with D each file's sha256 verified (peers that
cannot: openssl on two cores afterwards), as in L1TD. fetchd is there as NAME-warm (a daemon that
waits, from the rename of the job file to the last report) and NAME-once (fetchd run --once).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peer_measure import GNU_TIME, Failed, Measured, measure, prefault, settle
from bench.peer_ours import Once, Warm
from bench.peer_server import Nginx
from bench.peer_tools import PEERS, CannotDo, Case, command, installed
from bench.peer_workloads import DataSet, Workload, generate, sizes, workload, wrong_files

USUAL = "L1,L4,M,S,S64,L1D,MD,SD,L1T,MT,ST,LAT,LAT64"
SLOW_FACTOR = 4  # a tool so many times slower than the fastest is not run to the last round


WAYS: dict[str, type[Warm | Once]] = {"warm": Warm, "once": Once}


class Contestant(Protocol):
    """One tool, set up for one workload."""

    target: Path

    def prepare(self) -> None: ...
    def run(self, timeout_s: float) -> Measured: ...
    def close(self) -> None: ...


class Peer:
    def __init__(self, name: str, case: Case) -> None:
        self._command = command(name, case)
        self._case = case
        self.target = case.target

    def prepare(self) -> None:
        self.target.mkdir()

    def run(self, timeout_s: float) -> Measured:
        words = ["sh", "-ec", self._command]
        home = str(self._case.lists)  # nobody's own settings
        environ = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": home}
        return measure(words, self._case.lists / "said", timeout_s, environ)

    def close(self) -> None:
        pass


@dataclass
class Outcome:
    """What one tool did in one workload: its runs by round, or why there are none."""

    ours: bool
    runs: dict[int, Measured] = field(default_factory=dict)
    dropped: str = ""

    def median(self, figure: Callable[[Measured], float]) -> float:
        return statistics.median(map(figure, self.runs.values()))

    @property
    def wall_s(self) -> float:
        return self.median(lambda run: run.wall_s)

    def ratio(self, other: Outcome) -> float:
        """How much longer this takes than the other: the median over the rounds both were in."""
        both = self.runs.keys() & other.runs.keys()
        return statistics.median(self.runs[n].wall_s / other.runs[n].wall_s for n in both)


def contestants(case: Case, options: argparse.Namespace) -> dict[str, Callable[[], Contestant]]:
    """Everything that takes part, by name, not yet set up."""
    chosen = options.tools.split(",")
    made: dict[str, Callable[[], Contestant]] = {}
    for peer in PEERS:
        if peer in chosen and installed(peer):
            made[peer] = partial(Peer, peer, case)
    for name, program in options.ours:
        for way in options.ways:
            full = f"{name}-{way}"
            made[full] = partial(WAYS[way], program, case.target.with_name(full), case)
    return made


def compete(case: Case, options: argparse.Namespace, dice: random.Random) -> dict[str, Outcome]:
    """All rounds of one workload; round -1 warms up and is not counted."""
    ours = {f"{name}-{way}" for name, _ in options.ours for way in options.ways}
    outcomes: dict[str, Outcome] = {}
    ready: dict[str, Contestant] = {}
    with ExitStack() as stack:
        for name, make in contestants(case, options).items():
            outcomes[name] = Outcome(ours=name in ours)
            try:
                ready[name] = make()
            except (CannotDo, Failed) as why:
                outcomes[name].dropped = str(why)
            else:
                stack.callback(ready[name].close)
        warm_up: dict[str, float] = {}
        for number in range(-1, options.runs):
            names = sorted(ready)
            dice.shuffle(names)
            for name in names:
                outcome = outcomes[name]
                too_slow = warm_up.get(name, 0) > SLOW_FACTOR * min(warm_up.values(), default=0)
                if outcome.dropped or (too_slow and number >= options.slow_runs):
                    continue
                try:
                    measured = one_run(ready[name], case, options.timeout)
                except Failed as why:
                    outcome.dropped = str(why)
                    ready[name].close()
                    continue
                if number < 0:
                    warm_up[name] = measured.wall_s
                else:
                    outcome.runs[number] = measured
    return outcomes


def one_run(tool: Contestant, case: Case, timeout_s: float) -> Measured:
    try:
        tool.prepare()
        settle(case.target.parent)
        prefault(case.data.total_bytes + case.data.total_bytes // 4)
        measured = tool.run(timeout_s)
        if wrong := wrong_files(case.data, tool.target):
            raise Failed(f"{wrong} of {len(case.data.files)} files missing or not as served")
        return measured
    finally:
        shutil.rmtree(tool.target, ignore_errors=True)


def best_peer(outcomes: Mapping[str, Outcome]) -> str | None:
    peers = [name for name, outcome in outcomes.items() if outcome.runs and not outcome.ours]
    return min(peers, key=lambda name: outcomes[name].wall_s, default=None)


def show(case: Case, outcomes: Mapping[str, Outcome], options: argparse.Namespace) -> None:
    best = best_peer(outcomes)
    print(f"\n### {case.workload.name}: {case.what}\n")
    if bound_s := case.workload.bound_s(len(case.data.files)):
        print(f"No tool can take less than {bound_s:.2f} s.\n")
    print("| tool | wall s: median (least..most) | of the best peer's | CPU s | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    ran = [name for name, outcome in outcomes.items() if outcome.runs]
    for name in sorted(ran, key=lambda name: outcomes[name].wall_s):
        outcome = outcomes[name]
        walls = [run.wall_s for run in outcome.runs.values()]
        ratio = f"{outcome.ratio(outcomes[best]):.2f}" if best else "-"
        few = f" ({len(walls)} runs)" if len(walls) != options.runs else ""
        print(
            f"| {name}{few} | {outcome.wall_s:.3f} ({min(walls):.3f}..{max(walls):.3f}) | {ratio}"
            f" | {outcome.median(lambda run: run.cpu_s):.2f}"
            f" | {outcome.median(lambda run: run.peak_mib):.0f} |"
        )
    for name, outcome in outcomes.items():
        if outcome.dropped:
            print(f"\n{name}: left out, {outcome.dropped}")
    first, *others = (name for name, _ in options.ours)
    for other, way in itertools.product(others, options.ways):
        one, two = (outcomes[f"{name}-{way}"] for name in (first, other))
        if one.runs.keys() & two.runs.keys():
            print(f"\n{other}-{way}: {two.ratio(one):.2f} of {first}-{way}")
    sys.stdout.flush()


def record(case: Case, outcomes: Mapping[str, Outcome]) -> dict[str, object]:
    best = best_peer(outcomes)
    tools = {
        name: {
            "wall_s": outcome.wall_s if outcome.runs else None,
            "ratio": outcome.ratio(outcomes[best]) if best and outcome.runs else None,
            "dropped": outcome.dropped or None,
            "runs": {number: asdict(run) for number, run in outcome.runs.items()},
        }
        for name, outcome in outcomes.items()
    }
    return {"what": case.what, "best_peer": best, "tools": tools}


def say_conditions(options: argparse.Namespace, seed: int) -> None:
    print(
        f"{options.runs} rounds behind one to warm up, seed {seed}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f}, downloads below {options.dir}, served from"
        f" {options.data}.\nfetchd makes every file durable before it shows it; the peers sync"
        " nothing. Where downloads are in memory (tmpfs) a sync costs next to nothing: give --dir"
        " on a disk to see it."
    )
    if options.smaller > 1:
        print(f"All but the big file with a {options.smaller}th of the files.")
    for peer in filter(None, options.tools.split(",")):
        if not installed(peer):
            print(f"{peer}: not installed, left out")
    if not GNU_TIME.exists():
        print(f"{GNU_TIME} is missing: the memory of peers has this script's own as a floor")


def build(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    program = Path(path).absolute()
    if not (name and equals) or not os.access(program, os.X_OK) or program.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: wanted NAME=PATH of a fetchd program")
    return name, program


def workloads(text: str) -> list[Workload]:
    try:
        return [workload(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def ways(text: str) -> list[str]:
    if unknown := set(text.split(",")) - WAYS.keys():
        raise argparse.ArgumentTypeError(f"{' '.join(unknown)}: there are {' '.join(WAYS)}")
    return text.split(",")


def tools(text: str) -> str:
    for name in filter(None, text.split(",")):
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name}: no peer; there are {' '.join(PEERS)}")
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", type=workloads, default=USUAL, help=f"default: {USUAL}")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count")
    parser.add_argument("--slow-runs", type=int, default=2, help="rounds of tools far behind")
    parser.add_argument("--tools", type=tools, default=",".join(PEERS), help="peers to run")
    parser.add_argument("--ways", type=ways, default="warm,once", help="how fetchd runs")
    parser.add_argument(
        "--ours", type=build, action="append", metavar="NAME=PATH", help="a fetchd; may be repeated"
    )
    parser.add_argument("--big-mib", type=int, default=1024, help="size of the big file")
    parser.add_argument("--smaller", type=int, default=1, help="divide the number of small files")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where downloads go")
    parser.add_argument("--data", type=Path, default=Path("/dev/shm"), help="what is served")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one run")
    parser.add_argument("--server-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, help="of the order in the rounds")
    parser.add_argument("--json", type=Path, help="write every run there too")
    options = parser.parse_args()
    options.ours = options.ours or [build(f"fetchd={Path(sys.executable).with_name('fetchd')}")]
    return options


def run(options: argparse.Namespace) -> bool:
    """All workloads; whether fetchd did every one of them."""
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    dice = random.Random(seed)
    say_conditions(options, seed)
    results = {}
    all_done = True
    with ExitStack() as stack:
        served, base, etc = (
            Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="fetchd-bench-", dir=place))
            )
            for place in (options.data, options.dir, None)
        )
        nginx = stack.enter_context(Nginx(etc, served, options.server_workers))
        made: dict[str, DataSet] = {}
        for work in options.workloads:
            if work.shape.slow and not nginx.can_be_slow:
                print(
                    f"\n{work.name}: left out, needs nginx's echo module (libnginx-mod-http-echo)"
                )
                continue
            if (name := work.shape.data) not in made:
                count, size_bytes = sizes(options.big_mib, options.smaller)[name]
                made[name] = generate(served, name, count, size_bytes)
                settle(served)
            lists = etc / f"lists-{work.name}"
            lists.mkdir()
            case = Case(work, made[name], nginx.folder_url(work), base / "target", lists, nginx.ca)
            outcomes = compete(case, options, dice)
            show(case, outcomes, options)
            all_done &= not any(outcome.ours and outcome.dropped for outcome in outcomes.values())
            results[work.name] = record(case, outcomes)
            if options.json:
                about = {"kernel": platform.release(), "cores": os.cpu_count(), "seed": seed}
                about |= {"dir": str(options.dir), "data": str(options.data)}
                options.json.write_text(json.dumps(about | {"workloads": results}, indent=2))
    return all_done


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        sys.exit(0 if run(arguments()) else 1)
    except (RuntimeError, OSError) as error:
        sys.exit(f"peers.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
