"""The key ``steps`` of a job file: how it is read, and each mistake with its place."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fetchd.config import Settings
from fetchd.errors import DocumentError
from fetchd.jobfile import load
from fetchd.model import Makes, StepSpec
from fetchd.steps import STEPS
from unit.test_jobfile import REFERENCE, specs

URL = "url: https://example.org/a\n"


def steps(text: str, group: int = 0) -> tuple[StepSpec, ...]:
    return load(text.encode(), "iso.yaml", Settings()).groups[group].steps


def told(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load(text.encode(), "iso.yaml", Settings())
    return caught.value.headlines()


def test_a_step_is_a_name_with_its_options_or_the_one_that_may_stand_alone():
    long = steps(URL + "steps:\n  - mode: { mode: 0640, timeout: 2m }\n")
    short = steps(URL + "steps:\n  - mode: 0640\n")

    spec = StepSpec(name="mode", options={"mode": 0o640}, makes=Makes.SAME)
    assert long == (replace(spec, timeout_s=120.0),)
    assert short == (spec,)


def test_steps_at_the_top_hold_for_each_task_that_has_none_of_its_own():
    text = (
        "base: https://example.org/\n"
        "steps: [ { mode: 0600 } ]\n"
        "tasks:\n"
        "  a: { url: a }\n"
        "  b: { url: b, steps: [ { mode: 0644 } ] }\n"
        "  c: { url: c, steps: [] }\n"
    )

    assert [[step.options["mode"] for step in steps(text, n)] for n in range(3)] == [
        [0o600],
        [0o644],
        [],
    ]


MISTAKES = {
    "no list": (
        "steps: mode\n",
        "iso.yaml:2:8: steps: needs a list; write each step on a line of its own behind '- '",
    ),
    "no step": (
        "steps:\n  - mdoe: 0644\n",
        (
            f"iso.yaml:3:5: steps[0].mdoe: 'mdoe' is no step; known: {', '.join(STEPS)} "
            "(did you mean 'mode'?)"
        ),
    ),
    "two in one": (
        "steps:\n  - { mode: 0644, extract: { } }\n",
        (
            "iso.yaml:3:5: steps[0]: needs the name of a step, or one name with its options: "
            "extract: { ... }"
        ),
    ),
    "nothing": (
        "steps:\n  -\n",
        (
            "iso.yaml:3:4: steps[0]: needs the name of a step, or one name with its options: "
            "extract: { ... }"
        ),
    ),
    "an unknown option": (
        "steps:\n  - mode: { mdoe: 0644, mode: 0644 }\n",
        "iso.yaml:3:13: steps[0].mode.mdoe: unknown option (did you mean 'mode'?)",
    ),
    "an option that is missing": (
        "steps: [ mode ]\n",
        (
            "iso.yaml:2:10: steps[0]: 'mode' needs the option 'mode': "
            "the mode of the files; folders get x where there is r"
        ),
    ),
    "a value that is none": (
        "steps:\n  - mode: 0648\n",
        (
            "iso.yaml:3:11: steps[0].mode.mode: '0648' is no mode; "
            "write three octal digits such as 0644"
        ),
    ),
    "bits that are no permission": (
        "steps:\n  - mode: 4755\n",
        (
            "iso.yaml:3:11: steps[0].mode.mode: '4755' is no mode; "
            "write three octal digits such as 0644"
        ),
    ),
    "no time at all": (
        "steps:\n  - mode: { mode: 0644, timeout: 0s }\n",
        "iso.yaml:3:34: steps[0].mode.timeout: needs a duration above zero, such as 10m",
    ),
    "a value of the matrix that makes no name": (
        (
            "filename: ${arch}.bin\nmatrix: { arch: [ a, .. ] }\n"
            'steps:\n  - symlink: { name: "${arch}" }\n'
        ),
        "iso.yaml:5:22: steps[0].symlink.name: for (arch: ..): '..' is no file name",
    ),
    "a variable that makes no name": (
        'vars: { v: a/b }\nsteps:\n  - concat: "x-${v}"\n',
        "iso.yaml:4:13: steps[0].concat.name: 'x-a/b' is no file name",
    ),
    "a name that the matrix does not have": (
        (
            "filename: ${arch}.bin\nmatrix: { arch: [ a, b ] }\n"
            'steps:\n  - symlink: { name: "${arhc}" }\n'
        ),
        (
            "iso.yaml:5:22: steps[0].symlink.name: for (arch: a): unknown variable ${arhc} "
            "(did you mean ${arch}?)"
        ),
    ),
    "an item where there is none": (
        "steps:\n  - concat: ${item.name}\n",
        "iso.yaml:3:13: steps[0].concat.name: ${item.name} has no meaning here",
    ),
    "a field that the format does not have": (
        'from: { file: x, format: sums }\nsteps:\n  - concat: "${item.nmae}"\n',
        (
            "iso.yaml:4:13: steps[0].concat.name: unknown variable ${item.nmae} "
            "(did you mean ${item.name}?)"
        ),
    ),
    "a list of options": (
        "steps:\n  - mode: [ 0644 ]\n",
        "iso.yaml:3:11: steps[0].mode: needs a mapping of options; known here: mode, timeout",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_steps_is_told_with_its_place_and_what_is_allowed(name):
    text, expected = MISTAKES[name]

    assert told(URL + text) == [expected]


def test_a_step_behind_a_wrong_one_is_told_at_its_own_place():
    assert told(URL + "steps:\n  - unzip\n  - run: nope\n") == [
        f"iso.yaml:3:5: steps[0]: 'unzip' is no step; known: {', '.join(STEPS)}",
        (
            "iso.yaml:4:10: steps[1].run.command: 'nope' is not a command of the configuration; "
            "known: none"
        ),
    ]


def test_what_only_a_file_or_an_item_decides_is_not_judged_when_a_job_is_accepted():
    text = (
        'steps:\n  - symlink: { name: l, to: "${url.path}" }\n  - concat: "${task.path}"\n'
        '  - checksum_file: { name: "x-${item.version:%Y}-${run.date:%Y}" }\n'
        "from: { file: x, format: json }\n"
    )

    assert len(steps(URL + text)) == 3


def test_a_mistake_that_tasks_inherit_is_told_once():
    text = "steps: [ nope ]\ntasks:\n" + "".join(
        f"  t{n}: {{ url: https://example.org/{n} }}\n" for n in range(3)
    )

    assert len(told(text)) == 1


def test_the_reference_has_each_option_of_each_step_and_no_other():
    written = set(re.findall(r"^\| `([a-z_]+): ([a-z_]+)` \|", REFERENCE, re.MULTILINE))

    assert written == {(name, option) for name, kind in STEPS.items() for option in kind.options}


NEEDED = """\
base: https://example.org/
tasks:
  index: {{ url: index.json.gz, dest: d, steps: {} }}
  all: {{ url: "by/${{needs.index.path}}" }}
"""


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("[ { mode: 0644 }, checksum_file, { symlink: current } ]", "d/index.json.gz"),
        ("[ decompress ]", "d/index.json"),
        ("[ decompress, { mode: 0644 } ]", "d/index.json"),
    ],
)
def test_the_path_of_a_needed_file_is_that_behind_its_steps(written, path):
    job = load(NEEDED.format(written).encode(), "iso.yaml", Settings())

    assert specs(job)[1].sources == (f"https://example.org/by/{path}",)


@pytest.mark.parametrize("step", ["extract", "concat: x", "decompress: { name: x }"])
def test_a_file_of_which_steps_make_others_has_no_path(step):
    (problem,) = told(NEEDED.format(f"[ {{ {step} }} ]" if ":" in step else f"[ {step} ]"))

    assert "publishes its own file" in problem
