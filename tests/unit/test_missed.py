"""The detector of missed events: what it counts, and what it must not count."""

from __future__ import annotations

import pytest

from dropfolder import DropFolder, DumbObserver
from fetchd.events import Event, WatchMissed
from fetchd.folder.missed import GRACE_S, MissedEvents
from harness import FakeClock


class Missed:
    def __init__(self):
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.counter = MissedEvents("/jobs", self.events.append, self.clock)

    def counts(self):
        return [event.count for event in self.events if isinstance(event, WatchMissed)]


@pytest.fixture
def missed():
    return Missed()


def test_what_no_event_announced_is_counted_once_the_grace_is_over(missed):
    missed.counter.announced(["a"])
    missed.counter.found(["a", "b", "c"])
    early = missed.counts()
    due_s = missed.counter.due_s() - missed.clock.monotonic()
    missed.clock.advance(GRACE_S)
    missed.counter.found(None)
    missed.counter.found([])

    assert (early, due_s) == ([], GRACE_S)
    assert missed.counts() == [2]


def test_an_event_that_comes_after_the_scan_is_no_missed_one(missed):
    missed.counter.found(["a"])
    missed.counter.announced(["a"])
    missed.clock.advance(GRACE_S)
    missed.counter.found([])

    assert missed.counts() == []


def test_many_events_of_one_file_and_events_of_files_that_are_gone_do_no_harm(missed):
    missed.counter.announced(["a", "a", "b", "a"])
    missed.counter.found(["a"])
    missed.clock.advance(GRACE_S)
    missed.counter.found(["b"])  # the same name, much later, and unannounced
    missed.clock.advance(GRACE_S)
    missed.counter.found([])

    assert missed.counts() == [1]


def test_between_two_scans_announcements_are_kept(missed):
    missed.counter.announced(["a"])
    missed.counter.found(None)
    missed.counter.found(["a"])
    missed.clock.advance(GRACE_S)
    missed.counter.found([])

    assert missed.counts() == []


def test_a_new_watch_begins_with_no_suspects(missed):
    missed.counter.found(["a"])
    missed.counter.forget()
    missed.clock.advance(GRACE_S)
    missed.counter.found([])

    assert missed.counts() == []


# ---------------------------------------------------------------- in the folder


def told(drop):
    return [event.count for event in drop.told(WatchMissed)]


def announce(drop, *names):
    drop.folder._watch._announced.extend(names)


@pytest.fixture
def drop(tmp_path):
    made = DropFolder(tmp_path)
    made.drop("early.yaml")
    made.turn()
    return made


def test_files_that_were_there_at_the_start_were_not_missed(drop):
    drop.turns(20)

    assert drop.accepted() == ["early.yaml"]
    assert told(drop) == []


def test_f14_a_file_that_only_the_scan_found_is_told_though_it_is_gone_by_then(drop):
    drop.drop("a.yaml", "name: a\n")
    drop.drop("b.yaml", "name: b\n")
    announce(drop, "b.yaml")

    drop.turns(20)

    assert drop.accepted() == ["early.yaml", "a.yaml", "b.yaml"]
    assert told(drop) == [1]


def test_the_watch_asks_for_a_look_when_a_suspect_is_due(drop):
    drop.engine.end("early")
    drop.turns()
    drop.drop("a.yaml", "bad")

    wait_s = drop.turn()

    assert wait_s <= GRACE_S


def test_an_edit_and_our_own_moves_are_not_missed_events(drop):
    path = drop.drop("a.yaml", "name: a\n")
    announce(drop, "a.yaml")
    drop.system.before["rename_new"] = lambda: drop.drop("a.yaml", "name: a\nnewer: 1\n")
    drop.turn()  # moved to active and back, because another file had come
    path.write_text("name: a\nnewest: 1\n")
    drop.turns(20)
    drop.engine.end("early")
    drop.turns(20)

    assert told(drop) == []


def test_without_a_watch_nothing_can_be_missed(tmp_path):
    class NoneLeft(DumbObserver):
        error = OSError(28, "no room")

    drop = DropFolder(tmp_path, observe=NoneLeft)
    drop.turn()
    drop.drop("a.yaml")
    drop.turns(20)

    assert drop.accepted() == ["a.yaml"]
    assert told(drop) == []


def test_a_folder_that_could_not_be_read_for_a_while_makes_no_false_alarm(drop):
    drop.drop("plain.txt", "")
    announce(drop, "plain.txt")
    drop.turn()
    entries, drop.folder._places.entries = drop.folder._places.entries, _denied

    drop.turns(3)
    drop.folder._places.entries = entries
    drop.turns(20)

    assert told(drop) == []


def _denied(place):
    raise PermissionError(13, "Permission denied")
