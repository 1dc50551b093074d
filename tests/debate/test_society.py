"""Society of minds: chats that go on, and quote the others word for word."""

from __future__ import annotations

import json
from pathlib import Path

from magdi_ray.agents.base import Message, Reply
from magdi_ray.debate.society import Prompts, Society
from magdi_ray.debate.transcript import Debate
from magdi_ray.graph.formats import import_debates
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
QUESTION = Question("q", "How many eggs?", "18")
RULES = Society(TASK, rounds=2)


def play(debate: Debate, *texts: str) -> Debate:
    replies = [Reply(text, 1, 1, confidence=None, finish_reason="stop", model="m") for text in texts]
    return RULES.advance(debate, RULES.next_asks(debate), replies)


def start(agents: int = 3) -> Debate:
    return RULES.start(QUESTION, [f"agent-{i}" for i in range(agents)])


def test_the_own_chat_goes_on_and_quotes_the_others_word_for_word() -> None:
    first, second, _ = RULES.next_asks(play(start(), "It is 1.\n ", "It is 2.", "I wonder."))
    asked = RULES.next_asks(start())[0].messages
    assert first.messages[:2] == (*asked, Message("assistant", "It is 1.\n "))
    assert "One agent's reply: ```It is 2.```\n\nOne agent's reply: ```I wonder.```" in first.messages[2].content
    assert "```It is 1.\n ```\n\nOne agent's reply: ```I wonder.```" in second.messages[2].content
    assert first.shown == second.shown == (0, 1, 2)


def test_a_chat_repeats_earlier_messages_unchanged() -> None:
    debate = play(start(), "1", "2", "3")
    before = RULES.next_asks(debate)[1].messages
    after = RULES.next_asks(play(debate, "4", "5", "6"))[1]
    assert after.messages[:4] == (*before, Message("assistant", "5"))
    assert [m.role for m in after.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert after.shown == (3, 4, 5)


def test_who_said_nothing_is_neither_quoted_nor_sent_an_empty_message() -> None:
    silent, other, _ = RULES.next_asks(play(start(), " ", "2", "3"))
    assert [m.role for m in silent.messages] == ["user"]
    assert QUESTION.text in silent.messages[0].content
    assert silent.shown == other.shown == (1, 2)
    assert other.messages[2].content.count("One agent's reply") == 1


def test_an_agent_whom_nobody_answers_is_told_so() -> None:
    debate = play(start(2), "", "")
    assert all("No other agent gave a reply." in ask.messages[0].content for ask in RULES.next_asks(debate))


def test_consensus_ends_it_and_the_majority_decides() -> None:
    assert play(start(), "18", "18.0", "18").stopped == "consensus"
    debate = start()
    for _ in range(3):
        debate = play(debate, "7", "18\nConfidence: 1.0", "7")
    assert (debate.stopped, debate.answer, debate.agreement, RULES.next_asks(debate)) == ("rounds", "7", 2 / 3, ())


def test_templates_see_prompt_question_round_and_views() -> None:
    rules = Society(TASK, prompts=Prompts(discussion="{{ question.id }} {{ round }} {{ views[0].number }} {{ views[0].answer }}"))
    debate = play(rules.start(QUESTION, ["a", "b"]), "1", "2")
    assert [ask.messages[-1].content for ask in rules.next_asks(debate)] == ["q 1 2 2", "q 1 1 1"]


def test_chats_are_built_like_the_published_ones(data_dir: Path) -> None:
    published = json.loads((data_dir / "debates/du_gsm/gsm_3_2_100.json").read_text(encoding="utf-8"))
    for question, (contexts, _) in list(published.items())[:10]:
        debate = play(RULES.start(Question("q", question), ["a", "b", "c"]), *(context[1]["content"] for context in contexts))
        for ask, context in zip(RULES.next_asks(debate), contexts, strict=False):
            assert [m.role for m in ask.messages] == [m["role"] for m in context[:3]]
            assert ask.messages[1].content == context[1]["content"]
            assert ask.messages[2].content.count("reply: ```") == context[2]["content"].count("solution: ```") == 2
            assert ask.messages[2].content.count(question) == context[2]["content"].count(question) == 1
            assert len(ask.shown) == 3


def test_what_is_quoted_is_found_again_by_the_reader_of_published_debates(tmp_path: Path) -> None:
    debate = play(play(start(), "It is 1", "It is 2", "It is 3"), "4", "5", "6")
    chats = [[*ask.messages, Message("assistant", t)] for ask, t in zip(RULES.next_asks(debate), "789", strict=True)]
    record = {"How many eggs?": [[[{"role": m.role, "content": m.content} for m in chat] for chat in chats], "#### 18"]}
    (tmp_path / "gsm_3_3.json").write_text(json.dumps(record))
    [read] = import_debates("society", tmp_path / "gsm_3_3.json", TASK).debates
    assert [turn.shown for turn in read.turns] == [turn.shown for turn in play(debate, "7", "8", "9").turns]
