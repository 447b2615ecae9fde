"""One item of a group -> one task: variables, sources, path and digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType, TracebackType

from fetchd.dates import Moment
from fetchd.digests import Digest
from fetchd.errors import ValueProblem
from fetchd.expand.lines import is_checksum, split_line
from fetchd.expand.matrix import Combinations
from fetchd.model import (
    UNNAMED,
    Generations,
    Item,
    Job,
    ListFile,
    Makes,
    Run,
    TaskGroup,
    TaskSpec,
    Verify,
)
from fetchd.paths import clean_folder, clean_name, clean_path, join_path, shown
from fetchd.urls import HERE, check_url, file_name_of, join_url, path_of, resolve_url
from fetchd.variables import LONGEST_TEXT, is_met, references, render, unknown

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A relative URL that is joined by writing it behind its base: no dots to resolve, no query.
_PLAIN = re.compile(
    r"[A-Za-z0-9_~%+=,-][A-Za-z0-9._~%+=,-]*(?:/[A-Za-z0-9_~%+=,-][A-Za-z0-9._~%+=,-]*)*"
)
_NEEDED = re.compile(r"needs\.(.+)\.(path|changed)")
_ELSEWHERE = {
    "job.summary": "the options of on_success and on_failure",
    "task.path": "the options of steps",
}
_OF_ITEM = re.compile(r"item(\..+)?")
_MOST_OF_VARIABLES = 4 * 1024 * 1024  # characters; references could multiply a small file
_LONGEST_REASON = 400
#: What is shown of a URL's name, for people, where it is not that of the file.
_LONGEST_SHOWN = 60
_UNCLEAR = re.compile(r"[^A-Za-z0-9._-]")
_OF_URL = {"url", "url.path"}
_GIVEN = ("url", "url.path", "job.dest", "task.name")

Lookup = Callable[[str], str]
#: What names mean in the texts of one task beside what they mean in all.
Values = Mapping[str, str]
_NONE: Values = MappingProxyType({})


class ItemProblem(ValueProblem):
    """A task cannot be made. ``key`` of the job file is to blame; "item": the item itself."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Scope:
    """What names mean within one run of a job. Any thread: what is remembered never differs."""

    def __init__(self, job: Job, run: Run) -> None:
        self.job = job
        self.run = run
        self._groups = {group.name: group for group in job.groups if group.end is None}
        self._paths: dict[str, str] = {}
        self.bad_variables: dict[str, str] = {}  # and why; whatever refers to one fails
        self._values = {
            "run.id": str(run.id),
            "run.date": Moment(run.scheduled_for_s, job.timezone),
            "job.name": job.name,
        }
        room = _MOST_OF_VARIABLES
        for name, text in job.variables.items():
            try:
                if room <= 0:
                    raise ValueProblem("the variables are too long together")
                # A variable may refer to those above it: no cycles, no order to find.
                value = render(text, self.value)
            except ValueProblem as exc:
                self.bad_variables[name] = str(exc)
            else:
                self._values[name] = self._values[f"vars.{name}"] = value
                room -= len(value)

    def lookup(self, group: TaskGroup, url: str | None = None, values: Values = _NONE) -> Lookup:
        """Return what names mean in the texts of a group, and of its item with this URL.

        ``values``: of one combination of its matrix, or what else is known of its needs.
        """

        def look(name: str) -> str:
            if (
                values is not _NONE
                and (value := values.get(name.removeprefix("matrix."))) is not None
            ):
                return value
            if url is not None and name == "url":
                return url
            if url is not None and name == "url.path":
                return path_of(url)
            if name == "task.name":
                return group.name
            if name == "job.dest":
                return render(self.job.dest, self.value).removesuffix("/")
            if needed := _NEEDED.fullmatch(name):
                if needed[2] == "changed":
                    raise ValueProblem(f"${{{name}}} has a meaning only in if")
                return self.path_of(needed[1])
            return self.value(name, () if group.matrix is None else group.matrix.names)

        return look

    def combinations(self, group: TaskGroup) -> Combinations | None:
        """Return those of the group's matrix, None where it has none; raises AxisProblem."""
        return None if group.matrix is None else Combinations(group.matrix, self.value)

    def value(self, name: str, others: Iterable[str] = ()) -> str:
        """Return what a name means in every group; ``others``: what else is known to a person."""
        value = self._values.get(name)
        if value is not None:
            return value
        if name in _ELSEWHERE:
            raise ValueProblem(f"${{{name}}} has a meaning only in {_ELSEWHERE[name]}")
        if name in _GIVEN or _NEEDED.fullmatch(name) or _OF_ITEM.fullmatch(name):
            raise ValueProblem(f"${{{name}}} has no meaning here")
        bare = name.removeprefix("vars.")
        if bare in self.bad_variables:
            raise ValueProblem(f"${{{name}}} has no value")
        if bare in self.job.variables:
            raise ValueProblem(f"${{{name}}} is written below; a variable knows those above it")
        raise unknown(name, chain(others, self._values, _GIVEN))

    def root_of(self, name: str) -> str:
        """Return the download root of a group that exists."""
        return self._groups[name].rules.root

    def manifest_of(self, group: TaskGroup) -> tuple[str, str]:
        """Return root and path of the group's manifest; raises ValueProblem."""
        manifest = group.manifest
        assert manifest is not None
        path = render(manifest.file, self.lookup(group))
        root = manifest.root
        if root is None:
            needed = _needed_in([manifest.file])
            root = self.root_of(needed[0]) if needed else group.rules.root
        return root, path

    def beside_manifest(self, group: TaskGroup) -> tuple[str, ...]:
        """Return the folders that the group's manifest comes from, () for a local one."""
        assert group.manifest is not None
        needed = _needed_in([group.manifest.file])
        if not needed:
            return ()
        self.path_of(needed[0])
        other = self._groups[needed[0]]
        if other.gathers:
            return ()
        assert not isinstance(other.items, ListFile)
        sources = Recipe(self, other).of_item(other.items[0]).sources
        return tuple(dict.fromkeys(resolve_url(source, ".") for source in sources))

    def _path_of_made(self, group: TaskGroup, asked: str) -> str:
        """Return the path of what a group makes that fetches nothing, if that is a single file."""
        path = Recipe(self, group).of_needs().path
        if path.startswith("./"):
            raise ValueProblem(
                f"${{needs.{group.name}.{asked}}} exists only for a task whose steps make one file "
                "of a name that they say, as concat does"
            )
        return path

    def holds(self, group: TaskGroup, values: Values = _NONE) -> bool:
        """Tell whether a group's condition holds; raises ItemProblem.

        ``values``: those of a matrix, and of each ``needs.NAME.changed`` that it asks for.
        """
        if group.when is None:
            return True
        with _IN_IF:
            for name in group.when.compares:
                self.path_of(name, "changed")
            return is_met(group.when.text, self.lookup(group, None, values))

    def path_of(self, name: str, asked: str = "path") -> str:
        """Return the path of a group's only file; ``asked``: what of it is asked for."""
        if name in self._paths:
            return self._paths[name]
        waiting = [name]  # an own stack: a chain of needs may be longer than Python's
        while waiting:
            group = self._groups.get(waiting[-1])
            if group is None:
                names = (f"needs.{known}.{asked}" for known in self._groups)
                raise unknown(f"needs.{waiting[-1]}.{asked}", names)
            if group.gathers:
                self._paths[waiting.pop()] = self._path_of_made(group, asked)
                continue
            several = isinstance(group.items, ListFile) or len(group.items) != 1
            if several or group.matrix is not None or group.manifest is not None:
                raise ValueProblem(
                    f"${{needs.{group.name}.{asked}}} exists only for a task with one file, and "
                    f"{group.name!r} has several"
                )
            missing = [needed for needed in needs_of(group) if needed not in self._paths]
            if any(needed in waiting for needed in missing):
                raise ValueProblem(f"the path of {group.name!r} depends on itself")
            if missing:
                waiting += missing
                continue
            assert not isinstance(group.items, ListFile)
            if group.template.from_header and group.items[0].filename is None:
                raise ValueProblem(
                    f"${{needs.{group.name}.{asked}}} exists only for a task whose file has a name "
                    "in the job file, and that of this one is given by its server"
                )
            try:
                path = Recipe(self, group).of_item(group.items[0]).path
                self._paths[waiting.pop()] = _path_behind_steps(group, path)
            except ItemProblem as exc:
                raise ValueProblem(f"${{needs.{group.name}.path}}: {exc}") from None
        return self._paths[name]


def folder_above(scope: Scope, group: TaskGroup) -> str:
    """Return the folder that all files of a group go to: of its `dest` what is the same for all."""
    folder, own = _same_of_dest(scope, group), scope.job.generations
    if own is None:
        return folder
    return own.path_of(folder) if len(folder) > len(own.dest) else own.current


def _same_of_dest(scope: Scope, group: TaskGroup) -> str:
    look, dest = scope.lookup(group), group.template.dest
    with suppress(ValueProblem):
        return clean_folder(render(dest, look))
    folders = []
    for folder in dest.split("/"):
        try:
            folders.append(clean_path(render(folder, look)))
        except ValueProblem:
            break
    return "/".join(folders)


def _path_behind_steps(group: TaskGroup, path: str) -> str:
    """Return the path of what the steps of a group make of its only file."""
    for step in group.steps:
        if step.makes in {Makes.OTHERS, Makes.ONE}:
            raise ValueProblem(
                f"${{needs.{group.name}.path}} exists only for a task that publishes its own file, "
                f"and the step {step.name!r} makes others of it"
            )
        if step.makes is Makes.UNPACKED:
            folder, slash, name = path.rpartition("/")
            path = f"{folder}{slash}{name.rpartition('.')[0] or name}"
    return path


@dataclass(frozen=True, slots=True)
class _Common:
    """What the template gives to each item."""

    folder: str
    filename: str | None
    digests: tuple[Digest, ...]


class Recipe:
    """How the items of one group become tasks in one run.

    ``values``: those of a matrix, without which a group that has one makes no task.
    """

    def __init__(self, scope: Scope, group: TaskGroup) -> None:
        self.scope = scope
        self.group = group
        self.combinations = scope.combinations(group)
        self._varying = set(group.matrix.names) if group.matrix else set[str]()
        self._each = group.when is not None and group.when.each
        self._look = scope.lookup(group)
        self._in_steps = self._names_in_steps()
        # Worked out once, unless it depends on the item's own URL or values.
        template = group.template
        self._bases = None if self._varies(template.base) else self._bases_for(self._look)
        texts = (template.dest, template.filename or "", *template.checksums)
        self._common = None if self._varies(texts, _OF_URL) else self._common_for(self._look)
        self._sums = (
            self._sums_of((), _NONE, self._bases or ()) if self._sums_are_common() else None
        )

    def of_item(self, item: Item, values: Values = _NONE) -> TaskSpec:
        """Return the task of an item whose texts may refer to variables; raises ItemProblem."""
        bases = self._bases
        if bases is None:
            bases = self._bases_for(self.scope.lookup(self.group, None, values))
        skip = self._each and not self.scope.holds(self.group, values)
        with _IN_ITEM:
            look = self.scope.lookup(self.group, None, values) if values else self._look
            sources = _sources(render(item.url, look), bases)
            if item.mirrors:
                others = [_sources(render(url, look), bases) for url in item.mirrors]
                sources = tuple(dict.fromkeys(chain(sources, *others)))
            look = self.scope.lookup(self.group, sources[0], values)
            filename = None if item.filename is None else render(item.filename, look)
            checksum = None if item.checksum is None else render(item.checksum, look)
            if filename is not None and is_checksum(filename):
                raise ValueProblem(f"the file name {filename!r} looks like a checksum")
            digests = _of_text(checksum)
        task = self._task(sources, filename, digests, values=values, bases=bases)
        return replace(task, skip=True) if skip else task

    def of_line(self, text: str, values: Values = _NONE) -> TaskSpec:
        """Return the task of a line of a list, in which ``${`` means nothing; as ``of_item``."""
        bases = self._bases
        if bases is None:
            bases = self._bases_for(self.scope.lookup(self.group, None, values))
        skip = self._each and not self.scope.holds(self.group, values)
        with _IN_ITEM:
            url, filename, checksum = split_line(text)
            sources = _sources(url, bases)
            digests = _of_text(checksum)
        task = self._task(sources, filename, digests, values=values, bases=bases)
        return replace(task, skip=True) if skip else task

    def of_sum(self, name: str, url: str, digest: Digest) -> TaskSpec:
        """Return the task of a file below the group's bases; raises ItemProblem.

        ``name``: its path below the folder, ``url``: below each base.
        """
        with _IN_ITEM:
            sources = _sources(url, self._bases or ())
        return self.of_named(name, sources, (digest,), None)

    def of_needs(self) -> TaskSpec:
        """Return the task of a group that fetches nothing; raises ItemProblem.

        Its path is that of the one file that it makes, or else one that no file has.
        """
        skip = self._each and not self.scope.holds(self.group)
        common = self._common or self._common_for(self._look)
        own = self.scope.job.generations
        folder = common.folder if own is None else own.path_of(common.folder)
        name = ""
        with _IN_STEPS:
            for step in self.group.steps:
                if step.makes is Makes.ONE:
                    name = render(str(step.options["name"]), self._look)
                elif step.makes is Makes.UNPACKED:
                    name = name.rpartition(".")[0] or name
                elif step.makes is Makes.OTHERS:
                    name = ""
            path = join_path(folder, name) if name else f"./{join_path(folder, self.group.name)}"
        return TaskSpec(key=path, sources=(HERE,), path=path, skip=skip)

    def of_named(
        self,
        name: str | None,
        sources: tuple[str, ...],
        digests: tuple[Digest, ...],
        size_bytes: int | None,
        values: Values = _NONE,
    ) -> TaskSpec:
        """Return the task of a file whose list says all of it, literally; raises ItemProblem.

        ``name`` None: the template says how it is called.
        """
        skip = self._each and not self.scope.holds(self.group, values)
        size = self.group.rules.size
        if size is not None and size_bytes is not None and size_bytes not in size:
            raise ItemProblem("item", f"has {size_bytes} bytes, `size` allows {size}")
        bases = self._bases
        if bases is None:
            bases = self._bases_for(self.scope.lookup(self.group, None, values))
        task = self._task(sources, name, digests, size_bytes, values, bases)
        return replace(task, skip=True) if skip else task

    def _task(
        self,
        sources: tuple[str, ...],
        filename: str | None,
        own_digests: tuple[Digest, ...],
        size_bytes: int | None = None,
        values: Values = _NONE,
        bases: tuple[str, ...] = (),
    ) -> TaskSpec:
        common = self._common
        if common is None:
            common = self._common_for(self.scope.lookup(self.group, sources[0], values))
        digests = common.digests
        sums = self._sums_of(sources, values, bases) if self._sums is None else self._sums
        mark = ""  # of a path that no file has
        with _IN_ITEM:
            if filename is not None:
                path = join_path(common.folder, filename)
            elif self.group.template.from_header:
                path, mark = _unnamed(common.folder, sources[0]), UNNAMED
            elif common.filename is None:
                path = join_path(common.folder, _name_from(sources[0]))
            if own_digests:
                digests = _consistent((*digests, *own_digests))
            if not (digests or sums) and self.group.rules.verify is Verify.DIGEST:
                raise ValueProblem("has no checksum, and verify: digest asks for one")
        if filename is None and common.filename is not None:
            with _IN_FILENAME:
                path = join_path(common.folder, common.filename)
        if (own := self.scope.job.generations) is not None:
            path = own.path_of(path)
        path = f"{mark}{path}"
        return TaskSpec(
            key=path,
            sources=sources,
            path=path,
            digests=digests,
            sums=sums,
            size_bytes=size_bytes,
            values=self._for_steps(values) if self._in_steps else (),
        )

    def _names_in_steps(self) -> tuple[str, ...]:
        """Return what steps use of what differs between the tasks of the group, bare, sorted."""
        if not self.group.steps:
            return ()
        names = (name.removeprefix("matrix.") for name in names_in(texts_of_steps(self.group)))
        if self.group.manifest is not None:
            return tuple(sorted(filter(_OF_ITEM.fullmatch, names)))
        return tuple(sorted(self._varying.intersection(names)))

    def _for_steps(self, values: Values) -> tuple[tuple[str, str], ...]:
        with _IN_ITEM:
            kept = tuple((name, values[name]) for name in self._in_steps)
            for name, value in kept:
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise ValueProblem(f"${{{name}}}, for steps, is not valid Unicode") from None
            if sum(len(value) for _, value in kept) > LONGEST_TEXT:
                names = ", ".join(f"${{{name}}}" for name in self._in_steps)
                raise ValueProblem(f"{names}, for steps, have more than {LONGEST_TEXT} characters")
        return kept

    @staticmethod
    def blaming(key: str) -> AbstractContextManager[None]:
        """Return what makes a ValueProblem the problem of a key."""
        return _Blaming(key)

    def _varies(self, texts: Iterable[str], more: AbstractSet[str] = frozenset()) -> bool:
        """Tell whether texts refer to what differs between the tasks of the group."""
        names = {name.removeprefix("matrix.") for name in names_in(texts)}
        if self.group.manifest is not None and any(map(_OF_ITEM.fullmatch, names)):
            return True
        return not names.isdisjoint(self._varying | more)

    def _bases_for(self, look: Lookup) -> tuple[str, ...]:
        with _IN_BASE:
            bases = [_folder_url(render(base, look)) for base in self.group.template.base]
        if not bases and self.group.manifest is not None:
            with _IN_FROM:
                return self.scope.beside_manifest(self.group)
        return tuple(dict.fromkeys(bases))

    def _sums_are_common(self) -> bool:
        """Tell whether the sums file is the same for every item, wherever that comes from."""
        text = self.group.template.sums
        if text is None:
            return True
        placed = bool(self._bases) or _ABSOLUTE.match(text) is not None
        return placed and not self._varies([text], _OF_URL)

    def _sums_of(
        self, sources: tuple[str, ...], values: Values, bases: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the URLs of the sums file: a relative one is joined to the bases, else beside."""
        text = self.group.template.sums
        if text is None:
            return ()
        urls = []
        with _IN_SUMS:
            for index, place in enumerate(bases or sources or ("",)):
                source = sources[min(index, len(sources) - 1)] if sources else None
                url = render(text, self.scope.lookup(self.group, source, values))
                if not url:
                    raise ValueProblem("is empty")
                urls.append(check_url(url if _ABSOLUTE.match(url) else resolve_url(place, url)))
        return tuple(dict.fromkeys(urls))

    def _common_for(self, look: Lookup) -> _Common:
        template = self.group.template
        with _IN_DEST:
            folder = clean_folder(render(template.dest, look))
            _check_below(self.scope.job.generations, folder)
        with _IN_FILENAME:
            filename = None if template.filename is None else render(template.filename, look)
        with _IN_CHECKSUM:
            digests = _consistent(
                tuple(Digest.parse(render(text, look)) for text in template.checksums)
            )
        return _Common(folder, filename, digests)


def bad_item(place: str, why: str, where: str = "") -> TaskSpec:
    """Return the task of an item that can only fail.

    Its path is its place, made unlike any path that a good item can have by the first ``./``.
    ``where``: the place as people are told it, if not like that.
    """
    path = f"./{place}"
    why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON]}..."
    reason = shown(f"{where or place}: {why}")
    return TaskSpec(key=path, sources=(), path=path, problem=("bad_item", reason))


def names_in(texts: Iterable[str]) -> set[str]:
    """Return the names that texts refer to, bare; malformed texts have none."""
    names: set[str] = set()
    for text in texts:
        if "${" not in text:
            continue
        with suppress(ValueProblem):
            names.update(name.removeprefix("vars.") for name, _ in references(text))
    return names


def texts_of(group: TaskGroup) -> Iterator[str]:
    """Yield every text of a group that may refer to variables."""
    template = group.template
    yield from (*template.base, template.dest, template.filename or "", *template.checksums)
    yield template.sums or ""
    yield group.when.text if group.when else ""
    yield from texts_of_steps(group)
    yield group.manifest.file if group.manifest else ""
    if not isinstance(group.items, ListFile):
        for item in group.items:
            yield from (item.url, item.filename or "", item.checksum or "")


def texts_of_steps(group: TaskGroup) -> Iterator[str]:
    """Yield every text of the steps of a group that may refer to variables."""
    for step in group.steps:
        for value in step.options.values():
            yield from [value] if isinstance(value, str) else value if _is_texts(value) else ()


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def needs_of(group: TaskGroup) -> list[str]:
    """Return the groups whose file the texts of a group refer to, sorted."""
    return _needed_in(texts_of(group))


def _needed_in(texts: Iterable[str]) -> list[str]:
    return sorted({match[1] for match in map(_NEEDED.fullmatch, names_in(texts)) if match})


def compared_in(text: str) -> tuple[str, ...]:
    """Return the groups of which a text asks whether their file has changed, sorted."""
    found = [match for match in map(_NEEDED.fullmatch, names_in([text])) if match]
    return tuple(sorted(match[1] for match in found if match[2] == "changed"))


def _sources(url: str, bases: tuple[str, ...]) -> tuple[str, ...]:
    if not bases or _ABSOLUTE.match(url):
        return (check_url(url),)
    if _PLAIN.fullmatch(url):
        return tuple([base + url for base in bases])
    return tuple([check_url(join_url(base, url)) for base in bases])


def _folder_url(base: str) -> str:
    """Return the base as a URL that ends in a slash, with its dots resolved."""
    if "?" in base or "#" in base:
        raise ValueProblem(f"{base!r} has a query or a fragment; a base is a folder")
    return join_url(check_url(base), "_").removesuffix("_")


def _name_from(url: str) -> str:
    """Return the file name of a URL; what it may not be is refused, never repaired."""
    try:
        return clean_name(file_name_of(url))
    except ValueProblem as exc:
        raise ValueProblem(f"the URL's last segment {exc}; give a filename") from None


def _unnamed(folder: str, url: str) -> str:
    """Return what stands for the path of a file that its server is going to name, without mark.

    It is the same in each run, and that of no other URL.
    """
    mark = hashlib.sha256(url.encode()).hexdigest()[:16]
    shown = _UNCLEAR.sub("_", file_name_of(url))[:_LONGEST_SHOWN]
    return f"{folder}/{shown}~{mark}" if folder else f"{shown}~{mark}"


def _check_below(own: Generations | None, folder: str) -> None:
    """Refuse what cannot appear together with the rest of the job."""
    if own is not None and folder != own.dest and not folder.startswith(f"{own.dest}/"):
        raise ValueProblem(
            f"{shown(folder)!r} is not below {shown(own.dest)!r}, the job's dest, and its outputs "
            "appear together (publish.atomic); write a folder such as ${job.dest}/NAME"
        )


def _of_text(checksum: str | None) -> tuple[Digest, ...]:
    return () if checksum is None else (Digest.parse(checksum),)


def _consistent(digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Return the digests, each once; raises ValueProblem where no file can have them all."""
    by_algorithm: dict[str, Digest] = {}
    for digest in digests:
        if by_algorithm.setdefault(digest.algorithm, digest) != digest:
            raise ValueProblem(f"two different {digest.algorithm} checksums for one file")
    return tuple(by_algorithm.values())


class _Blaming:
    """Within it a ValueProblem becomes an ItemProblem with this key. Cheap, and shared."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(exc, ValueProblem) and not isinstance(exc, ItemProblem):
            raise ItemProblem(self._key, str(exc)) from None


_IN_BASE = _Blaming("base")
_IN_DEST = _Blaming("dest")
_IN_FILENAME = _Blaming("filename")
_IN_CHECKSUM = _Blaming("checksum")
_IN_SUMS = _Blaming("sums")
_IN_ITEM = _Blaming("item")
_IN_IF = _Blaming("if")
_IN_FROM = _Blaming("from")
_IN_STEPS = _Blaming("steps")
