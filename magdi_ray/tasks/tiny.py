"""Tiny: short arithmetic stories that models of half a million parameters can read, answered by a whole number.

A row as a model reads it and as one answers it:

    kim has 8 figs . kim fills 3 bags with that many figs each . kim loses 9 figs . how many figs does kim have ?
    8 * 3 = 24 . 24 - 9 = 15 . answer 15

The task knows how to read and compare answers; where the stories come from is `magdi_ray.tiny.world`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magdi_ray.tasks.base import Question

PIECE = re.compile(r"\w+|[^\w\s]")
"""One word, number or punctuation mark: what the tiny tokenizer makes one token of."""

NUMBER = r"(?P<sign>[-+]?)\s*+(?:0(?=[0-9]))*+(?P<digits>[0-9]++)"
STATEMENT = rf"\banswer\b\s*+(?:is\b)?\s*+[:=]?\s*+{NUMBER}(?!\w|[.,][0-9])"
ANSWER = re.compile(STATEMENT, re.IGNORECASE)
CLOSING_ANSWER = re.compile(STATEMENT + r"\s*+[.!]?\s*+\Z", re.IGNORECASE)
WHOLE_NUMBER = re.compile(rf"\s*+{NUMBER}\s*+")


def compact(text: str) -> str:
    """Lower case, one space between any two words, numbers or marks: two texts that differ only in form become equal."""
    return " ".join(PIECE.findall(text.lower()))


@dataclass(frozen=True)
class Tiny:
    """The task of the tiny world. Normal form of an answer: digits without leading zeros, with "-" when negative."""

    name: str = "tiny"

    def prompt(self, question: Question) -> str:
        """The question in compact form and nothing else: tiny models know no instructions."""
        return compact(question.text)

    def extract(self, question: Question, reply: str) -> str | None:
        """The last "answer <whole number>" of a reply; None when there is none ("answer 1.5" is none)."""
        del question  # part of the contract; a tiny answer is read from the reply alone
        matches = list(ANSWER.finditer(reply))
        return _normal(matches[-1]) if matches else None

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same whole number. What is no whole number is the same as nothing."""
        if answer is None or gold is None:
            return False
        left, right = WHOLE_NUMBER.fullmatch(answer), WHOLE_NUMBER.fullmatch(gold)
        return left is not None and right is not None and _normal(left) == _normal(right)

    def state(self, answer: str) -> str:
        """ "answer 15"."""
        return f"answer {answer}"

    def reasoning(self, reply: str) -> str:
        """The reply without the answer statement at its end; one in the middle is reasoning and stays."""
        return CLOSING_ANSWER.sub("", reply).strip()


def _normal(match: re.Match[str]) -> str:
    # Digits stay text: int() refuses more than 4300 of them, and reading an answer must never raise.
    negative = match["sign"] == "-" and match["digits"] != "0"
    return ("-" if negative else "") + match["digits"]
