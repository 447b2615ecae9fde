"""The download roots: safe paths, parts with journals, durable publication.

The only room that touches a root. ``roots`` walks, ``part`` is what transfers write, ``journal``
says what is durable of it, in ``quarantine`` lies what was refused. ``staging`` keeps the folders
where steps work, ``bench`` is what they work at, ``gathering`` what they begin with where nothing
was fetched, ``made`` the record of what came of it, ``ending`` where they work at the end of a
run. ``publish`` and its ``tree`` alone make anything visible, ``generations`` and ``changeover``
what appears together; ``space`` lets no more transfers begin than fit, ``source`` is what jobs
copy; ``system`` is the machine behind them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from typing import Literal, Self

from fetchd.clock import Clock, Failpoints, SystemClock
from fetchd.disk.changeover import Changeover
from fetchd.disk.ending import stage_end
from fetchd.disk.gathering import Gathering, gather
from fetchd.disk.generations import FOLDER, Shelf, Shelves, path_in, status_at
from fetchd.disk.journal import read_journal
from fetchd.disk.made import by_steps, find_made, made_of, read_made
from fetchd.disk.part import (
    Unjournalled,
    find_folder,
    find_fresh,
    homes,
    lock,
    names,
    open_part,
    part_name,
    remove,
)
from fetchd.disk.publish import GROUP, Publisher
from fetchd.disk.quarantine import drop_quarantined, quarantined
from fetchd.disk.roots import Folder, Place, Root, RootSpec, existing_at, explained, shown
from fetchd.disk.source import SourceFile
from fetchd.disk.space import Space
from fetchd.disk.staging import Held, drop_paused, find_staging, remove_staging, stage, what_of
from fetchd.disk.system import SystemOs
from fetchd.errors import AttemptError
from fetchd.model import Attempt, Fetch, FileView, Finish, Job, Outcome, Publish, Run, StepSpec
from fetchd.ports import (
    Completed,
    Existing,
    FreshPart,
    GivenFile,
    Leftover,
    Os,
    Part,
    PartBusy,
    Staging,
)

__all__ = ["DownloadDisk", "RootSpec", "SystemOs", "build", "part_name"]

#: How published files become durable: by syncs that they share, by syncs for each alone, or when
#: the kernel likes. The checkpoints of parts are synced whichever it is.
Durability = Literal["group", "each", "none"]

_SLICE_BYTES = 1024 * 1024


def build(
    roots: Mapping[str, RootSpec],
    system: Os | None = None,
    failpoints: Failpoints | None = None,
    reserve_bytes: int = 0,
    clock: Clock | None = None,
    durability: Durability = "group",
) -> DownloadDisk:
    """Make and open the roots; raises ConfigError for one that cannot be written.

    ``reserve_bytes`` of each file system are never filled.
    """
    system = system or SystemOs()
    sync = _leave_to_kernel if durability == "none" else system.fsync
    with ExitStack() as undo:
        opened = {}
        for name, spec in roots.items():
            opened[name] = Root(name, spec, system, sync)
            undo.callback(opened[name].close)
        undo.pop_all()
    unjournalled, clock, held = Unjournalled(), clock or SystemClock(), Held()
    failpoints = failpoints or Failpoints()
    shelves = Shelves(opened, system, failpoints, sync)
    publisher = Publisher(
        opened,
        system,
        unjournalled,
        failpoints,
        clock,
        held,
        shelves,
        sync=sync,
        most=1 if durability == "each" else GROUP,
    )
    space = Space(reserve_bytes, clock, partial(drop_paused, system, held))
    return DownloadDisk(opened, system, publisher, space, unjournalled, held, shelves, sync)


def _leave_to_kernel(fd: int) -> None:
    """Do nothing: the kernel writes when it likes."""


class DownloadDisk:
    """``ports.Disk`` and ``LocalFiles`` over the roots, and what only the service asks of them.

    Any thread, except ``publish``: one thread.
    """

    def __init__(
        self,
        roots: Mapping[str, Root],
        system: Os,
        publisher: Publisher,
        space: Space,
        unjournalled: Unjournalled,
        held: Held,
        shelves: Shelves,
        sync: Callable[[int], None],
    ) -> None:
        self._shelves = shelves
        self.shelf: Shelf | None = None  # of the run whose paths are meant; None: as they say
        self._held = held
        self._roots = roots
        self._system = system
        self._space = space
        self._unjournalled = unjournalled
        self._publisher = publisher
        self._sync = sync

    def close(self) -> None:
        self._held.close()
        for root in self._roots.values():
            root.close()

    def of(self, job: Job, run: Run) -> Self:
        shelf = self._shelves.of(job, run)
        if shelf is None:
            return self
        seen = copy(self)
        seen.shelf = shelf
        return seen

    def open_part(self, root: str, path: str) -> AbstractContextManager[Part]:
        at = self._at(root, path)
        if self.shelf is not None and at != path:
            self.shelf.check_open()
        return open_part(self._system, self._space, self._unjournalled, self._root(root), path, at)

    def fresh(self, root: str, path: str) -> FreshPart | None:
        if self._at(root, path) != path:  # a file of a generation may stand in the one before
            return None
        return find_fresh(self._system, self._space, self._unjournalled, self._root(root), path)

    def stage(self, attempt: Finish) -> AbstractContextManager[Staging | None]:
        intent = attempt.intent
        root = self._root(intent.root)
        at = path_in(attempt.job, attempt.run, intent.root, intent.path)
        return stage(self._system, self._space, self._held, root, attempt, self._sync, at)

    def gather(
        self,
        attempt: Finish,
        given: Callable[[], Iterable[GivenFile]],
        said: str,
        tick: Callable[[], None],
    ) -> AbstractContextManager[Staging | None]:
        root, path = attempt.intent.root, attempt.intent.destination
        seen = self.of(attempt.job, attempt.run)
        return gather(
            self._system,
            self._space,
            self._held,
            self._root(root),
            attempt,
            self._sync,
            Gathering(self._system, self._roots, given, tick, seen.place_of, seen.shelf),
            said,
            self._root(root).place(path_in(attempt.job, attempt.run, root, path)),
            None if seen.shelf is None else seen.shelf.before(root, attempt.intent.path),
        )

    def stage_end(self, attempt: Finish) -> AbstractContextManager[Staging]:
        root = self._root(attempt.intent.root)
        return stage_end(self._system, self._held, root, attempt, self._sync)

    def stands(
        self,
        root: str,
        path: str,
        steps: Sequence[StepSpec],
        values: Sequence[tuple[str, str]] = (),
        *,
        same: bool,
    ) -> bool:
        for place in self._places(root, path):
            if place.missing:
                continue
            with explained(root, path, "looking for what steps have made"):
                made = find_made(self._system, place.home)
                if made is None:
                    continue
                said = by_steps(steps, values)
                records = read_made(self._system, made, part_name(root, path), said)
                if records is not None and all(
                    record.is_at(place.folder.fd, same=same) for record in records
                ):
                    return True
        return False

    def keep(self, attempt: Fetch | Finish) -> None:
        shelf = self._shelves.of(attempt.job, attempt.run)
        if shelf is not None:
            shelf.keep(attempt)

    def change_over(
        self,
        job: Job,
        run: Run,
        files: Iterable[FileView],
        passed_over: Collection[str],
        tick: Callable[[], None],
    ) -> Completed:
        shelf = self._shelves.of(job, run)
        assert job.generations is not None
        if shelf is None:
            self._root(job.generations.root)  # raises
            raise AssertionError(job.generations.root)
        return Changeover(shelf, files, passed_over, tick).carry_out()

    def home(self, root: str, path: str) -> str:
        return self._root(root).place(self._at(root, path)).home.home_path

    def existing(self, root: str, path: str) -> Existing | None:
        return existing_at(self.place_of(root, path), root, path)

    def _at(self, root: str, path: str) -> str:
        """Return where a path lies."""
        shelf = self.shelf
        return path if shelf is None else path_in(shelf.job, shelf.run, root, path)

    def _places(self, root: str, path: str) -> Iterator[Place]:
        """Yield where a file may stand: in the run's generation, then in the one before."""
        yield self._root(root).place(self._at(root, path))
        before = None if self.shelf is None else self.shelf.before(root, path)
        if before is not None:
            yield before

    def place_of(self, root: str, path: str) -> Place:
        """Return where a file stands, or would."""
        with explained(root, path, "looking at the destination"):
            for place in self._places(root, path):
                if status_at(place) is not None:
                    return place
        return self._root(root).place(self._at(root, path))

    @contextmanager
    def read_existing(self, root: str, path: str) -> Iterator[Iterator[memoryview]]:
        place = self.place_of(root, path)
        with self._existing(place, root, path) as fd:
            yield self._slices(fd, root, path)

    def sync_existing(self, root: str, path: str) -> None:
        place = self.place_of(root, path)
        with (
            self._existing(place, root, path) as fd,
            explained(root, path, "syncing the destination"),
        ):
            self._sync(fd)
            self._sync(place.folder.fd)
            self._drop_part(place, part_name(root, path))

    def _drop_part(self, place: Place, name: str) -> None:
        folder = find_folder(self._system, place.home)
        if folder is not None:
            with suppress(OSError, PartBusy):  # it is swept later
                self._sweep(folder.fd, name)

    @contextmanager
    def _existing(self, place: Place, root: str, path: str) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with explained(root, path, "reading the destination"):
            if place.missing:
                raise FileNotFoundError(f"{shown(path)} is gone")
            fd = self._system.open(place.name, flags, dir_fd=place.folder.fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise AttemptError(
                    "dest_conflict", f"{root}:{shown(path)}: the destination is no file"
                )
            yield fd
        finally:
            os.close(fd)

    def is_destination(self, root: str, path: str, file: str) -> bool:
        return self._root(root).below(file) == self._at(root, path)

    def open_file(self, path: str) -> SourceFile:
        # The innermost root first: it may be a link within another one.
        for root in sorted(self._roots.values(), key=lambda root: len(root.path), reverse=True):
            below = root.below(path)
            if below is not None:
                return SourceFile(self._system, root.open_file(below), root.name, below)
        raise AttemptError(
            "source_denied",
            f"{shown(path)} is outside the download roots; files are copied only from below one, "
            "so add its folder to `roots` in the configuration",
        )

    def open_below(self, root: str, path: str) -> SourceFile:
        """Open a file by its path below a root; raises as ``open_file``."""
        at = self._at(root, path)
        try:
            return SourceFile(self._system, self._root(root).open_file(at), root, path)
        except AttemptError as exc:
            if exc.code != "not_found" or at == path:
                raise
            return self.open_before(root, path)

    def open_before(self, root: str, path: str) -> SourceFile:
        """Open what the generation that is seen has at a path; raises as ``open_file``.

        That is the one before the run's own, until that is seen itself.
        """
        shelf = self.shelf
        last = None if shelf is None else shelf.seen()
        if shelf is None or last is None:
            raise AttemptError("not_found", f"{root}:{shown(path)}: there is no such file yet")
        at = f"{shelf.own.dest}/{FOLDER}/{last}/{shelf.below(path)}"
        return SourceFile(self._system, self._root(root).open_file(at), root, path)

    @property
    def most_at_once(self) -> int:
        """Return how many parts to publish in one call: as many as share their syncs."""
        return self._publisher.most

    def publish(self, attempts: Sequence[Publish]) -> list[tuple[Attempt, Outcome]]:
        """Make verified parts visible, and durable as asked; Published or Failure for each."""
        return self._publisher.publish(attempts)

    def leftovers(self) -> Iterator[Leftover]:
        """Yield every part of every root, also those that are open, and what was refused.

        Each is looked at when its turn comes.
        """
        for root in self._roots.values():
            yield from self._leftovers(root)

    def records(self) -> Iterator[Leftover]:
        """Yield the record of each destination that steps have made something of.

        As ``leftovers``; those that name a root that is not configured are passed over.
        """
        for root in self._roots.values():
            for home in homes(self._system, root):
                with suppress(OSError, AttemptError):
                    yield from self._records(root, home)

    def _records(self, root: Root, home: str) -> Iterator[Leftover]:
        made = find_made(self._system, root.folder(home))
        if made is None:
            return
        for name in os.listdir(made.fd):  # noqa: PTH208 -- a path has no descriptor
            said, path, modified_at_s = made_of(self._system, made, name)
            if said in {root.name, ""}:
                yield Leftover(
                    root=root.name,
                    path=path,
                    name=name,
                    durable_bytes=0,
                    home=home,
                    modified_at_s=modified_at_s,
                    made=True,
                )

    def sweep(self, leftover: Leftover) -> bool:
        """Remove a part and its journal, what was refused, what was staged, or a record.

        False: somebody has it open, it is gone, or the disk does not let it go.
        """
        with suppress(OSError, AttemptError, PartBusy):
            if leftover.staged:
                self._held.let_go(leftover.root, leftover.name)
                staging = find_staging(
                    self._system, self._root(leftover.root).folder(leftover.home)
                )
                return staging is not None and remove_staging(self._system, staging, leftover.name)
            if leftover.made:
                made = find_made(self._system, self._root(leftover.root).folder(leftover.home))
                if made is not None:
                    self._system.unlink(leftover.name, dir_fd=made.fd)
                return made is not None
            folder = self._parts(self._root(leftover.root), leftover.home)
            if folder is None:
                return True
            if leftover.quarantined:
                return drop_quarantined(self._system, folder.fd, leftover.name)
            return self._sweep(folder.fd, leftover.name)
        return False

    def _root(self, name: str) -> Root:
        root = self._roots.get(name)
        if root is None:
            raise AttemptError(
                "dest_denied",
                f"root {name!r} is not configured; known: {', '.join(sorted(self._roots))}",
            )
        return root

    def _slices(self, fd: int, root: str, path: str) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(_SLICE_BYTES))
        offset = 0
        while True:
            with explained(root, path, "reading the destination"):
                got = self._system.read(fd, buffer, offset)
            if got == 0:
                return
            yield buffer[:got]
            offset += got

    def _parts(self, root: Root, home: str) -> Folder | None:
        return find_folder(self._system, root.folder(home))

    def _leftovers(self, root: Root) -> Iterator[Leftover]:
        for home in homes(self._system, root):
            # A file system that is not mounted now keeps its parts until it is.
            with suppress(OSError, AttemptError):
                yield from self._stagings(root, home)
                folder = self._parts(root, home)
                if folder is None:
                    continue
                for name in names(folder.fd):
                    if leftover := self._leftover(root, home, folder.fd, name):
                        yield leftover
                for name, since_s in quarantined(self._system, folder.fd).items():
                    yield Leftover(
                        root=root.name,
                        path="",
                        name=name,
                        durable_bytes=0,
                        home=home,
                        modified_at_s=since_s,
                        quarantined=True,
                    )

    def _stagings(self, root: Root, home: str) -> Iterator[Leftover]:
        staging = find_staging(self._system, root.folder(home))
        if staging is None:
            return
        for name in sorted(os.listdir(staging.fd)):  # noqa: PTH208 -- a path has no descriptor
            said, path = what_of(self._system, staging, name)
            if said in self._roots and said != root.name:
                continue  # another root has the same folder
            modified_at_s = 0.0
            with suppress(OSError):
                found = os.stat(name, dir_fd=staging.fd, follow_symlinks=False)
                modified_at_s = found.st_ctime
            yield Leftover(
                root=root.name,
                path=path if said else "",
                name=name,
                durable_bytes=0,
                home=home,
                modified_at_s=modified_at_s,
                staged=True,
            )

    def _leftover(self, root: Root, home: str, folder_fd: int, name: str) -> Leftover | None:
        size_bytes, modified_at_s = 0, 0.0
        with suppress(OSError):
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            # Not st_mtime: publication begins with setting that to the origin's date.
            size_bytes, modified_at_s = found.st_size, found.st_ctime
        said = read_journal(self._system, folder_fd, name)
        path, durable_bytes = "", 0
        if said is not None and said[0] == root.name:
            path = said[1]
            durable_bytes = said[2].held_bytes if said[2].end_bytes <= size_bytes else 0
        elif said is not None and said[0] in self._roots:
            return None  # another root has the same folder
        return Leftover(
            root=root.name,
            path=path,
            name=name,
            durable_bytes=durable_bytes,
            home=home,
            modified_at_s=modified_at_s,
        )

    def _sweep(self, folder_fd: int, name: str) -> bool:
        locked = lock(self._system, folder_fd, name)
        try:
            remove(self._system, folder_fd, name)
        finally:
            if locked is not None:
                os.close(locked.fd)
        return True
