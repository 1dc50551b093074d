"""Attention for continuous batching without flash attention: every row reads its own keys, not everybody's behind a mask.

The loop packs the tokens of all rows into one sequence. Ordinary attention then compares every token with every row's keys and
masks nearly all of it away, which grows with the square of the number of rows. Here rows that read one token each (most steps)
are attended as one padded batch, and other steps row by row.

Tensor names: R rows of a step, T tokens read by all of them, K keys of the longest row, Q and G heads of queries and of keys, N
queries that share a head of keys, D the size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "magdi_rows"
"""What the implementation is called in a model's configuration."""

FULL = "full_attention"
"""How the loop calls layers in which a token sees everything before it."""

WASTE = 4
"""A padded batch may take so many times the memory of the keys themselves; beyond it, rows are attended one by one."""


def use_rows(model: Any) -> bool:
    """Let a model that is about to decode continuously attend row by row, where it can; whether it does."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or [FULL]
    if model.config._attn_implementation != "sdpa" or set(layers) != {FULL} or getattr(config, "sliding_window", None):
        return False
    AttentionInterface.register(NAME, attend_rows)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def attend_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The signature of transformers' attention functions: query [1, Q, T, D], key and value [1, G, T, D], out [1, T, Q, D]."""
    if cache is None or kwargs.get("position_bias") is not None or kwargs.get("softcap") is not None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, cache=cache, **kwargs)
        return out, None
    [read_index] = kwargs["read_index"]
    rows, longest = kwargs["cu_seq_lens_q"].numel() - 1, kwargs["max_length_k"][FULL]
    # A step's dictionary of lengths is handed to all layers and to no other step: what the first layer makes is kept in it.
    lengths = kwargs["cu_seq_lens_k"]
    if kwargs["max_length_q"] == 1 and read_index.numel() > 0 and rows * longest <= WASTE * read_index.numel():
        if "padded" not in lengths:
            lengths["padded"] = pad(lengths[FULL].long(), read_index, longest)
        index, mask_R11K = lengths["padded"]
        keys, values = cache.update(key, value, module.layer_idx, {**kwargs, "read_index": [index]})
        return attend_padded(query, keys, values, mask_R11K, scaling), None
    if "ends" not in lengths:
        lengths["ends"] = kwargs["cu_seq_lens_q"].tolist(), lengths[FULL].tolist()
    keys, values = cache.update(key, value, module.layer_idx, kwargs)
    return attend_each(query, keys, values, lengths["ends"], scaling), None


def pad(ends: torch.Tensor, read_index: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where to read the keys of all rows, each filled up to the longest (R * K), and which of them are its own, [R, 1, 1, K]."""
    offset_K = torch.arange(longest, device=ends.device)
    own_RK = offset_K < (ends[1:] - ends[:-1])[:, None]
    place_RK = (ends[:-1, None] + offset_K).where(own_RK, 0)
    return read_index[place_RK].flatten(), own_RK[:, None, None, :]


def attend_padded(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask_R11K: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Rows of one token each; keys and values are [1, G, R * K, D]."""
    rows, longest, heads = mask_R11K.shape[0], mask_R11K.shape[-1], keys.shape[1]
    k_RGKD, v_RGKD = (x[0].transpose(0, 1).reshape(rows, longest, heads, -1).transpose(1, 2) for x in (keys, values))
    # Queries that share a head of keys stand where the tokens of a longer query would: nothing is repeated.
    q_RGND = query[0].transpose(0, 1).reshape(rows, heads, -1, query.shape[-1])
    out_RGND = attend(q_RGND, k_RGKD, v_RGKD, attn_mask=mask_R11K, scale=scaling)
    return out_RGND.flatten(1, 2).unsqueeze(0)


def attend_each(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    ends: tuple[Sequence[int], Sequence[int]],
    scaling: float | None,
) -> torch.Tensor:
    """Rows of any length, one by one; keys and values are [1, G, keys of all rows, D]. `ends` are where each row's queries and
    its keys end, behind a 0."""
    query_ends, key_ends = ends
    shared = query.shape[1] // keys.shape[1]
    outs = []
    for row in range(len(query_ends) - 1):
        q = query[:, :, query_ends[row] : query_ends[row + 1]]
        k, v = (x[:, :, key_ends[row] : key_ends[row + 1]] for x in (keys, values))
        if shared > 1:
            k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        read, seen = q.shape[2], k.shape[2]
        if read in (1, seen):
            out = attend(q, k, v, scale=scaling, is_causal=read > 1)
        else:
            # The first of the tokens read now sees everything before it and itself.
            mask = torch.ones(read, seen, dtype=torch.bool, device=q.device).tril(seen - read)
            out = attend(q, k, v, attn_mask=mask, scale=scaling)
        outs.append(out)
    return torch.cat(outs, dim=2).transpose(1, 2).contiguous()
