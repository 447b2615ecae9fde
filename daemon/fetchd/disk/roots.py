"""Safe paths: what lies below a download root is reached folder by folder, never by a link."""

from __future__ import annotations

import errno
import grp
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fetchd.errors import AttemptError, ConfigError
from fetchd.ports import Existing, Os
from fetchd.threads import ANOTHER

#: The folder of fetchd's own, at the top of each file system below a root; never a destination.
HIDDEN = ".fetchd"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_PROBE = "probe"
#: Folders that a root keeps open.
_MOST_KNOWN = 64
#: How a file system or kernel says that it knows no files without a name (open(2), O_TMPFILE).
_NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
_CODES = {
    errno.ENOTDIR: "dest_conflict",
    errno.EISDIR: "dest_conflict",
    errno.EACCES: "dest_denied",
    errno.EPERM: "dest_denied",
    errno.ELOOP: "dest_denied",
    errno.EXDEV: "dest_denied",
    errno.ENAMETOOLONG: "dest_denied",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "disk_read_only",
}
_HINTS = {
    errno.EACCES: "check owner and mode of the folder",
    errno.EPERM: "check owner, mode and group of root and folder",
    errno.EXDEV: "make the mounted folder a root of its own",
    errno.ENAMETOOLONG: "choose a shorter filename",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSpec:
    """A download root. ``mode`` of its files, None: by the umask; ``group``: name or number."""

    path: str
    mode: int | None = None
    group: str | None = None


class Folder:
    """An open folder below a root, or the root itself; closed when nobody holds it any more.

    While it is open its inode number cannot come again, so a name that leads to the same number
    leads to this folder. ``home``: the top folder of its file system, None: it is that itself;
    ``home_path``: that one's path below the root. ``rooted``: its name is durable in its parent.
    """

    __slots__ = ("_closes", "_inner", "device", "fd", "home", "home_path", "key", "name", "rooted")

    def __init__(
        self,
        fd: int,
        name: str,
        device: int,
        home: Folder | None = None,
        home_path: str = "",
        *,
        closes: bool = True,
    ) -> None:
        self._closes = closes
        self.fd = fd
        self.name = name
        self.device = device
        self.key = _key(fd)
        self.home = home
        self.home_path = home_path
        self.rooted = False
        self._inner: dict[str, Folder] = {}

    def __del__(self) -> None:
        if self._closes:
            os.close(self.fd)

    def is_in(self, parent_fd: int) -> bool:
        """Tell whether the name still leads to this folder."""
        try:
            found = os.stat(self.name, dir_fd=parent_fd, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.key

    def inner(self, system: Os, path: str) -> Folder:
        """Return a folder below this one, kept open from the first time on; raises OSError."""
        inner = self._inner.get(path)
        if inner is None or not inner.is_in(self.fd):
            above, _, name = path.rpartition("/")
            parent = self.inner(system, above) if above else self
            fd = system.open(name, _FOLDER, dir_fd=parent.fd)
            inner = self._inner[path] = Folder(fd, path, self.device)
        return inner

    def forget_inner(self) -> None:
        self._inner.clear()


class Place:
    """Where a destination lies; its descriptors are open as long as somebody holds the place.

    ``folder``: the destination's folder, or, when ``missing``, the nearest one that exists.
    """

    __slots__ = ("folder", "missing", "name")

    def __init__(self, folder: Folder, name: str, *, missing: bool = False) -> None:
        self.folder = folder
        self.name = name
        self.missing = missing

    @property
    def home(self) -> Folder:
        """The top folder of the file system that the destination is on."""
        return self.folder.home or self.folder


class Root:
    """An open download root. Any thread."""

    def __init__(
        self,
        name: str,
        spec: RootSpec,
        system: Os,
        sync: Callable[[int], None] | None = None,
        *,
        as_it_is: bool = False,
    ) -> None:
        """Make the root's folder if need be and open it; raises ConfigError.

        ``sync``: what makes the names of folders durable that ``place`` has made. ``as_it_is``:
        it is there and is only looked at.
        """
        self.name = name
        # Not resolve(): a URL names the root as the configuration does, even where that is a link.
        self.path = os.path.abspath(spec.path)  # noqa: PTH100
        self.mode = spec.mode
        self.gid = _gid(name, spec.group)
        self._system = system
        self._sync = sync or system.fsync
        self._as_it_is = as_it_is
        self._making = threading.Lock()
        # Folders whose own name is durable in their parent; guarded by _making.
        self._rooted: set[tuple[int, int]] = set()
        # By path, as they were last found; each is looked at again before it is used.
        self._known: dict[str, Folder] = {}
        try:
            self.fd = self._open()
        except OSError as exc:
            raise ConfigError(
                f"root {name!r}: {spec.path} cannot be used: {exc.strerror}"
            ) from None
        try:
            if not as_it_is:
                self._probe()
            self.top = self._new_top()
        except OSError as exc:
            os.close(self.fd)
            raise ConfigError(
                f"root {name!r}: {spec.path} cannot be written: {exc.strerror}; "
                "check its owner, mode and group, or configure another folder"
            ) from None

    def close(self) -> None:
        self._known.clear()
        self.top.forget_inner()
        os.close(self.fd)

    def _new_top(self) -> Folder:
        return Folder(self.fd, "", self._system.device(self.fd), closes=False)

    def _open(self) -> int:
        if not self._as_it_is:
            _make_root(Path(self.path), self._system)
        return self._system.open(self.path, os.O_RDONLY | os.O_DIRECTORY)

    def _restore(self, path: str) -> None:
        """Make the root anew if somebody has removed it, as a start would; raises AttemptError.

        The descriptor keeps its number, so other threads may be using it meanwhile.
        """
        if os.fstat(self.fd).st_nlink:
            return
        with explained(self.name, path, f"the root {shown(self.path)!r}, which was removed"):
            fd = self._open()
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)
            self.top = self._new_top()

    def dress(self, fd: int, mode: int | None = None) -> None:
        """Give a file or folder the root's mode (or ``mode``) and group, where it has any."""
        if self.gid is not None:
            os.fchown(fd, -1, self.gid)
        if self.mode is not None:
            os.fchmod(fd, self.mode if mode is None else mode)

    def place(self, path: str, *, make: bool = False) -> Place:
        """Walk to a destination; raises AttemptError.

        With ``make`` the missing folders are made, and every folder on the way is durable in its
        parent before the place is given.
        """
        *folders, name = self._components(path)
        if not make:
            return self._walk(folders, name, path, make=False)
        with held(self._making):
            return self._walk(folders, name, path, make=True)

    def folder(self, path: str) -> Folder:
        """Return the existing folder at ``path`` ("": the root); raises AttemptError."""
        place = self._walk(self._components(path) if path else [], "", path, make=False)
        if place.missing:
            raise AttemptError("disk_error", f"{self.name}:{shown(path)}: no such folder")
        return place.folder

    def below(self, path: str) -> str | None:
        """Return an absolute path as one below the root, by its name alone; None: it is not."""
        top = self.path.rstrip("/") + "/"
        return path.removeprefix(top) if path.startswith(top) else None

    def open_file(self, path: str) -> int:
        """Open the regular file at ``path`` for reading, as a source; raises AttemptError."""
        *folders, name = components = path.split("/")
        for component in components:
            if component in {"", ".", "..", HIDDEN} or "\0" in component:
                raise self._no_source(path, f"the component {shown(component)!r} is not allowed")
        with ExitStack() as stack:
            fd = self.fd
            for folder in folders:
                fd = self._open_source(fd, folder, _FOLDER, path)
                stack.callback(os.close, fd)
            fd = self._open_source(fd, name, _FILE, path)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._no_source(path, "a folder, device, pipe or socket is no file")
        return fd

    def _open_source(self, parent_fd: int, component: str, flags: int, path: str) -> int:
        try:
            return self._system.open(component, flags, dir_fd=parent_fd)
        except OSError as exc:
            if exc.errno in {errno.ENOTDIR, errno.ELOOP} and _is_link(parent_fd, component):
                raise self._no_source(
                    path,
                    f"{shown(component)!r} is a symbolic link, which is not followed; name the "
                    "file that it leads to, and make that one's folder a root",
                ) from None
            if exc.errno in {errno.ENOENT, errno.ENOTDIR}:
                raise AttemptError(
                    "not_found", f"{self.name}:{shown(path)}: there is no {shown(component)!r}"
                ) from None
            if exc.errno in {errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENAMETOOLONG}:
                raise self._no_source(
                    path, f"{exc.strerror}; check kind, owner and mode of {shown(component)!r}"
                ) from None
            raise explain_source(exc, self.name, path, "opening the source") from exc

    def _no_source(self, path: str, why: str) -> AttemptError:
        return AttemptError("source_denied", f"{self.name}:{shown(path)}: {why}")

    def _components(self, path: str) -> list[str]:
        components = path.split("/")
        for component in components:
            if component in {"", ".", "..", HIDDEN} or "\0" in component:
                raise AttemptError(
                    "dest_denied",
                    f"{self.name}:{shown(path)}: the component {shown(component)!r} is not "
                    "allowed in a destination",
                )
        return components

    def _walk(self, folders: list[str], name: str, path: str, *, make: bool) -> Place:
        if not folders:
            self._restore(path)
            return Place(self.top, name)
        folder, below = self.top, ""
        for component in folders:
            below = f"{below}/{component}" if below else component
            known = self._known.get(below)
            if known is not None and (known.rooted or not make) and known.is_in(folder.fd):
                folder = known
                continue
            if folder is self.top:
                self._restore(path)  # else it holds what is known to be in it
                folder = self.top
            with explained(self.name, path, f"the folder {shown(component)!r}"):
                child = self._enter(folder, component, below, path, make=make)
            if child is None:
                return Place(folder, name, missing=True)
            folder = child
        return Place(folder, name)

    def _enter(
        self, parent: Folder, component: str, below: str, path: str, *, make: bool
    ) -> Folder | None:
        try:
            fd = self._system.open(component, _FOLDER, dir_fd=parent.fd)
        except FileNotFoundError:
            if not make:
                return None
            fd = self._make(parent.fd, component)
        except OSError as exc:
            if exc.errno in {errno.ENOTDIR, errno.ELOOP} and _is_link(parent.fd, component):
                raise AttemptError(
                    "dest_denied",
                    f"{self.name}:{shown(path)}: the folder {shown(component)!r} is a symbolic "
                    "link, which is not followed; configure its target as a root of its own",
                ) from None
            raise
        try:
            device = self._system.device(fd)
        except BaseException:
            os.close(fd)
            raise
        if device == parent.device:
            child = Folder(fd, component, device, parent.home or parent, parent.home_path)
        else:
            child = Folder(fd, component, device, None, below)
        if make:
            self._take_root(parent.fd, child)
        if child.home_path:
            return child  # kept open, it would keep its file system from being unmounted
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[below] = child
        return child

    def _make(self, parent_fd: int, component: str) -> int:
        try:
            self._system.mkdir(component, 0o777, dir_fd=parent_fd)
        except FileExistsError:
            return self._system.open(component, _FOLDER, dir_fd=parent_fd)
        child = self._system.open(component, _FOLDER, dir_fd=parent_fd)
        try:
            # An inode number may come again: a new folder is never one that is known.
            self._rooted.discard(_key(child))
            self.dress(child, _folder_mode(self.mode or 0))
        except BaseException:
            os.close(child)
            raise
        return child

    def _take_root(self, parent_fd: int, child: Folder) -> None:
        if child.key not in self._rooted:
            self._sync(parent_fd)
            if len(self._rooted) >= 10_000:
                self._rooted.clear()
            self._rooted.add(child.key)
        child.rooted = True

    def _probe(self) -> None:
        """Make a file that nobody sees: what mode bits promise, only an attempt can prove."""
        try:
            fd = self._system.open(".", os.O_WRONLY | os.O_TMPFILE, 0o600, dir_fd=self.fd)
        except OSError as exc:
            if exc.errno not in _NO_NAMELESS:
                raise
            self._probe_hidden()
            return
        try:
            self.dress(fd)
        finally:
            os.close(fd)

    def _probe_hidden(self) -> None:
        """Probe below the hidden folder; what a crash leaves there, the next start removes."""
        if not self._system.may_write(self.fd):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with suppress(FileExistsError):
            self._system.mkdir(HIDDEN, 0o700, dir_fd=self.fd)
        hidden_fd = self._system.open(HIDDEN, _FOLDER, dir_fd=self.fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
            fd = self._system.open(_PROBE, flags, 0o600, dir_fd=hidden_fd)
            try:
                self.dress(fd)
            finally:
                os.close(fd)
                with suppress(FileNotFoundError):  # two starts at once: the other was faster
                    self._system.unlink(_PROBE, dir_fd=hidden_fd)
        finally:
            os.close(hidden_fd)


@contextmanager
def held(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock under which others may wait for a disk."""
    with ANOTHER:
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def find_hidden(system: Os, home: Folder, path: str) -> Folder | None:
    """Return one of the hidden folders of a file system, None: there is none."""
    try:
        return home.inner(system, path)
    except FileNotFoundError:
        return None


def make_hidden(system: Os, home: Folder, name: str, sync: Callable[[int], None]) -> Folder:
    """Make one of the hidden folders of a file system that has parts."""
    hidden = home.inner(system, HIDDEN)
    with suppress(FileExistsError):
        system.mkdir(name, 0o700, dir_fd=hidden.fd)
    sync(hidden.fd)
    return home.inner(system, f"{HIDDEN}/{name}")


def existing_at(place: Place, root: str, path: str) -> Existing | None:
    """Return what stands at a place, None: nothing; raises AttemptError for what is no file."""
    if place.missing:
        return None
    try:
        found = os.stat(place.name, dir_fd=place.folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise explain(exc, root, path, "the destination") from exc
    if stat.S_ISDIR(found.st_mode):
        raise AttemptError(
            "dest_conflict",
            f"{root}:{shown(path)}: a folder has the destination; choose another name",
        )
    link = stat.S_ISLNK(found.st_mode)
    if not link and not stat.S_ISREG(found.st_mode):
        raise AttemptError(
            "dest_denied",
            f"{root}:{shown(path)}: a device, pipe or socket has the destination; "
            "remove it or choose another name",
        )
    return Existing(
        size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino, link=link
    )


def explain(exc: OSError, root: str, path: str, what: str) -> AttemptError:
    """Return the disk's error as an attempt's: code by errno, place, cause and advice."""
    number = exc.errno or 0
    hint = f"; {_HINTS[number]}" if number in _HINTS else ""
    cause = exc.strerror or str(exc) or type(exc).__name__
    return AttemptError(
        _CODES.get(number, "disk_error"), f"{root}:{shown(path)}: {what}: {cause}{hint}"
    )


def explain_source(exc: OSError, root: str, path: str, what: str) -> AttemptError:
    """Return the error of a file that is copied, which says nothing of the destination."""
    return AttemptError("source_error", explain(exc, root, path, what).reason)


class explained:  # noqa: N801 -- used as a function; a generator would take three times as long
    """Raise AttemptError for any OSError within."""

    __slots__ = ("_path", "_root", "_what")

    def __init__(self, root: str, path: str, what: str) -> None:
        self._root = root
        self._path = path
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, OSError):
            raise explain(exc, self._root, self._path, self._what) from exc


def shown(path: str) -> str:
    """Return a path fit for a message: bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def _make_root(path: Path, system: Os) -> None:
    """Make a folder and those above it, each durable in its parent."""
    if path.is_dir():
        return
    parent = path.absolute().parent
    _make_root(parent, system)
    path.mkdir(exist_ok=True)
    fd = system.open(str(parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        system.fsync(fd)
    finally:
        os.close(fd)


def _folder_mode(mode: int) -> int:
    """Return ``mode`` with x where there is r."""
    return mode | (mode & 0o444) >> 2


def _key(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _is_link(parent_fd: int, component: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(component, dir_fd=parent_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _gid(root: str, group: str | None) -> int | None:
    if group is None:
        return None
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"root {root!r}: there is no group {group!r}") from None
