"""The plain content of a job file, read by the model; what cannot be read is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fetchd.jobfile.complaints import Complaints, Path
from fetchd.jobfile.schema import (
    ExpectKeys,
    FromKeys,
    JobFile,
    LimitKeys,
    PublishKeys,
    RetryKeys,
    ScheduleKeys,
    TaskEntry,
    TimeoutKeys,
    keys_of,
)
from fetchd.yamldoc import nearest

_NESTED: dict[object, type[BaseModel]] = {
    "limits": LimitKeys,
    "retry": RetryKeys,
    "timeout": TimeoutKeys,
    "expect": ExpectKeys,
    "from": FromKeys,
    "schedule": ScheduleKeys,
    "publish": PublishKeys,
}


@dataclass(slots=True)
class Unread:
    """Keys that were left out; what only follows from that is not told as a further error."""

    top: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    of_task: dict[str, set[str]] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        match path:
            case ("vars", str(name)):
                self.variables.add(name)
            case ("tasks", str(task)):
                self.tasks.add(task)
            case ("tasks", str(task), str(key), *_):
                self.of_task.setdefault(task, set()).add(key)
            case (str(key), *_):
                self.top.add(key)
            case _:
                pass


def read(data: dict[str, Any], complaints: Complaints) -> tuple[JobFile, Unread]:
    """Return the keys of a job file. ``data``: texts, lists and mappings; it is changed."""
    unread = Unread()
    _drop_notes(data)
    for task in (data.get("tasks") or {}).values() if isinstance(data.get("tasks"), dict) else ():
        _drop_notes(task)
    while True:  # each time round leaves something out, and what is left is read again
        try:
            return JobFile.model_validate(data), unread
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_input=False)
        for error in errors:
            path = _prune(data, error["loc"])
            unread.add(path)
            _complain(error, path, unread, complaints)


def _drop_notes(keys: object) -> None:
    if isinstance(keys, dict):
        for key in [key for key in keys if key.startswith("x-")]:
            del keys[key]


def _prune(data: dict[str, Any], loc: tuple[int | str, ...]) -> Path:
    """Remove the key that an error is about; return where in the file the error stands."""
    holder: Any = data
    path = tuple(part for part in loc if part != "[key]")
    for depth, part in enumerate(path):
        inner = holder.get(part)
        if depth == len(path) - 1 or not isinstance(inner, dict):
            holder.pop(part, None)
            break
        holder = inner
    return path


def _complain(error: ErrorDetails, path: Path, unread: Unread, complaints: Complaints) -> None:
    if error["type"] == "extra_forbidden":
        message, hint = _unknown(path, unread) if not complaints.full else ("", "")
        complaints.add(path, message, hint, at_key=True)
    elif error["type"] in {"dict_type", "model_type"}:
        complaints.add(path, _mapping_needed(path))
    elif error["type"] in {"list_type", "tuple_type"}:
        complaints.add(path, "needs a text or a list of texts")
    else:
        reason = str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
        complaints.add(path, reason, at_key="[key]" in error["loc"])


def _mapping_needed(path: Path) -> str:
    if path == ("tasks",):
        return "needs a mapping: each task's name, and below it the task's keys"
    keys = _NESTED.get(path[-1], TaskEntry if path[:1] == ("tasks",) else None)
    if path[-1] == "matrix":
        return "needs a mapping of names and their values: { arch: [amd64, arm64] }"
    if keys is None or path[-1] in {"vars", "headers"}:
        return "needs a mapping of names and texts"
    return f"needs a mapping with keys such as {', '.join(keys_of(keys)[:3])}"


def _unknown(path: Path, unread: Unread) -> tuple[str, str]:
    """Return message and hint for a key that the model does not have."""
    *within, last = path
    key = str(last)
    in_task = within[:1] == ["tasks"]
    levels = within[2:] if in_task else within
    keys = _NESTED[levels[-1]] if levels else TaskEntry if in_task else JobFile
    if in_task and not levels and key in keys_of(JobFile):
        return "belongs at the top of the file, not in a task", ""
    if key == "needs":
        return "belongs in a task under tasks", ""
    if near := nearest(key, keys_of(keys)):
        unread.add((*within, near))
        return "unknown key", f"did you mean {near!r}?"
    return f"unknown key; known here: {', '.join(keys_of(keys))}", ""
