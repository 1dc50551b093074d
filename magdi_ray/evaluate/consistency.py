"""Self-consistency (Wang et al. 2022, arXiv 2203.11171): of several drawn replies, the answer that most of them give. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from magdi_ray.evaluate.answers import Answer
from magdi_ray.tasks.base import Task, group_same

UNKNOWN = 0.5
"""Weight of a reply whose confidence nobody knows."""


def vote_over(task: Task, drawn: Sequence[Answer], gold: str | None, method: Literal["majority", "confidence"]) -> Answer:
    """The answer of the drawn replies of one system to one question.

    Replies without a readable answer have no say. Between answers of equal weight the more confident one wins, then the one that
    came first. Tokens and cost are those of all replies.
    """
    groups = group_same(task, [one.answer for one in drawn])

    def weight(group: list[int]) -> tuple[float, float, int]:
        sure = sum(UNKNOWN if (c := drawn[place].confidence) is None else c for place in group)
        return (sure if method == "confidence" else len(group), sure, -group[0])

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


def both_votes(task: Task, drawn: Iterable[Answer], gold: str | None) -> list[Answer]:
    """By majority and by confidence, for one system and question; nothing where nothing was drawn."""
    replies = sorted(drawn, key=lambda one: one.sample)
    return [vote_over(task, replies, gold, method) for method in ("majority", "confidence")] if replies else []
