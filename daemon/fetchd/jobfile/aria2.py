"""aria2c's input lists: a line of URLs, and below it, indented, what is said of their file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fetchd.digests import ALGORITHMS
from fetchd.errors import DocumentError, Problem, ValueProblem
from fetchd.expand import ItemProblem, Recipe, Scope
from fetchd.model import Item, Job, Run, TaskGroup
from fetchd.urls import file_name_of
from fetchd.values import dataclass
from fetchd.yamldoc import did_you_mean

_MOST_PROBLEMS = 100
_LONGEST_SHOWN = 60
_KNOWN = ("out", "dir", "checksum")
#: They say how aria2c works, and nothing of the file.
_PASSED_OVER = {
    "allow-piece-length-change", "always-resume", "async-dns", "auto-file-renaming",
    "check-integrity", "conditional-get", "connect-timeout", "continue", "disk-cache",
    "file-allocation", "gid", "max-connection-per-server", "max-file-not-found",
    "max-resume-failure-tries", "max-tries", "min-split-size", "no-file-allocation-limit",
    "optimize-concurrent-downloads", "piece-length", "realtime-chunk-checksum", "retry-wait",
    "reuse-uri", "split", "stream-piece-selector", "timeout", "uri-selector",
}  # fmt: skip
#: How aria2c calls the algorithms that have another name here.
_ALGORITHMS = {f"sha-{bits}": f"sha{bits}" for bits in (1, 224, 256, 384, 512)}


@dataclass(frozen=True, slots=True)
class _Entry:
    """URLs of one file, where they are written, and what is said of it, by line."""

    line: int
    urls: tuple[str, ...]
    options: list[tuple[int, str]]


def load(text: str, file: str, revision: str, group: TaskGroup) -> Job:
    """Return the job of a list, named like its group, which the files of the list become items of.

    Raises DocumentError with every problem that was found.
    """
    problems: list[Problem] = []
    items: list[Item] = []
    for entry in _entries(text, problems):
        item = _item(entry, problems)
        if item is not None:
            items.append(item)
        if len(problems) >= _MOST_PROBLEMS:
            break
    job = Job(
        name=group.name,
        revision=revision,
        groups=(replace(group, items=tuple(items)),),
        dest=group.template.dest,
    )
    _try_out(job, items, problems)
    if not items and not problems:
        problems.append(Problem(message="names no file"))
    if problems:
        raise DocumentError(file, problems, text)
    return job


def _entries(text: str, problems: list[Problem]) -> Iterator[_Entry]:
    entry: _Entry | None = None
    for number, written in enumerate(text.split("\n"), 1):
        line = written.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] not in " \t":
            if entry is not None:
                yield entry
            urls = tuple(url.strip() for url in line.split("\t") if url.strip())
            entry = _Entry(number, urls, [])
        elif entry is None:
            problems.append(Problem(message="stands above the first URL", line=number, column=1))
        else:
            entry.options.append((number, line.strip()))
    if entry is not None:
        yield entry


def _item(entry: _Entry, problems: list[Problem]) -> Item | None:
    """Return the item of an entry, None if it is a bad one."""
    said: dict[str, str] = {}
    before = len(problems)
    for number, text in entry.options:
        key, equals, value = (part.strip() for part in text.partition("="))
        hint = ""
        if not equals:
            message = f"{text[:_LONGEST_SHOWN]!r} is no option; write name=value"
        elif key in _PASSED_OVER:
            continue
        elif key not in _KNOWN:
            message = (
                f"the option {key[:_LONGEST_SHOWN]!r} is not known; known: {', '.join(_KNOWN)}"
            )
            hint = did_you_mean(key, _KNOWN)
        elif key in said:
            message = f"{key} is written twice"
        else:
            try:
                said[key] = _checksum(value) if key == "checksum" else value
                continue
            except ValueProblem as exc:
                message = str(exc)
        problems.append(Problem(message=message, line=number, column=1, hint=hint))
    if len(problems) > before:
        return None
    name = said.get("out")
    if "dir" in said:
        name = f"{said['dir'].rstrip('/')}/{name or file_name_of(entry.urls[0])}"
    return Item(
        url=_literal(entry.urls[0]),
        filename=None if name is None else _literal(name),
        checksum=said.get("checksum"),
        line=entry.line,
        column=1,
        mirrors=tuple(map(_literal, entry.urls[1:])),
    )


def _checksum(value: str) -> str:
    algorithm, equals, digest = value.partition("=")
    name = _ALGORITHMS.get(algorithm.lower(), algorithm.lower())
    if not equals or name not in ALGORITHMS:
        known = ", ".join(_ALGORITHMS)
        raise ValueProblem(
            f"{value[:_LONGEST_SHOWN]!r} is no checksum; write ALGORITHM=HEX with md5, {known}"
        )
    return f"{name}:{digest}"


def _try_out(job: Job, items: list[Item], problems: list[Problem]) -> None:
    """Make every task once; two of them may not have one path."""
    run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=0.0)
    recipe = Recipe(Scope(job, run), job.groups[0])
    lines: dict[str, int | None] = {}
    for item in items:
        if len(problems) >= _MOST_PROBLEMS:
            return
        try:
            path = recipe.of_item(item).path
        except ItemProblem as exc:
            problems.append(Problem(message=str(exc), line=item.line, column=1))
            continue
        if path in lines:
            message = f"writes {path!r}, as line {lines[path]} does"
            problems.append(Problem(message=message, line=item.line, column=1))
        lines.setdefault(path, item.line)


def _literal(text: str) -> str:
    return text.replace("${", "$${")
