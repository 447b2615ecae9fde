from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fetchd import events, service
from fetchd.config import Settings
from fetchd.systemd import Notifier, watchdog_interval_s
from fetchd.threads import PROMPT_S, Worker
from harness import FakeClock

SYSTEMD = Path(__file__).parents[2] / "systemd"


class Manager:
    """The receiving end, as systemd is."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(0.0)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def address(request, tmp_path):
    if request.param == "path":
        return str(tmp_path / "notify")
    return f"@fetchd-test-{os.getpid()}-{id(request)}"


@pytest.fixture
def manager(address):
    manager = Manager(address)
    yield manager
    manager.socket.close()


def test_a_life_is_told_in_order(manager, address):
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}, lambda: 0.0)

    notifier.extend_timeout(600.0)
    notifier.status("checking state")
    notifier.ready()
    notifier.status("3 transfers")
    notifier.watchdog()
    notifier.stopping()

    assert manager.heard() == [
        "EXTEND_TIMEOUT_USEC=600000000",
        "STATUS=checking state",
        "READY=1",
        "STATUS=3 transfers",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_the_watchdog_is_fed_three_times_in_its_limit_however_often_it_is_called(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    now_s = 100.0
    notifier = Notifier(
        {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}, lambda: now_s
    )

    for second in range(30):
        now_s = 100.0 + second
        notifier.watchdog()

    assert manager.heard() == ["WATCHDOG=1"] * 3
    manager.socket.close()


def test_without_a_watchdog_none_is_fed(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})

    notifier.watchdog()

    assert manager.heard() == []
    manager.socket.close()


def test_a_status_is_one_short_line_and_told_once(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})

    notifier.status("a\nREADY=1")
    notifier.status("a\nREADY=1")
    notifier.status("x" * 10_000)

    first, second = manager.heard()
    assert first == "STATUS=a READY=1"
    assert len(second) < 300
    manager.socket.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/nonexistent/notify"},
        {"NOTIFY_SOCKET": "@nobody-listens-here"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/" + "x" * 500},
    ],
)
def test_without_a_manager_that_listens_everything_goes_on(environment):
    notifier = Notifier(environment)

    notifier.ready()
    notifier.status("up")
    notifier.watchdog()
    notifier.stopping()


def test_a_socket_that_may_not_be_written_is_given_up(tmp_path):
    (tmp_path / "notify").write_text("no socket")

    Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready()


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_the_interval_is_a_third_of_the_limit_meant_for_this_process(environment, interval_s):
    assert watchdog_interval_s(environment) == interval_s


def test_the_unit_is_accepted_by_systemd(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # The program and the manual page are not installed where tests run.
    unit = (SYSTEMD / "fetchd.service").read_text()
    unit = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE)
    copy = tmp_path / "fetchd.service"
    copy.write_text(unit)

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_gives_the_stop_more_time_than_the_daemon_takes():
    unit = (SYSTEMD / "fetchd.service").read_text()

    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)

    assert stop_s is not None
    assert int(stop_s[1]) > 10
    assert "RestartPreventExitStatus=78" in unit


def test_a_real_daemon_tells_its_whole_life(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    environment = os.environ | {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "300000",
    }
    folders = [f"--{name}={tmp_path / name}" for name in ("jobs", "downloads", "state")]
    heard: list[str] = []

    process = subprocess.Popen(
        [sys.executable, "-m", "fetchd", "run", *folders],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    until_s = time.monotonic() + 20.0
    while heard.count("WATCHDOG=1") < 2 and time.monotonic() < until_s:
        heard += manager.heard()
        time.sleep(0.02)
    process.terminate()
    code = process.wait(20.0)
    heard += manager.heard()
    manager.socket.close()

    assert code == 0
    assert heard[:2] == ["EXTEND_TIMEOUT_USEC=600000000", "STATUS=checking state"]
    assert heard.index("READY=1") < heard.index("WATCHDOG=1") < heard.index("STOPPING=1")
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1
    assert "STATUS=0 transfers, 0 tasks queued" in heard


def test_c08_a_thread_that_is_stuck_starves_the_watchdog_and_is_told_once():
    clock, home = FakeClock(), threading.Event()

    def stuck_in_c(worker: Worker) -> None:
        home.wait(30)

    worker = Worker("fetcher-0", stuck_in_c, clock, lambda *_: None)
    daemon: Any = service.Daemon(Settings(), once=False)
    fed: list[bool] = []
    told: list[events.Event] = []
    daemon._works = SimpleNamespace(threads=lambda: [worker])
    daemon._folder = SimpleNamespace(threads=list)
    daemon._notifier = SimpleNamespace(watchdog=lambda: fed.append(True))
    daemon._tell = told.append
    worker.start()

    daemon._feed_watchdog()
    worker.beat()  # and from now on nothing
    clock.advance(PROMPT_S + 1)
    for _ in range(3):
        daemon._feed_watchdog()
    home.set()

    assert fed == [True, True]  # one look may be late as a whole, two in a row are not
    (stuck,) = told
    assert isinstance(stuck, events.ThreadStuck)
    assert stuck.stuck == "fetcher-0"


def test_a_sweep_of_thousands_of_parts_leaves_time_to_feed_the_watchdog():
    clock = FakeClock()
    daemon: Any = service.Daemon(Settings(), once=True)
    fed_s, swept = [], []
    due = iter([True, True])  # the second time while the first sweep is under way

    def sweep(leftovers) -> None:
        for leftover in leftovers:
            clock.advance(0.01)
            swept.append(leftover)

    daemon._clock = clock
    daemon._began_s = clock.monotonic()
    daemon._show_again_s = float("inf")
    daemon._tell = lambda event: None
    daemon._feed_watchdog = lambda: fed_s.append(clock.monotonic())
    daemon._folder = SimpleNamespace(idle=lambda: True)
    daemon._works = SimpleNamespace(
        store=SimpleNamespace(check=lambda: None, prune=lambda *_: None),
        engine=SimpleNamespace(
            tick=lambda: None, idle=lambda: True, sweep_due=lambda: next(due, False)
        ),
        disk=SimpleNamespace(leftovers=lambda: iter(range(3000))),
        sweep=sweep,
    )

    cause = daemon._watch()

    assert cause == "once"
    assert swept == [*range(3000), *range(3000)]
    assert max(after - before for before, after in itertools.pairwise(fed_s)) < 1.0
