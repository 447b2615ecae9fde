"""The taking of steps: order, time, cancel, what is told."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from fetchd import events
from fetchd.errors import AttemptError
from fetchd.model import Finished, Interrupted
from fetchd.steps import Kind
from harness import FakeClock
from workshop import Workshop, steps_of


def kind(work) -> Kind:
    return Kind(work=work)


@pytest.fixture
def shop(tmp_path):
    made = Workshop(tmp_path)
    yield made
    made.close()


def test_each_step_is_given_what_the_one_before_has_made(tmp_path):
    def twice(bench, options):
        for file in list(bench.files()):
            with bench.open(file.path) as given, bench.make(file.path) as output:
                buffer = memoryview(bytearray(100))
                got = given.readinto(buffer, 0)
                output.write(buffer[:got])
                output.write(buffer[:got])

    shop = Workshop(tmp_path, steps={"mode": kind(twice)})

    assert shop.make("d/a", b"ab", {"mode": "0600"}, {"mode": "0600"}) == {"d/a": b"abababab"}
    heard = [e for e in shop.events if isinstance(e, events.StepStarted | events.StepDone)]
    told = [(type(e), e.step, e.number) for e in heard]
    assert told == [
        (events.StepStarted, "mode", 1),
        (events.StepDone, "mode", 1),
        (events.StepStarted, "mode", 2),
        (events.StepDone, "mode", 2),
    ]
    done = [e for e in heard if isinstance(e, events.StepDone)]
    assert [(e.read_bytes, e.written_bytes) for e in done] == [(2, 4), (4, 8)]
    shop.close()


def test_only_the_step_that_failed_is_taken_again(tmp_path):
    took = []

    def makes(bench, options):
        took.append("makes")
        bench.carry()

    def tells(bench, options):
        took.append("tells")
        if took.count("tells") < 3:
            raise AttemptError("webhook_failed", "no answer", transient=True)
        bench.carry()

    shop = Workshop(tmp_path, steps={"mode": kind(makes), "checksum_file": kind(tells)})
    attempt = shop.verified("a", b"x", steps_of({"mode": "0600"}, "checksum_file"))
    outcomes = [shop.finisher(attempt) for _ in range(3)]

    assert [type(one).__name__ for one in outcomes] == ["Failure", "Failure", "Finished"]
    assert took == ["makes", "tells", "tells", "tells"]
    numbers = [event.number for event in shop.events if isinstance(event, events.StepStarted)]
    assert numbers == [1, 2, 2, 2]
    shop.close()


def test_p06_a_step_that_takes_too_long_ends_at_its_next_call(tmp_path):
    clock = FakeClock()

    def slow(bench, options):
        while True:
            bench.tick()
            clock.advance(1.0)

    shop = Workshop(tmp_path, steps={"mode": kind(slow)}, clock=clock)
    failure = shop.refuse("a", b"x", {"mode": {"mode": "0600", "timeout": "20s"}})

    assert (failure.code, failure.transient) == ("step_timeout", False)
    assert failure.reason == "mode: it took longer than 20 s (its `timeout`)"
    assert clock.monotonic() < 1000 + 22.5
    shop.close()


def test_a_step_that_nobody_wants_any_more_ends_within_a_second(tmp_path):
    clock = FakeClock()
    wanted = [True]
    ticks = []

    def slow(bench, options):
        wanted[0] = False
        while True:
            clock.advance(0.1)
            ticks.append(clock.monotonic())
            bench.tick()

    shop = Workshop(tmp_path, steps={"mode": kind(slow)}, clock=clock, wanted=lambda: wanted[0])
    assert isinstance(shop.finish("a", b"x", {"mode": "0600"}), Interrupted)

    assert len(ticks) <= 10
    assert shop.seen() == {}
    assert len(shop.left()) == 2  # the part, and whose it is
    shop.close()


def test_progress_says_which_step_and_how_much_it_has_read_and_written(tmp_path):
    clock = FakeClock()

    def work(bench, options):
        with bench.open("a") as given, bench.make("b") as output:
            given.readinto(memoryview(bytearray(3)), 0)
            output.write(b"12345")
            clock.advance(1.0)
            bench.tick()

    shop = Workshop(tmp_path, steps={"mode": kind(work)}, clock=clock)
    shop.make("a", b"abc", {"mode": "0600"})

    assert (shop.told[0].step, shop.told[0].received_bytes) == ("mode", 0)
    assert (shop.told[1].received_bytes, shop.told[1].have_bytes) == (3, 5)
    shop.close()


def test_an_error_of_a_step_names_it_and_leaves_the_part(tmp_path):
    def work(bench, options):
        raise AttemptError("step_failed", "no archive")

    shop = Workshop(tmp_path, steps={"mode": kind(work)})
    failure = shop.refuse("a", b"x", {"mode": "0600"})

    assert (failure.code, failure.reason) == ("step_failed", "mode: no archive")
    assert failure.kept
    assert len(shop.left()) == 2  # the part, and whose it is
    shop.close()


def test_a_step_that_a_newer_fetchd_knew_is_refused(tmp_path):
    shop = Workshop(tmp_path, steps={})
    assert shop.refuse("a", b"x", {"mode": "0600"}).code == "step_failed"
    shop.close()


def test_a_part_that_is_gone_is_to_be_fetched_again(shop, tmp_path):
    attempt = shop.verified("a", b"x", steps_of({"mode": "0600"}))
    (tmp_path / ".fetchd/parts" / attempt.intent.part).unlink()

    failure = shop.finisher(attempt)

    assert (failure.code, failure.transient, failure.kept) == ("disk_error", True, False)


def test_a_part_that_another_process_has_open_is_tried_again(shop):
    attempt = shop.verified("a", b"x", steps_of({"mode": "0600"}))
    with shop.disk.open_part("default", "a"):
        failure = shop.finisher(attempt)

    assert (failure.transient, failure.kept) == (True, True)
    assert not isinstance(failure, Finished)


# ---------------------------------------------------------------- mode


@pytest.mark.parametrize(("written", "mode"), [("0600", 0o600), ("644", 0o644)])
def test_mode_is_that_of_the_file(shop, tmp_path, written, mode):
    shop.make("a", b"x", {"mode": written})

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_steps_may_use_all_cores_and_their_thread_comes_home_behind_them(tmp_path):
    class Noted:
        def __init__(self):
            self.calls = []

        def spread(self):
            self.calls.append("spread")

        def gather(self):
            self.calls.append("gather")

    def work(bench, options):
        cores.calls.append("work")
        raise AttemptError("step_failed", "no")

    cores: Any = Noted()
    shop = Workshop(tmp_path, steps={"mode": kind(work)}, cores=cores)
    shop.refuse("a", b"x", {"mode": "0600"})

    assert cores.calls == ["spread", "work", "gather"]
    shop.close()
