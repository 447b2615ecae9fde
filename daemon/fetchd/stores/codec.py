"""Model values <-> the JSON and text that stand in columns.

A field that a document has got since schema version 1 may be missing from one that is older: it has
its default then, from the model or here, and no migration rewrites documents.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from fetchd.digests import Digest
from fetchd.model import (
    CatchUp,
    Condition,
    Dossier,
    FileRecord,
    Generations,
    History,
    IfExists,
    Intent,
    Item,
    Job,
    ListFile,
    Magic,
    Makes,
    Manifest,
    Matrix,
    OnRemove,
    OriginRecord,
    Priority,
    Reading,
    RetryPolicy,
    Rules,
    RunEnd,
    Schedule,
    SizeRange,
    Staged,
    StepSpec,
    TaskGroup,
    Template,
    Timeouts,
    UpToDate,
    Validator,
    Verify,
    Window,
)
from fetchd.rates import Rate, Span


def path_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def plain_text(text: str) -> str:
    """Return a text that a column can hold: a name in it need not be UTF-8, so that is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def column_number(number: int) -> int:
    """Return a number as a column can hold it: 64 bits, the highest for the sign."""
    return (number + 2**63) % 2**64 - 2**63


def digests_text(digests: tuple[Digest, ...]) -> str:
    return " ".join(map(str, digests))


def digests_of(text: str) -> tuple[Digest, ...]:
    if not text:  # of most tasks, or of most files: each read and record asks
        return ()
    return tuple(Digest(*word.split(":", 1)) for word in text.split())


# ---------------------------------------------------------------- jobs and groups


def job_text(job: Job) -> str:
    fields = asdict(replace(job, groups=()))
    del fields["groups"], fields["name"], fields["revision"]
    return json.dumps(fields)


def job_of(text: str, name: str, revision: str, groups: tuple[TaskGroup, ...]) -> Job:
    fields = json.loads(text)
    fields["priority"] = Priority(fields["priority"])
    if rate := fields.get("rate"):
        fields["rate"] = Rate(**{**rate, "spans": tuple(Span(**span) for span in rate["spans"])})
    if schedule := fields.get("schedule"):
        catch_up = CatchUp(schedule["catch_up"])
        fields["schedule"] = Schedule(**{**schedule, "catch_up": catch_up})
    if window := fields.get("window"):
        spans = tuple((begin, end) for begin, end in window["spans"])
        fields["window"] = Window(spans=spans, days=tuple(window["days"]))
    if on_remove := fields.get("on_remove"):
        fields["on_remove"] = OnRemove(on_remove)
    if generations := fields.get("generations"):
        fields["generations"] = Generations(**generations)
    return Job(name=name, revision=revision, groups=groups, **fields)


def group_text(group: TaskGroup) -> str:
    """Return the group as JSON.

    Literal items have become tasks and are left out, but for those of a matrix or manifest; a
    single one is kept, because other groups may refer to the path of its file.
    """
    listed, form, items = None, "", []
    if isinstance(group.items, ListFile):
        listed, form = group.items.path, group.items.format
    elif len(group.items) == 1 or group.matrix is not None or group.manifest is not None:
        items = [asdict(item) for item in group.items]
    return json.dumps(
        {
            "name": group.name,
            "needs": group.needs,
            "list": listed,
            "format": form,
            "items": items,
            "template": asdict(group.template),
            "rules": asdict(group.rules),
            "matrix": group.matrix and asdict(group.matrix),
            "may_fail": group.may_fail,
            "when": group.when and asdict(group.when),
            "steps": [asdict(step) for step in group.steps],
            "manifest": group.manifest and asdict(group.manifest),
            "gathers": group.gathers,
            "end": group.end,
        }
    )


def group_of(text: str) -> TaskGroup:
    fields: dict[str, Any] = json.loads(text)
    rules: dict[str, Any] = fields["rules"]
    template: dict[str, Any] = fields["template"]
    items = tuple(
        Item(**{**item, "mirrors": tuple(item.get("mirrors", ()))}) for item in fields["items"]
    )
    return TaskGroup(
        name=fields["name"],
        needs=tuple(fields["needs"]),
        items=items
        if fields["list"] is None
        else ListFile(path=fields["list"], format=fields.get("format", "urls")),
        template=Template(
            base=tuple(template["base"]),
            dest=template["dest"],
            filename=template["filename"],
            checksums=tuple(template["checksums"]),
            sums=template.get("sums"),
            from_header=template.get("from_header", False),
        ),
        rules=Rules(
            **{
                **rules,
                "if_exists": IfExists(rules["if_exists"]),
                "verify": Verify(rules["verify"]),
                "size": SizeRange(**rules["size"]) if rules["size"] else None,
                "magic": tuple(Magic(**magic) for magic in rules.get("magic", ())),
                "headers": tuple((name, value) for name, value in rules["headers"]),
                "retry": RetryPolicy(**rules["retry"]),
                "timeouts": Timeouts(**rules["timeouts"]),
            }
        ),
        matrix=_matrix_of(fields.get("matrix")),
        may_fail=fields.get("may_fail", False),
        when=_condition_of(fields.get("when")),
        steps=tuple(
            StepSpec(**{**step, "makes": Makes(step["makes"])}) for step in fields.get("steps", ())
        ),
        manifest=_manifest_of(fields.get("manifest")),
        gathers=fields.get("gathers", False),
        end=RunEnd(fields["end"]) if fields.get("end") else None,
    )


def _condition_of(fields: dict[str, Any] | None) -> Condition | None:
    if fields is None:
        return None
    return Condition(**{**fields, "compares": tuple(fields["compares"])})


def _manifest_of(fields: dict[str, Any] | None) -> Manifest | None:
    if fields is None:
        return None
    return Manifest(**{**fields, "columns": tuple(fields["columns"])})


def _matrix_of(fields: dict[str, Any] | None) -> Matrix | None:
    if fields is None:
        return None
    return Matrix(
        axes=tuple(
            (name, said if isinstance(said, str) else tuple(said)) for name, said in fields["axes"]
        ),
        include=_pairs_of(fields["include"]),
        exclude=_pairs_of(fields["exclude"]),
    )


def _pairs_of(listed: list[list[list[str]]]) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(tuple((name, text) for name, text in one) for one in listed)


def reading_columns(reading: Reading) -> tuple[int, float, int, int]:
    """Return those of table ``task_group``."""
    return reading.failures, reading.due_at_s, int(reading.begun), reading.crashes


def reading_of(failures: int, due_s: float, begun: int, crashes: int) -> Reading:
    return Reading(failures=failures, due_at_s=due_s, begun=bool(begun), crashes=crashes)


# ---------------------------------------------------------------- tasks


def values_text(values: tuple[tuple[str, str], ...]) -> str | None:
    """Return the values of a task for its steps, None where there are none."""
    return json.dumps(dict(values)) if values else None


def values_of(text: str | None) -> tuple[tuple[str, str], ...]:
    return () if text is None else tuple(json.loads(text).items())


_NO_HISTORY = History()


def history_text(history: History) -> str | None:
    if history is _NO_HISTORY or history == _NO_HISTORY:
        return None
    fields = asdict(history)
    fields["barred"] = sorted(history.barred)
    fields["mismatched"] = sorted(history.mismatched)
    if history.dossier is not None:
        fields["dossier"]["digests"] = digests_text(history.dossier.digests)
    fields["not_yet"] = sorted(history.not_yet)
    fields["tried"] = sorted(history.tried)
    return json.dumps(fields)


def history_of(text: str | None) -> History:
    if text is None:
        return _NO_HISTORY
    fields = json.loads(text)
    fields["barred"] = frozenset(fields["barred"])
    fields["mismatched"] = frozenset(fields["mismatched"])
    fields["not_yet"] = frozenset(fields.get("not_yet", ()))
    fields["tried"] = frozenset(fields.get("tried", ()))
    fields["causes"] = tuple((source, code, reason) for source, code, reason in fields["causes"])
    if dossier := fields.get("dossier"):
        dossier["digests"] = digests_of(dossier["digests"])
        dossier["expected"] = tuple(dossier["expected"])
        fields["dossier"] = Dossier(**dossier)
    return History(**fields)


def intent_text(intent: Intent) -> str:
    """Return a JSON array whose first four members are those of ``unchanged_text``."""
    validator = intent.validator
    return json.dumps(
        [
            intent.size_bytes,
            intent.verified,
            digests_text(intent.digests),
            intent.url,
            intent.final_url,
            validator.etag,
            validator.last_modified,
            validator.date,
            intent.resumed_from_bytes,
            intent.received_bytes,
            intent.elapsed_s,
            intent.mtime_s,
            intent.part,
            intent.device,
            intent.inode,
            intent.clobber,
            intent.root,
            *_steps_of(intent),
        ]
    )


def _steps_of(intent: Intent) -> tuple[object, ...]:
    """Return what only a task with steps has."""
    if not intent.begun:
        return ()
    staged = intent.staged
    return (True, None if staged is None else (staged.files, staged.bytes))


def intent_of(text: str, path: str) -> Intent:
    values = json.loads(text)
    return Intent(
        root=values[16],
        path=path,
        part=values[12],
        device=values[13],
        inode=values[14],
        size_bytes=values[0],
        verified=Verify(values[1]),
        digests=digests_of(values[2]),
        clobber=values[15],
        url=values[3],
        final_url=values[4],
        validator=Validator(etag=values[5], last_modified=values[6], date=values[7]),
        mtime_s=values[11],
        resumed_from_bytes=values[8],
        received_bytes=values[9],
        elapsed_s=values[10],
        begun=len(values) > 17,
        staged=Staged(files=values[18][0], bytes=values[18][1])
        if len(values) > 17 and values[18]
        else None,
    )


def origin_row(record: OriginRecord) -> tuple[str, float, str]:
    """Return the columns of table ``origin``."""
    fields = asdict(record)
    del fields["origin"], fields["seen_at_s"]
    return record.origin, record.seen_at_s, json.dumps(fields)


def origin_of_row(origin: str, seen_at_s: float, document: str) -> OriginRecord:
    return OriginRecord(origin=origin, seen_at_s=seen_at_s, **json.loads(document))


def unchanged_text(outcome: UpToDate, url: str) -> str:
    return json.dumps([outcome.size_bytes, outcome.verified, digests_text(outcome.digests), url])


def unchanged_of(text: str) -> tuple[int, Verify, tuple[Digest, ...], str]:
    size_bytes, verified, digests, url = json.loads(text)
    return size_bytes, Verify(verified), digests_of(digests), url


def record_of(columns: tuple[Any, ...]) -> FileRecord | None:
    """Return the record of nine columns of table ``file``, None for a join that found none."""
    url, size_bytes, mtime_ns, inode, digests, etag, last_modified, date, verified = columns
    if url is None:
        return None
    return FileRecord(
        url=url,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        inode=inode % 2**64,  # some file systems use all 64 bits
        verified=Verify(verified),
        digests=digests_of(digests),
        validator=Validator(etag=etag, last_modified=last_modified, date=date),
    )
