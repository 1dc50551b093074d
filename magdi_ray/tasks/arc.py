r"""ARC-Challenge: school science questions with three to five options (Clark et al. 2018, arXiv 1803.05457).

A row of AI2's own jsonl (`ARC-Challenge-Dev.jsonl`), and the same as the hub and flat files have it:

    {"id": "Mercury_7103565", "question": {"stem": "High-pressure systems stop air from rising ...", "choices": [
     {"text": "fog", "label": "A"}, {"text": "rain", "label": "B"}, {"text": "drought", "label": "C"}, ...]}, "answerKey": "C"}

    {"id": "Mercury_SC_415702", "question": "George wants to warm his hands quickly by rubbing them. ...",
     "choices": {"text": ["dry palms", "wet palms", ...], "label": ["A", "B", ...]}, "answerKey": "A"}

Some questions label their options 1, 2, 3, ... in place of letters. They are asked with letters like all others, and their gold
is the letter in the place of its number: "4" is "D". ARC-Easy has the same rows and is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.choices import lettered
from magdi_ray.tasks.lettered import Lettered, gold_letter, labelled_choices, stem_and_choices
from magdi_ray.tasks.rows import named_question

LABELS = ("ABCDE", "12345")
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Arc(Lettered):
    """The task: one letter, "A" to "E"."""

    name: str = "arc"
    letters: str = "one of the letters"


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, not three to five options labelled A, B, C or 1, 2, 3, or an answer that is none of them.
    """
    stem, choices = stem_and_choices(row)
    labels, options = labelled_choices(choices, like=LABELS, fewest=FEWEST)
    gold = gold_letter(row.get("answerKey"), labels, key="answerKey")
    return named_question("arc", lettered(stem, options), gold, split, row.get("id"))
