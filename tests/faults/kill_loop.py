"""Kill a working daemon at random moments, again and again, and hold the result against an oracle.

    python tests/faults/kill_loop.py --kills 500 --seed 7 [--durability none]

Rounds of at most 100 signals, each on folders of its own and with a seed of its own, so that a
round that fails is replayed alone. What jobs there are, when which signal comes: the seed decides;
which instruction it hits, the machine. Jobs are dropped while the signals fall; then no more
come until all is quiet, and the oracle speaks. On a failure the folder is kept and named.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import math
import random
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.inotify import NameWatch
from faults.server import Handler, Server, content, file, flapping, status
from fetchd.disk import part_name
from process import DaemonProcess, Watcher, visible_files, wait_until

MIB = 1 << 20
ROUND = 100
WORKERS = 8
CHECKPOINT_BYTES = 64 * MIB
#: What the kernel may hold between the server's write and the daemon's read; files that are
#: served without a pause are not larger.
SOCKET_BYTES = 1 * MIB
#: Published files stand in one of these, which are there from the start and watched.
FOLDERS = 4
STOP_S = 10.0
#: The daemon says each second what is on; so long nothing has to be.
QUIET_S = 2.5
#: What commands add to each file.
ADDED = b"added\n"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _script(log: Path) -> str:
    """Return what a command does: a line in a log, and one in each file, which takes a moment."""
    return f'echo "$0" >> {log}; sleep 0.3; for f in *; do echo added >> "$f"; done'


# ---------------------------------------------------------------- the plan


@dataclass(kw_only=True)
class Work:
    """One job, and all that must be true of it in the end.

    ``files``: path -> sha256 under its name then; ``may_show``: every (path, sha256) that may be
    seen on the way; ``publications``: how often each path gets a file by this job. ``strong``:
    paths of the server whose bytes survive a crash, ``serves_bytes`` what they come to without any.
    ``optional``: what may be there in the end, or not. ``stays``: the file stays in the folder;
    ``edit_of``: another text for such a file. ``scheduled``: its job ends when that is taken away.
    ``once``: the only file of a command that may not run twice, which a crash may leave undone.
    """

    name: str
    suffix: str
    text: str
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    files: dict[str, str] = field(default_factory=dict)
    publications: Counter[str] = field(default_factory=Counter)
    strong: set[str] = field(default_factory=set)
    serves_bytes: int = 0
    routes: dict[str, Handler] = field(default_factory=dict)
    after: Work | None = None  # must have ended before this one is dropped
    optional: dict[str, str] = field(default_factory=dict)
    stays: bool = False
    scheduled: bool = False
    edit_of: Work | None = None
    once: str = ""

    @property
    def file(self) -> str:
        return self.name + self.suffix

    def needs_attention(self) -> None:
        """What the command has done is not known: nothing of it is seen."""
        self.succeeded, self.failed = 0, 1
        self.files.clear()
        self.publications.clear()

    @property
    def state(self) -> str:
        return "failed" if self.failed or self.skipped else "succeeded"


class Plan:
    """Draws jobs of every kind; the same seed, the same jobs."""

    def __init__(self, dice: random.Random, origin: str) -> None:
        self._dice = dice
        self._origin = origin
        self._numbers = itertools.count(1)

    def draw(self) -> list[Work]:
        """Return the next job, and those that must wait for its end."""
        kinds: tuple[tuple[int, Callable[[str], list[Work]]], ...] = (
            (3, self._checksum),
            (2, self._etag),
            (2, self._no_validator),
            (3, self._large),
            (2, self._mirrors),
            (1, self._mended),
            (1, self._all_lie),
            (2, self._needs),
            (2, self._list),
            (1, self._missing),
            (1, self._flaky),
            (2, self._update),
            (1, self._overwrite),
            (1, self._fail_fresh),
            (2, self._extract),
            (1, self._sums),
            (2, self._run),
            (2, self._run_once),
            (2, self._index),
            (2, self._keep),
            (1, self._schedule),
        )
        weights = [weight for weight, _ in kinds]
        ((_, make),) = self._dice.choices(kinds, weights)
        return make(f"j{next(self._numbers)}")

    # Each returns the job of its kind, and those that follow it.

    def _checksum(self, name: str) -> list[Work]:
        work, body, _ = self._single(name, self._small())
        work.routes[f"/{name}"] = file(body, etag=None, last_modified=None, rate=self._rate())
        work.text += f"checksum: sha256:{sha256(body)}\n"
        self._kept(work, f"/{name}", body)
        return [work]

    def _etag(self, name: str) -> list[Work]:
        work, body, _ = self._single(name, self._small())
        work.routes[f"/{name}"] = file(body, last_modified=None, rate=self._rate())
        self._kept(work, f"/{name}", body)
        return [work]

    def _no_validator(self, name: str) -> list[Work]:
        work, body, _ = self._single(name, self._small())
        work.routes[f"/{name}"] = file(body, etag=None, last_modified=None, rate=self._rate())
        return [work]

    def _large(self, name: str) -> list[Work]:
        """More than one life can bring; the first connection breaks, so that a part is kept."""
        work, body, _ = self._single(name, self._dice.randint(MIB // 2, 5 * MIB))
        rate = self._dice.uniform(1.0, 4.0) * MIB
        cut = file(body, cut_after=len(body) // self._dice.randint(2, 5), rate=rate)
        cut.reset = self._dice.random() < 0.5
        work.routes[f"/{name}"] = flapping(cut, file(body, rate=rate))
        if self._dice.random() < 0.5:
            work.text += f"checksum: sha256:{sha256(body)}\n"
        self._kept(work, f"/{name}", body)
        return [work]

    def _mirrors(self, name: str) -> list[Work]:
        """The first mirror's file has the right length and wrong bytes."""
        body = content(name, self._small() + 64)  # of which the lie has none
        work = self._work(
            name,
            f"base: [{self._origin}/lies/, {self._origin}/true/]\nurl: {name}\n"
            f"checksum: sha256:{sha256(body)}\n",
        )
        self._file(work, name, body)
        work.routes[f"/lies/{name}"] = file(bytes(len(body)))
        work.routes[f"/true/{name}"] = file(body, rate=self._rate())
        self._kept(work, f"/true/{name}", body)
        return [work]

    def _mended(self, name: str) -> list[Work]:
        """The first mirror's file has a wrong byte, and is mended by the second one."""
        body = content(name, self._dice.randint(4 * MIB, 6 * MIB))
        wrong = bytearray(body)
        wrong[self._dice.randrange(len(body))] ^= 1
        work = self._work(
            name,
            f"base: [{self._origin}/lies/, {self._origin}/true/]\nurl: {name}\n"
            f"checksum: sha256:{sha256(body)}\n",
        )
        self._file(work, name, body)
        work.routes[f"/lies/{name}"] = file(bytes(wrong))
        work.routes[f"/true/{name}"] = file(body, rate=self._dice.uniform(1.0, 4.0) * MIB)
        self._kept(work, f"/true/{name}", body)
        return [work]

    def _all_lie(self, name: str) -> list[Work]:
        body = content(name, 5_000)
        text = f"base: [{self._origin}/lies/, {self._origin}/more-lies/]\nurl: {name}\n"
        work = self._work(name, f"{text}checksum: sha256:{sha256(body)}\n", failed=1)
        for where in ("lies", "more-lies"):
            work.routes[f"/{where}/{name}"] = file(bytes(len(body)))
        return [work]

    def _needs(self, name: str) -> list[Work]:
        """A chain of three; in some the middle is missing, so that the last is skipped."""
        broken = self._dice.random() < 0.4
        work = self._work(name, "tasks:\n")
        for number, key in enumerate("abc"):
            body = content(f"{name}{key}", self._small())
            work.text += f"  {key}:\n    url: {self._origin}/{name}{key}\n"
            work.text += f"    needs: [{'abc'[number - 1]}]\n" if number else ""
            if broken and key == "b":
                work.failed = work.skipped = 1
                break
            work.routes[f"/{name}{key}"] = file(body, rate=self._rate())
            self._file(work, f"{name}{key}", body)
            self._kept(work, f"/{name}{key}", body)
        if broken:
            work.text += f"  c:\n    url: {self._origin}/{name}c\n    needs: [b]\n"
        return [work]

    def _list(self, name: str) -> list[Work]:
        """Many small files; in some a line that is bad, one that comes twice, one not there."""
        work = Work(name=name, suffix=".urls", text="# a list\n")
        for number in range(self._dice.randint(20, 120)):
            body = content(f"{name}-{number}", self._dice.choice((0, 1, 300, 5_000)))
            path = f"{self._folder()}/{name}/{number}.bin"
            url = f"/{name}/{number}"
            work.text += f"{self._origin}{url} {path} sha256:{sha256(body)}\n"
            work.routes[url] = file(body)
            work.succeeded += 1
            work.files[path] = sha256(body)
            work.publications[path] = 1
            self._kept(work, url, body)
        if self._dice.random() < 0.5:
            twice = work.text.splitlines()[1]
            work.text += f"no address at all\n{twice}\n{self._origin}/gone/{name}\n"
            work.failed = 3
        return [work]

    def _missing(self, name: str) -> list[Work]:
        return [self._work(name, f"url: {self._origin}/gone/{name}\n", failed=1)]

    def _flaky(self, name: str) -> list[Work]:
        work, body, _ = self._single(name, self._small())
        busy = status(503, headers={"Retry-After": "0"})
        short = file(body, cut_after=len(body) // 2)
        work.routes[f"/{name}"] = flapping(busy, short, busy, file(body))
        self._kept(work, f"/{name}", body)
        return [work]

    def _update(self, name: str) -> list[Work]:
        """A second job asks again for what the first one brought: the same file, or a new one."""
        first, body, path = self._single(name, self._small())
        second = self._work(f"{name}-again", first.text.partition("\n")[2], dest=first.text)
        second.after = first
        changed = self._dice.random() < 0.6
        now = content(f"{name}-new", self._small() + 64) if changed else body
        url = f"/{name}"
        first.routes[url] = file(body, rate=self._rate())
        second.routes[url] = file(now, rate=self._rate())
        second.succeeded = 1
        second.files[path] = sha256(now)
        second.publications[path] = int(changed)
        self._kept(first, url, body)
        second.serves_bytes = len(now) if changed else 0
        return [first, second]

    def _overwrite(self, name: str) -> list[Work]:
        first, second = self._update(name)
        second.text += "if_exists: overwrite\n"
        (path,) = second.files
        second.publications[path] = 1
        second.serves_bytes = 5 * MIB  # at most
        return [first, second]

    def _fail_fresh(self, name: str) -> list[Work]:
        """``if_exists: fail`` publishes by link; a second job must leave the file alone."""
        work, body, path = self._single(name, self._small())
        work.text += "if_exists: fail\n"
        work.routes[f"/{name}"] = file(body, rate=self._rate())
        self._kept(work, f"/{name}", body)
        again = self._work(f"{name}-again", work.text.partition("\n")[2], dest=work.text, failed=1)
        again.after = work
        again.files[path] = sha256(body)
        return [work, again]

    def _extract(self, name: str) -> list[Work]:
        """An archive, half of which lies in a folder of its own; asked for twice, made once."""
        members = {
            f"{name}/{n}" if n % 2 else f"{name}-{n}": content(f"{name}{n}", self._small())
            for n in range(self._dice.randint(2, 30))
        }
        body = _packed(members)
        work = self._work(name, f"url: {self._origin}/{name}.tar\nsteps: [ extract ]\n")
        folder = work.text.partition("\n")[0].removeprefix("dest: ")
        for path, data in members.items():
            work.files[f"{folder}/{path}"] = sha256(data)
            work.publications[f"{folder}/{path}"] = 1
        work.succeeded = 1
        work.routes[f"/{name}.tar"] = file(body, last_modified=None, rate=self._rate())
        self._kept(work, f"/{name}.tar", body)
        again = self._work(f"{name}-again", work.text.partition("\n")[2], dest=work.text)
        again.succeeded, again.after = 1, work
        again.files |= work.files
        return [work, again]

    def _sums(self, name: str) -> list[Work]:
        """The file and the checksum that is put down beside it appear with one step."""
        work, body, path = self._single(name, self._small())
        work.text += "steps: [ checksum_file, mode: 0640 ]\n"
        work.files[f"{path}.sha256"] = sha256(f"{sha256(body)}  {name}\n".encode())
        work.publications[f"{path}.sha256"] = 1
        work.routes[f"/{name}"] = file(body, last_modified=None, rate=self._rate())
        self._kept(work, f"/{name}", body)
        return [work]

    def _run(self, name: str, command: str = "again") -> list[Work]:
        """A program adds a line to the file, once, however often it has to begin."""
        work, body, path = self._single(name, self._small())
        work.text += f"steps: [ run: {command} ]\n"
        work.files[path] = sha256(body + ADDED)
        work.routes[f"/{name}"] = file(body, last_modified=None, rate=self._rate())
        self._kept(work, f"/{name}", body)
        return [work]

    def _run_once(self, name: str) -> list[Work]:
        (work,) = self._run(name, "once")
        (work.once,) = work.files
        return [work]

    def _index(self, name: str) -> list[Work]:
        """An index, and what it names, if it has changed."""
        work = self._work(name, "tasks:\n")
        folder = work.text.partition("\n")[0].removeprefix("dest: ")
        packages = []
        for number in range(self._dice.randint(1, 60)):
            body = content(f"{name}-{number}", self._dice.choice((0, 1, 300, 5_000)))
            url = f"/{name}/{number}"
            packages.append({"url": f"{name}/{number}", "sha256": sha256(body)})
            work.routes[url] = file(body)
            work.files[f"{folder}/{name}/{number}"] = sha256(body)
            work.publications[f"{folder}/{name}/{number}"] = 1
            self._kept(work, url, body)
        index = json.dumps({"packages": packages}).encode()
        work.routes[f"/{name}.json"] = file(index, last_modified=None)
        self._kept(work, f"/{name}.json", index)
        self._file(work, f"{name}.json", index)
        work.succeeded = len(packages) + 1
        work.text += (
            f"  index:\n    url: {self._origin}/{name}.json\n"
            f"  all:\n    dest: {folder}/{name}\n"
            "    from: { file: '${needs.index.path}', format: json, items: 'packages[*]' }\n"
            "    if: ${needs.index.changed}\n    url: ${item.url}\n"
            "    checksum: sha256:${item.sha256}\n"
        )
        return [work]

    def _keep(self, name: str) -> list[Work]:
        """A file that stays, and an edit of it: some files stay, some come, one goes."""
        steps = self._dice.choice(("", "steps: [ mode: 0640 ]\n"))
        work = self._work(name, f"keep: true\n{steps}urls:\n")
        edit = Work(name=name, suffix=".yaml", text=work.text, edit_of=work)
        for number in range(self._dice.randint(2, 12)):
            body = content(f"{name}-{number}", self._small())
            url = f"/{name}-{number}"
            line = f"  - {self._origin}{url}\n"
            made = edit if number % 3 == 1 else work
            made.text += line
            if number == 0:  # which the edit does not have
                folder = work.text.partition("\n")[0].removeprefix("dest: ")
                work.optional[f"{folder}{url}"] = sha256(body)
            else:
                self._file(work if made is work else edit, url[1:], body)
                edit.text += line if made is work else ""
            work.routes[url] = file(body, last_modified=None, rate=self._rate())
            if number:
                self._kept(work, url, body)
        work.stays = True
        return [work, edit]

    def _schedule(self, name: str) -> list[Work]:
        """A run each second, of which the first ones may be the last."""
        work, _, _ = self._single(name, self._small())
        (path,) = work.files
        work.text += "schedule: every 1s\n"
        work.routes[f"/{name}"] = file(content(name, 10), last_modified=None)
        work.optional = {path: sha256(content(name, 10))}
        work.files.clear()
        work.publications.clear()
        work.stays = work.scheduled = True
        return [work]

    # What they are made of.

    def _work(self, name: str, text: str, *, dest: str = "", failed: int = 0) -> Work:
        first = dest.partition("\n")[0] or f"dest: {self._folder()}"
        return Work(name=name, suffix=".yaml", text=f"{first}\n{text}", failed=failed)

    def _single(self, name: str, size_bytes: int) -> tuple[Work, bytes, str]:
        body = content(name, size_bytes)
        work = self._work(name, f"url: {self._origin}/{name}\n")
        return work, body, self._file(work, name, body)

    def _file(self, work: Work, name: str, body: bytes) -> str:
        folder = work.text.partition("\n")[0].removeprefix("dest: ")
        path = f"{folder}/{name}"
        work.succeeded += 1
        work.files[path] = sha256(body)
        work.publications[path] = 1
        return path

    def _kept(self, work: Work, url: str, body: bytes) -> None:
        work.strong.add(url)
        work.serves_bytes += len(body)

    def _folder(self) -> str:
        return f"d{self._dice.randrange(FOLDERS)}"

    def _small(self) -> int:
        if self._dice.random() < 0.2:
            return self._dice.choice((0, 1, 17, 4096, 65_536))
        return int(2 ** self._dice.uniform(4, 20))

    def _rate(self) -> float | None:
        return self._dice.choice((None, 300_000.0, 1_000_000.0))


def _packed(members: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, data in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


# ---------------------------------------------------------------- a round


@dataclass
class Result:
    """What a round came to; ``wrong`` is empty where every promise held."""

    seed: int
    signals: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    files: int = 0
    publications: int = 0
    sizes_bytes: int = 0
    served_bytes: int = 0
    bound_bytes: int = 0
    elapsed_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        signals = ", ".join(f"{count} {name}" for name, count in sorted(self.signals.items()))
        jobs = ", ".join(f"{count} {state}" for state, count in sorted(self.jobs.items()))
        return (
            f"seed {self.seed}: {signals}; {self.lives} lives; jobs: {jobs}; {self.files} files, "
            f"{self.publications} publications; served {self.served_bytes / MIB:.1f} MiB of "
            f"{self.sizes_bytes / MIB:.1f} MiB, bound {self.bound_bytes / MIB:.1f} MiB; "
            f"{self.elapsed_s:.0f} s; {len(self.wrong)} wrong"
        )


class Round:
    """One seed, one set of folders, ``kills`` signals, and the oracle."""

    def __init__(self, base: Path, seed: int, kills: int, durability: str) -> None:
        self._dice = random.Random(seed)
        self._kills = kills
        self._daemon = DaemonProcess(
            base,
            "retry.poison=0",
            "stats_every=1h",
            f"workers={WORKERS}",
            f"durability={durability}",
            *(
                f"commands.{name}.{key}"
                for name in ("again", "once")
                for key in (
                    f"argv=[/bin/sh, -c, '{_script(base / name)}', '${{task.path}}']",
                    f"idempotent={str(name == 'again').lower()}",
                )
            ),
        )
        self._ran_once = base / "once"
        self._result = Result(seed=seed)
        self._shown: dict[str, set[str]] = {}
        self._watcher = Watcher(self._daemon.downloads, self._shown, every_s=0.2)
        self._names = NameWatch(self._watcher.check)
        self._works: list[Work] = []
        self._waiting: list[Work] = []
        self._lost_bytes = 0  # what the killed lives may have cost
        self._undone: set[str] = set()  # names of parts whose command needs a person

    def run(self) -> Result:
        began_s = time.monotonic()
        for number in range(FOLDERS):
            folder = self._daemon.downloads / f"d{number}"
            folder.mkdir(parents=True)
            self._names.watch(folder)
        self._names.start()
        self._watcher.start()
        try:
            with Server() as self._server:
                self._plan = Plan(self._dice, self._server.origin)
                self._live_and_die()
                self._come_to_rest()
                self._names.finish()
                self._watcher.finish()
                self._judge()
        finally:
            if self._daemon.process is not None:
                self._daemon.kill()
            self._names.finish()
            self._watcher.finish()
        self._result.elapsed_s = time.monotonic() - began_s
        return self._result

    # ---- the signals

    def _live_and_die(self) -> None:
        alive = False
        for _ in range(self._kills):
            if not alive:
                self._begin_life()
                alive = True
            for _ in range(self._dice.choice((0, 0, 1, 1, 2))):
                self._draw()
            self._drop_due()
            # Some lives end while the program is still being loaded.
            if self._dice.random() < 0.85:
                self._wait_for_handlers()
            time.sleep(self._dice.uniform(0.05, 0.8))
            # And some just when a file has got its name, which is not on record yet.
            if self._dice.random() < 0.3:
                self._names.seen.clear()
                self._names.seen.wait(0.3)
            (kind,) = self._dice.choices(("KILL", "TERM", "HUP"), (60, 25, 15))
            alive = self._strike(kind)

    def _begin_life(self) -> None:
        self._result.lives += 1
        self._began_bytes = self._served_bytes()
        self._daemon.start()

    def _strike(self, kind: str) -> bool:
        """Send one signal; returns whether the daemon lives on."""
        process = self._daemon.process
        ready = self._handles(signal.Signals[f"SIG{kind}"])
        if (ended := process.poll()) is not None:
            self._wrong(f"the daemon ended by itself with {ended}")
            return False
        if not ready:
            kind = "KILL"
        self._result.signals[kind] += 1
        if kind == "HUP":
            process.send_signal(signal.SIGHUP)
            return True
        if kind == "TERM":
            began_s = time.monotonic()
            code = self._daemon.terminate(30)
            took_s = time.monotonic() - began_s
            if code != 0 or took_s > STOP_S:
                self._wrong(f"SIGTERM: exit {code} after {took_s:.1f} s")
            self._lost_bytes += WORKERS * SOCKET_BYTES
            return False
        self._daemon.kill()
        sent = self._served_bytes() - self._began_bytes
        self._lost_bytes += min(sent, WORKERS * (CHECKPOINT_BYTES + SOCKET_BYTES))
        return False

    def _handles(self, number: signal.Signals) -> bool:
        """Whether the daemon is so far that it handles a signal; KILL needs nothing."""
        try:
            lines = Path(f"/proc/{self._daemon.process.pid}/status").read_text()
        except OSError:
            return False
        caught = next(line for line in lines.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)

    def _wait_for_handlers(self) -> None:
        wait_until(
            lambda: self._handles(signal.SIGTERM) or self._daemon.process.poll() is not None,
            30,
            "the daemon's signal handlers",
        )

    # ---- the jobs

    def _draw(self) -> None:
        first, *later = self._plan.draw()
        self._drop(first)
        self._waiting += later

    def _drop_due(self, likely: float = 0.3) -> None:
        """Drop what has waited for another job's end, as the folder shows it, and some edits."""
        due = [w for w in self._waiting if w.after and self._filed(w.after)]
        due += [w for w in self._waiting if w.edit_of and self._dice.random() < likely]
        for work in due:
            self._waiting.remove(work)
            self._drop(work)

    def _drop(self, work: Work) -> None:
        for path, digest in (*work.files.items(), *work.optional.items()):
            self._shown.setdefault(path, set()).add(digest)
        self._server.routes.update(work.routes)
        if (before := work.edit_of) is None:
            self._works.append(work)
        else:
            before.files |= work.files
            before.publications.update(work.publications)
            before.succeeded += work.succeeded
        self._daemon.drop(work.file, work.text)

    def _filed(self, work: Work) -> bool:
        if work.scheduled:
            return True
        if work.stays:
            return all((self._daemon.downloads / path).exists() for path in work.files)
        return any((self._daemon.jobs / where / work.file).exists() for where in ("done", "failed"))

    def _quiet(self) -> bool:
        """Whether the daemon says that nothing is on, nor any job that has a schedule kept."""
        try:
            said = json.loads((self._daemon.state / "status.json").read_text())["report"]
        except FileNotFoundError:
            return False
        scheduled = {work.name for work in self._works if work.scheduled}
        on = [run for run in said["runs"] if run["state"] in {"queued", "running", "paused"}]
        return not on and scheduled.isdisjoint(job["job"] for job in said["kept"])

    def _come_to_rest(self) -> None:
        if self._daemon.process.poll() is not None:
            self._begin_life()

        for work in self._works:
            if work.scheduled:
                (self._daemon.jobs / work.file).unlink(missing_ok=True)
        quiet_since_s = math.inf

        def at_rest() -> bool:
            nonlocal quiet_since_s
            self._drop_due(likely=1.0)
            if self._waiting or not all(map(self._filed, self._works)) or not self._quiet():
                quiet_since_s = math.inf
            quiet_since_s = min(quiet_since_s, time.monotonic())
            return time.monotonic() - quiet_since_s > QUIET_S

        try:
            wait_until(at_rest, 60 + self._kills, "all jobs to be filed")
        except AssertionError as exc:
            left = [w.name for w in (*self._works, *self._waiting) if not self._filed(w)]
            self._wrong(f"{exc}: {left}")
        self._strike("TERM")

    # ---- the oracle

    def _judge(self) -> None:
        result, daemon = self._result, self._daemon
        result.wrong += self._watcher.wrong + self._names.wrong
        for work in self._works:
            if work.once:
                self._judge_once(work)
            result.jobs[work.state] += 1
            if not work.stays:
                result.wrong += self._wrong_of(work)
            result.wrong += self._unverified(work)
        expected = {path: sha for work in self._works for path, sha in work.files.items()}
        optional = {path: sha for work in self._works for path, sha in work.optional.items()}
        found = {
            str(path.relative_to(daemon.downloads)): sha256(path.read_bytes())
            for path in visible_files(daemon.downloads)
        }
        result.files = len(found)
        found = {path: sha for path, sha in found.items() if optional.get(path) != sha}
        self._compare("the files", found, expected)
        for folder in (daemon.jobs, daemon.jobs / "active"):
            left = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
            stay = [w.file for w in self._works if w.stays and not w.scheduled]
            meant = sorted(stay) if folder == daemon.jobs else []
            self._compare(f"what lies in {folder.name}/", left, meant)
        filed = sorted(
            p.name for where in ("done", "failed") for p in (daemon.jobs / where).iterdir()
        )
        self._compare("the filed jobs", filed, sorted(w.file for w in self._works if not w.stays))
        self._judge_publications()
        self._judge_parts()
        self._judge_database()
        self._judge_log()
        self._judge_bytes()

    def _judge_once(self, work: Work) -> None:
        """See that the command was begun once at most, and what became of its file if it was."""
        ran = self._ran_once.read_text().split() if self._ran_once.exists() else []
        if ran.count(work.once) > 1:
            self._wrong(f"{work.name}: a command that may not run twice did so")
        codes = {failure["code"] for failure in (self._daemon.report(work.name) or {})["failures"]}
        if codes == {"needs_attention"}:
            self._undone.add(part_name("default", work.once))
            work.needs_attention()

    def _unverified(self, work: Work) -> Iterator[str]:
        for line in self._daemon.files(work.name) if self._daemon.report(work.name) else ():
            if line["state"] == "succeeded" and line["verified"] not in {"digest", "length"}:
                yield f"{work.name}: {line['path']} was not verified: {line['verified']}"

    def _wrong_of(self, work: Work) -> Iterator[str]:
        report = self._daemon.report(work.name)
        where = "done" if work.state == "succeeded" else "failed"
        if not (self._daemon.jobs / where / work.file).exists():
            yield f"{work.name}: its file is not in {where}/"
        if report is None:
            yield f"{work.name}: no report"
            return
        tasks = report["tasks"]
        counts = tuple(tasks.get(key, 0) for key in ("succeeded", "failed", "skipped"))
        said = (report["state"], *counts)
        meant = (work.state, work.succeeded, work.failed, work.skipped)
        if said != meant:
            yield f"{work.name}: the report says {said}, not {meant}: {report['failures'][:3]}"
        states = Counter(line["state"] for line in self._daemon.files(work.name))
        listed = tuple(states[key] for key in ("succeeded", "failed", "skipped"))
        if listed != counts:
            yield f"{work.name}: the list of its files says {listed}, its report {counts}"

    def _judge_publications(self) -> None:
        """Each file got its name exactly as often as jobs have brought it."""
        meant: Counter[str] = Counter()
        for work in self._works:
            meant.update(work.publications)
        optional = {path for work in self._works for path in work.optional}
        seen = Counter(self._watcher.versions())
        heard = {
            str(path.relative_to(self._daemon.downloads)): count
            for path, count in self._names.counts.items()
        }
        self._result.publications = sum((seen | Counter(heard)).values())
        # Names in folders that the daemon made are only looked at, the others heard of, each.
        watched = {path: count for path, count in meant.items() if path.count("/") == 1 and count}
        heard = {path: n for path, n in heard.items() if path not in optional or n > 1}
        self._compare("the publications", heard, watched)
        meant.update(optional)
        often = {path: count for path, count in seen.items() if count > meant[path]}
        self._compare("the files seen too often", often, {})
        told = Counter(
            event["task"]
            for event in self._daemon.events("task.done")
            if event["outcome"] != "up_to_date"
        )
        self._compare("the tasks told as done twice", {k: n for k, n in told.items() if n > 1}, {})

    def _judge_parts(self) -> None:
        hidden = self._daemon.downloads / ".fetchd"
        left = [path for path in hidden.glob("parts/*") if path.is_file()]
        left += hidden.glob("staging/*")
        # Nobody knows the part of a file that an edit left out before a crash: it stays for a week.
        left_out = {part_name("default", path) for work in self._works for path in work.optional}
        known = self._undone | left_out
        left = [path for path in left if path.name.removesuffix(".json") not in known]
        self._compare("the parts", [p.name for p in left], [])
        kept = {path.name for path in (hidden / "quarantine").glob("*")}
        refused = {
            Path(line["dossier"]["quarantine"]).name
            for work in self._works
            for line in self._daemon.files(work.name)
            if line["state"] == "failed" and line["dossier"]
        }
        self._compare("what is in quarantine for no failed task", sorted(kept - refused), [])

    def _judge_database(self) -> None:
        database = sqlite3.connect(self._daemon.state / "fetchd.db")
        try:
            checked = database.execute("PRAGMA integrity_check").fetchall()
            self._compare("the database's check of itself", checked, [("ok",)])
            unfiled = "SELECT count(*) FROM run WHERE finished_at IS NULL OR filed = 0"
            self._compare("the runs not filed", database.execute(unfiled).fetchone(), (0,))
            open_ = "SELECT count(*) FROM task WHERE state < 3"
            self._compare("the open tasks", database.execute(open_).fetchone(), (0,))
            ending = [work for work in self._works if not work.stays]
            runs = database.execute(
                "SELECT count(*) FROM run JOIN job ON job.id = run.job "
                f"WHERE job.name IN ({', '.join('?' * len(ending))})",
                [work.name for work in ending],
            ).fetchone()
            self._compare("the runs of jobs that run once", runs, (len(ending),))
            tasks = dict(
                database.execute(
                    "SELECT t.state, count(*) FROM task AS t JOIN run ON run.id = t.run "
                    "JOIN job ON job.id = run.job "
                    f"WHERE job.name IN ({', '.join('?' * len(ending))}) GROUP BY t.state",
                    [work.name for work in ending],
                )
            )
            sums = ((3, "succeeded"), (4, "failed"), (5, "skipped"))
            meant = {n: sum(getattr(w, key) for w in ending) for n, key in sums}
            self._compare("the tasks by state", tasks, {n: c for n, c in meant.items() if c})
        finally:
            database.close()

    def _judge_log(self) -> None:
        text = self._daemon.log.read_text(errors="replace")
        if "Traceback" in text or "Fatal Python error" in text:
            self._wrong("a traceback in the log")
        for name in ("thread.died", "thread.stuck", "service.failed", "folder.failed"):
            self._result.wrong += [json.dumps(event) for event in self._daemon.events(name)[:3]]
        codes = {event["code"] for event in self._daemon.events("task.failed")}
        usual = {"bad_status", "checksum_mismatch", "bad_item", "dest_conflict", "exists"}
        usual |= {"needs_attention"}
        self._compare("the codes of failures", sorted(codes - usual), [])

    def _judge_bytes(self) -> None:
        """A crash costs what was under way; a stop costs what the sockets held."""
        strong = set().union(*(work.strong for work in self._works))
        self._result.sizes_bytes = sum(work.serves_bytes for work in self._works)
        self._result.served_bytes = sum(r.sent for r in self._server.requests if r.path in strong)
        self._result.bound_bytes = self._result.sizes_bytes + self._lost_bytes
        if self._result.served_bytes > self._result.bound_bytes:
            self._wrong("more bytes were served than the bound allows")

    def _served_bytes(self) -> int:
        return sum(request.sent for request in list(self._server.requests))

    def _compare(self, what: str, found: object, meant: object) -> None:
        if found == meant:
            return
        if isinstance(found, dict) and isinstance(meant, dict):
            keys = [k for k in {**found, **meant} if found.get(k) != meant.get(k)][:5]
            found = {key: found.get(key) for key in keys}
            meant = {key: meant.get(key) for key in keys}
        self._wrong(f"{what}: found {found}, meant {meant}")

    def _wrong(self, what: str) -> None:
        self._result.wrong.append(what)


def kill_loop(base: Path, seed: int, kills: int, durability: str = "group") -> Iterator[Result]:
    """Yield the result of each round of up to 100 signals; the folder of a good one is removed."""
    for number, first in enumerate(range(0, kills, ROUND)):
        folder = base / f"seed-{seed + number}"
        result = Round(folder, seed + number, min(ROUND, kills - first), durability).run()
        if not result.wrong:
            shutil.rmtree(folder)
        yield result


def main() -> int:
    parser = argparse.ArgumentParser(description="kill a working daemon at random moments")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--durability", choices=("group", "each", "none"), default="group")
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="fetchd-kill-loop-"))
    bad = 0
    for result in kill_loop(base, asked.seed, asked.kills, asked.durability):
        print(result, flush=True)
        for wrong in result.wrong:
            print(f"  {wrong}")
        bad += bool(result.wrong)
    if bad:
        print(f"{bad} rounds went wrong; their folders are in {base}")
        return 1
    base.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
