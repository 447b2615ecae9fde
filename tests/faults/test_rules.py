"""Rules of docs/transfer.md that need the wire to be seen, and that every rule has its proof."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
from pathlib import Path

import pytest

from faults.downloader import Downloader, attempt_at
from faults.scenarios import chunks, flipped, partial, rest, wire
from faults.server import Server, content, file, flapping, redirect, status
from fetchd.digests import Digest
from fetchd.engine import retry
from fetchd.errors import ValueProblem
from fetchd.model import (
    Failure,
    Fetched,
    History,
    IfExists,
    RetryPolicy,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import PartJournal
from fetchd.transfer import resume

TOP = Path(__file__).parents[2]
BODY, CHANGED = content("old", 300_000), content("new", 310_000)
HALF = 150_000
CUT = file(BODY, cut_after=HALF)


class Bench:
    """One URL on a server, one destination."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.downloader = Downloader(folder)
        self.file = folder / "f"

    def fetch(self, handler=None, path="/f", **asked):
        """Let one attempt meet a handler; what was fetched is not published yet."""
        if handler is not None:
            self.server.routes[path] = handler
        self.attempt = attempt_at(self.server.url(path), path="f", **asked)
        return self.downloader.fetch(self.attempt)

    def publish(self, outcome) -> bytes:
        assert isinstance(outcome, Fetched), outcome
        path, self.record = self.downloader.publish(self.attempt, outcome)
        return path.read_bytes()

    def break_off(self, handler=CUT, **asked) -> None:
        """Keep the first half of the file and forget the requests that it took."""
        assert failure(self.fetch(handler, **asked)) == "short_body"
        assert self.kept_bytes == HALF
        self.server.requests.clear()

    @property
    def kept_bytes(self) -> int:
        with self.downloader.disk.open_part("default", "f") as part:
            return part.size_bytes

    @property
    def ranges(self) -> list[str | None]:
        return [request.header("Range") for request in self.server.requests]


@pytest.fixture
def bench(tmp_path):
    with Server() as server:
        made = Bench(tmp_path, server)
        yield made
        made.downloader.close()


def failure(outcome) -> str:
    assert isinstance(outcome, Failure), outcome
    return outcome.code


def sha256(data) -> tuple[Digest, ...]:
    return (Digest("sha256", hashlib.sha256(data).hexdigest()),)


# ---------------------------------------------------------------- identity and resume


def test_rule_2_rule_6_the_rest_is_asked_for_on_condition_of_a_strong_etag_alone(bench):
    bench.break_off()

    assert bench.publish(bench.fetch(file(BODY))) == BODY
    (request,) = bench.server.requests
    assert request.header("Range") == f"bytes={HALF}-"
    assert request.header("If-Range") == file(BODY).etag
    assert request.header("If-Match") is None
    assert request.header("If-Unmodified-Since") is None


@pytest.mark.parametrize("now", [CHANGED, CHANGED[: HALF - 1]], ids=["longer", "shorter"])
def test_rule_7_a_200_to_a_ranged_request_begins_anew_in_every_respect(bench, now):
    bench.break_off(digests=sha256(now))

    outcome = bench.fetch(file(now, ranges=False), digests=sha256(now))

    assert bench.publish(outcome) == now
    assert len(bench.server.requests) == 1
    intent = outcome.intent
    assert (intent.size_bytes, intent.resumed_from_bytes) == (len(now), 0)
    assert intent.validator.etag == file(now).etag


@pytest.mark.parametrize(
    "lies",
    [
        pytest.param({"shift": -1000}, id="rule_9-other-start"),
        pytest.param({"end": 1000}, id="rule_9-other-end"),
        pytest.param({"whole": True}, id="rule_9-no-range"),
        pytest.param({"headers": {"Content-Encoding": "gzip"}}, id="rule_12-encoded"),
        pytest.param({"headers": {"Content-Length": "77"}}, id="rule_34-two-lengths"),
    ],
)
def test_a_part_that_is_not_the_one_asked_for_is_not_written(bench, lies):
    bench.break_off()

    outcome = bench.fetch(rest(partial(BODY, **lies), file(BODY)))

    assert bench.publish(outcome) == BODY
    assert outcome.intent.resumed_from_bytes == 0
    assert bench.ranges == [f"bytes={HALF}-"] * 2 + [None]


def test_rule_9_a_part_that_is_not_the_one_asked_for_costs_no_kept_byte_if_it_comes_once(bench):
    bench.break_off()

    outcome = bench.fetch(flapping(partial(BODY, shift=-1000), file(BODY)))

    assert bench.publish(outcome) == BODY
    assert outcome.intent.resumed_from_bytes == HALF


def test_rule_10_a_part_in_chunks_is_held_to_its_range_too(bench):
    bench.break_off()
    lines = ["Transfer-Encoding: chunked", f"Content-Range: bytes 0-9/{len(BODY)}"]
    answer = wire(chunks(BODY[:10]), *lines)

    def as_206(exchange):
        send = exchange.send
        exchange.send = lambda data: send(data.replace(b"200 OK", b"206 Partial Content", 1))
        answer(exchange)

    assert bench.publish(bench.fetch(rest(as_206, file(BODY)))) == BODY
    assert bench.ranges == [f"bytes={HALF}-"] * 2 + [None]


def test_rule_11_a_part_that_nobody_asked_for_is_an_error(bench):
    assert failure(bench.fetch(partial(BODY, end=HALF))) == "bad_response"
    assert failure(bench.fetch(partial(BODY))) == "bad_response"
    assert bench.kept_bytes == 0


def test_rule_13_no_byte_behind_the_end_is_asked_for(bench):
    with bench.downloader.disk.open_part("default", "f") as part:
        part.write(memoryview(BODY))
        part.checkpoint(
            PartJournal(
                url=bench.server.url("/f"),
                final_url=bench.server.url("/f"),
                total=len(BODY),
                validator=Validator(etag=file(BODY).etag),
                durable_bytes=len(BODY),
            )
        )

    assert bench.publish(bench.fetch(file(BODY))) == BODY
    assert bench.ranges == [f"bytes={len(BODY) - resume.OVERLAP_BYTES}-"]


def test_rule_21_the_rest_is_asked_for_at_the_first_url_not_where_it_led(bench):
    bench.server.routes["/f"] = flapping(redirect("/signed/1"), redirect("/signed/2"))
    bench.server.routes["/signed/1"] = flapping(CUT, status(403))
    bench.server.routes["/signed/2"] = file(BODY)
    assert failure(bench.fetch()) == "short_body"

    outcome = bench.fetch()

    assert bench.publish(outcome) == BODY
    assert outcome.intent.resumed_from_bytes == HALF
    assert [r.path for r in bench.server.requests] == ["/f", "/signed/1", "/f", "/signed/2"]


def test_rule_24_ranges_are_tried_without_probe_whatever_the_server_announces(bench):
    silent = {"Accept-Ranges": "none"}
    bench.break_off(file(BODY, cut_after=HALF, headers=silent))

    outcome = bench.fetch(file(BODY, headers=silent))

    assert bench.publish(outcome) == BODY
    assert outcome.intent.resumed_from_bytes == HALF
    assert [(r.method, start_of_request(r)) for r in bench.server.requests] == [("GET", HALF)]


def start_of_request(request) -> int:
    return int(re.fullmatch(r"bytes=(\d+)-", request.header("Range"))[1])


# ---------------------------------------------------------------- length and framing


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        pytest.param(
            wire(chunks(BODY), "Content-Length: 10", "Transfer-Encoding: chunked"),
            "bad_framing",
            id="rule_26-length-and-chunks",
        ),
        pytest.param(wire(BODY, "Content-Length: -1"), "bad_length", id="rule_27-negative"),
        pytest.param(wire(BODY, "Content-Length: 5, 6"), "bad_length", id="rule_27-list"),
        pytest.param(wire(BODY), "length_unknown", id="rule_28-no-length"),
        pytest.param(wire(b""), "length_unknown", id="rule_32-empty-without-length"),
        pytest.param(
            wire(chunks(BODY[:HALF], last=False), "Transfer-Encoding: chunked"),
            "bad_framing",
            id="rule_30-no-last-chunk",
        ),
        pytest.param(
            wire(chunks(BODY)[:HALF], "Transfer-Encoding: chunked"),
            "bad_framing",
            id="rule_30-cut-in-chunk",
        ),
        pytest.param(
            file(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}),
            "bad_response",
            id="rule_31-encoded-although-not-asked",
        ),
        pytest.param(
            wire(BODY, "Content-Length: 10", f"Content-Length: {len(BODY)}"),
            "bad_length",
            id="rule_34-two-sizes",
        ),
    ],
)
def test_an_end_that_cannot_be_told_for_sure_is_no_end(bench, handler, code):
    assert failure(bench.fetch(handler)) == code
    assert not bench.file.exists()


def test_rule_29_rule_31_a_compressed_file_is_kept_as_it_is_and_its_length_is_that_of_the_wire(
    bench,
):
    packed = gzip.compress(BODY, mtime=0)

    assert bench.publish(bench.fetch(file(packed, type="application/gzip"))) == packed
    assert bench.server.requests[0].header("Accept-Encoding") == "identity"


def test_rule_32_an_empty_file_is_one_that_says_so(bench):
    outcome = bench.fetch(file(b""))

    assert bench.publish(outcome) == b""
    assert outcome.intent.verified is Verify.LENGTH


def test_rule_33_bytes_behind_the_length_are_not_taken_and_end_the_connection(bench):
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    long = wire(BODY + evil, f"Content-Length: {len(BODY)}", then="keep")

    assert bench.publish(bench.fetch(long)) == BODY
    assert bench.publish(bench.fetch(file(CHANGED))) == CHANGED
    assert bench.server.connections == 2


# ---------------------------------------------------------------- digest, commit


def test_rule_36_bytes_with_another_digest_never_get_the_name(bench):
    outcome = bench.fetch(file(flipped(BODY)), digests=sha256(BODY))

    assert failure(outcome) == "checksum_mismatch"
    assert not bench.file.exists()
    assert bench.kept_bytes == 0


@pytest.mark.parametrize("text", ["sha265:" + "0" * 64, "none:0", "sha256:0", "0" * 64])
def test_rule_37_a_checksum_of_an_unknown_kind_or_length_is_refused(text):
    with pytest.raises(ValueProblem):
        Digest.parse(text)


@pytest.mark.parametrize(
    "handler",
    [status(404), status(503), CUT, wire(BODY), file(flipped(CHANGED))],
    ids=["404", "503", "cut", "no-length", "flipped"],
)
def test_rule_38_a_good_file_stays_until_its_successor_is_verified(bench, handler):
    bench.publish(bench.fetch(file(BODY)))
    how = {"digests": sha256(CHANGED), "if_exists": IfExists.OVERWRITE}

    assert isinstance(bench.fetch(handler, **how), Failure)
    assert bench.file.read_bytes() == BODY
    assert bench.publish(bench.fetch(file(CHANGED), **how)) == CHANGED


def test_rule_39_a_validator_is_known_once_its_file_is_published_and_stays_after_a_304(bench):
    bench.publish(bench.fetch(file(BODY)))
    first = bench.record
    assert isinstance(bench.fetch(file(CHANGED), previous=first), Fetched)  # never published
    bench.server.requests.clear()

    for _ in range(2):
        outcome = bench.fetch(file(BODY), previous=first)

        assert isinstance(outcome, UpToDate)
    asked = [request.header("If-None-Match") for request in bench.server.requests]
    assert asked == [file(BODY).etag] * 2
    assert bench.file.read_bytes() == BODY


def test_rule_46_delays_have_jitter_over_their_whole_length():
    failed = Failure(code="short_body", reason="cut", transient=True)
    history = History(round=3)
    policy = RetryPolicy(delay_s=1.0, max_delay_s=60.0)

    def delay_s(seed) -> float:
        then = retry.decide(
            failed, history, policy, sources=1, now_s=0.0, random=random.Random(seed)
        )
        assert isinstance(then, retry.Again)
        return then.delay_s

    delays = sorted(delay_s(seed) for seed in range(200))
    assert delays[0] < 1
    assert 7 < delays[-1] <= 8


# ---------------------------------------------------------------- every rule has its proof


def rules_on_the_page() -> dict[int, str]:
    text = (TOP / "docs" / "transfer.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {int(number): proof for number, proof in rows}


def rules_with_a_test() -> set[int]:
    found = set()
    for path in (TOP / "tests").rglob("test_*.py"):
        for name in re.findall(r"def test_\w+|id=\"[^\"]+\"", path.read_text()):
            found |= {int(number) for number in re.findall(r"rule_(\d+)", name)}
    return found


def test_every_rule_has_a_test_or_says_why_not():
    proofs = rules_on_the_page()
    tested = {number for number, proof in proofs.items() if re.match(r"tested|partly", proof)}

    assert list(proofs) == list(range(1, 54))
    assert tested == rules_with_a_test()
