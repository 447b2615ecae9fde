"""Where steps work, and how what they have made becomes visible: on a real disk."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build
from fetchd.errors import AttemptError
from fetchd.model import (
    Failure,
    Finish,
    History,
    IfExists,
    Intent,
    Item,
    Job,
    Publish,
    Published,
    Rules,
    Run,
    Staged,
    StepSpec,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)

RUN = Run(id=1, job="j", revision="r", scheduled_for_s=0.0)
STEPS = (StepSpec(name="mode", options={"mode": 0o640}),)


class Crash(BaseException):
    """What a kill at a failpoint is for the disk: nothing that follows is done."""


class CrashAt(Failpoints):
    def __init__(self, name: str = "", passed: int = 1) -> None:
        super().__init__()
        self.name = name
        self.left = passed

    def pass_by(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if not self.left:
                raise Crash


class FaultyOs(SystemOs):
    """Fails calls that are named, and notes the order of syncs and renames."""

    def __init__(self) -> None:
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

    def write(self, fd, data, offset):
        self._note("write", "")
        return super().write(fd, data, offset)

    def _note(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {name}")
        if call in self.faults:
            raise OSError(self.faults[call], os.strerror(self.faults[call]))


@pytest.fixture
def system() -> FaultyOs:
    return FaultyOs()


@pytest.fixture
def points() -> CrashAt:
    return CrashAt()


@pytest.fixture
def disk(tmp_path, system, points):
    made = build({"default": RootSpec(path=str(tmp_path))}, system, points)
    yield made
    made.close()


def verified(
    disk: DownloadDisk, path: str, data: bytes = b"part", *, digest: bool = True, **rules
) -> Finish:
    """Write a part as a transfer does; return the attempt to take its steps."""
    with disk.open_part("default", path) as part:
        part.write(memoryview(data))
        device, inode = part.identity()
        name = part.name
    digests = (Digest("sha256", hashlib.sha256(data).hexdigest()),) if digest else ()
    made = Rules(**rules)
    group = TaskGroup(name="g", items=(Item(url="http://h/a"),), rules=made, steps=STEPS)
    spec = TaskSpec(key=path, path=path, sources=("http://h/a",))
    return Finish(
        fence=1,
        job=Job(name="j", revision="r", groups=(group,)),
        run=RUN,
        group=group,
        task=Task(id=1, group=1, spec=spec, history=History()),
        intent=Intent(
            root="default",
            path=path,
            part=name,
            device=device,
            inode=inode,
            size_bytes=len(data),
            verified=Verify.DIGEST if digest else Verify.LENGTH,
            digests=digests,
            clobber=made.if_exists is not IfExists.FAIL,
            url="http://h/a",
            final_url="http://h/a",
            validator=Validator(),
            mtime_s=1_700_000_000.5,
            resumed_from_bytes=0,
            received_bytes=len(data),
            elapsed_s=1.0,
            begun=True,
        ),
    )


def nothing() -> None:
    pass


def made(disk: DownloadDisk, attempt: Finish, *paths: str, carry: bool = False) -> Publish:
    """Take a step that makes these files, each with its path as content; seal it."""
    with disk.stage(attempt) as staging:
        with staging.bench(nothing) as bench:
            if carry:
                bench.carry()
            for path in paths:
                with bench.make(path) as output:
                    output.write(path.encode())
        staged = staging.seal(nothing)
    return publication(attempt, staged)


def publication(attempt: Finish, staged: Staged, *, recovered: bool = False) -> Publish:
    return Publish(
        fence=2,
        job=attempt.job,
        run=attempt.run,
        group=attempt.group,
        task=attempt.task,
        intent=replace(attempt.intent, staged=staged),
        recovered=recovered,
    )


def publish(disk: DownloadDisk, attempt: Publish):
    ((_, outcome),) = disk.publish([attempt])
    return outcome


def seen(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".fetchd" not in path.parts
    }


def hidden(folder: Path) -> list[str]:
    """Return what lies in the hidden folder, but for the records of what was made."""
    inner = folder / ".fetchd"
    found = (path.relative_to(inner) for path in inner.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "made")


def test_p01_nothing_is_seen_before_it_is_published_and_nothing_is_left_behind_it(tmp_path, disk):
    attempt = made(disk, verified(disk, "d/a.zip"), "x", "y/z")
    assert seen(tmp_path) == {}

    outcome = publish(disk, attempt)

    assert isinstance(outcome, Published)
    assert seen(tmp_path) == {"d/x": b"x", "d/y/z": b"y/z"}
    assert hidden(tmp_path) == []


def test_the_first_step_is_given_the_part_under_the_files_name_and_date(disk, tmp_path):
    with disk.stage(verified(disk, "d/a.bin", b"12345")) as staging:
        with staging.bench(nothing) as bench:
            assert [(f.path, f.size_bytes, f.link) for f in bench.files()] == [("a.bin", 5, False)]
            with bench.open("a.bin") as given:
                buffer = memoryview(bytearray(10))
                assert given.readinto(buffer, 2) == 3
            bench.carry()
        staged = staging.seal(nothing)

    assert staged == Staged(files=1, bytes=5)


def test_what_a_step_does_not_hand_on_is_gone_for_the_next_one(disk):
    with disk.stage(verified(disk, "a.bin")) as staging:
        with staging.bench(nothing) as bench, bench.make("x"):
            pass
        with staging.bench(nothing) as bench:
            assert [f.path for f in bench.files()] == ["x"]
        assert staging.seal(nothing) == Staged(files=0, bytes=0)


def test_a_file_that_is_handed_on_gets_its_date_and_the_steps_mode(disk, tmp_path):
    attempt = verified(disk, "a.bin")
    with disk.stage(attempt) as staging:
        with staging.bench(nothing) as bench:
            bench.carry()
            bench.make_folder("b")
            bench.set_mode(0o640)
        staged = staging.seal(nothing)

    publish(disk, publication(attempt, staged))

    found = (tmp_path / "a.bin").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750
    assert found.st_mtime == 1_700_000_000.5
    assert found.st_nlink == 1


def test_files_and_folders_get_the_mode_of_their_root(tmp_path):
    disk = build({"default": RootSpec(path=str(tmp_path), mode=0o640)})
    attempt = verified(disk, "a.zip")
    with disk.stage(attempt) as staging:
        with staging.bench(nothing) as bench:
            for path, executable in (("f/x", False), ("f/y", True)):
                with bench.make(path, executable=executable):
                    pass
        staged = staging.seal(nothing)
    publish(disk, publication(attempt, staged))

    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("f", "f/x", "f/y")]
    assert modes == [0o750, 0o640, 0o750]
    disk.close()


def test_names_of_others_stay_and_names_that_are_made_anew_are_replaced(tmp_path, disk):
    (tmp_path / "d/y").mkdir(parents=True)
    (tmp_path / "d/y/z").write_bytes(b"old")
    (tmp_path / "d/y/mine").write_bytes(b"mine")

    publish(disk, made(disk, verified(disk, "d/a.zip"), "x", "y/z"))

    assert seen(tmp_path) == {"d/x": b"x", "d/y/z": b"y/z", "d/y/mine": b"mine"}


def test_a_link_at_a_name_is_replaced_and_never_written_through(tmp_path, disk):
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "x").symlink_to("other")

    publish(disk, made(disk, verified(disk, "a.zip"), "x"))

    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"


def test_if_exists_fail_refuses_before_anything_is_seen(tmp_path, disk):
    (tmp_path / "y").mkdir()
    (tmp_path / "y/z").write_bytes(b"old")
    attempt = made(disk, verified(disk, "a.zip", if_exists=IfExists.FAIL), "a", "y/z")

    outcome = publish(disk, attempt)

    assert (outcome.code, outcome.transient) == ("exists", False)
    assert "y/z" in outcome.reason
    assert seen(tmp_path) == {"y/z": b"old"}


def test_if_exists_skip_leaves_what_is_there(tmp_path, disk):
    (tmp_path / "x").write_bytes(b"old")

    publish(disk, made(disk, verified(disk, "a.zip", if_exists=IfExists.SKIP), "x", "y"))

    assert seen(tmp_path) == {"x": b"old", "y": b"y"}


@pytest.mark.parametrize(("there", "word"), [("folder", "a folder where"), ("file", "no folder")])
def test_a06_a_file_is_no_folder_and_a_folder_no_file(tmp_path, disk, there, word):
    if there == "folder":
        (tmp_path / "x").mkdir()
        attempt = made(disk, verified(disk, "a.zip"), "b", "x")
    else:
        (tmp_path / "x").write_bytes(b"old")
        attempt = made(disk, verified(disk, "a.zip"), "b", "x/y")
    before = seen(tmp_path)

    outcome = publish(disk, attempt)

    assert outcome.code == "dest_conflict"
    assert word in outcome.reason
    assert seen(tmp_path) == before


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path, disk):
    (tmp_path / "other").mkdir()
    (tmp_path / "x").symlink_to("other")

    outcome = publish(disk, made(disk, verified(disk, "a.zip"), "x/y"))

    assert outcome.code == "dest_conflict"
    assert not list((tmp_path / "other").iterdir())


def test_data_is_durable_before_it_is_named_and_names_before_that_is_told(disk, system):
    attempt = made(disk, verified(disk, "d/a.zip"), "x", "y/z")
    assert {"fsync x", "fsync z", "fsync y", "fsync tree"} <= set(system.calls)
    system.calls.clear()

    publish(disk, attempt)

    names = [call for call in system.calls if call in {"rename x", "rename y"}]
    assert len(names) == 2
    assert system.calls.index("fsync d") > max(map(system.calls.index, names))
    assert system.calls.index("fsync made") < min(map(system.calls.index, names))


def test_a_tree_of_many_files_is_published_by_one_name(disk, system, tmp_path):
    attempt = made(disk, verified(disk, "a.zip"), *(f"t/{n}" for n in range(100)))
    assert not [call for call in system.calls if call == "fsync 7"]  # all at once, by the kernel
    system.calls.clear()

    publish(disk, attempt)

    assert len(seen(tmp_path)) == 100
    assert [call for call in system.calls if call.startswith("rename ")][-1] == "rename t"


def test_a_step_that_fails_leaves_the_part_and_nothing_else(disk, tmp_path):
    attempt = verified(disk, "a.zip")
    with (
        pytest.raises(AttemptError),
        disk.stage(attempt) as staging,
        staging.bench(nothing) as bench,
        bench.make("x"),
    ):
        raise AttemptError("step_failed", "no")

    part = attempt.intent.part
    assert hidden(tmp_path) == [f"parts/{part}", f"parts/{part}.json"]
    (left,) = disk.leftovers()
    assert (left.path, left.durable_bytes) == ("a.zip", 0)
    assert (tmp_path / ".fetchd/parts" / attempt.intent.part).stat().st_nlink == 1


def test_a_full_disk_is_told_as_one(disk, system):
    attempt = verified(disk, "a.zip")
    system.faults["write"] = errno.ENOSPC
    with pytest.raises(AttemptError) as caught, disk.stage(attempt):
        pass
    assert caught.value.code == "disk_full"


def fail_second_step(disk: DownloadDisk, attempt: Finish, code="webhook_failed", transient=True):
    """Take a step that makes ``x``, unless it was, and fail in the second one; return ``taken``."""
    with suppress(AttemptError), disk.stage(attempt) as staging:
        taken = staging.taken
        if not taken:
            with staging.bench(nothing) as bench, bench.make("x") as output:
                output.write(b"first")
        with staging.bench(nothing) as bench:
            assert [file.path for file in bench.files()] == ["x"]
            with bench.make("half") as output:
                output.write(b"half")
            raise AttemptError(code, "no answer", transient=transient)
    return taken


def test_a_step_that_could_not_be_taken_is_taken_again_on_what_the_one_before_has_made(
    disk, tmp_path
):
    attempt = verified(disk, "d/a.zip")
    taken = [fail_second_step(disk, attempt) for _ in range(3)]
    with disk.stage(attempt) as staging:
        taken.append(staging.taken)
        with staging.bench(nothing) as bench:
            bench.carry()
        staged = staging.seal(nothing)
    publish(disk, publication(attempt, staged))

    assert taken == [0, 1, 1, 1]
    assert seen(tmp_path) == {"d/x": b"first"}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("change", ["the part", "the steps", "the folder", "the life"])
def test_what_was_made_of_something_else_is_made_anew(disk, tmp_path, change):
    attempt = verified(disk, "a.zip")
    fail_second_step(disk, attempt)
    if change == "the part":
        (tmp_path / ".fetchd/parts" / attempt.intent.part).rename(tmp_path / "old")
        attempt = verified(disk, "a.zip")
    elif change == "the steps":
        others = replace(attempt.group, steps=(replace(STEPS[0], options={"o": 1}),))
        attempt = replace(attempt, group=others)
    elif change == "the folder":
        shutil.rmtree(tmp_path / ".fetchd/staging" / attempt.intent.part)
    else:
        die(disk)
        disk = another_life(tmp_path)

    assert fail_second_step(disk, attempt) == 0


@pytest.mark.parametrize(
    ("code", "transient"), [("disk_full", True), ("disk_read_only", True), ("step_failed", False)]
)
def test_what_was_made_does_not_stay_on_a_full_disk_or_for_a_step_that_fails_for_good(
    disk, tmp_path, code, transient
):
    attempt = verified(disk, "a.zip")
    fail_second_step(disk, attempt, code, transient)

    assert [name for name in hidden(tmp_path) if name.startswith("staging")] == []
    assert fail_second_step(disk, attempt) == 0


def test_what_was_made_of_a_cancelled_task_is_swept(disk, tmp_path):
    fail_second_step(disk, verified(disk, "a.zip"))
    (left,) = [one for one in disk.leftovers() if one.staged]

    assert disk.sweep(left)
    assert [name for name in hidden(tmp_path) if name.startswith("staging")] == []


@pytest.mark.parametrize("who", ["a transfer", "steps"])
def test_whoever_needs_room_has_that_of_steps_that_wait(tmp_path, who):
    class FreedOs(SmallOs):
        def free_bytes(self, fd):
            return self.free - sum(5 for _ in tmp_path.glob(".fetchd/staging/*/1/x"))

    system = FreedOs(10**9, 10**9)
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)
    waits, other = verified(disk, "a.zip"), verified(disk, "b.zip")
    fail_second_step(disk, waits)
    system.free = 8
    if who == "a transfer":
        with disk.open_part("default", "c.zip") as part:
            part.claim(8)
    else:
        with (
            disk.stage(other) as staging,
            staging.bench(nothing) as bench,
            bench.make("y") as output,
        ):
            system.free = 8
            output.write(b"1234")

    assert not (tmp_path / ".fetchd/staging" / waits.intent.part).exists()
    assert fail_second_step(disk, waits) == 0
    disk.close()


class SmallOs(SystemOs):
    """A file system with so much room, of which so much is free."""

    def __init__(self, capacity_bytes: int, free_bytes: int) -> None:
        self.capacity, self.free = capacity_bytes, free_bytes

    def capacity_bytes(self, fd):
        return self.capacity

    def free_bytes(self, fd):
        return self.free

    def write(self, fd, data, offset):
        self.free -= len(data)
        return super().write(fd, data, offset)


@pytest.mark.parametrize(
    ("capacity", "free", "code"),
    [
        (100_000, 5_000, ""),  # little is free, and little is needed
        (100_000, 3_900, "disk_full"),
        (100_000, 1_000, "disk_full"),
        (6_000, 3_900, "too_large"),
    ],
)
def test_the_reserve_of_the_disk_holds_for_what_steps_make(tmp_path, capacity, free, code):
    system = SmallOs(10**9, 10**9)
    disk = build({"default": RootSpec(path=str(tmp_path))}, system, reserve_bytes=1000)
    attempt = verified(disk, "a.zip", b"x" * 3000)
    refused = pytest.raises(AttemptError) if code else nullcontext()
    with disk.stage(attempt) as staging, staging.bench(nothing) as bench, bench.make("x") as output:
        system.capacity, system.free = capacity, free
        with refused as caught:
            for _ in range(3):
                output.write(b"1" * 1000)

    assert not code or caught.value.code == code
    disk.close()


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//b", ".fetchd/x", "a/.FETCHD", "a\0b"])
def test_a01_no_step_can_make_anything_outside_its_folder(disk, tmp_path, path):
    attempt = verified(disk, "a.zip")
    with disk.stage(attempt) as staging, staging.bench(nothing) as bench:
        for make in (lambda: bench.make(path).__enter__(), lambda: bench.make_folder(path)):
            with pytest.raises(AttemptError) as caught:
                make()
            assert caught.value.code == "step_failed"
    assert seen(tmp_path) == {}


def test_a_name_that_is_taken_is_said_to_the_step(disk):
    with disk.stage(verified(disk, "a.zip")) as staging, staging.bench(nothing) as bench:
        with bench.make("x"):
            pass
        with pytest.raises(FileExistsError):
            bench.make("x").__enter__()
        with pytest.raises(FileExistsError):
            bench.make("x/y").__enter__()
        with pytest.raises(FileExistsError):
            bench.make_folder("x")


def test_where_there_are_no_hard_links_the_part_is_copied(disk, system, tmp_path):
    system.faults["link"] = errno.EPERM
    attempt = made(disk, verified(disk, "a.bin", b"x" * 3_000_000), carry=True)

    assert isinstance(publish(disk, attempt), Published)
    assert seen(tmp_path) == {"a.bin": b"x" * 3_000_000}
    assert hidden(tmp_path) == []


# ---------------------------------------------------------------- after a crash


def die(disk: DownloadDisk) -> None:
    """Give up the locks, as the end of the process would."""
    disk._held.close()


def another_life(tmp_path: Path) -> DownloadDisk:
    return build({"default": RootSpec(path=str(tmp_path))})


NAMING = pytest.mark.parametrize(
    ("point", "passed"),
    [
        ("publish.synced", 1),
        ("publish.renamed", 1),
        ("publish.renamed", 2),
        ("publish.folder_synced", 1),
    ],
)
HOWEVER = pytest.mark.parametrize("if_exists", [IfExists.UPDATE, IfExists.FAIL, IfExists.SKIP])


@NAMING
@HOWEVER
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
def test_a08_a_crash_while_names_are_given_ends_right(
    tmp_path, points, disk, point, passed, if_exists, kept
):
    attempt = verified(disk, "d/a.zip", if_exists=if_exists)
    first = made(disk, attempt, "x", "y", carry=True)
    points.name, points.left = point, passed
    with pytest.raises(Crash):
        disk.publish([first])
    die(disk)
    if not kept:
        shutil.rmtree(tmp_path / ".fetchd/staging")

    later = another_life(tmp_path)
    left = replace(attempt, recovered=True, intent=first.intent)
    with later.stage(left) as staging:
        nothing_to_make = staging is None
    again = first if nothing_to_make else made(later, left, "x", "y", carry=True)
    outcome = publish(later, replace(again, recovered=True))

    assert isinstance(outcome, Published)
    assert nothing_to_make or not kept
    assert seen(tmp_path) == {"d/a.zip": b"part", "d/x": b"x", "d/y": b"y"}
    assert hidden(tmp_path) == []
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "d").iterdir())
    later.close()


def test_a08_what_was_sealed_before_a_crash_is_published_as_it_is(tmp_path, disk):
    attempt = verified(disk, "d/a.zip")
    first = made(disk, attempt, "x")
    die(disk)

    later = another_life(tmp_path)
    with later.stage(replace(attempt, recovered=True, intent=first.intent)) as staging:
        assert staging is None
    assert isinstance(publish(later, replace(first, recovered=True)), Published)
    assert seen(tmp_path) == {"d/x": b"x"}
    later.close()


def test_what_may_not_be_done_twice_needs_attention_after_a_crash(tmp_path, disk):
    attempt = verified(disk, "d/a.zip")
    under_way = disk.stage(attempt)
    staging = under_way.__enter__()
    with staging.bench(nothing) as bench:
        bench.carry()
        bench.begin_unrepeatable()
    # The process ends here: nothing is cleaned up.

    left = replace(attempt, recovered=True)
    with pytest.raises(AttemptError) as caught, disk.stage(left):
        pass
    assert (caught.value.code, caught.value.transient) == ("needs_attention", False)


def test_a08_what_was_published_before_a_crash_is_not_made_again(tmp_path, disk):
    attempt = verified(disk, "d/a.zip")
    first = made(disk, attempt, "x")
    publish(disk, first)  # and the end was not recorded
    die(disk)

    later = another_life(tmp_path)
    with later.stage(replace(attempt, recovered=True, intent=first.intent)) as staging:
        assert staging is None
    again = publication(attempt, first.intent.staged, recovered=True)
    assert isinstance(publish(later, again), Published)

    (tmp_path / "d/x").unlink()
    outcome = publish(later, again)
    assert isinstance(outcome, Failure)
    assert (outcome.transient, outcome.kept) == (True, False)
    later.close()


def test_a08_a_staging_folder_of_a_crash_is_replaced(tmp_path, disk):
    attempt = verified(disk, "a.bin")
    part = tmp_path / ".fetchd/parts" / attempt.intent.part
    given = tmp_path / ".fetchd/staging" / attempt.intent.part / "0"
    given.mkdir(parents=True)
    (given / "a.bin").hardlink_to(part)

    publish(disk, made(disk, replace(attempt, recovered=True), "x"))

    assert seen(tmp_path) == {"x": b"x"}
    assert hidden(tmp_path) == []


def test_what_a_crash_has_left_of_a_staging_goes_when_all_is_found_published(tmp_path, disk):
    attempt = verified(disk, "d/a.zip")
    sealed = made(disk, attempt, "x")
    publish(disk, sealed)
    left = tmp_path / ".fetchd/staging" / attempt.intent.part
    left.mkdir()
    (left / "what").write_text('["default", "d/a.zip"]')

    again = replace(attempt, recovered=True, intent=sealed.intent)
    with disk.stage(again) as staging:
        assert staging is None
    outcome = publish(disk, replace(sealed, recovered=True))

    assert isinstance(outcome, Published)
    assert hidden(tmp_path) == []


def test_a_part_that_a_crash_has_torn_is_not_given_to_steps(tmp_path, disk):
    attempt = replace(verified(disk, "a.zip"), recovered=True)
    part = tmp_path / ".fetchd/parts" / attempt.intent.part
    part.write_bytes(b"tron")
    with pytest.raises(AttemptError, match="torn"), disk.stage(attempt):
        pass

    unproved = replace(verified(disk, "b.zip", digest=False), recovered=True)
    with pytest.raises(AttemptError, match="before the part was synced"), disk.stage(unproved):
        pass
    with disk.stage(replace(unproved, recovered=False)) as staging:
        assert staging is not None


def test_what_was_staged_is_swept_unless_somebody_works_there(tmp_path, disk):
    attempt = verified(disk, "d/a.zip")
    other = another_life(tmp_path)
    sealed = made(disk, attempt, "x")
    (left,) = [one for one in other.leftovers() if one.staged]
    assert (left.root, left.path, left.name) == ("default", "d/a.zip", attempt.intent.part)
    assert not other.sweep(left)
    assert isinstance(publish(disk, sealed), Published)

    made(disk, verified(disk, "d/a.zip"), "x")
    die(disk)
    assert other.sweep(left)
    assert not [one for one in other.leftovers() if one.staged]
    other.close()


def test_the_record_of_what_was_made_can_be_swept_when_nobody_knows_its_destination(tmp_path, disk):
    publish(disk, made(disk, verified(disk, "d/a.zip"), "x"))
    publish(disk, made(disk, verified(disk, "b.zip"), "y"))
    (tmp_path / ".fetchd/made/torn").write_text('{"root": "def')
    (tmp_path / ".fetchd/made/foreign").write_text('{"root": "other", "path": "p"}\n')

    found = {left.path: left for left in disk.records()}
    swept = disk.sweep(found["d/a.zip"])

    assert set(found) == {"d/a.zip", "b.zip", ""}
    assert all(left.made and left.root == "default" for left in found.values())
    assert all(abs(left.modified_at_s - time.time()) < 60 for left in found.values())
    assert swept
    assert {left.path for left in disk.records()} == {"b.zip", ""}
    assert not disk.stands("default", "d/a.zip", STEPS, same=True)
    assert disk.stands("default", "b.zip", STEPS, same=True)


# ---------------------------------------------------------------- what stands


def test_what_steps_have_made_with_other_values_is_not_what_is_wanted(disk):
    attempt = verified(disk, "d/a.zip")
    spec = replace(attempt.task.spec, values=(("arch", "a"), ("item.v", "1")))
    attempt = replace(attempt, task=replace(attempt.task, spec=spec))
    publish(disk, made(disk, attempt, "x"))

    assert disk.stands("default", "d/a.zip", STEPS, spec.values, same=True)
    assert not disk.stands("default", "d/a.zip", STEPS, (("arch", "a"), ("item.v", "2")), same=True)
    assert not disk.stands("default", "d/a.zip", STEPS, same=True)


def test_what_steps_have_made_is_known_again_until_it_is_changed(tmp_path, disk):
    publish(disk, made(disk, verified(disk, "d/a.zip"), "x", "y/z"))

    assert disk.stands("default", "d/a.zip", STEPS, same=True)
    assert not disk.stands("default", "d/a.zip", (), same=True)
    assert not disk.stands("default", "d/b.zip", STEPS, same=True)
    assert not disk.stands("default", "d/a.zip", STEPS, (("arch", "b"),), same=True)
    os.utime(tmp_path / "d/y/z")
    assert not disk.stands("default", "d/a.zip", STEPS, same=True)
    assert disk.stands("default", "d/a.zip", STEPS, same=False)
    (tmp_path / "d/x").unlink()
    assert not disk.stands("default", "d/a.zip", STEPS, same=False)
