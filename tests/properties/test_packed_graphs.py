"""Packed rows compute what padded rows do: the whole loss and every gradient, for graphs of any shape and lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.plan import Step, measure, share
from magdi_ray.distill.student import DistillModel, decoder_of
from magdi_ray.distill.tokens import GraphTokens, NodeTokens
from tests.properties.rules import rule

VOCAB = 61
SHAPE = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@st.composite
def graphs(draw: st.DrawFn, number: int) -> GraphTokens:
    """A graph of one to five replies, of which some are right, and any edges that run forward."""
    ids = st.integers(1, VOCAB - 1)
    prompt = tuple(draw(st.lists(ids, min_size=1, max_size=9)))
    replies = draw(st.lists(st.tuples(st.lists(ids, min_size=1, max_size=12), st.booleans()), min_size=1, max_size=5))
    nodes = tuple(NodeTokens(tuple(reply), right, f"{number}/{place}") for place, (reply, right) in enumerate(replies))
    pairs = [(source, target) for target in range(len(nodes)) for source in range(target)]
    edges = tuple(draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else ()
    return GraphTokens(f"q{number}", prompt, nodes, edges)


several = st.integers(1, 4).flatmap(lambda count: st.tuples(*(graphs(number) for number in range(count))))


def computed(
    held: Sequence[GraphTokens], *, packed: bool, parts: Sequence[Sequence[int]], on_prompt: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one step over micro-batches of these graphs."""
    torch.manual_seed(0)
    student = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.3)).train()
    prepare_attention(decoder_of(student), "segments" if packed else "padded", device="cpu")
    recipe = resolve_recipe("level4")
    model = DistillModel(student, recipe).eval()  # the graph network's dropout draws by the shape of a micro-batch
    sizes = [measure(graph, next_token=True, loss_on_prompt=on_prompt) for graph in held]
    counts = Counts(*(max(1, sum(getattr(size, name) for size in sizes)) for name in ("supervised", "nodes", "pairs")))
    weights = {objective.name: objective.weight for objective in recipe.objectives}
    total = torch.zeros(())
    for part in parts:
        batch = collate([held[place] for place in part], pad_id=0, packed=packed, loss_on_prompt=on_prompt)
        loss, _ = weighted_sum(model(batch), batch, recipe.objectives, counts, weights)
        loss.backward()
        total = total + loss.detach()
    return total, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@rule(12)
@given(several, st.booleans(), st.integers(1, 200), st.randoms(use_true_random=False))
def test_packed_micro_batches_of_any_graphs_have_the_loss_and_gradients_of_padded_rows(
    held: tuple[GraphTokens, ...], on_prompt: bool, limit: int, draw: random.Random
) -> None:
    sizes = [measure(graph, next_token=True, loss_on_prompt=on_prompt, packed=True) for graph in held]
    step = Step(tuple(draw.sample(range(len(held)), len(held))), 0, 0, 0)
    [dealt] = share(step, sizes, workers=1, limit=limit)
    together = [tuple(range(len(held)))]
    expected, gradients = computed(held, packed=False, parts=together, on_prompt=on_prompt)
    found, own = computed(held, packed=True, parts=dealt, on_prompt=on_prompt)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert float((own[name] - gradient).norm()) <= 1e-5 * max(1.0, float(gradient.norm())), name
