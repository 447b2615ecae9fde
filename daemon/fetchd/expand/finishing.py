"""What names mean in the options of a task's steps."""

from __future__ import annotations

from collections.abc import Mapping

from fetchd.errors import ValueProblem
from fetchd.expand.tasks import Lookup, Scope
from fetchd.model import Finish, TaskGroup


def step_lookup(
    scope: Scope, group: TaskGroup, url: str, path: str, values: Mapping[str, str]
) -> Lookup:
    """Return what names mean for the steps of a task with this URL and path.

    ``values``: those of its combination of a matrix or of its item that are known to its steps.
    """
    of_group = scope.lookup(group, url, values)
    varying = () if group.matrix is None else group.matrix.names

    def look(name: str) -> str:
        if name == "task.path":
            return path
        bare = name.removeprefix("matrix.")
        if bare in varying and bare not in values:
            raise ValueProblem(f"${{{name}}} is not kept; name it in an option of the step")
        return of_group(name)

    return look


def lookup_of(attempt: Finish) -> Lookup:
    """Return what names mean for these steps."""
    scope = Scope(attempt.job, attempt.run)
    url, path, values = attempt.intent.url, attempt.intent.path, dict(attempt.task.spec.values)
    return step_lookup(scope, attempt.group, url, path, values)
