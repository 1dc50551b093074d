r"""SVAMP: short arithmetic stories, varied so that key words mislead (Patel et al. 2021, arXiv 2103.07191).

A row of the published JSON array (`SVAMP.json`); the hub's rows have the same fields, their answer as text ("51.0"):

    {"ID": "chal-1", "Body": "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack",
     "Question": "How much do you have to pay to buy each pack?", "Equation": "( 76.0 - 25.0 )", "Answer": 51.0,
     "Type": "Subtraction"}

A question's text is its body and its question, a space between them. An equation is no worked solution: there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.answers import read_number
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.rows import named_question, row_text

_NUMBER = re.compile(r"\s*-?[0-9][0-9,]*(?:\.[0-9]+)?(?:\s*/\s*[0-9]+)?\s*")


@dataclass(frozen=True, slots=True)
class Svamp(Gsm8k):
    """The task: one number, asked for, read and compared as those of GSM8K are."""

    name: str = "svamp"


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer.

    Raises:
        ValueError: no body, no question, or an answer that is no number.
    """
    text = f"{row_text(row, 'Body').strip()} {row_text(row, 'Question').strip()}"
    answer = row.get("Answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return named_question("svamp", text, None, split, row.get("ID"))
    written = isinstance(answer, int | float | str) and not isinstance(answer, bool) and _NUMBER.fullmatch(str(answer))
    gold = read_number(str(answer)) if written else None
    if gold is None:
        raise ValueError(f'required a number under "Answer"; found {answer!r}')
    return named_question("svamp", text, gold, split, row.get("ID"))
