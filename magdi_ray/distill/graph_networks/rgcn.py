"""A graph convolution with weights for each type of edge (RGCN, arXiv 1703.06103), of two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv

from magdi_ray.graph.schema import EDGE_TYPES

RELATIONS = len(EDGE_TYPES)


class Rgcn(nn.Module):
    """`relu(RGCN(e, E, r))`, dropout, `RGCN(., E, r)`: each type's sources are averaged under weights of their own."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = RGCNConv(width, hidden, RELATIONS)
        self.dropout = nn.Dropout(dropout)
        self.second = RGCNConv(hidden, 2, RELATIONS)

    def forward(self, embeddings_NH: Tensor, edges_2E: Tensor, types_E: Tensor) -> Tensor:
        """Logits [N, 2]."""
        hidden_NF = self.dropout(torch.relu(self.first(embeddings_NH, edges_2E, types_E)))
        return self.second(hidden_NF, edges_2E, types_E)  # type: ignore[no-any-return]
