"""The bounds around every fault can be broken: they notice what a test leaves behind."""

from __future__ import annotations

import os
import threading

import pytest

from faults import rig
from faults.rig import bounds


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch):
    monkeypatch.setattr(rig, "_GRACE_S", 0.05)


def test_what_leaves_nothing_behind_is_within_bounds():
    with bounds():
        pass


def test_a_thread_that_is_left_is_noticed():
    release = threading.Event()
    # More than may be about to end from tests before.
    threads = [threading.Thread(target=release.wait, args=(10,)) for _ in range(30)]

    def start_all():
        for thread in threads:
            thread.start()

    with pytest.raises(AssertionError), bounds():
        start_all()

    release.set()
    for thread in threads:
        thread.join(10)


def test_a_descriptor_that_is_left_is_noticed():
    left = []

    with pytest.raises(AssertionError), bounds():
        left.append(os.open(os.devnull, os.O_RDONLY))

    os.close(left[0])


def test_memory_that_was_taken_for_a_moment_is_noticed():
    with pytest.raises(AssertionError, match="memory grew"), bounds():
        bytearray(100_000_000).count(1)
