"""What is wrong around the daemon ends in one clear sentence and the right exit code."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files, wait_until


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


def said(daemon: DaemonProcess) -> str:
    text = daemon.log.read_text()
    assert "Traceback" not in text
    return text


def test_systemd_is_told_ready_status_watchdog_and_stopping(daemon, tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(15)
        daemon.start(NOTIFY_SOCKET=address, WATCHDOG_USEC="600000")
        heard: list[str] = []
        while heard.count("WATCHDOG=1") < 2:
            heard.append(manager.recv(4096).decode())
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        while heard[-1] != "STOPPING=1":
            heard.append(manager.recv(4096).decode())
        code = daemon.wait()

    assert code == 0
    assert heard[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert heard.index("READY=1") < heard.index("WATCHDOG=1")


def test_a_missing_ca_file_is_named(daemon):
    daemon.settings.append("network.ca=/nowhere/ca.pem")

    code = daemon.start().wait()

    assert code == 78
    assert "/nowhere/ca.pem" in said(daemon)


def test_a_folder_that_cannot_be_made_is_named(daemon, tmp_path):
    (tmp_path / "plain").write_text("a file")
    daemon.downloads = tmp_path / "plain" / "downloads"

    code = daemon.start().wait()

    assert code == 78
    assert str(daemon.downloads) in said(daemon)


def test_s02_a_damaged_state_is_refused_with_what_to_do(daemon):
    daemon.state.mkdir()
    (daemon.state / "fetchd.db").write_bytes(b"no database" * 1000)

    code = daemon.start().wait()

    assert code == 78
    assert "restore it from a backup" in said(daemon)
    assert (daemon.state / "fetchd.db").read_bytes() == b"no database" * 1000


def test_s06_a_newer_state_is_refused_with_both_versions(daemon):
    assert daemon.run_once() == 0
    database = sqlite3.connect(daemon.state / "fetchd.db")
    database.execute("PRAGMA user_version = 99")
    database.close()

    code = daemon.start().wait()

    assert code == 78
    assert "version 99" in said(daemon)


def test_a_term_right_after_the_start_is_not_lost(daemon):
    for _ in range(3):
        daemon.start()
        wait_until(lambda: daemon.log.exists() and daemon.state.exists(), what="the state folder")
        assert daemon.terminate() in {0, -signal.SIGTERM}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB, mounted for the test."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not possible here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_d01_a_full_disk_parks_the_task_and_says_so_while_others_go_on(daemon, small_disk):
    large, little = content("large", 2_000_000), content("little", 1000)
    (small_disk / "others").write_bytes(bytes(2_000_000))
    daemon.settings += [f"roots.small={small_disk}", "disk.reserve=0"]
    with Server({"/large.bin": file(large), "/little.bin": file(little)}) as server:
        daemon.start()
        daemon.drop("l.yaml", f"url: {server.url('/large.bin')}\nroot: small\n")
        wait_until(
            lambda: (daemon.report("l") or {}).get("waiting") == {"disk": 1}, what="the wait"
        )
        daemon.drop("s.yaml", f"url: {server.url('/little.bin')}\n")
        wait_until(lambda: daemon.ended("s"), what="the other job")
        code = daemon.terminate()

    assert code == 0
    assert (daemon.downloads / "little.bin").read_bytes() == little
    assert visible_files(small_disk) == [small_disk / "others"]
    (deferred,) = daemon.events("task.deferred")
    assert deferred["wait"] == "disk"
    assert "bytes are missing" in deferred["reason"]


def test_a_store_on_a_full_disk_ends_the_service_and_loses_nothing(daemon, small_disk):
    daemon.state = small_disk / "state"
    body = content("x", 100)
    with Server(fallback=file(body)) as server:
        lines = "".join(server.url(f"/{i}.bin") + "\n" for i in range(20_000))
        daemon.drop("many.urls", lines)

        code = daemon.start("--once").wait(60)

    assert code == 70
    assert "disk is full" in said(daemon)
    assert (daemon.jobs / "active" / "many.urls").exists()
