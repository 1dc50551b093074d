"""Reading a reply: what answer it gives and how sure it says it is. Pure; nothing is ever invented."""

from __future__ import annotations

import re
from dataclasses import dataclass

from magdi_ray.agents.base import Reply
from magdi_ray.debate.transcript import Ask, ConfidenceSource, Turn
from magdi_ray.tasks.base import Question, Task

CONFIDENCE = re.compile(
    r"""\(?\b(?:my\s+)?confidence(?:[ _]level)?\b["'*]*
    \s*(?:is|[:=])?\s*["'*]*\s*
    (?P<value>\d+(?:\.\d+)?)\s*(?P<unit>%?)
    ["'*]*\)?\.?""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A reply's text with its confidence statement taken out, and that confidence."""

    text: str
    confidence: float | None


def split_confidence(text: str) -> Statement:
    """Take the last stated confidence ("Confidence: 0.8", "confidence level is 80%") out of a text.

    A value outside [0, 1] (or 0% to 100%) is not a confidence: the text is returned as it is. Must run before the answer is
    read, or the confidence would be read as the answer of an arithmetic question.
    """
    matches = list(CONFIDENCE.finditer(text))
    if not matches:
        return Statement(text, None)
    last = matches[-1]
    value = float(last["value"]) / (100.0 if last["unit"] else 1.0)
    if not 0.0 <= value <= 1.0:
        return Statement(text, None)
    return Statement((text[: last.start()] + text[last.end() :]).strip(), value)


def read_turn(task: Task, question: Question, ask: Ask, reply: Reply) -> Turn:
    """The turn a reply makes: status "unparsed" and no answer where none can be read."""
    statement = split_confidence(reply.text)
    answer = task.extract(question, statement.text)
    confidence, source = statement.confidence, "stated"
    if confidence is None:
        confidence, source = reply.confidence, "token_probability"
    known: ConfidenceSource = "none" if confidence is None else "stated" if source == "stated" else "token_probability"
    return Turn(
        agent=ask.agent,
        round=ask.round,
        shown=ask.shown,
        text=reply.text,
        answer=answer,
        confidence=confidence,
        confidence_source=known,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        model=reply.model,
        status="unparsed" if answer is None else "ok",
    )
