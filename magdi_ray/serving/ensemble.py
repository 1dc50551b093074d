"""Several replies to one question, and what they come to: votes, agreement, and the teachers where the student disagrees with itself.

Knows no HTTP and no Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from magdi_ray.agents.streaming import Decoding, Piece, Prompt
from magdi_ray.serving.backend import Backend, Escalated, Teachers
from magdi_ray.tasks.base import Task

Aggregate = Literal["majority", "verifier"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says under `magdi`."""

    samples: int
    """Replies to draw."""
    aggregate: Aggregate = "majority"
    """majority: every readable reply has one vote. verifier: its vote weighs what the student's own heads give it."""
    escalate_below: float | None = None
    """Ask the teachers where the share of the replies that give the winning answer is below this; None never does."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer, and who gave it."""

    answer: str
    count: int
    """Replies that gave it."""
    weight: float
    """What they weigh together, by the rule that was asked for."""


@dataclass(frozen=True, slots=True)
class Ensembled:
    """What several replies came to."""

    piece: Piece
    """A reply that gives the answer, really written by the student, or by a teacher where the question was escalated; tokens are
    those of all replies of the student."""
    answer: str | None
    """In the task's normal form; None where no reply holds one."""
    agreement: float
    """Share of the student's replies that give its most frequent answer; unreadable ones agree with nobody."""
    votes: tuple[Vote, ...]
    """The student's, weightiest first."""
    unread: int
    """The student's replies in which no answer could be read."""
    wish: Wish
    escalated: Escalated | None


class Ensemble:
    """Asks the student several times, and the teachers where that is called for."""

    def __init__(self, backend: Backend, task: Task, teachers: Teachers | None) -> None:
        self._backend = backend
        self._task = task
        self._teachers = teachers

    async def ask(self, prompt: Prompt, decoding: Decoding, wish: Wish) -> Ensembled:
        """Draw `wish.samples` replies, vote, and escalate where they agree too little.

        Raises:
            PromptError: the prompt cannot be put to the student, or (verifier, escalation) it lacks what was asked for.
            EngineError: not one reply could be had.
        """
        raise NotImplementedError
