"""What names mean in the options of a task's steps."""

from __future__ import annotations

from fetchd.errors import ValueProblem
from fetchd.expand.tasks import Lookup, Scope
from fetchd.model import Finish, TaskGroup


def step_lookup(scope: Scope, group: TaskGroup, url: str, path: str) -> Lookup:
    """Return what names mean for the steps of a task with this URL and path."""
    of_group = scope.lookup(group, url)
    varying = () if group.matrix is None else group.matrix.names

    def look(name: str) -> str:
        if name == "task.path":
            return path
        if name.removeprefix("matrix.") in varying:
            raise ValueProblem(f"${{{name}}} has no meaning here, but ${{task.path}} and ${{url}}")
        return of_group(name)

    return look


def lookup_of(attempt: Finish) -> Lookup:
    """Return what names mean for these steps."""
    scope = Scope(attempt.job, attempt.run)
    return step_lookup(scope, attempt.group, attempt.intent.url, attempt.intent.path)
