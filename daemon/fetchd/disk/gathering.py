"""What a task begins with that fetches nothing: the files that others have published."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from fetchd.disk.bench import NO_LINKS, DiskBench, look_alike, walk
from fetchd.disk.generations import Shelf, status_at
from fetchd.disk.made import Record, find_made, read_made
from fetchd.disk.part import make_folder, part_name
from fetchd.disk.roots import Place, Root, explained, shown
from fetchd.disk.space import Space
from fetchd.disk.staging import (
    DiskStaging,
    Held,
    OwnFolder,
    left_by_crash,
    own_folder,
)
from fetchd.errors import AttemptError
from fetchd.model import Finish, IfExists
from fetchd.ports import GivenFile, Os

_GIVEN = "given"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_LINKS = NO_LINKS | {errno.EXDEV}
_BUFFER_BYTES = 1024 * 1024


class _Source(NamedTuple):
    """A file that is given: where it appears to steps, its root, and its path below that."""

    path: str
    root: Root
    below: str
    may_be_link: bool

    def __str__(self) -> str:
        return f"{self.root.name}:{shown(self.below)}"


class Gathering:
    """Which files a task is given, and where each lies.

    ``given`` may be asked several times. ``place``: where the file of a root's name and a path
    stands; ``shelf``: of a run whose outputs appear together.
    """

    def __init__(
        self,
        system: Os,
        roots: Mapping[str, Root],
        given: Callable[[], Iterable[GivenFile]],
        tick: Callable[[], None],
        place: Callable[[str, str], Place],
        shelf: Shelf | None = None,
    ) -> None:
        self.tick = tick
        self.place = place
        self._system = system
        self._roots = roots
        self._given = given
        self._shelf = shelf

    def files(self, root: str, folder: str) -> Iterator[_Source]:
        """Yield each file; ``root``, ``folder``: where the task's own files go."""
        for given, path in self._paths():
            self.tick()
            below = _below(folder, path) if given.root == root else None
            shown_as = below or _below(given.above, path) or path
            yield _Source(shown_as, self._root(given), path, given.made)

    def _root(self, given: GivenFile) -> Root:
        root = self._roots.get(given.root)
        if root is None:
            reason = f"root {given.root!r} is not configured any more"
            raise AttemptError("dest_denied", reason)
        return root

    def _paths(self) -> Iterator[tuple[GivenFile, str]]:
        """Yield what is given, and where each of its files lies."""
        earlier: dict[str, GivenFile] = {}
        for given in self._given():
            if not given.made:
                yield given, given.path.removeprefix("./")
            elif (task := self._made_earlier(given)) is not None:
                earlier[task] = given
            else:
                yield from self._made(given)
        if earlier and self._shelf is not None and (last := self._shelf.seen()) is not None:
            for entry in self._shelf.entries(last):
                self.tick()
                given_by = earlier.get(entry.task)
                if given_by and status_at(self._shelf.place(last, entry.path)) is not None:
                    yield given_by, self._shelf.path_of(entry.path)

    def _made_earlier(self, given: GivenFile) -> str | None:
        """Return the task whose files are those of the generation that is seen, None: they are not.

        Of a path there is one record of what steps have made: a run that has failed since may have
        replaced it.
        """
        shelf = self._shelf
        task = None if shelf is None or given.root != shelf.own.root else shelf.task_at(given.path)
        if shelf is None or task is None or shelf.seen() is None:
            return None
        folder = task.removeprefix("./").rpartition("/")[0]
        above = shelf.place(shelf.name, f"{folder}/x" if folder else "x")
        with explained(given.root, given.path, "looking for what steps have made"):
            records = self._records(given)
            here = records is not None and not above.missing
            if here and all(record.is_at(above.folder.fd, same=True) for record in records or ()):
                return None
        return task

    def _records(self, given: GivenFile) -> Iterator[Record] | None:
        made = find_made(self._system, self.place(given.root, given.path.removeprefix("./")).home)
        part = part_name(given.root, given.path)
        return None if made is None else read_made(self._system, made, part)

    def _made(self, given: GivenFile) -> Iterator[tuple[GivenFile, str]]:
        self._root(given)
        path = given.path.removeprefix("./")
        with explained(given.root, path, "looking for what steps have made"):
            records = self._records(given)
        if records is None:
            raise AttemptError(
                "step_failed",
                f"{given.root}:{shown(path)}: what its steps have made is not on record any more; "
                "remove one of these files, and let the job run again",
            )
        above = path.rpartition("/")[0]
        for record in records:
            yield given, f"{above}/{record.path}" if above else record.path


def _below(folder: str, path: str) -> str | None:
    """Return a path as one below a folder, None: it does not lie there."""
    if not folder:
        return path
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


@contextmanager
def gather(
    system: Os,
    space: Space,
    held: Held,
    root: Root,
    attempt: Finish,
    sync: Callable[[int], None],
    gathering: Gathering,
    said: str,
    place: Place,
    before: Place | None,
) -> Iterator[DiskStaging | None]:
    """Open a fresh staging folder with what is given; see ``ports.Disk.gather``.

    ``place``: where what is made is going to stand; ``before``: where what an earlier run has made
    does, if not there.
    """
    intent = attempt.intent
    name = part_name(intent.root, intent.path)
    if attempt.recovered and left_by_crash(system, held, root, attempt, place, name):
        yield None
        return
    with explained(root.name, intent.path, "making the staging folder"):
        make_folder(system, root, place.home)
    with own_folder(system, held, root, intent.path, name, place.home, sync) as folder:
        made = GatheredStaging(
            system, space, root, attempt, folder, sync, place.home.device, said, place, gathering
        )
        try:
            with explained(root.name, intent.path, "giving files to the first step"):
                made.lay_out()
                made.stands = made.is_up_to_date(attempt.group.rules.if_exists, name, before)
            yield made
        finally:
            made.close()


class GatheredStaging(DiskStaging):
    """Of a task that fetches nothing. Its originals are further names of files that are seen."""

    def __init__(
        self,
        system: Os,
        space: Space,
        root: Root,
        attempt: Finish,
        folder: OwnFolder,
        sync: Callable[[int], None],
        device: int,
        said: str,
        place: Place,
        gathering: Gathering,
    ) -> None:
        head = {"steps": said}
        super().__init__(system, space, root, attempt, folder, sync, device, head)
        self._head = head
        self._place = place
        self._gathering = gathering
        self._above = attempt.intent.destination.rpartition("/")[0]
        self._linked = True  # what the first step is given are links, as far as can be
        system.mkdir(_GIVEN, 0o700, dir_fd=self._fd)
        self._originals = system.open(_GIVEN, _FOLDER, dir_fd=self._fd)

    def close(self) -> None:
        assert self._originals is not None
        os.close(self._originals)
        super().close()

    def lay_out(self) -> None:
        """Show all that is given to the first step, and note what tells it from anything else."""
        assert self._originals is not None
        originals = self._bench(self._originals)
        said = 0  # whatever their order
        for source in self._gathering.files(self._root.name, self._above):
            try:
                found = self._take(originals, source)
            except FileExistsError:
                self._look_who_has(source)
                continue
            line = f"{source.path}\0{found.st_ino}\0{found.st_size}\0{found.st_mtime_ns}"
            said += int.from_bytes(hashlib.sha256(os.fsencode(line)).digest(), "big")
        self._head["given"] = f"{said % 2**256:064x}"
        self._system.mkdir("0", 0o700, dir_fd=self._fd)
        given = self._system.open("0", _FOLDER, dir_fd=self._fd)
        try:
            first = self._bench(given)
            for path, _ in walk(self._originals):
                self._gathering.tick()
                if not self._link(first, path, path, self._originals):
                    self._linked = False
                    self._copy(first, path, path, self._originals)
        finally:
            os.close(given)

    def is_up_to_date(self, if_exists: IfExists, name: str, before: Place | None) -> bool:
        """Tell whether the same steps have made of the same files all that is there, or before."""
        said = {**self._head}
        if if_exists is IfExists.SKIP:
            del said["given"]
        elif if_exists is not IfExists.UPDATE:
            return False
        made = find_made(self._system, self._place.home)
        if made is None:
            return False
        same = if_exists is not IfExists.SKIP
        for place in (self._place, before):
            if place is None or place.missing:
                continue
            records = read_made(self._system, made, name, said)
            if records is None:
                return False
            if all(record.is_at(place.folder.fd, same=same) for record in records):
                return True
        return False

    def _bench(self, folder: int) -> DiskBench:
        return DiskBench(
            self._system,
            self._root,
            self._intent.path,
            self._name,
            folder,
            folder,
            self._gathering.tick,
            self._make_room,
            self._note_begun,
        )

    def _take(self, originals: DiskBench, source: _Source) -> os.stat_result:
        """Give a file that is seen a further name, or copy it; FileExistsError: one is there."""
        place = self._gathering.place(source.root.name, source.below)
        try:
            if place.missing:
                raise FileNotFoundError
            found = os.stat(place.name, dir_fd=place.folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            raise AttemptError(
                "step_failed", f"{source}: the file is gone that was published"
            ) from None
        link = source.may_be_link and stat.S_ISLNK(found.st_mode)
        if not (link or stat.S_ISREG(found.st_mode)):
            raise AttemptError("step_failed", f"{source}: is a file no more, as was published")
        if not self._link(originals, source.path, place.name, place.folder.fd):
            self._copy(originals, source.path, place.name, place.folder.fd)
            return found
        given = os.stat(source.path, dir_fd=self._originals, follow_symlinks=False)
        if given.st_ino != found.st_ino:
            raise AttemptError("step_failed", f"{source}: was replaced just now", transient=True)
        return found

    def _link(self, to: DiskBench, path: str, name: str, folder: int) -> bool:
        """Give a file a further name; False: it gets none here."""
        try:
            try:
                to.link(path, name, folder)
            except FileNotFoundError:
                to.make_folder(path.rpartition("/")[0])
                to.link(path, name, folder)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            return False
        return True

    def _copy(self, to: DiskBench, path: str, name: str, folder: int) -> None:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            to.make_link(path, os.readlink(name, dir_fd=folder))
            return
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        fd = self._system.open(name, _FILE, dir_fd=folder)
        try:
            with to.make(path) as output:
                offset = 0
                while got := to.read(fd, buffer, offset):
                    output.write(buffer[:got])
                    offset += got
        finally:
            os.close(fd)
        to.liken(path, found)

    def _look_who_has(self, source: _Source) -> None:
        """Raise AttemptError unless it is the same file, which two tasks have published in turn."""
        for other in self._gathering.files(self._root.name, self._above):
            above, below = f"{other.path}/", f"{source.path}/"
            inside = above.startswith(below) or below.startswith(above)
            if inside and str(other) == str(source):
                return
            if inside:
                raise AttemptError(
                    "step_failed",
                    f"{shown(source.path)!r} would be both {other} and {source}; give their tasks "
                    "other folders (`dest`)",
                )

    # ------------------------------------------------------------ what is published

    def _leave_out(self, tree: int, tick: Callable[[], None]) -> None:
        self._leave_out_given(tree, self._originals, "", tick)

    def _leave_out_given(
        self, tree: int, given: int | None, above: str, tick: Callable[[], None]
    ) -> bool:
        """Remove what is as it was given; tells whether anything was."""
        left_out = False
        for name in sorted(os.listdir(tree)):
            tick()
            path = f"{above}{name}"
            made = os.stat(name, dir_fd=tree, follow_symlinks=False)
            before = None
            if given is not None:
                with suppress(FileNotFoundError):
                    before = os.stat(name, dir_fd=given, follow_symlinks=False)
            if stat.S_ISDIR(made.st_mode):
                if self._leave_out_in(name, tree, given, before, path, tick):
                    left_out = True
            elif before is not None and self._is_given(made, before):
                self._system.unlink(name, dir_fd=tree)
                left_out = True
            elif before is not None:
                self._refuse_changed(path, before)
        return left_out

    def _leave_out_in(
        self,
        name: str,
        tree: int,
        given: int | None,
        before: os.stat_result | None,
        path: str,
        tick: Callable[[], None],
    ) -> bool:
        """Do so in a folder, and remove one in which nothing else was."""
        with ExitStack() as stack:
            inner = self._system.open(name, _FOLDER, dir_fd=tree)
            stack.callback(os.close, inner)
            beside = None
            if given is not None and before is not None and stat.S_ISDIR(before.st_mode):
                beside = self._system.open(name, _FOLDER, dir_fd=given)
                stack.callback(os.close, beside)
            elif before is not None:
                self._refuse_changed(path, before)
            left_out = self._leave_out_given(inner, beside, f"{path}/", tick)
        if left_out:
            with suppress(OSError):  # it has something else
                os.rmdir(name, dir_fd=tree)
        return left_out

    def _is_given(self, made: os.stat_result, before: os.stat_result) -> bool:
        if (made.st_dev, made.st_ino) == (before.st_dev, before.st_ino):
            return True
        return not self._linked and look_alike(made, before)

    def _refuse_changed(self, path: str, before: os.stat_result) -> None:
        """Raise AttemptError where what was given stands at the very place: that is another's."""
        if self._place.missing or not stat.S_ISREG(before.st_mode):
            return
        try:
            seen = os.stat(path, dir_fd=self._place.folder.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        if seen.st_ino == before.st_ino or look_alike(seen, before):
            raise AttemptError(
                "dest_conflict",
                f"the steps have made another {shown(path)!r}, and the one that is there is what "
                "another task has published; give this task a folder of its own (`dest`)",
            )
