"""The example with nearly every key, word for word: schedule to hook, and a kill -9 at each stage.

Its hosts are names that a proxy finds on this machine, by TLS; the clock says that it is night.
"""

from __future__ import annotations

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
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for inner in ("bin", "doc"):
            body = f"{name} {version} {inner}\n".encode()
            member = tarfile.TarInfo(f"{name}-{version}/{inner}/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


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
        argv = ["/bin/sh", "-c", f'pwd; ls "$0/current" >> {runs}', "--"]
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


@needs_faketime
def test_the_example_with_every_key_runs_night_after_night_as_it_stands(tmp_path):
    with night(tmp_path) as (mirror, machine):
        seen = mirror.publish(1, 1)
        machine.set_clock("2026-11-27 01:00")
        machine.boot()
        machine.drop("everything.yaml", EXAMPLE.read_text())
        wait_until(machine.kept, what="the job to be shown")
        machine.set_clock("2026-11-27 02:26")  # 03:15 in Berlin, and the jitter is over
        wait_until(lambda: machine.ended("ubuntu-mirror"), what="the first night")
        first = machine.report("ubuntu-mirror")
        assert current(machine) == seen

        seen = mirror.publish(2, 1)
        machine.set_clock("2026-11-28 02:26")
        wait_until(
            lambda: (
                machine.report("ubuntu-mirror")["run"] != first["run"]
                and machine.ended("ubuntu-mirror")
            ),
            what="the second night",
        )
        assert current(machine) == seen
        assert machine.terminate() == 0
