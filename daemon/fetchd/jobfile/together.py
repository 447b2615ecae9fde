"""``publish``: what it asks of a job that the outputs of a run appear together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fetchd.errors import ValueProblem
from fetchd.expand import Scope, clean_path, names_in
from fetchd.jobfile.build import Built
from fetchd.jobfile.complaints import Complaints
from fetchd.jobfile.reading import Unread
from fetchd.jobfile.schema import JobFile
from fetchd.model import Generations, Job, Rules, Run, RunEnd, StepSpec, TaskGroup
from fetchd.variables import render

_KEEP = 2
_ONE_FOLDER = "with publish.atomic the dest at the top is one folder for all tasks and runs"


def together(
    job: Job, keys: JobFile, built: Sequence[Built], unread: Unread, complaints: Complaints
) -> Job:
    """Return the job with what is said under ``publish``; complain about what cannot be."""
    said = keys.publish
    if said is None or not said.atomic:
        if said is not None and said.keep is not None and "publish" not in unread.top:
            complaints.add(("publish", "keep"), "means nothing without atomic: true", at_key=True)
        return job
    root = keys.root or "default"
    for one in built:
        other = one.group.rules.root
        if other != root and not one.draft.hurt & {"root"}:
            complaints.add(
                one.draft.place("root"),
                f"{other!r} is not the job's root, {root!r}; what appears together "
                "(publish.atomic) lies below one root",
            )
    dest = _dest(job, built, unread, complaints)
    if dest is None:
        return job
    return replace(job, generations=Generations(root=root, dest=dest, keep=said.keep or _KEEP))


def with_end(job: Job, defaults: Rules) -> Job:
    """Return the job with the group that lets its outputs appear, if they do so together."""
    own = job.generations
    if own is None:
        return job
    end = TaskGroup(
        name=RunEnd.PUBLISH,
        items=(),
        rules=replace(defaults, root=own.root),
        steps=(StepSpec(name=RunEnd.PUBLISH),),
        end=RunEnd.PUBLISH,
    )
    return replace(job, groups=(*job.groups, end))


def _dest(job: Job, built: Sequence[Built], unread: Unread, complaints: Complaints) -> str | None:
    """Return the folder of the job, None where it has none that is always the same."""
    if "dest" in unread.top:
        return None
    if not job.dest:
        complaints.add(
            ("publish", "atomic"),
            "needs a dest at the top of the file: the folder in which the outputs appear",
        )
        return None
    for name in _names(job.dest, job):
        if name.partition(".")[0] == "run":
            complaints.add(
                ("dest",),
                f"${{{name}}} is another in each run; {_ONE_FOLDER}, so put it into filename, or "
                "into the dest of the tasks",
            )
            return None
    scope = Scope(job, Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=0.0))
    try:
        return clean_path(render(job.dest, scope.value).removesuffix("/"))
    except ValueProblem as exc:
        # What is wrong for a task, too, is told where its tasks are tried.
        if not any(one.group.template.dest == job.dest for one in built) or _varies(job, built):
            complaints.add(("dest",), f"{exc}; {_ONE_FOLDER}")
        return None


def _names(text: str, job: Job) -> list[str]:
    """Return all that a text refers to, also by the variables that it names."""
    found: list[str] = []
    texts = [text]
    while texts:
        for name in names_in([texts.pop()]):
            if name not in found:
                found.append(name)
                texts += [job.variables[name]] if name in job.variables else []
    return found


def _varies(job: Job, built: Sequence[Built]) -> bool:
    """Tell whether the folder depends on something that a task knows, and the job does not."""
    names = {name.removeprefix("matrix.") for name in _names(job.dest, job)}
    of_matrix = {name for one in built if one.group.matrix for name in one.group.matrix.names}
    heads = {name.partition(".")[0] for name in names}
    return not (names.isdisjoint(of_matrix) and heads.isdisjoint({"task", "url", "needs", "item"}))
