"""The training heads: what they read, what they make of edges, and that they come back from their file as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from magdi_ray.config.recipes import Contrast, Interaction, NextToken, Reading, RecipeConfig, Verify
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.graph_networks import NETWORKS, GraphNetwork
from magdi_ray.distill.heads import load_heads, make_heads, save_heads
from magdi_ray.distill.objectives import pool, weighted_sum
from magdi_ray.distill.student import DistillModel
from magdi_ray.errors import ConfigError

from .conftest import Workbench

EDGES_2E = torch.tensor([[0, 1, 2, 0], [3, 3, 4, 4]])
TYPES_E = torch.tensor([0, 1, 2, 1])


def embeddings() -> Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def network(name: Any, **settings: Any) -> GraphNetwork:
    torch.manual_seed(1)
    return GraphNetwork(16, Interaction(name="interaction", network=name, hidden=8, dropout=0.0, **settings)).eval()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_a_node_was_shown_changes_its_logits_and_nobody_elses(name: str) -> None:
    graph, changed = network(name), embeddings()
    before = graph(embeddings(), EDGES_2E, TYPES_E)
    changed[1] += 1.0
    moved = (graph(changed, EDGES_2E, TYPES_E) - before).abs().amax(dim=1) > 1e-4
    assert before.shape == (5, 2)
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(("name", "tells"), [("gcn", False), ("gat", False), ("rgcn", True)])
def test_only_a_network_with_relations_tells_edges_of_different_types_apart(name: str, tells: bool) -> None:
    graph = network(name)
    found = [graph(embeddings(), EDGES_2E, types_E) for types_E in (TYPES_E, TYPES_E.flip(0))]
    assert torch.allclose(*found, atol=1e-6) is not tells


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_graphs_of_one_batch_do_not_mix(name: str) -> None:
    graph, both = network(name), embeddings()
    alone = graph(both[:3], EDGES_2E[:, :0], TYPES_E[:0])
    beside = graph(both, torch.tensor([[3], [4]]), torch.tensor([1]))
    torch.testing.assert_close(beside[:3], alone, atol=1e-6, rtol=0)


def test_a_projection_stands_between_student_and_network() -> None:
    graph = network("gcn", projection=4)
    assert graph.projection is not None
    assert (graph.projection.weight.shape, graph.network.first.in_channels) == ((4, 16), 4)
    assert graph(embeddings(), EDGES_2E, TYPES_E).shape == (5, 2)


def batch_of(bench: Workbench) -> GraphBatch:
    return collate(bench.graphs(), pad_id=0)


def test_an_embedding_over_the_reply_is_the_weighted_mean_of_its_tokens_alone(bench: Workbench) -> None:
    batch, graph = batch_of(bench), bench.graphs()[0]
    width = batch.input_ids_BT.shape[1]
    hidden_SH = torch.randn(batch.input_ids_BT.numel(), 8, generator=torch.Generator().manual_seed(2))
    begin = len(graph.prompt_ids)
    end = begin + len(graph.nodes[1].reply_ids)
    weights = torch.arange(begin + 1, end + 1).float()
    expected = (weights[:, None] * hidden_SH[width + begin : width + end]).sum(0) / weights.sum()
    torch.testing.assert_close(pool(hidden_SH, batch, over="reply")[1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [1, None])
def test_what_is_read_at_a_lower_layer_reaches_no_weight_above_it(bench: Workbench, layer: int | None) -> None:
    contrast = Contrast(name="contrast", hidden=8, reading=Reading(layer=layer, over="reply"))
    model, batch = DistillModel(bench.model().student, RecipeConfig(name="x", objectives=(contrast,))), batch_of(bench)
    loss, _ = weighted_sum(model(batch), batch, (contrast,), Counts(1, 1, 1))
    loss.backward()
    reached = [float(part.mlp.up_proj.weight.grad.abs().sum()) > 0 for part in model.student.model.layers]
    assert reached == [True, layer is None]


def test_a_layer_that_the_student_does_not_have_is_refused(bench: Workbench) -> None:
    contrast = Contrast(name="contrast", reading=Reading(layer=7))
    with pytest.raises(ConfigError, match=r"layer 7, but the student has 2.*1 to 2"):
        DistillModel(bench.model().student, RecipeConfig(name="x", objectives=(contrast,)))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_heads_come_back_from_their_file_as_they_were_made(tmp_path: Path, name: Any) -> None:
    reading = Reading(over="reply", layer=2)
    graph = Interaction(name="interaction", network=name, hidden=8, projection=6, reading=reading)
    others = (Contrast(name="contrast", hidden=7, reading=reading), Verify(name="verify", hidden=5, reading=reading))
    recipe = RecipeConfig(name="x", objectives=(graph, *others))
    made = make_heads(16, recipe)
    tensors = {f"{kind}.{key}": t for kind, head in made._asdict().items() for key, t in head.state_dict().items()}
    save_heads(tensors, recipe, tmp_path / "heads")
    for before, after in zip(made, load_heads(tmp_path / "heads", width=16), strict=True):
        assert before is not None
        assert after is not None
        assert after.reading == reading
        assert all(torch.equal(before.state_dict()[key], tensor) for key, tensor in after.state_dict().items())
    with pytest.raises(ConfigError, match="another student"):
        load_heads(tmp_path / "heads", width=15)


def test_a_file_of_before_holds_a_plain_gcn(tmp_path: Path) -> None:
    graph = network("gcn")
    save_file({f"graph.{key.removeprefix('network.')}": tensor for key, tensor in graph.state_dict().items()}, tmp_path / "heads")
    scorer, found, verifier = load_heads(tmp_path / "heads", width=16)
    assert scorer is None
    assert verifier is None
    assert found is not None
    torch.testing.assert_close(found.eval()(embeddings(), EDGES_2E, TYPES_E), graph(embeddings(), EDGES_2E, TYPES_E))


def test_without_their_objectives_there_are_no_heads_and_no_file(tmp_path: Path) -> None:
    recipe = RecipeConfig(name="x", objectives=(NextToken(name="next_token"),))
    assert make_heads(16, recipe) == (None, None, None)
    save_heads({}, recipe, tmp_path / "heads")
    assert not (tmp_path / "heads").exists()


def test_edges_carry_their_types_from_the_graph_to_the_batch(bench: Workbench) -> None:
    graph, batch = bench.graphs()[0], batch_of(bench)
    assert len(graph.types) == len(graph.edges) > 0
    assert set(graph.types) == {0, 1}
    own = [source % 3 == target % 3 for source, target in graph.edges]
    assert [kind == 0 for kind in graph.types] == own
    assert batch.types_E.shape[0] == batch.edges_2E.shape[1]
