"""The download roots as they are: for whoever asks what a job would do, and may change nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from fetchd.clock import Failpoints, SystemClock
from fetchd.disk import DownloadDisk
from fetchd.disk.generations import Shelves
from fetchd.disk.journal import read_journal
from fetchd.disk.part import Unjournalled, find_folder, part_name
from fetchd.disk.publish import Publisher
from fetchd.disk.roots import Folder, Root, RootSpec, shown
from fetchd.disk.source import SourceFile
from fetchd.disk.space import Space
from fetchd.disk.staging import Held
from fetchd.disk.system import SystemOs
from fetchd.errors import AttemptError
from fetchd.model import StepSpec
from fetchd.ports import Existing

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Room(NamedTuple):
    """A file system below a root. ``folder``: its topmost one that is there."""

    device: int
    folder: str
    free_bytes: int
    capacity_bytes: int


class ReadOnlyOs(SystemOs):
    """The machine, of which nothing can be changed: whatever is called, the disk stays as it is."""

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        if flags & _WRITES:
            _refuse()
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:  # noqa: ARG002
        _refuse()

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:  # noqa: ARG002
        _refuse()

    def truncate(self, fd: int, size_bytes: int) -> None:  # noqa: ARG002
        _refuse()

    def fsync(self, fd: int) -> None:  # noqa: ARG002
        _refuse()

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:  # noqa: ARG002
        _refuse()

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:  # noqa: ARG002
        _refuse()

    def rename_new(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:  # noqa: ARG002
        _refuse()

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:  # noqa: ARG002
        _refuse()

    def unlink(self, path: str, *, dir_fd: int) -> None:  # noqa: ARG002
        _refuse()


class StandingDisk(DownloadDisk):
    """What stands below the roots now. A root that is not there yet is empty."""

    def __init__(self, roots: Mapping[str, RootSpec]) -> None:
        """Raise ConfigError for a root that cannot be looked at."""
        self._os = ReadOnlyOs()
        self._paths = {name: spec.path for name, spec in roots.items()}
        clock, unjournalled, held = SystemClock(), Unjournalled(), Held()
        opened: dict[str, Root] = {}
        try:
            for name, spec in roots.items():
                if Path(spec.path).is_dir():
                    opened[name] = Root(name, spec, self._os, as_it_is=True)
        except BaseException:
            for root in opened.values():
                root.close()
            raise
        self._opened = opened
        shelves = Shelves(opened, self._os, Failpoints(), _keep)
        publisher = Publisher(
            opened, self._os, unjournalled, Failpoints(), clock, held, shelves, sync=_keep, most=1
        )
        super().__init__(
            opened, self._os, publisher, Space(0, clock), unjournalled, held, shelves, _keep
        )

    def existing(self, root: str, path: str) -> Existing | None:
        return None if self._is_missing(root) else super().existing(root, path)

    def stands(
        self,
        root: str,
        path: str,
        steps: Sequence[StepSpec],
        values: Sequence[tuple[str, str]] = (),
        *,
        same: bool,
    ) -> bool:
        if self._is_missing(root):
            return False
        with suppress(AttemptError):  # what was made only the daemon's user may look up
            return super().stands(root, path, steps, values, same=same)
        return False

    def open_below(self, root: str, path: str) -> SourceFile:
        if self._is_missing(root):
            raise AttemptError("not_found", f"{root}:{shown(path)}: the root is not there yet")
        return super().open_below(root, path)

    def sync_existing(self, root: str, path: str) -> None:
        """Change nothing: it is only looked at."""

    def room(self, root: str, path: str) -> Room:
        """Return the room on the file system that a destination would lie on; AttemptError."""
        if self._is_missing(root):
            folder = Path(self._paths[root]).absolute()
            while not folder.is_dir():
                folder = folder.parent
            fd = self._os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
            try:
                return self._room(fd, str(folder))
            finally:
                os.close(fd)
        home = self._opened[root].place(self._at(root, path)).home
        return self._room(home.fd, str(Path(self._opened[root].path) / home.home_path))

    def held_bytes(self, root: str, path: str) -> int:
        """Return how much of a destination's file lies in a part of it already."""
        if self._is_missing(root):
            return 0
        with suppress(OSError, AttemptError):
            folder: Folder | None = find_folder(
                self._os, self._opened[root].place(self._at(root, path)).home
            )
            if folder is not None:
                said = read_journal(self._os, folder.fd, part_name(root, path))
                if said is not None and said[:2] == (root, path):
                    return said[2].held_bytes
        return 0

    def _is_missing(self, root: str) -> bool:
        return root in self._paths and root not in self._opened

    def _room(self, fd: int, folder: str) -> Room:
        return Room(
            device=self._os.device(fd),
            folder=folder,
            free_bytes=self._os.free_bytes(fd),
            capacity_bytes=self._os.capacity_bytes(fd),
        )


def _keep(_fd: int) -> None:
    pass


def _refuse() -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
