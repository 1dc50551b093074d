"""Figures that hold: accuracy with its interval, paired differences, tokens, cost. Pure.

Intervals are at 95%. A difference is only ever taken over questions both systems answered. A student that was trained with
several seeds is measured over all of them, and its intervals hold for other seeds and other questions alike (`crossed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from magdi_ray.evaluate.answers import Answer, Method

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """How one system did on one split of one task."""

    system: str
    split: str
    questions: int
    accuracy: float
    low: float
    high: float
    """Wilson score interval; over several seeds that of `crossed`, unless all of them answered alike."""
    unanswered: float
    """Replies in which no answer could be read; over several seeds, their mean."""
    errors: float
    """Questions on which the system gave no reply, which count as wrong; over several seeds, their mean."""
    tokens_out: float
    """Mean tokens generated a question."""
    tokens_in: float
    """Mean tokens read a question."""
    task: str = ""
    method: Method = "single"
    samples: int = 1
    """Replies an answer was taken from."""
    seeds: int = 1
    sd: float | None = None
    """Standard deviation of the accuracy between seeds; None for one seed."""
    seconds: float | None = None
    """Mean time a single reply takes; None where nobody measured it."""
    usd: float | None = None
    """Mean cost of a question; None where a price is unknown."""


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
    """Agresti-Min interval for a difference of paired proportions; over several seeds that of `crossed`."""
    gained: int | None
    """Questions `system` has right and `reference` wrong; None over several seeds."""
    lost: int | None
    p_value: float
    """Exact McNemar test; over several seeds the t-test of `crossed`."""
    task: str = ""
    method: Method = "single"
    reference_method: Method = "single"
    seeds: int = 1


class Key(NamedTuple):
    """What is measured: one system, asked in one way, on one split of one task."""

    task: str
    split: str
    system: str
    method: Method = "single"


class Crossed(NamedTuple):
    """A mean over seeds and questions."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the mean being 0."""


Groups = Mapping[Key, Sequence[Answer]]


def grouped(answers: Iterable[Answer]) -> dict[Key, list[Answer]]:
    """Answers by what is measured, in order of first appearance; single draws of a self-consistency are left out."""
    groups: dict[Key, list[Answer]] = {}
    for answer in answers:
        if answer.method != "sample":
            groups.setdefault(Key(answer.task, answer.split, answer.system, answer.method), []).append(answer)
    return groups


def crossed(values_SQ: np.ndarray) -> Crossed:
    """Mean of values for S >= 2 seeds and Q >= 2 questions, with an interval that treats both as drawn at random.

    Seeds and questions are crossed: a hard question is hard for every seed. The variance of the mean is (MS_seeds + MS_questions
    - MS_rest) / SQ, its degrees of freedom Satterthwaite's (1946). Where the difference falls below the larger of both parts,
    which chance may bring about, that part is taken: the interval errs on the wide side.
    """
    seeds, questions = values_SQ.shape
    mean, row_S, column_Q = float(values_SQ.mean()), values_SQ.mean(axis=1), values_SQ.mean(axis=0)
    between_seeds = questions * float(row_S.var(ddof=1))
    between_questions = seeds * float(column_Q.var(ddof=1))
    rest_SQ = values_SQ - row_S[:, None] - column_Q[None, :] + mean
    freedom = (seeds - 1, questions - 1, (seeds - 1) * (questions - 1))
    rest = float((rest_SQ**2).sum()) / freedom[2]
    squares = max(between_seeds + between_questions - rest, between_seeds, between_questions)
    if squares == 0.0:
        return Crossed(mean, mean, mean, 0.0 if mean else 1.0)
    parts = zip((between_seeds, between_questions, rest), freedom, strict=True)
    df = max(1.0, squares**2 / sum(part**2 / degrees for part, degrees in parts))
    error = math.sqrt(squares / (seeds * questions))
    width = float(student_t.ppf(0.5 + CONFIDENCE / 2, df)) * error
    return Crossed(mean, mean - width, mean + width, float(2 * student_t.sf(abs(mean) / error, df)))


def score(answers: Sequence[Answer], *, seconds: float | None = None) -> Score:
    """The score of one system, asked in one way, on one split. Needs at least one answer. `seconds` a reply takes, if known."""
    right = sum(answer.correct for answer in answers)
    count = len(answers)
    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    low, high, sd = float(interval.low), float(interval.high), None
    ids, right_SQ = _matrix(answers)
    seeds = right_SQ.shape[0]
    if seeds > 1:
        sd = float(right_SQ.mean(axis=1).std(ddof=1))
        if len(ids) > 1 and not _alike(right_SQ):
            over = crossed(right_SQ)
            low, high = max(0.0, over.low), min(1.0, over.high)
        else:
            alone = binomtest(round(right / seeds), len(ids)).proportion_ci(CONFIDENCE, method="wilson")
            low, high = float(alone.low), float(alone.high)
    costs = [answer.usd for answer in answers if answer.usd is not None]
    return Score(
        system=answers[0].system,
        split=answers[0].split,
        questions=count // seeds,
        accuracy=right / count,
        low=low,
        high=high,
        unanswered=sum(answer.answer is None and answer.error is None for answer in answers) / seeds,
        errors=sum(answer.error is not None for answer in answers) / seeds,
        tokens_out=sum(answer.tokens_out for answer in answers) / count,
        tokens_in=sum(answer.tokens_in for answer in answers) / count,
        task=answers[0].task,
        method=answers[0].method,
        samples=max(1, answers[0].sample),
        seeds=seeds,
        sd=sd,
        seconds=seconds,
        usd=sum(costs) / count if len(costs) == count else None,
    )


def scores(answers: Iterable[Answer], *, seconds: Mapping[Key, float] | None = None) -> list[Score]:
    """Scores of every system on every split, in order of first appearance. `seconds`: what a reply takes."""
    return [score(group, seconds=(seconds or {}).get(key)) for key, group in grouped(answers).items()]


def difference(system: Sequence[Answer], reference: Sequence[Answer]) -> Difference:
    """Paired difference over the questions both answered, seed by seed where both have several.

    Beside several seeds a single training, like a system without seeds, is taken as it is. Two ways of asking one system are
    compared training by training.

    The interval for one seed is Agresti and Min's (2005): half a question is added to each of the four cells of the 2 x 2 table,
    which keeps the coverage of the simple interval honest for small samples.

    Raises:
        ValueError: the systems share no question.
    """
    if system[0].system == reference[0].system and system[0].method != reference[0].method:
        shared = {answer.seed for answer in system} & {answer.seed for answer in reference}
        system, reference = ([answer for answer in side if answer.seed in shared] for side in (system, reference))
    mine_ids, mine_SQ = _matrix(system)
    other_ids, theirs_SQ = _matrix(reference)
    place = {question: number for number, question in enumerate(other_ids)}
    common = [number for number, question in enumerate(mine_ids) if question in place]
    if not common:
        raise ValueError(f"{system[0].system!r} and {reference[0].system!r} answered no common question")
    mine_SQ = mine_SQ[:, common]
    theirs_SQ = theirs_SQ[:, [place[mine_ids[number]] for number in common]]
    seeds = _paired_seeds(len(mine_SQ), len(theirs_SQ))
    values_SQ = mine_SQ[:seeds] - theirs_SQ[:seeds]  # one row is broadcast
    gained: int | None = None
    lost: int | None = None
    if _alike(values_SQ):
        gained, lost = int((values_SQ[0] > 0).sum()), int((values_SQ[0] < 0).sum())
        found = _agresti_min(len(common), gained, lost)
    else:
        found = crossed(values_SQ) if len(common) > 1 else Crossed(float(values_SQ.mean()), -1.0, 1.0, 1.0)
    return Difference(
        system=system[0].system,
        reference=reference[0].system,
        split=system[0].split,
        questions=len(common),
        difference=found.mean,
        low=max(-1.0, found.low),
        high=min(1.0, found.high),
        gained=gained if len(values_SQ) == 1 else None,
        lost=lost if len(values_SQ) == 1 else None,
        p_value=found.p_value,
        task=system[0].task,
        method=system[0].method,
        reference_method=reference[0].method,
        seeds=len(values_SQ),
    )


def differences(groups: Groups, comparisons: Iterable[tuple[tuple[str, Method], tuple[str, Method]]]) -> list[Difference]:
    """Paired differences of named ((system, method), (reference, method)) pairs wherever both answered something."""
    chosen, places = list(comparisons), list(dict.fromkeys((key.task, key.split) for key in groups))
    pairs = [(Key(*place, *one), Key(*place, *other)) for place in places for one, other in chosen]
    return [difference(groups[one], groups[other]) for one, other in pairs if one in groups and other in groups]


def _paired_seeds(mine: int, theirs: int) -> int:
    """How many seeds are compared; a system without seeds is the same beside every one."""
    return max(mine, theirs) if 1 in (mine, theirs) else min(mine, theirs)


def _alike(values_SQ: np.ndarray) -> bool:
    """Whether all seeds did the same on every question: then they tell no more than one of them."""
    return bool((values_SQ == values_SQ[0]).all())


def _agresti_min(questions: int, gained: int, lost: int) -> Crossed:
    count, up, down = questions + 2.0, gained + 0.5, lost + 0.5
    centre = (up - down) / count
    width = float(norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt((up + down) - (up - down) ** 2 / count) / count
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Crossed((gained - lost) / questions, centre - width, centre + width, p_value)


def _matrix(answers: Sequence[Answer]) -> tuple[list[str], np.ndarray]:
    """Question ids, and 1.0 where seed s has question q right; questions that not every seed was asked are left out."""
    right: dict[int, dict[str, bool]] = {}
    for answer in answers:
        right.setdefault(answer.seed, {})[answer.question_id] = answer.correct
    rows = [right[seed] for seed in sorted(right)]
    ids = [question for question in rows[0] if all(question in row for row in rows)]
    return ids, np.array([[float(row[question]) for question in ids] for row in rows])
