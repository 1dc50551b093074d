"""A run's budget: what its calls may cost together, and what each agent spent of it. Knows no provider and no clock.

A call is admitted with an upper bound of its cost, which stays reserved until the real cost is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["granted", "wait", "spent"]


@dataclass(frozen=True, slots=True)
class Spend:
    """What some calls cost."""

    calls: int = 0
    """Requests sent, failed ones included."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.usd + other.usd,
        )


class Budget:
    """Never exceeded, as long as what is reserved are upper bounds."""

    def __init__(self, *, usd: float | None = None, tokens: int | None = None, spent: Mapping[str, Spend] | None = None) -> None:
        """`usd` and `tokens` are the bounds, None for none; `spent` is what earlier attempts used of them, agent by agent."""
        self._most = (usd, tokens)
        self.spent = dict(spent or {})
        total = sum(self.spent.values(), Spend())
        self._used = (total.usd, total.tokens_in + total.tokens_out)
        self._reserved = (0.0, 0)
        self.reason: str | None = None
        """Why nothing more is admitted; None while something is."""

    @property
    def bounded(self) -> bool:
        """Whether there is any bound at all."""
        return self._most != (None, None)

    def reserve(self, *, usd: float, tokens: int) -> Verdict:
        """`wait`: calls under way may turn out cheap enough. `spent`: never, and from now on nothing else is admitted either,
        so that a run ends instead of going on with its cheapest agent."""
        if self.reason is not None:
            return "spent"
        asked = (usd, tokens)
        if not self._fits(asked, reserved=False):
            self.reason = self._told(asked)
            return "spent"
        if not self._fits(asked, reserved=True):
            return "wait"
        self._reserved = (self._reserved[0] + usd, self._reserved[1] + tokens)
        return "granted"

    def settle(self, agent: str, actual: Spend, *, usd: float = 0.0, tokens: int = 0) -> None:
        """A call is over: what was reserved for it (`usd`, `tokens`) is free again, what it cost is spent."""
        self._release(usd, tokens)
        self._used = (self._used[0] + actual.usd, self._used[1] + actual.tokens_in + actual.tokens_out)
        self.spent[agent] = self.spent.get(agent, Spend()) + actual

    def forfeit(self, *, usd: float, tokens: int) -> None:
        """Nobody will ever know what a call cost: its upper bound counts as used, though as no agent's."""
        self._release(usd, tokens)
        self._used = (self._used[0] + usd, self._used[1] + tokens)

    def _release(self, usd: float, tokens: int) -> None:
        # Sums of floats may end a hair below zero.
        self._reserved = (max(0.0, self._reserved[0] - usd), max(0, self._reserved[1] - tokens))

    def _fits(self, asked: tuple[float, int], *, reserved: bool) -> bool:
        taken = [used + (held if reserved else 0) for used, held in zip(self._used, self._reserved, strict=True)]
        return all(most is None or now + more <= most for most, now, more in zip(self._most, taken, asked, strict=True))

    def _told(self, asked: tuple[float, int]) -> str:
        usd, tokens = self._most
        if usd is not None and self._used[0] + asked[0] > usd:
            return (
                f"The budget of ${usd:.4f} is spent: ${self._used[0]:.4f} so far, and the next call may cost ${asked[0]:.4f}. "
                "Raise debate.budget_usd to go on."
            )
        return (
            f"The budget of {tokens} tokens is spent: {self._used[1]} so far, and the next call may take {asked[1]}. "
            "Raise debate.budget_tokens to go on."
        )
