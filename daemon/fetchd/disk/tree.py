"""Publication of what steps have made: whole trees get their final names, as parts do."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice

from fetchd import threads
from fetchd.clock import Failpoints
from fetchd.disk.generations import BATCH, Shelves, path_in
from fetchd.disk.journal import forget_journal
from fetchd.disk.made import MADE, find_made, make_made, read_made
from fetchd.disk.part import find_folder, part_name
from fetchd.disk.quarantine import drop_quarantined, has_quarantine
from fetchd.disk.roots import Folder, Place, Root, explain, shown
from fetchd.disk.staging import TREE, Held, find_staging, remove_staging
from fetchd.errors import AttemptError
from fetchd.model import Failure, IfExists, Outcome, Publish, Published
from fetchd.ports import Os, PartBusy

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: How a file system says that it cannot rename without replacing.
NO_RENAME_NEW = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class Tree:
    """What steps have made of a part, on its way to its names.

    It is whole and durable already. Its record is put down first; then each file, or each folder
    that nobody has yet, gets its name, the folders are synced, and the part goes last: when that is
    gone, all was published.
    """

    def __init__(
        self,
        attempt: Publish,
        roots: Mapping[str, Root],
        system: Os,
        held: Held,
        shelves: Shelves,
        failpoints: Failpoints,
        sync: Callable[[int], None],
    ) -> None:
        self._shelf = shelves.of(attempt.job, attempt.run)
        self._attempt = attempt
        self._intent = intent = attempt.intent
        self._path = path_in(attempt.job, attempt.run, intent.root, intent.destination)
        self._part = intent.part or part_name(intent.root, intent.path)
        self._roots = roots
        self._system = system
        self._held = held
        self._failpoints = failpoints
        self._sync = sync
        self._ours: set[int] = set()  # inodes that got their names before a crash

    def publish(self) -> Outcome:
        intent = self._intent
        try:
            outcome = self._publish()
        except AttemptError as exc:
            outcome = Failure(code=exc.code, reason=exc.reason, transient=exc.transient, kept=True)
        except PartBusy as exc:
            outcome = Failure(code="disk_error", reason=str(exc), transient=True, kept=True)
        except OSError as exc:
            error = explain(exc, intent.root, intent.path, "publishing what steps have made")
            outcome = Failure(
                code=error.code, reason=error.reason, transient=error.transient, kept=True
            )
        if isinstance(outcome, Failure) and not (outcome.kept and outcome.transient):
            self._give_up()
        return outcome

    def _give_up(self) -> None:
        """Remove what was staged: it is made again, if at all."""
        intent = self._intent
        self._held.let_go(intent.root, self._part)
        with suppress(OSError, AttemptError, PartBusy):
            home = self._roots[intent.root].place(self._path).home
            staging = find_staging(self._system, home)
            if staging is not None:
                remove_staging(self._system, staging, self._part)

    def _publish(self) -> Published | Failure:
        intent = self._intent
        root = self._roots.get(intent.root)
        if root is None:
            raise AttemptError("dest_denied", f"root {intent.root!r} is not configured any more")
        place = root.place(self._path, make=True)
        staging = find_staging(self._system, place.home)
        try:
            if staging is None:
                raise FileNotFoundError
            tree = self._system.open(f"{self._part}/{TREE}", _FOLDER, dir_fd=staging.fd)
        except FileNotFoundError:
            return self._published_before(place, staging)
        try:
            self._note_ours(place)
            self._check(tree, place.folder.fd, "")
            made = make_made(self._system, place.home, self._sync)
            with suppress(FileNotFoundError):  # it was, before this was put off
                self._system.rename(
                    f"{self._part}/{MADE}",
                    self._part,
                    src_dir_fd=staging.fd,
                    dst_dir_fd=made.fd,
                )
            self._sync(made.fd)
            self._failpoints.pass_by("publish.synced")
            self._note(made)
            self._show(tree, place.folder.fd, "")
            self._failpoints.pass_by("publish.folder_synced")
        finally:
            os.close(tree)
        self._clean_up(place, staging)
        return Published(intent=intent, mtime_ns=0, inode=0)

    def _note(self, made: Folder) -> None:
        """Put down what is going to be in a generation."""
        shelf = self._shelf
        if shelf is None:
            return
        records = read_made(self._system, made, self._part) or iter(())
        entries = shelf.entries_of(self._attempt, records)
        while batch := list(islice(entries, BATCH)):
            threads.beat()
            shelf.note(batch)
        shelf.note([], sync=True)
        self._failpoints.pass_by("generation.noted")

    def _published_before(self, place: Place, staging: Folder | None) -> Published | Failure:
        """Tell whether all was published in an earlier life, of which only the record is left."""
        made = find_made(self._system, place.home)
        records = read_made(self._system, made, self._part) if made else None
        folder = place.folder.fd
        if (
            self._attempt.recovered
            and records is not None
            and all(record.is_at(folder, same=True) for record in records)
        ):
            self._clean_up(place, staging)
            return Published(intent=self._intent, mtime_ns=0, inode=0)
        reason = f"{self._shown}: what steps have made is gone; it is fetched again"
        return Failure(code="disk_error", reason=reason, transient=True)

    def _note_ours(self, place: Place) -> None:
        """Learn which files have got their names before a crash: these may be replaced."""
        if self._attempt.recovered and not self._intent.clobber:
            made = find_made(self._system, place.home)
            records = read_made(self._system, made, self._part) if made else None
            self._ours = {record.inode for record in records or ()}

    def _check(self, tree: int, folder: int, above: str) -> None:
        """Refuse what cannot be published before anything is seen."""
        for name in os.listdir(tree):
            path = f"{above}{name}"
            threads.beat()
            there = _status(name, folder)
            if there is None:
                continue
            is_folder = stat.S_ISDIR(os.stat(name, dir_fd=tree, follow_symlinks=False).st_mode)
            if is_folder and stat.S_ISDIR(there.st_mode):
                with self._both(name, tree, folder) as (inner, outer):
                    self._check(inner, outer, f"{path}/")
            elif is_folder or stat.S_ISDIR(there.st_mode):
                raise AttemptError(
                    "dest_conflict",
                    f"{self._shown}: {shown(path)!r} is {'a folder' if is_folder else 'a file'} "
                    f"among what steps have made, and {'no folder' if is_folder else 'a folder'} "
                    "where it shall be",
                )
            elif not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
                raise AttemptError(
                    "dest_denied",
                    f"{self._shown}: a device, pipe or socket has the name {shown(path)!r}",
                )
            elif not self._intent.clobber and there.st_ino not in self._ours:
                raise self._exists(path)

    def _show(self, tree: int, folder: int, above: str) -> None:
        """Give everything its name, and make the names durable."""
        changed = False
        # Links last: what they lead to is there when they are seen.
        for name in sorted(os.listdir(tree), key=lambda name: _is_link(name, tree)):
            path = f"{above}{name}"
            there = _status(name, folder)
            if there is not None and stat.S_ISDIR(there.st_mode):
                with self._both(name, tree, folder) as (inner, outer):
                    self._show(inner, outer, f"{path}/")
                continue
            changed = True
            self._name(name, path, tree, folder, there)
            self._failpoints.pass_by("publish.renamed")
        if changed:
            self._sync(folder)

    def _name(
        self, name: str, path: str, tree: int, folder: int, there: os.stat_result | None
    ) -> None:
        names = {"src_dir_fd": tree, "dst_dir_fd": folder}
        if there is not None and self._attempt.group.rules.if_exists is IfExists.SKIP:
            self._system.unlink(name, dir_fd=tree)
            return
        if there is not None:
            ours = os.stat(name, dir_fd=tree, follow_symlinks=False)
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                # Named in an earlier life; to rename one link over another does nothing.
                self._system.unlink(name, dir_fd=tree)
                return
        if self._intent.clobber or (there is not None and there.st_ino in self._ours):
            self._system.rename(name, name, **names)
            return
        try:
            self._system.rename_new(name, name, **names)
        except FileExistsError:
            raise self._exists(path) from None
        except OSError as exc:
            if exc.errno not in NO_RENAME_NEW:
                raise
            raise AttemptError(
                "dest_denied",
                f"{self._shown}: this file system cannot rename without replacing, which "
                "`if_exists: fail` needs; choose another root or `if_exists`",
            ) from None

    @contextmanager
    def _both(self, name: str, tree: int, folder: int) -> Iterator[tuple[int, int]]:
        inner = self._system.open(name, _FOLDER, dir_fd=tree)
        try:
            outer = self._system.open(name, _FOLDER, dir_fd=folder)
            try:
                yield inner, outer
            finally:
                os.close(outer)
        finally:
            os.close(inner)

    def _clean_up(self, place: Place, staging: Folder | None) -> None:
        """Remove the staging folder and the part; what cannot be removed is swept later."""
        part = self._part
        self._held.let_go(self._intent.root, part)
        if staging is not None:
            with suppress(OSError, PartBusy):
                remove_staging(self._system, staging, part)
        self._drop_part(place)

    def _drop_part(self, place: Place) -> None:
        part = self._part
        parts = find_folder(self._system, place.home)
        if parts is not None:
            with suppress(OSError):
                if has_quarantine(parts.fd):
                    drop_quarantined(self._system, parts.fd, part)
            with suppress(OSError):
                forget_journal(self._system, parts.fd, part)
                self._system.unlink(part, dir_fd=parts.fd)

    def _exists(self, path: str) -> AttemptError:
        return AttemptError(
            "exists",
            f"{self._shown}: {shown(path)!r} exists and `if_exists: fail` forbids to replace it",
        )

    @property
    def _shown(self) -> str:
        return f"{self._intent.root}:{shown(self._intent.path)}"


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
