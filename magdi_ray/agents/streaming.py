"""An engine that hands over its reply while it writes it. What serving asks of a model, beyond what a debate needs.

`Engine` answers messages with one `Reply`. A `StreamingEngine` also takes plain text or token ids, penalties and an adapter, and
gives log-probabilities and the reply in pieces. It knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from magdi_ray.agents.base import FinishReason, Message, Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued: exactly one of a conversation, a plain text, or token ids."""

    messages: tuple[Message, ...] | None = None
    """Put through the model's chat template."""
    text: str | None = None
    """Encoded as it is, with the special tokens the tokenizer puts in front of any text."""
    ids: tuple[int, ...] | None = None


class Decoding(Sampling):
    """`Sampling`, and what only our own engines do. Field names are OpenAI's."""

    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Subtracted from a token's logit for every time the reply holds it already."""
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Subtracted from a token's logit once, where the reply holds it already."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Log-probabilities of the chosen tokens and so many of the likeliest; None asks for none."""
    adapter: str | None = None
    """Name of one of the engine's adapters; None is the model alone."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token that was written, under the model's own distribution: before penalties, temperature and top_p."""

    text: str
    """What the token says by itself; of a character of several tokens, U+FFFD."""
    raw: bytes
    """Its bytes, from which a character of several tokens can be put together."""
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()
    """(text, bytes, log-probability) of the likeliest tokens, likeliest first."""
    offset: int | None = None
    """Where it begins in the whole reply's text, in characters; special tokens are no text, and what follows one begins where it
    does. None where the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply, or all of it. The texts of all pieces, joined, are the reply."""

    text: str
    """Never a part of a character, nor of a stop string."""
    tokens_in: int
    """Prompt tokens read."""
    tokens_out: int
    """Tokens generated from the start of the reply, the end-of-sequence token included."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this piece, where asked for; a stop string's and the end-of-sequence token are left out."""
    finish_reason: FinishReason | None = None
    """Set on the last piece, and only there."""
    confidence: float | None = None
    """On the last piece: mean probability of the generated tokens, in [0, 1]; None where the engine cannot tell."""
    queued_s: float = 0.0
    """Seconds the request waited before the model read it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How good a reply to a prompt is, as the student itself sees it."""

    logprob: float
    """log p(reply | prompt), summed over the reply's tokens, its end-of-sequence token included."""
    tokens: int
    """Tokens of the reply, the end-of-sequence token included."""
    contrast: float | None
    """tanh score in (-1, 1) of the head that was trained to set correct above incorrect replies; None without that head."""
    correct: float | None
    """Probability in [0, 1] that the reply is correct: the verifier's where there is one, else the graph network's for the reply
    as a graph of one node; None without either."""

    @property
    def merit(self) -> float | None:
        """How likely the reply is correct, in [0, 1]: `correct`, else `contrast` moved to [0, 1]; None without any head."""
        if self.correct is not None:
            return self.correct
        return None if self.contrast is None else (self.contrast + 1.0) / 2.0


class StreamingEngine(Protocol):
    """Closing the iterator, or cancelling whoever awaits it, ends the generation."""

    def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        """The reply as it is written, last piece included.

        Raises:
            PromptError: the prompt cannot be put to the model; `ContextLengthError` where it is too long.
            EngineError: the engine could not answer.
        """
        ...


def joined(pieces: Sequence[Piece]) -> Piece:
    """All pieces of one reply as one."""
    last = pieces[-1]
    return Piece(
        text="".join(piece.text for piece in pieces),
        tokens_in=last.tokens_in,
        tokens_out=last.tokens_out,
        logprobs=tuple(token for piece in pieces for token in piece.logprobs),
        finish_reason=last.finish_reason,
        confidence=last.confidence,
        queued_s=max(piece.queued_s for piece in pieces),
    )
