"""Admission: before a call is sent someone says that it may be, and afterwards is told what it cost.

`Desk` decides, for all providers and the budget of a run; `LocalLimiter` is a desk within one process. Knows no Ray and no HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from magdi_ray.agents.budget import Budget, Spend
from magdi_ray.agents.failures import BudgetSpent
from magdi_ray.agents.pacing import UNKNOWN_WAIT_S, Pace
from magdi_ray.config.engines import Limits

SHORTEST_HINT_S = 0.005
LONGEST_HINT_S = 0.1


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call that may be sent, once."""

    id: int
    provider: str | None
    """None is an engine of our own."""
    agent: str
    tokens: int
    """Upper bound of prompt and reply."""
    usd: float
    """Upper bound of its cost."""


class Outcome(NamedTuple):
    """What became of a call. A tuple, as those travel between processes in a tenth of the time of a dataclass."""

    kind: str = "ok"
    """`ok`, or the name of a failure's class, or `cancelled`, or `unsent`."""
    tokens_in: int = 0
    """As the provider counted them; 0 where it did not."""
    tokens_out: int = 0
    usd: float = 0.0
    retry_after_s: float | None = None
    """What the provider asked to wait; it holds for everyone."""


UNSENT = Outcome("unsent")
"""Whoever asked did not want it any more when it was granted."""


class Admission(Protocol):
    """Where an engine asks before each call."""

    async def enter(self, provider: str | None, agent: str, *, tokens: int, usd: float) -> Ticket:
        """Wait until a call of at most `tokens` and `usd` may be sent.

        Raises:
            BudgetSpent: it may never be.
        """
        ...

    def leave(self, ticket: Ticket, outcome: Outcome) -> None:
        """The call is over. Returns at once. Every ticket is left exactly once."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that waits at the desk."""

    provider: str | None
    agent: str
    tokens: int
    usd: float


class Desk:
    """The pace of every provider, and the budget. Asks have keys, unique among those that wait or are under way."""

    def __init__(
        self, limits: Mapping[str, Limits], *, budget: Budget | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.paces = {name: Pace(limit, clock=clock) for name, limit in limits.items()}
        self.budget = budget or Budget()
        self.wasted: dict[str, Spend] = {}
        """What calls cost that brought no reply, by agent."""
        self._own: dict[Hashable, None] = {}
        self._asks: dict[Hashable, Ask] = {}

    def ask(self, key: Hashable, ask: Ask) -> None:
        """Join the line of a provider.

        Raises:
            LookupError: no limits were given for it; a mistake of whoever built the desk.
        """
        if ask.provider is None:
            self._own[key] = None
        elif ask.provider in self.paces:
            self.paces[ask.provider].ask(key, ask.tokens)
        else:
            raise LookupError(f"No limits are known for provider {ask.provider!r}, only for {sorted(self.paces)}.")
        self._asks[key] = ask

    def decide(self) -> tuple[list[Hashable], list[Hashable]]:
        """Keys granted and keys refused now. Refused is everyone who waits, once the budget is spent."""
        granted: list[Hashable] = []
        while self._own and self._affords(key := next(iter(self._own))):
            del self._own[key]
            granted.append(key)
        for pace in self.paces.values():
            while (key := pace.head()) is not None and pace.delay() <= 0 and self._affords(key):
                granted.append(pace.grant())
        return granted, self._refuse() if self.budget.reason is not None else []

    def hint(self) -> float:
        """Seconds until it is worth deciding again."""
        waits = [pace.delay() for pace in self.paces.values() if pace.head() is not None]
        # A head that may go and did not waits for the budget, that is for some call to end.
        waits = [wait if wait > 0 else UNKNOWN_WAIT_S for wait in waits] + ([UNKNOWN_WAIT_S] if self._own else [])
        return min(max(min(waits, default=LONGEST_HINT_S), SHORTEST_HINT_S), LONGEST_HINT_S)

    def hand_out(self, key: Hashable) -> None:
        """A granted key is told so, now."""
        provider = self._asks[key].provider
        if provider is not None:
            self.paces[provider].hand_out(key)

    def settle(self, key: Hashable, provider: str | None, agent: str, outcome: Outcome) -> None:
        """A call ended. Of an unknown key, which came late or needed no grant, the cost counts all the same."""
        ask = self._asks.pop(key, None)
        reserved = (ask.usd, ask.tokens) if ask else (0.0, 0)
        counted = outcome.tokens_in + outcome.tokens_out
        if provider is not None:
            tokens = counted if counted or outcome.kind == "ok" else None
            self.paces[provider].give_back(key, outcome.kind, tokens=tokens, retry_after_s=outcome.retry_after_s)
        cost = Spend(int(outcome.kind != "unsent"), outcome.tokens_in, outcome.tokens_out, outcome.usd)
        self.budget.settle(agent, cost, usd=reserved[0], tokens=reserved[1])
        if outcome.kind not in ("ok", "unsent"):
            self.wasted[agent] = self.wasted.get(agent, Spend()) + cost

    def retract(self, key: Hashable) -> None:
        """Take a grant back of which nobody was told."""
        ask = self._asks[key]
        self.settle(key, ask.provider, ask.agent, UNSENT)

    def lose(self, key: Hashable, *, granted: bool) -> None:
        """Whoever asked is gone. What was under way may well be billed, so its upper bound is taken as used."""
        ask = self._asks.pop(key, None)
        if ask is None:
            return
        self._own.pop(key, None)
        if ask.provider is not None:
            self.paces[ask.provider].withdraw(key)
        if granted:
            self.budget.forfeit(usd=ask.usd, tokens=ask.tokens)
            # Where it was not counted, nobody knows how much of it was read and how much written.
            self.wasted[ask.agent] = self.wasted.get(ask.agent, Spend()) + Spend(1, ask.tokens, 0, ask.usd)

    def read(self) -> dict[str, Any]:
        """Everything worth reporting, as plain data (`spend` holds `Spend`)."""
        providers = {
            name: asdict(pace.tally) | {"concurrency": pace.concurrency, "under_way": pace.out, "history": list(pace.history)}
            for name, pace in self.paces.items()
        }
        reason = self.budget.reason
        return {
            "providers": providers,
            "spend": dict(self.budget.spent),
            "wasted": dict(self.wasted),
            "stopped": reason is not None,
            "reason": reason,
        }

    def _affords(self, key: Hashable) -> bool:
        ask = self._asks[key]
        return self.budget.reserve(usd=ask.usd, tokens=ask.tokens) == "granted"

    def _refuse(self) -> list[Hashable]:
        refused = list(self._own)
        for pace in self.paces.values():
            while (key := pace.head()) is not None:
                pace.withdraw(key)
                refused.append(key)
        self._own.clear()
        for key in refused:
            del self._asks[key]
        return refused


def resolve(future: asyncio.Future[None], error: BaseException | None = None) -> None:
    """Wake whoever waits, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class LocalLimiter:
    """Admission within one process: for tests, single questions, and runs without a cluster."""

    def __init__(
        self,
        limits: Mapping[str, Limits] | None = None,
        *,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = Desk(limits or {}, budget=budget, clock=clock)
        self._waiting: dict[Hashable, asyncio.Future[None]] = {}
        self._ids = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, provider: str | None, agent: str, *, tokens: int, usd: float) -> Ticket:
        """See `Admission`."""
        ticket = Ticket(next(self._ids), provider, agent, tokens, usd)
        self._desk.ask(ticket.id, Ask(provider, agent, tokens, usd))
        future = self._waiting[ticket.id] = asyncio.get_running_loop().create_future()
        self._decide()
        try:
            await future
        except asyncio.CancelledError:
            if self._waiting.pop(ticket.id, None) is not None:
                self._desk.lose(ticket.id, granted=False)
            else:
                self.leave(ticket, UNSENT)
            raise
        return ticket

    def leave(self, ticket: Ticket, outcome: Outcome) -> None:
        """See `Admission`."""
        self._desk.settle(ticket.id, ticket.provider, ticket.agent, outcome)
        if self._waiting:
            self._decide()

    def read(self) -> dict[str, Any]:
        """See `Desk.read`."""
        return self._desk.read()

    def _decide(self) -> None:
        granted, refused = self._desk.decide()
        for key in granted:
            self._desk.hand_out(key)
            resolve(self._waiting.pop(key))
        for key in refused:
            resolve(self._waiting.pop(key), BudgetSpent(self._desk.budget.reason or ""))
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._desk.hint(), self._decide) if self._waiting else None
