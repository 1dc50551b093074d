"""The weight of each objective at each step. Pure: a function of the recipe and of how far the training is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from magdi_ray.config.recipes import Objective


def weights_at(objectives: Sequence[Objective], step: int, steps: int) -> dict[str, float]:
    """Name -> weight at `step` (counted from 0) of a training of `steps` steps.

    A way of `n` steps begins at step 0 and has ended at step `n`. One without a length begins at the first step of the training
    and has ended at the last.
    """
    return {objective.name: objective.weight * _factor(objective, step, steps) for objective in objectives}


def _factor(objective: Objective, step: int, steps: int) -> float:
    """The share of its weight."""
    schedule = objective.schedule
    progress = min(1.0, step / (schedule.steps or max(1, steps - 1)))
    if schedule.type == "constant":
        return 1.0
    if schedule.type == "warmup":
        return schedule.ratio + (1.0 - schedule.ratio) * progress
    return schedule.ratio + (1.0 - schedule.ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
