"""kill -9 at every durable step, and at random: nothing lost, nothing wrong, nothing twice."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from faults.server import Handler, Server, content, file, flapping
from process import DaemonProcess, Watcher, visible_files, wait_until

BODIES = {f"f{i}.bin": content(f"crash{i}", 3_000 * i) for i in range(6)}

#: One line of the table of durable facts each: the process dies just there.
FAILPOINTS = [
    "folder.accepted",
    "folder.moved",
    "fetch.started",
    "fetch.started:4",
    "transfer.received:5",
    "transfer.checkpointed",
    "transfer.verified",
    "fetch.ended",
    "publish.intended",
    "publish.synced",
    "publish.renamed",
    "publish.folder_synced",
    "publish.visible",
    "outbox.reported",
    "outbox.moved",
]


def routes():
    """All files, one of them broken half way at first, so that its part is checkpointed."""
    whole: dict[str, Handler] = {f"/{name}": file(body) for name, body in BODIES.items()}
    broken = BODIES["f5.bin"]
    whole["/f5.bin"] = flapping(file(broken, cut_after=len(broken) // 2), file(broken))
    return whole


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def published(daemon: DaemonProcess) -> dict[str, int]:
    """How often each file was acknowledged as done, over all lives."""
    counts: dict[str, int] = {}
    for event in daemon.events("task.done"):
        counts[event["path"]] = counts.get(event["path"], 0) + 1
    return counts


@pytest.mark.parametrize("moment", ["at work", "while it stops"])
def test_a_store_that_fails_ends_the_daemon_with_70_and_a_clear_word(tmp_path, moment):
    with (
        Server({"/f": file(content("f", 400_000), rate=50_000)}) as server,
        DaemonProcess(tmp_path, "stop_grace=3s") as daemon,
    ):
        daemon.start()
        daemon.drop("a.yaml", f"url: {server.url('/f')}\n")
        wait_until(lambda: server.requests, what="the request")
        time.sleep(0.1)  # its record may linger for half of that
        with sqlite3.connect(daemon.state / "fetchd.db") as db:
            db.execute("DROP TABLE task")

        if moment == "at work":
            daemon.drop("b.yaml", f"url: {server.url('/f')}\nfilename: g\n")
            code = daemon.wait()
        else:
            code = daemon.terminate()

        assert code == 70
        (failed,) = daemon.events("service.failed")
        assert "no such table: task" in failed["reason"]
        assert not daemon.events("thread.died")


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_crash_at_this_step_loses_nothing(tmp_path, failpoint):
    with (
        Server(routes()) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        lines = "".join(
            f"  - {server.url('/' + name)} sha256:{sha256(body)}\n" for name, body in BODIES.items()
        )
        daemon.drop("crash.yaml", f"urls:\n{lines}")

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

    assert crashed == -signal.SIGKILL
    assert again == 0
    check_all_right(daemon, "crash", "crash.yaml", {n: sha256(b) for n, b in BODIES.items()})


@pytest.mark.parametrize("failpoint", ["folder.claimed", "folder.accepted", "expand.second_batch"])
def test_a_crash_while_a_list_is_read_loses_no_line_and_doubles_none(tmp_path, failpoint):
    count = 2_500
    body = content("small", 10)
    with (
        Server({f"/{i}": file(body) for i in range(count)}) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        daemon.drop("list.urls", "".join(server.url(f"/{i}") + "\n" for i in range(count)))

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    expected = {str(i): sha256(body) for i in range(count)}
    check_all_right(daemon, "list", "list.urls", expected)


def check_all_right(
    daemon: DaemonProcess, job: str, job_file: str, expected: dict[str, str]
) -> None:
    found = {
        str(path.relative_to(daemon.downloads)): sha256(path.read_bytes())
        for path in visible_files(daemon.downloads)
    }
    assert found == expected
    parts = [p for p in (daemon.downloads / ".fetchd").rglob("*") if p.is_file()]
    assert parts == []
    assert (daemon.jobs / "done" / job_file).exists()
    assert not list((daemon.jobs / "active").iterdir())
    report = daemon.report(job)
    assert report is not None
    assert (report["state"], report["tasks"]["succeeded"]) == ("succeeded", len(expected))
    assert sorted(line["path"] for line in daemon.files(job)) == sorted(expected)
    database = sqlite3.connect(daemon.state / "fetchd.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM run").fetchone() == (1,)
    database.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_c01_fifty_kills_at_random_moments_of_a_job_of_two_hundred_files(tmp_path):
    kills, seed = 50, 20
    dice = random.Random(seed)
    sizes = [0, 1, 17, 4096, *(int(2 ** dice.uniform(4, 21)) for _ in range(188))]
    sizes += [32 << 20, 16 << 20, 8 << 20, 8 << 20, 4 << 20, 4 << 20, 2 << 20, 2 << 20]
    names = {f"d{i % 5}/f{i}.bin": (f"k{i}", size) for i, size in enumerate(sizes)}
    expected = {name: sha256(content(*what)) for name, what in names.items()}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "faults" / "server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    base = server.stdout.readline().strip()
    daemon = DaemonProcess(tmp_path, "retry.poison=0", "stats_every=1h")
    watcher = Watcher(daemon.downloads, expected)
    try:
        lines = "".join(
            f"  - {base}/{what[0]}/{what[1]}/{name.split('/')[1]}?rate=3000000 {name} "
            f"sha256:{expected[name]}\n"
            for name, what in names.items()
        )
        watcher.start()
        daemon.drop("kills.yaml", f"limits: {{ concurrency: 8 }}\nurls:\n{lines}")
        lived_to_the_end = 0
        for _ in range(kills):
            daemon.start()
            time.sleep(dice.uniform(0.05, 0.8) + 0.35)
            lived_to_the_end += daemon.ended("kills")
            daemon.kill()
        daemon.start()
        wait_until(lambda: daemon.ended("kills"), 120, "the run's end")
        wait_until(lambda: (daemon.jobs / "done" / "kills.yaml").exists(), 20, "the job's place")
        code = daemon.terminate()
        log = json.loads(urllib.request.urlopen(f"{base}/log").read())
    finally:
        watcher.finish()
        daemon.kill()
        server.stdin.close()
        server.wait(10)
        server.stdout.close()

    assert code == 0
    assert watcher.wrong == []
    assert watcher.looked >= len(expected)
    assert lived_to_the_end < kills // 2, "the job ended too early for the kills to hit it"
    check_all_right(daemon, "kills", "kills.yaml", expected)
    # A life that died between the record and the log line is not heard; none is heard twice.
    assert max(published(daemon).values()) == 1
    assert max(watcher.versions().values()) == 1
    served = sum(entry["sent"] for entry in log)
    assert served <= sum(sizes) + kills * 8 * (64 << 20)
