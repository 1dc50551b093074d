"""What a student reads of a graph, and the books of what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magdi_ray.agents.base import Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.config.base import content_hash, shaping
from magdi_ray.config.recipes import LabelConfig, NodeSelection, RecipeConfig, resolve_recipe
from magdi_ray.distill.labels import mistaught
from magdi_ray.distill.tokens import GraphTokens, NodeTokens, best_agent, dealt, select_nodes, tokenise
from magdi_ray.graph.text import drop_agreement, student_reply
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench, make_mag


@pytest.mark.parametrize(
    ("reasoning", "left"),
    [
        ("I agree with the others.", ""),
        ("I agree with the others", ""),
        ("Yes, I completely agree with agent 2. 3 + 4 = 7.", "3 + 4 = 7."),
        ("3 + 4 = 7. I disagree with the second solution.", "3 + 4 = 7."),
        ("I agree because 3 * 4 = 12.", "I agree because 3 * 4 = 12."),
        ("I still agree with my previous answer of 12.5. He paid $12.50.", "He paid $12.50."),
        ("They all agree on the price. So 5.", "They all agree on the price. So 5."),
        ("8 * 3 = 24 . 24 - 9 = 15 .", "8 * 3 = 24 . 24 - 9 = 15 ."),
        ("", ""),
    ],
)
def test_only_sentences_that_say_nothing_but_agreement_are_removed(reasoning: str, left: str) -> None:
    assert drop_agreement(reasoning) == left


def test_a_node_with_nothing_but_agreement_is_skipped_and_counted(bench: Workbench) -> None:
    mag = MAGS[1]
    empty = replace(mag, nodes=(replace(mag.nodes[0], reasoning="I agree with the others"), *mag.nodes[1:]))
    done = tokenise([empty], Gsm8k(), tokenizer=bench.tokenizer, recipe=resolve_recipe("level4"), max_length=256)
    assert len(done.graphs[0].nodes) == 2
    assert done.skipped_nodes == {"no reasoning left to teach": 1}


def test_a_student_is_taught_the_reasoning_and_then_the_answer_sentence(bench: Workbench) -> None:
    graph = bench.graphs()[0]
    assert bench.tokenizer.decode(graph.nodes[0].reply_ids) == "She has 1 eggs and sells some.\nThe answer is 18.</s>"


def test_the_prompt_is_what_an_engine_would_send(bench: Workbench) -> None:
    prompt = Gsm8k().prompt(MAGS[0].question)
    assert list(bench.graphs()[0].prompt_ids) == encode_prompt(bench.tokenizer, [Message("user", prompt)])


def test_an_unparsed_node_keeps_its_reasoning_and_is_incorrect() -> None:
    node = MAGS[2].nodes[1]
    assert (node.status, node.correct) == ("unparsed", False)
    assert student_reply(Gsm8k(), node) == "She has 4 eggs and sells some."


def test_a_node_longer_than_the_student_can_read_is_counted(bench: Workbench) -> None:
    done = tokenise(MAGS[:1], Gsm8k(), tokenizer=bench.tokenizer, recipe=resolve_recipe("level4"), max_length=12)
    assert done.graphs == ()
    assert done.skipped_nodes == {"longer than max_length 12": 6}
    assert done.skipped_graphs == {"no usable node": 1}


def test_recipes_without_structure_do_not_forward_incorrect_nodes(bench: Workbench) -> None:
    assert {node.correct for graph in bench.graphs("level2") for node in graph.nodes} == {True}
    assert {node.correct for graph in bench.graphs("level4") for node in graph.nodes} == {True, False}


def test_level_1_learns_the_correct_first_replies_of_the_best_agent(bench: Workbench) -> None:
    graphs = bench.graphs("level1")
    assert best_agent(MAGS) == "a"
    assert [[node.key for node in graph.nodes] for graph in graphs] == [["q1/0"], ["q2/0"], ["q4/0"]]


def test_the_best_agent_has_the_most_correct_first_replies() -> None:
    assert best_agent([make_mag(1, ("5", "18", "4")), make_mag(2, ("18", "18", "4"))]) == "b"


def test_nodes_are_chosen_by_agent_and_round() -> None:
    selection = NodeSelection(agents=("b", "c"), rounds=(1,))
    assert select_nodes(MAGS[0], selection, "") == [4, 5]


def test_critics_and_judges_are_not_learned_from_unless_asked_for() -> None:
    nodes = tuple(replace(node, role="critic") if i == 4 else node for i, node in enumerate(MAGS[0].nodes))
    mag = replace(MAGS[0], nodes=nodes)
    assert 4 not in select_nodes(mag, NodeSelection(), "")
    assert 4 in select_nodes(mag, NodeSelection(roles=("debater", "critic")), "")


def test_edges_follow_the_nodes_that_are_kept(bench: Workbench) -> None:
    nodes = tuple(replace(node, reasoning="I agree.") if i == 1 else node for i, node in enumerate(MAGS[0].nodes))
    [graph] = bench.graphs("level4", (replace(MAGS[0], nodes=nodes),))
    assert [node.key for node in graph.nodes] == ["q1/0", "q1/2", "q1/3", "q1/4", "q1/5"]
    assert set(graph.edges) == {(source, target) for source in (0, 1) for target in (2, 3, 4)}


def test_without_structure_every_correct_node_is_a_unit_of_its_own(bench: Workbench) -> None:
    graphs = bench.graphs("level2")
    assert all(len(graph.nodes) == 1 and graph.edges == () for graph in graphs)
    together = [node.key for graph in bench.graphs("level4") for node in graph.nodes if node.correct]
    assert [graph.nodes[0].key for graph in graphs] == together


def test_an_unlabelled_graph_is_counted_not_guessed(bench: Workbench) -> None:
    nodes = tuple(replace(node, correct=None) for node in MAGS[0].nodes)
    unlabelled = replace(MAGS[0], labels="none", nodes=nodes)
    done = tokenise([unlabelled], Gsm8k(), tokenizer=bench.tokenizer, recipe=resolve_recipe("level4"), max_length=256)
    assert done.skipped_graphs == {"unlabelled": 1}


def test_a_published_solution_is_the_one_correct_node_of_its_question(bench: Workbench) -> None:
    solved = replace(MAGS[0], question=replace(MAGS[0].question, solution="9 * 2 = 18"), labels="none")
    [graph] = bench.graphs("sft_gold", (solved,))
    [node] = graph.nodes
    assert (node.correct, node.key, graph.edges) == (True, "q1/solution", ())
    assert bench.tokenizer.decode(node.reply_ids) == "9 * 2 = 18\nThe answer is 18.</s>"


def test_questions_without_a_published_solution_are_counted(bench: Workbench) -> None:
    done = tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=resolve_recipe("sft_gold"), max_length=256)
    assert (done.graphs, done.skipped_graphs) == ((), {"no published solution": 4})


def test_preferences_are_taken_over_the_nodes_that_contrast_is_taken_over(bench: Workbench) -> None:
    assert bench.graphs("dpo") == bench.graphs("level3")


def test_the_best_agent_is_the_best_under_the_labels_of_the_recipe(bench: Workbench) -> None:
    mags = [replace(make_mag(n, ("18", "7", "7")), answer="7") for n in (1, 2)]
    recipe = resolve_recipe("level1").model_copy(update={"labels": LabelConfig(source="vote")})
    done = tokenise(mags, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256)
    assert [graph.nodes[0].key for graph in done.graphs] == ["q1/1", "q2/1"]


def numbered(*correct: bool, edges: tuple[tuple[int, int], ...] = ()) -> GraphTokens:
    nodes = tuple(NodeTokens((place,), right, f"q/{place}") for place, right in enumerate(correct))
    return GraphTokens("q", (9,), nodes, edges, tuple(range(len(edges))), 0.5, tuple(not right for right in correct))


@pytest.mark.parametrize(
    ("correct", "together", "hands"),
    [
        ((True, True, False, False), 2, [(0, 2), (1, 3)]),
        ((True, False, True, False, True), 2, [(0, 1), (2, 3), (4,)]),
        ((False, False, False), 2, [(0, 2), (1,)]),
        ((True, False, True), 3, [(0, 1, 2)]),
        ((True, False, True), None, [(0, 1, 2)]),
    ],
)
def test_a_graph_is_dealt_out_over_units_that_hold_both_kinds_of_replies(
    correct: tuple[bool, ...], together: int | None, hands: list[tuple[int, ...]]
) -> None:
    parts = dealt(numbered(*correct), together)
    assert [tuple(node.reply_ids[0] for node in part.nodes) for part in parts] == hands
    assert all(part.compared == tuple(not node.correct for node in part.nodes) for part in parts)
    assert {part.weight for part in parts} == {0.5}


def test_edges_within_a_unit_stay_with_their_types_and_others_are_lost() -> None:
    whole = numbered(True, True, False, False, edges=((0, 1), (0, 2), (1, 3), (2, 3)))
    assert [(part.edges, part.types) for part in dealt(whole, 2)] == [(((0, 1),), (1,)), (((0, 1),), (2,))]


def test_a_recipe_that_deals_graphs_out_learns_every_reply_once(bench: Workbench) -> None:
    whole, cut = (
        RecipeConfig(name="x", nodes=NodeSelection(together=together), objectives=resolve_recipe("level4").objectives)
        for together in (None, 2)
    )
    found = [tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs for recipe in (whole, cut)]
    keys = [sorted(node.key for graph in graphs for node in graph.nodes) for graphs in found]
    assert keys[0] == keys[1]
    assert max(len(graph.nodes) for graph in found[1]) == 2


def test_a_recipe_hashes_as_it_did_before_settings_were_added_that_it_does_not_use() -> None:
    before = "aad7ddc240decee4093fd1490a03aafa98642a71d2a66c8e593f24e5b9f9fbdb"
    assert content_hash(resolve_recipe("level4")) == before


def test_a_setting_that_is_not_used_leaves_no_trace_in_a_recipe() -> None:
    assert "together" not in NodeSelection().model_dump()
    assert NodeSelection(together=2).model_dump()["together"] == 2
    assert content_hash(NodeSelection()) != content_hash(NodeSelection(together=2))
    assert "together" not in shaping(NodeSelection())


@pytest.mark.parametrize("control", ["shuffled_labels", "shuffled_edges"])
def test_a_control_keeps_the_pairs_and_edges_of_every_unit(bench: Workbench, control: str) -> None:
    found = []
    for chosen in ("none", control):
        terms = resolve_recipe("level4").objectives
        recipe = RecipeConfig(name="x", nodes=NodeSelection(together=2), objectives=terms, control=chosen)  # type: ignore[arg-type]
        found.append(tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs)
    for part, seen in zip(*found, strict=True):
        assert seen.nodes == part.nodes
        assert len(seen.edges) == len(part.edges)
        assert sum(seen.compared or [node.correct for node in part.nodes]) == sum(node.correct for node in part.nodes)


def test_shuffled_targets_teach_as_many_replies_of_a_graph_whichever() -> None:
    mag, places = MAGS[0], range(1, len(MAGS[0].nodes))
    found = [mistaught(replace(mag, question=replace(mag.question, id=str(n))), places) for n in (*range(20), 0)]
    labels = [tuple(node.correct for node in one.nodes) for one in found]
    assert {(one[0], sum(map(bool, one))) for one in labels} == {(mag.nodes[0].correct, 4)}
    assert len(set(labels)) > 5
    assert labels[0] == labels[-1]


def test_a_recipe_with_shuffled_targets_learns_wrong_replies(bench: Workbench) -> None:
    read = {}
    for control in ("none", "shuffled_targets"):
        recipe = resolve_recipe("level2").model_copy(update={"control": control})
        found = tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=recipe, max_length=256).graphs
        read[control] = {node.key for graph in found for node in graph.nodes if node.taught.weight}
    assert len(read["none"]) == len(read["shuffled_targets"])
    assert read["none"] != read["shuffled_targets"]
