"""Preferring correct to incorrect replies, held to the untrained student (DPO, arXiv 2305.18290)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import Preference
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, weighted
from magdi_ray.errors import GraphError


def preference(outputs: Outputs, batch: GraphBatch, config: Preference, counts: Counts) -> Tensor:
    """`-1/P sum_(p,n) log sigmoid(beta * ((lp_p - ref_p) - (lp_n - ref_n)))` over the pairs of `contrast`.

    Equation 7: lp is a reply's log-probability, ref the same under the untrained student.

    Raises:
        GraphError: the batch comes without its reference.
    """
    if batch.reference_N is None:
        raise GraphError("The preference objective needs each reply's log-probability under the untrained student; found none.")
    gain_N = outputs.node_logps_N - batch.reference_N
    correct_P, incorrect_P = gain_N[batch.pairs_2P[0]], gain_N[batch.pairs_2P[1]]
    return -weighted(F.logsigmoid(config.beta * (correct_P - incorrect_P)), batch, batch.pairs_2P[0]).sum() / counts.pairs
