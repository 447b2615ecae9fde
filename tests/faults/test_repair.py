"""A whole file with a wrong digest is mended by what another mirror has, end to end."""

from __future__ import annotations

import re

import pytest

from faults.rig import Ended, recovered, refused, sha256
from faults.server import Exchange, Server, content, file, flapping, status
from fetchd import events

MIB = 1024 * 1024
SIZE = 16 * MIB + 77
BIG = content("a big file", SIZE)
ETAG = file(BIG).etag


def garbled(*places: int, length: int = 100) -> bytes:
    """Return the file with wrong bytes at some places."""
    wrong = bytearray(BIG)
    for at in places:
        wrong[at : at + length] = bytes(byte ^ 0xFF for byte in wrong[at : at + length])
    return bytes(wrong)


MIDDLE = garbled(7 * MIB + 5)


@pytest.fixture(autouse=True)
def whole(rig):
    rig.whole = {BIG}


@pytest.fixture
def mirrors():
    with Server() as one, Server() as two, Server() as three:
        yield [one, two, three]


def mirrored(rig, mirrors, *handlers, keys="", settings=None):
    mirrors = mirrors[: len(handlers)]
    for mirror, handler in zip(mirrors, handlers, strict=True):
        mirror.routes["/f.bin"] = handler
    bases = ", ".join(mirror.origin for mirror in mirrors)
    job = f"base: [{bases}]\nurl: f.bin\nchecksum: {sha256(BIG)}\n{keys}"
    return rig.get(job, settings or {})


def sent(server) -> int:
    return sum(request.sent for request in server.requests)


def stretches(server) -> list[tuple[int, int]]:
    """Return the ranges that were asked for, from the first byte to the one behind the last."""
    asked = [
        re.fullmatch(r"bytes=(\d+)-(\d+)", request.header("Range") or "")
        for request in server.requests
    ]
    return [(int(found[1]), int(found[2]) + 1) for found in asked if found]


def repaired(ended: Ended) -> events.TaskRepaired:
    (event,) = ended.of(events.TaskRepaired)
    return event


def test_n21_a_garbled_block_is_mended_by_the_next_mirror(rig, mirrors):
    ended = mirrored(rig, mirrors, file(MIDDLE), file(BIG))

    assert recovered(ended, "checksum_mismatch", body=BIG)
    assert repaired(ended).replaced_bytes == MIB
    assert repaired(ended).compared_bytes < SIZE
    assert sent(mirrors[1]) < SIZE
    assert len(mirrors[0].requests) == 1
    first, *others = mirrors[1].requests
    assert first.header("If-Range") is None
    assert {request.header("If-Range") for request in others} == {ETAG}
    assert ended.view.resumed_from_bytes == SIZE - MIB
    assert ended.parts == {}


def test_n21_garbled_where_two_mirrors_met_costs_few_blocks(rig, mirrors):
    cut = 9 * MIB + 500_000
    wrong = garbled(cut - 200_000)  # before what the second one compares

    ended = mirrored(rig, mirrors, flapping(file(wrong, cut_after=cut), file(BIG)), file(BIG))

    assert recovered(ended, "short_body", "checksum_mismatch", body=BIG)
    assert repaired(ended).replaced_bytes == MIB
    assert repaired(ended).compared_bytes <= 3 * MIB
    mending = stretches(mirrors[0]) + stretches(mirrors[1])
    assert sum(end - start for start, end in mending) <= 3 * MIB


def test_n21_garbled_where_a_piece_begins_costs_the_blocks_at_the_pieces(rig, mirrors):
    garbled_at: list[int] = []

    def pieces(exchange: Exchange) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", exchange.request.header("Range") or "")
        body = BIG
        if asked and not garbled_at:
            garbled_at.append(int(asked[1]))
            body = garbled(garbled_at[0])
        file(body, etag=ETAG, rate=24e6)(exchange)

    settings = {"limits.connections_per_origin": "2"}
    ended = mirrored(rig, mirrors, pieces, file(BIG), keys="segments: 2\n", settings=settings)

    assert recovered(ended, "checksum_mismatch", body=BIG)
    assert garbled_at[0] > 6 * MIB
    assert repaired(ended).replaced_bytes == MIB
    seams = [start for start, _ in stretches(mirrors[0])]
    before = sorted(seams).index(garbled_at[0]) + 1
    assert repaired(ended).compared_bytes <= (2 * before + 1) * MIB


@pytest.mark.parametrize("keys", ["segments: 4\n", ""], ids=["pieces", "whole"])
def test_n21_two_mirrors_that_lie_end_in_failure_and_nothing_is_seen(rig, mirrors, keys):
    other = garbled(3 * MIB, 12 * MIB)

    ended = mirrored(rig, mirrors, file(MIDDLE), file(other), keys=keys)

    assert refused(ended, *["checksum_mismatch"] * 4)
    assert not ended.of(events.TaskRepaired)
    assert ended.view.dossier.quarantine in ended.parts
    assert len(ended.view.causes) == 2
    assert "with every block as this source has it" in ended.reason


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(file(BIG, ranges=False), id="no-ranges"),
        pytest.param(file(BIG, etag=None, last_modified=None), id="no-validator"),
        pytest.param(file(BIG, etag='W/"1"', last_modified=None), id="weak-validator"),
    ],
)
def test_n21_a_mirror_that_cannot_mend_gives_the_whole(rig, mirrors, unfit):
    ended = mirrored(rig, mirrors, file(MIDDLE), unfit)

    assert recovered(ended, "checksum_mismatch", body=BIG)
    assert not ended.of(events.TaskRepaired)
    assert len(mirrors[1].requests) == 2
    assert mirrors[1].requests[-1].header("Range") is None
    assert ended.view.resumed_from_bytes == 0


def test_n21_a_mirror_with_another_size_mends_nothing(rig, mirrors):
    other = content("another version", SIZE + 1)

    ended = mirrored(rig, mirrors, file(MIDDLE), file(other), file(BIG))

    assert recovered(ended, "checksum_mismatch", "checksum_mismatch", body=BIG)
    assert not ended.of(events.TaskRepaired)


def test_n21_a_mirror_that_changes_while_it_mends_gives_the_whole(rig, mirrors):
    before = content("the version before", SIZE)
    changing = flapping(*[file(before, etag='"before"')] * 3, file(BIG))

    ended = mirrored(rig, mirrors, file(MIDDLE), changing)

    assert recovered(ended, "checksum_mismatch", body=BIG)
    assert not ended.of(events.TaskRepaired)
    assert mirrors[1].requests[-1].header("Range") is None


def test_n21_a_repair_that_was_broken_off_goes_on_where_it_was(rig, mirrors):
    broken = flapping(*[file(BIG)] * 2, file(BIG, cut_after=MIB + 5), file(BIG))

    ended = mirrored(rig, mirrors, flapping(file(MIDDLE), status(503)), broken)

    assert recovered(ended, "checksum_mismatch", "short_body", "bad_status", body=BIG)
    assert repaired(ended).replaced_bytes == MIB
    before, behind = stretches(mirrors[1])[:3], stretches(mirrors[1])[3:]
    assert before == [(MIB, 2 * MIB), (2 * MIB, 4 * MIB), (4 * MIB, 8 * MIB)]
    assert all(end <= MIB or start >= 5 * MIB for start, end in behind)  # no block comes twice


def test_n21_a_mirror_is_banned_by_its_second_garbled_file_though_both_are_mended(rig, mirrors):
    for mirror, body in zip(mirrors, (MIDDLE, BIG), strict=False):
        mirror.routes.update(dict.fromkeys(["/f.bin", "/g.bin"], file(body)))
    bases = ", ".join(mirror.origin for mirror in mirrors[:2])
    files = "".join(f"  - {name}.bin {sha256(BIG)}\n" for name in "fg")

    ended = rig.get(f"base: [{bases}]\nurls:\n{files}", {"workers": "1"})

    assert ended.state == "succeeded"
    assert set(ended.files.values()) == {BIG}
    assert ended.codes == ["checksum_mismatch"] * 2
    assert len(ended.of(events.TaskRepaired)) == 2
    assert [event.origin for event in ended.of(events.MirrorBanned)] == [mirrors[0].origin]


def test_n21_a_small_file_is_fetched_again(rig, mirrors):
    body = BIG[: 2 * MIB]
    rig.whole = {body}
    for mirror, served in zip(mirrors, (MIDDLE[MIB : 3 * MIB], body), strict=False):
        mirror.routes["/f.bin"] = file(served)
    bases = ", ".join(mirror.origin for mirror in mirrors[:2])

    ended = rig.get(f"base: [{bases}]\nurl: f.bin\nchecksum: {sha256(body)}\n")

    assert recovered(ended, "checksum_mismatch", body=body)
    assert [request.header("Range") for request in mirrors[1].requests] == [None]
