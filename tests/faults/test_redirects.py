"""Redirects to where nobody should go, and what travels along (N41 to N47)."""

from __future__ import annotations

import pytest

from faults.rig import BODY, recovered, refused
from faults.server import Authority, Server, file, raw, redirect
from fetchd.errors import DocumentError

SECRET = "s3cret-token"


def to(location):
    """Redirect to a place that is written as it is into the head."""
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return raw(head.encode("latin-1"), "keep")


@pytest.mark.parametrize(
    ("places", "requests"),
    [
        pytest.param({"/f.bin": "/b", "/b": "/f.bin"}, 2, id="N41-loop"),
        pytest.param(
            {"/f.bin": "/0"} | {f"/{n}": f"/{n + 1}" for n in range(20)}, 11, id="N41-chain"
        ),
    ],
)
def test_redirects_without_end_are_left(trial, places, requests):
    trial.server.routes |= {path: to(place) for path, place in places.items()}
    hostile = trial.server.routes["/f.bin"]

    ended = trial.meet(hostile, hostile)

    assert refused(ended, "too_many_redirects")
    assert len(trial.requests) == requests


def test_n41_a_chain_of_ten_is_followed(trial):
    trial.server.routes |= {f"/{n}": to(f"/{n + 1}") for n in range(1, 10)}
    trial.server.routes["/10"] = file(BODY)

    assert recovered(trial.meet(to("/1")))


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("file:///etc/passwd", id="N42-file"),
        pytest.param("ftp://127.0.0.1/f.bin", id="N42-ftp"),
        pytest.param("data:application/octet-stream,x", id="N42-data"),
        pytest.param("javascript:alert(1)", id="N42-javascript"),
        pytest.param("gopher://127.0.0.1/f.bin", id="N42-unknown"),
    ],
)
def test_a_redirect_to_another_scheme_is_denied(trial, place):
    ended = trial.meet(to(place), to(place))

    assert refused(ended, "scheme_denied")
    assert len(trial.requests) == 1


@pytest.mark.parametrize("hops", [1, 2], ids=["N43-at-once", "N43-behind-a-hop"])
def test_a_redirect_from_https_to_http_is_denied(rig, tmp_path, hops):
    authority = Authority(tmp_path)
    with Server({"/f.bin": file(BODY)}) as plain, Server(tls=authority.context()) as secure:
        down = to(plain.url("/f.bin"))
        secure.routes |= {"/f.bin": down if hops == 1 else to("/b"), "/b": down}

        ended = rig.get(f"url: {secure.url('/f.bin')}", {"network.ca": authority.ca})

        assert refused(ended, "scheme_denied")
        assert plain.connections == 0


def test_n43_up_and_down_again_is_denied(trial, tmp_path):
    authority = Authority(tmp_path)
    with Server(tls=authority.context()) as secure:
        secure.routes["/b"] = to(trial.server.url("/g.bin"))
        trial.server.routes["/g.bin"] = file(BODY)

        ended = trial.meet(to(secure.url("/b")), settings={"network.ca": authority.ca})

    assert refused(ended, "scheme_denied")
    assert not trial.server.asked("/g.bin")


def test_n43_no_setting_allows_it(rig, server):
    with pytest.raises(DocumentError, match="allow_downgrade"):
        rig.get(f"url: {server.url('/f.bin')}", {"network.allow_downgrade": "true"})


def test_a_header_of_the_job_never_reaches_another_origin(rig, detour):
    ended = rig.get(
        f"url: {detour.origin}/f.bin\nheaders: {{ X-Token: {SECRET}, X-Api-Key: {SECRET} }}\n",
        {"network.ca": detour.ca},
    )

    assert recovered(ended)
    first, last = detour.requests
    assert first.raw.count(SECRET.encode()) == 2
    assert SECRET.encode() not in last.raw


def test_n46_encoded_line_ends_are_sent_encoded(trial):
    trial.server.fallback = file(BODY)

    ended = trial.meet(to("/g%0d%0aX-Evil:%20y"))

    assert recovered(ended)
    assert trial.requests[1].target.lower() == "/g%0d%0ax-evil:%20y"
    assert trial.requests[1].header("X-Evil") is None


@pytest.mark.parametrize(
    ("place", "codes"),
    [
        pytest.param("/g.bin\rX-Evil: y", 3, id="N46-bare-cr"),
        pytest.param("/g.bin\r\n\r\nHTTP/1.1 200 OK", 1, id="N46-cr-lf"),
        pytest.param("/" + "x" * 100_000, 3, id="N46-100-kB"),
    ],
)
def test_a_place_that_breaks_the_head_is_never_asked_for(trial, place, codes):
    trial.server.routes["/g.bin"] = file(BODY)
    hostile = to(place)

    ended = trial.meet(hostile, hostile)

    if "\r\n" in place:  # that head ended where it says: a plain redirect, and rubbish behind it
        assert recovered(ended)
        assert [request.target for request in trial.requests] == ["/f.bin", "/g.bin"]
        assert len({request.connection for request in trial.requests}) == 2
    else:
        assert refused(ended, *["bad_response"] * codes)
        assert {request.target for request in trial.requests} == {"/f.bin"}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("http://me:" + SECRET + "@127.0.0.1:{port}/g.bin", id="N47-userinfo"),
        pytest.param("\\\\127.0.0.1:{port}/g.bin", id="N47-backslashes"),
        pytest.param("http://127.0.0.1:{port}\\@93.184.216.34/g.bin", id="N47-backslash-at"),
    ],
)
def test_a_place_that_parsers_read_differently_is_refused(trial, place):
    trial.server.routes["/g.bin"] = file(BODY)
    hostile = to(place.format(port=trial.server.port))

    ended = trial.meet(hostile, hostile)

    assert refused(ended, "bad_response")
    assert SECRET not in ended.reason
    assert len(trial.requests) == 1


def test_n47_two_slashes_lead_to_another_host_which_is_judged(trial):
    ended = trial.meet(to("//169.254.169.254/g.bin"))

    assert refused(ended, "address_denied")


def test_n47_two_slashes_lead_to_another_host_which_is_allowed(trial):
    with Server({"/g.bin": file(BODY)}) as other:
        ended = trial.meet(redirect(f"//127.0.0.1:{other.port}/g.bin"))

    assert recovered(ended)
