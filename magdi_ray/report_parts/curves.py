"""Losses of trainings by step, thinned to what a plot can show. Pure but for the one log that is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from magdi_ray.config import recipes
from magdi_ray.config.distil import DistilConfig
from magdi_ray.distill.watch.steplog import Training, read_trainings

POINTS = 200
"""Points of a training curve at most."""


def curves(distil: DistilConfig, log: Path) -> Iterator[dict[str, Any]]:
    """Losses of every training of a run's recipes, by step. `log`: its `metrics.jsonl`."""
    terms = {recipe.name: ("loss", *(term.name for term in recipe.objectives)) for recipe in recipes(distil)}
    found = read_trainings(log, dict.fromkeys(name for names in terms.values() for name in names))
    for recipe, names in terms.items():
        for seed in range(distil.seeds):
            training = found.get((recipe, seed), Training())
            if training.steps:
                yield {
                    "recipe": recipe,
                    "seed": seed,
                    "parts": {
                        name: thinned([(step, row[name]) for step, row in training.steps.items() if name in row])
                        for name in names
                    },
                    "dev": [[done, *measured] for done, measured in training.dev.items()],
                }


def thinned(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[list[float]]:
    """At most so many points: means over neighbours, the last point as it is."""
    if len(points) <= most:
        return [[step, value] for step, value in points]
    *earlier, last = points
    edges = [round(place * len(earlier) / (most - 1)) for place in range(most)]
    bins = [earlier[low:high] for low, high in pairwise(edges)]
    means = [[round(_mean([step for step, _ in bin_])), _mean([value for _, value in bin_])] for bin_ in bins]
    return [*means, list(last)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
