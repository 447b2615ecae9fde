"""What names mean in the options of a task's steps."""

from __future__ import annotations

from fetchd.expand.tasks import Lookup, Scope
from fetchd.model import Finish, TaskGroup


def step_lookup(scope: Scope, group: TaskGroup, url: str, path: str) -> Lookup:
    """Return what names mean for the steps of a task with this URL and path."""
    look = scope.lookup(group, url)
    return lambda name: path if name == "task.path" else look(name)


def lookup_of(attempt: Finish) -> Lookup:
    """Return what names mean for these steps."""
    scope = Scope(attempt.job, attempt.run)
    return step_lookup(scope, attempt.group, attempt.intent.url, attempt.intent.path)
