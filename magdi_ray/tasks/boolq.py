r"""BoolQ: yes/no questions that people asked, each with the passage that answers it (Clark et al. 2019, arXiv 1905.10044).

A row of the published `train.jsonl` / `dev.jsonl`; the hub's rows have no `title`:

    {"question": "do iran and afghanistan speak the same language", "title": "Persian language", "answer": true,
     "passage": "Persian, also known by its endonym Farsi, is one of the Western Iranian languages within ..."}

A question's text is its passage, an empty line and the question as it was asked, so that it can be answered from the text alone:

    "Persian, also known by its endonym Farsi, is one of ...\n\ndo iran and afghanistan speak the same language"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.rows import named_question, row_text
from magdi_ray.tasks.yesno import YesNo, yes_no_gold


@dataclass(frozen=True, slots=True)
class BoolQ(YesNo):
    """The task: "yes" or "no"."""

    name: str = "boolq"


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, no passage, or an answer that is neither yes nor no.
    """
    text = f"{row_text(row, 'passage').strip()}\n\n{row_text(row, 'question').strip()}"
    return named_question("boolq", text, yes_no_gold(row), split, row.get("id"))
