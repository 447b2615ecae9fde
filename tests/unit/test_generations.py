"""Outputs that appear together: generations on a real disk, from part to link."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import RootSpec, SystemOs, build
from fetchd.errors import AttemptError
from fetchd.model import (
    Failure,
    Fetch,
    FileView,
    Finish,
    Generations,
    History,
    Intent,
    Item,
    Job,
    Outcome,
    Publish,
    Published,
    Run,
    StepSpec,
    Task,
    TaskGroup,
    TaskSpec,
    TaskState,
    Validator,
    Verify,
)
from fetchd.ports import Completed

STEPS = (StepSpec(name="extract"),)
FAILPOINTS = (
    "generation.noted",
    "generation.linked",
    "generation.carried",
    "generation.recorded",
    "generation.synced",
    "generation.closed",
    "generation.link_made",
    "generation.swapped",
    "generation.shown",
    "generation.file_removed",
    "generation.removed",
)


class Crash(BaseException):
    """What a kill at a failpoint is for the disk: nothing that follows is done."""


class CrashAt(Failpoints):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.left = "", 0
        self.passed: list[str] = []

    def pass_by(self, name: str) -> None:
        self.passed.append(name)
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                raise Crash


class FaultyOs(SystemOs):
    """Notes calls in their order; fails those that are named, or that have a number."""

    def __init__(self) -> None:
        self.fails_at = 0
        self.faults: dict[str, int] = {}
        self.calls: list[str] = []

    def fsync(self, fd):
        self._note("fsync", Path(f"/proc/self/fd/{fd}").readlink().name)
        super().fsync(fd)

    def rename(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self._note("rename", dst)
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def link(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self._note("link", dst)
        super().link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path, *, dir_fd):
        self._note("unlink", path)
        super().unlink(path, dir_fd=dir_fd)

    def mkdir(self, path, mode, *, dir_fd):
        self._note("mkdir", path)
        super().mkdir(path, mode, dir_fd=dir_fd)

    def write(self, fd, data, offset):
        self._note("write", "")
        return super().write(fd, data, offset)

    def open(self, path, flags, mode=0o666, *, dir_fd=None):
        self._note("open", path)
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def _note(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {name}")
        if len(self.calls) == self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if (number := self.faults.get(f"{call} {name}") or self.faults.get(call)) is not None:
            raise OSError(number, os.strerror(number))


class Mirror:
    """A job whose outputs appear together, and what its runs do to the disk."""

    def __init__(self, folder: Path, *, keep: int = 2, job: str = "mirror") -> None:
        self.folder = folder
        self.dest = folder / "ch"
        self.points = CrashAt()
        self.system = FaultyOs()
        self.groups = (
            TaskGroup(name="files", items=(Item(url="http://h/a"),)),
            TaskGroup(name="packages", items=(Item(url="http://h/a"),)),
            TaskGroup(name="trees", items=(Item(url="http://h/a"),), steps=STEPS),
        )
        self.job = Job(
            name=job,
            revision="r",
            groups=self.groups,
            generations=Generations(root="default", dest="ch", keep=keep),
        )
        self.views: dict[str, FileView] = {}
        self.number = 0
        self._open()

    def _open(self) -> None:
        self.disk = build({"default": RootSpec(path=str(self.folder))}, self.system, self.points)

    def restart(self) -> None:
        """Come back after a crash: nothing is known but what is on the disk."""
        self.disk.close()
        self.points.name = ""
        self._open()

    @property
    def run(self) -> Run:
        return Run(
            id=self.number, job=self.job.name, revision="r", scheduled_for_s=86400.0 * self.number
        )

    @property
    def name(self) -> str:
        return f"197001{1 + self.number:02}T000000Z-{self.number}"

    def begin(self) -> None:
        self.number += 1
        self.views = {}

    def publish(self, rest: str, data: str, group: str = "files") -> Outcome:
        """Write and publish the part of one task."""
        publication = Publish(**self._attempt(rest, group), intent=self._part(rest, data))
        ((_, outcome),) = self.disk.publish([publication])
        self.tell(rest, group, TaskState.SUCCEEDED, "downloaded")
        return outcome

    def unpack(self, rest: str, files: Mapping[str, str]) -> Outcome:
        """Publish what the steps of one task make."""
        attempt = self._attempt(rest, "trees")
        finish = Finish(**attempt, intent=self._part(rest, rest))
        with self.disk.stage(finish) as staging:
            assert staging is not None
            with staging.bench(lambda: None) as bench:
                for path, data in files.items():
                    with bench.make(path) as output:
                        output.write(data.encode())
                bench.set_mode(0o750)
            staged = staging.seal(lambda: None)
        intent = Intent(**{**fields(finish.intent), "staged": staged})
        ((_, outcome),) = self.disk.publish([Publish(**attempt, intent=intent)])
        self.tell(rest, "trees", TaskState.SUCCEEDED, "downloaded")
        return outcome

    def keep(self, rest: str, group: str = "files") -> None:
        """Find a task up to date."""
        attempt = self._attempt(rest, group)
        self.disk.keep(Fetch(**attempt, number=1, source="http://h/a", previous=None))
        self.tell(rest, group, TaskState.SUCCEEDED, "up_to_date")

    def tell(self, rest: str, group: str, state: TaskState, detail: str = "") -> None:
        """Have the store say how a task has ended."""
        self.views[rest] = FileView(
            task=1,
            group=group,
            path=f"ch/current/{rest}",
            state=state,
            detail=detail,
            reason="",
            url="",
            final_url="",
            size_bytes=None,
            verified=None,
            digests=(),
            validator=None,
            attempts=1,
            resumed_from_bytes=0,
            elapsed_s=None,
        )

    def end(self, *passed_over: str) -> Completed:
        return self.disk.change_over(
            self.job, self.run, self.views.values(), passed_over, lambda: None
        )

    def make(self, files: Mapping[str, str], *kept: str) -> Completed:
        """Have a whole run that publishes these files and finds others up to date."""
        self.begin()
        for rest, data in files.items():
            assert isinstance(self.publish(rest, data), Published)
        for rest in kept:
            self.keep(rest)
        return self.end()

    def _attempt(self, rest: str, group: str) -> dict:
        (found,) = [one for one in self.groups if one.name == group]
        path = f"ch/current/{rest}"
        spec = TaskSpec(key=path, sources=("http://h/a",), path=path)
        task = Task(id=1, group=1, spec=spec, history=History())
        return {"fence": 1, "job": self.job, "run": self.run, "group": found, "task": task}

    def _part(self, rest: str, data: str) -> Intent:
        path, content = f"ch/current/{rest}", data.encode()
        with self.disk.of(self.job, self.run).open_part("default", path) as part:
            part.truncate()
            part.write(memoryview(content))
            device, inode = part.identity()
            name = part.name
        return Intent(
            root="default",
            path=path,
            part=name,
            device=device,
            inode=inode,
            size_bytes=len(content),
            verified=Verify.DIGEST,
            digests=(Digest("sha256", hashlib.sha256(content).hexdigest()),),
            clobber=True,
            url="http://h/a",
            final_url="http://h/a",
            validator=Validator(),
            mtime_s=1_700_000_000.0 + self.number,
            resumed_from_bytes=0,
            received_bytes=len(content),
            elapsed_s=1.0,
        )

    # ------------------------------------------------------------ what is seen of it

    def current(self) -> dict[str, str]:
        return seen(self.dest / "current")

    def generations(self) -> dict[str, dict[str, str]]:
        found = sorted((self.dest / "generations").iterdir())
        return {path.name: seen(path) for path in found}

    def records(self) -> list[str]:
        found = (self.folder / ".fetchd/generations").rglob("*")
        return sorted(path.name for path in found if path.is_file())

    def file(self, rest: str, number: int) -> Path:
        name = f"197001{1 + number:02}T000000Z-{number}"
        return self.dest / "generations" / name / rest


def fields(intent: Intent) -> dict:
    return {name: getattr(intent, name) for name in Intent.__slots__}


def seen(folder: Path) -> dict[str, str]:
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def mirror(tmp_path: Path):
    made = Mirror(tmp_path)
    yield made
    made.disk.close()


def failed(mirror: Mirror, *passed_over: str) -> tuple[str, str]:
    with pytest.raises(AttemptError) as caught:
        mirror.end(*passed_over)
    return caught.value.code, caught.value.reason


# ---------------------------------------------------------------- the way that works


def test_nothing_of_a_run_is_seen_before_all_of_it(mirror):
    mirror.begin()
    mirror.publish("a", "1")
    mirror.publish("sub/b", "1")

    assert mirror.current() == {}
    mirror.end()

    assert (mirror.dest / "current").readlink() == Path("generations", mirror.name)
    assert mirror.current() == {"a": "1", "sub/b": "1"}


def test_a_generation_is_named_by_the_time_and_number_of_its_run(mirror):
    mirror.number = 16
    mirror.make({"a": "1"})

    assert list(mirror.generations()) == ["19700118T000000Z-17"]


def test_the_next_generation_follows_in_one_step_and_the_last_one_stays(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()
    mirror.publish("a", "2")

    assert mirror.current() == {"a": "1", "b": "1"}
    mirror.keep("b")
    mirror.end()

    assert mirror.current() == {"a": "2", "b": "1"}
    assert list(mirror.generations().values()) == [
        {"a": "1", "b": "1"},
        {"a": "2", "b": "1"},
    ]


def test_an_unchanged_file_is_one_inode_and_a_changed_one_is_not_touched(mirror):
    mirror.make({"a": "1", "b": "1"})
    before = mirror.file("a", 1).stat()
    mirror.make({"a": "2"}, "b")

    assert mirror.file("b", 2).samefile(mirror.file("b", 1))
    after = mirror.file("a", 1).stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode, after.st_nlink) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
        1,
    )
    assert mirror.file("a", 1).read_text() == "1"


def test_what_a_run_does_not_have_is_not_in_its_generation(mirror):
    mirror.make({"a": "1", "gone": "1"})
    mirror.make({}, "a")

    assert mirror.current() == {"a": "1"}


def test_a_run_with_nothing_to_show_shows_an_empty_folder(mirror):
    mirror.make({})

    assert (mirror.dest / "current").is_dir()
    assert mirror.current() == {}


def test_a_run_of_the_same_second_is_told_from_another_that_has_its_name(mirror):
    mirror.make({"a": "1"})
    other = Mirror(mirror.folder)
    other.number = 1
    run = Run(id=1, job="mirror", revision="r", scheduled_for_s=86400.5)

    with pytest.raises(AttemptError, match="is that of another run"):
        other.disk.change_over(other.job, run, (), (), lambda: None)
    other.disk.close()


# ---------------------------------------------------------------- how many are kept


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])]
)
def test_so_many_generations_are_kept_with_the_current_one(tmp_path, keep, left):
    mirror = Mirror(tmp_path, keep=keep)
    for number in range(4):
        mirror.make({"a": str(number)})

    numbers = [int(name.partition("-")[2]) for name in mirror.generations()]
    assert numbers == left
    assert len(mirror.records()) == len(left)
    assert mirror.current()["a"] == "3"
    mirror.disk.close()


def test_what_was_kept_longest_goes_first_whatever_moment_it_is_for(tmp_path):
    mirror = Mirror(tmp_path)
    mirror.number = 20
    mirror.make({"a": "late"})
    for number in (3, 4):  # runs that are made for earlier days
        mirror.number = number - 1
        mirror.make({"a": str(number)})

    assert [files["a"] for files in mirror.generations().values()] == ["3", "4"]
    assert mirror.current() == {"a": "4"}
    mirror.disk.close()


def test_a_file_that_somebody_put_into_a_generation_stays_and_is_told_once(mirror):
    mirror.make({"a": "1", "sub/b": "1", "sub/deep/c": "1"})
    mirror.file("sub/notes.txt", 1).write_text("mine")
    mirror.make({"a": "2"})

    told = mirror.make({"a": "3"})

    assert told == Completed(removed=1, left=("19700102T000000Z-1",))
    assert mirror.generations()["19700102T000000Z-1"] == {"sub/notes.txt": "mine"}
    assert not mirror.file("sub/deep", 1).exists()
    assert mirror.make({"a": "4"}) == Completed(removed=1)


@pytest.mark.parametrize("how", ["written", "replaced", "link"])
def test_a_file_that_somebody_changed_stays(mirror, how):
    mirror.make({"a": "1", "b": "1"})
    file = mirror.file("a", 1)
    if how == "written":
        file.write_text("mine")
    else:
        file.unlink()
        file.symlink_to("b") if how == "link" else file.write_text("mine")
    mirror.make({"a": "2"})
    mirror.make({"a": "3"})

    assert [path.name for path in file.parent.iterdir()] == ["a"]


def test_a_folder_that_became_a_link_is_not_followed(mirror):
    mirror.make({"sub/a": "1"})
    elsewhere = mirror.folder / "elsewhere"
    mirror.file("sub", 1).rename(elsewhere)
    mirror.file("sub", 1).symlink_to(elsewhere)
    mirror.make({"sub/a": "2"})
    told = mirror.make({"sub/a": "3"})

    assert told.left == ("19700102T000000Z-1",)
    assert (elsewhere / "a").read_text() == "1"


def test_what_a_run_has_left_that_came_to_nothing_goes_when_a_later_one_is_seen(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()  # it fails: there is no end
    mirror.publish("a", "half")
    mirror.keep("b")
    mirror.file("notes", 2).write_text("mine")
    assert mirror.records() == ["19700102T000000Z-1", "19700103T000000Z-2.open"]

    told = mirror.make({"a": "3"}, "b")

    assert told == Completed(removed=1, left=("19700103T000000Z-2",))
    assert mirror.generations() == {
        "19700102T000000Z-1": {"a": "1", "b": "1"},
        "19700103T000000Z-2": {"notes": "mine"},
        "19700104T000000Z-3": {"a": "3", "b": "1"},
    }


def test_lines_that_a_power_cut_took_from_the_record_of_a_failed_run_are_found_elsewhere(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()
    mirror.keep("a")
    record = next((mirror.folder / ".fetchd/generations").rglob("*.open"))
    record.write_text(record.read_text().partition("\n")[0] + '\n["files", "a", "a", 1')

    mirror.make({"b": "3"})

    assert "19700103T000000Z-2" not in mirror.generations()


def test_what_a_crash_has_left_before_the_first_line_goes_if_it_is_empty(mirror):
    mirror.make({"a": "1"})
    made = mirror.dest / "generations"
    (made / "19700109T000000Z-9" / "sub").mkdir(parents=True)
    (made / "19700108T000000Z-8").mkdir()
    (made / "19700108T000000Z-8" / "notes").write_text("mine")
    (made / "mine").mkdir()
    records = next((mirror.folder / ".fetchd/generations").iterdir())
    (records / "abc.copy").write_text("half")
    mirror.make({"a": "2"})

    assert sorted(path.name for path in made.iterdir()) == [
        "19700102T000000Z-1",
        "19700103T000000Z-2",
        "19700108T000000Z-8",
        "mine",
    ]
    assert len(mirror.records()) == 2


def test_a_torn_line_of_a_record_spoils_none_of_the_others(mirror):
    mirror.begin()
    mirror.publish("a", "1")
    record = next((mirror.folder / ".fetchd/generations").rglob("*.open"))
    record.write_text(record.read_text() + '\n["files", "b", "b", 1')
    mirror.publish("c", "1")
    mirror.end()
    mirror.make({"a": "2"})
    mirror.make({"a": "3"})

    assert "19700102T000000Z-1" not in mirror.generations()


# ---------------------------------------------------------------- tasks that publish nothing


def test_a_group_that_was_passed_over_has_its_files_in_the_new_generation(mirror):
    mirror.begin()
    mirror.publish("index", "1")
    mirror.publish("p/a", "1", "packages")
    mirror.publish("p/b", "1", "packages")
    mirror.end()
    mirror.begin()
    mirror.keep("index")
    mirror.end("packages")

    assert mirror.current() == {"index": "1", "p/a": "1", "p/b": "1"}
    assert mirror.file("p/a", 2).samefile(mirror.file("p/a", 1))


def test_a_group_is_carried_on_over_any_number_of_generations(mirror):
    mirror.begin()
    mirror.publish("p/a", "1", "packages")
    mirror.end()
    for index in range(4):
        mirror.begin()
        mirror.publish("index", str(index))
        mirror.end("packages")

    assert mirror.current() == {"index": "3", "p/a": "1"}


@pytest.mark.parametrize("state", [TaskState.SKIPPED, TaskState.FAILED])
def test_a_task_that_was_skipped_or_may_fail_keeps_the_file_that_it_had(mirror, state):
    mirror.make({"a": "1", "b": "1", "c": "1"})
    mirror.begin()
    mirror.publish("a", "2")
    mirror.tell("b", "files", state)
    mirror.tell("never", "files", state)
    mirror.end()

    assert mirror.current() == {"a": "2", "b": "1"}


def test_a_group_with_an_item_that_nobody_understands_keeps_all_that_it_had(mirror):
    mirror.begin()
    mirror.publish("p/a", "1", "packages")
    mirror.publish("p/b", "1", "packages")
    mirror.publish("gone", "1")
    mirror.end()
    mirror.begin()
    mirror.publish("p/a", "2", "packages")
    bad = {name: getattr(mirror.views["p/a"], name) for name in FileView.__slots__}
    mirror.views["bad"] = FileView(**{**bad, "path": "./index:2", "state": TaskState.FAILED})
    mirror.end()

    assert mirror.current() == {"p/a": "2", "p/b": "1"}


def test_a_group_that_cannot_be_carried_whole_fails_the_run(mirror):
    mirror.begin()
    mirror.publish("p/a", "1", "packages")
    mirror.end()
    mirror.file("p/a", 1).write_text("mine")
    mirror.begin()
    mirror.publish("index", "1")

    code, reason = failed(mirror, "packages")

    assert code == "generation_broken"
    assert "default:ch/generations/19700102T000000Z-1/p/a: somebody has taken away" in reason
    assert mirror.current() == {"p/a": "mine"}


# ---------------------------------------------------------------- what must not be


def test_a_generation_that_is_not_whole_is_not_shown(mirror):
    mirror.make({"a": "1"})
    mirror.begin()
    mirror.publish("a", "2")
    mirror.file("a", 2).unlink()

    code, reason = failed(mirror)

    assert (code, "default:ch/current/a" in reason) == ("generation_broken", True)
    assert mirror.current() == {"a": "1"}


@pytest.mark.parametrize("what", ["folder", "file", "elsewhere", "absolute", "unknown"])
def test_d10_a_current_that_is_not_ours_fails_clearly_and_stays(mirror, what):
    mirror.dest.mkdir()
    current = mirror.dest / "current"
    if what == "folder":
        current.mkdir()
    elif what == "file":
        current.write_text("mine")
    else:
        targets = {
            "elsewhere": "../x",
            "absolute": "/tmp",
            "unknown": "generations/20260101T000000Z-1",
        }
        current.symlink_to(targets[what])
    mirror.begin()
    view = mirror.disk.of(mirror.job, mirror.run)

    with pytest.raises(AttemptError, match="default:ch/current") as caught:
        view.existing("default", "ch/current/a")  # the first that a run does
    assert caught.value.code == "dest_conflict"
    mirror.publish("a", "1")
    assert failed(mirror)[0] == "dest_conflict"
    assert current.is_dir() if what == "folder" else current.is_symlink() or current.is_file()


def test_a_link_to_another_folder_that_has_the_name_of_a_generation_is_not_ours(mirror):
    mirror.make({"a": "1"})
    link = mirror.dest / "current"
    link.unlink()
    (mirror.dest / "copies/19700102T000000Z-1").mkdir(parents=True)
    link.symlink_to("copies/19700102T000000Z-1")
    mirror.begin()
    mirror.publish("a", "2")

    assert "is a link to elsewhere" in failed(mirror)[1]


def test_d13_two_jobs_never_mix_below_one_dest(mirror):
    mirror.make({"a": "1"})
    other = Mirror(mirror.folder, job="other")
    other.number = 7
    other.begin()
    other.publish("b", "1")

    code, reason = failed(other)

    assert code == "dest_conflict"
    assert "are those of job 'mirror'" in reason
    assert mirror.current() == {"a": "1"}
    other.disk.close()


def test_a_job_takes_over_once_the_link_of_another_was_taken_away(mirror):
    mirror.make({"a": "1"})
    (mirror.dest / "current").unlink()
    other = Mirror(mirror.folder, job="other")
    other.number = 7
    other.make({"b": "1"})

    assert other.current() == {"b": "1"}
    assert mirror.file("a", 1).read_text() == "1"  # what is the other's stays
    other.disk.close()


# ---------------------------------------------------------------- how a run sees the disk


def test_a_run_sees_its_own_file_else_that_of_the_generation_before(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()
    view = mirror.disk.of(mirror.job, mirror.run)
    mirror.publish("a", "2222")

    sizes = [view.existing("default", f"ch/current/{rest}") for rest in ("a", "b", "c")]

    assert [found and found.size_bytes for found in sizes] == [4, 1, None]
    with view.read_existing("default", "ch/current/b") as slices:
        assert b"".join(map(bytes, slices)) == b"1"
    for rest, size in (("a", 4), ("b", 1)):
        file = view.open_below("default", f"ch/current/{rest}")
        assert file.size_bytes == size
        file.close()
    before = view.open_before("default", "ch/current/a")
    assert before.size_bytes == 1
    before.close()
    with pytest.raises(AttemptError, match="there is no 'c'"):
        view.open_below("default", "ch/current/c")


def test_before_the_first_generation_there_is_no_file(mirror):
    mirror.begin()
    with pytest.raises(AttemptError, match="there is no such file yet") as caught:
        mirror.disk.of(mirror.job, mirror.run).open_below("default", "ch/current/a")
    assert caught.value.code == "not_found"


def test_the_link_is_never_followed_by_chance(mirror):
    mirror.make({"a": "1"})

    with pytest.raises(AttemptError, match="symbolic link, which is not followed"):
        mirror.disk.existing("default", "ch/current/a")


def test_a_part_is_the_same_over_runs_whatever_their_generation(mirror):
    mirror.begin()
    with mirror.disk.of(mirror.job, mirror.run).open_part("default", "ch/current/a") as part:
        first = part.name
    mirror.begin()
    with mirror.disk.of(mirror.job, mirror.run).open_part("default", "ch/current/a") as part:
        assert part.name == first


def test_paths_of_other_roots_and_folders_are_what_they_say(mirror):
    view = mirror.disk.of(mirror.job, mirror.run)
    (mirror.folder / "other").write_text("x")

    found = view.existing("default", "other")

    assert found is not None
    assert found.size_bytes == 1


# ---------------------------------------------------------------- what steps make


def test_an_unchanged_tree_is_linked_as_a_whole_with_the_modes_of_its_folders(mirror):
    mirror.begin()
    mirror.unpack("x.tar", {"t/a": "1", "t/deep/b": "1"})
    mirror.end()
    mirror.begin()
    view = mirror.disk.of(mirror.job, mirror.run)
    assert view.stands("default", "ch/current/x.tar", STEPS, same=True)
    mirror.keep("x.tar", "trees")
    mirror.end()

    assert mirror.current() == {"t/a": "1", "t/deep/b": "1"}
    assert mirror.file("t/deep/b", 2).samefile(mirror.file("t/deep/b", 1))
    modes = [stat.S_IMODE(mirror.file(name, 2).stat().st_mode) for name in ("t", "t/deep")]
    assert modes == [0o750, 0o750]


def test_a_tree_that_changed_has_nothing_of_the_one_before(mirror):
    mirror.begin()
    mirror.unpack("x.tar", {"t/a": "1", "t/old": "1"})
    mirror.end()
    mirror.begin()
    mirror.unpack("x.tar", {"t/a": "2", "t/new": "2"})
    mirror.end()

    assert mirror.current() == {"t/a": "2", "t/new": "2"}
    assert seen(mirror.file("", 1)) == {"t/a": "1", "t/old": "1"}


def test_a_tree_of_a_group_that_was_passed_over_is_carried(mirror):
    mirror.begin()
    mirror.unpack("x.tar", {"t/a": "1", "t/b": "1"})
    mirror.end()
    mirror.begin()
    mirror.tell("x.tar", "trees", TaskState.SKIPPED, "condition")
    mirror.end("trees")

    assert mirror.current() == {"t/a": "1", "t/b": "1"}


def test_two_trees_may_have_a_file_in_common(mirror):
    mirror.begin()
    mirror.unpack("x.tar", {"LICENSE": "1", "x": "1"})
    mirror.unpack("y.tar", {"LICENSE": "1", "y": "1"})
    mirror.end()
    mirror.begin()
    mirror.tell("x.tar", "trees", TaskState.SKIPPED, "condition")
    mirror.keep("y.tar", "trees")
    mirror.end()

    assert mirror.current() == {"LICENSE": "1", "x": "1", "y": "1"}


# ---------------------------------------------------------------- the disk's faults


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_more_links_an_unchanged_file_is_copied(mirror, number):
    mirror.make({"a": "1", "b": "1"})
    mirror.file("b", 1).chmod(0o640)
    mirror.system.faults["link"] = number
    mirror.make({"a": "2"}, "b")

    old, new = mirror.file("b", 1).stat(), mirror.file("b", 2).stat()
    assert mirror.current() == {"a": "2", "b": "1"}
    assert old.st_ino != new.st_ino
    assert (old.st_mtime_ns, old.st_mode) == (new.st_mtime_ns, new.st_mode)
    mirror.make({"a": "3"}, "b")
    mirror.make({"a": "4"}, "b")
    assert len(mirror.generations()) == 2


@pytest.mark.parametrize("call", ["fsync", "rename current", "unlink a", "link"])
def test_d04_an_error_of_the_disk_is_one_of_the_end_which_may_be_tried_again(mirror, call):
    mirror.make({"a": "1", "b": "1"})
    mirror.make({"a": "2"}, "b")
    mirror.begin()
    mirror.publish("a", "3")
    mirror.tell("b", "files", TaskState.SUCCEEDED, "up_to_date")
    mirror.system.faults[call] = errno.EIO

    with pytest.raises(AttemptError) as caught:
        mirror.end()
    assert (caught.value.code, caught.value.transient) == ("disk_error", True)
    mirror.system.faults.clear()
    mirror.end()

    assert mirror.current() == {"a": "3", "b": "1"}
    assert len(mirror.generations()) == 2


def test_d04_a_file_is_named_only_after_its_line_is_durable(mirror):
    mirror.begin()
    mirror.system.faults["fsync 19700102T000000Z-1.open"] = errno.EIO

    outcome = mirror.publish("a", "1")

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.kept) == ("disk_error", True)
    assert not mirror.file("a", 1).exists()


def test_d14_the_link_is_replaced_after_all_that_it_leads_to_is_durable(mirror):
    mirror.make({"a": "1"})
    mirror.begin()
    mirror.publish("sub/a", "2")
    mirror.system.calls.clear()
    mirror.end()

    calls = mirror.system.calls
    swap = calls.index("rename current")
    name = "19700103T000000Z-2"
    records = next((mirror.folder / ".fetchd/generations").iterdir()).name
    for before in (f"fsync {name}.open", "fsync sub", f"fsync {name}", "fsync generations"):
        assert before in calls[:swap], before
    assert calls.index(f"rename {name}") < calls.index(f"fsync {records}") < swap
    assert "fsync ch" in calls[swap:]


def test_d04_a_folder_that_cannot_be_entered_for_now_keeps_its_generation_on_record(mirror):
    mirror.make({"old/a": "1"})
    mirror.make({"a": "2"})
    mirror.begin()
    mirror.publish("a", "3")
    mirror.restart()  # so that no folder is known
    mirror.system.faults["open old"] = errno.EIO

    with pytest.raises(AttemptError, match="'old'"):
        mirror.end()
    mirror.system.faults.clear()
    mirror.end()

    assert len(mirror.generations()) == len(mirror.records()) == 2


def test_a_file_that_is_replaced_while_it_is_linked_is_not_taken(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()
    mirror.publish("a", "2")
    link = mirror.system.link

    def replaced(*names, **folders):
        mirror.system.link = link
        mirror.file("b", 1).unlink()
        mirror.file("b", 1).write_text("somebody's")
        link(*names, **folders)

    mirror.system.link = replaced
    with pytest.raises(AttemptError, match="somebody changes it"):
        mirror.keep("b")

    assert not mirror.file("b", 2).exists()


def test_d14_a_record_goes_after_what_it_tells_of_is_gone_for_certain(mirror):
    mirror.make({"a": "1"})
    mirror.make({"b": "2"})
    mirror.begin()
    mirror.publish("b", "3")
    mirror.system.calls.clear()
    mirror.end()

    calls = mirror.system.calls
    gone, forgotten = calls.index("unlink a"), calls.index("unlink 19700102T000000Z-1")
    assert "fsync generations" in calls[gone:forgotten]


def test_d14_a_link_that_a_power_cut_has_lost_is_made_again(mirror):
    mirror.make({"a": "1", "b": "1"})
    mirror.begin()
    mirror.publish("a", "2")
    mirror.keep("b")
    mirror.file("b", 2).unlink()
    mirror.end()

    assert mirror.current() == {"a": "2", "b": "1"}


# ---------------------------------------------------------------- crashes


def third_run(mirror: Mirror) -> None:
    """Do all that a run does, from wherever the last life ended."""
    mirror.views = {}
    if not mirror.file("a", mirror.number).exists():
        mirror.publish("a", "3")
    mirror.tell("a", "files", TaskState.SUCCEEDED, "downloaded")
    mirror.keep("b")
    mirror.end("packages")


def before_the_third_run(folder: Path) -> Mirror:
    mirror = Mirror(folder)
    mirror.begin()
    mirror.publish("a", "1")
    mirror.publish("b", "1")
    mirror.publish("p/c", "1", "packages")
    mirror.end()
    mirror.make({"a": "0", "b": "1"})
    mirror.begin()
    mirror.publish("a", "2")
    mirror.publish("b", "1")
    mirror.publish("p/c", "1", "packages")
    mirror.end()
    mirror.begin()  # this one comes to nothing
    mirror.publish("a", "half")
    mirror.keep("b")
    mirror.begin()
    return mirror


WANTED = {"a": "3", "b": "1", "p/c": "1"}


@pytest.mark.parametrize("name", FAILPOINTS)
@pytest.mark.parametrize("passed", [1, 2])
def test_c01_after_a_crash_at_any_step_the_end_is_the_same(tmp_path, name, passed):
    mirror = before_the_third_run(tmp_path)
    mirror.points.name, mirror.points.left = name, passed

    with suppress(Crash):
        third_run(mirror)
    assert mirror.current() in ({"a": "2", "b": "1", "p/c": "1"}, WANTED)
    mirror.restart()
    third_run(mirror)

    assert mirror.current() == WANTED
    assert [files["a"] for files in mirror.generations().values()] == ["2", "3"]
    assert len(mirror.records()) == 2
    assert list((tmp_path / ".fetchd").glob("current.*")) == []
    mirror.disk.close()


@pytest.mark.parametrize("first", range(1, 9))
def test_d04_whichever_call_fails_the_next_try_comes_to_the_same_end(tmp_path, first):
    for number in itertools.count(first, 8):
        mirror = before_the_third_run(tmp_path / str(number))
        mirror.system.calls.clear()
        mirror.system.fails_at = number
        with suppress(AttemptError):
            third_run(mirror)
        met = len(mirror.system.calls) >= number
        mirror.system.fails_at = 0
        assert mirror.current() in ({"a": "2", "b": "1", "p/c": "1"}, WANTED)
        third_run(mirror)

        assert mirror.current() == WANTED
        assert [files["a"] for files in mirror.generations().values()] == ["2", "3"]
        assert len(mirror.records()) == 2
        mirror.disk.close()
        if not met:
            break
    assert number > 50


def test_every_failpoint_of_a_generation_is_passed(tmp_path):
    mirror = before_the_third_run(tmp_path)
    mirror.points.passed.clear()
    third_run(mirror)

    passed = {name for name in mirror.points.passed if name.startswith("generation.")}
    assert passed == set(FAILPOINTS)
    mirror.disk.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    crashes=st.lists(
        st.tuples(st.sampled_from(FAILPOINTS), st.integers(min_value=1, max_value=4)), max_size=5
    )
)
def test_c01_however_often_a_run_is_cut_short_a_reader_sees_one_set_or_the_other(
    tmp_path_factory, crashes: Iterable[tuple[str, int]]
):
    mirror = before_the_third_run(tmp_path_factory.mktemp("mirror"))
    (mirror.dest / "generations/19700104T000000Z-3/mine").write_text("mine")
    for name, passed in crashes:
        mirror.points.name, mirror.points.left = name, passed
        with suppress(Crash):
            third_run(mirror)
        assert mirror.current() in (
            {"a": "2", "b": "1", "p/c": "1", "mine": "mine"},
            WANTED,
        )
        mirror.restart()
    third_run(mirror)

    assert mirror.current() == WANTED
    assert mirror.generations()["19700104T000000Z-3"]["mine"] == "mine"
    assert len(mirror.generations()) == 2
    for record in (mirror.folder / ".fetchd/generations").rglob("*Z-*"):
        assert json.loads(record.read_text().partition("\n")[0])["job"] == "mirror"
    mirror.disk.close()
