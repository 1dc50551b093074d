"""The vote: from answers and confidences to the team's answer. Pure; independent of the order of the agents.

Recalibration and weighting follow ReConcile (arXiv 2309.13007, section 3.3): models overstate their confidence, so it is
mapped to a few coarse weights before it counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from magdi_ray.tasks.base import Task, group_same


@dataclass(frozen=True, slots=True)
class Ballot:
    """One agent's answer (None: none given) and confidence in [0, 1] (None: unknown)."""

    answer: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a vote."""

    answer: str | None
    """None when no ballot holds an answer."""
    agreement: float
    """Share of all ballots, empty ones included, that gave the winning answer."""

    @property
    def consensus(self) -> bool:
        """Every agent answered, and all the same."""
        return self.answer is not None and self.agreement == 1.0


def recalibrate(confidence: float | None) -> float:
    """The weight of a confidence: 1.0 -> 1.0, [0.9, 1) -> 0.8, [0.8, 0.9) -> 0.5, (0.6, 0.8) -> 0.3, else (or None) 0.1."""
    if confidence is None:
        return 0.1
    if confidence >= 1.0:
        return 1.0
    if confidence >= 0.9:
        return 0.8
    if confidence >= 0.8:
        return 0.5
    if confidence > 0.6:
        return 0.3
    return 0.1


def tally(task: Task, ballots: Sequence[Ballot]) -> Verdict:
    """The confidence-weighted vote.

    Ties in weight go to the answer with more ballots, then to the one with the higher summed raw confidence, then to the
    answer that sorts first, so that the outcome never depends on the order of the ballots.
    """
    return _elect(task, ballots, lambda group: (_weight(group), len(group), _total(b.confidence or 0.0 for b in group)))


def majority(task: Task, ballots: Sequence[Ballot]) -> Verdict:
    """The answer with the most ballots; of several, the one with more recalibrated weight, then the one that sorts first."""
    return _elect(task, ballots, lambda group: (len(group), _weight(group)))


Strength = tuple[float, ...]


def _elect(task: Task, ballots: Sequence[Ballot], strength: Callable[[Sequence[Ballot]], Strength]) -> Verdict:
    groups = [[ballots[i] for i in group] for group in group_same(task, [ballot.answer for ballot in ballots])]
    if not groups:
        return Verdict(answer=None, agreement=0.0)
    best = max(map(strength, groups))
    winner = min((group for group in groups if strength(group) == best), key=_spelling)
    return Verdict(answer=_spelling(winner), agreement=len(winner) / len(ballots))


def _spelling(group: Sequence[Ballot]) -> str:
    return min(ballot.answer or "" for ballot in group)


def _weight(group: Sequence[Ballot]) -> float:
    return _total(recalibrate(ballot.confidence) for ballot in group)


def _total(values: Iterable[float]) -> float:
    # Rounded: the same confidences in another order must not differ in the last bit.
    return round(math.fsum(values), 9)
