"""The soak fails on what grows, and on nothing else."""

from __future__ import annotations

import random

from faults.soak import Lives, Sample


def sample(at_s: float, life: int = 1, **figures: float) -> Sample:
    usual = {"rss_mib": 70.0, "fds": 30, "threads": 20, "db_bytes": 0, "queue_age_s": 2.0}
    figures = usual | {"db_new_bytes": 0, "files": int(at_s * 10)} | figures
    return Sample(at_s=at_s, life=life, **figures)  # type: ignore[arg-type]


def test_noise_and_a_peak_are_no_growth():
    dice = random.Random(1)
    samples = [
        sample(2.0 * n, rss_mib=70 + dice.uniform(-2, 2), fds=30 + dice.randint(-9, 9))
        for n in range(300)
    ]
    samples[150] = sample(300.0, rss_mib=200.0, fds=90, queue_age_s=50.0)

    assert list(Lives(samples).verdict()) == []


def test_p23_what_grows_steadily_is_found():
    samples = [sample(2.0 * n, rss_mib=70 + n / 30, fds=30 + n // 40) for n in range(300)]

    found = list(Lives(samples).verdict())

    assert [line.split()[0] for line in found] == ["own_mib", "fds"]


def test_what_chance_explains_in_a_short_time_is_no_growth():
    dice = random.Random(2)
    samples = [sample(2.0 * n, fds=dice.randint(20, 40) + n // 4) for n in range(20)]
    lives = Lives(samples)

    grown, error = lives.growth("fds")

    assert grown > 4
    assert error > 2
    assert list(lives.verdict()) == []


def test_growth_is_within_a_life_a_new_one_begins_anew():
    lives = Lives(
        sample(100.0 * life + n, life, rss_mib=70 + n / 10) for life in (1, 2, 3) for n in range(91)
    )

    assert lives.span_s == 60.0
    grown, error = lives.growth("rss_mib")
    assert (round(grown, 6), round(error, 6)) == (6.0, 0.0)


def test_the_first_minute_of_a_life_is_warm_up_and_a_third_of_a_short_one():
    long, short = (
        Lives(sample(100.0 + 10 * n, rss_mib=10.0 * n) for n in range(count)) for count in (20, 10)
    )

    assert min(long.values("rss_mib")) == 60.0
    assert min(short.values("rss_mib")) == 30.0


def test_the_database_may_grow_with_its_tasks_and_sqlite_may_cache_it():
    def grown(bytes_each: int) -> Lives:
        return Lives(
            sample(
                2.0 * n,
                db_bytes=n * bytes_each,
                db_new_bytes=n * bytes_each,
                rss_mib=70 + min(n * bytes_each, 16 * 2**20) * 1.1 / 2**20,
            )
            for n in range(300)
        )

    assert list(grown(40_000).verdict()) == []
    assert [line.split()[1] for line in grown(80_000).verdict()] == ["database"]
