from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import process
from faults.__main__ import main
from faults.drivers import CLEAN, DRIVERS, HANG, RIGHT, WRONG, WRONG_LEFT, Driver, judge, run
from faults.scenarios import OLD, Scenario, scenarios
from faults.server import file

MATRIX = {scenario.name: scenario for scenario in scenarios()}


@pytest.fixture(scope="module")
def fetchd():
    """The whole matrix against fetchd, several scenarios at a time."""
    with ThreadPoolExecutor(6) as threads:
        results = {
            name: threads.submit(run, DRIVERS["fetchd"], MATRIX[name], spawn=process.spawn)
            for name in MATRIX
        }
        yield results
        for result in results.values():
            result.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_no_server_fools_fetchd(fetchd, name):
    result = fetchd[name].result()

    assert result.verdict in {RIGHT, CLEAN}, result
    if MATRIX[name].best == RIGHT:
        assert result.verdict == RIGHT, result
    if MATRIX[name].keeps:
        assert any(result.asked), "nothing was kept, so nothing was tested"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("login-page", WRONG), ("no-length", WRONG), ("cut-always", WRONG_LEFT), ("404-page", CLEAN)],
)
def test_a_download_of_four_lines_is_fooled(name, verdict):
    scenario = next(scenario for scenario in scenarios() if scenario.name == name)

    assert run(DRIVERS["requests"], scenario).verdict == verdict


# ---------------------------------------------------------------- the verdict


def scenario(**asked) -> Scenario:
    return Scenario(name="x", title="x", then=file(OLD), **asked)


@pytest.mark.parametrize(
    ("files", "code", "verdict"),
    [
        ({"a.bin": OLD}, 0, RIGHT),
        ({"a.bin": OLD}, 1, CLEAN),
        ({}, 1, CLEAN),
        ({".fetchd/parts/x": OLD[:10]}, 1, CLEAN),
        ({}, 0, WRONG),
        ({"a.bin.1": OLD}, 0, WRONG),
        ({"a.bin": OLD[:-1]}, 0, WRONG),
        ({"a.bin": b""}, 0, WRONG),
        ({"a.bin": OLD[:-1]}, 1, WRONG_LEFT),
        ({"a.bin": OLD, "../x": OLD}, 0, WRONG),
        ({"a.bin": OLD}, None, HANG),
    ],
)
def test_a_verdict_comes_from_the_exit_code_and_what_is_left(tmp_path, files, code, verdict):
    folder = tmp_path / "some" / "where"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    assert judge(scenario(), code, folder, tmp_path)[0] == verdict


def test_a_name_given_by_the_server_is_right_anywhere_within_the_folder(tmp_path):
    (tmp_path / "where").mkdir()
    (tmp_path / "where" / ".._x").write_bytes(OLD)

    assert judge(scenario(disposition=True), 0, tmp_path / "where", tmp_path)[0] == RIGHT
    assert judge(scenario(), 0, tmp_path / "where", tmp_path)[0] == WRONG


def test_a_tool_that_does_not_end_hangs():
    sleeper = Driver(name="x", program="sleep", command=lambda *_: ["sleep", "60"])

    assert run(sleeper, scenario(), limit_s=0.2).verdict == HANG


# ---------------------------------------------------------------- the command


def test_the_table_has_a_row_for_each_scenario_and_marks_what_is_wrong(capsys, tmp_path):
    out = tmp_path / "out.json"
    cases = ["--case", "404-page", "--case", "login-page"]

    code = main(["--driver", "requests", *cases, "--table", "--json", str(out)])

    assert code == 1
    printed = capsys.readouterr().out
    assert "| 404 with a page | clean |\n| 200 with a login page | **WRONG** |" in printed
    assert "Versions: requests 2" in printed
    assert '"verdict": "WRONG"' in out.read_text()


def test_a_driver_that_was_not_fooled_ends_with_0():
    assert main(["--driver", "requests", "--case", "404-page"]) == 0


def test_a_driver_that_is_not_installed_is_left_out_and_said(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    assert main(["--driver", "curl", "--case", "404-page"]) == 0
    assert "curl: not installed" in capsys.readouterr().err


def test_the_versions_of_all_tools_that_are_there_can_be_told():
    for driver in DRIVERS.values():
        if driver.installed:
            assert re.fullmatch(r"[A-Za-z0-9 ]+\d+(\.\d+)+", driver.version_line())


def test_the_command_runs_from_the_top_of_the_tree():
    listed = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--list"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(MATRIX)
