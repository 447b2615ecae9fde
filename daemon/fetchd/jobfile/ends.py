"""``on_success`` and ``on_failure``: implicit groups, behind all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fetchd.config import Settings
from fetchd.jobfile.build import Built
from fetchd.jobfile.complaints import Complaints
from fetchd.jobfile.reading import Unread
from fetchd.jobfile.schema import JobFile
from fetchd.jobfile.steps import read_ends
from fetchd.model import Rules, RunEnd, TaskGroup

_WRITTEN = (RunEnd.ON_SUCCESS, RunEnd.ON_FAILURE)


def groups_of(
    keys: JobFile, unread: Unread, settings: Settings, defaults: Rules, complaints: Complaints
) -> list[TaskGroup]:
    """Return a group for each thing that is to be done at the end of a run, in their order."""
    groups = []
    root = keys.root or "default"
    for end in _WRITTEN:
        written: list[object] | None = getattr(keys, end)
        if not written:
            continue
        steps = read_ends(
            written,
            (end.value,),
            complaints,
            commands=settings.commands,
            webhooks=settings.webhooks,
        )
        if root not in settings.roots and "root" not in unread.top:
            known = ", ".join(settings.roots)
            complaints.add(
                ("root",),
                f"{root!r} is not a download root of the configuration; known: {known}",
            )
        rules = replace(defaults, root=root)
        groups.append(TaskGroup(name=end, items=(), rules=rules, steps=steps, end=end))
    return groups


def check_names(built: Sequence[Built], keys: JobFile, complaints: Complaints) -> None:
    """Complain about tasks that are named like what is done at the end of a run."""
    taken = {*_WRITTEN}
    if keys.publish is not None and keys.publish.atomic:
        taken.add(RunEnd.PUBLISH)
    for one in built:
        if one.group.name in taken:
            complaints.add(
                one.draft.prefix or (("name",) if keys.name else ()),
                f"{one.group.name!r} is what is done at the end of a run; give the task another "
                "name" + ("" if one.draft.prefix else ": write it below `tasks`"),
                at_key=bool(one.draft.prefix),
            )
