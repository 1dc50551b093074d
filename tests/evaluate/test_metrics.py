"""Intervals and paired differences, against figures known from elsewhere."""

from __future__ import annotations

from random import Random

import pytest

from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.metrics import difference, differences, score, scores


def answers(system: str, right: list[bool], *, split: str = "test") -> list[Answer]:
    return [Answer(f"q{i}", split, system, "", "1", correct, 10, 5) for i, correct in enumerate(right)]


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263 gives .2553 to .3662
    result = score(answers("a", [True] * 81 + [False] * 182))
    assert (round(result.low, 4), round(result.high, 4)) == (0.2553, 0.3662)


def test_a_perfect_score_still_has_an_interval() -> None:
    result = score(answers("a", [True] * 20))
    assert result.accuracy == 1.0
    assert 0.8 < result.low < result.high <= 1.0


def test_a_difference_pairs_the_same_questions() -> None:
    result = difference(answers("new", [True, True, False, True]), answers("old", [False, True, True, False]))
    assert (result.gained, result.lost, result.difference) == (2, 1, 0.25)


def test_swapping_two_systems_turns_the_difference_around() -> None:
    rng = Random(0)
    one, two = (answers(name, [rng.random() < p for _ in range(200)]) for name, p in (("a", 0.7), ("b", 0.5)))
    forth, back = difference(one, two), difference(two, one)
    assert (forth.difference, forth.low, forth.high) == pytest.approx((-back.difference, -back.high, -back.low))


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered, trials = Random(1), 0, 400
    for _ in range(trials):
        pairs = [(rng.random() < 0.6, rng.random() < 0.5) for _ in range(80)]
        result = difference(answers("a", [a for a, _ in pairs]), answers("b", [b for _, b in pairs]))
        covered += result.low <= 0.1 <= result.high
    assert 0.92 <= covered / trials <= 0.99


def test_an_unanswered_question_and_a_failed_one_count_as_wrong_and_are_told_apart() -> None:
    rows = answers("a", [True, True])
    rows += [
        Answer("q2", "test", "a", "hm", None, False, 10, 5),
        Answer("q3", "test", "a", "", None, False, 0, 0, "EngineError: gone"),
    ]
    result = score(rows)
    assert (result.accuracy, result.unanswered, result.errors) == (0.5, 1, 1)


def test_splits_are_never_mixed() -> None:
    rows = answers("a", [True], split="test") + answers("a", [False], split="ood")
    assert [(s.split, s.accuracy) for s in scores(rows)] == [("test", 1.0), ("ood", 0.0)]


def test_comparisons_of_systems_that_are_not_there_are_left_out() -> None:
    rows = answers("a", [True]) + answers("b", [False])
    assert [(d.system, d.reference) for d in differences(rows, [("a", "b"), ("a", "c")])] == [("a", "b")]
