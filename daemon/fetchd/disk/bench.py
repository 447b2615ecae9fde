"""The bench of a step: the files that it is given, and what it makes of them, in two folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from fetchd.disk.roots import HIDDEN, Root, explain
from fetchd.disk.system import write_all
from fetchd.errors import AttemptError
from fetchd.ports import BenchFile, Os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_BUFFER_BYTES = 1024 * 1024
#: How a file system says that a file gets no further name.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
#: A file lies in no more folders: each is open while what is below it is looked at.
MOST_FOLDERS = 128


class DiskBench:
    """``ports.Bench`` over two folders. One thread.

    ``originals``: a folder of files that are given as hard links, and are others', too.
    """

    def __init__(
        self,
        system: Os,
        root: Root,
        path: str,
        name: str,
        given: int,
        made: int,
        tick: Callable[[], None],
        make_room: Callable[[int, int, int], int],
        note_begun: Callable[[], None],
        originals: int | None = None,
    ) -> None:
        self._originals = originals
        self.begun = False
        self._note_begun = note_begun
        self.name = name
        self.read_bytes = 0
        self.written_bytes = 0
        self.tick = tick
        self._system = system
        self._root = root
        self._path = path
        self._given = given
        self._made = made
        self._make_room = make_room
        self._room_bytes = 0  # may be written before it is asked for more

    def files(self) -> Iterator[BenchFile]:
        for path, found in walk(self._given):
            self.tick()
            link = stat.S_ISLNK(found.st_mode)
            yield BenchFile(path=path, size_bytes=found.st_size, mtime_s=found.st_mtime, link=link)

    @contextmanager
    def open(self, path: str) -> Iterator[_Input]:
        with self._explained("opening what a step is given"):
            fd = self._system.open(path, _FILE, dir_fd=self._given)
        try:
            yield _Input(self, fd)
        finally:
            os.close(fd)

    @contextmanager
    def make(
        self, path: str, *, executable: bool = False, mtime_s: float | None = None
    ) -> Iterator[_Output]:
        self.tick()
        _check_path(path)
        with self._explained("making a file"):
            fd = self._open_new(path, 0o777 if executable else 0o666)
        try:
            with self._explained("making a file"):
                root_mode = self._root.mode
                if executable and root_mode is not None:
                    self._root.dress(fd, _executable(root_mode))
                else:
                    self._root.dress(fd)
            yield _Output(self, fd)
            if mtime_s is not None:
                with self._explained("dating a file"):
                    mtime_ns = round(mtime_s * 1e6) * 1000
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _open_new(self, path: str, mode: int) -> int:
        try:
            return self._system.open(path, _NEW, mode, dir_fd=self._made)
        except FileNotFoundError:
            self._make_folders(path.rpartition("/")[0])
        return self._system.open(path, _NEW, mode, dir_fd=self._made)

    def make_folder(self, path: str) -> None:
        self.tick()
        _check_path(path)
        with self._explained("making a folder"):
            self._make_folders(path)

    def _make_folders(self, path: str) -> None:
        try:
            self._system.mkdir(path, 0o777, dir_fd=self._made)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(path, dir_fd=self._made, follow_symlinks=False).st_mode):
                raise
            return
        except FileNotFoundError:
            self._make_folders(path.rpartition("/")[0])
            self._system.mkdir(path, 0o777, dir_fd=self._made)
        if self._root.mode is not None or self._root.gid is not None:
            fd = self._system.open(path, _FOLDER, dir_fd=self._made)
            try:
                self._root.dress(fd, _executable(self._root.mode or 0))
            finally:
                os.close(fd)

    def make_link(self, path: str, target: str) -> None:
        self.tick()
        _check_path(path)
        with self._explained("making a link"):
            above = path.rpartition("/")[0]
            if above:
                self._make_folders(above)
            os.symlink(target, path, dir_fd=self._made)

    def carry(self) -> None:
        with self._explained("handing files on"):
            for name in sorted(os.listdir(self._given)):  # noqa: PTH208 -- it has no path
                self.tick()
                _refuse_existing(name, self._made)
                self._system.rename(name, name, src_dir_fd=self._given, dst_dir_fd=self._made)

    @contextmanager
    def lend(self) -> Iterator[str]:
        with self._explained("lending files"):
            for path, found in walk(self._made):
                if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                    self._part_from_others(path, found)
        yield f"/proc/self/fd/{self._made}"
        with self._explained("looking at what was lent"):
            for path, found in walk(self._made):
                self.tick()
                _check_path(path)
                if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                    raise AttemptError("step_failed", f"{path!r} is no file, folder or link")
            if self._originals is not None:
                self._put_back(self._originals)

    def _put_back(self, originals: int) -> None:
        """Let what nobody has changed be the file again that was given."""
        for path, found in walk(self._made):
            self.tick()
            with suppress(FileNotFoundError, NotADirectoryError):
                given = os.stat(path, dir_fd=originals, follow_symlinks=False)
                if look_alike(found, given) and self._same_bytes(path, originals):
                    draft = _beside(path)
                    try:
                        self.link(draft, path, originals)
                    except OSError as exc:
                        if exc.errno not in NO_LINKS:
                            raise
                        return
                    self._system.rename(draft, path, src_dir_fd=self._made, dst_dir_fd=self._made)

    def _same_bytes(self, path: str, originals: int) -> bool:
        """Read a file of the same length as the original beside it; tell whether it is the same."""
        ours, theirs = (memoryview(bytearray(_BUFFER_BYTES)) for _ in range(2))
        with ExitStack() as stack:
            fds = [self._system.open(path, _FILE, dir_fd=d) for d in (self._made, originals)]
            for fd in fds:
                stack.callback(os.close, fd)
            offset = 0
            while got := self.read(fds[0], ours, offset):
                if self.read(fds[1], theirs[:got], offset) != got or ours[:got] != theirs[:got]:
                    return False
                offset += got
        return True

    def _part_from_others(self, path: str, found: os.stat_result) -> None:
        """Let a file be itself: the part, of which it is a name, stays as it was verified."""
        draft = _beside(path)
        fd = self._system.open(path, _FILE, dir_fd=self._made)
        try:
            with self.make(draft) as output:
                buffer = memoryview(bytearray(_BUFFER_BYTES))
                offset = 0
                while got := self.read(fd, buffer, offset):
                    output.write(buffer[:got])
                    offset += got
        finally:
            os.close(fd)
        self.liken(draft, found)
        self._system.rename(draft, path, src_dir_fd=self._made, dst_dir_fd=self._made)

    def begin_unrepeatable(self) -> None:
        self._note_begun()
        self.begun = True

    def link(self, path: str, name: str, folder: int) -> None:
        """Make a further name of a file in ``folder``; raises OSError."""
        _check_path(path)
        self._system.link(name, path, src_dir_fd=folder, dst_dir_fd=self._made)

    def liken(self, path: str, to: os.stat_result) -> None:
        """Give a file that was made the mode and date of another."""
        os.chmod(path, stat.S_IMODE(to.st_mode), dir_fd=self._made)
        times = (to.st_atime_ns, to.st_mtime_ns)
        os.utime(path, ns=times, dir_fd=self._made, follow_symlinks=False)

    def set_mode(self, mode: int) -> None:
        with self._explained("changing a mode"):
            if self._originals is not None:
                for path, found in walk(self._made):
                    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) != mode:
                        self._part_from_others(path, found)
            for _, folders, names, fd in os.fwalk(".", dir_fd=self._made):
                for name in (*folders, *names):
                    self.tick()
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        os.chmod(name, _executable(mode), dir_fd=fd)
                    elif stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) != mode:
                        os.chmod(name, mode, dir_fd=fd)

    def note_read(self, size_bytes: int) -> None:
        self.read_bytes += size_bytes
        self.tick()

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        self.tick()
        if self._room_bytes < len(data):
            self._room_bytes = self._make_room(fd, self.written_bytes, len(data))
        with self._explained("writing what a step makes"):
            write_all(self._system, fd, data, offset)
        self._room_bytes -= len(data)
        self.written_bytes += len(data)

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        with self._explained("reading what a step is given"):
            got = self._system.read(fd, buffer, offset)
        self.note_read(got)
        return got

    def _explained(self, what: str) -> _explained_but_existing:
        return _explained_but_existing(self._root.name, self._path, what)


class _explained_but_existing:  # noqa: N801 -- as ``explained``
    """Raise AttemptError for any OSError within, but FileExistsError and the like.

    Those tell a step that a name is taken, or is a file where it needs a folder.
    """

    __slots__ = ("_path", "_root", "_what")

    def __init__(self, root: str, path: str, what: str) -> None:
        self._root = root
        self._path = path
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, FileExistsError):
            return
        if isinstance(exc, NotADirectoryError | IsADirectoryError):
            raise FileExistsError(exc.errno, os.strerror(errno.EEXIST)) from exc
        if isinstance(exc, OSError):
            raise explain(exc, self._root, self._path, self._what) from exc


class _Input:
    """``ports.Input``."""

    def __init__(self, bench: DiskBench, fd: int) -> None:
        self.size_bytes = os.fstat(fd).st_size
        self._bench = bench
        self._fd = fd

    def readinto(self, buffer: memoryview, offset: int) -> int:
        return self._bench.read(self._fd, buffer, offset)


class _Output:
    """``ports.Output``."""

    def __init__(self, bench: DiskBench, fd: int) -> None:
        self._bench = bench
        self._fd = fd
        self._size_bytes = 0

    def write(self, data: memoryview | bytes) -> None:
        if data:
            self._bench.write(self._fd, memoryview(data), self._size_bytes)
            self._size_bytes += len(data)


def walk(folder: int, above: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield every file and link below a folder, in the order of their paths, links not followed."""
    for name in sorted(os.listdir(folder)):
        path, status = f"{above}{name}", os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            yield path, status
            continue
        inner = os.open(name, _FOLDER, dir_fd=folder)
        try:
            yield from walk(inner, f"{path}/")
        finally:
            os.close(inner)


def _beside(path: str) -> str:
    above, _, name = path.rpartition("/")
    return f"{above}/.{name[:200]}.copy" if above else f".{name[:200]}.copy"


def look_alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two files are alike in all but their bytes."""
    return stat.S_ISREG(one.st_mode) and (
        (one.st_mode, one.st_size, one.st_mtime_ns)
        == (other.st_mode, other.st_size, other.st_mtime_ns)
    )


def _check_path(path: str) -> None:
    """Refuse what could leave the folder: whatever a step may have let through."""
    components = path.split("/")
    if len(components) > MOST_FOLDERS:
        raise AttemptError(
            "step_failed",
            f"a file lies in {len(components)} folders; at most {MOST_FOLDERS} may be",
        )
    for component in components:
        if component in {"", ".", ".."} or component.casefold() == HIDDEN or "\0" in component:
            raise AttemptError(
                "step_failed", f"the path {path!r} of a file is not one below its folder"
            )


def _refuse_existing(name: str, folder: int) -> None:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _executable(mode: int) -> int:
    """Return ``mode`` with x where there is r."""
    return mode | (mode & 0o444) >> 2
