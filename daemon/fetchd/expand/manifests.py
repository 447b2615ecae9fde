"""A manifest of any size, read in batches that each continue where the last one ended.

The file stays open between batches, with the parser in the middle of it: to begin again for every
thousand items would take longer with each of them. After a restart it is read again from its
beginning, and what was read before has to be the same, byte by byte.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import PurePath

from fetchd import threads
from fetchd.errors import AttemptError, ValueProblem
from fetchd.expand.formats import FORMATS, Fields, ManifestProblem, Options, Whole
from fetchd.expand.tasks import Recipe, bad_item
from fetchd.model import Batch, Job, ListFile, Manifest, Position, Run, TaskSpec
from fetchd.paths import clean_path, shown
from fetchd.ports import LocalFile

#: Opens a file for a run of a job by its root's name and its path below; raises AttemptError.
OpenBelow = Callable[[Job, Run, str, str], LocalFile]

_CHUNK_BYTES = 64 * 1024
_MOST_OPEN = 8


def options_of(manifest: Manifest, path: str) -> Options:
    return Options(
        name=PurePath(path).name,
        items=manifest.items,
        pattern=manifest.pattern,
        delimiter=manifest.delimiter,
        columns=manifest.columns,
    )


class ManifestReader:
    """Reads batches; any thread."""

    def __init__(self, open_below: OpenBelow, batch_items: int = 1000) -> None:
        self._open_below = open_below
        self._batch_items = batch_items
        self._lock = threading.Lock()
        self._open: OrderedDict[object, _Cursor] = OrderedDict()  # guarded by _lock

    def read(self, recipe: Recipe, manifest: Manifest, position: Position | None) -> Batch:
        """Return the tasks of the next items; raises AttemptError.

        A manifest that is not of its format ends with a failed task that says at which item.
        """
        key = (recipe.scope.run.id, recipe.group.name)
        with self._lock:
            cursor = self._open.pop(key, None)
        if cursor is not None and cursor.position != position:
            cursor.close()
            cursor = None
        if cursor is None:
            cursor = self._opened(recipe, manifest, position)
        try:
            batch = cursor.batch(recipe, self._batch_items)
        except BaseException:
            cursor.close()
            raise
        if batch.position is None:
            cursor.close()
        else:
            self._keep(key, cursor)
        return batch

    def _opened(self, recipe: Recipe, manifest: Manifest, position: Position | None) -> _Cursor:
        with recipe.blaming("from"):
            root, path = recipe.scope.manifest_of(recipe.group)
            path = clean_path(path)
        try:
            file = self._open_below(recipe.scope.job, recipe.scope.run, root, path)
        except AttemptError as exc:
            if position is None or exc.code != "not_found":
                raise
            reason = f"{shown(path)} was removed before its last item was read"
            raise AttemptError("list_changed", reason) from None
        cursor = _Cursor(file, manifest, path)
        try:
            if position is not None:
                cursor.go_to(position)
        except BaseException:
            cursor.close()
            raise
        return cursor

    def _keep(self, key: object, cursor: _Cursor) -> None:
        with self._lock:
            self._open[key] = cursor
            evicted = [
                self._open.popitem(last=False)[1] for _ in range(len(self._open) - _MOST_OPEN)
            ]
        for old in evicted:
            old.close()


class _Cursor:
    """An open manifest and the parser in the middle of it. One thread at a time."""

    def __init__(self, file: LocalFile, manifest: Manifest, path: str) -> None:
        self._file = file
        self._name = shown(PurePath(path).name)
        self._chunks = _Chunks(file, self._name)
        self._items = FORMATS[manifest.format].read(self._chunks, options_of(manifest, path))
        self._count = 0  # items that were read
        self.position: Position | None = None

    def go_to(self, position: Position) -> None:
        """Read once more what was read in an earlier life; raises AttemptError (list_changed)."""
        with suppress(ManifestProblem):
            while self._count < position.lines and next(self._items, None) is not None:
                self._count += 1
        reached = self._reached()
        if reached != position:
            raise AttemptError(
                "list_changed", f"{self._name} was changed above item {position.lines + 1}"
            )
        self.position = reached

    def batch(self, recipe: Recipe, most: int) -> Batch:
        specs: list[TaskSpec] = []
        for _ in range(most):
            number = self._count + 1
            try:
                item = next(self._items, None)
            except ManifestProblem as exc:
                reason = shown(f"{self._name}: item {number}: {exc}")
                failed = _bad(self._name, number, "")
                specs.append(
                    TaskSpec(
                        key=failed.key,
                        sources=(),
                        path=failed.path,
                        problem=("bad_manifest", reason),
                    )
                )
                return Batch(specs=tuple(specs), position=None)
            if item is None:
                self._check_unchanged()
                return Batch(specs=tuple(specs), position=None)
            self._count = number
            if isinstance(item, Fields):
                specs += _specs(recipe, item, self._name, number)
            else:
                specs.append(_bad(self._name, number, str(item)))
        self._check_unchanged()
        self.position = self._reached()
        return Batch(specs=tuple(specs), position=self.position)

    def close(self) -> None:
        self._file.close()

    def _check_unchanged(self) -> None:
        if self._file.changed():
            raise AttemptError("list_changed", f"{self._name} was changed while it was read")

    def _reached(self) -> Position:
        return Position(
            offset_bytes=self._chunks.offset,
            prefix_sha256=self._chunks.hasher.hexdigest(),
            lines=self._count,
        )


class _Chunks(Iterator[bytes]):
    """A file in chunks of the same size, so that a parser is as far ahead whenever it reads."""

    def __init__(self, file: LocalFile, name: str) -> None:
        self._file = file
        self._name = name
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self.offset = 0
        self.hasher = hashlib.sha256()

    def __next__(self) -> bytes:
        threads.beat()
        filled = 0
        while filled < _CHUNK_BYTES:
            read = self._file.readinto(self._buffer[filled:], self.offset + filled)
            if not read:
                break
            filled += read
        if not filled:
            raise StopIteration
        chunk = bytes(self._buffer[:filled])
        self.hasher.update(chunk)
        self.offset += filled
        return chunk


def _bad(name: str, number: int, why: str) -> TaskSpec:
    """Return the failed task of an item; a number behind the name alone would pass for a line."""
    return bad_item(f"{name}:{number}", why, f"{name}: item {number}")


def _specs(recipe: Recipe, fields: Fields, name: str, number: int) -> Iterator[TaskSpec]:
    items = recipe.group.items
    assert not isinstance(items, ListFile)
    for item in items or (None,):
        try:
            if item is not None:
                yield recipe.of_item(item, fields)
            elif isinstance(fields, Whole):
                yield _of_whole(recipe, fields)
            else:
                yield recipe.of_line(fields["item"], fields)
        except ValueProblem as exc:
            yield _bad(name, number, str(exc))


def _of_whole(recipe: Recipe, item: Whole) -> TaskSpec:
    name = item.name if recipe.group.template.filename is None else None
    return recipe.of_named(name, item.sources, item.digests, item.size_bytes, item)
