"""The configuration of a study: which recipes are held against which baseline, over how many trainings each."""

from __future__ import annotations

from pydantic import Field, model_validator

from magdi_ray.config.base import Section
from magdi_ray.config.recipes import RecipeChoice, RecipeConfig, resolve_recipe
from magdi_ray.config.sections import Name
from magdi_ray.tasks.base import Split

BESIDE = "-at-"
"""Between the baseline's name and a recipe's: the baseline, trained for as many steps as have that recipe's tokens."""


class TuningConfig(Section):
    """What is tried on the dev questions before anything is compared: every learning rate with every number of steps."""

    learning_rates: tuple[float, ...] = Field(min_length=1)
    max_steps: tuple[int, ...] = Field(min_length=1)
    seeds: int = Field(2, ge=1)
    """Trainings of each."""
    recipes: tuple[RecipeChoice, ...] = Field(("level1", "level2"), min_length=1)
    """Each is tuned for itself; a recipe that is not among them trains as the tuned baseline does."""


class StudyConfig(Section):
    """A study: one world of debates, many students of it, all measured on the same questions."""

    name: Name
    run: str = Field(min_length=1)
    """The configuration whose task, debates, student and evaluation all recipes share; beside this file, or a path."""
    set: tuple[str, ...] = ()
    """Changes to it, as `--set` makes them: "task.train=1000"."""
    baseline: RecipeChoice = "level2"
    """What every recipe is held against."""
    recipes: tuple[RecipeChoice, ...] = Field(min_length=1)
    tuning: TuningConfig | None = None
    """None: all train as the configuration says."""
    seeds: int = Field(10, ge=2)
    """Trainings of every recipe."""
    split: Split = "test"
    """The questions that recipes are compared on, once everything has been chosen."""

    @model_validator(mode="after")
    def _distinct(self) -> StudyConfig:
        names = [recipe.name for recipe in self.resolved]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"recipes and baseline need distinct names, found {twice} twice")
        if taken := sorted({"base", "vote"} & set(names)):
            raise ValueError(f"base is the untaught student and vote the debate's, so no recipe may be named {taken}")
        if taken := sorted(name for name in names if BESIDE in name):
            raise ValueError(f"names with {BESIDE!r} are given to the baseline at equal tokens, found {taken}")
        if self.tuning is not None and self.resolved[-1].name not in (resolve_recipe(r).name for r in self.tuning.recipes):
            raise ValueError(f"tuning.recipes must hold the baseline, {self.resolved[-1].name!r}: others train as it does")
        if self.split == "train" or (self.split == "dev" and self.tuning is not None):
            raise ValueError(f"split {self.split!r} is where things are learned or chosen; compare on another one, such as test")
        return self

    @property
    def resolved(self) -> list[RecipeConfig]:
        """Every recipe as written out, the baseline last."""
        return [resolve_recipe(choice) for choice in (*self.recipes, self.baseline)]
