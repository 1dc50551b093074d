"""From tokenised graphs to tensors: one padded row a node, padding on the right. Copies nothing back into the dataset.

Shape suffixes, here and in the whole package: G graphs, N nodes, T tokens, M supervised tokens, P pairs, E edges, H hidden,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from magdi_ray.distill.tokens import GraphTokens


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the whole step, all workers and micro-batches: what each mean divides by. Never zero."""

    supervised: int
    nodes: int
    pairs: int


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """The graphs of one micro-batch."""

    input_ids_NT: Tensor
    attention_mask_NT: Tensor
    """1 on real tokens, 0 on padding."""
    predict_M2: Tensor
    """(node, position) whose next token is supervised."""
    targets_M: Tensor
    correct_N: Tensor
    """1 for correct nodes, else 0 (int64)."""
    pairs_2P: Tensor
    """Row 0 correct, row 1 incorrect node, of the same graph; all such pairs."""
    edges_2E: Tensor
    frozen_NH: Tensor | None = None
    """Embeddings of the untrained student, where an objective wants them."""

    def to(self, device: torch.device | str) -> GraphBatch:
        """The batch on another device."""
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def collate(graphs: Sequence[GraphTokens], *, pad_id: int, loss_on_prompt: bool = False) -> GraphBatch:
    """Pad the nodes of some graphs into one batch.

    Only correct nodes are supervised, on their reply tokens (and on the prompt's, with `loss_on_prompt`); never on padding.
    """
    sequences = [(*graph.prompt_ids, *node.reply_ids) for graph in graphs for node in graph.nodes]
    width = max(len(ids) for ids in sequences)
    input_ids_NT = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    attention_mask_NT = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, ids in enumerate(sequences):
        input_ids_NT[row, : len(ids)] = torch.tensor(ids)
        attention_mask_NT[row, : len(ids)] = 1
    predict, pairs, edges = _index(graphs, loss_on_prompt)
    predict_M2 = torch.tensor(predict, dtype=torch.long).reshape(-1, 2)
    return GraphBatch(
        input_ids_NT=input_ids_NT,
        attention_mask_NT=attention_mask_NT,
        predict_M2=predict_M2,
        targets_M=input_ids_NT[predict_M2[:, 0], predict_M2[:, 1] + 1],
        correct_N=torch.tensor([int(node.correct) for graph in graphs for node in graph.nodes]),
        pairs_2P=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous(),
        edges_2E=torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous(),
    )


def _index(
    graphs: Sequence[GraphTokens], loss_on_prompt: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int]]]:
    """(node, position) of every supervised prediction, (correct, incorrect) pairs, (source, target) edges."""
    predict: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []
    edges: list[tuple[int, int]] = []
    first = 0
    for graph in graphs:
        prompt = len(graph.prompt_ids)
        right = [first + i for i, node in enumerate(graph.nodes) if node.correct]
        wrong = [first + i for i, node in enumerate(graph.nodes) if not node.correct]
        for row in right:
            length = prompt + len(graph.nodes[row - first].reply_ids)
            predict += [(row, t) for t in range(0 if loss_on_prompt else prompt - 1, length - 1)]
        pairs += [(p, n) for p in right for n in wrong]
        edges += [(first + source, first + target) for source, target in graph.edges]
        first += len(graph.nodes)
    return predict, pairs, edges
