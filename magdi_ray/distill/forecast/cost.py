"""A forecast: what training one recipe is going to take, worked out from a workload and a student's shape.

Counted are the floating-point operations of the student: products with the matrices of its layers, for every token; with the LM
head, for tokens whose logits are needed; attention. Nothing is counted for the embedding table, which is looked up. Left out, as
small beside the rest: norms, activation functions, the training heads, the optimiser. The summary of a finished training counts
by the same formula (`spent_flops`), without attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from magdi_ray.config.distil import DevConfig, DistilEstimateConfig, TrainConfig
from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.distill.forecast.memory import Trainee, Tuning
from magdi_ray.distill.forecast.shapes import from_config
from magdi_ray.distill.forecast.workload import Workload
from magdi_ray.errors import ConfigError


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
    """Of the steps, all workers together, and of an untrained student's pass; None where the student's shape is not known."""
    measurements: int = 0
    """Of the dev loss."""
    measuring: float = 0.0
    """FLOPs of them all; what is generated for the dev accuracy is not counted."""

    def seconds(self, assumed: DistilEstimateConfig, workers: int) -> float | None:
        """Operations of steps and measurements over `workers x gpu_tflops x utilisation`, of which waiting is a part."""
        rate = workers * assumed.gpu_tflops * 1e12 * assumed.utilisation
        return None if self.flops is None else (self.flops + self.measuring) / rate


def forecast(
    recipe: RecipeConfig,
    workload: Workload,
    trainee: Trainee | None,
    train: TrainConfig,
    *,
    dev: DevConfig | None = None,
    held_out: Workload | None = None,
) -> Forecast:
    """What training a recipe takes; `held_out`: what `dev` is measured on."""
    steps, epochs = count_steps(workload, train)
    measurements = 0 if dev is None or held_out is None or not steps else 1 + math.ceil(steps / dev.every_steps)
    flops, measuring = None, 0.0
    if trainee is not None:
        flops = epochs * training_flops(workload, trainee, gradient_checkpointing=train.gradient_checkpointing)
        flops += reference_flops(recipe, workload, trainee)
        if held_out is not None:
            measuring = measurements * (forward_flops(held_out, trainee) + 2.0 * trainee.shape.head * held_out.headed)
    return Forecast(
        recipe=recipe.name,
        workload=workload,
        steps=steps,
        epochs=epochs,
        forwarded=round(epochs * workload.forwarded),
        supervised=round(epochs * workload.supervised),
        flops=flops,
        measurements=measurements,
        measuring=measuring,
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
    """Of the layers, one pass: products, and `4 x layers x attention width` for every pair of a token and one it attends to,
    half for the scores and half for their sum (arXiv 2001.08361, table 1; 2204.02311, appendix B)."""
    return _products(workload.forwarded, trainee) + _attention(workload, trainee)


def training_flops(workload: Workload, trainee: Trainee, *, gradient_checkpointing: bool) -> float:
    """Forward and backward over one epoch: `product_flops`, and attention, whose backward pass is twice the forward one too."""
    products = product_flops(
        trainee, forwarded=workload.forwarded, headed=workload.headed, gradient_checkpointing=gradient_checkpointing
    )
    return products + (4 if gradient_checkpointing else 3) * _attention(workload, trainee)


def product_flops(trainee: Trainee, *, forwarded: float, headed: float, gradient_checkpointing: bool) -> float:
    """Matrix products forward and backward, of `forwarded` tokens through the layers and `headed` ones through the LM head.

    Two operations a weight and token. Backward is twice forward (arXiv 2001.08361, section 2.1), once for the gradient of the
    inputs and once for that of the weights; frozen matrices need the former only. The head's product is taken as often as a
    layer's, twice where it is frozen (`distill.head`). Gradient checkpointing takes the layers' forward pass again.
    """
    shape, frozen = trainee.shape, trainee.adapters > 0
    forward = _products(forwarded, trainee)
    backward = 2.0 * forward - (2.0 * shape.matrices * forwarded if frozen else 0.0)
    head = 2.0 * shape.head * headed * (2 if frozen else 3)
    return forward * (2 if gradient_checkpointing else 1) + backward + head


def spent_flops(config: Any, tuning: Tuning, *, forwarded: int, supervised: int, gradient_checkpointing: bool) -> float | None:
    """What a training that has ended took, by its own counts: `product_flops`, the head taken for supervised tokens.

    Without attention, which depends on lengths nobody has counted, a few percent for students of a billion weights and more.
    `config`: the student's `transformers` configuration. None for an architecture `shapes` does not know.
    """
    try:
        trainee = Trainee(from_config(config, source=""), tuning)
    except ConfigError:
        return None
    return product_flops(trainee, forwarded=forwarded, headed=supervised, gradient_checkpointing=gradient_checkpointing)


def _products(tokens: float, trainee: Trainee) -> float:
    return 2.0 * (trainee.shape.matrices + trainee.adapters) * tokens


def _attention(workload: Workload, trainee: Trainee) -> float:
    return 4.0 * trainee.shape.layers * trainee.shape.attention_width * workload.attended


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
