"""An index somewhere becomes tasks, with a real daemon: each child once, whatever happens."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from bench.fan_out import measure
from faults.server import Server, content, file, flapping
from process import DaemonProcess, visible_files, wait_until

#: One stage each in which the process dies: the index, the decision, the batches, the children.
FAILPOINTS = [
    "publish.renamed",
    "expand.decided",
    "expand.first_batch",
    "expand.second_batch:2",
    "publish.renamed:9",
]
MORE_FAILPOINTS = [
    "folder.accepted",
    "fetch.started",
    "transfer.verified",
    "publish.visible",
    "expand.second_batch",
    "fetch.started:40",
    "transfer.verified:700",
    "publish.intended:3",
    "publish.visible:5",
    "outbox.reported",
]

JOB = """
tasks:
  index:
    url: {url}
  packages:
    from: {{ file: "${{needs.index.path}}", format: json, items: "packages[*]" }}
    if: ${{needs.index.changed}}
    url: ${{item.url}}
    checksum: sha256:${{item.sha256}}
    dest: packages
"""


def package(number: int) -> bytes:
    return bytes(content(f"package{number}", 20))


def index_of(count: int) -> bytes:
    packages = [
        {"url": f"p/{number}.bin", "sha256": hashlib.sha256(package(number)).hexdigest()}
        for number in range(count)
    ]
    return json.dumps({"version": 1, "packages": packages}).encode()


def routes(count: int):
    made = {f"/pool/p/{number}.bin": file(package(number)) for number in range(count)}
    return made | {"/pool/index.json": file(index_of(count))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "failpoint",
    [*FAILPOINTS, *(pytest.param(name, marks=pytest.mark.long) for name in MORE_FAILPOINTS)],
)
def test_a_crash_at_any_stage_of_a_fan_out_loses_no_child_and_doubles_none(tmp_path, failpoint):
    count = 2_300
    with (
        Server(routes(count)) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    found = {
        str(path.relative_to(daemon.downloads)): path.read_bytes()
        for path in visible_files(daemon.downloads)
    }
    wanted = {f"packages/{number}.bin": package(number) for number in range(count)}
    assert found == wanted | {"index.json": index_of(count)}
    report = daemon.report("job")
    assert (report["state"], report["tasks"]["total"]) == ("succeeded", count + 1)
    with sqlite3.connect(daemon.state / "fetchd.db") as db:
        assert db.execute("SELECT count(*) FROM task").fetchone() == (count + 1,)


def test_the_next_run_works_on_an_index_only_if_it_has_changed(tmp_path):
    with Server(routes(3)) as server, DaemonProcess(tmp_path) as daemon:

        def run() -> tuple[str, set[str]]:
            daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))
            since = len(server.requests)
            assert daemon.run_once() == 0
            asked = {request.path for request in server.requests[since:]}
            return daemon.report("job")["state"], asked - {"/pool/index.json"}

        first = run()
        second = run()
        server.routes |= {"/pool/index.json": file(index_of(4)), "/pool/p/3.bin": file(package(3))}
        third = run()

    assert first == ("succeeded", {f"/pool/p/{number}.bin" for number in range(3)})
    assert second == ("succeeded", set())
    assert third == ("succeeded", {"/pool/p/3.bin"})  # the others have their checksum


def test_the_example_with_an_index_runs_as_it_stands_but_for_its_host(tmp_path):
    example = Path(__file__).parents[2] / "config" / "examples" / "index.yaml"
    sha = hashlib.sha256(package(1)).hexdigest()
    listed = {"name": "a", "version": "1.10", "url": "p/1.bin", "sha256": sha}
    gone = listed | {"name": "b", "url": "p/gone.bin"}
    made = routes(2) | {"/LICENSE.txt": file(b"license")}
    made["/pool/index.json"] = file(json.dumps({"packages": [listed, gone]}).encode())
    with Server(made) as server, DaemonProcess(tmp_path) as daemon:
        host = server.url("").removesuffix("/")
        daemon.drop("index.yaml", example.read_text().replace("https://rel.example.org", host))

        assert daemon.run_once() == 1

    assert daemon.report("packages")["state"] == "partial"
    found = {str(path.relative_to(daemon.downloads)) for path in visible_files(daemon.downloads)}
    assert found == {"pool/index.json", "pool/packages/a-1.10.tar.gz", "pool/LICENSE.txt"}


def test_a_manifest_that_is_no_such_thing_fails_its_task_and_says_where(tmp_path):
    with Server(routes(2)) as server, DaemonProcess(tmp_path) as daemon:
        server.routes["/pool/index.json"] = file(index_of(2)[:-2] + b", {]")
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))

        assert daemon.run_once() == 1

    assert {path.name for path in visible_files(daemon.downloads)} == {
        "index.json",
        "0.bin",
        "1.bin",
    }
    (failed,) = daemon.report("job")["failures"]
    assert failed["code"] == "bad_manifest"
    assert failed["reason"].startswith("index.json: item 3: is not JSON: ")


def test_a_manifest_that_was_mended_is_read_anew_by_a_retry(tmp_path):
    count = 1_100
    with Server(routes(count)) as server, DaemonProcess(tmp_path) as daemon:
        manifest = daemon.downloads / "index.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_bytes(index_of(count)[:-2] + b", {]")
        daemon.drop(
            "job.yaml",
            "from: { file: index.json, format: json, items: 'packages[*]' }\n"
            f"base: {server.url('/pool/')}\nurl: ${{item.url}}\n",
        )
        assert daemon.run_once() == 1
        asked = len(server.requests)
        server.routes["/pool/p/new.bin"] = file(b"new")
        manifest.write_bytes(index_of(count)[:-2] + b', {"url": "p/new.bin"}]}')
        daemon.drop("job.retry", "")

        assert daemon.run_once() == 0

    report = daemon.report("job")
    assert (report["state"], report["tasks"]["total"]) == ("succeeded", count + 1)
    assert [request.path for request in server.requests[asked:]] == ["/pool/p/new.bin"]


def test_a_list_that_failed_as_a_whole_is_brought_back_and_read_anew_by_a_retry(tmp_path):
    with Server(routes(3)) as server, DaemonProcess(tmp_path) as daemon:
        urls = "".join(server.url(f"/pool/p/{number}.bin\n") for number in range(3))
        daemon.drop("l.urls", urls)
        crashed = daemon.start("--once", failpoint="folder.accepted").wait()
        taken = daemon.jobs / "active" / "l.urls"
        taken.rename(daemon.base / "away")
        taken.mkdir()
        failed = daemon.run_once()
        (reason,) = [failure["code"] for failure in daemon.report("l")["failures"]]
        for folder in ("active", "failed"):
            shutil.rmtree(daemon.jobs / folder / "l.urls", ignore_errors=True)
        (daemon.base / "away").rename(daemon.jobs / "failed" / "l.urls")
        daemon.drop("l.retry", "")

        again = daemon.run_once()

    assert (crashed, failed, reason, again) == (-signal.SIGKILL, 1, "list_changed", 0)
    assert daemon.report("l")["tasks"]["total"] == 3
    assert (daemon.jobs / "done" / "l.urls").exists()


def test_a_daemon_outlives_a_manifest_that_kills_it_each_time(tmp_path):
    with Server(routes(2)) as server, DaemonProcess(tmp_path, "retry.poison=1") as daemon:
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))
        codes = [daemon.start("--once", failpoint="expand.first_batch").wait() for _ in range(2)]
        daemon.drop("other.yaml", f"url: {server.url('/pool/p/0.bin')}\n")

        last = daemon.start("--once", failpoint="expand.first_batch").wait()

    assert (codes, last) == ([-signal.SIGKILL] * 2, 1)
    assert [failure["code"] for failure in daemon.report("job")["failures"]] == ["poison"]
    assert daemon.report("other")["state"] == "succeeded"


def test_whoever_fails_to_fetch_the_index_skips_its_children(tmp_path):
    with Server({}) as server, DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))

        assert daemon.run_once() == 1
        server.routes |= routes(2)
        daemon.drop("job.retry", "")
        assert daemon.run_once() == 0

    assert {path.name for path in visible_files(daemon.downloads)} == {
        "index.json",
        "0.bin",
        "1.bin",
    }


def test_children_of_one_destination_fail_alone(tmp_path):
    with Server(routes(3)) as server, DaemonProcess(tmp_path) as daemon:
        index = json.loads(index_of(3))
        index["packages"].insert(1, index["packages"][0])
        server.routes["/pool/index.json"] = file(json.dumps(index).encode())
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))

        assert daemon.run_once() == 1

    report = daemon.report("job")
    assert [failure["code"] for failure in report["failures"]] == ["dest_conflict"]
    assert report["tasks"]["succeeded"] == 4


@pytest.mark.parametrize(
    ("form", "more", "manifest"),
    [
        ("lines", "", b"# files\np/0.bin\np/1.bin\n"),
        ("csv", "url: ${item.file}\n", b"file,size\np/0.bin,20\np/1.bin,20\n"),
        ("jsonl", "url: p/${item.n}.bin\n", b'{"n": 0}\n{"n": 1}\n'),
        (
            "sums",
            "",
            b"".join(
                f"{hashlib.sha256(package(n)).hexdigest()}  p/{n}.bin\n".encode() for n in (0, 1)
            ),
        ),
        ("html", "", b"<html><a href='p/0.bin'>0</a><a href=../x.zip>x</a><a href=p/1.bin>1</a>"),
    ],
)
def test_each_format_of_a_local_manifest_makes_its_children(tmp_path, form, more, manifest):
    with Server(routes(2)) as server, DaemonProcess(tmp_path) as daemon:
        (daemon.downloads / "in").mkdir(parents=True)
        (daemon.downloads / "in" / "list").write_bytes(manifest)
        pattern = ", pattern: '*.bin'" if form == "html" else ""
        daemon.drop(
            "job.yaml",
            f"base: {server.url('/pool/')}\ndest: out\n"
            f"from: {{ file: in/list, format: {form}{pattern} }}\n{more}",
        )

        assert daemon.run_once() == 0

    out = {path.name: path.read_bytes() for path in (daemon.downloads / "out").rglob("*.bin")}
    assert out == {"0.bin": package(0), "1.bin": package(1)}


def test_the_first_child_begins_before_the_last_item_is_read(tmp_path):
    with (
        Server(fallback=file(content("x", 100), rate=2000)) as server,
        DaemonProcess(tmp_path) as daemon,
    ):
        (daemon.downloads).mkdir(parents=True)
        with (daemon.downloads / "list.jsonl").open("w") as lines:
            lines.writelines(f'{{"n": {number}}}\n' for number in range(100_000))
        daemon.start()
        daemon.drop(
            "job.yaml",
            f"base: {server.url('/')}\ndest: out\n"
            "from: { file: list.jsonl, format: jsonl }\nurl: ${item.n}.bin\n",
        )
        wait_until(lambda: server.requests, what="the first child")

        assert not daemon.events("run.expanded")
        daemon.drop("job.cancel", "")
        wait_until(lambda: daemon.report("job")["state"] == "cancelled", what="the cancelled run")
        assert daemon.terminate() == 0


def test_a_list_of_aria2c_is_dropped_as_it_is(tmp_path):
    body = package(0)
    with Server({"/b": file(body), "/c": file(b"c")}) as server, DaemonProcess(tmp_path) as daemon:
        sha256 = hashlib.sha256(body).hexdigest()
        daemon.drop(
            "old.aria2",
            f"{server.url('/gone')}\t{server.url('/b')}\n  out=x.bin\n  dir=old\n"
            f"  checksum=sha-256={sha256}\n{server.url('/c')}\n",
        )
        daemon.drop("bad.aria2", f"{server.url('/c')}\n  refrer=x\n")

        daemon.run_once()

    found = {str(path.relative_to(daemon.downloads)) for path in visible_files(daemon.downloads)}
    assert found == {"old/x.bin", "c"}
    assert daemon.report("old")["state"] == "succeeded"
    error = (daemon.jobs / "reports" / "bad.aria2.error.txt").read_text()
    assert "bad.aria2:2:1: the option 'refrer' is not known" in error


def fans_out_as_a_stream(base: Path, items: int) -> None:
    found = measure(base, items)

    assert found["first_child_s"] < 5
    assert found["peak_mib"] < 250


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_fan_out_of_thirty_thousand_items_is_a_stream(tmp_path):
    fans_out_as_a_stream(tmp_path, 30_000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_fan_out_of_a_million_items_is_a_stream(tmp_path):
    fans_out_as_a_stream(tmp_path, 1_000_000)


def test_an_index_whose_connection_breaks_is_whole_before_its_children_begin(tmp_path):
    whole = index_of(2)
    with Server(routes(2)) as server, DaemonProcess(tmp_path) as daemon:
        server.routes["/pool/index.json"] = flapping(
            file(whole, cut_after=len(whole) // 2), file(whole)
        )
        daemon.drop("job.yaml", JOB.format(url=server.url("/pool/index.json")))

        assert daemon.run_once() == 0

    assert (daemon.downloads / "index.json").read_bytes() == whole
