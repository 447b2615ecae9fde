"""What a task's steps begin with: what names mean in their options, and which files are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from fetchd.errors import ValueProblem
from fetchd.expand.tasks import Lookup, Scope, folder_above
from fetchd.model import FileView, Finish, Job, Run, TaskGroup, TaskState
from fetchd.ports import GivenFile

_NO_VALUES: Mapping[str, str] = MappingProxyType({})


def step_lookup(
    scope: Scope,
    group: TaskGroup,
    url: str,
    path: str,
    values: Mapping[str, str] = _NO_VALUES,
    summary: Callable[[], str] = lambda: "",
) -> Lookup:
    """Return what names mean for the steps of a task with this URL and path.

    ``values``: those of its combination of a matrix or of its item that are known to its steps.
    ``summary``: at the end of a run, what came of it.
    """
    gathers = group.gathers or group.end is not None
    of_group = scope.lookup(group, None if gathers else url, values)
    varying = () if group.matrix is None else group.matrix.names

    def look(name: str) -> str:
        if name == "job.summary" and group.end is not None:
            return summary()
        if name == "task.path" and group.end is None:
            return path.removeprefix("./")
        bare = name.removeprefix("matrix.")
        if bare in varying and bare not in values:
            raise ValueProblem(f"${{{name}}} is not kept; name it in an option of the step")
        return of_group(name)

    return look


def lookup_of(attempt: Finish, summary: Callable[[], str] = lambda: "") -> Lookup:
    """Return what names mean for these steps; ``summary``: as for ``step_lookup``."""
    scope, intent = Scope(attempt.job, attempt.run), attempt.intent
    values = dict(attempt.task.spec.values)
    return step_lookup(scope, attempt.group, intent.url, intent.path, values, summary)


def given_to(
    job: Job, run: Run, needs: Collection[str], files: Iterable[FileView]
) -> Iterator[GivenFile]:
    """Yield what a run has published for these groups. ``files``: all of that run."""
    scope = Scope(job, run)
    needed = {group.name: group for group in job.groups if group.name in needs}
    above = {name: folder_above(scope, group) for name, group in needed.items()}
    for file in files:
        if file.state is TaskState.SUCCEEDED and file.group in needed:
            group = needed[file.group]
            yield GivenFile(
                root=group.rules.root,
                path=file.path,
                above=above[group.name],
                made=bool(group.steps),
            )
