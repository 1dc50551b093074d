"""Learning the correct replies (method.md 3.1)."""

from __future__ import annotations

from torch import Tensor

from magdi_ray.config.recipes import NextToken
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs


def next_token(outputs: Outputs, batch: GraphBatch, config: NextToken, counts: Counts) -> Tensor:
    """`-1/M sum_m w_m log p(x_m | x_<m)` over the supervised tokens, M being the sum of their weights (`distill.teaching`)."""
    return outputs.next_token_sum / counts.supervised
