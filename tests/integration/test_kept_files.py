"""A real daemon whose kept job files are edited, broken, mended and taken away while it works."""

from __future__ import annotations

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, wait_until


def kept(server, *paths: str) -> str:
    return "keep: true\nurls:\n" + "".join(f"  - {server.url(path)}\n" for path in paths)


@pytest.mark.parametrize("killed", [False, True])
def test_an_edit_stops_what_is_gone_starts_what_is_new_and_leaves_the_rest_alone(tmp_path, killed):
    same, gone, new = content("same", 400_000), content("gone", 4_000_000), content("new", 1000)
    with (
        Server(
            {
                "/same": file(same, rate=150_000),
                "/gone": file(gone, rate=150_000),
                "/new": file(new),
            }
        ) as server,
        DaemonProcess(tmp_path) as daemon,
    ):
        daemon.start()
        daemon.drop("tools.yaml", kept(server, "/same", "/gone"))
        wait_until(lambda: server.asked("/same") and server.asked("/gone"), what="both requests")
        daemon.drop("tools.yaml", kept(server, "/same", "/new"))
        wait_until(lambda: daemon.events("run.revised"), what="the edit")
        if killed:
            daemon.kill()
            daemon.start()
        wait_until(lambda: daemon.ended("tools"), what="the end of the run")
        report = daemon.report("tools")
        code = daemon.terminate()

    assert code == 0
    assert report["state"] == "succeeded"
    assert report["tasks"]["total"] == 2
    assert (daemon.downloads / "same").read_bytes() == same
    assert (daemon.downloads / "new").read_bytes() == new
    assert not (daemon.downloads / "gone").exists()
    if not killed:  # the next life does not know of it, so its part stays for a week
        assert list((daemon.downloads / ".fetchd" / "parts").iterdir()) == []
    assert killed or len(server.asked("/same")) == 1
    assert (daemon.jobs / "tools.yaml").is_file()


def test_a_wrong_edit_is_told_and_mended_and_a_file_that_is_taken_away_ends_its_job(tmp_path):
    with Server({"/f": file(content("f", 1000))}) as server, DaemonProcess(tmp_path) as daemon:
        error = daemon.jobs / "reports" / "tools.yaml.error.txt"
        daemon.start()
        path = daemon.drop("tools.yaml", kept(server, "/f"))
        wait_until(lambda: daemon.ended("tools"), what="the end of the run")
        path.write_text(kept(server, "/f").replace("urls", "ulrs"))
        wait_until(error.is_file, what="the error")
        told = error.read_text()
        path.write_text(kept(server, "/f"))
        wait_until(lambda: not error.exists(), what="the error to go")
        wait_until(lambda: len(daemon.events("run.ended")) == 2, what="another run")
        path.unlink()
        wait_until(lambda: daemon.events("job.removed"), what="the end of the job")
        code = daemon.terminate()

    assert code == 0
    assert "did you mean 'urls'?" in told
    assert len(server.asked("/f")) == 2  # the second was asked whether it has changed
    assert [event["outcome"] for event in daemon.events("task.done")] == [
        "downloaded",
        "up_to_date",
    ]


def test_an_edit_that_makes_tasks_as_the_run_goes_on_waits_for_the_end_of_the_run_before(tmp_path):
    same, new = content("same", 300_000), content("new", 1000)
    routes = {"/same": file(same, rate=150_000), "/new": file(new)}
    with Server(routes) as server, DaemonProcess(tmp_path) as daemon:
        daemon.start()
        daemon.drop("tools.yaml", kept(server, "/same"))
        wait_until(lambda: server.asked("/same"), what="the request")
        daemon.drop(
            "tools.yaml",
            "keep: true\ntasks:\n"
            f"  first: {{ url: {server.url('/same')} }}\n"
            f'  then: {{ url: {server.url("/new")}, if: "${{needs.first.changed}}" }}\n',
        )
        wait_until(lambda: len(daemon.events("run.ended")) == 2, what="another run")
        code = daemon.terminate()

    assert code == 0
    assert daemon.events("run.revised") == []
    assert [event["state"] for event in daemon.events("run.ended")] == ["succeeded"] * 2
    assert (daemon.downloads / "new").read_bytes() == new


def test_a_paused_job_stops_survives_a_kill_and_goes_on_where_it_was_when_it_is_resumed(tmp_path):
    body = content("f", 3_000_000)
    with (
        Server({"/f": file(body, rate=500_000, etag='"1"')}) as server,
        DaemonProcess(tmp_path) as daemon,
    ):
        daemon.start()
        daemon.drop("j.yaml", f"url: {server.url('/f')}\n")
        wait_until(lambda: server.asked("/f"), what="the request")
        wait_until(lambda: daemon.bytes_in_parts() > 100_000, what="the first bytes")
        daemon.drop("j.pause", "")
        wait_until(lambda: daemon.events("task.interrupted"), what="the stop")
        wait_until(lambda: daemon.report("j")["state"] == "paused", what="the report")
        daemon.kill()
        daemon.start()
        wait_until(lambda: len(daemon.events("run.held")) == 2, what="the hold of the next life")
        asked = len(server.asked("/f"))
        daemon.drop("j.resume", "")
        wait_until(lambda: daemon.ended("j"), timeout_s=40, what="the end of the run")
        code = daemon.terminate()

    assert (code, asked) == (0, 1)
    assert (daemon.downloads / "f").read_bytes() == body
    (done,) = daemon.events("task.done")
    assert (done["outcome"], done["attempts"]) == ("resumed", 1)
    assert not (daemon.jobs / "j.resume").exists()


def test_files_of_a_category_are_fetched_with_its_defaults_and_put_away_in_it(tmp_path):
    with Server({"/f": file(content("f", 1000))}) as server, DaemonProcess(tmp_path) as daemon:
        (daemon.jobs / "isos").mkdir()
        (daemon.jobs / "isos" / "_defaults.yaml").write_text("dest: images\n")
        (daemon.jobs / "isos" / "a.yaml").write_text(f"url: {server.url('/f')}\n")
        (daemon.jobs / "isos" / "l.urls").write_text(f"{server.url('/f')} g\n")
        code = daemon.run_once()

    assert code == 0
    assert (daemon.downloads / "images" / "f").is_file()
    assert (daemon.downloads / "images" / "g").is_file()
    assert sorted(path.name for path in (daemon.jobs / "done" / "isos").iterdir()) == [
        "a.yaml",
        "l.urls",
    ]
    assert daemon.report("a")["file"] == "isos/a.yaml"


def test_once_runs_a_kept_file_that_is_new_and_not_again_as_long_as_it_stays_as_it_is(tmp_path):
    with Server({"/f": file(content("f", 10))}) as server, DaemonProcess(tmp_path) as daemon:
        daemon.drop("tools.yaml", kept(server, "/f"))
        codes = [daemon.run_once(), daemon.run_once()]

    assert codes == [0, 0]
    assert len(daemon.events("run.ended")) == 1
    assert (daemon.jobs / "tools.yaml").is_file()
