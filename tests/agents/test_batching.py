"""The collector: who shares a batch, who gets which result, who gets which error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from magdi_ray.agents.batching import Collector


class Recorder:
    """Doubles numbers, remembers its batches, and can be held until released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.free.wait(5)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


async def until_busy(work: Recorder, batches: int = 1) -> None:
    while len(work.batches) < batches:
        await asyncio.sleep(0.001)


def test_requests_made_together_share_batches_of_at_most_the_maximum() -> None:
    work = Recorder()

    async def run() -> list[int]:
        collector = Collector(work, max_batch_size=4)
        return await asyncio.gather(*(collector.submit(i) for i in range(10)))

    assert asyncio.run(run()) == [2 * i for i in range(10)]
    assert work.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_everything_that_waits_while_the_engine_is_busy_is_the_next_batch() -> None:
    work = Recorder()

    async def run() -> None:
        collector = Collector(work, max_batch_size=8)
        work.free.clear()
        first = asyncio.create_task(collector.submit(0))
        await until_busy(work)
        rest = [asyncio.create_task(collector.submit(i)) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        work.free.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]

    asyncio.run(run())
    assert work.batches == [[0], [1, 2, 3]]


def test_an_error_reaches_only_the_callers_of_its_batch() -> None:
    work = Recorder()

    async def run() -> list[int | BaseException]:
        collector = Collector(work, max_batch_size=2)
        return await asyncio.gather(*(collector.submit(i) for i in (1, -1, 3, 4)), return_exceptions=True)

    results = asyncio.run(run())
    assert [type(result) for result in results] == [ValueError, ValueError, int, int]
    assert results[2:] == [6, 8]


def test_a_caller_that_left_while_waiting_is_not_worked_for() -> None:
    work = Recorder()

    async def run() -> None:
        collector = Collector(work, max_batch_size=8)
        work.free.clear()
        first = asyncio.create_task(collector.submit(0))
        await until_busy(work)
        gone, stays = (asyncio.create_task(collector.submit(i)) for i in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        work.free.set()
        assert [await first, await stays] == [0, 4]

    asyncio.run(run())
    assert work.batches == [[0], [2]]


def test_a_collector_serves_one_event_loop_after_another() -> None:
    collector = Collector(Recorder(), max_batch_size=8)
    assert [asyncio.run(collector.submit(i)) for i in (1, 2)] == [2, 4]


def test_work_that_loses_a_result_is_an_error_and_not_a_wait() -> None:
    collector: Collector[int, int] = Collector(lambda items: [], max_batch_size=8)
    with pytest.raises(RuntimeError, match="1 items, 0 results"):
        asyncio.run(collector.submit(1))
