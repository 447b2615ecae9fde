"""Publication: verified parts get their final names, durably and in groups; trees by ``tree``."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from fetchd.clock import Clock, Failpoints
from fetchd.disk.bench import NO_LINKS
from fetchd.disk.generations import Entry, Shelf, Shelves, path_in
from fetchd.disk.journal import forget_journal, read_journal
from fetchd.disk.part import Locked, Unjournalled, find_folder, lock, remove
from fetchd.disk.quarantine import drop_quarantined, has_quarantine
from fetchd.disk.roots import HIDDEN, Folder, Place, Root, existing_at, explain, shown
from fetchd.disk.staging import Held, has_digests
from fetchd.disk.tree import NO_RENAME_NEW, Tree
from fetchd.errors import AttemptError
from fetchd.model import Attempt, Failure, Outcome, Publish, Published
from fetchd.ports import Existing, Os, PartBusy
from fetchd.threads import DISK

#: Parts that share their syncs; bounded, since each holds a few descriptors meanwhile.
GROUP = 64
#: Syncs under way at once: the journal of the file system then commits them together.
_SYNCS = 8
#: A sync that takes longer has waited for a device. So have several that take a fifth of that; one
#: alone may have waited for the interpreter, and threads that nobody needs cost more than it.
_SLOW_S = 0.0005
_MOST_SLOWISH = 3
_STANDING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_MEMORY = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


class Publisher:
    """Makes parts visible. One thread calls ``publish``.

    The order is the promise: data synced, then named, then the folder synced, and only then told.
    ``sync`` makes a file or folder durable, unless that is left to the kernel; at most ``most``
    parts share their syncs.
    """

    def __init__(
        self,
        roots: Mapping[str, Root],
        system: Os,
        unjournalled: Unjournalled,
        failpoints: Failpoints,
        clock: Clock,
        held: Held,
        shelves: Shelves,
        *,
        sync: Callable[[int], None],
        most: int,
    ) -> None:
        self._shelves = shelves
        self._roots = roots
        self._held = held
        self._unjournalled = unjournalled
        self._system = system
        self._failpoints = failpoints
        self._clock = clock
        self._fsync = sync
        self.most = most

    def publish(self, attempts: Sequence[Publish]) -> list[tuple[Attempt, Outcome]]:
        """Publish each attempt's part; one that fails does not hurt the others."""
        settled: list[tuple[Attempt, Outcome]] = []
        parts = [attempt for attempt in attempts if attempt.intent.staged is None]
        for first in range(0, len(parts), self.most):
            settled += self._publish_group(parts[first : first + self.most])
        for attempt in attempts:
            if attempt.intent.staged is not None:
                tree = Tree(
                    attempt,
                    self._roots,
                    self._system,
                    self._held,
                    self._shelves,
                    self._failpoints,
                    self._fsync,
                )
                settled.append((attempt, tree.publish()))
        return settled

    def _publish_group(self, attempts: Sequence[Publish]) -> list[tuple[Attempt, Outcome]]:
        group = _Group(self._roots, self._system, self._unjournalled)
        members = [_Member(attempt, group) for attempt in attempts]
        try:
            for member in members:
                member.go(member.prepare)

            unsynced = {m.fd: m for m in members if m.going and m.fd is not None}
            for fd, error in self._sync_all(unsynced).items():
                unsynced[fd].spoil(error)
            self._failpoints.pass_by("publish.synced")
            self._note([m for m in members if m.going])

            for member in members:
                if member.go(member.show):
                    self._failpoints.pass_by("publish.renamed")

            named = [m for m in members if m.going]
            folders = {m.place.folder.key: m.place.folder.fd for m in named}
            errors = self._sync_all(folders.values())
            for member in named:
                if (failed := errors.get(folders[member.place.folder.key])) is not None:
                    member.take_back(failed)
            self._failpoints.pass_by("publish.folder_synced")

            for member in members:
                member.go(member.finish)
            return [(m.attempt, m.outcome) for m in members if m.outcome is not None]
        finally:
            group.close()

    def _note(self, members: Sequence[_Member]) -> None:
        """Put down what is going to be in generations, once for each of these."""
        shelves: dict[str, tuple[Shelf, list[_Member]]] = {}
        for member in members:
            if (shelf := self._shelves.of(member.attempt.job, member.attempt.run)) is not None:
                shelves.setdefault(shelf.place_key, (shelf, []))[1].append(member)
        for shelf, own in shelves.values():
            try:
                shelf.note([entry for one in own for entry in one.entries(shelf)], sync=True)
            except AttemptError as exc:
                for member in own:
                    member.settle(exc)
            self._failpoints.pass_by("generation.noted")

    def _sync_all(self, fds: Iterable[int]) -> dict[int, OSError]:
        """Sync all; return the errors of those that could not be.

        One after the other as long as none takes time: threads would take more. Then several at
        once.
        """
        waiting = list(fds)
        # Each is guilty until its sync has returned; one item, one thread.
        errors = {fd: OSError(errno.EIO, "not synced") for fd in waiting}
        turns = iter(waiting)  # drawing from it is one step under the interpreter lock
        began_s, slowish = self._clock.monotonic(), 0
        for fd in turns:
            self._sync(fd, errors)
            now_s = self._clock.monotonic()
            slowish += now_s - began_s > _SLOW_S / 5
            if now_s - began_s > _SLOW_S or slowish == _MOST_SLOWISH:
                self._sync_together(turns, min(_SYNCS, len(waiting) - 1), errors)
            began_s = now_s
        return errors

    def _sync_together(self, turns: Iterator[int], most: int, errors: dict[int, OSError]) -> None:
        def work() -> None:
            for fd in turns:
                self._sync(fd, errors)

        helpers = []
        for number in range(most - 1):
            helper = threading.Thread(target=work, name=f"publisher-sync-{number}", daemon=True)
            try:
                helper.start()
            except RuntimeError:  # the system gives no more threads: fewer do as well
                break
            helpers.append(helper)
        work()
        with DISK:
            for helper in helpers:
                helper.join()

    def _sync(self, fd: int, errors: dict[int, OSError]) -> None:
        try:
            self._fsync(fd)
        except OSError as exc:
            # Without its frames, which would hold the whole group and what it has open.
            errors[fd] = exc.with_traceback(None)
        except MemoryError:
            errors[fd] = _NO_MEMORY
        else:
            del errors[fd]


class _Group:
    """What the members of a group have in common: each folder is walked to once for all of them."""

    def __init__(self, roots: Mapping[str, Root], system: Os, unjournalled: Unjournalled) -> None:
        self.system = system
        self.unjournalled = unjournalled
        self._roots = roots
        self._folders: dict[tuple[str, str], Folder] = {}
        self._parts: dict[Folder, Folder | None] = {}
        self._refused: dict[Folder, bool] = {}
        self._opened: list[int] = []

    def place(self, attempt: Publish) -> tuple[Root, Place]:
        intent = attempt.intent
        root = self._roots.get(intent.root)
        if root is None:
            raise AttemptError("dest_denied", f"root {intent.root!r} is not configured any more")
        path = path_in(attempt.job, attempt.run, intent.root, intent.path)
        below, _, name = path.rpartition("/")
        folder = self._folders.get((intent.root, below))
        if folder is not None and name not in {"", ".", "..", HIDDEN} and "\0" not in name:
            return root, Place(folder, name)
        place = root.place(path, make=True)
        if below:  # "/name" and "name" are not the same
            self._folders[intent.root, below] = place.folder
        return root, place

    def parts(self, place: Place) -> Folder | None:
        """Return the folder of the parts for a place, None: there is none."""
        home = place.home
        if home not in self._parts:
            self._parts[home] = find_folder(self.system, home)
        return self._parts[home]

    def drop_quarantined(self, parts: Folder, name: str) -> None:
        """Remove what was refused of a destination, if anything was of any."""
        if parts not in self._refused:
            self._refused[parts] = has_quarantine(parts.fd)
        if self._refused[parts]:
            drop_quarantined(self.system, parts.fd, name)

    def lock(self, parts: Folder, name: str) -> Locked | None:
        locked = lock(self.system, parts.fd, name)
        if locked is not None:
            self._opened.append(locked.fd)
        return locked

    def open(self, place: Place) -> int:
        """Open the file that stands at a place."""
        fd = self.system.open(place.name, _STANDING, dir_fd=place.folder.fd)
        self._opened.append(fd)
        return fd

    def close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())


class _Member:
    """One part on its way through the steps; ``outcome`` is set as soon as it is known."""

    place: Place

    def __init__(self, attempt: Publish, group: _Group) -> None:
        self.attempt = attempt
        self.intent = attempt.intent
        self.outcome: Outcome | None = None
        self.fd: int | None = None  # of what is to be synced
        self._stands = False  # it has its final name already
        self._parts: Folder | None = None
        self._moved = False  # the part's own name became the file's
        self._group = group
        self._system = group.system
        self._unjournalled = group.unjournalled

    @property
    def going(self) -> bool:
        return self.outcome is None

    def go(self, step: Callable[[], None]) -> bool:
        """Take one step unless it is settled; True when the step succeeded."""
        if not self.going:
            return False
        try:
            step()
        except AttemptError as exc:
            self._fail(exc)
        except PartBusy as exc:
            reason = f"{self._shown}: {exc}; another process fetches to the same root"
            self._fail(AttemptError("disk_error", reason))
        except OSError as exc:
            self.fail(exc, "publishing")
        except MemoryError:  # of one; the others have what they need, or meet their own
            if self.going:
                self.fail(_NO_MEMORY, "publishing")
        return self.going

    def prepare(self) -> None:
        """Open the folder and the part, see that it is the one that was verified, dress it."""
        intent = self.intent
        root, self.place = self._group.place(self.attempt)
        there = existing_at(self.place, intent.root, intent.path)
        self._parts = self._group.parts(self.place)
        part = self._group.lock(self._parts, intent.part) if self._parts else None
        if there is not None and there.inode == intent.inode and not there.link:
            # Named in an earlier life, or under both names by a crash between link and unlink.
            self._stands = self._stands_whole(there)
            if not self._stands and self._is_torn(there):
                self._take_down(there)
            if self._stands or not self.going:
                return
        if there is not None and not intent.clobber:
            raise self._exists()
        if part is None:
            self._refuse("the verified part is gone; it is fetched again")
            return
        if not self._is_verified(part.inode, part.size_bytes, part.device):
            self._refuse("the part is not the one that was verified; it is fetched again")
            return
        fd = part.fd
        if self.attempt.recovered and not self._holds(fd):
            return
        if (mtime_ns := self._mtime_ns) is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        root.dress(fd)
        self.fd = fd

    def show(self) -> None:
        """Give the part its final name."""
        if self._stands:
            return
        assert self._parts is not None
        names = {"src_dir_fd": self._parts.fd, "dst_dir_fd": self.place.folder.fd}
        part, name = self.intent.part, self.place.name
        if self.intent.clobber:
            self._system.rename(part, name, **names)
            self._moved = True
            return
        try:
            try:
                self._system.link(part, name, **names)
            except OSError as exc:
                if exc.errno not in NO_LINKS:
                    raise
                self._system.rename_new(part, name, **names)
        except FileExistsError:
            raise self._exists() from None
        except OSError as exc:
            if exc.errno not in NO_RENAME_NEW:
                raise
            raise AttemptError(
                "dest_denied",
                f"{self._shown}: this file system can neither link nor rename without "
                "replacing, which `if_exists: fail` needs; choose another root or `if_exists`",
            ) from None

    def entries(self, shelf: Shelf) -> list[Entry]:
        """Return what is to be put down of a file before it is in a generation."""
        if self.fd is None:  # it has its name already
            return []
        return list(shelf.entries_of(self.attempt, os.fstat(self.fd)))

    def settle(self, error: AttemptError) -> None:
        """Fail with a part that is as good as before."""
        self._fail(error, kept=True)

    def finish(self) -> None:
        """Remove what is left of the part and say what is visible now."""
        found = os.stat(self.place.name, dir_fd=self.place.folder.fd, follow_symlinks=False)
        self.outcome = Published(intent=self.intent, mtime_ns=found.st_mtime_ns, inode=found.st_ino)
        if self._parts is None:
            return
        # What cannot be removed is swept later; the file itself is published.
        part = self.intent.part
        with suppress(OSError):
            self._group.drop_quarantined(self._parts, part)
        with suppress(OSError):
            if self._unjournalled.holds(part, found.st_ino):
                self._unjournalled.forget(part, found.st_ino)
            else:
                forget_journal(self._system, self._parts.fd, part)
            if self._moved:
                return
            if os.stat(part, dir_fd=self._parts.fd, follow_symlinks=False).st_ino == found.st_ino:
                self._system.unlink(part, dir_fd=self._parts.fd)

    def fail(self, exc: OSError, what: str, *, kept: bool = True) -> None:
        self._fail(explain(exc, self.intent.root, self.intent.path, what), kept=kept)

    def _fail(self, error: AttemptError, *, kept: bool = True) -> None:
        self.outcome = Failure(
            code=error.code, reason=error.reason, transient=error.transient, kept=kept
        )

    def take_back(self, exc: OSError) -> None:
        """Fail because the name may not last; one that may not be replaced goes at once.

        Or the next attempt would take it for somebody else's file. It becomes the part again, from
        which it is named anew: only a new change of the folder makes a new sync tell whether that
        is durable. A file that has replaced another stays, and is fetched again.
        """
        kept = False
        if not self.intent.clobber:
            with suppress(OSError):
                kept = self._unname(self.intent.size_bytes)
        self.fail(exc, "syncing the folder", kept=kept)

    def _unname(self, size_bytes: int) -> bool:
        """Take the final name from our file, as long as it is; it becomes the part again.

        False: somebody else's has the name, or there is no folder for a part to be in.
        """
        name, part, folder_fd = self.place.name, self.intent.part, self.place.folder.fd
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if self._parts is None or not self._is_ours(found.st_ino, found.st_dev):
            return False
        if found.st_size != size_bytes:
            return False
        parts_fd = self._parts.fd
        if found.st_nlink > 1 and self._is_at(part, parts_fd, found.st_ino):
            self._system.unlink(name, dir_fd=folder_fd)
        else:
            self._system.rename(name, part, src_dir_fd=folder_fd, dst_dir_fd=parts_fd)
        return True

    def _is_at(self, name: str, folder_fd: int, inode: int) -> bool:
        try:
            return os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ino == inode
        except FileNotFoundError:
            return False

    def spoil(self, exc: OSError) -> None:
        """Discard a part whose bytes did not reach the disk: no second sync could be believed.

        One that a crash has left under its final name is taken back first, as in ``take_back``.
        """
        if self._stands and not self.intent.clobber:
            with suppress(OSError):
                self._unname(self.intent.size_bytes)
        self._discard()
        error = explain(exc, self.intent.root, self.intent.path, "syncing the part")
        reason = f"{error.reason}; it is fetched again"
        self.outcome = Failure(code=error.code, reason=reason, transient=True)

    def _is_verified(self, inode: int, size_bytes: int, device: int) -> bool:
        """Tell whether this is the file that the intent names, and as long."""
        return self._is_ours(inode, device) and size_bytes == self.intent.size_bytes

    def _is_ours(self, inode: int, device: int) -> bool:
        # Device numbers may change when the machine starts again.
        return inode == self.intent.inode and (
            device == self.intent.device or self.attempt.recovered
        )

    def _stands_whole(self, there: Existing) -> bool:
        """Tell whether what has the final name is our file, with all that was verified.

        After a crash that is looked at: whoever gave the name may not have synced before.
        """
        if not self._is_verified(there.inode, there.size_bytes, self.place.folder.key[0]):
            return False
        if not self.attempt.recovered:
            return True
        fd = self._group.open(self.place)
        if self.intent.digests and not self._has_digests(fd):
            return False
        self.fd = fd
        return True

    def _is_torn(self, there: Existing) -> bool:
        """Tell whether our file is not whole because of a crash; else somebody has written to it.

        A crash makes none longer, and the date was set before the name was given. Inode numbers
        come again, so only the date tells it from a file that has taken its place.
        """
        return (
            self.attempt.recovered
            and there.size_bytes <= self.intent.size_bytes
            and there.mtime_ns == self._mtime_ns
        )

    @property
    def _mtime_ns(self) -> int | None:
        mtime_s = self.intent.mtime_s
        return None if mtime_s is None else round(mtime_s * 1e6) * 1000

    def _take_down(self, there: Existing) -> None:
        """Settle as a failure what a crash has torn; `if_exists` must not meet it as a file.

        It is the part again, of which the next attempt uses what the journal vouches for.
        """
        self._unname(there.size_bytes)
        if there.size_bytes == self.intent.size_bytes:
            self._discard()  # nothing tells where it is torn
        self._refuse("a crash has torn the published file; it is fetched again")

    def _holds(self, fd: int) -> bool:
        """Verify the bytes again, which a crash may have torn; False: settled as a failure."""
        intent = self.intent
        if not intent.digests:
            assert self._parts is not None
            said = read_journal(self._system, self._parts.fd, intent.part)
            if intent.size_bytes and (said is None or said[2].durable_bytes < intent.size_bytes):
                self._refuse(
                    "a crash came before the part was synced and no checksum can clear it; "
                    "it is fetched again from what was durable"
                )
            return self.going
        if not self._has_digests(fd):
            self._discard()
            self._refuse("a crash has torn the verified part; it is fetched again")
        return self.going

    def _has_digests(self, fd: int) -> bool:
        return has_digests(self._system, fd, self.intent.digests)

    def _discard(self) -> None:
        if self._parts is None:
            return
        with suppress(OSError):
            remove(self._system, self._parts.fd, self.intent.part)

    def _exists(self) -> AttemptError:
        return AttemptError(
            "exists",
            f"{self._shown}: the file exists and `if_exists: fail` forbids to replace it",
        )

    def _refuse(self, reason: str) -> None:
        self.outcome = Failure(code="disk_error", reason=f"{self._shown}: {reason}", transient=True)

    @property
    def _shown(self) -> str:
        return f"{self.intent.root}:{shown(self.intent.path)}"
