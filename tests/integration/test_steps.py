"""Steps in a real daemon and in `get`: a kill -9 anywhere, and all is whole in the end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sevenzip
from faults.server import Server, content, file
from process import DaemonProcess, Watcher, visible_files, wait_until

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
BODIES = {f"f{i}.bin": content(f"steps{i}", 20_000 * (i + 1)) for i in range(4)}

FAILPOINTS = [
    "transfer.verified",
    "finish.step_begun",
    "finish.step_begun:3",
    "finish.step_taken",
    "finish.step_taken:2",
    "finish.sealed",
    "finish.sealed:3",
    "publish.intended",
    "publish.synced",
    "publish.renamed",
    "publish.renamed:2",
    "publish.folder_synced",
    "publish.visible",
]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def job(server: Server, *, checksums: bool = True) -> str:
    lines = "".join(
        f"  - {server.url('/' + name)}{f' sha256:{sha256(body)}' if checksums else ''}\n"
        for name, body in BODIES.items()
    )
    return f"dest: d\nsteps:\n  - mode: 0600\n  - mode: 0640\nurls:\n{lines}"


def left(daemon: DaemonProcess) -> list[str]:
    """Return what lies in the hidden folder, but for the records of what was made."""
    inner = daemon.downloads / ".fetchd"
    found = [path.relative_to(inner) for path in inner.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path.parts[0] != "made")


def check_all_right(daemon: DaemonProcess, name: str) -> None:
    report = daemon.report(name)
    assert (report["state"], report["tasks"]["succeeded"]) == ("succeeded", len(BODIES))
    found = {path.name: path.read_bytes() for path in visible_files(daemon.downloads)}
    assert found == BODIES
    for path in visible_files(daemon.downloads):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_nlink == 1
    assert left(daemon) == []


@pytest.mark.parametrize(
    ("failpoint", "checksums"),
    [
        *((failpoint, True) for failpoint in FAILPOINTS),
        ("finish.step_taken", False),
        ("publish.renamed:2", False),
    ],
)
def test_a08_a_crash_at_this_step_leaves_nothing_half_visible(tmp_path, failpoint, checksums):
    with (
        Server({f"/{name}": file(body) for name, body in BODIES.items()}) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        watcher = Watcher(
            daemon.downloads, {f"d/{name}": {sha256(body)} for name, body in BODIES.items()}
        )
        daemon.drop("s.yaml", job(server, checksums=checksums))
        watcher.start()
        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()
        watcher.finish()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    assert watcher.wrong == []
    check_all_right(daemon, "s")


def test_a_second_run_makes_nothing_again_until_something_is_missing(tmp_path):
    with (
        Server({f"/{name}": file(body) for name, body in BODIES.items()}) as server,
        DaemonProcess(tmp_path) as daemon,
    ):
        outcomes = []
        for run in range(3):
            daemon.drop("s.yaml", job(server, checksums=False))
            assert daemon.run_once() == 0
            outcomes.append(sorted(one["detail"] for one in daemon.files("s")))
            if run == 1:
                (daemon.downloads / "d/f0.bin").unlink()
        check_all_right(daemon, "s")

    assert outcomes == [
        ["downloaded"] * 4,
        ["up_to_date"] * 4,
        ["downloaded"] + ["up_to_date"] * 3,
    ]


def packed_tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def packed_7z(files: dict[str, bytes]) -> bytes:
    return sevenzip.archive([sevenzip.Member(*one) for one in files.items()], ["deflate"])


def packed_zip(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


@pytest.mark.parametrize("failpoint", ["", "finish.step_taken", "publish.renamed:2"])
def test_the_example_of_tools_extracts_its_archives(tmp_path, failpoint):
    lint = packed_tar(
        {"lint-2.4/bin/lint": b"#!", "lint-2.4/doc/x.html": b"<p>", "lint-2.4/lib/l.so": b"so" * 9}
    )
    fonts = packed_zip({"a.ttf": b"ttf", "b/c.otf": b"otf", "readme.txt": b"no"})
    routes = {
        "/tools/lint-2.4.tar.gz": file(lint),
        "/tools/fonts.zip": file(fonts),
        "/tools/SHA256SUMS": file(f"{sha256(lint)}  lint-2.4.tar.gz\n".encode()),
    }
    example = (EXAMPLES / "tools.yaml").read_text()
    with Server(routes) as server, DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        daemon.drop("tools.yaml", example.replace("https://rel.example.org", server.url("")))
        if failpoint:
            crashed = daemon.start("--once", failpoint=failpoint).wait()
            assert crashed == -signal.SIGKILL
        assert daemon.run_once() == 0

        found = {
            str(path.relative_to(daemon.downloads)): path.read_bytes()
            for path in visible_files(daemon.downloads)
        }
        assert left(daemon) == []
    assert found == {
        "tools/lint/bin/lint": b"#!",
        "tools/lint/lib/l.so": b"so" * 9,
        "share/fonts/a.ttf": b"ttf",
        "share/fonts/b/c.otf": b"otf",
    }


@pytest.mark.parametrize("pack", [packed_tar, packed_7z], ids=["tar", "7z"])
def test_a08_a_kill_while_an_archive_is_extracted_leaves_nothing_half_visible(tmp_path, pack):
    files = {f"d/{n}": content(str(n), 400_000) for n in range(150)}
    archive = pack(files)
    with (
        Server({"/a.tgz": file(archive)}) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        text = f"url: {server.url('/a.tgz')}\nchecksum: sha256:{sha256(archive)}\n"
        daemon.drop("a.yaml", f"{text}steps: [ extract ]\n")
        daemon.start()
        staged = daemon.downloads / ".fetchd/staging"
        wait_until(lambda: len(list(staged.glob("*/1/d/*"))) > 20, what="some files")
        daemon.kill()
        half = list(staged.glob("*/1/d/*"))
        assert visible_files(daemon.downloads) == []

        assert daemon.run_once() == 0
        found = {path.name: path.read_bytes() for path in visible_files(daemon.downloads)}

    assert 20 < len(half) < len(files)
    assert found == {name.removeprefix("d/"): data for name, data in files.items()}
    assert left(daemon) == []
    assert len(server.requests) == 1


def test_a_cancel_ends_a_step_that_is_under_way(tmp_path):
    archive = packed_tar({str(n): b"x" * 1000 for n in range(30_000)})
    with Server({"/a": file(archive)}) as server, DaemonProcess(tmp_path) as daemon:
        daemon.drop("a.yaml", f"url: {server.url('/a')}\nsteps: [ extract ]\n")
        daemon.start()
        staged = daemon.downloads / ".fetchd/staging"
        wait_until(lambda: len(list(staged.glob("*/1/*"))) > 5, what="some files")
        (daemon.jobs / "a.cancel").touch()
        wait_until(lambda: daemon.ended("a"), what="the end")
        wait_until(lambda: not left(daemon), what="the sweep")
        assert daemon.terminate() == 0

    assert daemon.report("a")["state"] == "cancelled"
    assert visible_files(daemon.downloads) == []
    assert not daemon.events("step.done")


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("moment", ["while it runs", "when it has ended", "when all is sealed"])
def test_a_crash_lets_only_what_may_run_twice_do_so(tmp_path, idempotent, moment):
    log, go = tmp_path / "ran", tmp_path / "go"
    script = (
        f"echo run >> {log}; test {moment == 'while it runs':d} = 0 || test -e {go} || sleep 60"
    )
    with (
        Server({"/a.bin": file(b"x" * 1000)}) as server,
        DaemonProcess(
            tmp_path,
            "retry.poison=0",
            f"commands.it.argv=[/bin/sh, -c, '{script}']",
            f"commands.it.idempotent={str(idempotent).lower()}",
        ) as daemon,
    ):
        url = server.url("/a.bin")
        body = f"url: {url}\nchecksum: sha256:{sha256(b'x' * 1000)}\nsteps: [ run: it ]\n"
        daemon.drop("s.yaml", body.replace("run: it", "{ run: it }"))
        if moment == "while it runs":
            daemon.start()
            wait_until(log.exists, what="the command")
            daemon.kill()
        else:
            point = "finish.step_taken" if moment == "when it has ended" else "finish.sealed"
            assert daemon.start("--once", failpoint=point).wait() == -signal.SIGKILL
        go.touch()
        code = daemon.run_once()

    times = len(log.read_text().split())
    if idempotent:
        assert (code, times) == (0, 2)
        assert [path.name for path in visible_files(daemon.downloads)] == ["a.bin"]
        return
    (failure,) = daemon.report("s")["failures"]
    assert (code, times, failure["code"]) == (1, 1, "needs_attention")
    assert visible_files(daemon.downloads) == []


def test_a_crash_when_what_a_command_has_made_is_published_does_not_run_it_again(tmp_path):
    log = tmp_path / "ran"
    with (
        Server({"/a.bin": file(b"x" * 1000)}) as server,
        DaemonProcess(
            tmp_path, "retry.poison=0", f"commands.it.argv=[/bin/sh, -c, 'echo run >> {log}']"
        ) as daemon,
    ):
        daemon.drop("s.yaml", f"url: {server.url('/a.bin')}\nsteps: [ {{ run: it }} ]\n")
        crashed = daemon.start("--once", failpoint="publish.intended").wait()
        code = daemon.run_once()

    assert (crashed, code, log.read_text()) == (-signal.SIGKILL, 0, "run\n")
    assert [path.name for path in visible_files(daemon.downloads)] == ["a.bin"]
    assert left(daemon) == []


def test_get_takes_steps_too_and_leaves_nothing_behind(tmp_path):
    body = content("get", 50_000)
    with Server({"/a.bin": file(body)}) as server:
        (tmp_path / "j.yaml").write_text(
            f"url: {server.url('/a.bin')}\nsteps: [ {{ mode: 0600 }} ]\n"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "fetchd",
                "get",
                "j.yaml",
                "--dest",
                "out",
                "--set",
                "network.allow=[loopback]",
            ],
            cwd=tmp_path,
            env={**os.environ, "FETCHD_CONFIG": os.devnull},
            capture_output=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a.bin").read_bytes() == body
    assert stat.S_IMODE((tmp_path / "out/a.bin").stat().st_mode) == 0o600
    parts = tmp_path / "out/.fetchd"
    assert not [p for p in parts.rglob("*") if p.is_file() and p.parent.name != "made"]


def test_the_step_under_way_is_in_the_log(tmp_path):
    with (
        Server({"/a.bin": file(b"x")}) as server,
        DaemonProcess(tmp_path, "log.level=debug", "finishers=1") as daemon,
    ):
        daemon.drop("s.yaml", f"url: {server.url('/a.bin')}\nsteps: [ {{ mode: 0600 }} ]\n")
        daemon.start("--once")
        wait_until(lambda: daemon.events("step.done"), what="the step")
        assert daemon.wait() == 0

    (done,) = daemon.events("step.done")
    assert (done["step"], done["number"], done["thread"]) == ("mode", 1, "finisher-0")


VALUES = """
base: {url}
dest: tools
tasks:
  index: {{ url: index.json, if_exists: overwrite }}
  tools:
    from: {{ file: "${{needs.index.path}}", format: json }}
    url: ${{item.name}}
    checksum: sha256:${{item.sha256}}
    steps: [ {{ checksum_file: {{ name: "${{item.name}}-${{item.version}}.sha256" }} }} ]
  docs:
    matrix: {{ lang: [ de, en ] }}
    url: ${{lang}}.txt
    filename: ${{lang}}/doc.txt
    steps: [ {{ symlink: {{ name: "latest-${{matrix.lang}}", to: doc.txt }} }} ]
"""


@pytest.mark.parametrize("failpoint", ["expand.second_batch", "finish.step_begun", "finish.sealed"])
def test_steps_use_values_of_a_matrix_and_fields_of_an_item_over_a_crash(tmp_path, failpoint):
    def index(version: str) -> bytes:
        return json.dumps(
            [{"name": "lint", "version": version, "sha256": sha256(b"lint")}]
        ).encode()

    routes = {
        "/index.json": file(index("1.9")),
        "/lint": file(b"lint"),
        "/de.txt": file(b"de"),
        "/en.txt": file(b"en"),
    }
    with Server(routes) as server, DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        seen: list[tuple[set[str], bool]] = []
        for version in ("1.9", "1.9", "1.10"):
            server.routes["/index.json"] = file(index(version))
            daemon.drop("v.yaml", VALUES.format(url=server.url("/")))
            if not seen:
                assert daemon.start("--once", failpoint=failpoint).wait() in {-signal.SIGKILL, 0}
            since = len(server.requests)
            assert daemon.run_once() == 0
            asked = {request.path for request in server.requests[since:]}
            names = {path.name for path in (daemon.downloads / "tools").iterdir()}
            seen.append((names, "/lint" in asked))
        daemon.report("v")

    names = {"index.json", "lint", "lint-1.9.sha256", "de", "en"}
    assert seen[1:] == [(names, False), (names | {"lint-1.10.sha256"}, True)]
    assert seen[0][0] == names
    for lang in ("de", "en"):
        link = daemon.downloads / f"tools/{lang}/latest-{lang}"
        assert (str(link.readlink()), link.read_text()) == ("doc.txt", lang)
    assert left(daemon) == []


def test_a_field_that_makes_no_name_fails_its_own_task_and_says_so(tmp_path):
    index = json.dumps([{"name": "a", "v": "../x"}, {"name": "b", "v": "fine"}]).encode()
    routes = {"/index.json": file(index), "/a": file(b"a"), "/b": file(b"b")}
    text = VALUES.replace("    checksum: sha256:${{item.sha256}}\n", "").partition("  docs:")[0]
    text = text.replace("${{item.name}}-${{item.version}}.sha256", "${{item.v}}")
    with Server(routes) as server, DaemonProcess(tmp_path) as daemon:
        daemon.drop("v.yaml", text.format(url=server.url("/")))
        code = daemon.run_once()
        found = {one["path"]: (one["state"], one["reason"]) for one in daemon.files("v")}

    assert code == 1
    assert found["tools/b"] == ("succeeded", "")
    assert found["tools/a"] == ("failed", "checksum_file: name: '../x' is no file name")
    assert sorted(path.name for path in (daemon.downloads / "tools").iterdir()) == [
        "b",
        "fine",
        "index.json",
    ]
