"""What holds for all tests."""

from __future__ import annotations

import os
import sys

from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("fetchd", settings.default, deadline=None)
settings.load_profile("fetchd")

# Hundreds of processes are started: none shall compile anew what the one before it has compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
