"""Every row of the catalogue of drop folder faults has its tests, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

#: Row -> the faults, in a few words, and how many cases have to be told apart.
ROWS = {
    "F01": ("a file that is being written, valid or not as it stands", 2),
    "F02": ("an atomic rename; names of unfinished files", 2),
    "F03": ("empty, one byte above the cap, sparse", 3),
    "F04": ("bombs: alias, merge, recursive, deep", 4),
    "F05": ("duplicate keys, unknown keys, wrong types", 3),
    "F06": ("tab, BOM, Latin-1, UTF-16, NUL, noise", 6),
    "F07": ("tags, several documents, scalar, list, nothing", 5),
    "F08": ("values that YAML would read as something else", 5),
    "F09": ("links, pipe, device, socket, folder", 6),
    "F10": ("unreadable, open to everybody, hard link", 3),
    "F11": ("edited, deleted, renamed, replaced", 4),
    "F12": ("the same content, the same name again", 2),
    "F13": ("thousands at once", 2),
    "F14": ("overflow; no room for a watch", 2),
    "F15": ("deleted, made again, mounted over, shut", 4),
    "F16": ("no inotify; slow listing", 2),
    "F17": ("255 bytes, newline, not UTF-8", 3),
    "F18": ("the places of ended files are full or missing", 2),
}

#: Cases that have no test in this suite, and why.
LEFT_OUT = {
    "F13-million": "a million tasks come from one list, not from the folder: its memory is "
    "measured by tests/bench/daemon_bench.py",
    "F16-fuse": "a real FUSE or NFS mount needs a kernel module and a server; the kind of the "
    "file system is read from a list of mounts, which the test writes",
    "F18-tmpfs": "no move out of jobs/ needs room, since all places are on one file system; what "
    "needs some (reports, error texts) is refused it by injection",
}


def marks() -> dict[str, set[str]]:
    """Return what follows a row's id wherever a test carries it: name, parameter, or its line."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for line in path.read_text().splitlines():
            is_test = line.lstrip().startswith("def test_")
            if not (is_test or "id=" in line or "ids=" in line or re.match(r'\s+"F\d\d', line)):
                continue
            for row, case in re.findall(r"\b(?:test_)?([Ff]\d\d)(?:[-_]([\w.~#-]*))?", line):
                found.setdefault(row.upper(), set()).add(case or line.strip())
    return found


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test_for_each_of_its_cases(row):
    _, count = ROWS[row]
    left_out = [case for case in LEFT_OUT if case.startswith(row)]

    tested = marks().get(row, set())

    assert tested
    assert len(tested) + len(left_out) >= count, tested


def test_no_row_is_missing_and_none_is_invented():
    assert list(ROWS) == [f"F{number:02}" for number in range(1, 19)]
    assert set(marks()) <= set(ROWS)
    assert {case.partition("-")[0] for case in LEFT_OUT} <= set(ROWS)
