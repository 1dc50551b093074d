"""An engine on local weights whose batch is never closed: a row leaves at its own end, and whatever waits takes its place.

The loop is transformers' continuous batching; this module feeds it and hands out what comes back. It knows nothing of padding
or attention masks. Replies are those of the dynamic engine at temperature 0, stop strings and confidence included. What cannot
be kept is a seed for each request (the loop draws for all rows from one stream): a temperature above 0 is refused, not ignored.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import ceil, exp
from typing import Any

from transformers import ContinuousBatchingConfig

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.transformers import Request, TransformersAgent, decode_text, has_stop
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import EngineError

logger = logging.getLogger(__name__)

PAGE = 256
"""Tokens of one row that the cache stores together."""

ROW = 2048
"""Tokens of prompt and reply for which every row of a full batch has room; longer rows take the room of others."""

STEP = 512
"""Tokens read in one step, at most: a longer prompt is read in several, between the other rows' next tokens."""


class ContinuousAgent(TransformersAgent):
    """Decodes with transformers' continuous batching, greedily, on one device."""

    def __init__(self, config: TransformersEngine, *, device: str | None = None) -> None:
        """Load weights and tokenizer, and reserve the cache; see `TransformersAgent`.

        Raises:
            ConfigError: files are missing.
            EngineError: the model cannot be loaded or batched continuously, or its cache does not fit into memory.
        """
        super().__init__(config, device=device)
        blocks = cache_blocks(config.max_batch_size, self.context_length)
        # A row that outgrows the whole cache would end the loop for all.
        self.context_length = min(self.context_length or blocks * PAGE, blocks * PAGE)
        settings = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=blocks,
            max_batch_tokens=max(STEP, config.max_batch_size),
            max_requests_per_batch=config.max_batch_size,
            return_logprobs=True,
            auto_switch_to_flash=self.device.type == "cuda",
        )
        try:
            manager = self.model.init_continuous_batching(copy(self._generation), settings)
            manager.warmup()  # makes the cache, so that what is lacking is said now
        except Exception as error:  # transformers raises what it likes
            raise EngineError(
                f"{config.model} cannot be batched continuously: {type(error).__name__}: {error}. Use batching: dynamic, or a "
                f"max_batch_size below {config.max_batch_size} where memory is short."
            ) from error
        self._desk = Desk(manager, partial(decode_text, self.tokenizer))
        self.close = weakref.finalize(self, self._desk.close)
        """Ends the loop; what still waits fails. Called by itself when the engine, or the process, ends."""

    def _request(self, messages: Sequence[Message], sampling: Sampling) -> Request:
        if sampling.temperature > 0.0:
            raise EngineError(
                f"Continuous batching decodes greedily, found temperature {sampling.temperature}: it has no seed for each "
                "request. Set batching: dynamic, or temperature: 0.0."
            )
        return super()._request(messages, sampling)

    async def _decode(self, request: Request) -> Reply:
        written = await self._desk.submit(request)
        if written.error is not None:
            raise EngineError(f"{self.config.model} could not decode: {written.error}")
        return self._reply(request, written.generated_tokens, [exp(logprob) for logprob in written.logprobs])


def cache_blocks(rows: int, context_length: int | None) -> int:
    """Pages of cache: room for all rows at `ROW` tokens each, and for one row as long as the context."""
    row = min(context_length or ROW, ROW)
    return max(rows * ceil(row / PAGE), ceil((context_length or 0) / PAGE))


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for one request, and on which event loop."""

    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    stops: tuple[str, ...]

    def settle(self, give: Callable[..., None], outcome: object) -> None:
        """Hand over a result or an error from another thread; a caller who left is passed over."""
        try:
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else give(outcome))
        except RuntimeError:
            logger.debug("A caller's event loop was closed before its reply came.")


class Desk:
    """Takes requests to the loop and results back to their callers. Its threads never keep a process alive."""

    def __init__(self, manager: Any, decode: Callable[[list[int]], str]) -> None:
        self._manager = manager
        self._decode = decode
        self._names = map(str, count())
        self._waiting: dict[str, Waiter] = {}
        self._lock = threading.Lock()
        self._results: threading.Thread | None = None
        """Hands out what the loop wrote; None before the first request, and after the loop died."""
        self._closed = False

    async def submit(self, request: Request) -> Any:
        """The loop's output for one request: `generated_tokens`, their `logprobs`, and an `error` or None."""
        while (entered := self._enter(request)) is None:
            await asyncio.sleep(0.01)  # the loop just died; the next one starts when its requests have been failed
        name, waiter = entered
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._drop(name)
            raise

    def _enter(self, request: Request) -> tuple[str, Waiter] | None:
        """A request's name in the loop; None where the loop takes no more."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), loop, tuple(filter(None, request.sampling.stop)))
        with self._lock:
            if self._closed:
                raise EngineError("The engine was closed.")
            if self._results is None:
                self._open()
            name = next(self._names)
            self._waiting[name] = waiter
        # Only a row with stop strings is looked at token by token.
        taken = self._manager.add_request(
            request.ids, request_id=name, max_new_tokens=request.sampling.max_tokens, streaming=bool(waiter.stops)
        )
        if taken is None:
            self._waiting.pop(name, None)
            waiter.future.cancel()
            return None
        return name, waiter

    def close(self) -> None:
        """End the loop and wait for it; nothing can be submitted afterwards."""
        with self._lock:
            self._closed = True
            results = self._results
        wait = not threading.current_thread().daemon  # a forgotten engine may be collected in one of the threads to wait for
        if self._manager.is_running():
            self._manager.stop(block=wait, timeout=30.0, hard_stop=True)
        if results is not None and wait:
            results.join(30.0)

    def _open(self) -> None:
        """Start the loop, at first or after it died, and the thread that hands out its results."""
        # A thread takes after the one that starts it: the manager's own would keep the process from ending.
        starter = threading.Thread(target=self._manager.start, name="continuous-batching", daemon=True)
        starter.start()
        starter.join()
        self._results = threading.Thread(target=self._hand_out, name="continuous-batching-results", daemon=True)
        self._results.start()

    def _hand_out(self) -> None:
        while True:
            output = self._manager.get_result(timeout=0.2)
            if output is not None:
                self._deliver(output)
            elif not self._manager.is_running():
                break
        with self._lock:
            left, self._waiting = self._waiting, {}
            self._results = None
        reason = self._manager.background_thread_status.fatal_error
        for waiter in left.values():
            waiter.settle(waiter.future.set_exception, EngineError(f"Decoding ended before this reply did: {reason or 'closed'}"))

    def _deliver(self, output: Any) -> None:
        waiter = self._waiting.get(output.request_id)
        if waiter is None:
            return
        if not output.is_finished():
            if not has_stop(output.generated_tokens, waiter.stops, self._decode):
                return
            self._drop(output.request_id)
        self._waiting.pop(output.request_id, None)
        waiter.settle(waiter.future.set_result, output)

    def _drop(self, name: str) -> None:
        """Nobody wants more of this row."""
        if self._waiting.pop(name, None) is not None:
            self._manager.cancel_request(name)
