from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from fetchd.folder.readiness import LATEST_S, SOONEST_S, STILL_S, has_writer, wait_s


@pytest.fixture
def reading(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("url: x\n")
    fd = os.open(path, os.O_RDONLY)
    yield path, fd
    os.close(fd)


def test_a_file_that_nobody_writes_is_proved_complete_at_once(reading):
    _, fd = reading

    assert has_writer(fd) is False
    assert wait_s(fd, 0.0, provable=True) == 0.0


@pytest.mark.parametrize("mode", ["w", "a", "r+"], ids=["F01-truncated", "F01-grows", "F01-edited"])
def test_a_file_that_is_open_for_writing_is_not_complete_until_it_is_closed(reading, mode):
    path, fd = reading

    with path.open(mode):
        during = has_writer(fd), wait_s(fd, 0.0, provable=True) > 0
    after = has_writer(fd)

    assert during == (True, True)
    assert after is False


def test_another_reader_is_no_writer(reading):
    path, fd = reading

    with path.open():
        assert has_writer(fd) is False


def test_a_writable_mapping_counts_as_a_writer_after_its_file_was_closed(reading):
    path, fd = reading
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)

    during = has_writer(fd)
    mapping.close()

    assert during is True
    assert has_writer(fd) is False


def test_where_nothing_can_be_proved_a_file_is_complete_after_two_seconds_of_silence(reading):
    _, fd = reading

    waits = [wait_s(fd, unchanged_s, provable=False) for unchanged_s in (0.0, 0.5, 1.9, 2.0, 9.0)]

    assert waits == pytest.approx([STILL_S, 1.5, 0.1, 0.0, 0.0])


def test_a_lease_that_cannot_be_had_says_nothing():
    read, write = os.pipe()  # no regular file: the kernel answers EINVAL

    try:
        assert has_writer(read) is None
        assert wait_s(read, 0.0, provable=True) == STILL_S
    finally:
        os.close(read)
        os.close(write)


def test_a_long_writer_is_asked_about_ever_more_rarely(reading):
    path, fd = reading

    with path.open("a"):
        waits = [wait_s(fd, age_s, provable=True) for age_s in (0.0, 1.0, 3600.0)]

    assert waits == [SOONEST_S, 0.5, LATEST_S]


def test_a_writer_that_comes_during_the_proof_neither_kills_us_nor_fails(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("url: x\n")
    # A process of its own, for the default action of the kernel's signal is to end it. The lease
    # is held until the writer has broken it; has_writer itself gives it back within microseconds.
    prover = """
import fcntl, os, subprocess, sys
from fetchd.folder import readiness
give_back, waited = readiness.fcntl.F_UNLCK, []
class Slow:
    def __getattr__(self, name):
        return getattr(fcntl, name)
    def fcntl(self, fd, what, how):
        if (what, how) == (fcntl.F_SETLEASE, give_back):
            writer = subprocess.Popen(["sh", "-c", "echo more >> " + sys.argv[1]])
            while fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                pass
            waited.append(writer)
        return fcntl.fcntl(fd, what, how)
readiness.fcntl = Slow()
fd = os.open(sys.argv[1], os.O_RDONLY)
assert readiness.has_writer(fd) is False
assert waited[0].wait(10) == 0
"""

    ended = subprocess.run([sys.executable, "-c", prover, str(path)], timeout=20, check=False)

    assert ended.returncode == 0
    assert path.read_text() == "url: x\nmore\n"
