"""Runs against each other, on the questions they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from magdi_ray.errors import RunError
from magdi_ray.evaluate.answers import BASE, Answer
from magdi_ray.evaluate.report.compare import Asked, compare_runs, digests_of
from magdi_ray.tasks.base import Question
from tests.evaluate.report.made import answers


def side(label: str, texts: Sequence[str], given: Sequence[Answer], product: str = "level2") -> Asked:
    questions = [("tiny", Question(f"test-{i}", text, "1", "test")) for i, text in enumerate(texts)]
    return Asked(label, product, digests_of(questions), given)


def test_runs_are_compared_on_the_questions_whose_texts_they_share() -> None:
    one = side("one", ["a 1", "b 2", "c 3"], answers("level2", [True, True, False]))
    other = side("two", ["C 3.", "d 4", "a 1"], answers("level2", [True, True, True]))
    found = compare_runs([one, other])
    [row] = found.differences
    assert (row.run, row.reference_run, row.difference.questions, row.difference.gained, row.difference.lost) == (
        "two",
        "one",
        2,
        1,
        0,
    )
    [counts] = found.matched
    assert (counts.common, counts.only_run, counts.only_reference) == (2, 1, 1)


def test_products_are_compared_whatever_they_are_called_and_others_by_name() -> None:
    one = side("one", ["a", "b"], [*answers("level2", [True, False]), *answers(BASE, [False, False])])
    other = side("two", ["a", "b"], [*answers("level4", [True, True]), *answers(BASE, [True, False])], product="level4")
    pairs = [(row.difference.system, row.difference.reference) for row in compare_runs([one, other]).differences]
    assert pairs == [("level4", "level2"), (BASE, BASE)]


def test_several_trainings_of_both_runs_are_compared_together() -> None:
    given = [row for seed in (0, 1) for row in answers("level2", [True, False, True], seed=seed)]
    [row] = compare_runs([side("one", ["a", "b", "c"], given), side("two", ["a", "b", "c"], given)]).differences
    assert (row.difference.seeds, row.difference.difference) == (2, 0.0)


def test_two_questions_of_one_text_count_once() -> None:
    twice = side("one", ["a", "a", "b"], answers("level2", [True, False, True]))
    [row] = compare_runs([twice, replace(twice, label="two")]).differences
    assert row.difference.questions == 2


def test_runs_without_a_common_question_are_refused() -> None:
    sides = [side(label, [text], answers("level2", [True])) for label, text in (("one", "a"), ("two", "b"))]
    with pytest.raises(RunError, match=r"two and one asked no common question: 1 of tiny/test against 1 of tiny/test"):
        compare_runs(sides)


def test_one_run_alone_is_compared_with_nothing() -> None:
    assert compare_runs([side("one", ["a"], answers("level2", [True]))]).differences == ()
