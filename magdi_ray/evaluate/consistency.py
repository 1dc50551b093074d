"""Self-consistency (Wang et al. 2022, arXiv 2203.11171): of several drawn replies, the answer that most of them give. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from magdi_ray.evaluate.answers import VOTES, Answer, Method
from magdi_ray.tasks.base import Task, group_same

UNKNOWN = 0.5
"""Weight of a reply whose confidence nobody knows."""


def vote_over(task: Task, drawn: Sequence[Answer], gold: str | None, method: Method) -> Answer:
    """The answer of the drawn replies of one system to one question.

    Replies without a readable answer have no say. An answer's weight is the number of replies that give it (majority), the sum of
    their confidences (confidence) or of their merits (verifier), or the largest of their merits (best); a reply that could not be
    rated has none. Between answers of equal weight the more confident one wins, then the one that came first. Tokens and cost are
    those of all replies.
    """
    groups = group_same(task, [one.answer for one in drawn])

    def weight(group: list[int]) -> tuple[float, float, int]:
        sure = sum(UNKNOWN if (c := drawn[place].confidence) is None else c for place in group)
        merits = [drawn[place].merit or 0.0 for place in group]
        weights = {"confidence": sure, "verifier": sum(merits), "best": max(merits)}
        return (weights.get(method, len(group)), sure, -group[0])

    chosen = max(groups, key=weight, default=None)
    answer = None if chosen is None else drawn[chosen[0]].answer
    errors = [one.error for one in drawn if one.error is not None]
    costs = [one.usd for one in drawn if one.usd is not None]
    return replace(
        drawn[0],
        text="",
        answer=answer,
        correct=task.same(answer, gold),
        tokens_in=sum(one.tokens_in for one in drawn),
        tokens_out=sum(one.tokens_out for one in drawn),
        error=errors[0] if len(errors) == len(drawn) else None,
        method=method,
        sample=len(drawn),
        confidence=None if chosen is None else len(chosen) / len(drawn),
        usd=sum(costs) if len(costs) == len(drawn) else None,
    )


def votes_over(task: Task, drawn: Iterable[Answer], gold: str | None, *, rated: bool = False) -> list[Answer]:
    """For one system and question: by majority, by confidence and, of a system that rates its replies (`rated`), by merit.
    Nothing where nothing was drawn."""
    replies = sorted(drawn, key=lambda one: one.sample)
    methods = VOTES if rated else VOTES[:2]
    return [vote_over(task, replies, gold, method) for method in methods] if replies else []
