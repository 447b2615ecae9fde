"""``json``: a document of any size, of which the items stand at a path such as ``packages[*]``.

Read by events with ijson, whose own paths and builders are not used: they keep a text for every
level of nesting, so that a few kilobytes of ``[`` would fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import ijson

from fetchd.errors import ValueProblem
from fetchd.expand.formats.item import (
    Fields,
    Format,
    Found,
    ManifestProblem,
    Options,
    without_bom,
)

#: Without any event within so many bytes there is a text or number that no manifest has.
_LONGEST_TOKEN_BYTES = 4 * 1024 * 1024
_DEEPEST = 100
_MOST_VALUES_OF_ITEM = 10_000
#: Of the names that stand where one was looked for in vain, so many are told, so far.
_MOST_TOLD = 8
_LONGEST_TOLD = 60
_PATH = re.compile(r"[^.\[\]\s]+(?:\.[^.\[\]\s]+)*|")
_EACH = None  # a step into every entry of a list

Step = str | None


def read(chunks: Iterator[bytes], options: Options) -> Iterator[Found]:
    steps = check(options)
    walk = _Walk(steps, options.items or "[*]")
    for event, value in _events(chunks):
        item = walk.see(event, value)
        if item is not None:
            yield item
    walk.end()


def check(options: Options) -> tuple[Step, ...]:
    """Return the steps of the path."""
    text = options.items or "[*]"
    steps: list[Step] = []
    for number, names in enumerate(text.split("[*]")):
        rest = names.removeprefix(".") if number else names
        if not _PATH.fullmatch(rest) or (number and names and (not rest or rest == names)):
            raise ValueProblem(
                f"{text[:60]!r} is no path; write names with dots, and [*] for the entries of a "
                "list: packages[*], data.files[*]"
            )
        if number:
            steps.append(_EACH)
        steps += rest.split(".") if rest else ()
    return tuple(steps)


class _Walk:
    """Where in the document the events are, and the item that is being built."""

    def __init__(self, steps: tuple[Step, ...], path: str) -> None:
        self._steps = steps
        self._path = path
        self._depth = 0  # of containers that are open
        self._on = 0  # of these, so many lie on the path
        self._key = ""  # the latest one in the innermost container on the path
        self._found = False
        self._reached = 0  # steps that were taken so far, at most
        self._met: object = ""  # what stood where the next one was to be taken
        self._there: list[str] = []  # the first names beside which it was to be
        self._open: list[Any] = []  # containers of the item that is being built
        self._keys: list[str] = []
        self._values = 0

    def see(self, event: str, value: Any) -> Found | None:
        """Take in an event; returns an item that it ends."""
        if self._open:
            return self._build(event, value)
        if event == "map_key":
            if self._depth == self._on:
                self._key = value
                if self._on >= self._reached and len(self._there) < _MOST_TOLD:
                    self._there.append(value[:_LONGEST_TOLD])
            return None
        if event in {"end_map", "end_array"}:
            self._depth -= 1
            self._on = min(self._on, self._depth)
            return None
        fits = self._depth == self._on and self._fits()
        if fits and self._on == len(self._steps):
            return self._begin(event, value)
        if event in {"start_map", "start_array"}:
            self._enter(event, fits=fits)
        elif fits:
            self._meet("a text or number")
        return None

    def end(self) -> None:
        """Raise ManifestProblem if nothing was there; a list that is empty is something."""
        empty = self._reached and self._steps[self._reached - 1] is _EACH
        if not (self._found or empty) or (self._met and not self._found):
            there = f"; found there: {', '.join(self._there)}" if self._there else ""
            raise ManifestProblem(f"has no {self._path}{self._met or there}")

    def _fits(self) -> bool:
        """Tell whether a value that begins here is where the path leads, as far as it goes."""
        if self._on == 0:
            return True
        step = self._steps[self._on - 1]
        return step is _EACH or step == self._key

    def _enter(self, event: str, *, fits: bool) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ManifestProblem(f"is nested deeper than {_DEEPEST}")
        if fits:
            is_list = event == "start_array"
            if is_list is (self._steps[self._on] is _EACH):
                self._on += 1
                if self._on > self._reached:
                    self._reached = self._on
                    self._there.clear()
            else:
                self._meet("a list" if is_list else "a mapping")

    def _meet(self, what: str) -> None:
        if self._on >= self._reached:
            wanted = "a list" if self._steps[self._on] is _EACH else "a mapping"
            self._met = f": there is {what} where the path has {wanted}"

    def _begin(self, event: str, value: Any) -> Found | None:
        self._found = True
        self._values = 0
        if event == "start_map":
            self._open.append({})
            return None
        if event == "start_array":
            self._open.append([])
            return None
        return Fields(value)

    def _build(self, event: str, value: Any) -> Found | None:
        if event == "map_key":
            if len(self._keys) < len(self._open):
                self._keys += [""] * (len(self._open) - len(self._keys))
            self._keys[len(self._open) - 1] = value
            return None
        if event in {"end_map", "end_array"}:
            ended = self._open.pop()
            if self._open:
                return None
            if isinstance(ended, list):
                return ValueProblem("is a list; an item is a mapping or a text")
            return Fields(ended)
        self._values += 1
        if self._values > _MOST_VALUES_OF_ITEM:
            raise ManifestProblem(f"has more than {_MOST_VALUES_OF_ITEM} values in one item")
        made = {} if event == "start_map" else [] if event == "start_array" else value
        holder = self._open[-1]
        if isinstance(holder, list):
            holder.append(made)
        else:
            holder[self._keys[len(self._open) - 1]] = made
        if event in {"start_map", "start_array"}:
            self._open.append(made)
            if len(self._open) + self._depth > _DEEPEST:
                raise ManifestProblem(f"is nested deeper than {_DEEPEST}")
        return None


def _events(chunks: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events)
    silent_bytes = 0
    problem: ManifestProblem | None = None
    for chunk in chain(without_bom(chunks), [b""]):
        try:
            parser.send(chunk) if chunk else parser.close()
        except ijson.JSONError as exc:
            problem = ManifestProblem(f"is not JSON: {_short(exc)}")
        except Exception:  # noqa: BLE001 -- what Python makes of a number that it cannot hold
            # The event of that number has no value at all: to look at it ends the process.
            raise ManifestProblem("has a number that is too long") from None
        silent_bytes = 0 if events else silent_bytes + len(chunk)
        yield from events  # those before the mistake too
        del events[:]
        if silent_bytes > _LONGEST_TOKEN_BYTES:
            raise ManifestProblem("has a text, number or blank without end")
        if problem is not None:
            raise problem


def _short(exc: BaseException) -> str:
    """Return the parser's first line: the others draw a picture of the place."""
    said = exc.args[0] if exc.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return text.partition("\n")[0][:200]


FORMAT = Format(read, options=("items",), check=check)
