"""The file that stands at a destination already: whether it may stay, and what proves that."""

from __future__ import annotations

from collections.abc import Callable

from fetchd.digests import Digest, Hashes
from fetchd.errors import AttemptError
from fetchd.model import Fetch, FileRecord, IfExists, Rules, UpToDate, Validator, Verify
from fetchd.ports import Disk, Existing
from fetchd.transfer.resume import unless_of
from fetchd.transfer.verify import fits_magic


class Standing:
    """A standing file, held against what a job asks for. One thread."""

    def __init__(
        self,
        disk: Disk,
        attempt: Fetch,
        rules: Rules,
        file: Existing,
        tell: Callable[[int, int], None],
    ) -> None:
        """``tell`` hears how many bytes of how many have been read; it may raise."""
        self._disk = disk
        self._attempt = attempt
        self._rules = rules
        self._path = attempt.task.spec.path
        self._file = file
        self._tell = tell

    def unconditional(self) -> UpToDate | None:
        """Apply what ``if_exists`` says of any file, whatever is in it; raises AttemptError."""
        match self._rules.if_exists:
            case IfExists.SKIP:
                return UpToDate(
                    size_bytes=self._file.size_bytes,
                    verified=Verify.NONE,
                    digests=(),
                    how="present",
                )
            case IfExists.FAIL:
                raise AttemptError(
                    "exists", "the file exists and `if_exists: fail` forbids to replace it"
                )
            case IfExists.OVERWRITE | IfExists.UPDATE:
                return None

    def consider_update(
        self, wanted: tuple[Digest, ...], spread: Callable[[], None]
    ) -> UpToDate | Validator | None:
        """Return that the file is as ``wanted``; or on which condition it may be; else None.

        ``spread`` is called before much is read.
        """
        # A link is not the file that was asked for; its name is taken over.
        if self._rules.if_exists is not IfExists.UPDATE or self._file.link:
            return None
        previous = self._attempt.previous
        if previous is not None and not _is_same(previous, self._file):
            previous = None
        if wanted:
            algorithms = {digest.algorithm for digest in wanted}
            if previous and algorithms <= {digest.algorithm for digest in previous.digests}:
                found = previous.digests
            else:
                spread()
                found = self._hash(algorithms)
            if not set(wanted) <= set(found):
                return None
            if previous is None:
                # Nobody knows how it came there: perhaps by a publication that was cut short.
                self._disk.sync_existing(self._rules.root, self._path)
            return UpToDate(
                size_bytes=self._file.size_bytes,
                verified=Verify.DIGEST,
                digests=wanted,
                how="digest",
            )
        if previous and previous.url == self._attempt.source and self._passes(previous.verified):
            return unless_of(previous.validator)
        return None

    def _passes(self, verified: Verify) -> bool:
        """Tell whether the file passes the rules of today; if not, a 304 would not mend it."""
        if verified is Verify.NONE and self._rules.verify is not Verify.NONE:
            return False
        size, seen_bytes, file_bytes = self._rules.size, 0, self._file.size_bytes
        end_bytes = max((magic.end_bytes for magic in self._rules.magic), default=0)
        if file_bytes < end_bytes or (size and file_bytes not in size):
            return False
        with self._disk.read_existing(self._rules.root, self._path) as slices:
            while seen_bytes < end_bytes and (piece := next(slices, None)) is not None:
                if not fits_magic(self._rules, piece, seen_bytes):
                    return False
                seen_bytes += len(piece)
                self._tell(seen_bytes, file_bytes)
        return True

    def _hash(self, algorithms: set[str]) -> tuple[Digest, ...]:
        hashes, hashed_bytes = Hashes(algorithms), 0
        with self._disk.read_existing(self._rules.root, self._path) as slices:
            for piece in slices:
                hashes.update(piece)
                hashed_bytes += len(piece)
                self._tell(hashed_bytes, self._file.size_bytes)
        return hashes.digests()


class StandingTree:
    """What steps have made of the last file of a task, where all of it still stands. One thread."""

    def __init__(self, attempt: Fetch) -> None:
        self._attempt = attempt
        self._rules = attempt.group.rules

    @classmethod
    def of(cls, disk: Disk, attempt: Fetch) -> StandingTree | None:
        """Return it if nothing of it is missing or, unless the job trusts presence, changed."""
        rules = attempt.group.rules
        same = rules.if_exists is not IfExists.SKIP
        spec, steps = attempt.task.spec, attempt.group.steps
        if disk.stands(rules.root, spec.path, steps, spec.values, same=same):
            return cls(attempt)
        return None

    def unconditional(self) -> UpToDate | None:
        """Do what ``Standing.unconditional`` does."""
        match self._rules.if_exists:
            case IfExists.SKIP:
                previous = self._attempt.previous
                return UpToDate(
                    size_bytes=previous.size_bytes if previous else 0,
                    verified=Verify.NONE,
                    digests=(),
                    how="present",
                )
            case IfExists.FAIL:
                raise AttemptError(
                    "exists",
                    "what its steps make exists and `if_exists: fail` forbids to replace it",
                )
            case IfExists.OVERWRITE | IfExists.UPDATE:
                return None

    def consider_update(
        self, wanted: tuple[Digest, ...], _spread: Callable[[], None]
    ) -> UpToDate | Validator | None:
        """Do what ``Standing.consider_update`` does, by what is known of the file behind it."""
        previous = self._attempt.previous
        if self._rules.if_exists is not IfExists.UPDATE or previous is None:
            return None
        if wanted:
            if not set(wanted) <= set(previous.digests):
                return None
            return UpToDate(
                size_bytes=previous.size_bytes,
                verified=Verify.DIGEST,
                digests=wanted,
                how="digest",
            )
        size = self._rules.size
        unproved = previous.verified is Verify.NONE and self._rules.verify is not Verify.NONE
        if previous.url != self._attempt.source or unproved:
            return None
        if size is not None and previous.size_bytes not in size:
            return None
        return unless_of(previous.validator)


def _is_same(previous: FileRecord, standing: Existing) -> bool:
    """Tell whether the file still is as it was when it was published."""
    return (previous.size_bytes, previous.mtime_ns, previous.inode) == (
        standing.size_bytes,
        standing.mtime_ns,
        standing.inode,
    )
