"""An objective's weight moves as its schedule says: exact values at the ends, in the middle and beyond."""

from __future__ import annotations

import math

import pytest

from magdi_ray.config.recipes import Contrast, NextToken, WeightSchedule, resolve_recipe
from magdi_ray.distill.schedule import weights_at


def weights(training: int, **schedule: object) -> list[float]:
    """Of an objective of weight 2, at every step of a training that long."""
    objective = Contrast(name="contrast", weight=2.0, schedule=WeightSchedule(**schedule))  # type: ignore[arg-type]
    return [weights_at((objective,), step, training)["contrast"] for step in range(training)]


def test_a_constant_weight_is_the_configured_one_at_every_step() -> None:
    assert weights(5, ratio=0.5) == [2.0] * 5


def test_a_warm_up_rises_in_a_straight_line_and_stays() -> None:
    assert weights(7, type="warmup", steps=4, ratio=0.5) == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0, 2.0]


def test_a_cosine_falls_along_half_a_cosine_and_stays() -> None:
    quarter = 2 * (0.25 + 0.75 * 0.5 * (1 + math.sqrt(0.5)))
    expected = [2.0, quarter, 1.25, 2.5 - quarter, 0.5, 0.5]
    assert weights(6, type="cosine", steps=4, ratio=0.25) == pytest.approx(expected, abs=1e-12)


def test_a_cosine_with_a_ratio_above_one_rises() -> None:
    assert weights(4, type="cosine", steps=2, ratio=3.0) == pytest.approx([2.0, 4.0, 6.0, 6.0], abs=1e-12)


@pytest.mark.parametrize(("kind", "expected"), [("warmup", [0.0, 0.5, 1.0, 1.5, 2.0]), ("cosine", [2.0, None, 1.0, None, 0.0])])
def test_a_way_without_a_length_goes_from_the_first_step_of_the_training_to_its_last(
    kind: str, expected: list[float | None]
) -> None:
    for found, value in zip(weights(5, type=kind), expected, strict=True):
        assert value is None or found == pytest.approx(value, abs=1e-12)


def test_a_training_of_one_step_stands_at_the_beginning_of_every_way() -> None:
    assert weights(1, type="warmup", ratio=0.5) == [1.0]
    assert weights(1, type="cosine", ratio=0.5) == [2.0]


def test_every_objective_of_a_recipe_has_its_own_weight() -> None:
    late = Contrast(name="contrast", weight=2.0, schedule=WeightSchedule(type="warmup", steps=10))
    assert weights_at((NextToken(name="next_token"), late), 5, 100) == {"next_token": 1.0, "contrast": 1.0}
    assert weights_at(resolve_recipe("level4").objectives, 0, 10) == {"next_token": 1.0, "interaction": 1.0, "contrast": 0.1}
