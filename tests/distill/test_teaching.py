"""What of a reply is taught token by token: after a mistake, by persuasion, as a revision. Formulas by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from magdi_ray.agents.base import Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.config.distil import TrainConfig
from magdi_ray.config.recipes import NextToken, NodeSelection, RecipeConfig, Verify
from magdi_ray.debate.revision import REVISE
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.dataset import PartWriter, TokenFacts, TokenStore, commit
from magdi_ray.distill.objectives import next_token
from magdi_ray.distill.plan import measure, plan_steps
from magdi_ray.distill.student import decoder_of
from magdi_ray.distill.teaching import NOTHING, WHOLE, Lesson, diverging, persuasive
from magdi_ray.distill.tokenising import measured
from magdi_ray.distill.tokens import GraphTokens, NodeTokens, node_key, node_position, tokenise
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench, make_mag

SWITCHES = {"next_token": True, "loss_on_prompt": False}


def recipe_of(revisions: Any = "none", *others: Any, **learned: float) -> RecipeConfig:
    terms = (NextToken(name="next_token", **learned), *others)
    return RecipeConfig(name="x", nodes=NodeSelection(revisions=revisions), objectives=terms)


def units(bench: Workbench, recipe: RecipeConfig, mags: tuple[Mag, ...] = MAGS) -> tuple[GraphTokens, ...]:
    return tokenise(mags, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs


@pytest.mark.parametrize(
    ("wrong", "lesson"),
    [
        ((1, 2, 9, 4, 5), Lesson(0.3, 3)),  # leaves the closest correct reply at its third token
        ((7, 2, 3), Lesson(0.3, 1)),
        ((1, 2, 9), NOTHING),  # ends where it goes wrong
        ((1, 2), NOTHING),
    ],
)
def test_an_incorrect_reply_is_taught_behind_the_token_that_leaves_every_correct_one(wrong: Any, lesson: Lesson) -> None:
    replies = [wrong, (1, 2, 3, 4), (1, 5)]
    assert diverging(replies, [False, True, True], 0.3) == [lesson, WHOLE, WHOLE]


def test_without_a_correct_reply_nobody_knows_where_an_incorrect_one_goes_wrong() -> None:
    assert diverging([(1, 2), (1, 3)], [False, False], 0.3) == [NOTHING, NOTHING]


@pytest.mark.parametrize(
    ("answers", "weights"),
    [
        (("18", "7", "18", "18", "18", "7"), [1.25, 1, 1.25, 1, 1, 1]),  # b turned, shown two correct replies
        (("18", "7", "8", "18", "18", "18"), [2, 1, 1, 1, 1, 1]),  # b and c turned, by a alone
        (("4", "5", "6", "18", "4", "4"), [1, 1, 1, 1, 1, 1]),  # a turned by itself
    ],
)
def test_who_turns_an_agent_counts_for_more_and_several_share_it(answers: Any, weights: list[float]) -> None:
    assert persuasive(make_mag(1, answers), 0.5) == pytest.approx(weights)


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_is_the_weighted_mean_over_the_tokens_that_are_taught(bench: Workbench, packed: bool) -> None:
    nodes = (NodeTokens((5, 6, 7, 8), True, "q/0", Lesson(1.5)), NodeTokens((5, 9, 10, 11), False, "q/1", Lesson(0.3, 2)))
    graph, model = GraphTokens("q", (3, 4), nodes, ()), bench.model("level2").eval()
    batch = collate([graph], pad_id=0, packed=packed)
    prepare_attention(decoder_of(model.student), "segments" if packed else "padded", device="cpu")
    [step] = plan_steps([measure(graph, packed=packed, **SWITCHES)], TrainConfig(epochs=1, tokens_per_step=99), seed=0)
    expected = 0.0
    with torch.no_grad():
        found = next_token(model(batch), batch, NextToken(name="next_token"), Counts(step.taught, 1, 1))
        prepare_attention(decoder_of(model.student), "padded", device="cpu")
        for node in nodes:
            ids = torch.tensor([(*graph.prompt_ids, *node.reply_ids)])
            logits_TV = model.student(input_ids=ids).logits[0]
            losses_R = F.cross_entropy(logits_TV[1:-1], ids[0, 2:], reduction="none")
            expected += node.taught.weight * float(losses_R[node.taught.start :].sum())
    assert step.taught == pytest.approx(1.5 * 4 + 0.3 * 2)
    assert step.supervised == 6
    assert float(found) == pytest.approx(expected / step.taught, abs=1e-5)


def test_what_is_taught_comes_back_from_disk_and_sizes_with_it(bench: Workbench, tmp_path: Path) -> None:
    graphs = units(bench, recipe_of(after_divergence=0.3, persuasion=0.5))
    with PartWriter(tmp_path, 0) as writer:
        writer.add("train", graphs)
    import pyarrow as pa

    from magdi_ray.distill.dataset import INDEX

    commit(tmp_path, pa.Table.from_pylist(writer.index, schema=INDEX), TokenFacts())
    store = TokenStore(tmp_path)
    held = [store.graph("train", place) for place in range(len(graphs))]
    assert {graph.nodes[0].key: graph.nodes[0].taught for graph in held} == {g.nodes[0].key: g.nodes[0].taught for g in graphs}
    assert store.sizes("train", packed=True, **SWITCHES) == tuple(measure(graph, packed=True, **SWITCHES) for graph in held)
    assert any(graph.nodes[0].taught.start for graph in held)


def test_incorrect_replies_are_units_only_where_something_of_them_is_taught(bench: Workbench) -> None:
    plain, partly = units(bench, recipe_of()), units(bench, recipe_of(after_divergence=0.3))
    assert all(graph.nodes[0].correct for graph in plain)
    added = [graph for graph in partly if not graph.nodes[0].correct]
    assert len(partly) == len(plain) + len(added)
    assert added
    assert all(graph.nodes[0].taught.weight == 0.3 for graph in added)


def test_a_correct_reply_is_also_taught_as_the_revision_of_its_agents_incorrect_one(bench: Workbench) -> None:
    plain, revised = units(bench, recipe_of()), units(bench, recipe_of("corrections"))
    added = [graph for graph in revised if "revision" in graph.nodes[0].key]
    assert len(revised) == len(plain) + len(added)
    assert [graph.nodes[0].key for graph in added] == ["q1/revision 4", "q3/revision 4"][:1]  # q3's b gave no answer to revise
    node = MAGS[0].nodes[1]
    shown = [
        Message("user", Gsm8k().prompt(MAGS[0].question)),
        Message("assistant", f"{node.reasoning}\nThe answer is 7."),
        Message("user", REVISE),
    ]
    assert added[0].prompt_ids == tuple(encode_prompt(bench.tokenizer, shown))
    assert added[0].nodes[0].reply_ids == next(g.nodes[0].reply_ids for g in plain if g.nodes[0].key == "q1/4")


def test_all_revisions_hold_those_of_correct_replies_too(bench: Workbench) -> None:
    found = {graph.nodes[0].key for graph in units(bench, recipe_of("all"))}
    assert {"q1/revision 3", "q1/revision 4"} <= found


@pytest.mark.parametrize("position", [0, 12, -1, -2, -9])
def test_a_nodes_key_says_its_position(position: int) -> None:
    assert node_position(node_key("a/b c", position)) == position


def test_dev_graphs_are_measured_without_what_is_only_for_learning() -> None:
    recipe = recipe_of("corrections", after_divergence=0.3, persuasion=1.0)
    assert measured(recipe).objectives == recipe_of().objectives
    assert measured(recipe).nodes == NodeSelection()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"nodes": {"correct": "correct"}, "objectives": [{"name": "next_token", "after_divergence": 0.3}]},
            "compares incorrect",
        ),
        ({"nodes": {"revisions": "all"}, "objectives": [{"name": "simpo"}]}, "learned token by token"),
        ({"nodes": {"revisions": "all"}, "objectives": [{"name": "next_token"}, {"name": "verify"}]}, "prompts of their own"),
    ],
)
def test_lessons_that_do_not_fit_the_recipe_are_refused(changes: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RecipeConfig.model_validate_json(json.dumps({"name": "x"} | changes))


def test_a_verifier_beside_them_sees_incorrect_replies_that_are_not_taught(bench: Workbench) -> None:
    found = units(bench, recipe_of("none", Verify(name="verify")))
    assert {graph.nodes[0].taught.weight for graph in found if not graph.nodes[0].correct} == {0}
    assert all(len(graph.nodes) == 1 for graph in found)
