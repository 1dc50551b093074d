"""What one rank holds in memory while a student is trained, part by part. Counted, not measured.

Weights, gradients and optimiser after the accounting of ZeRO (arXiv 1910.02054, sections 3 and 5) with its `K = 12` bytes of
float32 master weights and Adam moments a trained weight. Activations are counted tensor by tensor, as arXiv 2205.05198,
section 4, does for GPT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import assert_never

from magdi_ray.config.distil import DeepSpeedConfig, FullTuning, LoraTuning, QloraTuning, TrainConfig
from magdi_ray.config.recipes import Interaction, RecipeConfig
from magdi_ray.distill.forecast.shapes import StudentShape, adapted, lora_parameters
from magdi_ray.graph.schema import EDGE_TYPES

GIB = float(1 << 30)

CHUNK = 512
"""Tokens whose logits are held at once (`distill.head.CHUNK`, which is not imported for its torch)."""

GAT_HEADS = 4
"""Attention heads of that graph network (`distill.graph_networks.gat.HEADS`, which is not imported for its torch)."""

BUCKET = 500_000_000
"""DeepSpeed's `reduce_bucket_size`: gradients on their way to other ranks."""

LIVE = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`: weights ZeRO-3 has gathered at any time, at most."""

RESERVE = 2 * GIB
"""For CUDA's context and what the allocator cannot use."""

Tuning = FullTuning | LoraTuning | QloraTuning


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes one rank needs."""

    parts: dict[str, float]
    """On the GPU, by what they are for."""
    host: float = 0.0
    """What is offloaded to the host's memory."""

    @property
    def total(self) -> float:
        """On the GPU."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Trainee:
    """A student with what is trained of it."""

    shape: StudentShape
    tuning: Tuning
    heads: int = 0
    """Weights of the scorer and the graph network."""

    @property
    def adapters(self) -> int:
        """Weights of the adapters; 0 where all weights are trained."""
        if isinstance(self.tuning, FullTuning):
            return 0
        return lora_parameters(self.shape, r=self.tuning.r, targets=self.tuning.target_modules)

    @property
    def trained(self) -> int:
        """All weights that get gradients."""
        return self.heads + (self.adapters or self.shape.parameters)


def head_parameters(shape: StudentShape, recipe: RecipeConfig) -> int:
    """Weights of a recipe's training heads, which are no part of the student (`distill.student`)."""
    count = 0
    for objective in recipe.objectives:
        if objective.name in ("contrast", "verify"):
            count += (shape.hidden + 2) * objective.hidden + 1
        elif objective.name == "interaction":
            projection = objective.projection
            count += (shape.hidden + 1) * projection if projection else 0
            count += _network_parameters(projection or shape.hidden, objective)
    return count


def _network_parameters(width: int, objective: Interaction) -> int:
    """Weights of two layers over embeddings of some width (`distill.graph_networks`): matrices, biases, and GAT's attention."""
    hidden, matrices = objective.hidden, (width + 2) * objective.hidden
    match objective.network:
        case "gcn":
            return matrices + hidden + 2
        case "rgcn":
            return (len(EDGE_TYPES) + 1) * matrices + hidden + 2
        case "gat":
            return GAT_HEADS * (matrices + 2 * (hidden + 2)) + hidden + 2
    assert_never(objective.network)


def activation_bytes(trainee: Trainee, *, bf16: bool, reread: float = 0.0, gpu: bool = True) -> float:
    """Bytes one layer keeps of one token for its backward pass, on the `segments` path.

    With H hidden, A attention and I intermediate width and b bytes a number:

        norms       4H each, their float32 input; Hb more where their weights are trained
        attention   2Ab, queries and output; 2Ab (1 + reread), keys and values, once more for every reply that sees them.
                    On a CPU grouped heads share theirs, on a GPU they are repeated for all heads
        MLP         3Ib: gate, gate after its activation, up
        matrices    their input, once for those that share it, where they are trained or have an adapter; an adapter with dropout
                    keeps an input of its own and a mask, and every adapter its `r` inner numbers
    """
    shape, tuning, size = trainee.shape, trainee.tuning, 2 if bf16 else 4
    keys = shape.heads if gpu else shape.kv_heads
    kept = float(shape.layer_norms * (4 * shape.hidden + 4) + 4 * shape.heads + 3 * shape.intermediate * size)
    kept += 2 * size * (shape.attention_width + (1 + reread) * keys * shape.head_dim)
    if shape.qk_norm:
        kept += (shape.heads + shape.kv_heads) * (4 * shape.head_dim + 4)
    if isinstance(tuning, FullTuning):
        normed = shape.layer_norms * shape.hidden + shape.qk_norm * (shape.heads + shape.kv_heads) * shape.head_dim
        return kept + size * (normed + 2 * shape.hidden + shape.attention_width + shape.intermediate)
    modules = adapted(shape, tuning.target_modules)
    inner = len(modules) * tuning.r * size / shape.layers
    if tuning.dropout:
        return kept + inner + sum(inputs for inputs, _ in modules.values()) * (size + (1 if gpu else size)) / shape.layers
    shared = {re.sub("[qkv]_proj$", "qkv", re.sub("(gate|up)_proj$", "mlp", name)): sizes[0] for name, sizes in modules.items()}
    return kept + inner + sum(shared.values()) * size / shape.layers


def activations(trainee: Trainee, train: TrainConfig, *, tokens: int, reread: float = 0.0, gpu: bool = True) -> float:
    """Bytes kept of one micro-batch. With gradient checkpointing: the input of every layer, and one layer in full."""
    layer = activation_bytes(trainee, bf16=train.bf16, reread=reread, gpu=gpu)
    if not train.gradient_checkpointing:
        return tokens * trainee.shape.layers * layer
    return tokens * (trainee.shape.layers * trainee.shape.hidden * (2 if train.bf16 else 4) + layer)


def memory_per_rank(
    trainee: Trainee,
    train: TrainConfig,
    deepspeed: DeepSpeedConfig,
    *,
    workers: int,
    tokens: int,
    reread: float = 0.0,
    gpu: bool = True,
) -> Memory:
    """What one of `workers` ranks holds while it forwards `tokens` tokens; `reread`: see `activation_bytes`.

    ZeRO stage 1 divides the optimiser by the workers, 2 the gradients too, 3 the weights too. In bfloat16 a trained weight has
    2 bytes, its gradient 2, master copy 4, Adam 8; in float32 4, 4, 4 (ZeRO's own copy; none at stage 0) and 8.
    """
    size, stage = 2 if train.bf16 else 4, deepspeed.zero_stage
    trained, shape = trainee.trained, trainee.shape
    optimiser = trained * (8 + (4 if train.bf16 or stage else 0)) / (workers if stage else 1)
    gradients = trained * size / (workers if stage >= 2 else 1)
    whole = (shape.parameters + trainee.adapters + trainee.heads) * size
    parts = {
        "weights": quantised_bytes(trainee, trainee.tuning, size) if isinstance(trainee.tuning, QloraTuning) else whole,
        "gradients": gradients,
        "optimiser": optimiser,
        "buffers": min(trained, BUCKET) * size if stage and workers > 1 else 0.0,
        "activations": activations(trainee, train, tokens=tokens, reread=reread, gpu=gpu),
        "logits": CHUNK * shape.vocab * (8 + 2 * size) + (4 * shape.head if isinstance(trainee.tuning, FullTuning) else 0),
        "reserve": RESERVE if gpu else 0.0,
    }
    host = 0.0
    if stage == 3:  # 4-bit weights count as whole on every rank
        if not isinstance(trainee.tuning, QloraTuning):
            parts["weights"] /= workers
            parts["buffers"] += min(shape.parameters, LIVE) * size
        if deepspeed.offload_param == "cpu":
            host += parts.pop("weights")
    if deepspeed.offload_optimizer == "cpu":
        host += parts.pop("optimiser") + parts.pop("gradients")
    return Memory(parts, host)


def quantised_bytes(trainee: Trainee, tuning: QloraTuning, size: int) -> float:
    """The layers' matrices in 4 bits, all other weights in `size` bytes (arXiv 2305.14314, section 3).

    Every 64 weights share a scale of 32 bits; doubly quantised, one of 8 bits, and 256 of those another of 32.
    """
    shape = trainee.shape
    scale = 1 / 64 + 4 / (64 * 256) if tuning.double_quant else 4 / 64
    return shape.matrices * (0.5 + scale) + size * (shape.parameters - shape.matrices + trainee.adapters + trainee.heads)
