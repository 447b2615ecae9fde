"""Runs downloaders against the hostile matrix: ``python -m tests.faults --driver curl --table``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from .drivers import CLEAN, DRIVERS, RIGHT, VERDICTS, Driver, Result, run
from .scenarios import Scenario, scenarios


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when nothing was fooled, 1 when something was, 2 for wrong usage."""
    parser = _parser()
    given = parser.parse_args(arguments)
    known = {scenario.name: scenario for scenario in scenarios()}
    if given.list:
        for scenario in known.values():
            print(f"{scenario.name:24} {scenario.title}")
        return 0
    names = list(DRIVERS) if "all" in given.driver else list(dict.fromkeys(given.driver))
    if not names:
        parser.error("--driver is missing")
    cases = list(dict.fromkeys(given.case)) or list(known)
    if unknown := [case for case in cases if case not in known]:
        parser.error(f"no scenario {unknown[0]!r}; --list shows them")
    drivers = [DRIVERS[name] for name in names if DRIVERS[name].installed]
    for name in names:
        if not DRIVERS[name].installed:
            print(f"{name}: not installed, left out", file=sys.stderr)
    results = _run(drivers, cases, given.at_once)
    versions = {driver.name: driver.version_line() for driver in drivers}
    if given.json is not None:
        report = {"versions": versions, "results": [asdict(result) for result in results]}
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if given.table:
        print(table([known[case] for case in cases], versions, results))
    return 0 if all(result.verdict in {RIGHT, CLEAN} for result in results) else 1


def table(rows: Iterable[Scenario], versions: dict[str, str], results: Iterable[Result]) -> str:
    """Return the results as a Markdown table, with the versions below it."""
    verdicts = {(result.scenario, result.driver): result.verdict for result in results}
    lines = [["", *versions], ["---"] * (len(versions) + 1)]
    for scenario in rows:
        cells = [verdicts[scenario.name, driver] for driver in versions]
        marked = [cell if cell in {RIGHT, CLEAN} else f"**{cell}**" for cell in cells]
        lines.append([scenario.title, *marked])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    legend = "\n".join(f"- {name}: {meaning}." for name, meaning in VERDICTS.items())
    return f"{text}\n\n{legend}\n\nVersions: {', '.join(dict.fromkeys(versions.values()))}."


def _run(drivers: Sequence[Driver], cases: Sequence[str], at_once: int) -> list[Result]:
    """Run all pairs, several at a time, and tell each as it ends."""
    results = []
    with ThreadPoolExecutor(at_once) as threads:
        futures = []
        for driver in drivers:
            fresh = {scenario.name: scenario for scenario in scenarios()}
            futures += [threads.submit(run, driver, fresh[case]) for case in cases]
        for future in as_completed(futures):
            result = future.result()
            results.append(result)
            print(
                f"{result.driver:9} {result.scenario:24} {result.verdict:10} "
                f"{result.seconds:5.1f} s  exit {result.exit}, {result.note}",
                file=sys.stderr,
            )
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Run downloaders against servers that cut, lie and change files.",
    )
    parser.add_argument(
        "--driver",
        action="append",
        default=[],
        choices=[*DRIVERS, "all"],
        help="a downloader; may be repeated",
    )
    parser.add_argument(
        "--case", action="append", default=[], help="only this scenario; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument("--table", action="store_true", help="print a Markdown table of verdicts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    parser.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="how many run at a time (default: 4)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
