"""What is known of each task beside its rules: what it asks, what an answer is, how its questions are published.

A name of the Hugging Face hub stands with the configuration it takes (`task.subset`), if any:

    "allenai/ai2_arc (ARC-Challenge)"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "expression", "yes or no", "number, yes or no", "letter"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One task."""

    name: str
    asks: str
    answer: Kind
    published: str
    """The files as their authors published them; "none" where questions are generated."""
    hub: tuple[str, ...] = ()
    """Where the hub has rows that are read as they are."""


CATALOGUE = (
    Entry("gsm8k", "grade-school word problems", "number", "JSON lines: question, answer (#### 72)", ("openai/gsm8k (main)",)),
    Entry(
        "math",
        "competition mathematics",
        "expression",
        "a JSON file a problem: problem, level, type, solution",
        ("EleutherAI/hendrycks_math (algebra, ...)",),
    ),
    Entry(
        "strategyqa",
        "questions that need several facts",
        "yes or no",
        "JSON array: qid, question, answer, facts",
        ("ChilleD/StrategyQA",),
    ),
    Entry(
        "commonsenseqa",
        "everyday questions, five options",
        "letter",
        "JSON lines: id, question {stem, choices}, answerKey; ECQA: CSV",
        ("tau/commonsense_qa",),
    ),
    Entry(
        "arc",
        "science questions, three to five options",
        "letter",
        "JSON lines: id, question {stem, choices}, answerKey",
        ("allenai/ai2_arc (ARC-Challenge)",),
    ),
    Entry("boolq", "questions about a passage", "yes or no", "JSON lines: question, title, answer, passage", ("google/boolq",)),
    Entry("svamp", "short arithmetic stories", "number", "JSON array: ID, Body, Question, Answer", ("ChilleD/SVAMP",)),
    Entry(
        "aqua",
        "algebraic word problems, five options",
        "letter",
        "JSON lines: question, options, rationale, correct",
        ("deepmind/aqua_rat (raw)",),
    ),
    Entry("ecare", "which sentence is a cause or an effect", "letter", "JSON lines of FORD's debates: Q, O, A"),
    Entry("tiny", "the bundled offline world", "number", "none"),
    Entry("small", "a richer offline world, whose models are built", "number, yes or no", "none"),
)
"""Every task, in the order in which they are listed."""

KINDS: dict[str, Kind] = {entry.name: entry.answer for entry in CATALOGUE}
