"""Power cuts: what was told to be done is there, whole and once; and the rig that says so bites."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import pytest

from faults.power_cut import Disk, cut_at, cut_power, why_not

SABOTAGED = str(Path(__file__).parents[1] / "faults" / "sabotaged.py")


@lru_cache(maxsize=1)
def reason() -> str:
    return why_not()


@pytest.fixture(autouse=True)
def _rig():
    if reason():
        pytest.skip(reason())


def test_the_rig_keeps_what_was_synced_and_forgets_the_rest(tmp_path):
    live, cut = (Disk(tmp_path / f"{name}.image", tmp_path / name) for name in ("live", "cut"))
    live.make()
    live.mount()
    folder = os.open(live.mounted_at, os.O_RDONLY)

    def write(name: str, *, sync: bool) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
        os.write(fd, b"body")
        if sync:
            os.fsync(fd)
        os.close(fd)

    try:
        write("no-folder-sync.part", sync=True)
        write("all-synced.part", sync=True)
        os.rename("all-synced.part", "all-synced", src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        os.rename("no-folder-sync.part", "no-folder-sync", src_dir_fd=folder, dst_dir_fd=folder)
        write("nothing-synced", sync=False)
        cut.image.write_bytes(live.image.read_bytes())
        cut.mount()
        found = {p.name: p.read_bytes() for p in cut.mounted_at.iterdir() if p.is_file()}
    finally:
        os.close(folder)
        cut.unmount()
        live.unmount()

    assert found == {"all-synced": b"body", "no-folder-sync.part": b"body"}


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param("publish.intended", id="D14-before-the-file-is-synced"),
        pytest.param("publish.synced", id="D14-before-the-rename"),
        pytest.param("publish.renamed", id="D14-before-the-folder-is-synced"),
    ],
)
def test_a_power_cut_while_files_are_published_leaves_none_or_whole_ones(tmp_path, failpoint):
    result = cut_at(tmp_path, failpoint)

    assert result.wrong == []


@pytest.mark.parametrize("failpoint", ["publish.renamed", "publish.visible"])
def test_d14_without_syncs_what_a_power_cut_tears_of_a_file_under_way_is_fetched_again(
    tmp_path, failpoint
):
    result = cut_at(tmp_path, failpoint, durability="none")

    assert result.torn
    assert result.wrong == []


def test_a_power_cut_behind_the_claim_of_a_list_loses_no_line_of_it(tmp_path):
    result = cut_at(tmp_path, "folder.claimed", kinds=["urls"])

    assert result.wrong == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_s09_p1_p2_four_power_cuts_take_back_nothing_that_was_acknowledged(tmp_path):
    result = cut_power(tmp_path, cuts=4, seed=14)

    assert result.wrong == []
    assert result.done


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_s09_p1_p2_a_hundred_power_cuts_take_back_nothing_that_was_acknowledged(tmp_path):
    result = cut_power(tmp_path, cuts=100, seed=9)

    assert result.wrong == []
    assert result.accepted > 100
    assert result.done > 300


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["file-sync", "folder-sync", "store-sync"])
def test_without_a_sync_the_rig_finds_a_loss_within_fifteen_cuts(tmp_path, what):
    result = cut_power(tmp_path, 15, seed=1, program=(SABOTAGED, what), until_wrong=True)

    assert result.wrong
