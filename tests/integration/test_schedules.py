"""A real daemon whose wall clock is set: schedules over summer time, crashes and restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from faults.server import Server, content, file
from integration.test_clock import LIBRARY, Wall
from process import DaemonProcess, wait_until

needs_faketime = pytest.mark.skipif(
    LIBRARY is None, reason="needs libfaketime (Debian: apt install faketime)"
)


class Machine(DaemonProcess):
    """A daemon on a machine whose clock can be set to any date."""

    def __init__(self, base: Path, *settings: str) -> None:
        super().__init__(base, *settings)
        self.wall = Wall(base)

    def set_clock(self, text: str) -> None:
        offset_s = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() - time.time()
        self.wall.set(f"{offset_s:+.0f}")
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)  # do not wait for the next look at the clock

    def boot(self, *more: str, failpoint: str = "", **env: str) -> None:
        self.start(*more, failpoint=failpoint, **self.wall.environment(), **env)

    def runs(self, job: str) -> list[int]:
        return [event["run"] for event in self.events("job.accepted") if event["job"] == job]

    def kept(self) -> list[dict]:
        try:
            found = json.loads((self.state / "status.json").read_text())["report"]["kept"]
        except FileNotFoundError:
            return []
        assert isinstance(found, list)
        return found


@needs_faketime
def test_a_time_in_the_gap_of_the_machines_own_zone_comes_at_its_end_and_is_dated_by_it(tmp_path):
    with (
        Server({"/f": file(content("f", 1000))}) as server,
        Machine(tmp_path) as daemon,
    ):
        daemon.set_clock("2027-03-28 00:30:00")  # 01:30 in Berlin
        daemon.boot(TZ="Europe/Berlin")
        daemon.drop(
            "j.yaml", f"schedule: daily 02:30\nurl: {server.url('/f')}\ndest: ${{run.date}}"
        )
        wait_until(daemon.kept, what="the job to be shown")
        daemon.set_clock("2027-03-28 00:59:50")
        time.sleep(1.5)
        early = daemon.runs("j")
        daemon.set_clock("2027-03-28 01:00:05")  # 03:00:05 in Berlin
        wait_until(lambda: daemon.ended("j"), what="the end of the run")
        code = daemon.terminate()

    assert code == 0
    assert early == []
    assert daemon.report("j")["scheduled_for"] == "2027-03-28T01:00:00.000Z"
    assert (daemon.downloads / "2027-03-28" / "f").is_file()


@needs_faketime
@pytest.mark.parametrize("place", ["schedule.due", "schedule.begun", "fetch.started"])
def test_a_kill_between_the_due_time_and_the_start_of_the_run_loses_and_doubles_nothing(
    tmp_path, place
):
    body = content("f", 1000)
    with Server({"/f": file(body)}) as server, Machine(tmp_path) as daemon:
        daemon.set_clock("2026-11-27 12:00")
        daemon.boot(failpoint=place)
        job = f"timezone: UTC\nschedule: daily 03:15\nurl: {server.url('/f')}\ndest: ${{run.date}}"
        daemon.drop("j.yaml", job)
        wait_until(daemon.kept, what="the job to be shown")
        daemon.set_clock("2026-11-28 03:15:01")
        killed = daemon.wait()
        daemon.boot()
        wait_until(lambda: daemon.ended("j"), what="the end of the run")
        daemon.set_clock("2026-11-28 12:00")
        time.sleep(1.0)
        code = daemon.terminate()

    assert (killed, code) == (-9, 0)
    assert daemon.report("j")["run"] == 1
    assert daemon.report("j")["scheduled_for"] == "2026-11-28T03:15:00.000Z"
    assert (daemon.downloads / "2026-11-28" / "f").read_bytes() == body
    assert (daemon.jobs / "j.yaml").is_file()


@needs_faketime
def test_what_was_missed_while_the_machine_was_off_runs_for_each_date_in_order(tmp_path):
    with Server({"/f": file(content("f", 1000))}) as server, Machine(tmp_path) as daemon:
        daemon.set_clock("2026-11-27 12:00")
        daemon.boot()
        daemon.drop(
            "j.yaml",
            "timezone: UTC\nschedule: { daily: 03:15, catch_up: all }\n"
            f"url: {server.url('/f')}\ndest: ${{run.date}}",
        )
        wait_until(daemon.kept, what="the job to be shown")
        daemon.terminate()
        daemon.set_clock("2026-11-30 12:00")
        daemon.boot()
        dates = ["2026-11-28", "2026-11-29", "2026-11-30"]
        wait_until(
            lambda: all((daemon.downloads / date / "f").is_file() for date in dates),
            what="all dates",
        )
        code = daemon.terminate()

    assert code == 0
    done = [event["path"][:10] for event in daemon.events("task.done")]
    assert done == dates


def test_every_second_makes_a_run_each_and_status_says_when_the_next_comes(tmp_path):
    with Server({"/f": file(content("f", 10))}) as server, Machine(tmp_path) as daemon:
        daemon.start()
        daemon.drop("j.yaml", f"schedule: every 1s\nurl: {server.url('/f')}\n")
        wait_until(lambda: len(daemon.runs("j")) >= 3, what="three runs")
        shown = subprocess.run(
            [sys.executable, "-m", "fetchd", "status", "--state", daemon.state],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (daemon.jobs / "j.yaml").unlink()
        wait_until(lambda: daemon.events("job.removed"), what="the end of the job")
        code = daemon.terminate()

    assert code == 0
    assert "j  next: " in shown or "j  due " in shown
    states = {event["state"] for event in daemon.events("run.ended")}
    assert states == {"succeeded"}


def test_once_works_the_folder_off_and_leaves_scheduled_files_alone(tmp_path):
    with Server({"/f": file(content("f", 10))}) as server, Machine(tmp_path) as daemon:
        daemon.drop("often.yaml", f"schedule: every 1s\nurl: {server.url('/f')}\n")
        daemon.drop("now.yaml", f"url: {server.url('/f')}\n")
        code = daemon.run_once()

    assert code == 0
    assert (daemon.jobs / "often.yaml").is_file()
    assert (daemon.jobs / "done" / "now.yaml").is_file()
    assert daemon.runs("often") == []


@needs_faketime
def test_a_transfer_stops_when_its_window_closes_and_goes_on_from_there_when_it_opens(tmp_path):
    body = content("f", 3_000_000)
    with (
        Server({"/f": file(body, rate=400_000, etag='"1"')}) as server,
        Machine(tmp_path) as daemon,
    ):
        daemon.set_clock("2026-11-28 02:00:00")
        daemon.boot()
        daemon.drop("j.yaml", f'timezone: UTC\nwindow: "01:00-06:00"\nurl: {server.url("/f")}\n')
        wait_until(lambda: server.asked("/f"), what="the request")
        wait_until(lambda: daemon.bytes_in_parts() > 100_000, what="the first bytes")
        daemon.set_clock("2026-11-28 07:00:00")
        wait_until(lambda: daemon.events("run.held"), what="the hold")
        wait_until(lambda: daemon.events("task.interrupted"), what="the stop")
        wait_until(lambda: daemon.report("j")["waiting"] == {"window": 1}, what="the report")
        due = daemon.report("j")["next_due"]
        daemon.kill()
        daemon.boot()
        wait_until(lambda: len(daemon.events("run.held")) == 2, what="the hold of the next life")
        asked = len(server.asked("/f"))
        daemon.set_clock("2026-11-29 01:00:01")
        wait_until(lambda: daemon.ended("j"), timeout_s=30, what="the end of the run")
        code = daemon.terminate()

    assert code == 0
    assert due == "2026-11-29T01:00:00.000Z"
    assert asked == 1
    assert len(server.asked("/f")) == 2
    assert (daemon.downloads / "f").read_bytes() == body
    (done,) = daemon.events("task.done")
    assert (done["outcome"], done["attempts"]) == ("resumed", 1)


def fetchd(daemon, *words: str) -> subprocess.CompletedProcess:
    sets = ("--set", f"jobs={daemon.jobs}", "--set", f"state={daemon.state}")
    return subprocess.run(
        [sys.executable, "-m", "fetchd", *words, *sets],
        capture_output=True,
        text=True,
        check=False,
        cwd=daemon.base,
    )


def test_backfill_makes_a_run_for_each_date_in_order_and_a_kill_repeats_none(tmp_path):
    with Server({"/f": file(content("f", 1000))}) as server, Machine(tmp_path) as daemon:
        daemon.start()
        daemon.drop(
            "j.yaml",
            f"timezone: UTC\nschedule: daily 03:15\nurl: {server.url('/f')}\ndest: ${{run.date}}\n",
        )
        wait_until(daemon.kept, what="the job to be shown")
        wrong = fetchd(daemon, "backfill", "j", "2026-01-31..2026-01-01")
        right = fetchd(daemon, "backfill", "j", "2026-01-01..2026-01-06")
        wait_until(lambda: len(daemon.events("run.ended")) >= 2, what="two runs")
        daemon.kill()
        daemon.start()
        wait_until(lambda: (daemon.downloads / "2026-01-06" / "f").is_file(), what="the last")
        code = daemon.terminate()

    assert (wrong.returncode, right.returncode, code) == (1, 0, 0)
    assert "2026-01-01 is before 2026-01-31" in wrong.stderr
    dates = [f"2026-01-0{day}" for day in range(1, 7)]
    assert sorted(path.name for path in daemon.downloads.iterdir() if path.name[0] != ".") == dates
    runs = daemon.runs("j")
    assert runs == sorted(set(runs))
    assert max(runs) == 6
