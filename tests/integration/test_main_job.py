"""The main job with a real daemon process: drop a YAML file, get verified files."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest

from faults.server import Handler, Server, content, file, flapping, html, redirect, status
from fetchd.model import RunState
from process import DaemonProcess, visible_files, wait_until

ONE = content("one", 300_000)
TWO = content("two", 70_000)


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


@pytest.mark.usefixtures("anew")
def test_one_url_becomes_one_verified_file_a_report_and_one_canonical_line(daemon):
    with Server({"/f/one.bin": file(ONE)}) as server:
        daemon.drop(
            "one.yaml", f"url: {server.url('/f/one.bin')}\nchecksum: {sha256(ONE)}\ndest: isos\n"
        )

        code = daemon.run_once()

    assert code == 0
    assert (daemon.downloads / "isos" / "one.bin").read_bytes() == ONE
    assert [str(p.relative_to(daemon.downloads)) for p in visible_files(daemon.downloads)] == [
        "isos/one.bin"
    ]
    assert (daemon.jobs / "done" / "one.yaml").exists()
    report = daemon.report("one")
    assert report is not None
    assert (report["state"], report["tasks"]["succeeded"]) == (RunState.SUCCEEDED, 1)
    (line,) = daemon.files("one")
    assert (line["state"], line["detail"], line["verified"]) == (
        "succeeded",
        "downloaded",
        "digest",
    )
    (done,) = daemon.events("task.done")
    assert (done["size_bytes"], done["outcome"], done["job"]) == (len(ONE), "downloaded", "one")


def test_mirrors_needs_a_cut_and_a_404_end_as_they_should(daemon):
    routes: dict[str, Handler] = {
        "/bad/m.bin": file(content("wrong", len(TWO))),
        "/good/m.bin": file(TWO),
        "/cut.bin": flapping(file(ONE, cut_after=len(ONE) // 2), file(ONE)),
        "/after.bin": file(TWO),
        "/gone.bin": status(404),
        "/never.bin": file(TWO),
    }
    with Server(routes) as server:
        daemon.drop(
            "mixed.yaml",
            f"""
tasks:
  mirrored:
    base: [ "{server.url("/bad/")}", "{server.url("/good/")}" ]
    url: m.bin
    checksum: {sha256(TWO)}
  cut:
    url: {server.url("/cut.bin")}
    checksum: {sha256(ONE)}
  after:
    needs: [cut]
    url: {server.url("/after.bin")}
  gone:
    url: {server.url("/gone.bin")}
  never:
    needs: [gone]
    url: {server.url("/never.bin")}
""",
        )

        code = daemon.run_once()

    assert code == 1
    assert (daemon.jobs / "failed" / "mixed.yaml").exists()
    lines = {line["path"]: line for line in daemon.files("mixed")}
    assert {name: (line["state"], line["detail"]) for name, line in lines.items()} == {
        "m.bin": ("succeeded", "downloaded"),
        "cut.bin": ("succeeded", "resumed"),
        "after.bin": ("succeeded", "downloaded"),
        "gone.bin": ("failed", "bad_status"),
        "never.bin": ("skipped", "upstream_failed"),
    }
    assert (daemon.downloads / "m.bin").read_bytes() == TWO
    assert (daemon.downloads / "cut.bin").read_bytes() == ONE
    (failed,) = daemon.events("task.failed")
    assert failed["code"] == "bad_status"
    assert "404" in failed["reason"]


def test_a_list_is_claimed_and_every_line_becomes_a_file_or_a_failed_task(daemon):
    bodies = {f"/{i}.bin": content(i, 1000 + i) for i in range(30)}
    with Server({path: file(body) for path, body in bodies.items()}) as server:
        lines = [server.url(path) for path in bodies]
        daemon.drop("many.urls", "\n".join(["# a list", *lines, "not a url", lines[0]]) + "\n")

        code = daemon.run_once()

    assert code == 1
    report = daemon.report("many")
    assert report is not None
    assert report["tasks"]["succeeded"] == 30
    assert sorted(f["code"] for f in report["failures"]) == ["bad_item", "dest_conflict"]
    for path, body in bodies.items():
        assert (daemon.downloads / path[1:]).read_bytes() == body
    assert (daemon.jobs / "failed" / "many.urls").exists()


def test_a_second_drop_of_the_same_job_moves_no_bytes(daemon):
    with Server({"/one.bin": file(ONE)}) as server:
        text = f"url: {server.url('/one.bin')}\n"
        daemon.drop("one.yaml", text)
        first = daemon.run_once()
        daemon.drop("one.yaml", text)
        second = daemon.run_once()
        sent = [r.sent for r in server.requests]

    assert (first, second) == (0, 0)
    (line,) = daemon.files("one")
    assert line["detail"] == "up_to_date"
    assert sent[0] == len(ONE)
    assert sum(sent[1:]) == 0


def test_a_bad_job_hurts_only_itself_and_says_where(daemon):
    with Server({"/one.bin": file(ONE)}) as server:
        daemon.drop("bad.yaml", "url: http://x.example/a\nchekcsum: sha256:00\n")
        daemon.drop("good.yaml", f"url: {server.url('/one.bin')}\n")

        code = daemon.run_once()

    assert code == 1
    assert (daemon.downloads / "one.bin").read_bytes() == ONE
    text = (daemon.jobs / "reports" / "bad.yaml.error.txt").read_text()
    assert text.startswith("bad.yaml:2:1: ")
    assert "checksum" in text
    assert (daemon.jobs / "failed" / "bad.yaml").exists()


def test_an_html_page_instead_of_a_file_is_refused(daemon):
    with Server({"/a.iso": html()}) as server:
        daemon.drop("a.yaml", f"url: {server.url('/a.iso')}\n")

        code = daemon.run_once()

    assert code == 1
    report = daemon.report("a")
    assert report is not None
    assert [f["code"] for f in report["failures"]] == ["unexpected_html"]
    assert visible_files(daemon.downloads) == []


def test_an_address_that_is_not_allowed_is_never_connected_to(tmp_path):
    with Server({"/a.bin": file(ONE)}) as server, DaemonProcess(tmp_path) as daemon:
        daemon.settings[0] = "network.allow=[public]"
        daemon.drop("a.yaml", f"url: {server.url('/a.bin')}\n")

        code = daemon.run_once()
        requests = list(server.requests)

    assert code == 1
    assert requests == []
    report = daemon.report("a")
    assert report is not None
    (failure,) = report["failures"]
    assert failure["code"] == "address_denied"
    assert "network.allow" in failure["reason"]


def test_a_file_that_is_not_there_yet_is_waited_for(daemon):
    routes = {"/soon.bin": flapping(status(404), status(403), file(ONE)), "/never.bin": status(410)}
    with Server(routes) as server:
        daemon.drop(
            "w.yaml",
            "retry: {attempts: 1}\ntasks:\n"
            f"  soon: {{url: {server.url('/soon.bin')}, wait_for: 1h}}\n"
            f"  never: {{url: {server.url('/never.bin')}, wait_for: 1s}}\n",
        )

        code = daemon.run_once()
        first, *_, last = [r.at_s for r in server.requests if r.path == "/never.bin"]

    assert code == 1
    soon, never = daemon.files("w")
    assert (soon["state"], soon["attempts"]) == ("succeeded", 1)
    assert (never["state"], never["detail"], never["attempts"]) == ("failed", "bad_status", 1)
    assert 0.9 < last - first < 3
    waits = daemon.events("task.deferred")
    assert {event["wait"] for event in waits} == {"not_yet"}
    assert [event["reason"][:3] for event in waits if event["path"] == "soon.bin"] == ["404", "403"]
    assert daemon.events("task.retry_scheduled") == []


def test_rule_21_an_expired_link_is_asked_for_anew_and_the_part_goes_on(daemon):
    half, old = len(ONE) // 2, "/old?sig=1"
    routes: dict[str, Handler] = {
        # The second time the origin still leads to the link that has expired meanwhile.
        "/one.bin": flapping(redirect(old), redirect(old), redirect("/new?sig=2")),
        "/old": flapping(file(ONE, cut_after=half), status(403)),
        "/new": file(ONE),
        "/closed.bin": redirect("/shut"),
        "/shut": status(403),
    }
    with Server(routes) as server:
        urls = [server.url("/one.bin"), server.url("/closed.bin")]
        daemon.drop("s.yaml", f"urls: {urls}\n")

        code = daemon.run_once()
        asked = [(r.path, r.header("Range")) for r in server.requests]

    assert code == 1
    rest = f"bytes={half}-"
    assert [pair for pair in asked if pair[0] in {"/one.bin", "/old", "/new"}] == [
        ("/one.bin", None),
        ("/old", None),
        ("/one.bin", rest),
        ("/old", rest),
        ("/one.bin", rest),
        ("/new", rest),
    ]
    assert (daemon.downloads / "one.bin").read_bytes() == ONE
    one, closed = daemon.files("s")
    assert (one["detail"], one["resumed_from_bytes"], one["attempts"]) == ("resumed", half, 3)
    assert (closed["detail"], closed["attempts"]) == ("bad_status", 1)


def test_cancel_and_retry_by_control_files(daemon):
    slow = file(ONE, rate=20_000)
    with Server({"/slow.bin": flapping(slow, file(ONE)), "/gone.bin": status(404)}) as server:
        daemon.start()
        daemon.drop(
            "c.yaml", f"urls:\n  - {server.url('/slow.bin')}\n  - {server.url('/gone.bin')}\n"
        )
        wait_until(lambda: len(server.requests) >= 2, what="both requests")
        (daemon.jobs / "c.cancel").touch()
        wait_until(lambda: daemon.ended("c"), what="the cancelled run's report")
        report = daemon.report("c")
        assert report is not None
        assert report["state"] == "cancelled"
        wait_until(
            lambda: not list((daemon.downloads / ".fetchd" / "parts").glob("*")),
            what="the part to be swept",
        )
        assert not (daemon.jobs / "c.cancel").exists()

        (daemon.jobs / "c.retry").touch()
        wait_until(lambda: (daemon.report("c") or {}).get("state") == "failed", what="the retry")
        assert daemon.terminate() == 0

    assert len(daemon.events("command.obeyed")) == 2


def test_sigterm_in_mid_download_ends_soon_and_the_next_life_resumes(daemon):
    body = content("big", 4_000_000)
    with Server({"/big.bin": flapping(file(body, rate=1_000_000), file(body))}) as server:
        daemon.drop("big.yaml", f"url: {server.url('/big.bin')}\nchecksum: {sha256(body)}\n")
        daemon.start()
        wait_until(lambda: server.requests, what="the request")
        wait_until(
            lambda: any(
                p.stat().st_size > 500_000
                for p in (daemon.downloads / ".fetchd" / "parts").glob("*")
            ),
            what="half a megabyte",
        )

        code = daemon.terminate()
        again = daemon.run_once()
        ranges = [r.header("Range") for r in server.requests]

    assert (code, again) == (0, 0)
    assert (daemon.downloads / "big.bin").read_bytes() == body
    assert ranges[0] is None
    assert ranges[1] is not None
    (line,) = daemon.files("big")
    assert (line["detail"], line["attempts"]) == ("resumed", 1)


def test_c13_s11_a_second_daemon_on_the_same_state_is_refused(daemon):
    daemon.start()
    wait_until(lambda: daemon.events("service.started"), what="the first daemon")
    second = DaemonProcess(daemon.base / "other")
    second.state = daemon.state

    with second:
        code = second.start().wait()

    assert code == 75
    assert "another fetchd" in second.log.read_text()
    assert daemon.terminate() == 0


def test_a_wrong_configuration_ends_with_78_and_its_place(daemon, tmp_path):
    config = tmp_path / "fetchd.yaml"
    config.write_text("workers: many\n")
    daemon.settings.clear()

    code = daemon.start("--config", str(config)).wait()

    assert code == 78
    text = daemon.log.read_text()
    assert "fetchd.yaml:1:" in text
    assert "workers" in text
    assert "Traceback" not in text


def test_status_json_shows_a_transfer_under_way(daemon):
    with Server({"/slow.bin": file(ONE, rate=100_000)}) as server:
        daemon.start()
        daemon.drop("s.yaml", f"url: {server.url('/slow.bin')}\n")

        def shown() -> bool:
            try:
                status = json.loads((daemon.state / "status.json").read_text())
            except FileNotFoundError:
                return False
            return any(
                t["path"] == "slow.bin" and t["progress"]["received_bytes"] > 0
                for t in status["report"]["transfers"]
            )

        wait_until(shown, what="the transfer in status.json")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.terminate() == 0
