"""What a step is: its work, and the options that it knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fetchd.errors import ValueProblem
from fetchd.model import Finish, Makes
from fetchd.ports import Step
from fetchd.units import parse_size_bytes

_MODE = re.compile(r"0?[0-7]{3}")
_COUNT = re.compile(r"[0-9]{1,9}")
_FEW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """``read`` takes a text (or list) of a job file and returns a value of a type that JSON has.

    It raises ValueProblem. ``schema``: what editors are told; ``meaning``: for people. ``varies``:
    its texts may hold ``${...}``, put in when the step is taken.
    """

    read: Callable[[object], Any]
    schema: Mapping[str, object]
    meaning: str
    default: Any = None
    required: bool = False
    varies: bool = False


def _others(_: Mapping[str, Any]) -> Makes:
    return Makes.OTHERS


def same(_: Mapping[str, Any]) -> Makes:
    """Say that a file is handed on under its own name."""
    return Makes.SAME


def _as_written(options: Mapping[str, Any], _: Finish) -> dict[str, Any]:
    return dict(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """``alone``: the option that is meant where only a text is given, as in ``mode: 0644``.

    ``makes``: as of a step in a job file, told by its options.
    ``prepare``: adds to the options what the job file does not say of a task; all texts in lists
    that it adds may hold ``${...}``.
    """

    work: Step
    options: Mapping[str, Option] = field(default_factory=dict)
    alone: str = ""
    makes: Callable[[Mapping[str, Any]], Makes] = _others
    prepare: Callable[[Mapping[str, Any], Finish], dict[str, Any]] = _as_written


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueProblem("needs a text")
    return value


def texts(value: object) -> list[str]:
    """Return a list, of one where a text is given."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueProblem("needs a text or a list of texts")
    if len(found) > _FEW:
        raise ValueProblem(f"has {len(found)} entries; at most {_FEW} are possible")
    return list(found)


def count(value: object) -> int:
    said = text(value)
    if not _COUNT.fullmatch(said):
        raise ValueProblem(f"{said[:60]!r} is not a whole number from 0 to 999999999")
    return int(said)


def size_bytes(value: object) -> int:
    return parse_size_bytes(text(value))


def mode(value: object) -> int:
    said = text(value)
    if not _MODE.fullmatch(said):
        raise ValueProblem(f"{said[:60]!r} is no mode; write three octal digits such as 0644")
    return int(said, 8)


def one_of(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        said = text(value)
        if said not in allowed:
            raise ValueProblem(f"{said[:60]!r} is not one of {', '.join(allowed)}")
        return said

    return read


def file_name(value: object) -> str:
    """Return a name that a file can have, without folders."""
    said = text(value)
    if not said.isprintable():  # nor are halves of what cannot be encoded
        raise ValueProblem(f"{said[:60]!r} has a control character")
    if said in {"", ".", ".."} or "/" in said or len(said.encode()) > 255:
        raise ValueProblem(f"{said[:60]!r} is no file name")
    return said


TEXT: Mapping[str, object] = {"type": "string"}
NUMBER: Mapping[str, object] = {"type": ["integer", "string"]}
SIZE: Mapping[str, object] = {"type": ["integer", "string"]}
LIST: Mapping[str, object] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
}
