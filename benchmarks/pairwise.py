"""The step over pairs that MAGDi's released code takes, written from method.md sections 4 and 6: what ours is measured against.

    graph        correct a b c, incorrect x y            (each is `prompt + reply`)
    pairs        (a, x) (b, y) (c, x)                    the smaller side is repeated until both are as long
    micro-batch  [a b c] and [x y x], each padded to its longest: two forward passes, logits for every token of both

The prompt is learned as well as the reply, as there. Of its faults only those are kept that shape its cost: padding stands on
the right, where it shifts neither positions nor pooling weights, nothing of it stays in the data, and a pair is taught with its
own question's graph. Knows nothing of packed rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magdi_ray.config.recipes import RECIPES, Contrast, Interaction, RecipeConfig
from magdi_ray.distill.graph_networks import GraphNetwork
from magdi_ray.distill.heads import Scorer
from magdi_ray.distill.tokens import GraphTokens

RECIPE = RECIPES["level4"]
"""What both sides learn."""

PAIRS = 4
"""Pairs of a micro-batch, as the released code sets it."""

IGNORED = -100
"""The label of padding, as transformers knows it."""

SHORTEST = 5
"""A negative of so few tokens is the placeholder; the released code tells it by its length too."""


class Pair(NamedTuple):
    """A correct and an incorrect sequence of one graph."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    question_id: str


class Side(NamedTuple):
    """The positives or the negatives of a micro-batch."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor


class PairBatch(NamedTuple):
    """One micro-batch."""

    positive: Side
    negative: Side
    embeddings_NH: Tensor
    """Frozen: of the nodes of every pair's graph, one graph a pair, made before training."""
    edges_2E: Tensor
    correct_N: Tensor

    @property
    def tokens(self) -> int:
        """Tokens the student forwards, padding included."""
        return self.positive.input_ids_BT.numel() + self.negative.input_ids_BT.numel()

    def to(self, device: torch.device | str) -> PairBatch:
        """The batch on another device."""
        sides = (Side(*(tensor.to(device) for tensor in side)) for side in (self.positive, self.negative))
        return PairBatch(*sides, *(tensor.to(device) for tensor in self[2:]))


def pairs_of(graph: GraphTokens, placeholder: Sequence[int]) -> list[Pair]:
    """The pairs of a graph: none without a correct node; without an incorrect one every negative is the short `placeholder`."""
    sequences = [((*graph.prompt_ids, *node.reply_ids), node.correct) for node in graph.nodes]
    positives = [ids for ids, correct in sequences if correct]
    negatives = [ids for ids, correct in sequences if not correct] or [tuple(placeholder)]
    if not positives:
        return []
    length = max(len(positives), len(negatives))
    both = zip(islice(cycle(positives), length), islice(cycle(negatives), length), strict=True)
    return [Pair(positive, negative, graph.question_id) for positive, negative in both]


def deal(
    graphs: Sequence[GraphTokens], placeholder: Sequence[int], *, pairs: int = PAIRS, draw: random.Random | None = None
) -> list[list[Pair]]:
    """The micro-batches of a step over some graphs: shuffled pairs (None: in the order of the graphs), `pairs` at a time."""
    every = [pair for graph in graphs for pair in pairs_of(graph, placeholder)]
    if draw is not None:
        draw.shuffle(every)
    return [every[first : first + pairs] for first in range(0, len(every), pairs)]


def pair_batch(
    pairs: Sequence[Pair], graphs: Mapping[str, GraphTokens], frozen: Mapping[str, Tensor], *, pad_id: int
) -> PairBatch:
    """The tensors of a micro-batch; `graphs` and `frozen` ([N, H]) by question id."""
    edges: list[tuple[int, int]] = []
    correct: list[int] = []
    for pair in pairs:
        graph = graphs[pair.question_id]
        edges += [(len(correct) + source, len(correct) + target) for source, target in graph.edges]
        correct += [int(node.correct) for node in graph.nodes]
    return PairBatch(
        _side([pair.positive for pair in pairs], pad_id),
        _side([pair.negative for pair in pairs], pad_id),
        torch.cat([frozen[pair.question_id] for pair in pairs]),
        torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous(),
        torch.tensor(correct),
    )


def _side(sequences: Sequence[Sequence[int]], pad_id: int) -> Side:
    width = max(len(ids) for ids in sequences)
    padded = [[*ids, *[pad_id] * (width - len(ids))] for ids in sequences]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    return Side(torch.tensor(padded), torch.tensor(mask))


class PairwiseModel(nn.Module):
    """Student and heads. The heads are those of our step, so that what differs in cost is what is done with the tokens."""

    def __init__(self, student: Any, recipe: RecipeConfig) -> None:
        super().__init__()
        width = student.config.hidden_size
        self.student = student
        chosen = {objective.name: objective for objective in recipe.objectives}
        self.weights = {name: objective.weight for name, objective in chosen.items()}
        contrast, interaction = chosen["contrast"], chosen["interaction"]
        assert isinstance(contrast, Contrast)
        assert isinstance(interaction, Interaction)
        self.margin = contrast.margin
        self.scorer, self.graph = Scorer(width, contrast), GraphNetwork(width, interaction)

    def forward(self, batch: PairBatch) -> Tensor:
        """`alpha * L_next + beta * L_interaction + gamma * L_contrast` of a micro-batch, each a mean over it."""
        labels_BT = batch.positive.input_ids_BT.masked_fill(batch.positive.attention_mask_BT == 0, IGNORED)
        positive = self._read(batch.positive, labels=labels_BT)
        negative = self._read(batch.negative)
        real_B = batch.negative.attention_mask_BT.sum(1) > SHORTEST
        kept_B = real_B if bool(real_B.any()) else torch.ones_like(real_B)
        right_B, wrong_B = (
            self.scorer(_pooled(output.hidden_states[-1], side.attention_mask_BT)[kept_B].to(self._dtype))
            for output, side in ((positive, batch.positive), (negative, batch.negative))
        )
        contrast = torch.relu(self.margin - right_B + wrong_B).mean()
        logits_N2 = self.graph(batch.embeddings_NH.to(self._dtype), batch.edges_2E, batch.edges_2E[0] * 0)
        losses = {
            "next_token": positive.loss,
            "contrast": contrast,
            "interaction": F.cross_entropy(logits_N2.float(), batch.correct_N),
        }
        return torch.stack([self.weights[name] * loss.float() for name, loss in losses.items()]).sum()

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.scorer.parameters()).dtype

    def _read(self, side: Side, labels: Tensor | None = None) -> Any:
        return self.student(
            input_ids=side.input_ids_BT,
            attention_mask=side.attention_mask_BT,
            labels=labels,
            output_hidden_states=True,
            use_cache=False,
        )


def _pooled(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """[B, H]: the mean weighted by position 1, 2, ..., T over real tokens."""
    weight_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    return (hidden_BTH.float() * weight_BT[..., None]).sum(1) / weight_BT.sum(1, keepdim=True)


class Updates:
    """AdamW over what is trained, with clipping; the same for both sides."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=5e-6)

    def __call__(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Pairwise:
    """The released code's step."""

    def __init__(
        self,
        student: Any,
        *,
        pad_id: int,
        placeholder: Sequence[int],
        pairs: int = PAIRS,
        shuffled: bool = True,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = PairwiseModel(student, RECIPE).to(device, dtype).train()
        self.update, self.pad_id, self.placeholder, self.pairs, self.device = (
            Updates(self.model),
            pad_id,
            placeholder,
            pairs,
            device,
        )
        self.draw = random.Random(1) if shuffled else None
        self.frozen: dict[str, Tensor] = {}

    def freeze(self, graphs: Sequence[GraphTokens], width: int) -> None:
        """Node embeddings before training. Random ones: their values change no cost, and making them is not counted."""
        self.frozen |= {graph.question_id: torch.randn(len(graph.nodes), width) for graph in graphs}

    def step(self, graphs: Sequence[GraphTokens]) -> int:
        """Micro-batches of pairs; the mean over micro-batches, as accumulated gradients are there."""
        tokens = 0
        by_question = {graph.question_id: graph for graph in graphs}
        batches = deal(graphs, self.placeholder, pairs=self.pairs, draw=self.draw)
        for pairs in batches:
            batch = pair_batch(pairs, by_question, self.frozen, pad_id=self.pad_id).to(self.device)
            (self.model(batch) / len(batches)).backward()
            tokens += batch.tokens
        self.update()
        return tokens
