"""The kill loop as tests: a short one for every day, a long one before a release."""

from __future__ import annotations

from random import Random

import pytest

from faults.kill_loop import Plan, kill_loop


def right(base, seed: int, kills: int) -> None:
    for result in kill_loop(base, seed, kills):
        print(result)
        assert result.wrong == [], f"make kill-loop KILLS={min(kills, 100)} SEED={result.seed}"
        assert result.signals["KILL"] > sum(result.signals.values()) // 3


def test_the_same_seed_draws_the_same_jobs():
    def drawn(seed):
        plan = Plan(Random(seed), "http://h")
        return [work.text for _ in range(50) for work in plan.draw()]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_c01_c03_fifty_signals_at_random_moments_lose_nothing_and_double_nothing(tmp_path):
    right(tmp_path, seed=1, kills=50)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@pytest.mark.usefixtures("anew")  # some lives end while the program is still being loaded
def test_c01_c03_five_thousand_signals_lose_nothing_and_double_nothing(tmp_path):
    right(tmp_path, seed=10_000, kills=5_000)
