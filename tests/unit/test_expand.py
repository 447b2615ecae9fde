from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetchd.digests import Digest
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand import Expander
from fetchd.expand.lines import split_line
from fetchd.expand.lists import ENDLESS_LINE_BYTES, LONGEST_LINE_BYTES, ListReader, no_list
from fetchd.expand.tasks import Recipe, Scope
from fetchd.model import (
    Item,
    Job,
    ListFile,
    Position,
    Rules,
    Run,
    TaskGroup,
    TaskSpec,
    Template,
    Verify,
)
from fetchd.paths import HIDDEN, clean_folder, clean_path, join_path, shown
from fetchd.threads import Worker
from fetchd.urls import join_url
from harness import FakeClock

NOON_S = 1_795_435_200.0  # 2026-11-23 12:00 UTC
SHA = "sha256:" + "ab" * 32
RUN = Run(id=7, job="iso", revision="r", scheduled_for_s=NOON_S)


def job_of(*groups: TaskGroup, **more) -> Job:
    return Job(
        name="iso", revision="r", groups=groups, timezone=more.pop("timezone", "UTC"), **more
    )


def group_of(*items: Item | str, name: str = "iso", rules: Rules | None = None, **template):
    return TaskGroup(
        name=name,
        items=tuple(item if isinstance(item, Item) else Item(url=item) for item in items),
        template=Template(**template),
        rules=rules or Rules(),
    )


def expand_one(item: Item | str, *others: TaskGroup, variables=None, **template) -> TaskSpec:
    group = group_of(item, **template)
    job = job_of(group, *others, variables=variables or {}, dest=template.get("dest", ""))
    (spec,) = Expander()(job, group, RUN, None).specs
    return spec


def problem_of(item: Item | str, *others: TaskGroup, **template) -> str:
    spec = expand_one(item, *others, **template)
    assert spec.problem is not None, spec
    assert spec.problem[0] == "bad_item"
    return spec.problem[1]


# ---------------------------------------------------------------- items


def test_the_path_is_dest_and_the_last_segment_of_the_url() -> None:
    spec = expand_one("https://example.org/x/a%20b.iso?download=1", dest="isos/")

    assert (
        TaskSpec(
            key="isos/a b.iso",
            path="isos/a b.iso",
            sources=("https://example.org/x/a%20b.iso?download=1",),
        )
        == spec
    )


def test_a_relative_url_is_joined_to_each_base_and_an_absolute_one_to_none() -> None:
    bases = ("https://example.org/r/", "https://example.net/mirror/r")

    relative = expand_one("1.0/a.iso", base=bases)
    rooted = expand_one("/a.iso", base=bases)
    absolute = expand_one("http://example.com/a.iso", base=bases)

    assert relative.sources == (
        "https://example.org/r/1.0/a.iso",
        "https://example.net/mirror/r/1.0/a.iso",
    )
    assert rooted.sources == ("https://example.org/a.iso", "https://example.net/a.iso")
    assert absolute.sources == ("http://example.com/a.iso",)


@settings(derandomize=True, max_examples=200)
@given(
    st.sampled_from(["https://example.org", "https://example.org/a/b;c", "http://[::1]:8/p/"]),
    st.text(alphabet="ab0._-/~%:?#;@", min_size=1, max_size=12),
)
def test_joining_is_always_that_of_rfc_3986(base: str, relative: str) -> None:
    spec = expand_one(relative, base=(base,), filename="x")

    if spec.problem is None and "://" not in relative:
        assert (join_url(base, relative),) == spec.sources


def test_a_base_is_a_folder() -> None:
    spec = expand_one("x.iso", base=("https://example.org/a/../b",))

    assert spec.sources == ("https://example.org/b/x.iso",)
    assert problem_of("x.iso", base=("https://example.org/a?b=c",)) == (
        "iso:1: 'https://example.org/a?b=c' has a query or a fragment; a base is a folder"
    )


def test_variables_are_replaced_everywhere_in_template_and_item() -> None:
    spec = expand_one(
        Item(url="${series}/u.iso", filename="${run.date}/${run.id}-u.iso", checksum="${sum}"),
        base=("https://${host}/${vars.series}/",),
        dest="${job.name}/${task.name}",
        variables={"host": "example.org", "series": "24.04", "sum": SHA},
    )

    assert spec.sources == ("https://example.org/24.04/24.04/u.iso",)
    assert spec.path == "iso/iso/2026-11-23/7-u.iso"
    assert (Digest.parse(SHA),) == spec.digests


def test_a_variable_may_refer_to_those_above_it() -> None:
    spec = expand_one(
        "https://example.org/${name}.iso",
        variables={"series": "24.04", "name": "u-${series}-${run.date}"},
    )

    assert spec.path == "u-24.04-2026-11-23.iso"


def test_a_variable_without_a_value_fails_what_refers_to_it_and_nothing_else() -> None:
    variables = {"name": "u-${series}", "series": "24.04"}

    bad = expand_one("https://example.org/${name}.iso", variables=variables)
    good = expand_one("https://example.org/${series}.iso", variables=variables)

    assert bad.problem == ("bad_item", "iso:1: ${name} has no value")
    assert good.path == "24.04.iso"
    assert Scope(job_of(variables=variables), RUN).bad_variables == {
        "name": "${series} is written below; a variable knows those above it"
    }


def test_the_date_is_that_of_the_schedule_in_the_jobs_timezone() -> None:
    group = group_of("https://example.org/${run.date}.iso")
    run = Run(id=1, job="iso", revision="r", scheduled_for_s=NOON_S + 11.5 * 3600)

    paths = [
        Expander()(job_of(group, timezone=zone), group, run, None).specs[0].path
        for zone in ("America/New_York", "UTC", "Europe/Berlin")
    ]

    assert paths == ["2026-11-23.iso", "2026-11-23.iso", "2026-11-24.iso"]


def test_d12_a_leading_dash_is_a_letter_like_any_other() -> None:
    """No name ever becomes a word of a command."""
    assert expand_one("https://example.org/-rf", dest="-x").path == "-x/-rf"


def test_the_whole_path_of_the_url_may_become_the_file_name() -> None:
    spec = expand_one("https://example.org/a/b%20c/d%2Fe.txt", dest="crawl", filename="${url.path}")

    assert spec.path == "crawl/a/b c/d%2Fe.txt"


def test_the_file_of_another_task_can_be_named() -> None:
    index = group_of("https://example.org/index.json", name="index", dest="meta")
    middle = group_of("https://example.org/x", name="mid", filename="${needs.index.path}.mid")

    spec = expand_one("https://example.org/${needs.mid.path}", index, middle)

    assert spec.sources == ("https://example.org/meta/index.json.mid",)


def test_a_very_long_chain_of_needs_is_followed() -> None:
    groups = [group_of("https://example.org/0.txt", name="g0")]
    groups += [
        group_of(f"https://example.org/${{needs.g{n}.path}}", name=f"g{n + 1}", filename=f"{n + 1}")
        for n in range(3000)
    ]

    specs = Expander()(job_of(*groups), groups[-1], RUN, None).specs

    assert specs[0].sources == ("https://example.org/2999",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "${needs.two.path}",
            "${needs.two.path} exists only for a task with one file, and 'two' has several",
        ),
        (
            "${needs.list.path}",
            "${needs.list.path} exists only for a task with one file, and 'list' has several",
        ),
        (
            "${needs.tow.path}",
            "unknown variable ${needs.tow.path} (did you mean ${needs.two.path}?)",
        ),
        ("${needs.iso.path}", "the path of 'iso' depends on itself"),
        ("${needs.two.changed}", "${needs.two.changed} has a meaning only in if"),
        ("${item.url}", "${item.url} has no meaning here"),
        ("${url.path}", "${url.path} has no meaning here"),
    ],
)
def test_a_name_without_meaning_is_a_bad_item(text: str, expected: str) -> None:
    two = group_of("https://example.org/1", "https://example.org/2", name="two")
    many = TaskGroup(name="list", items=ListFile(path="/nowhere/x.urls"))

    assert f"iso:1: {expected}" == problem_of(f"https://example.org/{text}", two, many)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a.iso", "'a.iso' is not an absolute URL; write http://... or https://..."),
        ("ftp://example.org/a", "the scheme 'ftp' is not fetched; allowed: http, https, file"),
        ("https://example.org/", "the URL's last segment is empty; give a filename"),
        ("https://example.org", "the URL's last segment is empty; give a filename"),
        pytest.param(
            "https://example.org/a%2Fb",
            "the URL's last segment 'a/b' has a slash in it; give a filename",
            id="D12-slash",
        ),
        pytest.param(
            "https://example.org/x/%2e%2e",
            "the URL's last segment is no file name: '..' has the component '..'; give a filename",
            id="D12-dots",
        ),
        pytest.param(
            "https://example.org/a%00b",
            "the URL's last segment is no file name: 'a\\x00b' has a control character; "
            "give a filename",
            id="D12-nul",
        ),
        pytest.param(
            "https://example.org/a%0Ab",
            "the URL's last segment is no file name: 'a\\nb' has a control character; "
            "give a filename",
            id="D12-newline",
        ),
        (
            "https://example.org/.fetchd",
            (
                "the URL's last segment is no file name: '.fetchd' has the component '.fetchd', "
                "which is fetchd's own; give a filename"
            ),
        ),
        (
            "https://example.org/" + "x" * 256,
            (
                "the URL's last segment is no file name: a component of "
                f"'{'x' * 57}...' has 256 bytes; at most 255 fit; give a filename"
            ),
        ),
    ],
)
def test_a_url_without_a_usable_name_asks_for_one(url: str, expected: str) -> None:
    assert f"iso:1: {expected}" == problem_of(url)


def test_digests_of_template_and_item_must_all_hold() -> None:
    md5 = "md5:" + "cd" * 16

    spec = expand_one(Item(url="https://example.org/a", checksum=SHA), checksums=(md5, SHA))

    assert (Digest.parse(md5), Digest.parse(SHA)) == spec.digests
    assert (
        problem_of(
            Item(url="https://example.org/a", checksum="sha256:" + "00" * 32), checksums=(SHA,)
        )
        == "iso:1: two different sha256 checksums for one file"
    )


def test_a_file_name_that_turns_out_to_be_a_checksum_is_not_a_file_name() -> None:
    problem = problem_of(
        Item(url="https://example.org/a", filename="${sum}"), name="iso", variables={"sum": SHA}
    )

    assert f"iso:1: the file name {SHA!r} looks like a checksum" == problem


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item(url="https://example.org/a", checksum="${none}"), "'' is not a checksum"),
        (Item(url="https://example.org/a", filename="${none}"), "it is empty"),
    ],
)
def test_an_empty_variable_does_not_switch_anything_off(item: Item, expected: str) -> None:
    assert expected in problem_of(item, variables={"none": ""})


def test_verify_digest_wants_a_checksum_for_each_item() -> None:
    rules = Rules(verify=Verify.DIGEST)
    group = group_of("https://example.org/a", rules=rules)

    (spec,) = Expander()(job_of(group), group, RUN, None).specs

    assert spec.problem == ("bad_item", "iso:1: has no checksum, and verify: digest asks for one")


BASES = ("https://example.org/r/", "https://example.net/r/")


@pytest.mark.parametrize(
    ("url", "sums", "base", "expected"),
    [
        ("a.iso", "SHA256SUMS", BASES, [f"{base}SHA256SUMS" for base in BASES]),
        ("d/a.iso", "SHA256SUMS", BASES, [f"{base}SHA256SUMS" for base in BASES]),
        ("d/a.iso", "../SUMS", BASES, ["https://example.org/SUMS", "https://example.net/SUMS"]),
        ("d/a.iso", "${url}.sha256", BASES, [f"{base}d/a.iso.sha256" for base in BASES]),
        ("https://h.example/d/a.iso", "SHA256SUMS", (), ["https://h.example/d/SHA256SUMS"]),
        ("https://h.example/d/a.iso?k=v", "SUMS?k=v", (), ["https://h.example/d/SUMS?k=v"]),
        ("https://h.example/d/a.iso", "/SUMS", (), ["https://h.example/SUMS"]),
        ("https://h.example/a.iso", "${url}.md5", (), ["https://h.example/a.iso.md5"]),
        ("https://h.example/a.iso", "${url}.md5", BASES, ["https://h.example/a.iso.md5"]),
        ("https://h.example/a.iso", "SUMS", BASES, [f"{base}SUMS" for base in BASES]),
        ("a.iso", "https://sums.example/S", BASES, ["https://sums.example/S"]),
        ("a.iso", "/sums/${url.path}", BASES[:1], ["https://example.org/sums/r/a.iso"]),
        ("a.iso", "${run.date}/${v}", BASES[:1], ["https://example.org/r/2026-11-23/SUMS"]),
    ],
)
def test_the_sums_file_has_a_url_for_each_source_in_their_order(url, sums, base, expected) -> None:
    spec = expand_one(url, variables={"v": "SUMS"}, base=base, sums=sums)

    assert (spec.problem, list(spec.sums)) == (None, expected)


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ("${empty}", "is empty"),
        ("ftp://h.example/SUMS", "the scheme 'ftp' is not fetched; allowed: http, https"),
        ("SHA256 SUMS", "the URL has the character ' ' at position"),
        ("${url}.${nope}", "unknown variable ${nope}"),
        ("https://me@h.example/SUMS", "user name and password may not stand in a URL"),
    ],
)
@pytest.mark.parametrize("base", [(), BASES])
def test_a_sums_file_that_cannot_be_asked_for_is_told_at_once(sums, expected, base) -> None:
    item = Item(url="https://example.org/a.iso")
    group = group_of(item, base=base, sums=sums)

    (spec,) = Expander()(job_of(group, variables={"empty": ""}), group, RUN, None).specs

    assert spec.problem is not None
    assert expected in spec.problem[1]


def test_every_line_of_a_list_has_the_sums_of_its_group(tmp_path: Path) -> None:
    path = tmp_path / "l.urls"
    path.write_text("https://example.org/a/x\nhttps://example.org/b/y\n")
    items = ListFile(path=str(path))
    group = TaskGroup(name="l", items=items, template=Template(sums="SUMS"))

    specs = Expander()(job_of(group), group, RUN, None).specs

    assert [spec.sums for spec in specs] == [
        ("https://example.org/a/SUMS",),
        ("https://example.org/b/SUMS",),
    ]


def test_a_sums_file_is_enough_for_verify_digest() -> None:
    rules = Rules(verify=Verify.DIGEST)
    group = group_of("https://example.org/a", rules=rules, sums="SUMS")

    (spec,) = Expander()(job_of(group), group, RUN, None).specs

    assert spec.problem is None


def test_a_bad_template_makes_every_item_a_bad_one_with_a_path_of_its_own() -> None:
    group = group_of("https://example.org/a", "https://example.org/b", dest="../x")

    specs = Expander()(job_of(group), group, RUN, None).specs

    assert [spec.path for spec in specs] == ["./iso:1", "./iso:2"]
    assert all(spec.problem and "has the component '..'" in spec.problem[1] for spec in specs)


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("u", ("u", None, None)),
        ("u name", ("u", "name", None)),
        ("u   sub/name", ("u", "sub/name", None)),
        (f"u {SHA}", ("u", None, SHA)),
        (f"u name {SHA}", ("u", "name", SHA)),
        (f"u\ta name\t{SHA}", ("u", "a name", SHA)),
        (f"u\t\t{SHA}", ("u", None, SHA)),
        ("u\ta name", ("u", "a name", None)),
        ("u sha265:ab", ("u", None, "sha265:ab")),
        ("u sha256:", ("u", None, "sha256:")),
        ("u SHA256:xyz", ("u", None, "SHA256:xyz")),
        ("u model:latest", ("u", "model:latest", None)),
        ("u ${sum}", ("u", "${sum}", None)),
        ("u sha256:${sum}", ("u", None, "sha256:${sum}")),
        ("u a b", ("u", "a", "b")),
    ],
)
def test_a_line_is_url_file_name_and_checksum(line: str, expected: tuple[str, ...]) -> None:
    assert expected == split_line(line)


@pytest.mark.parametrize("line", ["a b c d", "\tname", "u\tn\ts\tx"])
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValueProblem, match=r"write URL \[filename\] \[algorithm:hex\]"):
        split_line(line)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc/passwd", "'/etc/passwd' is absolute; write a path below the root"),
        ("a/../b", "'a/../b' has the component '..'"),
        ("./a", "'./a' has the component '.'"),
        ("a//b", "'a//b' has an empty component"),
        ("a/", "'a/' has an empty component"),
        ("", "it is empty"),
        ("a\nb", "'a\\nb' has a control character"),
        ("a\x85b", "'a\\x85b' has a control character"),
        (".fetchd/parts/x", "'.fetchd/parts/x' has the component '.fetchd', which is fetchd's own"),
        ("mnt/.Fetchd", "'mnt/.Fetchd' has the component '.fetchd', which is fetchd's own"),
        ("é" * 128, f"a component of '{'é' * 57}...' has 256 bytes; at most 255 fit"),
        ("a/" * 2000 + "a", "the path has 4001 bytes; at most 4000 fit"),
        ("\ud800", "'\\ud800' is not valid Unicode"),
    ],
)
def test_a_path_that_could_surprise_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        clean_path(text)

    assert expected == str(caught.value)


def test_a_folder_may_end_in_a_slash_and_be_the_root() -> None:
    assert [clean_folder(t) for t in ("isos", "isos/", "a/b/", "")] == ["isos", "isos", "a/b", ""]
    for text in ("/", ".", "isos//", "/isos"):
        with pytest.raises(ValueProblem):
            clean_folder(text)


def test_one_path_has_one_form() -> None:
    assert clean_path("\udcc3\udca9") == "é"


@settings(derandomize=True, max_examples=200)
@given(
    st.text(alphabet=st.sampled_from("ab./\\\x00\x1f \udc80é~\u202e"), max_size=12),
    st.text(alphabet=st.sampled_from("ab./\\\x00\x1f \udc80é~\u202e"), max_size=12) | st.text(),
)
def test_a_cleaned_path_never_leaves_the_root(folder: str, name: str) -> None:
    try:
        path = join_path(clean_folder(folder), name)
    except ValueProblem:
        return

    data = os.fsencode(path)
    assert os.path.normpath(data) == data
    assert not data.startswith((b"/", b"../"))
    assert os.fsdecode(data) == path
    assert all(
        0 < len(part) <= 255 and part not in {b".", b"..", os.fsencode(HIDDEN)}
        for part in data.split(b"/")
    )
    assert not any(byte < 32 or byte == 127 for byte in data)


# ---------------------------------------------------------------- lists


def read_all(path: Path, expander: Expander | None = None, **template) -> list[TaskSpec]:
    group = TaskGroup(name="x", items=ListFile(path=str(path)), template=Template(**template))
    expander = expander or Expander()
    specs: list[TaskSpec] = []
    job, position = job_of(group), None
    while True:
        batch = expander(job, group, RUN, position)
        specs += batch.specs
        position = batch.position
        if position is None:
            return specs


def test_a_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    path.write_bytes(
        b"\xef\xbb\xbfhttps://example.org/a\r\n"
        b"# a comment\n"
        b"\n"
        b"  https://example.org/b sub/name.bin " + SHA.encode() + b"\n"
        b"https://example.org/${run.id}\n"
        b"https://example.org/c%7B\tna me"
    )

    specs = read_all(path)

    assert [spec.path for spec in specs] == ["a", "sub/name.bin", "./x.urls:5", "na me"]
    assert (Digest.parse(SHA),) == specs[1].digests
    assert specs[2].problem is not None


def test_a_bad_line_is_a_bad_item_and_hurts_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    lines = [
        b"https://example.org/1",
        b"\xff\xfe",
        b"nothing",
        b"a b c d e",
        b"https://example.org/2",
    ]
    path.write_bytes(b"\n".join(lines))

    specs = read_all(path)

    assert [spec.problem for spec in specs] == [
        None,
        ("bad_item", "x.urls:2: the line is not valid UTF-8"),
        (
            "bad_item",
            "x.urls:3: 'nothing' is not an absolute URL; write http://... or https://...",
        ),
        (
            "bad_item",
            (
                "x.urls:4: the line has 5 fields; write URL [filename] [algorithm:hex], "
                "with a TAB between the fields if a name has spaces"
            ),
        ),
        None,
    ]
    assert len({spec.key for spec in specs}) == len(specs)


def test_a_line_too_long_for_memory_is_one_bad_item(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    long = b"https://example.org/" + b"x" * (3 * LONGEST_LINE_BYTES)
    path.write_bytes(b"https://example.org/1\n" + long + b"\nhttps://example.org/3\n")

    specs = read_all(path)

    assert [spec.problem for spec in specs] == [
        None,
        ("bad_item", "x.urls:2: the line is longer than 64 KiB"),
        None,
    ]


@pytest.mark.parametrize("end", [b"", b"\nhttps://example.org/3\n"], ids=["image", "goes on"])
def test_a_line_without_end_ends_the_list_and_is_read_no_further(
    tmp_path: Path, end: bytes
) -> None:
    path = tmp_path / "x.urls"
    path.write_bytes(b"https://example.org/1\n")
    os.truncate(path, 20 * ENDLESS_LINE_BYTES)
    with path.open("ab") as file:
        file.write(end)
    before_bytes = read_bytes()

    good, bad = read_all(path)

    assert read_bytes() - before_bytes < 2 * ENDLESS_LINE_BYTES
    assert good.problem is None
    assert bad.problem is not None
    code, reason = bad.problem
    assert code == "bad_item"
    assert reason.startswith("x.urls:2: the line has no end within 16 MiB, so this is no list")


def read_bytes() -> int:
    """Return how much this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_long_line_beats_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    path.touch()
    os.truncate(path, ENDLESS_LINE_BYTES)
    beats: list[float | None] = []
    specs: list[TaskSpec] = []

    class Counted(Worker):
        def beat(self, within_s: float | None = None) -> None:
            beats.append(within_s)

    worker = Counted("x", lambda _: specs.extend(read_all(path)), FakeClock(), lambda *_: None)
    worker.start()

    assert worker.join(30)
    assert len(specs) == 1
    assert len(beats) >= 100


def test_an_empty_list_has_no_tasks(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    path.write_bytes(b"")

    assert read_all(path) == []


def test_another_process_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    text = "".join(f"https://example.org/{n}\n" for n in range(25))
    path.write_text(text)
    group = TaskGroup(name="x", items=ListFile(path=str(path)))
    first = Expander(ListReader(batch_tasks=10))(job_of(group), group, RUN, None)

    second = Expander(ListReader(batch_tasks=10))(job_of(group), group, RUN, first.position)

    prefix = "".join(text.splitlines(keepends=True)[:10])
    assert (
        Position(
            offset_bytes=len(prefix),
            prefix_sha256=hashlib.sha256(prefix.encode()).hexdigest(),
            lines=10,
        )
        == first.position
    )
    assert [str(n) for n in range(10, 20)] == [spec.path for spec in second.specs]
    assert second.position is not None
    assert second.position.lines == 20


def test_reasons_can_be_encoded_whatever_the_list_is_called(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.urls")
    path.write_bytes(b"https://example.org/1\nnothing\n")
    expander = Expander(ListReader(batch_tasks=1))
    group = TaskGroup(name="x", items=ListFile(path=str(path)))
    position = expander(job_of(group), group, RUN, None).position

    _, bad = read_all(path)
    path.write_bytes(b"https://example.org/2\nnothing\n")
    with pytest.raises(AttemptError) as edited:
        expander(job_of(group), group, RUN, position)
    path.unlink()
    with pytest.raises(AttemptError) as removed:
        expander(job_of(group), group, RUN, None)

    assert bad.problem is not None
    assert bad.problem[1].startswith(r"caf\xe9.urls:2: 'nothing' is not an absolute URL")
    assert edited.value.reason.startswith(r"caf\xe9.urls was edited")
    assert removed.value.reason.startswith(r"caf\xe9.urls was removed")


@given(text=st.text(st.characters(exclude_categories=())))
@settings(derandomize=True, max_examples=200)
def test_every_text_can_be_shown(text: str) -> None:
    assert shown(text).encode().decode() == shown(text)


@pytest.mark.parametrize("same_reader", [True, False])
def test_an_edited_list_is_noticed(tmp_path: Path, same_reader: bool) -> None:
    path = tmp_path / "x.urls"
    path.write_text("".join(f"https://example.org/{n}\n" for n in range(25)))
    group = TaskGroup(name="x", items=ListFile(path=str(path)))
    expander = Expander(ListReader(batch_tasks=10))
    position = expander(job_of(group), group, RUN, None).position
    path.write_text("".join(f"https://example.org/{n}\n" for n in range(1, 26)))
    os.utime(path, (1, 1))

    with pytest.raises(AttemptError, match=r"x\.urls was edited above line 11") as caught:
        (expander if same_reader else Expander())(job_of(group), group, RUN, position)

    assert caught.value.code == "list_changed"


@pytest.mark.parametrize("change", ["vanished", "shortened", "folder"])
def test_a_list_that_is_not_what_it_was_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "x.urls"
    path.write_text("".join(f"https://example.org/{n}\n" for n in range(25)))
    group = TaskGroup(name="x", items=ListFile(path=str(path)))
    expander = Expander(ListReader(batch_tasks=10))
    position = expander(job_of(group), group, RUN, None).position
    if change == "shortened":
        path.write_text("https://example.org/0\n")
    else:
        path.unlink()
    if change == "folder":
        path.mkdir()

    with pytest.raises(AttemptError) as caught:
        expander(job_of(group), group, RUN, position)

    assert caught.value.code == "list_changed"


def test_many_comments_end_a_batch_too(tmp_path: Path) -> None:
    path = tmp_path / "x.urls"
    path.write_bytes((b"#" * 1023 + b"\n") * 5000 + b"https://example.org/a\n")
    group = TaskGroup(name="x", items=ListFile(path=str(path)))

    batch = Expander()(job_of(group), group, RUN, None)

    assert batch.specs == ()
    assert batch.position is not None
    assert [spec.path for spec in read_all(path)] == ["a"]


# ---------------------------------------------------------------- lists of checksums

HEX = "ab" * 32


def sums_of(path: Path, *, batch: int = 1000, **template) -> list[TaskSpec]:
    """All tasks, each batch read by a process of its own."""
    listed = ListFile(path=str(path), format="sums")
    template = {"base": ("https://one.example/d/", "https://two.example/"), **template}
    group = TaskGroup(name="x", items=listed, template=Template(**template))
    specs: list[TaskSpec] = []
    position: Position | None = None
    while True:
        recipe = Recipe(Scope(job_of(group), RUN), group)
        read = ListReader(batch_tasks=batch).read(listed, recipe, position)
        specs += read.specs
        position = read.position
        if position is None:
            return specs


SIGNED = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{HEX}  a.iso
# a comment
SHA512 (sub/b c.iso) = {"cd" * 64}

{HEX} *./d.iso
- {HEX}  e.iso
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCgAdFiEEe
=abcd
-----END PGP SIGNATURE-----
{HEX}  behind.iso
"""


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_each_line_of_a_sums_file_is_a_file_below_the_base(tmp_path: Path, batch: int) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(b"\xef\xbb\xbf" + SIGNED.replace("\n", "\r\n").encode())

    specs = sums_of(path, batch=batch, dest="isos", filename="not used")

    assert [spec.path for spec in specs] == [
        f"isos/{name}" for name in ("a.iso", "sub/b c.iso", "d.iso", "e.iso", "behind.iso")
    ]
    assert specs[1].sources == (
        "https://one.example/d/sub/b%20c.iso",
        "https://two.example/sub/b%20c.iso",
    )
    assert specs[1].digests == (Digest("sha512", "cd" * 64),)
    assert all(spec.problem is None for spec in specs)


def test_a_line_that_is_no_file_to_fetch_is_a_bad_item_and_hurts_no_other(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS"
    names = ["../up", "/abs", "//evil.example/x", "x/.fetchd/y"]
    lines = ["nonsense", HEX, "ab  x", *(f"{HEX}  {name}" for name in names)]
    lines += [f"SHA256 (x) = {HEX[2:]}", f"{HEX}  http://evil.example/x", f"{HEX}  good"]
    path.write_text("\n".join(lines))

    assert [spec.problem and spec.problem[1] for spec in sums_of(path)] == [
        "SHA256SUMS:1: 'nonsense' is no checksum and a name",
        "SHA256SUMS:2: the checksum has no name behind it",
        "SHA256SUMS:3: 'ab  x' is no checksum and a name",
        "SHA256SUMS:4: '../up' has the component '..'",
        "SHA256SUMS:5: '/abs' is absolute; write a path below the root",
        "SHA256SUMS:6: '//evil.example/x' is absolute; write a path below the root",
        "SHA256SUMS:7: 'x/.fetchd/y' has the component '.fetchd', which is fetchd's own",
        f"SHA256SUMS:8: 'SHA256 (x) = {HEX[:47]}' is no checksum and a name",
        "SHA256SUMS:9: 'http://evil.example/x' has an empty component",
        None,
    ]


def test_a_lone_checksum_is_that_of_the_file_that_it_is_called_after(tmp_path: Path) -> None:
    path = tmp_path / "tool 1.7.iso.sha256"
    path.write_text(f"{HEX}\n")

    (spec,) = sums_of(path)

    assert (spec.path, spec.sources[0]) == ("tool 1.7.iso", "https://one.example/d/tool%201.7.iso")
    assert spec.digests == (Digest("sha256", HEX),)


def test_a_signature_without_end_is_passed_over_no_longer_than_one_is(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS"
    lines = ["-----BEGIN PGP SIGNATURE-----", *["A" * 63] * 1024, f"{HEX}  behind"]
    path.write_text("\n".join(lines))

    assert [spec.path for spec in sums_of(path, batch=1)] == ["behind"]


def test_no_batch_ends_within_a_signature(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS"
    comment = "#" * 1023 + "\n"
    signature = (
        f"-----BEGIN PGP SIGNATURE-----\n{'A' * 60}\n{'A' * 60}\n-----END PGP SIGNATURE-----\n"
    )
    path.write_text(comment * (4 * 1024 - 1) + "#" * 990 + "\n" + signature + f"{HEX}  behind\n")

    assert [(spec.path, spec.problem) for spec in sums_of(path)] == [("behind", None)]


@pytest.mark.parametrize(
    ("head", "fits"),
    [
        (b"", True),
        (b"# nothing yet\n", True),
        (SIGNED.encode(), True),
        (b"junk\n" + HEX.encode() + b"  x", True),
        (b"<html>\n<p>404\n", False),
        (b"\x7fELF\0\0", False),
        (b"x" * (LONGEST_LINE_BYTES + 1), False),
        (b"junk\n" * LONGEST_LINE_BYTES, False),
    ],
)
def test_what_does_not_begin_like_checksums_is_refused_as_a_whole(head: bytes, fits: bool) -> None:
    assert (no_list("sums", head) == "") is fits


@settings(
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from(SIGNED.encode().split(b"\n")) | st.binary(max_size=90), max_size=14),
    st.integers(1, 4),
)
def test_any_lines_of_a_sums_file_give_the_same_tasks_in_batches_of_any_size(
    tmp_path: Path, lines: list[bytes], size: int
) -> None:
    path = tmp_path / "x.sha256"
    path.write_bytes(b"\n".join(lines))

    whole = sums_of(path)

    assert sums_of(path, batch=size) == whole
    for spec in whole:
        assert (spec.problem is None) is bool(spec.sources)
        assert all(url.startswith("https://one.example/d/") for url in spec.sources[:1])


LINES = st.lists(
    st.sampled_from(
        [
            b"https://example.org/a",
            b"https://example.org/b name " + SHA.encode(),
            b"",
            b"# note",
            b"bad one",
            b"\xff",
            b"x" * (LONGEST_LINE_BYTES + 5),
            b"\xef\xbb\xbf",
        ]
    )
    | st.binary(max_size=20),
    max_size=12,
)


@settings(
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(LINES, st.integers(1, 5), st.booleans())
def test_batches_of_any_size_give_what_one_pass_gives(
    tmp_path: Path, lines: list[bytes], size: int, restarts: bool
) -> None:
    path = tmp_path / "x.urls"
    path.write_bytes(b"\n".join(lines))
    listed = ListFile(path=str(path))
    group = TaskGroup(name="x", items=listed)
    job = job_of(group)
    reader = ListReader(batch_tasks=size)

    specs: list[TaskSpec] = []
    position: Position | None = None
    for _ in range(100):
        batch = reader.read(listed, Recipe(Scope(job, RUN), group), position)
        specs += batch.specs
        position = batch.position
        if position is None:
            break
        if restarts:
            reader = ListReader(batch_tasks=size)

    assert position is None
    assert read_all(path) == specs
    meant = [line for line in path.read_bytes().split(b"\n") if _means_something(line)]
    assert len(meant) >= len(specs) >= len(meant) - 1  # a BOM alone may be the first line


def _means_something(line: bytes) -> bool:
    """Tell whether a line is a task: what is not UTF-8 is a failed one, in a comment too."""
    try:
        text = line.decode().strip(" \t\r\n")
    except UnicodeDecodeError:
        return True
    return bool(text) and not text.startswith("#")
