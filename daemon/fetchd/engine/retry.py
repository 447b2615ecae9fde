"""An attempt failed: try again when and where, or give up. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fetchd.clock import Random
from fetchd.model import Dossier, Failure, History, RetryPolicy
from fetchd.units import format_duration

#: These concern the destination or the task itself, so that another source cannot help.
_FINAL = frozenset(
    {
        "dest_conflict",
        "dest_denied",
        "exists",
        "cancelled",
        "poison",
        "list_changed",
        "command_failed",
        "webhook_failed",
        "needs_attention",
    }
)
#: What an origin answers for a file that it does not have, or does not show, yet.
_ABSENT_STATUS = frozenset({403, 404, 410})
_ABSENT_CODE = "not_found"
#: A file that is not there yet is asked for less often than one that failed: after so many delays.
_DELAYS_TO_PROBE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The next attempt is at ``history.source``, not before ``delay_s`` from now.

    ``wait``: the reason that is shown, ``retry`` or ``not_yet``.
    """

    history: History
    delay_s: float
    wait: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    history: History
    code: str
    reason: str


def decide(
    failure: Failure,
    history: History,
    policy: RetryPolicy,
    *,
    sources: int,
    now_s: float,
    random: Random,
) -> Again | GiveUp:
    """Decide what follows a failed attempt at source ``history.source`` of ``sources``.

    ``now_s`` is steady wall clock; later moments in the history, of a life before that clock was
    set back, count as now. A round is one pass over the sources that are still in play; the delay,
    exponential with full jitter, stands between rounds. A source that failed for good leaves the
    round; one that served a wrong digest may serve once more.

    While ``policy.wait_for_s`` lasts, a source that does not have the file yet stays in play and
    is not charged: behind a round with such a source the task waits, for five delays at first,
    doubled each time. At the end of it all sources are asked once more, and a failure is one.
    """
    source = history.source
    history = _not_later(history, now_s)
    begun_s = now_s if history.not_yet_at_s is None else history.not_yet_at_s
    waited_s = now_s - begun_s
    left_s = (policy.wait_for_s or 0.0) - waited_s
    absent = failure.status in _ABSENT_STATUS or failure.code == _ABSENT_CODE
    wait = "retry"
    if absent and left_s > 0:  # also where the status may be that of a link that has expired
        wait = "not_yet"
        history = replace(history, not_yet=history.not_yet | {source}, not_yet_at_s=begun_s)
    else:
        if absent and history.not_yet_at_s is not None:
            waited = format_duration(waited_s)
            failure = replace(failure, reason=f"{failure.reason}, after waiting {waited} for it")
        history = _charge(failure, history, now_s)
    left = _in_play(history, sources)
    if failure.code in _FINAL or not left:
        return _give_up(failure, history, sources)

    history, rest = _go_on(history, left)
    if rest:
        delay_s = 0.0
    elif history.not_yet and left_s > 0:
        wait = "not_yet"
        # Whatever else happened before: the origin is well, and the time of waiting is not failing.
        history = replace(history, round=0, first_failed_at_s=None)
        longest_s = min(policy.max_delay_s, _DELAYS_TO_PROBE * policy.delay_s + waited_s)
        delay_s = random.uniform(longest_s / 2, longest_s)
    else:
        history = replace(history, round=history.round + 1)
        if history.round >= policy.attempts:
            return _give_up(failure, history, sources)
        longest_s = min(policy.max_delay_s, policy.delay_s * 2.0 ** min(history.round - 1, 60))
        delay_s = random.uniform(0, longest_s)
    if failure.retry_after_s is not None and history.source == source:
        # A little jitter on top, lest all tasks of an origin come back in the same instant.
        wished_s = min(failure.retry_after_s, policy.max_retry_after_s)
        delay_s = max(delay_s, wished_s + random.uniform(0, min(1.0, policy.delay_s)))
    if wait == "not_yet":
        return Again(history=history, delay_s=min(delay_s, left_s), wait=wait)
    assert history.first_failed_at_s is not None
    if now_s + delay_s - history.first_failed_at_s > policy.give_up_after_s:
        return _give_up(failure, history, sources)
    return Again(history=history, delay_s=delay_s, wait=wait)


def without_room(history: History, delay_s: float, *, sources: int) -> tuple[History, float]:
    """Decide what follows when the file of ``history.source`` found no room, which is no failure.

    That of another source may be smaller, so those left in the round are asked at once. Behind the
    last one the task waits for ``delay_s``, and all are asked again.
    """
    history, rest = _go_on(history, _in_play(history, sources))
    return history, 0.0 if rest else delay_s


def choices(history: History, sources: int) -> list[int]:
    """Return the sources of which any may be the next one, in the order of the job file."""
    left = _in_play(history, sources)
    return [index for index in left if index not in history.tried] or left


def _go_on(history: History, left: list[int]) -> tuple[History, bool]:
    """Leave ``history.source`` for those of the round that were not asked yet, or begin a new one.

    The second value tells whether there was one.
    """
    tried = history.tried | {history.source}
    rest = [index for index in left if index not in tried]
    if rest:
        return replace(history, source=rest[0], tried=tried), True
    return replace(history, source=left[0], tried=frozenset()), False


def longest_delay_s(policy: RetryPolicy) -> float:
    """Return the longest delay that ``decide`` ever answers."""
    return max(policy.max_delay_s, policy.max_retry_after_s) + 1.0


def _in_play(history: History, sources: int) -> list[int]:
    return [index for index in range(sources) if index not in history.barred]


def _not_later(history: History, now_s: float) -> History:
    def known(at_s: float | None) -> float | None:
        return None if at_s is None else min(at_s, now_s)

    return replace(
        history,
        first_failed_at_s=known(history.first_failed_at_s),
        not_yet_at_s=known(history.not_yet_at_s),
    )


def _charge(failure: Failure, history: History, now_s: float) -> History:
    """Count a failure of ``history.source``, and bar the source if it was one for good."""
    source = history.source
    barred, mismatched = history.barred, history.mismatched
    if failure.code == "checksum_mismatch" and source not in mismatched:
        mismatched |= {source}
    elif not failure.transient:
        barred |= {source}
    causes = {index: (code, reason) for index, code, reason in history.causes}
    causes[source] = (failure.code, failure.reason)
    return replace(
        history,
        attempts=history.attempts + 1,
        round=0 if failure.progressed else history.round,
        barred=barred,
        mismatched=mismatched,
        causes=tuple((index, *causes[index]) for index in sorted(causes)),
        dossier=_telling(failure.dossier, history.dossier),
        first_failed_at_s=now_s if history.first_failed_at_s is None else history.first_failed_at_s,
        not_yet=history.not_yet - {source},
    )


def _telling(new: Dossier | None, old: Dossier | None) -> Dossier | None:
    """Return the dossier that tells more: the later one, unless the bytes of the other are kept."""
    if new is None or (old is not None and old.quarantine and not new.quarantine):
        return old
    return new


def _give_up(failure: Failure, history: History, sources: int) -> GiveUp:
    reason = failure.reason
    if sources > 1 and len(history.causes) > 1:
        each = "; ".join(f"source {i + 1}: {code}: {why}" for i, code, why in history.causes)
        reason = f"{len(history.causes)} sources failed: {each}"
    return GiveUp(history=history, code=failure.code, reason=reason)


def after_crash(history: History, durable_bytes: int) -> History:
    """Charge a crash of the daemon while it worked on a task, unless the part has grown since."""
    if durable_bytes > history.crash_bytes:
        return replace(history, crashes=1, crash_bytes=durable_bytes)
    return replace(history, crashes=history.crashes + 1)
