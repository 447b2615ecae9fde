"""How the head of an answer is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import AttemptError
from fetchd.transports.head import Extent, Head, extent_of, next_url, retry_after_s
from fetchd.transports.ratelimit import used_up_s
from fetchd.transports.wire import RawHead

NOW_S = 1_772_532_000.0  # Tue, 03 Mar 2026 10:00:00 GMT
DATE = "Tue, 03 Mar 2026 10:00:00 GMT"


def head(status=200, *pairs, url="https://files.test/a/b", minor=1):
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name.lower(), []).append(value.strip())
    return Head(url, RawHead(minor, status, fields))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        pytest.param("120", 120.0, id="N22-seconds"),
        pytest.param("0", 0.0, id="N22-zero"),
        pytest.param("Tue, 03 Mar 2026 10:01:30 GMT", 90.0, id="N22-date"),
        pytest.param("Tue, 03 Mar 2026 09:00:00 GMT", None, id="N22-past"),
        pytest.param("-5", None, id="N22-negative"),
        pytest.param("soon", None, id="N22-garbage"),
        pytest.param("1000000000", 1e9, id="N22-huge"),
        pytest.param("1.5", None, id="N22-fraction"),
        pytest.param("9" * 400, None, id="N22-endless"),
        pytest.param("Tue, 99 Mar 2026 10:01:30 GMT", None, id="N22-no-date"),
        pytest.param(None, None, id="N22-absent"),
    ],
)
def test_a_wait_is_read_as_seconds_or_date_and_nonsense_ignored(status, value, wait_s):
    pairs = [] if value is None else [("Retry-After", value)]

    error = head(status, *pairs).refused(NOW_S)

    assert error.retry_after_s == wait_s
    assert error.transient


def test_a_date_counts_from_the_clock_of_the_server():
    until = "Tue, 03 Mar 2026 10:01:00 GMT"

    assert retry_after_s(until, DATE, NOW_S + 86400) == 60
    assert retry_after_s(until, None, NOW_S) == 60
    assert retry_after_s(until, "nonsense", NOW_S) == 60


@settings(derandomize=True, max_examples=200)
@given(st.text(max_size=40))
def test_any_wait_gives_no_error_and_no_negative(text):
    wait_s = retry_after_s(text, DATE, NOW_S)

    assert wait_s is None or wait_s >= 0


@settings(derandomize=True, max_examples=200)
@given(st.text(alphabet="bytes 0123456789-/*+_", max_size=24), st.integers(0, 50))
def test_any_content_range_is_what_was_asked_or_refused(text, start):
    try:
        extent = extent_of(head(206, ("Content-Range", text)), start)
    except AttemptError:
        return

    assert extent.start == start
    assert extent.total is None or extent.total == start + extent.length


@settings(derandomize=True, max_examples=100)
@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_the_rest_of_a_file_is_understood(start, size):
    value = f"bytes {start}-{start + size - 1}/{start + size}"

    extent = extent_of(head(206, ("Content-Range", value)), start)

    assert extent == Extent(start=start, total=start + size, length=size, chunked=False)


@settings(derandomize=True, max_examples=100)
@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_piece_of_a_file_is_exactly_what_was_asked_for_or_refused(start, size, begin, end):
    value = f"bytes {begin}-{end}/1000"
    try:
        extent = extent_of(head(206, ("Content-Range", value)), start, start + size)
    except AttemptError:
        assert (begin, end) != (start, start + size - 1)
    else:
        assert (begin, end) == (start, start + size - 1)
        assert extent == Extent(start=start, total=1000, length=size, chunked=False)


@settings(derandomize=True, max_examples=200)
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_any_place_is_an_https_url_or_refused(text):
    try:
        url = next_url(head(302, ("Location", text)))
    except AttemptError:
        return

    assert url.startswith("https://")
    assert "@" not in url.partition("//")[2].partition("/")[0]


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/c", "https://files.test/c"),
        ("c?d", "https://files.test/a/c?d"),
        ("//other.test/c", "https://other.test/c"),
        ("https://other.test:8443/c#part", "https://other.test:8443/c"),
    ],
)
def test_a_place_is_read_relative_to_the_url(location, url):
    assert next_url(head(302, ("Location", location))) == url


def test_a_status_is_told_in_its_usual_words_never_in_the_servers():
    error = head(404, url="https://files.test/a?token=secret").refused(NOW_S)

    assert error.reason == "404 Not Found from https://files.test/a?..."


def test_a_status_is_data_too():
    assert head(404).refused(NOW_S).status == 404


def test_a_status_that_nobody_knows_stands_alone():
    assert head(599, url="https://h/").refused(NOW_S).reason == "599 from https://h/"


@pytest.mark.parametrize(
    ("minor", "values", "keeps"),
    [
        (1, [], True),
        (1, ["close"], False),
        (1, ["Foo, Close"], False),
        (1, ["foo", "close"], False),
        (0, [], False),
        (0, ["Keep-Alive"], True),
        (0, ["keep-alive, close"], False),
    ],
)
def test_a_connection_is_kept_as_the_version_and_the_server_say(minor, values, keeps):
    pairs = [("Connection", value) for value in values]

    assert head(200, *pairs, minor=minor).keeps_connection() == keeps


# ---------------------------------------------------------------- quotas


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"ratelimit": ['"default";r=0;t=50']}, 50),
        ({"ratelimit": ['"default";t=50;r=0']}, 50),
        ({"ratelimit": ['"a";r=3;t=99, "b";r=0;t=7']}, 7),
        ({"ratelimit": ['"a";r=0;t=3', '"b";r=0;t=7']}, 7),
        ({"ratelimit": ["limit=100, remaining=0, reset=12"]}, 12),
        ({"ratelimit-remaining": ["0"], "ratelimit-reset": ["12"]}, 12),
        ({"x-ratelimit-remaining": ["0"], "x-ratelimit-reset": ["12"]}, 12),
        ({"x-ratelimit-remaining": ["0"], "x-ratelimit-reset": [str(int(NOW_S) + 90)]}, 90),
        ({"ratelimit": ['"default";r=1;t=50']}, None),
        ({"ratelimit": ['"default";r=0']}, None),
        ({"ratelimit": ['"default";r=0;t=-5']}, None),
        ({"ratelimit": ['"default";r=0.5;t=5']}, None),
        ({"ratelimit": ["nonsense"]}, None),
        ({"ratelimit-limit": ["100"], "ratelimit-remaining": ["0"]}, None),
        ({"ratelimit-remaining": ["0", "0"], "ratelimit-reset": ["12"]}, None),
        ({"ratelimit-remaining": ["5"], "ratelimit-reset": ["12"]}, None),
        ({"x-ratelimit-remaining": ["0"], "x-ratelimit-reset": ["soon"]}, None),
        ({"x-ratelimit-remaining": ["0"], "x-ratelimit-reset": [str(int(NOW_S) - 9)]}, None),
    ],
)
def test_a_quota_that_is_used_up_says_when_it_is_filled(fields, wait_s):
    assert used_up_s(fields, None, NOW_S) == wait_s
