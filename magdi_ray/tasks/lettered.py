"""What tasks share whose questions hold lettered options and whose answers are one letter. A set's own file says which letters.

How a letter is read from a reply is `magdi_ray.tasks.choices`' business. Published rows hold their options in one of two shapes:

    "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "library"}]
    "choices": {"label": ["A", "B"], "text": ["bank", "library"]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question
from magdi_ray.tasks.choices import answer_of, closed_reasoning, same_letter
from magdi_ray.tasks.rows import row_text

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


def stem_and_choices(row: Mapping[str, Any]) -> tuple[str, object]:
    """The question of a row and its choices as they were published: both under `question`, or side by side.

    Raises:
        ValueError: no question text.
    """
    held = row.get("question")
    nested = held if isinstance(held, Mapping) else {"stem": held, "choices": row.get("choices")}
    return row_text(nested, "stem"), nested.get("choices")


def labelled_choices(choices: object, *, like: Sequence[str], fewest: int) -> tuple[list[str], list[str]]:
    """Labels and texts of published choices, of either shape, in their order.

    Raises:
        ValueError: fewer choices than `fewest`, labels that are none of the series in `like`, or a choice without a text.
    """
    if isinstance(choices, Mapping):
        labels, texts = choices.get("label"), choices.get("text")
        pairs = list(zip(labels, texts, strict=False)) if isinstance(labels, Sequence) and isinstance(texts, Sequence) else []
    else:
        items = choices if isinstance(choices, Sequence) and not isinstance(choices, str) else []
        pairs = [(item.get("label"), item.get("text")) for item in items if isinstance(item, Mapping)]
    found = [str(label) for label, _ in pairs]
    if len(found) < fewest or not any(found == list(series[: len(found)]) for series in like):
        raise ValueError(f'required at least {fewest} "choices" labelled {" or ".join(like)}; found {choices!r}')
    return found, [row_text({"text": text}, "text") for _, text in pairs]


def gold_letter(answer: object, labels: Sequence[str], *, key: str) -> str | None:
    """The letter in the place of the label a row answers with; None where it has no answer.

    Raises:
        ValueError: an answer that is none of the labels.
    """
    written = str(answer).strip() if answer is not None else ""
    if written and written not in labels:
        raise ValueError(f'required one of {"".join(labels)} under "{key}"; found {answer!r}')
    return chr(ord("A") + labels.index(written)) if written else None
