"""The end of a run whose outputs appear together: its generation is completed, shown, kept.

Every step may be taken again: what was done before a crash is found done.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from fetchd.disk.generations import COPY, FOLDER, NAME, OPEN, Entry, Shelf, status_at
from fetchd.disk.made import find_made, read_made
from fetchd.disk.part import make_folder, part_name
from fetchd.disk.roots import HIDDEN, explained, shown
from fetchd.errors import AttemptError
from fetchd.model import UNNAMED, FileView, TaskState
from fetchd.ports import Completed
from fetchd.threads import DISK, beat

#: Tasks whose files are looked for together: once for all of them a record is read.
_TOGETHER = 10_000
#: How a path is refused on which somebody has put a link, or a file where a folder was.
_IN_THE_WAY = {"dest_denied", "dest_conflict"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Changeover:
    """Makes a run's generation the one that is seen. One thread, and one a time for a shelf."""

    def __init__(
        self,
        shelf: Shelf,
        files: Iterable[FileView],
        passed_over: Collection[str],
        tick: Callable[[], None],
    ) -> None:
        """``files``: the tasks of the run; ``passed_over``: groups that keep all that they had.

        ``tick`` is called often, and may raise.
        """
        self._shelf = shelf
        self._files = files
        self._passed_over = frozenset(passed_over)
        self._from_header = {g.name for g in shelf.job.groups if g.template.from_header}
        self._with_steps = {group.name for group in shelf.job.groups if group.steps}
        self._tick = tick

    def carry_out(self) -> Completed:
        """Return what became of it; raises AttemptError."""
        shelf = self._shelf
        seen = shelf.seen()
        if not shelf.is_closed():
            self._complete(seen)
        if seen != shelf.name:
            self._swap()
        with shelf.explained("syncing the folder of the link"):
            shelf.sync(shelf.root.place(shelf.own.current).folder.fd)
        shelf.failpoints.pass_by("generation.shown")
        return self._clear()

    # ------------------------------------------------------------ all that belongs to it

    def _complete(self, last: str | None) -> None:
        shelf = self._shelf
        shelf.place(shelf.name, "x", make=True)
        shelf.note([])  # of a run that has nothing to show, too, there is a record
        self._gather(last)
        shelf.failpoints.pass_by("generation.carried")
        shelf.note([], sync=True)
        shelf.failpoints.pass_by("generation.recorded")
        self._sync_folders()
        shelf.failpoints.pass_by("generation.synced")
        folder = shelf.records()
        assert folder is not None
        with shelf.explained("closing the record of the generation"):
            names = {"src_dir_fd": folder.fd, "dst_dir_fd": folder.fd}
            shelf.system.rename(shelf.name + OPEN, shelf.name, **names)
        shelf.failpoints.pass_by("generation.closed")

    def _gather(self, last: str | None) -> None:
        """See that what the run has published is there; add what others of its tasks had before."""
        groups = set(self._passed_over)
        needed = dict[str, str]()  # of tasks without which it is not whole, and their groups
        wanted = set[str]()
        for file in self._files:
            self._tick()
            task = self._shelf.task_at(file.path)
            if task is None:
                if file.state is TaskState.FAILED:  # what it was to be, nobody knows
                    groups.add(file.group)
                continue
            if file.group in self._from_header and file.path.startswith(UNNAMED):
                groups.add(file.group)  # its server has not said which one it is
                continue
            if file.state is not TaskState.SUCCEEDED:
                wanted.add(task)
            elif not self._has(file.group, task):
                if file.detail != "up_to_date":
                    raise self._gone(file.path)
                needed[task] = file.group
            if len(wanted) + len(needed) >= _TOGETHER:
                self._add(wanted, needed, frozenset(), last)
                needed.clear()
                wanted.clear()
        self._add(wanted, needed, frozenset(groups), last)

    def _add(
        self, wanted: set[str], needed: dict[str, str], groups: frozenset[str], last: str | None
    ) -> None:
        """Add what these tasks, and all of these groups, have in the generation before."""
        if last is not None and (wanted or needed or groups):
            self._carry(wanted | needed.keys(), groups, last)
        for task, group in needed.items():
            if not self._has(group, task):
                raise self._gone(self._shelf.path_of(task))

    def _has(self, group: str, task: str) -> bool:
        """Tell whether all that a task has published stands in the generation."""
        shelf = self._shelf
        place = shelf.place(shelf.name, task.removeprefix("./"))
        with shelf.explained("looking for what was published"):
            if group not in self._with_steps:
                return status_at(place) is not None
            made = find_made(shelf.system, place.home)
            name = part_name(shelf.own.root, shelf.path_of(task))
            records = None if made is None else read_made(shelf.system, made, name)
            if records is None or place.missing:
                return False
            return all(record.is_at(place.folder.fd, same=False) for record in records)

    def _carry(self, tasks: set[str], groups: frozenset[str], last: str) -> None:
        """Add what these tasks, and all tasks of these groups, have in another generation."""
        shelf = self._shelf
        shelf.carry(last, self._entries(tasks, groups, last))
        # Only now: a line may be of an earlier file of its path, and the right one comes behind it.
        for entry in self._entries(tasks, groups, last):
            if status_at(shelf.place(shelf.name, entry.path)) is None:
                raise self._gone(f"{shelf.own.dest}/{FOLDER}/{last}/{entry.path}")

    def _entries(self, tasks: set[str], groups: frozenset[str], last: str) -> Iterator[Entry]:
        for entry in self._shelf.entries(last):
            self._tick()
            if entry.task in tasks or entry.group in groups:
                yield entry

    def _gone(self, path: str) -> AttemptError:
        return AttemptError(
            "generation_broken",
            f"{self._shelf.own.root}:{shown(path)}: somebody has taken away, or changed, what was "
            "published here, so that the generation is not whole; put it back, or begin the job "
            "again",
        )

    def _sync_folders(self) -> None:
        shelf = self._shelf
        place = shelf.place(shelf.name, "x")
        with shelf.explained("syncing the folders of the generation"):
            for _, _, _, fd in os.fwalk(".", topdown=False, dir_fd=place.folder.fd):
                self._tick()
                shelf.sync(fd)
            above = shelf.root.place(f"{shelf.own.dest}/{FOLDER}/x")
            shelf.sync(above.folder.fd)
            shelf.sync(shelf.root.place(shelf.own.current).folder.fd)

    # ------------------------------------------------------------ the instant

    def _swap(self) -> None:
        """Let the link lead to this generation, in one step."""
        shelf = self._shelf
        place = shelf.root.place(shelf.own.current)
        records = shelf.records()
        assert records is not None
        draft = f"current.{part_name(shelf.own.root, shelf.own.dest)}"
        with shelf.explained("replacing the link"):
            shelf.sync(records.fd)
            make_folder(shelf.system, shelf.root, place.home)
            hidden = place.home.inner(shelf.system, HIDDEN)
            with suppress(FileNotFoundError):
                shelf.system.unlink(draft, dir_fd=hidden.fd)
            os.symlink(f"{FOLDER}/{shelf.name}", draft, dir_fd=hidden.fd)
            shelf.failpoints.pass_by("generation.link_made")
            shelf.seen()  # raises for what has come there meanwhile
            shelf.system.rename(draft, place.name, src_dir_fd=hidden.fd, dst_dir_fd=place.folder.fd)
        shelf.failpoints.pass_by("generation.swapped")

    # ------------------------------------------------------------ those that are not kept

    def _clear(self) -> Completed:
        """Remove what is kept no longer, and what runs have left that came to nothing."""
        shelf = self._shelf
        folder = shelf.records()
        if folder is None or shelf.seen() != shelf.name:
            return Completed()
        closed: list[tuple[int, str]] = []
        begun: list[str] = []
        unknown = self._names()
        with shelf.explained("looking for earlier generations"):
            for record in sorted(os.listdir(folder.fd)):  # noqa: PTH208 -- it has no path
                name = record.removesuffix(OPEN)
                unknown.discard(name)
                if record.endswith(COPY):  # of a copy that a crash has cut short
                    shelf.system.unlink(record, dir_fd=folder.fd)
                elif name == shelf.name or not self._is_ours(name):
                    continue
                elif record == name:
                    changed_ns = os.stat(record, dir_fd=folder.fd).st_mtime_ns
                    closed.append((changed_ns, name))
                else:
                    begun.append(name)
        for name in unknown:  # made by a run that came to put nothing into them
            self._remove_folders(name)
        newest = [name for _, name in sorted(closed, reverse=True)]
        gone = newest[shelf.own.keep - 1 :]
        left: list[str] = []
        for name in begun:  # first: of some of what these hold, only the others' records may tell
            left += [name] if self._remove(name, name + OPEN, newest) else []
        for name in gone:
            left += [name] if self._remove(name, name, ()) else []
        return Completed(removed=len(begun) + len(gone), left=tuple(left))

    def _names(self) -> set[str]:
        """Return the folders that are named like generations."""
        shelf = self._shelf
        above = shelf.root.place(f"{shelf.own.dest}/{FOLDER}/x").folder
        with shelf.explained("looking for earlier generations"):
            found = os.listdir(above.fd)  # noqa: PTH208 -- it has no path
        return {name for name in found if NAME.fullmatch(name)}

    def _is_ours(self, name: str) -> bool:
        head = self._shelf.head(name)
        return head is not None and head.get("job") == self._shelf.job.name

    def _remove(self, name: str, record: str, others: Collection[str]) -> bool:
        """Remove the files of a generation that are on record; True: others stay."""
        shelf = self._shelf
        entries = chain(shelf.entries(name), *map(shelf.entries, others))
        for entry in entries:
            self._tick()
            self._remove_file(name, entry)
        left = self._remove_folders(name)
        folder = shelf.records()
        assert folder is not None
        above = shelf.root.place(f"{shelf.own.dest}/{FOLDER}/x").folder
        with shelf.explained("removing the record of a generation"):
            shelf.sync(above.fd)  # or what comes back with a power cut would be nobody's
            with suppress(FileNotFoundError):
                shelf.system.unlink(record, dir_fd=folder.fd)
        shelf.failpoints.pass_by("generation.removed")
        return bool(left)

    def _remove_file(self, name: str, entry: Entry) -> None:
        shelf = self._shelf
        try:
            place = shelf.place(name, entry.path)
        except AttemptError as exc:
            if exc.code not in _IN_THE_WAY:
                raise
            return
        with explained(shelf.own.root, entry.path, "removing a file of an earlier generation"):
            if entry.is_at(place):
                shelf.system.unlink(place.name, dir_fd=place.folder.fd)
                shelf.failpoints.pass_by("generation.file_removed")

    def _remove_folders(self, name: str) -> int:
        """Remove a generation's folders as far as they are empty; returns how many files stay."""
        shelf = self._shelf
        above = shelf.root.place(f"{shelf.own.dest}/{FOLDER}/x").folder
        left = 0
        with explained(shelf.own.root, f"{shelf.own.dest}/{FOLDER}/{name}", "removing folders"):
            try:
                fd = shelf.system.open(name, _FOLDER, dir_fd=above.fd)
            except FileNotFoundError:
                return 0
            except NotADirectoryError:
                return 1
            try:
                left = sum(_empty(inner, names) for inner, names in _folders(fd))
            finally:
                os.close(fd)
            with suppress(OSError):  # something of somebody else's is in it
                os.rmdir(name, dir_fd=above.fd)
        return left


def _folders(fd: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each folder with the names in it, the innermost first."""
    for _, folders, files, inner in os.fwalk(".", topdown=False, dir_fd=fd):
        beat()
        yield inner, [*folders, *files]


def _empty(fd: int, names: list[str]) -> int:
    """Remove the empty folders among these names; returns how many are no folders."""
    left = 0
    with DISK:
        for name in names:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                with suppress(OSError):
                    os.rmdir(name, dir_fd=fd)
            else:
                left += 1
    return left
