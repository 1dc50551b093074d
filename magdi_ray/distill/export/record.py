"""What the card of an exported student is written from, and what kind of student it is. Pure, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from magdi_ray.config import RecipeConfig, RunConfig
from magdi_ray.config.distil import QloraTuning
from magdi_ray.config.recipes import REPLIES

Form = Literal["adapter", "merged", "full"]
Kind = Literal["magdi", "preference", "replies", "solutions"]
"""What a student learned from, by the content of its recipe: the structure of debates, pairs of replies, correct replies alone,
or published solutions in place of replies."""
SOLO = ("single", "self_consistency")
"""Protocols in which one model replies alone."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model a student started from."""

    name: str
    """A hub name, a `pkg://` name, or the last part of a directory's name: never a path of one machine."""
    kind: Literal["hub", "package", "local", "scratch"]


@dataclass(frozen=True, slots=True)
class Record:
    """What a card is written from."""

    config: RunConfig
    recipe: RecipeConfig
    form: Form
    dtype: str
    base: Base
    teachers: tuple[tuple[str, str], ...]
    """(name, model) of each debater."""
    labels: tuple[str, ...]
    """What the graphs' labels were measured against."""
    datasets: tuple[str, ...]
    facts: Mapping[str, Mapping[str, Any]]
    """Stage -> the facts of its manifest; "student" is the exported one, whatever its recipe."""
    finished: str
    results: Mapping[str, Any] | None
    """`evaluation/metrics.json`, where the evaluation was of these weights."""
    identity: str
    config_hash: str
    content: str
    """Hash of the student's files in the run."""
    packages: Mapping[str, str]
    """Name -> version, at the time of the export."""
    prompt: str | None
    """How a question is put, `{question}` in its place; None where that is no fixed text around the question."""
    chat: bool
    repository: str | None

    @property
    def name(self) -> str:
        """What the student is called, here and by `magdi serve`."""
        return f"{self.config.name}-{self.recipe.name}"

    @property
    def kind(self) -> Kind:
        """What the recipe amounts to, whatever it is called."""
        if self.recipe.nodes.texts == "gold_solutions":
            return "solutions"
        if self.active & {"interaction", "contrast"}:
            return "magdi"
        return "preference" if self.active & REPLIES else "replies"

    @property
    def active(self) -> set[str]:
        """Names of the objectives that carry weight."""
        return {objective.name for objective in self.recipe.objectives if objective.weight > 0}

    @property
    def debated(self) -> bool:
        """Whether the replies come from debates: one model alone holds none."""
        debate = self.config.debate
        return self.kind != "solutions" and (debate is None or debate.protocol.name not in SOLO)

    @property
    def trained(self) -> Mapping[str, Any]:
        """The facts of the student's training (`magdi_ray.distill.loop.summary`)."""
        return self.facts.get("student", {})

    @property
    def quantised(self) -> bool:
        """Whether the base was held in 4 bits while the adapter was trained."""
        return isinstance(self.config.distil.student.tuning, QloraTuning)
