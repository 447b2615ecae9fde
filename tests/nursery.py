"""Processes that begin where ``python -m fetchd`` stands when all is imported.

What a test starts a daemon for is what it does, seldom how it came to be: most of a start is the
import of modules, the same each time. A nursery is one process that has imported them and does
nothing else; each daemon is a fork of it, in all that matters what a new process is: an own one,
with the arguments, environment, working folder and standard streams that were asked for. What it
cannot stand for (another program, or a library that is loaded before Python) is started anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, Self

#: What is read while a process begins, before a nursery could set it.
_READ_AT_THE_START = ("LD_", "PYTHON", "TZ")
_MOST_BYTES = 128 * 1024  # of a request; less than a socket's buffer
_INTEGER_BYTES = 4
_PRELOADED = ("fetchd.service", "fetchd.cli.run", "fetchd.cli.get")


class Process(Protocol):
    """What tests use of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Spawn(Protocol):
    """What tests say to ``subprocess.Popen``."""

    def __call__(
        self,
        args: list[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int | None = None,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> Process: ...


class Nursery:
    """Starts its process with the first that is asked for; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def spawn(
        self,
        args: list[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int | None = None,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> Process:
        if args[:3] != [sys.executable, "-m", "fetchd"] or not _as_here(env):
            return subprocess.Popen(
                args, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr
            )
        request = json.dumps({"args": args[3:], "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(request) < _MOST_BYTES
        status, write = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            handed_over = [null, stdout.fileno(), stderr.fileno(), write]
            socket.send_fds(self._connection(), [request], handed_over)
        finally:
            os.close(null)
            os.close(write)
        return Child(args, status)

    def _connection(self) -> socket.socket:
        with self._lock:
            if self._socket is None:
                self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with other:
                    self._process = subprocess.Popen(
                        [sys.executable, __file__, str(other.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[other.fileno()],
                    )
            return self._socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait(60)


def _as_here(env: Mapping[str, str]) -> bool:
    return all(
        env.get(name) == os.environ.get(name)
        for name in env.keys() | os.environ.keys()
        if name.startswith(_READ_AT_THE_START)
    )


class Child:
    """A process that came from a nursery, to whoever asked for it."""

    def __init__(self, args: Sequence[str], status: int) -> None:
        self._args = args
        self._status = status
        self._returncode: int | None = None
        self.pid = self._read()

    def _read(self) -> int:
        data = os.read(self._status, _INTEGER_BYTES)
        assert data, "the nursery is gone"
        return int.from_bytes(data, "little", signed=True)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self._returncode is None:
            ended = select.poll()
            ended.register(self._status, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self._args, timeout or 0.0)
            self._returncode = self._read()
            os.close(self._status)
        return self._returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended in between, as with Popen
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# ---------------------------------------------------------------- inside of the nursery


def _nurse(connection: socket.socket) -> None:
    """Fork for each request, until nobody is left who could ask."""
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            connection.close()
            _guard(json.loads(request), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        _bury()


def _bury() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _guard(request: dict, descriptors: list[int]) -> None:
    """Fork the process that was asked for, and tell its number, and in time how it ended.

    Returns in no process but the one that was asked for, and at its end.
    """
    *streams, status = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _become(request, streams)
        return
    for descriptor in streams:
        os.close(descriptor)
    os.write(status, pid.to_bytes(_INTEGER_BYTES, "little"))
    _, ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended)
    os.write(status, code.to_bytes(_INTEGER_BYTES, "little", signed=True))
    os._exit(0)


def _become(request: dict, streams: list[int]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["fetchd", *request["args"]]
    runpy.run_module("fetchd", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _nurse(socket.socket(fileno=int(sys.argv[1])))
