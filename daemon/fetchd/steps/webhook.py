"""``webhook``: tells a service of the operator's what the steps before have made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fetchd.clock import Clock
from fetchd.errors import AttemptError, NotWanted
from fetchd.model import Finish
from fetchd.ports import Bench, Request, Transport
from fetchd.secrets import hide
from fetchd.steps import kind
from fetchd.steps.outcome import Records, facts_of
from fetchd.urls import redact_url

#: So many files are named; of all it is told how many they are.
_MOST_FILES = 100
_OF_TASK = "task.finishing"
_MOST_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A service as the configuration knows it."""

    url: str
    timeout_s: float


def with_webhooks(
    webhooks: Mapping[str, Webhook],
    transport: Transport,
    clock: Clock,
    records: Records,
) -> kind.Kind:
    """Return the step for these services, by their names."""
    return replace(
        KIND,
        work=partial(_post, webhooks, transport, clock),
        prepare=partial(_prepare, records),
    )


def key_of(attempt: Finish) -> str:
    """Return what the service knows a second telling of the same by.

    A run that is retried ends once more, which is another thing to tell.
    """
    told = f"{attempt.run.revision} {attempt.run.id} {attempt.task.id}"
    if attempt.group.end is not None:
        told += f" {attempt.intent.mtime_s}"
    return f"fetchd-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _prepare(records: Records, options: Mapping[str, Any], attempt: Finish) -> dict[str, Any]:
    """Add what is told of the task, or the run; no URL goes out with what may be a secret in it."""
    intent = attempt.intent
    if attempt.group.end is not None:
        return {**options, "facts": {**facts_of(attempt, records), "key": key_of(attempt)}}
    facts = {
        "event": _OF_TASK,
        "key": key_of(attempt),
        "job": attempt.job.name,
        "run": attempt.run.id,
        "task": attempt.task.id,
        "root": intent.root,
        "path": intent.path,
        "url": hide(redact_url(intent.url)),
        "size_bytes": intent.size_bytes,
        "verified": intent.verified.value,
        "digests": [str(digest) for digest in intent.digests],
    }
    return {**options, "facts": facts}


def _work(bench: Bench, options: Mapping[str, Any]) -> None:  # noqa: ARG001 -- a step's form
    raise AttemptError("webhook_failed", "the configuration has no webhooks", transient=False)


def _post(
    webhooks: Mapping[str, Webhook],
    transport: Transport,
    clock: Clock,
    bench: Bench,
    options: Mapping[str, Any],
) -> None:
    webhook = webhooks.get(options["webhook"])
    if webhook is None:
        raise AttemptError(
            "webhook_failed",
            f"the configuration has no webhook {options['webhook']!r} (any more)",
            transient=False,
        )
    facts = options["facts"]
    if facts["event"] == _OF_TASK:
        first, count = [], 0
        for file in bench.files():
            count += 1
            if count <= _MOST_FILES:
                first.append({"path": file.path, "size_bytes": file.size_bytes})
        facts = {**facts, "files": first, "files_count": count}
    bench.carry()
    request = Request(
        url=webhook.url,
        headers=(("Idempotency-Key", facts["key"]),),
        connect_s=min(_MOST_CONNECT_S, webhook.timeout_s),
        stall_s=webhook.timeout_s,
        deadline_s=clock.monotonic() + webhook.timeout_s,
        body=json.dumps(facts).encode("ascii"),
    )
    over: list[AttemptError] = []
    try:
        with closing(transport.open(request, partial(_is_wanted, bench, over))):
            pass
    except NotWanted:
        if over:
            raise over[0] from None
        raise
    except AttemptError as exc:
        raise AttemptError("webhook_failed", exc.reason, transient=exc.transient) from exc


def _is_wanted(bench: Bench, over: list[AttemptError]) -> bool:
    """Whether to wait on; why the step's time is over is kept: whoever asks may be another."""
    try:
        bench.tick()
    except NotWanted:
        return False
    except AttemptError as exc:
        over.append(exc)
        return False
    return True


KIND = kind.Kind(
    work=_work,
    options={
        "webhook": kind.Option(
            read=kind.text,
            schema=kind.TEXT,
            meaning="the name of one of the configuration's `webhooks`",
            required=True,
        ),
    },
    makes=kind.same,
    alone="webhook",
)
