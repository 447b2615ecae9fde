"""Jobs that copy: from one download root to another, with a real daemon process."""

from __future__ import annotations

import os

import pytest

from faults.server import Handler, Server, content, file, redirect
from process import DaemonProcess, visible_files, wait_until

BODY = content("local", 300_000)
OTHER = content("other", 70_000)
MIB = 1024 * 1024


@pytest.fixture
def daemon(tmp_path):
    (tmp_path / "media").mkdir()
    with DaemonProcess(tmp_path, f"roots.media={tmp_path / 'media'}") as made:
        yield made


def outcomes(daemon: DaemonProcess, job: str) -> dict[str, tuple[str, str]]:
    return {line["path"]: (line["state"], line["detail"]) for line in daemon.files(job)}


def test_a_file_is_copied_from_root_to_root_with_its_date_and_the_second_time_it_is_not(daemon):
    source = daemon.base / "media/a b.iso"
    source.write_bytes(BODY)
    os.utime(source, (0, 1_700_000_000))
    text = f"base: file://{daemon.base}/media/\nurls:\n  - a%20b.iso\n"
    daemon.drop("copy.yaml", text)

    first = daemon.run_once()
    once = outcomes(daemon, "copy")
    daemon.drop("copy.yaml", text)
    again = daemon.run_once()

    copy = daemon.downloads / "a b.iso"
    assert (first, again) == (0, 0)
    assert once == {"a b.iso": ("succeeded", "downloaded")}
    assert outcomes(daemon, "copy") == {"a b.iso": ("succeeded", "up_to_date")}
    assert (copy.read_bytes(), copy.stat().st_mtime) == (BODY, 1_700_000_000)
    assert source.read_bytes() == BODY


def test_what_is_not_at_hand_comes_over_the_network(daemon):
    (daemon.base / "media/here.bin").write_bytes(BODY)
    routes: dict[str, Handler] = {"/here.bin": file(OTHER), "/there.bin": file(OTHER)}
    with Server(routes) as server:
        daemon.drop(
            "cache.yaml",
            f"base: ['file://{daemon.base}/media/', '{server.url('/')}']\n"
            "urls: [here.bin, there.bin]\n",
        )

        code = daemon.run_once()
        asked = [r.path for r in server.requests]

    assert code == 0
    assert asked == ["/there.bin"]
    assert (daemon.downloads / "here.bin").read_bytes() == BODY
    assert (daemon.downloads / "there.bin").read_bytes() == OTHER


def test_what_may_not_be_copied_fails_by_its_code_and_leaves_nothing(daemon):
    (daemon.base / "secret").write_bytes(BODY)
    (daemon.base / "media/link").symlink_to(daemon.base / "secret")
    (daemon.downloads / "own").mkdir(parents=True)
    (daemon.downloads / "own/f").write_bytes(BODY)
    with Server({"/a": redirect(f"file://{daemon.base}/media/link")}) as server:
        urls = [
            f"file://{daemon.base}/secret",
            f"file://{daemon.base}/media/link",
            f"file://{daemon.base}/media/none",
            f"file://{daemon.downloads}/own/f own/f",
            f"file://{daemon.downloads}/own/none own/none",
            f"{server.url('/a')} redirected",
        ]
        daemon.drop("bad.yaml", f"urls: {urls}\n")

        code = daemon.run_once()

    assert code == 1
    assert {path: detail for path, (_, detail) in outcomes(daemon, "bad").items()} == {
        "secret": "source_denied",
        "link": "source_denied",
        "none": "not_found",
        "own/f": "source_denied",
        "own/none": "not_found",
        "redirected": "scheme_denied",
    }
    assert visible_files(daemon.downloads) == [daemon.downloads / "own/f"]
    assert daemon.events("task.retry_scheduled") == []
    failed = {event["path"]: event["reason"] for event in daemon.events("task.failed")}
    assert "add its folder to `roots`" in failed["secret"]
    assert "copied onto itself" in failed["own/f"]


def test_a_local_file_that_is_not_there_yet_is_waited_for(daemon):
    daemon.drop("w.yaml", f"url: file://{daemon.base}/media/soon.bin\nwait_for: 1h\n")
    daemon.start()
    wait_until(lambda: daemon.events("task.deferred"), what="the wait")
    beside = daemon.base / "media/.soon"
    beside.write_bytes(BODY)
    beside.rename(daemon.base / "media/soon.bin")
    wait_until(lambda: daemon.ended("w"), what="the copy")

    assert daemon.terminate() == 0
    assert (daemon.downloads / "soon.bin").read_bytes() == BODY
    assert daemon.events("task.deferred")[0]["wait"] == "not_yet"


def test_a_copy_goes_on_after_a_crash_behind_what_is_durable(daemon):
    source = daemon.base / "media/big.img"
    with source.open("wb") as big:
        big.write(b"begin")
        big.truncate(66 * MIB)
        big.seek(0, os.SEEK_END)
        big.write(b"end")
    daemon.drop("big.yaml", f"url: file://{source}\n")

    daemon.start(failpoint="transfer.checkpointed").wait()
    code = daemon.run_once()

    assert code == 0
    (line,) = daemon.files("big")
    assert (line["detail"], line["resumed_from_bytes"] >= 64 * MIB) == ("resumed", True)
    assert (daemon.downloads / "big.img").read_bytes() == source.read_bytes()
