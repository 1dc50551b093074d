"""From a debate to its graph: nodes are replies, edges are what was shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.transcript import Debate
from magdi_ray.errors import GraphError
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
QUESTION = Question("q", "How many?", "18")


def reply(text: str) -> Reply:
    return Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m")


def discuss(*rounds: tuple[str, ...]) -> Debate:
    protocol = Reconcile(TASK, rounds=len(rounds) - 1)
    debate = protocol.start(QUESTION, [f"agent-{i}" for i in range(len(rounds[0]))])
    for texts in rounds:
        debate = protocol.advance(debate, protocol.next_asks(debate), [reply(text) for text in texts])
    return debate


def test_every_reply_of_the_previous_round_is_shown_to_everyone() -> None:
    mag = build_mag(discuss(("1", "2", "3"), ("4", "5", "6")), TASK)
    edges = {(edge.source, edge.target): edge.type for edge in mag.edges}
    assert edges == {(s, t): "self" if t == s + 3 else "peer" for s in range(3) for t in range(3, 6)}


def test_no_edge_runs_within_a_round_or_backward_in_time() -> None:
    mag = build_mag(discuss(("1", "2", "3"), ("4", "5", "6"), ("7", "8", "9"), ("1", "2", "3")), TASK)
    assert len(mag.edges) == 27
    assert all(mag.nodes[e.target].round == mag.nodes[e.source].round + 1 for e in mag.edges)


def test_every_agent_is_shown_others_the_first_one_too() -> None:
    mag = build_mag(discuss(("1", "2", "3"), ("4", "5", "6")), TASK)
    shown = {agent: sum(e.type == "peer" and mag.nodes[e.target].agent == agent for e in mag.edges) for agent in mag.agents}
    assert shown == {"agent-0": 2, "agent-1": 2, "agent-2": 2}


def test_an_early_consensus_leaves_no_placeholder_nodes() -> None:
    mag = build_mag(discuss(("18", "18", "18")), TASK)
    assert len(mag.nodes) == 3
    assert mag.edges == ()
    assert mag.stopped == "consensus"


def test_an_unreadable_reply_never_takes_over_another_answer() -> None:
    mag = build_mag(discuss(("18", "no idea"), ("18", "18")), TASK)
    lost = mag.nodes[1]
    assert (lost.answer, lost.status, lost.correct) == (None, "unparsed", False)
    assert all(edge.source != 1 for edge in mag.edges)


def test_labels_are_measured_against_gold_or_vote_or_not_at_all() -> None:
    debate = discuss(("7", "7", "18"))
    assert [n.correct for n in build_mag(debate, TASK).nodes] == [False, False, True]
    assert [n.correct for n in build_mag(debate, TASK, labels="vote").nodes] == [True, True, False]
    assert [n.correct for n in build_mag(debate, TASK, labels="none").nodes] == [None, None, None]


def test_a_judges_labels_fall_back_to_a_consensus_and_never_to_a_vote() -> None:
    agreed, split = discuss(("7", "7")), discuss(("7", "7", "18"))
    assert [n.correct for n in build_mag(agreed, TASK, labels="judge").nodes] == [True, True]
    assert build_mag(split, TASK, labels="judge").labels == "none"
    judged = replace(split, turns=(*split.turns, replace(split.turns[2], round=1, role="judge")))
    assert [n.correct for n in build_mag(judged, TASK, labels="judge").nodes] == [False, False, True, True]


def test_a_graph_without_a_reference_is_unlabelled() -> None:
    mag = build_mag(replace(discuss(("7",)), question=Question("q", "?")), TASK)
    assert mag.labels == "none"
    assert mag.nodes[0].correct is None


def test_reasoning_loses_answer_and_confidence_statements() -> None:
    [node] = build_mag(discuss(("9*2=18.\nThe answer is 18.\nConfidence: 0.9",)), TASK).nodes
    assert (node.reasoning, node.answer, node.confidence) == ("9*2=18.", "18", 0.9)


def test_being_shown_a_later_reply_is_a_damaged_transcript() -> None:
    debate = discuss(("1", "2"))
    damaged = replace(debate, turns=(replace(debate.turns[0], shown=(1,)), debate.turns[1]))
    with pytest.raises(GraphError, match="shown turn 1"):
        build_mag(damaged, TASK)
