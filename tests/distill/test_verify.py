"""The verifier: its loss is the formula's, it can be kept from the student, and it comes back from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from magdi_ray.config.recipes import NextToken, Reading, RecipeConfig, Verify
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.heads import load_heads, make_heads, save_heads
from magdi_ray.distill.judging import Judge
from magdi_ray.distill.objectives import pool, weighted_sum
from magdi_ray.distill.student import DistillModel
from magdi_ray.distill.tokens import needs_incorrect, needs_structure, tokenise
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench


def model_of(bench: Workbench, **changes: Any) -> tuple[DistillModel, Verify]:
    verify = Verify(name="verify", hidden=8, **changes)
    torch.manual_seed(0)
    student = LlamaForCausalLM.from_pretrained(bench.directory, dtype=torch.float32)
    return DistillModel(student, RecipeConfig(name="x", objectives=(NextToken(name="next_token"), verify))).eval(), verify


def test_its_loss_is_the_mean_cross_entropy_of_every_node(bench: Workbench) -> None:
    model, verify = model_of(bench)
    batch = collate(bench.graphs(), pad_id=0)
    hidden_SH = model.hidden(batch)[None]
    odds_N = model.verifier(pool(hidden_SH, batch, over="reply")) if model.verifier else torch.zeros(0)
    chance_N = torch.where(batch.correct_N == 1, odds_N.sigmoid(), 1 - odds_N.sigmoid())
    loss, _ = weighted_sum(model(batch), batch, (verify,), Counts(1, len(chance_N), 1))
    assert float(loss.detach()) == pytest.approx(float(-chance_N.log().mean().detach()), abs=1e-5)


@pytest.mark.parametrize("stop", [True, False])
def test_a_gradient_that_is_stopped_reaches_the_head_and_not_the_student(bench: Workbench, stop: bool) -> None:
    model, verify = model_of(bench, reading=Reading(over="reply", stop=stop))
    batch = collate(bench.graphs(), pad_id=0)
    loss, _ = weighted_sum(model(batch), batch, (verify,), Counts(1, 1, 1))
    loss.backward()
    reached = sum(float(p.grad.abs().sum()) for p in model.student.parameters() if p.grad is not None)
    assert (reached == 0) is stop
    assert model.verifier is not None
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in model.verifier.parameters())


def test_every_reply_is_a_unit_of_its_own_incorrect_ones_too(bench: Workbench) -> None:
    recipe = RecipeConfig(name="x", objectives=(NextToken(name="next_token"), Verify(name="verify")))
    found = tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs
    assert (needs_incorrect(recipe), needs_structure(recipe)) == (True, False)
    assert {len(graph.nodes) for graph in found} == {1}
    assert {graph.nodes[0].correct for graph in found} == {True, False}


def test_shuffled_labels_stay_with_their_nodes_where_each_is_a_unit(bench: Workbench) -> None:
    terms = (NextToken(name="next_token"), Verify(name="verify"))
    recipe = RecipeConfig(name="x", objectives=terms, control="shuffled_labels")
    found = tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs
    assert sum(graph.compared[0] for graph in found) == sum(graph.nodes[0].correct for graph in found)
    assert any(graph.compared[0] != graph.nodes[0].correct for graph in found)


def test_it_is_served_as_it_was_trained(bench: Workbench, tmp_path: Path) -> None:
    model, verify = model_of(bench)
    assert model.verifier is not None
    recipe = RecipeConfig(name="x", objectives=(verify,))
    tensors = {f"verifier.{name}": tensor for name, tensor in model.verifier.state_dict().items()}
    from magdi_ray.distill.job import HEADS

    save_heads(tensors, recipe, tmp_path / HEADS)
    assert load_heads(tmp_path / HEADS, width=32).readings == make_heads(32, recipe).readings
    graph = next(g for g in bench.graphs() if g.nodes)
    batch = collate([graph], pad_id=0)
    with torch.no_grad():
        expected = model(batch).verdicts_N.sigmoid()[0]
    text = bench.tokenizer.decode(graph.nodes[0].reply_ids[:-1])
    scores = Judge(model.student.eval(), bench.tokenizer, tmp_path).score(graph.prompt_ids, text)
    assert scores.correct == pytest.approx(float(expected), abs=1e-5)
    assert scores.contrast is None
