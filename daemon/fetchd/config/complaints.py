"""What is wrong with a configuration, in our words, and where that is to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from fetchd import yamldoc
from fetchd.config.readers import kind_of
from fetchd.config.settings import KeyPath, Settings, written_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """An error at the first of several places that is written somewhere."""

    paths: tuple[KeyPath, ...]
    message: str
    hint: str = ""
    at_key: bool = False


def explained(error: Any) -> Complaint:
    """Return pydantic's error in our words."""
    path: KeyPath = error["loc"]
    kind, value = error["type"], error["input"]
    if path[:1] in {("origins",), ("secrets",)} and isinstance(value, str):
        value = _Unquoted(value)  # it may be a secret, where its name or place should stand
    if path and path[-1] == "[key]":
        return Complaint(paths=(path[:-1],), message=_reason(error), at_key=True)
    if kind == "extra_forbidden":
        known = sorted(_keys_at(path[:-1]))
        meant = yamldoc.did_you_mean(str(path[-1]), known)
        hint = meant or f"known here: {', '.join(known)}"
        return Complaint(paths=(path,), message="unknown key", hint=hint, at_key=True)
    if kind == "missing":
        return Complaint(paths=(path[:-1],), message=f"the key {path[-1]} is missing")
    if kind == "tuple_type":
        return Complaint(paths=(path,), message=f"found {kind_of(value)}; a list is needed")
    if kind in {"model_type", "dict_type"}:
        hint = f"known here: {', '.join(sorted(_keys_at(path)))}" if _keys_at(path) else ""
        message = f"found {kind_of(value)}, where keys with values are needed"
        return Complaint(paths=(path,), message=message, hint=hint)
    return Complaint(paths=(path,), message=_reason(error))


def _reason(error: Any) -> str:
    return str(error.get("ctx", {}).get("error") or error["msg"])


class _Unquoted(str):
    """A text that no message may quote."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "a text"


def _keys_at(path: KeyPath) -> set[str]:
    """Return the keys that are known at a place, none where every key or no key is."""
    found: Any = Settings
    for part in path:
        if _is_model(found):
            found = _always(written_keys(found).get(str(part)))
        else:
            found = get_args(found)[-1]
    return set(written_keys(found)) if _is_model(found) else set()


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _always(annotation: Any) -> Any:
    """Return the model in an annotation that also allows None, any other as it is."""
    inner = get_args(annotation)
    models = [each for each in inner if _is_model(each)]
    return models[0] if models and type(None) in inner else annotation
