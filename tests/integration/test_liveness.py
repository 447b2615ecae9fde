"""A stuck thread starves the watchdog and holds no exit, a dead one is replaced, slow is fine."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, wait_until

SABOTAGED = str(Path(__file__).parents[1] / "faults" / "sabotaged.py")


@contextmanager
def manager(tmp_path: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """A service manager's socket; yields its path and a function that returns what came."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.setblocking(False)

        def heard() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(listening.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield address, heard


@contextmanager
def sabotaged(
    tmp_path: Path, what: str, rate: int | None = None
) -> Iterator[tuple[DaemonProcess, Callable[[], list[str]]]]:
    with (
        Server({"/f": file(content("f", 300_000), rate=rate)}) as server,
        manager(tmp_path) as (address, heard),
        DaemonProcess(tmp_path, "stop_grace=1s") as daemon,
    ):
        daemon.program = [SABOTAGED, what]
        daemon.start(NOTIFY_SOCKET=address, WATCHDOG_USEC="300000")
        wait_until(lambda: "READY=1" in heard(), what="READY=1")
        daemon.drop("j.yaml", f"url: {server.url('/f')}\n")
        yield daemon, heard


@pytest.mark.parametrize("what", ["fetch-hangs", "fetch-spins"])
def test_c08_p14_a_stuck_thread_starves_the_watchdog_and_does_not_hold_the_exit(tmp_path, what):
    with sabotaged(tmp_path, what) as (daemon, heard):
        wait_until(lambda: daemon.events("thread.stuck"), what="the complaint")
        heard()
        time.sleep(1.0)
        silence = heard()
        began_s = time.monotonic()
        code = daemon.terminate()
        took_s = time.monotonic() - began_s

    (complaint,) = daemon.events("thread.stuck")
    assert complaint["stuck"].startswith("fetcher-")
    assert "WATCHDOG=1" not in silence
    assert code == 0
    assert took_s < 5
    (stopped,) = daemon.events("service.stopped")
    assert stopped["left_running"] == 1


def test_c07_p14_dead_workers_are_replaced_and_their_task_is_done_all_the_same(tmp_path):
    with sabotaged(tmp_path, "fetch-dies") as (daemon, heard):
        wait_until(lambda: daemon.ended("j"), what="the end of the run")
        heard()
        wait_until(lambda: "WATCHDOG=1" in heard(), 5, "the watchdog's food")
        code = daemon.terminate()

    died = daemon.events("thread.died")
    assert [d["error"].split(":")[0] for d in died] == [
        "SystemExit",
        "MemoryError",
        "RecursionError",
    ]
    assert all(d["replaced"] for d in died)
    assert daemon.report("j")["state"] == "succeeded"
    assert code == 0


def test_c07_p14_a_dead_worker_that_nothing_can_replace_ends_the_service(tmp_path):
    with sabotaged(tmp_path, "fetch-dies-for-good") as (daemon, _):
        code = daemon.wait()

    (failed,) = daemon.events("service.failed")
    assert code == 70
    assert "fetcher-" in failed["reason"]
    assert "nothing could replace it" in failed["reason"]


def test_c10_a_main_thread_that_fails_ends_the_service_in_order(tmp_path):
    with sabotaged(tmp_path, "main-dies", rate=20_000) as (daemon, _):
        code = daemon.wait()

    (failed,) = daemon.events("service.failed")
    (died,) = daemon.events("thread.died")
    assert code == 70
    assert "no room" in failed["reason"]
    assert "Traceback" in died["traceback"]
    assert daemon.events("service.stopped")


def test_c10_outcomes_that_are_lost_in_a_stop_make_it_a_failure(tmp_path):
    with sabotaged(tmp_path, "stop-forgets", rate=20_000) as (daemon, _):
        wait_until(lambda: daemon.events("run.started"), what="a transfer under way")
        code = daemon.terminate()

    (failed,) = daemon.events("service.failed")
    assert code == 70
    assert "no room" in failed["reason"]


def test_d17_a_disk_that_syncs_slowly_is_no_stuck_thread(tmp_path):
    with sabotaged(tmp_path, "slow-sync") as (daemon, heard):
        said: list[str] = []

        def ended() -> bool:
            said.extend(heard())
            return daemon.ended("j")

        wait_until(ended, what="the end of the run")
        code = daemon.terminate()

    assert said.count("WATCHDOG=1") >= 5
    assert daemon.events("thread.stuck") == []
    assert code == 0


def test_c12_a_process_that_was_stopped_as_a_whole_is_not_stuck(tmp_path):
    with sabotaged(tmp_path, "fetch-beats") as (daemon, heard):
        wait_until(lambda: daemon.events("job.accepted"), what="the job")
        for _ in range(2):
            time.sleep(0.2)
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.6)  # longer than a thread may be silent at work
            daemon.process.send_signal(signal.SIGCONT)
        wait_until(lambda: daemon.ended("j"), what="the end of the run")
        heard()
        wait_until(lambda: "WATCHDOG=1" in heard(), 5, "the watchdog's food")

    assert daemon.events("thread.stuck") == []
