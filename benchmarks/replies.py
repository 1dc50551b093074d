"""What the imitated models say: replies that depend on the model and its messages, and on nothing else. Knows no HTTP.

A question is the first paragraph of the first user message; its answer comes from its hash. Each model gives that answer with a
probability at which `agents` models all agree in a share `agreement` of the cases, and otherwise a wrong one of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

Messages = Sequence[dict[str, Any]]
Author = Callable[[str, Messages], "Text"]

SENTENCES = (
    "Let us first write down what is given and what is asked, because the numbers are easy to mix up.",
    "The first quantity has to be multiplied by the second one, which leaves a product we need again below.",
    "From that product we take away what was already used in the morning and in the evening.",
    "Dividing what remains by the number of days gives the amount for each single day.",
    "One can check this step by adding the parts up again: they give the whole, as they should.",
    "The price applies to every unit alike, so the total is the number of units times the price.",
    "Nothing else in the text changes this amount, although it mentions further people and places.",
    "Another solution counts one part twice here, and I do not see a reason for doing so.",
    "Putting the pieces together, we arrive at a whole number, which is plausible for this kind of question.",
)
"""Reasoning is put together from these; about 18 tokens each."""

QUOTES = re.compile(r"other agents?\b|one agent solution|another agent|other (?:participants|debaters)", re.IGNORECASE)
"""Wordings by which a prompt announces the replies of others."""

BOXED = re.compile(r"\\boxed\{\$?([^{}]*)\}|([-\d][\d,.]*)(?=\D*$)")


class Text(tuple[str, str, float]):
    """Reasoning, answer and confidence of one reply."""

    __slots__ = ()

    def plain(self) -> str:
        """As a model writes it that was asked for no JSON."""
        reasoning, answer, confidence = self
        return f"{reasoning}\nThe answer is {answer}.\nConfidence: {confidence}" if answer else reasoning

    def structured(self) -> str:
        """As a model writes it that was asked for JSON."""
        reasoning, answer, confidence = self
        return json.dumps({"reasoning": reasoning, "answer": answer, "confidence": confidence})


def digest(*parts: str | bytes | int) -> int:
    """64 bits that depend on all parts."""
    whole = b"\x1f".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "big")


def share(*parts: str | bytes | int) -> float:
    """A number in [0, 1) that depends on all parts."""
    return digest(*parts) / 2**64


def last_user(messages: Messages) -> str:
    """The newest user message."""
    return next((str(m.get("content") or "") for m in reversed(messages) if m.get("role") == "user"), "")


@lru_cache(maxsize=4096)
def true_answer(question: str) -> int:
    """What the models take to be right."""
    return 2 + digest("answer", question) % 97


def arithmetic(*, agreement: float, agents: int, reply_tokens: int) -> Author:
    """Replies of models that calculate, and agree in a share of the cases."""
    right = agreement ** (1 / agents)
    sentences = max(1, round(reply_tokens / 18))

    def reply(model: str, messages: Messages) -> Text:
        first = next((str(m.get("content") or "") for m in messages if m.get("role") == "user"), "")
        question = first.partition("\n\n")[0]
        drawn = digest(model, *(str(m.get("content")) for m in messages))
        answer = true_answer(question)
        if (drawn & 0xFFFFFFFF) / 2**32 >= right:
            answer += 1 + digest(model, drawn) % 9
        length = max(1, sentences * (6 + (drawn >> 32) % 9) // 10)
        start = (drawn >> 40) % len(SENTENCES)
        reasoning = " ".join(SENTENCES[(start + i) % len(SENTENCES)] for i in range(length))
        return Text((reasoning, str(answer), (50 + (drawn >> 48) % 50) / 100))

    return reply


def recorded(path: Path) -> Author:
    """Replies of a published debate, `{question: [[messages of each agent], gold]}`; `agent-1` is its second agent.

    A prompt that quotes a first reply, or says that it quotes others, is a discussion and gets the agent's last reply.
    """
    debates: dict[str, Any] = json.loads(path.read_text())
    said = {
        question: [[m["content"] for m in context if m["role"] == "assistant"] for context in contexts]
        for question, (contexts, _) in debates.items()
    }

    def reply(model: str, messages: Messages) -> Text:
        prompt = last_user(messages)
        question = next((question for question in said if question in prompt), None)
        if question is None:
            raise LookupError(f"the recording holds no question that occurs in {prompt[:80]!r}")
        agents = said[question]
        mine = agents[int(model[-1]) % len(agents) if model[-1:].isdigit() else 0]
        others = prompt.replace(question, "")
        quoted = any(text[:60] in others for agent in agents for text in agent)
        text = mine[-1] if quoted or QUOTES.search(others) else mine[0]
        return Text((text, "", 0.8))

    return reply


def boxed(text: str) -> str:
    """The answer within a recorded reply, for the reply as JSON."""
    found = [match[1] or match[2] or "" for match in BOXED.finditer(text)]
    return found[-1].strip(" .,") if found else ""


def tokens_of(text: str) -> int:
    """Tokens as this provider counts them: four bytes each."""
    return (len(text.encode()) + 3) // 4


def prompt_tokens(messages: Messages) -> int:
    """Tokens of a conversation as this provider counts them."""
    return sum(3 + tokens_of(str(m.get("content") or "")) for m in messages)
