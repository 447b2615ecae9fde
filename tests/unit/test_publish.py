from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fetchd.clock import Failpoints
from fetchd.digests import Digest
from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build
from fetchd.model import (
    Failure,
    History,
    Intent,
    Item,
    Job,
    Outcome,
    Publish,
    Published,
    Run,
    Task,
    TaskGroup,
    TaskSpec,
    Validator,
    Verify,
)
from fetchd.ports import PartJournal
from harness import FakeClock


class Crash(BaseException):
    """What a kill at a failpoint is for the disk: nothing that follows is done."""


class CrashAt(Failpoints):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def pass_by(self, name: str) -> None:
        if name == self.name:
            raise Crash


class FaultyOs(SystemOs):
    """Notes the calls in order; fails ``call`` on names or paths that end in the given text."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: dict[tuple[str, str], int] = {}

    def fsync(self, fd):
        self._note("fsync", str(Path(f"/proc/self/fd/{fd}").readlink()))
        super().fsync(fd)

    def rename(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self._note("rename", dst)
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def rename_new(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self._note("rename_new", dst)
        super().rename_new(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def link(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self._note("link", dst)
        super().link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path, *, dir_fd):
        self._note("unlink", path)
        super().unlink(path, dir_fd=dir_fd)

    def _note(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {Path(name).name}")
        for (faulty, end), number in self.faults.items():
            if call == faulty and name.endswith(end):
                raise OSError(number, os.strerror(number))


@pytest.fixture
def system() -> FaultyOs:
    return FaultyOs()


@pytest.fixture
def disk(tmp_path: Path, system: FaultyOs):
    made = build({"default": RootSpec(path=str(tmp_path))}, system)
    yield made
    made.close()


def verified(
    disk: DownloadDisk,
    path: str,
    data: bytes = b"new",
    *,
    digest: bool = True,
    durable_bytes: int | None = None,
    **fields,
) -> Publish:
    """Write a part as a transfer does and return the attempt to publish it."""
    with disk.open_part(fields.get("root", "default"), path) as part:
        part.write(memoryview(data))
        if durable_bytes is not None:
            part.checkpoint(
                PartJournal(
                    url="http://h/a",
                    final_url="http://h/a",
                    total=len(data),
                    validator=Validator(),
                    durable_bytes=durable_bytes,
                )
            )
        device, inode = part.identity()
        name = part.name
    digests = (Digest("sha256", hashlib.sha256(data).hexdigest()),) if digest else ()
    values = {
        "root": "default",
        "clobber": True,
        "mtime_s": 1_000_000_000.0,
        "resumed_from_bytes": 0,
        "received_bytes": len(data),
        "elapsed_s": 1.0,
        **fields,
    }
    intent = Intent(
        path=path,
        part=name,
        device=device,
        inode=inode,
        size_bytes=len(data),
        verified=Verify.DIGEST if digest else Verify.LENGTH,
        digests=digests,
        url="http://h/a",
        final_url="http://h/a",
        validator=Validator(),
        **values,
    )
    group = TaskGroup(name="g", items=(Item(url="http://h/a"),))
    spec = TaskSpec(key=path, sources=("http://h/a",), path=path, digests=digests)
    return Publish(
        fence=1,
        job=Job(name="j", revision="r", groups=(group,)),
        run=Run(id=1, job="j", revision="r", scheduled_for_s=0.0),
        group=group,
        task=Task(id=1, group=1, spec=spec, history=History()),
        intent=intent,
    )


def syncs(system: FaultyOs) -> list[str]:
    return [call.removeprefix("fsync ") for call in system.calls if call.startswith("fsync")]


def publish(disk: DownloadDisk, *attempts: Publish) -> list[Outcome]:
    settled = disk.publish(attempts)
    assert list(attempts) == [attempt for attempt, _ in settled]
    return [outcome for _, outcome in settled]


def recovered(attempt: Publish) -> Publish:
    return replace(attempt, recovered=True)


def visible(tmp_path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(tmp_path)): file.read_bytes()
        for file in sorted(tmp_path.rglob("*"))
        if file.is_file() and ".fetchd" not in file.parts
    }


def hidden(tmp_path: Path) -> list[str]:
    return [file.name for file in (tmp_path / ".fetchd/parts").iterdir()]


def failed(outcome: Outcome) -> tuple[str, bool]:
    assert isinstance(outcome, Failure)
    return outcome.code, outcome.transient


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Failure)
    return outcome.reason


# ---------------------------------------------------------------- the way that works


def test_a_verified_part_gets_its_name_and_leaves_nothing_behind(disk, tmp_path):
    attempt = verified(disk, "a/b/file", b"12345", durable_bytes=5)

    (outcome,) = publish(disk, attempt)

    found = (tmp_path / "a/b/file").stat()
    assert (
        Published(intent=attempt.intent, mtime_ns=1_000_000_000 * 10**9, inode=found.st_ino)
        == outcome
    )
    assert attempt.intent.inode == found.st_ino
    assert found.st_mtime == 1_000_000_000.0
    assert visible(tmp_path) == {"a/b/file": b"12345"}
    assert hidden(tmp_path) == []


def test_rule_43_data_is_synced_before_it_is_named_and_folders_before_it_is_told(
    disk, system, tmp_path
):
    attempts = [verified(disk, f"new/{name}") for name in ("a", "b")]
    parts = [attempt.intent.part for attempt in attempts]
    system.calls.clear()

    publish(disk, *attempts)

    assert f"fsync {tmp_path.name}" == system.calls[0]  # the new folder, in its parent
    assert sorted(f"fsync {part}" for part in parts) == sorted(system.calls[1:3])
    assert system.calls[3:6] == ["rename a", "rename b", "fsync new"]
    assert all(call.startswith("unlink") for call in system.calls[6:])


def test_a_journal_goes_with_its_part_whoever_wrote_it_and_in_whichever_life(tmp_path):
    disk = build({"default": RootSpec(path=str(tmp_path))})
    first = verified(disk, "a", b"1234", durable_bytes=4)
    verified(disk, "b", b"12")
    with disk.open_part("default", "b") as part:  # again, and this time with a journal
        part.write(memoryview(b"1234"))
        part.checkpoint(
            PartJournal(url="u", final_url="u", total=4, validator=Validator(), durable_bytes=4)
        )
        device, inode = part.identity()
    second = verified(disk, "c", b"1234")
    taken = replace(
        second,
        intent=replace(second.intent, path="b", part=part.name, device=device, inode=inode),
    )
    assert len(hidden(tmp_path)) == 5

    publish(disk, first, taken, second)

    assert hidden(tmp_path) == []
    assert set(visible(tmp_path)) == {"a", "b", "c"}


def test_rule_36_a_published_file_clears_what_was_refused_for_it_and_no_other(disk, tmp_path):
    for path in ("a", "b"):
        with disk.open_part("default", path) as part:
            part.write(memoryview(b"wrong " + path.encode()))
            part.quarantine()

    publish(disk, verified(disk, "a"))

    folder = tmp_path / ".fetchd/quarantine"
    assert [file.read_bytes() for file in folder.iterdir()] == [b"wrong b"]
    assert visible(tmp_path) == {"a": b"new"}


def test_a_group_of_any_size_and_of_none_is_published(disk, tmp_path):
    attempts = [verified(disk, f"{number % 7}/{number}", b"%d" % number) for number in range(150)]

    outcomes = publish(disk, *attempts)

    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert {f"{n % 7}/{n}": b"%d" % n for n in range(150)} == visible(tmp_path)
    assert publish(disk) == []


class SlowOs(SystemOs):
    """Syncs take a millisecond each."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.threads: list[str] = []

    def fsync(self, fd):
        self.clock.advance(0.001)
        self.threads.append(threading.current_thread().name)
        super().fsync(fd)


def slow_disk(tmp_path: Path, system: SlowOs | None = None) -> DownloadDisk:
    system = system or SlowOs()
    return build({"default": RootSpec(path=str(tmp_path))}, system, clock=system.clock)


def test_syncs_that_take_no_time_are_made_without_other_threads(tmp_path):
    class Instant(SlowOs):
        def fsync(self, fd):
            super().fsync(fd)
            self.clock.advance(-0.001)

    system = Instant()
    disk = slow_disk(tmp_path, system)

    publish(disk, *[verified(disk, f"{number}") for number in range(20)])

    assert len(system.threads) >= 21
    assert set(system.threads) == {threading.current_thread().name}


def test_syncs_that_take_time_are_under_way_together(tmp_path):
    class Meeting(SlowOs):
        together = threading.Barrier(5)
        slow = False

        def fsync(self, fd):
            super().fsync(fd)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                if self.slow:
                    self.together.wait(30.0)
                self.slow = True

    disk = slow_disk(tmp_path, Meeting())

    # The first tells that the disk is slow; the other five wait for each other.
    outcomes = publish(disk, *[verified(disk, f"{number}") for number in range(6)])

    assert all(isinstance(outcome, Published) for outcome in outcomes)


def test_syncs_of_which_one_or_two_take_a_little_time_are_made_without_other_threads(tmp_path):
    class Waiting(SlowOs):
        """Each takes 0.15 ms, for whatever it has waited; the rest is taken back."""

        waits = 2

        def fsync(self, fd):
            super().fsync(fd)
            self.clock.advance(-0.00085 if self.waits > 0 else -0.001)
            self.waits -= 1

    system = Waiting()
    disk = slow_disk(tmp_path, system)
    attempts = [verified(disk, f"{number}") for number in range(20)]
    system.waits = 2
    publish(disk, *attempts)
    alone = set(system.threads)
    attempts = [verified(disk, f"more-{number}") for number in range(20)]
    system.waits = 3
    publish(disk, *attempts)

    assert alone == {threading.current_thread().name}
    assert len(set(system.threads)) > 1


@pytest.mark.parametrize("threads", [0, 2])
def test_c09_where_no_thread_can_be_had_the_publisher_syncs_alone(tmp_path, monkeypatch, threads):
    disk = slow_disk(tmp_path)
    left = [True] * threads
    start = threading.Thread.start

    def starting(thread):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)

    outcomes = publish(disk, *[verified(disk, f"{number}") for number in range(20)])

    assert all(isinstance(outcome, Published) for outcome in outcomes)


def test_an_empty_file_is_a_file(disk, tmp_path):
    (outcome,) = publish(disk, verified(disk, "empty", b""))

    assert isinstance(outcome, Published)
    assert visible(tmp_path) == {"empty": b""}


def test_files_get_mode_and_group_of_their_root(tmp_path):
    spec = RootSpec(path=str(tmp_path), mode=0o640, group=str(os.getgid()))
    disk = build({"default": spec})

    publish(disk, verified(disk, "a"))

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    disk.close()


def test_rule_44_without_a_mode_the_umask_decides(tmp_path):
    before = os.umask(0o027)
    try:
        disk = build({"default": RootSpec(path=str(tmp_path))})
        publish(disk, verified(disk, "folder/a"))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "folder/a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    disk.close()


def test_a_time_of_last_change_from_the_far_future_harms_nobody(disk, tmp_path):
    (outcome,) = publish(disk, verified(disk, "a", mtime_s=253_402_300_799.0))

    assert isinstance(outcome, Published)


def test_without_a_time_of_last_change_the_file_keeps_its_own(disk, tmp_path):
    publish(disk, verified(disk, "a", mtime_s=None))

    assert (tmp_path / "a").stat().st_mtime > 1_700_000_000


# ---------------------------------------------------------------- what stands there already


def test_p4_a_file_is_replaced_in_one_step_by_its_verified_successor(disk, tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    with (tmp_path / "a").open("rb") as reader:
        publish(disk, verified(disk, "a"))
        assert reader.read() == b"old"

    assert visible(tmp_path) == {"a": b"new"}


def test_p4_without_clobber_an_existing_file_stays(disk, tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    (outcome,) = publish(disk, verified(disk, "a", clobber=False))

    assert failed(outcome) == ("exists", False)
    assert visible(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("links", [True, False])
def test_p4_without_clobber_a_file_that_appears_at_the_last_moment_stays(
    disk, system, tmp_path, links
):
    attempt = verified(disk, "a", clobber=False)
    if not links:
        system.faults = {("link", "a"): errno.EPERM}
    disk._publisher._failpoints = Appear(tmp_path / "a")

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("exists", False)
    assert visible(tmp_path) == {"a": b"late"}


class Appear(Failpoints):
    """Somebody else makes the destination between sync and naming."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def pass_by(self, name: str) -> None:
        if name == "publish.synced":
            self._file.write_bytes(b"late")


def test_without_clobber_a_new_name_is_given_and_the_hidden_one_goes(disk, system, tmp_path):
    (outcome,) = publish(disk, verified(disk, "a", clobber=False, durable_bytes=3))

    assert isinstance(outcome, Published)
    assert "link a" in system.calls
    assert visible(tmp_path) == {"a": b"new"}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_clobber_and_links_the_kernel_renames_without_replacing(
    disk, system, tmp_path, number
):
    system.faults = {("link", "a"): number}

    (outcome,) = publish(disk, verified(disk, "a", clobber=False))

    assert isinstance(outcome, Published)
    assert visible(tmp_path) == {"a": b"new"}
    assert hidden(tmp_path) == []


def test_where_neither_works_the_advice_is_given(disk, system, tmp_path):
    system.faults = {("link", "a"): errno.EPERM, ("rename_new", "a"): errno.EINVAL}

    (outcome,) = publish(disk, verified(disk, "a", clobber=False))

    assert failed(outcome) == ("dest_denied", False)
    assert "choose another root" in reason(outcome)
    assert visible(tmp_path) == {}


def test_d10_of_links_at_the_destination_the_name_alone_is_replaced(disk, tmp_path):
    (tmp_path / "victim").write_bytes(b"victim")
    (tmp_path / "symlink").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.link(tmp_path / "victim", tmp_path / "hardlink")
    names = ["symlink", "dangling", "hardlink"]

    outcomes = publish(disk, *[verified(disk, name) for name in names])

    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert {"victim": b"victim"} | dict.fromkeys(names, b"new") == visible(tmp_path)
    assert not any((tmp_path / name).is_symlink() for name in names)


def test_d10_folders_and_pipes_at_the_destination_are_refused_and_the_rest_goes_on(disk, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    outcomes = publish(disk, *[verified(disk, name) for name in ("folder", "pipe", "good")])

    assert failed(outcomes[0]) == ("dest_conflict", False)
    assert failed(outcomes[1]) == ("dest_denied", False)
    assert isinstance(outcomes[2], Published)


def test_d08_a_folder_that_became_a_symbolic_link_meanwhile_is_not_followed(disk, tmp_path):
    (tmp_path / "folder").mkdir()
    attempt = verified(disk, "folder/a")
    (tmp_path / "folder").rmdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "outside")

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("dest_denied", False)
    assert visible(tmp_path) == {}


def test_a_root_that_is_not_configured_any_more_is_a_clear_failure(disk):
    attempt = verified(disk, "a")
    attempt = replace(attempt, intent=replace(attempt.intent, root="gone"))

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("dest_denied", False)


def test_a_mount_that_looks_like_the_same_file_system_is_named(disk, system, tmp_path):
    attempt = verified(disk, "a")
    system.faults = {("rename", "a"): errno.EXDEV}

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("dest_denied", False)
    assert "a root of its own" in reason(outcome)


# ---------------------------------------------------------------- a disk that fails


def test_p22_a_part_that_cannot_be_synced_is_discarded_and_the_rest_goes_on(disk, system, tmp_path):
    attempts = [verified(disk, name) for name in ("a", "b", "c")]
    system.faults = {("fsync", attempts[1].intent.part): errno.EIO}

    outcomes = publish(disk, *attempts)

    assert [isinstance(outcome, Published) for outcome in outcomes] == [True, False, True]
    assert failed(outcomes[1]) == ("disk_error", True)
    assert visible(tmp_path) == {"a": b"new", "c": b"new"}
    assert hidden(tmp_path) == []


def test_a_folder_that_cannot_be_synced_fails_the_files_in_it_alone(disk, system, tmp_path):
    (tmp_path / "bad").mkdir()
    attempts = [verified(disk, name) for name in ("bad/a", "good/b", "bad/c")]
    system.faults = {("fsync", "/bad"): errno.EIO}

    outcomes = publish(disk, *attempts)

    assert [isinstance(outcome, Published) for outcome in outcomes] == [False, True, False]
    assert failed(outcomes[0]) == ("disk_error", True)


def test_without_clobber_a_name_that_may_not_last_is_taken_back(disk, system, tmp_path):
    (tmp_path / "bad").mkdir()
    attempt = verified(disk, "bad/a", clobber=False)
    system.faults = {("fsync", "/bad"): errno.EIO}

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert visible(tmp_path) == {}
    system.faults.clear()
    assert isinstance(publish(disk, attempt)[0], Published)


def test_without_clobber_what_took_the_place_of_a_name_that_may_not_last_stays(tmp_path):
    class Replaced(FaultyOs):
        def fsync(self, fd):
            if self.faults and Path(f"/proc/self/fd/{fd}").readlink().name == "bad":
                (tmp_path / "beside").write_bytes(b"theirs")
                (tmp_path / "beside").replace(tmp_path / "bad/a")
            super().fsync(fd)

    system = Replaced()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)
    (tmp_path / "bad").mkdir()
    attempt = verified(disk, "bad/a", clobber=False)
    system.faults = {("fsync", "/bad"): errno.EIO}

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert visible(tmp_path) == {"bad/a": b"theirs"}
    disk.close()


@pytest.mark.parametrize("named", ["in-an-earlier-life", "without-links"])
def test_p22_without_clobber_the_only_copy_is_a_part_again_when_its_name_may_not_last(
    disk, system, tmp_path, named
):
    (tmp_path / "bad").mkdir()
    attempt = verified(disk, "bad/a", clobber=False)
    if named == "in-an-earlier-life":
        (tmp_path / ".fetchd/parts" / attempt.intent.part).rename(tmp_path / "bad/a")
        attempt = recovered(attempt)
    else:
        system.faults["link", "a"] = errno.EPERM
    system.faults["fsync", "/bad"] = errno.EIO

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert isinstance(outcome, Failure)
    assert outcome.kept
    assert visible(tmp_path) == {}
    assert hidden(tmp_path) == [attempt.intent.part]
    system.faults.clear()
    assert isinstance(publish(disk, attempt)[0], Published)
    assert visible(tmp_path) == {"bad/a": b"new"}


def test_a_part_that_another_process_has_open_is_not_published_under_its_hands(disk, tmp_path):
    attempt = verified(disk, "a")

    with disk.open_part("default", "a"):
        (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert visible(tmp_path) == {}


@pytest.mark.parametrize("change", ["gone", "longer", "another"])
def test_rule_42_a_part_that_is_not_the_verified_one_is_not_published(disk, tmp_path, change):
    attempt = verified(disk, "a")
    part = tmp_path / ".fetchd/parts" / attempt.intent.part
    match change:
        case "gone":
            part.unlink()
        case "longer":
            part.write_bytes(b"longer")
        case _:
            (tmp_path / ".fetchd/other").write_bytes(b"new")
            (tmp_path / ".fetchd/other").rename(part)

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert visible(tmp_path) == {}


# ---------------------------------------------------------------- durability


def test_with_durability_group_the_files_of_a_folder_share_its_sync(tmp_path):
    system = FaultyOs()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system, durability="group")
    attempts = [verified(disk, f"f/{name}") for name in "abc"]
    system.calls.clear()

    publish(disk, *attempts)

    parts = [attempt.intent.part for attempt in attempts]
    assert sorted(syncs(system)) == sorted([tmp_path.name, *parts, "f"])
    assert disk.most_at_once > 1
    disk.close()


def test_with_durability_each_every_file_is_synced_and_named_by_itself(tmp_path):
    system = FaultyOs()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system, durability="each")
    attempts = [verified(disk, f"f/{name}") for name in "abc"]
    system.calls.clear()

    publish(disk, *attempts)

    steps = [
        [f"fsync {attempt.intent.part}", f"rename {name}", "fsync f"]
        for name, attempt in zip("abc", attempts, strict=True)
    ]
    seen = [call for call in system.calls[1:] if not call.startswith("unlink")]
    assert system.calls[0] == f"fsync {tmp_path.name}"  # the new folder, once
    assert seen == [step for one in steps for step in one]
    assert disk.most_at_once == 1
    disk.close()


@pytest.mark.parametrize("clobber", [True, False])
def test_with_durability_none_no_file_and_no_folder_is_synced(tmp_path, clobber):
    system = FaultyOs()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system, durability="none")
    attempts = [
        verified(disk, f"new/{n}", durable_bytes=3 if n == "a" else None, clobber=clobber)
        for n in "ab"
    ]
    system.calls.clear()

    outcomes = publish(disk, *attempts)
    disk.sync_existing("default", "new/a")

    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert visible(tmp_path) == {"new/a": b"new", "new/b": b"new"}
    assert hidden(tmp_path) == []
    assert syncs(system) == []
    disk.close()


def test_with_durability_none_a_checkpoint_is_synced_as_ever(tmp_path):
    counts = []
    for durability in ("group", "none"):
        system = FaultyOs()
        disk = build({"default": RootSpec(path=str(tmp_path))}, system, durability=durability)
        with disk.open_part("default", durability):
            system.calls.clear()
        verified(disk, durability, durable_bytes=3)
        counts.append(len(syncs(system)))
        disk.close()

    assert counts == [3, 3]  # the bytes, the journal, its name


# ---------------------------------------------------------------- after a crash


@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize(
    "name", ["publish.synced", "publish.renamed", "publish.folder_synced", "nowhere"]
)
def test_a_crash_anywhere_in_a_publication_is_made_good_once(tmp_path, name, clobber):
    first = build({"default": RootSpec(path=str(tmp_path))}, failpoints=CrashAt(name))
    attempts = [verified(first, f"f/{n}", clobber=clobber, durable_bytes=3) for n in "ab"]
    try:
        first.publish(attempts)
    except Crash:
        pass
    else:
        assert name == "nowhere"
    first.close()
    assert set(visible(tmp_path).values()) <= {b"new"}
    system = FaultyOs()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)

    outcomes = publish(disk, *map(recovered, attempts))

    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert visible(tmp_path) == {"f/a": b"new", "f/b": b"new"}
    assert "fsync f" in system.calls  # the name may not have been durable yet
    assert [leftover.name for leftover in disk.leftovers() if leftover.durable_bytes] == []
    disk.close()


def test_torn_bytes_are_found_after_a_crash_and_the_part_is_not_used_again(disk, tmp_path):
    attempt = verified(disk, "a", b"0123456789", durable_bytes=4)
    part = tmp_path / ".fetchd/parts" / attempt.intent.part
    with part.open("r+b") as file:
        file.seek(5)
        file.write(b"\0\0\0")

    (outcome,) = publish(disk, recovered(attempt))

    assert failed(outcome) == ("disk_error", True)
    assert visible(tmp_path) == {}
    assert hidden(tmp_path) == []


def test_the_machines_numbers_for_devices_may_change_with_a_restart(disk, tmp_path):
    attempt = verified(disk, "a")
    attempt = replace(attempt, intent=replace(attempt.intent, device=4711))

    outcomes = publish(disk, attempt) + publish(disk, recovered(attempt))

    assert failed(outcomes[0]) == ("disk_error", True)
    assert isinstance(outcomes[1], Published)


@pytest.mark.parametrize(("durable_bytes", "published"), [(10, True), (4, False), (None, False)])
def test_without_a_checksum_only_bytes_that_were_durable_survive_a_crash(
    disk, tmp_path, durable_bytes, published
):
    attempt = verified(disk, "a", b"0123456789", digest=False, durable_bytes=durable_bytes)

    (outcome,) = publish(disk, recovered(attempt))

    assert published == isinstance(outcome, Published)
    assert ({"a": b"0123456789"} if published else {}) == visible(tmp_path)
    if durable_bytes == 4:
        with disk.open_part("default", "a") as part:
            assert part.size_bytes == 4


def cut_short(tmp_path: Path, path: str, data: bytes = b"0123456789", **fields) -> Publish:
    """Give a file its name without any sync and die before that is told."""
    disk = build(
        {"default": RootSpec(path=str(tmp_path))},
        failpoints=CrashAt("publish.folder_synced"),
        durability="none",
    )
    attempt = verified(disk, path, data, **fields)
    with pytest.raises(Crash):
        disk.publish([attempt])
    disk.close()
    assert visible(tmp_path) == {path: data}
    return recovered(attempt)


def tear(file: Path, kept: bytes) -> None:
    """Leave what a power cut may: the name and the date, but not all of the bytes."""
    found = file.stat()
    file.write_bytes(kept)
    os.utime(file, ns=(found.st_mtime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize("digest", [True, False])
def test_d14_an_unsynced_name_that_is_whole_after_a_crash_is_done(tmp_path, digest, clobber):
    attempt = cut_short(tmp_path, "a", digest=digest, clobber=clobber, durable_bytes=4)
    system = FaultyOs()
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)

    (outcome,) = publish(disk, attempt)

    assert isinstance(outcome, Published)
    assert visible(tmp_path) == {"a": b"0123456789"}
    assert hidden(tmp_path) == []
    assert syncs(system) == ["a", tmp_path.name]  # the life that gave the name synced nothing
    disk.close()


@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize(
    ("kept", "digest"),
    [
        pytest.param(b"", True, id="empty"),
        pytest.param(b"", False, id="empty, no digest"),
        pytest.param(b"01234", True, id="short"),
        pytest.param(b"01234", False, id="short, no digest"),
        pytest.param(b"01234\0\0\0\0\0", True, id="zeros"),
    ],
)
@pytest.mark.parametrize("durability", ["group", "none"])
@pytest.mark.parametrize("mtime_s", [1_000_000_000.0, 1_700_000_000.123456])
def test_d14_an_unsynced_name_that_is_torn_after_a_crash_is_fetched_again(
    tmp_path, kept, digest, clobber, durability, mtime_s
):
    attempt = cut_short(tmp_path, "a", digest=digest, clobber=clobber, mtime_s=mtime_s)
    tear(tmp_path / "a", kept)
    disk = build({"default": RootSpec(path=str(tmp_path))}, durability=durability)

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert isinstance(outcome, Failure)
    assert not outcome.kept
    assert "torn" in reason(outcome)
    assert visible(tmp_path) == {}  # whatever `if_exists` says, it is fetched
    again = replace(verified(disk, "a", b"0123456789", clobber=clobber), fence=2)
    assert isinstance(publish(disk, again)[0], Published)
    assert visible(tmp_path) == {"a": b"0123456789"}
    disk.close()


@pytest.mark.parametrize(
    ("kept", "digest", "usable"),
    [(b"01234567", False, 4), (b"01", False, 0), (b"01234567\0\0", True, 0)],
)
def test_what_the_journal_vouches_for_of_a_torn_name_is_used_again(tmp_path, kept, digest, usable):
    attempt = cut_short(tmp_path, "a", digest=digest, durable_bytes=4)
    tear(tmp_path / "a", kept)
    disk = build({"default": RootSpec(path=str(tmp_path))})

    publish(disk, attempt)

    with disk.open_part("default", "a") as part:
        assert part.size_bytes == usable
    disk.close()


@pytest.mark.parametrize("body", [b"somebody", b"somebody's file", b"somebody's"])
@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize("mtime_s", [1_000_000_000.0, 1_700_000_000.123456, None])
def test_p4_what_somebody_wrote_into_a_name_after_a_crash_is_not_taken_down(
    tmp_path, body, clobber, mtime_s
):
    attempt = cut_short(tmp_path, "a", clobber=clobber, mtime_s=mtime_s)
    (tmp_path / "a").write_bytes(body)
    disk = build({"default": RootSpec(path=str(tmp_path))})

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == (("disk_error", True) if clobber else ("exists", False))
    assert visible(tmp_path) == {"a": body}
    disk.close()


def test_p4_a_longer_file_or_a_link_with_the_number_of_ours_is_somebody_elses(tmp_path):
    attempt = cut_short(tmp_path, "a", clobber=False, mtime_s=None)
    disk = build({"default": RootSpec(path=str(tmp_path))})

    (tmp_path / "a").write_bytes(b"a longer one")
    (longer,) = publish(disk, attempt)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("b")
    number = (tmp_path / "a").lstat().st_ino
    (link,) = publish(disk, replace(attempt, intent=replace(attempt.intent, inode=number)))

    assert failed(longer) == failed(link) == ("exists", False)
    assert (tmp_path / "a").is_symlink()
    disk.close()


@pytest.mark.parametrize("clobber", [True, False])
def test_p22_a_name_whose_bytes_cannot_be_synced_after_a_crash_is_fetched_again(tmp_path, clobber):
    attempt = cut_short(tmp_path, "a", clobber=clobber)
    system = FaultyOs()
    system.faults["fsync", "/a"] = errno.EIO
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)

    (outcome,) = publish(disk, attempt)

    assert failed(outcome) == ("disk_error", True)
    assert isinstance(outcome, Failure)
    assert not outcome.kept
    # Where it may have replaced another one it stays until its successor comes.
    assert visible(tmp_path) == ({"a": b"0123456789"} if clobber else {})
    assert hidden(tmp_path) == []
    disk.close()
