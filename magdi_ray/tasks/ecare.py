r"""e-CARE: which of two sentences is the cause or the effect of a third (Du et al. 2022, arXiv 2205.05849).

A row as the debates of FORD publish it (`round0/ecare_agreed.jsonl` of github.com/Waste-Wood/FORD); its other fields are the
debate's:

    {"Q": "Otters enter their new habitat. What happened as a result?", "A": "(A)",
     "O": "(A) Otters start looking for abalone for food. (B) They always live by the water so that they can drink water easily."}

A question's text holds its two options, a line each, so that it can be asked on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.choices import answer_of, closed_reasoning, lettered, normal_letter, options_of, same_letter
from magdi_ray.tasks.rows import named_question, row_text

PROMPT = '{question}\n\nThink step by step. End your answer with the sentence "The answer is (X).", where X is A or B.'


@dataclass(frozen=True, slots=True)
class ECare:
    """The task: "A" or "B"."""

    name: str = "ecare"

    def prompt(self, question: Question) -> str:
        """The question with its options and how its answer is to be written."""
        return PROMPT.format(question=question.text)

    def extract(self, question: Question, reply: str) -> str | None:
        """The letter of the option a reply answers with, by letter or by text (`magdi_ray.tasks.choices`)."""
        return answer_of(question.text, reply)

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same letter, "(b)" and "B" alike."""
        return same_letter(answer, gold)

    def state(self, answer: str) -> str:
        """ "The answer is (A)."."""
        return f"The answer is ({answer})."

    def reasoning(self, reply: str) -> str:
        """The reply without its closing statement; "" where it is nothing else."""
        return closed_reasoning(reply)


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one row; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, not two options, or an answer that is neither.
    """
    stem, options, answer = row_text(row, "Q"), options_of(row_text(row, "O")), row.get("A") or None
    if len(options) != 2:
        raise ValueError(f'required two options "(A) ... (B) ..." under "O"; found {row["O"]!r}')
    gold = normal_letter(answer) if isinstance(answer, str) else None
    if answer is not None and gold not in ("A", "B"):
        raise ValueError(f'required "(A)" or "(B)" under "A"; found {answer!r}')
    return named_question("ecare", lettered(stem, options), gold, split, row.get("id"))
