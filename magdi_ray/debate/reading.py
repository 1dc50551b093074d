"""Reading a reply: what answer it gives and how sure it says it is. Pure; nothing is ever invented.

A structured reply (`magdi_ray.debate.structured`) is rewritten as prose: its reasoning, its answer in the task's closing sentence
and, where it states one, its confidence. A turn then looks the same whichever way its agent was asked; the raw reply stays in the
reply store.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from magdi_ray.agents.base import Message, Reply
from magdi_ray.debate.structured import Fields, read_fields
from magdi_ray.debate.transcript import Ask, ConfidenceSource, Debate, Turn
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.rows import HALF_A_PAIR

AMOUNT = (
    r"(?P<value>\d++(?:\.\d++)?)\s{0,20}"
    r"(?:(?P<unit>%|percent\b)|(?:/|out\s{1,20}of)\s{0,20}(?P<whole>\d++(?:\.\d++)?))?"
)
STATED = re.compile(
    rf"""\(?\b(?:my\s+)?confidence(?:[ _](?:level|score))?\b["'*]*+
    \s*+(?:is|[:=])?\s*+(?:(?:very|quite|rather)\s++)?(?:high|medium|moderate|low|about|around)?[\s"'*(~]*+
    {AMOUNT}["'*)]*\.?(?![\d])""",
    re.IGNORECASE | re.VERBOSE,
)
"""Confidence: 0.8, confidence level is 80%, "confidence": 8/10, confidence: high (0.9)"""
PERSONAL = re.compile(
    rf"\(?\b(?:i(?:'m|\s+am)\s+)?(?:about\s+)?{AMOUNT}\s+(?:confident|confidence|sure|certain)\b\)?\.?", re.IGNORECASE
)
"""I am 90% sure"""

REPAIR = """\
No answer can be read from your reply. State your answer again, and nothing else, in exactly the form that was asked for. \
If you have not come to an answer, say that you do not know."""
"""The message that asks once more."""


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
    found = [*STATED.finditer(text, _first_mention(text))] or [m for m in PERSONAL.finditer(text) if m["unit"] or m["whole"]]
    if not found:
        return Statement(text, None)
    begins = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    kept = "".join(text[begin:end] for begin, end in zip(begins, ends, strict=True))
    return Statement(kept.strip(), _share(found[-1]))


def _first_mention(text: str) -> int:
    """Where the search for "confidence" may begin; what may stand before the word is "(my"."""
    if not text.isascii():
        return 0  # beyond ASCII, letters such as "ı" count as others
    at = text.lower().find("confidence")
    return len(text) if at < 0 else max(0, len(text[:at].rstrip()) - len("(my"))


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
    text, answer, stated = read_reply(task, question, reply.text)
    confidence = reply.confidence if stated is None else stated
    source: ConfidenceSource = "token_probability" if stated is None else "stated"
    return Turn(
        agent=ask.agent,
        round=ask.round,
        shown=ask.shown,
        text=text,
        answer=answer,
        confidence=confidence,
        confidence_source="none" if confidence is None else source,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        model=reply.model,
        status="unparsed" if answer is None else "ok",
        role=ask.role,
    )


@lru_cache(maxsize=4096)  # a reply is read when it comes and again with its round
def read_reply(task: Task, question: Question, reply: str) -> tuple[str, str | None, float | None]:
    """A reply's text as prose, its answer and the confidence it states.

    Half of a surrogate pair, which no file could hold, is read as "?".
    """
    reply = HALF_A_PAIR.sub("?", reply)
    fields = read_fields(reply)
    if fields is None:
        statement = split_confidence(reply)
        return reply, task.extract(question, statement.text), statement.confidence
    answer = None if fields.answer is None else task.extract(question, task.state(fields.answer))
    text = _prose(task, fields, answer)
    return text, answer, split_confidence(text).confidence


@lru_cache(maxsize=4096)  # every other agent is shown the same words
def reasoning_of(task: Task, text: str) -> str:
    """What a reply says before its answer and its confidence."""
    return task.reasoning(split_confidence(text).text)


def read_round(task: Task, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
    """A debate with the turns that the replies to its asks make."""
    turns = tuple(read_turn(task, debate.question, ask, reply) for ask, reply in zip(asks, replies, strict=True))
    return replace(debate, turns=debate.turns + turns)


def _prose(task: Task, fields: Fields, answer: str | None) -> str:
    """A structured reply as prose; an answer that cannot be read stands in it as it was written, not as a statement."""
    stated = fields.answer if answer is None else task.state(answer)
    share = None if fields.confidence is None else _stated_share(fields.confidence)
    return "\n".join(filter(None, (fields.reasoning, stated, None if share is None else f"Confidence: {round(share, 4)}")))


def _stated_share(written: str) -> float | None:
    with suppress(ValueError):
        written = f"{float(written):f}"  # 1e-05 in digits
    return split_confidence(f"Confidence: {written}").confidence


def repair_messages(messages: Sequence[Message], reply: Reply) -> tuple[Message, ...]:
    """The conversation in which an agent whose reply to some messages could not be read is asked once more.

    An empty reply is not quoted (providers refuse empty messages): the request then ends the message it answered.
    """
    if reply.text.strip():
        return (*messages, Message("assistant", reply.text), Message("user", REPAIR))
    *earlier, last = messages
    return (*earlier, replace(last, content=f"{last.content}\n\n{REPAIR}"))


def merge_repair(first: Reply, second: Reply) -> Reply:
    """Two replies as one: the first one's reasoning, then what the second says. Tokens are summed, the rest is the second's.

    Of structured replies, the reasoning of the first takes the place of the second's.
    """
    before, after = read_fields(first.text), read_fields(second.text)
    reasoning = first.text.strip() if before is None else before.reasoning
    answer = second.text
    if reasoning and after is not None:
        answer = json.dumps({"answer": after.answer, "confidence": after.confidence}, ensure_ascii=False)
    return replace(
        second,
        text="\n".join(filter(None, (reasoning, answer))),
        tokens_in=first.tokens_in + second.tokens_in,
        tokens_out=first.tokens_out + second.tokens_out,
    )
