"""Intervals and paired differences, against figures known from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.metrics import crossed, difference, differences, grouped, score, scores


def answers(system: str, right: list[bool], *, split: str = "test", seed: int = 0) -> list[Answer]:
    return [Answer(f"q{i}", split, system, "", "1", correct, 10, 5, seed=seed) for i, correct in enumerate(right)]


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
    pairs = [(("a", "single"), ("b", "single")), (("a", "single"), ("c", "single"))]
    assert [(d.system, d.reference) for d in differences(grouped(rows), pairs)] == [("a", "b")]


def test_several_seeds_of_a_student_are_one_score_with_the_spread_between_them() -> None:
    rows = [row for seed, right in enumerate((6, 8)) for row in answers("a", [True] * right + [False] * (10 - right), seed=seed)]
    result = score(rows)
    assert (result.questions, result.seeds, result.accuracy) == (10, 2, 0.7)
    assert result.sd == pytest.approx(0.02**0.5)


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_interval_over_seeds_covers_other_seeds_and_other_questions_about_as_often_as_it_says(spread: float) -> None:
    rng, covered, pooled, trials = np.random.default_rng(3), 0, 0, 400
    for _ in range(trials):
        chance_SQ = np.clip(0.5 + spread * rng.standard_normal((5, 1)) + 0.2 * rng.standard_normal((1, 100)), 0.0, 1.0)
        right_SQ = (rng.random((5, 100)) < chance_SQ).astype(float)
        found, naive = crossed(right_SQ), score(answers("a", [bool(right) for right in right_SQ.ravel()]))
        covered += found.low <= 0.5 <= found.high
        pooled += naive.low <= 0.5 <= naive.high
    assert 0.93 <= covered / trials <= 0.995
    assert pooled / trials < 0.92  # as if every seed had been asked other questions


def test_seeds_that_differ_much_widen_the_interval_of_a_difference() -> None:
    reference = answers("b", [i % 2 == 0 for i in range(100)])
    even = [row for s in range(3) for row in answers("a", [i % 2 == 0 or i % 10 == 1 for i in range(100)], seed=s)]
    uneven = [row for s in range(3) for row in answers("a", [i % 2 == 0 or i < 20 * s for i in range(100)], seed=s)]
    first, second = difference(even, reference), difference(uneven, reference)
    assert first.difference == pytest.approx(second.difference)
    assert second.high - second.low > 2 * (first.high - first.low)


def test_a_system_without_seeds_stands_beside_every_seed() -> None:
    rows = [row for seed in range(3) for row in answers("a", [True, True, False], seed=seed)]
    result = difference(rows, answers("b", [True, False, False]))
    assert (result.seeds, result.questions, result.gained) == (3, 3, None)
    assert result.difference == pytest.approx(1 / 3)


def test_a_difference_of_one_seed_to_one_system_is_mcnemars_again() -> None:
    result = difference(answers("a", [True] * 9 + [False]), answers("b", [False] * 9 + [True]))
    assert (result.gained, result.lost) == (9, 1)
    assert result.p_value == pytest.approx(0.021484375)


def test_seeds_that_all_answered_alike_tell_no_more_than_one_of_them() -> None:
    once = score(answers("a", [True] * 20))
    thrice = score([row for seed in range(3) for row in answers("a", [True] * 20, seed=seed)])
    assert (thrice.low, thrice.high) == (once.low, once.high)
    twins = difference([row for s in range(3) for row in answers("a", [True] * 20, seed=s)], answers("b", [False] * 20))
    plain = difference(answers("a", [True] * 20), answers("b", [False] * 20))
    assert (twins.low, twins.high, twins.p_value) == (plain.low, plain.high, plain.p_value)


def test_a_students_vote_over_several_replies_is_compared_with_its_own_training_only() -> None:
    plain = [row for seed in range(2) for row in answers("a", [seed == 1] * 4, seed=seed)]
    voted = [replace(row, method="majority") for row in answers("a", [True] * 4)]
    assert difference(voted, plain).difference == 1.0
