from __future__ import annotations

import hashlib
import time

import pytest

from fetchd.secrets import Secret
from fetchd.transports.access import Login
from fetchd.transports.digest import Digest

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def user(name="Mufasa", password="Circle of Life", cnonce=CNONCE):
    return Digest(Login(name, Secret("LIFE", password)), lambda: cnonce)


def offered(algorithm, more=""):
    return (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        f'nonce="{NONCE}", opaque="{OPAQUE}"{more}'
    )


def answered(digest, *fields, target="/dir/index.html"):
    return digest.answer(digest.challenged(fields), target)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616_come_out(algorithm, response):
    assert answered(user(), offered(algorithm)) == (
        f'Digest username="Mufasa", realm="http-auth@example.org", nonce="{NONCE}", '
        f'uri="/dir/index.html", response="{response}", algorithm={algorithm}, qop=auth, '
        f'nc=00000001, cnonce="{CNONCE}", opaque="{OPAQUE}"'
    )


def test_the_example_of_rfc_2617_comes_out():
    digest = user(password="Circle Of Life", cnonce="0a4f113b")
    text = answered(
        digest,
        'Digest realm="testrealm@host.com", qop="auth,auth-int", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"',
    )

    assert 'response="6629fae49393a05397450978507c4ef1"' in text
    assert "algorithm" not in text


def test_without_qop_it_is_as_in_rfc_2069():
    digest = user(password="CircleOfLife")
    text = answered(
        digest, 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    )

    assert 'response="1949323746fe6a43ef61f9606e7febea"' in text
    assert "cnonce" not in text
    assert "nc=" not in text


@pytest.mark.parametrize(("algorithm", "name"), [("MD5-sess", "md5"), ("SHA-256-sess", "sha256")])
def test_a_session_binds_the_password_to_nonce_and_cnonce(algorithm, name):
    def h(text):
        return hashlib.new(name, text.encode()).hexdigest()

    secret = h(f"{h('Mufasa:http-auth@example.org:Circle of Life')}:{NONCE}:{CNONCE}")
    asked = h("GET:/dir/index.html")
    response = h(f"{secret}:{NONCE}:00000001:{CNONCE}:auth:{asked}")

    assert f'response="{response}"' in answered(user(), offered(algorithm))


def test_a_user_may_be_sent_as_a_hash_or_in_utf_8():
    hashed = hashlib.sha256("Jäsøn Doe:http-auth@example.org".encode()).hexdigest()
    digest = user("Jäsøn Doe")

    text = answered(digest, offered("SHA-256", ", charset=UTF-8, userhash=true"))
    plain = answered(digest, offered("SHA-256", ", charset=UTF-8"))

    assert f'username="{hashed}"' in text
    assert "userhash=true" in text
    assert "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe" in plain


def test_the_uses_of_a_challenge_are_counted():
    digest = user()
    challenge = digest.challenged([offered("MD5")])

    texts = [digest.answer(challenge, "/a") for _ in range(11)]

    assert "nc=00000001" in texts[0]
    assert "nc=0000000b" in texts[10]
    assert digest.latest is challenge


@pytest.mark.parametrize(
    "fields",
    [
        [offered("MD5"), offered("SHA-256")],
        [f"{offered('MD5')}, {offered('SHA-256')}"],
        [f'Negotiate, Basic realm="a, Digest b", {offered("SHA-256")}, {offered("MD5")}'],
        ["Negotiate YWJj==", offered("SHA-512-256"), offered("SHA-256")],
        [f",, ,{offered('SHA-256')} , "],
    ],
)
def test_the_best_known_challenge_is_taken(fields):
    assert user().challenged(fields).algorithm == "SHA-256"


@pytest.mark.parametrize(
    "field",
    [
        "",
        "Basic realm=x",
        "Digest",
        'Digest realm="x"',
        offered("SHA-512-256"),
        offered("MD5").replace("auth, auth-int", "auth-int"),
        offered("MD5").replace("qop=", 'x="\t", qop='),
        offered("MD5")[:-20].replace('nonce="', "nonce="),
        'Basic realm="Digest nonce=x"',
    ],
)
def test_what_is_no_known_challenge_is_not_answered(field):
    digest = user()

    assert digest.challenged([field]) is None
    assert digest.latest is None


def test_quotes_in_what_a_server_says_stay_quoted():
    text = answered(user(), r'Digest realm="a \"b\" \\c", nonce="n\"", qop=auth')

    assert r'realm="a \"b\" \\c", nonce="n\""' in text


@pytest.mark.parametrize(
    "text",
    ["," * 60_000, 'a="' * 20_000, r'Digest a="\"' * 10_000, "a " * 30_000, "Digest x=," * 6_000],
)
def test_a_hostile_challenge_takes_no_time(text):
    digest, began_s = user(), time.monotonic()

    digest.challenged([text])

    assert time.monotonic() - began_s < 1.0
