"""Outputs that appear together, by a real daemon: what a reader of ``current`` sees, and when."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from faults.server import Server, file, status
from process import DaemonProcess, wait_until

JOB = """
name: channel
publish: {{ atomic: true, keep: {keep} }}
base: {base}
dest: ch
tasks:
  index:
    url: index.json
  packages:
    from: {{ file: "${{needs.index.path}}", format: json }}
    if: ${{needs.index.changed}}
    url: ${{item.url}}
    dest: ch/pool
  fixed:
    url: fixed.bin
  stamp:
    url: stamp
    if_exists: overwrite
"""
#: What is told of everything that a crash may come behind.
FAILPOINTS = (
    "generation.noted",
    "generation.noted:3",
    "generation.linked",
    "generation.carried",
    "generation.recorded",
    "generation.synced",
    "generation.closed",
    "generation.link_made",
    "generation.swapped",
    "generation.shown",
    "generation.file_removed",
    "generation.removed",
)


@pytest.fixture
def server():
    routes = {"/fixed.bin": file(b"f" * 1000)}
    with Server(routes) as made:
        serve(made, 1)
        yield made


def serve(server: Server, version: int, *, index: int | None = None) -> None:
    """Have another version of all but what never changes; of the index only if that is named."""
    text = str(version).encode()
    names = [f"p{number}" for number in range(4)]
    listed = json.dumps([{"url": name} for name in names]).encode()
    server.routes["/index.json"] = file(
        listed + b" " * (index or version), etag=f'"i{index or version}"'
    )
    server.routes["/stamp"] = file(text, etag=f'"s{version}"')
    for name in names:
        server.routes[f"/{name}"] = file(text * 1000, etag=f'"{name}{version}"')


def job(server: Server, keep: int = 2) -> str:
    return JOB.format(keep=keep, base=server.url("/"))


def current(daemon: DaemonProcess, dest: str = "ch") -> dict[str, str]:
    return files(daemon.downloads / dest / "current")


def files(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in found}


def generations(daemon: DaemonProcess, dest: str = "ch") -> list[Path]:
    found = (daemon.downloads / dest / "generations").iterdir()
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def whole(daemon: DaemonProcess, version: int, pool: int | None = None) -> bool:
    found = current(daemon)
    pools = [found.get(f"pool/p{number}", "") for number in range(4)]
    return (
        len(found) == 7
        and found["stamp"] == str(version)
        and set(pools) == {str(pool or version) * 1000}
    )


def run(daemon: DaemonProcess, text: str, name: str = "channel.yaml") -> int:
    daemon.drop(name, text)
    return daemon.run_once()


class Reader(threading.Thread):
    """Reads all that is seen below ``current``, again and again: it has to be of one version."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="reader", daemon=True)
        self.folder = folder
        self.ending = threading.Event()
        self.seen: list[str] = []
        self.wrong: list[str] = []
        self.looked = 0

    def run(self) -> None:
        while not self.ending.is_set():
            self.look()

    def look(self) -> None:
        try:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if self.seen:
                self.wrong.append("there was nothing for an instant")
            return
        try:
            names = ["stamp", *(f"pool/p{number}" for number in range(4))]
            versions = {self.read(fd, name)[:1] for name in names}
            versions |= {"?"} if len(self.read(fd, "fixed.bin")) != 1000 else set()
        except FileNotFoundError as exc:
            versions = {f"no {exc.filename}"}
        finally:
            os.close(fd)
        self.looked += 1
        if len(versions) != 1:
            self.wrong.append(" and ".join(sorted(versions)))
        elif not self.seen or versions != {self.seen[-1]}:
            self.seen += versions

    @staticmethod
    def read(fd: int, name: str) -> str:
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        with os.fdopen(inner) as stream:
            return stream.read()

    def finish(self) -> None:
        self.ending.set()
        self.join(10)


def test_a_reader_sees_one_version_or_the_next_and_never_some_of_both(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        reader = Reader(daemon.downloads / "ch/current")
        reader.start()
        daemon.start()
        for version in range(1, 6):
            serve(server, version)
            daemon.drop("channel.yaml", job(server, keep=3))
            wait_until(lambda: _ended(daemon, version), what=f"run {version}")  # noqa: B023
        wait_until(lambda: reader.seen[-1:] == ["5"], what="the last version")
        reader.finish()

        assert reader.wrong == []
        assert reader.seen == ["1", "2", "3", "4", "5"]
        assert reader.looked > 100
        assert len(generations(daemon)) == 3
        assert whole(daemon, 5)
        told = daemon.events("run.published")
        assert [event["removed"] for event in told] == [0, 0, 0, 1, 1]
        assert {event["path"] for event in told} == {"ch/current"}


def _ended(daemon: DaemonProcess, number: int) -> bool:
    report = daemon.report("channel")
    return report is not None and report["run"] == number and report["state"] == "succeeded"


def test_what_is_the_same_is_not_transferred_and_takes_no_room(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        for version in range(1, 4):
            serve(server, version, index=version)
            assert run(daemon, job(server)) == 0

    first, second = (path / "fixed.bin" for path in generations(daemon))
    assert first.samefile(second)
    bodies = [
        request for request in server.asked("/fixed.bin") if "if-none-match" not in _low(request)
    ]
    assert len(bodies) == 1
    outcomes = {line["path"]: line["detail"] for line in daemon.files("channel")}
    assert outcomes["ch/current/fixed.bin"] == "up_to_date"
    assert outcomes["ch/current/stamp"] == "downloaded"


def _low(request) -> set[str]:
    return {name.lower() for name, _ in request.headers}


def test_a_group_whose_condition_does_not_hold_has_its_files_in_the_next_generation(
    tmp_path, server
):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2, index=1)
        assert run(daemon, job(server)) == 0
        assert whole(daemon, 2, pool=1)
        serve(server, 3, index=1)
        assert run(daemon, job(server)) == 0
        assert whole(daemon, 3, pool=1)
        serve(server, 4)
        assert run(daemon, job(server)) == 0

        assert whole(daemon, 4)
        assert len(server.asked("/p0")) == 2


def test_a_run_that_fails_leaves_what_is_seen_and_a_retry_goes_on_with_it(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2)
        server.routes["/p3"] = status(404)
        assert run(daemon, job(server)) == 1
        assert daemon.report("channel")["state"] == "failed"
        assert whole(daemon, 1)
        assert daemon.events("run.published")[-1]["run"] == 1

        serve(server, 2)
        asked = len(server.asked("/p0"))
        (daemon.jobs / "channel.retry").touch()
        assert daemon.run_once() == 0

        assert whole(daemon, 2)
        assert len(server.asked("/p0")) == asked
        assert len(generations(daemon)) == 2


def test_the_next_run_takes_nothing_from_one_that_failed(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2)
        server.routes["/p3"] = status(404)
        assert run(daemon, job(server)) == 1
        (left,) = generations(daemon)[1:]
        (left / "notes").write_text("mine")
        serve(server, 3)
        assert run(daemon, job(server)) == 0

        assert whole(daemon, 3)
        assert files(left) == {"notes": "mine"}
        assert daemon.events("run.published")[-1]["left"] == [left.name]


def test_what_a_failed_run_has_seen_of_an_index_passes_nothing_over_in_the_next(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2)
        fixed, server.routes["/fixed.bin"] = server.routes["/fixed.bin"], status(404)
        assert run(daemon, job(server)) == 1
        server.routes["/fixed.bin"] = fixed
        assert run(daemon, job(server)) == 0

        assert whole(daemon, 2)


@pytest.mark.parametrize("how", ["back", "away"])
def test_what_is_passed_over_is_never_of_another_index_than_what_is_seen(tmp_path, server, how):
    with DaemonProcess(tmp_path) as daemon:
        for version in (1, 2):
            serve(server, version)
            assert run(daemon, job(server)) == 0
        link = daemon.downloads / "ch/current"
        link.unlink()
        if how == "back":
            link.symlink_to(f"generations/{generations(daemon)[0].name}")
            assert whole(daemon, 1)
        assert run(daemon, job(server)) == 0

        assert whole(daemon, 2)


def test_a_file_that_somebody_added_to_an_old_generation_survives(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server, keep=1)) == 0
        (old,) = generations(daemon)
        (old / "pool/notes").write_text("mine")
        serve(server, 2)
        assert run(daemon, job(server, keep=1)) == 0

        assert files(old) == {"pool/notes": "mine"}
        assert whole(daemon, 2)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_c01_a_daemon_that_is_killed_at_any_step_comes_to_the_same_end(tmp_path, server, failpoint):
    with DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2)
        assert run(daemon, job(server)) == 0
        serve(server, 3, index=2)
        daemon.drop("channel.yaml", job(server))
        assert daemon.start("--once", failpoint=failpoint).wait() == -signal.SIGKILL
        assert whole(daemon, 2) or whole(daemon, 3, pool=2)
        assert daemon.run_once() == 0

        assert whole(daemon, 3, pool=2)
        assert len(generations(daemon)) == 2
        records = (daemon.downloads / ".fetchd/generations").rglob("*Z-*")
        assert sorted(path.name for path in records) == [path.name for path in generations(daemon)]
        states = {line["path"]: line["state"] for line in daemon.files("channel")}
        assert states["./channel/publish"] == "succeeded"


def test_a_failure_that_may_be_leaves_the_file_that_was_there(tmp_path, server):
    text = job(server).replace("    url: fixed.bin", "    url: fixed.bin\n    may_fail: true")
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, text) == 0
        serve(server, 2)
        server.routes["/fixed.bin"] = status(404)
        assert run(daemon, text) == 1

        assert daemon.report("channel")["state"] == "partial"
        assert whole(daemon, 2)


def test_an_index_that_is_broken_takes_nothing_away_where_it_may_be(tmp_path, server):
    text = job(server).replace("    dest: ch/pool", "    dest: ch/pool\n    may_fail: true")
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, text) == 0
        serve(server, 2)
        server.routes["/index.json"] = file(b'[{"url": "p0"}, {"ur', etag='"cut"')
        assert run(daemon, text) == 1

        assert daemon.report("channel")["state"] == "partial"
        pools = {name: data[0] for name, data in current(daemon).items() if "pool" in name}
        assert pools == {"pool/p0": "2", "pool/p1": "1", "pool/p2": "1", "pool/p3": "1"}


KEPT = """
name: kept
keep: true
{publish}base: {base}
dest: {dest}
url: stamp
"""


def test_an_edit_to_and_from_generations_begins_in_another_place(tmp_path, server):
    places = {"base": server.url("/"), "dest": "one"}
    together = "publish: { atomic: true }\n"
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, KEPT.format(publish="", **places), "kept.yaml") == 0
        serve(server, 2)
        assert run(daemon, KEPT.format(publish=together, **places), "kept.yaml") == 0
        serve(server, 3)
        other = {**places, "dest": "two"}
        assert run(daemon, KEPT.format(publish=together, **other), "kept.yaml") == 0
        serve(server, 4)
        assert run(daemon, KEPT.format(publish="", **places), "kept.yaml") == 0

        assert (daemon.downloads / "one/stamp").read_text() == "4"
        assert current(daemon, "one") == {"stamp": "2"}
        assert current(daemon, "two") == {"stamp": "3"}


def test_without_generations_nothing_is_passed_over_that_lies_in_them(tmp_path, server):
    text = job(server)
    apart = text.replace("publish: { atomic: true, keep: 2 }", "")
    with DaemonProcess(tmp_path) as daemon:
        for said in (text, apart):
            assert run(daemon, said) == 0

        found = files(daemon.downloads / "ch/pool")
    assert apart != text
    assert sorted(found) == ["p0", "p1", "p2", "p3"]


def test_d10_a_current_that_is_not_ours_fails_the_run_and_stays(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        mine = daemon.downloads / "ch/current/mine"
        mine.parent.mkdir(parents=True)
        mine.write_text("x")
        assert run(daemon, job(server)) == 1

        report = daemon.report("channel")
        assert report["state"] == "failed"
        assert {failure["code"] for failure in report["failures"]} == {"dest_conflict"}
        assert current(daemon) == {"mine": "x"}


def test_d13_two_jobs_never_mix_below_one_dest(tmp_path, server):
    other = job(server).replace("name: channel", "name: other")
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        serve(server, 2)
        assert run(daemon, other, "other.yaml") == 1

        assert whole(daemon, 1)
        (reason, *_) = {failure["reason"] for failure in daemon.report("other")["failures"]}
        assert "are those of job 'channel'" in reason


TREE = """
name: tree
publish: {{ atomic: true }}
url: {url}
dest: tree
steps:
  - checksum_file
"""


def test_what_steps_make_is_carried_as_a_whole(tmp_path, server):
    text = TREE.format(url=server.url("/fixed.bin"))
    with DaemonProcess(tmp_path) as daemon:
        for _ in range(3):
            assert run(daemon, text, "tree.yaml") == 0

    first, second = generations(daemon, "tree")
    assert list(files(first)) == ["fixed.bin", "fixed.bin.sha256"]
    for name in files(first):
        assert (first / name).samefile(second / name)
    bodies = [one for one in server.asked("/fixed.bin") if "if-none-match" not in _low(one)]
    assert len(bodies) == 1


GATHER = """
name: made
publish: {{ atomic: true }}
base: {base}
dest: made
tasks:
  fixed:
    url: fixed.bin
    dest: made/in
  stamp:
    url: stamp
  sums:
    needs: [fixed, stamp]
    steps: [ checksum_file ]
  all:
    needs: [fixed, stamp]
    dest: made/out
    steps: [ concat: all.bin ]
  after:
    if: ${{needs.all.changed}}
    url: p0
    needs: [all]
"""


def test_what_is_made_of_the_files_of_others_is_in_the_generation(tmp_path, server):
    text = GATHER.format(base=server.url("/"))
    with DaemonProcess(tmp_path) as daemon:
        for version in (1, 2, 2, 3):
            serve(server, version)
            assert run(daemon, text, "made.yaml") == 0

            found = current(daemon, "made")
            assert sorted(found) == [
                "SHA256SUMS",
                "in/fixed.bin",
                "out/all.bin",
                "p0",
                "stamp",
            ]
            assert sorted(line.split()[1] for line in found["SHA256SUMS"].splitlines()) == [
                "in/fixed.bin",
                "stamp",
            ]
            assert found["out/all.bin"] == "f" * 1000 + str(version)
            assert found["p0"] == str(version) * 1000
            if version == 2:
                details = {line["path"]: line["detail"] for line in daemon.files("made")}
        assert details["./made/current/sums"] == details["made/current/out/all.bin"] == "up_to_date"
        third, fourth = generations(daemon, "made")
        assert third.joinpath("in/fixed.bin").samefile(fourth / "in/fixed.bin")
        assert files(third)["out/all.bin"] == "f" * 1000 + "2"


def test_what_steps_have_made_in_a_run_that_failed_is_not_what_others_are_given(tmp_path, server):
    text = f"""
publish: {{ atomic: true }}
base: {server.url("/")}
dest: made
tasks:
  index: {{ url: index.json }}
  packed:
    if: ${{needs.index.changed}}
    url: packed.tar
    steps: [ extract ]
  stamp: {{ url: stamp, if_exists: overwrite }}
  sums: {{ needs: packed, steps: [ checksum_file ] }}
"""

    def serve_tar(version: int, *, index: int) -> None:
        serve(server, version, index=index)
        server.routes["/packed.tar"] = file(tar_of(f"v{version}"), etag=f'"t{version}"')

    with DaemonProcess(tmp_path) as daemon:
        serve_tar(1, index=1)
        assert run(daemon, text, "made.yaml") == 0
        serve_tar(2, index=2)
        server.routes["/stamp"] = status(404)
        assert run(daemon, text, "made.yaml") == 1
        serve_tar(2, index=1)
        assert run(daemon, text, "made.yaml") == 0

        found = current(daemon, "made")
        assert sorted(found) == ["SHA256SUMS", "index.json", "stamp", "v1/a", "v1/b"]
        assert [line.split()[1] for line in found["SHA256SUMS"].splitlines()] == ["v1/a", "v1/b"]


def test_a_file_that_its_server_names_is_in_the_generation_and_stays_where_it_may_fail(
    tmp_path, server
):
    text = f"""
publish: {{ atomic: true }}
base: {server.url("/")}
dest: made
tasks:
  named: {{ url: stamp, filename: {{ from: header }}, may_fail: true }}
  fixed: {{ url: fixed.bin }}
"""
    named = {"Content-Disposition": 'attachment; filename="a.bin"'}
    with DaemonProcess(tmp_path) as daemon:
        for route, more in ((file(b"1", headers=named), 0), (status(404), 1)):
            server.routes["/stamp"] = route
            assert run(daemon, text, "made.yaml") == more

            assert current(daemon, "made") == {"a.bin": "1", "fixed.bin": "f" * 1000}
        assert sorted(path.name for path in (daemon.downloads / "made").iterdir()) == [
            "current",
            "generations",
        ]


def test_what_is_passed_over_keeps_its_file_also_where_each_run_calls_it_otherwise(
    tmp_path, server
):
    text = f"""
publish: {{ atomic: true }}
base: {server.url("/")}
dest: made
tasks:
  index: {{ url: index.json }}
  named: {{ url: stamp, filename: "of-${{run.id}}", if: "${{needs.index.changed}}" }}
  sums: {{ needs: named, steps: [ checksum_file ] }}
"""
    with DaemonProcess(tmp_path) as daemon:
        for _ in range(3):
            assert run(daemon, text, "made.yaml") == 0

            assert sorted(current(daemon, "made")) == ["index.json", "of-1", "of-1.sha256"]


def tar_of(folder: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("a", "b"):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return made.getvalue()


def test_what_a_success_asks_for_is_done_when_the_outputs_are_seen(tmp_path, server):
    script = f'cat "$1/stamp" >> {tmp_path}/ran'
    text = job(server) + 'on_success: [ { run: { command: it, args: ["${job.dest}/current"] } } ]\n'
    text += "on_failure: [ { run: { command: it, args: [/nowhere] } } ]\n"
    argv = f'commands.it.argv=[/bin/sh, -c, {json.dumps(script)}, "--"]'
    with DaemonProcess(tmp_path, argv) as daemon:
        for version in (1, 2):
            serve(server, version)
            assert run(daemon, text) == 0
        assert (tmp_path / "ran").read_text() == "12"

        (daemon.downloads / "ch/current").unlink()
        (daemon.downloads / "ch/current").mkdir()
        assert run(daemon, text) == 1
        failed = {line["group"] for line in daemon.files("channel") if line["state"] == "failed"}
        assert "on_failure" in failed  # it was asked for, and finds nothing
        assert "on_success" not in {line["group"] for line in daemon.files("channel")}
        assert (tmp_path / "ran").read_text() == "12"


def test_a_retry_adds_nothing_to_what_is_complete(tmp_path, server):
    text = job(server).replace("    url: fixed.bin", "    url: fixed.bin\n    may_fail: true")
    with DaemonProcess(tmp_path) as daemon:
        fixed, server.routes["/fixed.bin"] = server.routes["/fixed.bin"], status(404)
        assert run(daemon, text) == 1
        assert "fixed.bin" not in current(daemon)
        server.routes["/fixed.bin"] = fixed
        (daemon.jobs / "channel.retry").touch()
        assert daemon.run_once() == 1

        (failure,) = daemon.report("channel")["failures"]
        assert (failure["code"], failure["path"]) == ("dest_conflict", "ch/current/fixed.bin")
        assert "fixed.bin" not in current(daemon)
        assert run(daemon, text) == 0
        assert whole(daemon, 1)


def test_a_reader_of_a_file_that_is_fetched_again_meets_no_half_of_it(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        assert run(daemon, job(server)) == 0
        before = {path: path.stat() for path in generations(daemon)[0].rglob("*")}
        serve(server, 2)
        assert run(daemon, job(server)) == 0

        for path, old in before.items():
            now = path.stat()
            assert (now.st_ino, now.st_mtime_ns, now.st_mode, now.st_size) == (
                old.st_ino,
                old.st_mtime_ns,
                old.st_mode,
                old.st_size,
            )


def test_get_publishes_in_the_same_way(tmp_path, server):
    file_of_job = tmp_path / "channel.yaml"
    with DaemonProcess(tmp_path) as daemon:
        for version in (1, 2):
            serve(server, version)
            file_of_job.write_text(job(server))
            args = [sys.executable, "-m", "fetchd", "get", str(file_of_job)]
            args += ["--dest", str(daemon.downloads), "--set", "network.allow=[loopback]"]
            environ = {**os.environ, "FETCHD_CONFIG": os.devnull}
            done = subprocess.run(args, cwd=tmp_path, env=environ, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            assert whole(daemon, version)
