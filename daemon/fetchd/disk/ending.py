"""Where steps work at the end of a run: at no files, and programs in the download root itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from fetchd.disk.part import make_folder, part_name
from fetchd.disk.roots import Root, explained
from fetchd.disk.staging import (
    Held,
    find_staging,
    left_by_crash,
    note_begun,
    own_folder,
    remove_staging,
)
from fetchd.errors import AttemptError
from fetchd.model import Finish, Staged
from fetchd.ports import BenchFile, Os


@contextmanager
def stage_end(
    system: Os, held: Held, root: Root, attempt: Finish, sync: Callable[[int], None]
) -> Iterator[EndStaging]:
    """See ``ports.Disk.stage_end``.

    There is a folder only to say that something has begun: of a failure people want to be told
    also when the disk is full.
    """
    path = attempt.intent.path
    name = part_name(root.name, path)
    place = root.place(name)  # one in the root itself
    if attempt.recovered:
        left_by_crash(system, held, root, attempt, place, name)
    else:
        with explained(root.name, path, "removing what another attempt has left"):
            staging = find_staging(system, place.home)
            if staging is not None:
                remove_staging(system, staging, name)
    with ExitStack() as stack:

        def begin() -> None:
            with explained(root.name, path, "noting what is begun"):
                make_folder(system, root, place.home)
                folder = own_folder(system, held, root, path, name, place.home, sync)
                note_begun(system, stack.enter_context(folder).fd)

        yield EndStaging(root, begin)


class EndStaging:
    """``ports.Staging``. One thread."""

    taken = 0
    stands = False

    def __init__(self, root: Root, begin: Callable[[], None]) -> None:
        self._root = root
        self._begin = begin
        self._begun = False

    @contextmanager
    def bench(self, tick: Callable[[], None]) -> Iterator[EndBench]:
        yield EndBench(self._root, tick, self._note_begun)

    def _note_begun(self) -> None:
        if not self._begun:
            self._begin()
        self._begun = True

    def seal(self, tick: Callable[[], None]) -> Staged:  # noqa: ARG002 -- there is nothing to do
        return Staged(files=0, bytes=0)


class EndBench:
    """``ports.Bench`` without files. One thread."""

    name = ""
    read_bytes = 0
    written_bytes = 0

    def __init__(
        self, root: Root, tick: Callable[[], None], note_begun: Callable[[], None]
    ) -> None:
        self.begun = False
        self.tick = tick
        self._root = root
        self._note_begun = note_begun

    def files(self) -> Iterator[BenchFile]:
        return iter(())

    def carry(self) -> None:
        """Hand nothing on."""

    @contextmanager
    def lend(self) -> Iterator[str]:
        yield f"/proc/self/fd/{self._root.fd}"

    def begin_unrepeatable(self) -> None:
        self._note_begun()
        self.begun = True

    def open(self, path: str) -> NoReturn:
        raise _no_files(path)

    def make(
        self,
        path: str,
        *,
        executable: bool = False,  # noqa: ARG002 -- the port's form
        mtime_s: float | None = None,  # noqa: ARG002
    ) -> NoReturn:
        raise _no_files(path)

    def make_folder(self, path: str) -> None:
        raise _no_files(path)

    def make_link(self, path: str, target: str) -> None:  # noqa: ARG002
        raise _no_files(path)

    def set_mode(self, mode: int) -> None:
        raise _no_files(f"{mode:o}")


def _no_files(what: str) -> AttemptError:
    return AttemptError("step_failed", f"{what!r}: at the end of a run there are no files")
