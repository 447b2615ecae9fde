"""Every fault of disk, process and state that was thought of has a test, or a reason to have none.

A test belongs to a row by the row's id in its name or in the id of one of its parameters.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NO_STEPS = "steps behind a publication and webhooks are not built"

#: id -> the fault, and why there is no test for it ("": there is one).
ROWS = {
    "d01": ("no space: at the first write, later, at the sync", ""),
    "d02": ("no inodes left", ""),
    "d03": ("a quota is used up", ""),
    "d04": ("the disk fails to write, read, sync or close", ""),
    "d05": ("short and interrupted writes", ""),
    "d06": ("a file system that is, or becomes, read-only", ""),
    "d07": ("no permission: folder, file, folder of parts", ""),
    "d08": ("the destination's folder goes, moves or becomes a link", ""),
    "d09": ("the destination is on another file system", ""),
    "d10": ("what has the destination is no plain file", ""),
    "d11": ("names and paths at and above the limits, and not UTF-8", ""),
    "d12": ("names that would leave the root or confuse a terminal", ""),
    "d13": ("two tasks with one destination", ""),
    "d14": ("the power fails around a publication", ""),
    "d15": ("a published file changes later", "there is no command that verifies what is there"),
    "d16": ("a handle of a network file system is stale", ""),
    "d17": ("a disk that is very slow", ""),
    "c01": ("killed at random moments", ""),
    "c02": ("killed at each call that touches the disk", ""),
    "c03": ("asked to stop at random moments, and twice", ""),
    "c04": ("a reload", "the configuration is read at the start only"),
    "c05": ("a storm of reloads, at the start and at the end too", ""),
    "c06": ("interrupted from the keyboard", ""),
    "c07": ("a worker dies of an error nobody foresaw", ""),
    "c08": ("a worker is stuck where nothing reaches it", ""),
    "c09": ("no descriptors, no threads left", ""),
    "c10": ("no memory left", "killed for it: as c01; told of it: MemoryError in c07"),
    "c11": ("the wall clock jumps", ""),
    "c12": ("the machine is suspended", ""),
    "c13": ("a second instance; a lock that a crash left", ""),
    "c14": ("a step misbehaves", NO_STEPS),
    "c15": ("a webhook misbehaves", NO_STEPS),
    "c16": ("nobody reads the log", ""),
    "c17": ("the service manager is missing, abstract, deaf", ""),
    "c18": ("clients of a status service misbehave", "the status is a file; nothing listens"),
    "s01": ("another process locks the database, for a while and for ever", ""),
    "s02": ("the database is zeros, garbage, or has a bad page", ""),
    "s03": ("the database's log is missing, or another's", ""),
    "s04": ("no space for the database", ""),
    "s05": ("an older schema, and a kill amid its migration", ""),
    "s06": ("a newer schema", ""),
    "s07": ("the database is unlinked or replaced in use", ""),
    "s08": ("the database cannot be synced", ""),
    "s09": ("the power fails around a commit", ""),
    "s10": ("the state folder is read-only or another's", ""),
    "s11": ("two processes want one database", ""),
}


@pytest.fixture(scope="module")
def names() -> set[str]:
    """The names of all tests, and of their parameters."""
    found: set[str] = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        text = path.read_text()
        found.update(re.findall(r"def (test_\w+)", text))
        found.update(re.findall(r"""\bid=["']([^"']+)["']""", text))
    return found


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_test_or_a_reason(row, names):
    told = re.compile(rf"(?<![a-z0-9]){row}(?![a-z0-9])", re.IGNORECASE)
    fault, reason = ROWS[row]

    tested = any(told.search(name.replace("_", "-")) for name in names)
    assert tested != bool(reason), fault
