"""Runs side by side: the same systems of different runs, on the questions that both runs asked. Pure.

Ids are a run's own, so questions are matched by task, split and a digest of their text (`tasks.checks.text_digest`). What only
one of two runs asked is counted and never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from magdi_ray.errors import RunError
from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.metrics import Difference, Key, difference, grouped
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.checks import text_digest


@dataclass(frozen=True, slots=True)
class Asked:
    """What one run asked, and what was answered."""

    label: str
    """Unique among the runs that are compared."""
    product: str | None
    digests: Mapping[tuple[str, str], int]
    """(task, id) of each question -> digest of its text."""
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Compared:
    """A paired difference between systems of two runs."""

    run: str
    reference_run: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class Matched:
    """How many questions of a set two runs have in common."""

    run: str
    reference_run: str
    task: str
    split: str
    common: int
    only_run: int
    only_reference: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that can be said of several runs together."""

    differences: tuple[Compared, ...] = ()
    matched: tuple[Matched, ...] = ()


def digests_of(questions: Iterable[tuple[str, Question]]) -> dict[tuple[str, str], int]:
    """The digests of questions, given with the name of their task."""
    return {(task, question.id): text_digest(question) for task, question in questions}


def compare_runs(runs: Sequence[Asked]) -> Comparison:
    """Every other run against the first: its systems against those of the same name, asked in the same way, and its product
    against the first run's product.

    Raises:
        RunError: a run and the first asked no common question.
    """
    if len(runs) < 2:
        return Comparison()
    first, others = _matchable(runs[0]), runs[1:]
    differences: list[Compared] = []
    matched: list[Matched] = []
    for other in others:
        mine = _matchable(other)
        counts = list(_counted(other.label, mine, runs[0].label, first))
        if not any(row.common for row in counts):
            raise RunError(
                f"{other.label} and {runs[0].label} asked no common question: {_said(mine)} against {_said(first)}. Runs are "
                "compared on the same held-out questions; evaluate both on the same files and splits."
            )
        matched += counts
        pairs = dict.fromkeys(_pairs(mine, first, other.product, runs[0].product))
        differences += [
            Compared(other.label, runs[0].label, found) for pair in pairs if (found := _difference(mine, first, *pair))
        ]
    return Comparison(tuple(differences), tuple(matched))


Groups = Mapping[Key, Sequence[Answer]]


def _matchable(run: Asked) -> Groups:
    """A run's answers with a question's digest in place of its id; of questions with one text the first counts."""
    first: dict[tuple[str, str, int], str] = {}
    kept = []
    for answer in run.answers:
        digest = run.digests.get((answer.task, answer.question_id))
        if digest is not None and first.setdefault((answer.task, answer.split, digest), answer.question_id) == answer.question_id:
            kept.append(replace(answer, question_id=f"{digest:016x}"))
    return grouped(kept)


def _pairs(mine: Groups, theirs: Groups, product: str | None, reference: str | None) -> Iterator[tuple[Key, Key]]:
    """What is compared: products first, then systems of one name."""
    for key in mine:
        if key.system == product and reference is not None:
            yield key, key._replace(system=reference)
    for key in mine:
        yield key, key


def _difference(mine: Groups, theirs: Groups, key: Key, reference: Key) -> Difference | None:
    if key not in mine or reference not in theirs or not _ids(mine[key]) & _ids(theirs[reference]):
        return None
    return difference(mine[key], theirs[reference])


def _counted(run: str, mine: Groups, reference_run: str, theirs: Groups) -> Iterator[Matched]:
    one, other = _asked(mine), _asked(theirs)
    for task, split in dict.fromkeys([*one, *other]):
        left, right = one.get((task, split), set()), other.get((task, split), set())
        yield Matched(run, reference_run, task, split, len(left & right), len(left - right), len(right - left))


def _asked(groups: Groups) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for key, answers in groups.items():
        found.setdefault((key.task, key.split), set()).update(_ids(answers))
    return found


def _ids(answers: Sequence[Answer]) -> set[str]:
    return {answer.question_id for answer in answers}


def _said(groups: Groups) -> str:
    asked = _asked(groups)
    return ", ".join(f"{len(ids)} of {task}/{split}" for (task, split), ids in asked.items()) or "no question at all"
