"""Numbers in the table of contents of a 7z archive, read one behind the other, never too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fetchd.steps.amount import too_large
from fetchd.steps.members import Members
from fetchd.steps.unpack import bad

BROKEN = "its table of contents is broken"
UNKNOWN = -1  #: In place of a checksum.
#: What is counted takes no less of a table: a member has a name, a stream has lengths and coders.
_SMALLEST_BYTES = 4
_NUMBERS_A_TICK = 4096


class Cursor:
    """Reads what stands one behind the other; never behind ``stop``."""

    def __init__(
        self, data: bytearray, tick: Callable[[], None], at: int = 0, stop: int = -1
    ) -> None:
        self.data = data
        self.at = at
        self.stop = len(data) if stop < 0 else stop
        self._tick = tick
        self._reads = 0

    @property
    def left(self) -> int:
        return self.stop - self.at

    def take(self, size_bytes: int) -> memoryview:
        if size_bytes > self.left:
            raise bad(f"{BROKEN}: it ends too early")
        self.at += size_bytes
        return memoryview(self.data)[self.at - size_bytes : self.at]

    def byte(self) -> int:
        self._reads += 1
        if not self._reads % _NUMBERS_A_TICK:
            self._tick()
        return self.take(1)[0]

    def number(self) -> int:
        """Read a number: as many bytes follow the first one as that begins with bits that are 1."""
        first = self.byte()
        more = 8 - (first ^ 0xFF).bit_length()
        return int.from_bytes(self.take(more), "little") + ((first & 0x7F >> more) << 8 * more)

    def expect(self, kind: int) -> None:
        if self.byte() != kind:
            raise bad(BROKEN)

    def expect_stop(self) -> None:
        if self.left:
            raise bad(f"{BROKEN}: there is more behind its end")

    def count(self, most: int, members: Members) -> int:
        """Read how many things follow."""
        count = self.number()
        if count > most:
            raise too_large(f"it has more than {members.most_files} members (`max_files`)")
        if count * _SMALLEST_BYTES > self.left:
            raise bad(f"{BROKEN}: it counts more than it holds")
        return count

    def bits(self, count: int) -> Bits:
        return Bits(self.take((count + 7) // 8), count)

    def bits_or_all(self, count: int) -> Bits:
        return Bits(None, count) if self.byte() else self.bits(count)

    def crcs(self, count: int) -> Iterator[int]:
        known = self.bits_or_all(count)
        for number in range(count):
            yield self.fixed(4) if known[number] else UNKNOWN

    def fixed(self, size_bytes: int) -> int:
        self._reads += 1
        if not self._reads % _NUMBERS_A_TICK:
            self._tick()
        return int.from_bytes(self.take(size_bytes), "little")

    def part(self, size_bytes: int) -> Cursor:
        """Take so many bytes, to be read by themselves."""
        at = self.at
        self.take(size_bytes)
        return Cursor(self.data, self._tick, at, self.at)

    def expect_here(self) -> None:
        """Refuse what stands elsewhere: no archive is made so."""
        if self.byte():
            raise bad("its table of contents lies in several places")


class Bits:
    """So many yes or no; no ``data``: all of them yes."""

    def __init__(self, data: memoryview | None, count: int) -> None:
        self._data = data
        self.count = count

    def __getitem__(self, number: int) -> bool:
        if self._data is None:
            return number < self.count
        return number < self.count and bool(self._data[number >> 3] & 0x80 >> (number & 7))

    @property
    def total(self) -> int:
        if self._data is None:
            return self.count
        padding = -self.count % 8
        return (int.from_bytes(self._data, "big") >> padding).bit_count()
