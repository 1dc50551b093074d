"""Telling correct from incorrect replies by their embeddings (method.md 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from magdi_ray.config.recipes import Contrast
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, weighted


def contrast(outputs: Outputs, batch: GraphBatch, config: Contrast, counts: Counts) -> Tensor:
    """`1/P sum_(p,n) max(0, margin - z_p + z_n)` over all pairs of a correct and an incorrect node of one graph.

    A graph with only one kind of node has no pair and contributes nothing.
    """
    z_N = outputs.scores_N.float()
    correct_P, incorrect_P = z_N[batch.pairs_2P[0]], z_N[batch.pairs_2P[1]]
    return weighted(torch.relu(config.margin - correct_P + incorrect_P), batch, batch.pairs_2P[0]).sum() / counts.pairs
