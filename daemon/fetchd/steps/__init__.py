"""Steps: what is done with a verified file, in staging, before anybody sees it.

Each is a module of its own and one line here. ``finish`` takes them one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from fetchd.steps import checksum_file, concat, decompress, extract, mode, run, symlink
from fetchd.steps.finish import Finisher
from fetchd.steps.kind import Kind, Option
from fetchd.steps.run import Command

__all__ = ["STEPS", "Command", "Finisher", "Kind", "Option", "with_commands"]

STEPS: Mapping[str, Kind] = {
    "extract": extract.KIND,
    "decompress": decompress.KIND,
    "concat": concat.KIND,
    "mode": mode.KIND,
    "checksum_file": checksum_file.KIND,
    "symlink": symlink.KIND,
    "run": run.KIND,
}


def with_commands(commands: Mapping[str, Command]) -> Mapping[str, Kind]:
    """Return all steps, with what the operator has configured for them."""
    return {**STEPS, "run": run.with_commands(commands)}
