"""Whatever happens to the database: a defined end, and never a silent new state."""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files, wait_until

LINES = 1000


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path / "one") as made:
        yield made


def said(daemon: DaemonProcess) -> str:
    text = daemon.log.read_text()
    assert "Traceback" not in text
    return text


def killed_in_the_midst(daemon: DaemonProcess, server: Server, name: str) -> None:
    """Let the daemon die while it works on a list, so that a log is left beside the database."""
    daemon.start()
    urls = "".join(f"{server.url(f'/{name}-{n}.bin')}\n" for n in range(LINES))
    daemon.drop(f"{name}.urls", urls)
    wait_until(lambda: len(visible_files(daemon.downloads)) > 20, what="some files")
    daemon.kill()
    assert (daemon.state / "fetchd.db-wal").stat().st_size > 0


def test_s02_one_bad_page_is_found_at_the_start_and_refused(daemon):
    with Server(fallback=file(content("x", 100))) as server:
        killed_in_the_midst(daemon, server, "many")
    database = daemon.state / "fetchd.db"
    with sqlite3.connect(database) as db:  # the log into the database, and a page in its midst
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'task'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with database.open("r+b") as written:
        written.seek((page - 1) * size)
        written.write(os.urandom(size))
    before = database.read_bytes()
    daemon.log.unlink()

    code = daemon.start().wait()

    assert code == 78
    assert "restore it from a backup" in said(daemon)
    assert database.read_bytes() == before


def test_s03_without_its_log_the_state_is_an_older_one_and_what_was_dropped_is_done(daemon):
    body = content("x", 100)
    with Server(fallback=file(body)) as server:
        killed_in_the_midst(daemon, server, "many")
        (daemon.state / "fetchd.db-wal").unlink()
        code = daemon.run_once()

    assert code == 0
    assert {path.read_bytes() for path in visible_files(daemon.downloads)} == {body}
    assert len(visible_files(daemon.downloads)) == LINES
    assert daemon.report("many")["state"] == "succeeded"


def test_s03_with_the_log_of_another_database_no_state_is_made_up(daemon, tmp_path):
    body = content("x", 100)
    with (
        Server(fallback=file(body)) as server,
        DaemonProcess(tmp_path / "two") as other,
    ):
        killed_in_the_midst(daemon, server, "many")
        killed_in_the_midst(other, server, "others")
        shutil.copy(other.state / "fetchd.db-wal", daemon.state / "fetchd.db-wal")
        daemon.log.unlink()
        code = daemon.run_once()
        files = visible_files(daemon.downloads)

    # SQLite cannot tell whose log it is. What comes of it is damage, which is found, or the whole
    # of the other state, whose list is not here; what was dropped here is done all the same.
    assert {path.read_bytes() for path in files} == {body}
    if code == 78:
        assert "restore it from a backup" in said(daemon)
    else:
        assert len([path for path in files if path.name.startswith("many")]) == LINES
        assert daemon.report("many")["state"] == "succeeded"


@pytest.mark.parametrize("how", ["unlinked", "replaced", "log-unlinked"])
def test_s07_a_database_that_is_gone_under_a_running_daemon_ends_it(daemon, how):
    with Server(fallback=file(content("x", 100))) as server:
        daemon.drop("a.yaml", f"url: {server.url('/a.bin')}\n")
        daemon.start()
        wait_until(lambda: daemon.ended("a"), what="a job")
        database = daemon.state / "fetchd.db"
        if how == "replaced":
            shutil.copy(database, daemon.base / "copy.db")
            (daemon.base / "copy.db").replace(database)
        else:
            (database if how == "unlinked" else daemon.state / "fetchd.db-wal").unlink()
        daemon.drop("b.yaml", f"url: {server.url('/b.bin')}\n")  # wakes it

        code = daemon.wait()

    assert code == 70
    (failed,) = daemon.events("service.failed")
    assert "removed or replaced" in failed["reason"]
    assert str(database) in failed["reason"]


def test_s11_a_state_that_another_daemon_has_is_refused_under_whatever_name(daemon, tmp_path):
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), what="the start")
    (tmp_path / "alias").symlink_to(daemon.state)
    with DaemonProcess(tmp_path / "two") as second:
        second.state = tmp_path / "alias"
        code = second.start().wait()
        text = said(second)

    assert code == 75
    assert f"another fetchd (process {daemon.process.pid}) works there" in text


def test_s11_a_copy_of_the_state_cannot_work_in_the_same_drop_folder(daemon, tmp_path):
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), what="the start")
    with DaemonProcess(tmp_path / "two") as second:
        shutil.copytree(daemon.state, second.state)
        second.jobs = daemon.jobs
        code = second.start().wait()
        text = said(second)

    assert code == 75
    assert f"{daemon.jobs}: another fetchd" in text
