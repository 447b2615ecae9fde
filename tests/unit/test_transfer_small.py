"""Every rule of a transfer where the disk is known to have plenty of room.

Then a small file takes its short way, and all others begin with it.
"""

from __future__ import annotations

import errno

import pytest

from fetchd.disk import space
from fetchd.model import Deferred
from unit import test_transfer as usual

KIB = usual.KIB
#: They make by themselves what the room has to be known by, or change it unseen.
_OF_ANOTHER_DISK = {
    "test_d04_what_cannot_be_kept_aside_is_discarded",
    "test_n12_a_file_that_would_not_fit_on_an_empty_disk_is_refused_unread",
}
globals().update(
    {
        name: test
        for name, test in vars(usual).items()
        if name.startswith("test_") and name not in _OF_ANOTHER_DISK
    }
)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "_AMPLE_BYTES", 0)
    made = usual.Bench(tmp_path)
    with made.disk.open_part("default", "other") as other:
        other.claim(0)
        other.discard()
    yield made
    made.disk.close()


def test_a_large_file_goes_on_with_the_answer_that_came_on_the_short_way(bench):
    bench.origin.data = usual.DATA

    assert bench.publish(bench.fetch()) == usual.DATA
    assert len(bench.origin.requests) == 1


def test_d13_an_answer_is_left_where_somebody_has_begun_the_part_since(bench):
    bench.origin.data = usual.DATA
    asked = bench.origin.open

    def ask_while_it_is_begun(request, wanted):
        bench.part = bench.disk.open_part("default", "a.bin")
        bench.part.__enter__()
        return asked(request, wanted)

    bench.origin.open = ask_while_it_is_begun
    outcome = bench.fetch()  # and all streams are closed
    bench.part.__exit__(None, None, None)

    assert isinstance(outcome, Deferred)
    assert outcome.reason == "same_dest"


def test_an_answer_is_left_where_somebody_has_kept_the_beginning_since(bench):
    bench.origin.data = usual.DATA
    asked = bench.origin.open

    def ask_behind_another(request, wanted):
        bench.origin.open = asked
        bench.break_off(usual.CUT)
        return asked(request, wanted)

    bench.origin.open = ask_behind_another
    outcome = bench.fetch()

    assert bench.publish(outcome) == usual.DATA
    assert outcome.intent.resumed_from_bytes == usual.CUT
    assert bench.origin.starts == [0, usual.CUT]


def test_d01_a_small_file_waits_where_the_disk_is_full_all_the_same(bench):
    bench.origin.data = usual.some_bytes(4 * KIB)
    bench.system.faults["write"] = [errno.ENOSPC]

    outcome = bench.fetch()

    assert isinstance(outcome, Deferred)
    assert outcome.reason == "disk"
    assert bench.parts == []
    assert bench.publish(bench.fetch()) == bench.origin.data
