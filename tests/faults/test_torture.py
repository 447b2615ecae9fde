"""Every single file call of a job fails once, for ever, or is the last thing that happens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from faults.torture import FAULTS, VARIANTS, count_calls, torture, torture_by_kill

pytestmark = [pytest.mark.parametrize("variant", VARIANTS), pytest.mark.timeout(300)]


def in_turn(tmp_path: Path, variant: str, step) -> None:
    wrong = []
    for trip in range(1, count_calls(tmp_path / "counted", VARIANTS[variant]) + 1):
        folder = tmp_path / str(trip)
        wrong += step(folder, trip)
        shutil.rmtree(folder)
    assert wrong == []


@pytest.mark.parametrize("fault", FAULTS)
def test_d01_d04_d05_c07_one_call_that_fails_costs_a_retry_at_most(tmp_path, variant, fault):
    in_turn(
        tmp_path,
        variant,
        lambda folder, trip: torture(folder, VARIANTS[variant], fault, trip, for_ever=False),
    )


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_d01_d04_a_call_that_fails_for_ever_ends_in_a_clear_word(tmp_path, variant, fault):
    in_turn(
        tmp_path,
        variant,
        lambda folder, trip: torture(folder, VARIANTS[variant], fault, trip, for_ever=True),
    )


def test_c02_a_kill_at_each_call_loses_nothing(tmp_path, variant):
    in_turn(
        tmp_path,
        variant,
        lambda folder, trip: torture_by_kill(folder, VARIANTS[variant], trip),
    )
