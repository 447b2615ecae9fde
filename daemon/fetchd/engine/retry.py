"""An attempt failed: try again when and where, or give up. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fetchd.clock import Random
from fetchd.model import Dossier, Failure, History, RetryPolicy

#: These concern the destination or the task itself, so that another source cannot help.
_FINAL = frozenset(
    {"dest_conflict", "dest_denied", "exists", "cancelled", "poison", "list_changed"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The next attempt is at ``history.source``, not before ``delay_s`` from now."""

    history: History
    delay_s: float


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

    ``now_s`` is wall clock. A round is one pass over the sources that are still in play; the
    delay, exponential with full jitter, stands between rounds. A source that failed for good
    leaves the round; one that served a wrong digest may serve once more.
    """
    source = history.source
    barred, mismatched = history.barred, history.mismatched
    if failure.code == "checksum_mismatch" and source not in mismatched:
        mismatched |= {source}
    elif not failure.transient:
        barred |= {source}
    causes = {index: (code, reason) for index, code, reason in history.causes}
    causes[source] = (failure.code, failure.reason)
    history = replace(
        history,
        attempts=history.attempts + 1,
        round=0 if failure.progressed else history.round,
        barred=barred,
        mismatched=mismatched,
        causes=tuple((index, *causes[index]) for index in sorted(causes)),
        dossier=_telling(failure.dossier, history.dossier),
        first_failed_at_s=now_s if history.first_failed_at_s is None else history.first_failed_at_s,
    )
    left = [index for index in range(sources) if index not in barred]
    if failure.code in _FINAL or not left:
        return _give_up(failure, history, sources)

    later = [index for index in left if index > source]
    if later:
        history = replace(history, source=later[0])
        delay_s = 0.0
    else:
        history = replace(history, source=left[0], round=history.round + 1)
        if history.round >= policy.attempts:
            return _give_up(failure, history, sources)
        longest_s = min(policy.max_delay_s, policy.delay_s * 2.0 ** min(history.round - 1, 60))
        delay_s = random.uniform(0, longest_s)
    if failure.retry_after_s is not None and history.source == source:
        # A little jitter on top, lest all tasks of an origin come back in the same instant.
        wished_s = min(failure.retry_after_s, policy.max_retry_after_s)
        delay_s = max(delay_s, wished_s + random.uniform(0, min(1.0, policy.delay_s)))
    assert history.first_failed_at_s is not None
    if now_s + delay_s - history.first_failed_at_s > policy.give_up_after_s:
        return _give_up(failure, history, sources)
    return Again(history=history, delay_s=delay_s)


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
