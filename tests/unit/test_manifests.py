"""A manifest becomes tasks: in batches, from where the last one ended, and never other ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from fetchd.disk.source import SourceFile
from fetchd.disk.system import SystemOs
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand import Expander
from fetchd.expand.formats import Fields
from fetchd.expand.manifests import ManifestReader
from fetchd.expand.tasks import Recipe, Scope
from fetchd.model import (
    Condition,
    Item,
    Job,
    Manifest,
    Position,
    Rules,
    Run,
    SizeRange,
    StepSpec,
    TaskGroup,
    TaskSpec,
    Template,
)
from fetchd.stores import codec

RUN = Run(id=7, job="j", revision="r", scheduled_for_s=1_795_435_200.0)
ITEMS = [{"url": f"files/{number}.bin", "sha": "ab" * 32} for number in range(25_000)]
ITEM = Item(url="${item.url}", checksum="sha256:${item.sha}")


class Watched(SourceFile):
    """A file that knows whether it was closed."""

    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        super().close()


class Folder:
    """Roots that are folders side by side."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.opened: list[Watched] = []

    def __call__(self, _job: Job, _run: Run, root: str, path: str) -> Watched:
        try:
            fd = os.open(self.base / root / path, os.O_RDONLY)
        except FileNotFoundError:
            raise AttemptError("not_found", path) from None
        self.opened.append(Watched(SystemOs(), fd, root, path))
        return self.opened[-1]

    def write(self, path: str, content: object) -> None:
        file = self.base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        beside = file.with_name("beside")
        beside.write_bytes(data)
        beside.replace(file)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def from_json(*items: Item, **more) -> TaskGroup:
    manifest = {"file": "${needs.index.path}", "format": "json"} | more.pop("manifest", {})
    return TaskGroup(
        name="packages",
        needs=("index",),
        items=items or (ITEM,),
        manifest=Manifest(**manifest),
        template=Template(**more),
    )


INDEX = TaskGroup(
    name="index",
    items=(Item(url="pool/index.json"),),
    template=Template(base=("https://a.example/", "https://b.example/"), dest="in"),
    rules=Rules(root="default"),
)


def job_of(group: TaskGroup, *others: TaskGroup) -> Job:
    return Job(name="j", revision="r", groups=(INDEX, group, *others), timezone="UTC")


def batches(folder, group: TaskGroup, *, fresh: bool = False, start: Position | None = None):
    """All batches; ``fresh``: each read by a process of its own."""
    job, expand, position = job_of(group), Expander(open_below=folder), start
    made: list[tuple[TaskSpec, ...]] = []
    while True:
        if fresh:
            expand = Expander(open_below=folder)
        batch = expand(job, group, RUN, position)
        made.append(batch.specs)
        if (position := batch.position) is None:
            return made


@pytest.mark.parametrize("fresh", [False, True])
def test_each_item_is_one_task_whoever_goes_on_reading(folder, fresh):
    items = ITEMS[:5_500]
    folder.write("default/in/index.json", items)

    made = batches(folder, from_json(), fresh=fresh)

    assert [len(batch) for batch in made] == [1000] * 5 + [500]
    specs = [spec for batch in made for spec in batch]
    assert [spec.path for spec in specs] == [f"{number}.bin" for number in range(5_500)]
    assert specs[0].sources == (
        "https://a.example/pool/files/0.bin",
        "https://b.example/pool/files/0.bin",
    )
    assert [str(one) for one in specs[0].digests] == ["sha256:" + "ab" * 32]


def test_a_manifest_is_read_once_and_closed_behind_its_last_item(folder):
    folder.write("default/in/index.json", ITEMS[:5_500])

    batches(folder, from_json())

    assert [file.closed for file in folder.opened] == [True]


def test_of_many_manifests_the_files_of_a_few_stay_open(folder):
    folder.write("default/in/index.json", ITEMS[:1_500])
    group = from_json()
    reader = ManifestReader(folder, batch_items=10)
    for number in range(20):
        run = Run(id=number, job="j", revision="r", scheduled_for_s=0.0)
        reader.read(Recipe(Scope(job_of(group), run), group), group.manifest, None)

    assert sum(not file.closed for file in folder.opened) == 8


def test_a_manifest_that_another_process_finds_changed_is_read_no_further(folder):
    folder.write("default/in/index.json", ITEMS)
    group, job = from_json(), job_of(from_json())
    position = Expander(open_below=folder)(job, group, RUN, None).position
    for changed in (ITEMS[1:], ITEMS[:1], [], b"nonsense", [{}, *ITEMS[1:]]):
        folder.write("default/in/index.json", changed)

        with pytest.raises(
            AttemptError, match=r"index\.json was changed above item 1001"
        ) as caught:
            Expander(open_below=folder)(job, group, RUN, position)
        assert caught.value.code == "list_changed"

    folder.write("default/in/index.json", [*ITEMS, {"url": "files/more.bin", "sha": "cd" * 32}])
    rest = batches(folder, group, start=position)
    assert sum(map(len, rest)) == 24_001  # what comes behind may change


def test_a_manifest_that_is_written_to_while_it_is_read_is_read_no_further(folder):
    folder.write("default/in/index.json", ITEMS)
    group = from_json()
    expand = Expander(open_below=folder)
    position = expand(job_of(group), group, RUN, None).position
    with (folder.base / "default/in/index.json").open("ab") as file:
        file.write(b" ")

    with pytest.raises(AttemptError, match="was changed while it was read"):
        expand(job_of(group), group, RUN, position)


def test_a_manifest_that_is_gone_says_so(folder):
    group = from_json()
    with pytest.raises(AttemptError) as caught:
        batches(folder, group)
    assert caught.value.code == "not_found"

    with pytest.raises(AttemptError, match="was removed before its last item was read"):
        batches(folder, group, start=Position(offset_bytes=5, prefix_sha256="x", lines=1))


def test_what_is_not_of_the_format_is_one_failed_task_behind_the_good_ones(folder):
    folder.write("default/in/index.json", json.dumps(ITEMS[:3]).encode()[:-1] + b", oops")

    ((*good, bad),) = batches(folder, from_json())

    assert [spec.path for spec in good] == ["0.bin", "1.bin", "2.bin"]
    assert bad.problem == (
        "bad_manifest",
        "index.json: item 4: is not JSON: lexical error: invalid char in json text.",
    )
    assert bad.path == "./index.json:4"


def test_an_item_that_makes_no_task_is_one_failed_task_with_its_number(folder):
    folder.write("default/in/index.json", [ITEMS[0], {"url": "x", "size": 5}, [1], "t", ITEMS[1]])

    ((first, *bad, last),) = batches(folder, from_json())

    assert (first.path, last.path) == ("0.bin", "1.bin")
    assert [spec.problem[1] for spec in bad] == [
        "index.json: item 2: it has no ${item.sha}; it has ${item.url}, ${item.size}",
        "index.json: item 3: is a list; an item is a mapping or a text",
        "index.json: item 4: it has no ${item.url}; it has ${item}",
    ]


def test_fields_stand_in_every_text_of_a_task_and_in_its_condition(folder):
    folder.write(
        "default/in/index.json",
        [{"v": "1.10", "d": "2026-11-23", "os": "linux"}, {"v": 2, "d": "2026-11-24", "os": "mac"}],
    )
    group = TaskGroup(
        name="packages",
        items=(Item(url="${item.v}.tar", filename="${item.v}-${item.d-1d:%d}.tar"),),
        manifest=Manifest(file="in/index.json", format="json"),
        template=Template(
            base=("https://${item.os}.example/",), dest="${item.os}", sums="S${item.v}"
        ),
        when=Condition(text="${item.os} != mac", each=True),
    )

    ((linux, mac),) = batches(folder, group)

    assert linux.sources == ("https://linux.example/1.10.tar",)
    assert linux.path == "linux/1.10-22.tar"
    assert linux.sums == ("https://linux.example/S1.10",)
    assert (linux.skip, mac.skip) == (False, True)


def test_a_task_keeps_the_fields_that_its_steps_use_if_they_can_be_kept(folder):
    items = [
        {"u": "a", "v": 1, "n": {"m": True}},
        {"u": "b", "v": 1},
        {"u": "c", "v": "\ud800", "n": {"m": 1}},
        {"u": "d", "v": "x" * 65_536, "n": {"m": 1}},
    ]
    folder.write("default/in/index.json", "\n".join(map(json.dumps, items)).encode())
    group = TaskGroup(
        name="packages",
        items=(Item(url="${item.u}"),),
        manifest=Manifest(file="in/index.json", format="jsonl"),
        template=Template(base=("https://a.example/",)),
        steps=(StepSpec(name="run", options={"args": ["${item.v}", "${item.n.m}"]}),),
    )

    ((good, *bad),) = batches(folder, group)

    assert good.values == (("item.n.m", "true"), ("item.v", "1"))
    assert [spec.problem and spec.problem[1] for spec in bad] == [
        "index.json: item 2: it has no ${item.n.m}; it has ${item.u}, ${item.v}",
        "index.json: item 3: ${item.v}, for steps, is not valid Unicode",
        "index.json: item 4: ${item.n.m}, ${item.v}, for steps, have more than 65536 characters",
    ]


GOOD = {"u": "https://a/b", "f": "f", "c": "md5:" + "0" * 32, "s": "S", "d": "d"}
HOSTILE = st.one_of(
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(
        ["../x", "/x", ".fetchd/x", "\udc80", "\ud800", "a\nb", "a\0b", "${item.u}", "https://[/",
         "https://h/\udc80", "https://h/a\nb", "https://u:p@h/", "file:///etc/passwd", "x" * 70_000]
    ),
)  # fmt: skip


@hypothesis.settings(derandomize=True, max_examples=400)
@hypothesis.given(st.sampled_from(sorted(GOOD)), HOSTILE)
def test_any_text_in_any_field_makes_a_task_that_can_be_on_record_or_none(field, text):
    item = Item(url="${item.u}", filename="${item.f}", checksum="${item.c}")
    group = TaskGroup(
        name="g",
        items=(item,),
        manifest=Manifest(file="x", format="json"),
        template=Template(sums="${item.s}", dest="${item.d}"),
    )
    recipe = Recipe(Scope(job_of(group), RUN), group)
    try:
        spec = recipe.of_item(item, Fields(GOOD | {field: text}))
    except ValueProblem:
        return

    for url in (*spec.sources, *spec.sums):
        assert not {0, 10, 13, 32} & set(url.encode())
    path = spec.path.encode("utf-8", "surrogateescape").split(b"/")
    assert not {b"", b".", b"..", b".fetchd"} & set(path)


def test_lines_and_sums_need_no_url(folder):
    folder.write(
        "default/in/index.json", b"# files\na.bin x.bin sha256:" + b"ab" * 32 + b"\nb.bin\n"
    )
    lines = TaskGroup(
        name="packages",
        items=(),
        manifest=Manifest(file="${needs.index.path}", format="lines"),
        template=Template(dest="d"),
    )

    ((first, second),) = batches(folder, lines)

    assert (first.path, second.path) == ("d/x.bin", "d/b.bin")
    assert second.sources[0] == "https://a.example/pool/b.bin"
    assert [str(one) for one in first.digests] == ["sha256:" + "ab" * 32]


def metalink(count: int) -> bytes:
    files = "".join(
        f'<file name="isos/{number}.iso"><size>{number}</size>'
        f'<hash type="sha-256">{"ab" * 32}</hash>'
        f'<url priority="2">https://two.example/{number}?m</url>'
        f'<url priority="1">https://one.example/{number}</url></file>\n'
        for number in range(count)
    )
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{files}</metalink>'.encode()


def from_metalink(*items: Item, size: SizeRange | None = None, **more) -> TaskGroup:
    return TaskGroup(
        name="packages",
        items=items,
        manifest=Manifest(file="in/x.meta4", format="metalink"),
        rules=Rules(size=size),
        template=Template(**{"dest": "d", **more}),
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_all_that_a_metalink_says_of_a_file_is_used_where_the_job_says_nothing(folder, fresh):
    folder.write("default/in/x.meta4", metalink(2_500))

    made = batches(folder, from_metalink(), fresh=fresh)

    assert [len(batch) for batch in made] == [1000, 1000, 500]
    specs = [spec for batch in made for spec in batch]
    assert [spec.path for spec in specs] == [f"d/isos/{number}.iso" for number in range(2_500)]
    assert [spec.size_bytes for spec in specs] == list(range(2_500))
    assert specs[7].sources == ("https://one.example/7", "https://two.example/7?m")
    assert [str(one) for one in specs[7].digests] == ["sha256:" + "ab" * 32]


def test_what_the_job_says_of_a_file_goes_over_what_its_metalink_says(folder):
    folder.write("default/in/x.meta4", metalink(3))
    when = Condition(text="${item.size} != 1", each=True)

    ((named, skipped, last),) = batches(
        folder, replace(from_metalink(filename="${item.size}-${url.path}"), when=when)
    )
    ((own, *_),) = batches(folder, from_metalink(Item(url="${item.url}", filename="${item.name}")))
    ((small, fits, large),) = batches(
        folder, from_metalink(size=SizeRange(least_bytes=1, most_bytes=1))
    )

    assert (named.path, last.path) == ("d/0-0", "d/2-2")
    assert (named.skip, skipped.skip) == (False, True)
    assert (own.sources, own.path) == (("https://one.example/0",), "d/isos/0.iso")
    assert (own.digests, own.size_bytes) == ((), None)
    assert [fits.problem, large.problem] == [
        None,
        ("bad_item", "x.meta4: item 3: has 2 bytes, `size` allows 1"),
    ]
    assert small.problem is not None


def test_a_metalink_that_is_cut_off_is_read_up_to_there(folder):
    folder.write("default/in/x.meta4", metalink(3)[:-60])

    ((*good, bad),) = batches(folder, from_metalink())

    assert [spec.path for spec in good] == ["d/isos/0.iso", "d/isos/1.iso"]
    assert bad.problem is not None
    assert bad.problem[0] == "bad_manifest"
    assert bad.problem[1].startswith("x.meta4: item 3: the file is cut off")


def test_the_root_is_that_of_the_index_or_the_one_that_is_named(folder):
    folder.write("other/list", b"https://c.example/a\n")
    group = TaskGroup(
        name="packages",
        items=(),
        rules=Rules(root="other"),
        manifest=Manifest(file="list", format="lines"),
    )

    ((spec,),) = batches(folder, group)

    assert spec.sources == ("https://c.example/a",)
    scope = Scope(job_of(from_json()), RUN)
    assert scope.manifest_of(from_json()) == ("default", "in/index.json")
    assert scope.manifest_of(from_json(manifest={"root": "other"}))[0] == "other"


def test_a_manifest_never_leads_out_of_its_root(folder):
    for path in ("../x", "/etc/passwd", "a/../../x", ".fetchd/parts/x"):
        group = TaskGroup(name="packages", items=(), manifest=Manifest(file=path, format="lines"))
        with pytest.raises(AttemptError) as caught:
            batches(folder, group)
        assert caught.value.code == "bad_item"
    assert not folder.opened


def test_a_group_with_a_manifest_outlives_a_restart():
    group = TaskGroup(
        name="g",
        items=(ITEM, Item(url="${item.url}.sig")),
        manifest=Manifest(
            file="f", format="csv", root="r", items="i", pattern="p", delimiter="d", columns=("c",)
        ),
        when=Condition(text="${item.x}", each=True, compares=("a",)),
        may_fail=True,
    )

    assert codec.group_of(codec.group_text(group)) == group


def test_a_condition_that_asks_for_a_task_that_is_not_there_cannot_be_decided(folder):
    when = Condition(text="${needs.other.changed}", compares=("other",))
    group = TaskGroup(name="packages", items=(ITEM,), when=when)

    with pytest.raises(AttemptError) as caught:
        Expander(open_below=folder).decide(job_of(group), group, RUN, {})

    assert caught.value.code == "bad_item"
    assert "unknown variable ${needs.other.changed}" in caught.value.reason


def test_a_condition_is_decided_by_the_content_of_a_file(folder):
    group = TaskGroup(
        name="packages",
        items=(ITEM,),
        when=Condition(text="${needs.index.changed}", compares=("index",)),
    )
    job, expand = job_of(group), Expander(open_below=folder)

    missing = expand.decide(job, group, RUN, {})
    folder.write("default/in/index.json", b"one")
    first = expand.decide(job, group, RUN, {})
    again = expand.decide(job, group, RUN, first.seen)
    folder.write("default/in/index.json", b"two")
    other = expand.decide(job, group, RUN, first.seen)

    assert [one.holds for one in (missing, first, again, other)] == [False, True, False, True]
    assert first.seen == again.seen != other.seen
    assert missing.seen == {}
    assert all(file.closed for file in folder.opened)
