"""Files below a root as sources: what may be opened, and that one version is read or none."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fetchd import transports
from fetchd.clock import Clock, Failpoints, SystemClock
from fetchd.disk import DownloadDisk, RootSpec, SystemOs, build
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import (
    Attempt,
    Failure,
    Fetched,
    Interrupted,
    Item,
    Outcome,
    Progress,
    TaskGroup,
    TaskSpec,
    Validator,
)
from fetchd.ports import RangeRefused, Request
from fetchd.transfer import Transfer
from fetchd.transports.file import FileStream
from harness import ONE_CORE, FakeClock, first_fetch

BODY = os.urandom(300_000)
A_DAY_S = 86400.0
#: Whoever is not back by then waits for what does not come.
PATIENCE_S = 30.0


class FaultyOs(SystemOs):
    def __init__(self) -> None:
        self.before_read: Callable[[], None] = lambda: None

    def read(self, fd: int, buffer: memoryview, offset: int, /) -> int:
        self.before_read()
        return super().read(fd, buffer[: 64 * 1024], offset)


def open_descriptors() -> int:
    gc.collect()  # what an earlier test has left may not go meanwhile
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class House:
    """Two roots, one of them full of things that a URL may name."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.system = FaultyOs()
        self.src = folder / "src"
        self.disk: DownloadDisk = build(
            {
                "default": RootSpec(path=str(folder / "downloads")),
                "src": RootSpec(path=str(self.src)),
            },
            self.system,
        )
        self.net = transports.build(
            [],
            proxy=None,
            ca=None,
            redirects=0,
            workers=1,
            clock=clock,
            files=self.disk,
        )
        self.file = self.src / "sub/a.bin"
        self.file.parent.mkdir()
        self.file.write_bytes(BODY)

    def ask(self, wanted: Callable[[], bool] = lambda: True, **asked) -> FileStream:
        usual: dict[str, Any] = {"url": f"file://{self.file}", "connect_s": 5.0, "stall_s": 5.0}
        stream = self.net.open(Request(**(usual | asked)), wanted)
        assert isinstance(stream, FileStream)
        return stream

    def read(self, stream: FileStream) -> bytes:
        data, buffer = bytearray(), memoryview(bytearray(1024 * 1024))
        with closing(stream):
            while count := stream.readinto(buffer):
                data += buffer[:count]
        return bytes(data)

    def refusal(self, path: Path | str, **asked) -> AttemptError:
        before = open_descriptors()
        with pytest.raises(AttemptError) as caught:
            self.ask(url=f"file://{path}", **asked)
        assert open_descriptors() == before
        return caught.value

    def close(self) -> None:
        self.net.close()
        self.disk.close()


@pytest.fixture
def house(tmp_path: Path):
    made = House(tmp_path, SystemClock())
    yield made
    made.close()


def test_a_file_below_a_root_comes_whole_with_its_size_and_a_strong_validator(house):
    os.utime(house.file, (0, 1_700_000_000))

    stream = house.ask()

    assert (stream.start, stream.total, stream.framed) == (0, len(BODY), True)
    assert (stream.not_modified, stream.content_type) == (False, None)
    assert stream.validator.etag.startswith('"')
    assert stream.validator.last_modified == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert stream.final_url == f"file://{house.file}"
    assert house.read(stream) == BODY


def test_an_empty_file_is_a_file(house):
    house.file.write_bytes(b"")

    stream = house.ask()

    assert (stream.total, house.read(stream)) == (0, b"")


def test_nothing_stays_open_behind_a_stream(house):
    before = open_descriptors()

    stream = house.ask()
    house.read(stream)
    house.read(house.ask(unless=stream.validator))
    with pytest.raises(RangeRefused):
        house.ask(start=len(BODY))

    assert open_descriptors() == before


def test_bytes_in_names_that_are_not_utf_8_are_found(house):
    (house.src / "caf\udce9 1").write_bytes(b"x")

    assert house.read(house.ask(url=f"file://{house.src}/caf%E9%201")) == b"x"


# ---------------------------------------------------------------- what may not be opened


@pytest.mark.parametrize("name", ["sub/none.bin", "none/a.bin", "sub/a.bin/none"])
def test_a_file_that_does_not_exist_is_not_found(house, name):
    error = house.refusal(house.src / name)

    assert (error.code, error.transient) == ("not_found", False)
    assert f"src:{name}: there is no " in error.reason


def test_what_is_outside_every_root_is_denied_and_the_way_in_is_named(house):
    (house.folder / "secret").write_bytes(b"x")
    (house.folder / "src-not").mkdir()

    for path in ("secret", "src-not/a", "src-not"):
        error = house.refusal(house.folder / path)
        assert (error.code, error.transient) == ("source_denied", False)
        assert "add its folder to `roots`" in error.reason


def test_t2_the_rest_of_the_machine_cannot_be_copied(house):
    assert house.refusal("/etc/passwd").code == "source_denied"


def test_links_are_not_followed_wherever_they_lead(house):
    (house.src / "link").symlink_to(house.file)
    (house.src / "folder").symlink_to(house.file.parent)
    (house.src / "out").symlink_to("/etc")

    for name in ("link", "folder/a.bin", "out/passwd"):
        error = house.refusal(house.src / name)
        assert error.code == "source_denied"
        assert "is a symbolic link, which is not followed" in error.reason
        assert "make that one's folder a root" in error.reason


def test_dots_are_refused_by_the_disk_too(house):
    for path in (f"{house.src}/../secret", f"{house.src}/./sub", f"{house.src}//sub"):
        with pytest.raises(AttemptError) as caught:
            house.disk.open_file(path)
        assert caught.value.code == "source_denied"


def test_parts_are_not_shown(house):
    with house.disk.open_part("src", "b.bin") as part:
        path = house.src / ".fetchd/parts" / part.name
        assert path.exists()

        error = house.refusal(path)

    assert error.code == "source_denied"
    assert "'.fetchd' is not allowed" in error.reason


@pytest.mark.parametrize("kind", ["folder", "root", "pipe", "socket"])
def test_what_is_no_regular_file_is_denied_and_nobody_waits_for_it(house, kind):
    path = house.src / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "root":
        path = house.src
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))

    refusals: list[AttemptError] = []

    def ask() -> None:
        refusals.append(house.refusal(path, connect_s=A_DAY_S, stall_s=A_DAY_S))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)

    assert not asking.is_alive()  # as one that waits for a writer is, or for the time-outs
    assert [error.code for error in refusals] == ["source_denied"]


def test_a_file_that_may_not_be_read_is_denied(house, monkeypatch):
    def refuse(path, flags, mode=0o666, *, dir_fd=None):
        if path == "a.bin":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return SystemOs.open(house.system, path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(house.system, "open", refuse)

    error = house.refusal(house.file)

    assert (error.code, error.transient) == ("source_denied", False)
    assert "Permission denied; check kind, owner and mode of 'a.bin'" in error.reason


def test_the_innermost_root_is_the_one_that_is_walked(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f").write_bytes(b"x")
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/inner").symlink_to(tmp_path / "elsewhere")
    disk = build(
        {
            "default": RootSpec(path=str(tmp_path / "outer")),
            "inner": RootSpec(path=str(tmp_path / "outer/inner")),
        }
    )

    with closing(disk), closing(disk.open_file(f"{tmp_path}/outer/inner/f")) as file:
        assert file.size_bytes == 1


def test_without_files_the_scheme_is_denied():
    net = transports.build([], proxy=None, ca=None, redirects=0, workers=1, clock=SystemClock())

    with closing(net), pytest.raises(AttemptError) as caught:
        net.open(Request(url="file:///etc/passwd", connect_s=1, stall_s=1), lambda: True)

    assert caught.value.code == "scheme_denied"


# ---------------------------------------------------------------- one version or none


def test_the_rest_is_given_while_the_version_is_the_same(house):
    with closing(house.ask()) as whole:
        condition = whole.validator.etag

    stream = house.ask(start=100_000, if_range=condition)

    assert (stream.start, stream.total) == (100_000, len(BODY))
    assert house.read(stream) == BODY[100_000:]


def test_p8_another_version_is_given_from_its_beginning(house):
    with closing(house.ask()) as whole:
        condition = whole.validator.etag
    house.file.write_bytes(BODY[::-1])

    stream = house.ask(start=100_000, if_range=condition)

    assert stream.start == 0
    assert house.read(stream) == BODY[::-1]


def test_a_rest_that_does_not_exist_is_refused_with_the_size(house):
    with pytest.raises(RangeRefused) as caught:
        house.ask(start=len(BODY))

    assert caught.value.total == len(BODY)


def test_an_unchanged_file_is_not_read_again(house):
    with closing(house.ask()) as whole:
        known = whole.validator

    same = house.ask(unless=known)
    other = house.ask(unless=Validator(etag='"x"', last_modified=known.last_modified))

    assert (same.not_modified, house.read(same)) == (True, b"")
    assert (other.not_modified, house.read(other)) == (False, BODY)


def overwrite(house: House) -> None:
    with house.file.open("r+b") as file:
        file.write(b"changed!")


def put_back(house: House) -> None:
    """Change the content, then make size and modification time what they were."""
    times = (house.file.stat().st_atime_ns, house.file.stat().st_mtime_ns)
    overwrite(house)
    os.utime(house.file, ns=times)


def grow(house: House) -> None:
    with house.file.open("ab") as file:
        file.write(b"more")


def shrink(house: House) -> None:
    os.truncate(house.file, 70_000)


@pytest.mark.parametrize("change", [overwrite, put_back, grow, shrink])
def test_a_file_that_changes_while_it_is_read_is_a_failure_that_may_pass(house, change):
    stream = house.ask()
    reads: list[None] = []

    def before_read() -> None:
        reads.append(None)
        if len(reads) == 2:
            time.sleep(0.02)  # the clock of a file system ticks
            change(house)

    house.system.before_read = before_read
    with pytest.raises(AttemptError) as caught:
        house.read(stream)

    assert (caught.value.code, caught.value.transient) == ("bad_response", True)


def test_a_disk_that_cannot_read_is_told(house):
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    house.system.before_read = fail
    with pytest.raises(AttemptError) as caught:
        house.read(house.ask())

    assert (caught.value.code, caught.value.transient) == ("source_error", True)
    assert "src:sub/a.bin: reading the source" in caught.value.reason


def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_opened_later(house, monkeypatch):
    def refuse(path, flags, mode=0o666, *, dir_fd=None):
        if path == "a.bin":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return SystemOs.open(house.system, path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(house.system, "open", refuse)

    error = house.refusal(house.file)

    assert (error.code, error.transient) == ("source_error", True)


# ---------------------------------------------------------------- time


def test_the_deadline_holds_between_reads(tmp_path):
    clock = FakeClock()
    with closing(House(tmp_path, clock)) as house:
        stream = house.ask(deadline_s=clock.monotonic() + 2.0)
        house.system.before_read = lambda: clock.advance(1.5)

        with pytest.raises(AttemptError) as caught:
            house.read(stream)

    assert caught.value.code == "deadline"


def test_a_copy_that_nobody_wants_ends(house):
    wanted = [True]
    stream = house.ask(lambda: wanted[0])

    def before_read() -> None:
        wanted[0] = False
        time.sleep(0.6)

    house.system.before_read = before_read
    with pytest.raises(NotWanted):
        house.read(stream)


# ---------------------------------------------------------------- attempts


class Copying:
    """Attempts to copy the house's file; ``wanted`` False stops one at its next report."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.wanted = True
        self.transfer = Transfer(
            house.disk, house.net, self.report, SystemClock(), Failpoints(), ONE_CORE
        )

    def report(self, attempt: Attempt, progress: Progress) -> bool:
        return self.wanted

    def __call__(self) -> Outcome:
        url = f"file://{self.house.file}"
        group = TaskGroup(name="g", items=(Item(url=url),))
        spec = TaskSpec(key="a.bin", sources=(url,), path="a.bin")
        return self.transfer(first_fetch(group, spec, url))

    def stop_midway(self) -> None:
        reads: list[None] = []

        def before_read() -> None:
            reads.append(None)
            if len(reads) == 3:
                self.wanted = False
                time.sleep(0.3)

        self.house.system.before_read = before_read
        assert isinstance(self(), Interrupted)
        self.house.system.before_read = lambda: None
        self.wanted = True

    def copied(self, outcome: Outcome) -> bytes:
        assert isinstance(outcome, Fetched), outcome
        return (self.house.folder / "downloads/.fetchd/parts" / outcome.intent.part).read_bytes()


def test_a_copy_that_was_stopped_goes_on_where_it_was(house):
    copy = Copying(house)
    copy.stop_midway()

    outcome = copy()

    assert copy.copied(outcome) == BODY
    assert isinstance(outcome, Fetched)
    intent = outcome.intent
    assert 0 < intent.resumed_from_bytes < len(BODY)
    assert intent.resumed_from_bytes + intent.received_bytes == len(BODY)


@pytest.mark.parametrize("change", [overwrite, put_back, grow, shrink])
def test_p8_a_copy_that_was_stopped_begins_anew_when_its_source_has_changed(house, change):
    copy = Copying(house)
    copy.stop_midway()
    change(house)

    outcome = copy()

    assert copy.copied(outcome) == house.file.read_bytes()
    assert isinstance(outcome, Fetched)
    assert outcome.intent.resumed_from_bytes == 0


def test_a_source_that_changed_under_the_copy_costs_an_attempt_and_the_next_one_is_whole(house):
    copy = Copying(house)
    reads: list[None] = []

    def before_read() -> None:
        reads.append(None)
        if len(reads) == 2:
            time.sleep(0.02)
            overwrite(house)

    house.system.before_read = before_read
    failed = copy()
    whole = copy()

    assert isinstance(failed, Failure)
    assert (failed.code, failed.transient) == ("bad_response", True)
    assert copy.copied(whole) == house.file.read_bytes()


def test_d04_what_was_copied_stays_when_it_is_the_source_that_cannot_be_read(house):
    copy = Copying(house)
    reads: list[None] = []

    def before_read() -> None:
        reads.append(None)
        if len(reads) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    house.system.before_read = before_read
    failed = copy()
    whole = copy()

    assert isinstance(failed, Failure)
    assert (failed.code, failed.transient, failed.progressed) == ("source_error", True, True)
    assert copy.copied(whole) == BODY
    assert isinstance(whole, Fetched)
    assert whole.intent.resumed_from_bytes > 0
