"""The entries of ``steps:``, read with the options that each step knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fetchd.errors import ValueProblem
from fetchd.jobfile.complaints import Complaints, Path
from fetchd.model import StepSpec
from fetchd.steps import STEPS, Kind, Option
from fetchd.units import parse_duration_s
from fetchd.yamldoc import did_you_mean

#: Every step has it.
TIMEOUT = "timeout"
#: Steps that need no files, and so may stand at the end of a run.
AT_THE_END = ("run", "webhook")
_MOST = 32
_NO_URL = "the operator writes the URL there, under webhooks, and gives it a name"


def read_steps(
    written: list[object],
    place: Path,
    complaints: Complaints,
    *,
    commands: Collection[str] = (),
    webhooks: Collection[str] = (),
) -> tuple[StepSpec, ...]:
    """Return the steps; what is wrong is complained about and left out.

    ``commands``, ``webhooks``: names of those that the configuration has.
    """
    if len(written) > _MOST:
        complaints.add(place, f"has {len(written)} entries; at most {_MOST} are possible")
        return ()
    steps = []
    for index, entry in enumerate(written):
        step = _read(entry, (*place, index), complaints)
        if step is not None:
            _check_configured(step, (*place, index), complaints, commands, webhooks)
            steps.append(step)
    return tuple(steps)


def read_ends(
    written: list[object],
    place: Path,
    complaints: Complaints,
    *,
    commands: Collection[str],
    webhooks: Collection[str],
) -> tuple[StepSpec, ...]:
    """Return the steps at the end of a run, as ``read_steps``: there are no files then.

    Of commands and webhooks without options the name is enough.
    """
    if len(written) > _MOST:
        complaints.add(place, f"has {len(written)} entries; at most {_MOST} are possible")
        return ()
    steps = []
    for index, entry in enumerate(written):
        name = next(iter(entry), None) if isinstance(entry, Mapping) else entry
        if isinstance(name, str) and name not in AT_THE_END:
            if not isinstance(entry, str) or name in STEPS:
                complaints.add(
                    (*place, index),
                    f"{name!r} is not possible here, where there are no files; possible: "
                    f"{', '.join(AT_THE_END)}, or the name of a command or webhook",
                )
                continue
            known = [*commands, *webhooks]
            if name not in known:
                complaints.add(
                    (*place, index),
                    f"{name!r} is neither a command nor a webhook of the configuration; known: "
                    f"{', '.join(known) or 'none'}",
                    did_you_mean(name, known) if "://" not in name else _NO_URL,
                )
                continue
            kind = "run" if name in commands else "webhook"
            step = _read({kind: name}, (*place, index), complaints)
        else:
            step = _read(entry, (*place, index), complaints)
        if step is not None:
            _check_configured(step, (*place, index), complaints, commands, webhooks)
            steps.append(step)
    return tuple(steps)


def _check_configured(
    step: StepSpec,
    place: Path,
    complaints: Complaints,
    commands: Collection[str],
    webhooks: Collection[str],
) -> None:
    """Complain about a command or webhook that the configuration does not have."""
    kinds = {"run": ("command", commands), "webhook": ("webhook", webhooks)}
    option, known = kinds.get(step.name, ("", ()))
    name = str(step.options.get(option))
    if option and name not in known:
        complaints.add(
            (*place, step.name, option),
            f"{name!r} is not a {option} of the configuration; known: {', '.join(known) or 'none'}",
            did_you_mean(name, known),
        )


def ends_schema() -> dict[str, Any]:
    """Return what editors are told of ``on_success`` and ``on_failure``."""
    forms = [
        {
            "type": "object",
            "additionalProperties": False,
            "required": [name],
            "properties": {name: _step_schema(STEPS[name])},
        }
        for name in AT_THE_END
    ]
    return {"type": "array", "maxItems": _MOST, "items": {"anyOf": [{"type": "string"}, *forms]}}


def steps_schema() -> dict[str, Any]:
    """Return what editors are told of ``steps:``."""
    return {
        "type": "array",
        "maxItems": _MOST,
        "items": {
            "anyOf": [
                {"type": "string", "enum": [name for name, kind in STEPS.items() if _bare(kind)]},
                *(
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "required": [name],
                        "properties": {name: _step_schema(kind)},
                    }
                    for name, kind in STEPS.items()
                ),
            ]
        },
    }


def _step_schema(kind: Kind) -> dict[str, Any]:
    options = {
        name: {**option.schema, "description": option.meaning}
        for name, option in kind.options.items()
    }
    options[TIMEOUT] = {"type": "string", "description": "how long the step may take"}
    keys: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": options,
    }
    if required := [name for name, option in kind.options.items() if option.required]:
        keys["required"] = required
    forms = [keys]
    if kind.alone:
        forms.append(dict(kind.options[kind.alone].schema))
    if _bare(kind):
        forms.append({"type": "null"})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _bare(kind: Kind) -> bool:
    """Tell whether the step can be named without any option."""
    return not any(option.required for option in kind.options.values())


def _read(entry: object, place: Path, complaints: Complaints) -> StepSpec | None:
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, given),) = entry.items()
        place = (*place, name)
    else:
        name, given = entry, None
    if not isinstance(name, str) or not name:
        complaints.add(
            place, "needs the name of a step, or one name with its options: extract: { ... }"
        )
        return None
    kind = STEPS.get(name)
    if kind is None:
        complaints.add(
            place,
            f"{name!r} is no step; known: {', '.join(STEPS)}",
            did_you_mean(name, STEPS),
            at_key=True,
        )
        return None
    if isinstance(given, str) and kind.alone:
        given = {kind.alone: given}
    if not isinstance(given, Mapping | None):
        known = ", ".join((*kind.options, TIMEOUT))
        complaints.add(place, f"needs a mapping of options; known here: {known}")
        return None
    return _with_options(name, kind, given or {}, place, complaints)


def _with_options(
    name: str, kind: Kind, given: Mapping[str, object], place: Path, complaints: Complaints
) -> StepSpec | None:
    before = complaints.count
    options = {key: option.default for key, option in kind.options.items()}
    spec = StepSpec(name=name)
    timeout_s = spec.timeout_s
    for key, value in given.items():
        option = kind.options.get(key)
        if value is None:
            continue
        if option is not None:
            options[key] = _value(option, value, (*place, key), complaints)
        elif key == TIMEOUT:
            timeout_s = _duration_s(value, (*place, key), complaints)
        else:
            known = (*kind.options, TIMEOUT)
            near = did_you_mean(key, known)
            message = "unknown option" if near else f"unknown option; known: {', '.join(known)}"
            complaints.add((*place, key), message, near, at_key=True)
    for key, option in kind.options.items():
        if option.required and given.get(key) is None:
            complaints.add(place, f"{name!r} needs the option {key!r}: {option.meaning}")
    if complaints.count > before:
        return None
    makes = kind.makes(options)
    return StepSpec(name=name, options=options, timeout_s=timeout_s, makes=makes)


def _value(option: Option, value: object, place: Path, complaints: Complaints) -> Any:
    try:
        return option.read(value)
    except ValueProblem as exc:
        complaints.add(place, str(exc))
        return None


def _duration_s(value: object, place: Path, complaints: Complaints) -> float:
    try:
        seconds = parse_duration_s(value) if isinstance(value, str) else 0.0
    except ValueProblem as exc:
        complaints.add(place, str(exc))
        return 1.0
    if seconds <= 0:
        complaints.add(place, "needs a duration above zero, such as 10m")
    return seconds
