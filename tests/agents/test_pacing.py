"""The pace of a provider: strict windows, a limit that falls and recovers, and a line without overtaking. A clock by hand."""

from __future__ import annotations

from collections.abc import Iterable

from magdi_ray.agents.pacing import Pace
from magdi_ray.config.engines import Limits


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pace_of(clock: Clock, **limits: int) -> Pace:
    return Pace(Limits(**limits), clock=clock)


def admit(pace: Pace) -> list[object]:
    """Everyone who may go now, on the way."""
    keys: list[object] = []
    while pace.head() is not None and pace.delay() == 0.0:
        keys.append(pace.grant())
        pace.hand_out(keys[-1])
    return keys


def ask(pace: Pace, keys: Iterable[object], tokens: int = 1) -> None:
    for key in keys:
        pace.ask(key, tokens)


def most_within(times: list[float], seconds: float) -> int:
    return max(sum(start <= t < start + seconds for t in times) for start in times)


def test_no_ten_seconds_hold_more_than_a_sixth_of_the_minute() -> None:
    clock, times = Clock(), []
    pace = pace_of(clock, rpm=600, concurrency=1000)
    ask(pace, range(400))
    for _ in range(4000):
        for key in admit(pace):
            times.append(clock.now)
            pace.give_back(key, "ok")
        clock.now += 0.01
    assert len(times) == 400
    assert most_within(times, 10.0) == 100


def test_a_small_limit_counts_over_a_whole_minute() -> None:
    clock = Clock()
    pace = pace_of(clock, rpm=3)
    ask(pace, "abcd")
    assert admit(pace) == ["a", "b", "c"]
    assert 60.0 < pace.delay() < 61.0
    clock.now += pace.delay()
    assert admit(pace) == ["d"]


def test_a_grant_counts_from_the_moment_it_is_handed_out() -> None:
    clock = Clock()
    pace = pace_of(clock, rpm=60, concurrency=100)
    ask(pace, range(11))
    keys = [pace.grant() for _ in range(10)]
    clock.now += 60
    assert pace.delay() > 0
    for key in keys:
        pace.hand_out(key)
    assert 10.0 < pace.delay() < 11.0


def test_tokens_are_reserved_and_corrected() -> None:
    clock = Clock()
    pace = pace_of(clock, tpm=100)
    ask(pace, "abc", tokens=60)
    assert admit(pace) == ["a"]
    pace.give_back("a", "ok", tokens=40)
    assert admit(pace) == ["b"]
    pace.give_back("b", "TimedOut")  # nobody counted: what was reserved stays
    assert pace.delay() > 59
    clock.now += pace.delay()
    assert admit(pace) == ["c"]


def test_a_request_larger_than_the_limit_goes_when_nothing_else_did() -> None:
    clock = Clock()
    pace = pace_of(clock, tpm=100)
    ask(pace, "ab", tokens=500)
    assert admit(pace) == ["a"]
    clock.now += 61
    assert admit(pace) == ["b"]


def test_concurrency_halves_once_for_all_that_were_under_way_and_recovers() -> None:
    pace = pace_of(Clock(), concurrency=16)
    ask(pace, range(17))
    keys = admit(pace)
    assert len(keys) == 16
    for key in keys[:8]:
        pace.give_back(key, "RateLimited")
    assert (pace.concurrency, pace.tally.lowest, pace.tally.rate_limited) == (8, 8, 8)
    assert admit(pace) == []
    for key in keys[8:]:
        pace.give_back(key, "ok")
    assert pace.concurrency == 8  # eight successes add about one
    for key in range(100, 300):
        pace.ask(key, 1)
        for granted in admit(pace):
            pace.give_back(granted, "ok")
    assert pace.concurrency == 16
    assert [limit for _, limit in pace.history] == [16, *range(8, 17)]


def test_each_generation_may_halve_again_down_to_one() -> None:
    pace = pace_of(Clock(), concurrency=4)
    for generation in range(4):
        pace.ask(generation, 1)
        admit(pace)
        pace.give_back(generation, "Overloaded")
    assert (pace.concurrency, pace.tally.overloaded) == (1, 4)


def test_a_provider_that_asks_for_quiet_gets_it_from_everyone() -> None:
    clock = Clock()
    pace = pace_of(clock)
    ask(pace, "ab")
    pace.grant()
    pace.hand_out("a")
    pace.give_back("a", "RateLimited", retry_after_s=7.0)
    assert pace.delay() == 7.0
    clock.now += 7.0
    assert admit(pace) == ["b"]


def test_whoever_leaves_the_line_or_dies_holds_up_nobody() -> None:
    pace = pace_of(Clock(), concurrency=1, rpm=600, tpm=10)
    ask(pace, "abc")
    assert pace.grant() == "a"
    pace.withdraw("b")
    pace.withdraw("a")
    assert admit(pace) == ["c"]
    assert pace.out == 1
