"""What the report files say: a run as one JSON document, its files as one JSON line each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fetchd.logs import redact_text
from fetchd.model import FileView, RunView
from fetchd.secrets import hide
from fetchd.urls import redact_url

#: So many failures stand in ``NAME.json``; all are in ``NAME.files.jsonl``.
MOST_FAILURES = 100

_LINES_A_PIECE = 200
_line_of = json.JSONEncoder(ensure_ascii=False).encode


def report_name(job: str) -> str:
    return f"{job}.json"


def files_name(job: str) -> str:
    return f"{job}.files.jsonl"


def run_report(run: RunView, failures: Iterable[FileView]) -> bytes:
    """Return the content of ``NAME.json``; ``failures``: the first of the run's failed tasks."""
    report: dict[str, Any] = {
        "job": run.job,
        "run": run.id,
        "revision": run.revision,
        "file": _shown(run.file),
        "state": run.state.value,
        "scheduled_for": _moment(run.scheduled_for_s),
        "accepted_at": _moment(run.accepted_at_s),
        "started_at": _moment(run.started_at_s),
        "finished_at": _moment(run.finished_at_s),
        "tasks": {"total": run.tasks.total, **asdict(run.tasks)},
        "bytes": run.bytes,
    }
    if not run.state.ended:
        report["list_open"] = run.list_open
        report["waiting"] = dict(run.waiting)
        report["next_due"] = _moment(run.next_due_at_s)
    report["failures"] = [_failure(file) for file in failures]
    return _encoded(json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def file_lines(files: Iterable[FileView]) -> Iterator[bytes]:
    """Yield the content of ``NAME.files.jsonl``, many lines a piece."""
    lines: list[str] = []
    for file in files:
        lines.append(_line_of(_file(file)) + "\n")
        if len(lines) == _LINES_A_PIECE:
            yield _encoded("".join(lines))
            lines.clear()
    yield _encoded("".join(lines))


def _failure(file: FileView) -> dict[str, Any]:
    return {
        "path": _shown(file.path),
        "code": file.detail,
        "reason": redact_text(file.reason),
        "url": _url(file.url),
        "attempts": file.attempts,
        "causes": _causes(file),
        "dossier": _dossier(file),
    }


def _file(file: FileView) -> dict[str, Any]:
    validator = file.validator
    return {
        "path": _shown(file.path),
        "group": file.group,
        "state": file.state.value,
        "detail": file.detail,
        "reason": redact_text(file.reason),
        "size_bytes": file.size_bytes,
        "digests": [str(digest) for digest in file.digests],
        "verified": None if file.verified is None else file.verified.value,
        "url": _url(file.url),
        "final_url": _url(file.final_url),
        "etag": hide(validator.etag) if validator and validator.etag else None,
        "last_modified": validator and validator.last_modified,
        "attempts": file.attempts,
        "resumed_from_bytes": file.resumed_from_bytes,
        "elapsed_s": None if file.elapsed_s is None else round(file.elapsed_s, 3),
        "causes": _causes(file),
        "dossier": _dossier(file),
        "staged": file.staged and asdict(file.staged),
    }


def _causes(file: FileView) -> list[dict[str, Any]]:
    return [
        {"source": source + 1, "code": code, "reason": redact_text(reason)}
        for source, code, reason in file.causes
    ]


def _dossier(file: FileView) -> dict[str, Any] | None:
    dossier = file.dossier
    if dossier is None:
        return None
    return {
        "url": _url(dossier.url),
        "final_url": _url(dossier.final_url),
        "expected": list(dossier.expected),
        "content_type": dossier.content_type and redact_text(dossier.content_type),
        "size_bytes": dossier.size_bytes,
        "digests": [str(digest) for digest in dossier.digests],
        "start": redact_text(dossier.start),
        "quarantine": _shown(dossier.quarantine),
    }


def _url(url: str) -> str:
    return hide(redact_url(url))


def _moment(wall_s: float | None) -> str | None:
    """Return the moment as ISO 8601 in UTC, to the millisecond."""
    if wall_s is None:
        return None
    moment = datetime.fromtimestamp(wall_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(name: str) -> str:
    """Return a name with those bytes escaped that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
