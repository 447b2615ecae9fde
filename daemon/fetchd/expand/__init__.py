"""Items of a group -> tasks of a run, all at once or, where there are many, in batches."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from pathlib import PurePath

from fetchd import threads
from fetchd.digests.sums import is_sums_file
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand.finishing import given_to, lookup_of, step_lookup
from fetchd.expand.formats import FORMATS
from fetchd.expand.lines import is_checksum, split_line
from fetchd.expand.lists import ListReader, check_list, no_list
from fetchd.expand.manifests import ManifestReader, OpenBelow, options_of
from fetchd.expand.matrix import AxisProblem, Combinations
from fetchd.expand.metalink import MetalinkProblem
from fetchd.expand.tasks import (
    ItemProblem,
    Lookup,
    Recipe,
    Scope,
    Values,
    bad_item,
    compared_in,
    names_in,
    needs_of,
    texts_of,
)
from fetchd.model import Batch, Decided, Item, Job, ListFile, Position, Run, TaskGroup, TaskSpec
from fetchd.paths import clean_path, shown

__all__ = [
    "FORMATS",
    "LIST_SUFFIXES",
    "AxisProblem",
    "Combinations",
    "Expander",
    "ItemProblem",
    "Lookup",
    "MetalinkProblem",
    "Recipe",
    "Scope",
    "check_list",
    "clean_path",
    "compared_in",
    "expand",
    "given_to",
    "is_checksum",
    "list_form",
    "lookup_of",
    "names_in",
    "needs_of",
    "no_list",
    "options_of",
    "split_line",
    "step_lookup",
    "texts_of",
]

#: The form of a file that is a list by its name's ending; sums files have many.
LIST_SUFFIXES = {".urls": "urls", ".meta4": "metalink", ".metalink": "metalink"}


def list_form(name: str) -> str:
    """Return the form of the list that a file is by its name, "" if it is none."""
    base = name.rpartition("/")[2]
    return LIST_SUFFIXES.get(PurePath(base).suffix) or ("sums" if is_sums_file(base) else "")


_REMEMBERED = 4
#: So many tasks of a matrix are made at a time.
_OF_A_MATRIX = 1000
_NO_VALUES: Values = {}
_TOGETHER = "together "  # before the fingerprint of what appears so


class Expander:
    """The ``ports.Expander``; any thread. Remembers a few recipes and the hashes of prefixes."""

    def __init__(
        self,
        lists: ListReader | None = None,
        open_below: OpenBelow | None = None,
        open_before: OpenBelow | None = None,
    ) -> None:
        """``open_before`` opens what stood at a path before the run, of what appears together."""
        self._open_before = open_before
        self._lists = lists or ListReader()
        self._open_below = open_below
        self._manifests = None if open_below is None else ManifestReader(open_below)
        self._lock = threading.Lock()
        self._recipes: deque[Recipe] = deque(maxlen=_REMEMBERED)  # guarded by _lock

    def __call__(self, job: Job, group: TaskGroup, run: Run, position: Position | None) -> Batch:
        """Return all tasks of literal items, or the next ones of a list, manifest or matrix.

        An item that cannot be understood is a task with a ``problem``. Raises AttemptError:
        list_changed, disk_error, and bad_item where no item of the group can become a task.
        """
        if group.end is not None:  # its task is made when it is due
            return Batch(specs=(), position=None)
        try:
            recipe = self._recipe(job, group, run)
        except ValueProblem as exc:
            if isinstance(group.items, ListFile) or group.manifest is not None:
                raise AttemptError("bad_item", shown(str(exc))) from None
            if group.gathers:
                return Batch(specs=(bad_item(group.name, str(exc)),), position=None)
            specs = (bad_item(_place(group, n), str(exc)) for n, _ in enumerate(group.items, 1))
            return Batch(specs=tuple(specs), position=None)
        if group.gathers:
            return Batch(specs=(_of_needs(recipe),), position=None)
        if isinstance(group.items, ListFile):
            return self._lists.read(group.items, recipe, position)
        if group.manifest is not None:
            assert self._manifests is not None
            try:
                return self._manifests.read(recipe, group.manifest, position)
            except ValueProblem as exc:
                raise AttemptError("bad_item", shown(str(exc))) from None
        if recipe.combinations is not None:
            return _of_matrix(recipe, recipe.combinations, group.items, position)
        specs = (_spec(recipe, n, item) for n, item in enumerate(group.items, 1))
        return Batch(specs=tuple(specs), position=None)

    def decide(self, job: Job, group: TaskGroup, run: Run, seen: Mapping[str, str]) -> Decided:
        """Tell whether the group's condition holds; ``seen``: as in ``model.Expand``.

        A file that is not there has not changed. Raises AttemptError.
        """
        assert group.when is not None
        scope, found, changed = Scope(job, run), dict[str, str](), dict[str, str]()
        # What lies in generations is of no use to a job that has none any more.
        mark = "" if job.generations is None else _TOGETHER
        try:
            for name in group.when.compares:
                path = scope.path_of(name, "changed")  # first: it knows which groups there are
                place = scope.root_of(name), path
                fingerprint = self._fingerprint(scope, *place, self._open_below)
                differs = fingerprint is not None and seen.get(name) != mark + fingerprint
                if job.generations is not None and fingerprint is not None and not differs:
                    # What is passed over is taken from there, to whichever somebody went back.
                    before = self._fingerprint(scope, *place, self._open_before)
                    differs = before != fingerprint
                changed[f"needs.{name}.changed"] = "true" if differs else "false"
                if fingerprint is not None:
                    found[name] = mark + fingerprint
            return Decided(holds=scope.holds(group, changed), seen=found)
        except ValueProblem as exc:
            raise AttemptError("bad_item", shown(f"{group.name}: if: {exc}")) from None

    def _fingerprint(
        self, scope: Scope, root: str, path: str, opens: OpenBelow | None
    ) -> str | None:
        """Return what no other content has, None where there is no file."""
        assert opens is not None
        try:
            file = opens(scope.job, scope.run, root, path)
        except AttemptError as exc:
            if exc.code == "not_found":
                return None
            raise
        with closing(file):
            hasher, buffer, offset = hashlib.sha256(), memoryview(bytearray(1024 * 1024)), 0
            while read := file.readinto(buffer, offset):
                hasher.update(buffer[:read])
                offset += read
                threads.beat()
            if file.changed():
                raise AttemptError("source_error", f"{shown(path)} was changed while it was read")
        return hasher.hexdigest()

    def _recipe(self, job: Job, group: TaskGroup, run: Run) -> Recipe:
        with self._lock:
            recipes = list(self._recipes)
        scope = None
        for recipe in recipes:
            if recipe.scope.job is job and recipe.scope.run == run:
                if recipe.group is group:
                    return recipe
                scope = recipe.scope
        recipe = Recipe(scope or Scope(job, run), group)
        with self._lock:
            self._recipes.append(recipe)
        return recipe


#: For whoever needs one expander and no other; its memory is small and bounded.
expand = Expander()


def _of_matrix(
    recipe: Recipe, combinations: Combinations, items: tuple[Item, ...], position: Position | None
) -> Batch:
    """Return the tasks of the next combinations, each with all items."""
    start = position.lines if position else 0
    end = len(combinations) * len(items)
    stop = min(start + _OF_A_MATRIX, end)
    specs = []
    for number in range(start, stop):
        combination, index = divmod(number, len(items))
        values = combinations.at(combination)
        if values is not None:
            specs.append(_spec(recipe, number + 1, items[index], values))
    more = Position(offset_bytes=0, prefix_sha256="", lines=stop) if stop < end else None
    return Batch(specs=tuple(specs), position=more)


def _spec(recipe: Recipe, number: int, item: Item, values: Values = _NO_VALUES) -> TaskSpec:
    try:
        return recipe.of_item(item, values)
    except ValueProblem as exc:
        return bad_item(_place(recipe.group, number), str(exc))


def _of_needs(recipe: Recipe) -> TaskSpec:
    try:
        return recipe.of_needs()
    except ValueProblem as exc:
        return bad_item(recipe.group.name, str(exc))


def _place(group: TaskGroup, number: int) -> str:
    return f"{group.name}:{number}"
