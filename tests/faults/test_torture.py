"""Every single file call of a job fails once, for ever, or is the last thing that happens."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from faults.torture import FAULTS, VARIANTS, count_calls, torture, torture_by_kill

pytestmark = [pytest.mark.parametrize("variant", VARIANTS), pytest.mark.timeout(300)]


@pytest.fixture
def folder(tmp_path):
    """Thousands of syncs that prove nothing here are not worth a real disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="fetchd-torture-", dir=memory) as name:
        yield Path(name)


def in_turn(folder: Path, variant: str, step) -> None:
    wrong = []
    for trip in range(1, count_calls(folder / "counted", VARIANTS[variant]) + 1):
        place = folder / str(trip)
        wrong += step(place, trip)
        shutil.rmtree(place)
    assert wrong == []


@pytest.mark.parametrize("fault", FAULTS)
def test_d01_d04_d05_c07_one_call_that_fails_costs_a_retry_at_most(folder, variant, fault):
    in_turn(
        folder,
        variant,
        lambda place, trip: torture(place, VARIANTS[variant], fault, trip, for_ever=False),
    )


@pytest.mark.parametrize("fault", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.long)])
def test_d01_d04_a_call_that_fails_for_ever_ends_in_a_clear_word(folder, variant, fault):
    in_turn(
        folder,
        variant,
        lambda place, trip: torture(place, VARIANTS[variant], fault, trip, for_ever=True),
    )


def test_c02_a_kill_at_each_call_loses_nothing(folder, variant):
    in_turn(
        folder,
        variant,
        lambda place, trip: torture_by_kill(place, VARIANTS[variant], trip),
    )
