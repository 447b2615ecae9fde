"""Roots and state as they are, for whoever may change nothing."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path

import pytest

from fetchd.clock import SystemClock
from fetchd.disk import RootSpec, build
from fetchd.disk.looking import ReadOnlyOs, StandingDisk
from fetchd.errors import AttemptError, StoreError
from fetchd.model import OriginRecord, Validator
from fetchd.ports import OriginKept, PartJournal
from fetchd.stores import SqliteStore
from fetchd.stores.looking import Records


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return all that is below a folder, by path: inode, time of change and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_ino,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def standing(tmp_path):
    """A root with a file and a part, only looked at; and one that is not there."""
    root = tmp_path / "root"
    with closing(build({"default": RootSpec(path=str(root))})) as disk:
        (root / "a.bin").write_bytes(b"standing")
        with disk.open_part("default", "sub/b.bin") as part:
            part.write(memoryview(b"12345"))
            part.checkpoint(
                PartJournal(
                    url="http://x/", final_url="", total=9, validator=Validator(), durable_bytes=5
                )
            )
    roots = {
        "default": RootSpec(path=str(root)),
        "missing": RootSpec(path=str(tmp_path / "none" / "here")),
    }
    with closing(StandingDisk(roots)) as looked:
        yield looked


def test_what_stands_and_what_is_held_is_seen_and_nothing_is_changed(standing, tmp_path):
    before = tree(tmp_path)

    found = standing.existing("default", "a.bin")
    assert found is not None
    assert found.size_bytes == 8
    assert standing.existing("default", "none/b") is None
    assert standing.held_bytes("default", "sub/b.bin") == 5
    assert standing.held_bytes("default", "a.bin") == 0
    with standing.read_existing("default", "a.bin") as slices:
        assert b"".join(map(bytes, slices)) == b"standing"
    standing.sync_existing("default", "sub/b.bin")

    assert tree(tmp_path) == before


def test_a_root_that_is_not_there_is_empty_and_has_the_room_of_the_folder_above(standing, tmp_path):
    assert standing.existing("missing", "a") is None
    assert not standing.stands("missing", "a", (), same=True)
    assert standing.held_bytes("missing", "a") == 0
    with pytest.raises(AttemptError, match="not there yet"):
        standing.open_below("missing", "a")
    room = standing.room("missing", "a")
    assert room.folder == str(tmp_path)
    assert room.device == standing.room("default", "a").device
    assert 0 < room.free_bytes <= room.capacity_bytes
    assert not (tmp_path / "none").exists()


def test_whatever_would_write_is_refused(standing, tmp_path):
    before = tree(tmp_path)
    system = ReadOnlyOs()
    fd = os.open(tmp_path, os.O_RDONLY)
    buffer = memoryview(bytearray(1))
    calls = [
        lambda: system.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=fd),
        lambda: system.open(".", os.O_WRONLY | os.O_TMPFILE, dir_fd=fd),
        lambda: system.mkdir("x", 0o700, dir_fd=fd),
        lambda: system.rename("root", "x", src_dir_fd=fd, dst_dir_fd=fd),
        lambda: system.rename_new("root", "x", src_dir_fd=fd, dst_dir_fd=fd),
        lambda: system.link("root/a.bin", "x", src_dir_fd=fd, dst_dir_fd=fd),
        lambda: system.unlink("root/a.bin", dir_fd=fd),
        lambda: system.write(fd, buffer, 0),
        lambda: system.truncate(fd, 0),
        lambda: system.allocate(fd, 0, 1),
        lambda: system.fsync(fd),
    ]
    try:
        for call in calls:
            with pytest.raises(OSError, match="Read-only"):
                call()
        with pytest.raises(AttemptError), standing.open_part("default", "c"):
            pass
    finally:
        os.close(fd)

    assert tree(tmp_path) == before


# ---------------------------------------------------------------- the state


def kept(path: Path) -> SqliteStore:
    """Return a store that has an origin on record."""
    store = SqliteStore(str(path), SystemClock(), lambda _: None)
    record = OriginRecord(origin="http://x:80", seen_at_s=5.0, bytes_per_s=1000.0, rates=1.0)
    store.record([OriginKept(record=record)])
    store.flush()
    return store


def test_the_state_is_read_while_a_daemon_works_on_it_and_after_it(tmp_path):
    path = tmp_path / "fetchd.db"
    store = kept(path)

    def files() -> dict[str, tuple[int, int, str]]:
        found = tree(tmp_path)
        found.pop("fetchd.db-shm", None)  # within one process both share its memory
        return found

    for again in range(2):
        before = files()
        with closing(Records(path)) as records:
            found = records.origin("http://x:80")
            assert found is not None
            assert found.bytes_per_s == 1000.0
            assert records.origin("http://y:80") is None
            assert records.file("default", "a") is None
            assert records.last_due_s("job") is None
            assert files() == before
        assert files() == before
        if not again:
            store.close()
    assert [one.name for one in tmp_path.iterdir()] == ["fetchd.db"]


def test_what_cannot_be_read_says_why_and_makes_nothing(tmp_path):
    with pytest.raises(StoreError, match="is not there"):
        Records(tmp_path / "fetchd.db")
    (tmp_path / "fetchd.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        Records(tmp_path / "fetchd.db")
    (tmp_path / "fetchd.db").write_bytes(b"")
    with pytest.raises(StoreError, match="schema version 0"):
        Records(tmp_path / "fetchd.db")

    assert [one.name for one in tmp_path.iterdir()] == ["fetchd.db"]
