"""Figures that hold: accuracy with its interval, paired differences, tokens. Pure.

Intervals are at 95%. A difference is only ever taken over questions both systems answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, norm

from magdi_ray.evaluate.answers import Answer

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """How one system did on one split."""

    system: str
    split: str
    questions: int
    accuracy: float
    low: float
    high: float
    """Wilson score interval."""
    unanswered: int
    """Replies in which no answer could be read."""
    errors: int
    """Questions on which the system gave no reply; they count as wrong."""
    tokens_out: float
    """Mean tokens generated a question."""
    tokens_in: float
    """Mean tokens read a question."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of `system` minus accuracy of `reference` on the same questions."""

    system: str
    reference: str
    split: str
    questions: int
    difference: float
    low: float
    high: float
    """Agresti-Min interval for a difference of paired proportions."""
    gained: int
    """Questions `system` has right and `reference` wrong."""
    lost: int
    p_value: float
    """Exact McNemar test."""


def score(answers: Sequence[Answer]) -> Score:
    """The score of one system on one split. Needs at least one answer."""
    right = sum(answer.correct for answer in answers)
    count = len(answers)
    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return Score(
        system=answers[0].system,
        split=answers[0].split,
        questions=count,
        accuracy=right / count,
        low=float(interval.low),
        high=float(interval.high),
        unanswered=sum(answer.answer is None and answer.error is None for answer in answers),
        errors=sum(answer.error is not None for answer in answers),
        tokens_out=sum(answer.tokens_out for answer in answers) / count,
        tokens_in=sum(answer.tokens_in for answer in answers) / count,
    )


def scores(answers: Iterable[Answer]) -> list[Score]:
    """Scores of every system on every split, in order of first appearance."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.split, answer.system), []).append(answer)
    return [score(group) for group in groups.values()]


def difference(system: Sequence[Answer], reference: Sequence[Answer]) -> Difference:
    """Paired difference over the questions both answered.

    The interval is Agresti and Min's (2005): half a question is added to each of the four cells of the 2 x 2 table, which
    keeps the coverage of the simple interval honest for small samples.

    Raises:
        ValueError: the systems share no question.
    """
    other = {answer.question_id: answer for answer in reference}
    pairs = [(answer.correct, other[answer.question_id].correct) for answer in system if answer.question_id in other]
    if not pairs:
        raise ValueError(f"{system[0].system!r} and {reference[0].system!r} answered no common question")
    gained = sum(mine and not theirs for mine, theirs in pairs)
    lost = sum(theirs and not mine for mine, theirs in pairs)
    count, up, down = len(pairs) + 2.0, gained + 0.5, lost + 0.5
    centre = (up - down) / count
    width = float(norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt((up + down) - (up - down) ** 2 / count) / count
    return Difference(
        system=system[0].system,
        reference=reference[0].system,
        split=system[0].split,
        questions=len(pairs),
        difference=(gained - lost) / len(pairs),
        low=max(-1.0, centre - width),
        high=min(1.0, centre + width),
        gained=gained,
        lost=lost,
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )


def differences(answers: Iterable[Answer], comparisons: Sequence[tuple[str, str]]) -> list[Difference]:
    """Paired differences of named (system, reference) pairs on every split where both answered something."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.split, answer.system), []).append(answer)
    splits = list(dict.fromkeys(split for split, _ in groups))
    return [
        difference(groups[split, system], groups[split, reference])
        for split in splits
        for system, reference in comparisons
        if (split, system) in groups and (split, reference) in groups
    ]
