"""Real jobs, end to end in this process, against servers that misbehave; and what they may cost.

``Rig.get`` runs the text of a job file through the real service into a root of its own. After
each run the rig itself looks at what holds for every fault: it ended in time, its codes are ones
that the table has, and whatever can be seen under a final name is one whole content. ``bounds``
asserts that a test left no thread and no descriptor behind and took little memory.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from faults.server import Handler, Request, Server, content, file, once
from fetchd import config, events, jobfile, service
from fetchd.errors import CODES
from fetchd.model import FileView, Report

BODY = content("the file", 300_000)
HALF = len(BODY) // 2
NEXT = content("its next version", len(BODY))

#: What is reached, and how long things take. Nothing here changes what is decided.
QUICK = {
    "network.allow": "[loopback]",
    "retry.attempts": "3",
    "retry.delay": "10ms",
    "retry.max_delay": "50ms",
    "timeout.connect": "1s",
    "timeout.stall": "400ms@1KiB/s",
    "disk.reserve": "1MiB",
    "workers": "2",
    "finishers": "1",
    "stop_grace": "2s",
}

E = TypeVar("E", bound=events.Event)

_MOST_GROWTH_BYTES = 64 * 1024 * 1024
_GRACE_S = 5.0


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


# ---------------------------------------------------------------- what a fault may cost


@contextmanager
def bounds() -> Iterator[None]:
    """Assert that what is done inside costs no thread, no descriptor, and less than 64 MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_bytes = _memory_bytes("VmRSS")
    threads, descriptors = _threads(), _descriptors()
    yield
    grown_bytes = _memory_bytes("VmHWM") - before_bytes
    until_s = time.monotonic() + _GRACE_S
    while (_threads() > threads or _descriptors() > descriptors) and time.monotonic() < until_s:
        time.sleep(0.005)
    assert grown_bytes < _MOST_GROWTH_BYTES, f"memory grew by {grown_bytes} bytes"
    assert _threads() <= threads
    assert _descriptors() <= descriptors


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 -- names are counted, not used


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# ---------------------------------------------------------------- a job and its end


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended and what it left. ``files``: what can be seen below the root."""

    state: str  # of the run; "waiting" where the rig ended the wait
    views: Sequence[FileView]  # none when waiting
    told: Sequence[events.Event]
    files: Mapping[str, bytes]
    parts: Mapping[str, int]  # hidden file below the root -> its size
    took_s: float

    @property
    def view(self) -> FileView:
        """The only file of the job."""
        (view,) = self.views
        return view

    @property
    def code(self) -> str:
        """The reason code of a job's only file, "" unless it failed."""
        return self.view.detail if self.view.state == "failed" else ""

    @property
    def reason(self) -> str:
        return self.view.reason

    @property
    def retries(self) -> list[events.TaskRetryScheduled]:
        """Every attempt that failed and was followed by another one, in order."""
        return self.of(events.TaskRetryScheduled)

    @property
    def codes(self) -> list[str]:
        """Why each attempt failed, in order; also the last one."""
        failed = [event for event in self.told if isinstance(event, _FAILURES)]
        return [event.code for event in failed]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.told if isinstance(event, kind)]


_FAILURES = (events.TaskRetryScheduled, events.TaskFailed)


class Rig:
    """A root of its own. ``whole``: the contents that may ever be seen there.

    ``ca``: what TLS trusts where a test says nothing else; to read a short file saves time.
    """

    def __init__(self, base: Path, ca: str) -> None:
        self.root = base / "root"
        self.whole = {BODY}
        self._settings = {
            **QUICK,
            "jobs": str(base / "jobs"),
            "state": str(base / "state"),
            "roots.default": str(self.root),
            "network.ca": ca,
        }

    def get(
        self,
        job: str,
        settings: Mapping[str, str] = {},
        *,
        within_s: float = 6.0,
        enough: Callable[[Report], bool] = lambda _: False,
    ) -> Ended:
        """Run a job file's text to its end, or until ``enough`` says so of what is going on."""
        told: list[events.Event] = []

        def tell(event: events.Event) -> None:
            told.append(event)

        def watch(report: Report) -> None:
            if enough(report):
                raise _Enough

        chosen = config.load(Path(os.devnull), {**self._settings, **settings})
        began_s = time.monotonic()
        state = "waiting"
        views: Sequence[FileView] = ()
        with suppress(_Enough):
            ((run, views),) = service.get(
                chosen, [jobfile.load(job.encode(), "job.yaml", chosen)], watch, [tell]
            )
            state = run.state.value
        ended = Ended(
            state=state,
            views=views,
            told=told,
            files=self._visible(),
            parts=self._hidden(),
            took_s=time.monotonic() - began_s,
        )
        self._judge(ended, within_s)
        return ended

    def _judge(self, ended: Ended, within_s: float) -> None:
        assert ended.took_s < within_s
        assert set(ended.codes) <= CODES.keys()
        assert "worker_died" not in ended.codes
        assert not ended.of(events.ThreadDied)
        for failure in ended.retries:
            assert "\n" not in failure.reason
        for path, seen in ended.files.items():
            assert seen in self.whole, f"{path} has {len(seen)} bytes that are no version of it"

    def _visible(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and ".fetchd" not in path.parts
        }

    def _hidden(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.root)): path.stat().st_size
            for path in self.root.rglob("*")
            if path.is_file() and ".fetchd" in path.parts
        }


class _Enough(Exception):
    pass


class Trial:
    """One file of one server, which the next request finds hostile and every later one good.

    ``resumed``: an earlier job left half of it, broken off by the same server. ``requests`` are
    those that came after that; ``source``: the line of the job file that says where the file is;
    ``missing`` is what a good server answers to the first of them.
    """

    def __init__(self, rig: Rig, server: Server, *, resumed: bool) -> None:
        self.rig = rig
        self.server = server
        self.resumed = resumed
        self.source = f"url: {server.url('/f.bin')}\n"
        self.have_bytes = HALF if resumed else 0
        self.missing = memoryview(BODY)[self.have_bytes :]
        self._before = 0

    @property
    def requests(self) -> list[Request]:
        return self.server.requests[self._before :]

    def meet(
        self,
        hostile: Handler,
        good: Handler = file(BODY),  # noqa: B008 -- is never changed
        *,
        keys: str = "",
        settings: Mapping[str, str] = {},
        kept: Handler = file(BODY, cut_after=HALF),  # noqa: B008
        **options,
    ) -> Ended:
        """Run a job for the file; ``keys``: lines of the job file beside ``source``."""
        job = self.source + keys
        if self.resumed:
            self.keep(job, kept, settings)
        self.server.routes["/f.bin"] = once(hostile, good)
        return self.rig.get(job, settings, **options)

    def keep(
        self, job: str, broken: Handler, settings: Mapping[str, str] = {}, code: str = "short_body"
    ) -> Ended:
        """Let a job end by a server that breaks off, so that a part is left."""
        self.server.routes["/f.bin"] = broken
        ended = self.rig.get(job, {**settings, "retry.attempts": "1"})
        assert ended.codes == [code]
        assert ended.files == {}
        assert any(ended.parts.values())
        self._before = len(self.server.requests)
        return ended


@dataclass(frozen=True)
class Detour:
    """``origin`` redirects from its /f.bin to the /g.bin of ``other``, which ``ca`` certifies."""

    origin: str
    other: str
    ca: str
    servers: tuple[Server, ...]

    @property
    def requests(self) -> list[Request]:
        """What both were asked, the first one first."""
        return [request for server in self.servers for request in server.requests]


def recovered(ended: Ended, *codes: str, body: bytes = BODY) -> bool:
    """Assert that attempts failed with these codes, then the whole file was published.

    "a|b" stands for either of two codes, where it is a race that decides between them.
    """
    _assert_codes(ended, codes)
    assert ended.state == "succeeded"
    assert set(ended.files.values()) == {body}
    return True


def refused(ended: Ended, *codes: str) -> bool:
    """Assert that every attempt failed, with these codes, and nothing can be seen."""
    _assert_codes(ended, codes)
    assert ended.state == "failed"
    assert ended.files == {}
    assert ended.reason
    assert "\n" not in ended.reason
    return True


def _assert_codes(ended: Ended, codes: Sequence[str]) -> None:
    assert len(ended.codes) == len(codes), f"{ended.codes} is not {codes}"
    for found, allowed in zip(ended.codes, codes, strict=True):
        assert found in allowed.split("|"), f"{ended.codes} is not {codes}"
