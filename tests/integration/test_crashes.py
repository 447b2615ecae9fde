"""kill -9 at every durable step: nothing lost, nothing wrong, nothing twice."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import time

import pytest

from faults.server import Handler, Server, content, file, flapping
from process import DaemonProcess, visible_files, wait_until

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


@pytest.mark.parametrize(
    ("failpoint", "durability"),
    [
        *((failpoint, "group") for failpoint in FAILPOINTS),
        *((name, "none") for name in FAILPOINTS if name.startswith(("publish", "transfer"))),
        ("publish.renamed:3", "each"),
    ],
)
def test_a_crash_at_this_step_loses_nothing(tmp_path, failpoint, durability):
    with (
        Server(routes()) as server,
        DaemonProcess(tmp_path, "retry.poison=0", f"durability={durability}") as daemon,
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


def held_bytes(daemon: DaemonProcess) -> int:
    """Return how many bytes the journals on the disk vouch for, in a front and behind gaps."""
    held = 0
    for journal in (daemon.downloads / ".fetchd/parts").glob("*.json"):
        said = json.loads(journal.read_text())
        held += said["durable_bytes"]
        held += sum(end - start for start, end in said.get("ranges", ()))
    return held


@pytest.mark.parametrize(
    ("failpoint", "least_mib"), [("transfer.received:40", 0), ("transfer.checkpointed", 4)]
)
def test_a_crash_with_several_connections_at_work_costs_what_no_journal_knew(
    tmp_path, failpoint, least_mib
):
    mib = 1024 * 1024
    body = content("several", 16 * mib + 5)
    broken = file(body, rate=24e6, cut_after=3 * mib)
    with (
        Server({"/f": broken}) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        url = server.url("/f")
        daemon.drop("a.yaml", f"url: {url}\nsegments: 4\nchecksum: sha256:{sha256(body)}\n")
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        pieces = [request for request in server.requests if request.header("Range")]
        held = held_bytes(daemon)
        before = len(server.requests)
        server.routes["/f"] = file(body, rate=24e6)

        again = daemon.run_once()

        sent = [request.sent for request in server.requests[before:]]

    assert (crashed, again) == (-signal.SIGKILL, 0)
    assert pieces
    assert held >= least_mib * mib
    assert sum(sent) <= len(body) - held + len(sent) * mib // 2  # what was on its way
    check_all_right(daemon, "a", "a.yaml", {"f": sha256(body)})


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


@pytest.mark.parametrize(
    "failpoint",
    [
        "transfer.suspected",
        "repair.replaced",
        "repair.replaced:2",
        "repair.checkpointed",
        "repair.checkpointed:2",
        "transfer.verified",
    ],
)
def test_a_crash_while_a_wrong_file_is_mended_costs_no_right_byte(tmp_path, failpoint):
    mib = 1024 * 1024
    body = content("mended", 12 * mib + 5)
    wrong = bytearray(body)
    for at in (3 * mib + 7, 9 * mib):
        wrong[at] ^= 1
    with (
        Server({"/f": file(bytes(wrong))}) as bad,
        Server({"/f": file(body)}) as good,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        daemon.drop(
            "a.yaml",
            f"base: [{bad.origin}, {good.origin}]\nurl: f\nchecksum: sha256:{sha256(body)}\n",
        )
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        visible = visible_files(daemon.downloads)
        before = len(good.requests)
        again = daemon.run_once()
        sent = sum(request.sent for request in good.requests[before:])

    assert (crashed, again) == (-signal.SIGKILL, 0)
    assert visible == []
    assert sent <= len(body)
    if failpoint == "repair.checkpointed:2":
        assert sent < 4 * mib  # all but the end was compared
    check_all_right(daemon, "a", "a.yaml", {"f": sha256(body)})
