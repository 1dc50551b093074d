"""What the front door asks of whatever stands behind it. Knows no HTTP, no Ray and no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores

AHEAD = 2
"""Batches a copy takes in: one that is decoded, and one that follows as rows end."""

GRACE_SECONDS = 10.0
"""Beyond the longest request, until a retired process is ended whatever it does."""


class Backend(Protocol):
    """The student, wherever its copies are. Every method may raise `PromptError` (the client's fault), `BusyError` (the queue is
    full) and `EngineError` (all else). Cancelling whoever waits ends the generation."""

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        """The whole reply as one piece; asked again where a copy dies meanwhile."""
        ...

    def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        """The reply as it is written. A copy that dies before the first piece is survived; later, `EngineError`."""
        ...

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        """The student's judgement of a reply. Raises `PromptError` where it was taught by no head and cannot tell."""
        ...


@dataclass(frozen=True, slots=True)
class Escalated:
    """What the teachers made of a question."""

    id: str
    """Of the stored graph: its question's id."""
    text: str
    """The reply of a teacher that gave the debate's answer; empty where the debate has none."""
    answer: str | None
    """What the debate decided."""
    agreement: float
    """Share of the last round's replies that gave it."""
    rounds: int
    agents: tuple[str, ...]
    tokens_in: int
    tokens_out: int
    """Of all teachers, in the debate that was held now; 0 where `stored`."""
    stored: bool
    """The question had been debated before, and nobody was asked again."""
    error: str | None
    """Why there was no verdict, such as a provider that could not be reached."""


class Teachers(Protocol):
    """The debate's teachers, kept at hand."""

    async def debate(self, question: str) -> Escalated:
        """Debate a question, as its publisher would write it, and keep the graph. What goes wrong is told in `error`."""
        ...
