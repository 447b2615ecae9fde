from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.engine.graph import Met, find_cycle, met

NAMES = st.sampled_from("abcdef")


def test_a_group_may_start_when_all_it_needs_has_succeeded():
    assert met([], {}) is Met.YES
    assert met(["a"], {"a": True}) is Met.YES
    assert met(["a", "b"], {"a": True}) is Met.NOT_YET
    assert met(["a", "b"], {"b": False}) is Met.NEVER


def test_a_cycle_is_shown_as_a_path_back_to_its_start():
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": ["a"]}) == ["a", "a"]
    assert find_cycle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


@settings(derandomize=True, max_examples=200)
@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=6))
def test_a_cycle_is_found_exactly_when_no_order_exists(needs):
    cycle = find_cycle(needs)

    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(after in needs[before] for before, after in pairwise(cycle))
        return
    ended: dict[str, bool] = {}
    names = set(needs) | {name for listed in needs.values() for name in listed}
    while len(ended) < len(names):
        can = [n for n in names if n not in ended and met(needs.get(n, []), ended) is Met.YES]
        assert can
        ended |= dict.fromkeys(can, True)
