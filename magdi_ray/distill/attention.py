"""Who sees whom in a packed row, in the attention layers of a decoder. Knows layouts and transformers' attention interface.

Three exact paths, one result up to rounding:

    segments   each reply's queries against [its prompt's keys, its own keys]: no work for what is masked; any device
    flex       FlexAttention over the whole row with a block mask from the same layout: one kernel; GPU only
    padded     one row a node, the model's own attention: for models the other two cannot handle, and to compare with

A decoder reaches the first two by name (`attn_implementation`) and gets the layout as an argument of its forward pass. Called
without one, it is the ordinary model: what generates or evaluates need not know how it was trained.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from magdi_ray.distill.packing import Layout, positions, segments
from magdi_ray.errors import ConfigError

logger = logging.getLogger(__name__)

Path = Literal["segments", "flex", "padded"]
NAMES: dict[Path, str] = {"segments": "magdi_segments", "flex": "magdi_flex"}

WINDOWED = (
    *("mistral", "ministral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe", "starcoder2"),
    *("cohere2", "gemma2", "gemma3_text", "olmo3", "smollm3"),
)
"""Models read to hand their sliding window to the attention function; of others it is not known that it arrives."""

NO_CPU_BACKWARD = "FlexAttention has no backward pass on CPU; use `packing: segments` there"


def prepare_attention(decoder: PreTrainedModel, choice: Path | Literal["auto"], *, device: str | None = None) -> Path:
    """Decide how a decoder reads batches on a device (None: a GPU where there is one), and make it do so.

    `auto` takes segments, and padded, said once in the log, for a model that cannot read packed rows; flex only where it is
    asked for, until it has been proved on a GPU.

    Raises:
        ConfigError: the path asked for cannot be exact with this model or on this device.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    reason = obstacle(decoder)
    if choice == "auto":
        if reason:
            logger.warning("Every node is forwarded in a padded row of its own, at several times the cost: %s.", reason)
        chosen: Path = "padded" if reason else "segments"
    else:
        chosen = choice
        if choice == "flex" and not reason:
            reason = NO_CPU_BACKWARD if kind == "cpu" else _attention_dropout(decoder)
        if choice != "padded" and reason:
            raise ConfigError(
                f"distil.student.packing {choice!r} cannot be used: {reason}. Set `packing: padded`, which always can."
            )
    if chosen != "padded":
        decoder.set_attn_implementation(NAMES[chosen])
    elif reason is None and getattr(decoder.config, "attn_logit_softcapping", None):
        decoder.set_attn_implementation(NAMES["segments"])  # transformers' own SDPA path refuses a soft cap
    return chosen


def obstacle(decoder: PreTrainedModel) -> str | None:
    """Why a decoder cannot read packed rows exactly; None where it can."""
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ())
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    windowed = "sliding_attention" in kinds or (not kinds and getattr(config, "sliding_window", None) is not None)
    alibi = getattr(config, "alibi", False) or getattr(config, "position_embedding_type", "") == "alibi"
    reads_interface = getattr(decoder, "_supports_attention_backend", False) and decoder._can_set_attn_implementation()
    found = {
        "is not a causal decoder": config.is_encoder_decoder or getattr(config, "use_bidirectional_attention", False),
        "has layers with a running state, in which a reply would see its neighbour in the row": decoder._is_stateful,
        f"has layers of type {', '.join(other)}, in which a reply would see its neighbour in the row": other,
        "takes positions from the distance in the row (ALiBi)": alibi,
        "does not call transformers' attention interface": not reads_interface,
        "has attention sinks": any(hasattr(module, "sinks") for module in decoder.modules()),
        "has a sliding window and is not known to hand it on": windowed and config.model_type not in WINDOWED,
    }
    return next((f"{type(decoder).__name__} {reason}" for reason, holds in found.items() if holds), None)


def _attention_dropout(decoder: PreTrainedModel) -> str | None:
    rate = getattr(decoder.config, "attention_dropout", 0.0)
    return f"FlexAttention knows no dropout, and the model's attention_dropout is {rate}" if rate else None


def unused_mask(device: torch.device | str) -> Tensor:
    """What a packed row passes as the mask: transformers takes any 4D mask as it is, and builds none of its own.

    Left to itself it takes positions that start again for the seams of independent sequences, and cuts replies off from their
    prompt. This one is empty, so that code which did use it would fail.
    """
    return torch.empty((1, 1, 0, 0), device=device)


class Scoring(NamedTuple):
    """How a layer scores: what transformers hands to every attention function."""

    scaling: float | None
    dropout: float
    softcap: float | None


def _plain(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Tensor:
    """The ordinary model's attention; [1, T, heads, D]."""
    softcap = rest.pop("softcap", None)
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, **rest)[0]
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(key.shape[2] - query.shape[2])
    if mask.dtype == torch.bool:
        mask = _additive(mask, query.dtype)
    how = Scoring(rest.get("scaling"), rest.get("dropout", 0.0), softcap)
    return _attend(query, key, value, mask, how).transpose(1, 2).contiguous()


def _checked(rest: dict[str, Any]) -> None:
    """Refuse what a model adds to attention and these paths do not know: leaving it out would be silently wrong."""
    unknown = [name for name in ("position_bias", "s_aux", "cache") if rest.get(name) is not None]
    if unknown or rest.get("is_causal") is False:
        raise ConfigError(
            f"The student's attention uses {unknown or 'no causal mask'}, which packed rows do not support. "
            "Set distil.student.packing to padded."
        )


def segments_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """The `segments` path as one of transformers' attention functions: from [1, heads, T, D] to [1, T, heads, D]."""
    layout: Layout | None = rest.pop("layout", None)
    if layout is None:
        return _plain(module, query, key, value, attention_mask, **rest), None
    _checked(rest)
    window = rest.get("sliding_window")
    how = Scoring(rest.get("scaling"), rest.get("dropout", 0.0), rest.get("softcap"))
    # One split of the whole row: its backward pass is one concatenation, that of many slices a sum of rows full of zeros.
    sizes = [span.length for span in layout.spans]
    pieces = iter(zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True))
    outputs: list[Tensor] = []
    for graph in layout.graphs:
        prompt_q, prompt_k, prompt_v = next(pieces)
        plain = how.softcap is None and (window is None or graph.prompt.length <= window)
        own = None if plain else _prefix_mask(layout, 0, graph.prompt.length, window=window, like=query)
        outputs.append(_attend(prompt_q, prompt_k, prompt_v, own, how))
        for reply in graph.replies:
            reply_q, reply_k, reply_v = next(pieces)
            mask = _prefix_mask(layout, graph.prompt.length, reply.length, window=window, like=query)
            keys, values = torch.cat((prompt_k, reply_k), dim=2), torch.cat((prompt_v, reply_v), dim=2)
            outputs.append(_attend(reply_q, keys, values, mask, how))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, how: Scoring) -> Tensor:
    """Attention with grouped keys and values; `mask` is additive, None (never with a soft cap) means causal."""
    if query.shape[2] == 0:
        return query.new_zeros((*query.shape[:3], value.shape[-1]))
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and (how.softcap is not None or query.device.type != "cpu"):  # CUDA's fused kernels want it with a mask
        key, value, groups = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1), 1
    if how.softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, how.dropout, is_causal=mask is None, scale=how.scaling, enable_gqa=groups > 1
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if how.scaling is None else how.scaling)
    scores = torch.tanh(scores / how.softcap) * how.softcap
    weights = torch.softmax((scores if mask is None else scores + mask).float(), dim=-1).to(value.dtype)
    return F.dropout(weights, how.dropout) @ value


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    # Not minus infinity: padding that sees nothing, beyond its window, would come out as NaN.
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)


def _prefix_mask(layout: Layout, prefix: int, length: int, *, window: int | None, like: Tensor) -> Tensor:
    """Additive [length, prefix + length]: query i stands at position `prefix + i` and sees `window` positions up to its own.

    Every such mask is a cutting from one table, made once a batch: along its diagonals nothing changes.
    """
    key = ("prefix", window, like.device, like.dtype)
    if key not in layout.memo:
        longest = max(span.length for span in layout.spans)
        shift = max(graph.prompt.length for graph in layout.graphs)
        distance = torch.arange(longest)[:, None] + shift - torch.arange(shift + longest)[None, :]
        allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        layout.memo[key] = (_additive(allowed, like.dtype).to(like.device), shift)
    table, shift = layout.memo[key]
    cutting: Tensor = table[:length, shift - prefix : shift + length]
    if cutting.device.type == "cpu":
        return cutting
    if (place := ("aligned", prefix, length, *key)) not in layout.memo:
        layout.memo[place] = _aligned(cutting)  # once for all layers, each of which keeps it for its backward pass
    return layout.memo[place]  # type: ignore[no-any-return]


def _aligned(mask: Tensor) -> Tensor:
    """The same mask in memory of its own, rows a multiple of 8 long: GPU kernels refuse a mask that starts anywhere."""
    rows, width = mask.shape
    room = mask.new_zeros(rows, -(-width // 8) * 8)
    room[:, :width] = mask
    return room[:, :width]


def flex_mod(layout: Layout, *, window: int | None, device: torch.device | str) -> Any:
    """FlexAttention's mask function: may query token q of the row see token k?"""
    own, prompt = (torch.tensor(table, device=device) for table in segments(layout))
    place = torch.tensor(positions(layout), device=device)

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        related = (own[k] == own[q]) | (own[k] == prompt[q])
        distance = place[q] - place[k]
        seen = related & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    return allowed


def _block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    key = ("blocks", window, device)
    if key not in layout.memo:
        mod, length = flex_mod(layout, window=window, device=device), layout.length
        # Compiled, the mask is never held as a whole; there is no compiler to rely on where there is no GPU.
        compiled = device.type == "cuda"
        layout.memo[key] = create_block_mask(mod, None, None, length, length, device=str(device), _compile=compiled)
    return layout.memo[key]  # type: ignore[no-any-return]


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def flex_path(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """The `flex` path as one of transformers' attention functions: from [1, heads, T, D] to [1, T, heads, D]."""
    layout: Layout | None = rest.pop("layout", None)
    if layout is None:
        return _plain(module, query, key, value, attention_mask, **rest), None
    _checked(rest)
    if query.device.type == "cpu" and torch.is_grad_enabled():
        raise ConfigError(f"{NO_CPU_BACKWARD}.")
    softcap: float = rest.get("softcap") or 0.0

    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    attend = flex_attention if query.device.type == "cpu" else _compiled_flex()
    output = attend(
        query,
        key,
        value,
        score_mod=capped if softcap else None,
        block_mask=_block_mask(layout, rest.get("sliding_window"), query.device),
        scale=rest.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


# transformers finds attention by name; the names are ours alone, and registering one twice changes nothing.
for _name, _function in ((NAMES["segments"], segments_attention), (NAMES["flex"], flex_path)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
