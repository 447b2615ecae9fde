"""Bytes of a job file -> a Job, or every error in it with its place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from fetchd.config import Settings
from fetchd.digests.sums import is_of_a_folder, summed_file
from fetchd.errors import DocumentError, Problem, ValueProblem
from fetchd.expand import MetalinkProblem, Scope, check_list, is_checksum, list_form
from fetchd.jobfile import aria2, times
from fetchd.jobfile.build import Built, build, default_rules, drafts, lower
from fetchd.jobfile.check import try_out, try_steps, with_needs
from fetchd.jobfile.complaints import Complaints
from fetchd.jobfile.defaults import NAME as NAME_OF_DEFAULTS
from fetchd.jobfile.defaults import check_defaults, defaults_of, over
from fetchd.jobfile.ends import check_names, groups_of
from fetchd.jobfile.reading import Unread, read
from fetchd.jobfile.schema import NAME, JobFile, schema
from fetchd.jobfile.together import together, with_end
from fetchd.model import CatchUp, Job, ListFile, OnRemove, Priority, Run, Schedule, TaskGroup
from fetchd.rates import Rate
from fetchd.yamldoc import parse_json, parse_yaml, plain, require_fields, text_of

__all__ = ["job_name", "list_job", "load", "load_defaults", "schema", "url_job"]

_MOST_ITEMS = 200_000  # of tasks that inherit a list; one that is written out has fewer


def load(data: bytes, file: str, settings: Settings, defaults: bytes = b"") -> Job:
    """Return the job that a file describes. ``file``: its name, as errors shall show it.

    ``defaults``: the content of the ``_defaults.yaml`` beside it. Raises DocumentError with every
    problem that was found.
    """
    if PurePath(file).suffix == ".aria2":
        return _list_of_aria2(data, file, settings, defaults)
    parse = parse_json if PurePath(file).suffix == ".json" else parse_yaml
    text = text_of(data)
    node = parse(data, file, max_bytes=settings.intake.max_job_bytes)
    tree = require_fields(node, file, text)
    content, inherited = _present(plain(tree)), {}
    if defaults:
        below = load_defaults(defaults, file, settings)
        inherited = dict.fromkeys(below.keys() - content.keys(), defaults_of(file))
        content = over(below, content)
    return _job(content, file, settings, Complaints(file, tree, text, inherited))


def _list_of_aria2(data: bytes, file: str, settings: Settings, defaults: bytes) -> Job:
    try:
        name = job_name(file)
    except ValueProblem as exc:
        raise DocumentError(file, [Problem(message=str(exc))]) from None
    most = settings.intake.max_job_bytes
    if len(data) > most:
        message = f"larger than the {most} bytes that are allowed"
        raise DocumentError(file, [Problem(message=message)])
    text = text_of(data)
    if "\ufffd" in text and not _is_utf8(data):
        raise DocumentError(file, [Problem(message="the file is not valid UTF-8")])
    group = TaskGroup(name=name, items=(), rules=default_rules(settings))
    group, revision = _below(defaults, group, hashlib.sha256(data).hexdigest(), file, settings)
    job = aria2.load(text, file, revision, group)
    return replace(job, max_total_bytes=settings.limits.total_bytes)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def load_defaults(data: bytes, beside: str, settings: Settings) -> dict[str, Any]:
    """Return the keys that hold for all job files of a folder. ``beside``: the name of one.

    Raises DocumentError, as ``load``.
    """
    file = defaults_of(beside)
    node = parse_yaml(data, file, max_bytes=settings.intake.max_job_bytes)
    text = text_of(data)
    tree = require_fields(node, file, text)
    content, complaints = _present(plain(tree)), Complaints(file, tree, text)
    check_defaults(content, settings, complaints)
    complaints.raise_any()
    return content


def list_job(file: str, path: str, digest: str, settings: Settings, defaults: bytes = b"") -> Job:
    """Return the job of a list; ``file``: its name, as errors shall show it, with its ending.

    ``path``: where the file stands now, absolute; ``digest`` (hex) of its content. ``defaults``: as
    for ``load``. Raises DocumentError where it cannot be read as a whole, and OSError.
    """
    name = job_name(file)
    listed = ListFile(path=path, format=list_form(file))
    group = TaskGroup(name=name, items=listed, rules=default_rules(settings))
    group, revision = _below(defaults, group, digest, file, settings)
    if listed.format == "sums" and not group.template.base:
        raise DocumentError(file, [Problem(message=_where_to_say_base(file, defaults))])
    try:
        check_list(listed)
    except MetalinkProblem as exc:
        problem = Problem(message=str(exc), line=exc.line, column=exc.column)
        raise DocumentError(file, [problem]) from None
    return Job(
        name=name,
        revision=revision,
        groups=(group,),
        dest=group.template.dest,
        max_total_bytes=settings.limits.total_bytes,
    )


def _where_to_say_base(file: str, defaults: bytes) -> str:
    name = PurePath(file).name
    how = (
        f"write base: https://... into {defaults_of(file)}"
        if defaults
        else f"put {name} into a subfolder of the jobs folder with a {NAME_OF_DEFAULTS} that says "
        "base: https://..."
    )
    return f"a file of checksums does not say where its files are; {how}"


def _below(
    defaults: bytes, group: TaskGroup, revision: str, file: str, settings: Settings
) -> tuple[TaskGroup, str]:
    """Return a group of a file that has no keys of its own, and its revision, with defaults."""
    if not defaults:
        return group, revision
    content = load_defaults(defaults, file, settings)
    complaints = Complaints(defaults_of(file))
    built = check_defaults(content, settings, complaints)
    for key in ("matrix", "from"):
        if content.get(key):
            why = "cannot hold for a list, which says itself what is to be fetched; "
            complaints.add((key,), f"{why}move {PurePath(file).name} to another folder")
    group = replace(built.group, name=group.name, items=group.items)
    revision = hashlib.sha256(f"{revision} {_revision(content)}".encode()).hexdigest()
    job = Job(name=group.name, revision=revision, groups=(group,))
    run = Run(id=1, job=job.name, revision=revision, scheduled_for_s=0.0)
    try_steps(Scope(job, run), group, ("steps",), complaints)
    complaints.raise_any()
    return group, revision


def url_job(urls: Sequence[str], settings: Settings, *, name: str, dest: str) -> Job:
    """Return the job of a command's arguments: URLs, each perhaps followed by algorithm:hex.

    Raises DocumentError.
    """
    complaints = Complaints("arguments")
    lines: list[str] = []
    for url in urls:
        if not is_checksum(url):
            lines.append(url)
        elif lines:
            lines[-1] += f"\t{url}"
        else:
            complaints.add((), f"the checksum {url} stands before any URL")
    content = {"name": name, "dest": _literal(dest), "urls": [_literal(line) for line in lines]}
    return _job(content, "", settings, complaints)


def job_name(file: str) -> str:
    """Return the name of the job in a file that does not say one: the file's own, without suffix.

    Names of lists cannot be said in them, so any other character becomes ``-``; for other files
    a ValueProblem is raised.
    """
    path = PurePath(file)
    if form := list_form(file):
        name = _name_of_sums(path) if form == "sums" else path.stem
        return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:128] or "list"
    if not NAME.fullmatch(path.stem):
        raise ValueProblem(
            f"the file's name {path.stem!r} cannot be the job's (letters, digits, '.', '_', '-', "
            "at most 128, the first a letter or digit); write name: or rename the file"
        )
    return path.stem


def _name_of_sums(path: PurePath) -> str:
    """Return what a sums file is of; many are called SHA256SUMS, so its folder tells it apart."""
    stem = path.stem if path.suffix.lower() == ".txt" else path.name
    if is_of_a_folder(path.name):
        return f"{path.parent.name}-{stem}"
    return summed_file(path.name) or stem


def _job(content: dict[str, Any], file: str, settings: Settings, complaints: Complaints) -> Job:
    revision = _revision(content)
    keys, unread = read(content, complaints)
    name = keys.name
    if name is None:
        try:
            name = job_name(file)
        except ValueProblem as exc:
            name = "unnamed"
            if "name" not in unread.top:
                complaints.add((), str(exc))
    defaults = default_rules(settings)
    built: list[Built] = []
    room = _MOST_ITEMS
    for draft in drafts(keys, name, unread):
        built.append(build(draft, keys, settings, defaults, complaints))
        room -= len(built[-1].items) + _values(built[-1].group)
        if room < 0:
            complaints.add(draft.prefix, "the urls above the tasks, taken by each, are too many")
            complaints.raise_any()
    ends = groups_of(keys, unread, settings, defaults, complaints)
    check_names(built, keys, complaints)
    job = Job(
        name=name,
        revision=revision,
        groups=(*with_needs(built, unread, complaints), *ends),
        description=keys.description or "",
        priority=Priority.NORMAL if keys.priority is None else keys.priority,
        timezone=keys.timezone,
        dest=keys.dest or "",
        variables=keys.vars or {},
        concurrency=keys.limits.concurrency if keys.limits else None,
        max_total_bytes=lower(
            settings.limits.total_bytes, keys.limits.total if keys.limits else None
        ),
        rate=_rate(keys),
        schedule=_schedule(keys, unread, complaints),
        window=times.window_of(keys.window or ()),
        keep=bool(keys.keep),
        on_remove=keys.on_remove or OnRemove.DRAIN,
        fail_fast=bool(keys.fail_fast),
    )
    if not built and not unread.tasks:
        complaints.add(("tasks",), "names no task")
    if "vars" not in unread.top:
        job = together(job, keys, built, unread, complaints)
        try_out(job, built, unread, complaints)
    complaints.raise_any()
    return with_end(job, defaults)


def _values(group: TaskGroup) -> int:
    """Return how many values a group's matrix names: those of ranges are not written out."""
    if group.matrix is None:
        return 0
    lists = (said for _, said in group.matrix.axes if not isinstance(said, str))
    return sum(map(len, (*lists, *group.matrix.include, *group.matrix.exclude)))


def _revision(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _rate(keys: JobFile) -> Rate | None:
    rate = keys.limits.rate if keys.limits else None
    return None if rate is None else replace(rate, zone=keys.timezone)


def _schedule(keys: JobFile, unread: Unread, complaints: Complaints) -> Schedule | None:
    written = keys.schedule
    if written is None or "schedule" in unread.top:
        return None
    kinds = [key for key in ("cron", "daily", "every") if getattr(written, key) is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        complaints.add(("schedule",), f"needs one of cron, daily and every; {found} found")
    elif written.every is not None and written.every < times.LEAST_INTERVAL_S:
        complaints.add(("schedule", "every"), f"at least {times.LEAST_INTERVAL_S:g}s is possible")
    elif written.every is not None and (written.jitter or 0.0) >= written.every:
        complaints.add(
            ("schedule", "jitter"), "must be shorter than every, or runs would be left out"
        )
    return Schedule(
        cron=written.cron or written.daily or "",
        every_s=written.every,
        jitter_s=written.jitter or 0.0,
        catch_up=written.catch_up or CatchUp.ONCE,
    )


def _literal(text: str) -> str:
    return text.replace("${", "$${")


def _present(keys: dict[str, Any]) -> dict[str, Any]:
    """Return keys without those that have no value; a task may have none, all being above it."""
    present: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "tasks" and isinstance(value, dict):
            present[key] = {
                task: _present(own) if isinstance(own, dict) else own for task, own in value.items()
            }
        elif value is not None:
            present[key] = _present(value) if isinstance(value, dict) else value
    return present
