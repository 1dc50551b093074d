"""The whole configuration of a run, and what its sections must agree on."""

from __future__ import annotations

import difflib

from pydantic import Field, model_validator

from magdi_ray.config.base import Section, operational
from magdi_ray.config.distil import DistilConfig, recipes
from magdi_ray.config.resources import Resources
from magdi_ray.config.sections import DebateConfig, EvaluateConfig, FileTask, GraphConfig, Name, TaskConfig
from magdi_ray.config.serving import ServeConfig


class RunConfig(Section):
    """A whole run: one YAML file, one run directory."""

    name: Name
    seed: int = Field(0, ge=0)
    """Root of every random draw of the run."""
    task: TaskConfig
    debate: DebateConfig | None = None
    graph: GraphConfig = GraphConfig()
    distil: DistilConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    resources: Resources = operational(Resources())
    """On which nodes of a cluster all of this runs."""

    @property
    def needs_golds(self) -> bool:
        """Whether training questions of a file without a gold answer are bad rows: where any recipe's labels come from golds."""
        graph = self.graph.labels == "gold"
        return any(
            r.labels.source == "gold" or (r.labels.source == "graph" and graph) or r.nodes.texts == "gold_solutions"
            for r in recipes(self.distil)
        )

    @model_validator(mode="after")
    def _one_source_of_graphs(self) -> RunConfig:
        if (self.debate is None) == (self.graph.source is None):
            found = "neither" if self.debate is None else "both"
            raise ValueError(f"graphs come either from a `debate` section or from `graph.source`; found {found}")
        if isinstance(self.task, FileTask):
            if self.graph.source is None and self.task.path is None:
                raise ValueError("task.path is required: the file whose questions are debated")
            if self.graph.source is not None and (self.task.path or self.task.limit):
                raise ValueError(
                    "task.path and task.limit have no place beside graph.source, which brings its own training questions"
                )
        return self

    @model_validator(mode="after")
    def _systems_have_distinct_names(self) -> RunConfig:
        agents = [agent.name for agent in (*(self.debate.agents if self.debate else ()), *self.evaluate.agents)]
        names = [*agents, *(recipe.name for recipe in recipes(self.distil)), "base", "vote"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"agents and recipes need names distinct from each other and from base and vote, found {twice} twice"
            )
        silent = getattr(self.debate.protocol, "students", ()) if self.debate else ()
        names = [name for name in names if name not in silent]  # students at the table are no systems of the evaluation
        for one, other in self.evaluate.comparisons:
            if one == other:
                raise ValueError(f"evaluate.comparisons compares {one!r} with itself")
            # whose graphs come from a file, its teachers are only known there
            for name in (name for name in (one, other) if name not in names and self.graph.source is None):
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? The" if near else "the"
                raise ValueError(f"evaluate.comparisons names {name!r}; {hint} systems are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _elastic_training_needs_no_labels(self) -> RunConfig:
        place, (low, high) = self.resources.distil, self.distil.scaling.workers
        if low < high and (place.labels or place.strategy.startswith("STRICT")):
            asked = "labels" if place.labels else f"strategy: {place.strategy}"
            raise ValueError(
                f"resources.distil.{asked} cannot go with distil.scaling.num_workers [{low}, {high}]: to choose a number of "
                "workers, Ray counts what is free on all nodes, whatever their labels and however they are spread. Give one "
                "number of workers, or name the nodes by resources.distil.accelerator or .custom, which Ray does count"
            )
        return self

    @model_validator(mode="after")
    def _other_tasks_are_others(self) -> RunConfig:
        if self.task.name in (names := [task.name for task in self.evaluate.tasks]):
            raise ValueError(
                f"evaluate.tasks holds {names}, but {self.task.name} is the run's own task: name its held-out questions there "
                "(task.test_path), and their splits in evaluate.splits"
            )
        return self
