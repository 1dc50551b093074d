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
from magdi_ray.tasks.choices import normal_yes_no, read_yes_no, without_closing
from magdi_ray.tasks.rows import named_question, row_text

PROMPT = '{question}\n\nThink step by step. End your answer with the sentence "The answer is X.", where X is yes or no.'
WORDS = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


@dataclass(frozen=True, slots=True)
class StrategyQa:
    """The task: "yes" or "no"."""

    name: str = "strategyqa"

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


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer, its solution the row's facts.

    Raises:
        ValueError: no question text, or an answer that is neither yes nor no.
    """
    text, answer = row_text(row, "question"), row.get("answer")
    gold = WORDS.get(str(answer).strip().lower()) if isinstance(answer, bool | str) else None
    if gold is None and answer not in (None, ""):
        raise ValueError(f'required true or false under "answer"; found {answer!r}')
    facts = row.get("facts")
    stated = [str(fact).strip() for fact in facts] if isinstance(facts, Sequence) and not isinstance(facts, str) else []
    return named_question("strategyqa", text, gold, split, row.get("qid", row.get("id")), solution=" ".join(stated))
