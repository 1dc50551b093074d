"""The training plan: which graphs make up each step, on which worker, in which micro-batch. Pure and deterministic.

The plan is a function of the dataset's sizes, the configuration and the seed, so every worker computes the same one, a resumed
training continues it at its step, and the graphs of a step never depend on the number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from magdi_ray.config.distil import TrainConfig
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What planning needs to know of a graph."""

    supervised: int
    """Tokens that carry next-token loss (all reply tokens where the recipe has no next-token objective)."""
    tokens: int
    """What a forward pass of this graph alone touches, padding included."""
    nodes: int
    pairs: int
    packed: bool = False
    """Whether graphs lie in one row without padding; else a node's row is as long as the longest of its micro-batch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: graph positions, and the global counts every term of the loss is divided by."""

    graphs: tuple[int, ...]
    supervised: int
    nodes: int
    pairs: int


def measure(graph: GraphTokens, *, next_token: bool, loss_on_prompt: bool, packed: bool = False) -> GraphSize:
    """The size of a tokenised graph under a recipe."""
    taught = [node for node in graph.nodes if node.correct or not next_token]
    prompt = len(graph.prompt_ids) - 1 if loss_on_prompt else 0
    replies = [len(node.reply_ids) for node in graph.nodes]
    padded = len(replies) * (len(graph.prompt_ids) + max(replies))
    return GraphSize(
        supervised=sum(len(node.reply_ids) + prompt for node in taught),
        tokens=len(graph.prompt_ids) + sum(replies) if packed else padded,
        nodes=len(graph.nodes),
        pairs=graph.pairs,
        packed=packed,
    )


def plan_steps(sizes: Sequence[GraphSize], config: TrainConfig, *, seed: int) -> list[Step]:
    """Every step of a training.

    Each epoch is a fresh shuffle in which every graph appears once. A step takes graphs until it holds `tokens_per_step`
    supervised tokens; steps run across the seams of epochs, and what is left at the very end is a last, smaller step.

    Raises:
        ConfigError: there is no graph, or no token to learn from.
    """
    if not any(size.supervised for size in sizes):
        raise ConfigError(
            "There is nothing to train on: no graph holds a usable reply. `magdi graph stats RUN` shows what they hold."
        )
    steps: list[Step] = []
    taken: list[int] = []
    tokens = 0
    for graph in _stream(len(sizes), config.epochs, seed):
        taken.append(graph)
        tokens += sizes[graph].supervised
        if tokens >= config.tokens_per_step:
            steps.append(_step(taken, sizes))
            taken, tokens = [], 0
        if len(steps) == config.max_steps:
            return steps
    return [*steps, _step(taken, sizes)] if taken else steps


def _stream(count: int, epochs: int | None, seed: int) -> Iterator[int]:
    epoch = 0
    while epochs is None or epoch < epochs:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield from order
        epoch += 1


def _step(graphs: Sequence[int], sizes: Sequence[GraphSize]) -> Step:
    return Step(
        graphs=tuple(graphs),
        supervised=sum(sizes[i].supervised for i in graphs),
        nodes=sum(sizes[i].nodes for i in graphs),
        pairs=sum(sizes[i].pairs for i in graphs),
    )


def share(step: Step, sizes: Sequence[GraphSize], *, workers: int, limit: int | None) -> list[list[tuple[int, ...]]]:
    """Deal a step's graphs out: `result[worker][micro_batch]` = graph positions.

    Graphs go to the least loaded worker, the largest first. Every worker gets the same number of micro-batches, because
    collective operations run in lockstep; some may be empty. `limit` bounds the tokens of a micro-batch.
    """
    loads = [0] * workers
    hands: list[list[int]] = [[] for _ in range(workers)]
    for graph in sorted(step.graphs, key=lambda i: (-sizes[i].tokens, i)):
        worker = loads.index(min(loads))
        hands[worker].append(graph)
        loads[worker] += sizes[graph].tokens
    dealt = [_micro_batches(hand, sizes, limit) for hand in hands]
    most = max(len(batches) for batches in dealt)
    return [batches + [()] * (most - len(batches)) for batches in dealt]


def forwarded(sizes: Sequence[GraphSize]) -> int:
    """Tokens a forward pass over some graphs touches: their sum in a packed row, else nodes times the longest sequence."""
    if not sizes or sizes[0].packed:
        return sum(size.tokens for size in sizes)
    return max(size.tokens // size.nodes for size in sizes) * sum(size.nodes for size in sizes)


def _micro_batches(graphs: Sequence[int], sizes: Sequence[GraphSize], limit: int | None) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    for graph in graphs:
        if current and limit is not None and forwarded([sizes[i] for i in [*current, graph]]) > limit:
            batches.append(tuple(current))
            current = []
        current.append(graph)
    return [*batches, tuple(current)] if current else batches or [()]
