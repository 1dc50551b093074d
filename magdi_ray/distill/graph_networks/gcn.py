"""The paper's graph network: a graph convolution (GCN, arXiv 1609.02907) of two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv


class Gcn(nn.Module):
    """`relu(GCN(e, E))`, dropout, `GCN(., E)`; a node's own embedding and its sources' weigh by their degrees."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = GCNConv(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.second = GCNConv(hidden, 2)

    def forward(self, embeddings_NH: Tensor, edges_2E: Tensor, types_E: Tensor) -> Tensor:  # noqa: ARG002 - the family's signature
        """Logits [N, 2], whatever the edges' types."""
        hidden_NF = self.dropout(torch.relu(self.first(embeddings_NH, edges_2E)))
        return self.second(hidden_NF, edges_2E)  # type: ignore[no-any-return]
