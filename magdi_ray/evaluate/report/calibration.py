"""Whether those who are sure are right: how often answers given at each confidence are right. Pure.

An answer of confidence c counts in the bin of the unit interval that c falls into, one of ten of equal width; the last one takes
1.0 too. The expected calibration error (Naeini et al. 2015) is the mean over answers of their bin's |accuracy - mean confidence|.
An answer without a confidence, and one to a question whose right answer nobody knows, is not counted. Every set is counted apart:
teachers are heard on training questions too, students are not, and nobody is compared over different questions unawares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from magdi_ray.debate.reading import split_confidence
from magdi_ray.debate.transcript import ConfidenceSource
from magdi_ray.evaluate.answers import VOTE, Answer
from magdi_ray.evaluate.report.dialogue import right
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Task

BINS = 10

Source = Literal["stated", "probability", "agreement"]
"""In words; the mean probability of the generated tokens; the share of the agents that gave the debate's answer."""
SOURCES: dict[ConfidenceSource, Source] = {"stated": "stated", "token_probability": "probability"}


class Who(NamedTuple):
    """Whose confidences of what kind, on which questions."""

    who: str
    kind: Literal["teacher", "student", "engine", "debate"]
    source: Source
    split: str


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence lies in [low, high)."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean; None for an empty bin."""
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far confidences can be relied on."""

    who: str
    kind: str
    source: Source
    set: str
    """Task and split of the questions, as "tiny/test"; also a split on which nobody was evaluated, as "tiny/train"."""
    count: int
    ece: float
    bins: tuple[Bin, ...]


class Calibration:
    """Counts answers as they come: `add_debate` and `add_answer`, then `rows`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._held: dict[Who, list[_Sums]] = {}

    def add_debate(self, mag: Mag) -> None:
        """Every reply that has a confidence, and the debate's answer with the agreement on it."""
        if mag.question.gold is None:
            return
        for node in mag.nodes:
            if node.role != "student" and node.confidence is not None and node.confidence_source in SOURCES:
                who = Who(node.agent, "teacher", SOURCES[node.confidence_source], mag.question.split)
                self._add(who, node.confidence, bool(right(self._task, mag, node.answer)))
        if mag.answer is not None:
            who = Who(VOTE, "debate", "agreement", mag.question.split)
            self._add(who, mag.agreement, bool(right(self._task, mag, mag.answer)))

    def add_answer(self, answer: Answer, kind: Literal["student", "engine"]) -> None:
        """A single reply of a student or a further system, of any seed; votes over several replies are left out."""
        if answer.method == "single" and answer.confidence is not None:
            stated = split_confidence(answer.text).confidence is not None
            who = Who(answer.system, kind, "stated" if stated else "probability", answer.split)
            self._add(who, answer.confidence, answer.correct)

    def rows(self) -> list[Reliability]:
        """Everyone whose confidences are known, split by split: teachers, the debate, then the others as they first appeared."""
        order = {"teacher": 0, "debate": 1, "student": 2, "engine": 3}
        found = sorted(self._held.items(), key=lambda item: order[item[0].kind])
        return [_reliability(who, self._task.name, sums) for who, sums in found]

    def _add(self, who: Who, confidence: float, is_right: bool) -> None:
        if who not in self._held:
            self._held[who] = [_Sums() for _ in range(BINS)]
        place = self._held[who][min(BINS - 1, int(confidence * BINS))]
        place.count += 1
        place.confidence += confidence
        place.right += is_right


@dataclass(slots=True)
class _Sums:
    count: int = 0
    confidence: float = 0.0
    right: int = 0


def _reliability(who: Who, task: str, sums: list[_Sums]) -> Reliability:
    count = sum(place.count for place in sums)
    return Reliability(
        who=who.who,
        kind=who.kind,
        source=who.source,
        set=f"{task}/{who.split}",
        count=count,
        ece=sum(abs(place.right - place.confidence) for place in sums) / count,
        bins=tuple(
            Bin(
                low=i / BINS,
                high=(i + 1) / BINS,
                count=place.count,
                confidence=place.confidence / place.count if place.count else None,
                accuracy=place.right / place.count if place.count else None,
            )
            for i, place in enumerate(sums)
        ),
    )
