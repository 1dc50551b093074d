"""Reading a reply: what answer it gives and how sure it says it is. Pure; nothing is ever invented."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from magdi_ray.agents.base import Reply
from magdi_ray.debate.transcript import Ask, ConfidenceSource, Turn
from magdi_ray.tasks.base import Question, Task

AMOUNT = r"(?P<value>\d+(?:\.\d+)?)\s*(?:(?P<unit>%|percent\b)|(?:/|out\s+of)\s*(?P<whole>\d+(?:\.\d+)?))?"
STATED = re.compile(
    rf"""\(?\b(?:my\s+)?confidence(?:[ _](?:level|score))?\b["'*]*
    \s*(?:is|[:=])?\s*(?:(?:very|quite|rather)\s+)?(?:high|medium|moderate|low|about|around)?[\s"'*(~]*
    {AMOUNT}["'*)]*\.?(?![\d])""",
    re.IGNORECASE | re.VERBOSE,
)
"""Confidence: 0.8, confidence level is 80%, "confidence": 8/10, confidence: high (0.9)"""
PERSONAL = re.compile(
    rf"\(?\b(?:i(?:'m|\s+am)\s+)?(?:about\s+)?{AMOUNT}\s+(?:confident|confidence|sure|certain)\b\)?\.?", re.IGNORECASE
)
"""I am 90% sure"""


@dataclass(frozen=True, slots=True)
class Statement:
    """A reply's text with its confidence statements taken out, and the confidence stated last."""

    text: str
    confidence: float | None


def split_confidence(text: str) -> Statement:
    """Take stated confidences ("Confidence: 0.8", "confidence level is 80%", "8 out of 10") out of a text.

    Must run before the answer is read, or the confidence would be read as the answer of an arithmetic question. A statement is
    taken out even where its value means nothing ("Confidence: 140"); the confidence is then None.
    """
    found = [*STATED.finditer(text)] or [m for m in PERSONAL.finditer(text) if m["unit"] or m["whole"]]
    if not found:
        return Statement(text, None)
    for match in reversed(found):
        text = text[: match.start()] + text[match.end() :]
    return Statement(text.strip(), _share(found[-1]))


def _share(match: re.Match[str]) -> float | None:
    """A stated amount as a number in [0, 1]; None where its scale cannot be told (a bare 7 may be of 10 or of 100)."""
    value = float(match["value"])
    if match["unit"]:
        value /= 100.0
    elif match["whole"]:
        value = value / float(match["whole"]) if float(match["whole"]) > 0 else math.inf
    elif value > 10.0:
        value /= 100.0
    return value if 0.0 <= value <= 1.0 else None


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
