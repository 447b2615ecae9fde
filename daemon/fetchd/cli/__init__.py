"""The command line: one file a command, loaded only when it is called.

Whatever goes wrong is one line on stderr and an exit code: 0 fine, 1 work failed, 2 usage or a
bad job file, 70 internal, 75 busy, 78 configuration, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from fetchd.errors import (
    BusyError,
    ConfigError,
    DocumentError,
    FetchdError,
    StoreError,
    UsageError,
)

#: Command -> its line in ``fetchd --help``; so that help loads none of them.
COMMANDS = {
    "run": "Run the daemon in the foreground.",
    "get": "Fetch job files or URLs here and now, without the daemon.",
    "check": "Say whether job files are right, without the network.",
    "plan": "Say what a job file would do, asking servers and fetching nothing.",
    "submit": "Hand job files or URLs to the running daemon.",
    "status": "Show what the daemon is doing.",
    "pause": "Hold a job until it is resumed.",
    "resume": "Let a paused job go on.",
    "backfill": "Make the runs of a job for days that are past.",
    "origins": "Show what holds for each server, why, and what was learned of it.",
    "schema": "Print the JSON Schema of job files or of the configuration.",
    "demo": "See the whole work in a temporary folder, without internet.",
    "version": "Print the version.",
}

EXIT_CODES: dict[type[Exception], int] = {
    UsageError: 2,
    DocumentError: 2,
    StoreError: 70,
    BusyError: 75,
    ConfigError: 78,
}
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


@dataclass
class Session:
    """What holds for all commands of one call."""

    debug: bool = False


class Commands(click.Group):
    """Loads ``fetchd.cli.NAME`` for the command NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fetchd.cli.{cmd_name}").command
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_obj
def fetchd(session: Session, debug: bool) -> None:
    """Drop a YAML job file in a folder, get verified files."""
    session.debug = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; returns the exit code."""
    session = Session()
    _fill_closed_streams()
    try:
        returned: Any = fetchd.main(
            args=None if arguments is None else list(arguments),
            prog_name="fetchd",
            obj=session,
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return exc.exit_code
    except click.ClickException as exc:
        _complain(exc.format_message())
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # as click does when it meets the closed pipe first
    except FetchdError as exc:
        _complain(str(exc))
        return EXIT_CODES.get(type(exc), EXIT_INTERNAL)
    except Exception as exc:  # noqa: BLE001 -- the border of the program: no traceback unasked
        from fetchd.secrets import hide  # noqa: PLC0415 -- most calls end well

        if session.debug:
            click.echo(hide(traceback.format_exc()), err=True, nl=False)
        hint = "" if session.debug else " (fetchd --debug shows where)"
        _complain(hide(f"internal error: {type(exc).__name__}: {exc}{hint}"))
        return EXIT_INTERNAL
    return returned if isinstance(returned, int) else 0


def _fill_closed_streams() -> None:
    """Make a standard stream that the caller closed the null device.

    Otherwise the next file or socket that is opened gets its number.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _complain(message: str) -> None:
    click.echo(f"fetchd: {message}", err=True)
