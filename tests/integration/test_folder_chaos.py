"""A real daemon whose drop folder is flooded, taken away, shut, mounted over, or not watched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from faults.server import Server, file
from process import DaemonProcess, wait_until

#: Memory of the daemon beyond its base for each run that is on, with room to spare.
KIB_A_RUN = 12
BASE_KIB = 128 * 1024


class Under(DaemonProcess):
    """A daemon started by another command, which makes its surroundings."""

    def __init__(self, base: Path, prefix: list[str], *settings: str) -> None:
        super().__init__(base, *settings)
        self.prefix = prefix

    def command(self, *more: str) -> list[str]:
        return [*self.prefix, *super().command(*more)]


def needs(prefix: list[str]) -> None:
    """Skip where the surroundings cannot be made."""
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"{prefix[0]} cannot be used here: {exc}")


def started(daemon: DaemonProcess) -> DaemonProcess:
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), what="the start")
    return daemon


def accepted(daemon: DaemonProcess) -> int:
    return daemon.log.read_bytes().count(b'"event": "job.accepted"')


def states(daemon: DaemonProcess) -> list[str]:
    return [event["state"] for event in daemon.events("watch.changed")]


def troubles(daemon: DaemonProcess) -> str:
    command = [sys.executable, "-m", "fetchd", "status", "--state", str(daemon.state)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def peak_kib(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def flood(daemon: DaemonProcess, url: Callable[[str], str], count: int) -> None:
    """Move so many job files in at once."""
    beside = daemon.base / "flood"
    beside.mkdir()
    for number in range(count):
        (beside / f"b{number}.yaml").write_text(f"url: {url(f'/{number}.bin')}\n")
    for path in beside.iterdir():
        path.rename(daemon.jobs / path.name)


def floods(daemon: DaemonProcess, count: int, *, within_s: float) -> None:
    """A flood for a host that is slow to answer, and then one job for another host."""
    slow, quick = Server(fallback=lambda e: e.stall()), Server(fallback=file(b"x"))
    with slow, quick, daemon:
        flood(started(daemon), slow.url, count)
        time.sleep(0.3)
        at_s = time.monotonic()
        daemon.drop("single.yaml", f"url: {quick.url('/single.bin')}\n")
        wait_until(lambda: quick.requests, 20, "the request of the single job")
        waited_s = quick.requests[0].at_s - at_s
        wait_until(lambda: accepted(daemon) >= count + 1, within_s, "the acceptance of all")
        wait_until(lambda: not list(daemon.jobs.glob("*.yaml")), 10, "the last files to follow")
        peak = peak_kib(daemon)
        daemon.terminate()

    assert accepted(daemon) == count + 1
    assert waited_s < 3  # 2 s on a machine with nothing else to do
    assert peak < BASE_KIB + KIB_A_RUN * count
    assert daemon.events("watch.missed") == []
    assert daemon.events("folder.failed") == []


def test_the_status_is_written_once_a_second_however_much_happens(tmp_path):
    with Server(fallback=lambda e: e.stall()) as slow, started(DaemonProcess(tmp_path)) as daemon:
        began_s, versions = time.monotonic(), set()
        flood(daemon, slow.url, 200)
        while time.monotonic() < began_s + 2.5:
            versions.add((daemon.state / "status.json").stat().st_mtime_ns)
            time.sleep(0.01)
        shown = json.loads((daemon.state / "status.json").read_text())["report"]
        daemon.kill()

    assert len(versions) <= 4
    assert (len(shown["runs"]), shown["left_out"]) == (100, 100)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("anew")
def test_f13_thousands_of_files_at_once_are_accepted_and_keep_no_single_job_waiting(tmp_path):
    floods(DaemonProcess(tmp_path), 3000, within_s=30)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("anew")
def test_f13_twenty_thousand_files_at_once_are_accepted_and_keep_no_single_job_waiting(tmp_path):
    floods(DaemonProcess(tmp_path), 20_000, within_s=150)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_f14_when_the_kernels_queue_overflows_no_file_is_lost_and_it_is_told(tmp_path):
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    count = queue + 3000
    with Server(fallback=lambda e: e.stall()) as slow, DaemonProcess(tmp_path) as daemon:
        started(daemon)
        assert daemon.process is not None
        # Asleep as on an overloaded machine: nobody reads events, the kernel drops the last ones.
        subprocess.run(["kill", "-STOP", str(daemon.process.pid)], check=True)
        flood(daemon, slow.url, count)
        subprocess.run(["kill", "-CONT", str(daemon.process.pid)], check=True)
        wait_until(lambda: accepted(daemon) >= count, 150, "the acceptance of all")
        wait_until(lambda: daemon.events("watch.missed"), 30, "the missed events to be told")
        daemon.terminate()

    missed = sum(event["count"] for event in daemon.events("watch.missed"))
    assert accepted(daemon) == count
    assert 0 < missed <= 4000  # other events had their places in the queue too


LIMITED = 'echo 0 > /proc/sys/user/max_inotify_%s && exec "$@"'


@pytest.mark.parametrize(
    ("limit", "advice"),
    [("instances", "max_user_instances"), ("watches", "max_user_watches")],
    ids=["F14-no-instance", "F14-no-watch"],
)
def test_without_inotify_every_file_is_found_by_scanning(tmp_path, limit, advice):  # P11
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", LIMITED % limit, "sh"]
    needs(prefix)
    with (
        Server(fallback=file(b"x")) as server,
        Under(tmp_path, prefix, "intake.rescan=1s") as daemon,
    ):
        started(daemon)
        for number in range(20):
            daemon.drop(f"{number}.yaml", f"url: {server.url(f'/{number}')}\n")
        wait_until(lambda: accepted(daemon) == 20, 10, "the acceptance of all")
        wait_until(lambda: advice in troubles(daemon), 10, "the status to say so")
        daemon.terminate()

    (changed,) = daemon.events("watch.changed")
    assert (changed["state"], changed["level"]) == ("scanning", "warning")
    assert advice in changed["reason"]
    assert daemon.events("watch.missed") == []


def test_f15_a_folder_that_is_deleted_and_made_again_is_used_again_and_nothing_is_lost(tmp_path):
    with Server({"/a": file(b"a"), "/b": file(b"b")}) as server, DaemonProcess(tmp_path) as daemon:
        started(daemon)
        daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
        # Until it is at rest: what it still moves could not be deleted around it.
        wait_until((daemon.jobs / "done" / "a.yaml").exists, what="the first job")
        shutil.rmtree(daemon.jobs.rename(tmp_path / "gone"))
        wait_until(lambda: "jobs folder: No such file" in troubles(daemon), 10, "the status")
        daemon.jobs.mkdir()
        daemon.drop("b.yaml", f"url: {server.url('/b')}\n")
        wait_until(lambda: daemon.ended("b"), 10, "the second job")
        wait_until(lambda: "jobs folder" not in troubles(daemon), 10, "the status")
        assert daemon.terminate() == 0

    assert states(daemon) == ["lost", "watching"]
    assert sorted(path.name for path in daemon.downloads.glob("[ab]")) == ["a", "b"]


def test_f15_a_folder_renamed_over_the_old_one_is_used_and_the_old_one_left_alone(tmp_path):
    other = tmp_path / "other"
    with Server({"/a": file(b"a")}) as server, DaemonProcess(tmp_path) as daemon:
        started(daemon)
        other.mkdir()
        (other / "a.yaml").write_text(f"url: {server.url('/a')}\n")
        daemon.jobs.rename(tmp_path / "old")
        other.rename(daemon.jobs)
        wait_until(lambda: daemon.ended("a"), 10, "the job in the other folder")
        assert daemon.terminate() == 0

    assert (daemon.jobs / "done" / "a.yaml").exists()
    assert list((tmp_path / "old" / "done").iterdir()) == []


def test_f15_a_folder_that_is_mounted_over_is_used_and_so_is_the_old_one_afterwards(tmp_path):
    prefix = ["unshare", "--mount", "--propagation", "private"]
    needs(prefix)
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        Server(fallback=file(b"x")) as server,
        Under(tmp_path, prefix, "intake.rescan=1s") as daemon,
    ):
        started(daemon)
        assert daemon.process is not None
        inside = ["nsenter", "--mount", "--target", str(daemon.process.pid)]
        needs(inside)
        (disk / "a.yaml").write_text(f"url: {server.url('/a')}\n")
        subprocess.run([*inside, "mount", "--bind", disk, daemon.jobs], check=True)
        wait_until(lambda: (disk / "done" / "a.yaml").exists(), 10, "the job on the new disk")
        # Lazily: the daemon may be looking into it just now.
        subprocess.run([*inside, "umount", "-l", daemon.jobs], check=True)
        daemon.drop("b.yaml", f"url: {server.url('/b')}\n")
        wait_until(lambda: daemon.ended("b"), 10, "the job in the folder below")
        assert daemon.terminate() == 0

    assert daemon.events("thread.died") == []


@pytest.fixture
def unprivileged():
    """The daemon without root's right to ignore modes; whoever is not root never had it."""
    if os.geteuid():
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    needs(prefix)
    return prefix


def test_f15_a_folder_that_may_not_be_read_for_a_while_is_told_once(tmp_path, unprivileged):
    settings = ["intake.rescan=1s"]
    with (
        Server(fallback=file(b"x")) as server,
        Under(tmp_path, unprivileged, *settings) as daemon,
    ):
        started(daemon)
        daemon.jobs.chmod(0)
        try:
            wait_until(lambda: "Permission denied" in troubles(daemon), 10, "the status")
            wait_until(lambda: states(daemon) == ["lost"], 10, "the loss of the watch")
            time.sleep(1.2)
        finally:
            daemon.jobs.chmod(0o755)
        daemon.drop("a.yaml", f"url: {server.url('/a')}\n")
        wait_until(lambda: daemon.ended("a"), 10, "the job")
        assert daemon.terminate() == 0

    assert states(daemon) == ["lost", "watching"]
    assert daemon.events("thread.died") == []


def test_f10_a_file_that_may_not_be_read_is_told_once_and_taken_when_it_may(tmp_path, unprivileged):
    with Server(fallback=file(b"x")) as server, Under(tmp_path, unprivileged) as daemon:
        started(daemon)
        beside = tmp_path / "mine"
        beside.write_text(f"url: {server.url('/a')}\n")
        beside.chmod(0)
        path = beside.rename(daemon.jobs / "a.yaml")
        wait_until(lambda: daemon.events("folder.failed"), 10, "the news")
        path.chmod(0o644)
        wait_until(lambda: daemon.ended("a"), 10, "the job")
        daemon.terminate()

    (failed,) = daemon.events("folder.failed")
    assert (failed["file"], failed["error"]) == ("a.yaml", "Permission denied")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o2775, None),
        (0o1777, "may drop job files (mode o+w)"),
        (0o777, "replace or remove those of others"),
    ],
    ids=["F10-group", "F10-everybody-sticky", "F10-everybody"],
)
def test_a_folder_that_is_open_to_everybody_is_told_at_the_start(tmp_path, mode, words):
    with DaemonProcess(tmp_path) as daemon:
        daemon.jobs.chmod(mode)
        daemon.run_once()

    told = daemon.events("folder.exposed")
    assert [words in event["reason"] for event in told] == ([] if words is None else [True])


WRITER = """
import sys, time
data = open(sys.argv[2], "rb").read()
with open(sys.argv[1], "wb", buffering=0) as file:
    for byte in data:
        file.write(bytes([byte]))
        time.sleep(float(sys.argv[3]) / len(data))
"""


def test_f01_a_job_that_another_process_writes_byte_by_byte_runs_only_when_it_is_whole(tmp_path):
    with Server({"/whole.bin": file(b"x")}) as server, DaemonProcess(tmp_path) as daemon:
        started(daemon)
        draft = tmp_path / "draft"
        draft.write_text(
            f"# a job whose every line ends in something that would run\n"
            f"url: {server.url('/whole.bin')}\n"
            f"dest: a/folder/below\n"
            f"filename: name.bin\n"
            f"retry: {{ attempts: 1 }}\n"
        )
        command = [sys.executable, "-c", WRITER, str(daemon.jobs / "slow.yaml"), str(draft), "2"]
        subprocess.run(command, check=True)
        wait_until(lambda: daemon.ended("slow"), 10, "the job")
        daemon.terminate()

    assert [request.path for request in server.requests] == ["/whole.bin"]
    assert daemon.events("job.rejected") == []
    assert (daemon.downloads / "a" / "folder" / "below" / "name.bin").read_bytes() == b"x"


def bad_files() -> dict[str, bytes]:
    deep = b"[" * 30_000
    bomb = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*a, *a]\n" % (n, n) for n in range(98, 118))
    return {
        "deep.yaml": deep,
        "deep.json": deep,
        "bomb.yaml": bomb,
        "typo.yaml": b"ulr: http://h/x\n",
        "noise.yaml": bytes(range(256)) * 200,
        "tab.yaml": b"tasks:\n\ta: b\n",
        "large.yaml": b"# " + b"x" * 5_000_000,
        "events.yaml": b"x-a: [" + b"a," * 300_000 + b"]\nurl: http://h/x\n",
    }


def test_bad_files_hurt_only_themselves_and_are_refused_within_two_seconds(tmp_path):  # P10-F04
    with Server(fallback=file(b"x")) as server, DaemonProcess(tmp_path) as daemon:
        started(daemon)
        waits_s: list[float] = []
        for name, data in bad_files().items():
            beside = tmp_path / "beside"
            beside.write_bytes(data)
            at_s = time.monotonic()
            beside.rename(daemon.jobs / name)
            good = f"good-{len(waits_s)}"
            daemon.drop(f"{good}.yaml", f"url: {server.url('/' + good)}\n")
            refused = daemon.jobs / "reports" / f"{name}.error.txt"
            wait_until(refused.exists, 2, f"{name} to be refused")
            wait_until(partial(server.asked, f"/{good}"), 2, f"the good file beside {name}")
            waits_s.append(server.asked(f"/{good}")[0].at_s - at_s)
        daemon.terminate()

    assert max(waits_s) < 2, waits_s
    assert len(daemon.events("job.rejected")) == len(bad_files())
    assert daemon.events("thread.died") == []
