"""A collector turns concurrent single requests into batches for one worker that can do only one thing at a time.

It never waits for company: whatever is waiting when the worker becomes free is the next batch. It knows nothing of models.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Collector(Generic[Item, Result]):
    """Runs a blocking `work(items) -> results` in one thread of its own, on batches of concurrently submitted items."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], *, max_batch_size: int) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, found {max_batch_size}")
        self._work = work
        self._max_batch_size = max_batch_size
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._consumer: asyncio.Task[None] | None = None
        # One thread, also across event loops: a batch whose loop was closed still finishes before the next one starts.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collector")

    async def submit(self, item: Item) -> Result:
        """The result for `item`. An exception raised by `work` reaches exactly the callers of that batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if self._consumer is None or self._consumer.done() or self._consumer.get_loop() is not loop:
            self._waiting.clear()  # what a closed loop left behind has nobody waiting for it
            self._consumer = loop.create_task(self._consume())
        self._waiting.append((item, future))
        return await future

    async def _consume(self) -> None:
        """Ends when nothing waits, so that no task outlives its work; the next `submit` starts another."""
        loop = asyncio.get_running_loop()
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        try:
            while batch := self._take():
                items = [item for item, _ in batch]
                try:
                    results = await loop.run_in_executor(self._thread, self._work, items)
                    if len(results) != len(items):
                        raise RuntimeError(f"work must give one result an item: {len(items)} items, {len(results)} results")
                except Exception as error:
                    _fail(batch, error)
                else:
                    for (_, future), result in zip(batch, results, strict=True):
                        if not future.done():
                            future.set_result(result)
        except BaseException:  # the loop is closing: whoever waits is released
            for _, future in [*batch, *self._waiting]:
                future.cancel()
            raise

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next batch, in order of arrival; callers that were cancelled while waiting are skipped."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch


def _fail(batch: Sequence[tuple[Item, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
