"""A metered engine: any engine of our own, whose tokens count against a run's budget and its spend. Knows no provider."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from magdi_ray.agents.admission import Admission, Outcome
from magdi_ray.agents.base import Engine, Message, Reply, Sampling
from magdi_ray.agents.estimate import estimate_prompt


class MeteredEngine:
    """Asks for admission before each reply and reports what it took."""

    def __init__(self, engine: Engine, admission: Admission, agent: str) -> None:
        self._engine = engine
        self._admission = admission
        self._agent = agent

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """See `Engine`.

        Raises:
            BudgetSpent: the run's budget does not allow it.
        """
        tokens = int(estimate_prompt(messages) * 1.1) + sampling.max_tokens
        ticket = await self._admission.enter(None, self._agent, tokens=tokens, usd=0.0)
        outcome = Outcome("cancelled")
        try:
            reply = await self._engine.generate(messages, sampling)
            outcome = Outcome("ok", reply.tokens_in, reply.tokens_out)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            outcome = Outcome(type(error).__name__)
            raise
        finally:
            self._admission.leave(ticket, outcome)
        return reply
