"""MAGs as one torch_geometric batch. The only module that turns graphs into tensors; knows nothing of text or tokens.

Shapes: N nodes and E edges of all graphs together, H features. No graph is padded: a debate that stopped early has fewer nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch_geometric.data import Batch, Data

from magdi_ray.graph.schema import EDGE_TYPES, Mag

UNLABELLED = -1
"""`y` of a node without a label (`ignore_index` of a cross-entropy)."""


def to_pyg(mags: Sequence[Mag], x_NH: torch.Tensor | None = None) -> Batch:
    """The graphs as one disconnected graph, in order.

    The batch holds `edge_index` int64 [2, E] (row 0 sources, row 1 targets), `edge_type` int64 [E] (position in
    `EDGE_TYPES`: 0 self, 1 peer, 2 critique), `y` int64 [N] (1 correct, 0 wrong, -1 unlabelled), `batch` int64 [N] (the graph of
    each node), `ptr` int64 [graphs + 1] and, where features are given, `x` [N, H]: the same tensor, its gradient intact.

    Raises:
        ValueError: no graphs, or `x_NH` does not have one row per node.
    """
    if not mags:
        raise ValueError("at least one graph is required to form a batch, found none")
    batch = Batch.from_data_list([_data(mag) for mag in mags])
    if x_NH is not None:
        if x_NH.dim() != 2 or x_NH.shape[0] != batch.num_nodes:
            raise ValueError(f"node features must be [{batch.num_nodes}, H], one row per node; found {list(x_NH.shape)}")
        batch.x = x_NH
    return batch


def _data(mag: Mag) -> Data:
    edges_2E = torch.tensor([[e.source for e in mag.edges], [e.target for e in mag.edges]], dtype=torch.long)
    types_E = torch.tensor([EDGE_TYPES.index(e.type) for e in mag.edges], dtype=torch.long)
    labels_N = torch.tensor([UNLABELLED if n.correct is None else int(n.correct) for n in mag.nodes], dtype=torch.long)
    return Data(edge_index=edges_2E, edge_type=types_E, y=labels_N, num_nodes=len(mag.nodes))
