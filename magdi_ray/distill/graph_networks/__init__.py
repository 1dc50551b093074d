"""Graph networks: each predicts every node's label from the node embeddings and the edges (method.md 3.3).

Signature of the family: `network(embeddings_NH, edges_2E, types_E) -> logits_N2`, for incorrect and correct. `types_E` are the
edges' places in `magdi_ray.graph.schema.EDGE_TYPES`.
"""

from __future__ import annotations

from torch import Tensor, nn

from magdi_ray.config.recipes import Interaction
from magdi_ray.distill.graph_networks.gat import Gat
from magdi_ray.distill.graph_networks.gcn import Gcn
from magdi_ray.distill.graph_networks.rgcn import Rgcn

NETWORKS: dict[str, type[Gcn] | type[Rgcn] | type[Gat]] = {"gcn": Gcn, "rgcn": Rgcn, "gat": Gat}


class GraphNetwork(nn.Module):
    """A graph network of two layers, behind a projection where one is asked for."""

    def __init__(self, width: int, config: Interaction) -> None:
        super().__init__()
        self.reading = config.reading
        self.projection = None if config.projection is None else nn.Linear(width, config.projection)
        self.network = NETWORKS[config.network](config.projection or width, config.hidden, config.dropout)

    def forward(self, embeddings_NH: Tensor, edges_2E: Tensor, types_E: Tensor) -> Tensor:
        """Logits [N, 2] for incorrect and correct."""
        read_NH = embeddings_NH if self.projection is None else self.projection(embeddings_NH)
        return self.network(read_NH, edges_2E, types_E)  # type: ignore[no-any-return]


__all__ = ["NETWORKS", "GraphNetwork"]
