"""Which students a study trains, and what is compared with what."""

from __future__ import annotations

from typing import Any

import pytest

from magdi_ray.config import RecipeConfig
from magdi_ray.config.load import parse_section
from magdi_ray.config.recipes import TrainChanges
from magdi_ray.config.study import StudyConfig, TuningConfig
from magdi_ray.errors import ConfigError
from magdi_ray.study.grid import Trial, best, candidates, compared, is_control_of, pairs, rivals

NEXT, CONTRAST = {"name": "next_token"}, {"name": "contrast"}
RECIPES = [
    {"name": "both", "objectives": [NEXT, CONTRAST]},
    {"name": "both-shuffled", "objectives": [NEXT, CONTRAST], "control": "shuffled_labels"},
    {"name": "slow", "objectives": [NEXT], "train": {"learning_rate": 1e-4}},
]
TUNING = {"learning_rates": [1e-3, 2e-3], "max_steps": [100, 200], "recipes": ["level2"]}


def study(**changes: Any) -> StudyConfig:
    data = {"name": "x", "run": "tiny.yaml", "recipes": RECIPES, "tuning": TUNING, **changes}
    return parse_section(data, "study", StudyConfig)


def test_every_learning_rate_is_tried_with_every_number_of_steps() -> None:
    found = candidates(study().resolved[-1], TuningConfig(learning_rates=(1e-3, 2e-3), max_steps=(100, 200)))
    assert list(found) == ["level2-lr0.001-100", "level2-lr0.001-200", "level2-lr0.002-100", "level2-lr0.002-200"]
    recipe, rate, steps = found["level2-lr0.002-100"]
    assert (recipe.train, rate, steps) == (TrainChanges(learning_rate=2e-3, max_steps=100), 2e-3, 100)


def test_of_settings_that_dev_does_not_tell_apart_the_lowest_learning_rate_is_taken_then_the_fewest_steps() -> None:
    tried = [(5e-3, 500, 0.685), (2e-3, 500, 0.684), (2e-3, 400, 0.67), (1e-3, 500, 0.66), (3e-3, 300, 0.684)]
    trials = [Trial("a", rate, steps, accuracy, 600) for rate, steps, accuracy in tried]  # one standard error: 0.019
    assert best([*trials, Trial("b", 9e-3, 9, 0.1, 600)]) == {"a": trials[2], "b": Trial("b", 9e-3, 9, 0.1, 600)}
    assert best([trial for trial in trials if trial.max_steps != 400])["a"] == trials[1]


def test_recipes_train_as_the_tuned_baseline_but_for_what_they_say_themselves() -> None:
    found = {recipe.name: recipe.train for recipe in compared(study(), {"level2": Trial("level2", 2e-3, 100, 0.6, 9)})}
    assert found["both"] == found["level2"] == TrainChanges(learning_rate=2e-3, max_steps=100)
    assert found["slow"] == TrainChanges(learning_rate=1e-4, max_steps=100)
    assert list(found)[-1] == "level2"


def test_a_control_trains_as_its_recipe_and_others_as_the_one_they_are_like() -> None:
    fast, slow = Trial("both", 3e-3, 100, 0.7, 9), Trial("level2", 2e-3, 200, 0.6, 9)
    tuning = TUNING | {"recipes": ["both"], "like": {"slow": "both"}}
    found = {recipe.name: recipe.train for recipe in compared(study(tuning=tuning), {"both": fast, "level2": slow})}
    assert found["both"] == found["both-shuffled"] == TrainChanges(learning_rate=3e-3, max_steps=100)
    assert found["slow"] == TrainChanges(learning_rate=1e-4, max_steps=100)
    assert found["level2"] == TrainChanges(learning_rate=2e-3, max_steps=200)


def test_the_baseline_at_equal_tokens_trains_in_proportion_longer() -> None:
    baseline = study().resolved[-1]
    held, [longer] = rivals(baseline, ["both"], {"level2": 200_000, "both": 300_000}, steps=500)
    assert held == {"both": "level2-at-750-steps"}
    assert (longer.name, longer.train.max_steps, longer.objectives) == (held["both"], 750, baseline.objectives)


def test_tokens_within_two_percent_count_as_equal_and_share_a_baseline() -> None:
    read = {"level2": 100.0, "a": 101.9, "b": 80.0, "c": 81.0, "d": 83.0}
    held, more = rivals(study().resolved[-1], "abcd", read, steps=1000)
    assert held == {"a": "level2", "b": "level2-at-800-steps", "c": "level2-at-800-steps", "d": "level2-at-830-steps"}
    assert [recipe.train.max_steps for recipe in more] == [800, 830]


def test_each_recipe_is_held_against_the_baseline_twice_and_against_its_control() -> None:
    both, shuffled = "both", "both-shuffled"
    found = pairs(study(), {both: "level2-at-9-steps", "slow": "level2"})
    assert found[:2] == [(both, "level2"), (both, "level2-at-9-steps")]
    assert found[2:] == [(shuffled, "level2"), (both, shuffled), ("slow", "level2")]


def test_the_baseline_is_held_against_its_control_too() -> None:
    control = {"name": "any", "objectives": [NEXT], "control": "shuffled_targets"}
    assert pairs(study(recipes=[control]), {}) == [("any", "level2"), ("level2", "any")]


def test_a_control_is_one_of_the_recipe_it_equals_otherwise() -> None:
    both, shuffled, slow, _ = study().resolved
    assert is_control_of(shuffled, both)
    assert not is_control_of(shuffled, slow)
    assert not is_control_of(both, both)
    other = shuffled.model_copy(update={"train": TrainChanges(max_steps=1)})
    assert not is_control_of(other, both)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"baseline": RECIPES[0]}, "distinct names"),
        ({"recipes": [{**RECIPES[0], "name": "a-at-b"}]}, "equal tokens"),
        ({"comparisons": [["both", "bth"]]}, "name .'bth'., but"),
        ({"tuning": {"learning_rates": [1e-3], "max_steps": [9], "recipes": ["level1"]}}, "name .'level1'., but"),
        ({"recipes": [{**RECIPES[0], "name": "vote"}]}, "the debate.s"),
        ({"tuning": TUNING | {"like": {"slow": "both"}}}, "does not tune"),
        ({"split": "dev"}, "compare on another one"),
        ({"seeds": 1}, "greater than or equal to 2"),
        ({"sedes": 1}, "did you mean 'seeds'"),
    ],
)
def test_what_a_study_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study(**changes)


def test_a_control_of_nothing_is_refused() -> None:
    solutions = {"name": "x", "nodes": {"texts": "gold_solutions"}, "objectives": [NEXT], "control": "shuffled_targets"}
    with pytest.raises(ConfigError, match="changes nothing"):
        study(recipes=[solutions])
    with pytest.raises(ValueError, match="changes nothing"):
        RecipeConfig.model_validate_json('{"name": "x", "objectives": [{"name": "next_token"}], "control": "shuffled_edges"}')
