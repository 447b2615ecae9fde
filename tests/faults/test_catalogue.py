"""Every fault of the network that is catalogued has its tests, and no test is skipped silently.

A case is known by the row and its name, which stand in the name of a test or its parameters:
``N08-negative`` in an id, ``test_n13_the_body_...`` in a function's name.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

WISHES = ("seconds", "date", "past-date", "negative", "garbage", "huge", "fraction", "absent")

#: Row -> what goes wrong, how many cases count, their names.
ROWS = {
    "N01": ("the connection is reset", 3, "no-byte half last-byte"),
    "N02": ("the connection ends before the length", 1, "an-end"),
    "N03": ("it ends and no length was told", 2, "with-checksum without-checksum"),
    "N04": ("silence", 3, "before-head in-head in-body"),
    "N05": ("a drip", 2, "in-head in-body"),
    "N06": ("too great a length on a connection held open", 1, "a-length"),
    "N07": ("bytes behind the body", 2, "more second-answer"),
    "N08": ("a length that is no number", 7, "negative text signed list two huge empty"),
    "N09": ("two framings, or an unknown one", 2, "both unknown"),
    "N10": (
        "malformed chunks",
        6,
        "text negative underscore 2-to-the-64 cut-in-chunk no-last-chunk",
    ),
    "N11": ("a body without end", 2, "no-length chunked"),
    "N12": ("more bytes than there may be", 2, "over-limit over-space"),
    "N13": ("a redirect with an endless body", 1, "the-body"),
    "N14": ("interim answers without end", 1, "a-flood"),
    "N15": ("an interim answer that looks final", 2, "102 103"),
    "N16": ("a malformed head", 5, "long-line many-headers no-colon nul bare-cr"),
    "N17": ("something that is not HTTP/1", 4, "http09 garbage empty tls-bytes"),
    "N18": ("a status without the file", 6, "204 205 304 999 302 no-bytes"),
    "N19": ("an encoded body", 6, "bomb truncated not-gzip trailing-junk chain br"),
    "N20": ("another content", 2, "wrong-bytes html-by-type"),
    "N21": ("bad mirrors", 4, "one-corrupt all-corrupt flapping a-slow"),
    "N22": (
        "a wish to wait",
        16,
        " ".join(f"{wish}-{code}" for wish in WISHES for code in (429, 503)),
    ),
    "N23": ("a status that passes", 5, "408 425 500 502 504"),
    "N24": ("a status that stays", 5, "400 401 403 404 410"),
    "N25": (
        "nobody there",
        5,
        "refused blackhole reset-at-accept backlog-full silent-at-accept",
    ),
    "N26": (
        "a name that leads astray",
        6,
        "nxdomain servfail silence 50-addresses dead-aaaa cname-private",
    ),
    "N27": (
        "TLS that proves nothing, stalls or is cut",
        8,
        "expired not-yet-valid self-signed wrong-host unknown-ca tls-1.0 in-handshake no-farewell",
    ),
    "N28": ("kept connections and proxies", 3, "pooled proxy-407 proxy-that-dies"),
    "N29": ("the network is down for a while", 1, "tasks-that-lose"),
    "N30": ("a slow link with a long queue", 1, "a-slow-link"),
    "N31": ("another part than asked for", 5, "start end total no-content-range multipart"),
    "N32": ("the whole file instead of its rest", 2, "range-ignored other-etag"),
    "N33": (
        "nothing left to send",
        3,
        "416-and-a-part-of-the-whole-size 416-and-a-part-that-is-longer resource-smaller",
    ),
    "N34": ("versions change under way", 3, "between-attempts between-ranges in-a-retry"),
    "N35": ("validators that are weak", 2, "weak-etag date-within"),
    "N36": ("no validator", 2, "with-checksum without-checksum"),
    "N37": ("a condition that is not kept", 2, "a-part-of-a-new-version other-bytes"),
    "N38": ("a condition that fails without cause", 1, "condition-fails-unchanged"),
    "N39": ("a part of another length", 2, "a-part-longer shorter"),
    "N40": ("the part of another file", 1, "a-part-of-another-url"),
    "N41": ("redirects without end", 2, "loop chain"),
    "N42": ("a redirect to another scheme", 5, "file ftp data javascript unknown"),
    "N43": ("a redirect from https to http", 2, "at-once no-setting"),
    "N44": ("a secret of one origin, another origin", 4, "host port scheme subdomain"),
    "N45": ("a redirect inside", 6, "loopback metadata private mapped nat64 6to4"),
    "N46": ("a place that breaks the head", 3, "cr-lf encoded 100-kb"),
    "N47": ("a place read in two ways", 4, "userinfo two-slashes backslashes backslash-at"),
    "N48": ("a resumed file has moved", 1, "other-version"),
}


@pytest.fixture(scope="module")
def names():
    """Return the names of all tests of faults, with their parameters, as one text."""
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", HERE],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.partition("::")[2] for line in said.splitlines() if "test_catalogue" not in line]
    return "\n".join(lines).lower().replace("_", "-")


def test_the_table_is_complete():
    assert list(ROWS) == [f"N{n:02}" for n in range(1, 49)]
    assert sum(count for _, count, _ in ROWS.values()) == 164


@pytest.mark.parametrize("row", ROWS)
def test_every_case_of_the_row_has_a_test(names, row):
    _, count, cases = ROWS[row]

    assert len(set(cases.split())) >= count
    missing = [
        f"{row}-{case}"
        for case in cases.split()
        if not re.search(rf"{row}-{re.escape(case)}(?![a-z0-9])", names, re.IGNORECASE)
    ]
    assert not missing


def test_no_test_is_skipped_without_a_reason():
    silent = [
        f"{path.relative_to(HERE.parent)}:{call.lineno}"
        for path in sorted(HERE.parent.rglob("*.py"))
        for call in _calls(ast.parse(path.read_text()))
        if not _has_reason(call)
    ]

    assert not silent


def _calls(tree):
    """Yield what skips a test or expects it to fail, called or not."""
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _skips(node.func):
            called.add(node.func)
            yield node
        elif _skips(node) and "mark" in ast.dump(node) and node not in called:
            yield node


def _skips(node):
    return isinstance(node, ast.Attribute) and node.attr in {
        "skip",
        "skipif",
        "xfail",
        "importorskip",
    }


def _has_reason(node):
    if not isinstance(node, ast.Call):
        return False
    reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
    if isinstance(node.func, ast.Attribute) and node.func.attr == "skip":
        reasons += node.args
    return any(not isinstance(reason, ast.Constant) or reason.value for reason in reasons)
