from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faults.server import Server, content, file, flapping, status
from fetchd import __version__, cli, config
from fetchd.cli import demo
from fetchd.cli.board import board, file_lines, printable, run_line
from fetchd.cli.demo_server import DemoServer, Page
from fetchd.cli.origins import table
from fetchd.cli.status import ENVIRONMENT, PLACES, state_of
from fetchd.cli.waits import Waits
from fetchd.events import TaskDeferred, TaskRetryScheduled, TaskStarted

GOOD = "url: https://h.example/a.iso\nchecksum: sha256:" + "0" * 64 + "\n"
BAD = "url: https://h.example/a.iso\nchekcsum: sha256:00\nsize: much\n"
PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Every test stands in an empty folder, where no configuration is found but its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def ran(capsys, *arguments):
    """Return exit code, output and errors of one call."""
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def written(name, text):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def daemon(tmp_path):
    """A daemon as seen from outside: it holds the lock of ./state and has ./jobs."""
    (tmp_path / "jobs" / "reports").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


# ---------------------------------------------------------------- the frame


def test_help_lists_every_command_and_each_has_its_own(capsys):
    code, text, _ = ran(capsys, "--help")

    assert code == 0
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text
        assert ran(capsys, name, "--help")[0] == 0


def test_without_a_command_help_is_shown_as_an_error(capsys):
    code, out, err = ran(capsys)

    assert (code, out) == (2, "")
    assert "Usage: fetchd" in err


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["get"], ["run", "--nope"], ["run", "--set", "novalue"], ["schema", "nope"]],
)
def test_wrong_usage_is_one_line_and_2(capsys, arguments):
    code, _, err = ran(capsys, *arguments)

    assert code == 2
    assert err.startswith("fetchd: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_version_says_which(capsys):
    assert ran(capsys, "version") == (0, f"fetchd {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], {"rich", "pydantic", "yaml", "structlog", "requests", "sqlite3"}),
        (["status"], {"rich", "pydantic", "structlog", "requests", "sqlite3", "watchdog"}),
        (["origins"], {"rich", "pydantic", "structlog", "requests", "sqlite3", "watchdog"}),
        (["version"], {"rich", "pydantic", "yaml", "structlog", "requests", "sqlite3"}),
    ],
)
def test_quick_commands_load_no_heavy_library(arguments, heavy):
    written("config/fetchd.yaml", "state: ./elsewhere\n")
    code = (
        "import sys; from fetchd.cli import main; "
        f"main({arguments!r}); print(sorted({heavy!r} & set(sys.modules)))"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error_to_talk_about():
    script = f"{sys.executable} -m fetchd schema | true; echo ${{PIPESTATUS[0]}}"

    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)

    assert said.stderr == ""
    assert said.stdout.strip() in {"0", "1"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("version", 0),
        ("schema", 0),
        ("check a.yaml", 0),
        ("check --json b.yaml", 2),
        ("status", 75),
        ("origins", 75),
    ],
)
def test_a_standard_output_that_is_closed_is_no_error(command, code):
    written("a.yaml", GOOD)
    written("b.yaml", BAD)

    said = closed_out(command)

    assert said.returncode == code
    assert "internal" not in said.stderr


def test_get_with_a_closed_standard_output_still_fetches():
    with Server({"/a.bin": file(BODY)}) as server:
        said = closed_out(f"get {server.url('/a.bin')} {' '.join(LOOPBACK)}")

    assert (said.returncode, said.stderr) == (0, "")
    assert Path("a.bin").read_bytes() == BODY


def closed_out(command):
    """Run a command line without standard output and input."""
    script = f"exec {sys.executable} -m fetchd {command} >&- <&-"
    return subprocess.run(["bash", "-c", script], stderr=subprocess.PIPE, text=True, check=False)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("workers: many\n", "own.yaml:1:10: workers: 'many' is not a whole number"),
        ("wrokers: 3\n", "own.yaml:1:1: wrokers: unknown key (did you mean 'workers'?)"),
        ("jobs: [\n", "own.yaml:1:7: "),
    ],
)
def test_a_bad_configuration_is_78_and_names_key_file_and_line(capsys, text, place):
    path = written("own.yaml", text)

    code, _, err = ran(capsys, "check", "--config", path, "x.yaml")

    assert code == 78
    assert err.startswith(f"fetchd: {place}")


def test_a_bad_override_is_78_and_names_it(capsys):
    code, _, err = ran(capsys, "check", "--set", "retry.delay=soon", "x.yaml")

    assert code == 78
    assert "--set retry.delay" in err


def test_a_missing_configuration_is_78(capsys):
    code, _, err = ran(capsys, "run", "--config", "nope.yaml")

    assert code == 78
    assert err == "fetchd: nope.yaml: the configuration cannot be read: No such file or directory\n"


def test_options_of_run_are_taken_literally_and_folders_that_cannot_be_had_are_78(capsys):
    written("file", "")

    code, _, err = ran(capsys, "run", "--state", "file/# no: comment", "--jobs", "j")

    assert code == 78
    assert "file/# no: comment" in err


@pytest.mark.parametrize(
    "typed",
    [
        ["--workers", "0"],
        ["--jobs", ""],
        ["--jobs", "file/j"],
        ["--downloads", ""],
        ["--downloads", "file/d"],
        ["--state", "jobs/state"],
        ["--state", "file/s"],
    ],
)
def test_an_error_about_an_option_of_run_names_it_as_it_was_typed(capsys, typed):
    written("file", "")

    code, _, err = ran(capsys, "run", "--once", "--set", "log.level=error", *typed)

    assert code == 78
    assert err.startswith(f"fetchd: {typed[0]}: ")
    assert err.count("\n") == 1


def test_an_error_about_the_destination_of_get_names_its_option(capsys):
    written("file", "")

    code, _, err = ran(capsys, "get", "https://h.example/a", "--dest", "file/d")

    assert (code, err.split("/")[0]) == (78, "fetchd: --dest: ")


def test_what_is_set_wins_over_an_option_and_is_named_itself(capsys):
    code, _, err = ran(capsys, "run", "--workers", "3", "--set", "workers=0")

    assert code == 78
    assert err.startswith("fetchd: --set workers: ")


def test_the_state_folder_is_found_as_the_configuration_says(monkeypatch):
    assert (PLACES, ENVIRONMENT) == (config.PLACES, config.ENVIRONMENT)
    assert state_of(None).absolute() == config.load(None).state

    written("config/fetchd.yaml", "state: ./here\n")
    assert state_of(None).absolute() == config.load(None).state
    monkeypatch.setenv(ENVIRONMENT, str(written("named.yaml", "state: /there\n")))
    assert state_of(None) == config.load(None).state == Path("/there")
    assert state_of(written("given.yaml", "workers: 3\n")).absolute() == Path("state").absolute()


# ---------------------------------------------------------------- check


def test_check_accepts_a_good_file(capsys):
    path = written("a.yaml", GOOD)

    assert ran(capsys, "check", path) == (0, "a.yaml: ok: job a, 1 file\n", "")


def test_check_tells_all_errors_with_their_places_and_ends_with_2(capsys):
    good, bad = written("a.yaml", GOOD), written("b.yaml", BAD)

    code, out, err = ran(capsys, "check", good, bad)

    assert code == 2
    assert out == "a.yaml: ok: job a, 1 file\n"
    assert "b.yaml:2:1: chekcsum: unknown key (did you mean 'checksum'?" in err
    assert "b.yaml:3:7: size: " in err


def test_check_shows_every_file_without_the_network(capsys):
    path = written(
        "set.yaml",
        """\
base: [https://one.example/, https://two.example/]
vars: { v: 3 }
tasks:
  index: { url: index.json }
  files:
    needs: [index]
    dest: d
    sums: SHA256SUMS
    urls:
      - "a-${v}.bin md5:900150983cd24fb0d6963f7d28e17f72"
""",
    )

    code, out, _ = ran(capsys, "check", "--show", path)

    assert code == 0
    assert out.splitlines() == [
        "set.yaml: ok: job set, 2 files",
        "  default:index.json",
        "    from https://one.example/index.json",
        "    or   https://two.example/index.json",
        "  default:d/a-3.bin",
        "    from https://one.example/a-3.bin",
        "    or   https://two.example/a-3.bin",
        "    with md5:900150983cd24fb0d6963f7d28e17f72",
        "    sums https://one.example/SHA256SUMS",
        "    or   https://two.example/SHA256SUMS",
        "    after index",
    ]


def test_check_shows_what_is_made_of_files_and_what_is_done_at_the_end(capsys):
    path = written(
        "set.yaml",
        """\
tasks:
  iso: { url: "https://one.example/a.iso", dest: d }
  list: { needs: iso, dest: d, steps: [ checksum_file ] }
on_success: [ { run: { command: reindex, args: [ "${job.summary}" ] } }, tell ]
on_failure: [ tell ]
""",
    )
    config = written(
        "conf.yaml",
        "commands: { reindex: { argv: [ /bin/true ] } }\nwebhooks: { tell: { url: http://h/x } }\n",
    )

    code, out, _ = ran(capsys, "check", "--config", config, "--show", path)
    _, as_json, _ = ran(capsys, "check", "--config", config, "--show", "--json", path)

    assert code == 0
    assert out.splitlines() == [
        "set.yaml: ok: job set, 1 file",
        "  default:d/a.iso",
        "    from https://one.example/a.iso",
        "  default:./d/list",
        "    then checksum_file",
        "    after iso",
        "  on_success: run reindex, webhook tell",
        "  on_failure: webhook tell",
    ]
    (shown,) = json.loads(as_json)
    assert shown["ends"] == ["on_success: run reindex, webhook tell", "on_failure: webhook tell"]
    assert shown["tasks"][1]["sources"] == []


def test_check_shows_what_only_a_run_knows_and_that_all_appears_together(capsys):
    path = written(
        "set.yaml",
        """\
publish: { atomic: true, keep: 3 }
base: https://one.example/
dest: d
tasks:
  index: { url: index.json }
  files:
    from: { file: "${needs.index.path}", format: json, items: "files[*]" }
    url: ${item.url}
    steps: [ extract ]
on_success: [ tell ]
""",
    )
    config = written("conf.yaml", "webhooks: { tell: { url: http://h/x } }\n")
    later = (
        "files: files for the items of ${needs.index.path} (json), known in the run, then extract"
    )
    ends = [
        "publish: all of them appear together; the latest 3 such sets stay",
        "on_success: webhook tell",
    ]

    code, out, _ = ran(capsys, "check", "--config", config, "--show", path)
    _, short, _ = ran(capsys, "check", "--config", config, path)
    _, as_json, _ = ran(capsys, "check", "--config", config, "--show", "--json", path)

    assert code == 0
    assert short.splitlines() == ["set.yaml: ok: job set, 1 file, and those of 1 manifest"]
    assert out.splitlines() == [
        *short.splitlines(),
        "  default:d/current/index.json",
        "    from https://one.example/index.json",
        f"  {later}",
        *(f"  {end}" for end in ends),
    ]
    (shown,) = json.loads(as_json)
    assert (shown["later"], shown["ends"]) == ([later], ends)


def test_check_shows_which_rate_holds_and_by_whom(capsys):
    written("conf.yaml", "limits: { rate: 2MiB/s }\norigins: { two.example: { rate: 1MiB/s } }\n")
    rate = '{ "00:00-24:00": 500MiB/s }'
    urls = "urls: [https://one.example/a, https://two.example/b]\n"
    path = written("set.yaml", f"limits: {{ rate: {rate} }}\n{urls}")

    code, out, _ = ran(capsys, "check", "--config", "conf.yaml", "--show", path)
    _, as_json, _ = ran(capsys, "check", "--config", "conf.yaml", "--show", "--json", path)

    job = "500.0 MiB/s by limits.rate of the job file"
    total = "2.0 MiB/s by limits.rate of the configuration"
    origin = "1.0 MiB/s by its origin's rate in the configuration"
    assert code == 0
    assert [line for line in out.splitlines() if "now" in line] == [
        f"    now at most {total} ({job})",
        f"    now at most {origin} ({total}; {job})",
    ]
    assert [task["rates"][0]["bytes_per_s"] for task in json.loads(as_json)[0]["tasks"]] == [
        2 << 20,
        1 << 20,
    ]


def test_check_tells_which_of_two_limits_holds(capsys):
    urls = "urls: [https://one.example/a, https://two.example/b, https://three.example/c]"
    path = written("set.yaml", f"limits: {{ concurrency: 4 }}\n{urls}\n")
    origins = (
        "{ one.example: { connections: 2, requests: 100/m }, two.example: { connections: 6 } }"
    )

    code, out, _ = ran(capsys, "check", "--show", "--set", f"origins={origins}", path)

    assert code == 0
    of = "of the configuration"
    lower = "which is lower than limits.concurrency of the job"
    as_job = "limits.concurrency of the job is lower"
    assert out.splitlines()[1:6] == [
        "  at most 4 files at a time: limits.concurrency of the job",
        f"  at most 2 at a time from https://one.example:443: origins {of}, {lower}, 4",
        f"  one request every 600 ms from https://one.example:443: origins {of}",
        f"  at most 7 at a time from https://three.example:443: workers {of}; {as_job}",
        f"  at most 6 at a time from https://two.example:443: origins {of}; {as_job}",
    ]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            "file: 3MiB, total: 4MiB",
            [
                "no file above 1.0 MiB: limits.file of the configuration",
                "at most 2.0 MiB in all: limits.total of the configuration",
            ],
        ),
        (
            "file: 3KiB, total: 4KiB",
            [
                "no file above 3.0 KiB: limits.file of the job",
                "at most 4.0 KiB in all: limits.total of the job",
            ],
        ),
    ],
)
def test_check_tells_which_limit_of_size_holds(capsys, limits, said):
    path = written("set.yaml", f"limits: {{ {limits} }}\nurl: https://one.example/a\n")
    configured = ("--set", "limits.file=1MiB", "--set", "limits.total=2MiB")

    code, out, _ = ran(capsys, "check", "--show", *configured, path)

    assert code == 0
    assert out.splitlines()[1:3] == [f"  {line}" for line in said]


def test_check_tells_that_a_file_gets_fewer_connections_than_it_asks_for(capsys):
    path = written("set.yaml", "segments: 12\nurl: https://one.example/a\n")

    _, out, _ = ran(capsys, "check", "--show", path)

    assert out.splitlines()[1] == (
        "  at most 7 at a time from https://one.example:443: workers of the configuration, "
        "which is lower than segments of the job, 12"
    )


def test_check_reads_a_list_to_its_end(capsys):
    lines = [f"https://h.example/{number}" for number in range(5000)]
    path = written("l.urls", "\n".join([*lines, "no url", lines[0]]) + "\n")

    code, _, err = ran(capsys, "check", path)

    assert code == 2
    assert err.splitlines() == [
        "l.urls:5001: 'no' is not an absolute URL; write http://... or https://...",
        "l.urls:5002: 0 is the destination of an earlier line",
    ]


def test_check_counts_comments_and_blank_lines_of_a_list(capsys):
    text = "# two\nhttps://h.example/a\n\nhttps://h.example/b\n#\nhttps://h.example/a"
    path = written("sub/l.urls", text)

    code, out, _ = ran(capsys, "check", "--json", path)

    (checked,) = json.loads(out)
    (problem,) = checked["problems"]
    assert (code, problem["line"]) == (2, 6)
    assert problem["message"] == "a is the destination of an earlier line"


def metalink_of(*files: str) -> str:
    inside = "\n".join(files)
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{inside}\n</metalink>\n'


def test_check_shows_what_a_metalink_asks_for_and_where_it_is_wrong(capsys):
    sha256 = "ab" * 32
    good = (
        f'<file name="d/a.bin"><size>5</size><hash type="sha-256">{sha256}</hash>'
        '<url priority="2">https://two.example/a</url><url priority="1">https://one.example/a</url>'
        "</file>"
    )
    right = written(
        "a.meta4", metalink_of(good, *(good.replace("a.bin", f"{n}") for n in range(2000)))
    )
    wrong = written(
        "b.metalink", metalink_of(good, '<file name="../b"><url>http://h/b</url></file>', good)
    )
    cut = written("sub/c.meta4", metalink_of(good).removesuffix("\n</metalink>\n"))

    shown = ran(capsys, "check", "--show", right)
    told = ran(capsys, "check", wrong, cut)

    assert shown[0] == 0
    assert shown[1].splitlines()[:6] == [
        "a.meta4: ok: job a, 2001 files",
        "  default:d/a.bin",
        "    from https://one.example/a",
        "    or   https://two.example/a",
        "    of   5 bytes",
        f"    with sha256:{sha256}",
    ]
    assert told[0] == 2
    assert told[2].splitlines() == [
        "b.metalink:3: '../b' has the component '..'",
        "b.metalink:4: d/a.bin is the destination of an earlier line",
        f"sub/c.meta4:2:{len(good) + 1}: the file is cut off: it ends before </metalink>",
    ]


def test_check_as_json(capsys):
    good, bad = written("a.yaml", GOOD), written("b.yaml", BAD)

    code, out, err = ran(capsys, "check", "--json", "--show", good, bad)

    first, second = json.loads(out)
    assert (code, err) == (2, "")
    assert (first["ok"], first["job"], first["files"]) == (True, "a", 1)
    assert first["tasks"][0]["path"] == "a.iso"
    assert (second["ok"], [p["line"] for p in second["problems"]]) == (False, [2, 3])


@pytest.mark.parametrize("name", ["nope.yaml", "folder.yaml", "a.txt"])
def test_what_is_no_job_file_is_2(capsys, name):
    Path("folder.yaml").mkdir()

    code, _, err = ran(capsys, "check", name)

    assert code == 2
    assert err.startswith(f"fetchd: {name}: ")
    assert err.count("\n") == 1


# ---------------------------------------------------------------- schema


@pytest.mark.parametrize("which", ["job", "config"])
def test_schema_prints_draft_07(capsys, which):
    code, out, _ = ran(capsys, "schema", which)

    assert code == 0
    assert json.loads(out)["$schema"] == "http://json-schema.org/draft-07/schema#"


# ---------------------------------------------------------------- get

LOOPBACK = ("--set", "network.allow=[loopback]", "--set", "disk.reserve=0")
BODY = content("body", 100_000)


def test_get_fetches_urls_and_files_in_place(capsys):
    digest = "sha256:" + hashlib.sha256(BODY).hexdigest()
    with Server({"/a.bin": file(BODY), "/b.bin": file(BODY), "/c.bin": file(BODY)}) as server:
        job = written("job.yaml", f"url: {server.url('/b.bin')}\ndest: sub\n")
        listed = written("many.urls", server.url("/c.bin") + "\n")

        code, out, _ = ran(
            capsys, "get", job, listed, server.url("/a.bin"), digest, "--dest", "out", *LOOPBACK
        )

    assert code == 0
    assert all(Path("out", name).read_bytes() == BODY for name in ("a.bin", "sub/b.bin", "c.bin"))
    assert job.exists()
    assert out.splitlines() == [
        "downloaded     97.7 KiB  sub/b.bin",
        "job #1 succeeded  1/1 files  97.7 KiB",
        "downloaded     97.7 KiB  c.bin",
        "many #2 succeeded  1/1 files  97.7 KiB",
        "downloaded     97.7 KiB  a.bin",
        "get #3 succeeded  1/1 files  97.7 KiB",
    ]
    assert not Path("state").exists()


def test_get_fetches_the_files_of_a_metalink(capsys):
    with Server({"/a.bin": file(BODY)}) as server:
        inside = f"<size>{len(BODY)}</size><url>{server.url('/a.bin')}</url>"
        path = written("a.meta4", metalink_of(f'<file name="sub/b.bin">{inside}</file>'))

        code, out, _ = ran(capsys, "get", path, "--dest", "out", *LOOPBACK)

    assert (code, out.splitlines()[-1]) == (0, "a #1 succeeded  1/1 files  97.7 KiB")
    assert Path("out/sub/b.bin").read_bytes() == BODY


def test_get_ends_with_1_when_a_file_fails_and_says_why(capsys):
    with Server({"/a.bin": file(BODY), "/gone": status(404)}) as server:
        code, out, _ = ran(capsys, "get", server.url("/a.bin"), server.url("/gone"), *LOOPBACK)

    assert code == 1
    assert Path("a.bin").read_bytes() == BODY
    assert "failed" in out
    assert "gone: bad_status: " in out


def test_get_as_json_is_the_report_with_its_files(capsys):
    with Server({"/a.bin": file(BODY)}) as server:
        code, out, _ = ran(capsys, "get", server.url("/a.bin?key=s3cret"), "--json", *LOOPBACK)

    (run,) = json.loads(out)
    assert code == 0
    assert (run["job"], run["state"], run["tasks"]["succeeded"]) == ("get", "succeeded", 1)
    assert (run["files"][0]["path"], run["files"][0]["detail"]) == ("a.bin", "downloaded")
    assert "s3cret" not in out


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (["sha256:" + "0" * 64], "must stand behind a URL"),
        (["ftp://h.example/a"], "the scheme 'ftp' is not fetched"),
        (["https://h.example/a b"], "the character ' '"),
        (["https://h.example/"], "name"),
        (["nope.yaml"], "cannot be read"),
    ],
)
def test_what_get_cannot_understand_is_2(capsys, what, said):
    code, _, err = ran(capsys, "get", *what)

    assert code == 2
    assert said in err
    assert "Traceback" not in err


ABOUT: dict[str, Any] = {
    "job": "get", "run": 1, "task": 1, "path": "a.bin", "url": "https://h.example/a.bin",
}  # fmt: skip
DEFERRED = TaskDeferred(**ABOUT, wait="disk", reason="no\nspace", delay_s=30.0)
RETRIED = TaskRetryScheduled(
    **ABOUT, attempt=1, code="bad_status", reason="503", delay_s=90.0, next_url=ABOUT["url"]
)


def test_a_wait_is_told_once_a_minute_for_each_cause():
    now_s = [0.0]
    waits = Waits(logging.CRITICAL, lambda: now_s[0])

    for event in (DEFERRED, RETRIED, DEFERRED, TaskStarted(**ABOUT, attempt=2), RETRIED):
        waits(event)
    first = list(waits.lines())
    now_s[0] = 59.0
    waits(DEFERRED)
    second = list(waits.lines())
    now_s[0] = 61.0
    waits(DEFERRED)
    third = list(waits.lines())

    assert first == [
        "waiting (disk): a.bin: no\\nspace; next attempt in 30.0 s",
        "waiting (bad_status): a.bin: 503; next attempt in 1 m 30 s",
    ]
    assert (second, third) == ([], first[:1])


def test_short_waits_and_those_that_the_log_shows_are_not_told():
    short = TaskRetryScheduled(
        **ABOUT, attempt=1, code="stalled", reason="", delay_s=1.0, next_url=ABOUT["url"]
    )

    silent, warnings = Waits(logging.CRITICAL), Waits(logging.WARNING)
    silent(short)
    warnings(RETRIED)
    warnings(DEFERRED)

    assert list(silent.lines()) == []
    assert len(list(warnings.lines())) == 1


@pytest.mark.parametrize(
    ("arguments", "logged"),
    [((), False), (("--set", "log.level=debug"), True), (("--set", "log.format=json"), False)],
)
def test_the_log_level_of_get_is_warning_unless_it_is_set_in_the_call(capsys, arguments, logged):
    written("config/fetchd.yaml", "log: { level: debug }\n")
    with Server({"/a.bin": file(BODY)}) as server:
        code, _, err = ran(capsys, "get", server.url("/a.bin"), *LOOPBACK, *arguments)

    assert code == 0
    assert ("task.started" in err, err == "") == (logged, not logged)


# ---------------------------------------------------------------- origins

ORIGIN = {
    "origin": "https://files.example:443",
    "connections": 4,
    "most_connections": 7,
    "bound_by": "workers",
    "window_reason": "bad_status: 429 Too Many Requests",
    "requests_per_s": 10.0,
    "out": 2,
    "breaker": "half_open",
    "failures": 1,
    "shut_until_s": 1_000_041.2,
    "shut_reason": "status 429",
    "ranges": True,
    "retry_after_s": 60.0,
    "best_connections": 7,
    "stall_rate": 0.05,
    "bytes_per_s": 10 * 1024 * 1024,
    "seen_at_s": 1_000_000.0,
}


def test_origins_are_shown_with_the_reason_of_each_limit():
    calm = ORIGIN | {
        "origin": "http://nas:80",
        "connections": 7,
        "requests_per_s": None,
        "out": 0,
        "breaker": "closed",
        "shut_until_s": None,
        "ranges": None,
        "retry_after_s": None,
        "best_connections": None,
        "bytes_per_s": None,
    }

    lines = list(table([ORIGIN, calm], 1_000_000.0))

    assert [line.split() for line in lines[:2]] == [
        ["origin", "connections", "gate", "breaker", "ranges", "stalls", "speed"],
        [
            *("https://files.example:443", "2", "of", "4", "shut", "for", "41.2", "s"),
            *("half-open", "yes", "5%", "10.0", "MiB/s"),
        ],
    ]
    assert lines[2:8] == [
        "    at most 7 connections: workers",
        "    now 4: bad_status: 429 Too Many Requests",
        "    one request every 100 ms: origins",
        "    shut: status 429",
        "    it last asked for 1 m 0 s",
        "    7 at a time went well",
    ]
    assert lines[8].split() == ["http://nas:80", "0", "of", "7", "open", "closed", "?", "5%", "?"]
    assert lines[9:] == ["    at most 7 connections: workers"]


def test_status_tells_which_origins_are_left_alone_for_now(capsys, daemon):
    shut = [ORIGIN | {"shut_until_s": time.time() + 3600} for _ in range(7)]
    past = ORIGIN | {"shut_until_s": 1.0}
    report = {
        "runs": [],
        "transfers": [],
        "origins": [*shut, past, ORIGIN | {"shut_until_s": None}],
    }
    (daemon / "state" / "status.json").write_text(json.dumps({"report": report, "stats": {}}))

    _, out, _ = ran(capsys, "status")

    lines = [line for line in out.splitlines() if "left alone" in line or "more" in line]
    told = re.compile(r"https://files\.example:443 is left alone for .*: status 429")
    assert [bool(told.fullmatch(line)) for line in lines] == [True] * 5 + [False]
    assert lines[-1] == "and 2 more: fetchd origins"


def test_origins_come_from_the_status_file(capsys, daemon):
    report = {"runs": [], "transfers": [], "origins": [ORIGIN]}
    (daemon / "state" / "status.json").write_text(json.dumps({"report": report}))

    code, out, _ = ran(capsys, "origins", "--json")

    assert (code, json.loads(out)) == (0, [ORIGIN])


def test_origins_of_a_daemon_that_has_just_started(capsys, daemon):
    assert ran(capsys, "origins") == (0, "nothing was asked of any server yet\n", "")


# ---------------------------------------------------------------- status

REPORT = {
    "runs": [
        {
            "id": 4,
            "job": "isos",
            "state": "running",
            "tasks": {
                "ready": 2, "running": 1, "publishing": 0, "succeeded": 6, "failed": 1,
                "skipped": 0, "cancelled": 0,
            },
            "bytes": 3 * 1024**2,
            "list_open": True,
            "waiting": {"retry": 2},
        }
    ],
    "transfers": [
        {
            "job": "isos",
            "run": 4,
            "path": "a\x1b[31m.iso",
            "url": "https://h.example/a",
            "attempt": 2,
            "elapsed_s": 2.0,
            "progress": {
                "received_bytes": 1024**2, "have_bytes": 3 * 1024**2,
                "total_bytes": 6 * 1024**2, "verifying": False,
            },
        }
    ],
}  # fmt: skip
STATUS = {
    "pid": 7, "version": "0.1.0", "updated_at": 2.0, "started_at": 1.0, "report": REPORT,
    "stats": {"queued": 2, "running": 1, "tasks_succeeded": 6, "tasks_failed": 1, "retries": 3,
              "bytes_received": 4096, "bytes_per_s_10s": 1024.0},
}  # fmt: skip


def test_status_shows_runs_transfers_and_totals(capsys, daemon):
    (daemon / "state" / "status.json").write_text(json.dumps(STATUS))

    code, out, _ = ran(capsys, "status")

    assert code == 0
    head, *rest = out.splitlines()
    assert re.fullmatch(r"fetchd 0\.1\.0, process 7, up for [\d hm.s]+", head)
    assert rest == [
        "tasks: 2 queued, 1 running, 6 succeeded, 1 failed, 3 retries",
        "received: 4.0 KiB, 1.0 KiB/s now",
        "",
        "isos #4 running  7/10+ files  1 failed  3.0 MiB  2 wait: retry",
        "  [##########----------] 3.0 MiB of 6.0 MiB  512.0 KiB/s  a\\x1b[31m.iso  attempt 2",
    ]


def test_status_tells_what_is_the_matter_with_the_folder_and_of_runs_it_leaves_out(capsys, daemon):
    status = STATUS | {
        "folder": ["Permission denied\x1b"],
        "report": {"runs": REPORT["runs"], "transfers": [], "left_out": 19_900},
    }
    (daemon / "state" / "status.json").write_text(json.dumps(status))

    _, out, _ = ran(capsys, "status")

    _, _, _, trouble, _, run, more = out.splitlines()
    assert trouble == "jobs folder: Permission denied\\x1b"
    assert run.startswith("isos #4")
    assert more == "and 19900 more runs"


def test_status_as_json_is_what_the_daemon_wrote(capsys, daemon):
    (daemon / "state" / "status.json").write_text(json.dumps(STATUS))

    code, out, _ = ran(capsys, "status", "--json", "--state", daemon / "state")

    assert (code, json.loads(out)) == (0, STATUS)


def test_status_is_either_watched_or_json(capsys, daemon):
    code, out, err = ran(capsys, "status", "--watch", "--json")

    assert (code, out) == (2, "")
    assert err.startswith("fetchd: --watch and --json exclude each other")
    assert err.count("\n") == 1


def test_status_of_a_daemon_that_has_just_started(capsys, daemon):
    code, out, _ = ran(capsys, "status")

    assert code == 0
    assert "nothing to do" in out


def test_status_without_a_daemon_says_so_even_if_a_file_is_left(capsys):
    written("state/status.json", json.dumps(STATUS))
    written("state/lock", "7\n")

    code, out, err = ran(capsys, "status")

    assert (code, out) == (75, "")
    assert err == "fetchd: no daemon runs on state; start one: fetchd run --state state\n"


def test_a_long_board_is_cut():
    report = {"runs": [], "transfers": REPORT["transfers"] * 40}

    lines = board(report)

    assert len(lines) == 17
    assert lines[-1] == "  and 24 more"


def test_files_that_did_not_arrive_say_why():
    base = {"url": "u", "size_bytes": None, "reason": ""}

    lines = list(
        file_lines(
            [
                {**base, "path": "a", "state": "succeeded", "detail": "resumed", "size_bytes": 10},
                {**base, "path": "b", "state": "failed", "detail": "stalled", "reason": "no data"},
                {**base, "path": "c", "state": "skipped", "detail": "upstream_failed"},
            ]
        )
    )

    assert lines == [
        "resumed            10 B  a",
        "failed                   b: stalled: no data",
        "skipped                  c: upstream_failed",
    ]


def test_nothing_that_is_printed_moves_the_cursor():
    assert printable("größe\x1b[2J\n\udcff") == "größe\\x1b[2J\\n\\udcff"
    assert "\x1b" not in run_line({**REPORT["runs"][0], "job": "\x1b"})


# ---------------------------------------------------------------- submit


def dropped(daemon):
    return [path for path in (daemon / "jobs").glob("[!.]*") if path.is_file()]


def test_submit_drops_a_whole_file_under_a_name_of_its_own(capsys, daemon):
    path = written("a.yaml", GOOD)

    code, out, _ = ran(capsys, "submit", path)
    ran(capsys, "submit", path)

    first, second = sorted(dropped(daemon))
    assert code == 0
    assert first.name in out or second.name in out
    for made in (first, second):
        assert made.name.startswith("a-")
        assert made.suffix == ".yaml"
        assert made.read_text() == GOOD


def test_submit_of_urls_is_a_list_with_checksums(capsys, daemon):
    digest = "sha256:" + "0" * 64

    code, _, _ = ran(capsys, "submit", "https://h.example/a", digest, "https://h.example/b")

    (made,) = dropped(daemon)
    assert code == 0
    assert made.suffix == ".urls"
    assert made.read_text() == f"https://h.example/a\t{digest}\nhttps://h.example/b\n"


def test_submit_of_a_metalink_keeps_its_ending(capsys, daemon):
    text = metalink_of('<file name="b"><url>https://h.example/b</url></file>')

    code, _, _ = ran(capsys, "submit", written("my tools.meta4", text))

    (made,) = dropped(daemon)
    assert code == 0
    assert made.suffix == ".meta4"
    assert made.read_text() == text


def test_submit_drops_nothing_without_a_daemon_or_when_a_file_is_bad(capsys, daemon):
    bad, good = written("b.yaml", BAD), written("a.yaml", GOOD)

    assert ran(capsys, "submit", good, bad)[0] == 2
    assert ran(capsys, "submit", good, "--set", "state=other")[0] == 75
    assert dropped(daemon) == []


def answered(daemon, answer):
    """Answer the next dropped file from another thread, as the daemon would."""

    def wait():
        until_s = time.monotonic() + PATIENCE_S
        while not dropped(daemon) and time.monotonic() < until_s:
            time.sleep(0.005)
        answer(dropped(daemon)[0])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_submit_waits_for_the_run_of_its_own_file(capsys, daemon, state, code):
    path = written("a.yaml", "name: own\n" + GOOD)
    report = daemon / "jobs" / "reports" / "own.json"
    tasks = {"succeeded": 1, "failed": 0}
    report.write_text(json.dumps({"run": 1, "state": "succeeded", "tasks": tasks}))

    def answer(_made):
        report.write_text(json.dumps({"run": 2, "state": state, "tasks": tasks}))

    thread = answered(daemon, answer)
    got, out, _ = ran(capsys, "submit", "--wait", path)
    thread.join()

    assert got == code
    assert out.splitlines()[-1] == f"own: {state}: 1 succeeded, 0 failed"


def test_submit_says_why_the_first_files_of_its_run_failed(capsys, daemon):
    path = written("a.yaml", "name: own\n" + GOOD)
    one = {"path": "a\x1b.iso", "code": "bad_status", "reason": "404 Not Found from h"}
    report = {
        "run": 1,
        "state": "failed",
        "tasks": {"succeeded": 0, "failed": 12},
        "failures": [one] * 12,
    }

    def answer(_made):
        (daemon / "jobs" / "reports" / "own.json").write_text(json.dumps(report))

    thread = answered(daemon, answer)
    code, out, _ = ran(capsys, "submit", "--wait", path)
    thread.join()

    assert code == 1
    assert out.splitlines()[1:] == [
        "own: failed: 0 succeeded, 12 failed",
        *["  a\\x1b.iso: bad_status: 404 Not Found from h"] * 10,
        "  and more, in its report",
    ]


def test_check_reads_a_file_with_the_defaults_beside_it_and_these_alone(capsys):
    written("isos/_defaults.yaml", "dest: images\n")
    written("isos/a.yaml", GOOD)
    written("isos/l.urls", "https://h.example/x\n")
    good = ran(capsys, "check", "--show", "isos/a.yaml", "isos/l.urls", "isos/_defaults.yaml")
    written("isos/_defaults.yaml", "dset: images\n")
    bad = ran(capsys, "check", "isos/_defaults.yaml")
    also = ran(capsys, "check", "isos/a.yaml")

    assert good[0] == 0
    assert "images/a.iso" in good[1]
    assert "images/x" in good[1]
    assert (bad[0], also[0]) == (2, 2)
    assert "isos/_defaults.yaml:1:1: dset: unknown key" in bad[1] + bad[2]
    assert "isos/_defaults.yaml:1:1: dset: unknown key" in also[1] + also[2]


def test_submit_waits_for_no_schedule_because_that_has_no_end(capsys, daemon):
    path = written("a.yaml", GOOD + "schedule: daily 03:15\n")

    code, _, said = ran(capsys, "submit", "--wait", path)

    assert code == 2
    assert (
        said == "fetchd: a.yaml: a job with a schedule has no end to wait for; leave out --wait\n"
    )
    assert dropped(daemon) == []


def test_submit_tells_why_the_daemon_rejected_a_file(capsys, daemon):
    def answer(made):
        (daemon / "jobs" / "reports" / f"{made.name}.error.txt").write_text("a:1: no\x1b[2J\n")

    thread = answered(daemon, answer)
    code, _, err = ran(capsys, "submit", "--wait", written("a.yaml", GOOD))
    thread.join()

    assert (code, err) == (2, "a:1: no\\x1b[2J\n")


# ---------------------------------------------------------------- the demo's server


def test_the_demos_server_breaks_once_and_serves_the_rest_by_range():
    body = content("demo", 300_000)

    with DemoServer({"/a": Page(body=body, breaks_at=200_000)}) as server:
        _, first = asked(server, "/a")
        code, rest = asked(server, "/a", Range=f"bytes={len(first)}-")
        missing, _ = asked(server, "/b")

    assert len(first) == 200_000
    assert (code, first + rest) == (206, body)
    assert missing == 404


def asked(server, path, **headers):
    """Return status and body, as far as it came."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        except http.client.IncompleteRead as exc:
            return answer.status, exc.partial
    finally:
        connection.close()


# ---------------------------------------------------------------- whole processes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_get_that_is_stopped_keeps_its_part_and_goes_on_the_next_time(capsys, tmp_path, number):
    body = content("slow", 4_000_000)
    with Server({"/a.bin": flapping(file(body, rate=400_000), file(body))}) as server:
        with getting(server.url("/a.bin"), *LOOPBACK) as process:
            parts = tmp_path / ".fetchd" / "parts"
            eventually(lambda: any(path.stat().st_size > 300_000 for path in parts.glob("*")))
            process.send_signal(number)
            err = process.stderr.read()
            process.wait()
        between = Path("a.bin").exists()

        code, out, _ = ran(capsys, "get", server.url("/a.bin"), *LOOPBACK)

    assert (process.returncode, err.strip()) == (130, b"fetchd: interrupted")
    assert not between
    assert (code, out.split()[0]) == (0, "resumed")
    assert Path("a.bin").read_bytes() == body


def test_get_on_a_full_disk_says_in_one_line_that_it_waits():
    with Server({"/a.bin": file(BODY), "/b.bin": file(BODY)}) as server:
        options = (*LOOPBACK, "--set", "disk.reserve=4000TiB")
        with getting(server.url("/a.bin"), server.url("/b.bin"), *options) as process:
            line = process.stderr.readline()
            process.terminate()
            rest = process.stderr.read()
            process.wait()

    assert re.match(rb"fetchd: waiting \(disk\): [ab]\.bin: .*; next attempt in ", line)
    assert (process.returncode, rest.strip()) == (130, b"fetchd: interrupted")


@contextmanager
def getting(*arguments):
    """A process of get that ends with the context, and is killed when it takes too long."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fetchd", "get", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    late = threading.Timer(PATIENCE_S, process.kill)
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def test_the_demo_shows_what_it_says_and_notices_what_is_wrong(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    code, out, _ = ran(capsys, "demo", "--keep")

    (folder,) = tmp_path.glob("fetchd-demo-*")
    assert code == 0, out
    assert "28 files arrived, 1 failed" in out
    assert re.search(r"broken\.iso +resumed .* 2 ", out)
    assert re.search(r"missing\.bin +bad_status ", out)
    assert f"kept in {folder}" in out

    (folder / "downloads" / "tool.tar").write_bytes(b"other bytes")
    (folder / "downloads" / "missing.bin").write_bytes(b"")
    (folder / "downloads" / "stray").write_bytes(b"")
    assert demo.conclude(folder, 1.0) == ["tool.tar", "missing.bin", "stray"]
    shown = capsys.readouterr().out
    assert "NOT as expected: tool.tar, missing.bin, stray" in shown
    digest = hashlib.sha256(b"other bytes").hexdigest()[:12]
    assert re.search(rf"tool\.tar \(!\) +downloaded +11 B +{digest} ", shown)


def test_the_demo_cleans_up_after_itself_even_when_its_daemon_fails(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")

    code, _, err = ran(capsys, "demo")

    assert code == 70
    assert "the daemon ended with 1" in err
    assert list(tmp_path.glob("fetchd-demo-*")) == []


def eventually(holds):
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.005)
