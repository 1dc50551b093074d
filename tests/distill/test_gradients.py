"""Each objective's gradient norm, taken in the ordinary backward pass, is that of the objective alone."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from magdi_ray.config.recipes import Interaction, Preference, RecipeConfig, resolve_recipe
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.objectives import OBJECTIVES, weighted_sum
from magdi_ray.distill.student import DistillModel, decoder_of
from magdi_ray.distill.tokens import GraphTokens

from .test_packing import GRAPHS, LLAMA, student_of

COUNTS = Counts(16, 7, 3)
LEVEL4 = resolve_recipe("level4")
ALL = (*LEVEL4.objectives, Preference(name="preference", weight=0.3))


def recipe(embeddings: str = "live") -> RecipeConfig:
    objectives = (o.model_copy(update={"embeddings": embeddings}) if isinstance(o, Interaction) else o for o in ALL)
    return RecipeConfig(name="all", objectives=tuple(objectives))


class Watched(DistillModel):
    """Keeps the last hidden states of its forward pass."""

    def hidden(self, batch: GraphBatch) -> dict[int | None, Tensor]:
        states = super().hidden(batch)
        self.seen = states[None]
        return states


def model_of(embeddings: str = "live", *, lora: bool = False, checkpointing: bool = False) -> Watched:
    student = student_of(LLAMA, lora=lora, checkpointing=checkpointing, attention=None)
    prepare_attention(decoder_of(student), "segments", device="cpu")
    torch.manual_seed(0)
    model = Watched(student, recipe(embeddings))
    for head in (model.scorer, model.graph):
        head.eval()  # type: ignore[union-attr]  # the graph network's dropout alone: checkpointing wants a training student
    return model


def batch_of(graphs: Sequence[GraphTokens] = GRAPHS) -> GraphBatch:
    batch = collate(graphs, pad_id=0, packed=True, replies=True)
    return replace(batch, reference_N=torch.full((len(batch.correct_N),), -20.0))


def squares(model: DistillModel, *batches: GraphBatch, factor: float = 1.0) -> dict[str, float]:
    for batch in batches:
        loss, _ = weighted_sum(model(batch), batch, ALL, COUNTS)
        (loss * factor).backward()
    return {name: float(value) for name, value in model.gradient_squares().items()}


def alone(model: Watched, batch: GraphBatch) -> dict[str, float]:
    """Each weighted objective's gradient by the hidden states, taken by itself."""
    found = {}
    for objective in ALL:
        value = objective.weight * OBJECTIVES[objective.name](model(batch), batch, objective, COUNTS)
        (gradient_SH,) = torch.autograd.grad(value, model.seen)
        found[objective.name] = float(gradient_SH.square().sum())
    model.gradient_squares()
    return found


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_norm_is_that_of_the_weighted_objective_alone(lora: bool, checkpointing: bool) -> None:
    model, batch = model_of(lora=lora, checkpointing=checkpointing), batch_of()
    expected = alone(model, batch)
    assert min(expected.values()) > 1e-8
    assert squares(model, batch) == pytest.approx(expected, rel=1e-5)


def test_the_norms_do_not_depend_on_how_graphs_fall_into_micro_batches() -> None:
    model = model_of()
    whole = squares(model, batch_of())
    assert squares(model, *(batch_of([graph]) for graph in GRAPHS)) == pytest.approx(whole, rel=1e-5)


def test_reading_starts_again_from_zero() -> None:
    model = model_of()
    assert min(squares(model, batch_of()).values()) > 0
    assert set(squares(model).values()) == {0.0}


def test_what_the_loss_was_multiplied_with_is_in_the_squares() -> None:
    model = model_of()
    once = squares(model, batch_of())
    assert squares(model, batch_of(), factor=2.0) == pytest.approx({name: 4 * value for name, value in once.items()}, rel=1e-5)


def test_with_frozen_embeddings_interaction_has_exactly_zero_and_the_others_their_own() -> None:
    model, batch = model_of("frozen"), batch_of()
    live = squares(model_of(), batch)
    found = squares(model, replace(batch, frozen_NH=model.reference(batch)[0]))
    assert found["interaction"] == 0.0
    assert {**found, "interaction": live["interaction"]} == pytest.approx(live, rel=1e-5)


def test_the_whole_gradient_is_what_it_was_without_taps() -> None:
    tapped, plain, batch = model_of(), model_of(), batch_of()
    plain._taps.alias = lambda objective, hidden_SH: hidden_SH  # type: ignore[method-assign]
    for model in (tapped, plain):
        squares(model, batch)
    for one, other in zip(tapped.parameters(), plain.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) <= 1e-5 * max(1e-3, float(other.grad.norm()))  # type: ignore[operator, union-attr]


def test_nothing_of_a_step_outlives_it() -> None:
    model, batch = model_of(), batch_of()
    outputs = model(batch)
    loss, _ = weighted_sum(outputs, batch, ALL, COUNTS)
    kept = [weakref.ref(tensor) for tensor in (model.seen, *outputs)]
    loss.backward()
    del loss, outputs, model.seen
    assert [reference() for reference in kept] == [None] * len(kept)
    assert not any(value.requires_grad for value in model.gradient_squares().values())


def test_a_pass_without_gradients_leaves_no_trace() -> None:
    model = model_of()
    model.reference(batch_of())
    assert set(squares(model).values()) == {0.0}
