from __future__ import annotations

import threading
from typing import Any

import pytest

from fetchd import events
from fetchd.listeners import Stats
from harness import FakeClock

ABOUT: dict[str, Any] = {"job": "j", "run": 1, "path": "p", "url": "http://h.example/p"}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def stats(clock):
    return Stats(clock)


def started(task, attempt=1):
    return events.TaskStarted(**ABOUT, task=task, attempt=attempt)


def done(task, outcome="downloaded", size_bytes=10):
    return events.TaskDone(
        **ABOUT,
        task=task,
        outcome=outcome,
        final_url="",
        size_bytes=size_bytes,
        verified="length",
        digests=(),
        attempts=1,
        resumed_from_bytes=0,
        received_bytes=size_bytes,
        elapsed_s=1.0,
        bytes_per_s=10.0,
    )


def failed(task, code="bad_status"):
    return events.TaskFailed(**ABOUT, task=task, code=code, reason="r", attempts=1)


def progressed(size_bytes):
    return events.TaskProgressed(**ABOUT, task=1, bytes=size_bytes)


def hear(stats, *happened):
    for event in happened:
        stats(event)
    return stats.snapshot()


def test_bytes_that_no_progress_told_of_are_counted_when_they_are_verified(stats):
    verified = events.TaskVerified(**ABOUT, task=1, attempt=1, size_bytes=10, untold_bytes=4)

    counted = hear(stats, started(1), progressed(6), verified)

    assert counted["bytes_received"] == 10
    assert counted["bytes_per_s_10s"] == 10.0


def test_nothing_has_happened_is_all_zeros(stats):
    totals = stats.snapshot()

    assert set(totals.values()) == {0}
    assert totals["queued"] == totals["running"] == totals["tasks_succeeded"] == 0


def test_tasks_are_queued_then_running_then_counted_by_how_they_ended(stats):
    before = hear(stats, events.TasksAdded(job="j", run=1, count=6), started(1), started(2))
    after = hear(
        stats,
        done(1),
        done(2, "up_to_date"),
        started(3),
        failed(3),
        events.TasksSkipped(job="j", run=1, group="g", count=2, reason="upstream_failed"),
    )

    assert (before["queued"], before["running"]) == (4, 2)
    assert (after["queued"], after["running"]) == (1, 0)
    assert after["tasks_succeeded"] == 2
    assert after["tasks_downloaded"] == after["tasks_up_to_date"] == 1
    assert after["tasks_failed"] == after["failed_bad_status"] == 1
    assert after["tasks_skipped"] == 2


def test_tasks_that_are_passed_over_are_skipped_ones_that_came(stats):
    totals = hear(
        stats,
        events.TasksAdded(job="j", run=1, count=3),
        events.TasksPassedOver(job="j", run=1, group="g", count=2),
    )

    assert (totals["tasks_skipped"], totals["queued"]) == (2, 1)


def test_a_file_that_was_up_to_date_adds_no_published_bytes(stats):
    totals = hear(stats, done(1, size_bytes=7), done(2, "up_to_date", size_bytes=100))

    assert totals["bytes_published"] == 7


@pytest.mark.parametrize(
    ("event", "total"),
    [
        (
            events.TaskRetryScheduled(
                **ABOUT, task=1, attempt=1, code="stalled", reason="", delay_s=1.0, next_url=""
            ),
            "retries",
        ),
        (events.TaskDeferred(**ABOUT, task=1, wait="disk", reason="", delay_s=1.0), "deferred"),
        (events.TaskInterrupted(**ABOUT, task=1, attempt=1), "interrupted"),
    ],
)
def test_an_attempt_that_ended_without_an_end_of_its_task_is_queued_again(stats, event, total):
    totals = hear(stats, events.TasksAdded(job="j", run=1, count=1), started(1), event)

    assert totals[total] == 1
    assert (totals["queued"], totals["running"]) == (1, 0)


def test_a_cancelled_run_has_nothing_running(stats):
    totals = hear(
        stats,
        events.TasksAdded(job="j", run=1, count=2),
        started(1),
        events.TasksCancelled(job="j", run=1, count=1),
        events.TasksCancelled(job="j", run=1, count=1),
    )

    assert totals["tasks_cancelled"] == 2
    assert (totals["queued"], totals["running"]) == (0, 0)


def test_runs_are_counted_by_how_they_ended(stats):
    ended: dict[str, Any] = {
        "job": "j", "run": 1, "succeeded": 1, "failed": 0, "skipped": 0, "cancelled": 0,
        "bytes": 1, "elapsed_s": 1.0,
    }  # fmt: skip
    totals = hear(
        stats,
        events.JobAccepted(job="j", run=1, file="f", revision="r", groups=1, tasks=1),
        events.JobRejected(file="f", reason="r", problems=1),
        events.RunEnded(**ended, state="succeeded"),
        events.RunEnded(**ended, state="failed"),
        events.ThreadDied(died="fetcher-0", error="e", traceback="t", replaced=True),
    )

    assert totals["jobs_accepted"] == totals["jobs_rejected"] == totals["threads_died"] == 1
    assert totals["runs_succeeded"] == totals["runs_failed"] == 1
    assert totals["runs_cancelled"] == 0


def test_throughput_is_shown_over_windows(stats, clock):
    clock.advance(1000.0)
    hear(stats, progressed(60_000))
    clock.advance(30.0)
    totals = hear(stats, progressed(10_000), progressed(20_000))

    assert totals["bytes_received"] == 90_000
    assert totals["bytes_per_s_10s"] == 3_000.0
    assert totals["bytes_per_s_60s"] == 1_500.0
    assert totals["bytes_per_s_300s"] == 300.0


def test_throughput_of_a_young_service_is_over_its_life(stats, clock):
    clock.advance(2.0)

    assert hear(stats, progressed(1_000))["bytes_per_s_300s"] == 500.0


def test_what_is_older_than_the_longest_window_is_forgotten(stats, clock):
    for _ in range(2_000):
        clock.advance(1.0)
        stats(progressed(1))

    assert len(stats._seconds) <= 302


def test_events_of_many_threads_are_all_counted(stats):
    def tell():
        for _ in range(2_000):
            stats(progressed(1))
            stats(started(1))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    totals = stats.snapshot()
    assert totals["bytes_received"] == totals["attempts"] == 16_000
