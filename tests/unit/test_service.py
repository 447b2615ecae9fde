from __future__ import annotations

from pathlib import Path

import pytest

from fetchd.clock import SystemClock
from fetchd.config import load
from fetchd.cores import Cores
from fetchd.model import Publish
from fetchd.service import Works


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
