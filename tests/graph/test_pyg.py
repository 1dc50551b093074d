"""Graphs as tensors: no padding, labels and types kept, gradients intact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from magdi_ray.graph.pyg import to_pyg
from magdi_ray.graph.schema import Edge, Mag, Node
from magdi_ray.tasks.base import Question

RIGHT = Node("a", 0, "debater", "m", "18", "18", "18", None, "none", True, 0, 0, "ok")
WRONG = replace(RIGHT, agent="b", answer="7", correct=False)
PAIR = Mag(Question("p", "?"), "society", ("a", "b"), "18", 0.5, "rounds", "gold", (RIGHT, WRONG), ())
TRIPLE = replace(PAIR, nodes=(RIGHT, WRONG, replace(RIGHT, round=1)), edges=(Edge(0, 2, "self"), Edge(1, 2, "peer")))


def test_a_batch_holds_the_real_nodes_and_no_others() -> None:
    batch = to_pyg([PAIR, TRIPLE])
    assert batch.num_nodes == 5
    assert batch.batch.tolist() == [0, 0, 1, 1, 1]
    assert batch.ptr.tolist() == [0, 2, 5]


def test_edges_point_forward_at_their_own_graph() -> None:
    batch = to_pyg([PAIR, TRIPLE])
    assert batch.edge_index.tolist() == [[2, 3], [4, 4]]
    assert batch.edge_type.tolist() == [0, 1]


def test_criticism_is_an_edge_type_of_its_own() -> None:
    criticised = replace(TRIPLE, nodes=(RIGHT, replace(WRONG, role="critic"), TRIPLE.nodes[2]), edges=(Edge(1, 2, "critique"),))
    assert to_pyg([criticised]).edge_type.tolist() == [2]


def test_labels_are_one_zero_or_unlabelled() -> None:
    unknown = replace(PAIR, labels="none", nodes=(replace(RIGHT, correct=None),))
    assert to_pyg([PAIR, unknown]).y.tolist() == [1, 0, -1]


def test_graphs_without_edges_form_a_batch() -> None:
    batch = to_pyg([PAIR])
    assert batch.edge_index.shape == (2, 0)
    assert batch.edge_index.dtype == torch.int64


def test_the_gradient_flows_through_the_features() -> None:
    x_NH = torch.ones(2, 4, requires_grad=True)
    to_pyg([PAIR], x_NH).x.sum().backward()
    assert x_NH.grad is not None
    assert x_NH.grad.tolist() == [[1.0] * 4] * 2


def test_features_have_one_row_per_node() -> None:
    with pytest.raises(ValueError, match=r"\[2, H\]"):
        to_pyg([PAIR], torch.ones(3, 4))
    with pytest.raises(ValueError, match="at least one graph"):
        to_pyg([])
