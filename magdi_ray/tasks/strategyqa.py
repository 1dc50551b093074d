r"""StrategyQA: questions that need several facts, answered by yes or no (Geva et al. 2021, arXiv 2101.02235).

A row of the published JSON array (`train.json`, `dev.json`); an `answer` written as "yes" or "no" is read too:

    {"qid": "2bc9c4f9c19c167187f2", "term": "Genghis Khan", "description": "founder and first Great Khan of the Mongol Empire",
     "question": "Are more people today related to Genghis Khan than Julius Caesar?", "answer": true,
     "facts": ["Julius Caesar had three children.", ...], "decomposition": [...], "evidence": [...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.rows import named_question, row_text
from magdi_ray.tasks.yesno import YesNo, yes_no_gold


@dataclass(frozen=True, slots=True)
class StrategyQa(YesNo):
    """The task: "yes" or "no"."""

    name: str = "strategyqa"


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer, its solution the row's facts.

    Raises:
        ValueError: no question text, or an answer that is neither yes nor no.
    """
    text, gold, facts = row_text(row, "question"), yes_no_gold(row), row.get("facts")
    stated = [str(fact).strip() for fact in facts] if isinstance(facts, Sequence) and not isinstance(facts, str) else []
    return named_question("strategyqa", text, gold, split, row.get("qid", row.get("id")), solution=" ".join(stated))
