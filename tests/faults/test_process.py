"""What can happen to the process itself: signals, limits, streams, clocks that stand."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from faults.server import Server, content, file
from fetchd.cli.daemon import is_running
from process import DaemonProcess, wait_until

BODY = content("process", 50_000)


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


@pytest.fixture
def server():
    with Server(fallback=file(BODY)) as made:
        yield made


def started(daemon: DaemonProcess) -> None:
    daemon.start()
    wait_until(
        lambda: daemon.log.exists() and daemon.events("service.started"), what="the daemon's start"
    )


def send(daemon: DaemonProcess, number: signal.Signals) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(number)


def handles(daemon: DaemonProcess, number: signal.Signals) -> bool:
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


# ---------------------------------------------------------------- signals


def test_c03_a_second_term_ends_a_stop_at_once_and_nothing_is_lost(daemon, server):
    """What the stop takes long for is a log that nobody reads."""
    daemon.settings.append("log.level=debug")
    daemon.drop("a.urls", "".join(server.url(f"/{n}") + "\n" for n in range(300)))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        daemon.command(),
        stderr=writing,
        cwd=daemon.base,
        env={**os.environ, "FETCHD_CONFIG": os.devnull},
    )
    os.close(writing)
    try:
        wait_until(lambda: (daemon.jobs / "done/a.urls").exists(), what="the job")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_running(daemon.state), what="the folders' release")
        process.send_signal(signal.SIGTERM)
        code = process.wait(1.5)
    finally:
        process.kill()
        process.wait(5)
        os.close(reading)

    assert code == -signal.SIGTERM
    assert daemon.run_once() == 0
    assert len(daemon.files("a")) == 300


@pytest.mark.parametrize(
    "becomes",
    [
        pytest.param("limits: {file: 10}\n", id="good"),  # and would refuse the file
        pytest.param("limits: {\n", id="bad-syntax"),
        pytest.param("workers: many\n", id="bad-value"),
        pytest.param(None, id="unreadable"),
    ],
)
def test_c04_a_hup_after_the_configuration_changed_changes_nothing(daemon, server, becomes):
    """It is read at the start only; a hup looks at the folder."""
    config = daemon.base / "fetchd.yaml"
    config.write_text("workers: 3\n")
    daemon.start("--config", str(config))
    wait_until(
        lambda: daemon.log.exists() and daemon.events("service.started"), what="the daemon's start"
    )
    if becomes is None:
        config.unlink()
        config.mkdir()
    else:
        config.write_text(becomes)

    send(daemon, signal.SIGHUP)
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    wait_until(lambda: daemon.ended("a"), what="the job")

    assert daemon.terminate() == 0
    assert (daemon.downloads / "a").read_bytes() == BODY
    assert len(daemon.events("service.started")) == 1
    assert "Traceback" not in daemon.log.read_text()


def test_c05_a_storm_of_hups_from_the_first_moment_to_the_last_harms_nothing(daemon, server):
    daemon.start()
    wait_until(lambda: handles(daemon, signal.SIGHUP), what="the handler")
    storm_ends_s = time.monotonic() + 1.5
    sent = 0
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    while time.monotonic() < storm_ends_s:
        send(daemon, signal.SIGHUP)
        sent += 1
        time.sleep(0.001)
    wait_until(lambda: daemon.ended("a"), what="the job")
    send(daemon, signal.SIGTERM)
    assert daemon.process is not None
    while daemon.process.poll() is None:
        send(daemon, signal.SIGHUP)
        time.sleep(0.001)

    assert sent > 300
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_c06_an_interrupt_from_the_keyboard_is_a_stop_like_term(daemon):
    started(daemon)

    send(daemon, signal.SIGINT)

    assert daemon.wait() == 0
    (stopping,) = daemon.events("service.stopping")
    assert stopping["cause"] == "SIGINT"


def test_c12_a_suspended_machine_goes_on_where_it_was_without_a_second_run(daemon, server):
    server.fallback = file(BODY, rate=40_000)
    daemon.settings.append("timeout.stall=1s@1KiB/s")
    started(daemon)
    daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
    wait_until(lambda: server.requests, what="the request")

    send(daemon, signal.SIGSTOP)
    time.sleep(2.5)
    send(daemon, signal.SIGCONT)
    wait_until(lambda: daemon.ended("a"), what="the job")

    assert daemon.terminate() == 0
    assert (daemon.downloads / "a").read_bytes() == BODY
    assert len(daemon.events("task.done")) == len(daemon.events("run.ended")) == 1


# ---------------------------------------------------------------- limits


class LimitedDaemon(DaemonProcess):
    limits: tuple[str, ...] = ()

    def command(self, *more: str) -> list[str]:
        command = super().command(*more)
        return ["prlimit", *self.limits, "--", *command] if self.limits else command


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
def test_c09_without_descriptors_tasks_are_tried_again_and_none_is_lost(tmp_path, server):
    # Larger than what is kept in memory until it is whole: each has a part open, and a connection.
    server.fallback = file(content("large", 100_000), rate=200_000)
    with LimitedDaemon(tmp_path, "workers=16", "limits.connections_per_origin=16") as daemon:
        daemon.limits = ("--nofile=44",)
        daemon.drop("a.urls", "".join(server.url(f"/{n}") + "\n" for n in range(60)))

        code = daemon.run_once()

    assert code == 0
    assert sorted(p.name for p in daemon.downloads.iterdir() if p.is_file()) == sorted(
        str(n) for n in range(60)
    )
    assert "Too many open files" in daemon.log.read_text(), "the limit was never met"
    assert not daemon.events("service.failed")


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
@pytest.mark.parametrize("limit_mib", [128, 192])
def test_c09_a_start_that_gets_no_threads_ends_and_loses_no_job(tmp_path, server, limit_mib):
    """Each thread takes address space, so a limit of that is one of threads."""
    with LimitedDaemon(tmp_path) as daemon:
        daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
        daemon.limits = (f"--as={limit_mib << 20}",)
        code = daemon.run_once()
        daemon.limits = ()
        again = daemon.run_once()

    assert (code, again) == (70, 0)
    assert "can't start new thread" in daemon.log.read_text()
    assert (daemon.downloads / "a").read_bytes() == BODY


@pytest.mark.parametrize("kind", ["job files", "list"])
def test_c10_without_memory_tasks_fail_or_the_daemon_does_and_nothing_is_lost(daemon, server, kind):
    """The limit comes amid the work: on data, since most address space is reserved, not used."""
    wanted = {f"{job}-{n}" for job in range(100) for n in range(10)}
    lines = {job: [server.url(f"/{job}-{n}") for n in range(10)] for job in range(100)}
    daemon.settings += ["retry.attempts=1000", "stop_grace=1s"]
    started(daemon)
    daemon.drop("first.yaml", f"url: {server.url('/first')}\n")
    wait_until(lambda: daemon.ended("first"), what="the first job")
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    used_kib = int(status.partition("VmData:")[2].split()[0])
    resource.prlimit(daemon.process.pid, resource.RLIMIT_DATA, (used_kib << 10,) * 2)

    if kind == "list":
        daemon.drop("all.urls", "".join(f"{url}\n" for urls in lines.values() for url in urls))
    else:
        for job, urls in lines.items():
            daemon.drop(f"{job}.yaml", f"urls: {json.dumps(urls)}\n")
    wait_until(lambda: "MemoryError" in daemon.log.read_text(), what="the limit to be met")
    code = daemon.terminate()
    again = daemon.run_once()

    assert (code in {0, 70}, again) == (True, 0)
    files = {path.name: path for path in daemon.downloads.iterdir() if path.is_file()}
    assert set(files) == wanted | {"first"}
    assert all(path.read_bytes() == BODY for path in files.values())
    assert len(list((daemon.jobs / "done").iterdir())) == (2 if kind == "list" else 101)


def test_c13_a_lock_that_a_killed_daemon_left_holds_up_nobody(daemon):
    started(daemon)
    daemon.kill()
    left = [daemon.state / "lock", daemon.jobs / ".fetchd.lock"]

    assert all(path.exists() for path in left)
    assert daemon.run_once() == 0


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("end", ["unread", "closed"])
def test_c16_a_log_that_nobody_reads_stops_no_download(daemon, server, end):
    daemon.settings.append("log.level=debug")
    daemon.drop("a.urls", "".join(server.url(f"/{n}") + "\n" for n in range(400)))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        daemon.command("--once"),
        stderr=writing,
        stdout=subprocess.DEVNULL,
        cwd=daemon.base,
        env={**os.environ, "FETCHD_CONFIG": os.devnull},
    )
    os.close(writing)
    if end == "closed":
        os.close(reading)

    code = process.wait(50)

    assert code == 0
    assert len([p for p in daemon.downloads.iterdir() if p.is_file()]) == 400
    if end == "unread":
        with os.fdopen(reading, "rb") as pipe:
            first = pipe.readline()
        assert json.loads(first)["event"]


@pytest.mark.parametrize("manager", ["missing", "abstract", "unwritable"])
def test_c17_whoever_listens_or_does_not_the_daemon_works(daemon, server, manager, tmp_path):
    name = f"@fetchd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:])
        listening.settimeout(5)
        (tmp_path / "plain").write_text("no socket")
        address = {
            "missing": str(tmp_path / "missing"),
            "abstract": name,
            "unwritable": str(tmp_path / "plain"),
        }[manager]
        daemon.drop("a.yaml", f"url: {server.url('/a')}\n")

        code = daemon.run_once(NOTIFY_SOCKET=address)
        heard = listening.recv(4096) if manager == "abstract" else b""

    assert code == 0
    assert (daemon.downloads / "a").read_bytes() == BODY
    assert heard.startswith(b"EXTEND_TIMEOUT_USEC=") == (manager == "abstract")
