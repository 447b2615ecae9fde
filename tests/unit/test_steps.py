"""The small steps: decompress, concat, checksum_file, symlink; variables in their options."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from dataclasses import replace

import pytest

from fetchd.errors import DocumentError
from fetchd.model import Finished, IfExists, Matrix
from unit.test_extract import COMPRESSIONS, WHOLE, tar
from unit.test_jobfile_steps import URL, told
from workshop import Workshop, steps_of

MIB = 1024 * 1024


@pytest.fixture
def shop(tmp_path):
    made = Workshop(tmp_path / "root")
    yield made
    made.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- decompress


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_what_a_packed_file_holds_comes_in_its_place_with_its_date(shop, name):
    assert shop.make(f"d/a.csv.{name}", COMPRESSIONS[name](b"1,2\n"), "decompress") == {
        "d/a.csv": b"1,2\n"
    }
    assert (shop.folder / "d/a.csv").stat().st_mtime == 1_700_000_000


def test_a_packed_file_can_be_given_any_name(shop):
    packed = gzip.compress(b"x")

    assert shop.make("a", packed, {"decompress": {"name": "b.csv"}}) == {"b.csv": b"x"}
    assert shop.refuse("c", packed, "decompress").code == "step_failed"
    assert shop.refuse(".gz", packed, "decompress").code == "step_failed"


def test_a05_a_packed_file_that_is_cut_or_none_is_refused(shop):
    for data in (gzip.compress(b"x" * 1000)[:-5], b"plain text", b""):
        assert shop.refuse("a.gz", data, "decompress").code == "archive_bad"


def test_a04_what_comes_out_of_a_packed_file_is_limited(shop):
    bomb = gzip.compress(bytes(80 * MIB))

    assert shop.refuse("a.gz", bomb, "decompress").code == "archive_too_large"
    few = {"decompress": {"max_bytes": "10"}}
    assert shop.refuse("a.gz", gzip.compress(b"x" * 11), few).code == "archive_too_large"


# ---------------------------------------------------------------- concat


def test_files_become_one_in_the_order_of_their_numbers(shop):
    parts = tar("p-10", "p-9", "p-1")

    assert shop.make("a", parts, "extract", {"concat": "whole"}) == {"whole": b"p-1p-9p-10"}


# ---------------------------------------------------------------- checksum_file


def test_a_file_gets_its_checksum_beside_it_as_sha256sum_reads_it(shop):
    found = shop.make("d/a.iso", b"data", "checksum_file")

    assert found == {
        "d/a.iso": b"data",
        "d/a.iso.sha256": f"{sha256(b'data')}  a.iso\n".encode(),
    }
    check = ["sha256sum", "--strict", "-c", "a.iso.sha256"]
    assert subprocess.run(check, cwd=shop.folder / "d", check=False).returncode == 0


def test_several_files_get_one_file_of_checksums(shop):
    options = {"algorithm": "md5"}
    found = shop.make("d/a", tar("x", "y z/ü"), "extract", {"checksum_file": options})

    assert set(found) == {"d/x", "d/y z/ü", "d/MD5SUMS"}
    check = ["md5sum", "--strict", "-c", "MD5SUMS"]
    assert subprocess.run(check, cwd=shop.folder / "d", check=False).returncode == 0


def test_names_with_a_backslash_are_escaped_as_sha256sum_does(shop):
    shop.make("a\\b", b"data", {"checksum_file": {"name": "SUMS"}})

    check = ["sha256sum", "--strict", "-c", "SUMS"]
    assert subprocess.run(check, cwd=shop.folder, check=False).returncode == 0


def test_a_name_of_the_checksum_file_that_is_taken_is_told(shop):
    failure = shop.refuse("a", b"data", {"checksum_file": {"name": "a"}})

    assert (failure.code, "name" in failure.reason) == ("step_failed", True)


# ---------------------------------------------------------------- symlink


def test_a_link_leads_to_the_one_name_that_is_there_and_is_replaced(shop):
    for version in ("1", "2"):
        shop.make(f"d/{version}.tar", tar(f"v{version}/x"), "extract", {"symlink": "current"})
        assert (shop.folder / "d/current").readlink().name == f"v{version}"

    assert (shop.folder / "d/current/x").read_bytes() == b"v2/x"
    assert (shop.folder / "d/v1/x").read_bytes() == b"v1/x"
    assert shop.disk.stands(
        "default", "d/2.tar", steps_of("extract", {"symlink": "current"}), same=True
    )


def test_a_link_gets_its_name_after_what_it_leads_to(shop):
    named = []
    rename = shop.disk._system.rename

    def note(src, dst, **more):
        named.append(dst)
        rename(src, dst, **more)

    shop.disk._system.rename = note

    shop.make("a", tar("z/x"), "extract", {"symlink": "a-link"})

    assert [name for name in named if name in {"z", "a-link"}][-2:] == ["z", "a-link"]


def test_where_a_link_leads_has_to_be_said_if_several_could_be_meant(shop):
    failure = shop.refuse("a", tar("x", "y"), "extract", {"symlink": "current"})
    assert "`to`" in failure.reason

    shop.make("a", tar("x", "y"), "extract", {"symlink": {"name": "current", "to": "y"}})
    assert (shop.folder / "current").read_bytes() == b"y"


@pytest.mark.parametrize("to", ["/etc/passwd", "../x", "a/../../x", "."])
def test_a02_no_link_leads_out_of_its_folder(shop, to):
    with pytest.raises(DocumentError):
        steps_of({"symlink": {"name": "l", "to": to}})


def test_a02_no_variable_makes_a_link_lead_out_of_its_folder(shop):
    attempt = shop.verified("a", b"x", steps_of({"symlink": {"name": "l", "to": "${v}"}}))
    evil = replace(attempt.job, variables={"v": "../x"})

    failure = shop.finisher(replace(attempt, job=evil))

    assert failure.code == "step_failed"


def test_if_exists_fail_holds_for_links_too(shop):
    (shop.folder / "l").symlink_to("old")

    failure = shop.refuse("a", b"x", {"symlink": {"name": "l"}}, if_exists=IfExists.FAIL)

    assert failure.code == "exists"


# ---------------------------------------------------------------- variables


def test_variables_are_put_in_when_a_step_is_taken(shop):
    found = shop.make(
        "d/a.gz", gzip.compress(b"x"), {"decompress": {"name": "${job.name}-${run.id}"}}
    )

    assert found == {"d/j-1": b"x"}


def test_steps_know_of_a_matrix_and_an_item_what_is_recorded_with_the_task(shop):
    steps = steps_of({"concat": "${arch}-${matrix.arch}-${item.version}-${item.day:%d}"})
    attempt = shop.verified("d/a", b"x", steps)
    group = replace(attempt.group, matrix=Matrix(axes=(("arch", ("a", "b")),)))
    values = (("arch", "b"), ("item.day", "2026-11-23"), ("item.version", "1.10"))
    spec = replace(attempt.task.spec, values=values)
    attempt = replace(attempt, group=group, task=replace(attempt.task, spec=spec))

    assert isinstance(shop.finisher(attempt), Finished)
    assert (shop.folder / f".fetchd/staging/{attempt.intent.part}/tree/b-b-1.10-23").is_file()


@pytest.mark.parametrize("value", ["", "..", "a/b", "a\nb", "a" * 256, "\ud800"])
def test_a01_a_value_that_makes_no_name_fails_its_task_and_names_the_option(shop, value):
    attempt = shop.verified("d/a", b"x", steps_of({"concat": "${item.v}"}))
    spec = replace(attempt.task.spec, values=(("item.v", value),))

    failure = shop.finisher(replace(attempt, task=replace(attempt.task, spec=spec)))

    assert (failure.code, failure.transient, failure.kept) == ("step_failed", False, True)
    assert failure.reason.startswith("concat: name: ")
    assert shop.seen() == {}


def test_a_value_of_the_matrix_that_nobody_recorded_says_how_it_is(shop):
    attempt = shop.verified("d/a", b"x", steps_of({"concat": "${arch}"}))
    group = replace(attempt.group, matrix=Matrix(axes=(("arch", ("a", "b")),)))

    failure = shop.finisher(replace(attempt, group=group))

    assert failure.code == "step_failed"
    assert failure.reason == "concat: name: ${arch} is not kept; name it in an option of the step"


def test_an_unknown_variable_in_an_option_is_told_when_the_file_is_accepted():
    assert told(URL + "steps:\n  - symlink: { name: 'x-${nope}' }\n") == [
        (
            "iso.yaml:3:22: steps[0].symlink.name: unknown variable ${nope}; known here: run.id, "
            "run.date, job.name, url, url.path, job.dest, task.name"
        )
    ]


def test_an_archive_can_be_made_of_parts_and_extracted(shop):
    parts = tar(*[_part(n) for n in range(3)])

    found = shop.make("a", parts, "extract", {"concat": "whole.tar"}, "extract")
    assert set(found) == {"x", "y"}


def _part(number: int):
    import tarfile

    third = -(-len(WHOLE) // 3)
    data = WHOLE[number * third : (number + 1) * third]
    info = tarfile.TarInfo(f"part{number}")
    info.size = len(data)
    return info, data
