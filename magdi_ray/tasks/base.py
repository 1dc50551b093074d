"""A task: a kind of question, how it is put to a model, how the answer is read and when two answers are the same.

A task knows nothing of agents, debates or training. It is stateless: where questions come from is an argument of `load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "dev", "test", "ood"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test", "ood")


@dataclass(frozen=True, slots=True)
class Question:
    """One question; the frozen row that travels through every stage."""

    id: str
    """Unique within a run."""
    text: str
    """The question as its publisher wrote it, without instructions."""
    gold: str | None = None
    """The right answer as the task writes answers ("1200", "yes"); None where nobody knows it (production)."""
    split: Split = "train"
    solution: str | None = None
    """The worked solution or explanation published with the question, without its final answer; None where there is none."""


class Task(Protocol):
    """Four verbs on questions. `extract` and `same` are total: they never raise on any text.

    The contract every task is tested against: `extract(q, state(gold)) is not None` and `same` to the gold.
    """

    @property
    def name(self) -> str:
        """What configurations call the task."""
        ...

    def __hash__(self) -> int:
        """Tasks of one kind and equal settings are equal: what they read is remembered."""
        ...

    def prompt(self, question: Question) -> str:
        """The user message that asks the question and says how the answer is to be written."""
        ...

    def extract(self, question: Question, reply: str) -> str | None:
        """The answer a reply gives, in the task's normal form; None when it gives none. Never invents one."""
        ...

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether two answers are equivalent under the task's rule; None is the same as nothing, not even None."""
        ...

    def state(self, answer: str) -> str:
        """The closing sentence that states an answer, such as "The answer is 42."."""
        ...

    def reasoning(self, reply: str) -> str:
        """The reply without its closing answer statement: what a student is taught before the answer sentence."""
        ...


def group_same(task: Task, answers: Sequence[str | None]) -> list[list[int]]:
    """Partition positions of `answers` into groups of equivalent answers, in order of first appearance.

    Positions whose answer is None belong to no group.
    """
    groups: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for group in groups:
            if task.same(answer, answers[group[0]]):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups
