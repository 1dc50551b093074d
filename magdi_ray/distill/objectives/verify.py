"""Telling correct from incorrect replies one by one: what a verifier is taught by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import Verify
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, weighted


def verify(outputs: Outputs, batch: GraphBatch, config: Verify, counts: Counts) -> Tensor:
    """`-1/N sum_v (y_v log sigmoid(s_v) + (1 - y_v) log(1 - sigmoid(s_v)))`, s being the verifier's log-odds.

    The outcome-supervised verifier of Cobbe et al. (arXiv 2110.14168, section 4), on the replies of a debate.
    """
    losses_N = F.binary_cross_entropy_with_logits(outputs.verdicts_N.float(), batch.correct_N.float(), reduction="none")
    return weighted(losses_N, batch).sum() / counts.nodes
