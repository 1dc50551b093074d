"""A graph network that attends to what a node was shown (GAT, arXiv 1710.10903), of two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv

HEADS = 4


class Gat(nn.Module):
    """`relu(GAT(e, E))`, dropout, `GAT(., E)`: four heads, whose results are averaged so that the width is the one asked for."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = GATConv(width, hidden, heads=HEADS, concat=False)
        self.dropout = nn.Dropout(dropout)
        self.second = GATConv(hidden, 2, heads=HEADS, concat=False)

    def forward(self, embeddings_NH: Tensor, edges_2E: Tensor, types_E: Tensor) -> Tensor:  # noqa: ARG002 - the family's signature
        """Logits [N, 2], whatever the edges' types."""
        hidden_NF = self.dropout(torch.relu(self.first(embeddings_NH, edges_2E)))
        return self.second(hidden_NF, edges_2E)  # type: ignore[no-any-return]
