"""Admission across a cluster: one actor decides for all workers, each of which talks to it through one client.

A client has at most one exchange with the actor under way. What comes up meanwhile goes with the next one, so that a thousand
calls a second cost some hundred exchanges. Knows Ray; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from magdi_ray.agents.admission import UNSENT, Ask, Desk, Outcome, Ticket, resolve
from magdi_ray.agents.budget import Budget, Spend
from magdi_ray.agents.failures import BudgetSpent
from magdi_ray.cluster import on_own_node
from magdi_ray.config.engines import Limits
from magdi_ray.errors import EngineError

LEASE_S = 30.0
"""Grants and asks of a worker that was silent for so long are taken back."""
RENEWED_S = 5.0
"""A worker that holds any speaks at least so often."""
UNAVAILABLE_S = 0.5
"""Seconds between two attempts to reach an actor that lives and cannot be reached."""
SPACING_S = 0.008
"""Seconds between two exchanges of one worker."""

AskRow = tuple[int, str | None, str, int, float]
"""id, provider, agent, tokens, usd"""
ReportRow = tuple[int, str | None, str, Outcome]
"""id, provider, agent, outcome"""


@dataclass(slots=True)
class Answer:
    """What one exchange brings back."""

    granted: list[int]
    refused: list[int]
    reason: str
    """Why calls were refused; empty where none were."""
    hint_s: float
    """When to ask again."""
    fresh: bool
    """The actor did not know this worker: what it asked earlier has to be asked anew."""
    bounded: bool
    """Whether the run has a budget."""


@dataclass(slots=True)
class Lease:
    """What one worker has at the desk."""

    seen_at: float
    waiting: set[int] = field(default_factory=set)
    granted: list[int] = field(default_factory=list)
    """Decided, and told at the next exchange."""
    refused: list[int] = field(default_factory=list)
    out: set[int] = field(default_factory=set)
    """Told, and not yet returned."""
    last: tuple[int, Answer] | None = None
    """Its latest exchange, and what it was told."""


class Leases:
    """The desk, shared by workers that may die. The state of the actor; plain Python."""

    def __init__(self, desk: Desk, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._lease_s = lease_s
        self._clock = clock
        self._of: dict[str, Lease] = {}

    def exchange(self, worker: str, asks: Sequence[AskRow], reports: Sequence[ReportRow], *, serial: int = 0) -> Answer:
        """Take what a worker reports and asks, and tell it what was decided for it. Never waits.

        An exchange whose answer got lost is repeated under its `serial`, and gets that answer again.
        """
        fresh = worker not in self._of
        lease = self._of.setdefault(worker, Lease(self._clock()))
        if serial and lease.last is not None and lease.last[0] == serial:
            lease.seen_at = self._clock()
            return lease.last[1]
        lease.seen_at = self._clock()
        self.expire()
        for number, provider, agent, outcome in reports:
            lease.out.discard(number)
            self._desk.settle((worker, number), provider, agent, outcome)
        for number, provider, agent, tokens, usd in asks:
            self._desk.ask((worker, number), Ask(provider, agent, tokens, usd))
            lease.waiting.add(number)
        self._decide()
        granted, lease.granted = lease.granted, []
        refused, lease.refused = lease.refused, []
        for number in granted:
            self._desk.hand_out((worker, number))
        lease.out.update(granted)
        budget = self._desk.budget
        answer = Answer(granted, refused, budget.reason or "", self._desk.hint(), fresh, budget.bounded)
        lease.last = (serial, answer)
        return answer

    def expire(self) -> None:
        """Take back what workers hold that were silent for too long."""
        silent = self._clock() - self._lease_s
        for worker in [worker for worker, lease in self._of.items() if lease.seen_at < silent]:
            lease = self._of.pop(worker)
            for number in lease.waiting:
                self._desk.lose((worker, number), granted=False)
            for number in lease.granted:  # not told yet, so not sent
                self._desk.retract((worker, number))
            for number in lease.out:
                self._desk.lose((worker, number), granted=True)

    def _decide(self) -> None:
        granted, refused = self._desk.decide()
        for keys, name in ((granted, "granted"), (refused, "refused")):
            for worker, number in cast("list[tuple[str, int]]", keys):
                self._of[worker].waiting.discard(number)
                getattr(self._of[worker], name).append(number)


class Limiter:
    """The actor: `start_limiter` makes one. One for a run."""

    def __init__(
        self,
        limits: Mapping[str, Limits],
        *,
        budget_usd: float | None = None,
        budget_tokens: int | None = None,
        spent: Mapping[str, Spend] | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._desk = Desk(limits, budget=Budget(usd=budget_usd, tokens=budget_tokens, spent=spent))
        self._leases = Leases(self._desk, lease_s=lease_s)

    def exchange(self, worker: str, serial: int, asks: Sequence[AskRow], reports: Sequence[ReportRow]) -> Answer:
        """See `Leases.exchange`."""
        return self._leases.exchange(worker, asks, reports, serial=serial)

    def read(self) -> dict[str, Any]:
        """See `Desk.read`."""
        self._leases.expire()
        return self._desk.read()


def start_limiter(
    limits: Mapping[str, Limits],
    *,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    spent: Mapping[str, Spend] | None = None,
    lease_s: float = LEASE_S,
    name: str | None = None,
) -> Any:
    """Start the actor, on the caller's node, and return its handle. It ends with its last handle, or `ray.kill`.

    `limits` are by `ApiEngine.provider`; `spent` is what earlier attempts of the run used of its budget, by agent.
    """
    # It holds no CPU: it only decides, and the workers whose calls it paces should have them all. It never waits either, so it
    # serves one call after the other, which costs a third less than in an event loop.
    options = {"num_cpus": 0, "name": name, "scheduling_strategy": on_own_node()}
    kept = {"budget_usd": budget_usd, "budget_tokens": budget_tokens, "spent": dict(spent or {}), "lease_s": lease_s}
    return ray.remote(Limiter).options(**options).remote(dict(limits), **kept)


class LimiterClient:
    """Admission in one worker process, decided by the actor. `worker` is unique among those that share the actor."""

    def __init__(self, actor: Any, worker: str) -> None:
        self._actor = actor
        self.worker = worker
        self._ids = itertools.count(1)
        self._bounded: bool | None = None
        self._tickets: dict[int, Ticket] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._out: set[int] = set()
        self._asks: list[AskRow] = []
        self._reports: list[ReportRow] = []
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._left = 0
        """Calls left so far."""
        self._told = 0
        """Of those, the ones the actor knows of; all of them once it is gone, as nobody is left to be told."""
        self.exchanges = 0
        """How often the actor was spoken to."""

    async def enter(self, provider: str | None, agent: str, *, tokens: int, usd: float) -> Ticket:
        """See `Admission`.

        Raises:
            EngineError: the actor is gone.
        """
        ticket = Ticket(next(self._ids), provider, agent, tokens, usd)
        if provider is None and self._bounded is False:
            return ticket
        self._asks.append((ticket.id, provider, agent, tokens, usd))
        self._tickets[ticket.id] = ticket
        future = self._waiting[ticket.id] = asyncio.get_running_loop().create_future()
        self._speak()
        await future  # cancelled: when the grant comes there is nobody to take it, and it goes back unsent
        return ticket

    def leave(self, ticket: Ticket, outcome: Outcome) -> None:
        """See `Admission`."""
        self._tickets.pop(ticket.id, None)
        self._out.discard(ticket.id)
        self._reports.append((ticket.id, ticket.provider, ticket.agent, outcome))
        self._left += 1
        self._speak()

    async def flush(self) -> None:
        """Return when everything left so far has been reported."""
        left = self._left
        while self._told < left:
            self._speak()
            await asyncio.sleep(SPACING_S)

    def _speak(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._exchange())

    async def _exchange(self) -> None:
        """Speak to the actor as long as there is anything to say, to wait for or to hold."""
        while self._asks or self._reports or self._waiting or self._out:
            asks, self._asks = self._asks, []
            reports, self._reports = self._reports, []
            self._wake.clear()
            try:
                self.exchanges += 1
                answer = await self._tell(asks, reports)
            except RayError as error:
                self._fail(error)
                return
            self._told += len(reports)
            self._take(answer, {row[0] for row in asks})
            await asyncio.sleep(SPACING_S)
            pause = answer.hint_s - SPACING_S if self._waiting else RENEWED_S if self._out else 0.0
            if pause > 0 and not self._wake.is_set():
                await _event(self._wake, pause)

    async def _tell(self, asks: list[AskRow], reports: list[ReportRow]) -> Answer:
        """One exchange, repeated while the network between here and the actor is down."""
        serial, tries = self.exchanges, 0
        while True:
            try:
                answer: Answer = await self._actor.exchange.remote(self.worker, serial, asks, reports)
                return answer
            except ActorUnavailableError:
                tries += 1
                if tries * UNAVAILABLE_S >= LEASE_S:
                    raise
                await asyncio.sleep(UNAVAILABLE_S)

    def _take(self, answer: Answer, asked: set[int]) -> None:
        if answer.fresh:  # what was asked before this exchange is forgotten there
            known = asked | {row[0] for row in self._asks}
            missing = [self._tickets[number] for number in self._waiting if number not in known]
            self._asks += [(t.id, t.provider, t.agent, t.tokens, t.usd) for t in missing]
        self._bounded = answer.bounded
        for number in answer.granted:
            self._out.add(number)
            future = self._waiting.pop(number)
            if future.done():
                self.leave(self._tickets[number], UNSENT)
            resolve(future)
        for number in answer.refused:
            del self._tickets[number]
            resolve(self._waiting.pop(number), BudgetSpent(answer.reason))

    def _fail(self, error: RayError) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else None
        for future in self._waiting.values():
            resolve(future, cause or EngineError(f"The limiter of this run is gone: {str(error).splitlines()[0]}"))
        self._waiting.clear()
        self._tickets.clear()
        self._out.clear()
        self._reports.clear()
        self._told = self._left


async def _event(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, or as long as `timeout_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
