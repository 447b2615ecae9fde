"""Parts: the hidden files that transfers write, each with a lock and a journal."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from contextlib import suppress
from typing import NamedTuple, Self

from fetchd.disk.journal import forget_journal, read_all, read_journal, write_journal
from fetchd.disk.quarantine import QUARANTINE, drop_quarantined, move_to_quarantine
from fetchd.disk.roots import HIDDEN, Folder, Root, existing_at, explain, explained, shown
from fetchd.disk.space import Claim, Space
from fetchd.disk.system import write_all
from fetchd.errors import AttemptError
from fetchd.ports import Os, PartBusy, PartJournal

_PARTS = "parts"
_FOLDER_OF_PARTS = f"{HIDDEN}/{_PARTS}"
_PLACES = "places"
_PART = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
#: From so many bytes on their room is reserved: on ext4 they are written in two thirds of the time.
_WORTH_RESERVING_BYTES = 4 * 1024 * 1024
#: The file system reserves nothing, or not so much; a write will tell.
_NO_RESERVING = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EFBIG}
#: Two digits of base 32 in lower case, by their ten bits; and where those lie in a name's bits.
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SHIFTS = tuple(range(126, 5, -10))
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def part_name(root: str, path: str) -> str:
    """Return the name of a destination's part: short whatever the path, the same in every life."""
    digest = hashlib.sha256(os.fsencode(root) + b"\0" + os.fsencode(path)).digest()
    bits = int.from_bytes(digest[:17])  # 26 digits of five bits each, and six bits more
    return "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])


class Locked(NamedTuple):
    """A part's file, open and locked, as it was when it had been locked. ``new``: made just now."""

    fd: int
    new: bool
    device: int
    inode: int
    size_bytes: int
    names: int


class Unjournalled:
    """Parts that were closed without a journal, which then need not be looked for. Any thread.

    By name and inode. Some may be missing here; of others a journal may be left by another process
    that had the part in between, which vouches for nothing once the part is gone, and is swept.
    """

    _MOST = 10_000

    def __init__(self) -> None:
        self._parts: set[tuple[str, int]] = set()  # each call is one step of the interpreter

    def note(self, name: str, inode: int) -> None:
        if len(self._parts) >= self._MOST:
            self._parts.clear()
        self._parts.add((name, inode))

    def forget(self, name: str, inode: int) -> None:
        self._parts.discard((name, inode))

    def holds(self, name: str, inode: int) -> bool:
        return (name, inode) in self._parts


class DiskPart:
    """A destination's part, locked as long as ``fd`` is open. One thread. See ``ports.Part``."""

    def __init__(
        self,
        system: Os,
        space: Space,
        root: str,
        path: str,
        home: str,
        name: str,
        locked: Locked,
        folder: Folder,
        unjournalled: Unjournalled,
    ) -> None:
        """Take a part over; what its journal does not vouch for is cut off."""
        self.name = name
        self._system = system
        self._space = space
        self._root = root
        self._path = path
        self.home = home
        self._fd = locked.fd
        self._identity = locked.device, locked.inode
        self._folder = folder
        self._unjournalled = unjournalled
        unjournalled.forget(name, locked.inode)
        self._journalled = False  # a journal, or a draft of one, may be there
        self._discarded = False
        self.journal: PartJournal | None = None
        self._claim = Claim(device=locked.device)
        self._reserved_bytes = 0  # up to here the file system has reserved room
        self._ahead = False  # something was written behind size_bytes
        self.size_bytes = locked.size_bytes
        with explained(root, path, "the part"):
            if locked.new:
                # Of one that somebody has removed without it.
                if forget_journal(system, folder.fd, name, draft=False):
                    system.fsync(folder.fd)
                return
            said = read_journal(system, folder.fd, name)
            if said is not None and said[:2] == (root, path):
                self.journal = said[2]
                self._journalled = True
            if self.journal is None or self.journal.end_bytes > self.size_bytes:
                self._forget()
            # Also one that is as long: a crash has left reserved what is to be claimed again.
            self.size_bytes = self.journal.durable_bytes if self.journal else 0
            system.truncate(locked.fd, self._end_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unclaim()
        self._release()
        if not (self._journalled or self._discarded):
            self._unjournalled.note(self.name, self._identity[1])
        with explained(self._root, self._path, "closing the part"):
            os.close(self._fd)

    def write(self, data: memoryview) -> None:
        try:
            write_all(self._system, self._fd, data, self.size_bytes)
        except OSError as exc:
            raise explain(exc, self._root, self._path, "writing the part") from exc
        # Only now: what a failed write left behind the size is overwritten or cut off.
        self.size_bytes += len(data)
        self._claim.missing_bytes = max(0, self._claim.missing_bytes - len(data))

    def write_at(self, data: memoryview, offset: int) -> None:
        self._ahead = True
        self.overwrite(data, offset)

    def overwrite(self, data: memoryview, offset: int) -> None:
        try:
            write_all(self._system, self._fd, data, offset)
        except OSError as exc:
            raise explain(exc, self._root, self._path, "writing the part") from exc

    def advance(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    @property
    def _end_bytes(self) -> int:
        """Where the last byte ends that is of use."""
        return max(self.size_bytes, self.journal.end_bytes if self.journal else 0)

    def truncate(self, size_bytes: int = 0) -> None:
        if self.size_bytes == size_bytes == 0 and self.journal is None:
            return
        with explained(self._root, self._path, "cutting the part"):
            if self.journal is not None and self.journal.end_bytes > size_bytes:
                self._forget()
            self._system.truncate(self._fd, size_bytes)
        # What is cut off is missing again, and free.
        if self._reserved_bytes:
            self._space.claim(self._claim, max(0, self._reserved_bytes - size_bytes))
            self._reserved_bytes = 0
        elif self._claim.missing_bytes:
            self._claim.missing_bytes += max(0, self.size_bytes - size_bytes)
        self.size_bytes = size_bytes

    def readinto(self, buffer: memoryview, offset: int) -> int:
        buffer = buffer[: max(0, self.size_bytes - offset)]  # behind it there may be holes
        with explained(self._root, self._path, "reading the part back"):
            return self._system.read(self._fd, buffer, offset)

    def checkpoint(self, journal: PartJournal) -> None:
        try:
            self._system.fsync(self._fd)
        except OSError as exc:
            # What the kernel could not write it may have dropped: a second sync that succeeds
            # would prove nothing.
            self.discard()
            raise explain(exc, self._root, self._path, "syncing the part") from exc
        with explained(self._root, self._path, "writing the part's journal"):
            self._journalled = True
            write_journal(self._system, self._folder.fd, self.name, self._root, self._path, journal)
        self.journal = journal

    def identity(self) -> tuple[int, int]:
        return self._identity

    def discard(self) -> None:
        if self._discarded:
            return  # the name may be another's by now
        with explained(self._root, self._path, "removing the part"):
            remove(self._system, self._folder.fd, self.name)
        self._gone()

    def quarantine(self) -> str:
        if self._discarded:
            return ""
        self._release()
        with explained(self._root, self._path, f"moving the part to {HIDDEN}/{QUARANTINE}"):
            self._forget()
            move_to_quarantine(self._system, self._folder.fd, self.name)
        self._gone()
        return "/".join(filter(None, (self.home, HIDDEN, QUARANTINE, self.name)))

    def drop_quarantined(self) -> bool:
        with suppress(OSError):
            return drop_quarantined(self._system, self._folder.fd, self.name)
        return False

    def claim(self, missing_bytes: int) -> None:
        if missing_bytes and self.size_bytes + missing_bytes <= self._reserved_bytes:
            return
        if self._space.is_negligible(self._claim, missing_bytes):
            return
        large = missing_bytes >= _WORTH_RESERVING_BYTES
        needed_bytes = self._space.claim(self._claim, missing_bytes)
        if not large and self._space.is_ample(self._claim, needed_bytes):
            return
        with self._space.measuring(self._claim):
            self._hold_to_free(missing_bytes)
            if large:
                self._reserve(missing_bytes)

    def _reserve(self, missing_bytes: int) -> None:
        """Have the file system keep what is claimed, if it can; then nobody else needs to."""
        try:
            self._system.allocate(self._fd, self.size_bytes, missing_bytes)
        except OSError as exc:
            if exc.errno not in _NO_RESERVING:
                self.unclaim()
                raise explain(exc, self._root, self._path, "reserving room") from exc
        else:
            self._reserved_bytes = self.size_bytes + missing_bytes
            self._space.note_reserved(self._claim)

    def _release(self) -> None:
        """Give back what was reserved and not used."""
        unused = self._ahead or self._reserved_bytes > self.size_bytes
        if unused and not self._discarded:
            with suppress(OSError):  # it is, when the part is opened again or swept
                self._system.truncate(self._fd, self._end_bytes)
        self._reserved_bytes = 0

    def _hold_to_free(self, missing_bytes: int) -> None:
        """Raise AttemptError when what is free does not cover the claim."""
        needed_bytes = self._space.claim(self._claim, missing_bytes)
        free_bytes = self._free_bytes()
        self._space.note_free(self._claim, free_bytes)
        if free_bytes >= needed_bytes:
            return  # and so the file system is large enough, too
        if missing_bytes:
            self._check_capacity(self.size_bytes + missing_bytes)
        if self.drop_quarantined():
            free_bytes = self._free_bytes()
        if free_bytes < needed_bytes and self._space.relieve(self._claim.device):
            free_bytes = self._free_bytes()
        if free_bytes < needed_bytes:
            self.unclaim()
            raise AttemptError(
                "disk_full",
                f"{missing_bytes} bytes are missing, {free_bytes} are free, and "
                f"{needed_bytes - missing_bytes} of them are reserved (disk.reserve) or needed "
                "by transfers under way",
            )

    def unclaim(self) -> None:
        """Let others have what was claimed."""
        self._space.drop(self._claim)

    def _check_capacity(self, size_bytes: int) -> None:
        with explained(self._root, self._path, "asking for the size of the file system"):
            most_bytes = self._space.most_bytes(self._system.capacity_bytes(self._fd))
        if size_bytes > most_bytes:
            self.unclaim()
            raise AttemptError(
                "too_large",
                f"{size_bytes} bytes are more than the file system could hold if it were empty, "
                f"less what is reserved (disk.reserve): {most_bytes}",
            )

    def _free_bytes(self) -> int:
        try:
            return self._system.free_bytes(self._fd)
        except OSError as exc:
            raise explain(exc, self._root, self._path, "asking for free space") from exc

    def _gone(self) -> None:
        self._discarded = True
        self.journal = None
        self.size_bytes = 0

    def _forget(self) -> None:
        """Remove the journal, durably: it must never vouch for bytes that are written next."""
        self.journal = None
        if forget_journal(self._system, self._folder.fd, self.name):
            self._system.fsync(self._folder.fd)


class WholePart:
    """The part of a small file, made with all its bytes. See ``ports.FreshPart``."""

    def __init__(
        self,
        system: Os,
        space: Space,
        unjournalled: Unjournalled,
        root: str,
        path: str,
        home: Folder,
        folder: Folder,
        name: str,
    ) -> None:
        self.size_bytes = 0
        self.name = name
        self.home = home.home_path
        self._system = system
        self._space = space
        self._unjournalled = unjournalled
        self._root = root
        self._path = path
        self._folder = folder
        self._device = home.device
        self._inode = 0

    def keep(self, whole: memoryview) -> bool:
        if not self._space.has_plenty(self._device, len(whole)):
            return False
        folder_fd, name = self._folder.fd, self.name
        with explained(self._root, self._path, "writing the part"):
            try:
                fd = self._system.open(
                    name, _PART | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd
                )
            except FileExistsError:
                raise _busy(name) from None
            locked = _locked(fd, folder_fd, name, new=True)
            if locked is None:
                raise _busy(name)
            try:
                if not locked.new or locked.names > 1:
                    raise _busy(name)
                self._fill(fd, whole)
            finally:
                os.close(fd)
        self._device, self._inode = locked.device, locked.inode
        self.size_bytes = len(whole)
        self._unjournalled.note(name, locked.inode)
        return True

    def _fill(self, fd: int, whole: memoryview) -> None:
        """Write all, or leave nothing."""
        system, folder_fd, name = self._system, self._folder.fd, self.name
        try:
            # Of a part that somebody has removed without it.
            if forget_journal(system, folder_fd, name, draft=False):
                system.fsync(folder_fd)
            write_all(system, fd, whole, 0)
        except OSError:
            with suppress(OSError):
                system.unlink(name, dir_fd=folder_fd)
            raise

    def identity(self) -> tuple[int, int]:
        return self._device, self._inode


def find_fresh(
    system: Os, space: Space, unjournalled: Unjournalled, root: Root, path: str
) -> WholePart | None:
    """Return where the part of a small file goes; None: see ``ports.Disk.fresh``."""
    place = root.place(path)
    home = place.home
    if not space.has_plenty(home.device, 0) or existing_at(place, root.name, path) is not None:
        return None
    with suppress(OSError):  # who opens the part is told
        folder, name = find_folder(system, home), part_name(root.name, path)
        if folder is None or not system.may_write(place.folder.fd):
            return None
        if os.access(name, os.F_OK, dir_fd=folder.fd, follow_symlinks=False):
            return None
        return WholePart(system, space, unjournalled, root.name, path, home, folder, name)
    return None


def open_part(
    system: Os, space: Space, unjournalled: Unjournalled, root: Root, path: str, at: str
) -> DiskPart:
    """Open or make the part of a destination (``with``); raises AttemptError, PartBusy.

    ``at``: where that is going to lie, by which its file system is found.
    """
    name = part_name(root.name, path)
    place = root.place(at)
    folder_fd = place.folder.fd
    try:
        what = "the folder"
        if not system.may_write(folder_fd):
            read_only = os.fstatvfs(folder_fd).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
        what = f"the folder {HIDDEN}"
        folder = make_folder(system, root, place.home)
        what = "the part"
        locked = _make_or_lock(system, folder.fd, name)
        while locked.names > 1:
            # A published file under a second name, since a crash: never write into it.
            os.close(locked.fd)
            remove(system, folder.fd, name)
            locked = _make_or_lock(system, folder.fd, name)
    except OSError as exc:
        raise explain(exc, root.name, path, what) from exc
    try:
        return DiskPart(
            system,
            space,
            root.name,
            path,
            place.home.home_path,
            name,
            locked,
            folder,
            unjournalled,
        )
    except BaseException:
        os.close(locked.fd)
        raise


def lock(system: Os, folder_fd: int, name: str) -> Locked | None:
    """Open a part and lock it; None: there is none. Raises OSError, PartBusy, AttemptError.

    Where the file system has no locks (some network ones) the part is used without.
    """
    while True:
        try:
            fd = system.open(name, _PART, dir_fd=folder_fd)
        except FileNotFoundError:
            return None
        if (locked := _locked(fd, folder_fd, name, new=False)) is not None:
            return locked


def _make_or_lock(system: Os, folder_fd: int, name: str) -> Locked:
    while True:
        try:
            fd = system.open(name, _PART | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd)
        except FileExistsError:
            locked = lock(system, folder_fd, name)
        else:
            locked = _locked(fd, folder_fd, name, new=True)
        if locked is not None:
            return locked


def _locked(fd: int, folder_fd: int, name: str, *, new: bool) -> Locked | None:
    """Lock an open part; None, and closed: it was published or swept before that."""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise AttemptError(
                "dest_denied", f"{_FOLDER_OF_PARTS}/{name} is not a regular file; remove it"
            )
        _flock(fd, name)
        try:
            named = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            named = None
        if named is not None and named.st_ino == found.st_ino:
            return Locked(
                fd,
                new and not named.st_size,  # or another process was in between
                named.st_dev,
                named.st_ino,
                named.st_size,
                named.st_nlink,
            )
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def find_folder(system: Os, home: Folder) -> Folder | None:
    """Return the folder of the parts below a file system's top folder, None: there is none."""
    try:
        return home.inner(system, _FOLDER_OF_PARTS)
    except FileNotFoundError:
        return None


def remove(system: Os, folder_fd: int, name: str) -> None:
    """Remove a part and its journal; the journal first, and durably: see ``DiskPart``."""
    if forget_journal(system, folder_fd, name):
        system.fsync(folder_fd)
    with suppress(FileNotFoundError):
        system.unlink(name, dir_fd=folder_fd)


def names(folder_fd: int) -> list[str]:
    """Return the names of all parts, and of journals whose part is gone."""
    return sorted({entry.partition(".")[0] for entry in os.listdir(folder_fd)} - {""})


def homes(system: Os, root: Root) -> list[str]:
    """Return where parts of a root may lie: "" and the other file systems that ever held some."""
    places = {""}
    try:
        hidden = root.folder("").inner(system, HIDDEN)
        fd = system.open(_PLACES, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=hidden.fd)
    except OSError:
        return [""]
    try:
        lines = read_all(system, fd).splitlines()
    except OSError:
        lines = []
    finally:
        os.close(fd)
    for line in lines:
        with suppress(ValueError):
            home = json.loads(line)
            if isinstance(home, str):
                places.add(home)
    return sorted(places)


def make_folder(system: Os, root: Root, home: Folder) -> Folder:
    """Return the folder of the parts, made if need be."""
    found = find_folder(system, home)
    if found is not None:
        return found
    with suppress(FileExistsError):
        system.mkdir(HIDDEN, 0o700, dir_fd=home.fd)
    hidden = home.inner(system, HIDDEN)
    if home.home_path:
        _note_place(system, root, home.home_path)
    with suppress(FileExistsError):
        system.mkdir(_PARTS, 0o700, dir_fd=hidden.fd)
    system.fsync(hidden.fd)
    system.fsync(home.fd)
    return home.inner(system, _FOLDER_OF_PARTS)


def _note_place(system: Os, root: Root, home: str) -> None:
    """Write down that another file system has parts, for the next life's sweep."""
    top = root.top
    make_folder(system, root, top)
    # On Linux O_APPEND wins over any offset, so two threads cannot overwrite each other.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    fd = system.open(_PLACES, flags, 0o600, dir_fd=top.inner(system, HIDDEN).fd)
    try:
        line = json.dumps(home).encode("ascii") + b"\n"
        write_all(system, fd, memoryview(line), os.fstat(fd).st_size)
        system.fsync(fd)
    finally:
        os.close(fd)


def _busy(name: str) -> PartBusy:
    return PartBusy(f"another transfer has the part {shown(name)} open")


def _flock(fd: int, name: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(name) from None
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise
