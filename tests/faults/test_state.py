"""What can happen to the database and its folder, to a real daemon."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files, wait_until

BODY = content("state", 50_000)


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


@pytest.fixture
def server():
    with Server(fallback=file(BODY)) as made:
        yield made


def database(daemon: DaemonProcess) -> Path:
    return daemon.state / "fetchd.db"


def said(daemon: DaemonProcess) -> str:
    text = daemon.log.read_text()
    assert "Traceback" not in text
    return text


def started(daemon: DaemonProcess) -> None:
    known = len(daemon.events("service.started")) if daemon.log.exists() else 0
    daemon.start()
    wait_until(
        lambda: daemon.log.exists() and len(daemon.events("service.started")) > known,
        what="the start",
    )


def test_s01_a_database_that_is_locked_for_a_while_is_waited_for(daemon, server):
    started(daemon)
    other = sqlite3.connect(database(daemon), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    with pytest.raises(AssertionError, match="in vain"):
        wait_until(lambda: (daemon.jobs / "active/a.yaml").exists(), 1.5)

    other.execute("ROLLBACK")
    other.close()

    wait_until(lambda: daemon.ended("a"), what="the job")
    assert daemon.terminate() == 0


@pytest.mark.slow
def test_s01_a_database_that_stays_locked_ends_the_daemon_and_nothing_is_lost(daemon, server):
    started(daemon)
    other = sqlite3.connect(database(daemon), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")

    code = daemon.wait()
    other.close()
    again = daemon.run_once()

    assert (code, again) == (70, 0)
    (failed,) = daemon.events("service.failed")
    assert "database is locked" in failed["reason"]
    assert (daemon.downloads / "a").read_bytes() == BODY


def test_s02_one_bad_page_is_found_at_the_start_and_the_file_is_left_as_it_is(daemon, server):
    lines = "".join(server.url(f"/{number}") + "\n" for number in range(300))
    daemon.drop("many.urls", lines)
    assert daemon.run_once() == 0
    damaged = bytearray(database(daemon).read_bytes())
    assert len(damaged) > 20 * 4096
    damaged[10 * 4096 : 11 * 4096] = b"\xa5" * 4096
    database(daemon).write_bytes(damaged)

    code = daemon.start().wait()

    assert code == 78
    assert "restore it from a backup" in said(daemon)
    assert database(daemon).read_bytes() == damaged


def test_s03_without_its_log_the_database_is_what_sqlite_makes_of_it_and_jobs_go_on(daemon, server):
    server.fallback = file(BODY, rate=20_000)
    started(daemon)
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    wait_until(lambda: server.requests, what="the request")
    daemon.kill()
    Path(f"{database(daemon)}-wal").unlink()
    server.fallback = file(BODY)

    assert daemon.run_once() in {0, 78}
    if "restore it" not in said(daemon):
        assert (daemon.downloads / "a").read_bytes() == BODY


def test_s03_the_log_of_another_database_never_passes_unseen(daemon, server, tmp_path):
    with DaemonProcess(tmp_path / "other") as other:
        started(other)
        other.drop("x.yaml", f"url: {server.url('/x')}\n")
        wait_until(lambda: other.ended("x"), what="the other's job")
        other.kill()
    assert daemon.run_once() == 0
    shutil.copy(f"{database(other)}-wal", f"{database(daemon)}-wal")
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")

    code = daemon.run_once()

    said(daemon)
    assert code in {0, 78}
    if code == 0:
        assert (daemon.downloads / "a").read_bytes() == BODY


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_s07_a_database_that_loses_its_name_ends_the_daemon_before_it_accepts_more(
    daemon, server, how
):
    started(daemon)
    database(daemon).rename(daemon.base / "away.db")
    if how == "replaced":
        shutil.copy(daemon.base / "away.db", database(daemon))

    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    code = daemon.wait(10)
    requested = len(server.requests)
    if how == "unlinked":  # its log alone would be refused: it may hold what nobody else knows
        assert daemon.run_once() == 78
        (daemon.base / "away.db").rename(database(daemon))
    again = daemon.run_once()

    assert (code, again) == (70, 0)
    assert not requested
    (failed,) = daemon.events("service.failed")
    assert "was removed or replaced" in failed["reason"]
    assert (daemon.downloads / "a").read_bytes() == BODY


def test_s07_an_idle_daemon_notices_too(daemon):
    started(daemon)
    database(daemon).unlink()

    assert daemon.wait(10) == 70


def test_d15_what_was_done_and_is_gone_or_changed_is_not_fetched_again_by_a_restart(daemon, server):
    daemon.drop("a.yaml", f"urls: [{server.url('/gone')}, {server.url('/changed')}]\n")
    assert daemon.run_once() == 0
    asked = len(server.requests)
    (daemon.downloads / "gone").unlink()
    (daemon.downloads / "changed").write_bytes(b"by somebody else")

    assert daemon.run_once() == 0
    assert len(server.requests) == asked == 2
    assert [path.name for path in visible_files(daemon.downloads)] == ["changed"]
    assert (daemon.downloads / "changed").read_bytes() == b"by somebody else"


@pytest.fixture
def mounted(tmp_path):
    """Mount small file systems for the test: ``mounted(name, options)``."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    made: list[Path] = []

    def mount(name: str, options: str) -> Path:
        folder = Path(tmp_path, name)
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield mount
    for folder in reversed(made):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_s10_a_state_folder_that_is_read_only_is_78_with_its_path(daemon, mounted):
    daemon.state = mounted("state", "ro,size=1m")

    code = daemon.start().wait()

    assert code == 78
    assert str(daemon.state) in said(daemon)


@pytest.mark.slow  # a full disk is looked at each 30 s
def test_d02_without_inodes_a_task_waits_and_finishes_when_there_are_some(daemon, server, mounted):
    small = mounted("small", "nr_inodes=6,size=10m")
    filler = [small / f"filler{number}" for number in range(20)]
    daemon.settings += [f"roots.small={small}", "disk.reserve=0"]
    started(daemon)
    try:
        for path in filler:
            path.touch()
    except OSError:
        pass
    daemon.drop("a.yaml", f"url: {server.url('/a')}\nroot: small\n")
    wait_until(lambda: (daemon.report("a") or {}).get("waiting") == {"disk": 1}, what="the wait")
    code = daemon.terminate()
    for path in filler:
        path.unlink(missing_ok=True)
    remount(small, "nr_inodes=100")

    again = daemon.run_once()

    assert (code, again) == (0, 0)
    assert (small / "a").read_bytes() == BODY


@pytest.mark.slow  # a disk that refuses is looked at each 30 s
def test_d06_tasks_of_a_root_that_becomes_read_only_wait_and_others_go_on(daemon, server, mounted):
    small = mounted("small", "size=10m")
    daemon.settings += [f"roots.small={small}", "disk.reserve=0"]
    started(daemon)
    remount(small, "ro")

    daemon.drop("a.yaml", f"url: {server.url('/a')}\nroot: small\nretry: {{attempts: 2}}\n")
    wait_until(lambda: (daemon.report("a") or {}).get("waiting") == {"disk": 1}, what="the wait")
    daemon.drop("b.yaml", f"url: {server.url('/b')}\n")
    wait_until(lambda: daemon.ended("b"), what="the job beside it")
    remount(small, "rw")
    wait_until(lambda: daemon.ended("a"), timeout_s=60.0, what="the job that waited")

    assert daemon.terminate() == 0
    assert (small / "a").read_bytes() == (daemon.downloads / "b").read_bytes() == BODY
    assert "Read-only file system" in said(daemon)


def test_d06_what_is_mounted_read_only_below_a_root_holds_up_only_what_goes_there(
    daemon, server, mounted
):
    daemon.downloads = mounted("root", "size=20m")
    inner = mounted("root/inner", "size=20m")
    daemon.settings.append("disk.reserve=0")
    started(daemon)
    remount(inner, "ro")

    lines = "".join(f"{server.url('/a')} inner/{number}\n" for number in range(20))
    daemon.drop("many.urls", lines)
    wait_until(lambda: daemon.events("root.full"), what="the eighth refusal")
    daemon.drop("b.yaml", f"url: {server.url('/b')}\n")
    wait_until(lambda: daemon.ended("b"), timeout_s=15.0, what="the job beside it")

    assert {event["home"] for event in daemon.events("root.full")} == {"inner"}
    assert not daemon.ended("many")
    assert daemon.terminate() == 0


def test_d06_a_root_that_is_read_only_at_the_start_is_78(daemon, mounted):
    daemon.downloads = mounted("small", "ro,size=1m")

    code = daemon.start().wait()

    assert code == 78
    assert str(daemon.downloads) in said(daemon)


def test_d09_a_file_below_another_mount_is_written_and_renamed_there(daemon, server, mounted):
    daemon.downloads = mounted("root", "size=10m")
    inner = mounted("root/inner", "size=10m")
    daemon.settings.append("disk.reserve=0")
    daemon.drop("a.yaml", f"url: {server.url('/a')}\ndest: inner\n")

    code = daemon.run_once()

    assert code == 0
    assert (inner / "a").read_bytes() == BODY
    assert (inner / ".fetchd/parts").is_dir()
    assert visible_files(daemon.downloads) == [inner / "a"]


class NobodysDaemon(DaemonProcess):
    def command(self, *more: str) -> list[str]:
        identity = ["--reuid=65534", "--regid=65534", "--clear-groups"]
        return ["setpriv", *identity, "--", *super().command(*more)]


@pytest.fixture
def nobodys():
    """A daemon without privileges, in a folder of its own."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("to become another user needs root and setpriv")
    with tempfile.TemporaryDirectory(prefix="fetchd-nobody-") as name:
        base = Path(name)
        base.chmod(0o755)
        with NobodysDaemon(base) as made:
            for folder in (made.jobs, made.downloads, made.state):
                folder.mkdir(exist_ok=True)
                os.chown(folder, 65534, 65534)
            if made.run_once():
                pytest.skip("this installation may not be read by another user")
            yield made


@pytest.mark.parametrize(
    "locked",
    [
        pytest.param("downloads/d", id="d07-folder"),
        pytest.param("downloads/.fetchd/parts", id="d07-parts"),
    ],
)
def test_a_folder_without_permission_fails_its_task_at_once_and_no_other(nobodys, server, locked):
    folder = nobodys.base / locked
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, *([folder.parent] if folder.parent.name == ".fetchd" else [])):
        os.chown(each, 65534, 65534)
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    nobodys.drop("a.yaml", f"url: {server.url('/a')}\ndest: d\n")

    code = nobodys.run_once()

    assert code == 1
    (line,) = nobodys.files("a")
    assert (line["detail"], line["attempts"]) == ("dest_denied", 1)
    assert "Permission denied" in line["reason"]
    assert not server.requests


def test_d07_a_file_of_another_user_is_replaced_where_the_folder_allows_it(nobodys, server):
    (nobodys.downloads / "a").write_bytes(b"root's")
    (nobodys.downloads / "a").chmod(0o600)
    nobodys.drop("a.yaml", f"url: {server.url('/a')}\nif_exists: overwrite\n")

    assert nobodys.run_once() == 0
    assert (nobodys.downloads / "a").read_bytes() == BODY


def test_s10_a_state_folder_of_another_user_is_78_with_its_path(nobodys):
    os.chown(nobodys.state, 0, 0)
    for path in nobodys.state.iterdir():
        os.chown(path, 0, 0)
        path.chmod(0o600)

    code = nobodys.start().wait()

    assert code == 78
    assert str(nobodys.state) in said(nobodys)
