"""What all formats have in common: fields of an item, options, lines, and what may go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from fetchd.digests import Digest
from fetchd.errors import ValueProblem
from fetchd.model import Item
from fetchd.values import dataclass

_MOST_NAMED = 12
_LONGEST_NAME = 60
_BOM = b"\xef\xbb\xbf"


class ManifestProblem(ValueProblem):
    """A manifest is not of its format; nothing behind this place can be read."""


class Fields(Mapping[str, str]):
    """The fields of an item as ``item.NAME`` and, of one that is a text by itself, ``item``."""

    def __init__(self, value: object) -> None:
        """``value``: what JSON has, but for lists; nested mappings are ``item.a.b``."""
        self._value = value

    def __getitem__(self, name: str) -> str:
        if name != "item" and not name.startswith("item."):
            raise KeyError(name)
        found = self._value
        for part in name.split(".")[1:]:
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None or isinstance(found, Mapping | list):
            raise ValueProblem(self._missing(name, found))
        return as_text(found)

    def __iter__(self) -> Iterator[str]:
        if isinstance(self._value, Mapping):
            return (f"item.{name}" for name in self._value)
        return iter(("item",))

    def __len__(self) -> int:
        return len(self._value) if isinstance(self._value, Mapping) else 1

    def _missing(self, name: str, found: object) -> str:
        if found is not None:
            return f"${{{name}}} is {'a list' if isinstance(found, list) else 'a mapping'}, no text"
        names = [f"${{{one[:_LONGEST_NAME]}}}" for one, _ in zip(self, range(_MOST_NAMED))]  # noqa: B905
        more = ", ..." if len(self) > len(names) else ""
        return f"it has no ${{{name}}}; it has {', '.join(names) or 'nothing'}{more}"


class Whole(Fields):
    """An item that says all of a file by itself, if the job does not say what to use of it."""

    def __init__(
        self,
        name: str,
        sources: tuple[str, ...],
        digests: tuple[Digest, ...],
        size_bytes: int | None,
    ) -> None:
        """``sources``: at least one, the best first; ``digests``: one at most."""
        self.name = name
        self.sources = sources
        self.digests = digests
        self.size_bytes = size_bytes
        digest = str(digests[0]) if digests else None
        said = {"name": name, "url": sources[0], "size": size_bytes, "digest": digest}
        super().__init__({field: value for field, value in said.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a job says of a manifest beside its format; ``name``: that of the file."""

    name: str
    items: str = ""
    pattern: str = ""
    delimiter: str = ""
    columns: tuple[str, ...] = ()


#: An item, or why one that can be told from its neighbours is none.
Found = Fields | ValueProblem


def _anything(_: Options) -> None:
    pass


class Format(NamedTuple):
    """``read``: chunks of a file, none of them empty, to items; raises ManifestProblem.

    The same bytes in the same chunks give the same items, read as far. ``options``: those that it
    knows. ``check``: raises ValueProblem for an option that makes no sense. ``item``: what an item
    is unless the job says it, None: the job has to, unless they stand ``alone``. ``fields``: those
    that items have, None: they stand in the file.
    """

    read: Callable[[Iterator[bytes], Options], Iterator[Found]]
    options: tuple[str, ...] = ()
    check: Callable[[Options], object] = _anything
    item: Item | None = None
    fields: frozenset[str] | None = None
    alone: bool = False


def as_text(value: object) -> str:
    """Return a scalar as a manifest would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f") if -30 < value.adjusted() < 30 else str(value)
    return str(value)


def without_bom(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks without a byte order mark at their beginning."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= len(_BOM):
            break
    if start := start.removeprefix(_BOM):
        yield start
    yield from chunks


def lines_of(chunks: Iterator[bytes], most_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines without their ends and without a byte order mark.

    One that is longer than ``most_bytes`` is None, and not kept.
    """
    left, too_long = b"", False
    for chunk in without_bom(chunks):
        *whole, left = (left + chunk).split(b"\n")
        for line in whole:
            yield None if too_long or len(line) > most_bytes else line.rstrip(b"\r")
            too_long = False
        if len(left) > most_bytes:
            left, too_long = b"", True
    if left or too_long:
        yield None if too_long or len(left) > most_bytes else left.rstrip(b"\r")
