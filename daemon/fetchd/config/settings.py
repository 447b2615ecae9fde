"""The keys of fetchd.yaml, each with its default and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from fetchd.config.readers import (
    Allow,
    Argv,
    ByteRate,
    Credential,
    File,
    Flag,
    Folder,
    Group,
    HeaderName,
    HttpUrl,
    Limit,
    Mode,
    OriginName,
    Pace,
    Period,
    Proxy,
    Requests,
    RootName,
    SecretName,
    Size,
    Space,
    User,
    Variable,
    Wait,
    choice,
    read_headers,
    read_origins,
    whole,
)
from fetchd.errors import ValueProblem
from fetchd.secrets import Place

#: Keys from the top of the file, and numbers of items from 0.
KeyPath = tuple[str | int, ...]

DEFAULT_ROOT = "./downloads"

_Level = Literal["debug", "info", "warning", "error"]
_Format = Literal["auto", "console", "json"]
_Verify = Literal["digest", "length", "none"]
_Durability = Literal["group", "each", "none"]


def _key(default: Any, description: str, *, key: str | None = None) -> Any:
    """One key: its default as it would be written; ``key`` where it differs from the attribute."""
    return Field(default, alias=key, description=description)


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _forget_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = written_keys(cls)
        return {key: value for key, value in data.items() if value is not None or key not in known}


def written_keys(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a model as they are written, each with its annotation."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


class Root(_Keys):
    """A folder below which files are published; ``mode`` and ``group`` None: as the umask says."""

    path: Folder = Field(description="the folder; made when missing")
    mode: Mode | None = _key(
        None, "permissions of published files, octal; by default what the umask leaves"
    )
    group: Group | None = _key(
        None, "group of published files, a name or number; by default the daemon's"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data


class Secret(_Keys):
    """Where a secret is read when fetchd starts: one of the three."""

    credential: Credential | None = _key(None, "a credential of the unit (LoadCredential=)")
    file: File = _key(None, "a file of one line that others can neither read nor change")
    env: Variable | None = _key(None, "a variable of the environment")

    @model_validator(mode="before")
    @classmethod
    def _no_value(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueProblem(
                "no secret stands in the configuration; write where it is read: "
                "{credential: NAME}, {file: PATH} or {env: VARIABLE}"
            )
        return data

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if sum(place is not None for place in (self.credential, self.file, self.env)) != 1:
            raise ValueProblem("one of the keys credential, file and env is needed, and no other")
        return self

    @property
    def place(self) -> Place:
        if self.credential is not None:
            return Place("credential", self.credential)
        if self.file is not None:
            return Place("file", str(self.file))
        return Place("env", self.env or "")


class Login(_Keys):
    user: User = Field(description="the user's name")
    password: SecretName = Field(description="name of the secret that is the password")


def _password(path: KeyPath, login: Login | None) -> Iterator[tuple[KeyPath, str]]:
    if login is not None:
        yield (*path, "password"), login.password


class Auth(_Keys):
    """How an origin is told who asks: one of the three."""

    basic: Login | None = _key(None, "user and password, sent with every request")
    digest: Login | None = _key(None, "user and password, proven by digest (RFC 7616)")
    bearer: SecretName | None = _key(None, "name of the secret that is sent as bearer token")

    @model_validator(mode="after")
    def _one_way(self) -> Auth:
        if sum(way is not None for way in (self.basic, self.digest, self.bearer)) != 1:
            raise ValueProblem("one of the keys basic, digest and bearer is needed, and no other")
        return self


class Tls(_Keys):
    ca: File = _key(
        None, "file of trusted certificates (PEM), or folder of them; by default network.ca"
    )
    cert: File = _key(None, "file of our certificate and its chain (PEM)")
    key: File = _key(None, "file of its private key (PEM); by default in the file of cert")

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if self.key is not None and self.cert is None:
            raise ValueProblem("a key needs its certificate; add cert: FILE")
        return self


class Origin(_Keys):
    """What holds for one scheme, host and port alone."""

    auth: Auth | None = _key(None, "who asks; sent to this origin and to no other")
    headers: Annotated[Mapping[HeaderName, SecretName], AfterValidator(read_headers)] = _key(
        {}, "further headers, each with the name of the secret that is its value"
    )
    tls: Tls = _key({}, "whom to trust, and how to prove who asks")
    proxy: Proxy | None = _key(
        None, "URL of an HTTP proxy; a written null: none, even where network.proxy is set"
    )
    proxy_auth: Login | None = _key(None, "user and password for that proxy")
    netrc: Flag = _key("false", "user and password from the entry of this host in the netrc file")
    connections: Annotated[int, whole(1, 512)] | None = _key(
        None, "connections at a time, instead of limits.connections_per_origin"
    )
    requests_per_s: Requests | None = _key(
        None,
        "the most attempts begun in a time: 10/s, 100/m, 1000/h; no limit by default",
        key="requests",
    )
    rate: ByteRate | None = _key(None, "bytes a second of all that it sends, as in limits.rate")

    @model_validator(mode="before")
    @classmethod
    def _forget_absent(cls, data: Any) -> Any:
        """As everywhere else, but that an absent proxy and one that is null are not the same."""
        if not isinstance(data, dict):
            return data
        known = written_keys(cls)
        return {k: v for k, v in data.items() if v is not None or k == "proxy" or k not in known}

    @property
    def has_own_proxy(self) -> bool:
        """Whether ``proxy`` was written; None then means that there is to be none."""
        return "proxy" in self.model_fields_set

    def named_secrets(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield the path below the origin and the name of every secret that it is given."""
        if self.auth is not None:
            yield from _password(("auth", "basic"), self.auth.basic)
            yield from _password(("auth", "digest"), self.auth.digest)
            if self.auth.bearer is not None:
                yield ("auth", "bearer"), self.auth.bearer
        for header, secret in self.headers.items():
            yield ("headers", header), secret
        yield from _password(("proxy_auth",), self.proxy_auth)

    def credentials(self) -> list[str]:
        """Return what the origin is sent, each in a few words, with names and without values."""
        auth, said = self.auth, []
        if auth is not None and auth.basic is not None:
            said.append(f"basic as {auth.basic.user}, password {auth.basic.password}")
        elif auth is not None and auth.digest is not None:
            said.append(f"digest as {auth.digest.user}, password {auth.digest.password}")
        elif auth is not None:
            said.append(f"bearer {auth.bearer}")
        if self.netrc:
            said.append("basic from netrc")
        said += [f"header {name}: {secret}" for name, secret in self.headers.items()]
        if self.tls.cert is not None:
            said.append("client certificate")
        return said


class Log(_Keys):
    level: Annotated[_Level, choice(*get_args(_Level))] = _key(
        "info", "the least level that is logged"
    )
    format: Annotated[_Format, choice(*get_args(_Format))] = _key(
        "auto", "auto is console on a terminal, JSON lines otherwise"
    )
    file: File = _key(None, "where to log; by default standard error")


class Limits(_Keys):
    connections_per_origin: Annotated[int, whole(1, 512)] = _key(
        "8",
        "connections to one scheme, host and port at a time; with more than two `workers`, "
        "one is left to others",
    )
    rate: ByteRate | None = _key(
        None,
        "bytes a second of all transfers together: 5MiB/s, or by the time of the machine's day: "
        '{ "08:00-18:00": 5MiB/s }; none by default',
    )
    file_bytes: Size | None = _key(None, "the largest file; none by default", key="file")
    total_bytes: Size | None = _key(None, "the most bytes of one run; none by default", key="total")


class Network(_Keys):
    allow: Allow = _key(
        ["public"],
        "addresses that may be reached: public, private, loopback, networks, host:port",
    )
    proxy: Proxy | None = _key(None, "URL of an HTTP proxy for all requests; none by default")
    proxy_auth: Login | None = _key(None, "user and password for that proxy")
    ca: File = _key(
        None, "file of trusted certificates (PEM); by default those shipped with requests"
    )
    redirects: Annotated[int, whole(0, 100)] = _key("10", "redirects that are followed")

    def named_secrets(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield the path below ``network`` and the name of every secret that it is given."""
        yield from _password(("proxy_auth",), self.proxy_auth)


class Retry(_Keys):
    attempts: Annotated[int, whole(1, 10**6)] = _key(
        "8", "rounds over all sources of a file before it fails"
    )
    delay_s: Wait = _key("2s", "wait before the second attempt, doubled each time", key="delay")
    max_delay_s: Wait = _key("5m", "the longest wait between attempts", key="max_delay")
    give_up_after_s: Wait = _key(
        "24h", "time from the first failure after which a file fails", key="give_up_after"
    )
    max_retry_after_s: Wait = _key(
        "1h", "the longest wait that a server may ask for", key="max_retry_after"
    )
    poison: Annotated[int, whole(0, 1000)] = _key(
        "3", "crashes of the daemon at one file before it is tried alone, then given up; 0 = never"
    )


class Timeout(_Keys):
    connect_s: Limit = _key("10s", "for name, TCP and TLS together", key="connect")
    stall: Pace = _key("30s@1KiB/s", "the attempt fails when it is slower than this for so long")
    attempt_s: Limit | None = _key(
        None, "for one attempt as a whole; none by default", key="attempt"
    )

    @property
    def stall_s(self) -> float:
        return self.stall.seconds

    @property
    def stall_bytes_per_s(self) -> int:
        return self.stall.bytes_per_s


class Disk(_Keys):
    reserve_bytes: Space = _key("1GiB", "free space that downloads leave alone", key="reserve")


class Intake(_Keys):
    max_job_bytes: Size = _key(
        "4MiB", "the largest job file; *.urls lists and Metalinks have no limit"
    )
    require_end_marker: Flag = _key(
        "false", "take YAML job files only when their last line is '...'"
    )
    rescan_s: Period = _key("30s", "how often the folder is read without a hint", key="rescan")


class History(_Keys):
    keep_s: Period = _key("30d", "runs that ended longer ago are forgotten", key="keep")
    count: Annotated[int, whole(1, 10**9)] = _key("100000", "the most runs that are remembered")


class CommandKeys(_Keys):
    """A program that job files may have run, by the name of this entry alone."""

    argv: Argv = Field(
        description="the program, by its whole path, and its arguments; they may hold ${...}"
    )
    idempotent: Flag = _key(
        "false", "it may run twice for one file; if not, a task whose run was cut off needs people"
    )
    timeout_s: Limit = _key("10m", "how long it may run", key="timeout")
    memory_bytes: Size = _key("1GiB", "address space that it may use", key="memory")
    output_bytes: Size = _key("64KiB", "what is read of its output; the rest is lost", key="output")


class WebhookKeys(_Keys):
    """A service that job files may have told, by the name of this entry alone."""

    url: HttpUrl = Field(description="where it is told: http or https; credentials as in origins")
    timeout_s: Limit = _key("10s", "how long it may take to answer", key="timeout")


def _read_roots(roots: Mapping[str, Root]) -> Mapping[str, Root]:
    if "default" not in roots:
        raise ValueProblem("the root named default is missing; write default: FOLDER")
    return MappingProxyType(dict(roots))


class Settings(_Keys):
    """The whole configuration, checked. Paths are absolute."""

    jobs: Folder = _key("./jobs", "the folder into which job files are dropped")
    roots: Annotated[Mapping[RootName, Root], AfterValidator(_read_roots)] = _key(
        {"default": DEFAULT_ROOT},
        "folders below which files are published, by name: a path, or path, mode and group",
    )
    state: Folder = _key("./state", "the daemon's own folder: database, lock, status")
    workers: Annotated[int, whole(1, 512)] = _key("8", "files that are fetched at a time")
    finishers: Annotated[int, whole(1, 64)] = _key("2", "threads for work beside fetching")
    log: Log = _key({}, "what is logged, and where to")
    limits: Limits = _key({}, "bounds that no job file can raise")
    network: Network = _key({}, "what may be reached, and how")
    origins: Annotated[
        Mapping[OriginName, Origin],
        BeforeValidator(read_origins),
        AfterValidator(MappingProxyType),
    ] = _key({}, "what holds for one origin alone: https://HOST[:PORT], or HOST for https")
    retry: Retry = _key({}, "when a failed attempt is repeated; job files may differ")
    timeout: Timeout = _key({}, "when waiting ends; job files may differ")
    disk: Disk = _key({}, "free space")
    intake: Intake = _key({}, "how job files are taken from the folder")
    secrets: Annotated[Mapping[SecretName, Secret], AfterValidator(MappingProxyType)] = _key(
        {}, "where the values are read that other keys name; none stands in this file"
    )
    commands: Annotated[Mapping[RootName, CommandKeys], AfterValidator(MappingProxyType)] = _key(
        {}, "programs that the step run of job files may name"
    )
    webhooks: Annotated[Mapping[RootName, WebhookKeys], AfterValidator(MappingProxyType)] = _key(
        {}, "services that the step webhook of job files may name"
    )
    verify: Annotated[_Verify, choice(*get_args(_Verify))] = _key(
        "length", "the least that proves a file whole; job files can only ask for more"
    )
    durability: Annotated[_Durability, choice(*get_args(_Durability))] = _key(
        "group",
        "how published files survive a power cut: synced together, each by itself, or not at all",
    )
    stats_every_s: Period = _key("60s", "how often totals are logged", key="stats_every")
    stop_grace_s: Wait = _key("8s", "how long a stop waits for what is under way", key="stop_grace")
    history: History = _key({}, "how long ended runs are remembered")

    def most_of_origin(self, origin: str = "") -> tuple[int, str]:
        """Return how many workers an origin may hold, and the key that says so; "": of any other.

        Never all of them, lest a silent origin stop the others.
        """
        keys = self.origins.get(origin)
        most, by = self.limits.connections_per_origin, "limits.connections_per_origin"
        if keys is not None and keys.connections is not None:
            most, by = keys.connections, "origins"
        others = 1 if self.workers > 2 else 0
        return min((most, by), (self.workers - others, "workers"), key=itemgetter(0))
