"""What a name in the drop folder stands for."""

from __future__ import annotations

import enum
import os
import stat
from pathlib import PurePath

from fetchd.digests.sums import is_sums_file
from fetchd.expand import LIST_SUFFIXES
from fetchd.folder.places import SUBFOLDERS

#: What holds for all job files of a subfolder.
DEFAULTS = "_defaults.yaml"


class Kind(enum.Enum):
    JOB = enum.auto()
    LIST = enum.auto()
    COMMAND = enum.auto()
    UNKNOWN = enum.auto()
    IGNORED = enum.auto()


_KINDS = {
    ".yaml": Kind.JOB,
    ".yml": Kind.JOB,
    ".json": Kind.JOB,
    ".aria2": Kind.JOB,
    **dict.fromkeys(LIST_SUFFIXES, Kind.LIST),
    ".cancel": Kind.COMMAND,
    ".retry": Kind.COMMAND,
    ".pause": Kind.COMMAND,
    ".resume": Kind.COMMAND,
    ".backfill": Kind.COMMAND,
}
ENDINGS = ", ".join(
    [
        *(end for end, kind in _KINDS.items() if kind in {Kind.JOB, Kind.LIST}),
        ".sha256 and the like",
    ]
)
_HIDDEN = (".", "_", "#")
_UNFINISHED = ("~", ".tmp", ".part", ".swp", ".bak")


def kind_of(name: str) -> Kind:
    """Return what a name in the drop folder stands for."""
    base = name.rpartition("/")[2]
    if name in SUBFOLDERS or base.startswith(_HIDDEN) or name.endswith(_UNFINISHED):
        return Kind.IGNORED
    kind = _KINDS.get(os.path.splitext(name)[1])  # noqa: PTH122 -- ten times faster
    return kind or (Kind.LIST if is_sums_file(base) else Kind.UNKNOWN)


def meant(name: str) -> str:
    """Return the name that would be read, "" unless only the case of the ending is wrong."""
    pure = PurePath(name)
    ending = pure.suffix.lower()
    return pure.stem + ending if ending in _KINDS and ending != pure.suffix else ""


def is_job(name: str) -> bool:
    return kind_of(name) in {Kind.JOB, Kind.LIST}


def not_regular(kind: Kind, mode: int) -> str:
    if kind is Kind.UNKNOWN and stat.S_ISDIR(mode):
        return f"is a folder without a {DEFAULTS}; only with one are the job files in it read"
    what = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(mode), "a device")
    return f"is {what}; only regular files are taken"
