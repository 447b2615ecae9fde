"""Pages that are public interface say exactly what the code does."""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

from fetchd import cli, events
from fetchd.errors import CODES
from fetchd.listeners import LINES, Stats
from fetchd.listeners.stats import ALWAYS
from harness import FakeClock

DOCS = Path(__file__).parents[2] / "docs"

#: Lines that are not made of an event, by where they are made.
OTHERS = {"log.dropped": "logs", "library.logged": "logs", "listener.failed": "listeners"}


def rows(page: str, columns: int) -> list[list[str]]:
    """Return the rows of all tables with so many columns whose first cell is code."""
    text = (DOCS / page).read_text()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if "|" in line]
    return [
        [cell.strip() for cell in row] for row in cells if len(row) == columns and "`" in row[0]
    ]


def test_the_page_of_events_is_the_code_in_both_directions():
    written = {
        row[0].strip("`"): (row[1], row[2])
        for row in rows("events.md", 4)
        if row[0].strip("`") not in OTHERS
    }
    made = {
        line.name: (
            logging.getLevelName(line.level).lower(),
            ", ".join(field.name for field in fields(kind)),
        )
        for kind, line in LINES.items()
    }

    assert written == made


def test_lines_that_are_no_event_are_on_the_page_and_in_the_code():
    written = {row[0].strip("`") for row in rows("events.md", 4)}
    package = Path(events.__file__).parent

    assert set(OTHERS) <= written
    for name, room in OTHERS.items():
        assert any(f'"{name}"' in path.read_text() for path in (package / room).rglob("*.py"))


def test_every_total_is_explained():
    explained = {name for row in rows("events.md", 2) for name in re.findall(r"`(\w+)`", row[0])}

    assert explained >= set(ALWAYS) | set(Stats(FakeClock()).snapshot())


def test_the_page_of_reason_codes_is_the_code():
    written = [tuple(row) for row in rows("reason-codes.md", 3)]

    assert written == [
        (f"`{name}`", "repeated" if code.transient else "final", code.meaning)
        for name, code in CODES.items()
    ]


def test_every_command_is_on_the_page_of_operations():
    text = (DOCS / "operations.md").read_text()

    for name in set(cli.COMMANDS) - {"version"}:
        assert f"`fetchd {name}" in text


def test_every_exit_code_is_on_the_page_of_operations():
    codes = {*cli.EXIT_CODES.values(), cli.EXIT_INTERNAL, cli.EXIT_INTERRUPTED, 0, 1}
    written = set(re.findall(r"^\| (\d+) \|", (DOCS / "operations.md").read_text(), re.MULTILINE))

    assert written == {str(code) for code in codes}


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["../README.md", *sorted(path.name for path in DOCS.glob("*.md"))])
def test_links_lead_to_pages_and_headings_that_are_there(page):
    here = DOCS / page
    for link in re.findall(r"\]\(([^)\s:]+)\)", prose(here)):
        target, _, anchor = link.partition("#")
        there = here.parent / target if target else here
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link
