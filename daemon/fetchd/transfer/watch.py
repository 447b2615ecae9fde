"""What an attempt has used of its time and may use of room, and what it tells of its way."""

from __future__ import annotations

from collections.abc import Callable

from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import Fetch, Progress
from fetchd.ports import Stream
from fetchd.transfer.kept import Kept
from fetchd.transfer.pace import Pace

_REPORT_S = 0.25


class Watch:
    """Deadline, speed, limits and reports of one attempt. One thread, but for ``wanted``.

    ``received_bytes``: of bodies, in this attempt; ``kept``: what there is to tell of, from the
    opening of the part on; ``also``: who has to want the first stream besides the engine.
    """

    def __init__(
        self, attempt: Fetch, clock: Clock, report: Callable[[Fetch, Progress], bool]
    ) -> None:
        self.received_bytes = 0
        self.kept: Kept | None = None
        self.also: Callable[[], bool] | None = None
        self.began_s = self._reported_s = clock.monotonic()
        timeouts = attempt.group.rules.timeouts
        limit_s = timeouts.attempt_s
        self.deadline_s = None if limit_s is None else self.began_s + limit_s
        self.pace = Pace(timeouts)
        self._attempt = attempt
        self._clock = clock
        self._report = report

    def read(self, stream: Stream, buffer: memoryview) -> int:
        """Read once and watch the clock: speed, deadline, report; 0 at the end of the body."""
        before_s = self._clock.monotonic()
        got = stream.readinto(buffer)
        now_s = self._clock.monotonic()
        self.received_bytes += got
        if got:
            self.pace.note(got, now_s - before_s - stream.held_s)
            self._check_deadline(now_s)
        if now_s - self._reported_s >= _REPORT_S:
            self.tell()
        return got

    def check_limits(self, size_bytes: int) -> None:
        most_bytes, says = self._attempt.group.rules.max_bytes, "limits.file allows"
        if most_bytes is None or size_bytes <= most_bytes:
            most_bytes, says = self._attempt.budget_bytes, "limits.total leaves"
        if most_bytes is not None and size_bytes > most_bytes:
            raise AttemptError(
                "too_large", f"{size_bytes} bytes are more than {says} ({most_bytes})"
            )

    def tell(self, wish: tuple[str, float] | None = None) -> None:
        """Report what was received and what is held; raises NotWanted. ``wish``: see Progress."""
        self._tell(self._progress(wish))

    def pass_on(self, wish: tuple[str, float]) -> None:
        """Report what an origin asked for. Any thread."""
        self._report(self._attempt, self._progress(wish))

    def tell_if_due(self) -> None:
        if self._due():
            self.tell()

    def tell_hashed(self, hashed_bytes: int, size_bytes: int) -> None:
        """Report, if it is due, how much of what is on the disk has been read."""
        if self._due():
            self._tell(Progress(have_bytes=hashed_bytes, total_bytes=size_bytes, verifying=True))

    def wanted(self) -> bool:
        """Tell the transport, in a long wait, whether somebody still wants the attempt."""
        also = self.also
        if also is not None and not also():
            return False
        return self._report(self._attempt, self._progress())

    def _progress(self, wish: tuple[str, float] | None = None) -> Progress:
        kept = self.kept
        return Progress(
            received_bytes=self.received_bytes,
            have_bytes=kept.held_bytes if kept else 0,
            total_bytes=kept.total_bytes if kept else None,
            wish=wish,
        )

    def _tell(self, progress: Progress) -> None:
        self._reported_s = self._clock.monotonic()
        if not self._report(self._attempt, progress):
            raise NotWanted

    def _due(self) -> bool:
        now_s = self._clock.monotonic()
        self._check_deadline(now_s)
        return now_s - self._reported_s >= _REPORT_S

    def _check_deadline(self, now_s: float) -> None:
        if self.deadline_s is not None and now_s > self.deadline_s:
            limit_s = self._attempt.group.rules.timeouts.attempt_s
            raise AttemptError("deadline", f"the attempt took longer than {limit_s:g} s")
