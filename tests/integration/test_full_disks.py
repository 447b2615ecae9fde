"""Real transfers to real file systems that are too small, with time that the test moves on."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from faults.server import Server, content, file
from fetchd import events, jobfile
from fetchd.clock import SystemClock
from fetchd.config import load
from fetchd.engine.admission import MOST_IN_VAIN
from fetchd.model import Submit
from fetchd.service import Works
from harness import ONE_CORE
from process import visible_files, wait_until

MIB = 1024 * 1024


@contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class MovedClock(SystemClock):
    """The machine's clocks, moved on by the test."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    def wall(self) -> float:
        return super().wall() + self.ahead_s

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        super().wait(condition, 0.05 if timeout_s is None else min(0.05, timeout_s))


class House:
    """Everything but the drop folder: engine, pools, disk and wire, with two download roots."""

    def __init__(self, base: Path, small: Path) -> None:
        (base / "fetchd.yaml").write_text(
            f"roots: {{ default: {base / 'downloads'}, small: {small} }}\n"
            "network: { allow: [loopback] }\n"
            "disk: { reserve: 256KiB }\n"
        )
        self.settings = load(base / "fetchd.yaml", {}, {})
        self.small = small
        self.clock = MovedClock()
        self.events: list[events.Event] = []
        self.works = Works(self.settings, None, self.events.append, self.clock, print, [], ONE_CORE)
        self.works.start()

    def submit(self, name: str, text: str) -> None:
        made = jobfile.load(text.encode(), f"{name}.yaml", self.settings)
        assert self.works.engine.obey(Submit(job=made, raw=b"", file="")).done

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def quiet(self) -> bool:
        """Whether nothing is under way or ready: all that is open waits for its time."""
        engine = self.works.engine
        engine.tick()
        view = engine.view()
        ready = sum(run.tasks.open - run.waiting.get("disk", 0) for run in view.runs)
        dues_s = [run.next_due_at_s for run in view.runs if run.next_due_at_s is not None]
        due = any(due_s <= self.clock.wall() for due_s in dues_s)
        return not (view.transfers or ready or due)

    def settle(self) -> None:
        wait_until(self.quiet, what="rest")
        time.sleep(0.1)
        wait_until(self.quiet, what="rest")

    def move_on(self, seconds: float) -> None:
        self.settle()
        self.clock.ahead_s += seconds
        self.works.engine.tick()

    def ended(self) -> bool:
        self.works.engine.tick()
        return self.works.engine.idle()


@pytest.fixture
def small(tmp_path, request):
    with mounted(tmp_path / "small", request.param) as folder:
        yield folder


@pytest.fixture
def house(tmp_path, small):
    made = House(tmp_path, small)
    yield made
    made.works.stop(5.0)


def a_job(server: Server, paths: list[str], root: str) -> str:
    return f"root: {root}\nurls: [{', '.join(server.url(path) for path in paths)}]\n"


@pytest.mark.parametrize("small", ["size=3m"], indirect=True)
def test_d01_eight_transfers_that_do_not_fit_together_are_fetched_as_room_is_made(house):
    paths = [f"/{number}.bin" for number in range(8)]
    bodies = {path: content(path, MIB) for path in paths}
    with Server({path: file(body, rate=4_000_000) for path, body in bodies.items()}) as server:
        house.submit("big", a_job(server, paths, "small"))
        seen: list[str] = []
        for _ in range(4):
            house.settle()
            there = visible_files(house.small)
            assert 1 <= len(there) <= 2  # 3 MiB less the reserve
            for path in there:
                assert path.read_bytes() == bodies[f"/{path.name}"]
                seen.append(path.name)
                path.unlink()
            house.move_on(61.0)
        wait_until(house.ended, what="the end")
        asked = len(server.requests)

    seen += [path.name for path in visible_files(house.small)]
    assert sorted(seen) == [path[1:] for path in paths]
    (run,) = house.told(events.RunEnded)
    assert run.state == "succeeded"
    # Nobody hit the wall: whoever did not fit went away before it wrote.
    reasons = {event.reason for event in house.told(events.TaskDeferred)}
    assert all("bytes are missing" in reason for reason in reasons)
    assert house.told(events.TaskRetryScheduled) == []
    assert asked < 8 * 5


@pytest.mark.parametrize("small", ["size=3m"], indirect=True)
def test_d01_a_full_root_of_many_tasks_is_left_alone_while_the_other_goes_on(house):
    paths = [f"/{number}.bin" for number in range(250)]
    filler = house.small / "filler"
    filler.write_bytes(bytes(3 * MIB - 128 * 1024))
    with Server(fallback=file(content("x", 1000))) as server:
        house.submit("full", a_job(server, paths, "small"))
        house.submit("other", a_job(server, ["/o.bin"], "default"))
        wait_until(lambda: house.told(events.RunEnded), what="the other job")
        house.settle()
        asked = {request.path for request in server.requests}
        waiting = house.works.engine.view().runs[-1].waiting
        deferred = len(house.told(events.TaskDeferred))
        filler.unlink()
        house.move_on(31.0)
        wait_until(house.ended, what="the end")

    assert asked == {"/o.bin"}
    assert waiting == {"disk": 250}
    assert deferred < MOST_IN_VAIN + house.settings.workers
    assert [event.root for event in house.told(events.RootFull)] == ["small"]
    assert len(visible_files(house.small)) == 250


@pytest.mark.parametrize("small", ["size=3m"], indirect=True)
def test_n12_a_size_that_no_disk_could_hold_is_refused_and_the_mirror_asked_at_once(house):
    def lie(exchange):
        exchange.head(200, "OK", {"Content-Length": str(10**17), "ETag": '"a"'})
        exchange.stall()

    with Server({"/f": lie}) as liar, Server({"/f": file(content("f", 1000))}) as mirror:
        bases = f"[{liar.origin}/, {mirror.origin}/]"
        house.submit("f", f"root: small\nbase: {bases}\nurl: f\n")
        wait_until(house.ended, what="the end")
        asked = (len(liar.requests), len(mirror.requests))

    assert asked == (1, 1)
    (retry,) = house.told(events.TaskRetryScheduled)
    assert (retry.code, retry.delay_s) == ("too_large", 0)
    assert [path.read_bytes() for path in visible_files(house.small)] == [content("f", 1000)]


@pytest.mark.parametrize("small", ["size=3m"], indirect=True)
def test_n12_a_mirror_whose_file_fits_is_taken_before_anything_is_waited_for(house):
    (house.small / "filler").write_bytes(bytes(2 * MIB))
    large, fitting = content("large", 2 * MIB), content("fitting", 1000)
    with Server({"/f": file(large)}) as first, Server({"/f": file(fitting)}) as second:
        bases = f"[{first.origin}/, {second.origin}/]"
        house.submit("f", f"root: small\nbase: {bases}\nurl: f\n")
        wait_until(house.ended, what="the end")

    assert (house.small / "f").read_bytes() == fitting
    assert [event.delay_s for event in house.told(events.TaskDeferred)] == [0]
    assert house.told(events.TaskRetryScheduled) == []


@pytest.mark.parametrize("small", ["size=3m"], indirect=True)
def test_n11_a_body_without_end_fills_a_disk_as_often_as_it_has_attempts_and_others_go_on(house):
    def endless(exchange):
        exchange.head(200, "OK", {"Transfer-Encoding": "chunked", "ETag": '"a"'})
        while not exchange.server.closing.is_set():
            exchange.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    with Server({"/endless": endless}, fallback=file(content("x", 100_000))) as server:
        house.submit(
            "endless", a_job(server, ["/endless"], "small") + "retry: { attempts: 2, delay: 1s }\n"
        )
        wait_until(lambda: house.told(events.TaskRetryScheduled), what="the first end of it")
        house.submit("other", a_job(server, ["/a.bin", "/b.bin"], "small"))
        for _ in range(3):
            house.move_on(31.0)
        wait_until(house.ended, what="the end")
        asked = sum(request.path == "/endless" for request in server.requests)

    assert asked == 2
    (failed,) = house.told(events.TaskFailed)
    assert (failed.path, failed.code) == ("endless", "disk_full")
    assert sorted(path.name for path in visible_files(house.small)) == ["a.bin", "b.bin"]
    assert sum(1 for _ in (house.small / ".fetchd/parts").iterdir()) == 0


@pytest.mark.parametrize("small", ["size=3m,nr_inodes=40"], indirect=True)
def test_d02_a_file_system_without_inodes_parks_its_tasks_until_there_are_some(house):
    (house.small / "many").mkdir()
    names = [house.small / "many" / str(number) for number in range(100)]
    with suppress(OSError):  # no more inodes
        for name in names:
            name.touch()
    with Server(fallback=file(content("x", 1000))) as server:
        house.submit("small", a_job(server, ["/a.bin", "/b.bin"], "small"))
        house.settle()
        waiting = house.works.engine.view().runs[-1].waiting
        for name in names:
            name.unlink(missing_ok=True)
        house.move_on(31.0)
        wait_until(house.ended, what="the end")

    assert waiting == {"disk": 2}
    assert sorted(p.name for p in visible_files(house.small)) == ["a.bin", "b.bin"]
    assert house.told(events.TaskFailed) == []
