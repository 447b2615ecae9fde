"""A real daemon whose system calls fail, or are its last: SQLite's too, which no seam holds."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from faults.server import Handler, Server, content, file, flapping
from process import DaemonProcess, visible_files

FILES = {f"f{number}.bin": content(f"syscall{number}", 40_000 * number) for number in range(4)}
#: What changes the disk, and what makes it last.
CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,linkat,unlink,unlinkat"


class TracedDaemon(DaemonProcess):
    """A daemon under strace; ``tampering`` is what strace is asked to do, if anything."""

    tampering: tuple[str, ...] = ()

    def command(self, *more: str) -> list[str]:
        command = super().command(*more)
        if not self.tampering:
            return command
        return ["strace", "-f", "-qq", "-o", str(self.base / "trace"), *self.tampering, *command]

    def tampered(self, calls: str, *tampering: str) -> int:
        """``calls``: all that strace shall see. The others are not even stopped at, but where a
        signal is injected: a stop by seccomp delivers none.
        """
        kills = any("signal=" in word for word in tampering)
        self.tampering = (f"--trace={calls}", *(() if kills else ("--seccomp-bpf",)), *tampering)
        code = self.run_once()
        self.tampering = ()
        return code


@pytest.fixture
def daemon(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace may not trace here")
    with TracedDaemon(tmp_path, "retry.poison=0", "workers=2") as made:
        yield made


@pytest.fixture
def server():
    broken = FILES["f3.bin"]
    routes: dict[str, Handler] = {f"/{name}": file(body) for name, body in FILES.items()}
    routes["/f3.bin"] = flapping(file(broken, cut_after=len(broken) // 2), file(broken))
    with Server(routes) as made:
        yield made


def drop(daemon: DaemonProcess, server: Server, job: str = "j") -> None:
    lines = "".join(
        f"  - {server.url('/' + name)} {name} sha256:{hashlib.sha256(body).hexdigest()}\n"
        for name, body in FILES.items()
    )
    daemon.drop(f"{job}.yaml", f"if_exists: fail\nurls:\n{lines}")


def all_is_right(daemon: DaemonProcess, job: str = "j") -> None:
    found = {path.name: path.read_bytes() for path in visible_files(daemon.downloads)}
    assert found == FILES
    report = daemon.report(job)
    assert report is not None
    assert (report["state"], report["tasks"]["succeeded"]) == ("succeeded", len(FILES))
    assert (daemon.jobs / "done" / f"{job}.yaml").exists()
    assert list((daemon.downloads / ".fetchd/parts").iterdir()) == []
    with sqlite3.connect(daemon.state / "fetchd.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        pytest.param("fsync,fdatasync", "EIO", id="s08-fsync-EIO"),
        pytest.param("pwrite64", "EIO", id="s08-write-EIO"),
        pytest.param("pwrite64", "ENOSPC", id="s04-write-ENOSPC"),
    ],
)
def test_p22_a_database_that_the_disk_refuses_ends_the_daemon_and_nothing_is_lost(
    daemon, server, calls, error, nth
):
    assert daemon.run_once() == 0  # makes the database
    drop(daemon, server)

    database = daemon.state / "fetchd.db"
    where = ["-P", str(database), "-P", f"{database}-wal"]
    code = daemon.tampered(calls, f"--inject={calls}:error={error}:when={nth}", *where)
    again = daemon.run_once()

    assert code == 70
    (failed,) = daemon.events("service.failed")
    assert "the state database failed" in failed["reason"]
    assert again == 0
    all_is_right(daemon)


@pytest.mark.parametrize(
    ("call", "where", "code"),
    [
        pytest.param("openat", "fetchd.db", 78, id="s04-at-open"),
        pytest.param("pwrite64", "fetchd.db-wal", 70, id="s04-at-commit"),
        # The log still holds everything, and the next life works it in.
        pytest.param("pwrite64", "fetchd.db", 0, id="s04-at-checkpoint"),
    ],
)
def test_without_room_for_the_database_no_job_is_lost(daemon, server, call, where, code):
    assert daemon.run_once() == 0  # makes the database
    drop(daemon, server)

    inject = f"--inject={call}:error=ENOSPC:when=1+"
    ended = daemon.tampered(call, inject, "-P", str(daemon.state / where))
    dropped = (daemon.jobs / "j.yaml").exists()
    again = daemon.run_once()

    assert "INJECTED" in (daemon.base / "trace").read_text()
    assert (ended, again) == (code, 0)
    assert dropped == (code != 0), "accepted by a database that could not hold it"
    all_is_right(daemon)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param("EIO", id="d04-EIO"),
        pytest.param("ESTALE", id="d16-ESTALE"),
    ],
)
def test_a_sync_that_fails_below_the_root_costs_a_retry_and_no_wrong_byte(daemon, server, error):
    drop(daemon, server)

    inject = f"--inject=fsync:error={error}:when=1"
    code = daemon.tampered("fsync", inject, "-P", str(daemon.downloads))

    assert "INJECTED" in (daemon.base / "trace").read_text()
    assert code == 0
    all_is_right(daemon)


def test_d17_a_disk_that_takes_half_a_second_to_sync_costs_time_and_nothing_else(daemon, server):
    drop(daemon, server)

    inject = "--inject=fsync,fdatasync:delay_enter=500000"
    code = daemon.tampered("fsync,fdatasync", inject, "-P", str(daemon.downloads))

    assert code == 0
    assert not daemon.events("thread.stuck")
    all_is_right(daemon)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_c02_a_kill_at_a_call_drawn_from_all_that_touch_the_disk_loses_nothing(tmp_path, daemon):
    with Server() as server:
        dice, died, cases = random.Random(2), 0, 0
        for call, most in sorted(calls_of_a_run(tmp_path / "counted", server).items()):
            for nth in dice.sample(range(1, most + 1), min(2, most)):
                died += dies_at(tmp_path / f"{call}-{nth}", server, call, nth)
                cases += 1
    assert died > cases // 2, "which thread makes the call differs, but not so much"


def calls_of_a_run(base: Path, server: Server) -> dict[str, int]:
    """Return how often the thread that makes a call most often makes it."""
    serve(server)
    with TracedDaemon(base, "workers=2") as daemon:
        drop(daemon, server)
        assert daemon.tampered(CALLS) == 0
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", (base / "trace").read_text(), re.MULTILINE))
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(most.get(call, 0), count)
    return most


def dies_at(base: Path, server: Server, call: str, nth: int) -> bool:
    """Tell whether the daemon died at a thread's ``nth`` call; all must be right in the end."""
    serve(server)
    with TracedDaemon(base, "retry.poison=0", "workers=2") as daemon:
        drop(daemon, server)
        code = daemon.tampered(call, f"--inject={call}:signal=KILL:when={nth}")
        assert code in {-signal.SIGKILL, 0}, (call, nth)
        assert daemon.run_once() == 0, (call, nth)
        all_is_right(daemon)
    return code != 0


def serve(server: Server) -> None:
    """Every run meets the same server: the first connection for the last file breaks."""
    left = [FILES["f3.bin"]]

    def breaks_once(exchange):
        body = FILES["f3.bin"]
        file(body, cut_after=len(body) // 2 if left else None)(exchange)
        left.clear()

    server.routes.update({f"/{name}": file(body) for name, body in FILES.items()})
    server.routes["/f3.bin"] = breaks_once
