"""Single and self-consistency: one agent, once or several times, alone."""

from __future__ import annotations

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import CONFIDENCE
from magdi_ray.debate.self_consistency import SelfConsistency
from magdi_ray.debate.single import Single
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
QUESTION = Question("q", "How many eggs?", "18")


def play(rules: DebateProtocol, *texts: str) -> Debate:
    debate = rules.start(QUESTION, ["ann"])
    replies = [Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m") for text in texts]
    return rules.advance(debate, rules.next_asks(debate), replies)


def test_a_single_agent_is_asked_once_and_right_or_wrong_by_itself() -> None:
    [ask] = Single(TASK).next_asks(Single(TASK).start(QUESTION, ["ann"]))
    assert (ask.agent, ask.round, ask.shown, ask.sample, ask.role) == ("ann", 0, (), 0, "debater")
    assert ask.messages[0].content.endswith("without units.\n\nReason step by step before you answer.")
    debate = play(Single(TASK), "It is 18.")
    assert (debate.answer, debate.agreement, debate.stopped, Single(TASK).next_asks(debate)) == ("18", 1.0, "consensus", ())


def test_a_single_reply_that_cannot_be_read_is_no_answer() -> None:
    debate = play(Single(TASK), "Hm.")
    assert (debate.answer, debate.agreement, debate.stopped) == (None, 0.0, "rounds")


def test_samples_are_draws_from_one_message() -> None:
    rules = SelfConsistency(TASK, samples=4)
    asks = rules.next_asks(rules.start(QUESTION, ["ann"]))
    assert [ask.sample for ask in asks] == [0, 1, 2, 3]
    assert {(ask.agent, ask.round, ask.messages, ask.shown) for ask in asks} == {("ann", 0, asks[0].messages, ())}


def test_the_vote_is_over_the_samples() -> None:
    debate = play(SelfConsistency(TASK, samples=4), "7", "18", "hm", "18")
    assert (debate.answer, debate.agreement, debate.stopped) == ("18", 0.5, "rounds")
    assert play(SelfConsistency(TASK, samples=2), "18", "18.0").stopped == "consensus"
    weighted = SelfConsistency(TASK, samples=3, decision=CONFIDENCE)
    assert play(weighted, "7\nConfidence: 1.0", "18\nConfidence: 0.1", "18").answer == "7"


def test_samples_are_nodes_without_edges() -> None:
    mag = build_mag(play(SelfConsistency(TASK, samples=3), "7", "18", "18"), TASK)
    assert [(node.agent, node.round, node.correct) for node in mag.nodes] == [("ann", 0, c) for c in (False, True, True)]
    assert mag.edges == ()
