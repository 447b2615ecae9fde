"""Job files that a person names on the command line."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fetchd.errors import UsageError, ValueProblem
from fetchd.expand import LIST_SUFFIXES, is_checksum, list_form
from fetchd.urls import check_url

if TYPE_CHECKING:
    from fetchd.config import Settings
    from fetchd.model import Job

SUFFIXES = (".yaml", ".yml", ".json", ".aria2", *LIST_SUFFIXES)
DEFAULTS = "_defaults.yaml"
#: What defaults are tried out with.
SOME_JOB = b"url: http://some.invalid/file\n"


def load(path: Path, settings: Settings, *, in_place: bool = False) -> Job:
    """Return the job of a file of any of ``SUFFIXES``; raises DocumentError, UsageError.

    ``in_place``: as it would be where it lies, with the defaults beside it.
    """
    from fetchd import jobfile  # noqa: PLC0415 -- loads pydantic

    listed = bool(list_form(path.name))
    if path.suffix not in SUFFIXES and not listed:
        raise UsageError(f"{path}: not a job file; its name must end in {', '.join(SUFFIXES)}")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: not a regular file")
        beside = path.with_name(DEFAULTS)
        defaults = beside.read_bytes() if in_place and beside.is_file() else b""
        if listed:
            name, place = str(path), str(path.absolute())
            return jobfile.list_job(name, place, _digest(path), settings, defaults)
        with path.open("rb") as file:
            data = file.read(settings.intake.max_job_bytes + 1)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    if in_place and path.name == DEFAULTS:
        jobfile.load_defaults(data, str(path), settings)
        return jobfile.load(SOME_JOB, str(path.with_name("some.yaml")), settings, data)
    return jobfile.load(data, str(path), settings, defaults)


def part_arguments(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return files, and URLs with the checksums that follow them; raises UsageError."""
    files: list[Path] = []
    urls: list[str] = []
    for argument in arguments:
        if "://" in argument:
            try:
                urls.append(check_url(argument))
            except ValueProblem as exc:
                raise UsageError(str(exc)) from None
        elif is_checksum(argument) and not Path(argument).exists():
            if not urls:
                raise UsageError(f"the checksum {argument} must stand behind a URL")
            urls.append(argument)
        else:
            files.append(Path(argument))
    return files, urls


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
