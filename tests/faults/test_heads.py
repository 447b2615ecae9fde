"""Heads of answers that are no good: lengths, framing, interim answers, garbage (N08 to N17)."""

from __future__ import annotations

import shutil

import pytest

from faults.rig import BODY, recovered, refused, sha256
from faults.server import content, dripping, endless, file, interim, raw

OK = b"HTTP/1.1 200 OK\r\n"


def answer(*lines, body=BODY, then="close"):
    """Answer with a head of these lines, whatever was asked."""
    return raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body, then)


def whole(*lines, body=BODY):
    return answer("HTTP/1.1 200 OK", 'ETag: "other"', *lines, body=body)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: -300000"], id="N08-negative"),
        pytest.param(["Content-Length: many"], id="N08-text"),
        pytest.param(["Content-Length: +300_000"], id="N08-signed"),
        pytest.param(["Content-Length: 300000, 300000"], id="N08-list"),
        pytest.param(["Content-Length: 300000", "Content-Length: 299999"], id="N08-two"),
        pytest.param([f"Content-Length: {10**30}"], id="N08-huge"),
        pytest.param(["Content-Length:"], id="N08-empty"),
    ],
)
@pytest.mark.parametrize("keys", ["", f"checksum: {sha256(BODY)}"], ids=["plain", "checksum"])
def test_a_length_that_is_not_one_plain_number_is_never_believed(trial, lines, keys):
    assert recovered(trial.meet(whole(*lines), keys=keys), "bad_length")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 10", "Transfer-Encoding: chunked"], id="N09-both"),
        pytest.param(["Transfer-Encoding: rot13"], id="N09-unknown"),
        pytest.param(["Transfer-Encoding: gzip, chunked"], id="N09-two-codings"),
        pytest.param(["Transfer-Encoding: chunked"] * 2, id="N09-twice"),
    ],
)
def test_a_framing_in_two_minds_is_refused(trial, lines):
    hostile = whole(*lines, body=b"a\r\n0123456789\r\n0\r\n\r\n")

    assert recovered(trial.meet(hostile), "bad_framing")


def test_n09_chunks_in_http_1_0_are_refused(trial):
    hostile = answer(
        "HTTP/1.0 200 OK", "Transfer-Encoding: chunked", body=b"a\r\n0123456789\r\n0\r\n\r\n"
    )

    assert recovered(trial.meet(hostile), "bad_framing")


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(b"zz\r\n" + BODY, id="N10-text"),
        pytest.param(b"-5\r\nabcde\r\n0\r\n\r\n", id="N10-negative"),
        pytest.param(b"1_0\r\n" + BODY[:16] + b"\r\n0\r\n\r\n", id="N10-underscore"),
        pytest.param(b"10000000000000000\r\n" + BODY, id="N10-2-to-the-64"),
        pytest.param(b"493e0\r\n" + BODY[:1000], id="N10-cut-in-chunk"),
        pytest.param(b"493e0\r\n" + BODY + b"\r\n", id="N10-no-last-chunk"),
        pytest.param(b"493e0\n" + BODY + b"\n0\n\n", id="N10-bare-lf"),
        pytest.param(b"493df\r\n" + BODY + b"\r\n0\r\n\r\n", id="N10-longer-than-told"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 5000, id="N10-endless-trailers"),
    ],
)
def test_malformed_chunks_are_never_a_whole_file(trial, chunks):
    hostile = whole("Transfer-Encoding: chunked", body=chunks)

    assert recovered(trial.meet(hostile), "bad_framing")


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(b"\r\n", bytes(65536), id="N11-no-length"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n" + bytes(65536) + b"\r\n",
            id="N11-chunked",
        ),
    ],
)
def test_a_body_without_end_stops_at_the_limit_and_its_part_goes(trial, head, piece):
    ended = trial.meet(
        endless(piece, OK + head),
        keys=f"checksum: {sha256(BODY)}",
        settings={"limits.file": "1MiB"},
    )

    assert refused(ended, "too_large")
    assert not any(ended.parts.values())


@pytest.mark.parametrize("length", [2 * 1024 * 1024, 10**15])
def test_n12_over_limit_a_file_is_refused_before_a_byte_of_it_is_kept(trial, length):
    hostile = whole(f"Content-Length: {length}")

    ended = trial.meet(hostile, settings={"limits.file": "1MiB"})

    assert refused(ended, "too_large")
    assert sum(ended.parts.values()) < 1000 + trial.have_bytes


def test_n12_over_the_whole_disk_a_file_is_refused_before_a_byte_of_it_is_kept(trial):
    ended = trial.meet(whole(f"Content-Length: {10**15}"))

    assert refused(ended, "too_large")
    assert sum(ended.parts.values()) < 1000 + trial.have_bytes


def test_n12_over_space_a_file_waits_for_the_disk_before_a_byte_of_it_is_kept(trial):
    disk = shutil.disk_usage(trial.rig.root.parent)
    ended = trial.meet(
        whole(f"Content-Length: {disk.total - 8 * 1024 * 1024}"),  # of which some is used
        enough=lambda report: any("disk" in run.waiting for run in report.runs),
    )

    assert ended.state == "waiting"
    assert ended.files == {}
    assert sum(ended.parts.values()) < 1000 + trial.have_bytes
    assert len(trial.requests) == 1


def test_n14_a_flood_of_interim_answers_is_no_answer(trial):
    ended = trial.meet(endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 99))

    assert recovered(ended, "bad_response")


def test_n14_interim_answers_that_drip_end_with_the_patience(trial):
    def trickle(exchange):
        exchange.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 999, size=25)

    assert recovered(trial.meet(trickle), "stalled")


@pytest.mark.parametrize(
    "interims",
    [
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n", id="N15-102"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", id="N15-103"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="N15-100"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_behind_an_interim_answer_the_final_one_counts(trial, interims, times):
    ended = trial.meet(interim(interims * times, file(BODY)))

    assert recovered(ended)
    assert len(trial.requests) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"X: " + b"y" * 70_000 + b"\r\n", id="N16-long-line"),
        pytest.param(b"X: y\r\n" * 150, id="N16-many-headers"),
        pytest.param(b"no colon here\r\n", id="N16-no-colon"),
        pytest.param(b"X: a\0b\r\n", id="N16-nul"),
        pytest.param(b"X: a\rContent-Length: 0\r\n", id="N16-bare-cr"),
    ],
)
def test_a_head_that_is_malformed_is_no_answer(trial, data):
    hostile = raw(OK + b"Content-Length: 300000\r\n" + data + b"\r\n" + BODY)

    assert recovered(trial.meet(hostile), "bad_response")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(OK + b"X: a\nContent-Length: 300000\r\n\r\n", id="N16-bare-lf"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 300000\n\n", id="N16-only-lf"),
        pytest.param(OK + b"X: " + b"y" * 60_000 + b"\r\nZ: " + b"z" * 9000 + b"\r\n\r\n",
                     id="N16-over-64-KiB"),
        pytest.param(OK + b"X: \x01\r\nContent-Length: 300000\r\n\r\n", id="N16-control"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 300000\r\n\r\n", id="N16-version"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", id="N16-101"),
    ],
)  # fmt: skip
def test_what_a_lenient_parser_would_take_is_no_answer(trial, data):
    assert recovered(trial.meet(raw(data + BODY)), "bad_response")


def test_n16_a_folded_header_is_one_line_with_a_space(trial):
    folded = whole("X-Note: folded", " once", "\tand again", f"Content-Length: {len(BODY)}")

    assert recovered(trial.meet(folded, folded))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BODY, id="N17-http09"),
        pytest.param(content("noise", 5000), id="N17-garbage"),
        pytest.param(b"", id="N17-empty"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="N17-tls-bytes"),
    ],
)
def test_what_is_not_http_is_asked_for_as_often_as_allowed(trial, data):
    hostile = raw(data)

    ended = trial.meet(hostile, hostile, settings={"retry.attempts": "2"})

    assert refused(ended, "bad_response", "bad_response")
    assert len(trial.requests) == 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(content("noise", 5000), id="N17-garbage-at-accept"),
        pytest.param(b"\x16\x03\x03\x00\x05hello", id="N17-tls-bytes-at-accept"),
        pytest.param(b"SSH-2.0-other\r\n", id="N17-other-protocol-at-accept"),
    ],
)
def test_a_server_that_speaks_first_is_no_http_server(rig, server, data):
    server.greeting = raw(data)

    ended = rig.get(f"url: {server.url('/f.bin')}", {"retry.attempts": "2"})

    assert refused(ended, "bad_response", "bad_response")
    assert server.connections == 2


def test_n17_garbage_that_drips_is_not_waited_for(trial):
    assert recovered(trial.meet(dripping(content("noise", 5000))), "bad_response")
