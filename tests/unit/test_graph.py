from __future__ import annotations

from fetchd.engine.graph import Met, met


def test_a_group_may_start_when_all_it_needs_has_succeeded():
    assert met([], {}) is Met.YES
    assert met(["a"], {"a": True}) is Met.YES
    assert met(["a", "b"], {"a": True}) is Met.NOT_YET


def test_one_failed_need_is_enough_never_to_start():
    assert met(["a", "b"], {"b": False}) is Met.NEVER
