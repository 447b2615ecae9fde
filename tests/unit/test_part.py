from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build, part_name, space
from fetchd.errors import AttemptError
from fetchd.model import Validator
from fetchd.ports import Mending, PartBusy, PartJournal


class FaultyOs(SystemOs):
    """Fails the named calls on files whose path holds ``where``; ``None`` in a queue: works."""

    def __init__(self) -> None:
        self.faults: dict[str, list[int | None]] = {}
        self.where = ""
        self.most_bytes: int | None = None
        self.other_device = "nowhere"
        self.writable = True
        self.calls: list[str] = []

    def write(self, fd, data, offset, /):
        self._fail("write", fd)
        return super().write(fd, data[: self.most_bytes], offset)

    def read(self, fd, buffer, offset, /):
        self._fail("read", fd)
        return super().read(fd, buffer, offset)

    def truncate(self, fd, size_bytes):
        self._fail("truncate", fd)
        super().truncate(fd, size_bytes)

    def fsync(self, fd):
        self._fail("fsync", fd)
        super().fsync(fd)

    def rename(self, src, dst, *, src_dir_fd, dst_dir_fd):
        self.calls.append(f"rename {Path(dst).suffix}")
        super().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path, *, dir_fd):
        self.calls.append(f"unlink {Path(path).suffix}")
        super().unlink(path, dir_fd=dir_fd)

    def may_write(self, fd):
        return self.writable

    def device(self, fd):
        return 4711 if self.other_device in str(Path(f"/proc/self/fd/{fd}").readlink()) else 1

    def _fail(self, call: str, fd: int) -> None:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        self.calls.append(f"{call} {Path(path).suffix}".strip())
        queue = self.faults.get(call, [])
        if queue and self.where in path:
            number = queue.pop(0)
            if number is not None:
                raise OSError(number, os.strerror(number))


@pytest.fixture
def system() -> FaultyOs:
    return FaultyOs()


@pytest.fixture
def disk(tmp_path: Path, system: FaultyOs):
    made = build({"default": RootSpec(path=str(tmp_path))}, system)
    system.calls.clear()
    yield made
    made.close()


def journal(durable_bytes: int, total: int | None = None, **fields) -> PartJournal:
    return PartJournal(
        url=fields.get("url", "http://h/a"),
        final_url="http://h/b",
        total=total,
        validator=Validator(etag='"1"', last_modified="x", date="y"),
        durable_bytes=durable_bytes,
    )


def hidden(tmp_path: Path) -> Path:
    return tmp_path / ".fetchd/parts"


def names(folder: Path) -> list[str]:
    return [file.name for file in hidden(folder).iterdir()]


def content(disk: DownloadDisk, path: str) -> bytes:
    with disk.open_part("default", path) as part:
        buffer = memoryview(bytearray(1 << 16))
        return bytes(buffer[: part.readinto(buffer, 0)])


def leave(disk: DownloadDisk, path: str, data: bytes, durable_bytes: int | None = None) -> None:
    """Write a part as a crash leaves it: a journal for some of it, or none."""
    with disk.open_part("default", path) as part:
        if durable_bytes is not None:
            part.write(memoryview(data[:durable_bytes]))
            part.checkpoint(journal(durable_bytes))
        part.write(memoryview(data[part.size_bytes :]))


# ---------------------------------------------------------------- names and places


def test_rule_43_the_name_of_a_part_is_short_and_its_folder_is_private(disk, tmp_path):
    with disk.open_part("default", "a/" + "n" * 255) as part:
        assert re.fullmatch("[a-z2-7]{26}", part.name)
        assert part.name == part_name("default", "a/" + "n" * 255)

        assert stat.S_IMODE((tmp_path / ".fetchd").stat().st_mode) == 0o700
        assert stat.S_IMODE(hidden(tmp_path).stat().st_mode) == 0o700
        assert [part.name] == names(tmp_path)
    assert not (tmp_path / "a").exists()


def test_rule_40_roots_and_paths_do_not_share_parts():
    names = {part_name(r, p) for r in ("a", "ab") for p in ("b/c", "c", os.fsdecode(b"\xe9"))}

    assert len(names) == 6


def test_d09_a_destination_on_another_file_system_has_its_part_there(disk, system, tmp_path):
    (tmp_path / "big/isos").mkdir(parents=True)
    system.other_device = "/big"

    with disk.open_part("default", "big/isos/x") as part:
        assert [part.name] == names(tmp_path / "big")
    assert names(tmp_path) == []


def test_another_file_system_can_be_unmounted_when_no_part_there_is_open(disk, system, tmp_path):
    (tmp_path / "big/isos").mkdir(parents=True)
    system.other_device = "/big"

    leave(disk, "big/isos/x", b"1")
    disk.existing("default", "big/isos/x")

    opened = [file.resolve() for file in Path("/proc/self/fd").iterdir()]
    assert [file for file in opened if tmp_path / "big" in (file, *file.parents)] == []


def test_the_next_life_knows_the_parts_on_other_file_systems(disk, system, tmp_path):
    (tmp_path / "big").mkdir()
    system.other_device = "/big"
    leave(disk, "big/x", b"12345678", durable_bytes=8)
    leave(disk, "small", b"1234", durable_bytes=4)
    disk.close()

    found = build({"default": RootSpec(path=str(tmp_path))}, system).leftovers()

    assert [(leftover.home, leftover.path, leftover.durable_bytes) for leftover in found] == [
        ("", "small", 4),
        ("big", "big/x", 8),
    ]


def test_d07_a_folder_that_may_not_be_written_is_told_before_anything_is_fetched(
    disk, system, tmp_path
):
    system.writable = False

    with pytest.raises(AttemptError) as caught, disk.open_part("default", "a"):
        pass

    assert caught.value.code == "dest_denied"
    assert "check owner and mode" in caught.value.reason


def test_a_planted_link_in_the_hidden_folder_is_not_followed(disk, tmp_path):
    leave(disk, "a", b"")
    (hidden(tmp_path) / part_name("default", "a")).unlink()
    (hidden(tmp_path) / part_name("default", "a")).symlink_to(tmp_path / "victim")

    with pytest.raises(AttemptError) as caught, disk.open_part("default", "a"):
        pass

    assert caught.value.code == "dest_denied"
    assert not (tmp_path / "victim").exists()


def test_a_link_to_the_very_folder_of_the_parts_is_not_followed(disk, tmp_path):
    leave(disk, "a", b"")
    hidden(tmp_path).rename(tmp_path / "elsewhere")
    hidden(tmp_path).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AttemptError) as caught, disk.open_part("default", "a"):
        pass

    assert caught.value.code in {"dest_denied", "dest_conflict"}


def test_the_hidden_folder_is_made_again_when_somebody_has_removed_it(disk, tmp_path):
    leave(disk, "a", b"")
    shutil.rmtree(tmp_path / ".fetchd")

    with disk.open_part("default", "a") as part:
        assert [part.name] == names(tmp_path)


def test_a_pipe_in_the_hidden_folder_is_refused_without_waiting_for_it(disk, tmp_path):
    leave(disk, "a", b"")
    (hidden(tmp_path) / part_name("default", "a")).unlink()
    os.mkfifo(hidden(tmp_path) / part_name("default", "a"))

    with pytest.raises(AttemptError, match="not a regular file"), disk.open_part("default", "a"):
        pass


# ---------------------------------------------------------------- the lock


def test_rule_41_d13_an_open_part_is_locked_and_the_next_one_is_told(disk):
    with disk.open_part("default", "a"):
        with pytest.raises(PartBusy), disk.open_part("default", "a"):
            pass
        with disk.open_part("default", "b"):
            pass

    with disk.open_part("default", "a"):
        pass


def test_the_sweep_leaves_an_open_part_alone(disk, tmp_path):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"1"))
        (leftover,) = disk.leftovers()

        assert not disk.sweep(leftover)
        assert [part.name] == names(tmp_path)

    assert disk.sweep(leftover)
    assert names(tmp_path) == []


def test_a_second_name_of_a_published_file_is_never_written(disk, tmp_path):
    leave(disk, "a", b"published")
    os.link(hidden(tmp_path) / part_name("default", "a"), tmp_path / "a")

    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"other"))

    assert (tmp_path / "a").read_bytes() == b"published"


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("most_bytes", [1, 3, 1000])
def test_d05_short_and_interrupted_writes_lose_no_byte(disk, system, most_bytes):
    system.most_bytes = most_bytes
    system.faults = {"write": [errno.EINTR, None, errno.EINTR, None]}

    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"0123456789"))
        part.write(memoryview(b"abc"))
        part.checkpoint(journal(13))

    assert part.size_bytes == 13
    assert content(disk, "a") == b"0123456789abc"


def test_a_disk_that_takes_no_byte_is_an_error_and_not_an_endless_loop(disk, system):
    system.most_bytes = 0

    with disk.open_part("default", "a") as part, pytest.raises(AttemptError, match="takes no"):
        part.write(memoryview(b"0"))


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("write", errno.ENOSPC, "disk_full"),
        ("write", errno.EDQUOT, "disk_full"),
        ("write", errno.EIO, "disk_error"),
        ("read", errno.EIO, "disk_error"),
        ("truncate", errno.EIO, "disk_error"),
    ],
)
def test_d04_an_error_of_the_disk_has_its_code(disk, system, call, number, code):
    with disk.open_part("default", "a") as part:
        system.faults = {call: [number]}
        work = {
            "write": lambda: part.write(memoryview(b"0")),
            "read": lambda: part.readinto(memoryview(bytearray(1)), 0),
            "truncate": lambda: (part.write(memoryview(b"0")), part.truncate()),
        }[call]
        with pytest.raises(AttemptError) as caught:
            work()

    assert code == caught.value.code
    assert caught.value.transient


def test_a_write_that_failed_half_way_does_not_count(disk, system):
    system.most_bytes = 4

    with disk.open_part("default", "a") as part:
        system.faults = {"write": [None, errno.ENOSPC]}
        with pytest.raises(AttemptError):
            part.write(memoryview(b"01234567"))
        part.checkpoint(journal(part.size_bytes))

    assert content(disk, "a") == b""


# ---------------------------------------------------------------- the journal


def test_rule_18_data_is_synced_before_the_journal_says_so_and_all_is_durable_on_return(
    disk, system
):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"12345"))
        system.calls.clear()

        part.checkpoint(journal(5))

    assert system.calls == ["fsync", "write .tmp", "fsync .tmp", "rename .json", "fsync"]


def test_a_part_goes_on_where_its_journal_ends_and_the_rest_is_cut_off(disk):
    leave(disk, "a", b"0123456789", durable_bytes=6)

    with disk.open_part("default", "a") as part:
        assert journal(6) == part.journal
        assert part.size_bytes == 6

    assert content(disk, "a") == b"012345"


def test_a_part_without_journal_begins_anew(disk):
    leave(disk, "a", b"0123456789")

    assert content(disk, "a") == b""


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: b"",
        lambda text: b"[]",
        lambda text: b"\xff\xfe",
        lambda text: b"{}",
        lambda text: text.replace(b'"durable_bytes": 6', b'"durable_bytes": 11'),
        lambda text: text.replace(b'"durable_bytes": 6', b'"durable_bytes": -1'),
        lambda text: text.replace(b'"durable_bytes": 6', b'"durable_bytes": true'),
        lambda text: text.replace(b'"total": null', b'"total": 5'),
        lambda text: text.replace(b'"path": "a"', b'"path": "b"'),
        lambda text: text.replace(b'"root": "default"', b'"root": "isos"'),
        lambda text: text.replace(b'"etag": "\\"1\\""', b'"etag": 1'),
        lambda text: b"[" * 100_000,
    ],
)
def test_n40_a_torn_or_foreign_journal_vouches_for_nothing_and_goes(disk, tmp_path, damage):
    leave(disk, "a", b"0123456789", durable_bytes=6)
    file = hidden(tmp_path) / (part_name("default", "a") + ".json")
    before = file.read_bytes()
    file.write_bytes(damage(before))
    assert file.read_bytes() != before

    assert content(disk, "a") == b""
    assert not file.exists()


@given(path=st.binary(min_size=1, max_size=40).map(os.fsdecode))
@settings(derandomize=True, max_examples=50)
def test_any_path_that_a_disk_can_have_survives_in_the_journal(tmp_path_factory, path):
    tmp_path = tmp_path_factory.mktemp("root")
    disk = build({"default": RootSpec(path=str(tmp_path))})
    try:
        leave(disk, path, b"0123456789", durable_bytes=6)
    except AttemptError:
        return  # test_roots says which

    (leftover,) = disk.leftovers()

    assert (path, 6) == (leftover.path, leftover.durable_bytes)
    disk.close()


def test_cutting_a_part_forgets_its_journal_first_and_durably(disk, system):
    leave(disk, "a", b"0123456789", durable_bytes=10)

    with disk.open_part("default", "a") as part:
        system.calls.clear()
        part.truncate()

    forgotten = system.calls.index("unlink .json")
    assert system.calls[forgotten:] == ["unlink .json", "fsync", "truncate"]
    assert content(disk, "a") == b""


def test_p22_a_part_that_could_not_be_synced_is_gone(disk, system, tmp_path):
    leave(disk, "a", b"0123456789", durable_bytes=10)

    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"more"))
        system.faults = {"fsync": [errno.EIO]}
        with pytest.raises(AttemptError) as caught:
            part.checkpoint(journal(14))

    assert caught.value.code == "disk_error"
    assert names(tmp_path) == []


def test_a_journal_that_could_not_be_written_leaves_the_old_one_in_force(disk, system):
    leave(disk, "a", b"0123", durable_bytes=4)

    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"4567"))
        system.where = ".tmp"
        system.faults = {"write": [errno.ENOSPC]}
        with pytest.raises(AttemptError) as caught:
            part.checkpoint(journal(8))

    assert caught.value.code == "disk_full"
    assert content(disk, "a") == b"0123"


def test_a_discarded_part_is_removed_once_and_never_under_anothers_name(disk, tmp_path):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"bad"))
        part.checkpoint(journal(3))
        part.discard()
        assert names(tmp_path) == []

        with disk.open_part("default", "a") as other:
            part.discard()
            assert [other.name] == names(tmp_path)


# ---------------------------------------------------------------- quarantine


def refused(tmp_path: Path, home: str = "") -> dict[str, bytes]:
    folder = tmp_path / home / ".fetchd/quarantine"
    return {f.name: f.read_bytes() for f in folder.iterdir()} if folder.exists() else {}


def refuse(disk: DownloadDisk, path: str, data: bytes) -> str:
    leave(disk, path, data, durable_bytes=len(data))
    with disk.open_part("default", path) as part:
        return part.quarantine()


def test_rule_36_a_refused_part_is_moved_where_people_may_look_at_it(disk, tmp_path):
    place = refuse(disk, "a/b", b"wrong")

    assert place == f".fetchd/quarantine/{part_name('default', 'a/b')}"
    assert (tmp_path / place).read_bytes() == b"wrong"
    assert stat.S_IMODE((tmp_path / ".fetchd/quarantine").stat().st_mode) == 0o700
    assert names(tmp_path) == []


def test_rule_36_a_refused_part_is_no_part_any_more(disk, tmp_path):
    place = refuse(disk, "a", b"wrong")

    with disk.open_part("default", "a") as part:
        assert (part.size_bytes, part.journal) == (0, None)
        part.write(memoryview(b"new"))
    assert (tmp_path / place).read_bytes() == b"wrong"
    assert content(disk, "a") == b""


def test_there_is_one_refused_part_for_each_destination_the_latest(disk, tmp_path):
    for data in (b"first", b"second"):
        refuse(disk, "a", data)
    refuse(disk, "b", b"other")

    assert sorted(refused(tmp_path).values()) == [b"other", b"second"]


def test_d09_a_part_on_another_file_system_is_refused_there_by_a_rename(disk, system, tmp_path):
    (tmp_path / "mnt").mkdir()
    system.other_device = "mnt"

    place = refuse(disk, "mnt/a", b"wrong")

    assert place == f"mnt/.fetchd/quarantine/{part_name('default', 'mnt/a')}"
    assert list(refused(tmp_path, "mnt").values()) == [b"wrong"]
    (leftover,) = disk.leftovers()
    assert (leftover.home, leftover.quarantined) == ("mnt", True)
    assert disk.sweep(leftover)
    assert refused(tmp_path, "mnt") == {}


def test_p9_the_journal_of_a_refused_part_is_durably_forgotten_before_it_moves(disk, system):
    leave(disk, "a", b"wrong", durable_bytes=5)

    with disk.open_part("default", "a") as part:
        system.calls.clear()
        part.quarantine()

    forgotten = system.calls.index("unlink .json")
    assert system.calls[forgotten:] == ["unlink .json", "fsync", "rename "]


def test_p9_a_part_that_cannot_be_moved_is_worth_nothing_all_the_same(disk, system, tmp_path):
    leave(disk, "a", b"wrong", durable_bytes=5)
    (tmp_path / ".fetchd/quarantine").write_text("in the way")

    with disk.open_part("default", "a") as part, pytest.raises(AttemptError):
        part.quarantine()

    assert content(disk, "a") == b""


def test_a_link_in_place_of_the_quarantine_is_not_followed(disk, tmp_path):
    refuse(disk, "a", b"wrong")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".fetchd/quarantine").rename(tmp_path / "real")
    (tmp_path / ".fetchd/quarantine").symlink_to(tmp_path / "elsewhere")

    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"more"))
        with pytest.raises(AttemptError):
            part.quarantine()
        assert not part.drop_quarantined()

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_is_in_quarantine_can_be_dropped_once_and_no_other_with_it(disk, tmp_path):
    refuse(disk, "a", b"wrong")
    refuse(disk, "b", b"other")

    with disk.open_part("default", "a") as part:
        assert [part.drop_quarantined(), part.drop_quarantined()] == [True, False]

    assert list(refused(tmp_path).values()) == [b"other"]


def test_refused_parts_are_leftovers_without_a_destination_and_with_their_age(disk, tmp_path):
    refuse(disk, "a", b"wrong")
    before_s = time.time()

    (leftover,) = disk.leftovers()

    assert (leftover.quarantined, leftover.path, leftover.durable_bytes) == (True, "", 0)
    assert leftover.name == part_name("default", "a")
    assert leftover.modified_at_s == pytest.approx(before_s, abs=60)
    assert disk.sweep(leftover)
    assert refused(tmp_path) == {}


# ---------------------------------------------------------------- what lives leave behind


def test_leftovers_are_parts_with_or_without_journal_and_journals_without_part(disk, tmp_path):
    leave(disk, "with", b"0123456789", durable_bytes=6)
    leave(disk, "without", b"0123456789")
    stray = "a" * 26
    (hidden(tmp_path) / f"{stray}.json.tmp").touch()
    # As a publication that has set the origin's date and then crashed leaves it.
    os.utime(hidden(tmp_path) / part_name("default", "with"), (1000, 1000))

    found = {leftover.name: leftover for leftover in disk.leftovers()}

    assert {part_name("default", "with"), part_name("default", "without"), stray} == set(found)
    known = found[part_name("default", "with")]
    assert (known.root, known.path, known.durable_bytes) == ("default", "with", 6)
    assert known.modified_at_s > 1_700_000_000
    assert (found[stray].path, found[stray].durable_bytes) == ("", 0)
    assert all(disk.sweep(leftover) for leftover in found.values())
    assert names(tmp_path) == []


def test_two_roots_in_one_folder_do_not_call_each_others_parts_orphans(tmp_path):
    spec = RootSpec(path=str(tmp_path))
    disk = build({"one": spec, "two": spec})
    with disk.open_part("one", "a") as part:
        part.write(memoryview(b"1"))
        part.checkpoint(journal(1))

    assert [(leftover.root, leftover.path) for leftover in disk.leftovers()] == [("one", "a")]
    disk.close()


def test_the_journal_is_readable_by_people(disk, tmp_path):
    leave(disk, "a", b"0123456789", durable_bytes=6)

    document = json.loads((hidden(tmp_path) / (part_name("default", "a") + ".json")).read_text())

    assert document == {
        "root": "default",
        "path": "a",
        "url": "http://h/a",
        "final_url": "http://h/b",
        "total": None,
        "etag": '"1"',
        "last_modified": "x",
        "date": "y",
        "durable_bytes": 6,
    }


def test_free_space_is_that_of_the_parts_file_system(disk, tmp_path):
    space = os.statvfs(tmp_path)

    with disk.open_part("default", "a") as part:
        assert part._free_bytes() == pytest.approx(space.f_bavail * space.f_frsize, rel=0.1)


# ---------------------------------------------------------------- ranges behind the front


def with_ranges(durable_bytes: int, *ranges: tuple[int, int]) -> PartJournal:
    return replace(journal(durable_bytes, total=100), ranges=ranges)


def write_ranges(disk: DownloadDisk, *, checkpoint: bool = True) -> None:
    """Leave ten bytes at the front, and ten more behind each of two gaps."""
    with disk.open_part("default", "a") as part:
        for start in (60, 0, 30):
            part.write_at(memoryview(bytes([65 + start // 10]) * 10), start)
        part.advance(10)
        if checkpoint:
            part.checkpoint(with_ranges(10, (30, 40), (60, 70)))


def test_ranges_outlive_a_crash_and_the_gaps_are_not_read(tmp_path, disk) -> None:
    write_ranges(disk)
    (part_file,) = [file for file in hidden(tmp_path).iterdir() if not file.suffix]
    assert part_file.stat().st_size == 70
    with disk.open_part("default", "a") as part:
        assert part.journal == with_ranges(10, (30, 40), (60, 70))
        assert part.size_bytes == 10
        buffer = memoryview(bytearray(100))
        assert part.readinto(buffer, 0) == 10
        assert part.readinto(buffer, 10) == 0
        part.write(memoryview(b"-" * 20))
        part.advance(40)
        assert part.readinto(buffer, 30) == 10
        assert bytes(buffer[:10]) == b"D" * 10


def test_what_no_journal_speaks_of_is_cut_off(tmp_path, disk) -> None:
    write_ranges(disk)
    with disk.open_part("default", "a") as part:
        part.write_at(memoryview(b"x" * 10), 90)
    (part_file,) = [file for file in hidden(tmp_path).iterdir() if not file.suffix]
    assert part_file.stat().st_size == 70
    write_ranges(disk, checkpoint=False)
    with disk.open_part("default", "a") as part:
        part.truncate()
        part.write_at(memoryview(b"x" * 10), 90)
    assert part_file.stat().st_size == 0


def test_a_part_that_is_shorter_than_its_ranges_is_begun_anew(tmp_path, disk) -> None:
    write_ranges(disk)
    (part_file,) = [file for file in hidden(tmp_path).iterdir() if not file.suffix]
    os.truncate(part_file, 69)
    assert next(iter(disk.leftovers())).durable_bytes == 0
    with disk.open_part("default", "a") as part:
        assert (part.journal, part.size_bytes) == (None, 0)


def test_cutting_a_part_forgets_the_ranges_that_are_cut_off(disk) -> None:
    write_ranges(disk)
    with disk.open_part("default", "a") as part:
        part.truncate(10)
        assert part.journal is None
    write_ranges(disk)
    with disk.open_part("default", "a") as part:
        part.checkpoint(with_ranges(10))
        part.truncate(10)
        assert part.journal == with_ranges(10)


def test_ranges_count_as_what_a_part_holds(disk) -> None:
    write_ranges(disk)
    assert next(iter(disk.leftovers())).durable_bytes == 30


@pytest.mark.parametrize(
    "ranges",
    [[[5, 20]], [[10, 20]], [[30, 20]], [[30, 101]], [[40, 50], [30, 35]], [[1]], [3], [["a", 1]]],
    ids=str,
)
def test_a_journal_with_ranges_that_cannot_be_is_not_believed(tmp_path, disk, ranges) -> None:
    write_ranges(disk)
    (file,) = hidden(tmp_path).glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ranges": ranges}))
    with disk.open_part("default", "a") as part:
        assert part.journal is None


def test_a_journal_of_an_older_fetchd_has_no_ranges(tmp_path, disk) -> None:
    leave(disk, "a", b"0123456789", durable_bytes=10)
    (file,) = hidden(tmp_path).glob("*.json")
    assert "ranges" not in json.loads(file.read_text())
    with disk.open_part("default", "a") as part:
        assert part.journal is not None
        assert part.journal.ranges == ()


# ---------------------------------------------------------------- what a repair needs to know


def test_a_journal_keeps_seams_and_how_far_a_repair_has_come(disk):
    said = replace(
        journal(10, 10),
        seams=(4, 7),
        mixed=True,
        mending=Mending(
            url="http://m/a", validator=Validator(etag='"2"'), compared=((0, 2), (4, 6))
        ),
    )
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"0123456789"))
        part.checkpoint(said)

    with disk.open_part("default", "a") as part:
        assert part.journal == said


def test_a_journal_without_them_is_written_as_ever(disk, tmp_path):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"0123456789"))
        part.checkpoint(journal(10, 10))

    (file,) = hidden(tmp_path).glob("*.json")
    assert not {"seams", "mixed", "mending", "ranges"} & json.loads(file.read_text()).keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"seams": [0]},
        {"seams": ["4"]},
        {"seams": [True]},
        {"mending": {}},
        {"mending": {"url": "u", "compared": [[5, 4]]}},
        {"mending": {"url": "u", "compared": [[0, 11]]}},
    ],
    ids=str,
)
def test_a_journal_with_a_flaw_in_them_vouches_for_nothing(disk, tmp_path, wrong):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"0123456789"))
        part.checkpoint(journal(10, 10))
    (file,) = hidden(tmp_path).glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))

    with disk.open_part("default", "a") as part:
        assert (part.journal, part.size_bytes) == (None, 0)


def test_bytes_that_are_overwritten_leave_the_length_as_it_is(disk):
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"0123456789"))
        part.overwrite(memoryview(b"xyz"), 4)
        part.checkpoint(journal(10, 10))

    assert content(disk, "a") == b"0123xyz789"


# ---------------------------------------------------------------- small files, kept at once


@pytest.fixture
def roomy(tmp_path, system, monkeypatch):
    """A disk that has just been seen to have plenty of room."""
    monkeypatch.setattr(system, "device", lambda fd: os.fstat(fd).st_dev)
    monkeypatch.setattr(space, "_AMPLE_BYTES", 0)
    monkeypatch.setattr(space, "_BELIEVED_S", 3600.0)
    disk = build({"default": RootSpec(path=str(tmp_path))}, system)
    with disk.open_part("default", "other") as other:
        other.claim(0)
        other.discard()
    yield disk
    disk.close()


def test_a_small_file_becomes_a_part_like_any_other_in_one_call(roomy, tmp_path):
    fresh = roomy.fresh("default", "a")

    assert fresh.keep(memoryview(b"data"))
    assert names(tmp_path) == [part_name("default", "a")] == [fresh.name]
    found = (hidden(tmp_path) / fresh.name).stat()
    assert fresh.identity() == (found.st_dev, found.st_ino)
    assert (fresh.size_bytes, fresh.home) == (4, "")
    with roomy.open_part("default", "a") as part:  # without a journal it vouches for nothing
        assert (part.identity(), part.size_bytes) == (fresh.identity(), 0)


def test_a_file_is_not_fresh_where_something_stands_or_lies_or_nothing_may_be_written(
    roomy, system, tmp_path
):
    (tmp_path / "stands").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    leave(roomy, "lies", b"x")

    assert [roomy.fresh("default", path) for path in ("stands", "link", "lies")] == [None] * 3
    system.writable = False
    assert roomy.fresh("default", "a") is None
    with pytest.raises(AttemptError) as caught:
        roomy.fresh("default", "../a")
    assert caught.value.code == "dest_denied"


def test_d01_a_file_is_not_fresh_while_it_is_not_known_that_room_is_plenty(
    roomy, disk, monkeypatch
):
    fresh = roomy.fresh("default", "a")
    monkeypatch.setattr(space, "_AMPLE_BYTES", 2**63)

    assert disk.fresh("default", "a") is None
    assert not fresh.keep(memoryview(b"data"))


def test_d13_who_has_begun_the_part_since_keeps_it(roomy, tmp_path):
    fresh = roomy.fresh("default", "a")
    with roomy.open_part("default", "a") as part:
        part.write(memoryview(b"theirs"))

        with pytest.raises(PartBusy):
            fresh.keep(memoryview(b"data"))
    with pytest.raises(PartBusy):
        fresh.keep(memoryview(b"data"))

    assert (hidden(tmp_path) / fresh.name).read_bytes() == b"theirs"


@pytest.mark.parametrize("meanwhile", ["written", "published", "swept"])
def test_a_part_that_another_process_had_before_it_was_locked_is_left_alone(
    roomy, tmp_path, monkeypatch, meanwhile
):
    fresh = roomy.fresh("default", "a")
    made = hidden(tmp_path) / fresh.name
    flock = fcntl.flock

    def late(fd, how):
        if meanwhile == "written":
            made.write_bytes(b"theirs")
        elif meanwhile == "published":
            os.link(made, tmp_path / "a")
        else:
            made.unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(PartBusy):
        fresh.keep(memoryview(b"data"))

    left = [file.read_bytes() for file in (made, tmp_path / "a") if file.exists()]
    assert left == {"written": [b"theirs"], "published": [b"", b""], "swept": []}[meanwhile]


def test_the_journal_of_a_part_that_somebody_has_removed_goes_durably(roomy, system, tmp_path):
    leave(roomy, "a", b"old bytes", 9)
    (hidden(tmp_path) / part_name("default", "a")).unlink()
    system.calls.clear()

    assert roomy.fresh("default", "a").keep(memoryview(b"new"))

    assert names(tmp_path) == [part_name("default", "a")]
    assert system.calls == ["unlink .json", "fsync", "write"]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "disk_error")]
)
def test_d04_a_small_file_that_cannot_be_written_leaves_nothing(
    roomy, system, tmp_path, number, code
):
    system.faults["write"] = [None, number]
    system.most_bytes = 2

    with pytest.raises(AttemptError) as caught:
        roomy.fresh("default", "a").keep(memoryview(b"data"))

    assert caught.value.code == code
    assert names(tmp_path) == []
