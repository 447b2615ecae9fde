"""Ended runs are forgotten; what people see of them stays."""

from __future__ import annotations

from faults.server import Server, content, file
from process import DaemonProcess, wait_until


def test_old_runs_are_forgotten_at_the_start_while_reports_and_downloads_stay(tmp_path):
    body = content("x", 1000)
    with Server(fallback=file(body)) as server, DaemonProcess(tmp_path) as daemon:
        for name in ("a", "b", "c", "d"):
            daemon.drop(f"{name}.yaml", f"url: {server.url(f'/{name}.bin')}\n")
        daemon.run_once()
        daemon.settings.append("history.count=1")
        daemon.start()
        wait_until(lambda: daemon.events("history.pruned"), what="the pruning")
        (daemon.jobs / "a.retry").touch()
        wait_until(lambda: daemon.events("command.obeyed"), what="the answer")
        daemon.drop("again.yaml", f"url: {server.url('/a.bin')}\n")
        wait_until(lambda: daemon.ended("again"), what="the job")
        code = daemon.terminate()

    assert code == 0
    (pruned,) = daemon.events("history.pruned")
    assert (pruned["runs"], pruned["tasks"], pruned["files"]) == (3, 3, 0)
    assert [daemon.report(name)["state"] for name in "abcd"] == ["succeeded"] * 4
    assert sorted(path.name for path in daemon.downloads.glob("*.bin")) == [
        "a.bin",
        "b.bin",
        "c.bin",
        "d.bin",
    ]
    (obeyed,) = daemon.events("command.obeyed")
    assert not obeyed["done"]
    (line,) = daemon.files("again")
    assert line["detail"] == "up_to_date"  # the record of the file outlived its run
