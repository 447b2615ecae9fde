"""Where a body ends, however the bytes are cut up on their way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.errors import AttemptError
from fetchd.transports.body import Body
from fetchd.transports.wire import Received
from harness import Receives


def source_of(*pieces):
    return Received(Receives(*pieces))


def rest_of(source):
    buffer = memoryview(bytearray(4096))
    data = b""
    while count := source.readinto(buffer):
        data += bytes(buffer[:count])
    return data


def read(body, size=4096):
    buffer = memoryview(bytearray(size))
    data = b""
    while count := body.readinto(buffer):
        data += bytes(buffer[:count])
    return data


def cut_up(data, places):
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


def in_chunks(pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


PLACES = st.lists(st.integers(0, 300), max_size=8)


@settings(derandomize=True, max_examples=100)
@given(st.binary(max_size=200), st.binary(max_size=50), PLACES, st.integers(1, 64))
def test_a_length_ends_the_body_and_leaves_the_rest(data, rest, places, size):
    source = source_of(*cut_up(data + rest, places))

    body = Body(source, length=len(data), chunked=False)

    assert read(body, size) == data
    assert body.ended
    assert rest_of(source) == rest


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.binary(max_size=60), max_size=6), PLACES, st.integers(1, 64), st.booleans())
def test_chunks_end_the_body_and_leave_the_rest(pieces, places, size, told):
    data = b"".join(pieces)
    source = source_of(*cut_up(in_chunks(pieces) + b"rest", places))

    body = Body(source, length=len(data) if told else None, chunked=True)

    assert read(body, size) == data
    assert body.ended
    assert rest_of(source) == b"rest"


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6), st.data())
def test_chunks_cut_anywhere_before_their_end_never_look_whole(pieces, data):
    wire = in_chunks(pieces)
    end = data.draw(st.integers(0, len(wire) - 1))

    with pytest.raises(AttemptError) as caught:
        read(Body(source_of(wire[:end]), length=None, chunked=True))

    assert caught.value.code == "bad_framing"


@settings(derandomize=True, max_examples=50)
@given(st.binary(max_size=100), st.integers(1, 100))
def test_a_body_shorter_than_its_length_never_looks_whole(data, missing):
    with pytest.raises(AttemptError) as caught:
        read(Body(source_of(data), length=len(data) + missing, chunked=False))

    assert caught.value.code == "short_body"


@settings(derandomize=True, max_examples=200)
@given(st.binary(max_size=40))
def test_whatever_stands_for_chunks_is_data_or_a_clear_failure(wire):
    code = ""
    try:
        read(Body(source_of(wire), length=None, chunked=True))
    except AttemptError as exc:
        code = exc.code

    assert code in {"", "bad_framing"}


def test_extensions_and_trailers_are_skipped():
    wire = b'3;name="a b"\r\nabc\r\n0 ;x\r\nX-Trailer: y\r\n\r\n'

    assert read(Body(source_of(wire), length=None, chunked=True)) == b"abc"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"3\nabc\n0\n\n", id="all"),
        pytest.param(b"3\nabc\r\n0\r\n\r\n", id="size"),
        pytest.param(b"3\r\nabc\n0\r\n\r\n", id="behind-data"),
        pytest.param(b"3\r\nabc\r\n0\n\r\n", id="last"),
        pytest.param(b"3\r\nabc\r\n0\r\n\n", id="end"),
    ],
)
def test_n10_lines_of_chunks_that_end_in_lf_alone_are_refused(wire):
    with pytest.raises(AttemptError) as caught:
        read(Body(source_of(wire), length=None, chunked=True))

    assert caught.value.code == "bad_framing"


@pytest.mark.parametrize("line", [b"no header", b" folded", b"A: \0", b"A : b"])
def test_n10_what_stands_behind_the_last_chunk_has_to_be_headers(line):
    wire = b"3\r\nabc\r\n0\r\n" + line + b"\r\n\r\n"

    with pytest.raises(AttemptError) as caught:
        read(Body(source_of(wire), length=None, chunked=True))

    assert caught.value.code == "bad_framing"


def test_without_length_and_chunks_the_end_of_the_connection_is_the_end():
    body = Body(source_of(b"abc", b"def"), length=None, chunked=False)

    assert read(body) == b"abcdef"
    assert body.ended


def test_the_smallest_chunks_are_read_as_many_at_a_time_as_have_arrived():
    wire = b"".join(b"1;x\r\n%c\r\n" % (n % 256) for n in range(20_000)) + b"0\r\n\r\n"
    body = Body(source_of(wire), length=None, chunked=True)
    buffer = memoryview(bytearray(30_000))
    counts = []
    while count := body.readinto(buffer):
        counts.append(count)

    assert sum(counts) == 20_000
    assert len(counts) < 10


@pytest.mark.parametrize("end", [b"1\r\nb", b"1\r\nb\r\n1", b"1\r\nb\r\n1\r\n", b"1\r\nb\r\n0\r\n"])
def test_what_has_arrived_waits_for_nothing_that_has_not(end):
    body = Body(source_of(b"1\r\na\r\n" + end), length=None, chunked=True)
    buffer = memoryview(bytearray(100))

    assert body.readinto(buffer) == 2  # behind it the connection ends, and that is an error
    with pytest.raises(AttemptError):
        body.readinto(buffer)


def test_chunks_fill_no_more_than_the_buffer():
    body = Body(source_of(in_chunks([b"ab", b"cdef", b"g"])), length=None, chunked=True)

    assert [body.readinto(memoryview(bytearray(3))) for _ in range(4)] == [3, 3, 1, 0]


def test_a_read_brings_one_receive():
    body = Body(source_of(b"abc", b"def"), length=6, chunked=False)

    assert body.readinto(memoryview(bytearray(100))) == 3
