"""What tasks share that are answered by yes or no. A set's own file says what a row holds.

How a yes or no is read from a reply is `magdi_ray.tasks.choices`' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question
from magdi_ray.tasks.choices import normal_yes_no, read_yes_no, without_closing

PROMPT = '{question}\n\nThink step by step. End your answer with the sentence "The answer is X.", where X is yes or no.'
WORDS = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


@dataclass(frozen=True, slots=True)
class YesNo:
    """The task: "yes" or "no"."""

    name: str

    def prompt(self, question: Question) -> str:
        """The question and how its answer is to be written."""
        return PROMPT.format(question=question.text)

    def extract(self, question: Question, reply: str) -> str | None:
        """The yes or no a reply answers with (`magdi_ray.tasks.choices`), a verbatim echo of the question aside."""
        echo = question.text.strip()
        return read_yes_no(reply.replace(echo, "\n") if echo else reply)

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same word, in any case."""
        left = normal_yes_no(answer)
        return left is not None and left == normal_yes_no(gold)

    def state(self, answer: str) -> str:
        """ "The answer is yes."."""
        return f"The answer is {answer}."

    def reasoning(self, reply: str) -> str:
        """The reply without its closing statement; "" where it is nothing else."""
        return without_closing(reply, lambda sentence: read_yes_no(sentence) is not None)


def yes_no_gold(row: Mapping[str, Any]) -> str | None:
    """ "yes" or "no", as a row's `answer` says: true or false, or one of these four words; None where it has no answer.

    A number is refused: whether 0 is the first or the second of two names is not said by the row.

    Raises:
        ValueError: an answer that is neither.
    """
    answer = row.get("answer")
    gold = WORDS.get(str(answer).strip().lower()) if isinstance(answer, bool | str) else None
    if gold is None and answer not in (None, ""):
        raise ValueError(f'required true or false under "answer"; found {answer!r}')
    return gold
