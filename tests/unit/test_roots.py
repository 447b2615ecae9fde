from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.disk import RootSpec, SystemOs, build
from fetchd.disk.roots import Root, explain, held
from fetchd.errors import AttemptError, ConfigError
from fetchd.threads import Worker
from harness import FakeClock


class Recorder(SystemOs):
    """Notes what is synced, and refuses what it is told to refuse."""

    def __init__(self, refuse: dict[str, int] | None = None) -> None:
        self.synced: list[str] = []
        self._refuse = refuse or {}

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        if path in self._refuse:
            number = self._refuse[path]
            raise OSError(number, os.strerror(number))
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def fsync(self, fd: int) -> None:
        self.synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        super().fsync(fd)


def refusal(work) -> AttemptError:
    with pytest.raises(AttemptError) as caught:
        work()
    return caught.value


@pytest.fixture
def root(tmp_path: Path):
    made = Root("default", RootSpec(path=str(tmp_path / "root")), SystemOs())
    yield made
    made.close()


def walk(root: Root, path: str, *, make: bool = False) -> str:
    """Return where the destination's folder really is."""
    place = root.place(path, make=make)
    return str(Path(f"/proc/self/fd/{place.folder.fd}").readlink())


def test_missing_root_folders_are_made_and_synced_into_their_parents(tmp_path):
    system = Recorder()

    build({"default": RootSpec(path=str(tmp_path / "a/b"))}, system).close()

    assert (tmp_path / "a/b").is_dir()
    assert list((tmp_path / "a/b").iterdir()) == []
    assert [str(tmp_path), str(tmp_path / "a")] == system.synced


def test_a_root_that_is_a_file_is_a_configuration_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=f"root 'isos': {tmp_path}/file cannot be used"):
        build({"isos": RootSpec(path=str(tmp_path / "file"))})


def test_d06_a_root_that_cannot_be_written_is_a_configuration_error(tmp_path):
    system = Recorder({".": errno.EROFS})

    with pytest.raises(ConfigError, match=r"root 'isos': .* cannot be written: Read-only"):
        build({"isos": RootSpec(path=str(tmp_path))}, system)


class Onlooker(Recorder):
    """Notes what stands in a folder whenever anything is opened."""

    def __init__(self, folder: Path, refuse: dict[str, int] | None = None) -> None:
        super().__init__(refuse)
        self.folder = folder
        self.seen: set[str] = set()

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        fd = super().open(path, flags, mode, dir_fd=dir_fd)
        self.seen.update(entry.name for entry in self.folder.iterdir())
        return fd


@pytest.mark.parametrize("nameless", [True, False], ids=["O_TMPFILE", "without"])
def test_to_find_out_whether_a_root_can_be_written_nothing_is_ever_shown_in_it(tmp_path, nameless):
    system = Onlooker(tmp_path, {} if nameless else {".": errno.EOPNOTSUPP})

    build({"default": RootSpec(path=str(tmp_path), group=str(os.getgid()))}, system).close()

    assert system.seen == (set() if nameless else {".fetchd"})
    assert {path.name for path in tmp_path.rglob("*")} == system.seen


def test_what_a_killed_start_left_of_its_probe_is_removed_by_the_next(tmp_path):
    (tmp_path / ".fetchd").mkdir()
    (tmp_path / ".fetchd" / "probe").touch()

    build({"default": RootSpec(path=str(tmp_path))}, Recorder({".": errno.EOPNOTSUPP})).close()

    assert list((tmp_path / ".fetchd").iterdir()) == []


def test_a_root_that_cannot_be_written_is_found_out_without_nameless_files_too(tmp_path):
    class Denied(Recorder):
        def may_write(self, fd: int) -> bool:
            return False

    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        build({"default": RootSpec(path=str(tmp_path))}, Denied({".": errno.EOPNOTSUPP}))


def test_a_group_that_does_not_exist_is_a_configuration_error(tmp_path):
    spec = RootSpec(path=str(tmp_path), group="no-such-group-here")

    with pytest.raises(ConfigError, match="there is no group 'no-such-group-here'"):
        build({"default": spec})


def test_an_unknown_root_is_refused_by_name(tmp_path):
    disk = build({"default": RootSpec(path=str(tmp_path))})

    error = refusal(lambda: disk.existing("isos", "a"))

    assert (
        error.code,
        error.reason,
    ) == ("dest_denied", "root 'isos' is not configured; known: default")


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/./b", "a/", ".", "..", ".fetchd/parts/x",
     "a/.fetchd/x", "a\0b"],
)  # fmt: skip
def test_d12_a_path_that_could_leave_the_root_or_enter_the_hidden_folder_is_refused(root, path):
    assert refusal(lambda: walk(root, path)).code == "dest_denied"


@given(path=st.text(st.sampled_from("ab./\0\n-\udcff"), max_size=30))
@settings(derandomize=True, max_examples=200)
def test_rule_51_p19_no_path_leads_out_of_the_root(tmp_path_factory, path):
    base = tmp_path_factory.mktemp("world")
    (base / "outside").touch()
    root = Root("default", RootSpec(path=str(base / "root")), SystemOs())
    try:
        folder = walk(root, path, make=True)
    except AttemptError as exc:
        refused = exc.code
    else:
        refused = "dest_denied"
        assert folder == str(base / "root") or folder.startswith(f"{base}/root/")
    finally:
        root.close()
    assert refused == "dest_denied"
    assert sorted(file.name for file in base.iterdir()) == ["outside", "root"]


def test_a_symbolic_link_below_the_root_is_not_followed_and_the_way_out_is_named(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")

    for make in (False, True):
        error = refusal(lambda make=make: walk(root, "link/a", make=make))

        assert error.code == "dest_denied"
        assert "'link' is a symbolic link" in error.reason
        assert "a root of its own" in error.reason
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_root_that_is_itself_a_symbolic_link_is_the_operators_choice(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    root = Root("default", RootSpec(path=str(tmp_path / "link")), SystemOs())

    assert str(tmp_path / "real/a") == walk(root, "a/b", make=True)
    root.close()


def test_a_file_in_the_place_of_a_folder_is_a_conflict(root, tmp_path):
    (tmp_path / "root/a").touch()

    error = refusal(lambda: walk(root, "a/b"))

    assert error.code == "dest_conflict"
    assert error.reason == "default:a/b: the folder 'a': Not a directory"


def test_d08_a_root_that_was_renamed_is_still_the_same_folder(root, tmp_path):
    (tmp_path / "root").rename(tmp_path / "moved")
    (tmp_path / "root").symlink_to("/")

    assert str(tmp_path / "moved/a") == walk(root, "a/b", make=True)


def test_d08_a_root_that_was_removed_is_made_again(root, tmp_path):
    (tmp_path / "root").rmdir()

    assert walk(root, "a/b", make=True) == str(tmp_path / "root/a")


def test_d08_a_root_that_was_removed_and_cannot_be_made_is_a_clear_error_of_the_disk(
    root, tmp_path
):
    (tmp_path / "root").rmdir()
    (tmp_path / "root").touch()

    error = refusal(lambda: walk(root, "a/b", make=True))

    assert "the root" in error.reason
    assert "which was removed" in error.reason
    (tmp_path / "root").unlink()
    assert walk(root, "a/b", make=True) == str(tmp_path / "root/a")


def test_d08_a_known_folder_that_was_moved_away_is_not_used_any_more(root, tmp_path):
    walk(root, "a/b/file", make=True)
    (tmp_path / "root/a").rename(tmp_path / "away")

    assert root.place("a/b/file").missing
    assert walk(root, "a/b/file", make=True) == str(tmp_path / "root/a/b")


def test_d08_a_known_folder_in_whose_place_a_link_to_it_is_is_not_entered(root, tmp_path):
    walk(root, "a/b/file", make=True)
    (tmp_path / "root/a").rename(tmp_path / "away")
    (tmp_path / "root/a").symlink_to(tmp_path / "away")

    assert refusal(lambda: root.place("a/b/file")).code == "dest_denied"
    assert refusal(lambda: root.place("a/b/file", make=True)).code == "dest_denied"


def test_d08_known_folders_are_made_again_with_their_root(root, tmp_path):
    walk(root, "a/b/file", make=True)
    shutil.rmtree(tmp_path / "root")

    assert root.place("a/b/file").missing
    assert walk(root, "a/b/file", make=True) == str(tmp_path / "root/a/b")


def test_of_many_folders_few_are_kept_open_and_those_that_are_in_use(root, tmp_path):
    first = root.place("first/file", make=True)
    before = len(list(Path("/proc/self/fd").iterdir()))

    for number in range(200):
        walk(root, f"{number}/file", make=True)

    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
    assert os.fstat(first.folder.fd).st_ino == (tmp_path / "root/first").stat().st_ino
    assert walk(root, "0/file") == str(tmp_path / "root/0")


def test_d11_a_component_of_255_bytes_is_fine_and_one_of_256_is_denied(root):
    assert walk(root, "n" * 255 + "/x", make=True).endswith("n" * 255)

    error = refusal(lambda: walk(root, "n" * 256 + "/x", make=True))

    assert error.code == "dest_denied"
    assert "choose a shorter filename" in error.reason


def test_d11_a_path_longer_than_the_kernel_takes_at_once_is_walked(root):
    path = "/".join(["d" * 200] * 25 + ["file"])

    place = root.place(path, make=True)
    assert place.name == "file"
    place = root.place(path)
    assert not place.missing


def test_d11_bytes_that_are_not_utf_8_are_kept_and_shown_escaped(root, tmp_path):
    path = os.fsdecode(b"caf\xe9/x")

    walk(root, path, make=True)

    assert [os.fsencode(file.name) for file in (tmp_path / "root").iterdir()] == [b"caf\xe9"]
    (tmp_path / "root" / path).mkdir()
    assert r"default:caf\udce9/x: a folder" in refusal(lambda: existing(root, path)).reason


def test_every_new_folder_is_durable_in_its_parent_before_the_place_is_given(tmp_path):
    system = Recorder()
    root = Root("default", RootSpec(path=str(tmp_path)), system)

    walk(root, "a/b/file", make=True)
    first, system.synced = system.synced, []
    walk(root, "a/b/other", make=True)

    assert [str(tmp_path), str(tmp_path / "a")] == first
    assert system.synced == []
    root.close()


def test_a_folder_that_an_earlier_life_made_is_synced_once_too(tmp_path):
    (tmp_path / "a").mkdir()
    system = Recorder()
    root = Root("default", RootSpec(path=str(tmp_path)), system)

    walk(root, "a/file", make=True)

    assert [str(tmp_path)] == system.synced
    root.close()


def test_a_folder_that_is_made_again_is_synced_again(tmp_path):
    system = Recorder()
    root = Root("default", RootSpec(path=str(tmp_path)), system)

    for _ in range(2):
        walk(root, "a/file", make=True)
        (tmp_path / "a").rmdir()

    assert [str(tmp_path)] * 2 == system.synced
    root.close()


def test_folders_get_the_mode_of_the_root_with_x_where_there_is_r(tmp_path):
    spec = RootSpec(path=str(tmp_path), mode=0o640, group=str(os.getgid()))
    root = Root("default", spec, SystemOs())

    walk(root, "a/file", make=True)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750
    root.close()


def existing(root: Root, path: str):
    disk = build({"default": RootSpec(path=root.path)})
    try:
        return disk.existing("default", path)
    finally:
        disk.close()


def test_what_stands_at_a_destination_is_described(root, tmp_path):
    (tmp_path / "root/file").write_bytes(b"12345")
    (tmp_path / "root/dangling").symlink_to("nowhere")

    found = existing(root, "file")

    assert found is not None
    assert (5, (tmp_path / "root/file").stat().st_ino) == (found.size_bytes, found.inode)
    assert not found.link
    link = existing(root, "dangling")
    assert link is not None
    assert link.link
    assert existing(root, "none") is None
    assert existing(root, "none/none") is None


def test_d10_a_folder_or_a_pipe_at_the_destination_is_refused(root, tmp_path):
    (tmp_path / "root/folder").mkdir()
    os.mkfifo(tmp_path / "root/pipe")

    assert refusal(lambda: existing(root, "folder")).code == "dest_conflict"
    assert refusal(lambda: existing(root, "pipe")).code == "dest_denied"


@pytest.mark.parametrize(
    ("number", "code", "transient"),
    [
        (errno.ENOTDIR, "dest_conflict", False),
        (errno.EISDIR, "dest_conflict", False),
        (errno.EACCES, "dest_denied", False),
        (errno.EPERM, "dest_denied", False),
        (errno.EROFS, "disk_read_only", True),
        (errno.ENAMETOOLONG, "dest_denied", False),
        (errno.EXDEV, "dest_denied", False),
        (errno.ENOSPC, "disk_full", True),
        (errno.EDQUOT, "disk_full", True),
        (errno.EIO, "disk_error", True),
        (errno.ESTALE, "disk_error", True),
    ],
)
def test_every_error_of_the_disk_has_a_code_a_place_and_a_cause(number, code, transient):
    error = explain(OSError(number, os.strerror(number)), "default", "a/b", "writing")

    assert (code, transient) == (error.code, error.transient)
    assert error.reason.startswith(f"default:a/b: writing: {os.strerror(number)}")


def test_any_number_of_threads_may_make_the_same_folders(tmp_path):
    system = Recorder()
    root = Root("default", RootSpec(path=str(tmp_path)), system)
    paths = [f"a/{number % 5}/b/{number}/file" for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(lambda path: root.place(path, make=True), paths))

    for path, place in zip(paths, places, strict=True):
        assert (tmp_path / path).parent.stat().st_ino == os.fstat(place.folder.fd).st_ino
    made = {str(tmp_path / path).rsplit("/", 2)[0] for path in paths}
    assert made <= set(system.synced)
    root.close()


class Contended:
    """A lock that somebody else has until ``free`` is set."""

    def __init__(self) -> None:
        self.asked, self.free = threading.Event(), threading.Event()

    def acquire(self) -> None:
        self.asked.set()
        self.free.wait(10)

    def release(self) -> None:
        pass


def test_who_waits_for_another_to_make_folders_is_not_taken_for_stuck():
    lock, clock, died = Contended(), FakeClock(), []

    def work(me: Worker) -> None:
        me.beat()
        with held(lock):  # type: ignore[arg-type]
            pass

    worker = Worker("fetcher-0", work, clock, lambda _, exc: died.append(exc))
    worker.start()
    assert lock.asked.wait(10)
    clock.advance(300)
    age_s = worker.age_s()
    lock.free.set()

    assert worker.join(10)
    assert (age_s, died) == (0.0, [])
