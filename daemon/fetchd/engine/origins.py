"""From what is observed of an origin to what holds for it: its window, its gate, its breaker.

Decides and touches nothing; the engine's lock guards it all. Moments are monotonic, but for those
of records and views, which are steady wall clock.

*Window*: so many connections at a time. It begins at the bound, is halved when the origin says or
shows that it is too much, and grows by one for each round that went well.
*Gate*: the origin asked to be left alone until a moment; nothing is asked of it before.
*Breaker*: the last attempts of several tasks failed for the origin's fault. It is left alone as
long as one task would wait, then one attempt at a time finds out whether it is well. When it has
failed as often as a task may, the tasks go on by themselves, lest a dead origin keep them for ever.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from fetchd import events
from fetchd.engine.queue import Ruling
from fetchd.model import (
    Failure,
    Fetched,
    Named,
    OriginBounds,
    OriginRecord,
    OriginView,
    Outcome,
    RetryPolicy,
    UpToDate,
)

#: So many tasks in a row have to fail for an origin's fault before all others wait.
TASKS_TO_OPEN = 5
#: An outage of which nothing was seen for so long is over; the next one is another.
FORGET_OUTAGE_S = 600.0
#: Before this time a window that was halved does not come back to where it was too much, and is
#: not halved for single refusals.
COOL_DOWN_S = 5.0
#: What an origin refuses of all that is asked of it, and no sign that it is asked too much.
BEARABLE = 0.25
#: What was learned counts half after this time, and is forgotten after ten times as long.
HALF_LIFE_S = 86400.0
FORGET_S = 10 * HALF_LIFE_S
#: Origins beyond these are forgotten, those that nothing was heard of for the longest time first.
MOST_KNOWN = 10_000
_MOST_LOOKED_AT = 8
#: A mean weighs the last so many samples.
_SAMPLES = 20.0
#: Less than this says more of the way to the origin than of the width of the way.
_TELLING_BYTES = 256 * 1024
#: An origin that has so much of the speed of the fastest is as good.
_NEARLY = 0.75
_LOCAL = "file://"

_OVERLOADED = frozenset({429, 503})
_NOT_ITS_FAULT = frozenset({501, 505})
_UNREACHABLE = frozenset({"connect_failed", "dns_failed", "tls_broken", "proxy_failed"})
_STALLED = frozenset({"stalled", "too_slow"})
#: The origin was asked and has answered; what it answered is another matter.
_ANSWERED = frozenset(
    {
        *("bad_status", "too_many_redirects", "short_body", "bad_size", "checksum_mismatch"),
        *("too_large", "length_unknown", "unexpected_html", "expectation_failed"),
    }
)

#: It was asked in vain; that it is there, and how well it is, does not follow.
_USELESS = frozenset(
    {
        *("tls_failed", "address_denied", "scheme_denied"),
        *("bad_length", "bad_framing", "bad_response"),
    }
)

_NOTHING: tuple[Ruling, ...] = ()


@dataclass(slots=True, eq=False)
class _Origin:
    """``round``: attempts that went well since the last one was over, or the window was halved.

    ``filled``: the window was full in it. ``out``: attempts under way, and connections that were
    lent to them. ``too_much``: the window before it was halved. ``well``,
    ``refused``: attempts since, of the refused those that began since. ``calm``: the window before
    the outage.
    """

    name: str
    bounds: OriginBounds
    window: int
    seen_s: float
    why: str = ""  # the window is below the bound
    cut_s: float = -math.inf
    too_much: int = 0
    well: int = 0
    refused: int = 0
    round: int = 0
    filled: bool = False
    out: int = 0
    gate_until_s: float = 0.0
    gate_s: float = 0.0
    gate_why: str = ""
    streak: set[int] = field(default_factory=set)  # tasks that failed in a row
    calm: int = 1
    failed_s: float = -math.inf
    held_until_s: float = 0.0
    tries: int = 0  # pauses of the breaker so far; 0: it is closed
    worn: bool = False  # it has held back long enough, and is closed until the origin is well
    ranges: bool | None = None
    retry_after_s: float | None = None
    best: int | None = None
    samples: float = 0.0
    stall_rate: float = 0.0
    vain_rate: float = 0.0  # of this life alone
    rates: float = 0.0
    bytes_per_s: float | None = None

    @property
    def shut_until_s(self) -> float:
        return max(self.gate_until_s, self.held_until_s)

    def ruling(self) -> Ruling:
        connections = 1 if self.tries else self.window
        return Ruling(self.name, connections, self.shut_until_s)

    def occupy(self) -> None:
        self.out += 1
        if self.out >= self.window:
            self.filled = True

    def learn(self, *, stalled: bool = False, in_vain: bool = False) -> None:
        self.samples = min(_SAMPLES, self.samples + 1.0)
        self.stall_rate += (stalled - self.stall_rate) / self.samples
        self.vain_rate += (in_vain - self.vain_rate) / self.samples

    def learn_rate(self, bytes_per_s: float) -> None:
        self.rates = min(_SAMPLES, self.rates + 1.0)
        before = self.bytes_per_s or 0.0
        self.bytes_per_s = before + (bytes_per_s - before) / self.rates


class Origins:
    """``default`` holds for every origin that ``bounds`` has nothing of its own for.

    ``shut``: the origins of which nothing, or half-open one at a time, is asked now; for reading.
    """

    def __init__(self, default: OriginBounds, bounds: Mapping[str, OriginBounds]) -> None:
        self._default = default
        self._bounds = bounds
        self._known: OrderedDict[str, _Origin] = OrderedDict()  # the last heard of at the end
        self._unrecorded: dict[str, None] = {}
        self._forgotten: list[str] = []
        self.shut: dict[str, None] = {}

    def begin(self, origin: str, now_s: float) -> bool:
        """Let an attempt begin, whose end ``note`` is told; False: the origin was shut just now."""
        known = self._at(origin, now_s)
        if known.gate_until_s > now_s or known.held_until_s > now_s:
            return False
        known.occupy()
        return True

    def lend(self, origin: str, now_s: float) -> None:
        """Count one connection more of an attempt that is under way."""
        self._at(origin, now_s).occupy()

    def give_back(self, origin: str, count: int, now_s: float) -> None:
        """Take in that so many lent connections have ended, before their attempt does."""
        self._at(origin, now_s).out -= count

    def note(
        self,
        origin: str,
        task: int,
        outcome: Outcome,
        policy: RetryPolicy,
        *,
        began_s: float,
        now_s: float,
        happened: list[events.Event],
    ) -> Sequence[Ruling]:
        """Take in how an attempt at an origin ended; returns what holds from now on, if it changed.

        ``policy``: of the attempt's task; ``happened`` gets what is to be told.
        """
        known = self._at(origin, now_s)
        known.out -= 1
        if origin == _LOCAL:
            return _NOTHING
        match outcome:
            case Fetched(intent=intent, ranges=ranges):
                if not intent.received_bytes:
                    return _NOTHING
                if ranges is not None:
                    known.ranges = ranges
                telling = intent.received_bytes >= _TELLING_BYTES and intent.elapsed_s > 0
                if telling and outcome.repaired is None:  # which is the disk's speed, too
                    known.learn_rate(intent.received_bytes / intent.elapsed_s)
                return self._well(known, now_s, happened)
            case UpToDate(how="not_modified") | Named():
                return self._well(known, now_s, happened)
            case Failure():
                return self._failed(known, task, outcome, policy, began_s, now_s, happened)
            case _:
                return _NOTHING

    def note_connection(
        self,
        origin: str,
        failure: Failure,
        policy: RetryPolicy,
        *,
        began_s: float,
        now_s: float,
        happened: list[events.Event],
    ) -> Sequence[Ruling]:
        """As ``note``, of one connection of an attempt that goes on by others.

        Of the task that says nothing, so the breaker does not hear of it.
        """
        if origin == _LOCAL:
            return _NOTHING
        known = self._at(origin, now_s)
        rulings = self._heed_wish(known, failure, policy, now_s, happened)
        if failure.origin and failure.origin != known.name:
            return rulings
        if _is_too_much(failure) and not known.worn:
            self._unrecorded[known.name] = None
            if self._cut(known, failure, began_s, now_s, happened):
                rulings = [known.ruling()]
        return rulings

    def leave_alone(
        self,
        names: Iterable[str],
        wish_s: float,
        why: str,
        policy: RetryPolicy,
        now_s: float,
        happened: list[events.Event],
    ) -> list[Ruling]:
        """Shut origins that ask for it, for as long as the policy lets them ask."""
        delay_s = min(wish_s, policy.max_retry_after_s)
        rulings = []
        for name in dict.fromkeys(names):
            known = self._at(name, now_s)
            known.retry_after_s = wish_s
            self._unrecorded[name] = None
            if now_s + delay_s <= known.gate_until_s:
                continue
            known.gate_until_s, known.gate_s = now_s + delay_s, delay_s
            known.gate_why = why
            self._tell_shut(known, "asked", why, delay_s, happened)
            rulings.append(known.ruling())
        return rulings

    def best(self, names: Sequence[str], last: Collection[str]) -> int:
        """Return which of several origins promises most for a file that each of them has.

        Those in ``last`` come behind all others, and those that are shut behind all that are not.
        Of the rest one that nothing is known of is tried; then those that are nearly as
        fast as the fastest, in the order that was given, then the others by their speed.
        """
        speeds = [self._speed(name) for name in names]
        fast = max((speed for speed in speeds if speed < math.inf), default=0.0) * _NEARLY

        def place(index: int) -> tuple[bool, bool, float, int]:
            name, speed = names[index], speeds[index]
            return (
                name in last,
                name in self.shut,
                -min(speed, fast) if speed < math.inf else -speed,
                index,
            )

        return min(range(len(names)), key=place)

    def _speed(self, name: str) -> float:
        """Return bytes a second, as far as they arrive; infinity: nothing is known."""
        known = self._known.get(name)
        if known is None or not known.samples:
            return math.inf
        return (known.bytes_per_s or 0.0) * (1.0 - known.stall_rate) * (1.0 - known.vain_rate)

    def tick(self, now_s: float) -> list[events.Event]:
        """Return what is to be told of gates whose time is over."""
        told: list[events.Event] = []
        for name in list(self.shut):
            known = self._known[name]
            if not known.tries:  # a breaker is closed by an attempt that went well
                self._tell_opened(known, now_s, told)
        return told

    # ------------------------------------------------------------ what was observed

    def _well(self, known: _Origin, now_s: float, happened: list[events.Event]) -> Sequence[Ruling]:
        known.learn()
        self._unrecorded[known.name] = None
        changed = self._answered(known, now_s, happened)
        known.well += 1
        known.round += 1
        if known.round >= known.window:
            known.round = 0
            if known.filled:
                known.best, known.filled = known.window, False
                changed = self._grow(known, now_s, happened) or changed
        return (known.ruling(),) if changed else _NOTHING

    def _failed(
        self,
        known: _Origin,
        task: int,
        failure: Failure,
        policy: RetryPolicy,
        began_s: float,
        now_s: float,
        happened: list[events.Event],
    ) -> Sequence[Ruling]:
        rulings = self._heed_wish(known, failure, policy, now_s, happened)
        if failure.origin and failure.origin != known.name:
            return rulings
        asked = _wish_of(failure)
        self._unrecorded[known.name] = None
        if not known.streak and not known.tries:
            known.calm = known.window
        changed = False
        if _is_too_much(failure) and not known.worn:
            changed = self._cut(known, failure, began_s, now_s, happened)
        if _is_its_fault(failure) and asked is None:
            changed = self._fails(known, task, failure, policy, began_s, now_s, happened) or changed
        elif failure.code in _ANSWERED:
            known.learn(in_vain=True)
            changed = self._answered(known, now_s, happened) or changed
        elif failure.code in _USELESS:
            known.learn(in_vain=True)
        elif failure.code in _STALLED:
            known.learn(stalled=True)
        return [known.ruling()] if changed or rulings else _NOTHING

    def _heed_wish(
        self,
        known: _Origin,
        failure: Failure,
        policy: RetryPolicy,
        now_s: float,
        happened: list[events.Event],
    ) -> list[Ruling]:
        """Leave alone who asks for it in a refusal, and the door that leads there."""
        if (wish_s := _wish_of(failure)) is None:
            return []
        if failure.origin and failure.origin != known.name:  # it answered behind a redirect
            why = f"status {failure.status} from {failure.origin}"
            names = (failure.origin, known.name)
            return self.leave_alone(names, wish_s, why, policy, now_s, happened)
        why = f"status {failure.status}"
        return self.leave_alone((known.name,), wish_s, why, policy, now_s, happened)

    def _grow(self, known: _Origin, now_s: float, happened: list[events.Event]) -> bool:
        bound = known.bounds.connections
        if known.window >= bound:
            return False
        if now_s < known.cut_s + COOL_DOWN_S and known.window + 1 >= known.too_much:
            return False
        known.window += 1
        if known.window == bound:
            known.why = ""
            happened.append(
                events.OriginWindow(
                    origin=known.name, connections=bound, before=bound - 1, reason="it went well"
                )
            )
        return True

    def _cut(
        self,
        known: _Origin,
        failure: Failure,
        began_s: float,
        now_s: float,
        happened: list[events.Event],
    ) -> bool:
        """Halve the window, once for all attempts that were under way together.

        An origin that refuses now and then, however few ask, would be left one connection for ever
        if each refusal counted.
        """
        if began_s <= known.cut_s:
            return False
        known.refused += 1
        known.round = 0
        if now_s < known.cut_s + COOL_DOWN_S and known.refused <= BEARABLE * (
            known.well + known.refused
        ):
            return False
        known.cut_s, known.too_much = now_s, known.window
        known.well = known.refused = 0
        known.filled = False
        if known.window == 1:
            return False
        before, known.window = known.window, known.window // 2
        known.why = f"{failure.code}: {failure.reason}"
        happened.append(
            events.OriginWindow(
                origin=known.name,
                connections=known.window,
                before=before,
                reason=known.why,
            )
        )
        return True

    def _answered(self, known: _Origin, now_s: float, happened: list[events.Event]) -> bool:
        """The origin is there: whatever ailed it is over."""
        if known.streak:
            known.streak.clear()
        known.worn = False
        if not known.tries:
            return False
        known.tries, known.held_until_s = 0, 0.0
        # What was refused in an outage says little of how much is too much.
        known.window, known.cut_s = max(known.window, known.calm // 2), -math.inf
        self._tell_opened(known, now_s, happened)
        return True

    def _fails(
        self,
        known: _Origin,
        task: int,
        failure: Failure,
        policy: RetryPolicy,
        began_s: float,
        now_s: float,
        happened: list[events.Event],
    ) -> bool:
        """Count a failure of the origin as such; True: that changes what holds."""
        anew = now_s - max(known.failed_s, known.held_until_s) > FORGET_OUTAGE_S
        known.failed_s = now_s
        if anew:
            known.streak.clear()
            known.worn = False
        if known.worn:
            return False
        if not known.tries:
            known.streak.add(task)
            if len(known.streak) < TASKS_TO_OPEN:
                return False
        elif began_s < known.held_until_s:
            return False  # it was under way when the breaker opened
        known.tries = 1 if anew else known.tries + 1
        if known.tries >= policy.attempts:
            known.tries, known.held_until_s, known.worn = 0, 0.0, True
            known.window, known.why = known.bounds.connections, ""
            known.streak.clear()
            self._tell_opened(known, now_s, happened)
            return True
        delay_s = min(policy.max_delay_s, policy.delay_s * 2.0 ** min(known.tries - 1, 60))
        known.held_until_s = now_s + delay_s
        self._tell_shut(known, "failing", f"{failure.code}: {failure.reason}", delay_s, happened)
        return True

    # ------------------------------------------------------------ telling

    def _tell_shut(
        self, known: _Origin, cause: str, why: str, delay_s: float, happened: list[events.Event]
    ) -> None:
        self.shut[known.name] = None
        happened.append(
            events.OriginShut(origin=known.name, cause=cause, reason=why, delay_s=delay_s)
        )

    def _tell_opened(self, known: _Origin, now_s: float, happened: list[events.Event]) -> None:
        if known.name not in self.shut or known.shut_until_s > now_s:
            return
        del self.shut[known.name]
        happened.append(events.OriginOpened(origin=known.name, worn=known.worn))

    def views(self, most: int, now_s: float, behind_s: float) -> tuple[OriginView, ...]:
        """Return what holds for origins: the shut ones, then those that were heard of last.

        ``behind_s``: what turns a monotonic moment into one of the wall clock.
        """
        names = dict.fromkeys((*islice(self.shut, most), *islice(reversed(self._known), most)))
        shown = (self._known[name] for name in islice(names, most))
        return tuple(_view(known, now_s, behind_s) for known in shown if known.name != _LOCAL)

    # ------------------------------------------------------------ what is kept

    def take_records(self, steady_s: float) -> tuple[list[OriginRecord], list[str]]:
        """Return what changed since the last call, and which origins were forgotten.

        ``steady_s``: what turns a monotonic moment into one of the steady wall clock.
        """
        records = [self.record(name, steady_s) for name in self._unrecorded if name in self._known]
        forgotten = self._forgotten
        self._unrecorded, self._forgotten = {}, []
        return records, forgotten

    def record(self, origin: str, steady_s: float) -> OriginRecord:
        known = self._known[origin]
        return OriginRecord(
            origin=known.name,
            seen_at_s=known.seen_s + steady_s,
            window=known.window,
            why=known.why,
            gate_until_at_s=known.gate_until_s + steady_s if known.gate_until_s else 0.0,
            gate_s=known.gate_s,
            gate_why=known.gate_why,
            held_until_at_s=known.held_until_s + steady_s if known.tries else 0.0,
            tries=known.tries,
            ranges=known.ranges,
            retry_after_s=known.retry_after_s,
            best=known.best,
            samples=known.samples,
            stall_rate=known.stall_rate,
            rates=known.rates,
            bytes_per_s=known.bytes_per_s,
        )

    def load(self, records: Iterable[OriginRecord], now_s: float, steady_s: float) -> list[Ruling]:
        """Take in what an earlier life has left, as old as it is; returns what holds.

        The wall clock may have been set back since: no gate is shut for longer than it was then.
        """
        rulings = []
        for record in sorted(records, key=lambda one: one.seen_at_s)[-MOST_KNOWN:]:
            age_s = max(0.0, now_s + steady_s - record.seen_at_s)
            weight = 0.5 ** (age_s / HALF_LIFE_S)
            known = self._at(record.origin, now_s - age_s)
            bound = known.bounds.connections
            missing = max(0, bound - record.window) * weight
            known.window = max(1, min(bound, bound - round(missing)))
            known.why = record.why if known.window < bound else ""
            left_s = min(record.gate_until_at_s - steady_s - now_s, record.gate_s)
            if left_s > 0:
                known.gate_until_s, known.gate_s = now_s + left_s, record.gate_s
                known.gate_why = record.gate_why
            if record.tries and age_s <= FORGET_OUTAGE_S:
                known.tries = record.tries
                pause_s = record.held_until_at_s - record.seen_at_s
                known.held_until_s = now_s + max(0.0, pause_s - age_s)
                known.failed_s = now_s
            if left_s > 0 or known.tries:
                self.shut[known.name] = None
            known.ranges, known.best = record.ranges, record.best
            known.retry_after_s = record.retry_after_s
            known.samples, known.stall_rate = record.samples * weight, record.stall_rate
            known.rates, known.bytes_per_s = record.rates * weight, record.bytes_per_s
            rulings.append(known.ruling())
        return rulings

    def _at(self, origin: str, now_s: float) -> _Origin:
        """Return what is known of an origin, which was heard of just now."""
        known = self._known.get(origin)
        if known is None:
            bounds = self._bounds.get(origin, self._default)
            known = _Origin(origin, bounds, bounds.connections, now_s)
            self._known[origin] = known
            if len(self._known) > MOST_KNOWN:
                self._forget()
        else:
            self._known.move_to_end(origin)
            known.seen_s = now_s
        return known

    def _forget(self) -> None:
        """Forget what nothing was heard of for the longest time, but for what is not at rest."""
        for oldest in list(islice(self._known, _MOST_LOOKED_AT)):
            if len(self._known) <= MOST_KNOWN:
                return
            if self._known[oldest].out or oldest in self.shut:
                self._known.move_to_end(oldest)
            else:
                del self._known[oldest]
                self._unrecorded.pop(oldest, None)
                self._forgotten.append(oldest)


def _wish_of(failure: Failure) -> float | None:
    return (failure.retry_after_s or None) if failure.status is not None else None


def _is_too_much(failure: Failure) -> bool:
    return failure.status in _OVERLOADED or failure.code == "connect_failed"


def _is_its_fault(failure: Failure) -> bool:
    """Tell whether the origin failed as such, whatever was asked of it."""
    if failure.code in _UNREACHABLE:
        return failure.transient
    status = failure.status or 0
    return 500 <= status <= 599 and status not in _NOT_ITS_FAULT


def _view(known: _Origin, now_s: float, behind_s: float) -> OriginView:
    shut = known.shut_until_s > now_s
    breaker = "closed"
    if known.tries:
        breaker = "open" if known.held_until_s > now_s else "half_open"
    reason = ""
    if known.gate_until_s > now_s and known.gate_until_s >= known.held_until_s:
        reason = known.gate_why
    return OriginView(
        origin=known.name,
        connections=known.window,
        most_connections=known.bounds.connections,
        bound_by=known.bounds.by,
        window_reason=known.why,
        requests_per_s=known.bounds.requests_per_s,
        out=known.out,
        breaker=breaker,
        failures=known.tries or len(known.streak),
        shut_until_s=known.shut_until_s + behind_s if shut else None,
        shut_reason=reason or ("it fails" if shut else ""),
        ranges=known.ranges,
        retry_after_s=known.retry_after_s,
        best_connections=known.best,
        stall_rate=round(known.stall_rate, 3),
        bytes_per_s=None if known.bytes_per_s is None else round(known.bytes_per_s, 1),
        seen_at_s=known.seen_s + behind_s,
    )
