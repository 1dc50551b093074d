"""Preferring correct to incorrect replies by their odds, beside learning the correct ones (ORPO, arXiv 2403.07691)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import ORPO
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.objectives.outputs import Outputs, mean_logps, weighted

CERTAIN = -1e-6
"""A mean log-probability counts as no higher: the odds of what is certain are infinite."""


def orpo(outputs: Outputs, batch: GraphBatch, config: ORPO, counts: Counts) -> Tensor:
    """`-1/P sum_(p,n) log sigmoid(log odds_p - log odds_n)` over the pairs of `contrast`.

    Equations 4 to 7: `odds = q / (1 - q)`, log q being the mean log-probability of a reply's tokens.
    """
    mean_N = mean_logps(outputs, batch).clamp(max=CERTAIN)
    odds_N = mean_N - torch.log(-torch.expm1(mean_N))
    correct_P, incorrect_P = odds_N[batch.pairs_2P[0]], odds_N[batch.pairs_2P[1]]
    return -weighted(F.logsigmoid(correct_P - incorrect_P), batch, batch.pairs_2P[0]).sum() / counts.pairs
