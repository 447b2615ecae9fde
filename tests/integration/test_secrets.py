"""A real daemon with secrets: what it writes shows none, and what it cannot read ends it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from urllib.parse import quote

import pytest

from faults.digest_server import DigestServer
from faults.server import Authority, Server, content, file, redirect, status
from process import DaemonProcess

BODY = content("secrets", 50_000)
TOKEN, PASSWORD, KEY = "c4nary/token+1==", 'c4nary "pass" \\ word', "c4nary-api-key"
CANARIES = [
    *(TOKEN, PASSWORD, KEY),
    *(quote(TOKEN, safe=""), json.dumps(PASSWORD)[1:-1], quote(PASSWORD, safe="")),
    *(base64.b64encode(f"{user}:{PASSWORD}".encode()).decode() for user in ("bob", "eve")),
    *(base64.b64encode(value.encode()).decode() for value in (TOKEN, PASSWORD, KEY)),
]


def closed(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def configured(base, origins, secrets):
    """Return a daemon with these two blocks in its settings."""
    return DaemonProcess(
        base,
        f"origins={json.dumps(origins)}",
        f"secrets={json.dumps(secrets)}",
        "log.level=debug",
        "retry.attempts=2",
    )


def written_by(daemon):
    """Yield every file that the daemon wrote, but for the bytes of downloads."""
    for path in daemon.base.rglob("*"):
        mine = path.is_relative_to(daemon.downloads) and "quarantine" in path.parts
        if path.is_file() and not mine and not path.is_relative_to(daemon.base / "given"):
            yield path


def test_p16_nothing_that_a_run_writes_shows_a_secret(tmp_path):
    (tmp_path / "given").mkdir()
    echo = f"you sent {TOKEN} and {KEY} and {PASSWORD}"

    def repeated(exchange):
        said = exchange.request.header("Authorization") or ""
        exchange.head(
            404, said, [("X-Said", said), ("Content-Type", said), ("Content-Length", "0")]
        )

    def broken_length(exchange):
        exchange.head(200, "OK", [("Content-Length", f"{KEY} {TOKEN}")])
        exchange.close()

    with (
        DigestServer({"/good": file(BODY)}, "eve", PASSWORD) as digest,
        Server() as server,
        Server({"/away": file(BODY)}) as away,
    ):
        server.routes |= {
            "/good": file(BODY),
            "/echo": repeated,
            "/page": file(f"<!doctype html>{echo}".encode()),
            "/away": redirect(away.url("/away")),
            "/path": redirect(f"/{KEY}/good?token={quote(TOKEN)}"),
            f"/{KEY}/good": file(BODY),
            "/lost": redirect(f"/nowhere/{KEY}/{quote(PASSWORD)}"),
            "/worse": redirect(f"ftp://{KEY}/{TOKEN}"),
            "/type": file(BODY, type=f"text/html; {KEY}"),
            "/length": broken_length,
            "/refused": status(401, TOKEN, [("WWW-Authenticate", f'Basic realm="{TOKEN}"')]),
        }
        origins = {
            server.origin: {
                "auth": {"bearer": "TOKEN"},
                "headers": {"X-API-Key": "KEY", "Cookie": "KEY"},
                "proxy": None,
            },
            digest.origin: {"auth": {"digest": {"user": "eve", "password": "PASSWORD"}}},
        }
        secrets = {
            "TOKEN": {"credential": "token"},
            "PASSWORD": {"file": closed(tmp_path / "given" / "password", PASSWORD + "\n")},
            "KEY": {"env": "API_KEY"},
        }
        closed(tmp_path / "given" / "token", TOKEN)
        with configured(tmp_path, origins, secrets) as daemon:
            paths = [path.strip("/") for path in server.routes if path.count("/") == 1]
            for path in paths:
                daemon.drop(f"{path}.yaml", f"url: {server.url('/' + path)}\nfilename: {path}\n")
            daemon.drop("digest.yaml", f"url: {digest.url('/good')}\nfilename: d\n")
            code = daemon.run_once(CREDENTIALS_DIRECTORY=str(tmp_path / "given"), API_KEY=KEY)

            states = {path: daemon.report(path)["state"] for path in [*paths, "digest"]}
            assert code == 1
            assert {path for path, state in states.items() if state == "succeeded"} == {
                "good",
                "away",
                "path",
                "digest",
            }
            assert all(TOKEN in request.raw.decode() for request in server.requests)
            assert [event["origin"] for event in daemon.events("credentials.withheld")] == [
                server.origin
            ]
            seen = 0
            for path in written_by(daemon):
                data = path.read_bytes()
                seen += 1
                for canary in CANARIES:
                    assert canary.encode() not in data, f"{path} shows {canary}"
                    assert canary not in str(path)
            assert seen > 20
            assert b"(hidden)" in daemon.log.read_bytes()


# ---------------------------------------------------------------- exit 78


@pytest.fixture
def certified(tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.client(tmp_path)
    return {"ca": authority.ca, "cert": cert, "key": key}


@pytest.mark.parametrize(
    ("origin", "secrets", "message"),
    [
        ({"tls": {"ca": "none.pem"}}, {}, "origins.https://h.tls.ca: "),
        ({"tls": {"ca": "rubbish"}}, {}, "origins.https://h:443.tls.ca: "),
        ({"tls": {"cert": "client.pem", "key": "none"}}, {}, "origins.https://h.tls.key: "),
        ({"tls": {"cert": "client.pem", "key": "rubbish"}}, {}, "origins.https://h:443.tls.key: "),
        ({"tls": {"cert": "rubbish"}}, {}, "origins.https://h:443.tls.cert: "),
        ({"auth": {"bearer": "S"}}, {"S": {"file": "none"}}, "secrets.S.file: "),
        ({"auth": {"bearer": "S"}}, {"S": {"file": "rubbish"}}, "secrets.S.file: "),
        ({"auth": {"bearer": "S"}}, {"S": {"env": "UNSET_HERE"}}, "secrets.S.env: "),
        ({}, {"S": {"credential": "x"}}, "secrets.S.credential: "),
        ({"auth": {"bearer": "S"}}, {"S": {"file": "spaced"}}, "origins.https://h:443.auth.bearer"),
        ({"netrc": "true"}, {}, "origins.https://h:443.netrc: "),
        ({"proxy": "https://p:1"}, {}, "origins.https://h.proxy: "),
    ],
)
def test_what_cannot_be_given_ends_a_start_with_78_and_its_key(
    tmp_path, certified, origin, secrets, message
):
    (tmp_path / "rubbish").write_text("rubbish of everybody")
    (tmp_path / "rubbish").chmod(0o644)
    closed(tmp_path / "spaced", "rubbish with spaces")
    config = tmp_path / "fetchd.yaml"
    config.write_text(
        f"origins: {json.dumps({'https://h': origin})}\nsecrets: {json.dumps(secrets)}\n"
    )
    with DaemonProcess(tmp_path) as daemon:
        code = daemon.run_once(FETCHD_CONFIG=str(config), NETRC=str(tmp_path / "none"))
        said = daemon.log.read_text()

    assert code == 78
    assert message in said
    assert "rubbish of everybody" not in said
    assert "rubbish with spaces" not in said


def test_check_shows_which_origins_are_given_what_and_reads_no_secret(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("base: [https://rel.example.org/, https://m.example.org/]\nurls: [a, b]\n")
    (tmp_path / "fetchd.yaml").write_text(
        "secrets: {TOKEN: {env: UNSET_HERE}, KEY: {credential: none}}\n"
        "origins:\n"
        "  rel.example.org: {auth: {bearer: TOKEN}, headers: {X-API-Key: KEY}}\n"
        "  else.example.org: {auth: {basic: {user: me, password: KEY}}}\n"
    )
    command = [sys.executable, "-m", "fetchd", "check", "--config", str(tmp_path / "fetchd.yaml")]

    shown = subprocess.run(
        [*command, "--show", job], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    as_json = subprocess.run(
        [*command, "--show", "--json", job], capture_output=True, check=True, cwd=tmp_path
    )

    given = "  https://rel.example.org:443 is given bearer TOKEN; header X-API-Key: KEY\n"
    assert shown.stdout.endswith(given)
    assert "else.example.org" not in shown.stdout
    assert json.loads(as_json.stdout)[0]["credentials"] == {
        "https://rel.example.org:443": ["bearer TOKEN", "header X-API-Key: KEY"]
    }
