"""Staging: the hidden folders in which steps work.

A folder of this name lies beside the parts of each file system, and in it one for each task whose
steps are taken, named like its part::

    what      root and path, for the sweep
    begun     there once something has begun that may not be done twice
    given/    of a task that fetches nothing, the files that it begins with
    0/        what the first step is given: the verified part under its own name, or those files
    1/ ...    what each step has made, which the next one is given; it stays as long as this life
              when that one could not be taken for a reason that may pass
    tree/     what the last one has made, sealed: whole and durable
    made      a line for each file in it, by which it is known again when it is published
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from fetchd.digests import Digest, Hashes
from fetchd.disk.bench import NO_LINKS, DiskBench, walk
from fetchd.disk.journal import read_journal, say_whose
from fetchd.disk.made import ANY, MADE, Record, by_steps, find_made, read_made
from fetchd.disk.part import Locked, find_folder, lock
from fetchd.disk.roots import (
    HIDDEN,
    Folder,
    Place,
    Root,
    explained,
    find_hidden,
    make_hidden,
    shown,
)
from fetchd.disk.space import Claim, Space
from fetchd.disk.system import write_all
from fetchd.errors import DISK_WAITS, AttemptError
from fetchd.model import Finish, Staged
from fetchd.ports import Os, PartBusy
from fetchd.threads import DISK, beat

TREE = "tree"
_STAGING = f"{HIDDEN}/staging"
_WHAT = "what"
_BEGUN = "begun"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_BUFFER_BYTES = 1024 * 1024
#: So much is written at most before it is asked again whether there is room.
_ROOM_BYTES = 64 * 1024 * 1024
#: More files are synced with all else on their file system, which then takes less time.
_FEW_FILES = 64
_LIBC = ctypes.CDLL(None, use_errno=True)


class Paused(NamedTuple):
    """A staging folder, open and locked, in which so many steps were taken of a part."""

    fd: int
    taken: int
    device: int
    inode: int
    said: Mapping[str, str]  # as ``by_steps``


class Held:
    """The folders that wait, each open and locked. Any thread.

    The sealed ones wait for the publisher, those that are paused for a step to be taken again.
    """

    def __init__(self) -> None:
        # Each call of them is one step of the interpreter.
        self._open: dict[tuple[str, str], int] = {}
        self._paused: dict[tuple[str, str], Paused] = {}

    def keep(self, root: str, part: str, fd: int) -> None:
        self._open[root, part] = fd

    def pause(self, root: str, part: str, paused: Paused) -> None:
        self._paused[root, part] = paused

    def resume(self, root: str, part: str) -> Paused | None:
        """Return what is paused; it is the caller's from now on."""
        return self._paused.pop((root, part), None)

    def paused(self, device: int) -> list[tuple[str, str]]:
        """Return root and part of what is paused on a file system."""
        return [key for key, one in list(self._paused.items()) if one.device == device]

    def let_go(self, root: str, part: str) -> None:
        fd = self._open.pop((root, part), None)
        if fd is not None:
            os.close(fd)
        if (paused := self.resume(root, part)) is not None:
            os.close(paused.fd)

    def close(self) -> None:
        for root, part in [*self._open, *self._paused]:
            self.let_go(root, part)


def find_staging(system: Os, home: Folder) -> Folder | None:
    """Return the folder of the stagings of a file system, None: there is none."""
    return find_hidden(system, home, _STAGING)


@contextmanager
def stage(
    system: Os,
    space: Space,
    held: Held,
    root: Root,
    attempt: Finish,
    sync: Callable[[int], None],
    at: str,
) -> Iterator[DiskStaging | None]:
    """Open a fresh staging folder; see ``ports.Disk.stage``. ``at``: where the path lies."""
    intent = attempt.intent
    name, path = intent.part, intent.path
    place = root.place(at, make=False)
    if attempt.recovered and left_by_crash(system, held, root, attempt, place, name):
        yield None
        return
    parts = find_folder(system, place.home)
    with explained(root.name, path, "opening the verified part"):
        part = lock(system, parts.fd, name) if parts else None
    if part is None:
        raise AttemptError(
            "disk_error",
            f"{root.name}:{shown(path)}: the verified part is gone; it is fetched again",
        )
    assert parts is not None
    with ExitStack() as stack:
        stack.callback(os.close, part.fd)
        _check(system, parts, part, attempt)
        said = by_steps(attempt.group.steps, attempt.task.spec.values)
        resumed = _resumed(held, root, attempt, said)
        with own_folder(system, held, root, path, name, place.home, sync, resumed) as folder:
            made = PartStaging(system, space, root, attempt, folder, sync, said, parts, part)
            try:
                with explained(root.name, path, "staging the verified part"):
                    if resumed is None:
                        made.lay_out()
                    else:
                        made.clear()
                yield made
            except AttemptError as exc:
                # On a full disk what was made so far is the first to go.
                if exc.transient and exc.code not in DISK_WAITS and folder.taken:
                    folder.paused = Paused(folder.fd, folder.taken, part.device, part.inode, said)
                raise
            finally:
                made.close()


class OwnFolder:
    """The staging folder of a task, open and locked. ``taken``: steps so far.

    It stays if it is ``sealed``, or ``paused``.
    """

    __slots__ = ("fd", "paused", "sealed", "taken")

    def __init__(self, fd: int, taken: int = 0) -> None:
        self.fd = fd
        self.taken = taken
        self.sealed = False
        self.paused: Paused | None = None


@contextmanager
def own_folder(
    system: Os,
    held: Held,
    root: Root,
    path: str,
    name: str,
    home: Folder,
    sync: Callable[[int], None],
    resumed: Paused | None = None,
) -> Iterator[OwnFolder]:
    """Make a staging folder, for which whatever has its name is removed, or go on in one."""
    with explained(root.name, path, "making the staging folder"):
        staging = find_staging(system, home) or make_hidden(system, home, "staging", sync)
        if resumed is None:
            held.let_go(root.name, name)
            remove_staging(system, staging, name)
            system.mkdir(name, 0o700, dir_fd=staging.fd)
            folder = OwnFolder(system.open(name, _FOLDER, dir_fd=staging.fd))
            with suppress(OSError):  # where there are no locks, it is used without
                fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            folder = OwnFolder(resumed.fd, resumed.taken)
    try:
        if resumed is None:
            with explained(root.name, path, "making the staging folder"):
                what = json.dumps([root.name, path]).encode("ascii")
                fd = system.open(_WHAT, _NEW, 0o600, dir_fd=folder.fd)
                try:
                    system.write(fd, memoryview(what), 0)
                finally:
                    os.close(fd)
        yield folder
    finally:
        if folder.sealed:
            held.keep(root.name, name, folder.fd)
        elif folder.paused is not None:
            held.pause(root.name, name, folder.paused)
        else:
            os.close(folder.fd)
            with suppress(OSError):  # it is swept later
                remove_staging(system, staging, name)


def _resumed(held: Held, root: Root, attempt: Finish, said: Mapping[str, str]) -> Paused | None:
    """Return what is paused of an attempt, if it was made of the same part by the same steps."""
    paused = held.resume(root.name, attempt.intent.part)
    if paused is None:
        return None
    same = (paused.inode, paused.said) == (attempt.intent.inode, said)
    if same and _is_there(str(paused.taken), paused.fd):
        return paused
    os.close(paused.fd)
    return None


def drop_paused(system: Os, held: Held, device: int) -> bool:
    """Remove what is paused on a file system, and can be made again; False: there was nothing."""
    dropped = False
    for root, part in held.paused(device):
        if (paused := held.resume(root, part)) is None:
            continue  # somebody goes on with it
        with suppress(OSError), DISK:
            above = system.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=paused.fd)
            try:
                shutil.rmtree(part, dir_fd=above)
                dropped = True
            finally:
                os.close(above)
        os.close(paused.fd)
    return dropped


def note_begun(system: Os, fd: int) -> None:
    """Put down durably, in a staging folder, that something has begun that may not be done twice.

    Whatever `durability` says: what is done outside cannot be taken back.
    """
    os.close(system.open(_BEGUN, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=fd))
    system.fsync(fd)
    above = system.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    try:
        system.fsync(above)
    finally:
        os.close(above)


def left_by_crash(
    system: Os, held: Held, root: Root, attempt: Finish, place: Place, name: str
) -> bool:
    """Tell whether nothing is to be made: it was sealed before a crash, or published already.

    Raises AttemptError where something was begun that may not be done twice.
    """
    path, sealed = attempt.intent.path, attempt.intent.staged is not None
    with explained(root.name, path, "looking for what a crash has left"):
        staging = find_staging(system, place.home)
        if sealed and staging is not None and _is_there(f"{name}/{TREE}", staging.fd):
            fd = system.open(name, _FOLDER, dir_fd=staging.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                os.close(fd)
                if isinstance(exc, BlockingIOError):
                    raise PartBusy(f"steps are taken in {HIDDEN}/staging/{name}") from None
                raise
            held.keep(root.name, name, fd)
            return True
        if not sealed and staging is not None and _is_there(f"{name}/{_BEGUN}", staging.fd):
            raise AttemptError(
                "needs_attention",
                f"{root.name}:{shown(path)}: fetchd ended while a command ran that may not run "
                "twice; see what it has done, and let the task be tried again if that is right",
            )
        made = find_made(system, place.home)
        # Of a task that fetches nothing it says more, and whoever sealed has replaced it.
        said = ANY
        if attempt.task.spec.fetches:
            said = by_steps(attempt.group.steps, attempt.task.spec.values)
        records = read_made(system, made, name, said) if sealed and made else None
        return (
            records is not None
            and not place.missing
            and all(record.is_at(place.folder.fd, same=True) for record in records)
        )


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_staging(system: Os, staging: Folder, name: str) -> bool:
    """Remove what was staged under a name; raises PartBusy while another process works there."""
    try:
        fd = system.open(name, _FOLDER, dir_fd=staging.fd)
    except FileNotFoundError:
        return False
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PartBusy(f"steps are taken in {HIDDEN}/staging/{name}") from None
        except OSError:
            pass
        with DISK:
            shutil.rmtree(name, dir_fd=staging.fd)
    finally:
        os.close(fd)
    return True


def what_of(system: Os, staging: Folder, name: str) -> tuple[str, str]:
    """Return root and path of what was staged under a name, "" where nothing tells."""
    buffer = memoryview(bytearray(16 * 1024))
    try:
        fd = system.open(f"{name}/{_WHAT}", _FILE, dir_fd=staging.fd)
        try:
            root, path = json.loads(bytes(buffer[: system.read(fd, buffer, 0)]))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return "", ""
    return str(root), str(path)


def has_digests(
    system: Os, fd: int, digests: Sequence[Digest], tick: Callable[[], object] = beat
) -> bool:
    """Read a file to its end and tell whether it has these digests."""
    hashes = Hashes(digest.algorithm for digest in digests)
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    offset = 0
    while got := system.read(fd, buffer, offset):
        hashes.update(buffer[:got])
        offset += got
        tick()
    return set(hashes.digests()) == set(digests)


def _check(system: Os, parts: Folder, part: Locked, attempt: Finish) -> None:
    """See that the part is the one that was verified, and what a crash may have torn; raises."""
    intent, why = attempt.intent, ""
    where = f"{intent.root}:{shown(intent.path)}"
    with explained(intent.root, intent.path, "reading the verified part"):
        same_device = part.device == intent.device or attempt.recovered
        if part.inode != intent.inode or part.size_bytes != intent.size_bytes or not same_device:
            why = "the part is not the one that was verified"
        elif attempt.recovered and intent.digests:
            if not has_digests(system, part.fd, intent.digests):
                why = "a crash has torn the verified part"
        elif attempt.recovered and intent.size_bytes:
            said = read_journal(system, parts.fd, intent.part)
            if said is None or said[2].durable_bytes < intent.size_bytes:
                why = "a crash came before the part was synced and no checksum can clear it"
    if why:
        raise AttemptError("disk_error", f"{where}: {why}; it is fetched again")


class DiskStaging:
    """``ports.Staging``: the folder of one task's steps. One thread."""

    stands = False

    def __init__(
        self,
        system: Os,
        space: Space,
        root: Root,
        attempt: Finish,
        folder: OwnFolder,
        sync: Callable[[int], None],
        device: int,
        said: Mapping[str, str],
    ) -> None:
        self._system = system
        self._space = space
        self._root = root
        self._intent = attempt.intent
        self._said = said
        self._folder = folder
        self._fd = folder.fd
        self._sync = sync
        self._name = attempt.intent.path.rpartition("/")[2]
        self._claim = Claim(device=device)
        #: Where files lie that are others', too, and are not to be changed.
        self._originals: int | None = None

    @property
    def taken(self) -> int:
        return self._folder.taken

    @contextmanager
    def bench(self, tick: Callable[[], None]) -> Iterator[DiskBench]:
        before, after = str(self._folder.taken), str(self._folder.taken + 1)
        path = self._intent.path
        with ExitStack() as stack:
            with explained(self._root.name, path, "the staging folder"):
                self._system.mkdir(after, 0o700, dir_fd=self._fd)
                given = self._system.open(before, _FOLDER, dir_fd=self._fd)
                stack.callback(os.close, given)
                made = self._system.open(after, _FOLDER, dir_fd=self._fd)
                stack.callback(os.close, made)
            yield DiskBench(
                self._system,
                self._root,
                path,
                self._name,
                given,
                made,
                tick,
                self._make_room,
                self._note_begun,
                self._originals,
            )
        self._folder.taken += 1
        with explained(self._root.name, path, "removing what a step was given"), DISK:
            shutil.rmtree(before, dir_fd=self._fd)

    def _note_begun(self) -> None:
        with explained(self._root.name, self._intent.path, "noting what is begun"):
            note_begun(self._system, self._fd)

    def _make_room(self, fd: int, written_bytes: int, more_bytes: int) -> int:
        """Return how much may be written before it is asked again; raises AttemptError."""
        with explained(self._root.name, self._intent.path, "asking for free space"):
            needed_bytes = self._space.claim(self._claim, more_bytes)
            free_bytes = self._system.free_bytes(fd)
            if free_bytes < needed_bytes and self._space.relieve(self._claim.device):
                free_bytes = self._system.free_bytes(fd)
            if free_bytes >= needed_bytes:
                return more_bytes + min(_ROOM_BYTES, (free_bytes - needed_bytes) // 2)
            self._space.drop(self._claim)
            most_bytes = self._space.most_bytes(self._system.capacity_bytes(fd))
        all_bytes = self._intent.size_bytes + written_bytes + more_bytes
        if all_bytes > most_bytes:
            raise AttemptError(
                "too_large",
                f"the file and what steps make of it, {all_bytes} bytes so far, are more than the "
                f"file system could hold if it were empty, less the reserve: {most_bytes}",
            )
        raise AttemptError(
            "disk_full",
            f"{free_bytes} bytes are free for what steps make, and {needed_bytes} are needed with "
            "what is reserved (disk.reserve) and what transfers under way need",
        )

    def seal(self, tick: Callable[[], None]) -> Staged:
        with explained(self._root.name, self._intent.path, "sealing what steps have made"):
            self._system.rename(
                str(self._folder.taken), TREE, src_dir_fd=self._fd, dst_dir_fd=self._fd
            )
            tree = self._system.open(TREE, _FOLDER, dir_fd=self._fd)
            try:
                self._leave_out(tree, tick)
                staged = self._note_made(tree, tick)
                self._sync_tree(tree, staged.files, tick)
            finally:
                os.close(tree)
            self._sync(self._fd)
        self._folder.sealed = True
        return staged

    def _leave_out(self, tree: int, tick: Callable[[], None]) -> None:
        """Remove what is not to be published."""

    def close(self) -> None:
        self._space.drop(self._claim)

    def _note_made(self, tree: int, tick: Callable[[], None]) -> Staged:
        """Write down what is going to be seen, and count it."""
        files = total_bytes = 0
        fd = self._system.open(MADE, _NEW, 0o600, dir_fd=self._fd)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            head = {"root": self._root.name, "path": self._intent.path, **self._said}
            file.write(json.dumps(head) + "\n")
            for path, found in walk(tree):
                tick()
                files += 1
                total_bytes += found.st_size
                record = Record(path, found.st_size, found.st_mtime_ns, found.st_ino)
                file.write(json.dumps(record) + "\n")
            file.flush()
            self._sync(file.fileno())
        return Staged(files=files, bytes=total_bytes)

    def _sync_tree(self, tree: int, files: int, tick: Callable[[], None]) -> None:
        if files > _FEW_FILES and self._sync == self._system.fsync and _sync_all(tree):
            return
        for _, _, names, folder in os.fwalk(".", topdown=False, dir_fd=tree):
            for name in names:
                tick()
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    fd = self._system.open(name, _FILE, dir_fd=folder)
                    try:
                        self._sync(fd)
                    finally:
                        os.close(fd)
            self._sync(folder)


class PartStaging(DiskStaging):
    """Of a task that has fetched a file: its steps begin with the verified part."""

    def __init__(
        self,
        system: Os,
        space: Space,
        root: Root,
        attempt: Finish,
        folder: OwnFolder,
        sync: Callable[[int], None],
        said: Mapping[str, str],
        parts: Folder,
        part: Locked,
    ) -> None:
        super().__init__(system, space, root, attempt, folder, sync, part.device, said)
        self._parts = parts
        self._part = part

    def lay_out(self) -> None:
        """Show the part to the first step, as the file that it is going to be."""
        say_whose(
            self._system, self._parts.fd, self._intent.part, self._root.name, self._intent.path
        )
        self._root.dress(self._part.fd)
        if (mtime_s := self._intent.mtime_s) is not None:
            mtime_ns = round(mtime_s * 1e6) * 1000
            os.utime(self._part.fd, ns=(mtime_ns, mtime_ns))
        self._system.mkdir("0", 0o700, dir_fd=self._fd)
        given = self._system.open("0", _FOLDER, dir_fd=self._fd)
        try:
            self._system.link(
                self._intent.part, self._name, src_dir_fd=self._parts.fd, dst_dir_fd=given
            )
        except OSError as exc:
            if exc.errno not in NO_LINKS:
                raise
            self._copy(given)
        finally:
            os.close(given)

    def clear(self) -> None:
        """Remove what the step that could not be taken has made until then."""
        with suppress(FileNotFoundError), DISK:
            shutil.rmtree(str(self._folder.taken + 1), dir_fd=self._fd)

    def _copy(self, given: int) -> None:
        """Do what a hard link would, where the file system has none."""
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        fd = self._system.open(self._name, _NEW, dir_fd=given)
        offset = 0
        try:
            while got := self._system.read(self._part.fd, buffer, offset):
                write_all(self._system, fd, buffer[:got], offset)
                offset += got
                beat()
        finally:
            os.close(fd)


def _sync_all(fd: int) -> bool:
    """Sync the whole file system of a folder; False: this system cannot. Raises OSError."""
    try:
        syncfs: Any = _LIBC.syncfs
    except AttributeError:
        return False
    with DISK:
        if syncfs(ctypes.c_int(fd)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    return True
