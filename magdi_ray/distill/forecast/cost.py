"""A forecast: what training one recipe is going to take, worked out from a workload and a student's shape.

Counted are the floating-point operations of the student: matrix products and attention. Left out, as small beside them: norms,
activation functions, the training heads, the optimiser; and measurements on the way, checkpoints and loading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from magdi_ray.config.distil import DistilEstimateConfig, TrainConfig
from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.distill.forecast.memory import Trainee
from magdi_ray.distill.forecast.workload import Workload


@dataclass(frozen=True, slots=True)
class Forecast:
    """What training one recipe takes, over all its epochs."""

    recipe: str
    workload: Workload
    """Of one epoch."""
    steps: int
    epochs: float
    forwarded: int
    """Tokens through the student."""
    supervised: int
    flops: float | None
    """Of all workers together; None where the student's shape is not known."""

    def hours(self, assumed: DistilEstimateConfig, workers: int) -> float | None:
        """`flops / (workers x gpu_tflops x utilisation)`, communication and waiting being part of the utilisation."""
        return None if self.flops is None else self.flops / (workers * assumed.gpu_tflops * 1e12 * assumed.utilisation) / 3600


def forecast(recipe: RecipeConfig, workload: Workload, trainee: Trainee | None, train: TrainConfig) -> Forecast:
    """What training a recipe takes."""
    steps, epochs = count_steps(workload, train)
    flops = None
    if trainee is not None:
        flops = epochs * training_flops(workload, trainee, gradient_checkpointing=train.gradient_checkpointing)
        flops += reference_flops(recipe, workload, trainee)
    return Forecast(
        recipe=recipe.name,
        workload=workload,
        steps=steps,
        epochs=epochs,
        forwarded=round(epochs * workload.forwarded),
        supervised=round(epochs * workload.supervised),
        flops=flops,
    )


def count_steps(workload: Workload, train: TrainConfig) -> tuple[int, float]:
    """Steps and epochs, if all graphs were alike: a step takes whole graphs until it holds `tokens_per_step` (`distill.plan`)."""
    if not workload.supervised or not workload.graphs:
        return 0, 0.0
    graphs_a_step = math.ceil(train.tokens_per_step * workload.graphs / workload.supervised)
    if train.epochs is None:
        assert train.max_steps is not None
        return train.max_steps, train.max_steps * graphs_a_step / workload.graphs
    return math.ceil(train.epochs * workload.graphs / graphs_a_step), float(train.epochs)


def forward_flops(workload: Workload, trainee: Trainee) -> float:
    """Of the layers, one pass: `2 x matrices` a token, and `4 x layers x attention width` for every pair of a token and one it
    attends to, half for the scores and half for their sum (arXiv 2001.08361, table 1; 2204.02311, appendix B)."""
    shape = trainee.shape
    products = 2.0 * (shape.matrices + trainee.adapters) * workload.forwarded
    return products + 4.0 * shape.layers * shape.attention_width * workload.attended


def training_flops(workload: Workload, trainee: Trainee, *, gradient_checkpointing: bool) -> float:
    """Forward and backward over one epoch.

    Backward is twice forward (arXiv 2001.08361, section 2.1), once for the gradient of the inputs and once for that of the
    weights; frozen matrices need the former only. The head's product is taken for supervised tokens only, and as often as a
    layer's, twice where it is frozen (`distill.head`). Gradient checkpointing takes the layers' forward pass again.
    """
    shape, frozen = trainee.shape, trainee.adapters > 0
    forward = forward_flops(workload, trainee)
    weights = 2.0 * shape.matrices * workload.forwarded
    backward = 2.0 * forward - (weights if frozen else 0.0)
    head = 2.0 * shape.head * workload.headed * (2 if frozen else 3)
    return forward * (2 if gradient_checkpointing else 1) + backward + head


def reference_flops(recipe: RecipeConfig, workload: Workload, trainee: Trainee) -> float:
    """One forward pass of the untrained student before training, where an objective needs it: frozen embeddings, preference."""
    preferring = any(o.name == "preference" and o.weight > 0 for o in recipe.objectives)
    frozen = any(o.name == "interaction" and o.weight > 0 and o.embeddings == "frozen" for o in recipe.objectives)
    if not preferring and not frozen:
        return 0.0
    return forward_flops(workload, trainee) + (2.0 * trainee.shape.head * workload.headed if preferring else 0.0)


def tokens_at_once(workload: Workload, train: TrainConfig, *, workers: int) -> int:
    """Tokens of the largest micro-batch: a worker's share of a step, cut at `tokens_per_micro_batch`, or one large graph."""
    steps, epochs = count_steps(workload, train)
    share = math.ceil(epochs * workload.forwarded / max(1, steps) / workers) if steps else 0
    limit = train.tokens_per_micro_batch
    return max(workload.largest, share if limit is None else min(share, limit))
