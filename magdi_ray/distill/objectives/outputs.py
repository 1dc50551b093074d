"""What one forward pass gives, and the node embeddings in it. The base of this family: it knows none of its members."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from magdi_ray.distill.batch import GraphBatch
from magdi_ray.errors import GraphError


class Outputs(NamedTuple):
    """What one forward pass of student and heads gives. A plain tuple of tensors, as DeepSpeed's hooks expect."""

    next_token_sum: Tensor
    """Cross-entropy summed over the supervised tokens."""
    embeddings_NH: Tensor
    """What the graph network reads of every node; without one, what the scorer does, else the mean of the last hidden states."""
    scores_N: Tensor
    """tanh of the scorer, in (-1, 1)."""
    node_logits_N2: Tensor
    """The graph network's logits for incorrect and correct."""
    node_logps_N: Tensor
    """log p(reply | prompt), summed over the reply's tokens; zero where no objective compares whole replies."""
    verdicts_N: Tensor
    """The verifier's log-odds of correct."""


def pool(hidden_SH: Tensor, batch: GraphBatch, *, over: Literal["all", "reply"] = "all") -> Tensor:
    """Node embeddings [N, H]: `e = sum_t w_t h_t / sum_t w_t`, `w_t` = 1, 2, ..., T over prompt and reply, real tokens only.

    Later tokens have seen more context and weigh more. Padding neither counts nor shifts positions. A prompt's own sum is taken
    once, however many nodes share it. `over="reply"`: the sums run over the reply's tokens alone, with the same weights; an empty
    reply's embedding is zero.
    """
    # In float32 always: bfloat16 cannot tell positions above 256 apart.
    weight_S = ((batch.position_ids_BT + 1) * batch.attention_mask_BT).flatten().float()
    spans = 2 * batch.spans_2N.shape[1]  # at most: nodes may share a prompt
    sums_CH = hidden_SH.new_zeros((spans, hidden_SH.shape[1]), dtype=torch.float32)
    sums_CH = sums_CH.index_add(0, batch.segment_S, weight_S[:, None] * hidden_SH.float())
    weights_C = weight_S.new_zeros(spans).index_add(0, batch.segment_S, weight_S)
    prompt_N, reply_N = batch.spans_2N
    if over == "reply":
        return sums_CH[reply_N] / weights_C[reply_N].clamp(min=1.0)[:, None]
    return (sums_CH[prompt_N] + sums_CH[reply_N]) / (weights_C[prompt_N] + weights_C[reply_N])[:, None]


def weighted(losses_X: Tensor, batch: GraphBatch, node_X: Tensor | None = None) -> Tensor:
    """Losses, each times the weight of its graph. `node_X`: a node of each loss's graph; None: one loss a node."""
    if batch.weight_N is None:
        return losses_X
    return losses_X * (batch.weight_N if node_X is None else batch.weight_N[node_X])


def mean_logps(outputs: Outputs, batch: GraphBatch) -> Tensor:
    """[N]: log p(reply | prompt) over the reply's tokens, their end included.

    Raises:
        GraphError: the batch was collated without its reply tokens.
    """
    if batch.replies_3R is None:
        raise GraphError("Objectives that compare whole replies need the tokens of all of them; the batch was collated without.")
    lengths_N = torch.bincount(batch.replies_3R[2], minlength=len(outputs.node_logps_N))
    return outputs.node_logps_N / lengths_N.clamp(min=1)
