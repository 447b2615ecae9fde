from __future__ import annotations

import grp
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from fetchd import yamldoc
from fetchd.config import Root, Settings, Stall, load, schema
from fetchd.errors import ConfigError, DocumentError
from fetchd.rates import Rate, Span

ADDRESSES = "public, private, loopback, a network as 10.0.0.0/8, or host:port"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test begins in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, text, name="fetchd.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def built_in(overrides=MappingProxyType({})):
    return load(written(Path.cwd(), ""), overrides, {})


def rejected(folder, text, overrides=MappingProxyType({})):
    with pytest.raises(DocumentError) as caught:
        load(written(folder, text), overrides, {})
    return caught.value


def refused_override(key, value, text=""):
    return rejected(Path.cwd(), text, {key: value})


def model_keys(model=Settings, prefix=""):
    """Return each dotted key with the field behind it; ``NAME`` stands for any name."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from model_keys(inner, f"{key}.")
            continue
        yield key, field
        for named in get_args(inner) if get_origin(inner) is Mapping else ():
            if isinstance(named, type) and issubclass(named, BaseModel):
                yield from model_keys(named, f"{key}.NAME.")


# ---------------------------------------------------------------- where it is found


def test_without_any_file_the_defaults_hold(folder):
    settings = built_in()

    assert settings.jobs == folder / "jobs"
    assert settings.state == folder / "state"
    assert settings.roots == {"default": Root.model_validate(str(folder / "downloads"))}
    assert (settings.workers, settings.finishers) == (8, 2)
    assert settings.limits.connections_per_origin == 8
    assert settings.limits.file_bytes is None
    assert settings.network.allow == ("public",)
    assert (settings.retry.delay_s, settings.retry.max_delay_s) == (2.0, 300.0)
    assert settings.retry.give_up_after_s == 86400.0
    assert settings.timeout.stall == Stall(30.0, 1024)
    assert (settings.timeout.stall_s, settings.timeout.stall_bytes_per_s) == (30.0, 1024)
    assert settings.timeout.attempt_s is None
    assert settings.disk.reserve_bytes == 1 << 30
    assert settings.intake.max_job_bytes == 4 << 20
    assert settings.intake.require_end_marker is False
    assert settings.verify == "length"
    assert (settings.stats_every_s, settings.stop_grace_s) == (60.0, 8.0)


def test_the_environment_names_the_file_before_the_usual_place(folder):
    written(folder, "workers: 3\n", "config/fetchd.yaml")
    other = written(folder, "workers: 4\n", "other.yaml")

    assert load(None, {}, {"FETCHD_CONFIG": str(other)}).workers == 4
    assert load(None, {}, {}).workers == 3


def test_a_given_path_comes_before_the_environment(folder):
    one = written(folder, "workers: 3\n", "one.yaml")
    other = written(folder, "workers: 4\n", "other.yaml")

    assert load(one, {}, {"FETCHD_CONFIG": str(other)}).workers == 3


@pytest.mark.parametrize("environ", [{}, {"FETCHD_CONFIG": "none.yaml"}])
def test_a_named_file_that_is_not_there_is_an_error(environ):
    path = None if environ else Path("none.yaml")

    with pytest.raises(ConfigError, match=r"none\.yaml: the configuration cannot be read: No such"):
        load(path, {}, environ)


def test_a_folder_is_no_configuration(folder):
    with pytest.raises(ConfigError, match="Is a directory"):
        load(folder, {}, {})


def test_a_file_without_content_means_the_defaults(folder):
    assert load(written(folder, "# nothing yet\n"), {}, {}) == built_in()


def test_relative_paths_begin_in_the_working_directory(folder):
    path = written(folder, "jobs: a/../in\nstate: /var/lib/x\nlog: {file: log}\n", "etc/f.yaml")

    settings = load(path, {}, {})

    assert settings.jobs == folder / "in"
    assert settings.state == Path("/var/lib/x")
    assert settings.log.file == folder / "log"


# ---------------------------------------------------------------- values


def test_every_key_is_read(folder):
    own_group = grp.getgrgid(os.getgid()).gr_name
    written(folder, "certificates", "ca.pem")
    text = """
jobs: in
roots:
  default: out
  media: { path: /srv/media, mode: 0640, group: GROUP }
state: own
workers: 16
finishers: 3
log: { level: debug, format: json, file: log.json }
limits: { connections_per_origin: 4, rate: 50MiB/s, file: 20GiB, total: 1000 }
network:
  allow: [public, private, 10.1.0.0/16, "fd00::/8", nas.lan:8080, "[::1]:80"]
  proxy: http://proxy.lan:3128
  ca: ca.pem
  redirects: 0
origins: { dl.example.org: { rate: { "08:00-18:00": 2MiB/s } }, "http://[::1]": {} }
retry: { attempts: 2, delay: 500ms, max_delay: 1m, give_up_after: 1d }
timeout: { connect: 5s, stall: 1m@10KiB/s, attempt: 1h 30m }
disk: { reserve: 0 }
intake: { max_job_bytes: 1MB, require_end_marker: true, rescan: 5s }
secrets: {}
commands: ~
webhooks:
verify: digest
durability: none
stats_every: 10s
stop_grace: 1s
history: { keep: 7d, count: 10 }
"""

    settings = load(written(folder, text.replace("GROUP", own_group)), {}, {})

    media = settings.roots["media"]
    assert (media.path, media.mode, media.group) == (Path("/srv/media"), 0o640, own_group)
    assert (settings.log.level, settings.log.format) == ("debug", "json")
    assert settings.limits.file_bytes == 20 << 30
    assert settings.limits.total_bytes == 1000
    assert settings.limits.rate == Rate(always=50 << 20)
    assert list(settings.origins) == ["https://dl.example.org:443", "http://[::1]:80"]
    assert settings.origins["https://dl.example.org:443"].rate == Rate(
        spans=(Span(begin_min=480, end_min=1080, bytes_per_s=2 << 20),)
    )
    assert settings.network.allow[2:] == ("10.1.0.0/16", "fd00::/8", "nas.lan:8080", "[::1]:80")
    assert settings.network.ca == folder / "ca.pem"
    assert settings.network.redirects == 0
    assert (settings.retry.delay_s, settings.retry.give_up_after_s) == (0.5, 86400.0)
    assert settings.timeout.stall == Stall(60.0, 10240)
    assert settings.timeout.attempt_s == 5400.0
    assert settings.disk.reserve_bytes == 0
    assert settings.intake.require_end_marker is True
    assert settings.verify == "digest"
    assert settings.durability == "none"


@pytest.mark.parametrize("text", ["workers: null", "workers: ~", "workers:", "retry:", "roots: ~"])
def test_what_is_absent_has_its_default(folder, text):
    assert load(written(folder, text + "\n"), {}, {}) == built_in()


def test_a_list_of_one_needs_no_brackets():
    assert built_in({"network.allow": "loopback"}).network.allow == ("loopback",)


def test_a_stall_without_rate_keeps_the_usual_rate():
    assert built_in({"timeout.stall": "5s"}).timeout.stall == Stall(5.0, 1024)


def test_the_settings_do_not_change():
    settings = built_in()

    with pytest.raises(ValidationError):
        settings.workers = 3
    with pytest.raises(TypeError):
        settings.roots["x"] = settings.roots["default"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("workers", "0", "'0' is not a whole number from 1 to 512"),
        ("workers", "513", "'513' is not a whole number from 1 to 512"),
        ("workers", "1_0", "'1_0' is not a whole number"),
        ("workers", "8.0", "'8.0' is not a whole number"),
        ("workers", "'8 '", "'8 ' is not a whole number"),
        ("workers", "+8", "'+8' is not a whole number"),
        ("workers", "٨", "is not a whole number"),
        ("workers", "''", "'' is not a whole number"),
        ("workers", "[8]", "found a list; a single value is needed"),
        ("workers", "{a: b}", "found keys; a single value is needed"),
        ("workers", "9" * 5000, "is not a whole number"),
        ("intake.require_end_marker", "yes", "'yes' is neither true nor false"),
        ("intake.require_end_marker", "True", "'True' is neither true nor false"),
        ("intake.require_end_marker", "1", "'1' is neither true nor false"),
        ("intake.rescan", "1ms", "'1ms' is too short; at least 1.0 s"),
        ("intake.max_job_bytes", "0", "'0' is too small; at least 1 B"),
        ("stats_every", "60", "'60' is not a duration; write a number with"),
        ("disk.reserve", "1 gig", "'1 gig' is not a size"),
        ("timeout.stall", "30s@1KiB", "'1KiB' is not a rate"),
        ("timeout.stall", "0s@1KiB/s", "is too short; at least 100 ms"),
        ("log.level", "warn", "is not one of debug, info, warning, error; did you mean 'warning'?"),
        ("log.format", "xml", "'xml' is not one of auto, console, json"),
        ("verify", "sha256", "'sha256' is not one of digest, length, none"),
        ("jobs", "''", "an empty text is no path"),
        ("jobs", "~/jobs", "'~/jobs' begins with ~, which is not expanded"),
        ("log", "debug", "found 'debug', where keys with values are needed"),
        ("retry", "[]", "found a list, where keys with values are needed"),
        ("roots", "x", "found 'x', where keys with values are needed"),
        ("roots", "{media: x}", "the root named default is missing"),
        ("roots.my root", "x", "'my root' is no name"),
        ("roots.media", "[x]", "found a list, where keys with values are needed"),
        ("roots.media", "{mode: 0644}", "the key path is missing"),
        ("roots", "{default: }", "found nothing, where keys with values are needed"),
        ("roots.media", "{path: x, mode: 888}", "'888' is not a file mode"),
        ("roots.media", "{path: x, mode: 4755}", "'4755' is not a file mode"),
        ("roots.media", "{path: x, group: ''}", "an empty text is no group"),
        ("roots.media", "{path: x, group: no-such-group}", "there is no group 'no-such-group'"),
        ("network.ca", "/nowhere/ca.pem", "/nowhere/ca.pem cannot be read: no such file"),
        ("network.proxy", "socks5://x", "'socks5://x' is no proxy that fetchd knows"),
        ("network.proxy", "file:///srv/x", "'file:///srv/x' is no proxy that fetchd knows"),
        ("network.proxy", "http://a:b@proxy", "user name and password may not stand in a URL"),
        ("network.allow", "{a: b}", "found keys; a list is needed"),
        ("network.allow", "[privat]", "or host:port; did you mean 'private'?"),
        ("network.allow", "[10.0.0.1/8]", "the bits behind the prefix must be 0"),
        ("network.allow", "['host:0']", "'host:0' is not public"),
        ("network.allow", "['host:99999']", "'host:99999' is not public"),
        ("network.allow", "[host]", "'host' is not public"),
        ("network.allow", "['http://host:80']", "'http://host:80' is not public"),
        ("network.allow", "[[a]]", "found a list; a single value is needed"),
        ("limits.rate", "5MiB", "'5MiB' is not a rate; write a size a second: 5MiB/s"),
        ("limits.rate", "{ 8-18: 5MiB/s }", "'8-18' is not a span of the day"),
        ("origins", "{ 'https://x/y': {} }", "'https://x/y' is no origin; write https://HOST"),
        ("origins", "{ 'ftp://x': {} }", "'ftp://x' is no origin; write https://HOST"),
        ("origins", "{ 'u@x': {} }", "this is no origin; write https://HOST"),
        ("origins", "{ x: {}, 'https://X:443': {} }", "are the same origin; write it once"),
        ("origins", "{ x: { rat: 1MiB/s } }", "did you mean 'rate'?"),
        ("origins", "{ x: { rate: 1 } }", "'1' is not a rate"),
    ],
)
def test_a_wrong_value_says_what_was_found_and_what_is_allowed(key, value, message):
    error = refused_override(key, value)

    assert str(error).startswith(f"--set {key}: ")
    assert message in str(error)


# ---------------------------------------------------------------- origins


@pytest.mark.parametrize(
    ("key", "origin"),
    [
        ("files.example", "https://files.example:443"),
        ("FILES.example:8443", "https://files.example:8443"),
        ("https://files.example/", "https://files.example:443"),
        ("http://nas.lan:8080", "http://nas.lan:8080"),
        ("http://[fd00::1]", "http://[fd00::1]:80"),
    ],
)
def test_an_origin_is_named_by_scheme_host_and_port(folder, key, origin):
    text = f"origins:\n  '{key}': {{ connections: 2, requests: 100/m }}\n"

    settings = load(written(folder, text), {}, {})

    ((name, keys),) = settings.origins.items()
    assert (name, keys.connections, round(60 * keys.requests_per_s)) == (origin, 2, 100)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("origins: {'https://h/a': {}}", ":1:11: ", "'https://h/a' is no origin; write https://H"),
        ("origins: {'ftp://h': {}}", ":1:11: ", "'ftp://h' is no origin"),
        ("origins: {h: {requests: 10}}", ":1:25: ", "'10' is not a number of requests"),
        ("origins: {h: {requests: 0/s}}", ":1:25: ", "'0/s' is not a number of requests"),
        ("origins: {h: {connections: 0}}", ":1:28: ", "'0' is not a whole number from 1 to 512"),
        ("origins: {h: {conections: 1}}", ":1:15: ", "did you mean 'connections'?"),
        (
            "origins: {h: {}, 'https://h:443': {}}",
            ":1:10: ",
            "'h' and 'https://h:443' are the same origin; write it once",
        ),
    ],
)
def test_what_is_wrong_with_an_origin_is_told_with_its_place(folder, text, place, message):
    error = rejected(folder, text)

    assert str(error).partition("fetchd.yaml")[2].startswith(place)
    assert message in str(error)


def test_of_an_origin_s_own_bound_and_everybody_s_that_holds_which_leaves_a_worker_to_others():
    keys = "{ one: { connections: 12 }, two: { connections: 2 }, three: { requests: 1/s } }"
    settings = load(None, {"origins": keys, "workers": "10"}, {})

    assert settings.most_of_origin("https://one:443") == (9, "workers")
    assert settings.most_of_origin("https://two:443") == (2, "origins")
    assert settings.most_of_origin("https://three:443") == (8, "limits.connections_per_origin")
    assert settings.most_of_origin() == (8, "limits.connections_per_origin")


# ---------------------------------------------------------------- places


def test_all_errors_are_told_at_once_with_their_places(folder):
    text = "workers: x\nwrokers: 8\nnetwork:\n  allow: [public, lan]\nroots: {a: {pth: x}}\n"

    error = rejected(folder, text)

    source = str(folder / "fetchd.yaml")
    assert [line.removeprefix(source) for line in error.headlines()] == [
        ":1:10: workers: 'x' is not a whole number from 1 to 512",
        ":2:1: wrokers: unknown key (did you mean 'workers'?)",
        f":4:19: network.allow[1]: 'lan' is not {ADDRESSES}",
        ":5:12: roots.a: the key path is missing",
        ":5:13: roots.a.pth: unknown key (did you mean 'path'?)",
    ]


def test_what_this_machine_does_not_have_is_told_with_its_place(folder):
    text = "network:\n  ca: none.pem\nroots:\n  default: {path: x, group: no-such-group}\n"

    error = rejected(folder, text)

    source = str(folder / "fetchd.yaml")
    assert [line.removeprefix(source) for line in error.headlines()] == [
        f":2:7: network.ca: {folder}/none.pem cannot be read: no such file or directory",
        ":4:29: roots.default.group: there is no group 'no-such-group'",
    ]


def test_a_folder_of_certificates_and_the_number_of_a_group_are_taken(folder):
    text = "network: {ca: .}\nroots:\n  default: {path: x, group: 54321}\n"

    settings = load(written(folder, text), {}, {})

    assert settings.network.ca == folder
    assert settings.roots["default"].group == "54321"


def test_an_error_shows_its_line(folder):
    error = rejected(folder, "jobs: in\nworkers: x  # many\n")

    assert str(error).endswith("\n    workers: x  # many\n             ^")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("zzz: 1", "known here: commands, disk, durability, finishers"),
        ("log: {zzz: 1}", "known here: file, format, level"),
        ("limits: {connections: 1}", "did you mean 'connections_per_origin'?"),
        ("retry: {delay_s: 1}", "did you mean 'delay'?"),
        ("zzz: null", "known here:"),
    ],
)
def test_an_unknown_key_comes_with_the_known_ones(folder, text, hint):
    [problem] = rejected(folder, text + "\n").problems

    assert problem.message == "unknown key"
    assert hint in problem.hint


def test_a_bad_name_of_a_root_is_shown_at_the_name(folder):
    [problem] = rejected(folder, "roots:\n  default: a\n  b c: d\n").problems

    assert (problem.line, problem.column) == (3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "found a list, where keys with values are needed"),
        ("workers\n", "found a single text, where keys with values are needed"),
        ("workers:8\n", "with a space behind the colon"),
        ("workers: 8\nworkers: 9\n", "stands here a second time"),
        ("a: &b c\n", "means an anchor"),
        ("workers: [8\n", "is not closed"),
    ],
)
def test_a_file_that_is_no_such_document_is_refused(folder, text, message):
    assert message in str(rejected(folder, text))


# ---------------------------------------------------------------- overrides


def test_an_override_wins_over_the_file_and_leaves_its_neighbours(folder):
    path = written(folder, "limits: {file: 1GiB, total: 2GiB}\nroots: {default: a, b: c}\n")

    settings = load(path, {"limits.file": "5", "roots.default": "z", "workers": "2"}, {})

    assert (settings.limits.file_bytes, settings.limits.total_bytes) == (5, 2 << 30)
    assert settings.roots["default"].path == folder / "z"
    assert settings.roots["b"].path == folder / "c"
    assert settings.workers == 2


def test_a_further_root_stands_beside_the_built_in_one(folder):
    settings = built_in({"roots.media": "m"})

    assert {name: root.path for name, root in settings.roots.items()} == {
        "default": folder / "downloads",
        "media": folder / "m",
    }


@pytest.mark.parametrize("text", ["roots: {default: ./downloads}", "", "roots: ~"])
def test_an_override_may_stand_beside_a_path_in_short_form(folder, text):
    settings = load(written(folder, text + "\n"), {"roots.default.mode": "640"}, {})

    root = settings.roots["default"]
    assert (root.path, root.mode) == (folder / "downloads", 0o640)


def test_null_as_an_override_means_the_default(folder):
    path = written(folder, "limits: {file: 1GiB}\n")

    assert load(path, {"limits.file": "null"}, {}).limits.file_bytes is None


def test_a_text_in_quotes_is_taken_as_it_is(folder):
    assert built_in({"jobs": json.dumps("a: b")}).jobs == folder / "a: b"


@pytest.mark.parametrize("key", ["wrokers", "log.lvl", "roots.default.pth", "", ".", "a..b"])
def test_an_unknown_override_is_refused(key):
    error = refused_override(key, "1")

    assert "unknown key" in str(error)
    assert str(error).startswith(f"--set {key}: ")


def test_an_override_that_is_no_yaml_is_refused_with_its_text():
    assert str(refused_override("jobs", "[a")).startswith("--set jobs:1:1: the [ that begins")


def test_a_path_that_is_not_utf_8_is_refused():
    assert "is not UTF-8" in str(refused_override("jobs", "a\udcff"))


def test_an_error_of_the_file_comes_before_one_of_an_override(folder):
    error = rejected(folder, "finishers: x\n", {"workers": "x"})

    assert error.headlines() == [
        f"{folder}/fetchd.yaml:1:12: finishers: 'x' is not a whole number from 1 to 64"
    ]


# ---------------------------------------------------------------- contradictions


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("jobs: a\nroots: {default: a}\n", (2, 18), "and the folder of jobs"),
        ("jobs: a\nroots: {default: a/b}\n", (2, 18), "and the folder of jobs"),
        ("jobs: a/b\nroots: {default: a}\n", (2, 18), "and the folder of jobs"),
        ("jobs: ./downloads\n", (1, 7), "and the folder of jobs"),
        ("roots: {default: a, b: jobs/x}\n", (1, 24), "the root b, "),
        ("state: a\nroots: {default: a/b}\n", (2, 18), "and the folder of state"),
        ("state: a/b\nroots: {default: b, c: {path: a}}\n", (2, 24), "and the folder of state"),
        ("jobs: a\nstate: a\n", (2, 8), "lies in the jobs folder"),
        ("jobs: a\nstate: a/b\n", (2, 8), "lies in the jobs folder"),
        ("jobs: ./state\n", (1, 7), "lies in the jobs folder"),
        ("roots: {default: a, b: ./c/../a}\n", (1, 24), "same folder as that of the root default"),
        ("retry: {delay: 2m, max_delay: 1m}\n", (1, 31), "1 m 0 s is shorter than delay"),
        ("retry: {delay: 10m}\n", (1, 16), "5 m 0 s is shorter than delay, 10 m 0 s"),
        ("timeout: {attempt: 5s}\n", (1, 20), "5.0 s is shorter than connect, 10.0 s"),
    ],
)
def test_values_that_contradict_each_other_are_refused(folder, text, place, message):
    [problem] = rejected(folder, text).problems

    assert place == (problem.line, problem.column)
    assert message in problem.message


def test_a_link_does_not_hide_that_two_folders_are_one(folder):
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")

    [problem] = rejected(folder, "roots: {default: real, b: link}\n").problems

    assert "same folder" in problem.message


def test_a_link_does_not_hide_that_a_root_lies_in_the_jobs_folder(folder):
    (folder / "jobs" / "inner").mkdir(parents=True)
    (folder / "link").symlink_to("jobs/inner")

    [problem] = rejected(folder, "roots: {default: link}\n").problems

    assert "and the folder of jobs" in problem.message


def test_a_contradiction_with_an_override_names_the_override():
    assert str(refused_override("jobs", "./downloads")).startswith("--set jobs: ")


def test_folders_side_by_side_and_roots_within_roots_are_fine(folder):
    text = "jobs: x/jobs\nstate: x/state\nroots: {default: x/jobs2, b: x/jobs2/c}\n"

    assert len(load(written(folder, text), {}, {}).roots) == 2


# ---------------------------------------------------------------- origins and secrets

SECRETS = "secrets: {ONE: {env: ONE}, TWO: {credential: two}}\n"


def origin_of(folder, text):
    [(name, origin)] = load(written(folder, f"{SECRETS}origins: {text}\n"), {}, {}).origins.items()
    return name, origin


@pytest.mark.parametrize(
    ("written_as", "name"),
    [
        ("rel.example.org", "https://rel.example.org:443"),
        ("https://REL.example.org", "https://rel.example.org:443"),
        ("https://rel.example.org/", "https://rel.example.org:443"),
        ("http://h.example:8080", "http://h.example:8080"),
        ("nas.lan:8443", "https://nas.lan:8443"),
        ("'https://[::1]:80'", "https://[::1]:80"),
    ],
)
def test_an_origin_is_known_by_scheme_host_and_port(folder, written_as, name):
    assert origin_of(folder, f"{{? {written_as} : {{}}}}")[0] == name


def test_what_an_origin_is_sent_is_told_by_names(folder):
    written(folder, "x", "c.pem")
    basic = "{auth: {basic: {user: me, password: ONE}}, tls: {cert: c.pem}}"

    assert origin_of(folder, f"{{h: {basic}}}")[1].credentials() == [
        "basic as me, password ONE",
        "client certificate",
    ]
    assert origin_of(folder, "{h: {auth: {bearer: TWO}, headers: {X-Key: ONE}}}")[
        1
    ].credentials() == ["bearer TWO", "header X-Key: ONE"]
    assert origin_of(folder, "{h: {netrc: true}}")[1].credentials() == ["basic from netrc"]


def test_a_proxy_that_is_null_is_not_one_that_is_absent(folder):
    assert origin_of(folder, "{h: {proxy: null}}")[1].has_own_proxy
    assert origin_of(folder, "{h: {proxy: 'http://p:1'}}")[1].has_own_proxy
    assert not origin_of(folder, "{h: {netrc: true}}")[1].has_own_proxy


@pytest.mark.parametrize(
    ("origins", "key", "message"),
    [
        ("{'ftp://h': {}}", "origins", "'ftp://h' is no origin"),
        ("{'https://h/path': {}}", "origins", "is no origin; write https://HOST"),
        ("{'https://u:p@h': {}}", "origins", "is no origin"),
        ("{'https://h?x': {}}", "origins", "is no origin"),
        ("{h: {}, 'https://h:443': {}}", "origins", "are the same origin; write it once"),
        ("{h: {auth: {}}}", "origins.h.auth", "one of the keys basic, digest and bearer"),
        ("{h: {auth: {bearer: ONE, basic: {user: a, password: ONE}}}}", "origins.h.auth", "one of"),
        ("{h: {auth: {basic: {user: a}}}}", "origins.h.auth.basic", "the key password is missing"),
        (
            "{h: {auth: {basic: {user: 'a:b', password: ONE}}}}",
            "origins.h.auth.basic.user",
            "no ':'",
        ),
        ("{h: {auth: {basic: {usr: a, user: b, password: ONE}}}}", "basic.usr", "mean 'user'?"),
        ("{h: {headers: {Host: ONE}}}", "origins.h.headers", "Host is set by fetchd itself"),
        ("{h: {headers: {X-A: ONE, x-a: TWO}}}", "origins.h.headers", "stands here twice"),
        ("{h: {headers: {'a b': ONE}}}", "origins.h.headers", "is not the name of a header"),
        ("{h: {headers: {Authorization: ONE}, netrc: true}}", "headers.Authorization", "only one"),
        ("{h: {auth: {bearer: ONE}, netrc: true}}", "origins.h.netrc", "auth says already"),
        ("{h: {tls: {key: k.pem}}}", "origins.h.tls", "a key needs its certificate"),
        ("{'http://h': {tls: {ca: .}}}", "origins.http://h.tls", "an http: origin has no TLS"),
        ("{h: {tls: {ca: none.pem}}}", "origins.h.tls.ca", "none.pem cannot be read: no such file"),
        ("{h: {tls: {cert: none.pem}}}", "origins.h.tls.cert", "none.pem cannot be read"),
        ("{h: {tls: {cert: ., key: none.pem}}}", "origins.h.tls.key", "none.pem cannot be read"),
        ("{h: {proxy: 'socks5://x'}}", "origins.h.proxy", "write http://HOST:PORT"),
        ("{h: {proxy_auth: {user: a, password: ONE}}}", "origins.h.proxy_auth", "write proxy: URL"),
        ("{h: {zzz: 1}}", "origins.h.zzz", "known here: auth, connections, headers"),
    ],
)
def test_a_wrong_origin_says_where_and_why(folder, origins, key, message):
    error = rejected(folder, f"{SECRETS}origins: {origins}\n")

    assert key in str(error).partition(" ")[2]
    assert message in str(error)
    assert "fetchd.yaml:2:" in str(error)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("origins: {h: {auth: {bearer: hunter-2}}}", "origins.h.auth.bearer"),
        ("origins: {h: {auth: {bearer: 'hunter-2!'}}}", "origins.h.auth.bearer"),
        ("origins: {h: {auth: hunter-2}}", "origins.h.auth"),
        ("origins: {h: {auth: {basic: hunter-2}}}", "origins.h.auth.basic"),
        ("origins: {h: {auth: {basic: {user: a, password: hunter-2}}}}", "auth.basic.password"),
        ("origins: {h: {auth: {digest: {user: a, password: hunter-2}}}}", "auth.digest.password"),
        ("origins: {h: {headers: {X-Key: hunter-2}}}", "origins.h.headers.X-Key"),
        ("origins: {h: {token: hunter-2}}", "origins.h.token"),
        ("network: {proxy: 'http://p', proxy_auth: {user: a, password: hunter-2}}", "proxy_auth"),
        ("origins: {'https://a:hunter-2@h': {}}", "origins....@h"),
        ("origins: {'a:hunter-2@h': {}}", "origins....@h"),
        ("secrets: {ONE: hunter-2}", "secrets.ONE"),
        ("secrets: {ONE: {value: hunter-2}}", "secrets.ONE.value"),
        ("secrets: {ONE: [hunter-2]}", "secrets.ONE"),
    ],
)
def test_p16_a_secret_where_its_name_should_stand_is_not_repeated(folder, text, key):
    error = rejected(folder, text + "\n")

    assert key in str(error)
    assert "hunter-2" not in str(error)


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("{}", "one of the keys credential, file and env"),
        ("{env: A, file: .}", "one of the keys credential, file and env"),
        ("{env: A=B}", "is not the name of a variable"),
        ("{credential: a/b}", "is not the name of a credential"),
        ("{file: none}", "none cannot be read: no such file or directory"),
    ],
)
def test_a_secret_is_read_at_one_place(folder, secret, message):
    error = rejected(folder, f"secrets: {{ONE: {secret}}}\n")

    assert message in str(error)
    assert "secrets.ONE" in str(error)


# ---------------------------------------------------------------- what is shipped


def test_the_shipped_file_is_the_built_in_configuration():
    path = REPOSITORY / "config" / "fetchd.yaml"

    assert load(path, {}, {}) == built_in()
    assert path.read_text().startswith("# yaml-language-server: $schema=./fetchd.schema.json\n")


def test_the_shipped_file_has_every_key_that_can_be_set():
    data = (REPOSITORY / "config" / "fetchd.yaml").read_bytes()
    tree = yamldoc.parse_yaml(data, "fetchd.yaml", max_bytes=len(data))
    assert tree is not None

    def has(key):
        whole = yamldoc.place(tree, key.split(".")[:-1])
        return isinstance(whole, yamldoc.Fields) and whole.key(key.split(".")[-1]) is not None

    expected = {key for key, _ in model_keys() if "NAME" not in key}
    assert expected == {key for key, _ in model_keys() if "NAME" not in key and has(key)}


def test_the_shipped_schema_is_that_of_the_model():
    shipped = (REPOSITORY / "config" / "fetchd.schema.json").read_text()

    assert json.loads(shipped) == schema()


def test_the_schema_is_draft_07_and_takes_native_types():
    made = schema()

    assert made["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in json.dumps(made)
    assert made["properties"]["workers"]["type"] == "integer"
    assert made["properties"]["workers"]["default"] == 8
    intake = made["definitions"]["Intake"]["properties"]
    assert intake["require_end_marker"]["type"] == "boolean"
    assert intake["require_end_marker"]["default"] is False
    for match in re.findall(r'"\$ref": "#/definitions/(\w+)"', json.dumps(made)):
        assert match in made["definitions"]


def test_the_page_has_every_key_with_its_default():
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE))

    for key, field in model_keys():
        default = field.default
        if isinstance(default, list):
            default = f"[{', '.join(default)}]"
        if isinstance(default, str):
            assert f"`{default}`" in rows[key], key
        assert key in rows
    assert set(rows) - {key for key, _ in model_keys()} <= {"public", "private", "loopback"}


# ---------------------------------------------------------------- commands


def test_a_command_is_a_program_with_bounds(folder):
    keys = "{ argv: [/bin/x, -q, '${job.name}'], idempotent: true, timeout: 2m }"
    path = written(folder, f"commands: {{ reindex: {keys} }}\n")
    made = load(path, {}, {}).commands["reindex"]

    assert made.argv == ("/bin/x", "-q", "${job.name}")
    assert (made.idempotent, made.timeout_s) == (True, 120.0)
    assert (made.memory_bytes, made.output_bytes) == (2**30, 2**16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: { argv: [x] }", "commands.a.argv: 'x' is not the whole path of a program"),
        ("a: { argv: ['/bin/${x}'] }", "is not the whole path of a program"),
        ("a: { argv: /bin/x -q }", "commands.a.argv: found '/bin/x -q'; a list is needed"),
        ("a: { argv: [] }", "commands.a.argv: found a list; a list is needed"),
        ("a: { idempotent: true }", "commands.a: the key argv is missing"),
        ("a: { argv: [/bin/x], shell: true }", "commands.a.shell: unknown key"),
        ("'a b': { argv: [/bin/x] }", "'a b' is no name"),
        ("a: { argv: [/bin/x], idempotent: maybe }", "neither true nor false"),
    ],
)
def test_a_wrong_command_is_told_with_its_place(folder, text, message):
    assert message in str(rejected(folder, f"commands: {{ {text} }}\n"))


def test_a_webhook_is_a_service_of_the_web(folder):
    made = load(written(folder, "webhooks: { chat: { url: https://h.example/x } }\n"), {}, {})

    assert (made.webhooks["chat"].url, made.webhooks["chat"].timeout_s) == (
        "https://h.example/x",
        10.0,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("webhooks: { a: { url: 'file:///x' } }", "webhooks.a.url: 'file:///x' is a file"),
        ("webhooks: { a: { url: 'ftp://h/x' } }", "webhooks.a.url: the scheme 'ftp'"),
        ("webhooks: { a: { } }", "webhooks.a: the key url is missing"),
        (
            "commands: { a: { argv: [/bin/x] } }\nwebhooks: { a: { url: 'http://h/x' } }",
            "webhooks.a: is the name of a command already",
        ),
    ],
)
def test_a_wrong_webhook_is_told_with_its_place(folder, text, message):
    assert message in str(rejected(folder, f"{text}\n"))
