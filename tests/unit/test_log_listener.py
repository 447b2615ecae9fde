from __future__ import annotations

import io
import json
import re
from typing import Any

from fetchd import events, listeners, logs
from fetchd.listeners import LINES, LogListener

DONE = events.TaskDone(
    job="j",
    run=3,
    task=7,
    path="a/b.iso",
    url="https://h.example/b.iso?sig=s3cret",
    outcome="resumed",
    final_url="https://cdn.example/b.iso?sig=s3cret",
    size_bytes=10,
    verified="digest",
    digests=("sha256:00",),
    attempts=2,
    resumed_from_bytes=4,
    received_bytes=6,
    elapsed_s=0.5,
    bytes_per_s=12.0,
)


def told(*happened, level="debug"):
    stream = io.StringIO()
    setup = logs.configure(level, "json", stream=stream)
    try:
        listener = LogListener()
        for event in happened:
            listener(event)
    finally:
        setup.close(5.0)
    lines = [json.loads(row) for row in stream.getvalue().splitlines()]
    for line in lines:
        del line["timestamp"], line["thread"]
    return lines


def test_a_finished_task_is_one_line_that_says_everything():
    assert told(DONE) == [
        {
            "level": "info",
            "event": "task.done",
            "job": "j",
            "run": 3,
            "task": 7,
            "path": "a/b.iso",
            "url": "https://h.example/b.iso?...",
            "outcome": "resumed",
            "final_url": "https://cdn.example/b.iso?...",
            "size_bytes": 10,
            "verified": "digest",
            "digests": ["sha256:00"],
            "attempts": 2,
            "resumed_from_bytes": 4,
            "received_bytes": 6,
            "elapsed_s": 0.5,
            "bytes_per_s": 12.0,
        }
    ]


def test_the_causes_of_a_failure_are_in_its_line_without_secrets():
    failed = events.TaskFailed(
        job="j",
        run=3,
        task=7,
        path="p",
        url="https://h.example/p",
        code="bad_status",
        reason="404 at https://h.example/p?key=s3cret",
        attempts=1,
        causes=("https://m.example/p?key=s3cret: bad_status: 404",),
    )

    (line,) = told(failed)

    assert (line["level"], line["event"], line["code"]) == ("error", "task.failed", "bad_status")
    assert "s3cret" not in repr(line)


def test_a_snapshots_totals_are_the_fields_of_its_line():
    assert told(events.StatsTaken(totals={"tasks_added": 4, "bytes_per_s_10s": 1.5})) == [
        {"level": "info", "event": "stats.snapshot", "tasks_added": 4, "bytes_per_s_10s": 1.5}
    ]


def test_progress_is_never_logged():
    progressed = events.TaskProgressed(job="j", run=1, task=1, path="p", url="u", bytes=1)

    assert told(progressed) == []


def test_a_working_task_has_one_line_at_info():
    about: dict[str, Any] = {
        "job": "j",
        "run": 3,
        "task": 7,
        "path": "a",
        "url": "https://h.example/a",
    }

    lines = told(
        events.TasksAdded(job="j", run=3, count=1),
        events.TaskStarted(**about, attempt=1),
        events.TaskVerified(**about, attempt=1, size_bytes=10),
        DONE,
        level="info",
    )

    assert [line["event"] for line in lines] == ["task.done"]


def test_every_event_but_progress_has_a_line_with_a_name_of_its_own():
    kinds = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.Event)
    }

    assert set(LINES) == kinds - {events.Event, events.TaskEvent, events.TaskProgressed}
    assert len({line.name for line in LINES.values()}) == len(LINES)
    for line in LINES.values():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", line.name)


def test_a_failing_listener_reaches_neither_the_work_nor_the_others():
    heard: list[events.Event] = []
    failures: list[tuple[object, events.Event, Exception]] = []

    def hears(event):
        heard.append(event)

    def fails(event):
        raise ValueError("no")

    tell = listeners.fan_out(
        [fails, hears], lambda listener, event, exc: failures.append((listener, event, exc))
    )
    tell(DONE)

    assert heard == [DONE]
    assert failures[0][:2] == (fails, DONE)


def test_a_listener_that_says_what_it_hears_is_told_nothing_else():
    heard: list[events.Event] = []
    told: list[events.Event] = []
    started = events.RunStarted(job="j", run=1)

    tell = listeners.fan_out(
        [listeners.Only([events.RunStarted], heard.append), told.append], listeners.log_failure
    )
    for event in (DONE, started, DONE):
        tell(event)

    assert heard == [started]
    assert told == [DONE, started, DONE]


def test_failures_of_a_listener_are_logged_once_a_minute_with_the_number_left_out():
    stream = io.StringIO()
    setup = logs.configure("info", "json", stream=stream)
    now_s = 0.0
    log_failure = listeners.FailureLog(lambda: now_s)

    def counts(event):
        raise AssertionError

    for second in (0, 1, 2, 59, 61, 62):
        now_s = float(second)
        log_failure(counts, DONE, ValueError("no"))
    setup.close(5.0)

    lines = [json.loads(row) for row in stream.getvalue().splitlines()]
    assert [(line["event"], line["unlogged"]) for line in lines] == [
        ("listener.failed", 0),
        ("listener.failed", 3),
    ]
    assert lines[0]["error"] == "ValueError: no"
    assert lines[0]["heard"] == "TaskDone"
