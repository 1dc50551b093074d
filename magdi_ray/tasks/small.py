"""Small: the questions of the small world, answered by a whole number or by yes or no.

    kim has 8 figs . kim fills 3 bags with that many figs each . how many figs does kim have ?      ... answer 24
    can a hen cross a wall ?                                                                        ... answer no

The task knows how to read and compare answers; where the questions come from is `magdi_ray.small.world`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magdi_ray.tasks.base import Question
from magdi_ray.tasks.tiny import ANSWER, Tiny

STATEMENT = r"\banswer\b\s*+(?:is\b)?\s*+[:=]?\s*+(?P<word>yes|no)\b"
WORD = re.compile(STATEMENT, re.IGNORECASE)
CLOSING_WORD = re.compile(STATEMENT + r"\s*+[.!]?\s*+\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Small(Tiny):
    """The task of the small world. Normal form of an answer: a whole number as `Tiny` writes it, or "yes" or "no"."""

    name: str = "small"

    def extract(self, question: Question, reply: str) -> str | None:
        """The last "answer <whole number, yes or no>" of a reply; None when there is none."""
        number, word = list(ANSWER.finditer(reply))[-1:], list(WORD.finditer(reply))[-1:]
        if word and (not number or word[0].start() > number[0].start()):
            return word[0]["word"].lower()
        return super().extract(question, reply)

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same whole number or the same word. What is neither is the same as nothing."""
        left, right = (one.strip().lower() if one is not None else None for one in (answer, gold))
        return (left in ("yes", "no") and left == right) or super().same(answer, gold)

    def reasoning(self, reply: str) -> str:
        """The reply without the answer statement at its end; one in the middle is reasoning and stays."""
        return CLOSING_WORD.sub("", super().reasoning(reply)).strip()
