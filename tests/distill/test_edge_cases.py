"""Graphs at the edge of what can be learned from: each is handled as `distill.tokens` says, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magdi_ray.config.recipes import LabelConfig, NodeSelection, RecipeConfig, resolve_recipe
from magdi_ray.distill.batch import collate
from magdi_ray.distill.dataset import TokenFacts
from magdi_ray.distill.plan import measure
from magdi_ray.distill.tokens import TokenisedGraphs, tokenise
from magdi_ray.graph.schema import Edge, Mag
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench, make_mag

ALL_WRONG = make_mag(1, ("4", "5", "6"))
NOTHING_RIGHT = {
    "no correct node: teaches no next token": 1,
    "one kind of node: no pair": 1,
    "node without next-token loss (incorrect)": 3,
}


def read(bench: Workbench, recipe: str | RecipeConfig, *mags: Mag, max_length: int = 256) -> TokenisedGraphs:
    chosen = recipe if isinstance(recipe, RecipeConfig) else resolve_recipe(recipe)  # type: ignore[arg-type]
    return tokenise(mags, Gsm8k(), tokenizer=bench.tokenizer, recipe=chosen, max_length=max_length)


def test_a_row_whose_labels_are_all_masked_is_compared_and_supervises_no_token(bench: Workbench) -> None:
    done = read(bench, "level4", make_mag(1, ("18", "4")))
    assert done.notes == {"node without next-token loss (incorrect)": 1}
    [right, wrong] = done.graphs[0].nodes
    only_wrong = replace(done.graphs[0], nodes=(wrong,), edges=())
    assert collate([only_wrong], pad_id=0).targets_M.numel() == 0
    assert collate(done.graphs, pad_id=0).targets_M.numel() == len(right.reply_ids)


def test_a_row_whose_labels_are_all_masked_is_left_out_where_nothing_compares_it(bench: Workbench) -> None:
    done = read(bench, "level2", make_mag(1, ("18", "4")))
    assert [node.key for graph in done.graphs for node in graph.nodes] == ["q1/0"]
    assert done.skipped_nodes == {"incorrect, and no objective uses it": 1}


def test_a_graph_with_no_correct_node_is_kept_for_its_structure_and_counted(bench: Workbench) -> None:
    done = read(bench, "level4", ALL_WRONG)
    assert (len(done.graphs[0].nodes), done.notes) == (3, NOTHING_RIGHT)
    assert measure(done.graphs[0], next_token=True, loss_on_prompt=False).supervised == 0


def test_a_graph_with_no_correct_node_is_left_out_where_only_correct_ones_are_learned_from(bench: Workbench) -> None:
    done = read(bench, "level2", ALL_WRONG)
    assert (done.graphs, done.skipped_graphs) == ((), {"no usable node": 1})
    assert done.skipped_nodes == {"incorrect, and no objective uses it": 3}


def test_a_single_node_is_a_graph_without_edges_and_pairs(bench: Workbench) -> None:
    done = read(bench, "level4", make_mag(1, ("18",), agents=("a",)))
    assert (len(done.graphs[0].nodes), done.graphs[0].edges, done.graphs[0].pairs) == (1, (), 0)
    assert done.notes == {"a single node": 1, "one kind of node: no pair": 1}


def test_a_graph_of_200_nodes_is_one_unit_and_none_of_them_is_lost(bench: Workbench) -> None:
    agents = tuple(f"agent-{i}" for i in range(100))
    done = read(bench, "level4", make_mag(1, ("18", "4") * 100, agents=agents))
    [graph] = done.graphs
    assert (len(graph.nodes), len(graph.edges), graph.pairs) == (200, 100 * 100, 100 * 100)
    assert TokenFacts.of(done).nodes == 200
    assert done.skipped_nodes == done.skipped_graphs == {}


def test_a_reply_longer_than_the_context_is_left_out_whole_and_its_edges_with_it(bench: Workbench) -> None:
    long = replace(MAGS[0].nodes[1], reasoning="She sells an egg. " * 200)
    mag = replace(MAGS[0], nodes=(MAGS[0].nodes[0], long, *MAGS[0].nodes[2:]))
    done = read(bench, "level4", mag)
    assert [node.key for node in done.graphs[0].nodes] == ["q1/0", "q1/2", "q1/3", "q1/4", "q1/5"]
    assert done.skipped_nodes == {"longer than max_length 256": 1}


@pytest.mark.parametrize("recipe", ["level2", "level4"])
def test_a_reply_may_fill_the_context_to_the_last_token(bench: Workbench, recipe: str) -> None:
    graph = bench.graphs("level4", (make_mag(2, ("18", "18", "18")),))[0]
    length = len(graph.prompt_ids) + max(len(node.reply_ids) for node in graph.nodes)
    assert read(bench, recipe, make_mag(2, ("18", "18", "18")), max_length=length).skipped_nodes == {}
    assert read(bench, recipe, make_mag(2, ("18", "18", "18")), max_length=length - 1).skipped_nodes != {}


def test_an_empty_reply_is_left_out_and_told_apart_from_an_answer_without_reasoning(bench: Workbench) -> None:
    silent = replace(MAGS[0].nodes[0], text="", reasoning=" ", answer=None, status="unparsed", correct=False)
    terse = replace(MAGS[0].nodes[1], reasoning="")
    mag = replace(MAGS[0], nodes=(silent, terse, MAGS[0].nodes[2]), edges=())
    done = read(bench, "level4", mag)
    assert [node.key for node in done.graphs[0].nodes] == ["q1/2"]
    assert done.skipped_nodes == {"empty reply": 1, "no reasoning left to teach": 1}


@pytest.mark.parametrize("recipe", ["level1", "level2", "level4", "sft_gold", "dpo"])
def test_every_node_and_every_graph_is_learned_from_or_counted(bench: Workbench, recipe: str) -> None:
    solved = replace(MAGS[1], question=replace(MAGS[1].question, solution="3 * 6 = 18"))
    none = replace(ALL_WRONG, labels="none", nodes=tuple(replace(node, correct=None) for node in ALL_WRONG.nodes))
    mags = (*MAGS[2:], solved, none, replace(ALL_WRONG, nodes=(), edges=()))
    done = read(bench, recipe, *mags)
    assert TokenFacts.of(done).graphs + sum(done.skipped_graphs.values()) == len(mags)
    if recipe != "sft_gold":
        taken = sum(len(graph.nodes) for graph in done.graphs)
        assert taken + sum(done.skipped_nodes.values()) == sum(len(mag.nodes) for mag in mags if mag.labels != "none")


def test_an_edge_into_a_lost_node_is_lost_and_no_other_takes_its_place(bench: Workbench) -> None:
    empty = replace(MAGS[0].nodes[3], reasoning="")
    nodes = tuple(empty if i == 3 else node for i, node in enumerate(MAGS[0].nodes))
    [graph] = read(bench, "level4", replace(MAGS[0], nodes=nodes, edges=(Edge(0, 3, "self"), Edge(0, 4, "peer")))).graphs
    assert graph.edges == ((0, 3),)


def test_a_recipe_can_keep_one_kind_of_node_and_counts_the_others(bench: Workbench) -> None:
    nodes = NodeSelection(correct="incorrect")
    recipe = RecipeConfig(name="x", nodes=nodes, objectives=resolve_recipe("level4").objectives[1:2])
    done = read(bench, recipe, make_mag(1, ("18", "4", "5")))
    assert [node.key for node in done.graphs[0].nodes] == ["q1/1", "q1/2"]
    assert done.skipped_nodes == {"not selected by the recipe": 1}


def test_labels_of_the_recipe_decide_what_is_taught(bench: Workbench) -> None:
    mag = replace(make_mag(1, ("18", "7", "7")), answer="7", agreement=2 / 3)
    recipe = RecipeConfig(name="x", labels=LabelConfig(source="vote"), objectives=resolve_recipe("level2").objectives)
    assert [graph.nodes[0].key for graph in read(bench, recipe, mag).graphs] == ["q1/1", "q1/2"]
    strict = recipe.model_copy(update={"labels": LabelConfig(source="vote", min_agreement=0.9)})
    assert read(bench, strict, mag).skipped_graphs == {"agreement below 0.9": 1}
