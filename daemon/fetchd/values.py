"""Dataclasses that mypy keeps frozen, and the interpreter does not.

The interpreter makes a frozen object field by field through ``object.__setattr__``. A task is a
dozen such objects with a hundred fields, and that was an eighth of what it costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    T = TypeVar("T")

    def dataclass(
        *, frozen: bool, eq: bool = True, **options: bool
    ) -> Callable[[type[T]], type[T]]:
        """Return what ``dataclasses.dataclass`` does, but for the check when a field is set."""
        return dataclasses.dataclass(eq=eq, unsafe_hash=frozen and eq, **options)
