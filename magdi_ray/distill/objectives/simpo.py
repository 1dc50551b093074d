"""Preferring correct to incorrect replies by a margin, without a reference (SimPO, arXiv 2405.14734)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import SimPO
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, mean_logps, weighted


def simpo(outputs: Outputs, batch: GraphBatch, config: SimPO, counts: Counts) -> Tensor:
    """`-1/P sum_(p,n) log sigmoid(beta * (m_p - m_n) - gamma)` over the pairs of `contrast`.

    Equation 6: m is the mean log-probability of a reply's tokens.
    """
    mean_N = mean_logps(outputs, batch)
    correct_P, incorrect_P = mean_N[batch.pairs_2P[0]], mean_N[batch.pairs_2P[1]]
    gains_P = F.logsigmoid(config.beta * (correct_P - incorrect_P) - config.gamma)
    return -weighted(gains_P, batch, batch.pairs_2P[0]).sum() / counts.pairs
