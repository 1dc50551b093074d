"""The configuration of a study: which recipes are held against which baseline, over how many trainings each."""

from __future__ import annotations

from pydantic import Field, model_validator

from magdi_ray.config.base import Section
from magdi_ray.config.recipes import RecipeChoice, RecipeConfig, resolve_recipe
from magdi_ray.config.sections import Name
from magdi_ray.tasks.base import Split

BESIDE = "-at-"
"""Between the baseline's name and its steps: the baseline, trained for so many as have another recipe's tokens."""
LONGEST = 50
"""Characters of a baseline's name, so that there is room for its steps."""


class TuningConfig(Section):
    """What is tried on the dev questions before anything is compared: every learning rate with every number of steps."""

    learning_rates: tuple[float, ...] = Field(min_length=1)
    max_steps: tuple[int, ...] = Field(min_length=1)
    seeds: int = Field(2, ge=1)
    """Trainings of each."""
    recipes: tuple[str, ...] = ()
    """Names of the study's recipes that are each tuned for themselves, as the baseline always is. A control trains as the recipe
    it is the control of, those named under `like` as they say, and any other as the tuned baseline does."""
    like: dict[str, str] = Field(default_factory=dict)
    """Recipe -> the tuned recipe it trains like: one that fills its steps alike, so that the same settings suit it."""


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
    comparisons: tuple[tuple[str, str], ...] = ()
    """Further pairs of its recipes to hold against each other, after as many updates."""
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
        tuned = set(self.tuning.recipes) if self.tuning else set[str]()
        like = self.tuning.like if self.tuning else {}
        named = {name for pair in self.comparisons for name in pair} | tuned | set(like)
        if unknown := sorted(named - set(names)):
            raise ValueError(f"tuning and comparisons name {unknown}, but the study's recipes are {', '.join(names)}")
        if alike := sorted(name for name, other in self.comparisons if name == other):
            raise ValueError(f"comparisons hold {alike} against themselves")
        if both := sorted(tuned & set(like)):
            raise ValueError(f"tuning.like names {both}, which tuning.recipes tunes for themselves")
        if len(names[-1]) > LONGEST:
            raise ValueError(f"the baseline's name may have {LONGEST} characters, {names[-1]!r} has {len(names[-1])}")
        if untuned := sorted(set(like.values()) - tuned - {names[-1]}):
            raise ValueError(f"tuning.like names {untuned}, which tuning.recipes does not tune")
        if self.split == "train" or (self.split == "dev" and self.tuning is not None):
            raise ValueError(f"split {self.split!r} is where things are learned or chosen; compare on another one, such as test")
        return self

    @property
    def resolved(self) -> list[RecipeConfig]:
        """Every recipe as written out, the baseline last."""
        return [resolve_recipe(choice) for choice in (*self.recipes, self.baseline)]
