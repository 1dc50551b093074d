"""The gradient facts: what each objective reaches, and what it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from magdi_ray.config.distil import TrainConfig
from magdi_ray.config.recipes import Contrast, Interaction, NextToken, Objective, Preference, RecipeConfig, resolve_recipe
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.objectives import OBJECTIVES, contrast, interaction, next_token, pool, weighted_sum
from magdi_ray.distill.plan import measure, plan_steps
from magdi_ray.distill.student import DistillModel, decoder_of
from magdi_ray.distill.tokens import GraphTokens, NodeTokens

from .conftest import MAGS, Workbench

NEXT, CONTRAST, INTERACTION = NextToken(name="next_token"), Contrast(name="contrast"), Interaction(name="interaction")
PREFERENCE = Preference(name="preference")


def counts(batch: GraphBatch) -> Counts:
    supervised = len(batch.targets_M) if batch.times_M is None else int(batch.times_M.sum())
    return Counts(max(1, supervised), len(batch.correct_N), max(1, batch.pairs_2P.shape[1]))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("objective", [NEXT, CONTRAST, INTERACTION, PREFERENCE], ids=lambda o: o.name)
def test_a_graph_counts_in_a_mean_for_as_much_as_its_weight(bench: Workbench, objective: Objective, packed: bool) -> None:
    """`sum_g w_g L_g / sum_g w_g n_g`, n being what the objective is a mean over: tokens, pairs or nodes."""
    model, chosen, weights = bench.model("level4"), bench.graphs()[:3:2], (0.25, 1.0)
    model = DistillModel(model.student, RecipeConfig(name="x", objectives=(objective,))).eval()
    single = [shares(model, objective, packed, graph)[0] for graph in chosen]
    numbers = [shares(model, objective, packed, graph)[1] for graph in chosen]
    together = [replace(graph, weight=weight) for graph, weight in zip(chosen, weights, strict=True)]
    expected = sum(w * n * mean for w, n, mean in zip(weights, numbers, single, strict=True))
    expected /= sum(w * n for w, n in zip(weights, numbers, strict=True))
    assert shares(model, objective, packed, *together)[0] == pytest.approx(expected, abs=1e-5)


def shares(model: DistillModel, objective: Objective, packed: bool, *graphs: GraphTokens) -> tuple[float, float]:
    """The objective over some graphs as one step, and what its mean divides by."""
    switches = {"next_token": objective.name == "next_token", "loss_on_prompt": False}
    sizes = [measure(graph, packed=packed, **switches) for graph in graphs]
    [step] = plan_steps(sizes, TrainConfig(epochs=1, tokens_per_step=10**6), seed=0)
    batch = collate(graphs, pad_id=0, packed=packed, replies=True, **switches)
    batch = replace(batch, reference_N=torch.zeros(len(batch.correct_N)))
    prepare_attention(decoder_of(model.student), "segments" if packed else "padded", device="cpu")
    counts = Counts(step.taught, step.nodes, step.pairs)
    with torch.no_grad():
        loss, _ = weighted_sum(model(batch), batch, (objective,), counts, {objective.name: 1.0})
    return float(loss), getattr(counts, {"next_token": "supervised", "interaction": "nodes"}.get(objective.name, "pairs"))


def batch_of(bench: Workbench, *graphs: int) -> GraphBatch:
    chosen = bench.graphs()
    return collate([chosen[i] for i in graphs] or chosen, pad_id=0)


def student_gradient(model: DistillModel) -> float:
    return sum(float(p.grad.abs().sum()) for p in model.student.parameters() if p.grad is not None)


@pytest.mark.parametrize("objective", [NEXT, CONTRAST, INTERACTION], ids=lambda o: o.name)
def test_each_objective_alone_reaches_the_students_weights(
    bench: Workbench, objective: NextToken | Contrast | Interaction
) -> None:
    model, batch = bench.model(), batch_of(bench)
    loss, _ = weighted_sum(model(batch), batch, (objective,), counts(batch))
    loss.backward()
    assert student_gradient(model) > 1e-3
    assert float(model.student.model.layers[0].mlp.up_proj.weight.grad.abs().sum()) > 1e-5


def test_with_frozen_embeddings_the_interaction_term_gives_the_student_exactly_no_gradient(bench: Workbench) -> None:
    model, batch = bench.model(embeddings="frozen"), batch_of(bench)
    with torch.no_grad():
        _, frozen_NH = model.embed(batch)
    loss, _ = weighted_sum(model(replace(batch, frozen_NH=frozen_NH)), batch, (INTERACTION,), counts(batch))
    loss.backward()
    assert student_gradient(model) == 0.0
    assert sum(float(p.grad.abs().sum()) for p in model.graph.parameters()) > 0


def one_node(length: int, *, left: int = 0, right: int = 0) -> GraphBatch:
    """A batch of one node of that many tokens, two of them its prompt, between padding."""
    graph = GraphTokens("q", (1, 1), (NodeTokens((1,) * (length - 2), True, "q/0"),), ())
    batch = collate([graph], pad_id=0)
    mask_1T, position_1T, segment_S = batch.attention_mask_BT, batch.position_ids_BT, batch.segment_S
    return replace(
        batch,
        attention_mask_BT=F.pad(mask_1T, (left, right)),
        position_ids_BT=F.pad(position_1T, (left, right)),
        segment_S=F.pad(segment_S, (left, right)),
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_nodes_embedding_does_not_change_with_padding(side: str) -> None:
    hidden_SH = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    padding = (0, 0, 200, 0) if side == "left" else (0, 0, 0, 200)
    padded = pool(F.pad(hidden_SH, padding, value=9.0), one_node(48, **{side: 200}))
    torch.testing.assert_close(padded, pool(hidden_SH, one_node(48)), atol=1e-5, rtol=0)


def test_a_nodes_embedding_through_the_student_is_that_of_the_node_alone(bench: Workbench) -> None:
    model, graph = bench.model().eval(), bench.graphs()[0]
    together = model.embed(batch_of(bench))[1][: len(graph.nodes)]
    for row, node in enumerate(graph.nodes):
        ids = torch.tensor([(*graph.prompt_ids, *node.reply_ids)])
        hidden_TH = model.student.model(input_ids=ids).last_hidden_state[0]
        weights_T = torch.arange(1, len(hidden_TH) + 1, dtype=torch.float32)
        alone_H = (weights_T[:, None] * hidden_TH).sum(0) / weights_T.sum()
        torch.testing.assert_close(together[row], alone_H, atol=1e-5, rtol=1e-5)


def test_weights_that_count_left_padding_would_be_caught() -> None:
    hidden_SH = torch.randn(248, 16, generator=torch.Generator().manual_seed(0))
    right_H = pool(hidden_SH, one_node(248))[0]
    positions_S = torch.arange(201, 449, dtype=torch.float32)
    reference_bug_H = (positions_S[:, None] * hidden_SH).sum(0) / positions_S.sum()
    assert float((reference_bug_H - right_H).norm() / right_H.norm()) > 0.05


def test_next_token_loss_is_the_plain_mean_over_the_correct_replies(bench: Workbench) -> None:
    model, batch = bench.model().eval(), batch_of(bench)
    value = next_token(model(batch), batch, NEXT, counts(batch))
    losses = []
    for graph in bench.graphs():
        for node in (node for node in graph.nodes if node.correct):
            ids = torch.tensor([(*graph.prompt_ids, *node.reply_ids)])
            labels = ids.clone()
            labels[0, : len(graph.prompt_ids)] = -100
            losses += [float(model.student(input_ids=ids, labels=labels).loss)] * len(node.reply_ids)
    assert float(value) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_prompt_tokens_and_padding_carry_no_loss(bench: Workbench) -> None:
    batch = batch_of(bench)
    prompts = [len(graph.prompt_ids) for graph in bench.graphs() for _ in graph.nodes]
    lengths = batch.attention_mask_BT.sum(1).tolist()
    for index in batch.predict_M.tolist():
        node, position = divmod(index, batch.input_ids_BT.shape[1])
        assert prompts[node] - 1 <= position < lengths[node] - 1
    assert len(batch.targets_M) == sum(
        n - p for n, p, right in zip(lengths, prompts, batch.correct_N.tolist(), strict=True) if right
    )


def test_loss_on_prompt_adds_the_prompts_tokens_of_correct_nodes(bench: Workbench) -> None:
    graphs = bench.graphs()
    extra = sum(len(g.prompt_ids) - 1 for g in graphs for node in g.nodes if node.correct)
    plain, on_prompt = (collate(graphs, pad_id=0, loss_on_prompt=switch) for switch in (False, True))
    assert len(on_prompt.targets_M) == len(plain.targets_M) + extra


def test_incorrect_nodes_carry_no_next_token_loss(bench: Workbench) -> None:
    batch = batch_of(bench)
    nodes = batch.predict_M // batch.input_ids_BT.shape[1]
    assert set(nodes.tolist()) == set(batch.correct_N.nonzero().flatten().tolist())


def test_contrast_is_the_margin_over_every_pair_of_one_graph(bench: Workbench) -> None:
    model, batch = bench.model().eval(), batch_of(bench)
    outputs, first, margins = model(batch), 0, []
    for graph in bench.graphs():
        z = outputs.scores_N[first : first + len(graph.nodes)].tolist()
        right = [s for s, node in zip(z, graph.nodes, strict=True) if node.correct]
        wrong = [s for s, node in zip(z, graph.nodes, strict=True) if not node.correct]
        margins += [max(0.0, 1.0 - p + n) for p in right for n in wrong]
        first += len(graph.nodes)
    assert len(margins) == sum(graph.pairs for graph in bench.graphs()) > 0
    assert float(contrast(outputs, batch, CONTRAST, counts(batch))) == pytest.approx(sum(margins) / len(margins), abs=1e-5)


def test_a_graph_of_one_kind_of_node_contributes_zero_contrast(bench: Workbench) -> None:
    model, batch = bench.model(), batch_of(bench, 1)
    assert len(MAGS[1].nodes) == 3
    assert all(node.correct for node in MAGS[1].nodes)
    value = contrast(model(batch), batch, CONTRAST, counts(batch))
    value.backward()
    assert float(value) == 0.0
    assert student_gradient(model) == 0.0


def test_interaction_is_the_mean_cross_entropy_over_nodes(bench: Workbench) -> None:
    model, batch = bench.model().eval(), batch_of(bench)
    outputs = model(batch)
    plain = F.cross_entropy(outputs.node_logits_N2, batch.correct_N)
    assert float(interaction(outputs, batch, INTERACTION, counts(batch))) == pytest.approx(float(plain), abs=1e-6)


def test_messages_do_not_pass_between_graphs(bench: Workbench) -> None:
    model = bench.model().eval()
    together = model(batch_of(bench, 0, 2)).node_logits_N2
    apart = torch.cat([model(batch_of(bench, 0)).node_logits_N2, model(batch_of(bench, 2)).node_logits_N2])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_edges_matter_to_the_graph_network(bench: Workbench) -> None:
    model, batch = bench.model().eval(), batch_of(bench)
    without = replace(batch, edges_2E=batch.edges_2E[:, :0])
    assert float((model(batch).node_logits_N2 - model(without).node_logits_N2).abs().max()) > 1e-4


def test_dropout_is_off_in_evaluation_and_on_in_training(bench: Workbench) -> None:
    model, batch = bench.model(), batch_of(bench)
    evaluated = [model.eval()(batch).node_logits_N2 for _ in range(2)]
    trained = [model.train()(batch).node_logits_N2 for _ in range(2)]
    assert torch.equal(*evaluated)
    assert not torch.equal(*trained)


def test_micro_batches_add_up_to_the_whole_step(bench: Workbench) -> None:
    model, whole = bench.model().eval(), batch_of(bench)
    objectives = resolve_recipe("level4").objectives
    total, _ = weighted_sum(model(whole), whole, objectives, counts(whole))
    parts = [batch_of(bench, i) for i in range(4)]
    shares = [weighted_sum(model(part), part, objectives, counts(whole))[0] for part in parts]
    assert float(sum(shares)) == pytest.approx(float(total), abs=1e-5)


def test_the_weights_of_a_step_take_the_place_of_the_configured_ones(bench: Workbench) -> None:
    model, batch = bench.model().eval(), batch_of(bench)
    objectives, outputs = resolve_recipe("level4").objectives, model(batch_of(bench))
    total, parts = weighted_sum(
        outputs, batch, objectives, counts(batch), {"next_token": 0.5, "contrast": 0.0, "interaction": 2.0}
    )
    assert float(total) == pytest.approx(float(0.5 * parts["next_token"] + 2.0 * parts["interaction"]), abs=1e-5)
    configured, _ = weighted_sum(outputs, batch, objectives, counts(batch))
    again, _ = weighted_sum(outputs, batch, objectives, counts(batch), {o.name: o.weight for o in objectives})
    assert float(configured) == float(again)


def test_a_weight_of_zero_keeps_every_parameter_in_the_graph(bench: Workbench) -> None:
    model, batch = bench.model(), batch_of(bench)
    objectives = resolve_recipe("level4").objectives
    loss, _ = weighted_sum(model(batch), batch, objectives, counts(batch), dict.fromkeys(OBJECTIVES, 0.0))
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_making_a_batch_leaves_the_dataset_as_it_was(bench: Workbench) -> None:
    graphs = bench.graphs()
    before = [tuple(map(len, (g.prompt_ids, *(n.reply_ids for n in g.nodes)))) for g in graphs]
    for _ in range(3):
        collate(graphs, pad_id=0)
    assert before == [tuple(map(len, (g.prompt_ids, *(n.reply_ids for n in g.nodes)))) for g in graphs]
