"""Students at the table: they answer first, the others are shown what they said, and go on without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import MAJORITY, Decision
from magdi_ray.config.recipes import NodeSelection
from magdi_ray.config.sections import DebateConfig
from magdi_ray.debate.discussion import Discussion
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.society import Society
from magdi_ray.debate.transcript import Debate
from magdi_ray.distill.tokens import first_correct, select_nodes
from magdi_ray.evaluate.answers import VOTE, debate_answers
from magdi_ray.evaluate.report.dialogue import standings
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.stats import describe
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
ROUND_TABLE = Reconcile(TASK, 2, decision=MAJORITY, students=("pupil",))


def play(protocol: Discussion, *rounds: Mapping[str, str]) -> Debate:
    agents = {agent: None for said in rounds for agent in said}
    debate = protocol.start(Question("q", "How many eggs?", "18"), list(agents))
    for said in rounds:
        asks = protocol.next_asks(debate)
        assert {ask.agent for ask in asks} == set(said)
        replies = [Reply(said[ask.agent], 1, 1, confidence=None, finish_reason="stop", model="m") for ask in asks]
        debate = protocol.advance(debate, asks, replies)
    return debate


@pytest.mark.parametrize("protocol", [ROUND_TABLE, Society(TASK, 2, students=("pupil",))])
def test_a_student_speaks_once_and_is_heard_by_all_others(protocol: Discussion) -> None:
    opening = {"ada": "18", "ben": "18", "pupil": "It is 7."}
    assert all("7" in ask.messages[-1].content for ask in protocol.next_asks(play(protocol, opening)))
    debate = play(protocol, opening, {"ada": "18", "ben": "17"})
    assert [turn.agent for turn in debate.turns] == ["ada", "ben", "pupil", "ada", "ben"]
    assert {(2, 3), (2, 4)} <= {(edge.source, edge.target) for edge in build_mag(debate, TASK).edges}


def test_a_student_has_no_ballot_once_it_is_silent() -> None:
    opening = {"ada": "18", "ben": "7", "pupil": "7"}
    assert play(ROUND_TABLE, opening).stopped == "running"
    debate = play(ROUND_TABLE, opening, {"ada": "18", "ben": "18"})
    assert (debate.answer, debate.agreement, debate.stopped) == ("18", 1.0, "consensus")


def test_a_debate_ends_at_once_where_the_student_says_what_all_say() -> None:
    debate = play(ROUND_TABLE, {"ada": "18", "ben": "18", "pupil": "18"})
    assert (debate.stopped, ROUND_TABLE.next_asks(debate)) == ("consensus", ())


def test_a_student_counts_in_no_vote_that_is_told_of_a_debate() -> None:
    debate = play(ROUND_TABLE, {"ada": "18", "ben": "7", "pupil": "7"}, {"ada": "18", "ben": "18"})
    mag = build_mag(debate, TASK)
    assert [node.role for node in mag.nodes] == ["debater", "debater", "student", "debater", "debater"]
    first, final = standings(TASK, mag, "majority")
    assert (first.agreement, final.agreement, final.consensus) == (0.5, 1.0, True)
    assert describe([mag], TASK).consensus_final == 1.0
    assert {answer.system for answer in debate_answers([mag.question], [mag], TASK)} == {"ada", "ben", VOTE}


def test_recipes_learn_from_a_student_only_where_they_say_so() -> None:
    mag = build_mag(play(ROUND_TABLE, {"ada": "18", "ben": "7", "pupil": "18"}, {"ada": "18", "ben": "18"}), TASK)
    assert select_nodes(mag, NodeSelection(), "") == [0, 1, 3, 4]
    assert select_nodes(mag, NodeSelection(roles=("debater", "student")), "") == [0, 1, 2, 3, 4]
    assert set(first_correct([mag])) == {"ada", "ben"}


def test_a_judges_decision_is_held_against_those_who_went_on() -> None:
    protocol = Reconcile(TASK, 1, decision=Decision(rule="judge", agent="judge"), students=("pupil",))
    debate = play(protocol, {"ada": "18", "ben": "7", "pupil": "7"}, {"ada": "18", "ben": "7"}, {"judge": "7"})
    assert (debate.answer, debate.agreement) == ("7", 0.5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"students": ["cy"]}, "names agents that debate"),
        ({"students": ["ada", "ben"]}, "somebody has to debate"),
        ({"students": ["ada", "ada"]}, "each of them once"),
        ({"students": ["ada"], "rounds": 0}, "nobody is shown what they said"),
        ({"students": ["ada"], "decision": {"rule": "judge", "agent": "ada"}}, "names agents that debate"),
    ],
)
def test_students_who_could_not_be_heard_are_refused(changes: dict[str, Any], told: str) -> None:
    agents = [{"name": name, "engine": {"type": "transformers", "model": name}} for name in ("ada", "ben")]
    with pytest.raises(ValidationError, match=told):
        DebateConfig.model_validate({"protocol": {"name": "reconcile"} | changes, "agents": agents}, strict=False)
