"""Spends the rates: buckets that all transfers of one limit share, and streams that wait for them.

A stream pays behind each read and waits before the next one, until the rate has paid for what it
took last. The waits of a bucket's streams end in the order of their reads, so each has its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fetchd import threads
from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import Share
from fetchd.ports import Request, Stream
from fetchd.rates import Rate
from fetchd.urls import origin_of

#: What comes at once: so much time's worth for all streams of a bucket together, but at least so
#: many bytes for each: less would cost more than it brings.
SLICE_S = 0.05
LEAST_SLICE_BYTES = 4096
#: So much time's worth may be made up for, as when the system wakes a thread late.
CREDIT_S = 0.05
#: How soon a timetable, a cancel and a stop are seen by whoever waits.
LOOK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the operator allows: ``total`` for all transfers together, ``origins`` for single ones.

    The keys of ``origins`` are as ``origin_of`` returns them.
    """

    total: Rate | None = None
    origins: Mapping[str, Rate] = field(default_factory=dict)


class Bucket:
    """One rate, and how much of it was taken. Any thread.

    ``reason`` names the limit. Of what it lets through there are at most ``rate * seconds`` bytes
    in any time, and ``CREDIT_S`` of them and a slice for each of its streams.
    """

    def __init__(self, rate: Rate, reason: str, clock: Clock) -> None:
        self.reason = reason
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        # All of the following is guarded by _lock. What was taken, and what of it is paid for
        # (more: credit), are counted from the beginning.
        self._taken_bytes = 0
        self._paid_bytes = 0.0
        self._paid_at_s = self._looked_s = clock.monotonic()
        self._bytes_per_s = rate.at(clock.wall())
        self._streams = 0

    def join(self) -> int:
        """Count one stream more; returns its ticket: what was taken before it has to be paid."""
        with self._lock:
            self._streams += 1
            return self._taken_bytes

    def leave(self) -> None:
        with self._lock:
            self._streams -= 1

    def most_bytes(self) -> int | None:
        """Return how much one of the streams may read at once, None: there is no limit now."""
        with self._lock:
            self._go_on()
            if self._bytes_per_s is None:
                return None
            share = int(self._bytes_per_s * SLICE_S) // max(1, self._streams)
            return max(LEAST_SLICE_BYTES, share)

    def take(self, count: int) -> int:
        """Note that so many bytes were read; returns the ticket to wait with."""
        with self._lock:
            self._go_on()
            self._taken_bytes += count
            return self._taken_bytes

    def wait_s(self, ticket: int) -> float:
        """Return in how many seconds all up to a ticket is paid for, 0.0: it is."""
        with self._lock:
            self._go_on()
            if self._bytes_per_s is None:
                return 0.0
            owed_bytes = ticket - self._paid_bytes
            return owed_bytes / self._bytes_per_s if owed_bytes >= 1 else 0.0

    def idle(self) -> bool:
        """Whether nobody uses it, and a new one in its place would be the same."""
        with self._lock:
            self._go_on()
            return not self._streams and self._paid_bytes >= self._taken_bytes

    def _go_on(self) -> None:
        """Pay for the time since the last call, at the rate that held then."""
        now_s = self._clock.monotonic()
        if self._bytes_per_s is None:
            self._paid_bytes = float(self._taken_bytes)
        else:
            self._paid_bytes = min(
                self._paid_bytes + (now_s - self._paid_at_s) * self._bytes_per_s,
                self._taken_bytes + CREDIT_S * self._bytes_per_s,
            )
        self._paid_at_s = now_s
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._bytes_per_s = self._rate.at(self._clock.wall())


class ThrottledStream:
    """A stream that keeps to its buckets (``ports.Stream``); owns the stream within."""

    def __init__(
        self,
        stream: Stream,
        buckets: Sequence[Bucket],
        *,
        clock: Clock,
        wanted: Callable[[], bool],
        deadline_s: float | None,
    ) -> None:
        self.start = stream.start
        self.total = stream.total
        self.framed = stream.framed
        self.not_modified = stream.not_modified
        self.validator = stream.validator
        self.content_type = stream.content_type
        self.final_url = stream.final_url
        self.wish = stream.wish
        self.file_name = stream.file_name
        self.held_s = 0.0
        self._stream = stream
        self._clock = clock
        self._wanted = wanted
        self._deadline_s = deadline_s
        self._condition = threading.Condition(threading.Lock())  # nobody notifies it
        self._buckets = list(buckets)
        self._tickets = [bucket.join() for bucket in buckets]

    def readinto(self, buffer: memoryview) -> int:
        self._wait()
        slices = [bucket.most_bytes() for bucket in self._buckets]
        most = min((size for size in slices if size is not None), default=len(buffer))
        count = self._stream.readinto(buffer[:most])
        for index, bucket in enumerate(self._buckets):
            if slices[index] is not None:  # what began without a limit is not charged later
                self._tickets[index] = bucket.take(count)
        return count

    def close(self) -> None:
        for bucket in self._buckets:
            bucket.leave()
        self._buckets.clear()
        self._stream.close()

    def _wait(self) -> None:
        """Wait until all buckets have been paid; raises AttemptError (deadline), NotWanted."""
        self.held_s = 0.0
        wait_s, bucket = self._longest()
        if not wait_s:
            return
        began_s = now_s = self._clock.monotonic()
        while wait_s:
            if self._deadline_s is not None:
                if now_s >= self._deadline_s:
                    reason = "the time limit of the attempt ran out while it waited for "
                    raise AttemptError("deadline", reason + bucket.reason)
                wait_s = min(wait_s, self._deadline_s - now_s)
            threads.beat()
            with self._condition:
                self._clock.wait(self._condition, min(wait_s, LOOK_S))
            if wait_s > LOOK_S and not self._wanted():
                raise NotWanted
            wait_s, bucket = self._longest()
            now_s = self._clock.monotonic()
        self.held_s = now_s - began_s

    def _longest(self) -> tuple[float, Bucket]:
        waits = (
            bucket.wait_s(ticket)
            for bucket, ticket in zip(self._buckets, self._tickets, strict=True)
        )
        return max(zip(waits, self._buckets, strict=True), key=lambda wait: wait[0])


class Throttle:
    """The buckets of all rates, and which of them hold for a stream. Any thread."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        self._clock = clock
        self._total = (
            None
            if rates.total is None
            else Bucket(rates.total, "limits.rate of the configuration", clock)
        )
        self._origins = {
            origin: Bucket(rate, f"the rate of {origin} in the configuration", clock)
            for origin, rate in rates.origins.items()
        }
        self._unbounded = self._total is None and not self._origins
        self._lock = threading.Lock()
        self._shares: dict[str, Bucket] = {}  # by name; guarded by _lock

    def stream(self, stream: Stream, request: Request, wanted: Callable[[], bool]) -> Stream:
        """Return the answer to a request as one that keeps to all rates that hold for it."""
        if request.share is None and self._unbounded:
            return stream
        with self._lock:  # a share's bucket is not idle before it is joined
            buckets = self._buckets(origin_of(stream.final_url), request.share)
            if not buckets:
                return stream
            return ThrottledStream(
                stream, buckets, clock=self._clock, wanted=wanted, deadline_s=request.deadline_s
            )

    def _buckets(self, origin: str, share: Share | None) -> list[Bucket]:
        """Return what holds for bytes that ``origin`` sends. The lock is held."""
        buckets = [self._total, self._origins.get(origin)]
        if share is not None:
            if share.name not in self._shares:
                self._shares = {n: one for n, one in self._shares.items() if not one.idle()}
                reason = "limits.rate of the job file"
                self._shares[share.name] = Bucket(share.rate, reason, self._clock)
            buckets.append(self._shares[share.name])
        return [bucket for bucket in buckets if bucket is not None]
