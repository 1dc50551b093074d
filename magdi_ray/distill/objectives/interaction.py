"""Telling correct from incorrect replies by who was shown what (method.md 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import Interaction
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, weighted


def interaction(outputs: Outputs, batch: GraphBatch, config: Interaction, counts: Counts) -> Tensor:
    """`-1/N sum_v log softmax(g(e, E)_v)[y_v]`: the graph network predicts each node's label."""
    losses_N = F.cross_entropy(outputs.node_logits_N2.float(), batch.correct_N, reduction="none")
    return weighted(losses_N, batch).sum() / counts.nodes
