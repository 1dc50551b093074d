"""The grid of a study: which students are trained, in which runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from magdi_ray.config import RecipeConfig, RunConfig, parse_config, resolve_recipe
from magdi_ray.config.recipes import TrainChanges
from magdi_ray.config.study import BESIDE, StudyConfig, TuningConfig

EQUAL = 0.02
"""Share by which tokens may differ that count as equally many."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was tried on the dev questions."""

    recipe: str
    learning_rate: float
    max_steps: int
    accuracy: float
    """Mean over its trainings, in [0, 1]."""
    questions: int
    """Of the dev split."""

    @property
    def changes(self) -> TrainChanges:
        """What it trains with."""
        return TrainChanges(learning_rate=self.learning_rate, max_steps=self.max_steps)


def candidates(recipe: RecipeConfig, tuning: TuningConfig) -> dict[str, tuple[RecipeConfig, float, int]]:
    """Every setting of a recipe that is tried, by the name it is trained under."""
    found = {}
    for rate, steps in product(tuning.learning_rates, tuning.max_steps):
        name = f"{recipe.name}-lr{rate:g}-{steps}"
        found[name] = (trained(recipe, TrainChanges(learning_rate=rate, max_steps=steps), name=name), rate, steps)
    return found


def best(trials: Iterable[Trial]) -> dict[str, Trial]:
    """Each recipe's setting: the lowest learning rate, then the fewest steps, among those within one standard error of its best.

    That many dev questions do not tell them apart (the rule is that of Breiman et al. 1984, section 3.4.3), and the lower a
    learning rate is, the less do trainings vary.
    """
    by_recipe: dict[str, list[Trial]] = {}
    for trial in trials:
        by_recipe.setdefault(trial.recipe, []).append(trial)
    return {recipe: _plainest(tried) for recipe, tried in by_recipe.items()}


def _plainest(tried: Sequence[Trial]) -> Trial:
    top = max(tried, key=lambda trial: trial.accuracy)
    error = math.sqrt(top.accuracy * (1 - top.accuracy) / top.questions)
    return min(
        (trial for trial in tried if trial.accuracy >= top.accuracy - error),
        key=lambda trial: (trial.learning_rate, trial.max_steps),
    )


def trained(recipe: RecipeConfig, changes: TrainChanges, *, name: str | None = None) -> RecipeConfig:
    """A recipe with training settings; what it says itself is kept."""
    own = {key: value for key, value in recipe.train.model_dump().items() if value is not None}
    return recipe.model_copy(update={"name": name or recipe.name, "train": changes.model_copy(update=own)})


def compared(study: StudyConfig, chosen: Mapping[str, Trial]) -> list[RecipeConfig]:
    """Every recipe of a study as it is trained, the baseline last."""
    recipes = study.resolved
    if not chosen:
        return recipes

    def settings(recipe: RecipeConfig) -> TrainChanges:
        like = study.tuning.like if study.tuning else {}
        own = [recipe.name, *(other.name for other in recipes if is_control_of(recipe, other))]
        names = [*own, *(like[name] for name in own if name in like), recipes[-1].name]
        return next(chosen[name] for name in names if name in chosen).changes

    return [trained(recipe, settings(recipe)) for recipe in recipes]


def rivals(
    baseline: RecipeConfig, recipes: Iterable[str], read: Mapping[str, float], *, steps: int
) -> tuple[dict[str, str], list[RecipeConfig]]:
    """What each recipe is held against at equal tokens, and those baselines that are yet to be trained.

    `read` are the tokens each student read, the baseline's in `steps` steps. Tokens that differ by at most `EQUAL` count as
    equal: such a recipe is held against the baseline itself, or against one that was already made for another recipe.
    """
    trained_for = {baseline.name: steps}
    held: dict[str, str] = {}
    for recipe in recipes:
        wanted = max(1, round(steps * read[recipe] / read[baseline.name]))
        name = min(trained_for, key=lambda one: abs(trained_for[one] - wanted))
        if abs(trained_for[name] / wanted - 1) > EQUAL:
            name = f"{baseline.name}{BESIDE}{wanted}-steps"
            trained_for[name] = wanted
        held[recipe] = name
    more = [
        baseline.model_copy(update={"name": name, "train": baseline.train.model_copy(update={"max_steps": count})})
        for name, count in trained_for.items()
        if name != baseline.name
    ]
    return held, more


def pairs(study: StudyConfig, held: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is compared with what: each recipe with the baseline at equal updates and at equal tokens (`rivals`), and with its
    controls."""
    *recipes, baseline = study.resolved
    found = []
    for recipe in recipes:
        found += [(recipe.name, name) for name in dict.fromkeys((baseline.name, held.get(recipe.name, baseline.name)))]
        found += [(original.name, recipe.name) for original in study.resolved if is_control_of(recipe, original)]
    return [*found, *(pair for pair in study.comparisons if pair not in found)]


def is_control_of(control: RecipeConfig, recipe: RecipeConfig) -> bool:
    """Whether a recipe differs from another in nothing but that it is its negative control."""
    same = {"name": recipe.name, "control": "none"}
    return control.control != "none" and recipe.control == "none" and control.model_copy(update=same) == recipe


def derived(
    base: RunConfig,
    graphs: str,
    name: str,
    recipes: Sequence[RecipeConfig],
    *,
    seeds: int,
    split: str,
    comparisons: Sequence[tuple[str, str]] = (),
    once: bool = False,
) -> RunConfig:
    """The run that trains some recipes, the last of them as its product, on the finished graphs of the world `base`.

    `once`: every question is asked once, whatever else the world's evaluation asks for.
    """
    data = base.model_dump(mode="json")
    data |= {"name": name, "debate": None}
    data["graph"] = data["graph"] | {"source": {"format": "mag", "path": graphs, "test": 0}}
    *others, last = [resolve_recipe(recipe).model_dump(mode="json") for recipe in recipes]
    data["distil"] = data["distil"] | {"recipe": last, "ablations": others, "seeds": seeds}
    names = {recipe.name for recipe in recipes}
    chosen = [[one, other] for one, other in comparisons if one in names and other in names]
    data["evaluate"] = data["evaluate"] | {"splits": [split], "tasks": [], "agents": [], "comparisons": chosen}
    if once:
        data["evaluate"] |= {"self_consistency": None, "self_revision": False}
    return parse_config(data, f"the study's run {name}")
