"""What tasks share whose questions hold lettered options and whose answers are one letter. A set's own file says which letters.

How a letter is read from a reply is `magdi_ray.tasks.choices`' business.
"""

from __future__ import annotations

from dataclasses import dataclass

from magdi_ray.tasks.base import Question
from magdi_ray.tasks.choices import answer_of, closed_reasoning, same_letter

PROMPT = '{question}\n\nThink step by step. End your answer with the sentence "The answer is (X).", where X is {letters}.'


@dataclass(frozen=True, slots=True)
class Lettered:
    """The task: one letter."""

    name: str
    letters: str
    """The letters, as the prompt names them."""

    def prompt(self, question: Question) -> str:
        """The question with its options and how its answer is to be written."""
        return PROMPT.format(question=question.text, letters=self.letters)

    def extract(self, question: Question, reply: str) -> str | None:
        """The letter of the option a reply answers with, by letter or by text (`magdi_ray.tasks.choices`)."""
        return answer_of(question.text, reply)

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same letter, "(c)" and "C" alike."""
        return same_letter(answer, gold)

    def state(self, answer: str) -> str:
        """ "The answer is (C)."."""
        return f"The answer is ({answer})."

    def reasoning(self, reply: str) -> str:
        """The reply without its closing statement; "" where it is nothing else."""
        return closed_reasoning(reply)
