"""What only the whole job shows: needs, cycles, each item tried, doubled destinations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeGuard

from fetchd.errors import ValueProblem
from fetchd.expand import (
    FORMATS,
    AxisProblem,
    Combinations,
    ItemProblem,
    Lookup,
    Recipe,
    Scope,
    clean_path,
    names_in,
    needs_of,
    step_lookup,
    texts_of,
)
from fetchd.jobfile.build import Built
from fetchd.jobfile.complaints import Complaints, Path
from fetchd.jobfile.needs import order
from fetchd.jobfile.reading import Unread
from fetchd.model import Job, Manifest, Run, TaskGroup, Verify
from fetchd.steps import STEPS, Option
from fetchd.variables import references, render, unknown
from fetchd.yamldoc import did_you_mean

#: A template without one of its keys.
_ABSENT: dict[str, dict[str, Any]] = {
    "base": {"base": ()},
    "dest": {"dest": ""},
    "filename": {"filename": None},
    "checksum": {"checksums": ()},
    "sums": {"sums": None},
}
_SHOWN_OF_A_CYCLE = 8
_MOST_COMPARED = 300
_MOST_OF_URLS = 64 * 1024 * 1024  # characters; bases and variables could multiply a small file
_SOME_TIME_S = 1_000_000_000.0
_NO_VALUES: Mapping[str, str] = MappingProxyType({})
#: What a task's own file decides.
_MADE_UP = {"url", "url.path", "task.path"}
#: Of a matrix so many combinations are tried; of others a destination may still be taken.
_MOST_COMBINATIONS_TRIED = 1000


def with_needs(
    built: Sequence[Built], unread: Unread, complaints: Complaints
) -> tuple[TaskGroup, ...]:
    """Return the groups with what they need: what their texts refer to, then what is written."""
    known = {one.group.name for one in built}
    return tuple(replace(one.group, needs=_needs(one, known, unread, complaints)) for one in built)


def try_out(job: Job, built: Sequence[Built], unread: Unread, complaints: Complaints) -> None:
    """Make every task once, as for a run, and complain about all that cannot be made."""
    tasks = [group for group in job.groups if group.end is None]
    names, cycles = order({group.name: group.needs for group in tasks})
    by_name = {one.group.name: one for one in built}
    for cycle in cycles:
        draft = by_name[cycle[0]].draft
        shown = cycle if len(cycle) <= _SHOWN_OF_A_CYCLE else [*cycle[:4], "...", *cycle[-3:]]
        complaints.add(
            draft.place("needs") if draft.written_needs else draft.prefix,
            f"the needs go in a circle: {' -> '.join(shown)}",
            at_key=not draft.written_needs,
        )
    run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=_SOME_TIME_S)
    scope = Scope(job, run)
    blind = set(unread.variables)
    for name, reason in scope.bad_variables.items():
        if blind.isdisjoint(names_in([job.variables[name]])):
            complaints.add(("vars", name), reason)
        blind.add(name)
    done = set(names)
    stuck = [name for name in by_name if name not in done]
    for end in job.groups:
        if end.end is not None and blind.isdisjoint(names_in(texts_of(end))):
            try_steps(scope, end, (end.name,), complaints)
    trial = _Trial(scope, blind, set(stuck), complaints)
    for name in (*names, *stuck):
        if complaints.full or trial.room < 0:
            break
        trial.make(by_name[name])


def try_steps(
    scope: Scope,
    group: TaskGroup,
    place: Path,
    complaints: Complaints,
    values: Mapping[str, str] = _NO_VALUES,
) -> None:
    """Put the variables into the options of the steps once; ``place``: where these stand.

    ``values``: those of a combination of the group's matrix, or fields of an item.
    """
    look = step_lookup(scope, group, "http://localhost/x", "x", values)
    said = "" if isinstance(values, _AnyItem) else _said(values)
    for index, step in enumerate(group.steps):
        for key, value in step.options.items():
            try:
                _try_option(STEPS[step.name].options[key], value, look)
            except ValueProblem as exc:
                why = f"for ({said}): {exc}" if said else str(exc)
                complaints.add((*place, index, step.name, key), why)


def _try_option(option: Option, value: object, look: Lookup) -> None:
    """See what variables make of an option, as far as that is known before the work begins."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if _is_text(text)]
    names = {name for text in texts for name, _ in references(text)}
    if any(name.partition(".")[0] == "item" for name in names):
        for name in names:
            look(name)
        return
    made = [render(text, look) for text in texts]
    if names and names.isdisjoint(_MADE_UP):
        option.read(made if isinstance(value, list) else made[0])


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _said(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


class _AnyItem(Mapping[str, str]):
    """Fields of an item as far as its format tells them."""

    def __init__(self, manifest: Manifest) -> None:
        form = FORMATS[manifest.format]
        self._fields = frozenset(manifest.columns) or form.fields

    def __getitem__(self, name: str) -> str:
        whole, _, field = name.partition(".")
        if whole != "item":
            raise KeyError(name)
        if self._fields is not None and (field or self._fields) and field not in self._fields:
            raise unknown(name, self)
        return ""

    def __iter__(self) -> Iterator[str]:
        return iter([f"item.{field}" for field in sorted(self._fields or ())] or ["item"])

    def __len__(self) -> int:
        return len(self._fields or ()) + 1


class _Trial:
    """Tasks made so far, and where each destination is written.

    ``blind``: variables without a value, ``failed``: tasks without a path; what refers to them
    is not tried. ``room``: how many characters all URLs together may still have.
    """

    def __init__(
        self, scope: Scope, blind: AbstractSet[str], failed: set[str], complaints: Complaints
    ) -> None:
        self.room = _MOST_OF_URLS
        self._scope = scope
        self._blind = blind
        self._failed = failed
        self._complaints = complaints
        self._files: dict[tuple[str, str], tuple[Path, str]] = {}
        self._folders: dict[tuple[str, str], Path] = {}

    def make(self, built: Built) -> None:
        """Make the tasks of one group; those that it needs have been made before."""
        group, draft = built.group, built.draft
        before = self._complaints.count
        names = names_in(texts_of(group))
        if (
            not (built.items or group.manifest or group.gathers)
            or built.blind
            or not names.isdisjoint(self._blind)
            or not self._failed.isdisjoint(needs_of(group))
        ):
            self._failed.add(group.name)
            return
        combinations = self._combinations(built)
        files = len(built.items) * (1 if combinations is None else len(combinations))
        if files > 1 and any("${" not in text for text in group.template.checksums):
            self._complaints.add(
                draft.place("checksum"),
                f"one checksum cannot hold for {files} files; write each behind its URL",
            )
        if self._complaints.count > before:
            self._failed.add(group.name)
            return
        recipe, hurt = self._recipe(built)
        if group.when is not None and not group.when.each:
            known = {f"needs.{name}.changed": "true" for name in group.when.compares}
            try:
                self._scope.holds(group, known)
            except ItemProblem as exc:
                self._complain(built, exc, (), hurt)
        steps = draft.place("steps")
        if group.gathers:
            try_steps(self._scope, group, steps, self._complaints)
            self._try_needs(built, recipe, hurt)
        elif group.manifest is not None:
            self._try_names(built, hurt)
            try_steps(self._scope, group, steps, self._complaints, _AnyItem(group.manifest))
        elif combinations is None:
            try_steps(self._scope, group, steps, self._complaints)
            self._try(built, recipe, {}, hurt)
        else:
            for number in combinations.telling(_MOST_COMBINATIONS_TRIED):
                values = combinations.at(number)
                if values is not None:
                    self._try(built, recipe, values, hurt)
                    try_steps(self._scope, group, steps, self._complaints, values)
                if self._complaints.count > before or self.room < 0:
                    break  # the others are as bad
        if self._complaints.count > before:
            self._failed.add(group.name)

    def _try_needs(self, built: Built, recipe: Recipe, hurt: AbstractSet[str]) -> None:
        """Make the task of a group that fetches nothing."""
        try:
            path = recipe.of_needs().path
        except ItemProblem as exc:
            self._complain(built, exc, (), hurt)
            return
        if not path.startswith("./"):
            self._take(built.group.rules.root, path, built.draft.place("steps"), "")

    def _try_names(self, built: Built, hurt: AbstractSet[str]) -> None:
        """Look whether every name means something, where only a manifest knows what."""
        group, draft = built.group, built.draft
        assert group.manifest is not None
        if "${" not in group.manifest.file:
            try:
                clean_path(group.manifest.file)
            except ValueProblem as exc:
                self._complaints.add((*draft.place("from"), "file"), str(exc))
        look = self._scope.lookup(group, "https://item.invalid/", _AnyItem(group.manifest))
        template = group.template
        texts = [
            *(((*draft.place("from"), "file"), text) for text in (group.manifest.file,)),
            *((draft.place("base"), text) for text in template.base),
            (draft.place("dest"), template.dest),
            (draft.place("filename"), template.filename or ""),
            *((draft.place("checksum"), text) for text in template.checksums),
            (draft.place("sums"), template.sums or ""),
            (draft.place("if"), group.when.text if group.when and group.when.each else ""),
        ]
        for place, item in built.items.items():
            texts += [(place, text) for text in (item.url, item.filename, item.checksum) if text]
        for place, text in texts:
            if place[-1] in hurt:
                continue
            try:
                for name, _ in references(text):
                    look(name)
            except ValueProblem as exc:
                self._complaints.add(place, str(exc))

    def _combinations(self, built: Built) -> Combinations | None:
        """Return those of the group's matrix; complain if it is bad."""
        try:
            combinations = self._scope.combinations(built.group)
        except AxisProblem as exc:
            place = built.draft.place("matrix", exc.axis or None)
            self._complaints.add(place, str(exc))
            return None
        if combinations is not None and (odd := combinations.odd_exclude()):
            self._complaints.add(built.draft.place("matrix", "exclude"), odd)
        return combinations

    def _try(
        self, built: Built, recipe: Recipe, values: Mapping[str, str], hurt: AbstractSet[str]
    ) -> None:
        """Make the task of each item, with these values of a matrix."""
        said = _said(values)
        for place, item in built.items.items():
            try:
                spec = recipe.of_item(item, values)
            except ItemProblem as exc:
                self._complain(built, exc, place, hurt)
            else:
                if not (hurt or spec.skip):
                    self._take(built.group.rules.root, spec.path, place, said)
                self.room -= sum(map(len, (*spec.sources, *spec.sums))) + len(spec.path)
            if self.room < 0:
                self._complaints.add(
                    place, "the URLs are too long together; write them into *.urls files"
                )
            if self.room < 0 or self._complaints.full:
                return

    def _recipe(self, built: Built) -> tuple[Recipe, AbstractSet[str]]:
        """Return the group's recipe without the keys that are wrong, and these keys."""
        group, hurt = built.group, set(built.draft.hurt)
        while True:
            try:
                return Recipe(self._scope, group), hurt
            except ItemProblem as exc:
                self._complain(built, exc, (), hurt)
                hurt.add(exc.key)
                if exc.key == "from":
                    group = replace(group, manifest=None)
                else:
                    absent = _ABSENT[exc.key]
                    if exc.key == "dest" and (own := self._scope.job.generations) is not None:
                        absent = {"dest": own.dest.replace("${", "$${")}
                    group = replace(group, template=replace(group.template, **absent))

    def _take(self, root: str, path: str, place: Path, said: str) -> None:
        """Note who writes a path; complain where another does, or cannot then."""
        if (root, path) in self._files:
            other_place, other_said = self._files[root, path]
            if other_place == place:
                self._complaints.add(
                    place,
                    f"writes {path!r} for ({other_said}) and for ({said}); "
                    "put what differs into filename or dest",
                )
                return
            self._complaints.add(place, f"writes {path!r}, as {self._shown(root, path)} does")
            return
        if (root, path) in self._folders:
            other = self._complaints.shown(self._folders[root, path])
            self._complaints.add(place, f"writes the file {path!r}, which is a folder for {other}")
            return
        self._files[root, path] = place, said
        folder = path.rpartition("/")[0]
        while folder and (root, folder) not in self._folders:
            if (root, folder) in self._files:
                other = self._shown(root, folder)
                self._complaints.add(
                    place, f"writes into the folder {folder!r}, which is a file for {other}"
                )
            self._folders[root, folder] = place
            folder = folder.rpartition("/")[0]

    def _shown(self, root: str, path: str) -> str:
        return self._complaints.shown(self._files[root, path][0])

    def _complain(
        self, built: Built, exc: ItemProblem, place: Path, hurt: AbstractSet[str]
    ) -> None:
        if exc.key == "item":
            blind = {"url", "urls", "base", "filename"}
            if built.group.rules.verify is Verify.DIGEST:
                blind |= {"checksum", "sums"}
            if hurt.isdisjoint(blind):
                self._complaints.add(place, str(exc))
        elif exc.key == "from":
            self._complaints.add((*built.draft.place("from"), "file"), str(exc))
        elif exc.key not in hurt:
            self._complaints.add(built.draft.place(exc.key), str(exc))


def _needs(
    built: Built, known: AbstractSet[str], unread: Unread, complaints: Complaints
) -> tuple[str, ...]:
    names = [name for name in needs_of(built.group) if name in known]
    for index, name in enumerate(built.draft.written_needs):
        if name in known:
            names.append(name)
        elif name not in unread.tasks and not complaints.full:
            complaints.add(
                (*built.draft.place("needs"), index),
                f"{name!r} is no task of this job",
                did_you_mean(name, islice(known, _MOST_COMPARED)),
            )
    if built.group.gathers and not (names or built.draft.written_needs):
        complaints.add(
            built.draft.prefix,
            "has no url, so that its steps work on the files of the tasks that it needs; write "
            "which these are: needs",
            at_key=True,
        )
    return tuple(dict.fromkeys(names))
