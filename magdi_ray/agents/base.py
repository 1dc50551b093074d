"""An engine: messages in, one reply out. A local model, an API, a recording and the distilled student all are engines.

An engine knows nothing of tasks or debates; answers are read from a reply's text by others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from magdi_ray.errors import EngineError

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


class PromptError(EngineError):
    """The prompt cannot be put to this model, however often it is tried: whoever asked has to ask otherwise."""


class ContextLengthError(PromptError):
    """The prompt and the longest allowed reply together exceed what the model can read."""


class BusyError(EngineError):
    """The engine's queue is full: the same request may well succeed in a moment."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


class Sampling(BaseModel):
    """How a reply is drawn. Field names are OpenAI's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    temperature: float = Field(0.0, ge=0.0, le=10.0)
    """0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Nucleus: the smallest set of tokens whose probabilities sum to at least this."""
    max_tokens: int = Field(512, ge=1)
    """Upper bound on generated tokens."""
    clip_to_context: bool = False
    """Where prompt and `max_tokens` exceed the model's context: shorten the reply to what is left, instead of refusing."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    seed: int | None = Field(None, ge=0)
    """Same seed, messages and weights: same reply, whatever else is in the batch. None draws one at random."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine answered."""

    text: str
    tokens_in: int
    """Prompt tokens read."""
    tokens_out: int
    """Tokens generated, the end-of-sequence token included."""
    confidence: float | None
    """Mean probability of the generated tokens under the model, in [0, 1]; None where the engine cannot tell."""
    finish_reason: FinishReason
    model: str


class Engine(Protocol):
    """Answers one conversation. Concurrent calls are welcome: engines batch by themselves."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Raise `EngineError` when no reply can be had."""
        ...


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on all parts and on nothing else (stable across processes)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
