"""The books notice whatever a run may have lost, doubled, repeated or changed; what is right they leave alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.chaos.audit import account_of
from tests.chaos.books import Account, Graph, Node, Stage, Start, repeated, spare, unbalanced

NODES = tuple(Node(agent, 0, f"{agent} : 4 . answer 4", "4", True, "ok", 0.9) for agent in ("ada", "ben"))
NODES += (Node("ada", 1, "answer 4", "4", True, "ok", 0.8),)
GRAPHS = tuple(Graph(name, "train", "4", "4", "rounds", NODES, ((0, 2, "self"), (1, 2, "peer"))) for name in ("q1", "q2", "q3"))
STAGES = (Stage("debates", {"a": 1}, {"a": 1}, "d", "d", {}), Stage("graphs", {"b": 2}, {"b": 2}, "g", "g", {"debates": "d"}))
QUIET = Account(
    debated={"q1": 1, "q2": 1, "q3": 1},
    graphs=GRAPHS,
    calls={"c1": 1, "c2": 1},
    steps={0: 2.0, 1: 1.5, 2: 1.2},
    starts=(Start(0, 0),),
    answers={"student q4": "7 right", "student q5": "8 wrong"},
    served=("answer 7", "answer 8"),
    stages=STAGES,
)


def told(spare_calls: int = 0, **changes: Any) -> str:
    """What is not balanced in the quiet run with some entries changed: one line."""
    lines = unbalanced(replace(QUIET, **changes), QUIET, spare_calls=spare_calls)
    assert len(lines) == 1, lines
    return lines[0]


def node(**changes: Any) -> tuple[Graph, ...]:
    """The graphs with the first node of the second changed."""
    changed = replace(GRAPHS[1], nodes=(replace(NODES[0], **changes), *NODES[1:]))
    return (GRAPHS[0], changed, GRAPHS[2])


def test_a_quiet_run_balances_against_itself() -> None:
    assert unbalanced(QUIET, QUIET, spare_calls=0) == []


def test_an_account_that_was_written_down_is_the_same_when_it_is_read() -> None:
    assert account_of(json.loads(json.dumps(asdict(QUIET)))) == QUIET


def test_a_question_that_was_lost_is_named() -> None:
    assert told(debated={"q1": 1, "q3": 1}) == "debates: lost questions: q2"
    assert told(graphs=GRAPHS[:2]) == "graphs: lost questions: q3"


def test_a_question_that_was_debated_twice_is_named() -> None:
    assert told(debated={"q1": 1, "q2": 2, "q3": 1}) == "debates: doubled questions: q2"
    lines = unbalanced(replace(QUIET, graphs=(*GRAPHS, GRAPHS[0])), QUIET, spare_calls=0)
    assert "graphs: doubled questions: q1" in lines


def test_a_question_nobody_asked_and_one_that_failed_are_named() -> None:
    assert told(debated=dict(QUIET.debated) | {"q9": 1}) == "debates: questions nobody asked: q9"
    assert told(failed={"q2": "EngineError: gone"}) == "debates: failed questions: q2 (EngineError: gone)"


def test_calls_are_repeated_only_as_often_as_they_can_have_been_in_flight() -> None:
    assert repeated({"c1": 3, "c2": 1}) == 2
    assert unbalanced(replace(QUIET, calls={"c1": 3, "c2": 1}), QUIET, spare_calls=2) == []
    assert told(spare_calls=1, calls={"c1": 3, "c2": 1}) == "calls: 2 were repeated, at most 1 can have been in flight"
    assert spare(concurrency=8, kills=2, torn=1) == 17


def test_a_call_the_quiet_run_did_not_make_and_one_that_is_missing_are_named() -> None:
    assert told(calls={"c1": 1, "c2": 1, "c9": 1}) == "calls: made of nobody's wish: c9"
    assert told(calls={"c1": 1}) == "calls: never made: c2"


def test_a_training_that_began_anew_although_there_was_a_checkpoint_is_found() -> None:
    said = told(starts=(Start(0, 0), Start(0, 2)))
    assert said == "training: start 2 was at step 0, and a whole checkpoint of step 2 was there"
    assert unbalanced(replace(QUIET, starts=(Start(0, 0), Start(2, 2))), QUIET, spare_calls=0) == []


def test_a_training_that_goes_on_from_an_older_or_an_unsafe_checkpoint_is_found() -> None:
    assert "was at step 1, and a whole checkpoint of step 2" in told(starts=(Start(0, 0), Start(1, 2)))
    assert "beyond the newest whole one" in told(starts=(Start(0, 0), Start(2, 1)))
    assert told(starts=()) == "training: it never began"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"text": "answer 5"}, "text of ada in round 0"),
        ({"answer": None}, "answer of ada in round 0"),
        ({"correct": False}, "correct of ada in round 0"),
        ({"confidence": 0.5}, "confidence of ada in round 0"),
        ({"confidence": None}, "confidence of ada in round 0"),
    ],
)
def test_a_node_that_changed_is_named(changes: dict[str, Any], what: str) -> None:
    assert told(graphs=node(**changes)) == f"graphs: changed: q2 ({what})"


def test_rounding_of_a_confidence_is_no_change() -> None:
    assert unbalanced(replace(QUIET, graphs=node(confidence=0.9 + 1e-5)), QUIET, spare_calls=0) == []


def test_an_edge_or_a_node_that_is_gone_and_another_order_are_named() -> None:
    shorter = replace(GRAPHS[0], edges=GRAPHS[0].edges[:1])
    assert told(graphs=(shorter, *GRAPHS[1:])) == "graphs: changed: q1 (edges)"
    fewer = replace(GRAPHS[0], nodes=NODES[:2])
    assert told(graphs=(fewer, *GRAPHS[1:])) == "graphs: changed: q1 (2 nodes, not 3)"
    assert told(graphs=(GRAPHS[1], GRAPHS[0], GRAPHS[2])) == "graphs: they stand in another order"


def test_a_loss_curve_that_changed_or_has_a_gap_is_found() -> None:
    assert told(steps={0: 2.0, 1: 1.5001, 2: 1.2}) == "loss: changed at step: 1 (1.50010000, not 1.50000000)"
    assert told(steps={0: 2.0, 2: 1.2}) == "loss: no line of step: 1"
    assert told(steps=dict(QUIET.steps) | {3: 1.0}) == "loss: a line too many, of step: 3"
    assert "changed at step: 1" in told(steps={0: 2.0, 1: float("nan"), 2: 1.2})


def test_an_answer_of_the_evaluation_or_of_the_endpoint_that_changed_is_found() -> None:
    assert (
        told(answers=dict(QUIET.answers) | {"student q5": "9 wrong"})
        == "evaluation: changed: student q5: '9 wrong', not '8 wrong'"
    )
    assert told(answers={"student q4": "7 right"}) == "evaluation: missing: student q5"
    assert told(served=("answer 7", "answer 9")) == "served: changed: 1: 'answer 9', not 'answer 8'"
    assert told(served=("answer 7",)) == "served: missing: 1"


def test_a_stage_whose_files_or_inputs_are_not_those_of_its_manifest_is_found() -> None:
    debates, graphs = STAGES
    assert "are not those" in told(stages=(replace(debates, found={}), graphs))
    assert "other contents" in told(stages=(debates, replace(graphs, hashed="x")))
    assert told(stages=(debates, replace(graphs, inputs={"debates": "x"}))) == "stages: graphs was made from another debates"
    assert told(stages=(debates,)) == "stages: not finished: graphs"


def test_an_unfinished_place_that_says_it_is_finished_and_what_still_runs_are_named() -> None:
    assert told(claims=("attempts/1/student",)) == "attempts: attempts/1/student says that it is finished"
    assert told(left=("raylet 123",)) == "left running: raylet 123"
