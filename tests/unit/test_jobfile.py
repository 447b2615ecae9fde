from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fetchd.config import Settings
from fetchd.digests import Digest
from fetchd.errors import DocumentError
from fetchd.expand import LIST_SUFFIXES, Expander
from fetchd.jobfile import list_job, load, schema, url_job
from fetchd.jobfile.schema import (
    ExpectKeys,
    FromKeys,
    JobFile,
    LimitKeys,
    PublishKeys,
    RetryKeys,
    ScheduleKeys,
    TaskEntry,
    TimeoutKeys,
    keys_of,
)
from fetchd.model import (
    IfExists,
    Item,
    Job,
    ListFile,
    Magic,
    Priority,
    RetryPolicy,
    Rules,
    Run,
    SizeRange,
    TaskGroup,
    TaskSpec,
    Template,
    Timeouts,
    Verify,
)
from fetchd.rates import Rate, Span

HOUSE = Path(__file__).parents[2]
EXAMPLES = sorted((HOUSE / "config" / "examples").iterdir())
REFERENCE = (HOUSE / "docs" / "job-file.md").read_text()
SETTINGS = Settings()
#: What the examples, and those of the reference, name of an operator's.
OPERATED = Settings.model_validate(
    {
        "roots": {"default": "/d", "mirrors": "/m"},
        "commands": {name: {"argv": ["/bin/true"]} for name in ("csv-to-parquet", "reindex")},
        "webhooks": {"notify": {"url": "https://hooks.example/x"}},
    }
)
SHA = "sha256:" + "ab" * 32
METALINK = """<metalink xmlns="urn:ietf:params:xml:ns:metalink">
<file name="a.bin"><size>5</size><url>https://files.example.org/a.bin</url></file></metalink>"""


def read(text: str, file: str = "iso.yaml", config: Settings = SETTINGS) -> Job:
    return load(text.encode(), file, config)


def group(text: str, name: str = "iso", config: Settings = SETTINGS) -> TaskGroup:
    return next(group for group in read(text, config=config).groups if group.name == name)


def specs(job: Job) -> list[TaskSpec]:
    run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=1_795_435_200.0)
    expander = Expander()
    known = [group for group in job.groups if group.manifest is None]
    return [spec for group in known for spec in expander(job, group, run, None).specs]


# ---------------------------------------------------------------- the whole


def test_a_few_lines_are_a_job() -> None:
    job = read(f"url: https://example.org/a.iso\nchecksum: {SHA}\ndest: isos\n")

    assert job == Job(
        name="iso",
        revision=job.revision,
        dest="isos",
        groups=(
            TaskGroup(
                name="iso",
                items=(Item(url="https://example.org/a.iso", line=1, column=6),),
                template=Template(dest="isos", checksums=(SHA,)),
            ),
        ),
    )
    assert specs(job) == [
        TaskSpec(
            key="isos/a.iso",
            path="isos/a.iso",
            sources=("https://example.org/a.iso",),
            digests=(Digest.parse(SHA),),
        )
    ]


def test_every_key_reaches_the_job() -> None:
    job = read(
        """
version: 1
name: ubuntu
description: nightly
priority: high
timezone: Europe/Berlin
vars: { series: 24.04, flag: no, mode: 0644 }
limits: { concurrency: 4, file: 20GiB, total: 200GiB }
root: mirrors
base: ["https://a.example.org/${series}/", https://b.example.org/]
dest: u
retry: { attempts: 5, delay: 1s, max_delay: 1m }
timeout: { connect: 5s, stall: 20s@16KiB/s, attempt: 2h }
if_exists: overwrite
headers: { X-Client: lab }
segments: 4
verify: digest
size: 1MiB..7GiB
expect: { type: Application/Octet-Stream, magic: "hex:43443030AF@32769" }
filename: ${task.name}.iso
checksum: [md5:900150983cd24fb0d6963f7d28e17f72]
sums: ${url}.sha256
url: x
x-note: [anything, { at: all }]
""",
        config=Settings.model_validate({"roots": {"default": "/d", "mirrors": "/m"}}),
    )

    assert job == Job(
        name="ubuntu",
        revision=job.revision,
        description="nightly",
        priority=Priority.HIGH,
        timezone="Europe/Berlin",
        dest="u",
        variables={"series": "24.04", "flag": "no", "mode": "0644"},
        concurrency=4,
        max_total_bytes=200 * 2**30,
        groups=(
            TaskGroup(
                name="ubuntu",
                items=(Item(url="x", line=23, column=6),),
                template=Template(
                    base=("https://a.example.org/${series}/", "https://b.example.org/"),
                    dest="u",
                    filename="${task.name}.iso",
                    checksums=("md5:900150983cd24fb0d6963f7d28e17f72",),
                    sums="${url}.sha256",
                ),
                rules=Rules(
                    root="mirrors",
                    if_exists=IfExists.OVERWRITE,
                    verify=Verify.DIGEST,
                    size=SizeRange(least_bytes=2**20, most_bytes=7 * 2**30),
                    max_bytes=20 * 2**30,
                    expect_type="application/octet-stream",
                    magic=(Magic(hex="43443030af", offset_bytes=32769),),
                    headers=(("X-Client", "lab"),),
                    segments=4,
                    retry=RetryPolicy(attempts=5, delay_s=1.0, max_delay_s=60.0),
                    timeouts=Timeouts(
                        connect_s=5.0, stall_s=20.0, stall_bytes_per_s=16384, attempt_s=7200.0
                    ),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("top", "own", "segments"),
    [("", "", None), ("auto", "", None), ("1", "", 1), ("4", "auto", None), ("auto", "16", 16)],
)
def test_a_task_has_its_own_number_of_connections_or_that_above(top, own, segments) -> None:
    above = f"segments: {top}\n" if top else ""
    below = f"    segments: {own}\n" if own else ""
    job = read(f"{above}tasks:\n  a:\n    url: https://example.org/a\n{below}")
    assert job.groups[0].rules.segments == segments


def test_lines_of_urls_have_file_names_and_checksums() -> None:
    job = read(
        "base: https://example.org/\n"
        "urls:\n"
        f"  - a.zip {SHA}\n"
        "  - b.zip sub/c.zip\n"
        f'  - "d.zip\\ta name\\t{SHA}"\n'
    )

    assert job.groups[0].items == (
        Item(url="a.zip", checksum=SHA, line=3, column=5),
        Item(url="b.zip", filename="sub/c.zip", line=4, column=5),
        Item(url="d.zip", filename="a name", checksum=SHA, line=5, column=5),
    )
    assert [spec.path for spec in specs(job)] == ["a.zip", "sub/c.zip", "a name"]


def test_json_is_the_same_language() -> None:
    keys = {"url": "https://example.org/a", "size": 5, "limits": {"concurrency": 2}, "dest": None}

    job = read(json.dumps(keys), "iso.json")

    assert job.groups[0].rules.size == SizeRange(least_bytes=5, most_bytes=5)
    assert job.concurrency == 2
    yaml = read("url: https://example.org/a\nsize: 5\nlimits: {concurrency: 2}\n")
    assert job.revision == yaml.revision


# ---------------------------------------------------------------- inheritance

SHARED = """
base: https://example.org/
headers: { X-A: 1, X-B: 2 }
retry: { attempts: 4, delay: 1s }
checksum: [md5:900150983cd24fb0d6963f7d28e17f72]
expect: { type: text/plain }
tasks:
  iso:
    url: a
"""


def test_a_task_takes_what_stands_above_it() -> None:
    taken = group(SHARED)

    assert taken.template.checksums == ("md5:900150983cd24fb0d6963f7d28e17f72",)
    assert taken.rules.headers == (("X-A", "1"), ("X-B", "2"))
    assert taken.rules.retry == RetryPolicy(attempts=4, delay_s=1.0)
    assert taken.rules.expect_type == "text/plain"


def test_mappings_merge_one_level_deep_and_lists_and_texts_replace() -> None:
    merged = group(
        SHARED
        + "    headers: { x-a: 3 }\n    retry: { delay: 2s }\n"
        + f"    checksum: {SHA}\n    base: [https://example.net/, https://example.com/]\n"
    )

    assert merged.rules.headers == (("X-B", "2"), ("x-a", "3"))
    assert merged.rules.retry == RetryPolicy(attempts=4, delay_s=2.0)
    assert merged.template.checksums == (SHA,)
    assert merged.template.base == ("https://example.net/", "https://example.com/")


def test_magic_is_one_text_or_a_list_and_merges_beside_the_type() -> None:
    text = "expect: { magic: hex:7F454C46 }\nurl: https://example.org/a\ntasks:\n  iso:\n"

    alone = group(text).rules
    merged = group(text + "    expect: { type: text/plain }\n").rules
    replaced = group(text + "    expect: { magic: [hex:00@1, hex:ff@2] }\n").rules
    cleared = group(text + "    expect: { magic: [] }\n").rules

    elf = Magic(hex="7f454c46")
    assert (alone.magic, alone.expect_type) == ((elf,), None)
    assert (merged.magic, merged.expect_type) == ((elf,), "text/plain")
    assert replaced.magic == (Magic(hex="00", offset_bytes=1), Magic(hex="ff", offset_bytes=2))
    assert cleared.magic == ()


def test_empty_mappings_and_lists_clear_and_nothing_inherits() -> None:
    cleared = group(SHARED + "    headers: {}\n    retry: {}\n    checksum: []\n    expect: {}\n")
    absent = group(SHARED + "    headers:\n    retry: ~\n    checksum: null\n")

    assert cleared.rules == Rules()
    assert cleared.template.checksums == ()
    assert absent == group(SHARED)


def test_a_task_may_have_nothing_of_its_own() -> None:
    job = read("url: https://example.org/${task.name}.iso\ntasks:\n  a:\n  b: {}\n")

    assert [spec.path for spec in specs(job)] == ["a.iso", "b.iso"]


def test_a_tasks_own_url_replaces_the_urls_above_it() -> None:
    job = read(
        "urls: [https://example.org/a, https://example.org/b]\n"
        "tasks:\n  one: {url: https://example.org/c}\n  two: {}\n"
    )

    assert [spec.path for spec in specs(job)] == ["c", "a", "b"]


# ---------------------------------------------------------------- the operator


def test_the_lower_limit_holds() -> None:
    config = Settings.model_validate({"limits": {"file": "1GiB", "total": "2GiB"}})
    text = "url: https://example.org/a\n"

    tighter = read(text + "limits: { file: 1MiB, total: 3GiB }\n", config=config)
    silent = read(text, config=config)

    assert (tighter.groups[0].rules.max_bytes, tighter.max_total_bytes) == (2**20, 2**31)
    assert (silent.groups[0].rules.max_bytes, silent.max_total_bytes) == (2**30, 2**31)


def test_a_rate_is_the_jobs_in_its_time_zone_whatever_the_operator_allows() -> None:
    config = Settings.model_validate({"limits": {"rate": "1MiB/s"}})
    text = "url: https://example.org/a\ntimezone: Europe/Berlin\nlimits: { rate: "

    plain = read(text + "5MiB/s }\n", config=config)
    timed = read(text + '{ "22:00-06:00": 5MiB/s } }\n', config=config)

    assert plain.rate == Rate(always=5 * 2**20, zone="Europe/Berlin")
    assert timed.rate == Rate(
        spans=(Span(begin_min=1320, end_min=360, bytes_per_s=5 * 2**20),), zone="Europe/Berlin"
    )
    assert read("url: https://example.org/a\n", config=config).rate is None


def test_what_the_job_does_not_say_is_the_operators() -> None:
    config = Settings.model_validate(
        {
            "retry": {"attempts": "3", "give_up_after": "1h", "max_retry_after": "5m"},
            "timeout": {"connect": "1s", "stall": "9s@3KiB/s"},
        }
    )

    rules = group(
        "url: https://example.org/a\nretry: {delay: 9s}\ntimeout: {stall: 5s}\n", config=config
    ).rules

    assert rules.retry == RetryPolicy(
        attempts=3, delay_s=9.0, give_up_after_s=3600.0, max_retry_after_s=300.0
    )
    assert rules.timeouts == Timeouts(connect_s=1.0, stall_s=5.0, stall_bytes_per_s=3072)


@pytest.mark.parametrize(
    ("floor", "line", "expected"),
    [
        ("none", "", Verify.LENGTH),
        ("none", "verify: none\n", Verify.NONE),
        ("length", "", Verify.LENGTH),
        ("length", "verify: digest\n", Verify.DIGEST),
        ("digest", "", Verify.DIGEST),
    ],
)
def test_a_job_may_ask_for_more_proof_than_the_operator(
    floor: str, line: str, expected: Verify
) -> None:
    config = Settings.model_validate({"verify": floor})

    rules = group(f"url: https://example.org/a\nchecksum: {SHA}\n{line}", config=config).rules

    assert rules.verify is expected


# ---------------------------------------------------------------- needs, revision, other jobs


def test_needs_are_what_is_referred_to_and_what_is_written() -> None:
    job = read(
        "base: https://example.org/\n"
        "tasks:\n"
        "  c: {url: 'c/${needs.a.path}', needs: b}\n"
        "  b: {url: b, needs: [a]}\n"
        "  a: {url: a, dest: d}\n"
    )

    assert {group.name: group.needs for group in job.groups} == {
        "c": ("a", "b"),
        "b": ("a",),
        "a": (),
    }
    assert specs(job)[0].sources == ("https://example.org/c/d/a",)


def test_the_revision_is_that_of_the_content_not_of_its_form() -> None:
    one = read("url: https://example.org/a\ndest: x\n")
    same = read("# a note\ndest: 'x'\n\nurl: https://example.org/a   # and another\n")
    as_json = read('{"url": "https://example.org/a", "dest": "x"}', "iso.json")
    other = read("url: https://example.org/a\ndest: y\n")

    assert re.fullmatch("[0-9a-f]{64}", one.revision)
    assert one.revision == same.revision == as_json.revision != other.revision


def test_a_claimed_list_is_a_job_with_the_operators_rules() -> None:
    config = Settings.model_validate({"limits": {"file": "1MiB", "total": "1GiB"}})

    job = list_job("crawl.urls", "/jobs/active/crawl.urls", "cd" * 32, config)

    assert job == Job(
        name="crawl",
        revision="cd" * 32,
        max_total_bytes=2**30,
        groups=(
            TaskGroup(
                name="crawl",
                items=ListFile(path="/jobs/active/crawl.urls"),
                rules=Rules(max_bytes=2**20),
            ),
        ),
    )


@pytest.mark.parametrize("name", ["my tools.meta4", "my tools.metalink"])
def test_a_claimed_metalink_is_a_job_of_its_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(METALINK)

    job = list_job(name, str(path), "cd" * 32, SETTINGS)

    assert job.name == "my-tools"
    assert job.groups[0].items == ListFile(path=str(path), format="metalink")
    assert [(spec.path, spec.size_bytes) for spec in specs(job)] == [("a.bin", 5)]


def test_a_metalink_that_is_cut_off_is_no_job(tmp_path: Path) -> None:
    path = tmp_path / "x.meta4"
    path.write_text(METALINK.removesuffix("</metalink>"))

    with pytest.raises(DocumentError) as caught:
        list_job("x.meta4", str(path), "cd" * 32, SETTINGS)

    assert str(caught.value) == "x.meta4:2:83: the file is cut off: it ends before </metalink>"


def test_arguments_are_a_job() -> None:
    job = url_job(
        ["https://example.org/a", SHA, "https://example.org/b"], SETTINGS, name="get", dest="d"
    )

    assert (job.name, job.dest) == ("get", "d")
    assert [(spec.path, spec.digests) for spec in specs(job)] == [
        ("d/a", (Digest.parse(SHA),)),
        ("d/b", ()),
    ]


def test_fifty_thousand_items_are_one_job() -> None:
    text = "urls:\n" + "".join(f"  - https://example.org/{n}.bin\n" for n in range(50_000))

    job = read(text)

    assert isinstance(job.groups[0].items, tuple)
    assert len(job.groups[0].items) == 50_000


# ---------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_job_whose_tasks_are_all_good(path: Path) -> None:
    if path.suffix in LIST_SUFFIXES:
        job = list_job(path.name, str(path), "00", OPERATED)
    else:
        job = load(path.read_bytes(), path.name, OPERATED)

    made = specs(job)

    assert made
    assert [spec.problem for spec in made if spec.problem] == []
    assert all(".example." in source for spec in made if spec.fetches for source in spec.sources)


def test_the_shipped_schema_is_that_of_the_model() -> None:
    shipped = json.loads((HOUSE / "config" / "job.schema.json").read_text())

    assert shipped == schema()
    assert shipped["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in json.dumps(shipped)


README = (HOUSE / "README.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", README + REFERENCE, re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS)
def test_each_example_of_the_readme_and_the_reference_is_a_job(text: str) -> None:
    assert specs(read(text, config=OPERATED))


def rows() -> set[str]:
    return set(re.findall(r"^\| `([a-z_.]+)` \|", REFERENCE, re.MULTILINE))


def test_the_reference_has_each_key_and_no_other() -> None:
    nested: dict[str, Any] = {
        "limits": LimitKeys,
        "retry": RetryKeys,
        "timeout": TimeoutKeys,
        "expect": ExpectKeys,
        "from": FromKeys,
        "schedule": ScheduleKeys,
        "publish": PublishKeys,
    }
    keys = (set(keys_of(JobFile)) | set(keys_of(TaskEntry))) - set(nested)
    keys |= {f"{name}.{key}" for name, model in nested.items() for key in model.model_fields}

    assert rows() == keys


def test_files_that_their_servers_name_have_a_key_of_their_own_until_then() -> None:
    job = read(
        "base: https://example.org/\ndest: d/e\nfilename: { from: header }\n"
        "urls: [ 'get?id=1', 'get?id=2', 'get?id=3 mine.bin', '/' ]\n"
    )
    first, second, named, bare = specs(job)

    assert job.groups[0].template == Template(
        base=("https://example.org/",), dest="d/e", from_header=True
    )
    assert re.fullmatch(r"\./d/e/get~[0-9a-f]{16}", first.path)
    assert len({first.path, second.path, bare.path}) == 3
    assert (first.unnamed, first.folder, first.key) == (True, "d/e", first.path)
    assert (named.path, named.unnamed) == ("d/e/mine.bin", False)
    assert specs(job)[0].path == first.path
