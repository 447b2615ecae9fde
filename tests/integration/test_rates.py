"""Rates of a real daemon: never faster, shared, and nothing fails or hangs for them."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime

import pytest

from faults.server import Authority, Server, content, file
from process import DaemonProcess, wait_until

KIB = 1024
BODIES = {f"/{name}": content(name, 150 * KIB) for name in "abcd"}
BURST_S = 0.2  # what may come at once, in time at the rate, and what a stamp may be wrong by


def as_the_rate_says(took_s: float, ideal_s: float) -> bool:
    """Never faster; slower only as a machine is that has other things to do."""
    return ideal_s - BURST_S <= took_s <= 4 * ideal_s


def seconds(daemon: DaemonProcess, job: str) -> float:
    """Return how long the run took from its first transfer to its end."""
    (began,) = (e for e in daemon.events("run.started") if e["job"] == job)
    (ended,) = (e for e in daemon.events("run.ended") if e["job"] == job)
    stamps = [datetime.fromisoformat(event["timestamp"]).timestamp() for event in (began, ended)]
    return stamps[1] - stamps[0]


def served(server: Server, daemon: DaemonProcess, job: str, *settings: str) -> float:
    """Fetch all bodies with a job of these settings; return how long it took."""
    urls = ", ".join(server.url(path) for path in BODIES)
    daemon.drop(f"{job}.yaml", "\n".join([*settings, f"urls: [{urls}]", f"dest: {job}"]) + "\n")
    wait_until(lambda: daemon.ended(job), 40, f"the end of {job}")
    for path, body in BODIES.items():
        assert (daemon.downloads / job / path[1:]).read_bytes() == body
    return seconds(daemon, job)


@pytest.fixture
def server():
    with Server({path: file(body) for path, body in BODIES.items()}) as made:
        yield made


def test_files_under_a_rate_take_as_long_as_it_says_and_come_side_by_side(tmp_path, server):
    with DaemonProcess(tmp_path, "limits.rate=200KiB/s") as daemon:
        daemon.start()
        took_s = served(server, daemon, "j")
        ended = [
            datetime.fromisoformat(e["timestamp"]).timestamp() for e in daemon.events("task.done")
        ]

    assert as_the_rate_says(took_s, 3.0)
    assert max(ended) - min(ended) < took_s / 2


def test_rates_of_operator_origin_and_job_hold_together_and_the_lowest_decides(tmp_path, server):
    origins = f"origins={{'{server.origin}': {{rate: 400KiB/s}}}}"
    with DaemonProcess(tmp_path, "limits.rate=4MiB/s", origins) as daemon:
        daemon.start()
        origin_s = served(server, daemon, "high", "limits: {rate: 800KiB/s}")
        job_s = served(server, daemon, "low", "limits: {rate: {'00:00-24:00': 300KiB/s}}")

    assert as_the_rate_says(origin_s, 1.5)
    assert as_the_rate_says(job_s, 2.0)


def test_a_rate_holds_over_tls_and_in_chunks(tmp_path):
    authority = Authority(tmp_path)
    routes = {path: file(body, chunked=5000) for path, body in BODIES.items()}
    with (
        Server(routes, tls=authority.context()) as server,
        DaemonProcess(tmp_path, "limits.rate=300KiB/s", f"network.ca={authority.ca}") as daemon,
    ):
        daemon.start()
        took_s = served(server, daemon, "j")

    assert as_the_rate_says(took_s, 2.0)


def test_a_rate_holds_for_local_files(tmp_path):
    with DaemonProcess(
        tmp_path, "limits.rate=300KiB/s", f"roots.media={tmp_path / 'media'}"
    ) as daemon:
        (tmp_path / "media").mkdir()
        (tmp_path / "media/f").write_bytes(os.urandom(300 * KIB))
        daemon.drop("j.yaml", f"url: file://{tmp_path}/media/f\n")
        assert daemon.run_once() == 0

    assert as_the_rate_says(seconds(daemon, "j"), 1.0)


def test_n05_a_rate_below_what_the_stall_rule_asks_for_fails_nothing(tmp_path, server):
    with DaemonProcess(
        tmp_path, "limits.rate=200KiB/s", "timeout.stall=300ms@10MiB/s", "retry.attempts=1"
    ) as daemon:
        daemon.start()
        served(server, daemon, "j")

    assert [line["attempts"] for line in daemon.files("j")] == [1] * 4


def held_back(daemon: DaemonProcess, server: Server) -> None:
    """Begin transfers that would take an hour, and wait until they wait."""
    daemon.start()
    urls = ", ".join(server.url(path) for path in BODIES)
    daemon.drop("j.yaml", f"urls: [{urls}]\n")
    wait_until(lambda: sum(r.sent > 0 for r in server.requests) == 4, what="the answers")


def transfers(daemon: DaemonProcess) -> list[dict]:
    found: list[dict] = json.loads((daemon.state / "status.json").read_text())["report"][
        "transfers"
    ]
    return found


def test_a_stop_ends_a_transfer_that_waits_for_its_rate_at_once(tmp_path, server):
    with DaemonProcess(tmp_path, "limits.rate=1KiB/s") as daemon:
        held_back(daemon, server)
        began_s = time.monotonic()
        code = daemon.terminate()
        took_s = time.monotonic() - began_s
        (stopped,) = daemon.events("service.stopped")
        daemon.settings.remove("limits.rate=1KiB/s")
        again = daemon.run_once()

    assert (code, stopped["left_running"]) == (0, 0)
    assert took_s < 4.0  # of the 8 s that a stop may wait
    assert again == 0
    assert [(daemon.downloads / path[1:]).read_bytes() for path in BODIES] == [*BODIES.values()]
    assert any(line["detail"] == "resumed" for line in daemon.files("j"))


def test_a_cancel_ends_a_transfer_that_waits_for_its_rate_at_once(tmp_path, server):
    with DaemonProcess(tmp_path, "limits.rate=1KiB/s") as daemon:
        held_back(daemon, server)
        wait_until(
            lambda: [one["progress"]["have_bytes"] > 0 for one in transfers(daemon)] == [True] * 4,
            what="the first bytes of all: each owes seconds now",
        )
        began_s = time.monotonic()
        daemon.drop("j.cancel", "")
        wait_until(lambda: daemon.ended("j"), 10, "the end of the run")
        wait_until(lambda: not transfers(daemon), 10, "the end of the transfers")
        took_s = time.monotonic() - began_s

        assert daemon.report("j")["state"] == "cancelled"
        assert took_s < 8.0  # the status of an idle daemon may be five seconds old
        wait_until(lambda: not list(daemon.downloads.glob(".fetchd/parts/*")), 10, "the sweep")


def test_a_time_limit_ends_the_wait_for_a_rate_and_says_so(tmp_path, server):
    with DaemonProcess(
        tmp_path, "limits.rate=1KiB/s", "timeout.attempt=1s", "timeout.connect=1s"
    ) as daemon:
        daemon.drop("j.yaml", f"url: {server.url('/a')}\nretry: {{attempts: 1}}\n")
        code = daemon.run_once()

    (line,) = daemon.files("j")
    assert code == 1
    assert line["reason"] == (
        "the time limit of the attempt ran out while it waited for limits.rate of the configuration"
    )
