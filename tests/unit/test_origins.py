"""Windows, gates and breakers by hand: what is observed of an origin, and what then holds."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd import events
from fetchd.engine import origins as module
from fetchd.engine.origins import (
    COOL_DOWN_S,
    FORGET_OUTAGE_S,
    HALF_LIFE_S,
    TASKS_TO_OPEN,
    Origins,
)
from fetchd.model import (
    Deferred,
    Failure,
    Fetched,
    Interrupted,
    OriginBounds,
    OriginView,
    Repaired,
    RetryPolicy,
    UpToDate,
    Verify,
)
from harness import first_fetch, group, intent_for, spec

A = "https://a.example:443"
POLICY = RetryPolicy(attempts=4, delay_s=2.0, max_delay_s=60.0, max_retry_after_s=3600.0)
STEADY_S = 1_700_000_000.0


def fetched(size_bytes: int = 1_000_000, elapsed_s: float = 2.0, ranges: bool | None = None):
    one = group("g", spec("f"))
    attempt = first_fetch(one, spec("f"), "https://a.example/f")
    intent = replace(intent_for(attempt, size_bytes), elapsed_s=elapsed_s)
    return Fetched(intent=intent, ranges=ranges)


WELL = fetched()
UNCHANGED = UpToDate(size_bytes=1, verified=Verify.LENGTH, digests=(), how="not_modified")
REFUSED = Failure(code="connect_failed", reason="refused", transient=True)


def status(number: int, retry_after_s: float | None = None, **more) -> Failure:
    return Failure(
        code="bad_status",
        reason=f"{number} from it",
        transient=True,
        status=number,
        retry_after_s=retry_after_s,
        **more,
    )


class Hand:
    """Origins and a clock; ``rulings``: the last for each origin."""

    def __init__(self, connections: int = 8, **bounds: OriginBounds) -> None:
        self.now_s = 1000.0
        self.bounds = OriginBounds(connections=connections), bounds
        self.origins = Origins(*self.bounds)
        self.told: list[events.Event] = []
        self.limits: dict[str, int] = {}
        self.shut: dict[str, float] = {}

    def take(self, rulings) -> None:
        for origin, connections, shut_until_s in rulings:
            self.limits[origin] = connections
            self.shut[origin] = shut_until_s

    def begin(self, count: int = 1, origin: str = A) -> list[float]:
        for _ in range(count):
            self.origins.begin(origin, self.now_s)
        return [self.now_s] * count

    def end(self, outcome, began_s: float | None = None, task: int = 1, origin: str = A, **policy):
        rulings = self.origins.note(
            origin,
            task,
            outcome,
            replace(POLICY, **policy),
            began_s=self.now_s if began_s is None else began_s,
            now_s=self.now_s,
            happened=self.told,
        )
        self.take(rulings)

    def beside(self, failure: Failure, began_s: float) -> None:
        """Let one connection fail of an attempt that goes on by others."""
        self.take(
            self.origins.note_connection(
                A, failure, POLICY, began_s=began_s, now_s=self.now_s, happened=self.told
            )
        )

    def one(self, outcome, task: int = 1, **policy) -> None:
        """Let one attempt take a second."""
        (began_s,) = self.begin()
        self.now_s += 1.0
        self.end(outcome, began_s, task, **policy)

    def round(self, outcome=WELL, count: int = 8, task: int = 100) -> None:
        """Let attempts go on together for a second."""
        began = self.begin(count)
        self.now_s += 1.0
        for number, began_s in enumerate(began):
            self.end(outcome, began_s, task + number)

    @property
    def window(self) -> int:
        return self.view().connections

    def view(self, origin: str = A) -> OriginView:
        return next(v for v in self.origins.views(100, self.now_s, 0.0) if v.origin == origin)

    def restart(self, after_s: float = 0.0, wall_s: float = 0.0) -> Hand:
        """Begin another life ``after_s`` later, of whose clock the wall shows ``wall_s`` more."""
        records = [self.origins.record(name, STEADY_S) for name in self.origins._known]
        other = Hand()
        other.bounds = self.bounds
        other.origins = Origins(*self.bounds)
        other.now_s = 50.0
        steady_s = STEADY_S + self.now_s + after_s + wall_s - other.now_s
        other.take(other.origins.load(records, other.now_s, steady_s))
        return other

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def hand() -> Hand:
    return Hand()


# ---------------------------------------------------------------- the window


def test_as_long_as_all_goes_well_the_bound_holds_and_nothing_is_ruled(hand):
    for _ in range(5):
        hand.round()

    assert (hand.window, hand.limits, hand.told) == (8, {}, [])
    assert hand.view().best_connections == 8


@pytest.mark.parametrize("sign", [status(429), status(503), REFUSED])
def test_what_is_too_much_halves_the_window_once_for_all_that_were_under_way(hand, sign):
    hand.round(sign, count=4)

    assert hand.limits == {A: 4}
    (told,) = hand.of(events.OriginWindow)
    assert (told.connections, told.before) == (4, 8)
    assert sign.reason in told.reason
    assert hand.view().window_reason == told.reason

    for _ in range(3):
        hand.now_s += 1
        hand.one(sign)
    assert hand.window == 1


@pytest.mark.parametrize("sign", [status(429), status(503), REFUSED])
def test_an_origin_that_refuses_one_in_ten_however_few_ask_keeps_several_connections(hand, sign):
    windows, number = [], 0
    hand.one(WELL)
    for _ in range(1000):
        began = hand.begin(hand.window)
        hand.now_s += 0.2
        for began_s in began:
            number += 1
            hand.end(WELL if number % 10 else sign, began_s, number)
        windows.append(hand.window)

    assert min(windows) >= 2
    assert sum(windows) / len(windows) > 3


def test_an_origin_that_bears_three_connections_refuses_little_in_the_long_run(hand):
    hand.one(WELL)
    asked = refused = 0
    for second in range(600):
        began = hand.begin(hand.window)
        hand.now_s += 1.0
        for place, began_s in enumerate(began):
            hand.end(WELL if place < 3 else status(429), began_s, asked + place)
        if second >= 60:
            asked, refused = asked + len(began), refused + max(0, len(began) - 3)

    assert 3 * 540 - 60 < asked < 4 * 540
    assert refused < 0.08 * asked


def test_a_window_that_was_halved_is_halved_again_when_more_than_a_quarter_is_refused(hand):
    hand.one(status(503))
    hand.round(count=3)
    hand.one(status(503))
    assert hand.window == 4  # three of four went well
    hand.one(status(503))

    assert hand.window == 2


def test_behind_the_cool_down_one_refusal_halves_the_window(hand):
    hand.one(status(503))
    for _ in range(9):
        hand.round(count=3)
    hand.one(status(503))

    assert hand.window == 2


def test_a_window_comes_back_to_where_it_was_too_much_only_behind_the_cool_down(hand):
    hand.one(status(429))
    for _ in range(int(COOL_DOWN_S) - 1):
        hand.round()
    assert hand.window == 7

    hand.round()
    hand.round()

    assert hand.window == 8


def test_a_round_with_a_refusal_adds_no_connection(hand):
    hand.one(status(429))
    hand.now_s += 0.5
    began = hand.begin(4)
    hand.now_s += 1.0
    for outcome, began_s in zip([WELL, WELL, WELL, status(429)], began, strict=True):
        hand.end(outcome, began_s)
    hand.round(count=3)
    assert hand.window == 4
    hand.one(WELL)

    assert hand.window == 5


@pytest.mark.parametrize("sign", [status(404), status(500), status(502)])
def test_other_failures_leave_the_window_alone(hand, sign):
    hand.one(sign)

    assert hand.limits == {}


def test_a_round_of_successes_that_filled_the_window_adds_one_connection(hand):
    hand.one(status(429))
    hand.round(count=3)
    assert hand.window == 4
    hand.round(count=4)
    assert hand.limits == {A: 5}
    for _ in range(3):
        hand.round(count=4)
    assert hand.window == 5  # they did not fill it
    for _ in range(40):
        hand.round()

    assert hand.limits == {A: 8}
    assert [(w.before, w.connections) for w in hand.of(events.OriginWindow)] == [(8, 4), (7, 8)]
    assert hand.view().window_reason == ""


def test_an_origin_of_its_own_bounds_keeps_within_them():
    hand = Hand(8, **{A: OriginBounds(connections=2, by="origins")})
    hand.one(status(429))
    assert hand.window == 1
    hand.now_s += COOL_DOWN_S

    for _ in range(9):
        hand.round()

    view = hand.view()
    assert (view.connections, view.most_connections, view.bound_by) == (2, 2, "origins")


# ---------------------------------------------------------------- the gate


@pytest.mark.parametrize("number", [429, 503, 500, 403, 404])
def test_an_answer_that_asks_for_it_shuts_the_origin_until_then(hand, number):
    hand.one(status(number, retry_after_s=30))

    assert hand.shut == {A: hand.now_s + 30}
    (told,) = hand.of(events.OriginShut)
    assert (told.cause, told.delay_s) == ("asked", 30)
    assert (hand.view().shut_until_s, hand.view().retry_after_s) == (hand.now_s + 30, 30)


def test_a_wish_is_capped_by_the_policy(hand):
    hand.one(status(429, retry_after_s=1e9), max_retry_after_s=60)

    assert hand.shut == {A: hand.now_s + 60}


def test_a_shorter_wish_never_opens_a_gate_early(hand):
    hand.begin(2)
    hand.end(status(429, retry_after_s=30))
    until_s = hand.shut[A]
    hand.end(status(429, retry_after_s=1))

    assert hand.shut == {A: until_s}
    assert len(hand.of(events.OriginShut)) == 1


def test_what_went_well_meanwhile_does_not_open_a_gate(hand):
    hand.begin(2)
    hand.end(status(429, retry_after_s=30))
    until_s = hand.shut[A]
    hand.end(WELL)

    assert hand.shut == {A: until_s}


def test_a_failure_without_an_answer_shuts_nothing(hand):
    hand.one(replace(REFUSED, retry_after_s=900))

    assert hand.shut.get(A, 0.0) <= hand.now_s


def test_it_is_told_when_the_time_of_a_gate_is_over(hand):
    hand.one(status(429, retry_after_s=30))
    early = hand.origins.tick(hand.now_s + 29.9)
    late = hand.origins.tick(hand.now_s + 30)
    again = hand.origins.tick(hand.now_s + 31)

    assert (early, again) == ([], [])
    assert late == [events.OriginOpened(origin=A, worn=False)]


def test_who_answers_behind_a_redirect_and_the_door_to_it_are_both_left_alone(hand):
    hand.one(status(429, retry_after_s=30, origin="https://cdn.example:443"))

    assert hand.shut == dict.fromkeys([A, "https://cdn.example:443"], hand.now_s + 30)
    assert hand.window == 8


@pytest.mark.parametrize("sign", [status(429), status(503), REFUSED], ids=["429", "503", "refused"])
def test_a_connection_beside_others_that_is_too_much_halves_the_window_once(hand, sign):
    hand.begin()
    began_s = hand.now_s
    hand.now_s += 1
    for _ in range(3):
        hand.beside(sign, began_s)
    assert hand.limits[A] == 4
    hand.beside(sign, hand.now_s + 1)
    assert hand.limits[A] == 2
    hand.now_s += COOL_DOWN_S
    hand.end(WELL)
    assert hand.view().breaker == "closed"


def test_connections_beside_others_never_open_the_breaker(hand):
    for task in range(3 * TASKS_TO_OPEN):
        hand.begin()
        hand.beside(status(503), hand.now_s)
        hand.end(Interrupted(), task=task)
        hand.now_s += 1
    assert hand.view().breaker == "closed"


def test_a_wish_that_one_of_several_connections_meets_shuts_the_origin(hand):
    hand.begin()
    hand.beside(status(429, 30.0), hand.now_s)
    assert hand.shut[A] == hand.now_s + 30
    hand.beside(status(429, 50.0, origin="https://cdn.example:443"), hand.now_s)
    assert hand.shut == {A: hand.now_s + 50, "https://cdn.example:443": hand.now_s + 50}


def test_what_a_connection_beside_others_meets_otherwise_says_nothing(hand):
    hand.begin()
    hand.beside(status(403), hand.now_s)
    hand.beside(Failure(code="short_body", reason="cut", transient=True), hand.now_s)
    assert hand.limits == {}


def test_a_quota_that_is_used_up_shuts_the_origin_too(hand):
    rulings = hand.origins.leave_alone([A], 12.0, "quota", POLICY, hand.now_s, hand.told)
    hand.take(rulings)

    assert hand.shut == {A: hand.now_s + 12}
    assert hand.window == 8


# ---------------------------------------------------------------- the breaker

DEAD = Failure(code="dns_failed", reason="no such host", transient=True)


def broken(hand: Hand, failure: Failure = DEAD) -> None:
    for task in range(TASKS_TO_OPEN):
        hand.one(failure, task)


def test_one_task_alone_never_opens_the_breaker(hand):
    for _ in range(50):
        hand.one(DEAD, task=7)

    assert hand.limits == {}


@pytest.mark.parametrize(
    "failure",
    [
        DEAD,
        REFUSED,
        *(
            Failure(code=code, reason="r", transient=True)
            for code in ("tls_broken", "proxy_failed")
        ),
        *(status(number) for number in (500, 502, 503, 504)),
    ],
)
def test_tasks_that_fail_in_a_row_for_its_fault_open_it(hand, failure):
    broken(hand, failure)

    assert hand.limits[A] == 1
    assert hand.shut[A] == hand.now_s + POLICY.delay_s
    told = hand.of(events.OriginShut)[-1]
    assert (told.cause, told.delay_s) == ("failing", POLICY.delay_s)
    assert hand.view().breaker == "open"


@pytest.mark.parametrize(
    "failure",
    [
        status(404),
        status(501),
        *(
            Failure(code=code, reason="r", transient=True)
            for code in ("checksum_mismatch", "stalled", "short_body", "disk_error", "worker_died")
        ),
        Failure(code="dns_failed", reason="r", transient=False),
    ],
)
def test_what_is_not_the_fault_of_the_origin_as_such_opens_nothing(hand, failure):
    broken(hand, failure)

    assert hand.shut == {}


@pytest.mark.parametrize("between", [WELL, UNCHANGED, status(404)])
def test_an_answer_in_between_begins_the_count_anew(hand, between):
    for task in range(TASKS_TO_OPEN - 1):
        hand.one(DEAD, task)
    hand.one(between)
    for task in range(TASKS_TO_OPEN - 1):
        hand.one(DEAD, task)

    assert hand.limits == {}


def test_its_pauses_grow_as_those_of_a_task(hand):
    broken(hand)
    pauses = [hand.shut[A] - hand.now_s]
    for task in range(2):
        hand.now_s = hand.shut[A]
        assert hand.view().breaker == "half_open"
        hand.one(DEAD, task)
        pauses.append(hand.shut[A] - hand.now_s)

    assert pauses == [2, 4, 8]


def test_attempts_that_were_under_way_when_it_opened_do_not_lengthen_the_pause(hand):
    began = hand.begin(3)
    broken(hand)
    until_s = hand.shut[A]
    for began_s in began:
        hand.end(DEAD, began_s, task=9)

    assert hand.shut[A] == until_s


def test_a_probe_that_is_answered_closes_it(hand):
    broken(hand)
    hand.now_s = hand.shut[A]
    hand.one(WELL)

    assert (hand.limits[A], hand.shut[A]) == (8, 0.0)
    assert hand.view().breaker == "closed"
    assert hand.told[-1] == events.OriginOpened(origin=A, worn=False)


def test_behind_an_outage_the_window_is_at_least_half_of_what_it_was_and_grows_at_once(hand):
    for task in range(TASKS_TO_OPEN):
        hand.now_s += 1
        hand.one(REFUSED, task)
    shut = hand.window
    hand.now_s = hand.shut[A]
    hand.one(WELL)
    assert (shut, hand.window) == (1, 4)

    hand.round(count=4)
    assert hand.window == 5


@pytest.mark.parametrize("end", [Interrupted(), Deferred(reason="disk", detail="", delay_s=1)])
def test_a_probe_that_found_nothing_out_is_followed_by_another(hand, end):
    broken(hand)
    until_s = hand.now_s = hand.shut[A]
    hand.one(end)

    assert (hand.limits[A], hand.shut[A]) == (1, until_s)


def test_when_it_has_failed_as_often_as_a_task_may_the_tasks_go_on_by_themselves(hand):
    broken(hand)
    for task in range(POLICY.attempts - 1):
        hand.now_s = hand.shut[A]
        hand.one(DEAD, task)

    assert (hand.limits[A], hand.shut[A]) == (8, 0.0)
    assert hand.told[-1] == events.OriginOpened(origin=A, worn=True)
    broken(hand)
    assert hand.shut[A] == 0.0


def test_another_outage_is_another_matter(hand):
    broken(hand)
    for task in range(POLICY.attempts - 1):
        hand.now_s = hand.shut[A]
        hand.one(DEAD, task)
    hand.now_s += FORGET_OUTAGE_S + 1
    broken(hand)

    assert hand.shut[A] == hand.now_s + POLICY.delay_s


# ---------------------------------------------------------------- what is learned


def test_means_follow_what_comes(hand):
    for _ in range(3):
        hand.one(fetched(2_000_000, 1.0))
    hand.one(fetched(1000, 1.0))  # says nothing of the speed
    hand.one(Failure(code="stalled", reason="r", transient=True))

    view = hand.view()
    assert view.bytes_per_s == 2_000_000
    assert view.stall_rate == 0.2


def test_the_speed_of_a_repair_is_not_that_of_its_origin(hand):
    repaired = Repaired(compared_bytes=1_000_000, replaced_bytes=1)
    hand.one(replace(fetched(1_000_000, 50.0), repaired=repaired))

    assert hand.view().bytes_per_s is None


def test_ranges_are_as_they_were_seen_last(hand):
    hand.one(WELL)
    unknown = hand.view().ranges
    hand.one(fetched(ranges=True))
    hand.one(WELL)

    assert (unknown, hand.view().ranges) == (None, True)


def test_files_of_this_machine_are_no_origin_that_anything_is_learned_of(hand):
    for task in range(9):
        hand.begin(origin="file://")
        hand.end(REFUSED, task=task, origin="file://")

    assert hand.limits == {}
    assert hand.origins.views(9, hand.now_s, 0.0) == ()


# ---------------------------------------------------------------- another life


def test_a_gate_survives_a_restart(hand):
    hand.one(status(429, retry_after_s=30))

    other = hand.restart(after_s=10)

    assert other.shut == {A: other.now_s + 20}
    assert other.restart(after_s=21).view().shut_until_s is None


def test_a_clock_set_back_between_two_lives_makes_no_gate_longer(hand):
    hand.one(status(429, retry_after_s=30))

    assert hand.restart(wall_s=-1e6).shut == {A: 80.0}


def test_an_open_breaker_survives_a_restart_with_its_count(hand):
    broken(hand)
    hand.now_s = hand.shut[A]
    hand.one(DEAD)

    other = hand.restart(after_s=1)

    assert (other.limits[A], other.shut[A]) == (1, other.now_s + 3)
    other.now_s = other.shut[A]
    other.one(DEAD)
    assert other.shut[A] == other.now_s + 8


def test_a_window_that_was_halved_comes_back_with_time(hand):
    hand.round(status(429))
    hand.now_s += 1
    hand.round(status(429))
    assert hand.window == 2

    assert hand.restart().window == 2
    assert hand.restart(after_s=HALF_LIFE_S).window == 5
    assert hand.restart(after_s=5 * HALF_LIFE_S).window == 8


def test_what_changed_is_recorded_once(hand):
    hand.one(WELL)
    records, _ = hand.origins.take_records(STEADY_S)
    again, _ = hand.origins.take_records(STEADY_S)

    assert [(r.origin, r.samples, r.seen_at_s) for r in records] == [(A, 1.0, STEADY_S + 1001)]
    assert again == []


def test_only_so_many_origins_are_known_and_the_shut_ones_stay(hand, monkeypatch):
    monkeypatch.setattr(module, "MOST_KNOWN", 10)
    hand.one(status(429, retry_after_s=1000))
    for number in range(50):
        hand.begin(origin=f"http://h{number}:80")
        hand.end(WELL, origin=f"http://h{number}:80")

    assert len(hand.origins._known) == 10
    assert hand.view().shut_until_s is not None
    records, forgotten = hand.origins.take_records(0.0)
    assert {r.origin for r in records}.isdisjoint(forgotten)


# ---------------------------------------------------------------- any story

outcomes = st.sampled_from(
    [
        WELL,
        UNCHANGED,
        status(404),
        status(429),
        status(429, retry_after_s=5),
        status(503, retry_after_s=90),
        status(500),
        REFUSED,
        DEAD,
        Interrupted(),
        Failure(code="stalled", reason="r", transient=True),
    ]
)
steps = st.lists(
    st.tuples(outcomes, st.integers(0, 8), st.sampled_from([0.0, 0.5, 3.0, 40.0, 700.0])),
    max_size=80,
)


@settings(derandomize=True, max_examples=300)
@given(steps, st.integers(1, 16))
def test_whatever_happens_the_window_is_within_its_bounds_and_no_gate_opens_early(story, most):
    hand = Hand(most)
    asked_s = 0.0
    for outcome, task, later_s in story:
        began_s = hand.now_s
        hand.begin()
        hand.now_s += later_s
        hand.end(outcome, began_s, task)
        if isinstance(outcome, Failure) and outcome.status and outcome.retry_after_s:
            asked_s = max(asked_s, hand.now_s + outcome.retry_after_s)
        hand.told += hand.origins.tick(hand.now_s)

        assert 1 <= hand.window <= most
        assert 1 <= hand.limits.get(A, most) <= most
        if asked_s > hand.now_s:
            assert hand.shut[A] >= asked_s
        assert hand.shut.get(A, 0.0) <= max(asked_s, hand.now_s + POLICY.max_delay_s)
    shut = len(hand.of(events.OriginShut))
    assert len(hand.of(events.OriginOpened)) <= shut


def test_a_decision_costs_less_than_two_microseconds_in_the_best_of_many(hand):
    hand.begin()
    note, begin, told = hand.origins.note, hand.origins.begin, hand.told
    times = []
    for _ in range(200):
        before_s = time.perf_counter()
        for _ in range(100):
            begin(A, 5.0)
            note(A, 1, WELL, POLICY, began_s=5.0, now_s=6.0, happened=told)
        times.append((time.perf_counter() - before_s) / 100)

    assert min(times) < 4e-6  # two decisions, on a machine that may be busy


# ---------------------------------------------------------------- mirrors

B, C = "https://b.example:443", "https://c.example:443"


def known(*speeds: float | None) -> Origins:
    """Origins A, B and C of which so many bytes a second were seen, None: nothing was."""
    origins = Origins(OriginBounds(connections=4, by="x"), {})
    for name, speed in zip((A, B, C), speeds, strict=True):
        if speed is not None:
            origins.begin(name, 0.0)
            outcome = fetched(size_bytes=1_000_000, elapsed_s=1_000_000 / speed)
            origins.note(name, 1, outcome, POLICY, began_s=0.0, now_s=1.0, happened=[])
    return origins


@pytest.mark.parametrize(
    ("speeds", "last", "best"),
    [
        pytest.param((None, None, None), (), A, id="as written"),
        pytest.param((1e6, 2e6, 4e6), (), C, id="the fastest"),
        pytest.param((1e6, 3.5e6, 4e6), (), B, id="nearly as fast, and written before"),
        pytest.param((4e6, None, 8e6), (), B, id="what nothing is known of"),
        pytest.param((1e6, 2e6, 4e6), (C,), B, id="not the banned one"),
        pytest.param((1e6, None, 4e6), (B, C), A, id="not one of the banned ones"),
        pytest.param((1e6, 2e6, 4e6), (A, B, C), C, id="any, where all are banned"),
    ],
)
def test_of_several_mirrors_the_one_that_promises_most_is_chosen(speeds, last, best):
    names = (A, B, C)

    assert names[known(*speeds).best(names, last)] == best


def fails(origins: Origins, name: str, failure: Failure) -> None:
    origins.begin(name, 2.0)
    origins.note(name, 2, failure, POLICY, began_s=2.0, now_s=3.0, happened=[])


@pytest.mark.parametrize("code", ["tls_failed", "address_denied", "bad_framing", "unexpected_html"])
def test_a_mirror_that_is_of_no_use_is_not_taken_for_an_unknown_one(code):
    origins = known(4e6, None, 2e6)
    assert origins.best((A, B, C), ()) == 1

    fails(origins, B, Failure(code=code, reason="r", transient=False))

    assert origins.best((A, B, C), ()) == 0
    assert origins.best((B, C), ()) == 1


def test_the_fastest_mirror_comes_behind_one_that_has_the_files():
    origins = known(8e6, 4e6, None)
    fails(origins, A, status(404))
    assert origins.best((A, B), ()) == 0  # half of its speed is as good

    fails(origins, A, status(404))

    assert origins.best((A, B), ()) == 1


def test_a_mirror_that_asked_to_be_left_alone_comes_behind_the_others():
    origins = known(8e6, 4e6, 1e6)
    origins.leave_alone([A], 60.0, "status 503", POLICY, 2.0, [])

    assert origins.best((A, B, C), ()) == 1
