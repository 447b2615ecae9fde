from __future__ import annotations

import time
from pathlib import Path

import pytest

from fetchd.clock import SystemClock
from fetchd.config import load
from fetchd.cores import Cores
from fetchd.engine.engine import KEEP_PARTS_S
from fetchd.model import Publish
from fetchd.service import Works
from harness import FakeClock


class OnePull:
    """A work source that notes how much was asked for, and has nothing."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def take(self, kind: type[Publish], most: int) -> list[Publish]:
        self.asked.append(most)
        return []


@pytest.mark.parametrize(("durability", "most"), [("group", 64), ("each", 1), ("none", 64)])
def test_the_publisher_takes_as_many_parts_as_share_their_syncs(tmp_path: Path, durability, most):
    keys = {"roots.default": str(tmp_path), "durability": durability}
    settings = load(None, keys, {})
    works = Works(
        settings, None, lambda _: None, SystemClock(), lambda _: None, [], Cores.of_process()
    )
    source = OnePull()
    works.publisher._source = source  # type: ignore[assignment]

    works.publisher.start()
    left = works.publisher.join(5.0)
    works.stop(1.0)

    assert left == 0
    assert source.asked == [most]


def test_a_week_later_the_record_of_what_nobody_knows_is_swept(tmp_path: Path):
    settings = load(None, {"roots.default": str(tmp_path)}, {})
    clock = FakeClock(wall_s=time.time())
    works = Works(settings, None, lambda _: None, clock, lambda _: None, [], Cores.of_process())
    record = tmp_path / ".fetchd/made/name"
    record.parent.mkdir(parents=True)
    record.write_text('{"root": "default", "path": "f", "steps": ""}\n')

    young = works.sweep(works.disk.records())
    clock.advance(KEEP_PARTS_S + 60)
    old = works.sweep(works.disk.records())
    works.stop(1.0)

    assert (young, old) == (0, 1)
    assert not record.exists()
