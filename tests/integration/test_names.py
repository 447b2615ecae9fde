"""Files that their servers name, with a real daemon: crashes, conflicts, later runs, `get`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from hashlib import sha256

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, Watcher, visible_files

BODIES = {number: content(f"named{number}", 50_000 * (number + 1)) for number in range(4)}
NAMES = {0: "a b.bin", 1: "b.bin", 2: "€.bin", 3: "get"}
SAID = {
    0: 'attachment; filename="a b.bin"',
    1: 'attachment; filename="../../etc/b.bin"',
    2: "attachment; filename=x; filename*=UTF-8''%E2%82%AC.bin",
    3: 'attachment; filename=".."',  # the name is that of the URL then
}

JOB = """
base: {url}
dest: d
filename: {{ from: header }}
urls:
  - /get?id=0
  - /moved?id=1
  - /get?id=2
  - /get?id=3
"""


def server_of(said=SAID) -> Server:
    """Files by the number in the query; a redirect that would give another name leads to one."""
    files = {n: file(body, headers={"Content-Disposition": said[n]}) for n, body in BODIES.items()}

    def get(exchange) -> None:
        files[int(exchange.request.target.rpartition("=")[2])](exchange)

    def moved(exchange) -> None:
        exchange.head(
            302,
            "Found",
            {
                "Location": "/get?id=1",
                "Content-Disposition": "attachment; filename=evil",
                "Content-Length": "0",
            },
        )

    return Server({"/get": get, "/moved": moved})


def seen(daemon: DaemonProcess) -> dict[str, bytes]:
    return {
        str(path.relative_to(daemon.downloads)): path.read_bytes()
        for path in visible_files(daemon.downloads)
    }


WANTED = {f"d/{NAMES[n]}": body for n, body in BODIES.items()}


@pytest.mark.parametrize(
    "failpoint",
    ["fetch.started:2", "transfer.named", "transfer.named:3", "fetch.ended:2", "fetch.started:5",
     "transfer.received", "transfer.verified", "publish.renamed", "publish.visible:2"],
)  # fmt: skip
def test_a_crash_before_or_behind_the_name_loses_and_doubles_nothing(tmp_path, failpoint):
    with server_of() as server, DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        watcher = Watcher(
            daemon.downloads, {path: {sha256(body).hexdigest()} for path, body in WANTED.items()}
        )
        daemon.drop("n.yaml", JOB.format(url=server.url("/")))
        watcher.start()
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()
        watcher.finish()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    assert watcher.wrong == []
    assert seen(daemon) == WANTED
    assert {one["path"] for one in daemon.files("n")} == set(WANTED)
    assert [one["attempts"] for one in daemon.files("n")] == [1] * 4
    assert not list((daemon.downloads / ".fetchd" / "parts").iterdir())


def test_a_later_run_asks_for_the_name_and_then_whether_the_file_has_changed(tmp_path):
    with server_of() as server, DaemonProcess(tmp_path) as daemon:
        for _ in range(2):
            since = len(server.requests)
            daemon.drop("n.yaml", JOB.format(url=server.url("/")))
            assert daemon.run_once() == 0
        asked = server.requests[since:]

    assert [one["detail"] for one in daemon.files("n")] == ["up_to_date"] * 4
    conditions = [request.header("If-None-Match") for request in asked]
    assert sum(one is None for one in conditions) == 5  # and the redirect of one
    assert seen(daemon) == WANTED


def test_of_two_files_with_one_name_the_second_fails_and_the_other_is_whole(tmp_path):
    said = dict.fromkeys(BODIES, 'attachment; filename="same.bin"')
    with server_of(said) as server, DaemonProcess(tmp_path) as daemon:
        daemon.drop("n.yaml", JOB.format(url=server.url("/")))
        code = daemon.run_once()

        failed = [one for one in daemon.files("n") if one["state"] == "failed"]

    assert code == 1
    assert [one["detail"] for one in failed] == ["dest_conflict"] * 3
    assert {one["reason"] for one in failed} == {
        "d/same.bin: another task of this run has the same destination"
    }
    ((path, body),) = seen(daemon).items()
    assert path == "d/same.bin"
    assert body in BODIES.values()


@pytest.mark.parametrize(
    "said",
    ['attachment; filename=".fetchd"', 'attachment; filename="a\tb"', 'attachment; filename="/"',
     f'attachment; filename="{"x" * 256}"', "attachment; filename*=UTF-8''%00", "nonsense", ""],
)  # fmt: skip
def test_d12_a_name_that_may_not_be_is_not_used(tmp_path, said):
    routes = {
        "/get": file(b"x", headers={"Content-Disposition": said}),
        "/": file(b"y", headers={"Content-Disposition": said}),
    }
    with Server(routes) as server, DaemonProcess(tmp_path) as daemon:
        urls = f"urls: [ '{server.url('/get')}', '{server.url('/')}' ]"
        daemon.drop("n.yaml", f"filename: {{ from: header }}\n{urls}\n")
        code = daemon.run_once()
        (failed,) = [one for one in daemon.files("n") if one["state"] == "failed"]

    assert code == 1
    assert seen(daemon) == {"get": b"x"}
    assert failed["detail"] == "bad_item"
    assert "give a filename" in failed["reason"]


def test_get_names_files_as_their_servers_do(tmp_path):
    with server_of() as server:
        path = tmp_path / "n.yaml"
        path.write_text(JOB.format(url=server.url("/")))
        done = subprocess.run(
            [sys.executable, "-m", "fetchd", "get", "--set", "network.allow=[public, loopback]",
             "--json", "--dest", str(tmp_path / "out"), str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert {one["path"] for one in run["files"]} == set(WANTED)
    found = {
        str(p.relative_to(tmp_path / "out")): p.read_bytes()
        for p in visible_files(tmp_path / "out")
    }
    assert found == WANTED
