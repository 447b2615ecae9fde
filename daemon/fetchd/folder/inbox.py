"""Files that arrive: look, wait until complete, read once, submit, and only then move."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from fetchd import events
from fetchd.clock import Clock, Failpoints
from fetchd.errors import DocumentError, Problem, StoreError
from fetchd.expand import list_form, no_list
from fetchd.folder import readiness
from fetchd.folder.kinds import DEFAULTS, ENDINGS, Kind, is_job, kind_of, meant, not_regular
from fetchd.folder.masking import masked
from fetchd.folder.places import Place, Places, Stamp, error_name, error_text
from fetchd.model import (
    Answer,
    Backfill,
    Cancel,
    Command,
    Job,
    Pause,
    Remove,
    Resume,
    Retry,
    Submit,
)
from fetchd.ports import Commands, Store
from fetchd.units import format_size
from fetchd.yamldoc import has_end_marker

#: Takes content and name, and the defaults of the category where there are any.
ReadJob = Callable[..., Job]
#: Takes a list's name, its absolute path in ``active/``, the SHA-256 (hex) of its content; then as
#: above. A list that cannot be read as a whole is refused by it too.
ReadList = Callable[..., Job]
#: Takes defaults, and the name of a file beside them; raises DocumentError.
ReadDefaults = Callable[[bytes, str], object]

#: What is no job file as it stands may be on its way to become one; after so long it is told.
LATE_S = 60.0
#: The outbox gets its turn after so much work, and what is left goes on after that.
SLICE_S = 0.5
#: What is read is accepted together, with one commit, up to so many files or bytes.
ACCEPTED_TOGETHER = 64
TOGETHER_BYTES = 256 * 1024
#: So much of a list is looked at before all of it is hashed: no good line is longer.
LIST_HEAD_BYTES = 64 * 1024
#: A file that stays in the folder is gone when it was missed for so long: editors and tools that
#: write a file anew may take the old one away before.
GONE_S = 5.0
#: So much is read of a file that only names days.
LONGEST_DAYS_BYTES = 256
#: What holds for all job files of a subfolder is said in so much at most.
MOST_DEFAULTS_BYTES = 64 * 1024
#: A failed file operation is tried again after so long, if the file does not change before.
AGAIN_S = 5.0


_COMMANDS: dict[str, type[Cancel | Retry | Pause | Resume]] = {
    "cancel": Cancel,
    "retry": Retry,
    "pause": Pause,
    "resume": Resume,
}


@dataclass(slots=True)
class Seen:
    """What is known of one version of a file. ``since_s``: monotonic, when it was first seen.

    ``waits_for``: the job whose run has to end before the file can be accepted. ``unfit``: why
    it is no job file as it stands, "" if it may be one. ``put_off``: what it says, which cannot
    hold yet. ``stays``: all was done about this version,
    and the file is left where it is. ``obeyed``: a control file that only
    has to be removed. ``trouble``: what failed last, not tried again before ``not_before_s``.
    """

    kind: Kind
    stamp: Stamp
    mode: int
    since_s: float
    waits_for: str = ""
    unfit: str = ""
    put_off: Submit | None = None
    stays: bool = False
    told: bool = False
    obeyed: bool = False
    trouble: str = ""
    not_before_s: float = 0.0


@dataclass(slots=True)
class Category:
    """A subfolder with defaults: this version of them was seen at ``since_s`` (monotonic) first.

    ``data``: None until they are read; ``wrong``: no job can be read with them.
    """

    stamp: Stamp
    since_s: float
    data: bytes | None = None
    wrong: bool = False


def read_with(read: ReadJob | ReadList, *of: object) -> Job:
    """Read a job; the defaults, which stand last, are handed over where there are some."""
    return read(*(of if of[-1] else of[:-1]))


@dataclass(frozen=True, slots=True)
class Ready:
    """A job file that was read and understood, and waits to be accepted with others."""

    place: Place
    name: str
    seen: Seen
    command: Submit


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Jobs, and names of job files, with a run that the folder does not show ended yet."""

    jobs: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()


class Inbox:
    """``read_job`` and ``read_list`` raise DocumentError. Folder thread only.

    A pass deals with all that a scan found, in the order of change. It may take many looks; what
    arrives meanwhile, and what asked for another look, has every other turn, the latest first: a
    single file does not wait for the thousands before it, nor do those wait for ever.
    """

    def __init__(
        self,
        places: Places,
        *,
        max_job_bytes: int,
        require_end_marker: bool,
        read_job: ReadJob,
        read_list: ReadList,
        read_defaults: ReadDefaults,
        commands: Commands,
        store: Store,
        tell: events.Tell,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._places = places
        self._max_job_bytes = max_job_bytes
        self._require_end_marker = require_end_marker
        self._read_job = read_job
        self._read_list = read_list
        self._read_defaults = read_defaults
        self._categories: dict[str, Category] = {}
        self._commands = commands
        self._store = store
        self._tell = tell
        self._clock = clock
        self._failpoints = failpoints
        self._seen: dict[str, Seen] = {}
        self._claimed: dict[str, Seen] = {}  # in active/, not submitted yet
        self._pass: OrderedDict[str, None] = OrderedDict()
        self._between: list[str] = []  # those with every other turn; the next is the last
        self._between_next = False
        self._again: dict[str, float] = {}  # when to deal with a file again, monotonic
        self._ready: dict[str, Ready] = {}
        self._gone: dict[str, float] = {}  # files of kept jobs, and since when they are missed
        self._scan_not_before_s = -math.inf
        self._busy = Busy()
        self._provable = True
        #: Names that the last look found and that were not known before; None: it did not scan.
        self.arrived: list[str] | None = None
        #: Files that may be accepted yet, as the last look left them.
        self.pending: set[str] = set()
        #: When to look again, monotonic; infinity where nothing waits for time.
        self.due_s = math.inf

    @property
    def under_way(self) -> bool:
        """Whether a pass is not at its end."""
        return bool(self._pass or self._between)

    @property
    def has_categories(self) -> bool:
        return bool(self._categories)

    def find_claimed(self, known: Container[str]) -> None:
        """Take up the files in ``active/`` that no run has, as after a crash or a lost state.

        ``known``: the files of runs that are open or not filed. To be called once, at the start.
        """
        now_s = self._clock.monotonic()
        for name, entry in self._all_entries(Place.ACTIVE):
            kind = kind_of(name)
            if kind not in {Kind.JOB, Kind.LIST} or name in known:
                continue
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                self._claimed[name] = Seen(kind, Stamp.of(found), found.st_mode, now_s)

    def _all_entries(self, place: Place) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield what stands in a place and in its categories; a category itself is not told."""
        for entry in self._places.entries(place):
            category = entry.name
            if kind_of(category) is Kind.IGNORED or not entry.is_dir(follow_symlinks=False):
                yield category, entry
            elif place is not Place.JOBS or self._is_category(category):
                for inner in self._places.entries(place, category):
                    yield f"{category}/{inner.name}", inner
            else:
                yield category, entry

    def _is_category(self, name: str) -> bool:
        """Whether a subfolder has defaults; they are read anew when they have changed."""
        found = self._places.stat(Place.JOBS, f"{name}/{DEFAULTS}")
        if found is None or not stat.S_ISREG(found.st_mode):
            self._categories.pop(name, None)
            return False
        stamp, known = Stamp.of(found), self._categories.get(name)
        if known is None or known.stamp != stamp:
            self._categories[name] = Category(stamp, self._clock.monotonic())
            if known is not None:  # all of its files may mean something else by now
                self._seen = {
                    file: seen
                    for file, seen in self._seen.items()
                    if not file.startswith(f"{name}/") or seen.obeyed
                }
        return True

    def _defaults(self, file: str, seen: Seen) -> bytes | None:
        """Return what holds for a file beside its own keys; None: the file has to wait."""
        name, slash, _ = file.rpartition("/")
        if not slash:
            return b""
        category = self._categories.get(name)
        if category is None:
            return b""  # of a file that was claimed before they were taken away
        if category.data is None and not category.wrong:
            self._read_category(file, name, category)
        if category.wrong:
            self._unfit(file, seen, f"waits until {name}/{DEFAULTS} is mended")
        return None if category.wrong else category.data

    def _read_category(self, file: str, name: str, category: Category) -> None:
        defaults = f"{name}/{DEFAULTS}"
        fd = self._places.open(Place.JOBS, defaults)
        try:
            unchanged_s = self._clock.monotonic() - category.since_s
            wait_s = readiness.wait_s(fd, unchanged_s, provable=self._provable)
            if Stamp.of(os.fstat(fd)) != category.stamp or wait_s:
                self._again_in(file, wait_s or readiness.SOONEST_S)
                return
            data = b"".join(self._places.pieces(fd, MOST_DEFAULTS_BYTES + 1))
        finally:
            os.close(fd)
        try:
            if len(data) > MOST_DEFAULTS_BYTES:
                most = format_size(MOST_DEFAULTS_BYTES)
                raise DocumentError(defaults, [Problem(message=f"has more than {most}")], "")
            self._read_defaults(data, defaults)
        except DocumentError as exc:
            category.wrong = True
            shown = exc.rewritten(masked)
            lines = shown.headlines()
            self._write_error(defaults, shown.render())
            self._tell(events.JobRejected(file=defaults, reason=lines[0], problems=len(lines)))
        else:
            category.data = data
            self._places.remove(Place.REPORTS, error_name(defaults))

    def undecided(self, name: str) -> bool:
        """Whether a file in the folder may be that of an accepted run, left there by a crash.

        One that the engine has put off is not: it is another revision.
        """
        seen = self._seen.get(name)
        return name in self.pending and seen is not None and not seen.waits_for

    def look(self, busy: Busy, *, provable: bool, beat: Callable[[], None]) -> None:
        """Deal with everything that stands in the folder, or with as much as a slice allows.

        ``provable``: whether leases can tell that nobody writes a file.
        """
        began_s = self._clock.monotonic()
        self._busy, self._provable = busy, provable
        self.arrived = None
        begins = not self.under_way
        if begins or began_s >= self._scan_not_before_s:
            self._scan(began_s)
            self._miss(began_s)
        else:
            self._put_between([])
        for name, seen in list(self._claimed.items()):
            beat()
            self._guard(name, seen, partial(self._deal_with_claimed, name, seen))
        while self.under_way:
            if self._clock.monotonic() - began_s > SLICE_S:
                break
            beat()
            name = self._next_name()
            if name in self._seen:
                seen = self._seen[name]
                self._guard(name, seen, partial(self._deal_with, name, seen))
        self._accept()
        if self.under_way:
            self.due_s = began_s
        else:
            self.due_s = min(self._again.values(), default=math.inf)
            if not begins:  # what changed since may not have been looked at
                self.due_s = min(self.due_s, self._scan_not_before_s)

    def _scan(self, now_s: float) -> None:
        """Compare the folder with what is known of it."""
        found_all: dict[str, Seen] = {}
        between = set(self._between)
        changed, arrived = [], []
        for name, entry in self._all_entries(Place.JOBS):
            seen = self._seen.get(name)
            # Whoever has yet to be dealt with is looked at when it is.
            if seen is not None and (name in self._pass or name in between):
                found_all[name] = seen
                continue
            kind = kind_of(name) if seen is None else seen.kind
            if kind is Kind.IGNORED:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            stamp = Stamp.of(found)
            if seen is None and "/" not in name:  # the others are not announced
                arrived.append(name)
            if seen is None or seen.stamp != stamp:
                seen = Seen(kind, stamp, found.st_mode, now_s)
                changed.append(name)
            found_all[name] = seen
        self._seen, self.arrived = found_all, arrived
        self.pending = set(self._claimed)
        self.pending.update(
            name
            for name, seen in found_all.items()
            if stat.S_ISREG(seen.mode)
            and seen.kind is not Kind.UNKNOWN
            and not (seen.unfit or seen.stays)
        )
        if self.under_way:
            self._put_between(changed)
        else:
            self._again.clear()
            in_order = sorted(found_all.items(), key=lambda item: (item[1].stamp.mtime_ns, item[0]))
            self._pass.update((name, None) for name, _ in in_order)
        ended_s = self._clock.monotonic()
        # While there is much to do, at most half of the time goes into reading the folder.
        self._scan_not_before_s = ended_s + (ended_s - now_s)

    def _miss(self, now_s: float) -> None:
        """End the jobs whose files were taken away."""
        kept = self._commands.kept_files()
        self._gone = {name: self._gone.get(name, now_s) for name in kept if name not in self._seen}
        for name, since_s in list(self._gone.items()):
            if now_s < since_s + GONE_S:
                self._again[name] = since_s + GONE_S
            else:
                self._commands.obey(Remove(job=kept[name]))
                self._places.remove(Place.REPORTS, error_name(name))

    def _next_name(self) -> str:
        self._between_next = not self._between_next
        if self._between and (self._between_next or not self._pass):
            return self._between.pop()
        return self._pass.popitem(last=False)[0]

    def _put_between(self, changed: list[str]) -> None:
        """Give these files, and those whose time has come, every other turn of the pass."""
        now_s = self._clock.monotonic()
        due = [name for name, due_s in self._again.items() if due_s <= now_s]
        for name in due:
            del self._again[name]
        if due or changed:
            names = {*self._between, *due, *changed} & self._seen.keys()
            self._between = sorted(names, key=lambda name: self._seen[name].stamp.ctime_ns)

    def _guard(self, name: str, seen: Seen, deal_with: Callable[[], None]) -> None:
        """Keep one file's trouble from the others: it is told once, and tried again later."""
        now_s = self._clock.monotonic()
        if now_s < seen.not_before_s:
            self._again_in(name, seen.not_before_s - now_s)
            return
        try:
            deal_with()
        except StoreError:
            raise
        except Exception as exc:  # noqa: BLE001 -- whatever it is, it may not hold up the others
            trouble = error_text(exc)
            if trouble != seen.trouble:
                self._tell(events.FolderFailed(file=name, action="take it in", error=trouble))
            seen.trouble = trouble
            seen.not_before_s = self._clock.monotonic() + AGAIN_S
            self._again_in(name, AGAIN_S)
        else:
            if name not in self._ready:
                seen.trouble = ""

    # ------------------------------------------------------------ one file

    def _deal_with(self, name: str, seen: Seen) -> None:
        kind = seen.kind
        if not stat.S_ISREG(seen.mode):
            self._ignore(name, seen, not_regular(kind, seen.mode))
        elif kind is Kind.UNKNOWN and (right := meant(name)):
            why = f"the ending must be in lower case; rename it to {right}"
            self._ignore_late(name, seen, why, late_s=readiness.STILL_S)
        elif kind is Kind.UNKNOWN:
            self._ignore_late(name, seen, f"is no job file: those end in {ENDINGS}")
        elif kind is Kind.COMMAND:
            self._obey(name, seen)
        elif seen.stamp.size_bytes == 0:
            self._unfit(name, seen, "is empty")
        elif seen.unfit:
            self._unfit(name, seen, seen.unfit)
        elif seen.stays:
            pass
        elif self._may_ask(name, seen, kind):
            self._take(name, seen, kind)

    def _may_ask(self, name: str, seen: Seen, kind: Kind) -> bool:
        """Whether the engine could accept the file now; if not, the end of a run changes that."""
        if seen.waits_for in self._busy.jobs:
            return False
        if kind is Kind.LIST and name in self._busy.files:
            return False  # a list is claimed before it is accepted, so this is another one
        return self._places.stat(Place.ACTIVE, name) is None

    def _take(self, name: str, seen: Seen, kind: Kind) -> None:
        if (defaults := self._defaults(name, seen)) is None:
            return
        if seen.put_off is not None:
            self._make_ready(Ready(Place.JOBS, name, seen, seen.put_off))
            return
        try:
            fd = self._places.open(Place.JOBS, name)
        except FileNotFoundError:  # taken back since it was seen
            self.pending.discard(name)
            return
        try:
            if not self._complete(fd, name, seen):
                return
            too_large = kind is Kind.JOB and self._too_large(name, seen)
            read = kind is Kind.JOB and not too_large
            data = b"".join(self._places.pieces(fd, seen.stamp.size_bytes)) if read else b""
            if kind is Kind.LIST:
                # Few writers sync, and a run reads its list after any crash that it outlives.
                self._places.sync_content(fd)
            if Stamp.of(os.fstat(fd)) != seen.stamp or (
                self._provable and readiness.has_writer(fd)
            ):
                self._again_in(name, readiness.SOONEST_S)  # somebody writes again
                return
        finally:
            os.close(fd)
        if too_large:
            self._reject(Place.JOBS, name, too_large)
        elif kind is Kind.LIST:
            self._claim(name, seen)
        elif self._cut_off(name, data):
            self._unfit(name, seen, "does not end with a line `...` (intake.require_end_marker)")
        else:
            self._submit_job(Place.JOBS, name, seen, data, defaults)

    def _complete(self, fd: int, name: str, seen: Seen) -> bool:
        """Whether the file is ready to be read; if not, the next look is arranged."""
        if Stamp.of(os.fstat(fd)) != seen.stamp:
            self._again_in(name, readiness.SOONEST_S)
            return False
        unchanged_s = self._clock.monotonic() - seen.since_s
        wait_s = readiness.wait_s(fd, unchanged_s, provable=self._provable)
        if wait_s:
            if unchanged_s >= LATE_S:
                self._ignore(name, seen, "is still open for writing")
            self._again_in(name, wait_s)
        return not wait_s

    def _too_large(self, name: str, seen: Seen) -> str:
        """Return why the file is not even read, "" if it may be."""
        if seen.stamp.size_bytes <= self._max_job_bytes:
            return ""
        size, most = format_size(seen.stamp.size_bytes), format_size(self._max_job_bytes)
        return (
            f"{name}: the file has {size}, {most} are allowed (intake.max_job_bytes); "
            "put the URLs into a *.urls file, which may have any length"
        )

    def _cut_off(self, name: str, data: bytes) -> bool:
        is_yaml = PurePath(name).suffix in {".yaml", ".yml"}
        return self._require_end_marker and is_yaml and not has_end_marker(data)

    def _submit_job(
        self, place: Place, name: str, seen: Seen, data: bytes, defaults: bytes
    ) -> None:
        try:
            job = read_with(self._read_job, data, name, defaults)
        except DocumentError as exc:
            self._reject_document(place, name, exc)
            return
        except MemoryError:
            raise  # says nothing of the file, which is tried again
        except Exception as exc:  # noqa: BLE001 -- a file that cannot be read for any reason is bad
            why = masked(error_text(exc))
            self._reject(place, name, f"{name}: cannot be understood: {why}")
            return
        stamp = seen.stamp.text()
        command = Submit(job=job, raw=data, file=name, stamp=stamp, defaults=defaults)
        self._make_ready(Ready(place, name, seen, command))

    def _make_ready(self, ready: Ready) -> None:
        self._ready[ready.name] = ready
        together_bytes = sum(len(one.command.raw) for one in self._ready.values())
        if len(self._ready) >= ACCEPTED_TOGETHER or together_bytes >= TOGETHER_BYTES:
            self._accept()

    def _accept(self) -> None:
        """Have the engine accept all that is ready, with one commit; then let the files follow."""
        ready = list(self._ready.values())
        self._ready.clear()
        if not ready:
            return
        try:
            answers = self._commands.submit([one.command for one in ready])
        except StoreError:
            raise
        except Exception:  # noqa: BLE001 -- one of them is to blame: alone it hurts only itself
            for one in ready:
                self._guard(one.name, one.seen, partial(self._accept_alone, one))
        else:
            for one, answer in zip(ready, answers, strict=True):
                self._guard(one.name, one.seen, partial(self._accepted, one, answer))

    def _accept_alone(self, ready: Ready) -> None:
        self._accepted(ready, self._commands.obey(ready.command))

    def _accepted(self, ready: Ready, answer: Answer) -> None:
        """Let a file follow what the engine said of it."""
        place, name, seen = ready.place, ready.name, ready.seen
        if not self._is_accepted(place, name, seen, ready.command, answer):
            return
        self._failpoints.pass_by("folder.accepted")
        if answer.stays and place is Place.JOBS:
            seen.stays = True
            self._settled(name)
            return
        if place is Place.JOBS and not self._follow(name, seen.stamp):
            self._again_in(name, readiness.SOONEST_S)
            return
        self._failpoints.pass_by("folder.moved")
        self._settled(name)

    def _follow(self, name: str, accepted: Stamp) -> bool:
        """Move an accepted file into ``active/``; False: another one stands there by now.

        That one is a new drop. Looking before the move would leave an instant in which it could
        come, so the look is after it.
        """
        try:
            self._places.move(Place.JOBS, Place.ACTIVE, name)
        except FileNotFoundError:
            return True  # taken away after it was read: the run goes on with what was read
        moved = self._places.stat(Place.ACTIVE, name)
        if moved is None or Stamp.of(moved).is_moved(accepted):
            return True
        self._places.move(Place.ACTIVE, Place.JOBS, name)
        return False

    def _is_accepted(
        self, place: Place, name: str, seen: Seen, command: Submit, answer: Answer
    ) -> bool:
        """Return False for a file refused, or to be asked for again when the job's run has ended.

        A refused one is put aside.
        """
        if answer.later and answer.stays:
            seen.put_off = command
            self._again_in(name, answer.again_s)
            return False
        if answer.later or (answer.repeated and not answer.stays and not self._is_of(answer, name)):
            seen.waits_for = command.job.name
            return False
        if not answer.done and self._is_missed(command.job.name):
            self._again_in(name, GONE_S)  # it may be that file under another name
            return False
        if not answer.done:
            self._reject(place, name, f"{name}: {masked(answer.reason)}")
            return False
        return True

    def _is_missed(self, job: str) -> bool:
        kept = self._commands.kept_files()
        return any(kept.get(name) == job for name in self._gone)

    def _is_of(self, answer: Answer, name: str) -> bool:
        """Whether the run of a repeated submission was made from the file of this name."""
        run = None if answer.run is None else self._store.run_view(answer.run)
        return run is not None and run.file == name

    def _settled(self, name: str) -> None:
        """Nothing is left to do about this file; an older complaint about it holds no more."""
        self.pending.discard(name)
        self._claimed.pop(name, None)
        self._places.remove(Place.REPORTS, error_name(name))

    # ------------------------------------------------------------ lists

    def _claim(self, name: str, seen: Seen) -> None:
        """Move a list to where it is read from, before the engine hears of it."""
        self._accept()  # what came before it goes before it
        try:
            self._places.move(Place.JOBS, Place.ACTIVE, name)
        except FileNotFoundError:
            return
        # The run will name this path: the list must be there after any crash that the run outlives.
        self._places.sync(Place.ACTIVE, Place.JOBS)
        self._failpoints.pass_by("folder.claimed")
        self._claimed[name] = seen
        self._deal_with_claimed(name, seen)

    def _deal_with_claimed(self, name: str, seen: Seen) -> None:
        """Submit a file that stands in ``active/`` already."""
        if seen.waits_for in self._busy.jobs:
            return
        if (defaults := self._defaults(name, seen)) is None:
            return
        try:
            fd = self._places.open(Place.ACTIVE, name)
        except FileNotFoundError:
            self._settled(name)
            return
        try:
            if seen.kind is Kind.LIST:
                head = b"".join(self._places.pieces(fd, LIST_HEAD_BYTES + 1))
                if why := no_list(list_form(name), head):
                    self._reject(Place.ACTIVE, name, f"{name}: {why}")
                    return
                digest = self._digest(fd)
            elif too_large := self._too_large(name, seen):
                self._reject(Place.ACTIVE, name, too_large)
                return
            else:
                data = b"".join(self._places.pieces(fd, seen.stamp.size_bytes))
        finally:
            os.close(fd)
        if seen.kind is Kind.JOB:
            self._submit_job(Place.ACTIVE, name, seen, data, defaults)
            return
        try:
            path = self._places.of(Place.ACTIVE, name)
            job = read_with(self._read_list, name, path, digest, defaults)
        except DocumentError as exc:
            self._reject_document(Place.ACTIVE, name, exc)
            return
        command = Submit(job=job, raw=b"", file=name)
        answer = self._commands.obey(command)
        if self._is_accepted(Place.ACTIVE, name, seen, command, answer):
            self._failpoints.pass_by("folder.accepted")
            self._settled(name)

    def _digest(self, fd: int) -> str:
        hasher = hashlib.sha256()
        for piece in self._places.pieces(fd):
            hasher.update(piece)
        return hasher.hexdigest()

    # ------------------------------------------------------------ control files

    def _obey(self, name: str, seen: Seen) -> None:
        if not seen.obeyed:
            self._accept()  # it may be for one of these
            job, verb = PurePath(name).stem, PurePath(name).suffix[1:]
            if (command := self._command(name, seen, job, verb)) is None:
                return
            answer = self._commands.obey(command)
            if answer.later:
                return
            if not answer.done and self._put_behind_jobs(name):
                return
            seen.obeyed = True
            self._tell(
                events.CommandObeyed(command=verb, job=job, done=answer.done, reason=answer.reason)
            )
            if not answer.done:
                self._write_error(name, f"{name}: {masked(answer.reason)}")
            else:
                self._places.remove(Place.REPORTS, error_name(name))
                if isinstance(command, Retry):
                    self._bring_back(answer)
        self._places.remove(Place.JOBS, name)
        self.pending.discard(name)

    def _command(self, name: str, seen: Seen, job: str, verb: str) -> Command | None:
        """Return what a control file asks for; None: it is not complete."""
        if verb != "backfill":
            return _COMMANDS[verb](job=job)
        if seen.stamp.size_bytes == 0:
            self._unfit(name, seen, "is empty; write the days into it: 2026-11-01..2026-11-27")
            return None
        try:
            fd = self._places.open(Place.JOBS, name)
        except FileNotFoundError:
            self.pending.discard(name)
            return None
        try:
            if not self._complete(fd, name, seen):
                return None
            data = b"".join(self._places.pieces(fd, LONGEST_DAYS_BYTES))
        finally:
            os.close(fd)
        first, dots, last = data.decode("utf-8", "replace").strip().partition("..")
        return Backfill(job=job, first=first.strip(), last=(last if dots else first).strip())

    def _put_behind_jobs(self, name: str) -> bool:
        """Let a control file wait for the jobs before it: it may be for one; False: none waits."""
        if any(map(is_job, self._pass)):
            self._pass[name] = None
        elif any(map(is_job, self._between)):
            self._between.insert(0, name)  # the last of them
        else:
            return False
        return True

    def _bring_back(self, answer: Answer) -> None:
        """Let the file of a run that goes on again stand in ``active/`` again."""
        run = None if answer.run is None else self._store.run_view(answer.run)
        if run is None or not run.file or run.file in self._commands.kept_files():
            return
        if self._places.stat(Place.ACTIVE, run.file) is None:
            self._places.bring_back(Place.FAILED, Place.ACTIVE, run.file)

    # ------------------------------------------------------------ refusing

    def _reject_document(self, place: Place, name: str, exc: DocumentError) -> None:
        shown = exc.rewritten(masked)
        lines = shown.headlines()
        self._reject(place, name, shown.render(), lines[0], len(lines))

    def _reject(
        self, place: Place, name: str, text: str, reason: str = "", problems: int = 1
    ) -> None:
        """Say why, then put the file aside: a crash in between repeats both.

        That of a kept job is left to be mended; what was read before stays in force.
        """
        self._write_error(name, text)
        if place is Place.JOBS and name in self._commands.kept_files():
            self._seen[name].stays = True
        else:
            with suppress(FileNotFoundError):  # taken back by its owner
                self._places.put_away(place, Place.FAILED, name, self._clock.wall())
        self.pending.discard(name)
        self._claimed.pop(name, None)
        self._tell(events.JobRejected(file=name, reason=reason or text, problems=problems))

    def _write_error(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        self._places.write(error_name(name), [data], durable=True)

    # ------------------------------------------------------------ waiting

    def _unfit(self, name: str, seen: Seen, why: str) -> None:
        """It will not be accepted as it stands: nobody has to wait for it."""
        seen.unfit = why
        self.pending.discard(name)
        self._ignore_late(name, seen, why)

    def _ignore_late(self, name: str, seen: Seen, why: str, late_s: float = LATE_S) -> None:
        left_s = seen.since_s + late_s - self._clock.monotonic()
        if left_s <= 0:
            self._ignore(name, seen, why)
        else:
            self._again_in(name, left_s)

    def _ignore(self, name: str, seen: Seen, why: str) -> None:
        if not seen.told:
            seen.told = True
            self._tell(events.FileIgnored(file=name, reason=why))

    def _again_in(self, name: str, seconds: float) -> None:
        self._again[name] = self._clock.monotonic() + seconds
