"""A simulated provider behind the run's own limiter. The limiter is the real one (`agents.pacing.Pace`), on simulated time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from magdi_ray.agents.pacing import Pace
from magdi_ray.simulate.events import Loop
from magdi_ray.simulate.scenario import Latency, Overheads, Provider

MAX_ATTEMPTS = 6
"""`ApiEngine.max_attempts` unless configured."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
"""Of a refusal: `agents.api.BACKOFF_S`."""
MARGIN = 1.1
"""Of the tokens reserved for a prompt (`agents.api.MARGIN`)."""
TICK_S = 1e-6
UNKNOWN_S = 0.02
"""A wait of the limiter that only the end of a call can end; every end of a call has it decide again."""


class Request:
    """One call on its way. `stale()` tells that whoever asked is gone."""

    __slots__ = ("attempts", "done", "latency", "reserved", "serial", "stale", "tokens_in", "tokens_out", "worker")

    def __init__(self, serial: int, tokens: tuple[int, int], latency: Latency | None, worker: CpuLine) -> None:
        self.serial, self.latency, self.worker = serial, latency, worker
        self.tokens_in, self.tokens_out = tokens
        self.reserved = sum(tokens)
        """Upper bound of its tokens, which the limiter takes for real until it is told."""
        self.attempts = 0
        self.done: Callable[[bool], None] = _nobody
        self.stale: Callable[[], bool] = _never


def _nobody(_: bool) -> None:
    """Nobody waits."""


def _never() -> bool:
    return False


class CpuLine:
    """A worker's event loop: one thing after the other."""

    __slots__ = ("free_at",)

    def __init__(self) -> None:
        self.free_at = 0.0

    def take(self, now: float, seconds: float) -> float:
        """When work of `seconds` that comes now has ended."""
        self.free_at = max(now, self.free_at) + seconds
        return self.free_at


class Serving:
    """One provider and the line in front of it."""

    def __init__(self, loop: Loop, provider: Provider, overheads: Overheads, rng: random.Random) -> None:
        self.loop, self.provider, self.overheads, self.rng = loop, provider, overheads, rng
        self.pace = Pace(provider.limits, clock=loop.clock)
        self.capacity = provider.capacity
        self.requests: dict[int, Request] = {}
        self.busy = 0
        self.busy_s = 0.0
        """Seconds worked, all requests together."""
        self.refused = 0
        self.queue: deque[Request] = deque()
        self.window: deque[float] = deque()
        rpm = provider.rpm
        self.window_s, self.most = (10.0, rpm // 6) if rpm and rpm >= 60 else (60.0, rpm or 0)
        self._looked, self._planned = -1.0, float("inf")

    def ask(self, request: Request) -> None:
        """Get into the limiter's line."""
        self.requests[request.serial] = request
        self.pace.ask(request.serial, request.reserved)
        self._soon()

    def _soon(self, delay: float = 0.0) -> None:
        """Have the limiter decide at the next talk with it, or in `delay` seconds."""
        when = max(self.loop.now + delay, self._looked + self.overheads.exchange_s)
        if when < self._planned:
            self._planned = when
            self.loop.at(when, self._decide, when)

    def _decide(self, planned: float) -> None:
        if planned != self._planned:  # an earlier one was planned since
            return
        self._looked, self._planned = self.loop.now, float("inf")
        pace = self.pace
        delay = 0.0
        while pace.head() is not None and (delay := pace.delay()) <= 0:
            key = pace.grant()
            pace.hand_out(key)
            assert isinstance(key, int)
            request = self.requests[key]
            if request.stale():
                del self.requests[key]
                pace.give_back(key, "unsent", tokens=0)
                continue
            sent = request.worker.take(self.loop.now, self.overheads.call_s)
            self.loop.at(sent, self._arrive, request)
        if pace.head() is not None and (delay > UNKNOWN_S or pace.out < pace.concurrency):
            # At the very moment at which a window ends, rounding decides whether it has: unlike a real clock, this one could
            # stand there.
            self._soon(delay + TICK_S)

    def _arrive(self, request: Request) -> None:
        now = self.loop.now
        if self.provider.rpm is not None:
            window = self.window
            while window and window[0] <= now - self.window_s:
                window.popleft()
            if len(window) >= self.most:
                self._refuse(request, "RateLimited", window[0] + self.window_s - now)
                return
            window.append(now)
        if self.capacity is None or self.busy < self.capacity:
            self._work(request)
        elif self.provider.beyond == "wait":
            self.queue.append(request)
        else:
            self._refuse(request, "RateLimited", self.provider.retry_after_s)

    def _work(self, request: Request) -> None:
        self.busy += 1
        assert request.latency is not None
        seconds = request.latency.draw(self.rng, request.tokens_out)
        self.busy_s += seconds
        self.loop.after(seconds, self._answer, request)

    def _answer(self, request: Request) -> None:
        self.busy -= 1
        if self.queue:
            self._work(self.queue.popleft())
        share = self.provider.overloaded_share
        if share and self.rng.random() < share:
            self._refuse(request, "Overloaded", None)
            return
        del self.requests[request.serial]
        self.pace.give_back(request.serial, "ok", tokens=request.tokens_in + request.tokens_out)
        self._soon()
        request.done(True)

    def _refuse(self, request: Request, kind: str, retry_after_s: float | None) -> None:
        self.refused += 1
        self.pace.give_back(request.serial, kind, retry_after_s=retry_after_s)
        self._soon()
        request.attempts += 1
        if request.attempts >= MAX_ATTEMPTS:
            del self.requests[request.serial]
            request.done(False)
            return
        if retry_after_s is not None:
            wait = retry_after_s + self.rng.uniform(0.0, 0.1 * FIRST_BACKOFF_S)
        else:
            wait = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (request.attempts - 1)) * self.rng.uniform(0.5, 1.5)
        self.loop.after(wait, self.ask, request)
