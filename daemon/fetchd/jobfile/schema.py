"""The keys of a job file: one model that reads them strictly and describes them to editors."""

from __future__ import annotations

import enum
import re
import zoneinfo
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from fetchd.errors import ValueProblem
from fetchd.expand import FORMATS
from fetchd.jobfile import times
from fetchd.jobfile.steps import ends_schema, steps_schema
from fetchd.model import CatchUp, IfExists, Magic, OnRemove, Priority, SizeRange, Verify, Window
from fetchd.rates import Rate, parse_rate, rate_schema
from fetchd.units import parse_duration_s, parse_rate_bytes_per_s, parse_size_bytes
from fetchd.variables import is_plain_name
from fetchd.yamldoc import did_you_mean

#: Job, task and control files share this form.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FromHeader(enum.Enum):
    """What ``filename: { from: header }`` is read as."""

    YES = enum.auto()


#: What ``segments: auto`` is read as: None would mean that the key is not given.
_AUTO = 0
MOST_SEGMENTS = 16

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_FEW = 32
_MOST_VARIABLES = 1000
_MOST_VALUES = 1000
_RESERVED = {"item", "job", "matrix", "needs", "run", "task", "url", "vars"}
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 §5.6.2
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+|\*/\*")
_MAGIC = re.compile(r"hex:((?:[0-9A-Fa-f]{2})+)(?:@([0-9]{1,19}))?")
_LONGEST_MAGIC_BYTES = 256
_MOST_MAGIC = 8
_MAGIC_BELOW_BYTES = 2**60
_SECRET_HEADERS = {"authorization", "cookie", "proxy-authorization"}
_OWN_HEADERS = {
    "accept-encoding", "connection", "content-length", "content-type", "expect", "host",
    "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
    "keep-alive", "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueProblem(f"needs a text, not {_kind(value)}")
    return value


def _name(value: object) -> str:
    text = _text(value)
    if not NAME.fullmatch(text):
        raise ValueProblem(
            f"{text[:140]!r} is no name; allowed are up to 128 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    return text


def _variable(value: object) -> str:
    text = _text(value)
    if not _VARIABLE.fullmatch(text):
        raise ValueProblem(f"{text[:140]!r} is no variable; use letters, digits, '_' and '-'")
    if text in _RESERVED:
        raise ValueProblem(f"{text!r} means something else in ${{...}}; choose another name")
    if not is_plain_name(text):
        raise ValueProblem(f"${{{text}}} would mean another date; choose another name")
    return text


def _filename(value: object) -> str | FromHeader:
    if not isinstance(value, Mapping):
        return _text(value)
    if value != {"from": "header"}:
        raise ValueProblem("needs a name, or { from: header } for the one that its server gives")
    return FromHeader.YES


def _lines(value: object) -> list[object]:
    # The items are read where they become tasks: there are too many for a model each.
    if not isinstance(value, list):
        raise ValueProblem("needs a list; write each URL on a line of its own behind '- '")
    return value


def _steps(value: object) -> list[object]:
    # As with lines: an error shall have the place of the entry, or of its option.
    if not isinstance(value, list):
        raise ValueProblem("needs a list; write each step on a line of its own behind '- '")
    return value


def _some(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _few(value: Any) -> Any:
    # What every task may inherit has to be small: tasks times headers would fill the memory.
    if len(value) > _FEW:
        raise ValueProblem(f"has {len(value)} entries; at most {_FEW} are possible")
    return value


def _not_too_many(value: Any) -> Any:
    if len(value) > _MOST_VARIABLES:
        raise ValueProblem(f"has {len(value)} names; at most {_MOST_VARIABLES} are possible")
    return value


def _version(value: object) -> int:
    if _text(value) != "1":
        raise ValueProblem(f"{value!r} is not a version of the job file that is known; write 1")
    return 1


def _count(value: object) -> int:
    text = _text(value)
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise ValueProblem(f"{text!r} is not a whole number from 1 to 999999")
    return int(text)


def _truth(value: object) -> bool:
    text = _text(value)
    if text not in {"true", "false"}:
        raise ValueProblem(f"{text[:60]!r} is neither true nor false")
    return text == "true"


def _format(value: object) -> str:
    text = _text(value)
    if text not in FORMATS:
        near = did_you_mean(text, FORMATS)
        raise ValueProblem(
            f"{text[:60]!r} is not one of {', '.join(FORMATS)}" + (near and f"; {near}")
        )
    return text


def _segments(value: object) -> int:
    text = _text(value)
    if text == "auto":
        return _AUTO
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= MOST_SEGMENTS:
        raise ValueProblem(
            f"{text[:60]!r} is no number of connections; write auto, or 1 to {MOST_SEGMENTS}"
        )
    return int(text)


def _duration_s(value: object) -> float:
    seconds = parse_duration_s(_text(value))
    if seconds <= 0:
        raise ValueProblem(f"{value!r} is no time at all; write a duration above zero")
    return seconds


def _size_bytes(value: object) -> int:
    return parse_size_bytes(_text(value))


def _size_range(value: object) -> SizeRange:
    least, dots, most = _text(value).partition("..")
    if not dots:
        exact_bytes = parse_size_bytes(least)
        return SizeRange(least_bytes=exact_bytes, most_bytes=exact_bytes)
    if not least.strip() and not most.strip():
        raise ValueProblem(f"{value!r} is no range of sizes; write A..B, A.. or ..B")
    size = SizeRange(
        least_bytes=parse_size_bytes(least) if least.strip() else 0,
        most_bytes=parse_size_bytes(most) if most.strip() else None,
    )
    if size.most_bytes is not None and size.least_bytes > size.most_bytes:
        raise ValueProblem(f"{value!r} is an empty range: the first size is above the second")
    return size


def _stall(value: object) -> tuple[float, int | None]:
    duration, at, rate = _text(value).partition("@")
    return _duration_s(duration), parse_rate_bytes_per_s(rate) if at else None


def _choice(value: object, allowed: Mapping[str, Any]) -> Any:
    text = _text(value)
    if text not in allowed:
        near = did_you_mean(text, allowed)
        raise ValueProblem(f"{text!r} is not one of {', '.join(allowed)}" + (near and f"; {near}"))
    return allowed[text]


def _priority(value: object) -> Priority:
    return Priority[_choice(value, {member.name.lower(): member.name for member in Priority})]


def _if_exists(value: object) -> IfExists:
    return IfExists(_choice(value, {member.value: member for member in IfExists}))


def _verify(value: object) -> Verify:
    return Verify(_choice(value, {member.value: member for member in Verify}))


def _flag(value: object) -> bool:
    return bool(_choice(value, {"true": True, "false": False}))


def _on_remove(value: object) -> OnRemove:
    return OnRemove(_choice(value, {member.value: member for member in OnRemove}))


def _catch_up(value: object) -> CatchUp:
    return CatchUp(_choice(value, {member.value: member for member in CatchUp}))


def _timezone(value: object) -> str:
    text = _text(value)
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(text, sorted(zoneinfo.available_timezones()))
        raise ValueProblem(
            f"{text[:60]!r} is not a time zone of this machine; "
            + (near or "write one such as Europe/Berlin")
        ) from None
    return text


def _media_type(value: object) -> str:
    text = _text(value)
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueProblem(f'{text!r} is not a media type; write one such as text/html, or "*/*"')
    return text.lower()


def _magic(value: object) -> Magic:
    text = _text(value)
    match = _MAGIC.fullmatch(text.strip())
    if match is None:
        raise ValueProblem(
            f"{text[:60]!r} is no magic; write hex: and two digits for each byte, then @ and the "
            "offset unless it is 0: hex:4344303031@32769"
        )
    magic = Magic(hex=match[1].lower(), offset_bytes=int(match[2] or 0))
    size_bytes = magic.end_bytes - magic.offset_bytes
    if size_bytes > _LONGEST_MAGIC_BYTES:
        raise ValueProblem(
            f"{text[:60]!r}... has {size_bytes} bytes; at most {_LONGEST_MAGIC_BYTES} are possible"
        )
    if magic.offset_bytes >= _MAGIC_BELOW_BYTES:
        raise ValueProblem(f"{magic} lies behind the end of any file; write an offset below 2^60")
    return magic


def _magics(value: object) -> tuple[Magic, ...]:
    texts = _some(value)
    if not isinstance(texts, list):
        raise ValueProblem("needs a text or a list of texts")
    if len(texts) > _MOST_MAGIC:
        raise ValueProblem(f"has {len(texts)} entries; at most {_MOST_MAGIC} are possible")
    return tuple(map(_magic, texts))


def _header_name(value: object) -> str:
    text = _text(value)
    if not _HEADER.fullmatch(text):
        raise ValueProblem(f"{text[:60]!r} is not the name of a header")
    if text.lower() in _SECRET_HEADERS:
        raise ValueProblem(
            f"{text} may not stand in a job file: no secrets here; the operator's configuration "
            "is the place for them"
        )
    if text.lower() in _OWN_HEADERS:
        raise ValueProblem(f"{text} is set by fetchd itself")
    return text


def _header_value(value: object) -> str:
    text = _text(value)
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueProblem("a header's value has only printable ASCII characters")
    if "${" in text:
        raise ValueProblem("variables are not replaced in headers")
    return text.strip(" \t")


def _matrix(value: object) -> object:
    """Read the values of one name: a range as text, a list of texts, or of combinations."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueProblem(f"needs a list of values or a range A..B, not {_kind(value)}")
    if len(value) > _MOST_VALUES:
        raise ValueProblem(f"has {len(value)} entries; at most {_MOST_VALUES} are possible")
    if value and all(isinstance(one, Mapping) for one in value):
        return [_combination(one) for one in value]
    return tuple(map(_text, value))


def _combination(said: Mapping[str, object]) -> dict[str, str]:
    if not said:
        raise ValueProblem("has an entry without values; write names and values: { arch: arm64 }")
    return {name: _text(text) for name, text in said.items()}


def _kind(value: object) -> str:
    return "nothing" if value is None else "a mapping" if isinstance(value, Mapping) else "a list"


def _native(*types: str, **more: object) -> WithJsonSchema:
    """What editors see: a scalar may stand there as its native type too."""
    return WithJsonSchema({"type": [*types] if len(types) > 1 else types[0], **more})


def _one_of(members: Iterable[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(members)})


_DURATION = r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)\s*)+$"
_SIZE = r"\s*\d+(\.\d+)?\s*(B|[kKMGT]B|[KMGT]iB)?\s*"

Text = Annotated[str, PlainValidator(_text), _native("string", "number", "boolean")]
Texts = Annotated[
    tuple[Text, ...],
    BeforeValidator(_some),
    AfterValidator(_few),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "number", "boolean"]},
                {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
            ]
        }
    ),
]
Lines = Annotated[
    list[object],
    PlainValidator(_lines),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
Steps = Annotated[list[object], PlainValidator(_steps), WithJsonSchema(steps_schema())]
Ends = Annotated[list[object], PlainValidator(_steps), WithJsonSchema(ends_schema())]
Name = Annotated[
    str, PlainValidator(_name), _native("string", "integer", pattern=f"^{NAME.pattern}$")
]
Names = Annotated[
    list[Name],
    BeforeValidator(_some),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Variable = Annotated[str, PlainValidator(_variable), _native("string")]
FileName = Annotated[
    str | FromHeader,
    PlainValidator(_filename),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "number", "boolean"]},
                {
                    "type": "object",
                    "properties": {"from": {"enum": ["header"]}},
                    "required": ["from"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"enum": [1, "1"]})]
Flag = Annotated[bool, PlainValidator(_flag), WithJsonSchema({"enum": [True, False]})]
Count = Annotated[
    int, PlainValidator(_count), _native("integer", "string", minimum=1, pattern=r"^[0-9]{1,6}$")
]
Truth = Annotated[
    bool, PlainValidator(_truth), WithJsonSchema({"enum": [True, False, "true", "false"]})
]
Segments = Annotated[
    int,
    PlainValidator(_segments),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "pattern": "^(auto|[0-9]{1,2})$",
            "minimum": 1,
            "maximum": MOST_SEGMENTS,
        }
    ),
]
Duration = Annotated[float, PlainValidator(_duration_s), _native("string", pattern=_DURATION)]
Size = Annotated[
    int,
    PlainValidator(_size_bytes),
    _native("integer", "string", minimum=0, pattern=f"^{_SIZE}$"),
]
Range = Annotated[
    SizeRange,
    PlainValidator(_size_range),
    _native("integer", "string", minimum=0, pattern=f"^({_SIZE})?(\\.\\.)?({_SIZE})?$"),
]
Stall = Annotated[
    tuple[float, int | None],
    PlainValidator(_stall),
    _native("string", pattern=f"{_DURATION[:-1]}(@{_SIZE}/\\s*s\\s*)?$"),
]
RateKey = Annotated[Rate, PlainValidator(parse_rate), WithJsonSchema(rate_schema())]
_ONE_MAGIC = {"type": "string", "pattern": f"^\\s*{_MAGIC.pattern}\\s*$"}
Magics = Annotated[
    tuple[Magic, ...],
    PlainValidator(_magics),
    WithJsonSchema(
        {"anyOf": [_ONE_MAGIC, {"type": "array", "items": _ONE_MAGIC, "maxItems": _MOST_MAGIC}]}
    ),
]
_VALUES = {"type": "array", "maxItems": _MOST_VALUES}
_SCALAR = {"type": ["string", "number", "boolean"]}
_COMBINATIONS = {**_VALUES, "items": {"type": "object", "additionalProperties": _SCALAR}}
MatrixKeys = Annotated[
    dict[Variable, Annotated[Any, PlainValidator(_matrix)]],
    AfterValidator(_few),
    WithJsonSchema(
        {
            "type": "object",
            "description": "Each name with its values: a list, or a range A..B.",
            "properties": {
                "include": {**_COMBINATIONS, "description": "Further combinations."},
                "exclude": {**_COMBINATIONS, "description": "Combinations to be left out."},
            },
            "additionalProperties": {
                "anyOf": [
                    {"type": "string", "pattern": r"\.\.|\$\{"},
                    {**_VALUES, "items": _SCALAR, "minItems": 1},
                ]
            },
        }
    ),
]
HeaderName = Annotated[str, PlainValidator(_header_name), _native("string")]
HeaderValue = Annotated[str, PlainValidator(_header_value), _native("string", "number", "boolean")]


def _key(name: str) -> str:
    """Return the key of a field, which has an underscore where Python knows the word too."""
    return name.removesuffix("_")


class _Keys(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, alias_generator=_key
    )


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a mapping may have."""
    return list(map(_key, model.model_fields))


class RetryKeys(_Keys):
    attempts: Count | None = None
    """Rounds over all sources of a file before it fails."""
    delay: Duration | None = None
    """Wait before the second attempt; doubled each time, with jitter."""
    max_delay: Duration | None = None
    """The wait grows no longer than this."""


class TimeoutKeys(_Keys):
    connect: Duration | None = None
    """For name, TCP and TLS together."""
    stall: Stall | None = None
    """Give up when so little arrives for so long: 30s, or 30s@10KiB/s."""
    attempt: Duration | None = None
    """For one attempt as a whole; none by default."""


class LimitKeys(_Keys):
    concurrency: Count | None = None
    """Files of this job under way at once."""
    rate: RateKey | None = None
    """Bytes a second of a run: 5MiB/s, or by the time of day: { "08:00-18:00": 5MiB/s }."""
    file: Size | None = None
    """The largest file; more fails."""
    total: Size | None = None
    """The bytes of all files together."""


class PublishKeys(_Keys):
    atomic: Flag | None = None
    """true: the outputs of a run, all below `dest`, appear together as `dest`/current."""
    keep: Count | None = None
    """So many generations stay, with the current one; 2 unless given."""


class ScheduleKeys(_Keys):
    cron: Annotated[str, PlainValidator(lambda value: times.cron(_text(value)))] | None = None
    """Five fields: minute, hour, day of the month, month, day of the week."""
    daily: Annotated[str, PlainValidator(lambda value: times.daily(_text(value)))] | None = None
    """A time of every day: 03:15."""
    every: Duration | None = None
    """So long from one run to the next; the first at once."""
    jitter: Duration | None = None
    """A run begins up to so much later, by chance."""
    catch_up: Annotated[CatchUp, PlainValidator(_catch_up), _one_of(CatchUp)] | None = None
    """What is done about runs that were missed: none, once or all."""


class ExpectKeys(_Keys):
    type: Annotated[str, PlainValidator(_media_type), _native("string")] | None = None
    """The media type that has to arrive; "*/*" for any, HTML pages too."""
    magic: Magics | None = None
    """hex:BYTES[@OFFSET]: bytes that the file has there; several must all hold."""


class FromKeys(_Keys):
    file: Text | None = None
    """The manifest: ${needs.NAME.path}, or its path below the root."""
    format: Annotated[str, PlainValidator(_format), _one_of(FORMATS)] | None = None
    """How its items are written."""
    root: Text | None = None
    """The download root of a local manifest; by default the task's."""
    items: Text | None = None
    """json: where the items stand: [*], packages[*], data.files[*]."""
    pattern: Text | None = None
    """html: what the last segment of a link is like: *.iso."""
    delimiter: Text | None = None
    """csv: between the values of a row; a comma, or tab."""
    columns: Texts | None = None
    """csv: names of the columns, if the first row does not give them."""


class TaskKeys(_Keys):
    """What says how files are fetched; at the top of a file it holds for every task."""

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    url: Text | None = None
    """What to fetch: absolute, or relative to `base`."""
    urls: Lines | None = None
    """Several files, each a line: URL [filename] [algorithm:hex]."""
    base: Texts | None = None
    """Where relative URLs begin; further ones are mirrors."""
    root: Text | None = None
    """The download root, by its name in the configuration."""
    dest: Text | None = None
    """The folder below the root."""
    filename: FileName | None = None
    """The file's name below `dest`, or {from: header}; by default the URL's last segment."""
    checksum: Texts | None = None
    """algorithm:hex, or several that must all hold."""
    sums: Text | None = None
    """The URL of a file of checksums, relative to `base` or to the file's own folder."""
    size: Range | None = None
    """The size that the file must have: exact, A..B, A.. or ..B."""
    verify: Annotated[Verify, PlainValidator(_verify), _one_of(Verify)] | None = None
    """What must prove a file complete: its checksum, its length, or nothing."""
    expect: ExpectKeys | None = None
    """What has to arrive."""
    if_exists: Annotated[IfExists, PlainValidator(_if_exists), _one_of(IfExists)] | None = None
    """What to do about a file that is there already."""
    headers: Annotated[dict[HeaderName, HeaderValue], AfterValidator(_few)] | None = None
    """Sent with each request to the task's own origins."""
    segments: Segments | None = None
    """Connections for one file at once: auto, or 1 to 16; large files only."""
    retry: RetryKeys | None = None
    """When to try again."""
    timeout: TimeoutKeys | None = None
    """When to give up waiting."""
    wait_for: Duration | None = None
    """So long 404, 410 and 403 mean that the file is not there yet."""
    matrix: MatrixKeys | None = None
    """Names and their values; the task is made once for each combination."""
    from_: FromKeys | None = None
    """A file whose items become tasks, used as ${item.NAME}."""
    if_: Text | None = None
    """${name}, not ${name}, A == B or A != B: else the task is skipped."""
    may_fail: Truth | None = None
    """true: its failures hurt neither the run nor the tasks that need it."""
    steps: Steps | None = None
    """What is done with each verified file before anybody sees it."""


class TaskEntry(TaskKeys):
    """One entry of `tasks`."""

    needs: Names | None = None
    """Tasks that must have succeeded first; ${needs.x.path} implies it."""


class JobFile(TaskKeys):
    """A job file of version 1."""

    version: Version | None = None
    """Version of the job file's form."""
    name: Name | None = None
    """The job's identity; by default the file's name without its ending."""
    description: Text | None = None
    """For people."""
    priority: (
        Annotated[
            Priority,
            PlainValidator(_priority),
            _one_of(member.name.lower() for member in Priority),
        ]
        | None
    ) = None
    """Which job's files go first."""
    timezone: Annotated[str, PlainValidator(_timezone), _native("string")] | None = None
    """In which `run.date` and all times of the day are meant; by default the machine's."""
    schedule: (
        Annotated[
            ScheduleKeys,
            BeforeValidator(times.spelled_out),
            WithJsonSchema(times.schedule_schema(_DURATION)),
        ]
        | None
    ) = None
    """When to run again and again: daily 03:15, every 6h, five fields of cron, or a mapping."""
    window: (
        Annotated[
            tuple[Annotated[Window, PlainValidator(lambda v: times.window_part(_text(v)))], ...],
            BeforeValidator(_some),
            AfterValidator(_few),
            WithJsonSchema(times.window_schema()),
        ]
        | None
    ) = None
    """When files are fetched: spans of every day and whole days; at other times they wait."""
    keep: Flag | None = None
    """Whether the file stays in the folder and is watched for edits; one with a schedule does."""
    on_remove: Annotated[OnRemove, PlainValidator(_on_remove), _one_of(OnRemove)] | None = None
    """What becomes of a run that is on when a file that stays is taken away."""
    vars: Annotated[dict[Variable, Text], AfterValidator(_not_too_many)] | None = None
    """Texts to be used as ${name}."""
    limits: LimitKeys | None = None
    """What the job may use; never more than the configuration allows."""
    publish: PublishKeys | None = None
    """How the outputs of a run appear; by default each file when it is verified."""
    tasks: dict[Name, TaskEntry | None] | None = None
    """Several tasks by their names; without it the file is one task."""
    fail_fast: Truth | None = None
    """true: the first failure of a task that may not fail ends the rest of the run."""
    on_success: Ends | None = None
    """What is done when all is published and nothing has failed that may not."""
    on_failure: Ends | None = None
    """What is done at the end of a run in which something has failed that may not."""


class _Draft7(GenerateJsonSchema):
    """JSON Schema of 2018, the newest that the editors' YAML plug-ins know."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def generate(self, schema: Any, mode: Any = "validation") -> JsonSchemaValue:
        generated = super().generate(schema, mode)
        generated["definitions"] = generated.pop("$defs")
        return {"$schema": self.schema_dialect, **_tidy(generated)}


def _tidy(schema: Any) -> Any:
    """Return the schema without the titles and null defaults that nobody wrote."""
    if isinstance(schema, list):
        return [_tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _tidy(part) for name, part in value.items()}
        if key in {"properties", "definitions"}
        else _tidy(value)
        for key, value in schema.items()
        if key not in {"title", "default"}
    }


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of a job file, made from the model that reads it."""
    return JobFile.model_json_schema(ref_template="#/definitions/{model}", schema_generator=_Draft7)
