"""``run``: a program of the operator's on the files of a task (catalogue C14, T9)."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fetchd.clock import SystemClock
from fetchd.config import Settings
from fetchd.errors import AttemptError, DocumentError
from fetchd.jobfile import load
from fetchd.model import Interrupted
from fetchd.steps import Command
from fetchd.steps.run import with_commands
from process import wait_until
from workshop import Workshop, steps_of

SH = "/bin/sh"


def command(script: str, *more: str, **fields) -> Any:
    return Command(
        argv=(SH, "-c", script, "sh", *more),
        **{
            "idempotent": True,
            "timeout_s": 20.0,
            "memory_bytes": 2**32,
            "output_bytes": 1000,
            **fields,
        },
    )


def shop_with(folder, made, **more) -> Any:
    return Workshop(
        folder / "root",
        steps={"run": with_commands({"it": made}, SystemClock())},
        clock=SystemClock(),
        **more,
    )


def run(*args: str) -> object:
    """The step as a job file writes it."""
    return {"run": {"command": "it", "args": list(args)}}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Let the workshop's job files know the command."""
    from fetchd.jobfile import steps as reader

    plain = reader.read_steps
    monkeypatch.setattr("workshop.read_steps", partial(plain, commands=["it", "other"]))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_a_program_leaves_in_its_folder_is_published(tmp_path):
    shop = shop_with(tmp_path, command('sort "$1" > "$1.sorted"; rm "$1"; mkdir d; echo x > d/y'))

    assert shop.make("n.txt", b"b\na\n", run("n.txt")) == {"n.txt.sorted": b"a\nb\n", "d/y": b"x\n"}
    shop.close()


def test_a_program_that_writes_into_a_file_does_not_touch_the_verified_part(tmp_path):
    shop = shop_with(tmp_path, command("printf XX | dd of=a conv=notrunc 2>/dev/null; exit 3"))
    attempt = shop.verified("a", b"verified", steps_of(run()))

    failure = shop.finisher(attempt)

    assert failure.code == "command_failed"
    part = tmp_path / "root/.fetchd/parts" / attempt.intent.part
    assert part.read_bytes() == b"verified"
    shop.close()


def test_a_program_sees_a_clean_environment_no_input_and_no_file_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("FETCHD_SECRET", "hidden")
    script = "env > env; cat > input; ls /proc/self/fd > fds; ps -o sid= -p $$ > sid; echo $$ > pid"
    shop = shop_with(tmp_path, command(script))
    found = shop.make("a", b"x", run())

    names = {line.split("=")[0] for line in found["env"].decode().splitlines()}
    assert names <= {"PATH", "LANG", "HOME", "PWD", "SHLVL", "_", "OLDPWD"}
    assert found["input"] == b""
    assert len(found["fds"].split()) <= 5  # three, its own look, and the file it says that in
    assert found["sid"].split() == found["pid"].split()
    shop.close()


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (";touch evil", ";touch evil"),
        ("$(touch evil)", "$(touch evil)"),
        ("`touch evil`", "`touch evil`"),
        ("a\nb", "a\nb"),
        ("a b  c", "a b  c"),
        ("*", "*"),
        ("ü", "ü"),
    ],
)
def test_t9_an_argument_is_one_argument_whatever_is_in_it(tmp_path, value, seen):
    shop = shop_with(tmp_path, command('printf %s "$1" > said; echo $# >> said'))

    found = shop.make("a", b"x", run(value))

    assert found == {"a": b"x", "said": f"{seen}1\n".encode()}
    shop.close()


@pytest.mark.parametrize("value", ["-oX", "--output=/etc/x", "-"])
def test_t9_a_value_never_stands_where_an_option_could(tmp_path, value):
    shop = shop_with(tmp_path, command("touch ran"))
    failure = shop.refuse("a", b"x", run(value))
    assert (failure.code, "option" in failure.reason) == ("command_failed", True)
    shop.close()

    open_ = shop_with(tmp_path / "b", command('printf %s "$2" > said', "--"))
    assert open_.make("a", b"x", run(value))["said"] == value.encode()
    open_.close()


def test_t9_a_variable_in_the_operators_arguments_is_no_option_either(tmp_path):
    made = command('printf %s "$1" > said', "${v}")
    for value, refused in (("plain", False), ("-rf", True)):
        shop = shop_with(tmp_path / value, made)
        attempt = shop.verified("a", b"x", steps_of(run()))
        attempt = replace(attempt, job=replace(attempt.job, variables={"v": value}))
        outcome = shop.finisher(attempt)
        assert (getattr(outcome, "code", "") == "command_failed") is refused
        shop.close()

    with_option = shop_with(tmp_path / "c", command('printf %s "$1" > said', "--job=${job.name}"))
    assert with_option.make("a", b"x", run())["said"] == b"--job=j"
    with_option.close()


def test_rule_53_a_program_that_fails_says_how_and_nothing_is_seen(tmp_path):
    shop = shop_with(tmp_path, command("echo out; echo it is broken >&2; touch half; exit 7"))

    failure = shop.refuse("a", b"x", run())

    assert (failure.code, failure.transient) == ("command_failed", False)
    assert failure.reason == "run: it ended with status 7: out it is broken"
    shop.close()


def test_a_program_that_is_killed_or_missing_says_so(tmp_path):
    killed = shop_with(tmp_path, command("kill -SEGV $$"))
    assert "by SIGSEGV" in killed.refuse("a", b"x", run()).reason
    killed.close()

    missing = shop_with(tmp_path, replace(command(""), argv=("/no/such/program",)))
    assert "cannot be started" in missing.refuse("a", b"x", run()).reason
    missing.close()


def test_a_command_that_the_configuration_has_no_more_is_told(tmp_path):
    shop = shop_with(tmp_path, command("true"))
    failure = shop.refuse("a", b"x", {"run": {"command": "other"}})

    assert (failure.code, "other" in failure.reason) == ("command_failed", True)
    shop.close()


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; sleep 60 & wait; sleep 60"])
def test_c14_a_program_that_hangs_is_ended_with_all_of_its_group(tmp_path, script):
    pids = tmp_path / "pids"
    shop = shop_with(tmp_path, command(f"sleep 61 & echo $! $$ > {pids}; {script}", timeout_s=0.6))
    began_s = time.monotonic()

    failure = shop.refuse("a", b"x", run())

    assert failure.code == "step_timeout"
    assert time.monotonic() - began_s < 0.6 + 4  # two seconds, and a busy machine
    group = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(map(is_alive, group)), what="the end of its group")
    shop.close()


def test_c14_a_program_that_leaves_somebody_behind_is_not_waited_for(tmp_path):
    pids = tmp_path / "pids"
    shop = shop_with(tmp_path, command(f"sleep 60 & echo $! > {pids}; touch made"))
    began_s = time.monotonic()

    assert set(shop.make("a", b"x", run())) == {"a", "made"}

    assert time.monotonic() - began_s < 10
    wait_until(lambda: not is_alive(int(pids.read_text())), what="the end of its group")
    shop.close()


def test_c14_a_gigabyte_of_output_is_read_and_forgotten(tmp_path):
    script = "head -c 300000000 /dev/zero | tr '\\0' x; echo end >&2; exit 1"
    shop = shop_with(tmp_path, command(script, output_bytes=50))

    failure = shop.refuse("a", b"x", run())

    assert failure.reason == f"run: it ended with status 1: {'x' * 50}"
    shop.close()


def test_memory_is_limited(tmp_path):
    shop = shop_with(
        tmp_path,
        command("sleep 0.3; dd if=/dev/zero of=/dev/null bs=800M count=1", memory_bytes=2**28),
    )

    assert "status 1" in shop.refuse("a", b"x", run()).reason
    shop.close()


def test_a_cancel_ends_a_program_within_a_second_or_so(tmp_path):
    pid = tmp_path / "pid"
    shop = shop_with(
        tmp_path, command(f"echo $$ > {pid}; sleep 60"), wanted=lambda: not pid.exists()
    )
    began_s = time.monotonic()

    assert isinstance(shop.finish("a", b"x", run()), Interrupted)

    assert time.monotonic() - began_s < 5
    assert not is_alive(int(pid.read_text()))
    shop.close()


def test_a_program_that_may_not_run_twice_and_was_stopped_needs_attention(tmp_path):
    pid = tmp_path / "pid"
    made = command(f"echo $$ > {pid}; sleep 60", idempotent=False)
    shop = shop_with(tmp_path, made, wanted=lambda: not pid.exists())

    failure = shop.finish("a", b"x", run())

    assert (failure.code, failure.transient) == ("needs_attention", False)
    assert "run may not be taken twice, and it was stopped" in failure.reason
    shop.close()


def test_a_program_that_may_not_run_twice_and_has_failed_has_certainly_failed(tmp_path):
    shop = shop_with(tmp_path, command("exit 1", idempotent=False))

    assert shop.refuse("a", b"x", run()).code == "command_failed"
    shop.close()


def test_what_fails_behind_a_program_that_may_not_run_twice_needs_attention(tmp_path):
    shop = shop_with(tmp_path, command("true", idempotent=False))
    full = AttemptError("disk_full", "no room")

    def seal(self, tick):
        raise full

    from fetchd.disk.staging import DiskStaging

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskStaging, "seal", seal)
        failure = shop.finish("a", b"x", run())

    assert (failure.code, failure.transient) == ("needs_attention", False)
    shop.close()


def test_what_is_no_file_folder_or_link_is_not_published(tmp_path):
    shop = shop_with(tmp_path, command("mkfifo pipe"))

    assert shop.refuse("a", b"x", run()).code == "step_failed"
    shop.close()


def test_modes_that_a_program_gives_stay(tmp_path):
    shop = shop_with(tmp_path, command("printf x > tool; chmod 750 tool"))
    shop.make("a", b"x", run())

    assert stat.S_IMODE((tmp_path / "root/tool").stat().st_mode) == 0o750
    shop.close()


# ---------------------------------------------------------------- as written


def test_a_job_may_only_name_commands_that_the_operator_has():
    settings = Settings.model_validate({"commands": {"reindex": {"argv": ["/bin/true"]}}})
    text = b"url: https://example.org/a\nsteps:\n  - run: reindx\n"

    with pytest.raises(DocumentError) as caught:
        load(text, "iso.yaml", settings)

    assert caught.value.headlines() == [
        (
            "iso.yaml:3:10: steps[0].run.command: 'reindx' is not a command of the configuration; "
            "known: reindex (did you mean 'reindex'?)"
        )
    ]
    (step,) = load(text.replace(b"reindx", b"reindex"), "iso.yaml", settings).groups[0].steps
    assert step.options == {"command": "reindex", "args": None}
