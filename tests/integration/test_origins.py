"""All runs together keep to what an origin bears and asks for: by the origin's own log."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from faults.server import Exchange, Handler, Server, content, file, hung_up, status
from process import DaemonProcess, wait_until


class Gauge:
    """The most requests that were ever being answered at an instant, to peers still there."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.most = 0

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self._open = {sock for sock in self._open if not hung_up(sock)} | {exchange.sock}
            self.most = max(self.most, len(self._open))
        try:
            self._handler(exchange)
        finally:
            with self._lock:
                self._open.discard(exchange.sock)


def slow(seed: str, seconds: float = 0.1) -> Handler:
    return file(content(seed, 20_000), rate=20_000 / seconds)


def origins_of(server: Server, keys: str) -> str:
    return f'origins={{"{server.origin}": {{{keys}}}}}'


def drop_jobs(daemon: DaemonProcess, server: Server, count: int, files: int = 1) -> list[str]:
    names = [f"j{number}" for number in range(count)]
    for name in names:
        urls = ", ".join(f"{server.url(f'/{name}-{number}.bin')}" for number in range(files))
        daemon.drop(f"{name}.yaml", f"urls: [{urls}]\n")
    return names


def ended(daemon: DaemonProcess, names: list[str]) -> Callable[[], bool]:
    return lambda: all(daemon.ended(name) for name in names)


def some_ended(daemon: DaemonProcess, names: list[str], count: int) -> bool:
    return sum(daemon.ended(name) for name in names) >= count


def states(daemon: DaemonProcess, names: list[str]) -> set[str]:
    return {daemon.report(name)["state"] for name in names}


def attempts(daemon: DaemonProcess, name: str) -> list[int]:
    return [one["attempts"] for one in daemon.files(name)]


def recorded(daemon: DaemonProcess) -> dict[str, dict]:
    """What the state has of each origin."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{daemon.state}/fetchd.db?mode=ro", uri=True)) as db,
    ):
        rows = db.execute("SELECT origin, document FROM origin").fetchall()
        return {origin: json.loads(document) for origin, document in rows}
    return {}


def shown_origins(daemon: DaemonProcess) -> list[dict]:
    """What this life of the daemon shows of origins so far."""
    with suppress(OSError, ValueError):
        shown = json.loads((daemon.state / "status.json").read_text())
        if shown["pid"] == daemon.process.pid:
            return list(shown["report"]["origins"])
    return []


@pytest.mark.parametrize("keys", ["connections: 3", ""], ids=["its-own", "everybodys"])
def test_fifty_jobs_for_one_origin_never_exceed_its_connections(tmp_path: Path, keys):
    gauge = Gauge(slow("f", 0.05))
    with (
        Server(fallback=gauge) as server,
        DaemonProcess(tmp_path, "workers=16", "limits.connections_per_origin=5") as daemon,
    ):
        daemon.settings.append(origins_of(server, keys))
        daemon.start()
        names = drop_jobs(daemon, server, 50, files=2)
        wait_until(ended(daemon, names), 50, "the end of all jobs")

        assert states(daemon, names) == {"succeeded"}
        assert gauge.most == (3 if keys else 5)
        assert len(server.requests) == 100


def test_fifty_jobs_of_several_connections_each_never_exceed_those_of_their_origin(tmp_path: Path):
    """In waves, so that connections are lent, called back for the next wave, and lent again."""
    gauge = Gauge(file(content("f", 5_000_000), rate=20e6))
    with (
        Server(fallback=gauge) as server,
        DaemonProcess(tmp_path, "workers=8", "limits.connections_per_origin=5") as daemon,
    ):
        daemon.start()
        names = [f"j{number}" for number in range(50)]
        for at in range(0, 50, 3):
            for name in names[at : at + 3]:
                daemon.drop(f"{name}.yaml", f"url: {server.url(f'/{name}')}\nsegments: 4\n")
            wait_until(partial(some_ended, daemon, names, at + 1), 50, "one of the wave")
        wait_until(ended(daemon, names), 50, "the end of all jobs")

        assert states(daemon, names) == {"succeeded"}
        assert gauge.most == 5
        pieces = [r for r in server.requests if (r.header("Range") or "")[-1:].isdigit()]
        assert len(pieces) > 10
        assert not daemon.events("origin.window")


def test_a_429_of_one_run_stops_all_requests_of_all_runs_until_its_time(tmp_path: Path):
    with Server(fallback=file(content("f", 20_000))) as server, DaemonProcess(tmp_path) as daemon:
        server.routes["/busy.bin"] = _once(status(429, headers={"Retry-After": "5"}), server)
        daemon.start()
        daemon.drop("first.yaml", f"url: {server.url('/busy.bin')}\n")
        wait_until(lambda: daemon.events("origin.shut"), what="the gate")
        names = drop_jobs(daemon, server, 12)
        wait_until(lambda: len(daemon.events("job.accepted")) == 13, what="all jobs")
        wait_until(lambda: shown_origins(daemon), what="the status")
        shown = subprocess.run(
            [sys.executable, "-m", "fetchd", "origins", "--state", str(daemon.state), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        wait_until(ended(daemon, ["first", *names]), 20, "the end of all jobs")

        met, *rest = server.requests
        assert len(rest) == 13
        assert min(request.at_s for request in rest) >= met.at_s + 5.0
        assert states(daemon, ["first", *names]) == {"succeeded"}
        assert attempts(daemon, "first") == [2]
        assert [attempts(daemon, name) for name in names] == [[1]] * 12
        (one,) = json.loads(shown.stdout)
        assert (one["origin"], one["shut_reason"]) == (server.origin, "status 429")
        wait_until(lambda: daemon.events("origin.opened"), what="the word that it is open")
        assert len(daemon.events("origin.opened")) == 1


def test_a_429_of_one_run_keeps_another_from_the_sums_file_there(tmp_path: Path):
    body = content("f", 20_000)
    sums = file(f"{hashlib.sha256(body).hexdigest()}  f.bin\n".encode(), type="text/plain")
    with (
        Server({"/f.bin": file(body)}) as server,
        Server({"/busy.bin": status(429, headers={"Retry-After": "3"}), "/sums": sums}) as other,
        DaemonProcess(tmp_path) as daemon,
    ):
        daemon.start()
        daemon.drop("first.yaml", f"url: {other.url('/busy.bin')}\n")
        wait_until(lambda: daemon.events("origin.shut"), what="the gate")
        other.routes["/busy.bin"] = file(body)
        daemon.drop("second.yaml", f"url: {server.url('/f.bin')}\nsums: {other.url('/sums')}\n")
        wait_until(ended(daemon, ["first", "second"]), 20, "the end of both jobs")

        assert states(daemon, ["first", "second"]) == {"succeeded"}
        met, *rest = other.requests
        assert min(request.at_s for request in rest) >= met.at_s + 3.0
        assert attempts(daemon, "second") == [1]
        (waited,) = daemon.events("task.deferred")
        assert waited["wait"] == "sums"


def _once(first: Handler, server: Server) -> Handler:
    def answer(exchange: Exchange) -> None:
        (first if exchange.number == 1 else server.fallback)(exchange)

    return answer


def test_a_quota_that_a_good_answer_says_is_used_up_stops_all_until_it_is_filled(tmp_path: Path):
    last = file(content("f", 20_000), rate=10_000, headers={"RateLimit": '"default";r=0;t=1'})
    with Server(fallback=file(content("f", 20_000))) as server, DaemonProcess(tmp_path) as daemon:
        server.routes["/last.bin"] = last
        daemon.start()
        daemon.drop("first.yaml", f"url: {server.url('/last.bin')}\n")
        wait_until(lambda: daemon.events("origin.shut"), what="the gate")
        names = drop_jobs(daemon, server, 3)
        wait_until(ended(daemon, ["first", *names]), 20, "the end of all jobs")

        last_asked, *rest = server.requests
        assert min(request.at_s for request in rest) >= last_asked.at_s + 1.0
        assert [attempts(daemon, name) for name in ("first", *names)] == [[1]] * 4


def test_a_rate_of_requests_is_kept_by_all_runs_together(tmp_path: Path):
    with Server(fallback=file(content("f", 1000))) as server, DaemonProcess(tmp_path) as daemon:
        daemon.settings.append(origins_of(server, "requests: 10/s"))
        daemon.start()
        names = drop_jobs(daemon, server, 6, files=2)
        wait_until(ended(daemon, names), 20, "the end of all jobs")

        assert states(daemon, names) == {"succeeded"}
        assert len(server.requests) == 12
        # From the beginning of the first attempt to its request some time may have passed.
        began_s = server.requests[0].at_s
        for number, request in enumerate(server.requests):
            assert request.at_s - began_s > number * 0.1 - 0.5


def test_a_server_that_fails_is_asked_by_one_attempt_at_a_time_and_those_behind_are_not_charged(
    tmp_path: Path,
):
    well = threading.Event()

    def flaky(exchange: Exchange) -> None:
        (file(content("f", 1000)) if well.is_set() else status(500))(exchange)

    with (
        Server(fallback=flaky) as server,
        DaemonProcess(tmp_path, "retry.delay=300ms", "workers=6") as daemon,
    ):
        daemon.start()
        (tmp_path / "all").mkdir()
        names = drop_jobs(daemon, server, 30)

        def failing():
            return [one for one in daemon.events("origin.shut") if one["cause"] == "failing"]

        wait_until(lambda: len(failing()) >= 3, what="the third pause")
        pauses = failing()
        failed = list(server.requests)
        well.set()
        wait_until(ended(daemon, names), 30, "the end of all jobs")

        assert [pause["delay_s"] for pause in pauses[:3]] == [0.3, 0.6, 1.2]
        # Those that opened it, or were under way then; after that one a pause.
        assert len(failed) <= 5 + 5 + len(pauses) - 1
        first, second = failed[-2:]
        assert second.at_s - first.at_s >= 0.6
        assert states(daemon, names) == {"succeeded"}
        charged = sum(attempts(daemon, name)[0] - 1 for name in names)
        assert charged == sum(request.status == 500 for request in server.requests)
        assert charged < 20


@pytest.mark.parametrize("asks", [True, False], ids=["gate", "breaker"])
def test_what_shuts_an_origin_survives_a_kill(tmp_path: Path, asks):
    hostile = status(429, headers={"Retry-After": "4"}) if asks else status(500)
    with (
        Server(fallback=hostile) as server,
        DaemonProcess(tmp_path, "retry.delay=4s") as daemon,
    ):
        daemon.start()
        names = drop_jobs(daemon, server, 1 if asks else 5)
        wait_until(
            lambda: recorded(daemon).get(server.origin, {}).get("gate_s" if asks else "tries"),
            what="the record",
        )
        shut_s = max(request.at_s for request in server.requests)
        daemon.kill()
        count = len(server.requests)

        server.fallback = file(content("f", 1000))
        daemon.start()
        daemon.drop("later.yaml", f"url: {server.url('/later.bin')}\n")
        wait_until(ended(daemon, [*names, "later"]), 25, "the end of all jobs")

        assert states(daemon, [*names, "later"]) == {"succeeded"}
        assert server.requests[count].at_s >= shut_s + 3.9
        assert attempts(daemon, "later") == [1]


def test_what_was_learned_is_there_again_after_a_restart(tmp_path: Path):
    with Server(fallback=file(content("f", 600_000))) as server, DaemonProcess(tmp_path) as daemon:
        daemon.start()
        names = drop_jobs(daemon, server, 2)
        wait_until(ended(daemon, names), what="the end of the jobs")
        daemon.terminate()
        kept = recorded(daemon)[server.origin]
        daemon.start()
        wait_until(lambda: shown_origins(daemon), what="the status")
        (origin,) = shown_origins(daemon)

    assert kept["samples"] == 2
    assert origin["bytes_per_s"] == round(kept["bytes_per_s"], 1) > 0
    assert time.time() - origin["seen_at_s"] < 60
