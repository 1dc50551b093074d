"""The `magdi` part of chat requests and responses: several replies voted over, and the teachers asked where they disagree.

{"magdi": {"samples": 8, "aggregate": "majority", "escalate_below": 0.6}}
"""

from __future__ import annotations

from pydantic import Field

from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.ensemble import Aggregate, Ensembled, Wish
from magdi_ray.serving.wire.fields import Answer, Body

TEMPERATURE = 0.7
"""Of the samples, where a request gives none: replies have to differ for a vote to mean something."""


class MagdiWish(Body):
    """What is asked beyond OpenAI's API."""

    samples: int = Field(ge=2, le=65536)
    """Replies to draw and vote over."""
    aggregate: Aggregate | None = None
    """majority (the default): one vote a reply. verifier: votes weigh what the student's own heads give the reply. best: the
    reply that they give most."""
    escalate_below: float | None = Field(None, ge=0.0, le=1.0)
    """Let the teachers debate where the agreement is below this."""

    def wish(self) -> Wish:
        """As the ensemble takes it."""
        return Wish(self.samples, self.aggregate or "majority", self.escalate_below)


class MagdiVote(Answer):
    """One answer, and how many replies gave it."""

    answer: str
    count: int
    weight: float
    """What these replies weigh together; their number under `majority`."""


class MagdiEscalation(Answer):
    """The teachers' debate."""

    id: str
    """Of the stored graph."""
    answer: str | None
    agreement: float
    """Share of the last round's replies that gave the answer."""
    rounds: int
    agents: list[str]
    tokens: int
    """Read and written by all teachers in the debate held for this request; 0 where `stored`."""
    stored: bool
    """The question had been debated before; nobody was asked again."""
    error: str | None
    """Why there was no verdict; the answer is the student's then."""

    @classmethod
    def of(cls, escalated: Escalated) -> MagdiEscalation:
        """The teachers' word as it is told."""
        return cls(
            id=escalated.id,
            answer=escalated.answer,
            agreement=escalated.agreement,
            rounds=escalated.rounds,
            agents=list(escalated.agents),
            tokens=escalated.tokens_in + escalated.tokens_out,
            stored=escalated.stored,
            error=escalated.error,
        )


class MagdiReport(Answer):
    """What the replies came to."""

    answer: str | None
    """In the task's normal form; null where no reply holds one."""
    agreement: float
    """Share of the student's replies that give its most frequent answer, of all that were had: `samples` less `failed`. The one
    that `escalate_below` is held against."""
    votes: list[MagdiVote]
    """Weightiest first."""
    aggregate: Aggregate
    samples: int
    unread: int
    """Replies in which no answer could be read."""
    failed: int
    """Replies that were asked for and could not be had."""
    escalated: MagdiEscalation | None
    """The teachers' debate, where one was called for; null otherwise."""

    @classmethod
    def of(cls, result: Ensembled) -> MagdiReport:
        """An ensemble's result."""
        return cls(
            answer=result.answer,
            agreement=result.agreement,
            votes=[MagdiVote(answer=vote.answer, count=vote.count, weight=vote.weight) for vote in result.votes],
            aggregate=result.wish.aggregate,
            samples=result.wish.samples,
            unread=result.unread,
            failed=result.failed,
            escalated=None if result.escalated is None else MagdiEscalation.of(result.escalated),
        )
