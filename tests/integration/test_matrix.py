"""A matrix with a real daemon: thousands of combinations, each once, whatever happens."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files, wait_until


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["folder.accepted", "expand.second_batch"])
def test_a_crash_while_a_matrix_is_made_loses_no_combination_and_doubles_none(tmp_path, failpoint):
    with (
        Server(fallback=file(content("small", 10))) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        daemon.drop(
            "matrix.yaml",
            "matrix: { arch: [amd64, arm64], n: 0001..1100, exclude: [{ arch: arm64, n: 0007 }] }\n"
            f"url: {server.url('/${arch}/${n}.bin')}\n"
            "dest: ${matrix.arch}\n",
        )

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    found = {str(path.relative_to(daemon.downloads)) for path in visible_files(daemon.downloads)}
    wanted = {f"{arch}/{n:04}.bin" for arch in ("amd64", "arm64") for n in range(1, 1101)}
    assert found == wanted - {"arm64/0007.bin"}
    report = daemon.report("matrix")
    assert (report["state"], report["tasks"]["succeeded"]) == ("succeeded", 2199)
    assert sorted(line["path"] for line in daemon.files("matrix")) == sorted(found)


def test_the_example_with_a_matrix_runs_as_it_stands_but_for_its_hosts(tmp_path):
    example = Path(__file__).parents[2] / "config" / "examples" / "matrix.yaml"
    disk = content("disk", 1000)
    sums = "".join(
        f"{hashlib.sha256(disk).hexdigest()}  disk-{arch}.img\n"
        for arch in ("amd64", "arm64", "riscv64")
    )
    with Server(fallback=file(disk)) as server, DaemonProcess(tmp_path) as daemon:
        for series in ("22.04", "24.04"):
            server.routes[f"/rel/{series}/SHA256SUMS"] = file(sums.encode())
        text = example.read_text()
        for host in ("https://rel.example.org", "https://mirror.example.net/rel"):
            text = text.replace(host, server.url("/rel").removesuffix("/"))
        daemon.drop("matrix.yaml", text)

        assert daemon.run_once() == 0

    found = {str(path.relative_to(daemon.downloads)) for path in visible_files(daemon.downloads)}
    assert len(found) == 5 + 7
    assert "images/24.04/disk-riscv64.img" in found
    assert len([path for path in found if path.startswith("logs/build-20")]) == 7


def test_the_first_combination_of_a_million_begins_before_the_last_is_made(tmp_path):
    with (
        Server(fallback=file(content("x", 100), rate=2000)) as server,
        DaemonProcess(tmp_path) as daemon,
    ):
        daemon.start()
        daemon.drop(
            "many.yaml", f"matrix: {{ n: 0..999999 }}\nurl: {server.url('/${n}.bin')}\ndest: d\n"
        )
        wait_until(lambda: server.requests, what="the first request")
        expanded = daemon.events("run.expanded")
        daemon.drop("many.cancel", "")
        wait_until(lambda: daemon.report("many")["state"] == "cancelled", what="the cancelled run")

        assert daemon.terminate() == 0

    assert not expanded
    assert daemon.report("many")["tasks"]["cancelled"] >= 1000
