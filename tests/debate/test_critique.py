"""Critique: who speaks when, what they see, and when the answer stands."""

from __future__ import annotations

from magdi_ray.agents.base import Reply
from magdi_ray.debate.critique import Critique
from magdi_ray.debate.transcript import Debate
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import Edge
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
QUESTION = Question("q", "How many eggs?", "18")
RULES = Critique(TASK, rounds=2)


def play(*rounds: tuple[str, ...], rules: Critique = RULES) -> Debate:
    debate = rules.start(QUESTION, ["ann", "bob", "cleo"])
    for texts in rounds:
        replies = [Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m") for text in texts]
        debate = rules.advance(debate, rules.next_asks(debate), replies)
    return debate


def test_the_first_agent_answers_the_others_criticise_and_the_first_revises() -> None:
    rounds = [("7",), ("No: 18", "Hm: 9"), ("8",), ("18", "18")]
    asked = [[(a.agent, a.round, a.role, a.shown) for a in RULES.next_asks(play(*rounds[:n]))] for n in range(5)]
    assert asked == [
        [("ann", 0, "debater", ())],
        [("bob", 1, "critic", (0,)), ("cleo", 1, "critic", (0,))],
        [("ann", 2, "debater", (0, 1, 2))],
        [("bob", 3, "critic", (3,)), ("cleo", 3, "critic", (3,))],
        [("ann", 4, "debater", (3, 4, 5))],
    ]


def test_a_critic_sees_the_reply_and_is_asked_for_an_answer_of_its_own() -> None:
    text = RULES.next_asks(play(("So it is 7.",)))[0].messages[0].content
    assert text.startswith("How many eggs?")
    assert "This is another agent's reply: ```So it is 7.```" in text
    assert text.endswith("Then answer the question yourself.")


def test_the_author_sees_its_reply_and_every_criticism() -> None:
    text = RULES.next_asks(play(("So it is 7.",), ("No: 18", "Hm: 9")))[0].messages[0].content
    assert "This was your reply: ```So it is 7.```" in text
    assert "One agent's criticism: ```No: 18```\n\nOne agent's criticism: ```Hm: 9```" in text


def test_who_said_nothing_is_not_shown() -> None:
    [critic, _] = RULES.next_asks(play(("",)))
    assert (critic.shown, "gave no reply" in critic.messages[0].content) == ((), True)
    [author] = RULES.next_asks(play(("",), ("", " ")))
    assert (author.shown, "Nobody criticised it." in author.messages[0].content) == ((), True)
    assert "your reply" not in author.messages[0].content


def test_critics_who_give_the_same_answer_end_it() -> None:
    debate = play(("18",), ("Right, 18", "18.0"))
    assert (debate.answer, debate.agreement, debate.stopped, RULES.next_asks(debate)) == ("18", 1.0, "consensus", ())


def test_it_ends_after_the_last_revision() -> None:
    debate = play(("7",), ("18", "9"), ("8",), ("18", "18"), ("18",))
    assert (debate.answer, debate.agreement, debate.stopped, debate.rounds) == ("18", 1.0, "rounds", 5)
    assert len(debate.turns) == RULES.most_calls(3) == 7


def test_a_revision_that_cannot_be_read_takes_nothing_back() -> None:
    debate = play(("7",), ("18", "9"), ("Hm.",), ("18", "7"), ("",))
    assert (debate.answer, debate.agreement, debate.stopped) == ("7", 1 / 3, "rounds")


def test_critics_agreeing_with_each_other_or_with_nothing_do_not_end_it() -> None:
    assert play(("7",), ("18", "18")).stopped == "running"
    assert play(("hm",), ("hm", "hm")).stopped == "running"
    silent = play(("hm",), ("18", "18"), ("hm",), ("18", "18"), ("hm",))
    assert (silent.answer, silent.agreement, silent.stopped) == (None, 0.0, "rounds")


def test_criticism_has_edges_of_its_own() -> None:
    mag = build_mag(play(("7",), ("No: 18", "Hm: 9"), ("18",), rules=Critique(TASK, rounds=1)), TASK)
    assert [node.role for node in mag.nodes] == ["debater", "critic", "critic", "debater"]
    assert mag.edges == (
        Edge(0, 1, "peer"),
        Edge(0, 2, "peer"),
        Edge(0, 3, "self"),
        Edge(1, 3, "critique"),
        Edge(2, 3, "critique"),
    )
