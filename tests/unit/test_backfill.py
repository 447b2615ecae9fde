"""Runs for days that are past: a drop folder, an engine and a clock by hand."""

from __future__ import annotations

import pytest

from fetchd.cli.board import kept_lines
from fetchd.events import CommandObeyed
from fetchd.folder.inbox import LATE_S
from fetchd.model import RunState
from unit.test_kept_jobs import NIGHTLY, Yard


@pytest.fixture
def yard(tmp_path):
    made = Yard(tmp_path)
    made.drop("nightly.yaml", NIGHTLY)
    made.turns()
    yield made
    made.hand.close()


def work(yard, most=20) -> list[str]:
    """Let runs begin and succeed until there is no more; returns the paths in their order."""
    paths: list[str] = []
    for _ in range(most):
        yard.turns()
        done = yard.work()
        if not done:
            break
        paths += done
    return paths


def test_each_date_has_a_run_of_its_own_one_after_the_other_and_the_schedule_goes_on(yard):
    yard.drop("nightly.backfill", "2026-11-24..2026-11-26\n")
    yard.turns()
    first = yard.runs()
    (line,) = kept_lines(
        [
            {"job": view.job, "next_s": view.next_s, "paused": False, "backlog": view.backlog}
            for view in yard.hand.engine.view().kept
        ],
        yard.clock.wall(),
    )
    paths = work(yard)
    again = yard.next()

    assert first == [("nightly", "2026-11-24 03:15")]
    assert line.endswith("earlier runs to make: 2")
    assert paths == ["2026-11-24/f", "2026-11-25/f", "2026-11-26/f"]
    assert again == "2026-11-28 03:15"
    assert yard.names() == ["nightly.yaml"]


def test_one_day_alone_may_be_named(yard):
    yard.drop("nightly.backfill", "2026-11-24")

    assert work(yard) == ["2026-11-24/f"]


def test_days_to_come_are_left_to_the_schedule(yard):
    yard.drop("nightly.backfill", "2026-11-27..2026-12-24")

    assert work(yard) == ["2026-11-27/f"]


def test_a_restart_in_the_middle_goes_on_and_repeats_nothing(yard):
    yard.drop("nightly.backfill", "2026-11-24..2026-11-26")
    yard.turns()
    yard.work()
    yard.live()

    assert work(yard) == ["2026-11-25/f", "2026-11-26/f"]
    assert [moment[:10] for _, moment in yard.runs()] == ["2026-11-24", "2026-11-25", "2026-11-26"]


def test_what_is_due_by_the_schedule_goes_before_what_is_left(yard):
    yard.drop("nightly.backfill", "2026-11-24..2026-11-25")
    yard.turns()
    yard.at("2026-11-28 03:15")
    paths = [*yard.work(), *work(yard)]

    assert paths == ["2026-11-24/f", "2026-11-28/f", "2026-11-25/f"]


def test_a_second_backfill_adds_to_the_first_and_doubles_no_date(yard):
    yard.drop("nightly.backfill", "2026-11-24..2026-11-26")
    yard.turns()
    yard.drop("nightly.backfill", "2026-11-23..2026-11-25")
    yard.turns()

    assert [*yard.work(), *work(yard)] == [
        "2026-11-24/f",
        "2026-11-23/f",
        "2026-11-24/f",  # asked for again after its run had begun
        "2026-11-25/f",
        "2026-11-26/f",
    ]


def test_a_cancel_gives_up_what_is_left_too(yard):
    yard.drop("nightly.backfill", "2026-11-24..2026-11-26")
    yard.turns()
    yard.drop("nightly.cancel", "")
    yard.turns()
    yard.turns()

    assert work(yard) == []
    assert len(yard.runs()) == 1
    assert yard.report("nightly")["state"] == RunState.CANCELLED


def test_while_the_job_is_paused_no_date_is_made(yard):
    yard.drop("nightly.pause", "")
    yard.drop("nightly.backfill", "2026-11-24")
    yard.turns()
    paused = yard.runs()
    yard.drop("nightly.resume", "")

    assert paused == []
    assert work(yard) == ["2026-11-24/f"]


@pytest.mark.parametrize(
    ("file", "days", "why"),
    [
        ("nightly", "yesterday", "'yesterday' is no date; write one as 2026-11-27"),
        ("nightly", "2026-11-26..2026-11-24", "2026-11-24 is before 2026-11-26"),
        ("nightly", "2026-12-01..2026-12-24", "was due at no time from 2026-12-01 to 2026-12-24"),
        ("nightly", "1990-01-01..2026-11-01", "more than 1000 runs; name fewer days"),
        ("other", "2026-11-24", "no job 'other' has a schedule"),
        ("often", "2026-11-24", "runs every so often, not at times"),
    ],
)
def test_what_cannot_be_made_is_answered_in_the_reports(yard, file, days, why):
    yard.drop("often.yaml", NIGHTLY.replace("daily 03:15", "every 6h"))
    yard.drop(f"{file}.backfill", days)
    yard.turns()

    assert why in yard.error(f"{file}.backfill")
    assert yard.told(CommandObeyed)[-1].done is False
    assert yard.names() == ["nightly.yaml", "often.yaml"]
    assert [job for job, _ in yard.runs()] == ["often"]


def test_an_empty_file_names_no_days_and_is_not_obeyed(yard):
    yard.drop("nightly.backfill", "")
    yard.turn()
    yard.turn(after_s=LATE_S)

    yard.folder._hinted.clear()

    assert yard.runs() == []
    assert "nightly.backfill" in yard.names()
    assert yard.folder.idle()
