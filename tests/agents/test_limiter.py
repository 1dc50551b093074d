"""Admission for several workers: strict limits, coalesced exchanges, leases that end with their worker, budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import ray

from magdi_ray.agents.admission import Desk, LocalLimiter, Outcome
from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.budget import Budget, Spend
from magdi_ray.agents.failures import BudgetSpent
from magdi_ray.agents.limiter import Leases, LimiterClient, start_limiter
from magdi_ray.agents.metered import MeteredEngine
from magdi_ray.config.engines import Limits

OK = Outcome("ok", 10, 5, 0.1)


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def leases_of(clock: Clock, budget: Budget | None = None, **limits: int) -> tuple[Leases, Desk]:
    desk = Desk({"p": Limits(**limits)}, budget=budget, clock=clock)
    return Leases(desk, clock=clock), desk


def asks(*numbers: int, provider: str | None = "p") -> list[tuple[int, str | None, str, int, float]]:
    return [(number, provider, "ada", 10, 1.0) for number in numbers]


def test_workers_are_served_in_the_order_they_came() -> None:
    leases, _ = leases_of(Clock(), concurrency=2)
    assert leases.exchange("x", asks(1, 2), []).granted == [1, 2]
    assert leases.exchange("y", asks(1), []).granted == []
    assert leases.exchange("x", asks(3), [(1, "p", "ada", OK)]).granted == []
    assert leases.exchange("y", [], []).granted == [1]


def test_what_a_dead_worker_held_is_free_again_and_its_cost_counts_as_used() -> None:
    clock = Clock()
    leases, desk = leases_of(clock, Budget(usd=2.5), concurrency=1)
    assert leases.exchange("dead", asks(1, 2), []).granted == [1]
    assert leases.exchange("alive", asks(1), []).granted == []
    clock.now = 29.0
    assert leases.exchange("alive", [], []).granted == []
    clock.now = 31.0
    assert leases.exchange("alive", [], []).granted == [1]
    assert leases.exchange("alive", asks(2), [(1, "p", "ada", Outcome("ok", usd=1.0))]).refused == [2]
    assert desk.read()["spend"] == {"ada": Spend(1, 0, 0, 1.0)}


def test_a_worker_that_was_given_up_learns_that_it_has_to_ask_anew() -> None:
    clock = Clock()
    leases, desk = leases_of(clock, concurrency=1)
    leases.exchange("slow", asks(1, 2), [])
    clock.now = 31.0
    leases.exchange("other", [], [])
    answer = leases.exchange("slow", [], [(1, "p", "ada", OK)])
    assert (answer.fresh, answer.granted) == (True, [])
    assert leases.exchange("slow", asks(2), []).granted == [2]
    assert desk.read()["spend"]["ada"].calls == 1


def test_a_provider_without_limits_is_a_mistake_of_whoever_built_it() -> None:
    async def run() -> None:
        with pytest.raises(LookupError, match=r"No limits are known for provider 'q', only for \['p'\]"):
            await LocalLimiter({"p": Limits()}).enter("q", "ada", tokens=1, usd=0.0)

    asyncio.run(run())


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def run() -> None:
        limiter = LocalLimiter({"p": Limits(concurrency=1)})
        first = await limiter.enter("p", "ada", tokens=1, usd=0.0)
        waiting = asyncio.create_task(limiter.enter("p", "ada", tokens=1, usd=0.0))
        await asyncio.sleep(0)
        waiting.cancel()
        limiter.leave(first, OK)
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(limiter.enter("p", "ada", tokens=1, usd=0.0), 1)
        assert limiter.read()["spend"]["ada"].calls == 1

    asyncio.run(run())


def test_an_engine_of_our_own_spends_tokens_of_the_budget() -> None:
    class Engine:
        async def generate(self, messages: Any, sampling: Sampling) -> Reply:
            return Reply("4", 5, 20, None, "stop", "ada")

    async def run() -> None:
        limiter = LocalLimiter(budget=Budget(tokens=100))
        engine = MeteredEngine(Engine(), limiter, "ada")
        asked = [Message("user", "2 + 2?")]
        for _ in range(3):
            await engine.generate(asked, Sampling(max_tokens=20))
        with pytest.raises(BudgetSpent, match="budget of 100 tokens is spent"):
            await engine.generate(asked, Sampling(max_tokens=20))
        assert limiter.read()["spend"]["ada"] == Spend(3, 15, 60)
        assert limiter.read()["stopped"]

    asyncio.run(run())


@pytest.fixture
def actors(ray_cluster: None) -> Iterator[list[Any]]:
    """Actors put in here are killed afterwards."""
    started: list[Any] = []
    yield started
    for actor in started:
        ray.kill(actor)


@pytest.mark.cluster
def test_a_thousand_calls_cost_a_hundred_exchanges(actors: list[Any]) -> None:
    actors.append(start_limiter({"p": Limits(concurrency=200)}, spent={"ada": Spend(1)}))

    async def run() -> LimiterClient:
        client = LimiterClient(actors[0], "w")

        async def call() -> None:
            ticket = await client.enter("p", "ada", tokens=10, usd=0.0)
            await asyncio.sleep(0.01)
            client.leave(ticket, OK)

        await asyncio.gather(*(call() for _ in range(1000)))
        await client.flush()
        return client

    client = asyncio.run(run())
    assert client.exchanges <= 100
    assert ray.get(actors[0].read.remote())["spend"]["ada"] == Spend(1001, 10000, 5000, pytest.approx(100.0))


@pytest.mark.cluster
def test_without_a_budget_engines_of_our_own_wait_for_nobody(actors: list[Any]) -> None:
    actors.append(start_limiter({}))

    async def run() -> tuple[int, int]:
        client = LimiterClient(actors[0], "w")
        client.leave(await client.enter(None, "ada", tokens=1, usd=0.0), OK)  # learns that there is none
        before = client.exchanges
        tickets = [await client.enter(None, "ada", tokens=1, usd=0.0) for _ in range(100)]
        after = client.exchanges
        for ticket in tickets:
            client.leave(ticket, OK)
        await client.flush()
        return before, after

    before, after = asyncio.run(run())
    assert after == before
    assert ray.get(actors[0].read.remote())["spend"]["ada"].calls == 101


@pytest.mark.cluster
def test_a_spent_budget_and_a_dead_limiter_reach_whoever_waits(actors: list[Any]) -> None:
    actors.append(start_limiter({"p": Limits()}, budget_usd=1.0))

    async def run() -> None:
        client = LimiterClient(actors[0], "w")
        client.leave(await client.enter("p", "ada", tokens=1, usd=0.6), Outcome("ok", usd=0.6))
        with pytest.raises(BudgetSpent, match=r"budget of \$1\.0000 is spent: \$0\.6000 so far"):
            await client.enter("p", "ada", tokens=1, usd=0.6)
        ray.kill(actors.pop())
        with pytest.raises(Exception, match="limiter of this run is gone"):
            await client.enter("p", "ada", tokens=1, usd=0.1)

    asyncio.run(run())


@ray.remote(num_cpus=0.5)
def flood(actor: Any, worker: str, seconds: float) -> list[float]:
    """Send as fast as admitted, from a process of its own; the times of sending."""

    async def run() -> list[float]:
        client, times, end = LimiterClient(actor, worker), [], time.time() + seconds

        async def caller() -> None:
            while time.time() < end:
                ticket = await client.enter("p", "ada", tokens=1, usd=0.0)
                times.append(time.time())
                client.leave(ticket, Outcome("ok", 1))

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await asyncio.wait(callers, timeout=seconds + 1)
        return times

    return asyncio.run(run())


@pytest.mark.cluster
def test_four_workers_together_keep_the_providers_window(actors: list[Any]) -> None:
    actors.append(start_limiter({"p": Limits(rpm=600)}))
    times = sorted(chain(*ray.get([flood.remote(actors[0], f"w{i}", 12.0) for i in range(4)])))
    most = max(sum(start <= t < start + 10.0 for t in times) for start in times)
    assert most == 100
    assert len(times) > 100


def test_an_exchange_whose_answer_got_lost_is_answered_again_and_counted_once() -> None:
    leases, desk = leases_of(Clock(), concurrency=2)
    first = leases.exchange("x", asks(1, 2, 3), [], serial=1)
    assert leases.exchange("x", asks(1, 2, 3), [], serial=1) == first
    done = [(1, "p", "ada", OK)]
    assert leases.exchange("x", [], done, serial=2).granted == [3]
    assert leases.exchange("x", [], done, serial=2).granted == [3]
    assert desk.read()["spend"]["ada"].calls == 1
    assert desk.paces["p"].out == 2


def test_a_grant_nobody_was_told_of_costs_nothing() -> None:
    clock = Clock()
    leases, desk = leases_of(clock, Budget(usd=1.5), concurrency=1)
    leases.exchange("told", asks(1), [])
    leases.exchange("untold", asks(1), [])
    leases.exchange("told", [], [(1, "p", "ada", Outcome("unsent"))])  # which grants the other's call, and does not say so yet
    clock.now = 31.0
    leases.expire()
    assert desk.paces["p"].out == 0
    assert desk.read()["wasted"] == {}
    assert leases.exchange("new", asks(1), []).granted == [1]


def test_what_a_failed_call_cost_is_known_apart() -> None:
    leases, desk = leases_of(Clock(), concurrency=2)
    leases.exchange("x", asks(1, 2), [])
    leases.exchange("x", [], [(1, "p", "ada", OK), (2, "p", "ada", Outcome("TimedOut", 7, 0, 0.2))])
    assert desk.read()["wasted"] == {"ada": Spend(1, 7, 0, 0.2)}
