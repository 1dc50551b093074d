"""The paper's claims against measured differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from magdi_ray.config.recipes import RECIPES, RecipeConfig
from magdi_ray.evaluate.answers import BASE, VOTE, Answer
from magdi_ray.evaluate.metrics import Difference, Key, difference, grouped, scores
from magdi_ray.evaluate.report.orderings import Claim, Level, claims, level_of, verdict_of
from tests.evaluate.report.made import answers


def frozen(name: str, **changes: Any) -> RecipeConfig:
    terms = tuple(
        t.model_copy(update={"embeddings": "frozen"} | changes) if t.name == "interaction" else t
        for t in RECIPES["level4"].objectives
    )
    return RECIPES["level4"].model_copy(update={"name": name, "objectives": terms})


def judged(given: Sequence[Answer], *recipes: RecipeConfig) -> dict[str, Claim]:
    groups = grouped(given)

    def compare(one: Key, other: Key) -> Difference | None:
        return difference(groups[one], groups[other]) if one in groups and other in groups else None

    product = recipes[-1].name
    return {claim.claim: claim for claim in claims(recipes, product=product, scores=scores(given), compare=compare)}


def share(system: str, right: int, **changes: Any) -> list[Answer]:
    return answers(system, [i < right for i in range(100)], **changes)


@pytest.mark.parametrize(
    ("recipe", "level"),
    [
        *((RECIPES[f"level{n}"].model_copy(update={"name": "any"}), Level(n)) for n in (1, 2, 3)),
        (RECIPES["level4"], Level(4, "live")),
        (frozen("any"), Level(4, "frozen")),
        (frozen("any", weight=3.0), Level(4, "frozen")),
        (frozen("any", weight=0.0), Level(3)),
        (RECIPES["sft_gold"], None),
        (RECIPES["dpo"], None),
    ],
)
def test_a_level_is_told_by_what_a_recipe_contains(recipe: RecipeConfig, level: Level | None) -> None:
    assert level_of(recipe) == level


def test_one_named_agent_is_a_single_teacher_and_some_of_them_are_no_level() -> None:
    nodes = RECIPES["level1"].nodes
    assert level_of(RECIPES["level1"].model_copy(update={"nodes": nodes.model_copy(update={"agents": ("ada",)})})) == Level(1)
    assert level_of(RECIPES["level1"].model_copy(update={"nodes": nodes.model_copy(update={"agents": ("ada", "ben")})})) is None


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.01, 0.2, "holds"), (-0.2, -0.01, "reversed"), (-0.1, 0.1, "not seen")])
def test_a_verdict_is_where_the_interval_lies(low: float, high: float, verdict: str) -> None:
    found = Difference("a", "b", "test", 9, 0.0, low, high, 0, 0, 1.0)
    assert verdict_of(found) == verdict


def test_each_level_is_held_against_the_next_one_below_that_there_is() -> None:
    given = [*share(BASE, 10), *share("level1", 40), *share("level2", 39), *share("level4", 20)]
    found = judged(given, RECIPES["level1"], RECIPES["level2"], RECIPES["level4"])
    assert {claim: row.verdict for claim, row in found.items()} == {
        "level 1 beats the base": "holds",
        "level 2 beats level 1": "not seen",
        "level 4 beats level 2": "reversed",
    }


def test_live_embeddings_are_held_against_frozen_ones_of_otherwise_equal_recipes() -> None:
    given = [*share(BASE, 10), *share("level4", 60), *share("still", 30), *share("other", 30)]
    found = judged(given, frozen("still"), frozen("other", weight=2.0), RECIPES["level4"])
    assert [claim for claim in found if "frozen" in claim] == ["level 4 with live embeddings (level4) beats frozen ones (still)"]
    assert found["level 4 beats the base"].verdict == "holds"


def test_a_level_under_another_name_says_so() -> None:
    mine = RECIPES["level2"].model_copy(update={"name": "mine"})
    assert list(judged([*share(BASE, 10), *share("mine", 40)], mine)) == ["level 2 (mine) beats the base"]


def test_drawing_several_replies_is_held_against_one() -> None:
    given = [*share("level2", 40), *share("level2", 60, method="majority", sample=5)]
    [claim] = judged(given, RECIPES["level2"]).values()
    assert (claim.claim, claim.verdict) == ("level2 with self-consistency over 5 replies beats one reply", "holds")


@pytest.mark.parametrize(
    ("right", "tokens", "verdict"), [(95, 100, "holds"), (50, 100, "reversed"), (90, 100, "not seen"), (95, 5, "reversed")]
)
def test_close_to_the_debate_means_within_five_points_for_fewer_tokens(right: int, tokens: int, verdict: str) -> None:
    given = [*share("level2", right), *share(VOTE, 95, tokens_out=tokens)]
    [claim] = judged(given, RECIPES["level2"]).values()
    assert claim.verdict == verdict
    assert f"the debate {tokens / 5:.1f} times as many" in claim.claim
    assert (claim.bound, "the bound of 5 points is this project's" in claim.source) == (-0.05, True)


def test_a_claim_that_one_is_better_has_zero_for_its_bound() -> None:
    [claim] = judged([*share(BASE, 10), *share("level2", 40)], RECIPES["level2"]).values()
    assert (claim.bound, claim.source) == (0.0, "arXiv 2402.01620")


def test_claims_of_systems_that_are_not_there_are_left_out() -> None:
    assert judged(share(BASE, 10), RECIPES["level2"]) == {}
