"""``run``: a program of the operator's works on the files. A job names it, and gives arguments."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fetchd.clock import Clock
from fetchd.errors import AttemptError
from fetchd.model import Finish
from fetchd.ports import Bench
from fetchd.steps import kind

#: A program sees of our environment nothing but this.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
}
_LOOK_S = 0.2
#: Between the request to end and the end, for a program that is not to go on.
_GRACE_S = 0.5
_PIECE_BYTES = 64 * 1024
_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program as the configuration knows it."""

    argv: tuple[str, ...]
    idempotent: bool
    timeout_s: float
    memory_bytes: int
    output_bytes: int


def with_commands(commands: Mapping[str, Command], clock: Clock) -> kind.Kind:
    """Return the step for these commands, by their names."""
    return replace(
        KIND,
        work=partial(_run, commands, clock),
        prepare=partial(_prepare, commands),
    )


def _prepare(
    commands: Mapping[str, Command], options: Mapping[str, Any], _: Finish
) -> dict[str, Any]:
    """Add what the operator has written: variables are put in there as well."""
    command = commands.get(options["command"])
    if command is None:
        raise AttemptError(
            "command_failed",
            f"the configuration has no command {options['command']!r} (any more)",
        )
    return {**options, "argv": list(command.argv)}


def _work(bench: Bench, options: Mapping[str, Any]) -> None:  # noqa: ARG001 -- a step's form
    raise AttemptError("command_failed", "the configuration has no commands")


def _run(
    commands: Mapping[str, Command], clock: Clock, bench: Bench, options: Mapping[str, Any]
) -> None:
    command = commands[options["command"]]
    argv = _argv(command.argv, options["argv"], options["args"] or [])
    bench.carry()
    with bench.lend() as folder:
        if not command.idempotent:
            bench.begin_unrepeatable()
        _Running(command, argv, folder, bench, clock).wait()


def _argv(template: Sequence[str], argv: Sequence[str], args: Sequence[str]) -> list[str]:
    """Return program and arguments; what a job gives is never taken for an option."""
    made = list(argv)
    for written, text in zip(template, argv, strict=True):
        if text.startswith("-") and not written.startswith("-"):
            raise _refused(text)
    for text in args:
        if text.startswith("-") and "--" not in template:
            raise _refused(text)
        made.append(text)
    if any("\0" in text for text in made):
        raise AttemptError("command_failed", "an argument has a NUL in it")
    return made


def _refused(text: str) -> AttemptError:
    return AttemptError(
        "command_failed",
        f"the argument {text[:60]!r} could be taken for an option; the operator's `argv` may have "
        "a '--' in front",
    )


class _Running:
    """A program under way: in a session of its own, so that all of it can be ended at once."""

    def __init__(
        self, command: Command, argv: Sequence[str], folder: str, bench: Bench, clock: Clock
    ) -> None:
        self._command = command
        self._bench = bench
        self._clock = clock
        self._output = bytearray()
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- no shell; the operator names it
                argv,
                cwd=folder,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as exc:
            reason = f"{argv[0]} cannot be started: {exc.strerror or exc}"
            raise AttemptError("command_failed", reason) from None
        try:
            self._end = os.pidfd_open(self._process.pid)  # can be read once it has ended
        except OSError as exc:
            self._signal(signal.SIGKILL)
            self._process.wait()
            reason = f"{argv[0]} cannot be followed: {exc.strerror}"
            raise AttemptError("command_failed", reason, transient=True) from None
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            limit = command.memory_bytes
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (limit, limit))
            resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))

    def wait(self) -> None:
        """Return when it has ended well; raises AttemptError, and what ``tick`` raises."""
        until_s = self._clock.monotonic() + self._command.timeout_s
        try:
            self._follow(until_s)
        finally:
            self._end_all()
        status = self._process.returncode
        if status:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise AttemptError("command_failed", f"it ended {how}{self._said()}")

    def _follow(self, until_s: float) -> None:
        """Read what it says until it ends; whoever outlives it is not waited for."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        os.set_blocking(fd, False)
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            selector.register(self._end, selectors.EVENT_READ)
            while self._process.poll() is None:
                self._bench.tick()
                if self._clock.monotonic() > until_s:
                    limit_s = self._command.timeout_s
                    raise AttemptError(
                        "step_timeout", f"it ran longer than {limit_s:g} s{self._said()}"
                    )
                heard = [key.fd for key, _ in selector.select(_LOOK_S)]
                if fd in heard and not self._read(fd):
                    selector.unregister(fd)
            self._read(fd)

    def _read(self, fd: int) -> bool:
        """Keep as much as is wanted of what there is to read; False: there will be no more."""
        try:
            data = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            return True
        self._output += data[: self._command.output_bytes - len(self._output)]
        return bool(data)

    def _end_all(self) -> None:
        """End whatever of it is left; it is asked first, and has half a second."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            ended = select.poll()
            ended.register(self._end, select.POLLIN)
            ended.poll(_GRACE_S * 1000)
        self._signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._end)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _said(self) -> str:
        """Return the end of what it said, on one line."""
        text = re.sub(r"\s+", " ", self._output.decode("utf-8", "replace")).strip()
        return f": {text[-_SHOWN:]}" if text else ""


KIND = kind.Kind(
    work=_work,
    options={
        "command": kind.Option(
            read=kind.text,
            schema=kind.TEXT,
            meaning="the name of one of the configuration's `commands`",
            required=True,
        ),
        "args": kind.Option(
            read=kind.texts,
            schema=kind.LIST,
            meaning="arguments behind those that the configuration gives",
            varies=True,
        ),
    },
    alone="command",
)
