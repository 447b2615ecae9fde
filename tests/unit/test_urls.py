from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchd.errors import ValueProblem
from fetchd.urls import (
    check_url,
    file_name_of,
    join_url,
    local_path,
    origin_of,
    path_of,
    redact_url,
)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/a.iso", "/srv/a.iso"),
        ("file://localhost/srv/a.iso", "/srv/a.iso"),
        ("FILE:///srv/a.iso", "/srv/a.iso"),
        ("file:///srv/a%20b%2541.iso", "/srv/a b%41.iso"),
        ("file:///srv/caf%E9", "/srv/caf\udce9"),
        ("file:///srv/q%3F%23", "/srv/q?#"),
        ("file:///srv/...", "/srv/..."),
        ("http://h/srv/a.iso", None),
    ],
)
def test_a_file_url_names_one_absolute_path(url, path):
    assert local_path(check_url(url)) == path


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("file://server/a", "is not a file of this machine; write file:///folder/name"),
        ("file://localhost:80/a", "is not a file of this machine"),
        ("file://me@localhost/a", "is not a file of this machine"),
        ("file:/srv/a", "is not a file of this machine"),
        ("file:srv/a", "is not a file of this machine"),
        ("file://", "names no file"),
        ("file:///", "names no file"),
        ("file:///a?b", "write ? as %3F, # as %23"),
        ("file:///a?", "no query and no fragment"),
        ("file:///a#", "no query and no fragment"),
        ("file:////srv/a", "has the component ''"),
        ("file:///srv//a", "has the component ''"),
        ("file:///srv/../etc/passwd", "has the component '..'"),
        ("file:///srv/%2e%2E/etc/passwd", "has the component '..'"),
        ("file:///srv/%2e/a", "has the component '.'"),
        ("file:///srv/a%2Fb", "has the component 'a/b'"),
        ("file:///srv/a%00", r"has the component 'a\x00'"),
        ("file:///srv\\a", "write it percent-encoded"),
        ("ftp://h/a", "the scheme 'ftp' is not fetched; allowed: http, https, file"),
    ],
)
def test_a_file_url_that_could_be_read_in_two_ways_is_refused(url, problem):
    with pytest.raises(ValueProblem) as caught:
        check_url(url)

    assert problem in str(caught.value)


def test_a_folder_is_a_base_for_relative_urls():
    base = check_url("file:///srv/x/")

    assert join_url(base, "a/b%20c.iso") == "file:///srv/x/a/b%20c.iso"
    assert join_url("file:///srv/x", "a") == "file:///srv/x/a"


def test_what_is_read_off_a_file_url():
    url = "file:///srv/x/b%20c.iso"

    assert origin_of(url) == origin_of("file://localhost/elsewhere") == "file://"
    assert file_name_of(url) == "b c.iso"
    assert path_of(url) == "srv/x/b c.iso"
    assert redact_url(url) == url


# ---------------------------------------------------------------- most URLs take a short way

PIECES = st.sampled_from(
    (
        *("http://", "https://", "HTTP://", "a.example", "A", "[::1]", "user:pw"),
        *(":80", ":0", ":443", ":99999", "/", "//", "?", "#", "@", "&"),
        *("%41", "%", "..", "a", " ", "\\", "\xe9", "x=y", "-"),
    )
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_whatever_a_url_is_made_of_it_is_read_as_the_standard_library_reads_it(url):
    try:
        check_url(url)
    except ValueProblem:
        return
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    sent = host if host.isascii() else host.encode("idna").decode()
    default = {"http": 80, "https": 443}[parts.scheme]

    assert re.fullmatch(r"[a-z0-9._~-]+|[0-9a-f:.]+", sent)
    assert parts.port is None or 0 < parts.port < 65536
    assert "@" not in parts.netloc
    assert not re.search(r"[\s\\]", url)
    shown = f"[{host}]" if ":" in host else host
    assert origin_of(url) == f"{parts.scheme}://{shown}:{parts.port or default}"
    query = "?..." if parts.query else ""
    assert redact_url(url) == f"{parts.scheme}://{parts.netloc}{parts.path}{query}"
