"""Preference optimisation is equation 7 of arXiv 2305.18290: value and gradients, whatever the head and the layout."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from magdi_ray.config.distil import LoraTuning
from magdi_ray.config.recipes import NextToken, Preference, RecipeConfig
from magdi_ray.distill import head
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.objectives import preference, weighted_sum
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.errors import GraphError

from .test_packing import EDGE_CASES, GRAPHS, LLAMA, graph_of, student_of

PREFERENCE, NEXT = Preference(name="preference", weight=0.7, beta=0.1), NextToken(name="next_token")
HEADS = ("plain", "tied", "frozen", "adapted")


def student(head_kind: str) -> Any:
    """With a head that is trained, tied to the embeddings, frozen under LoRA, or with an adapter of its own."""
    causal = student_of(LLAMA, attention=None)
    if head_kind == "tied":
        causal.config.tie_word_embeddings = True
        causal.tie_weights()
    if head_kind in ("frozen", "adapted"):
        targets = ("q_proj", "lm_head") if head_kind == "adapted" else ("q_proj",)
        causal = add_lora(causal, LoraTuning(type="lora", r=4, dropout=0.0, target_modules=targets))
        with torch.no_grad():
            for weights in (p for name, p in causal.named_parameters() if "lora_B" in name):
                weights.normal_(0.0, 0.1)
    return causal


def model_of(head_kind: str = "plain", path: str = "segments", *objectives: Any) -> DistillModel:
    causal = student(head_kind)
    prepare_attention(decoder_of(causal), path, device="cpu")  # type: ignore[arg-type]
    return DistillModel(causal, RecipeConfig(name="dpo", objectives=objectives or (PREFERENCE,)))


@functools.cache
def reference(head_kind: str) -> Tensor:
    """Near the student: far from it the sigmoid is flat, and there is no gradient to compare."""
    return plain_logps(student(head_kind)).detach() + torch.randn(7, generator=torch.Generator().manual_seed(5))


def batch_of(*graphs: GraphTokens, head_kind: str = "plain", packed: bool = True, next_token: bool = False) -> GraphBatch:
    batch = collate(graphs or GRAPHS, pad_id=0, packed=packed, next_token=next_token, replies=True)
    return replace(batch, reference_N=torch.zeros(len(batch.correct_N)) if graphs else reference(head_kind))


def counts(batch: GraphBatch) -> Counts:
    return Counts(max(1, len(batch.targets_M)), len(batch.correct_N), max(1, batch.pairs_2P.shape[1]))


def plain_logps(causal: Any) -> Tensor:
    """Each node in a forward pass of its own, with full logits."""
    logps = []
    for graph in GRAPHS:
        for node in graph.nodes:
            ids_T = torch.tensor((*graph.prompt_ids, *node.reply_ids))
            logps_TV = torch.log_softmax(causal(input_ids=ids_T[None]).logits[0], dim=-1)
            places = range(len(graph.prompt_ids), len(ids_T))
            logps.append(sum((logps_TV[t - 1, ids_T[t]] for t in places), torch.zeros(())))
    return torch.stack(logps)


def plain_loss(lp_N: Tensor, ref_N: Tensor) -> Tensor:
    """Equation 7, pair by pair."""
    terms, first = [], 0
    for graph in GRAPHS:
        numbered = list(enumerate(graph.nodes, start=first))
        for p in (i for i, node in numbered if node.correct):
            for n in (i for i, node in numbered if not node.correct):
                terms.append(-torch.log(torch.sigmoid(0.1 * ((lp_N[p] - ref_N[p]) - (lp_N[n] - ref_N[n])))))
        first += len(graph.nodes)
    assert len(terms) == 3
    return torch.stack(terms).mean()


def gradients_of(causal: Any, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {name: p.grad for name, p in causal.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("head_kind", HEADS)
@pytest.mark.parametrize("path", ["segments", "padded"])
@pytest.mark.parametrize("chunk", [7, 512])
def test_loss_and_gradients_are_those_of_full_logits_node_by_node(
    monkeypatch: pytest.MonkeyPatch, head_kind: str, path: str, chunk: int
) -> None:
    monkeypatch.setattr(head, "CHUNK", chunk)
    theirs, model = student(head_kind), model_of(head_kind, path)
    batch = batch_of(head_kind=head_kind, packed=path == "segments")
    plain = plain_loss(plain_logps(theirs), reference(head_kind))
    loss, parts = weighted_sum(model(batch), batch, (PREFERENCE,), counts(batch))
    assert float(parts["preference"]) == pytest.approx(float(plain.detach()), abs=1e-5)
    found, expected = gradients_of(model.student, loss), gradients_of(theirs, 0.7 * plain)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * max(1e-3, float(gradient.norm())), name


@pytest.mark.parametrize("head_kind", HEADS)
def test_beside_next_token_both_gradients_add_up(head_kind: str) -> None:
    theirs, model = student(head_kind), model_of(head_kind, "segments", NEXT, PREFERENCE)
    batch = batch_of(head_kind=head_kind, next_token=True)
    lp_N = plain_logps(theirs)
    plain = 0.7 * plain_loss(lp_N, reference(head_kind)) - lp_N[batch.correct_N.bool()].sum() / len(batch.targets_M)
    loss, _ = weighted_sum(model(batch), batch, (NEXT, PREFERENCE), counts(batch))
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), abs=1e-5)
    found, expected = gradients_of(model.student, loss), gradients_of(theirs, plain)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * max(1e-3, float(gradient.norm())), name


@pytest.mark.parametrize("chunk", [1, 43, 44, 45])
def test_where_chunks_end_changes_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    model, batch = model_of("frozen"), batch_of()
    whole_N = model(batch).node_logps_N.detach()
    assert batch.replies_3R is not None
    assert batch.replies_3R.shape[1] == 44
    monkeypatch.setattr(head, "CHUNK", chunk)
    torch.testing.assert_close(model(batch).node_logps_N.detach(), whole_N, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_kind", HEADS)
def test_without_a_pair_the_loss_is_zero_and_every_trained_weight_is_still_reached(head_kind: str) -> None:
    model, batch = model_of(head_kind), batch_of(graph_of(6, [3, 4], [1, 1]))
    loss, _ = weighted_sum(model(batch), batch, (PREFERENCE,), counts(batch))
    loss.backward()
    assert float(loss) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_swapped_pairs_and_a_reference_left_out_are_noticed() -> None:
    model, batch = model_of(), batch_of()
    right = float(preference(model(batch), batch, PREFERENCE, counts(batch)))
    for wrong in (replace(batch, pairs_2P=batch.pairs_2P.flip(0)), replace(batch, reference_N=torch.zeros(7))):
        assert abs(float(preference(model(wrong), wrong, PREFERENCE, counts(wrong))) - right) > 1e-3


def test_a_batch_without_reference_or_without_replies_is_refused() -> None:
    model, batch = model_of(), batch_of()
    with pytest.raises(GraphError, match="untrained student"):
        preference(model(batch), replace(batch, reference_N=None), PREFERENCE, counts(batch))
    with pytest.raises(GraphError, match="reply tokens"):
        model(replace(batch, replies_3R=None))


@pytest.mark.parametrize("head_kind", HEADS)
def test_at_the_reference_itself_the_loss_is_log_2(head_kind: str) -> None:
    model, batch = model_of(head_kind).eval(), batch_of()
    embeddings_NH, logps_N = model.reference(batch)
    batch = replace(batch, reference_N=logps_N)
    assert float(preference(model(batch), batch, PREFERENCE, counts(batch))) == pytest.approx(math.log(2), abs=1e-6)
    torch.testing.assert_close(logps_N, plain_logps(student(head_kind)).detach(), atol=1e-4, rtol=1e-5)
    assert torch.equal(embeddings_NH, model.embed(batch)[1])
    assert not logps_N.requires_grad
    assert not embeddings_NH.requires_grad


def test_learning_it_raises_correct_replies_against_incorrect_ones() -> None:
    model, batch = model_of(), batch_of()
    batch = replace(batch, reference_N=model.reference(batch)[1])
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for _ in range(5):
        loss, _ = weighted_sum(model(batch), batch, (PREFERENCE,), counts(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    gain_N = (model(batch).node_logps_N - batch.reference_N).detach()
    assert losses[-1] < losses[0]
    assert float((gain_N[batch.pairs_2P[0]] - gain_N[batch.pairs_2P[1]]).mean()) > 0


def test_micro_batches_add_up_to_the_whole_step() -> None:
    model, whole = model_of(), batch_of()
    total, _ = weighted_sum(model(whole), whole, (PREFERENCE,), counts(whole))
    shares, first = [], 0
    for graph in GRAPHS:
        part = replace(batch_of(graph), reference_N=reference("plain")[first : first + len(graph.nodes)])
        shares.append(float(weighted_sum(model(part), part, (PREFERENCE,), counts(whole))[0].detach()))
        first += len(graph.nodes)
    assert sum(shares) == pytest.approx(float(total.detach()), abs=1e-5)


def test_an_empty_reply_has_log_probability_zero_and_a_loss_that_is_finite() -> None:
    model, batch = model_of(), batch_of(EDGE_CASES["an empty reply"])
    logps_N = model(batch).node_logps_N.tolist()
    assert logps_N[1] == 0.0
    assert max(logps_N[0], logps_N[2]) < -1.0


def test_without_the_objective_no_reply_goes_through_the_head_for_it() -> None:
    model = DistillModel(student_of(LLAMA), RecipeConfig(name="next", objectives=(NEXT,)))
    batch = collate(GRAPHS, pad_id=0)
    assert batch.replies_3R is None
    assert not model(batch).node_logps_N.any()


def test_a_batch_takes_its_reference_along_to_another_device() -> None:
    moved = batch_of().to("meta")
    assert {moved.replies_3R.device.type, moved.reference_N.device.type} == {"meta"}  # type: ignore[union-attr]


def test_the_formula_is_stable_where_sigmoid_would_underflow() -> None:
    model, batch = model_of(), batch_of()
    far = replace(batch, reference_N=torch.where(batch.correct_N.bool(), 1e4, -1e4))
    value = preference(model(far), far, PREFERENCE, counts(far))
    assert math.isfinite(float(value))
    assert float(value) == pytest.approx(0.1 * 2e4, rel=0.1)
    assert math.isinf(float(-torch.log(torch.sigmoid(torch.tensor(-2e3))))) != math.isinf(
        float(-F.logsigmoid(torch.tensor(-2e3)))
    )
