"""The step that ours is measured against does what method.md says of the released code: else the benchmark proves nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from benchmarks.pairwise import PairwiseModel, deal, pair_batch, pairs_of
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.distill.batch import collate
from magdi_ray.distill.tokens import GraphTokens, NodeTokens

NA = (9,)


def graph_of(*replies: tuple[int, bool]) -> GraphTokens:
    """A graph whose prompt is 10 tokens long, with replies of so many tokens; each reply holds a token of its own."""
    nodes = tuple(NodeTokens((20 + i,) * length, correct, f"q/{i}") for i, (length, correct) in enumerate(replies))
    edges = tuple((i, i + 1) for i in range(len(nodes) - 1))
    return GraphTokens("q", tuple(range(30, 40)), nodes, edges)


def test_the_smaller_side_is_repeated_until_both_are_as_long():
    pairs = pairs_of(graph_of((1, True), (1, True), (1, True), (1, False), (1, False)), NA)
    assert [(pair.positive[-1], pair.negative[-1]) for pair in pairs] == [(20, 23), (21, 24), (22, 23)]


def test_a_graph_without_incorrect_nodes_is_paired_with_a_short_placeholder_and_one_without_correct_nodes_is_left_out():
    assert [pair.negative for pair in pairs_of(graph_of((1, True), (1, True)), NA)] == [NA, NA]
    assert pairs_of(graph_of((1, False)), NA) == []


def test_tokens_of_both_steps_on_a_graph_counted_by_hand():
    graph = graph_of((5, True), (3, True), (4, True), (2, False))
    frozen = {"q": torch.zeros(4, 8)}
    batches = [pair_batch(pairs, {"q": graph}, frozen, pad_id=0) for pairs in deal([graph], NA, pairs=2)]
    # (15, 13 | 12, 12) and (14 | 12), each side padded to its longest.
    assert [batch.tokens for batch in batches] == [2 * 15 + 2 * 12, 14 + 12]
    assert collate([graph], pad_id=0, packed=True).input_ids_BT.numel() == 10 + 5 + 3 + 4 + 2


@pytest.fixture
def model(bench: SimpleNamespace) -> PairwiseModel:
    torch.manual_seed(0)
    return PairwiseModel(LlamaForCausalLM.from_pretrained(bench.directory, dtype=torch.float32), resolve_recipe("level4")).eval()


def plain_loss(model: PairwiseModel, graph: GraphTokens, frozen: torch.Tensor) -> torch.Tensor:
    """Each sequence alone, without padding."""
    scores: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    losses = []
    for node in graph.nodes:
        ids = torch.tensor([[*graph.prompt_ids, *node.reply_ids]])
        output = model.student(ids, output_hidden_states=True)
        if node.correct:
            losses.append(F.cross_entropy(output.logits[0, :-1], ids[0, 1:], reduction="none"))
        weight = torch.arange(1.0, ids.shape[1] + 1)
        scores[node.correct].append(model.scorer((weight @ output.hidden_states[-1][0] / weight.sum())[None]))
    contrast = torch.stack([torch.relu(1 - p + n) for p, n in zip(scores[True], scores[False], strict=True)]).mean()
    labels = torch.tensor([int(node.correct) for node in graph.nodes])
    alike_E = torch.zeros(len(graph.edges), dtype=torch.long)
    nodes = F.cross_entropy(model.graph(frozen, torch.tensor(graph.edges).T, alike_E), labels)
    return torch.cat(losses).mean() + nodes + 0.1 * contrast


def test_with_as_many_correct_as_incorrect_nodes_the_loss_is_that_of_each_sequence_alone(model: PairwiseModel):
    graph = graph_of((5, True), (3, False), (9, True), (7, False))
    frozen = torch.randn(4, model.student.config.hidden_size)
    batch = pair_batch(pairs_of(graph, NA), {"q": graph}, {"q": frozen}, pad_id=0)
    assert model(batch).item() == pytest.approx(plain_loss(model, graph, frozen).item(), abs=1e-5)


def test_a_placeholder_does_not_enter_the_contrast_beside_real_negatives(model: PairwiseModel):
    mixed, clean = graph_of((5, True), (7, False)), graph_of((5, True))
    graphs, frozen = {"q": mixed}, {"q": torch.zeros(2, model.student.config.hidden_size)}
    real, placeholder = pairs_of(mixed, NA), pairs_of(clean, NA)
    alone, beside = (model(pair_batch(pairs, graphs, frozen, pad_id=0)) for pairs in (real, [*real, *placeholder]))
    assert beside.item() == pytest.approx(alone.item(), abs=1e-5)
