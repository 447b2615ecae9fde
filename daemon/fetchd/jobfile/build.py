"""From the keys as written to the groups of a job: inheritance, limits, items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import Any

from pydantic import BaseModel

from fetchd.config import Settings
from fetchd.errors import ValueProblem
from fetchd.expand import FORMATS, compared_in, names_in, options_of, split_line
from fetchd.jobfile.complaints import Complaints, Path
from fetchd.jobfile.reading import Unread
from fetchd.jobfile.schema import (
    ExpectKeys,
    FromHeader,
    FromKeys,
    JobFile,
    RetryKeys,
    TaskEntry,
    TaskKeys,
    TimeoutKeys,
)
from fetchd.jobfile.steps import read_steps
from fetchd.model import (
    Condition,
    IfExists,
    Item,
    Manifest,
    Matrix,
    RetryPolicy,
    Rules,
    StepSpec,
    TaskGroup,
    Template,
    Timeouts,
    Verify,
)
from fetchd.yamldoc import did_you_mean

#: Keys that say how something is fetched, or of which it is one of many.
_OF_FETCHING = (
    "base", "filename", "checksum", "sums", "size", "verify", "expect", "headers", "segments",
    "timeout", "wait_for", "matrix", "from",
)  # fmt: skip
_STRENGTH = {Verify.NONE: 0, Verify.LENGTH: 1, Verify.DIGEST: 2}


@dataclass(frozen=True, slots=True)
class Draft:
    """One task as written: its own keys over those at the top of the file."""

    name: str
    prefix: Path  # where its own keys stand: ("tasks", name), or () for a file without tasks
    own: TaskKeys
    top: TaskKeys
    hurt: frozenset[str]  # keys that could not be read; what follows from that is not reported

    @property
    def written_needs(self) -> list[str]:
        return (self.own.needs or []) if isinstance(self.own, TaskEntry) else []

    def place(self, key: str, within: str | None = None) -> Path:
        """Return where the key that holds for this task is written, and what is ``within`` it."""
        own = getattr(self.own, _field(key), None)
        if within is None:
            return (*self.prefix, key) if own is not None else (key,)
        return (*self.prefix, key, within) if own and within in own else (key, within)

    def get(self, key: str) -> Any:
        """Return the value that holds: own keys first, mappings merged one level deep."""
        own, top = getattr(self.own, _field(key)), getattr(self.top, _field(key))
        if own is None:
            return top
        if key == "matrix" and top is not None:
            return {**top, **own} if own else own
        if isinstance(own, BaseModel | dict) and top is not None:
            return _merged(own, top)
        return own


def _field(key: str) -> str:
    return f"{key}_" if iskeyword(key) else key


@dataclass(frozen=True, slots=True)
class Built:
    """A task's group, and its items by where they are written.

    ``blind``: names that its texts use may be missing because of an error that was told.
    """

    draft: Draft
    group: TaskGroup
    items: dict[Path, Item]
    blind: bool = False


def drafts(job: JobFile, name: str, unread: Unread) -> list[Draft]:
    """Return the tasks of a file; without ``tasks`` the one that is named like the job."""
    if job.tasks is None:
        return [Draft(name, (), job, job, frozenset(unread.top))]
    return [
        Draft(
            task,
            ("tasks", task),
            entry or TaskEntry(),
            job,
            frozenset(unread.top | unread.of_task.get(task, set())),
        )
        for task, entry in job.tasks.items()
    ]


def default_rules(settings: Settings) -> Rules:
    """Return what holds where a job says nothing."""
    retry, timeout = settings.retry, settings.timeout
    return Rules(
        verify=max(Verify(settings.verify), Verify.LENGTH, key=_STRENGTH.__getitem__),
        max_bytes=settings.limits.file_bytes,
        retry=RetryPolicy(
            attempts=retry.attempts,
            delay_s=retry.delay_s,
            max_delay_s=retry.max_delay_s,
            give_up_after_s=retry.give_up_after_s,
            max_retry_after_s=retry.max_retry_after_s,
        ),
        timeouts=Timeouts(
            connect_s=timeout.connect_s,
            stall_s=timeout.stall_s,
            stall_bytes_per_s=timeout.stall_bytes_per_s,
            attempt_s=timeout.attempt_s,
        ),
    )


def build(
    draft: Draft, job: JobFile, settings: Settings, defaults: Rules, complaints: Complaints
) -> Built:
    """Return the task's group; what is wrong is complained about and left out."""
    if _gathers(draft):
        return _built_of_needs(draft, job, settings, defaults, complaints)
    items = _items(draft, complaints)
    before = complaints.count
    matrix = _matrix(draft, job, complaints)
    manifest = _manifest(draft, matrix, items, settings, complaints)
    if manifest is not None and not items:
        item = FORMATS[manifest.format].item
        items = {} if item is None else {draft.place("from"): item}
    from_header = draft.get("filename") is FromHeader.YES
    blind = complaints.count > before or bool(draft.hurt & {"matrix", "from"})
    group = TaskGroup(
        name=draft.name,
        items=tuple(items.values()),
        template=Template(
            base=draft.get("base") or (),
            dest=draft.get("dest") or "",
            filename=None if from_header else draft.get("filename"),
            checksums=draft.get("checksum") or (),
            sums=draft.get("sums"),
            from_header=from_header,
        ),
        rules=_rules(draft, job, settings, defaults, complaints),
        matrix=matrix,
        may_fail=bool(draft.get("may_fail")),
        manifest=manifest,
        when=_condition(draft, matrix, complaints),
        steps=_steps(draft, settings, complaints),
    )
    return Built(draft, group, items, blind)


def _steps(draft: Draft, settings: Settings, complaints: Complaints) -> tuple[StepSpec, ...]:
    return read_steps(
        draft.get("steps") or [],
        draft.place("steps"),
        complaints,
        commands=settings.commands,
        webhooks=settings.webhooks,
    )


def _gathers(draft: Draft) -> bool:
    """Tell whether the task fetches nothing, and its steps work on files of other tasks."""
    if not draft.prefix or draft.hurt & {"url", "urls", "from", "tasks"}:
        return False
    return bool(draft.get("steps")) and not any(map(draft.get, ("url", "urls", "from")))


def _built_of_needs(
    draft: Draft, job: JobFile, settings: Settings, defaults: Rules, complaints: Complaints
) -> Built:
    """Return the group of a task that fetches nothing.

    Keys above the tasks that say how others are fetched mean nothing here.
    """
    for key in _OF_FETCHING:
        if getattr(draft.own, _field(key)) is not None:
            complaints.add(
                draft.place(key),
                "means nothing for a task without url: it fetches nothing",
                at_key=True,
            )
    group = TaskGroup(
        name=draft.name,
        items=(),
        template=Template(dest=draft.get("dest") or ""),
        rules=_rules(draft, job, settings, defaults, complaints),
        may_fail=bool(draft.get("may_fail")),
        when=_condition(draft, None, complaints),
        steps=_steps(draft, settings, complaints),
        gathers=True,
    )
    return Built(draft, group, {})


def lower(*limits: int | None) -> int | None:
    """Return the lowest of some limits, None where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def _items(draft: Draft, complaints: Complaints) -> dict[Path, Item]:
    own = draft.own.url is not None or draft.own.urls is not None
    holder, prefix = (draft.own, draft.prefix) if own else (draft.top, ())
    if holder.url is not None and holder.urls is not None:
        complaints.add((*prefix, "urls"), "stands beside url; a task has one or the other")
    elif holder.url is not None:
        place = (*prefix, "url")
        line, column = complaints.place(place)
        return {place: Item(url=holder.url, line=line, column=column)}
    elif holder.urls:
        return _listed(holder.urls, (*prefix, "urls"), complaints)
    elif draft.get("from") is None and not draft.hurt & {"url", "urls", "tasks", "from"}:
        complaints.add(
            draft.prefix,
            "has no url and no urls; a task without them has steps, which work on the files of the "
            "tasks that it needs",
            at_key=True,
        )
    return {}


def _listed(lines: list[object], path: Path, complaints: Complaints) -> dict[Path, Item]:
    items: dict[Path, Item] = {}
    for index, text in enumerate(lines):
        place = (*path, index)
        if not isinstance(text, str) or not text.strip():
            complaints.add(place, "needs a line: URL [filename] [algorithm:hex]")
            continue
        try:
            url, filename, checksum = split_line(text.strip(" \t"))
        except ValueProblem as exc:
            complaints.add(place, str(exc))
            continue
        line, column = complaints.place(place)
        items[place] = Item(url=url, filename=filename, checksum=checksum, line=line, column=column)
    return items


def _rules(
    draft: Draft, job: JobFile, settings: Settings, defaults: Rules, complaints: Complaints
) -> Rules:
    retry = draft.get("retry") or RetryKeys()
    timeout = draft.get("timeout") or TimeoutKeys()
    expect = draft.get("expect") or ExpectKeys()
    stall_s, stall_rate = timeout.stall or (None, None)
    return Rules(
        root=_root(draft, settings, complaints),
        if_exists=draft.get("if_exists") or IfExists.UPDATE,
        verify=_verify(draft, settings, defaults, complaints),
        size=draft.get("size"),
        max_bytes=lower(defaults.max_bytes, job.limits.file if job.limits else None),
        expect_type=expect.type,
        magic=expect.magic or (),
        headers=tuple((draft.get("headers") or {}).items()),
        segments=draft.get("segments") or None,
        retry=replace(
            defaults.retry,
            **_given(
                attempts=retry.attempts,
                delay_s=retry.delay,
                max_delay_s=retry.max_delay,
                wait_for_s=draft.get("wait_for"),
            ),
        ),
        timeouts=replace(
            defaults.timeouts,
            **_given(
                connect_s=timeout.connect,
                stall_s=stall_s,
                stall_bytes_per_s=stall_rate,
                attempt_s=timeout.attempt,
            ),
        ),
    )


def _matrix(draft: Draft, job: JobFile, complaints: Complaints) -> Matrix | None:
    """Return the matrix, without what is wrong with it."""
    written: dict[str, Any] = draft.get("matrix") or {}
    axes = {name: said for name, said in written.items() if name not in {"include", "exclude"}}
    for name, said in list(axes.items()):
        if not isinstance(said, str | tuple):
            complaints.add(draft.place("matrix", name), "needs single values, not mappings")
            del axes[name]
        elif name in (job.vars or {}):
            complaints.add(
                draft.place("matrix", name),
                f"{name!r} is in vars, too; choose another name",
                at_key=True,
            )
    include, exclude = (
        _combinations(draft, key, written.get(key, ()), axes, complaints)
        for key in ("include", "exclude")
    )
    if not (axes or include):
        return None
    return Matrix(axes=tuple(axes.items()), include=include, exclude=exclude)


def _combinations(
    draft: Draft, key: str, written: Any, axes: dict[str, Any], complaints: Complaints
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return what stands in ``include`` or ``exclude`` of a matrix, but for what is wrong."""
    if isinstance(written, str) or not all(isinstance(one, dict) for one in written):
        complaints.add(
            draft.place("matrix", key), "needs a list of combinations: [{ arch: arm64 }]"
        )
        return ()
    names = list(axes or (written[0] if key == "include" and written else ()))
    good = []
    for index, one in enumerate(written):
        place = (*draft.place("matrix", key), index)
        unknown = [name for name in one if name not in names]
        missing = [name for name in names if name not in one]
        if unknown and not draft.hurt & {"matrix"}:
            hint = did_you_mean(unknown[0], names)
            complaints.add(place, f"{unknown[0]!r} is no name of the matrix", hint)
        elif missing and key == "include" and not draft.hurt & {"matrix"}:
            complaints.add(place, f"says nothing of {missing[0]!r}; write all names of the matrix")
        elif not unknown:
            good.append(tuple((name, one[name]) for name in names if name in one))
    return tuple(good)


def _manifest(
    draft: Draft,
    matrix: Matrix | None,
    items: dict[Path, Item],
    settings: Settings,
    complaints: Complaints,
) -> Manifest | None:
    """Return where the items come from; complain about what cannot be."""
    said: FromKeys | None = draft.get("from")
    if said is None or said == FromKeys():
        return None
    before = complaints.count
    needed = {"file": "the path of the manifest", "format": f"one of {', '.join(FORMATS)}"}
    for key, what in needed.items():
        if getattr(said, key) is None and "from" not in draft.hurt:
            complaints.add(draft.place("from"), f"needs {key}: {what}")
    if matrix is not None:
        complaints.add(draft.place("from"), "stands beside a matrix; a task has one or the other")
    if said.root is not None and said.root not in settings.roots:
        complaints.add(
            (*draft.place("from"), "root"),
            f"{said.root!r} is not a download root of the configuration; "
            f"known: {', '.join(settings.roots)}",
            did_you_mean(said.root, settings.roots),
        )
    if said.file is None or said.format is None:
        return None
    manifest = Manifest(
        file=said.file,
        format=said.format,
        root=said.root,
        items=said.items or "",
        pattern=said.pattern or "",
        delimiter=said.delimiter or "",
        columns=said.columns or (),
    )
    form = FORMATS[said.format]
    for key in ("items", "pattern", "delimiter", "columns"):
        if getattr(said, key) is not None and key not in form.options:
            complaints.add(
                (*draft.place("from"), key), f"means nothing for format {said.format}", at_key=True
            )
    try:
        form.check(options_of(manifest, ""))
    except ValueProblem as exc:
        (key, *_) = [key for key in form.options if getattr(said, key) is not None]
        complaints.add((*draft.place("from"), key), str(exc))
    if not items and form.item is None and not form.alone:
        complaints.add(
            draft.prefix, "has no url; write which field of an item it is: ${item.url}", at_key=True
        )
    return None if complaints.count > before else manifest


def _condition(draft: Draft, matrix: Matrix | None, complaints: Complaints) -> Condition | None:
    text = draft.get("if")
    if text is None:
        return None
    names = {name.removeprefix("matrix.") for name in names_in([text])}
    compares = compared_in(text)
    each = matrix is not None and not names.isdisjoint(matrix.names)
    each = each or any(name.partition(".")[0] == "item" for name in names)
    if each and compares:
        complaints.add(
            draft.place("if"),
            "compares a file that is one for all with what each task has for itself; write either",
        )
    return Condition(text=text, each=each, compares=compares)


def _root(draft: Draft, settings: Settings, complaints: Complaints) -> str:
    root = draft.get("root") or "default"
    if root not in settings.roots and "root" not in draft.hurt:
        known = ", ".join(settings.roots)
        complaints.add(
            draft.place("root"),
            f"{root!r} is not a download root of the configuration; known: {known}",
            did_you_mean(root, settings.roots),
        )
    return root


def _verify(draft: Draft, settings: Settings, defaults: Rules, complaints: Complaints) -> Verify:
    verify: Verify = draft.get("verify") or defaults.verify
    if _STRENGTH[verify] < _STRENGTH[Verify(settings.verify)]:
        complaints.add(
            draft.place("verify"),
            f"{verify.value!r} asks for less than the configuration, "
            f"which has verify: {settings.verify}",
        )
    return verify


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _merged(own: Any, top: Any) -> Any:
    """Return a mapping over the one above it; an empty one clears."""
    if isinstance(own, BaseModel):
        given = _given(**dict(own))
        return top.model_copy(update=given) if given else own
    names = {name.lower() for name in own}  # of headers, which have no case
    return {**{n: v for n, v in top.items() if n.lower() not in names}, **own} if own else own
