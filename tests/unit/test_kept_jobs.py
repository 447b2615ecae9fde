"""Job files that stay in the folder: a real engine and store, a drop folder and a clock by hand."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropfolder import Crash, CrashAt, DropFolder
from fetchd import jobfile
from fetchd.config import Settings
from fetchd.engine import schedule
from fetchd.events import JobAccepted, JobKept, JobRejected, JobRemoved
from fetchd.expand import expand
from fetchd.folder.inbox import GONE_S
from fetchd.model import Failure, Fetched, RunState
from fetchd.ports import Keep
from fetchd.stores import SqliteStore
from harness import EngineByHand, intent_for

SETTINGS = Settings()
DAY_S = 86400.0
NIGHTLY = """\
timezone: UTC
schedule: daily 03:15
url: http://one.example/f
dest: ${run.date}
"""


class Yard(DropFolder):
    """The clock stands at 2026-11-27 12:00 UTC at first."""

    def __init__(self, base, **settings):
        super().__init__(base)
        self.clock.set_wall(datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp() - self.clock.wall())
        self.path = base / "fetchd.db"
        self.read = lambda data, file, defaults=b"": jobfile.load(data, file, SETTINGS, defaults)
        self.more = settings
        self.hand = None
        self.live()

    def live(self, crash_at: str = "") -> None:
        """Begin a (new) life on what is on record and in the folder."""
        if self.hand is not None:
            self.folder._places.end_turn()
            self.hand.close()
        store = SqliteStore(str(self.path), self.clock, lambda _: None)
        self.hand = EngineByHand(
            store=store, clock=self.clock, expand=expand, tell=self.events.append
        )
        self.hand.engine.recover({})
        self.settings = {
            "read_job": lambda *of: self.read(*of),
            "read_list": lambda file, path, digest, defaults=b"": jobfile.list_job(
                file, path, digest, SETTINGS, defaults
            ),
            "read_defaults": lambda data, beside: jobfile.load_defaults(data, beside, SETTINGS),
            "commands": self.hand.engine,
            "store": store,
            **self.more,
        }
        self.folder = self._made(CrashAt(crash_at))

    def at(self, text: str) -> None:
        """Let the wall clock be at a time of UTC."""
        wall_s = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        self.clock.advance(wall_s - self.clock.wall())
        self.turns()

    def work(self):
        """Let all that may start succeed; returns the paths."""
        paths = self.hand.run_all()
        self.turns()
        return paths

    def runs(self) -> list[tuple[str, str]]:
        """Return job and date of every run that was accepted."""
        found = []
        for event in self.told(JobAccepted):
            run = self.hand.store.run_view(event.run)
            moment = datetime.fromtimestamp(run.scheduled_for_s, UTC)
            found.append((run.job, moment.isoformat(" ", "minutes")[:16]))
        return found

    def kept(self) -> dict[str, str]:
        return dict(self.hand.engine.kept_files())

    def next(self) -> str:
        (view,) = self.hand.engine.view().kept
        return datetime.fromtimestamp(view.next_s, UTC).isoformat(" ", "minutes")[:16]

    def errors(self) -> list[str]:
        return sorted(path.name for path in (self.jobs / "reports").glob("*.error.txt"))


@pytest.fixture
def yard(tmp_path):
    made = Yard(tmp_path)
    yield made
    made.hand.close()


# ---------------------------------------------------------------- due times


def test_a_scheduled_file_stays_and_runs_for_each_of_its_times(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    before = yard.runs(), yard.next()
    yard.at("2026-11-28 03:14")
    early = yard.work()
    yard.at("2026-11-28 03:15")
    first = yard.work()
    yard.at("2026-11-29 03:16")
    second = yard.work()

    assert before == ([], "2026-11-28 03:15")
    assert (early, first, second) == ([], ["2026-11-28/f"], ["2026-11-29/f"])
    assert yard.runs() == [("nightly", "2026-11-28 03:15"), ("nightly", "2026-11-29 03:15")]
    assert yard.names() == ["nightly.yaml"]
    assert yard.names("active") == yard.names("done") == yard.names("failed") == []
    assert yard.report("nightly")["state"] == "succeeded"
    assert yard.report("nightly")["scheduled_for"] == "2026-11-29T03:15:00.000Z"
    assert len(yard.told(JobKept)) == 1


def test_a_file_that_runs_every_so_often_begins_at_once(yard):
    yard.drop("often.yaml", NIGHTLY.replace("daily 03:15", "every 6h"))
    yard.turns()
    yard.work()
    yard.at("2026-11-27 18:01")
    yard.work()

    assert [moment for _, moment in yard.runs()] == ["2026-11-27 12:00", "2026-11-27 18:00"]


def test_a_run_that_fails_leaves_the_file_where_it_is_and_its_schedule_goes_on(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.at("2026-11-28 03:15")
    yard.hand.settle(yard.hand.fetch(), Failure(code="not_found", reason="", transient=False))
    yard.turns()
    yard.at("2026-11-29 03:15")

    assert yard.names() == ["nightly.yaml"]
    assert len(yard.runs()) == 2


def test_while_a_run_is_on_no_other_begins_and_one_for_the_latest_time_follows(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    for day in ("28", "29", "30"):
        yard.at(f"2026-11-{day} 03:15")
    while_on = yard.runs()
    yard.work()

    assert while_on == [("nightly", "2026-11-28 03:15")]
    assert yard.runs() == [("nightly", "2026-11-28 03:15"), ("nightly", "2026-11-30 03:15")]


def test_times_missed_while_the_daemon_was_off_are_caught_up_with_in_order(yard):
    yard.drop("all.yaml", NIGHTLY.replace("daily 03:15", "{ daily: 03:15, catch_up: all }"))
    yard.drop("once.yaml", NIGHTLY)
    yard.drop("none.yaml", NIGHTLY.replace("daily 03:15", "{ daily: 03:15, catch_up: none }"))
    yard.turns()
    yard.clock.advance(3 * DAY_S)
    yard.live()
    for _ in range(6):
        yard.turns()
        yard.work()

    days = [(job, moment[8:10]) for job, moment in yard.runs()]
    assert [day for job, day in days if job == "all"] == ["28", "29", "30"]
    assert [day for job, day in days if job == "once"] == ["30"]
    assert [day for job, day in days if job == "none"] == []


@pytest.mark.parametrize("place", ["schedule.due", "schedule.begun"])
def test_a_crash_between_the_due_time_and_the_begin_of_the_run_loses_and_doubles_nothing(
    yard, place
):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.live(crash_at=place)
    with pytest.raises(Crash):
        yard.at("2026-11-28 03:15")
    yard.live()
    yard.turns()
    yard.work()
    yard.turns()

    assert [moment for _, moment in yard.runs()] == ["2026-11-28 03:15"]
    assert yard.hand.store.last_runs(["nightly"])["nightly"].id == 1


def test_a_restart_makes_no_run_of_its_own_and_forgets_no_time(yard):
    yard.drop("often.yaml", NIGHTLY.replace("daily 03:15", "every 6h"))
    yard.turns()
    yard.work()
    yard.live()
    yard.turns()

    assert len(yard.runs()) == 1
    assert yard.next() == "2026-11-27 18:00"
    assert len(yard.told(JobKept)) == 1


def test_jitter_is_drawn_for_each_run_and_changes_no_date(yard):
    yard.drop("nightly.yaml", NIGHTLY.replace("daily 03:15", "{ daily: 23:55, jitter: 10m }"))
    yard.turns()
    yard.at("2026-11-28 00:04")
    early = yard.runs()
    yard.at("2026-11-28 00:05")  # the jitter of the tests is the most that is possible

    assert early == []
    assert yard.work() == ["2026-11-27/f"]


def test_without_schedules_a_scheduled_file_is_left_alone_and_the_folder_becomes_idle(tmp_path):
    yard = Yard(tmp_path, schedules=False)
    yard.drop("often.yaml", NIGHTLY.replace("daily 03:15", "every 6h"))
    yard.turns()
    yard.folder._hinted.clear()

    assert yard.runs() == []
    assert yard.names() == ["often.yaml"]
    assert yard.folder.idle()
    yard.hand.close()


def test_what_was_missed_is_counted_once_and_not_for_each_of_its_runs(yard, monkeypatch):
    yard.drop("all.yaml", NIGHTLY.replace("daily 03:15", "{ daily: 03:15, catch_up: all }"))
    yard.turns()
    yard.clock.advance(4 * DAY_S)
    counted = []
    newest = schedule.newest

    def counting(*of):
        counted.append(of)
        return newest(*of)

    monkeypatch.setattr(schedule, "newest", counting)
    paths = []
    for _ in range(5):
        yard.turns()
        paths += yard.work()
    once = len(counted)
    yard.clock.advance(2 * DAY_S)
    yard.turns()

    assert paths == [f"2026-{day}/f" for day in ("11-28", "11-29", "11-30", "12-01")]
    assert (once, len(counted)) == (1, 2)


def test_to_show_a_job_that_waits_for_its_run_to_end_computes_nothing(yard, monkeypatch):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.at("2026-11-28 03:15")
    yard.at("2026-11-29 03:15")
    shown = yard.next()
    monkeypatch.setattr("fetchd.engine.schedule.decide", None)

    assert shown == yard.next() == "2026-11-29 03:15"


def test_what_the_configuration_of_today_forbids_is_told_and_does_not_run(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.read = lambda data, file: jobfile.load(data + b"root: gone\n", file, SETTINGS)
    yard.at("2026-11-28 03:15")
    yard.at("2026-11-28 03:20")

    assert yard.runs() == []
    assert yard.errors() == ["nightly.yaml.error.txt"]
    assert len(yard.told(JobRejected)) == 1
    assert yard.next() == "2026-11-29 03:15"


def test_the_example_of_a_nightly_job_runs_for_its_date(yard):
    example = Path(__file__).parents[2] / "config" / "examples" / "nightly.yaml"
    yard.drop("nightly.yaml", example.read_text())
    yard.turns()
    yard.at("2026-11-28 02:25")  # 03:25 in Berlin

    assert yard.work() == ["nightly/2026-11-28/disk-arm64.img"]


def test_a_paused_job_begins_no_run_and_catches_up_when_it_is_resumed(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("nightly.pause", "")
    yard.turns()
    yard.live()  # also over a restart
    for day in ("28", "29"):
        yard.at(f"2026-11-{day} 03:15")
    paused = yard.runs(), yard.hand.engine.view().kept[0].paused
    yard.drop("nightly.resume", "")
    yard.turns()

    assert paused == ([], True)
    assert yard.work() == ["2026-11-29/f"]
    assert yard.names() == ["nightly.yaml"]


# ---------------------------------------------------------------- edits


def test_an_edit_holds_from_the_next_run_on(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("nightly.yaml", NIGHTLY.replace("/f", "/g"))
    yard.turns()
    yard.at("2026-11-28 03:15")

    assert yard.work() == ["2026-11-28/g"]
    assert len(yard.told(JobKept)) == 2


def test_a_schedule_that_was_changed_begins_with_the_edit(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("nightly.yaml", NIGHTLY.replace("03:15", "11:00"))
    yard.turns()

    assert yard.next() == "2026-11-28 11:00"
    assert yard.runs() == []


def test_a_bad_edit_keeps_the_last_good_one_in_force_and_its_error_goes_when_it_is_mended(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("nightly.yaml", NIGHTLY.replace("url:", "ulr:"))
    yard.turns(5)
    told = yard.errors(), len(yard.told(JobRejected)), yard.names(), yard.names("failed")
    yard.live()  # also over a restart
    yard.at("2026-11-28 03:15")
    ran = yard.work()
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()

    assert told == (["nightly.yaml.error.txt"], 1, ["nightly.yaml"], [])
    assert "did you mean 'url'?" in yard.told(JobRejected)[0].reason
    assert ran == ["2026-11-28/f"]
    assert yard.errors() == []
    assert yard.kept() == {"nightly.yaml": "nightly"}


def test_an_emptied_file_is_an_edit_that_is_not_complete(yard):
    path = yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    path.write_text("")
    yard.turns(10)
    yard.at("2026-11-28 03:15")

    assert yard.work() == ["2026-11-28/f"]


def test_an_edit_that_takes_the_schedule_away_makes_one_last_run(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("nightly.yaml", NIGHTLY.replace("schedule: daily 03:15\n", ""))
    yard.turns()
    yard.work()

    assert yard.names() == []
    assert yard.names("done") == ["nightly.yaml"]
    assert yard.kept() == {}
    assert len(yard.told(JobRemoved)) == 1


def test_a_one_shot_file_that_gets_a_schedule_stays_from_then_on(yard):
    yard.drop("nightly.yaml", NIGHTLY.replace("schedule: daily 03:15\n", ""))
    yard.turns()
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    while_on = yard.kept()
    yard.work()
    yard.turns()

    assert while_on == {}
    assert yard.kept() == {"nightly.yaml": "nightly"}
    assert (yard.names(), yard.names("done")) == (["nightly.yaml"], ["nightly.yaml"])


# ---------------------------------------------------------------- one name, one file


@pytest.mark.parametrize("second", [NIGHTLY, "url: http://one.example/other\n"])
def test_f12_of_two_files_with_the_name_of_a_kept_job_the_first_wins(yard, second):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.drop("other.yaml", f"name: nightly\n{second}")
    yard.turns()

    assert yard.kept() == {"nightly.yaml": "nightly"}
    assert yard.names("failed") == ["other.yaml"]
    assert "is that of nightly.yaml, which stays in the folder" in yard.error("other.yaml")


# ---------------------------------------------------------------- removal


def test_a_file_that_is_taken_away_ends_its_job_and_its_run_goes_on_to_its_end(yard):
    path = yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.at("2026-11-28 03:15")
    path.unlink()
    yard.turn(0.1)
    yard.turn(GONE_S - 1.0)
    soon = yard.kept()
    yard.turn(1.0)
    late = yard.kept()
    ran = yard.work()
    yard.at("2026-11-30 12:00")

    assert soon == {"nightly.yaml": "nightly"}
    assert late == {}
    assert ran == ["2026-11-28/f"]
    assert len(yard.runs()) == 1
    assert yard.report("nightly")["state"] == "succeeded"
    yard.live()
    assert yard.kept() == {}


def test_a_file_that_an_editor_takes_away_for_a_moment_stays(yard):
    path = yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    path.unlink()
    yard.turn(0.1)
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns(10)

    assert yard.told(JobRemoved) == []
    assert len(yard.told(JobKept)) == 1


def test_a_file_that_is_renamed_is_the_same_job_once_the_old_one_is_gone(yard):
    path = yard.drop("a.yaml", f"name: nightly\n{NIGHTLY}")
    yard.turns()
    path.rename(yard.jobs / "b.yaml")
    yard.turns(10)

    assert yard.kept() == {"b.yaml": "nightly"}
    assert (yard.names(), yard.names("failed")) == (["b.yaml"], [])


def test_a_retry_of_a_run_of_a_kept_job_leaves_the_file_where_it_is(yard):
    yard.drop("nightly.yaml", "bad: true\n")
    yard.turns()  # puts one of this name into failed/
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.at("2026-11-28 03:15")
    yard.hand.settle(yard.hand.fetch(), Failure(code="not_found", reason="", transient=False))
    yard.turns()
    yard.drop("nightly.retry", "")
    yard.turns()
    on = yard.report("nightly")["state"]
    yard.work()

    assert on == RunState.RUNNING
    assert yard.report("nightly")["state"] == "succeeded"
    assert (yard.names(), yard.names("failed")) == (["nightly.yaml"], ["nightly.yaml"])


# ---------------------------------------------------------------- without a schedule

KEPT = "keep: true\nurl: http://one.example/f\n"


def test_a_kept_file_runs_when_it_comes_and_when_it_is_edited_and_not_after_a_restart(yard):
    yard.drop("tools.yaml", KEPT)
    yard.turns()
    first = yard.work()
    yard.live()
    yard.turns()
    again = yard.work()
    yard.drop("tools.yaml", KEPT.replace("/f", "/g"))
    yard.turns()
    second = yard.work()

    assert (first, again, second) == (["f"], [], ["g"])
    assert (yard.names(), yard.names("done")) == (["tools.yaml"], [])
    assert yard.report("tools")["state"] == "succeeded"


def test_f12_a_kept_file_that_is_dropped_again_as_it_is_runs_once_more(yard):
    yard.drop("tools.yaml", KEPT)
    yard.turns()
    yard.drop("tools.yaml", KEPT)  # while the first run is on
    yard.turns()
    yard.work()
    yard.turns()
    yard.work()
    runs = len(yard.runs())
    yard.drop("tools.yaml", KEPT)
    yard.turns()
    yard.work()
    yard.live()
    yard.turns()

    assert (runs, len(yard.runs())) == (2, 3)
    assert len(yard.told(JobKept)) == 1


@pytest.mark.parametrize("place", ["folder.accepted"])
def test_a_crash_when_a_kept_file_was_accepted_makes_no_second_run(yard, place):
    yard.live(crash_at=place)
    yard.drop("tools.yaml", KEPT)
    with pytest.raises(Crash):
        yard.turns()
    yard.live()
    yard.turns()
    yard.work()
    yard.turns()

    assert len(yard.runs()) == 1
    assert yard.names() == ["tools.yaml"]


@pytest.mark.parametrize(
    ("on_remove", "state"), [("drain", RunState.SUCCEEDED), ("cancel", RunState.CANCELLED)]
)
def test_what_becomes_of_the_run_of_a_file_that_is_taken_away_the_job_says(yard, on_remove, state):
    path = yard.drop("tools.yaml", f"{KEPT}on_remove: {on_remove}\n")
    yard.turns()
    path.unlink()
    yard.turns(10)
    yard.work()

    assert yard.kept() == {}
    assert yard.report("tools")["state"] == state


def test_a_file_that_comes_back_while_its_last_run_is_on_is_kept_again_without_another(yard):
    path = yard.drop("tools.yaml", KEPT)
    yard.turns()
    path.unlink()
    yard.turns(10)
    gone = yard.kept()
    yard.drop("tools.yaml", KEPT)
    yard.turns()
    yard.work()

    assert gone == {}
    assert yard.kept() == {"tools.yaml": "tools"}
    assert len(yard.runs()) == 1
    assert yard.names() == ["tools.yaml"]


def test_an_edit_that_cannot_hold_yet_is_read_once_and_holds_when_it_can(yard):
    count: list[str] = []
    read = yard.read

    def counted(*of):
        count.append(of[1])
        return read(*of)

    yard.read = counted
    yard.drop("a.yaml", "keep: true\nurl: http://one.example/f\n")
    yard.turns()
    attempt = yard.hand.fetch()
    yard.hand.settle(attempt, Fetched(intent=intent_for(attempt)))
    yard.drop("a.yaml", "keep: true\nurl: http://one.example/g\n")
    yard.drop("other.yaml", "url: http://two.example/x\n")
    for _ in range(20):
        yard.turns()
        yard.clock.advance(0.5)
        yard.hand.engine.tick()
    while_it_waited = list(count), yard.runs()
    yard.hand.publish_all()
    for _ in range(4):
        yard.clock.advance(0.5)
        yard.turns()

    assert while_it_waited[0] == ["a.yaml", "a.yaml", "other.yaml"]
    assert [job for job, _ in while_it_waited[1]] == ["a", "other"]
    assert sorted(yard.work()) == ["g", "x"]
    assert len(count) == 3


def test_the_example_of_a_kept_file_is_fetched_in_its_window_and_edited_in_place(yard):
    text = (Path(__file__).parents[2] / "config" / "examples" / "kept.yaml").read_text()
    path = yard.drop("kept.yaml", text)  # on a Friday at noon
    yard.turns()
    yard.drop("kept.yaml", text + "  - news.txt\n")
    yard.turns()
    noon = yard.report("shelf")["waiting"]
    yard.clock.advance(9 * 3600.0)  # 22:00 in Berlin
    yard.hand.engine.tick()
    night = yard.work()
    path.unlink()
    yard.turns(10)

    assert noon == {"window": 3}
    assert night == ["shelf/rescue-1.4.iso", "shelf/rescue.pdf", "shelf/news.txt"]
    assert yard.kept() == {}


# ---------------------------------------------------------------- the record


def test_what_is_kept_outlives_its_history_and_an_older_revision_does_not(yard):
    yard.drop("nightly.yaml", NIGHTLY)
    yard.turns()
    yard.at("2026-11-28 03:15")
    yard.work()
    yard.drop("once.yaml", "url: http://one.example/last\n")  # the newest run always stays
    yard.turns()
    yard.work()
    yard.hand.store.prune(
        Keep(ended_after_s=1e12, runs=1000, published_after_s=0.0), lambda _: None
    )
    yard.hand.calm()
    yard.drop("nightly.yaml", NIGHTLY.replace("/f", "/g"))
    yard.turns()
    yard.live()
    with sqlite3.connect(yard.path) as db:
        rows = db.execute("SELECT count(*) FROM job WHERE name = 'nightly'").fetchone()
    db.close()
    yard.at("2026-11-29 03:15")

    assert rows == (1,)
    assert yard.work() == ["2026-11-29/g"]
