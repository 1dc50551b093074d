"""The training plan: which graphs make up each step, on which worker, in which micro-batch. Pure and deterministic.

The plan is a function of the dataset's sizes, the configuration and the seed, so every worker computes the same one, a resumed
training continues it at its step, and the graphs of a step never depend on the number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from magdi_ray.config.distil import TrainConfig
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What planning needs to know of a graph."""

    supervised: int
    """Tokens that carry next-token loss (all reply tokens where the recipe has no next-token objective). Other objectives may
    look at more of them (`preference` at every node's reply): they do not count here."""
    tokens: int
    """What a forward pass of this graph alone touches, padding included."""
    nodes: int
    pairs: int
    packed: bool = False
    """Whether graphs lie in one row without padding; else a node's row is as long as the longest of its micro-batch."""
    weight: float = 1.0
    """Of everything this graph adds to an objective's mean."""
    token_weight: float = 1.0
    """Of a supervised token beside it, in the mean over this graph's."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: graph positions, and the global sums every term of the loss is divided by."""

    graphs: tuple[int, ...]
    supervised: int
    """Tokens, each counted once."""
    nodes: float
    """Here and below, each counted with its graph's weight."""
    pairs: float
    taught: float = 0.0
    """Supervised tokens."""


def measure(graph: GraphTokens, *, next_token: bool, loss_on_prompt: bool, packed: bool = False) -> GraphSize:
    """The size of a tokenised graph under a recipe."""
    replies, correct = [len(node.reply_ids) for node in graph.nodes], [node.correct for node in graph.nodes]
    switches = {"next_token": next_token, "loss_on_prompt": loss_on_prompt, "packed": packed}
    lessons = [node.taught for node in graph.nodes]
    return measure_lengths(len(graph.prompt_ids), replies, correct, lessons=lessons, weight=graph.weight, **switches)


def measure_lengths(
    prompt: int,
    replies: Sequence[int],
    correct: Sequence[bool],
    *,
    next_token: bool,
    loss_on_prompt: bool,
    packed: bool = False,
    weight: float = 1.0,
    lessons: Sequence[tuple[float, int]] | None = None,
) -> GraphSize:
    """The size of a graph of which only lengths (in tokens) and labels are known: one of `replies` and of `correct` a node.

    `lessons`: weight and first token of what is taught of each node (`distill.teaching`); None: as labels have it.
    """
    shared = prompt - 1 if loss_on_prompt else 0
    if not next_token:
        lessons = [(1.0, 0)] * len(replies)
    elif lessons is None:
        lessons = [(float(right), 0) for right in correct]
    pairs = zip(replies, lessons, strict=True)
    taught = [(each, length - start + (0 if start else shared)) for length, (each, start) in pairs if each > 0]
    supervised = sum(tokens for _, tokens in taught)
    return GraphSize(
        supervised=supervised,
        tokens=prompt + sum(replies) if packed else len(replies) * (prompt + max(replies)),
        nodes=len(replies),
        pairs=sum(correct) * (len(correct) - sum(correct)),
        packed=packed,
        weight=weight,
        token_weight=sum(each * tokens for each, tokens in taught) / supervised if supervised else 1.0,
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
            "There is nothing to train on: no graph holds a usable reply. `magdi graph stats RUN` shows what they hold; what the "
            "recipe left out, and why, stands in tokens.json under the run's tokens/. Choose other nodes or labels."
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
        nodes=sum(sizes[i].weight * sizes[i].nodes for i in graphs),
        pairs=sum(sizes[i].weight * sizes[i].pairs for i in graphs),
        taught=sum(sizes[i].weight * sizes[i].token_weight * sizes[i].supervised for i in graphs),
    )


def share(step: Step, sizes: Sequence[GraphSize], *, workers: int, limit: int | None) -> list[list[tuple[int, ...]]]:
    """Deal a step's graphs out: `result[worker][micro_batch]` = graph positions.

    Graphs go to the least loaded worker, the largest first, so that no worker has more than the mean and one graph. Every worker
    gets the same number of micro-batches, because collective operations run in lockstep; some may be empty. `limit` bounds the
    tokens of a micro-batch. The order of `step.graphs` does not matter.
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
    load = _Load()
    for size in sizes:
        load.add(size)
    return load.tokens


@dataclass(slots=True)
class _Load:
    """What a micro-batch forwards so far."""

    graphs: list[int] = field(default_factory=list)
    total: int = 0
    width: int = 0
    nodes: int = 0
    packed: bool = True

    @property
    def tokens(self) -> int:
        return self.total if self.packed else self.width * self.nodes

    def with_one(self, size: GraphSize) -> int:
        """Tokens with one more graph."""
        if size.packed:
            return self.total + size.tokens
        return max(self.width, size.tokens // size.nodes) * (self.nodes + size.nodes)

    def add(self, size: GraphSize) -> None:
        self.total += size.tokens
        self.width = max(self.width, size.tokens // size.nodes)
        self.nodes += size.nodes
        self.packed = size.packed


def _micro_batches(graphs: Sequence[int], sizes: Sequence[GraphSize], limit: int | None) -> list[tuple[int, ...]]:
    """First fit, the largest first: each graph goes to the first micro-batch that has room for it, else into a new one.

    Large is a long row where rows are padded to the longest (its neighbours should be long too), else many tokens. Packed rows
    need at most 11/9 of the fewest possible micro-batches, and one more.
    """
    batches: list[_Load] = []
    for graph in sorted(graphs, key=lambda i: (*_largest_first(sizes[i]), i)):
        size = sizes[graph]
        room = next((batch for batch in batches if limit is None or batch.with_one(size) <= limit), None)
        if room is None:
            batches.append(room := _Load())
        room.add(size)
        room.graphs.append(graph)
    return [tuple(batch.graphs) for batch in batches] or [()]


def _largest_first(size: GraphSize) -> tuple[int, int]:
    return (0 if size.packed else -(size.tokens // size.nodes), -size.tokens)
