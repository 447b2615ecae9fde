"""Records of what steps have made: a line for each file, by which it is known again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fetchd.disk.roots import HIDDEN, Folder, find_hidden, make_hidden
from fetchd.model import StepSpec
from fetchd.ports import Os

MADE = "made"
_ALL_MADE = f"{HIDDEN}/{MADE}"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_LONGEST_HEAD = 64 * 1024
ANY: Mapping[str, str] = {}


class Record(NamedTuple):
    """One file, or link, that steps have made; ``path`` is below the destination's folder."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int

    def is_at(self, folder_fd: int, *, same: bool) -> bool:
        """Tell whether it stands there; ``same``: and was not changed since."""
        try:
            found = os.stat(self.path, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:
            return False
        now = (found.st_size, found.st_mtime_ns, found.st_ino)
        return not same or now == (self.size_bytes, self.mtime_ns, self.inode)


def find_made(system: Os, home: Folder) -> Folder | None:
    """Return the folder of the records of what was made, None: there is none."""
    return find_hidden(system, home, _ALL_MADE)


def make_made(system: Os, home: Folder, sync: Callable[[int], None]) -> Folder:
    """Return the folder of the records, made if need be."""
    return find_made(system, home) or make_hidden(system, home, MADE, sync)


def read_made(
    system: Os, folder: Folder, part: str, said: Mapping[str, str] = ANY
) -> Iterator[Record] | None:
    """Return the records of what steps have made under a name, None: there are none.

    ``said``: what the head of the record has to say, such as ``by_steps`` does. They are read from
    the disk as they are asked for.
    """
    try:
        fd = system.open(part, _FILE, dir_fd=folder.fd)
    except FileNotFoundError:
        return None
    return _records(fd, said)


def made_of(system: Os, folder: Folder, part: str) -> tuple[str, str, float]:
    """Return whose record this is, root and path, "" where nothing tells, and since when it is."""
    try:
        fd = system.open(part, _FILE, dir_fd=folder.fd)
    except OSError:
        return "", "", math.inf
    since_s = os.fstat(fd).st_ctime
    with os.fdopen(fd, encoding="ascii", errors="strict") as file:
        try:
            head = json.loads(file.readline(_LONGEST_HEAD))
            return str(head["root"]), str(head["path"]), since_s
        except (ValueError, KeyError, TypeError):
            return "", "", since_s


def _records(fd: int, said: Mapping[str, str]) -> Iterator[Record] | None:
    file = os.fdopen(fd, encoding="ascii", errors="strict")
    try:
        head = file.readline()
        if said and not said.items() <= json.loads(head).items():
            file.close()
            return None
    except (ValueError, AttributeError):
        file.close()
        return None

    def lines() -> Iterator[Record]:
        with file:
            for line in file:
                try:
                    yield Record(*json.loads(line))
                except (ValueError, TypeError):  # it was torn: nothing is like it
                    yield Record("", -1, -1, -1)

    return lines()


def by_steps(steps: Sequence[StepSpec], values: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return what tells these steps with these values from others, for the head of a record."""
    said: list[object] = [[step.name, dict(step.options)] for step in steps]
    text = json.dumps([*said, *([dict(values)] if values else [])], sort_keys=True)
    return {"steps": hashlib.sha256(text.encode()).hexdigest()}
