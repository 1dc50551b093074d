"""SimPO (arXiv 2405.14734) and ORPO (arXiv 2403.07691): value and gradients are those of the formulas over full logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from magdi_ray.config.recipes import ORPO, Preference, RecipeConfig, SimPO, resolve_recipe
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.tokens import needs_incorrect
from magdi_ray.distill.units import Units

from .test_packing import EDGE_CASES, GRAPHS
from .test_preference import HEADS, batch_of, counts, gradients_of, model_of, plain_logps, student

SIMPO, ODDS = SimPO(name="simpo", weight=0.7, beta=2.5, gamma=0.5), ORPO(name="orpo", weight=0.7)
LENGTHS = torch.tensor([len(node.reply_ids) for graph in GRAPHS for node in graph.nodes])


def simpo_term(correct: Tensor, incorrect: Tensor) -> Tensor:
    return -torch.log(torch.sigmoid(2.5 * correct - 2.5 * incorrect - 0.5))


def orpo_term(correct: Tensor, incorrect: Tensor) -> Tensor:
    odds = [torch.exp(mean) / (1 - torch.exp(mean)) for mean in (correct, incorrect)]
    return -torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))


def plain(causal: Any, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Pair by pair, from each node's mean log-probability."""
    mean_N, terms, first = plain_logps(causal) / LENGTHS, [], 0
    for graph in GRAPHS:
        numbered = list(enumerate(graph.nodes, start=first))
        right, wrong = ([i for i, node in numbered if node.correct is kind] for kind in (True, False))
        terms += [term(mean_N[p], mean_N[n]) for p in right for n in wrong]
        first += len(graph.nodes)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("head_kind", HEADS)
@pytest.mark.parametrize("path", ["segments", "padded"])
@pytest.mark.parametrize(("objective", "term"), [(SIMPO, simpo_term), (ODDS, orpo_term)], ids=["simpo", "orpo"])
def test_loss_and_gradients_are_those_of_the_formula(objective: Any, term: Any, path: str, head_kind: str) -> None:
    theirs, model = student(head_kind), model_of(head_kind, path, objective)
    batch = batch_of(head_kind=head_kind, packed=path == "segments")
    expected = plain(theirs, term)
    loss, parts = weighted_sum(model(batch), batch, (objective,), counts(batch))
    assert float(parts[objective.name]) == pytest.approx(float(expected.detach()), abs=1e-5)
    found, gradients = gradients_of(model.student, loss), gradients_of(theirs, 0.7 * expected)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * max(1e-3, float(gradient.norm())), name


@pytest.mark.parametrize("objective", [SIMPO, ODDS], ids=["simpo", "orpo"])
def test_a_reply_that_is_certain_or_empty_has_a_finite_loss(objective: Any) -> None:
    model, batch = model_of("plain", "segments", objective), batch_of(EDGE_CASES["an empty reply"])
    loss, _ = weighted_sum(model(batch), batch, (objective,), counts(batch))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_they_look_at_incorrect_replies_and_need_no_reference(name: Any) -> None:
    recipe = resolve_recipe(name)
    model = model_of("plain", "segments", *recipe.objectives)
    assert needs_incorrect(recipe)
    assert (model.compares, model.needs_reference) == (name, False)
    assert model_of("plain", "segments", Preference(name="preference")).needs_reference
    with pytest.raises(Exception, match="nothing to train on"):
        pairless(resolve_recipe("simpo")).check()


def pairless(recipe: RecipeConfig) -> Units:
    class Store:
        def sizes(self, *_: object, **__: object) -> tuple[Any, ...]:
            return (type("Size", (), {"pairs": 0})(),)

    return Units(Store(), "train", recipe, None, packed=True)  # type: ignore[arg-type]


def test_two_ways_to_prefer_are_refused() -> None:
    with pytest.raises(ValueError, match="rivals"):
        RecipeConfig(name="x", objectives=(SIMPO, ODDS))
