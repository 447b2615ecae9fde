"""What the comparison fetches: the workloads by name, and the random files they are made of."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
LATENCY_S = 0.020


class Shape(NamedTuple):
    """Files of one size, how many go at once, and over how many connections each."""

    data: str
    at_once: int
    connections: int
    slow: bool = False  # LATENCY_S passes before each answer


SHAPES = {
    "L1": Shape("big", 1, 1),
    "L4": Shape("big", 1, 4),
    "M": Shape("m", 8, 1),
    "S": Shape("s", 16, 1),
    "S64": Shape("s64", 16, 1),
    "LAT": Shape("s1k", 16, 1, slow=True),
    "LAT64": Shape("s1k", 64, 1, slow=True),
}
NAME = re.compile(rf"({'|'.join(sorted(SHAPES, key=len, reverse=True))})(T?)(D?)")


@dataclass(frozen=True)
class Workload:
    name: str
    shape: Shape
    tls: bool
    verified: bool

    def bound_s(self, count: int) -> float:
        """What no tool can be faster than: the waits of the server, one after the other."""
        return count / self.shape.at_once * LATENCY_S if self.shape.slow else 0.0

    def what(self, count: int, size_bytes: int) -> str:
        size = f"{size_bytes >> 20} MiB" if size_bytes >= MIB else f"{size_bytes >> 10} KiB"
        shape = self.shape
        words = [f"{count:,} x {size}"]
        words += [f"{shape.at_once} at once"] * (shape.at_once > 1)
        words += [f"{shape.connections} connections"] * (shape.connections > 1)
        words += [f"{LATENCY_S * 1000:.0f} ms a request"] * shape.slow
        return ", ".join(words + ["TLS"] * self.tls + ["sha256 verified"] * self.verified)


def workload(name: str) -> Workload:
    """A shape's name, then T for TLS, then D for verified; ValueError for anything else."""
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError(f"{name}: no workload; there are {' '.join(SHAPES)}, each with T, D or TD")
    return Workload(name, SHAPES[found[1]], tls=bool(found[2]), verified=bool(found[3]))


class Source(NamedTuple):
    """One file that is served: its name and sha256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class DataSet:
    folder: Path
    size_bytes: int  # of each file
    files: tuple[Source, ...]

    @property
    def total_bytes(self) -> int:
        return self.size_bytes * len(self.files)


def generate(root: Path, name: str, count: int, size_bytes: int) -> DataSet:
    """Random files below ``root``, no two blocks of them equal."""
    folder = root / name
    folder.mkdir()
    files = []
    for number in range(count):
        digest, left = hashlib.sha256(), size_bytes
        path = folder / f"f{number:05}.bin"
        with path.open("wb") as out:
            while left:
                block = os.urandom(min(left, BLOCK_BYTES))
                out.write(block)
                digest.update(block)
                left -= len(block)
        files.append(Source(path.name, digest.hexdigest()))
    return DataSet(folder, size_bytes, tuple(files))


def sizes(big_mib: int, divide_by: int) -> dict[str, tuple[int, int]]:
    """Data set -> number and size of its files; ``divide_by``: fewer files, for a quick look."""
    return {
        "big": (1, big_mib * MIB),
        "m": (max(1, 64 // divide_by), 16 * MIB),
        "s": (max(1, 10_000 // divide_by), 4 << 10),
        "s64": (max(1, 1_000 // divide_by), 64 << 10),
        "s1k": (max(1, 1_000 // divide_by), 4 << 10),
    }


def wrong_files(data: DataSet, target: Path) -> int:
    """How many files are missing below ``target`` or differ in any byte."""
    return sum(not same(data.folder / file.name, target / file.name) for file in data.files)


def same(source: Path, copy: Path) -> bool:
    try:
        with source.open("rb", 0) as left, copy.open("rb", 0) as right:
            if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
                return False
            while block := left.read(MIB):
                if right.read(MIB) != block:
                    return False
    except FileNotFoundError:
        return False
    return True
