"""What a student is taught by: MAGDi's objectives (arXiv 2402.01620, section 3.3; method.md section 3), and others beside them.

Each is a pure function of outputs and batch, in a file of its own.
Signature of the family: `objective(outputs, batch, config, counts) -> scalar`: this micro-batch's share of the mean over the
whole step. Shares of all micro-batches and workers add up to the objective's value, so the gradient does not depend on how the
graphs were dealt out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from magdi_ray.config.recipes import NextToken, Objective
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.contrast import contrast
from magdi_ray.distill.objectives.interaction import interaction
from magdi_ray.distill.objectives.next_token import next_token
from magdi_ray.distill.objectives.orpo import orpo
from magdi_ray.distill.objectives.outputs import Outputs, pool
from magdi_ray.distill.objectives.preference import preference
from magdi_ray.distill.objectives.simpo import simpo
from magdi_ray.distill.objectives.verify import verify

__all__ = [
    "OBJECTIVES",
    "Outputs",
    "contrast",
    "interaction",
    "next_token",
    "orpo",
    "pool",
    "preference",
    "simpo",
    "verify",
    "weighted_sum",
]

OBJECTIVES: dict[str, Callable[[Outputs, GraphBatch, Any, Counts], Tensor]] = {
    "next_token": next_token,
    "contrast": contrast,
    "interaction": interaction,
    "verify": verify,
    "preference": preference,
    "simpo": simpo,
    "orpo": orpo,
}


def weighted_sum(
    outputs: Outputs,
    batch: GraphBatch,
    objectives: Sequence[Objective],
    counts: Counts,
    weights: Mapping[str, float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`sum_i weight_i * L_i`, and each unweighted part by name (detached). `weights`: those of this step; None: as configured.

    Every output enters with at least weight zero, so that a micro-batch without pairs or without a correct node still
    reaches all parameters: distributed reduction waits for each of them.
    """
    unused = outputs[1:] if any(isinstance(objective, NextToken) for objective in objectives) else outputs
    total = torch.stack([0.0 * output.float().sum() for output in unused]).sum()
    parts: dict[str, Tensor] = {}
    for objective in objectives:
        value = OBJECTIVES[objective.name](outputs, batch, objective, counts)
        parts[objective.name] = value.detach()
        total = total + (objective.weight if weights is None else weights[objective.name]) * value
    return total, parts
