"""ReConcile's rules: who is asked what, when it ends and who wins."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from magdi_ray.agents.base import Reply
from magdi_ray.debate.convincing import Sample
from magdi_ray.debate.reconcile import Prompts, Reconcile
from magdi_ray.debate.transcript import Debate
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
QUESTION = Question("q", "How many eggs?", "18")
RULES = Reconcile(TASK, rounds=2)


def play(debate: Debate, *texts: str, rules: Reconcile = RULES) -> Debate:
    replies = [Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m") for text in texts]
    return rules.advance(debate, rules.next_asks(debate), replies)


def start(agents: int = 2) -> Debate:
    return RULES.start(QUESTION, [f"agent-{i}" for i in range(agents)])


def test_in_round_0_everyone_is_asked_alone() -> None:
    asks = RULES.next_asks(start())
    assert [ask.agent for ask in asks] == ["agent-0", "agent-1"]
    assert all(ask.shown == () and QUESTION.text in ask.messages[0].content for ask in asks)
    assert "Several agents" not in asks[0].messages[0].content


def test_consensus_ends_the_debate_at_once() -> None:
    debate = play(start(), "18", "18.00")
    assert (debate.stopped, debate.answer, debate.agreement, debate.rounds) == ("consensus", "18", 1.0, 1)
    assert RULES.next_asks(debate) == ()


def test_the_debate_ends_after_its_last_discussion_round() -> None:
    debate = start()
    for _ in range(3):
        assert debate.stopped == "running"
        debate = play(debate, "18", "7")
    assert (debate.stopped, debate.rounds, debate.agreement) == ("rounds", 3, 0.5)
    assert RULES.next_asks(debate) == ()


def test_a_table_without_discussion_rounds_votes_at_once() -> None:
    rules = Reconcile(TASK, rounds=0)
    assert play(rules.start(QUESTION, ["a", "b"]), "18", "7", rules=rules).stopped == "rounds"


def test_views_are_grouped_by_answer_the_largest_group_first() -> None:
    text = RULES.next_asks(play(start(3), "eggs: 7", "16+2\nThe answer is 18.", "9*2 = 18"))[0].messages[0].content
    assert text.index("2 agents think the answer is 18") < text.index("1 agent thinks the answer is 7")


def test_an_agent_sees_which_view_is_its_own_and_how_sure_the_others_are() -> None:
    first, second = RULES.next_asks(play(start(), "a\nThe answer is 18.\nConfidence: 0.9", "b\nThe answer is 7."))
    assert "- You (confidence 0.90): a" in first.messages[0].content
    assert "- Agent 2: b" in first.messages[0].content
    assert "- Agent 1 (confidence 0.90): a" in second.messages[0].content
    assert "- You: b" in second.messages[0].content


def test_what_is_recorded_as_shown_is_what_the_message_quotes() -> None:
    debate = play(play(start(3), "18 one", "no idea", "7 three"), "18 four", "7 five", "7 six")
    for ask in RULES.next_asks(debate):
        assert ask.shown == (3, 4, 5)
        assert all(debate.turns[i].text in ask.messages[0].content for i in ask.shown)
        assert not any(debate.turns[i].text in ask.messages[0].content for i in (0, 1, 2))


def test_a_reply_without_an_answer_is_neither_shown_nor_replaced() -> None:
    debate = play(start(), "hmm", "18")
    assert debate.turns[0].answer is None
    assert debate.stopped == "running"
    assert all(ask.shown == (1,) and "hmm" not in ask.messages[0].content for ask in RULES.next_asks(debate))


def test_a_round_without_any_answer_is_said_to_be_one() -> None:
    debate = play(start(), "hmm", "")
    assert "Nobody gave an answer" in RULES.next_asks(debate)[0].messages[0].content


def test_nobody_answering_leaves_the_team_without_an_answer() -> None:
    debate = start()
    for _ in range(3):
        debate = play(debate, "hmm", "")
    assert (debate.answer, debate.agreement, debate.stopped) == (None, 0.0, "rounds")


def test_every_ask_wants_exactly_one_reply() -> None:
    with pytest.raises(ValueError, match="shorter"):
        play(start(2), "18")


def test_what_convinced_the_others_is_shown_in_discussions() -> None:
    taught = {"agent-0": (Sample("1 + 1?", "One and one are two.", "2"),), "agent-2": (Sample("3 - 1?", "Take one away.", "2"),)}
    rules = Reconcile(TASK, rounds=1, convincing=taught)
    debate = play(start(3), "18", "7", "7", rules=rules)
    first, second, _ = (ask.messages[0].content for ask in rules.next_asks(debate))
    assert "made Agent 3 change a wrong answer" in first
    assert "Take one away." in first
    assert "One and one" not in first
    assert "Question: 1 + 1?\nExplanation: One and one are two.\nAnswer: 2\n\nOn other questions" in second
    assert "other questions" not in rules.next_asks(rules.start(QUESTION, ["agent-0", "agent-1"]))[0].messages[0].content


def test_without_samples_a_discussion_says_nothing_of_them() -> None:
    assert RULES.next_asks(play(start(), "16+2\nThe answer is 18.", "hm"))[0].messages[0].content == (
        "How many eggs?\n\n"
        'End your answer with the sentence "The answer is N.", where N is a single number without units.\n\n'
        "Several agents, you among them, have answered this question.\n\n"
        "1 agent thinks the answer is 18:\n- You: 16+2\n\n"
        "Which of these views do you agree with, and why? Check each of their steps, then reason step by step and answer the "
        'question again. End with one line "Confidence: p", where p between 0.0 and 1.0 says how sure you are of your answer.'
    )


def test_a_prompt_with_an_unknown_name_is_refused() -> None:
    rules = Reconcile(TASK, prompts=Prompts(initial="{{ promt }}"))
    with pytest.raises(UndefinedError):
        rules.next_asks(rules.start(QUESTION, ["a"]))


def test_text_that_looks_like_a_template_stays_text() -> None:
    asks = RULES.next_asks(RULES.start(Question("q", "What is {{ 7 * 7 }}?"), ["a"]))
    assert "{{ 7 * 7 }}" in asks[0].messages[0].content
