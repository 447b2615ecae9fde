"""The drop folder with its real thread, the real watch and the real clock."""

from __future__ import annotations

import errno
import os
import shutil
import statistics
import threading
import time
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants

from dropfolder import DumbObserver, SmallEngine, read_job, read_list
from fetchd.clock import Failpoints, SystemClock
from fetchd.errors import StoreError
from fetchd.events import Event, ThreadDied, WatchChanged
from fetchd.folder import Folder
from fetchd.folder.watch import BLIND_RESCAN_S, IncomingObserver, Watch, file_system_of
from process import wait_until


class Live:
    """A folder at work; ``rescan_s`` is long, so that whatever is quick was hinted."""

    def __init__(self, base: Path, rescan_s: float = 3600.0, jobs: Path | None = None) -> None:
        self.base = base
        self.jobs = jobs or base / "jobs"
        self.engine = SmallEngine()
        self.events: list[Event] = []
        self.folder = Folder(
            self.jobs,
            max_job_bytes=100_000,
            require_end_marker=False,
            rescan_s=rescan_s,
            read_job=read_job,
            read_list=read_list,
            commands=self.engine,
            store=self.engine,  # type: ignore[arg-type]  # as much of it as the folder asks for
            tell=self.events.append,
            clock=SystemClock(),
            failpoints=Failpoints(),
        )

    def __enter__(self):
        self.folder.start()
        wait_until(self.folder.idle, 5, "the first turn")
        return self

    def __exit__(self, *exc):
        self.folder.stop()
        assert self.folder.join(5)

    def drop(self, name, text="url: x\n"):
        beside = self.base / "dropping"
        beside.write_text(text)
        return beside.rename(self.jobs / name)

    def accepted(self):
        return [command.file for command in self.engine.submitted]

    def states(self):
        return [event.state for event in self.events if isinstance(event, WatchChanged)]


def test_f02_a_renamed_file_is_accepted_at_once_also_right_after_another(tmp_path):
    waits_s = []
    with Live(tmp_path) as live:
        for number in range(9):
            began_s = time.monotonic()
            name = f"{number}.yaml"
            live.drop(name, f"url: {number}\n")
            wait_until(lambda: name in live.accepted(), 5, "acceptance")  # noqa: B023 -- called now
            waits_s.append(time.monotonic() - began_s)

    assert statistics.median(waits_s) < 0.3
    assert max(waits_s) < 1.0


def test_f01_a_file_that_is_written_slowly_is_accepted_when_it_is_closed(tmp_path):
    with Live(tmp_path) as live:
        with (live.jobs / "slow.yaml").open("w") as file:
            for line in ("url: x\n", "dest: y\n"):
                file.write(line)
                file.flush()
                time.sleep(0.15)
            while_open = live.accepted()
        wait_until(live.accepted, 2, "acceptance after the close")

    assert while_open == []
    assert live.engine.submitted[0].raw == b"url: x\ndest: y\n"


def test_f13_two_thousand_files_are_all_accepted(tmp_path):
    with Live(tmp_path) as live:
        for number in range(2000):
            live.drop(f"{number}.yaml", f"url: {number}\n")
        wait_until(lambda: len(live.engine.submitted) == 2000, 30, "2,000 acceptances")

    assert len(set(live.accepted())) == 2000


def test_what_was_dropped_before_the_start_is_accepted_too(tmp_path):
    live = Live(tmp_path)
    live.drop("early.yaml")

    live.folder.start()
    wait_until(live.accepted, 5, "acceptance")
    live.folder.stop()

    assert live.folder.join(5)


def test_a_job_ends_in_done_with_its_reports(tmp_path):
    with Live(tmp_path) as live:
        live.drop("x.yaml")
        wait_until(live.accepted, 5, "acceptance")
        live.engine.end("x")
        live.folder.hint()
        wait_until(live.folder.idle, 5, "the end to be shown")

    assert (live.jobs / "done" / "x.yaml").exists()
    assert sorted(path.name for path in (live.jobs / "reports").iterdir()) == [
        "x.files.jsonl",
        "x.json",
    ]


def test_a_folder_behind_a_symbolic_link_is_watched(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    with Live(tmp_path, jobs=tmp_path / "link") as live:
        live.drop("x.yaml")
        wait_until(live.accepted, 2, "acceptance")


def test_f15_a_folder_that_is_replaced_is_watched_again(tmp_path):
    with Live(tmp_path, rescan_s=0.2) as live:
        live.jobs.rename(tmp_path / "old")
        live.jobs.mkdir()
        wait_until(lambda: "watching" in live.states(), 10, "the new watch")
        live.drop("x.yaml")
        wait_until(live.accepted, 5, "acceptance")


@pytest.mark.parametrize("how", ["moved", "deleted"], ids=["F15-moved", "F15-deleted"])
def test_a_new_folder_in_the_place_of_the_old_is_watched_without_a_rescan(tmp_path, how):
    with Live(tmp_path) as live:  # its next rescan is an hour away
        if how == "moved":
            live.jobs.rename(tmp_path / "old")
        else:
            shutil.rmtree(live.jobs)
        live.jobs.mkdir()
        wait_until(lambda: "watching" in live.states(), 3, "the new watch")
        live.drop("x.yaml")
        wait_until(live.accepted, 2, "acceptance")


def test_a_folder_that_is_missing_for_a_while_is_taken_up_within_a_second_or_so(tmp_path):
    with Live(tmp_path) as live:
        shutil.rmtree(live.jobs)
        wait_until(lambda: live.states() == ["lost"], 3, "the loss to be noticed")
        live.jobs.mkdir()
        live.drop("x.yaml")
        wait_until(live.accepted, 3, "acceptance")


def test_a_thread_that_dies_is_replaced_and_said(tmp_path):
    with Live(tmp_path) as live:
        view, broken = live.engine.view, [True]

        def breaking():
            if broken:
                broken.clear()
                raise MemoryError("none left")
            return view()

        live.engine.view = breaking
        live.drop("x.yaml")
        wait_until(lambda: not broken, 5, "the death")
        wait_until(lambda: [e for e in live.events if isinstance(e, ThreadDied)], 5, "the news")
        live.drop("y.yaml")
        wait_until(lambda: len(live.accepted()) == 2, 5, "acceptance by the next thread")
        workers = live.folder.threads()

    (died,) = [e for e in live.events if isinstance(e, ThreadDied)]
    assert (died.died, died.replaced, "none left" in died.error) == ("folder", True, True)
    assert [worker.name for worker in workers] == ["folder"]


def test_a_failed_store_ends_the_thread_without_a_death(tmp_path):
    with Live(tmp_path) as live:

        def failing():
            raise StoreError("the disk is gone")

        live.engine.view = failing
        live.folder.hint()
        wait_until(lambda: not live.folder.threads()[0].alive(), 5, "the end")

    assert [e for e in live.events if isinstance(e, ThreadDied)] == []


# ---------------------------------------------------------------- the watch alone


class Watching:
    def __init__(self, folder: Path, **arguments) -> None:
        self.folder = folder
        self.hinted = threading.Event()
        self.events: list[Event] = []
        arguments = {"observe": IncomingObserver} | arguments
        self.watch = Watch(str(folder), self.hinted.set, self.events.append, **arguments)

    def check(self):
        found = self.folder.stat()
        self.watch.check((found.st_dev, found.st_ino))

    def changes(self):
        return [event for event in self.events if isinstance(event, WatchChanged)]

    def states(self):
        return [event.state for event in self.changes()]


@pytest.fixture
def watching(tmp_path):
    made = Watching(tmp_path)
    yield made
    made.watch.stop()


def test_reading_and_moving_out_hint_nothing(watching, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("url: x\n")
    (tmp_path / "active").mkdir()
    watching.check()

    path.read_text()
    path.rename(tmp_path / "active" / "x.yaml")

    assert not watching.hinted.wait(0.2)


@pytest.mark.parametrize("how", ["written", "renamed", "linked", "moved within"])
def test_every_way_to_bring_a_file_hints(watching, tmp_path, how):
    outside = tmp_path.parent / "outside"
    outside.write_text("url: x\n")
    (tmp_path / "x.tmp").write_text("url: x\n")
    watching.check()

    target = tmp_path / "x.yaml"
    if how == "written":
        target.write_text("url: x\n")
    elif how == "renamed":
        outside.rename(target)
    elif how == "linked":
        os.link(outside, target)
    else:
        (tmp_path / "x.tmp").rename(target)

    assert watching.hinted.wait(2)


def test_the_close_after_writing_hints(watching, tmp_path):
    with (tmp_path / "x.yaml").open("w") as file:
        file.write("url: x\n")
        watching.check()
        watching.hinted.clear()

    assert watching.hinted.wait(2)


def test_f15_a_folder_that_is_replaced_while_the_watch_is_set_up_is_looked_at_again(tmp_path):
    folder, other = tmp_path / "jobs", tmp_path / "other"
    folder.mkdir()
    other.mkdir()

    class Swapped(DumbObserver):
        def start(self):
            folder.rename(tmp_path / "old")
            other.rename(folder)

    watching = Watching(folder, observe=Swapped)

    watching.check()

    assert watching.hinted.is_set()


def test_a_watch_on_the_folder_that_stands_there_asks_for_no_other_look(watching):
    watching.check()

    assert not watching.hinted.is_set()


def test_an_observer_that_died_is_replaced_and_said(watching, tmp_path):
    watching.check()
    watching.watch._observer.stop()
    wait_until(lambda: not watching.watch._observer.is_alive(), 5, "its end")

    watching.check()
    (tmp_path / "x.yaml").write_text("url: x\n")

    assert watching.hinted.wait(2)
    assert watching.states() == ["watching"]


def test_a_watch_that_only_lost_its_reading_thread_counts_as_dead(watching):
    watching.check()
    observer = watching.watch._observer
    observer._inotify.stop()
    wait_until(lambda: not observer.is_alive(), 5, "its end")

    watching.check()

    assert watching.watch._observer is not observer


@pytest.mark.parametrize(
    ("number", "limit"),
    [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances")],
    ids=["F14-ENOSPC", "F14-EMFILE"],
)
def test_without_room_for_a_watch_it_is_said_once_and_tried_again(tmp_path, number, limit):
    tries = [OSError(number, "no more"), OSError(number, "no more"), None]

    class Scarce(DumbObserver):
        def __init__(self) -> None:
            super().__init__()
            self.error = tries.pop(0)

    watching = Watching(tmp_path, observe=Scarce)

    watching.check()
    blind_s = watching.watch.rescan_s(30.0)
    watching.check()
    watching.check()

    assert blind_s == BLIND_RESCAN_S
    assert watching.states() == ["scanning", "watching"]
    assert f"fs.inotify.{limit}" in watching.changes()[0].reason
    assert watching.watch.rescan_s(30.0) == 30.0


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_f16_on_a_network_file_system_nothing_is_watched_and_leases_prove_nothing(tmp_path, kind):
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        "21 1 0:5 / /dev rw - devtmpfs none rw\n"
        f"22 1 {number} / / rw,noatime shared:1 - {kind} srv:/ rw\n"
    )
    watching = Watching(tmp_path, observe=DumbObserver, mounts=mounts)

    watching.check()
    watching.check()

    assert watching.watch.deaf
    assert watching.watch.rescan_s(30.0) == BLIND_RESCAN_S
    assert watching.watch.rescan_s(1.0) == 1.0
    assert [(e.state, kind in e.reason) for e in watching.changes()] == [("scanning", True)]


def test_a_list_of_mounts_that_cannot_be_read_means_a_local_file_system(tmp_path):
    assert file_system_of(tmp_path.stat().st_dev, tmp_path / "none") == ""


def test_the_installed_watchdog_still_asks_the_emitter_for_its_mask(watching, tmp_path):
    asked = []
    watching.check()
    (emitter,) = watching.watch._observer.emitters

    asked.append(emitter._inotify.event_mask)

    assert not asked[0] & InotifyConstants.IN_MOVED_FROM
    assert asked[0] & InotifyConstants.IN_MOVED_TO
