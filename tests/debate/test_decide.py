"""The decision: votes, and a judge that is asked only where there is something to decide."""

from __future__ import annotations

import pytest

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import CONFIDENCE, MAJORITY, Decision
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.society import Society
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
JUDGE = Decision(rule="judge", agent="jo")
JUDGED = [Reconcile(TASK, 1, decision=JUDGE), Society(TASK, 1, decision=JUDGE)]


def play(rules: DebateProtocol, *rounds: tuple[str, ...]) -> tuple[Debate, tuple[Ask, ...]]:
    debate = rules.start(Question("q", "How many eggs?", "18"), ["ann", "jo", "bob", "cleo"])
    for texts in rounds:
        replies = [Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m") for text in texts]
        debate = rules.advance(debate, rules.next_asks(debate), replies)
    return debate, rules.next_asks(debate)


@pytest.mark.parametrize("rules", JUDGED)
def test_a_judge_takes_no_part_in_the_debate(rules: DebateProtocol) -> None:
    asks = play(rules, ("1", "2", "3"))[1]
    assert [ask.agent for ask in asks] == ["ann", "bob", "cleo"]
    assert all(ask.role == "debater" for ask in asks)
    assert play(rules, ("18", "18", "18"))[0].stopped == "consensus"
    assert rules.most_calls(4) == 7


@pytest.mark.parametrize("rules", JUDGED)
def test_a_judge_is_asked_only_where_the_last_round_disagrees(rules: DebateProtocol) -> None:
    assert play(rules, ("1", "2", "3"), ("18", "18", "18"))[1] == ()
    debate, [ask] = play(rules, ("1", "2", "3"), ("so 4", "hm", "so 6"))
    assert (debate.stopped, ask.agent, ask.round, ask.role, ask.shown) == ("running", "jo", 2, "judge", (3, 5))
    text = ask.messages[0].content
    assert "Agent 1 thinks the answer is 4: so 4\n\nAgent 3 thinks the answer is 6: so 6" in text
    assert "hm" not in text


@pytest.mark.parametrize("rules", JUDGED)
def test_the_judges_answer_is_the_teams(rules: DebateProtocol) -> None:
    debate, asks = play(rules, ("1", "2", "3"), ("7", "7", "18"), ("It is 18.",))
    assert (debate.answer, debate.agreement, debate.stopped, asks) == ("18", 1 / 3, "rounds", ())
    assert (debate.turns[-1].role, debate.turns[-1].round) == ("judge", 2)
    assert play(rules, ("1", "2", "3"), ("7", "7", "18"), ("5",))[0].agreement == 0.0
    assert {edge.type for edge in build_mag(debate, TASK).edges if edge.target == 6} == {"peer"}


def test_a_judge_that_cannot_be_read_leaves_the_vote_by_confidence() -> None:
    texts = ("7\nConfidence: 0.2", "7\nConfidence: 0.2", "18\nConfidence: 1.0")
    debate, asks = play(JUDGED[0], ("1", "2", "3"), texts, ("I cannot tell.",))
    assert (debate.answer, debate.agreement, debate.stopped, asks) == ("18", 1 / 3, "rounds", ())


def test_where_nobody_answered_there_is_nothing_to_judge() -> None:
    debate, asks = play(JUDGED[0], ("", "", ""), ("", "hm", ""))
    assert (debate.answer, debate.agreement, debate.stopped, asks) == (None, 0.0, "rounds", ())


def test_confidence_and_majority_can_disagree() -> None:
    texts = ("7\nConfidence: 0.2", "7\nConfidence: 0.2", "18\nConfidence: 1.0", "5")
    assert play(Reconcile(TASK, 0, decision=CONFIDENCE), texts)[0].answer == "18"
    assert play(Reconcile(TASK, 0, decision=MAJORITY), texts)[0].answer == "7"
