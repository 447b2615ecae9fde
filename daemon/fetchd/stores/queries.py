"""The statements of the store by their names, and the numbers that they know states by."""

from __future__ import annotations

from importlib import resources

from fetchd.model import TaskState

#: TaskState <-> column task.state; the queries know these numbers.
STATES = (
    TaskState.READY,
    TaskState.RUNNING,
    TaskState.PUBLISHING,
    TaskState.SUCCEEDED,
    TaskState.FAILED,
    TaskState.SKIPPED,
    TaskState.CANCELLED,
)
NUMBERS = {state: number for number, state in enumerate(STATES)}


def named(file: str) -> dict[str, str]:
    """Return the statements of a file by the names above them."""
    text = resources.files(__package__).joinpath(file).read_text()
    statements = {}
    for block in text.split("-- name: ")[1:]:
        name, _, sql = block.partition("\n")
        statements[name.strip()] = sql.strip()
    return statements


Q = named("queries.sql")
