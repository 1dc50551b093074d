"""What the debates' own vote is worth as labels, where gold answers are known to hold it against. Pure.

A run that labels by vote (`labels: vote`) reads no gold answer; this table says, for questions that have one, how many of the
labels would have been right, and what asking for more agreement buys and costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from magdi_ray.evaluate.report.dialogue import right
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Task

LEAST = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Agreements that are asked for, at least."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The debates of one split that agree at least so much, labelled by their vote."""

    split: str
    least: float
    debates: int
    kept: float
    """Share of the debates that have an answer."""
    vote_accuracy: float
    taught: int
    """Replies that are labelled correct."""
    taught_right: float
    """Share of them that are."""
    right_taught: float | None
    """Share of all right replies, of debates that have an answer, that are labelled correct; None where no reply is right."""


@dataclass(slots=True)
class _Sums:
    debates: int = 0
    right: int = 0
    taught: int = 0
    taught_right: int = 0


class Labelling:
    """Counts debates as they come: `add`, then `rows`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._held: dict[str, list[_Sums]] = {}
        self._right: dict[str, int] = {}

    def add(self, mag: Mag) -> None:
        """One debate; without a gold answer, or an answer of its own, it says nothing."""
        if mag.question.gold is None or mag.answer is None:
            return
        answers = [node.answer for node in mag.nodes if node.role == "debater"]
        good = [bool(right(self._task, mag, answer)) for answer in answers]
        taught = [self._task.same(answer, mag.answer) for answer in answers]
        split = mag.question.split
        self._right[split] = self._right.get(split, 0) + sum(good)
        for least, sums in zip(LEAST, self._held.setdefault(split, [_Sums() for _ in LEAST]), strict=True):
            if mag.agreement >= least:
                sums.debates += 1
                sums.right += bool(right(self._task, mag, mag.answer))
                sums.taught += sum(taught)
                sums.taught_right += sum(both for both, is_taught in zip(good, taught, strict=True) if is_taught)

    def rows(self) -> list[Labelled]:
        """Split by split; where more agreement leaves out nothing more, the row is left out."""
        return [row for split in self._held for row in self._of(split)]

    def _of(self, split: str) -> list[Labelled]:
        whole, found = self._held[split][0].debates, list[Labelled]()
        for least, sums in zip(LEAST, self._held[split], strict=True):
            if not sums.debates or (found and found[-1].debates == sums.debates):
                continue
            found.append(
                Labelled(
                    split=split,
                    least=least,
                    debates=sums.debates,
                    kept=sums.debates / whole,
                    vote_accuracy=sums.right / sums.debates,
                    taught=sums.taught,
                    taught_right=sums.taught_right / sums.taught if sums.taught else 0.0,
                    right_taught=sums.taught_right / self._right[split] if self._right[split] else None,
                )
            )
        return found
