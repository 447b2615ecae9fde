"""The machine's clock is set by years, or the whole process sleeps: nothing waits longer for it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from faults.server import Server, content, file, flapping, status
from process import DaemonProcess, wait_until

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


class Wall:
    """The wall clock of a process, set from outside while it runs."""

    def __init__(self, base: Path) -> None:
        self._file = base / "wall"
        self.set("+0")

    def set(self, offset: str) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(offset + "\n")
        beside.replace(self._file)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # else Python hangs in Event.wait
            "NO_FAKE_STAT": "1",
        }


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: apt install faketime)")
@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param(["+1825d"], id="C11-forward-5-years"),
        pytest.param(["-1825d"], id="C11-back-5-years"),
        pytest.param(["+1d", "-1d", "+9", "-9", "+400d", "+0"], id="C11-stepping"),
    ],
)
def test_p15_retries_stalls_and_new_jobs_take_their_time_while_the_clock_is_set(tmp_path, offsets):
    body = content("f", 100_000)
    busy = flapping(status(503), status(503), file(body))
    stalls = flapping(file(body, stall_after=50_000), file(body))
    wall = Wall(tmp_path)
    with (
        Server({"/busy": busy, "/stalls": stalls, "/late": file(body)}) as server,
        DaemonProcess(tmp_path, "timeout.stall=1s", "retry.delay=1s") as daemon,
    ):
        daemon.start(**wall.environment())
        daemon.drop("a.yaml", f"urls: [{server.url('/busy')}, {server.url('/stalls')}]\n")
        wait_until(lambda: server.asked("/stalls"), what="the request")
        began_s = time.monotonic()
        for offset in offsets:
            wall.set(offset)
            if offset is offsets[0]:  # so that something is told at another date
                daemon.drop("c.yaml", f"url: {server.url('/late')}\n")
                wait_until(lambda: len(daemon.events("job.accepted")) == 2, what="its acceptance")
            time.sleep(0.3)
        daemon.drop("b.yaml", f"url: {server.url('/late')}\n")
        wait_until(lambda: daemon.ended("a") and daemon.ended("b"), what="the runs' ends")
        took_s = time.monotonic() - began_s
        code = daemon.terminate()

    assert code == 0
    assert (daemon.report("a")["state"], daemon.report("b")["state"]) == ("succeeded", "succeeded")
    assert took_s < 10
    assert len(server.asked("/busy")) == 3
    assert len(server.asked("/stalls")) == 2
    dates = {event["timestamp"][:10] for event in daemon.events()}
    assert len(dates) > 1, "the clock was not set"


@pytest.mark.slow
@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: apt install faketime)")
def test_c11_p15_a_job_that_is_dropped_after_each_step_of_the_clock_ends(tmp_path):
    wall = Wall(tmp_path)
    with Server({"/f": file(content("f", 1000))}) as server, DaemonProcess(tmp_path) as daemon:
        daemon.start(**wall.environment())
        for number, offset in enumerate(["+1d", "-1d", "+9", "-9", "+400d", "+0"]):
            wall.set(offset)
            daemon.drop(f"{number}.yaml", f"url: {server.url('/f')}\n")
            wait_until(partial(daemon.ended, f"{number}"), what=f"the job after {offset}")
            assert daemon.report(f"{number}")["state"] == "succeeded"

        assert daemon.terminate() == 0


def test_c12_after_a_sleep_of_the_process_timeouts_fire_once_and_nothing_runs_twice(tmp_path):
    body = content("f", 300_000)
    flows = file(body, rate=150_000)
    stalls = flapping(file(body, stall_after=100_000), file(body))
    with (
        Server({"/flows": flows, "/stalls": stalls}) as server,
        DaemonProcess(tmp_path, "timeout.stall=1s") as daemon,
    ):
        daemon.start()
        daemon.drop("j.yaml", f"urls: [{server.url('/flows')}, {server.url('/stalls')}]\n")
        wait_until(lambda: server.asked("/flows") and server.asked("/stalls"), what="requests")
        time.sleep(0.3)
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        daemon.process.send_signal(signal.SIGCONT)
        wait_until(lambda: daemon.ended("j"), what="the end of the run")
        code = daemon.terminate()

    assert code == 0
    assert daemon.report("j")["state"] == "succeeded"
    assert (daemon.downloads / "flows").read_bytes() == body
    assert (daemon.downloads / "stalls").read_bytes() == body
    retries = Counter(event["path"] for event in daemon.events("task.retry_scheduled"))
    assert retries["stalls"] == 1
    assert retries["flows"] <= 1
    assert Counter(event["path"] for event in daemon.events("task.done")) == {
        "flows": 1,
        "stalls": 1,
    }
