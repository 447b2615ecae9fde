"""What every store keeps, whoever implements it."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fetchd.digests import Digest
from fetchd.errors import ConfigError, StoreError
from fetchd.model import (
    Dossier,
    FileRecord,
    History,
    IfExists,
    Intent,
    Item,
    Job,
    Kept,
    ListFile,
    Magic,
    OriginRecord,
    Position,
    Priority,
    RetryPolicy,
    Rules,
    Run,
    RunEnd,
    RunState,
    SizeRange,
    Staged,
    StepSpec,
    TaskGroup,
    TaskState,
    Template,
    Timeouts,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import (
    Appended,
    Failed,
    GroupSucceeded,
    Intends,
    Keep,
    KeptForgotten,
    Naming,
    NewGroup,
    NewJob,
    NewKept,
    OriginForgotten,
    OriginKept,
    Pruned,
    RestEnded,
    RunCancelled,
    RunChanged,
    RunFiled,
    Started,
    Succeeded,
    Waits,
    Window,
)
from fetchd.rates import Rate, Span
from fetchd.stores import SqliteStore, codec, ledger, opening, queries
from fetchd.stores.pruning import Pruning
from fetchd.threads import Worker
from fetchd.urls import HERE
from harness import FakeClock, group, job, spec

NOW_S = 1_700_000_000.0


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    path = None if request.param == "memory" else str(tmp_path / "state.db")
    made = SqliteStore(path, FakeClock(), lambda error: None)
    yield made
    made.close()


def add(store, made: Job, *, file: str = "a.yaml", expanding: bool = False):
    from harness import SPECS

    run = Run(id=store.new_run_id(), job=made.name, revision=made.revision, scheduled_for_s=NOW_S)
    groups = tuple(
        NewGroup(
            group=g,
            specs=() if isinstance(g.items, ListFile) or g.end else SPECS[g.items],
            expanding=isinstance(g.items, ListFile) or g.end is not None,
        )
        for g in made.groups
    )
    new = NewJob(job=made, run=run, raw=b"raw", file=file, groups=groups, at_s=NOW_S)
    (opened,) = store.add_jobs([new])
    return opened


def window(store, group_id: int, **more):
    got: list[Window] = []
    options = {"after": "", "origins": 64, "per_origin": 256, "now_s": NOW_S} | more
    store.next_ready(group_id, then=got.append, **options)
    store.flush()
    return got[0]


def ready(store, group_id: int, **more) -> list[str]:
    return [r.task.spec.path for r in window(store, group_id, **more).tasks]


def pruned(store, **asked) -> Pruned:
    keep = {"ended_after_s": 0.0, "runs": 100, "published_after_s": 0.0} | asked
    got: list[Pruned] = []
    store.prune(Keep(**keep), got.append)
    while not got:
        store.flush()
    return got[0]


def end(store, opened, at_s: float, *, filed: bool = True) -> None:
    run = opened.run.id
    store.record([RunChanged(run=run, state=RunState.SUCCEEDED, at_s=at_s)])
    if filed:
        store.record([RunFiled(run=run)])


def published(store, opened) -> None:
    for ready_ in window(store, opened.groups[0].id).tasks:
        path = ready_.task.spec.path
        intent = replace(INTENT, path=path)
        record = FileRecord(
            url="u",
            size_bytes=1,
            mtime_ns=2,
            inode=3,
            verified=Verify.LENGTH,
            digests=(),
            validator=Validator(etag='"e"'),
        )
        store.record(
            [
                Intends(task=ready_.task.id, intent=intent, history=History()),
                Succeeded(
                    task=ready_.task.id,
                    root="default",
                    path=path,
                    url="u",
                    detail="downloaded",
                    unchanged=None,
                    record=record,
                ),
            ]
        )


def counts_of_rows(store) -> dict[str, int]:
    tables = ("job", "run", "task_group", "task", "file")
    return {
        table: store._ledger.read(
            lambda db, table=table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        )
        for table in tables
    }


INTENT = Intent(
    root="default",
    path="f",
    part="p1",
    device=1,
    inode=2,
    size_bytes=10,
    verified=Verify.DIGEST,
    digests=(Digest("sha256", "ab" * 32),),
    clobber=True,
    url="http://one.example/f",
    final_url="http://two.example/f",
    validator=Validator(etag='"e"', last_modified="Mon", date="Tue"),
    mtime_s=5.5,
    resumed_from_bytes=3,
    received_bytes=7,
    elapsed_s=1.5,
)


def test_a_job_comes_back_as_it_was(store):
    rules = Rules(
        root="mirrors",
        if_exists=IfExists.FAIL,
        verify=Verify.DIGEST,
        size=SizeRange(least_bytes=1, most_bytes=9),
        max_bytes=7,
        expect_type="text/html",
        magic=(Magic(hex="00ff", offset_bytes=9), Magic(hex="43")),
        headers=(("X-A", "b"),),
        segments=3,
        retry=RetryPolicy(attempts=2),
        timeouts=Timeouts(attempt_s=3.0),
    )
    template = Template(
        base=("http://a/", "http://b/"),
        dest="d",
        checksums=("md5:x",),
        sums="${url}.md5",
        from_header=True,
    )
    made = Job(
        name="a",
        revision="r",
        description="what it is for",
        priority=Priority.HIGH,
        timezone="Europe/Berlin",
        dest="d",
        variables={"a": "b"},
        concurrency=3,
        max_total_bytes=99,
        rate=Rate(
            spans=(Span(begin_min=480, end_min=1080, bytes_per_s=5000),), zone="Europe/Berlin"
        ),
        groups=(
            TaskGroup(
                name="l",
                needs=("m",),
                items=ListFile(path="/x"),
                rules=rules,
                template=template,
                steps=(StepSpec(name="mode", options={"mode": 0o644}, timeout_s=9.0),),
            ),
        ),
    )

    opened = add(store, made)

    assert opened.job == made
    assert opened.groups[0].expanding
    assert store.open_runs() == [opened]


def test_a_job_that_was_recorded_before_there_were_rates_is_read():
    made = Job(name="a", revision="r", groups=())
    fields = json.loads(codec.job_text(made))
    del fields["rate"]

    assert codec.job_of(json.dumps(fields), "a", "r", ()) == made


def test_a_list_keeps_its_form_and_is_one_of_lines_where_none_was_recorded():
    made = TaskGroup(name="g", items=ListFile(path="/a/x.meta4", format="metalink"))
    fields = json.loads(codec.group_text(made))
    older = {key: value for key, value in fields.items() if key != "format"}

    assert codec.group_of(json.dumps(fields)) == made
    assert codec.group_of(json.dumps(older)).items == ListFile(path="/a/x.meta4", format="urls")


def test_a_group_that_was_recorded_before_there_was_magic_is_read():
    made = TaskGroup(name="g", items=(Item(url="http://one.example/f"),), rules=Rules())
    fields = json.loads(codec.group_text(made))
    del fields["rules"]["magic"]

    assert codec.group_of(json.dumps(fields)) == made


def test_a_group_that_was_recorded_before_there_were_steps_is_read():
    made = TaskGroup(name="g", items=(Item(url="http://one.example/f"),), rules=Rules())
    fields = json.loads(codec.group_text(made))
    del fields["steps"]

    assert codec.group_of(json.dumps(fields)) == made


@pytest.mark.parametrize("staged", [None, Staged(files=2, bytes=7)])
def test_how_far_the_steps_of_a_task_have_come_comes_back_as_it_was(store, staged):
    opened = add(store, job("a", group("a", spec("f"))))
    task = window(store, opened.groups[0].id).tasks[0].task.id
    intent = replace(INTENT, begun=True, staged=staged)

    store.record([Intends(task=task, intent=intent, history=History())])

    (left,) = store.unfinished()
    assert left.intent == intent


def test_what_a_task_is_held_against_and_what_its_steps_use_comes_back_as_it_was(store):
    sums = ("http://one.example/SHA256SUMS", "http://two.example/SHA256SUMS")
    made = [
        replace(spec("a"), sums=sums),
        replace(spec("b"), sums=sums[:1], digests=(Digest("md5", "0" * 32),), size_bytes=2**63 - 1),
        replace(spec("c"), size_bytes=0),
        replace(spec("d"), values=(("arch", "arm64 \udce9"), ("item.version", ""))),
        spec("e"),
    ]
    opened = add(store, job("a", group("a", *made)))

    kept = window(store, opened.groups[0].id).tasks
    store.record([Started(task=one.task.id) for one in kept[:4]])

    assert [one.task.spec for one in kept] == made
    assert [left.task.spec for left in store.unfinished()] == made[:4]


def named(store, task: int, path: str) -> Naming:
    got: list[Naming] = []
    store.record([Started(task=task)])
    store.name_task(task, path, History(attempts=2), NOW_S + 30, got.append)
    store.flush()
    return got[0]


def test_a_task_that_is_named_is_ready_under_its_path_and_keeps_its_key(store):
    before = add(store, job("b", group("b", spec("d/f"))))
    published(store, before)
    end(store, before, NOW_S)
    opened = add(store, job("a", group("a", spec("./d/x~1"))))
    (first,) = window(store, opened.groups[0].id).tasks

    assert named(store, first.task.id, "d/f") is Naming.GIVEN

    (ready_,) = window(store, opened.groups[0].id).tasks
    assert ready_.task.id == first.task.id
    assert ready_.task.spec == replace(first.task.spec, path="d/f")
    assert ready_.previous is not None  # what was published there
    assert store.destination_state("default", "d/f") is TaskState.READY
    store.record([Started(task=first.task.id)])
    (left,) = store.unfinished()
    assert left.task.spec == ready_.task.spec
    named(store, first.task.id, "d/again")
    assert ready(store, opened.groups[0].id) == []  # a path is given once


def test_a_second_task_of_a_run_for_one_path_is_not_named_but_failed(store):
    opened = add(store, job("a", group("a", spec("./x~1"), spec("./x~2"), spec("f"))))
    one, two, _ = window(store, opened.groups[0].id).tasks
    other = add(store, job("c", group("c", spec("g"))))

    assert named(store, one.task.id, "f") is Naming.TAKEN
    assert named(store, two.task.id, "g") is Naming.BUSY
    assert named(store, two.task.id, "h") is Naming.GIVEN

    assert ready(store, opened.groups[0].id) == ["h", "f"]
    (failed,) = store.failures(opened.run.id, 9)
    assert (failed.path, failed.detail, failed.attempts) == ("./x~1", "dest_conflict", 2)
    assert ready(store, other.groups[0].id) == ["g"]
    assert store.reopen(opened.run.id) is not None
    assert "./x~1" in ready(store, opened.groups[0].id)


def test_jobs_that_come_together_are_recorded_together_in_their_order(store):
    runs = [
        Run(id=store.new_run_id(), job=name, revision="r", scheduled_for_s=NOW_S) for name in "bac"
    ]
    new = [
        NewJob(
            job=Job(name=run.job, revision="r", groups=()),
            run=run,
            raw=b"",
            file=f"{run.job}.yaml",
            groups=(),
            at_s=NOW_S,
        )
        for run in runs
    ]

    opened = store.add_jobs(new)

    assert [run.run for run in opened] == runs
    assert [run.file for run in store.open_runs()] == ["b.yaml", "a.yaml", "c.yaml"]
    assert {job: view.id for job, view in store.last_runs(["a", "b", "none"]).items()} == {
        "a": runs[1].id,
        "b": runs[0].id,
    }


def test_paths_that_are_not_utf8_survive(store):
    name = "caf\udce9.bin"
    opened = add(store, job("a", group("a", spec(name, "http://one.example/x"))))

    assert ready(store, opened.groups[0].id) == [name]
    assert [f.path for f in store.files(opened.run.id)] == [name]


def test_reasons_that_name_such_a_file_are_escaped(store):
    bad = spec("x", problem=("bad_item", "caf\udce9.urls:1: no URL"))
    opened = add(store, job("a", group("a", spec("f"), bad)))
    task = window(store, opened.groups[0].id).tasks[0].task.id

    store.record([Failed(task=task, code="c", reason="caf\udce9", history=History())])

    reasons = [f.reason for f in store.failures(opened.run.id, 9)]
    assert reasons == ["caf\\udce9", "caf\\udce9.urls:1: no URL"]


def test_a_task_is_ready_until_it_is_started_and_again_when_it_waits(store):
    opened = add(store, job("a", group("a", spec("f"), spec("g"))))
    here = opened.groups[0].id
    first = window(store, here).tasks[0].task.id

    store.record([Started(task=first)])
    assert ready(store, here) == ["g"]
    history = History(
        attempts=1,
        causes=((0, "c", "r"),),
        barred=frozenset({0}),
        not_yet=frozenset({1}),
        not_yet_at_s=NOW_S,
    )
    origin = "http://one.example:80"
    store.record(
        [Waits(task=first, origin=origin, history=history, due_at_s=NOW_S + 30, reason="retry")]
    )

    (waiting,) = [r for r in window(store, here).tasks if r.task.id == first]
    assert (waiting.task.history, waiting.due_at_s, waiting.wait) == (
        history,
        NOW_S + 30,
        "retry",
    )


DOSSIER = Dossier(
    url="http://one.example/f",
    final_url="http://two.example/f",
    expected=("sha256:" + "ab" * 32, "size 1..9"),
    content_type="text/plain",
    size_bytes=5,
    digests=(Digest("sha256", "cd" * 32), Digest("md5", "ef" * 16)),
    start="PK\\x03",
    quarantine="caf\udce9/.fetchd/quarantine/q",
)


def test_rule_36_what_is_known_of_refused_content_is_kept_over_waits_and_shown(store):
    opened = add(store, job("a", group("a", spec("f"), spec("g"))))
    here = opened.groups[0].id
    f, g = (r.task.id for r in window(store, here).tasks)
    history = History(attempts=1, dossier=DOSSIER)

    store.record(
        [
            Failed(task=f, code="checksum_mismatch", reason="r", history=history),
            Waits(task=g, origin="http://one.example:80", history=history, due_at_s=0, reason=""),
        ]
    )

    assert [f.dossier for f in store.failures(opened.run.id, 9)] == [DOSSIER]
    (waiting,) = window(store, here).tasks
    assert waiting.task.history == history
    store.record([Intends(task=g, intent=INTENT, history=history)])
    store.record(
        [
            Succeeded(
                task=g,
                root="default",
                path="g",
                url="u",
                detail="downloaded",
                unchanged=None,
                record=None,
            )
        ]
    )
    shown = [file.dossier for file in store.files(opened.run.id)]
    assert shown == [DOSSIER, replace(DOSSIER, quarantine="")]


def test_a_history_that_was_recorded_before_there_were_dossiers_is_read():
    history = History(attempts=2, causes=((0, "c", "r"),))
    fields = json.loads(codec.history_text(history))
    del fields["dossier"]

    assert codec.history_of(json.dumps(fields)) == history


def test_waits_can_be_limited_in_one_group_and_shorter_ones_stay(store):
    opened = add(store, job("a", group("a", spec("f"), spec("g")), group("b", spec("h"))))
    a, b = (found.id for found in opened.groups)
    f, g = (r.task.id for r in window(store, a).tasks)
    (h,) = (r.task.id for r in window(store, b).tasks)
    origin, history = "http://one.example:80", History()
    store.record(
        [
            Waits(task=task, origin=origin, history=history, due_at_s=due_at_s, reason="retry")
            for task, due_at_s in ((f, NOW_S + 9e6), (g, NOW_S + 5), (h, NOW_S + 9e6))
        ]
    )

    store.limit_waits(a, NOW_S + 30)

    assert [(r.task.id, r.due_at_s) for r in window(store, a).tasks] == [
        (g, NOW_S + 5),
        (f, NOW_S + 30),
    ]
    assert window(store, b).next_due_at_s == NOW_S + 9e6


def test_a_distant_wait_is_announced_not_given(store):
    opened = add(store, job("a", group("a", spec("f"))))
    here = opened.groups[0].id
    task = window(store, here).tasks[0].task.id

    store.record(
        [
            Waits(
                task=task,
                origin="http://one.example:80",
                history=History(),
                due_at_s=NOW_S + 900,
                reason="disk",
            )
        ]
    )

    far = window(store, here)
    assert (far.tasks, far.next_due_at_s, far.cut) == ((), NOW_S + 900, frozenset())


def test_tasks_that_are_known_are_passed_over_and_take_nobodys_place(store):
    opened = add(store, job("a", group("a", *(spec(f"f{number}") for number in range(6)))))
    (first, second, *_) = (r.task.id for r in window(store, opened.groups[0].id).tasks)

    some = window(store, opened.groups[0].id, per_origin=2, known=frozenset({first, second}))
    rest = window(store, opened.groups[0].id, per_origin=9, known=frozenset({first, second}))

    assert [r.task.spec.path for r in some.tasks] == ["f2", "f3"]
    assert some.cut == {"http://one.example:80"}
    assert len(rest.tasks) == 4
    assert rest.cut == frozenset()


def test_reading_goes_on_behind_the_last_origin_and_says_when_it_was_cut(store):
    specs = [spec(f"f{i}", f"http://h{i % 4}.example/{i}") for i in range(12)]
    opened = add(store, job("a", group("a", *specs)))
    here = opened.groups[0].id

    first = window(store, here, origins=3, per_origin=2)
    second = window(store, here, after=first.after, origins=3, per_origin=9)

    assert [r.task.spec.path for r in first.tasks] == ["f0", "f4", "f1", "f5", "f2", "f6"]
    assert first.after == "http://h2.example:80"
    assert first.cut == {f"http://h{i}.example:80" for i in range(3)}
    assert [r.task.spec.path for r in second.tasks] == ["f3", "f7", "f11"]
    assert (second.after, second.cut) == ("", frozenset())


def test_an_origin_that_is_skipped_counts_as_looked_at(store):
    specs = [spec(f"f{i}", f"http://h{i}.example/{i}") for i in range(3)]
    here = add(store, job("a", group("a", *specs))).groups[0].id

    assert ready(store, here, skip=frozenset({"http://h1.example:80"})) == ["f0", "f2"]


@pytest.mark.parametrize(
    ("mtime_ns", "inode"), [(4, 2), (-1, 2**64 - 1), (2**63 - 1, 2**63), (2**63, 1)]
)
def test_an_intent_and_its_publication_make_a_record_of_the_destination(store, mtime_ns, inode):
    opened = add(store, job("a", group("a", spec("f"))))
    here = opened.groups[0].id
    task = window(store, here).tasks[0].task.id
    durable = threading.Event()
    record = FileRecord(
        url=INTENT.url,
        size_bytes=10,
        mtime_ns=mtime_ns,
        inode=inode,
        verified=INTENT.verified,
        digests=INTENT.digests,
        validator=INTENT.validator,
    )

    store.record([Started(task=task)])
    store.record([Intends(task=task, intent=INTENT, history=History())], durable.set)
    assert durable.wait(5)
    (left,) = store.unfinished()
    assert (left.task.id, left.intent) == (task, INTENT)
    store.record(
        [
            Succeeded(
                task=task,
                root="default",
                path="f",
                url=INTENT.url,
                detail="resumed",
                unchanged=None,
                record=record,
            )
        ]
    )

    assert store.unfinished() == []
    (file,) = store.files(opened.run.id)
    assert (file.state, file.detail, file.size_bytes, file.verified) == (
        TaskState.SUCCEEDED,
        "resumed",
        10,
        Verify.DIGEST,
    )
    assert (file.final_url, file.resumed_from_bytes, file.attempts) == (INTENT.final_url, 3, 1)
    view = store.run_view(opened.run.id)
    assert (view.tasks.succeeded, view.bytes) == (1, 10)
    again = add(store, job("b", group("b", spec("f"))))
    previous = window(store, again.groups[0].id).tasks[0].previous
    if mtime_ns < 2**63:
        assert previous == record
    else:  # no file is known by it any more, and nothing is hurt
        assert previous.mtime_ns != mtime_ns


def test_up_to_date_moves_no_bytes(store):
    opened = add(store, job("a", group("a", spec("f"))))
    task = window(store, opened.groups[0].id).tasks[0].task.id
    unchanged = UpToDate(size_bytes=9, verified=Verify.LENGTH, digests=(), how="not_modified")

    store.record(
        [
            Succeeded(
                task=task,
                root="default",
                path="f",
                url="http://u/",
                detail="up_to_date",
                unchanged=unchanged,
                record=None,
            )
        ]
    )

    (file,) = store.files(opened.run.id)
    assert (file.detail, file.size_bytes, file.url) == ("up_to_date", 9, "http://u/")
    assert store.run_view(opened.run.id).bytes == 0


def test_the_later_run_is_held_while_an_earlier_one_has_the_destination(store):
    first = add(store, job("a", group("a", spec("f"))))
    second = add(store, job("b", group("b", spec("f"), spec("g"))))

    held = window(store, second.groups[0].id)
    assert ([r.task.spec.path for r in held.tasks], held.held) == (["g"], 1)
    task = window(store, first.groups[0].id).tasks[0].task.id
    store.record([Failed(task=task, code="c", reason="r", history=History())])

    assert ready(store, second.groups[0].id) == ["f", "g"]


def test_a_second_destination_in_a_run_is_failed_from_the_start(store):
    opened = add(store, job("a", group("a", spec("f"), spec("f", "http://x.example/f"))))

    assert opened.groups[0].counts.failed == 1
    assert [f.detail for f in store.failures(opened.run.id, 9)] == ["dest_conflict"]


def test_a_batch_and_its_position_are_one(store):
    made = TaskGroup(name="l", items=ListFile(path="/l"))
    opened = add(store, job("l", made))
    (group_,) = opened.groups
    got: list[Appended] = []
    specs = (spec("a"), spec("a"), spec("bad", problem=("bad_item", "why")))
    position = Position(offset_bytes=5, prefix_sha256="s", lines=3)

    store.append_tasks(group_, opened.run.id, specs, position, got.append)
    store.flush()

    (appended,) = got
    assert appended.added == 3
    assert [(s.path, code) for s, code, _ in appended.failed] == [
        ("a", "dest_conflict"),
        ("bad", "bad_item"),
    ]
    (again,) = store.open_runs()
    assert (again.groups[0].position, again.groups[0].expanding) == (position, True)
    store.append_tasks(group_, opened.run.id, (), None, got.append)
    assert not store.open_run(opened.run.id).groups[0].expanding


def test_the_rest_of_a_group_ends_but_not_what_is_being_published(store):
    opened = add(store, job("a", group("a", spec("f"), spec("g"))))
    here = opened.groups[0]
    task = window(store, here.id).tasks[0].task.id
    store.record([Intends(task=task, intent=INTENT, history=History())])

    store.record(
        [RestEnded(run=opened.run.id, group=here.id, state=TaskState.CANCELLED, reason="")]
    )

    states = {f.path: f.state for f in store.files(opened.run.id)}
    assert states == {"f": TaskState.PUBLISHING, "g": TaskState.CANCELLED}


def test_a_cancelled_run_stays_open_and_reads_no_list_until_it_has_ended(store):
    opened = add(store, job("a", TaskGroup(name="l", items=ListFile(path="/l"))), expanding=True)
    run, here = opened.run.id, opened.groups[0].id

    store.record([RunCancelled(run=run)])
    store.record([RestEnded(run=run, group=here, state=TaskState.CANCELLED, reason="")])

    (again,) = store.open_runs()
    assert (again.cancelled, again.state) == (True, RunState.RUNNING)
    assert not again.groups[0].expanding
    assert store.run_view(run).state is RunState.RUNNING
    store.record([RunChanged(run=run, state=RunState.CANCELLED, at_s=NOW_S)])
    assert store.run_view(run).state is RunState.CANCELLED
    assert store.open_runs() == []


def test_an_ended_run_is_unfiled_until_the_folder_shows_it(store):
    opened = add(store, job("a", group("a", spec("f"))))
    run = opened.run.id

    store.record([RunChanged(run=run, state=RunState.RUNNING, at_s=NOW_S + 1)])
    store.record([RunChanged(run=run, state=RunState.FAILED, at_s=NOW_S + 2)])

    assert store.open_runs() == []
    (view,) = store.unfiled_runs()
    assert (view.id, view.state, view.started_at_s, view.finished_at_s, view.file) == (
        run,
        RunState.FAILED,
        NOW_S + 1,
        NOW_S + 2,
        "a.yaml",
    )
    store.record([RunFiled(run=run)])
    assert store.unfiled_runs() == []
    last = store.last_runs(["a"])["a"]
    assert last is not None
    assert last.filed


def test_an_ended_run_is_counted_once_and_anew_after_a_retry(store):
    opened = add(store, job("a", group("a", spec("f"), spec("g"))))
    run = opened.run.id
    first, second = (ready.task.id for ready in window(store, opened.groups[0].id).tasks)
    fails = [Failed(task=t, code="c", reason="r", history=History()) for t in (first, second)]
    store.record([*fails, RunChanged(run=run, state=RunState.FAILED, at_s=NOW_S)])
    said: list[str] = []
    store._ledger.read(lambda db: db.set_trace_callback(said.append))

    last = store.last_runs(["a"])["a"]
    views = [*store.unfiled_runs(), store.run_view(run), last, *store.unfiled_runs()]
    counts = [statement for statement in said if "GROUP BY" in statement]
    store.reopen(run)
    store.record([RestEnded(run=run, group=1, state=TaskState.CANCELLED, reason="")])
    store.record([RunChanged(run=run, state=RunState.CANCELLED, at_s=NOW_S)])

    assert [view.tasks.failed for view in views] == [2, 2, 2, 2]
    assert len(counts) == 1
    assert store.run_view(run).tasks.cancelled == 2


def at_the_end(*ends: RunEnd) -> list[TaskGroup]:
    return [TaskGroup(name=end, items=(), end=end) for end in ends]


def add_with_ends(store, *ends: RunEnd):
    """Add a run that has done all of its ends, with one failed task."""
    made = job("a", group("g", spec("f"), spec("s")), *at_the_end(*ends))
    opened = add(store, made)
    failed, succeeded = (r.task for r in window(store, opened.groups[0].id).tasks)
    store.record([Failed(task=failed.id, code="c", reason="r", history=History())])
    done = [(opened.groups[0], succeeded)]
    for end, one in zip(ends, opened.groups[1:], strict=True):
        path = end.path_in("a")
        store.append_tasks(one, opened.run.id, (spec(path, HERE),), None, lambda _: None)
        (ready_,) = window(store, one.id).tasks
        done.append((one, ready_.task))
    for one, task in done:
        unchanged = UpToDate(size_bytes=1, verified=Verify.LENGTH, digests=(), how="present")
        store.record(
            [
                Succeeded(
                    task=task.id,
                    root=one.group.rules.root,
                    path=task.spec.path,
                    url="u",
                    detail="up_to_date",
                    unchanged=unchanged,
                    record=None,
                )
            ]
        )
    return opened


def test_what_is_done_at_the_end_of_a_run_is_on_record_with_its_group(store):
    opened = add_with_ends(store, RunEnd.ON_FAILURE)

    again = store.open_run(opened.run.id)
    assert [one.group.end for one in again.groups] == [None, RunEnd.ON_FAILURE]
    assert [one.expanding for one in again.groups] == [False, False]
    assert [file.path for file in store.files(opened.run.id)] == ["f", "s", "./a/on_failure"]


def test_reopen_forgets_what_was_done_at_the_end(store):
    opened = add_with_ends(store, RunEnd.ON_SUCCESS, RunEnd.ON_FAILURE)
    store.record([RunChanged(run=opened.run.id, state=RunState.FAILED, at_s=NOW_S)])

    again = store.reopen(opened.run.id)

    assert [one.expanding for one in again.groups] == [False, True, True]
    assert [file.path for file in store.files(opened.run.id)] == ["f", "s"]
    assert (again.groups[0].counts.ready, again.groups[0].counts.succeeded) == (1, 1)


A, B = (
    OriginRecord(origin=f"https://{name}.example:443", seen_at_s=NOW_S + at_s, window=3)
    for name, at_s in (("a", 0.0), ("b", 60.0))
)


def test_what_is_known_of_origins_is_kept_replaced_and_forgotten(store):
    whole = OriginRecord(
        origin=A.origin,
        seen_at_s=NOW_S + 1.5,
        window=2,
        why="429",
        gate_until_at_s=NOW_S + 30,
        gate_s=28.5,
        gate_why="status 429",
        held_until_at_s=NOW_S + 4,
        tries=2,
        ranges=False,
        retry_after_s=28.5,
        best=7,
        samples=20.0,
        stall_rate=0.05,
        rates=3.5,
        bytes_per_s=1e6,
    )
    store.record([OriginKept(record=A), OriginKept(record=B)])
    store.record([OriginKept(record=whole)])
    known = store.origins(0.0)
    store.record([OriginForgotten(origin=B.origin)])

    assert sorted(known, key=lambda one: one.origin) == [whole, B]
    assert store.origins(0.0) == [whole]


def test_origins_that_nothing_was_heard_of_for_long_are_forgotten(store):
    store.record([OriginKept(record=A), OriginKept(record=B)])

    assert store.origins(NOW_S) == [B]
    assert store.origins(0.0) == [B]


def test_no_query_looks_at_more_tasks_than_it_has_to(store):
    def plan(query):
        plain = re.sub(r"\?\d", "?", query)
        values = (0,) * plain.count("?")
        return store._ledger.read(
            lambda db: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {plain}", values)]
        )

    plans = {name: plan(query) for name, query in queries.Q.items()}
    assert [s for s in plans.pop("old_runs") if s.startswith("SCAN")] == ["SCAN run"]
    steps = {step for plan in plans.values() for step in plan}
    sorting = {name for name, plan in plans.items() if any("TEMP B-TREE" in s for s in plan)}
    of_whole_runs = {name for name, plan in plans.items() if any("task_of_run" in s for s in plan)}

    assert {step for step in steps if step.startswith("SCAN")} == {
        "SCAN t USING INDEX task_unfinished",
        "SCAN run USING INDEX run_open",
        "SCAN run USING INDEX run_unfiled",
        "SCAN kept_job",
        "SCAN CONSTANT ROW",
    }
    assert sorting == {"counts", "last_run"}
    assert of_whole_runs == {
        "end_rest", "counts", "reopen_tasks", "make_anew", "files", "prune_tasks", "tasks_of_run",
    }  # fmt: skip
    assert any("e USING INDEX task_open" in step for step in plans["ready_of_origin"])


def test_reopen_makes_failed_and_skipped_tasks_ready_again(store):
    opened = add(store, job("a", group("a", spec("f"), spec("bad", problem=("bad_item", "why")))))
    run = opened.run.id
    task = window(store, opened.groups[0].id).tasks[0].task.id
    store.record([Failed(task=task, code="c", reason="r", history=History(attempts=4))])
    store.record([RunChanged(run=run, state=RunState.FAILED, at_s=NOW_S)])

    again = store.reopen(run)

    assert again is not None
    assert again.state is RunState.RUNNING
    (ready_,) = window(store, again.groups[0].id).tasks
    assert (ready_.task.id, ready_.task.history) == (task, History())
    assert again.groups[0].counts.failed == 1  # a line that is no task stays failed


def test_reopen_has_all_made_anew_that_is_made_of_what_a_retry_takes_again(store):
    of_bad, of_good = (
        replace(group(f"of_{name}", spec(f"./{name}", HERE), needs=(name,)), gathers=True)
        for name in ("bad", "good")
    )
    of_that = replace(group("of_that", spec("./that", HERE), needs=("of_bad",)), gathers=True)
    groups = group("bad", spec("b")), group("good", spec("g")), of_that, of_bad, of_good
    opened = add(store, job("a", *groups))
    run = opened.run.id
    ids = {one.group.name: window(store, one.id).tasks[0].task.id for one in opened.groups}
    store.record([Failed(task=ids.pop("bad"), code="c", reason="r", history=History())])
    for task in ids.values():
        succeeded = Succeeded(
            task=task, root="default", path="p", url="u", detail="made", unchanged=None, record=None
        )
        store.record([Intends(task=task, intent=INTENT, history=History()), succeeded])
    store.record([RunChanged(run=run, state=RunState.PARTIAL, at_s=NOW_S)])

    again = store.reopen(run)

    ready = [one.group.name for one in again.groups if one.counts.ready]
    assert ready == ["bad", "of_that", "of_bad"]


@pytest.mark.parametrize(
    ("path", "code"), [("", "list_changed"), ("", "disk_error"), ("./l.json:3", "bad_manifest")]
)
def test_reopen_has_a_list_read_anew_that_failed_as_a_whole_and_doubles_nothing(store, path, code):
    opened = add(store, job("l", TaskGroup(name="l", items=ListFile(path="/l"))))
    (group_,), run = opened.groups, opened.run.id
    first = Position(offset_bytes=5, prefix_sha256="s", lines=3)
    bad = spec("./l:2", problem=("bad_item", "why"))
    store.append_tasks(group_, run, (spec("a"), bad, spec("a")), first, lambda _: None)
    store.append_tasks(group_, run, (spec(path, problem=(code, "why")),), None, lambda _: None)
    store.record([RunChanged(run=run, state=RunState.FAILED, at_s=NOW_S)])

    again = store.reopen(run)

    assert again is not None
    (group_,) = again.groups
    assert (group_.expanding, group_.position) == (True, None)
    assert (group_.counts.failed, group_.counts.ready) == (2, 1)  # the line, and the second "a"
    got: list[Appended] = []
    specs = (spec("a"), bad, spec("a"), spec("b"), spec("b"))
    store.append_tasks(group_, run, specs, None, got.append)
    store.flush()
    assert [(one.added, [(s.path, c) for s, c, _ in one.failed]) for one in got] == [
        (2, [("b", "dest_conflict")])
    ]
    assert ready(store, group_.id) == ["a", "b"]


def test_reopen_leaves_a_group_whose_condition_could_not_be_decided_as_it_was_made(store):
    opened = add(store, job("a", group("a", spec("f"))))
    (group_,), run = opened.groups, opened.run.id
    store.append_tasks(group_, run, (spec("", problem=("bad_item", "why")),), None, lambda _: None)
    store.record([RestEnded(run=run, group=group_.id, state=TaskState.SKIPPED, reason="condition")])
    store.record([RunChanged(run=run, state=RunState.FAILED, at_s=NOW_S)])

    again = store.reopen(run)

    assert again is not None
    assert not again.groups[0].expanding
    assert (again.groups[0].counts.failed, again.groups[0].counts.ready) == (0, 1)


def test_destination_state_is_that_of_the_newest_task(store):
    add(store, job("a", group("a", spec("f"))))

    assert store.destination_state("default", "f") is TaskState.READY
    assert store.destination_state("default", "x") is None


def test_an_open_task_speaks_for_its_destination_although_a_newer_one_has_ended(store):
    add(store, job("a", group("a", spec("f"))))
    newer = add(store, job("b", group("b", spec("f"))))

    here = newer.groups[0].id
    store.record([RestEnded(run=newer.run.id, group=here, state=TaskState.CANCELLED, reason="")])

    assert store.destination_state("default", "f") is TaskState.READY


# ---------------------------------------------------------------- history


def test_old_ended_runs_are_forgotten_with_all_that_belongs_to_them(store):
    old = add(store, job("a", group("a", spec("f"), spec("g")), revision="r1"))
    end(store, old, NOW_S)
    again = add(store, job("a", group("a", spec("f")), revision="r1"))
    end(store, again, NOW_S + 100)
    other = add(store, job("b", group("b", spec("x"))))
    end(store, other, NOW_S + 50)

    gone = pruned(store, ended_after_s=NOW_S + 60)

    assert gone == Pruned(runs=1, tasks=2, files=0)  # the newest stays, whatever its age
    assert [store.run_view(o.run.id) is None for o in (old, again, other)] == [True, False, False]
    newest = add(store, job("c", group("c", spec("y"))))
    assert pruned(store, ended_after_s=NOW_S + 200) == Pruned(runs=2, tasks=2, files=0)
    assert counts_of_rows(store) == {"job": 1, "run": 1, "task_group": 1, "task": 1, "file": 0}
    assert store.new_run_id() == newest.run.id + 1
    assert store.last_runs(["a"]) == {}


def test_what_a_group_has_succeeded_with_is_known_to_the_next_runs_of_the_job(store):
    def seen(name: str) -> list[dict[str, str]]:
        opened = add(store, job(name, group("one", spec("f")), group("two", spec("g"))))
        end(store, opened, NOW_S)
        return [dict(open_.seen) for open_ in opened.groups]

    assert seen("a") == [{}, {}]
    store.record([GroupSucceeded(job="a", group="two", seen={"one": "v1", "x": "v1"}, run=9)])
    store.record([GroupSucceeded(job="a", group="two", seen={"one": "v2"}, run=9)])

    assert seen("a") == [{}, {"one": "v2", "x": "v1"}]
    assert seen("b") == [{}, {}]
    pruned(store, ended_after_s=NOW_S + 1)
    assert seen("a") == [{}, {}]  # all that is known of the job was forgotten


def test_what_a_group_has_succeeded_with_is_known_as_long_as_its_job_is_kept(store):
    def seen() -> list[dict[str, str]]:
        made = job("a", group("one", spec("f")))
        opened = add(store, made)
        end(store, opened, NOW_S)
        return [dict(open_.seen) for open_ in opened.groups]

    made = job("a", group("one", spec("f")))
    store.add_jobs([], [NewKept(kept=Kept(job=made, file="a.yaml", stamp="s", last_s=0.0))])
    seen()
    store.record([GroupSucceeded(job="a", group="one", seen={"x": "v"}, run=9)])
    end(store, add(store, job("b", group("one", spec("g")))), NOW_S)  # the newest run stays
    assert pruned(store, ended_after_s=NOW_S + 1).runs == 1
    kept = seen()
    end(store, add(store, job("b", group("one", spec("g")))), NOW_S)
    pruned(store, ended_after_s=NOW_S + 1)
    store.record([KeptForgotten(job="a")])

    assert kept == [{"x": "v"}]
    assert seen() == [{}]


def test_the_run_is_kept_in_which_a_group_has_made_what_others_ask_for(store):
    made = job("a", group("one", spec("f")))
    first = add(store, made)
    end(store, first, NOW_S)
    store.record([GroupSucceeded(job="a", group="one", seen={}, run=first.run.id)])
    later = add(store, made)  # it has passed the group over
    end(store, later, NOW_S)
    end(store, add(store, job("b", group("one", spec("g")))), NOW_S)  # the newest run stays

    assert pruned(store, ended_after_s=NOW_S + 1).runs == 1
    assert store.run_view(later.run.id) is None
    # Nobody can ask for it any more: there is no newer run of its job, and that is not kept.
    assert pruned(store, ended_after_s=NOW_S + 1).runs == 1
    assert store.last_success("a", "one") is None


def test_the_run_that_a_group_has_succeeded_in_last_is_known_until_another_takes_its_place(store):
    made = job("a", group("one", spec("f")))
    store.add_jobs([], [NewKept(kept=Kept(job=made, file="a.yaml", stamp="s", last_s=0.0))])
    runs = []
    for _ in range(2):
        opened = add(store, made)
        end(store, opened, NOW_S)
        store.record([GroupSucceeded(job="a", group="one", seen={}, run=opened.run.id)])
        runs.append(opened.run.id)
    end(store, add(store, job("b", group("one", spec("g")))), NOW_S)

    assert pruned(store, ended_after_s=NOW_S + 1).runs == 1
    found = store.last_success("a", "one")
    assert found is not None
    assert found.id == runs[1]
    assert store.last_success("a", "two") is None
    assert store.last_success("b", "one") is None


def test_a_task_that_is_skipped_from_the_start_takes_no_destination(store):
    unmet = replace(spec("f"), skip=True)
    opened = add(store, job("a", group("a", unmet, spec("g"))))
    (open_group,) = opened.groups
    got: list[Appended] = []
    store.append_tasks(open_group, opened.run.id, (unmet, spec("f"), spec("g")), None, got.append)
    store.flush()
    (appended,) = got

    assert (open_group.counts.ready, open_group.counts.skipped) == (1, 1)
    assert (appended.added, appended.skipped) == (3, 1)
    assert [one.path for one, _, _ in appended.failed] == ["g"]


def test_of_too_many_runs_the_oldest_are_forgotten(store):
    runs = [add(store, job(name, group(name, spec(name)))) for name in "abcdef"]
    for opened in runs[:5]:
        end(store, opened, NOW_S)

    assert pruned(store, runs=3).runs == 3
    assert [store.run_view(o.run.id) is not None for o in runs] == [False] * 3 + [True] * 3


def test_what_is_on_or_not_shown_yet_is_never_forgotten(store):
    on = add(store, job("a", group("a", spec("f"))))
    unfiled = add(store, job("b", group("b", spec("g"))))
    end(store, unfiled, NOW_S, filed=False)
    add(store, job("c", group("c", spec("h"))))

    assert pruned(store, ended_after_s=NOW_S * 2, runs=1).runs == 0
    assert store.open_runs()[0].run.id == on.run.id
    assert [run.id for run in store.unfiled_runs()] == [unfiled.run.id]


def test_what_is_known_of_a_file_outlives_its_run_until_its_own_time_is_up(store):
    old = add(store, job("a", group("a", spec("kept"), spec("gone"))))
    published(store, old)
    end(store, old, NOW_S)
    add(store, job("b", group("b", spec("kept"))))

    young = pruned(store, ended_after_s=NOW_S + 1, published_after_s=NOW_S - 1)
    known = counts_of_rows(store)["file"]
    aged = pruned(store, published_after_s=NOW_S + 1)

    assert (young.runs, young.files, known) == (1, 0, 2)
    assert aged.files == 1
    (left,) = window(store, 2).tasks
    assert left.previous.validator == Validator(etag='"e"')  # a run names it


def test_a_destination_is_known_as_long_as_a_task_or_a_published_file_has_it(store):
    old = add(store, job("a", group("a", spec("done"), spec("also"))))
    published(store, old)
    end(store, old, NOW_S)
    add(store, job("b", group("b", spec("open"))))

    def known() -> list[str]:
        return [p for p in ("done", "also", "open", "never") if store.knows("default", p)]

    before = known()
    pruned(store, ended_after_s=NOW_S + 1, published_after_s=NOW_S - 1)
    of_files = known()
    pruned(store, published_after_s=NOW_S + 1)

    assert before == of_files == ["done", "also", "open"]
    assert known() == ["open"]
    assert not store.knows("other", "open")


def test_a_large_run_is_forgotten_in_small_transactions(store):
    many = [spec(f"{number}") for number in range(3500)]
    large = add(store, job("large", group("large", *many)))
    end(store, large, NOW_S)
    add(store, job("new", group("new", spec("n"))))
    changed: list[int] = []

    def watch(db: sqlite3.Connection) -> None:
        def said(statement: str) -> None:
            if statement == "COMMIT":
                changed.append(db.total_changes)

        changed.append(db.total_changes)
        db.set_trace_callback(said)

    store._ledger.read(watch)

    gone = pruned(store, ended_after_s=NOW_S + 1)

    assert gone == Pruned(runs=1, tasks=3500, files=0)
    sizes = [after - before for before, after in itertools.pairwise(changed)]
    assert sum(sizes) >= 3500
    assert max(sizes) <= 1100


def test_a_run_that_is_half_forgotten_can_be_no_more_tried_again(store):
    many = [spec(f"{number}") for number in range(1500)]
    large = add(store, job("a", group("a", *many)))
    run = large.run.id
    store.record([RestEnded(run=run, group=large.groups[0].id, state=TaskState.SKIPPED, reason="")])
    end(store, large, NOW_S)
    add(store, job("new", group("new", spec("n"))))
    pass_ = Pruning(
        store._ledger,
        queries.Q,
        Keep(ended_after_s=NOW_S + 1, runs=9, published_after_s=0),
        lambda _: None,
    )
    pass_.stop()
    pass_.go_on()

    assert counts_of_rows(store)["task"] == 501
    assert store.last_runs(["a"]) == {}
    assert store.reopen(run) is None
    assert pruned(store).runs == 1  # whatever its age: it was begun
    assert counts_of_rows(store)["task"] == 1


def test_closing_ends_a_pass_and_the_next_life_goes_on_with_it(tmp_path):
    path = str(tmp_path / "s.db")
    store = SqliteStore(path, FakeClock(), lambda error: None)
    many = [spec(f"{number}") for number in range(20_000)]
    end(store, add(store, job("large", group("large", *many))), NOW_S)
    add(store, job("new", group("new", spec("n"))))

    done: list[Pruned] = []
    store.prune(Keep(ended_after_s=NOW_S + 1, runs=100, published_after_s=0.0), done.append)
    store.flush()
    store.close()
    store = SqliteStore(path, FakeClock(), lambda error: None)
    left = counts_of_rows(store)["task"]
    rest = pruned(store)
    store.close()

    assert 1 < left < 20_001
    assert done == [Pruned(runs=0, tasks=20_001 - left, files=0)]
    assert rest == Pruned(runs=1, tasks=left - 1, files=0)


def test_freed_pages_are_used_again(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStore(str(path), FakeClock(), lambda error: None)
    sizes = []
    for round_ in range(6):
        many = [spec(f"{round_}/{number}") for number in range(2000)]
        end(store, add(store, job(f"j{round_}", group("g", *many))), NOW_S + round_)
        pruned(store, ended_after_s=NOW_S + round_)
        store._ledger.write(lambda db: None)
        sizes.append(store._ledger.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0]))
    store.close()

    assert sizes[-1] <= sizes[2] * 1.1


def test_a_closed_store_says_so(store):
    store.close()

    with pytest.raises(StoreError, match="closed"):
        store.record([])


def test_many_threads_share_commits_and_lose_nothing(store):
    specs = [spec(f"f{i}") for i in range(400)]
    opened = add(store, job("a", group("a", *specs)))
    tasks = [r.task.id for r in window(store, opened.groups[0].id, per_origin=1000).tasks]
    done = threading.Barrier(9)
    durable: list[int] = []

    def work(mine: list[int]) -> None:
        for task in mine:
            store.record([Started(task=task)])
            store.record(
                [Failed(task=task, code="c", reason="r", history=History())],
                lambda task=task: durable.append(task),
            )
        done.wait(20)

    for start in range(8):
        threading.Thread(target=work, args=(tasks[start::8],)).start()
    done.wait(20)
    store.flush()

    assert sorted(durable) == sorted(tasks)
    assert store.run_view(opened.run.id).tasks.failed == 400


# ---------------------------------------------------------------- the file itself


def test_a_failing_database_is_told_once_and_ends_all_calls(tmp_path):
    told: list[StoreError] = []
    store = SqliteStore(str(tmp_path / "s.db"), FakeClock(), told.append)

    store._ledger.post(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(StoreError):
        store.flush()

    assert len(told) == 1
    assert "nowhere" in str(told[0])
    store.close()


@pytest.mark.parametrize("writes", [True, False])
def test_c07_a_ledger_that_is_torn_down_by_any_exception_leaves_nobody_waiting(tmp_path, writes):
    told: list[StoreError] = []
    store = SqliteStore(str(tmp_path / "s.db"), FakeClock(), told.append)

    def leave(db: sqlite3.Connection) -> None:
        raise SystemExit

    with pytest.raises(StoreError):
        (store._ledger.write if writes else store._ledger.read)(leave)

    _until(lambda: bool(told))
    assert "SystemExit" in str(told[0])
    store.close()


def test_c08_a_ledger_that_hangs_is_late_its_callers_rest_and_a_close_leaves_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ledger, "CLOSE_WITHIN_S", 0.1)
    clock = FakeClock()
    store = SqliteStore(str(tmp_path / "s.db"), clock, lambda _: None)
    (writer,) = store.threads()
    hanging, go_on = threading.Event(), threading.Event()

    def hang(db: sqlite3.Connection) -> None:
        hanging.set()
        go_on.wait(10)

    def call(worker: Worker) -> None:
        worker.beat()
        store.flush()

    caller = Worker("fetcher-0", call, clock, lambda *_: None)
    store._ledger.post(hang)
    assert hanging.wait(10)
    caller.start()
    _until(lambda: not store._ledger._items.empty())
    _until(lambda: caller.age_s() == 0.0)

    clock.advance(ledger.STUCK_AFTER_S + 1)
    late = writer.late, caller.late
    store.close()
    left = writer.alive()
    go_on.set()

    assert (late, left) == ((True, False), True)
    assert writer.join(10)


def test_whoever_shares_a_commit_with_a_callback_that_raises_hears_of_it(tmp_path):
    told: list[StoreError] = []
    heard: list[StoreError] = []
    store = SqliteStore(str(tmp_path / "s.db"), FakeClock(), told.append)
    working, both_wait = threading.Event(), threading.Event()

    def work(db: sqlite3.Connection) -> None:
        working.set()
        both_wait.wait(5)

    def flush() -> None:
        try:
            store.flush()
        except StoreError as exc:
            heard.append(exc)

    def stumble(result: object) -> None:
        raise RuntimeError("a callback stumbled")

    store._ledger.post(work, stumble)
    assert working.wait(5)
    waiter = threading.Thread(target=flush, daemon=True)
    waiter.start()
    _until(lambda: not store._ledger._items.empty())
    both_wait.set()
    waiter.join(5)

    assert not waiter.is_alive()
    assert heard == told
    store.close()


def test_closing_keeps_what_was_written_although_a_callback_asks_for_more(tmp_path):
    path = str(tmp_path / "s.db")
    told: list[StoreError] = []
    store = SqliteStore(path, FakeClock(), told.append)
    closing = threading.Event()
    answered: list[None] = []

    store._ledger.post(lambda db: closing.wait(5))
    store._ledger.post(lambda db: db.execute("CREATE TABLE kept (x)"))
    store._ledger.ask(
        lambda db: None, lambda _: store._ledger.ask(lambda db: None, answered.append)
    )
    closer = threading.Thread(target=store.close)
    closer.start()
    _until(lambda: store._ledger._failure is not None)
    closing.set()
    closer.join(5)

    assert (told, answered) == ([], [None])
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def _until(true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 5
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.002)


def test_what_was_acknowledged_is_there_after_another_open(tmp_path):
    path = str(tmp_path / "s.db")
    store = SqliteStore(path, FakeClock(), lambda e: None)
    first = add(store, job("a", group("a", spec("f"))))
    store.close()

    again = SqliteStore(path, FakeClock(), lambda e: None)

    assert again.open_runs() == [first]
    assert again.new_run_id() > first.run.id
    again.close()


def test_writing_is_synchronous_full_in_a_write_ahead_log(tmp_path):
    store = SqliteStore(str(tmp_path / "s.db"), FakeClock(), lambda e: None)

    got = store._ledger.read(
        lambda db: (
            db.execute("PRAGMA synchronous").fetchone()[0],
            db.execute("PRAGMA journal_mode").fetchone()[0],
        )
    )

    assert got == (2, "wal")
    store.close()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"garbage" * 1000, id="S02-garbage"),
        pytest.param(bytes(8192), id="S02-zeros"),
        pytest.param(bytes(8192) + b"x", id="S02-zeros-and-a-rest"),
    ],
)
def test_s02_a_damaged_database_is_refused_with_what_to_do(tmp_path, content):
    path = tmp_path / "s.db"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="restore it from a backup"):
        SqliteStore(str(path), FakeClock(), lambda e: None)

    assert path.read_bytes() == content


@pytest.fixture
def filled(tmp_path):
    """The path of a database with a run of many tasks."""
    path = tmp_path / "s.db"
    store = SqliteStore(str(path), FakeClock(), lambda e: None)
    add(store, job("a", group("a", *(spec(f"{number}") for number in range(20_000)))))
    store.close()
    return path


def test_s02_a_bad_page_is_refused_and_the_file_left_as_it_is(filled):
    with filled.open("r+b") as file:
        file.seek(filled.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)
    before = filled.read_bytes()

    with pytest.raises(ConfigError, match="restore it from a backup"):
        SqliteStore(str(filled), FakeClock(), lambda e: None)

    assert filled.read_bytes() == before


def test_s03_a_log_without_its_database_is_refused_and_kept(tmp_path):
    log = tmp_path / "s.db-wal"
    log.write_bytes(b"what was recorded last")

    with pytest.raises(ConfigError, match="is missing while its log"):
        SqliteStore(str(tmp_path / "s.db"), FakeClock(), lambda e: None)

    assert [path.name for path in tmp_path.iterdir()] == [log.name]


def test_it_is_known_whether_a_state_is_a_new_one(filled, tmp_path):
    old = SqliteStore(str(filled), FakeClock(), lambda e: None)
    new = SqliteStore(str(tmp_path / "new.db"), FakeClock(), lambda e: None)

    assert (old.is_new, new.is_new) == (False, True)
    old.close()
    new.close()


def test_the_look_at_a_large_database_ends_in_time(filled):
    class Slow(FakeClock):
        looks = 0

        def monotonic(self):
            self.looks += 1
            self.advance(2.0)
            return super().monotonic()

    clock = Slow()
    db = sqlite3.connect(filled)
    opening._look_for_damage(db, clock)
    db.close()

    assert clock.looks == 3


@pytest.mark.parametrize("name", ["s.db", "s.db-wal"])
def test_s07_a_database_that_is_gone_is_a_failure_at_the_next_look(filled, name):
    told: list[StoreError] = []
    store = SqliteStore(str(filled), FakeClock(), told.append)
    store.check()
    store.flush()
    well = list(told)

    filled.with_name(name).unlink()
    store.check()
    with pytest.raises(StoreError, match="removed or replaced"):
        store.flush()

    assert well == []
    assert len(told) == 1
    store.close()


def test_s06_a_newer_schema_is_refused_and_both_versions_are_named(tmp_path):
    path = tmp_path / "s.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(
        ConfigError, match=f"version 99, this fetchd knows up to {opening.SCHEMA_VERSION}"
    ):
        SqliteStore(str(path), FakeClock(), lambda e: None)


def test_s10_an_unusable_folder_is_refused_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"none/s\.db"):
        SqliteStore(str(tmp_path / "none" / "s.db"), FakeClock(), lambda e: None)


def test_a_new_database_is_for_its_owner_only(tmp_path):
    path = tmp_path / "s.db"

    SqliteStore(str(path), FakeClock(), lambda e: None).close()

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_foreign_database_is_not_touched(tmp_path):
    path = tmp_path / "s.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()

    with pytest.raises(ConfigError, match="another program"):
        SqliteStore(str(path), FakeClock(), lambda e: None)


# ---------------------------------------------------------------- an older schema


@pytest.fixture
def old(tmp_path):
    """The path of a database that a fetchd of schema version 1 has left."""
    path = tmp_path / "fetchd.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(Path(__file__).with_name("version-1.sql").read_text())
    db.close()
    return path


def reopened(path: Path) -> SqliteStore:
    return SqliteStore(str(path), FakeClock(), lambda error: None)


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    number: int = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return number


def rows(path: Path) -> list[tuple]:
    """Every row of the tables of version 1, in the columns that it had."""
    db = sqlite3.connect(path)
    found = []
    for table in ("job", "run", "task_group", "task", "file"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        newer = {("task", "sums"), ("task", "size_bytes"), ("file", "verified")}
        newer |= {("task", "step_values"), ("task", "key")}
        known = ", ".join(c for c in columns if (table, c) not in newer)
        found += db.execute(f"SELECT {known} FROM {table}").fetchall()
    db.close()
    return found


def schema(path: Path) -> dict[str, list[tuple]]:
    db = sqlite3.connect(path)
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
    found = {name: db.execute(f"PRAGMA table_xinfo('{name}')").fetchall() for name in names}
    found |= {f"{n} index": db.execute(f"PRAGMA index_list('{n}')").fetchall() for n in names}
    db.close()
    return found


def test_s05_what_version_1_left_goes_on(old):
    store = reopened(old)
    tools, crawl = store.open_runs()
    left = store.unfinished()
    ready_now = {g.group.name: ready(store, g.id) for g in (*tools.groups, *crawl.groups)}
    waiting = window(store, tools.groups[0].id, now_s=NOW_S + 60).tasks
    store.close()

    assert [(one.task.spec.path, one.intent is not None) for one in left] == [
        ("tools/b.zip", True),
        ("caf\udce9.zip", False),
    ]
    assert ready_now == {"tools": ["tools/c.zip"], "index": ["index.json"], "crawl": ["x.csv"]}
    assert [one.task.history.barred for one in waiting] == [frozenset({0})]
    assert all(one.task.spec.sums == () for one in (*left, *waiting))
    assert all(one.task.spec.size_bytes is None for one in (*left, *waiting))
    assert tools.groups[0].group.template == Template(
        base=("https://one.example/", "https://two.example/"), dest="tools"
    )
    assert tools.groups[1].group.items == (Item(url="index.json"),)
    assert crawl.groups[0].position == Position(offset_bytes=60, prefix_sha256="cd" * 32, lines=2)


@pytest.mark.parametrize(
    ("digests", "proved", "inode", "verified"),
    [
        pytest.param("md5:00", "none", 2, Verify.DIGEST, id="its-digests-tell"),
        pytest.param("", "length", 2, Verify.LENGTH, id="its-task-tells"),
        pytest.param("", "none", 2, Verify.NONE, id="its-task-tells-that-nothing-was"),
        pytest.param("", "length", 4, Verify.NONE, id="its-task-published-another"),
    ],
)
def test_what_was_proved_of_a_file_of_version_1_is_what_its_record_or_its_task_says(
    old, digests, proved, inode, verified
):
    db = sqlite3.connect(old)
    db.execute("""UPDATE task SET result = json_set(result, '$[1]', ?) WHERE id = 1""", (proved,))
    db.execute("""UPDATE task SET path = ? WHERE id IN (1, 6)""", (b"one",))
    db.execute("""UPDATE task SET root = 'mirrors' WHERE id = 6""")
    db.execute(
        "INSERT INTO file VALUES ('mirrors', ?, 'u', 10, 4, ?, ?, NULL, NULL, NULL)",
        (b"one", inode, digests),
    )
    db.commit()
    db.close()

    store = reopened(old)
    _, crawl = store.open_runs()
    (waiting,) = window(store, crawl.groups[0].id).tasks
    store.close()

    assert waiting.previous is not None
    assert waiting.previous.verified is verified


def test_a_migrated_schema_is_that_of_a_new_database(old, tmp_path):
    new = tmp_path / "new.db"
    reopened(new).close()
    reopened(old).close()

    assert version(old) == version(new) == opening.SCHEMA_VERSION
    assert schema(old) == schema(new)


def test_a_group_whose_names_are_not_utf8_is_migrated(old):
    db = sqlite3.connect(old)
    db.execute("""UPDATE task_group SET document = replace(document, 'crawl.urls', 'caf\\udce9')""")
    db.commit()
    db.close()

    store = reopened(old)
    _, crawl = store.open_runs()
    store.close()

    assert crawl.groups[0].group.items == ListFile(path="/jobs/active/caf\udce9")


def test_the_older_state_is_kept_beside_the_new_one_for_its_owner_only(old):
    before = rows(old)
    reopened(old).close()
    kept = old.with_name("fetchd.db.version-1")

    assert (version(kept), rows(kept)) == (1, before)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in old.parent.iterdir()) == [old.name, kept.name]

    reopened(old).close()
    assert version(kept) == 1  # a second start migrates nothing


def test_s05_no_copy_no_migration(old):
    before = rows(old)
    old.with_name("fetchd.db.version-1").mkdir()

    with pytest.raises(ConfigError, match=r"no copy of it could be kept as .*\.version-1: "):
        reopened(old)

    assert (version(old), rows(old)) == (1, before)
    assert not old.with_name("fetchd.db.copying").exists()


def test_s05_a_migration_that_fails_leaves_all_as_it_was(old, monkeypatch):
    before = rows(old)
    steps = dict.fromkeys(map(str, range(2, opening.SCHEMA_VERSION + 1)), "SELECT nonsense;")
    steps["2"] = "ALTER TABLE task ADD COLUMN sums TEXT; DELETE FROM task;"
    monkeypatch.setattr("fetchd.stores.opening.named", lambda file: steps)

    with pytest.raises(ConfigError, match="nonsense"):
        reopened(old)

    assert (version(old), rows(old)) == (1, before)


#: Opens the store and dies before the Nth statement of the database.
DYING = """
import os, sqlite3, sys
from fetchd.clock import SystemClock
from fetchd.stores import SqliteStore

left = int(sys.argv[2])

def die(statement):
    global left
    left -= 1
    if left == 0:
        os._exit(9)

class Watched(sqlite3.Connection):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.set_trace_callback(die)

plain = sqlite3.connect
sqlite3.connect = lambda *args, **more: plain(*args, factory=Watched, **more)
SqliteStore(sys.argv[1], SystemClock(), print).close()
"""


def test_s05_killed_at_any_statement_it_is_of_the_old_version_or_the_new_one(old):
    before, seen = rows(old), []
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for number in range(1, 60):
        command = [sys.executable, "-c", DYING, str(old), str(number)]
        code = subprocess.run(command, env=environ, check=False).returncode
        seen.append(version(old))
        if seen[-1] == 1:
            assert rows(old) == before
        if code == 0 or seen[-1] != 1:
            break

    assert code == 9  # it died, and had come so far
    assert seen == [1] * (len(seen) - 1) + [opening.SCHEMA_VERSION]
    assert len(seen) > 8
    assert version(old.with_name("fetchd.db.version-1")) == 1
    store = reopened(old)
    assert len(store.unfinished()) == 2
    store.close()
