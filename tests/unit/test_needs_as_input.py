"""A task that fetches nothing: where what it makes goes, and which files it is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchd.config import Settings
from fetchd.errors import DocumentError, ValueProblem
from fetchd.expand import Scope, expand, given_to
from fetchd.jobfile import load
from fetchd.model import (
    FileView,
    Job,
    Run,
    TaskState,
)
from fetchd.ports import GivenFile
from fetchd.urls import HERE

RUN = Run(id=7, job="j", revision="r", scheduled_for_s=1_700_000_000.0)
SETTINGS = Settings.model_validate({"roots": {"default": "/d", "other": "/o"}})


def job(list_keys: str, others: str = "iso: { url: 'https://h.example/a.iso', dest: isos }") -> Job:
    text = f"timezone: UTC\ntasks:\n  {others}\n  list: {{ {list_keys} }}\n"
    return load(text.encode(), "j.yaml", SETTINGS)


def spec_of(made: Job):
    (spec,) = expand(made, made.groups[-1], RUN, None).specs
    return spec


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("needs: iso, steps: [ checksum_file ]", "./list"),
        ("needs: iso, dest: d/e, steps: [ checksum_file ]", "./d/e/list"),
        ("needs: iso, dest: 'd/${run.date}', steps: [ extract ]", "./d/2023-11-14/list"),
        ("needs: iso, steps: [ { concat: all } ]", "all"),
        ("needs: iso, dest: d, steps: [ { concat: 'x-${run.id}' } ]", "d/x-7"),
        ("needs: iso, dest: d, steps: [ { concat: all.gz }, decompress ]", "d/all"),
        ("needs: iso, dest: d, steps: [ { concat: all }, { mode: 0644 }, checksum_file ]", "d/all"),
        ("needs: iso, dest: d, steps: [ { concat: all.tgz }, extract ]", "./d/list"),
    ],
)
def test_its_path_is_that_of_the_one_file_that_it_makes_or_one_that_no_file_has(keys, path):
    spec = spec_of(job(keys))

    assert (spec.path, spec.sources, spec.fetches, spec.problem) == (path, (HERE,), False, None)


@pytest.mark.parametrize(
    ("others", "above"),
    [
        ("iso: { url: 'https://h.example/a.iso' }", ""),
        ("iso: { url: 'https://h.example/a.iso', dest: isos/x }", "isos/x"),
        ("iso: { url: 'https://h.example/a', dest: 'd/${run.date:%Y/%m}' }", "d/2023/11"),
        (
            "iso: { url: 'https://h.example/${a}', dest: 'd/${run.id}/${a}', matrix: {a: [x]} }",
            "d/7",
        ),
        ("iso: { url: 'https://h.example/x/y', dest: '${url.path}/x' }", ""),
    ],
)
def test_files_of_others_appear_below_what_is_the_same_of_their_folders(others, above):
    given = given_of(job("needs: iso, steps: [ checksum_file ]", others), "iso")

    assert given == [GivenFile(root="default", path="p", above=above, made=False)]


def given_of(made: Job, *groups: str, state=TaskState.SUCCEEDED) -> list[GivenFile]:
    files = [
        FileView(
            task=1,
            group=name,
            path="p",
            state=state,
            detail="",
            reason="",
            url="",
            final_url="",
            size_bytes=1,
            verified=None,
            digests=(),
            validator=None,
            attempts=1,
            resumed_from_bytes=0,
            elapsed_s=None,
        )
        for name in groups
    ]
    return list(given_to(made, RUN, made.groups[-1].needs, files))


@pytest.mark.parametrize("state", TaskState)
def test_only_what_has_succeeded_of_needed_tasks_is_given(state):
    made = job("needs: iso, steps: [ checksum_file ]")

    given = given_of(made, "iso", "list", "other", state=state)

    assert len(given) == (state is TaskState.SUCCEEDED)


def test_what_steps_have_made_of_a_file_is_said_to_be_in_its_place():
    others = "iso: { url: 'https://h.example/a.tgz', root: other, dest: o, steps: [ extract ] }"
    (given,) = given_of(job("needs: iso, steps: [ checksum_file ]", others), "iso")

    assert given == GivenFile(root="other", path="p", above="o", made=True)


def test_keys_above_the_tasks_that_say_how_others_are_fetched_mean_nothing():
    text = """
base: https://h.example/
checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
matrix: { a: [x, y] }
size: 1MiB
tasks:
  iso: { url: "${a}.iso", checksum: [] }
  list: { needs: iso, steps: [ checksum_file ] }
"""
    made = load(text.encode(), "j.yaml", SETTINGS)

    assert (made.groups[1].matrix, made.groups[1].template.base) == (None, ())
    assert spec_of(made).path == "./list"


def test_a_condition_is_decided_for_it_as_a_whole():
    others = "iso: { url: 'https://h.example/a.iso' }"
    made = job("needs: iso, if: '${needs.iso.changed}', steps: [ checksum_file ]", others)

    assert (made.groups[1].when.each, made.groups[1].when.compares) == (False, ("iso",))
    with pytest.raises(DocumentError, match=r"item\.x"):
        job("needs: iso, if: '${item.x}', steps: [ checksum_file ]", others)


def test_its_needs_may_be_those_that_its_texts_refer_to():
    made = job("steps: [ { symlink: { name: latest, to: '${needs.iso.path}' } } ]")

    assert made.groups[1].needs == ("iso",)


def test_a_manifest_may_be_what_steps_have_made():
    text = """
tasks:
  parts: { urls: [ "https://h.example/1", "https://h.example/2" ] }
  all: { needs: parts, dest: d, steps: [ { concat: all.txt } ] }
  files: { from: { file: "${needs.all.path}", format: lines } }
"""
    made = load(text.encode(), "j.yaml", SETTINGS)
    scope = Scope(made, RUN)

    assert scope.manifest_of(made.groups[2]) == ("default", "d/all.txt")
    assert scope.beside_manifest(made.groups[2]) == ()


def test_a_job_that_comes_back_from_its_record_is_the_same():
    from fetchd.stores import codec

    made = job("needs: iso, dest: d, steps: [ checksum_file ]")
    group = codec.group_of(codec.group_text(made.groups[1]))

    assert group == made.groups[1]
    again = codec.job_of(codec.job_text(replace(made, fail_fast=True)), "j", made.revision, ())
    assert again.fail_fast


def test_a_name_of_it_that_is_no_path_is_a_failed_task_and_no_crash():
    made = job("needs: iso, dest: d, steps: [ { concat: 'x${run.id}' } ]")
    (step,) = made.groups[1].steps
    bad = replace(step, options={"name": ".."})
    groups = (made.groups[0], replace(made.groups[1], steps=(bad,)))
    (spec,) = expand(replace(made, groups=groups), groups[1], RUN, None).specs

    assert spec.problem is not None
    with pytest.raises(ValueProblem):
        Scope(replace(made, groups=groups), RUN).path_of("list")
