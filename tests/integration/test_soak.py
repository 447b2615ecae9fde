"""A minute of mixed faults and one kill: nothing grows, and everything ends as it should."""

from __future__ import annotations

import pytest

from faults.soak import soak

pytestmark = pytest.mark.usefixtures("anew")  # what a process takes is measured


@pytest.mark.long
@pytest.mark.timeout(300)
def test_p23_a_minute_of_soak_in_two_lives(tmp_path):
    result = soak(tmp_path, minutes=1.6, seed=23, life_s=48.0)

    print(result)
    assert result.wrong == []
    assert result.files > 500


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_p23_ten_minutes_of_soak(tmp_path):
    result = soak(tmp_path, minutes=10, seed=29)

    print(result)
    assert result.wrong == []
    assert result.files > 5000
