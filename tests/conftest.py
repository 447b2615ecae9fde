"""What holds for all tests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import settings

import process
from nursery import Nursery

# How long an example takes says more of the machine than of the code.
settings.register_profile("fetchd", settings.default, deadline=None)
settings.load_profile("fetchd")

# Hundreds of processes are started: none shall compile anew what the one before it has compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def nursery():
    """Let daemons come from a nursery, so that each begins when it is imported."""
    with Nursery() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "spawn", made.spawn)
        yield


@pytest.fixture
def anew(monkeypatch):
    """Let daemons be new processes, whose every step from the first one on counts."""
    monkeypatch.setattr(process, "spawn", subprocess.Popen)
