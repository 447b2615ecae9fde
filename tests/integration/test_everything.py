"""The example with nearly every key, word for word: schedule to hook, and a kill -9 at each stage.

Its hosts are names that a proxy finds on this machine, by TLS; the clock says that it is night.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from faults.hosts import Hosts
from faults.server import Exchange, Handler, Server, content, file
from integration.test_schedules import Machine, needs_faketime
from process import wait_until

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "everything.yaml"
PREFIXES = {"releases.example.org": "/24.04/", "m1.example.org": "/ubuntu/24.04/"}
MAGIC_AT = 32769
IMAGES = {
    f"{release}/u-{release}-{arch}.iso": f"{arch}/u-{release}.iso"
    for arch in ("amd64", "arm64")
    for release in ("01", "02", "03")
}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def image(path: str, version: int) -> bytes:
    body = bytearray(content(f"{path} {version}", 1_100_000))
    body[MAGIC_AT : MAGIC_AT + 5] = b"CD001"
    return bytes(body)


def package(name: str, version: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for inner in ("bin", "doc"):
            body = f"{name} {version} {inner}\n".encode()
            member = tarfile.TarInfo(f"{name}-{version}/{inner}/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return gzip.compress(packed.getvalue(), mtime=0)


class Mirror:
    """What the hosts serve; ``images`` and ``packages``: the versions of each."""

    def __init__(self, base: Path) -> None:
        self.hosts = Hosts(base, {host: {} for host in PREFIXES})
        self.told: list[dict] = []
        self.hooks = Server({"/hook": self._hear})

    def _hear(self, exchange: Exchange) -> None:
        self.told.append(json.loads(exchange.request.body))
        exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    def publish(self, images: int, packages: int, *, broken: str = "") -> dict[str, bytes]:
        """Serve these versions; returns what is to be seen of them."""
        seen: dict[str, bytes] = {}
        sums: list[str] = []
        routes: dict[str, Handler] = {}
        for path, name in IMAGES.items():
            body = image(path, images)
            sums.append(f"{sha256(body)}  {path}\n")
            seen[name] = body
            routes[path] = file(body if path != broken else body[:-1] + b"!")
        routes["SHA256SUMS"] = file("".join(sums).encode())
        listed = []
        for name in ("a", "b"):
            body = package(name, packages)
            listed.append({"url": f"pool/{name}.tar.gz", "sha256": sha256(body)})
            routes[f"pool/{name}.tar.gz"] = file(body)
            for inner in ("bin", "doc"):
                seen[f"{inner}/{name}"] = f"{name} {packages} {inner}\n".encode()
        index = json.dumps({"packages": listed}).encode()
        routes["packages.json"] = file(index)
        for host, prefix in PREFIXES.items():
            served = {prefix + path: handler for path, handler in routes.items()}
            self.hosts.servers[host].routes = served
        lines = (f"{sha256(body)}  {name}\n" for name, body in sorted(seen.items()))
        return {**seen, "packages.json": index, "SHA256SUMS": "".join(lines).encode()}

    def __enter__(self) -> Self:
        self.hosts.__enter__()
        self.hooks.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.hooks.__exit__(*exc)
        self.hosts.__exit__(*exc)


@contextmanager
def night(base: Path) -> Iterator[tuple[Mirror, Machine]]:
    """Return the hosts, and a machine whose operator has configured what the example names."""
    with Mirror(base) as mirror:
        runs = base / "reindexed"
        argv = ["/bin/sh", "-c", f'ls "$1/current" >> {runs}', "--"]
        command = {"argv": argv, "idempotent": True}
        settings = {
            "roots.mirrors": str(base / "mirrors"),
            "commands.reindex": command,
            "webhooks.notify": {"url": mirror.hooks.url("/hook")},
            "retry.poison": 0,
        }
        said = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        with Machine(base, *mirror.hosts.settings, *said) as m:
            yield mirror, m


def current(machine: Machine) -> dict[str, bytes]:
    folder = machine.base / "mirrors" / "ubuntu" / "current"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def await_run(machine: Machine, run: int, allowed: list[dict[str, bytes]]) -> None:
    """Wait for a run's end; until then readers see one of these sets, and nothing between."""

    def ended() -> bool:
        assert current(machine) in allowed
        report = machine.report("ubuntu-mirror")
        return report is not None and report["run"] == run and machine.ended("ubuntu-mirror")

    wait_until(ended, timeout_s=60, what=f"the end of run {run}")


def hold(machine: Machine) -> None:
    """See that the last run did all that the example asks for."""
    report = machine.report("ubuntu-mirror")
    assert report is not None
    assert (report["state"], report["failures"]) == ("succeeded", [])
    assert not [event for event in machine.events() if "fetchd://" in json.dumps(event)]


@needs_faketime
@pytest.mark.timeout(300)
def test_the_example_with_every_key_runs_night_after_night_as_it_stands(tmp_path):
    with night(tmp_path) as (mirror, machine):
        first = mirror.publish(images=1, packages=1)
        machine.set_clock("2026-11-27 01:00")
        machine.boot()
        machine.drop("everything.yaml", EXAMPLE.read_text())
        wait_until(machine.kept, what="the job to be shown")
        machine.set_clock("2026-11-27 02:26")  # 03:15 in Berlin, and the jitter is over
        await_run(machine, 1, [{}, first])
        hold(machine)
        assert current(machine) == first

        # Only images are new: the packages, whose index is the same, are not looked at, but stay.
        asked = len(mirror.hosts.servers["releases.example.org"].requests)
        second = mirror.publish(images=2, packages=1)
        machine.set_clock("2026-11-28 02:26")
        await_run(machine, 2, [first, second])
        hold(machine)
        assert current(machine) == second
        again = mirror.hosts.servers["releases.example.org"].requests[asked:]
        assert not [request for request in again if "/pool/" in request.path]

        # An image that is not what its sums say, on both hosts: nobody sees anything of that night.
        third = mirror.publish(images=3, packages=2, broken="02/u-02-arm64.iso")
        machine.set_clock("2026-11-29 02:26")
        await_run(machine, 3, [second])
        assert machine.report("ubuntu-mirror")["state"] == "failed"
        assert [said["event"] for said in mirror.told] == ["run.failed"]
        assert current(machine) == second

        mirror.publish(images=3, packages=2)
        machine.drop("ubuntu-mirror.retry", "")
        wait_until(
            lambda: machine.report("ubuntu-mirror")["state"] == "succeeded",
            timeout_s=60,
            what="the retry",
        )
        hold(machine)
        assert current(machine) == third
        assert machine.terminate() == 0

    assert (tmp_path / "reindexed").read_text().count("packages.json") == 3
    assert (machine.jobs / "everything.yaml").is_file()


@needs_faketime
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "failpoint",
    [
        "schedule.begun",
        "fetch.started:3",
        "transfer.received:2",
        "transfer.verified:5",
        "publish.intended:2",
        "publish.renamed:3",
        "publish.visible:4",
        "expand.decided",
        "expand.first_batch",
        "finish.step_begun",
        "finish.step_taken:3",
        "finish.sealed:3",
        "generation.recorded",
        "generation.link_made",
        "generation.swapped",
        "generation.shown",
        "finish.step_begun:6",
        "outbox.reported",
    ],
)
def test_p01_the_example_with_every_key_survives_a_kill_at_this_stage(tmp_path, failpoint):
    with night(tmp_path) as (mirror, machine):
        seen = mirror.publish(images=1, packages=1)
        machine.set_clock("2026-11-27 01:00")
        machine.boot(failpoint=failpoint)
        machine.drop("everything.yaml", EXAMPLE.read_text())
        wait_until(machine.kept, what="the job to be shown")
        machine.set_clock("2026-11-27 02:26")
        killed = machine.wait(60)
        machine.boot()
        wait_until(lambda: len(machine.events("service.started")) == 2, what="the second life")
        await_run(machine, 1, [{}, seen])
        code = machine.terminate()

    assert (killed, code) == (-signal.SIGKILL, 0)
    hold(machine)
    assert current(machine) == seen
    assert (tmp_path / "reindexed").is_file()
    assert machine.report("ubuntu-mirror")["run"] == 1
