from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from fetchd.disk import RootSpec, SystemOs, build
from fetchd.disk.space import Claim, Space
from fetchd.errors import AttemptError
from fetchd.model import Validator
from fetchd.ports import PartJournal
from harness import FakeClock

RESERVE = 1000


class SmallDisk(SystemOs):
    """A disk whose free space is set by hand; what is written to it is missing from that."""

    free = 0

    def free_bytes(self, fd):
        return self.free

    def write(self, fd, data, offset, /):
        written = super().write(fd, data, offset)
        self.free -= written
        return written

    def truncate(self, fd, size_bytes):
        self.free += os.fstat(fd).st_size - size_bytes
        super().truncate(fd, size_bytes)


@pytest.fixture
def system():
    return SmallDisk()


@pytest.fixture
def disk(tmp_path, system):
    made = build({"default": RootSpec(path=str(tmp_path))}, system, reserve_bytes=RESERVE)
    yield made
    made.close()


def test_a_claim_needs_the_reserve_what_came_before_and_itself():
    space = Space(RESERVE, FakeClock())
    first, second = Claim(device=1), Claim(device=1)

    assert space.claim(first, 300) == 1300
    assert space.claim(second, 50) == 1350
    assert space.claim(first, 200) == 1200  # it shrinks, and stays the first
    assert space.claim(first, 201) == 1251  # it grows, and is the last
    assert space.claim(second, 50) == 1050


def test_each_file_system_has_its_own_claims_and_what_is_dropped_counts_no_more():
    space = Space(0, FakeClock())
    here, there, later = Claim(device=1), Claim(device=2), Claim(device=1)

    assert [space.claim(claim, 100) for claim in (here, there, later)] == [100, 100, 200]
    space.drop(here)
    assert space.claim(later, 100) == 100


def test_d01_two_parts_that_fit_each_but_not_together_do_not_both_begin(disk, system):
    system.free = RESERVE + 150
    with disk.open_part("default", "a") as a, disk.open_part("default", "b") as b:
        a.claim(100)
        with pytest.raises(AttemptError, match="51 bytes are missing, 1150 are free, and 1100 of"):
            b.claim(51)
        b.claim(50)

        a.write(memoryview(bytes(100)))
        b.write(memoryview(bytes(30)))
        a.claim(0)
        b.claim(20)
        with pytest.raises(AttemptError) as caught:
            b.claim(21)
    assert caught.value.code == "disk_full"


def test_a_part_that_is_closed_claims_nothing(disk, system):
    system.free = RESERVE + 100
    with disk.open_part("default", "a") as a:
        a.claim(100)

    with disk.open_part("default", "b") as b:
        b.claim(100)


def test_what_is_cut_off_a_part_is_claimed_again(disk, system):
    system.free = RESERVE + 100
    with disk.open_part("default", "a") as a, disk.open_part("default", "b") as b:
        a.claim(100)
        a.write(memoryview(bytes(60)))
        a.truncate()

        with pytest.raises(AttemptError):
            b.claim(1)
        b.claim(0)


def test_where_space_is_lost_the_parts_that_came_first_go_on(disk, system):
    system.free = RESERVE + 300
    with disk.open_part("default", "a") as a, disk.open_part("default", "b") as b:
        a.claim(100)
        b.claim(100)

        system.free -= 150  # somebody else has filled it

        a.claim(100)
        with pytest.raises(AttemptError):
            b.claim(100)


def test_the_bytes_that_a_part_has_already_are_not_claimed(disk, system):
    system.free = RESERVE + 100
    journal = PartJournal(
        url="u", final_url="u", total=100, validator=Validator(etag='"1"'), durable_bytes=60
    )
    with disk.open_part("default", "a") as a:
        a.write(memoryview(bytes(60)))
        a.checkpoint(journal)
    system.free = RESERVE + 40

    with disk.open_part("default", "a") as a:
        a.claim(40)


def test_what_was_free_a_moment_ago_is_believed_only_briefly_and_only_where_it_is_a_lot():
    clock = FakeClock()
    space = Space(RESERVE, clock)
    first, second = Claim(device=1), Claim(device=2)
    lot = 10 * 1024**3
    space.note_free(first, lot)
    space.note_free(second, 1024**3)

    believed = [space.is_ample(first, RESERVE), space.is_ample(first, lot - 1024**2)]
    believed.append(space.is_ample(second, RESERVE))
    clock.advance(0.2)

    assert [*believed, space.is_ample(first, RESERVE)] == [True, False, False, False]


def test_so_little_of_so_much_is_not_claimed_and_what_others_need_counts():
    clock = FakeClock()
    space = Space(RESERVE, clock)
    little, other = Claim(device=1), Claim(device=1)
    space.claim(other, 1024**3)
    space.note_free(little, RESERVE + 2 * 1024**3 + 64 * 1024)

    negligible = [space.is_negligible(little, size) for size in (0, 64 * 1024, 64 * 1024 + 1)]
    negligible.append(space.is_negligible(other, 0))  # it has claimed before
    space.claim(other, 1024**3 + 1)
    space.note_free(little, RESERVE + 2 * 1024**3 + 64 * 1024)
    negligible.append(space.is_negligible(little, 64 * 1024))
    clock.advance(0.2)

    assert [*negligible, space.is_negligible(little, 0)] == [True, True, False, False, False, False]


def test_d01_a_little_file_is_refused_as_soon_as_the_disk_is_seen_to_be_full(tmp_path, system):
    clock = FakeClock()
    root = {"default": RootSpec(path=str(tmp_path))}
    disk = build(root, system, reserve_bytes=RESERVE, clock=clock)
    system.free = RESERVE + 10 * 1024**3
    with disk.open_part("default", "a") as a, disk.open_part("default", "b") as b:
        a.claim(1)
        system.free = RESERVE
        b.claim(1)  # as was free a moment ago
        clock.advance(0.2)

        with pytest.raises(AttemptError, match="1 bytes are missing"):
            b.claim(1)
    disk.close()


# ---------------------------------------------------------------- room that the file system keeps

LARGE = 8 * 1024**2


class Reserving(SmallDisk):
    """What is reserved is missing from what is free, too."""

    error: int | None = None

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}

    def allocate(self, fd, offset, size_bytes):
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().allocate(fd, offset, size_bytes)
        self.free -= size_bytes
        self.ends[fd] = offset + size_bytes

    def write(self, fd, data, offset, /):
        written = super().write(fd, data, offset)
        if offset + written <= self.ends.get(fd, 0):
            self.free += written
        return written

    def truncate(self, fd, size_bytes):
        written_bytes = os.fstat(fd).st_size
        self.free += max(0, self.ends.pop(fd, 0) - written_bytes)
        super().truncate(fd, size_bytes)


@pytest.fixture
def reserving(tmp_path):
    system = Reserving()
    system.free = RESERVE + LARGE
    made = build({"default": RootSpec(path=str(tmp_path))}, system, reserve_bytes=RESERVE)
    yield made, system, tmp_path
    made.close()


def kept_by_the_file_system(folder, part):
    return (folder / ".fetchd/parts" / part.name).stat().st_blocks * 512


def test_d01_the_room_of_a_large_part_is_reserved_and_its_length_is_what_was_written(reserving):
    disk, _, folder = reserving
    with disk.open_part("default", "a") as part:
        part.claim(LARGE)
        part.write(memoryview(b"x" * 100))
        part.claim(LARGE - 100)  # as at a checkpoint

        assert kept_by_the_file_system(folder, part) >= LARGE
        assert (folder / ".fetchd/parts" / part.name).stat().st_size == 100


def test_d01_what_was_reserved_and_not_used_is_free_when_the_part_is_closed(reserving):
    disk, _, folder = reserving
    with disk.open_part("default", "a") as part:
        part.claim(LARGE)
        part.write(memoryview(b"x" * 100))

    assert kept_by_the_file_system(folder, part) < LARGE


def test_d01_what_a_crash_has_left_reserved_is_free_when_the_part_is_opened_again(reserving):
    disk, _, folder = reserving
    journal = PartJournal(
        url="u", final_url="u", total=LARGE, validator=Validator(), durable_bytes=100
    )
    with disk.open_part("default", "a") as part:
        part.write(memoryview(b"x" * 100))
        part.checkpoint(journal)
    path = folder / ".fetchd/parts" / part.name
    fd = os.open(path, os.O_RDWR)
    SystemOs().allocate(fd, 100, LARGE)
    os.close(fd)
    left = kept_by_the_file_system(folder, part)

    with disk.open_part("default", "a") as part:
        assert left >= LARGE > kept_by_the_file_system(folder, part)
        assert part.size_bytes == 100


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EFBIG])
def test_a_file_system_that_reserves_nothing_is_written_without(reserving, error):
    disk, system, _ = reserving
    system.error = error
    with disk.open_part("default", "a") as part, disk.open_part("default", "b") as other:
        part.claim(LARGE)
        with pytest.raises(AttemptError, match="are missing"):  # it is claimed all the same
            other.claim(1)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_d01_room_that_the_file_system_refuses_to_reserve_is_waited_for(reserving, error):
    disk, system, _ = reserving
    system.error = error
    with disk.open_part("default", "a") as part, disk.open_part("default", "b") as other:
        with pytest.raises(AttemptError, match="reserving room") as caught:
            part.claim(LARGE)
        system.error = None
        other.claim(LARGE)

    assert caught.value.code == "disk_full"


def test_d01_a_large_part_that_begins_anew_claims_again_what_it_gives_back(reserving):
    disk, _, _ = reserving
    with disk.open_part("default", "a") as part, disk.open_part("default", "b") as other:
        part.claim(LARGE)
        part.write(memoryview(b"x" * 100))
        part.truncate()
        with pytest.raises(AttemptError, match="are missing"):
            other.claim(1)


def test_n20_what_is_moved_to_quarantine_keeps_its_bytes_and_no_other_room(reserving):
    disk, _, folder = reserving
    with disk.open_part("default", "a") as part:
        part.claim(LARGE)
        part.write(memoryview(b"x" * 100))
        kept = folder / part.quarantine()

    assert kept.read_bytes() == b"x" * 100
    assert kept.stat().st_blocks * 512 < LARGE


class Vast(Reserving):
    """A large disk on which nothing is really reserved; ``meanwhile`` is called while it is."""

    meanwhile: Callable[[], None] | None = None

    def allocate(self, fd, offset, size_bytes):
        self.free -= size_bytes
        if self.meanwhile is not None:
            call, self.meanwhile = self.meanwhile, None
            call()


@pytest.fixture
def vast(tmp_path):
    system = Vast()
    reserve_bytes = 10 * 1024**3
    root = {"default": RootSpec(path=str(tmp_path))}
    made = build(root, system, reserve_bytes=reserve_bytes, clock=FakeClock())
    yield made, system
    made.close()


def test_d01_parts_that_reserve_their_room_in_an_instant_leave_the_reserve_alone(vast):
    disk, system = vast
    system.free = 100 * 1024**3
    refused = 0
    with ExitStack() as parts:
        for name in "abcd":
            part = parts.enter_context(disk.open_part("default", name))
            try:
                part.claim(24 * 1024**3)
            except AttemptError:
                refused += 1

        assert (refused, system.free) == (1, 28 * 1024**3)


def test_d01_room_that_is_just_being_reserved_is_not_missing_twice(vast):
    disk, system = vast
    system.free = 21 * 1024**3
    with disk.open_part("default", "a") as a, disk.open_part("default", "b") as b:
        claiming = threading.Thread(target=b.claim, args=(1024,))
        system.meanwhile = claiming.start
        a.claim(10 * 1024**3)
        claiming.join(20.0)

        assert b._claim.missing_bytes == 1024
