"""The three objectives of MAGDi (arXiv 2402.01620, section 3.3; method.md section 3) and preference optimisation beside them.

Each is a pure function of outputs and batch.
Signature of the family: `objective(outputs, batch, config, counts) -> scalar`: this micro-batch's share of the mean over the
whole step. Shares of all micro-batches and workers add up to the objective's value, so the gradient does not depend on how the
graphs were dealt out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.recipes import Contrast, Interaction, NextToken, Objective, Preference
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.errors import GraphError


class Outputs(NamedTuple):
    """What one forward pass of student and heads gives. A plain tuple of tensors, as DeepSpeed's hooks expect."""

    next_token_sum: Tensor
    """Cross-entropy summed over the supervised tokens."""
    embeddings_NH: Tensor
    """Position-weighted mean of the last hidden states."""
    scores_N: Tensor
    """tanh of the scorer, in (-1, 1)."""
    node_logits_N2: Tensor
    """The graph network's logits for incorrect and correct."""
    node_logps_N: Tensor
    """log p(reply | prompt), summed over the reply's tokens; zero where no objective compares whole replies."""


def pool(hidden_SH: Tensor, batch: GraphBatch) -> Tensor:
    """Node embeddings [N, H]: `e = sum_t w_t h_t / sum_t w_t`, `w_t` = 1, 2, ..., T over prompt and reply, real tokens only.

    Later tokens have seen more context and weigh more. Padding neither counts nor shifts positions. A prompt's own sum is taken
    once, however many nodes share it.
    """
    # In float32 always: bfloat16 cannot tell positions above 256 apart.
    weight_S = ((batch.position_ids_BT + 1) * batch.attention_mask_BT).flatten().float()
    spans = 2 * batch.spans_2N.shape[1]  # at most: nodes may share a prompt
    sums_CH = hidden_SH.new_zeros((spans, hidden_SH.shape[1]), dtype=torch.float32)
    sums_CH = sums_CH.index_add(0, batch.segment_S, weight_S[:, None] * hidden_SH.float())
    weights_C = weight_S.new_zeros(spans).index_add(0, batch.segment_S, weight_S)
    prompt_N, reply_N = batch.spans_2N
    return (sums_CH[prompt_N] + sums_CH[reply_N]) / (weights_C[prompt_N] + weights_C[reply_N])[:, None]


def next_token(outputs: Outputs, batch: GraphBatch, config: NextToken, counts: Counts) -> Tensor:
    """`-1/M sum_m log p(x_m | x_<m)` over the supervised tokens of the correct nodes."""
    return outputs.next_token_sum / counts.supervised


def contrast(outputs: Outputs, batch: GraphBatch, config: Contrast, counts: Counts) -> Tensor:
    """`1/P sum_(p,n) max(0, margin - z_p + z_n)` over all pairs of a correct and an incorrect node of one graph.

    A graph with only one kind of node has no pair and contributes nothing.
    """
    z_N = outputs.scores_N.float()
    correct_P, incorrect_P = z_N[batch.pairs_2P[0]], z_N[batch.pairs_2P[1]]
    return torch.relu(config.margin - correct_P + incorrect_P).sum() / counts.pairs


def interaction(outputs: Outputs, batch: GraphBatch, config: Interaction, counts: Counts) -> Tensor:
    """`-1/N sum_v log softmax(g(e, E)_v)[y_v]`: the graph network predicts each node's label."""
    total = F.cross_entropy(outputs.node_logits_N2.float(), batch.correct_N, reduction="sum")
    return total / counts.nodes


def preference(outputs: Outputs, batch: GraphBatch, config: Preference, counts: Counts) -> Tensor:
    """`-1/P sum_(p,n) log sigmoid(beta * ((lp_p - ref_p) - (lp_n - ref_n)))` over the pairs of `contrast`.

    DPO, arXiv 2305.18290, equation 7: lp is a reply's log-probability, ref the same under the untrained student.

    Raises:
        GraphError: the batch comes without its reference.
    """
    if batch.reference_N is None:
        raise GraphError("The preference objective needs each reply's log-probability under the untrained student; found none.")
    gain_N = outputs.node_logps_N - batch.reference_N
    correct_P, incorrect_P = gain_N[batch.pairs_2P[0]], gain_N[batch.pairs_2P[1]]
    return -F.logsigmoid(config.beta * (correct_P - incorrect_P)).sum() / counts.pairs


OBJECTIVES: dict[str, Callable[[Outputs, GraphBatch, Any, Counts], Tensor]] = {
    "next_token": next_token,
    "contrast": contrast,
    "interaction": interaction,
    "preference": preference,
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
