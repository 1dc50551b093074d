"""Holding one debate: from the first reply to the verdict, by any protocol, with any engines.

It knows neither Ray nor files. What an engine does wrong becomes data, never a crash.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from magdi_ray.agents.base import Message, Reply, Sampling, derive_seed
from magdi_ray.agents.failures import Empty, Refused, Rejected
from magdi_ray.debate.reading import merge_repair, read_turn, repair_messages
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.tasks.base import Question

AGAIN = 10_000
"""More samples than any protocol draws from one conversation."""


class Teacher(Protocol):
    """An engine that tells several independent draws from one conversation apart, and never asks for one of them twice."""

    hits: int
    """Replies it had already."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        """Raise `EngineError` when no reply can be had."""
        ...


@dataclass(frozen=True, slots=True)
class Seat:
    """One agent's place at the table: who answers for it, and how its replies are drawn."""

    teacher: Teacher
    sampling: Sampling
    seeded: bool = True
    """Every draw is fixed by a seed of its own. Providers that know no seeds are told apart by `sample` alone."""
    twin: int = 0
    """Its place among the agents that ask the same model in the same way."""
    twins: int = 1
    """Number of those agents; they would otherwise be one and the same request."""
    repair: bool = False
    """Ask once more where no answer can be read from a reply."""


async def hold_debate(protocol: DebateProtocol, question: Question, *, seats: Mapping[str, Seat], seed: int) -> Debate:
    """One debate. A failure ends it: the turns up to there are kept, and the error stands beside them.

    The random draw of a seeded seat's reply is fixed by `seed`, the question, the agent, the round and the sample.
    """
    debate = protocol.start(question, list(seats))
    asked: Counter[tuple[str, tuple[Message, ...], int]] = Counter()
    try:
        while asks := protocol.next_asks(debate):
            # Words that were sent before (nobody could be understood, say) are to bring another reply this time.
            again = [asked[ask.agent, ask.messages, ask.sample] for ask in asks]
            asked.update((ask.agent, ask.messages, ask.sample) for ask in asks)
            draws = (
                _reply(protocol, question, replace(ask, sample=ask.sample + AGAIN * times), seats[ask.agent], seed)
                for ask, times in zip(asks, again, strict=True)
            )
            # Every call of the round is awaited, also beside a failed one: what was paid for is worth keeping.
            found = await asyncio.gather(*draws, return_exceptions=True)
            replies = [reply for reply in found if isinstance(reply, Reply)]
            if failures := [failure for failure in found if isinstance(failure, BaseException)]:
                raise failures[0]
            debate = protocol.advance(debate, asks, replies)
    except Exception as error:
        return debate.failed(error)
    return debate


async def _reply(protocol: DebateProtocol, question: Question, ask: Ask, seat: Seat, seed: int) -> Reply:
    sampling = seat.sampling
    if seat.seeded:
        parts = (sampling.seed, seed, question.id, ask.agent, ask.round, *([ask.sample] if ask.sample else []))
        sampling = sampling.model_copy(update={"seed": derive_seed(*parts)})
    sample = ask.sample * seat.twins + seat.twin
    reply = await seat.teacher.generate(ask.messages, sampling, sample=sample)
    if not seat.repair or read_turn(protocol.task, question, ask, reply).status == "ok":
        return reply
    if reply.finish_reason == "length" and not reply.text.strip():
        return reply  # it thought up to its bound, and would do so again
    try:
        return merge_repair(reply, await seat.teacher.generate(repair_messages(ask.messages, reply), sampling, sample=sample))
    except (Rejected, Refused, Empty):
        return reply  # an unread reply is worth more than none
