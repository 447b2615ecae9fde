"""The engine decides: what runs next, what follows an outcome, when a run has ended."""

from __future__ import annotations

from fetchd.engine.engine import Engine

__all__ = ["Engine"]
