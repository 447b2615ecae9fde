"""What ``_defaults.yaml`` says for all job files of its folder: keys of tasks, below theirs."""

from __future__ import annotations

from copy import deepcopy
from pathlib import PurePath
from typing import Any

from fetchd.config import Settings
from fetchd.jobfile.build import Built, Draft, build, default_rules
from fetchd.jobfile.complaints import Complaints
from fetchd.jobfile.reading import read
from fetchd.jobfile.schema import JobFile, TaskKeys

NAME = "_defaults.yaml"

_WHAT = ("url", "urls")  # what is to be fetched, and not how
_ALLOWED = [key for key in TaskKeys.model_fields if key not in _WHAT]


def defaults_of(beside: str) -> str:
    """Return the name of the defaults that hold for a job file."""
    return str(PurePath(beside).with_name(NAME))


def check_defaults(content: dict[str, Any], settings: Settings, complaints: Complaints) -> Built:
    """Complain about what is wrong in defaults; returns the group of some job that is theirs."""
    for key in content:
        if key in _WHAT or (key in JobFile.model_fields and key not in _ALLOWED):
            complaints.add(
                (key,),
                f"belongs in a job file; here may stand: {', '.join(_ALLOWED)}",
                at_key=True,
            )
    some = {key: deepcopy(value) for key, value in content.items() if key not in _WHAT}
    keys, unread = read({**some, "url": "http://some.invalid/file"}, complaints)
    draft = Draft("some", (), keys, keys, frozenset(unread.top))
    return build(draft, keys, settings, default_rules(settings), complaints)


def over(below: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a job file's keys over defaults: mappings merge one level deep, ``{}`` clears."""
    merged = {**below, **own}
    for key in below.keys() & own.keys():
        if own[key] and isinstance(own[key], dict) and isinstance(below[key], dict):
            names = {name.lower() for name in own[key]}  # headers have no case
            rest = {n: value for n, value in below[key].items() if n.lower() not in names}
            merged[key] = {**rest, **own[key]}
    return merged
