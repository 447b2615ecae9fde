"""Certificates that prove nothing, handshakes that do not end, ends without a farewell (N27)."""

from __future__ import annotations

import datetime as dt
import socket
import ssl

import pytest

from faults.rig import BODY, Trial, recovered, refused, sha256
from faults.server import Authority, Server, file, once, raw, self_signed_context, stalled

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class TlsTrial(Trial):
    """A trial over TLS. ``ca``: the setting that makes the good server's certificate valid."""

    def __init__(self, rig, server, *, resumed, authority):
        super().__init__(rig, server, resumed=resumed)
        self.ca = {"network.ca": authority.ca}

    def meet_context(self, context):
        """Run the job against the same server with another TLS context."""
        if self.resumed:
            self.keep(self.source, file(BODY, cut_after=len(BODY) // 2), self.ca)
        self.server.routes["/f.bin"] = file(BODY)
        self.server.tls = context
        return self.rig.get(self.source, self.ca)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture(params=["single", "resumed"])
def secure(request, rig, authority):
    with Server(tls=authority.context()) as server:
        yield TlsTrial(rig, server, resumed=request.param == "resumed", authority=authority)


def old_tls(authority, folder):
    return authority.old_tls_context()


def unknown_authority(authority, folder):
    (folder / "other").mkdir()
    return Authority(folder / "other").context()


@pytest.mark.parametrize(
    ("make_context", "why"),
    [
        pytest.param(
            lambda authority, _: authority.context(not_before=NOW - 9 * DAY, not_after=NOW - DAY),
            "expired",
            id="N27-expired",
        ),
        pytest.param(
            lambda authority, _: authority.context(not_before=NOW + DAY, not_after=NOW + 9 * DAY),
            "not yet valid",
            id="N27-not-yet-valid",
        ),
        pytest.param(
            lambda _, folder: self_signed_context(folder), "self-signed", id="N27-self-signed"
        ),
        pytest.param(
            lambda authority, _: authority.context("other.test"), "mismatch", id="N27-wrong-host"
        ),
        pytest.param(unknown_authority, "issuer", id="N27-unknown-ca"),
        pytest.param(old_tls, "TLS", id="N27-tls-1.0"),
    ],
)
def test_a_server_that_cannot_prove_who_it_is_gets_no_request(
    secure, authority, tmp_path, make_context, why
):
    ended = secure.meet_context(make_context(authority, tmp_path))

    assert refused(ended, "tls_failed")
    assert why in ended.reason
    assert not secure.requests


def test_n27_in_handshake_a_stall_ends_with_the_time_for_connecting(secure):
    greeting = once(stalled(), lambda _: None)
    if secure.resumed:
        secure.keep(secure.source, file(BODY, cut_after=len(BODY) // 2), secure.ca)
    secure.server.routes["/f.bin"] = file(BODY)
    secure.server.greeting = greeting

    ended = secure.rig.get(secure.source, {**secure.ca, "timeout.connect": "300ms"})

    assert recovered(ended, "tls_broken")
    assert ended.took_s < 0.3 + 2


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(raw(b""), id="N27-handshake-cut"),
        pytest.param(raw(b"", "reset"), id="N27-handshake-reset"),
        pytest.param(raw(b"\x16\x03\x03\x00\x7a" + bytes(99)), id="N27-handshake-garbled"),
    ],
)
def test_a_handshake_that_breaks_is_tried_again(secure, greeting):
    if secure.resumed:
        secure.keep(secure.source, file(BODY, cut_after=len(BODY) // 2), secure.ca)
    secure.server.routes["/f.bin"] = file(BODY)
    secure.server.greeting = once(greeting, lambda _: None)

    assert recovered(secure.rig.get(secure.source, secure.ca), "connect_failed|tls_broken")


def test_n27_no_farewell_behind_the_whole_length_is_as_good(secure):
    ended = secure.meet(file(BODY, cut_after=len(secure.missing)), settings=secure.ca)

    assert recovered(ended)


def test_n27_no_farewell_before_the_length_is_a_cut(secure):
    ended = secure.meet(file(BODY, cut_after=50_000), settings=secure.ca)

    assert recovered(ended, "short_body")
    assert secure.requests[1].header("Range") == f"bytes={secure.have_bytes + 50_000}-"


def test_n27_no_farewell_and_no_length_is_judged_by_the_checksum(secure):
    ended = secure.meet(
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:50_000]),
        keys=f"checksum: {sha256(BODY)}\n",
        settings=secure.ca,
    )

    assert recovered(ended, "checksum_mismatch")


def test_n27_a_plain_server_on_a_secure_address_gets_no_request(rig, server):
    server.routes["/f.bin"] = file(BODY)

    ended = rig.get(
        f"url: https://127.0.0.1:{server.port}/f.bin",
        {"retry.attempts": "1", "timeout.connect": "300ms"},
    )

    assert refused(ended, "tls_failed|tls_broken")
    assert not server.asked("/f.bin")


def test_the_old_server_speaks_to_old_clients(authority):
    """Without this the row of TLS 1.0 could pass for another reason."""
    with Server({"/f.bin": file(BODY)}, tls=authority.old_tls_context()) as server:
        client = ssl.create_default_context(cafile=authority.ca)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            client.minimum_version = ssl.TLSVersion.TLSv1
        client.set_ciphers("ALL:@SECLEVEL=0")
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            client.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            assert sock.version() == "TLSv1"
