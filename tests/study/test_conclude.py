"""A study says what its numbers support, and no more."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from magdi_ray.config import RecipeConfig, resolve_recipe
from magdi_ray.evaluate.metrics import Difference, Score
from magdi_ray.study.conclude import holm, rows, sentences
from magdi_ray.study.page import draw, text_of

SCORE = Score("level2", "test", 2000, 0.6, 0.58, 0.62, 0, 0, 12.0, 30.0, "tiny", seeds=10, sd=0.01)
RECIPES = [
    RecipeConfig.model_validate_json(text)
    for text in (
        '{"name": "good", "objectives": [{"name": "next_token"}, {"name": "contrast"}]}',
        '{"name": "plain", "objectives": [{"name": "next_token"}, {"name": "orpo"}]}',
        '{"name": "good-shuffled", "objectives": [{"name": "next_token"}, {"name": "contrast"}], "control": "shuffled_labels"}',
    )
]
RECIPES.append(resolve_recipe("level2"))


def difference(system: str, reference: str, by: float, width: float, p_value: float) -> Difference:
    return Difference(system, reference, "test", 2000, by, by - width, by + width, None, None, p_value, "tiny", seeds=10)


FOUND = [
    difference("good", "level2", 0.05, 0.01, 1e-6),
    difference("good", "level2-at-good", 0.03, 0.01, 1e-4),
    difference("plain", "level2-at-plain", 0.01, 0.009, 0.03),
    difference("good", "good-shuffled", 0.02, 0.01, 1e-3),
]


def table(found: list[Difference]) -> list[Any]:
    scores = [replace(SCORE, system=recipe.name) for recipe in RECIPES]
    held = {item.system: item.reference for item in found if item.reference.startswith("level2-at-")}
    return rows(RECIPES, scores, found, {recipe.name: 1e5 for recipe in RECIPES}, held)


def test_holms_correction_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_recipe_wins_only_at_equal_tokens_and_after_the_correction() -> None:
    verdicts = {row.recipe: row.verdict for row in table(FOUND)}
    assert verdicts == {"good": "wins", "plain": "wins", "good-shuffled": None, "level2": None}
    more = [*FOUND, difference("good-shuffled", "level2-at-good-shuffled", 0.0, 0.01, 0.9)]
    assert {row.recipe: row.verdict for row in table(more)}["plain"] == "not told apart"  # one more was tried
    updates_only = [item for item in FOUND if "-at-" not in item.reference]
    assert {row.verdict for row in table(updates_only)} == {None}


def test_the_sentences_say_who_wins_and_how_the_control_does() -> None:
    said = sentences(table(FOUND), RECIPES, FOUND)
    assert said[0] == "good beats level2: +3.0 points (+2.0 to +4.0) at equal tokens, corrected p 0.0002."
    assert said[-1] == "The control behaves: with its labels shuffled good is worse, by -2.0 points (-3.0 to -1.0)."
    assert not any("Nothing" in sentence for sentence in said)


def test_where_nothing_wins_that_is_what_is_said() -> None:
    found = [difference("good", "level2-at-good", 0.01, 0.02, 0.3), difference("good", "good-shuffled", 0.0, 0.01, 0.9)]
    said = sentences(table(found), RECIPES, found)
    assert said[0].startswith("good is not told apart from level2")
    assert said[0].endswith("Less than 2.0 points would not have been seen.")
    assert said[1] == "Nothing that was tried beats level2 at equal tokens."
    assert "it has nothing from them" in said[2]


def test_the_page_lists_every_recipe_and_every_setting_that_was_tried() -> None:
    trials = [{"recipe": "level2", "learning_rate": 1e-3, "max_steps": 100, "accuracy": 0.5}]
    found = table(FOUND)
    result = {"name": "x", "seeds": 10, "split": "test", "questions": 2000, "tuning": trials, "said": ["a.", "b."]}
    result |= {"rows": [asdict(row) for row in found], "recipes": [recipe.model_dump(mode="json") for recipe in RECIPES]}
    labels = {"split": "train", "least": 0.7, "debates": 9, "kept": 0.5, "vote_accuracy": 0.9, "taught": 20}
    labels |= {"taught_right": 0.95, "right_taught": None}
    result |= {"world": {"run": "../tiny.yaml", "set": ["task.test=9"]}, "settings": {"good": "objectives: [{name: contrast}]"}}
    result |= {"others": [{"what": "the debate's vote", "score": asdict(SCORE)}], "labelling": [labels]}
    at_good = {"recipe": "level2-at-good", "score": asdict(replace(SCORE, system="level2-at-good")), "tokens": 2e5}
    page = text_of(result | {"beside": [at_good]}, "study.svg")
    for words in (
        "| good |",
        "| plain |",
        "| good-shuffled |",
        "| level2-at-good |",
        "- a.\n- b.",
        "| level2 | 0.001 | 100 | 50.0 |",
        "| good | `objectives: [{name: contrast}]` |",
        "`../tiny.yaml` with `task.test=9`.",
        "| the debate's vote | 60.0 (58.0 to 62.0) |",
        "| train | 70.0 | 9 | 50.0 | 90.0 | 20 | 95.0 | - |",
    ):
        assert words in page, page
    picture = draw(result | {"beside": [at_good]})
    assert picture.count("<circle") == 5
    assert "good-shuffled" in picture
