"""What was learned of origins goes on record: what shuts one at once, the rest now and then.

Moments on record are steady wall clock, so that the next life can read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fetchd.clock import Clock, SteadyWall
from fetchd.engine.effects import Effects, Out
from fetchd.engine.origins import Origins
from fetchd.engine.queue import Ruling
from fetchd.engine.runs import Group
from fetchd.model import Failure, Fetch, OriginRecord, Outcome
from fetchd.ports import Change, OriginForgotten, OriginKept
from fetchd.urls import origin_of

#: What was learned is recorded this often.
KEEP_ORIGINS_EVERY_S = 30.0


class OriginRecords:
    """``origins``: what this life knows of them. The engine's lock guards it all."""

    def __init__(self, origins: Origins, clock: Clock, steady: SteadyWall) -> None:
        self._origins = origins
        self._clock = clock
        self._steady = steady
        self._due_s = clock.monotonic() + KEEP_ORIGINS_EVERY_S

    def load(self, records: Iterable[OriginRecord], effects: Effects) -> None:
        """Go on with what an earlier life has left."""
        now_s = self._clock.monotonic()
        effects.rulings += self._origins.load(records, now_s, self._steady_s())

    def note(self, out: Out, outcome: Outcome, effects: Effects) -> None:
        """Take in how an attempt ended; one that came from no queue has asked no origin."""
        if out.entry is None:
            return
        rulings = self._origins.note(
            out.entry.origin,
            out.entry.ready.task.id,
            outcome,
            out.group.rules.retry,
            began_s=out.began_s,
            now_s=self._clock.monotonic(),
            happened=effects.happened,
        )
        if rulings:
            self._rule(rulings, effects)

    def note_connection(self, out: Out, failure: Failure, asked_s: float, effects: Effects) -> None:
        """Take in how a connection failed, while its attempt goes on by others."""
        if out.entry is None:
            return
        rulings = self._origins.note_connection(
            out.entry.origin,
            failure,
            out.group.rules.retry,
            began_s=asked_s,
            now_s=self._clock.monotonic(),
            happened=effects.happened,
        )
        if rulings:
            self._rule(rulings, effects)

    def leave_alone(
        self, attempt: Fetch, group: Group, origin: str, wish_s: float, effects: Effects
    ) -> None:
        """Shut an origin that has said so in the head of an answer, and the one that led there."""
        rulings = self._origins.leave_alone(
            (origin, origin_of(attempt.source)),
            wish_s,
            "its limit of requests is used up",
            group.rules.retry,
            self._clock.monotonic(),
            effects.happened,
        )
        self._rule(rulings, effects)

    def tick(self, now_s: float, effects: Effects) -> None:
        effects.happened += self._origins.tick(now_s)
        if now_s >= self._due_s:
            self._due_s = now_s + KEEP_ORIGINS_EVERY_S
            effects.changes += self.learned()

    def learned(self) -> list[Change]:
        """Return the records of what was learned since the last call."""
        records, forgotten = self._origins.take_records(self._steady_s())
        return [
            *(OriginKept(record=record) for record in records),
            *(OriginForgotten(origin=origin) for origin in forgotten),
        ]

    def _rule(self, rulings: Sequence[Ruling], effects: Effects) -> None:
        """Let rulings hold, and what shuts an origin outlive a crash."""
        effects.rulings += rulings
        steady_s = self._steady_s()
        effects.changes += (
            OriginKept(record=self._origins.record(ruling.origin, steady_s))
            for ruling in rulings
            if ruling.shut_until_s
        )

    def _steady_s(self) -> float:
        """Return what turns a monotonic moment into one of the steady wall clock."""
        return self._steady.now_s() - self._clock.monotonic()
