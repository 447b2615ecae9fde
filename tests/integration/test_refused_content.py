"""What becomes of content that is not what the job asks for, with a real daemon process."""

from __future__ import annotations

import hashlib

import pytest

from faults.server import Handler, Server, content, file, html
from process import DaemonProcess, visible_files, wait_until

OLD, NEW = content("old", 50_000), content("new", 60_000)


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


def test_n20_p9_rule_36_rule_38_wrong_bytes_are_kept_aside_with_a_dossier_until_the_right_come(
    daemon,
):
    first, second = content("first", len(NEW)), content("second", len(NEW))
    routes: dict[str, Handler] = {"/one/a.bin": file(OLD)}
    with Server(routes) as server:
        job = f"base: [ {server.url('/one/')}, {server.url('/two/')} ]\nurl: a.bin\nchecksum: "
        daemon.drop("x.yaml", job + sha256(OLD) + "\n")
        assert daemon.run_once() == 0
        good = daemon.downloads / "a.bin"
        before = good.stat()

        server.routes = {"/one/a.bin": file(first), "/two/a.bin": file(second)}
        daemon.drop("x.yaml", job + sha256(NEW) + "\n")
        assert daemon.run_once() == 1

        (failure,) = daemon.report("x")["failures"]
        assert [(c["source"], c["code"]) for c in failure["causes"]] == [
            (1, "checksum_mismatch"),
            (2, "checksum_mismatch"),
        ]
        assert sha256(first) in failure["causes"][0]["reason"]
        dossier = failure["dossier"]
        assert dossier["url"] == server.url("/two/a.bin")
        assert (dossier["expected"], dossier["digests"]) == ([sha256(NEW)], [sha256(second)])
        assert dossier["size_bytes"] == len(second)
        assert (daemon.downloads / dossier["quarantine"]).read_bytes() == second
        assert daemon.files("x")[0]["dossier"] == dossier
        assert daemon.events("task.failed")[-1]["quarantine"] == dossier["quarantine"]

        after = good.stat()
        assert good.read_bytes() == OLD
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert visible_files(daemon.downloads) == [good]
        assert list((daemon.downloads / ".fetchd/parts").iterdir()) == []

        server.routes = {"/one/a.bin": file(first), "/two/a.bin": file(NEW)}
        daemon.start()
        (daemon.jobs / "x.retry").touch()
        wait_until(lambda: daemon.report("x")["state"] == "succeeded", what="the retry")
        assert daemon.terminate() == 0

    assert good.read_bytes() == NEW
    assert list((daemon.downloads / ".fetchd/quarantine").iterdir()) == []
    (line,) = daemon.files("x")
    assert [c["code"] for c in line["causes"]] == ["checksum_mismatch"]
    assert (line["dossier"]["digests"], line["dossier"]["quarantine"]) == ([sha256(first)], "")


def test_n20_a_file_of_another_kind_is_refused_at_its_magic_bytes(daemon):
    image = bytearray(content("image", 2_000_000))
    image[1_500_000:1_500_005] = b"CD001"  # behind whatever one read may bring
    routes: dict[str, Handler] = {
        "/good.iso": file(bytes(image)),
        "/other.iso": file(content("other", 2_000_000)),
        "/page.iso": html(),
    }
    with Server(routes) as server:
        lines = "".join(f"  - {server.url(path)}\n" for path in routes)
        daemon.drop("x.yaml", f'expect: {{ magic: "hex:4344303031@1500000" }}\nurls:\n{lines}')
        assert daemon.run_once() == 1

    failures = {failure["path"]: failure for failure in daemon.report("x")["failures"]}
    assert {path: failure["code"] for path, failure in failures.items()} == {
        "other.iso": "expectation_failed",
        "page.iso": "unexpected_html",
    }
    assert [path.name for path in visible_files(daemon.downloads)] == ["good.iso"]
    kept = daemon.downloads / failures["other.iso"]["dossier"]["quarantine"]
    assert kept.read_bytes() == content("other", 2_000_000)[: kept.stat().st_size]
    page = failures["page.iso"]["dossier"]
    assert (page["content_type"], page["quarantine"]) == ("text/html; charset=utf-8", "")
