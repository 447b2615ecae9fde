"""What is told at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd.errors import ValueProblem
from fetchd.expand import lookup_of
from fetchd.model import (
    FileView,
    Finish,
    History,
    Intent,
    Job,
    Run,
    RunEnd,
    RunState,
    RunView,
    Task,
    TaskCounts,
    TaskGroup,
    TaskSpec,
    TaskState,
    Validator,
    Verify,
)
from fetchd.steps.outcome import facts_of, summary_of
from fetchd.steps.webhook import key_of
from fetchd.urls import HERE


def attempt(end: RunEnd | None, **more) -> Finish:
    group = TaskGroup(name="x", items=(), end=end)
    spec = TaskSpec(key="./j/x", path="./j/x", sources=(HERE,))
    intent = Intent(
        root="default",
        path="./j/x",
        part="",
        device=0,
        inode=0,
        size_bytes=0,
        verified=Verify.NONE,
        digests=(),
        clobber=True,
        url=HERE,
        final_url=HERE,
        validator=Validator(),
        mtime_s=1_700_000_060.5,
        resumed_from_bytes=0,
        received_bytes=0,
        elapsed_s=0.0,
    )
    return Finish(
        fence=1,
        job=Job(name="j", revision="r", groups=(group,), dest="d"),
        run=Run(id=7, job="j", revision="r", scheduled_for_s=0.0),
        group=group,
        task=Task(id=1, group=1, spec=spec, history=History()),
        intent=replace(intent, **more),
    )


def records(counts: TaskCounts, *failures: FileView, size_bytes: int = 0):
    view = RunView(
        id=7,
        job="j",
        revision="r",
        file="j.yaml",
        state=RunState.RUNNING,
        accepted_at_s=1_700_000_000.0,
        started_at_s=1_700_000_001.0,
        finished_at_s=None,
        tasks=counts,
        bytes=size_bytes,
        scheduled_for_s=1_700_000_000.0,
    )
    return lambda run: (view, list(failures))


FAILED = FileView(
    task=3,
    group="iso",
    path="d/\udcff",
    state=TaskState.FAILED,
    detail="bad_status",
    reason="status 404 for https://h.example/?token=secret \udcfe",
    url="https://u:p@h.example/a?token=secret",
    final_url="",
    size_bytes=None,
    verified=None,
    digests=(),
    validator=None,
    attempts=1,
    resumed_from_bytes=0,
    elapsed_s=None,
)


@pytest.mark.parametrize(
    ("counts", "size_bytes", "told"),
    [
        (TaskCounts(), 0, "0 succeeded; 0 B"),
        (TaskCounts(succeeded=41, publishing=1), 13_207_024_435, "41 succeeded; 12.3 GiB"),
        (
            TaskCounts(succeeded=41, failed=2, skipped=1, publishing=1),
            13_207_024_435,
            "41 succeeded, 2 failed, 1 skipped; 12.3 GiB",
        ),
        (TaskCounts(failed=1, cancelled=3), 5, "0 succeeded, 1 failed, 3 cancelled; 5 B"),
    ],
)
def test_a_summary_is_one_line_about_all_that_has_ended(counts, size_bytes, told):
    known = records(counts, size_bytes=size_bytes)

    assert summary_of(attempt(RunEnd.ON_FAILURE), known) == told


@pytest.mark.parametrize(
    ("end", "counts", "event"),
    [
        (RunEnd.ON_SUCCESS, TaskCounts(succeeded=1), "run.succeeded"),
        (RunEnd.ON_SUCCESS, TaskCounts(succeeded=1, failed=1), "run.partial"),
        (RunEnd.ON_FAILURE, TaskCounts(failed=1), "run.failed"),
    ],
)
def test_an_event_says_how_the_run_is_going_to_end(end, counts, event):
    assert facts_of(attempt(end), records(counts))["event"] == event


def test_what_has_failed_is_told_without_secrets_and_in_bytes_that_can_be_sent():
    facts = facts_of(
        attempt(RunEnd.ON_FAILURE), records(TaskCounts(failed=1, publishing=1), FAILED)
    )

    assert facts["tasks"]["publishing"] == 0
    assert facts["started_at"] == "2023-11-14T22:13:21.000Z"
    assert facts["finished_at"] == "2023-11-14T22:14:20.500Z"
    assert facts["failures"] == [
        {
            "task": "iso",
            "path": "d/\\xff",
            "code": "bad_status",
            "reason": "status 404 for https://h.example/?... \\udcfe",
            "url": "https://h.example/a?...",
        }
    ]


def test_a_second_end_of_a_run_is_another_thing_to_tell_and_a_repetition_is_not():
    first = attempt(RunEnd.ON_FAILURE)

    assert key_of(first) == key_of(replace(first, recovered=True, failures=3))
    assert key_of(first) != key_of(attempt(RunEnd.ON_FAILURE, mtime_s=1_700_000_061.0))


def test_names_of_a_run_have_a_meaning_at_its_end_and_those_of_files_do_not():
    look = lookup_of(attempt(RunEnd.ON_SUCCESS), lambda: "1 succeeded; 5 B")

    assert (look("job.summary"), look("job.dest"), look("run.id")) == ("1 succeeded; 5 B", "d", "7")
    for name in ("url", "task.path"):
        with pytest.raises(ValueProblem):
            look(name)


def test_a_task_that_fetches_nothing_knows_its_path_and_no_url():
    look = lookup_of(attempt(None), lambda: "")
    made = lookup_of(replace(attempt(None), group=TaskGroup(name="x", items=(), gathers=True)))

    assert made("task.path") == "j/x"
    with pytest.raises(ValueProblem, match="has a meaning only in the options of on_success"):
        look("job.summary")
    with pytest.raises(ValueProblem):
        made("url")
