# ruff: noqa: E501 -- messages stand here whole, as a person reads them
"""``publish: { atomic: true }`` in a job file, and the tasks, ends and edits that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd import events
from fetchd.config import Settings
from fetchd.disk.generations import name_of, path_in
from fetchd.errors import AttemptError, DocumentError
from fetchd.expand import expand
from fetchd.jobfile import load
from fetchd.model import (
    Condition,
    Decided,
    Expand,
    Failure,
    Finish,
    Finished,
    Generations,
    Interrupted,
    Job,
    Manifest,
    Retry,
    Run,
    RunEnd,
    RunState,
    Staged,
    StepSpec,
    TaskGroup,
)
from fetchd.ports import Completed
from fetchd.steps import RunPublisher
from fetchd.stores import SqliteStore, codec
from fetchd.urls import HERE
from harness import QUICK, EngineByHand, FakeClock, StepClock, group, job, spec

SETTINGS = Settings.model_validate({"roots": {"default": "./d", "fast": "./f"}})
RUN = Run(id=17, job="j", revision="r", scheduled_for_s=1795749300.75)
OWN = Generations(root="default", dest="ch")
END = TaskGroup(
    name=RunEnd.PUBLISH, items=(), steps=(StepSpec(name="publish"),), end=RunEnd.PUBLISH
)
TOP = "publish: {atomic: true}\nbase: http://h/\n"


def read(text: str, defaults: str = "") -> Job:
    return load(text.encode(), "j.yaml", SETTINGS, defaults.encode())


def paths(read_job: Job) -> list[str]:
    return [
        one.path
        for each in read_job.groups
        if each.end is None
        for one in expand(read_job, each, RUN, None).specs
    ]


def told(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read(text)
    return caught.value.headlines()


# ---------------------------------------------------------------- the job file


def test_a_task_is_known_by_its_path_below_current():
    made = read(
        TOP + "vars: {name: ch}\ndest: top/${name}\ntasks:\n"
        "  a: {url: a}\n"
        "  b: {url: b, dest: '${job.dest}/sub/${run.date}'}\n"
        "  c: {url: '${needs.a.path}', filename: x/c}\n"
    )

    assert made.generations == Generations(root="default", dest="top/ch", keep=2)
    assert paths(made) == [
        "top/ch/current/a",
        "top/ch/current/sub/2026-11-27/b",
        "top/ch/current/x/c",
    ]
    assert expand(made, made.groups[2], RUN, None).specs[0].sources == (
        "http://h/top/ch/current/a",
    )


def test_the_end_of_the_run_is_a_group_behind_all_others():
    made = read(TOP + "root: fast\ndest: ch\nurl: a\n")

    (_, end) = made.groups
    assert (end.name, end.end, end.rules.root) == ("publish", RunEnd.PUBLISH, "fast")
    assert [one.end for one in read("url: http://h/a\n").groups] == [None]


def test_so_many_generations_are_kept_as_the_job_says():
    assert read(TOP + "dest: ch\nurl: a\n").generations.keep == 2
    many = TOP.replace("true", "true, keep: 9")
    assert read(many + "dest: ch\nurl: a\n").generations.keep == 9


@pytest.mark.parametrize("said", ["{}", "{atomic: false}"])
def test_without_atomic_each_file_appears_by_itself(said):
    made = read(f"publish: {said}\nurl: http://h/a\ndest: ch\n")

    assert made.generations is None
    assert paths(made) == ["ch/a"]


def test_the_folder_of_a_category_is_that_of_its_jobs():
    made = read("publish: {atomic: true}\nurl: http://h/a\n", "dest: cat\n")

    assert paths(made) == ["cat/current/a"]


BAD = {
    "keep without atomic": (
        "publish: {keep: 3}\nurl: http://h/a\ndest: ch\n",
        "j.yaml:1:11: publish.keep: means nothing without atomic: true",
    ),
    "no generation at all": (
        "publish: {atomic: true, keep: 0}\nurl: http://h/a\ndest: ch\n",
        "j.yaml:1:31: publish.keep: '0' is not a whole number from 1 to 999999",
    ),
    "an unknown key": (
        "publish: {atomc: true}\nurl: http://h/a\n",
        "j.yaml:1:11: publish.atomc: unknown key (did you mean 'atomic'?)",
    ),
    "no mapping": (
        "publish: atomic\nurl: http://h/a\n",
        "j.yaml:1:10: publish: needs a mapping with keys such as atomic, keep",
    ),
    "no folder": (
        TOP + "url: a\n",
        (
            "j.yaml:1:19: publish.atomic: needs a dest at the top of the file: the folder in which "
            "the outputs appear"
        ),
    ),
    "another folder in each run": (
        TOP + "dest: ch/${run.date}\nurl: a\n",
        (
            "j.yaml:3:7: dest: ${run.date} is another in each run; with publish.atomic the dest at the "
            "top is one folder for all tasks and runs, so put it into filename, or into the dest of "
            "the tasks"
        ),
    ),
    "another folder in each run, by a variable of a variable": (
        TOP + "vars: {x: '${run.id}', y: 'v${x}'}\ndest: ch/${y}\nurl: a\n",
        (
            "j.yaml:4:7: dest: ${run.id} is another in each run; with publish.atomic the dest at the "
            "top is one folder for all tasks and runs, so put it into filename, or into the dest of "
            "the tasks"
        ),
    ),
    "another folder for each task": (
        TOP + "dest: ch/${task.name}\ntasks: {a: {url: a}}\n",
        (
            "j.yaml:3:7: dest: ${task.name} has no meaning here; with publish.atomic the dest at the "
            "top is one folder for all tasks and runs"
        ),
    ),
    "another folder for each value of a matrix": (
        TOP + "dest: ch/${arch}\nmatrix: {arch: [x, y]}\nurl: a\n",
        (
            "j.yaml:3:7: dest: unknown variable ${arch}; known here: run.id, run.date, job.name, url, "
            "url.path, job.dest, task.name; with publish.atomic the dest at the top is one folder for "
            "all tasks and runs"
        ),
    ),
    "a folder beside": (
        TOP + "dest: ch\ntasks: {a: {url: a, dest: chx}}\n",
        (
            "j.yaml:4:27: tasks.a.dest: 'chx' is not below 'ch', the job's dest, and its outputs "
            "appear together (publish.atomic); write a folder such as ${job.dest}/NAME"
        ),
    ),
    "a folder above": (
        TOP + "dest: ch/deep\ntasks: {a: {url: a, dest: ch}}\n",
        (
            "j.yaml:4:27: tasks.a.dest: 'ch' is not below 'ch/deep', the job's dest, and its outputs "
            "appear together (publish.atomic); write a folder such as ${job.dest}/NAME"
        ),
    ),
    "another root": (
        TOP + "dest: ch\ntasks: {a: {url: a, root: fast}}\n",
        (
            "j.yaml:4:27: tasks.a.root: 'fast' is not the job's root, 'default'; what appears "
            "together (publish.atomic) lies below one root"
        ),
    ),
    "a task with the name of the end": (
        TOP + "dest: ch\ntasks: {publish: {url: a}}\n",
        (
            "j.yaml:4:9: tasks.publish: 'publish' is what is done at the end of a run; give the "
            "task another name"
        ),
    ),
    "an unknown variable": (
        TOP + "dest: ch/${nix}\nurl: a\n",
        (
            "j.yaml:3:7: dest: unknown variable ${nix}; known here: run.id, run.date, job.name, url, "
            "url.path, job.dest, task.name"
        ),
    ),
    "an unknown variable that no task uses": (
        TOP + "dest: ch/${nix}\ntasks: {a: {url: a, dest: x}}\n",
        (
            "j.yaml:3:7: dest: unknown variable ${nix}; known here: run.id, run.date, job.name, url, "
            "url.path, job.dest, task.name; with publish.atomic the dest at the top is one folder for "
            "all tasks and runs"
        ),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_appear_together_is_told_with_its_place(name):
    text, expected = BAD[name]

    assert told(text) == [expected]


def test_a_folder_that_only_an_item_tells_is_refused_when_its_task_is_made():
    made = read(TOP + "dest: ch\ntasks: {a: {url: a, dest: 'ch/${x}', matrix: {x: [1, 2]}}}\n")
    group = made.groups[0]
    bad = replace(group, template=replace(group.template, dest="${x}"))

    problems = [one.problem for one in expand(made, bad, RUN, None).specs]

    assert {problem and problem[0] for problem in problems} == {"bad_item"}


def test_the_job_is_read_back_as_it_was_written():
    made = read(TOP + "dest: ch\nurl: a\n")
    groups = tuple(codec.group_of(codec.group_text(one)) for one in made.groups)

    again = codec.job_of(codec.job_text(made), made.name, made.revision, groups)

    assert (again.generations, groups[1].end) == (made.generations, RunEnd.PUBLISH)


# ---------------------------------------------------------------- where a path lies


def test_a_path_below_current_is_one_of_the_generation_of_its_run():
    made = Job(name="j", revision="r", groups=(), generations=OWN)

    where = [
        path_in(made, RUN, root, path)
        for root, path in (
            ("default", "ch/current/a/b"),
            ("default", "ch/currently"),
            ("default", "ch/current"),
            ("default", "other/current/a"),
            ("fast", "ch/current/a"),
        )
    ]

    assert name_of(RUN) == "20261127T031500Z-17"
    assert where == [
        "ch/generations/20261127T031500Z-17/a/b",
        "ch/currently",
        "ch/current",
        "other/current/a",
        "ch/current/a",
    ]
    assert (
        path_in(replace(made, generations=None), RUN, "default", "ch/current/a") == "ch/current/a"
    )


# ---------------------------------------------------------------- the end of a run


@pytest.fixture
def hand():
    made = EngineByHand(clock=StepClock())
    yield made
    made.close()


def channel(*groups: TaskGroup, **fields) -> Job:
    return replace(job("j", *groups, END, **fields), generations=OWN)


def at_the_end(hand: EngineByHand) -> Finish | None:
    """Let a fetcher look for work, and a finisher."""
    assert hand.fetch() is None
    hand.calm()
    if not len(hand.engine._to_finish):
        return None
    (attempt,) = hand.engine.take(Finish, 1)
    return attempt


def state(hand: EngineByHand) -> RunState:
    hand.calm()
    return hand.store.run_view(1).state


def test_the_outputs_appear_when_all_tasks_have_ended(hand):
    hand.submit(channel(group("a", spec("ch/current/a"))))
    hand.run_all()
    end = at_the_end(hand)

    assert (end.group.end, end.passed_over) == (RunEnd.PUBLISH, ())
    hand.settle(end, Finished(staged=Staged(files=0, bytes=0)))
    assert state(hand) is RunState.SUCCEEDED


def test_of_a_run_that_fails_nothing_appears_until_a_retry_has_mended_it(hand):
    hand.submit(channel(group("a", spec("ch/current/a"), retry=QUICK)))
    hand.settle(hand.fetch(), Failure(code="bad_status", reason="404", transient=False))
    early = at_the_end(hand)
    failed = state(hand)
    hand.engine.obey(Retry(job="j"))
    hand.run_all()

    assert (early, failed) == (None, RunState.FAILED)
    assert at_the_end(hand).group.end is RunEnd.PUBLISH


def test_what_could_not_appear_for_good_fails_the_run(hand):
    hand.submit(channel(group("a", spec("ch/current/a"))))
    hand.run_all()
    failure = Failure(code="dest_conflict", reason="no", transient=False, kept=True)
    hand.settle(at_the_end(hand), failure)

    assert state(hand) is RunState.FAILED


def conditional() -> TaskGroup:
    made = group("p", needs=("a",))
    return replace(
        made,
        when=Condition(text="${needs.a.changed}", compares=("a",)),
        manifest=Manifest(file="${needs.a.path}", format="lines"),
    )


def decide(hand: EngineByHand, *, holds: bool) -> None:
    hand.calm()
    (attempt,) = hand.engine.take(Expand, 1)
    assert attempt.decide
    hand.settle(attempt, Decided(holds=holds))


@pytest.mark.parametrize("crash", [False, True])
def test_a_group_that_was_passed_over_is_known_at_the_end_also_in_another_life(tmp_path, crash):
    clock = StepClock()
    hand = EngineByHand(
        store=SqliteStore(str(tmp_path / "db"), clock, lambda error: None), clock=clock
    )
    hand.submit(channel(group("a", spec("ch/current/a")), conditional()))
    hand.run_all()
    decide(hand, holds=False)
    end = at_the_end(hand)
    if crash:
        hand.calm()
        hand.close()
        again = SqliteStore(str(tmp_path / "db"), clock, lambda error: None)
        hand = EngineByHand(store=again, clock=clock)
        hand.engine.recover({})
        (end,) = hand.engine.take(Finish, 1)

    assert end.passed_over == ("p",)
    hand.close()


@pytest.mark.parametrize("crash", [False, True])
def test_the_run_in_which_a_group_has_succeeded_is_known_also_in_another_life(tmp_path, crash):
    clock, path = StepClock(), str(tmp_path / "db")

    def live() -> EngineByHand:
        return EngineByHand(store=SqliteStore(path, clock, lambda error: None), clock=clock)

    p, of_p = group("p", spec("ch/current/p"), needs=("a",)), spec("./ch/current/l", HERE)
    made = channel(
        group("a", spec("ch/current/a")),
        replace(p, when=Condition(text="${needs.a.changed}", compares=("a",))),
        replace(group("l", of_p, needs=("p",)), gathers=True),
    )
    hand = live()
    hand.submit(made)
    hand.run_all()
    (attempt,) = hand.engine.take(Expand, 1)
    hand.settle(attempt, Decided(holds=True, seen={"a": "sha256:1"}))
    hand.run_all()
    if crash:
        hand.close()
        hand = live()
        hand.engine.recover({})
        assert hand.fetch() is None
    hand.publish_all()
    hand.settle(at_the_end(hand), Finished(staged=Staged(files=0, bytes=0)))
    hand.submit(replace(made, revision="r2"))
    hand.run_all()
    (attempt,) = hand.engine.take(Expand, 1)

    assert hand.store.last_success("j", "p").id == 1
    # After a crash nobody knows of which file it was made: whatever is there now has changed.
    assert attempt.seen == ({} if crash else {"a": "sha256:1"})
    hand.close()


@pytest.mark.parametrize("crash", [False, True])
def test_steps_over_the_files_of_others_know_what_was_passed_over_also_in_another_life(
    tmp_path, crash
):
    clock, path = StepClock(), str(tmp_path / "db")
    of_p = replace(
        group("l", spec("./l", HERE), needs=("p", "a")), gathers=True, steps=(StepSpec(name="x"),)
    )
    hand = EngineByHand(store=SqliteStore(path, clock, lambda error: None), clock=clock)
    hand.submit(job("j", group("a", spec("a")), conditional(), of_p))
    hand.run_all()
    decide(hand, holds=False)
    attempt = at_the_end(hand)
    if crash:
        hand.close()
        again = SqliteStore(path, clock, lambda error: None)
        hand = EngineByHand(store=again, clock=clock)
        hand.engine.recover({})
        (attempt,) = hand.engine.take(Finish, 1)

    assert (attempt.group.name, attempt.passed_over) == ("l", ("p",))
    hand.close()


def test_another_life_does_not_forget_what_a_group_had_seen_that_appears_by_itself(tmp_path):
    clock, path = StepClock(), str(tmp_path / "db")
    when = Condition(text="${needs.a.changed}", compares=("a",))
    p = replace(group("p", spec("p"), needs=("a",)), when=when)
    made = job("j", group("a", spec("a")), p, group("slow", spec("slow")))
    hand = EngineByHand(store=SqliteStore(path, clock, lambda error: None), clock=clock)
    hand.submit(made)
    first, _ = hand.fetch(), hand.fetch()
    hand.succeed(first)
    (attempt,) = hand.engine.take(Expand, 1)
    hand.settle(attempt, Decided(holds=True, seen={"a": "sha256:1"}))
    hand.run_all()
    hand.close()
    hand = EngineByHand(store=SqliteStore(path, clock, lambda error: None), clock=clock)
    hand.engine.recover({})
    hand.run_all()
    hand.submit(replace(made, revision="r2"))
    hand.run_all()
    (attempt,) = hand.engine.take(Expand, 1)

    assert (attempt.run.id, attempt.seen) == (2, {"a": "sha256:1"})
    hand.close()


def test_a_list_that_was_read_to_its_end_was_not_passed_over(hand):
    hand.submit(channel(replace(group("a"), manifest=Manifest(file="x", format="lines"))))
    assert hand.expand_once()
    end = at_the_end(hand)

    assert end.passed_over == ()


def test_an_edit_waits_for_the_next_run_of_what_appears_together(hand):
    kept = replace(channel(group("a", spec("ch/current/a"))), keep=True)
    hand.submit(kept, file="j.yaml")
    answer = hand.submit(replace(kept, revision="r2"), file="j.yaml")

    assert (answer.done, answer.later) == (False, True)
    assert "the edit holds from the next run" in answer.reason


# ---------------------------------------------------------------- whoever carries it out


class Roots:
    """``ports.Disk`` as far as it is asked; ``raises``: how it fails."""

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.asked: list[object] = []

    def change_over(self, made, run, files, passed_over, tick) -> Completed:
        self.asked.append((made.name, run.id, list(files), passed_over))
        tick()
        tick()
        if self.raises is not None:
            raise self.raises
        return Completed(removed=3, left=("20260101T000000Z-1",))


class End:
    def __init__(self) -> None:
        self.roots = Roots()
        self.told: list[events.Event] = []
        self.reports: list[str] = []
        self.wanted = True
        made = Job(name="j", revision="r", groups=(), generations=OWN)
        self.attempt = Finish(
            fence=1,
            job=made,
            run=RUN,
            group=END,
            task=None,
            intent=None,
            passed_over=("p",),
        )
        self.publisher = RunPublisher(
            self.roots,  # type: ignore[arg-type]
            lambda run: iter([f"file of {run}"]),  # type: ignore[list-item]
            self.report,
            self.told.append,
            FakeClock(),
        )

    def report(self, attempt, progress) -> bool:
        self.reports.append(progress.step)
        return self.wanted


def test_the_disk_is_given_the_tasks_of_the_run_and_the_outcome_is_told():
    end = End()

    assert end.publisher(end.attempt) == Finished(staged=Staged(files=0, bytes=0))
    assert end.roots.asked == [("j", 17, ["file of 17"], ("p",))]
    assert end.reports == ["publish"]
    assert end.told == [
        events.RunPublished(
            job="j",
            run=17,
            root="default",
            path="ch/current",
            removed=3,
            left=("20260101T000000Z-1",),
        )
    ]


def test_an_end_that_is_not_wanted_any_more_is_left_as_it_is():
    end = End()
    end.wanted = False

    assert end.publisher(end.attempt) == Interrupted()
    assert end.told == []


@pytest.mark.parametrize(("code", "transient"), [("disk_full", True), ("dest_conflict", False)])
def test_an_end_that_fails_may_be_tried_again_with_what_is_there(code, transient):
    end = End()
    end.roots.raises = AttemptError(code, "no")

    outcome = end.publisher(end.attempt)

    assert outcome == Failure(code=code, reason="no", transient=transient, kept=True)
