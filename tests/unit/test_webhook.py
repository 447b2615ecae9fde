"""``webhook``: a service is told of a task, at least once, with a key; and POST as such."""

from __future__ import annotations

import json
import time
from contextlib import closing
from functools import partial

import pytest

from faults.proxy import forward
from faults.server import Server, flapping, raw, redirect, stalled, status
from fetchd import transports
from fetchd.clock import SystemClock
from fetchd.errors import AttemptError, ConfigError
from fetchd.model import Interrupted
from fetchd.ports import Request
from fetchd.steps import STEPS, configured, webhook
from fetchd.transports.access import Tls, access_of
from workshop import Workshop

HOOK = {"webhook": "hook"}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Let the workshop's job files know the webhook."""
    from fetchd.jobfile.steps import read_steps

    monkeypatch.setattr("workshop.read_steps", partial(read_steps, webhooks=["hook", "other"]))


def build(**more):
    return transports.build(
        ["loopback"],
        proxy=more.pop("proxy", None),
        ca=None,
        redirects=5,
        workers=2,
        clock=SystemClock(),
        **more,
    )


@pytest.fixture
def wire():
    made = build()
    yield made
    made.close()


def no_records(run):
    raise AssertionError(run)


def shop_with(folder, wire, server, *, timeout_s=5.0, path="/hook", **more):
    service = webhook.Webhook(url=server.url(path), timeout_s=timeout_s)
    steps = {
        **STEPS,
        "webhook": webhook.with_webhooks({"hook": service}, wire, SystemClock(), no_records),
    }
    return Workshop(folder / "root", steps=steps, clock=SystemClock(), **more)


def post(server, path="/hook", **more):
    return Request(url=server.url(path), connect_s=5.0, stall_s=5.0, body=b'{"a": 1}', **more)


# ---------------------------------------------------------------- POST


@pytest.mark.parametrize("code", [200, 201, 202, 204])
def test_what_is_posted_arrives_whole_and_any_2xx_is_an_answer(wire, code):
    with Server({"/hook": status(code)}) as server:
        for _ in range(2):  # the second time perhaps by the same connection
            with closing(wire.open(post(server), lambda: True)):
                pass

    for asked in server.requests:
        assert (asked.method, asked.body) == ("POST", b'{"a": 1}')
        assert asked.header("Content-Type") == "application/json"
        assert asked.header("Content-Length") == "8"


def test_what_is_posted_goes_by_the_proxy_as_well():
    with Server({"/hook": status(204)}) as server, Server(fallback=forward) as proxy:
        wire = build(proxy=proxy.origin)
        with closing(wire.open(post(server), lambda: True)):
            pass
        wire.close()

    (asked,) = proxy.requests
    assert (asked.method, asked.body) == ("POST", b'{"a": 1}')


@pytest.mark.parametrize(
    ("handler", "transient"),
    [(status(500), True), (status(429), True), (status(404), False), (status(304), False)],
)
def test_any_other_status_is_a_failure(wire, handler, transient):
    with Server({"/hook": handler}) as server, pytest.raises(AttemptError) as caught:
        wire.open(post(server), lambda: True)

    assert (caught.value.code, caught.value.transient) == ("bad_status", transient)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_c15_nothing_is_posted_to_where_a_redirect_leads(wire, code):
    with Server({"/hook": redirect("/other", code), "/other": status(200)}) as server:
        with pytest.raises(AttemptError) as caught:
            wire.open(post(server), lambda: True)
        assert not server.asked("/other")

    assert caught.value.status == code


def test_credentials_of_the_origin_are_sent_with_what_is_posted(wire):
    from fetchd.secrets import Secret

    with Server({"/hook": status(204)}) as server:
        access = access_of(
            basic=None,
            digest=None,
            bearer=Secret("hook", "token-of-the-hook"),
            headers={},
            tls=Tls(),
            proxy=None,
            place="origins.x",
        )
        own = build(origins={server.origin: access})
        with closing(own.open(post(server), lambda: True)):
            pass
        own.close()
        assert server.requests[0].header("Authorization") == "Bearer token-of-the-hook"


# ---------------------------------------------------------------- the step


def test_a_service_is_told_of_the_task_and_the_files_go_on(tmp_path, wire):
    with Server({"/hook": status(204)}) as server:
        shop = shop_with(tmp_path, wire, server)
        assert shop.make("d/a", b"x", HOOK) == {"d/a": b"x"}
        shop.close()

    (asked,) = server.requests
    told = json.loads(asked.body)
    assert asked.header("Idempotency-Key") == told.pop("key")
    assert told == {
        "event": "task.finishing",
        "job": "j",
        "run": 1,
        "task": 1,
        "root": "default",
        "path": "d/a",
        "url": "http://h/a",
        "size_bytes": 1,
        "verified": "length",
        "digests": [],
        "files": [{"path": "a", "size_bytes": 1}],
        "files_count": 1,
    }


def test_c15_a_service_that_fails_is_told_again_with_the_same_key(tmp_path, wire):
    with Server({"/hook": flapping(status(503), status(200))}) as server:
        shop = shop_with(tmp_path, wire, server)
        failure = shop.refuse("a", b"x", HOOK)
        assert (failure.code, failure.transient, failure.kept) == ("webhook_failed", True, True)
        assert set(shop.make("a", b"x", HOOK)) == {"a"}
        shop.close()

    keys = {asked.header("Idempotency-Key") for asked in server.requests}
    assert (len(server.requests), len(keys)) == (2, 1)


def test_a_service_that_refuses_for_good_fails_the_task(tmp_path, wire):
    with Server({"/hook": status(403)}) as server:
        shop = shop_with(tmp_path, wire, server)
        failure = shop.refuse("a", b"x", HOOK)
        shop.close()

    assert (failure.code, failure.transient) == ("webhook_failed", False)


def test_a_webhook_that_the_configuration_has_no_more_is_told(tmp_path, wire):
    with Server() as server:
        shop = shop_with(tmp_path, wire, server)
        failure = shop.refuse("a", b"x", {"webhook": "other"})
        shop.close()

    assert (failure.code, failure.transient) == ("webhook_failed", False)
    assert not server.requests


def test_c15_p06_a_service_that_never_answers_is_given_up_in_time(tmp_path, wire):
    with Server({"/hook": stalled()}) as server:
        shop = shop_with(tmp_path, wire, server, timeout_s=0.5)
        began_s = time.monotonic()
        failure = shop.refuse("a", b"x", HOOK)
        shop.close()

    assert (failure.code, failure.transient) == ("webhook_failed", True)
    assert time.monotonic() - began_s < 0.5 + 4  # two seconds, and a busy machine


def test_c15_a_service_that_outlasts_the_time_of_its_step_fails_the_step(tmp_path, wire):
    with Server({"/hook": stalled()}) as server:
        shop = shop_with(tmp_path, wire, server, timeout_s=30.0)
        failure = shop.refuse("a", b"x", {"webhook": {**HOOK, "timeout": "1s"}})
        shop.close()

    assert failure.code == "step_timeout"
    assert "its `timeout`" in failure.reason


def test_a_cancel_does_not_wait_for_a_service(tmp_path, wire):
    with Server({"/hook": stalled()}) as server:
        shop = shop_with(tmp_path, wire, server, timeout_s=30.0, wanted=lambda: not server.requests)
        began_s = time.monotonic()
        outcome = shop.finish("a", b"x", HOOK)
        shop.close()

    assert isinstance(outcome, Interrupted)
    assert time.monotonic() - began_s < 5


def test_secrets_in_a_url_are_told_to_nobody(tmp_path, wire):
    with Server({"/hook": raw(b"HTTP/1.1 204 No Content\r\n\r\n")}) as server:
        shop = shop_with(tmp_path, wire, server)
        attempt = shop.verified("a", b"x", ())
        told = webhook._prepare(no_records, {}, _with_url(attempt, "https://u:p@h/a?token=secret"))[
            "facts"
        ]
        shop.close()

    assert "secret" not in json.dumps(told)
    assert "u:p" not in json.dumps(told)


def _with_url(attempt, url):
    from dataclasses import replace

    return replace(attempt, intent=replace(attempt.intent, url=url))


def test_no_command_or_webhook_has_the_name_of_a_step(wire):
    service = webhook.Webhook(url="http://h/x", timeout_s=1.0)

    with pytest.raises(ConfigError, match=r"webhooks\.extract: is the name of a step"):
        configured({}, {"extract": service}, wire, SystemClock(), no_records)
