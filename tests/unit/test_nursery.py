from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import process as processes
from process import wait_until


@pytest.fixture
def spawned(tmp_path):
    """Run a command line of fetchd, both ways; returns the exit codes and what was said."""

    def run(*arguments, **env):
        results = []
        for spawn in (subprocess.Popen, processes.spawn):
            with (tmp_path / "said").open("w+b") as said:
                process = spawn(
                    [sys.executable, "-m", "fetchd", *arguments],
                    cwd=tmp_path,
                    env=os.environ | {"FETCHD_CONFIG": os.devnull} | env,
                    stdout=said,
                    stderr=said,
                )
                code = process.wait(20)
                said.seek(0)
                results.append((code, said.read().decode()))
        return results

    return run


@pytest.mark.parametrize(
    ("arguments", "env", "code"),
    [
        (["version"], {}, 0),
        (["check", "good.yaml"], {}, 0),
        (["check", "missing.yaml"], {}, 2),
        (["run", "--once"], {"FETCHD_CONFIG": "missing.yaml"}, 78),
        (["run", "--once", "--state", "s"], {"FETCHD_FAILPOINT": "folder.accepted"}, -9),
    ],
)
def test_what_comes_from_a_nursery_does_what_a_new_process_does(
    tmp_path, spawned, arguments, env, code
):
    (tmp_path / "good.yaml").write_text("url: http://127.0.0.1:1/f\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "good.yaml").write_text("url: http://127.0.0.1:1/f\n")

    (anew_code, anew), (nursed_code, nursed) = spawned(*arguments, **env)

    assert anew_code == nursed_code == code
    if arguments[0] != "run" or code == 78:  # a daemon tells the time
        assert nursed == anew


def test_what_comes_from_a_nursery_can_be_waited_for_and_killed(tmp_path):
    with (tmp_path / "said").open("wb") as said:
        process = processes.spawn(
            [sys.executable, "-m", "fetchd", "run"],
            cwd=tmp_path,
            env=os.environ | {"FETCHD_CONFIG": os.devnull},
            stdout=said,
            stderr=said,
        )
        try:
            wait_until((tmp_path / "state" / "status.json").exists, what="the daemon")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            assert process.poll() is None
        finally:
            process.kill()

        assert process.wait(20) == process.poll() == -signal.SIGKILL
        process.kill()  # is nothing now


@pytest.mark.parametrize(
    ("command", "env"),
    [
        ([sys.executable, "-m", "fetchd", "version"], {"LD_PRELOAD": ""}),
        ([sys.executable, "-c", "pass"], {}),
        (["true"], {}),
    ],
)
def test_what_a_nursery_cannot_stand_for_is_started_anew(tmp_path, command, env):
    with (tmp_path / "said").open("wb") as said:
        process = processes.spawn(
            command, cwd=tmp_path, env=os.environ | env, stdout=said, stderr=said
        )

        assert isinstance(process, subprocess.Popen)
        assert process.wait(20) == 0
