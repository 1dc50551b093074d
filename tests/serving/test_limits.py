"""Requests and tokens a minute, by a clock that is set by hand."""

from __future__ import annotations

import pytest

from magdi_ray.config.serving import KeyLimits
from magdi_ray.serving.limits import Account, Limits


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def account(clock: Clock, *, share: int = 1, **limits: int) -> Account:
    return Account(KeyLimits(**limits), share=share, clock=clock)


def test_without_limits_everything_fits(clock: Clock) -> None:
    free = account(clock)
    assert [free.request() for _ in range(1000)] == [None] * 1000
    assert free.reserve(1e9, at_least=1e9) == (0.0, None)
    assert free.headers() == {}


def test_requests_beyond_a_minutes_worth_wait_until_they_fit(clock: Clock) -> None:
    key = account(clock, rpm=3)
    assert [key.request() for _ in range(3)] == [None] * 3
    refusal = key.request()
    assert refusal is not None
    assert (refusal.unit, refusal.limit, refusal.retry_after) == ("requests", 3, 20)
    clock.now += refusal.retry_after
    assert key.request() is None
    assert key.request() is not None


@pytest.mark.parametrize("rpm", [1, 7, 13, 60, 997])
def test_who_waits_as_long_as_told_is_let_in(rpm: int, clock: Clock) -> None:
    key = account(clock, rpm=rpm)
    for _ in range(5 * rpm):
        refusal = key.request()
        if refusal is not None:
            clock.now += refusal.wait_s or 0.0
            assert key.request() is None


def test_tokens_are_reserved_and_settled(clock: Clock) -> None:
    key = account(clock, tpm=100)
    reserved, refusal = key.reserve(80, at_least=80)
    assert (reserved, refusal) == (80, None)
    assert key.reserve(80, at_least=80)[1] is not None
    key.settle(reserved, 10)
    assert key.reserve(80, at_least=80) == (80, None)


def test_what_is_used_beyond_the_estimate_is_owed(clock: Clock) -> None:
    key = account(clock, tpm=60)
    reserved, _ = key.reserve(10, at_least=10)
    key.settle(reserved, 90)
    refusal = key.reserve(1, at_least=1)[1]
    assert refusal is not None
    assert refusal.retry_after == 31  # 30 tokens in debt, and the one asked for
    assert key.headers()["x-ratelimit-remaining-tokens"] == "0"


def test_what_no_minute_holds_is_refused_for_good_but_not_what_only_might_be_so_long(clock: Clock) -> None:
    key = account(clock, tpm=100)
    refusal = key.reserve(500, at_least=101)[1]
    assert refusal is not None
    assert refusal.wait_s is None
    assert key.reserve(500, at_least=50) == (100, None)


def test_doors_share_a_limit(clock: Clock) -> None:
    limits = Limits(doors=4, clock=clock)
    key = limits.account("alice", KeyLimits(rpm=8))
    assert [key.request() is None for _ in range(3)] == [True, True, False]


def test_no_doors_share_is_below_one(clock: Clock) -> None:
    key = Limits(doors=4, clock=clock).account("alice", KeyLimits(rpm=1))
    assert [key.request() is None for _ in range(2)] == [True, False]


def test_each_key_has_an_account_that_lasts_until_its_limits_change(clock: Clock) -> None:
    limits = Limits(clock=clock)
    alice = limits.account("alice", KeyLimits(rpm=1))
    assert limits.account("alice", KeyLimits(rpm=1)) is alice
    assert limits.account("bob", KeyLimits(rpm=1)) is not alice
    assert limits.account("alice", KeyLimits(rpm=2)) is not alice


def test_what_is_left_is_told_under_openais_names(clock: Clock) -> None:
    key = account(clock, rpm=60, tpm=600)
    key.request()
    key.reserve(100, at_least=100)
    assert key.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10s",
    }
