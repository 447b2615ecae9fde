"""What an archive may hold: names and amount of its members; its headers are not trusted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Any

from fetchd.errors import AttemptError
from fetchd.ports import Bench, Input, Output
from fetchd.steps.amount import Amount, too_large

_LONGEST_NAME_BYTES = 255
_LONGEST_PATH_BYTES = 4000
_MOST_FOLDERS = 100
_OWN = ".fetchd"
_DRIVE = re.compile(r"[A-Za-z]:")
#: The latest date that a member gives its file: all file systems know it.
_LATEST_S = 2.0**32


def denied(reason: str) -> AttemptError:
    return AttemptError("archive_denied", reason)


class Members:
    """Lets members of one archive through to the bench, or refuses the archive."""

    def __init__(self, bench: Bench, archive: Input, options: Mapping[str, Any]) -> None:
        self._bench = bench
        self._strip: int = options["strip_components"]
        self._include: list[str] = options["include"] or []
        self._exclude: list[str] = options["exclude"] or []
        self.most_files: int = options["max_files"]
        self._skips_links = options["links"] == "skip"
        self._allows_clashes = options["case_clashes"] == "allow"
        self._amount = Amount(archive, options)
        self.write = self._amount.write
        self.check_room = self._amount.check_room
        self.tick = bench.tick
        self._count = 0
        self._spelled: dict[str, str] = {}  # folded name -> name, of files and folders
        self._files: set[str] = set()

    def file(
        self, name: str, size_bytes: int, *, executable: bool, mtime_s: float | None
    ) -> AbstractContextManager[Output] | None:
        """Make the file of a member; None: it is left out. ``size_bytes``: as its header says."""
        self._count_one()
        path = self._path_of(name)
        if path is None:
            return None
        self._amount.check_room(size_bytes)
        self._take(path, name)
        self._files.add(path)
        if mtime_s is not None and not 0 <= mtime_s <= _LATEST_S:
            mtime_s = None
        return self._making(path, name, executable, mtime_s)

    @contextmanager
    def _making(
        self, path: str, name: str, executable: bool, mtime_s: float | None
    ) -> Iterator[Output]:
        with (
            _held_to_be_new(name),
            self._bench.make(path, executable=executable, mtime_s=mtime_s) as output,
        ):
            yield output

    def folder(self, name: str) -> None:
        self._count_one()
        path = self._path_of(name, is_folder=True)
        if path is None:
            return
        if path in self._files:
            raise denied(f"{_shown(name)} is a file and a folder")
        self._spell(path, name)
        with _held_to_be_new(name):
            self._bench.make_folder(path)

    def link(self, name: str) -> None:
        """Meet a symbolic or hard link."""
        self._count_one()
        if self._path_of(name) is not None and not self._skips_links:
            raise denied(
                f"{_shown(name)} is a link, which is never made; `links: skip` leaves links out"
            )

    def other(self, name: str, kind: str) -> None:
        """Meet what is no file, folder or link."""
        raise denied(f"{_shown(name)} is {kind}")

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self.most_files:
            raise too_large(f"it has more than {self.most_files} members (`max_files`)")
        self._bench.tick()

    def _path_of(self, name: str, *, is_folder: bool = False) -> str | None:
        """Return where a member goes, None: nowhere; raises AttemptError for a bad name."""
        components = _components(name)
        if not components and not is_folder:
            raise denied(f"{_shown(name)} is no name of a file")
        components = components[self._strip :]
        if not components:
            return None
        path = "/".join(components)
        if any(fnmatchcase(path, pattern) for pattern in self._exclude):
            return None
        if self._include and not any(fnmatchcase(path, pattern) for pattern in self._include):
            return None
        return path

    def _take(self, path: str, name: str) -> None:
        """Note who has a path; two members of one archive never share one."""
        if path in self._files:
            raise denied(f"{_shown(name)} is there twice")
        if _folded(path) in self._spelled and self._spelled[_folded(path)] == path:
            raise denied(f"{_shown(name)} is a file and a folder")
        self._spell(path, name)

    def _spell(self, path: str, name: str) -> None:
        """Note a path and the folders above it, and refuse what differs from another in case."""
        while path and self._spelled.get(_folded(path)) != path:
            if path in self._files:
                raise denied(f"{_shown(name)} needs a folder where there is a file")
            other = self._spelled.setdefault(_folded(path), path)
            if other != path:
                if self._allows_clashes:
                    return
                raise denied(
                    f"{_shown(path)} and {_shown(other)} differ in case only; "
                    "`case_clashes: allow` takes both"
                )
            path = path.rpartition("/")[0]
        if path in self._files:
            raise denied(f"{_shown(name)} needs a folder where there is a file")


@contextmanager
def _held_to_be_new(name: str) -> Iterator[None]:
    """Within it a name that is taken already is a fault of the archive."""
    try:
        yield
    except FileExistsError:
        raise denied(f"{_shown(name)} is there twice, or a file and a folder") from None


def _components(name: str) -> list[str]:
    """Return the components of a member's name; raises AttemptError for what is no plain name."""
    if name.startswith("/") or "\\" in name or _DRIVE.match(name):
        raise denied(f"{_shown(name)} is an absolute path, or one of another system")
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise denied(f"{_shown(name)} is not valid Unicode") from None
    if len(data) > _LONGEST_PATH_BYTES:
        raise denied(f"{_shown(name)} has {len(data)} bytes; at most {_LONGEST_PATH_BYTES} fit")
    components = [one for one in name.split("/") if one not in {"", "."}]
    if len(components) > _MOST_FOLDERS:
        raise denied(f"{_shown(name)} lies in more than {_MOST_FOLDERS} folders")
    for one in components:
        if one == "..":
            raise denied(f"{_shown(name)} leads out of its folder")
        if len(one.encode("utf-8", "surrogateescape")) > _LONGEST_NAME_BYTES:
            raise denied(f"a component of {_shown(name)} has more than 255 bytes")
        if not one.isprintable() and any(unicodedata.category(char) == "Cc" for char in one):
            raise denied(f"{_shown(name)} has a control character")
        if one.casefold() == _OWN:
            raise denied(f"{_shown(name)} has the component {_OWN!r}, which is fetchd's own")
    return components


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:57] + "...")
