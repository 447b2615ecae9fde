"""The rate of `extract` beside GNU tar's, unzip's and 7-Zip's, for archives of a few large members.

Each extracts the same archive, in turn, into a fresh folder; the best of several times counts, and
the ratio of both. Nothing is synced by either side, so that the archives' readers are compared and
not the disk. Meaningful only as ratios, and on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fetchd.disk import RootSpec, build
from fetchd.model import Finished
from workshop import Workshop, steps_of

MIB = 1024 * 1024
WHAT: dict[str, tuple[list[str], list[str]]] = {
    "tar": (["tar", "-cf"], ["tar", "-xf"]),
    "tar.gz": (["tar", "-czf"], ["tar", "-xzf"]),
    "tar.bz2": (["tar", "-cjf"], ["tar", "-xjf"]),
    "tar.xz": (["tar", "-cJf"], ["tar", "-xJf"]),
    "tar.zst": (["tar", "--zstd", "-cf"], ["tar", "--zstd", "-xf"]),
    "zip": (["zip", "-qr"], ["unzip", "-q"]),
    "zip, stored": (["zip", "-qr0"], ["unzip", "-q"]),
    "7z": (["7zz", "a", "-bso0", "-bsp0"], ["7zz", "x", "-bso0", "-bsp0"]),
    "7z, bzip2": (["7zz", "a", "-bso0", "-bsp0", "-m0=bzip2"], ["7zz", "x", "-bso0", "-bsp0"]),
    "7z, stored": (["7zz", "a", "-bso0", "-bsp0", "-mx=0"], ["7zz", "x", "-bso0", "-bsp0"]),
}


def best_s(times: int, work: Callable[[Path], None], base: Path) -> float:
    spent = []
    for _ in range(times):
        folder = base / "out"
        folder.mkdir()
        began_s = time.perf_counter()
        work(folder)
        spent.append(time.perf_counter() - began_s)
        shutil.rmtree(folder)
    return min(spent)


def ours(archive: Path, base: Path) -> float:
    """Return how long the step itself takes: the part is there, what it makes is not synced."""
    shop = Workshop(base / "root")
    shop.disk.close()
    shop.disk = build({"default": RootSpec(path=str(base / "root"))}, durability="none")
    shop.finisher._disk = shop.disk
    options = {"extract": {"max_ratio": "100000"}}
    attempt = shop.verified("a", archive.read_bytes(), steps_of(options))
    began_s = time.perf_counter()
    outcome = shop.finisher(attempt)
    spent_s = time.perf_counter() - began_s
    assert isinstance(outcome, Finished), outcome
    shop.close()
    shutil.rmtree(base / "root")
    return spent_s


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--mib", type=int, default=512)
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--what", nargs="*", default=list(WHAT))
    options.add_argument("--dir", default=None, help="where, such as a disk that is meant")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as name:
        base = Path(name)
        (base / "in").mkdir()
        rest = random.Random(1)
        words = [rest.randbytes(12).hex().encode() for _ in range(5000)]
        for number in range(4):
            with (base / "in" / f"f{number}").open("wb") as file:
                for _ in range(given.mib // 4):
                    text = b" ".join(rest.choices(words, k=MIB // 25))
                    file.write(text.ljust(MIB))
        print(
            f"{'':12} {'ours':>10} {'theirs':>10}  ratio  ({given.mib} MiB, best of {given.times})"
        )
        for kind in given.what:
            pack, unpack = WHAT[kind]
            archive = base / f"a.{kind.split(',')[0]}"
            archive.unlink(missing_ok=True)
            subprocess.run([*pack, archive, "."], cwd=base / "in", check=True)

            def theirs(folder: Path, unpack=unpack, archive=archive) -> None:
                subprocess.run([*unpack, archive], cwd=folder, check=True)

            mine_s = their_s = float("inf")
            for _ in range(given.times):  # in turn, so that both meet the same weather
                mine_s = min(mine_s, ours(archive, base))
                their_s = min(their_s, best_s(1, theirs, base))
            print(
                f"{kind:12} {given.mib / mine_s:6.0f} MiB/s {given.mib / their_s:6.0f} MiB/s  "
                f"{their_s / mine_s:.2f}",
                flush=True,
            )
            archive.unlink()
            os.sync()


if __name__ == "__main__":
    main()
