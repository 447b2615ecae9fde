"""The composition root: every implementation is constructed here; start, stop, signals."""

from __future__ import annotations

import fcntl
import gc
import json
import math
import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from fetchd import (
    __version__,
    config,
    disk,
    events,
    jobfile,
    listeners,
    logs,
    plan,
    secrets,
    steps,
    transports,
)
from fetchd.clock import Clock, Failpoints, Random, SteadyWall, SystemClock
from fetchd.config import Settings
from fetchd.cores import Cores
from fetchd.disk.looking import StandingDisk
from fetchd.engine import Engine
from fetchd.errors import AttemptError, BusyError, ConfigError, FetchdError, StoreError, UsageError
from fetchd.expand import Expander, given_to, lookup_of
from fetchd.folder import Folder
from fetchd.model import (
    Attempt,
    Expand,
    Expanded,
    Failure,
    Fetch,
    FileView,
    Finish,
    Job,
    OriginBounds,
    Outcome,
    Publish,
    Report,
    Run,
    RunEnd,
    RunView,
    Submit,
)
from fetchd.pool import Pool
from fetchd.ports import GivenFile, Keep, Leftover, Listener, LocalFile, Pruned
from fetchd.stores import SqliteStore
from fetchd.stores.looking import Records
from fetchd.systemd import Notifier
from fetchd.threads import Lookout, Worker
from fetchd.transfer import Transfer
from fetchd.transports.access import Access, Login, Tls, access_of, proxy_url
from fetchd.urls import redact_url

#: In the state folder.
DATABASE = "fetchd.db"
TICK_S = 1.0
#: With no run on there is less to look after; whatever happens wakes the main thread.
IDLE_TICK_S = 5.0
REPORT_EVERY_S = 0.2
#: So many open runs stand in ``status.json``; of the others it says how many they are.
MOST_SHOWN = 100
SWEEP_EVERY_S = 3600.0
#: A sweep is left for the next tick after this time: a part costs reads and a sync.
SWEEP_SLICE_S = 0.5
#: To migrate, check and recover a large state; systemd's own limit is 90 s.
START_TIMEOUT_S = 600.0
PRUNE_EVERY_S = 3600.0
#: What is known of a published file outlives the last run that names it, by so many times
#: `history.keep`: a job that runs once a month shall not fetch anew what has not changed.
FILES_KEPT = 12
#: So many objects more than before, and the collector looks for cycles among them. Tasks make none,
#: but thousands of them are alive at a time: by default it would look at each again and again.
NEW_OBJECTS_A_LOOK = 50_000
#: So many failures a webhook is told of at the end of a run.
MOST_FAILURES_TOLD = 10
#: What the service itself acts upon.
_HINTS = (
    events.RunEnded,
    events.JobRejected,
    events.JobAccepted,
    events.JobKept,
    events.JobRemoved,
    events.CommandObeyed,
    events.WatchChanged,
    events.FolderFailed,
)
EXIT_FINE, EXIT_FAILED, EXIT_STORE = 0, 1, 70


class Given:
    """What the configuration gives to single origins, with the secrets that it names.

    ``proxy``: of all other origins. Raises ConfigError, which names the key.
    """

    def __init__(self, settings: Settings) -> None:
        self._secrets = secrets.read({name: s.place for name, s in settings.secrets.items()})
        self._settings = settings
        network = settings.network
        self.proxy = self._proxy(network.proxy, network.proxy_auth, "network")
        self.origins = {
            name: self._access(name, origin) for name, origin in settings.origins.items()
        }

    def _access(self, name: str, origin: config.Origin) -> Access:
        auth, place = origin.auth, f"origins.{name}"
        basic = self._login(auth.basic if auth else None)
        if origin.netrc:
            try:
                basic = Login(*secrets.netrc_login(urlsplit(name).hostname or ""))
            except ConfigError as exc:
                raise ConfigError(f"{place}.netrc: {exc}") from None
        proxy = self.proxy
        if origin.has_own_proxy:
            proxy = self._proxy(origin.proxy, origin.proxy_auth, place)
        return access_of(
            basic=basic,
            digest=self._login(auth.digest if auth else None),
            bearer=self._secrets[auth.bearer] if auth and auth.bearer else None,
            headers={header: self._secrets[secret] for header, secret in origin.headers.items()},
            tls=Tls(
                ca=_path(origin.tls.ca or self._settings.network.ca),
                cert=_path(origin.tls.cert),
                key=_path(origin.tls.key),
            ),
            proxy=proxy,
            place=place,
        )

    def _login(self, login: config.Login | None) -> Login | None:
        return Login(login.user, self._secrets[login.password]) if login else None

    def _proxy(self, url: str | None, login: config.Login | None, place: str) -> str | None:
        try:
            return None if url is None else proxy_url(url, self._login(login))
        except ConfigError as exc:
            raise ConfigError(f"{place}.proxy_auth: {exc}") from None


class Works:
    """The parts that both the daemon and ``get`` are made of: engine, pools, disk and wire."""

    def __init__(
        self,
        settings: Settings,
        store_path: str | None,
        tell: events.Tell,
        clock: Clock,
        on_store_failure: Callable[[StoreError], None],
        stop_early: list[Callable[[], None]],
        cores: Cores,
    ) -> None:
        self.clock = clock
        self._tell = tell
        gc.set_threshold(NEW_OBJECTS_A_LOOK)
        self._failpoints = Failpoints.from_environment()
        self.disk = disk.build(
            _roots(settings),
            failpoints=self._failpoints,
            reserve_bytes=settings.disk.reserve_bytes,
            clock=clock,
            durability=settings.durability,
        )
        stop_early.append(self.disk.close)
        given = Given(settings)
        self.transports = transports.build(
            settings.network.allow,
            proxy=given.proxy,
            ca=_path(settings.network.ca),
            redirects=settings.network.redirects,
            workers=settings.workers,
            clock=clock,
            rates=_rates(settings),
            origins=given.origins,
            files=self.disk,
            on_death=self._thread_died,
            on_withheld=self._withheld,
        )
        stop_early.append(self.transports.close)
        self.store = SqliteStore(store_path, clock, on_store_failure)
        stop_early.append(self.store.close)
        self._expander = Expander(open_below=self._open_below, open_before=self._open_before)
        self.engine = Engine(
            self.store,
            self._expander,
            tell,
            clock,
            Random(),
            bounds=_bounds(settings, ""),
            origins={origin: _bounds(settings, origin) for origin in settings.origins},
            poison=settings.retry.poison,
        )
        self.fetchers = Pool(
            "fetcher",
            settings.workers,
            self.engine,
            Fetch,
            work=self._fetch,
            most=1,
            clock=clock,
            tell=tell,
            exchange=self.engine.exchange,
        )
        self._transfer = Transfer(
            self.disk,
            self.transports,
            report=self.fetchers.report,
            clock=clock,
            failpoints=self._failpoints,
            cores=cores,
            loans=self.engine,
        )
        # Not the finishers: a list shall not wait for hours of unpacking.
        self.expanders = Pool(
            "expander",
            settings.finishers,
            self.engine,
            Expand,
            work=self._expand,
            most=1,
            clock=clock,
            tell=tell,
        )
        self.finishers = Pool(
            "finisher",
            settings.finishers,
            self.engine,
            Finish,
            work=self._finish,
            most=1,
            clock=clock,
            tell=tell,
        )
        self._finisher = steps.Finisher(
            steps.configured(
                {name: _command(keys) for name, keys in settings.commands.items()},
                {
                    name: steps.Webhook(url=keys.url, timeout_s=keys.timeout_s)
                    for name, keys in settings.webhooks.items()
                },
                self.transports,
                clock,
                self._records,
            ),
            self.disk,
            report=self.finishers.report,
            tell=tell,
            clock=clock,
            failpoints=self._failpoints,
            lookup=self._lookup,
            given=self._given,
            cores=cores,
        )
        self._run_publisher = steps.RunPublisher(
            self.disk,
            self.store.files,
            report=self.finishers.report,
            tell=tell,
            clock=clock,
        )
        self.publisher = Pool(
            "publisher",
            1,
            self.engine,
            Publish,
            work=self._publish,
            most=self.disk.most_at_once,
            clock=clock,
            tell=tell,
        )
        self.failpoints = self._failpoints

    def recover(self) -> None:
        """Go on with what the last life left; to be called before ``start``."""
        leftovers = list(self.disk.leftovers())
        found = self.engine.recover(
            {(p.root, p.path): p.durable_bytes for p in leftovers if not p.staged}
        )
        # A part without a journal may be one that waits to be published: not yet.
        swept = self.sweep(part for part in leftovers if part.path)
        runs, running, publishing = found
        if runs or swept:
            self._tell(
                events.StateRecovered(
                    runs=runs, running=running, publishing=publishing, parts_swept=swept
                )
            )

    def start(self) -> None:
        for pool in (self.publisher, self.finishers, self.expanders, self.fetchers):
            pool.start()

    def stop(self, grace_s: float) -> int:
        """Stop in the order of the flow, within about ``grace_s``; returns threads left running.

        Fetchers first (they leave at the next buffer), then finishers; the publisher ends when
        all that was verified is published; the store last, so that every outcome is recorded.
        """
        until_s = self.clock.monotonic() + grace_s
        self.engine.stop()
        left = 0
        for pool in (self.fetchers, self.expanders, self.finishers):
            pool.stop()
            left += pool.join(max(0.1, until_s - self.clock.monotonic()))
        with suppress(StoreError):  # what cannot be recorded is published by the next life
            self.engine.finish_publishing()
        left += self.publisher.join(max(1.0, until_s - self.clock.monotonic()))
        self.transports.close()
        self.store.close()
        left += sum(worker.alive() for worker in self.store.threads())
        if not left:  # a thread that is stuck may still hold on to a folder of a root
            self.disk.close()
        return left

    def sweep(self, leftovers: Iterable[Leftover]) -> int:
        """Remove parts that nobody needs; returns how many."""
        return sum(
            self.disk.sweep(leftover) for leftover in leftovers if not self._is_needed(leftover)
        )

    def _is_needed(self, leftover: Leftover) -> bool:
        age_s = self.clock.wall() - leftover.modified_at_s
        if leftover.made:
            return self.engine.needs_record(leftover.root, leftover.path, age_s)
        if leftover.staged:  # made again from the part, so of use only until it is published
            age_s = math.inf
        return self.engine.needs_part(leftover.root, leftover.path, age_s)

    def threads(self) -> list[Worker]:
        pools = (self.fetchers, self.expanders, self.finishers, self.publisher)
        return [
            *(worker for pool in pools for worker in pool.workers()),
            *self._transfer.threads(),
            *self.transports.threads(),
            *self.store.threads(),
        ]

    def _thread_died(self, worker: Worker, exc: BaseException) -> None:
        self._tell(events.ThreadDied.by(exc, worker.name, replaced=False))

    def _withheld(self, origin: str, other: str) -> None:
        self._tell(events.CredentialsWithheld(origin=origin, other=other))

    def _fetch(self, attempts: Sequence[Fetch]) -> list[tuple[Fetch, Outcome]]:
        self._failpoints.pass_by("fetch.started")
        settled = [(attempt, self._transfer(attempt)) for attempt in attempts]
        self._failpoints.pass_by("fetch.ended")
        return settled

    def _open_below(self, job: Job, run: Run, root: str, path: str) -> LocalFile:
        return self.disk.of(job, run).open_below(root, path)

    def _open_before(self, job: Job, run: Run, root: str, path: str) -> LocalFile:
        return self.disk.of(job, run).open_before(root, path)

    def _expand(self, attempts: Sequence[Expand]) -> list[tuple[Expand, Outcome]]:
        settled: list[tuple[Expand, Outcome]] = []
        for attempt in attempts:
            try:
                outcome = self._expanded(attempt)
            except AttemptError as exc:
                outcome = Failure(code=exc.code, reason=exc.reason, transient=exc.transient)
            settled.append((attempt, outcome))
            if not attempt.decide:
                first = attempt.position is None
                self._failpoints.pass_by("expand.first_batch" if first else "expand.second_batch")
        return settled

    def _expanded(self, attempt: Expand) -> Outcome:
        job, group, run = attempt.job, attempt.group, attempt.run
        if attempt.decide:
            decided = self._expander.decide(job, group, run, attempt.seen)
            self._failpoints.pass_by("expand.decided")
            return decided
        return Expanded(batch=self._expander(job, group, run, attempt.position))

    def _finish(self, attempts: Sequence[Finish]) -> list[tuple[Finish, Outcome]]:
        return [(attempt, self._finished(attempt)) for attempt in attempts]

    def _finished(self, attempt: Finish) -> Outcome:
        at_the_end = attempt.group.end is RunEnd.PUBLISH
        return self._run_publisher(attempt) if at_the_end else self._finisher(attempt)

    def _records(self, run: int) -> tuple[RunView, list[FileView]]:
        view = self.store.run_view(run)
        assert view is not None
        return view, self.store.failures(run, MOST_FAILURES_TOLD)

    def _lookup(self, attempt: Finish) -> Callable[[str], str]:
        return lookup_of(attempt, lambda: steps.summary_of(attempt, self._records))

    def _given(self, attempt: Finish) -> Iterator[GivenFile]:
        """Yield what a task that fetches nothing works on: of this run, or what stands for it."""
        needs, run = attempt.group.needs, attempt.run
        yield from given_to(attempt.job, run, needs, self.store.files(run.id))
        for name in attempt.passed_over:
            if (last := self.store.last_success(attempt.job.name, name)) is not None:
                assert last.scheduled_for_s is not None
                earlier = replace(run, id=last.id, scheduled_for_s=last.scheduled_for_s)
                yield from given_to(attempt.job, earlier, (name,), self.store.files(last.id))

    def _publish(self, attempts: Sequence[Publish]) -> list[tuple[Attempt, Outcome]]:
        self._failpoints.pass_by("publish.intended")
        settled = self.disk.publish(attempts)
        self._failpoints.pass_by("publish.visible")
        return settled


class Daemon:
    """The whole service, on one set of settings. All methods run on the main thread."""

    def __init__(self, settings: Settings, *, once: bool) -> None:
        self._settings = settings
        self._once = once
        self._clock = SystemClock()
        self._inbox: queue.SimpleQueue[str | StoreError] = queue.SimpleQueue()
        self._steady = SteadyWall(self._clock)
        self._began_s = self._clock.monotonic()
        self._began_at_s = self._clock.wall()
        self._all_well = True
        self._stats = listeners.Stats(self._clock)
        self._notifier = Notifier()
        self._lookout = Lookout()
        self._stuck: set[str] = set()
        self._shown = ""
        self._show_again_s = 0.0
        self._sweep_due = self._records_due = False
        self._leftovers: Iterator[Leftover] | None = None  # of a sweep that is under way

    def run(self) -> int:
        """Run until a signal, or with ``once`` until the folder is worked off."""
        settings = self._settings
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # A handler may only queue: anything that takes a lock could deadlock with main.
            signal.signal(number, lambda number, _: self._inbox.put(signal.Signals(number).name))
        writer = logs.configure(settings.log.level, settings.log.format, settings.log.file)
        try:
            with (
                _locked(settings.state / "lock"),
                _locked(settings.jobs / ".fetchd.lock"),
                Cores.of_process().at_home() as cores,
            ):
                return self._live(cores)
        finally:
            writer.close(2.0)

    def _live(self, cores: Cores) -> int:
        settings = self._settings
        self._tell = listeners.fan_out(
            [listeners.LogListener(), self._stats, listeners.Only(_HINTS, self._note)],
            listeners.log_failure,
        )
        self._notifier.extend_timeout(START_TIMEOUT_S)
        self._notifier.status("checking state")
        undo: list[Callable[[], None]] = []
        try:
            self._works = Works(
                settings,
                str(settings.state / DATABASE),
                self._tell,
                self._clock,
                self._inbox.put,
                undo,
                cores,
            )
            self._folder = Folder(
                settings.jobs,
                max_job_bytes=settings.intake.max_job_bytes,
                require_end_marker=settings.intake.require_end_marker,
                rescan_s=settings.intake.rescan_s,
                read_job=lambda data, file, defaults=b"": jobfile.load(
                    data, file, settings, defaults
                ),
                read_list=lambda file, path, digest, defaults=b"": jobfile.list_job(
                    file, path, digest, settings, defaults
                ),
                read_defaults=lambda data, beside: jobfile.load_defaults(data, beside, settings),
                commands=self._works.engine,
                store=self._works.store,
                tell=self._tell,
                clock=self._clock,
                failpoints=self._works.failpoints,
                schedules=not self._once,
            )
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        if self._works.store.is_new:
            self._tell(events.StateCreated(path=str(settings.state / DATABASE)))
        try:
            self._begin()
            cause = self._watch()
        except StoreError as exc:  # met on this thread before the store's own word arrived
            cause = exc
        except FetchdError:
            self._stop("failed start")
            raise
        except Exception as exc:  # noqa: BLE001 -- the border of the thread: it ends in order
            self._tell(events.ThreadDied.by(exc, "main", replaced=False))
            cause = StoreError(f"the main thread failed: {type(exc).__name__}: {exc}")
        return self._stop(cause)

    def _begin(self) -> None:
        """Go on where the last life ended, and open the door."""
        settings = self._settings
        self._works.recover()
        self._works.start()
        self._folder.start()
        self._tell(
            events.ServiceStarted(
                version=__version__,
                workers=settings.workers,
                jobs=str(settings.jobs),
                roots={name: str(root.path) for name, root in settings.roots.items()},
                state=str(settings.state),
            )
        )
        self._notifier.ready()

    def _watch(self) -> str | StoreError:
        """Look after everything once a second; returns why the service is to end."""
        settings, works = self._settings, self._works
        next_stats_s = self._began_s + settings.stats_every_s
        next_sweep_s = self._began_s + SWEEP_EVERY_S
        looked_s, due_s = -TICK_S, self._began_s
        next_prune_s = self._began_s
        while True:
            try:
                said = self._inbox.get(timeout=max(0.0, due_s - self._clock.monotonic()))
            except queue.Empty:
                pass
            else:
                if said == "SIGHUP":
                    self._folder.hint()
                elif said != "wake":
                    return said
                # Thousands of jobs may be accepted in a second: they make one look of many.
                due_s = min(due_s, looked_s + TICK_S)
                if self._clock.monotonic() < due_s:
                    continue
            looked_s = now_s = self._clock.monotonic()
            works.store.check()
            works.engine.tick()
            if not self._once and works.engine.due():
                self._folder.hint()
            if now_s >= self._show_again_s:
                self._show_status()
            self._feed_watchdog()
            if works.engine.sweep_due() or now_s >= next_sweep_s:
                self._sweep_due = True
                # There may be a record of each file that ever was: they are looked at each hour.
                self._records_due = self._records_due or now_s >= next_sweep_s
                next_sweep_s = now_s + SWEEP_EVERY_S
            self._sweep()
            if now_s >= next_prune_s:
                self._prune()
                next_prune_s = now_s + PRUNE_EVERY_S
            if now_s >= next_stats_s:
                self._tell(events.StatsTaken(totals=self._stats.snapshot()))
                next_stats_s = now_s + settings.stats_every_s
            idle = works.engine.idle() and self._folder.idle() and not self._sweeping()
            if self._once and idle:
                return "once"
            due_s = now_s + self._tick_s()

    def _sweep(self) -> None:
        """Begin a sweep that is due, or go on with the last one, for a short while."""
        if self._leftovers is None and self._sweep_due:
            disk = self._works.disk
            records = disk.records() if self._records_due else ()
            self._leftovers = chain(disk.leftovers(), records)
            self._sweep_due = self._records_due = False
        until_s = self._clock.monotonic() + SWEEP_SLICE_S
        for leftover in self._leftovers or ():
            self._works.sweep([leftover])
            if self._clock.monotonic() >= until_s:
                return
        self._leftovers = None

    def _sweeping(self) -> bool:
        return self._sweep_due or self._leftovers is not None

    def _prune(self) -> None:
        # Not the wall clock itself: set years ahead, it would make all history old.
        now_s, history = self._steady.now_s(), self._settings.history
        keep = Keep(
            ended_after_s=now_s - history.keep_s,
            runs=history.count,
            published_after_s=now_s - FILES_KEPT * history.keep_s,
        )
        self._works.store.prune(keep, self._pruned)

    def _pruned(self, pruned: Pruned) -> None:
        if pruned.runs or pruned.files:
            self._tell(
                events.HistoryPruned(runs=pruned.runs, tasks=pruned.tasks, files=pruned.files)
            )

    def _tick_s(self) -> float:
        if self._once:
            return 0.05
        idle = self._works.engine.idle() and not self._sweeping()
        tick_s = IDLE_TICK_S if idle else TICK_S
        return min(tick_s, self._notifier.interval_s or tick_s)

    def _stop(self, cause: str | StoreError) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            # A second one ends the process where it is, as a crash would: nothing is lost.
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._notifier.stopping()
        if isinstance(cause, StoreError):
            self._tell(events.ServiceFailed(reason=str(cause)))
        self._tell(events.ServiceStopping(cause=str(cause)))
        began_s = self._clock.monotonic()
        self._folder.stop()
        self._folder.join(2.0)
        left = self._works.stop(self._settings.stop_grace_s)
        if not isinstance(cause, StoreError) and (late := self._late_failure()) is not None:
            self._tell(events.ServiceFailed(reason=str(late)))
            cause = late
        self._show_status()
        self._tell(events.StatsTaken(totals=self._stats.snapshot()))
        self._tell(
            events.ServiceStopped(elapsed_s=self._clock.monotonic() - began_s, left_running=left)
        )
        if isinstance(cause, StoreError):
            return EXIT_STORE
        return EXIT_FAILED if self._once and not self._all_well else EXIT_FINE

    def _late_failure(self) -> StoreError | None:
        """Return the failure of a store, or engine, that could not record the last outcomes."""
        while True:
            try:
                said = self._inbox.get_nowait()
            except queue.Empty:
                return self._works.engine.failure
            if isinstance(said, StoreError):
                return said

    def _note(self, event: events.Event) -> None:
        """Listen for what the service itself acts upon: hints only, nothing depends on them."""
        if isinstance(event, events.RunEnded):
            self._all_well = self._all_well and event.state == "succeeded"
            self._folder.hint()
        elif isinstance(event, events.JobRejected):
            self._all_well = False
        else:
            self._inbox.put("wake")

    def _feed_watchdog(self) -> None:
        """Tell the service manager that all is well, as long as no thread is stuck.

        Raises StoreError when one is gone.
        """
        stuck = self._lookout.look(self._threads())
        for worker in stuck:
            if worker.name not in self._stuck:
                self._tell(events.ThreadStuck(stuck=worker.name, age_s=worker.age_s()))
        self._stuck = {worker.name for worker in stuck}
        _miss(stuck)
        if not stuck:
            self._notifier.watchdog()

    def _threads(self) -> list[Worker]:
        return [*self._works.threads(), *self._folder.threads()]

    def _show_status(self) -> None:
        """Replace ``status.json`` if anything changed; losing it would harm nobody."""
        self._show_again_s = self._clock.monotonic() + TICK_S
        report = asdict(self._works.engine.view(MOST_SHOWN))
        for transfer in report["transfers"]:
            transfer["url"] = secrets.hide(redact_url(transfer["url"]))
        stats = dict(self._stats.snapshot())
        folder = self._folder.troubles()
        body = json.dumps({"report": report, "stats": stats, "folder": folder}, default=str)
        if body == self._shown:
            return
        self._shown = body
        whole = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at": self._began_at_s,
            "updated_at": self._clock.wall(),
            "stats": stats,
            "folder": folder,
            "report": report,
        }
        path = self._settings.state / "status.json"
        beside = path.with_suffix(".tmp")
        try:
            beside.write_text(json.dumps(whole, default=str))
            beside.replace(path)
        except OSError as exc:
            self._shown = ""
            self._tell(
                events.FolderFailed(file=str(path), action="write the status", error=str(exc))
            )
        running = report["transfers"]
        self._notifier.status(f"{len(running)} transfers, {stats.get('queued', 0)} tasks queued")


def run_daemon(settings: Settings, *, once: bool) -> int:
    """Run the daemon on this thread; returns its exit code.

    Raises ConfigError, BusyError (another daemon has the state or the folder), StoreError.
    """
    for folder, key in ((settings.state, "state"), (settings.jobs, "jobs")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"{key}: the folder {folder} cannot be made: {exc.strerror}"
            ) from None
    return Daemon(settings, once=once).run()


def get(
    settings: Settings,
    jobs: Sequence[Job],
    on_report: Callable[[Report], None],
    also_tell: Sequence[Listener] = (),
) -> list[tuple[RunView, list[FileView]]]:
    """Run jobs here and now, without daemon, folder or lasting state; returns how they ended.

    To be called on the main thread, on which ``on_report`` is called about five times a second.
    SIGTERM and SIGINT stop the work in order and raise KeyboardInterrupt; parts and what is known
    of them stay for the next call.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    with (
        _caught((signal.SIGTERM, signal.SIGINT), signals.put),
        Cores.of_process().at_home() as cores,
    ):
        return _get(settings, jobs, on_report, also_tell, signals, cores)


def _get(
    settings: Settings,
    jobs: Sequence[Job],
    on_report: Callable[[Report], None],
    also_tell: Sequence[Listener],
    signals: queue.SimpleQueue[int],
    cores: Cores,
) -> list[tuple[RunView, list[FileView]]]:
    clock = SystemClock()
    failures: list[StoreError] = []
    tell = listeners.fan_out([listeners.LogListener(), *also_tell], listeners.log_failure)
    undo: list[Callable[[], None]] = []
    try:
        works = Works(settings, None, tell, clock, failures.append, undo, cores)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    works.start()
    lookout = Lookout()
    try:
        runs = []
        for job in jobs:
            now = replace(job, window=None)  # whoever types this means now
            answer = works.engine.obey(Submit(job=now, raw=b"", file=""))
            if answer.run is None:
                raise UsageError(f"job {job.name}: {answer.reason}")
            runs.append(answer.run)
        while not works.engine.idle():
            if failures:
                raise failures[0]
            works.engine.tick()
            _miss(lookout.look(works.threads()))
            on_report(works.engine.view())
            with suppress(queue.Empty):
                signals.get(timeout=REPORT_EVERY_S)
                raise KeyboardInterrupt
        on_report(works.engine.view())
        if works.engine.failure is not None:
            raise works.engine.failure
        ended = []
        for run in runs:
            view = works.store.run_view(run)
            assert view is not None
            ended.append((view, list(works.store.files(run))))
        return ended
    finally:
        works.stop(settings.stop_grace_s)


def make_plan(
    settings: Settings, job: Job, most: int, tell: Callable[[int, int], None]
) -> plan.Plan:
    """Find out what a job would do, asking about at most so many files; nothing is written.

    Whether a daemon runs does not matter. ``tell`` hears how many questions of how many are
    answered. Raises ConfigError.
    """
    clock = SystemClock()
    with ExitStack() as stack:
        given = Given(settings)
        standing = StandingDisk(_roots(settings))
        stack.callback(standing.close)
        wire = transports.build(
            settings.network.allow,
            proxy=given.proxy,
            ca=_path(settings.network.ca),
            redirects=settings.network.redirects,
            workers=settings.workers,
            clock=clock,
            rates=_rates(settings),
            origins=given.origins,
            files=standing,
        )
        stack.callback(wire.close)
        try:
            records = Records(settings.state / DATABASE)
        except StoreError as exc:
            known = plan.Known(records=None, why_not=str(exc))
        else:
            stack.callback(records.close)
            known = plan.Known(records=records)
        bounds = plan.Bounds(
            of=lambda origin: _bounds(settings, origin),
            rate=settings.limits.rate,
            origin_rates=_rates(settings).origins,
            reserve_bytes=settings.disk.reserve_bytes,
        )
        planner = plan.Planner(
            standing,
            wire,
            known,
            bounds,
            clock,
            credentials={
                name: said
                for name, keys in settings.origins.items()
                if (said := keys.credentials())
            },
            workers=settings.workers,
            tell=tell,
        )
        return planner.plan(job, most)


def _roots(settings: Settings) -> dict[str, disk.RootSpec]:
    return {
        name: disk.RootSpec(path=str(root.path), mode=root.mode, group=root.group)
        for name, root in settings.roots.items()
    }


def _miss(stuck: Iterable[Worker]) -> None:
    """Raise StoreError for a thread that is gone: without it the work would stop in silence."""
    for worker in stuck:
        if not worker.alive():
            raise StoreError(f"the thread {worker.name} has ended, and nothing could replace it")


def _bounds(settings: Settings, origin: str) -> OriginBounds:
    """Return the bounds of one of `origins`; "": of every other one."""
    most, by = settings.most_of_origin(origin)
    keys = settings.origins.get(origin)
    requests_per_s = None if keys is None else keys.requests_per_s
    return OriginBounds(connections=most, requests_per_s=requests_per_s, by=by)


def _command(keys: config.CommandKeys) -> steps.Command:
    return steps.Command(
        argv=keys.argv,
        idempotent=keys.idempotent,
        timeout_s=keys.timeout_s,
        memory_bytes=keys.memory_bytes,
        output_bytes=keys.output_bytes,
    )


def _rates(settings: Settings) -> transports.Rates:
    origins = {
        origin: keys.rate for origin, keys in settings.origins.items() if keys.rate is not None
    }
    return transports.Rates(total=settings.limits.rate, origins=origins)


@contextmanager
def _caught(numbers: Iterable[signal.Signals], put: Callable[[int], None]) -> Iterator[None]:
    """Hand signals to ``put``, but for those that the caller of the program had ignored."""
    before = {
        number: signal.signal(number, lambda caught, _: put(caught))
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lock(fd: int) -> None:
    """Lock the file; raises OSError. Whoever only asks for its state has it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it ends with the process, however that ends."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from None
    try:
        try:
            _lock(fd)
        except OSError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise BusyError(
                f"{path.parent}: another fetchd (process {holder}) works there; stop it first"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
