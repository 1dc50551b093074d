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
from magdi_ray.tasks.choices import lettered, normal_letter, options_of
from magdi_ray.tasks.lettered import Lettered
from magdi_ray.tasks.rows import named_question, row_text


@dataclass(frozen=True, slots=True)
class ECare(Lettered):
    """The task: "A" or "B"."""

    name: str = "ecare"
    letters: str = "A or B"


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
