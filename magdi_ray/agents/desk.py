"""Between those who ask, on their event loops, and the one thread that decodes: requests go in, and what is written comes out.

The thread runs transformers' continuous batching. What a step writes is handed over with one call to each event loop, whatever
the number of rows. It knows neither text nor weights.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from magdi_ray.agents.choosing import Row, RowChooser, Witness
from magdi_ray.errors import EngineError

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ticket(Row):
    """A row, and who waits for it. Made on the event loop of whoever waits."""

    every_token: bool = True
    """Whether to wake whoever waits for every token, or for the last one only."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def arrival(self) -> None:
        """Wait until more has been written since the last time.

        Raises:
            EngineError: there will be no reply.
        """
        await self.news.wait()
        self.news.clear()
        if self.error is not None:
            raise EngineError(self.error)


def ring(tickets: Iterable[Ticket]) -> None:
    """Wake those who wait; on their own event loop."""
    for ticket in tickets:
        ticket.news.set()


class Desk:
    """Takes requests to the loop and what it writes back to their callers. Its threads never keep a process alive."""

    def __init__(self, manager: Any, *, end_ids: frozenset[int], witness: Witness | None = None) -> None:
        """`manager` is a continuous batching manager that has not made its batch processor yet."""
        self._manager = manager
        self._waiting: dict[str, Ticket] = {}
        self.chooser = RowChooser(
            self._waiting, end_ids=end_ids, deliver=self._deliver, abandon=manager.cancel_request, witness=witness
        )
        manager.logit_processor = self.chooser
        manager.output_router = Failures(self)
        self._names = map(str, count())
        # Taken again by the same thread where a forgotten engine is collected, and closed, while it is held.
        self._lock = threading.RLock()
        self._watch: threading.Thread | None = None
        """Sees the loop end; None before the first request, and after the loop died."""
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Requests that somebody waits for."""
        return len(self._waiting)

    def oldest_s(self) -> float:
        """Seconds since the first of them was asked; 0 without any."""
        now = time.perf_counter()
        return max((now - ticket.entered_s for ticket in list(self._waiting.values())), default=0.0)

    async def enter(self, ids: Sequence[int], ticket: Ticket) -> str:
        """Queue a request; its name is what `leave` takes.

        Raises:
            EngineError: the engine was closed.
        """
        while (name := self._enter(ids, ticket)) is None:
            await asyncio.sleep(0.01)  # the loop just died; the next one starts when its requests have been failed
        return name

    def _enter(self, ids: Sequence[int], ticket: Ticket) -> str | None:
        """A request's name in the loop; None where the loop takes no more."""
        with self._lock:
            if self._closed:
                raise EngineError("The engine was closed.")
            if self._watch is None:
                self._open()
            name = next(self._names)
            self._waiting[name] = ticket
        if self._manager.add_request(list(ids), request_id=name, max_new_tokens=ticket.decoding.max_tokens) is None:
            self._waiting.pop(name, None)
            return None
        if ticket.error is not None:  # the loop died in between, and the next one must not decode for nobody
            self._manager.cancel_request(name)
        return name

    def leave(self, name: str) -> None:
        """Nobody wants more of this row: it leaves the loop before its next step, unless it is over. (One that the loop did not
        know yet when it read this leaves behind its first step: see `RowChooser`.)"""
        if self._waiting.pop(name, None) is not None:
            self._manager.cancel_request(name)

    def close(self) -> None:
        """End the loop and wait for it; nothing can be submitted afterwards."""
        with self._lock:
            self._closed = True
            watch = self._watch
        wait = not threading.current_thread().daemon  # a forgotten engine may be collected in one of the threads to wait for
        if self._manager.is_running():
            self._manager.stop(block=wait, timeout=30.0, hard_stop=True)
        if watch is not None and wait:
            watch.join(30.0)

    def _open(self) -> None:
        """Start the loop, at first or after it died, and the thread that sees it end."""
        # A thread takes after the one that starts it: the manager's own would keep the process from ending.
        starter = threading.Thread(target=self._manager.start, name="continuous-batching", daemon=True)
        starter.start()
        starter.join()
        self._watch = threading.Thread(target=self._see_the_end, name="continuous-batching-watch", daemon=True)
        self._watch.start()

    def _see_the_end(self) -> None:
        while self._manager.is_running():
            time.sleep(0.05)
        with self._lock:
            left = list(self._waiting)
            self._watch = None
        reason = self._manager.background_thread_status.fatal_error
        for name in left:
            self.fail(name, f"decoding ended before this reply did: {reason or 'closed'}")

    def fail(self, name: str, reason: str) -> None:
        """There will be no reply to this request."""
        ticket = self._waiting.pop(name, None)
        if ticket is not None and not ticket.over:
            ticket.error = reason
            self._wake(ticket.loop, [(name, ticket)])

    def _deliver(self, written: list[tuple[str, Row]]) -> None:
        """Wake those whose rows were written in a step."""
        woken: dict[asyncio.AbstractEventLoop, list[tuple[str, Ticket]]] = defaultdict(list)
        for name, ticket in written:
            assert isinstance(ticket, Ticket)
            if ticket.error is not None:
                self.leave(name)
            elif ticket.end is not None:
                self._waiting.pop(name, None)  # the loop takes it out by itself
            if ticket.every_token or ticket.over:
                woken[ticket.loop].append((name, ticket))
        for loop, tickets in woken.items():
            self._wake(loop, tickets)

    def _wake(self, loop: asyncio.AbstractEventLoop, tickets: list[tuple[str, Ticket]]) -> None:
        try:
            loop.call_soon_threadsafe(ring, [ticket for _, ticket in tickets])
        except RuntimeError:
            logger.debug("Callers' event loop was closed before their replies came.")
            for name, _ in tickets:
                self.leave(name)


class Failures:
    """Where the loop delivers its outputs. Tokens come another way, so only failures count."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def deliver(self, output: Any) -> None:
        """One request's output."""
        if output.error is not None:
            self._desk.fail(output.request_id, str(output.error))

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        """A step's outputs."""
        for output in outputs:
            self.deliver(output)

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """A request that the loop gave up."""
        self._desk.fail(state.request_id, str(error))
