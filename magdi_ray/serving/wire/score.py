"""POST /v1/score: how good the student itself thinks a reply is.

{"model": "student", "messages": [{"role": "user", "content": "2 + 2?"}], "reply": "The answer is 4."}
"""

from __future__ import annotations

from typing import Literal

from magdi_ray.agents.streaming import Prompt, Scores
from magdi_ray.serving.wire.chat import Messages, conversation
from magdi_ray.serving.wire.fields import Answer, Body, Name


class ScoreRequest(Body):
    """The body of POST /v1/score."""

    model: Name
    messages: Messages
    """The question, as it would be asked."""
    reply: str
    """The reply to rate. It may be anyone's."""
    user: Name | None = None
    """Accepted; not used."""

    def prompt(self) -> Prompt:
        """The question."""
        return Prompt(messages=conversation(self.messages))


class ScoreValues(Answer):
    """The student's judgement."""

    contrast: float | None
    """In (-1, 1): the head that was trained to set correct above incorrect replies; null without that head."""
    correct: float | None
    """Probability in [0, 1] of the label `correct`; null without that head."""
    logprob: float
    """log p(reply | prompt), summed over the reply's tokens, its end-of-sequence token included."""
    mean_logprob: float
    """The same per token."""
    tokens: int
    """Tokens of the reply, the end-of-sequence token included."""


class ScoreResponse(Answer):
    """The answer to POST /v1/score."""

    object: Literal["score"] = "score"
    model: str
    scores: ScoreValues

    @classmethod
    def of(cls, model: str, scores: Scores) -> ScoreResponse:
        """A backend's scores."""
        return cls(
            model=model,
            scores=ScoreValues(
                contrast=scores.contrast,
                correct=scores.correct,
                logprob=scores.logprob,
                mean_logprob=scores.logprob / max(scores.tokens, 1),
                tokens=scores.tokens,
            ),
        )
